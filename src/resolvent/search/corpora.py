"""Synthetic vectors with the structure of embeddings: clusters of low intrinsic dimension, spectra that decay, norms that differ."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from resolvent.random import GeneratorLike, as_generator


class VectorCorpus(NamedTuple):
    """Stored vectors and queries of one distribution.

    Attributes
    ----------
    x : (n, dim) float32
    queries : (n_queries, dim) float32, fresh draws, none of them stored
    labels : (n,) int64, the cluster of each row
    """

    x: Tensor
    queries: Tensor
    labels: Tensor


def clustered_vectors(
    n: int,
    dim: int,
    *,
    intrinsic_dim: int | None = None,
    clusters: int = 100,
    spread: float = 0.5,
    noise: float = 0.02,
    n_queries: int = 100,
    generator: GeneratorLike = None,
) -> VectorCorpus:
    r"""Draw vectors as embeddings lie: clusters of unequal size, each flat in a few directions of its own.

    A row is :math:`c_l + s\,B_l z + \epsilon` with a centre :math:`c_l` of unit variance per entry, an orthonormal basis
    :math:`B_l` of `intrinsic_dim` directions, coefficients z whose variance decays like 1/j, and isotropic noise.

    Parameters
    ----------
    n : rows
    dim : length of a row
    intrinsic_dim : directions of a cluster, default ``min(dim, 12)``
    clusters : how many; their sizes follow a power law of exponent 1/2
    spread : size of a cluster relative to the distance of the centres
    noise : deviation of the isotropic part, relative to the centres' entries
    n_queries : fresh rows of the same distribution
    generator : torch.Generator, int or None

    Returns
    -------
    VectorCorpus

    Examples
    --------
    >>> corpus = clustered_vectors(1000, 32, n_queries=5, generator=0)
    >>> corpus.x.shape, corpus.queries.shape, int(corpus.labels.max())
    (torch.Size([1000, 32]), torch.Size([5, 32]), 99)
    """
    directions = min(dim, 12) if intrinsic_dim is None else intrinsic_dim
    for name, value, least in (("n", n, 1), ("dim", dim, 1), ("clusters", clusters, 1), ("n_queries", n_queries, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if not 1 <= directions <= dim:
        raise ValueError(f"intrinsic_dim must be from 1 to dim = {dim}, got {intrinsic_dim!r}")
    g = as_generator(generator)
    total = n + n_queries
    centres = torch.randn(clusters, dim, generator=g)
    share = torch.arange(1, clusters + 1, dtype=torch.float64) ** -0.5
    labels = torch.multinomial(share, total, replacement=True, generator=g)
    # A row of its own in every cluster while there are enough rows.
    first = min(clusters, n)
    labels[:first] = torch.arange(first)
    decay = torch.arange(1, directions + 1) ** -0.5
    decay = decay * (dim / decay.square().sum()).sqrt()
    rows = torch.empty(total, dim)
    for c in range(clusters):
        mine = (labels == c).nonzero()[:, 0]
        basis = torch.linalg.qr(torch.randn(dim, directions, generator=g)).Q
        z = torch.randn(len(mine), directions, generator=g) * decay
        rows[mine] = centres[c] + spread * (z @ basis.mT)
    rows += noise * torch.randn(total, dim, generator=g)
    order = torch.randperm(n, generator=g)
    return VectorCorpus(rows[:n][order], rows[n:], labels[:n][order])
