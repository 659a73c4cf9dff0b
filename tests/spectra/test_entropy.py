"""entropy: closed values for every order, all routes agree, gradients, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.operators import Dense, Diagonal, Kronecker, LowRank, MatrixFree, as_operator
from resolvent.random import gaussian
from resolvent.spectra import entropy

ORDERS = (0, 0.5, 1, 2, 3.5, math.inf)


def renyi(w, alpha):
    p = (w / w.sum()).double()
    p = p[p > 1e-13]
    if alpha == 1:
        return float(-(p * p.log()).sum())
    if alpha == math.inf:
        return float(-p.max().log())
    return float((p**alpha).sum().log() / (1 - alpha))


def positive(w, dtype=torch.float64, seed=0):
    n = len(w)
    Q = torch.linalg.qr(gaussian((n, n), dtype, generator=seed)).Q
    M = (Q * w.to(Q.real.dtype)) @ Q.mH
    return (M + M.mH) / 2


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_dense(alpha, dtype):
    w = torch.cat([torch.linspace(0.1, 3, 20), torch.zeros(5)]).double()
    M = positive(w, dtype)
    found = entropy(M, alpha)
    assert not found.is_complex()
    assert float(found) == pytest.approx(renyi(w, alpha), rel=1e-5 if dtype == torch.float32 else 1e-11)
    torch.testing.assert_close(entropy(7e5 * M, alpha), found)
    torch.testing.assert_close(entropy(as_operator(M).declare(positive=True), alpha), found)


@pytest.mark.parametrize("alpha", ORDERS)
def test_uniform_and_pure(alpha):
    assert float(entropy(torch.eye(8, dtype=torch.float64), alpha)) == pytest.approx(math.log(8))
    assert float(entropy(torch.ones(6, 6, dtype=torch.float64), alpha)) == pytest.approx(0, abs=1e-12)


def test_orders_fall_and_meet():
    M = positive(torch.linspace(0.1, 5, 30).double())
    values = [float(entropy(M, a)) for a in (0, 0.5, 0.999999, 1, 1.000001, 2, 10, 1e4, math.inf)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))
    assert values[2] == pytest.approx(values[3], abs=1e-5) and values[7] == pytest.approx(values[8], rel=1e-3)


def test_the_entropy_of_a_product_is_the_sum():
    A, B = positive(torch.linspace(1, 2, 5).double()), positive(torch.linspace(0.1, 4, 6).double())
    pair = Kronecker(as_operator(A, hermitian=True), as_operator(B, hermitian=True))
    torch.testing.assert_close(entropy(pair), entropy(A) + entropy(B))


@pytest.mark.parametrize("alpha", ORDERS)
def test_low_rank_and_gram_use_the_small_side(alpha):
    X = gaussian((5000, 4), generator=0)
    w = torch.linalg.eigvalsh(X.mT @ X)
    tall = as_operator(X)
    wide = as_operator(X.mT.contiguous())
    for A in (LowRank(X), tall @ tall.H, wide.H @ wide):
        value, info = entropy(A.declare(positive=True), alpha, return_info=True)
        assert info.method == "exact" and float(value) == pytest.approx(renyi(w, alpha), rel=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3])
def test_quadrature_meets_its_tolerance(alpha):
    w = torch.linspace(0.01, 2, 400).double()
    A = as_operator(positive(w), hermitian=True)
    value, info = entropy(A, alpha, method="slq", rtol=0.005, generator=0, return_info=True)
    assert info.method == "slq" and info.error <= 0.005
    assert float(value) == pytest.approx(renyi(w, alpha), rel=0.005)


def test_largest_eigenvalue_of_a_large_operator():
    d = torch.linspace(0, 1, 2500, dtype=torch.float64) ** 3
    d[-1] = 2
    A = MatrixFree((2500, 2500), lambda X: d[:, None] * X, dtype=torch.float64, positive=True)
    assert float(entropy(A, math.inf, generator=0)) == pytest.approx(renyi(d, math.inf), rel=0.01)
    # Nearly pure: the entropy is the small difference of the trace and one eigenvalue.
    d[-1] = 5e4
    assert float(entropy(A, math.inf, generator=0)) == pytest.approx(renyi(d, math.inf), rel=0.01)
    assert float(entropy(A, math.inf, atol=0.1, generator=0)) == pytest.approx(renyi(d, math.inf), abs=0.1)


@pytest.mark.parametrize("alpha", [0, math.inf])
def test_large_numpy_operators(alpha):
    n = 1600
    d = np.r_[np.linspace(0.5, 1, 10), 2.0]
    X = np.random.default_rng(0).standard_normal((n, 11)) * d
    A = scipy.sparse.linalg.LinearOperator(
        (n, n), matvec=lambda v: X @ (X.T @ v), matmat=lambda V: X @ (X.T @ V), dtype=float
    )
    found = entropy(as_operator(A, positive=True), alpha, generator=0)
    assert type(found) is float
    assert found == pytest.approx(renyi(torch.from_numpy(np.linalg.eigvalsh(X.T @ X)), alpha), rel=0.01)


def test_out_of_reach_raises():
    A = as_operator(positive(torch.linspace(0.01, 2, 300).double()), hermitian=True)
    with pytest.raises(ConvergenceError, match="entropy"):
        entropy(A, method="slq", rtol=1e-8, generator=0)


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(alpha, dtype):
    X = gaussian((5, 5), dtype, generator=0).requires_grad_()
    assert gradcheck(lambda X: entropy(X @ X.mH, alpha), X)
    assert gradcheck(lambda X: entropy(Dense(X @ X.mH, positive=True), alpha), X)


def test_gradient_stays_finite_at_zero_eigenvalues():
    X = gaussian((6, 2), generator=0).requires_grad_()
    (g,) = torch.autograd.grad(entropy(X @ X.mT), X)
    U = X.detach().clone().requires_grad_()
    (exact,) = torch.autograd.grad(entropy(U.mT @ U), U)
    torch.testing.assert_close(g, exact)


def test_gradient_of_an_estimate():
    d = torch.linspace(0.5, 2, 200, dtype=torch.float64).requires_grad_()
    value = entropy(Diagonal(d), method="slq", rtol=0.01, generator=0)
    (g,) = torch.autograd.grad(value, d)
    (exact,) = torch.autograd.grad(entropy(Diagonal(d)), d)
    # Signs make z^H f(D) z exact for a diagonal.
    torch.testing.assert_close(g, exact, rtol=1e-3, atol=1e-6)


def test_numpy_and_batches():
    assert type(entropy(np.eye(3))) is float
    M = torch.stack([positive(torch.linspace(1, 2, 5).double()), torch.eye(5, dtype=torch.float64)])
    assert entropy(M).shape == (2,)


def test_bad_input():
    for bad, word in (
        (torch.ones(2, 3), "square"),
        (torch.diag(torch.tensor([1.0, -1.0])), "semidefinite"),
        (torch.zeros(3, 3), "zero"),
        (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "Hermitian"),
    ):
        with pytest.raises(ValueError, match=word):
            entropy(bad)
    with pytest.raises(ValueError, match="alpha"):
        entropy(torch.eye(2), -1)
    with pytest.raises(ValueError, match="alpha"):
        entropy(torch.eye(2), math.nan)
    with pytest.raises(ValueError, match="method"):
        entropy(torch.eye(2), method="magic")
    with pytest.raises(ValueError, match="semidefinite"):
        entropy(torch.diag(torch.linspace(-1, 1, 100)), method="slq")
    with pytest.raises(ValueError, match="batch"):
        entropy(torch.eye(2).expand(2, 2, 2), method="slq")
    with pytest.raises(ValueError, match="at least one row"):
        entropy(torch.zeros(0, 0))
    with pytest.raises(ValueError, match="zero"):
        entropy(Dense(torch.zeros(2, 2), positive=True), 2)
