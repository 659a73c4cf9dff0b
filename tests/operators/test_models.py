"""Jacobian and Hessian operators against explicit torch.autograd.functional matrices on tiny networks."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resolvent.errors import AccuracyWarning
from resolvent.operators import hessian, jacobian
from resolvent.operators.models import Curvature


def network(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def samples(count=10, dtype=torch.float64, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=g, dtype=dtype), torch.randint(3, (count,), generator=g)


def of_flat(model, fn):
    """`fn(model)` as a function of the flat parameter vector."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    shapes = [dict(model.named_parameters())[name].shape for name in names]

    def value(theta):
        pieces = theta.split([s.numel() for s in shapes])
        tree = {n: p.reshape(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return fn(lambda x: torch.func.functional_call(model, tree, (x,)))

    return value, torch.cat([dict(model.named_parameters())[n].detach().reshape(-1) for n in names])


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x), y)


def explicit(model, x, y):
    value, theta = of_flat(model, lambda m: F.cross_entropy(m(x), y))
    return torch.autograd.functional.hessian(value, theta)


@pytest.mark.parametrize("mode", ["forward-over-reverse", "double-backward"])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_hessian_of_a_network(mode, chunk):
    model, (x, y) = network(), samples()
    H = hessian(cross_entropy, model, (x, y), mode=mode, chunk=chunk)
    expected = explicit(model, x, y)
    torch.testing.assert_close(H.to_dense(), expected)
    v = torch.randn(2, H.shape[1], 3, dtype=torch.float64)
    torch.testing.assert_close(H @ v, expected @ v)
    torch.testing.assert_close(H @ v[0, :, 0], expected @ v[0, :, 0])
    assert H.hermitian and not H.positive and H.H is H
    assert repr(H).startswith("Hessian 31x31 float64 hermitian")


@pytest.mark.parametrize("sizes", [[10], [4, 6], [1, 2, 3, 4]])
def test_several_batches_equal_one(sizes):
    model, (x, y) = network(), samples()
    parts = list(zip(x.split(sizes), y.split(sizes), strict=True))
    expected = explicit(model, x, y)
    torch.testing.assert_close(hessian(cross_entropy, model, parts).to_dense(), expected)
    summed = hessian(lambda m, a, b: F.cross_entropy(m(a), b, reduction="sum"), model, parts, reduction="sum")
    torch.testing.assert_close(summed.to_dense(), 10 * expected)


def test_a_loader_and_float32():
    model, (x, y) = network(torch.float32), samples(dtype=torch.float32)
    H = hessian(cross_entropy, model, DataLoader(TensorDataset(x, y), batch_size=4))
    assert H.dtype == torch.float32
    torch.testing.assert_close(H.to_dense(), explicit(model, x, y), rtol=1e-4, atol=1e-6)


def test_batches_are_read_one_at_a_time():
    model, (x, y) = network(), samples()
    log = []

    class Data:
        def __iter__(self):
            for i in range(5):
                log.append(("read", i))
                yield x[2 * i : 2 * i + 2], y[2 * i : 2 * i + 2]

    def loss(m, a, b):
        log.append(("used", int(torch.eq(x, a[0]).all(1).nonzero()) // 2))
        return F.cross_entropy(m(a), b)

    H = hessian(loss, model, Data())
    product = H @ torch.randn(31, 4, dtype=torch.float64)
    assert log == [(what, i) for i in range(5) for what in ("read", "used")]
    assert not product.requires_grad


def test_forms_of_params():
    def f(p):
        return (p["a"] ** 3).sum() + p["a"].sum() * p["b"].sum()

    a, b = torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])
    expected = torch.tensor([[6.0, 0, 1], [0, 12, 1], [1, 1, 0]])
    torch.testing.assert_close(hessian(f, {"a": a, "b": b}).to_dense(), expected)
    torch.testing.assert_close(hessian(lambda p: f({"a": p[0], "b": p[1]}), [a, b]).to_dense(), expected)
    torch.testing.assert_close(
        hessian(lambda p: f({"a": p[:2], "b": p[2:]}), torch.tensor([1.0, 2, 3])).to_dense(), expected
    )


def test_frozen_parameters_are_left_out_and_training_is_followed():
    model, (x, y) = network(), samples()
    model[0].weight.requires_grad_(False)
    H = hessian(cross_entropy, model, (x, y))
    assert H.shape == (19, 19)
    torch.testing.assert_close(H.to_dense(), explicit(model, x, y))
    with torch.no_grad():
        model[2].bias += 1.0
    torch.testing.assert_close(H.to_dense(), explicit(model, x, y))


def test_gradients_in_the_vector_and_in_the_parameters():
    p = torch.randn(3, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def product(p, v):
        return hessian(lambda q: (q.sin() * q.roll(1)).sum(), p, differentiable=True, chunk=4) @ v

    assert torch.autograd.gradcheck(product, (p, v))
    fixed = hessian(lambda q: (q**4).sum(), p)
    assert fixed.requires_grad is False and not (fixed @ v.detach()).requires_grad
    assert torch.autograd.gradcheck(lambda u: fixed @ u, v)
    cut = hessian(lambda q: (q**4).sum(), p, differentiable=True).detach()
    assert cut.requires_grad is False
    torch.testing.assert_close(cut.to_dense(), torch.diag(12 * p.detach() ** 2))


@pytest.mark.parametrize("mode", ["auto", "forward-over-reverse", "double-backward"])
@pytest.mark.parametrize("chunk", [1, 16])
def test_jacobian(mode, chunk):
    W = torch.randn(5, 6, dtype=torch.float64)

    def f(x):
        return (W @ x.reshape(-1)).tanh().reshape(5, 1) * x.sum()

    x = torch.randn(2, 3, dtype=torch.float64)
    J = jacobian(f, x, mode=mode, chunk=chunk)
    expected = torch.autograd.functional.jacobian(f, x).reshape(5, 6)
    assert J.shape == (5, 6) and J.H.H is J
    torch.testing.assert_close(J.to_dense(), expected)
    torch.testing.assert_close(J.H.to_dense(), expected.T)
    V, U = torch.randn(3, 6, 2, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(J @ V, expected @ V)
    torch.testing.assert_close(J.H @ U, expected.T @ U)
    torch.testing.assert_close((J.H @ J) @ V, expected.T @ expected @ V)


def test_jacobian_gradients():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    v, u = torch.randn(3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)

    def f(x):
        return torch.stack([x.prod(), (x**2).sum()])

    assert torch.autograd.gradcheck(lambda x: jacobian(f, x) @ v, x)
    assert torch.autograd.gradcheck(lambda x: jacobian(f, x).H @ u, x)
    assert jacobian(f, x).requires_grad and jacobian(f, x).detach().requires_grad is False


def test_double_backward_takes_functions_without_forward_mode():
    class Cube(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, grad):
            return 3 * ctx.saved_tensors[0] ** 2 * grad

    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    H = hessian(lambda p: Cube.apply(p).sum(), x, mode="double-backward")
    torch.testing.assert_close(H.to_dense(), torch.diag(6 * x))
    torch.testing.assert_close(jacobian(Cube.apply, x, mode="double-backward").to_dense(), torch.diag(3 * x**2))
    torch.testing.assert_close(hessian(lambda p: Cube.apply(p).sum(), x).to_dense(), torch.diag(6 * x))
    torch.testing.assert_close(jacobian(Cube.apply, x).to_dense(), torch.diag(3 * x**2))
    with pytest.raises(RuntimeError, match="jvp"):
        hessian(lambda p: Cube.apply(p).sum(), x, mode="forward-over-reverse").to_dense()


def test_losses_that_forward_mode_does_not_take():
    # torch raises "ZeroTensors are immutable" for the mean of squares, and fused attention has no second derivative.
    model, (x, _) = network(), samples()
    y = torch.randn(10, 3, dtype=torch.float64)
    value, theta = of_flat(model, lambda m: F.mse_loss(m(x), y))
    expected = torch.autograd.functional.hessian(value, theta)
    torch.testing.assert_close(hessian(lambda m, a, b: F.mse_loss(m(a), b), model, (x, y)).to_dense(), expected)

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dropout=0.0).double().eval()
    a = torch.randn(2, 3, 4, dtype=torch.float64)
    H = hessian(lambda m, a: m(a).pow(3).sum(), layer, (a,), reduction="sum")
    V = torch.randn(H.shape[0], 2, dtype=torch.float64)
    value, theta = of_flat(layer, lambda m: m(a).pow(3).sum())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch.stack([torch.autograd.functional.vhp(value, theta, v)[1] for v in V.T], 1)
    torch.testing.assert_close(H @ V, expected)


def test_train_mode_is_warned_of_and_leaves_the_statistics_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = samples()
    with pytest.warns(AccuracyWarning, match="BatchNorm"):
        H = hessian(cross_entropy, model, (x, y))
    before = {name: b.clone() for name, b in model.named_buffers()}
    v = torch.randn(H.shape[0], 2, dtype=torch.float64)
    product = H @ v
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())
    torch.testing.assert_close(product, explicit(model, x, y) @ v)
    with pytest.warns(AccuracyWarning, match="Dropout"):
        hessian(cross_entropy, nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), (x.float(), y))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccuracyWarning)
        H = hessian(cross_entropy, model.eval(), (x, y))
    torch.testing.assert_close(H @ v, explicit(model, x, y) @ v)


def test_bad_input():
    model, (x, y) = network(), samples()
    with pytest.raises(TypeError, match="read only once"):
        hessian(cross_entropy, model, iter([(x, y)]))
    with pytest.raises(TypeError, match="data"):
        hessian(cross_entropy, model, x)
    with pytest.raises(TypeError, match="params"):
        hessian(cross_entropy, 3)
    with pytest.raises(TypeError, match=r"params\['0'\]"):
        hessian(cross_entropy, [torch.arange(3)])
    with pytest.raises(ValueError, match="dtype"):
        hessian(cross_entropy, [torch.ones(2), torch.ones(2, dtype=torch.float64)])
    with pytest.raises(ValueError, match="no parameter"):
        hessian(cross_entropy, nn.Tanh())
    with pytest.raises(ValueError, match="scalar"):
        hessian(lambda p: p**2, torch.ones(2)) @ torch.ones(2)
    with pytest.raises(ValueError, match="no batch"):
        hessian(cross_entropy, model, []) @ torch.ones(31, dtype=torch.float64)
    with pytest.raises(ValueError, match="mode"):
        hessian(cross_entropy, model, (x, y), mode="reverse")
    with pytest.raises(ValueError, match="reduction"):
        hessian(cross_entropy, model, (x, y), reduction="max")
    with pytest.raises(ValueError, match="chunk=0"):
        jacobian(torch.sin, x, chunk=0)
    with pytest.raises(TypeError, match="x must be"):
        jacobian(torch.sin, y)
    with pytest.raises(TypeError, match=r"f\(x\)"):
        jacobian(lambda x: x.float(), x)
    with pytest.raises(TypeError, match="dtype or device"):
        hessian(cross_entropy, model, (x, y)).to(torch.float32)
    assert isinstance(hessian(cross_entropy, model, (x, y)).to(torch.float64), Curvature)
