"""Are two databases of Gaussian rows correlated, when nobody knows which row belongs to which: tests and data."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.sketch.detection_bounds import best_count_level, count_probabilities

Test = Literal["sum", "assignment", "count", "likelihood"]
_TESTS = ("sum", "assignment", "count", "likelihood")
# Rows up to which the likelihood is exact: n 2^n multiplications for a matrix.
_EXACT_ROWS = 20


class CorrelatedDatabases(NamedTuple):
    """Two databases and the permutation between them; row i of `X` belongs to row ``permutation[i]`` of `Y`.

    Attributes
    ----------
    X, Y : (*batch, n, d)
    permutation : (*batch, n) int64

    Examples
    --------
    >>> correlated_databases(4, 2, 0.5, generator=0).X.shape
    torch.Size([4, 2])
    """

    X: Tensor
    Y: Tensor
    permutation: Tensor


class Detection(NamedTuple):
    """The outcome of `detect`.

    Attributes
    ----------
    statistic : (*batch,) the number that the test looks at; for "likelihood" its logarithm
    threshold : the test says "correlated" above it
    correlated : (*batch,) bool

    Examples
    --------
    >>> X, Y, _ = correlated_databases(50, 30, 0.9, generator=0)
    >>> bool(detect(X, Y, 0.9).correlated)
    True
    """

    statistic: Any
    threshold: float
    correlated: Any


def correlated_databases(
    n: int,
    d: int,
    rho: float,
    *,
    batch: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    generator: GeneratorLike = None,
) -> CorrelatedDatabases:
    r"""Two standard Gaussian databases whose rows correlate with `rho` after an unknown permutation.

    Parameters
    ----------
    n, d : rows (users) and columns (features)
    rho : correlation of matching entries, between -1 and 1; 0 gives independent databases, the null hypothesis
    batch : how many pairs, as leading dimensions
    dtype, device : real dtype and place of the numbers
    generator : of rows and permutations

    Returns
    -------
    CorrelatedDatabases

    Raises
    ------
    ValueError : `n` or `d` is not positive, `rho` is not between -1 and 1.

    Notes
    -----
    :math:`Y_{\sigma(i)} = \rho X_i + \sqrt{1 - \rho^2} Z_i` with a uniform permutation. There is no gradient with
    respect to `rho`.

    References
    ----------
    "Phase Transitions in the Detection of Correlated Databases"

    Examples
    --------
    >>> X, Y, sigma = correlated_databases(1000, 20, 0.8, generator=0)
    >>> round(float((X * Y[sigma]).mean()), 1)
    0.8
    """
    for name, value in (("n", n), ("d", d)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if not -1 <= rho <= 1:
        raise ValueError(f"rho must be between -1 and 1, got {rho}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a real floating dtype, got {dtype}")
    g = as_generator(generator, device)
    X, Z = gaussian((*batch, n, d), dtype, device, g), gaussian((*batch, n, d), dtype, device, g)
    sigma = torch.rand(*batch, n, device=g.device, generator=g, dtype=torch.float64).argsort(-1).to(X.device)
    Y = torch.empty_like(X).scatter_(
        -2, sigma[..., None].expand(X.shape), rho * X + math.sqrt((1 - rho) * (1 + rho)) * Z
    )
    return CorrelatedDatabases(X, Y, sigma)


def detect(
    X: Any,
    Y: Any,
    rho: float,
    *,
    test: Test = "sum",
    samples: int = 1000,
    generator: GeneratorLike = None,
) -> Detection:
    r"""Decide whether two databases are independent or have rows that correlate with `rho` in an unknown order.

    Parameters
    ----------
    X, Y : (*batch, n, d) real, of one shape; leading dimensions are pairs to decide on
    rho : the correlation to look for, between -1 and 1, neither 0 nor the ends
    test : "sum", :math:`|\langle \sum_i X_i, \sum_j Y_j\rangle| > |\rho| n d / 2`, which works for any n once
        :math:`\rho^2 d` is large; "assignment", the best matching
        :math:`\max_\sigma \sum_i \langle X_i, Y_{\sigma(i)}\rangle` (of -Y for negative rho) against the same number;
        "count", how many of the n^2 pairs have a log-likelihood ratio above d tau, with tau the best by
        `detection_bounds`; "likelihood", the optimal test: the likelihood ratio averaged over all permutations above 1
    samples : permutations drawn for "likelihood" with more than 20 rows
    generator : of those permutations

    Returns
    -------
    Detection : arrays of the kind of X; Python numbers for one pair in NumPy.

    Raises
    ------
    ValueError : shapes that differ, NaN or infinity, complex numbers, `rho` or `samples` out of range.

    Notes
    -----
    The sum costs O(n d). The likelihood is a permanent over n!, by subsets in n 2^n steps without cancellation up to 20
    rows; beyond that it is the mean over permutations drawn row by row in proportion to the likelihood ratios, an
    unbiased estimate of large variance where `rho` is large. Assignments and permanents are found on the host. The
    statistics "sum" (and "assignment" with the matching held) have gradients; "count", "likelihood" and the decisions
    have none.

    References
    ----------
    "Phase Transitions in the Detection of Correlated Databases"

    Examples
    --------
    >>> X, Y, _ = correlated_databases(6, 40, 0.7, generator=1)
    >>> [bool(detect(X, Y, 0.7, test=t).correlated) for t in ("assignment", "count", "likelihood")]
    [True, True, True]
    """
    if test not in _TESTS:
        raise ValueError(f"test must be one of {', '.join(_TESTS)}, got {test!r}")
    if not 0 < abs(rho) < 1:
        raise ValueError(f"rho must be between -1 and 1, and not 0, got {rho}")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be an int of at least 1, got {samples!r}")
    (x, kind), (y, _) = as_tensor(X, "X"), as_tensor(Y, "Y")
    for name, t in (("X", x), ("Y", y)):
        if t.is_complex() or t.ndim < 2 or 0 in t.shape[-2:]:
            raise ValueError(f"{name} must be real with shape (..., n, d), got {tuple(t.shape)} of {t.dtype}")
        check_finite(t, name)
    if x.shape != y.shape or x.device != y.device:
        raise ValueError(f"X and Y must have one shape and device, got {tuple(x.shape)} and {tuple(y.shape)}")
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(dtype), y.to(dtype) * math.copysign(1, rho)
    n, d = x.shape[-2:]
    r, threshold = abs(rho), abs(rho) * n * d / 2
    if test == "sum":
        statistic = (x.sum(-2) * y.sum(-2)).sum(-1).abs()
    elif test == "assignment":
        statistic = _assignment(x @ y.mT)
    elif test == "count":
        level = best_count_level(n, d, r)
        statistic = (log_likelihood_ratios(x, y, r) > level).sum((-2, -1)).to(dtype)
        threshold = n * count_probabilities(d, r, level)[0] / 2
    else:
        ratios = log_likelihood_ratios(x.double(), y.double(), r)
        statistic, threshold = _log_mean_likelihood(ratios, samples, generator).to(dtype), 0.0
    return Detection(give_back(statistic, kind), threshold, give_back(statistic > threshold, kind))


def log_likelihood_ratios(X: Tensor, Y: Tensor, rho: float) -> Tensor:
    """(*batch, n, n): the logarithm of how much likelier rows X_i and Y_j are as a pair of correlation `rho`."""
    lengths = X.square().sum(-1)[..., :, None] + Y.square().sum(-1)[..., None, :]
    rest = (1 - rho) * (1 + rho)
    return (2 * rho * (X @ Y.mT) - rho**2 * lengths) / (2 * rest) - X.shape[-1] / 2 * math.log(rest)


def _assignment(scores: Tensor) -> Tensor:
    """The largest sum of one entry in every row and column."""
    from scipy.optimize import linear_sum_assignment

    flat = scores.detach().reshape(-1, *scores.shape[-2:]).double().cpu().numpy()
    chosen = np.stack([linear_sum_assignment(one, maximize=True)[1] for one in flat]) if len(flat) else flat[..., 0]
    columns = torch.from_numpy(chosen.astype(np.int64)).to(scores.device).reshape(scores.shape[:-1])
    return scores.gather(-1, columns[..., None])[..., 0].sum(-1)


def _log_mean_likelihood(ratios: Tensor, samples: int, generator: GeneratorLike) -> Tensor:
    """The logarithm of the mean over permutations of the product of ``exp(ratios[i, s(i)])``."""
    n = ratios.shape[-1]
    flat = ratios.detach().reshape(-1, n, n)
    # Rows scaled by their largest entries, so that no product overflows.
    top = flat.amax(-1, keepdim=True)
    weights, lost = (flat - top).exp(), top.sum((-2, -1))
    if n <= _EXACT_ROWS:
        from resolvent.sketch.detection_kernel import permanents

        found = torch.from_numpy(permanents(weights.cpu().numpy())).to(flat.device)
        value = found.log() + lost - math.lgamma(n + 1)
    else:
        value = _sampled(flat - top, samples, as_generator(generator, flat.device)) + lost
    return value.reshape(ratios.shape[:-2])


def _sampled(logs: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Importance sampling: each row takes a free column with a chance in proportion to its ratio."""
    pairs, n, _ = logs.shape
    found = []
    for one in logs:
        free = torch.zeros(samples, n, dtype=logs.dtype, device=logs.device)
        total = logs.new_zeros(samples)
        for i in range(n):
            open_ = one[i] + free
            total += open_.logsumexp(-1) - math.log(n - i)
            noise = torch.rand(samples, n, dtype=logs.dtype, device=generator.device, generator=generator)
            # The largest of logarithms with Gumbel noise is a draw in proportion to the ratios, even where they underflow.
            pick = (open_ - (-noise.to(logs.device).log()).log()).argmax(-1)
            free.scatter_(1, pick[:, None], -math.inf)
        found.append(total.logsumexp(0) - math.log(samples))
    return torch.stack(found) if pairs else logs.new_zeros(0)
