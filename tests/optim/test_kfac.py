"""Inverse-free KFAC: the update of the paper written out, what its factors converge to, hooks, precision, refusals."""

import copy
import gc
import pickle
import weakref
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resolvent.optim import InverseFreeKFAC
from resolvent.optim.layer_rows import input_rows, is_matrix_layer, output_rows

DOUBLE = torch.float64


def network(dtype=DOUBLE, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 3, bias=False)
    ).to(dtype)  # fmt: skip


def batch(seed, dtype=DOUBLE, n=12):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=draw, dtype=DOUBLE)
    return x.to(dtype), torch.randint(0, 3, (n,), generator=draw)


def go(model, optimizer, steps, dtype=DOUBLE):
    losses = []
    for number in steps:
        x, y = batch(number, dtype)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).float() if dtype != DOUBLE else model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def close(left, right, rtol=1e-10):
    for p, q in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=rtol, atol=rtol)


class ByHand:
    """The paper's update with dense matrices, for linear layers with a bias."""

    def __init__(self, model, damping, lr_cov, beta_cov, lr, momentum, decay):
        self.layers = [m for m in model if isinstance(m, nn.Linear)]
        self.numbers = damping, lr_cov, beta_cov, lr, momentum, decay
        self.kept = {
            m: [torch.eye(m.in_features + 1, dtype=DOUBLE), torch.eye(m.out_features, dtype=DOUBLE), 0.0, 0.0, 0.0]
            for m in self.layers
        }

    def step(self, model, x, y):
        damping, lr_cov, beta_cov, lr, momentum, decay = self.numbers
        inputs, outputs, h = [], [], x
        for m in model:
            if isinstance(m, nn.Linear):
                inputs.append(torch.cat([h.detach(), torch.ones(len(h), 1, dtype=DOUBLE)], 1))
            h = m(h)
            if isinstance(m, nn.Linear):
                h.retain_grad()
                outputs.append(h)
        F.mse_loss(h, y, reduction="sum").div(len(x)).backward()
        for m, a, z in zip(self.layers, inputs, outputs, strict=True):
            A, B, MA, MB, V = self.kept[m]
            p, d = len(A), len(B)
            g = z.grad * len(x)
            Sa, Sg = a.T @ a / len(x), g.T @ g / len(x)
            NA = (
                A.T @ (damping * (B @ B.T).trace() / d * torch.eye(p) + (B.T @ Sg @ B).trace() / d * Sa) @ A
                - torch.eye(p)
            ) / 2
            NB = (
                B.T @ (damping * (A @ A.T).trace() / p * torch.eye(d) + (A.T @ Sa @ A).trace() / p * Sg) @ B
                - torch.eye(d)
            ) / 2
            MA, MB = beta_cov * MA + NA, beta_cov * MB + NB
            A, B = A - lr_cov * A @ MA, B - lr_cov * B @ MB
            G = torch.cat([m.weight.grad, m.bias.grad[:, None]], 1)
            W = torch.cat([m.weight.detach(), m.bias.detach()[:, None]], 1)
            V = momentum * V + B @ B.T @ G @ A @ A.T + decay * W
            W = W - lr * V
            m.weight.data, m.bias.data = W[:, :-1].clone(), W[:, -1].clone()
            m.weight.grad = m.bias.grad = None
            self.kept[m] = [A, B, MA, MB, V]


def test_is_the_update_of_the_paper():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    twin = copy.deepcopy(model)
    numbers = {"damping": 1e-2, "lr_cov": 0.02, "beta_cov": 0.5, "lr": 0.05, "momentum": 0.9}
    ours = InverseFreeKFAC(model, weight_decay=0.1, interval=1, warmup=(), **numbers)
    reference = ByHand(twin, decay=0.1, **numbers)
    for number in range(15):
        draw = torch.Generator().manual_seed(number)
        x, y = torch.randn(10, 4, generator=draw, dtype=DOUBLE), torch.randn(10, 2, generator=draw, dtype=DOUBLE)
        ours.zero_grad()
        F.mse_loss(model(x), y, reduction="sum").div(10).backward()
        ours.step()
        reference.step(twin, x, y)
    close(model, twin)


def test_is_the_peer_on_convolutions():
    pytest.importorskip("einconv")
    pytest.importorskip("einops")
    from singd.optim.optimizer import SINGD

    model, twin = network(), network()
    ours = InverseFreeKFAC(model, lr=1e-2, damping=1e-2, lr_cov=3e-2, interval=2, warmup=())
    peer = SINGD(twin, lr=1e-2, momentum=0.9, damping=1e-2, alpha1=0.5, weight_decay=1e-2, T=2, lr_cov=3e-2)
    go(model, ours, range(10))
    go(twin, peer, range(10))
    close(model, twin)


@pytest.mark.parametrize(("dtype", "error"), [(None, 1e-5), (torch.bfloat16, 3e-2)])
def test_the_factors_become_the_inverse(dtype, error):
    """With one output the curvature is a Kronecker product with a number, which the factors can match exactly."""
    torch.manual_seed(0)
    Z = torch.linalg.qr(torch.randn(64, 8)).Q * torch.logspace(0, -1, 8) * 8
    model = nn.Linear(8, 1, bias=False)
    optimizer = InverseFreeKFAC(model, lr=0.0, damping=0.01, lr_cov=0.1, interval=1, warmup=(), factor_dtype=dtype)
    signs = torch.randn(64).sign()
    for _ in range(200):
        optimizer.zero_grad()
        (model(Z)[:, 0] * signs * 2).mean().backward()
        optimizer.step()
    state = optimizer.state[model.weight]
    A, B = (state[name]["top"].double() for name in ("input", "output"))
    want = torch.linalg.inv(4 * (Z.T @ Z).double() / 64 + 0.01 * torch.eye(8))
    assert state["input"]["top"].dtype == (dtype or torch.float32)
    assert (A @ A.T * (B @ B.T) - want).norm() < error * want.norm()


@pytest.mark.parametrize("structure", ["diag", "lowrank", "hierarchical"])
def test_structures_are_the_dense_update_on_their_pattern(structure):
    from resolvent.optim.spd_structure import Blocks, pattern

    model = nn.Sequential(nn.Linear(6, 5)).double()
    optimizer = InverseFreeKFAC(model, lr=0.0, interval=1, warmup=(), lr_cov=0.05, structure=structure, rank=2)
    x, y = torch.randn(20, 6, dtype=DOUBLE), torch.randn(20, 5, dtype=DOUBLE)
    A, MA = torch.eye(7, dtype=DOUBLE), 0.0
    B, MB = torch.eye(5, dtype=DOUBLE), 0.0
    WA, WB = (pattern(structure, n, 2).double() for n in (7, 5))
    for _ in range(6):
        optimizer.zero_grad()
        z = model(x)
        z.retain_grad()
        F.mse_loss(z, y).backward()
        optimizer.step()
        a, g = torch.cat([x, torch.ones(20, 1)], 1), z.grad * 20
        Sa, Sg = a.T @ a / 20, g.T @ g / 20
        NA = (
            WA
            * (A.T @ (1e-3 * (B @ B.T).trace() / 5 * torch.eye(7) + (B.T @ Sg @ B).trace() / 5 * Sa) @ A - torch.eye(7))
            / 2
        )
        NB = (
            WB
            * (B.T @ (1e-3 * (A @ A.T).trace() / 7 * torch.eye(5) + (A.T @ Sa @ A).trace() / 7 * Sg) @ B - torch.eye(5))
            / 2
        )
        MA, MB = 0.5 * MA + NA, 0.5 * MB + NB
        A, B = A - 0.05 * A @ MA, B - 0.05 * B @ MB
    state = optimizer.state[model[0].weight]
    for name, want in (("input", A), ("output", B)):
        assert torch.allclose(Blocks.from_state(state[name]).dense(), want, atol=1e-12)


def test_rows_multiply_to_the_gradient_of_the_weight():
    torch.manual_seed(0)
    for layer, x in (
        (nn.Conv2d(2, 3, 3, stride=2, padding="valid"), torch.randn(4, 2, 7, 8)),
        (nn.Conv2d(2, 3, (3, 1), padding="same", padding_mode="reflect"), torch.randn(4, 2, 5, 6)),
        (nn.Conv2d(2, 3, 2, dilation=2, padding=1), torch.randn(2, 6, 6)),
        (nn.Linear(4, 3), torch.randn(2, 5, 4)),
        (nn.Linear(4, 3), torch.randn(4)),
    ):
        z = layer(x)
        g = torch.randn_like(z)
        z.backward(g)
        rows, out = input_rows(layer, x).flatten(0, 1), output_rows(layer, g).flatten(0, 1)
        assert torch.allclose((out.T @ rows).reshape(layer.weight.shape), layer.weight.grad, atol=1e-5)
    assert not is_matrix_layer(nn.Conv2d(4, 4, 3, groups=2))


def test_micro_batches_are_one_batch():
    whole, parts = network(), network()
    one, other = (InverseFreeKFAC(m, interval=1, warmup=(), lr_cov=0.05, lr=0.1) for m in (whole, parts))
    for number in range(4):
        x, y = batch(number)
        F.cross_entropy(whole(x), y).backward()
        for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
            (F.cross_entropy(parts(x[rows]), y[rows]) / 3).backward()
        for optimizer in (one, other):
            optimizer.step()
            optimizer.zero_grad()
    close(whole, parts)


def test_factors_move_only_at_intervals():
    model = network()
    optimizer = InverseFreeKFAC(model, interval=3, warmup=(), lr_cov=0.1)
    seen = []
    for number in range(6):
        go(model, optimizer, [number])
        seen.append(optimizer.state[model[0].weight]["input"]["top"].clone())
    same = [torch.equal(a, b) for a, b in pairwise(seen)]
    assert same == [True, True, False, True, True] and not optimizer._seen


def test_warm_up_of_the_factors():
    model = nn.Linear(1, 1, bias=False, dtype=DOUBLE)
    optimizer = InverseFreeKFAC(
        model, lr=0.0, interval=1, damping=0.0, beta_cov=0.0, lr_cov=0.1, warmup=((1, 1e-3), (2, 1e-2))
    )
    x, want = torch.full((4, 1), 2.0, dtype=DOUBLE), 1.0
    b = 1.0
    for rate in (1e-3, 1e-3, 1e-2, 0.1):
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
        want, b = (
            want - rate * want * (b * b * 4 * want * want - 1) / 2,
            b - rate * b * (want * want * 4 * b * b - 1) / 2,
        )
        assert float(optimizer.state[model.weight]["input"]["top"]) == pytest.approx(want, rel=1e-12)


def test_wild_statistics_do_not_break_the_factors():
    model = nn.Linear(5, 4)
    optimizer = InverseFreeKFAC(model, lr=0.0, interval=1, warmup=(), lr_cov=1.0)
    for scale in (1e6, 1e-6, 1e3):
        optimizer.zero_grad()
        (scale * model(scale * torch.randn(16, 5)).square().sum(1)).mean().backward()
        optimizer.step()
    A = optimizer.state[model.weight]["input"]["top"]
    assert torch.isfinite(A).all() and float(torch.linalg.svdvals(A).min()) > 0.1


def test_other_parameters_take_steps_of_sgd():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 2)).double()
    twin = copy.deepcopy(model)
    ours = InverseFreeKFAC(model, lr=0.1, momentum=0.8, weight_decay=0.01)
    sgd = torch.optim.SGD(twin[0].parameters(), lr=0.1, momentum=0.8, weight_decay=0.01)
    x = torch.randn(6, 5, dtype=DOUBLE)
    for optimizer, net in ((ours, model), (sgd, twin)):
        net(x).square().sum().backward()
        optimizer.step()
    close(model[0], twin[0])


@pytest.mark.parametrize("foreach", [False, True])
def test_goes_down(foreach):
    model = network(torch.float32)
    optimizer = InverseFreeKFAC(model, lr=0.05, interval=1, warmup=(), lr_cov=0.05, foreach=foreach, weight_decay=0.0)
    losses = go(model, optimizer, [0] * 25, torch.float32)
    assert losses[-1] < 0.3 * losses[0]


def test_paths_agree_and_maximize_is_descent_on_the_negative():
    models = [network() for _ in range(3)]
    optimizers = [
        InverseFreeKFAC(m, lr=0.05, interval=1, **o)
        for m, o in zip(models, ({"foreach": False}, {"foreach": True}, {"maximize": True}), strict=True)
    ]
    for number in range(3):
        x, y = batch(number)
        for model, optimizer, sign in zip(models, optimizers, (1, 1, -1), strict=True):
            optimizer.zero_grad()
            (sign * F.cross_entropy(model(x), y)).backward()
            optimizer.step()
    close(models[0], models[1], 1e-12)
    close(models[0], models[2], 1e-12)


def test_a_grad_scaler_changes_nothing_and_overflow_is_not_learned():
    plain, scaled = network(torch.float32), network(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    one = InverseFreeKFAC(plain, lr=0.05, interval=1, warmup=(), lr_cov=0.05)
    other = InverseFreeKFAC(scaled, lr=0.05, interval=1, warmup=(), lr_cov=0.05, scaler=scaler)
    for number in range(4):
        x, y = batch(number, torch.float32)
        one.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        one.step()
        if number == 2:
            before = copy.deepcopy(other.state_dict()["state"])
            other.zero_grad()
            (scaler.scale(F.cross_entropy(scaled(x), y)) * torch.inf).backward()
            scaler.step(other)
            scaler.update()
            assert torch.equal(before[0]["input"]["top"], other.state_dict()["state"][0]["input"]["top"])
            other._seen.clear()
        other.zero_grad()
        scaler.scale(F.cross_entropy(scaled(x), y)).backward()
        scaler.step(other)
        scaler.update()
    close(plain, scaled, 1e-4)


def test_hooks_come_and_go():
    model = network()
    optimizer = InverseFreeKFAC(model, interval=1)
    assert sum(bool(m._forward_hooks) for m in model.modules()) == 3
    go(model, optimizer, range(2))
    twin_model = copy.deepcopy(model)
    go(twin_model, torch.optim.SGD(twin_model.parameters(), lr=0.0), [0])
    assert not optimizer._seen
    pickle.loads(pickle.dumps(model))
    again = pickle.loads(pickle.dumps(optimizer))
    with pytest.raises(RuntimeError, match="attach"):
        again.step()
    optimizer.detach()
    assert not any(m._forward_hooks for m in model.modules())
    optimizer.attach(model)
    straight = copy.deepcopy(model)
    fresh = InverseFreeKFAC(straight, interval=1)
    fresh.load_state_dict(optimizer.state_dict())
    go(model, optimizer, range(2, 5))
    go(straight, fresh, range(2, 5))
    close(model, straight, 1e-14)
    seen = weakref.ref(fresh)
    del fresh
    gc.collect()
    assert seen() is None


def test_groups():
    model = network()
    groups = [{"params": model[0].parameters()}, {"params": model[3].parameters(), "structure": "diag", "interval": 2}]
    optimizer = InverseFreeKFAC(model, groups, lr=0.01, interval=1)
    last = model[5].weight.detach().clone()
    go(model, optimizer, range(2))
    assert torch.equal(last, model[5].weight)
    optimizer.add_param_group({"params": model[5].parameters(), "factor_dtype": torch.float32})
    go(model, optimizer, range(2, 5))
    assert not torch.equal(last, model[5].weight)
    assert optimizer.state[model[3].weight]["input"]["top"].shape == (0, 49)
    assert optimizer.state[model[5].weight]["input"]["top"].dtype == torch.float32


def test_refusals():
    model = network()
    optimizer = InverseFreeKFAC(model)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    with pytest.raises(RuntimeError, match="no backward pass"):
        optimizer.step()
    with pytest.raises(TypeError, match="model"):
        InverseFreeKFAC(list(model.parameters()))
    for options in (
        {"structure": "band"}, {"interval": 0}, {"rank": 0}, {"damping": -1.0}, {"momentum": 1.0}, {"beta_cov": 1.0}, {"lr_cov": -1.0},
        {"reduction": "mean"}, {"factor_dtype": torch.float16}, {"lr": -1.0}, {"weight_decay": -1.0},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=next(iter(options))):
            InverseFreeKFAC(model, **options)
