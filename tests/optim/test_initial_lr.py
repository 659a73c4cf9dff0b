"""max_initial_lr, its power law and the bounds of the sharpness: known edges, exact expectations, options."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from resolvent.errors import ConvergenceError
from resolvent.operators import gauss_newton
from resolvent.optim import fit_max_lr, max_initial_lr, predict_max_lr, sharpness_bounds
from resolvent.random import gaussian
from resolvent.spectra import eigsh


def relu_net(depth, width, inputs, outputs):
    sizes = [inputs] + [width] * (depth - 1) + [outputs]
    layers = []
    for a, b in pairwise(sizes):
        layer = nn.Linear(a, b)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def blobs(n=200, classes=3):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    return torch.randn(classes, 6, generator=g)[y] * 2 + torch.randn(n, 6, generator=g), y


def test_the_edge_of_a_quadratic_is_where_it_diverges():
    """Full-batch descent on a mean square: the loss falls for rates below 2 / (largest eigenvalue), whatever the start."""
    x = gaussian((50, 4), torch.float64, generator=0)
    top = float(torch.linalg.eigvalsh(x.mT @ x * 2 / 50)[-1])
    y = x @ torch.ones(4, 1, dtype=torch.float64)
    found = max_initial_lr(
        lambda: nn.Linear(4, 1, bias=False, dtype=torch.float64), (x, y), 0.5, 25, 2, hi=10.0, rtol=0.01,
        batch_size=50, loss="mse", metric="loss", generator=0,
    )  # fmt: skip
    assert found.lr == pytest.approx(2 / top, rel=0.1)
    assert len(found.trials) == 2 and found.ci[0] <= found.lr <= found.ci[1] and found.runs < 60


def test_it_separates_rates_that_work_from_rates_that_do_not():
    data = blobs()
    found = max_initial_lr(relu_net(3, 16, 6, 3), data, 0.8, trials=1, generator=1)
    assert found.ci == (0.0, math.inf)
    above = dict(threshold=0.8, trials=1, generator=1)
    assert max_initial_lr(relu_net(3, 16, 6, 3), data, lo=found.lr / 3, **above).lr > found.lr / 10
    with pytest.raises(ConvergenceError, match="no rate"):
        max_initial_lr(lambda: relu_net(3, 16, 6, 3), data, lo=found.lr * 200, hi=found.lr * 1000, **above)
    with pytest.raises(ConvergenceError, match="hi="):
        max_initial_lr(lambda: relu_net(3, 16, 6, 3), data, hi=found.lr / 3, **above)


def test_same_seed_same_result_and_nothing_else_changes():
    data, model = blobs(), relu_net(2, 8, 6, 3)
    before, state = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    a = max_initial_lr(model, data, 0.7, trials=2, generator=0)
    b = max_initial_lr(model, data, 0.7, trials=2, generator=0)
    assert a == b and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_loaders_and_a_slower_input_layer():
    x, y = blobs()
    loader = [(x[i : i + 50], y[i : i + 50]) for i in range(0, 200, 50)]
    made = []

    def fresh():
        made.append(relu_net(3, 16, 6, 3))
        made[-1].start = [layer.weight.detach().clone() for layer in made[-1][:3:2]]
        return made[-1]

    found = max_initial_lr(fresh, loader, 0.8, trials=2, input_scale=0.0, generator=0)
    assert found.runs == len(made)
    for model in made:
        assert torch.equal(model[0].weight, model.start[0]) and float(model[0].bias.detach().abs().max()) == 0
        assert not torch.equal(model[2].weight, model.start[1])
    with pytest.raises(ValueError, match="input layer"):
        max_initial_lr(nn.Linear(6, 3), loader, input_scale=0.1)


def test_power_law():
    depths, widths = [2, 2, 4, 8], [64, 128, 128, 256]
    lrs = [3.0 * (d * w) ** -0.75 for d, w in zip(depths, widths, strict=True)]
    fit = fit_max_lr(depths, widths, lrs)
    assert fit.k == pytest.approx(3) and fit.exponent == pytest.approx(-0.75) and fit.r2 == pytest.approx(1)
    assert predict_max_lr(4, 512, fit) == pytest.approx(3 * 2048**-0.75)
    noisy = fit_max_lr(depths, widths, [lr * f for lr, f in zip(lrs, (1.3, 0.8, 1.2, 0.9), strict=True)])
    assert 0.5 < noisy.r2 < 1


@pytest.mark.parametrize("bias", [True, False])
def test_upper_bound_is_the_exact_mean_trace(bias):
    """One output: E trace(J^T J) at finite width, by autograd over random networks."""
    x, draws, traces = gaussian((5, 3), torch.float32, generator=0), 800, []
    torch.manual_seed(0)
    for _ in range(draws):
        sizes = [3, 6, 6, 1]
        W = [(torch.randn(b, a) * math.sqrt(2 / a)).requires_grad_() for a, b in pairwise(sizes)]
        b = [torch.zeros(n, requires_grad=True) for n in sizes[1:]]
        total = 0.0
        for row in x[:1]:
            h = row
            for level, (weight, shift) in enumerate(zip(W, b, strict=True)):
                h = weight @ (h if level == 0 else h.relu()) + shift
            grads = torch.autograd.grad(h.sum(), [*W, *b])
            total += float(sum(grad.square().sum() for grad in (grads if bias else grads[:3])))
        traces.append(2 * total)
    traces = torch.tensor(traces)
    wanted = sharpness_bounds(3, 6, x[:1], bias=bias).upper
    assert abs(float(traces.mean()) - wanted) < 4.5 * float(traces.std()) / math.sqrt(draws)


def test_the_sharpness_lies_between_and_grows_as_depth_times_width():
    x = gaussian((20, 10), torch.float32, generator=0)
    y = torch.zeros(20, 1)
    for depth, width in ((2, 150), (5, 150)):
        bounds = sharpness_bounds(depth, width, x)
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            G = gauss_newton(relu_net(depth, width, 10, 1), "mse", (x, y))
            found.append(float(eigsh(G, 1, which="LA", rtol=1e-3)[0][0]))
        assert 0.75 * bounds.lower < sum(found) / 3 < bounds.upper
        assert bounds.lower > bounds.upper / 4
    large, small = sharpness_bounds(21, 400, x), sharpness_bounds(21, 200, x)
    assert large.upper / small.upper == pytest.approx(2, rel=0.01)
    deep = sharpness_bounds(41, 200, x)
    assert deep.upper / small.upper == pytest.approx(2, rel=0.01) and deep.lower / small.lower > 1.8


def test_lower_bound_of_equal_inputs_is_the_upper_one():
    x = torch.ones(4, 3)
    bounds = sharpness_bounds(4, 50, x, outputs=2)
    assert bounds.lower == pytest.approx(bounds.upper) == pytest.approx(3 + 3 * 50 + 4)
    assert sharpness_bounds(2, 5, torch.zeros(2, 3), bias=False) == (0.0, 0.0)


def test_bad_input():
    data, net = blobs(), nn.Linear(6, 3)
    for call, word in (
        (lambda: max_initial_lr(net, data, 1.5), "threshold"),
        (lambda: max_initial_lr(net, data, trials=0), "trials"),
        (lambda: max_initial_lr(net, data, lo=1.0, hi=0.5), "lo"),
        (lambda: max_initial_lr(net, data, rtol=0.0), "rtol"),
        (lambda: max_initial_lr(net, data, metric="f1"), "metric"),
        (lambda: max_initial_lr(net, data, loss="hinge"), "loss"),
        (lambda: max_initial_lr(net, (data[0], data[1][:3])), "equal length"),
        (lambda: fit_max_lr([1, 2], [2, 1], [0.1, 0.2]), "differ"),
        (lambda: fit_max_lr([1, 2], [2], [0.1, 0.2]), "equally long"),
        (lambda: fit_max_lr([1, -2], [2, 1], [0.1, 0.2]), "positive"),
        (lambda: predict_max_lr(0, 5, (1.0, -1.0)), "depth"),
        (lambda: sharpness_bounds(1, 5, torch.ones(2, 3)), "depth"),
        (lambda: sharpness_bounds(2, 5, torch.ones(3)), "X"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="read again"):
        max_initial_lr(net, iter([data]))
