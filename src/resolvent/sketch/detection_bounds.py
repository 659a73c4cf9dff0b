"""What is possible in the detection of correlated databases: second moment, lower bound on the risk, tests' risks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincc, gammaincinv, gammaln, log1p, logsumexp

# Nodes of the rule for differences of chi-square variables; the integrands are smooth in the quantile's root.
_NODES = 400


@dataclass(frozen=True)
class DetectionBounds:
    r"""Risks (the two error probabilities added, 1 for a coin) of deciding whether databases are correlated.

    Attributes
    ----------
    lower : no test has a smaller risk
    sum_test : risk of the sum test, exact
    assignment_test, count_test : upper bounds on the risks of these tests, at most 1
    second_moment : :math:`E_0 L^2` of the likelihood ratio; infinite where it is beyond float64
    count_level : the log-likelihood ratio above which the count test counts a pair

    Examples
    --------
    >>> b = detection_bounds(100, 50, 0.5)
    >>> b.lower < b.sum_test < 0.2
    True
    """

    lower: float
    sum_test: float
    assignment_test: float
    count_test: float
    second_moment: float
    count_level: float


def second_moment(n: float, d: int, rho: float, *, log: bool = False) -> float:
    r"""The second moment of the likelihood ratio under independence, :math:`E_\pi \prod_{c} (1 - \rho^{2|c|})^{-d}` over
    the cycles c of a uniform permutation.

    Parameters
    ----------
    n : rows, or math.inf for the limit
    d : columns
    rho : correlation, above -1 and below 1
    log : return the logarithm, which never overflows

    Returns
    -------
    float

    Raises
    ------
    ValueError : ranges.
    OverflowError : the value is beyond float64; take ``log=True``.

    Notes
    -----
    The cycle index of the symmetric group gives :math:`m e_m = \sum_{k=1}^m (1 - \rho^{2k})^{-d} e_{m-k}`, all terms
    positive: O(n^2), accurate to a few n eps. The limit is
    :math:`\prod_{j \ge 1} (1 - \rho^{2j})^{-\binom{j+d-1}{d-1}}`: it is finite for every fixed d and \|rho\| < 1, so that
    no test is then asymptotically without error, which covers the explicit threshold of the paper.

    References
    ----------
    "Phase Transitions in the Detection of Correlated Databases"

    Examples
    --------
    >>> round(second_moment(1, 2, 0.5), 6)  # (1 - 1/4)^-2
    1.777778
    >>> round(second_moment(2, 1, 0.5), 6)  # the mean of (4/3)^2 and 16/15
    1.422222
    """
    _check(n, d, rho)
    value = _log_limit(d, rho * rho) if n == math.inf else _log_moment(int(n), d, rho * rho)
    if log:
        return value
    if value > math.log(np.finfo(np.float64).max):
        raise OverflowError(f"the second moment is e^{value:.6g}, beyond float64: take log=True")
    return math.exp(value)


def detection_bounds(n: int, d: int, rho: float) -> DetectionBounds:
    r"""What any test, and what the known tests, can reach for databases of n rows, d columns and correlation `rho`.

    Parameters
    ----------
    n, d : rows and columns
    rho : correlation, between -1 and 1, neither 0 nor the ends

    Returns
    -------
    DetectionBounds

    Raises
    ------
    ValueError : ranges.

    Notes
    -----
    Lower bound: with e the second moment, the larger of :math:`1 - \sqrt{e - 1} / 2` and
    :math:`1 - \sqrt{1 - 1 / e}`; the first tends to 1 with :math:`\rho^2 d \to 0` whatever n is, the second is positive
    whenever e is finite. The sum test depends on n not at all: its statistic over n is the inner product of two
    Gaussian vectors of d correlated entries, a difference of chi-square variables. Assignment: Chernoff's bound over n!
    permutations, and the true matching alone on the other side. Count: Markov's inequality, and the matching pairs
    alone, a binomial law; the level is the best of a grid.

    References
    ----------
    "Phase Transitions in the Detection of Correlated Databases"

    Examples
    --------
    >>> b = detection_bounds(10, 5, 0.2)
    >>> 0.7 < b.lower < b.sum_test < 1
    True
    """
    _check(n, d, rho)
    if n == math.inf or rho == 0:
        raise ValueError(f"n must be finite and rho not 0, got {n} and {rho}")
    r = abs(rho)
    log_e = second_moment(n, d, r, log=True)
    # e - 1 and 1 - 1 / e keep their digits near e = 1.
    weak = 1 - math.sqrt(math.expm1(log_e)) / 2 if log_e < 2 else 0.0
    strong = -math.expm1(-log_e)
    lower = max(weak, 1 - math.sqrt(strong)) if strong < 1 else 0.0
    level = best_count_level(n, d, r)
    moment = math.exp(log_e) if log_e < math.log(np.finfo(np.float64).max) else math.inf
    return DetectionBounds(
        max(lower, 0.0), sum_test_risk(d, r), _assignment_risk(n, d, r), _count_risk(n, d, r, level), moment, level
    )


def sum_test_risk(d: int, rho: float) -> float:
    """The risk of the sum test, the same for every n."""
    half = abs(rho) * d / 2
    missed = 1 - difference_tail(1 + rho, 1 - rho, d, rho * d) - difference_tail(1 - rho, 1 + rho, d, rho * d)
    return float(2 * difference_tail(1, 1, d, 2 * half) + missed)


def difference_tail(a: float, b: float, d: int, t: float) -> float:
    """P(a X - b Y > t) for independent chi-square X and Y of d degrees of freedom, a and b positive."""
    if t < 0:  # the other way round the integrand has no kink
        return 1 - difference_tail(b, a, d, -t)
    # A mean over Y of the tail of X; quantiles of Y at the Gauss-Legendre nodes of a smooth change of variables.
    nodes, weights = _rule()
    half = d / 2
    y = 2 * gammaincinv(half, nodes)
    return float(np.clip((weights * gammaincc(half, (t + b * y) / (2 * a))).sum(), 0, 1))


@functools.cache
def _rule() -> tuple[np.ndarray, np.ndarray]:
    """Nodes in (0, 1) that crowd at both ends, where quantiles bend."""
    x, w = np.polynomial.legendre.leggauss(_NODES)
    u, w = (x + 1) / 2, w / 2
    return u**3 * (10 - 15 * u + 6 * u * u), w * 30 * u * u * (1 - u) ** 2


def count_probabilities(d: int, rho: float, level: float) -> tuple[float, float]:
    """Chances that the log-likelihood ratio of a pair is above `level`: of a true pair, and of an independent one."""
    rest = level + d / 2 * math.log((1 - rho) * (1 + rho))
    true = difference_tail(rho / 2, rho / 2, d, rest)
    other = difference_tail(rho / (2 * (1 + rho)), rho / (2 * (1 - rho)), d, rest)
    # What is likely under independence is rarer by its ratio: this holds the tail where the rule has no digits left.
    return true, min(other, true * math.exp(-max(level, 0.0)))


def best_count_level(n: int, d: int, rho: float) -> float:
    """The level of the count test whose bound on the risk is the smallest of a grid."""
    mean = -d / 2 * math.log((1 - rho) * (1 + rho))
    spread = rho * math.sqrt(d)
    grid = np.linspace(mean - 3 * spread, mean + 3 * spread, 25)
    return float(min(grid, key=lambda level: _count_bound(n, d, rho, float(level))))


def _count_bound(n: int, d: int, rho: float, level: float) -> float:
    true, other = count_probabilities(d, rho, level)
    if true <= 0:
        return math.inf
    return 2 * n * other / true + _binomial_below(n, true)


def _binomial_below(n: int, p: float) -> float:
    """P(B <= n p / 2) for a binomial B."""
    k = np.arange(math.floor(n * p / 2) + 1)
    if p >= 1:
        return 0.0
    logs = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    return float(min(1.0, np.exp(logsumexp(logs))))


def _count_risk(n: int, d: int, rho: float, level: float) -> float:
    return min(1.0, _count_bound(n, d, rho, level))


def _assignment_risk(n: int, d: int, rho: float) -> float:
    # min over s of (1 - s^2)^(-nd/2) e^(-s rho n d / 2): s / (1 - s^2) = rho / 2.
    s = rho / (1 + math.sqrt(1 + rho * rho))
    log_false = math.lgamma(n + 1) - n * d / 2 * (math.log1p(-s * s) + s * rho)
    missed = 1 - difference_tail(1 + rho, 1 - rho, n * d, rho * n * d)
    return min(1.0, math.exp(min(log_false, 0.0)) + missed)


def _log_moment(n: int, d: int, q: float) -> float:
    k = np.arange(1, n + 1)
    # (1 - q^k)^-d in logarithms; q^k underflows to a factor of one.
    logs = -d * log1p(-(q**k)) if q else np.zeros(n)
    e = np.zeros(n + 1)
    for m in range(1, n + 1):
        e[m] = logsumexp(logs[:m] + e[m - 1 :: -1][:m]) - math.log(m)
    return float(e[n])


def _log_limit(d: int, q: float) -> float:
    """sum over j of binom(j + d - 1, d - 1) (-log(1 - q^j)), until what is left is below rounding."""
    if q == 0:
        return 0.0
    total, j = 0.0, 1
    while True:
        js = np.arange(j, 2 * j + 64, dtype=np.float64)
        counts = gammaln(js + d) - gammaln(js + 1) - gammaln(d)
        terms = np.exp(counts + np.log(-log1p(-np.exp(js * math.log(q)))))
        total += float(terms.sum())
        # Beyond this j the terms fall faster than a geometric series of this ratio.
        ratio = q * (1 + (d - 1) / (js[-1] + 1))
        if ratio < 1 and terms[-1] * ratio / (1 - ratio) <= 1e-17 * total:
            return total
        j = int(js[-1]) + 1


def _check(n: float, d: int, rho: float) -> None:
    for name, value in (("n", n), ("d", d)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole and not (name == "n" and value == math.inf):
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if not -1 < rho < 1:
        raise ValueError(f"rho must be above -1 and below 1, got {rho}")
