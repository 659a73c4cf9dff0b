"""Passes of LARS, LAMB and Nesterov momentum over memory."""

from __future__ import annotations

import math
from typing import Any

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def nag(table: Any, chunks: Any, like: Any, keep: Any, lr: Any, momentum: Any) -> None:
    """b <- momentum b + g, p <- keep p - lr (g + momentum b)."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g, b = (
            part(table[i, 0], start, stop, like),
            part(table[i, 1], start, stop, like),
            part(table[i, 2], start, stop, like),
        )
        for j in range(stop - start):
            b[j] = momentum * b[j] + g[j]
            p[j] = keep * p[j] - lr * (g[j] + momentum * b[j])


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def squares(table: Any, chunks: Any, like: Any, zero: Any, sums: Any) -> None:
    """The squared sizes of parameter and gradient in every piece."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, like)
        pp, gg = zero, zero
        for j in range(stop - start):
            pp += p[j] * p[j]
            gg += g[j] * g[j]
        sums[c, 0] = pp
        sums[c, 1] = gg


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def lars(table: Any, chunks: Any, like: Any, scale: Any, decay: Any, lr: Any, momentum: Any) -> None:
    """b <- momentum b + scale (g + decay p), p <- p - lr b, with a scale and a decay for every tensor."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g, b = (
            part(table[i, 0], start, stop, like),
            part(table[i, 1], start, stop, like),
            part(table[i, 2], start, stop, like),
        )
        s, d = scale[i], decay[i]
        for j in range(stop - start):
            b[j] = momentum * b[j] + s * (g[j] + d * p[j])
            p[j] -= lr * b[j]


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def moments(
    table: Any, chunks: Any, like: Any, zero: Any, sums: Any, beta1: Any, beta2: Any, rest1: Any, rest2: Any, unbias1: Any,
    unbias2: Any, eps: Any, decay: Any,
) -> None:  # fmt: skip
    """Both moments of Adam, and the squared sizes of parameter and direction in every piece."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, like)
        m, v = part(table[i, 2], start, stop, like), part(table[i, 3], start, stop, like)
        pp, rr = zero, zero
        for j in range(stop - start):
            m[j] = beta1 * m[j] + rest1 * g[j]
            v[j] = beta2 * v[j] + rest2 * g[j] * g[j]
            r = unbias1 * m[j] / (unbias2 * math.sqrt(v[j]) + eps) + decay * p[j]
            pp += p[j] * p[j]
            rr += r * r
        sums[c, 0] = pp
        sums[c, 1] = rr


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def lamb(table: Any, chunks: Any, like: Any, scale: Any, unbias1: Any, unbias2: Any, eps: Any, decay: Any) -> None:
    """p <- p - scale r with Adam's direction r and a scale for every tensor."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, m, v = (
            part(table[i, 0], start, stop, like),
            part(table[i, 2], start, stop, like),
            part(table[i, 3], start, stop, like),
        )
        s = scale[i]
        for j in range(stop - start):
            p[j] -= s * (unbias1 * m[j] / (unbias2 * math.sqrt(v[j]) + eps) + decay * p[j])
