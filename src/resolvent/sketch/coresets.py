"""Few weighted points whose clustering costs are those of many: blocks, grids and sensitivity sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.operators.magnitude import unit_of
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.coreset_line import (
    block_starts,
    check_power,
    check_sizes,
    hand_back,
    means_of_blocks,
    point_weights,
)
from resolvent.sketch.coreset_verify import deviations, rounding, trial_centres, uphill
from resolvent.sketch.quantum_ledger import charge_steps
from resolvent.sketch.seeding import Seeds, descend, draw, seed_centres, set_costs

# The error is measured at some centres only; others may be worse.
_SAFETY = 0.75


def coreset(
    X: Any,
    k: int,
    eps: float = 0.1,
    z: float = 1,
    *,
    method: Literal["auto", "partition", "sensitivity"] = "auto",
    weights: Any = None,
    size: int | None = None,
    calibrate: bool = True,
    generator: GeneratorLike = None,
    return_info: bool = False,
    return_ledger: bool = False,
) -> Any:
    r"""Weighted points S whose clustering costs are within :math:`1 \pm` eps of those of X, for all sets of k centres.

    .. math:: \mathrm{cost}_z(X, C) = \sum_i w_i \min_{c \in C} \|x_i - c\|^z

    Parameters
    ----------
    X : (n, d) points, or (n,) on a line
    k : number of centres
    eps : relative error of the costs, between 0 and 1
    z : 1 for k-medians, 2 for k-means, any power of at least 1
    method : "partition" replaces the points of a cell by their mean, "sensitivity" samples rows of X; "auto" takes
        cells up to dimension 2
    weights : (n,) of the points, nonnegative; None means 1 each
    size : draw this many points instead of as many as eps asks for (sensitivity only)
    calibrate : scale the weights of a sample so that each cluster keeps its own; False gives the unbiased 1/(m q)
    generator : of the samples and of the centres at which the error is measured
    return_info : also an `Info` whose error is the largest that was measured
    return_ledger : also the `QueryLedger` of the construction (sensitivity only)

    Returns
    -------
    Coreset of the kind, dtype and device of X, with what else was asked for in a tuple. Total weight is that of X; so
    is the weighted mean for cells. Points have gradients with respect to X, for the choice that was made.

    Raises
    ------
    ValueError : shapes that do not fit, numbers out of range, arguments that do not go together.

    Notes
    -----
    On a line with z = 1: `coreset_1d`, whose bound is proven. Else centres come first: rounds of adaptive sampling of
    2 k rows, clustered to k. Cells: rings around each centre, of radii that double, each with a grid of as many cells.
    Sensitivity: a row has the mean of its share of the cost, its cluster's share and one over its cluster's size as
    its probability q, and the weight 1 / (m q). Cells are made finer, or m larger, until the costs at about 50 sets of
    centres, random and optimised for the data or the coreset, are within 3/4 eps, and those of a search from the worst
    of them within eps. Time: n k d for each round of centres and about 100 n k d for the measured costs. The error at
    centres that were not tried is not proven; `verify_coreset` searches longer.

    References
    ----------
    "On Coresets for Clustering in Small Dimensional Euclidean Spaces"
    "Near-Optimal Quantum Coreset Construction Algorithms for Clustering"

    Examples
    --------
    >>> import torch
    >>> X = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    >>> points, weights = coreset(X, k=4, eps=0.1, z=2, generator=0)
    >>> len(points) < 2000, round(float(weights.sum()))
    (True, 20000)
    """
    t, kind, flat = _points(X)
    check_sizes(k, eps)
    check_power(z)
    w = point_weights(weights, t)
    how = _method(method, t.shape[1], size, return_ledger)
    g = as_generator(generator, t.device)
    # Near one, so that powers of distances stay within range.
    chosen = _Task(t.detach() / unit_of(t), w.detach(), k, eps, float(z), g)
    info, ledger = Info(how), None
    if how == "partition" and t.shape[1] == 1 and z == 1:
        order = torch.argsort(chosen.X[:, 0], stable=True)
        order = order[chosen.w[order] > 0]
        starts = block_starts(chosen.X[order, 0], chosen.w[order], k, eps)
        points, mass = means_of_blocks(t[order], w[order], starts)
        info = Info("blocks", iterations=1, error=eps)
    elif how == "partition":
        cell, info = chosen.cells()
        order = torch.argsort(cell, stable=True)
        lengths = torch.bincount(cell)
        points, mass = means_of_blocks(t[order], w[order], lengths.cumsum(0) - lengths)
        points, mass = points[mass.detach() > 0], mass[mass.detach() > 0]
    else:
        rows, mass, info, seeds = chosen.sample(size, calibrate, measure=size is None or return_info)
        points = t[rows]
        ledger = charge_steps(len(t), k, seeds.sampled, chosen.drawn, eps)
    found = hand_back(points, mass, t.dtype, kind, flat=flat)
    extra = ([info] if return_info else []) + ([ledger] if return_ledger else [])
    return (found, *extra) if extra else found


def _points(X: Any) -> tuple[Tensor, Any, bool]:
    t, kind = as_tensor(X, "X")
    if t.ndim not in (1, 2) or t.is_complex() or 0 in t.shape:
        raise ValueError(f"X must be real of shape (n, d) or (n,), not empty, got {tuple(t.shape)} of {t.dtype}")
    check_finite(t, "X")
    return (t[:, None], kind, True) if t.ndim == 1 else (t, kind, False)


def _method(method: str, d: int, size: int | None, ledger: bool) -> str:
    if method not in ("auto", "partition", "sensitivity"):
        raise ValueError(f"method must be auto, partition or sensitivity, got {method!r}")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size must be an int of at least 1 or None, got {size!r}")
    sampled = size is not None or ledger
    if method == "partition" and sampled:
        raise ValueError("size and return_ledger need method='sensitivity': cells are not drawn")
    if method == "auto":
        return "partition" if d <= 2 and not sampled else "sensitivity"
    return method


class _Task:
    """Data, centres, and the centres at which errors are measured."""

    def __init__(self, X: Tensor, w: Tensor, k: int, eps: float, z: float, generator: torch.Generator) -> None:
        self.X, self.w, self.k, self.eps, self.z, self.generator = X, w, k, eps, z, generator
        self.drawn = 0
        self._noise = rounding(X, w, z)
        self._sets: Tensor | None = None

    def error(self, points: Tensor, mass: Tensor) -> tuple[float, float]:
        """The largest deviation that is found, and how many times more that is than allowed."""
        if self._sets is None:
            self._sets = trial_centres(self.X, self.w, self.k, self.z, 40, self.generator)
            self._costs = set_costs(self.X, self.w, self._sets, self.z)
        found = deviations(self._costs, set_costs(points, mass, self._sets, self.z), self._noise)
        own = torch.stack([descend(points, mass, self._sets[-1 - i], self.z, rounds=10) for i in range(2)])
        costs, others = (set_costs(p, m, own, self.z) for p, m in ((self.X, self.w), (points, mass)))
        of_own = deviations(costs, others, self._noise)
        sets, found = torch.cat([self._sets, own]), torch.cat([found, of_own])
        error = float(found.max())
        excess = error / (_SAFETY * self.eps)
        if excess > 1:
            return error, excess
        # Where the usual centres see nothing wrong, those that look for a fault may.
        error = uphill(self.X, self.w, points, mass, self.z, sets, found, starts=3)[0]
        return error, max(excess, error / self.eps)

    def cells(self) -> tuple[Tensor, Info]:
        """The cell (n,) of each point, numbered from 0."""
        seeds = seed_centres(self.X, self.w, self.k, self.z, self.generator)
        place = self.X.to(torch.float64) - self.X[seeds.rows].to(torch.float64)[seeds.label]
        radius = torch.linalg.vector_norm(place, dim=1)
        average = float((self.w @ seeds.cost / self.w.sum()) ** (1 / self.z))
        if average == 0:
            return seeds.label, Info("cells", iterations=1)
        ring = torch.ceil(torch.log2((radius / average).clamp(min=1.0))).long()
        scale = average * 2.0 ** ring.to(torch.float64)
        group = _paired(seeds.label, ring)

        def build(side: float) -> Tensor:
            cell = group
            for column in range(place.shape[1]):
                cell = _paired(cell, torch.floor(place[:, column] / (side * scale)).long())
            return cell

        def measured(side: float) -> tuple[float, float]:
            cell = build(side)
            order = torch.argsort(cell, stable=True)
            lengths = torch.bincount(cell)
            points, mass = means_of_blocks(self.X[order], self.w[order], lengths.cumsum(0) - lengths)
            return self.error(points[mass > 0], mass[mass > 0])

        side, error, steps = _coarsest(measured)
        return build(side), Info("cells", iterations=steps, error=error)

    def sample(self, size: int | None, calibrate: bool, measure: bool) -> tuple[Tensor, Tensor, Info, Seeds]:
        """Rows and weights of a sample."""
        seeds = seed_centres(self.X, self.w, self.k, self.z, self.generator)
        m = 20 * self.k if size is None else size
        if float(self.w @ seeds.cost) == 0:
            rows, mass = _sample(self.w, seeds, m, calibrate, self.generator)
            return rows, mass, Info("one point a cluster"), seeds
        steps = 0
        while True:
            steps += 1
            self.drawn = m
            rows, mass = _sample(self.w, seeds, m, calibrate, self.generator)
            error, excess = self.error(self.X[rows], mass) if measure else (math.nan, 0.0)
            if size is not None or excess <= 1:
                return rows, mass, Info("sensitivity", iterations=steps, error=error), seeds
            if m >= len(self.X):
                # So many draws of so few points: the data itself is smaller, and exact.
                rows = (self.w > 0).nonzero()[:, 0]
                return rows, self.w[rows], Info("all points", iterations=steps), seeds
            # Errors fall like one over the root of m.
            m = min(math.ceil(m * min(4.0, max(1.25, excess**2))), len(self.X))


def _coarsest(measured: Callable[[float], tuple[float, float]]) -> tuple[float, float, int]:
    """The largest side of cells, within 20 percent, whose error is allowed, and that error."""
    side, steps = 2.0, 1
    error, excess = measured(side)
    while excess > 1:
        side, steps = side / 2, steps + 1
        error, excess = measured(side)
    low, high = side, 2 * side
    while steps > 1 and high / low > 1.2:
        middle = math.sqrt(low * high)
        found, excess = measured(middle)
        steps += 1
        if excess <= 1:
            low, error = middle, found
        else:
            high = middle
    return low, error, steps


def _paired(a: Tensor, b: Tensor) -> Tensor:
    """Number the pairs (a, b) of integers from 0."""
    b = b - b.min()
    both: Tensor = torch.unique(a * (int(b.max()) + 1) + b, return_inverse=True)[1]
    return both


def _sample(w: Tensor, seeds: Seeds, m: int, calibrate: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    k = len(seeds.rows)
    sizes = torch.bincount(seeds.label, weights=w, minlength=k)
    total = float(w @ seeds.cost)
    if total == 0:
        # Each cluster is one place: its centre with the whole weight is exact.
        return seeds.rows[sizes > 0], sizes[sizes > 0]
    costs = torch.bincount(seeds.label, weights=w * seeds.cost, minlength=k)
    filled = sizes.clamp(min=torch.finfo(torch.float64).tiny)
    local = (costs / filled / total + 1 / (filled * int((sizes > 0).sum())))[seeds.label]
    q = w * (seeds.cost / total + local) / 3
    rows, times = torch.unique(draw(q, m, generator), return_counts=True)
    mass = times * w[rows] / (m * q[rows])
    if not calibrate:
        return rows, mass
    label = seeds.label[rows]
    got = torch.bincount(label, weights=mass, minlength=k)
    mass = mass * (sizes / torch.where(got > 0, got, 1.0))[label]
    # A cluster without a sample is kept by its centre.
    missed = (got == 0) & (sizes > 0)
    return torch.cat([rows, seeds.rows[missed]]), torch.cat([mass, sizes[missed]])
