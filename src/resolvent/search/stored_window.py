"""A window tree over a part of an index on disk: its rows in the order of one payload column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from resolvent.search.hits import Found
from resolvent.search.index import _option_names
from resolvent.search.segment import Pieces
from resolvent.search.vectors import Vectors
from resolvent.search.window import WindowTree
from resolvent.search.window_rows import put

_NODES, _SHAPES, _VECTORS = "nodes.", "shapes.", "vectors."


class StoredWindow:
    """Rows of a part that have a value in a payload column, in its order, with a `WindowTree` over them.

    A file holds them once more in that order, so that every window is one stretch of it. Rows that were deleted before
    it was built, and those without a value, are in no window and not in it.

    Parameters
    ----------
    tree : built over the rows, sorted; its arrival numbers are the positions of the rows in the part
    by : the payload column

    Examples
    --------
    >>> from resolvent.search import IVF
    >>> rows = Vectors.of(np.eye(4), "float32")
    >>> tree = WindowTree(leaf=10, inner=IVF())
    >>> window = StoredWindow.build(tree, "price", rows, np.array([0, 2, 3]), np.array([9.0, 7.0, 8.0]))
    >>> window.matches(7.5, 9.0, None), window.search(np.ones((1, 4), np.float32), 2, 7.5, 8.5, None)[0].rows
    (2, array([[ 3, -1]]))
    """

    def __init__(self, tree: WindowTree, by: str) -> None:
        self.tree = tree
        self.by = by
        self._live: tuple[np.ndarray | None, np.ndarray | None] = (None, None)

    @classmethod
    def build(
        cls, tree: WindowTree, by: str, vectors: Vectors, positions: np.ndarray, labels: np.ndarray
    ) -> StoredWindow:
        """Fill an empty tree with the rows at `positions`, whose values are `labels` (int64 or float64)."""
        order = np.argsort(labels, kind="stable")
        _fill(tree, vectors.keep(positions[order]), positions[order], labels[order])
        tree._build()
        return cls(tree, by)

    def settings(self) -> dict[str, Any]:
        """How it was made, as JSON."""
        return {**self.tree.settings(), "by": self.by}

    def arrays(self) -> dict[str, np.ndarray | Pieces]:
        """Everything that `restore` needs: the arrays of all nodes that have one name lie behind each other in one."""
        tree = self.tree
        made: dict[str, np.ndarray | Pieces] = {"labels": tree._labels, "positions": tree._arrival}
        if tree._vectors is not None:
            made |= {f"{_VECTORS}{name}": part for name, part in tree._vectors.arrays().items()}
        each = [tree._nodes[place.scale, place.half]._arrays() for place in tree._places()]
        kinds = {(name, part.dtype, part.ndim) for own in each for name, part in own.items()}
        for name, dtype, ndim in sorted(kinds, key=str):
            own = [part[name] if _is(part.get(name), dtype, ndim) else None for part in each]
            key = f"{ndim}.{np.dtype(dtype).name}.{name}"
            made[f"{_NODES}{key}"] = _behind(own, dtype)
            shapes = [[0] * (ndim + 1) if part is None else [1, *part.shape] for part in own]
            made[f"{_SHAPES}{key}"] = np.array(shapes, np.int64)
        return made

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], rows: Vectors) -> StoredWindow:
        """The window of a file, over its mapped arrays; ValueError or KeyError if they do not fit a part with `rows`."""
        own = {name: value for name, value in settings.items() if name not in ("kind", "by")}
        tree, labels, positions = WindowTree(**own), arrays["labels"], arrays["positions"]
        vectors = Vectors.from_arrays(
            {name[len(_VECTORS) :]: part for name, part in arrays.items() if name.startswith(_VECTORS)}, tree.dtype
        )
        n = len(vectors)
        if vectors.dim != rows.dim or tree.dtype != rows.dtype or not n <= len(rows):
            raise ValueError(f"{n} vectors of {vectors.dim} {tree.dtype} are not among {len(rows)} of {rows.dim}")
        if labels.shape != (n,) or labels.dtype not in (np.int64, np.float64) or not (labels[1:] >= labels[:-1]).all():
            raise ValueError(f"labels must be {n} ascending numbers, got {labels.dtype} of shape {labels.shape}")
        if positions.shape != (n,) or positions.dtype != np.int64:
            raise ValueError(f"positions must be {n} integers, got {positions.dtype} of shape {positions.shape}")
        if n and not 0 <= int(positions.min()) <= int(positions.max()) < len(rows):
            raise ValueError(f"positions must be below {len(rows)}")
        _fill(tree, vectors, positions, labels)
        tree._sorted = n
        places = tree._places()
        parts = _by_node(arrays, len(places))
        for place, part in zip(places, parts, strict=True):
            node = tree._empty(place)
            node._restore(part)
            tree._nodes[place.scale, place.half] = node
        return cls(tree, str(settings["by"]))

    def __len__(self) -> int:
        return len(self.tree._labels)

    def matches(self, low: float, high: float, live: np.ndarray | None) -> int:
        """How many live rows of the part (one byte each; None: all live) have a value in [low, high]."""
        a, b = self._ranks(low, high)
        allowed = self._sorted_live(live)
        return b - a if allowed is None else int(np.count_nonzero(allowed[a:b]))

    def search(
        self,
        q: np.ndarray,
        k: int,
        low: float,
        high: float,
        live: np.ndarray | None,
        *,
        scan: bool = False,
        **given: Any,
    ) -> tuple[Found, list[str]]:
        """The best k live rows of the part with a value in [low, high] for each query, and the strategies taken.

        `scan` looks at all of them; of the `given` options those are taken that the nodes of the tree know.
        """
        tree, (a, b) = self.tree, self._ranks(low, high)
        allowed = self._sorted_live(live)
        known = _option_names(type(tree._template()))
        options = {name: value for name, value in given.items() if name in known and value is not None}
        ends = np.full(len(q), 0, tree._labels.dtype), np.full(len(q), 0, tree._labels.dtype)
        taken: dict[str, int] = {}
        if a < b:
            ends[0][:], ends[1][:] = tree._labels[a], tree._labels[b - 1]
        else:
            ends[0][:], ends[1][:] = 1, 0
        found = tree._windows(q, k, ends, allowed, "scan" if scan else tree.strategy, options, taken)
        most = min(k, self.matches(low, high, live))
        short = np.flatnonzero((found.rows >= 0).sum(1) < most)
        if short.size:
            rest = tree._scan(q[short], k, a, b, allowed)
            work = found.evaluations[short], found.scanned[short]
            put(found, short, rest._replace(evaluations=rest.evaluations + work[0], scanned=rest.scanned + work[1]))
        rows = np.full(found.rows.shape, -1, np.int64)
        rows[found.rows >= 0] = tree._arrival[found.rows[found.rows >= 0]]
        return found._replace(rows=rows), sorted(taken)

    def _ranks(self, low: float, high: float) -> tuple[int, int]:
        labels = self.tree._labels
        first, last = _end(low, labels.dtype, 1), _end(high, labels.dtype, -1)
        if first is None or last is None or first > last:
            return 0, 0
        return int(np.searchsorted(labels, first, "left")), int(np.searchsorted(labels, last, "right"))

    def _sorted_live(self, live: np.ndarray | None) -> np.ndarray | None:
        """`live` in the order of the values, made once for each generation that asks."""
        if live is None:
            return None
        known, own = self._live
        if known is not live:
            own = live[self.tree._arrival]
            own = None if own.all() else own
            self._live = (live, own)
        return own


def _fill(tree: WindowTree, vectors: Vectors, positions: np.ndarray, labels: np.ndarray) -> None:
    """Rows in the order of their labels become those of an empty tree."""
    tree._vectors, tree._labels, tree._arrival = vectors, labels, positions
    tree._dead = np.zeros(len(labels), np.uint8)
    tree._ids.append(len(labels))


def _is(part: np.ndarray | None, dtype: np.dtype, ndim: int) -> bool:
    return part is not None and part.dtype == dtype and part.ndim == ndim


def _behind(parts: list[np.ndarray | None], dtype: np.dtype) -> Pieces:
    """The entries of all arrays, read only while they are written."""
    there = [part for part in parts if part is not None]
    return Pieces((sum(part.size for part in there),), dtype, lambda: (part.reshape(-1) for part in there))


def _by_node(arrays: Mapping[str, np.ndarray], count: int) -> list[dict[str, np.ndarray]]:
    """The arrays of each node as views of those that hold all nodes."""
    made: list[dict[str, np.ndarray]] = [{} for _ in range(count)]
    for key, flat in arrays.items():
        if not key.startswith(_NODES):
            continue
        ndim, _, name = key[len(_NODES) :].split(".", 2)
        shapes = arrays[f"{_SHAPES}{key[len(_NODES) :]}"]
        if shapes.shape != (count, int(ndim) + 1) or shapes.dtype != np.int64 or (shapes < 0).any():
            raise ValueError(f"the shapes of {name!r} must be ({count}, {int(ndim) + 1}), got {shapes.shape}")
        at = 0
        for own, (there, *shape) in zip(made, shapes.tolist(), strict=True):
            if there:
                size = math.prod(shape)
                # A view of too few entries does not take the shape: that is the ValueError.
                own[name] = flat[at : at + size].reshape(shape)
                at += size
        if at != len(flat):
            raise ValueError(f"the arrays {name!r} have {at} entries in all, got {len(flat)}")
    return made


def _end(value: float, dtype: np.dtype, inward: int) -> Any:
    """The first value of a column from this end on, inwards (1: upwards, -1: downwards); None if there is none."""
    if value != value:
        return None
    if dtype == np.int64:
        limits = np.iinfo(np.int64)
        if value in (math.inf, -math.inf):
            # Open outwards, or nothing is left.
            open_end = value == -math.inf if inward > 0 else value == math.inf
            return np.int64(limits.min if inward > 0 else limits.max) if open_end else None
        whole = math.ceil(value) if inward > 0 else math.floor(value)
        if (inward > 0 and whole > limits.max) or (inward < 0 and whole < limits.min):
            return None
        return np.int64(min(max(whole, limits.min), limits.max))
    near = float(value)
    # An integer above 2**53 may have no float64 of its own; Python compares the two exactly.
    if (near < value) if inward > 0 else (near > value):
        near = math.nextafter(near, inward * math.inf)
    return np.float64(near)
