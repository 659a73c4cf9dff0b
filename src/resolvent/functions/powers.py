"""Powers of general matrices by their Schur forms: the roots of triangular factors, and Padé approximants for the rest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.positive import NotRealError
from resolvent.functions.schur import diagonal_eigenvalues, schur_form, split, triangular_root, triangular_sylvester
from resolvent.operators import lu

Array = np.ndarray[Any, Any]

# The norm up to which the [7/7] Padé approximant of (1 - x)^t is exact to double precision (Higham and Lin).
_THETA, _DEGREE = 2.79e-1, 7


def general_power(A: Tensor, t: float) -> Tensor:
    """The principal power A^t of square matrices (..., n, n), on the host in double precision; not recorded.

    Examples
    --------
    >>> general_power(torch.tensor([[4.0, 4.0], [0.0, 4.0]]), 0.5)
    tensor([[2., 1.],
            [0., 2.]])
    """
    stack = _stack(A)
    found = np.empty_like(stack)
    for one, out in zip(stack, found, strict=True):
        T, U = power_factor(one, t)
        F = U @ T @ U.conj().T
        out[...] = F if out.dtype.kind == "c" else F.real
    return torch.from_numpy(found).reshape(A.shape).to(A)


def root_derivative(A: Tensor, E: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
    r"""S = A^(1/2) and the X of S X + X S = E; for the inverse root S^(-1) and -S^(-1) X S^(-1). Not recorded.

    Examples
    --------
    >>> root_derivative(torch.diag(torch.tensor([1.0, 4.0])), torch.ones(2, 2), inverse=False)[1]
    tensor([[0.5000, 0.3333],
            [0.3333, 0.2500]])
    """
    left, right = _stack(A), _stack(E)
    values, found = np.empty_like(left), np.empty_like(right)
    for i, (one, other) in enumerate(zip(left, right, strict=True)):
        R, U = power_factor(one, 0.5)
        if not R.diagonal().all():
            raise ValueError("A is singular: its square root has no derivative")
        X = triangular_sylvester(R, R, U.conj().T @ other @ U)
        if inverse:
            Z = np.linalg.solve(R, np.eye(len(R), dtype=R.dtype))
            R, X = Z, -Z @ X @ Z
        S, X = U @ R @ U.conj().T, U @ X @ U.conj().T
        values[i], found[i] = (S, X) if values.dtype.kind == "c" else (S.real, X.real)
    return torch.from_numpy(values).reshape(A.shape).to(A), torch.from_numpy(found).reshape(E.shape).to(E)


def _stack(A: Tensor) -> Array:
    double = torch.complex128 if A.is_complex() else torch.float64
    return np.asarray(A.reshape(-1, *A.shape[-2:]).to(double).resolve_conj().cpu().numpy())


def power_factor(A: Array, t: float) -> tuple[Array, Array]:
    """T and U with A^t = U T U^H, T upper triangular; a root of a real A has a real, quasi-triangular T.

    Examples
    --------
    >>> power_factor(np.array([[1.0, 3.0], [0.0, 4.0]]), 0.5)[0]
    array([[1., 1.],
           [0., 2.]])
    """
    T, U = schur_form(A)
    exact = not T.size or (T is A or np.array_equal(T, A))
    size = float(np.linalg.norm(T))
    if T.dtype.kind != "c":
        blocks = T.diagonal(-1) != 0
        if _negative(T.diagonal(), blocks, 0.0 if exact else len(T) * np.finfo(T.dtype).eps * size):
            raise NotRealError("A has a negative eigenvalue, so that its power is not real")
        if t not in (0.5, -0.5):
            T, U = scipy.linalg.rsf2csf(T, U)
    zero = 0.0 if exact else len(T) * np.finfo(T.dtype).eps * size
    none = np.abs(diagonal_eigenvalues(T)) <= zero
    if not none.any():
        return _triangular_power(T, t), U
    if t < 0:
        raise ValueError("A is singular to working precision: it has no inverse, and no power with a negative exponent")
    return _singular_power(T, U, t, zero, size)


def _negative(d: Array, blocks: Array, zero: float) -> bool:
    """Whether a quasi-triangular matrix has a negative eigenvalue; those of 2 x 2 blocks come in conjugate pairs."""
    alone = np.ones(len(d), bool)
    alone[:-1] &= ~blocks
    alone[1:] &= ~blocks
    return bool((d[alone] < -zero).any())


def _singular_power(T: Array, U: Array, t: float, zero: float, size: float) -> tuple[Array, Array]:
    """Zero eigenvalues last: f([[T1, B], [0, 0]]) = [[f(T1), f(T1) T1^-1 B], [0, 0]]."""
    if T.dtype.kind != "c":
        T, U = scipy.linalg.rsf2csf(T, U)
    T, Q, rank = scipy.linalg.schur(T, output="complex", sort=lambda w: abs(w) > zero)
    low = len(T) * np.finfo(np.float64).eps * size
    if np.linalg.norm(T[rank:, rank:]) > 10 * low:
        raise ValueError("A has a defective zero eigenvalue: no power of it with a fractional exponent exists")
    found = np.zeros_like(T)
    found[:rank, :rank] = _triangular_power(T[:rank, :rank], t)
    found[:rank, rank:] = found[:rank, :rank] @ scipy.linalg.solve_triangular(T[:rank, :rank], T[:rank, rank:])
    return found, U @ Q


def _triangular_power(T: Array, t: float) -> Array:
    if t == 0.5:
        return quasi_triangular_root(T)
    if t == -0.5:
        R = quasi_triangular_root(T)
        one = np.eye(len(T), dtype=T.dtype)
        return np.asarray(np.linalg.solve(R, one) if T.diagonal(-1).any() else scipy.linalg.solve_triangular(R, one))
    whole = round(t)
    F = _fraction(T, t - whole) if t != whole else np.eye(len(T), dtype=T.dtype)
    if whole == 0:
        return F
    power = np.linalg.matrix_power(T, abs(whole))
    return power @ F if whole > 0 else np.asarray(scipy.linalg.solve_triangular(power, F))


def quasi_triangular_root(T: Array) -> Array:
    """The principal square root of an upper quasi-triangular matrix, in real arithmetic for a real one.

    Examples
    --------
    >>> quasi_triangular_root(np.array([[0.0, 2.0], [-2.0, 0.0]]))
    array([[ 1.,  1.],
           [-1.,  1.]])
    """
    if not T.diagonal(-1).any():
        return triangular_root(T)
    n = len(T)
    if n == 2:
        # eigenvalues x +- iy; the root is s + (T - x) / (2 s), s the real part of the root of x + iy
        x = (T[0, 0] + T[1, 1]) / 2
        y = math.sqrt(max(0.0, -T[0, 1] * T[1, 0] - ((T[0, 0] - T[1, 1]) / 2) ** 2))
        size = math.hypot(x, y)
        s = math.sqrt((size + x) / 2) if x > 0 else y / math.sqrt(2 * (size - x))
        one = np.eye(2)
        return np.asarray(s * one + (T - x * one) / (2 * s))
    k = split(T)
    R = np.zeros_like(T, order="C")
    R[:k, :k], R[k:, k:] = quasi_triangular_root(T[:k, :k]), quasi_triangular_root(T[k:, k:])
    R[:k, k:] = triangular_sylvester(R[:k, :k], R[k:, k:], T[:k, k:])
    return R


def _fraction(T: Array, t: float) -> Array:
    """T^t for complex triangular T and |t| <= 1/2: roots until it is near the identity, Padé, squarings (Higham and Lin)."""
    one = np.eye(len(T), dtype=T.dtype)
    roots, R = 0, T
    while np.linalg.norm(one - R, 1) > _THETA:
        R = triangular_root(R)
        roots += 1
        if roots > 100:
            raise OverflowError("A has entries beyond the range in which a fractional power can be found")
    X = one - R
    F = _pade(X, t)
    for left in range(roots, -1, -1):
        # what is known in closed form does not gather the errors of squaring
        _exact_bands(T, t / 2**left, F)
        if left:
            F = F @ F
    return F


def _pade(X: Array, t: float) -> Array:
    """The [7/7] Padé approximant of (1 - x)^t at X, by its continued fraction from the bottom."""
    one = np.eye(len(X), dtype=X.dtype)
    Y = _link(2 * _DEGREE, t) * X
    for j in range(2 * _DEGREE - 1, 0, -1):
        Y = scipy.linalg.solve_triangular(one + Y, _link(j, t) * X)
    return np.asarray(one + Y)


def _link(j: int, t: float) -> float:
    """Coefficients of (1 - x)^t = 1 + c1 x / (1 + c2 x / (1 + ...))."""
    if j == 1:
        return -t
    k = j // 2
    return (-k + t) / (2 * (2 * k - 1)) if j % 2 == 0 else (-k - t) / (2 * (2 * k + 1))


def _exact_bands(T: Array, t: float, F: Array) -> None:
    """Set the diagonal and the first superdiagonal of F = T^t from their closed form."""
    d = T.diagonal()
    np.fill_diagonal(F, d**t)
    if len(d) < 2:
        return
    a, b = d[:-1], d[1:]
    log_a, log_b = np.log(a), np.log(b)
    total = a + b
    near = (np.abs(b - a) < np.abs(total) / 2) & (total != 0)
    z = np.where(near, (b - a) / np.where(near, total, 1), 0)
    turns = np.ceil(((log_b - log_a).imag - math.pi) / (2 * math.pi))
    half = np.arctanh(z) + 1j * math.pi * turns
    gap = np.where(a == b, 1, b - a)
    close = np.exp(t / 2 * (log_a + log_b)) * 2 * np.sinh(t * half) / gap
    far = (b**t - a**t) / gap
    divided = np.where(a == b, t * a ** (t - 1), np.where(near, close, far))
    at = np.arange(len(d) - 1)
    F[at, at + 1] = T[at, at + 1] * divided


def by_coupled_newton(A: Tensor, *, inverse: bool, steps: int = 60) -> Tensor:
    """The square root or its inverse by the product form of Denman and Beavers with scaling, on any device.

    Examples
    --------
    >>> by_coupled_newton(torch.tensor([[4.0, 1.0], [0.0, 9.0]]), inverse=False)
    tensor([[2.0000, 0.2000],
            [0.0000, 3.0000]])
    """
    n = A.shape[-1]
    eps = torch.finfo(A.dtype).eps
    one = torch.eye(n, dtype=A.dtype, device=A.device)
    M, X = A, one if inverse else A
    scaled, distance = True, math.inf
    for _ in range(steps):
        N, info = lu.inv_ex(M)
        if bool(info.any()):
            break
        mu = lu.slogdet(M)[1].div(-2 * n).exp()[..., None, None] if scaled else torch.ones(())
        mu = mu.to(A)
        X = X @ (mu * one + N / mu) / 2
        M = (2 * one + mu * mu * M + N / (mu * mu)) / 4
        last, distance = distance, float(torch.linalg.matrix_norm(M - one).amax())
        # Scaling helps until the eigenvalues have come together; then it would keep them from one.
        scaled = scaled and distance > 1e-2
        if distance <= n * eps or (distance < math.sqrt(eps) and distance >= last / 2) or math.isnan(distance):
            break
    if not distance <= math.sqrt(eps):
        raise ConvergenceError(
            f"the iteration for the root stopped at |M - I| = {distance:.1e}, above {math.sqrt(eps):.1e}: A is singular "
            "or has an eigenvalue on the negative real axis, or nearly so",
            best=X,
            error=distance,
        )
    return X
