"""lsuv_: unit variances in the order of execution, orthonormal weights, what it leaves as it was."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from resolvent.errors import AccuracyWarning
from resolvent.optim import lsuv_
from resolvent.random import gaussian


def stack(depth, width, activation, n0=20):
    sizes = [n0] + [width] * depth
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def outputs(model, x, kinds=(nn.Linear,)):
    found = {}
    handles = [
        m.register_forward_hook(lambda m, _, y, name=name: found.setdefault(name, y))
        for name, m in model.named_modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_has_the_variance(activation, dtype):
    x = gaussian((300, 20), dtype, generator=0)
    model = stack(30, 40, activation).to(dtype)
    report = lsuv_(model, x, generator=0, target_std=2.0, tol=0.01)
    assert report.converged and len(report.layers) == 31
    for name, y in outputs(model, x).items():
        assert float(y.var(correction=0)) == pytest.approx(4, rel=0.0101), name
    assert all(float(m.bias.detach().abs().max()) == 0 for m in model if isinstance(m, nn.Linear))


def test_weights_are_multiples_of_orthonormal_ones():
    x = gaussian((100, 20), torch.float32, generator=0)
    model = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 7))
    lsuv_(model, x, generator=0)
    for W in (model[0].weight, model[2].weight.mT):
        gram = W.mT @ W
        torch.testing.assert_close(gram / gram[0, 0], torch.eye(len(gram)), atol=1e-5, rtol=0)


def test_the_papers_loop_gives_the_same_weights():
    """One pass of the whole network per correction, as the paper writes it."""
    x = gaussian((64, 20), torch.float64, generator=0)
    ours, plain = (stack(6, 30, nn.ReLU).double() for _ in range(2))
    lsuv_(ours, x, generator=3)
    lsuv_(plain, x, generator=3, tol=1e9)
    for name in [name for name, m in plain.named_modules() if isinstance(m, nn.Linear)]:
        variance = outputs(plain, x)[name].var(correction=0)
        if abs(float(variance) - 1) > 0.1:
            with torch.no_grad():
                plain.get_submodule(name).weight.div_(variance.sqrt())
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_changes_where_variances_are_one_already():
    """The limiting case: orthogonal weights on white data are left as they are."""
    Q = torch.linalg.qr(gaussian((16, 16), generator=0)).Q
    x = torch.cat([Q, -Q]) * 4
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).double()
    report = lsuv_(model, x, generator=0)
    assert [layer.corrections for layer in report.layers] == [0, 0]
    torch.testing.assert_close(model[1].weight @ model[1].weight.mT, torch.eye(16, dtype=torch.float64))


class Reversed(nn.Module):
    """Registered in the other order than executed; the middle layer runs twice."""

    def __init__(self):
        super().__init__()
        self.last, self.middle, self.first, self.unused = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x, *, shift=0.0):
        h = self.middle(torch.relu(self.middle(torch.relu(self.first(x))))) + shift
        return self.last(torch.relu(h))


def test_order_of_execution_shared_and_unused_modules():
    x = gaussian((200, 12), torch.float32, generator=0)
    model = Reversed()
    with pytest.warns(AccuracyWarning, match="unused"):
        report = lsuv_(model, {"x": x, "shift": 0.5}, generator=0)
    assert [layer.name for layer in report.layers] == ["first", "middle", "last", "unused"]
    assert report.layers[-1].status == "not run" and math.isnan(report.layers[-1].after)
    assert float(outputs(model, x)["middle"].var(correction=0)) == pytest.approx(1, abs=0.1)


def test_convolutions_groups_and_parametrizations():
    x = gaussian((8, 4, 9, 9), torch.float32, generator=0)
    model = nn.Sequential(
        nn.Conv2d(4, 12, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(12, 6, 3, groups=3), nn.Tanh(),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 5, 1)),
    )  # fmt: skip
    report = lsuv_(model, x, generator=0, tol=0.02)
    assert report.converged
    for y in outputs(model, x, (nn.Conv2d, nn.ConvTranspose2d)).values():
        assert float(y.var(correction=0)) == pytest.approx(1, abs=0.021)
    W = model[0].weight.reshape(2, 6, 18)
    gram = W @ W.mT
    torch.testing.assert_close(gram / gram[:, :1, :1], torch.eye(6).expand(2, 6, 6), atol=1e-5, rtol=0)
    W = model[2].weight.reshape(3, 4, 2, 9).transpose(1, 2).reshape(3, 2, 36)
    gram = W @ W.mT
    torch.testing.assert_close(gram / gram[:, :1, :1], torch.eye(2).expand(3, 2, 2), atol=1e-5, rtol=0)


def test_modes_statistics_random_state_and_hooks_are_left_alone():
    x = gaussian((50, 20), torch.float32, generator=0)
    model = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 2))
    model[1].eval()
    state = torch.get_rng_state()
    lsuv_(model, x, generator=0)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and model[0].training and not model[1].training
    assert float(model[1].running_mean.abs().max()) == 0
    assert not any(m._forward_hooks for m in model.modules())


def test_zero_mean_and_keeping_the_weights():
    x = gaussian((200, 20), torch.float64, generator=0) + 3
    model = stack(3, 20, nn.ReLU).double()
    before = model[0].weight.clone()
    report = lsuv_(model, x, orthogonal=False, zero_mean=True)
    torch.testing.assert_close(
        model[0].weight / before, torch.full_like(before, float((model[0].weight[0, 0] / before[0, 0]).detach()))
    )
    assert max(abs(layer.mean) for layer in report.layers) < 1e-12
    assert all(0.9 <= layer.after <= 1.1 for layer in report.layers)


def test_bfloat16_and_dead_layers():
    x = gaussian((200, 20), torch.float32, generator=0).bfloat16()
    model = stack(10, 30, nn.Tanh).bfloat16()
    assert lsuv_(model, x, generator=0).converged
    dead = nn.Sequential(nn.Linear(20, 4), nn.Threshold(1e9, 0.0), nn.Linear(4, 2)).bfloat16()
    with pytest.warns(AccuracyWarning, match="variance zero"):
        report = lsuv_(dead, x, generator=0)
    assert report.layers[1].status == "constant output" and "constant output" in str(report) and not report.converged


def test_a_variance_that_no_scale_reaches():
    x = gaussian((50, 20), torch.float32, generator=0)
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(20, 20))
    with pytest.warns(AccuracyWarning, match="did not reach"):
        report = lsuv_(model, x, target_std=9.0, max_iter=3, generator=0)
    assert report.layers[0].corrections == 3 and report.layers[0].status == "not reached"


def test_bad_input():
    x = torch.randn(10, 4)
    net = nn.Sequential(nn.Linear(4, 4))
    for call, error, word in (
        (lambda: lsuv_(net, x, tol=0), ValueError, "tol"),
        (lambda: lsuv_(net, x, target_std=-1.0), ValueError, "target_std"),
        (lambda: lsuv_(net, x, max_iter=0), ValueError, "max_iter"),
        (lambda: lsuv_(nn.ReLU(), x), ValueError, "no layer"),
        (lambda: lsuv_("net", x), TypeError, "Module"),
        (lambda: lsuv_(net, x * math.nan), ValueError, "NaN"),
        (lambda: lsuv_(nn.LazyLinear(3), x), ValueError, "lazy"),
        (lambda: lsuv_(nn.Linear(4, 1), x[:1]), ValueError, "entries"),
    ):
        with pytest.raises(error, match=word), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    assert not net[0]._forward_hooks and net.training
