"""All eigenvalues of a Hermitian operator where they cost little: by its structure, or by LAPACK where it is
small."""

from __future__ import annotations

import math
from functools import reduce, singledispatch

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.algebra import Power, Product, Scaled
from resolvent.operators.banded import Tridiagonal
from resolvent.operators.blocks import BlockDiagonal
from resolvent.operators.elementary import Dense, Diagonal, Identity, Zero
from resolvent.operators.gradient import records
from resolvent.operators.kronecker import Kronecker, KroneckerSum
from resolvent.operators.lowrank import LowRank
from resolvent.operators.operator import Operator
from resolvent.operators.toeplitz import Circulant

# LAPACK's n^3 against some thousand products: measured to be even near here.
SMALL = 1500
SMALL_STORED = 3000
# Eigenvalues of a structure that are listed at most.
_LIST = 50_000_000


def hermitian_operator(A: Operator, name: str = "A") -> Operator:
    """The operator, square and Hermitian as far as can be seen, or a ValueError."""
    if A.shape[-1] != A.shape[-2]:
        raise ValueError(f"{name} must be square, got shape {tuple(A.shape)}")
    A.check_hermitian(name)
    return A


def exact_eigenvalues(A: Operator) -> Tensor | None:
    """Eigenvalues (*batch, n), real, unsorted and recorded by autograd, of a Hermitian operator; None where
    they cost much.

    Examples
    --------
    >>> exact_eigenvalues(Diagonal(torch.tensor([3.0, 1.0])))
    tensor([3., 1.])
    """
    found = _structured(A)
    return found if found is not None else _dense(A)


def _dense(A: Operator) -> Tensor | None:
    n = A.shape[-1]
    if n <= SMALL or A.batch_shape or (n <= SMALL_STORED and isinstance(A, Dense)):
        return torch.linalg.eigvalsh(A._dense())
    return None


@singledispatch
def _structured(A: Operator) -> Tensor | None:
    return None


@_structured.register
def _(A: Diagonal) -> Tensor | None:
    d = A._diagonal()
    return d.real if d.is_complex() else d


@_structured.register(Identity)
@_structured.register(Zero)
def _(A: Operator) -> Tensor | None:
    return A._diagonal().real


@_structured.register
def _(A: Circulant) -> Tensor | None:
    return A.eigenvalues().real if not A.batch_shape else None


@_structured.register
def _(A: Scaled) -> Tensor | None:
    inner = exact_eigenvalues(A._parts[1]) if A._parts[1].hermitian else None
    factor = A.factor.real if A.factor.is_complex() else A.factor
    return None if inner is None else inner * factor[..., None]


@_structured.register
def _(A: Power) -> Tensor | None:
    inner = exact_eigenvalues(A._parts[0]) if A._parts[0].hermitian else None
    return None if inner is None else inner**A.p


def _each(parts: tuple[Operator, ...]) -> list[Tensor] | None:
    if not all(P.hermitian for P in parts):
        return None
    found = [exact_eigenvalues(P) for P in parts]
    return None if any(e is None for e in found) else found  # type: ignore[return-value]


@_structured.register
def _(A: BlockDiagonal) -> Tensor | None:
    found = _each(A._parts)
    return None if found is None else torch.cat([e.expand(*A.batch_shape, -1) for e in found], -1)


@_structured.register
def _(A: Kronecker) -> Tensor | None:
    found = _each(A._parts) if A.shape[-1] <= _LIST else None
    return None if found is None else reduce(lambda a, b: (a[..., :, None] * b[..., None, :]).flatten(-2), found)


@_structured.register
def _(A: KroneckerSum) -> Tensor | None:
    found = _each(A._parts) if A.shape[-1] <= _LIST else None
    return None if found is None else reduce(lambda a, b: (a[..., :, None] + b[..., None, :]).flatten(-2), found)


@_structured.register
def _(A: LowRank) -> Tensor | None:
    n, r = A.shape[-1], A.s.shape[-1]
    if r >= n or r > SMALL or A.V is not A.U:
        return None
    # U = Q R: the eigenvalues of the small R diag(s) R^H, and zeros.
    R = torch.linalg.qr(A.U).R
    return _padded(torch.linalg.eigvalsh((R * A.s[..., None, :].to(R.dtype)) @ R.mH), n)


@_structured.register
def _(A: Product) -> Tensor | None:
    """``X X^H`` with X tall or ``X^H X`` with X wide, X stored: the Gram matrix of the small side, and
    zeros."""
    if len(A._parts) != 2 or A._parts[0] is not A._parts[1].H:
        return None
    n, r = A._parts[0].shape[-2:]
    if r >= n or r > SMALL:
        return None
    small = A._parts[1]._matmul(A._parts[0]._dense())
    return _padded(torch.linalg.eigvalsh(small), n)


def _padded(values: Tensor, n: int) -> Tensor:
    zeros = values.new_zeros(*values.shape[:-1], n - values.shape[-1])
    return torch.cat([zeros, values], -1)


@_structured.register
def _(A: Tridiagonal) -> Tensor | None:
    """Without gradients, O(n^2) by LAPACK's tridiagonal solver instead of O(n^3)."""
    n = A.shape[-1]
    if A.batch_shape or not SMALL < n <= 20_000 or A.device.type != "cpu" or records(A):
        return None
    from scipy.linalg import eigvalsh_tridiagonal

    low, main, _ = (t.detach().numpy() for t in A._parts)
    found = eigvalsh_tridiagonal(np.real(main), np.abs(low))
    return torch.from_numpy(found).to(torch.zeros((), dtype=A.dtype).real.dtype)


def spectrum_scale(A: Operator) -> float:
    """An upper bound or close estimate of the spectral radius of a Hermitian operator, from 12 Lanczos
    steps."""
    from resolvent.random import gaussian
    from resolvent.spectra.quadrature import LanczosRun

    with torch.no_grad():
        Z = gaussian((A.shape[-1], 1), A.dtype, A.device, 0)
        rule = LanczosRun(A, Z).extend(12).rule()
    top = float((rule.nodes.abs() + rule.residuals).max())
    return top if math.isfinite(top) else math.inf
