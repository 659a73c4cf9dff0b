"""OASIS over the memory of its tensors: two norms in one pass, and the step in another."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def norms(table: Any, chunks: Any, like: Any, alpha: Any) -> Any:
    """Sums of (p - previous)^2 max(|d|, alpha) and (g - slope)^2 / max(|d|, alpha) of every piece, in double."""
    sums = np.zeros((chunks.shape[0], 2))
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, like)
        d, last = part(table[i, 2], start, stop, like), part(table[i, 3], start, stop, like)
        slope = part(table[i, 4], start, stop, like)
        way, change = 0.0, 0.0
        for j in range(stop - start):
            scale = np.float64(abs(d[j]))
            # Not max(), which would hide a NaN.
            if scale < alpha:
                scale = np.float64(alpha)
            moved, turned = np.float64(p[j] - last[j]), np.float64(g[j] - slope[j])
            way += moved * moved * scale
            change += turned * turned / scale
        sums[c, 0] = way
        sums[c, 1] = change
    return sums


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def step(
    table: Any,
    chunks: Any,
    keeps: Any,
    averages: Any,
    like: Any,
    keep: Any,
    rate: Any,
    alpha: Any,
    beta: Any,
    rest: Any,
) -> None:
    """previous <- p, slope <- g, m <- beta m + rest g, p <- keep p - rate m / max(|d|, alpha)."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, like)
        d, last = part(table[i, 2], start, stop, like), part(table[i, 3], start, stop, like)
        slope, m = part(table[i, 4], start, stop, like), part(table[i, 5], start, stop, like)
        # One loop for each stream that is written: with more, the compiler cannot tell them apart and takes one number at a time.
        for j in range(stop - start):
            last[j] = p[j]
        if keeps:
            for j in range(stop - start):
                slope[j] = g[j]
        if averages:
            for j in range(stop - start):
                m[j] = beta * m[j] + rest * g[j]
        for j in range(stop - start):
            scale = abs(d[j])
            if scale < alpha:
                scale = alpha
            # Without an average the column m is that of the gradients.
            p[j] = keep * p[j] - rate * m[j] / scale
