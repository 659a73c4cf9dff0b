"""One pass of CoRe over parameter, gradient, moments and step sizes."""

from __future__ import annotations

import math
from typing import Any

from resolvent.operators.parallel import numba
from resolvent.optim.fused_kernel import FASTMATH, part


@numba.njit(cache=True, nogil=True, parallel=True, fastmath=FASTMATH, error_model="numpy")
def core(
    table: Any, chunks: Any, like: Any, one: Any, beta1: Any, beta2: Any, rest1: Any, rest2: Any, unbias1: Any, unbias2: Any,
    eps: Any, less: Any, more: Any, smallest: Any, largest: Any, factor: Any, decay: Any,
) -> None:  # fmt: skip
    """Means, step sizes that grow while the sign of the mean stays, and the step."""
    for c in numba.prange(chunks.shape[0]):
        i, start, stop = chunks[c, 0], chunks[c, 1], chunks[c, 2]
        p, g = part(table[i, 0], start, stop, like), part(table[i, 1], start, stop, like)
        m, h, s = (
            part(table[i, 2], start, stop, like),
            part(table[i, 3], start, stop, like),
            part(table[i, 4], start, stop, like),
        )
        for j in range(stop - start):
            before = m[j]
            m[j] = beta1 * before + rest1 * g[j]
            h[j] = beta2 * h[j] + rest2 * g[j] * g[j]
            same = before * m[j]
            size = s[j] * (more if same > 0 else (less if same < 0 else one))
            s[j] = min(max(size, smallest), largest)
            step = factor * s[j] * (unbias1 * m[j] / (unbias2 * math.sqrt(h[j]) + eps))
            p[j] = p[j] - decay * abs(step) * p[j] - step
