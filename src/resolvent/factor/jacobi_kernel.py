"""Numba kernels of plane rotations and eliminations on pairs of columns. Columns are rows of the arrays: contiguous.

No kernel reassociates: the small angles on which the relative accuracy rests come from sums as they are written.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(inline="always")
def _dot(x, y):  # type: ignore[no-untyped-def]
    total = x[0] * 0.0
    for i in range(x.size):
        total += np.conj(x[i]) * y[i]
    return total


@njit(inline="always")
def _square(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.size):
        total += x[i].real * x[i].real + x[i].imag * x[i].imag
    return total


@njit(inline="always")
def _angle(a, b, size):  # type: ignore[no-untyped-def]
    """Cosine and sine of the rotation that makes [[a, size], [size, b]] diagonal, by the smaller angle."""
    zeta = (b - a) / (2 * size)
    # Beyond, the square overflows; the root of one more is the number itself.
    root = abs(zeta) if abs(zeta) > 1e150 else math.sqrt(1 + zeta * zeta)
    t = math.copysign(1.0, zeta) / (abs(zeta) + root)
    c = 1 / math.sqrt(1 + t * t)
    return c, c * t


@njit(inline="always")
def _turn(x, y, c, s, phase):  # type: ignore[no-untyped-def]
    """x, y <- c x - s conj(phase) y, s phase x + c y: columns times a rotation."""
    for i in range(x.size):
        left, right = x[i], np.conj(phase) * y[i]
        x[i] = c * left - s * right
        y[i] = phase * (s * left + c * right)


@njit(cache=True, nogil=True)
def rotate_columns(X, T, p, q, tol):  # type: ignore[no-untyped-def]
    """Make the columns p and q of X orthogonal, and turn those of T with them; whether they were not already."""
    a, b, c = _square(X[p]), _square(X[q]), _dot(X[p], X[q])
    size = abs(c)
    # Not with the product of the squares: it underflows where the root of each does not.
    if size == 0 or size <= tol * math.sqrt(a) * math.sqrt(b):
        return False
    cosine, sine = _angle(a, b, size)
    phase = c / size
    _turn(X[p], X[q], cosine, sine, phase)
    _turn(T[p], T[q], cosine, sine, phase)
    return True


@njit(cache=True, nogil=True)
def orthogonalize_columns(X, T, sweeps, tol):  # type: ignore[no-untyped-def]
    """One-sided Jacobi by sweeps over all pairs, the longest remaining column first; sweeps done, or -1."""
    n = X.shape[0]
    for sweep in range(sweeps):
        turned = False
        for p in range(n - 1):
            longest, at = -1.0, p
            for j in range(p, n):
                length = _square(X[j])
                if length > longest:
                    longest, at = length, j
            if at != p:
                for i in range(X.shape[1]):
                    X[p, i], X[at, i] = X[at, i], X[p, i]
                for i in range(T.shape[1]):
                    T[p, i], T[at, i] = T[at, i], T[p, i]
            for q in range(p + 1, n):
                turned |= rotate_columns(X, T, p, q, tol)
        if not turned:
            return sweep + 1
    return -1


@njit(cache=True, nogil=True)
def rotate_both(B, T, p, q, tol):  # type: ignore[no-untyped-def]
    """Make entry (p, q) of a Hermitian B zero by a rotation from both sides; whether it was not already."""
    a, b, c = B[p, p].real, B[q, q].real, B[p, q]
    size = abs(c)
    if size == 0 or size <= tol * math.sqrt(abs(a)) * math.sqrt(abs(b)):
        return False
    cosine, sine = _angle(a, b, size)
    phase = c / size
    # Rows times the adjoint of the rotation, then columns as the mirror image of the rows.
    _turn(B[p], B[q], cosine, sine, np.conj(phase))
    for i in range(B.shape[0]):
        left, right = B[i, p], np.conj(phase) * B[i, q]
        B[i, p] = cosine * left - sine * right
        B[i, q] = phase * (sine * left + cosine * right)
    tangent = sine / cosine * size
    B[p, q] = B[q, p] = 0
    B[p, p], B[q, q] = a - tangent, b + tangent
    _turn(T[p], T[q], cosine, sine, phase)
    return True


@njit(cache=True, nogil=True)
def diagonalize(B, T, sweeps, tol):  # type: ignore[no-untyped-def]
    """Two-sided Jacobi by rows; sweeps done, or -1."""
    n = B.shape[0]
    for sweep in range(sweeps):
        turned = False
        for p in range(n - 1):
            for q in range(p + 1, n):
                turned |= rotate_both(B, T, p, q, tol)
        if not turned:
            return sweep + 1
    return -1


@njit(cache=True, nogil=True)
def _eliminate_columns(X, T, p, q):  # type: ignore[no-untyped-def]
    length = _square(X[p])
    if length > 0:
        factor = _dot(X[p], X[q]) / length
        for i in range(X.shape[1]):
            X[q, i] -= factor * X[p, i]
        for i in range(T.shape[1]):
            T[q, i] -= factor * T[p, i]


@njit(cache=True, nogil=True)
def _eliminate_both(B, T, p, q):  # type: ignore[no-untyped-def]
    factor = B[p, q] / B[p, p]
    for i in range(B.shape[0]):
        B[i, q] -= factor * B[i, p]
    for i in range(B.shape[0]):
        B[q, i] -= np.conj(factor) * B[p, i]
    for i in range(T.shape[1]):
        T[q, i] -= factor * T[p, i]


@njit(cache=True, nogil=True)
def apply_subsets(X, T, subsets, triangular, both, tol):  # type: ignore[no-untyped-def]
    """One step for each row of `subsets`: make the Gram block of these columns diagonal, of X or, if `both`, X itself."""
    k = subsets.shape[1]
    for step in range(subsets.shape[0]):
        J = np.sort(subsets[step])
        if triangular[step]:
            for b in range(1, k):
                for a in range(b):
                    if both:
                        _eliminate_both(X, T, J[a], J[b])
                    else:
                        _eliminate_columns(X, T, J[a], J[b])
            continue
        # Pairs of the block, round and round, until all are done: the eigenvectors of the block.
        for _ in range(30):
            turned = False
            for a in range(k - 1):
                for b in range(a + 1, k):
                    if both:
                        turned |= rotate_both(X, T, J[a], J[b], tol)
                    else:
                        turned |= rotate_columns(X, T, J[a], J[b], tol)
            if not turned or k == 2:
                break


@njit(cache=True, nogil=True)
def draw_subsets(numbers, n):  # type: ignore[no-untyped-def]
    """Uniform k-subsets of n from rows of k large random numbers (Floyd)."""
    steps, k = numbers.shape
    out = np.empty((steps, k), np.int64)
    for step in range(steps):
        for e in range(k):
            top = n - k + e
            pick = numbers[step, e] % (top + 1)
            for f in range(e):
                if out[step, f] == pick:
                    pick = top
                    break
            out[step, e] = pick
    return out
