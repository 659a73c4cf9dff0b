"""LARS, LAMB and Nesterov momentum against formulas by hand and torch."""

import numpy as np
import pytest
import torch
from torch import nn

from resolvent.optim import LAMB, LARS, NAG

PATHS = pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"]
)


def start(*shapes):
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=draw, dtype=torch.float64)) for s in shapes]


def feed(optimizer, params, count):
    draw, fed = torch.Generator().manual_seed(7), []
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        fed.append([p.grad.numpy().copy() for p in params])
        optimizer.step()
    return fed


@PATHS
def test_nag_is_nesterov_of_torch(options):
    ours, theirs = start((4, 3), (5,)), start((4, 3), (5,))
    feed(NAG(ours, lr=0.1, momentum=0.7, **options), ours, 6)
    feed(torch.optim.SGD(theirs, lr=0.1, momentum=0.7, nesterov=True), theirs, 6)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


@PATHS
def test_lars_by_hand(options):
    params = start((4, 3), (5,))
    w, v = (p.detach().numpy().copy() for p in params)
    fed = feed(LARS(params, lr=0.5, momentum=0.8, weight_decay=0.1, trust=0.2, eps=1e-3, **options), params, 3)
    b, c = np.zeros_like(w), np.zeros_like(v)
    for g, h in fed:
        size = np.linalg.norm(w)
        b = 0.8 * b + 0.2 * size / (np.linalg.norm(g) + 0.1 * size + 1e-3) * (g + 0.1 * w)
        c = 0.8 * c + h
        w, v = w - 0.5 * b, v - 0.5 * c
    assert np.allclose(params[0].detach(), w, rtol=1e-12)
    assert np.allclose(params[1].detach(), v, rtol=1e-12)


@PATHS
def test_lamb_by_hand(options):
    params = start((4, 3), (5,))
    found = [p.detach().numpy().copy() for p in params]
    fed = feed(LAMB(params, lr=0.3, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.05, **options), params, 3)
    moments = [[np.zeros_like(w), np.zeros_like(w)] for w in found]
    for t, gs in enumerate(fed, 1):
        for k, g in enumerate(gs):
            m, v = moments[k] = [0.8 * moments[k][0] + 0.2 * g, 0.9 * moments[k][1] + 0.1 * g * g]
            r = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-4) + 0.05 * found[k]
            found[k] = found[k] - 0.3 * np.linalg.norm(found[k]) / np.linalg.norm(r) * r
    for p, w in zip(params, found, strict=True):
        assert np.allclose(p.detach(), w, rtol=1e-12)


@PATHS
@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_scale_of_the_gradient_does_not_matter(kind, options):
    ends = []
    for scale in (1.0, 1e6):
        params = start((6, 5))
        optimizer = kind(params, lr=0.1, weight_decay=0.0, eps=0.0, **options)
        params[0].grad = scale * torch.arange(1.0, 31.0, dtype=torch.float64).reshape(6, 5)
        optimizer.step()
        ends.append(params[0].detach())
    assert torch.allclose(*ends, rtol=1e-12)


@PATHS
@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_a_tensor_of_zeros_moves(kind, options):
    p = nn.Parameter(torch.zeros(3, 2))
    optimizer = kind([p], lr=0.5, weight_decay=0.0, **options)
    p.grad = torch.ones(3, 2)
    optimizer.step()
    assert torch.allclose(p.detach(), torch.full((3, 2), -0.5), atol=1e-4)


@PATHS
@pytest.mark.parametrize("kind", [LARS, LAMB, NAG])
def test_a_nan_in_the_gradient_is_seen(kind, options):
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = kind([p], **options)
    p.grad = torch.full((3, 2), torch.nan)
    optimizer.step()
    assert p.isnan().all()
