"""The Numba kernel of Cholesky up- and downdates."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def rotate_in(L, X, sign, least):  # type: ignore[no-untyped-def]
    """L <- the factor of L L^H + sign X X^H, columns of both as rows; the row where it fails, or -1.

    It fails where no more than `least` of the determinant is left: of a singular matrix rounding leaves as much.
    """
    n = L.shape[0]
    for e in range(X.shape[0]):
        left = 1.0
        for j in range(n):
            x, d = X[e, j], L[j, j].real
            size = abs(x)
            if size == 0:
                continue
            ratio = size / d
            inside = 1 + sign * ratio * ratio
            left *= inside
            if sign < 0 and (inside <= 0 or left <= least):
                return j
            c = math.sqrt(inside)
            s = x / d
            for i in range(j, n):
                # The mixed form: the new L first, then x from the new L, is stable for downdates too.
                new = (L[j, i] + sign * np.conj(s) * X[e, i]) / c
                X[e, i] = c * X[e, i] - s * new
                L[j, i] = new
    return -1
