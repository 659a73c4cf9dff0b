"""`scale`: one factor for the values of a tensor, another for its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def scale(x: Tensor, forward: float | Tensor = 1.0, backward: float = 1.0) -> Tensor:
    r"""Multiply values by one number and gradients by another: :math:`y = f x`, :math:`\bar x = b\,\bar y`.

    Parameters
    ----------
    x : tensor of any shape, real or complex
    forward : factor of the values; a 0-d tensor is taken as it is, and gets no gradient
    backward : factor of the gradient; equal to `forward` it is an ordinary product

    Returns
    -------
    A tensor like `x`.

    Raises
    ------
    ValueError : a factor is not finite.

    Notes
    -----
    With two different factors the gradient is deliberately not the derivative: a number is moved from one place of the
    backward pass to another, where a step size makes up for it. Gradients of gradients follow the same two factors.
    Works inside `torch.func.grad` and `vmap`.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> x = torch.ones(2, requires_grad=True)
    >>> y = scale(x, 3.0, 0.5)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([3.0, 3.0], [0.5, 0.5])
    """
    for name, factor in (("forward", forward), ("backward", backward)):
        if not isinstance(factor, Tensor) and not math.isfinite(factor):
            raise ValueError(f"{name} must be finite, got {factor!r}")
    return _Scale.apply(x, forward.detach() if isinstance(forward, Tensor) else float(forward), float(backward))


class _Scale(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, forward: float | Tensor, backward: float | Tensor) -> Tensor:
        return x.view_as(x) if isinstance(forward, float) and forward == 1.0 else x * forward

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factors = inputs[1:]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        forward, backward = ctx.factors
        # The gradient is itself a scaled tensor, whose own gradient takes the factors in the other order.
        return _Scale.apply(g, backward, forward), None, None


def between(weight: float, low: float, high: float) -> float:
    """The number `weight` of the way from `low` to `high` on a logarithmic axis."""
    return math.exp(weight * math.log(high) + (1 - weight) * math.log(low))


def positive(name: str, value: float) -> float:
    """`value`, if it is a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def backward_scale(constraint: str | None, forward: float, backward: float) -> float:
    """The factor of an input's gradient: its own, or the one of the output, which keeps gradients exact."""
    if constraint is None:
        return backward
    if constraint == "to_output_scale":
        return forward
    raise ValueError(f"constraint must be 'to_output_scale' or None, got {constraint!r}")
