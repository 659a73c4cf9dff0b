"""constrained_newton and its parts: quadratic programs, known minima, derivatives of the merit, sketches, failures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import constrained_newton
from resolvent.solve.lagrangian import Lagrangian, convexified
from resolvent.solve.sketch_project import SketchProject

SOLVERS = [
    ("direct", "gaussian"),
    ("gmres", "gaussian"),
    ("sketch", "gaussian"),
    ("sketch", "block"),
    ("sketch", "kaczmarz"),
]


@pytest.mark.parametrize(("inner", "sketch"), SOLVERS)
def test_a_quadratic_program(inner, sketch):
    M = gaussian((5, 5), generator=0)
    Q, A, b = torch.eye(5, dtype=M.dtype) + M @ M.mT / 5, gaussian((2, 5), generator=1), gaussian((2,), generator=2)
    found = constrained_newton(
        lambda x: x @ Q @ x / 2, lambda x: A @ x - b, torch.zeros(5).double(), inner=inner, sketch=sketch
    )
    K = torch.cat([torch.cat([Q, A.mT], 1), torch.cat([A, torch.zeros(2, 2).double()], 1)])
    exact = torch.linalg.solve(K, torch.cat([torch.zeros(5).double(), b]))
    torch.testing.assert_close(found.x, exact[:5], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.multipliers, exact[5:], rtol=0, atol=1e-4)
    assert found.kkt <= 1e-6 and found.flops > 0
    if inner == "direct":
        assert found.iterations == 1


@pytest.mark.parametrize("inner", ["direct", "sketch"])
def test_known_minima(inner):
    # maximise the volume of a box of surface 6: the cube
    cube = constrained_newton(
        lambda x: -x.prod(),
        lambda x: (2 * (x[0] * x[1] + x[1] * x[2] + x[0] * x[2]) - 6)[None],
        torch.tensor([1.5, 0.8, 0.9]).double(),
        inner=inner,
    )
    torch.testing.assert_close(cube.x, torch.ones(3).double(), rtol=0, atol=1e-5)
    # the smallest eigenvalue of a matrix, a problem that is not convex
    M = torch.diag(torch.tensor([3.0, 1.0, 2.0, 5.0], dtype=torch.float64)) + 0.2
    least = constrained_newton(
        lambda x: x @ M @ x, lambda x: (x @ x - 1)[None], torch.tensor([0.3, 0.9, 0.2, 0.1]).double(), inner=inner
    )
    assert least.value == pytest.approx(float(torch.linalg.eigvalsh(M)[0]), abs=1e-6)
    assert float(-least.multipliers) == pytest.approx(least.value, abs=1e-5)


def test_against_scipy():
    from scipy.optimize import minimize

    def f(x):
        return (x[0] - 1) ** 2 + (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4

    def c(x):
        return (x[0] * (1 + x[1] ** 2) + x[2] ** 4 - 4 - 3 * 2**0.5)[None]

    start = np.array([2.0, 2.0, 2.0])
    found = constrained_newton(f, c, start)
    assert isinstance(found.x, np.ndarray)
    known = minimize(
        f,
        start,
        constraints={"type": "eq", "fun": lambda x: float(x[0] * (1 + x[1] ** 2) + x[2] ** 4 - 4 - 3 * 2**0.5)},
        tol=1e-12,
    )
    assert found.value == pytest.approx(known.fun, abs=1e-7)


def test_superlinear_convergence_and_unit_steps():
    def run(forcing):
        return constrained_newton(
            lambda x: (x[0] - 2).exp() + x @ x,
            lambda x: torch.stack([x[0] * x[1] - x[2], x.sum() - 3]),
            torch.tensor([1.0, 1.0, 0.5]).double(),
            forcing=forcing,
            atol=1e-10,
            curvature=1e-6,
        )

    found = run("vanishing")
    assert found.lengths[-3:] == (1.0, 1.0, 1.0)
    assert found.history[-1] / found.history[-2] < 1e-2
    assert found.iterations <= run("constant").iterations


def test_the_gradient_of_the_merit():
    problem = Lagrangian(
        lambda x: x[0] ** 3 + (x[1] * x[2]).sin(), lambda x: torch.stack([x[0] * x[1] ** 2 - x[2], (x**3).sum() - 1])
    )
    x, w = gaussian((3,), generator=0), gaussian((2,), generator=1)
    p = problem.at(x, w)
    found = torch.cat(problem.merit_gradient(p, problem.hessian(p), (0.7, 0.3)))
    h = 1e-6
    for i in range(5):
        e = torch.zeros(5).double()
        e[i] = h
        up, down = (problem.merit(problem.at(x + s * e[:3], w + s * e[3:]), (0.7, 0.3)) for s in (1, -1))
        assert float(found[i]) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-6)


def test_convexified():
    H, G = torch.diag(torch.tensor([2.0, -1.0, -9.0])), torch.tensor([[0.0, 0.0, 1.0]])
    # on the kernel of G the eigenvalues are 2 and -1; the -9 does not count
    found = convexified(H, G, 1e-2)
    torch.testing.assert_close(torch.linalg.eigvalsh(found[:2, :2]), torch.tensor([1.02, 4.02]))
    positive = torch.diag(torch.tensor([2.0, 1.0, -9.0]))
    assert convexified(positive, G, 1e-2) is positive


@pytest.mark.parametrize(("sketch", "size"), [("gaussian", 5), ("block", 4), ("kaczmarz", 1)])
def test_sketch_and_project(sketch, size):
    Q = torch.linalg.qr(gaussian((12, 12), generator=0)).Q
    K = Q * torch.linspace(1, 3, 12).double() @ Q.mT
    exact = gaussian((12,), generator=1)
    run = SketchProject(K, K @ exact, sketch, size, torch.Generator().manual_seed(0))
    errors = [float(exact.norm())]
    for _ in range(25):
        residual = run.epoch()
        torch.testing.assert_close(residual, K @ (exact - run.z))
        errors.append(float((run.z - exact).norm()))
    # projections never lead away, and the mean rate is bounded by the smallest singular value
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(errors)) and errors[-1] < 1e-3 * errors[0]
    assert run.flops > 0 and run.steps == 25 * -(-12 // run.size)


def test_a_whole_sketch_is_exact_and_equations_may_repeat():
    K, exact = gaussian((6, 6), generator=0), gaussian((6,), generator=1)
    run = SketchProject(K, K @ exact, "gaussian", 6, torch.Generator().manual_seed(0))
    run.epoch()
    torch.testing.assert_close(run.z, exact)
    twice = K[[0, 1, 2, 0, 1, 2]]
    run = SketchProject(twice, twice @ exact, "block", 6, torch.Generator().manual_seed(0))
    run.epoch()
    torch.testing.assert_close(run.z, torch.linalg.pinv(twice) @ (twice @ exact))


def test_the_same_seed_and_float32():
    def solve(dtype):
        return constrained_newton(
            lambda x: ((x - 2) ** 2).sum(),
            lambda x: (x @ x - 1)[None],
            torch.tensor([1.0, 0.5, 0.2], dtype=dtype),
            generator=3,
        )

    assert torch.equal(solve(torch.float64).x, solve(torch.float64).x)
    assert solve(torch.float32).x.dtype == torch.float32
    torch.testing.assert_close(solve(torch.float32).x, torch.full((3,), 3**-0.5), rtol=0, atol=2e-3)


def test_failures_carry_the_best_point():
    with pytest.raises(ConvergenceError) as caught:  # infeasible
        constrained_newton(lambda x: x @ x, lambda x: (x @ x + 1)[None], torch.ones(2).double(), maxiter=30, epochs=200)
    assert caught.value.best.kkt == caught.value.error > 0.5
    with pytest.raises(ConvergenceError, match="1 steps"):
        constrained_newton(lambda x: (x**4).sum(), lambda x: x[:1] - 1, torch.tensor([3.0, 3.0]).double(), maxiter=1)


def test_bad_input():
    def f(x):
        return x @ x

    def c(x):
        return x[:1]

    x0 = torch.ones(2).double()
    for call, word in (
        (lambda: constrained_newton(f, c, torch.eye(2)), "x0"),
        (lambda: constrained_newton(f, c, x0, inner="lu"), "inner"),
        (lambda: constrained_newton(f, c, x0, sketch="srht"), "sketch"),
        (lambda: constrained_newton(f, c, x0, forcing="none"), "forcing"),
        (lambda: constrained_newton(f, c, x0, theta=1.0), "theta"),
        (lambda: constrained_newton(f, c, x0, eta=(1.0, 0.0)), "eta"),
        (lambda: constrained_newton(f, c, x0, curvature=0.0), "curvature"),
        (lambda: constrained_newton(f, c, x0, sketch_size=9), "sketch_size"),
        (lambda: constrained_newton(f, c, x0, torch.ones(2)), "multipliers"),
        (lambda: constrained_newton(lambda x: x, c, x0), "f must"),
        (lambda: constrained_newton(f, lambda x: torch.cat([x, x]), x0), "c must"),
        (lambda: constrained_newton(f, c, torch.tensor([math.nan, 1.0])), "x0"),
        (lambda: constrained_newton(lambda x: (x - 2).log().sum(), c, x0), "finite"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


def test_gradients_that_would_be_lost_are_refused():
    p = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    for f, start in ((lambda x: p * x.sum(), x0), (lambda x: x.sum(), x0.clone().requires_grad_())):
        with pytest.raises(TypeError, match="no gradients"):
            constrained_newton(f, lambda x: (x @ x - 2)[None], start)
        with torch.no_grad():
            assert constrained_newton(f, lambda x: (x @ x - 2)[None], start).kkt < 1e-6
