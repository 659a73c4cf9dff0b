"""The matrix sign function."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.hermitian import by_eigenvalues, derivative_by_eigenvalues, is_hermitian
from resolvent.functions.lift import Lifted, call
from resolvent.functions.schur import triangular_sylvester
from resolvent.operators import lu

_ON_AXIS = "A has an eigenvalue on the imaginary axis, or within rounding of it: it has no sign"


def signm(A: Any, *, method: Literal["auto", "schur", "newton"] = "auto") -> Any:
    r"""The matrix sign: :math:`\operatorname{sign}(A) = A (A^2)^{-1/2}`, 1 and -1 for eigenvalues right and left of the
    imaginary axis.

    Parameters
    ----------
    A : (*batch, n, n) tensor or array, or an operator with a structure that the sign keeps
    method : "auto" takes eigenvalues for Hermitian matrices, else "schur", and "newton" on a GPU

    Returns
    -------
    (*batch, n, n), of the kind, dtype and device of `A`, real for real `A`. (I + sign A) / 2 projects on the
    invariant subspace of the right half-plane.

    Raises
    ------
    ValueError : `A` is not square, not finite, or has an eigenvalue on the imaginary axis to working precision.
    ConvergenceError : "newton" did not converge, for the same reason.

    Notes
    -----
    "schur": the Schur form with the left half-plane first, [[-I, X], [0, I]] with one Sylvester equation for X, in double
    precision; the error is a rounding error over the separation of the two halves. "newton": X <- (m X + (m X)^-1) / 2
    with the m that makes the determinant one, then m = 1; about 10 inverses. Gradients of every order: with N = A S the
    derivative L solves N L + L N = E - S E S.

    References
    ----------
    "Computing the Polar Decomposition and the Matrix Sign Decomposition in Matrix Groups"

    Examples
    --------
    >>> signm(torch.tensor([[3.0, 4.0], [0.0, -1.0]])).round(decimals=4) + 0
    tensor([[ 1.,  2.],
            [ 0., -1.]])
    """
    if method not in _SIGNS:
        raise ValueError(f"method must be one of {', '.join(_SIGNS)}, got {method!r}")
    return call(_SIGNS[method], A)


def _scalar(x: Tensor) -> Tensor:
    real = x.real if x.is_complex() else x
    if bool((real.detach() == 0).any()):
        raise ValueError(_ON_AXIS)
    return (real / real.abs()).to(x.dtype)


def _auto(A: Tensor) -> Tensor:
    if A.numel() and is_hermitian(A):
        _away_from_zero(torch.linalg.eigvalsh(A))
        return by_eigenvalues(torch.sign, A)
    return _by_schur(A) if A.device.type == "cpu" else _by_newton(A)


def _away_from_zero(w: Tensor) -> None:
    size = w.abs()
    if bool((size.amin(-1) <= w.shape[-1] * torch.finfo(w.dtype).eps * size.amax(-1)).any()):
        raise ValueError(_ON_AXIS)


def _stack(A: Tensor) -> Any:
    double = torch.complex128 if A.is_complex() else torch.float64
    return A.reshape(-1, *A.shape[-2:]).to(double).resolve_conj().cpu().numpy()


def _by_schur(A: Tensor) -> Tensor:
    if A.numel() == 0:
        return A.clone()
    stack = _stack(A)
    found = np.stack([_sign_of(one) for one in stack])
    return torch.from_numpy(found).reshape(A.shape).to(A)


def _sign_of(A: np.ndarray) -> np.ndarray:
    n = len(A)
    output = "complex" if A.dtype.kind == "c" else "real"
    T, U, left = scipy.linalg.schur(A, output=output, sort="lhp", check_finite=False)
    w = np.linalg.eigvals(T) if output == "real" else T.diagonal()
    on_axis = np.abs(w.real).min() <= n * np.finfo(np.float64).eps * np.linalg.norm(T)
    if on_axis or left != int((w.real < 0).sum()):
        raise ValueError(_ON_AXIS)
    S = np.eye(n, dtype=T.dtype)
    S[:left, :left] *= -1
    if 0 < left < n:
        # S T = T S: T11 X - X T22 = -2 T12
        S[:left, left:] = triangular_sylvester(T[:left, :left], -T[left:, left:], -2 * T[:left, left:])
    return np.asarray(U @ S @ U.conj().T)


def _by_newton(A: Tensor) -> Tensor:
    if A.numel() == 0:
        return A.clone()
    n = A.shape[-1]
    eps = torch.finfo(A.dtype).eps
    X, scaled, change = A, True, float("inf")
    for _ in range(100):
        N, info = lu.inv_ex(X)
        if bool(info.any()):
            raise ValueError(_ON_AXIS)
        mu = lu.slogdet(X)[1].div(-n).exp()[..., None, None] if scaled else torch.ones(())
        following = (mu.to(A) * X + N / mu.to(A)) / 2
        last, change = (
            change,
            float((torch.linalg.matrix_norm(following - X) / torch.linalg.matrix_norm(following)).amax()),
        )
        X = following
        scaled = scaled and change > 1e-2
        # The change squares at each step until rounding errors keep it up.
        if change <= n * eps or (not scaled and change < eps**0.5 and change >= last / 2):
            return X
    raise ConvergenceError(f"{_ON_AXIS}: 100 Newton steps left a change of {change:.1e}", best=X, error=change)


def _tangent(A: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
    if A.numel() == 0:
        return A.clone(), E.clone()
    if is_hermitian(A):
        _away_from_zero(torch.linalg.eigvalsh(A))
        return derivative_by_eigenvalues(torch.sign, _divided, A, E)
    signs, changes = [], []
    for one, direction in zip(_stack(A), _stack(E), strict=True):
        S = _sign_of(one)
        T, U = scipy.linalg.schur(one @ S, output="complex" if S.dtype.kind == "c" else "real")
        right = U.conj().T @ (direction - S @ direction @ S) @ U
        signs.append(S)
        changes.append(U @ triangular_sylvester(T, T, right) @ U.conj().T)
    value, change = (torch.from_numpy(np.stack(parts)).reshape(A.shape) for parts in (signs, changes))
    return value.to(A), change.to(E)


def _divided(x: Tensor, y: Tensor) -> Tensor:
    """Zero on one side of the axis, else 2 / (|x| + |y|)."""
    return torch.where(x.sign() == y.sign(), torch.zeros_like(x), 2 / (x.abs() + y.abs()))


_SIGNS = {
    "auto": Lifted("sign", _scalar, _auto, _tangent),
    "schur": Lifted("sign", _scalar, _by_schur, _tangent),
    "newton": Lifted("sign", _scalar, _by_newton, _tangent),
}
