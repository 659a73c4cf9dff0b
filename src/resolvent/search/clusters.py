"""k-means for indexes: seeding by adaptive sampling, Lloyd's steps by matrix products, no cluster left empty."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.seeding import draw

# Distances of one block that are held at a time.
_BLOCK = 1 << 22
# Points per centre beyond which a sample serves as well as all data: further points hardly move a mean.
_PER_CENTRE = 256
_SEED_ROUNDS = 64


class KMeans(NamedTuple):
    """A partition into clusters.

    Attributes
    ----------
    centres : (k, d) float32
    labels : (n,) int64, the cluster of each row
    inertia : sum of the squared distances of the rows to their centres (spherical: of the unit rows to unit centres)
    iterations : Lloyd's steps taken
    """

    centres: Any
    labels: Any
    inertia: float
    iterations: int


def kmeans(
    x: Any,
    k: int,
    *,
    iterations: int = 25,
    rtol: float = 1e-4,
    sample: int | None = None,
    spherical: bool = False,
    generator: GeneratorLike = None,
) -> KMeans:
    r"""Partition rows into k clusters of small :math:`\sum_i \|x_i - c_{l(i)}\|^2`.

    Parameters
    ----------
    x : (n, d) array or tensor, n >= k
    k : number of clusters
    iterations : at most this many of Lloyd's steps
    rtol : stop when a step lowers the sum by less than this share
    sample : rows that take part in the steps, default at most 256 per cluster; all rows get a label
    spherical : clusters of directions: rows and centres are normalised
    generator : torch.Generator, int or None

    Returns
    -------
    KMeans
        arrays of the kind of `x`

    Raises
    ------
    ValueError
        k < 1 or k > n, NaN, or a zero row when spherical

    Notes
    -----
    Seeds by k-means++ (up to 64 clusters one at a time, beyond that in 64 rounds of several), then Lloyd: each step
    2 n k d flops by products of blocks. A cluster that loses its last row takes the row that is farthest from its own
    centre. The result is a local optimum; there is no gradient.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> np.sort(kmeans(x, 2, generator=0).centres, axis=0).ravel().round(2)
    array([0.05, 5.05], dtype=float32)
    """
    t, kind = as_tensor(x, "x")
    if t.ndim != 2 or t.is_complex():
        raise ValueError(f"x must be a real (n, d) array, got {t.dtype} of shape {tuple(t.shape)}")
    rows = t.detach().float()
    check_finite(rows, "x")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(rows):
        raise ValueError(f"k must be an integer from 1 to the number of rows, {len(rows)}, got {k!r}")
    k = int(k)
    if iterations < 0:
        raise ValueError(f"iterations must not be negative, got {iterations}")
    g = as_generator(generator)
    # Squares of entries near 1e20 or 1e-25 leave the range of float32; a power of two takes no digits.
    largest = float(rows.abs().amax())
    unit = 2.0 ** math.frexp(largest)[1] if largest and not 1e-12 < largest < 1e12 else 1.0
    rows = rows / unit if unit != 1 else rows
    if spherical:
        rows = _unit(rows)
    centre = torch.zeros_like(rows[0]) if spherical else rows.mean(0)
    some = _sampled(rows, sample or _PER_CENTRE * k, k, g) - centre
    centres = _seeds(some, k, g)
    before, steps = float("inf"), 0
    while steps < iterations:
        steps += 1
        labels, gaps = nearest_centres(some, centres)
        inertia = float(gaps.sum(dtype=torch.float64))
        centres = _means(some, labels, gaps, centres, spherical)
        if inertia >= before * (1 - rtol):
            break
        before = inertia
    labels, gaps = nearest_centres(rows - centre, centres)
    inertia = float(gaps.sum(dtype=torch.float64))
    centres = centres + centre if spherical else (centres + centre) * unit
    inertia = inertia if spherical else inertia * unit**2
    return KMeans(give_back(centres, kind), give_back(labels, kind), inertia, steps)


def nearest_centres(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each row, and its squared distance, float32."""
    lengths = (centres * centres).sum(1)
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    gaps = torch.empty(len(x), device=x.device)
    step = max(1, _BLOCK // (len(centres) + x.shape[1]))
    for a in range(0, len(x), step):
        part = x[a : a + step]
        least, where = torch.addmm(lengths, part, centres.mT, alpha=-2).min(1)
        labels[a : a + step] = where
        gaps[a : a + step] = least.add_((part * part).sum(1)).clamp_(min=0)
    return labels, gaps


def _seeds(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    """Rows far from each other: each round draws with probability proportional to the squared distance."""
    chosen = torch.randint(len(x), (1,), generator=g, device=g.device).to(x.device)
    gaps = (x - x[chosen]).square().sum(1)
    while len(chosen) < k:
        count = min(k - len(chosen), max(1, k // _SEED_ROUNDS))
        mass = gaps.clone()
        # Rounding leaves a chosen row a small distance to itself; copies of chosen rows come only when nothing else is left.
        mass[chosen] = 0
        if float(mass.sum()) <= 0:
            mass = torch.ones_like(gaps)
            mass[chosen] = 0
        new = draw(mass, count, g).unique()
        chosen = torch.cat([chosen, new])
        gaps = torch.minimum(gaps, nearest_centres(x, x[new])[1])
    return x[chosen].clone()


def _means(x: Tensor, labels: Tensor, gaps: Tensor, old: Tensor, spherical: bool) -> Tensor:
    """The mean of each cluster; empty ones take the rows that are served worst."""
    k = len(old)
    sizes = torch.bincount(labels, minlength=k)
    sums = torch.zeros_like(old).index_add_(0, labels, x)
    centres = sums / sizes.clamp(min=1)[:, None]
    empty = (sizes == 0).nonzero()[:, 0]
    if len(empty):
        centres[empty] = x[gaps.topk(len(empty)).indices]
    if spherical:
        lengths = torch.linalg.vector_norm(centres, dim=1, keepdim=True)
        # Opposite directions can cancel: such a centre stays.
        centres = torch.where(lengths > 1e-6, centres / lengths.clamp(min=1e-6), old)
    return centres


def _sampled(x: Tensor, size: int, k: int, g: torch.Generator) -> Tensor:
    if size < k:
        raise ValueError(f"sample must be at least k = {k}, got {size}")
    if size >= len(x):
        return x
    return x[torch.randperm(len(x), generator=g, device=g.device)[:size].to(x.device)]


def _unit(x: Tensor) -> Tensor:
    largest = x.abs().amax(1, keepdim=True)
    if bool((largest == 0).any()):
        raise ValueError(f"x has a zero row, which has no direction: row {int((largest[:, 0] == 0).nonzero()[0])}")
    scaled = x / largest
    return scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
