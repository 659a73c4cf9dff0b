"""vendi_score: effective numbers, every q in every route, weights, kernels, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.operators import Dense, LowRank
from resolvent.random import gaussian
from resolvent.spectra import vendi_score
from resolvent.spectra.diversity import internal_diversity

ORDERS = (0, 0.5, 1, 2, 4, math.inf)


def reference(K, q, p):
    s = np.sqrt(np.asarray(p))
    w = np.linalg.eigvalsh(s[:, None] * np.asarray(K) * s)
    w = w[w > 1e-13]
    if q == 1:
        return math.exp(-(w * np.log(w)).sum())
    if q == math.inf:
        return 1 / w.max()
    return (w**q).sum() ** (1 / (1 - q))


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("m", [1, 3, 10])
def test_equal_orthogonal_modes_count_themselves(q, m):
    X = torch.eye(m, 12, dtype=torch.float64).repeat(6, 1)
    K = X @ X.mT
    assert float(vendi_score(X, q, kernel="cosine")) == pytest.approx(m, abs=1e-8)
    assert float(vendi_score(X, q, method="primal", kernel="cosine")) == pytest.approx(m, abs=1e-8)
    assert float(vendi_score(X, q, method="dual", kernel="cosine")) == pytest.approx(m, abs=1e-8)
    assert float(vendi_score(K, q)) == pytest.approx(m, abs=1e-8)
    assert float(vendi_score(Dense(K, positive=True), q)) == pytest.approx(m, abs=1e-8)


@pytest.mark.parametrize("q", ORDERS)
def test_all_routes_honour_q_and_weights(q):
    X = gaussian((40, 7), generator=0)
    Y = X / X.norm(dim=1, keepdim=True)
    K = Y @ Y.mT
    p = torch.linspace(1, 4, 40, dtype=torch.float64)
    for weights in (None, p):
        exact = reference(K, q, np.full(40, 1 / 40) if weights is None else (p / p.sum()).numpy())
        for found in (
            vendi_score(X, q, weights),
            vendi_score(X, q, weights, method="dual"),
            vendi_score(X, q, weights, method="primal"),
            vendi_score(K, q, weights),
            vendi_score(9 * K, q, weights, kernel="precomputed"),
            vendi_score(Dense(K, positive=True), q, weights),
            vendi_score(list(Y), q, weights, kernel=lambda x, y: x @ y),
        ):
            assert float(found) == pytest.approx(exact, rel=1e-9)


def test_duplicates_and_permutations_change_nothing():
    X = gaussian((20, 5), generator=0)
    score = vendi_score(X)
    torch.testing.assert_close(vendi_score(X.repeat(3, 1)), score)
    torch.testing.assert_close(vendi_score(X.flip(0)), score)
    torch.testing.assert_close(vendi_score(X * torch.linspace(1, 9, 20)[:, None]), score)


def test_weights_equal_repetition():
    X = gaussian((6, 5), generator=0)
    times = torch.tensor([1, 2, 3, 1, 1, 4])
    torch.testing.assert_close(vendi_score(X, 1, times.double()), vendi_score(X.repeat_interleave(times, 0)))


def test_mean_similarity_cannot_tell_what_the_score_tells():
    a = torch.arange(200) % 5
    b = (torch.arange(200) // 5) % 5

    def match(x):
        return (x[:, None] == x).double()

    together, apart = (match(a) + match(a)) / 2, (match(a) + match(b)) / 2
    assert float(internal_diversity(together)) == pytest.approx(float(internal_diversity(apart)), abs=1e-12)
    assert float(vendi_score(together)) == pytest.approx(5, abs=1e-8)
    assert float(vendi_score(apart)) == pytest.approx(5 * 2 ** (4 / 5), abs=1e-8)


def test_quadrature_of_a_large_operator():
    X = gaussian((600, 300), generator=0)
    X = X / X.norm(dim=1, keepdim=True)
    K = LowRank(X)
    exact = float(vendi_score(X))
    for q in (1, 2, 0.5):
        found = float(vendi_score(K, q, method="slq", rtol=0.003, generator=0))
        assert found == pytest.approx(float(vendi_score(X, q)), rel=0.03)
    assert float(vendi_score(K)) == pytest.approx(exact, rel=1e-9)
    assert float(vendi_score(X @ X.mT, method="slq", rtol=0.003, generator=0)) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("q", [0.5, 1, 2, 3, math.inf])
def test_gradients(q):
    X = gaussian((5, 3), generator=0).requires_grad_()
    assert gradcheck(lambda X: vendi_score(X, q), X)
    assert gradcheck(lambda X: vendi_score(torch.exp(-torch.cdist(X, X).square()), q, kernel="precomputed"), X)
    p = torch.tensor([1.0, 2, 3, 1, 1], dtype=torch.float64)
    assert gradcheck(lambda X: vendi_score(X, q, p, method="primal"), X)


def test_kinds_and_precision():
    X = gaussian((30, 4), generator=0)
    exact = float(vendi_score(X))
    assert type(vendi_score(X.numpy())) is float and vendi_score(X.numpy()) == pytest.approx(exact)
    single = vendi_score(X.float())
    assert single.dtype == torch.float32 and float(single) == pytest.approx(exact, rel=1e-5)
    assert vendi_score(["a", "a", "b"], kernel=lambda x, y: float(x == y)) == pytest.approx(3 / 2 ** (2 / 3))
    Z = gaussian((10, 3), torch.complex128, generator=0)
    torch.testing.assert_close(vendi_score(Z, method="dual"), vendi_score(Z, method="primal"))


def test_bad_input():
    X = torch.ones(3, 2)
    cases = [
        ({"q": -1}, "q must"),
        ({"q": math.nan}, "q must"),
        ({"method": "magic"}, "method"),
        ({"kernel": "magic"}, "kernel"),
        ({"weights": [1.0, 2.0]}, "weights"),
        ({"weights": [1.0, -1.0, 1.0]}, "nonnegative"),
        ({"method": "slq"}, "dual"),
    ]
    for options, word in cases:
        with pytest.raises(ValueError, match=word):
            vendi_score(X, **options)
    with pytest.raises(ValueError, match="row 1"):
        vendi_score(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="shape"):
        vendi_score(torch.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        vendi_score(torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match="symmetric"):
        vendi_score(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), kernel="precomputed")
    with pytest.raises(ValueError, match="diagonal"):
        vendi_score(torch.zeros(2, 2), kernel="precomputed")
    with pytest.raises(ValueError, match="semidefinite"):
        vendi_score(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="features"):
        vendi_score(torch.eye(2), method="dual")
    with pytest.raises(ValueError, match="sequence"):
        vendi_score([], kernel=lambda x, y: 1.0)
    with pytest.raises(ValueError, match="operator"):
        vendi_score(Dense(torch.eye(2)), kernel="cosine")
    with pytest.raises(ValueError, match="shape"):
        internal_diversity(X)
