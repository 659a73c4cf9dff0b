"""Residual branches of unit scale, and the weights that give every branch of a stack the same say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from resolvent.optim.unit.scale import positive, scale


def residual_split(x: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""The two inputs of a residual layer: what the branch takes, and what skips it.

    Parameters
    ----------
    x : tensor of unit scale
    tau : weight of the branch relative to the skip connection

    Returns
    -------
    branch, skip : both equal to `x`; their gradients are multiplied by :math:`\tau/\sqrt{1+\tau^2}` and
        :math:`1/\sqrt{1+\tau^2}`

    Raises
    ------
    ValueError : `tau` is not positive.

    Notes
    -----
    `residual_add` multiplies the values of the branch by its weight, but not their gradient, which is done here: the
    branch computes with gradients of unit scale, and the gradient of `x` is the exact one.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(1, requires_grad=True)
    >>> branch, skip = residual_split(x, 0.75)
    >>> residual_add(2 * branch, skip, 0.75).backward()
    >>> round(x.grad.item(), 6)  # 0.6 * 2 + 0.8
    2.0
    """
    branch, skip = _weights(tau)
    return scale(x, 1.0, branch), scale(x, 1.0, skip)


def residual_add(branch: Tensor, skip: Tensor, tau: float = 1.0) -> Tensor:
    r"""The output of a residual layer, :math:`(\tau\,\mathrm{branch} + \mathrm{skip})/\sqrt{1+\tau^2}`.

    Parameters
    ----------
    branch : what the branch computed, of unit scale
    skip : the second output of `residual_split`
    tau : the weight given to `residual_split`

    Returns
    -------
    A tensor like `skip`.

    Raises
    ------
    ValueError : `tau` is not positive.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> import torch
    >>> residual_add(torch.tensor(1.0), torch.tensor(2.0), 0.75).item()
    2.2...
    """
    weights = _weights(tau)
    return scale(branch, weights[0], 1.0) + scale(skip, weights[1], 1.0)


def residual_tau(index: int, layers: int, mult: float = 1.0, ratio: float = 1.0) -> float:
    r"""The weight of one branch in a stack in which attention and perceptron branches alternate.

    Parameters
    ----------
    index : 0, ..., layers - 1; even ones are attention, odd ones perceptrons
    layers : number of branches, two for each block
    mult : m, the standard deviation that all branches together add, relative to that of the embedding
    ratio : r, that of attention relative to that of perceptrons

    Returns
    -------
    :math:`\tau_i = a_i / \sqrt{L/2 + k\,a_\mathrm{attn}^2 + l\,a_\mathrm{mlp}^2}` with
        :math:`a_\mathrm{mlp} = m\sqrt{2/(1+r^2)}`, :math:`a_\mathrm{attn} = r\,a_\mathrm{mlp}`, and k and l the numbers of
        attention and perceptron branches before this one

    Raises
    ------
    ValueError : `index` is not one of the branches, or a number that is not positive.

    Notes
    -----
    A stack with these weights gives the embedding, all attention branches and all perceptron branches the shares
    1, :math:`m^2 r^2/(1+r^2)` and :math:`m^2/(1+r^2)` of its output's variance, as a plain residual stream would.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> [round(residual_tau(i, 4) ** 2, 4) for i in range(4)]
    [0.5, 0.3333, 0.25, 0.2]
    """
    positive("mult", mult)
    positive("ratio", ratio)
    if not 0 <= index < layers:
        raise ValueError(f"index must lie in [0, layers) = [0, {layers}), got {index!r}")
    mlp = mult * (2 / (1 + ratio**2)) ** 0.5
    attn = ratio * mlp
    before = layers / 2 + (index + 1) // 2 * attn**2 + index // 2 * mlp**2
    return float((mlp if index % 2 else attn) / before**0.5)


class Residual(nn.Module):
    """A residual layer of unit scale around any module whose output has unit scale.

    Parameters
    ----------
    branch : the module
    tau : its weight relative to the skip connection

    Examples
    --------
    >>> import torch
    >>> Residual(nn.Identity(), 1.0)(torch.ones(1)).item()
    1.4142...
    """

    def __init__(self, branch: nn.Module, tau: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.tau = positive("tau", tau)

    def forward(self, x: Tensor) -> Tensor:
        branch, skip = residual_split(x, self.tau)
        return residual_add(self.branch(branch), skip, self.tau)

    def extra_repr(self) -> str:
        return f"tau={self.tau:.4g}"


class ResidualStack(nn.Sequential):
    """Residual layers one after another, with the weights of `residual_tau`; `groups` knows their depth.

    Parameters
    ----------
    branches : the modules, attention and perceptrons in turn
    mult, ratio : see `residual_tau`; two of the five hyper-parameters of u-muP

    Examples
    --------
    >>> stack = ResidualStack([nn.Identity(), nn.Identity()])
    >>> [round(layer.tau, 4) for layer in stack]
    [1.0, 0.7071]
    """

    def __init__(self, branches: Sequence[nn.Module], mult: float = 1.0, ratio: float = 1.0) -> None:
        n = len(branches)
        super().__init__(*(Residual(b, residual_tau(i, n, mult, ratio)) for i, b in enumerate(branches)))

    @property
    def depth(self) -> float:
        """The number of blocks, of two branches each: steps of their parameters are divided by its root."""
        return max(len(self) / 2, 1.0)

    def taus(self) -> list[float]:
        """The weights of the branches, in order."""
        return [cast(Residual, layer).tau for layer in self]


def _weights(tau: float) -> tuple[float, float]:
    norm = (1 + positive("tau", tau) ** 2) ** 0.5
    return tau / norm, 1 / norm
