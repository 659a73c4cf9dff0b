"""Numba kernels of the rotations that bring a changed triangular factor back into its form.

A rotation (i, j, c, s) replaces rows i and j of R by ``c r_i + s r_j`` and ``c r_j - conj(s) r_i``. Each sweep turns R
at once and keeps its rotations, which Q takes later, all in one pass over its memory.
"""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange

FAST = {"contract", "nsz"}


@njit(inline="always")
def _rotation(a, b):  # type: ignore[no-untyped-def]
    """c, s and r with ``c a + s b = r`` and ``c b - conj(s) a = 0``; no square leaves its range."""
    x, y = abs(a), abs(b)
    one = x / x if x > 0 else y / y
    if x == 0:
        return one * 0, np.conj(b) / y, b * 0 + y
    size = np.hypot(x, y)
    return x / size, (a / x) * (np.conj(b) / size), (a / x) * size


@njit(inline="always")
def _turn_rows(R, i, j, c, s, start):  # type: ignore[no-untyped-def]
    for k in range(start, R.shape[1]):
        x, y = R[i, k], R[j, k]
        R[i, k] = c * x + s * y
        R[j, k] = c * y - np.conj(s) * x


@njit(cache=True, nogil=True, fastmath=FAST)
def fold_vector(R, w, stop, at, cosines, sines):  # type: ignore[no-untyped-def]
    """Turn neighbours from the bottom up until w is zero below `stop`; R gains one diagonal below its own. How many."""
    count = 0
    for i in range(w.size - 2, stop - 1, -1):
        if w[i + 1] == 0:
            continue
        c, s, w[i] = _rotation(w[i], w[i + 1])
        w[i + 1] = 0
        _turn_rows(R, i, i + 1, c, s, min(i, R.shape[1]))
        at[count, 0], at[count, 1], cosines[count], sines[count] = i, i + 1, c, s
        count += 1
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def fold_band(R, start, width, at, cosines, sines):  # type: ignore[no-untyped-def]
    """Turn neighbours, column after column from `start`, until nothing is left of `width` diagonals below R's own."""
    count = 0
    for k in range(start, min(R.shape[0] - 1, R.shape[1])):
        for row in range(min(k + width, R.shape[0] - 1), k, -1):
            if R[row, k] == 0:
                continue
            c, s, r = _rotation(R[row - 1, k], R[row, k])
            R[row - 1, k], R[row, k] = r, 0
            _turn_rows(R, row - 1, row, c, s, k + 1)
            at[count, 0], at[count, 1], cosines[count], sines[count] = row - 1, row, c, s
            count += 1
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def fold_rows(R, first, at, cosines, sines):  # type: ignore[no-untyped-def]
    """Eliminate the rows from `first` on by the triangle above them."""
    count = 0
    for row in range(first, R.shape[0]):
        for k in range(min(row, R.shape[1])):
            if R[row, k] == 0:
                continue
            c, s, r = _rotation(R[k, k], R[row, k])
            R[k, k], R[row, k] = r, 0
            _turn_rows(R, k, row, c, s, k + 1)
            at[count, 0], at[count, 1], cosines[count], sines[count] = k, row, c, s
            count += 1
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def fold_into_last(R, w, at, cosines, sines):  # type: ignore[no-untyped-def]
    """Turn every row with the last one, from the bottom up, until w is zero but for its last entry."""
    last, count = w.size - 1, 0
    for k in range(last - 1, -1, -1):
        if w[k] == 0:
            continue
        c, s, w[last] = _rotation(w[last], w[k])
        w[k] = 0
        _turn_rows(R, last, k, c, s, min(k, R.shape[1]))
        at[count, 0], at[count, 1], cosines[count], sines[count] = last, k, c, s
        count += 1
    return count


@njit(inline="always")
def _turn_block(start, rows, Q, before, extra, at, cosines, sines, phases, out):  # type: ignore[no-untyped-def]
    """`turn_columns` for a few rows, which stay in the cache."""
    p, width = Q.shape[1], Q.shape[1] + extra.shape[1]
    block = np.empty((width, rows), Q.dtype)
    for i in range(rows):
        for k in range(p):
            block[k, i] = Q[start + i, k] * before[k]
        for k in range(p, width):
            block[k, i] = extra[start + i, k - p]
    for r in range(cosines.size):
        c, s = cosines[r], sines[r]
        conjugate = np.conj(s)
        x, y = block[at[r, 0]], block[at[r, 1]]
        for i in range(rows):
            left, right = x[i], y[i]
            x[i] = c * left + conjugate * right
            y[i] = c * right - s * left
    for i in range(rows):
        for k in range(out.shape[1]):
            out[start + i, k] = block[k, i] * phases[k]


def _turn_columns(Q, before, extra, at, cosines, sines, phases, out):  # type: ignore[no-untyped-def]
    """The first columns of ``[Q diag(before), extra]`` after the rotations, times `phases`."""
    m = Q.shape[0]
    step = max(8, min(64, 65536 // max(Q.shape[1] + extra.shape[1], 1)))
    for j in prange((m + step - 1) // step):
        _turn_block(j * step, min(step, m - j * step), Q, before, extra, at, cosines, sines, phases, out)


turn_columns = njit(cache=True, nogil=True, fastmath=FAST)(_turn_columns)
turn_columns_on_all = njit(cache=True, nogil=True, fastmath=FAST, parallel=True)(_turn_columns)
