"""Lanczos tridiagonalisation and the largest singular value."""

from __future__ import annotations

import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, MatrixFree, Zero, as_operator
from resolvent.spectra.golub_kahan import largest_singular
from resolvent.spectra.lanczos import lanczos_tridiagonal


def _gaussian(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def _hermitian(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    A = _gaussian(n, n, dtype=dtype)
    return A + A.mH


def _tridiagonal(alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return torch.diag_embed(alpha) + torch.diag_embed(beta, 1) + torch.diag_embed(beta, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_basis_is_orthonormal_and_projects_to_the_tridiagonal(dtype):
    A = _hermitian(60, dtype)
    alpha, beta, Q = lanczos_tridiagonal(as_operator(A), _gaussian(60, 3, dtype=dtype), 20, return_basis=True)
    tolerance = 300 * torch.finfo(dtype).eps
    gram = Q.conj() @ Q.mT
    assert (gram - torch.eye(20, dtype=dtype)).abs().max() < tolerance
    projected = Q.conj() @ A @ Q.mT
    assert (projected - _tridiagonal(alpha, beta).to(dtype)).abs().max() < tolerance * A.abs().max() * 10


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_full_run_has_the_eigenvalues(reorthogonalize):
    A = Diagonal(torch.linspace(1, 2, 12, dtype=torch.float64))
    alpha, beta = lanczos_tridiagonal(A, torch.ones(12, 2, dtype=torch.float64), 30, reorthogonalize=reorthogonalize)
    assert alpha.shape == (2, 12)
    assert beta.shape == (2, 11)
    found = torch.linalg.eigvalsh(_tridiagonal(alpha, beta))
    torch.testing.assert_close(found, A._diagonal().expand(2, 12), rtol=1e-6, atol=0)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_breakdown_ends_only_its_own_run(reorthogonalize):
    A = Diagonal(torch.tensor([1.0, 1.0, 2.0, 2.0, 5.0, 7.0], dtype=torch.float64))
    X = torch.ones(6, 2, dtype=torch.float64)
    X[4:, 0] = 0
    alpha, beta = lanczos_tridiagonal(A, X, 4, reorthogonalize=reorthogonalize)
    torch.testing.assert_close(alpha[0], torch.tensor([1.5, 1.5, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(beta[0], torch.tensor([0.5, 0, 0], dtype=torch.float64))
    found = torch.linalg.eigvalsh(_tridiagonal(alpha[1], beta[1]))
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 5.0, 7.0], dtype=torch.float64))


def test_recurrences_agree_above_and_below_the_kernel_size():
    d = torch.linspace(-1, 1, 12_000, dtype=torch.float64)
    X = _gaussian(12_000, 4)
    with_basis = lanczos_tridiagonal(Diagonal(d), X, 12)
    short = lanczos_tridiagonal(Diagonal(d), X, 12, reorthogonalize=False)
    torch.testing.assert_close(with_basis, short, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_sizes_at_the_end_of_the_range(size):
    d = torch.linspace(1, 2, 50, dtype=torch.float64)
    X = _gaussian(50, 2)
    expected = lanczos_tridiagonal(Diagonal(d), X, 8)
    for reorthogonalize in (True, False):
        alpha, beta = lanczos_tridiagonal(Diagonal(d * size), X, 8, reorthogonalize=reorthogonalize)
        torch.testing.assert_close((alpha / size, beta / size), expected, rtol=1e-9, atol=1e-11)


def test_bad_input_is_named():
    A = as_operator(torch.eye(4))
    with pytest.raises(ValueError, match="X0 must have shape"):
        lanczos_tridiagonal(A, torch.ones(3, 1), 2)
    with pytest.raises(ValueError, match="X0 must have finite"):
        lanczos_tridiagonal(A, torch.zeros(4, 1), 2)
    with pytest.raises(ValueError, match="steps"):
        lanczos_tridiagonal(A, torch.ones(4, 1), 0)
    with pytest.raises(ValueError, match="return_basis"):
        lanczos_tridiagonal(A, torch.ones(4, 1), 1, reorthogonalize=False, return_basis=True)
    broken = MatrixFree((4, 4), lambda X: X * float("nan"), dtype=torch.float32, hermitian=True)
    with pytest.raises(ValueError, match="NaN"):
        lanczos_tridiagonal(broken, torch.ones(4, 1), 3)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10), (torch.complex128, 1e-10)]
)
@pytest.mark.parametrize("shape", [(80, 50), (50, 80), (1, 30), (30, 1)])
def test_largest_singular_value(dtype, tolerance, shape):
    A = _gaussian(*shape, dtype=dtype)
    sigma, u, v, info = largest_singular(as_operator(A), generator=0)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    exact = torch.linalg.svdvals(A.to(wide))[0]
    assert abs(float(sigma) / float(exact) - 1) < tolerance
    # The error of the value is the square of that of the vectors.
    assert torch.linalg.vector_norm(A.mH @ u - sigma * v) < 2 * tolerance**0.5 * exact
    assert torch.linalg.vector_norm(A @ v - sigma * u) < 2 * tolerance**0.5 * exact
    assert info.converged
    assert info.matvecs > 0


@pytest.mark.parametrize("size", [1e300, 1e-305])
def test_largest_singular_value_at_the_end_of_the_range(size):
    A = _gaussian(40, 30)
    sigma = largest_singular(as_operator(A * size), generator=0)[0]
    assert abs(float(sigma / size / torch.linalg.svdvals(A)[0]) - 1) < 1e-9


def test_largest_singular_value_of_special_operators():
    assert float(largest_singular(Zero(5, 3))[0]) == 0
    assert float(largest_singular(as_operator(torch.eye(7) * 3))[0]) == pytest.approx(3, rel=1e-6)
    assert largest_singular(as_operator(torch.zeros(0, 3)))[0].shape == ()
    close = Diagonal(torch.cat([torch.linspace(0, 0.999, 500), torch.tensor([0.9999, 1.0])]).double())
    assert float(largest_singular(close, rtol=1e-8, generator=1)[0]) == pytest.approx(1, rel=1e-8)


def test_largest_singular_value_that_is_not_reached_raises():
    A = Diagonal(torch.linspace(0, 1, 3000, dtype=torch.float64))
    with pytest.raises(ConvergenceError) as caught:
        largest_singular(A, rtol=1e-12, max_products=10, generator=0)
    assert caught.value.error > 1e-12
    assert float(caught.value.best[0]) < 1
    broken = MatrixFree((9, 9), lambda X: X * float("nan"), dtype=torch.float32, hermitian=True)
    with pytest.raises(ValueError, match="NaN"):
        largest_singular(broken)


def test_same_seed_same_result():
    A = as_operator(_gaussian(60, 60))
    assert float(largest_singular(A, generator=3)[0]) == float(largest_singular(A, generator=3)[0])
