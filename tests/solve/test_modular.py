"""Row reduction modulo primes: against python-flint for all three kernels, independent rows, bad input."""

from __future__ import annotations

from fractions import Fraction

import flint
import numpy as np
import pytest
import torch

from resolvent.solve import independent_rows, modular_rref
from resolvent.solve.modular import inverse, primes, product, rref
from resolvent.solve.modular_kernel import reduce_all, span_of
from resolvent.solve.rationals import residues

PRIMES = (101, 65521, 65537, 4194301, 2147483647)


def dependent(m, n, rank, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.integers(-9, 10, (m, rank)) @ rng.integers(-9, 10, (rank, n))
    A[m // 2] = 0
    A[:, n // 3] = 0
    return A


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("shape", [(40, 60, 25), (70, 30, 30), (1, 5, 1)])
def test_equals_flint(p, shape):
    A = dependent(*shape)
    R, pivots = modular_rref(A, p)
    wanted, rank = flint.nmod_mat(*A.shape, [int(x) % p for x in A.flat], p).rref()
    assert len(pivots) == rank
    assert R.tolist() == [[int(x) for x in row] for row in wanted.tolist()]
    assert all(R[i, j] == 1 for i, j in enumerate(pivots))


def test_blocks_in_blocks():
    p = next(primes())
    A = dependent(600, 300, 120)
    R, pivots, rows = rref(residues(A, p), p)
    short, same, first = rref(residues(A[:200], p), p)
    assert len(pivots) == len(same) == 120
    assert rows.tolist() == first.tolist()
    assert np.array_equal(R[np.argsort(pivots)] % p, short[np.argsort(same)] % p)


def test_inverse():
    p = next(primes())
    for n in (1, 33, 300):
        A = residues(np.random.default_rng(n).integers(-999, 1000, (n, n)), p)
        found = product(A, inverse(A, p), float(p), span_of(p))
        reduce_all(found, float(p))
        assert np.array_equal(found, np.eye(n))
    assert inverse(np.ones((3, 3)), p) is None


def test_long_sums_stay_exact():
    p = next(primes())
    n = 3 * span_of(p)
    a = np.full((1, n), float(p // 2))
    found = product(a, a.T.copy(), float(p), span_of(p))
    assert int(found[0, 0]) % p == n * (p // 2) ** 2 % p


def test_independent_rows_are_the_first_ones():
    A = dependent(60, 40, 12)
    kept = independent_rows(A)
    ranks = [np.linalg.matrix_rank(A[: i + 1]) for i in range(60)]
    assert list(kept) == [i for i in range(60) if ranks[i] > (ranks[i - 1] if i else 0)]
    assert independent_rows(A, 101) == kept


def test_kinds_and_fractions():
    R, pivots = modular_rref(torch.tensor([[2, 4], [1, 2]]), 7)
    assert isinstance(R, torch.Tensor)
    assert R.tolist() == [[1, 2], [0, 0]]
    assert pivots == (0,)
    # 1/2 is 4 modulo 7
    assert modular_rref([[1, Fraction(1, 2)]], 7)[0].tolist() == [[1, 4]]
    assert modular_rref([[3, Fraction(1, 2)], [0, 10**30]], 7)[0].tolist() == [[1, 0], [0, 1]]


def test_bad_input():
    for call, error, word in (
        (lambda: modular_rref([[1]], 9), ValueError, "prime"),
        (lambda: modular_rref([[1]], 2**31 + 11), ValueError, "prime"),
        (lambda: modular_rref([[1]], 7.0), ValueError, "prime"),
        (lambda: modular_rref([[Fraction(1, 7)]], 7), ValueError, "denominator"),
        (lambda: modular_rref([1, 2], 7), ValueError, "shape"),
        (lambda: independent_rows([[1]], 2147483647), ValueError, "2\\^22"),
    ):
        with pytest.raises(error, match=word):
            call()
