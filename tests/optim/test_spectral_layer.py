"""SpectralLinear and SpectralTrainer: the same function as the dense layer, the paper's gradients, the schedule, resuming."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from resolvent.optim import SpectralLinear, SpectralTrainer, spectralize
from resolvent.random import gaussian


def mlp(dtype=torch.float32):
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 1)).to(dtype)


def train(model, trainer, optimizer, steps, x, y):
    losses = []
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainer.on_step(optimizer)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_start_is_the_dense_layer(shape, dtype):
    dense = nn.Linear(*shape, dtype=dtype)
    x = gaussian((3, 2, shape[0]), dtype, generator=0)
    layer = SpectralLinear.from_linear(dense, 2, generator=0)
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.to_dense().weight, dense.weight, rtol=0, atol=1e-5)
    k = min(shape)
    assert sum(p.numel() for p in layer.parameters()) == 2 * sum(shape) + k + shape[1]
    assert sorted([*layer.active.tolist(), *layer.frozen.tolist()]) == list(range(k))


def test_gradients_are_those_of_the_paper():
    layer = SpectralLinear(6, 5, 3, generator=0).double()
    x = gaussian((8, 6), generator=1).requires_grad_()
    weight = layer.dense_weight().requires_grad_()
    target = gaussian((8, 5), generator=2)
    ((x @ weight.mT + layer.bias - target) ** 2).sum().backward()
    G, dx = weight.grad, x.grad.clone()
    x.grad = layer.bias.grad = None
    ((layer(x) - target) ** 2).sum().backward()
    U, V = layer.vectors()
    torch.testing.assert_close(layer.s.grad, (U * (G @ V)).sum(0))
    torch.testing.assert_close(layer.U_active.grad, G @ layer.V_active)
    torch.testing.assert_close(layer.V_active.grad, G.mT @ layer.U_active)
    torch.testing.assert_close(x.grad, dx)


def test_plain_gradients():
    """enhanced=False is the chain rule: the paper's gradients times s, and those of the function itself."""
    layer = SpectralLinear(5, 4, 2, enhanced=False, generator=0).double()
    x = gaussian((3, 5), generator=0).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert gradcheck(run, (x, *(p.detach().clone().requires_grad_() for p in layer.parameters())))
    paper = SpectralLinear.from_linear(layer.to_dense(), 2)
    paper.load_state_dict(layer.state_dict())
    for one in (layer, paper):
        one(x).square().sum().backward()
    torch.testing.assert_close(layer.U_active.grad, paper.U_active.grad * layer.s.detach()[layer.active])
    torch.testing.assert_close(layer.s.grad, paper.s.grad)


def test_full_rank_with_sgd_is_descent_of_all_pairs():
    """The limiting case rank = k: one step moves W by the three terms of the product rule."""
    layer = SpectralLinear(5, 5, 5, bias=False, generator=0).double()
    x, before = gaussian((9, 5), generator=0), layer.dense_weight()
    weight = before.clone().requires_grad_()
    (x @ weight.mT).square().sum().backward()
    layer(x).square().sum().backward()
    lr = 1e-7
    torch.optim.SGD(layer.parameters(), lr=lr).step()
    G, (U, V) = weight.grad, layer.vectors()
    s = layer.s.detach()
    wanted = U @ torch.diag((U * (G @ V)).sum(0)) @ V.mT + (G @ V * s) @ V.mT + (U * s) @ (G.mT @ U).mT
    torch.testing.assert_close((before - layer.dense_weight()) / lr, wanted, rtol=1e-4, atol=1e-4)


def test_an_svd_anew_and_other_pairs_leave_the_weight_as_it_is():
    layer = SpectralLinear(9, 6, 2, generator=0)
    with torch.no_grad():
        layer.U_active.add_(0.3 * torch.randn(6, 2))
        layer.s.add_(0.1 * torch.rand(6))
    before = layer.dense_weight()
    for seed in range(5):
        layer.resample(seed)
        torch.testing.assert_close(layer.dense_weight(), before, rtol=0, atol=1e-6)
    layer.orthogonalize()
    torch.testing.assert_close(layer.dense_weight(), before, rtol=0, atol=1e-5)
    U, V = layer.vectors()
    torch.testing.assert_close(U.mT @ U, torch.eye(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(V.mT @ V, torch.eye(6), rtol=0, atol=1e-5)
    assert bool((layer.s.diff() <= 0).all())


def test_pairs_are_drawn_by_their_singular_values():
    layer = SpectralLinear(4, 4, 1, generator=0)
    with torch.no_grad():
        layer.s.copy_(torch.tensor([6.0, 2.0, 0.0, 0.0]))
    g, counts, draws = torch.Generator().manual_seed(0), torch.zeros(4), 2000
    for _ in range(draws):
        order = layer.s.detach().clone()
        layer.resample(g)
        assert torch.equal(order, layer.s.detach())
        counts[layer.active] += 1
    wanted = torch.tensor([0.5, 0.25, 0.125, 0.125])
    assert float((counts / draws - wanted).abs().max()) < 4.5 * (0.25 / draws) ** 0.5


def test_training_keeps_the_constraints_and_renews_on_time():
    x, model = gaussian((64, 12), torch.float32, generator=0), mlp()
    y = x[:, :1] * x[:, 1:2]
    trainer = spectralize(model, 3, every=10, rounds=2, warmup=4, generator=0)
    assert [type(m).__name__ for m in model[::2]] == ["SpectralLinear", "SpectralLinear", "Linear"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    layer = model[0]
    before = layer.active.clone()
    losses = train(model, trainer, optimizer, 10, x, y)
    assert (trainer.iterations, trainer.svds) == (1, 0) and not torch.equal(before, layer.active)
    assert layer.U_active not in optimizer.state and layer.s in optimizer.state
    losses += train(model, trainer, optimizer, 190, x, y)
    assert (trainer.iterations, trainer.svds) == (20, 10) and losses[-1] < 0.5 * losses[0]
    for columns in layer.vectors():
        torch.testing.assert_close(columns.norm(dim=0), torch.ones(12), rtol=0, atol=1e-5)
    assert float(layer.s.detach().min()) >= 0
    before = model(x).detach()
    torch.testing.assert_close(trainer.to_dense()(x), before, rtol=0, atol=1e-5)
    assert [type(m) for m in model[::2]] == [nn.Linear] * 3


def test_warmup_shortens_the_first_moves_of_the_vectors_only():
    found = []
    for warmup in (0, 4):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(6, 6))
        trainer = spectralize(layer, 2, warmup=warmup, generator=0)
        start = [p.detach().clone() for p in (layer[0].U_active, layer[0].s)]
        layer(torch.ones(1, 6)).square().sum().backward()
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-4)
        optimizer.step()
        trainer.on_step(optimizer)
        found.append([p.detach() - q for p, q in zip((layer[0].U_active, layer[0].s), start, strict=True)])
    torch.testing.assert_close(found[0][0], 4 * found[1][0], rtol=0.02, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])


def test_resuming_is_exact():
    x = gaussian((32, 12), torch.float64, generator=0)
    y = x[:, :1].sin()

    def fresh():
        torch.manual_seed(0)
        model = mlp(torch.float64)
        trainer = spectralize(model, 2, every=7, rounds=2, warmup=3, generator=0)
        return model, trainer, torch.optim.AdamW(model.parameters(), lr=1e-2)

    whole = fresh()
    train(*whole, 40, x, y)
    first = fresh()
    train(*first, 16, x, y)
    states = [part.state_dict() for part in first]
    second = fresh()
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    train(*second, 24, x, y)
    for a, b in zip(whole[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_pruning():
    layer = SpectralLinear(8, 6, 4, generator=0)
    with torch.no_grad():
        layer.s.copy_(torch.tensor([4.0, 3.0, 1e-4, 1e-4, 0.0, 0.0]))
    before = layer.dense_weight()
    assert layer.prune(0.999) == 2 and layer.rank == 2
    torch.testing.assert_close(layer.dense_weight(), before, rtol=0, atol=1e-3)
    layer(torch.ones(2, 8)).sum().backward()
    assert layer.s.shape == (2,) and layer.prune(0.5) == 1


def test_what_spectralize_leaves_alone():
    model = nn.Module()
    model.embed, model.head, model.body = nn.Embedding(9, 8), nn.Linear(8, 9), nn.Linear(8, 8)
    model.head.weight = model.embed.weight
    model.frozen = nn.Linear(8, 8)
    model.frozen.weight.requires_grad_(False)
    model.attend, model.again = nn.MultiheadAttention(8, 2), model.body
    spectralize(model, 2, generator=0)
    assert model.head.weight is model.embed.weight and type(model.frozen) is nn.Linear
    assert isinstance(model.body, SpectralLinear) and model.again is model.body
    assert not isinstance(model.attend.out_proj, SpectralLinear)


def test_bfloat16_and_autocast():
    x = gaussian((4, 6), torch.float32, generator=0)
    layer = SpectralLinear(6, 6, 2, dtype=torch.bfloat16, generator=0)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    layer = SpectralLinear(6, 6, 2, generator=0)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().sum().backward()
    assert layer.U_active.grad.dtype == torch.float32 and bool(layer.U_active.grad.abs().sum() > 0)


def test_bad_input():
    for call, error, word in (
        (lambda: SpectralLinear(4, 3, 4), ValueError, "rank"),
        (lambda: SpectralLinear(0, 3, 1), ValueError, "in_features"),
        (lambda: SpectralLinear(4, 3, 1).prune(0.0), ValueError, "energy"),
        (lambda: spectralize(nn.Linear(4, 4), 2), ValueError, "single"),
        (lambda: spectralize(mlp(), 0), ValueError, "rank"),
        (lambda: spectralize(mlp(), 2, every=0), ValueError, "every"),
        (lambda: spectralize(mlp(), 2, rounds=0), ValueError, "rounds"),
        (lambda: spectralize(mlp(), 2, warmup=-1), ValueError, "warmup"),
        (lambda: SpectralTrainer(mlp()), ValueError, "no SpectralLinear"),
        (lambda: spectralize("model", 2), TypeError, "Module"),
    ):
        with pytest.raises(error, match=word):
            call()
