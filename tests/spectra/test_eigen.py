"""eigsh and eigs: values against LAPACK and closed forms, multiplicities, bad input, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, LowRank, MatrixFree, Sparse
from resolvent.spectra import eigs, eigsh

DOUBLE = torch.float64


def _gaussian(*shape: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _hermitian(n: int, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    A = _gaussian(n, n, dtype=dtype)
    return (A + A.mH) / 2


def _line(n: int) -> sp.csr_matrix:
    return sp.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])


def _grid(m: int) -> tuple[sp.csr_matrix, np.ndarray]:
    line, one = _line(m), sp.identity(m)
    values = 2 - 2 * np.cos(np.pi * np.arange(1, m + 1) / (m + 1))
    return (sp.kron(line, one) + sp.kron(one, line)).tocsr(), np.sort((values[:, None] + values).ravel())


def _residual(A, w, V) -> float:
    return float(torch.linalg.vector_norm(A @ V - V * w.to(V.dtype), dim=0).max())


def _expected(w: torch.Tensor, k: int, which: str) -> torch.Tensor:
    low, high = w[: k // 2], w[len(w) - (k - k // 2) :]
    return {
        "LA": w[-k:],
        "SA": w[:k],
        "LM": w[w.abs().argsort(descending=True)[:k]].sort().values,
        "SM": w[w.abs().argsort()[:k]].sort().values,
        "BE": torch.cat([low, high]),
    }[which]


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "SM", "BE"])
@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_every_end_against_lapack(which, method, dtype):
    A = _hermitian(300, dtype)
    exact = _expected(torch.linalg.eigvalsh(A), 5, which)
    w, V, info = eigsh(A, 5, which=which, method=method, generator=0, return_info=True)
    torch.testing.assert_close(w, exact, rtol=1e-9, atol=1e-9)
    assert _residual(A, w, V) < 1e-9 * 30
    assert (V.mH @ V - torch.eye(5)).abs().max() < 1e-12
    assert info.converged
    assert (info.method == "dense") == (method == "dense")


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_grid_laplacian_with_its_double_eigenvalues(which, dtype):
    A, exact = _grid(48)
    w, V = eigsh(Sparse(A.astype("float32" if dtype == torch.float32 else "float64")), 9, which=which, generator=0)
    wanted = exact[:9] if which == "SA" else exact[-9:]
    V = torch.as_tensor(V)
    np.testing.assert_allclose(w, wanted, rtol=0, atol=8 * (3e-5 if dtype == torch.float32 else 1e-10))
    assert V.dtype == dtype
    assert (V.mT @ V - torch.eye(9)).abs().max() < (1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("copies", [2, 3, 6])
@pytest.mark.parametrize("seed", range(2))
def test_copies_of_a_multiple_eigenvalue_are_found(copies, seed):
    d = torch.cat([torch.linspace(0, 1, 1500, dtype=DOUBLE), torch.full((copies,), 1.5, dtype=DOUBLE)])
    w, _ = eigsh(Diagonal(d), 8, which="LA", generator=seed)
    torch.testing.assert_close(w, d.sort().values[-8:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_multiples_of_the_identity(value):
    w, V = eigsh(Diagonal(torch.full((1500,), value, dtype=DOUBLE)), 4, generator=0)
    torch.testing.assert_close(w, torch.full((4,), value, dtype=DOUBLE))
    assert (V.mT @ V - torch.eye(4)).abs().max() < 1e-12


def test_lonely_values_at_the_other_end_do_not_mislead_the_filter():
    d = torch.cat([torch.linspace(-3, 5, 1500, dtype=DOUBLE), torch.tensor([6.0, 6.0, 40.0], dtype=DOUBLE)])
    w, _ = eigsh(Diagonal(d), 4, which="SA", generator=0)
    torch.testing.assert_close(w, d[:4], rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [1e290, 1e-290])
def test_sizes_at_the_end_of_the_range(size):
    d = torch.linspace(0.5, 1, 1400, dtype=DOUBLE).square()
    w, _ = eigsh(Diagonal(d * size), 3, which="LA", generator=0)
    torch.testing.assert_close(w / size, d[-3:], rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [40, 1600])
def test_shift_and_invert(n):
    A, exact = _line(n).tocsr(), 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    w, V = eigsh(A, 4, sigma=1.0, generator=0)
    nearest = np.sort(exact[np.argsort(abs(exact - 1))[:4]])
    np.testing.assert_allclose(w, nearest, atol=1e-10)
    assert isinstance(V, np.ndarray)
    w, _ = eigsh(A, 3, which="SM", generator=0)
    np.testing.assert_allclose(w, exact[:3], atol=1e-11)


def test_a_tolerance_near_rounding_next_to_an_eigenvalue():
    # The residual of the inverse cannot fall to rounding; that of the matrix can. The eigenvalue is 0.
    line = sp.diags_array([-np.ones(49), 2 * np.ones(50), -np.ones(49)], offsets=[-1, 0, 1])
    A = sp.csc_array(sp.kronsum(line, line) - 2 * sp.eye_array(2500))
    w, _, info = eigsh(A, 1, sigma=6e-8, rtol=1e-12, generator=0, return_info=True)
    assert abs(w[0]) < 1e-13
    assert info.matvecs < 500


def test_shift_that_is_an_eigenvalue():
    d = torch.arange(1500, dtype=DOUBLE)
    w, _ = eigsh(Diagonal(d), 3, sigma=7.0, generator=0)
    torch.testing.assert_close(w, d[6:9])


def test_batches_are_solved_like_torch_does():
    A = _hermitian(7).expand(3, 7, 7) * torch.tensor([1.0, 2.0, -1.0], dtype=DOUBLE)[:, None, None]
    w, V = eigsh(A, 2, which="LA")
    torch.testing.assert_close(w, torch.linalg.eigvalsh(A)[:, -2:])
    assert V.shape == (3, 7, 2)


def test_same_seed_same_result_and_start_vector():
    A = Diagonal(torch.linspace(0, 1, 1300, dtype=DOUBLE) ** 3)
    first, second = (eigsh(A, 3, generator=5) for _ in range(2))
    assert torch.equal(first[1], second[1])
    w, _ = eigsh(A, 3, generator=5, v0=torch.ones(1300, dtype=DOUBLE))
    torch.testing.assert_close(w, first[0])


def test_bad_input_is_named():
    A = torch.eye(5)
    for k in (0, 6):
        with pytest.raises(ValueError, match="k must be between 1 and 5"):
            eigsh(A, k)
        with pytest.raises(ValueError, match="k must be between 1 and 5"):
            eigs(A, k)
    with pytest.raises(ValueError, match="square"):
        eigsh(torch.ones(3, 2), 1)
    with pytest.raises(ValueError, match="square"):
        eigs(torch.ones(3, 2), 1)
    with pytest.raises(ValueError, match="ermitian"):
        eigsh(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), 1)
    with pytest.raises(ValueError, match="which"):
        eigsh(A, 1, which="LR")
    with pytest.raises(ValueError, match="rtol"):
        eigsh(A, 1, rtol=-1.0)
    with pytest.raises(TypeError, match="k must be an int"):
        eigsh(A, 2.0)
    with pytest.raises(ValueError, match="v0"):
        eigsh(Diagonal(torch.ones(2000)), 1, v0=torch.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        eigsh(MatrixFree((2000, 2000), lambda X: X * float("nan"), dtype=DOUBLE, hermitian=True), 2)
    with pytest.raises(ValueError, match="factorisation"):
        eigsh(MatrixFree((9000, 9000), lambda X: X, dtype=DOUBLE, hermitian=True), 2, sigma=1.0)


def test_tolerance_that_is_not_reached_raises_with_the_best_value():
    A, _ = _grid(60)
    with pytest.raises(ConvergenceError) as caught:
        eigsh(A, 4, which="SA", max_matvecs=20, generator=0)
    assert caught.value.best[0].shape == (4,)
    assert caught.value.error > 1e-10


# ---- general ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["LM", "LR", "SR", "LI", "SM"])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_general_against_lapack(which, dtype):
    A = _gaussian(220, 220, dtype=dtype) / 15 + torch.diag(torch.linspace(0, 2, 220, dtype=DOUBLE)).to(dtype)
    exact = torch.linalg.eigvals(A)
    w, V = eigs(A, 4, which=which, method="arnoldi", generator=0)
    dense, _ = eigs(A, 4, which=which, method="dense")
    assert (V.norm(dim=0) - 1).abs().max() < 1e-12
    assert (A.to(V.dtype) @ V - V * w).norm(dim=0).max() < 1e-8
    assert (w[:, None] - exact).abs().min(1).values.max() < 1e-8
    keys = {"LM": w.abs(), "LR": w.real, "SR": -w.real, "LI": w.imag.abs(), "SM": -w.abs()}[which]
    same = {"LM": dense.abs(), "LR": dense.real, "SR": -dense.real, "LI": dense.imag.abs(), "SM": -dense.abs()}[which]
    torch.testing.assert_close(keys, same, rtol=0, atol=1e-8)


def test_general_shift_copies_and_zero():
    d = torch.cat([torch.linspace(0, 1, 1200, dtype=DOUBLE), torch.tensor([3.0, 3.0, 4.0], dtype=DOUBLE)])
    w, _ = eigs(Diagonal(d), 3, generator=0)
    torch.testing.assert_close(w.real.sort().values, d[-3:])
    w, _ = eigs(Diagonal(d), 2, sigma=2.9, generator=0)
    torch.testing.assert_close(w.real, torch.tensor([3.0, 3.0], dtype=DOUBLE))
    w, _ = eigs(Diagonal(torch.zeros(1100, dtype=DOUBLE)), 2, generator=0)
    assert w.abs().max() == 0


# ---- gradients -------------------------------------------------------------------------------------------------------


def _invariant(w: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    n = V.shape[0]
    weights = torch.linspace(1, 2, n * n, dtype=DOUBLE).reshape(n, n).cos()
    projectors = torch.einsum("ik,k,jk->ij", V, w.square().to(V.dtype), V.conj())
    return (projectors.real * weights).sum() + (w * torch.linspace(1, 2, len(w), dtype=DOUBLE)).sum()


@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_gradient_of_dense(method, dtype):
    n = 54 if method == "lanczos" else 8
    A = torch.diag(torch.linspace(0, 3, n, dtype=DOUBLE) ** 2).to(dtype) + 0.1 * _hermitian(n, dtype)
    A.requires_grad_()

    def loss(A: torch.Tensor) -> torch.Tensor:
        return _invariant(*eigsh((A + A.mH) / 2, 3, which="LA", method=method, generator=0, rtol=1e-12))

    assert torch.autograd.gradcheck(loss, (A,), rtol=1e-4, atol=1e-6, fast_mode=True)


def test_gradient_of_structured_operators():
    U = torch.linalg.qr(_gaussian(60, 4))[0].requires_grad_()
    s = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=DOUBLE, requires_grad=True)

    def low_rank(U: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return _invariant(
            *eigsh(LowRank(U, s, U).declare(hermitian=True), 2, method="lanczos", generator=0, rtol=1e-12)
        )

    assert torch.autograd.gradcheck(low_rank, (U, s), rtol=1e-4, atol=1e-6, fast_mode=True)
    matrix = sp.random(60, 60, density=0.1, random_state=0, data_rvs=np.ones)
    matrix = (matrix + matrix.T + sp.diags(np.arange(60.0))).tocsr()
    arrays = [torch.from_numpy(a) for a in (matrix.indptr, matrix.indices, matrix.data)]
    pattern = Sparse(torch.sparse_csr_tensor(*arrays, size=(60, 60)))
    values = pattern.values.clone().requires_grad_()

    def sparse(values: torch.Tensor) -> torch.Tensor:
        return _invariant(*eigsh(_symmetric(pattern, values), 2, method="lanczos", generator=0, rtol=1e-12))

    assert torch.autograd.gradcheck(sparse, (values,), rtol=1e-4, atol=1e-6, fast_mode=True)


def _symmetric(pattern: Sparse, values: torch.Tensor):
    A = pattern.with_values(values)
    return ((A + A.T) / 2).declare(hermitian=True)


def test_gradient_of_a_multiple_eigenvalue_is_finite():
    A = torch.diag(torch.tensor([1.0, 2.0, 5.0, 5.0], dtype=DOUBLE)).requires_grad_()
    w, V = eigsh(A, 2, which="LA")
    P = V @ V.mT
    (P[0, 2] + w.sum()).backward()
    expected = torch.diag(torch.tensor([0.0, 0, 1, 1], dtype=DOUBLE))
    expected[0, 2] = 1 / 4
    torch.testing.assert_close(A.grad, expected)


def test_second_derivative_is_refused():
    A = _hermitian(5).requires_grad_()
    w, _ = eigsh(A, 1)
    (first,) = torch.autograd.grad(w.sum(), A, create_graph=True)
    with pytest.raises(RuntimeError, match="first-order"):
        torch.autograd.grad(first.sum(), A)


@pytest.mark.parametrize("method", ["dense", "arnoldi"])
def test_gradient_of_general_values(method):
    n = 60 if method == "arnoldi" else 6
    A = (_gaussian(n, n) / 10 + torch.diag(torch.linspace(0, 3, n, dtype=DOUBLE) ** 2)).requires_grad_()

    def loss(A: torch.Tensor) -> torch.Tensor:
        w, _ = eigs(A, 3, method=method, generator=0, rtol=1e-12)
        return w.real.square().sum() + w.imag.abs().sum()

    assert torch.autograd.gradcheck(loss, (A,), rtol=1e-4, atol=1e-6, fast_mode=True)
