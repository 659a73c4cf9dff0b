"""Powers of Hermitian matrices: roots of positive definite ones by composed polynomials, all others by eigenvalues."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.functions.minimax import plan, plans
from resolvent.operators.arrays import complex_dtype, real_dtype

# Sides up to which polynomials beat eigenvalues on the CPU, and BLAS stays on the thread that calls it.
_SMALL = {False: 64, True: 32}
# Multiplications that keep one core busy for longer than it takes to wake another.
_PER_THREAD = 100_000
# The inverse condition numbers down to which factors are trusted: the root of them is what the precision sees.
_TRUSTED = {torch.float64: 1e-14, torch.float32: 1e-10}
_DOUBLE = {False: torch.float64, True: torch.complex128}


class NotRealError(ValueError):
    """The function of a real matrix is not real: it has negative eigenvalues."""


def positive_root(A: Tensor, p: int) -> Tensor:
    """A^(1/2) for p = 0 and A^(-1/p) for p a power of two, of Hermitian A (..., n, n); not recorded.

    Matrices that are not surely positive definite go by their eigenvalues.

    Examples
    --------
    >>> positive_root(torch.tensor([[5.0, 4.0], [4.0, 5.0]]), 0)
    tensor([[2.0000, 1.0000],
            [1.0000, 2.0000]])
    """
    if small(A):
        return _by_kernel(A, p)[0]
    if A.device.type != "cpu":
        found = _by_products(A, p)
        if found is not None:
            return found
    return power_by_eigenvalues(A, 1 / 2 if p == 0 else -1 / p)


def small(A: Tensor) -> bool:
    """Whether compiled code takes the matrices one by one."""
    return A.device.type == "cpu" and 0 < A.shape[-1] <= _SMALL[A.is_complex()]


def power_by_eigenvalues(A: Tensor, t: float, *, double: bool = False) -> Tensor:
    """A^t of Hermitian A by its eigenvalues; those within n eps |A| of zero count as zero.

    Examples
    --------
    >>> power_by_eigenvalues(torch.diag(torch.tensor([4.0, 0.0])), 0.5)
    tensor([[2., 0.],
            [0., 0.]])
    """
    w, V = torch.linalg.eigh(A.to(_DOUBLE[A.is_complex()]) if double else A)
    values = power_of(w, t, as_complex=A.is_complex()).to(V.dtype)
    return ((V * values[..., None, :]) @ V.mH).to(A.dtype)


def power_of(w: Tensor, t: float, *, as_complex: bool) -> Tensor:
    """Powers of the eigenvalues (..., n) of Hermitian matrices, with the errors that they call for."""
    none = settled(w)
    if t < 0 and bool((none == 0).any()):
        smallest = float(w.abs().amin())
        raise ValueError(f"A is singular to working precision: it has an eigenvalue of size {smallest:.1e}")
    if bool((none < 0).any()):
        if not as_complex:
            raise NotRealError(f"A has the negative eigenvalue {float(none.min()):.3g}, so that its power is not real")
        return none.to(complex_dtype(none.dtype)) ** t
    return none**t


def settled(w: Tensor) -> Tensor:
    """Eigenvalues with those that are zero to rounding set to zero."""
    size = w.abs()
    bound = w.shape[-1] * torch.finfo(w.dtype).eps * size.amax(-1, keepdim=True) if w.shape[-1] else size
    return torch.where(size <= bound, torch.zeros_like(w), w)


def root_with_plan(A: Tensor, p: int) -> tuple[Tensor, Tensor, Tensor]:
    """`positive_root` of small matrices, with the plan (-1: by eigenvalues) and the scale of each, which
    `lyapunov` takes."""
    return _by_kernel(A, p)


def lyapunov(S: Tensor, E: Tensor, rows: Tensor, scales: Tensor) -> Tensor:
    """X of S X + X S = E for the square root S of A, with the plan and scale of A as `root_with_plan` gives them."""
    table, counts = _sign_plans(real_dtype(S.dtype))
    return by_sign_steps(S, E, table, counts, rows, scales.sqrt())


def by_sign_steps(
    S: Tensor, E: Tensor, table: np.ndarray, counts: np.ndarray, rows: Tensor, scales: Tensor, tolerance: float = 0.0
) -> Tensor:
    """X of S X + X S = E by sign steps with given coefficients (plans, steps, 3), on the CPU, matrix by matrix."""
    from resolvent.functions.lyapunov_kernel import lyapunov as solve

    n = S.shape[-1]
    left, right = (t.reshape(-1, n, n).contiguous().resolve_conj().numpy() for t in (S, E))
    out = np.empty_like(right)
    bounds = _blocks(len(left), 30 * n**3)
    kinds = (np.ascontiguousarray(rows.reshape(-1).numpy()), tolerance, scales.reshape(-1).numpy(), bounds)
    solve(left, right, table, counts, *kinds, S.is_complex(), out)
    return torch.from_numpy(out).reshape(E.shape)


@functools.cache
def _sign_plans(dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Plans of three coefficients, of powers of G itself."""
    table, counts = plans(_goal(dtype), _TRUSTED[dtype], 2, quadratic=True)
    c = table[..., 2:5].copy()
    s, last = table[..., 1], table[..., 0] == 3
    # c0 + c1 (1 - s g) + c2 (1 - s g)^2
    shifted = np.stack([c.sum(-1), -s * (c[..., 1] + 2 * c[..., 2]), s * s * c[..., 2]], -1)
    return np.where(last[..., None], shifted, c), counts


def _goal(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps * 2


@functools.cache
def _plans(dtype: torch.dtype) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    pairs = [plans(_goal(dtype), _TRUSTED[dtype], p) for p in (2, 4)]
    return tuple(table for table, _ in pairs), tuple(counts for _, counts in pairs)


def _blocks(count: int, work: int) -> np.ndarray:
    """Bounds of the blocks that threads take."""
    from resolvent.operators.parallel import numba

    threads = min(numba.get_num_threads(), count, max(1, count * work // (30 * _PER_THREAD)))
    return np.linspace(0, count, 4 * threads + 1 if count >= 16 * threads else threads + 1).astype(np.int64)


def _by_kernel(A: Tensor, p: int) -> tuple[Tensor, Tensor, Tensor]:
    from resolvent.functions import roots_kernel as kernel

    n = A.shape[-1]
    stack = A.reshape(-1, n, n).contiguous().resolve_conj().numpy()
    out = np.empty_like(stack)
    rows, scales = np.empty(len(stack), np.int64), np.ones(len(stack))
    tables, counts = _plans(real_dtype(A.dtype))
    # A^(-1/8) and further: halve first, and end with the inverse fourth root.
    halvings = 1 if p == 0 else max(0, p.bit_length() - 3)
    last = p if p in (0, 2) else 4
    double = np.zeros(0, np.complex128 if A.is_complex() else np.float64)
    rest = (halvings, last, tables, counts, A.is_complex(), double, out, rows, scales)
    bounds = _blocks(len(stack), 20 * n**3)
    if len(bounds) == 2:
        kernel.roots(stack, *rest)
    else:
        kernel.roots_in_parallel(stack, bounds, *rest)
    value, plan_of = torch.from_numpy(out), torch.from_numpy(rows)
    if bool((plan_of < 0).any()):
        others = (plan_of < 0).nonzero()[:, 0]
        # In double precision, too: an ill-conditioned matrix is where single precision would be felt.
        value[others] = power_by_eigenvalues(A.reshape(-1, n, n)[others], 1 / 2 if p == 0 else -1 / p, double=True)
    return value.reshape(A.shape), plan_of.reshape(A.shape[:-2]), torch.from_numpy(scales).reshape(A.shape[:-2])


def _by_products(A: Tensor, p: int) -> Tensor | None:
    """The same as the kernel in batched products, one plan for the batch; None where a matrix is not surely positive."""
    if A.numel() == 0:
        return A.clone()
    halvings = 1 if p == 0 else max(0, p.bit_length() - 3)
    found: Tensor | None = A
    for _ in range(halvings):
        found = None if found is None else _root_by_products(found, 0)
    return found if p == 0 or found is None else _root_by_products(found, min(p, 4))


def _root_by_products(A: Tensor, p: int) -> Tensor | None:
    scale = torch.minimum(torch.linalg.matrix_norm(A), torch.linalg.matrix_norm(A, 1))[..., None, None]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    R, info = torch.linalg.cholesky_ex(A.to(_DOUBLE[A.is_complex()]) / scale, upper=True)
    one = torch.eye(A.shape[-1], dtype=R.dtype, device=R.device)
    W = torch.linalg.solve_triangular(R, one.expand_as(R), upper=True)
    low = float(torch.linalg.matrix_norm(W).max()) ** -2 if not bool(info.any()) else 0.0
    if not low > _TRUSTED[real_dtype(A.dtype)]:
        return None
    one, X, G = one.to(A.dtype), R.to(A.dtype), A / scale
    Z: Tensor | None = None
    steps = plan(low, _goal(real_dtype(A.dtype)), max(p, 2))
    for k, step in enumerate(steps):
        G = X.mH @ X if k else G
        P = _at(step.coefficients, one - step.shift * G if step.kind else G, one)
        if p == 4:
            Z = P if Z is None else Z @ P
            X = X @ P @ P
        else:
            X = X @ P
    if Z is None:
        Z = X.mH @ R.to(A.dtype) if p == 0 else W.to(A.dtype) @ X
    power = scale**0.5 if p == 0 else scale ** (-1 / p)
    return (Z + Z.mH) / 2 * power


def _at(c: Any, D: Tensor, one: Tensor) -> Tensor:
    """A polynomial of three, five or seven coefficients at D, in one product, two or three."""
    D2 = D @ D
    if len(c) == 3:
        return c[0] * one + c[1] * D + c[2] * D2
    if len(c) == 5:
        return c[0] * one + c[1] * D + D2 @ (c[2] * one + c[3] * D + c[4] * D2)
    D3 = D2 @ D
    return c[0] * one + c[1] * D + c[2] * D2 + D3 @ (c[3] * one + c[4] * D + c[5] * D2 + c[6] * D3)
