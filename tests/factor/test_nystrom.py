"""nystrom and generalized_nystrom: errors against theory, the law of thinned pivots, positivity, float32, gradients."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.factor import generalized_nystrom, nystrom
from resolvent.factor.nystrom import accepted
from resolvent.operators import LowRank, MatrixFree
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, geometric, tail, with_values = (_CASE[name] for name in ("error", "geometric", "tail", "with_values"))


def positive(n, w, seed=0, dtype=torch.float64):
    Q = torch.linalg.qr(gaussian((n, len(w)), dtype, generator=seed)).Q
    A = (Q * w.to(Q.real.dtype)) @ Q.mH
    return (A + A.mH) / 2


@pytest.mark.parametrize("method", ["products", "rpcholesky", "greedy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_exact_rank(method, dtype):
    A = positive(50, torch.linspace(1, 3, 6), dtype=dtype)
    found = nystrom(A, 6, method=method, generator=0)
    assert isinstance(found, LowRank) and found.positive and found.s.shape == (6,)
    assert error(A, found.to_dense()) < 200 * torch.finfo(dtype).eps
    gram = found.U.mH @ found.U
    assert float((gram - torch.eye(6)).abs().max()) < 50 * torch.finfo(dtype).eps


def test_products_are_within_the_bound_of_the_paper():
    # Theorem 4.1 there: E |A - A_nys|_* <= (1 + k / (p - 1)) sum of the eigenvalues beyond k, for k + p columns.
    w, k, p = geometric(40), 8, 6
    A = positive(60, w)
    gaps = [float((A - nystrom(A, k + p, oversample=0, generator=seed).to_dense()).trace()) for seed in range(200)]
    assert float(np.mean(gaps)) <= (1 + k / (p - 1)) * float(w[k:].sum())
    assert min(gaps) >= float(w[k + p :].sum()) - 1e-12


@pytest.mark.parametrize("method", ["products", "rpcholesky", "greedy"])
def test_the_error_is_positive_and_its_trace_measured(method):
    w = torch.arange(1.0, 81).double() ** -2
    A = positive(80, w)
    found, info = nystrom(A, 15, method=method, generator=0, return_info=True)
    rest = A - found.to_dense()
    assert float(torch.linalg.eigvalsh(rest)[0]) > -1e-14
    assert info.error == pytest.approx(float(rest.trace() / A.trace()), rel=1e-8)
    assert info.error >= float(w[15:].sum() / w.sum())


@pytest.mark.parametrize("method", ["products", "rpcholesky", "greedy"])
@pytest.mark.parametrize("rtol", [0.1, 1e-3, 1e-8])
def test_tolerance(method, rtol):
    w = geometric(120, 0.85)
    A = positive(120, w)
    found, info = nystrom(A, rtol=rtol, method=method, generator=0, return_info=True)
    assert float((A - found.to_dense()).trace() / A.trace()) <= rtol * (1 + 1e-6)
    needed = sum(float(w[k:].sum() / w.sum()) > rtol for k in range(120))
    assert needed <= len(found.s) <= 2 * needed + 5 and info.converged


def test_tolerance_without_a_trace():
    A = positive(120, geometric(120, 0.8))
    free = MatrixFree(A.shape, lambda X: A @ X, dtype=A.dtype, hermitian=True)
    for seed in range(50):
        found = nystrom(free, rtol=1e-2, generator=seed)
        assert float((A - found.to_dense()).trace() / A.trace()) <= 1e-2
    with pytest.raises(TypeError, match="diagonal"):
        nystrom(free, 4, method="rpcholesky")


def test_thinned_pivots_have_the_law_of_pivots_drawn_one_by_one():
    A = torch.tensor([[4.0, 3.0, 0.0], [3.0, 3.0, 0.5], [0.0, 0.5, 2.0]], dtype=torch.float64)
    d = A.diagonal() / A.trace()
    expected = torch.zeros(3, 3)
    for i in range(3):
        rest = (A.diagonal() - A[:, i] ** 2 / A[i, i]).clamp_min(0)
        expected[i] = d[i] * rest / rest.sum()
    counts, runs = torch.zeros(3, 3), 20_000
    rng = np.random.default_rng(0)
    draws = rng.choice(3, (runs, 12), p=d.numpy())
    for row, chances in zip(draws, rng.random((runs, 12)), strict=True):
        block = A[np.ix_(row, row)].numpy().copy()
        kept = accepted(block, A.diagonal()[row].numpy(), chances, 2)
        if len(kept) == 2:
            counts[row[kept[0]], row[kept[1]]] += 1
    # 12 draws nearly always hold two pivots; four standard deviations of a frequency.
    assert float(counts.sum()) > 0.98 * runs
    frequency = counts / counts.sum()
    assert bool(((frequency - expected).abs() < 4 * (expected * (1 - expected) / runs).sqrt() + 0.006).all())


def test_pivots_are_columns():
    A = torch.diag(torch.tensor([5.0, 0.0, 3.0, 1.0]))
    found = nystrom(A, 2, method="greedy")
    torch.testing.assert_close(found.to_dense(), torch.diag(torch.tensor([5.0, 0.0, 3.0, 0.0])))
    assert error(A, nystrom(A, 4, method="rpcholesky", generator=0).to_dense()) < 1e-6
    with pytest.raises(ConvergenceError) as caught:
        nystrom(A, rtol=1e-3, max_rank=1, method="greedy")
    assert caught.value.error == pytest.approx(4 / 9)


def test_gradients():
    A = positive(5, torch.linspace(1, 4, 5)).requires_grad_()

    def symmetric(method):
        def value(A):
            return nystrom((A + A.mT) / 2, 2, method=method, oversample=1, generator=0).to_dense()

        return value

    for method in ("products", "rpcholesky", "greedy"):
        assert gradcheck(symmetric(method), A, atol=1e-5)


def test_generalized():
    s = geometric(60)
    A = with_values(100, 80, s)
    best = tail(s, 20)
    # The expectation of the paper's analysis with p = 10 extra columns: a product of two such factors.
    errors = [error(A, generalized_nystrom(A, 30, generator=seed).to_dense()) for seed in range(200)]
    assert float(np.mean(np.square(errors))) ** 0.5 <= (1 + 30 / 14) ** 0.5 * (1 + 20 / 9) ** 0.5 * best
    low = with_values(50, 40, torch.linspace(1, 2, 4), dtype=torch.float32)
    found = generalized_nystrom(low, 9, generator=0)
    assert error(low, found.to_dense()) < 1e-4 and found.dtype == torch.float32
    assert generalized_nystrom(gaussian((3, 10, 8), generator=0), 4).shape == (3, 10, 8)
    assert generalized_nystrom(A.numpy(), 4).kind == "numpy"
    X = gaussian((5, 4), generator=0).requires_grad_()
    assert gradcheck(lambda X: generalized_nystrom(X, 2, generator=0).to_dense(), X, atol=1e-5)


def test_bad_input():
    A = torch.eye(4)
    for call, word in (
        (lambda: nystrom(torch.ones(3, 4), 1), "square"),
        (lambda: nystrom(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1), "Hermitian"),
        (lambda: nystrom(-A, 4, oversample=0), "semidefinite"),
        (lambda: nystrom(-A, 2, method="greedy"), "semidefinite"),
        (lambda: nystrom(A), "exactly one"),
        (lambda: nystrom(A, 2, method="qr"), "method"),
        (lambda: generalized_nystrom(A, 5), "between 1 and 4"),
        (lambda: generalized_nystrom(A, 2, oversample=-1), "oversample"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
