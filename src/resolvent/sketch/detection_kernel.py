"""The Numba kernel of the exact likelihood: permanents of nonnegative matrices."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def permanents(weights):  # type: ignore[no-untyped-def]
    """Permanents of (batch, n, n) by subsets of columns: n 2^n products, all of one sign, so no digits are lost.

    Ryser's formula takes as many steps, but its signs alternate.
    """
    batch, n = weights.shape[0], weights.shape[1]
    out = np.empty(batch)
    for t in range(batch):
        W = weights[t]
        sums = np.zeros(1 << n)
        sums[0] = 1.0
        for chosen in range(1 << n):
            value = sums[chosen]
            if value == 0:
                continue
            row = 0
            bits = chosen
            while bits:
                bits &= bits - 1
                row += 1
            if row < n:
                for j in range(n):
                    if not (chosen >> j) & 1:
                        sums[chosen | (1 << j)] += value * W[row, j]
        out[t] = sums[(1 << n) - 1]
    return out
