"""Regression from few labels: choose the rows whose values are worth asking for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.leverage import cutoff
from resolvent.sketch.pivotal import Order, Split, pivotal_sample, row_probabilities

Method = Literal["pivotal", "bernoulli", "replacement", "uniform"]


class ActiveFit(NamedTuple):
    """A least squares fit to a few queried values.

    Attributes
    ----------
    coefficients : (d,) or (d, t)
    rows : (k,) int64, the rows that were queried
    weights : (k,) of the rows, :math:`p_i^{-1/2}`
    values : (k,) or (k, t), what the query answered

    Examples
    --------
    >>> ActiveFit(torch.ones(1), torch.tensor([0]), torch.ones(1), torch.ones(1)).rows
    tensor([0])
    """

    coefficients: Any
    rows: Any
    weights: Any
    values: Any


def active_regression(
    A: OperatorLike,
    query: Callable[[Any], Any] | Any,
    k: int,
    *,
    method: Method = "pivotal",
    order: Order = "tree",
    split: Split = "pca",
    coords: Any = None,
    scores: Any = None,
    generator: GeneratorLike = None,
) -> ActiveFit:
    r"""Least squares :math:`\min_x \|A x - b\|` from k entries of b, chosen before any is seen.

    Parameters
    ----------
    A : (n, d) operator or anything `as_operator` takes
    query : takes row numbers (int64, of the kind of A) and returns the values b there, (k,) or (k, t); or all of b, of
        which only those entries are read
    k : how many values to ask for; "bernoulli" asks for k in expectation
    method : "pivotal"; "bernoulli" draws every row by itself, "replacement" one after the other, both by leverage
        scores; "uniform" draws k different rows
    order, split, coords : of the pivotal tree, see `pivotal_sample`
    scores : (n,) in place of the leverage scores
    generator : of the draws

    Returns
    -------
    ActiveFit

    Raises
    ------
    ValueError : k out of range, an answer of the wrong length or with NaN.

    Notes
    -----
    Minimizes :math:`\sum_i (a_i^T x - b_i)^2 / p_i` over the sample, by an SVD of k rows: the solution of least norm
    where the sample does not determine it. With :math:`k = O(d \log d + d/\varepsilon)` the residual is within
    :math:`1 + \varepsilon` of the best for any b; for polynomials in one variable pivotal samples need O(d).
    Gradients flow from the answers to the coefficients; A has none.

    References
    ----------
    "Improved Active Learning via Dependent Leverage Score Sampling"

    Examples
    --------
    >>> t = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None]
    >>> fit = active_regression(t ** torch.arange(4), lambda rows: t[rows, 0] ** 3, 8, coords=t, generator=0)
    >>> bool(torch.allclose(fit.coefficients, torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)))
    True
    """
    A = as_operator(A, name="A")
    n = A.shape[0]
    g = as_generator(generator)
    if method == "pivotal":
        sample = pivotal_sample(A, k, order=order, split=split, coords=coords, scores=scores, generator=g)
        rows, weights = (torch.as_tensor(t) for t in (sample.rows, sample.weights))
    elif method in ("bernoulli", "replacement", "uniform"):
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
            raise ValueError(f"k must be an int from 1 to {n}, got {k!r}")
        rows, weights = _independent(A, k, method, scores, g)
    else:
        raise ValueError(f"method must be pivotal, bernoulli, replacement or uniform, got {method!r}")
    asked = give_back_array(rows, A.kind)
    values, _ = as_tensor(query(asked) if callable(query) else query[asked], "query")
    if values.ndim not in (1, 2) or len(values) != len(rows):
        raise ValueError(f"query must answer with shape ({len(rows)},) or ({len(rows)}, t), got {tuple(values.shape)}")
    check_finite(values, "query")
    values = values.to(A.device, torch.promote_types(A.dtype, values.dtype))
    coefficients = _least_squares(_rows(A.detach(), rows), weights, values)
    return ActiveFit(*(give_back_array(t, A.kind) for t in (coefficients, rows, weights, values)))


def _rows(A: Operator, rows: Tensor) -> Tensor:
    return A._entries(rows.to(A.device), torch.arange(A.shape[1], device=A.device))


def _independent(A: Operator, k: int, method: Method, scores: Any, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and weights of the samplings that pivotal sampling is compared with."""
    n, real = A.shape[0], torch.empty(0, dtype=A.dtype).real.dtype
    if method == "uniform":
        rows = torch.randperm(n, generator=g)[:k].sort().values.to(A.device)
        return rows, torch.full((k,), (n / k) ** 0.5, dtype=real, device=A.device)
    q = row_probabilities(A, k, scores)
    if method == "bernoulli":
        rows = (torch.rand(n, generator=g, dtype=torch.float64).to(q.device) < q).nonzero()[:, 0]
        return rows, q[rows].rsqrt().to(real)
    # A leverage score can be one, the shares of draws with replacement are scores over their sum.
    share = row_probabilities(A, 1, scores)
    edges = share.cumsum(0)
    drawn = torch.rand(k, generator=g, dtype=torch.float64).to(q.device) * edges[-1]
    rows = torch.searchsorted(edges, drawn).clamp(max=n - 1).sort().values
    return rows, (k * share[rows]).rsqrt().to(real)


def _least_squares(X: Tensor, weights: Tensor, b: Tensor) -> Tensor:
    if not len(X):
        return b.new_zeros(X.shape[1], *b.shape[1:])
    scaled = weights[:, None] * X
    U, s, Vh = torch.linalg.svd(scaled.to(b.dtype), full_matrices=False)
    inverse = torch.where(s > cutoff(s, X.shape), 1 / s, 0)
    right = (weights[:, None] * b.reshape(len(b), -1)).to(b.dtype)
    x = Vh.mH @ (inverse[:, None] * (U.mH @ right))
    return x.reshape(-1, *b.shape[1:])
