"""Passes of optimistic AMSGrad: products of the differences of gradients, and the step."""

from __future__ import annotations

import math
from typing import Any

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part

# Numbers that stay in the first cache while the stored gradients pass by.
_BLOCK = 2048


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def products(table: Any, history: Any, chunks: Any, slots: Any, sizes: Any, like: Any, zero: Any, sums: Any) -> None:
    """Products of the newest difference of gradients with all differences, for each piece; `slots` from old to new."""
    last = len(slots) - 1
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        stride = sizes[i] * like.itemsize
        for s in range(len(slots)):
            sums[c, s] = 0.0
        # A block of the newest difference stays in the first cache while the others pass by.
        for a in range(start, stop, _BLOCK):
            b = min(a + _BLOCK, stop)
            g, newest = part(table[i, 1], a, b, like), part(history[i, 0] + slots[last] * stride, a, b, like)
            for s in range(last):
                old = part(history[i, 0] + slots[s] * stride, a, b, like)
                new = part(history[i, 0] + slots[s + 1] * stride, a, b, like)
                found = zero
                for j in range(b - a):
                    found += (g[j] - newest[j]) * (new[j] - old[j])
                sums[c, s] += found
            found = zero
            for j in range(b - a):
                found += (g[j] - newest[j]) * (g[j] - newest[j])
            sums[c, last] += found


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def optimistic(
    table: Any, history: Any, chunks: Any, slots: Any, weights: Any, sizes: Any, target: int, like: Any, weight: Any, keep: Any,
    lr: Any, beta1: Any, beta2: Any, rest1: Any, rest2: Any, eps: Any,
) -> None:  # fmt: skip
    """Moments, the auxiliary iterate, the guess of the next gradient and the point where it is asked for."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        stride = sizes[i] * like.itemsize
        for a in range(start, stop, _BLOCK):
            b = min(a + _BLOCK, stop)
            p, g = part(table[i, 0], a, b, like), part(table[i, 1], a, b, like)
            m, v = part(table[i, 2], a, b, like), part(table[i, 3], a, b, like)
            top, aux, guess = (
                part(table[i, 4], a, b, like),
                part(table[i, 5], a, b, like),
                part(table[i, 6], a, b, like),
            )
            for j in range(b - a):
                v[j] = beta2 * v[j] + rest2 * (g[j] - guess[j]) * (g[j] - guess[j])
                guess[j] = weight * g[j]
            for s in range(len(slots)):
                h, w = part(history[i, 0] + slots[s] * stride, a, b, like), weights[s]
                for j in range(b - a):
                    guess[j] += w * h[j]
            for j in range(b - a):
                m[j] = beta1 * m[j] + rest1 * g[j]
                top[j] = v[j] if v[j] > top[j] or v[j] != v[j] else top[j]
                step = lr / (math.sqrt(top[j]) + eps)
                aux[j] = keep * aux[j] - step * m[j]
                p[j] = aux[j] - step * (beta1 * m[j] + rest1 * guess[j])
            if target >= 0:
                h = part(history[i, 0] + target * stride, a, b, like)
                for j in range(b - a):
                    h[j] = g[j]
