"""coreset_1d and coreset: proven and measured errors, what is kept exactly, limits, kinds, gradients."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.sketch import coreset, coreset_1d, verify_coreset
from resolvent.sketch import coreset_line_kernel as kernel
from resolvent.sketch.coreset_line import median_bounds


def cost(points, weights, centres, z=1):
    points, centres = points.reshape(len(points), -1), centres.reshape(len(centres), -1)
    return float((weights * torch.cdist(points, centres).amin(1) ** z).sum())


def line(n=1500, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_t(2, n)), torch.from_numpy(rng.random(n))


def mixture(n, d, seed=0, k=5):
    g = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(k, d, generator=g, dtype=torch.float64)
    return centres[torch.randint(k, (n,), generator=g)] + torch.randn(n, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_one_median_is_within_eps_at_every_kink(eps):
    x, w = line()
    s, v = coreset_1d(x, 1, eps, w)
    # Between neighbouring points of either the ratio of the costs is monotone.
    centres = torch.cat([x, s])
    of_data, of_coreset = ((p - centres[:, None]).abs() @ m for p, m in ((x, w), (s, v)))
    error = float((of_coreset / of_data - 1).abs().max())
    assert 0.2 * eps < error <= eps
    assert float(verify_coreset(x, (s, v), 1, weights=w).error) == pytest.approx(error, rel=1e-6)


def test_two_medians_are_within_eps_for_all_pairs_of_kinks():
    x, w = line(150)
    s, v = coreset_1d(x, 2, 0.1, w)
    candidates = torch.cat([x, s, (s[1:] + s[:-1]) / 2])
    pairs = torch.combinations(candidates, 2)
    of_data, of_coreset = (
        torch.minimum((p - pairs[:, :1]).abs(), (p - pairs[:, 1:]).abs()) @ m for p, m in ((x, w), (s, v))
    )
    error = (of_coreset / of_data - 1).abs().max()
    assert float(error) <= 0.1
    found = verify_coreset(x, (s, v), 2, weights=w, generator=0)
    assert 0.7 * float(error) <= float(found.error) <= 0.1


@pytest.mark.parametrize("k", [1, 3, 20])
def test_weight_and_mean_are_kept(k):
    x, w = line()
    s, v = coreset_1d(x + 1e6, k, 0.05, w)
    assert float(v.sum()) == pytest.approx(float(w.sum()), rel=1e-14)
    assert float(v @ s) == pytest.approx(float(w @ (x + 1e6)), rel=1e-14)
    assert bool((s.diff() > 0).all())
    assert bool((v > 0).all())


def test_scale_shift_and_order_change_nothing():
    x, w = line()
    s, v = coreset_1d(x, 3, 0.1, w)
    order = torch.randperm(len(x))
    s2, _ = coreset_1d(-4 * x[order] + 16, 3, 0.1, 0.5 * w[order])
    assert 0.8 < len(s2) / len(s) < 1.25  # blocks now begin at the other end
    s3, v3 = coreset_1d(4 * x[order], 3, 0.1, 0.5 * w[order])
    torch.testing.assert_close(s3, 4 * s, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(v3, 0.5 * v)
    huge, _ = coreset_1d(x * 1e300, 3, 0.1, w)
    torch.testing.assert_close(huge, s * 1e300, rtol=1e-9, atol=1e288)


def test_few_places_and_zero_weights():
    x = torch.tensor([1.0, 2.0, 1.0, 5.0, 2.0], dtype=torch.float64)
    s, v = coreset_1d(x, 3)
    assert s.tolist() == [1, 2, 5]
    assert v.tolist() == [2, 2, 1]
    assert len(coreset_1d(torch.full((7,), 3.0), 1).points) == 1
    assert coreset_1d(x, 9).points.tolist() == [1, 2, 5]
    s, v = coreset_1d(x, 2, weights=[1, 0, 1, 3, 0])
    assert s.tolist() == [1, 5]
    assert v.tolist() == [2, 3]
    X = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(50, 1)
    for method in ("partition", "sensitivity"):
        s, v = coreset(X, 2, method=method, generator=0)
        assert sorted(s[:, 0].tolist()) == [0, 1]
        assert v.tolist() == [50, 50]


def test_best_medians_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n = int(rng.integers(3, 10))
        k = int(rng.integers(1, n))
        x = np.sort(rng.integers(0, 12, n) + rng.choice([0.0, 1e6]))
        w = rng.random(n) + 0.1
        best = min((w * np.abs(x[:, None] - np.array(c)).min(1)).sum() for c in combinations(x, k))
        value, centres = kernel.best_medians(x, w, k)
        assert value == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert kernel.cost_of(x, w, np.unique(centres)) == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_tight_clusters_far_apart_keep_their_digits():
    rng = np.random.default_rng(0)
    x = np.sort(np.concatenate([1e8 * i + 1e-6 * rng.random(300) for i in range(5)]))
    lower, upper = median_bounds(x, np.ones(len(x)), 5)
    exact = sum(np.abs(part - np.median(part)).sum() for part in x.reshape(5, 300))
    assert upper == pytest.approx(exact, rel=1e-6)
    assert 0.9 * exact < lower <= exact * (1 + 1e-9)


def test_weights_and_places_over_hundreds_of_scales():
    i = torch.arange(400, dtype=torch.float64)
    x, w = torch.cat([torch.zeros(1), 2**i]), torch.cat([torch.ones(1), 2**-i])
    lower, upper = median_bounds(x.numpy(), w.numpy(), 2)
    # With one centre at zero every scale costs one; the other saves a few of them.
    assert 380 < lower <= upper <= 400
    s, v = coreset_1d(x, 2, 0.02, w)
    assert 25 < len(s) < 120
    assert float(verify_coreset(x, (s, v), 2, weights=w, generator=0).error) <= 0.02


@pytest.mark.parametrize(
    ("d", "z", "method"), [(2, 1, "partition"), (3, 2, "partition"), (4, 2, "sensitivity"), (1, 2, "auto")]
)
def test_measured_error_in_more_dimensions(d, z, method):
    X = mixture(4000, d)
    w = 0.5 + torch.rand(4000, dtype=torch.float64)
    S, info = coreset(X, 5, 0.2, z, method=method, weights=w, generator=0, return_info=True)
    assert info.converged
    assert info.error <= 0.2
    assert len(S.points) < 1500
    assert float(S.weights.sum()) == pytest.approx(float(w.sum()))
    assert float(verify_coreset(X, S, 5, z, weights=w, generator=1).error) <= 0.2
    if method == "partition":
        torch.testing.assert_close(S.weights @ S.points, w @ X)


def test_unbiased_without_calibration():
    X = mixture(2000, 3)
    centres = X[:4]
    exact = cost(X, torch.ones(2000), centres, 2)
    found = [cost(*coreset(X, 4, size=60, z=2, calibrate=False, generator=i), centres, 2) for i in range(60)]
    mean, spread = np.mean(found), np.std(found) / np.sqrt(60)
    assert abs(mean - exact) < 4 * spread
    assert spread < 0.1 * exact


def test_same_seed_same_coreset_and_line_is_the_special_case():
    X = mixture(1000, 3)
    a, b = (coreset(X, 3, size=50, generator=7) for _ in range(2))
    assert torch.equal(a.points, b.points)
    x, w = line()
    for found in (coreset(x, 3, weights=w), coreset(x[:, None], 3, weights=w)):
        torch.testing.assert_close(found.points.reshape(-1), coreset_1d(x, 3, weights=w).points)
    # So tight that only the data itself is good enough.
    S, info = coreset(X[:40], 3, 1e-6, method="sensitivity", generator=0, return_info=True)
    assert info.method == "all points"
    assert len(S.points) == 40


def test_many_small_problems_are_within_eps():
    rng = np.random.default_rng(0)
    for seed in range(25):
        n, d, k = (int(rng.integers(1, top)) for top in (60, 4, 7))
        X = np.round(2 * rng.normal(size=(n, d))) * 10.0 ** rng.integers(-3, 4) + rng.choice([0, 1e5])
        z = float(rng.choice([1, 2]))
        S, info = coreset(X, k, 0.1, z, weights=rng.random(n) + 0.1, generator=seed, return_info=True)
        assert np.isfinite(S.points).all()
        assert info.error <= 0.1


def test_kinds_and_single_precision():
    x, _ = line()
    s, v = coreset_1d(x.numpy(), 2)
    assert isinstance(s, np.ndarray)
    assert isinstance(v, np.ndarray)
    single = coreset_1d(x.float(), 2)
    assert single.points.dtype == single.weights.dtype == torch.float32
    torch.testing.assert_close(single.points, torch.from_numpy(s).float(), rtol=1e-5, atol=1e-5)
    X = mixture(1000, 3).float()
    S = coreset(X, 3, 0.2, 2, method="sensitivity", generator=0)
    assert S.points.dtype == torch.float32
    assert bool((S.points[:, None] == X).all(2).any(1).all())


def test_gradients_of_points_and_weights():
    x, w = (t[:12].clone().requires_grad_() for t in line())
    assert gradcheck(lambda x, w: tuple(coreset_1d(x, 2, 0.5, w)), (x, w))
    X = mixture(12, 3).requires_grad_()
    assert gradcheck(lambda X: coreset(X, 2, size=5, generator=0).points, X)


def test_powers_of_distances_stay_within_range():
    X = mixture(400, 2)
    for method in ("partition", "sensitivity"):
        s, v = coreset(X, 3, 0.3, z=2, method=method, generator=0)
        for scale in (2.0**-600, 2.0**600):
            t, w = coreset(X * scale, 3, 0.3, z=2, method=method, generator=0)
            torch.testing.assert_close(t / scale, s)
            torch.testing.assert_close(w, v)
    error, centres = verify_coreset(X, (s, v), 3, 2, trials=10, generator=0)
    far = verify_coreset(X * 2.0**600, (s * 2.0**600, v), 3, 2, trials=10, generator=0)
    assert 0 < float(error) < 0.4 and float(far.error) == pytest.approx(float(error), rel=1e-9)
    torch.testing.assert_close(far.centres / 2.0**600, centres)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda x: coreset_1d(x[:, None], 2), "x must be"),
        (lambda x: coreset_1d(x[:0], 2), "non-empty"),
        (lambda x: coreset_1d(x * float("nan"), 2), "NaN"),
        (lambda x: coreset_1d(x, 0), "k must be"),
        (lambda x: coreset_1d(x, 2, 1.5), "eps"),
        (lambda x: coreset_1d(x, 2, 0.1, -torch.ones(5)), "nonnegative"),
        (lambda x: coreset_1d(x, 2, 0.1, torch.ones(4)), "shape"),
        (lambda x: coreset(x, 2, method="grid"), "method"),
        (lambda x: coreset(x, 2, z=0.5), "z must be"),
        (lambda x: coreset(x, 2, size=0), "size"),
        (lambda x: coreset(x, 2, method="partition", return_ledger=True), "sensitivity"),
        (lambda x: coreset(x, 2, weights=torch.zeros(5)), "positive sum"),
        (lambda x: verify_coreset(x, (x[:, None], torch.ones(5)), 2), "shapes"),
        (lambda x: verify_coreset(x, (x, torch.ones(4)), 2), "weights|S"),
        (lambda x: verify_coreset(x * 1j, (x * 1j, torch.ones(5)), 2), "X must be real"),
        (lambda x: verify_coreset(x, (x * 1j, torch.ones(5)), 2), "must be real"),
        (lambda x: verify_coreset(x, (x, torch.ones(5)), 2, z=float("inf")), "z must be"),
        (lambda x: coreset_1d(x, 2, weights=torch.full((5,), 1e308, dtype=torch.float64)), "finite positive sum"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.arange(5.0))
