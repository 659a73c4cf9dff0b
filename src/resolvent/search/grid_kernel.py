"""Numba kernels of the fixed-radius grid: points bucketed by cell, balls and shells row by row, nearest by rings.

Points are stored in the order of their cells, the last axis fastest, so that neighbouring cells of one row are one
contiguous run of points. A `frame` (4, dim) has the rows: corner of the box, width of a cell, period (0: none) and
rounding of a coordinate; `shape` are the cells along each axis.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "nsz"}
# A search widens its radius by this for choosing cells, so that rounding never loses a point on the edge.
_WIDER = 1.0 + 1e-12
# Cells farther away than this are all alike; it keeps the conversion to integers defined.
_FAR = 4e15


@njit(cache=True, nogil=True)
def bucket(cells, count):  # type: ignore[no-untyped-def]
    """Counting sort: the first position of each cell (count + 1,), and the points in order of their cells."""
    start = np.zeros(count + 1, np.int64)
    for c in cells:
        start[c + 1] += 1
    for c in range(count):
        start[c + 1] += start[c]
    where = start[:-1].copy()
    order = np.empty(len(cells), np.int64)
    for i in range(len(cells)):
        order[where[cells[i]]] = i
        where[cells[i]] += 1
    return start, order


@njit(cache=True, nogil=True)
def grown(a, used, room):  # type: ignore[no-untyped-def]
    """`a` with room for at least `room` entries, the first `used` kept."""
    if room <= len(a):
        return a
    b = np.empty(max(room, 2 * len(a)), a.dtype)
    b[:used] = a[:used]
    return b


@njit(cache=True, nogil=True, inline="always")
def cell_of(v):  # type: ignore[no-untyped-def]
    """The integer below v, defined for every v."""
    return math.floor(max(min(v, _FAR), -_FAR))


@njit(cache=True, nogil=True, inline="always")
def _near(q, low, high, period, pad):  # type: ignore[no-untyped-def]
    """Distance along one axis from q to a cell's interval, less the rounding."""
    near = max(low - q, q - high)
    if period > 0.0:
        near = min(near, low + period - q, q - (high - period))
    return max(near - pad, 0.0)


@njit(cache=True, nogil=True, inline="always")
def _far(q, low, high, period, pad):  # type: ignore[no-untyped-def]
    """The largest distance along one axis from q to a cell's interval, more the rounding."""
    far = max(high - q, q - low)
    return (min(far, 0.5 * period) if period > 0.0 else far) + pad


@njit(cache=True, nogil=True, inline="always")
def _span(q, r, low, width, size, period, pad):  # type: ignore[no-untyped-def]
    """The cells of an axis that meet [q - r, q + r]; where the axis is periodic they may have to be wrapped."""
    first, last = cell_of((q - r - pad - low) / width), cell_of((q + r + pad - low) / width)
    if period == 0.0:
        return max(first, 0), min(last, size - 1)
    return (0, size - 1) if last - first + 1 >= size else (first, last)


@njit(cache=True, nogil=True)
def _runs(start, frame, shape, q, reach, solid, box, corners, runs):  # type: ignore[no-untyped-def]
    """The runs of points in cells that meet the ball: (begin, end, is inside the ball of squared radius `solid`).

    Returns the runs, how many they are and how many points they hold.
    """
    first, last, at = corners
    end, count, points = len(q) - 1, 0, 0
    for a in range(end + 1):
        first[a], last[a] = _span(q[a], reach, frame[0, a], frame[1, a], shape[a], frame[2, a], frame[3, a])
        at[a] = first[a]
        if first[a] > last[a]:
            return runs, 0, 0
    low, width, period, pad = frame[0, end], frame[1, end], frame[2, end], frame[3, end]
    size = shape[end]
    while True:
        near2, far2, cell = 0.0, 0.0, 0
        for a in range(end):
            c = at[a] - shape[a] if at[a] >= shape[a] else (at[a] + shape[a] if at[a] < 0 else at[a])
            cell = (cell + c) * shape[a + 1]
            edge = frame[0, a] + c * frame[1, a]
            near2 += _near(q[a], edge, edge + frame[1, a], frame[2, a], frame[3, a]) ** 2
            far2 += _far(q[a], edge, edge + frame[1, a], frame[2, a], frame[3, a]) ** 2
        rest = reach * reach - near2
        if rest >= 0.0 or box:
            s, t = first[end], last[end]
            if not box:
                s, t = _span(q[end], math.sqrt(rest), low, width, size, period, pad)
            u, v = t + 1, t
            if solid > far2 and period == 0.0:
                half = math.sqrt(solid - far2) / _WIDER - pad
                u = max(-cell_of(-(q[end] - half - low) / width), s)
                v = min(cell_of((q[end] + half - low) / width) - 1, t)
                if u > v:
                    u, v = t + 1, t
            if count + 6 > len(runs):
                more = np.empty((2 * len(runs) + 6, 3), np.int64)
                more[:count] = runs[:count]
                runs = more
            # The cells before, inside and after the solid part; what crosses the edge of a periodic axis is cut there.
            for part in range(3):
                i, j = (s, u - 1) if part == 0 else ((u, v) if part == 1 else (v + 1, t))
                while i <= j:
                    c = i + size if i < 0 else (i - size if i >= size else i)
                    stop = min(j - i, size - 1 - c) + 1
                    runs[count, 0], runs[count, 1], runs[count, 2] = start[cell + c], start[cell + c + stop], part == 1
                    points += runs[count, 1] - runs[count, 0]
                    count += runs[count, 1] > runs[count, 0]
                    i += stop
        a = end - 1
        while a >= 0 and at[a] == last[a]:
            at[a] = first[a]
            a -= 1
        if a < 0:
            return runs, count, points
        at[a] += 1


@njit(cache=True, nogil=True, fastmath=_FAST)
def _scan(x, runs, count, q, period, rule, found, gaps, used):  # type: ignore[no-untyped-def]
    """Keep the points of the runs whose squared distance (box: largest gap along an axis) is in [floor, limit]."""
    box, floor, limit = rule
    dim, tested = x.shape[1], 0
    for k in range(count):
        if runs[k, 2]:
            # Inside the hole of a shell nothing is kept; inside a ball everything is.
            for i in range(runs[k, 0], runs[k, 1] if floor <= 0.0 else runs[k, 0]):
                found[used] = i
                used += 1
            continue
        tested += runs[k, 1] - runs[k, 0]
        for i in range(runs[k, 0], runs[k, 1]):
            d = 0.0
            for c in range(dim):
                g = abs(x[i, c] - q[c])
                if period[c] > 0.0 and g > 0.5 * period[c]:
                    g = period[c] - g
                d = max(d, g) if box else d + g * g
            found[used] = i
            gaps[used] = d
            used += floor <= d <= limit
    return used, tested


@njit(cache=True, nogil=True)
def balls(x, start, frame, shape, queries, reach, floor, limit, box, whole):  # type: ignore[no-untyped-def]
    """Points with ``floor <= squared distance <= limit`` of each query, all within `reach`.

    Returns the number of points of each query, their positions one query after another, their squared distances, and
    how many points were tested. With `box` the distance is the largest gap along an axis, not squared. With `whole`
    cells inside the ball are accepted without a test, and the distances are not to be read.
    """
    b, dim = queries.shape
    counts, tested = np.zeros(b, np.int64), np.zeros(b, np.int64)
    found, gaps = np.empty(1024, np.int64), np.empty(1024, np.float64)
    corners = (np.empty(dim, np.int64), np.empty(dim, np.int64), np.empty(dim, np.int64))
    runs = np.empty((64, 3), np.int64)
    used = 0
    for k in range(b):
        before = used
        solid = 0.0 if box else (floor[k] if floor[k] > 0.0 else (limit[k] if whole else 0.0))
        runs, count, points = _runs(start, frame, shape, queries[k], reach[k] * _WIDER, solid, box, corners, runs)
        # One place more: the scan writes before it decides.
        found, gaps = grown(found, used, used + points + 1), grown(gaps, used, used + points + 1)
        rule = (box, floor[k], limit[k])
        used, tested[k] = _scan(x, runs, count, queries[k], frame[2], rule, found, gaps, used)
        counts[k] = used - before
    return counts, found[:used].copy(), gaps[:used].copy(), tested


@njit(cache=True, nogil=True, fastmath=_FAST)
def _keep(x, a, b, q, period, rows, best, have):  # type: ignore[no-untyped-def]
    """Insert the points a..b-1 into the sorted list of the nearest. Returns how many it holds."""
    n, dim = len(best), x.shape[1]
    for i in range(a, b):
        d = 0.0
        for c in range(dim):
            g = abs(x[i, c] - q[c])
            if period[c] > 0.0 and g > 0.5 * period[c]:
                g = period[c] - g
            d += g * g
        if have == n and d >= best[n - 1]:
            continue
        p = have if have < n else n - 1
        while p > 0 and best[p - 1] > d:
            best[p], rows[p] = best[p - 1], rows[p - 1]
            p -= 1
        best[p], rows[p] = d, i
        have = min(have + 1, n)
    return have


@njit(cache=True, nogil=True)
def _certain(q, home, s, frame, shape, left, right):  # type: ignore[no-untyped-def]
    """The radius around q that the rings up to s cover, infinite when they cover the grid."""
    radius = np.inf
    for a in range(len(q)):
        low, width, slack = frame[0, a], frame[1, a], frame[3, a] + 1e-15 * abs(q[a])
        # Half way round a periodic axis both sides meet.
        more = s < shape[a] // 2
        if more if frame[2, a] > 0.0 else -s > left[a]:
            radius = min(radius, q[a] - (low + (home[a] - s) * width) - slack)
        if more if frame[2, a] > 0.0 else s < right[a]:
            radius = min(radius, low + (home[a] + s + 1) * width - q[a] - slack)
    return max(radius, 0.0)


@njit(cache=True, nogil=True)
def _ring(start, frame, shape, q, home, s, left, right, at, worst, runs):  # type: ignore[no-untyped-def]
    """The runs of points in cells whose largest offset from the query's own is s, and how many runs they are."""
    dim = len(q)
    end, count = dim - 1, 0
    for a in range(dim):
        at[a] = max(-s, left[a])
        if at[a] > min(s, right[a]):
            return runs, 0
    size = shape[end]
    while True:
        near2, cell, shell = 0.0, 0, False
        for a in range(end):
            c = home[a] + at[a]
            c = c - shape[a] if c >= shape[a] else (c + shape[a] if c < 0 else c)
            cell = (cell + c) * shape[a + 1]
            edge = frame[0, a] + c * frame[1, a]
            near2 += _near(q[a], edge, edge + frame[1, a], frame[2, a], frame[3, a]) ** 2
            shell |= abs(at[a]) == s
        if near2 <= worst * _WIDER:
            if count + 4 > len(runs):
                more = np.empty((2 * len(runs) + 4, 3), np.int64)
                more[:count] = runs[:count]
                runs = more
            first, last = max(-s, left[end]), min(s, right[end])
            # A row on the face of the cube is in the ring as a whole, the others with their two ends.
            for part in range(1 if shell or s == 0 else 2):
                i, j = (first, last) if shell else ((-s, -s) if part == 0 else (s, s))
                if i < first or j > last:
                    continue
                i, j = i + home[end], j + home[end]
                while i <= j:
                    c = i + size if i < 0 else (i - size if i >= size else i)
                    stop = min(j - i, size - 1 - c) + 1
                    runs[count, 0], runs[count, 1] = start[cell + c], start[cell + c + stop]
                    count += runs[count, 1] > runs[count, 0]
                    i += stop
        a = end - 1
        while a >= 0 and at[a] == min(s, right[a]):
            at[a] = max(-s, left[a])
            a -= 1
        if a < 0:
            return runs, count
        at[a] += 1


@njit(cache=True, nogil=True)
def rings(x, start, frame, shape, queries, n):  # type: ignore[no-untyped-def]
    """The n nearest points of each query: positions and squared distances (b, n), nearest first, and points tested."""
    b, dim = queries.shape
    rows, best = np.full((b, n), -1, np.int64), np.full((b, n), np.inf)
    tested = np.zeros(b, np.int64)
    home, at = np.empty(dim, np.int64), np.empty(dim, np.int64)
    left, right = np.empty(dim, np.int64), np.empty(dim, np.int64)
    runs = np.empty((64, 3), np.int64)
    for k in range(b):
        q, have, s = queries[k], 0, 0
        for a in range(dim):
            home[a] = cell_of((q[a] - frame[0, a]) / frame[1, a])
            if frame[2, a] > 0.0:
                home[a] = min(max(home[a], 0), shape[a] - 1)
                left[a], right[a] = -((shape[a] - 1) // 2), shape[a] // 2
            else:
                left[a], right[a] = -home[a], shape[a] - 1 - home[a]
            # Outside the box the first rings are empty.
            s = max(s, left[a], -right[a])
        while True:
            worst = best[k, n - 1]
            runs, count = _ring(start, frame, shape, q, home, s, left, right, at, worst, runs)
            for m in range(count):
                have = _keep(x, runs[m, 0], runs[m, 1], q, frame[2], rows[k], best[k], have)
                tested[k] += runs[m, 1] - runs[m, 0]
            radius = _certain(q, home, s, frame, shape, left, right)
            if radius == np.inf or (have == n and best[k, n - 1] <= radius * radius):
                break
            s += 1
    return rows, best, tested
