"""OASIS against its recursion with an explicit Hessian, and its limiting case without a diagonal."""

import math

import pytest
import torch
from torch import nn

from resolvent.optim import OASIS
from resolvent.optim.hutchinson import random_signs

SCALES = torch.tensor([1.0, 30.0, 0.2, 8.0], dtype=torch.float64)


def loss(x):
    """Smooth and convex, with a dense Hessian."""
    return torch.nn.functional.softplus(SCALES * x - 1).sum() + (x.sum() - 1) ** 2 + 0.01 * x.square().sum()


def by_formula(x, steps, signs, beta2, alpha, warmstart, eta0):
    hessian, gradient = torch.func.hessian(loss), torch.func.grad(loss)
    H = hessian(x)
    D = torch.stack([z * (H @ z) for z in (next(signs) for _ in range(warmstart))]).mean(0)
    g, eta, theta = gradient(x), eta0, math.inf
    last, x = (x, g), x - eta * g / D.abs().clamp_min(alpha)
    path = [x]
    for _ in range(steps - 1):
        z = next(signs)
        D = beta2 * D + (1 - beta2) * z * (hessian(x) @ z)
        below, g = D.abs().clamp_min(alpha), gradient(x)
        way, turn = x - last[0], g - last[1]
        bound = float(((way**2 * below).sum() / (turn**2 / below).sum()).sqrt()) / 2
        found = min(math.sqrt(1 + theta) * eta, bound)
        eta, theta = found, found / eta
        last, x = (x, g), x - eta * g / below
        path.append(x)
    return path, eta


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {}], ids=["single", "foreach", "fused"])
def test_follows_the_paper(options):
    start = torch.tensor([0.5, -0.3, 2.0, 0.1], dtype=torch.float64)
    x = nn.Parameter(start.clone())
    optimizer = OASIS([x], None, 0.9, 1e-3, warmstart=5, eta0=1e-4, stochastic=False, generator=2, **options)
    draw = torch.Generator().manual_seed(2)
    signs = iter([random_signs((4,), torch.float64, draw) for _ in range(30)])
    path, eta = by_formula(start, 20, signs, 0.9, 1e-3, 5, 1e-4)
    for wanted in path:
        optimizer.step(lambda: loss(x))
        assert torch.allclose(x, wanted, rtol=1e-9, atol=1e-11)
    assert optimizer.step_size == pytest.approx(eta, rel=1e-8)


def test_the_same_batch_at_both_points_is_the_last_gradient_of_one_batch():
    """With one batch for ever, the stochastic step is the deterministic one."""
    points = [nn.Parameter(torch.full((4,), 0.3, dtype=torch.float64)) for _ in range(2)]
    once, twice = (
        OASIS([x], warmstart=3, stochastic=s, generator=0) for x, s in zip(points, (False, True), strict=True)
    )
    calls = []
    for _ in range(6):
        once.step(lambda: loss(points[0]))
        twice.step(lambda: (calls.append(1), loss(points[1]))[1])
    assert torch.allclose(*points, rtol=1e-12)
    assert len(calls) == 11  # the first step knows no other point
    assert "slope" not in twice.state[points[1]] and "slope" in once.state[points[0]]
    with pytest.raises(RuntimeError, match="closure"):
        loss(points[1]).backward(create_graph=True)
        twice.step()


def test_dropout_draws_alike_at_both_points():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))
    data, masks = torch.randn(10, 6), []
    model[2].register_forward_hook(lambda _, given, out: masks.append((out == 0).clone()))
    optimizer = OASIS(model.parameters(), warmstart=2, generator=0)
    for _ in range(3):
        optimizer.step(lambda: model(data).square().mean())
    assert len(masks) == 5
    assert torch.equal(masks[1], masks[2]) and torch.equal(masks[3], masks[4])
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[2], masks[3])


def test_scales_of_the_coordinates_do_not_matter():
    """On a diagonal quadratic all coordinates go the same way, and Newton's step is reached."""
    c = torch.tensor([1e-2, 1.0, 1e4], dtype=torch.float64)
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = OASIS([x], warmstart=1, stochastic=False, generator=0)
    for _ in range(60):
        optimizer.step(lambda: (c * x**2).sum() / 2)
    assert optimizer.step_size == pytest.approx(0.5, rel=1e-6)
    assert float(x.detach().abs().max()) < 1e-12


def test_the_diagonal_forgets_signs_of_noise():
    """The mean of the signed products is the diagonal; the mean of their absolute values is not."""
    A = torch.tensor([[1.0, 5.0], [5.0, 30.0]], dtype=torch.float64)
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = OASIS([x], lr=0.0, warmstart=1000, generator=0)
    optimizer.step(lambda: x @ A @ x / 2)
    assert torch.allclose(optimizer.state[x]["diagonal"], A.diagonal(), rtol=0, atol=0.7)


def test_a_fixed_rate_is_taken_as_it_is():
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    c = torch.tensor([4.0, 100.0], dtype=torch.float64)
    optimizer = OASIS([x], lr=1.0, warmstart=1, weight_decay=0.0)
    optimizer.step(lambda: (c * x**2).sum() / 2)
    assert torch.allclose(x, torch.zeros(2, dtype=torch.float64), atol=1e-15)


def test_a_fixed_point_is_kept():
    x = nn.Parameter(torch.zeros(3))
    optimizer = OASIS([x], warmstart=2, stochastic=False)
    for _ in range(4):
        optimizer.step(lambda: x.square().sum())
    assert torch.equal(x, torch.zeros(3)) and math.isfinite(optimizer.step_size)
