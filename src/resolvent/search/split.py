"""Regression and classification by many groups, each of which answers with its one nearest neighbour."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.exact import top_rows
from resolvent.search.grid import FixedRadiusGrid
from resolvent.search.grid_cells import in_blocks
from resolvent.search.index import VectorIndex
from resolvent.search.vectors import Vectors

_TASKS = ("classify", "regress")
# Beyond this dimension a grid has more empty cells than points.
_GRID_DIM = 6


class GroupChoice(NamedTuple):
    """How many groups, and what that is based on.

    Attributes
    ----------
    groups : the number with the least error
    tried : the numbers of groups tried, descending
    errors : mean squared error, or share of wrong labels, of each; out of sample
    """

    groups: int
    tried: tuple[int, ...]
    errors: tuple[float, ...]


class SplitNearestNeighbor:
    r"""Predict by the nearest neighbour in each of M random groups of the training points.

    A group answers with the label of its one nearest neighbour and the distance. The L = ceil(keep M) groups with the
    smallest distances are averaged, or vote. M plays the part of k in a k-nearest-neighbour rule.

    Parameters
    ----------
    groups : M, from 1 to the number of points; None lets `fit` choose by `choose_groups`
    keep : share of the groups that count, in (0, 1]. With 1 the rate lacks a logarithm; any smaller constant reaches
        the minimax rate
    task : "classify" (vote; of equal votes the smaller label) or "regress" (mean)
    index : makes the index of one group, for example ``lambda: HNSW(metric="l2")``; None is exact: one grid for all
        groups in up to 6 dimensions, scans beyond
    workers : threads over blocks of queries, for the grid; None for as many as torch uses
    generator : of the split

    Attributes
    ----------
    classes : the distinct labels, in order ("classify")
    choice : the `GroupChoice` where `groups` was None

    Notes
    -----
    M about n^(2a/(2a+d)) for a regression function of smoothness a in d dimensions. In one process the exact answer of
    all groups comes from one sweep over a grid of all points, about M ln(1/(1-keep)) of them, and needs no heap. Several
    processes need no grid in common: a group is a shard that is asked for one neighbour, and its answer is one number
    and one distance. Beyond 6 dimensions distances are float32. There is no gradient.

    References
    ----------
    "One-Nearest-Neighbor Search is All You Need for Minimax Optimal Regression and Classification"

    Examples
    --------
    >>> x = torch.linspace(0, 1, 400)[:, None]
    >>> model = SplitNearestNeighbor(20, keep=0.5, task="regress", generator=0).fit(x, 3 * x[:, 0])
    >>> model.predict(torch.tensor([[0.5]])).round(decimals=1)
    tensor([1.5000])
    """

    def __init__(
        self,
        groups: int | None = None,
        keep: float = 1.0,
        task: str = "classify",
        *,
        index: Callable[[], VectorIndex] | None = None,
        workers: int | None = 1,
        generator: GeneratorLike = None,
    ) -> None:
        if groups is not None and (isinstance(groups, bool) or not isinstance(groups, int) or groups < 1):
            raise ValueError(f"groups must be a positive integer or None, got {groups!r}")
        _check_rule(keep, task)
        self.groups, self.keep, self.task = groups, float(keep), task
        self.index, self.workers, self._generator = index, workers, generator
        self.classes: Any = None
        self.choice: GroupChoice | None = None
        self._y: Any = None

    def fit(self, X: Any, y: Any) -> Self:
        """Split the points (n, d) with their labels or responses (n,) (or (n, t), "regress") into groups."""
        points, responses = _training(X, y, self.task)
        generator = as_generator(self._generator)
        if self.groups is None:
            self.choice = choose_groups(points, responses, self.keep, self.task, generator=generator)
        self._count = self.choice.groups if self.choice is not None else (self.groups or 1)
        n = len(points)
        if self._count > n:
            raise ValueError(f"groups must be at most the number of points {n}, got {self._count}")
        self._labels, self._tensor, self.classes = _coded(responses, self.task)
        order = torch.randperm(n, generator=generator).numpy()
        self._dim, self._y = points.shape[1], y
        group = np.empty(n, np.int64)
        group[order] = np.arange(n) % self._count
        self._shards, self._grid, self._group = None, None, group
        if self.index is None and self._dim <= _GRID_DIM:
            self._grid = FixedRadiusGrid(points)
            self._group = group[self._grid._order]
        else:
            # A group's rows, ascending.
            members = [np.flatnonzero(group == m) for m in range(self._count)]
            self._shards = [(rows, self._shard(points[rows])) for rows in members]
        return self

    def predict(self, X: Any) -> Any:
        """Labels or responses for the queries (b, d): an array of the kind and dtype of y."""
        rows, _ = self.neighbors(X)
        if self.task == "regress":
            values = self._labels[rows].mean(1)
            return torch.from_numpy(values).to(self._y) if self._tensor else values.astype(_float_dtype(self._y))
        return self.classes[self._votes(rows).argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Shares of the votes (b, classes) float64, in the order of `classes`."""
        if self.task != "classify":
            raise ValueError("predict_proba is for task='classify'")
        votes = self._votes(self.neighbors(X)[0])
        return votes / votes.sum(1, keepdims=True)

    def neighbors(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """The neighbours that count: training positions and squared distances, each (b, L), the nearest first."""
        if self._y is None:
            raise ValueError("the model is not fitted: call fit first")
        queries = _points(X, "X")
        if queries.shape[1] != self._dim:
            raise ValueError(f"X must have {self._dim} columns, got {queries.shape[1]}")
        kept = math.ceil(self.keep * self._count - 1e-9)
        if self._grid is not None:
            return self._by_grid(queries, kept)
        asked = np.ascontiguousarray(queries, dtype=np.float32)
        rows, gaps = np.empty((len(asked), self._count), np.int64), np.empty((len(asked), self._count))
        for m, (members, shard) in enumerate(self._shards or []):
            if isinstance(shard, VectorIndex):
                hits = shard.query(asked, 1)
                found, scores = hits.ids, hits.scores
            else:
                found, scores, _, _ = top_rows(shard, asked, 1, "l2")
            rows[:, m], gaps[:, m] = members[found[:, 0]], -scores[:, 0]
        order = np.argsort(gaps, axis=1, kind="stable")[:, :kept]
        return np.take_along_axis(rows, order, 1), np.take_along_axis(gaps, order, 1)

    def _by_grid(self, queries: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
        from resolvent.search.split_kernel import nearest_of_groups

        grid: Any = self._grid
        frame, shape = grid._frame

        def part(s: slice) -> tuple[np.ndarray, ...]:
            return nearest_of_groups(
                grid._points, self._group, self._count, grid._start, frame, shape, queries[s], kept
            )

        rows, gaps, _ = in_blocks(part, len(queries), self.workers)
        return grid._order[rows], gaps

    def _shard(self, points: np.ndarray) -> Any:
        if self.index is None:
            return Vectors.of(points)
        made = self.index()
        if not isinstance(made, VectorIndex) or made.metric != "l2":
            raise TypeError("index must make a VectorIndex with metric='l2'")
        return made.build(points)

    def _votes(self, rows: np.ndarray) -> np.ndarray:
        votes = np.zeros((len(rows), len(self.classes)), np.int64)
        np.add.at(votes, (np.arange(len(rows))[:, None], self._labels[rows]), 1)
        return votes


def choose_groups(
    X: Any,
    y: Any,
    keep: float = 1.0,
    task: str = "classify",
    *,
    sample: int = 500,
    generator: GeneratorLike = None,
) -> GroupChoice:
    """Choose the number of groups of a `SplitNearestNeighbor` by its error on left-out points.

    Parameters
    ----------
    X : (n, d) training points, n >= 4
    y : (n,) labels or responses; (n, t) for "regress"
    keep, task : as for `SplitNearestNeighbor`
    sample : how many of the points are left out, one at a time, to measure the error
    generator : of the split and the sample

    Returns
    -------
    GroupChoice

    Raises
    ------
    ValueError : shapes that do not fit, NaN, fewer than 4 points.

    Notes
    -----
    One pass: n/2 groups or fewer, a power of two, answer each left-out point. Half as many groups are exactly the same
    groups joined in pairs, and the answer of a pair is the nearer one of two; so all powers of two come from the one pass.
    sample * n distances.

    References
    ----------
    "One-Nearest-Neighbor Search is All You Need for Minimax Optimal Regression and Classification"

    Examples
    --------
    >>> x = np.random.default_rng(0).random((400, 1))
    >>> choose_groups(x, x[:, 0] > 0.5, generator=0).tried[:3]
    (128, 64, 32)
    """
    _check_rule(keep, task)
    points, responses = _training(X, y, task)
    n = len(points)
    if n < 4:
        raise ValueError(f"X must have at least 4 points, got {n}")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise ValueError(f"sample must be a positive integer, got {sample!r}")
    labels, _, _ = _coded(responses, task)
    g = as_generator(generator)
    order = torch.randperm(n, generator=g).numpy()
    left_out = torch.randperm(n, generator=g).numpy()[:sample]
    count = 1 << (max(n // 2, 2).bit_length() - 1)
    group = np.empty(n, np.int64)
    group[order] = np.arange(n) % count
    gaps, rows = _minima(points, group, count, left_out)
    tried, errors = [], []
    while count >= 1:
        kept = math.ceil(keep * count - 1e-9)
        nearest = np.argsort(gaps, axis=1, kind="stable")[:, :kept]
        error = _error(labels, np.take_along_axis(rows, nearest, 1), labels[left_out], task)
        tried.append(count)
        errors.append(float(error))
        # Two halves: groups m and m + count/2 become one.
        half = count // 2
        if half:
            first = gaps[:, :half] <= gaps[:, half:]
            gaps = np.where(first, gaps[:, :half], gaps[:, half:])
            rows = np.where(first, rows[:, :half], rows[:, half:])
        count = half
    return GroupChoice(tried[int(np.argmin(errors))], tuple(tried), tuple(errors))


def _minima(points: np.ndarray, group: np.ndarray, count: int, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance and position (b, count) of each group's nearest point that is not the left-out one itself."""
    # By group, so that a group's minimum is one over a stretch of columns.
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], np.arange(count))
    size = np.diff(first, append=len(order)).max()
    gaps, rows = np.empty((len(left_out), count)), np.empty((len(left_out), count), np.int64)
    # Groups as rows of one table; a group with one point less repeats its first.
    place = np.minimum(first[:, None] + np.arange(size), np.append(first[1:], len(order))[:, None] - 1)
    table = torch.from_numpy(order[place])
    x = torch.from_numpy(points)
    for j, i in enumerate(left_out):
        d = (x - x[i]).square_().sum(1)
        d[i] = torch.inf
        best = d[table].min(1)
        gaps[j], rows[j] = best.values.numpy(), table.gather(1, best.indices[:, None])[:, 0].numpy()
    return gaps, rows


def _error(labels: np.ndarray, rows: np.ndarray, truth: np.ndarray, task: str) -> Any:
    if task == "regress":
        return np.square(labels[rows].mean(1) - truth).mean()
    votes = np.zeros((len(rows), int(labels.max()) + 1), np.int64)
    np.add.at(votes, (np.arange(len(rows))[:, None], labels[rows]), 1)
    return (votes.argmax(1) != truth).mean()


def _check_rule(keep: float, task: str) -> None:
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep!r}")
    if task not in _TASKS:
        raise ValueError(f"task must be 'classify' or 'regress', got {task!r}")


def _points(X: Any, name: str) -> np.ndarray:
    t, _ = as_tensor(X, name)
    if t.ndim != 2 or t.shape[1] == 0 or t.is_complex():
        raise ValueError(f"{name} must be real of shape (n, d), got {t.dtype} of shape {tuple(t.shape)}")
    check_finite(t, name)
    return t.detach().to("cpu", torch.float64).numpy()


def _training(X: Any, y: Any, task: str) -> tuple[np.ndarray, Any]:
    points = _points(X, "X")
    responses = y if isinstance(y, torch.Tensor) else np.asarray(y)
    if len(points) == 0 or responses.ndim not in ((1,) if task == "classify" else (1, 2)):
        raise ValueError(f"y must have shape (n,), and n must be at least 1, got {tuple(responses.shape)}")
    if len(responses) != len(points):
        raise ValueError(f"y must have one entry for each of the {len(points)} points, got {len(responses)}")
    if task == "regress":
        check_finite(as_tensor(responses, "y")[0], "y")
    return points, responses


def _coded(y: Any, task: str) -> tuple[np.ndarray, bool, Any]:
    """Responses as float64, or labels as 0, 1, ...; whether y is a tensor; the classes in y's kind."""
    tensor = isinstance(y, torch.Tensor)
    values = y.detach().cpu().numpy() if tensor else y
    if task == "regress":
        return values.astype(np.float64), tensor, None
    classes, labels = np.unique(values, return_inverse=True)
    return labels, tensor, torch.from_numpy(classes).to(y) if tensor else classes


def _float_dtype(y: Any) -> Any:
    dtype = np.asarray(y).dtype
    return dtype if dtype.kind == "f" else np.float64
