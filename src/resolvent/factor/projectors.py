"""The two projectors that every factorisation hides, and the linear matrix equations that they solve."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.factor.meta import MetaFactorization, meta_factor
from resolvent.factor.range_finder import rounding
from resolvent.operators import LowRank
from resolvent.operators.arrays import as_tensor, check_finite, give_back

Method = Literal["lu", "qr", "svd", "cholesky", "cur"]


def projectors(
    A: Any, *, method: Method = "svd", rank: int | None = None, rtol: float | None = None
) -> tuple[LowRank, LowRank]:
    r"""The projectors :math:`P_{col} = F Y^H` on the columns and :math:`P_{row} = X H^H` on the rows of a factorisation.

    Parameters
    ----------
    A : (m, n) tensor or array, or a `MetaFactorization`, whose own projectors are given back
    method : the factorisation: "lu" with complete pivoting, "qr" with column pivoting, "svd", "cholesky" with diagonal
        pivoting (A Hermitian positive semidefinite), "cur"
    rank : of the factorisation; default the rank of A
    rtol : what counts as zero, relative to the largest pivot or singular value; default max(m, n) eps

    Returns
    -------
    P_col : LowRank (m, m) with P_col A = A
    P_row : LowRank (n, n) with A P_row = A

    Raises
    ------
    ValueError : A is not a finite matrix, or not what the method needs

    Notes
    -----
    Orthogonal projectors, as Y and X are the pseudoinverses of F and H here: `meta_factor` gives oblique ones by its B
    and D. With `rank` below that of A the equations hold up to the error of that approximation.

    References
    ----------
    "The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it"

    Examples
    --------
    >>> column, row = projectors(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    >>> row.to_dense().abs().round(decimals=4)
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 0.0000, 0.0000],
            [0.5000, 0.0000, 0.5000]])
    """
    if method not in ("lu", "qr", "svd", "cholesky", "cur"):
        raise ValueError(f"method must be 'lu', 'qr', 'svd', 'cholesky' or 'cur', got {method!r}")
    found = A if isinstance(A, MetaFactorization) else meta_factor(A, preset=method, rank=rank, rtol=rtol)
    return found.column_projector, found.row_projector


class MatrixSolution(NamedTuple):
    """The solutions of A X = B, or of A X C = B.

    Attributes
    ----------
    X : the solution of least norm; where there is none, the one of least squares
    consistent : whether there is a solution
    residual : |B - P_col B|_F (of P_col B P_row(C) for two sides), the distance of B from what A X can be
    row_projector : all solutions of A X = B are X + (I - row_projector) Z
    """

    X: Any
    consistent: bool
    residual: float
    row_projector: LowRank


def solve_with(
    factors: MetaFactorization | Any, B: Any, *, right: MetaFactorization | Any = None, rtol: float | None = None
) -> MatrixSolution:
    r"""Solve the linear matrix equation :math:`A X = B`, or :math:`A X C = B`, with a factorisation of A.

    Parameters
    ----------
    factors : a `MetaFactorization` of A (m, n), of any kind, or A itself, which is then factored by its SVD
    B : (m,) or (m, p)
    right : of C (q, p), likewise: solves A X C = B, B (m, p), X (n, q)
    rtol : B counts as consistent if its distance from the range is up to this share of |B|; default 1e-9 in float64, 1e-4 in
        float32

    Returns
    -------
    MatrixSolution : (X, consistent, residual, row_projector)

    Raises
    ------
    ValueError : sizes that do not match, NaN, a gradient wanted of a factorisation

    Notes
    -----
    A X = B has a solution if and only if P_col B = B, and then X G^+ Y^H B is one for any one-sided inverses Y and X. Here
    they are the orthonormal ones, from QR factorisations of F and H and an SVD of what is between: the part of that
    solution in the null space, and of B outside of the range, is then zero. (m + n) k^2 operations, A is never formed.
    Gradients flow through B; a factorisation that wants one is refused.

    References
    ----------
    "The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    >>> found = solve_with(A, torch.tensor([2.0, 4.0]))
    >>> found.X.round(decimals=4), found.consistent
    (tensor([1., 1.]), True)
    >>> solve_with(A, torch.tensor([2.0, 0.0])).consistent
    False
    """
    U, t, V = _compact(_as_factors(factors), "factors")
    b, kind = as_tensor(B, "B")
    check_finite(b, "B")
    other = _compact(_as_factors(right), "right") if right is not None else None
    dtype = torch.promote_types(U.dtype, b.dtype)
    if other is not None:
        dtype = torch.promote_types(dtype, other[0].dtype)
    b, U, V = b.to(dtype=dtype, device=U.device), U.to(dtype), V.to(dtype)
    single = b.ndim == 1
    b = b[:, None] if single else b
    if b.ndim != 2 or b.shape[0] != U.shape[0]:
        raise ValueError(f"B must have shape ({U.shape[0]},) or ({U.shape[0]}, p), got {tuple(b.shape)}")
    if single and right is not None:
        raise ValueError("B must have shape (m, p) for an equation with two sides")
    inside = U @ (U.mH @ b)
    solution = V @ ((U.mH @ b) / t[:, None])
    if other is not None:
        left, w, back = other
        if b.shape[1] != back.shape[0]:
            raise ValueError(f"B must have as many columns as the right factor, {back.shape[0]}, got {b.shape[1]}")
        back = back.to(U)
        inside = (inside @ back) @ back.mH
        solution = ((solution @ back) / w.to(t)) @ left.to(U).mH
    residual = float(torch.linalg.matrix_norm((b - inside).detach()))
    tolerance = (1e-9 if rounding(U.dtype) < 1e-12 else 1e-4) if rtol is None else rtol
    consistent = residual <= tolerance * float(torch.linalg.matrix_norm(b.detach()))
    rows = LowRank(V, None, V)
    rows.kind = kind
    return MatrixSolution(give_back(solution[:, 0] if single else solution, kind), consistent, residual, rows)


def _as_factors(A: Any) -> MetaFactorization:
    return A if isinstance(A, MetaFactorization) else meta_factor(A, preset="svd")


def _compact(factors: MetaFactorization, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """U, t, V of the compact SVD of F G H^H, from small matrices."""
    F, G, H = (as_tensor(getattr(factors, part), part)[0] for part in ("F", "G", "H"))
    if torch.is_grad_enabled() and any(part.requires_grad for part in (F, G, H)):
        raise ValueError(f"solve_with has gradients by B only: detach {name}")
    F, G, H = F.detach(), G.detach(), H.detach()
    cut = 10 * max(F.shape[0], H.shape[0]) * rounding(F.dtype)
    Q, T = torch.linalg.qr(F)
    P, S = torch.linalg.qr(H)
    left, t, right = torch.linalg.svd(T @ G @ S.mH, full_matrices=False)
    r = int((t > cut * t[0]).sum())
    return Q @ left[:, :r], t[:r], P @ right[:r].mH
