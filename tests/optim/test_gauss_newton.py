"""Exact Gauss-Newton: the dense system, every kind of layer and loss, line search, damping, refusals."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resolvent.operators import gauss_newton
from resolvent.optim import ExactGaussNewton
from resolvent.optim.batch_jacobian import LayerJacobian, RowJacobian, tapped

DOUBLE = torch.float64


class Sequence(nn.Module):
    """Weights shared over positions."""

    def __init__(self, wide):
        super().__init__()
        self.first, self.second = nn.Linear(5, wide), nn.Linear(wide, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x))).mean(1)


class Mixed(nn.Module):
    """Samples that see each other."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.second(h - h.mean(0))


def strange(f, y):
    return torch.cosh(f - y).sum(1).mean()


MODELS = {
    "layers": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)), (7, 5)),
    "norm": (lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)), (7, 5)),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2, padding_mode="circular"),
            nn.Tanh(),
            nn.Conv2d(4, 3, 3, bias=False),
            nn.Flatten(),
            nn.Linear(3, 3),
        ),
        (6, 2, 6, 6),
    ),
    "batch norm": (lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), (7, 5)),
    "long sequence": (lambda: Sequence(4), (5, 7, 5)),
    "short sequence": (lambda: Sequence(16), (5, 2, 5)),
    "mixed": (Mixed, (6, 5)),
}
LOSSES = {
    "mse": ("mse", F.mse_loss, lambda n: torch.randn(n, 3, dtype=DOUBLE)),
    "ce": ("cross-entropy", F.cross_entropy, lambda n: torch.randint(0, 3, (n,))),
    "bce": (
        "binary-cross-entropy",
        F.binary_cross_entropy_with_logits,
        lambda n: torch.rand(n, 3, dtype=DOUBLE).round(),
    ),
    "function": (strange, strange, lambda n: torch.randn(n, 3, dtype=DOUBLE)),
}


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def dense_step(model, x, y, loss, torch_loss, damping, decay):
    """Parameters after a step with the d x d matrix written down."""
    H = gauss_newton(model, loss, (x, y)).to_dense()
    value = torch_loss(model(x), y)
    g = flat(torch.autograd.grad(value, list(model.parameters())))
    w = flat(model.parameters())
    eye = torch.eye(len(w), dtype=w.dtype)
    return w - torch.linalg.solve(H + (damping + decay) * eye, g + decay * w), value


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_is_the_dense_regularised_step(kind, loss):
    torch.manual_seed(0)
    make, shape = MODELS[kind]
    model, x = make().double(), torch.randn(*shape, dtype=DOUBLE)
    name, torch_loss, targets = LOSSES[loss]
    y = targets(shape[0])
    for way, decay in (("auto", 0.0), ("auto", 0.3), ("rows", 0.3)):
        ours = copy.deepcopy(model)
        want, value = dense_step(copy.deepcopy(model), x, y, name, torch_loss, 1e-2, decay)
        optimizer = ExactGaussNewton(ours.parameters(), damping=1e-2, weight_decay=decay, jacobian=way)
        returned = optimizer.step(ours, x, y, loss=strange if loss == "function" else loss)
        assert torch.allclose(returned, value, rtol=1e-12)
        assert (flat(ours.parameters()) - want).norm() <= 1e-10 * want.norm()


@pytest.mark.parametrize("kind", ["layers", "images", "long sequence", "short sequence", "norm"])
def test_layers_and_rows_are_one_matrix(kind):
    torch.manual_seed(1)
    make, shape = MODELS[kind]
    model, x = make().double(), torch.randn(*shape, dtype=DOUBLE)
    params = list(model.parameters())
    with tapped(model, params) as taps:
        outputs = model(x)
    layers, rows = LayerJacobian(outputs, params, taps), RowJacobian(outputs, params, chunk=5)
    weights = {p: 0.5 + n for n, p in enumerate(params)}
    v = torch.randn(outputs.numel(), dtype=DOUBLE)
    close = {"rtol": 1e-10, "atol": 1e-12}
    left, right = (J.gram([weights[p] for p in J.params]) for J in (layers, rows))
    assert torch.allclose(left, right, **close)
    pulled = dict(zip(layers.params, layers.pull(v), strict=True))
    for p, part in zip(rows.params, rows.pull(v), strict=True):
        assert torch.allclose(pulled[p], part, **close)
    assert torch.allclose(
        layers.push([p.detach() for p in layers.params]), rows.push([p.detach() for p in rows.params]), **close
    )
    assert not any(module._forward_hooks for module in model.modules())


def test_one_step_solves_linear_least_squares():
    x = torch.randn(40, 4, dtype=DOUBLE)
    y = torch.randn(40, 2, dtype=DOUBLE)
    model = nn.Linear(4, 2, bias=False, dtype=DOUBLE)
    ExactGaussNewton(model.parameters(), damping=1e-8).step(model, x, y)
    assert torch.allclose(model.weight.T, torch.linalg.lstsq(x, y).solution, atol=1e-6)


def test_a_heavy_damping_is_a_gradient_step():
    torch.manual_seed(0)
    model = MODELS["layers"][0]().double()
    x, y = torch.randn(7, 5, dtype=DOUBLE), torch.randint(0, 3, (7,))
    g = flat(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())))
    before = flat(model.parameters())
    ExactGaussNewton(model.parameters(), lr=0.5, damping=1e6).step(model, x, y, loss="ce")
    assert torch.allclose(flat(model.parameters()) - before, -0.5e-6 * g, rtol=1e-5, atol=1e-14)


def test_groups_have_dampings_of_their_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, y = torch.randn(6, 3, dtype=DOUBLE), torch.randn(6, 1, dtype=DOUBLE)
    H = gauss_newton(copy.deepcopy(model), "mse", (x, y)).to_dense()
    g = flat(torch.autograd.grad(F.mse_loss(model(x), y), list(model.parameters())))
    D = torch.cat([torch.full((16,), 0.1, dtype=DOUBLE), torch.full((5,), 2.5, dtype=DOUBLE)])
    C = torch.cat([torch.zeros(16, dtype=DOUBLE), torch.full((5,), 0.5, dtype=DOUBLE)])
    w = flat(model.parameters())
    want = w - torch.linalg.solve(H + D.diag(), g + C * w) * torch.cat([torch.ones(16), torch.full((5,), 0.5)])
    groups = [
        {"params": model[0].parameters(), "damping": 0.1},
        {"params": model[2].parameters(), "damping": 2.0, "weight_decay": 0.5, "lr": 0.5},
    ]
    ExactGaussNewton(groups).step(model, x, y)
    assert torch.allclose(flat(model.parameters()), want, rtol=1e-10)


def test_momentum_is_bias_corrected():
    model = nn.Linear(1, 1, bias=False, dtype=DOUBLE)
    x, y = torch.ones(4, 1, dtype=DOUBLE), torch.zeros(4, 1, dtype=DOUBLE)
    optimizer = ExactGaussNewton(model.parameters(), lr=0.1, damping=1.0, momentum=0.9)
    w, m = float(model.weight.detach()), 0.0
    for t in range(1, 6):
        m = 0.9 * m + 0.1 * (2 * w) / (2 + 1)
        w -= 0.1 * m / (1 - 0.9**t)
        optimizer.step(model, x, y)
        assert float(model.weight.detach()) == pytest.approx(w, rel=1e-12)


def test_ignored_targets_and_probabilities():
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    x, y = torch.randn(6, 5, dtype=DOUBLE), torch.tensor([0, -100, 2, 1, -100, 1])
    kept, probable = copy.deepcopy(model), copy.deepcopy(model)
    for net, inputs, targets in (
        (model, x, y), (kept, x[y >= 0], y[y >= 0]), (probable, x[y >= 0], F.one_hot(y[y >= 0], 3).double()),
    ):  # fmt: skip
        ExactGaussNewton(net.parameters(), damping=0.1).step(net, inputs, targets, loss="ce")
    assert torch.allclose(model.weight, kept.weight, rtol=1e-10) and torch.allclose(
        kept.bias, probable.bias, rtol=1e-10
    )


def test_the_line_search_finds_a_decrease_where_the_full_step_rises():
    x, y = torch.ones(3, 1, dtype=DOUBLE), torch.zeros(3, 1, dtype=DOUBLE)

    def run(**options):
        # The full Gauss-Newton step for atan overshoots from 2 on, farther each time.
        w = nn.Parameter(torch.tensor([[2.0]], dtype=DOUBLE))
        optimizer = ExactGaussNewton([w], damping=1e-9, **options)
        losses = [float(optimizer.step(lambda x: torch.atan(x @ w), x, y)) for _ in range(6)]
        return losses, optimizer

    full, _ = run()
    searched, optimizer = run(line_search=True)
    assert full[1] > full[0] and all(b < a for a, b in pairwise(searched))
    assert 0 < optimizer.param_groups[0]["reach"] <= 1
    assert searched[-1] < 1e-3


def test_the_search_leaves_a_momentum_that_points_uphill():
    w = nn.Parameter(torch.tensor([[1.0]], dtype=DOUBLE))
    optimizer = ExactGaussNewton([w], damping=1.0, momentum=0.9, line_search=True)
    x = torch.ones(2, 1, dtype=DOUBLE)
    for goal in (-5.0, -5.0, None):
        target = float(w.detach()) + 0.5 if goal is None else goal
        before = float((w.detach() - target) ** 2)
        optimizer.step(lambda x: x @ w, x, torch.full((2, 1), target, dtype=DOUBLE))
        assert float((w.detach() - target) ** 2) < before
    assert optimizer.state[w]["age"] == 1 and optimizer.state[w]["step"] == 3


def test_damping_follows_the_gain():
    x, y = torch.ones(3, 1, dtype=DOUBLE), torch.zeros(3, 1, dtype=DOUBLE)
    w = nn.Parameter(torch.tensor([[1.0]], dtype=DOUBLE))
    model = ExactGaussNewton([w], damping=0.5, adaptive_damping=True)
    model.step(lambda x: x @ w, x, y)
    assert model.param_groups[0]["damping"] == pytest.approx(0.5 * 0.99)
    w = nn.Parameter(torch.tensor([[3.0]], dtype=DOUBLE))
    worse = ExactGaussNewton([w], damping=1e-6, adaptive_damping=True)
    worse.step(lambda x: torch.atan(x @ w), x, y)
    assert worse.param_groups[0]["damping"] == pytest.approx(1e-6 * 1.01)


def test_maximize_goes_up():
    torch.manual_seed(0)
    up = nn.Linear(3, 1).double()
    down = copy.deepcopy(up)
    x, y = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 1, dtype=DOUBLE)
    start = flat(up.parameters())
    for model, maximize in ((up, True), (down, False)):
        ExactGaussNewton(model.parameters(), damping=1.0, maximize=maximize).step(model, x, y)
    assert torch.allclose(flat(up.parameters()) - start, start - flat(down.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(24, 5)
    y = torch.sin(x[:, :1])
    exact = copy.deepcopy(model).double()
    ExactGaussNewton(exact.parameters(), damping=1e-2).step(exact, x.double(), y.double())
    model = model.to(dtype)
    optimizer = ExactGaussNewton(model.parameters(), damping=1e-2)
    first = optimizer.step(model, x.to(dtype), y.to(dtype))
    error = (flat(model.parameters()).double() - flat(exact.parameters())).norm() / flat(exact.parameters()).norm()
    assert first.dtype == torch.float32
    assert error < (1e-5 if dtype == torch.float32 else 5e-2)


def test_gradients_and_unreached_parameters_stay():
    model, other = nn.Linear(2, 1), nn.Parameter(torch.ones(3))
    model.weight.grad = torch.full((1, 2), 7.0)
    ExactGaussNewton([*model.parameters(), other], weight_decay=0.1).step(model, torch.randn(4, 2), torch.randn(4, 1))
    assert torch.equal(model.weight.grad, torch.full((1, 2), 7.0)) and model.bias.grad is None
    assert torch.equal(other, torch.ones(3))


def test_a_loss_that_is_not_finite_moves_nothing():
    model = nn.Linear(2, 1)
    before = flat(model.parameters())
    loss = ExactGaussNewton(model.parameters()).step(model, torch.full((3, 2), torch.inf), torch.zeros(3, 1))
    assert not torch.isfinite(loss) and torch.equal(flat(model.parameters()), before)


def test_refusals():
    model = nn.Linear(2, 1)
    optimizer = ExactGaussNewton(model.parameters())
    x, y = torch.randn(4, 2), torch.randn(4, 1)
    with pytest.raises(RuntimeError, match=r"step\(model, x, y"):
        optimizer.step()
    with pytest.raises(ValueError, match="loss must be"):
        optimizer.step(model, x, y, loss="hinge")
    with pytest.raises(RuntimeError, match="no parameter"):
        optimizer.step(lambda x: x * 2, x, y)
    with pytest.raises(TypeError, match="floating tensor"):
        optimizer.step(lambda x: (model(x), 1), x, y)
    mixed = Mixed()
    with pytest.raises(ValueError, match="samples see each other"):
        ExactGaussNewton(mixed.parameters(), jacobian="layers").step(mixed, torch.randn(6, 5), torch.randn(6, 3))
    for options, name in (
        ({"damping": 0.0}, "damping"),
        ({"momentum": 1.0}, "momentum"),
        ({"jacobian": "vmap"}, "jacobian"),
    ):
        with pytest.raises(ValueError, match=name):
            ExactGaussNewton(model.parameters(), **options)
    with pytest.raises(RuntimeError, match="complex"):
        ExactGaussNewton([nn.Parameter(torch.ones(2, dtype=torch.complex64))]).step(model, x, y)
