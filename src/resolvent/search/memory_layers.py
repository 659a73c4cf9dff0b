"""Layers of a small encoder and decoder in the manner of T5: no biases, relative positions, normalisation before each part."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Relative positions: exact up to half of the buckets, logarithmic up to the distance.
_BUCKETS = 32
_FURTHEST = 128


class RMSNorm(torch.nn.Module):
    """Rows divided by their root mean square, times a weight.

    Parameters
    ----------
    width : of the rows

    Examples
    --------
    >>> RMSNorm(2)(torch.tensor([[3.0, 3.0]])).detach().round(decimals=3)
    tensor([[1., 1.]])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Any (..., width)."""
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Attention(torch.nn.Module):
    """Attention of several heads.

    Parameters
    ----------
    width : of rows that ask and that are asked
    heads : divisor of width

    Examples
    --------
    >>> Attention(8, 2)(torch.ones(1, 3, 8), torch.ones(1, 5, 8), None).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = torch.nn.Linear(width, width, bias=False)
        self.both = torch.nn.Linear(width, 2 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """(b, n, width) to (b, heads, n, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def remember(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended to: asked for once where many steps attend to it."""
        keys, values = self.both(source).chunk(2, -1)
        return self.split(keys), self.split(values)

    def attend(self, x: Tensor, remembered: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """Rows of x ask; bias (b or 1, heads or 1, n, m) is added to the scores."""
        found = F.scaled_dot_product_attention(self.split(self.query(x)), *remembered, attn_mask=bias)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None) -> Tensor:
        """Rows of x ask the rows of source."""
        return self.attend(x, self.remember(source), bias)


class RelativePositions(torch.nn.Module):
    """A bias for each head and each bucket of distance.

    Parameters
    ----------
    heads : of the attention
    forward_too : also tell later rows apart, as an encoder does

    Examples
    --------
    >>> RelativePositions(2, True)(torch.arange(3), torch.arange(5)).shape
    torch.Size([2, 3, 5])
    """

    def __init__(self, heads: int, forward_too: bool) -> None:
        super().__init__()
        self.forward_too = forward_too
        self.bias = torch.nn.Parameter(torch.zeros(_BUCKETS, heads))

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Bias (heads, n, m) between places."""
        away = columns[None, :] - rows[:, None]
        count = _BUCKETS // 2 if self.forward_too else _BUCKETS
        base = count * (away > 0) if self.forward_too else torch.zeros_like(away)
        size = away.abs() if self.forward_too else (-away).clamp_min(0)
        exact = count // 2
        ratio = (size.clamp_min(1) / exact).log() / math.log(_FURTHEST / exact)
        far = (exact + ratio * (count - exact)).long().clamp_max(count - 1)
        return self.bias[base + torch.where(size < exact, size, far)].permute(2, 0, 1)


class Layer(torch.nn.Module):
    """Self-attention, attention to an encoder where there is one, and a rectified layer in between two linear maps.

    Parameters
    ----------
    width, heads : of the attention
    cross : attend to an encoder as well

    Examples
    --------
    >>> Layer(8, 2, False)(torch.ones(1, 3, 8), None).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.self_norm, self.self_attention = RMSNorm(width), Attention(width, heads)
        if cross:
            self.cross_norm, self.cross_attention = RMSNorm(width), Attention(width, heads)
        self.last_norm = RMSNorm(width)
        self.wide = torch.nn.Linear(width, 4 * width, bias=False)
        self.narrow = torch.nn.Linear(4 * width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        source: tuple[Tensor, Tensor] | None = None,
        source_bias: Tensor | None = None,
        before: Tensor | None = None,
    ) -> Tensor:
        """Rows (b, n, width); `before` are rows that came earlier and that are attended to as well."""
        inner = self.self_norm(x)
        seen = inner if before is None else torch.cat([self.self_norm(before), inner], 1)
        x = x + self.self_attention(inner, seen, bias)
        if source is not None:
            x = x + self.cross_attention.attend(self.cross_norm(x), source, source_bias)
        out: Tensor = x + self.narrow(torch.relu(self.wide(self.last_norm(x))))
        return out
