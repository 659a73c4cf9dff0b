"""Numba kernels of ranks modulo a prime: which subsets of vectors span given ones."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _reduce(row, basis, pivots, rank, prime):  # type: ignore[no-untyped-def]
    for k in range(rank):
        factor = row[pivots[k]]
        if factor:
            for c in range(row.size):
                row[c] = (row[c] - factor * basis[k, c]) % prime
    for c in range(row.size):
        if row[c]:
            return c
    return -1


@njit(cache=True, nogil=True)
def _insert(row, basis, pivots, rank, prime):  # type: ignore[no-untyped-def]
    pivot = _reduce(row, basis, pivots, rank, prime)
    if pivot < 0:
        return rank
    # The inverse is a power: the modulus is a prime.
    inverse, base, exponent = 1, row[pivot], prime - 2
    while exponent:
        if exponent & 1:
            inverse = inverse * base % prime
        base = base * base % prime
        exponent >>= 1
    for c in range(row.size):
        basis[rank, c] = row[c] * inverse % prime
    pivots[rank] = pivot
    return rank + 1


@njit(cache=True, nogil=True)
def _covered(T, basis, pivots, rank, prime):  # type: ignore[no-untyped-def]
    for i in range(T.shape[0]):  # noqa: SIM110 - the compiler has no generators
        if _reduce(T[i].copy(), basis, pivots, rank, prime) >= 0:
            return False
    return True


@njit(cache=True, nogil=True)
def in_span(P, T, prime):  # type: ignore[no-untyped-def]
    basis, pivots, rank = np.zeros((P.shape[1] + 1, P.shape[1]), np.int64), np.zeros(P.shape[1] + 1, np.int64), 0
    for i in range(P.shape[0]):
        rank = _insert(P[i].copy(), basis, pivots, rank, prime)
    return _covered(T, basis, pivots, rank, prime)


@njit(cache=True, nogil=True)
def lost_subsets(P, T, prime):  # type: ignore[no-untyped-def]
    """For each subset of the nodes (as bits, the first node the lowest) whether it does not span T."""
    d, width = P.shape
    basis, pivots = np.zeros((width + 1, width), np.int64), np.zeros(width + 1, np.int64)
    # ranks[k] after the highest k bits: a subset shares them with the one before it.
    ranks, lost = np.zeros(d + 1, np.int64), np.zeros(1 << d, np.bool_)
    for subset in range(1 << d):
        start = 0
        if subset:
            changed = subset ^ (subset - 1)
            bits = 0
            while changed:
                bits, changed = bits + 1, changed >> 1
            start = d - bits
        for k in range(start, d):
            node = d - 1 - k
            rank = ranks[k]
            if subset >> node & 1:
                rank = _insert(P[node].copy(), basis, pivots, rank, prime)
            ranks[k + 1] = rank
        lost[subset] = not _covered(T, basis, pivots, ranks[d], prime)
    return lost
