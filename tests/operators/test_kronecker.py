"""Kronecker products and sums: order of work, invariances, exact values."""

import pytest
import torch

from resolvent.operators import (
    Diagonal,
    Hadamard,
    Identity,
    Kronecker,
    KroneckerSum,
    Permutation,
    Toeplitz,
    as_operator,
)

F64 = torch.float64


def test_it_is_torch_kron_for_every_order_of_sizes():
    for shapes in ([(2, 5), (5, 2), (3, 3)], [(5, 2), (2, 5), (1, 4)], [(4, 1), (1, 4), (2, 2), (3, 1)]):
        f = [torch.randn(*s, dtype=F64) for s in shapes]
        dense = f[0]
        for a in f[1:]:
            dense = torch.kron(dense, a)
        K = Kronecker(*f)
        X = torch.randn(dense.shape[1], 3, dtype=F64)
        torch.testing.assert_close(K @ X, dense @ X)
        torch.testing.assert_close(K.H @ (K @ X), dense.mT @ (dense @ X))


def test_factors_that_shrink_go_first():
    wide, tall = torch.randn(2, 50), torch.randn(50, 2)
    # Either order written down costs what the better one costs: 2 * 50 * 2 for each of the two.
    assert Kronecker(tall, wide).cost == Kronecker(wide, tall).cost == 400


def test_mixed_product_rule():
    a, b, c, d = (torch.randn(3, 3, dtype=F64) for _ in range(4))
    left = Kronecker(a, b) @ Kronecker(c, d)
    torch.testing.assert_close(left.to_dense(), Kronecker(a @ c, b @ d).to_dense())


def test_structured_factors_stay_structured():
    T, P = Toeplitz(torch.randn(4, dtype=F64)), Permutation(torch.tensor([1, 0]), dtype=F64)
    K = Kronecker(T, P, Hadamard(4, dtype=F64))
    X = torch.randn(32, 2, dtype=F64)
    torch.testing.assert_close(K @ X, K.to_dense() @ X)
    assert K.hermitian and not K.unitary
    assert Kronecker(Identity(2), Permutation(torch.tensor([1, 2, 0]))).unitary
    assert [line[:2] for line in repr(K).splitlines()] == ["Kr", "├─", "├─", "└─"]


def test_identities_are_skipped():
    X = torch.randn(6, 2, dtype=F64)
    K = Kronecker(Identity(2, dtype=F64), Identity(3, dtype=F64))
    assert torch.equal(K @ X, X) and K.cost == 0 and K.positive and K.unitary


def test_the_sum_is_the_laplacian_of_a_grid():
    def path(n):
        a = 2 * torch.eye(n, dtype=F64) - torch.diag(torch.ones(n - 1, dtype=F64), 1)
        return a - torch.diag(torch.ones(n - 1, dtype=F64), -1)

    S = KroneckerSum(as_operator(path(4), positive=True), as_operator(path(3), positive=True))
    assert S.positive
    one, two = torch.linalg.eigvalsh(path(4)), torch.linalg.eigvalsh(path(3))
    expected = (one[:, None] + two[None, :]).flatten().sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(S.to_dense()), expected)


def test_the_exponential_of_a_sum_is_the_product_of_exponentials():
    a, b = torch.randn(3, 3, dtype=F64), torch.randn(2, 2, dtype=F64)
    left = torch.linalg.matrix_exp(KroneckerSum(a, b).to_dense())
    torch.testing.assert_close(left, Kronecker(torch.linalg.matrix_exp(a), torch.linalg.matrix_exp(b)).to_dense())


def test_cheap_traces_of_large_products():
    K = Kronecker(*(Diagonal(torch.full((100,), 2.0, dtype=F64)) for _ in range(3)))
    assert K.shape == (10**6, 10**6)
    assert K._trace() == 200.0**3
    assert K[999_999, 999_999] == 8 and K[0, 1] == 0
    S = KroneckerSum(*K.factors)
    assert S._trace() == 6.0 * 10**6 and S[5, 5] == 6


def test_factors_of_rectangles_that_make_a_square():
    K = Kronecker(torch.randn(2, 3, dtype=F64), torch.randn(3, 2, dtype=F64))
    assert K._diagonal() is None and K._trace() is None and K.shape == (6, 6)


def test_mixed_real_and_complex_factors():
    a, b = torch.randn(2, 2, dtype=F64), torch.randn(2, 2, dtype=torch.complex128)
    torch.testing.assert_close(Kronecker(a, b).to_dense(), torch.kron(a, b))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="Kronecker needs at least one operator"):
        Kronecker()
    with pytest.raises(ValueError, match=r"term 1 has shape \(2, 3\)"):
        KroneckerSum(torch.ones(2, 2), torch.ones(2, 3))
    with pytest.raises(ValueError, match="batch shapes"):
        Kronecker(torch.ones(2, 2, 2), torch.ones(3, 2, 2))
    with pytest.raises(TypeError, match="dtype"):
        Kronecker(torch.ones(2, 2), torch.ones(2, 2, dtype=F64))
