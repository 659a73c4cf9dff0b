"""UNFLayer and EquivariantWeightNet: equivariance, the terms one by one, invariance, gradients, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from resolvent.optim import EquivariantWeightNet, PermSpec, UNFLayer, basis_terms, perm_spec, permute_weights
from resolvent.optim.weight_symmetry import random_permutations

SPEC = {"W": (0, 0), "U": (0, 1), "b": (0,), "s": ()}
SHAPES = {"W": (5, 5), "U": (5, 3), "b": (5,), "s": ()}


def moved(features, spec, perms):
    """Every sample and channel permuted as a weight."""
    out = {}
    for name, ids in spec.items():
        x = features[name].movedim(0, -1)
        for dim, i in enumerate(ids):
            x = x.index_select(dim, perms[i]) if i in perms else x
        out[name] = x.movedim(-1, 0)
    return out


def test_equivariance():
    layer = UNFLayer(2, 3, SPEC, generator=0).double()
    for bias in layer.bias:
        nn.init.normal_(bias)
    x = {n: torch.randn(4, *s, 2, dtype=torch.float64) for n, s in SHAPES.items()}
    perms = {0: torch.randperm(5), 1: torch.randperm(3)}
    left, right = layer(moved(x, SPEC, perms)), moved(layer(x), SPEC, perms)
    for name, shape in SHAPES.items():
        assert left[name].shape == (4, *shape, 3)
        torch.testing.assert_close(left[name], right[name])


def dense(term, n, out_ids, in_ids):
    """A term as a full matrix: y[out] = mean of x over all places that its blocks allow."""
    blocks = sorted({*term.out, *term.inp})
    sizes = {b: n[(*out_ids, *in_ids)[(*term.out, *term.inp).index(b)]] for b in blocks}
    M = torch.zeros([n[i] for i in (*out_ids, *in_ids)], dtype=torch.float64)
    weight = 1.0
    for b in set(term.inp) - set(term.out):
        weight /= sizes[b]
    for values in torch.cartesian_prod(*[torch.arange(sizes[b]) for b in blocks]).reshape(-1, len(blocks)).tolist():
        at = dict(zip(blocks, values, strict=True))
        M[tuple(at[b] for b in (*term.out, *term.inp))] += weight
    return M


@pytest.mark.parametrize(("out", "inp"), [((0, 0), (0, 0)), ((0, 1), (1, 0)), ((0, 0, 1), (1, 0)), ((0,), (1, 1))])
def test_each_term_is_the_map_that_its_blocks_say(out, inp):
    """The layer against its terms as full matrices, and these are independent of each other."""
    n = {0: 4, 1: 4}
    spec = {"y": out, "x": inp}
    layer = UNFLayer(1, 1, spec, generator=0).double()
    x = torch.randn([n[i] for i in inp], dtype=torch.float64)
    y = torch.zeros([n[i] for i in out], dtype=torch.float64)
    found = layer({"y": y[..., None], "x": x[..., None]})["y"][..., 0]
    terms, first = basis_terms(out, inp), len(basis_terms(out, out))
    matrices = torch.stack([dense(t, n, out, inp) for t in terms])
    want = torch.einsum("t,t...->...", layer.theta[0][first:, 0, 0], matrices.flatten(len(out) + 1) @ x.flatten())
    torch.testing.assert_close(found, want)
    assert torch.linalg.matrix_rank(matrices.flatten(1)) == len(terms)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(8, 5), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.a(x)
        return self.d(h + self.c(torch.relu(self.b(h))))


MODELS = {
    "mlp": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
    "lstm": nn.LSTM(4, 6),
    "residual": Residual(),
}


@pytest.mark.parametrize("kind", MODELS)
def test_networks_on_models(kind):
    model = MODELS[kind]
    spec = perm_spec(model)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    perms = random_permutations(weights, spec, 0)
    there = permute_weights(weights, spec, perms)
    value = EquivariantWeightNet(spec, 8, 2, out=2, generator=0)
    assert value(weights).shape == (2,)
    torch.testing.assert_close(value(there), value(weights), rtol=1e-4, atol=1e-5)
    field = EquivariantWeightNet(spec, 8, 2, invariant=False, generator=0)
    out = {n: y[..., 0] for n, y in field(weights).items()}
    want = permute_weights(out, spec, perms)
    for n, y in field(there).items():
        torch.testing.assert_close(y[..., 0], want[n], rtol=1e-4, atol=1e-5)


def test_positions_tell_fixed_axes_apart():
    spec = perm_spec(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    weights = {
        n: torch.randn(s) for n, s in (("0.weight", (8, 4)), ("0.bias", (8,)), ("2.weight", (3, 8)), ("2.bias", (3,)))
    }
    swapped = {**weights, "0.weight": weights["0.weight"].flip(1)}
    with_codes, without = (EquivariantWeightNet(spec, 8, 2, positions=p, generator=0) for p in (True, False))
    torch.testing.assert_close(without(weights), without(swapped))
    assert float((with_codes(weights) - with_codes(swapped)).detach().abs()) > 1e-4


def test_many_networks_at_once():
    net = EquivariantWeightNet(SPEC, 8, 2, generator=0)
    x = {n: torch.randn(2, 7, *s) for n, s in SHAPES.items()}
    together = net(x)
    assert together.shape == (2, 7, 1)
    torch.testing.assert_close(together[1, 3], net({n: w[1, 3] for n, w in x.items()}))


def test_gradients():
    layer = UNFLayer(1, 1, {"W": (0, 0), "b": (0,)}, generator=0).double()
    W, b = torch.randn(3, 3, 1, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    inputs = (W.requires_grad_(), b.requires_grad_(), *layer.parameters())

    def call(W, b, *theta):
        names = [n for n, _ in layer.named_parameters()]
        out = torch.func.functional_call(layer, dict(zip(names, theta, strict=True)), ({"W": W, "b": b},))
        return out["W"], out["b"]

    assert gradcheck(call, inputs)


def test_initial_scale():
    layer = UNFLayer(16, 64, {"W": (0, 0)}, generator=0)
    assert float(layer.theta[0].detach().std()) == pytest.approx((16 * 15) ** -0.5, rel=0.02)


def test_bad_input():
    layer = UNFLayer(2, 3, {"W": (0, 1), "b": (0,)})
    with pytest.raises(ValueError, match="c_out"):
        UNFLayer(1, 0, {"W": (0,)})
    with pytest.raises(ValueError, match="missing"):
        layer({"W": torch.ones(3, 2, 2)})
    with pytest.raises(ValueError, match="channels"):
        layer({"W": torch.ones(3, 2, 2), "b": torch.ones(3, 1)})
    with pytest.raises(ValueError, match="batch"):
        layer({"W": torch.ones(5, 3, 2, 2), "b": torch.ones(3, 2)})
    with pytest.raises(ValueError, match="depth"):
        EquivariantWeightNet({"W": (0,)}, depth=0)
    with pytest.raises(ValueError, match="sizes"):
        EquivariantWeightNet(PermSpec({"W": (0, 1)}, fixed={1}))
