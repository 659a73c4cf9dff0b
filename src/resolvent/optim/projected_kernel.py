"""Two passes of AdamP and SGDP: moments with the sums that decide about the projection, and the step."""

from __future__ import annotations

import math
from typing import Any

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def adamp_moments(
    table: Any, pieces: Any, like: Any, zero: Any, sums: Any, beta1: Any, beta2: Any, rest1: Any, rest2: Any, unbias2: Any,
    eps: Any, head: Any, tail: Any,
) -> None:  # fmt: skip
    """m, v, and for every row w.g, g.g, w.w and w.d with the direction d = (head m + tail g) / (unbias2 sqrt(v) + eps)."""
    for c in numba.prange(pieces.shape[0]):
        i, row, start, stop, width = pieces[c, 0], pieces[c, 1], pieces[c, 2], pieces[c, 3], pieces[c, 4]
        for a in range(start, stop, width):
            b = min(a + width, stop)
            w, g = part(table[i, 0], a, b, like), part(table[i, 1], a, b, like)
            m, v = part(table[i, 2], a, b, like), part(table[i, 3], a, b, like)
            wg, gg, ww, wd = zero, zero, zero, zero
            for j in range(b - a):
                m[j] = beta1 * m[j] + rest1 * g[j]
                v[j] = beta2 * v[j] + rest2 * g[j] * g[j]
                wg += w[j] * g[j]
                gg += g[j] * g[j]
                ww += w[j] * w[j]
                wd += w[j] * ((head * m[j] + tail * g[j]) / (unbias2 * math.sqrt(v[j]) + eps))
            sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = wg, gg, ww, wd
            row += 1


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def adamp_step(
    table: Any, pieces: Any, like: Any, keep: Any, along: Any, lr: Any, unbias2: Any, eps: Any, head: Any, tail: Any
) -> None:
    """w <- keep w - lr (d - along w) for every row, `keep` for every tensor."""
    for c in numba.prange(pieces.shape[0]):
        i, row, start, stop, width = pieces[c, 0], pieces[c, 1], pieces[c, 2], pieces[c, 3], pieces[c, 4]
        for a in range(start, stop, width):
            b = min(a + width, stop)
            w, g = part(table[i, 0], a, b, like), part(table[i, 1], a, b, like)
            m, v = part(table[i, 2], a, b, like), part(table[i, 3], a, b, like)
            k = keep[i] + lr * along[row]
            if tail == 0:
                for j in range(b - a):
                    w[j] = k * w[j] - lr * (head * m[j] / (unbias2 * math.sqrt(v[j]) + eps))
            else:
                for j in range(b - a):
                    w[j] = k * w[j] - lr * ((head * m[j] + tail * g[j]) / (unbias2 * math.sqrt(v[j]) + eps))
            row += 1


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def sgdp_moments(
    table: Any, pieces: Any, like: Any, zero: Any, sums: Any, momentum: Any, rest: Any, head: Any, tail: Any
) -> None:
    """b <- momentum b + rest g, and the sums of every row with the direction d = head b + tail g."""
    for c in numba.prange(pieces.shape[0]):
        i, row, start, stop, width = pieces[c, 0], pieces[c, 1], pieces[c, 2], pieces[c, 3], pieces[c, 4]
        for a in range(start, stop, width):
            e = min(a + width, stop)
            w, g = part(table[i, 0], a, e, like), part(table[i, 1], a, e, like)
            b = part(table[i, 2], a, e, like)
            wg, gg, ww, wd = zero, zero, zero, zero
            for j in range(e - a):
                b[j] = momentum * b[j] + rest * g[j]
                wg += w[j] * g[j]
                gg += g[j] * g[j]
                ww += w[j] * w[j]
                wd += w[j] * (head * b[j] + tail * g[j])
            sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = wg, gg, ww, wd
            row += 1


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def sgdp_step(table: Any, pieces: Any, like: Any, keep: Any, along: Any, lr: Any, head: Any, tail: Any) -> None:
    """w <- keep w - lr (d - along w) for every row, `keep` for every tensor."""
    for c in numba.prange(pieces.shape[0]):
        i, row, start, stop, width = pieces[c, 0], pieces[c, 1], pieces[c, 2], pieces[c, 3], pieces[c, 4]
        for a in range(start, stop, width):
            e = min(a + width, stop)
            w, g = part(table[i, 0], a, e, like), part(table[i, 1], a, e, like)
            b = part(table[i, 2], a, e, like)
            k = keep[i] + lr * along[row]
            for j in range(e - a):
                w[j] = k * w[j] - lr * (head * b[j] + tail * g[j])
            row += 1


@numba.njit(cache=True, nogil=True)
def decide(sums: Any, first: Any, width: Any, delta: float, eps: float, kept: float, along: Any, ratio: Any) -> None:
    """Which rows lose the part of the direction along the weight: `along`, and the `ratio` of the weight decay of every tensor.

    A width of 0 stands for a tensor that is never projected. A NaN decides for no projection, as in the other paths.
    """
    for i in range(len(width)):
        start, stop = first[i], first[i + 1]
        ratio[i] = 1.0
        for row in range(start, stop):
            along[row] = 0.0
        if width[i] == 0:
            continue
        largest, wg, gg, ww, wd = 0.0, 0.0, 0.0, 0.0, 0.0
        for row in range(start, stop):
            size = max(math.sqrt(sums[row, 1]), eps) * max(math.sqrt(sums[row, 2]), eps)
            cosine = abs(sums[row, 0]) / size
            if cosine > largest or cosine != cosine:
                largest = cosine
            wg += sums[row, 0]
            gg += sums[row, 1]
            ww += sums[row, 2]
            wd += sums[row, 3]
        if largest < delta / math.sqrt(width[i]):
            ratio[i] = kept
            for row in range(start, stop):
                along[row] = sums[row, 3] / (math.sqrt(sums[row, 2]) + eps) ** 2
            continue
        largest = abs(wg) / (max(math.sqrt(gg), eps) * max(math.sqrt(ww), eps))
        if largest < delta / math.sqrt(width[i] * (stop - start)):
            ratio[i] = kept
            for row in range(start, stop):
                along[row] = wd / (math.sqrt(ww) + eps) ** 2
