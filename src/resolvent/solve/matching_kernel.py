"""Numba kernels for aggregates from matchings of the edges of a matrix."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def compatible(indptr, indices, values, diagonal, w):  # type: ignore[no-untyped-def]
    """Weights 1 - 2 a_ij w_i w_j / (a_ii w_i^2 + a_jj w_j^2) of the entries off the diagonal, 0 on it.

    Large where the pair (w_i, w_j), and no other on its line, has a small energy: where i and j may share an unknown.
    """
    found = np.zeros(values.size, np.float64)
    for i in range(indptr.size - 1):
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if j != i and values[p] != 0:
                below = diagonal[i] * w[i] * w[i] + diagonal[j] * w[j] * w[j]
                if below > 0:
                    found[p] = max(0.0, 1 - 2 * values[p] * w[i] * w[j] / below)
    return found


@njit(cache=True, nogil=True)
def suitors(indptr, indices, weights):  # type: ignore[no-untyped-def]
    """The mate of every vertex, or -1: a matching of at least half of the largest weight (Manne and Halappanavar)."""
    n = indptr.size - 1
    suitor = np.full(n, -1, np.int64)
    offer = np.zeros(n, np.float64)
    for start in range(n):
        u = start
        while u >= 0:
            best, heaviest = -1, 0.0
            for p in range(indptr[u], indptr[u + 1]):
                v = indices[p]
                if v != u and weights[p] > heaviest and weights[p] > offer[v]:
                    best, heaviest = v, weights[p]
            if best < 0:
                break
            jilted = suitor[best]
            suitor[best], offer[best] = u, heaviest
            u = jilted
    mate = np.full(n, -1, np.int64)
    for u in range(n):
        v = suitor[u]
        if v >= 0 and suitor[v] == u:
            mate[u] = v
    return mate


@njit(cache=True, nogil=True)
def pairs(indptr, indices, weights, mate):  # type: ignore[no-untyped-def]
    """The aggregate of every vertex and their number: matched pairs, and what is left beside its best neighbour.

    Left alone, the leaves of a star would stay on every level.
    """
    n = mate.size
    label = np.full(n, -1, np.int32)
    count = 0
    for u in range(n):
        if label[u] < 0 and mate[u] >= 0:
            label[u] = label[mate[u]] = count
            count += 1
    for u in range(n):
        if mate[u] < 0:
            best, heaviest = -1, 0.0
            for p in range(indptr[u], indptr[u + 1]):
                v = indices[p]
                if v != u and mate[v] >= 0 and weights[p] > heaviest:
                    best, heaviest = v, weights[p]
            if best >= 0:
                label[u] = label[best]
            else:
                label[u] = count
                count += 1
    return label, count
