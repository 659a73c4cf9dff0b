"""Cholesky factors, pivots and up- and downdates against LAPACK and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from resolvent import factor

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def positive(n, rank=None, dtype=torch.float64, batch=(), seed=0):
    G = random(*batch, n, rank or n + 2, dtype=dtype, seed=seed)
    return G @ G.mH


@pytest.mark.parametrize("dtype", DTYPES)
def test_factor_with_and_without_pivots(dtype):
    A = positive(6, dtype=dtype, batch=(2,))
    L = factor.cholesky(A)
    torch.testing.assert_close(L @ L.mH, A)
    P, order, rank = factor.cholesky(A, pivoted=True)
    assert rank.tolist() == [6, 6] and torch.equal(P, P.tril())
    for F, p, B in zip(P, order, A, strict=True):
        torch.testing.assert_close(F @ F.mH, B[p][:, p])
        d = F.diagonal().real
        assert bool((d[1:] <= d[:-1] * (1 + 1e-5)).all())


def test_pivots_are_lapacks():
    A = positive(8, 5).numpy()
    L, order, rank = factor.cholesky(A, pivoted=True)
    C, wanted, r, _ = scipy.linalg.lapack.dpstrf(A, lower=1)
    assert rank == r == 5 and L.shape == (8, 5)
    assert np.array_equal(order[:5], wanted[:5] - 1)
    assert np.allclose(L @ L.T, A[np.ix_(order, order)])
    assert np.allclose(L[:5], np.tril(C)[:5, :5])


def test_ranks_of_a_batch_and_tolerance():
    A = torch.stack([positive(5, 2), positive(5, 4, seed=1), torch.zeros(5, 5).double()])
    L, order, rank = factor.cholesky(A, pivoted=True)
    assert rank.tolist() == [2, 4, 0] and L.shape == (3, 5, 4) and not L[0, :, 2:].any()
    for F, p, B in zip(L, order, A, strict=True):
        torch.testing.assert_close(F @ F.mH, B[p][:, p])
    assert factor.cholesky(torch.diag(torch.tensor([1.0, 1e-3, 1e-6])), pivoted=True, rtol=1e-4).rank == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", (1, 3))
def test_updates_and_downdates(dtype, k):
    A, X = positive(7, dtype=dtype, batch=(2,)), random(2, 7, k, dtype=dtype, seed=2)
    L = factor.cholesky(A)
    up = factor.cholesky_update(L, X)
    torch.testing.assert_close(up, torch.linalg.cholesky(A + X @ X.mH))
    torch.testing.assert_close(factor.cholesky_update(up, X, sign=-1), L, rtol=1e-3, atol=1e-4)
    assert bool((up.diagonal(dim1=-2, dim2=-1).real > 0).all())


def test_vectors_many_updates_and_kinds():
    A = positive(6)
    L = factor.cholesky(A.numpy())
    assert isinstance(L, np.ndarray)
    window = random(40, 6, seed=3).numpy()
    for x in window:
        L = factor.cholesky_update(L, x)
    for x in window[:30]:
        L = factor.cholesky_update(L, x, sign=-1)
    wanted = np.linalg.cholesky(A.numpy() + window[30:].T @ window[30:])
    assert isinstance(L, np.ndarray) and np.allclose(L, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
@pytest.mark.parametrize("sign", (1, -1))
def test_gradients(dtype, sign):
    L = factor.cholesky(positive(4, dtype=dtype) + 4 * torch.eye(4, dtype=dtype)).requires_grad_()
    X = (0.3 * random(4, 2, dtype=dtype, seed=1)).requires_grad_()

    def update(L, X):
        # The imaginary part of a diagonal has no meaning: it is held at zero.
        real = L.diagonal().real.to(L.dtype).diag_embed()
        return factor.cholesky_update(L.tril(-1) + real, X, sign=sign)

    assert torch.autograd.gradcheck(update, (L, X))
    G = random(4, 2, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda G: factor.cholesky(G @ G.mH, pivoted=True, rtol=1e-12).L, G)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.complex128))
def test_downdates_to_singular_matrices_are_refused(dtype):
    # Orthogonal columns of very different lengths, so that rounding alone decides on the sign of the last pivot.
    for seed in range(60):
        n = 2 + seed % 20
        Q = torch.linalg.qr(random(n, n, dtype=dtype, seed=seed)).Q
        L = factor.qr((Q * torch.linspace(1, 2, n)).mH).R.mH
        with pytest.raises(ValueError, match="positive definite"):
            factor.cholesky_update(L, Q[:, 0], sign=-1)
        M = factor.cholesky_update(L, 0.99 * Q[:, 0], sign=-1)
        wanted = L @ L.mH - 0.99**2 * torch.outer(Q[:, 0], Q[:, 0].conj())
        torch.testing.assert_close(M @ M.mH, wanted, rtol=1e-4, atol=1e-5)


def test_bad_input():
    eye = torch.eye(3)
    for call, error, word in (
        (lambda: factor.cholesky(torch.ones(2, 3)), ValueError, "n, n"),
        (lambda: factor.cholesky(-eye), ValueError, "positive definite"),
        (lambda: factor.cholesky(torch.ones(2, 2)), ValueError, "pivoted=True"),
        (lambda: factor.cholesky(eye, rtol=0.1), ValueError, "rtol"),
        (lambda: factor.cholesky(eye, pivoted=True, rtol=-1), ValueError, "rtol"),
        (lambda: factor.cholesky(torch.diag(torch.tensor([1.0, -1.0])), pivoted=True), ValueError, "semidefinite"),
        (lambda: factor.cholesky(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), pivoted=True), ValueError, "semidefinite"),
        (lambda: factor.cholesky(torch.tensor([[1.0, 2.0], [0.0, 1.0]])), ValueError, "Hermitian"),
        (lambda: factor.cholesky(torch.full((2, 2), torch.inf)), ValueError, "infinite"),
        (lambda: factor.cholesky(eye.half()), TypeError, "float16"),
        (lambda: factor.cholesky_update(eye, torch.ones(2)), ValueError, "X must have shape"),
        (lambda: factor.cholesky_update(eye, torch.ones(3), sign=2), ValueError, "sign"),
        (lambda: factor.cholesky_update(-eye, torch.ones(3)), ValueError, "positive diagonal"),
        (lambda: factor.cholesky_update(eye, torch.ones(3), sign=-1), ValueError, "positive definite"),
    ):
        with pytest.raises(error, match=word):
            call()
