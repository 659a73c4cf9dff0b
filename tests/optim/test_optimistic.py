"""Optimistic AMSGrad against its formulas in NumPy, and its limits."""

import numpy as np
import pytest
import torch
from torch import nn

from resolvent.optim import OptimisticAMSGrad

PATHS = pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"]
)


def by_hand(w, gradients, lr, history, reg, predictor, decay=0.0):
    """The method on one vector, as the paper writes it, with all gradients kept."""
    theta, v, top, x, guess, seen = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), w.copy(), np.zeros_like(w), []
    for g in gradients:
        theta = 0.9 * theta + 0.1 * g
        v = 0.999 * v + 0.001 * (g - guess) ** 2
        top = np.maximum(top, v)
        x = (1 - lr * decay) * x - lr * theta / (np.sqrt(top) + 1e-8)
        seen = [*seen, g][-history - 1 :]
        guess = g
        if predictor == "extrapolation" and len(seen) > 1:
            u = np.diff(np.array(seen), axis=0).T
            system = u.T @ u
            z = np.linalg.solve(system + reg * np.linalg.norm(system, 2) * np.eye(len(system)), np.ones(len(system)))
            guess = (z / z.sum()) @ np.array(seen[:-1])
        w = x - lr * (0.9 * theta + 0.1 * guess) / (np.sqrt(top) + 1e-8)
    return w, x


@PATHS
@pytest.mark.parametrize("predictor", ["extrapolation", "last"])
def test_the_method_by_hand(options, predictor):
    r = np.random.default_rng(0)
    w, gradients = r.normal(size=12), r.normal(size=(9, 12)) + 0.5
    params = [nn.Parameter(torch.tensor(part)) for part in (w[:5], w[5:])]
    settings = {"lr": 0.01, "history": 3, "reg": 1e-2, "predictor": predictor, "weight_decay": 0.1}
    optimizer = OptimisticAMSGrad(params, **settings, **options)
    for g in gradients:
        for p, part in zip(params, (g[:5], g[5:]), strict=True):
            p.grad = torch.tensor(part)
        optimizer.step()
    played, x = by_hand(w, gradients, 0.01, 3, 1e-2, predictor, 0.1)
    assert np.allclose(torch.cat(params).detach(), played, rtol=1e-9)
    with optimizer.eval_params():
        assert np.allclose(torch.cat(params).detach(), x, rtol=1e-9)
    assert np.allclose(torch.cat(params).detach(), played, rtol=1e-9)


class _Blind(OptimisticAMSGrad):
    def _guess(self, group, g, state):
        return torch.zeros_like(g)


def test_with_guesses_of_zero_it_is_amsgrad_without_bias_correction():
    r = np.random.default_rng(1)
    gradients = r.normal(size=(12, 4))
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = _Blind([p], lr=0.1, predictor="last", foreach=False)
    m, v, top, x = (np.zeros(4) for _ in range(4))
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        top = np.maximum(top, v)
        x = x - 0.1 * m / (np.sqrt(top) + 1e-8)
    assert np.allclose(optimizer.state[p]["aux"], x, rtol=1e-12)


@PATHS
def test_constant_gradients_are_guessed(options):
    p = nn.Parameter(torch.zeros(5))
    optimizer = OptimisticAMSGrad([p], history=3, **options)
    for _ in range(6):
        p.grad = torch.arange(1.0, 6.0)
        optimizer.step()
    assert torch.allclose(optimizer.state[p]["guess"], torch.arange(1.0, 6.0), rtol=1e-6)


def test_a_linear_recursion_is_extrapolated_to_its_limit():
    r = np.random.default_rng(2)
    a = 0.9 * np.linalg.qr(r.normal(size=(3, 3)))[0]
    limit, x = r.normal(size=3), r.normal(size=3)
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = OptimisticAMSGrad([p], history=4, reg=1e-13)
    for _ in range(5):
        p.grad = torch.tensor(x)
        optimizer.step()
        x = limit + a @ (x - limit)
    assert np.allclose(optimizer.state[p]["guess"], limit, atol=1e-4)


def test_history_in_half_the_width():
    p = nn.Parameter(torch.linspace(0.5, 1.5, 6))
    optimizer = OptimisticAMSGrad([p], lr=0.01, history_dtype=torch.bfloat16)
    for _ in range(300):
        optimizer.zero_grad()
        (p**2).sum().backward()
        optimizer.step()
    assert optimizer.state[p]["history"].dtype == torch.bfloat16
    assert p.detach().abs().max() < 0.02
