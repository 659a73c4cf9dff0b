"""The two passes of steepest descent around its products: momentum and bfloat16 copy before, the step after."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def mix(table: Any, chunks: Any, like: Any, narrow: Any, beta: Any, rest: Any, ahead: Any) -> Any:
    """m <- beta m + rest g, out <- u = ahead m + (1 - ahead) g in bfloat16; sums of u^2 of every piece, in double."""
    sums = np.zeros(chunks.shape[0])
    one = like.dtype.type(1.0)
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        g, m = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, like)
        out = part(table[i, 2], start, stop, narrow)
        total = 0.0
        for j in range(stop - start):
            m[j] = beta * m[j] + rest * g[j]
        for j in range(stop - start):
            u = ahead * m[j] + (one - ahead) * g[j]
            # In double before the square, which leaves float32 below 1e-23.
            total += np.float64(u) * np.float64(u)
            # To the nearest, ties to even; the sum below would turn some NaN into numbers, which the sums give away.
            bits = np.float32(u).view(np.uint32)
            out[j] = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
        sums[c] = total
    return sums


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def move(table: Any, chunks: Any, like: Any, narrow: Any, keep: Any, rate: Any) -> None:
    """p <- keep p - rate direction, the direction in bfloat16."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, direction = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, narrow)
        for j in range(stop - start):
            p[j] = keep * p[j] - rate * np.uint32(np.uint32(direction[j]) << np.uint32(16)).view(np.float32)
