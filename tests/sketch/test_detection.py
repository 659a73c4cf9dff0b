"""Detection of correlated databases: second moment, exact risks, the four tests, invariances, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2, multivariate_normal

from resolvent.sketch import correlated_databases, detect, detection_bounds, second_moment
from resolvent.sketch.detection import _sampled, log_likelihood_ratios
from resolvent.sketch.detection_bounds import count_probabilities, difference_tail
from resolvent.sketch.detection_kernel import permanents


def by_permutations(n, d, rho):
    """The mean over all permutations of the product over cycles, one by one."""
    total = 0.0
    for p in itertools.permutations(range(n)):
        value, seen = 1.0, set()
        for i in range(n):
            length = 0
            while i not in seen:
                seen.add(i)
                i, length = p[i], length + 1
            if length:
                value *= (1 - rho ** (2 * length)) ** -d
        total += value
    return total / math.factorial(n)


@pytest.mark.parametrize(("d", "rho"), [(1, 0.9), (3, -0.6), (40, 0.2)])
def test_second_moment_against_all_permutations(d, rho):
    for n in range(1, 8):
        assert second_moment(n, d, rho) == pytest.approx(by_permutations(n, d, rho), rel=1e-12)


@pytest.mark.parametrize(("d", "rho"), [(1, 0.3), (3, 0.5), (10, 0.5), (2, 0.9)])
def test_second_moment_tends_to_the_infinite_product(d, rho):
    limit = second_moment(math.inf, d, rho)
    assert second_moment(400, d, rho) == pytest.approx(limit, rel=1e-10)
    logs = (math.comb(j + d - 1, d - 1) * math.log1p(-(rho ** (2 * j))) for j in range(1, 400))
    assert limit == pytest.approx(math.exp(-sum(logs)), rel=1e-10)
    values = [second_moment(n, d, rho) for n in (1, 3, 10, 100)]
    assert second_moment(5, d, 0.0) == 1 and min(values) > 1


def test_second_moment_is_that_of_the_likelihood_ratio():
    n, d, rho = 4, 2, 0.3
    X, Y, _ = correlated_databases(n, d, 0.0, batch=(200_000,), generator=0)
    logs = detect(X, Y, rho, test="likelihood").statistic
    assert float(logs.exp().mean()) == pytest.approx(1, abs=0.02)
    assert float((2 * logs).exp().mean()) == pytest.approx(second_moment(n, d, rho), rel=0.05)


def test_beyond_float64():
    with pytest.raises(OverflowError, match="log=True"):
        second_moment(10, 500, 0.99)
    # one row has the factor (1 - rho^2)^-d
    assert second_moment(1, 500, 0.99, log=True) == pytest.approx(-500 * math.log(1 - 0.99**2))
    assert detection_bounds(10, 500, 0.99).second_moment == math.inf
    assert second_moment(math.inf, 3, 0.999, log=True) > 1e5


@pytest.mark.parametrize(("a", "b", "d", "t"), [(1, 1, 1, 0.5), (1.5, 0.5, 3, -2), (0.2, 0.9, 4, -1), (1, 1, 300, 30)])
def test_differences_of_chi_squares(a, b, d, t):
    # by quadrature in the square root of the variable
    def f(s):
        return 2 * s * chi2.pdf(s * s, d) * chi2.sf((t + b * s * s) / a, d)

    exact = quad(f, 0, 5 + 2 * d**0.5, limit=500, epsabs=1e-12, points=[max(-t / b, 0) ** 0.5])[0]
    assert difference_tail(a, b, d, t) == pytest.approx(exact, abs=1e-9)


def test_ratios_are_those_of_the_densities():
    X, Y, _ = correlated_databases(3, 2, 0.4, generator=0)
    found = log_likelihood_ratios(X, Y, 0.4)
    joint = np.kron(np.array([[1, 0.4], [0.4, 1]]), np.eye(2))
    for i, j in itertools.product(range(3), range(3)):
        pair = np.concatenate([X[i], Y[j]])
        exact = multivariate_normal(cov=joint).logpdf(pair) - multivariate_normal(cov=np.eye(4)).logpdf(pair)
        assert float(found[i, j]) == pytest.approx(exact, rel=1e-10)


def test_permanents_and_sampled_likelihood():
    W = np.random.default_rng(0).random((5, 6, 6))
    exact = [sum(math.prod(w[i, p[i]] for i in range(6)) for p in itertools.permutations(range(6))) for w in W]
    np.testing.assert_allclose(permanents(W), exact, rtol=1e-13)
    logs = torch.from_numpy(np.log(W))
    sampled = _sampled(logs, 4000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(sampled.exp() * 720, exact, rtol=0.05)
    X, Y, _ = correlated_databases(25, 60, 0.8, generator=0)
    assert bool(detect(X, Y, 0.8, test="likelihood", samples=50, generator=0).correlated)


def test_counts_of_pairs():
    X, Y, sigma = correlated_databases(2000, 10, 0.6, generator=0)
    ratios = log_likelihood_ratios(X, Y, 0.6)
    for level in (0.5, 2.0):
        true, other = count_probabilities(10, 0.6, level)
        matched = ratios.gather(1, sigma[:, None]) > level
        assert float(matched.double().mean()) == pytest.approx(true, abs=0.05)
        assert float((ratios > level).double().mean()) == pytest.approx(other, rel=0.2)


@pytest.mark.parametrize(("n", "d", "rho"), [(6, 2, 0.3), (6, 20, 0.5), (4, 1, 0.9), (5, 10, -0.6)])
def test_risks_against_simulation(n, d, rho):
    runs = 4000
    true = correlated_databases(n, d, rho, batch=(runs,), generator=0)
    none = correlated_databases(n, d, 0.0, batch=(runs,), generator=1)

    def risk(test):
        false = detect(none.X, none.Y, rho, test=test).correlated.double().mean()
        return float(false + 1 - detect(true.X, true.Y, rho, test=test).correlated.double().mean())

    bounds = detection_bounds(n, d, rho)
    noise = 4 * (0.5 / runs) ** 0.5
    assert risk("sum") == pytest.approx(bounds.sum_test, abs=noise)
    assert risk("likelihood") >= bounds.lower - noise
    for test in ("sum", "count", "assignment"):
        assert risk("likelihood") <= risk(test) + noise
    assert risk("count") <= bounds.count_test + noise
    assert risk("assignment") <= bounds.assignment_test + noise


def test_bounds_in_the_limits():
    assert detection_bounds(1000, 500, 0.002).lower > 0.95  # rho^2 d = 0.002, and n does not matter
    strong = detection_bounds(50, 400, 0.5)
    assert strong.sum_test < 1e-3 and strong.count_test < 1e-6
    assert detection_bounds(10, 2000, 0.9).assignment_test < 1e-6


def test_invariances_and_statistics():
    X, Y, _ = correlated_databases(7, 5, 0.7, generator=0)
    g = torch.Generator().manual_seed(1)
    p, q = torch.randperm(7, generator=g), torch.randperm(7, generator=g)
    Q = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=torch.float64)).Q
    for test in ("sum", "assignment", "count", "likelihood"):
        a, b = detect(X, Y, 0.7, test=test), detect(X[p] @ Q, Y[q] @ Q, 0.7, test=test)
        torch.testing.assert_close(a.statistic, b.statistic)
        flipped = detect(X, -Y, -0.7, test=test)
        torch.testing.assert_close(a.statistic, flipped.statistic)
    best = max(sum(float(X[i] @ Y[s[i]]) for i in range(7)) for s in itertools.permutations(range(7)))
    assert float(detect(X, Y, 0.7, test="assignment").statistic) == pytest.approx(best)
    assert float(detect(X, Y, 0.7).statistic) == pytest.approx(abs(float((X @ Y.mT).sum())))
    torch.testing.assert_close(correlated_databases(7, 5, 1.0, generator=0).X, X)
    Z = correlated_databases(7, 5, 1.0, generator=0)
    torch.testing.assert_close(Z.Y[Z.permutation], Z.X)


def test_kinds_dtypes_and_gradients():
    X, Y, _ = correlated_databases(6, 4, 0.5, dtype=torch.float32, batch=(3,), generator=0)
    assert detect(X, Y, 0.5, test="likelihood").statistic.dtype == torch.float32
    found = detect(X.numpy(), Y.numpy(), 0.5)
    assert isinstance(found.statistic, np.ndarray) and found.correlated.shape == (3,)
    one = detect(X[0].numpy(), Y[0].numpy(), 0.5)
    assert isinstance(one.statistic, float) and isinstance(one.correlated, bool)
    wide = (X[0].double().requires_grad_(), Y[0].double().requires_grad_())
    for test in ("sum", "assignment"):
        assert torch.autograd.gradcheck(lambda a, b, t=test: detect(a, b, 0.5, test=t).statistic, wide)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda X: detect(X, X[:2], 0.5), "one shape"),
        (lambda X: detect(X, X, 0.0), "rho"),
        (lambda X: detect(X, X, 1.0), "rho"),
        (lambda X: detect(X, X, 0.5, test="best"), "test must"),
        (lambda X: detect(X * float("nan"), X, 0.5), "X has"),
        (lambda X: detect(X, X * 1j, 0.5), "Y must be real"),
        (lambda X: detect(X[0], X[0], 0.5), "shape"),
        (lambda X: detect(X.repeat(8, 1), X.repeat(8, 1), 0.5, test="likelihood", samples=0), "samples"),
        (lambda X: detect(X, X, 0.5, samples=0), "samples"),
        (lambda X: correlated_databases(0, 3, 0.5), "n must"),
        (lambda X: correlated_databases(3, 3, 1.5), "rho"),
        (lambda X: correlated_databases(3, 3, 0.5, dtype=torch.int64), "dtype"),
        (lambda X: second_moment(3, 0, 0.5), "d must"),
        (lambda X: second_moment(3, 1, 1.0), "rho"),
        (lambda X: detection_bounds(math.inf, 1, 0.5), "finite"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.ones(3, 2, dtype=torch.float64))
