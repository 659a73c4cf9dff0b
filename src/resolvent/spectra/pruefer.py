"""Pruefer angles of the solutions of a Jacobi matrix: whole turns and cotangents, which neither overflow nor vanish."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit

from resolvent.operators.arrays import Kind
from resolvent.operators.banded import Tridiagonal
from resolvent.operators.magnitude import power_of_two
from resolvent.operators.operator import Operator
from resolvent.operators.parts import common_tensors


class Jacobi(NamedTuple):
    """A Hermitian tridiagonal matrix in double precision, the rounding of its own dtype and a bound of its norm."""

    diagonal: np.ndarray
    coupling: np.ndarray
    eps: float
    kind: Kind
    size: float


def as_jacobi(J: Any, name: str) -> Jacobi:
    """The matrix of a pair (diagonal, offdiagonal) or of a Hermitian Tridiagonal, checked."""
    if isinstance(J, Tridiagonal):
        if J.batch_shape:
            raise ValueError(f"{name} must be one matrix, got a batch {tuple(J.batch_shape)}")
        J.check_hermitian(name)
        (off, main, _), kind = J._parts, J.kind
    elif isinstance(J, tuple | list) and len(J) == 2 and not isinstance(J, Operator):
        (main, off), kind = common_tensors(**{f"{name}[0]": J[0], f"{name}[1]": J[1]})
    else:
        raise TypeError(f"{name} must be a pair (diagonal, offdiagonal) or a Tridiagonal, got {type(J).__name__}")
    if main.ndim != 1 or off.ndim != 1 or len(main) < 1 or len(off) != len(main) - 1:
        shapes = f"{tuple(main.shape)} and {tuple(off.shape)}"
        raise ValueError(f"{name} must have a diagonal (N,) and an offdiagonal (N - 1,), N at least 1, got {shapes}")
    if main.is_complex() and bool(main.detach().imag.any()):
        raise ValueError(f"{name} must have a real diagonal")
    eps = torch.finfo(main.dtype).eps
    b = (main.real if main.is_complex() else main).detach().cpu().double().numpy()
    a = off.detach().cpu().to(torch.complex128 if off.is_complex() else torch.float64).resolve_conj().numpy()
    reach = np.abs(b)
    with np.errstate(over="ignore"):
        reach[1:] += np.abs(a)
        reach[:-1] += np.abs(a)
    if not math.isfinite(size := float(reach.max())):
        raise ValueError(f"{name} must have entries whose sums are finite")
    return Jacobi(b, a, eps, kind, size)


def eigenvalues_below(M: Jacobi, lam: float, width: float, closed: bool) -> int:
    """Eigenvalues below lam; those within `width` of it count as equal to it, and count if `closed`."""
    if math.isinf(lam):
        return 0 if lam < 0 else len(M.diagonal)
    shift = lam + width if closed else lam - width
    scale = power_of_two(max(M.size, abs(shift)))
    below, on = _sturm(M.diagonal / scale, np.abs(M.coupling) / scale, shift / scale)
    return int(below) + (int(on) if closed else 0)


# IEEE infinities stand for angles at whole turns: no fastmath, and divisions by zero that do not raise.
@njit(cache=True, nogil=True, error_model="numpy")
def _next(b, a, lam, c):
    """The cotangent after c; adding zero turns -0 to 0, whose infinity has the right sign."""
    return b - lam - (a / c) * a + 0.0 if a != 0 else b - lam + 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _sturm(b, a, lam):
    """Eigenvalues below lam, and how many cotangents at the ends of uncoupled blocks say that lam is one."""
    c = b[0] - lam + 0.0
    below, on = int(c < 0), 0
    for i in range(1, b.size):
        on += int(c == 0 and a[i - 1] == 0)
        c = _next(b[i], a[i - 1], lam, c)
        below += int(c < 0)
    return below, on + int(c == 0)


@njit(cache=True, nogil=True, error_model="numpy")
def path_counts(b0, re0, im0, b1, re1, im1, places, lam):
    """Eigenvalues below lam of J0 + t (J1 - J0) at each place t; off-diagonals as real and imaginary parts."""
    out = np.zeros(places.size, dtype=np.int64)
    for p in range(places.size):
        t = places[p]
        c = np.inf
        for i in range(b0.size):
            a = 0.0
            if i:
                x = re0[i - 1] + t * (re1[i - 1] - re0[i - 1])
                y = im0[i - 1] + t * (im1[i - 1] - im0[i - 1])
                a = abs(x) if y == 0 else np.hypot(x, y)
            c = _next(b0[i] + t * (b1[i] - b0[i]), a, lam, c)
            out[p] += int(c < 0)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def from_the_right(b, a, lam):
    """Cotangents at 0, ..., N of the solution with u(N+1) = 0, infinite where u(n) = 0; how often lam is an eigenvalue."""
    n = b.size
    cot = np.zeros(n + 1)
    d = b[n - 1] - lam + 0.0
    hits = 0
    for i in range(n - 1, 0, -1):
        c = (a[i - 1] / d) * a[i - 1] if a[i - 1] != 0 else 0.0
        hits += int(d == 0 and a[i - 1] == 0)
        if c == 0 and not np.isinf(d):
            # The square of a small entry has vanished, not its sign.
            c = 1e-300 if d >= 0 else -1e-300
        cot[i] = c
        d = b[i - 1] - lam - c + 0.0
    cot[0] = 1 / d
    return cot, hits + int(d == 0)


@njit(cache=True, nogil=True, error_model="numpy")
def wronskian(b, a, lam, cot1):
    """ceil(Delta / pi) and the sign of the Wronskian at 0, ..., N; floor(Delta(0) / pi); how often lam is an eigenvalue.

    The turns of theta1 are counted from the left and then moved so that theta1(N) = pi / 2.
    """
    n = b.size
    turns = np.zeros(n + 1, dtype=np.int64)
    signs = np.zeros(n + 1, dtype=np.int8)
    k0, k1, hits, c0 = 0, 0, 0, np.inf
    for i in range(n + 1):
        if i > 1:
            hits += int(c0 == 0 and a[i - 2] == 0)
        if i:
            c0 = b[0] - lam + 0.0 if i == 1 else _next(b[i - 1], a[i - 2], lam, c0)
        # A cotangent that is infinite with either sign is an angle of a whole turn, where the cotangent is +inf.
        left = np.inf if np.isinf(c0) else c0
        right = np.inf if np.isinf(cot1[i]) else cot1[i]
        turns[i] = k1 - k0 + int(right < left)
        if right != left:
            signs[i] = 1 if turns[i] % 2 else -1
        if i < n:
            k0 += int(left <= 0)
            k1 += int(right <= 0)
    turns -= k1
    if k1 % 2:
        signs = -signs
    return turns, signs, -k1, hits + int(c0 == 0)
