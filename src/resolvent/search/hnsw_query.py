"""One batch of queries over an HNSW graph: the plan for its filter, the walk, the second scoring."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from resolvent.search.hits import Found
from resolvent.search.hnsw_build import rows_of
from resolvent.search.kernel import kernel_scale, kernel_view

if TYPE_CHECKING:
    from resolvent.search.hnsw import HNSW

# Up to so many matches, or so many for each place of the walk, are scanned: a walk reads as many rows, in a worse order.
_SCAN, _SCAN_PER_PLACE = 2000, 20
# From this share of matches on an ordinary walk finds enough of them.
_MOSTLY_ALLOWED = 0.5
_EXTRA = 8


class Walk:
    """A callable that answers a slice of the queries; several threads may call it.

    Parameters
    ----------
    index : built
    k, ef, rerank, allowed : as in `HNSW.query`
    """

    def __init__(self, index: HNSW, k: int, ef: int, rerank: int | None, allowed: np.ndarray | None) -> None:
        self.index, self.k = index, k
        self.graph, self.l2 = index._graph, index.inner == "l2"
        n = self.graph.count
        self.fine = rows_of(index._stored())
        self.matches = n if allowed is None else int(np.count_nonzero(allowed))
        self.keep = min(k, self.matches)
        self.room = min(max(ef, k), max(n, 1))
        self.allowed = None if allowed is None else np.ascontiguousarray(allowed, np.uint8)
        self.rerank = min(max(k, 2 * k + 16 if rerank is None else rerank), self.room)
        codes = index._codes
        self.coarse = None if codes is None else (kernel_view(codes), kernel_scale(codes), codes.square)
        self.plan = self._choose(n)

    def _choose(self, n: int) -> str:
        if self.matches == 0:
            return "nothing matches"
        if self.allowed is None or self.matches == n:
            return "walk"
        if self.matches <= max(_SCAN, _SCAN_PER_PLACE * self.room):
            return "scan of the matches"
        return "walk, then filter" if self.matches >= _MOSTLY_ALLOWED * n else "walk over the matches"

    def __call__(self, q: np.ndarray) -> Found:
        work = np.zeros(len(q), np.int64)
        if self.plan == "nothing matches":
            return self._answer(np.empty((len(q), 0), np.int32), np.empty((len(q), 0), np.float32), work, work.copy())
        if self.plan == "scan of the matches":
            return self._answer(*self._scan(q, work), work, np.zeros_like(work))
        coarse = self.coarse is not None
        columns = max(self.rerank if coarse else self.keep, self.keep)
        seen, clock = self.index._borrow()
        try:
            nodes, gaps = self._walk(q, columns, work, seen, clock)
        finally:
            self.index._free.append((seen, clock))
        exact, scanned = (np.zeros_like(work), work) if coarse else (work, np.zeros_like(work))
        if coarse:
            nodes, gaps = self._score_again(q, nodes, exact)
        nodes, gaps = self._with_heavy(q, nodes, gaps, exact)
        short = (
            np.flatnonzero((nodes[:, : self.keep] < 0).any(1)) if self.allowed is not None else np.empty(0, np.int64)
        )
        if len(short):
            # Where the walk did not find enough matches, all of them are looked at.
            more = np.zeros(len(short), np.int64)
            nodes[short, : self.keep], gaps[short, : self.keep] = self._scan(q[short], more)
            exact[short] += more
        return self._answer(nodes[:, : self.keep], gaps[:, : self.keep], exact, scanned)

    def _walk(
        self, q: np.ndarray, columns: int, work: np.ndarray, seen: np.ndarray, clock: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        from resolvent.search.hnsw_filter_kernel import filtered_search
        from resolvent.search.hnsw_walk_kernel import search

        graph = self.graph
        queries, numbers, rows = (q, np.zeros(len(q), np.float32), self.fine)
        if self.coarse is not None:
            queries, numbers = _short(q)
            rows = self.coarse
        if self.plan == "walk over the matches":
            nodes, gaps = _empty(len(q), columns)
            head, places = (graph.entry, graph.top), (min(32, self.room), self.room)
            filtered_search(
                queries, numbers, rows, self.l2, graph.arrays_of_walk, head, self.allowed, places, self.matches,
                seen, clock, nodes, gaps, work,
            )  # fmt: skip
            failed = work < 0
            nodes[failed] = -1
            work[failed] = -1 - work[failed]
            return nodes, gaps
        share = self.matches / max(graph.count, 1)
        room = min(math.ceil(self.room / share) + (_EXTRA if share < 1 else 0), graph.count)
        nodes, gaps = _empty(len(q), columns if share == 1 else room)
        search(
            queries, numbers, rows, self.l2, graph.arrays_of_walk, graph.entry, graph.top, room, seen, clock,
            nodes, gaps, work,
        )  # fmt: skip
        if share == 1 or self.allowed is None:
            return nodes, gaps
        # A stable sort by "blocked" moves the matches to the front and keeps their order.
        blocked = (nodes < 0) | (self.allowed[nodes] == 0)
        front = np.argsort(blocked, axis=1, kind="stable")[:, :columns]
        nodes[blocked] = -1
        gaps[blocked] = np.inf
        return np.take_along_axis(nodes, front, 1), np.take_along_axis(gaps, front, 1)

    def _scan(self, q: np.ndarray, work: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from resolvent.search.hnsw_filter_kernel import scan_listed

        nodes, gaps = _empty(len(q), self.keep)
        listed = np.flatnonzero(self.allowed) if self.allowed is not None else np.arange(self.matches)
        scan_listed(q, self.fine, self.l2, listed, nodes, gaps, work)
        return nodes, gaps

    def _score_again(self, q: np.ndarray, nodes: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from resolvent.search.hnsw_walk_kernel import rescore

        gaps = np.empty(nodes.shape, np.float32)
        rescore(q, self.fine, self.l2, nodes, gaps, exact)
        best = np.argsort(gaps, axis=1, kind="stable")[:, : self.keep]
        return np.take_along_axis(nodes, best, 1), np.take_along_axis(gaps, best, 1)

    def _with_heavy(
        self, q: np.ndarray, nodes: np.ndarray, gaps: np.ndarray, exact: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are too long for the graph, scored and sorted in."""
        heavy = self.index._heavy
        if self.allowed is not None:
            heavy = heavy[self.allowed[heavy] > 0]
        if not len(heavy):
            return nodes, gaps
        products = q @ self.index._stored().rows(heavy).T
        exact += len(heavy)
        nodes = np.concatenate([nodes, np.broadcast_to(heavy.astype(np.int32), products.shape)], 1)
        gaps = np.concatenate([gaps, -products], 1)
        best = np.argsort(gaps, axis=1, kind="stable")[:, : self.keep]
        return np.take_along_axis(nodes, best, 1), np.take_along_axis(gaps, best, 1)

    def _answer(self, nodes: np.ndarray, gaps: np.ndarray, exact: np.ndarray, scanned: np.ndarray) -> Found:
        rows = np.full((len(nodes), self.k), -1, np.int64)
        scores = np.full((len(nodes), self.k), -np.inf, np.float32)
        width = nodes.shape[1]
        rows[:, :width] = nodes
        scores[:, :width] = np.where(nodes < 0, -np.inf, -gaps)
        return Found(rows, scores, exact, scanned)


def _short(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries as int16 times a float32 unit, so small that their products with a row of codes add up within int32."""
    limit = min(32767, (2**31 - 1) // (127 * q.shape[1]))
    unit = np.abs(q).max(1) / limit
    unit[unit == 0] = 1
    return np.rint(q / unit[:, None]).astype(np.int16), unit.astype(np.float32)


def _empty(b: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((b, k), -1, np.int32), np.full((b, k), np.inf, np.float32)
