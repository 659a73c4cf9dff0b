"""Numba kernels for incomplete factors in compressed rows: the factorisation without fill and the substitutions.

Both factors share one matrix of sorted rows: left of the diagonal the lower factor, whose own diagonal is one, and from
the diagonal on the upper one. Blocks of k columns are row-major (n, k).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def diagonal_places(indptr, indices):  # type: ignore[no-untyped-def]
    """Where each row has its diagonal entry; -1 for none."""
    n = indptr.size - 1
    places = np.full(n, -1, np.int64)
    for i in range(n):
        for p in range(indptr[i], indptr[i + 1]):
            if indices[p] == i:
                places[i] = p
    return places


@njit(cache=True, nogil=True)
def incomplete_lu(indptr, indices, values, places):  # type: ignore[no-untyped-def]
    """Gaussian elimination in place that drops what falls outside the pattern; the row of a zero pivot, or -1."""
    n = indptr.size - 1
    where = np.full(n, -1, np.int64)
    for i in range(n):
        first, last = indptr[i], indptr[i + 1]
        for p in range(first, last):
            where[indices[p]] = p
        for p in range(first, places[i]):
            k = indices[p]
            factor = values[p] / values[places[k]]
            values[p] = factor
            for q in range(places[k] + 1, indptr[k + 1]):
                target = where[indices[q]]
                if target >= 0:
                    values[target] -= factor * values[q]
        for p in range(first, last):
            where[indices[p]] = -1
        if values[places[i]] == 0 or not np.isfinite(np.abs(values[places[i]])):
            return i
    return -1


@njit(cache=True, nogil=True)
def substitute(indptr, indices, values, places, x):  # type: ignore[no-untyped-def]
    """x <- U^-1 L^-1 x."""
    n, k = x.shape
    for i in range(n):
        for p in range(indptr[i], places[i]):
            j, factor = indices[p], values[p]
            for c in range(k):
                x[i, c] -= factor * x[j, c]
    for i in range(n - 1, -1, -1):
        for p in range(places[i] + 1, indptr[i + 1]):
            j, factor = indices[p], values[p]
            for c in range(k):
                x[i, c] -= factor * x[j, c]
        pivot = values[places[i]]
        for c in range(k):
            x[i, c] /= pivot


@njit(cache=True, nogil=True)
def substitute_adjoint(indptr, indices, values, places, x):  # type: ignore[no-untyped-def]
    """x <- L^-H U^-H x: the columns of the adjoint are the rows at hand."""
    n, k = x.shape
    for i in range(n):
        pivot = np.conj(values[places[i]])
        for c in range(k):
            x[i, c] /= pivot
        for p in range(places[i] + 1, indptr[i + 1]):
            j, factor = indices[p], np.conj(values[p])
            for c in range(k):
                x[j, c] -= factor * x[i, c]
    for i in range(n - 1, -1, -1):
        for p in range(indptr[i], places[i]):
            j, factor = indices[p], np.conj(values[p])
            for c in range(k):
                x[j, c] -= factor * x[i, c]
