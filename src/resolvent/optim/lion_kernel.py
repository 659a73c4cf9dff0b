"""One pass of Lion over parameter, gradient and momentum."""

from __future__ import annotations

from typing import Any

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH)
def lion(
    table: Any, chunks: Any, like: Any, zero: Any, keep: Any, lr: Any, beta1: Any, beta2: Any, rest1: Any, rest2: Any
) -> None:
    """p <- keep p - lr sign(beta1 m + rest1 g), m <- beta2 m + rest2 g."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g, m = (
            part(table[i, 0], start, stop, like),
            part(table[i, 1], start, stop, like),
            part(table[i, 2], start, stop, like),
        )
        for j in range(stop - start):
            u = beta1 * m[j] + rest1 * g[j]
            # Neither sign: u is 0, or a NaN that must stay one, as it does in the other paths.
            p[j] = keep * p[j] - (lr if u > zero else (-lr if u < zero else u))
            m[j] = beta2 * m[j] + rest2 * g[j]
