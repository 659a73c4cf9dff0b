"""AdaHessian against its formula with explicit Hessians, and the products that it shares with OASIS."""

import math

import pytest
import torch
from torch import nn

from resolvent.optim import AdaHessian
from resolvent.optim.adahessian import block_means
from resolvent.optim.hutchinson import hessian_products, random_signs


def curved(x):
    """A function of a flat vector with a dense Hessian."""
    a = torch.linspace(-1, 1, x.numel(), dtype=x.dtype)
    return (x**4).sum() / 4 + ((a * x).sum() ** 2) + (x.cos() * a).sum()


def by_formula(x, steps, signs, lr, betas, eps, decay, power, every=1):
    """The paper's recursion on the Hessian as a matrix."""
    x = x.clone()
    m, s, D = torch.zeros_like(x), torch.zeros_like(x), None
    for t in range(1, steps + 1):
        g = torch.func.grad(curved)(x)
        if (t - 1) % every == 0:
            z = next(signs)
            D = (z * (torch.func.hessian(curved)(x) @ z)).abs()
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * D**2
        below = (s.sqrt() / math.sqrt(1 - betas[1] ** t)) ** power + eps
        x = x - lr * (m / (1 - betas[0] ** t) / below + decay * x)
    return x


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {}], ids=["single", "foreach", "fused"])
@pytest.mark.parametrize(("power", "every"), [(1.0, 1), (0.5, 3)])
def test_follows_the_paper(options, power, every):
    start = torch.linspace(-1.5, 2, 7, dtype=torch.float64)
    x = nn.Parameter(start.clone())
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.01}
    optimizer = AdaHessian([x], **settings, hessian_power=power, every=every, generator=5, **options)
    for _ in range(8):
        optimizer.zero_grad()
        curved(x).backward(create_graph=True)
        optimizer.step()
    draw = torch.Generator().manual_seed(5)
    signs = iter([random_signs((7,), torch.float64, draw) for _ in range(8)])
    wanted = by_formula(start, 8, signs, 0.1, (0.8, 0.95), 1e-3, 0.01, power, every)
    assert torch.allclose(x, wanted, rtol=1e-11, atol=1e-12)


def test_one_probe_is_exact_on_a_diagonal_quadratic():
    c = torch.tensor([1e-3, 1.0, 5e3], dtype=torch.float64)
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = AdaHessian([x], lr=0.0)
    optimizer.step(lambda: (c * x**2).sum() / 2)
    assert torch.allclose(optimizer.state[x]["diagonal"], c, rtol=1e-14)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 2, 5), (2, 3, 3, 3), (2, 2, 2, 3, 2)])
def test_blocks(shape):
    x = torch.randn(shape)
    found = torch.broadcast_to(block_means(x), shape)
    axes = {1: (), 2: (1,)}.get(len(shape), tuple(range(2, len(shape))))
    assert torch.allclose(found, x.abs().mean(axes, keepdim=True) if axes else x.abs())
    assert torch.equal(block_means(x, 1), x.abs())
    assert torch.allclose(block_means(torch.arange(8.0).view(2, 4), 2).flatten(), torch.tensor([0.5, 2.5, 4.5, 6.5]))


def test_an_average_over_neighbours_is_that_of_the_rows():
    one, other = nn.Parameter(torch.randn(4, 6)), None
    other = nn.Parameter(one.detach().clone())
    for p, block in ((one, "auto"), (other, 6)):
        for options in ({"foreach": False}, {"foreach": True}, {}):
            optimizer = AdaHessian([p], block=block, generator=0, **options)
            optimizer.step(lambda p=p: curved(p.flatten()))
    assert torch.allclose(one, other, atol=1e-6)
    with pytest.raises(ValueError, match="block must divide"):
        AdaHessian([one], block=5).step(lambda: curved(one.flatten()))


def test_products_are_those_of_the_hessian():
    x, y = (
        torch.randn(4, dtype=torch.float64, requires_grad=True),
        torch.randn(3, dtype=torch.float64, requires_grad=True),
    )

    def f(v):
        return curved(v) + (v[:4].sum() * v[4:]).sin().sum()

    grads = torch.autograd.grad(f(torch.cat([x, y])), [x, y], create_graph=True)
    z = torch.randn(7, dtype=torch.float64)
    found = torch.cat(hessian_products(grads, [x, y], [z[:4], z[4:]]))
    assert torch.allclose(found, torch.func.hessian(f)(torch.cat([x, y]).detach()) @ z)


def test_signs_are_fair_and_independent():
    z = random_signs((200, 333), torch.float64, torch.Generator().manual_seed(1))
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(z.mean())) < 4 / math.sqrt(z.numel())
    corner = (z @ z.T / 333).fill_diagonal_(0).abs().max()
    assert corner < 6 / math.sqrt(333)
    assert random_signs((), torch.float32, torch.Generator()).shape == ()


def test_closure_may_call_backward_or_not():
    runs = []
    for calls in (True, False):
        x = nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = AdaHessian([x], generator=0, every=2)

        def closure(x=x, optimizer=optimizer, calls=calls):
            optimizer.zero_grad()
            loss = curved(x)
            if calls:
                loss.backward(create_graph=True)
            return loss

        for _ in range(4):
            optimizer.step(closure)
        assert not x.grad.requires_grad  # nothing keeps the graph alive
        runs.append(x.detach())
    assert torch.equal(*runs)


def test_needs_no_graph_between_two_products():
    x = nn.Parameter(torch.ones(3))
    optimizer = AdaHessian([x], every=2, generator=0)
    for graph in (True, False, True):
        optimizer.zero_grad()
        curved(x).backward(create_graph=graph)
        optimizer.step()
    optimizer.zero_grad()
    curved(x).backward()
    optimizer.step()
    optimizer.zero_grad()
    curved(x).backward()
    with pytest.raises(RuntimeError, match="create_graph"):
        optimizer.step()
    optimizer.zero_grad()
    (3 * x).sum().backward(create_graph=True)
    with pytest.raises(RuntimeError, match="linear"):
        optimizer.step()


def test_grad_scaler_scales_neither_the_gradient_nor_the_product():
    params = [nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(2)]
    scaled, plain = (AdaHessian([p], generator=3) for p in params)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for number in range(4):
        scaled.zero_grad()
        scaler.scale(curved(params[0])).backward(create_graph=True)
        if number == 1:
            params[0].grad.detach()[2] = torch.inf
            before = params[0].detach().clone()
            scaler.step(scaled)
            assert torch.equal(params[0], before) and scaled.state[params[0]]["step"] == 1
        else:
            plain.zero_grad()
            curved(params[1]).backward(create_graph=True)
            plain.step()
            scaler.step(scaled)
        scaler.update()
    assert torch.allclose(*params, rtol=1e-6)
    scaler.scale(curved(params[0])).backward(create_graph=True)
    scaler.unscale_(scaled)
    with pytest.raises(RuntimeError, match="unscale_"):
        scaler.step(scaled)


def test_scale_of_a_parameter_does_not_matter():
    """Newton's invariance: with one probe of a diagonal quadratic every coordinate goes the same way."""
    c = torch.tensor([1e-2, 1.0, 1e4], dtype=torch.float64)
    x = nn.Parameter(c**-0.5)
    optimizer = AdaHessian([x], lr=0.3, eps=0.0, generator=0)
    for _ in range(5):
        optimizer.step(lambda: (c * x**2).sum() / 2)
    ways = x.detach() * c**0.5
    assert torch.allclose(ways, ways[:1].expand(3), rtol=1e-10) and float(ways[0]) < 0.9


def test_fused_attention_without_second_derivatives_says_what_to_do():
    q = nn.Parameter(torch.randn(1, 2, 8, 16))
    optimizer = AdaHessian([q])
    with pytest.raises(RuntimeError, match=r"SDPBackend\.MATH"):
        optimizer.step(lambda: nn.functional.scaled_dot_product_attention(q, q, q).square().sum())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        optimizer.step(lambda: nn.functional.scaled_dot_product_attention(q, q, q).square().sum())
    assert q.isfinite().all()
