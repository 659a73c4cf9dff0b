"""Row reduction modulo a prime, in blocks that multiply in floating point without one rounding error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from resolvent.operators.threads import one_thread
from resolvent.solve.modular_kernel import echelon, reduce_all, row_reducer, span_of
from resolvent.solve.rationals import integers, residues

_BLOCK = 32
# Narrower products are too short for a second thread.
_NARROW = 1024
# The default prime of 16 bits: two residues have a product of 32.
PRIME_16 = 65521


def modular_rref(A: Any, p: int = PRIME_16) -> tuple[Any, tuple[int, ...]]:
    """The reduced row echelon form of A modulo a prime.

    Parameters
    ----------
    A : (m, n) integers or fractions: nested lists, an array, a tensor, a sparse matrix
    p : prime below 2^31 that divides no denominator

    Returns
    -------
    R : (m, n) int64 residues from 0 to p - 1, the rows of zeros last; a tensor for a tensor, else an array
    pivots : the columns of the leading ones, increasing; their number is the rank modulo p

    Raises
    ------
    ValueError : p is not a prime below 2^31, or it divides a denominator.
    TypeError : entries that are neither integers nor fractions.

    Notes
    -----
    Below 2^16: the rows in their natural order, each pivot the first nonzero entry of its row, eliminated from all
    others; the kernel is compiled with the prime as a constant, for 65521 and for each other prime that is asked for
    (a second, once). From 2^16 to 2^22: the same elimination by blocks of rows in float64 products, exact because sums
    of them stay below 2^53. Beyond: the kernel in 64-bit words. m n rank products in all. There are no gradients.

    References
    ----------
    "FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory"

    Examples
    --------
    >>> modular_rref([[1, 2, 3], [2, 4, 1]], 7)
    (array([[1, 2, 0],
           [0, 0, 1]]), (0, 2))
    """
    p = check_prime(p)
    given = integers(A, "A")
    rows = _modulo(given.rows, given.scales, p, "A")
    if rows.size == 0:
        found, order = rows, np.zeros(0, np.int64)
        pivots = order
    elif 2**16 < p < 2**22:
        R, pivots, _ = rref(residues(rows, p), p)
        order = np.argsort(pivots, kind="stable")
        found = np.zeros(rows.shape, np.int64)
        found[: len(pivots)] = np.asarray(R[order], dtype=np.int64) % p
        pivots = pivots[order]
    else:
        found, pivots = _by_kernel(rows, p)
    result = torch.from_numpy(found).to(A.device) if isinstance(A, torch.Tensor) else found
    return result, tuple(int(j) for j in pivots)


def independent_rows(A: Any, p: int | None = None) -> tuple[int, ...]:
    """The first rows of A that are independent of the rows before them: one basis of the row space.

    Parameters
    ----------
    A : (m, n) integers or fractions
    p : prime below 2^22; None takes the largest such one

    Returns
    -------
    Their indices, increasing. They are independent over the rationals. A row left out depends on those before it
    modulo p, and over the rationals unless p divides one of a few determinants; `rational_solve` verifies that.

    Raises
    ------
    ValueError, TypeError : as `modular_rref`

    References
    ----------
    "FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory"

    Examples
    --------
    >>> independent_rows([[0, 0], [1, 2], [2, 4], [1, 3]])
    (1, 3)
    """
    prime = next(primes()) if p is None else check_prime(p)
    if prime >= 2**22:
        raise ValueError(f"p must be a prime below 2^22, got {p}")
    given = integers(A, "A")
    rows = _modulo(given.rows, given.scales, prime, "A")
    _, _, kept = rref(residues(rows, prime), prime)
    return tuple(int(i) for i in kept)


def check_prime(p: int) -> int:
    """A prime below 2^31, or a ValueError."""
    if isinstance(p, bool) or not isinstance(p, int | np.integer) or not 2 < p < 2**31 or not _is_prime(int(p)):
        raise ValueError(f"p must be an odd prime below 2^31, got {p!r}")
    return int(p)


def _is_prime(p: int) -> bool:
    """Miller and Rabin, with bases that decide all numbers below 2^32."""
    if p < 2 or p % 2 == 0:
        return p == 2
    odd, twos = p - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 7, 61):
        x = pow(base, odd, p)
        if base % p == 0 or x in (1, p - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % p
            if x == p - 1:
                break
        else:
            return False
    return True


def primes(below: int = 2**22) -> Any:
    """Primes below a bound, the largest first."""
    p = below - 1
    while p > 2:
        if _is_prime(p):
            yield p
        p -= 1


def _modulo(rows: np.ndarray, scales: list[int], p: int, name: str) -> np.ndarray:
    """Residues 0 .. p - 1 of the user's own entries."""
    for i, scale in enumerate(scales):
        if scale % p == 0:
            raise ValueError(f"p = {p} divides a denominator in row {i} of {name}: take another prime")
    found = np.asarray(rows % p, dtype=np.int64)
    if any(scale != 1 for scale in scales):
        found = found * np.array([pow(s, -1, p) for s in scales], dtype=np.int64)[:, None] % p
    return found


def _by_kernel(rows: np.ndarray, p: int) -> tuple[np.ndarray, np.ndarray]:
    wide = p > 2**16
    work = rows.astype(np.uint32 if wide else np.uint16)
    pivots = np.empty(len(work), np.int64)
    # In 64 bits a constant saves little: one compilation serves all long primes.
    reduce = row_reducer(0 if wide else p, wide)
    reduce(work, True, (np.uint64 if wide else np.uint32)(p), pivots)
    used = pivots >= 0
    order = np.argsort(pivots[used], kind="stable")
    found = np.zeros(rows.shape, np.int64)
    found[: len(order)] = work[used][order]
    return found, pivots[used][order]


def rref(rows: np.ndarray, p: int, columns: int | None = None, growing: bool = False) -> tuple[Any, Any, Any]:
    """Reduced rows (rank, n), their pivots and the indices of the rows that gave them, in the order of the rows.

    Parameters
    ----------
    rows : (m, n) balanced residues, float64
    columns : pivots are looked for in the first so many columns
    growing : row i is zero from column `columns + i + 1` on, as in [B, I]: nothing is computed there
    """
    with one_thread(rows.shape[1] <= _NARROW):
        return _rref(rows, p, rows.shape[1] if columns is None else columns, growing, _BLOCK * 8)


def _rref(rows: np.ndarray, p: int, columns: int, growing: bool, size: int) -> tuple[Any, Any, Any]:
    m, n = rows.shape
    reduced = np.empty((min(m, columns), n))
    pivots, kept = np.empty(min(m, columns), np.int64), np.empty(min(m, columns), np.int64)
    rank = 0
    # Blocks in blocks: the wide ones keep the passes over `reduced` few, the narrow ones the loops outside of products.
    size = size if m > size else _BLOCK
    for start in range(0, m, size):
        if rank == columns:
            break
        stop = min(start + size, m)
        width = columns + stop if growing else n
        block = rows[start:stop, :width].copy()
        if rank:
            _eliminate(block, pivots[:rank], reduced[:rank, :width], p)
        fresh, new, where = _echelon(block, p, columns) if size == _BLOCK else _rref(block, p, columns, False, _BLOCK)
        count = len(new)
        if not count:
            continue
        if rank:
            _eliminate(reduced[:rank, :width], new, fresh, p)
        reduced[rank : rank + count, :width] = fresh
        reduced[rank : rank + count, width:] = 0
        pivots[rank : rank + count] = new
        kept[rank : rank + count] = start + where
        rank += count
    return reduced[:rank], pivots[:rank], kept[:rank]


def _echelon(block: np.ndarray, p: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pivots, kept = np.empty(len(block), np.int64), np.empty(len(block), np.int64)
    count = int(echelon(block, float(p), columns, pivots, kept))
    return block[kept[:count]], pivots[:count], kept[:count]


def _eliminate(rows: np.ndarray, pivots: np.ndarray, by: np.ndarray, p: int) -> None:
    """rows - rows[:, pivots] @ by in place, balanced."""
    factors, span = torch.from_numpy(rows[:, pivots]), span_of(p)
    target, others = torch.from_numpy(rows), torch.from_numpy(by)
    for start in range(0, len(pivots), span):
        target.addmm_(factors[:, start : start + span], others[start : start + span], alpha=-1)
        reduce_all(rows, float(p))


def product(a: np.ndarray, b: np.ndarray, p: float, span: int) -> np.ndarray:
    """The product of balanced residues: exact, and balanced again where it takes several sums."""
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    if a.shape[1] <= span:
        return (left @ right).numpy()
    total = np.zeros((a.shape[0], b.shape[1]))
    for start in range(0, a.shape[1], span):
        part = (left[:, start : start + span] @ right[start : start + span]).numpy()
        reduce_all(part, p)
        total += part
    return total


def inverse(matrix: np.ndarray, p: int) -> np.ndarray | None:
    """The inverse modulo p of balanced residues, balanced; None for a singular matrix."""
    n = len(matrix)
    both = np.zeros((n, 2 * n))
    both[:, :n] = matrix
    both[np.arange(n), n + np.arange(n)] = 1
    R, pivots, _ = rref(both, p, columns=n, growing=True)
    return None if len(pivots) < n else R[np.argsort(pivots), n:]
