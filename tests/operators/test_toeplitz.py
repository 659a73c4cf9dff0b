"""Toeplitz, circulant, Hankel: SciPy's conventions, FFT products, facts."""

import numpy as np
import pytest
import scipy.linalg
import torch

from resolvent.operators import Circulant, Hankel, Toeplitz

F64, C128 = torch.float64, torch.complex128


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 7), (7, 1), (17, 5), (128, 128), (1000, 31)])
@pytest.mark.parametrize("dtype", [F64, C128])
def test_products_agree_with_scipy(m, n, dtype):
    c, r = torch.randn(m, dtype=dtype), torch.randn(n, dtype=dtype)
    X = torch.randn(n, 3, dtype=dtype)
    T = scipy.linalg.toeplitz(c.numpy(), r.numpy())
    np.testing.assert_allclose((Toeplitz(c, r) @ X).numpy(), T @ X.numpy(), atol=1e-11)
    H = scipy.linalg.hankel(c.numpy(), r.numpy())
    np.testing.assert_allclose((Hankel(c, r) @ X).numpy(), H @ X.numpy(), atol=1e-11)
    np.testing.assert_allclose(Hankel(c, r)[:, :].numpy(), H)


@pytest.mark.parametrize("n", [1, 2, 11, 97, 512])
def test_a_circulant_of_any_length(n):
    c, X = torch.randn(n, dtype=F64), torch.randn(n, 2, dtype=F64)
    dense = torch.from_numpy(scipy.linalg.circulant(c.numpy()))
    torch.testing.assert_close(Circulant(c) @ X, dense @ X, atol=1e-12, rtol=1e-11)
    torch.testing.assert_close(Circulant(c).H @ X, dense.mT @ X, atol=1e-12, rtol=1e-11)


def test_circulant_eigenvalues():
    c = torch.randn(6, dtype=F64)
    C = Circulant(c)
    found = torch.linalg.eigvals(C.to_dense())
    gaps = (found[:, None] - C.eigenvalues()[None, :]).abs()
    assert gaps.min(0).values.max() < 1e-12 and gaps.min(1).values.max() < 1e-12


def test_circulants_commute():
    A, B = Circulant(torch.randn(5, dtype=F64)), Circulant(torch.randn(5, dtype=F64))
    x = torch.randn(5, dtype=F64)
    torch.testing.assert_close(A @ (B @ x), B @ (A @ x))


def test_what_is_known():
    c = torch.randn(4, dtype=C128)
    assert not Toeplitz(c).hermitian
    real = torch.complex(c.real, c.imag * torch.tensor([0.0, 1, 1, 1], dtype=F64))
    assert Toeplitz(real).hermitian
    torch.testing.assert_close(Toeplitz(real).to_dense(), Toeplitz(real).to_dense().mH)
    assert Toeplitz(c.real).hermitian and not Toeplitz(c.real, c.real).hermitian
    assert Hankel(c.real).hermitian and not Hankel(c).hermitian and not Hankel(c.real, c.real[:2]).hermitian
    assert not Circulant(c.real).hermitian
    assert Circulant(torch.ones(3)).declare(hermitian=True).H.hermitian


def test_real_stays_real_and_single_stays_single():
    T = Toeplitz(torch.randn(2000), torch.randn(1500))
    X = torch.randn(1500, 2)
    Y = T @ X
    assert Y.dtype == torch.float32
    exact = T.to_dense().double() @ X.double()
    assert (Y - exact).norm() / exact.norm() < 1e-6


def test_a_million_rows_without_a_matrix():
    n = 1_000_003
    T = Toeplitz(torch.ones(n, dtype=F64))
    torch.testing.assert_close(T @ torch.ones(n, dtype=F64), torch.full((n,), float(n), dtype=F64), rtol=1e-10, atol=0)
    assert T[n - 1, 0] == 1 and T._trace() == n


def test_arrays_are_copied_so_that_later_writes_do_not_split_the_operator():
    c = np.arange(1.0, 5.0)
    T = Toeplitz(c)
    before = T @ np.ones(4)
    c[:] = 0
    np.testing.assert_allclose(T @ np.ones(4), before)
    np.testing.assert_allclose(T.to_dense() @ np.ones(4), before)


def test_inference_mode_leaves_nothing_behind():
    c = torch.randn(4, dtype=F64, requires_grad=True)
    T = Toeplitz(c)
    x = torch.randn(4, dtype=F64, requires_grad=True)
    with torch.inference_mode():
        _ = T @ x
    (T @ x).sum().backward()
    assert c.grad is not None and x.grad is not None


def test_second_derivatives():
    c, x = torch.randn(3, dtype=F64, requires_grad=True), torch.randn(3, 1, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda c, x: Toeplitz(c) @ x, (c, x))


def test_bad_input_is_named():
    for cls in (Toeplitz, Circulant, Hankel):
        with pytest.raises(ValueError, match="c must"):
            cls(torch.ones(()))
        with pytest.raises(ValueError, match="c must"):
            cls(torch.ones(0))
        with pytest.raises(ValueError, match="c has 1 entries"):
            cls(torch.tensor([1.0, torch.inf]))
    with pytest.raises(ValueError, match="r must"):
        Toeplitz(torch.ones(2), torch.ones(0))
    with pytest.raises(ValueError, match="batch shapes"):
        Hankel(torch.ones(2, 2), torch.ones(3, 2))
    with pytest.raises(TypeError, match="r has dtype"):
        Toeplitz(torch.ones(2), torch.ones(2, dtype=F64))
    with pytest.raises(TypeError, match="c must be a numeric"):
        Toeplitz(["a"])
