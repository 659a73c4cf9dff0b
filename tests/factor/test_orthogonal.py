"""Orthogonal factorisations against LAPACK, exact ranks and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from resolvent import factor

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def orthonormal(Q):
    torch.testing.assert_close(Q.mH @ Q, torch.eye(Q.shape[-1], dtype=Q.dtype).expand(*Q.shape[:-2], -1, -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ((7, 4), (4, 7), (2, 3, 5, 5), (0, 3), (3, 0)))
def test_factors(dtype, shape):
    A = random(*shape, dtype=dtype)
    Q, R = factor.qr(A)
    torch.testing.assert_close(Q @ R, A)
    orthonormal(Q)
    d = R.diagonal(dim1=-2, dim2=-1)
    assert torch.equal(R, R.triu()) and bool((d.real >= 0).all())
    L, P = factor.lq(A)
    torch.testing.assert_close(L @ P, A)
    orthonormal(P.mH)
    assert torch.equal(L, L.tril())
    Q, R, order, rank = factor.qr(A, pivoted=True)
    torch.testing.assert_close(Q @ R, A.gather(-1, order[..., None, :].expand(A.shape)))
    assert torch.as_tensor(rank).eq(min(shape[-2:])).all()
    if len(shape) == 2:
        U, T, V = factor.utv(A)
        torch.testing.assert_close(U @ T @ V.mH, A)
        assert torch.equal(T, T.triu())
        orthonormal(U)
        orthonormal(V)


def test_unique_and_so_the_cholesky_factor():
    A = random(9, 4)
    torch.testing.assert_close(factor.qr(A).R, factor.cholesky(A.T @ A).mT)


def test_pivots_are_lapacks_and_reveal_the_rank():
    A = (random(20, 6, seed=1) @ random(6, 15, seed=2)).numpy()
    Q, R, order, rank = factor.qr(A, pivoted=True)
    _, wanted, pivots = scipy.linalg.qr(A, mode="economic", pivoting=True)
    assert rank == 6 and np.array_equal(order[:6], pivots[:6])
    assert np.allclose(np.abs(R[:6]), np.abs(wanted[:6]))
    assert isinstance(Q, np.ndarray)
    stacked = torch.stack([torch.from_numpy(A), torch.zeros(20, 15).double(), random(20, 15)])
    assert factor.qr(stacked, pivoted=True).rank.tolist() == [6, 0, 15]
    assert factor.qr(np.diag([1.0, 1e-3, 1e-6]), pivoted=True, rtol=1e-4).rank == 2


def test_complete_decomposition_gives_the_pseudoinverse():
    A = random(12, 3, seed=1) @ random(3, 9, seed=2)
    U, T, V = factor.utv(A)
    assert T.shape == (3, 3)
    torch.testing.assert_close(V @ torch.linalg.inv(T) @ U.mH, torch.linalg.pinv(A))
    B = random(12, 9)
    U, T, V = factor.utv(B, rank=4)
    best = torch.linalg.svdvals(B)[4:].square().sum().sqrt()
    assert best <= torch.linalg.matrix_norm(B - U @ T @ V.mH) < 2 * best
    assert factor.utv(torch.stack([A, B]), rank=2).T.shape == (2, 2, 2)


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
def test_gradients(dtype):
    A = random(5, 3, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: tuple(factor.qr(A)), A)
    assert torch.autograd.gradcheck(lambda A: factor.qr(A, pivoted=True)[:2], A)
    assert torch.autograd.gradcheck(lambda A: tuple(factor.lq(A.mH)), A)
    assert torch.autograd.gradcheck(lambda A: tuple(factor.utv(A)), A)


def test_bad_input():
    for call, error, word in (
        (lambda: factor.qr(torch.ones(3)), ValueError, "A must have shape"),
        (lambda: factor.qr(torch.full((2, 2), torch.nan)), ValueError, "NaN"),
        (lambda: factor.qr(torch.eye(2), rtol=0.1), ValueError, "rtol"),
        (lambda: factor.qr(torch.eye(2), pivoted=True, rtol=2), ValueError, "rtol"),
        (lambda: factor.lq(torch.eye(2).half()), TypeError, "float16"),
        (lambda: factor.utv(torch.ones(2, 2, 2)), ValueError, "one matrix"),
        (lambda: factor.utv(torch.eye(2), rank=3), ValueError, "rank"),
        (lambda: factor.utv(torch.eye(2), rank=1, rtol=0.1), ValueError, "not both"),
    ):
        with pytest.raises(error, match=word):
            call()
