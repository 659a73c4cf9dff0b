"""How the maximal initial learning rate and the sharpness of ReLU networks grow with depth times width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from resolvent.operators.arrays import as_tensor


class PowerLaw(NamedTuple):
    """lr = k * (depth * width)^exponent; `r2` is the share of the variance of log lr that it explains."""

    k: float
    exponent: float
    r2: float


class SharpnessBounds(NamedTuple):
    """Between which the mean largest eigenvalue of the Gauss-Newton matrix lies."""

    lower: float
    upper: float


def fit_max_lr(depths: Sequence[float], widths: Sequence[float], lrs: Sequence[float]) -> PowerLaw:
    r"""The power law :math:`\eta = k (\mathrm{depth}\cdot\mathrm{width})^{\beta}` by least squares of the logarithms.

    Parameters
    ----------
    depths, widths, lrs : measured points, at least two with different depth * width

    Returns
    -------
    `PowerLaw`

    References
    ----------
    "Maximal Initial Learning Rates in Deep ReLU Networks"

    Examples
    --------
    >>> fit_max_lr([2, 4, 8], [64, 64, 64], [0.4, 0.2, 0.1]).exponent
    -1.0
    """
    points = [
        as_tensor(list(values), name)[0].double()
        for values, name in ((depths, "depths"), (widths, "widths"), (lrs, "lrs"))
    ]
    if len({tuple(p.shape) for p in points}) != 1 or points[0].ndim != 1:
        raise ValueError(f"depths, widths and lrs must be equally long, got {[tuple(p.shape) for p in points]}")
    if not all(bool((p > 0).all() and torch.isfinite(p).all()) for p in points):
        raise ValueError("depths, widths and lrs must be positive and finite")
    x, y = (points[0] * points[1]).log(), points[2].log()
    dx, dy = x - x.mean(), y - y.mean()
    if float(dx.square().sum()) == 0:
        raise ValueError("depths * widths must differ between the points: there is no law through one size")
    slope = float((dx @ dy) / (dx @ dx))
    total = float(dy @ dy)
    r2 = 1 - float((dy - slope * dx).square().sum()) / total if total else 1.0
    return PowerLaw(math.exp(float(y.mean()) - slope * float(x.mean())), round(slope, 12), r2)


def predict_max_lr(depth: float, width: float, fit: PowerLaw | tuple[float, float]) -> float:
    r"""The maximal initial learning rate of a network of another size, :math:`k (\mathrm{depth}\cdot\mathrm{width})^{\beta}`.

    Parameters
    ----------
    depth, width : of a fully connected ReLU network of constant width
    fit : what `fit_max_lr` found on smaller networks, or (k, exponent). There is no default: k belongs to the data, the threshold and
        the batch.

    Returns
    -------
    float

    References
    ----------
    "Maximal Initial Learning Rates in Deep ReLU Networks"

    Examples
    --------
    >>> round(predict_max_lr(8, 512, (10.0, -0.5)), 4)
    0.1562
    """
    for name, value in (("depth", depth), ("width", width)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value!r}")
    return float(fit[0] * (depth * width) ** fit[1])


def sharpness_bounds(depth: int, width: int, X: Any, outputs: int = 1, *, bias: bool = True) -> SharpnessBounds:
    r"""Bounds of the mean sharpness of a fresh ReLU network under the mean squared error, linear in depth * width.

    With :math:`\Theta` the tangent kernel of one of the C outputs,

    .. math::

        \frac2C \operatorname{mean}_{ij} E\Theta(x_i, x_j) \le E\lambda_1 \le \frac2C \operatorname{mean}_i E\Theta(x_i, x_i), \qquad
        E\Theta(x,x) = |x|^2 + (\mathrm{depth}-1)\,\mathrm{width}\,|x|^2/n_0 \; [+ \mathrm{depth} \text{ with biases}].

    Parameters
    ----------
    depth : number of weight matrices, at least 2
    width : neurons of every hidden layer
    X : (N, n0) inputs
    outputs : C
    bias : whether there are biases (zero at the start, but trained)

    Returns
    -------
    `SharpnessBounds` (lower, upper)

    Notes
    -----
    All weights Gaussian with variance 2 / fan-in. The upper bound is the trace; it holds exactly at any width for one output, and to
    leading order in 1/width for several. The lower bound is the Rayleigh quotient of the vector of ones, by arc-cosine kernels,
    to leading order; for deep networks the two differ by a factor of at most 4. Cost O(N^2 (n0 + depth)). There are no gradients.

    References
    ----------
    "Maximal Initial Learning Rates in Deep ReLU Networks"

    Examples
    --------
    >>> sharpness_bounds(3, 100, torch.eye(4), bias=False).upper
    102.0
    """
    for name, value, least in (("depth", depth, 2), ("width", width, 1), ("outputs", outputs, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    x = as_tensor(X, "X")[0].double()
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"X must have shape (N, n0), got {tuple(x.shape)}")
    inner = x @ x.mT
    size = inner.diagonal().sqrt()
    scale = size[:, None] * size
    cosine = torch.where(scale > 0, inner / scale.clamp_min(torch.finfo(x.dtype).tiny), 0.0).clamp(-1, 1)
    # correlations[l] of the activations below layer l, slopes[l] = 2 E[relu'(z) relu'(z')] in layer l
    correlations, slopes = [cosine], []
    for _ in range(depth - 1):
        angle = torch.acos(correlations[-1])
        slopes.append((math.pi - angle) / math.pi)
        correlations.append((torch.sin(angle) + (math.pi - angle) * correlations[-1]) / math.pi)
    kernel, backward = torch.zeros_like(inner), torch.ones_like(inner)
    for level in reversed(range(depth)):
        energy = scale * correlations[level] * (width / x.shape[1] if level else 1.0)
        kernel += (energy + float(bias)) * backward
        if level:
            backward = backward * slopes[level - 1]
    return SharpnessBounds(2 / outputs * float(kernel.mean()), 2 / outputs * float(kernel.diagonal().mean()))
