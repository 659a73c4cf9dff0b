"""craig: solutions of least norm, an error that falls in every step, and inconsistent systems refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import craig, jacobi_preconditioner, lsqr

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (15, 15)])
def test_the_solution_of_least_norm(shape, dtype):
    A = draw(*shape, dtype=dtype)
    B = A @ draw(shape[1], 3, dtype=dtype, seed=1)
    X, info = craig(A, B, rtol=1e-12, return_info=True)
    torch.testing.assert_close(X, torch.linalg.pinv(A) @ B, rtol=1e-8, atol=1e-9)
    assert info.converged and info.error <= 1e-12 and info.history[0] == pytest.approx(1)
    torch.testing.assert_close(craig(A, B[:, 1], rtol=1e-12), X[:, 1], rtol=1e-7, atol=1e-8)


def test_any_rank_and_a_start():
    A = draw(20, 4) @ draw(4, 25, seed=1)
    b, x0 = A @ draw(25, seed=2), draw(25, seed=3)
    torch.testing.assert_close(craig(A, b), torch.linalg.pinv(A, rtol=1e-10) @ b, rtol=1e-7, atol=1e-8)
    moved = x0 + torch.linalg.pinv(A, rtol=1e-10) @ (b - A @ x0)
    torch.testing.assert_close(craig(A, b, x0=x0), moved, rtol=1e-7, atol=1e-8)


def test_the_error_falls_in_every_step_and_faster_than_that_of_lsqr():
    A = draw(40, 60) * torch.logspace(0, -2, 60, dtype=F64)
    b = A @ draw(60, seed=1)
    exact = torch.linalg.pinv(A) @ b
    errors = {}
    for method in (craig, lsqr):
        seen = []
        method(A, b, rtol=1e-10, callback=lambda x, seen=seen: seen.append(float(torch.linalg.vector_norm(x - exact))))
        errors[method] = np.array(seen)
    ours, theirs = errors[craig], errors[lsqr]
    assert (np.diff(ours) < 1e-9).all()
    # Craig's iterate is the nearest to the solution in the space that both search.
    both = min(len(ours), len(theirs))
    assert (ours[:both] <= theirs[:both] * (1 + 1e-9) + 1e-9).all() and ours[10] < 0.98 * theirs[10]


def test_float32_sparse_and_a_preconditioner():
    A = sp.random(50, 50, density=0.2, random_state=0, format="csr") + sp.diags(np.linspace(1, 50, 50))
    b = np.ones(50)
    x, plain = craig(A, b, return_info=True)
    np.testing.assert_allclose(A @ x, b, atol=1e-8)
    y, better = craig(A, b, M=jacobi_preconditioner(A), return_info=True)
    np.testing.assert_allclose(y, x, atol=1e-7)
    assert better.iterations < plain.iterations
    z = craig(A.astype(np.float32), b.astype(np.float32))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, x, rtol=1e-2, atol=1e-3)
    assert craig(np.ones((2, 3)), np.zeros(2)).tolist() == [0, 0, 0]


def test_inconsistent_systems_are_errors():
    A = draw(20, 5)
    with pytest.raises(ConvergenceError, match="craig"):
        craig(A, draw(20, seed=1))
    # Orthogonal to the range: zero would be the least squares solution, and is no solution.
    with pytest.raises(ConvergenceError):
        craig(np.array([[1.0], [0.0]]), np.array([0.0, 1.0]))
    with pytest.raises(TypeError, match="gradients"):
        craig(A.clone().requires_grad_(), draw(20))
