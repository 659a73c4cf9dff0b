"""Numba kernel of matrix completion: the small least-squares problems of all rows. Imported with the first sweep."""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange

_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def _cholesky(G, k, floor):  # type: ignore[no-untyped-def]
    """The lower factor of G in place; pivots below `floor` are raised to it, for rows with too few entries."""
    for j in range(k):
        for a in range(j):
            s = G[j, a]
            for b in range(a):
                s -= G[j, b] * G[a, b]
            G[j, a] = s / G[a, a]
        s = G[j, j]
        for b in range(j):
            s -= G[j, b] * G[j, b]
        G[j, j] = np.sqrt(max(s, floor))


@njit(cache=True, nogil=True, fastmath=_FAST)
def _solve(L, k, g, z):  # type: ignore[no-untyped-def]
    """z with L L^T z = g."""
    for a in range(k):
        s = g[a]
        for b in range(a):
            s -= L[a, b] * z[b]
        z[a] = s / L[a, a]
    for a in range(k - 1, -1, -1):
        z[a] /= L[a, a]
        for b in range(a):
            z[b] -= L[a, b] * z[a]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _gram(A, count, k, G):  # type: ignore[no-untyped-def]
    """The lower triangle of A^T A. Eight rows at once, so that a load and a store of G serve eight products."""
    for a in range(k):
        for b in range(a + 1):
            G[a, b] = 0
    for i in range(0, 8 * (count // 8), 8):
        for a in range(k):
            x0, x1, x2, x3 = A[i, a], A[i + 1, a], A[i + 2, a], A[i + 3, a]
            x4, x5, x6, x7 = A[i + 4, a], A[i + 5, a], A[i + 6, a], A[i + 7, a]
            for b in range(a + 1):
                G[a, b] += (x0 * A[i, b] + x1 * A[i + 1, b] + x2 * A[i + 2, b] + x3 * A[i + 3, b]) + (
                    x4 * A[i + 4, b] + x5 * A[i + 5, b] + x6 * A[i + 6, b] + x7 * A[i + 7, b]
                )
    for i in range(8 * (count // 8), count):
        for a in range(k):
            for b in range(a + 1):
                G[a, b] += A[i, a] * A[i, b]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _count_sketch(A, count, k, S, size, seed):  # type: ignore[no-untyped-def]
    """Every row of A with a random sign into one of `size` rows of S."""
    for h in range(size):
        for a in range(k):
            S[h, a] = 0
    state = np.uint64(seed) | np.uint64(1)
    for i in range(count):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        place = (state >> np.uint64(33)) % np.uint64(size)
        if state & np.uint64(1 << 20):
            for a in range(k):
                S[place, a] += A[i, a]
        else:
            for a in range(k):
                S[place, a] -= A[i, a]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _normal_product(A, count, k, p, q, w):  # type: ignore[no-untyped-def]
    """q = A p and w = A^T q in one pass over A."""
    for a in range(k):
        w[a] = 0
    for i in range(count):
        s = A[i, 0] * p[0]
        for a in range(1, k):
            s += A[i, a] * p[a]
        q[i] = s
        for a in range(k):
            w[a] += s * A[i, a]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _descend(A, count, k, x, r, g, factor, has_factor, eta, most, ridge, work, q):  # type: ignore[no-untyped-def]
    """Conjugate gradients for (A^T A + ridge) x = A^T b from x, its residual r and gradient g; returns the steps."""
    p, z, w = work[0], work[1], work[2]
    start = gamma = g[0] * 0
    for step in range(most):
        if has_factor:
            _solve(factor, k, g, z)
        else:
            for a in range(k):
                z[a] = g[a]
        new = g[0] * 0
        for a in range(k):
            new += g[a] * z[a]
        if step == 0:
            start = new
        # `<=` also ends at a zero gradient
        if (new <= eta * eta * start and step > 0) or new <= 0:
            return step
        beta = new / gamma if step else new * 0
        gamma = new
        for a in range(k):
            p[a] = z[a] + beta * p[a] if step else z[a]
        _normal_product(A, count, k, p, q, w)
        below = g[0] * 0
        for a in range(k):
            w[a] += ridge * p[a]
            below += w[a] * p[a]
        if below <= 0:
            return step
        alpha = gamma / below
        for a in range(k):
            x[a] += alpha * p[a]
            g[a] -= alpha * w[a]
        for i in range(count):
            r[i] -= alpha * q[i]
    return most


@njit(cache=True, nogil=True, fastmath=_FAST)
def some_rows(  # type: ignore[no-untyped-def]
    ptr, idx, val, F, X, inner, eta, most, ridge, longest, c, chunks, seed, squares, changes, steps
):
    """Rows c, c + chunks, ... of `half_sweep`."""
    rows, k = X.shape
    size = 4 * k
    tiny = np.finfo(F.dtype).eps
    A = np.empty((longest, k), F.dtype)
    S = np.empty((size, k), F.dtype)
    G = np.empty((k, k), F.dtype)
    r, first, q = np.empty(longest, F.dtype), np.empty(longest, F.dtype), np.empty(longest, F.dtype)
    work = np.empty((3, k), F.dtype)
    g, z = np.empty(k, F.dtype), np.empty(k, F.dtype)
    for i in range(c, rows, chunks):
        x = X[i]
        count = ptr[i + 1] - ptr[i]
        for a in range(k):
            g[a] = -ridge * x[a]
        for e in range(count):
            source = F[idx[ptr[i] + e]]
            s = val[ptr[i] + e]
            for a in range(k):
                A[e, a] = source[a]
                s -= source[a] * x[a]
            r[e] = s
            first[e] = s
            for a in range(k):
                g[a] += s * source[a]
        small = inner == 2 and count <= size
        has_factor = inner == 0 or small
        if has_factor:
            _gram(A, count, k, G)
        elif inner == 2:
            _count_sketch(A, count, k, S, size, seed + np.uint64(i) * np.uint64(2654435769))
            _gram(S, size, k, G)
            has_factor = True
        if has_factor:
            trace = g[0] * 0
            for a in range(k):
                trace += G[a, a]
                G[a, a] += ridge
            # a row of zeros keeps a factor that can be divided by
            floor = 4 * tiny * trace + np.finfo(F.dtype).tiny
            for a in range(k):
                G[a, a] += floor
            _cholesky(G, k, floor)
        if inner == 0 or small:
            _solve(G, k, g, z)
            _normal_product(A, count, k, z, q, work[0])
            for a in range(k):
                x[a] += z[a]
            for e in range(count):
                r[e] -= q[e]
            steps[i] = 1
        else:
            steps[i] = _descend(A, count, k, x, r, g, G, has_factor, eta, most, ridge, work, q)
        left = moved = g[0] * 0
        for e in range(count):
            left += r[e] * r[e]
            moved += (first[e] - r[e]) * (first[e] - r[e])
        squares[i], changes[i] = left, moved


@njit(cache=True, nogil=True, parallel=True)
def half_sweep(  # type: ignore[no-untyped-def]
    ptr, idx, val, F, X, inner, eta, most, ridge, longest, chunks, seed, squares, changes, steps
):
    """Row i of X becomes a (nearly) least-squares solution of F[idx] x = val over the entries of row i.

    inner: 0 exact, 1 conjugate gradients, 2 the same, preconditioned by a sketch of F[idx]. `squares`, `changes` and
    `steps` get, for each row, the residual and the change of the entries (squared) and the inner steps.
    """
    for c in prange(chunks):
        some_rows(ptr, idx, val, F, X, inner, eta, most, ridge, longest, c, chunks, seed, squares, changes, steps)


__all__ = ["half_sweep", "some_rows"]
