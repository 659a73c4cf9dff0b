"""Rows that repeat other rows, exactly or nearly, without comparing all pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Rows count as near repeats from this cosine on.
COSINE = 0.999
# Random hyperplanes of one table, and tables: a pair at that cosine shares the side of all planes of one table in
# four cases of five, so that one pair in a hundred escapes a half of the tables.
_TABLES = 6
_PROJECTIONS = 16
# Rows that say where the planes lie.
_SAMPLE = 2000
# Neighbours that are compared in a sorted table.
_NEIGHBOURS = 2
# Shorter rows come that near to each other by chance.
_SHORTEST = 16
_SHORTEST_EXACT = 4
_CHUNK = 1 << 19
# Longer rows are projected by their first entries only; more rows than that by two tables.
_LONGEST = 65_536
_MANY = 1 << 19


@dataclass(frozen=True)
class Repeats:
    """Rows that repeat others.

    Attributes
    ----------
    exact : rows equal to an earlier one
    near : rows with a cosine of at least 0.999 to an earlier one, the exact ones included; None below 16 columns
    block : (first row, the row it repeats, number of rows) of the longest run of rows that repeats another run
    """

    exact: int = 0
    near: int | None = None
    block: tuple[int, int, int] | None = None


def repeats_of(matrix: Tensor) -> Repeats:
    """Find the rows of a matrix that repeat an earlier row; rows of zeros and rows that are not finite are left out.

    Parameters
    ----------
    matrix : (m, n) tensor on the CPU

    Returns
    -------
    Repeats; lower bounds, which miss about one near repeat in a hundred.

    Notes
    -----
    The unit rows are projected on 96 random directions. In each of six tables the sides of 16 planes make a key; rows
    are sorted by key and first projection, and neighbours with one key are compared: by their projections, and those
    that stay by their entries. In half of the tables the planes halve the rows, since the rows of trained matrices lie
    on one side of the origin; in the others they go through it, so as not to cut through a tight cluster of most rows.
    Costs 192 m n flops and 96 m numbers.

    References
    ----------
    "Similarity Estimation Techniques from Rounding Algorithms"

    Examples
    --------
    >>> A = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    >>> A[30:40] = A[5:15]
    >>> repeats_of(A)
    Repeats(exact=10, near=10, block=(30, 5, 10))
    """
    m, n = matrix.shape
    short = n < _SHORTEST
    if m < 2 or n < _SHORTEST_EXACT:
        return Repeats(0, None if short else 0)
    projected, kept = _projected(matrix)
    if len(kept) < 2:
        return Repeats(0, None if short else 0)
    pairs = _candidates(projected, kept)
    if not len(pairs):
        return Repeats(0, None if short else 0)
    equal, near = _compared(matrix, pairs)
    exact, first = _grouped(m, pairs[equal])
    close, first_close = _grouped(m, pairs[near | equal])
    block = _longest_run(first if exact or short else first_close)
    return Repeats(exact, None if short else close, block)


def _real(rows: Tensor) -> Tensor:
    if rows.is_complex():
        rows = torch.view_as_real(rows.resolve_conj()).flatten(1)
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def _projected(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(k, 96) projections of the unit rows, and the k places of the rows that have a direction."""
    matrix = matrix[:, :_LONGEST]
    n = matrix.shape[1] * (2 if matrix.is_complex() else 1)
    generator = torch.Generator().manual_seed(0)
    tables = _TABLES if len(matrix) <= _MANY else 2
    directions = torch.randn(n, tables * _PROJECTIONS, generator=generator)
    step = max(1, _CHUNK // n)
    parts = []
    for start in range(0, len(matrix), step):
        block = _real(matrix[start : start + step])
        # the largest entry first: squares of large or small ones would leave the range
        scale = block.abs().amax(1, keepdim=True)
        unit = (block / scale).float()
        parts.append((unit @ directions) / torch.linalg.vector_norm(unit, dim=1, keepdim=True))
    projected = torch.cat(parts)
    kept = torch.isfinite(projected).all(1).nonzero()[:, 0]
    return projected[kept] if len(kept) < len(projected) else projected, kept


def _candidates(projected: Tensor, kept: Tensor) -> Tensor:
    """(c, 2) rows that share a key and lie near each other in the projections, the earlier row first."""
    tables = projected.shape[1] // _PROJECTIONS
    half = tables // 2 * _PROJECTIONS
    middle = torch.zeros(projected.shape[1])
    # of some rows: the planes need not be exactly in the middle
    middle[:half] = projected[:: max(1, len(projected) // _SAMPLE), :half].median(0).values
    sides = projected > middle
    weights = 2.0 ** torch.arange(_PROJECTIONS)
    reach = 4 * float(projected.abs().max())
    # a sum of 96 squares of normal numbers; twice the limit leaves out no pair within it
    limit = 2 * 2 * (1 - COSINE) * projected.shape[1]
    found = []
    for table in range(tables):
        columns = slice(table * _PROJECTIONS, (table + 1) * _PROJECTIONS)
        key = sides[:, columns].float() @ weights
        order = torch.argsort(key.double() + projected[:, columns.start].double() / reach)
        key = key[order]
        for distance in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            at = (key[distance:] == key[:-distance]).nonzero()[:, 0]
            a, b = order[at], order[at + distance]
            close = (projected[a] - projected[b]).square().sum(1) <= limit
            found.append(torch.stack((torch.minimum(a, b)[close], torch.maximum(a, b)[close]), 1))
    pairs = torch.unique(torch.cat(found), dim=0)
    return kept[pairs]


def _compared(matrix: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs of rows are equal, and which have the cosine."""
    step = max(1, _CHUNK // matrix.shape[1])
    equal, near = [], []
    for start in range(0, len(pairs), step):
        a, b = (_real(matrix[pairs[start : start + step, i]]) for i in (0, 1))
        equal.append((a == b).all(1))
        # the distance of the unit rows keeps the digits that a cosine near one loses
        a, b = (x / x.abs().amax(1, keepdim=True) for x in (a, b))
        a, b = (x / torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (a, b))
        near.append((a - b).square().sum(1) <= 2 * (1 - COSINE) * (1 + 1e-6))
    return torch.cat(equal), torch.cat(near)


def _grouped(m: int, pairs: Tensor) -> tuple[int, np.ndarray]:
    """How many rows have an earlier one in their group, and the first row of the group of each."""
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    a, b = pairs.T.numpy()
    graph = scipy.sparse.coo_array((np.ones(len(a), np.int8), (a, b)), shape=(m, m))
    count, label = connected_components(graph, directed=False)
    first = np.full(count, m)
    np.minimum.at(first, label, np.arange(m))
    return m - count, first[label]


def _longest_run(first: np.ndarray) -> tuple[int, int, int] | None:
    """(start, source, length) of the longest run of rows that repeat rows in the same order."""
    rows = np.flatnonzero(first < np.arange(len(first)))
    if not len(rows):
        return None
    # within a run both the row and its source go up by one; in a run that repeats one row, the source stays
    source = first[rows]
    best = (0, 0, 0)
    for stride in (1, 0):
        ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(source) != stride))
        starts = np.concatenate(([0], ends + 1))
        lengths = np.diff(np.concatenate((starts, [len(rows)])))
        i = int(np.argmax(lengths))
        if lengths[i] > best[2]:
            best = (int(rows[starts[i]]), int(source[starts[i]]), int(lengths[i]))
    return best
