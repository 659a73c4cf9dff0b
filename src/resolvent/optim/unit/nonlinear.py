"""Nonlinearities with unit scale: each with a model of how large its output is, as a function of its multiplier."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from resolvent.optim.unit.scale import backward_scale, between, positive, scale

# The root mean square of a rectified unit normal number is 1/sqrt(2); its standard deviation the root of (1 - 1/pi)/2.
_RECTIFIED = (2 / (1 - 1 / math.pi)) ** 0.5


def gelu(x: Tensor, mult: float = 1.0, constraint: str | None = "to_output_scale") -> Tensor:
    r"""GELU of unit scale, :math:`s\,\mathrm{gelu}(\alpha x)/\alpha`.

    Parameters
    ----------
    x : tensor of unit scale
    mult : :math:`\alpha`: 0 tends to x/2, infinity to a rectifier
    constraint : "to_output_scale" keeps gradients exact; None gives them their own factor

    Returns
    -------
    A tensor like `x`.

    Raises
    ------
    ValueError : `mult` is not positive, or an unknown constraint.

    Notes
    -----
    The factor s lies between 2 and :math:`\sqrt{2/(1-1/\pi)}` on a logarithmic axis, with weight
    :math:`1/(1 + 1/(4\alpha^2))`: a fitted model, within 6 percent of unit standard deviation.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> x = torch.randn(10000, generator=torch.Generator().manual_seed(0))
    >>> 0.95 < gelu(x).std().item() < 1.05
    True
    """
    weight = 1 / (1 + 0.25 / positive("mult", mult) ** 2)
    forward = between(weight, 2.0, _RECTIFIED)
    x = scale(x, 1.0, backward_scale(constraint, forward, between(weight, 2.0, 2**0.5)))
    return scale(F.gelu(x) if mult == 1 else F.gelu(x * mult) / mult, forward, 1.0)


def silu(x: Tensor, mult: float = 1.0, constraint: str | None = "to_output_scale") -> Tensor:
    r"""SiLU of unit scale, :math:`s\,x\,\sigma(\alpha x)`.

    Parameters
    ----------
    x : tensor of unit scale
    mult : :math:`\alpha`: 0 tends to x/2, infinity to a rectifier
    constraint : "to_output_scale" keeps gradients exact; None gives them their own factor

    Returns
    -------
    A tensor like `x`.

    Raises
    ------
    ValueError : `mult` is not positive, or an unknown constraint.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> x = torch.randn(10000, generator=torch.Generator().manual_seed(0))
    >>> 0.85 < silu(x).std().item() < 1.15
    True
    """
    square = positive("mult", mult) ** 2
    forward = between(1 / (1 + 0.25 / square), 2.0, _RECTIFIED)
    x = scale(x, 1.0, backward_scale(constraint, forward, between(1 / (1 + 1 / square), 2.0, 2**0.5)))
    return scale(F.silu(x) if mult == 1 else x * torch.sigmoid(x * mult), forward, 1.0)


def silu_glu(x: Tensor, gate: Tensor, mult: float = 1.0) -> Tensor:
    r"""The gated unit :math:`s\,x\,g\,\sigma(\alpha g)` of unit scale.

    Parameters
    ----------
    x : tensor of unit scale
    gate : g, a tensor of unit scale
    mult : :math:`\alpha`

    Returns
    -------
    A tensor like `x`.

    Raises
    ------
    ValueError : `mult` is not positive.

    Notes
    -----
    s lies between 2 and sqrt(2) on a logarithmic axis, with weight :math:`1/(1 + 1/\alpha^2)`, for the values and both
    gradients, which are exact.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> x, g = torch.randn(2, 10000, generator=torch.Generator().manual_seed(0))
    >>> 0.9 < silu_glu(x, g).std().item() < 1.1
    True
    """
    factor = between(1 / (1 + 1 / positive("mult", mult) ** 2), 2.0, 2**0.5)
    x, gate = scale(x, 1.0, factor), scale(gate, 1.0, factor)
    gated = F.silu(gate) if mult == 1 else gate * torch.sigmoid(gate * mult)
    return scale(x * gated, factor, 1.0)


def softmax(x: Tensor, dim: int = -1, mult: float = 1.0, constraint: str | None = "to_output_scale") -> Tensor:
    r"""Softmax of unit scale, :math:`s\,\mathrm{softmax}(\alpha x)`, whose entries sum to s.

    Parameters
    ----------
    x : tensor of unit scale
    dim : the dimension of n entries that is normalised
    mult : :math:`\alpha`
    constraint : "to_output_scale" keeps gradients exact; None gives them their own factor

    Returns
    -------
    A tensor like `x`.

    Raises
    ------
    ValueError : `mult` is not positive, or an unknown constraint.

    Notes
    -----
    s lies between n (flat) and sqrt(n) (one-hot) on a logarithmic axis, with weight :math:`1/(1 + 4/\alpha^2)`.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> x = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    >>> 0.5 < softmax(x).square().mean().sqrt().item() < 2.0
    True
    """
    n = x.shape[dim]
    weight = 1 / (1 + 4 / positive("mult", mult) ** 2)
    forward = between(weight, float(n), float(n) ** 0.5)
    backward = between(weight, n / mult, (n / mult) ** 0.5)
    x = scale(x, 1.0, backward_scale(constraint, forward, backward))
    return scale(F.softmax(x * mult, dim), forward, 1.0)
