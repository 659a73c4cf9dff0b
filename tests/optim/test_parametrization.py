import itertools
import math

import pytest
import torch
from torch import nn

from resolvent.optim import abc_exponents, apply_abc, classify_parametrization, mup_groups

# The table of the paper: stable and not trivial, the regime, and r for two and more hidden layers.
TABLE = {"sp": ("kernel", 0.5), "ntk": ("kernel", 0.5), "mup": ("features", 0.0)}


def net(width, layers=2, inputs=3, outputs=2, bias=True):
    sizes = [inputs, *[width] * layers, outputs]
    linear = [nn.Linear(n, m, bias) for n, m in itertools.pairwise(sizes)]
    parts = [x for layer in linear for x in (layer, nn.Tanh())]
    return nn.Sequential(*parts[:-1]).double()


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("layers", [2, 3, 5])
def test_known_parametrizations_are_what_the_table_says(name, layers):
    found = classify_parametrization(*abc_exponents(name, layers))
    regime, r = TABLE[name]
    assert found.stable and not found.trivial
    assert (found.feature_learning, found.kernel) == (regime == "features", regime == "kernel")
    assert found.r == r


def test_one_hidden_layer():
    mean_field, mup = (classify_parametrization(*abc_exponents(name, 1)) for name in ("mf", "mup"))
    assert mean_field == mup
    assert mean_field.feature_learning and mean_field.r == 0
    assert classify_parametrization(*abc_exponents("ntk", 1)).r == 0.5


@pytest.mark.parametrize("name", ["sp", "ntk", "mup"])
@pytest.mark.parametrize("shift", [-0.5, 0.25, 1.0])
def test_the_shift_of_exponents_changes_nothing(name, shift):
    a, b, c = abc_exponents(name, 3)
    moved = classify_parametrization([x + shift for x in a], [x - shift for x in b], c - 2 * shift)
    assert moved == classify_parametrization(a, b, c)


def test_mean_field_is_the_maximal_update_up_to_a_shift():
    mf, mup = abc_exponents("mf", 1), abc_exponents("mup", 1)
    shift = mf.a[0] - mup.a[0]
    assert [x + shift for x in mup.a] == list(mf.a)
    assert [x - shift for x in mup.b] == list(mf.b)
    assert mup.c - 2 * shift == mf.c


@pytest.mark.parametrize(
    ("change", "stable", "trivial"),
    [({"c": -1.0}, False, False), ({"c": 1.0}, True, True), ({"a": (0.5, 0.5, 0.5)}, False, False)],
)
def test_what_leaves_the_maximal_update(change, stable, trivial):
    found = classify_parametrization(**{**abc_exponents("mup", 2)._asdict(), **change})
    assert found.stable == stable
    assert not found.feature_learning
    if stable:
        assert found.trivial == trivial


@pytest.mark.parametrize("name", ["sp", "ntk", "mup"])
def test_the_model_has_the_exponents(name):
    n = 256
    model = net(n)
    a, b, c = abc_exponents(name, 2)
    group = apply_abc(model, a, b, c, n, lr=0.3, generator=0)[0]
    assert group["lr"] == pytest.approx(0.3 * n**-c)
    for layer, power, spread, fan in zip(model[::2], a, b, (1 / 3, 1, 1), strict=True):
        stored = layer.parametrizations.weight.original if power else layer.weight
        assert stored.std().item() == pytest.approx(n**-spread * fan**0.5, rel=0.2)
        assert torch.allclose(layer.weight, stored * n**-power)
        assert layer.bias.abs().max() == 0


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_shifted_exponents_train_alike(shift):
    a, b, c = abc_exponents("mup", 2)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = []
    for s in (0.0, shift):
        model = net(32, bias=False)
        groups = apply_abc(model, [v + s for v in a], [v - s for v in b], c - 2 * s, 32, lr=0.1, generator=0)
        optimizer = torch.optim.SGD(groups, lr=1.0)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        outputs.append(model(x).detach())
    assert torch.allclose(*outputs, rtol=1e-10)


def feature_change(name, n, generator):
    model = net(n)
    groups = apply_abc(model, *abc_exponents(name, 2), n, lr=0.1, generator=generator)
    g = torch.Generator().manual_seed(2)
    x, y = (torch.randn(8, k, dtype=torch.float64, generator=g) for k in (3, 2))
    optimizer = torch.optim.SGD(groups, lr=1.0)
    before = model[:-1](x).detach()
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return (model[:-1](x).detach() - before).square().mean().sqrt().item()


@pytest.mark.parametrize("name", ["ntk", "mup"])
def test_features_move_with_the_predicted_exponent(name):
    small, large = (sum(feature_change(name, n, seed) for seed in range(3)) for n in (64, 1024))
    slope = math.log(large / small) / math.log(16)
    assert slope == pytest.approx(-TABLE[name][1], abs=0.1)


def test_embeddings_and_any_number_of_hidden_matrices():
    model = nn.Sequential(nn.Embedding(7, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 7))
    apply_abc(model, *abc_exponents("mup", 2), width=16, generator=0)
    assert model[0].weight.std().item() == pytest.approx(1.0, abs=0.2)
    assert torch.equal(model[2].weight, torch.ones(16))
    assert model(torch.tensor([1, 2])).shape == (2, 7)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_groups_train_as_the_mup_package_does(optimizer):
    mup = pytest.importorskip("mup")

    def theirs(n):
        return nn.Sequential(nn.Linear(4, n), nn.Tanh(), nn.Linear(n, n), nn.Tanh(), mup.MuReadout(n, 2)).double()

    torch.manual_seed(0)
    peer = mup.set_base_shapes(theirs(64), theirs(16), delta=theirs(32))
    with torch.no_grad():
        peer[-1].weight.normal_()
    ours = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)).double()
    state = peer.state_dict()
    state["4.weight"] = state["4.weight"] / 4  # what the readout's multiplier does
    ours.load_state_dict(state)
    base = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)).to("meta")
    if optimizer == "adam":
        steps = [mup.MuAdam(peer.parameters(), lr=0.01, eps=1e-30)]
        steps.append(torch.optim.Adam(mup_groups(ours, 0.01, base, "adam"), eps=1e-30))
    else:
        steps = [mup.MuSGD(peer.parameters(), lr=0.1), torch.optim.SGD(mup_groups(ours, 0.1, base, "sgd"))]
    x = torch.randn(6, 4, dtype=torch.float64)
    before = ours(x).detach()
    for _ in range(4):
        for model, step in zip((peer, ours), steps, strict=True):
            step.zero_grad()
            (model(x) - 1).square().mean().backward()
            step.step()
    assert torch.allclose(peer(x), ours(x), rtol=1e-9)
    assert (ours(x) - before).norm() > 0.01 * before.norm()


def test_weight_decay_of_a_step_is_the_same_for_all_groups():
    groups = mup_groups(net(64), 0.1, net(16), weight_decay=0.01)
    decays = {round(g["lr"] * g["weight_decay"], 12) for g in groups if g["role"] != "vector"}
    assert decays == {0.001}
    assert [g["weight_decay"] for g in groups if g["role"] == "vector"] == [0.0]


def test_bad_input():
    with pytest.raises(ValueError, match="name must be"):
        abc_exponents("np", 2)
    with pytest.raises(ValueError, match="one hidden layer"):
        abc_exponents("mf", 2)
    with pytest.raises(ValueError, match="layers must be"):
        abc_exponents("sp", 0)
    with pytest.raises(ValueError, match="length"):
        classify_parametrization([0, 0], [0, 0, 0], 1)
    with pytest.raises(ValueError, match="finite"):
        classify_parametrization([0, math.nan], [0, 0], 1)
    with pytest.raises(ValueError, match="2 hidden matrices, and the model has 1"):
        apply_abc(net(8), (0, 0.5, 0.4, 0.5), (0, 0, 0, 0), 0, 8)
    model = net(8)
    apply_abc(model, *abc_exponents("mup", 2), 8)
    with pytest.raises(ValueError, match="already parametrised"):
        apply_abc(model, *abc_exponents("mup", 2), 8)
    tied = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8, False), nn.Linear(8, 8, False))
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match="shared"):
        apply_abc(tied, *abc_exponents("mup", 2), 8)
    with pytest.raises(ValueError, match="only one of them"):
        mup_groups(net(8), 0.1, net(4, bias=False))
    with pytest.raises(ValueError, match="optimizer"):
        mup_groups(net(8), 0.1, net(4), "muon")
