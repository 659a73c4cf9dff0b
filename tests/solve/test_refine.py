"""Factors in half the precision, corrected: the accuracy of full precision, beyond the reach of corrections alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.operators import as_operator
from resolvent.random import gaussian
from resolvent.solve import solve

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def with_values(s, seed=0):
    n = len(s)
    U, V = (torch.linalg.qr(draw(n, n, seed=seed + i)).Q for i in range(2))
    return (U * torch.as_tensor(s, dtype=F64)) @ V.mT


def backward_error(A, x, b):
    return float(torch.linalg.vector_norm(b - A @ x) / (torch.linalg.matrix_norm(A) * torch.linalg.vector_norm(x)))


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e7])
def test_accurate_to_double_precision(condition):
    A, b = with_values(np.geomspace(1, 1 / condition, 120)), draw(120, seed=5)
    x, info = solve(A, b, method="refine", return_info=True)
    assert backward_error(A, x, b) < 1e-15 and info.method == "refine, lu" and info.converged
    # Not the solution of the rounded matrix.
    single = solve(A.float(), b.float()).double()
    assert backward_error(A, single, b) > 1e-9
    assert float((x - solve(A, b)).norm() / x.norm()) < 1e-14 * condition


def test_beyond_the_condition_of_single_precision():
    # Three tiny singular values: corrections with the factors alone diverge, GMRES with them does not.
    s = np.ones(120)
    s[-3:] = 1e-11, 1e-10, 1e-9
    A, b = with_values(s), draw(120, seed=5)
    x = solve(A, b, method="refine")
    assert backward_error(A, x, b) < 1e-15
    factors, pivots = torch.linalg.lu_factor(A.float())
    y = torch.zeros_like(b)
    for _ in range(20):
        y = y + torch.linalg.lu_solve(factors, pivots, (b - A @ y).float()[:, None])[:, 0]
    assert float((b - A @ y).norm() / b.norm()) > 1e-6


def test_what_it_cannot_do_is_an_error():
    A, b = with_values(np.geomspace(1, 1e-14, 300)), draw(300, seed=5)
    with pytest.raises(ConvergenceError, match="direct") as caught:
        solve(A, b, method="refine")
    assert caught.value.error > 1e-10
    with pytest.raises(ValueError, match="singular"):
        solve(np.ones((3, 3)), np.ones(3), method="refine")
    with pytest.raises(ValueError, match="zero"):
        solve(np.zeros((3, 3)), np.ones(3), method="refine")
    with pytest.raises(TypeError, match="float64"):
        solve(np.eye(3, dtype=np.float32), np.ones(3, np.float32), method="refine")
    with pytest.raises(TypeError, match="one matrix"):
        solve(np.eye(3)[None], np.ones((1, 3, 1)), method="refine")


def test_definite_complex_and_scaled():
    A = draw(40, 40)
    H = as_operator(A @ A.mT + torch.eye(40), positive=True)
    B = draw(40, 3, seed=1)
    x, info = solve(H, B, method="refine", return_info=True)
    torch.testing.assert_close(x, torch.linalg.solve(H.data, B), rtol=1e-9, atol=1e-11)
    assert info.method == "refine, cholesky"
    indefinite = as_operator(A + A.mT, hermitian=True)
    torch.testing.assert_close(
        solve(indefinite, B, method="refine"), torch.linalg.solve(A + A.mT, B), rtol=1e-8, atol=1e-9
    )
    C, D = draw(20, 20, dtype=torch.complex128), draw(20, 2, dtype=torch.complex128, seed=2)
    torch.testing.assert_close(solve(C, D, method="refine"), torch.linalg.solve(C, D), rtol=1e-9, atol=1e-11)
    R = draw(20, 20, seed=3)
    torch.testing.assert_close(
        solve(R, D, method="refine"), torch.linalg.solve(R.to(D.dtype), D), rtol=1e-9, atol=1e-11
    )
    # Beyond the range of float32.
    for scale in (1e-200, 1e-100, 1e100, 1e200):
        torch.testing.assert_close(
            solve(A * scale, B, method="refine") * scale, torch.linalg.solve(A, B), rtol=1e-9, atol=1e-11
        )
    assert solve(torch.zeros(0, 0, dtype=F64), torch.zeros(0, dtype=F64), method="refine").shape == (0,)


def test_gradients():
    inputs = (draw(6, 6).requires_grad_(), draw(6, 2, seed=1).requires_grad_())
    assert gradcheck(lambda A, b: solve(A, b, method="refine"), inputs)
