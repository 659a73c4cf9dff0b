"""Ranks modulo a prime: of many matrices, and of all the points of an affine space."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _inverse(a, p):  # type: ignore[no-untyped-def]
    """a^-1 mod p by Euclid's algorithm."""
    r, s, x, y = p, a, 0, 1
    while s > 1:
        q = r // s
        r, s = s, r - q * s
        x, y = y, x - q * y
    return y % p


@njit(cache=True, nogil=True)
def rank_of(A, p):  # type: ignore[no-untyped-def]
    """The rank of A mod p, p < 2^31; A holds residues and is overwritten."""
    rows, columns = A.shape
    rank = 0
    for j in range(columns):
        i = rank
        while i < rows and A[i, j] == 0:
            i += 1
        if i == rows:
            continue
        for k in range(j, columns):
            A[i, k], A[rank, k] = A[rank, k], A[i, k]
        scale = _inverse(A[rank, j], p)
        for i in range(rank + 1, rows):
            if A[i, j]:
                f = A[i, j] * scale % p
                for k in range(j, columns):
                    A[i, k] = (A[i, k] - f * A[rank, k]) % p
        rank += 1
        if rank == rows:
            break
    return rank


@njit(cache=True, nogil=True)
def ranks_of(points, p):  # type: ignore[no-untyped-def]
    """The rank mod p of each matrix (S, n, m); the matrices are overwritten."""
    found = np.empty(len(points), np.int64)
    for i in range(len(points)):
        found[i] = rank_of(points[i], p)
    return found


@njit(cache=True, nogil=True)
def scan(offset, basis, p, low, high, counts):  # type: ignore[no-untyped-def]
    """Count the ranks of all points offset + sum c_i basis_i, c_i in F_p; stop at the first outside [low, high].

    Returns the number of points seen.
    """
    d, (n, m) = len(basis), offset.shape
    point, work, digits = offset.copy(), np.empty((n, m), np.int64), np.zeros(d, np.int64)
    seen = 0
    while True:
        work[:] = point
        rank = rank_of(work, p)
        counts[rank] += 1
        seen += 1
        if rank < low or rank > high:
            return seen
        i = 0
        # An odometer: a digit that turns over to zero adds its direction a p-th time, which is zero.
        while i < d:
            for a in range(n):
                for b in range(m):
                    point[a, b] = (point[a, b] + basis[i, a, b]) % p
            digits[i] += 1
            if digits[i] < p:
                break
            digits[i] = 0
            i += 1
        if i == d:
            return seen
