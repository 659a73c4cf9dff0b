"""nmf: exact factors, stationarity, both rules, sparse and float32 input, a fit as good as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import nmf
from resolvent.factor.nonnegative_kernel import descend_rows
from resolvent.operators import LowRank
from resolvent.random import as_generator


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=as_generator(seed), dtype=dtype)


@pytest.mark.parametrize("init", ["svd", "random"])
def test_exact_factors_are_found(init):
    A = uniform(40, 3) @ uniform(3, 30, seed=1)
    (W, H), info = nmf(A, 3, init=init, rtol=1e-7, generator=0, return_info=True)
    assert W.shape == (40, 3) and H.shape == (3, 30) and float(min(W.min(), H.min())) >= 0
    assert float(torch.dist(A, W @ H) / A.norm()) < 1e-5
    assert info.converged and info.error <= 1e-7
    torch.testing.assert_close(W.norm(dim=0), H.norm(dim=1))


def test_the_result_is_stationary():
    A = uniform(25, 20)
    W, H = nmf(A, 4, rtol=1e-6, generator=0)
    R = W @ H - A
    for X, g in ((W, R @ H.mT), (H, W.mT @ R)):
        assert float(torch.where(X > 0, g.abs(), (-g).clamp_min(0)).max()) < 1e-4
        assert float((X == 0).sum()) > 0


def test_rows_are_nonnegative_least_squares():
    M, Y = uniform(12, 5).numpy(), uniform(7, 12, seed=1).numpy() - 0.3
    X = np.zeros((7, 5))
    descend_rows(X, Y @ M, M.T @ M, 5000, 0.0)
    for x, y in zip(X, Y, strict=True):
        np.testing.assert_allclose(x, scipy.optimize.nnls(M, y)[0], atol=1e-8)


def test_the_fit_is_that_of_scikit_learn():
    from sklearn.datasets import load_digits
    from sklearn.decomposition import NMF

    A = load_digits().data[:200]
    W, H = nmf(A, 8, generator=0)
    model = NMF(8, tol=1e-4, max_iter=500, init="nndsvda", random_state=0)
    theirs = np.linalg.norm(A - model.fit_transform(A) @ model.components_)
    assert isinstance(W, np.ndarray) and np.linalg.norm(A - W @ H) < 1.01 * theirs


def test_rank_one_is_the_leading_pair():
    A = uniform(15, 10)
    W, H = nmf(A, 1, rtol=1e-9, generator=0)
    U, s, Vh = torch.linalg.svd(A)
    torch.testing.assert_close(W @ H, s[0] * U[:, :1] @ Vh[:1], rtol=1e-6, atol=1e-8)


def test_sparse_operators_and_float32():
    S = sp.random_array((60, 40), density=0.2, rng=np.random.default_rng(0), format="csr")
    dense, sparse = (nmf(X, 3, init="random", generator=0) for X in (S.toarray(), S))
    np.testing.assert_allclose(dense.W @ dense.H, sparse.W @ sparse.H, atol=1e-6)
    low = LowRank(uniform(30, 2), torch.ones(2).double(), uniform(20, 2, seed=1))
    W, H = nmf(low, 2, rtol=1e-6, generator=0)
    assert float(torch.dist(low.to_dense(), W @ H)) < 1e-3
    A = uniform(30, 3, dtype=torch.float32) @ uniform(3, 20, dtype=torch.float32)
    W, H = nmf(A, 3, generator=0)
    assert W.dtype == torch.float32 and float(torch.dist(A, W @ H) / A.norm()) < 0.02


def test_multiplicative_and_a_given_start():
    A = uniform(20, 15)
    W0, H0 = uniform(20, 2, seed=2), uniform(2, 15, seed=3)
    kept = W0.clone()
    errors = [float(torch.dist(A, W0 @ H0))]
    for steps in (1, 5, 50):
        with pytest.raises(ConvergenceError) as caught:
            nmf(A, 2, method="multiplicative", init=(W0, H0), rtol=1e-12, max_iter=steps)
        errors.append(float(torch.dist(A, caught.value.best.W @ caught.value.best.H)))
    assert errors == sorted(errors, reverse=True)
    assert torch.equal(W0, kept)
    slow, quick = (nmf(A, 2, method=m, rtol=1e-2, generator=0) for m in ("multiplicative", "hals"))
    assert float(torch.dist(A, slow.W @ slow.H)) < 1.02 * float(torch.dist(A, quick.W @ quick.H))


@pytest.mark.parametrize("method", ["hals", "multiplicative"])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_float32_near_the_ends_of_its_range(method, size):
    A = uniform(20, 2, dtype=torch.float32) @ uniform(2, 15, seed=1, dtype=torch.float32)
    W, H = uniform(20, 2, seed=2), uniform(2, 15, seed=3)
    for given in (False, True):
        plain, scaled = (
            nmf(c * A, 2, method=method, init=[c**0.5 * W, c**0.5 * H] if given else "random", rtol=1e-2, generator=0)
            for c in (1.0, size)
        )
        product = (scaled.W / size**0.5) @ (scaled.H / size**0.5)
        assert float(torch.dist(product, A)) < 1.2 * float(torch.dist(plain.W @ plain.H, A)) + 1e-3


def test_zeros():
    W, H = nmf(torch.zeros(4, 3), 2, generator=0)
    assert float((W @ H).abs().max()) == 0
    A = uniform(6, 5)
    A[2] = 0
    W, H = nmf(A, 6, rtol=1e-2, generator=0)
    assert bool(torch.isfinite(W).all()) and float((W @ H)[2].max()) < 1e-3


def test_bad_input():
    A = uniform(5, 4)
    for call, word in (
        (lambda: nmf(-A, 2), "negative"),
        (lambda: nmf(A, 0), "rank"),
        (lambda: nmf(A, 2, method="newton"), "method"),
        (lambda: nmf(A, 2, init="kmeans"), "init"),
        (lambda: nmf(A, 2, init=(A, A)), "init"),
        (lambda: nmf(A, 2, init=(-A[:, :2], A[:2])), "init"),
        (lambda: nmf(A, 2, rtol=0), "rtol"),
        (lambda: nmf(A, 2, max_iter=0), "max_iter"),
        (lambda: nmf(A.requires_grad_(), 2), "gradient"),
        (lambda: nmf(torch.full((2, 2), torch.inf), 1), "infinite"),
        (lambda: nmf(torch.ones(2, 3, 3), 1), "one real matrix"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
