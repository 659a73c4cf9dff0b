"""Eigenvalues and singular values by Jacobi rotations: the tiny ones as accurate as the entries determine them.

>>> import torch
>>> from resolvent import factor
>>> factor.jacobi_svd(torch.diag(torch.tensor([1.0, 1e-30, 1e-10])).double())[1]
tensor([1.0000e+00, 1.0000e-10, 1.0000e-30], dtype=torch.float64)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.randomized import Refusing
from resolvent.operators.arrays import as_tensor, check_finite, give_back

_SWEEPS = 60


class JacobiSVD(NamedTuple):
    """Of :func:`jacobi_svd`: ``A = U diag(S) Vh``."""

    U: Any
    S: Any
    Vh: Any


class JacobiEigh(NamedTuple):
    """Of :func:`jacobi_eigh`: ``A V = V diag(eigenvalues)``."""

    eigenvalues: Any
    eigenvectors: Any


def jacobi_svd(A: Any) -> JacobiSVD:
    r"""The singular value decomposition :math:`A = U \operatorname{diag}(S) V^H` with small relative errors.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array

    Returns
    -------
    U : (*batch, m, r), r = min(m, n), orthonormal columns
    S : (*batch, r), descending
    Vh : (*batch, r, n), orthonormal rows

    Raises
    ------
    ValueError : A is not a finite matrix.
    ConvergenceError : 60 sweeps were not enough.

    Notes
    -----
    A QR factorisation with column pivoting, then rotations of pairs of columns of R^H until all are orthogonal to
    rounding, the longest column first. For A = B D (if square, D B too) with D diagonal, every singular value has a relative error of about
    eps cond(B), however small it is: errors of `torch.linalg.svd` are relative to the largest. About 6 sweeps of
    4 n^3 flops on the host, one matrix after the other; squares of columns below 1e-154 of the largest underflow.
    The singular values have first-order gradients; U and Vh have none, and say so.

    References
    ----------
    "New Fast and Accurate Jacobi SVD Algorithm. I"
    "A Unified Perspective on Orthogonalization and Diagonalization"

    Examples
    --------
    >>> jacobi_svd(torch.tensor([[0.0, 2.0], [1e-20, 0.0]], dtype=torch.float64)).S
    tensor([2.0000e+00, 1.0000e-20], dtype=torch.float64)
    """
    t, kind = _matrix(A)
    m, n = t.shape[-2:]
    with torch.no_grad():
        stack = _host(t)
        parts = [_flipped(one) if _wants_adjoint(one) else _svd(one) for one in _each(stack)]
        r = min(m, n)
        U, S, Vh = (_stacked([part[i] for part in parts], t, shape) for i, shape in enumerate(((m, r), (r,), (r, n))))
    if t.requires_grad and torch.is_grad_enabled():
        # The value stays: only the derivative of u^H A v is taken.
        moving = ((U.mH @ t) * Vh.conj()).sum(-1).real
        S = S + (moving - moving.detach())
        why = "jacobi_svd has no gradient of the singular vectors; use torch.linalg.svd"
        U, Vh = Refusing.apply(U, t, why), Refusing.apply(Vh, t, why)
    return JacobiSVD(*give_back((U, S, Vh), kind))


def jacobi_eigh(A: Any) -> JacobiEigh:
    r"""Eigenvalues and eigenvectors of a Hermitian matrix, :math:`A V = V \operatorname{diag}(w)`, by rotations.

    Parameters
    ----------
    A : (*batch, n, n) Hermitian tensor or array; its lower triangle is read

    Returns
    -------
    eigenvalues : (*batch, n), ascending
    eigenvectors : (*batch, n, n), orthonormal columns

    Raises
    ------
    ValueError : A is not a finite Hermitian matrix.
    ConvergenceError : 60 sweeps were not enough.

    Notes
    -----
    Positive definite: the Cholesky factor with pivoting, then `jacobi_svd`'s rotations of its columns: for A = D B D
    with D diagonal and a unit diagonal of B, every eigenvalue has a relative error of about eps cond(B). Others:
    rotations from both sides until every |a_pq| is below rounding of sqrt(|a_pp a_qq|), with errors relative to the
    norm in general. On the host, about 6 sweeps of 6 n^3 flops. The eigenvalues have first-order gradients; the vectors
    have none, and say so.

    References
    ----------
    "Jacobi's Method is More Accurate than QR"
    "A Unified Perspective on Orthogonalization and Diagonalization"

    Examples
    --------
    >>> jacobi_eigh(torch.tensor([[1.0, 0.5e-10], [0.5e-10, 1e-20]], dtype=torch.float64)).eigenvalues
    tensor([7.5000e-21, 1.0000e+00], dtype=torch.float64)
    """
    t, kind = _matrix(A)
    n = t.shape[-1]
    if t.shape[-2] != n:
        raise ValueError(f"A must have shape (..., n, n), got {tuple(t.shape)}")
    with torch.no_grad():
        # Each matrix of a batch by its own size.
        gap = (t - t.mH).abs().amax((-2, -1)) if t.numel() else torch.zeros(())
        size = t.abs().amax((-2, -1)) if t.numel() else gap
        if bool((gap > 1e3 * torch.finfo(t.dtype).eps * size).any()):
            raise ValueError(f"A must be Hermitian, entries and their mirrors differ by {float(gap.max()):.3g}")
        parts = [_eigh(one) for one in _each(_host(t))]
        w, V = (_stacked([part[i] for part in parts], t, shape) for i, shape in enumerate(((n,), (n, n))))
    if t.requires_grad and torch.is_grad_enabled():
        moving = (V.conj() * (t @ V)).sum(-2).real
        w = w + (moving - moving.detach())
        V = Refusing.apply(V, t, "jacobi_eigh has no gradient of the eigenvectors; use torch.linalg.eigh")
    return JacobiEigh(*give_back((w, V), kind))


def _matrix(A: Any) -> tuple[Tensor, Any]:
    t, kind = as_tensor(A, "A")
    if t.ndim < 2:
        raise ValueError(f"A must have shape (..., m, n), got {tuple(t.shape)}")
    if t.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"A has dtype {t.dtype}; convert it to float32")
    check_finite(t, "A")
    return t, kind


def _host(t: Tensor) -> np.ndarray:
    return t.detach().resolve_conj().resolve_neg().cpu().numpy()


def _each(stack: np.ndarray) -> np.ndarray:
    """The matrices of a batch in one row; NumPy cannot divide an empty one by itself."""
    return stack.reshape(math.prod(stack.shape[:-2]), *stack.shape[-2:])


def _stacked(parts: list[np.ndarray], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    lead = like.shape[:-2]
    if not parts:
        dtype = like.dtype if len(shape) == 2 else like.real.dtype
        return torch.zeros((*lead, *shape), dtype=dtype, device=like.device)
    return torch.from_numpy(np.ascontiguousarray(np.stack(parts))).reshape(*lead, *shape).to(like.device)


def _scale(A: np.ndarray) -> float:
    """A power of two near the largest entry, so that squares stay in range and no digit changes."""
    largest = float(np.abs(A).max(initial=0.0))
    return float(2.0 ** np.round(np.log2(largest))) if largest > 0 else 1.0


def _wants_adjoint(A: np.ndarray) -> bool:
    """Whether the rows of A are fewer, or of the more different lengths: what is graded has to be columns."""
    m, n = A.shape
    if m != n or not n:
        return m < n
    tiny = float(np.finfo(A.dtype).tiny)
    rows, columns = (np.abs(A).max(axis) + tiny for axis in (1, 0))
    return bool(rows.max() / rows.min() > columns.max() / columns.min())


def _flipped(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    U, S, Vh = _svd(A.conj().T)
    return Vh.conj().T, S, U.conj().T


def _svd(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one matrix with at least as many rows as columns."""
    n = A.shape[1]
    if n == 0:
        return A[:, :0], np.zeros(0, A.real.dtype), np.zeros((0, 0), A.dtype)
    scale = _scale(A)
    Q, R, order = scipy.linalg.qr(A / scale, mode="economic", pivoting=True)
    # R^H W = X with orthogonal columns, so R = W diag(S) (X / S)^H.
    X, W = _orthogonal_columns(R.conj().T)
    S = np.linalg.norm(X, axis=0)
    down = np.argsort(-S, kind="stable")
    X, W, S = X[:, down], W[:, down], S[down]
    V = np.empty((n, n), A.dtype)
    V[order] = _unit_columns(X, S)
    return Q @ W, (S * scale).astype(A.real.dtype), V.conj().T


def _unit_columns(X: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Columns of length one, completed to a basis where they are zero."""
    found = S > 0
    out = np.array(X / np.where(found, S, 1))
    if not found.all():
        # The rest of the complete factor is orthogonal to what is there.
        full = scipy.linalg.qr(out[:, found], mode="full")[0] if found.any() else np.eye(len(X), dtype=X.dtype)
        out[:, ~found] = full[:, int(found.sum()) :][:, : int((~found).sum())]
    return out


def _orthogonal_columns(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X = A W with orthogonal columns and unitary W."""
    from resolvent.factor import jacobi_kernel as kernel

    n = A.shape[1]
    X, W = np.array(A.T, order="C"), np.eye(n, dtype=A.dtype)
    tol = float(np.finfo(A.dtype).eps) * np.sqrt(max(A.shape[0], 1))
    if n > 1 and kernel.orthogonalize_columns(X, W, _SWEEPS, tol) < 0:
        best = JacobiSVD(None, np.sort(np.linalg.norm(X, axis=1))[::-1], None)
        raise ConvergenceError(f"jacobi_svd: columns are not orthogonal after {_SWEEPS} sweeps", best=best)
    return X.T, W.T


def _eigh(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(A)
    lower = np.tril(A, -1)
    H = lower + lower.conj().T + np.diag(A.diagonal().real)
    scale = _scale(H)
    H = (H / scale).astype(A.dtype)
    potrf = scipy.linalg.get_lapack_funcs("pstrf", (H,))
    # A tolerance below every pivot: only a pivot that is not positive stops the factorisation.
    C, order, rank, _ = potrf(H, tol=0.0, lower=1)
    if rank == n and n:
        X, _ = _orthogonal_columns(np.tril(C))
        lengths = np.linalg.norm(X, axis=0)
        V = np.empty_like(H)
        V[order - 1] = X / lengths
        w = lengths**2
    else:
        from resolvent.factor import jacobi_kernel as kernel

        T = np.eye(n, dtype=H.dtype)
        tol = float(np.finfo(H.dtype).eps)
        if n > 1 and kernel.diagonalize(H, T, _SWEEPS, tol) < 0:
            best = JacobiEigh(np.sort(H.diagonal().real) * scale, None)
            raise ConvergenceError(f"jacobi_eigh: not diagonal after {_SWEEPS} sweeps", best=best)
        w, V = H.diagonal().real, T.T
    up = np.argsort(w, kind="stable")
    return (w[up] * scale).astype(A.real.dtype), V[:, up]
