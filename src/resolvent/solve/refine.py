"""Dense systems in float64 from factors in float32: iterative refinement, by GMRES where corrections alone do not do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from resolvent.operators import lu
from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator
from resolvent.solve.arnoldi import gmres_with
from resolvent.solve.implicit import Inverse
from resolvent.solve.structure import Inverted
from resolvent.solve.system import prepare

_NARROW = {torch.float64: torch.float32, torch.complex128: torch.complex64}
_ROUNDS, _STEPS, _INNER = 20, 60, 1e-6
# A correction that takes less than this off the residual is left to GMRES.
_GAIN = 0.1
# Backward error, in units of eps, at which x is as good as from factors in float64.
_ENOUGH = 4.0


def refined_inverse(A: Operator) -> tuple[Inverse, str]:
    r"""Solves with A (n, n) from factors in half the precision.

    Corrections :math:`x \leftarrow x + M (b - A x)` with M the inverse of the rounded factors of A, residuals in full
    precision; where they converge slowly, the correction is that of GMRES with the preconditioner M, applied in full
    precision, which works far beyond the condition 1e7 at which M alone is of no use. What is not reached, the caller measures.

    Raises
    ------
    ValueError : a pivot is zero
    TypeError : a batch, or no precision to halve

    References
    ----------
    "A New Analysis of Iterative Refinement and Its Application to Accurate Solution of Ill-Conditioned Sparse Linear Systems"
    """
    if A.batch_shape or A.dtype not in _NARROW:
        raise TypeError(f"method 'refine' takes one matrix in float64 or complex128, got {A.dtype} of {tuple(A.shape)}")
    matrix = A._dense().detach()
    n = matrix.shape[-1]
    size = _power(matrix.abs().amax() if n else matrix.new_ones(()).abs())
    if not bool(size > 0):
        raise ValueError("A is singular: it is zero; lstsq has a solution")
    # At size one nothing over- or underflows in half the precision; a power of two rounds nothing.
    matrix = matrix / size
    rough, name = _rough(matrix, A.hermitian)
    norm = torch.linalg.matrix_norm(matrix)
    enough = _ENOUGH * torch.finfo(matrix.dtype).eps
    dense = Dense(matrix)

    def errors(X: Tensor, B: Tensor, R: Tensor) -> float:
        below = norm * torch.linalg.vector_norm(X, dim=0) + torch.linalg.vector_norm(B, dim=0)
        length = torch.linalg.vector_norm(R, dim=0)
        return float(torch.where(length > 0, length / below.clamp(min=torch.finfo(below.dtype).tiny), 0).amax())

    def correction(op: Operator, R: Tensor, adjoint: bool, krylov: bool) -> Tensor:
        if not krylov:
            return rough(R, adjoint, False)
        system = prepare(
            "refine",
            op,
            R,
            rtol=_INNER,
            M=Inverted(dense, lambda R, flipped: rough(R, flipped, True), adjoint),
            x0=None,
            maxiter=_STEPS,
            callback=None,
        )
        goal = _INNER * torch.linalg.vector_norm(R, dim=0)
        return gmres_with(_STEPS, flexible=False)(system, R, goal, _STEPS).X

    def one(B: Tensor, adjoint: bool) -> Tensor:
        op = dense.H if adjoint else dense
        B = B.to(torch.promote_types(B.dtype, matrix.dtype))
        scale = _columns(B)
        B = B / scale
        X, R, error, krylov = torch.zeros_like(B), B, 1.0, False
        for _ in range(_ROUNDS):
            if error <= enough or not B.numel():
                break
            Y = X + correction(op, R, adjoint, krylov)
            S = B - (op._matmul(Y) if Y.dtype == matrix.dtype else op._apply(Y, "torch"))
            now = errors(Y, B, S)
            slow = not now < _GAIN * error
            if now < error:
                X, R, error = Y, S, now
            if slow and krylov:
                break
            krylov = krylov or slow
        return X * (scale / size)

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        side = B.movedim(-2, 0)
        return one(side.flatten(1), adjoint).reshape(side.shape).movedim(0, -2)

    return solve, name


def _rough(matrix: Tensor, hermitian: bool) -> tuple[Callable[[Tensor, bool, bool], Tensor], str]:
    """Solves with the factors of the matrix in half its precision, for columns of any size.

    The last argument asks for substitutions in full precision: without them, the errors of the substitutions themselves
    would end what GMRES can do at the condition where corrections end.
    """
    small = matrix.to(_NARROW[matrix.dtype])
    factor, failed = torch.linalg.cholesky_ex(small) if hermitian else (small, torch.ones(()))
    definite = not bool(failed > 0)
    if not definite:
        factors, pivots, _ = lu.lu_factor_ex(small)
        if bool((factors.diagonal() == 0).any()):
            raise ValueError(
                "A is singular in single precision: a pivot of its LU factors is zero; use method='direct'"
            )

    held: list[Tensor] = []

    def half(B: Tensor, adjoint: bool, wide: bool) -> Tensor:
        narrow = factor if definite else factors
        if wide and not held:
            held.append(narrow.to(matrix.dtype))
        used = held[0] if wide else narrow
        if definite:
            return torch.cholesky_solve(B, used)
        return torch.linalg.lu_solve(used, pivots, B, adjoint=adjoint)

    def rough(R: Tensor, adjoint: bool, wide: bool) -> Tensor:
        length = _columns(R)
        scaled = R / length
        dtype = matrix.dtype if wide else small.dtype
        if R.is_complex() and not matrix.is_complex():
            k = R.shape[1]
            both = half(torch.cat([scaled.real, scaled.imag], 1).to(dtype), adjoint, wide)
            found = torch.complex(both[:, :k].contiguous(), both[:, k:].contiguous()).to(R.dtype)
        else:
            found = half(scaled.to(dtype), adjoint, wide).to(R.dtype)
        return found * length

    return rough, "refine, cholesky" if definite else "refine, lu"


def _power(size: Tensor) -> Tensor:
    """The power of two below each size, zero for zero."""
    return torch.where(size > 0, torch.exp2(torch.floor(torch.log2(torch.where(size > 0, size, 1)))), 0)


def _columns(B: Tensor) -> Tensor:
    """A power of two near the size of each column, one for a column of zeros."""
    found = _power(B.abs().amax(0)) if B.numel() else B.new_zeros(B.shape[1]).abs()
    return torch.where(found > 0, found, 1)
