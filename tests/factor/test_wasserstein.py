"""wasserstein_cp_dictionary and bcd_prox: the conjugate against explicit plans, optimality of blocks, descent, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import bcd_prox, wasserstein_cp_dictionary
from resolvent.factor.block_descent import onto_simplex
from resolvent.factor.wasserstein import _Codes, _costs, _Factor, _Transport, model
from resolvent.random import as_generator


def distributions(*shape, seed=0):
    Y = torch.rand(*shape, generator=as_generator(seed), dtype=torch.float64) + 0.05
    return Y / Y.flatten(1).sum(1).reshape(-1, *[1] * (len(shape) - 1))


def bump(x, at):
    return torch.softmax(-((x - at) ** 2), 0)


def test_projection_on_the_simplex():
    V = torch.randn(50, 6, generator=as_generator(0), dtype=torch.float64)
    P = onto_simplex(V)
    torch.testing.assert_close(P.sum(1), torch.ones(50).double())
    # The nearest point: V - P is the same where P is positive, and not larger elsewhere.
    level = ((V - P) * P).sum(1, keepdim=True)
    assert float(P.min()) >= 0 and float((V - P - level).max()) < 1e-12
    assert float(((V - P - level).abs() * (P > 0)).max()) < 1e-12


def test_cost_is_that_of_the_explicit_plan():
    Y, Z = distributions(2, 3, 4), distributions(2, 3, 4, seed=1)
    reg = 0.1
    costs = _costs(None, Y)
    full = (costs[0][:, None, :, None] + costs[1][None, :, None, :]).reshape(12, 12)
    expected = 0.0
    for y, z in zip(Y.flatten(1), Z.flatten(1), strict=True):
        K, u, v = torch.exp(-full / reg), torch.ones(12).double(), torch.ones(12).double()
        for _ in range(5000):
            u = y / (K @ v)
            v = z / (K.T @ u)
        P = u[:, None] * K * v
        expected += float((P * full).sum() + reg * (P * P.log()).sum())
    transport = _Transport(Y, costs, reg)
    assert float(transport.value(Z, rtol=1e-10)) == pytest.approx(expected, abs=1e-8)
    # The gradient of the conjugate, by differences.
    g = 0.1 * torch.randn(Y.shape, generator=as_generator(2), dtype=torch.float64)
    value, marginals = transport.conjugate(g)
    torch.testing.assert_close(marginals.flatten(1).sum(1), torch.ones(2).double())
    moved = g.clone()
    moved[1, 2, 3] += 1e-6
    assert float((transport.conjugate(moved)[0] - value) / 1e-6) == pytest.approx(float(marginals[1, 2, 3]), rel=1e-4)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_block_is_the_minimiser_of_its_problem(block):
    Y, c = distributions(3, 4, 5), 0.3
    transport = _Transport(Y, _costs(None, Y), 0.1)
    rng = as_generator(3)
    blocks = [onto_simplex(torch.rand(k, 2, generator=rng, dtype=torch.float64)) for k in (3,)]
    blocks += [torch.softmax(torch.randn(2, n, generator=rng, dtype=torch.float64), 1) for n in (4, 5)]
    problem = [_Codes(transport, 2), _Factor(transport, 0, 2), _Factor(transport, 1, 2)][block]
    before, forward, adjoint = problem.parts(blocks)
    # The linear map of the block is the model, and its adjoint is one.
    torch.testing.assert_close(forward(before), model(blocks[0], blocks[1:]))
    g = torch.randn(Y.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close((forward(before) * g).sum(), (before * adjoint(g)).sum())

    def total(x):
        return float(transport.value(forward(x), rtol=1e-10) + c / 2 * (x - before).square().sum())

    best = problem(blocks, c)
    for seed in range(5):
        other = onto_simplex(torch.rand(best.shape, generator=as_generator(seed), dtype=torch.float64))
        for t in (1e-3, 0.1, 1.0):
            assert total(best + t * (other - best)) > total(best) - 1e-7


def test_separable_distributions_come_back():
    x = torch.arange(8.0).double()
    Y = torch.stack([torch.outer(bump(x, a), bump(x, b)) for a, b in ((2, 5), (6, 1), (2, 5))])
    found, info = wasserstein_cp_dictionary(Y, 2, generator=0, return_info=True)
    assert info.converged
    assert sorted(found.factors[0].argmax(0).tolist()) == [2, 6]
    assert float(found.codes.amax(1).min()) > 0.9
    torch.testing.assert_close(found.codes.sum(1), torch.ones(3).double())
    for f in found.factors:
        assert f.shape == (8, 2) and float(f.min()) >= 0
        torch.testing.assert_close(f.sum(0), torch.ones(2).double())
    # Inexact solutions: to the accuracy of the dual problems.
    assert float(found.objective.diff().max()) < 1e-5


def test_one_mode_float32_and_numpy():
    x = torch.arange(10.0)
    Y = torch.stack([bump(x, 2.0), bump(x, 7.0), (bump(x, 2.0) + bump(x, 7.0)) / 2]).numpy()
    found = wasserstein_cp_dictionary(Y, 2, reg=0.05, generator=0)
    assert isinstance(found.codes, np.ndarray) and found.factors[0].dtype == np.float32
    assert sorted(found.factors[0].argmax(0).tolist()) == [2, 7]
    np.testing.assert_allclose(found.codes[2], [0.5, 0.5], atol=0.1)


@pytest.mark.parametrize("cells", [0.5, 2.0])
def test_the_entropy_blurs_the_atoms(cells):
    n = 20
    x = torch.arange(n).double()
    b = torch.softmax(-((x - 9.5) ** 2) / 8, 0)
    reg = cells / (n - 1) ** 2
    u = wasserstein_cp_dictionary(b[None], 1, reg=reg, rtol=1e-3, max_iter=500, generator=0).factors[0][:, 0]

    def variance(p):
        return float(p @ x**2 - (p @ x) ** 2)

    # A Gaussian kernel on the grid: for gamma of half a cell its variance is a little below gamma / 2.
    assert variance(u) - variance(b) == pytest.approx(cells / 2, rel=0.2)


def test_descent_of_blocks():
    A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def f(z):
        x = torch.stack(list(z))
        return x @ A @ x / 2 - b @ x

    def step(i):
        return lambda z, c: (b[i] - A[i, 1 - i] * z[1 - i] + c * z[i]) / (A[i, i] + c)

    start = [torch.zeros((), dtype=torch.float64)] * 2
    found = bcd_prox(start, [step(0), step(1)], f, prox=0.5, rtol=1e-8)
    torch.testing.assert_close(torch.stack(found.blocks), torch.linalg.solve(A, b), rtol=1e-7, atol=0)
    drops = -found.objective.diff()
    # Each sweep decreases f by at least |step|^2 c / 2.
    assert bool((drops >= found.stationarity / (2 * 0.5) - 1e-15).all())
    with pytest.raises(ConvergenceError) as caught:
        bcd_prox(start, [step(0), step(1)], f, rtol=1e-8, max_iter=2)
    assert len(caught.value.best.objective) == 3


def test_bad_input():
    Y = distributions(3, 4, 4)
    for call, word in (
        (lambda: wasserstein_cp_dictionary(2 * Y, 2), "distributions"),
        (lambda: wasserstein_cp_dictionary(Y - 0.1, 2), "distributions"),
        (lambda: wasserstein_cp_dictionary(Y, 0), "rank"),
        (lambda: wasserstein_cp_dictionary(Y, 2, reg=0), "reg"),
        (lambda: wasserstein_cp_dictionary(Y, 2, [torch.eye(4)]), "cost"),
        (lambda: wasserstein_cp_dictionary(Y, 2, [torch.eye(4), -torch.eye(4)]), "negative"),
        (lambda: wasserstein_cp_dictionary(Y, 2, init=([Y[0], Y[1]], Y[0])), "init"),
        (lambda: wasserstein_cp_dictionary(Y.clone().requires_grad_(), 2), "gradient"),
        (lambda: bcd_prox([Y], [], lambda z: z[0].sum()), "as many"),
        (lambda: bcd_prox([Y], [lambda z, c: z[0]], lambda z: z[0].sum(), prox=0), "prox"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises((OverflowError, ConvergenceError), match="larger"):
        wasserstein_cp_dictionary(torch.eye(9).double().reshape(9, 9), 2, reg=1e-4)
