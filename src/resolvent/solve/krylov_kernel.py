"""Fused vector updates of conjugate gradients: one pass over memory where separate operations need three."""

from __future__ import annotations

import torch
from torch import Tensor

from resolvent.operators.parallel import get_num_threads, njit, prange

_SMALL = 20_000


def _fused(*tensors: Tensor) -> bool:
    return all(
        t.device.type == "cpu"
        and t.dtype in (torch.float32, torch.float64)
        and t.is_contiguous()
        and t.shape[1] == 1
        and t.numel() >= _SMALL
        for t in tensors
    )


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"}, nogil=True, parallel=True)
def _descend(x, r, p, q, alpha, chunks):  # type: ignore[no-untyped-def]
    n = x.size
    total = 0.0
    size = (n + chunks - 1) // chunks
    for c in prange(chunks):
        part = 0.0
        for i in range(c * size, min(n, (c + 1) * size)):
            x[i] += alpha * p[i]
            value = r[i] - alpha * q[i]
            r[i] = value
            part += value * value
        total += part
    return total


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"}, nogil=True, parallel=True)
def _turn(p, z, beta, chunks):  # type: ignore[no-untyped-def]
    n = p.size
    size = (n + chunks - 1) // chunks
    for c in prange(chunks):
        for i in range(c * size, min(n, (c + 1) * size)):
            p[i] = z[i] + beta * p[i]


def descend(X: Tensor, R: Tensor, P: Tensor, Q: Tensor, alpha: Tensor) -> Tensor:
    """X += P alpha and R -= Q alpha in place, column by column; returns the norms of R (k,)."""
    if _fused(X, R, P, Q):
        arrays = [t[:, 0].numpy() for t in (X, R, P, Q)]
        step = arrays[0].dtype.type(alpha[0].item())
        square = _descend(*arrays, step, get_num_threads())  # type: ignore[call-arg]
        return torch.tensor([square**0.5], dtype=alpha.dtype)
    X.addcmul_(P, alpha.to(P.dtype))
    R.addcmul_(Q, alpha.to(Q.dtype), value=-1)
    return torch.linalg.vector_norm(R, dim=0)


def turn(P: Tensor, Z: Tensor, beta: Tensor) -> Tensor:
    """Z + P beta, in the memory of P where that is faster."""
    if _fused(P, Z):
        p, z = P[:, 0].numpy(), Z[:, 0].numpy()
        _turn(p, z, p.dtype.type(beta[0].item()), get_num_threads())  # type: ignore[call-arg]
        return P
    return torch.addcmul(Z, P, beta.to(P.dtype))
