"""Sweeps of successive over-relaxation over compressed rows."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def relax(indptr, indices, values, places, b, omega, goal, limit, history):  # type: ignore[no-untyped-def]
    """x of A x = b from zero, by sweeps until |b - A x| <= goal or they are `limit`; the count of sweeps."""
    n = b.size
    x, z, r = np.zeros_like(b), np.zeros_like(b), b.copy()
    for step in range(limit):
        # (D / omega + L) z = r, in the order of the rows
        for i in range(n):
            total = r[i]
            for k in range(indptr[i], places[i]):
                total -= values[k] * z[indices[k]]
            z[i] = omega * total / values[places[i]]
            x[i] += z[i]
        size = 0.0
        for i in range(n):
            total = b[i]
            for k in range(indptr[i], indptr[i + 1]):
                total -= values[k] * x[indices[k]]
            r[i] = total
            size += abs(total) ** 2
        size = np.sqrt(size)
        history[step] = size
        if size <= goal or not np.isfinite(size):
            return x, step + 1
    return x, limit
