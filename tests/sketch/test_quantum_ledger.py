"""quantum_queries and amplified_sample: rates, an independent simulation, the distribution that is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.sketch import amplified_sample, coreset, quantum_queries


def grover(w, t):
    """Amplitude amplification by explicit matrices: steps to the first peak of the flag's probability."""
    n, limit = len(w), w.sum() / t
    prefer = np.maximum(w, limit)
    start = np.zeros(2 * n)
    start[:n] = np.sqrt(prefer / prefer.sum() * (1 - np.minimum(w / limit, 1)))
    start[n:] = np.sqrt(prefer / prefer.sum() * np.minimum(w / limit, 1))
    flip = np.diag(np.r_[np.ones(n), -np.ones(n)])
    step = (2 * np.outer(start, start) - np.eye(2 * n)) @ flip
    state, calls = start, 0
    while ((step @ state)[n:] ** 2).sum() > (state[n:] ** 2).sum():
        state, calls = step @ state, calls + 1
    return calls, state


@pytest.mark.parametrize("t", [1, 2, 5, 16])
def test_against_explicit_matrices(t):
    w = -np.log(np.random.default_rng(0).random(200))
    calls, state = grover(w, t)
    found = amplified_sample(w, t)
    assert abs(found.calls - calls) <= 1
    assert found.success == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.distribution, w / w.sum(), atol=1e-12)
    # What the flag marks has the right distribution after any number of steps.
    marked = state[200:] ** 2
    np.testing.assert_allclose(marked / marked.sum(), w / w.sum(), atol=1e-12)
    assert found.calls == pytest.approx(math.pi / 4 * math.sqrt(200 / t), abs=1)


def test_a_wrong_total_costs_little():
    w = torch.rand(256, dtype=torch.float64) ** -1.5
    for total in (0.9, 1.1):
        found = amplified_sample(w, 4, total * float(w.sum()))
        assert float((found.distribution - w / w.sum()).abs().sum()) / 2 < 0.02
        assert 0.97 < float(found.success) < 1


def test_all_of_one_point_and_single_precision():
    w = torch.zeros(64)
    w[3] = 2
    assert float(amplified_sample(w, 1).distribution[3]) == pytest.approx(1)
    assert amplified_sample(torch.ones(8), 8).calls == 0


def test_rates():
    base = quantum_queries(2**16, 8, 4, 0.1)
    for more, quantum, classical in (
        (quantum_queries(2**18, 8, 4, 0.1), 2, 4),
        (quantum_queries(2**16, 32, 4, 0.1), 2, 4),
        (quantum_queries(2**16, 8, 16, 0.1), 8, 1),
    ):
        assert more.quantum / base.quantum == pytest.approx(quantum, rel=0.35)
        assert more.classical / base.classical == pytest.approx(classical, rel=0.1)
    assert base.quantum == pytest.approx(sum(c.quantum for c in base.charges))
    assert base.lower_bound == math.sqrt(2**16 * 8) < base.quantum < base.classical


def test_ledger_of_a_run():
    X = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    found, info, ledger = coreset(X, 4, size=100, generator=0, return_info=True, return_ledger=True)
    assert len(found.points) <= 104
    assert ledger.charges[-1].step == "points of the coreset"
    assert ledger.charges[-1].quantum == pytest.approx(0.75 * math.pi * math.sqrt(3000 * 100))
    assert info.method == "sensitivity"


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: quantum_queries(0, 1, 1, 0.1), "n must be"),
        (lambda: quantum_queries(10, 1, 1, 2.0), "eps"),
        (lambda: amplified_sample(torch.ones(4), 5), "t must be"),
        (lambda: amplified_sample(-torch.ones(4), 1), "nonnegative"),
        (lambda: amplified_sample(torch.ones(4), 1, 0.0), "total"),
        (lambda: amplified_sample(torch.ones(2, 2), 1), "vector"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call()
