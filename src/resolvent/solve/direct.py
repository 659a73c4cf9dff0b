"""Factorisations that solve again and again: dense, triangular, tridiagonal and sparse."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators import lu
from resolvent.solve.implicit import Inverse

# Numbers that a pivot must stand out from, in units of eps and of the sum that it came from.
_NOISE = 1.0


def dense_inverse(matrix: Tensor, hermitian: bool, positive: bool) -> tuple[Inverse, str]:
    """Cholesky of positive definite matrices, LU of others, (*batch, n, n); and its name.

    Raises
    ------
    ValueError : a pivot is zero, or rounding alone
    """
    if matrix.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        # LAPACK has no half precision.
        inner, name = dense_inverse(matrix.to(torch.float32), hermitian, positive)
        return lambda B, adjoint: inner(B.to(torch.float32), adjoint).to(B.dtype), name
    d = matrix.diagonal(dim1=-2, dim2=-1)
    if (positive or hermitian) and bool(((d.real if d.is_complex() else d) > 0).all()):
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not bool((failed > 0).any()):
            return lambda B, adjoint: _cholesky_solve(B, factor), "cholesky"
    factors, pivots, _ = lu.lu_factor_ex(matrix)
    _check_pivots(factors)

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        batch = torch.broadcast_shapes(B.shape[:-2], factors.shape[:-2])
        B = B.to(torch.promote_types(B.dtype, factors.dtype)).expand(*batch, *B.shape[-2:])
        if B.dtype != factors.dtype:
            return _by_parts(lambda X: torch.linalg.lu_solve(factors, pivots, X, adjoint=adjoint), B)
        return torch.linalg.lu_solve(factors, pivots, B, adjoint=adjoint)

    return solve, "lu"


def _cholesky_solve(B: Tensor, factor: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(B.shape[:-2], factor.shape[:-2])
    B = B.expand(*batch, *B.shape[-2:])
    if B.is_complex() and not factor.is_complex():
        return _by_parts(lambda X: torch.cholesky_solve(X, factor.expand(*batch, -1, -1)), B)
    return torch.cholesky_solve(B.to(factor.dtype), factor.expand(*batch, -1, -1))


def _by_parts(solve: Any, B: Tensor) -> Tensor:
    """A real solver for complex columns."""
    k = B.shape[-1]
    both = solve(torch.cat([B.real, B.imag], -1))
    return torch.complex(both[..., :k].contiguous(), both[..., k:].contiguous())


def _check_pivots(factors: Tensor) -> None:
    """Refuse a matrix of which a pivot is nothing but the rounding error of the terms that cancelled in it."""
    n = factors.shape[-1]
    if not n:
        return
    upper = factors.triu().abs()
    pivots = factors.diagonal(dim1=-2, dim2=-1).abs()
    terms = (factors.tril(-1).abs() * upper.mT).sum(-1) + pivots
    noise = pivots <= _NOISE * torch.finfo(pivots.dtype).eps * terms
    if bool(noise.any()):
        where = tuple(int(i) for i in noise.nonzero()[0])
        raise ValueError(
            f"A is singular to working precision: pivot {where[-1]} of its LU factors is {float(pivots[where]):.2g}, the "
            "rounding error of what it is made of; lstsq has a solution"
        )


def check_no_zero(d: Tensor, what: str) -> None:
    """Refuse to divide by a zero on a diagonal."""
    zero = d == 0
    if bool(zero.any()):
        where = tuple(int(i) for i in zero.nonzero()[0])
        raise ValueError(f"A is singular: {what} {where if len(where) > 1 else where[0]} is zero; lstsq has a solution")


def triangular_inverse(T: Tensor, upper: bool) -> Inverse:
    """Substitution in one triangle of (*batch, n, n); the other is not read."""
    check_no_zero(T.diagonal(dim1=-2, dim2=-1), "entry of the diagonal")

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        M, up = (T.mH, not upper) if adjoint else (T, upper)
        if B.is_complex() and not M.is_complex():
            return _by_parts(lambda X: torch.linalg.solve_triangular(M, X, upper=up), B)
        return torch.linalg.solve_triangular(M, B, upper=up)

    return solve


def tridiagonal_inverse(low: Tensor, main: Tensor, up: Tensor) -> Inverse:
    """LU with row exchanges of three diagonals, (*batch, n - 1), (*batch, n), (*batch, n - 1); on the host."""
    from scipy.linalg import get_lapack_funcs

    batch = torch.broadcast_shapes(low.shape[:-1], main.shape[:-1], up.shape[:-1])
    arrays = [
        t.detach().resolve_conj().expand(*batch, -1).reshape(-1, t.shape[-1]).cpu().numpy() for t in (low, main, up)
    ]
    n = main.shape[-1]
    factorise, substitute = get_lapack_funcs(("gttrf", "gttrs"), arrays)
    factors: list[tuple[np.ndarray, ...]] = []
    for lower, diagonal, upper in zip(*arrays, strict=True):
        if n < 3:
            break
        *parts, failed = factorise(lower, diagonal, upper)
        if failed > 0:
            raise ValueError(f"A is singular: pivot {failed - 1} of its LU factors is zero; lstsq has a solution")
        factors.append(tuple(parts))
    if n < 3:
        matrix = torch.diag_embed(main) + torch.diag_embed(low, -1) + torch.diag_embed(up, 1)
        return dense_inverse(matrix.detach(), False, False)[0]

    def one(B: Tensor, adjoint: bool) -> Tensor:
        shape = torch.broadcast_shapes(batch, B.shape[:-2])
        stack = B.expand(*shape, *B.shape[-2:]).resolve_conj().cpu()
        places = torch.arange(len(factors)).reshape(batch).expand(shape).reshape(-1)
        sides = stack.reshape(-1, *B.shape[-2:]).numpy()
        found = np.empty_like(sides)
        for i, place in enumerate(places.tolist()):
            found[i], _ = substitute(*factors[place], sides[i], trans="C" if adjoint else "N")
        return torch.from_numpy(found).reshape(*shape, *B.shape[-2:]).to(B.device)

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        if B.is_complex() and not main.is_complex():
            return _by_parts(lambda X: one(X, adjoint), B)
        return one(B, adjoint)

    return solve


def sparse_inverse(matrix: Any, symmetric: bool) -> Inverse:
    """SuperLU of a CSC matrix; `symmetric` says that its pattern is, so that minimum degree orders A + A^T.

    Raises
    ------
    ValueError : A is singular
    """
    from scipy.sparse.linalg import splu

    # Single precision would be spent on the factors: their rounding errors add up over the fill.
    wide = np.complex128 if np.iscomplexobj(matrix.data) else np.float64
    order = "MMD_AT_PLUS_A" if symmetric else "COLAMD"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            factors = splu(matrix.astype(wide), permc_spec=order, options={"SymmetricMode": symmetric})
        except RuntimeError as error:
            raise ValueError(f"A is singular: {error}; lstsq has a solution") from error

    def one(B: Tensor, adjoint: bool) -> Tensor:
        side = B.movedim(-2, 0)
        columns = side.reshape(B.shape[-2], -1).resolve_conj().numpy().astype(wide)
        found = torch.from_numpy(factors.solve(columns, trans="H" if adjoint else "N")).to(B.dtype)
        return found.reshape(side.shape).movedim(0, -2)

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        if B.is_complex() and wide is np.float64:
            return _by_parts(lambda X: one(X, adjoint), B)
        return one(B, adjoint)

    return solve
