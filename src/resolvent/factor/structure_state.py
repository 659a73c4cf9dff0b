"""A tensor network that may grow: every pair of cores has an edge, most of them of rank 1."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from resolvent.factor.network import TensorNetwork, plan, run
from resolvent.random import gaussian

Edge = tuple[int, int]


class Structure:
    """Cores on the nodes of a complete graph.

    Axis j of core k is the edge to node j, and axis k its own axis of the tensor, of size 1 at nodes that only join
    others. Axes of size 1 cost nothing and are left out of every product.

    Parameters
    ----------
    cores : one for each node, with as many axes as there are nodes
    axes : how many of the nodes, the first, have an axis of the tensor

    Examples
    --------
    >>> state = Structure.of_ranks((2, 3), {(0, 1): 2}, torch.float64, "cpu", torch.Generator().manual_seed(0))
    >>> state.parameters, state.ranks
    (10, {(0, 1): 2})
    """

    def __init__(self, cores: list[Tensor], axes: int) -> None:
        self.cores = cores
        self.axes = axes

    @classmethod
    def of_ranks(
        cls,
        dims: tuple[int, ...],
        ranks: dict[Edge, int],
        dtype: torch.dtype,
        device: torch.device | str,
        generator: torch.Generator,
    ) -> Structure:
        """Random cores whose product has entries of about unit size."""
        n = len(dims)
        cores = []
        for k in range(n):
            shape = [dims[k] if j == k else ranks.get((min(j, k), max(j, k)), 1) for j in range(n)]
            scale = math.prod(shape[:k] + shape[k + 1 :]) ** -0.25
            cores.append(gaussian(shape, dtype, device, generator) * scale)
        return cls(cores, n)

    def renewed(self, generator: torch.Generator) -> Structure:
        """The same ranks with random cores."""
        cores = []
        for k, core in enumerate(self.cores):
            scale = (core.numel() / core.shape[k]) ** -0.25
            cores.append(gaussian(core.shape, core.dtype, core.device, generator) * scale)
        return Structure(cores, self.axes)

    @property
    def has_cycle(self) -> bool:
        """Whether the edges above 1 close a loop."""
        group = list(range(self.nodes))
        for u, v in self.ranks:
            a, b = group[u], group[v]
            if a == b:
                return True
            group = [a if g == b else g for g in group]
        return False

    def copy(self) -> Structure:
        """Same tensors in a list of its own."""
        return Structure(list(self.cores), self.axes)

    @property
    def nodes(self) -> int:
        """How many cores."""
        return len(self.cores)

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.cores[k].shape[k] for k in range(self.axes))

    @property
    def parameters(self) -> int:
        """Numbers in the cores."""
        return sum(core.numel() for core in self.cores)

    @property
    def ranks(self) -> dict[Edge, int]:
        """Of the edges that have more than 1."""
        pairs = itertools.combinations(range(self.nodes), 2)
        return {(u, v): r for u, v in pairs if (r := int(self.cores[u].shape[v])) > 1}

    def cost(self, edge: Edge, step: int) -> int:
        """Numbers that `step` more ranks of an edge add."""
        return sum(step * self.cores[a].numel() // self.cores[a].shape[b] for a, b in (edge, edge[::-1]))

    def can_grow(self, edge: Edge, step: int) -> bool:
        """Whether a larger rank can matter: not where an end has fewer entries on its other axes."""
        return all(
            self.cores[a].numel() // self.cores[a].shape[b] >= self.cores[a].shape[b] + step
            for a, b in (edge, edge[::-1])
        )

    def grown(self, edge: Edge, step: int, generator: torch.Generator) -> Structure:
        """With more ranks on an edge and the same product: zeros at one end, random numbers at the other."""
        u, v = edge
        out = self.copy()
        shape = list(self.cores[u].shape)
        shape[v] = step
        out.cores[u] = torch.cat([self.cores[u], self.cores[u].new_zeros(shape)], v)
        core = self.cores[v]
        shape = list(core.shape)
        shape[u] = step
        size = torch.linalg.vector_norm(core) / math.sqrt(core.numel())
        out.cores[v] = torch.cat([core, size * gaussian(shape, core.dtype, core.device, generator)], u)
        return out

    def labels(self, k: int) -> tuple[str, ...]:
        """Of the axes of core k that are longer than 1."""
        shape = self.cores[k].shape
        return tuple(_name(k, j) for j in range(self.nodes) if shape[j] > 1)

    def environment(self, k: int) -> Tensor:
        """(edges of core k, other axes of the tensor): what multiplies core k."""
        others = [j for j in range(self.nodes) if j != k]
        names = tuple(self.labels(j) for j in others)
        squeezed = [self.cores[j].squeeze() for j in others]
        edges = [_name(k, j) for j in others if self.cores[k].shape[j] > 1]
        free = [_name(j, j) for j in others if j < self.axes and self.cores[j].shape[j] > 1]
        sizes = {
            name: size
            for part, t in zip(names, squeezed, strict=True)
            for name, size in zip(part, t.shape, strict=True)
        }
        # Shapes change at every trial here: beyond a few cores a good path found quickly is worth more than the best.
        steps, _, last = plan(names, tuple(sizes.items()), (*edges, *free), exact=5)
        width = math.prod(self.cores[k].shape) // self.cores[k].shape[k]
        return run(squeezed, steps, last).reshape(width, -1)

    def matrix(self, k: int) -> Tensor:
        """Core k as (its axis of the tensor, its edges)."""
        return self.cores[k].movedim(k, 0).reshape(self.cores[k].shape[k], -1)

    def set_matrix(self, k: int, X: Tensor) -> None:
        """Put core k in place, from its `matrix`."""
        shape = self.cores[k].shape
        self.cores[k] = X.reshape(shape[k], *(s for j, s in enumerate(shape) if j != k)).movedim(0, k)

    def network(self) -> TensorNetwork:
        """Without the axes of size 1, but with all of the tensor."""
        names, cores = [], []
        for k, core in enumerate(self.cores):
            kept = [j for j in range(self.nodes) if core.shape[j] > 1 or (j == k and k < self.axes)]
            names.append(tuple(_name(k, j) for j in kept))
            cores.append(core.reshape([core.shape[j] for j in kept]))
        return TensorNetwork(cores, names, [_name(k, k) for k in range(self.axes)])

    def dense(self) -> Tensor:
        """The tensor; differentiable with respect to the cores."""
        k = max(range(self.axes), key=lambda k: self.cores[k].numel())
        found = self.matrix(k) @ self.environment(k)
        dims = self.dims
        return found.reshape(dims[k], *dims[:k], *dims[k + 1 :]).movedim(0, k)

    def split(self, threshold: float) -> Structure | None:
        """With the one core divided in two by its singular values that saves most numbers, or None.

        Values below `threshold` of the core's norm are cut. The new node is last and has no axis of the tensor. Where it
        has two edges, `merged` puts it into the other end, and the rank of an edge has become smaller.
        """
        best: tuple[int, int, tuple[int, ...], Tensor, Tensor] | None = None
        for k, core in enumerate(self.cores):
            long = [j for j in range(self.nodes) if core.shape[j] > 1]
            for count in range(1, len(long)):
                for away in itertools.combinations([j for j in long if j != k or k >= self.axes], count):
                    stay = [j for j in range(self.nodes) if j not in away]
                    M = core.permute(*stay, *away).reshape(-1, math.prod(core.shape[j] for j in away))
                    q_most = (core.numel() - 1) // sum(M.shape)
                    if q_most < 1:
                        continue
                    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
                    q = max(1, int((s > threshold * torch.linalg.vector_norm(s)).sum()))
                    saved = core.numel() - q * sum(M.shape)
                    if saved > 0 and (best is None or saved > best[0]):
                        root = s[:q].sqrt()
                        best = (saved, k, away, U[:, :q] * root, root[:, None] * Vh[:q])
        return None if best is None else self._divided(*best[1:])

    def _divided(self, k: int, away: tuple[int, ...], left: Tensor, right: Tensor) -> Structure:
        core, q, n = self.cores[k], left.shape[1], self.nodes
        cores = []
        for j, other in enumerate(self.cores):
            # Edges that went to k now go to the new node, the last.
            cores.append(other[..., None].transpose(k, -1) if j in away and j != k else other[..., None])
        stay = [j for j in range(n) if j not in away]
        at_k = left.reshape(*(core.shape[j] for j in stay), *([1] * len(away)), q)
        order = [*stay, *away]
        cores[k] = at_k.permute(*(order.index(j) for j in range(n)), n)
        new = right.reshape(q, *(core.shape[j] for j in away))
        # One axis for every node: the ranks at those that moved, q at k, and 1 elsewhere.
        shape = [core.shape[j] if j in away else q if j == k else 1 for j in range(n)]
        moved = new.permute(
            *([1 + i for i in range(len(away)) if away[i] < k] + [0] + [1 + i for i in range(len(away)) if away[i] > k])
        )
        cores.append(moved.reshape(*shape, 1))
        return Structure(cores, self.axes)

    def merged(self) -> Structure | None:
        """With a node that only joins others put into a neighbour where that holds no more numbers, or None."""
        for v in range(self.axes, self.nodes):
            for u in range(self.nodes):
                a, b = self.cores[u], self.cores[v]
                q = b.shape[u]
                if u != v and a.numel() * b.numel() // (q * q) <= a.numel() + b.numel():
                    return self._joined(u, v)
        return None

    def _joined(self, u: int, v: int) -> Structure:
        # Axis j of u and axis j of v become one, u's first; the same pair becomes one axis at core j.
        rest = [j for j in range(self.nodes) if j != v]
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        mine = list(letters[: self.nodes])
        theirs = list(letters[self.nodes : 2 * self.nodes])
        theirs[u] = mine[v]
        # The own axes are at position u of core u and, of size 1, at position v of core v.
        pairs = [(mine[u], theirs[v]) if j == u else (mine[j], theirs[j]) for j in rest]
        equation = f"{''.join(mine)},{''.join(theirs)}->{''.join(x + y for x, y in pairs)}"
        whole = torch.einsum(equation, self.cores[u], self.cores[v])
        shape = [whole.shape[2 * i] * whole.shape[2 * i + 1] for i in range(len(rest))]
        cores = []
        for j in rest:
            if j == u:
                cores.append(whole.reshape(shape))
                continue
            core = self.cores[j]
            others = [i for i in range(self.nodes) if i not in (u, v)]
            core = core.permute(*others, u, v).reshape(*(core.shape[i] for i in others), -1)
            cores.append(core.movedim(-1, rest.index(u)))
        return Structure(cores, self.axes)


def _name(k: int, j: int) -> str:
    return f"i{k}" if j == k else f"r{min(k, j)}.{max(k, j)}"
