"""Points on a line made few for the k-median problem: consecutive blocks, each replaced by its mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back


class Coreset(NamedTuple):
    """Few weighted points that cost what many cost, whatever the centres are.

    Attributes
    ----------
    points : (m,) or (m, d)
    weights : (m,) positive; they sum to the weight of all points
    """

    points: Any
    weights: Any


def coreset_1d(x: Any, k: int, eps: float = 0.1, weights: Any = None) -> Coreset:
    r"""Weighted points on a line whose k-median costs are within :math:`1 \pm` eps of those of x, for all centres.

    .. math:: \Big| \sum_j w_j \min_c |s_j - c| - \sum_i \min_c |x_i - c| \Big| \le \varepsilon \sum_i \min_c |x_i - c|
        \quad \text{for every set of } k \text{ centres } c

    Parameters
    ----------
    x : (n,) points
    k : number of centres, at least 1
    eps : relative error, positive and below 1
    weights : (n,) of the points, nonnegative; None means 1 each

    Returns
    -------
    Coreset of the kind, dtype and device of x: points in ascending order with their weights. Total weight and weighted
    mean are those of x. The bound is proven, not estimated. Points have gradients with respect to x and the weights,
    weights with respect to the weights, the blocks held fixed.

    Raises
    ------
    ValueError : x is not a non-empty finite vector; k, eps or weights are out of their range.

    Notes
    -----
    Points are cut into consecutive blocks; each becomes its mean, with its weight. A block changes the cost by at most
    its spread ``sum |x - mean|``, and only where a centre (it then loses) or a border of clusters (it then gains)
    falls into it. As the two signs differ, k blocks count, not 2 k - 1 as in the paper. k >= 2: the longest blocks
    whose spread is at most eps / k times a lower bound of the optimum, which a dynamic program on a coarse coreset
    gives within a few percent (25 percent for k > 64): at most about 4 k / eps points. k = 1: the centre in a block pays at least what its
    end nearest to the median pays, so that blocks grow with their distance from it: about eps^(-1/2) points, up to a
    logarithm. O(n log n) for sorting and a few passes, on the host; computed in float64, rounded to the dtype of x.

    References
    ----------
    "On Coresets for Clustering in Small Dimensional Euclidean Spaces"

    Examples
    --------
    >>> import torch
    >>> points, weights = coreset_1d(torch.linspace(0, 1, 100_000), k=1, eps=0.01)
    >>> len(points) < 20, float(weights.sum())
    (True, 100000.0)
    """
    t, kind = as_tensor(x, "x")
    if t.ndim != 1 or t.is_complex() or not len(t):
        raise ValueError(f"x must be a non-empty real vector, got shape {tuple(t.shape)} of {t.dtype}")
    check_finite(t, "x")
    w = point_weights(weights, t)
    check_sizes(k, eps)
    order = torch.argsort(t.detach(), stable=True)
    order = order[w.detach()[order] > 0]
    points, mass = t[order], w[order]
    starts = block_starts(points.detach(), mass.detach(), k, eps)
    return hand_back(*means_of_blocks(points[:, None], mass, starts), t.dtype, kind, flat=True)


def block_starts(points: Tensor, mass: Tensor, k: int, eps: float) -> Tensor:
    """Where the blocks of ascending points begin."""
    x = points.to("cpu", torch.float64).contiguous().numpy()
    # A power of two changes no digit, and keeps products of large numbers within range.
    x = np.ldexp(x, -int(np.frexp(np.abs(x).max())[1]))
    w = mass.to("cpu", torch.float64).contiguous().numpy()
    found = _for_one_centre(x, w, eps) if k == 1 else _for_many_centres(x, w, k, eps)
    return torch.from_numpy(found).to(points.device)


def _for_one_centre(x: np.ndarray, w: np.ndarray, eps: float) -> np.ndarray:
    from resolvent.sketch import coreset_line_kernel as kernel

    middle = int(np.searchsorted(w.cumsum(), w.sum() / 2))
    # Equal points stay together.
    middle = int(np.searchsorted(x, x[min(middle, len(x) - 1)], side="right")) - 1
    below = eps * kernel.outward(x, w, middle)
    starts = np.empty(len(x) + 1, np.int64)
    count, _ = kernel.blocks(x, w, 0, middle + 1, below, starts)
    left = starts[:count].copy()
    # The right half in a mirror: its blocks too begin far from the median.
    mirrored = [np.ascontiguousarray(part[:middle:-1]) for part in (-x, w, below)]
    n = len(mirrored[0])
    count, _ = kernel.blocks(mirrored[0], mirrored[1], 0, n, mirrored[2], starts)
    ends = np.append(starts[:count], n)[1:]
    right = len(x) - ends[::-1]
    return np.concatenate([left, right]).astype(np.int64)


def _for_many_centres(x: np.ndarray, w: np.ndarray, k: int, eps: float) -> np.ndarray:
    least, _ = median_bounds(x, w, k)
    from resolvent.sketch import coreset_line_kernel as kernel

    starts = np.empty(len(x) + 1, np.int64)
    count, _ = kernel.blocks(x, w, 0, len(x), np.full(len(x), eps * least / k), starts)
    return starts[:count]


def median_bounds(x: np.ndarray, w: np.ndarray, k: int) -> tuple[float, float]:
    """A lower and an upper bound of the optimal k-median cost of ascending points with positive weights.

    A coreset with blocks of spread at most s has costs within k s of the data's, so that its exact optimum and the
    data's cost at its centres enclose the optimum. s is made finer until they are close.
    """
    from resolvent.sketch import coreset_line_kernel as kernel

    starts = np.empty(len(x) + 1, np.int64)
    total = w.cumsum()
    quantiles = np.searchsorted(total, (np.arange(k) + 0.5) / k * total[-1])
    upper = kernel.cost_of(x, w, np.unique(x[np.minimum(quantiles, len(x) - 1)]))
    share = 0.02 if k <= 64 else 0.1
    coarse = 0.25
    lower = 0.0
    while upper > 0:
        limit = np.full(len(x), coarse * upper / k)
        count, spread = kernel.blocks(x, w, 0, len(x), limit, starts)
        points, mass = _means(x, w, starts[:count])
        value, centres = kernel.best_medians(points, mass, k)
        found = kernel.cost_of(x, w, np.unique(centres))
        lower = max(lower, value * (1 - 1e-12) - k * spread)
        halved = found < upper / 2
        upper = min(upper, found)
        if not halved:
            if coarse <= share:
                break
            coarse = share
    return lower, upper


def _means(x: np.ndarray, w: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mass = np.add.reduceat(w, starts)
    first = x[starts]
    lengths = np.diff(np.append(starts, len(x)))
    offset = np.add.reduceat(w * (x - np.repeat(first, lengths)), starts)
    return first + offset / mass, mass


def means_of_blocks(points: Tensor, mass: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Means (m, d) and weights of consecutive blocks of points (n, d), in float64, with gradients."""
    points, mass = points.to(torch.float64), mass.to(torch.float64)
    count = len(starts)
    ends = torch.cat([starts[1:], starts.new_tensor([len(mass)])])
    block = torch.repeat_interleave(torch.arange(count, device=starts.device), ends - starts)
    total = mass.new_zeros(count).index_add(0, block, mass)
    # From the first point of the block on, so that tight blocks far from zero keep their digits.
    first = points[starts]
    offset = points.new_zeros(count, points.shape[1]).index_add(0, block, mass[:, None] * (points - first[block]))
    return first + offset / total[:, None], total


def point_weights(weights: Any, like: Tensor, name: str = "weights") -> Tensor:
    """Weights (n,) in float64 on the device of the points."""
    n = len(like)
    if weights is None:
        return torch.ones(n, dtype=torch.float64, device=like.device)
    w, _ = as_tensor(weights, name)
    if w.shape != (n,) or w.is_complex():
        raise ValueError(f"{name} must be real of shape ({n},), got {tuple(w.shape)} of {w.dtype}")
    check_finite(w, name)
    w = w.to(device=like.device, dtype=torch.float64)
    total = float(w.detach().sum())
    if bool((w < 0).any()) or not 0 < total < np.inf:
        least = float(w.detach().min())
        raise ValueError(
            f"{name} must be nonnegative with a finite positive sum, got {total:.3g}, the least is {least:.3g}"
        )
    return w


def check_sizes(k: Any, eps: Any) -> None:
    """Refuse a number of centres or an error that make no sense."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be an int of at least 1, got {k!r}")
    if isinstance(eps, bool) or not isinstance(eps, int | float | np.floating) or not 0 < eps < 1:
        raise ValueError(f"eps must be between 0 and 1, got {eps!r}")


def check_power(z: Any) -> None:
    """Refuse a power of distances below 1 or without a value."""
    if isinstance(z, bool) or not isinstance(z, int | float) or not 1 <= z < np.inf:
        raise ValueError(f"z must be a finite number of at least 1, got {z!r}")


def hand_back(points: Tensor, mass: Tensor, dtype: torch.dtype, kind: Kind, *, flat: bool = False) -> Coreset:
    """The coreset in the dtype and kind that came in."""
    points = points[:, 0] if flat else points
    return Coreset(give_back(points.to(dtype), kind), give_back(mass.to(dtype), kind))
