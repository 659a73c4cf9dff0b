"""Numba kernels that walk an HNSW graph.

A walk is bound by the latency of memory, not by arithmetic: the rows of a node's neighbours are asked for a few places
ahead of the one being scored, and the links of the node that will probably be next while scores are computed.

Smaller gaps are nearer. `rows` is what a gap is computed from, (data, scale, lift) for a float32 query and
(codes, scale, square) for an int16 one; `graph` is (base, upper, first): links of the ground layer (n, 2M), links of the
layers above (rows, M), and where a node's rows of `upper` begin. Lists end with -1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.search.hnsw_gap_kernel import fetch, gap
from resolvent.search.kernel import FAST

_AHEAD = 4
# A walk that met too few allowed rows is repeated with up to so many times the places.
_DOUBLED = 8


@njit(cache=True, nogil=True, fastmath=FAST)
def descend(q, number, rows, l2, graph, node, top, bottom):  # type: ignore[no-untyped-def]
    """Follow the nearest neighbour through the layers top..bottom; node, its gap, gaps computed."""
    _, upper, first = graph
    data = rows[0]
    best, count = gap(q, number, rows, l2, node), 1
    for layer in range(top, bottom - 1, -1):
        moved = True
        while moved:
            moved = False
            row = first[node] + layer - 1
            for j in range(upper.shape[1]):
                if upper[row, j] < 0:
                    break
                fetch(data, upper[row, j])
            for j in range(upper.shape[1]):
                v = np.int64(upper[row, j])
                if v < 0:
                    break
                count += 1
                d = gap(q, number, rows, l2, v)
                if d < best:
                    best, node, moved = d, v, True
    return node, best, count


@njit(cache=True, nogil=True, inline="always")
def place(gaps, nodes, size, room, d, v):  # type: ignore[no-untyped-def]
    """Put a node into a list sorted by gap; where it went and the new size. The last one of a full list leaves."""
    # Counting all entries is faster than a binary search: no branch to predict wrongly.
    position = np.int32(0)
    for t in range(size):
        position += np.int32(gaps[t] <= d)
    at = np.int64(position)
    grown = min(size + 1, room)
    t = grown - 1
    while t > at:
        gaps[t], nodes[t] = gaps[t - 1], nodes[t - 1]
        t -= 1
    gaps[at], nodes[at] = d, v
    return at, grown


@njit(cache=True, nogil=True, fastmath=FAST)
def beam(q, number, rows, l2, links, start, size, room, seen, stamp, gaps, nodes, fresh):  # type: ignore[no-untyped-def]
    """The `room` nearest nodes of a layer that a walk meets, sorted; their number and the gaps computed.

    The walk begins at the first `size` entries of `nodes`, sorted. One sorted list serves as both heaps of the paper: a
    candidate that falls off its end could not be expanded any more. A node whose links were followed is kept as its
    complement. `start`: (shift, first) of the rows of `links`.
    """
    shift, first = start
    data = rows[0]
    for j in range(size):
        seen[nodes[j]] = stamp
    size = min(size, room)
    now, count = 0, 0
    while now < size:
        node = np.int64(nodes[now])
        nodes[now] = ~nodes[now]
        row = node if shift < 0 else first[node] + shift
        m = 0
        for j in range(links.shape[1]):
            v = links[row, j]
            if v < 0:
                break
            fresh[m] = v
            m += seen[v] != stamp
            seen[v] = stamp
        for j in range(min(_AHEAD, m)):
            fetch(data, fresh[j])
        now += 1
        while now < size and nodes[now] < 0:
            now += 1
        if now < size and shift < 0:
            fetch(links, nodes[now])
        worst = gaps[room - 1] if size == room else np.float32(np.inf)
        for j in range(m):
            if j + _AHEAD < m:
                fetch(data, fresh[j + _AHEAD])
            v = fresh[j]
            d = gap(q, number, rows, l2, v)
            if d < worst:
                at, size = place(gaps, nodes, size, room, d, v)
                if at <= now:
                    now = at
                    if shift < 0:
                        fetch(links, v)
                if size == room:
                    worst = gaps[room - 1]
        count += m
        while now < size and nodes[now] < 0:
            now += 1
    for j in range(size):
        nodes[j] = ~nodes[j]
    return size, count


@njit(cache=True, nogil=True)
def next_stamp(seen, clock):  # type: ignore[no-untyped-def]
    """A byte that no entry of `seen` carries; all are wiped once in 255 walks."""
    clock[0] += 1
    if clock[0] == 256:
        seen[:] = 0
        clock[0] = 1
    return np.uint8(clock[0])


@njit(cache=True, nogil=True, fastmath=FAST)
def route(Q, numbers, rows, l2, graph, head, span, seen, clock, starts, gaps_out, path, counts):  # type: ignore[no-untyped-def]
    """Walk through the upper layers: for queries span[0]..span[1]-1 where the walk in the ground layer begins.

    Each layer is left with as many nodes as `starts` has columns (-1 after the end), sorted: with one alone, which is the
    paper's way, a query may come down in the wrong cluster. `path` (b, 2): the nearest nodes in layers 2 and 1. Queries
    with the same path read nearly the same rows.
    """
    base, upper, first = graph
    entry, top = head
    wide = starts.shape[1]
    gaps, nodes = np.empty(wide + 1, np.float32), np.empty(wide + 1, np.int32)
    fresh = np.empty(base.shape[1] + 1, np.int32)
    for b in range(span[0], span[1]):
        q, number = Q[b], numbers[b]
        gaps[0], nodes[0] = gap(q, number, rows, l2, entry), entry
        size, count = 1, 1
        for layer in range(top, 0, -1):
            stamp = next_stamp(seen, clock)
            size, used = beam(
                q, number, rows, l2, upper, (layer - 1, first), size, wide, seen, stamp, gaps, nodes, fresh
            )
            count += used
            if layer <= 2:
                path[b, 2 - layer] = nodes[0]
        counts[b] = count
        for j in range(wide):
            starts[b, j] = nodes[j] if j < size else -1
            gaps_out[b, j] = gaps[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def search(Q, numbers, rows, l2, graph, begin, turns, allowed, room, seen, clock, out, gaps_out, counts):  # type: ignore[no-untyped-def]
    """For the queries listed in `turns` the best of a walk with `room` places, as many as `out` has columns.

    `begin`: (starts, their gaps) of `route`. `allowed`: only rows with a byte of 1 are answers, and the places are doubled
    until there are enough of them; empty if all are. The gaps computed are added to `counts`.
    """
    base, _, first = graph
    starts, start_gaps = begin
    keep, wide = out.shape[1], starts.shape[1]
    filtered = allowed.shape[0] > 0
    most = min(_DOUBLED * room, base.shape[0]) if filtered else room
    gaps, nodes = np.empty(max(most, wide) + 1, np.float32), np.empty(max(most, wide) + 1, np.int32)
    fresh = np.empty(base.shape[1] + 1, np.int32)
    for b in turns:
        q, number, places, kept = Q[b], numbers[b], room, 0
        while True:
            size = 0
            while size < wide and starts[b, size] >= 0:
                gaps[size], nodes[size] = start_gaps[b, size], starts[b, size]
                size += 1
            stamp = next_stamp(seen, clock)
            found, more = beam(q, number, rows, l2, base, (-1, first), size, places, seen, stamp, gaps, nodes, fresh)
            counts[b] += more
            kept = 0
            for j in range(found):
                if kept == keep:
                    break
                if not filtered or allowed[nodes[j]]:
                    out[b, kept], gaps_out[b, kept] = nodes[j], gaps[j]
                    kept += 1
            if kept == keep or not filtered or places == most:
                break
            places = min(2 * places, most)


@njit(cache=True, nogil=True, fastmath=FAST)
def rescore(Q, rows, l2, turns, listed, out, gaps_out, counts):  # type: ignore[no-untyped-def]
    """The best of the listed rows (b, m), -1 for none, by exact gaps, for the queries listed in `turns`."""
    data = rows[0]
    keep, many = out.shape[1], listed.shape[1]
    for b in turns:
        q, best, gaps, size = Q[b], out[b], gaps_out[b], 0
        for j in range(min(2 * _AHEAD, many)):
            fetch(data, max(listed[b, j], np.int32(0)))
        for j in range(many):
            if j + 2 * _AHEAD < many:
                fetch(data, max(listed[b, j + 2 * _AHEAD], np.int32(0)))
            v = listed[b, j]
            if v < 0:
                break
            d = gap(q, np.float32(0), rows, l2, v)
            counts[b] += 1
            if size < keep or d < gaps[size - 1]:
                _, size = place(gaps, best, size, keep, d, v)


@njit(cache=True, nogil=True)
def shorten(Q, span, out, units):  # type: ignore[no-untyped-def]
    """Queries as int16 times a unit, so small that their products with a row of codes add up within int32."""
    limit = min(32767, (2**31 - 1) // (127 * Q.shape[1]))
    for b in range(span[0], span[1]):
        largest = np.float32(0)
        for j in range(Q.shape[1]):
            largest = max(largest, abs(Q[b, j]))
        units[b] = largest / np.float32(limit) if largest > 0 else np.float32(1)
        for j in range(Q.shape[1]):
            out[b, j] = np.int16(np.rint(Q[b, j] / units[b]))
