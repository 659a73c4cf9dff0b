"""LU factors with three kinds of pivots against LAPACK, exact ranks and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from resolvent import factor
from resolvent.factor import elimination

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
KINDS = ("partial", "complete", "none")


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dominant(*shape, dtype=torch.float64):
    return random(*shape, dtype=dtype) + 20 * torch.eye(*shape[-2:], dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pivoting", KINDS)
@pytest.mark.parametrize("shape", ((7, 4), (4, 7), (2, 3, 5, 5), (90, 70), (0, 3), (3, 0), (0, 4, 4)))
def test_factors(dtype, pivoting, shape):
    A = dominant(*shape, dtype=dtype) if pivoting == "none" else random(*shape, dtype=dtype)
    factors = factor.lu(A, pivoting=pivoting)
    torch.testing.assert_close(factors.to_dense(), A, rtol=1e-4, atol=1e-4)
    L, U = factors.L, factors.U
    r = min(shape[-2:])
    assert L.shape == (*shape[:-1], r) and U.shape == (*shape[:-2], r, shape[-1])
    assert torch.equal(L, L.tril()) and torch.equal(U, U.triu())
    assert bool((L.diagonal(dim1=-2, dim2=-1) == 1).all())
    if pivoting == "none":
        assert torch.equal(factors.rows, torch.arange(shape[-2]).expand(factors.rows.shape))
    elif pivoting == "partial" and not dtype.is_complex and L.numel():
        assert bool((L.abs() <= 1).all())


def test_partial_pivots_are_lapacks():
    A = random(8, 8).numpy()
    P, L, U = scipy.linalg.lu(A)
    found = factor.lu(A)
    assert np.allclose(found.L, L) and np.allclose(found.U, U) and np.array_equal(P.argmax(0), found.rows)


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
def test_complete_pivots_are_the_largest_entries(dtype):
    A = random(9, 6, dtype=dtype)
    factors = factor.lu(A, pivoting="complete")
    left = A[factors.rows][:, factors.columns]
    for k in range(6):
        sizes = left[k:, k:].real.abs() + left[k:, k:].imag.abs() if dtype.is_complex else left[k:, k:].abs()
        assert float(sizes.max()) == pytest.approx(float(sizes[0, 0]))
        left = left - torch.outer(factors.L[:, k], factors.U[k])
    assert float(left.abs().max()) < 1e-14


def test_ranks_of_a_batch_and_tolerance():
    A = torch.stack([random(8, 3) @ random(3, 6, seed=1), torch.zeros(8, 6).double(), random(8, 6, seed=2)])
    factors = factor.lu(A, pivoting="complete")
    assert factors.rank.tolist() == [3, 0, 6] and not factors.U[0, 3:].any()
    torch.testing.assert_close(factors.to_dense(), A)
    assert factor.lu(np.diag([1.0, 1e-3, 1e-6]), pivoting="complete", rtol=1e-4).rank == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pivoting", KINDS)
def test_solutions_and_determinants(dtype, pivoting):
    A = dominant(3, 40, 40, dtype=dtype)
    # Rows in another order change the sign that pivots must find again.
    A = A if pivoting == "none" else A[:, torch.arange(39, -1, -1)]
    factors = factor.lu(A, pivoting=pivoting)
    B = random(3, 40, 2, dtype=dtype, seed=1)
    torch.testing.assert_close(A @ factors.solve(B), B, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(A.mH @ factors.solve(B, adjoint=True), B, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(factors.solve(B[..., 0]), factors.solve(B)[..., 0])
    sign, log = factors.slogdet()
    wide = A.to(torch.complex128 if dtype.is_complex else torch.float64)
    wanted = [np.linalg.slogdet(one) for one in wide.numpy()]
    assert np.allclose(sign, [w[0] for w in wanted], atol=1e-4) and np.allclose(log, [w[1] for w in wanted])


def test_determinant_and_kinds():
    factors = factor.lu(np.array([[1, 2], [3, 4]]))
    assert factors.det() == pytest.approx(-2.0) and isinstance(factors.L, np.ndarray)
    assert isinstance(factors.solve([1.0, 2.0]), np.ndarray)
    assert factor.lu(torch.zeros(2, 2)).det() == 0


@pytest.mark.parametrize("scale", (1e-20, 1e20))
@pytest.mark.parametrize("pivoting", KINDS)
def test_float32_at_any_scale(scale, pivoting):
    A = dominant(6, 6).float()
    factors = factor.lu(A * scale, pivoting=pivoting)
    torch.testing.assert_close(factors.to_dense() / scale, A)
    torch.testing.assert_close(A @ (factors.solve(torch.ones(6)) * scale), torch.ones(6))


@pytest.mark.parametrize("pivoting", KINDS)
def test_path_of_other_devices(pivoting, monkeypatch):
    A = dominant(2, 50, 40)
    here = factor.lu(A, pivoting=pivoting)
    monkeypatch.setattr(elimination, "_complete_host", elimination._complete)
    monkeypatch.setattr(elimination, "_panel_host", elimination._panel)
    there = factor.lu(A, pivoting=pivoting)
    assert torch.equal(here.rows, there.rows) and torch.equal(here.columns, there.columns)
    torch.testing.assert_close(here.L, there.L)
    torch.testing.assert_close(here.U, there.U)
    singular = torch.stack([A[0], A[0, :, :3] @ A[0, :3]])
    assert factor.lu(singular, pivoting="complete").rank.tolist() == [40, 3]
    with pytest.raises(ValueError, match="without pivoting"):
        factor.lu(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), pivoting="none")


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
@pytest.mark.parametrize("pivoting", KINDS)
@pytest.mark.parametrize("shape", ((4, 4), (2, 5, 3), (3, 5)))
def test_gradients(dtype, pivoting, shape):
    A = random(*shape, dtype=dtype, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: factor.lu(A, pivoting=pivoting)[:2], A)
    if shape == (4, 4):
        ones = torch.ones(4, dtype=dtype)
        assert torch.autograd.gradgradcheck(lambda A: factor.lu(A, pivoting=pivoting)[:2], A)
        assert torch.autograd.gradcheck(lambda A: factor.lu(A, pivoting=pivoting).solve(ones), A)
        assert torch.autograd.gradcheck(lambda A: factor.lu(A, pivoting=pivoting).slogdet(), A)


def test_gradients_of_low_rank():
    X, Y = random(5, 2).requires_grad_(), random(2, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda X, Y: factor.lu(X @ Y, pivoting="complete")[:2], (X, Y))
    x, full = random(4, 1).requires_grad_(), random(4, 4)
    assert torch.autograd.gradcheck(lambda x: factor.lu(torch.stack([x @ x.mT, full * x]), pivoting="complete")[:2], x)
    with pytest.raises(ValueError, match="no gradient where a pivot is zero"):
        factor.lu(torch.ones(3, 3).requires_grad_()).U.sum().backward()


def test_bad_input():
    eye, singular = torch.eye(3), torch.ones(2, 2)
    for call, error, word in (
        (lambda: factor.lu(torch.ones(3)), ValueError, "A must have shape"),
        (lambda: factor.lu(torch.full((2, 2), torch.nan)), ValueError, "NaN"),
        (lambda: factor.lu(eye.half()), TypeError, "float16"),
        (lambda: factor.lu(eye, pivoting="rook"), ValueError, "pivoting must be"),
        (lambda: factor.lu(eye, rtol=0.1), ValueError, "rtol is for"),
        (lambda: factor.lu(eye, pivoting="complete", rtol=1), ValueError, "rtol must be"),
        (lambda: factor.lu(torch.tensor([[1e-9, 1.0], [1.0, 1.0]]), pivoting="none"), ValueError, "needs pivoting"),
        (lambda: factor.lu(singular).solve(torch.ones(2)), ValueError, "singular"),
        (lambda: factor.lu(torch.ones(2, 3)).solve(torch.ones(2)), ValueError, "square"),
        (lambda: factor.lu(torch.ones(2, 3)).det(), ValueError, "square"),
        (lambda: factor.lu(eye).solve(torch.ones(2)), ValueError, "B must have shape"),
        (lambda: factor.lu(eye).solve(torch.ones(3) * 1j), TypeError, "B is complex"),
        (lambda: factor.lu(1e30 * eye).det(), OverflowError, "slogdet"),
    ):
        with pytest.raises(error, match=word):
            call()
