"""Chebyshev polynomials of an operator that lift the wanted end of a spectrum out of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from resolvent.spectra.recurrence import advance

Multiply = Callable[[Tensor], Tensor]


class ChebyshevFilter:
    """The product with :math:`T_d((A - c)/e)`, at most 1 in size on [low, high] and growing fast outside.

    The degree is even, so that it is positive and growing on both sides.
    """

    def __init__(self, multiply: Multiply, low: float, high: float, degree: int) -> None:
        self.multiply = multiply
        self.low, self.high = low, high
        self.degree = degree + degree % 2
        self.center, self.half = (low + high) / 2, (high - low) / 2

    def __call__(self, X: Tensor) -> Tensor:
        p = X.shape[1]
        ones = torch.ones(p, dtype=torch.float64, device=X.device)
        c, e = self.center, self.half
        previous = X
        current, _ = advance(self.multiply(X), X, X, ones / e, ones * (c / e), 0 * ones)
        for _ in range(self.degree - 1):
            following, _ = advance(self.multiply(current), current, previous, ones * (2 / e), ones * (2 * c / e), ones)
            previous, current = current, following
        return current

    def value(self, x: float) -> float:
        """The polynomial at a point outside [low, high]."""
        t = abs(x - self.center) / self.half
        return math.cosh(self.degree * math.acosh(t)) if t > 1 else 1.0


def degree_for_growth(outside: float, low: float, high: float, growth: float) -> int:
    """The largest degree whose polynomial stays below `growth` at `outside`."""
    t = abs(outside - (low + high) / 2) / ((high - low) / 2)
    return int(math.acosh(growth) / math.acosh(t)) if t > 1 else 10**6
