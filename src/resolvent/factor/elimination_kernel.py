"""Numba kernels of Gaussian elimination on one matrix in memory, row by row."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def eliminate(A):  # type: ignore[no-untyped-def]
    """Factors of A without pivots, in place; the first column whose pivot is zero above something else, or -1."""
    m, n = A.shape
    for k in range(min(m, n)):
        pivot = A[k, k]
        for i in range(k + 1, m):
            if A[i, k] == 0:
                continue
            if pivot == 0:
                return k
            A[i, k] /= pivot
            factor = A[i, k]
            for j in range(k + 1, n):
                A[i, j] -= factor * A[k, j]
    return -1


@njit(inline="always")
def _size(x):  # type: ignore[no-untyped-def]
    return abs(x.real) + abs(x.imag)


@njit(inline="always")
def _largest(row):  # type: ignore[no-untyped-def]
    """The largest size in a row; four at a time, because a comparison waits for the one before it."""
    zero = row[0].real * 0
    a, b, c, d = zero, zero, zero, zero
    whole = row.size - row.size % 4
    for j in range(0, whole, 4):
        a = max(a, _size(row[j]))
        b = max(b, _size(row[j + 1]))
        c = max(c, _size(row[j + 2]))
        d = max(d, _size(row[j + 3]))
    for j in range(whole, row.size):
        a = max(a, _size(row[j]))
    return max(max(a, b), max(c, d))


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def eliminate_completely(A, rows, columns, rtol):  # type: ignore[no-untyped-def]
    """Factors of A with the largest entry left as the pivot, in place; the rank. What is left beyond it stays in A."""
    m, n = A.shape
    at, best = 0, -1.0
    for i in range(m):
        largest = _largest(A[i])
        if largest > best:
            at, best = i, largest
    first = best
    for k in range(min(m, n)):
        if not best > rtol * first:
            return k
        column, seen = k, -1.0
        for j in range(k, n):
            if _size(A[at, j]) > seen:
                column, seen = j, _size(A[at, j])
        if at != k:
            rows[k], rows[at] = rows[at], rows[k]
            for j in range(n):
                A[k, j], A[at, j] = A[at, j], A[k, j]
        if column != k:
            columns[k], columns[column] = columns[column], columns[k]
            for i in range(m):
                A[i, k], A[i, column] = A[i, column], A[i, k]
        pivot = A[k, k]
        best = -1.0
        for i in range(k + 1, m):
            A[i, k] /= pivot
            factor = A[i, k]
            for j in range(k + 1, n):
                A[i, j] -= factor * A[k, j]
            if k + 1 < n:
                largest = _largest(A[i, k + 1 :])
                if largest > best:
                    at, best = i, largest
    return min(m, n)


@njit(cache=True, nogil=True)
def unpack_symmetric(F, pivots, L, d, e, order):  # type: ignore[no-untyped-def]
    """LAPACK's lower factor (sytrf, hetrf) as L, the blocks (d, e) and the order: A[order][:, order] = L D L^H."""
    n = F.shape[0]
    for i in range(n):
        order[i] = i
        L[i, i] = 1
    k = 0
    while k < n:
        double = pivots[k] < 0
        width = 2 if double else 1
        last = k + width - 1
        other = abs(pivots[k]) - 1
        if other != last:
            order[last], order[other] = order[other], order[last]
            # Columns before the block still stand in the order of their own time.
            for j in range(k):
                L[last, j], L[other, j] = L[other, j], L[last, j]
        for j in range(k, k + width):
            d[j] = F[j, j].real
            for i in range(k + width, n):
                L[i, j] = F[i, j]
        if double:
            e[k] = F[k + 1, k]
        k += width
