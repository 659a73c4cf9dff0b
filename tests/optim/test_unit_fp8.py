import pytest
import torch
from torch import nn

from resolvent.optim import unit


def numbers(exponent_bits, mantissa_bits, top):
    """All positive numbers of a format, from its definition."""
    bias = 2 ** (exponent_bits - 1) - 1
    found = {0.0}
    for e in range(2**exponent_bits):
        for m in range(2**mantissa_bits):
            fraction = m / 2**mantissa_bits
            found.add(fraction * 2.0 ** (1 - bias) if e == 0 else (1 + fraction) * 2.0 ** (e - bias))
    return torch.tensor(sorted(x for x in found if x <= top), dtype=torch.float64)


@pytest.mark.parametrize(("format", "layout"), [("e4m3", (4, 3, 448.0)), ("e5m2", (5, 2, 57344.0))])
def test_rounding_is_to_the_nearest_number_and_saturates(format, layout):
    grid = numbers(*layout)
    assert torch.equal(unit.round_to(grid, format), grid)
    x = torch.cat([10 ** torch.linspace(-7, 6, 4001, dtype=torch.float64), grid[1:-1] + 1e-3 * grid.diff()[1:]])
    rounded = unit.round_to(x, format)
    best = (x.clamp(max=layout[2]).unsqueeze(1) - grid).abs().amin(1)
    assert torch.allclose((rounded - x.clamp(max=layout[2])).abs(), best, rtol=1e-9, atol=0)
    assert torch.isin(rounded, grid).all()
    assert torch.equal(unit.round_to(-x, format), -rounded)
    assert unit.round_to(x.float(), format).dtype == torch.float32


def test_ties_go_to_even():
    halfway = torch.tensor([1.0625, 1.1875, -1.0625])  # between 1, 1.125 and 1.25
    assert unit.round_to(halfway, "e4m3").tolist() == [1.0, 1.25, -1.0]


def test_a_linear_map_multiplies_rounded_numbers():
    torch.manual_seed(0)
    layer, x, g = nn.Linear(20, 10), torch.randn(5, 20, requires_grad=True), torch.randn(5, 10)
    with unit.simulate_fp8(layer):
        y = layer(x)
    y.backward(g)
    w, xs, gs = unit.round_to(layer.weight.detach()), unit.round_to(x.detach()), unit.round_to(g, "e5m2")
    assert torch.allclose(y, xs @ w.T + layer.bias)
    assert torch.allclose(layer.weight.grad, gs.T @ xs)
    assert torch.allclose(x.grad, gs @ w)
    assert torch.allclose(layer.bias.grad, g.sum(0))
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_whole_models_nested_calls_and_failures():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(unit.Linear(4, 4), nn.ReLU(), unit.Readout(4, 2))

        def forward(self, x, fail=False):
            if fail:
                raise RuntimeError("no")
            return self.net(x) + self.net(2 * x)

    model, x = Twice(), torch.randn(3, 4)
    plain = model(x)
    handle = unit.simulate_fp8(model, forward="e5m2")
    coarse = model(x)
    assert 1e-4 < (coarse - plain).norm() / plain.norm() < 0.5
    with pytest.raises(RuntimeError, match="no"):
        model(x, fail=True)
    assert torch.equal(nn.functional.linear(x, model.net[0].weight), x @ model.net[0].weight.T)
    assert torch.equal(model(x), coarse)
    handle.remove()
    assert torch.equal(model(x), plain)


def test_small_gradients_are_lost():
    layer = nn.Linear(3, 2, bias=False)
    with unit.simulate_fp8(layer):
        (1e-6 * layer(torch.ones(1, 3))).sum().backward()
    assert layer.weight.grad.abs().max() == 0


def test_bad_input():
    with pytest.raises(ValueError, match="format must be one of"):
        unit.round_to(torch.ones(2), "e3m4")
    with pytest.raises(ValueError, match="backward must be one of"):
        unit.simulate_fp8(nn.Linear(2, 2), backward="int8")
