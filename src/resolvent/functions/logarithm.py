"""The matrix logarithm: inverse scaling and squaring of the Schur form, eigenvalues for Hermitian matrices."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.functions.general import is_mapped
from resolvent.functions.hermitian import by_eigenvalues, derivative_by_eigenvalues, is_hermitian
from resolvent.functions.lift import Lifted, call, with_conjugate
from resolvent.operators import lu

# Largest |X| at which the [m/m] Pade approximant of log(I + X) is exact for a matrix that differs by half an eps.
_THETAS = (0.0, 3.65e-8, 3.759e-4, 8.202e-3, 3.792e-2, 9.334e-2, 0.1668, 0.2479)
_SINGULAR = "A is singular to working precision (an eigenvalue is zero): it has no logarithm"


def logm(A: Any) -> Any:
    r"""The principal logarithm: the X with :math:`e^X = A` whose eigenvalues have imaginary parts in (-pi, pi].

    Parameters
    ----------
    A : (*batch, n, n) tensor or array, or an operator with a structure that the logarithm keeps

    Returns
    -------
    (*batch, n, n), of the kind and device of `A`. Its dtype is that of `A`, or the complex one of the same precision
    where a real matrix of the batch has an eigenvalue on the negative axis, and so no real principal logarithm. For
    a structured operator an operator: `Diagonal`, `BlockDiagonal`, `Circulant`, `LowRank` plus a multiple of
    `Identity`.

    Raises
    ------
    ValueError : `A` is not square, has a NaN or an infinity, or is singular to working precision.
    TypeError : an operator whose logarithm has no structure.

    Notes
    -----
    A complex Schur form; square roots of it until a Padé approximant of degree at most 7, in partial fractions, is as
    exact as the numbers are; both are chosen by norms of powers (Al-Mohy and Higham). The diagonals are computed
    without cancellation. About 25 n^3 flops for the form, n^3 / 3 for each root and each degree, in double precision
    for all dtypes; matrices of a GPU go to the host and back. Hermitian matrices take their eigenvectors, on any
    device. The error is eps times the condition number of the logarithm, which is large near singular matrices and near
    the negative axis. Derivatives of all orders; the first carries the direction through every root
    (Al-Mohy, Higham and Relton). Near the identity the approximant alone, relative to A - I, keeps relative accuracy.

    References
    ----------
    "Improved Inverse Scaling and Squaring Algorithms for the Matrix Logarithm";
    "Computing the Fréchet Derivative of the Matrix Logarithm and Estimating the Condition Number"

    Examples
    --------
    >>> import torch
    >>> logm(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[0., 2.],
            [0., 0.]])
    """
    return call(LOG, A)


def _scalar(x: Tensor) -> Tensor:
    if not torch._C._are_functorch_transforms_active() and bool((x.detach() == 0).any()):
        raise ValueError(_SINGULAR)
    return x.log()


def _real_at(x: Tensor) -> bool:
    return bool((x >= 0).all())


def _real_of(A: Tensor) -> bool:
    """Whether no eigenvalue lies on the negative axis."""
    # Inside vmap a real matrix is taken to have a real logarithm; where it has not, the value raises.
    if A.numel() == 0 or is_mapped(A):
        return True
    # A positive definite symmetric part keeps all eigenvalues in the right half plane, at a hundredth of their cost.
    if not bool(torch.linalg.cholesky_ex((A + A.mT) / 2).info.any()):
        return True
    if is_hermitian(A):
        w = torch.linalg.eigvalsh(A)
        # those that are zero but for rounding are the error's matter, not the dtype's
        return bool((w >= -_tolerance(A, w)[..., None]).all())
    w = torch.linalg.eigvals(A)
    return not bool(((w.imag == 0) & (w.real < 0)).any())


def _tolerance(A: Tensor, w: Tensor) -> Tensor:
    """Below this an eigenvalue of a Hermitian matrix may be zero; eigenvalues of a diagonal one are exact."""
    if torch.equal(A, torch.diag_embed(A.diagonal(dim1=-2, dim2=-1))):
        return torch.zeros_like(w[..., 0])
    return A.shape[-1] * torch.finfo(w.dtype).eps * w.abs().amax(-1)


def _of_numbers(w: Tensor, A: Tensor) -> Tensor:
    if bool((w.abs() <= _tolerance(A, w)[..., None]).any()):
        raise ValueError(_SINGULAR)
    if not A.is_complex() and bool((w < 0).any()):
        raise ValueError("A has no real logarithm (an eigenvalue is negative); convert it to a complex dtype")
    return (w.to(A.dtype) if A.is_complex() else w).log()


def _divided(x: Tensor, y: Tensor) -> Tensor:
    """(log x - log y) / (x - y) of real numbers, complex where their signs differ."""
    same = x * y > 0
    ratio = torch.where(same, (x - y) / torch.where(same, x + y, torch.ones_like(x)), torch.zeros_like(x))
    # 2 atanh(z) / (x - y) = 2 (atanh(z) / z) / (x + y)
    shape = torch.where(ratio.abs() < 1e-5, 1 + ratio * ratio / 3, ratio.atanh() / torch.where(ratio == 0, 1.0, ratio))
    near = 2 * shape / torch.where(same, x + y, torch.ones_like(x))
    if bool(same.all()):
        return near
    u, v = x.to(x.dtype.to_complex()), y.to(y.dtype.to_complex())
    far = (u.log() - v.log()) / torch.where(same, 1.0, u - v)
    return torch.where(same, near.to(far.dtype), far)


def _value(A: Tensor) -> Tensor:
    if A.numel() == 0:
        return A.clone()
    near = _near_identity(A, None)
    if near is not None:
        return near[0]
    if is_hermitian(A):
        return by_eigenvalues(lambda w: _of_numbers(w, A), A)
    return _by_schur(A, None)[0]


def _tangent(A: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
    if A.numel() == 0:
        return A.clone(), E.clone()
    near = _near_identity(A, E)
    if near is not None:
        return near
    if is_hermitian(A):
        return derivative_by_eigenvalues(lambda w: _of_numbers(w, A), _divided, A, E)
    value, derivative = _by_schur(A, E)
    return value, derivative


def _near_identity(A: Tensor, E: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The Pade approximant alone, relative to A - I, whose digits a Schur form of A would lose; None further away."""
    one = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    X = A - one
    size = float(X.abs().sum(-2).amax())
    degree = next((m for m in range(1, len(_THETAS)) if size <= _THETAS[m]), None)
    if degree is None:
        return None
    L, D = torch.zeros_like(X), torch.zeros_like(X)
    for x, w in zip(*_gauss(degree), strict=True):
        M = one + (x + 1) / 2 * X
        L += w / 2 * lu.solve(M, X)
        if E is not None:
            D += w / 2 * lu.solve(M, lu.solve(M, E), left=False)
    return L, D


def _by_schur(A: Tensor, E: Tensor | None) -> tuple[Tensor, Tensor]:
    """Matrix by matrix on the host, in double precision."""
    shape, dtype = A.shape, A.dtype
    kind = np.complex128 if A.is_complex() else np.float64
    stack = A.reshape(-1, *shape[-2:]).resolve_conj().cpu().numpy()
    changes = stack if E is None else E.reshape(-1, *shape[-2:]).resolve_conj().cpu().numpy()
    out = np.empty((2, *stack.shape), kind)
    eps = torch.finfo(dtype).eps
    for i, (one, change) in enumerate(zip(stack, changes, strict=True)):
        found = _one(one.astype(kind), None if E is None else change.astype(kind), eps)
        for k, F in enumerate(found):
            out[k, i] = F if kind is np.complex128 else _real(F, eps)
    # One storage each: forward mode refuses a value that is a view.
    value, derivative = (torch.tensor(part, dtype=dtype, device=A.device).reshape(shape) for part in out)
    return value, derivative


def _real(F: np.ndarray, eps: float) -> np.ndarray:
    if np.abs(F.imag).max() > eps**0.5 * np.abs(F).max():
        raise ValueError(
            "A has eigenvalues so near the negative real axis that its real logarithm cannot be told from a complex "
            "one; convert A to a complex dtype"
        )
    return F.real


def _one(A: np.ndarray, E: np.ndarray | None, eps: float) -> list[np.ndarray]:
    """The logarithm of one matrix, and its derivative in the direction E."""
    from resolvent.functions.schur import is_triangular, schur_form

    T, U = schur_form(A, as_complex=True)
    size = np.abs(T).max()
    # Of triangular input the eigenvalues are exact; otherwise they are known to a rounding error of the norm.
    least = 0.0 if is_triangular(A) else len(T) * eps * size
    d = T.diagonal() + 0.0  # no negative zeros: on the negative axis the argument is +pi
    if (np.abs(d) <= least).any():
        raise ValueError(_SINGULAR)
    inner = None if E is None else U.conj().T @ E @ U
    # Products and quotients of enormous or tiny numbers would leave their range: log(c A) = log c + log A.
    c = 2.0 ** np.floor(np.log2(size)) if not 1e-50 < size < 1e50 else 1.0
    L, D = _of_triangular(T / c, d / c, None if inner is None else inner / c)
    np.fill_diagonal(L, L.diagonal() + np.log(c))
    Uh = U.conj().T
    return [U @ L @ Uh] if D is None else [U @ L @ Uh, U @ D @ Uh]


def _of_triangular(T: np.ndarray, d: np.ndarray, E: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """log T of upper triangular T with diagonal d, and the derivative in any direction E."""
    from scipy.linalg import solve_triangular

    from resolvent.functions.schur import triangular_root, triangular_sylvester

    n = len(d)
    logs = np.log(d)
    R, roots, extra = T.copy(), 0, 0
    np.fill_diagonal(R, d)
    while True:
        np.fill_diagonal(X := R.copy(), np.expm1(logs / 2.0**roots))
        if np.abs(X.diagonal()).max() <= _THETAS[-1]:
            degree = _degree(X)
            # One more root where it saves two degrees, twice at most: norms of powers need not shrink for ever.
            if degree is not None and (extra == 2 or degree - (_degree(X / 2) or degree) <= 1):
                break
            extra += degree is not None
        R = triangular_root(R)
        if E is not None:
            E = triangular_sylvester(R, R, E)
        roots += 1
    scale = 2.0**roots
    if roots and n > 1:
        _put(X, T.diagonal(1) * _power_difference(d, logs, 1 / scale))
    nodes, weights = _gauss(degree)
    L, D = np.zeros_like(X), None if E is None else np.zeros_like(E)
    for x, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        M = x * X
        np.fill_diagonal(M, 1 + M.diagonal())
        L += w * solve_triangular(M, X, check_finite=False)
        if E is not None and D is not None:
            half = solve_triangular(M, E, check_finite=False)
            D += w * solve_triangular(M, half.T, trans="T", check_finite=False).T
    L *= scale
    np.fill_diagonal(L, logs)
    if n > 1:
        _put(L, T.diagonal(1) * _log_difference(d, logs))
    return L, None if D is None else D * scale


@functools.cache
def _gauss(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the partial fractions on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(degree)
    return nodes, weights


def _degree(X: np.ndarray) -> int | None:
    """The least degree that is exact at X, by max(|X^2|^(1/2), |X^3|^(1/3)); None where no degree is."""
    X2 = X @ X
    second, third = np.abs(X2).sum(0).max() ** (1 / 2), np.abs(X2 @ X).sum(0).max() ** (1 / 3)
    # At degree 1 the first term of the error is X^3: the powers bound it only where p (p - 1) <= 3, p = 2.
    size = min(np.abs(X).sum(0).max(), max(second, third))
    return next((m for m in range(1, len(_THETAS)) if size <= _THETAS[m]), None)


def _put(X: np.ndarray, above: np.ndarray) -> None:
    k = np.arange(len(X) - 1)
    X[k, k + 1] = above


def _half_gap(d: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """(log b - log a) / 2 of neighbours on the diagonal, without cancellation where they are close."""
    a, b = d[:-1], d[1:]
    gap = (logs[1:] - logs[:-1]) / 2
    close = np.abs(b - a) < 0.5 * np.abs(a + b)
    z = np.where(close, (b - a) / np.where(close, a + b, 1), 0)
    turns = np.round((gap - np.arctanh(z)).imag / np.pi)
    return np.where(close, np.arctanh(z) + 1j * np.pi * turns, gap)


def _log_difference(d: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """(log b - log a) / (b - a), which is 1 / a where a = b."""
    step = d[1:] - d[:-1]
    return np.where(step == 0, 1 / d[:-1], 2 * _half_gap(d, logs) / np.where(step == 0, 1, step))


def _power_difference(d: np.ndarray, logs: np.ndarray, t: float) -> np.ndarray:
    """(b^t - a^t) / (b - a), which is t a^(t - 1) where a = b."""
    step = d[1:] - d[:-1]
    middle = np.exp(t * (logs[1:] + logs[:-1]) / 2)
    far = 2 * middle * np.sinh(t * _half_gap(d, logs)) / np.where(step == 0, 1, step)
    return np.where(step == 0, t * np.exp((t - 1) * logs[:-1]), far)


# On the negative axis the argument is +pi, that of the conjugated function -pi: adjoints need the latter there.
LOG = with_conjugate(Lifted("logarithm", _scalar, _value, _tangent, real_at=_real_at, real_of=_real_of))
