"""Digits of the exact solution of an integer system: in base p by lifting, or one residue for each of many primes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
import torch

from resolvent.operators.threads import one_thread
from resolvent.solve.modular import inverse, primes, product, rref
from resolvent.solve.modular_kernel import (
    carry_digits,
    largest_entry,
    lift_dense,
    lift_sparse,
    lift_words,
    reduce_all,
    span_of,
    steps_for,
)
from resolvent.solve.rationals import residues
from resolvent.solve.reconstruct import balanced_digits, cramer_bits, repeated, solve_columns

# Products of fewer numbers are too short for a second thread.
_SHORT = 10**8


def _norms(A: np.ndarray, B: np.ndarray) -> tuple[int, int]:
    """The largest sum of absolute values of a row of A, and the largest absolute value in B."""
    sizes = np.abs(A)
    # a row of long words may have a sum beyond 64 bits
    longest = sizes if int(sizes.max()) < 2**62 // len(A) else sizes.astype(object)
    return int(longest.sum(axis=1).max()), int(np.abs(B).max())


@dataclass
class Lift:
    """The digits of A^-1 B in base p, as many as are asked for.

    Attributes
    ----------
    A : (n, n) integers, int64 or Python's
    B : (n, k) integers
    p : prime
    inverse : (n, n) balanced residues of A^-1
    digits : (steps, n, k) balanced digits found so far
    """

    A: np.ndarray
    B: np.ndarray
    p: int
    inverse: np.ndarray
    digits: np.ndarray = field(init=False)
    residual: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        n, k = self.B.shape
        self.digits = np.empty((0, n, k))
        self.norm_A, self.norm_B = _norms(self.A, self.B)
        top = int(np.abs(self.A).max())
        self.single = k == 1
        exact = largest_entry(self.p, n)
        self.mode = "float" if max(top, self.norm_B // n) < exact else "object"
        if self.mode == "float":
            self.residual = self.B.astype(np.float64)
            self._floats(top)
        elif self.norm_A < 2**62 and self.norm_B < 2**62:
            self.mode = "words"
            self.residual = self.B.astype(np.int64)
            self.words = np.ascontiguousarray(self.A, dtype=np.int64)
            self.small = self.inverse.astype(np.float32)
        else:
            self.residual = self.B.astype(object)
            self.longs = self.A.astype(object)

    def _floats(self, top: int) -> None:
        self.sparse = np.count_nonzero(self.A) * 8 < self.A.size
        if self.sparse:
            self.compressed = scipy.sparse.csr_matrix(self.A.astype(np.float64))
        # Residues below 2^22, and the usual entries, are exact in half the bytes: the steps are bound by memory.
        self.dense = self.A.astype(np.float32 if top < 2**24 and self.single else np.float64)
        self.small = self.inverse.astype(np.float32)

    def extend(self, steps: int) -> None:
        """Have at least so many digits."""
        missing = steps - len(self.digits)
        if missing <= 0:
            return
        fresh = np.empty((missing, *self.B.shape))
        if self.mode == "float" and self.single:
            self._one_column(fresh)
        elif self.mode == "words":
            self._by_words(fresh)
        elif self.mode == "float":
            self._columns(fresh)
        else:
            self._long(fresh)
        self.digits = np.concatenate([self.digits, fresh])

    def _one_column(self, fresh: np.ndarray) -> None:
        r, out, p = self.residual[:, 0], fresh[:, :, 0], float(self.p)
        r = np.ascontiguousarray(r)
        if self.sparse:
            A = self.compressed
            lift_sparse(A.indptr, A.indices, A.data, self.small, r, p, span_of(self.p), out)
        else:
            lift_dense(self.dense, self.small, r, p, span_of(self.p), out)
        self.residual = r[:, None]

    def _columns(self, fresh: np.ndarray) -> None:
        p, span = float(self.p), span_of(self.p)
        times = torch.from_numpy(self.dense)
        for step in range(len(fresh)):
            start = self.residual.copy()
            reduce_all(start, p)
            x = product(self.inverse, start, p, span)
            reduce_all(x, p)
            fresh[step] = x
            known = self.compressed @ x if self.sparse else (times @ torch.from_numpy(x)).numpy()
            self.residual = np.rint((self.residual - known) / p)

    def _by_words(self, fresh: np.ndarray) -> None:
        # modulo 2^64, read as a signed word
        back = np.uint64(pow(self.p, -1, 2**64)).astype(np.int64)
        for j in range(fresh.shape[2]):
            r, out = np.ascontiguousarray(self.residual[:, j]), np.empty(fresh.shape[:2])
            lift_words(self.words, self.small, r, np.int64(self.p), back, span_of(self.p), out)
            self.residual[:, j], fresh[:, :, j] = r, out

    def _long(self, fresh: np.ndarray) -> None:
        p, span = self.p, span_of(self.p)
        for step in range(len(fresh)):
            x = product(self.inverse, residues(self.residual, p), float(p), span)
            reduce_all(x, float(p))
            fresh[step] = x
            self.residual = (self.residual - self.longs.dot(x.astype(np.int64).astype(object))) // p

    def bases(self, count: int) -> tuple[int, ...]:
        """The prime, many times."""
        return repeated(self.p, count)

    def needed(self, bits: float) -> int:
        """Digits for so many bits."""
        return steps_for(bits, self.p)

    def column(self, j: int, count: int) -> np.ndarray:
        """(count, n) digits."""
        return np.ascontiguousarray(self.digits[:count, :, j])

    def scaled(self, j: int, factor: int, count: int) -> np.ndarray:
        """Digits of a multiple: a product with the triangular Toeplitz matrix of the factor's digits, and carries."""
        digits, p = self.column(j, count), self.p
        if factor == 1:
            return digits
        line = np.zeros(2 * count - 1)
        line[count - 1 :] = list(balanced_digits(factor, self.bases(count)))
        lower = np.lib.stride_tricks.sliding_window_view(line, count)[:, ::-1].copy()
        total, span = np.zeros(digits.shape, np.int64), span_of(p)
        for start in range(0, count, span):
            part = torch.from_numpy(lower[start:, start : start + span]) @ torch.from_numpy(
                digits[start : start + span]
            )
            total[start:] += part.numpy().astype(np.int64)
        found = np.empty(digits.shape)
        carry_digits(total, p, found)
        return found


def solve_lifted(A: np.ndarray, B: np.ndarray, p: int) -> tuple[np.ndarray, list[int]] | None:
    """A X = B over the rationals by lifting modulo powers of a prime (Dixon), or None where A is singular modulo p.

    Parameters
    ----------
    A : (n, n) integers, int64 or Python's
    B : (n, k) integers
    p : prime below 2^22

    Returns
    -------
    numerators (n, k) of Python integers, and a denominator for each column. A N = B D holds exactly: both sides are
    equal modulo a power of p that is larger than either.
    """
    if not B.size:
        return np.empty(B.shape, dtype=object), [1] * B.shape[1]
    C = inverse(residues(A, p), p)
    if C is None:
        return None
    with one_thread(A.size * B.shape[1] < _SHORT):
        lift = Lift(A, B, p, C)
        return solve_columns(lift, cramer_bits(A, lift.norm_B))


@dataclass
class Remainders:
    """The solution modulo one prime after the other, and its digits in the mixed radix of the primes (Garner).

    Attributes
    ----------
    A : (n, n) integers
    B : (n, k) integers
    below : primes are taken from here downwards; those that divide the determinant are left out
    """

    A: np.ndarray
    B: np.ndarray
    below: int

    def __post_init__(self) -> None:
        self.norm_A, self.norm_B = _norms(self.A, self.B)
        self.known: list[int] = []
        self.residues: list[np.ndarray] = []
        self.digits: list[np.ndarray] = []
        self._primes: Iterator[int] = primes(self.below)

    def extend(self, count: int) -> None:
        """Have the residues modulo so many primes."""
        n = len(self.A)
        while len(self.known) < count:
            p = next(self._primes)
            both = np.concatenate([residues(self.A, p), residues(self.B, p)], axis=1)
            R, pivots, _ = rref(both, p, columns=n)
            if len(pivots) < n:
                continue
            self.residues.append(R[np.argsort(pivots), n:])
            self.known.append(p)
            self.digits.append(self._next(self.residues[-1], self.digits, p))

    def _next(self, value: np.ndarray, digits: list[np.ndarray], p: int) -> np.ndarray:
        """The digit that makes a number with these digits equal to `value` modulo p."""
        if not digits:
            return value
        weights, weight = np.empty(len(digits)), 1
        for i in range(len(digits)):
            weights[i] = weight - p if weight > p // 2 else weight
            weight = weight * self.known[i] % p
        flat = np.stack([d.ravel() for d in digits])
        known = product(weights[None], flat, float(p), span_of(max(p, self.known[0])))
        found = np.ascontiguousarray(value.reshape(1, -1) - known)
        reduce_all(found, float(p))
        back = pow(weight, -1, p)
        found *= back - p if back > p // 2 else back
        reduce_all(found, float(p))
        return found.reshape(value.shape)

    def bases(self, count: int) -> tuple[int, ...]:
        """The primes."""
        return tuple(self.known[:count])

    def needed(self, bits: float) -> int:
        """Primes for so many bits; those left out are a few of hundreds of thousands."""
        return steps_for(bits, self.below * 3 // 4)

    def column(self, j: int, count: int) -> np.ndarray:
        """(count, n) digits."""
        return np.stack([d[:, j] for d in self.digits[:count]])

    def scaled(self, j: int, factor: int, count: int) -> np.ndarray:
        """Digits of a multiple, from its residues."""
        digits: list[np.ndarray] = []
        for p, value in zip(self.known[:count], self.residues[:count], strict=True):
            times = value[None, :, j] * float((factor + p // 2) % p - p // 2)
            reduce_all(times, float(p))
            digits.append(self._next(times[0], digits, p))
        return np.stack(digits)


def solve_by_primes(A: np.ndarray, B: np.ndarray, below: int) -> tuple[np.ndarray, list[int]]:
    """A X = B over the rationals from row reductions modulo many primes and the Chinese remainder theorem.

    Parameters
    ----------
    A : (n, n) integers, nonsingular
    B : (n, k) integers
    below : bound of the primes, at most 2^22

    Returns
    -------
    as `solve_lifted`
    """
    if not B.size:
        return np.empty(B.shape, dtype=object), [1] * B.shape[1]
    with one_thread(A.size < _SHORT):
        source = Remainders(A, B, below)
        return solve_columns(source, cramer_bits(A, source.norm_B))
