import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resolvent.optim import unit


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rms(x):
    return x.double().square().mean().sqrt().item()


def gradients(f, *inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = f(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, normal(*y.shape, seed=99).to(y.dtype))


def test_scale_has_one_factor_for_values_and_one_for_gradients():
    y, (g,) = gradients(lambda x: unit.scale(x, 3.0, 0.25), normal(4))
    assert torch.allclose(y, 3 * normal(4))
    assert torch.allclose(g, 0.25 * normal(4, seed=99))
    x = normal(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit.scale(x, 1.7, 1.7), (x,))
    assert torch.autograd.gradgradcheck(lambda x: unit.scale(x**3, 1.7, 1.7), (x,))
    mapped = torch.func.vmap(torch.func.grad(lambda t: unit.scale(t, 2.0, 5.0)))(x.detach())
    assert torch.equal(mapped, torch.full_like(mapped, 5.0))


# Every constrained operation: the plain one times a number, and gradients that are exact times known numbers.
def plain_attention(q, k, v):
    return F.softmax(2.0 * q @ k.mT / q.shape[-1], -1) @ v


EXACT = {
    "linear": (unit.linear, F.linear, (7, 5), (3, 5), (3,)),
    "readout": (unit.readout, F.linear, (7, 5), (3, 5), (3,)),
    "gelu": (unit.gelu, F.gelu, (50,)),
    "sharp gelu": (lambda x: unit.gelu(x, 3.0), lambda x: F.gelu(3 * x) / 3, (50,)),
    "silu": (unit.silu, F.silu, (50,)),
    "silu_glu": (unit.silu_glu, lambda x, g: x * F.silu(g), (50,), (50,)),
    "sharp silu_glu": (lambda x, g: unit.silu_glu(x, g, 2.0), lambda x, g: x * g * torch.sigmoid(2 * g), (50,), (50,)),
    "softmax": (unit.softmax, lambda x: F.softmax(x, -1), (5, 9)),
    "attention": (lambda *t: unit.attention(*t, mult=2.0), plain_attention, (2, 6, 4), (2, 8, 4), (2, 8, 4)),
    "rms_norm": (lambda x, w: unit.rms_norm(x, (8,), w), lambda x, w: F.rms_norm(x, [8], w, 1e-5), (5, 8), (8,)),
    "layer_norm": (lambda x, w, b: unit.layer_norm(x, (8,), w, b), lambda x, w, b: F.layer_norm(x, [8], w, b), (5, 8), (8,), (8,)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_operations_are_the_plain_ones_times_numbers(name):
    ours, plain, *shapes = EXACT[name]
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    if name in ("linear", "readout"):
        inputs[2].zero_()  # the bias is not scaled
    (y, g), (z, h) = gradients(ours, *inputs), gradients(plain, *inputs)
    for mine, theirs in zip((y, *g), (z, *h), strict=True):
        ratio = (mine * theirs).sum() / theirs.square().sum()
        assert ratio > 0
        assert torch.allclose(mine, ratio * theirs, rtol=1e-9, atol=1e-12)


def test_the_factors_of_a_linear_map():
    x, w, b = normal(7, 5), normal(3, 5), normal(3)
    (y, g), (z, h) = gradients(unit.linear, x, w, b), gradients(F.linear, x, w, 0 * b)
    assert torch.allclose(y, z / 5**0.5 + b)
    assert torch.allclose(g[0], h[0] / 5**0.5)
    assert torch.allclose(g[1], h[1] / 7**0.5) and torch.allclose(g[2], h[2] / 7**0.5)
    free = gradients(lambda *t: unit.linear(*t, constraint=None), x, w, b)[1]
    assert torch.allclose(free[0], h[0] / 3**0.5)
    y, g = gradients(unit.readout, x, w, b)
    assert torch.allclose(y, z / 5 + b) and torch.allclose(g[0], h[0] / 3**0.5)


@pytest.mark.parametrize("mult", [0.25, 1.0, 4.0])
def test_nonlinearities_have_unit_scale(mult):
    x, g = normal(100_000), normal(100_000, seed=1)
    assert unit.gelu(x, mult).std().item() == pytest.approx(1, abs=0.06)
    assert unit.silu(x, mult).std().item() == pytest.approx(1, abs=0.2)
    assert unit.silu_glu(x, g, mult).std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [16, 256])
def test_attention_has_unit_scale(length, causal):
    q, k, v = (normal(8, length, 32, seed=i) for i in range(3))
    assert 0.7 < rms(unit.attention(q, k, v, causal=causal)) < 1.4
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    masked, own = unit.attention(q, k, v, mask=mask), unit.attention(q, k, v, causal=True)
    assert torch.allclose(masked / rms(masked), own / rms(own))


def test_cross_entropy_is_the_mean_and_its_gradient_that_of_the_sum():
    logits, target = normal(4, 6, 10), torch.randint(0, 10, (4, 6), generator=torch.Generator().manual_seed(0))
    target[0, 0] = -100
    for mult in (1.0, 3.0):
        leaf = logits.clone().requires_grad_()
        loss = unit.cross_entropy(leaf, target, mult=mult)
        plain = F.cross_entropy(mult * logits.flatten(0, 1), target.flatten())
        assert torch.allclose(loss, plain)
        loss.backward()
        error = torch.softmax(mult * logits, -1) - F.one_hot(target.clamp(min=0), 10)
        error[0, 0] = 0
        assert torch.allclose(leaf.grad, error * 10 / 3)
    nothing = unit.cross_entropy(logits.requires_grad_(), torch.full((4, 6), -100))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad.abs().max() == 0


def test_embedding():
    w, index = normal(5, 3), torch.tensor([[1, 1], [4, 0]])
    y, (g,) = gradients(lambda t: unit.embedding(index, t), w)
    assert torch.equal(y, w[index])
    assert torch.allclose(g, gradients(lambda t: t[index], w)[1][0] * (5 / 4) ** 0.5)


def test_residual_branches_add_up_as_in_a_plain_stream():
    mult, ratio, n = 1.5, 0.5, 6
    shares = [1.0] + [0.0] * n
    for i in range(n):
        tau2 = unit.residual_tau(i, n, mult, ratio) ** 2
        shares = [s / (1 + tau2) for s in shares]
        shares[i + 1] = tau2 / (1 + tau2)
    attn, mlp = shares[1::2], shares[2::2]
    assert max(attn) == pytest.approx(min(attn)) and max(mlp) == pytest.approx(min(mlp))
    assert sum(attn) / sum(mlp) == pytest.approx(ratio**2)
    assert (sum(attn) + sum(mlp)) / 2 / shares[0] == pytest.approx(mult**2)
    assert sum(shares) == pytest.approx(1)


def test_a_residual_layer_has_the_exact_gradient_and_an_unscaled_branch():
    inner = []

    class Branch(nn.Module):
        def forward(self, x):
            x.register_hook(inner.append)
            return 2 * x

    x = normal(10).requires_grad_()
    y = unit.Residual(Branch(), 0.5)(x)
    g = normal(10, seed=1)
    y.backward(g)
    assert torch.allclose(y, (0.5 * 2 * x + x) / 1.25**0.5)
    assert torch.allclose(x.grad, 2 * g / 1.25**0.5)
    assert torch.allclose(inner[0], 2 * g)


def transformer(width=64, blocks=2, vocabulary=50, **options):
    branches = [b for _ in range(blocks) for b in (unit.Attention(width, 4, causal=True), unit.MLP(width))]
    parts = (unit.Embedding(vocabulary, width), unit.ResidualStack(branches, **options), unit.RMSNorm(width))
    return nn.Sequential(*parts, unit.Readout(width, vocabulary))


def test_everything_has_unit_scale_at_the_beginning():
    torch.manual_seed(0)
    model = transformer()
    index = torch.randint(0, 50, (16, 33))
    seen = {}

    def record(name):
        def hook(module, args, output):
            seen[name] = output
            if output.requires_grad:
                output.register_hook(lambda g: seen.update({name + " gradient": g}))

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    unit.cross_entropy(model(index[:, :-1]), index[:, 1:]).backward()
    logits = {k for k in seen if k in ("", "3")}
    sizes = {k: rms(v) for k, v in seen.items() if k not in logits}
    sizes.update({name + " weight": rms(p.grad) for name, p in model.named_parameters()})
    assert len(sizes) > 50
    assert {k: v for k, v in sizes.items() if not 0.25 < v < 4} == {}


def test_groups_have_the_table_of_factors():
    model = transformer(64, blocks=3)
    model.append(unit.LayerNorm(50, elementwise_affine=True))
    model.append(unit.Linear(50, 20, bias=True))
    found = {name: g for g in unit.groups(model, 2.0, weight_decay=0.1) for name in g["names"]}
    assert found["0.weight"]["lr"] == 2 / 8
    assert found["1.0.branch.qkv.weight"]["lr"] == pytest.approx(2 / 8 / 3**0.5)
    assert found["1.5.branch.down.weight"]["lr"] == pytest.approx(2 / 16 / 3**0.5)
    assert found["3.weight"]["lr"] == found["4.weight"]["lr"] == found["5.bias"]["lr"] == 2
    assert all(
        g["lr"] * g["weight_decay"] == pytest.approx(0.0 if g["role"] == "vector" else 0.1) for g in found.values()
    )
    plain = unit.groups(model, 2.0, "sgd", 0.1, independent_weight_decay=False)
    assert {g["weight_decay"] for g in plain} == {0.1, 0.0}
    copied = unit.groups(copy.deepcopy(model), 2.0, weight_decay=0.1)
    assert [g["lr"] for g in copied] == [g["lr"] for g in unit.groups(model, 2.0)]
    assert sum(p.numel() for g in copied for p in g["params"]) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_steps_change_features_alike_at_every_width(optimizer):
    """The coordinate check: after a few steps, hidden features have moved by a part that does not depend on the width."""

    def change(n):
        torch.manual_seed(0)
        model = nn.Sequential(
            unit.Linear(8, n, bias=True), nn.Tanh(), unit.Linear(n, n, bias=True), nn.Tanh(), unit.Readout(n, 4)
        )
        x, y = normal(16, 8, dtype=torch.float32), torch.arange(16) % 4
        groups = unit.groups(model, 0.05, optimizer)
        step = torch.optim.Adam(groups) if optimizer == "adam" else torch.optim.SGD(groups)
        before, logits = model[:4](x).detach(), model(x).detach()
        for _ in range(4):
            step.zero_grad()
            unit.cross_entropy(model(x), y).backward()
            step.step()
        return rms(model[:4](x) - before), rms(model(x) - logits)

    for small, large in zip(change(64), change(1024), strict=True):
        assert large > 0.005
        assert 0.7 < large / small < 1.4


def test_layers_keep_dtype_device_and_norms():
    layer = unit.Linear(4, 3, bias=True, dtype=torch.bfloat16)
    assert layer(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    gain = unit.RMSNorm((2, 3), elementwise_affine=True)
    assert gain(normal(5, 2, 3, dtype=torch.float32)).shape == (5, 2, 3)
    state = unit.Attention(8, 2).state_dict()
    assert list(state) == ["qkv.weight", "out.weight"]
    assert math.isclose(unit.ResidualStack([nn.Identity()] * 4, mult=2.0).taus()[0], 2 / 2**0.5)


def test_bad_input():
    for call, match in [
        (lambda: unit.linear(torch.ones(2, 3), torch.ones(2, 4)), "n_in"),
        (lambda: unit.linear(torch.ones(2, 3), torch.ones(2, 3), None, "gmean"), "constraint"),
        (lambda: unit.Linear(2, 3, constraint="x"), "constraint"),
        (lambda: unit.gelu(torch.ones(2), 0.0), "mult"),
        (lambda: unit.scale(torch.ones(2), math.inf), "forward"),
        (lambda: unit.attention(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 4)), "query"),
        (lambda: unit.cross_entropy(torch.ones(2, 3), torch.ones(3, dtype=torch.int64)), "target"),
        (lambda: unit.rms_norm(torch.ones(2, 3), (4,)), "end in"),
        (lambda: unit.residual_tau(4, 4), "index"),
        (lambda: unit.Residual(nn.Identity(), -1.0), "tau"),
        (lambda: unit.Attention(10, 3), "heads"),
        (lambda: unit.groups(unit.Linear(2, 2), 0.1, "newton"), "optimizer"),
        (lambda: unit.groups(unit.Linear(2, 2), -0.1), "lr"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match=r"1\.weight belongs to a Linear"):
        unit.groups(nn.Sequential(unit.Linear(2, 2), nn.Linear(2, 2)), 0.1)


@pytest.mark.parametrize(
    ("sizes", "name"), [((0, 3), "in_features"), ((3, 0), "out_features"), ((-1, 3), "in_features")]
)
def test_layers_of_no_size_are_refused(sizes, name):
    for layer in (unit.Linear, unit.Readout):
        with pytest.raises(ValueError, match=name):
            layer(*sizes)
