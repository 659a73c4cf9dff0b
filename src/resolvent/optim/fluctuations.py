"""How much a random network differs from its infinitely wide limit, by depth: theory to first order in 1/width, and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from resolvent.optim.criticality import Activation, Critical, Expectations, critical, derivative
from resolvent.random import GeneratorLike, as_generator

Weights = Literal["gaussian", "orthogonal"]


@dataclass(frozen=True)
class Fluctuations:
    r"""What theory says of the layers 1 to depth, to first order in 1/width.

    Attributes
    ----------
    kernel : (depth,) K, the mean square of a preactivation at infinite width
    four_point : (depth,) :math:`V/K^2`, where :math:`V/n` is the covariance of the squares of two neurons
    variance : (depth,) the variance of :math:`|z|^2/n` over its squared mean, :math:`(2 + V/K^2)/n`
    ntk : (depth,) a diagonal entry of the neural tangent kernel at infinite width

    Examples
    --------
    >>> depth_fluctuations("linear", "gaussian", width=10, depth=3).four_point
    tensor([0., 2., 4.], dtype=torch.float64)
    """

    kernel: Tensor
    four_point: Tensor
    variance: Tensor
    ntk: Tensor


@dataclass(frozen=True)
class Sampled:
    """Estimates from samples of networks; every `*_error` is one standard error.

    Attributes
    ----------
    kernel, kernel_error : (depth,) mean of |z|^2/n
    four_point, four_point_error : (depth,) V/K^2 = n * variance - 2
    variance, variance_error : (depth,) variance of |z|^2/n over its squared mean
    depths : (k,) the depths at which the tangent kernel was measured
    ntk, ntk_error : (k,) mean of a diagonal entry of the tangent kernel
    ntk_variance, ntk_variance_error : (k,) its variance over its squared mean

    Examples
    --------
    >>> found = empirical_fluctuations("linear", "orthogonal", width=10, depth=3, draws=50, generator=0)
    >>> bool(found.variance.max() < 1e-28)
    True
    """

    kernel: Tensor
    kernel_error: Tensor
    four_point: Tensor
    four_point_error: Tensor
    variance: Tensor
    variance_error: Tensor
    depths: Tensor
    ntk: Tensor
    ntk_error: Tensor
    ntk_variance: Tensor
    ntk_variance_error: Tensor


def depth_fluctuations(
    activation: Activation = "tanh",
    weights: Weights = "orthogonal",
    *,
    width: int,
    depth: int,
    K0: float = 1.0,
) -> Fluctuations:
    r"""The kernel, the four-point vertex and the tangent kernel of a critical random network, layer by layer.

    With :math:`\langle\cdot\rangle` the mean over :math:`z\sim N(0, K)` and :math:`\chi = C_W\, d\langle\sigma^2\rangle/dK`,

    .. math::

        K' = C_W \langle\sigma^2\rangle, \qquad
        V' = \chi^2 V + C_W^2 \big(\langle\sigma^4\rangle - \langle\sigma^2\rangle^2\big)
             \;\big[- 2 C_W^2 \langle\sigma^2\rangle^2 \text{ for orthogonal weights}\big].

    Parameters
    ----------
    activation : as in `orthogonal_critical_`; it decides C_W
    weights : "gaussian", or "orthogonal": uniform orthogonal matrices times sqrt(C_W)
    width : n, neurons of every layer; only `variance` depends on it
    depth : number of layers, at least 1
    K0 : mean square of the first layer's preactivations, for one input

    Returns
    -------
    `Fluctuations` with tensors of shape (depth,), float64.

    Notes
    -----
    The extra term is the Weingarten function of the orthogonal group at order 1/n. Given :math:`s = \sigma(z)`, the next preactivation is
    uniform on the sphere of radius :math:`\sqrt{C_W} |s|`, so the covariance of two squared entries is that of the radius less
    :math:`2K^2/n`. For tanh Gaussian weights give :math:`V/K^2 \to \tfrac23 l`. Orthogonal ones give :math:`V/K^2 \to -2`, which does not depend on the depth,
    and the fluctuation of the norm, :math:`2 + V/K^2`, falls as :math:`8/(3l)`. For ReLU the two are :math:`5 l` and :math:`3 l`: orthogonal weights
    grow as well. V starts at 0 and at :math:`-2K^2`: the first layer keeps the norm of the input where it has at least as
    many outputs as inputs. Biases are zero, and the tangent kernel is that of weights whose learning rate is 1/n. Means by
    quadrature, accurate to rounding; the error of the theory is :math:`O((l/n)^2)`. There are no gradients.

    References
    ----------
    "Feature Learning and Generalization in Deep Networks with Orthogonal Weights"

    Examples
    --------
    >>> depth_fluctuations("tanh", "gaussian", width=64, depth=200).four_point[-1].round()
    tensor(131., dtype=torch.float64)
    >>> depth_fluctuations("tanh", "orthogonal", width=64, depth=200).four_point[[20, 60, 199]].round(decimals=2)
    tensor([-1.9100, -1.9600, -1.9900], dtype=torch.float64)
    """
    known = _check(activation, weights, width, depth, K0)
    mean_of = Expectations(known.sigma)
    C_W, K, orthogonal = known.C_W, float(K0), weights == "orthogonal"
    # n Var(|z|^2/n) is followed, not V: for orthogonal weights V is its small difference to -2 K^2.
    spread, ntk = (0.0 if orthogonal else 2 * K * K), K / C_W
    rows = []
    for _ in range(depth):
        rows.append((K, spread / K**2 - 2, spread / K**2 / width, ntk))
        mean, variance, slope = mean_of.sigma2(K)
        below, chi = K, C_W * slope
        K = C_W * mean
        if orthogonal:
            spread = chi**2 * (spread - 2 * below**2) + C_W**2 * variance
        else:
            spread = chi**2 * (spread - 2 * below**2) + C_W**2 * variance + 2 * K**2
        ntk = mean + C_W * mean_of.slope2(below) * ntk
    kernel, four_point, variance_, tangent = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return Fluctuations(kernel, four_point, variance_, tangent)


def empirical_fluctuations(
    activation: Activation = "tanh",
    weights: Weights = "orthogonal",
    *,
    width: int,
    depth: int,
    K0: float = 1.0,
    draws: int = 2000,
    ntk: Sequence[int] = (),
    generator: GeneratorLike = None,
) -> Sampled:
    r"""What `depth_fluctuations` predicts, measured on random networks of finite width, with standard errors.

    Parameters
    ----------
    activation, weights, width, depth, K0 : as in `depth_fluctuations`
    draws : number of networks, at least 2
    ntk : the depths at which a diagonal entry of the tangent kernel of one output neuron is measured, each at most `depth`
    generator : a generator, a seed or None

    Returns
    -------
    `Sampled`

    Notes
    -----
    No matrix is drawn. For Haar matrices Q, the product Qs is uniform on the sphere of radius abs(s), and given it,
    :math:`Q^T\delta` is uniform on a sphere orthogonal to s beside its known component along s; Gaussian matrices have the same property with
    Gaussian vectors. So forward and backward passes have exactly the law of a network's at a cost of O(draws * width) per layer;
    a tangent kernel at depth L takes L such steps. Standard errors by the influence function. There are no gradients.

    References
    ----------
    "Feature Learning and Generalization in Deep Networks with Orthogonal Weights"

    Examples
    --------
    >>> found = empirical_fluctuations("tanh", "gaussian", width=64, depth=10, draws=4000, generator=0)
    >>> theory = depth_fluctuations("tanh", "gaussian", width=64, depth=10)
    >>> bool((found.variance - theory.variance).abs().max() < 0.1 * theory.variance.max())
    True
    """
    known = _check(activation, weights, width, depth, K0)
    for name, value, least in (("draws", draws, 2), *(("ntk", level, 1) for level in ntk)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    if any(level > depth for level in ntk):
        raise ValueError(f"ntk must hold depths of at most {depth}, got {list(ntk)}")
    g = as_generator(generator)
    walk = _Walk(known, weights == "orthogonal", width, K0, g)
    x = torch.full((draws,), float(K0) / known.C_W, dtype=torch.float64, device=g.device)
    layers: list[Tensor] = []
    norms, tangents = [], []
    for level in range(1, depth + 1):
        layers.append(walk.forward(layers[-1] if layers else None, x))
        norms.append(layers[-1].square().mean(1))
        if level in ntk:
            tangents.append(walk.tangent(layers, x))
        if not ntk:
            layers = layers[-1:]
    kernel, kernel_error, variance, variance_error = _moments(torch.stack(norms))
    empty = torch.empty(0, draws, dtype=torch.float64, device=g.device)
    theta, theta_error, spread, spread_error = _moments(torch.stack(tangents) if tangents else empty)
    return Sampled(
        kernel, kernel_error, width * variance - 2, width * variance_error, variance, variance_error,
        torch.tensor(sorted(set(ntk)), dtype=torch.int64), theta, theta_error, spread, spread_error,
    )  # fmt: skip


class _Walk:
    """Forward and backward passes with the law of a random network, without its matrices."""

    def __init__(self, known: Critical, orthogonal: bool, width: int, K0: float, g: torch.Generator) -> None:
        self.sigma, self.C_W, self.K0 = known.sigma, known.C_W, K0
        self.orthogonal, self.width, self.generator = orthogonal, width, g

    def _normal(self, draws: int) -> Tensor:
        shape = (draws, self.width)
        return torch.randn(shape, dtype=torch.float64, device=self.generator.device, generator=self.generator)

    def forward(self, z: Tensor | None, x: Tensor) -> Tensor:
        """The next layer's preactivations, of the layer below or of the input with mean square x."""
        noise = self._normal(len(x))
        below = x if z is None else self.sigma(z).square().mean(1)
        radius = (self.C_W * below).sqrt()[:, None]
        if not self.orthogonal:
            return radius * noise
        return radius * math.sqrt(self.width) * noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)

    def tangent(self, layers: list[Tensor], x: Tensor) -> Tensor:
        """The tangent kernel of the last layer's first neuron for every draw."""
        draws = len(x)
        delta = torch.zeros(draws, self.width, dtype=torch.float64, device=x.device)
        delta[:, 0] = 1
        total = torch.zeros_like(x)
        for level in range(len(layers) - 1, 0, -1):
            z, below = layers[level], layers[level - 1]
            s = self.sigma(below)
            total += s.square().mean(1) * delta.square().sum(1)
            delta = self._backward(delta, z, s) * derivative(self.sigma, below)
        return total + x * delta.square().sum(1)

    def _backward(self, delta: Tensor, z: Tensor, s: Tensor) -> Tensor:
        """W^T delta, given that W s = z."""
        length = torch.linalg.vector_norm(s, dim=1, keepdim=True)
        length = torch.where(length > 0, length, 1.0)  # all ReLU of a narrow layer may be dead
        along = s / length
        noise = self._normal(len(s))
        noise = noise - along * (noise * along).sum(1, keepdim=True)
        known = along * (delta * z).sum(1, keepdim=True) / length
        if not self.orthogonal:
            return known + noise * torch.linalg.vector_norm(delta, dim=1, keepdim=True) * math.sqrt(
                self.C_W / self.width
            )
        rest = self.C_W * delta.square().sum(1, keepdim=True) - known.square().sum(1, keepdim=True)
        return known + noise * (rest.clamp_min(0).sqrt() / torch.linalg.vector_norm(noise, dim=1, keepdim=True))


def _moments(q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and normalised variance of every row, with their standard errors."""
    draws = q.shape[1]
    mean = q.mean(1)
    deviation = q / mean[:, None] - 1
    variance = deviation.square().sum(1) / (draws - 1)
    influence = deviation.square() - variance[:, None] - 2 * variance[:, None] * deviation
    error = mean * (variance / draws).sqrt()
    return mean, error, variance, influence.square().mean(1).sqrt() / math.sqrt(draws)


def _check(activation: Activation, weights: str, width: int, depth: int, K0: float) -> Critical:
    if weights not in ("gaussian", "orthogonal"):
        raise ValueError(f"weights must be 'gaussian' or 'orthogonal', got {weights!r}")
    for name, value, least in (("width", width, 2), ("depth", depth, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    if isinstance(K0, bool) or not isinstance(K0, int | float) or not 0 < K0 < math.inf:
        raise ValueError(f"K0 must be a positive number, got {K0!r}")
    return critical(activation)
