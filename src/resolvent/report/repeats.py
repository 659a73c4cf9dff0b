"""Rows that repeat other rows, exactly or nearly, without comparing all pairs entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
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
# Up to so many rows, or as many as they are long, all pairs are compared in so many directions, which is less work than
# tables: a pair at that cosine stays within the limit in all but one case of a thousand, and unrelated ones never do.
_FEW = 2048
_DIRECTIONS = 32
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
    The unit rows are projected on random directions. Up to max(2048, n) rows, on 32, and all pairs are compared by these; each
    row that is near an earlier one is then compared with the first and the nearest of them by their entries. Of more
    rows, on 96: in each of six tables the sides of 16 planes make a key; rows are sorted by key and first projection, and
    neighbours with one key are compared. In half of the tables the planes halve the rows, since the rows of trained
    matrices lie on one side of the origin; in the others they go through it, so as not to cut through a tight cluster of
    most rows. Costs 64 m n + 64 m^2 flops, or 192 m n, and 96 m numbers.

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
    few = m <= max(_FEW, min(n, _LONGEST))
    tables = _TABLES if m <= _MANY else 2
    projected, kept = _projected(matrix, _DIRECTIONS if few else tables * _PROJECTIONS)
    if len(kept) < 2:
        return Repeats(0, None if short else 0)
    pairs = kept[_near_pairs(projected) if few else _candidates(projected)]
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


def _projected(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(k, count) projections of the unit rows, and the k places of the rows that have a direction."""
    matrix = matrix[:, :_LONGEST]
    n = matrix.shape[1] * (2 if matrix.is_complex() else 1)
    directions = torch.randn(n, count, generator=torch.Generator().manual_seed(0))
    across = matrix.stride(0) < matrix.stride(1)
    projected = _by_columns(matrix, directions) if across else _by_rows(matrix, directions)
    kept = torch.isfinite(projected).all(1).nonzero()[:, 0]
    return projected[kept] if len(kept) < len(projected) else projected, kept


def _by_rows(matrix: Tensor, directions: Tensor) -> Tensor:
    """Projections of the unit rows, some rows at a time."""
    step = max(1, _CHUNK // len(directions))
    parts = []
    for start in range(0, len(matrix), step):
        block = _real(matrix[start : start + step])
        rows = block.float()
        size = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        if not _is_plain(size):
            rows = (block / block.abs().amax(1, keepdim=True)).float()
            size = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        parts.append((rows @ directions) / size)
    return torch.cat(parts)


def _by_columns(matrix: Tensor, directions: Tensor) -> Tensor:
    """The same of a matrix whose columns lie together in memory, some columns at a time."""
    m, n = matrix.shape
    step = max(1, _CHUNK // m)

    def blocks() -> Iterator[Tensor]:
        return (_real(matrix[:, start : start + step]) for start in range(0, n, step))

    def summed(scale: Tensor | None) -> tuple[Tensor, Tensor]:
        projected, squares, done = torch.zeros(directions.shape[1], m), torch.zeros(m, 1), 0
        for block in blocks():
            part = (block if scale is None else block / scale).float()
            projected.addmm_(directions[done : done + part.shape[1]].T, part.T)
            # many times as fast as vector_norm, which takes no care of the order in memory
            squares += part.square().sum(1, keepdim=True)
            done += part.shape[1]
        return projected.T, squares.sqrt_()

    projected, size = summed(None)
    if not _is_plain(size):
        scale = torch.zeros(())
        for block in blocks():
            scale = torch.maximum(scale, block.abs().amax(1, keepdim=True))
        projected, size = summed(scale)
    return (projected / size).contiguous()


def _is_plain(size: Tensor) -> bool:
    """Whether all norms are such that no square left the range of single precision; else rows are scaled first."""
    low, high = torch.aminmax(size)
    return bool(low > 1e-15) and bool(high < 1e15)


def _limit(count: int) -> float:
    """Squared distance of projections on `count` directions up to which rows are compared by their entries."""
    # a sum of squares of normal numbers; twice the limit leaves out no pair within it
    return 2 * 2 * (1 - COSINE) * count


def _near_pairs(projected: Tensor) -> Tensor:
    """(c, 2) rows that lie near each other, the earlier first: each with the first and the nearest before it."""
    count = len(projected)
    squares = projected.square().sum(1)
    limit = _limit(projected.shape[1]) - squares
    step = max(1, _CHUNK // count)
    found = [torch.zeros(0, 2, dtype=torch.long)]
    for start in range(0, count, step):
        stop = min(start + step, count)
        # up to the square of the row itself
        gap = torch.addmm(squares[:stop], projected[start:stop], projected[:stop].T, alpha=-2)
        here = torch.arange(stop - start)
        gap[here, start + here] = torch.inf
        near = (gap.amin(1) <= limit[start:stop]).nonzero()[:, 0]
        if not len(near):
            continue
        gap = gap[near].masked_fill_(torch.arange(stop) > (start + near)[:, None], torch.inf)
        inside = gap <= limit[start:stop][near, None]
        near, gap, inside = (x[inside.any(1)] for x in (near, gap, inside))
        found += [torch.stack((first, start + near), 1) for first in (inside.byte().argmax(1), gap.argmin(1))]
    if len(found) > 1:
        # rounding may put equal rows of a tight cluster behind others: they are neighbours in a single projection
        for column in projected[:, :_TABLES].T:
            order = torch.argsort(column)
            apart = range(1, min(_NEIGHBOURS, count - 1) + 1)
            found += [_close(projected, order[distance:], order[:-distance]) for distance in apart]
    return torch.unique(torch.cat(found), dim=0)


def _close(projected: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(c, 2) of the pairs a[i], b[i] those that lie near each other, the earlier row first."""
    close = (projected[a] - projected[b]).square().sum(1) <= _limit(projected.shape[1])
    return torch.stack((torch.minimum(a, b)[close], torch.maximum(a, b)[close]), 1)


def _candidates(projected: Tensor) -> Tensor:
    """(c, 2) rows that share a key and lie near each other in the projections, the earlier row first."""
    tables = projected.shape[1] // _PROJECTIONS
    half = tables // 2 * _PROJECTIONS
    middle = torch.zeros(projected.shape[1])
    # of some rows: the planes need not be exactly in the middle
    middle[:half] = projected[:: max(1, len(projected) // _SAMPLE), :half].median(0).values
    sides = projected > middle
    weights = 2.0 ** torch.arange(_PROJECTIONS)
    reach = 4 * float(projected.abs().max())
    found = []
    for table in range(tables):
        columns = slice(table * _PROJECTIONS, (table + 1) * _PROJECTIONS)
        key = sides[:, columns].float() @ weights
        order = torch.argsort(key.double() + projected[:, columns.start].double() / reach)
        key = key[order]
        for distance in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            at = (key[distance:] == key[:-distance]).nonzero()[:, 0]
            found.append(_close(projected, order[at], order[at + distance]))
    return torch.unique(torch.cat(found), dim=0)


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
