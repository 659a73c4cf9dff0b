"""Two passes of a learned optimizer over matrices: accumulators and the sizes of features, then the perceptron."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.operators.parallel import numba

FASTMATH = {"reassoc", "contract", "nsz"}
OWN = 16
STRIP = 64


@numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _load(p: Any, g: Any, m: Any, v: Any, fi: Any, gj: Any, mj: Any, i: int, j: int, size: int, f: Any) -> None:
    """The 16 features of a strip of one row; gj and mj are the column factors of gradients and of momenta.

    A loop for each: with more arrays in one loop than the compiler compares for overlap, it takes one number at a time.
    """
    one, tiny = p.dtype.type(1.0), p.dtype.type(1e-6)
    for k in range(size):
        f[0, k] = g[j + k]
    for k in range(size):
        f[1, k] = p[j + k]
    for k in range(size):
        f[5, k] = v[j + k]
    for k in range(size):
        f[9, k] = one / np.sqrt(f[5, k] + tiny)
    for d in range(3):
        row, gd, md, z = m[d, i], gj[d], mj[d], fi[d, i]
        for k in range(size):
            f[2 + d, k] = row[j + k]
        for k in range(size):
            f[6 + d, k] = f[2 + d, k] * f[9, k]
        for k in range(size):
            f[10 + d, k] = f[0, k] * (z * gd[j + k])
        for k in range(size):
            f[13 + d, k] = f[2 + d, k] * (z * md[j + k])


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def accumulate(p: Any, g: Any, m: Any, v: Any, fi: Any, gj: Any, mj: Any, a: Any, b: Any, sums: Any) -> None:
    """Momenta and squares move; the sum of squares of each feature over each row goes into sums (n, rows, 16)."""
    n, rows, columns = p.shape
    one = p.dtype.type(1.0)
    for r in numba.prange(n * rows):
        q, i = r // rows, r % rows
        pr, gr, vr = p[q, i], g[q, i], v[q, i]
        f = np.empty((OWN, STRIP), p.dtype)
        total = np.zeros(OWN, np.float64)
        for j in range(0, columns, STRIP):
            size = min(STRIP, columns - j)
            for k in range(size):
                vr[j + k] = b[q] * vr[j + k] + (one - b[q]) * gr[j + k] * gr[j + k]
            for d in range(3):
                keep, md = a[q, d], m[q, d, i]
                for k in range(size):
                    md[j + k] = keep * md[j + k] + (one - keep) * gr[j + k]
            _load(pr, gr, m[q], vr, fi[q], gj[q], mj[q], i, j, size, f)
            for c in range(OWN):
                part = p.dtype.type(0.0)
                for k in range(size):
                    part += f[c, k] * f[c, k]
                total[c] += part
        for c in range(OWN):
            sums[q, i, c] = total[c]


@numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _layer(w: Any, x: Any, y: Any, size: int) -> None:
    """y += w max(x, 0)"""
    zero = x.dtype.type(0.0)
    for c in range(w.shape[1]):
        for k in range(size):
            x[c, k] = zero if x[c, k] < zero else x[c, k]  # NaN stays
    for h in range(w.shape[0]):
        for c in range(w.shape[1]):
            z = w[h, c]
            for k in range(size):
                y[h, k] += z * x[c, k]


@numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _exponential(x: Any, size: int) -> None:
    """In place; numbers up to 1/2 by their series, which the processor does many of at once."""
    total = np.float32(0.0)
    for k in range(size):
        total += x[k] * x[k]
    if not total <= 0.25:
        for k in range(size):
            x[k] = np.exp(x[k])
        return
    a, b, c = np.float32(1 / 2), np.float32(1 / 3), np.float32(1 / 4)
    d, e, f = np.float32(1 / 5), np.float32(1 / 6), np.float32(1 / 7)
    one = np.float32(1.0)
    for k in range(size):
        z = x[k]
        # the next term of the series is below 1e-7 of the sum
        x[k] = one + z * (one + z * a * (one + z * b * (one + z * c * (one + z * d * (one + z * e * (one + z * f))))))


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def advance(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    fi: Any,
    gj: Any,
    mj: Any,
    first: Any,
    si: Any,
    sj: Any,
    inner: Any,
    shifts: Any,
    last: Any,
    end: Any,
    rate: Any,
) -> None:
    """p -= rate d exp(magnitude): first (n, H, 16) reads features, si and sj are what row and column add."""
    n, rows, columns = p.shape
    hidden, layers = first.shape[1], inner.shape[1]
    thousandth = p.dtype.type(1e-3)
    for r in numba.prange(n * rows):
        q, i = r // rows, r % rows
        pr, gr, vr = p[q, i], g[q, i], v[q, i]
        f = np.empty((OWN, STRIP), p.dtype)
        x = np.empty((hidden, STRIP), p.dtype)
        y = np.empty((hidden, STRIP), p.dtype)
        out = np.empty((2, STRIP), p.dtype)
        for j in range(0, columns, STRIP):
            size = min(STRIP, columns - j)
            _load(pr, gr, m[q], vr, fi[q], gj[q], mj[q], i, j, size, f)
            for h in range(hidden):
                base, column = si[q, h, i], sj[q, h]
                for k in range(size):
                    x[h, k] = base + column[j + k]
                # four at a time: a quarter of the reads and writes of x
                for c in range(0, OWN, 4):
                    w0, w1, w2, w3 = first[q, h, c], first[q, h, c + 1], first[q, h, c + 2], first[q, h, c + 3]
                    f0, f1, f2, f3, xh = f[c], f[c + 1], f[c + 2], f[c + 3], x[h]
                    for k in range(size):
                        xh[k] += w0 * f0[k] + w1 * f1[k] + w2 * f2[k] + w3 * f3[k]
            for z in range(layers):
                for h in range(hidden):
                    y[h, :size] = shifts[q, z, h]
                _layer(inner[q, z], x, y, size)
                x, y = y, x
            out[0, :size] = end[q, 0]
            out[1, :size] = end[q, 1]
            _layer(last[q], x, out, size)
            for k in range(size):
                out[1, k] *= thousandth
            _exponential(out[1], size)
            for k in range(size):
                pr[j + k] -= rate * (out[0, k] * out[1, k])
