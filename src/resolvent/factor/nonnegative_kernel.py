"""Numba kernels of nonnegative least squares by coordinates: many small problems that share one Gram matrix."""

from __future__ import annotations

import math

from numba import njit

_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def _gradient(x, c, G, k):  # type: ignore[no-untyped-def]
    total = -c[k]
    for j in range(x.size):
        total += G[k, j] * x[j]
    return total


@njit(cache=True, nogil=True, fastmath=_FAST)
def descend_rows(X, C, G, sweeps, slow):  # type: ignore[no-untyped-def]
    """Minimise x G x / 2 - c x over x >= 0 for each row by cyclic coordinates, in place.

    A row stops when a sweep moves it less than `slow` of its first, or after `sweeps`. Returns the squared norms of
    the projected gradient before and after.
    """
    before, after = 0.0, 0.0
    for i in range(X.shape[0]):
        x, c = X[i], C[i]
        first = 0.0
        for k in range(x.size):
            g = _gradient(x, c, G, k)
            if g < 0 or x[k] > 0:
                before += g * g
        for sweep in range(sweeps):
            moved = 0.0
            for k in range(x.size):
                if G[k, k] <= 0:
                    continue
                new = max(x[k] - _gradient(x, c, G, k) / G[k, k], 0)
                moved += G[k, k] * (new - x[k]) * (new - x[k])
                x[k] = new
            moved = math.sqrt(moved)
            if sweep == 0:
                first = moved
            if moved <= slow * first:
                break
        for k in range(x.size):
            g = _gradient(x, c, G, k)
            if g < 0 or x[k] > 0:
                after += g * g
    return before, after
