"""Gauss-Newton and Fisher operators against explicit Jacobians and per-sample gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resolvent.operators import fisher, gauss_newton, hessian


def network(outputs=3, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outputs)).to(dtype)


def samples(count=9, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, generator=g, dtype=dtype), torch.randint(3, (count,), generator=g)


def flat(model):
    shapes = {n: p.shape for n, p in model.named_parameters()}
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def call(theta, x):
        pieces = theta.split([s.numel() for s in shapes.values()])
        tree = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}
        return torch.func.functional_call(model, tree, (x,))

    return theta, call


def jacobian(model, x):
    theta, call = flat(model)
    return torch.autograd.functional.jacobian(lambda t: call(t, x), theta)


TARGETS = {
    "cross-entropy": (lambda x, y: y, F.cross_entropy),
    "mse": (lambda x, y: F.one_hot(y, 3).to(x), F.mse_loss),
    "binary-cross-entropy": (lambda x, y: F.one_hot(y, 3).to(x), F.binary_cross_entropy_with_logits),
}


@pytest.mark.parametrize("loss", sorted(TARGETS))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gauss_newton_is_the_sandwich(loss, reduction):
    model, (x, y) = network(), samples()
    make, function = TARGETS[loss]
    target = make(x, y)
    J = jacobian(model, x).reshape(27, -1)
    f = model(x).detach()
    outer = torch.autograd.functional.hessian(lambda f: function(f, target, reduction=reduction), f).reshape(27, 27)
    expected = J.T @ outer @ J
    parts = list(zip(x.split([4, 5]), target.split([4, 5]), strict=True))
    for data in ((x, target), parts):
        G = gauss_newton(model, loss, data, reduction=reduction)
        torch.testing.assert_close(G.to_dense(), expected)
        assert G.positive and G.H is G
    own = gauss_newton(model, lambda f, t: function(f, t, reduction=reduction), parts, reduction=reduction)
    torch.testing.assert_close(own.to_dense(), expected)
    assert own.hermitian and not own.positive
    v = torch.randn(3, 27, 2, dtype=torch.float64)
    torch.testing.assert_close(G @ v, expected @ v)


def test_gauss_newton_of_a_linear_model_is_the_hessian():
    model = nn.Linear(2, 3).double()
    x, y = samples()
    G = gauss_newton(model, "cross-entropy", (x, y))
    H = hessian(lambda m, a, b: F.cross_entropy(m(a), b), model, (x, y))
    torch.testing.assert_close(G.to_dense(), H.to_dense())


def test_ignored_targets_and_classes_on_axis_one():
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 1).double()
    x, y = torch.randn(4, 2, 5, dtype=torch.float64), torch.randint(3, (4, 5))
    y[0, :3] = -100
    H = hessian(lambda m, a, b: F.cross_entropy(m(a), b), model, (x, y))
    parts = list(zip(x.split([1, 3]), y.split([1, 3]), strict=True))
    torch.testing.assert_close(gauss_newton(model, "cross-entropy", parts).to_dense(), H.to_dense())


def test_empirical_fisher_is_the_mean_of_outer_products():
    model, (x, y) = network(), samples()
    theta, call = flat(model)
    each = torch.autograd.functional.jacobian(lambda t: F.cross_entropy(call(t, x), y, reduction="none"), theta)
    expected = each.T @ each / 9
    parts = list(zip(x.split([2, 7]), y.split([2, 7]), strict=True))
    A = fisher(model, parts, labels="data")
    torch.testing.assert_close(A.to_dense(), expected)
    assert A.positive
    z = F.one_hot(y, 3).to(x)
    each = torch.autograd.functional.jacobian(lambda t: 0.5 * ((call(t, x) - z) ** 2).sum(1), theta)
    torch.testing.assert_close(fisher(model, (x, z), "gaussian", labels="data").to_dense(), each.T @ each / 9)
    each = torch.autograd.functional.jacobian(
        lambda t: F.binary_cross_entropy_with_logits(call(t, x), z, reduction="none").sum(1), theta
    )
    torch.testing.assert_close(fisher(model, (x, z), "bernoulli", labels="data").to_dense(), each.T @ each / 9)


def test_fisher_is_the_mean_over_the_models_own_labels():
    model, (x, _) = network(), samples()
    theta, call = flat(model)
    p = model(x).detach().softmax(1)
    expected = torch.zeros(27, 27, dtype=torch.float64)
    for label in range(3):
        y = torch.full((9,), label)
        g = torch.autograd.functional.jacobian(lambda t, y=y: F.cross_entropy(call(t, x), y, reduction="none"), theta)
        expected += (p[:, label, None] * g).T @ g / 9
    torch.testing.assert_close(fisher(model, [x[:4], x[4:]]).to_dense(), expected)
    J = jacobian(model, x).reshape(27, -1)
    torch.testing.assert_close(fisher(model, [x], "gaussian").to_dense(), J.T @ J / 9)
    q = model(x).detach().sigmoid().reshape(-1, 1)
    torch.testing.assert_close(fisher(model, [x], "bernoulli").to_dense(), J.T @ (q * (1 - q) * J) / 9)


def test_a_functional_model_and_float32():
    x, y = samples(dtype=torch.float32)
    W = torch.randn(2, 3)
    G = gauss_newton(lambda p, a: a @ p["W"], "cross-entropy", (x, y), params={"W": W})
    H = torch.autograd.functional.hessian(lambda w: F.cross_entropy(x @ w.reshape(2, 3), y), W.reshape(-1))
    torch.testing.assert_close(G.to_dense(), H, rtol=1e-4, atol=1e-6)
    single = fisher(lambda w, a: a @ w, [x], params=W)
    torch.testing.assert_close(single.to_dense(), H, rtol=1e-4, atol=1e-6)


def test_gradients():
    x, y = samples(4)
    W = torch.randn(6, dtype=torch.float64, requires_grad=True)
    v = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    def product(W, v):
        G = gauss_newton(
            lambda w, a: (a @ w.reshape(2, 3)).tanh(), "cross-entropy", (x, y), params=W, differentiable=True
        )
        return G @ v

    assert torch.autograd.gradcheck(product, (W, v))


def test_bad_input():
    model, (x, y) = network(), samples()
    with pytest.raises(ValueError, match="loss='hinge'"):
        gauss_newton(model, "hinge", (x, y))
    with pytest.raises(ValueError, match="reduction"):
        gauss_newton(model, "mse", (x, y), reduction="max")
    with pytest.raises(ValueError, match="params must be None"):
        gauss_newton(model, "mse", (x, y), params=[x])
    with pytest.raises(ValueError, match="functional model"):
        gauss_newton(lambda p, a: a, "mse", (x, y))
    with pytest.raises(ValueError, match="likelihood"):
        fisher(model, (x, y), "poisson")
    with pytest.raises(ValueError, match="labels"):
        fisher(model, (x, y), labels="mine")
    with pytest.raises(ValueError, match="without targets"):
        fisher(model, [x], labels="data") @ torch.ones(27, dtype=torch.float64)
    with pytest.raises(ValueError, match="inputs, targets"):
        gauss_newton(model, "mse", (x, y, y)) @ torch.ones(27, dtype=torch.float64)
    with pytest.raises(TypeError, match="read only once"):
        fisher(model, iter([(x, y)]))
