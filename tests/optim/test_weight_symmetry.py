"""perm_spec and basis_terms: the function stays, the dimension of the commutant, what is refused."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from torch import nn
from torch.func import functional_call

from resolvent.optim import PermSpec, basis_terms, perm_spec, permute_weights
from resolvent.optim.weight_symmetry import random_permutations

F64 = torch.float64


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(8, 5), nn.Linear(5, 8), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        h = self.a(x)
        h = h + self.c(torch.relu(self.b(self.norm(h))))
        return self.d(h)


class Recurrent(nn.Module):
    def __init__(self, kind, **kw):
        super().__init__()
        self.r = kind(4, 6, 2, batch_first=True, **kw)
        self.o = nn.Linear(12 if kw else 6, 3)

    def forward(self, x):
        return self.o(self.r(x)[0][:, -1])


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.g, self.o = nn.LSTMCell(4, 6), nn.GRUCell(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        state = h = None
        for t in range(3):
            state = self.c(x[:, t], state)
            h = self.g(state[0], h)
        return self.o(h)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.pos = nn.Embedding(11, 12), nn.Parameter(torch.randn(1, 6, 12))
        self.qkv, self.p, self.o = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        h = self.e(x) + self.pos
        n, length, width = h.shape
        q, k, v = (z.view(n, length, 3, 4).transpose(1, 2) for z in self.qkv(h).chunk(3, -1))
        a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        return self.o((h + self.p(a.reshape(n, length, width))).mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
        self.e, self.t, self.o = (
            nn.Embedding(11, 12),
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(12, 11),
        )

    def forward(self, x):
        return self.o(self.t(self.e(x)))


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 6, 3), nn.GroupNorm(2, 6), nn.SiLU(), nn.Flatten(), nn.Linear(6 * 9, 10)),
    )


SEQUENCE, TOKENS = torch.randn(2, 5, 4, dtype=F64), torch.randint(0, 11, (2, 6))
MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), 2),
    "conv": (convolutional, 3),
    "residual": (Residual, 2),
    "rnn": (lambda: Recurrent(nn.RNN), 2),
    "lstm": (lambda: Recurrent(nn.LSTM), 2),
    "gru": (lambda: Recurrent(nn.GRU, bidirectional=True), 2),
    "cells": (Cells, 2),
    "attention": (Attention, 3),
    "encoder": (Encoder, 7),
}
EXAMPLES = {"mlp": torch.randn(4, 5, dtype=F64), "conv": torch.randn(2, 3, 14, 14, dtype=F64), "cells": SEQUENCE}
EXAMPLES |= {"residual": torch.randn(4, 4, dtype=F64), "attention": TOKENS, "encoder": TOKENS}


@pytest.mark.parametrize("kind", MODELS)
def test_the_function_stays_and_the_weights_do_not(kind):
    make, free = MODELS[kind]
    model = make().double().eval()
    x = EXAMPLES.get(kind, SEQUENCE)
    spec = perm_spec(model, x)
    assert len(spec.free) == free
    # fresh values in every weight: initial zeros and ones hide what moves
    weights = {name: torch.randn_like(p) / 2 for name, p in model.named_parameters()}
    moved = permute_weights(weights, spec, random_permutations(weights, spec, 0))
    assert sum(bool((moved[n] != weights[n]).any()) for n in weights) >= len(weights) / 2
    torch.testing.assert_close(functional_call(model, moved, x), functional_call(model, weights, x))


def test_known_specifications():
    assert perm_spec(nn.RNN(3, 5))["weight_hh_l0"] == (0, 0)
    lstm = perm_spec(nn.LSTM(3, 5))
    assert lstm.shapes["weight_hh_l0"] == (4, 5, 5) and lstm["weight_hh_l0"][0] in lstm.fixed
    tied = perm_spec(Residual())
    assert tied["a.weight"][0] == tied["c.weight"][0] == tied["norm.weight"][0] == tied["d.weight"][1]
    flat = perm_spec(nn.Sequential(nn.Conv1d(1, 4, 2), nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 1, 4))
    assert flat.shapes["2.weight"] == (2, 4, 3) and flat["2.weight"][1] == flat["0.weight"][0]


def test_the_model_is_left_as_it_was():
    model = convolutional()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    perm_spec(model, torch.randn(2, 3, 14, 14))
    assert model.training
    assert all(bool((before[k] == v).all()) for k, v in model.state_dict().items())


SPECS = [
    ((0, 1), (0, 1)),
    ((0, 0), (0, 0)),
    ((0,), (0, 0)),
    ((0, 1), (1,)),
    ((0,), (1,)),
    ((0, 1, 0), (1, 0)),
    ((), (0, 0)),
]


@pytest.mark.parametrize(("out", "inp"), SPECS)
def test_terms_span_the_commutant(out, inp):
    """The dimension of the maps that commute with a group is the mean of the product of the characters."""
    n = 5
    ids = sorted({*out, *inp})
    points = [len([k for k, place in enumerate(p) if k == place]) for p in permutations(range(n))]
    total = 0
    for fixed in product(points, repeat=len(ids)):
        value = 1
        for i in (*out, *inp):
            value *= fixed[ids.index(i)]
        total += value
    assert len(basis_terms(out, inp)) == total // len(points) ** len(ids)


def test_counts_of_the_paper():
    assert [len(basis_terms(o, i)) for o, i in SPECS[:2]] == [4, 15]
    assert len(basis_terms((0, 1), (2, 3))) == 1
    assert len(basis_terms((0, 1, 2, 3), (0, 1, 2, 3))) == 16


def test_bad_input():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(torch.fft.fft(self.a(x)).real)

    with pytest.raises(ValueError, match="fft"):
        perm_spec(Sorted())
    assert perm_spec(Sorted(), unknown="fix").free == set()
    with pytest.raises(ValueError, match="example"):
        perm_spec(nn.Conv2d(1, 2, 3))
    with pytest.raises(TypeError, match="model"):
        perm_spec(nn.Linear)
    with pytest.raises(ValueError, match="no parameters"):
        perm_spec(nn.ReLU())
    with pytest.raises(ValueError, match="unknown"):
        perm_spec(nn.Linear(2, 2), unknown="skip")
    with pytest.raises(ValueError, match="axes"):
        PermSpec({})
    with pytest.raises(ValueError, match="length"):
        PermSpec({"W": (0, 0)}).sizes({"W": torch.ones(2, 3)})
