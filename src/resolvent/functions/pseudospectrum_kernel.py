"""Triangular solves with many shifts at once, compiled: the shifts are the lanes of the arithmetic."""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange

# Columns that are solved together: with them, a few hundred rows stay in the cache.
_LANES = 32


@njit(cache=True, nogil=True, parallel=True, fastmath={"contract", "nsz", "reassoc"})
def both_solves(T: np.ndarray, z: np.ndarray, V: np.ndarray, floor: float, out: np.ndarray) -> None:  # pragma: no cover
    """out[:, j] = (z_j I - T)^-1 (z_j I - T)^-H V[:, j] of upper triangular T; no pivot is smaller than `floor`."""
    n, k = V.shape
    for tile in prange((k + _LANES - 1) // _LANES):
        start, stop = tile * _LANES, min(k, (tile + 1) * _LANES)
        width = stop - start
        re, im = np.empty((n, _LANES), T.real.dtype), np.empty((n, _LANES), T.real.dtype)
        inverse_re, inverse_im = np.empty((n, _LANES), T.real.dtype), np.empty((n, _LANES), T.real.dtype)
        for i in range(n):
            for j in range(width):
                pivot = z[start + j] - T[i, i]
                size = pivot.real * pivot.real + pivot.imag * pivot.imag
                if size < floor * floor:
                    inverse_re[i, j], inverse_im[i, j] = 1 / floor, 0
                else:
                    inverse_re[i, j], inverse_im[i, j] = pivot.real / size, -pivot.imag / size
                re[i, j], im[i, j] = V[i, start + j].real, V[i, start + j].imag
        # Forward with the adjoint: its row i has -conj(T[m, i]) before the conjugated pivot.
        for i in range(n):
            for j in range(width):
                a, b, c, d = re[i, j], im[i, j], inverse_re[i, j], -inverse_im[i, j]
                re[i, j], im[i, j] = a * c - b * d, a * d + b * c
            for m in range(i + 1, n):
                c, d = T[i, m].real, -T[i, m].imag
                for j in range(_LANES):
                    re[m, j] += re[i, j] * c - im[i, j] * d
                    im[m, j] += re[i, j] * d + im[i, j] * c
        for i in range(n - 1, -1, -1):
            for m in range(i + 1, n):
                c, d = T[i, m].real, T[i, m].imag
                for j in range(_LANES):
                    re[i, j] += re[m, j] * c - im[m, j] * d
                    im[i, j] += re[m, j] * d + im[m, j] * c
            for j in range(width):
                a, b, c, d = re[i, j], im[i, j], inverse_re[i, j], inverse_im[i, j]
                re[i, j], im[i, j] = a * c - b * d, a * d + b * c
        for i in range(n):
            for j in range(width):
                out[i, start + j] = complex(re[i, j], im[i, j])
