"""Numba kernels of random-projection trees: medians of projections, and one queue over the leaves of all trees.

A tree is complete: node 0 is the root, 2i + 1 and 2i + 2 are the halves of node i, and a node's rows are a stretch of
the tree's permutation that halving gives, so that no links are stored.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.search.kernel import FAST, heap_pop_worst, heap_push_worst, heap_sort_worst, prefetch
from resolvent.search.simhash_kernel import consider

_AHEAD = 4


@njit(cache=True, nogil=True)
def split_at_median(keys, order, a, b, middle):  # type: ignore[no-untyped-def]
    """Reorder order[a:b] so that the rows before `middle` have the smaller keys; the value between the two sides."""
    low, high = a, b - 1
    while low < high:
        pivot = keys[order[(low + high) // 2]]
        i, j = low, high
        while i <= j:
            while keys[order[i]] < pivot:
                i += 1
            while keys[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            break
    left = keys[order[a]]
    for i in range(a + 1, middle):
        left = max(left, keys[order[i]])
    return np.float32(0.5) * (left + keys[order[middle]])


@njit(cache=True, nogil=True)
def plant(projections, order, thresholds):  # type: ignore[no-untyped-def]
    """One tree from projections (depth, n), one direction for each level: the permutation and the thresholds."""
    depth, n = projections.shape
    for level in range(depth):
        parts = 1 << level
        a = 0
        for part in range(parts):
            b = _end(n, level, part)
            middle = (a + b) // 2
            if a < middle:
                thresholds[parts - 1 + part] = split_at_median(projections[level], order, a, b, middle)
            a = b


@njit(cache=True, nogil=True)
def _end(n, level, part):  # type: ignore[no-untyped-def]
    """Where the stretch of a node ends that halving n rows `level` times gives."""
    a, b = 0, n
    for bit in range(level - 1, -1, -1):
        middle = (a + b) // 2
        if (part >> bit) & 1:
            a = middle
        else:
            b = middle
    return b


@njit(cache=True, nogil=True, fastmath=FAST)
def plant_between(x, extra, order, thresholds, planes, draws, keys):  # type: ignore[no-untyped-def]
    """One tree whose nodes split along the line between two of their rows. `draws` (nodes, 2) in [0, 1) choose them."""
    n, d = x.shape
    depth = 0
    while (1 << depth) - 1 < len(thresholds):
        depth += 1
    for level in range(depth):
        parts = 1 << level
        a = 0
        for part in range(parts):
            b = _end(n, level, part)
            node, middle = parts - 1 + part, (a + b) // 2
            if b - a >= 2:
                i = a + int(draws[node, 0] * (b - a))
                j = a + int(draws[node, 1] * (b - a - 1))
                one, other = order[i], order[j + (j >= i)]
                plane = planes[node]
                total = np.float32(0)
                for c in range(d):
                    plane[c] = x[one, c] - x[other, c]
                    total += plane[c] * plane[c]
                plane[d] = extra[one] - extra[other]
                total += plane[d] * plane[d]
                if total > 0:
                    plane *= np.float32(1) / np.sqrt(total)
                for i in range(a, b):
                    row = order[i]
                    key = extra[row] * plane[d]
                    for c in range(d):
                        key += x[row, c] * plane[c]
                    keys[row] = key
                thresholds[node] = split_at_median(keys, order, a, b, middle)
            a = b


@njit(cache=True, nogil=True, fastmath=FAST)
def _project(q, plane):  # type: ignore[no-untyped-def]
    # A query has no part along the last coordinate.
    value = np.float32(0)
    for c in range(len(q)):
        value += q[c] * plane[c]
    return value


@njit(cache=True, nogil=True, fastmath=FAST)
def search(data, scale, l2, Q, projections, planes, orders, thresholds, budget, allowed, out, scores, counts):  # type: ignore[no-untyped-def]
    """The best rows of the leaves that are nearest, leaf after leaf of all trees until `budget` rows are scored.

    `projections` (b, trees, depth) where a level has one direction, else empty and `planes` (trees, nodes, d + 1) holds
    those of the nodes. `counts` (b, 2): rows scored, projections made.
    """
    trees, n = orders.shape
    nodes, k, levels = thresholds.shape[1], out.shape[1], projections.shape[2]
    depth = 0
    while (1 << depth) - 1 < nodes:
        depth += 1
    seen = np.zeros(n, np.uint8)
    stamp, room = 0, 256
    costs, pool = np.empty(room, np.float32), np.empty(room, np.int64)
    keys, values = np.empty(k, np.float32), np.empty(k, np.int64)
    for b in range(Q.shape[0]):
        stamp += 1
        if stamp == 256:
            seen[:] = 0
            stamp = 1
        q, waiting, size = Q[b], 0, 0
        while len(costs) < trees + depth + 1:
            costs, pool = np.append(costs, costs), np.append(pool, pool)
        for t in range(trees):
            waiting = heap_push_worst(costs, pool, waiting, np.float32(0), t << 32)
        while waiting and counts[b, 0] < budget:
            waiting = heap_pop_worst(costs, pool, waiting)
            cost, t, node = costs[waiting], pool[waiting] >> 32, pool[waiting] & 0xFFFFFFFF
            if waiting + depth >= len(costs):
                costs, pool = np.append(costs, costs), np.append(pool, pool)
            level = 0
            while (2 << level) - 1 <= node:
                level += 1
            while node < nodes:
                if levels:
                    gap = projections[b, t, level] - thresholds[t, node]
                else:
                    gap = _project(q, planes[t, node]) - thresholds[t, node]
                    counts[b, 1] += 1
                near = 2 * node + 1 + (gap > 0)
                far = 4 * node + 3 - near
                waiting = heap_push_worst(costs, pool, waiting, cost + gap * gap, (t << 32) | far)
                node = near
                level += 1
            part = node - nodes
            a = 0 if part == 0 else _end(n, depth, part - 1)
            z = _end(n, depth, part)
            for i in range(a, z):
                if i + _AHEAD < z:
                    prefetch(data, np.int64(orders[t, i + _AHEAD]))
                row = np.int64(orders[t, i])
                if seen[row] != stamp:
                    seen[row] = stamp
                    size, scored = consider(data, scale, l2, q, row, allowed, keys, values, size, k)
                    counts[b, 0] += scored
        heap_sort_worst(keys, values, size)
        for j in range(size):
            out[b, j], scores[b, j] = values[j], keys[j]
