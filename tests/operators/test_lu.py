"""LU of batches on several threads, where torch's own goes wrong once its threads have been set."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from resolvent.operators import lu
from resolvent.operators.threads import _runtime, one_thread

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
LARGE = 160


def batch(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(7)
    return torch.randn(*shape, LARGE, LARGE, dtype=dtype, generator=g) + 20 * torch.eye(LARGE, dtype=dtype)


@pytest.fixture
def threads_set():
    """What `torch.set_num_threads` does to MKL, undone for the tests that follow."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, 2))
    yield
    torch.set_num_threads(before)
    if runtime := _runtime():
        runtime.MKL_Set_Num_Threads_Local(0)
        runtime.MKL_Set_Dynamic(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_function_agrees_with_numpy(threads_set, dtype):
    A = batch(dtype, 2, 3)
    B = torch.randn(3, LARGE, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    a, b = A.numpy().astype("complex128"), B.numpy().astype("complex128")
    near = dict(rtol=0, atol=2e-3 if dtype in (torch.float32, torch.complex64) else 1e-11)
    np.testing.assert_allclose(lu.solve(A, B), np.linalg.solve(a, np.broadcast_to(b, (2, 3, LARGE, 4))), **near)
    np.testing.assert_allclose(lu.solve_ex(A, B)[0], lu.solve(A, B), **near)
    np.testing.assert_allclose(lu.solve(A, B.mT, left=False).mT, np.linalg.solve(a.swapaxes(-1, -2), b[None]), **near)
    np.testing.assert_allclose(lu.inv(A), np.linalg.inv(a), **near)
    np.testing.assert_allclose(lu.inv_ex(A)[0], np.linalg.inv(a), **near)
    sign, value = np.linalg.slogdet(a)
    np.testing.assert_allclose(lu.slogdet(A)[0], sign, **near)
    np.testing.assert_allclose(lu.slogdet(A)[1], value, rtol=1e-5)
    np.testing.assert_allclose(lu.det(A / 20), np.linalg.det(a / 20), rtol=2e-3)
    P, L, U = lu.lu(A)
    np.testing.assert_allclose(P @ L @ U, A, **near)
    LU, pivots = lu.lu_factor(A)
    assert LU.shape == A.shape and pivots.shape == (2, 3, LARGE)
    np.testing.assert_allclose(torch.linalg.lu_solve(LU, pivots, B.expand(2, 3, LARGE, 4)), lu.solve(A, B), **near)
    assert not lu.lu_factor_ex(A)[2].any()


def test_derivatives(threads_set):
    A = batch(torch.float64, 2).requires_grad_()
    (grad,) = torch.autograd.grad(lu.slogdet(A)[1].sum(), A, create_graph=True)
    torch.testing.assert_close(grad, lu.inv(A).mT, atol=1e-12, rtol=0)
    E = batch(torch.float64, 2).mT
    (second,) = torch.autograd.grad((grad * E).sum(), A)
    inverse = lu.inv(A.detach()).mT
    torch.testing.assert_close(second, -inverse @ E.mT @ inverse, atol=1e-11, rtol=0)


def test_singular_matrices_are_named(threads_set):
    A = batch(torch.float64, 2)
    A[1, :, 0] = 0
    with pytest.raises(torch.linalg.LinAlgError):
        lu.solve(A, A)
    with pytest.raises(torch.linalg.LinAlgError):
        lu.inv(A)
    assert lu.inv_ex(A)[1].tolist() == [0, 1]
    assert float(lu.slogdet(A)[1][1]) == -float("inf")


def test_empty_batches_and_small_ones_are_torchs_own():
    assert not lu.collides(torch.zeros(0, 300, 300)) and not lu.collides(torch.zeros(5, 100, 100))
    assert not lu.collides(torch.zeros(300, 300)) and not lu.collides(torch.zeros(1, 300, 300))
    assert lu.inv(torch.zeros(0, 300, 300)).shape == (0, 300, 300)


def test_one_thread_restores_the_number_also_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_one_thread_leaves_torchs_own_batches_right():
    code = """
import torch
from resolvent.operators.threads import _runtime, one_thread
with one_thread():
    torch.ones(300, 300) @ torch.ones(300, 300)
A = torch.randn(8, 300, 300, dtype=torch.float64)
P, L, U = torch.linalg.lu(A)
print(float((P @ L @ U - A).abs().max()) < 1e-9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
