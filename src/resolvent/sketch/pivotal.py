"""Pivotal sampling: rows with prescribed probabilities, exactly k of them, spread out in space."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, real_dtype
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.leverage import leverage_scores
from resolvent.sketch.row_sampling import SampledRows, inclusion_probabilities, sampled

Order = Literal["tree", "given"]
Split = Literal["pca", "coordinate"]


def pivotal_sample(
    A: OperatorLike,
    k: int,
    *,
    order: Order = "tree",
    split: Split = "pca",
    coords: Any = None,
    scores: Any = None,
    generator: GeneratorLike = None,
) -> SampledRows:
    r"""Exactly k rows, row i with probability :math:`\min(1, c\,\tau_i)`, that repel each other where they are near.

    Parameters
    ----------
    A : (n, d) operator or anything `as_operator` takes
    k : number of rows
    order : who meets whom. "tree": up a binary tree of median splits; "given": each survivor meets the next row, for
        rows in order of a location in one dimension
    split : of the tree, along the top principal direction of the points ("pca") or along their coordinates in turn
    coords : (n, q) locations of the rows; default the rows of A themselves. For polynomial features give the points
        at which they are taken
    scores : (n,) in place of the leverage scores :math:`\tau`
    generator : of the contests

    Returns
    -------
    SampledRows
        With weights :math:`p_i^{-1/2}`: ``weights[:, None] * A[rows]`` keeps squared norms in expectation.

    Raises
    ------
    ValueError : k below 1 or beyond the rows with a positive score, coordinates that do not fit.

    Notes
    -----
    In a contest of rows with probabilities p and q, p + q up to 1, one is out and the winner (the first with
    probability p/(p + q)) carries p + q; above 1, one is in (the first with probability (1 - q)/(2 - p - q)) and the
    other carries p + q - 1. The marginal probabilities are exact, the outcomes negatively dependent. O(n log n) after
    the scores, O(n q^2 log n) for principal directions. Contests run on the host. No gradient: the rows are indices.

    References
    ----------
    "Improved Active Learning via Dependent Leverage Score Sampling"

    Examples
    --------
    >>> t = torch.linspace(-1, 1, 1000)[:, None]
    >>> sample = pivotal_sample(t ** torch.arange(4), 8, coords=t, generator=0)
    >>> len(sample.rows), round(float(sample.probabilities.sum()), 4)
    (8, 8.0)
    """
    A = as_operator(A, name="A")
    if A.batch_shape:
        raise ValueError(f"A must be one matrix here, got a batch {tuple(A.batch_shape)}")
    if order not in ("tree", "given"):
        raise ValueError(f"order must be 'tree' or 'given', got {order!r}")
    if split not in ("pca", "coordinate"):
        raise ValueError(f"split must be 'pca' or 'coordinate', got {split!r}")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be an int of at least 1, got {k!r}")
    q = row_probabilities(A, int(k), scores)
    host = q.cpu().numpy()
    points = None
    if order == "tree":
        found = A.detach()._dense() if coords is None else as_tensor(coords, "coords")[0]
        points = _points(found, len(host))
    drawn = torch.rand(len(host), generator=as_generator(generator), dtype=torch.float64)
    rows = torch.from_numpy(contests(host, points, split, drawn.cpu().numpy(), int(k))).to(q.device)
    return sampled(rows, q, 2, real_dtype(A.dtype), A.kind)


def row_probabilities(A: Any, k: int, scores: Any = None) -> Tensor:
    """min(1, c tau_i) that sum to k, as a float64 tensor."""
    if scores is None:
        tau = torch.as_tensor(leverage_scores(A.detach()))
    else:
        tau = as_tensor(scores, "scores")[0].to(A.device)
        if tuple(tau.shape) != (A.shape[0],):
            raise ValueError(f"scores must have shape ({A.shape[0]},), got {tuple(tau.shape)}")
    positive = int((tau > 0).sum())
    if k > positive:
        raise ValueError(f"k must be at most {positive}, the number of rows with a positive score, got {k}")
    return inclusion_probabilities(tau.detach(), k)


def contests(p: np.ndarray, points: np.ndarray | None, split: Split, drawn: np.ndarray, k: int) -> np.ndarray:
    """The k rows that win, increasing; rows of probability one win without a contest."""
    from resolvent.sketch import pivotal_kernel

    certain = p >= 1
    chosen = certain.copy()
    order = np.flatnonzero((p > 0) & ~certain)
    if len(order):
        p = p.copy()
        if points is None:
            last = pivotal_kernel.chain(order, p, drawn, chosen)
        else:
            pivotal_kernel.split(points, order, split == "pca")
            last = pivotal_kernel.tree(order, p, drawn, chosen)
        # The probabilities sum to an integer, so the last one is 0 or 1 but for rounding.
        chosen[last] = int(chosen.sum()) < k
    return np.flatnonzero(chosen)


def _points(coords: Tensor, n: int) -> np.ndarray:
    check_finite(coords, "coords")
    if coords.is_complex():
        coords = torch.view_as_real(coords.resolve_conj()).flatten(1)
    if coords.ndim == 1:
        coords = coords[:, None]
    if coords.ndim != 2 or len(coords) != n or coords.shape[1] < 1:
        raise ValueError(f"coords must have shape ({n}, q), got {tuple(coords.shape)}")
    return np.ascontiguousarray(coords.detach().cpu().double().numpy())
