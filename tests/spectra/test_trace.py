"""trace: structures, estimators against the exact value, calibrated intervals, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    Kronecker,
    LowRank,
    MatrixFree,
    as_operator,
)
from resolvent.random import gaussian
from resolvent.spectra import trace
from resolvent.spectra.sampling import Hutchinson, HutchPP, XNysTrace, XTrace


def spectrum(kind, n):
    i = torch.arange(n, dtype=torch.float64)
    return {"flat": 1 + 2 * i / n, "poly": (i + 1) ** -2.0, "exp": 0.7**i, "step": (i < 10) + 1e-3}[kind]


def positive(kind, n=200, dtype=torch.float64, seed=0):
    Q = torch.linalg.qr(gaussian((n, n), dtype, generator=seed)).Q
    M = (Q * spectrum(kind, n).to(Q.real.dtype)) @ Q.mH
    return (M + M.mH) / 2


def free(M, **facts):
    return MatrixFree(M.shape, lambda X: M @ X, lambda X: M.mH @ X, dtype=M.dtype, parameters=[M], **facts)


def test_structures_need_no_product():
    D = Diagonal(torch.tensor([1.0, 2.0, 3.0]))
    B = Dense(torch.arange(9.0).reshape(3, 3))
    low = LowRank(torch.ones(3, 1), torch.tensor([2.0]))
    for A in (D, B, 3 * B, D + B, Kronecker(D, B), BlockDiagonal(D, B), low, B @ D, B @ B, D @ B, Identity(3) + low):
        value, info = trace(A, return_info=True)
        torch.testing.assert_close(value, A.to_dense().trace())
        assert info.matvecs == 0


def test_a_product_of_stored_matrices_costs_no_product():
    X = gaussian((700, 5), generator=0)
    A = as_operator(X) @ as_operator(X).H
    value, info = trace(A, return_info=True)
    torch.testing.assert_close(value, X.square().sum())
    assert info.method == "structure"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_small_operators_are_exact(dtype):
    M = gaussian((2, 70, 70), dtype, generator=0)
    A = MatrixFree(M.shape, lambda X: M @ X, dtype=dtype)
    value, info = trace(A, return_info=True)
    torch.testing.assert_close(value, M.diagonal(dim1=-2, dim2=-1).sum(-1))
    assert info.method == "exact" and value.dtype == dtype


@pytest.mark.parametrize("method", ["hutchinson", "hutchpp", "xtrace", "xnystrace", "auto"])
@pytest.mark.parametrize("kind", ["flat", "poly"])
def test_estimates_meet_their_tolerance(method, kind):
    M = positive(kind, 600)
    A = free(M, positive=True)
    rtol = 0.3 if method == "hutchinson" and kind == "poly" else 0.01
    value, info = trace(A, method=method, rtol=rtol, generator=1, return_info=True)
    assert abs(float(value) / float(M.trace()) - 1) < 1.5 * rtol
    assert info.error <= rtol and info.converged
    assert float(trace(A, method=method, rtol=rtol, generator=1)) == float(value)


@pytest.mark.parametrize("cls", [Hutchinson, HutchPP, XTrace, XNysTrace])
@pytest.mark.parametrize("kind", ["flat", "poly", "exp", "step"])
def test_intervals_cover(cls, kind):
    from resolvent.random import sphere
    from resolvent.spectra.quadrature import quantile

    A = as_operator(positive(kind, 120)).declare(positive=True)
    exact, seeds = float(spectrum(kind, 120).sum()), 200
    hits = 0
    for seed in range(seeds):
        value, se, count = cls(A, sphere((120, 24), generator=seed)).estimate()
        hits += abs(float(value) - exact) <= float(se) * quantile(0.95, count) + 1e-12 * exact
    # Three standard errors of 200 coin throws below 95%.
    assert hits >= 0.9 * seeds


def test_adaptive_intervals_cover():
    M = positive("poly", 600)
    A, exact = free(M, positive=True), float(M.trace())
    hits, seeds = 0, 200
    for seed in range(seeds):
        value, info = trace(A, rtol=0.02, generator=seed, return_info=True)
        hits += abs(float(value) - exact) <= info.error * abs(float(value))
    assert hits >= 0.9 * seeds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_low_rank_is_exact_for_the_leave_one_out_methods(dtype):
    X = gaussian((600, 6), dtype, generator=0)
    A = free(X @ X.mH, positive=True)
    exact = float(X.abs().square().sum())
    for method in ("xtrace", "xnystrace", "hutchpp"):
        value, info = trace(A, method=method, rtol=1e-3, generator=0, return_info=True)
        assert abs(complex(value) / exact - 1) < (1e-4 if dtype == torch.float32 else 1e-9), method
        assert info.matvecs <= 48


def test_xtrace_beats_hutchinson_where_the_spectrum_decays():
    M = positive("poly", 600)
    spent = {
        m: trace(free(M), method=m, rtol=0.02, generator=0, return_info=True, max_matvecs=10**6)[1].matvecs
        for m in ("hutchinson", "xtrace")
    }
    assert spent["xtrace"] * 10 < spent["hutchinson"]
    assert trace(free(M), rtol=0.02, generator=0, return_info=True)[1].method == "xtrace"


def test_auto_goes_exact_when_that_is_cheaper():
    M = positive("flat", 600)
    value, info = trace(free(M), rtol=1e-8, generator=0, return_info=True)
    assert info.method == "exact"
    torch.testing.assert_close(value, M.trace(), rtol=1e-12, atol=0)


def test_nonhermitian_operators():
    M = gaussian((600, 600), generator=0) / 30 + 2 * torch.eye(600, dtype=torch.float64)
    for method in ("auto", "xtrace", "hutchpp", "hutchinson"):
        assert abs(float(trace(free(M), method=method, generator=2)) / float(M.trace()) - 1) < 0.015


def test_out_of_reach_raises_with_the_best_value():
    M = positive("flat", 600)
    with pytest.raises(ConvergenceError, match="half-width") as caught:
        trace(free(M), method="hutchinson", rtol=1e-7, max_matvecs=200, generator=0)
    assert abs(float(caught.value.best) / float(M.trace()) - 1) < 0.05
    assert caught.value.error > 1e-7


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_exact_gradients(dtype):
    M = gaussian((5, 5), dtype, generator=0).requires_grad_()
    assert gradcheck(lambda M: trace(as_operator(M)), M)
    assert gradcheck(lambda M: trace(free(M)), M)
    assert gradcheck(lambda M: trace(as_operator(M) @ as_operator(M).H), M)


def test_gradient_of_an_estimate_is_unbiased():
    M = positive("flat", 600).requires_grad_()
    total = torch.zeros(600, 600, dtype=torch.float64)
    for seed in range(20):
        total += torch.autograd.grad(trace(free(M), method="xtrace", rtol=0.1, generator=seed), M)[0]
    mean = total / 20
    assert float((mean.diagonal() - 1).abs().mean()) < 0.1
    assert float((mean - torch.eye(600)).abs().mean()) < 0.1


def test_numpy_gives_python_numbers():
    value = trace(np.eye(4))
    assert type(value) is float and value == 4.0
    assert trace(np.eye(3)[None].repeat(2, 0)).shape == (2,)


def test_bad_input():
    with pytest.raises(ValueError, match="square"):
        trace(torch.ones(2, 3))
    with pytest.raises(ValueError, match="method"):
        trace(torch.eye(2), method="magic")
    with pytest.raises(ValueError, match="confidence"):
        trace(torch.eye(2), confidence=1.5)
    with pytest.raises(ValueError, match="positive"):
        trace(torch.eye(2), method="xnystrace")
    with pytest.raises(ValueError, match="batch"):
        trace(torch.eye(2).expand(3, 2, 2), method="xtrace")
    indefinite = free(torch.diag(torch.tensor([1.0, -1.0]).repeat(300)), positive=True)
    with pytest.raises(ValueError, match="negative"):
        trace(indefinite, method="xnystrace", generator=0)
