"""Jacobi's methods against mpmath, LAPACK and exact values."""

import mpmath
import numpy as np
import pytest
import torch

from resolvent import factor


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.complex64, torch.complex128))
@pytest.mark.parametrize("shape", ((9, 5), (5, 9), (2, 3, 20, 20), (4, 1), (0, 3), (3, 0), (2, 0, 4, 4)))
def test_svd_rebuilds_and_agrees_with_lapack(dtype, shape):
    A = random(*shape, dtype=dtype)
    U, S, Vh = factor.jacobi_svd(A)
    assert U.dtype == dtype and S.dtype == dtype.to_real()
    torch.testing.assert_close(U * S[..., None, :] @ Vh, A)
    torch.testing.assert_close(S, torch.linalg.svdvals(A))
    eye = torch.eye(min(shape[-2:]), dtype=dtype).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close(U.mH @ U, eye)
    torch.testing.assert_close(Vh @ Vh.mH, eye)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.complex64, torch.complex128))
@pytest.mark.parametrize("positive", (True, False))
def test_eigh_agrees_with_lapack(dtype, positive):
    A = random(3, 12, 12, dtype=dtype)
    A = A @ A.mH if positive else A + A.mH
    w, V = factor.jacobi_eigh(A)
    torch.testing.assert_close(w, torch.linalg.eigvalsh(A), rtol=1e-4 if w.dtype == torch.float32 else 1e-9, atol=1e-5)
    torch.testing.assert_close(A @ V, V * w[..., None, :], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(V.mH @ V, torch.eye(12, dtype=dtype).expand(3, 12, 12))


def graded(n, spread, seed=0):
    """A well-conditioned matrix, its columns scaled over `spread` decades in no order."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, n)) * 10.0 ** -rng.permutation(np.linspace(0, spread, n))


def test_small_singular_values_have_all_their_digits():
    A = graded(10, 30)
    with mpmath.workdps(80):
        exact = sorted((float(x) for x in mpmath.svd_r(mpmath.matrix(A.tolist()), compute_uv=False)), reverse=True)
    assert exact[-1] / exact[0] < 1e-28
    assert np.allclose(factor.jacobi_svd(A).S, exact, rtol=1e-13, atol=0)
    assert np.allclose(factor.jacobi_svd(A.T).S, exact, rtol=1e-13, atol=0)


def test_small_eigenvalues_have_all_their_digits():
    A = graded(8, 12)
    with mpmath.workdps(80):
        # The Gram matrix is made exactly, then rounded: the eigenvalues are those of the rounded one.
        H = np.array((A.T @ A).tolist())
        exact = sorted(float(x) for x in mpmath.eigsy(mpmath.matrix(H.tolist()), eigvals_only=True))
    assert exact[0] > 0 and np.allclose(factor.jacobi_eigh(H).eigenvalues, exact, rtol=1e-12, atol=0)
    assert np.allclose(factor.jacobi_eigh(H).eigenvalues, exact, rtol=1e-12, atol=0)


def test_invariances_and_extremes():
    A = random(7, 5).numpy()
    S = factor.jacobi_svd(A).S
    assert np.allclose(factor.jacobi_svd(A[::-1, [2, 0, 4, 1, 3]]).S, S)
    assert np.allclose(factor.jacobi_svd(1e-200 * A).S, 1e-200 * S, rtol=1e-13, atol=0)
    assert np.allclose(factor.jacobi_svd(1e200 * A).S, 1e200 * S, rtol=1e-13, atol=0)
    U, S, Vh = factor.jacobi_svd(np.ones((6, 4)))
    assert np.allclose(S, [24**0.5, 0, 0, 0]) and np.allclose(Vh @ Vh.T, np.eye(4)) and np.allclose(U.T @ U, np.eye(4))
    U, S, Vh = factor.jacobi_svd(np.zeros((3, 2)))
    assert not S.any() and np.allclose(U.T @ U, np.eye(2))
    w, V = factor.jacobi_eigh(np.diag([1.0, 0.0, -1.0]))
    assert w.tolist() == [-1, 0, 1] and np.array_equal(np.abs(V), np.eye(3)[::-1])


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
def test_gradients_of_values(dtype):
    A = random(5, 3, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: factor.jacobi_svd(A).S, A)
    H = random(4, 4, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda H: factor.jacobi_eigh(H + H.mH).eigenvalues, H)


def test_bad_input():
    for call, error, word in (
        (lambda: factor.jacobi_svd(torch.ones(3)), ValueError, "A must have shape"),
        (lambda: factor.jacobi_svd(torch.full((2, 2), torch.nan)), ValueError, "NaN"),
        (lambda: factor.jacobi_svd(torch.ones(2, 2).half()), TypeError, "float16"),
        (lambda: factor.jacobi_eigh(torch.ones(2, 3)), ValueError, "n, n"),
        (lambda: factor.jacobi_eigh(torch.tensor([[1.0, 2.0], [3.0, 1.0]])), ValueError, "Hermitian"),
    ):
        with pytest.raises(error, match=word):
            call()


def test_vectors_refuse_a_gradient():
    A = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for value in (factor.jacobi_svd(A).U, factor.jacobi_svd(A).Vh, factor.jacobi_eigh(A.mT @ A).eigenvectors):
        with pytest.raises(RuntimeError, match="no gradient"):
            value.sum().backward()


def test_every_matrix_of_a_batch_has_to_be_hermitian():
    A = torch.stack([1e20 * torch.eye(2), torch.tensor([[1.0, 5.0], [0.0, 1.0]])]).double()
    with pytest.raises(ValueError, match="Hermitian"):
        factor.jacobi_eigh(A)
