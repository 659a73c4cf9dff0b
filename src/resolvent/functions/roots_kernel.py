"""Numba kernels for roots of many small positive definite matrices: one matrix at a time, everything in the cache.

A = R^H R by Cholesky in double precision; then the unitary factor U of R = U A^(1/2) by the plans of `minimax`, in the
precision of the data: A^(1/2) = U^H R and A^(-1/2) = R^(-1) U. As R has only the root of the condition number of A, so
have the errors.
"""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange

# Squares of pivots, relative to the size of the matrix, below which it is not surely positive definite.
_TINY = 1e-14


@njit(cache=True, nogil=True, fastmath={"contract"})
def _subtract(factors, rows, first, last, start, line):  # type: ignore[no-untyped-def]
    """line -= sum of factors[k] rows[k] for first <= k < last, from `start` on; from k on where start is negative."""
    k = first
    while k < last:
        # Slices from where it begins, as an index that starts at zero is what compilers turn into vectors; they are
        # whole vectors, and what is changed left of the start is not read.
        begin = (k if start < 0 else start) // 16 * 16
        target = line[begin:]
        if k + 4 <= last:
            f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
            r0, r1, r2, r3 = rows[k, begin:], rows[k + 1, begin:], rows[k + 2, begin:], rows[k + 3, begin:]
            for j in range(target.size):
                target[j] -= (f0 * r0[j] + f1 * r1[j]) + (f2 * r2[j] + f3 * r3[j])
            k += 4
        else:
            f0 = factors[k]
            r0 = rows[k, begin:]
            for j in range(target.size):
                target[j] -= f0 * r0[j]
            k += 1


@njit(cache=True, nogil=True, fastmath={"contract"})
def _cholesky(A, scale, R, line):  # type: ignore[no-untyped-def]
    """Upper R of A / scale = R^H R; whether all pivots are positive. `line` (2, n) is room for two rows."""
    n = A.shape[0]
    over = 1 / scale
    factors, row = line[0], line[1]
    for i in range(n):
        given, target = A[i], R[i]
        for j in range(n):
            row[j] = given[j] * over
        for k in range(i):
            factors[k] = np.conj(R[k, i])
        _subtract(factors, R, 0, i, i, row)
        pivot = row[i].real
        if not pivot > _TINY * n:
            return False
        c = 1 / np.sqrt(pivot)
        for j in range(n):
            target[j] = row[j] * c
        target[:i] = 0
    return True


@njit(cache=True, nogil=True, fastmath={"contract"})
def _inverse(R, W, line):  # type: ignore[no-untyped-def]
    """W = R^(-1) of upper R."""
    n = R.shape[0]
    row = line[0]
    for i in range(n - 1, -1, -1):
        target = W[i]
        row[:] = 0
        row[i] = 1
        _subtract(R[i], W, i + 1, n, -1, row)
        c = 1 / R[i, i].real
        for j in range(n):
            target[j] = row[j] * c


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _size(A, columns):  # type: ignore[no-untyped-def]
    """A bound of the norm: that of Frobenius, or the root of the product of the largest row and column sums."""
    rows = 0.0
    squares = 0.0
    columns[:] = 0
    for i in range(A.shape[0]):
        row = A[i]
        total = 0.0
        for j in range(row.size):
            size = np.float64(abs(row[j]))
            total += size
            squares += size * size
            columns[j] += size
        rows = max(rows, total)
    return min(np.sqrt(squares), np.sqrt(rows) * np.sqrt(columns.max()))


@njit(cache=True, nogil=True)
def _gram(X, is_complex, out):  # type: ignore[no-untyped-def]
    if is_complex:
        np.dot(np.conj(X).T, X, out)
    else:
        np.dot(X.T, X, out)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _polynomial(G, step, squared, D2, D3, P):  # type: ignore[no-untyped-def]
    """P of a step of a plan at G (see `minimax.Step`), in one product, two or three for 3, 5 or 7 coefficients.

    squared: D2 = G^2 is there already. G, D2 and D3 are lost.
    """
    n = G.shape[0]
    kind = int(step[0])
    if kind != 0:
        s = G.dtype.type(step[1])
        for i in range(n):
            row = G[i]
            for j in range(n):
                row[j] *= -s
            row[i] += 1
    if kind != 0 or not squared:
        np.dot(G, G, D2)
    c0, c1, c2 = G.dtype.type(step[2]), G.dtype.type(step[3]), G.dtype.type(step[4])
    if kind <= 3:
        for i in range(n):
            row, square, target = G[i], D2[i], P[i]
            for j in range(n):
                target[j] = c1 * row[j] + c2 * square[j]
            target[i] += c0
        return
    # Above the middle, a polynomial times D^2 or D^3: what is below goes to G meanwhile.
    c3, c4 = G.dtype.type(step[5]), G.dtype.type(step[6])
    if kind == 5:
        for i in range(n):
            row, square, cube = G[i], D2[i], D3[i]
            for j in range(n):
                d = row[j]
                cube[j] = c3 * d + c4 * square[j]
                row[j] = c1 * d
            cube[i] += c2
            row[i] += c0
        np.dot(D2, D3, P)
    else:
        c5, c6 = G.dtype.type(step[7]), G.dtype.type(step[8])
        np.dot(D2, G, D3)
        for i in range(n):
            row, square, cube = G[i], D2[i], D3[i]
            for j in range(n):
                d, d2 = row[j], square[j]
                square[j] = c4 * d + c5 * d2 + c6 * cube[j]
                row[j] = c1 * d + c2 * d2
            square[i] += c3
            row[i] += c0
        np.dot(D3, D2, P)
    for i in range(n):
        row, target = G[i], P[i]
        for j in range(n):
            target[j] += row[j]


@njit(cache=True, nogil=True)
def _hermitian(S, factor, out):  # type: ignore[no-untyped-def]
    n = S.shape[0]
    for i in range(n):
        for j in range(i + 1):
            value = (S[i, j] + np.conj(S[j, i])) * (0.5 * factor)
            out[i, j] = value
            out[j, i] = np.conj(value)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _frobenius(A):  # type: ignore[no-untyped-def]
    squares = 0.0
    for i in range(A.shape[0]):
        row = A[i]
        for j in range(row.size):
            squares += np.float64(abs(row[j])) ** 2
    return np.sqrt(squares)


@njit(cache=True, nogil=True)
def _start(A, is_complex, R, line, columns, work):  # type: ignore[no-untyped-def]
    """Cholesky factor and first steps: G = A / scale with norm at most one, D2 = G^2, X^H X = G, W = R^(-1) and a bound
    of the condition number; 0 where A is not surely positive definite. Also the scales of R and of G."""
    n = A.shape[0]
    G, X, Y, D2, W = work[0], work[1], work[2], work[3], work[5]
    scale = _size(A, columns)
    if not scale > 0 or not _cholesky(A, scale, R, line):
        return 0.0, scale, scale
    over = 1 / scale
    for i in range(n):
        for j in range(n):
            G[i, j] = A[i, j] * over
            X[i, j] = R[i, j]
    _inverse(X, W, work[6])
    # The norms of squares are far better bounds than those of the matrices, and G^2 is needed anyway.
    np.dot(G, G, D2)
    if is_complex:
        np.dot(W, np.conj(W).T, Y)
    else:
        np.dot(W, W.T, Y)
    tight = np.sqrt(_frobenius(D2)) * (1 + 1e-5)
    c, c2, root = 1 / tight, 1 / tight**2, 1 / np.sqrt(tight)
    for i in range(n):
        for j in range(n):
            G[i, j] *= c
            D2[i, j] *= c2
            X[i, j] *= root
    return _frobenius(Y) * tight * (1 + 1e-5), scale, scale * tight


@njit(cache=True, nogil=True)
def _root(A, p, table, counts, is_complex, R, line, columns, work, out):  # type: ignore[no-untyped-def]
    """A^(1/2) for p = 0, A^(-1/p) for p = 2 or 4, into `out` (which may be A); the plan and the scale.

    The plan is -1 where another way is needed.
    """
    condition, given, scale = _start(A, is_complex, R, line, columns, work)
    row = max(int(np.ceil(np.log2(condition))) - 1, 0) if condition > 0 else -1
    if row < 0 or row >= table.shape[0]:
        return -1, scale
    n = A.shape[0]
    G, X, Y, D2, P, W, Z = work[0], work[1], work[2], work[3], work[4], work[5], work[6]
    steps = counts[row]
    for k in range(steps):
        if k > 0:
            _gram(X, is_complex, G)
        _polynomial(G, table[row, k], k == 0, D2, Y, P)
        if p == 4:
            # X = R Z^2 and G = X^H X = Z A Z^3: the roots that X loses, Z takes.
            if k == 0:
                Z[:] = P
            else:
                np.dot(Z, P, Y)
                Y, Z = Z, Y
            if k < steps - 1:
                np.dot(X, P, Y)
                np.dot(Y, P, X)
        else:
            np.dot(X, P, Y)
            X, Y = Y, X
    if p == 4:
        _hermitian(Z, scale**-0.25, out)
        return row, scale
    if p == 2:
        np.dot(W, X, Y)
        _hermitian(Y, 1 / np.sqrt(given), out)
        return row, scale
    for i in range(n):
        for j in range(n):
            G[i, j] = R[i, j]
    if is_complex:
        np.dot(np.conj(X).T, G, Y)
    else:
        np.dot(X.T, G, Y)
    _hermitian(Y, np.sqrt(given), out)
    return row, scale


@njit(cache=True, nogil=True)
def _roots(A, first, last, halvings, p, tables, counts, is_complex, double, out, rows, scales):  # type: ignore[no-untyped-def]
    n = A.shape[1]
    R, line, columns = np.empty((n, n), double.dtype), np.empty((2, n), double.dtype), np.empty(n, np.float64)
    work = np.empty((7, n, n), A.dtype)
    rest = (is_complex, R, line, columns, work)
    for b in range(first, last):
        out[b] = A[b]
        rows[b] = 0
        for _ in range(halvings):
            if rows[b] >= 0:
                rows[b], scales[b] = _root(out[b], 0, tables[0], counts[0], *rest, out[b])
        if rows[b] >= 0 and p > 0:
            which = 1 if p == 4 else 0
            rows[b], scales[b] = _root(out[b], p, tables[which], counts[which], *rest, out[b])


@njit(cache=True, nogil=True)
def roots(A, halvings, p, tables, counts, is_complex, double, out, rows, scales):  # type: ignore[no-untyped-def]
    """Of A (b, n, n), halved `halvings` times and then, where p is 2 or 4, the inverse p-th root, on this thread.

    tables, counts: the plans of p = 2 and 4. rows gets the plan of the last step, -1 where a matrix is not surely
    positive definite, and scales the bound of the norm that it was divided by.
    """
    _roots(A, 0, A.shape[0], halvings, p, tables, counts, is_complex, double, out, rows, scales)


@njit(cache=True, nogil=True, parallel=True)
def roots_in_parallel(A, bounds, halvings, p, tables, counts, is_complex, double, out, rows, scales):  # type: ignore[no-untyped-def]
    """The same, block t the matrices bounds[t] to bounds[t + 1]."""
    for t in prange(bounds.size - 1):
        _roots(A, bounds[t], bounds[t + 1], halvings, p, tables, counts, is_complex, double, out, rows, scales)
