"""Lanczos quadrature: Gauss rules against exact moments, functions of a matrix, breakdown, scaling."""

from __future__ import annotations

import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, Identity, MatrixFree, as_operator
from resolvent.random import gaussian, rademacher
from resolvent.spectra.quadrature import (
    Integrand,
    LanczosRun,
    quadrature,
    quantile,
    trace_of_function,
    tridiagonal_eigh,
)


def hermitian(n, dtype=torch.float64, seed=0, low=1.0, high=3.0):
    Q = torch.linalg.qr(gaussian((n, n), dtype, generator=seed)).Q
    M = (Q * torch.linspace(low, high, n).to(Q.real.dtype)) @ Q.mH
    return (M + M.mH) / 2


SQUARE = Integrand(lambda x: x.square()[None], lambda x: 2 * x[None])
LOG = Integrand(lambda x: x.log()[None], lambda x: 1 / x[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_gauss_rule_has_the_moments_of_its_probe(dtype):
    M = hermitian(40, dtype)
    Z = rademacher((40, 3), dtype, generator=1)
    rule = LanczosRun(as_operator(M), Z.clone()).extend(6).rule()
    power = Z
    for j in range(12):
        exact = (Z.conj() * power).sum(0).real / 40
        found = (rule.weights * rule.nodes**j).sum(1)
        torch.testing.assert_close(found.to(exact.dtype), exact, rtol=2e-4 if dtype == torch.float32 else 1e-11, atol=0)
        power = M @ power
    torch.testing.assert_close(rule.weights.sum(1), torch.ones(3, dtype=torch.float64))


def test_residuals_bound_the_distance_to_an_eigenvalue():
    M = hermitian(60)
    rule = LanczosRun(as_operator(M), rademacher((60, 2), generator=0)).extend(15).rule()
    w = torch.linalg.eigvalsh(M)
    distance = (rule.nodes[..., None] - w).abs().amin(-1)
    assert bool((distance <= rule.residuals + 1e-12).all())


def test_extending_equals_one_run():
    A, Z = as_operator(hermitian(50)), rademacher((50, 2), generator=0)
    once = LanczosRun(A, Z.clone()).extend(12).tridiagonal()
    twice = LanczosRun(A, Z.clone()).extend(5).extend(12).tridiagonal()
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_apply_is_the_function_of_the_matrix():
    M = hermitian(50)
    Z = gaussian((50, 3), generator=0)
    run = LanczosRun(as_operator(M), Z.clone(), keep=True).extend(25)
    w, V = torch.linalg.eigh(M)
    torch.testing.assert_close(run.apply(torch.log), V @ (w.log()[:, None] * (V.mT @ Z)), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="keep"):
        LanczosRun(as_operator(M), Z.clone()).extend(2).apply(torch.log)


@pytest.mark.parametrize("steps", [1, 2, 3, 30])
def test_an_invariant_subspace_ends_the_run(steps):
    A = Diagonal(torch.tensor([1.0, 1.0, 4.0, 4.0], dtype=torch.float64))
    rule = LanczosRun(A, torch.ones(4, 1, dtype=torch.float64)).extend(steps).rule()
    assert float((rule.weights * rule.nodes).sum()) == pytest.approx(2.5)
    if steps > 1:
        assert float((rule.weights * rule.nodes.log()).sum()) == pytest.approx(torch.log(torch.tensor(4.0)).item() / 2)


def test_the_operators_memory_is_never_written():
    view = MatrixFree((30, 30), lambda X: X, dtype=torch.float64, hermitian=True)
    Z = rademacher((30, 2), generator=0)
    rule = LanczosRun(view, Z.clone()).extend(4).rule()
    assert float((rule.weights * rule.nodes).sum(1).mean()) == pytest.approx(1.0)
    rule = quadrature(Identity(30, dtype=torch.float64), 3, 5, 0)
    torch.testing.assert_close((rule.weights * rule.nodes).sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_sizes(scale):
    A = Diagonal(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) * scale)
    nodes = LanczosRun(A, torch.ones(3, 1, dtype=torch.float64)).extend(3).rule().nodes
    torch.testing.assert_close(nodes[0] / scale, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


def test_trace_of_function_meets_its_tolerance_and_repeats():
    M = hermitian(300)
    A = as_operator(M)
    value, info = trace_of_function(A, LOG, name="t", rtol=5e-3, generator=3)
    assert abs(float(value) / float(torch.logdet(M)) - 1) < 5e-3
    assert info.converged and info.error <= 5e-3 and info.matvecs > 0
    again, _ = trace_of_function(A, LOG, name="t", rtol=5e-3, generator=3)
    assert float(again) == float(value)


def test_the_interval_covers():
    M = hermitian(120, low=0.5)
    A, exact = as_operator(M), float(torch.logdet(M))
    hits, seeds = 0, 200
    for seed in range(seeds):
        value, info = trace_of_function(A, LOG, name="t", rtol=0.08, generator=seed)
        hits += abs(float(value) - exact) <= info.error * abs(float(value))
    assert hits >= 0.91 * seeds


def test_a_tolerance_out_of_reach_raises_with_the_best_value():
    A = as_operator(hermitian(200))
    with pytest.raises(ConvergenceError, match="probes") as caught:
        trace_of_function(A, SQUARE, name="t", rtol=1e-9, max_probes=32, generator=0)
    assert abs(float(caught.value.best) / float(A.to_dense().square().sum()) - 1) < 0.1
    assert caught.value.info.converged is False


def test_gradient_is_unbiased():
    M = hermitian(60).requires_grad_()
    total = torch.zeros(60, 60, dtype=torch.float64)
    for seed in range(30):
        value, _ = trace_of_function(as_operator(M), LOG, name="t", rtol=0.05, generator=seed)
        total += torch.autograd.grad(value, M)[0]
    exact = torch.linalg.inv(M.detach())
    mean = total / 30
    assert float((mean * exact).sum() / exact.square().sum()) == pytest.approx(1, abs=0.03)
    # 30 x 16 probes leave noise of about (n / 480)^(1/2).
    assert float((mean - exact).norm() / exact.norm()) < 0.45


def test_tridiagonal_eigh_and_quantile():
    w, S = tridiagonal_eigh(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 0.25]]))
    T = (S * w[:, None]) @ S.mT
    torch.testing.assert_close(T[0].diagonal(1), torch.tensor([0.5, 0.25]))
    assert tridiagonal_eigh(torch.ones(2, 1), torch.zeros(2, 0))[0].shape == (2, 1)
    assert quantile(0.95, 1) == float("inf")
    assert quantile(0.95, 10**6) == pytest.approx(1.96, abs=1e-3)
