"""Numbers whose squares would leave the range of their dtype, brought near one."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def moderate(t: Tensor) -> tuple[Tensor, float]:
    """`t` over a power of two, and that power: 1 where the squares of its largest entries are far within their range.

    Such a division changes no digit; what it makes underflow is nothing beside the largest entry.
    """
    power = unit_of(t)
    limit = torch.finfo(t.dtype).max ** 0.3
    return (t, 1.0) if 1 / limit < power < limit else (t / power, power)


def unit_of(t: Tensor) -> float:
    """The power of two below the largest entry; 1 where all are zero."""
    top = float(torch.linalg.vector_norm(t.detach(), math.inf)) if t.numel() else 0.0
    return math.ldexp(0.5, math.frexp(top)[1]) if 0 < top < math.inf else 1.0


def power_of_two(size: float) -> float:
    """The power of two above a size, a scale that costs no rounding; 1 for zero and for infinity."""
    return math.ldexp(1.0, min(math.frexp(size)[1], 1023)) if 0 < size < math.inf else 1.0


def units_of(A: Tensor) -> Tensor:
    """For each matrix of a batch the power of two below its largest entry, 1 for zero, without a look at the numbers from the host."""
    half = A.dtype in (torch.float16, torch.bfloat16)
    top = A.detach().abs().amax((-2, -1), keepdim=True)
    top = top.float() if half else top
    exponent = torch.where(top > 0, torch.frexp(top).exponent - 1, 0)
    unit = torch.ldexp(torch.ones_like(top), exponent)
    return unit.to(A.dtype) if half else unit
