"""Loops over residues modulo a prime: row reduction, p-adic digits, and the steps of Euclid's algorithm."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import njit

# All numbers are integers below 2^53 here, so that no order of additions and no fused product changes a result.
_EXACT = {"reassoc", "contract", "nsz"}


@functools.cache
def row_reducer(prime: int, wide: bool = False) -> Any:
    """The row reduction modulo one prime, compiled with the prime as a constant; 0 leaves it an argument.

    The compiler turns a division by a constant into a product and a shift, on vectors of 32-bit numbers for primes
    below 2^16; `wide` computes in 64 bits, for primes below 2^31.
    """
    word = np.uint64 if wide else np.uint32
    constant = word(prime)

    @njit(cache=True, nogil=True, error_model="numpy")
    def reduce(a, full, p, pivots):  # type: ignore[no-untyped-def]
        m, n = a.shape
        q = constant if constant > 0 else p
        for i in range(m):
            first = 0
            while first < n and a[i, first] == 0:
                first += 1
            if first == n:
                pivots[i] = -1
                continue
            pivots[i] = first
            # Fermat: x^(q - 2) is the inverse of x.
            inverse, power, square = word(1), q - word(2), word(a[i, first])
            while power > 0:
                if power & word(1):
                    inverse = word(word(inverse * square) % q)
                square = word(word(square * square) % q)
                power = power >> word(1)
            for j in range(first, n):
                a[i, j] = word(word(a[i, j]) * inverse) % q
            for k in range(0 if full else i + 1, m):
                if k == i or a[k, first] == 0:
                    continue
                factor = word(q - word(a[k, first]))
                # Views that begin at zero: the compiler vectorises no loop whose index may be negative.
                x, y = a[k, first:], a[i, first:]
                for j in range(x.size):
                    x[j] = word(word(word(x[j]) + word(factor * word(y[j]))) % q)

    return reduce


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def reduce_all(x, p):  # type: ignore[no-untyped-def]
    """Balanced residues in place: |x| <= p / 2, up to one."""
    inverse = 1.0 / p
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] -= p * np.rint(x[i, j] * inverse)


@njit(cache=True, nogil=True, error_model="numpy")
def inverse_mod(a, p):  # type: ignore[no-untyped-def]
    """1 / a modulo p, by Euclid."""
    r0, r1, s0, s1 = p, a % p, 0, 1
    while r1 != 0:
        q = r0 // r1
        r0, r1 = r1, r0 - q * r1
        s0, s1 = s1, s0 - q * s1
    return s0 % p


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def echelon(block, p, columns, pivots, kept):  # type: ignore[no-untyped-def]
    """Reduce the rows of a block among themselves; the count of those that are independent."""
    inverse = 1.0 / p
    n = block.shape[1]
    count = 0
    for i in range(block.shape[0]):
        row = block[i]
        if count:
            # The kept rows are zero at each other's pivots: all factors are known at the start, and the sum of so few
            # products stays below 2^53, so that one reduction serves them all.
            for k in range(count):
                factor = -row[pivots[k]]
                if factor != 0:
                    other = block[kept[k]]
                    for j in range(n):
                        row[j] += factor * other[j]
            for j in range(n):
                row[j] -= p * np.rint(row[j] * inverse)
        first = 0
        while first < columns and row[first] == 0:
            first += 1
        if first == columns:
            continue
        scale = float(inverse_mod(int(row[first]), int(p)))
        for j in range(n):
            t = row[j] * scale
            row[j] = t - p * np.rint(t * inverse)
        for k in range(count):
            other = block[kept[k]]
            factor = other[first]
            if factor != 0:
                for j in range(n):
                    t = other[j] - factor * row[j]
                    other[j] = t - p * np.rint(t * inverse)
        pivots[count] = first
        kept[count] = i
        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def determinant_mod(a, p):  # type: ignore[no-untyped-def]
    """The determinant modulo p of balanced residues, which are overwritten."""
    inverse = 1.0 / p
    n = a.shape[0]
    value = 1.0
    for c in range(n):
        first = c
        while first < n and a[first, c] == 0:
            first += 1
        if first == n:
            return 0.0
        if first > c:
            value = -value
            for j in range(c, n):
                a[c, j], a[first, j] = a[first, j], a[c, j]
        value *= a[c, c]
        value -= p * np.rint(value * inverse)
        scale = float(inverse_mod(int(a[c, c]), int(p)))
        scale -= p * np.rint(scale * inverse)
        for k in range(c + 1, n):
            factor = a[k, c] * scale
            factor -= p * np.rint(factor * inverse)
            if factor != 0:
                # Views that begin at zero: the compiler vectorises no loop whose index may be negative.
                x, y = a[k, c:], a[c, c:]
                for j in range(x.size):
                    t = x[j] - factor * y[j]
                    x[j] = t - p * np.rint(t * inverse)
    return value


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def _digit(c, r, p, span, reduced, x):  # type: ignore[no-untyped-def]
    """x = C r modulo p, in sums of at most `span` products."""
    inverse = 1.0 / p
    n = r.size
    for j in range(n):
        reduced[j] = r[j] - p * np.rint(r[j] * inverse)
    for i in range(n):
        row = c[i]
        total = 0.0
        for start in range(0, n, span):
            part = 0.0
            # Views that begin at zero: the compiler vectorises no loop whose index may be negative.
            c_part, r_part = row[start : start + span], reduced[start : start + span]
            for j in range(c_part.size):
                part += np.float64(c_part[j]) * r_part[j]
            total += part - p * np.rint(part * inverse)
        x[i] = total - p * np.rint(total * inverse)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def lift_dense(a, c, r, p, span, digits):  # type: ignore[no-untyped-def]
    """Digits of A^-1 r in base p, where C = A^-1 modulo p; r becomes the residual."""
    n = r.size
    reduced = np.empty(n)
    for step in range(digits.shape[0]):
        x = digits[step]
        _digit(c, r, p, span, reduced, x)
        for i in range(n):
            row = a[i]
            total = 0.0
            for j in range(n):
                total += np.float64(row[j]) * x[j]
            # The difference is a multiple of p: the quotient is exact, and rounding it takes off nothing.
            r[i] = np.rint((r[i] - total) / p)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def lift_sparse(indptr, indices, values, c, r, p, span, digits):  # type: ignore[no-untyped-def]
    """As `lift_dense`, with the rows of A compressed."""
    n = r.size
    reduced = np.empty(n)
    for step in range(digits.shape[0]):
        x = digits[step]
        _digit(c, r, p, span, reduced, x)
        for i in range(n):
            total = 0.0
            for k in range(indptr[i], indptr[i + 1]):
                total += values[k] * x[indices[k]]
            r[i] = np.rint((r[i] - total) / p)


@njit(cache=True, nogil=True, error_model="numpy")
def lift_words(a, c, r, p, inverse, span, digits):  # type: ignore[no-untyped-def]
    """As `lift_dense` for 64-bit integers: products wrap, and the exact quotient is a product modulo 2^64."""
    n = r.size
    reduced, x = np.empty(n), np.empty(n, np.int64)
    start = np.empty(n)
    for step in range(digits.shape[0]):
        for i in range(n):
            start[i] = float(r[i] % p)
        _digit(c, start, float(p), span, reduced, digits[step])
        for j in range(n):
            x[j] = np.int64(digits[step, j])
        for i in range(n):
            total = r[i]
            for j in range(n):
                total -= a[i, j] * x[j]
            r[i] = total * inverse


@njit(cache=True, nogil=True, error_model="numpy")
def carry_digits(y, p, digits):  # type: ignore[no-untyped-def]
    """Sums of products (k, n) -> balanced digits in base p, modulo p^k."""
    k, n = y.shape
    carry = np.zeros(n, np.int64)
    half = p // 2
    for i in range(k):
        for j in range(n):
            t = y[i, j] + carry[j]
            digit = (t + half) % p - half
            carry[j] = (t - digit) // p
            digits[i, j] = digit


@njit(cache=True, nogil=True, error_model="numpy")
def carry_limbs(v, out):  # type: ignore[no-untyped-def]
    """Signed sums (L, n) over powers of 2^16 -> (n, M) limbs of two's complement, M > L."""
    count, n = v.shape
    carry = np.zeros(n, np.int64)
    for i in range(out.shape[1]):
        for j in range(n):
            t = carry[j]
            if i < count:
                t += np.int64(v[i, j])
            out[j, i] = np.uint16(t & 0xFFFF)
            carry[j] = t >> 16


@njit(cache=True, nogil=True, error_model="numpy")
def euclid_word(h0, h1):  # type: ignore[no-untyped-def]
    """Steps of Euclid on the leading 62 bits of two long numbers, as long as they are those of the numbers.

    The matrix [[a, b], [c, d]] of the steps (Lehmer); b = 0: not one step is certain.
    """
    a, b, c, d = 1, 0, 0, 1
    limit = 1 << 30
    while h1 + c > 0 and h1 + d > 0:
        q = (h0 + a) // (h1 + c)
        if q != (h0 + b) // (h1 + d) or q > limit:
            break
        e, f = a - q * c, b - q * d
        if abs(e) > limit or abs(f) > limit:
            break
        a, b, c, d = c, d, e, f
        h0, h1 = h1, h0 - q * h1
    return a, b, c, d


def span_of(p: int) -> int:
    """How many products of two balanced residues have a sum below 2^53, with one more to spare."""
    return 2**53 // (p // 2 + 1) ** 2 - 1


def largest_entry(p: int, n: int) -> int:
    """Entries up to this size may multiply n digits in base p exactly in float64, with the residual beside them."""
    return int(2**52 / (p / 2 + 1) / max(n, 1)) - 1


def steps_for(bits: float, p: int) -> int:
    """Digits in base p of a number of so many bits."""
    return math.ceil(bits / math.log2(p)) + 1
