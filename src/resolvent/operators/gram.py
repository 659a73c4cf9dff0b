"""``A^H A x`` of a dense matrix with one pass over its memory: a row is used twice while it lies in cache."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.parallel import numba


@numba.njit(parallel=True, fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True)
def _gram_vector(a: np.ndarray, x: np.ndarray, partial: np.ndarray) -> None:
    m, n = a.shape
    workers = partial.shape[0]
    for w in numba.prange(workers):
        y = partial[w]
        low, high = m * w // workers, m * (w + 1) // workers
        i = low
        # Four rows at a time: y is read and written once for four rows, and its rounding errors grow four times slower.
        while i + 4 <= high:
            r0, r1, r2, r3 = a[i], a[i + 1], a[i + 2], a[i + 3]
            s0 = s1 = s2 = s3 = a.dtype.type(0)
            for j in range(n):
                t = x[j]
                s0 += r0[j] * t
                s1 += r1[j] * t
                s2 += r2[j] * t
                s3 += r3[j] * t
            for j in range(n):
                y[j] += np.conj(r0[j]) * s0 + np.conj(r1[j]) * s1 + np.conj(r2[j]) * s2 + np.conj(r3[j]) * s3
            i += 4
        while i < high:
            row = a[i]
            s = a.dtype.type(0)
            for j in range(n):
                s += row[j] * x[j]
            for j in range(n):
                y[j] += np.conj(row[j]) * s
            i += 1


def gram_vector(a: Tensor, x: Tensor) -> Tensor:
    """``a^H a x`` for a contiguous CPU matrix (m, n) and a vector (n,), without autograd."""
    data = a.detach().numpy()
    partial = np.zeros((numba.get_num_threads(), data.shape[1]), dtype=data.dtype)
    _gram_vector(data, x.detach().contiguous().numpy(), partial)
    return torch.from_numpy(partial.sum(0))
