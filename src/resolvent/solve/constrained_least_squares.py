"""Least squares with equality constraints, and total least squares, where the matrix has errors too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.solve.implicit import refusing
from resolvent.solve.least_squares_methods import Factored
from resolvent.solve.system import right_sides

# Times eps and the larger side: what rounding does to singular values, relative to the largest.
_NOISE = 4.0


def constrained_lstsq(A: OperatorLike, b: Any, C: OperatorLike, d: Any, *, rcond: float | None = None) -> Any:
    r"""Least squares on a plane: :math:`\min_x \|b - A x\|` subject to :math:`C x = d`.

    Parameters
    ----------
    A : (m, n) operator or anything `as_operator` takes, of any shape and rank; it is written down
    b : (m,) or (m, k)
    C : (p, n) constraints, of any rank
    d : (p,) or (p, k), of the columns of b
    rcond : singular values below rcond times the largest count as zero; default eps times the larger side

    Returns
    -------
    x (n,) or (n, k) of the kind of b: the solution of least norm where there are many.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, batches, constraints that contradict each other; for the gradient, dependent
        constraints or a solution that is not unique
    TypeError : mixed precision of torch tensors

    Notes
    -----
    The null space method: the singular vectors of C give the part of x that the constraints fix and a basis Z of what they
    leave, in which A Z is factorised. n^3 and 2 m n^2 flops; the constraints are met to rounding errors, which large
    weights on them would not. First-order gradients to A, b, C and d by the adjoint problem.

    References
    ----------
    "Solving Least Squares Problems"

    Examples
    --------
    >>> A, b = torch.eye(3), torch.tensor([1.0, 2.0, 6.0])
    >>> constrained_lstsq(A, b, torch.ones(1, 3), torch.tensor([3.0])).round(decimals=4) + 0.0  # the nearest of sum 3
    tensor([-1.,  0.,  4.])
    """
    A, B, kind, single = right_sides(as_operator(A, name="A"), b)
    C, D, _, only = right_sides(as_operator(C, name="C"), d, "d")
    if A.batch_shape or C.batch_shape or B.ndim > 2 or D.ndim > 2:
        raise ValueError("A, b, C and d must be matrices or vectors, got a batch")
    if C.shape[1] != A.shape[1]:
        raise ValueError(f"C must have shape (p, {A.shape[1]}), got {tuple(C.shape)}")
    if single != only or B.shape[1] != D.shape[1]:
        raise ValueError(f"d must have as many columns as b, got {tuple(D.shape)} and {tuple(B.shape)}")
    if C.dtype != A.dtype or D.dtype != B.dtype:
        raise TypeError(f"A, b, C and d must agree in dtype, got {A.dtype}, {B.dtype}, {C.dtype} and {D.dtype}")
    if rcond is not None and not 0 <= rcond < 1:
        raise ValueError(f"rcond must lie in [0, 1), got {rcond!r}")
    X = _Constrained.apply(A._dense(), B, C._dense(), D, rcond)
    return give_back_array(X[:, 0] if single else X, kind)


class _Constrained(torch.autograd.Function):
    """x with the derivative of its conditions :math:`A^H (A x - b) + C^H l = 0`, :math:`C x = d`."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, C: Tensor, D: Tensor, rcond: float | None) -> Tensor:
        given = (A, B, C, D)
        A, B, C, D = (t.detach() for t in given)
        n = A.shape[1]
        eps = torch.finfo(C.dtype).eps
        U, s, Vh = torch.linalg.svd(C)
        r = int((s > (eps * max(C.shape) if rcond is None else rcond) * s[:1]).sum()) if s.numel() else 0
        pinv = (Vh[:r].mH / s[:r].to(Vh.dtype)) @ U[:, :r].mH
        fixed = pinv @ D
        gap = torch.linalg.vector_norm(D - C @ fixed, dim=0)
        size = torch.linalg.vector_norm(D, dim=0) + (s[0] if r else 0) * torch.linalg.vector_norm(fixed, dim=0)
        if bool((gap > 100 * eps * max(C.shape) * size).any()):
            worst = float((gap / size.clamp(min=torch.finfo(size.dtype).tiny)).max())
            raise ValueError(
                f"the constraints C x = d contradict each other: the best x misses them by {worst:.2g} of d"
            )
        Z = Vh[r:].mH
        free = Factored(A @ Z, eps * max(A.shape) if rcond is None else rcond)
        X = fixed + Z @ free.solve(B - A @ fixed)
        ctx.free, ctx.regular = free, r == C.shape[0] and (not free.deficient and A.shape[0] >= n - r)
        ctx.save_for_backward(*given, X, pinv, Z)
        return X

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if not ctx.regular:
            raise ValueError(
                "constrained_lstsq has gradients where the rows of C are independent and the solution is unique"
            )
        A, B, _, _, X, pinv, Z = saved = ctx.saved_tensors
        with torch.no_grad():
            T = Z @ ctx.free.inverse_gram(Z.mH @ grad)
            mu = pinv.mH @ (grad - A.mH @ (A @ T))
            R = B - A @ X
            lam = pinv.mH @ (A.mH @ R)
            back = A @ T
            found = (R @ T.mH - back @ X.mH, back, -lam @ T.mH - mu @ X.mH, mu, None)
        return refusing(found, (grad, *saved), "constrained_lstsq has first derivatives only")


def total_lstsq(A: Any, b: Any, *, exact: Sequence[int] = ()) -> Any:
    r"""Total least squares: the least change of A and b, :math:`\min \|[E, F]\|_F`, with :math:`(A + E) x = b + F`.

    Parameters
    ----------
    A : (*batch, m, n) matrix, m >= n
    b : (*batch, m) for a matrix or a vector of each matrix of the batch, or (*batch, m, k)
    exact : columns of A that have no errors (a column of ones, say), and are not changed

    Returns
    -------
    x of the kind of b, (*batch, n) or (*batch, n, k).

    Raises
    ------
    ValueError : shapes that do not fit, NaN; there is no solution, or more than one (the nongeneric case: the singular
        values that separate signal and noise coincide, or b is orthogonal to what A loses), or `exact` columns depend
        on each other
    TypeError : mixed precision or kinds

    Notes
    -----
    With [A, b] = U S V^H and V split behind row and column n, :math:`x = -V_{12} V_{22}^{-1}`; exact columns are taken
    off by a QR factorisation first. About 4 m (n + k)^2 + 8 (n + k)^3 flops. The condition is that of
    :math:`A^H A - \sigma^2 I` with the smallest singular value of [A, b], worse than that of least squares. First-order
    gradients to A and b, by the derivative of the invariant subspace.

    References
    ----------
    "An Analysis of the Total Least Squares Problem"
    "A generalization of the Eckart-Young-Mirsky matrix approximation theorem"

    Examples
    --------
    >>> A = torch.tensor([[1.0], [2.0], [3.0]])
    >>> total_lstsq(A, torch.tensor([2.0, 4.0, 6.0])).round(decimals=4)
    tensor([2.])
    """
    A, B, kind, single = _pair(A, b)
    n = A.shape[-1]
    columns = [int(i) for i in exact]
    if any(not 0 <= i < n for i in columns) or len(set(columns)) < len(columns):
        raise ValueError(f"exact must be different columns from 0 to {n - 1}, got {list(exact)!r}")
    if A.shape[-2] < n:
        raise ValueError(f"A must have at least as many rows as columns, got shape {tuple(A.shape)}: use lstsq")
    if not columns:
        X = _total(A, B)
        return give_back_array(X[..., 0] if single else X, kind)
    others = [i for i in range(n) if i not in set(columns)]
    p = len(columns)
    Q, R = torch.linalg.qr(A[..., columns])
    d = R.diagonal(dim1=-2, dim2=-1).abs()
    noise = _NOISE * torch.finfo(A.dtype).eps * A.shape[-2]
    if bool((d <= noise * torch.linalg.vector_norm(A[..., columns], dim=-2)).any()):
        raise ValueError(f"the exact columns {columns} of A depend on each other")
    rest = torch.cat([A[..., others], B], -1)
    top = Q.mH @ rest
    left = rest - Q @ top
    left = left - Q @ (Q.mH @ left)
    q = len(others)
    X = _total(left[..., :q], left[..., q:], A.shape[-2] - p) if q else B.new_zeros(*B.shape[:-2], 0, B.shape[-1])
    first = torch.linalg.solve_triangular(R, top[..., q:] - top[..., :q] @ X, upper=True)
    X = torch.cat([first, X], -2)[..., torch.argsort(torch.tensor(columns + others)).to(B.device), :]
    return give_back_array(X[..., 0] if single else X, kind)


def _pair(A: Any, b: Any) -> tuple[Tensor, Tensor, Kind, bool]:
    matrix, _ = as_tensor(A, "A")
    if matrix.ndim < 2:
        raise ValueError(f"A must have shape (*batch, m, n), got {tuple(matrix.shape)}")
    check_finite(matrix, "A")
    B, kind = as_tensor(b, "b")
    # One vector for each matrix of a batch, as torch.linalg.solve reads it.
    single = B.ndim == 1 or (matrix.ndim > 2 and tuple(B.shape) == tuple(matrix.shape[:-1]))
    B = B[..., None] if single else B
    if B.ndim < 2 or B.shape[-2] != matrix.shape[-2]:
        raise ValueError(
            f"b must have shape (*batch, m) or (*batch, m, k) with m = {matrix.shape[-2]}, got {tuple(B.shape)}"
        )
    check_finite(B, "b")
    if torch.finfo(B.dtype).bits != torch.finfo(matrix.dtype).bits and kind == "torch":
        raise TypeError(f"b has dtype {B.dtype}, A {matrix.dtype}; convert one of them")
    dtype = torch.promote_types(matrix.dtype, B.dtype)
    if dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        raise TypeError(f"A has dtype {matrix.dtype}: convert it to float32 or float64")
    try:
        batch = torch.broadcast_shapes(matrix.shape[:-2], B.shape[:-2])
    except RuntimeError:
        raise ValueError(f"the leading dimensions do not broadcast: {tuple(matrix.shape)}, {tuple(B.shape)}") from None
    return matrix.to(dtype).expand(*batch, *matrix.shape[-2:]), B.to(dtype).expand(*batch, *B.shape[-2:]), kind, single


def _total(A: Tensor, B: Tensor, rows: int | None = None) -> Tensor:
    """Total least squares of (*batch, m, n), (*batch, m, k); `rows` is what a projection left of the dimension m."""
    return _Total.apply(torch.cat([A, B], -1), A.shape[-1], A.shape[-2] if rows is None else rows)


class _Total(torch.autograd.Function):
    """x from the right singular vectors, with the derivative of the projector onto the last ones."""

    @staticmethod
    def forward(ctx: Any, C: Tensor, n: int, rows: int) -> Tensor:
        given, C = C, C.detach()
        m, both = C.shape[-2:]
        k = both - n
        short = torch.linalg.qr(C, mode="r").R if m > 2 * both else C
        _, s, Vh = torch.linalg.svd(short, full_matrices=True)
        s = torch.nn.functional.pad(s, (0, both - s.shape[-1]))
        noise = _NOISE * torch.finfo(C.dtype).eps * max(m, both)
        V2 = Vh.mH[..., n:]
        if n and k:
            gap = s[..., n - 1] - s[..., n]
            if rows < n or bool((gap <= noise * s[..., 0]).any()):
                raise ValueError(
                    "total_lstsq: no unique solution: singular values "
                    f"{n - 1} and {n} of [A, b] coincide to rounding (gap {float(gap.min()):.2g}); use lstsq"
                )
        inner = torch.linalg.svdvals(V2[..., n:, :])
        if inner.numel() and bool((inner[..., -1] <= noise).any()):
            raise ValueError(
                "total_lstsq: no solution: b is orthogonal to the singular vectors that A loses (the nongeneric case); "
                "use lstsq"
            )
        X = -_right_divided(V2[..., :n, :], V2[..., n:, :])
        ctx.n = n
        ctx.save_for_backward(given, X, s, Vh)
        return X

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        C, X, s, Vh = saved = ctx.saved_tensors
        n = ctx.n
        with torch.no_grad():
            V1, V2 = Vh.mH[..., :n], Vh.mH[..., n:]
            # Of x = -P12 P22^-1 for the projector P = V2 V2^H, whose block P22 = V22 V22^H.
            W = V2[..., n:, :]
            right = -_right_divided(_right_divided(grad, W.mH), W)
            G = torch.cat([torch.zeros_like(V1), torch.cat([right, X.mH @ right], -2)], -1)
            inside = V1.mH @ (G + G.mH) @ V2
            a, z = s[..., :n, None], s[..., None, n:]
            M = inside / ((z - a) * (z + a)).to(C.dtype)
            found = (C @ V2) @ M.mH @ V1.mH + (C @ V1) @ M @ V2.mH
        return refusing((found, None, None), (grad, *saved), "total_lstsq has first derivatives only")


def _right_divided(A: Tensor, W: Tensor) -> Tensor:
    """A W^-1 for a small W, by its singular values, which the caller has looked at."""
    U, s, Vh = torch.linalg.svd(W)
    return ((A @ Vh.mH) / s[..., None, :].to(A.dtype)) @ U.mH
