"""Plain facts of one matrix, before any spectrum: what is not finite, dead, repeated, out of range or on a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.threads import one_thread
from resolvent.report.repeats import repeats_of

# Entries that are looked at together: they stay in the cache over all the questions.
_CHUNK = 1 << 18
# Rows whose distinct values are counted, evenly spaced; a grid is in all rows or in none.
_SAMPLED = 64
# Entries of each that are looked at; a grid of 256 levels shows in fewer.
_LONGEST = 4096
# Columns of a group that is quantised by itself.
_GROUP = 64
# Two matrices are compared by this many random numbers of each; the relative error of the difference is 1/sqrt(2 k).
_PROBES = 16
# Longer axes are folded to this length before, a prime so that no structure of the axis meets it.
_AXIS = 65_521


@dataclass(frozen=True)
class Facts:
    """What is seen in the entries of a matrix.

    Attributes
    ----------
    nan, inf : numbers of such entries
    zero_rows, zero_columns : rows and columns of zeros only
    constant_columns : columns of one value other than zero, in a matrix of at least two rows
    mean, std : of the finite entries; None where there are none, or beyond the range of doubles
    largest : largest |entry - mean| in standard deviations; None where all entries are the same
    zeros : share of the entries that are exactly zero
    levels : distinct values per row, or per column where those are fewer: the median over at most 64 rows; None where
        fewer than 32 entries make a row and a column
    group_levels : the same within groups of 64 columns, for what is quantised group by group; None with shorter rows
    bits : bits of that grid, where there are so few levels that chance cannot make them; else None
    repeated_rows : rows that are equal to an earlier one; rows of zeros do not count
    near_repeated_rows : rows with a cosine of at least 0.999 to an earlier one, those included; None for rows too short
        to tell
    repeat : (first row, the row it repeats, number of rows) of the longest block that repeats another, or None
    repeated_columns, near_repeated_columns, repeat_columns : the same of the columns
    fingerprint : 16 random numbers of the matrix and 16 of its transpose, by which copies are found
    """

    nan: int
    inf: int
    zero_rows: int
    zero_columns: int
    constant_columns: int
    mean: float | None
    std: float | None
    largest: float | None
    zeros: float
    levels: int | None
    group_levels: int | None
    bits: int | None
    repeated_rows: int
    near_repeated_rows: int | None
    repeat: tuple[int, int, int] | None
    repeated_columns: int
    near_repeated_columns: int | None
    repeat_columns: tuple[int, int, int] | None
    fingerprint: tuple[float, ...]


def facts_of(matrix: Tensor) -> Facts:
    """Look through the entries of a matrix; it may have NaN and infinities.

    Parameters
    ----------
    matrix : (m, n) tensor on the CPU of any dtype

    Returns
    -------
    Facts

    Raises
    ------
    ValueError : the matrix is not 2-D or has no entries.

    Notes
    -----
    One pass over blocks of rows that fit into the cache, and two more for the rows and columns that repeat
    others, by random projections (see `repeats_of`). The counts are exact, the near repeats a lower bound.

    Examples
    --------
    >>> facts = facts_of(torch.tensor([[1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, 0.0], [1.0, math.nan, 1.0, 0.0]]))
    >>> facts.nan, facts.zero_columns, facts.repeated_rows
    (1, 1, 1)
    """
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"matrix must be (m, n) with entries in it, got shape {tuple(matrix.shape)}")
    # Blocks that fit into the cache of one core gain nothing from a second one, and lose much when that one is busy.
    with one_thread():
        return _facts(matrix.detach())


def _facts(matrix: Tensor) -> Facts:
    m, n = matrix.shape
    nan = inf = zeros = zero_rows = 0
    low = torch.full((n,), math.inf)
    high = torch.full((n,), -math.inf)
    shift, total, squares, count = _shift(matrix), 0.0, 0.0, 0
    lowest, highest = math.inf, -math.inf
    left, right = _probes(m, n)
    prints = np.zeros(2 * _PROBES)
    for start, block in _blocks(matrix):
        values = block
        count += block.numel()
        # a sum that is finite has finite terms, which is all there is to ask of nearly every block
        if not math.isfinite(float(block.sum())):
            finite = torch.isfinite(block)
            lost, undefined = int((~finite).sum()), int(torch.isnan(block).sum())
            nan, inf, count = nan + undefined, inf + lost - undefined, count - lost
            # what is not finite is left out of the sums, by a value near the mean
            values = torch.where(finite, block, shift)
        here = block.numel() - int(torch.count_nonzero(block))
        zeros += here
        if here >= n:
            zero_rows += int((block == 0).all(1).sum())
        low, high = torch.minimum(low, block.amin(0)), torch.maximum(high, block.amax(0))
        least, most = torch.aminmax(values)
        lowest, highest = min(lowest, float(least)), max(highest, float(most))
        centred = values - shift
        total += float(centred.sum(dtype=torch.float64))
        squares += float(torch.linalg.vector_norm(centred, dtype=torch.float64)) ** 2
        prints += _prints(values, left[torch.arange(start, start + len(block)) % _AXIS], right)
    mean = total / count if count else math.nan
    variance = squares / count - mean * mean if count else math.nan
    std = math.sqrt(max(0.0, variance)) if math.isfinite(variance) else math.nan
    mean += shift
    spread = max(highest - mean, mean - lowest)
    levels, group, bits = _levels(matrix)
    rows, columns = repeats_of(matrix), repeats_of(matrix.T)
    return Facts(
        nan=nan,
        inf=inf,
        zero_rows=zero_rows,
        zero_columns=int(((low == 0) & (high == 0)).sum()),
        constant_columns=int(((low == high) & (low != 0)).sum()) if m > 1 else 0,
        mean=_rounded(mean),
        std=_rounded(std),
        largest=_rounded(spread / std) if count and std > 1e-12 * abs(mean) else None,
        zeros=zeros / matrix.numel(),
        levels=levels,
        group_levels=group,
        bits=bits,
        repeated_rows=rows.exact,
        near_repeated_rows=rows.near,
        repeat=rows.block,
        repeated_columns=columns.exact,
        near_repeated_columns=columns.near,
        repeat_columns=columns.block,
        fingerprint=tuple(float(f"{x:.7g}") for x in (prints if np.isfinite(prints).all() else np.zeros(2 * _PROBES))),
    )


def difference(a: Facts, b: Facts, *, transposed: bool = False) -> float:
    r"""Estimate of :math:`\|A - B\|_F / \|A\|_F` (or of :math:`\|A - B^T\|_F`) from the fingerprints of two matrices.

    Notes
    -----
    Exactly zero for equal matrices; 1.4 for unrelated ones of one size, with a standard error of a quarter or so.

    Examples
    --------
    >>> A = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    >>> difference(facts_of(A), facts_of(A.T), transposed=True) < 1e-5
    True
    """
    x, y = np.array(a.fingerprint), np.array(b.fingerprint)
    if transposed:
        y = np.concatenate((y[_PROBES:], y[:_PROBES]))
    scale = float(np.linalg.norm(x))
    return float(np.linalg.norm(x - y)) / scale if scale > 0 else math.inf


def _blocks(matrix: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of rows as real numbers, float32 or float64; a complex block side by side, real parts first."""
    step = max(1, _CHUNK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step]
        if block.is_complex():
            # the fact asked for is one of an entry: its modulus is finite, zero or large exactly where it is
            block = block.abs()
        yield start, block if block.dtype in (torch.float32, torch.float64) else block.float()


def _shift(matrix: Tensor) -> float:
    """A value near the entries, so that their variance is no small difference of large numbers."""
    first = next(_blocks(matrix[:1]))[1]
    first = first[torch.isfinite(first)]
    return float(first.double().mean()) if len(first) else 0.0


def _probes(m: int, n: int) -> tuple[Tensor, Tensor]:
    """Random directions for the axes of a matrix: those of an axis depend on its length only, so that a transposed copy
    meets the same ones."""

    def directions(size: int) -> Tensor:
        generator = torch.Generator().manual_seed(size)
        return torch.randn(min(size, _AXIS), 2 * _PROBES, generator=generator)

    return directions(m), directions(n)


def _prints(block: Tensor, left: Tensor, right: Tensor) -> np.ndarray:
    """The share of a block of rows in x_k^T A y_k and x_k^T A^T y_k."""
    x, y = (t.to(block.dtype) for t in (left, right))
    if block.shape[1] > _AXIS:
        pieces = block.split(_AXIS, 1)
        block = torch.stack(pieces[:-1]).sum(0)
        block[:, : pieces[-1].shape[1]] += pieces[-1]
    # of x_k and y_k each has one half for the matrix and the other for its transpose
    both = ((block @ y) * x.roll(_PROBES, 1)).sum(0, dtype=torch.float64)
    return both.roll(_PROBES).numpy()


def _levels(matrix: Tensor) -> tuple[int | None, int | None, int | None]:
    """Median number of distinct values per row or column and per group of columns, and the bits of their grid if the
    entries lie on one.

    Chance and the stored precision make few distinct values too, but 32 numbers drawn from 256 levels have 30 of them:
    so few as 16 speak of a grid, and up to 256 do where there are four times as many entries.
    """
    counts, grids = [], []
    for side in (matrix, matrix.T):
        if side.shape[1] >= 32:
            count = int(np.median(_distinct(_sampled(side))))
            counts.append(count)
            if count <= 16 or (count <= 256 and 4 * count <= min(side.shape[1], _LONGEST)):
                grids.append(count)
    group = None
    if matrix.shape[1] >= 2 * _GROUP:
        rows = _sampled(matrix)
        whole = rows.shape[1] // _GROUP * _GROUP
        group = int(np.median(_distinct(rows[:, :whole].reshape(-1, _GROUP))))
        if group <= 16:
            grids.append(group)
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    known = grids and min(grids) > 1 and matrix.dtype in floats
    return (min(counts) if counts else None), group, math.ceil(math.log2(min(grids))) if known else None


def _sampled(matrix: Tensor) -> Tensor:
    places = torch.linspace(0, len(matrix) - 1, min(len(matrix), _SAMPLED)).round().long()
    rows = matrix[places, :_LONGEST]
    if rows.is_complex():
        rows = rows.abs()
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def _distinct(rows: Tensor) -> np.ndarray:
    """Number of distinct values in each row; each NaN counts."""
    ordered = np.sort(rows.numpy(), axis=1)
    return (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1


def _rounded(x: float) -> float | None:
    return float(f"{x:.7g}") if math.isfinite(x) else None


def finite_rows(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Norms of the rows that are finite and not zero, the mean of those rows as unit vectors, and their places.

    Returns
    -------
    (k,) norms, (n,) mean in float64 (2 n numbers for a complex matrix), (k,) places

    Examples
    --------
    >>> norms, mean, kept = finite_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [math.nan, 1.0]]))
    >>> norms.tolist(), kept.tolist()
    ([5.0], [0])
    """
    step = max(1, _CHUNK // matrix.shape[1])
    norms, total = [], 0.0
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step]
        block = torch.view_as_real(block.resolve_conj()).flatten(1) if block.is_complex() else block
        block = block.double()
        scale = block.abs().amax(1, keepdim=True)
        unit = block / scale
        size = torch.linalg.vector_norm(unit, dim=1)
        good = torch.isfinite(size)
        total = total + (unit[good] / size[good, None]).sum(0)
        norms.append(torch.where(good, size * scale[:, 0], 0.0))
    every = torch.cat(norms)
    kept = (every > 0).nonzero()[:, 0]
    return every[kept], torch.as_tensor(total) / max(len(kept), 1), kept
