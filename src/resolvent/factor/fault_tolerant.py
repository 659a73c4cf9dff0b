"""A matrix product on several nodes of which some are lost: two different fast schemes check and repair each other.

>>> import torch
>>> from resolvent import factor
>>> A = torch.arange(16.0).reshape(4, 4)
>>> bool((factor.fault_tolerant_matmul(A, A, failed=[2, 11]) == A @ A).all())
True
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from resolvent.factor.failure_patterns import (
    Pair,
    as_nodes,
    node_vectors,
    search_parities,
    survivors,
    target_vectors,
)
from resolvent.factor.multiply import SchemeLike, matmul
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array


@dataclass(frozen=True)
class FaultInfo(Info):
    """What a product on nodes did.

    Attributes
    ----------
    nodes : how many there are
    used : those whose products were needed
    coefficients : for each block of the result (by rows) what each node counts, as Fractions
    growth : largest sum of |coefficient| |u|_1 |v|_1 of a block: times the rounding, the inner dimension and the
        largest entries of A and B it bounds the error
    """

    nodes: int = 0
    used: tuple[int, ...] = ()
    coefficients: tuple[tuple[Fraction, ...], ...] = ()
    growth: float = 0.0


def fault_tolerant_matmul(
    A: Any,
    B: Any,
    schemes: Sequence[SchemeLike] = ("strassen", "winograd"),
    *,
    parity: int | Iterable[Any] = 2,
    failed: Iterable[int] = (),
    levels: int = 1,
    workers: int | None = None,
    return_info: bool = False,
) -> Any:
    """Multiply two matrices on nodes of which some are lost.

    Parameters
    ----------
    A, B : (..., m, k), (..., k, n)
    schemes : schemes of one format; each of their products is the work of one node. Two different ones have more
        relations than two copies of one.
    parity : how many spare products `parity_search` adds, or the pairs (u, v) of these
    failed : the nodes that are lost, counted through the schemes in their order and then the parities
    levels : a node multiplies its blocks by the first scheme, applied `levels` - 1 times
    workers : threads for the nodes on a CPU; None means one
    return_info : also return a `FaultInfo`

    Returns
    -------
    (..., m, n) in the dtype that A and B promote to.

    Raises
    ------
    ValueError : a loss that cannot be decoded, nodes that do not exist, sizes that do not fit, NaN or infinities.

    Notes
    -----
    Each node gets one sum of blocks of A and one of B. What is left is decoded with the combination of least 1-norm,
    found by linear programming and made exact: it mostly has coefficients -1, 0, 1 (the local computations and check
    relations of the paper) and lets the rounding grow least. Nodes that it does not need are not run. One level on
    2 x 2 blocks costs 7/8 of the multiplications if nothing is lost. Gradients are those of torch.

    References
    ----------
    "Fault-Tolerant Strassen-Like Matrix Multiplication"

    Examples
    --------
    >>> A, B = torch.eye(2), torch.ones(2, 3)
    >>> C, info = fault_tolerant_matmul(A, B, failed=[0], return_info=True)
    >>> bool((C == B).all()), info.nodes, 0 in info.used
    (True, 16, False)
    """
    for name, value in (("levels", levels), ("workers", 1 if workers is None else workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int, at least 1, got {value!r}")
    pairs, shape = _all_nodes(schemes, parity)
    left = survivors(len(pairs), failed)
    coefficients = decoding(pairs, shape, tuple(left))
    if coefficients is None:
        lost = [node for node in range(len(pairs)) if node not in left]
        raise ValueError(f"failed: without the nodes {lost} of {len(pairs)} the product cannot be decoded")
    (X, kind), (Y, _) = as_tensor(A, "A"), as_tensor(B, "B")
    for name, t in (("A", X), ("B", Y)):
        if t.ndim < 2 or 0 in t.shape[-2:]:
            raise ValueError(f"{name} must have shape (..., rows, columns), not empty, got {tuple(t.shape)}")
        check_finite(t, name)
    if X.shape[-1] != Y.shape[-2]:
        raise ValueError(f"B must have {X.shape[-1]} rows, as many as A has columns, got {Y.shape[-2]}")
    dtype = torch.promote_types(X.dtype, Y.dtype)
    used = [node for node in range(len(pairs)) if any(row[node] for row in coefficients)]
    left_blocks = _cut(X.to(dtype), shape[0], shape[1])
    right_blocks = _cut(Y.to(dtype), shape[1], shape[2])

    def node(number: int) -> Tensor:
        u, v = pairs[number]
        product: Tensor = matmul(_sum(u, left_blocks), _sum(v, right_blocks), schemes[0], levels=levels - 1)
        return product

    if workers is None or workers == 1 or X.device.type != "cpu":
        products = dict(zip(used, map(node, used), strict=True))
    else:
        with ThreadPoolExecutor(workers) as pool:
            products = dict(zip(used, pool.map(node, used), strict=True))
    blocks = [_sum([row[number] for number in used], [products[number] for number in used]) for row in coefficients]
    rows = [torch.cat(blocks[i * shape[2] : (i + 1) * shape[2]], -1) for i in range(shape[0])]
    result = give_back_array(torch.cat(rows, -2)[..., : X.shape[-2], : Y.shape[-1]], kind)
    if not return_info:
        return result
    weights = [sum(map(abs, u)) * sum(map(abs, v)) for u, v in pairs]
    growth = max(float(sum(abs(c) * w for c, w in zip(row, weights, strict=True))) for row in coefficients)
    info = FaultInfo("fault_tolerant", nodes=len(pairs), used=tuple(used), coefficients=coefficients, growth=growth)
    return result, info


def decoding(
    pairs: tuple[Pair, ...], shape: tuple[int, int, int], left: tuple[int, ...]
) -> tuple[tuple[Fraction, ...], ...] | None:
    """For each block of the result its combination of least 1-norm of the nodes that are left, exactly; or None."""
    rows = []
    for block in range(shape[0] * shape[2]):
        lost: frozenset[int] = frozenset()
        while True:
            row = _without(pairs, shape, block, lost)
            if row is None:
                return None
            # A least solution that uses no lost node is the least without them: few programs serve many losses.
            missed = next((node for node, c in enumerate(row) if c and node not in left), None)
            if missed is None:
                break
            lost |= {missed}
        rows.append(row)
    return tuple(rows)


@functools.lru_cache(maxsize=4096)
def _without(
    pairs: tuple[Pair, ...], shape: tuple[int, int, int], block: int, lost: frozenset[int]
) -> tuple[Fraction, ...] | None:
    left = [node for node in range(len(pairs)) if node not in lost]
    found = _least(node_vectors(pairs)[left], target_vectors(shape)[block])
    if found is None:
        return None
    row = [Fraction(0)] * len(pairs)
    for node, value in zip(left, found, strict=True):
        row[node] = value
    return tuple(row)


def _least(P: np.ndarray, target: np.ndarray) -> list[Fraction] | None:
    program = linprog(np.ones(2 * len(P)), A_eq=np.hstack([P.T, -P.T]), b_eq=target, method="highs")
    if program.status == 0:
        value = program.x[: len(P)] - program.x[len(P) :]
        exact = [Fraction(x).limit_denominator(64) for x in value.tolist()]
        sums = [sum((c * int(x) for c, x in zip(exact, column, strict=True)), Fraction(0)) for column in P.T]
        if sums == target.tolist():
            return exact
    # Where the program's numbers are no small fractions, or it fails: some solution, by elimination.
    return _eliminated(P, target)


def _eliminated(P: np.ndarray, target: np.ndarray) -> list[Fraction] | None:
    """A solution c of c P = target in rational numbers."""
    rows = [[Fraction(int(x)) for x in (*column, t)] for column, t in zip(P.T, target, strict=True)]
    pivots: list[int] = []
    for column in range(len(P)):
        at = next((i for i in range(len(pivots), len(rows)) if rows[i][column]), None)
        if at is None:
            continue
        k = len(pivots)
        rows[k], rows[at] = rows[at], rows[k]
        rows[k] = [x / rows[k][column] for x in rows[k]]
        for i, row in enumerate(rows):
            if i != k and row[column]:
                factor = row[column]
                rows[i] = [x - factor * y for x, y in zip(row, rows[k], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    solution = [Fraction(0)] * len(P)
    for row, column in zip(rows, pivots, strict=False):
        solution[column] = row[-1]
    return solution


def _all_nodes(schemes: Any, parity: Any) -> tuple[tuple[Pair, ...], tuple[int, int, int]]:
    if not isinstance(parity, int):
        return as_nodes(schemes, parity)
    if isinstance(parity, bool) or parity < 0:
        raise ValueError(f"parity must be an int, at least 0, or pairs of vectors, got {parity!r}")
    pairs, shape = as_nodes(schemes)
    return (*pairs, *search_parities(pairs, shape, parity)), shape


def _cut(X: Tensor, rows: int, columns: int) -> list[Tensor]:
    """Blocks by rows, after zeros that make the sides divisible."""
    X = torch.nn.functional.pad(X, (0, -X.shape[-1] % columns, 0, -X.shape[-2] % rows))
    return [block for row in X.chunk(rows, -2) for block in row.chunk(columns, -1)]


def _sum(coefficients: Iterable[int | Fraction], parts: Sequence[Tensor]) -> Tensor:
    total = None
    for c, part in zip(coefficients, parts, strict=True):
        if c:
            term = part if c == 1 else -part if c == -1 else part * float(c)
            total = term if total is None else total + term
    if total is None:
        return torch.zeros_like(parts[0])
    return total
