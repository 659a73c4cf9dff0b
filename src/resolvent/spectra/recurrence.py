"""Fused vector updates of the short recurrences: Numba kernels on CPU memory, torch elsewhere.

A Lanczos step on a block of p vectors is three passes over n x p numbers when its updates are fused and seven when
each is a torch operation; next to a sparse product, that is most of the time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.parallel import get_num_threads, njit, prange

_KERNEL_DTYPES = (torch.float32, torch.float64)
_SMALL = 20_000


def _on_kernels(*tensors: Tensor) -> bool:
    return all(
        t.device.type == "cpu" and t.dtype in _KERNEL_DTYPES and t.is_contiguous() and t.numel() >= _SMALL
        for t in tensors
    )


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"}, nogil=True, parallel=True)
def _dots_kernel(x, y, chunks):
    n, p = x.shape
    partial = np.zeros((chunks, p), dtype=np.float64)
    size = (n + chunks - 1) // chunks
    for c in prange(chunks):
        total = np.zeros(p, dtype=np.float64)
        block = np.zeros(p, dtype=x.dtype)
        for start in range(c * size, min(n, (c + 1) * size), 128):
            block[:] = 0
            for i in range(start, min(start + 128, n, (c + 1) * size)):
                for j in range(p):
                    block[j] += x[i, j] * y[i, j]
            for j in range(p):
                total[j] += block[j]
        partial[c] = total
    return partial.sum(axis=0)


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"}, nogil=True, parallel=True)
def _advance_kernel(w, q, r, scale, a, b, chunks):
    n, p = w.shape
    partial = np.zeros((chunks, p), dtype=np.float64)
    size = (n + chunks - 1) // chunks
    for c in prange(chunks):
        total = np.zeros(p, dtype=np.float64)
        block = np.zeros(p, dtype=w.dtype)
        for start in range(c * size, min(n, (c + 1) * size), 128):
            block[:] = 0
            for i in range(start, min(start + 128, n, (c + 1) * size)):
                for j in range(p):
                    value = scale[j] * w[i, j] - a[j] * q[i, j] - b[j] * r[i, j]
                    w[i, j] = value
                    block[j] += value * value
            for j in range(p):
                total[j] += block[j]
        partial[c] = total
    return partial.sum(axis=0)


def column_dots(x: Tensor, y: Tensor) -> Tensor:
    """Real part of x_j^H y_j for every column of two (n, p) blocks, accumulated in float64: (p,)."""
    if _on_kernels(x, y):
        return torch.from_numpy(_dots_kernel(x.detach().numpy(), y.detach().numpy(), get_num_threads()))
    return torch.einsum("np,np->p", x.conj(), y).real.to(torch.float64)


def advance(w: Tensor, q: Tensor, r: Tensor, scale: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """w <- scale w - a q - b r, column by column, in place where it can be; returns it and its squared norms (p,)."""
    real = torch.zeros((), dtype=w.dtype).real.dtype
    scale, a, b = (t.to(real) for t in (scale, a, b))
    if _on_kernels(w, q, r):
        arrays = (t.detach().numpy() for t in (w, q, r, scale, a, b))
        return w, torch.from_numpy(_advance_kernel(*arrays, get_num_threads()))  # type: ignore[call-arg]
    w = (scale * w).sub_(a * q).sub_(b * r)
    return w, column_dots(w, w)
