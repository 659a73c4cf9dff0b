"""Exact solutions of linear systems over the rationals, with all solutions where there are many, each proven."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from resolvent.solve.lifting import solve_by_primes, solve_lifted
from resolvent.solve.modular import primes, rref
from resolvent.solve.rationals import Integers, fractions, integers, residues
from resolvent.solve.reconstruct import exact_product

Method = Literal["auto", "lift", "primes"]
# Primes that are tried; one of them fails with a chance of about n / 4 10^6.
_TRIES = 20


@dataclass(frozen=True)
class RationalSolution:
    """All solutions of A x = b: a particular one, and what may be added.

    Attributes
    ----------
    numerators : (n, k) integers, one column for each right-hand side; the particular solution, its free variables zero
    denominators : k positive integers
    null_numerators : (n, n - rank) integers; column f is zero at all free variables but the f-th
    null_denominators : n - rank positive integers
    pivots : columns of the reduced row echelon form's leading ones: the variables that are solved for
    free : the other variables
    rows : rows of A that are independent and imply all others, increasing
    vector : b had one dimension, and so has `values`

    Examples
    --------
    >>> found = rational_solve([[1, 2], [3, 4]], [1, 1])
    >>> found.numerators.ravel().tolist(), found.denominators, found.unique
    ([-1, 1], (1,), True)
    """

    numerators: np.ndarray
    denominators: tuple[int, ...]
    null_numerators: np.ndarray
    null_denominators: tuple[int, ...]
    pivots: tuple[int, ...]
    free: tuple[int, ...]
    rows: tuple[int, ...]
    vector: bool

    @property
    def rank(self) -> int:
        """The rank of A over the rationals."""
        return len(self.pivots)

    @property
    def unique(self) -> bool:
        """There is one solution only."""
        return not self.free

    @functools.cached_property
    def values(self) -> np.ndarray:
        """The particular solution, (n,) or (n, k) of `fractions.Fraction`."""
        found = fractions(self.numerators, list(self.denominators))
        return found[:, 0] if self.vector else found

    @functools.cached_property
    def nullspace(self) -> np.ndarray:
        """(n, n - rank) of `fractions.Fraction`: the identity at the free variables."""
        return fractions(self.null_numerators, list(self.null_denominators))

    def at(self, parameters: Mapping[int, Any]) -> np.ndarray:
        """The solution whose free variables have these values; those not named are zero.

        Examples
        --------
        >>> rational_solve([[2, 1]], [3]).at({1: 5}).tolist()
        [Fraction(-1, 1), Fraction(5, 1)]
        """
        unknown = set(parameters) - set(self.free)
        if unknown:
            raise ValueError(f"parameters must be among the free variables {self.free}, got {sorted(unknown)}")
        found = self.values
        for f, value in parameters.items():
            step = self.nullspace[:, self.free.index(f)] * Fraction(value)
            found = found + (step if self.vector else step[:, None])
        return found


def rational_solve(A: Any, b: Any = None, *, method: Method = "auto") -> RationalSolution:
    r"""All solutions of :math:`A x = b` over the rationals, exactly.

    Parameters
    ----------
    A : (m, n) integers or fractions: nested lists, an array (floating-point numbers must be whole), a tensor, a sparse
        matrix. Dependent rows are welcome
    b : (m,) or (m, k); None: zeros, for the null space alone
    method : "lift" inverts modulo one prime and lifts to its powers; "primes" row-reduces modulo many primes and joins
        the results; "auto" lifts unless there are more right-hand sides and free variables than pivots

    Returns
    -------
    RationalSolution

    Raises
    ------
    ValueError : shapes that do not fit; no solution exists (which is proven, too).
    TypeError : entries that are neither integers nor fractions.

    Notes
    -----
    One row reduction modulo a prime of 22 bits, sparse rows first, finds the independent rows and the pivots. The
    square system of both is solved in digits modulo powers of p ("lift": one product with A and one with its inverse
    modulo p for each digit) or modulo many primes; Euclid's algorithm finds the fractions in them as soon as there are
    enough digits. Then it is proven: A N and D b are equal modulo a number that is larger than both, and the rows left
    out are multiplied in long integers. A prime that misleads fails there, and the next is taken. The cost is about
    2 m n r products modulo p, and 2 r^2 for each of the digits of each column; the answer has up to r log2(sqrt(r) |A|)
    bits in each numerator. Memory is that of a dense r x r matrix. Gradients do not exist: the entries are integers.

    The paper solves modulo many 16-bit primes ("primes" here, with primes of 22 bits). Lifting has the same answers for
    an r-th of the row reductions.

    References
    ----------
    "FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory"

    Examples
    --------
    >>> rational_solve([[2, 1], [1, 3]], [1, 2]).values.tolist()
    [Fraction(1, 5), Fraction(3, 5)]
    >>> many = rational_solve([[1, 2, 3], [2, 4, 6]], [1, 2])
    >>> many.free, many.nullspace[:, 0].tolist()
    ((1, 2), [Fraction(-2, 1), Fraction(1, 1), Fraction(0, 1)])
    """
    if method not in ("auto", "lift", "primes"):
        raise ValueError(f"method must be auto, lift or primes, got {method!r}")
    rows, right, vector = _system(A, b)
    found = _solve(rows, right, method, vector)
    if found is None:
        raise ValueError("the system has no solution: b is not in the range of A")
    return found


def is_consistent(A: Any, b: Any) -> bool:
    """Whether A x = b has a solution over the rationals.

    Parameters
    ----------
    A : (m, n) integers or fractions
    b : (m,) or (m, k); with several right-hand sides, whether all have one

    Returns
    -------
    bool

    Raises
    ------
    ValueError, TypeError : as `rational_solve`

    Notes
    -----
    True comes with a solution, verified; False with a null space of A, verified, and a rank of [A, b] above that of A
    modulo a prime, which is a rank over the rationals as well.

    References
    ----------
    "FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory"

    Examples
    --------
    >>> is_consistent([[1, 2], [2, 4]], [1, 2]), is_consistent([[1, 2], [2, 4]], [1, 3])
    (True, False)
    """
    rows, right, _ = _system(A, b)
    return _solve(rows, right) is not None


def nullspace(A: Any) -> np.ndarray:
    """A basis of the null space of A over the rationals.

    Parameters
    ----------
    A : (m, n) integers or fractions

    Returns
    -------
    (n, n - rank) of `fractions.Fraction`, the identity at the free variables of the reduced row echelon form.

    Raises
    ------
    ValueError, TypeError : as `rational_solve`

    Notes
    -----
    `rational_solve` without a right-hand side: A times each column is zero, verified in integers.

    References
    ----------
    "FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory"

    Examples
    --------
    >>> nullspace([[1, 2], [2, 4]]).tolist()
    [[Fraction(-2, 1)], [Fraction(1, 1)]]
    """
    return rational_solve(A).nullspace


def rational_rank(A: Any) -> int:
    """The rank of A over the rationals, certain.

    Parameters
    ----------
    A : (m, n) integers or fractions

    Returns
    -------
    int

    Raises
    ------
    ValueError, TypeError : as `rational_solve`

    Notes
    -----
    The rank modulo a prime is a lower bound. Where it is not full, a null space of the other dimension is found and
    verified, of A or of its transpose, whichever is smaller.

    References
    ----------
    "FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory"

    Examples
    --------
    >>> rational_rank([[1, 2], [2, 4]])
    1
    """
    rows, _, _ = _system(A, None)
    found = _solve(rows.T.copy() if rows.shape[0] < rows.shape[1] else rows, None)
    return 0 if found is None else found.rank


def _system(A: Any, b: Any) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Integer rows of [A, b], each scaled as a whole."""
    left = integers(A, "A")
    if b is None:
        return left.rows, None, True
    right = integers(b, "b", (1, 2))
    if len(right.rows) != len(left.rows):
        raise ValueError(f"b must have {len(left.rows)} rows, as A has, got {len(right.rows)}")
    if left.scales == right.scales:
        return left.rows, right.rows, right.vector
    common = [math.lcm(x, y) for x, y in zip(left.scales, right.scales, strict=True)]
    return _rescaled(left, common), _rescaled(right, common), right.vector


def _rescaled(given: Integers, scales: list[int]) -> np.ndarray:
    factors = np.array([new // old for new, old in zip(scales, given.scales, strict=True)], dtype=object)
    rows = given.rows.astype(object) * factors[:, None]
    return integers(rows, "A").rows


def _solve(
    A: np.ndarray, b: np.ndarray | None, method: Method = "auto", vector: bool = True
) -> RationalSolution | None:
    """All solutions, or None where there is none."""
    m, n = A.shape
    right = np.zeros((m, 0 if b is None else b.shape[1]), dtype=np.int64) if b is None else b
    # Sparse rows first: of several rows that say the same, the simple ones are kept.
    order = np.argsort((A != 0).sum(axis=1), kind="stable")
    for p in some_primes():
        if m == n and b is not None and method != "primes" and (whole := solve_lifted(A, b, p)) is not None:
            every, none = tuple(range(n)), np.zeros((n, 0), dtype=object)
            return RationalSolution(whole[0], tuple(whole[1]), none, (), every, (), every, vector)
        both = np.concatenate([residues(A[order], p), residues(right[order], p)], axis=1)
        _, pivots, kept = rref(both, p)
        consistent = not (pivots >= n).any()
        inside = pivots < n
        columns = np.sort(pivots[inside])
        rows = order[kept[inside]]
        free = np.setdiff1d(np.arange(n), columns)
        # A right-hand side without a solution needs the null space only: it proves the rank of A.
        wanted = right if consistent else right[:, :0]
        found = _verified(A, wanted, rows, columns, free, p, method)
        if found is None:
            continue
        if not consistent:
            return None
        X, denominators = found
        k = right.shape[1]
        count = k if b is not None else 1
        particular, basis = np.zeros((n, count), dtype=object), np.zeros((n, len(free)), dtype=object)
        if b is not None:
            particular[columns] = X[:, :k]
        basis[columns] = -X[:, k:]
        basis[free, np.arange(len(free))] = denominators[k:]
        ones = denominators[:k] if b is not None else [1]
        names = (_indices(columns), _indices(free), _indices(np.sort(rows)))
        return RationalSolution(particular, tuple(ones), basis, tuple(denominators[k:]), *names, vector)
    raise ArithmeticError(f"{_TRIES} primes in a row divide a minor of A: the matrix is made for it")


def _indices(found: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in found)


def some_primes() -> Iterator[int]:
    """The primes that are tried."""
    return (p for p, _ in zip(primes(), range(_TRIES), strict=False))


def _verified(
    A: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray, free: np.ndarray, p: int, method: Method
) -> tuple[np.ndarray, list[int]] | None:
    """The pivot variables for each right-hand side and each free variable, or None where the prime misled."""
    square = A[np.ix_(rows, columns)]
    right = np.concatenate([b, A[:, free]], axis=1)
    k = right.shape[1]
    if method == "primes" or (method == "auto" and k > len(rows)):
        found: Any = solve_by_primes(square, right[rows], 2**22)
    else:
        found = solve_lifted(square, right[rows], p)
    if found is None:
        return None
    X, denominators = found
    others = np.setdiff1d(np.arange(len(A)), rows)
    # What is zero modulo p alone is not: the rows left out must hold as well.
    if (exact_product(A[np.ix_(others, columns)], X) != right[others] * np.array(denominators, dtype=object)).any():
        return None
    # A pivot to the right of a free variable that depends on it is not the echelon form's over the rationals.
    for j, f in enumerate(free):
        if X[columns > f, b.shape[1] + j].any():
            return None
    return X, denominators
