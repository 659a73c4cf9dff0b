"""Ranks within a budget: the packing problem behind `core_shape`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packing:
    """Gains of ranks, and what they cost.

    Attributes
    ----------
    squares : for every edge the squared singular values, descending: what each further rank gains
    nodes : the edges that meet at every node
    sizes : of the axis at every node, 1 where there is none; a node holds its size times the ranks of its edges

    Examples
    --------
    >>> star = Packing([np.array([4.0, 1.0]), np.array([3.0, 2.0])], [(0,), (1,), (0, 1)], [2, 2, 1])
    >>> star.parameters((2, 1)), star.packed((2, 1))
    (8, 8.0)
    """

    squares: list[np.ndarray]
    nodes: list[tuple[int, ...]]
    sizes: list[int]

    @property
    def smallest(self) -> int:
        """What all ranks 1 cost."""
        return self.parameters((1,) * len(self.squares))

    @property
    def shapes(self) -> int:
        """How many choices `brute` looks at."""
        return math.prod(len(v) for v in self.squares) // max(len(v) for v in self.squares)

    def parameters(self, ranks: tuple[int, ...]) -> int:
        """Numbers in a network of these ranks."""
        pairs = zip(self.sizes, self.nodes, strict=True)
        return sum(size * math.prod(ranks[e] for e in edges) for size, edges in pairs)

    def packed(self, ranks: tuple[int, ...]) -> float:
        """Sum of the squares that these ranks keep."""
        return float(sum(v[:r].sum() for v, r in zip(self.squares, ranks, strict=True)))

    def greedy(self, budget: int, *, for_each_number: bool) -> tuple[int, ...]:
        """One rank after the other: the largest gain that fits, or the largest for each number that it costs."""
        ranks = [1] * len(self.squares)
        now = self.smallest
        while True:
            best: tuple[float, int, int] | None = None
            for e, v in enumerate(self.squares):
                if ranks[e] == len(v):
                    continue
                ranks[e] += 1
                cost = self.parameters(tuple(ranks))
                ranks[e] -= 1
                gain = float(v[ranks[e]]) / (cost - now if for_each_number else 1)
                if cost <= budget and (best is None or gain > best[0]):
                    best = (gain, e, cost)
            # Ranks that gain nothing would only cost.
            if best is None or best[0] == 0:
                return tuple(ranks)
            _, e, now = best
            ranks[e] += 1

    def brute(self, budget: int) -> tuple[int, ...]:
        """The optimum. The edge with most ranks needs no search: the budget that is left says how many it may take."""
        last = max(range(len(self.squares)), key=lambda e: len(self.squares[e]))
        others = [e for e in range(len(self.squares)) if e != last]
        grids = np.meshgrid(*(np.arange(1, len(self.squares[e]) + 1) for e in others), indexing="ij", sparse=True)
        rank: dict[int, np.ndarray] = dict(zip(others, grids, strict=True))
        gain: np.ndarray = np.zeros(())
        for e in others:
            shape = [1] * len(others)
            shape[others.index(e)] = -1
            gain = gain + self.squares[e].cumsum().reshape(shape)
        fixed, slope = np.zeros((), dtype=np.int64), np.zeros((), dtype=np.int64)
        for size, edges in zip(self.sizes, self.nodes, strict=True):
            cost = np.asarray(size, dtype=np.int64)
            for e in edges:
                cost = cost * rank[e] if e != last else cost
            fixed, slope = (fixed, slope + cost) if last in edges else (fixed + cost, slope)
        most = np.minimum((budget - fixed) // slope, len(self.squares[last]))
        sums = np.concatenate([[-np.inf], self.squares[last].cumsum()])
        # No rank of the last edge fits: not allowed.
        total = np.broadcast_to(gain, most.shape) + sums[np.maximum(most, 0)]
        at = np.unravel_index(int(np.argmax(total)), total.shape)
        found = {e: int(i) + 1 for e, i in zip(others, at, strict=True)} | {last: int(most[at])}
        return self.trimmed(tuple(found[e] for e in range(len(self.squares))))

    def trimmed(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """Without ranks that gain nothing."""
        return tuple(max(1, min(r, int((v > 0).sum()))) for v, r in zip(self.squares, ranks, strict=True))
