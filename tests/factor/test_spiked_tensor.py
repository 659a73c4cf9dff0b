"""spiked_tensor, unfolding_theory, multiview_cluster: limits that are known, the law of eigenvalues, tensorly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import multiview_cluster, spiked_tensor, unfolding_theory
from resolvent.random import gaussian

SHAPE = (60, 90, 50)


def strength(rho, shape=SHAPE):
    return math.sqrt(rho * math.sqrt(math.prod(shape)) / sum(shape))


def test_the_model():
    drawn = spiked_tensor(*SHAPE, 2.0, 3.0, generator=0)
    for v in (drawn.x, drawn.y, drawn.z):
        assert float(v.norm()) == pytest.approx(1)
    noise = drawn.T - 3 * drawn.M.unsqueeze(-1) * drawn.z
    assert float(noise.std()) * math.sqrt(sum(SHAPE)) == pytest.approx(1, rel=0.01)
    assert float((drawn.M - 2 * torch.outer(drawn.x, drawn.y)).std()) * math.sqrt(150) == pytest.approx(1, rel=0.05)
    assert torch.equal(drawn.T, spiked_tensor(*SHAPE, 2.0, 3.0, generator=0).T)
    assert spiked_tensor(3, 4, 5, 1.0, 1.0, dtype=torch.float32).T.dtype == torch.float32


def test_a_strong_tensor_is_a_spiked_matrix():
    # Formulas of Benaych-Georges and Nadakuditi for n x m with variance 1/m: <v>^2 = 1 - (c + t) / (t (t + 1)).
    n1, n2 = 60, 90
    c, t = n1 / n2, 4.0 / (n2 / (n1 + n2))
    theory = unfolding_theory(2.0, 1e9, (n1, n2, 50))
    assert theory.alignment == pytest.approx(1 - (c + t) / (t * (t + 1)), rel=1e-6)
    assert theory.alignment == pytest.approx(theory.optimal, rel=1e-5)
    first = unfolding_theory(2.0, 1e9, (n1, n2, 50), mode=1)
    assert first.alignment == pytest.approx(1 - c * (1 + t) / (t * (t + c)), rel=1e-6)


def test_without_noise_in_the_matrix_it_is_a_spiked_wigner_matrix():
    # A strong and weakly repeated matrix signal: rho beta^2 = s fixed gives a semicircle with a spike s.
    s = 1.7
    theory = unfolding_theory(1e4, s / 1e8, SHAPE)
    assert theory.edge == pytest.approx(2, abs=1e-4)
    assert theory.outlier == pytest.approx(s + 1 / s, rel=1e-4)
    assert theory.alignment == pytest.approx(1 - 1 / s**2, rel=1e-4)


def test_thresholds():
    c1c2 = 0.4 * 0.6
    assert unfolding_theory(c1c2**0.25 * 0.999, 100.0, SHAPE).alignment == 0
    assert unfolding_theory(c1c2**0.25 * 1.05, 100.0, SHAPE).alignment > 0
    values = [unfolding_theory(2.0, rho, SHAPE) for rho in np.linspace(0.01, 3, 60)]
    aligned = [v.alignment for v in values]
    assert aligned == sorted(aligned) and aligned[0] == 0 and aligned[-1] > 0.84
    assert all((v.outlier is None) == (v.alignment == 0) and (v.outlier or math.inf) > v.edge for v in values)
    assert unfolding_theory(2.0, 0.0, SHAPE).edge == 2 and unfolding_theory(2.0, 0.0, SHAPE).accuracy == 0.5


@pytest.mark.parametrize("rho", [0.3, 2.0])
def test_density(rho):
    theory = unfolding_theory(0.0, rho, SHAPE)
    x = np.linspace(-3, 12, 6001)
    law = theory.density(x)
    assert float(np.trapezoid(law, x)) == pytest.approx(1, abs=1e-4)
    assert float(x[law > 1e-5].max()) == pytest.approx(theory.edge, abs=0.01)
    # Moments: the mean is rho c1, the variance that of both laws.
    assert float(np.trapezoid(law * x, x)) == pytest.approx(rho * theory.c1, abs=1e-3)
    second = float(np.trapezoid(law * (x - rho * theory.c1) ** 2, x))
    assert second == pytest.approx(1 + rho**2 * theory.c1 * theory.c2, rel=1e-3)


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_theory_against_draws(mode):
    rho, beta = 0.8, 2.5
    theory = unfolding_theory(beta, rho, SHAPE, mode=mode)
    found = []
    for seed in range(6):
        drawn = spiked_tensor(*SHAPE, beta, strength(rho), generator=seed)
        flat = drawn.T.movedim(mode - 1, 0).reshape(SHAPE[mode - 1], -1)
        u = torch.linalg.eigh(flat @ flat.mT).eigenvectors[:, -1]
        found.append(float(u @ (drawn.x, drawn.y, drawn.z)[mode - 1]) ** 2)
    assert np.mean(found) == pytest.approx(theory.alignment, abs=0.08)


def test_clusters():
    drawn = spiked_tensor(*SHAPE, 3.0, strength(1.0), generator=0)
    for method in ("unfolding", "rank_one"):
        found = multiview_cluster(drawn.T, method)
        hits = float((found.labels == (drawn.y > 0)).double().mean())
        assert max(hits, 1 - hits) > 0.97 and float(found.direction.norm()) == pytest.approx(1)
        # The points in another order, and a tensor of another sign.
        order = torch.randperm(SHAPE[1], generator=torch.Generator().manual_seed(0))
        moved = multiview_cluster(-drawn.T[:, order], method)
        torch.testing.assert_close(moved.direction, found.direction[order], atol=1e-6, rtol=0)
    single = multiview_cluster(drawn.T.float().numpy())
    assert single.direction.dtype == np.float32 and abs(single.direction @ found.direction.numpy()) > 1 - 1e-5


def test_rank_one_is_a_critical_point_and_no_worse_than_tensorly():
    tensorly = pytest.importorskip("tensorly.decomposition")
    drawn = spiked_tensor(*SHAPE, 2.0, strength(0.5), generator=1)
    found = multiview_cluster(drawn.T)
    x, y, z, T = found.features, found.direction, found.views, drawn.T
    for formed, v in (("ijk,j,k->i", x), ("ijk,i,k->j", y), ("ijk,i,j->k", z)):
        others = [u for u in (x, y, z) if u is not v]
        torch.testing.assert_close(torch.einsum(formed, T, *others), found.value * v, atol=1e-6, rtol=0)
    weights, _ = tensorly.parafac(T.numpy(), 1, init="svd", n_iter_max=200, tol=1e-10, normalize_factors=True)
    assert float(found.value) >= float(weights[0]) * (1 - 1e-6)


def test_exact_rank_one():
    x, y, z = (v / v.norm() for v in (gaussian((n,), generator=n) for n in (5, 7, 4)))
    found = multiview_cluster(3 * torch.einsum("i,j,k->ijk", x, y, z))
    assert float(found.value) == pytest.approx(3) and abs(float(found.views @ z)) == pytest.approx(1)


def test_bad_input():
    T = gaussian((6, 8, 5), generator=0)
    for call, word in (
        (lambda: spiked_tensor(0, 2, 2, 1.0, 1.0), "n1"),
        (lambda: spiked_tensor(2, 2, 2, -1.0, 1.0), "beta_M"),
        (lambda: unfolding_theory(1.0, math.nan, SHAPE), "rho_T"),
        (lambda: unfolding_theory(1.0, 1.0, (2, 3)), "shape"),
        (lambda: unfolding_theory(1.0, 1.0, SHAPE, mode=0), "mode"),
        (lambda: unfolding_theory(1.0, 1.0, SHAPE, mode=3).density(0.0), "modes 1 and 2"),
        (lambda: multiview_cluster(T[0]), "shape"),
        (lambda: multiview_cluster(T.to(torch.complex128)), "real"),
        (lambda: multiview_cluster(T, "cp"), "method"),
        (lambda: multiview_cluster(T * math.inf), "infinite"),
        (lambda: multiview_cluster(T.clone().requires_grad_()), "gradients"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(ConvergenceError) as caught:
        multiview_cluster(T, max_iter=1)
    assert caught.value.best.labels.shape == (8,)
