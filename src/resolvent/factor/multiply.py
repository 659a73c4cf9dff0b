"""Products of matrices by a bilinear scheme, level by level, and what such a recursion costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.factor.bilinear import BilinearScheme, known_scheme
from resolvent.factor.structured_product import layout
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array

SchemeLike = BilinearScheme | Literal["strassen", "winograd", "gram", "triangular"]

_BY_BLOCKS = ("gg", "gt", "ug", "lg", "gu", "gl")
# Below this size seven products of halves, with their sums, gain nothing over one product of torch.
_LEAF = 2048


@dataclass(frozen=True)
class SchemeInfo(Info):
    """What a product by a scheme did.

    Attributes
    ----------
    multiplications : scalar multiplications of the products at the leaves
    levels : how often the scheme was applied
    """

    multiplications: int = 0
    levels: int = 0


def matmul(
    A: Any,
    B: Any = None,
    scheme: SchemeLike = "strassen",
    *,
    general: SchemeLike | None = None,
    levels: int | None = None,
    return_info: bool = False,
) -> Any:
    r"""Multiply two matrices by a scheme with few multiplications, applied recursively to blocks.

    Parameters
    ----------
    A : (..., m, k)
    B : (..., k, n); not given for a scheme of A A^T
    scheme : a `BilinearScheme`, or the name of a `known_scheme`. Of an operand that the scheme takes for triangular only
        that triangle is read.
    general : what multiplies the general blocks in a recursion of a structured scheme; None takes Strassen's, of
        4 x 4 blocks where the scheme cuts in four, so that both come down to blocks of one size
    levels : how often blocks are cut; None cuts while all sides of the blocks stay at least 2048
    return_info : also return a `SchemeInfo`

    Returns
    -------
    (..., m, n) in the dtype that A and B promote to.

    Raises
    ------
    ValueError : sizes that do not fit, a scheme that holds only modulo a prime, a symmetric or skew operand
        in blocks, NaN or infinities.

    Notes
    -----
    Sums of blocks by one product with U and with V, all products of a level as one batch, W gathers them. Sides that
    the format does not divide are filled with zeros. A scheme of rank r takes r / (n1 n2 n3) of the multiplications
    a level. The error grows by a factor of the sums' sizes a level (about 3 to 4 for Strassen): it is normwise, not
    by entries. Operands s, k, w multiply matrices of the scheme's own size, in batches. Gradients are those of torch.

    References
    ----------
    "Faster Algorithms for Structured Matrix Multiplication via Flip Graph Search"

    Examples
    --------
    >>> A = torch.arange(9.0).reshape(3, 3)
    >>> C, info = matmul(A, A, "winograd", levels=2, return_info=True)
    >>> bool((C == A @ A).all()), info.multiplications
    (True, 49)
    """
    main = _scheme(scheme, "scheme")
    other = _followers(main) if general is None else _scheme(general, "general")
    if other.op != "gg":
        raise ValueError(f"general must be a scheme of two general operands, got {other.op!r}")
    X, kind = as_tensor(A, "A")
    if main.op[1] == "t":
        if B is not None:
            raise ValueError(f"B must not be given: the scheme {main.op!r} multiplies A by its transpose")
        Y = X.mT
    else:
        if B is None:
            raise ValueError(f"B must be given for a scheme of {main.op!r}")
        Y = as_tensor(B, "B")[0]
    for name, t in (("A", X), ("B", Y)):
        if t.ndim < 2 or 0 in t.shape[-2:]:
            raise ValueError(f"{name} must have shape (..., rows, columns), not empty, got {tuple(t.shape)}")
        check_finite(t, name)
    if X.shape[-1] != Y.shape[-2]:
        raise ValueError(f"B must have {X.shape[-1]} rows, as many as A has columns, got {Y.shape[-2]}")
    dtype = torch.promote_types(X.dtype, Y.dtype)
    X, Y = X.to(dtype), Y.to(dtype)
    depth = _depth(main, (X.shape[-2], X.shape[-1], Y.shape[-1]), levels)
    if main.op in _BY_BLOCKS and main.op != "gt":
        X, Y = _triangle(X, main.op[0]), _triangle(Y, main.op[1])
    C, count = _multiply(X, Y, main, other, depth)
    if main.op[1] == "t":
        C = C.triu() + C.triu(1).mT
    result = give_back_array(C, kind)
    info = SchemeInfo(f"{main.op} rank {main.rank}", multiplications=count, levels=depth)
    return (result, info) if return_info else result


def recursion_factor(own: int, general: int, size: int) -> Fraction | float:
    r"""The cost of a structured product relative to Strassen's, :math:`b / (7^{\log_2 m} - a)`.

    Parameters
    ----------
    own : a, the products on blocks that are of the structured kind again
    general : b, the products of general blocks
    size : m, so that blocks have a side of n / m

    Returns
    -------
    A Fraction where `size` is a power of two, else a float: the limit of T(n) / M(n) for T(n) = a T(n/m) + b M(n/m)
    and M(n) = 7 M(n/2), multiplications only.

    Raises
    ------
    ValueError : negative counts, a size below 2, or so many own products that they outgrow Strassen's.

    References
    ----------
    "Faster Algorithms for Structured Matrix Multiplication via Flip Graph Search"

    Examples
    --------
    >>> recursion_factor(4, 2, 2)
    Fraction(2, 3)
    """
    if min(own, general) < 0 or size < 2:
        raise ValueError(f"own and general must not be negative and size at least 2, got {own}, {general}, {size}")
    power = size.bit_length() - 1
    whole: int | float = 7**power if 2**power == size else 7 ** math.log2(size)
    if own >= whole:
        raise ValueError(f"own must be below {whole:.6g} for size {size}, got {own}")
    return Fraction(general, whole - own) if isinstance(whole, int) else general / (whole - own)


def _scheme(scheme: Any, name: str) -> BilinearScheme:
    found = known_scheme(scheme) if isinstance(scheme, str) else scheme  # type: ignore[arg-type]
    if not isinstance(found, BilinearScheme):
        raise TypeError(f"{name} must be a BilinearScheme or the name of a known scheme, got {type(scheme).__name__}")
    if found.modulus:
        raise ValueError(f"{name} holds only modulo {found.modulus}: lift it first")
    return found


def _followers(scheme: BilinearScheme) -> BilinearScheme:
    strassen = found = known_scheme("strassen")
    while 2 * max(found.sizes) <= min(scheme.sizes):
        found = found.product(strassen)
    return found


def _depth(scheme: BilinearScheme, sides: tuple[int, int, int], levels: int | None) -> int:
    if scheme.op not in _BY_BLOCKS:
        if sides != scheme.sizes or levels not in (None, 1):
            raise ValueError(
                f"scheme: {scheme.op!r} does not recurse by blocks; A and B must be of its own size {scheme.sizes} "
                f"with levels=1, got {sides}"
            )
        return 1
    if levels is None:
        levels, smallest = 0, min(sides)
        while smallest >= max(scheme.sizes) * _LEAF and max(scheme.sizes) > 1:
            levels, smallest = levels + 1, smallest // max(scheme.sizes)
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 0:
        raise ValueError(f"levels must be None or an int, at least 0, got {levels!r}")
    return levels


def _triangle(X: Tensor, letter: str) -> Tensor:
    return X.triu() if letter == "u" else X.tril() if letter == "l" else X


def _blocks(X: Tensor, letter: str, rows: int, columns: int, transposed: bool = False) -> Tensor:
    """The parameters of a structured matrix of blocks, along a first axis."""
    grid = X.unflatten(-1, (columns, -1)).unflatten(-3, (rows, -1)).movedim((-4, -2), (0, 1))
    packed, sign = layout(letter, columns, rows) if transposed else layout(letter, rows, columns)
    if transposed:
        packed, sign = packed.T, sign.T
    first: dict[int, tuple[int, int]] = {}
    for i in range(rows):
        for j in range(columns):
            if sign[i, j] > 0:
                first.setdefault(int(packed[i, j]), (i, j))
    places = [first[parameter] for parameter in sorted(first)]
    return grid[[i for i, _ in places], [j for _, j in places]]


def _sums(M: np.ndarray, parts: Tensor) -> Tensor:
    return torch.tensordot(torch.tensor(M).to(parts), parts, dims=1)


def _multiply(X: Tensor, Y: Tensor, scheme: BilinearScheme, general: BilinearScheme, depth: int) -> tuple[Tensor, int]:
    """The product (with a transpose its upper triangle), and the multiplications done."""
    if depth == 0:
        batch = math.prod(torch.broadcast_shapes(X.shape[:-2], Y.shape[:-2]))
        return X @ Y, batch * X.shape[-2] * X.shape[-1] * Y.shape[-1]
    n1, n2, n3 = scheme.sizes
    m, k, n = X.shape[-2], X.shape[-1], Y.shape[-1]
    X = torch.nn.functional.pad(X, (0, -k % n2, 0, -m % n1))
    Y = torch.nn.functional.pad(Y, (0, -n % n3, 0, -k % n2))
    flipped = scheme.op[1] == "t"
    left = _sums(scheme.U, _blocks(X, scheme.op[0], n1, n2))
    right = _sums(scheme.V, _blocks(Y, scheme.op[0] if flipped else scheme.op[1], n2, n3, flipped))
    gap = left.ndim - right.ndim
    # Batch axes meet from the right, the axis of products stays the first.
    left = left.reshape(len(left), *(1,) * max(-gap, 0), *left.shape[1:])
    right = right.reshape(len(right), *(1,) * max(gap, 0), *right.shape[1:])
    own = torch.tensor(scheme.own_products(), device=X.device)
    if bool(own.all()) or not bool(own.any()):
        follower = scheme if bool(own.all()) else general
        products, total = _multiply(left, right, follower, general, depth - 1)
    else:
        first, second = own.nonzero()[:, 0], (~own).nonzero()[:, 0]
        P, some = _multiply(left[first], right[first], scheme, general, depth - 1)
        Q, others = _multiply(left[second], right[second], general, general, depth - 1)
        products, total = torch.cat([P, Q])[torch.cat([first, second]).argsort()], some + others
    out = _sums(scheme.W.T, products)
    if scheme.denominator > 1:
        out = out / scheme.denominator
    grid = [[torch.zeros_like(out[0])] * n3 for _ in range(n1)]
    packed, sign = layout("u" if flipped else "g", n1, n3)
    for i in range(n1):
        for k in range(n3):
            if sign[i, k]:
                grid[i][k] = out[int(packed[i, k])]
    return torch.cat([torch.cat(row, -1) for row in grid], -2)[..., :m, :n], total
