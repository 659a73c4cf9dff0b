"""Ranks of a given graph, and the order of the axes on it, by enumerating one variable after the other, or by sampling."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from resolvent.factor.structure_batch import Fit, Point
from resolvent.factor.structure_state import Edge

# A structure of more times the numbers of the tensor is not fitted.
LARGEST = 10.0


def joined(topology: str | Sequence[Edge], n: int) -> tuple[Edge, ...]:
    """The pairs of places that a topology joins.

    Examples
    --------
    >>> joined("ring", 4)
    ((0, 1), (1, 2), (2, 3), (0, 3))
    """
    if isinstance(topology, str):
        if topology not in ("ring", "train", "full"):
            raise ValueError(f"topology must be ring, train, full or pairs of places, got {topology!r}")
        if topology == "full":
            return tuple(itertools.combinations(range(n), 2))
        train = tuple((i, i + 1) for i in range(n - 1))
        return (*train, (0, n - 1)) if topology == "ring" and n > 2 else train
    try:
        edges = tuple((min(u, v), max(u, v)) for u, v in topology)
    except (TypeError, ValueError):
        raise ValueError(f"topology must be ring, train, full or pairs of places, got {topology!r}") from None
    if not edges or len(set(edges)) != len(edges) or any(not 0 <= u < v < n for u, v in edges):
        raise ValueError(f"topology must hold different pairs of places from 0 to {n - 1}, got {topology!r}")
    return edges


class Enough(Exception):  # It ends a search that has what it was asked for: no error.
    """A network within the tolerance has few enough numbers."""


@dataclass
class Enumeration:
    """A search over ranks and orders that fits every structure once and counts what it looks at.

    Attributes
    ----------
    fit : errors and networks of points
    dims : shape of the tensor
    edges : of the graph, between places
    most : largest rank
    weight : of the squared relative error beyond `rtol` against the share of numbers
    rtol : errors below count as zero
    enough : numbers of a network within `rtol` that end the search, or None
    permute : whether the order of the axes is a variable
    generator : randomness
    found : what was fitted, by the ranks of the pairs of axes
    visits : how many candidates each round looked at, known ones included
    """

    fit: Callable[[list[Point]], list[Fit]]
    dims: tuple[int, ...]
    edges: tuple[Edge, ...]
    most: int
    weight: float
    rtol: float
    enough: int | None
    permute: bool
    generator: torch.Generator
    found: dict[frozenset[tuple[Edge, int]], Fit] = field(default_factory=dict)
    visits: list[int] = field(default_factory=list)

    def errors(self, points: Sequence[Point]) -> list[float]:
        """Relative errors; infinite for structures that are far larger than the tensor."""
        points = [self.needed(point) for point in points]
        keys = [frozenset(point.at(self.edges).items()) for point in points]
        new: dict[frozenset[tuple[Edge, int]], Point] = {}
        for key, point in zip(keys, points, strict=True):
            if key not in self.found and self.share(point) <= LARGEST:
                new.setdefault(key, point)
        for key, fit in zip(new, self.fit(list(new.values())) if new else [], strict=True):
            self.found[key] = fit
        good = (self.found[key] for key in new if self.found[key].error <= self.rtol)
        if self.enough is not None and any(fit.state.parameters <= self.enough for fit in good):
            raise Enough
        return [self.found[key].error if key in self.found else math.inf for key in keys]

    def needed(self, point: Point) -> Point:
        """Without ranks above the product of the other axes of a core, which add nothing to what the network can be."""
        ranks = list(point.ranks)
        at = [[k for k, edge in enumerate(self.edges) if p in edge] for p in range(len(self.dims))]
        while True:
            before = list(ranks)
            for p, own in enumerate(point.order):
                for k in at[p]:
                    others = math.prod(ranks[j] for j in at[p] if j != k)
                    ranks[k] = min(ranks[k], self.dims[own] * others)
            if ranks == before:
                return point._replace(ranks=tuple(ranks))

    def share(self, point: Point) -> float:
        """Numbers in the cores over entries of the tensor."""
        return point.parameters(self.dims, self.edges) / math.prod(self.dims)

    def excess(self, error: float) -> float:
        """Squared relative error beyond `rtol`."""
        return max(0.0, error * error - self.rtol * self.rtol)

    def smallest(self) -> Fit:
        """The one of fewest numbers within `rtol` of all that were fitted, or else the nearest."""
        if not self.found:
            # All that was looked at is far larger than the tensor.
            self.errors([Point((1,) * len(self.edges), tuple(range(len(self.dims))))])
        return min(
            self.found.values(),
            key=lambda fit: (fit.state.parameters, fit.error) if fit.error <= self.rtol else (math.inf, fit.error),
        )

    def start(self) -> Point:
        """Any ranks, the axes in any order if that is a variable."""
        n = len(self.dims)
        ranks = tuple(1 + self._drawn(self.most) for _ in self.edges)
        if not self.permute:
            return Point(ranks, tuple(range(n)))
        device = self.generator.device
        return Point(ranks, tuple(torch.randperm(n, generator=self.generator, device=device).tolist()))

    def repeat(self, starts: int, search: Callable[[], None]) -> None:
        """Search from one start after the other, until there is a network that is small enough."""
        with contextlib.suppress(Enough):
            for _ in range(starts):
                search()

    def alternating(self, radius: tuple[int, int], coarse: int, rounds: int, patience: int) -> None:
        """Round trips over the variables in the neighbourhood of the best point, coarse ones first."""
        centre, least, stuck = self.start(), math.inf, 0
        escape = False
        for turn in range(rounds):
            wide = turn < coarse and radius[0] > 1
            windows = self.windows(centre, radius[0] if turn < coarse else radius[1])
            value, point = self._round_trip(centre, windows, wide, escape, turn > 0)
            if value < least:
                # A round from anywhere in the neighbourhood may only replace what it improves.
                centre, least, stuck, escape = point, value, 0, False
            else:
                # Each variable is at its best for the others: go on from a random point of the neighbourhood.
                stuck, escape = stuck + 1, True
            if stuck > patience and turn >= coarse:
                break

    def _round_trip(
        self, centre: Point, windows: list[list[Point]], wide: bool, escape: bool, known: bool
    ) -> tuple[float, Point]:
        """The best point that setting one variable after the other, forth and back, comes by, and its value."""
        last = len(windows) - 1
        point = self._anywhere(centre, windows) if escape else centre
        best: tuple[float, Point] | None = None
        unchanged = 0
        self.visits.append(0)
        for k in [*range(last + 1), *range(last - 1, -1, -1)]:
            near = [_moved(point, other, k) for other in windows[k]]
            value, point = self._interpolated(near) if wide and k < len(self.edges) else self._best(near)
            if best is None or value <= best[0]:
                best = (value, point)
            unchanged = unchanged + 1 if point == centre else 0
            if known and unchanged == last + 1 and k != 0:
                # Every variable has confirmed the centre; the way back would look at the same points again.
                break
        if best is None:
            raise ValueError("edges must hold at least one pair of places")
        return best

    def _best(self, near: list[Point]) -> tuple[float, Point]:
        self.visits[-1] += len(near)
        values = [self.share(p) + self.weight * self.excess(e) for p, e in zip(near, self.errors(near), strict=True)]
        i = min(range(len(near)), key=values.__getitem__)
        return values[i], near[i]

    def _interpolated(self, near: list[Point]) -> tuple[float, Point]:
        """Only the ends and the middle are fitted; the squared errors between them are taken from straight lines."""
        known = sorted({0, (len(near) - 1) // 2, len(near) - 1})
        self.visits[-1] += len(known)
        excess = [self.excess(e) for e in self.errors([near[i] for i in known])]
        values = {i: self.share(near[i]) + self.weight * e for i, e in zip(known, excess, strict=True)}
        for (a, x), (b, y) in itertools.pairwise(zip(known, excess, strict=True)):
            for i in range(a + 1, b):
                guess = math.inf if math.inf in (x, y) else x + (y - x) * (i - a) / (b - a)
                values[i] = self.share(near[i]) + self.weight * guess
        i = min(values, key=lambda i: values[i])
        return values[i], near[i]

    def windows(self, centre: Point, radius: int) -> list[list[Point]]:
        """The neighbourhood of each variable: 2 radius + 1 ranks, moved inside the limits, and exchanges of two axes."""
        found = []
        for k, r in enumerate(centre.ranks):
            low = max(1, min(r - radius, self.most - 2 * radius))
            high = min(self.most, low + 2 * radius)
            found.append(
                [centre._replace(ranks=(*centre.ranks[:k], x, *centre.ranks[k + 1 :])) for x in range(low, high + 1)]
            )
        if self.permute:
            found.append([centre, *(self._exchanged(centre, i, j) for i, j in _pairs(len(centre.order)))])
        return found

    @staticmethod
    def _exchanged(point: Point, i: int, j: int) -> Point:
        order = list(point.order)
        order[i], order[j] = order[j], order[i]
        return point._replace(order=tuple(order))

    def _anywhere(self, centre: Point, windows: list[list[Point]]) -> Point:
        """Another point of the neighbourhood; the first variable is enumerated next, and stays."""
        free = [k for k in range(1, len(windows)) if len(windows[k]) > 1]
        point = centre
        while free and point == centre:
            for k in free:
                point = _moved(point, windows[k][self._drawn(len(windows[k]))], k)
        return point

    def sampling(self, samples: int, rounds: int, patience: int) -> None:
        """The baseline: random neighbours, all ranks and the order changed at once, and a move to the best of them."""
        centre, stuck = self.start(), 0
        self.visits.append(0)
        least, _ = self._best([centre])
        for turn in range(rounds):
            self.visits.append(0)
            value, point = self._best([self._neighbour(centre, 0.9**turn, 0.94**turn) for _ in range(samples)])
            stuck = 0 if value < least else stuck + 1
            if value <= least:
                centre, least = point, value
            if stuck > patience:
                break

    def _neighbour(self, point: Point, spread: float, chance: float) -> Point:
        """Every rank moved by a rounded normal number, away from its limits, and perhaps two axes exchanged."""
        device = self.generator.device
        noise = torch.randn(len(self.edges), generator=self.generator, device=device, dtype=torch.float64)
        ranks = []
        for r, step in zip(point.ranks, (spread * noise).round().int().tolist(), strict=True):
            step = abs(step) if r == 1 else -abs(step) if r == self.most else step
            ranks.append(min(self.most, max(1, r + step)))
        moved = Point(tuple(ranks), point.order)
        pairs = _pairs(len(self.dims))
        if self.permute and float(torch.rand((), generator=self.generator, device=device)) < chance:
            return self._exchanged(moved, *pairs[self._drawn(len(pairs))])
        return moved

    def _drawn(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.generator, device=self.generator.device))


def _pairs(n: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(n), 2))


def _moved(point: Point, other: Point, k: int) -> Point:
    """With variable k, a rank or after them the order, of another point."""
    if k == len(point.ranks):
        return point._replace(order=other.order)
    return point._replace(ranks=(*point.ranks[:k], other.ranks[k], *point.ranks[k + 1 :]))
