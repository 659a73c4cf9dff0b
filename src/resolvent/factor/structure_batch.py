"""Many tensor networks of one graph, with different ranks and orders of the axes, fitted at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resolvent.factor.network import Labels, Plan, plan
from resolvent.factor.structure_fit import ridged_factor
from resolvent.factor.structure_state import Edge, Structure
from resolvent.random import gaussian

# Gram matrices from those of the cores have larger errors than rounding; the ridge must cover them.
RIDGE = 1e4


class Point(NamedTuple):
    """One structure.

    Attributes
    ----------
    ranks : of the edges of the graph, in order
    order : which axis of the tensor stands at each of its places

    Examples
    --------
    >>> Point((2, 1, 2), (0, 2, 1)).at(((0, 1), (1, 2), (0, 2)))
    {(0, 2): 2, (0, 1): 2}
    """

    ranks: tuple[int, ...]
    order: tuple[int, ...]

    def at(self, edges: Sequence[Edge]) -> dict[Edge, int]:
        """Ranks above 1 by pairs of axes: equal for points that mean the same network."""
        found = {}
        for (u, v), r in zip(edges, self.ranks, strict=True):
            a, b = self.order[u], self.order[v]
            if r > 1:
                found[min(a, b), max(a, b)] = r
        return found

    def parameters(self, dims: Sequence[int], edges: Sequence[Edge]) -> int:
        """Numbers in all cores.

        Examples
        --------
        >>> Point((2,), (0, 1)).parameters((3, 4), [(0, 1)])
        14
        """
        numbers = [dims[axis] for axis in self.order]
        for (u, v), r in zip(edges, self.ranks, strict=True):
            numbers[u] *= r
            numbers[v] *= r
        return sum(numbers)


class Fit(NamedTuple):
    """The relative error of a structure and the network that has it."""

    error: float
    state: Structure


class Graph:
    """Alternating least squares of networks on one graph, as one batch.

    Parameters
    ----------
    t : (I_1, ..., I_N) tensor
    edges : pairs of places
    mask : of the entries that count, or None

    Notes
    -----
    Cores are padded with zeros to the largest rank of their edge, where they stay zero: what belongs to them has no entry
    in the normal equations. The Gram matrix is contracted from those of the cores where that is cheaper than from their
    product.

    Examples
    --------
    >>> graph = Graph(torch.ones(2, 3, dtype=torch.float64), [(0, 1)])
    >>> points = [Point((1,), (0, 1)), Point((2,), (1, 0))]
    >>> [fit.error < 1e-8 for fit in graph.fit(points, 1, 20, 1e-8, torch.Generator().manual_seed(0))]
    [True, True]
    """

    # Sweeps between two looks at the errors, and the part of the error that these have to gain. Planted rings of ranks
    # up to 4 need 10 to 40 sweeps from random cores; those of too small a rank settle in as many.
    look, gain = 5, 0.05

    def __init__(self, t: Tensor, edges: Sequence[Edge], mask: Tensor | None = None) -> None:
        self.scale = float(torch.linalg.vector_norm(t if mask is None else t[mask]))
        self.t = t / (self.scale or 1.0)
        self.mask = mask
        if mask is not None:
            self.t = torch.where(mask, self.t, torch.zeros_like(t))
        self.edges = list(edges)
        self.dims = tuple(t.shape)
        self.n = t.ndim
        # All orders in one batch, where zeros behind the short axes do not make much of the tensor.
        most = (max(self.dims),) * self.n
        self.alike = most if math.prod(most) <= 8 * t.numel() else None
        self.at = [[i for i, edge in enumerate(self.edges) if p in edge] for p in range(self.n)]

    def fit(
        self, points: Sequence[Point], starts: int, sweeps: int, rtol: float, generator: torch.Generator
    ) -> list[Fit]:
        """The best of several fits of each point, every one from random cores."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, point in enumerate(points):
            dims = self.alike or tuple(self.t.shape[axis] for axis in point.order)
            groups.setdefault(dims, []).append(i)
        found: dict[int, Fit] = {}
        for dims, members in groups.items():
            chosen = [points[i] for i in members]
            found.update(zip(members, self._fit_alike(dims, chosen, starts, sweeps, rtol, generator), strict=True))
        return [found[i] for i in range(len(points))]

    def _fit_alike(
        self,
        dims: tuple[int, ...],
        points: list[Point],
        starts: int,
        sweeps: int,
        rtol: float,
        generator: torch.Generator,
    ) -> list[Fit]:
        """Of points whose permuted tensors have one shape."""
        batch = _Batch(self, dims, points, starts, generator)
        best: list[tuple[float, list[Tensor]]] = [(math.inf, []) for _ in points]
        last = torch.full((len(points) * starts,), math.inf, dtype=self.t.dtype)
        done = 0
        while batch.owner:
            steps = min(self.look, sweeps - done)
            for _ in range(steps):
                batch.sweep()
            done += steps
            errors = batch.errors().cpu()
            values = errors.tolist()
            for b, owner in enumerate(batch.owner):
                if values[b] < best[owner][0] or not best[owner][1]:
                    best[owner] = (values[b], [core[b] for core in batch.cores])
            going = (errors <= (1 - self.gain) * last) & (done < sweeps)
            # One good fit of a point is enough.
            wanted = torch.tensor([best[owner][0] > rtol for owner in batch.owner])
            kept = torch.nonzero(going & wanted)[:, 0]
            last = errors[kept]
            batch.keep(kept.tolist())
        return [Fit(error, self._state(point, cores)) for point, (error, cores) in zip(points, best, strict=True)]

    def _state(self, point: Point, cores: list[Tensor]) -> Structure:
        """Without the padding, cores in the order of the axes."""
        found: list[Tensor] = [self.t] * self.n
        for p, core in enumerate(cores):
            shape = [1] * self.n
            for a, i in enumerate(self.at[p]):
                u, v = self.edges[i]
                core = core.narrow(a, 0, point.ranks[i])
                shape[point.order[v if u == p else u]] = point.ranks[i]
            own = point.order[p]
            # Axes by edges, as they lie, to axes by the places' axes of the tensor.
            ends = [point.order[self.edges[i][1] if self.edges[i][0] == p else self.edges[i][0]] for i in self.at[p]]
            ends.append(own)
            core = core.narrow(-1, 0, self.dims[own])
            shape[own] = core.shape[-1]
            found[own] = core.permute(sorted(range(len(ends)), key=ends.__getitem__)).reshape(shape).clone()
        found[0] = found[0] * (self.scale or 1.0)
        return Structure(found, self.n)


class _Batch:
    """Networks under way: place p has the cores (batch, ranks of its edges, its own axis)."""

    def __init__(
        self, graph: Graph, dims: tuple[int, ...], points: list[Point], starts: int, generator: torch.Generator
    ) -> None:
        self.graph, self.dims = graph, dims
        self.owner = [i for i in range(len(points)) for _ in range(starts)]
        most = [max(point.ranks[i] for point in points) for i in range(len(graph.edges))]
        # The cheapest order of contraction hardly depends on single ranks; one that serves all batches is found once.
        self.sizes = dict.fromkeys((f"{x}{i}" for i in range(len(most)) for x in "rs"), max(most))
        self.sizes |= {f"i{p}": dims[p] for p in range(graph.n)} | {"b": 1}
        t = graph.t
        self.cores = []
        for p in range(graph.n):
            shape = [most[i] for i in graph.at[p]]
            core = gaussian((len(self.owner), *shape, dims[p]), t.dtype, t.device, generator)
            for b, owner in enumerate(self.owner):
                for a, i in enumerate(graph.at[p]):
                    core[b].narrow(a, points[owner].ranks[i], most[i] - points[owner].ranks[i]).zero_()
                core[b][..., graph.dims[points[owner].order[p]] :] = 0
            self.cores.append(core / math.sqrt(math.prod(shape) ** 0.5))
        orders = [point.order for point in points]
        self.shared = len(set(orders)) == 1
        kept = orders[:1] if self.shared else orders
        self.t = torch.stack([self._padded(t.permute(order)) for order in kept])
        self.mask = None
        if graph.mask is not None:
            self.mask = torch.stack([self._padded(graph.mask.permute(order)) for order in kept])
        if not self.shared:
            self.t = self.t[self.owner]
            self.mask = None if self.mask is None else self.mask[self.owner]
        self._plans()

    def _padded(self, t: Tensor) -> Tensor:
        out = t.new_zeros(self.dims)
        out[tuple(slice(d) for d in t.shape)] = t
        return out

    def _labels(self, p: int, edge: str = "r", own: str = "i") -> Labels:
        return ("b", *(f"{edge}{i}" for i in self.graph.at[p]), f"{own}{p}")

    def _plans(self) -> None:
        n, sizes = self.graph.n, tuple(self.sizes.items())
        whole: Labels = (*(() if self.shared else ("b",)), *(f"i{p}" for p in range(n)))
        every = tuple(self._labels(p) for p in range(n))
        # A batch is one more axis of all; the cheapest order does not depend on its length.
        self.dense = plan(every, sizes, ("b", *(f"i{p}" for p in range(n))), exact=6)
        self.around, self.right, self.gram, self.by_cores = [], [], [], []
        for p in range(n):
            others = [q for q in range(n) if q != p]
            edges = tuple(f"r{i}" for i in self.graph.at[p])
            again = tuple(f"s{i}" for i in self.graph.at[p])
            labels = tuple(every[q] for q in others)
            around = plan(labels, sizes, ("b", *edges, *(f"i{q}" for q in others)), exact=6)
            self.around.append(around)
            self.right.append(plan((whole, *labels), sizes, ("b", f"i{p}", *edges), exact=6))
            twins = tuple((*every[q][:-1], *self._labels(q, "s")[1:-1]) for q in others)
            gram = plan(twins, sizes, ("b", *edges, *again), exact=6)
            self.gram.append(gram)
            width = math.prod(self.sizes[e] for e in edges)
            direct = around[1] + width**2 * math.prod(self.dims) // self.dims[p]
            twin = sum(math.prod(self.sizes[e] for e in every[q][1:-1]) ** 2 * self.dims[q] for q in others)
            self.by_cores.append(gram[1] + twin < direct and self.mask is None)

    def sweep(self) -> None:
        """Every core once, as a change of the present one."""
        for p in range(self.graph.n):
            others = [core for q, core in enumerate(self.cores) if q != p]
            core = self.cores[p]
            batch, n_p = core.shape[0], core.shape[-1]
            X = core.reshape(batch, -1, n_p).mT
            if self.mask is None:
                G = self._gram(p, others)
                steps, _, last = self.right[p]
                t = self.t[0] if self.shared else self.t
                right = _run([t, *others], steps, last).reshape(batch, n_p, -1) - X @ G
                X = X + torch.cholesky_solve(right.mT, ridged_factor(G, RIDGE)).mT
            else:
                E = self._environment(p, others)
                W = self.mask.movedim(1 + p, 1).reshape(self.mask.shape[0], n_p, -1).to(E.dtype)
                T = self.t.movedim(1 + p, 1).reshape(self.t.shape[0], n_p, -1)
                right = (W * (T - X @ E)) @ E.mT
                # One row of the core at a time: all Gram matrices at once would hold n_p times as much.
                for i in range(n_p):
                    G = (E * W[:, i, None]) @ E.mT
                    X[:, i] += torch.cholesky_solve(right[:, i, :, None], ridged_factor(G, RIDGE))[..., 0]
            self.cores[p] = X.mT.reshape(core.shape)

    def _environment(self, p: int, others: list[Tensor]) -> Tensor:
        steps, _, last = self.around[p]
        width = math.prod(self.cores[p].shape[1:-1])
        return _run(list(others), steps, last).reshape(others[0].shape[0], width, -1)

    def _gram(self, p: int, others: list[Tensor]) -> Tensor:
        width = math.prod(self.cores[p].shape[1:-1])
        if not self.by_cores[p]:
            E = self._environment(p, others)
            return E @ E.mT
        twins = []
        for core in others:
            M = core.reshape(core.shape[0], -1, core.shape[-1])
            twins.append((M @ M.mT).reshape(core.shape[0], *core.shape[1:-1], *core.shape[1:-1]))
        steps, _, last = self.gram[p]
        return _run(twins, steps, last).reshape(-1, width, width)

    def errors(self) -> Tensor:
        """Relative, of every network."""
        steps, _, last = self.dense
        gap = self.t - _run(list(self.cores), steps, last)
        gap = gap if self.mask is None else torch.where(self.mask, gap, torch.zeros_like(gap))
        return torch.linalg.vector_norm(gap.flatten(1), dim=1)

    def keep(self, kept: list[int]) -> None:
        """Only these."""
        if len(kept) == len(self.owner):
            return
        self.owner = [self.owner[b] for b in kept]
        self.cores = [core[kept] for core in self.cores]
        if not self.shared:
            self.t = self.t[kept]
            self.mask = None if self.mask is None else self.mask[kept]


def _run(tensors: list[Tensor], steps: Plan, last: str) -> Tensor:
    """Contract along a plan, each step as one batched matrix product: einsum takes three times as long to find it."""
    for i, j, equation in steps:
        tensors.append(_product(tensors[i], tensors[j], equation))
    return tensors[-1].permute(_order(last))


def _product(a: Tensor, b: Tensor, equation: str) -> Tensor:
    of_a, of_b, shared, summed, result = _recipe(equation)
    a, b = a.permute(of_a), b.permute(of_b)
    rows, columns = a.ndim - shared - summed, b.ndim - shared - summed
    sizes = (*a.shape[: shared + rows], *b.shape[shared + summed :])
    batch, width = math.prod(a.shape[:shared]), math.prod(a.shape[shared + rows :])
    product = a.reshape(batch, -1, width) @ b.reshape(batch, width, math.prod(b.shape[b.ndim - columns :]))
    return product.reshape(sizes).permute(result)


@functools.lru_cache(maxsize=65536)
def _recipe(equation: str) -> tuple[tuple[int, ...], tuple[int, ...], int, int, tuple[int, ...]]:
    """Orders of the axes of both and of the result that make a sum over axes a batched matrix product."""
    inputs, kept = equation.split("->")
    a, b = inputs.split(",")
    shared = [x for x in a if x in b and x in kept]
    summed = [x for x in a if x in b and x not in kept]
    rows = [x for x in a if x not in b]
    columns = [x for x in b if x not in a]
    of_a = tuple(a.index(x) for x in (*shared, *rows, *summed))
    of_b = tuple(b.index(x) for x in (*shared, *summed, *columns))
    have = [*shared, *rows, *columns]
    return of_a, of_b, len(shared), len(summed), tuple(have.index(x) for x in kept)


@functools.lru_cache(maxsize=65536)
def _order(last: str) -> tuple[int, ...]:
    have, wanted = last.split("->")
    return tuple(have.index(x) for x in wanted)
