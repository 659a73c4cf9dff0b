"""Nonnegative least squares: SciPy's and brute force's solutions, the conditions of optimality, gradients, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import lstsq, nnls

METHODS = ["auto", "active_set", "pivoting"]


def draw(*shape, seed=0):
    return gaussian(shape, torch.float64, generator=seed).numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(40, 10), (30, 30), (200, 160)])
def test_solutions_are_those_of_scipy(method, shape):
    A, B = draw(*shape), draw(shape[0], 4, seed=1)
    X, info = nnls(A, B, method=method, return_info=True)
    np.testing.assert_allclose(X, np.stack([scipy.optimize.nnls(A, b)[0] for b in B.T], 1), rtol=1e-9, atol=1e-12)
    assert info.converged and info.error < 1e-13 and X.min() >= 0
    np.testing.assert_allclose(nnls(A, B[:, 2], method=method), X[:, 2], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_brute_force_over_all_sets(method):
    A, b = draw(9, 5, seed=3), draw(9, seed=4)
    best = np.inf
    for r in range(6):
        for chosen in itertools.combinations(range(5), r):
            x = np.linalg.lstsq(A[:, chosen], b, rcond=None)[0]
            if (x >= 0).all():
                best = min(best, np.linalg.norm(b - A[:, chosen] @ x))
    assert np.linalg.norm(b - A @ nnls(A, b, method=method)) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
def test_any_rank_and_scale(method, scale):
    A = draw(20, 6)
    A, b = np.c_[A, A, A @ draw(6, 3, seed=1), np.zeros(20)], draw(20, seed=2)
    x = nnls(A * scale, b * scale, method=method)
    assert np.linalg.norm(A @ x - b) == pytest.approx(scipy.optimize.nnls(A[:, :15], b)[1], rel=1e-12) and x[-1] == 0
    wide, side = draw(10, 40), draw(10, seed=3)
    x = nnls(wide * scale, side * scale, method=method)
    assert np.linalg.norm(wide @ x - side) == pytest.approx(scipy.optimize.nnls(wide, side)[1], abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_ill_conditioned_columns(method):
    # The normal equations would lose the small directions; factors of A keep them.
    A = np.vander(np.linspace(0, 1, 60), 9)
    truth = np.array([0, 2.0, 0, 1.0, 0, 0, 3.0, 0, 0.5])
    x = nnls(A, A @ truth, method=method)
    np.testing.assert_allclose(x, truth, atol=1e-8)


def test_limits_and_kinds():
    A, b = np.abs(draw(12, 4)), np.ones(12)
    inside = A @ np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(nnls(A, inside), lstsq(A, inside), rtol=1e-9)
    np.testing.assert_array_equal(nnls(A, -b), np.zeros(4))
    np.testing.assert_allclose(nnls(sp.csr_matrix(A), b), nnls(A, b))
    x = nnls(torch.as_tensor(A, dtype=torch.float32), torch.ones(12))
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), nnls(A, b), rtol=1e-4, atol=1e-5)
    assert nnls(np.zeros((3, 2)), np.ones(3)).tolist() == [0, 0]
    assert nnls(np.zeros((3, 0)), np.ones(3)).shape == (0,) and nnls(np.ones((3, 2)), np.ones((3, 0))).shape == (2, 0)
    # float32 of a small scale, and rows in any order
    tiny = nnls(torch.as_tensor(A.T.copy(), dtype=torch.float32).mT * 1e-20, torch.ones(12) * 1e-20)
    np.testing.assert_allclose(tiny.numpy(), x.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method):
    A = torch.as_tensor(draw(8, 4, seed=5)).requires_grad_()
    B = torch.as_tensor(draw(8, 3, seed=6)).requires_grad_()
    assert bool((nnls(A, B) > 0).any()) and bool((nnls(A, B) == 0).any())
    assert gradcheck(lambda A, B: nnls(A, B, method=method), (A, B))
    with pytest.raises(RuntimeError, match="first derivatives"):
        g = torch.autograd.grad(nnls(A, B).sum(), A, create_graph=True)[0]
        g.sum().backward()


def test_bad_input():
    A, b = draw(6, 3), draw(6)
    for changed, message in (
        ((A[None], b), "batch"),
        ((A, b[:4]), "shape"),
        ((A.astype(complex), b), "real"),
        ((A, b * np.nan), "finite"),
        ((np.full((6, 3), np.inf), b), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            nnls(*changed)
    with pytest.raises(ValueError, match="method"):
        nnls(A, b, method="newton")
    with pytest.raises(ValueError, match="rtol"):
        nnls(A, b, rtol=2.0)
    with pytest.raises(ConvergenceError) as caught:
        nnls(draw(30, 10), draw(30, seed=1), rtol=1e-30)
    assert caught.value.best.shape == (10,) and caught.value.error > 1e-30
