"""Numba kernels for HNSW queries of which only some rows may be answers."""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.search.hnsw_gap_kernel import fetch, gap
from resolvent.search.hnsw_walk_kernel import beam, next_stamp, place
from resolvent.search.kernel import FAST

_AHEAD = 4
# An expansion looks at the lists of blocked neighbours until it has met so many allowed nodes.
_ENOUGH = 16
# Rows that stay in the first cache while all queries meet them.
_TILE_BYTES = 1 << 14


@njit(cache=True, nogil=True, fastmath=FAST)
def filtered_search(
    Q, numbers, rows, l2, graph, begin, turns, allowed, rooms, matches, seen, clock, out, gaps_out, counts
):  # type: ignore[no-untyped-def]
    """For the queries listed in `turns` the best allowed nodes of a walk among allowed nodes.

    `rooms`: (places of the first walk over all nodes, places of the walk over allowed nodes). The first walk goes to the
    neighbourhood of the query; the second steps from allowed node to allowed node, over one blocked node where it must,
    so that no blocked row is read. It has failed when it cannot fill its list (the allowed nodes there do not hang
    together): then both lists are doubled, until half as many gaps are spent as a scan of the `matches` would need. The
    gaps computed are added to `counts`; a count of -1 - gaps says that the walk found too few.
    """
    base, _, first = graph
    starts, start_gaps = begin
    near, room = rooms
    keep, wide = out.shape[1], starts.shape[1]
    most = max(max(near, room) * 64, wide)
    gaps, nodes = np.empty(most + 1, np.float32), np.empty(most + 1, np.int32)
    good_gaps, good = np.empty(most + 1, np.float32), np.empty(most + 1, np.int32)
    fresh = np.empty(base.shape[1] * (base.shape[1] + 1) + 1, np.int32)
    for b in turns:
        q, number, count = Q[b], numbers[b], counts[b]
        factor, found = 1, 0
        while True:
            size = 0
            while size < wide and starts[b, size] >= 0:
                gaps[size], nodes[size] = start_gaps[b, size], starts[b, size]
                size += 1
            stamp = next_stamp(seen, clock)
            size, used = beam(
                q, number, rows, l2, base, (-1, first), size, near * factor, seen, stamp, gaps, nodes, fresh
            )
            stamp = next_stamp(seen, clock)
            found, more = _walk_allowed(
                q,
                number,
                rows,
                l2,
                base,
                allowed,
                room * factor,
                seen,
                stamp,
                gaps,
                nodes,
                size,
                good_gaps,
                good,
                fresh,
            )
            count += used + more
            if found >= min(room * factor, matches) or factor == 64 or 2 * count > matches:
                break
            factor *= 2
        counts[b] = count if found >= min(room * factor, matches) else -1 - count
        for j in range(min(found, keep)):
            out[b, j], gaps_out[b, j] = good[j], good_gaps[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def _walk_allowed(q, number, rows, l2, base, allowed, room, seen, stamp, gaps, nodes, given, good_gaps, good, fresh):  # type: ignore[no-untyped-def]
    """Walk over allowed nodes, starting from the allowed among the given ones and the allowed around the others."""
    data = rows[0]
    size, count = 0, 0
    for i in range(given):
        v = nodes[i]
        seen[v] = stamp
        if allowed[v]:
            _, size = place(good_gaps, good, size, room, gaps[i], v)
    now, start = 0, 0
    while now < size or start < given:
        if start < given:
            # First the lists of the blocked ones among the given nodes; those of the allowed come with the walk.
            node = np.int64(nodes[start])
            start += 1
            if allowed[node]:
                continue
            m = _around(base, node, allowed, seen, stamp, fresh, 0, fresh.shape[0] - 1)
        else:
            node = np.int64(good[now])
            good[now] = ~good[now]
            m = _two_steps(base, node, allowed, seen, stamp, fresh)
        for j in range(min(_AHEAD, m)):
            fetch(data, fresh[j])
        for j in range(m):
            if j + _AHEAD < m:
                fetch(data, fresh[j + _AHEAD])
            d = gap(q, number, rows, l2, fresh[j])
            if size < room or d < good_gaps[size - 1]:
                _, size = place(good_gaps, good, size, room, d, fresh[j])
        count += m
        now = 0
        while now < size and good[now] < 0:
            now += 1
    for j in range(size):
        good[j] = ~good[j] if good[j] < 0 else good[j]
    return size, count


@njit(cache=True, nogil=True)
def _around(base, node, allowed, seen, stamp, fresh, m, most):  # type: ignore[no-untyped-def]
    """Append the new allowed neighbours of a node to `fresh`; their number then."""
    for j in range(base.shape[1]):
        v = base[node, j]
        if v < 0 or m >= most:
            break
        if allowed[v] and seen[v] != stamp:
            seen[v] = stamp
            fresh[m] = v
            m += 1
    return m


@njit(cache=True, nogil=True)
def _two_steps(base, node, allowed, seen, stamp, fresh):  # type: ignore[no-untyped-def]
    """The new allowed nodes one step away, and over blocked ones two steps away."""
    for j in range(base.shape[1]):
        v = base[node, j]
        if v < 0:
            break
        if not allowed[v] and seen[v] != stamp:
            fetch(base, v)
    m = _around(base, node, allowed, seen, stamp, fresh, 0, fresh.shape[0] - 1)
    for j in range(base.shape[1]):
        v = base[node, j]
        if v < 0 or m >= _ENOUGH:
            break
        if not allowed[v] and seen[v] != stamp:
            seen[v] = stamp
            m = _around(base, np.int64(v), allowed, seen, stamp, fresh, m, fresh.shape[0] - 1)
    return m


@njit(cache=True, nogil=True, fastmath=FAST)
def scan_listed(Q, rows, l2, turns, listed, out, gaps_out, counts):  # type: ignore[no-untyped-def]
    """For the queries listed in `turns` the best of the listed rows, exactly; a few rows meet all queries, then the next."""
    data = rows[0]
    n, keep = listed.shape[0], out.shape[1]
    tile = max(8, _TILE_BYTES // (data.shape[1] * data.itemsize))
    sizes = np.zeros(turns.shape[0], np.int64)
    for first in range(0, n, tile):
        last = min(first + tile, n)
        for i in range(first, min(first + _AHEAD, last)):
            fetch(data, listed[i])
        for t in range(turns.shape[0]):
            b = turns[t]
            q, best, gaps, size = Q[b], out[b], gaps_out[b], sizes[t]
            worst = gaps[keep - 1] if size == keep else np.float32(np.inf)
            for i in range(first, last):
                if t == 0 and i + _AHEAD < last:
                    fetch(data, listed[i + _AHEAD])
                d = gap(q, np.float32(0), rows, l2, listed[i])
                if d < worst:
                    _, size = place(gaps, best, size, keep, d, np.int32(listed[i]))
                    worst = gaps[keep - 1] if size == keep else worst
            sizes[t] = size
    for b in turns:
        counts[b] += n
