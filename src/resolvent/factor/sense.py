"""A low-rank matrix from isotropic measurements by gradient descent on its factors, and how fast that converges."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.measurements import Shape, check_measure, check_measured
from resolvent.info import Info
from resolvent.operators import LowRank, Operator
from resolvent.operators.arrays import as_tensor
from resolvent.operators.gradient import records
from resolvent.operators.magnitude import power_of_two
from resolvent.random import GeneratorLike, as_generator, gaussian

# Steps between two looks at the loss.
_LOOK = 16


@dataclass(frozen=True)
class SensingInfo(Info):
    """`Info` of :func:`sense` with its trajectory.

    Attributes
    ----------
    loss : (steps,) the misfit ``||A(F G^T) - y||^2 / ||y||^2`` before every step
    looks : (l,) the steps at which the next two were noted
    imbalance : (l,) ``||F^T F - G^T G||_F``
    values : (l, k) singular values of F, descending
    rebalanced_at : the step of the rebalancing, or None
    """

    loss: Any = None
    looks: list[int] = field(default_factory=list)
    imbalance: Any = None
    values: Any = None
    rebalanced_at: int | None = None


class RateFit(NamedTuple):
    """Of :func:`rate_fit`.

    Attributes
    ----------
    kind : "geometric" or "polynomial", what fits better
    rate : c of ``loss ~ exp(-c t)``
    exponent : a of ``loss ~ t^a``
    misfit : the root mean square errors of log(loss) under both, geometric first
    """

    kind: str
    rate: float
    exponent: float
    misfit: tuple[float, float]


def sense(
    measure: Any,
    y: Any,
    shape: Shape,
    search_rank: int,
    *,
    param: Literal["asymmetric", "symmetric"] = "asymmetric",
    imbalance: float = 1 / 3,
    init_scale: float = 0.5,
    rebalance: float | None = 0.1,
    beta: float | None = None,
    step_size: float = 0.25,
    rtol: float | None = None,
    max_steps: int = 100_000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""The low-rank matrix behind linear measurements, by gradient descent on
    :math:`f(F, G) = \tfrac12 \|\mathcal A(F G^T) - y\|^2`.

    Parameters
    ----------
    measure : (m, n1 n2) operator on the entries of a matrix row by row, isotropic: :math:`\|\mathcal A(X)\|^2` is near
        :math:`\|X\|_F^2` for X of low rank
    y : (m,)
    shape : (n1, n2)
    search_rank : k, the columns of F and G, at least the rank of the matrix
    param : "symmetric" descends in X of X X^T instead, for positive semidefinite matrices
    imbalance : the first G is this much smaller than the first F; not needed by "symmetric"
    init_scale : alpha; the first F is alpha times a matrix of normal entries of variance 1 / n1, in units of the root of
        the size of the matrix
    rebalance : once the relative misfit is below this, F G^T is written as beta A times (beta^-1 G') with orthonormal A;
        None for plain descent. Not for "symmetric"
    beta : default the root of the size of the matrix
    step_size : of the steps, times the size of the matrix
    rtol : bound on :math:`\|\mathcal A(F G^T) - y\| / \|y\|`; default 1e-8 in float64, 1e-4 in float32
    max_steps : at most
    generator : randomness of the first factors
    return_info : also return a `SensingInfo` with the trajectory

    Returns
    -------
    LowRank : F G^T, or X X^T; NumPy for NumPy

    Raises
    ------
    ValueError : sizes that do not match, an argument out of range, or a gradient is wanted: there is none.
    ConvergenceError : `rtol` was not reached in `max_steps`, or the steps grew without bound (then without `best`).

    Notes
    -----
    Two products with `measure` a step. With k above the rank, the squared error of "symmetric" decreases as 1 / t^2
    only. "asymmetric" is linear, as exp(-c alpha^2 t): F^T F - G^T G hardly changes, and keeps the smallest singular
    value of F above c alpha. The rebalancing lifts that value to beta, and the rate no longer depends on alpha. The size
    of the matrix is taken as the 2-norm of A^T y. Not differentiable.

    References
    ----------
    "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization"

    Examples
    --------
    >>> x = torch.arange(4.0).double()
    >>> y = torch.outer(x, x).flatten()
    >>> X = sense(torch.eye(16).double(), y, (4, 4), 2, generator=0)
    >>> bool(torch.dist(X.to_dense().flatten(), y) < 1e-6)
    True
    """
    A = check_measure(measure, shape)
    target = check_measured(y, A)
    if records(A) or (isinstance(y, Tensor) and y.requires_grad):
        raise ValueError("sense has no gradient: detach measure and y")
    symmetric = param == "symmetric"
    options = {"imbalance": imbalance, "init_scale": init_scale, "step_size": step_size}
    rtol = _checked(A, shape, search_rank, param, options, rebalance, beta, rtol, max_steps)
    with torch.no_grad():
        A = A.detach()
        # Squares of the measurements must stay within the range of their dtype; the factors carry the root.
        root = power_of_two(math.sqrt(float(target.abs().max())))
        target = target / root**2
        size = torch.linalg.matrix_norm(A.H._matmul(target[:, None]).reshape(shape), 2)
        source = as_generator(generator, A.device)
        F = gaussian((shape[0], search_rank), A.dtype, A.device, source) * (init_scale * (size / shape[0]).sqrt())
        G = F
        if not symmetric:
            G = gaussian((shape[1], search_rank), A.dtype, A.device, source)
            G = G * (imbalance * init_scale * (size / shape[1]).sqrt())
        descent = _Descent(A, target, symmetric, step_size / size)
        at = None if symmetric else rebalance
        F, G = descent.run(F, G, rtol, max_steps, at, size.sqrt() if beta is None else beta / root, return_info)
    if not math.isfinite(descent.error):
        raise ConvergenceError(
            f"sense: the steps grew without bound; step_size={step_size} is too large, or measure is not isotropic"
        )
    F, G = F * root, G * root
    result = LowRank(F) if symmetric else LowRank(F, V=G)
    result.kind = A.kind
    info = descent.info(f"gradient descent, {param}", rtol, root)
    if not info.converged:
        message = f"sense: misfit {info.error:.2g} after {info.iterations} steps, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=result, error=info.error, info=info)
    return (result, info) if return_info else result


class _Descent:
    """Steps of gradient descent and what is noted of them."""

    def __init__(self, A: Operator, y: Tensor, symmetric: bool, step: Tensor) -> None:
        self.A, self.y, self.symmetric, self.step = A, y, symmetric, step
        self.adjoint = A.H
        self.looks: list[int] = []
        self.noted: list[tuple[Tensor, Tensor]] = []
        self.rebalanced_at: int | None = None
        self.loss = y.new_empty(0)
        self.error = math.inf

    def run(
        self, F: Tensor, G: Tensor, rtol: float, most: int, rebalance: float | None, beta: Any, note: bool
    ) -> tuple[Tensor, Tensor]:
        loss = self.y.new_empty(most + 1)
        scale = (self.y @ self.y).reciprocal()
        shape = (F.shape[0], G.shape[0])
        for t in range(most + 1):
            residual = self.A._matmul((F @ G.mT).reshape(-1, 1))
            loss[t] = torch.linalg.vector_norm(residual[:, 0] - self.y).square() * scale
            self.loss = loss[: t + 1]
            if t % _LOOK == 0 or t == most:
                # A product or its square may leave the range of the numbers; that is seen as NaN or infinity.
                self.error = math.sqrt(float(loss[t]))
                if note:
                    self._note(F, G, t)
                if self.error <= rtol or not math.isfinite(self.error) or t == most:
                    break
                if rebalance is not None and self.rebalanced_at is None and self.error <= rebalance:
                    F, G = _rebalanced(F, G, beta)
                    self.rebalanced_at = t
            D = self.adjoint._matmul(residual - self.y[:, None]).reshape(shape) * self.step
            if self.symmetric:
                F = F - (D + D.mT) @ F / 2
                G = F
            else:
                F, G = F - D @ G, G - D.mT @ F
        return F, G

    def _note(self, F: Tensor, G: Tensor, t: int) -> None:
        self.looks.append(t)
        self.noted.append((torch.linalg.matrix_norm(F.mT @ F - G.mT @ G), torch.linalg.svdvals(F)))

    def info(self, method: str, rtol: float, root: float) -> SensingInfo:
        below = (self.loss <= rtol * rtol).nonzero()
        steps = int(below[0]) if len(below) else len(self.loss) - 1
        met = self.error <= rtol
        many = {}
        if self.noted:
            many = {
                "imbalance": torch.stack([a for a, _ in self.noted]) * root**2,
                "values": torch.stack([b for _, b in self.noted]) * root,
            }
        return SensingInfo(
            method, 2 * (len(self.loss) - 1), steps, self.error, met, self.loss, self.looks,
            rebalanced_at=self.rebalanced_at, **many,
        )  # fmt: skip


def _rebalanced(F: Tensor, G: Tensor, beta: Any) -> tuple[Tensor, Tensor]:
    """The same product with the columns of the left factor orthogonal and of length beta."""
    left, s, right = torch.linalg.svd(F, full_matrices=False)
    return left * beta, (G @ right.mT) * (s / beta)


def rate_fit(loss: Any, start: int = 0, stop: int | None = None) -> RateFit:
    r"""Whether a loss decreases geometrically, as :math:`e^{-ct}`, or polynomially, as :math:`t^a`.

    Parameters
    ----------
    loss : (T,) positive losses, one a step
    start, stop : the steps that count, ``start <= t < stop``

    Returns
    -------
    RateFit

    Raises
    ------
    ValueError : fewer than 8 steps, or a loss that is not positive.

    Notes
    -----
    Least squares of log(loss) against t and against log t, at 200 steps at most that are spaced evenly in log t, so
    that late steps do not outweigh the early ones.

    References
    ----------
    "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization"

    Examples
    --------
    >>> fit = rate_fit([1 / t**2 for t in range(1, 1000)])
    >>> fit.kind, round(fit.exponent, 2)
    ('polynomial', -2.0)
    """
    values = as_tensor(loss, "loss")[0].detach().double().cpu().numpy()
    if values.ndim != 1:
        raise ValueError(f"loss must have shape (T,), got {values.shape}")
    stop = len(values) if stop is None else min(stop, len(values))
    if start < 0 or stop - start < 8:
        raise ValueError(f"at least 8 steps are needed between start={start} and stop={stop}")
    # The step before the first is step 1 of the power law.
    t = np.unique(np.geomspace(start + 1, stop, 200).astype(np.int64))
    kept = values[t - 1]
    if not (kept > 0).all() or not np.isfinite(kept).all():
        raise ValueError("loss must be positive and finite at the steps that count")
    target = np.log(kept)
    found = []
    for x in (t.astype(float), np.log(t)):
        slope, offset = np.polyfit(x, target, 1)
        found.append((float(slope), float(np.sqrt(np.mean((target - slope * x - offset) ** 2)))))
    (rate, geometric), (exponent, polynomial) = found
    kind = "geometric" if geometric < polynomial else "polynomial"
    return RateFit(kind, -rate, exponent, (geometric, polynomial))


def _checked(
    A: Operator,
    shape: Shape,
    rank: int,
    param: str,
    options: dict[str, float],
    rebalance: float | None,
    beta: float | None,
    rtol: float | None,
    max_steps: int,
) -> float:
    if param not in ("asymmetric", "symmetric"):
        raise ValueError(f"param must be 'asymmetric' or 'symmetric', got {param!r}")
    if param == "symmetric" and shape[0] != shape[1]:
        raise ValueError(f"a symmetric search needs a square shape, got {shape}; use param='asymmetric'")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise ValueError(f"search_rank must be an int from 1 to {min(shape)}, got {rank!r}")
    options = (
        options | ({} if rebalance is None else {"rebalance": rebalance}) | ({} if beta is None else {"beta": beta})
    )
    for name, value in options.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be an int of at least 1, got {max_steps!r}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    if rtol is None:
        return 1e-8 if A.dtype == torch.float64 else 1e-4
    return float(rtol)
