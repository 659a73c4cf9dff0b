"""LearnedOptimizer and meta_train: the features one by one, the kernel, muP, an unbiased gradient, files, bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resolvent.optim import LearnedOptimizer, PerceptronTask, meta_train, param_groups_by_role
from resolvent.optim.learned_rule import FEATURES, Rule, begin, initial_meta

TIMES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)


def fresh(hidden=4, layers=2, seed=0):
    return initial_meta(hidden, layers, torch.Generator().manual_seed(seed))


def by_hand(p, gradients, meta):
    """The paper's update of one tensor, written out: 28 features divided by their sizes, 11 of the time, a perceptron."""
    decays = (0.9, 0.99, 0.999)
    m, v = [torch.zeros_like(p)] * 3, torch.zeros_like(p)
    matrix = p.ndim == 2
    large = int(p.shape[1] >= p.shape[0]) if matrix else 0
    rows, columns, whole = [0.0] * 3, [0.0] * 3, [0.0] * 3
    for t, g in enumerate(gradients):
        m = [d * x + (1 - d) * g for d, x in zip(decays, m, strict=True)]
        v = 0.999 * v + 0.001 * g * g
        norm = []
        for k, d in enumerate(decays):
            s = g * g + 1e-30
            rows[k] = d * rows[k] + (1 - d) * s.mean(large, keepdim=True)
            if matrix:
                columns[k] = d * columns[k] + (1 - d) * s.mean(1 - large, keepdim=True)
                row = (rows[k] / (rows[k].mean() + 1e-9)).clamp_min(1e-9).rsqrt()
                norm.append(row * columns[k].clamp_min(1e-9).rsqrt())
            else:
                whole[k] = d * whole[k] + (1 - d) * s
        root = (v + 1e-6).rsqrt()
        features = [g, p, *m, v, *(x * root for x in m), root]
        if matrix:
            features += [g * x for x in norm] + [x * y for x, y in zip(m, norm, strict=True)]
            features += [*rows, *columns, *((x + 1e-8).rsqrt() for x in (*rows, *columns))]
        else:
            features += [g * (x + 1e-9).rsqrt() for x in whole]
            features += [x * (y + 1e-6).rsqrt() for x, y in zip(m, whole, strict=True)]
            features += [*whole, *whole, *([(x + 1e-8).rsqrt() for x in whole] * 2)]
        full = [x.expand_as(p) / (1e-5 + x.expand_as(p).square().mean()).sqrt() for x in features]
        full += [torch.full_like(p, math.tanh(t / c - 1)) for c in TIMES]
        x = torch.stack(full, -1)
        assert x.shape[-1] == FEATURES
        for k in range(3):
            x = x @ meta[f"w{k}"].to(p.dtype) + meta[f"b{k}"].to(p.dtype)
            x = x.relu() if k < 2 else x
        p = p - 1e-3 * x[..., 0] * torch.exp(1e-3 * x[..., 1])
    return p


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 4), (7,)])
def test_the_update_written_out(shape):
    meta = fresh()
    meta["b2"] = torch.tensor([0.3, 40.0])  # a magnitude that tells
    start = torch.randn(shape, dtype=torch.float64)
    gradients = [torch.randn(shape, dtype=torch.float64) * 0.1 for _ in range(5)]
    p = nn.Parameter(start.clone())
    optimizer = LearnedOptimizer([p], meta=meta, parametrization="sp")
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(p.detach(), by_hand(start, gradients, meta), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        *(((3, 70, 200), (4, 2)), ((3, 150), (4, 2)), ((3, 40, 30), (32, 2)), ((3, 30, 40), (6, 1))),
        *(((3, 1, 5), (5, 3)), ((2, 200, 500), (4, 2))),
    ],
)
def test_kernel_and_torch_agree(shape, form):
    """Particles with weights and decays of their own, in blocks where the tensor is large."""
    meta = {k: torch.stack([fresh(*form, seed=s)[k] for s in range(shape[0])]) for k in fresh(*form)}
    for name in ("momentum_decays", "adafactor_decays", "rms_decays"):
        meta[name] += 0.01 * torch.randn_like(meta[name])
    p = torch.randn(shape)
    q, one, other, rule = p.clone(), begin(p), begin(p), Rule.of(meta, p)
    for t in range(3):
        g, step = torch.randn(shape) * 0.1, torch.full((shape[0],), float(t))
        p -= rule.update(p, g, one, step)
        rule.advance(q, g, other, step, 1.0)
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    for name, x in one.items():
        torch.testing.assert_close(x, other[name], rtol=1e-4, atol=1e-8)


def test_steps_do_not_depend_on_the_scale_of_gradients():
    """All features of the gradient are normalised, so that early steps are the same for loss and 10 x loss."""
    moved = []
    for scale in (1.0, 10.0):
        p = nn.Parameter(torch.linspace(-1, 1, 60).reshape(6, 10))
        optimizer = LearnedOptimizer([p], meta=fresh(), parametrization="sp")
        p.grad = scale * torch.sin(torch.arange(60.0)).reshape(6, 10)
        optimizer.step()
        moved.append(p.detach().clone())
    torch.testing.assert_close(*moved, rtol=0.05, atol=2e-5)


def model_of(width):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def test_mup_scales_hidden_matrices_only():
    torch.manual_seed(0)
    models = [model_of(256) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    before = [p.detach().clone() for p in models[0].parameters()]
    x = torch.randn(16, 8)
    for model, kind in zip(models, ("mup", "sp"), strict=True):
        optimizer = LearnedOptimizer(param_groups_by_role(model), meta=fresh(), parametrization=kind, base_width=64)
        model(x).square().mean().backward()
        optimizer.step()
    moves = [[p.detach() - b for p, b in zip(m.parameters(), before, strict=True)] for m in models]
    for k, (mup, sp) in enumerate(zip(*moves, strict=True)):
        torch.testing.assert_close(mup, sp / 4 if k == 2 else sp, rtol=2e-3, atol=2e-7)


def test_shipped_parameters_train():
    model = model_of(64)
    x = torch.randn(64, 8)
    y = (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 1).long()
    optimizer = LearnedOptimizer(param_groups_by_role(model))
    losses = []
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def task(width=8):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(120, 5, generator=g)
    return PerceptronTask(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long(), width=width, batch=16, base_width=8)


def test_many_networks_are_each_as_one():
    problem, g = task(), torch.Generator().manual_seed(0)
    params = problem.begin(4, g)
    params[-2] += torch.randn(params[-2].shape, generator=g)
    data = problem.draw(4, g)
    losses = problem.losses(params, data, 0.5)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for k in range(4):
        for p, q in zip(net.parameters(), params, strict=True):
            p.data = q[k].clone()
        net[-1].weight.data *= 0.5
        torch.testing.assert_close(losses[k], nn.functional.cross_entropy(net(data[0][k]), data[1][k]).detach())


def test_meta_training_learns_and_repeats():
    """It goes below what guessing gives within seconds; one seed, one result."""
    short = {"pairs": 4, "truncation": 20, "shortest": 40, "longest": 100, "lr": 5e-2}
    small, found = replace(task(), hidden=1), []
    meta = meta_train(small, 25, generator=2, callback=lambda k, loss, _: found.append(loss), **short)
    assert sum(found[-5:]) < 0.95 * sum(found[:5])
    again, same = (meta_train(small, 1, generator=4, **short) for _ in range(2))
    assert all(bool((again[name] == same[name]).all()) for name in meta)


def test_twins_are_one_method_at_the_base_width():
    short = {"pairs": 2, "truncation": 5, "shortest": 5, "longest": 10}
    mup, sp = (meta_train(task(), 3, parametrization=kind, generator=0, **short) for kind in ("mup", "sp"))
    wide_mup, wide_sp = (meta_train(task(16), 3, parametrization=kind, generator=0, **short) for kind in ("mup", "sp"))
    assert all(bool((mup[name] == sp[name]).all()) for name in mup)
    assert any(bool((wide_mup[name] != wide_sp[name]).any()) for name in mup)


def test_files_and_bad_input(tmp_path):
    p = nn.Parameter(torch.ones(3, 4))
    path = tmp_path / "meta.safetensors"
    save_file(fresh(6), path, {"base_width": "128"})
    optimizer = LearnedOptimizer([p], meta=path, parametrization="sp")
    assert optimizer.param_groups[0]["base_width"] == 128 and optimizer.param_groups[0]["meta"]["w0"].shape == (39, 6)
    path.write_bytes(b"0" * 40)
    for call, kind, word in (
        (lambda: LearnedOptimizer([p]), ValueError, "role"),
        (lambda: LearnedOptimizer([p], meta=path, parametrization="sp"), ValueError, "safetensors"),
        (lambda: LearnedOptimizer([p], meta=3, parametrization="sp"), TypeError, "meta"),
        (lambda: LearnedOptimizer([p], meta={"w0": p}, parametrization="sp"), ValueError, "w0, b0"),
        (lambda: LearnedOptimizer([p], meta={**fresh(), "w1": torch.ones(3, 4)}), ValueError, "w1"),
        (lambda: LearnedOptimizer([p], parametrization="ntk"), ValueError, "parametrization"),
        (lambda: meta_train(task(), 0), ValueError, "steps"),
        (lambda: meta_train(task(), 1, truncation=9, shortest=5), ValueError, "truncation"),
        (lambda: meta_train(task(), 1, parametrization="ntk"), ValueError, "parametrization"),
        (lambda: meta_train(task(), 1, sigma=0.0), ValueError, "sigma"),
    ):
        with pytest.raises(kind, match=word):
            call()
