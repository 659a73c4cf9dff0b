"""orthogonal_critical_, depth_fluctuations and empirical_fluctuations: matrices, Weingarten, exact cases, real networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from resolvent.optim import depth_fluctuations, empirical_fluctuations, orthogonal_critical_
from resolvent.optim.criticality import critical
from resolvent.optim.haar import semi_orthogonal


def deviations(found, error, wanted):
    return float(((found - wanted).abs() / error).max())


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights(shape, dtype):
    layer = nn.Linear(shape[1], shape[0], dtype=dtype)
    orthogonal_critical_(layer, "relu", generator=0)
    W, small = layer.weight.detach(), min(shape)
    gram = W @ W.mT if shape[0] <= shape[1] else W.mT @ W
    torch.testing.assert_close(gram, 2 * max(1, shape[0] / shape[1]) * torch.eye(small, dtype=dtype), atol=1e-6, rtol=0)
    assert float(layer.bias.detach().abs().max()) == 0
    again = nn.Linear(shape[1], shape[0], dtype=dtype)
    orthogonal_critical_(again, "relu", C_b=0.25, generator=0)
    assert torch.equal(again.weight, layer.weight) and float(again.bias.detach().abs().max()) > 0


def test_haar_moments():
    """Two and four entries: E Q_ij^4 = 3 / (n (n + 2)), E Q_11^2 Q_22^2 = (n + 1) / (n (n - 1) (n + 2)): Weingarten."""
    n, count = 4, 60_000
    Q = semi_orthogonal(n, n, torch.Generator().manual_seed(0), count)
    for product, wanted in (
        (Q[:, 0, 0], 0.0),
        (Q[:, 1, 2] ** 2, 1 / n),
        (Q[:, 0, 0] ** 4, 3 / (n * (n + 2))),
        (Q[:, 0, 0] ** 2 * Q[:, 1, 1] ** 2, (n + 1) / (n * (n - 1) * (n + 2))),
        (Q[:, 0, 0] * Q[:, 0, 1] * Q[:, 1, 0] * Q[:, 1, 1], -1 / (n * (n - 1) * (n + 2))),
    ):
        assert abs(float(product.mean()) - wanted) < 4.5 * float(product.std()) / math.sqrt(count)


def test_critical_variances():
    known = {"tanh": 1, "sin": 1, "linear": 1, "relu": 2, "leaky_relu": 2 / (1 + 1e-4), "erf": math.pi / 4, "arctan": 1}
    for name, C_W in known.items():
        found = critical(name).C_W
        assert found == pytest.approx(C_W, rel=1e-12)
    found = critical(lambda z: torch.tanh(3 * z)).C_W
    assert found == pytest.approx(1 / 9)


@pytest.mark.parametrize("activation", [torch.sigmoid, nn.functional.gelu, torch.square, torch.sinh, torch.zeros_like])
def test_activations_without_a_critical_point(activation):
    with pytest.raises(ValueError, match="activation"):
        critical(activation)


def test_exact_cases_of_the_theory():
    layers = torch.arange(1.0, 31, dtype=torch.float64)
    for activation, gaussian, orthogonal in (
        ("linear", 2 * (layers - 1), -2 + 0 * layers),
        ("relu", 5 * (layers - 1), 3 * layers - 5),
    ):
        for weights, wanted in (("gaussian", gaussian), ("orthogonal", orthogonal)):
            found = depth_fluctuations(activation, weights, width=50, depth=30, K0=1.7)
            torch.testing.assert_close(found.four_point, wanted, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(found.variance, (wanted + 2) / 50, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(found.kernel, torch.full_like(wanted, 1.7), rtol=1e-10, atol=0)
    torch.testing.assert_close(depth_fluctuations("linear", width=9, depth=30).ntk, layers)


def test_limits_of_deep_tanh_networks():
    gaussian, orthogonal = (depth_fluctuations("tanh", w, width=100, depth=1200) for w in ("gaussian", "orthogonal"))
    growth = (gaussian.four_point[-1] - gaussian.four_point[-401]) / 400
    assert float(growth) == pytest.approx(2 / 3, rel=2e-3)
    assert float(orthogonal.four_point[-1]) == pytest.approx(-2, abs=3e-3)
    assert float((orthogonal.four_point[-1] + 2) * 1200) == pytest.approx(8 / 3, rel=2e-2)
    assert float(orthogonal.kernel[-1]) * 1200 == pytest.approx(1 / 2, rel=5e-3)


def test_theory_is_the_limit_of_samples_over_widths():
    """The rest after first order falls like 1/width: four times the width, about a quarter of the rest."""
    depth, rests = 24, []
    for weights in ("gaussian", "orthogonal"):
        theory = depth_fluctuations("tanh", weights, width=99, depth=depth).four_point
        for width, draws in ((16, 20_000), (256, 4_000)):
            found = empirical_fluctuations("tanh", weights, width=width, depth=depth, draws=draws, generator=0)
            rests.append((float((found.four_point - theory)[-1]), float(found.four_point_error[-1])))
        (coarse, _), (fine, error) = rests[-2:]
        assert abs(fine) < 4 * error + abs(coarse) / 8
    assert rests[0][0] > 5 * rests[0][1]


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_samples_have_the_law_of_real_networks(weights, activation):
    """Norms and tangent kernels of networks with matrices, by autograd, against the matrix-free walk."""
    width, depth, draws, K0 = 8, 4, 3000, 1.0
    known, g = critical(activation), torch.Generator().manual_seed(1)
    x = torch.full((draws, width), math.sqrt(K0 / known.C_W), dtype=torch.float64)
    h, weights_of, norms = x, [], []
    for _ in range(depth):
        W = (
            semi_orthogonal(width, width, g, draws)
            if weights == "orthogonal"
            else torch.randn(draws, width, width, generator=g, dtype=torch.float64) / math.sqrt(width)
        )
        W = (W * math.sqrt(known.C_W)).requires_grad_()
        weights_of.append(W)
        z = (W @ h[:, :, None])[:, :, 0]
        norms.append(z.detach().square().mean(1))
        h = known.sigma(z)
    grads = torch.autograd.grad(z[:, 0].sum(), weights_of)
    theta = sum(grad.square().sum((1, 2)) for grad in grads) / width
    found = empirical_fluctuations(
        activation, weights, width=width, depth=depth, K0=K0, draws=20_000, ntk=(depth,), generator=2
    )
    for level, q in enumerate(norms):
        both = math.hypot(float(q.std()) / math.sqrt(draws), float(found.kernel_error[level]))
        assert abs(float(q.mean() - found.kernel[level])) < 4.5 * both + 1e-12
    assert float(theta.mean()) == pytest.approx(float(found.ntk[0]), abs=4.5 * float(theta.std()) / math.sqrt(draws))
    spread = float(theta.var() / theta.mean() ** 2)
    assert spread == pytest.approx(float(found.ntk_variance[0]), rel=0.35)
    assert float(norms[-1].var() / norms[-1].mean() ** 2) == pytest.approx(
        float(found.variance[-1]), rel=0.35, abs=1e-12
    )


def test_tangent_kernel_of_wide_networks_is_that_of_the_theory():
    for weights in ("gaussian", "orthogonal"):
        theory = depth_fluctuations("tanh", weights, width=500, depth=12)
        found = empirical_fluctuations("tanh", weights, width=300, depth=12, draws=400, ntk=(3, 12), generator=0)
        torch.testing.assert_close(found.ntk, theory.ntk[[2, 11]], rtol=0.03, atol=0)
        assert found.depths.tolist() == [3, 12]


def test_orthogonal_networks_keep_norms_that_gaussian_ones_lose():
    found = {
        w: empirical_fluctuations("tanh", w, width=32, depth=30, draws=2000, generator=0)
        for w in ("gaussian", "orthogonal")
    }
    assert float(found["gaussian"].variance[-1] / found["orthogonal"].variance[-1]) > 50
    theory = depth_fluctuations("tanh", "orthogonal", width=32, depth=30)
    assert (
        deviations(found["orthogonal"].variance[1:3], found["orthogonal"].variance_error[1:3], theory.variance[1:3]) < 6
    )


def test_bad_input():
    for call, word in (
        (lambda: depth_fluctuations("tanh", "uniform", width=4, depth=2), "weights"),
        (lambda: depth_fluctuations("tanh", width=1, depth=2), "width"),
        (lambda: depth_fluctuations("tanh", width=4, depth=0), "depth"),
        (lambda: depth_fluctuations("tanh", width=4, depth=2, K0=0.0), "K0"),
        (lambda: depth_fluctuations("swish", width=4, depth=2), "activation"),
        (lambda: empirical_fluctuations(width=4, depth=2, draws=1), "draws"),
        (lambda: empirical_fluctuations(width=4, depth=2, ntk=(3,)), "ntk"),
        (lambda: orthogonal_critical_(nn.Linear(2, 2), C_b=-1.0), "C_b"),
        (lambda: orthogonal_critical_(nn.ReLU()), "no layer"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="activation"):
        depth_fluctuations(3, width=4, depth=2)
