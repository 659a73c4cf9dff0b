"""exact_eigenvalues: every structure against LAPACK on the dense matrix; None where they would cost much."""

from __future__ import annotations

import pytest
import torch

from resolvent.operators import (
    BlockDiagonal,
    Circulant,
    Diagonal,
    Identity,
    Kronecker,
    KroneckerSum,
    LowRank,
    MatrixFree,
    Power,
    Tridiagonal,
    Zero,
    as_operator,
)
from resolvent.random import gaussian
from resolvent.spectra.exact import exact_eigenvalues, hermitian_operator, spectrum_scale


def hermitian(n, dtype=torch.float64, seed=0):
    X = gaussian((n, n), dtype, generator=seed)
    return as_operator(X + X.mH, hermitian=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_structures(dtype):
    A, B = hermitian(4, dtype), hermitian(3, dtype, 1)
    U = gaussian((9, 2), dtype, generator=0)
    tall = as_operator(U)
    ring = torch.zeros(6, dtype=dtype)
    ring[0], ring[1], ring[-1] = 3, 1 + (0.5j if dtype.is_complex else 0), 1 - (0.5j if dtype.is_complex else 0)
    for operator in (
        A,
        Diagonal(torch.tensor([3.0, -1.0], dtype=dtype)),
        Identity(4, dtype=dtype),
        Zero(3, 3, dtype=dtype),
        Circulant(ring).declare(hermitian=True),
        -2 * A,
        Power(A, 3),
        BlockDiagonal(A, B),
        Kronecker(A, B),
        KroneckerSum(A, B),
        LowRank(U),
        LowRank(U, torch.tensor([1.0, -2.0]).to(U.real.dtype)),
        tall @ tall.H,
        tall.H @ tall,
    ):
        found = exact_eigenvalues(operator)
        assert not found.is_complex()
        expected = torch.linalg.eigvalsh(operator.to_dense())
        small = 1e-4 if dtype == torch.float32 else 1e-9
        torch.testing.assert_close(found.sort().values, expected, rtol=small, atol=small)


def test_batches():
    A = as_operator(torch.stack([torch.eye(3), 2 * torch.eye(3)]))
    assert exact_eigenvalues(A).shape == (2, 3)
    blocks = BlockDiagonal(A.declare(hermitian=True), Diagonal(torch.ones(2)))
    torch.testing.assert_close(exact_eigenvalues(blocks).sort(-1).values, torch.linalg.eigvalsh(blocks.to_dense()))
    rings = Circulant(torch.tensor([[2.0, 1.0, 1.0], [3.0, 0.0, 0.0]])).declare(hermitian=True)
    torch.testing.assert_close(exact_eigenvalues(rings), torch.linalg.eigvalsh(rings.to_dense()))


def test_what_costs_much_is_left():
    n = 4000
    free = MatrixFree((n, n), lambda X: X, hermitian=True)
    for A in (
        free,
        2.0 * free,
        Power(free, 2),
        BlockDiagonal(free, Identity(2)),
        Kronecker(free, Identity(2)),
        KroneckerSum(free, Identity(2)),
        LowRank(torch.ones(n, 2), None, torch.ones(n, 2)),
        free @ free.H,
    ):
        assert exact_eigenvalues(A) is None
    # Factors that are not Hermitian say nothing, though their product may be.
    turn = MatrixFree((n, n), lambda X: X, lambda X: X)
    assert exact_eigenvalues(Kronecker(turn, turn).declare(hermitian=True)) is None


def test_a_long_tridiagonal():
    n = 1700
    T = Tridiagonal(torch.ones(n - 1, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
    exact = 2 * torch.cos(torch.pi * torch.arange(n, 0, -1, dtype=torch.float64) / (n + 1))
    torch.testing.assert_close(exact_eigenvalues(T), exact, rtol=0, atol=1e-12)


def test_scale_and_refusals():
    assert spectrum_scale(Diagonal(torch.linspace(-3, 2, 50))) == pytest.approx(3, rel=0.05)
    with pytest.raises(ValueError, match="B must be square"):
        hermitian_operator(as_operator(torch.ones(2, 3)), "B")
