"""Preconditioners against their definitions, entry by entry, and what they do for an iteration."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent import operators as ops
from resolvent.random import gaussian
from resolvent.solve import (
    block_jacobi_preconditioner,
    cg,
    chebyshev_preconditioner,
    gmres,
    ic,
    ilu,
    jacobi_preconditioner,
    nystrom_preconditioner,
    ssor_preconditioner,
)

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def poisson(m):
    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    return (sp.kron(T, sp.eye(m)) + sp.kron(sp.eye(m), T)).tocsr()


def convection(m):
    C = sp.diags([-np.ones(m - 1), np.ones(m - 1)], [-1, 1])
    return (poisson(m) + 0.7 * sp.kron(C, sp.eye(m))).tocsr()


def dense_of(M):
    return torch.as_tensor(M @ np.eye(M.shape[1]) if M.kind == "numpy" else M.to_dense())


def is_adjoint(M):
    x, y = draw(M.shape[0], dtype=M.dtype, seed=5), draw(M.shape[0], dtype=M.dtype, seed=6)
    return bool(torch.isclose(torch.vdot(y, M @ x), torch.vdot(M.H @ y, x)))


def test_jacobi():
    A = draw(2, 4, 4)
    torch.testing.assert_close(jacobi_preconditioner(A).to_dense(), torch.diag_embed(1 / A.diagonal(dim1=1, dim2=2)))
    d = (draw(4).abs() + 1).detach().requires_grad_()
    assert gradcheck(lambda d: jacobi_preconditioner(ops.Diagonal(d)) @ torch.ones(4, dtype=F64), (d,))
    with pytest.raises(ValueError, match="zero"):
        jacobi_preconditioner(np.diag([1.0, 0.0]))
    with pytest.raises(TypeError, match="diagonal"):
        jacobi_preconditioner(ops.MatrixFree((2, 2), lambda X: X))


@pytest.mark.parametrize("size", [1, 3, 4, 50])
def test_block_jacobi(size):
    for A in (draw(10, 10) + 5 * torch.eye(10, dtype=F64), convection(4)):
        M = block_jacobi_preconditioner(A, size)
        D = torch.as_tensor(A.toarray() if sp.issparse(A) else A)
        n = D.shape[0]
        blocks = [torch.linalg.inv(D[i : i + size, i : i + size]) for i in range(0, n, size)]
        torch.testing.assert_close(dense_of(M), torch.block_diag(*blocks), rtol=1e-10, atol=1e-12)
        assert is_adjoint(M)
    with pytest.raises(ValueError, match="size"):
        block_jacobi_preconditioner(np.eye(2), 0)
    with pytest.raises(ValueError, match="singular"):
        block_jacobi_preconditioner(np.zeros((2, 2)))


@pytest.mark.parametrize("omega", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_ssor_is_its_formula(omega, dtype):
    A = draw(7, 7, dtype=dtype) + 4 * torch.eye(7)
    D, L, U = torch.diag(A.diagonal()), A.tril(-1), A.triu(1)
    exact = omega * (2 - omega) * torch.linalg.inv(D + omega * U) @ D @ torch.linalg.inv(D + omega * L)
    M = ssor_preconditioner(A, omega)
    torch.testing.assert_close(M.to_dense(), exact)
    assert is_adjoint(M)
    with pytest.raises(ValueError, match="omega"):
        ssor_preconditioner(A, 2.0)


def test_incomplete_factors_keep_the_pattern_and_match_the_matrix_there():
    A = convection(6)
    M = ilu(A)
    product = np.linalg.inv(dense_of(M).numpy())
    on = A.toarray() != 0
    # L U equals A on its pattern: what defines the factors without fill.
    np.testing.assert_allclose(product[on], A.toarray()[on], rtol=1e-10, atol=1e-12)
    assert np.abs(product[~on]).max() > 1e-3 and is_adjoint(M)
    B = poisson(6)
    M = ic(B)
    product = np.linalg.inv(dense_of(M).numpy())
    np.testing.assert_allclose(product[B.toarray() != 0], B.toarray()[B.toarray() != 0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(product, product.T, atol=1e-12)
    assert M.positive


def test_incomplete_factors_of_a_pattern_without_fill_are_exact():
    T = sp.diags([np.full(29, -1.0), np.full(30, 2.5), np.full(29, -1.2)], [-1, 0, 1]).tocsr()
    np.testing.assert_allclose(dense_of(ilu(T)).numpy(), np.linalg.inv(T.toarray()), rtol=1e-10, atol=1e-13)
    H = draw(8, 8, dtype=torch.complex128)
    H = H @ H.mH + torch.eye(8)
    torch.testing.assert_close(ic(H).to_dense(), torch.linalg.inv(H))
    torch.testing.assert_close(ilu(H, drop_tol=0.0).to_dense(), torch.linalg.inv(H))


def test_incomplete_cholesky_of_a_matrix_whose_factors_break_down():
    # Kershaw's matrix: positive definite, with a negative pivot in its incomplete factors.
    A = np.array([[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]])
    assert np.linalg.eigvalsh(A)[0] > 0
    M = ic(sp.csr_matrix(A))
    assert np.linalg.eigvalsh(dense_of(M).numpy())[0] > 0
    with pytest.raises(ValueError, match="Hermitian"):
        ic(convection(3))
    with pytest.raises(ValueError, match="positive diagonal"):
        ic(np.diag([1.0, -1.0]))


def test_zero_pivots_are_errors():
    with pytest.raises(ValueError, match="diagonal"):
        ilu(np.array([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="pivot"):
        ilu(np.array([[1.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="singular"):
        ilu(np.array([[1.0, 1.0], [1.0, 1.0]]), drop_tol=0.0)
    with pytest.raises(TypeError, match="sparse or dense"):
        ilu(ops.Circulant(torch.ones(3)))
    with pytest.raises(ValueError, match="drop_tol"):
        ilu(np.eye(2), drop_tol=2.0)


def test_iterations_become_shorter():
    A, b = poisson(40), np.random.default_rng(0).standard_normal(1600)
    plain = cg(A, b, return_info=True)[1].iterations
    for M, share in (
        (ssor_preconditioner(A, 1.5), 0.5),
        (ic(A), 0.5),
        (chebyshev_preconditioner(A, 6, generator=0), 0.4),
        (block_jacobi_preconditioner(A, 40), 0.9),
    ):
        x, info = cg(A, b, M=M, return_info=True)
        np.testing.assert_allclose(A @ x, b, atol=1e-7)
        assert info.iterations < share * plain
    C = convection(40)
    plain = gmres(C, b, restart=200, return_info=True)[1].iterations
    assert gmres(C, b, M=ilu(C), restart=200, return_info=True)[1].iterations < 0.5 * plain
    assert gmres(C, b, M=ilu(C, drop_tol=1e-3), return_info=True)[1].iterations < 0.15 * plain


def test_chebyshev_is_the_polynomial_that_is_least():
    low, high, degree = 0.5, 3.0, 5
    t = torch.linspace(low, high, 400, dtype=F64)
    q = chebyshev_preconditioner(ops.Diagonal(t), degree, low=low, high=high) @ torch.ones(400, dtype=F64)
    # 1 - t q(t) has the size of Chebyshev's polynomial of degree + 1 on the interval, and reaches it.
    c = (high + low) / (high - low)
    least = 1 / np.cosh((degree + 1) * np.arccosh(c))
    assert float((1 - t * q).abs().max()) == pytest.approx(least, rel=1e-3)
    for options in ({"degree": 0}, {"low": 2.0, "high": 1.0}):
        with pytest.raises(ValueError):
            chebyshev_preconditioner(np.eye(3), **options)


def test_nystrom_recovers_the_formula_and_bounds_the_condition():
    n, shift = 60, 1e-2
    Q = torch.linalg.qr(draw(n, n)).Q
    w = 1.0 / torch.arange(1, n + 1, dtype=F64) ** 3
    A = ops.Dense((Q * w) @ Q.mT, positive=True)
    effective = float((w / (w + shift)).sum())
    conditions = []
    for seed in range(20):
        P = nystrom_preconditioner(A, rank=int(2 * effective) + 1, shift=shift, generator=seed)
        system = P.to_dense() @ (A.data + shift * torch.eye(n, dtype=F64))
        values = torch.linalg.eigvals(system).real
        conditions.append(float(values.max() / values.min()))
    # The paper's theorem: below 28 in the mean.
    assert np.mean(conditions) < 28
    full = nystrom_preconditioner(A, rank=n, shift=shift, generator=0).to_dense()
    exact = (float(w[-1]) + shift) * torch.linalg.inv(A.data + shift * torch.eye(n, dtype=F64))
    torch.testing.assert_close(full, exact, rtol=1e-4, atol=1e-6)
    for options in ({"rank": 0}, {"rank": 2, "shift": -1.0}):
        with pytest.raises(ValueError):
            nystrom_preconditioner(A, **options)


@pytest.mark.parametrize("build", [jacobi_preconditioner, ic, ilu, ssor_preconditioner, chebyshev_preconditioner])
def test_float32_and_shapes(build):
    A = poisson(10).astype(np.float32)
    M = build(A)
    x = M @ np.ones((100, 2), np.float32)
    assert x.dtype == np.float32 and x.shape == (100, 2)
    np.testing.assert_allclose(
        x, build(A.astype(np.float64)) @ np.ones((100, 2)), rtol=2e-2 if "cheb" in str(build) else 1e-4
    )
    with pytest.raises(ValueError, match="square"):
        build(np.ones((2, 3)))
