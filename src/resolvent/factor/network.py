"""Tensor networks: cores that share axes, contracted along the cheapest path.

>>> import torch
>>> from resolvent import factor
>>> net = factor.TensorNetwork([torch.ones(2, 3), torch.ones(3, 4)], ["ir", "rj"])
>>> net.shape, net.ranks, net.parameters
((2, 4), {'r': 3}, 18)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back

Labels = tuple[str, ...]
Plan = tuple[tuple[int, int, str], ...]

# Cores up to which every order of contraction is looked at: 3^n pairs of subsets.
EXACT = 7


class TensorNetwork:
    """A tensor as a sum over shared axes of a product of cores.

    Parameters
    ----------
    cores : tensors of any numbers of axes
    labels : for each core, one label for each of its axes: a string of letters or a sequence of strings. Axes with
        one label are the same axis; a label that the output lacks is summed over
    output : the labels of the axes of the result, in order; by default those that occur once, as they come

    Raises
    ------
    ValueError : a label has two sizes or stands twice at one core, or `output` names one that no core has

    Notes
    -----
    The order of contraction has the fewest multiplications of all trees of pairs up to 7 cores (a dynamic programme
    over subsets); beyond that the pair whose result is smallest against its parts goes first. It is found once for each
    set of shapes. Every step is one batched matrix product. Differentiable with respect to the cores.

    References
    ----------
    "Faster identification of optimal contraction sequences for tensor networks"

    Examples
    --------
    >>> ring = TensorNetwork([torch.ones(2, 5, 2)] * 3, ["aib", "bjc", "cka"])
    >>> ring.contract()[0, 0, 0], ring.output
    (tensor(8.), ('i', 'j', 'k'))
    """

    def __init__(
        self,
        cores: Sequence[Any],
        labels: Sequence[str | Sequence[str]],
        output: str | Sequence[str] | None = None,
    ) -> None:
        found = [as_tensor(core, f"cores[{i}]") for i, core in enumerate(cores)]
        if not found or len(found) != len(labels):
            raise ValueError(
                f"labels must name the axes of each of the cores, got {len(labels)} for {len(found)} cores"
            )
        dtype = functools.reduce(torch.promote_types, (t.dtype for t, _ in found))
        self._cores = tuple(t.to(dtype) for t, _ in found)
        self._kind: Kind = "numpy" if all(kind == "numpy" for _, kind in found) else "torch"
        self.labels: tuple[Labels, ...] = tuple(tuple(names) for names in labels)
        self._sizes: dict[str, int] = {}
        for i, (t, names) in enumerate(zip(self._cores, self.labels, strict=True)):
            check_finite(t, f"cores[{i}]")
            if len(names) != t.ndim or len(set(names)) != len(names):
                raise ValueError(f"labels[{i}] must be {t.ndim} different labels, got {names}")
            for name, size in zip(names, t.shape, strict=True):
                if self._sizes.setdefault(name, size) != size:
                    raise ValueError(f"label {name!r} has size {self._sizes[name]} and size {size} at cores[{i}]")
        every = [name for names in self.labels for name in names]
        once = tuple(name for name in self._sizes if every.count(name) == 1)
        self.output: Labels = once if output is None else tuple(output)
        if len(set(self.output)) != len(self.output) or not set(self.output) <= set(self._sizes):
            raise ValueError(f"output must name labels of the cores once each, got {self.output}")

    def __repr__(self) -> str:
        ranks = ", ".join(f"{name}={size}" for name, size in self.ranks.items())
        return f"TensorNetwork {'x'.join(map(str, self.shape))}, {len(self._cores)} cores, {ranks or 'no edges'}"

    @property
    def cores(self) -> tuple[Any, ...]:
        """The cores, of the kind that came in."""
        return tuple(t.detach().cpu().numpy() for t in self._cores) if self._kind == "numpy" else self._cores

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that the network stands for."""
        return tuple(self._sizes[name] for name in self.output)

    @property
    def ranks(self) -> dict[str, int]:
        """The size of every axis that is summed over."""
        return {name: size for name, size in self._sizes.items() if name not in self.output}

    @property
    def edges(self) -> dict[str, tuple[int, ...]]:
        """Which cores have each axis that is summed over."""
        return {name: tuple(i for i, names in enumerate(self.labels) if name in names) for name in self.ranks}

    @property
    def parameters(self) -> int:
        """Numbers in the cores."""
        return sum(t.numel() for t in self._cores)

    @property
    def multiplications(self) -> int:
        """Of `contract`, along its path."""
        return plan(self.labels, tuple(self._sizes.items()), self.output)[1]

    def contract(self) -> Any:
        """The tensor itself.

        Examples
        --------
        >>> TensorNetwork([torch.eye(2), torch.tensor([3.0, 4.0])], ["ij", "j"]).contract()
        tensor([3., 4.])
        """
        return give_back(self._contract(), self._kind)

    def inner(self, other: TensorNetwork) -> Any:
        """The inner product with another network of the same shape, and of their dtype; neither tensor is formed.

        Examples
        --------
        >>> net = TensorNetwork([torch.ones(2, 3), torch.ones(3, 4)], ["ir", "rj"])
        >>> net.inner(net)
        tensor(72.)
        """
        if self.shape != other.shape:
            raise ValueError(f"other must have shape {self.shape}, got {other.shape}")
        new = dict(zip(other.output, self.output, strict=True))
        taken = [tuple(new.get(name, f"{name}'") for name in names) for names in other.labels]
        mine = [tuple(name if name in self.output else f"{name}," for name in names) for names in self.labels]
        both = TensorNetwork([*(t.conj() for t in self._cores), *other._cores], [*mine, *taken], ())
        kind: Kind = "numpy" if self._kind == other._kind == "numpy" else "torch"
        return give_back(both._contract(), kind)

    def _contract(self) -> Tensor:
        steps, _, last = plan(self.labels, tuple(self._sizes.items()), self.output)
        return run(list(self._cores), steps, last)


def run(tensors: list[Tensor], steps: Plan, last: str) -> Tensor:
    """Contract along a plan: step (i, j, equation) appends the product of tensors i and j."""
    for i, j, equation in steps:
        tensors.append(torch.einsum(equation, tensors[i], tensors[j]))
    return torch.einsum(last, tensors[-1])


@functools.lru_cache(maxsize=4096)
def plan(
    labels: tuple[Labels, ...], sizes: tuple[tuple[str, int], ...], output: Labels, exact: int = EXACT
) -> tuple[Plan, int, str]:
    """The steps of a contraction, its multiplications, and the equation that orders the last result.

    The cheapest one up to `exact` cores, else a greedy one.
    """
    size = dict(sizes)
    pairs = _best_path(labels, size, output) if len(labels) <= exact else _greedy_path(labels, size, output)
    held: list[Labels] = list(labels)
    alive = set(range(len(labels)))
    steps, cost = [], 0
    for i, j in pairs:
        alive -= {i, j}
        needed = set(output).union(*(held[k] for k in alive))
        union = tuple(dict.fromkeys((*held[i], *held[j])))
        kept = tuple(name for name in union if name in needed)
        cost += math.prod(size[name] for name in union)
        steps.append((i, j, _equation([held[i], held[j]], kept)))
        alive.add(len(held))
        held.append(kept)
    return tuple(steps), cost, _equation([held[-1]], output)


def _equation(inputs: list[Labels], result: Labels) -> str:
    letters: dict[str, str] = {}
    for names in inputs:
        for name in names:
            letters.setdefault(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[len(letters)])
    text = ",".join("".join(letters[name] for name in names) for names in inputs)
    return f"{text}->{''.join(letters[name] for name in result)}"


def _best_path(labels: tuple[Labels, ...], size: dict[str, int], output: Labels) -> list[tuple[int, int]]:
    """By a dynamic programme over the subsets of the cores, as bits."""
    n = len(labels)
    holders: dict[str, int] = {}
    for i, names in enumerate(labels):
        for name in names:
            holders[name] = holders.get(name, 0) | 1 << i
    whole = (1 << n) - 1
    # Axes that a subset still carries: those of the output, and those that reach outside of it.
    carried = {
        subset: frozenset(
            name for name, at in holders.items() if at & subset and (name in output or at & ~subset & whole)
        )
        for subset in range(1, whole + 1)
    }
    for i in range(n):
        carried[1 << i] = frozenset(labels[i])
    best: dict[int, tuple[int, int]] = {1 << i: (0, 0) for i in range(n)}
    for subset in range(1, whole + 1):
        if subset & (subset - 1) == 0:
            continue
        low = subset & -subset
        rest = subset ^ low
        part, found = rest, (-1, 0)
        while True:
            part = (part - 1) & rest
            left = part | low
            right = subset ^ left
            step = math.prod(size[name] for name in carried[left] | carried[right])
            cost = best[left][0] + best[right][0] + step
            if found[0] < 0 or cost < found[0]:
                found = (cost, left)
            if part == 0:
                break
        best[subset] = found
    steps: list[tuple[int, int]] = []

    def visit(subset: int) -> int:
        if subset & (subset - 1) == 0:
            return subset.bit_length() - 1
        left = best[subset][1]
        steps.append((visit(left), visit(subset ^ left)))
        return n + len(steps) - 1

    visit(whole)
    return steps


def _greedy_path(labels: tuple[Labels, ...], size: dict[str, int], output: Labels) -> list[tuple[int, int]]:
    held = {i: frozenset(names) for i, names in enumerate(labels)}
    steps: list[tuple[int, int]] = []
    while len(held) > 1:
        counts: dict[str, int] = {}
        for names in held.values():
            for name in names:
                counts[name] = counts.get(name, 0) + 1
        found: tuple[tuple[bool, int], int, int, frozenset[str]] | None = None
        for i, a in held.items():
            for j, b in held.items():
                if i >= j:
                    continue
                kept = frozenset(x for x in a | b if x in output or counts[x] > (x in a) + (x in b))
                gain = math.prod(size[x] for x in kept) - sum(math.prod(size[x] for x in s) for s in (a, b))
                # Cores that share no axis wait: their product is only ever larger.
                key = (not a & b, gain)
                if found is None or key < found[0]:
                    found = (key, i, j, kept)
        if found is None:
            break
        _, i, j, kept = found
        steps.append((i, j))
        del held[i], held[j]
        held[len(labels) + len(steps) - 1] = kept
    return steps
