"""AdaHessian over the memory of its tensors: the rates of the blocks, then one pass over parameter, gradient and momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part, view


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def rates(
    table: Any, chunks: Any, like: Any, beta2: Any, rest2: Any, power: Any, eps: Any, grow: Any, rate: Any
) -> None:
    """s <- beta2 s + rest2 d^2, found <- rate / ((sqrt(s) grow)^power + eps)."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        d, s = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, like)
        found = part(table[i, 2], start, stop, like)
        if power == 1:
            for j in range(stop - start):
                s[j] = beta2 * s[j] + rest2 * d[j] * d[j]
                found[j] = rate / (np.sqrt(s[j]) * grow + eps)
        else:
            for j in range(stop - start):
                s[j] = beta2 * s[j] + rest2 * d[j] * d[j]
                found[j] = rate / ((np.sqrt(s[j]) * grow) ** power + eps)


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def step(table: Any, blocks: Any, chunks: Any, widths: Any, like: Any, keep: Any, beta1: Any, rest1: Any) -> None:
    """m <- beta1 m + rest1 g, p <- keep p - rate m with one rate for every `width` numbers."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        width = widths[i]
        rate = view(blocks[i, 0], (stop - 1) // width + 1, like)
        for row in range(start // width, (stop - 1) // width + 1) if width > 1 else range(1):
            first, last = start, stop
            if width > 1:
                first, last = max(start, row * width), min(stop, (row + 1) * width)
            p, g = part(table[i, 0], first, last, like), part(table[i, 1], first, last, like)
            m = part(table[i, 2], first, last, like)
            for j in range(last - first):
                m[j] = beta1 * m[j] + rest1 * g[j]
            if width > 1:
                r = rate[row]
                for j in range(last - first):
                    p[j] = keep * p[j] - r * m[j]
            else:
                own = part(blocks[i, 0], first, last, like)
                for j in range(last - first):
                    p[j] = keep * p[j] - own[j] * m[j]
