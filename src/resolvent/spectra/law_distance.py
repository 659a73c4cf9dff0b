"""The continuous part of the Marchenko-Pastur law by its angle, and distances of samples from the law at many scales."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def bulk_survival(theta: Tensor, a: float) -> Tensor:
    """Mass of the continuous part above x(theta) = |1 + a e^{i theta}|^2, for a in (0, 1]."""
    if a < 1e-2:
        # the closed form loses eps/a digits to cancellation; its Fourier series is exact after a few terms
        psi, rest = torch.zeros_like(theta), torch.zeros_like(theta)
        for k in range(1, 12):
            wave = (-1) ** (k + 1) * torch.sin(k * theta) / k
            psi = psi + a**k * wave
            rest = rest + (a ** (k - 2) * wave if k > 1 else 0)
        return (theta + rest - psi) / math.pi
    psi = torch.atan2(a * torch.sin(theta), 1 + a * torch.cos(theta))
    return (theta - torch.sin(theta) / a + (1 - a * a) * psi / (a * a)) / math.pi


class Distances:
    """One-sided distances of samples from a law, for many scales of it: its distribution is tabulated once."""

    _POINTS = 8192

    def __init__(self, ratio: float) -> None:
        root, atom = math.sqrt(ratio), max(0.0, 1 - 1 / ratio)
        self.lower, self.upper = (1 - root) ** 2, (1 + root) ** 2
        # Over the angle the distribution is smooth, so that lines between the points are right to 2e-8.
        self.angles = np.linspace(0, math.pi, self._POINTS)
        survival = bulk_survival(torch.from_numpy(self.angles), min(root, 1 / root)).numpy()
        self.table = atom + (1 - atom) * (1 - survival)

    def cdf(self, x: np.ndarray) -> np.ndarray:
        up, down = np.sqrt(np.maximum(self.upper - x, 0)), np.sqrt(np.maximum(x - self.lower, 0))
        return np.interp(2 * np.arctan2(up, down), self.angles, self.table)

    def nearest(self, x: np.ndarray) -> float:
        """The scale at which both one-sided distances of sorted x are equal: there the larger is smallest."""
        from scipy.optimize import brentq

        steps = np.arange(len(x) + 1) / len(x)

        def excess(logarithm: float) -> float:
            # a larger variance pushes the law to the right: F falls, so F_emp - F grows
            theory = self.cdf(x / math.exp(logarithm))
            return float((steps[1:] - theory).max() - (theory - steps[:-1]).max())

        low = math.log(float(x[x > 0].min()) / self.upper) - 1e-9
        high = min(math.log(float(x.max()) / max(self.lower, 1e-300)), math.log(float(x.max())) + 60.0) + 1e-9
        with np.errstate(over="ignore"):
            if (at_low := excess(low)) >= 0 or excess(high) <= 0:
                return math.exp(low if at_low >= 0 else high)
            return math.exp(brentq(excess, low, high, xtol=1e-12, rtol=1e-14))
