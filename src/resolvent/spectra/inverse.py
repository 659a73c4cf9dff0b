"""Products with (A - sigma)^-1 by a direct factorisation, for shift-and-invert iterations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators import Operator, lu
from resolvent.spectra.inertia import scipy_matrix

_DENSE = 4096


def shifted_inverse(A: Operator, sigma: complex, norm: float) -> Inverse:
    """(A - sigma)^-1 as a function of a block (n, b).

    A shift that makes A - sigma singular is moved by `nudge(A, norm)`, norm an estimate of the norm of A.

    Raises
    ------
    ValueError : A is neither sparse nor small, so that there is nothing to factorise
    """
    n = A.shape[-1]
    step = nudge(A, norm)
    matrix = scipy_matrix(A) if A.device.type == "cpu" else None
    for shift in (sigma, sigma + step, sigma - 2 * step):
        if matrix is not None:
            solve = _sparse(matrix, shift)
        elif n <= _DENSE:
            solve = _dense(A._dense().detach(), shift)
        else:
            raise ValueError(
                f"sigma (or which='SM') needs a factorisation of A - sigma, which exists for sparse operators and up "
                f"to "
                f"n = {_DENSE}; got {type(A).__name__} of size {n}. Pass an operator that solves with A - sigma "
                f"(MatrixFree) and which='LM' instead"
            )
        if solve is not None:
            return solve
    raise ValueError(f"A - sigma is singular for sigma = {sigma} and beside it")


def nudge(A: Operator, norm: float) -> float:
    """How far a shift moves away from an eigenvalue: the inverse then still has room for the eigenvalues beside it."""
    return 0.1 * torch.finfo(A.dtype).eps ** 0.5 * (norm or 1.0)


class Inverse:
    """X -> (A - sigma)^-1 X by calling it, and its adjoint."""

    def __init__(self, solve: Callable[[Tensor, bool], Tensor]) -> None:
        self._solve = solve

    def __call__(self, X: Tensor) -> Tensor:
        return self._solve(X, False)

    def adjoint(self, X: Tensor) -> Tensor:
        return self._solve(X, True)


def _sparse(matrix: Any, shift: complex) -> Inverse | None:
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    shifted = (matrix - shift * sp.identity(matrix.shape[0], dtype=matrix.dtype)).tocsc()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            factors = splu(shifted)
        except RuntimeError:
            return None

    def solve(X: Tensor, adjoint: bool) -> Tensor:
        right = X.detach().resolve_conj().numpy().astype(shifted.dtype, copy=False)
        return torch.from_numpy(factors.solve(right, trans="H" if adjoint else "N"))

    return _usable(solve, shifted.shape[0], torch.from_numpy(shifted.data[:1]).dtype)


def _dense(matrix: Tensor, shift: complex) -> Inverse | None:
    complex_shift = isinstance(shift, complex) and shift.imag != 0
    dtype = matrix.dtype.to_complex() if complex_shift and not matrix.is_complex() else matrix.dtype
    shifted = matrix.to(dtype, copy=True)
    torch.diagonal(shifted).sub_(shift if dtype.is_complex else complex(shift).real)
    factors, pivots, info = lu.lu_factor_ex(shifted)
    if int(info):
        return None

    def solve(X: Tensor, adjoint: bool) -> Tensor:
        return torch.linalg.lu_solve(factors, pivots, X.to(dtype), adjoint=adjoint)

    return _usable(solve, matrix.shape[0], dtype, matrix.device)


def _usable(
    solve: Callable[[Tensor, bool], Tensor], n: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Inverse | None:
    trial = solve(torch.ones(n, 1, dtype=dtype, device=device), False)
    return Inverse(solve) if bool(torch.isfinite(trial.abs()).all()) else None
