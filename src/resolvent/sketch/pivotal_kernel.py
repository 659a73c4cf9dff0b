"""Numba kernels of pivotal sampling: a tree of median splits, and contests from its leaves up."""

from __future__ import annotations

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "nsz"}
# Power iterations for the direction of a split, each started from the longest column of the covariance.
_ROUNDS = 12


@njit(cache=True, nogil=True)
def _contest(i, j, p, drawn, chosen):  # type: ignore[no-untyped-def]
    """One head-to-head contest: the loser is decided, the winner returned with its new probability in p."""
    s = p[i] + p[j]
    if s <= 1.0:
        # The loser is out; the winner carries the sum.
        if s <= 0.0 or drawn * s < p[i]:
            p[i], p[j] = s, 0.0
            return i
        p[j], p[i] = s, 0.0
        return j
    # The winner is in; the loser carries the rest.
    if drawn * (2.0 - s) < 1.0 - p[j]:
        chosen[i] = True
        p[j] = s - 1.0
        return j
    chosen[j] = True
    p[i] = s - 1.0
    return i


@njit(cache=True, nogil=True)
def chain(order, p, drawn, chosen):  # type: ignore[no-untyped-def]
    """Contests in a given order: each survivor meets the next. Returns the last survivor; p holds its probability."""
    last = order[0]
    for k in range(1, len(order)):
        last = _contest(last, order[k], p, drawn[k - 1], chosen)
    return last


@njit(cache=True, nogil=True)
def tree(order, p, drawn, chosen):  # type: ignore[no-untyped-def]
    """Contests up the balanced tree over `order`, as `split` cut it. Returns the last survivor."""
    # Post-order walk: a segment waits on the stack until both halves have sent their survivor.
    size = 2 * (int(np.ceil(np.log2(len(order) + 1))) + 2)
    low, high = np.empty(size, np.int64), np.empty(size, np.int64)
    state, survivors = np.empty(size, np.int8), np.empty(size, np.int64)
    low[0], high[0], state[0] = 0, len(order), 0
    depth, found, used = 0, 0, 0
    while depth >= 0:
        if state[depth] == 2:
            found -= 1
            survivors[found - 1] = _contest(survivors[found - 1], survivors[found], p, drawn[used], chosen)
            used += 1
            depth -= 1
        elif high[depth] - low[depth] == 1:
            survivors[found] = order[low[depth]]
            found += 1
            depth -= 1
        else:
            middle = (low[depth] + high[depth]) // 2
            if state[depth] == 0:
                low[depth + 1], high[depth + 1] = low[depth], middle
            else:
                low[depth + 1], high[depth + 1] = middle, high[depth]
            state[depth] += 1
            state[depth + 1] = 0
            depth += 1
    return survivors[0]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _direction(points, order, a, b, mean, moments, v, w):  # type: ignore[no-untyped-def]
    """The top principal direction of points[order[a:b]], in v."""
    q = points.shape[1]
    mean[:] = 0.0
    for k in range(a, b):
        for c in range(q):
            mean[c] += points[order[k], c]
    mean /= b - a
    moments[:, :] = 0.0
    for k in range(a, b):
        for c in range(q):
            x = points[order[k], c] - mean[c]
            for e in range(c + 1):
                moments[c, e] += x * (points[order[k], e] - mean[e])
    top = 0
    for c in range(q):
        for e in range(c):
            moments[e, c] = moments[c, e]
        if moments[c, c] > moments[top, top]:
            top = c
    v[:] = moments[top]
    for _ in range(_ROUNDS):
        length = np.sqrt((v * v).sum())
        if length == 0.0:
            v[:] = 0.0
            return
        for c in range(q):
            v[c] /= length
        for c in range(q):
            w[c] = 0.0
            for e in range(q):
                w[c] += moments[c, e] * v[e]
        v[:] = w


@njit(cache=True, nogil=True)
def _halve(keys, order, a, b, middle):  # type: ignore[no-untyped-def]
    """Reorder keys and order between a and b so that those before the middle are the smaller ones."""
    b -= 1
    while a < b:
        pivot = keys[(a + b) // 2]
        i, j = a, b
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            b = j
        elif middle >= i:
            a = i
        else:
            return


@njit(cache=True, nogil=True)
def split(points, order, principal):  # type: ignore[no-untyped-def]
    """Reorder `order` into the leaves of a tree that halves the points at the median, along the top principal
    direction or along the coordinates in turn."""
    q = points.shape[1]
    keys = np.empty(len(order), np.float64)
    size = int(np.ceil(np.log2(len(order) + 1))) + 3
    low, high, level = np.empty(2 * size, np.int64), np.empty(2 * size, np.int64), np.empty(2 * size, np.int64)
    mean, v, w, moments = np.empty(q), np.empty(q), np.empty(q), np.empty((q, q))
    low[0], high[0], level[0] = 0, len(order), 0
    open_ = 1
    while open_ > 0:
        open_ -= 1
        a, b, depth = low[open_], high[open_], level[open_]
        if b - a <= 2:
            continue
        if principal:
            _direction(points, order, a, b, mean, moments, v, w)
            for k in range(a, b):
                total = 0.0
                for c in range(q):
                    total += points[order[k], c] * v[c]
                keys[k] = total
        else:
            for k in range(a, b):
                keys[k] = points[order[k], depth % q]
        middle = (a + b) // 2
        _halve(keys, order, a, b, middle)
        low[open_], high[open_], level[open_] = a, middle, depth + 1
        low[open_ + 1], high[open_ + 1], level[open_ + 1] = middle, b, depth + 1
        open_ += 2
