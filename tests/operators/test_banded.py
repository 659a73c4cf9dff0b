"""Triangles and three diagonals: panels, ignored halves, facts."""

import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.operators import Triangular, Tridiagonal

F64, C128 = torch.float64, torch.complex128


@pytest.mark.parametrize("n", [1, 255, 256, 257, 600])
@pytest.mark.parametrize("upper", [False, True])
def test_panels_of_any_size(n, upper):
    a, X = torch.randn(n, n, dtype=F64), torch.randn(n, 2, dtype=F64)
    A = Triangular(a, upper=upper)
    dense = a.triu() if upper else a.tril()
    torch.testing.assert_close(A @ X, dense @ X)
    torch.testing.assert_close(A.H @ X, dense.mT @ X)
    assert A.H.upper is not upper


def test_the_other_half_is_never_read_and_gets_no_gradient():
    a = torch.randn(300, 300, dtype=F64)
    garbage = a + 1e6 * torch.ones(300, 300, dtype=F64).triu(1)
    x = torch.randn(300, dtype=F64)
    assert torch.equal(Triangular(garbage) @ x, Triangular(a) @ x)
    a.requires_grad_()
    (Triangular(a) @ x).sum().backward()
    torch.testing.assert_close(a.grad, x.expand(300, 300).tril())


def test_second_derivatives_through_panels(monkeypatch):
    monkeypatch.setattr("resolvent.operators.banded._PANEL", 2)
    a, x = torch.randn(5, 5, dtype=C128, requires_grad=True), torch.randn(5, 1, dtype=C128, requires_grad=True)
    for upper in (False, True):
        assert torch.autograd.gradcheck(lambda a, x, u=upper: Triangular(a, upper=u) @ x, (a, x))
        assert torch.autograd.gradgradcheck(lambda a, x, u=upper: Triangular(a, upper=u) @ x, (a, x))


def test_a_triangle_and_its_mirror_image_are_told_apart():
    a = torch.randn(3, 3, dtype=F64)
    assert not (Triangular(a) @ Triangular(a)).positive
    L = Triangular(a)
    assert (L @ L.H).positive


def test_tridiagonal_agrees_with_scipy():
    low, d, up = np.random.randn(999), np.random.randn(1000), np.random.randn(999)  # noqa: NPY002
    dense = scipy.sparse.diags([low, d, up], [-1, 0, 1])
    x = np.ones((1000, 2)) + np.arange(2)
    A = Tridiagonal(low, d, up)
    np.testing.assert_allclose(A @ x, dense @ x, atol=1e-12)
    np.testing.assert_allclose(A.H @ x, dense.T @ x, atol=1e-12)
    assert A.kind == "numpy" and not A.hermitian


def test_eigenvalues_of_the_second_difference():
    n = 20
    A = Tridiagonal(-torch.ones(n - 1, dtype=F64), 2 * torch.ones(n, dtype=F64))
    k = torch.arange(1, n + 1, dtype=F64)
    exact = 2 - 2 * torch.cos(k * torch.pi / (n + 1))
    assert A.hermitian
    torch.testing.assert_close(torch.linalg.eigvalsh(A.to_dense()), exact)


def test_hermitian_only_where_it_is_known():
    low, d = torch.randn(3, dtype=C128), torch.randn(4, dtype=F64)
    assert Tridiagonal(low, d + 0j).hermitian
    torch.testing.assert_close(Tridiagonal(low, d + 0j).to_dense(), Tridiagonal(low, d + 0j).to_dense().mH)
    assert not Tridiagonal(low, d + 1j).hermitian
    assert not Tridiagonal(low, d + 0j, low.conj()).hermitian
    assert Tridiagonal(low, d + 0j, low.conj()).declare(hermitian=True).hermitian


def test_one_row():
    A = Tridiagonal(torch.ones(0), torch.tensor([3.0]))
    assert A.to_dense().tolist() == [[3.0]] and (A @ torch.ones(1)).tolist() == [3.0] and A[0, 0] == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((torch.ones(3), torch.ones(3), torch.ones(2)), r"lower must have shape \(\*batch, 2\)"),
        ((torch.ones(2), torch.ones(3), torch.ones(3)), "upper must"),
        ((torch.ones(0), torch.ones(0)), "diag must"),
        ((torch.ones(1), torch.tensor([1.0, torch.nan])), "diag has 1 entries"),
        ((torch.ones(2, 1), torch.ones(3, 2)), "batch shapes"),
    ],
)
def test_bad_diagonals_are_named(args, words):
    with pytest.raises(ValueError, match=words):
        Tridiagonal(*args)


def test_bad_triangles_are_named():
    with pytest.raises(ValueError, match=r"T must have shape \(\*batch, n, n\), got \(2, 3\)"):
        Triangular(torch.ones(2, 3))
    with pytest.raises(ValueError, match="T has 4 entries"):
        Triangular(torch.full((2, 2), torch.inf))
