"""Norms of columns and of entries: exact, differentiable, free of overflow, and cheap where a structure allows.

The matrix 1-norm, the infinity norm (of the adjoint), the Frobenius and all entrywise norms and the induced
(1 -> q) and (p -> inf) norms are reductions of one thing, the p-norms of the columns.

>>> import torch
>>> from resolvent.operators import Diagonal, Kronecker
>>> A = Kronecker(Diagonal(torch.tensor([1.0, 2.0])), torch.ones(3, 3))
>>> column_norms(A, 1)
tensor([3., 3., 3., 6., 6., 6.])
"""

from __future__ import annotations

import math
from functools import singledispatch

import torch
from torch import Tensor

from resolvent.operators.algebra import Scaled
from resolvent.operators.blocks import BlockDiagonal
from resolvent.operators.elementary import Dense, Diagonal, Identity, Zero
from resolvent.operators.fast import Permutation
from resolvent.operators.kronecker import Kronecker
from resolvent.operators.lowrank import LowRank
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse, _AdjointSparse

# entries of a matrix that may be formed at once for a reduction over its columns
_BLOCK = 1 << 22


def vector_norm(x: Tensor, p: float, dim: int | tuple[int, ...] = -1) -> Tensor:
    """`torch.linalg.vector_norm` that neither overflows nor underflows in between; for p > 0.

    Examples
    --------
    >>> vector_norm(torch.tensor([3e200, 4e200], dtype=torch.float64), 2)
    tensor(5.0000e+200, dtype=torch.float64)
    """
    dims = (dim,) if isinstance(dim, int) else dim
    shape = [s for i, s in enumerate(x.shape) if i - x.ndim not in dims and i not in dims]
    size = math.prod(x.shape[d] for d in dims)
    if size == 0:
        return torch.zeros(shape, dtype=x.real.dtype, device=x.device)
    value = torch.linalg.vector_norm(x, p, dim=dims)
    if p in (1, math.inf):
        return value
    # powers of the entries stay in range if the p-th power of the norm does; where it does not, repeat with scaling
    limits = torch.finfo(value.dtype)
    high = math.exp(min(math.log(limits.max / size) / max(p, 1), 600)) / 4
    low = math.exp(math.log(limits.tiny / limits.eps * size) / max(p, 1))
    with torch.no_grad():
        safe = bool(((value > low) & (value < high)).all())
        if safe:
            return value
        top = torch.linalg.vector_norm(x, math.inf, dim=dims, keepdim=True)
        top = torch.where((top > 0) & torch.isfinite(top), top, torch.ones_like(top))
    # the scale is a constant and the norm is homogeneous: the gradient is exact
    return torch.linalg.vector_norm(x / top, p, dim=dims) * top.reshape(value.shape)


@singledispatch
def column_norms(A: Operator, p: float) -> Tensor:
    """The p-norms of the columns of `A`, (*batch, n), for p in (0, inf]."""
    m, n = A.shape[-2:]
    batch = math.prod(A.batch_shape)
    if batch * m * n <= _BLOCK:
        return vector_norm(A._dense(), p, dim=-2)
    step = max(1, min(256, _BLOCK // max(1, batch * m)))
    index = torch.arange(n, device=A.device)
    return torch.cat([vector_norm(A._matmul(A._units(n, j)), p, dim=-2) for j in index.split(step)], dim=-1)


@column_norms.register
def _(A: Dense, p: float) -> Tensor:
    return vector_norm(A.data, p, dim=-2)


@column_norms.register
def _(A: Diagonal, p: float) -> Tensor:
    return A._parts[0].abs()


@column_norms.register(Identity)
@column_norms.register(Permutation)
def _(A: Operator, p: float) -> Tensor:
    return torch.ones(*A.batch_shape, A.shape[-1], dtype=_real(A), device=A.device)


@column_norms.register
def _(A: Zero, p: float) -> Tensor:
    return torch.zeros(*A.batch_shape, A.shape[-1], dtype=_real(A), device=A.device)


@column_norms.register
def _(A: Scaled, p: float) -> Tensor:
    return column_norms(A._parts[1], p) * A.factor.abs()[..., None]


@column_norms.register
def _(A: Kronecker, p: float) -> Tensor:
    first, *rest = (column_norms(part, p) for part in A._parts)
    for norms in rest:
        first = (first[..., :, None] * norms[..., None, :]).flatten(-2)
    return first


@column_norms.register
def _(A: BlockDiagonal, p: float) -> Tensor:
    norms = [column_norms(part, p) for part in A._parts]
    batch = torch.broadcast_shapes(*(t.shape[:-1] for t in norms))
    return torch.cat([t.expand(*batch, t.shape[-1]) for t in norms], dim=-1)


@column_norms.register
def _(A: Sparse, p: float) -> Tensor:
    _rows, columns, values = _distinct(A)
    return _grouped_norm(values, columns, A.shape[-1], p)


@column_norms.register
def _(A: _AdjointSparse, p: float) -> Tensor:
    rows, _columns, values = _distinct(A._of)
    return _grouped_norm(values, rows, A.shape[-1], p)


def _distinct(A: Sparse) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the entries, repeated ones added up."""
    m, n = A.shape
    columns = A.indices.long()
    rows = torch.repeat_interleave(torch.arange(m, device=A.device), A.indptr.diff().long())
    place = rows * n + columns
    if bool((place[1:] > place[:-1]).all()):
        return rows, columns, A.values
    place, index = torch.unique(place, return_inverse=True)
    values = torch.zeros(len(place), dtype=A.dtype, device=A.device).index_add(0, index, A.values)
    return place // n, place % n, values


def _grouped_norm(values: Tensor, group: Tensor, groups: int, p: float) -> Tensor:
    """The p-norm of the values of each group, scaled by the largest so that no power leaves the range."""
    size = values.abs()
    top = torch.zeros(groups, dtype=size.dtype, device=size.device)
    top = top.scatter_reduce(0, group, size, "amax")
    if p == math.inf:
        return top
    top = top.detach()
    top = torch.where(top > 0, top, torch.ones_like(top))
    sums = torch.zeros_like(top).index_add(0, group, (size / top[group]) ** p)
    # an empty column has norm and gradient zero, not the infinite slope of a root at zero
    filled = sums > 0
    return torch.where(filled, torch.where(filled, sums, 1.0) ** (1 / p), 0.0) * top


@singledispatch
def entry_norm(A: Operator, p: float) -> Tensor:
    """The p-norm of all entries of `A`, (*batch,), for p in (0, inf]; p = 2 is the Frobenius norm."""
    if p == 2 and A.unitary:
        return torch.full(A.batch_shape, math.sqrt(A.shape[-1]), dtype=_real(A), device=A.device)
    m, n = A.shape[-2:]
    # products with the shorter side's unit vectors; an unknown adjoint leaves only the columns
    side = A.H if m < n and _has_adjoint(A) else A
    return vector_norm(column_norms(side, p), p)


@entry_norm.register
def _(A: Dense, p: float) -> Tensor:
    return vector_norm(A.data, p, dim=(-2, -1))


@entry_norm.register
def _(A: Sparse, p: float) -> Tensor:
    return vector_norm(_distinct(A)[2], p)


@entry_norm.register
def _(A: LowRank, p: float) -> Tensor:
    if p == 2:
        core = torch.linalg.qr(A.U * A.s[..., None, :]).R @ torch.linalg.qr(A.V).R.mH
        return vector_norm(core, 2, dim=(-2, -1))
    return vector_norm(column_norms(A, p), p)


def _real(A: Operator) -> torch.dtype:
    return torch.empty(0, dtype=A.dtype).real.dtype


def _has_adjoint(A: Operator) -> bool:
    try:
        return A.H is not None
    except (ValueError, TypeError):
        return False
