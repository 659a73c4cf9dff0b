"""Exact determinants over the rationals: what one solve knows of them, and the rest from a few primes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from resolvent.solve.exact import rational_rank, some_primes
from resolvent.solve.lifting import solve_lifted
from resolvent.solve.modular import primes
from resolvent.solve.modular_kernel import determinant_mod
from resolvent.solve.rationals import integers, residues

# Right-hand sides whose denominators are looked at, and the largest entry of one.
_SIDES, _LARGE = 2, 1000


def rational_det(A: Any) -> Fraction:
    r"""The determinant of a matrix over the rationals, exactly.

    Parameters
    ----------
    A : (n, n) integers or fractions: nested lists, an array (floating-point numbers must be whole), a tensor, a sparse
        matrix

    Returns
    -------
    `fractions.Fraction`; 1 for n = 0

    Raises
    ------
    ValueError : A is not square.
    TypeError : entries that are neither integers nor fractions.

    Notes
    -----
    The denominator d of the solution of A x = b divides the determinant, and for a random b it mostly is all of it but
    a small factor. That factor is found modulo primes of 22 bits and joined by the Chinese remainder theorem, until
    their product is beyond twice Hadamard's bound over d, which proves it. One solution by lifting, see
    `rational_solve`, and n^3 / 3 products for each prime: one to three of them for matrices without structure, at most
    n log2(sqrt(n) |A|) / 22. Zero is proven by a null space. Gradients do not exist: the entries are integers.

    References
    ----------
    "FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory"

    Examples
    --------
    >>> rational_det([[1, 2], [3, 4]]), rational_det([[Fraction(1, 2), 1], [1, Fraction(1, 3)]])
    (Fraction(-2, 1), Fraction(-5, 6))
    """
    given = integers(A, "A")
    rows = given.rows
    if rows.shape[0] != rows.shape[1]:
        raise ValueError(f"A must be square, got shape {rows.shape}")
    if not rows.size:
        return Fraction(1)
    known = _divisor(rows)
    if known == 0:
        return Fraction(0)
    most = 2 * _hadamard(rows) // known + 1
    value, modulus = 0, 1
    for q in primes():
        if known % q == 0:
            continue
        found = int(determinant_mod(residues(rows, q), float(q))) * pow(known, -1, q)
        value += modulus * ((found - value) * pow(modulus, -1, q) % q)
        modulus *= q
        if modulus > most:
            break
    rest = value - modulus if 2 * value > modulus else value
    return Fraction(rest * known, math.prod(given.scales))


def _divisor(rows: np.ndarray) -> int:
    """A divisor of the determinant that is mostly nearly all of it; 0 where that is zero."""
    sides = np.random.default_rng(0).integers(-_LARGE, _LARGE + 1, (len(rows), _SIDES))
    for p in some_primes():
        found = solve_lifted(rows, sides, p)
        if found is not None:
            return math.lcm(*found[1])
        if rational_rank(rows) < len(rows):
            return 0
    # Every prime divides it: no matter, the primes after them know it alone.
    return 1


def _hadamard(rows: np.ndarray) -> int:
    """An integer that no absolute value of the determinant exceeds."""
    exact = rows.astype(object)
    products = (math.prod(sum(x * x for x in row) for row in M.tolist()) for M in (exact, exact.T))
    return math.isqrt(min(products)) + 1
