"""`power_law`: exact against brute force, recovers known exponents, rejects other tails, is reproducible."""

import math

import numpy as np
import pytest
import torch

from resolvent.spectra import power_law


def pareto(n, alpha, seed=0, xmin=1.0):
    return xmin * (1 - np.random.default_rng(seed).random(n)) ** (-1 / (alpha - 1))


def brute_force(x):
    """Clauset, Shalizi and Newman by their definition."""
    x = np.sort(x)
    best = (math.inf, 0.0, 0.0)
    for start in np.unique(x):
        tail = x[x >= start]
        n = len(tail)
        if n < 10 or tail[0] == tail[-1]:
            continue
        alpha = 1 + n / np.log(tail / start).sum()
        fitted = 1 - (tail / start) ** (1 - alpha)
        after = np.searchsorted(tail, tail, side="right") / n
        before = np.searchsorted(tail, tail, side="left") / n
        best = min(best, (max(np.abs(after - fitted).max(), np.abs(before - fitted).max()), alpha, start))
    return best


@pytest.mark.parametrize("kind", ["pareto", "mixed", "exponential", "ties"])
def test_is_the_definition(kind):
    rng = np.random.default_rng(3)
    x = {
        "pareto": pareto(150, 2.5),
        "mixed": np.concatenate([pareto(120, 2.2, xmin=3.0), rng.random(150) * 3]),
        "exponential": rng.exponential(size=200),
        "ties": np.round(pareto(300, 2.0), 1),
    }[kind]
    ks, alpha, xmin = brute_force(x)
    fit = power_law(x, bootstrap=0)
    assert fit.ks == pytest.approx(ks, rel=1e-10)
    assert fit.alpha == pytest.approx(alpha, rel=1e-9) and fit.xmin == xmin
    assert math.isnan(fit.interval[0]) and fit.n == len(x) and fit.n_tail == (x >= xmin).sum()


@pytest.mark.parametrize("alpha", [1.6, 2.5, 3.5])
def test_known_exponents_lie_inside_the_interval(alpha):
    inside = 0
    for seed in range(10):
        fit = power_law(pareto(400, alpha, seed), generator=seed)
        inside += fit.interval[0] <= alpha <= fit.interval[1]
        assert fit.fits
        assert fit.interval[0] < fit.alpha < fit.interval[1]
    assert inside >= 8


def test_a_power_law_is_found_behind_a_body():
    body = np.random.default_rng(1).random(1000) * 5
    fit = power_law(np.concatenate([body, pareto(1000, 2.5, 2, xmin=5.0)]), generator=0)
    assert fit.plausible and fit.verdict == "power law"
    assert fit.xmin == pytest.approx(5, rel=0.4) and fit.alpha == pytest.approx(2.5, abs=0.25)
    assert fit.ratio_exponential > 0 and fit.p_exponential < 0.1


def test_other_tails_are_rejected():
    rng = np.random.default_rng(5)
    exponential = power_law(rng.exponential(size=1500) + 1, xmin=1.0, generator=0)
    assert exponential.verdict == "no power law" and exponential.ratio_exponential < 0
    lognormal = power_law(np.exp(0.6 * rng.normal(size=3000)), xmin=1.0, generator=0)
    assert lognormal.verdict == "no power law" and lognormal.ratio_lognormal < 0 and lognormal.p_lognormal < 0.01
    matrix = torch.randn(300, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = power_law(matrix, generator=0)
    assert not noise.plausible
    for seed in range(5):
        assert not power_law(np.random.default_rng(seed).exponential(size=1000), generator=0).plausible


def test_a_matrix_stands_for_its_squared_singular_values():
    a = torch.randn(60, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(a) ** 2
    one, two = power_law(a, generator=0), power_law(values, generator=0)
    assert one.alpha == pytest.approx(two.alpha, rel=1e-9) and one.xmin == pytest.approx(two.xmin)


def test_units_zeros_and_dtypes():
    x = pareto(300, 2.4)
    fit = power_law(x, generator=0)
    far = power_law(torch.from_numpy(np.concatenate([x * 1e200, np.zeros(7)])), generator=0)
    assert far.alpha == pytest.approx(fit.alpha, rel=1e-9) and far.xmin == pytest.approx(fit.xmin * 1e200)
    assert far.interval == pytest.approx(fit.interval, rel=1e-9) and far.n == 300
    assert far.ratio_lognormal == pytest.approx(fit.ratio_lognormal, abs=1e-6)
    assert power_law(x.astype(np.float32), generator=0).alpha == pytest.approx(fit.alpha, rel=1e-3)


def test_given_xmin_and_seeds():
    x = pareto(500, 3.0)
    fit = power_law(x, xmin=1.0, generator=4)
    assert fit.alpha == pytest.approx(1 + 500 / np.log(x).sum()) and fit.n_tail == 500 and fit.xmin == 1.0
    assert power_law(x, generator=4) == power_law(x, generator=4)
    assert power_law(x, generator=4).interval != power_law(x, generator=5).interval
    narrow = power_law(x, xmin=1.0, level=0.5, generator=4).interval
    assert fit.interval[0] < narrow[0] < narrow[1] < fit.interval[1]
    # the standard error of the maximum likelihood estimate is (alpha - 1) / sqrt(n)
    width = (fit.interval[1] - fit.interval[0]) / 2
    assert width == pytest.approx(1.96 * 2 / math.sqrt(500), rel=0.25)


def test_bad_input():
    x = pareto(100, 2.5)
    for bad, word in ((x * math.nan, "finite"), (-x, "negative"), (x[:5], "at least"), (np.ones(50), "not all equal")):
        with pytest.raises(ValueError, match=word):
            power_law(bad)
    for options, word in (({"xmin": -1.0}, "xmin"), ({"bootstrap": -1}, "bootstrap"), ({"level": 1.0}, "level")):
        with pytest.raises(ValueError, match=word):
            power_law(x, **options)
    with pytest.raises(ValueError, match="one"):
        power_law(torch.ones(2, 20, 20))
