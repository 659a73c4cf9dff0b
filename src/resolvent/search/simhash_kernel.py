"""Numba kernel of hash tables over the signs of projections: buckets in the order of their distance from the query."""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.search.kernel import (
    FAST,
    distance,
    dot,
    heap_offer,
    heap_pop_worst,
    heap_push_worst,
    heap_sort_worst,
    prefetch,
)

_AHEAD = 4


@njit(cache=True, nogil=True)
def pack(projections, bits, codes):  # type: ignore[no-untyped-def]
    """Codes (tables, n) of the signs of projections (n, tables * bits): bit j is set where projection j is positive."""
    for i in range(projections.shape[0]):
        for t in range(codes.shape[0]):
            code = np.uint32(0)
            for j in range(bits):
                code |= np.uint32(projections[i, t * bits + j] > 0) << np.uint32(j)
            codes[t, i] = code


@njit(cache=True, nogil=True, fastmath=FAST)
def consider(data, scale, l2, q, row, allowed, keys, values, size, k):  # type: ignore[no-untyped-def]
    """Score a row and keep it if it is among the best k. Returns the new size and whether it was scored."""
    if allowed.shape[0] and not allowed[row]:
        return size, 0
    score = -distance(data, scale, row, q) if l2 else dot(data, scale, row, q)
    return heap_offer(keys, values, size, k, score, row), 1


@njit(cache=True, nogil=True)
def _order_margins(projections, bits, tables, order, margins):  # type: ignore[no-untyped-def]
    """For each table its bits by the squared distance of the query from their hyperplane, ascending."""
    for t in range(tables):
        part = projections[t * bits : (t + 1) * bits]
        best = np.argsort(np.abs(part))
        for j in range(bits):
            order[t, j] = best[j]
            margins[t, j] = part[best[j]] ** 2


@njit(cache=True, nogil=True)
def _successors(cost, value, margins, bits, keys, values, size):  # type: ignore[no-untyped-def]
    """The two sets of bits that follow a set in the order of sums: its last bit moved on, and one bit more.

    A set is a mask over the table's bits in ascending order of margin; every set has one predecessor, so none comes twice.
    """
    t, mask = value >> 32, value & 0xFFFFFFFF
    if mask == 0:
        return heap_push_worst(keys, values, size, margins[t, 0], (t << 32) | 1)
    last = 0
    while mask >> (last + 1):
        last += 1
    if last + 1 < bits:
        wider = mask | (1 << (last + 1))
        size = heap_push_worst(keys, values, size, cost + margins[t, last + 1], (t << 32) | wider)
        moved = wider ^ (1 << last)
        size = heap_push_worst(keys, values, size, cost + margins[t, last + 1] - margins[t, last], (t << 32) | moved)
    return size


@njit(cache=True, nogil=True, fastmath=FAST)
def search(data, scale, l2, Q, projections, bits, codes, rows, probes, allowed, out, scores, counts):  # type: ignore[no-untyped-def]
    """The best rows among those in the `probes` nearest buckets of all tables together.

    `counts` (b, 2) gets the rows scored and the entries of buckets read.
    """
    tables, n = codes.shape
    k = out.shape[1]
    seen = np.zeros(n, np.uint8)
    stamp = 0
    order, margins = np.empty((tables, bits), np.int64), np.empty((tables, bits), np.float32)
    room = tables + 2 * probes + 2
    costs, sets = np.empty(room, np.float32), np.empty(room, np.int64)
    keys, values = np.empty(k, np.float32), np.empty(k, np.int64)
    own = np.empty((1, tables), np.uint32)
    for b in range(Q.shape[0]):
        stamp += 1
        if stamp == 256:
            seen[:] = 0
            stamp = 1
        q = Q[b]
        pack(projections[b : b + 1], bits, own.T)
        _order_margins(projections[b], bits, tables, order, margins)
        waiting, size = 0, 0
        for t in range(tables):
            waiting = heap_push_worst(costs, sets, waiting, np.float32(0), t << 32)
        probed = 0
        while waiting and probed < probes:
            waiting = heap_pop_worst(costs, sets, waiting)
            cost, value = costs[waiting], sets[waiting]
            t, mask = value >> 32, value & 0xFFFFFFFF
            code = own[0, t]
            for j in range(bits):
                if (mask >> j) & 1:
                    code ^= np.uint32(1) << np.uint32(order[t, j])
            first = np.searchsorted(codes[t], code)
            last = first
            while last < n and codes[t, last] == code:
                last += 1
            counts[b, 1] += last - first
            for i in range(first, last):
                if i + _AHEAD < last:
                    prefetch(data, np.int64(rows[t, i + _AHEAD]))
                row = np.int64(rows[t, i])
                if seen[row] != stamp:
                    seen[row] = stamp
                    size, scored = consider(data, scale, l2, q, row, allowed, keys, values, size, k)
                    counts[b, 0] += scored
            waiting = _successors(cost, value, margins, bits, costs, sets, waiting)
            probed += 1
        heap_sort_worst(keys, values, size)
        for j in range(size):
            out[b, j], scores[b, j] = values[j], keys[j]
