"""Directions of steepest ascent against brute force, and the optimizers that they are."""

import numpy as np
import pytest
import torch
from torch import nn

from resolvent.functions import orthogonalize
from resolvent.optim import (
    SteepestDescent,
    adam_as_steepest,
    dualize,
    param_groups_by_role,
    prodigy_as_steepest,
    shampoo_as_steepest,
)

SHAPES = {"inf": (4, 3), "l2": (4, 3), "1->rms": (5, 3), "rms->rms": (4, 6), "spectral": (6, 4), "conv": (3, 4, 2, 2)}


def norm_value(t, norm):
    if norm == "inf":
        return t.abs().max()
    if norm == "l2":
        return t.norm()
    if norm == "1->rms":
        return t.square().mean(1).sqrt().max()
    if norm == "spectral":
        return torch.linalg.matrix_norm(t, 2)
    if norm == "rms->rms":
        # max over x of rms(t x) / rms(x)
        return torch.linalg.matrix_norm(t, 2) * (t.shape[1] / t.shape[0]) ** 0.5
    area = t[0, 0].numel()
    return area * torch.linalg.matrix_norm(t.flatten(1), 2) * (t.shape[1] / t.shape[0]) ** 0.5


@pytest.mark.parametrize("norm", SHAPES)
def test_no_direction_of_norm_one_ascends_faster(norm):
    g = torch.randn(SHAPES[norm], dtype=torch.float64)
    direction, dual = dualize(g, norm, steps=None)
    assert norm_value(direction, norm) == pytest.approx(1.0, rel=1e-10)
    assert (g * direction).sum() == pytest.approx(float(dual), rel=1e-10)
    for scale in (0.01, 0.1, 1.0, 10.0):
        for _ in range(50):
            other = direction + scale * torch.randn_like(g)
            assert (g * other).sum() / norm_value(other, norm) <= dual * (1 + 1e-10)


def test_the_norm_of_kernels_bounds_the_convolution():
    w = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    x = torch.randn(200, 4, 5, 5, dtype=torch.float64)
    y = torch.conv2d(x, w)
    # Root mean squares over channels, the largest over positions.
    size_out, size_in = y.square().mean(1).sqrt().amax((1, 2)), x.square().mean(1).sqrt().amax((1, 2))
    assert bool((size_out <= norm_value(w, "conv") * size_in).all())


def test_batches_kinds_and_zero():
    g = torch.randn(3, 4, 6)
    direction, dual = dualize(g, "spectral", steps=None)
    for i in range(3):
        one, size = dualize(g[i], "spectral", steps=None)
        assert torch.allclose(direction[i], one, atol=1e-5) and torch.allclose(dual[i], size)
    array, size = dualize(g[0].double().numpy(), "rms->rms")
    assert isinstance(array, np.ndarray) and array.dtype == np.float64 and float(size) > 0
    for norm, shape in SHAPES.items():
        direction, dual = dualize(torch.zeros(shape), norm)
        assert not direction.any() and not dual.any() and direction.dtype == torch.float32


def test_few_steps_are_near_the_exact_direction():
    g = torch.randn(48, 32)
    five, exact = dualize(g, "spectral", steps=5), dualize(g, "spectral", steps=None)
    assert torch.allclose(five[1], exact[1], rtol=0.05)
    assert torch.linalg.matrix_norm(five[0] - exact[0], 2) < 0.2


def test_the_gradient_of_the_dual_norm_is_the_direction():
    for norm in SHAPES:
        g = torch.randn(SHAPES[norm], dtype=torch.float64, requires_grad=True)
        direction, dual = dualize(g, norm, steps=None)
        (found,) = torch.autograd.grad(dual, g)
        assert torch.allclose(found, direction, atol=1e-10)
    g = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dualize(x, "rms->rms", steps=None), g)


def test_bad_input_is_refused():
    g = torch.randn(3, 3)
    with pytest.raises(ValueError, match="norm"):
        dualize(g, "l7")
    with pytest.raises(ValueError, match="axes"):
        dualize(torch.randn(3), "spectral")
    with pytest.raises(ValueError, match="g "):
        dualize(torch.full((2, 2), torch.nan), "l2")


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (3, 6)])
def test_rules_are_steepest_descent(shape):
    g = torch.randn(shape, dtype=torch.float64)
    x = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    x.grad = g.clone()
    torch.optim.Adam([x], lr=0.3, betas=(0.0, 0.0), eps=0.0).step()
    for rule in (adam_as_steepest(g, lr=0.3), shampoo_as_steepest(g, lr=0.3)):
        assert torch.allclose(rule.update, rule.steepest, rtol=0, atol=1e-10)
    assert torch.allclose(adam_as_steepest(g, lr=0.3).update, x.detach(), atol=1e-12)
    U, _, Vh = torch.linalg.svd(g, full_matrices=False)
    assert torch.allclose(shampoo_as_steepest(g, lr=0.3).update, -0.3 * U @ Vh, atol=1e-10)


def test_prodigy_without_averages_finds_its_step():
    target, start = torch.full((6,), 3.0, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    x, size, sizes = start.clone(), 1e-3, []
    for _ in range(60):
        rule = prodigy_as_steepest((x - target).sign(), x, start, size)
        assert torch.allclose(rule.update, rule.steepest, atol=1e-12)
        x, size = x + rule.update, rule.size
        sizes.append(size)
    # The estimate only grows, and never above the distance in the largest entry.
    assert sizes == sorted(sizes) and 0.5 < sizes[-1] <= 3.0


def test_prodigy_is_that_of_a_peer():
    peer = pytest.importorskip("pytorch_optimizer")
    x = nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
    start, ours, size = x.detach().clone(), x.detach().clone(), 0.01
    optimizer = peer.Prodigy([x], lr=1.0, betas=(0.0, 0.0), beta3=0.0, d0=0.01, eps=0.0, weight_decay=0.0)
    for _ in range(8):
        optimizer.zero_grad()
        (x**4).sum().backward()
        # The peer steps with the estimate before this gradient.
        direction = adam_as_steepest(x.grad).update
        rule = prodigy_as_steepest(x.grad, ours, start, size)
        ours, size = ours + size * direction, rule.size
        optimizer.step()
        assert torch.allclose(x.detach(), ours, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_the_spectral_case(nesterov):
    x = nn.Parameter(torch.randn(24, 16))
    y = nn.Parameter(x.detach().clone())
    ours = SteepestDescent([x], lr=0.1, norm="spectral", steps=None, nesterov=nesterov, weight_decay=0.1)
    quintic = {"ns_coefficients": (15 / 8, -10 / 8, 3 / 8), "ns_steps": 20}
    muon = torch.optim.Muon([y], lr=0.1, weight_decay=0.1, momentum=0.95, nesterov=nesterov, **quintic)
    # Muon's own factor is sqrt(max(1, out / in)).
    muon.param_groups[0]["lr"] = 0.1
    start = x.detach().clone()
    for _ in range(3):
        g = torch.randn(24, 16)
        x.grad, y.grad = g.clone(), g.clone()
        ours.step()
        muon.step()
    factor = (24 / 16) ** 0.5
    decayed = start * 0.99**3
    assert torch.allclose((y.detach() - decayed) / factor, x.detach() - decayed, atol=0.02)


def test_roles_choose_the_norms():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Conv1d(4, 6, 3), nn.Linear(8, 8), nn.Linear(8, 5))
    optimizer = SteepestDescent(param_groups_by_role(model), lr=1.0, momentum=0.0, steps=None)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    moved = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    norms = {"0.weight": "1->rms", "1.weight": "conv", "2.weight": "rms->rms", "3.weight": "rms->rms", "3.bias": "inf"}
    for name, norm in norms.items():
        assert float(norm_value(moved[name], norm)) == pytest.approx(1.0, rel=1e-4), name


def test_dual_scale_is_the_minimiser_of_the_model():
    params = [nn.Parameter(torch.randn(5, 3, dtype=torch.float64)), nn.Parameter(torch.randn(4, dtype=torch.float64))]
    grads = [torch.randn_like(p) for p in params]
    start = [p.detach().clone() for p in params]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    SteepestDescent(params, lr=0.5, norm="spectral", momentum=0.0, scale="dual", steps=None).step()
    d = [p.detach() - q for p, q in zip(params, start, strict=True)]

    def model(d):
        size = torch.maximum(torch.linalg.matrix_norm(d[0], 2), d[1].abs().max())
        return sum((g * x).sum() for g, x in zip(grads, d, strict=True)) + size**2 / (2 * 0.5)

    best = model(d)
    for scale in (1e-3, 0.03, 0.3):
        for _ in range(100):
            assert model([x + scale * torch.randn_like(x) for x in d]) >= best - 1e-12


def test_bfloat16_products_are_near_those_of_float32():
    params = [[nn.Parameter(torch.zeros(160, 130)) for _ in range(3)] for _ in range(2)]
    grads = [torch.randn(160, 130) for _ in range(3)]
    for precision, group in zip(("bfloat16", "full"), params, strict=True):
        for p, g in zip(group, grads, strict=True):
            p.grad = g.clone()
        SteepestDescent(group, lr=1.0, norm="spectral", precision=precision).step()
    for narrow, wide, g in zip(*params, grads, strict=True):
        exact = -orthogonalize(g)
        errors = [float(torch.linalg.matrix_norm(p.detach() - exact) / 130**0.5) for p in (narrow, wide)]
        assert errors[1] < 0.1 and errors[0] < errors[1] + 0.04
        s = torch.linalg.svdvals(narrow.detach())
        assert float(s.min()) > 0.75 and float(s.max()) < 1.2


def test_a_nan_in_a_matrix_is_refused():
    p = nn.Parameter(torch.zeros(3, 3))
    p.grad = torch.full((3, 3), torch.nan)
    with pytest.raises(ValueError, match="A "):
        SteepestDescent([p]).step()


def test_orthogonalisation_fuses_its_polynomial():
    A = torch.randn(2, 3, 6, 4, dtype=torch.complex128)
    s = torch.linalg.svdvals(orthogonalize(A))
    assert torch.allclose(s, torch.ones_like(s))
    assert torch.allclose(orthogonalize(A[0, 0]), orthogonalize(A)[0, 0])


@pytest.mark.parametrize("shape", [(256, 128), (128, 300), (16, 32, 3, 3)])
def test_two_passes_around_narrow_products_are_the_step(shape):
    """The fused step rounds to bfloat16 by itself: equal to the other path up to that, momentum to float32."""
    gen = torch.Generator().manual_seed(0)
    start = 0.02 * torch.randn(shape, generator=gen)
    ours, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.1, "weight_decay": 0.1, "precision": "bfloat16"}
    fused = SteepestDescent([ours], fused=True, **settings)
    other = SteepestDescent([plain], fused=False, **settings)
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=gen)
        plain.grad = ours.grad.clone()
        fused.step()
        other.step()
    torch.testing.assert_close(fused.state[ours]["momentum"], other.state[plain]["momentum"], rtol=1e-6, atol=1e-6)
    assert (ours - plain).norm() < 0.02 * (plain - start).norm()


def test_a_gradient_that_is_not_finite_raises_in_the_fused_step():
    p = nn.Parameter(torch.ones(128, 128))
    p.grad = torch.full((128, 128), torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        SteepestDescent([p], precision="bfloat16").step()
