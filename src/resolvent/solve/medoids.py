"""Clusters around medoids: a partition from a matrix of dissimilarities alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator

# A swap must lower the cost by more than rounding errors of its sum do.
_GAIN = 1e-12


class Medoids(NamedTuple):
    """A partition around medoids.

    Attributes
    ----------
    labels : (m,) the cluster of each point, int64
    medoids : (k,) the indices of the points that the clusters are around
    cost : the sum of the dissimilarities of all points to their medoids
    """

    labels: Any
    medoids: Any
    cost: Any


def k_medoids(dissimilarity: Any, n_clusters: int, *, starts: int = 10, generator: GeneratorLike = None) -> Medoids:
    r"""Partition points around medoids: :math:`\min_{j_1, \dots, j_k} \sum_i \min_l d(i, j_l)`.

    Parameters
    ----------
    dissimilarity : (m, m) numbers of at least 0, the diagonal 0; no triangle inequality is needed
    n_clusters : from 1 to m
    starts : the best of so many random starts is kept
    generator : of the starts

    Returns
    -------
    Medoids

    Raises
    ------
    ValueError : a matrix that is not square or has negative entries, a diagonal that is not zero, `n_clusters` out of
        range.

    Notes
    -----
    Partitioning around medoids: a start by D sampling (k-medoids++), then the swap of a medoid and a point that lowers
    the cost the most, until there is none. One product of an m x m matrix with k indicators gives the costs of all
    k (m - k) swaps: O(k m^2) flops and 3 m^2 numbers of memory a swap. The result is a minimum with respect to swaps,
    which need not be the global one. There is no gradient.

    References
    ----------
    "Physics-informed cluster analysis and a priori efficiency criterion for the construction of local reduced-order bases"

    Examples
    --------
    >>> import torch
    >>> t = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.2, 5.1])
    >>> found = k_medoids((t[:, None] - t).abs(), 2, generator=0)
    >>> found.medoids.sort().values.tolist(), bool(torch.isclose(found.cost, torch.tensor(0.4)))
    ([1, 5], True)
    """
    D, kind = as_tensor(dissimilarity, "dissimilarity")
    if D.ndim != 2 or D.shape[0] != D.shape[1] or 0 in D.shape or D.is_complex():
        raise ValueError(f"dissimilarity must be a real (m, m) matrix, got {D.dtype} of shape {tuple(D.shape)}")
    check_finite(D, "dissimilarity")
    if bool((D < 0).any()) or bool(D.diagonal().any()):
        raise ValueError("dissimilarity must have no negative entries and a diagonal of zeros")
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int) or not 1 <= n_clusters <= len(D):
        raise ValueError(f"n_clusters must be an int from 1 to the number of points {len(D)}, got {n_clusters!r}")
    if starts < 1:
        raise ValueError(f"starts must be at least 1, got {starts}")
    g = as_generator(generator, D.device)
    with torch.no_grad():
        runs = [_swapped(D, _spread(D, n_clusters, g)) for _ in range(starts)]
        costs = torch.stack([D[:, chosen].amin(dim=1).sum() for chosen in runs])
        chosen = runs[int(costs.argmin())]
        labels = nearest(D, chosen)
    return Medoids(*(give_back(t, kind) for t in (labels, chosen, costs.min())))


def nearest(D: Tensor, chosen: Tensor) -> Tensor:
    """(m,) the place of each point's nearest medoid; a medoid belongs to itself, also where another is as near."""
    labels = D[:, chosen].argmin(dim=1)
    labels[chosen] = torch.arange(len(chosen), device=D.device)
    return labels


def _spread(D: Tensor, k: int, g: torch.Generator) -> Tensor:
    """k different points: the first at random, each other with a chance in proportion to its dissimilarity."""
    chosen = torch.randint(len(D), (1,), generator=g, device=g.device).to(D.device)
    for _ in range(k - 1):
        mass = D[:, chosen].amin(dim=1).double()
        # Points that coincide with medoids are left to the end.
        mass = torch.where(mass > 0, mass, torch.finfo(D.dtype).tiny)
        mass[chosen] = 0
        drawn = torch.multinomial(mass.to(g.device) / mass.sum().to(g.device), 1, generator=g)
        chosen = torch.cat([chosen, drawn.to(D.device)])
    return chosen


def _swapped(D: Tensor, chosen: Tensor) -> Tensor:
    k = len(chosen)
    columns = torch.arange(len(D), device=D.device)
    while True:
        near = D[:, chosen].topk(min(2, k), dim=1, largest=False)
        first = near.values[:, :1]
        # Without a second medoid a removed one leaves its points to the new one alone.
        second = near.values[:, 1:] if k > 1 else torch.full_like(first, torch.inf)
        kept = torch.minimum(D, first)
        # Moves of all points to a new medoid, and for those of the removed one what staying is no longer possible.
        change = (kept - first).sum(dim=0) + D.new_zeros(k, len(D)).index_add_(
            0, near.indices[:, 0], torch.minimum(D, second) - kept
        )
        change[:, chosen] = torch.inf
        best = int(change.argmin())
        cost = first.sum()
        if k == len(D) or not bool(change.view(-1)[best] < -_GAIN * cost):
            return chosen
        chosen = chosen.clone()
        chosen[best // len(D)] = columns[best % len(D)]
