"""The Cholesky factor of a positive matrix: with pivots where it is singular, and kept up to date as the matrix changes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back

# What rounding can leave of the determinant of a matrix that a downdate makes singular, in units of n eps.
_LEAST = 10


class PivotedCholesky(NamedTuple):
    """Of :func:`cholesky` with pivots.

    Attributes
    ----------
    L : (*batch, n, r) lower trapezoidal, ``A[order][:, order] = L L^H``; r is the largest rank of the batch, and what
        is beyond the rank of a matrix is zero
    order : (*batch, n) the rows of A in the order of the pivots
    rank : (*batch,) number of pivots; a Python int without a batch
    """

    L: Any
    order: Any
    rank: Any


def cholesky(A: Any, *, pivoted: bool = False, rtol: float | None = None) -> Any:
    r"""The lower triangular factor of a positive matrix, :math:`A = L L^H`.

    Parameters
    ----------
    A : (*batch, n, n) Hermitian, positive definite, or semidefinite for `pivoted`; its lower triangle is read
    pivoted : take the largest remaining diagonal entry first and stop at the rank
    rtol : for `pivoted`, pivots up to `rtol` times the largest diagonal entry count as zero; default n eps

    Returns
    -------
    L, (*batch, n, n); or, for `pivoted`, a `PivotedCholesky`.

    Raises
    ------
    ValueError : A is not a finite Hermitian matrix or not positive definite; for `pivoted`, a remaining diagonal entry is more
        negative than rounding and `rtol` explain.

    Notes
    -----
    n^3/3 flops by LAPACK or cuSOLVER; with pivots n r^2 flops by columns, what was not yet a pivot updated as needed.
    Of a semidefinite matrix the error ``|A - L L^H|`` is about n rtol times its largest diagonal entry. Gradients of
    every order; with pivots those of the factor at fixed pivots and rank.

    References
    ----------
    "LAPACK-Style Codes for Pivoted Cholesky and QR Updating"

    Examples
    --------
    >>> cholesky(torch.tensor([[4.0, 2.0], [2.0, 5.0]]))
    tensor([[2., 0.],
            [1., 2.]])
    >>> cholesky(torch.tensor([[1.0, 2.0], [2.0, 4.0]]), pivoted=True)
    PivotedCholesky(L=tensor([[2.],
            [1.]]), order=tensor([1, 0]), rank=1)
    """
    t, kind = _square(A, "A")
    if not pivoted:
        if rtol is not None:
            raise ValueError("rtol is for pivoted=True: a factor without pivots has no rank to find")
        L, failed = torch.linalg.cholesky_ex(t)
        if bool(failed.any()):
            at = int(failed[failed > 0].flatten()[0])
            raise ValueError(
                f"A must be positive definite, and its leading minor of order {at} is not positive; a semidefinite "
                "matrix needs pivoted=True"
            )
        return give_back(L, kind)
    n = t.shape[-1]
    if rtol is None:
        rtol = n * torch.finfo(t.dtype).eps
    elif not 0 <= rtol < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")
    lead = t.shape[:-2]
    found = [_with_pivots(one, rtol) for one in t.reshape(lead.numel(), n, n)]
    widest = max((part.shape[-1] for part, _ in found), default=0)
    padded = [torch.nn.functional.pad(L, (0, widest - L.shape[-1])) for L, _ in found]
    L = torch.stack(padded) if found else t.new_zeros(0, n, 0)
    order = torch.stack([order for _, order in found]) if found else torch.zeros(0, n, dtype=torch.long)
    ranks = torch.tensor([part.shape[-1] for part, _ in found], dtype=torch.long).reshape(lead)
    L, order = L.reshape(*lead, n, widest), order.reshape(*lead, n).to(t.device)
    rank: Any = int(ranks) if not lead else give_back(ranks.to(t.device), kind)
    L, order = give_back((L, order), kind)
    return PivotedCholesky(L, order, rank)


def _with_pivots(A: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """L (n, rank) and the order of the pivots of one matrix; L is made again from A at these pivots, for its gradient."""
    n = len(A)
    with torch.no_grad():
        d = A.diagonal().real.clone()
        order = torch.arange(n, device=A.device)
        F = A.new_zeros(n, n)
        largest = float(d.abs().max()) if n else 0.0
        rank = 0
        while rank < n:
            at = rank + int(d[order[rank:]].argmax())
            if not float(d[order[at]]) > rtol * largest:
                break
            order[[rank, at]] = order[[at, rank]]
            pivot, rest = order[rank], order[rank:]
            row = torch.where(rest >= pivot, A[rest, pivot], A[pivot, rest].conj())
            column = (row - F[rest, :rank] @ F[pivot, :rank].conj()) / d[pivot].sqrt()
            F[rest, rank] = column
            d[rest] -= column.abs().square()
            rank += 1
        left = float(d[order[rank:]].min()) if rank < n else 0.0
        if left < -(rtol + 10 * n * torch.finfo(A.dtype).eps) * largest:
            raise ValueError(f"A must be positive semidefinite, and a pivot is {left:.3g}")
        # A zero diagonal entry of a semidefinite matrix has a zero row: anything else is seen here.
        if rank < n:
            rest = order[rank:]
            lower = A.tril() + A.tril(-1).mH
            gap = float((lower[rest][:, rest] - F[rest, :rank] @ F[rest, :rank].mH).abs().max())
            if gap > 10 * (rtol + 10 * n * torch.finfo(A.dtype).eps) * largest:
                raise ValueError(f"A must be positive semidefinite, and {gap:.3g} is left beside pivots of zero")
    if not (A.requires_grad and torch.is_grad_enabled()):
        return F[order][:, :rank], order
    lower = A.tril() + A.tril(-1).mH
    turned = lower[order][:, order]
    top = torch.linalg.cholesky(turned[:rank, :rank])
    below = torch.linalg.solve_triangular(top, turned[rank:, :rank].mH, upper=False).mH
    return torch.cat([top, below]), order


def cholesky_update(L: Any, X: Any, *, sign: Literal[1, -1] = 1) -> Any:
    r"""The Cholesky factor of :math:`L L^H \pm X X^H` from L, without forming that.

    Parameters
    ----------
    L : (*batch, n, n) lower triangular with a positive diagonal
    X : (*batch, n) or (*batch, n, k), with as many batch dimensions as L
    sign : 1 adds X X^H, -1 takes it away

    Returns
    -------
    (*batch, n, n) lower triangular with a positive diagonal.

    Raises
    ------
    ValueError : shapes that do not fit, a diagonal entry of L that is not positive, a `sign` that is not 1 or -1, or
        :math:`L L^H - X X^H` is not positive definite, or only by rounding: 10 n eps of the determinant is left.

    Notes
    -----
    k n^2 rotations, circular ones to add and hyperbolic ones (in their mixed, stable form) to take away: 2 k n^2 flops
    in place of n^3/3. Taking away loses what the condition of the result loses. CUDA tensors are factored anew. Gradients of every order, at the
    cost of triangular solves of n^3.

    References
    ----------
    "Methods for Modifying Matrix Factorizations"

    Examples
    --------
    >>> L = cholesky_update(torch.eye(2), torch.tensor([3.0, 0.0]), sign=1)
    >>> (L @ L.T).round(decimals=4)
    tensor([[10.,  0.],
            [ 0.,  1.]])
    """
    t, kind = _square(L, "L")
    x, other = as_tensor(X, "X")
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign!r}")
    if x.ndim == t.ndim - 1:
        x = x[..., None]
    if x.ndim != t.ndim or x.shape[:-1] != t.shape[:-1]:
        raise ValueError(f"X must have shape {(*t.shape[:-1], 'k')} or {tuple(t.shape[:-1])}, got {tuple(x.shape)}")
    check_finite(x, "X")
    if x.device != t.device:
        raise ValueError(f"L and X must be on one device, got {t.device} and {x.device}")
    dtype = torch.promote_types(t.dtype, x.dtype)
    if not bool((t.diagonal(dim1=-2, dim2=-1).real > 0).all()):
        raise ValueError("L must have a positive diagonal")
    result = _Updated.apply(t.to(dtype).tril(), x.to(dtype), int(sign))
    return give_back(result, "numpy" if kind == other == "numpy" else "torch")


class _Updated(torch.autograd.Function):
    """The factor M of L L^H + sign X X^H."""

    @staticmethod
    def forward(ctx: Any, L: Tensor, X: Tensor, sign: int) -> Tensor:
        M = _updated(L, X, sign)
        ctx.save_for_backward(L, X, M)
        ctx.sign = sign
        return M

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        L, X, M = ctx.saved_tensors
        inner = (M.mH @ grad.tril()).tril()
        inner = inner - inner.diagonal(dim1=-2, dim2=-1).diag_embed() / 2
        inner = inner + inner.mH
        # The gradient of the changed matrix, Hermitian: M^-H inner M^-1 / 2, and both factors of a square move.
        outer = torch.linalg.solve_triangular(M.mH, inner, upper=True)
        outer = torch.linalg.solve_triangular(M, outer, upper=False, left=False)
        return (outer @ L).tril(), ctx.sign * (outer @ X), None


def _updated(L: Tensor, X: Tensor, sign: int) -> Tensor:
    n, k = X.shape[-2:]
    if L.device.type != "cpu":
        M, failed = torch.linalg.cholesky_ex(L @ L.mH + sign * (X @ X.mH))
        if bool(failed.any()) or (sign < 0 and bool(_left(L, M) <= _LEAST * n * torch.finfo(L.dtype).eps)):
            raise ValueError("L L^H - X X^H must be positive definite, and it is not")
        return M
    from resolvent.factor.cholesky_kernel import rotate_in

    count = L.shape[:-2].numel()
    # Columns of L become rows, so that the rotations run along memory.
    work = np.array(L.detach().resolve_conj().mT.reshape(count, n, n).numpy(), order="C")
    change = np.array(X.detach().resolve_conj().mT.reshape(count, k, n).numpy(), order="C")
    least = _LEAST * n * torch.finfo(L.dtype).eps
    for matrix, vectors in zip(work, change, strict=True):
        if rotate_in(matrix, vectors, sign, least) >= 0:
            raise ValueError("L L^H - X X^H must be positive definite, and it is not")
    return torch.from_numpy(work).mT.reshape(L.shape).contiguous()


def _left(L: Tensor, M: Tensor) -> Tensor:
    """The least of the determinants after a downdate, in units of those before."""
    ratios = M.diagonal(dim1=-2, dim2=-1).real / L.diagonal(dim1=-2, dim2=-1).real
    return ratios.square().prod(-1).amin() if ratios.numel() else ratios.new_ones(())


def _square(A: Any, name: str) -> tuple[Tensor, Any]:
    t, kind = as_tensor(A, name)
    if t.ndim < 2 or t.shape[-1] != t.shape[-2]:
        raise ValueError(f"{name} must have shape (..., n, n), got {tuple(t.shape)}")
    if t.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"{name} has dtype {t.dtype}; convert it to float32")
    check_finite(t, name)
    if name == "A" and t.numel():
        lower, upper = t.detach().tril(-1), t.detach().triu(1).mH
        bound = 1e3 * torch.finfo(t.dtype).eps * t.detach().abs().max()
        if bool((upper != 0).any()) and bool((lower - upper).abs().max() > bound):
            raise ValueError(f"{name} must be Hermitian, entries and their mirrors differ")
    return t, kind
