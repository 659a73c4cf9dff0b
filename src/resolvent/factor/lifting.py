"""From a scheme that holds modulo a prime to one over the rational numbers: Hensel lifting and reconstruction."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from resolvent.errors import ConvergenceError
from resolvent.factor.bilinear import BilinearScheme
from resolvent.factor.structured_product import bilinear_tensor
from resolvent.random import GeneratorLike, as_generator

# Products of three residues and their sums stay within 64 bits.
_LARGEST = 2**27


def lift_scheme(
    scheme: BilinearScheme,
    p: int | None = None,
    steps: int = 10,
    *,
    tries: int = 10,
    generator: GeneratorLike = 0,
) -> BilinearScheme:
    r"""Lift a scheme from the field of p elements to the rational numbers.

    Parameters
    ----------
    scheme : valid modulo p, as `flip_graph_search` over a field finds it
    p : the prime, 2 or 3; None takes the scheme's modulus
    steps : digits: coefficients are found modulo p^(steps + 1), then as fractions
    tries : orders of the unknowns. Which of them keep their digit is free, and not every choice gives small fractions.
    generator : for these orders

    Returns
    -------
    BilinearScheme over the rational numbers (integers and a denominator), of the same rank, verified exactly.

    Raises
    ------
    ConvergenceError : the linear equations have no solution, or no small fractions were found; `best` is the scheme
        modulo the highest power of p that was reached.
    ValueError : a scheme that does not hold modulo p, a prime other than 2 and 3, too many steps.

    Notes
    -----
    With U, V, W right modulo p^k, digits dU, dV, dW solve the Brent equations linearised modulo p,
    [dU, V, W] + [U, dV, W] + [U, V, dW] = (d T - [U, V, W]) / p^k. The matrix is the same in all steps: it is reduced
    once, (entries of T) x (coefficients), cubic. Free unknowns keep 0, so that most coefficients stay as they are.
    Halves come only from p = 3, thirds only from p = 2. Each rank-one term is scaled to integers in U and V.

    References
    ----------
    "Faster Algorithms for Structured Matrix Multiplication via Flip Graph Search"

    Examples
    --------
    >>> from resolvent.factor import flip_graph_search
    >>> lifted = lift_scheme(flip_graph_search(2, ring=2, target=7, generator=0))
    >>> lifted.rank, lifted.modulus, lifted.verify()
    (7, 0, True)
    """
    if not isinstance(scheme, BilinearScheme):
        raise TypeError(f"scheme must be a BilinearScheme, got {type(scheme).__name__}")
    prime = scheme.modulus if p is None else p
    if prime not in (2, 3):
        raise ValueError(f"p must be 2 or 3, or the scheme hold modulo one of them, got {prime!r}")
    for name, value in (("steps", steps), ("tries", tries)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int, at least 1, got {value!r}")
    if prime ** (steps + 1) > _LARGEST:
        raise ValueError(f"steps must keep p^(steps + 1) at most {_LARGEST}, got {steps} for p = {prime}")
    T = bilinear_tensor(scheme.op, scheme.sizes)
    # Entries next to zero: most schemes have coefficients -1, 0 and 1.
    parts = [(part % prime + (prime == 3)) % prime - (prime == 3) for part in (scheme.U, scheme.V, scheme.W)]
    parts[2] = parts[2] * pow(scheme.denominator, -1, prime) if scheme.denominator % prime else parts[2]
    if scheme.denominator % prime == 0 or ((T - _product(parts)) % prime).any():
        raise ValueError(f"scheme must satisfy the Brent equations modulo {prime}, got {scheme!r}")
    random = np.random.default_rng(as_generator(generator).initial_seed() % 2**63)
    unknowns = sum(part.size for part in parts)
    best = None
    for attempt in range(tries):
        # First the unknowns that are not zero, so that zeros stay.
        nonzero = np.concatenate([part.ravel() for part in parts]) != 0
        weight = random.random(unknowns) if attempt else np.linspace(0, 0.5, unknowns)
        order = np.argsort(weight - nonzero)
        lifted, modulus = _lifted(parts, T, prime, steps, order)
        best = BilinearScheme(lifted[0], lifted[1], lifted[2], scheme.op, scheme.sizes, 1, modulus)
        if modulus <= prime:
            raise ConvergenceError("lift_scheme: the linear equations have no solution modulo p", best=best)
        found = _rational(lifted, modulus, scheme)
        if found is not None and found.verify():
            return found
    raise ConvergenceError(f"lift_scheme: no small fractions in {tries} tries of {steps} steps", best=best)


def _product(parts: list[np.ndarray], modulus: int = 0) -> np.ndarray:
    U, V, W = parts
    pairs = (U[:, :, None] * V[:, None, :]).reshape(len(U), -1)
    if modulus:
        pairs %= modulus
    return (pairs.T @ W).reshape(U.shape[1], V.shape[1], W.shape[1])


def _jacobian(parts: list[np.ndarray], prime: int) -> np.ndarray:
    """Derivatives of the entries of the tensor by the entries of U, V, W, modulo p."""
    U, V, W = parts
    p, q, s = U.shape[1], V.shape[1], W.shape[1]
    by_u = np.einsum("ij,rb,rc->ibcrj", np.eye(p, dtype=np.int64), V, W).reshape(p * q * s, -1)
    by_v = np.einsum("ij,ra,rc->aicrj", np.eye(q, dtype=np.int64), U, W).reshape(p * q * s, -1)
    by_w = np.einsum("ij,ra,rb->abirj", np.eye(s, dtype=np.int64), U, V).reshape(p * q * s, -1)
    return np.concatenate([by_u, by_v, by_w], 1) % prime


def _reduced(J: np.ndarray, prime: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of J (places) that are independent and the pivot column of each, from the left."""
    M = J.astype(np.int8)
    rows, pivots, k = np.arange(len(M)), [], 0
    for column in range(M.shape[1]):
        candidates = np.flatnonzero(M[k:, column])
        if not len(candidates):
            continue
        at = k + candidates[0]
        M[[k, at]], rows[[k, at]] = M[[at, k]], rows[[at, k]]
        if M[k, column] != 1:
            M[k] = -M[k] % prime
        below = k + 1 + np.flatnonzero(M[k + 1 :, column])
        M[below] = (M[below] - M[below, column][:, None] * M[k]) % prime
        pivots.append(column)
        k += 1
        if k == len(M):
            break
    return rows[:k], np.array(pivots, np.int64)


def _inverse(M: np.ndarray, prime: int) -> np.ndarray:
    n = len(M)
    both = np.concatenate([M % prime, np.eye(n, dtype=np.int64)], 1).astype(np.int8)
    for k in range(n):
        at = k + int(np.flatnonzero(both[k:, k])[0])
        both[[k, at]] = both[[at, k]]
        if both[k, k] != 1:
            both[k] = -both[k] % prime
        others = np.flatnonzero(both[:, k])
        others = others[others != k]
        both[others] = (both[others] - both[others, k][:, None] * both[k]) % prime
    return both[:, n:].astype(np.int64)


def _lifted(
    parts: list[np.ndarray], T: np.ndarray, prime: int, steps: int, order: np.ndarray
) -> tuple[list[np.ndarray], int]:
    """The coefficients modulo a power of p, and that power."""
    J = _jacobian(parts, prime)[:, order]
    rows, pivots = _reduced(J, prime)
    inverse = _inverse(J[np.ix_(rows, pivots)], prime)
    ends = list(itertools.accumulate(part.size for part in parts))
    modulus = prime
    for _ in range(steps):
        gap = (T - _product(parts, modulus * prime)) % (modulus * prime)
        right = (gap // modulus).ravel()
        x = inverse @ right[rows] % prime
        if ((J[:, pivots] @ x - right) % prime).any():
            return parts, modulus
        digits = np.zeros(ends[-1], np.int64)
        digits[order[pivots]] = x
        parts = [
            part + modulus * piece.reshape(part.shape)
            for part, piece in zip(parts, np.split(digits, ends[:-1]), strict=True)
        ]
        modulus *= prime
    return parts, modulus


def _fraction(residue: int, modulus: int) -> Fraction | None:
    """The fraction with numerator and denominator at most sqrt(modulus / 2) that is congruent, by Euclid's algorithm."""
    bound = math.isqrt(modulus // 2)
    r, t = (modulus, residue % modulus), (0, 1)
    while r[1] > bound:
        quotient = r[0] // r[1]
        r, t = (r[1], r[0] - quotient * r[1]), (t[1], t[0] - quotient * t[1])
    if not 0 < abs(t[1]) <= bound or math.gcd(r[1], abs(t[1])) != 1:
        return None
    return Fraction(r[1], t[1])


def _rational(parts: list[np.ndarray], modulus: int, like: BilinearScheme) -> BilinearScheme | None:
    known: dict[int, Fraction | None] = {}
    rows: list[list[list[Fraction]]] = []
    for part in parts:
        matrix = []
        for row in (part % modulus).tolist():
            values = [known.setdefault(x, _fraction(x, modulus)) for x in row]
            if any(value is None for value in values):
                return None
            matrix.append([value for value in values if value is not None])
        rows.append(matrix)
    U, V, W = rows[0], rows[1], rows[2]
    for q in range(len(U)):
        for factor in (U, V):
            whole_by = math.lcm(*(x.denominator for x in factor[q]))
            scale = Fraction(whole_by, math.gcd(*(int(x * whole_by) for x in factor[q])) or 1)
            factor[q] = [x * scale for x in factor[q]]
            W[q] = [x / scale for x in W[q]]
    over = math.lcm(*(x.denominator for row in W for x in row))
    whole = [[[int(x) for x in row] for row in matrix] for matrix in (U, V)]
    top = [[int(x * over) for x in row] for row in W]
    return BilinearScheme(np.array(whole[0]), np.array(whole[1]), np.array(top), like.op, like.sizes, over)
