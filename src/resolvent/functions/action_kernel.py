"""Numba kernels of the actions f(A) B: sums of polynomials in one pass, and discs that hold a spectrum."""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import get_num_threads, njit, prange

_FAST = {"reassoc", "contract", "nsz"}
# Elements that stay in the first-level cache while all sums pass over them.
_BLOCK = 1024


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def _accumulate(out, x, z, a, b, chunks):  # type: ignore[no-untyped-def]
    size = x.size
    for c in prange(chunks):
        stop = size * (c + 1) // chunks
        for first in range(size * c // chunks, stop, _BLOCK):
            last = min(first + _BLOCK, stop)
            one, two = x[first:last], z[first:last]
            for p in range(out.shape[0]):
                if a[p] != 0 or b[p] != 0:
                    total, u, v = out[p, first:last], a[p], b[p]
                    for i in range(total.size):
                        total[i] += u * one[i] + v * two[i]


def accumulate(out: np.ndarray, x: np.ndarray, z: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """out[p] += a[p] x + b[p] z, everything contiguous and real: out (P, N), x and z (N,), a and b (P,)."""
    kind = out.dtype.type
    _accumulate(out, x, z, a.astype(kind), b.astype(kind), get_num_threads() if x.size > 20_000 else 1)


@njit(cache=True, nogil=True)
def discs(indptr, indices, values, n):  # type: ignore[no-untyped-def]
    """Diagonal, and the sums of the sizes of the other entries of every row and every column."""
    middle = np.zeros(n, values.dtype)
    rows, columns = np.zeros(n, np.float64), np.zeros(n, np.float64)
    for i in range(n):
        total = 0.0
        for j in range(np.intp(indptr[i]), np.intp(indptr[i + 1])):
            column = np.intp(indices[j])
            if column == i:
                middle[i] += values[j]
            else:
                size = abs(values[j])
                total += size
                columns[column] += size
        rows[i] = total
    return middle, rows, columns
