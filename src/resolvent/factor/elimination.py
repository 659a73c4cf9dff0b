"""Gaussian elimination: LU factors with partial, complete or no pivoting, of matrices of any shape, with gradients."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back, give_back_array
from resolvent.operators.lu import lu_factor_ex

Pivoting = Literal["partial", "complete", "none"]

# Columns that are eliminated one after the other; wider panels are split, so that nearly all work is matrix products.
_LEAF = 32


class LU(NamedTuple):
    """Of :func:`lu`: ``A[rows][:, columns] = L U``.

    Attributes
    ----------
    L : (*batch, m, r) lower trapezoidal with a unit diagonal, r = min(m, n)
    U : (*batch, r, n) upper trapezoidal
    rows : (*batch, m) order of the rows of A
    columns : (*batch, n) order of its columns
    rank : (*batch,) number of pivots of complete pivoting, a Python int without a batch; otherwise None

    Examples
    --------
    >>> factors = lu(torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
    >>> factors.solve(torch.tensor([2.0, 3.0])), factors.det()
    (tensor([2., 1.]), tensor(-2.))
    """

    L: Any
    U: Any
    rows: Any
    columns: Any
    rank: Any

    def solve(self, B: Any, *, adjoint: bool = False) -> Any:
        """X with A X = B, or A^H X = B for `adjoint`; B (*batch, n) or (*batch, n, k).

        A ValueError if A is not square or has a pivot that is zero. Backward stable with partial and complete pivoting;
        differentiable.
        """
        L, U, rows, columns, kind = self._parts()
        n = L.shape[-1]
        if L.shape[-2] != n or U.shape[-1] != n:
            raise ValueError(f"A must be square to be solved with, got ({L.shape[-2]}, {U.shape[-1]})")
        if bool((U.detach().diagonal(dim1=-2, dim2=-1) == 0).any()):
            raise ValueError("A is singular: a pivot is zero")
        b, other, vector = right_side(B, L)
        if adjoint:
            b = _taken(b, columns)
            y = torch.linalg.solve_triangular(U.mH, b, upper=False)
            x = _taken(torch.linalg.solve_triangular(L.mH, y, upper=True, unitriangular=True), rows.argsort(-1))
        else:
            y = torch.linalg.solve_triangular(L, _taken(b, rows), upper=False, unitriangular=True)
            x = _taken(torch.linalg.solve_triangular(U, y, upper=True), columns.argsort(-1))
        return give_back_array(x[..., 0] if vector else x, "numpy" if kind == other == "numpy" else "torch")

    def slogdet(self) -> tuple[Any, Any]:
        """Sign and logarithm of the modulus of the determinant of a square A: (*batch,) each; 0 and -inf if a pivot is zero."""
        sign, log, kind = self._determinant()
        return give_back(sign, kind), give_back(log, kind)

    def det(self) -> Any:
        """The determinant of a square A, (*batch,); an OverflowError where it is out of range."""
        sign, log, kind = self._determinant()
        value = sign * log.exp()
        if not bool(torch.isfinite(value.detach()).all()):
            raise OverflowError(f"the determinant is beyond the range of {value.dtype}: take slogdet")
        return give_back(value, kind)

    def to_dense(self) -> Any:
        """A itself, from its factors."""
        L, U, rows, columns, kind = self._parts()
        back = columns.argsort(-1)[..., None, :]
        A = _taken(L @ U, rows.argsort(-1))
        return give_back_array(A.gather(-1, back.expand(A.shape)), kind)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Any]:
        (L, kind), (U, _) = as_tensor(self.L, "L"), as_tensor(self.U, "U")
        return L, U, torch.as_tensor(self.rows), torch.as_tensor(self.columns), kind

    def _determinant(self) -> tuple[Tensor, Tensor, Any]:
        L, U, rows, columns, kind = self._parts()
        if L.shape[-2] != U.shape[-1]:
            raise ValueError(f"A must be square to have a determinant, got ({L.shape[-2]}, {U.shape[-1]})")
        d = U.diagonal(dim1=-2, dim2=-1)
        odd = _inversions(rows) + _inversions(columns)
        return d.sgn().prod(-1) * (1 - 2 * (odd % 2)).to(d.dtype), d.abs().log().sum(-1), kind


def lu(A: Any, *, pivoting: Pivoting = "partial", rtol: float | None = None) -> LU:
    r"""Triangular factors by elimination, :math:`A_{p q} = L U` for orders p of the rows and q of the columns.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array
    pivoting : "partial" takes the largest entry left of a column, "complete" the largest entry left, which reveals the
        rank; "none" leaves the order, for matrices that are known to allow it (diagonally dominant, M-matrices, totally
        positive ones)
    rtol : for "complete", pivots up to `rtol` times the first count as zero; default max(m, n) eps

    Returns
    -------
    `LU` with the methods `solve`, `slogdet`, `det` and `to_dense`. Beyond the rank, rows of U are zero.

    Raises
    ------
    ValueError : A is not a finite matrix, `pivoting` is unknown, `rtol` is out of range; without pivoting a pivot is
        zero above something else, or pivots so small that half of the digits are lost.

    Notes
    -----
    n^2 (m - n/3) flops for m >= n. "partial" is LAPACK's or cuSOLVER's; "none" splits the columns and works by matrix
    products; "complete" eliminates by single rows, and on other devices than the CPU step by step over the whole batch. The
    error of L U is that of rounding times the growth of the entries: at most 2^(n-1) for partial pivoting and a few in
    practice, about n^(log(n)/4) for complete, without bound for none. Gradients of every order at fixed pivots and
    rank; there is none where one of the first min(m, n) pivots is zero, save those beyond the rank.

    References
    ----------
    "Error Analysis of Direct Methods of Matrix Inversion"

    Examples
    --------
    >>> factors = lu(torch.tensor([[1.0, 2.0], [2.0, 4.0]]), pivoting="complete")
    >>> factors.L, factors.U, factors.rows, factors.columns, factors.rank
    (tensor([[1.0000, 0.0000],
            [0.5000, 1.0000]]), tensor([[4., 2.],
            [0., 0.]]), tensor([1, 0]), tensor([1, 0]), 1)
    """
    t, kind = as_tensor(A, "A")
    if t.ndim < 2:
        raise ValueError(f"A must have shape (..., m, n), got {tuple(t.shape)}")
    if t.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"A has dtype {t.dtype}; convert it to float32")
    check_finite(t, "A")
    if pivoting not in ("partial", "complete", "none"):
        raise ValueError(f"pivoting must be partial, complete or none, got {pivoting!r}")
    m, n = t.shape[-2:]
    if rtol is not None and pivoting != "complete":
        raise ValueError("rtol is for pivoting='complete': without it there is no rank to find")
    rtol = max(m, n) * torch.finfo(t.dtype).eps if rtol is None else rtol
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")
    with torch.no_grad():
        work = t.detach().resolve_conj()
        L, U, rows, columns, ranks = _factors(work, pivoting, rtol)
    if t.requires_grad and torch.is_grad_enabled():
        turned = _taken(t, rows)
        turned = turned.gather(-1, columns[..., None, :].expand(t.shape))
        L, U = _recorded(turned, L, U, ranks)
    rank: Any = None
    if pivoting == "complete":
        rank = int(ranks) if t.ndim == 2 else give_back(ranks.to(t.device), kind)
    L, U, rows, columns = give_back((L, U, rows, columns), kind)
    return LU(L, U, rows, columns, rank)


def right_side(B: Any, like: Tensor) -> tuple[Tensor, Any, bool]:
    """B as (*batch, n, k) in the dtype that both promote to, its kind, and whether it came as vectors."""
    b, kind = as_tensor(B, "B")
    check_finite(b, "B")
    n = like.shape[-1]
    vector = b.ndim == like.ndim - 1
    if vector:
        b = b[..., None]
    if b.ndim != like.ndim or b.shape[:-1] != like.shape[:-1]:
        lead = tuple(like.shape[:-2])
        raise ValueError(f"B must have shape {(*lead, n)} or {(*lead, n, 'k')}, got {tuple(b.shape)}")
    if b.is_complex() and not like.is_complex():
        raise TypeError(f"B is complex and the factors are {like.dtype}: solve with its parts")
    return b.to(like.dtype), kind, vector


def _taken(X: Tensor, order: Tensor) -> Tensor:
    """Rows of X in an order of their own for each matrix."""
    return X.gather(-2, order[..., :, None].expand(X.shape))


def _inversions(order: Tensor) -> Tensor:
    return (order[..., :, None] > order[..., None, :]).triu(1).sum((-1, -2))


def _identity_orders(A: Tensor) -> tuple[Tensor, Tensor]:
    lead = A.shape[:-2]
    return tuple(torch.arange(size, device=A.device).expand(*lead, size).clone() for size in A.shape[-2:])  # type: ignore[return-value]


def _factors(A: Tensor, pivoting: str, rtol: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """L, U, the orders and the ranks, which are min(m, n) but for complete pivoting."""
    rows, columns = _identity_orders(A)
    ranks = torch.full(A.shape[:-2], min(A.shape[-2:]))
    if A.numel() == 0:
        compact = A
    elif pivoting == "partial":
        compact, pivots, _ = lu_factor_ex(A)
        P = torch.lu_unpack(compact, pivots, unpack_data=False)[0]
        rows = P.real.argmax(-2)
    elif pivoting == "complete":
        compact, rows, columns, ranks = (_complete_host if A.device.type == "cpu" else _complete)(A, rtol)
    else:
        compact = _without_pivots(A)
        _check_growth(A, compact)
    r = min(A.shape[-2:])
    L, U = compact[..., :, :r].tril(-1), compact[..., :r, :].triu()
    if pivoting == "complete" and bool((ranks < r).any()):
        kept = torch.arange(r, device=A.device) < ranks.to(A.device)[..., None]
        L, U = L * kept[..., None, :], U * kept[..., :, None]
    L.diagonal(dim1=-2, dim2=-1).fill_(1)
    return L, U, rows, columns, ranks


def _check_growth(A: Tensor, compact: Tensor) -> None:
    r = min(A.shape[-2:])
    sizes = [part.abs().amax((-1, -2)) for part in (A, compact[..., :r, :].triu(), compact[..., :, :r].tril(-1))]
    growth = sizes[1] * sizes[2].clamp_min(1) / torch.where(sizes[0] > 0, sizes[0], torch.ones_like(sizes[0]))
    worst = float(growth.max())
    if not worst < torch.finfo(A.dtype).eps ** -0.5:
        raise ValueError(f"A needs pivoting: without it the entries of its factors grow by a factor of {worst:.2g}")


def _without_pivots(A: Tensor) -> Tensor:
    """Compact factors of (..., m, n): the left half of the columns, what it leaves of the others, the rest."""
    m, n = A.shape[-2:]
    r = min(m, n)
    if r <= _LEAF:
        return _panel_host(A) if A.device.type == "cpu" else _panel(A)
    k = r // 2
    left = _without_pivots(A[..., :k])
    top = torch.linalg.solve_triangular(left[..., :k, :], A[..., :k, k:], upper=False, unitriangular=True)
    rest = _without_pivots(A[..., k:, k:] - left[..., k:, :] @ top)
    return torch.cat([left, torch.cat([top, rest], -2)], -1)


def _refuse_pivot() -> None:
    raise ValueError("A has no factors L U without pivoting: a pivot is zero above something else")


def _panel_host(A: Tensor) -> Tensor:
    from resolvent.factor.elimination_kernel import eliminate

    out = A.contiguous().clone()
    for one in out.reshape(-1, *A.shape[-2:]).numpy():
        if eliminate(one) >= 0:
            _refuse_pivot()
    return out


def _panel(A: Tensor) -> Tensor:
    out = A.clone()
    failed = torch.zeros(A.shape[:-2], dtype=torch.bool, device=A.device)
    for k in range(min(A.shape[-2:])):
        pivot, below = out[..., k, k, None], out[..., k + 1 :, k]
        failed |= (pivot[..., 0] == 0) & (below != 0).any(-1)
        below = below / torch.where(pivot == 0, torch.ones_like(pivot), pivot)
        out[..., k + 1 :, k] = below
        out[..., k + 1 :, k + 1 :] -= below[..., None] * out[..., k, None, k + 1 :]
    if bool(failed.any()):
        _refuse_pivot()
    return out


def _complete_host(A: Tensor, rtol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from resolvent.factor.elimination_kernel import eliminate_completely

    m, n = A.shape[-2:]
    out = A.contiguous().clone()
    rows, columns = _identity_orders(A)
    each = zip(out.reshape(-1, m, n).numpy(), rows.reshape(-1, m).numpy(), columns.reshape(-1, n).numpy(), strict=True)
    ranks = [eliminate_completely(*one, rtol) for one in each]
    return out, rows, columns, torch.tensor(ranks, dtype=torch.long).reshape(A.shape[:-2])


def _complete(A: Tensor, rtol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for a batch at once, on any device and without asking it anything."""
    m, n = A.shape[-2:]
    out, (rows, columns) = A.clone(), _identity_orders(A)
    first = out.abs().amax((-1, -2)) if not A.is_complex() else (out.real.abs() + out.imag.abs()).amax((-1, -2))
    ranks = torch.zeros(A.shape[:-2], dtype=torch.long, device=A.device)
    for k in range(min(m, n)):
        rest = out[..., k:, k:]
        size = (rest.real.abs() + rest.imag.abs()) if A.is_complex() else rest.abs()
        best, at = size.flatten(-2).max(-1)
        active = best > rtol * first
        ranks += active & (ranks == k)
        for dim, order, swap in ((-2, rows, k + at // (n - k)), (-1, columns, k + at % (n - k))):
            line = torch.arange(order.shape[-1], device=A.device).expand(order.shape).clone()
            line.scatter_(-1, swap[..., None], k)
            line[..., k] = swap
            order.copy_(order.gather(-1, line))
            index = line[..., :, None] if dim == -2 else line[..., None, :]
            out = out.gather(dim, index.expand(out.shape))
        pivot = torch.where(active, out[..., k, k], torch.ones_like(out[..., k, k]))[..., None]
        below = out[..., k + 1 :, k] / pivot * active[..., None]
        out[..., k + 1 :, k] = below
        out[..., k + 1 :, k + 1 :] -= below[..., None] * out[..., k, None, k + 1 :]
    return out, rows, columns, ranks


def _recorded(A: Tensor, L: Tensor, U: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """L and U as functions of A, whose rows and columns stand in their order."""
    if ranks.numel() == 0 or bool((ranks == ranks.flatten()[0]).all()):
        rank = int(ranks.flatten()[0]) if ranks.numel() else 0
        return _Eliminated.apply(A, L, U, rank)
    flat = [x.reshape(-1, *x.shape[-2:]).unbind() for x in (A, L, U)]
    parts = [_Eliminated.apply(*one, int(rank)) for *one, rank in zip(*flat, ranks.flatten(), strict=True)]
    return torch.stack([p[0] for p in parts]).reshape(L.shape), torch.stack([p[1] for p in parts]).reshape(U.shape)


class _Eliminated(torch.autograd.Function):
    """L and U of A without pivots; only the first `rank` rows and columns of A matter."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, L: Tensor, U: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        L, U = L.clone(), U.clone()
        ctx.save_for_backward(L, U)
        ctx.rank, ctx.shape = rank, A.shape
        return L, U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        L, U = ctx.saved_tensors
        gL, gU = grads
        r, (m, n) = ctx.rank, ctx.shape[-2:]
        L1, L2, U1, U2 = L[..., :r, :r], L[..., r:, :r], U[..., :r, :r], U[..., :r, r:]
        if bool((U1.detach().diagonal(dim1=-2, dim2=-1) == 0).any()):
            raise ValueError("lu has no gradient where a pivot is zero: take pivoting='complete'")
        left = torch.linalg.solve_triangular(U1.mH, gL[..., r:, :r], upper=False, left=False)
        top = torch.linalg.solve_triangular(L1.mH, gU[..., :r, r:], upper=True, unitriangular=True)
        inner_L = L1.mH @ (gL[..., :r, :r] - top @ U2.mH).tril(-1)
        inner_U = (gU[..., :r, :r] - L2.mH @ left).triu() @ U1.mH
        inner = inner_L.tril(-1) + inner_U.triu()
        inner = torch.linalg.solve_triangular(L1.mH, inner, upper=True, unitriangular=True)
        corner = torch.linalg.solve_triangular(U1.mH, inner, upper=False, left=False)
        rest = left.new_zeros(*ctx.shape[:-2], m - r, n - r)
        return torch.cat([torch.cat([corner, top], -1), torch.cat([left, rest], -1)], -2), None, None, None
