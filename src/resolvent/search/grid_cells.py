"""The cells of a regular grid: their number, periods, the box of points on a sphere, and queries in blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

# A row of cells is read as one run, so that a cell should hold a few points.
_PER_CELL = 4.0
_MOST_CELLS = 1 << 27
# Blocks of fewer queries than this are not worth a thread.
_BLOCK = 64


def in_blocks(part: Callable[[slice], tuple[np.ndarray, ...]], b: int, workers: int | None) -> tuple[np.ndarray, ...]:
    """The arrays that `part` gives for slices of b queries, joined; on several threads if that is worth while."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be a positive integer or None, got {workers!r}")
    threads = min(torch.get_num_threads() if workers is None else workers, b // _BLOCK)
    if threads < 2:
        return part(slice(0, b))
    # More blocks than threads: queries differ in their work.
    count = min(4 * threads, b // _BLOCK)
    edges = [b * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(part, [slice(i, j) for i, j in itertools.pairwise(edges)]))
    return tuple(np.concatenate(column) for column in zip(*done, strict=True))


def sphere_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corner and size of the smallest box of longitudes and latitudes, and the points relative to it."""
    lon = np.sort(points[:, 0] % 360.0)
    gaps = np.diff(lon, append=lon[0] + 360.0)
    # The box begins after the widest gap.
    west = lon[(gaps.argmax() + 1) % len(lon)]
    low = np.array([west, points[:, 1].min()])
    at = np.column_stack([(points[:, 0] - west) % 360.0, points[:, 1] - low[1]])
    # A longitude just west of the corner comes out near 360 by rounding; the box holds what the points say.
    return low, at.max(0) * (1 + 1e-9), at


def periods(periodic: Mapping[int, tuple[float, float]], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower ends and lengths of the periods (0 where an axis has none)."""
    low, length = np.zeros(dim), np.zeros(dim)
    for axis, ends in periodic.items():
        if isinstance(axis, bool) or not isinstance(axis, int | np.integer) or not 0 <= axis < dim:
            raise ValueError(f"periodic must have axes from 0 to {dim - 1}, got {axis!r}")
        if ends is None:
            continue
        a, b = (float(e) for e in ends)
        if not (math.isfinite(a) and math.isfinite(b) and a < b):
            raise ValueError(f"periodic[{axis}] must be (low, high) with low < high, got {ends!r}")
        low[axis], length[axis] = a, b - a
    return low, length


def wrap(points: np.ndarray, period: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    low, length = period
    if not (length > 0).any():
        return points
    safe = np.where(length > 0, length, 1.0)
    turns = np.where(length > 0, np.floor((points - low) / safe), 0.0)
    wrapped = points - turns * safe
    # Rounding may leave a point just below the period on its end.
    return np.where((length > 0) & (wrapped >= low + length), low, wrapped)


def cell_counts(cells: Any, extent: np.ndarray, n: int) -> np.ndarray:
    """Cells along each axis."""
    if isinstance(cells, str):
        if cells != "auto":
            raise ValueError(f"cells must be 'auto', an integer or one for each axis, got {cells!r}")
        return _cubic(extent, max(n / _PER_CELL, 1.0))
    shape = np.atleast_1d(np.asarray(cells))
    if shape.dtype.kind not in "iu" or shape.ndim > 1 or shape.size not in (1, len(extent)) or (shape < 1).any():
        raise ValueError(f"cells must be 'auto', a positive integer or one for each axis, got {cells!r}")
    shape = np.array(np.broadcast_to(shape.astype(np.int64), (len(extent),)))
    if math.prod(shape.tolist()) > _MOST_CELLS:
        raise ValueError(f"cells must make at most 2^27 cells in all, got {math.prod(shape.tolist()):.3g}")
    return shape


def _cubic(extent: np.ndarray, wanted: float) -> np.ndarray:
    """Cells of equal sides, about `wanted` of them; an axis thinner than a cell has one."""
    wide = extent > 0
    shape = np.ones(len(extent), np.int64)
    while wide.any():
        side = math.exp(float(np.mean(np.log(extent[wide]))) - math.log(wanted) / int(wide.sum()))
        thin = wide & (extent < side)
        if not thin.any():
            shape[wide] = np.maximum(1, np.floor(np.minimum(extent[wide] / side, _MOST_CELLS)).astype(np.int64))
            break
        wide &= ~thin
    return shape
