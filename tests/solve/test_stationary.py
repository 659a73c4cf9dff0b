"""sor: the recursion itself, its limits, kinds and columns, divergence; the optimal omega of the model problem."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Identity
from resolvent.random import gaussian
from resolvent.solve import optimal_omega, sor
from resolvent.solve.stationary import _swept


def poisson(m):
    T = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(m, m))
    return (scipy.sparse.kron(scipy.sparse.eye(m), T) + scipy.sparse.kron(T, scipy.sparse.eye(m))).tocsr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("omega", [0.7, 1.0, 1.6])
def test_each_sweep_is_the_recursion(dtype, omega):
    A = gaussian((12, 12), dtype, generator=0)
    A = A @ A.mH + 3 * torch.eye(12, dtype=dtype)
    b = gaussian((12,), dtype, generator=1)
    x, info = sor(A, b, omega, rtol=1e-8, return_info=True)
    lower = torch.diag(A.diagonal() / omega) + A.tril(-1)
    y, sizes = torch.zeros_like(b), [1.0]
    for _ in range(info.iterations):
        y = y + torch.linalg.solve_triangular(lower, (b - A @ y)[:, None], upper=False)[:, 0]
        sizes.append(float((b - A @ y).norm() / b.norm()))
    torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(info.history, sizes, rtol=1e-5)
    assert sizes[-1] <= 1e-8 < sizes[-2]
    swept, history = _swept_like(A, b, omega, len(sizes) - 1)
    torch.testing.assert_close(swept[:, 0], y, rtol=1e-10, atol=1e-10)
    assert len(history) == len(sizes) - 1


def _swept_like(A, b, omega, steps):
    from resolvent.operators import as_operator

    return _swept(as_operator(A), b[:, None], omega, torch.zeros(1, dtype=torch.float64), steps)


def test_omega_of_the_model_problem():
    m = 10
    A = poisson(m)
    wanted = 2 / (1 + math.sin(math.pi / (m + 1)))
    assert optimal_omega(A) == pytest.approx(wanted, rel=1e-10)
    assert optimal_omega(poisson(40)) == pytest.approx(2 / (1 + math.sin(math.pi / 41)), rel=1e-6)
    counts = {w: sor(A, np.ones(m * m), w, return_info=True)[1].iterations for w in (1.0, wanted, 1.9)}
    assert min(counts, key=counts.get) == wanted
    assert counts[wanted] * 5 < counts[1.0]


def test_kinds_columns_and_starts():
    A = poisson(6)
    B = np.random.default_rng(0).standard_normal((36, 3))
    B[:, 1] = 0
    X = sor(A, B, 1.5, rtol=1e-9)
    np.testing.assert_allclose(A @ X, B, atol=1e-7)
    assert not X[:, 1].any()
    again, info = sor(A, B, 1.5, rtol=1e-8, x0=X, return_info=True)
    assert info.iterations == 0
    np.testing.assert_array_equal(again, X)
    single = sor(torch.from_numpy(A.toarray()).float(), torch.ones(36), 1.5)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(A @ single.numpy(), np.ones(36), rtol=1e-3)


def test_failures_and_bad_input():
    with pytest.raises(ConvergenceError):
        sor(np.array([[1.0, 3.0], [3.0, 1.0]]), np.ones(2))
    with pytest.raises(ConvergenceError) as caught:
        sor(poisson(8), np.ones(64), maxiter=3)
    assert caught.value.info.iterations == 3
    for call, error, word in (
        (lambda: sor(poisson(2), np.ones(4), 2.0), ValueError, "omega"),
        (lambda: sor(np.array([[0.0, 1.0], [1.0, 1.0]]), np.ones(2)), ValueError, "diagonal"),
        (lambda: sor(np.ones((2, 3)), np.ones(2)), ValueError, "square"),
        (lambda: sor(torch.eye(2, requires_grad=True), torch.ones(2)), TypeError, "gradients"),
        (lambda: sor(Identity(2) + torch.ones(2, 1) @ torch.ones(1, 2), np.ones(3)), ValueError, "b must"),
        (lambda: optimal_omega(np.array([[1.0, 2.0], [2.0, 1.0]])), ValueError, "spectral radius"),
        (lambda: optimal_omega(np.array([[0.0, 2.0], [2.0, 1.0]])), ValueError, "diagonal"),
        (lambda: optimal_omega(np.ones((2, 3))), ValueError, "shape"),
    ):
        with pytest.raises(error, match=word):
            call()
