"""Local intrinsic dimension: how fast the number of neighbours grows with the distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from resolvent.operators.arrays import as_tensor, give_back


def local_intrinsic_dimension(x: Any, k: int = 100) -> Any:
    r"""Intrinsic dimension around each row, by maximum likelihood.

    .. math:: \mathrm{LID}(x) = -\Bigl(\frac1k \sum_{i=1}^k \ln\frac{r_i}{r_k}\Bigr)^{-1}

    over the distances :math:`r_1 \le \dots \le r_k` to the k nearest other rows; zero distances are dropped.

    Parameters
    ----------
    x : (n, d) array or tensor, finite, n >= 3
    k : neighbours, at least 2; more than n - 1 means all

    Returns
    -------
    (n,) float32 of the kind of `x`. A row whose neighbours are all equally far has infinite dimension; a row with fewer
    than two neighbours at a positive distance (copies of itself only) has dimension 0.

    Raises
    ------
    ValueError : x is not a finite matrix of at least 3 rows, or k < 2

    Notes
    -----
    The neighbours are exact: n^2 d operations as matrix products, distances by differences. The standard error of one
    value is about LID / sqrt(k); the mean over rows is the value of a data set. No gradients.

    References
    ----------
    "The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in Hierarchical Navigable Small Worlds"

    Examples
    --------
    >>> import numpy as np
    >>> g = np.random.default_rng(0)
    >>> plane = g.random((2000, 2)) @ g.normal(size=(2, 50))
    >>> round(float(local_intrinsic_dimension(plane).mean()), 1)
    2.0
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 2:
        raise ValueError(f"k must be an integer of at least 2, got {k!r}")
    t, kind = as_tensor(x, "x")
    if t.ndim != 2 or t.shape[0] < 3:
        raise ValueError(f"x must have shape (n, d) with n >= 3, got {tuple(t.shape)}")
    from resolvent.search.exact import knn_graph

    hits = knn_graph(t.detach().cpu().float(), min(int(k), t.shape[0] - 1), "l2")
    return give_back(torch.from_numpy(dimension_of(-hits.scores.numpy())).to(t.device), kind)


def dimension_of(squares: np.ndarray) -> np.ndarray:
    """The dimensions (n,) that the squared distances (n, k) to nearest rows speak for."""
    squares = np.maximum(squares.astype(np.float64), 0)
    positive = squares > 0
    count = positive.sum(1)
    last = squares.max(1, keepdims=True)
    ratios = np.log(squares, out=np.zeros_like(squares), where=positive)
    total = (np.where(positive, np.log(last, out=np.zeros_like(last), where=last > 0) - ratios, 0) / 2).sum(1)
    value = np.divide(count, total, out=np.full(len(total), np.inf), where=total > 0)
    value[count < 2] = 0
    return value.astype(np.float32)
