"""Numba kernels for approximate elimination of a weighted graph: sampled cliques, and the substitutions with the factor.

An edge e has one weight and two halves: half 2e in the list of one end, half 2e + 1 in the list of the other; `to` of a
half is the vertex at its far end. A list is linked by `after`. Edges of weight zero are dead, and lists drop them when
they are walked.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SORTED_BY_INSERTION = 32
_UNIT = 1.0 / 9007199254740992.0


@njit(cache=True, nogil=True, inline="always")
def _uniform(state):  # type: ignore[no-untyped-def]
    """A number in [0, 1) from 53 bits of SplitMix64, whose state is state[0]."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * _UNIT


@njit(cache=True, nogil=True)
def _unlink(v, degree, cap, first, before, behind):  # type: ignore[no-untyped-def]
    """Take v out of the bucket of its degree."""
    if before[v] >= 0:
        behind[before[v]] = behind[v]
    else:
        first[min(degree[v], cap)] = behind[v]
    if behind[v] >= 0:
        before[behind[v]] = before[v]


@njit(cache=True, nogil=True)
def _link(v, degree, cap, first, before, behind):  # type: ignore[no-untyped-def]
    """Put v at the front of the bucket of its degree."""
    bucket = min(degree[v], cap)
    before[v] = -1
    behind[v] = first[bucket]
    if first[bucket] >= 0:
        before[first[bucket]] = v
    first[bucket] = v


@njit(cache=True, nogil=True)
def _lists(n, ground, u, v, weights, copies):  # type: ignore[no-untyped-def]
    """The halves of `copies` parallel edges of a `copies`-th of the weight for every edge.

    Edges to the ground do not count in the degrees: they bring no fill.
    """
    m = u.size * copies
    to, after = np.empty(2 * m, np.int64), np.empty(2 * m, np.int64)
    weight, head, degree = np.empty(m), np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for i in range(u.size):
        for c in range(copies):
            e = i * copies + c
            weight[e] = weights[i] / copies
            to[2 * e], to[2 * e + 1] = v[i], u[i]
            after[2 * e], after[2 * e + 1] = head[u[i]], head[v[i]]
            head[u[i]], head[v[i]] = 2 * e, 2 * e + 1
            degree[u[i]] += v[i] != ground
            degree[v[i]] += u[i] != ground
    return to, after, weight, head, degree


@njit(cache=True, nogil=True)
def _sort(values, halves, count):  # type: ignore[no-untyped-def]
    """Order halves[:count] and values[:count] by value, in place."""
    if count <= _SORTED_BY_INSERTION:
        for i in range(1, count):
            value, half = values[i], halves[i]
            j = i
            while j > 0 and values[j - 1] > value:
                values[j], halves[j] = values[j - 1], halves[j - 1]
                j -= 1
            values[j], halves[j] = value, half
    else:
        order = np.argsort(values[:count])
        values[:count] = values[:count][order]
        halves[:count] = halves[:count][order]


@njit(cache=True, nogil=True)
def _gather(v, copies, head, after, to, weight, slot, near, total, kept, halves, change):  # type: ignore[no-untyped-def]
    """The neighbours of v with the sums of their weights, and at most `copies` halves for each; counts of both.

    Halves beyond are killed: their weight is in the sum.
    """
    neighbours, held = 0, 0
    h = head[v]
    while h >= 0:
        w = weight[h >> 1]
        if w > 0:
            u = to[h]
            s = slot[u]
            if s < 0:
                s = neighbours
                slot[u], near[s], total[s], kept[s] = s, u, 0.0, 0
                neighbours += 1
            total[s] += w
            if kept[s] < copies:
                kept[s] += 1
                halves[held] = h
                held += 1
            else:
                weight[h >> 1] = 0.0
                change[s] -= 1
        h = after[h]
    return neighbours, held


@njit(cache=True, nogil=True)
def eliminate(n, ground, u, v, weights, copies, seed):  # type: ignore[no-untyped-def]
    """Approximate elimination of all vertices but `ground` (-1: of all), those of few edges first.

    Returns the order, the pivots, and for each column of the unit lower factor where it begins, the vertices and minus
    the entries.
    """
    to, after, weight, head, degree = _lists(n, ground, u, v, weights, copies)
    state = np.array([seed], np.uint64)
    cap = min(max(2 * u.size * copies, 1), 4 * n + 1)
    first = np.full(cap + 1, -1, np.int64)
    before, behind = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for i in range(n - 1, -1, -1):
        if i != ground:
            _link(i, degree, cap, first, before, behind)
    steps = n - (ground >= 0)
    order, pivots, starts = np.empty(steps, np.int64), np.zeros(steps), np.zeros(steps + 1, np.int64)
    rows, entries = np.empty(max(2 * u.size, 16), np.int64), np.empty(max(2 * u.size, 16))
    slot, near, total = np.full(n, -1, np.int64), np.empty(n, np.int64), np.empty(n)
    kept, change = np.empty(n, np.int64), np.zeros(n, np.int64)
    halves, values = np.empty(weight.size, np.int64), np.empty(weight.size)
    lowest = 0
    for step in range(steps):
        while first[lowest] < 0:
            lowest += 1
        x = first[lowest]
        _unlink(x, degree, cap, first, before, behind)
        order[step] = x
        neighbours, held = _gather(x, copies, head, after, to, weight, slot, near, total, kept, halves, change)
        pivot = 0.0
        for s in range(neighbours):
            pivot += total[s]
        pivots[step] = pivot
        at = starts[step]
        if at + neighbours > rows.size:
            rows = np.append(rows, np.empty(max(rows.size // 2, neighbours), np.int64))
            entries = np.append(entries, np.empty(rows.size - entries.size))
        for s in range(neighbours):
            if near[s] != ground:
                rows[at], entries[at] = near[s], total[s] / pivot
                at += 1
        starts[step + 1] = at
        for i in range(held):
            s = slot[to[halves[i]]]
            values[i] = total[s] / kept[s]
        _sort(values, halves, held)
        _sample_clique(held, pivot, ground, values, halves, to, after, weight, head, slot, change, state)
        for s in range(neighbours):
            y = near[s]
            slot[y] = -1
            if y != ground:
                _unlink(y, degree, cap, first, before, behind)
                degree[y] += change[s]
                _link(y, degree, cap, first, before, behind)
                lowest = min(lowest, min(degree[y], cap))
            change[s] = 0
    return order, pivots, starts, rows[: starts[steps]], entries[: starts[steps]]


@njit(cache=True, nogil=True)
def _sample_clique(count, pivot, ground, values, halves, to, after, weight, head, slot, change, state):  # type: ignore[no-untyped-def]
    """Replace the edges of an eliminated vertex, sorted by weight, by at most one edge for each, in their own memory.

    Edge i goes to a heavier j with probability w_j / S_i, S_i the weight of all that are heavier, and gets w_i S_i / W:
    the mean of what is put between i and j is w_i w_j / W, as in the clique of exact elimination.
    """
    for i in range(1, count):
        values[i] += values[i - 1]
    below = 0.0
    for i in range(count):
        half = halves[i]
        own = values[i] - below
        below = values[i]
        a = to[half]
        rest = values[count - 1] - values[i]
        fresh = own * rest / pivot
        change[slot[a]] -= 1
        if i == count - 1 or not fresh > 0:
            weight[half >> 1] = 0.0
            continue
        aim = values[i] + _uniform(state) * rest
        low, high = i + 1, count - 1
        while low < high:
            middle = (low + high) >> 1
            if values[middle] > aim:
                high = middle
            else:
                low = middle + 1
        b = to[halves[low]]
        if a == b:
            # Parallel edges: the clique has no loops.
            weight[half >> 1] = 0.0
            continue
        weight[half >> 1] = fresh
        to[half ^ 1] = b
        change[slot[a]] += b != ground
        change[slot[b]] += a != ground
        # This half leaves the list of the eliminated vertex for that of b; its `to`, a, stays right.
        after[half] = head[b]
        head[b] = half


@njit(cache=True, nogil=True)
def substitute(starts, rows, entries, inverse, x):  # type: ignore[no-untyped-def]
    """x <- L^-T D^+ L^-1 x for the unit lower factor with the entries -`entries` and D^+ = diag(inverse), x (n, k)."""
    n, k = x.shape
    for i in range(n):
        for p in range(starts[i], starts[i + 1]):
            j, factor = rows[p], entries[p]
            for c in range(k):
                x[j, c] += factor * x[i, c]
    for i in range(n - 1, -1, -1):
        for c in range(k):
            x[i, c] *= inverse[i]
        for p in range(starts[i], starts[i + 1]):
            j, factor = rows[p], entries[p]
            for c in range(k):
                x[i, c] += factor * x[j, c]


@njit(cache=True, nogil=True)
def substitute_one(starts, rows, entries, inverse, x):  # type: ignore[no-untyped-def]
    """`substitute` for one column x (n,)."""
    n = x.size
    for i in range(n):
        value = x[i]
        for p in range(starts[i], starts[i + 1]):
            x[rows[p]] += entries[p] * value
    for i in range(n - 1, -1, -1):
        value = x[i] * inverse[i]
        for p in range(starts[i], starts[i + 1]):
            value += entries[p] * x[rows[p]]
        x[i] = value


@njit(cache=True, nogil=True)
def center(labels, counts, x):  # type: ignore[no-untyped-def]
    """Take from x (n, k) its mean over each part of the graph; label -1 belongs to none."""
    n, k = x.shape
    sums = np.zeros((counts.size, k))
    for i in range(n):
        if labels[i] >= 0:
            for c in range(k):
                sums[labels[i], c] += x[i, c]
    for i in range(n):
        if labels[i] >= 0:
            for c in range(k):
                x[i, c] -= sums[labels[i], c] / counts[labels[i]]
