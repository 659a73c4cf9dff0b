"""The Numba kernel of Oja's rule: one pass over the rows for several learning rates."""

from __future__ import annotations

import numpy as np
from numba import njit

# Squared lengths at which the vectors are normalised again, far from the end of the range of float64.
_LONG = 1e200


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def oja_rows(rows, V, rates, squares, growth):  # type: ignore[no-untyped-def]
    """v += rate a (a.v) for every row a and every v of V; `squares` are |v|^2, `growth` the logarithms taken out."""
    for i in range(rows.shape[0]):
        a = rows[i]
        size = 0.0
        for j in range(a.size):
            size += a[j] * a[j]
        for r in range(V.shape[0]):
            v = V[r]
            s = 0.0
            for j in range(a.size):
                s += a[j] * v[j]
            step = rates[r] * s
            for j in range(a.size):
                v[j] += step * a[j]
            squares[r] += step * (2 * s + step * size)
            if squares[r] > _LONG:
                exact = 0.0
                for j in range(v.size):
                    exact += v[j] * v[j]
                scale = 1 / np.sqrt(exact)
                for j in range(v.size):
                    v[j] *= scale
                growth[r] -= np.log(scale)
                squares[r] = 1.0
