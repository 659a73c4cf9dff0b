"""Deflation: exact on its space, the condition of what is left, and fewer steps."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.random import gaussian
from resolvent.solve import cg, deflation_preconditioner, gmres, ic, jacobi_preconditioner

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def spread(values, seed=0):
    Q = torch.linalg.qr(draw(len(values), len(values), seed=seed)).Q
    return (Q * values) @ Q.mT, Q


@pytest.mark.parametrize("dtype", [F64, torch.complex128, torch.float32])
@pytest.mark.parametrize("hermitian", [True, False])
def test_the_formula_and_the_space(dtype, hermitian):
    A, V, M = draw(12, 12, dtype=dtype), draw(12, 3, dtype=dtype, seed=1), draw(12, 12, dtype=dtype, seed=2)
    if hermitian:
        A, M = A @ A.mH + torch.eye(12), M @ M.mH + torch.eye(12)
        from resolvent.operators import as_operator

        P = deflation_preconditioner(as_operator(A, positive=True), V, M=as_operator(M, positive=True))
        assert P.positive
    else:
        P = deflation_preconditioner(A, V, M=M)
    Q = V @ torch.linalg.inv(V.mH @ A @ V) @ V.mH
    eye = torch.eye(12, dtype=dtype)
    exact = (eye - Q @ A) @ M @ (eye - A @ Q) + Q
    tight = {"rtol": 2e-3, "atol": 2e-3} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(P.to_dense(), exact, **tight)
    torch.testing.assert_close(P.H.to_dense(), exact.mH, **tight)
    torch.testing.assert_close(P @ (A @ V), V, **tight)


def test_the_condition_is_that_of_what_is_left():
    values = torch.cat([torch.logspace(-6, -4, 5, dtype=F64), torch.linspace(0.5, 2, 45, dtype=F64)])
    A, Q = spread(values)
    P = deflation_preconditioner(A, Q[:, :5])
    found = torch.linalg.eigvals(P.to_dense() @ A).real.sort().values
    torch.testing.assert_close(
        found, torch.cat([torch.ones(5, dtype=F64), values[5:]]).sort().values, rtol=1e-6, atol=1e-6
    )
    b = draw(50, seed=3)
    plain, deflated = (cg(A, b, M=M, rtol=1e-10, return_info=True)[1].iterations for M in (None, P))
    assert deflated < 25 < 1.2 * plain
    # No space at all: M alone.
    torch.testing.assert_close(deflation_preconditioner(A, torch.zeros(50, 0, dtype=F64)) @ b, b)


def test_indicators_of_domains_help_another_preconditioner():
    m = 48
    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    A = (sp.kron(T, sp.eye(m)) + sp.kron(sp.eye(m), T)).tocsr()
    block = np.arange(m) // 6
    V = np.zeros((m * m, 64))
    V[np.arange(m * m), (block[:, None] * 8 + block).ravel()] = 1
    b = np.random.default_rng(0).standard_normal(m * m)
    one, two = (
        cg(A, b, M=M, rtol=1e-8, return_info=True)[1].iterations
        for M in (ic(A), deflation_preconditioner(A, V, M=ic(A)))
    )
    assert two < 0.7 * one
    x = gmres(A, b, M=deflation_preconditioner(A, V, M=jacobi_preconditioner(A)), rtol=1e-8)
    assert np.linalg.norm(A @ x - b) <= 1.01e-8 * np.linalg.norm(b)


def test_scales_and_bad_input():
    A, Q = spread(torch.linspace(1, 2, 8, dtype=F64))
    V = Q[:, :2]
    tiny = deflation_preconditioner(A * 1e-150, V * 1e-100)
    torch.testing.assert_close(tiny @ (A @ V) * 1e-150, V)
    with pytest.raises(ValueError, match="depend"):
        deflation_preconditioner(A, torch.cat([V, V], 1))
    with pytest.raises(ValueError, match="depend"):
        deflation_preconditioner(A, torch.zeros(8, 1, dtype=F64))
    with pytest.raises(ValueError, match="singular"):
        deflation_preconditioner(A - torch.outer(A @ Q[:, 0], Q[:, 0]), Q[:, :1])
    with pytest.raises(ValueError, match="V must have"):
        deflation_preconditioner(A, V[:5])
    with pytest.raises(ValueError, match="M must have"):
        deflation_preconditioner(A, V, M=torch.eye(3, dtype=F64))
    with pytest.raises(TypeError, match="real V"):
        deflation_preconditioner(A, V.to(torch.complex128))
    with pytest.raises(TypeError, match="dtype"):
        deflation_preconditioner(A, V.float())
