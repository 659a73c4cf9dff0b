"""Numba kernels for HNSW queries of which only some rows may be answers."""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.search.hnsw_walk_kernel import _fetch, beam, descend, gap, next_stamp, place
from resolvent.search.kernel import FAST

_AHEAD = 4
# An expansion looks at the lists of blocked neighbours until it has met so many allowed nodes.
_ENOUGH = 32


@njit(cache=True, nogil=True, fastmath=FAST)
def filtered_search(Q, numbers, rows, l2, graph, head, allowed, rooms, budget, seen, clock, out, gaps_out, counts):  # type: ignore[no-untyped-def]
    """For each query the best allowed nodes of a walk among allowed nodes; a count of -1 - gaps: the walk found too few.

    `rooms`: (places of the first walk over all nodes, places of the walk over allowed nodes). The first walk goes to the
    neighbourhood of the query; the second steps from allowed node to allowed node, over one blocked node where it must,
    so that no blocked row is read. It has failed when it cannot fill its list (the allowed nodes there do not hang
    together): then both lists are doubled, until `budget` gaps are spent.
    """
    base, _, first = graph
    near, wide = rooms
    keep = out.shape[1]
    most = max(near, wide) * 64
    gaps, nodes = np.empty(most + 1, np.float32), np.empty(most + 1, np.int32)
    good_gaps, good = np.empty(most + 1, np.float32), np.empty(most + 1, np.int32)
    fresh = np.empty(base.shape[1] * (base.shape[1] + 1) + 1, np.int32)
    matches = 0
    for v in range(allowed.shape[0]):
        matches += allowed[v]
    for b in range(Q.shape[0]):
        q, number = Q[b], numbers[b]
        node, d, count = descend(q, number, rows, l2, graph, head[0], head[1], 1)
        factor, found = 1, 0
        while True:
            stamp = next_stamp(seen, clock)
            size, used = beam(
                q, number, rows, l2, base, (-1, first), node, d, near * factor, seen, stamp, gaps, nodes, fresh
            )
            room = wide * factor
            stamp = next_stamp(seen, clock)
            found, more = _walk_allowed(
                q, number, rows, l2, base, allowed, room, seen, stamp, gaps, nodes, size, good_gaps, good, fresh
            )
            count += used + more
            if found >= min(room, matches) or factor == 64 or 2 * count > budget:
                break
            factor *= 2
        counts[b] = count if found >= min(room, matches) else -1 - count
        for j in range(min(found, keep)):
            out[b, j], gaps_out[b, j] = good[j], good_gaps[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def _walk_allowed(q, number, rows, l2, base, allowed, room, seen, stamp, gaps, nodes, given, good_gaps, good, fresh):  # type: ignore[no-untyped-def]
    """Walk over allowed nodes, starting from the allowed among the given ones and the allowed around the others."""
    data = rows[0]
    bytes_ = data.shape[1] * data.itemsize
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
            _fetch(data, np.int64(fresh[j]), bytes_)
        for j in range(m):
            if j + _AHEAD < m:
                _fetch(data, np.int64(fresh[j + _AHEAD]), bytes_)
            d = gap(q, number, rows, l2, np.int64(fresh[j]))
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
            _fetch(base, np.int64(v), base.shape[1] * 4)
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
def scan_listed(Q, rows, l2, listed, out, gaps_out, counts):  # type: ignore[no-untyped-def]
    """For each query the best of the listed rows, exactly."""
    data = rows[0]
    size = data.shape[1] * data.itemsize
    n = listed.shape[0]
    keep = out.shape[1]
    for b in range(Q.shape[0]):
        q, filled = Q[b], 0
        for i in range(n):
            if i + _AHEAD < n:
                _fetch(data, listed[i + _AHEAD], size)
            d = gap(q, np.float32(0), rows, l2, listed[i])
            if filled < keep or d < gaps_out[b, filled - 1]:
                _, filled = place(gaps_out[b], out[b], filled, keep, d, np.int32(listed[i]))
        counts[b] += n
