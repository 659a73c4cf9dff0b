"""Products with (A - sigma)^-1 by a direct factorisation, for shift-and-invert iterations."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from resolvent.operators import Operator
from resolvent.spectra.inertia import scipy_matrix

Multiply = Callable[[Tensor], Tensor]
_DENSE = 4096


def shifted_inverse(A: Operator, sigma: complex, norm: float) -> Multiply:
    """X -> (A - sigma)^-1 X.

    A shift that is an eigenvalue is moved by a few units of rounding of `norm`, an estimate of the norm of A.

    Raises
    ------
    ValueError : A is neither sparse nor small, so that there is nothing to factorise
    """
    n = A.shape[-1]
    step = 64 * torch.finfo(A.dtype).eps * (norm or 1.0)
    matrix = scipy_matrix(A) if A.device.type == "cpu" else None
    for shift in (sigma, sigma + step, sigma - 2 * step):
        if matrix is not None:
            solve = _sparse(matrix, shift)
        elif n <= _DENSE:
            solve = _dense(A._dense().detach(), shift)
        else:
            raise ValueError(
                f"sigma (or which='SM') needs a factorisation of A - sigma, which exists for sparse operators and up to "
                f"n = {_DENSE}; got {type(A).__name__} of size {n}. Pass an operator that solves with A - sigma "
                f"(MatrixFree) and which='LM' instead"
            )
        if solve is not None:
            return solve
    raise ValueError(f"A - sigma is singular for sigma = {sigma} and beside it")


def _sparse(matrix: object, shift: complex) -> Multiply | None:
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    shifted = (matrix - shift * sp.identity(matrix.shape[0], dtype=matrix.dtype)).tocsc()  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            factors = splu(shifted)
        except RuntimeError:
            return None

    def solve(X: Tensor) -> Tensor:
        Y = factors.solve(X.detach().numpy().astype(shifted.dtype, copy=False))
        return torch.from_numpy(Y).to(X.dtype if not Y.dtype.kind == "c" else torch.from_numpy(Y).dtype)

    return solve if _finite(solve, shifted.shape[0], torch.from_numpy(shifted.data[:1]).dtype) else None


def _dense(matrix: Tensor, shift: complex) -> Multiply | None:
    dtype = matrix.dtype if not isinstance(shift, complex) or shift.imag == 0 else torch.promote_types(matrix.dtype, torch.complex64)
    shifted = matrix.to(dtype, copy=True)
    torch.diagonal(shifted).sub_(shift if dtype.is_complex else complex(shift).real)
    factors, pivots, info = torch.linalg.lu_factor_ex(shifted)
    if int(info):
        return None

    def solve(X: Tensor) -> Tensor:
        return torch.linalg.lu_solve(factors, pivots, X.to(dtype))

    return solve if _finite(solve, matrix.shape[0], dtype) else None


def _finite(solve: Multiply, n: int, dtype: torch.dtype) -> bool:
    return bool(torch.isfinite(solve(torch.ones(n, 1, dtype=dtype)).abs()).all())
