"""leverage_scores and effective_dimension: values, invariances, both paths, sparse, ridge, sketches, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.operators import Kronecker, MatrixFree
from resolvent.random import gaussian
from resolvent.sketch import effective_dimension, leverage_scores
from resolvent.sketch import leverage as module


def by_definition(X, ridge=0.0):
    G = X.mH @ X + ridge * torch.eye(X.shape[-1], dtype=X.dtype)
    return (X @ torch.linalg.pinv(G, hermitian=True) @ X.mH).diagonal(dim1=-2, dim2=-1).real


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_definition_batches_and_wide_matrices(dtype, ridge):
    for shape in ((40, 6), (3, 20, 4), (5, 9)):
        X = gaussian(shape, dtype, generator=0)
        torch.testing.assert_close(leverage_scores(X, ridge=ridge), by_definition(X, ridge))


def test_rank_deficient_rows_of_zeros_and_invariance():
    X = gaussian((50, 3), generator=0) @ gaussian((3, 7), generator=1)
    X[4] = 0
    tau = leverage_scores(X)
    torch.testing.assert_close(tau, (X @ torch.linalg.pinv(X)).diagonal())
    assert float(tau.sum()) == pytest.approx(3) and float(tau[4]) == pytest.approx(0, abs=1e-14)
    full = gaussian((50, 3), generator=2)
    mixed = full @ gaussian((3, 3), generator=3)
    torch.testing.assert_close(leverage_scores(mixed), leverage_scores(full))
    assert float(effective_dimension(X, 0.0)) == pytest.approx(3)


def test_the_way_of_large_matrices_equals_qr(monkeypatch):
    X = gaussian((3000, 8), generator=0) * torch.logspace(0, -7, 8, dtype=torch.float64)
    X[5] *= 1e3
    small = [leverage_scores(X, ridge=ridge) for ridge in (0.0, 1e-3)]
    monkeypatch.setattr(module, "_LARGE", 10)
    for value, ridge in zip(small, (0.0, 1e-3), strict=True):
        torch.testing.assert_close(leverage_scores(X, ridge=ridge), value, rtol=1e-7, atol=1e-12)
    low = X[:, :3] @ gaussian((3, 6), generator=1)
    torch.testing.assert_close(leverage_scores(low), leverage_scores(X[:, :3]), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_single_precision_changes_nothing(scale, monkeypatch):
    X = gaussian((3000, 4), torch.float32, generator=0)
    wanted = leverage_scores(X.double())
    for large in (False, True):
        monkeypatch.setattr(module, "_LARGE", 10 if large else 1 << 20)
        torch.testing.assert_close(leverage_scores(X * scale).double(), wanted, rtol=1e-4, atol=1e-7)
        assert float(effective_dimension(X * scale, 0.0)) == pytest.approx(4, rel=1e-5)
        ridge = leverage_scores(X[:60], ridge=0.7), leverage_scores(X[:60] * scale, ridge=0.7 * scale**2)
        torch.testing.assert_close(*ridge, rtol=1e-4, atol=1e-6)
    same = [leverage_scores(Y, "sketched", generator=0) for Y in (X, X * scale)]
    torch.testing.assert_close(*same, rtol=1e-3, atol=1e-6)


def test_zeros_have_no_leverage(monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 10)
    for X in (torch.zeros(300, 2), torch.zeros(300, 2).to_sparse_csr()):
        assert not leverage_scores(X).any() and not leverage_scores(X, ridge=1.0).any()


def test_sparse_numpy_kronecker_and_products():
    S = sp.random(2000, 15, density=0.3, random_state=0).tocsr()
    dense = S.toarray()
    found = leverage_scores(S, ridge=0.3)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, leverage_scores(dense, ridge=0.3), rtol=1e-10)
    A, B = gaussian((7, 3), generator=0), gaussian((5, 2), generator=1)
    torch.testing.assert_close(leverage_scores(Kronecker(A, B)), leverage_scores(torch.kron(A, B)))
    free = MatrixFree((7, 3), lambda x: A @ x, lambda y: A.mT @ y, dtype=torch.float64)
    torch.testing.assert_close(leverage_scores(free), leverage_scores(A))


@pytest.mark.parametrize("kind", ["dense", "sparse", "heavy"])
def test_sketched_scores_keep_their_promise_over_200_seeds(kind):
    n, d, rtol = 700, 4, 0.9
    X = gaussian((n, d), generator=0)
    if kind == "heavy":
        X[:3] *= 1e4
    A = sp.csr_matrix((X * (X.abs() > 1)).numpy()) if kind == "sparse" else X
    exact = torch.as_tensor(leverage_scores(A, ridge=0.1))
    live = exact > 0
    failures = 0
    for seed in range(200):
        tau = torch.as_tensor(leverage_scores(A, "sketched", ridge=0.1, rtol=rtol, confidence=0.95, generator=seed))
        failures += bool(((tau[live] / exact[live] - 1).abs() > rtol).any())
    # Ten are expected to be allowed; a true rate of 5 percent gives more than 20 once in a thousand runs.
    assert failures <= 20
    assert not torch.equal(tau, exact)


def test_sketched_scores_of_many_columns():
    X = gaussian((6000, 150), generator=0) * torch.logspace(0, 2, 150, dtype=torch.float64)
    exact = leverage_scores(X)
    tau = leverage_scores(X, "sketched", rtol=0.95, generator=0)
    assert 0.01 < float((tau / exact - 1).abs().max()) < 0.95


def test_gradients():
    X = gaussian((7, 3), generator=0).requires_grad_()
    assert gradcheck(leverage_scores, X)
    assert gradcheck(lambda X: leverage_scores(X, ridge=0.4), X)
    assert gradcheck(lambda X: effective_dimension(X, 0.4), X)
    Z = gaussian((5, 2), torch.complex128, generator=0).requires_grad_()
    assert gradcheck(leverage_scores, Z)


def test_bad_input():
    X = gaussian((6, 2), generator=0)
    for call, error, word in (
        (lambda: leverage_scores(X, "fast"), ValueError, "method"),
        (lambda: leverage_scores(X, ridge=-1.0), ValueError, "ridge"),
        (lambda: leverage_scores(X, rtol=2.0), ValueError, "rtol"),
        (lambda: leverage_scores(X[None], "sketched"), ValueError, "batch"),
        (lambda: leverage_scores(X.clone().requires_grad_(), "sketched"), TypeError, "gradient"),
        (lambda: leverage_scores(X / 0), ValueError, "NaN"),
        (lambda: effective_dimension(X, -2.0), ValueError, "ridge"),
    ):
        with pytest.raises(error, match=word):
            call()
