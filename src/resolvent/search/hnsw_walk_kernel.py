"""Numba kernels that walk an HNSW graph.

A walk is bound by the latency of memory, not by arithmetic: the rows of a node's neighbours are asked for a few places
ahead of the one being scored, and the links of the node that will probably be next while scores are computed.

Smaller gaps are nearer. `rows` is what a gap is computed from, (data, scale, lift) for a float32 query and
(codes, scale, square) for an int16 one; `graph` is (base, upper, first): links of the ground layer (n, 2M), links of the
layers above (rows, M), and where a node's rows of `upper` begin. Lists end with -1.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from resolvent.search.kernel import FAST, distance, dot, prefetch_bytes
from resolvent.search.rows_kernel import integer_product

_AHEAD = 4


def gap(q, number, rows, l2, row):  # type: ignore[no-untyped-def]
    """How far a row is from the query; only for kernels."""
    raise NotImplementedError


@overload(gap)
def _gap(q, number, rows, l2, row):  # type: ignore[no-untyped-def]
    if q.dtype == types.int16:
        # The codes of a first stage: `number` is the unit of the query, and |q|^2, the same for all rows, is left out.
        def coarse(q, number, rows, l2, row):  # type: ignore[no-untyped-def]
            part = number * rows[1][row] * np.float32(integer_product(q, rows[0], row))  # type: ignore[call-arg]
            return rows[2][row] - 2 * part if l2 else -part

        return coarse

    def fine(q, number, rows, l2, row):  # type: ignore[no-untyped-def]
        if l2:
            return distance(rows[0], rows[1], row, q)
        part = -dot(rows[0], rows[1], row, q)
        # The coordinate that makes all norms equal while the graph is built; `number` is the query's.
        return part - number * rows[2][row] if rows[2].shape[0] else part

    return fine


@njit(cache=True, nogil=True, inline="always")
def _fetch(data, row, size):  # type: ignore[no-untyped-def]
    for at in range(0, size, 64):
        prefetch_bytes(data, row, at)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, inline="always")
def _fetch_links(links, row):  # type: ignore[no-untyped-def]
    for at in range(0, links.shape[1] * 4, 64):
        prefetch_bytes(links, row, at)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, fastmath=FAST)
def descend(q, number, rows, l2, graph, node, top, bottom):  # type: ignore[no-untyped-def]
    """Follow the nearest neighbour through the layers top..bottom; node, its gap, gaps computed."""
    _, upper, first = graph
    data = rows[0]
    size = data.shape[1] * data.itemsize
    best, count = gap(q, number, rows, l2, node), 1
    for layer in range(top, bottom - 1, -1):
        moved = True
        while moved:
            moved = False
            row = first[node] + layer - 1
            for j in range(upper.shape[1]):
                if upper[row, j] < 0:
                    break
                _fetch(data, np.int64(upper[row, j]), size)
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
def beam(q, number, rows, l2, links, start, node, d, room, seen, stamp, gaps, nodes, fresh):  # type: ignore[no-untyped-def]
    """The `room` nearest nodes of a layer that a walk from `node` meets, sorted; their number and the gaps computed.

    One sorted list serves as both heaps of the paper: a candidate that falls off its end could not be expanded any more.
    A node whose links were followed is kept as its complement. `start`: (shift, first) of the rows of `links`.
    """
    shift, first = start
    data = rows[0]
    bytes_ = data.shape[1] * data.itemsize
    gaps[0], nodes[0] = d, node
    seen[node] = stamp
    size, now, count = 1, 0, 0
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
            _fetch(data, np.int64(fresh[j]), bytes_)
        now += 1
        while now < size and nodes[now] < 0:
            now += 1
        if now < size and shift < 0:
            _fetch_links(links, np.int64(nodes[now]))
        worst = gaps[room - 1] if size == room else np.float32(np.inf)
        for j in range(m):
            if j + _AHEAD < m:
                _fetch(data, np.int64(fresh[j + _AHEAD]), bytes_)
            v = fresh[j]
            d = gap(q, number, rows, l2, np.int64(v))
            if d < worst:
                at, size = place(gaps, nodes, size, room, d, v)
                if at <= now:
                    now = at
                    if shift < 0:
                        _fetch_links(links, np.int64(v))
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
def search(Q, numbers, rows, l2, graph, entry, top, room, seen, clock, out, gaps_out, counts):  # type: ignore[no-untyped-def]
    """For each query the best of a walk with `room` places: rows and gaps (as many as `out` has columns), gaps computed."""
    base, _, first = graph
    keep = out.shape[1]
    gaps, nodes = np.empty(room + 1, np.float32), np.empty(room + 1, np.int32)
    fresh = np.empty(base.shape[1] + 1, np.int32)
    for b in range(Q.shape[0]):
        q, number = Q[b], numbers[b]
        node, d, used = descend(q, number, rows, l2, graph, entry, top, 1)
        stamp = next_stamp(seen, clock)
        found, more = beam(q, number, rows, l2, base, (-1, first), node, d, room, seen, stamp, gaps, nodes, fresh)
        counts[b] = used + more
        for j in range(min(found, keep)):
            out[b, j], gaps_out[b, j] = nodes[j], gaps[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def rescore(Q, rows, l2, listed, gaps, counts):  # type: ignore[no-untyped-def]
    """Exact gaps of the listed rows (b, m), -1 for none, in the order of the list."""
    data = rows[0]
    size = data.shape[1] * data.itemsize
    for b in range(Q.shape[0]):
        q = Q[b]
        for j in range(min(2 * _AHEAD, listed.shape[1])):
            _fetch(data, max(np.int64(listed[b, j]), 0), size)
        for j in range(listed.shape[1]):
            if j + 2 * _AHEAD < listed.shape[1]:
                _fetch(data, max(np.int64(listed[b, j + 2 * _AHEAD]), 0), size)
            v = np.int64(listed[b, j])
            if v < 0:
                gaps[b, j] = np.inf
                continue
            gaps[b, j] = gap(q, np.float32(0), rows, l2, v)
            counts[b] += 1
