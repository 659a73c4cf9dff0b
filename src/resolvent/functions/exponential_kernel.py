"""Numba kernel of the exponential on the CPU: one matrix at a time, small ones in the cache.

The polynomials are those of `exponential`; products go to BLAS, all sums of powers are one pass.
"""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange


@njit(cache=True, nogil=True)
def _one_norm(A):  # type: ignore[no-untyped-def]
    n = A.shape[0]
    sums = np.zeros(n, np.float64)
    for i in range(n):
        for j in range(n):
            sums[j] += abs(A[i, j])
    return sums.max()


# Sides up to which a loop over three indices beats the call of BLAS, and from which sums of powers take two cores.
_TINY, _WIDE = 6, 800


@njit(cache=True, nogil=True)
def _multiply(A, B, out):  # type: ignore[no-untyped-def]
    n = A.shape[0]
    if n > _TINY:
        np.dot(A, B, out)
        return
    for i in range(n):
        for j in range(n):
            out[i, j] = 0
        for k in range(n):
            a = A[i, k]
            for j in range(n):
                out[i, j] += a * B[k, j]


@njit(cache=True, nogil=True)
def _combine_row(coefficients, powers, count, out, i):  # type: ignore[no-untyped-def]
    n = powers.shape[1]
    for r in range(coefficients.shape[0]):
        row = out[r, i]
        c = coefficients[r, 1]
        first = powers[0, i]
        for j in range(n):
            row[j] = c * first[j]
        for p in range(1, count):
            c = coefficients[r, p + 1]
            if c != 0:
                line = powers[p, i]
                for j in range(n):
                    row[j] += c * line[j]
        row[i] += coefficients[r, 0]


@njit(cache=True, nogil=True, parallel=True)
def _combine_wide(coefficients, powers, count, out):  # type: ignore[no-untyped-def]
    for i in prange(powers.shape[1]):
        _combine_row(coefficients, powers, count, out, i)


@njit(cache=True, nogil=True)
def _combine(coefficients, powers, count, out):  # type: ignore[no-untyped-def]
    """out[r] = coefficients[r, 0] I + sum over p of coefficients[r, p + 1] powers[p]."""
    if powers.shape[1] >= _WIDE:
        _combine_wide(coefficients, powers, count, out)
        return
    for i in range(powers.shape[1]):
        _combine_row(coefficients, powers, count, out, i)


@njit(cache=True, nogil=True)
def _rounding(A, degree, log_factorial, digits):  # type: ignore[no-untyped-def]
    """Halvings more so that the powers of |A|, which rounding errors see, stay small too."""
    n = A.shape[0]
    x = np.ones(n, np.float64)
    total = 0.0
    norm = 0.0
    for step in range(degree + 1):
        y = np.zeros(n, np.float64)
        for i in range(n):
            for j in range(n):
                y[j] += x[i] * abs(A[i, j])
        top = y.max()
        if step == 0:
            norm = top
        if top == 0:
            return 0
        total += np.log2(top)
        x = y / top
    excess = total - np.log2(norm) - log_factorial + digits
    return max(0, int(np.ceil(excess / degree)))


@njit(cache=True, nogil=True)
def _scale(powers, count, c):  # type: ignore[no-untyped-def]
    """The powers of a matrix become those of the matrix times c."""
    factor = c
    if c == 1:
        return
    for p in range(count):
        for i in range(powers.shape[1]):
            for j in range(powers.shape[2]):
                powers[p, i, j] *= factor
        factor *= c


@njit(cache=True, nogil=True)
def _exponential(A, S, W, out, thetas, eight, twelve, eighteen, digits):  # type: ignore[no-untyped-def]
    """One matrix into `out`; S (4, n, n) holds powers, W (5, n, n) sums of them."""
    n = A.shape[0]
    S[0] = A
    norm = _one_norm(A)
    before = 0
    if norm > 2.0**30:
        # powers of an enormous matrix would overflow before its norm could be told from theirs
        before = int(np.ceil(np.log2(norm) - 30))
        _scale(S, 1, 0.5**before)
        norm *= 0.5**before
    if norm <= thetas[0]:
        # one product: I + A + A^2 / 2
        _multiply(A, A, S[1])
        for i in range(n):
            for j in range(n):
                out[i, j] = A[i, j] + S[1, i, j] / 2
            out[i, i] += 1
        return
    _multiply(S[0], S[0], S[1])
    if norm <= thetas[1]:
        _combine(eight, S, 2, W)
        # W[0] = x1 A + x2 A2 gives A4; W[1] = x3 A2; W[2] = the other factor without A4; W[3] = I + A + y A2
        _multiply(S[1], W[0], S[2])
        x7 = eight[4, 0]
        for i in range(n):
            for j in range(n):
                W[1, i, j] += S[2, i, j]
                W[2, i, j] += x7 * S[2, i, j]
        _multiply(W[1], W[2], out)
        for i in range(n):
            for j in range(n):
                out[i, j] += W[3, i, j]
        return
    _multiply(S[1], S[0], S[2])
    alpha = min(norm, max(np.sqrt(_one_norm(S[1])), np.cbrt(_one_norm(S[2]))))
    spread = 2 * alpha < norm
    if before == 0 and alpha <= thetas[2] and not (spread and _rounding(A, 12, 32.535, digits) > 0):
        _combine(twelve, S, 3, W)
        _multiply(W[3], W[3], S[3])
        for i in range(n):
            for j in range(n):
                W[2, i, j] += S[3, i, j]
                W[1, i, j] += W[2, i, j]
        _multiply(W[1], W[2], out)
        for i in range(n):
            for j in range(n):
                out[i, j] += W[0, i, j]
        return
    s = max(0, int(np.ceil(np.log2(alpha / thetas[3]))))
    _scale(S, 3, 0.5**s)
    if spread:
        more = _rounding(S[0], 18, 56.747, digits)
        _scale(S, 3, 0.5**more)
        s += more
    _multiply(S[2], S[2], S[3])
    _combine(eighteen, S, 4, W)
    _multiply(W[0], W[4], S[0])
    for i in range(n):
        for j in range(n):
            S[0, i, j] += W[3, i, j]
            W[2, i, j] += S[0, i, j]
    _multiply(W[2], S[0], out)
    for i in range(n):
        for j in range(n):
            out[i, j] += W[1, i, j]
    for _ in range(s + before):
        S[0] = out
        _multiply(S[0], S[0], out)


@njit(cache=True, nogil=True)
def _block(A, first, last, thetas, eight, twelve, eighteen, digits, out):  # type: ignore[no-untyped-def]
    n = A.shape[1]
    S = np.empty((4, n, n), A.dtype)
    W = np.empty((5, n, n), A.dtype)
    for b in range(first, last):
        _exponential(A[b], S, W, out[b], thetas, eight, twelve, eighteen, digits)


@njit(cache=True, nogil=True)
def exponentials(A, thetas, eight, twelve, eighteen, digits, out):  # type: ignore[no-untyped-def]
    """Exponentials of A (b, n, n) into `out`, on the thread that calls."""
    _block(A, 0, A.shape[0], thetas, eight, twelve, eighteen, digits, out)


@njit(cache=True, nogil=True, parallel=True)
def exponentials_in_parallel(A, bounds, thetas, eight, twelve, eighteen, digits, out):  # type: ignore[no-untyped-def]
    """The same, block t the matrices bounds[t] to bounds[t + 1]."""
    for t in prange(bounds.size - 1):
        _block(A, bounds[t], bounds[t + 1], thetas, eight, twelve, eighteen, digits, out)
