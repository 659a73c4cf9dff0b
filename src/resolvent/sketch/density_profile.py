"""Profiles of kernel densities, their pull on a point, and mean shift for many points at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Entries of a block of distances that is held at a time.
_BLOCK = 1 << 21


@dataclass(frozen=True)
class Profile:
    """A kernel k(r) by logarithms, as functions of s = r^2.

    Attributes
    ----------
    log : log k
    log_pull : log(-k'(r) / r), the weight of a point in mean shift
    sharp : whether the pull is infinite at r = 0
    kind, exponent : which kernel it is, for the fused pass
    """

    log: Callable[[Tensor], Tensor]
    log_pull: Callable[[Tensor], Tensor]
    sharp: bool = False
    kind: str = "gaussian"
    exponent: float = 1.0


def _safe_root(s: Tensor) -> Tensor:
    """sqrt with a finite derivative at zero, where every profile here is flat or is not differentiated."""
    return s.clamp(min=torch.finfo(s.dtype).tiny ** 0.5).sqrt()


def _log_logistic(s: Tensor) -> Tensor:
    r = _safe_root(s)
    return -r - 2 * torch.log1p(torch.exp(-r))


def _log_sigmoid(s: Tensor) -> Tensor:
    r = _safe_root(s)
    return -r - torch.log1p(torch.exp(-2 * r))


def _log_ratio(r: Tensor) -> Tensor:
    """log(tanh(r) / r)."""
    near = torch.tanh(r) / r.clamp(min=1e-6)
    return torch.where(r < 1e-4, -r * r / 3, near.clamp(min=torch.finfo(r.dtype).tiny).log())


def profile(kernel: str, exponent: float) -> Profile:
    """The profile of that name."""
    if kernel == "gaussian":
        return Profile(lambda s: -s / 2, lambda s: -s / 2)
    if kernel == "logistic":
        return Profile(
            _log_logistic,
            lambda s: _log_logistic(s) + _log_ratio(_safe_root(s) / 2) - math.log(2.0),
            kind=kernel,
        )
    if kernel == "sigmoid":
        return Profile(_log_sigmoid, lambda s: _log_sigmoid(s) + _log_ratio(_safe_root(s)), kind=kernel)
    half = exponent / 2

    def log(s: Tensor) -> Tensor:
        return -s if half == 1 else -(s.clamp(min=torch.finfo(s.dtype).tiny) ** half)

    def log_pull(s: Tensor) -> Tensor:
        power = 0.0 if half == 1 else (half - 1) * s.clamp(min=torch.finfo(s.dtype).tiny).log()
        return log(s) + power + math.log(exponent)

    return Profile(log, log_pull, exponent < 2, kernel, exponent)


class Climb(NamedTuple):
    """Where points came to.

    Attributes
    ----------
    points : (m, d)
    log_density : (m,) of these points, up to the kernel's constant
    steps : mean shift steps taken
    left : the largest estimated gain that further steps would bring, relative to the density
    """

    points: Tensor
    log_density: Tensor
    steps: int
    left: float


def shift(
    X: Tensor, log_w: Tensor, Y: Tensor, k: Profile, exact: bool = False, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log densities at points Y (m, d) and where mean shift takes them; data and points in units of the bandwidth.

    `exact` takes distances by differences instead of products, and no shortcut; `lengths` (n,) are the squared ones of X.
    """
    values, moved = [], []
    lengths = torch.linalg.vector_norm(X, dim=1).square() if lengths is None else lengths
    tiny = 16 * torch.finfo(X.dtype).eps * float(lengths.amax())
    fused = not exact and X.device.type == "cpu" and X.dtype in (torch.float32, torch.float64)
    for part in Y.split(max(1, _BLOCK // len(X))):
        if exact:
            s = torch.cdist(part, X, compute_mode="donot_use_mm_for_euclid_dist").square()
        else:
            s = torch.addmm(lengths, part, X.mT, alpha=-2).add_((part * part).sum(1, keepdim=True)).clamp_(min=0)
        value, new = (_fused if fused else _by_torch)(X, log_w, part, s, k, tiny)
        values.append(value)
        moved.append(new)
    return torch.cat(values), torch.cat(moved)


def _by_torch(X: Tensor, log_w: Tensor, Y: Tensor, s: Tensor, k: Profile, tiny: float) -> tuple[Tensor, Tensor]:
    value = torch.logsumexp(k.log(s) + log_w, 1)
    pull = k.log_pull(s) + log_w
    if k.sharp:
        # A point of the data would hold itself for ever; where that is right, its density is kept as the best.
        pull = torch.where(s <= tiny, torch.full_like(s, -torch.inf), pull)
    alone = torch.isinf(pull).all(1, keepdim=True)
    new = torch.softmax(torch.where(alone, torch.zeros_like(pull), pull), 1) @ X
    return value, torch.where(alone, Y, new)


def _fused(X: Tensor, log_w: Tensor, Y: Tensor, s: Tensor, k: Profile, tiny: float) -> tuple[Tensor, Tensor]:
    from resolvent.sketch.density_kernel import KINDS, pulls

    value, total = s.new_empty(len(s)), s.new_empty(len(s))
    where = (KINDS.index(k.kind), k.exponent, tiny)
    pulls(s.numpy(), log_w.exp().numpy(), *where, value.numpy(), total.numpy())
    alone = (total <= 0)[:, None]
    new = (s @ X) / torch.where(alone, torch.ones_like(total)[:, None], total[:, None])
    return value.log(), torch.where(alone, Y, new)


def climb(
    X: Tensor, log_w: Tensor, Y: Tensor, k: Profile, rtol: float, limit: int, *, merge: bool, exact: bool = False
) -> Climb:
    """Mean shift from the points Y until the gain that is left falls below rtol; what meets is merged if asked."""
    lengths = torch.linalg.vector_norm(X, dim=1).square()
    value, moved = shift(X, log_w, Y, k, exact, lengths)
    best, best_value = Y.clone(), value
    gain = torch.full_like(value, torch.inf)
    left = torch.full_like(value, torch.inf)
    active = torch.arange(len(Y), device=Y.device)
    steps = 1
    while steps < limit and len(active):
        steps += 1
        value, new = shift(X, log_w, moved, k, exact, lengths)
        up = value - best_value[active]
        rising = up > 0
        # Gains shrink by a constant factor, at last: what is left is a geometric series. The first gain, from a point of
        # the data that was left out of its own mean, says nothing about the next.
        known = torch.isfinite(gain[active])
        ratio = torch.where(known, up / gain[active], torch.full_like(up, 0.999)).clamp(0, 0.999)
        left[active] = torch.where(rising, up * ratio / (1 - ratio), torch.zeros_like(up))
        gain[active] = up.clamp(min=torch.finfo(up.dtype).tiny)
        best[active[rising]] = moved[rising]
        best_value[active[rising]] = value[rising]
        going = left[active] > rtol
        if k.sharp and steps <= 3:
            # The step away from a point of the data may cost more than the next ones bring back at once.
            going = torch.ones_like(going)
            left[active] = torch.inf
        active, moved = active[going], new[going]
        if merge and steps % 2 == 0 and len(active) > 1:
            keep = distinct(moved, best_value[active])
            left[active] = 0.0
            active, moved = active[keep], moved[keep]
            left[active] = torch.inf
    return Climb(best, best_value, steps, float(left[active].max()) if len(active) else 0.0)


def distinct(Y: Tensor, value: Tensor, near: float = 0.02) -> Tensor:
    """Which points have no better one within `near` bandwidths, the best first."""
    order = value.argsort(descending=True, stable=True)
    Z = Y[order]
    keep = torch.ones(len(Z), dtype=torch.bool, device=Y.device)
    lengths = (Z * Z).sum(1)
    index = torch.arange(len(Z), device=Y.device)
    step = max(1, _BLOCK // max(1, len(Z)))
    for first in range(0, len(Z), step):
        part = Z[first : first + step]
        earlier = index < index[first : first + len(part), None]
        gap = torch.addmm(lengths, part, Z.mT, alpha=-2).add_(lengths[first : first + step, None])
        keep[first : first + step] = ~((gap < near * near) & earlier).any(1)
    return order[keep]
