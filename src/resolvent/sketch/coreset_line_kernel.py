"""Numba kernels for weighted points on a line in ascending order: blocks, exact k-medians, costs.

The moments are kept as sums of two doubles: an optimal cost may be many orders smaller than the spread of the data.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def spreads(x, w, first, last, below):  # type: ignore[no-untyped-def]
    """The longest block from `first`, within `last`, whose spread stays at most `below[j]` for its last point j.

    The spread of points with weights w and mean m is sum w |x - m|. Returns where the next block begins, and the spread
    of this one. `below` must not ascend.
    """
    # Sums over the points left of the mean and right of it, with the first point as the origin.
    origin = x[first]
    total = w[first]
    moment = 0.0
    left_total = w[first]
    left_moment = 0.0
    pointer = first + 1
    spread = 0.0
    j = first + 1
    while j < last:
        total += w[j]
        moment += w[j] * (x[j] - origin)
        mean = moment / total
        while pointer <= j and x[pointer] - origin <= mean:
            left_total += w[pointer]
            left_moment += w[pointer] * (x[pointer] - origin)
            pointer += 1
        new = 2 * (left_total * mean - left_moment)
        if new > below[j]:
            return j, spread
        spread = new
        j += 1
    return last, spread


@njit(cache=True, nogil=True)
def blocks(x, w, first, last, below, starts):  # type: ignore[no-untyped-def]
    """Greedy blocks of first..last; writes where each begins, returns their number and the largest spread."""
    count = 0
    largest = 0.0
    while first < last:
        starts[count] = first
        count += 1
        first, spread = spreads(x, w, first, last, below)
        largest = max(largest, spread)
    return count, largest


@njit(cache=True, nogil=True)
def outward(x, w, middle):  # type: ignore[no-untyped-def]
    """Costs of one centre at each point, where `middle` is a weighted median; only sums of what is not negative."""
    n = x.size
    cost = np.empty(n)
    least = 0.0
    for i in range(n):
        least += w[i] * abs(x[i] - x[middle])
    left = 0.0
    for i in range(middle):
        left += w[i]
    right = 0.0
    for i in range(n - 1, middle, -1):
        right += w[i]
    cost[middle] = least
    side, other = left + w[middle], right
    for i in range(middle + 1, n):
        cost[i] = cost[i - 1] + (x[i] - x[i - 1]) * (side - other)
        side += w[i]
        other -= w[i]
    side, other = right + w[middle], left
    for i in range(middle - 1, -1, -1):
        cost[i] = cost[i + 1] + (x[i + 1] - x[i]) * (side - other)
        side += w[i]
        other -= w[i]
    return cost


@njit(cache=True, nogil=True)
def _two_sum(a, b):  # type: ignore[no-untyped-def]
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@njit(cache=True, nogil=True)
def _two_product(a, b):  # type: ignore[no-untyped-def]
    p = a * b
    c = 134217729.0 * a
    a1 = c - (c - a)
    a2 = a - a1
    c = 134217729.0 * b
    b1 = c - (c - b)
    b2 = b - b1
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


@njit(cache=True, nogil=True)
def _add(sums, row, i, j, high, low):  # type: ignore[no-untyped-def]
    """sums[row, j] = sums[row, i] + (high + low), as two doubles."""
    a, b = _two_sum(sums[row, i], high)
    sums[row, j], sums[row + 1, j] = _two_sum(a, b + low + sums[row + 1, i])


@njit(cache=True, nogil=True)
def _sums(x, w):  # type: ignore[no-untyped-def]
    """Sums before each point and from it on: of weights (rows 0, 4) and moments (2, 6), each in two rows; sums of the
    sizes of the moments (8, 9)."""
    n = x.size
    sums = np.zeros((10, n + 1))
    for i in range(n):
        p, q = _two_product(w[i], x[i])
        _add(sums, 0, i, i + 1, w[i], 0.0)
        _add(sums, 2, i, i + 1, p, q)
        sums[8, i + 1] = sums[8, i] + abs(p)
    for i in range(n - 1, -1, -1):
        p, q = _two_product(w[i], x[i])
        _add(sums, 4, i + 1, i, w[i], 0.0)
        _add(sums, 6, i + 1, i, p, q)
        sums[9, i] = sums[9, i + 1] + abs(p)
    return sums


@njit(cache=True, nogil=True)
def _between(sums, row, i, j):  # type: ignore[no-untyped-def]
    """The sum over i..j-1 from the side where less is to be taken away, and how much that is."""
    before, after = (sums[0, j], sums[4, i]) if row == 0 else (sums[8, j], sums[9, i])
    if before <= after:
        high, low = _two_sum(sums[row, j], -sums[row, i])
        return high, low + (sums[row + 1, j] - sums[row + 1, i]), before
    high, low = _two_sum(sums[row + 4, i], -sums[row + 4, j])
    return high, low + (sums[row + 5, i] - sums[row + 5, j]), after


@njit(cache=True, nogil=True)
def _median(sums, i, j):  # type: ignore[no-untyped-def]
    """A weighted median of the points i..j-1."""
    high, low, _ = _between(sums, 0, i, j)
    half = (high + low) / 2
    a, b = i, j - 1
    while a < b:
        m = (a + b) // 2
        high, low, _ = _between(sums, 0, i, m + 1)
        if high + low >= half:
            b = m
        else:
            a = m + 1
    return a


@njit(cache=True, nogil=True)
def _cost(x, sums, i, j):  # type: ignore[no-untyped-def]
    """What the points i..j-1 cost with their median as the centre, less what rounding may have added."""
    m = _median(sums, i, j)
    c = x[m]
    total = 0.0
    tail = 0.0
    doubt = 0.0
    for side in range(2):
        a, b = (i, m) if side == 0 else (m, j)
        sign = 1.0 if side == 0 else -1.0
        weight, weight_low, size = _between(sums, 0, a, b)
        moment, moment_low, length = _between(sums, 2, a, b)
        p, q = _two_product(c, weight)
        total, e = _two_sum(total, sign * p)
        tail += e + sign * (q + c * weight_low)
        total, e = _two_sum(total, -sign * moment)
        tail += e - sign * moment_low
        doubt += abs(c) * size + length
    # n roundings of sums of two doubles, 2^-104 each
    return max(total + tail - x.size * 5e-32 * doubt, 0.0)


@njit(cache=True, nogil=True)
def best_medians(x, w, k):  # type: ignore[no-untyped-def]
    """The least cost of k medians and the centres: dynamic programming with monotone splits, O(k n log(n)^2)."""
    n = x.size
    k = min(k, n)
    sums = _sums(x, w)
    value = np.empty(n + 1)
    value[0] = 0.0
    for j in range(1, n + 1):
        value[j] = _cost(x, sums, 0, j)
    splits = np.zeros((k, n + 1), np.int64)
    stack = np.empty((2 * 64 + 4, 4), np.int64)
    for layer in range(1, k):
        new = np.empty(n + 1)
        new[: layer + 1] = 0.0
        splits[layer, : layer + 1] = np.arange(layer + 1) - 1
        stack[0] = (layer + 1, n, layer, n - 1)
        top = 1
        while top:
            top -= 1
            low, high, from_, to = stack[top]
            if low > high:
                continue
            j = (low + high) // 2
            best = np.inf
            where = from_
            for i in range(from_, min(to, j - 1) + 1):
                if value[i] < best:
                    found = value[i] + _cost(x, sums, i, j)
                    if found < best:
                        best = found
                        where = i
            new[j] = best
            splits[layer, j] = where
            stack[top] = (low, j - 1, from_, where)
            stack[top + 1] = (j + 1, high, where, to)
            top += 2
        value = new
    centres = np.empty(k)
    j = n
    for layer in range(k - 1, -1, -1):
        i = splits[layer, j] if layer else 0
        centres[layer] = x[_median(sums, i, j)]
        j = i
    return value[n], centres


@njit(cache=True, nogil=True)
def cost_of(x, w, centres):  # type: ignore[no-untyped-def]
    """What sorted points cost with sorted centres."""
    total = 0.0
    near = 0
    for i in range(x.size):
        while near + 1 < centres.size and abs(centres[near + 1] - x[i]) <= abs(centres[near] - x[i]):
            near += 1
        total += w[i] * abs(x[i] - centres[near])
    return total
