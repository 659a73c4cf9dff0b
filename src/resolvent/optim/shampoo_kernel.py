"""What Shampoo does beside its matrix products, over memory: Adam's moments and sizes, and steps of a given size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def sizes(
    table: Any, chunks: Any, like: Any, zero: Any, sums: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any, unbias1: Any,
    unbias2: Any, eps: Any,
) -> None:  # fmt: skip
    """Both moments of Adam, and the squared sizes of its direction in every piece; columns g, m, v."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        g = part(table[i, 0], start, stop, like)
        m, v = part(table[i, 1], start, stop, like), part(table[i, 2], start, stop, like)
        total = zero
        for j in range(stop - start):
            m[j] = beta1 * m[j] + rest1 * g[j]
            v[j] = beta2 * v[j] + rest2 * g[j] * g[j]
            r = unbias1 * m[j] / (unbias2 * math.sqrt(v[j]) + eps)
            total += r * r
        sums[c, 0] = total


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def adam(
    table: Any, chunks: Any, like: Any, keep: Any, lr: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any, unbias1: Any,
    unbias2: Any, eps: Any,
) -> None:  # fmt: skip
    """A step of Adam; columns g, m, v, p."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        g, p = part(table[i, 0], start, stop, like), part(table[i, 3], start, stop, like)
        m, v = part(table[i, 1], start, stop, like), part(table[i, 2], start, stop, like)
        for j in range(stop - start):
            m[j] = beta1 * m[j] + rest1 * g[j]
            v[j] = beta2 * v[j] + rest2 * g[j] * g[j]
            p[j] = keep * p[j] - lr * (unbias1 * m[j] / (unbias2 * math.sqrt(v[j]) + eps))


@numba.njit(inline="always")
def _wide(bits: Any) -> Any:
    """The float32 that is a bfloat16 followed by zeros."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def squares(table: Any, chunks: Any, like: Any, narrow: Any, zero: Any, sums: Any) -> None:
    """The squared sizes of directions in every piece; column 1 holds them, in bfloat16 where `narrow` has entries."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        total = zero
        if narrow.shape[0] > 0:
            short = part(table[i, 1], start, stop, narrow)
            for j in range(stop - start):
                d = _wide(short[j])
                total += d * d
        else:
            full = part(table[i, 1], start, stop, like)
            for j in range(stop - start):
                total += full[j] * full[j]
        sums[c, 0] = total


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def apply(table: Any, chunks: Any, like: Any, narrow: Any, keep: Any, scale: Any) -> None:
    """p <- keep p - scale D with a scale for every tensor; columns p, D."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, s = part(table[i, 0], start, stop, like), scale[i]
        if narrow.shape[0] > 0:
            short = part(table[i, 1], start, stop, narrow)
            for j in range(stop - start):
                p[j] = keep * p[j] - s * _wide(short[j])
        else:
            full = part(table[i, 1], start, stop, like)
            for j in range(stop - start):
                p[j] = keep * p[j] - s * full[j]
