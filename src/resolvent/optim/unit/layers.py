"""Modules of unit scale: drop-in layers whose weights are standard normal, and which carry the scales themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resolvent.optim.unit import functional as U
from resolvent.optim.unit.nonlinear import silu_glu
from resolvent.optim.unit.scale import backward_scale, positive


class Linear(nn.Linear):
    r"""A linear layer of unit scale, :math:`y = x W^T/\sqrt{n_\mathrm{in}} + b`, with :math:`W \sim N(0, 1)`.

    Parameters
    ----------
    in_features, out_features : sizes
    bias : whether there is one; it begins at zero
    constraint : see `resolvent.optim.unit.linear`
    device, dtype : of the parameters

    Raises
    ------
    ValueError : a size below 1.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> layer = Linear(1000, 1000)
    >>> 0.9 < layer(torch.randn(100, 1000)).std().item() < 1.1
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        constraint: str | None = "to_output_scale",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        backward_scale(constraint, 1.0, 1.0)
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}: the scale of nothing is not defined")
        super().__init__(in_features, out_features, bias, device, dtype)
        self.constraint = constraint

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return U.linear(x, self.weight, self.bias, self.constraint)


class Readout(Linear):
    r"""The last layer of a network, :math:`y = x W^T/n_\mathrm{in} + b`: small at first, of unit scale once trained.

    Parameters
    ----------
    in_features, out_features : sizes
    bias : whether there is one; it begins at zero
    device, dtype : of the parameters

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> Readout(64, 10)(torch.randn(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, *, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return U.readout(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    r"""A table of standard normal rows, with gradients of unit scale.

    Parameters
    ----------
    num_embeddings, embedding_dim : rows and columns
    padding_idx : a row that stays zero, or None
    device, dtype : of the table

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> Embedding(10, 4)(torch.tensor([1, 2])).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        return U.embedding(input, self.weight, self.padding_idx)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with gradients of unit scale; by default without gain and bias.

    Parameters
    ----------
    normalized_shape : the trailing dimensions, or the last one
    eps : added to the variance
    elementwise_affine : whether there are a gain and a bias
    bias : whether there is a bias beside the gain
    device, dtype : of the parameters

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> LayerNorm(2)(torch.tensor([1.0, 3.0])).round(decimals=3).tolist()
    [-1.0, 1.0]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = False,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
        super().__init__(shape, eps, elementwise_affine, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return U.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """Division by the root mean square, with a gradient of unit scale; by default without a gain.

    Parameters
    ----------
    normalized_shape : the trailing dimensions, or the last one
    eps : added to the mean of the squares
    elementwise_affine : whether there is a gain
    device, dtype : of the gain

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> RMSNorm(2)(torch.tensor([1.0, 1.0])).round(decimals=3).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = False,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
        super().__init__(shape, eps, elementwise_affine, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return U.rms_norm(x, self.normalized_shape, self.weight, float(self.eps or 0.0))


class MLP(nn.Module):
    """The branch of a transformer's perceptron: norm, gated unit, and back.

    Parameters
    ----------
    dim : size of the input and output
    hidden : size in between; default 4 dim
    mult : how sharp the gate is, see `silu_glu`
    device, dtype : of the parameters

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> 0.8 < MLP(256)(torch.randn(64, 256)).std().item() < 1.2
    True
    """

    def __init__(
        self, dim: int, hidden: int | None = None, mult: float = 1.0, *, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        self.mult = positive("mult", mult)
        self.norm = RMSNorm(dim)
        # What the way up multiplies gradients by, the way down divides by: the branch as a whole keeps the constraint.
        options: dict[str, Any] = {"constraint": None, "device": device, "dtype": dtype}
        self.up, self.gate, self.down = (
            Linear(dim, hidden, **options),
            Linear(dim, hidden, **options),
            Linear(hidden, dim, **options),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = self.down(silu_glu(self.up(x), self.gate(x), self.mult))
        return y


class Attention(nn.Module):
    """The branch of a transformer's attention: norm, heads, and back.

    Parameters
    ----------
    dim : size of the input and output
    heads : number of heads, a divisor of `dim`
    causal : positions attend to earlier ones only
    mult : how sharp attention is, see `attention`
    device, dtype : of the parameters

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> Attention(32, 4, causal=True)(torch.randn(2, 10, 32)).shape
    torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        mult: float = 1.0,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide dim = {dim}, got {heads!r}")
        self.heads, self.causal, self.mult = heads, causal, positive("mult", mult)
        self.norm = RMSNorm(dim)
        self.qkv = Linear(dim, 3 * dim, device=device, dtype=dtype)
        self.out = Linear(dim, dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        q, k, v = torch.unbind(parts)
        mixed = U.attention(q, k, v, causal=self.causal, mult=self.mult)
        y: Tensor = self.out(mixed.transpose(-3, -2).flatten(-2))
        return y
