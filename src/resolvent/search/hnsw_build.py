"""Inserting rows into an HNSW graph, and taking removed ones out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resolvent.search.hnsw_graph import HNSWGraph
from resolvent.search.hnsw_threads import in_threads, spans, thread_count
from resolvent.search.vectors import Vectors

# A batch is inserted into the graph as it stood before it: small beside the graph, and so that a thread has enough to do.
_BATCH, _SHARE = 512, 16


@dataclass(frozen=True)
class BuildRules:
    """How lists are chosen: the parameters of the same names of `HNSW`."""

    ef_construction: int
    heuristic: bool
    keep_pruned: bool
    extend_candidates: bool
    l2: bool


def rows_of(vectors: Vectors, lift: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the kernels compute gaps from."""
    from resolvent.search.kernel import kernel_scale, kernel_view

    return kernel_view(vectors), kernel_scale(vectors), np.empty(0, np.float32) if lift is None else lift


def insert_rows(
    graph: HNSWGraph, vectors: Vectors, order: np.ndarray, lift: np.ndarray | None, rules: BuildRules
) -> None:
    """Insert the rows listed in `order`, which the graph does not have yet, in that order."""
    if not len(order):
        return
    inside = graph.count
    graph.reserve(len(vectors))
    graph.open(order)
    graph.count = len(vectors)
    _insert_all(graph, vectors, order, lift, rules, inside)


def _insert_all(
    graph: HNSWGraph, vectors: Vectors, order: np.ndarray, lift: np.ndarray | None, rules: BuildRules, inside: int
) -> None:
    threads = thread_count(None)
    room = len(graph.base)
    scratch = [(np.zeros(room, np.uint8), np.zeros(1, np.int64)) for _ in range(threads)]
    rows = rows_of(vectors, lift)
    at = 0
    while at < len(order):
        size = min(_BATCH, max(1, (inside + at) // _SHARE))
        _insert_batch(graph, vectors, order[at : at + size].astype(np.int64), rows, rules, scratch)
        at += size


def _insert_batch(graph, vectors, batch, rows, rules, scratch) -> None:  # type: ignore[no-untyped-def]
    from resolvent.search.hnsw_link_kernel import insert, link_back

    x = vectors.rows(batch)
    threads = len(scratch)
    free = list(scratch)
    head = (graph.entry, graph.top)
    flags = (rules.heuristic, rules.keep_pruned)

    def search(span: np.ndarray) -> None:
        seen, clock = free.pop()
        insert(
            x, batch, span, graph.arrays_of_walk, graph.levels, rows, rules.l2, head, flags,
            rules.ef_construction, rules.extend_candidates, seen, clock,
        )  # fmt: skip
        free.append((seen, clock))

    in_threads(search, spans(len(batch), 1 if len(batch) < 32 else 4 * threads if threads > 1 else 1), threads)
    for links, sources, places, targets in _new_links(graph, batch):

        def link(span: np.ndarray, job=(links, places, targets, sources)) -> None:  # type: ignore[no-untyped-def]
            link_back(*job, span, rows, rules.l2, flags)  # type: ignore[call-arg]

        in_threads(link, _whole_runs(places, threads), threads)
    graph.raise_entry(batch)


def _new_links(graph: HNSWGraph, batch: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """For the ground layer and the layers above: (links, sources, places, targets) of the new lists turned around."""
    jobs = []
    lists = graph.base[batch]
    i, j = np.nonzero(lists >= 0)
    jobs.append((graph.base, batch[i], lists[i, j].astype(np.int64), lists[i, j].astype(np.int64)))
    high = batch[graph.levels[batch] > 0]
    if len(high):
        levels = graph.levels[high].astype(np.int64)
        owner = np.repeat(high, levels)
        layer = np.arange(len(owner)) - np.repeat(np.cumsum(levels) - levels, levels)
        lists = graph.upper[graph.first[owner] + layer]
        i, j = np.nonzero(lists >= 0)
        target = lists[i, j].astype(np.int64)
        jobs.append((graph.upper, owner[i], graph.first[target] + layer[i], target))
    turned: list[tuple[np.ndarray, ...]] = []
    for links, sources, places, targets in jobs:
        by_place = np.argsort(places, kind="stable")
        turned.append((links, sources[by_place].astype(np.int32), places[by_place], targets[by_place]))
    return turned


def _whole_runs(places: np.ndarray, threads: int) -> list[np.ndarray]:
    """Ranges that never cut a run of equal places in two: a list has one writer."""
    if threads == 1 or len(places) < 256:
        return [np.array([0, len(places)])]
    ends = np.linspace(0, len(places), 4 * threads + 1).astype(np.int64)
    ends[1:-1] = np.searchsorted(places, places[ends[1:-1]])
    return [ends[i : i + 2] for i in range(len(ends) - 1) if ends[i] < ends[i + 1]]


def without_dead(
    graph: HNSWGraph,
    vectors: Vectors,
    dead: np.ndarray,
    apart: np.ndarray,
    lift: np.ndarray | None,
    rules: BuildRules,
) -> HNSWGraph:
    """The graph of the living rows, renumbered; `vectors`, `lift` and the rows `apart` from the graph are by old numbers.

    A list with dead nodes is chosen anew from its living nodes and the living nodes that the dead were linked to. Nodes
    that no walk would reach then are inserted again.
    """
    from resolvent.search.hnsw_link_kernel import relink, unreached

    n = graph.count
    threads = thread_count(None)
    live = np.flatnonzero(dead[:n] == 0)
    rows, flags = rows_of(vectors, lift), (rules.heuristic, rules.keep_pruned)
    kept = HNSWGraph(graph.M, graph.seed)
    renumber = np.full(n + 1, -1, np.int32)
    renumber[live] = np.arange(len(live), dtype=np.int32)
    # In each layer apart: a dead node has its own list there.
    levels = graph.levels[:n]
    new_lists = []
    for layer in range(int(levels[live].max(initial=0)) + 1):
        links = graph.base if layer == 0 else graph.upper
        owners = live[levels[live] >= layer]
        hops = np.where(levels >= layer, np.arange(n) if layer == 0 else graph.first[:n] + layer - 1, -1).astype(
            np.int64
        )

        def mend(span: np.ndarray, job=(links, hops[owners], owners, dead), hops=hops) -> np.ndarray:  # type: ignore[no-untyped-def]
            return relink(*job, span, rows, rules.l2, flags, hops)  # type: ignore[call-arg]

        lists = np.concatenate(in_threads(mend, spans(len(owners), threads), threads))
        new_lists.append((owners, renumber[lists]))
    kept.reserve(len(live))
    kept.count = len(live)
    kept.levels[:] = levels[live]
    wide = kept.levels.astype(np.int64)
    kept.used = int(wide.sum())
    kept.first[:] = np.where(wide > 0, np.cumsum(wide) - wide, -1)
    kept.upper = _empty_upper(kept.used, graph.M)
    for layer, (owners, lists) in enumerate(new_lists):
        mine = renumber[owners]
        if layer == 0:
            kept.base[mine] = lists
        else:
            kept.upper[kept.first[mine] + layer - 1] = lists
    inside = np.setdiff1d(np.arange(len(live)), renumber[apart])
    if not len(inside):
        return kept
    kept.raise_entry(inside)
    lost = np.intersect1d(np.flatnonzero(unreached(kept.base, kept.count, kept.entry)), inside)
    left = vectors.keep(live)
    levels = kept.levels[lost]
    kept.levels[lost] = 0
    _insert_all(kept, left, lost, None if lift is None else lift[live], rules, len(live))
    kept.levels[lost] = levels
    return kept


def _empty_upper(n: int, width: int) -> np.ndarray:
    return np.full((n, width), -1, np.int32)
