import math

import numpy as np
import pytest
import torch
from torch import nn

from resolvent.optim import MuPLinearLimit


def data(rows=6, d_in=4, d_out=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    return (torch.randn(rows, k, generator=g, dtype=dtype) for k in (d_in, d_out))


def test_a_step_is_the_recursion_of_the_paper():
    x, y = data()
    limit = MuPLinearLimit(4, 3, lr=0.05, dtype=torch.float64, sigma=(0.7, 1.3))
    A, B, C, D = 0.7 * np.eye(4), np.zeros((3, 4)), 1.3 * np.eye(3), np.zeros((4, 3))
    for _ in range(5):
        f = x.numpy() @ (C.T @ B + D.T @ A).T
        q = f - y.numpy()
        steps = [np.zeros_like(M) for M in (A, B, C, D)]
        for xi, qi in zip(x.numpy(), q, strict=True):
            for step, change in zip(
                steps,
                (D @ np.outer(qi, xi), C @ np.outer(qi, xi), B @ np.outer(xi, qi), A @ np.outer(xi, qi)),
                strict=True,
            ):
                step -= 0.05 * change
        A, B, C, D = (M + step for M, step in zip((A, B, C, D), steps, strict=True))
        limit.train_step(x, limit(x) - y)
    for mine, theirs in zip((limit.A, limit.B, limit.C, limit.D), (A, B, C, D), strict=True):
        assert np.allclose(mine.detach().numpy(), theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("rows", "d_in", "d_out"), [(2, 9, 8), (50, 3, 2)])
def test_autograd_takes_the_same_step(rows, d_in, d_out):
    x, y = data(rows, d_in, d_out)
    one, two = (MuPLinearLimit(d_in, d_out, lr=0.1, dtype=torch.float64) for _ in range(2))
    optimizer = torch.optim.SGD(two.parameters(), lr=0.1)
    for _ in range(4):
        one.train_step(x, (one(x) - y) / rows)
        optimizer.zero_grad()
        ((two(x) - y).square().sum() / (2 * rows)).backward()
        optimizer.step()
    assert torch.allclose(one.inner, two.inner, rtol=1e-12)
    assert torch.allclose(one.outer, two.outer, rtol=1e-12)


def train(model, x, y, lr, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x) - y).square().sum() / (2 * len(x))).backward()
        optimizer.step()
    return model(x).detach()


def test_finite_networks_come_closer_as_the_root_of_the_width():
    x, y = data()
    limit = MuPLinearLimit(4, 3, dtype=torch.float64)
    samples = {n: [limit.sample(n, generator=seed) for seed in range(4)] for n in (64, 4096)}
    exact = train(limit, x, y, 0.3, 20)
    error = {n: np.mean([(train(m, x, y, 0.3, 20) - exact).norm().item() for m in nets]) for n, nets in samples.items()}
    slope = math.log(error[4096] / error[64]) / math.log(64)
    assert slope == pytest.approx(-0.5, abs=0.12)


def test_a_trained_limit_gives_trained_networks():
    x, y = data()
    limit = MuPLinearLimit(4, 3, dtype=torch.float64)
    exact = train(limit, x, y, 0.3, 20)
    net = limit.sample(200_000, generator=0)
    assert torch.allclose(net(x), exact, atol=0.05)
    features = net[0].weight.T @ net[0].weight
    assert torch.allclose(features, limit.gram(), atol=0.05)
    assert not torch.allclose(features, torch.eye(4, dtype=torch.float64), atol=0.1)


def test_the_function_without_training_is_zero_and_gradients_are_exact():
    limit = MuPLinearLimit(3, 2, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert limit(x).abs().max() == 0
    with torch.no_grad():
        limit.inner.normal_()
        limit.outer.normal_()
    assert torch.autograd.gradcheck(limit, (x,))


def test_float32_and_momentum():
    x, y = data(dtype=torch.float32)
    limit = MuPLinearLimit(4, 3)
    optimizer = torch.optim.SGD(limit.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(limit(x), y).backward()
        optimizer.step()
    best = torch.linalg.lstsq(x, y).solution
    assert torch.allclose(limit(x), x @ best, atol=1e-3)


def test_bad_input():
    with pytest.raises(ValueError, match="d_in"):
        MuPLinearLimit(0, 2)
    with pytest.raises(ValueError, match="lr"):
        MuPLinearLimit(2, 2, lr=-1.0)
    with pytest.raises(ValueError, match="one batch"):
        MuPLinearLimit(2, 2).train_step(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="width"):
        MuPLinearLimit(2, 2).sample(0)
