"""Factors of indefinite matrices against LAPACK, eigenvalues and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from resolvent import factor

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def hermitian(*shape, dtype=torch.float64, seed=0, diagonal=1.0):
    """With a weak diagonal most blocks are of two."""
    G = random(*shape, dtype=dtype, seed=seed)
    H = G + G.mH
    d = H.diagonal(dim1=-2, dim2=-1).diag_embed()
    return H - (1 - diagonal) * d


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("diagonal", (0.0, 1.0))
@pytest.mark.parametrize("shape", ((1, 1), (6, 6), (2, 3, 9, 9), (80, 80), (0, 0), (0, 3, 3)))
def test_factors(dtype, diagonal, shape):
    A = hermitian(*shape, dtype=dtype, diagonal=diagonal)
    factors = factor.ldl(A)
    L, D, _ = factors
    torch.testing.assert_close(factors.to_dense(), A, rtol=1e-4, atol=1e-4)
    assert torch.equal(L, L.tril()) and bool((L.diagonal(dim1=-2, dim2=-1) == 1).all())
    assert torch.equal(D, D.mH) and not D.tril(-2).any()
    twos = D.diagonal(-1, -2, -1) != 0
    assert not bool((twos[..., 1:] & twos[..., :-1]).any()) and not L.diagonal(-1, -2, -1)[twos].any()


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
def test_factors_are_lapacks(dtype):
    A = hermitian(12, 12, dtype=dtype, diagonal=0.2).numpy()
    lower, D, order = scipy.linalg.ldl(A, hermitian=True)
    found = factor.ldl(A)
    assert np.array_equal(found.order, order)
    assert np.allclose(found.D, D) and np.allclose(found.L, lower[order])
    assert bool(np.diagonal(found.D, -1).any())
    assert np.array_equal(factor.ldl(np.tril(A)).L, found.L)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("diagonal", (0.0, 1.0))
def test_solutions_inertia_and_determinants(dtype, diagonal):
    A = hermitian(3, 20, 20, dtype=dtype, diagonal=diagonal, seed=3)
    wide = A.to(torch.complex128 if dtype.is_complex else torch.float64)
    factors = factor.ldl(A)
    B = random(3, 20, 2, dtype=dtype, seed=1)
    wanted = torch.stack(
        [torch.from_numpy(np.linalg.solve(a, b)) for a, b in zip(wide.numpy(), B.numpy(), strict=True)]
    )
    torch.testing.assert_close(factors.solve(B).to(wanted.dtype), wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(factors.solve(B[..., 0]), factors.solve(B)[..., 0], rtol=1e-3, atol=1e-4)
    w = torch.linalg.eigvalsh(wide)
    assert torch.equal(factors.inertia().positive, (w > 0).sum(-1))
    assert torch.equal(factors.inertia().negative, (w < 0).sum(-1))
    sign, log = factors.slogdet()
    assert torch.equal(sign.double(), w.sign().prod(-1))
    torch.testing.assert_close(log.double(), w.abs().log().sum(-1), rtol=1e-4, atol=1e-3)


def test_inertia_of_singular_matrices():
    G = random(9, 4, seed=2)
    A = G[:, :3] @ G[:, :3].T - G[:, 3:] @ G[:, 3:].T
    assert factor.ldl(A.numpy()).inertia() == (3, 1, 5)
    assert factor.ldl(torch.zeros(3, 3)).inertia() == (0, 0, 3)
    assert factor.ldl(torch.diag(torch.tensor([1.0, -1e-3, 0.0]))).inertia(rtol=0.01) == (1, 0, 2)
    assert float(factor.ldl(torch.zeros(2, 2)).slogdet()[1]) == -torch.inf


def test_inertia_of_an_indefinite_saddle_is_exact():
    # n positive and m negative eigenvalues for any full-rank constraint, however small the block above is not zero.
    K = torch.zeros(12, 12, dtype=torch.float64)
    K[:8, :8], K[8:, :8] = torch.eye(8), random(4, 8)
    K[:8, 8:] = K[8:, :8].T
    assert factor.ldl(K).inertia() == (8, 4, 0)


@pytest.mark.parametrize("scale", (1e-20, 1e20))
def test_float32_at_any_scale(scale):
    A = hermitian(7, 7, diagonal=0.0, seed=4).float()
    factors = factor.ldl(A * scale)
    torch.testing.assert_close(factors.to_dense() / scale, A, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(A @ (factors.solve(torch.ones(7)) * scale), torch.ones(7), rtol=1e-4, atol=1e-4)
    w = torch.linalg.eigvalsh(A.double())
    assert factors.inertia() == (int((w > 0).sum()), int((w < 0).sum()), 0)


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
@pytest.mark.parametrize("diagonal", (0.0, 1.0))
def test_gradients(dtype, diagonal):
    G = random(2, 4, 4, dtype=dtype, seed=1).requires_grad_()
    ones = torch.ones(2, 4, dtype=dtype)

    def made(G):
        H = G + G.mH
        return H - (1 - diagonal) * H.diagonal(dim1=-2, dim2=-1).diag_embed()

    assert bool(factor.ldl(made(G)).D.diagonal(-1, -2, -1).any()) or diagonal
    assert torch.autograd.gradcheck(lambda G: factor.ldl(made(G))[:2], G)
    assert torch.autograd.gradgradcheck(lambda G: factor.ldl(made(G))[:2], G)
    assert torch.autograd.gradcheck(lambda G: factor.ldl(made(G)).solve(ones), G)
    assert torch.autograd.gradcheck(lambda G: factor.ldl(made(G)).slogdet()[1], G)


def test_gradient_is_that_of_a_hermitian_matrix():
    A = hermitian(5, 5).requires_grad_()
    (grad,) = torch.autograd.grad(factor.ldl(A).slogdet()[1], A)
    torch.testing.assert_close(grad, torch.linalg.inv(A.detach()))


def test_bad_input():
    for call, error, word in (
        (lambda: factor.ldl(torch.ones(2, 3)), ValueError, "n, n"),
        (lambda: factor.ldl(torch.tensor([[1.0, 2.0], [3.0, 1.0]])), ValueError, "Hermitian"),
        (lambda: factor.ldl(torch.eye(2) * 1j), ValueError, "imaginary"),
        (lambda: factor.ldl(torch.full((2, 2), torch.nan)), ValueError, "NaN"),
        (lambda: factor.ldl(torch.eye(2).half()), TypeError, "float16"),
        (lambda: factor.ldl(torch.zeros(2, 2)).solve(torch.ones(2)), ValueError, "singular"),
        (lambda: factor.ldl(torch.eye(2)).solve(torch.ones(3)), ValueError, "B must have shape"),
        (lambda: factor.ldl(torch.eye(2)).inertia(rtol=2), ValueError, "rtol"),
        (lambda: factor.ldl(torch.zeros(2, 2).requires_grad_()).L.sum().backward(), ValueError, "no gradient"),
    ):
        with pytest.raises(error, match=word):
            call()
