"""Schemes that multiply matrices with few multiplications: exact, verified, changed from one format to another.

>>> from resolvent import factor
>>> strassen = factor.known_scheme("strassen")
>>> strassen.rank, strassen.verify(), strassen.product(strassen).rank
(7, True, 49)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from resolvent.factor.known_schemes import DIGITS, GRAM, STRASSEN, TRIANGULAR, WINOGRAD
from resolvent.factor.structured_product import bilinear_tensor, check_op, count_parameters, diagonal_parameters


@dataclass(frozen=True, eq=False)
class BilinearScheme:
    r"""A bilinear algorithm of rank r, :math:`C = \frac1d \sum_q w_q \, \langle u_q, A\rangle \langle v_q, B\rangle`.

    Attributes
    ----------
    U, V, W : (r, p), (r, q), (r, s) integers: what is added up for the two factors of each product, and where the
        product goes; matrices by rows, structured ones as `bilinear_tensor` packs them
    op : the operation, as in `bilinear_tensor`
    shape : the format (n1, n2, n3); taken from the widths of U, V, W if it is not given
    denominator : d, which makes rational coefficients integers
    modulus : 0, or the prime modulo which alone the scheme is known to hold

    Raises
    ------
    ValueError : arrays that do not fit each other or the format, coefficients that are no integers.

    Notes
    -----
    Nothing is verified when a scheme is made: `verify` does it, exactly.

    References
    ----------
    "Faster Algorithms for Structured Matrix Multiplication via Flip Graph Search"
    "Fast Matrix Multiplication via Ternary Meta Flip Graphs"

    Examples
    --------
    >>> scheme = standard_scheme("gg", (2, 2, 3))
    >>> scheme.rank, scheme.extend(2).shape, scheme.project(0).shape
    (12, (2, 2, 4), (1, 2, 3))
    """

    U: np.ndarray
    V: np.ndarray
    W: np.ndarray
    op: str = "gg"
    shape: tuple[int, int, int] | None = None
    denominator: int = 1
    modulus: int = 0

    def __post_init__(self) -> None:
        for name in "UVW":
            object.__setattr__(self, name, _integers(getattr(self, name), name))
        if not len(self.U) == len(self.V) == len(self.W):
            raise ValueError(f"U, V, W must have as many rows, got {len(self.U)}, {len(self.V)}, {len(self.W)}")
        for name, least in (("denominator", 1), ("modulus", 0)):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or value < least
                or (name, value) == ("modulus", 1)
            ):
                raise ValueError(f"{name} must be an int, at least 1 (modulus: 0 or a prime), got {value!r}")
        widths = tuple(part.shape[1] for part in (self.U, self.V, self.W))
        shape = _format(self.op, widths) if self.shape is None else self.shape
        n1, n2, n3 = check_op(self.op, shape)
        right = (self.op[0], n1, n2) if self.op[1] == "t" else (self.op[1], n2, n3)
        wanted = (
            count_parameters(self.op[0], n1, n2),
            count_parameters(*right),
            count_parameters("u" if self.op[1] == "t" else "g", n1, n3),
        )
        if widths != wanted:
            raise ValueError(f"U, V, W must have {wanted} columns for {self.op!r} of {(n1, n2, n3)}, got {widths}")
        object.__setattr__(self, "shape", (n1, n2, n3))

    def __repr__(self) -> str:
        ring = f", modulus={self.modulus}" if self.modulus else ""
        over = f", denominator={self.denominator}" if self.denominator > 1 else ""
        return f"BilinearScheme(op={self.op!r}, shape={self.shape}, rank={self.rank}{over}{ring})"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The format (n1, n2, n3)."""
        return check_op(self.op, self.shape or 0)

    @property
    def rank(self) -> int:
        """How many products it forms."""
        return len(self.U)

    @property
    def ternary(self) -> bool:
        """Whether all coefficients are -1, 0 or 1, so that it holds over every ring."""
        small = all(bool((np.abs(part) <= 1).all()) for part in (self.U, self.V, self.W))
        return small and self.denominator == 1 and not self.modulus

    def verify(self) -> bool:
        """Whether the Brent equations hold: exactly, in integers (modulo `modulus` if there is one)."""
        T = bilinear_tensor(self.op, self.sizes)
        parts = [self.U, self.V, self.W]
        bound = math.prod(int(np.abs(part).max(initial=0)) for part in parts) * max(self.rank, 1)
        # Integers in floating point are exact up to 2^53, and many times faster to multiply.
        bound = max(bound, self.denominator * int(np.abs(T).max()))
        kind = np.float64 if bound < 2**53 else np.int64 if bound < 2**62 else object
        U, V, W = (part.astype(kind) for part in parts)
        for entry, wanted in zip(U.T, T, strict=True):
            # One entry of A at a time: all pairs at once would need rank times as much memory as T.
            gap = (entry[:, None] * V).T @ W
            whole = object if kind is object else np.int64
            gap = gap.astype(whole) - wanted.astype(whole) * self.denominator
            if (gap % self.modulus if self.modulus else gap).any():
                return False
        return True

    def additive_cost(self) -> int:
        """Additions when each sum is formed by itself: nonzeros less one of each sum."""
        nonzeros = sum(int(np.count_nonzero(part)) for part in (self.U, self.V, self.W))
        return nonzeros - 2 * self.rank - self.W.shape[1]

    def own_products(self) -> np.ndarray:
        """For each product, whether it is of the operation's own kind when the entries are blocks; else a general one.

        For "gg" all are. With a triangular operand those are that take only its diagonal blocks. With a transpose
        those are that go only to diagonal blocks, of which the upper triangle is enough. Operands s, k, w do not
        recurse by blocks, as the transposes of their blocks differ from these: there none is.
        """
        n1, n2, n3 = self.sizes
        if self.op == "gg":
            return np.ones(self.rank, bool)
        if self.op == "gt":
            return np.logical_not(self.W[:, ~diagonal_parameters("u", n1, n1)].any(axis=1))
        if self.op in ("ug", "lg"):
            return np.logical_not(self.U[:, ~diagonal_parameters(self.op[0], n1, n2)].any(axis=1))
        if self.op in ("gu", "gl"):
            return np.logical_not(self.V[:, ~diagonal_parameters(self.op[1], n2, n3)].any(axis=1))
        return np.zeros(self.rank, bool)

    def merge(self, other: BilinearScheme, axis: Literal[0, 1, 2]) -> BilinearScheme:
        """The scheme of the format that is longer along one axis: this one and then `other`, whose other sizes agree."""
        mine, theirs = self.sizes, other.sizes
        _general(self)
        _general(other)
        _axis(axis)
        if [n for i, n in enumerate(mine) if i != axis] != [n for i, n in enumerate(theirs) if i != axis]:
            raise ValueError(f"other must have the format {mine} but for axis {axis}, got {theirs}")
        common = math.lcm(self.denominator, other.denominator)
        parts = []
        for first, second, axes in zip(self._matrices(), other._matrices(), _AXES, strict=True):
            before, after = [(0, 0)] * 3, [(0, 0)] * 3
            if axis in axes:
                before[1 + axes.index(axis)] = (0, theirs[axis])
                after[1 + axes.index(axis)] = (mine[axis], 0)
            parts.append([np.pad(first, before), np.pad(second, after)])
        parts[2] = [parts[2][0] * (common // self.denominator), parts[2][1] * (common // other.denominator)]
        sizes = (*mine[:axis], mine[axis] + theirs[axis], *mine[axis + 1 :])
        return self._again([np.concatenate(part) for part in parts], sizes, common, _modulus(self, other))

    def extend(self, axis: Literal[0, 1, 2]) -> BilinearScheme:
        """One more row (axis 0), inner index (1) or column (2), by standard products."""
        _axis(axis)
        sizes = tuple(1 if i == axis else n for i, n in enumerate(self.sizes))
        return self.merge(standard_scheme("gg", sizes), axis)  # type: ignore[arg-type]

    def project(self, axis: Literal[0, 1, 2], index: int = -1) -> BilinearScheme:
        """One row, inner index or column less; products that vanish are dropped."""
        _general(self)
        _axis(axis)
        sizes = list(self.sizes)
        if sizes[axis] < 2 or not -sizes[axis] <= index < sizes[axis]:
            raise ValueError(f"index must be in a size of at least 2, got {index} on axis {axis} of {self.sizes}")
        sizes[axis] -= 1
        parts = [
            np.delete(part, index, 1 + axes.index(axis)) if axis in axes else part
            for part, axes in zip(self._matrices(), _AXES, strict=True)
        ]
        kept = np.logical_and.reduce([part.any((1, 2)) for part in parts])
        return self._again([part[kept] for part in parts], tuple(sizes), self.denominator, self.modulus)

    def product(self, other: BilinearScheme) -> BilinearScheme:
        """This scheme on blocks whose products are done by `other`: formats and ranks multiply."""
        _general(self)
        _general(other)
        sizes = tuple(a * b for a, b in zip(self.sizes, other.sizes, strict=True))
        parts = [
            np.einsum("aij,bkl->abikjl", first, second).reshape(
                self.rank * other.rank, first.shape[1] * second.shape[1], -1
            )
            for first, second in zip(self._matrices(), other._matrices(), strict=True)
        ]
        return self._again(parts, sizes, self.denominator * other.denominator, _modulus(self, other))

    def permute(self, order: tuple[int, int, int]) -> BilinearScheme:
        """The scheme of the same rank for the format (n[order[0]], n[order[1]], n[order[2]])."""
        _general(self)
        if sorted(order) != [0, 1, 2]:
            raise ValueError(f"order must be a permutation of 0, 1, 2, got {order!r}")
        # As trace(A B C) the product is symmetric: each factor is known by the two sizes that it joins.
        faces = {axes: part for axes, part in zip(_AXES, self._matrices(), strict=True)}
        parts = []
        for first, second in _AXES:
            axes = order[first], order[second]
            parts.append(faces[axes] if axes in faces else faces[axes[::-1]].transpose(0, 2, 1))
        sizes = tuple(self.sizes[i] for i in order)
        return self._again(parts, sizes, self.denominator, self.modulus)

    def _matrices(self) -> list[np.ndarray]:
        n1, n2, n3 = self.sizes
        return [self.U.reshape(-1, n1, n2), self.V.reshape(-1, n2, n3), self.W.reshape(-1, n1, n3)]

    def _again(self, parts: list[np.ndarray], sizes: tuple[int, ...], over: int, modulus: int) -> BilinearScheme:
        flat = [part.reshape(len(part), -1) for part in parts]
        return BilinearScheme(flat[0], flat[1], flat[2], "gg", check_op("gg", sizes), over, modulus)  # type: ignore[arg-type]


_AXES = ((0, 1), (1, 2), (0, 2))


def standard_scheme(op: str = "gg", n: int | tuple[int, int, int] = 2) -> BilinearScheme:
    """The scheme with one product for each nonzero entry of the tensor.

    Parameters
    ----------
    op, n : as in `bilinear_tensor`

    Returns
    -------
    BilinearScheme

    Examples
    --------
    >>> standard_scheme("sg", 2).rank
    8
    """
    T = bilinear_tensor(op, n)
    at = np.argwhere(T)
    U, V, W = (np.eye(size, dtype=np.int64)[where] for size, where in zip(T.shape, at.T, strict=True))
    return BilinearScheme(U, V, W * T[tuple(at.T)][:, None], op, check_op(op, n))


def known_scheme(name: Literal["strassen", "winograd", "gram", "triangular"] = "strassen") -> BilinearScheme:
    """One of the two classical schemes of rank 7 for 2 x 2 blocks, or a structured one of rank 34 for 4 x 4 blocks.

    Parameters
    ----------
    name : "strassen" (18 additions), "winograd" (15 when sums are shared), "gram" for A A^T: 11 of its 34 products go
        to diagonal blocks only, so that its recursion takes 23/38 of Strassen's multiplications (the paper's scheme:
        8/13), or "triangular" for an upper triangular matrix times a general one: 12 of 34, 22/37 as the paper's

    Returns
    -------
    BilinearScheme

    Notes
    -----
    The structured ones were found by `flip_graph_search` over two elements and lifted; coefficients are at most 2.

    References
    ----------
    "Faster Algorithms for Structured Matrix Multiplication via Flip Graph Search"

    Examples
    --------
    >>> known_scheme("strassen").additive_cost(), known_scheme("winograd").additive_cost()
    (18, 24)
    >>> known_scheme("gram")
    BilinearScheme(op='gt', shape=(4, 4, 4), rank=34)
    """
    known = {"strassen": STRASSEN, "winograd": WINOGRAD, "gram": GRAM, "triangular": TRIANGULAR}
    if name not in known:
        raise ValueError(f"name must be 'strassen', 'winograd', 'gram' or 'triangular', got {name!r}")
    U, V, W = (np.array([[DIGITS[c] for c in row[part]] for row in known[name]]) for part in range(3))
    op = {"gram": "gt", "triangular": "ug"}.get(name, "gg")
    return BilinearScheme(U, V, W, op, (2, 2, 2) if op == "gg" else (4, 4, 4))


def _integers(x: Any, name: str) -> np.ndarray:
    array = np.asarray(x)
    if array.ndim != 2 or array.dtype.kind not in "iufb" or not np.array_equal(array, np.rint(array)):
        raise ValueError(f"{name} must be a matrix of integers, got {array.dtype} of shape {array.shape}")
    if array.size and not float(np.abs(array.astype(float)).max()) < 2**62:
        raise ValueError(f"{name} must hold integers below 2^62, got one of {np.abs(array.astype(float)).max():.3g}")
    out = array.astype(np.int64)
    out.flags.writeable = False
    return out


def _format(op: str, widths: tuple[int, ...]) -> tuple[int, int, int]:
    p, q, s = widths
    if op == "gg" and min(widths) > 0:
        n1, n2, n3 = (math.isqrt(max(a * b // c, 1)) for a, b, c in ((p, s, q), (p, q, s), (q, s, p)))
        if (n1 * n2, n2 * n3, n1 * n3) == (p, q, s):
            return n1, n2, n3
    raise ValueError(f"shape must be given: it does not follow from widths {widths} for op {op!r}")


def _general(scheme: BilinearScheme) -> None:
    if scheme.op != "gg":
        raise ValueError(f"only schemes of general operands change their format, got op {scheme.op!r}")


def _axis(axis: int) -> None:
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, got {axis!r}")


def _modulus(first: BilinearScheme, second: BilinearScheme) -> int:
    if first.modulus and second.modulus and first.modulus != second.modulus:
        raise ValueError(f"the schemes hold modulo different primes, {first.modulus} and {second.modulus}")
    return first.modulus or second.modulus
