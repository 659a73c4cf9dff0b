"""lifted_sensing: Hessians against autograd, the order a point needs, ways out of spurious minima, rank, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.functional import hessian

from resolvent.errors import ConvergenceError
from resolvent.factor import gaussian_measurements, lifted_sensing, spurious_instance
from resolvent.random import gaussian


def lifted(n, eps, order):
    trap = spurious_instance(n, eps)
    return trap, lifted_sensing(trap.measure, trap.y, n, order=order)


@pytest.mark.parametrize("order", [1, 3])
def test_the_objective_is_its_definition(order):
    A = gaussian_measurements(4, (2, 2), generator=0)
    matrices = A.to_dense().reshape(4, 2, 2)
    matrices = (matrices + matrices.mT) / 2
    y = gaussian((4,), generator=1)
    problem = lifted_sensing(A, y, 2, order=order)
    w = gaussian((2,) * order, generator=2)
    expected = 0.0
    for places in np.ndindex(*(4,) * order):
        K = torch.ones(1, 1).double()
        for i in places:
            K = torch.kron(K, matrices[i])
        expected += float((w.reshape(-1) @ K @ w.reshape(-1) - math.prod(float(y[i]) for i in places)) ** 2)
    assert float(problem.objective(w)) == pytest.approx(expected)
    x = gaussian((2,), generator=3)
    if order == 1:
        assert float(problem.objective(x)) == pytest.approx(float(problem.misfit(x)))


def test_gradient_and_hessian_are_those_of_autograd():
    trap, problem = lifted(3, 0.3, 3)
    w = gaussian((3, 3, 3), generator=0).requires_grad_()
    assert gradcheck(problem.objective, w)
    (g,) = torch.autograd.grad(problem.objective(w), w)
    torch.testing.assert_close(problem.gradient(w.detach()), g)
    for x in (trap.points[0], gaussian((3,), generator=1)):
        H = hessian(problem.objective, problem.lift(x)).reshape(27, 27)
        torch.testing.assert_close(problem.hessian(x).to_dense(), H)
        value, v = problem.hessian_min(x)
        assert value == pytest.approx(float(torch.linalg.eigvalsh(H)[0]))
        torch.testing.assert_close((H @ v.reshape(-1)), value * v.reshape(-1), rtol=1e-6, atol=1e-6)


def test_the_lift_of_a_stationary_point_is_stationary():
    trap, problem = lifted(5, 0.2, 3)
    for x in [*trap.points, trap.truth]:
        assert float(problem.gradient(problem.lift(x)).abs().max()) < 1e-9
        torch.testing.assert_close(problem.project(problem.lift(x)), x)


@pytest.mark.parametrize(("n", "eps", "needed"), [(3, 0.1, 35), (3, 0.2, 9), (3, 0.3, 5), (3, 0.4, 3), (5, 0.3, 3)])
def test_the_order_that_makes_a_saddle(n, eps, needed):
    trap, problem = lifted(n, eps, 1)
    assert len(trap.points) == 2 ** ((n + 1) // 2 - 1) - 1
    for x in trap.points:
        assert problem.hessian_min(x)[0] >= -1e-8
        assert problem.required_order(x) == needed
    assert problem.required_order(trap.truth) is None
    for order in (3, 5):
        if n**order < 300:
            at = lifted_sensing(trap.measure, trap.y, n, order=order)
            # The sign of the smallest eigenvalue is that of the curvature along one lifted direction.
            assert (at.hessian_min(trap.points[0])[0] < 0) == (order >= needed)
            assert at.hessian_min(trap.truth)[0] >= -1e-8


def test_curvature_is_a_rayleigh_quotient():
    trap, problem = lifted(3, 0.3, 3)
    x, u = trap.points[0], gaussian((3,), generator=0)
    v = problem.lift(u).reshape(-1)
    expected = v @ problem.hessian(x).to_dense() @ v / (v @ v)
    assert problem.curvature(x, u) == pytest.approx(float(expected))


@pytest.mark.parametrize(("n", "eps", "order"), [(3, 0.4, 3), (3, 0.5, 3), (5, 0.3, 3)])
def test_escape(n, eps, order):
    trap, problem = lifted(n, eps, order)
    x = trap.points[0]
    # Plain descent stays.
    stays = problem.descend(x + 0.01 * gaussian((n,), generator=0))
    torch.testing.assert_close(stays, x, rtol=1e-5, atol=1e-5)
    found = problem.escape(x)
    assert found.misfit < 1e-12 and found.curvature < 0
    torch.testing.assert_close(found.x.abs(), trap.truth, rtol=1e-5, atol=1e-5)


def test_rank_two_and_numpy():
    A = gaussian_measurements(40, (3, 3), generator=0)
    X = gaussian((3, 2), generator=1)
    problem = lifted_sensing(A, A @ (X @ X.mT).reshape(-1), 3, rank=2, order=3)
    assert float(problem.misfit(X)) < 1e-20
    near = problem.descend(X + 0.1 * gaussian((3, 2), generator=2))
    torch.testing.assert_close(near @ near.mT, X @ X.mT, rtol=1e-6, atol=1e-6)
    value, _ = problem.hessian_min(X)
    assert value >= -1e-6
    assert isinstance(problem.lift(X.numpy()), np.ndarray)
    assert isinstance(problem.misfit(X.numpy()), float)


def test_descent_that_ends_too_early():
    _, problem = lifted(3, 0.4, 3)
    with pytest.raises(ConvergenceError, match="after 1 steps") as caught:
        problem.descend(torch.tensor([1.0, 0.5, -0.3]).double(), max_steps=1)
    assert caught.value.best.shape == (3,) and caught.value.error > 1e-10


def test_bad_input():
    trap, problem = lifted(3, 0.1, 3)
    for call, word in (
        (lambda: lifted_sensing(trap.measure, trap.y, 3, order=2), "order"),
        (lambda: lifted_sensing(trap.measure, trap.y, 4), "measure"),
        (lambda: lifted_sensing(trap.measure, trap.y, 3, rank=4), "rank"),
        (lambda: problem.misfit(torch.ones(4)), "x must"),
        (lambda: problem.objective(torch.ones(3, 3)), "w must"),
        (lambda: problem.project(torch.zeros(3, 3, 3)), "w must not be zero"),
        (lambda: problem.curvature(trap.points[0], torch.zeros(3)), "u must not be zero"),
        (lambda: problem.misfit(torch.full((3,), math.nan)), "NaN"),
        (lambda: problem.escape(trap.points[0]), "order 35"),
        (lambda: lifted(5, 0.3, 7)[1].objective(torch.ones((5,) * 7)), "lower the order"),
        (lambda: spurious_instance(4, 0.1), "odd"),
        (lambda: spurious_instance(3, 1.0), "eps"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
