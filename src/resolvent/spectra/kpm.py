"""The kernel polynomial method: Chebyshev moments of probes, damped by Jackson's kernel, as a positive
rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator, rademacher
from resolvent.spectra.quadrature import BLOCK, LanczosRun
from resolvent.spectra.recurrence import advance, column_dots


def spectral_interval(A: Operator, Z: Tensor, steps: int = 12) -> tuple[float, float]:
    """An interval that holds the spectrum: the ends of a short Lanczos run, widened by their residuals."""
    rule = LanczosRun(A, Z.clone()).extend(min(steps, A.shape[-1])).rule()
    low = float((rule.nodes[:, 0] - rule.residuals[:, 0]).min())
    high = float((rule.nodes[:, -1] + rule.residuals[:, -1]).max())
    # An interval that is too small makes the recurrence grow; one percent costs one percent of resolution.
    margin = 0.01 * (high - low) + 1e-8 * max(abs(low), abs(high)) + 1e-300
    return low - margin, high + margin


def jackson(count: int) -> Tensor:
    """Jackson's damping factors, under which a truncated Chebyshev series of a positive measure stays
    positive: (count,).

    Examples
    --------
    >>> bool((jackson(20).diff() < 0).all()), float(jackson(20)[0])
    (True, 1.0)
    """
    j = torch.arange(count, dtype=torch.float64)
    angle = math.pi / (count + 1)
    return ((count - j + 1) * torch.cos(angle * j) + torch.sin(angle * j) / math.tan(angle)) / (count + 1)


def chebyshev_moments(A: Operator, Z: Tensor, steps: int, interval: tuple[float, float]) -> Tensor:
    """Moments ``z^H T_j(B) z / z^H z`` for j < 2 steps, with B the operator moved to [-1, 1]: (p, 2 steps) by
    `steps` products.

    Two moments per product: ``2 T_j(B)^2 = T_2j(B) + I``.
    """
    low, high = interval
    centre, half = (high + low) / 2, (high - low) / 2
    ones = torch.ones(Z.shape[1], dtype=torch.float64, device=Z.device)
    size = column_dots(Z, Z)
    previous, now = torch.zeros_like(Z), Z.clone()
    first, found = None, []
    for j in range(steps):
        found.append(column_dots(now, now) / size * (2.0 if j else 1.0) - (1.0 if j else 0.0))
        # Clone: the update writes in place, and a product may be a view.
        W = A._matmul(now).clone(memory_format=torch.contiguous_format)
        factor = (2.0 if j else 1.0) / half
        nxt, _ = advance(W, now, previous, factor * ones, factor * centre * ones, (1.0 if j else 0.0) * ones)
        cross = column_dots(nxt, now) / size
        if first is None:
            first = cross
            found.append(cross)
        else:
            found.append(2 * cross - first)
        previous, now = now, nxt
    return torch.stack(found, 1)


def kernel_polynomial_rule(
    A: Operator, probes: int, steps: int, generator: GeneratorLike = None
) -> tuple[Tensor, Tensor]:
    """Nodes and weights (probes, 4 steps) of the damped density on a Chebyshev grid."""
    g = as_generator(generator, A.device)
    n = A.shape[-1]
    interval, rows = None, []
    for first in range(0, probes, BLOCK):
        Z = rademacher((n, min(BLOCK, probes - first)), A.dtype, A.device, g)
        interval = interval or spectral_interval(A, Z)
        rows.append(chebyshev_moments(A, Z, steps, interval))
    moments = torch.cat(rows)
    count = moments.shape[1]
    damped = moments * jackson(count).to(moments)
    points = 2 * count
    angles = (torch.arange(points, dtype=torch.float64, device=moments.device) + 0.5) * (math.pi / points)
    waves = torch.cos(torch.arange(count, dtype=torch.float64, device=moments.device)[:, None] * angles)
    waves[1:] *= 2
    weights = (damped @ waves / points).clamp_min(0).flip(1)
    low, high = interval if interval is not None else (-1.0, 1.0)
    nodes = ((high + low) / 2 + (high - low) / 2 * torch.cos(angles)).flip(0)
    return nodes.expand(len(weights), -1).contiguous(), weights / weights.sum(1, keepdim=True)
