"""Deep linear generators: factors W_N ... W_1 whose samples have a given covariance, by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.bures import checked_tau, covariance, loss_and_gradient, spectrum
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator, gaussian

Start = Literal["balanced", "identity", "gaussian"]


@dataclass(frozen=True)
class DeepLinearCovariance:
    """What :func:`deep_linear_covariance` finds.

    Attributes
    ----------
    factors : (W_1, ..., W_N), W_j of shape (widths[j], widths[j - 1])
    product : W_N ... W_1, of shape (m, widths[0])
    losses : (steps + 1,) the loss before every step and at the end
    value : the last loss
    gradient : Frobenius norm of the last gradient in all factors, relative to that of the zero model, see Notes
    balancedness : the largest ``|W_{j+1}^H W_{j+1} - W_j W_j^H|_F``, relative to the largest squared norm of a factor
    margin : the smallest k-th singular value of the product along the way, k the smallest width
    steps : number of steps taken
    """

    factors: tuple[Any, ...]
    product: Any
    losses: Any
    value: float
    gradient: float
    balancedness: float
    margin: float
    steps: int


def deep_linear_covariance(
    S0: Any,
    widths: Sequence[int],
    *,
    tau: float = 0.0,
    init: Start | Sequence[Any] = "balanced",
    lr: float | None = None,
    rtol: float | None = None,
    max_steps: int = 50_000,
    generator: GeneratorLike = None,
) -> DeepLinearCovariance:
    r"""Train :math:`x = W_N \cdots W_1 z`, z standard normal, so that the covariance of x comes near to S0.

    Minimises the squared Bures-Wasserstein distance of S0 and :math:`W W^H + \tau I`, :math:`W = W_N \cdots W_1`, over the
    factors by gradient descent. The minimum is known in closed form, :func:`bures_low_rank`; this is the way there.

    Parameters
    ----------
    S0 : (m, m) Hermitian positive semidefinite
    widths : (d_0, ..., d_N) with d_N = m; the smallest is the bound on the rank
    tau : variance added in every direction, >= 0; with tau > 0 the loss is smooth at a product of lower rank too
    init : "balanced" takes W_j = Q_j D Q_{j-1}^H with random unitary Q_j and k equal singular values; "identity" the
        same with Q_j = I; "gaussian" independent entries; or the factors themselves
    lr : a fixed step; default: the inverse of a bound on the curvature at each point, which never raises the loss much
    rtol : stop when the gradient's norm is below this, relative to that of the zero model;
        default 1e-7 in float64, 1e-4 in float32
    max_steps : bound on the steps
    generator : for the start

    Returns
    -------
    DeepLinearCovariance, its arrays of the kind and dtype of `S0`

    Raises
    ------
    ValueError : bad input; `lr` so large that the loss became infinite; S0 or a factor asks for gradients, of which the
        result has none.
    ConvergenceError : the gradient is not below `rtol` after `max_steps`; carries the best result.

    Notes
    -----
    A step costs one SVD of S0^(1/2) W and 3 N products. The trace of the loss that has the root is minus a nuclear norm,
    concave in W, so its curvature from above is at most 2, and in the factors at most
    :math:`2 \sum_j \prod_{i \ne j} |W_i|^2 + (N - 1) |G| \max \prod |W_i|`; the default step is the inverse. From a
    balanced start the balancedness stays up to O(lr), the margin stays away from zero, and the loss falls linearly.
    Norms of gradients are relative to 2 sqrt(tr S0) times the root of the sum in that bound.

    References
    ----------
    "Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss"

    Examples
    --------
    >>> found = deep_linear_covariance(torch.diag(torch.tensor([4.0, 1.0, 0.25])), (3, 2, 3), generator=0)
    >>> round(found.value, 4), found.losses[0] > found.losses[-1]
    (0.25, tensor(True))
    """
    S, kind = covariance(S0)
    if S.ndim != 2:
        raise ValueError(f"S0 must be one (m, m) matrix, got shape {tuple(S.shape)}")
    if S.requires_grad and torch.is_grad_enabled():
        raise ValueError("S0 asks for gradients, and the way of a descent has none; take bures_low_rank or S0.detach()")
    tau, eps = checked_tau(tau), torch.finfo(S.dtype).eps
    if lr is not None and not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be positive and finite, got {lr}")
    if max_steps < 0:
        raise ValueError(f"max_steps must be >= 0, got {max_steps}")
    rtol = (1e-7 if eps < 1e-10 else 1e-4) if rtol is None else float(rtol)
    shape = _checked_widths(widths, S.shape[-1])
    with torch.no_grad():
        factors = _start(S, shape, init, generator)
        run = _Descent(S, factors, tau, min(shape))
        error = run.descend(lr, rtol, max_steps)
    found = run.result(error, kind)
    if not error <= rtol:
        raise ConvergenceError(
            f"deep_linear_covariance: the gradient is {error:.3g} after {found.steps} steps, asked for {rtol:g}",
            best=found,
            error=error,
        )
    return found


class _Descent:
    """The state of the gradient descent."""

    def __init__(self, S: Tensor, factors: list[Tensor], tau: float, k: int) -> None:
        w, V = spectrum(S)
        self.root = (V * w.sqrt()) @ V.mH
        self.size = math.sqrt(float(w.sum())) or 1.0
        self.S, self.factors, self.tau, self.k = S, factors, tau, k
        self.losses: list[float] = []
        self.margin = math.inf
        # Orthonormal columns do not change the rank that the product has by construction.
        self.rank = None if tau else k

    def descend(self, lr: float | None, rtol: float, max_steps: int) -> float:
        for step in range(max_steps + 1):
            heads, tails = self._partial()
            W = tails[-1]
            if not bool(torch.isfinite(W).all()):
                raise ValueError(f"lr = {lr} is too large: the factors became infinite after {step} steps")
            value, G, _ = loss_and_gradient(self.root, self.S, W, self.tau, self.rank)
            self.losses.append(float(value))
            if not math.isfinite(self.losses[-1]):
                raise ValueError(f"lr = {lr} is too large: the loss became infinite after {step} steps")
            if step % 16 == 0:
                self.margin = min(self.margin, float(torch.linalg.svdvals(W)[self.k - 1]))
            grads = [heads[j].mH @ G @ tails[j].mH for j in range(len(self.factors))]
            bound, spread = self._bounds(G)
            # Squares of a product of factors can leave the range of float32.
            error = math.sqrt(sum(float(g.abs().double().square().sum()) for g in grads)) / (2 * self.size * spread)
            if error <= rtol or step == max_steps:
                break
            rate = lr if lr is not None else 1 / bound
            for factor, g in zip(self.factors, grads, strict=True):
                factor.sub_(g, alpha=rate)
        self.margin = min(self.margin, float(torch.linalg.svdvals(W)[self.k - 1]))
        return error

    def _partial(self) -> tuple[list[Tensor], list[Tensor]]:
        """W_N ... W_{j+1} and W_{j-1} ... W_1 for every j, and the whole product behind the latter."""
        dtype, device = self.S.dtype, self.S.device
        tails = [torch.eye(self.factors[0].shape[1], dtype=dtype, device=device)]
        for factor in self.factors:
            tails.append(factor @ tails[-1])
        heads = [torch.eye(len(self.S), dtype=dtype, device=device)]
        for factor in reversed(self.factors[1:]):
            heads.append(heads[-1] @ factor)
        return heads[::-1], tails

    def _bounds(self, G: Tensor) -> tuple[float, float]:
        """A bound on the curvature from above, and the root of the sum of squared products of all norms but one."""
        norms = [float(torch.linalg.matrix_norm(f, 2)) for f in self.factors]
        n = len(norms)
        others = [math.prod(norms[:j] + norms[j + 1 :]) for j in range(n)]
        spread = math.sqrt(sum(p * p for p in others))
        pairs = [math.prod(norms[:i] + norms[i + 1 : j] + norms[j + 1 :]) for j in range(n) for i in range(j)]
        bend = float(torch.linalg.vector_norm(G)) * (n - 1) * max(pairs, default=0.0)
        return 2 * spread**2 + bend or 1.0, spread or 1.0

    def result(self, error: float, kind: Any) -> DeepLinearCovariance:
        gaps = [
            float(torch.linalg.matrix_norm(b.mH @ b - a @ a.mH))
            for a, b in zip(self.factors, self.factors[1:], strict=False)
        ]
        largest = max(float(f.abs().square().sum()) for f in self.factors) or 1.0
        product = self._partial()[1][-1]
        losses = torch.tensor(self.losses, dtype=self.S.real.dtype if self.S.is_complex() else self.S.dtype)
        factors, product, losses = give_back((tuple(self.factors), product, losses), kind)
        return DeepLinearCovariance(
            factors=factors,
            product=product,
            losses=losses,
            value=self.losses[-1],
            gradient=error,
            balancedness=max(gaps, default=0.0) / largest,
            margin=self.margin,
            steps=len(self.losses) - 1,
        )


def _checked_widths(widths: Sequence[int], m: int) -> tuple[int, ...]:
    shape = tuple(widths)
    if len(shape) < 2 or any(isinstance(d, bool) or not isinstance(d, int) or d < 1 for d in shape):
        raise ValueError(f"widths must be two or more positive ints, got {widths!r}")
    if shape[-1] != m:
        raise ValueError(f"the last of widths must be {m}, the size of S0, got {shape[-1]}")
    return shape


def _start(S: Tensor, shape: tuple[int, ...], init: Any, generator: GeneratorLike) -> list[Tensor]:
    """The factors before the first step, new memory."""
    pairs = list(zip(shape[1:], shape, strict=False))
    if not isinstance(init, str):
        factors = [as_tensor(f, f"init[{j}]")[0].detach().to(S).clone() for j, f in enumerate(init)]
        if [tuple(f.shape) for f in factors] != pairs:
            raise ValueError(f"init must hold factors of shapes {pairs}, got {[tuple(f.shape) for f in factors]}")
        for j, f in enumerate(factors):
            check_finite(f, f"init[{j}]")
        return factors
    g = as_generator(generator)
    depth, k, m = len(pairs), min(shape), len(S)
    # The product then has the mean variance of S0 in its k directions.
    size = (float(S.diagonal().real.sum()) / m) ** (0.5 / depth) or 1.0
    if init == "gaussian":
        return [gaussian(pair, S.dtype, S.device, g) * (size / math.sqrt(pair[1])) for pair in pairs]
    if init not in ("balanced", "identity"):
        raise ValueError(f"init must be 'balanced', 'identity', 'gaussian' or factors, got {init!r}")
    if init == "balanced":
        bases = [torch.linalg.qr(gaussian((d, k), S.dtype, S.device, g)).Q for d in shape]
    else:
        bases = [torch.eye(d, k, dtype=S.dtype, device=S.device) for d in shape]
    return [size * (b @ a.mH) for a, b in pairwise(bases)]
