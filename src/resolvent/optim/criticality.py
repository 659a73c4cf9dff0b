"""Weights with orthonormal rows or columns at the edge between signals that die out and signals that explode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resolvent.optim.haar import LAYERS, check_layers, orthogonal_layers_
from resolvent.random import GeneratorLike

Activation = str | Callable[[Tensor], Tensor]

_NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "erf": torch.erf,
    "arctan": torch.arctan,
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "linear": lambda z: z,
}


class Expectations:
    r"""Means of functions of :math:`z \sim N(0, K)`, exact to rounding for functions that are smooth but at zero.

    Gauss-Legendre panels on both sides of zero, so that the kinks of ReLU cost no accuracy.
    """

    def __init__(self, sigma: Callable[[Tensor], Tensor]) -> None:
        self._sigma = sigma
        nodes, weights = _legendre(24)
        edges = torch.linspace(0, 13, 27, dtype=torch.float64)
        half = (edges[1:] - edges[:-1]) / 2
        z = (edges[:-1, None] + half[:, None] * (nodes + 1)).reshape(-1)
        w = (half[:, None] * weights).reshape(-1) * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        self._z, self._w = torch.cat([-z, z]), torch.cat([w, w])

    def sigma2(self, K: float) -> tuple[float, float, float]:
        """The mean of sigma^2, its variance, and the derivative of the mean in K."""
        y = self._z * math.sqrt(K)
        f = self._sigma(y).square()
        mean = float(self._w @ f)
        variance = float(self._w @ (f - mean).square())
        # Stein's identity: no derivative of sigma is needed.
        slope = float(self._w @ ((f - mean) * (self._z.square() - 1))) / (2 * K)
        return mean, variance, slope

    def slope2(self, K: float) -> float:
        """The mean of sigma'^2."""
        return float(self._w @ derivative(self._sigma, self._z * math.sqrt(K)).square())


def _legendre(count: int) -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def derivative(sigma: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """sigma' at every entry of z."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(sigma(z).sum(), z)
    return slope


class Critical(NamedTuple):
    """An activation and the variance of weights at which it is critical."""

    sigma: Callable[[Tensor], Tensor]
    C_W: float
    scale_invariant: bool


def critical(activation: Activation) -> Critical:
    """The critical weight variance: fan-in times the variance of a weight."""
    if isinstance(activation, str):
        if activation not in _NAMED:
            raise ValueError(f"activation must be callable or one of {', '.join(_NAMED)}, got {activation!r}")
        sigma = _NAMED[activation]
    elif callable(activation):
        sigma = activation
    else:
        raise TypeError(f"activation must be a name or callable, got {type(activation).__name__}")
    points = torch.tensor([-2.0, -0.7, 0.0, 0.4, 1.5], dtype=torch.float64)
    at: Any = sigma(points)
    if not isinstance(at, Tensor) or at.shape != points.shape or not bool(torch.isfinite(at).all()):
        raise ValueError("activation must act on every entry of a tensor and stay finite")
    if bool(torch.allclose(sigma(3 * points), 3 * at, rtol=1e-9, atol=1e-12)):
        mean = Expectations(sigma).sigma2(1.0)[0]
        if mean <= 0:
            raise ValueError("activation is zero everywhere")
        return Critical(sigma, 1 / mean, True)
    slope = float(derivative(sigma, points[2:3]))
    if abs(float(at[2])) > 1e-12 or slope == 0:
        raise ValueError(
            f"activation must be zero at zero with a slope, or scale-invariant, got {float(at[2]):.3g} with slope {slope:.3g}: "
            "it has no critical point without biases"
        )
    C_W = slope**-2
    if any(C_W * Expectations(sigma).sigma2(K)[0] > K for K in (1e-3, 1e-2, 1e-1)):
        raise ValueError("activation grows faster than linearly near zero: its critical point at zero is not stable")
    return Critical(sigma, C_W, False)


def orthogonal_critical_(
    model: nn.Module,
    activation: Activation = "tanh",
    C_b: float = 0.0,
    *,
    modules: tuple[type[nn.Module], ...] = LAYERS,
    generator: GeneratorLike = None,
) -> None:
    r"""Fill the weights with scaled random orthogonal matrices at criticality, in place.

    :math:`W = \sqrt{C_W \max(1, m/n)}\; Q` for a layer of m outputs and n inputs, Q uniform among the matrices with orthonormal rows
    or columns. :math:`C_W = 1/\sigma'(0)^2` for activations like tanh and sin, :math:`1/\langle\sigma^2\rangle_{K=1}` for scale-invariant ones
    (2 for ReLU).

    Parameters
    ----------
    model : any module
    activation : "tanh", "sin", "erf", "arctan", "relu", "leaky_relu" (slope 0.01), "linear", or an elementwise function of a tensor
    C_b : variance of the biases, at least 0; criticality is at 0
    modules : the kinds of layers; a convolution counts as a matrix from (channels x kernel) of each group
    generator : of the CPU

    Raises
    ------
    ValueError : an activation without a critical point at zero (GELU, sigmoid), no layer found, C_b < 0.

    Notes
    -----
    One QR factorisation per layer, in float64 on the CPU, cost O(m n min(m, n)). What orthogonal weights change against Gaussian ones
    of the same variance is told by `depth_fluctuations`. There are no gradients.

    References
    ----------
    "Feature Learning and Generalization in Deep Networks with Orthogonal Weights"

    Examples
    --------
    >>> layer = nn.Linear(4, 4)
    >>> orthogonal_critical_(layer, "relu", generator=0)
    >>> (layer.weight @ layer.weight.T).round(decimals=4).diagonal()
    tensor([2., 2., 2., 2.], grad_fn=<DiagonalBackward0>)
    """
    if isinstance(C_b, bool) or not isinstance(C_b, int | float) or not 0 <= C_b < math.inf:
        raise ValueError(f"C_b must be a variance, at least 0, got {C_b!r}")
    scale = math.sqrt(critical(activation).C_W)
    layers = [module for _, module in check_layers(model, modules)]
    orthogonal_layers_(layers, generator, scale=scale, bias_std=math.sqrt(C_b), keep_variance=True)
