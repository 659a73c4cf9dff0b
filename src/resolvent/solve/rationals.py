"""What a user has, numbers or fractions, as integers: the edge of the exact solvers."""

from __future__ import annotations

import functools
import math
import numbers
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

# Integers below this are kept as int64, beyond as Python's.
_WORD = 2**53


@dataclass(frozen=True)
class Integers:
    """An integer matrix (m, n): int64 where all entries are below 2^53, else Python integers, and a divisor per row.

    Attributes
    ----------
    rows : (m, n) integers, row i of the user's matrix times `scales[i]`
    scales : (m,) positive Python integers, the least common denominators
    vector : the user gave one dimension
    """

    rows: np.ndarray
    scales: list[int]
    vector: bool = False

    @property
    def small(self) -> bool:
        """All entries are int64."""
        return self.rows.dtype != object


def integers(a: Any, name: str, ndim: tuple[int, ...] = (2,)) -> Integers:
    """Rows of integers and of fractions become integers; what is neither is refused."""
    array = _array(a, name)
    if array.ndim not in ndim:
        wanted = " or ".join("(m, n)" if d == 2 else "(m,)" for d in ndim)
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    vector = array.ndim == 1
    if vector:
        array = array[:, None]
    if array.dtype == object:
        return _from_objects(array, name, vector)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has entries that are NaN or infinite")
        if (array != np.rint(array)).any():
            where = tuple(int(i) for i in np.argwhere(array != np.rint(array))[0])
            raise TypeError(
                f"{name} has the floating-point entry {array[where]} at {where}: give integers or fractions.Fraction, "
                "so that what is solved is what is meant"
            )
        if array.size and np.abs(array).max() >= _WORD:
            return _from_objects(array.astype(object), name, vector)
    elif array.size and array.dtype.kind in "iu" and (int(array.max()) >= _WORD or int(array.min()) <= -_WORD):
        return _from_objects(array.astype(object), name, vector)
    return Integers(np.ascontiguousarray(array, dtype=np.int64), [1] * len(array), vector)


def _array(a: Any, name: str) -> np.ndarray:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        a = (a.to_dense() if a.layout != torch.strided else a).detach().cpu().numpy()
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(a):
        a = a.toarray()
    if isinstance(a, list | tuple):
        # NumPy would make floats of integers beyond 64 bits.
        a = np.array(a, dtype=object)
    array = np.asarray(a)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"{name} must hold integers or fractions, got dtype {array.dtype}")
    return array.astype(np.int64) if array.dtype.kind == "b" else array


def _from_objects(array: np.ndarray, name: str, vector: bool) -> Integers:
    exact = np.empty(array.shape, dtype=object)
    scales = []
    for i, row in enumerate(array):
        found = [_rational(x, name, (i, j)) for j, x in enumerate(row)]
        scale = functools.reduce(math.lcm, (q for _, q in found), 1)
        scales.append(scale)
        exact[i] = [p * (scale // q) for p, q in found]
    largest = max((abs(x) for x in exact.flat), default=0)
    return Integers(exact.astype(np.int64) if largest < _WORD else exact, scales, vector)


def _rational(x: Any, name: str, where: tuple[int, int]) -> tuple[int, int]:
    if isinstance(x, numbers.Rational):
        return int(x.numerator), int(x.denominator)
    if isinstance(x, float | np.floating) and float(x).is_integer():
        return int(x), 1
    # sympy's and python-flint's fractions
    p, q = getattr(x, "p", None), getattr(x, "q", None)
    if p is not None and q is not None:
        return int(p), int(q)
    raise TypeError(f"{name} must hold integers or fractions, got {x!r} of type {type(x).__name__} at {where}")


def residues(rows: np.ndarray, p: int) -> np.ndarray:
    """Balanced residues as float64; an object array is reduced as Python integers."""
    found = np.asarray(rows % p, dtype=np.float64)
    found[found > p // 2] -= p
    return found


def fractions(numerators: np.ndarray, denominators: list[int]) -> np.ndarray:
    """(n, k) numerators over one denominator a column -> (n, k) of `fractions.Fraction`."""
    found = np.empty(numerators.shape, dtype=object)
    for j, d in enumerate(denominators):
        found[:, j] = [Fraction(x, d) for x in numerators[:, j]]
    return found
