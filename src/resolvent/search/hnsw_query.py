"""One batch of queries over an HNSW graph: the plan for its filter, the walk, the second scoring."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from resolvent.search.hits import Found
from resolvent.search.hnsw_build import rows_of
from resolvent.search.hnsw_threads import in_threads, spans
from resolvent.search.kernel import kernel_scale, kernel_view

if TYPE_CHECKING:
    from resolvent.search.hnsw import HNSW

# Sums of squares between these are right in float32.
_TINY, _HUGE = 1e-20, 1e30
# Up to so many matches, and so many more for each place of the walk, are scanned: measured, a row of a walk over matches
# costs as much as ten of a scan, which reads rows in order and for all queries at once; one of an ordinary walk as five.
_SCAN, _SCAN_PER_PLACE, _SCAN_PER_GOOD_PLACE = 2000, 50, 20
# From this share of matches on an ordinary walk finds enough of them with fewer gaps than a walk over matches.
_MOSTLY_ALLOWED = 0.3
_EXTRA = 8
# Places of the walk to the neighbourhood of a query, before the walk over the matches.
_NEAR = 4
# Nodes that a walk takes from one layer to the next: at least so many, and one for so many places.
_WIDE, _PLACES_PER_WIDE = 4, 8
# From so many queries on they are answered in an order in which neighbours follow each other.
_SORTED = 16


class Walk:
    """One batch of queries, answered by several threads.

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
        mostly = self.matches >= _MOSTLY_ALLOWED * n
        if self.matches <= _SCAN + (_SCAN_PER_GOOD_PLACE if mostly else _SCAN_PER_PLACE) * self.room:
            return "scan of the matches"
        return "walk, then filter" if mostly else "walk over the matches"

    def __call__(self, q: np.ndarray, threads: int) -> Found:
        exact, scanned = np.zeros(len(q), np.int64), np.zeros(len(q), np.int64)
        if self.plan == "nothing matches":
            return self._answer(np.empty((len(q), 0), np.int32), np.empty((len(q), 0), np.float32), exact, scanned)
        parts = spans(len(q), 1 if threads == 1 else 4 * threads)
        turns = np.arange(len(q))
        if self.plan == "scan of the matches":
            return self._answer(*self._scan(q, turns, threads, exact), exact, scanned)
        coarse = self.coarse is not None
        nodes, gaps = self._walk(q, parts, threads, scanned if coarse else exact)
        if coarse:
            nodes, gaps = self._score_again(q, nodes, parts, threads, exact)
        nodes, gaps = self._with_heavy(q, nodes, gaps, exact)
        if self.allowed is not None:
            short = np.flatnonzero((nodes[:, : self.keep] < 0).any(1))
            if len(short):
                # Where the walk did not find enough matches, all of them are looked at.
                rows, own = self._scan(q, short, threads, exact)
                nodes[short, : self.keep], gaps[short, : self.keep] = rows[short], own[short]
        return self._answer(nodes[:, : self.keep], gaps[:, : self.keep], exact, scanned)

    def _walk(
        self, q: np.ndarray, parts: list[np.ndarray], threads: int, work: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        from resolvent.search.hnsw_filter_kernel import filtered_search
        from resolvent.search.hnsw_walk_kernel import route, search, shorten

        b, graph, l2 = len(q), self.graph, self.l2
        rows = self.fine if self.coarse is None else self.coarse
        queries, numbers = (q, np.zeros(b, np.float32)) if self.coarse is None else _like_codes(q)
        wide = min(max(_WIDE, self.room // _PLACES_PER_WIDE), max(graph.count, 1))
        begin = np.empty((b, wide), np.int32), np.empty((b, wide), np.float32)
        path, head, lists = np.zeros((b, 2), np.int32), (graph.entry, graph.top), graph.arrays_of_walk
        nodes, gaps = _empty(b, max(self.rerank, self.keep) if self.coarse is not None else self.keep)

        def descend(span: np.ndarray) -> None:
            if self.coarse is not None:
                shorten(q, span, queries, numbers)
            marks = self.index._borrow()
            route(queries, numbers, rows, l2, lists, head, span, *marks, *begin, path, work)
            self.index._free.append(marks)

        in_threads(descend, parts, threads)
        # Queries that came the same way read nearly the same rows: one after the other they find them in the cache.
        turns = np.lexsort((path[:, 1], path[:, 0])) if b >= _SORTED else np.arange(b)
        none = np.empty(0, np.uint8)
        allowed = none if self.allowed is None or self.matches == graph.count else self.allowed
        room = min(math.ceil(self.room * graph.count / self.matches) + (_EXTRA if len(allowed) else 0), graph.count)
        places = (min(_NEAR, self.room), self.room)

        def walk(span: np.ndarray) -> None:
            mine = turns[span[0] : span[1]]
            marks = self.index._borrow()
            if self.plan == "walk over the matches":
                filtered_search(
                    queries, numbers, rows, l2, lists, begin, mine, allowed, places, self.matches, *marks,
                    nodes, gaps, work,
                )  # fmt: skip
            else:
                search(queries, numbers, rows, l2, lists, begin, mine, allowed, room, *marks, nodes, gaps, work)
            self.index._free.append(marks)

        in_threads(walk, parts, threads)
        if self.plan == "walk over the matches":
            failed = work < 0
            nodes[failed], gaps[failed] = -1, np.inf
            work[failed] = -1 - work[failed]
        return nodes, gaps

    def _scan(self, q: np.ndarray, turns: np.ndarray, threads: int, work: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from resolvent.search.hnsw_filter_kernel import scan_listed

        nodes, gaps = _empty(len(q), self.keep)
        listed = np.flatnonzero(self.allowed) if self.allowed is not None else np.arange(self.matches)

        def scan(span: np.ndarray) -> None:
            scan_listed(q, self.fine, self.l2, turns[span[0] : span[1]], listed, nodes, gaps, work)

        in_threads(scan, spans(len(turns), threads), threads)
        return nodes, gaps

    def _score_again(
        self, q: np.ndarray, listed: np.ndarray, parts: list[np.ndarray], threads: int, work: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        from resolvent.search.hnsw_walk_kernel import rescore

        nodes, gaps = _empty(len(q), self.keep)

        def score(span: np.ndarray) -> None:
            rescore(q, self.fine, self.l2, turns[span[0] : span[1]], listed, nodes, gaps, work)

        turns = np.arange(len(q))
        in_threads(score, parts, threads)
        return nodes, gaps

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
        width = nodes.shape[1]
        if width == self.k:
            # A place without a row has an infinite gap.
            return Found(nodes.astype(np.int64), -gaps, exact, scanned)
        rows = np.full((len(nodes), self.k), -1, np.int64)
        scores = np.full((len(nodes), self.k), -np.inf, np.float32)
        rows[:, :width], scores[:, :width] = nodes, -gaps
        return Found(rows, scores, exact, scanned)


def plain_queries(q: Any, dim: int, metric: str) -> np.ndarray | None:
    """The queries (b, d) if they come as float32 arrays that need no more than a glance; None: `as_queries` must look."""
    if not isinstance(q, np.ndarray) or q.dtype != np.float32 or q.ndim not in (1, 2) or not q.flags.c_contiguous:
        return None
    if q.shape[-1] != dim or not len(q):
        return None
    rows = q.reshape(-1, dim)
    flat = q.reshape(-1)
    # NaN and infinity fail this too.
    with np.errstate(over="ignore", invalid="ignore"):
        if not _TINY < np.dot(flat, flat) < _HUGE:
            return None
    if metric != "cosine":
        return rows
    squares = np.einsum("ij,ij->i", rows, rows)
    return rows / np.sqrt(squares)[:, None] if squares.min() > _TINY else None


def _like_codes(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Room for the queries of a first stage and their units."""
    return np.empty(q.shape, np.int16), np.empty(len(q), np.float32)


def _empty(b: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((b, k), -1, np.int32), np.full((b, k), np.inf, np.float32)
