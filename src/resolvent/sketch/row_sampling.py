"""A few reweighted rows of a matrix that keep an l_p norm on its whole range."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array, real_dtype
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.leverage import leverage_scores
from resolvent.sketch.lewis import check_exponent, lewis_weights
from resolvent.sketch.sensitivity import sensitivities

Scores = Literal["sensitivity", "lewis", "leverage", "root_leverage", "mixed", "uniform"]
_NAMES = ("sensitivity", "lewis", "leverage", "root_leverage", "mixed", "uniform")


class SampledRows(NamedTuple):
    """Rows drawn from a matrix.

    Attributes
    ----------
    rows : (m,) int64, their numbers, increasing
    weights : (m,) what each is multiplied with: ``weights[:, None] * A[rows]`` is the sample S A
    probabilities : (n,) with which each of the n rows was to be drawn

    Examples
    --------
    >>> SampledRows(torch.tensor([4]), torch.tensor([2.0]), torch.tensor([0.25]))._fields
    ('rows', 'weights', 'probabilities')
    """

    rows: Any
    weights: Any
    probabilities: Any


def sample_rows(
    A: OperatorLike,
    m: float | None = None,
    *,
    rtol: float | None = None,
    p: float = 2.0,
    scores: Scores | Any = "sensitivity",
    generator: GeneratorLike = None,
) -> SampledRows:
    r"""A subspace embedding by sampled rows: :math:`\|S A x\|_p = (1 \pm \varepsilon) \|A x\|_p` for all x.

    Parameters
    ----------
    A : (n, d) operator or anything `as_operator` takes
    m : how many rows to expect; or
    rtol : :math:`\varepsilon`, for as many rows as `sample_size` says
    p : at least 1, finite
    scores : what the probabilities are proportional to. "sensitivity": the upper bounds of `sensitivities`; "lewis":
        Lewis weights; "leverage"; "root_leverage": :math:`\tau^{p/2}`; "mixed": leverage scores and sensitivities,
        each over its sum; "uniform"; or an array (n,) of nonnegative numbers, for example exact sensitivities
    generator : of the draws

    Returns
    -------
    SampledRows
        With weights :math:`q_i^{-1/p}`, so that :math:`E \|S A x\|_p^p = \|A x\|_p^p` for every x.

    Raises
    ------
    ValueError : neither or both of `m` and `rtol`, m beyond the rows with a positive score, scores that are negative.

    Notes
    -----
    Row i is drawn by itself with probability :math:`q_i = \min(1, c\, s_i)`, c such that they sum to m; the size of
    the sample varies by about :math:`\sqrt m`. Costs what the scores cost. `lp_distortion` measures what came out.
    No gradient: the rows are indices.

    References
    ----------
    "Sharper Bounds for ell_p Sensitivity Sampling"

    Examples
    --------
    >>> A = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> sample = sample_rows(A, 200, p=1.0, generator=0)
    >>> SA = sample.weights[:, None] * A[sample.rows]
    >>> bool((SA.sum(1).abs().sum() / A.sum(1).abs().sum() - 1).abs() < 0.2)
    True
    """
    A = as_operator(A, name="A")
    check_exponent(p)
    if A.batch_shape:
        raise ValueError(f"A must be one matrix here, got a batch {tuple(A.batch_shape)}")
    if (m is None) == (rtol is None):
        raise ValueError(f"give one of m and rtol, got m = {m!r} and rtol = {rtol!r}")
    s = _scores(A.detach(), p, scores)
    if m is None:
        name: Any = scores if isinstance(scores, str) else "sensitivity"
        total = float(s.sum()) if name != "mixed" else float(_scores(A.detach(), p, "sensitivity").sum())
        m = min(sample_size(total, p, rtol or 0.0, scores=name, d=A.shape[1]), int((s > 0).sum()))
    q = inclusion_probabilities(s, m)
    g = as_generator(generator, s.device)
    drawn = torch.rand(len(q), generator=g, device=g.device, dtype=torch.float64).to(q.device) < q
    rows = drawn.nonzero()[:, 0]
    return sampled(rows, q, p, real_dtype(A.dtype), A.kind)


def sampled(rows: Tensor, q: Tensor, p: float, dtype: torch.dtype, kind: Kind) -> SampledRows:
    """The result, with weights q^{-1/p}, as the kind that came in."""
    weights = q[rows] ** (-1 / p)
    return SampledRows(*(give_back_array(t, kind) for t in (rows, weights.to(dtype), q.to(dtype))))


def inclusion_probabilities(scores: Any, m: float) -> Any:
    r"""The probabilities :math:`q_i = \min(1, c\, s_i)` that sum to m.

    Parameters
    ----------
    scores : (n,) nonnegative numbers
    m : their sum, positive and at most the number of positive scores

    Returns
    -------
    (n,) float64 tensor or array.

    Raises
    ------
    ValueError : a negative score, m not positive or too large.

    Notes
    -----
    The scores are sorted; the largest get probability one until the rest fits. O(n log n), exact up to rounding.

    Examples
    --------
    >>> inclusion_probabilities([1.0, 1.0, 8.0], 2)
    array([0.5, 0.5, 1. ])
    """
    s, kind = as_tensor(scores, "scores")
    check_finite(s, "scores")
    if s.ndim != 1 or s.is_complex() or bool((s < 0).any()):
        raise ValueError(f"scores must be (n,) numbers of at least 0, got shape {tuple(s.shape)}, smallest {s.min()}")
    positive = int((s > 0).sum())
    if not 0 < m <= positive:
        raise ValueError(f"m must be positive and at most {positive}, the number of positive scores, got {m!r}")
    s = s.detach().double()
    # Over the largest, so that no sum overflows.
    s = s / s.max()
    down = s.sort(descending=True).values
    # With the j largest certain, c = (m - j) / (sum of the others); the first j whose next score stays below one.
    rest = down.flip(0).cumsum(0).flip(0)
    j = torch.arange(len(s), device=s.device, dtype=s.dtype)
    factor = (m - j) / rest
    fits = (factor * down <= 1) & (j <= m)
    c = factor[fits.to(torch.int8).argmax()] if bool(fits.any()) else torch.full_like(factor[0], torch.inf)
    return give_back_array(torch.where(s > 0, (c * s).clamp(max=1), 0), kind)


def sample_size(total: float, p: float, rtol: float, *, scores: Scores = "sensitivity", d: int | None = None) -> int:
    r"""How many rows `sample_rows` should draw for a distortion `rtol`, by the rates of the paper with constant 1.

    Parameters
    ----------
    total : S, the sum of the scores
    p : at least 1, finite
    rtol : :math:`\varepsilon`, the distortion of the norm, between 0 and 1
    scores : as in `sample_rows`
    d : number of columns, for the rates that depend on it

    Returns
    -------
    int
        :math:`S^{2/p} / \varepsilon^2` for sensitivities and p up to 2, :math:`S^{2 - 2/p} / \varepsilon^2` above;
        :math:`d / \varepsilon^2` for Lewis weights or root leverage scores and p up to 2,
        :math:`d^{p/2} / \varepsilon^2` above; :math:`d^{2/p} S^{2 - 4/p} / \varepsilon^2` for "mixed" and p > 2.
        The logarithmic factors are left out.

    Raises
    ------
    ValueError : p or rtol out of range, d missing where it is needed.

    Notes
    -----
    A rate, not a guarantee for every matrix: `lp_distortion` measures. Before this paper the sensitivity bound was
    :math:`S d / \varepsilon^2`.

    References
    ----------
    "Sharper Bounds for ell_p Sensitivity Sampling"

    Examples
    --------
    >>> sample_size(10.0, 1.0, 0.5), sample_size(10.0, 2.0, 0.5)
    (400, 40)
    """
    check_exponent(p)
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
    if not 0 < total < math.inf:
        raise ValueError(f"total must be positive, got {total!r}")
    if scores == "sensitivity":
        rows = total ** (2 / p if p <= 2 else 2 - 2 / p)
    elif d is None:
        raise ValueError(f"d is needed for scores {scores!r}")
    elif scores == "mixed":
        rows = total ** (2 / p) if p <= 2 else d ** (2 / p) * total ** (2 - 4 / p)
    elif scores in ("lewis", "root_leverage", "leverage"):
        rows = float(d) ** max(1, p / 2)
    else:
        raise ValueError(f"scores {scores!r} have no rate; give m")
    return math.ceil(rows / rtol**2)


def _scores(A: Operator, p: float, scores: Scores | Any) -> Tensor:
    """The scores as a tensor (n,)."""
    n = A.shape[0]
    if not isinstance(scores, str):
        s, _ = as_tensor(scores, "scores")
        if tuple(s.shape) != (n,):
            raise ValueError(f"scores must have shape ({n},), got {tuple(s.shape)}")
        return s.to(A.device)
    if scores not in _NAMES:
        raise ValueError(f"scores must be one of {', '.join(_NAMES)} or an array, got {scores!r}")
    if scores == "uniform":
        return torch.ones(n, device=A.device)
    if scores == "lewis":
        found = lewis_weights(A, p, rtol=1e-4)
    elif scores == "sensitivity":
        found = sensitivities(A, p)
    else:
        found = leverage_scores(A)
    s = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
    if scores == "root_leverage":
        return s ** (p / 2)
    if scores == "mixed":
        other = torch.as_tensor(sensitivities(A, p))
        return s / s.sum() + other / other.sum()
    return s
