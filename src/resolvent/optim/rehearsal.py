"""Which points to train on in the next epoch, when new data keep arriving and old ones must not be forgotten."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.optim.optimizer import check
from resolvent.random import as_generator


class RehearsalSelector:
    r"""A pool of training points that draws what is worth training on: new points, points with a large loss, some old ones.

    Parameters
    ----------
    n : points in the pool
    thresholds : (low, high), multiples of the mean loss. A loss above high raises the selection factor of its point, one below low lowers it
    factors : (down, up) by which a selection factor changes
    bounds : (least, most) selection factor; new points have 1. A point that falls below the least is set aside
    fresh : share of an epoch for points never drawn, while there are any
    revisit : share of an epoch drawn from all points seen, those set aside too; one whose loss is not below the low threshold comes back
    smooth : weight of the old mean loss in its running mean
    generator : `torch.Generator`, int or None

    Notes
    -----
    The thresholds move with the mean loss, so that the same points are hard at the start and in the end of training. The rest of an epoch is drawn
    without replacement with probabilities proportional to the selection factors. The values of thresholds and factors
    are this library's; the rule is the paper's.

    References
    ----------
    "Lifelong Machine Learning Potentials"

    Examples
    --------
    >>> pool = RehearsalSelector(100, generator=0)
    >>> for _ in range(60):
    ...     ids = pool.draw(20)
    ...     pool.update(ids, torch.where(ids < 10, 1.0, 0.01))  # ten points are hard
    >>> ids = pool.draw(12)
    >>> int((ids < 10).sum()) >= 9, int(pool.aside.sum()) > 50
    (True, True)
    """

    def __init__(
        self,
        n: int,
        *,
        thresholds: tuple[float, float] = (0.25, 1.0),
        factors: tuple[float, float] = (0.7, 1.5),
        bounds: tuple[float, float] = (0.1, 10.0),
        fresh: float = 0.5,
        revisit: float = 0.05,
        smooth: float = 0.8,
        generator: torch.Generator | int | None = None,
    ) -> None:
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        check("thresholds[0]", thresholds[0])
        check("thresholds[1]", thresholds[1], thresholds[0])
        check("factors[0]", factors[0], 0.0, 1.0, above=True)
        check("factors[1]", factors[1], 1.0)
        check("bounds[0]", bounds[0], 0.0, 1.0, above=True)
        check("bounds[1]", bounds[1], 1.0)
        check("fresh", fresh, 0.0, 1.0)
        check("revisit", revisit, 0.0, 1.0)
        check("smooth", smooth, 0.0, 1.0, below=True)
        self.thresholds, self.factors, self.bounds = thresholds, factors, bounds
        self.fresh, self.revisit, self.smooth = fresh, revisit, smooth
        self.mean: float | None = None
        self.weight = torch.ones(n)
        self.seen = torch.zeros(n, dtype=torch.bool)
        self._generator = as_generator(generator)

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def aside(self) -> Tensor:
        """Points that are only revisited now and then, as a mask."""
        return self.seen & (self.weight < self.bounds[0])

    def add(self, n: int) -> Tensor:
        """Let new points into the pool.

        Parameters
        ----------
        n : how many

        Returns
        -------
        Their numbers.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        first = len(self)
        self.weight = torch.cat([self.weight, torch.ones(n)])
        self.seen = torch.cat([self.seen, torch.zeros(n, dtype=torch.bool)])
        return torch.arange(first, first + n)

    def draw(self, k: int) -> Tensor:
        """Points for the next epoch.

        Parameters
        ----------
        k : how many, at least 1

        Returns
        -------
        Different numbers, in random order; fewer than `k` where the pool has fewer that are worth it.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        taken = torch.zeros(len(self), dtype=torch.bool)
        parts = [self._some(~self.seen, round(self.fresh * k), taken)]
        parts.append(self._some(self.seen, round(self.revisit * k), taken))
        # Weighted draws for the rest, with new points beside the old ones; then whatever is left of the new.
        active = (self.weight >= self.bounds[0]) & self.seen
        parts.append(self._some(active, k - sum(map(len, parts)), taken, self.weight))
        parts.append(self._some(~self.seen, k - sum(map(len, parts)), taken))
        found = torch.cat(parts)
        return found[torch.randperm(len(found), generator=self._generator)]

    def _some(self, among: Tensor, k: int, taken: Tensor, weight: Tensor | None = None) -> Tensor:
        """Without replacement: the largest of u^(1/weight) are a weighted sample."""
        free = (among & ~taken).nonzero()[:, 0]
        keys = torch.rand(len(free), generator=self._generator).clamp_(min=1e-30).log_()
        if weight is not None:
            keys = keys / weight[free]
        found = free[keys.topk(max(0, min(k, len(free)))).indices]
        taken[found] = True
        return found

    def update(self, ids: Tensor, losses: Tensor) -> None:
        """Say how large the losses of points were.

        Parameters
        ----------
        ids : (k,) numbers
        losses : (k,) at least 0
        """
        ids, losses = torch.as_tensor(ids), torch.as_tensor(losses).detach().to("cpu", torch.float32)
        if ids.shape != losses.shape or ids.ndim != 1:
            raise ValueError(f"losses must have the shape of ids {tuple(ids.shape)}, got {tuple(losses.shape)}")
        if len(ids) == 0:
            return
        if not bool(torch.isfinite(losses).all()) or bool((losses < 0).any()):
            raise ValueError("losses must be finite and at least 0")
        now = float(losses.mean())
        self.mean = now if self.mean is None else self.smooth * self.mean + (1 - self.smooth) * now
        low, high = (t * self.mean for t in self.thresholds)
        old = self.weight[ids]
        back = self.aside[ids] & (losses >= low)
        new = torch.where(losses > high, old * self.factors[1], torch.where(losses < low, old * self.factors[0], old))
        new = torch.where(back, torch.ones_like(new), new)
        self.weight[ids] = new.clamp(max=self.bounds[1])
        self.seen[ids] = True

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on alike.

        Returns
        -------
        Tensors and numbers.
        """
        return {
            "weight": self.weight.clone(), "seen": self.seen.clone(), "mean": self.mean,
            "generator": self._generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Parameters
        ----------
        state : what `state_dict` gave
        """
        self.weight, self.seen, self.mean = state["weight"].clone(), state["seen"].clone(), state["mean"]
        self._generator.set_state(state["generator"])
