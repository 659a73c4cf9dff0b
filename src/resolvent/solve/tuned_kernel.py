"""Small bounded least squares, many times."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def bounded_least_squares(gram, right, bounds, x, sweeps):  # type: ignore[no-untyped-def]
    """The x in a box around zero that minimises x^T G x / 2 - r^T x, by coordinates, from the x given, in place."""
    for _ in range(sweeps):
        change = 0.0
        for j in range(x.size):
            if gram[j, j] <= 0:
                x[j] = 0.0
                continue
            slope = right[j]
            for k in range(x.size):
                slope -= gram[j, k] * x[k]
            new = min(bounds[j], max(-bounds[j], x[j] + slope / gram[j, j]))
            change = max(change, abs(new - x[j]) / (bounds[j] + 1e-300))
            x[j] = new
        if change < 1e-9:
            break
