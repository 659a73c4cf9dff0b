import math

import pytest
import torch
from torch import nn

from resolvent.optim import spectral_groups, spectral_init_, spectral_report


def net(width, bias=True):
    layers = (nn.Linear(5, width, bias), nn.ReLU(), nn.Linear(width, width, bias), nn.ReLU(), nn.Linear(width, 2, bias))
    return nn.Sequential(*layers)


def exponent(quantity, small, large, ratio):
    return round(math.log(quantity(large) / quantity(small)) / math.log(ratio), 10)


# The table of the maximal update parametrisation: input, hidden, readout and bias; exponents of the width.
STD = {"0.weight": 0.0, "2.weight": -0.5, "4.weight": -1.0}
RATES = {
    "sgd": {"0.weight": 1.0, "2.weight": 0.0, "4.weight": -1.0, "0.bias": 1.0, "2.bias": 1.0, "4.bias": 0.0},
    "adam": {"0.weight": 0.0, "2.weight": -1.0, "4.weight": -1.0, "0.bias": 0.0, "2.bias": 0.0, "4.bias": 0.0},
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("base", [None, 32])
def test_rates_are_the_table_of_the_maximal_update(optimizer, base):
    def rate(name):
        def of(n):
            found = {k: g["lr"] for g in spectral_groups(net(n), 0.5, optimizer, base) for k in g["names"]}
            return found[name]

        return of

    for name, expected in RATES[optimizer].items():
        assert exponent(rate(name), 32, 256, 8) == expected
        if base is not None:
            assert rate(name)(base) == 0.5


@pytest.mark.parametrize("activation", [None, "relu"])
def test_standard_deviations_are_the_table_of_the_maximal_update(activation):
    def std(name):
        return lambda n: spectral_init_(net(n), 1.0, activation, generator=0).get_parameter(name).std().item()

    gain = 1.0 if activation is None else 2**0.5
    for name, expected in STD.items():
        assert math.log(std(name)(2048) / std(name)(128)) / math.log(16) == pytest.approx(expected, abs=0.05)
    assert std("0.weight")(512) == pytest.approx(5**-0.5, rel=0.05)
    assert std("2.weight")(512) == pytest.approx(gain * 512**-0.5, rel=0.05)
    assert std("4.weight")(512) == pytest.approx(gain * 512**-0.5 * (2 / 512) ** 0.5, rel=0.05)


def test_spectral_norms_have_the_order_of_the_target():
    for n in (32, 256):
        for row in spectral_report(spectral_init_(net(n, False), generator=0)):
            assert 0.9 < row.weight < 2.6


@pytest.mark.parametrize("layer", [nn.Linear(30, 20), nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(3, 8, 3)])
def test_orthogonal_weights_meet_the_target_exactly(layer):
    spectral_init_(layer, sigma=0.7, orthogonal=True, generator=0)
    w = layer.weight.detach()
    matrix = w.transpose(0, 1).flatten(1) if isinstance(layer, nn.ConvTranspose2d) else w.flatten(1)
    target = 0.7 * (matrix.shape[0] / matrix.shape[1]) ** 0.5
    assert torch.allclose(torch.linalg.svdvals(matrix), torch.tensor(target), rtol=1e-5)
    assert layer.bias.abs().max() == 0
    assert spectral_report(layer)[0].weight == pytest.approx(0.7, rel=1e-3)


def test_embeddings_and_gains():
    model = nn.Sequential(nn.Embedding(1000, 64), nn.LayerNorm(64), nn.Linear(64, 1000))
    spectral_init_(model, sigma=2.0, generator=0)
    assert model[0].weight.std().item() == pytest.approx(2.0, rel=0.02)
    assert torch.equal(model[1].weight, torch.ones(64))
    factors = {k: g["lr"] for g in spectral_groups(model, 1.0, "sgd") for k in g["names"]}
    assert factors["0.weight"] == factors["1.weight"] == 64
    assert factors["2.weight"] == 1000 / 64


def test_same_seed_same_weights_and_an_override():
    one, two = (spectral_init_(net(8), generator=5) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    found = {k: g["lr"] for g in spectral_groups(net(8), 1.0, "adam", override={"4.*": "vector"}) for k in g["names"]}
    assert found["4.weight"] == 1.0 and found["2.weight"] == 1 / 8


def test_a_report_measures_updates_and_changes():
    model, x = net(16, False), torch.randn(10, 5)
    updates = {name: 0.01 * torch.randn_like(p) for name, p in model.named_parameters()}
    rows = spectral_report(model, updates, x)
    moved = net(16, False)
    moved.load_state_dict({k: p + updates[k] for k, p in model.state_dict().items()})
    for row, i in zip(rows, (1, 3, 5), strict=True):
        h, new = model[:i](x), moved[:i](x)
        assert row.change == pytest.approx(((new - h).norm() / h.norm()).item(), rel=1e-4)
        exact = torch.linalg.matrix_norm(updates[row.name], 2).item()
        assert row.update == pytest.approx(exact / (row.n_out / row.n_in) ** 0.5, rel=2e-3)


def test_a_report_of_gradients_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(8, 1, 4, 4)
    model(x).square().sum().backward()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    report = spectral_report(model, inputs=(x,))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [row.role for row in report] == ["input", "vector", "vector", "vector", "readout", "vector"]
    assert all(row.update > 0 and row.change > 0 for row in report if row.role == "readout")
    assert len(str(report).splitlines()) == 7
    with pytest.raises(ValueError, match="no parameter"):
        spectral_report(model, {"weight": torch.ones(1)})
    with pytest.raises(ValueError, match="shape"):
        spectral_report(model, {"0.bias": torch.ones(1)})


def test_bad_input():
    with pytest.raises(ValueError, match="sigma"):
        spectral_init_(net(4), -1.0)
    with pytest.raises(ValueError, match="optimizer"):
        spectral_groups(net(4), 0.1, "shampoo")
    with pytest.raises(ValueError, match="lr"):
        spectral_groups(net(4), 0.0)
    with pytest.raises(ValueError, match="base_width"):
        spectral_groups(net(4), 0.1, base_width=0)
