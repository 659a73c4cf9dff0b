"""AdaHessian over the memory of its tensors: the rates of the blocks, then one pass over parameter, gradient and momentum."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from resolvent.optim.fused_kernel import FASTMATH, view


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def rates(
    table: Any, chunks: Any, like: Any, beta2: Any, rest2: Any, power: Any, eps: Any, grow: Any, rate: Any
) -> None:
    """s <- beta2 s + rest2 d^2, found <- rate / ((sqrt(s) grow)^power + eps)."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        d, s, found = view(table[i, 0], stop, like), view(table[i, 1], stop, like), view(table[i, 2], stop, like)
        if power == 1:
            for j in range(start, stop):
                s[j] = beta2 * s[j] + rest2 * d[j] * d[j]
                found[j] = rate / (np.sqrt(s[j]) * grow + eps)
        else:
            for j in range(start, stop):
                s[j] = beta2 * s[j] + rest2 * d[j] * d[j]
                found[j] = rate / ((np.sqrt(s[j]) * grow) ** power + eps)


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def step(table: Any, blocks: Any, chunks: Any, widths: Any, like: Any, keep: Any, beta1: Any, rest1: Any) -> None:
    """m <- beta1 m + rest1 g, p <- keep p - rate m with one rate for every `width` numbers."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g, m = view(table[i, 0], stop, like), view(table[i, 1], stop, like), view(table[i, 2], stop, like)
        width = widths[i]
        rate = view(blocks[i, 0], (stop - 1) // width + 1, like)
        if width == 1:
            for j in range(start, stop):
                m[j] = beta1 * m[j] + rest1 * g[j]
                p[j] = keep * p[j] - rate[j] * m[j]
        else:
            for row in range(start // width, (stop - 1) // width + 1):
                r = rate[row]
                for j in range(max(start, row * width), min(stop, (row + 1) * width)):
                    m[j] = beta1 * m[j] + rest1 * g[j]
                    p[j] = keep * p[j] - r * m[j]
