"""Exact determinants: against python-flint, fractions, structured and singular matrices, large entries, bad input."""

from __future__ import annotations

import math
from fractions import Fraction

import flint
import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.solve import rational_det
from resolvent.solve.modular import primes


def test_random_matrices_of_all_sizes():
    rng = np.random.default_rng(0)
    for n, top in [*((n, 3) for n in (1, 2, 2, 3, 3, 4, 4, 5, 6, 6)), (30, 1000), (80, 10), (12, 2**40)]:
        A = rng.integers(-top, top + 1, (n, n))
        assert rational_det(A) == int(flint.fmpz_mat(A.tolist()).det())


def test_fractions_and_kinds():
    hilbert = [[Fraction(1, i + j + 1) for j in range(10)] for i in range(10)]
    c = [math.prod(math.factorial(i) for i in range(k)) for k in (10, 20)]
    assert rational_det(hilbert) == Fraction(c[0] ** 4, c[1])
    assert rational_det(torch.tensor([[1, 2], [3, 5]])) == -1
    assert rational_det(3 * scipy.sparse.eye(4).tocsr()) == 81
    assert rational_det(np.zeros((0, 0), int)) == 1


def test_invariances():
    A = np.random.default_rng(1).integers(-9, 10, (15, 15))
    d = rational_det(A)
    assert rational_det(A.T) == d and rational_det(A[::-1]) == (-1) ** (15 * 14 // 2) * d
    assert rational_det((A @ A).tolist()) == d**2
    A[4] *= -7
    assert rational_det(A) == -7 * d


def test_what_one_solve_or_one_prime_does_not_tell():
    # The denominator of a solution is 2, or 1.
    assert rational_det(np.diag([2] * 60)) == 2**60
    assert rational_det(np.eye(9, dtype=int)[::-1]) == 1
    first = next(primes())
    assert rational_det(np.diag([first] * 5)) == first**5
    assert rational_det([[10**40, 1], [1, 10**30]]) == 10**70 - 1


def test_singular_matrices():
    A = np.random.default_rng(2).integers(-5, 6, (30, 30))
    A[7] = A[3] - 2 * A[11]
    assert rational_det(A) == 0 and rational_det(np.zeros((3, 3), int)) == 0


def test_bad_input():
    with pytest.raises(ValueError, match="square"):
        rational_det([[1, 2]])
    with pytest.raises(TypeError, match="integers or fractions"):
        rational_det([[0.5]])
