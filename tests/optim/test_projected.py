"""AdamP and SGDP against the authors' package, and what the projection is for."""

import pytest
import torch
from torch import nn

from resolvent.optim import SGDP, AdamP


def steps(make, shapes, count=12, dtype=torch.float64, offset=0.0):
    draw = torch.Generator().manual_seed(2)
    params = [nn.Parameter(torch.randn(s, generator=draw, dtype=dtype)) for s in shapes]
    optimizer = make(params)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draw, dtype=dtype) + offset * p.detach()
        optimizer.step()
    return [p.detach() for p in params]


SHAPES = ((8, 40), (1, 300), (6, 5, 3, 3), (7,), (8, 40))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"])
@pytest.mark.parametrize("offset", [0.0, 0.3])
@pytest.mark.parametrize("nesterov", [False, True])
def test_adamp_is_that_of_its_authors(options, offset, nesterov):
    theirs = pytest.importorskip("adamp").AdamP
    settings = {"lr": 0.05, "weight_decay": 0.1, "nesterov": nesterov, "delta": 0.4}
    ours = steps(lambda p: AdamP(p, **settings, **options), SHAPES, offset=offset)
    for a, b in zip(ours, steps(lambda p: theirs(p, **settings), SHAPES, offset=offset), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"])
def test_sgdp_is_that_of_its_authors(options):
    # Without nesterov their code projects the momentum itself, which the paper does not: see the next test.
    theirs = pytest.importorskip("adamp").SGDP
    settings = {"lr": 0.01, "momentum": 0.8, "dampening": 0.1, "weight_decay": 0.1, "nesterov": True, "delta": 0.4}
    ours = steps(lambda p: SGDP(p, **settings, **options), SHAPES)
    for a, b in zip(ours, steps(lambda p: theirs(p, **settings), SHAPES), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"])
def test_the_momentum_itself_is_not_projected(options):
    w, b, fired = torch.eye(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64), []
    p = nn.Parameter(w.clone())
    optimizer = SGDP([p], lr=0.1, momentum=0.8, weight_decay=0.1, delta=1.4, **options)
    for t in range(8):
        p.grad = torch.sin(torch.arange(12.0, dtype=torch.float64) * (t + 1)).reshape(3, 4)
        b = 0.8 * b + p.grad
        unit, ratio, d = w / w.norm(dim=1, keepdim=True), 1.0, b
        fired.append(float((unit * p.grad / p.grad.norm(dim=1, keepdim=True)).sum(1).abs().max()) < 1.4 / 4**0.5)
        if fired[-1]:
            d, ratio = b - unit * (unit * b).sum(1, keepdim=True), 0.1
        elif float((w * p.grad).sum().abs() / w.norm() / p.grad.norm()) < 1.4 / 12**0.5:
            d, ratio = b - w * (w * b).sum() / w.square().sum(), 0.1
        w = (1 - 0.1 * 0.1 * ratio / 0.2) * w - 0.1 * d
        optimizer.step()
    assert torch.allclose(p.detach(), w, rtol=1e-6)
    assert any(fired) and not all(fired)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"])
def test_without_projection_they_are_adamw_and_momentum(options):
    ours = steps(lambda p: AdamP(p, lr=0.02, delta=0.0, weight_decay=0.3, **options), SHAPES)
    adamw = steps(lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3), SHAPES)
    ours += steps(lambda p: SGDP(p, lr=0.02, delta=0.0, **options), SHAPES)
    adamw += steps(lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9), SHAPES)
    for a, b in zip(ours, adamw, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [AdamP, SGDP])
def test_a_projected_step_is_orthogonal_to_the_weight(kind):
    w = nn.Parameter(torch.randn(5, 30, dtype=torch.float64))
    optimizer = kind([w], lr=0.1)
    before = w.detach().clone()
    x = torch.randn(30, dtype=torch.float64)
    ((w @ x) / w.norm(dim=1)).sum().backward()
    optimizer.step()
    step = w.detach() - before
    assert step.norm() > 0.01
    assert (step * before).sum(1).abs().max() < 1e-8


def test_rows_come_before_the_whole_tensor():
    # Rows 1 and 2 have gradients along the weight that cancel over the tensor: only the whole looks scale-invariant.
    w = nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64))
    optimizer = SGDP([w], lr=1.0, momentum=0.0)
    w.grad = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    optimizer.step()
    assert torch.allclose(w.detach(), torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64))
    v = nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64))
    optimizer = SGDP([v], lr=1.0, momentum=0.0)
    v.grad = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    optimizer.step()
    assert torch.allclose(v.detach(), torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"])
def test_a_nan_in_the_gradient_is_seen(options):
    w = nn.Parameter(torch.ones(3, 4))
    optimizer = AdamP([w], **options)
    w.grad = torch.randn(3, 4)
    w.grad[1, 2] = torch.nan
    optimizer.step()
    assert w.isnan().tolist() == w.grad.isnan().tolist()
