"""bounded_root and affine_scaling: known roots, bounds, scalings, singular points, kinds, failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import affine_scaling, bounded_root

SCALINGS = ["combined", "coleman_li", "kanzow_klug", "hager", "heinkenschloss"]


def floudas(x):
    """Himmelblau's system: nine roots in [-5, 5]^2."""
    a, b = x
    return torch.stack([4 * a**3 + 4 * a * b + 2 * b**2 - 42 * a - 14, 4 * b**3 + 2 * a**2 + 4 * a * b - 26 * b - 22])


@pytest.mark.parametrize("region", ["spherical", "elliptical"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_roots_and_quadratic_convergence(scaling, region):
    for seed in range(5):
        x0 = 4 * torch.rand(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 2
        root = bounded_root(floudas, x0, (-5.0, 5.0), scaling=scaling, region=region)
        assert float(floudas(root.x).norm()) == pytest.approx(root.residual, abs=1e-12) and root.residual <= 1e-8
        assert len(root.history) == root.iterations + 1 and root.history == tuple(sorted(root.history, reverse=True))
        before, last = root.history[-2:]
        assert last < 1e3 * before**2 or last < 1e-12


@pytest.mark.parametrize("newton", ["direct", "gmres"])
def test_a_large_system(newton):
    n = 30

    def F(x):
        edge = x.new_zeros(1)
        y = torch.cat([edge, x, edge])
        return (3 - 2 * x) * x - y[:-2] - 2 * y[2:] + 1

    root = bounded_root(F, torch.full((n,), -0.3, dtype=torch.float64), (-1.0, 0.0), newton=newton)
    assert float(F(root.x).abs().max()) < 1e-8 and root.iterations < 12


def test_the_bounds_choose_the_root():
    def F(x):
        return x**2 - 4

    for low, high, start, expected in (
        (0.0, math.inf, [7.0, 7.0], [2.0, 2.0]),
        (-math.inf, 0.0, [-7.0, -0.1], [-2.0, -2.0]),
        ([-9.0, 0.5], [-1.0, 3.0], [-1.5, 2.5], [-2.0, 2.0]),
    ):
        root = bounded_root(F, torch.tensor(start, dtype=torch.float64), (low, high))
        torch.testing.assert_close(root.x, torch.tensor(expected, dtype=torch.float64))

    # a root on the bound is reached from inside
    def G(x):
        return torch.stack([x[0] * x[1].exp(), x[1] - 1 + x[0] ** 2])

    root = bounded_root(G, torch.tensor([0.5, 1.5], dtype=torch.float64), (0.0, 3.0))
    assert 0 < float(root.x[0]) < 1e-8 and float(root.x[1]) == pytest.approx(1)


def test_every_point_that_is_asked_for_is_inside():
    seen = []

    def F(x):
        seen.append(x.copy())
        return np.array([np.log(x[0]) + x[1], np.sqrt(1 - x[1]) - x[0]])

    root = bounded_root(F, np.array([0.9, 0.9]), ([0.0, -np.inf], [np.inf, 1.0]))
    points = np.array(seen)
    assert (points[:, 0] > 0).all() and (points[:, 1] < 1).all() and len(seen) == root.evaluations
    assert isinstance(root.x, np.ndarray) and np.linalg.norm(F(root.x)) <= 1e-8


def test_difference_quotients_derivatives_and_operators_agree():
    x0 = torch.tensor([0.3, -0.9], dtype=torch.float64)
    auto = bounded_root(floudas, x0, (-5.0, 5.0))
    given = bounded_root(floudas, x0, (-5.0, 5.0), torch.func.jacrev(floudas))
    assert torch.equal(auto.x, given.x)
    quotients = bounded_root(lambda x: floudas(torch.from_numpy(x)).numpy(), x0.numpy(), (-5.0, 5.0))
    np.testing.assert_allclose(quotients.x, auto.x.numpy(), rtol=1e-6)


def test_a_singular_jacobian_and_float32():
    root = bounded_root(lambda x: torch.stack([x[0] ** 2, x[0] * x[1]]), torch.ones(2).double(), (-1.0, 2.0))
    assert root.residual <= 1e-8
    single = bounded_root(floudas, torch.tensor([0.3, -0.9]), (-5.0, 5.0))
    double = bounded_root(floudas, torch.tensor([0.3, -0.9]).double(), (-5.0, 5.0))
    assert single.x.dtype == torch.float32
    torch.testing.assert_close(single.x.double(), double.x, rtol=1e-4, atol=1e-5)
    zero = bounded_root(
        lambda x: torch.stack([x[0] * x[1], x[0] * x[1]]), torch.tensor([0.5, 0.5]).double(), (-1.0, 2.0)
    )
    assert zero.residual <= 1e-8


def test_scalings_by_hand():
    x = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    g = torch.tensor([2.0, -2.0, 0.0, -0.5, 3.0], dtype=torch.float64)
    low = torch.tensor([0.5, 0.0, 0.25, 0.0, -math.inf], dtype=torch.float64)
    high = torch.tensor([9.0, 4.0, 4.0, math.inf, math.inf], dtype=torch.float64)
    expected = {
        "coleman_li": [0.5, 3.0, 0.75, 1.0, 1.0],
        "kanzow_klug": [0.5, 3.0, 0.75, 1.5, 1.0],
        "hager": [0.5 / 2.5, 3 / 5, 1.0, 1 / 1.5, 1 / 4],
        "heinkenschloss": [0.5, 3.0, 0.75, 1.0, 1.0],
    }
    for name, values in expected.items():
        torch.testing.assert_close(affine_scaling(x, g, (low, high), name), torch.tensor(values, dtype=torch.float64))
    mean = torch.tensor(list(expected.values()), dtype=torch.float64).mean(0)
    torch.testing.assert_close(affine_scaling(x, g, (low, high)), mean)
    weighted = affine_scaling(x, g, (low, high), weights=[0, 2, 0, 0])
    torch.testing.assert_close(weighted, affine_scaling(x, g, (low, high), "kanzow_klug"))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scalings_vanish_only_at_bounds_that_are_pushed_against(scaling):
    g = gaussian((2000,), generator=0)
    for t in (1e-3, 1e-6):
        # close to the lower bound: small where g > 0 only
        d = affine_scaling(torch.full_like(g, t), g, (0.0, 1.0), scaling)
        assert bool((d[g > 0.1] <= 20 * t).all())
        assert bool((d[g < -0.1] > 0.05).all()) and bool((d <= 5).all())


def test_failures_carry_the_best_point():
    with pytest.raises(ConvergenceError, match=r"local minimum|shrunk") as caught:
        bounded_root(lambda x: x**2 + 1, torch.tensor([0.7]).double(), (-2.0, 2.0))
    assert caught.value.best.residual == pytest.approx(1, rel=1e-6) and caught.value.error == caught.value.best.residual
    with pytest.raises(ConvergenceError, match="2 steps"):
        bounded_root(floudas, torch.tensor([4.9, -4.9]).double(), (-5.0, 5.0), maxiter=2)


def test_bad_input():
    x0 = torch.zeros(2, dtype=torch.float64)
    for call, word in (
        (lambda: bounded_root(floudas, x0, (0.0, 1.0)), "strictly"),
        (lambda: bounded_root(floudas, x0, (1.0, -1.0)), "interior"),
        (lambda: bounded_root(floudas, x0, 1.0), "pair"),
        (lambda: bounded_root(floudas, x0, (torch.zeros(3), 1.0)), "bounds"),
        (lambda: bounded_root(floudas, x0, (-1.0, 1.0), scaling="none"), "scaling"),
        (lambda: bounded_root(floudas, x0, (-1.0, 1.0), weights=[1, 2]), "weights"),
        (lambda: bounded_root(floudas, x0, (-1.0, 1.0), scaling="hager", weights=[1, 1, 1, 1]), "weights"),
        (lambda: bounded_root(floudas, x0, (-1.0, 1.0), region="square"), "region"),
        (lambda: bounded_root(floudas, x0, (-1.0, 1.0), newton="qr"), "newton"),
        (lambda: bounded_root(floudas, x0, (-1.0, 1.0), atol=0.0), "atol"),
        (lambda: bounded_root(lambda x: x[:1], x0, (-1.0, 1.0)), "shape"),
        (lambda: bounded_root(lambda x: x / 0, x0, (-1.0, 1.0)), "finite"),
        (lambda: bounded_root(floudas, x0, (-1.0, 1.0), lambda x: torch.eye(3)), "jac"),
        (lambda: bounded_root(floudas, torch.eye(2), (-1.0, 1.0)), "shape"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="real"):
        bounded_root(floudas, x0.cfloat(), (-1.0, 1.0))


def test_gradients_that_would_be_lost_are_refused():
    p = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x0 = torch.tensor([1.0], dtype=torch.float64)
    for F, start in ((lambda x: x**2 - p, x0), (lambda x: x**2 - 2, x0.clone().requires_grad_())):
        with pytest.raises(TypeError, match="no gradients"):
            bounded_root(F, start, (0.0, 5.0))
        with torch.no_grad():
            assert float(bounded_root(F, start, (0.0, 5.0)).x) == pytest.approx(2**0.5)
