"""Fixed-radius neighbours on a regular grid: balls, shells and nearest points, periodic axes, the sphere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.search.grid_cells import cell_counts, in_blocks, periods, sphere_box, wrap

GridMetric = str | Callable[[np.ndarray, np.ndarray], np.ndarray]

_SPHERE = ("haversine", "vincenty")
# Squares of coordinates must be finite.
_LARGEST = 1e150


@dataclass(frozen=True)
class Neighbors:
    """The neighbours of each query, in compressed rows.

    Parameters
    ----------
    indptr : (b + 1,) int64; those of query i stand at ``indptr[i]:indptr[i + 1]``
    indices : (m,) int64, positions of the points
    distances : (m,) of the points' dtype, or None where they were not wanted
    evaluations : (b,) int64, distances computed for each query

    Examples
    --------
    >>> found = Neighbors(np.array([0, 2]), np.array([5, 7]), np.array([0.5, 1.0]), np.array([9]))
    >>> len(found), found[0]
    (1, (array([5, 7]), array([0.5, 1. ])))
    """

    indptr: Any
    indices: Any
    distances: Any
    evaluations: Any

    @property
    def counts(self) -> Any:
        """How many neighbours each query has, (b,)."""
        return self.indptr[1:] - self.indptr[:-1]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        """Indices and distances of one query."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"query {i} is out of range for {len(self)} queries")
        part = slice(int(self.indptr[i % len(self)]), int(self.indptr[i % len(self) + 1]))
        return self.indices[part], None if self.distances is None else self.distances[part]


class FixedRadiusGrid:
    r"""All points within a radius of a query, ``{i : |x_i - q| <= r}``, by a regular grid of cells.

    Parameters
    ----------
    x : (n, dim) points, n >= 1, dim from 1 to 6; (longitude, latitude) in degrees on the sphere
    cells : cells along each axis: an int, one for each axis, or "auto" (cubic cells of about four points each)
    periodic : ``{axis: (low, high)}``; coordinates are taken modulo the period, and a distance is that to the nearest
        image
    metric : "euclid"; on the unit sphere, in degrees, "haversine" or "vincenty" (exact at antipodes too); or a function
        of a query (dim,) and points (m, dim) that gives (m,) distances, none below the largest difference of a
        coordinate (as any p-norm). It sees points moved to their image nearest to the query

    Raises
    ------
    ValueError : x is empty, not finite, has more than 6 columns or a latitude beyond 90; there are more than 2^27 cells.

    Notes
    -----
    Points are bucketed by cell with a counting sort and stored in that order, so that a row of cells along the last axis
    is one run in memory. A ball reads, of each row that it meets, the interval that Pythagoras leaves; cells inside the
    hole of a shell are left out. Nearest points come from rings of cells until the n-th distance is below the radius
    covered; on the sphere and for a function, from balls that double. Cost of a ball: its points and O((r / cell)^(dim-1))
    rows; memory 8 n (dim + 1) bytes and 8 a cell. Few large clumps in a wide box are the bad case: then give `cells`.
    Distances are those of float64 arithmetic whatever the dtype. Points on the host; there is no gradient.

    References
    ----------
    "GriSPy: A Python package for Fixed-Radius Nearest Neighbors Search"

    Examples
    --------
    >>> corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> grid = FixedRadiusGrid(corners)
    >>> grid.within([0.1, 0.0], 1.0, sort=True)[0]
    (array([0, 2]), array([0.1, 0.9]))
    >>> FixedRadiusGrid(corners / 2, periodic={0: (0, 1), 1: (0, 1)}).nearest([0.9, 0.0], 1)[0]
    (array([0]), array([0.1]))
    """

    def __init__(
        self,
        x: Any,
        cells: int | Sequence[int] | str = "auto",
        periodic: Mapping[int, tuple[float, float]] | None = None,
        metric: GridMetric = "euclid",
    ) -> None:
        if not callable(metric) and metric not in ("euclid", *_SPHERE):
            raise ValueError(f"metric must be 'euclid', 'haversine', 'vincenty' or a function, got {metric!r}")
        t, _ = as_tensor(x, "x")
        if t.ndim != 2 or 0 in t.shape or t.shape[1] > 6:
            raise ValueError(f"x must have shape (n, dim), n at least 1 and dim from 1 to 6, got {tuple(t.shape)}")
        self.metric = metric
        self.dim = t.shape[1]
        self.dtype = t.dtype
        points = _host(t, "x")
        self._sphere = metric in _SPHERE
        if self._sphere:
            if periodic:
                raise ValueError("periodic must be None on the sphere: longitudes are periodic by themselves")
            _check_sphere(points, "x")
            low, extent, at = sphere_box(points)
        else:
            self._period = periods(periodic or {}, self.dim)
            points = wrap(points, self._period)
            low = np.where(self._period[1] > 0, self._period[0], points.min(0))
            # The upper corner lies inside the last cell.
            extent = np.where(self._period[1] > 0, self._period[1], (points.max(0) - low) * (1 + 1e-9))
            at = points - low
        self.cells = cell_counts(cells, extent, len(points))
        width = np.where(extent > 0, extent / self.cells, 1.0)
        self._lay(points, at, low, width)

    def _lay(self, points: np.ndarray, at: np.ndarray, low: np.ndarray, width: np.ndarray) -> None:
        """Sort the points into their cells."""
        from resolvent.search.grid_kernel import bucket

        where = np.clip((at / width).astype(np.int64), 0, self.cells - 1)
        # On the sphere the rows are bands of latitude, so longitude is the axis that runs fastest.
        axes = (1, 0) if self._sphere else tuple(range(self.dim))
        flat = np.ravel_multi_index(tuple(where[:, a] for a in axes), tuple(self.cells[list(axes)]))
        self._start, self._order = bucket(flat, int(self.cells.prod()))
        points = points[self._order]
        if self._sphere:
            points = np.column_stack([points, np.cos(np.radians(points[:, 1]))])
            self._frame: tuple[Any, ...] = (*map(float, low), *map(float, width), *map(int, self.cells))
        else:
            pad = 8 * np.finfo(float).eps * (np.abs(low) + width * self.cells)
            self._frame = (np.stack([low, width, self._period[1], pad]), self.cells)
        self._points = np.ascontiguousarray(points)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def nbytes(self) -> int:
        """Bytes of the points, their order and the cells."""
        return int(self._points.nbytes + self._order.nbytes + self._start.nbytes)

    def within(
        self, q: Any, r: Any, *, sort: bool = False, distances: bool = True, workers: int | None = 1
    ) -> Neighbors:
        """All points at a distance of at most r from each query.

        Parameters
        ----------
        q : (b, dim) queries, or one of shape (dim,)
        r : radius, one for all or (b,); at most one period along periodic axes
        sort : nearest first; otherwise in the order of the cells
        distances : False accepts cells inside the ball without computing anything, and gives None for the distances
        workers : threads over blocks of queries; None for as many as torch uses

        Returns
        -------
        Neighbors of the kind of q; one query counts as a batch of one.
        """
        queries, kind = self._queries(q)
        r = self._radius(r, len(queries), "r")
        found = self._search(queries, np.zeros(len(r)), r, True, distances, workers)
        return self._give(found, kind, sort, distances)

    def shell(self, q: Any, r_in: Any, r_out: Any, *, sort: bool = False, workers: int | None = 1) -> Neighbors:
        """All points at a distance in [r_in, r_out) from each query.

        Parameters
        ----------
        q : (b, dim) queries, or one of shape (dim,)
        r_in, r_out : radii, one for all or (b,)
        sort, workers : as for `within`

        Returns
        -------
        Neighbors of the kind of q.
        """
        queries, kind = self._queries(q)
        inner, outer = self._radius(r_in, len(queries), "r_in"), self._radius(r_out, len(queries), "r_out")
        if (inner > outer).any():
            raise ValueError("r_in must be at most r_out")
        found = self._search(queries, inner, outer, False, True, workers)
        return self._give(found, kind, sort, True)

    def nearest(self, q: Any, n: int = 1, *, workers: int | None = 1) -> Neighbors:
        """The n nearest points of each query, nearest first (all points if there are fewer).

        Parameters
        ----------
        q : (b, dim) queries, or one of shape (dim,)
        n : how many, at least 1
        workers : as for `within`

        Returns
        -------
        Neighbors of the kind of q, with min(n, len(grid)) for each.
        """
        from resolvent.search.grid_kernel import rings

        queries, kind = self._queries(q)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a positive integer, got {n!r}")
        n = min(int(n), len(self))
        if self.metric != "euclid":
            return self._give(self._widening(queries, n, workers), kind, True, True)

        def part(block: slice) -> tuple[np.ndarray, ...]:
            frame, shape = self._frame
            rows, best, tested = rings(self._points, self._start, frame, shape, queries[block], n)
            return np.full(len(rows), n), rows.ravel(), np.sqrt(best.ravel()), tested

        return self._give(in_blocks(part, len(queries), workers), kind, True, True)

    def _queries(self, q: Any) -> tuple[np.ndarray, torch.device | None]:
        t, kind = as_tensor(q, "q")
        if t.ndim not in (1, 2) or t.shape[-1] != self.dim:
            raise ValueError(f"q must have shape ({self.dim},) or (b, {self.dim}), got {tuple(t.shape)}")
        queries = _host(t.reshape(-1, self.dim), "q")
        if self._sphere:
            _check_sphere(queries, "q")
        else:
            queries = wrap(queries, self._period)
        return queries, t.device if kind == "torch" else None

    def _radius(self, r: Any, b: int, name: str) -> np.ndarray:
        r = r.detach().cpu().numpy() if isinstance(r, torch.Tensor) else r
        values = np.asarray(r, dtype=np.float64)
        if values.ndim > 1 or (values.ndim == 1 and len(values) != b):
            raise ValueError(f"{name} must be a number or one for each of the {b} queries, got shape {values.shape}")
        if not (values >= 0).all():
            raise ValueError(f"{name} must not be negative or NaN, got {values[~(values >= 0)].flat[0]}")
        if not self._sphere and (self._period[1] > 0).any():
            least = self._period[1][self._period[1] > 0].min()
            if (values > least).any():
                raise ValueError(f"{name} must be at most one period, {least:g}, got {values.max():g}")
        return np.array(np.broadcast_to(values, (b,)))

    def _search(
        self, queries: np.ndarray, inner: np.ndarray, outer: np.ndarray, closed: bool, wanted: bool, workers: int | None
    ) -> tuple[np.ndarray, ...]:
        """Counts, positions in the order of the cells, distances, tests."""
        from resolvent.search.grid_kernel import balls
        from resolvent.search.sphere_kernel import caps

        if self._sphere:

            def part(s: slice) -> tuple[np.ndarray, ...]:
                frame, vincenty = self._frame, self.metric == "vincenty"
                return caps(self._points, self._start, frame, queries[s], inner[s], outer[s], closed, vincenty)

        else:
            squared = self.metric == "euclid"
            floor, limit = (inner * inner, outer * outer) if squared else (inner, outer)
            # [inner, outer) as a closed interval of floating-point numbers.
            limit = limit if closed else np.nextafter(limit, -np.inf)

            def part(s: slice) -> tuple[np.ndarray, ...]:
                low, high, whole = (floor[s], limit[s], not wanted) if squared else (0 * floor[s], outer[s], False)
                frame, shape = self._frame
                counts, rows, gaps, tests = balls(
                    self._points, self._start, frame, shape, queries[s], outer[s], low, high, not squared, whole
                )
                if squared:
                    return counts, rows, np.sqrt(gaps) if wanted else gaps, tests
                return self._measured(queries[s], counts, rows, floor[s], limit[s])

        return in_blocks(part, len(queries), workers)

    def _measured(
        self, queries: np.ndarray, counts: np.ndarray, rows: np.ndarray, floor: np.ndarray, limit: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Candidates of a box, by the user's own distance."""
        metric: Any = self.metric
        period = self._period[1]
        kept, distances, left = [rows[:0]], [np.empty(0)], np.zeros_like(counts)
        ends = np.cumsum(counts)
        for i in range(len(queries)):
            part = rows[ends[i] - counts[i] : ends[i]]
            points = self._points[part]
            turns = np.divide(points - queries[i], period, out=np.zeros_like(points), where=period > 0)
            d = np.asarray(metric(queries[i], points - np.round(turns) * period), dtype=np.float64)
            if d.shape != part.shape or not (d >= 0).all():
                raise ValueError(
                    f"metric must give ({len(part)},) distances, none negative or NaN, got shape {d.shape}"
                )
            keep = (d >= floor[i]) & (d <= limit[i])
            left[i] = keep.sum()
            kept.append(part[keep])
            distances.append(d[keep])
        return left, np.concatenate(kept), np.concatenate(distances), counts

    def _widening(self, queries: np.ndarray, n: int, workers: int | None) -> tuple[np.ndarray, ...]:
        """The n nearest by balls whose radius doubles until they hold n points."""
        b = len(queries)
        rows, best, tested = np.empty((b, n), np.int64), np.empty((b, n)), np.zeros(b, np.int64)
        todo, last = np.arange(b), np.zeros(b, bool)
        radius = np.full(b, float(self._frame[3] if self._sphere else self._frame[0][1].min()))
        while len(todo):
            zero = np.zeros(len(todo))
            counts, found, gaps, tests = self._search(queries[todo], zero, radius[todo], True, True, workers)
            tested[todo] += tests
            done = counts >= n
            ends = np.cumsum(counts)
            for i in np.flatnonzero(done):
                part = slice(ends[i] - counts[i], ends[i])
                first = np.lexsort((self._order[found[part]], gaps[part]))[:n]
                rows[todo[i]], best[todo[i]] = found[part][first], gaps[part][first]
            if last[todo[~done]].any():
                raise ValueError("metric must give finite distances")
            last[todo] = radius[todo] > _LARGEST
            todo = todo[~done]
            # The ball covers a query's way to the grid first, wherever it stands.
            radius[todo] *= 2.0
        return np.full(b, n), rows.ravel(), best.ravel(), tested

    def _give(self, found: tuple[np.ndarray, ...], device: torch.device | None, sort: bool, wanted: bool) -> Neighbors:
        counts, rows, gaps, tested = found
        indices = self._order[rows]
        if sort and len(rows):
            if not wanted:
                raise ValueError("sort needs the distances: give distances=True")
            order = np.lexsort((indices, gaps, np.repeat(np.arange(len(counts)), counts)))
            indices, gaps = indices[order], gaps[order]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        fields = [torch.from_numpy(f) for f in (indptr, indices, gaps, tested)]
        fields[2] = fields[2].to(self.dtype)
        if device is None:
            parts: list[Any] = [f.numpy() for f in fields]
        else:
            parts = [f.to(device) for f in fields]
        return Neighbors(parts[0], parts[1], parts[2] if wanted else None, parts[3])


def _host(t: torch.Tensor, name: str) -> np.ndarray:
    if t.is_complex():
        raise TypeError(f"{name} must be real, got {t.dtype}")
    check_finite(t, name)
    array = t.detach().to("cpu", torch.float64).numpy()
    if array.size and np.abs(array).max() > _LARGEST:
        raise ValueError(f"{name} has entries beyond {_LARGEST:g}, whose squares are not finite: scale it")
    return array


def _check_sphere(points: np.ndarray, name: str) -> None:
    if points.shape[1] != 2:
        raise ValueError(f"{name} must be (longitude, latitude), two columns, got {points.shape[1]}")
    if len(points) and np.abs(points[:, 1]).max() > 90:
        raise ValueError(f"{name} must have latitudes from -90 to 90, got {points[np.abs(points[:, 1]).argmax(), 1]:g}")
