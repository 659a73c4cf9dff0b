"""Numba kernel of the Lyapunov equations S X + X S = E of many small positive definite S, by the sign of a block matrix.

The sign of [[S, E], [0, -S]] is [[I, 2 X], [0, -I]]: the steps X <- X P(X^2) of a plan (see `minimax`) act on the two
blocks [[b, c], [0, -b]], in products only and without a decomposition.
"""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange


@njit(cache=True, nogil=True)
def _step(b, c, coefficients, sign, is_complex, W):  # type: ignore[no-untyped-def]
    """The blocks after one step go to W[5] and W[6]. E^H = sign E, or sign = 0 for any E."""
    n = b.shape[0]
    one = W.dtype.type(1)
    c0, c1, c2 = one * coefficients[0], one * coefficients[1], one * coefficients[2]
    g, g2, d, h, P = W[0], W[1], W[2], W[3], W[4]
    np.dot(b, b, g)
    np.dot(b, c, d)
    # d = b c - c b; c b is the adjoint of b c, up to the sign, where E is Hermitian or skew
    if sign == 0:
        np.dot(c, b, h)
        for i in range(n):
            for j in range(n):
                d[i, j] -= h[i, j]
    else:
        _minus_adjoint(d, sign, is_complex, h)
        d[:] = h
    if coefficients[2] == 0:
        for i in range(n):
            for j in range(n):
                h[i, j] = c1 * d[i, j]
                P[i, j] = c1 * g[i, j]
            P[i, i] += c0
    else:
        np.dot(g, g, g2)
        np.dot(g, d, h)
        if sign == 0:
            np.dot(d, g, P)
            for i in range(n):
                for j in range(n):
                    h[i, j] += P[i, j]
        else:
            # d has the opposite symmetry of c
            _minus_adjoint(h, sign, is_complex, P)
            h[:] = P
        for i in range(n):
            for j in range(n):
                h[i, j] = c1 * d[i, j] + c2 * h[i, j]
                P[i, j] = c1 * g[i, j] + c2 * g2[i, j]
            P[i, i] += c0
    np.dot(b, P, W[5])
    np.dot(b, h, W[6])
    np.dot(c, P, d)
    for i in range(n):
        for j in range(n):
            W[6, i, j] += d[i, j]


@njit(cache=True, nogil=True)
def _minus_adjoint(M, sign, is_complex, out):  # type: ignore[no-untyped-def]
    """out = M - sign M^H."""
    n = M.shape[0]
    s = M.dtype.type(sign)
    if is_complex:
        for i in range(n):
            for j in range(n):
                out[i, j] = M[i, j] - s * np.conj(M[j, i])
    else:
        for i in range(n):
            for j in range(n):
                out[i, j] = M[i, j] - s * M[j, i]


@njit(cache=True, nogil=True)
def _symmetry(E):  # type: ignore[no-untyped-def]
    """1 for a Hermitian matrix, -1 for a skew one, else 0."""
    n = E.shape[0]
    even, odd = True, True
    for i in range(n):
        for j in range(i + 1):
            x, y = E[i, j], np.conj(E[j, i])
            even = even and x == y
            odd = odd and x == -y
    return 1 if even else -1 if odd else 0


@njit(cache=True, nogil=True)
def _solve(S, E, coefficients, tolerance, scale, is_complex, W, out):  # type: ignore[no-untyped-def]
    """One equation; scale is a bound of |S|. Stops where b is within `tolerance` of the identity (Frobenius)."""
    n = S.shape[0]
    b, c = W[7], W[8]
    over = W.dtype.type(1 / scale)
    for i in range(n):
        for j in range(n):
            b[i, j] = S[i, j] * over
            c[i, j] = E[i, j] * over
    sign = _symmetry(E)
    for k in range(coefficients.shape[0]):
        if tolerance > 0:
            distance = 0.0
            for i in range(n):
                for j in range(n):
                    size = abs(b[i, j] - (1 if i == j else 0))
                    distance += size * size
            if distance < tolerance * tolerance:
                break
        _step(b, c, coefficients[k], sign, is_complex, W)
        b[:] = W[5]
        c[:] = W[6]
    for i in range(n):
        for j in range(n):
            out[i, j] = c[i, j] * 0.5


@njit(cache=True, nogil=True, parallel=True)
def lyapunov(S, E, coefficients, counts, rows, tolerance, scales, bounds, is_complex, out):  # type: ignore[no-untyped-def]
    """X of S X + X S = E, (b, n, n), block t the matrices bounds[t] to bounds[t + 1].

    coefficients (plans, steps, 3): of c0 I + c1 b^2 + c2 b^4, with `rows` the plan of each matrix and counts the steps.
    """
    for t in prange(bounds.size - 1):
        W = np.empty((9, S.shape[1], S.shape[1]), S.dtype)
        for i in range(bounds[t], bounds[t + 1]):
            plan = coefficients[rows[i], : counts[rows[i]]]
            _solve(S[i], E[i], plan, tolerance, scales[i], is_complex, W, out[i])
