"""Exact solutions: against python-flint and Fractions, all solutions of dependent rows, proofs of none, big numbers."""

from __future__ import annotations

from fractions import Fraction

import flint
import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.solve import is_consistent, nullspace, rational_rank, rational_solve
from resolvent.solve.lifting import _norms
from resolvent.solve.reconstruct import balanced_digits, exact_product, integers_of, radix_value, reconstruct


def by_flint(A, b):
    def matrix(a):
        return flint.fmpq_mat(flint.fmpz_mat([[int(x) for x in row] for row in a]))

    found = matrix(A).solve(matrix(b))
    return [[Fraction(int(x.p), int(x.q)) for x in row] for row in found.tolist()]


def times(A, x):
    return np.asarray(A).astype(object).dot(x)


@pytest.mark.parametrize(("n", "k", "top"), [(1, 1, 5), (20, 3, 10), (60, 1, 1000), (40, 2, 2**40), (9, 30, 100)])
@pytest.mark.parametrize("method", ["lift", "primes"])
def test_random_systems_equal_flint(n, k, top, method):
    rng = np.random.default_rng(n)
    A, b = rng.integers(-top, top, (n, n)), rng.integers(-top, top, (n, k))
    found = rational_solve(A, b, method=method)
    assert found.unique
    assert found.rank == n
    assert found.values.tolist() == by_flint(A, b)


def test_hilbert_and_numbers_beyond_64_bits():
    n = 30
    H = [[Fraction(1, i + j + 1) for j in range(n)] for i in range(n)]
    found = rational_solve(H, [1] * n).values
    assert all(x.denominator == 1 for x in found)
    assert (times(H, found) == 1).all()
    big = [[10**40 + 3, 1], [7, 10**35]]
    x = rational_solve(big, [10**50, 2]).values
    assert times(big, x).tolist() == [10**50, 2]
    # words of 64 bits, and sums that leave them
    A = np.random.default_rng(0).integers(-(2**61), 2**61, (4, 4))
    assert times(A, rational_solve(A, [1, 2, 3, 4]).values).tolist() == [1, 2, 3, 4]


def test_sums_beyond_64_bits():
    A = np.full((8, 8), 2**61)
    assert _norms(A, A[:, :1]) == (2**64, 2**61)
    assert _norms(A.astype(object) * 2**70, A) == (2**134, 2**61)


def test_no_rows():
    assert nullspace(np.zeros((0, 2), dtype=int)).tolist() == [[1, 0], [0, 1]]
    assert rational_rank(np.zeros((0, 2), dtype=int)) == 0


def test_dependent_rows_and_free_variables():
    rng = np.random.default_rng(1)
    A = rng.integers(-5, 6, (80, 20)) @ rng.integers(-5, 6, (20, 30))
    A[:, 4] = 2 * A[:, 1]
    b = A @ rng.integers(-9, 10, 30)
    found = rational_solve(A, b)
    assert found.rank == rational_rank(A) == rational_rank(A.T) == 20
    assert 4 in found.free
    assert len(found.free) == 10
    assert len(found.rows) == 20
    assert times(A, found.values).tolist() == b.tolist()
    assert not times(A, found.nullspace).any()
    assert (found.nullspace[list(found.free)] == np.eye(10, dtype=int)).all()
    other = found.at({4: Fraction(1, 3), found.free[-1]: 7})
    assert times(A, other).tolist() == b.tolist()
    assert other[4] == Fraction(1, 3)
    echelon, rank = flint.fmpq_mat(flint.fmpz_mat(A.tolist())).rref()
    assert rank == 20
    leading = tuple(next(j for j, x in enumerate(row) if x != 0) for row in echelon.tolist()[:20])
    assert found.pivots == leading


def test_consistency_is_proven_both_ways():
    rng = np.random.default_rng(2)
    A = rng.integers(-5, 6, (30, 4)) @ rng.integers(-5, 6, (4, 12))
    b = A @ rng.integers(-5, 6, 12)
    assert is_consistent(A, b)
    wrong = b.copy()
    wrong[20] += 1
    assert not is_consistent(A, wrong)
    assert not is_consistent(A, np.stack([b, wrong], axis=1))
    with pytest.raises(ValueError, match="no solution"):
        rational_solve(A, wrong)
    assert rational_solve(A, np.stack([b, 2 * b], axis=1)).values.shape == (12, 2)


def test_a_prime_that_misleads_is_replaced():
    # 4194301 is the first prime that is tried, 4194287 the second: modulo both, other ranks and other pivots.
    p, q = 4194301, 4194287
    assert rational_solve([[p, 0], [0, 1]], [1, 1]).values.tolist() == [Fraction(1, p), 1]
    assert rational_rank([[p * q, 1], [0, 1]]) == 2
    assert rational_rank([[1, 1], [1, 1 + p]]) == 2
    assert not is_consistent([[1, 1], [1, 1], [2, 2]], [1, 1 + p, 2])
    found = rational_solve([[p, 1, 3], [2 * p, 2, 6]], [1, 2])
    assert found.pivots == (0,)
    assert found.nullspace[0].tolist() == [Fraction(-1, p), Fraction(-3, p)]


def test_every_kind_of_matrix():
    A = [[2, 1], [1, 3]]
    wanted = [Fraction(1, 5), Fraction(3, 5)]
    for same in (np.array(A), np.array(A, dtype=np.float32), torch.tensor(A), scipy.sparse.csr_matrix(A), tuple(A)):
        assert rational_solve(same, [1, 2]).values.tolist() == wanted
    halves = [[Fraction(1), Fraction(1, 2)], [Fraction(1, 3), Fraction(1)]]
    assert rational_solve(halves, [Fraction(1, 2), Fraction(2, 3)]).values.tolist() == wanted
    assert rational_solve(A, np.eye(2)).values.tolist() == [
        [Fraction(3, 5), Fraction(-1, 5)],
        [Fraction(-1, 5), Fraction(2, 5)],
    ]
    assert rational_solve(np.zeros((3, 2), dtype=int), [0, 0, 0]).free == (0, 1)
    assert nullspace(np.zeros((2, 3), dtype=int)).tolist() == np.eye(3, dtype=int).tolist()
    assert rational_solve(A).values.tolist() == [0, 0]
    assert rational_rank(np.zeros((2, 3), dtype=int)) == 0


def test_digits_and_fractions():
    rng = np.random.default_rng(0)
    bases = (97, 101, 103, 107, 109)
    values = [int(x) for x in rng.integers(-(10**9), 10**9, 7)] + [0, -1]
    digits = np.array([list(balanced_digits(v, bases)) for v in values], dtype=float).T
    assert integers_of(digits, bases) == values
    assert [radix_value(list(column), bases) for column in digits.T] == values
    modulus = (2**61 - 1) ** 9
    for n, d in [(3, 7), (-(3**100), 5**60), (0, 1), (2**300, 1), (-1, 3**120)]:
        assert reconstruct(n * pow(d, -1, modulus), modulus) == (n, d)
    assert reconstruct(int.from_bytes(rng.bytes(80), "little") % modulus, modulus) is None
    rows = rng.integers(-999, 1000, (5, 8))
    long = np.array([[(-1) ** i * 3 ** (40 * j + i) for j in range(3)] for i in range(8)], dtype=object)
    assert (exact_product(rows, long) == rows.astype(object).dot(long)).all()
    assert (exact_product(rows * 2**40, long) == rows.astype(object).dot(long) * 2**40).all()


def test_bad_input():
    for call, error, word in (
        (lambda: rational_solve([[0.5]], [1]), TypeError, "fractions"),
        (lambda: rational_solve(np.array([[0.5]]), [1]), TypeError, "floating-point"),
        (lambda: rational_solve(np.array([[np.nan]]), [1]), ValueError, "NaN"),
        (lambda: rational_solve([["a"]], [1]), TypeError, "'a'"),
        (lambda: rational_solve(np.eye(2) * 1j, [1, 2]), TypeError, "dtype"),
        (lambda: rational_solve([1, 2], [1]), ValueError, "shape"),
        (lambda: rational_solve([[1, 2]], [1, 2]), ValueError, "1 rows"),
        (lambda: rational_solve([[1]], [1], method="qr"), ValueError, "method"),
        (lambda: rational_solve([[1]], [1]).at({0: 1}), ValueError, "free"),
    ):
        with pytest.raises(error, match=word):
            call()
