"""Numba kernels that do a sparse product and the update of a recurrence in one pass. Imported with their first use."""

from __future__ import annotations

import numpy as np

from resolvent.operators import Sparse
from resolvent.operators.csr import _gather_row
from resolvent.operators.diagonals import Diagonals
from resolvent.operators.parallel import njit, prange


@njit(cache=True, nogil=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
def _blocks(bounds, indptr, indices, values, x, z, k, scale, shift):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        row = np.empty(k, values.dtype)
        s = np.intp(indptr[bounds[t]])
        for i in range(bounds[t], bounds[t + 1]):
            e = np.intp(indptr[i + 1])
            _gather_row(values, indices, s, e, x, k, k, row, 0)
            for j in range(k):
                z[i * k + j] = scale * row[j] - shift * x[i * k + j] - z[i * k + j]
            s = e


@njit(cache=True, nogil=True, parallel=True, fastmath={"contract", "nsz"})
def _vector(bounds, indptr, indices, values, x, z, k, scale, shift):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        s = np.uint64(indptr[bounds[t]])
        for i in range(bounds[t], bounds[t + 1]):
            e = np.uint64(indptr[i + 1])
            total = values.dtype.type(0)
            for j in range(s, e):
                total += values[j] * x[indices[j]]
            z[i] = scale * total - shift * x[i] - z[i]
            s = e


def chebyshev_step(
    A: Sparse, form: Diagonals | None, x: np.ndarray, z: np.ndarray, scale: np.floating, shift: np.floating
) -> None:
    """z <- scale A x - shift x - z, for contiguous blocks x and z of shape (n, k); `form` holds A by diagonals."""
    pattern = A._pattern
    values, k = A.values.detach().numpy(), x.shape[1]
    if form is not None and k == 1:
        form.step(x[:, 0], z[:, 0], scale, shift, pattern._threads(1))
        return
    bounds = pattern._bounds(pattern._threads(k))
    kernel = _vector if k == 1 else _blocks
    kernel(bounds, *pattern._arrays, values, x.reshape(-1), z.reshape(-1), k, scale, shift)  # type: ignore[call-arg]
