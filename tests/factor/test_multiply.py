"""matmul by schemes: against plain products, batches, paddings, counts, gradients, float32."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.factor import BilinearScheme, known_scheme, matmul, recursion_factor, standard_scheme
from resolvent.random import gaussian

STRASSEN = known_scheme("strassen")


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("scheme", ["strassen", "winograd", STRASSEN.extend(1), standard_scheme("gg", (3, 1, 2))])
def test_general(scheme, levels):
    A, B = gaussian((3, 1, 9, 7), generator=0), gaussian((2, 7, 5), generator=1)
    torch.testing.assert_close(matmul(A, B, scheme, levels=levels), A @ B, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_dtypes(dtype):
    A, B = gaussian((16, 16), dtype, generator=0), gaussian((16, 16), dtype, generator=1)
    C = matmul(A, B, levels=2)
    assert C.dtype == dtype
    exact = A.to(torch.complex128) @ B.to(torch.complex128)
    error = torch.linalg.matrix_norm(C - exact) / torch.linalg.matrix_norm(exact)
    assert error < (1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("op", ["gt", "ug", "lg", "gu", "gl"])
@pytest.mark.parametrize("n", [2, 3])
def test_structured_by_blocks(op, n):
    X, Y = gaussian((2, 13, 13), generator=0), gaussian((13, 6), generator=1)
    part = {"u": X.triu(), "l": X.tril()}
    for levels in (1, 2, 3):
        if op == "gt":
            found, wanted = matmul(X[..., :7], scheme=standard_scheme(op, n), levels=levels), X[..., :7] @ X[..., :7].mT
        elif op[1] == "g":
            found, wanted = matmul(X, Y, standard_scheme(op, n), levels=levels), part[op[0]] @ Y
        else:
            found, wanted = matmul(Y.mT, X, standard_scheme(op, n), levels=levels), Y.mT @ part[op[1]]
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("op", ["ss", "kg", "wu", "st", "kt"])
def test_structured_of_their_own_size(op):
    X, Y = gaussian((4, 3, 3), generator=0), gaussian((4, 3, 3), generator=1)
    make = {
        "g": lambda M: M, "u": torch.triu, "s": lambda M: M + M.mT, "k": lambda M: M - M.mT,
        "w": lambda M: M.triu() - M.triu(1).mT,
    }  # fmt: skip
    A = make[op[0]](X)
    if op[1] == "t":
        torch.testing.assert_close(matmul(A, scheme=standard_scheme(op, 3)), A @ A.mT)
    else:
        B = make[op[1]](Y)
        torch.testing.assert_close(matmul(A, B, standard_scheme(op, 3)), A @ B)
    with pytest.raises(ValueError, match="does not recurse"):
        other = None if op[1] == "t" else gaussian((6, 6), generator=2)
        matmul(gaussian((6, 6), generator=1), other, standard_scheme(op, 3))


def test_counts():
    A = gaussian((16, 16), generator=0)
    assert matmul(A, A, levels=4, return_info=True)[1].multiplications == 7**4
    # T(n) = 4 T(n/2) + 2 M(n/2) for A A^T by halves, down to numbers.
    T, M = 1, 1
    for _ in range(4):
        T, M = 4 * T + 2 * M, 7 * M
    assert matmul(A, scheme=standard_scheme("gt", 2), levels=4, return_info=True)[1].multiplications == T
    T, M = 1, 1
    for _ in range(2):
        T, M = 11 * T + 23 * M, 49 * M
    C, info = matmul(A, scheme="gram", levels=2, return_info=True)
    torch.testing.assert_close(C, A @ A.mT, rtol=1e-10, atol=1e-10)
    assert info.multiplications == T
    C = matmul(A, A, "triangular", levels=2)
    torch.testing.assert_close(C, A.triu() @ A, rtol=1e-10, atol=1e-10)
    assert recursion_factor(4, 2, 2) == Fraction(2, 3)
    assert recursion_factor(10, 24, 4) == Fraction(8, 13)
    assert recursion_factor(12, 22, 4) == Fraction(22, 37)
    assert recursion_factor(6, 12, 3) == pytest.approx(12 / (3 ** np.log2(7) - 6))


def test_a_denominator_divides():
    halves = BilinearScheme(STRASSEN.U, STRASSEN.V, 2 * STRASSEN.W, denominator=2)
    A = gaussian((8, 8), generator=0)
    torch.testing.assert_close(matmul(A, A, halves, levels=3), A @ A, rtol=1e-11, atol=1e-11)


def test_kinds_and_gradients():
    A, B = gaussian((5, 4), generator=0), gaussian((4, 3), generator=1)
    assert isinstance(matmul(A.numpy(), B.numpy(), levels=1), np.ndarray)
    A.requires_grad_(), B.requires_grad_()
    assert gradcheck(lambda X, Y: matmul(X, Y, "winograd", levels=2), (A, B))
    assert gradcheck(lambda X: matmul(X, scheme=standard_scheme("gt", 2), levels=2), (A,))


def test_bad_input():
    A = torch.ones(4, 4)
    with pytest.raises(ValueError, match="B must be given"):
        matmul(A)
    with pytest.raises(ValueError, match="B must not be given"):
        matmul(A, A, standard_scheme("gt", 2))
    with pytest.raises(ValueError, match="B must have 4 rows"):
        matmul(A, A[:3])
    with pytest.raises(ValueError, match="levels must be"):
        matmul(A, A, levels=-1)
    with pytest.raises(ValueError, match="NaN"):
        matmul(A * torch.nan, A)
    with pytest.raises(TypeError, match="scheme must be"):
        matmul(A, A, 3)
    with pytest.raises(ValueError, match="lift it"):
        matmul(A, A, BilinearScheme(STRASSEN.U, STRASSEN.V, STRASSEN.W, modulus=2))
    with pytest.raises(ValueError, match="general must be"):
        matmul(A, A, general=standard_scheme("sg", 2))
    with pytest.raises(ValueError, match="own must be below"):
        recursion_factor(7, 1, 2)
    with pytest.raises(ValueError, match="must not be negative"):
        recursion_factor(-1, 1, 2)
