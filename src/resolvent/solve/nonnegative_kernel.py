"""A Numba kernel for nonnegative least squares of one right-hand side: Lawson and Hanson's active set."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _reflect(A, b, w, i, c):  # type: ignore[no-untyped-def]
    """The Householder reflection that clears column c below row i, applied to A and b; w is work space."""
    n, m = A.shape
    size = 0.0
    for r in range(i, m):
        size += A[c, r] * A[c, r]
    size = np.sqrt(size)
    if size == 0:
        return
    top = A[c, i] + (size if A[c, i] >= 0 else -size)
    for r in range(i + 1, m):
        w[r] = A[c, r] / top
    w[i] = 1.0
    tau = abs(top) / size
    for j in range(n):
        total = 0.0
        for r in range(i, m):
            total += w[r] * A[j, r]
        total *= tau
        for r in range(i, m):
            A[j, r] -= total * w[r]
    total = 0.0
    for r in range(i, m):
        total += w[r] * b[r]
    for r in range(i, m):
        b[r] -= tau * total * w[r]
    for r in range(i + 1, m):
        A[c, r] = 0.0


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _drop(A, b, passive, count, place):  # type: ignore[no-untyped-def]
    """Take passive[place] out of the triangular factor by plane rotations of its rows."""
    n = A.shape[0]
    for i in range(place, count - 1):
        passive[i] = passive[i + 1]
        c = passive[i]
        x, y = A[c, i], A[c, i + 1]
        size = np.hypot(x, y)
        if size == 0:
            continue
        x, y = x / size, y / size
        for j in range(n):
            p, q = A[j, i], A[j, i + 1]
            A[j, i], A[j, i + 1] = x * p + y * q, x * q - y * p
        p, q = b[i], b[i + 1]
        b[i], b[i + 1] = x * p + y * q, x * q - y * p
        A[c, i + 1] = 0.0


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def active_set(A, b, x, passive, limit, floor, tolerance):  # type: ignore[no-untyped-def]
    """Minimise |b - A x| over x >= 0, A (m, n) as its transpose (n, m) and b (m,) are overwritten; the steps, or -1 where `limit` is not enough.

    Columns `passive` are those that are not held at zero; the rows of A above len(passive) hold their triangular factor.
    A slope up to `floor` (of a column of norm one) counts as zero, and so does what a column has outside the span of the
    others up to `tolerance` of its norm.
    """
    n, m = A.shape
    held = np.ones(n, np.bool_)
    refused = np.zeros(n, np.bool_)
    scale = np.empty(n)
    for j in range(n):
        scale[j] = np.sqrt(np.sum(A[j] ** 2))
    work, z = np.empty(m, A.dtype), np.empty(min(m, n), A.dtype)
    count, steps = 0, 0
    while count < min(m, n):
        # What falls fastest of the columns at zero; one that hardly leaves the span of the others is not taken.
        best, value = -1, 0.0
        for j in range(n):
            if held[j] and not refused[j] and scale[j] > 0:
                slope = 0.0
                for r in range(count, m):
                    slope += A[j, r] * b[r]
                slope /= scale[j]
                if slope > value and slope > floor:
                    best, value = j, slope
        if best < 0:
            return steps
        rest = 0.0
        for r in range(count, m):
            rest += A[best, r] ** 2
        if np.sqrt(rest) <= tolerance * scale[best]:
            refused[best] = True
            continue
        _reflect(A, b, work, count, best)
        passive[count] = best
        held[best] = False
        count += 1
        fresh = True
        while True:
            steps += 1
            if steps > limit:
                return -1
            for i in range(count - 1, -1, -1):
                total = b[i]
                for k in range(i + 1, count):
                    total -= A[passive[k], i] * z[k]
                z[i] = total / A[passive[i], i]
            if fresh and not z[count - 1] > 0:
                # Rounding alone let it in: out again, and not to be tried before something changes.
                count -= 1
                held[best] = True
                refused[best] = True
                break
            fresh = False
            step, out = 1.0, -1
            for i in range(count):
                if not z[i] > 0:
                    at = x[passive[i]]
                    ratio = at / (at - z[i]) if at > z[i] else 0.0
                    if ratio <= step:
                        step, out = ratio, i
            for i in range(count):
                x[passive[i]] += step * (z[i] - x[passive[i]])
            if out < 0:
                refused[:] = False
                break
            x[passive[out]] = 0.0
            for i in range(count - 1, -1, -1):
                if i == out or not x[passive[i]] > 0:
                    x[passive[i]] = 0.0
                    held[passive[i]] = True
                    _drop(A, b, passive, count, i)
                    count -= 1
            if count == 0:
                break
    return steps
