"""sparse_wht: exact recovery, noise, every detector, oracles, sample counts, loud failure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Hadamard
from resolvent.sketch import sparse_wht

DETECTORS = ("noiseless", "majority", "ml", "coded")


def signal(n, k, seed, signs=False):
    """A spectrum of k coefficients and its signal, by the full transform."""
    g = torch.Generator().manual_seed(seed)
    X = torch.zeros(1 << n, dtype=torch.float64)
    values = torch.randn(k, generator=g, dtype=torch.float64)
    X[torch.randperm(1 << n, generator=g)[:k]] = values.sign() if signs else values
    return X, Hadamard(1 << n, dtype=torch.float64) @ X


def dense(found, n):
    X = torch.zeros(1 << n, dtype=torch.float64)
    X[torch.as_tensor(found.indices)] = torch.as_tensor(found.values).double()
    return X


@pytest.mark.parametrize("detector", DETECTORS)
def test_equals_the_full_transform(detector):
    X, x = signal(14, 30, seed=0)
    found = sparse_wht(x, 14, 30, noise_std=0 if detector == "noiseless" else 1e-9, detector=detector, generator=1)
    torch.testing.assert_close(dense(found, 14), X, rtol=0, atol=1e-12)
    assert bool((found.indices.diff() > 0).all())


def test_failure_rate_of_exact_signals_over_many_seeds():
    wrong = 0
    for seed in range(200):
        X, x = signal(12, 25, seed)
        found = sparse_wht(x, 12, 25, generator=seed)
        wrong += not torch.allclose(dense(found, 12), X, rtol=0, atol=1e-11)
    assert wrong == 0  # with groups added where peeling stops, a run fails only with an error


@pytest.mark.parametrize("detector", DETECTORS[1:])
@pytest.mark.parametrize("known", [True, False])
def test_support_at_ten_decibels(detector, known):
    for seed in range(5):
        X, x = signal(14, 40, seed, signs=True)
        noise = torch.randn(len(x), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
        found = sparse_wht(x + noise, 14, 40, noise_std=2 if known else None, detector=detector, generator=seed)
        assert found.indices.tolist() == X.nonzero()[:, 0].tolist()
        # the mean of groups x bins x offsets samples, whose noise has the deviation 2
        asked = found.groups * found.bins * 28
        assert float((dense(found, 14) - X).abs().max()) < 6 * 2 / asked**0.5
        assert found.noise_std == pytest.approx(2, rel=0.05)


def test_noise_breaks_the_noiseless_detector_loudly():
    _, x = signal(14, 40, 0, signs=True)
    noisy = x + 2 * torch.randn(len(x), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ConvergenceError, match="energy is left") as caught:
        sparse_wht(noisy, 14, 40, generator=0)
    assert 0 < caught.value.error <= 1


def test_too_many_coefficients_are_an_error_that_carries_some():
    X, x = signal(14, 600, 0)
    with pytest.raises(ConvergenceError) as caught:
        sparse_wht(x, 14, 20, generator=0)
    assert caught.value.error > 0.1
    found = sparse_wht(x, 14, 600, generator=0)
    torch.testing.assert_close(dense(found, 14), X, rtol=0, atol=1e-11)


def test_coefficients_too_small_to_be_seen_one_by_one_are_not_forgotten():
    _, x = signal(14, 60, 0, signs=True)
    noisy = x + 10 * torch.randn(len(x), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ConvergenceError):
        sparse_wht(noisy, 14, 60, noise_std=10, generator=0)


def test_equal_coefficients_that_look_like_one():
    # 1 + 1 - 1 is 1 at every offset where the first two differ: the checks must see through it.
    n = 10
    for seed in range(100):
        r = np.random.default_rng(seed)
        X = np.zeros(1 << n)
        X[r.choice(1 << n, 12, replace=False)] = r.choice([-1.0, 1.0], 12)
        x = (Hadamard(1 << n, dtype=torch.float64) @ torch.from_numpy(X)).numpy()
        assert np.array_equal(np.flatnonzero(X), sparse_wht(x, n, 12, generator=seed).indices)


@pytest.mark.parametrize("detector", ["noiseless", "majority", "coded"])
def test_oracle_of_sixty_bits_is_asked_once(detector):
    indices = np.array([3, 1 << 59, (1 << 60) - 1, 123456789123456789])
    values = np.array([1.0, -2.0, 0.5, 4.0])
    calls = []

    def oracle(m):
        calls.append(len(m))
        odd = np.array([[bin(int(a) & int(k)).count("1") & 1 for k in indices] for a in m])
        return (1 - 2 * odd) @ values

    noise = 0 if detector == "noiseless" else 1e-6
    found = sparse_wht(oracle, 60, 4, noise_std=noise, detector=detector, offsets=None, generator=0)
    assert calls == [found.queries]
    order = np.argsort(indices)
    np.testing.assert_array_equal(found.indices, indices[order])
    np.testing.assert_allclose(found.values, values[order], rtol=1e-8)


def test_an_added_group_asks_for_new_samples_only():
    X, x = signal(14, 50, 0)
    asked = []

    def oracle(m):
        asked.append(m)
        return x[m]

    seeds = 0
    while len(asked) != 2 and seeds < 100:  # few bins, so that three groups are not enough now and then
        asked.clear()
        found = sparse_wht(oracle, 14, 50, bins=16, generator=seeds)
        seeds += 1
    assert len(asked) == 2 and found.groups == 4
    together = np.concatenate(asked)
    assert len(np.unique(together)) == len(together) == found.queries
    torch.testing.assert_close(dense(found, 14), X, rtol=0, atol=1e-11)


def test_samples_are_linear_in_k_and_in_n():
    counts = {}
    for n, k in ((16, 32), (16, 64), (20, 64)):
        _, x = signal(n, k, 0)
        counts[n, k] = sparse_wht(x, n, k, groups=3, generator=0).queries
    assert counts[16, 64] / counts[16, 32] == pytest.approx(2, rel=0.05)
    assert counts[20, 64] / counts[16, 64] == pytest.approx(24 / 20, rel=0.05)


def test_kinds_dtypes_zero_and_repeatability():
    X, x = signal(10, 6, 0)
    single = sparse_wht(x.float(), 10, 6, generator=0)
    assert single.values.dtype == torch.float32
    torch.testing.assert_close(dense(single, 10), X, rtol=0, atol=1e-5)
    array = sparse_wht(x.numpy(), 10, 6, generator=0)
    assert isinstance(array.values, np.ndarray) and array.values.dtype == np.float64
    assert array.as_dict() == sparse_wht(x.numpy(), 10, 6, generator=0).as_dict()
    assert sparse_wht(np.zeros(1 << 10), 10, 3).as_dict() == {}
    assert sparse_wht(np.array([3.0, 1.0]), 1, 2, generator=0).as_dict() == {0: 2.0, 1: 1.0}
    for scale in (2.0**-700, 2.0**700):
        far = sparse_wht(x * scale, 10, 6, noise_std=0.1 * scale, generator=0)
        near = sparse_wht(x, 10, 6, noise_std=0.1, generator=0)
        torch.testing.assert_close(far.values / scale, near.values)
        assert far.noise_std == pytest.approx(0.1 * scale) and far.indices.tolist() == near.indices.tolist()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda x: sparse_wht(x, 9, 3), "shape"),
        (lambda x: sparse_wht(x, 63, 3), "62"),
        (lambda x: sparse_wht(x, 10, 0), "k must"),
        (lambda x: sparse_wht(x, 10, 3, noise_std=-1), "noise_std"),
        (lambda x: sparse_wht(x, 10, 3, bins=12), "bins"),
        (lambda x: sparse_wht(x, 10, 3, groups=1), "groups"),
        (lambda x: sparse_wht(x, 10, 3, detector="best"), "detector"),
        (lambda x: sparse_wht(x, 10, 3, offsets=4), "fixed"),
        (lambda x: sparse_wht(x, 10, 3, detector="ml", offsets=0), "offsets"),
        (lambda x: sparse_wht(lambda m: x[m][:3], 10, 3), "shape"),
        (lambda x: sparse_wht(lambda m: m / 0.0, 40, 3, detector="ml"), "coded"),
        (lambda x: sparse_wht(x * float("nan"), 10, 3), "NaN"),
        (lambda x: sparse_wht(x + 1j, 10, 3), "real"),
        (lambda x: sparse_wht(x.clone().requires_grad_(), 10, 3), "gradient"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.ones(1 << 10, dtype=torch.float64))
