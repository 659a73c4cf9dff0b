"""Fractions from what is known of them modulo a large number, and the proof that they are the solution."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from resolvent.operators.threads import one_thread
from resolvent.solve.modular_kernel import carry_limbs, euclid_word

# A quotient this long in Euclid's algorithm is the gap behind the fraction that was looked for: 2^-40 by chance.
GAP = 40
_LIMB = 16
# Products of fewer numbers are too short for a second thread.
_SHORT = 10**8
# Combinations of the entries that are asked for their denominators.
_COMBINED = 6


class Digits(Protocol):
    """A^-1 B modulo a product of bases that grows: by lifting, or by one prime after the other."""

    norm_A: int  # the largest sum of absolute values of a row
    norm_B: int  # the largest absolute value
    B: np.ndarray

    def extend(self, count: int) -> None:
        """Know the solution modulo the first `count` bases."""

    def bases(self, count: int) -> tuple[int, ...]:
        """The first bases."""

    def column(self, j: int, count: int) -> np.ndarray:
        """(count, n) balanced digits of column j."""

    def scaled(self, j: int, factor: int, count: int) -> np.ndarray:
        """(count, n) balanced digits of factor times column j."""

    def needed(self, bits: float) -> int:
        """How many bases have a product of so many bits."""


def solve_columns(source: Digits, enough: float) -> tuple[np.ndarray, list[int]]:
    """Numerators (n, k) and a denominator for each column, proven.

    Parameters
    ----------
    source : digits of the solution
    enough : bits in which every solution is found
    """
    limit = source.needed(enough)
    numerators, denominators = np.empty(source.B.shape, dtype=object), [0] * source.B.shape[1]
    waiting = list(range(source.B.shape[1]))
    steps = min(16, limit)
    while waiting:
        source.extend(steps)
        for j in list(waiting):
            found = _column(source, j, steps, final=steps >= limit)
            if found is None:
                # The other columns are likely as long.
                break
            numerators[:, j], denominators[j] = found
            waiting.remove(j)
        if waiting and steps >= limit:
            raise ArithmeticError(f"no fraction fits {steps} digits, more than a solution can have")
        steps = min(limit, steps * 5 // 4)
    return numerators, denominators


def _column(source: Digits, j: int, steps: int, final: bool) -> tuple[np.ndarray, int] | None:
    digits, bases = source.column(j, steps), source.bases(steps)
    modulus = math.prod(bases)
    rng = np.random.default_rng(steps)
    denominator = 1
    for _ in range(8 if final else 2):
        bits = 0
        # The denominator of a random combination of the entries is that of them all, but for small factors that its
        # numerator may share: what a second combination still needs is soon found.
        for _ in range(_COMBINED):
            weights = rng.integers(1, 2**10, digits.shape[1]).astype(np.float64)
            value = radix_value((digits @ weights).tolist(), bases)
            found = reconstruct(value * denominator, modulus)
            if found is None:
                return None
            denominator *= found[1]
            bits = max(bits, found[0].bit_length())
        bits = max(bits + source.norm_A.bit_length(), denominator.bit_length() + source.norm_B.bit_length())
        count = min(steps, source.needed(bits + 16))
        numerators = integers_of(source.scaled(j, denominator, count), bases[:count])
        largest = max(abs(x) for x in numerators)
        # A N and d b are equal modulo the product of the bases: below half of it, they are equal.
        if 2 * (source.norm_A * largest + denominator * source.norm_B) < math.prod(bases[:count]):
            common = math.gcd(denominator, *numerators)
            return np.array([x // common for x in numerators], dtype=object), denominator // common
    return None


def integers_of(digits: np.ndarray, bases: tuple[int, ...]) -> list[int]:
    """The integers whose balanced digits are the columns: one product with the weights of the digits in base 2^16."""
    weights = _weights(bases)
    sums = (torch.from_numpy(weights) @ torch.from_numpy(np.ascontiguousarray(digits))).numpy()
    out = np.empty((digits.shape[1], len(weights) + 4), dtype="<u2")
    carry_limbs(sums, out)
    return [int.from_bytes(row.tobytes(), "little", signed=True) for row in out]


@functools.lru_cache(maxsize=1)
def _weights(bases: tuple[int, ...]) -> np.ndarray:
    """Limbs (L, count) in base 2^16 of the products of the first 0, 1, ... bases."""
    limbs = (int(sum(math.log2(p) for p in bases)) + 80) // _LIMB
    weights = np.zeros((limbs, len(bases)))
    weight = 1
    for i, p in enumerate(bases):
        words = np.frombuffer(weight.to_bytes((weight.bit_length() + 15) // 16 * 2, "little"), dtype="<u2")
        weights[: len(words), i] = words
        weight *= p
    return weights


def radix_value(digits: Sequence[float], bases: Sequence[int]) -> int:
    """The number with these digits in mixed radix, in halves, so that long numbers meet long numbers."""
    values, radices = [int(x) for x in digits], list(bases)
    while len(values) > 1:
        if len(values) % 2:
            values.append(0)
            radices.append(1)
        values = [values[i] + values[i + 1] * radices[i] for i in range(0, len(values), 2)]
        radices = [radices[i] * radices[i + 1] for i in range(0, len(radices), 2)]
    return values[0]


def reconstruct(value: int, modulus: int) -> tuple[int, int] | None:
    """The fraction n / d that is `value` modulo `modulus`, if there is one with n d far below the modulus.

    Euclid's algorithm on (modulus, value) passes the fraction just before a quotient of about modulus / (n d)
    (Monagan); its steps are taken some thirty at a time on the leading 62 bits (Lehmer). d is positive.
    """
    r0, r1, s0, s1 = modulus, value % modulus, 0, 1
    while r1:
        shift = r0.bit_length() - 62
        if shift > 0 and r1.bit_length() > shift + 31:
            a, b, c, d = (int(x) for x in euclid_word(r0 >> shift, r1 >> shift))
            if b:
                r0, r1, s0, s1 = a * r0 + b * r1, c * r0 + d * r1, a * s0 + b * s1, c * s0 + d * s1
                continue
        q, rest = divmod(r0, r1)
        if q.bit_length() > GAP:
            return (r1, s1) if s1 > 0 else (-r1, -s1)
        r0, r1, s0, s1 = r1, rest, s1, s0 - q * s1
    return (0, 1) if value % modulus == 0 else None


def exact_product(rows: np.ndarray, columns: np.ndarray) -> Any:
    """rows (m, n) times columns (n, k) of long integers, as Python integers."""
    if not rows.size or not columns.size:
        return np.zeros((len(rows), columns.shape[1]), dtype=object)
    if int(np.abs(rows).max()) * 2**_LIMB * rows.shape[1] >= 2**53:
        return rows.astype(object).dot(columns)
    limbs = max(abs(x).bit_length() for x in columns.flat) // _LIMB + 2
    n, k = columns.shape
    raw = b"".join(int(x).to_bytes(limbs * 2, "little", signed=True) for x in columns.flat)
    words = np.frombuffer(raw, dtype="<u2").astype(np.float64).reshape(n, k, limbs)
    # The highest limb carries the sign.
    words[..., -1] -= (words[..., -1] >= 2 ** (_LIMB - 1)) * 2.0**_LIMB
    with one_thread(rows.size * k * limbs < _SHORT):
        left = torch.from_numpy(rows.astype(np.float64))
        sums = (left @ torch.from_numpy(words.reshape(n, k * limbs))).numpy().reshape(-1, limbs)
    out = np.empty((len(sums), limbs + 4), dtype="<u2")
    carry_limbs(np.ascontiguousarray(sums.T), out)
    found = np.empty(len(sums), dtype=object)
    found[:] = [int.from_bytes(row.tobytes(), "little", signed=True) for row in out]
    return found.reshape(len(rows), k)


def cramer_bits(A: np.ndarray, norm_B: int) -> float:
    """Bits of a numerator and a denominator together, by Hadamard's bound, with room for the search."""
    rows, columns = (_log_norms(M) for M in (A, A.T))
    size = min(sum(rows), sum(columns))
    right = math.log2(max(1, norm_B)) + math.log2(len(A)) / 2
    # Numerators replace a column, combinations of them weigh n entries by up to 2^10, and the gap comes on top.
    return 2 * size - min(0.0, *columns) + right + math.log2(len(A)) + 10 + GAP + 48


def _log_norms(rows: np.ndarray) -> list[float]:
    """Base-2 logarithms of the lengths of the rows, nowhere below zero."""
    if rows.dtype == object:
        return [math.log2(max(1, sum(x * x for x in row))) / 2 for row in rows.tolist()]
    return [math.log2(max(1.0, x)) / 2 + 1e-9 for x in np.square(rows.astype(np.float64)).sum(axis=1).tolist()]


def balanced_digits(value: int, bases: Sequence[int]) -> Iterator[int]:
    """Digits of an integer in mixed radix, from -p / 2 to p / 2."""
    for p in bases:
        digit = (value + p // 2) % p - p // 2
        value = (value - digit) // p
        yield digit


def repeated(p: int, count: int) -> tuple[int, ...]:
    """One base, many times."""
    return tuple(itertools.repeat(p, count))
