"""robust_recover, sense and their measurements: recovery, rates, invariances, products by hand, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import (
    entry_measurements,
    gaussian_measurements,
    rank_one_measurements,
    rate_fit,
    robust_recover,
    sense,
    sign_rip,
)
from resolvent.operators import Identity
from resolvent.random import as_generator, gaussian


def corrupted(n=16, r=2, share=0.1, seed=0, dtype=torch.float64):
    g = as_generator(seed)
    A = gaussian_measurements(12 * n * r, (n, n), dtype=dtype, generator=g)
    Q = torch.linalg.qr(gaussian((n, r), generator=g)).Q
    X = (Q @ Q.mT).to(dtype)
    y = A @ X.reshape(-1)
    bad = torch.randperm(len(y), generator=g)[: int(share * len(y))]
    y[bad] = y[bad] + 50 * gaussian((len(bad),), dtype, generator=g)
    return A, y, X


def relative(found, exact):
    return float(torch.linalg.matrix_norm(found.to_dense() - exact) / torch.linalg.matrix_norm(exact))


@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_gross_errors_do_not_matter(rank, dtype, bound):
    A, y, X = corrupted(dtype=dtype)
    found, info = robust_recover(A, y, (16, 16), rank, return_info=True)
    assert relative(found, X) < bound
    assert info.converged and found.dtype == dtype and info.iterations < 1000


def test_steps_in_geometric_progression_and_in_proportion_to_the_mean():
    A, y, X = corrupted(share=0.0)
    assert relative(robust_recover(A, y, (16, 16), 2, step="polyak"), X) < 1e-6
    noisy, bad, X = corrupted(share=0.1, seed=3)
    bad = bad + 0.01 * gaussian((len(bad),), generator=1)
    found = robust_recover(noisy, bad, (16, 16), 2, step="geometric", decay=0.98, init_scale=1e-3, rtol=1e-4)
    assert relative(found, X) < 0.02
    with pytest.raises(ConvergenceError) as caught:
        robust_recover(noisy, bad, (16, 16), 2, max_steps=600)
    assert relative(caught.value.best, X) < 0.05 and caught.value.error > 1e-7


def test_matrices_that_are_not_symmetric():
    g = as_generator(0)
    A = gaussian_measurements(600, (14, 10), generator=g)
    X = gaussian((14, 2), generator=g) @ gaussian((2, 10), generator=g)
    y = A @ X.reshape(-1)
    y[::12] = 1e3
    assert relative(robust_recover(A, y, (14, 10), 5, symmetric=False), X) < 1e-6
    pair = (1e-3 * gaussian((14, 2), generator=1), 1e-3 * gaussian((10, 2), generator=2))
    assert relative(robust_recover(A, y, (14, 10), 2, symmetric=False, start=pair), X) < 1e-6


def test_scales_and_kinds():
    A, y, X = corrupted()
    found = robust_recover(A, 100 * y, (16, 16), 4).to_dense()
    torch.testing.assert_close(found, 100 * robust_recover(A, y, (16, 16), 4).to_dense(), rtol=1e-5, atol=1e-5)
    array = robust_recover(A.to_dense().numpy(), y.numpy(), (16, 16), 4).to_dense()
    assert isinstance(array, np.ndarray)
    np.testing.assert_allclose(array, X.numpy(), atol=1e-6)


def test_measurements_by_hand():
    g = as_generator(0)
    X, a, b = gaussian((4, 5), generator=g), gaussian((7, 4), generator=g), gaussian((7, 5), generator=g)
    R = rank_one_measurements(a, b)
    torch.testing.assert_close(R @ X.reshape(-1), torch.stack([a[i] @ X @ b[i] for i in range(7)]))
    torch.testing.assert_close(R.H.to_dense(), R.to_dense().mT)
    rows, cols, w = torch.tensor([3, 0]), torch.tensor([1, 4]), torch.tensor([2.0, -1.0]).double()
    E = entry_measurements(rows, cols, (4, 5), w)
    torch.testing.assert_close(E @ X.reshape(-1), w * X[rows, cols])
    B = gaussian_measurements(20_000, (4, 5), isotropic=True, generator=1)
    assert float((B @ X.reshape(-1)).norm() / X.norm()) == pytest.approx(1, abs=0.05)


def test_sign_rip_of_many_measurements():
    few, many = (sign_rip(gaussian_measurements(m, (6, 6), generator=0), (6, 6), 2, generator=1) for m in (300, 30_000))
    # The deviation is a mean of m terms: ten times less with a hundred times as many.
    assert 5 < few.delta / many.delta < 20
    assert many.scale == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)
    # A share p of signs that say nothing takes that share of the scale.
    noise = torch.zeros(30_000).double()
    noise[::4] = 1e6 * (-1.0) ** torch.arange(7500)
    found = sign_rip(gaussian_measurements(30_000, (6, 6), generator=0), (6, 6), 2, noise=noise, generator=1)
    assert found.scale == pytest.approx(0.75 * math.sqrt(2 / math.pi), abs=0.02)


def target(n=12, r=2, seed=0):
    Q = torch.linalg.qr(gaussian((n, r), generator=seed)).Q
    return Q @ Q.mT


def test_sense_recovers():
    M = target()
    A = gaussian_measurements(700, (12, 12), isotropic=True, generator=1)
    y = A @ M.reshape(-1)
    for kind in ({}, {"rebalance": None, "rtol": 1e-5}, {"param": "symmetric", "rtol": 1e-2}):
        found = sense(A, y, (12, 12), 5, generator=0, **kind)
        assert relative(found, M) < 5 * kind.get("rtol", 1e-8)
    wide = gaussian((12, 2), generator=2) @ gaussian((2, 7), generator=3)
    B = gaussian_measurements(700, (12, 7), isotropic=True, generator=1).to(torch.float32)
    single = sense(B, B @ wide.float().reshape(-1), (12, 7), 4, generator=0)
    assert single.dtype == torch.float32 and relative(single, wide.float()) < 1e-3


def test_rates_of_descent():
    M = target()
    one, y = Identity(144, dtype=torch.float64), target().reshape(-1)
    with pytest.raises(ConvergenceError) as caught:
        sense(one, y, (12, 12), 4, param="symmetric", max_steps=3000, generator=0, return_info=True)
    slow = rate_fit(caught.value.info.loss, 300)
    assert slow.kind == "polynomial" and slow.exponent == pytest.approx(-2, abs=0.2)
    _, exact = sense(one, y, (12, 12), 2, param="symmetric", generator=0, return_info=True)
    assert rate_fit(exact.loss).kind == "geometric"
    _, plain = sense(one, y, (12, 12), 4, rebalance=None, generator=0, return_info=True)
    assert rate_fit(plain.loss, len(plain.loss) // 3).kind == "geometric"
    # Nearly conserved, as the proof needs.
    assert float(plain.imbalance.max() / plain.imbalance.min()) < 1.2
    found, info = sense(one, y, (12, 12), 4, generator=0, return_info=True)
    assert relative(found, M) < 1e-7 and info.rebalanced_at is not None
    assert float(info.values[-1, -1]) > 0.9 and info.iterations < plain.iterations / 3


def test_rebalancing_keeps_the_product():
    from resolvent.factor.sense import _rebalanced

    F, G = gaussian((8, 3), generator=0), gaussian((6, 3), generator=1)
    A, B = _rebalanced(F, G, 2.0)
    torch.testing.assert_close(A @ B.mT, F @ G.mT)
    torch.testing.assert_close(A.mT @ A, 4 * torch.eye(3).double())


def test_rate_fit_knows_both_laws():
    t = torch.arange(1, 400).double()
    fit = rate_fit(torch.exp(-0.05 * t))
    assert fit.kind == "geometric" and fit.rate == pytest.approx(0.05)
    fit = rate_fit(3 * t**-1.5)
    assert fit.kind == "polynomial" and fit.exponent == pytest.approx(-1.5)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_float32_near_the_ends_of_its_range(size):
    M = target()
    A = gaussian_measurements(700, (12, 12), isotropic=True, generator=1)
    y = (size * (A @ M.reshape(-1))).float()
    for param in ("asymmetric", "symmetric"):
        found, info = sense(A.to(torch.float32), y, (12, 12), 2, param=param, generator=0, return_info=True)
        assert float(torch.dist(found.to_dense() / size, M.float())) < 1e-3
        # The trajectory is in the units of the result.
        values = torch.linalg.svdvals(found.U / size**0.5)
        torch.testing.assert_close(info.values[-1] / size**0.5, values, rtol=1e-3, atol=1e-6)


def test_measurements_most_of_which_are_zero():
    E = Identity(36, dtype=torch.float64)
    X = torch.zeros(6, 6).double()
    X[0, 0] = 1
    with pytest.raises(ValueError, match="fewer zeros"):
        robust_recover(E, X.reshape(-1), (6, 6), 2)
    found = robust_recover(E, X.reshape(-1), (6, 6), 1, step="polyak", rtol=1e-5, max_steps=20_000)
    assert relative(found, X) < 1e-3


def test_measurements_of_arrays_and_that_say_nothing():
    R = rank_one_measurements(np.array([[1.0, 2.0], [0.0, 1.0]]))
    np.testing.assert_allclose(R @ np.arange(4.0), [1 * 0 + 2 * 1 + 2 * 2 + 4 * 3, 3])
    np.testing.assert_allclose(R.H @ np.array([1.0, 0.0]), [1, 2, 2, 4])
    assert sign_rip(torch.zeros(5, 4).double(), (2, 2), 1).delta == math.inf
    with pytest.raises(ValueError, match="trials"):
        sign_rip(torch.eye(4).double(), (2, 2), 1, trials=0)


def test_bad_input():
    A, y = torch.eye(4).double(), torch.ones(4).double()
    for f in (robust_recover, sense):
        for call, word in (
            (lambda f=f: f(A, y, (2, 3), 1), "measure must have shape"),
            (lambda f=f: f(A, y[:3], (2, 2), 1), "y must have shape"),
            (lambda f=f: f(A, 0 * y, (2, 2), 1), "zero"),
            (lambda f=f: f(A, y * math.nan, (2, 2), 1), "NaN"),
            (lambda f=f: f(A, y, (2, 2), 3), "search_rank"),
            (lambda f=f: f(A, y, (2, 2), 1, init_scale=0.0), "init_scale"),
            (lambda f=f: f(A, y, (2, 2), 1, rtol=2.0), "rtol"),
            (lambda f=f: f(A, y, (2, 2), 1, max_steps=0), "max_steps"),
            (lambda f=f: f(A, y.clone().requires_grad_(), (2, 2), 1), "gradient"),
            (lambda f=f: f(A + 1j, y, (2, 2), 1), "real"),
        ):
            with pytest.raises(ValueError, match=word):
                call()
    for call, word in (
        (lambda: robust_recover(A, y, (4, 1), 1), "symmetric"),
        (lambda: robust_recover(A, y, (2, 2), 1, step="constant"), "step"),
        (lambda: robust_recover(A, y, (2, 2), 1, decay=1.0), "decay"),
        (lambda: robust_recover(A, y, (2, 2), 1, start=torch.ones(3, 1)), "start"),
        (lambda: sense(A, y, (4, 1), 1, param="symmetric"), "square"),
        (lambda: sense(A, y, (2, 2), 1, param="both"), "param"),
        (lambda: sense(A, y, (2, 2), 1, imbalance=0.0), "imbalance"),
        (lambda: rate_fit([1.0, 2.0]), "8 steps"),
        (lambda: rate_fit([0.0] * 20), "positive"),
        (lambda: sign_rip(A, (2, 2), 3), "rank"),
        (lambda: gaussian_measurements(0, (2, 2)), "m must"),
        (lambda: rank_one_measurements(A, A[:2]), "shapes"),
        (lambda: entry_measurements([0], [2], (2, 2)), "column index"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(ConvergenceError, match="without bound"):
        sense(A, y, (2, 2), 1, step_size=50.0, generator=0)
