"""Networks that read weights: linear layers and models equivariant to the permutations of hidden units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resolvent.optim.weight_symmetry import BasisTerm, PermSpec, as_spec, basis_terms
from resolvent.random import GeneratorLike, as_generator

Features = Mapping[str, Tensor]


class _Read(NamedTuple):
    """What a term takes from an input: its diagonals, averaged over all blocks that the output lacks."""

    source: int
    axes: tuple[int, ...]  # equal numbers: a diagonal
    kept: tuple[int, ...]  # the blocks that stay, in the order of the output's


class _Write(NamedTuple):
    """Where a group of terms is added: the diagonals of the output, broadcast over the blocks not read."""

    axes: tuple[int, ...]
    shared: tuple[int, ...]
    reads: tuple[_Read, ...]
    rows: tuple[int, ...]  # of theta


class UNFLayer(nn.Module):
    r"""The general linear map between features of weights that commutes with all permutations of `spec`, and a bias:
    :math:`y_i = b_i + \sum_j \sum_t E_{ijt}(x_j)\, \theta_{ijt}`.

    Parameters
    ----------
    c_in, c_out : channels
    spec : name -> ids of the axes, as `perm_spec` gives them
    generator : of the initial :math:`\theta`, normal of variance 1 / (c_in x terms of the output)

    Notes
    -----
    Each term takes diagonals of its input, averages over the axes that its output lacks, broadcasts over those that only
    the output has, and writes on diagonals. The plan is made once: an average is taken once however many terms need it,
    terms that write alike are one matrix product, and that product comes before the broadcast. So the cost is close to
    that of the pointwise terms, about (entries) x (terms that keep all axes) x c_in x c_out.
    An axis that is fixed is treated as if it were permuted by itself: `EquivariantWeightNet` adds a code of the position
    there, which sets its places apart.

    References
    ----------
    "Universal Neural Functionals"

    Examples
    --------
    >>> layer = UNFLayer(1, 4, {"W": (0, 1), "b": (0,)}, generator=0)
    >>> out = layer({"W": torch.ones(10, 3, 2, 1), "b": torch.ones(10, 3, 1)})
    >>> out["W"].shape, out["b"].shape
    (torch.Size([10, 3, 2, 4]), torch.Size([10, 3, 4]))
    """

    def __init__(
        self, c_in: int, c_out: int, spec: Mapping[str, Sequence[int]], *, generator: GeneratorLike = None
    ) -> None:
        super().__init__()
        for name, value in (("c_in", c_in), ("c_out", c_out)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        self.c_in, self.c_out, self.spec = c_in, c_out, as_spec(spec)
        g = as_generator(generator)
        self._plans = [_plan(self.spec, name) for name in self.spec]
        theta = []
        for plan in self._plans:
            terms = sum(len(write.rows) for write in plan)
            theta.append(nn.Parameter(torch.randn(terms, c_in, c_out, generator=g) / (c_in * terms) ** 0.5))
        self.theta = nn.ParameterList(theta)
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(c_out)) for _ in self._plans)

    def extra_repr(self) -> str:
        terms = sum(len(theta) for theta in self.theta)
        return f"{self.c_in}, {self.c_out}, weights={len(self.spec)}, terms={terms}"

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Map features of weights.

        Parameters
        ----------
        features : name -> (*batch, *shape of the weight, c_in)

        Returns
        -------
        name -> (*batch, *shape of the weight, c_out)
        """
        viewed, batch, shapes = _views(self.spec, features, self.c_in)
        sizes = {
            i: n
            for ids, x in zip(self.spec.values(), viewed, strict=True)
            for i, n in zip(ids, x.shape[1:], strict=False)
        }
        cache: dict[_Read, Tensor] = {}
        out = {}
        for k, (name, ids) in enumerate(self.spec.items()):
            target = [viewed[0].shape[0], *(sizes[i] for i in ids), self.c_out]
            y = _sum_terms(self._plans[k], viewed, cache, self.theta[k], self.bias[k], target)
            out[name] = y.reshape(*batch, *shapes[k], self.c_out)
        return out


class EquivariantWeightNet(nn.Module):
    """A network that reads the weights of other networks, without regard to the order of their hidden units.

    Parameters
    ----------
    perm_spec : name -> ids of the axes, as `perm_spec` gives them
    channels : of the hidden layers
    depth : equivariant layers
    c_in : channels at the input: 1 for weights, more where gradients or momenta come along
    out : numbers that come out, for each network, or for each weight with `invariant=False`
    invariant : True: average each weight's features over all its axes, then a two-layer perceptron; the result does not
        change under permutations. False: a last equivariant layer; the result is permuted as the weights are
    positions : add a learned code to every place of the axes that are fixed, so that inputs, outputs and places in a
        kernel are told apart
    sizes : id -> length of the fixed axes; `perm_spec` has recorded them
    generator : of the initial values

    Notes
    -----
    ReLU between the layers. The paper's invariant head and its positional codes; for a learned optimizer, channels are
    weights, gradients and momenta and the output, `invariant=False`, is added to the momentum's direction.

    References
    ----------
    "Universal Neural Functionals"

    Examples
    --------
    >>> net = EquivariantWeightNet({"W": (0, 1), "b": (0,)}, channels=8, depth=2, generator=0)
    >>> net({"W": torch.ones(10, 3, 2), "b": torch.ones(10, 3)}).shape
    torch.Size([10, 1])
    """

    def __init__(
        self,
        perm_spec: Mapping[str, Sequence[int]],
        channels: int = 16,
        depth: int = 3,
        *,
        c_in: int = 1,
        out: int = 1,
        invariant: bool = True,
        positions: bool = True,
        sizes: Mapping[int, int] | None = None,
        generator: GeneratorLike = None,
    ) -> None:
        super().__init__()
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be an int of at least 1, got {depth!r}")
        self.spec, self.c_in, self.invariant = as_spec(perm_spec), c_in, invariant
        self.channels = channels
        g = as_generator(generator)
        widths = [c_in, *[channels] * depth] + ([] if invariant else [out])
        self.layers = nn.ModuleList(UNFLayer(a, b, self.spec, generator=g) for a, b in pairwise(widths))
        self.codes = nn.ParameterDict()
        if positions and self.spec.fixed:
            known = {**self.spec.lengths, **(sizes or {})}
            missing = sorted(i for i in self.spec.fixed if i not in known)
            if missing:
                raise ValueError(f"sizes must give the length of the fixed axes {missing}, or positions=False")
            for i in sorted(self.spec.fixed):
                if known[i] > 1:
                    self.codes[str(i)] = nn.Parameter(torch.randn(known[i], channels, generator=g) * 0.5)
        self.head = nn.Sequential()
        if invariant:
            self.head = nn.Sequential(
                nn.Linear(channels * len(self.spec), 2 * channels), nn.ReLU(), nn.Linear(2 * channels, out)
            )
            for p in self.head.parameters():
                bound = (p.shape[-1] if p.ndim == 2 else channels) ** -0.5
                with torch.no_grad():
                    p.copy_((2 * torch.rand(p.shape, generator=g) - 1) * bound)

    def forward(self, weights: Features) -> Tensor | dict[str, Tensor]:
        """Read weights.

        Parameters
        ----------
        weights : name -> (*batch, *shape of the weight), with a last axis of channels if `c_in` is above 1

        Returns
        -------
        (*batch, out), or name -> (*batch, *shape of the weight, out) with `invariant=False`.
        """
        x = {name: w if self.c_in > 1 else w.unsqueeze(-1) for name, w in weights.items()}
        for k, layer in enumerate(self.layers):
            x = layer(x)
            if k == 0 and len(self.codes):
                x = self._with_positions(x)
            if k < len(self.layers) - 1 or self.invariant:
                x = {name: torch.relu(y) for name, y in x.items()}
        if not self.invariant:
            return x
        viewed, batch, _ = _views(self.spec, x, self.channels)
        means = [y.flatten(1, -2).mean(1) if y.ndim > 2 else y for y in viewed]
        return self.head(torch.cat(means, -1)).reshape(*batch, -1)

    def _with_positions(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        viewed, batch, shapes = _views(self.spec, x, self.channels)
        out = {}
        for (name, ids), y, shape in zip(self.spec.items(), viewed, shapes, strict=True):
            for dim, i in enumerate(ids):
                if str(i) in self.codes:
                    y = y + self.codes[str(i)].reshape(-1, *[1] * (len(ids) - dim - 1), y.shape[-1])
            out[name] = y.reshape(*batch, *shape, y.shape[-1])
        return out


def _plan(spec: PermSpec, name: str) -> tuple[_Write, ...]:
    """The terms of one output, grouped by where they write."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[_Read, int]]] = defaultdict(list)
    row = 0
    for source, ids in enumerate(spec.values()):
        for term in basis_terms(spec[name], ids):
            axes, shared, read = _place(term, source)
            groups[axes, shared].append((read, row))
            row += 1
    return tuple(
        _Write(axes, shared, tuple(read for read, _ in found), tuple(row for _, row in found))
        for (axes, shared), found in groups.items()
    )


def _place(term: BasisTerm, source: int) -> tuple[tuple[int, ...], tuple[int, ...], _Read]:
    """A term with its blocks numbered so that equal work has an equal key."""
    first: dict[int, int] = {}
    for block in term.out:
        first.setdefault(block, len(first))
    shared = tuple(block for block in first if block in term.inp)
    inner: dict[int, int] = {}
    for block in term.inp:
        inner.setdefault(block, len(inner))
    axes = tuple(inner[block] for block in term.inp)
    return (
        tuple(first[block] for block in term.out),
        tuple(first[block] for block in shared),
        _Read(source, axes, tuple(inner[block] for block in shared)),
    )


def _views(spec: PermSpec, features: Features, channels: int) -> tuple[list[Tensor], torch.Size, list[torch.Size]]:
    """Every weight as (batch, *axes, channels), the leading dimensions and the shapes of the weights."""
    batch: torch.Size | None = None
    viewed, shapes = [], []
    for name, ids in spec.items():
        if name not in features:
            raise ValueError(f"features must have every name of the specification, {name!r} is missing")
        x = features[name]
        if x.ndim < 1 or x.shape[-1] != channels:
            raise ValueError(f"{name} must end in {channels} channels, got shape {tuple(x.shape)}")
        rank = spec.ranks.get(name, len(ids))
        lead = x.ndim - 1 - rank
        if lead < 0 or (batch is not None and x.shape[:lead] != batch):
            raise ValueError(f"{name} must have shape (*batch, {rank} axes, channels), got {tuple(x.shape)}")
        batch = x.shape[:lead]
        shape = x.shape[lead:-1]
        shapes.append(shape)
        viewed.append(x.reshape(batch.numel(), *spec.view(name, shape), channels))
    return viewed, batch if batch is not None else torch.Size(), shapes


def _diagonal(x: Tensor, axes: Sequence[int]) -> Tensor:
    """A view of (batch, *axes, channels) with one dimension for each distinct number, in the order of their first."""
    left = list(axes)
    k = 0
    while k < len(left):
        if left[k] in left[:k]:
            first = left.index(left.pop(k))
            x = x.diagonal(0, first + 1, k + 1).movedim(-1, first + 1)
        else:
            k += 1
    return x


def _pooled(x: Tensor, read: _Read) -> Tensor:
    if len(set(read.axes)) < len(read.axes):
        x = _diagonal(x, read.axes)
    gone = [k + 1 for k in range(x.ndim - 2) if k not in read.kept]
    if gone:
        x = x.mean(gone)
    order = sorted(read.kept)
    return x.permute(0, *[order.index(k) + 1 for k in read.kept], -1)


def _sum_terms(
    plan: tuple[_Write, ...],
    viewed: list[Tensor],
    cache: dict[_Read, Tensor],
    theta: Tensor,
    bias: Tensor,
    target: list[int],
) -> Tensor:
    """All terms of one output."""
    total: Tensor = bias
    later = []
    for write in plan:
        for read in write.reads:
            if read not in cache:
                cache[read] = _pooled(viewed[read.source], read)
        features = torch.cat([cache[read] for read in write.reads], -1)
        part = features @ theta[list(write.rows)].flatten(0, 1)
        blocks = max(write.axes, default=-1) + 1
        for block in range(blocks):
            if block not in write.shared:
                part = part.unsqueeze(block + 1)
        if blocks < len(write.axes):
            later.append((write.axes, part))
        else:
            total = total + part
    total = total.expand(target)
    if later:
        total = total.clone()
    for axes, part in later:
        _diagonal(total, axes).add_(part)
    return total
