"""Chebyshev polynomials of an operator that lift the wanted end of a spectrum out of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from resolvent.operators import Operator, Sparse
from resolvent.spectra.recurrence import advance

Multiply = Callable[[Tensor], Tensor]


class ChebyshevFilter:
    """The product with :math:`T_d((A - c)/e)`, at most 1 in size on [low, high] and growing fast outside.

    The degree is even, so that it is positive and growing on both sides.

    Parameters
    ----------
    multiply : (n, b) -> (n, b), the product with A
    low, high : the interval that holds what is not wanted
    degree : of the polynomial; an odd one is raised by one
    operator : A itself, if it may be a sparse matrix whose kernels can be fused with the recurrence
    """

    def __init__(
        self, multiply: Multiply, low: float, high: float, degree: int, operator: Operator | None = None
    ) -> None:
        self.multiply = multiply
        self.low, self.high = low, high
        self.degree = degree + degree % 2
        self.center, self.half = (low + high) / 2, (high - low) / 2
        fits = isinstance(operator, Sparse) and operator.device.type == "cpu" and not operator.is_complex
        self.sparse = operator if fits else None
        self.form = self.sparse._pattern.by_diagonals(self.sparse.values) if self.sparse is not None else None

    def __call__(self, X: Tensor) -> Tensor:
        if self.sparse is not None:
            return self._fused(self.sparse, X)
        p = X.shape[1]
        ones = torch.ones(p, dtype=torch.float64, device=X.device)
        c, e = self.center, self.half
        previous = X
        current, _ = advance(self.multiply(X), X, X, ones / e, ones * (c / e), 0 * ones)
        for _ in range(self.degree - 1):
            following, _ = advance(self.multiply(current), current, previous, ones * (2 / e), ones * (2 * c / e), ones)
            previous, current = current, following
        return current

    def _fused(self, A: Sparse, X: Tensor) -> Tensor:
        """The recurrence inside the product: per step one pass over the matrix and over three blocks of vectors."""
        from resolvent.spectra.fused import chebyshev_step

        kind = A.values.detach().numpy().dtype.type
        c, e = self.center, self.half
        x, z = X.detach().numpy().copy(), np.zeros(X.shape, dtype=kind)
        form = self.form if X.shape[1] == 1 else None
        chebyshev_step(A, form, x, z, kind(1 / e), kind(c / e))
        for _ in range(self.degree - 1):
            x, z = z, x
            chebyshev_step(A, form, x, z, kind(2 / e), kind(2 * c / e))
        return torch.from_numpy(z)

    def value(self, x: float) -> float:
        """The polynomial at a point outside [low, high]."""
        t = abs(x - self.center) / self.half
        return math.cosh(self.degree * math.acosh(t)) if t > 1 else 1.0

    def distance(self, value: float) -> float:
        """How far from the centre the polynomial has a value; the half width for all up to 1."""
        return self.half * math.cosh(math.acosh(value) / self.degree) if value > 1 else self.half


def degree_for_growth(outside: float, low: float, high: float, growth: float) -> int:
    """The largest degree whose polynomial stays below `growth` at `outside`."""
    t = abs(outside - (low + high) / 2) / ((high - low) / 2)
    return int(math.acosh(growth) / math.acosh(t)) if t > 1 else 10**6
