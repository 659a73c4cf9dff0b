"""A low-rank matrix from linear measurements, some of them grossly wrong: subgradients of the sum of absolute values."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.measurements import Shape, check_measure, check_measured
from resolvent.info import Info
from resolvent.operators import LowRank, Operator
from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.operators.gradient import records

Step = Literal["median", "polyak", "geometric"]

# Steps between two looks at the size of the step, so that a device is not waited for in each.
_LOOK = 10


def robust_recover(
    measure: Any,
    y: Any,
    shape: Shape,
    search_rank: int,
    *,
    symmetric: bool = True,
    step: Step = "median",
    step_size: float = 0.4,
    decay: float = 0.995,
    init_scale: float = 1e-8,
    start: Any = None,
    rtol: float | None = None,
    max_steps: int = 5000,
    return_info: bool = False,
) -> Any:
    r"""The matrix of low rank behind measurements with gross errors:
    :math:`\min_U \frac1m \sum_i |y_i - \langle A_i, U U^T\rangle|`.

    Parameters
    ----------
    measure : (m, n1 n2) operator on the entries of a matrix row by row, for example of `gaussian_measurements`
    y : (m,), a part of it with arbitrary errors
    shape : (n1, n2); (n, n) for a symmetric search
    search_rank : columns of U, at least the rank of the matrix; up to n, if it is not known
    symmetric : search a positive semidefinite matrix U U^T; else U V^T
    step : "median" takes steps in proportion to the median of the residuals' sizes, which fewer than half of the
        measurements in error do not move; "polyak" to their mean, for measurements without errors; "geometric" takes
        ``step_size * decay**t``, for noise on all measurements
    step_size : of the first step, relative to U; with "median" and "polyak" at most 0.5 or so
    decay : rho of "geometric", below 1
    init_scale : alpha, the size of the first U; the error at the end grows with it where `search_rank` is too large
    start : (n, search_rank) a first U instead, as it is; for U V^T the pair
    rtol : the steps end when their relative size is below; default 1e-7 in float64, 1e-4 in float32
    max_steps : at most
    return_info : also return an `Info`

    Returns
    -------
    LowRank : U U^T or U V^T; NumPy for NumPy

    Raises
    ------
    ValueError : sizes that do not match, an argument out of range, a `y` whose median is zero where the steps follow
        it, or a gradient is wanted: there is none.
    ConvergenceError : the steps are still larger than `rtol` after `max_steps`; `best` is the last `LowRank`.

    Notes
    -----
    U <- U - eta_t D U, with D the mean of sign(<A_i, U U^T> - y_i) A_i, made symmetric. The first U is alpha B with B B^T
    the positive part of rank `search_rank` of the mean of sign(y_i) A_i, of norm 1. The true directions grow first and
    fast, the others stay near alpha, so that no rank has to be known. Two products with `measure` a step. "median" is
    this library's: the residual's median stands for the distance, which "geometric" must guess. Not differentiable.

    References
    ----------
    "Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy Measurements, and Over-parameterization"

    Examples
    --------
    >>> from resolvent.factor import gaussian_measurements
    >>> A, x = gaussian_measurements(200, (5, 5), generator=0), torch.arange(5.0).double()
    >>> y = A @ torch.outer(x, x).flatten()
    >>> y[:20] = 1000.0
    >>> X = robust_recover(A, y, (5, 5), 5)
    >>> bool(torch.dist(X.to_dense(), torch.outer(x, x)) < 1e-4)
    True
    """
    A = check_measure(measure, shape)
    target = check_measured(y, A)
    if records(A) or (isinstance(y, Tensor) and y.requires_grad):
        raise ValueError("robust_recover has no gradient: detach measure and y")
    rtol = _checked(A, shape, search_rank, symmetric, step, step_size, decay, init_scale, rtol, max_steps)
    with torch.no_grad():
        A = A.detach()
        found = _Search(A, target, shape, symmetric)
        factors = (
            found.small_start(search_rank, init_scale)
            if start is None
            else _given(start, shape, search_rank, A, symmetric)
        )
        first = found.size_of(target, step)
        if step == "median" and not bool(first > 0):
            raise ValueError("y must have fewer zeros than half for step='median'; take step='polyak' or 'geometric'")
        t, error = 0, math.inf
        for t in range(max_steps):
            residual = found.residual(factors)
            share = first.new_tensor(decay**t) if step == "geometric" else found.size_of(residual, step) / first
            size = share * step_size
            if t % _LOOK == 0:
                error = float(size)
                if error <= rtol:
                    break
            factors = found.moved(factors, residual, size)
    U, V = factors
    if not bool(torch.isfinite(U).all()):
        raise ConvergenceError(f"robust_recover: the steps grew without bound; step_size={step_size} is too large")
    result = LowRank(U) if symmetric else LowRank(U, V=V)
    result.kind = A.kind
    info = Info(f"subgradient, {step}", 2 * t, t, error, error <= rtol)
    if not info.converged:
        message = f"robust_recover: steps of relative size {error:.2g} after {max_steps}, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=result, error=error, info=info)
    return (result, info) if return_info else result


class _Search:
    """Residuals and subgradients of one problem."""

    def __init__(self, A: Operator, y: Tensor, shape: Shape, symmetric: bool) -> None:
        self.A, self.y, self.shape, self.symmetric = A, y, shape, symmetric

    def mean_of(self, signs: Tensor) -> Tensor:
        """The mean of sign_i A_i, symmetric for a symmetric search."""
        D = (self.A.H._matmul(signs[:, None]) / len(signs)).reshape(self.shape)
        return (D + D.mT) / 2 if self.symmetric else D

    def small_start(self, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        D = self.mean_of(torch.sign(self.y))
        # In the units of X, so that a multiple of y gives a multiple of X.
        sizes = self.y.abs()
        middle = sizes.median()
        unit = scale * torch.where(middle > 0, middle, sizes.mean()).sqrt()
        if self.symmetric:
            w, Q = torch.linalg.eigh(D)
            B = Q.flip(-1)[:, :rank] * w.flip(-1)[:rank].clamp(min=0).sqrt()
            U = B * (unit / torch.linalg.matrix_norm(B @ B.mT).sqrt())
            return U, U
        P, s, Qh = torch.linalg.svd(D, full_matrices=False)
        weight = (s[:rank] / torch.linalg.vector_norm(s[:rank])).sqrt() * unit
        return P[:, :rank] * weight, Qh[:rank].mT * weight

    def residual(self, factors: tuple[Tensor, Tensor]) -> Tensor:
        U, V = factors
        return self.A._matmul((U @ V.mT).reshape(-1, 1))[:, 0] - self.y

    @staticmethod
    def size_of(residual: Tensor, step: str) -> Tensor:
        return residual.abs().mean() if step == "polyak" else residual.abs().median()

    def moved(self, factors: tuple[Tensor, Tensor], residual: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        U, V = factors
        D = self.mean_of(torch.sign(residual)) * size.to(U)
        if self.symmetric:
            U = U - D @ U
            return U, U
        return U - D @ V, V - D.mT @ U


def _given(start: Any, shape: Shape, rank: int, A: Operator, symmetric: bool) -> tuple[Tensor, Tensor]:
    parts = (start, start) if symmetric else start
    if not symmetric and (not isinstance(start, tuple | list) or len(start) != 2):
        raise ValueError("start must be a pair (U, V) for a search that is not symmetric")
    found = []
    for part, n in zip(parts, shape, strict=True):
        t, _ = as_tensor(part, "start")
        if tuple(t.shape) != (n, rank):
            raise ValueError(f"start must have shape {(n, rank)}, got {tuple(t.shape)}")
        check_finite(t, "start")
        found.append(t.to(A.device, A.dtype))
    return found[0], found[1]


def _checked(
    A: Operator,
    shape: Shape,
    rank: int,
    symmetric: bool,
    step: str,
    step_size: float,
    decay: float,
    init_scale: float,
    rtol: float | None,
    max_steps: int,
) -> float:
    if symmetric and shape[0] != shape[1]:
        raise ValueError(f"a symmetric search needs a square shape, got {shape}; use symmetric=False")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise ValueError(f"search_rank must be an int from 1 to {min(shape)}, got {rank!r}")
    if step not in ("median", "polyak", "geometric"):
        raise ValueError(f"step must be 'median', 'polyak' or 'geometric', got {step!r}")
    if not 0 < decay < 1:
        raise ValueError(f"decay must lie between 0 and 1, got {decay!r}")
    for name, value in (("step_size", step_size), ("init_scale", init_scale)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be an int of at least 1, got {max_steps!r}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    if rtol is None:
        return 1e-7 if A.dtype == torch.float64 else 1e-4
    return float(rtol)
