"""pinv, pinv_product, column_row: Penrose's conditions, the failing reverse order, exactness conditions, gradients."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.factor import column_row, pinv, pinv_product
from resolvent.operators import LowRank
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, with_values = _CASE["error"], _CASE["with_values"]


def penrose(A, P):
    """The largest violation of the four conditions, relative."""
    left, right = A @ P, P @ A
    pairs = ((left @ A, A), (right @ P, P), (left.mH, left), (right.mH, right))
    return max(error(Y, X) for X, Y in pairs)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (3, 9, 9)])
def test_exact(shape):
    A = gaussian(shape, generator=0)
    torch.testing.assert_close(pinv(A), torch.linalg.pinv(A))
    assert isinstance(pinv(A.numpy()), np.ndarray)
    low, clean = (with_values(12, 9, torch.tensor([1.0, 0.5, least])) for least in (1e-9, 0.0))
    assert penrose(clean, pinv(low, rtol=1e-6)) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("rank", [6, 9, None])
def test_randomized_is_the_pseudoinverse_if_the_rank_is_seen(dtype, rank):
    A = with_values(120, 90, torch.linspace(0.2, 1, 6), dtype=dtype)
    found, info = pinv(A, method="randomized", rank=rank, generator=0, return_info=True)
    assert isinstance(found, LowRank) and found.s.shape == (6,) and info.converged
    eps = torch.finfo(dtype).eps
    assert penrose(A, found.to_dense()) < 2000 * eps
    assert error(torch.linalg.pinv(A, rtol=1e-4), found.to_dense()) < 2000 * eps
    assert info.error < 2000 * eps
    b = gaussian((120, 2), dtype, generator=1)
    torch.testing.assert_close(found @ b, torch.linalg.lstsq(A, b, driver="gelsd").solution, rtol=1e-2, atol=5e3 * eps)


def test_the_formula_of_the_paper():
    A = with_values(20, 15, torch.linspace(0.5, 1, 4))
    P, Q = gaussian((20, 6), generator=1), gaussian((15, 6), generator=2)
    cut = {"rtol": 1e-10}
    formula = torch.linalg.pinv(P.mT @ A, **cut) @ (P.mT @ A @ Q) @ torch.linalg.pinv(A @ Q, **cut)
    assert error(formula, pinv(A, method="randomized", rank=4, generator=0).to_dense()) < 1e-11
    # With fewer vectors than the rank it is another matrix, and the probes say by how much.
    less, info = pinv(A, method="randomized", rank=2, oversample=1, generator=0, return_info=True)
    assert less.s.shape == (2,) and info.error > 0.1


def test_rank_is_found_and_what_is_not_of_low_rank_is_refused():
    s = torch.cat([torch.linspace(1, 2, 60), torch.full((140,), 1e-9)]).double()
    A = with_values(300, 200, s)
    found = pinv(A, method="randomized", rtol=1e-6, generator=0)
    assert found.s.shape == (60,)
    with pytest.raises(ConvergenceError, match="exact") as caught:
        pinv(gaussian((300, 200), generator=0), method="randomized", generator=0)
    assert isinstance(caught.value.best, LowRank)


def test_randomized_of_sparse_small_and_zero():
    S = sp.random(200, 150, 0.05, random_state=0, format="csr")
    thin = sp.vstack([S[:5], sp.csr_matrix((195, 150))]).tocsr()
    found = pinv(thin, method="randomized", generator=0)
    assert found.kind == "numpy"
    np.testing.assert_allclose(found.to_dense(), np.linalg.pinv(thin.toarray()), atol=1e-10)
    A = gaussian((9, 5), generator=0)
    torch.testing.assert_close(pinv(A, method="randomized", generator=0).to_dense(), torch.linalg.pinv(A))
    assert float(pinv(torch.zeros(6, 4), method="randomized", generator=0).to_dense().abs().max()) == 0


def test_general_product_formula_of_random_pairs():
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        m, k, n = rng.integers(1, 12, 3)
        rc, rr = rng.integers(1, min(m, k) + 1), rng.integers(1, min(k, n) + 1)
        C = rng.standard_normal((m, rc)) @ rng.standard_normal((rc, k))
        R = rng.standard_normal((k, rr)) @ rng.standard_normal((rr, n))
        exact = np.linalg.pinv(C @ R, rcond=1e-11)
        found = pinv_product(C, R, rtol=1e-11).to_dense()
        worst = max(worst, float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
    assert worst < 1e-10


def test_the_reverse_order():
    C, R = gaussian((9, 4), generator=0), gaussian((4, 7), generator=1)
    exact = torch.linalg.pinv(C @ R, rtol=1e-10)
    torch.testing.assert_close(pinv_product(C, R, method="reverse").to_dense(), exact)
    torch.testing.assert_close(pinv_product(C, R).to_dense(), exact)
    wide, tall = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [1.0]])
    assert float(torch.linalg.pinv(tall) @ torch.linalg.pinv(wide)) == pytest.approx(0.5)
    assert float(pinv_product(wide, tall).to_dense()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="C has rank 1 of 2"):
        pinv_product(wide, tall, method="reverse")
    zero = pinv_product(torch.zeros(3, 2), torch.ones(2, 4)).to_dense()
    assert zero.shape == (4, 3) and float(zero.abs().max()) == 0


def test_column_row():
    A = np.array([[1.0, 4.0, 5.0], [3.0, 2.0, 5.0], [2.0, 1.0, 3.0]])
    found = column_row(A)
    np.testing.assert_allclose(found.C, A[:, :2])
    np.testing.assert_allclose(found.R, [[1, 0, 1], [0, 1, 1]], atol=1e-14)
    rng = np.random.default_rng(1)
    from sympy import Matrix

    for _ in range(20):
        B = rng.integers(-2, 3, (6, 3)) @ rng.integers(-2, 3, (3, 8))
        echelon, pivots = Matrix(B).rref()
        found = column_row(B.astype(float))
        assert tuple(found.columns) == pivots
        np.testing.assert_allclose(found.R, np.array(echelon, float)[: len(pivots)], atol=1e-11)
    assert column_row(torch.zeros(3, 2)).C.shape == (3, 0)
    lead = column_row(torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0]]))
    assert lead.columns.tolist() == [2] and lead.R.tolist() == [[0.0, 0.0, 1.0]]


def test_gradients():
    C, R = (gaussian(shape, generator=i).requires_grad_() for i, shape in enumerate([(6, 3), (3, 5)]))
    assert gradcheck(lambda C, R: pinv_product(C, R).to_dense(), (C, R))
    assert gradcheck(lambda C, R: pinv_product(C, R, method="reverse").to_dense(), (C, R))
    assert gradcheck(pinv, C)
    low = gaussian((5, 4), generator=0).requires_grad_()
    assert gradcheck(lambda A: column_row(A[:, :2] @ torch.ones(2, 3, dtype=A.dtype) + A[:, 2:3]).C, low)
    with pytest.raises(ValueError, match="gradient needs"):
        pinv_product(torch.ones(4, 2, dtype=torch.float64), R[:2])


def test_bad_input():
    A = torch.eye(4)
    for call, word in (
        (lambda: pinv(A, rtol=2.0), "rtol"),
        (lambda: pinv(A, method="qr"), "method"),
        (lambda: pinv(A, rank=2), "randomized"),
        (lambda: pinv(A, method="randomized", rank=9), "between 1 and 4"),
        (lambda: pinv(A, method="randomized", oversample=0), "oversample"),
        (lambda: pinv(A.expand(2, 4, 4), method="randomized"), "one matrix"),
        (lambda: pinv(torch.full((3, 3), torch.nan)), "NaN"),
        (lambda: pinv_product(A, torch.ones(3, 4)), "shapes"),
        (lambda: pinv_product(A, A, method="best"), "method"),
        (lambda: column_row(torch.ones(3)), "shape"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
