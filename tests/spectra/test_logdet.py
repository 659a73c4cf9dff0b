"""logdet: closed forms, Cholesky, sparse factors, quadrature; gradients; what is not positive definite raises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.operators import (
    BlockDiagonal,
    Circulant,
    Dense,
    Diagonal,
    Identity,
    Kronecker,
    KroneckerSum,
    LowRank,
    MatrixFree,
    Triangular,
    Tridiagonal,
    as_operator,
)
from resolvent.random import gaussian
from resolvent.spectra import logdet


def positive(n, dtype=torch.float64, seed=0):
    X = gaussian((n, n), dtype, generator=seed)
    return X @ X.mH / n + torch.eye(n, dtype=dtype)


def exact(A):
    return torch.linalg.slogdet(A.to_dense()).logabsdet


def grid(n):
    T = sp.diags([-np.ones(n - 1), 2.1 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])
    return sp.csr_array(sp.kron(T, sp.eye(n)) + sp.kron(sp.eye(n), T))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_small_matrices(dtype):
    M = torch.stack([positive(20, dtype, s) for s in range(3)])
    found = logdet(M)
    assert found.shape == (3,) and not found.is_complex()
    torch.testing.assert_close(found, torch.linalg.slogdet(M).logabsdet.to(found.dtype))
    torch.testing.assert_close(logdet(MatrixFree((20, 20), lambda X: M[0] @ X, dtype=dtype, hermitian=True)), found[0])


def test_structures():
    K1, K2 = as_operator(positive(4)).declare(positive=True), as_operator(positive(3, seed=1)).declare(positive=True)
    d = torch.linspace(1, 2, 12, dtype=torch.float64)
    U = gaussian((12, 2), generator=0)
    L = torch.linalg.cholesky(positive(12))
    for A in (
        Diagonal(d),
        Kronecker(K1, K2),
        KroneckerSum(K1, K2),
        BlockDiagonal(K1, K2),
        3 * Kronecker(K1, K2),
        Diagonal(d) + LowRank(U),
        Diagonal(d) + LowRank(U, torch.tensor([0.01, -0.02], dtype=torch.float64)),
        2 * Identity(12, dtype=torch.float64) + LowRank(U),
        Triangular(L),
        Triangular(L) @ Triangular(L).H,
        K1 @ Diagonal(d[:4]) @ K1,
        Circulant(torch.tensor([3.0, -1.0, 0.0, 0.0, -1.0], dtype=torch.float64)),
        Tridiagonal(-torch.ones(11, dtype=torch.float64), d + 2),
    ):
        torch.testing.assert_close(logdet(A), exact(A))


def test_large_structures_cost_little():
    n = 200_000
    d = torch.linspace(1, 2, n, dtype=torch.float64)
    U = gaussian((n, 3), generator=0)
    small = torch.eye(3, dtype=torch.float64) + U.mT @ (U / d[:, None])
    torch.testing.assert_close(logdet(Diagonal(d) + LowRank(U)), d.log().sum() + torch.logdet(small))
    K = as_operator(positive(60)).declare(positive=True)
    torch.testing.assert_close(logdet(Kronecker(K, K, K)), 3 * 3600 * exact(K))
    assert float(logdet(Circulant(torch.tensor([3.0, -1.0] + [0.0] * 4997 + [-1.0])))) == pytest.approx(
        5000 * math.log((3 + math.sqrt(5)) / 2), rel=1e-5
    )


def test_minus_times_minus_is_positive():
    A = as_operator(-positive(4), hermitian=True)
    B = as_operator(-positive(3, seed=1), hermitian=True)
    torch.testing.assert_close(logdet(Kronecker(A, B)), exact(Kronecker(A, B)))


def test_sparse_factors_are_exact():
    M = grid(45)
    value, info = logdet(M, return_info=True)
    t = 2.1 - 2 * np.cos(np.pi * np.arange(1, 46) / 46)
    assert info.method == "exact" and type(value) is float
    assert value == pytest.approx(np.log(t[:, None] + t).sum(), rel=1e-12)
    shifted = as_operator(M) + 2 * Identity(2025, dtype=torch.float64)
    assert float(logdet(shifted)) == pytest.approx(np.log(t[:, None] + t + 2).sum(), rel=1e-12)


def test_sparse_gradient_is_near_the_inverse():
    M = grid(42)
    A = as_operator(torch.from_numpy(M.toarray()).to_sparse())
    v = A.values.clone().requires_grad_()
    B = A.with_values(v).declare(positive=True)
    value = logdet(B, generator=0)
    (g,) = torch.autograd.grad(value, v)
    # Scaling the matrix by 1 + t changes log det by n t: the sum of value times gradient.
    assert float((g * v.detach()).sum()) == pytest.approx(42 * 42, rel=0.02)


def test_quadrature_meets_its_tolerance():
    n = 2500
    t = torch.linspace(0.1, 5, n, dtype=torch.float64)
    A = MatrixFree((n, n), lambda X: t[:, None] * X, dtype=torch.float64, positive=True)
    value, info = logdet(A, rtol=1e-3, generator=0, return_info=True)
    assert info.method == "slq" and info.error <= 1e-3
    assert float(value) == pytest.approx(float(t.log().sum()), rel=1e-3)
    M = positive(300).float()
    for matrix, rtol in ((M, 0.02), (M.double(), 0.02), (positive(300, torch.complex128), 0.02)):
        assert float(logdet(matrix, method="slq", rtol=rtol, generator=1)) == pytest.approx(
            float(torch.linalg.slogdet(matrix).logabsdet), rel=1.5 * rtol
        )


def test_ill_conditioned_quadrature_is_honest():
    d = torch.logspace(-6, 0, 1600, dtype=torch.float64)
    u = gaussian((1600, 1), generator=0)
    u = u / u.norm()

    def product(X):
        Y = X - 2 * u @ (u.mT @ X)
        return (lambda Z: Z - 2 * u @ (u.mT @ Z))(d[:, None] * Y)

    A = MatrixFree((1600, 1600), product, dtype=torch.float64, positive=True)
    try:
        value = float(logdet(A, rtol=0.02, generator=0))
    except ConvergenceError as error:
        value = float(error.best)
        assert error.error > 0.02
    else:
        assert value == pytest.approx(float(d.log().sum()), rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype):
    X = gaussian((4, 4), dtype, generator=0).requires_grad_()

    def sym(X):
        return X @ X.mH + torch.eye(4, dtype=dtype)

    assert gradcheck(lambda X: logdet(sym(X)), X)
    d = torch.linspace(1, 2, 4, dtype=torch.float64).to(dtype).requires_grad_()
    if dtype == torch.float64:
        assert gradcheck(lambda d: logdet(Diagonal(d)), d)
        U = gaussian((4, 1), generator=0).requires_grad_()
        assert gradcheck(lambda d, U: logdet(Diagonal(d) + LowRank(U)), (d, U))
        assert gradcheck(lambda X: logdet(Kronecker(Dense(sym(X), positive=True), Diagonal(d.detach()))), X)


def test_numpy_gives_a_float():
    assert type(logdet(np.eye(3))) is float
    assert logdet(2 * np.eye(3)) == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize(
    "A",
    [
        torch.diag(torch.tensor([1.0, -1.0, -2.0])),
        Diagonal(torch.tensor([1.0, 0.0])),
        Triangular(torch.tensor([[1.0, 0.0], [1.0, -1.0]])),
        Diagonal(torch.ones(9)) + LowRank(torch.eye(9)[:, :2], torch.tensor([-2.0, -3.0])),
        MatrixFree((2000, 2000), lambda X: -X, hermitian=True),
        -1.0 * as_operator(grid(42)),
    ],
    ids=["dense", "diagonal", "triangular", "low rank", "matrix-free", "sparse"],
)
def test_not_positive_raises(A):
    with pytest.raises(ValueError, match="positive definite"):
        logdet(A)


def test_parts_that_cost_much_leave_the_whole_to_quadrature():
    n = 1600
    t = torch.linspace(1, 2, n, dtype=torch.float64)
    free = MatrixFree((n, n), lambda X: t[:, None] * X, dtype=torch.float64, positive=True)
    one = Identity(1, dtype=torch.float64)
    exact_value = float(t.log().sum())
    for A, factor in ((2 * free, n * math.log(2)), (BlockDiagonal(free, one), 0), (Kronecker(free, one), 0)):
        value, info = logdet(A, generator=0, return_info=True)
        assert info.method == "slq" and float(value) == pytest.approx(exact_value + factor, rel=0.01)


def test_forced_exact_and_more_rings():
    M = grid(41)
    assert logdet(M, method="exact") == pytest.approx(logdet(M))
    rings = Circulant(torch.tensor([[3.0, -1.0, -1.0], [2.0, 0.0, 0.0]], dtype=torch.float64)).declare(hermitian=True)
    torch.testing.assert_close(logdet(rings), torch.logdet(rings.to_dense()))
    with pytest.raises(ValueError, match="Hermitian"):
        logdet(Circulant(torch.tensor([3.0, 1.0, 0.0])))
    # A determinant below zero is seen in the small matrix of the lemma.
    with pytest.raises(ValueError, match="sign"):
        logdet(Diagonal(torch.ones(9)) + LowRank(torch.eye(9)[:, :1], torch.tensor([-2.0])))


def test_bad_input():
    with pytest.raises(ValueError, match="square"):
        logdet(torch.ones(2, 3))
    with pytest.raises(ValueError, match="Hermitian"):
        logdet(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="method"):
        logdet(torch.eye(2), method="magic")
    with pytest.raises(ValueError, match="batch"):
        logdet(torch.eye(2).expand(2, 2, 2), method="slq")
