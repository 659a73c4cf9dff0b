"""Filters of singular values that have the least variance for a bounded bias, and the risk of their estimators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array

Bias = str | float
_NAMES = {"nuclear": 1.0, "frobenius": 2.0, "spectral": math.inf}
_NODES = 4000  # of the quadrature against the Marchenko-Pastur law
_STEPS = 100


class EstimatorRisk(NamedTuple):
    """Mean squared error of an estimator for a random signal.

    Attributes
    ----------
    total : bias + variance
    bias : part of the signal that the estimator misses
    variance : noise that it lets through
    strength : of the filter
    """

    total: float
    bias: float
    variance: float
    strength: float


def schatten_filter(singular_values: Any, bias: Bias = "frobenius", strength: Any = 1.0) -> Any:
    r"""Factors :math:`a_i` of the estimator of least variance, :math:`V \mathrm{diag}(a) U^T` for :math:`X = U S V^T`.

    They minimise :math:`\sum_i a_i^2` for a given Schatten norm of the bias operator, whose singular values are
    :math:`b_i = 1 - a_i s_i`.

    Parameters
    ----------
    singular_values : (..., k), at least 0
    bias : the norm of the bias: "frobenius", "nuclear", "spectral", or the exponent p from 1 to infinity of a Schatten
        norm (2, 1 and infinity for the three names)
    strength : :math:`\alpha \ge 0`, in units of squared singular values; for "spectral", the norm C itself, in [0, 1].
        A number, or a tensor that broadcasts with the singular values

    Returns
    -------
    (..., k) of the kind of the singular values; 0 where they are 0.

    Raises
    ------
    ValueError : negative singular values, an exponent below 1, a strength out of range

    Notes
    -----
    Lagrange's conditions are :math:`\alpha (1 - b) = s^2 b^{p-1}` with b in [0, 1]. Frobenius: :math:`s / (s^2 + \alpha)`,
    ridge regression. Nuclear: :math:`\min(1/s, s/\alpha)`, no bias in strong directions. Spectral: (1 - C) / s, all
    shrink alike. Others: Newton's method in the variable in which the condition is concave, so that it converges from
    above at every start. Strength 0 is least squares (Gauss and Markov). First- and second-order gradients.

    References
    ----------
    "Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem"

    Examples
    --------
    >>> schatten_filter(torch.tensor([2.0, 0.5]), "nuclear", 1.0)
    tensor([0.5000, 0.5000])
    """
    s, kind = as_tensor(singular_values, "singular_values")
    check_finite(s, "singular_values")
    if s.is_complex() or bool((s < 0).any()):
        raise ValueError("singular_values must be real and at least 0")
    p = exponent(bias)
    return give_back_array(factors(s, p, checked_strength(strength, p, s)), kind)


def exponent(bias: Bias) -> float:
    """The exponent of a Schatten norm from its name or itself."""
    if isinstance(bias, str):
        if bias not in _NAMES:
            raise ValueError(f"bias must be one of {', '.join(_NAMES)} or an exponent of at least 1, got {bias!r}")
        return _NAMES[bias]
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not bias >= 1:
        raise ValueError(f"bias must be one of {', '.join(_NAMES)} or an exponent of at least 1, got {bias!r}")
    return float(bias)


def checked_strength(strength: Any, p: float, like: Tensor) -> Tensor:
    """The strength as a tensor of the dtype of `like`."""
    t = strength if isinstance(strength, Tensor) else torch.as_tensor(np.asarray(strength, np.float64))
    t = t.to(like)
    if not bool((t >= 0).all()) or not bool(torch.isfinite(t).all()) or (p == math.inf and bool((t > 1).any())):
        allowed = "lie in [0, 1] for a spectral bias" if p == math.inf else "be finite and at least 0"
        raise ValueError(f"strength must {allowed}, got {strength!r}")
    return t


def factors(s: Tensor, p: float, strength: Tensor) -> Tensor:
    """`schatten_filter` for checked tensors."""
    there = s > 0
    safe = torch.where(there, s, 1)
    if p == math.inf:
        a = (1 - strength) / safe
    elif p == 1:
        a = 1 / torch.maximum(safe, strength / safe)
    elif p == 2:
        a = 1 / (safe + strength / safe)
    else:
        # Beyond the range of the dtype, b is 1 all the same.
        ratio = (strength / safe / safe).clamp(max=torch.finfo(s.dtype).max)
        b = _residual_bias(ratio, p - 1)
        # 1 - b loses its digits where b is near 1; the condition itself gives it there.
        large = ratio > 1
        a = torch.where(large, b ** (p - 1) * (safe / torch.where(large, strength, 1)), (1 - b) / safe)
    return torch.where(there, a, 0)


def _residual_bias(ratio: Tensor, q: float) -> Tensor:
    """b in [0, 1] with ratio (1 - b) = b^q."""
    with torch.no_grad():
        r = ratio.detach()
        # In t = b^min(q, 1), r (1 - t^m) - c(t) is concave and falls: Newton's steps come down from above the root.
        if q < 1:
            m, t = 1 / q, r.clamp(max=1)
        else:
            m, t = q, r.clamp(max=1) ** (1 / q)
        eps = torch.finfo(r.dtype).eps
        for _ in range(_STEPS):
            if q < 1:
                value, slope = r * (1 - t**m) - t, -r * m * t ** (m - 1) - 1
            else:
                value, slope = r * (1 - t) - t**m, -r - m * t ** (m - 1)
            step = torch.where(slope != 0, value / torch.where(slope != 0, slope, 1), 0)
            t = (t - step).clamp(0, 1)
            if bool((step.abs() <= 4 * eps * t).all()):
                break
        b = t**m if q < 1 else t
    if not ratio.requires_grad:
        return b
    # Steps that are recorded: one has the first derivative of the implicit function, two have the second.
    positive = b > 0
    for _ in range(2):
        inside = torch.where(positive, b, 1)
        slope = torch.where(positive, ratio + q * inside ** (q - 1), 1)
        b = b + torch.where(positive, (ratio * (1 - inside) - inside**q) / slope, 0)
    return b


def estimator_risk(
    singular_values: Any,
    bias: Bias | Callable[[Any], Any] = "frobenius",
    strength: float = 1.0,
    *,
    signal: float = 1.0,
    noise: float = 1.0,
    dim: int | None = None,
) -> EstimatorRisk:
    r"""Mean squared error :math:`E|L y - \beta|^2` of a linear estimator for :math:`y = X \beta + \epsilon`.

    Parameters
    ----------
    singular_values : (k,) of X
    bias : see `schatten_filter`, or a function from singular values to their factors
    strength : see `schatten_filter`
    signal : r of an isotropic prior with :math:`E|\beta|^2 = r^2`
    noise : standard deviation of the noise
    dim : length d of beta; default k

    Returns
    -------
    EstimatorRisk : with :math:`(r^2/d) (\sum_i (1 - a_i s_i)^2 + d - k) + \sigma^2 \sum_i a_i^2` as its total. The error
        of a prediction for an isotropic x, with its noise, is total + noise**2.

    Raises
    ------
    ValueError : see `schatten_filter`; dim below k

    References
    ----------
    "Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem"

    Examples
    --------
    >>> estimator_risk([2.0, 1.0], strength=0.0, noise=1.0).total
    1.25
    """
    s, _ = as_tensor(singular_values, "singular_values")
    if s.ndim != 1:
        raise ValueError(f"singular_values must have shape (k,), got {tuple(s.shape)}")
    s = s.detach().double()
    a = torch.as_tensor(bias(s)) if callable(bias) else schatten_filter(s, bias, strength)
    d = len(s) if dim is None else dim
    if d < len(s):
        raise ValueError(f"dim must be at least the number of singular values, {len(s)}, got {d}")
    missed = float(((1 - a * s) ** 2).sum()) + d - len(s)
    return _risk(signal**2 / d * missed if d else 0.0, noise**2 * float((a**2).sum()), strength)


def _risk(bias: float, variance: float, strength: float) -> EstimatorRisk:
    return EstimatorRisk(bias + variance, bias, variance, float(strength))


def estimator_risk_limit(
    aspect: float,
    bias: Bias = "frobenius",
    strength: float | None = None,
    *,
    signal: float = 1.0,
    noise: float = 1.0,
) -> EstimatorRisk:
    r"""Limit of `estimator_risk` for n rows of d independent entries of variance 1, :math:`d/n \to` aspect.

    Parameters
    ----------
    aspect : d / n, positive
    bias : see `schatten_filter`
    strength : in units of n, so that the filter is that of strength n times as large; for "spectral", C. None takes the
        best one
    signal, noise : r and sigma, see `estimator_risk`

    Returns
    -------
    EstimatorRisk

    Raises
    ------
    ValueError : an aspect that is not positive, a strength out of range

    Notes
    -----
    The filter is integrated against the Marchenko-Pastur law by the trapezoidal rule in the angle, in which the density
    is smooth; the kink of the nuclear filter leaves an error of some 1e-7. Strength None: bounded search in its
    logarithm. Least squares has an infinite variance at aspect 1.

    References
    ----------
    "Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem"

    Examples
    --------
    >>> round(estimator_risk_limit(0.5, strength=0.0).total, 4)  # aspect / (1 - aspect)
    1.0
    """
    if not aspect > 0 or not math.isfinite(aspect):
        raise ValueError(f"aspect must be positive, got {aspect!r}")
    p = exponent(bias)
    theta = (torch.arange(_NODES, dtype=torch.float64) + 0.5) * (math.pi / _NODES)
    half = 2 * math.sqrt(aspect)
    x = (1 - math.sqrt(aspect)) ** 2 + half * (1 + theta.cos())
    weight = (half * theta.sin()) ** 2 / (2 * math.pi * aspect * x) * (math.pi / _NODES)
    atom = max(0.0, 1 - 1 / aspect)
    s = x.sqrt()

    def risk(alpha: float) -> EstimatorRisk:
        a = factors(s, p, checked_strength(alpha, p, s))
        missed = float((weight * (1 - a * s) ** 2).sum()) + atom
        return _risk(signal**2 * missed, noise**2 * aspect * float((weight * a * a).sum()), alpha)

    if strength is not None:
        return risk(strength)
    from scipy.optimize import minimize_scalar

    if p == math.inf:
        # (1 - C) is the slope of a quadratic: signal / (signal + variance of least squares).
        kept, most = signal**2 * (1 - atom), risk(0.0).variance
        return risk(most / (kept + most) if most else 0.0)
    grid = np.linspace(-18, 18, 73)
    start = int(np.argmin([risk(math.exp(g)).total for g in grid]))
    inside = (grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)])
    found = minimize_scalar(lambda g: risk(math.exp(g)).total, bounds=inside, method="bounded", options={"xatol": 1e-6})
    return risk(math.exp(float(found.x)))
