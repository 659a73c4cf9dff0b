"""Nearest neighbours among the rows whose label lies in an interval, by a tree of indexes over the sorted labels."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Self

import numpy as np
import torch

from resolvent.search.exact import merge, top_rows
from resolvent.search.hits import Found, Hits, Metric, as_hits
from resolvent.search.index import VectorIndex, as_queries
from resolvent.search.inverted_lists import positive
from resolvent.search.vectors import Vectors
from resolvent.search.window_nodes import Node, cover, nodes, smallest, smallest_window
from resolvent.search.window_rows import as_ends, as_labels, inside_window, nothing, put

STRATEGIES = ("auto", "scan", "tree", "postfilter", "super")
# What a settings text may name.
_INNER = {
    "HNSW": "hnsw",
    "IVF": "inverted_lists",
    "IVFPQ": "ivfpq",
    "RandomProjectionForest": "forest",
    "SimHash": "simhash",
}
# A node at most so many times as long as the range is asked for enough rows at once.
_BLOW_UP = 4
# Added rows are scanned until there are so many leaves of them.
_TAIL = 4


class WindowTree(VectorIndex):
    """Search among rows whose label lies in ``[low, high]``, fast for windows of any width.

    Parameters
    ----------
    x, labels : build at once, as `build` does
    branching : parts of a node of the tree
    leaf : stretches of at most so many rows are scanned; longer ones have an index
    inner : an unbuilt `VectorIndex` whose settings all nodes take; default HNSW
    strategy : "auto", or one of "scan", "tree", "postfilter" and "super" for all queries
    overlap : also index windows that begin at every half width, for "super"
    metric, dtype : as for every `VectorIndex`

    Notes
    -----
    Rows are kept once, in the order of their labels; a window is a stretch of that order, every node a view of one, and
    a node's index holds links alone. "tree": the O(B log_B n) largest nodes inside the window are asked for k rows each,
    the ends are scanned. "postfilter": the smallest node that contains the window is asked for k times (node / window)
    rows, then twice as many, until k of them are inside. "super": the same with the overlapping windows, of which one
    is less than 4 times as long as the range (if that is longer than a leaf). "auto": scan up to `leaf` rows, postfilter
    where node / window <= 4, else super, or tree without `overlap`. What would cost more than a scan becomes one, so
    that k rows are always found if there are k. Equal labels and open ends are legal.

    Memory about log2(n / leaf) times the inner links, twice that with `overlap`. Added rows are scanned until they
    number 4 leaves; then the tree is built anew.

    References
    ----------
    "Approximate Nearest Neighbor Search with Window Filters"

    Examples
    --------
    >>> from resolvent.search import IVF
    >>> x = np.random.default_rng(0).normal(size=(400, 8))
    >>> year = np.arange(400) // 4 + 1900
    >>> tree = WindowTree(x, year, leaf=50, inner=IVF())
    >>> hits = tree.query(x[:2], k=3, low=1950, high=1969)
    >>> bool(((year[hits.ids] >= 1950) & (year[hits.ids] <= 1969)).all()), hits.explain["strategies"]
    (True, {'postfilter': 2})
    """

    def __init__(
        self,
        x: Any = None,
        labels: Any = None,
        *,
        branching: int = 2,
        leaf: int = 1000,
        inner: VectorIndex | dict[str, Any] | None = None,
        strategy: str = "auto",
        overlap: bool = True,
        metric: Metric = "ip",
        dtype: str = "float32",
    ) -> None:
        super().__init__(metric, dtype)
        self.branching, self.leaf, self.overlap = (
            positive(branching, "branching"),
            positive(leaf, "leaf"),
            bool(overlap),
        )
        if branching < 2:
            raise ValueError(f"branching must be at least 2, got {branching}")
        self.strategy = _known(strategy)
        own = inner.settings() if isinstance(inner, VectorIndex) else dict(inner or {"kind": "HNSW"})
        if own.get("kind") not in _INNER:
            raise ValueError(f"inner must be one of {', '.join(_INNER)}, got {own.get('kind')!r}")
        self._inner = {**own, "metric": self.inner, "dtype": dtype}
        self._nodes: dict[tuple[int, int], VectorIndex] = {}
        self._labels, self._arrival = np.empty(0), np.empty(0, np.int64)
        self._sorted = 0
        if x is not None:
            self.build(x, labels)

    def build(self, x: Any, labels: Any = None, ids: Any = None) -> Self:  # type: ignore[override]
        """Index the rows of x (n, d) with a number each (n,); ids (n,) are int64 or strings, by default 0..n-1."""
        rows = self._rows(x, None)
        self._labels = as_labels(labels, len(rows))
        self._arrival = np.arange(len(rows))
        return super().build(rows, np.arange(len(rows)) if ids is None else ids)

    def add(self, x: Any, labels: Any = None, ids: Any = None) -> Self:  # type: ignore[override]
        """Index further rows with their labels; they are scanned until there are enough of them."""
        if self._vectors is None:
            return self.build(x, labels, ids)
        rows = self._rows(x, self._vectors.dim)
        new = as_labels(labels, len(rows))
        before = self._labels, self._arrival
        self._labels = np.concatenate([self._labels, new])
        self._arrival = np.concatenate([self._arrival, len(self._arrival) + np.arange(len(rows))])
        try:
            return super().add(rows, ids)
        except (ValueError, TypeError):
            if len(self._vectors) < len(self._labels):
                self._labels, self._arrival = before
            raise

    def compact(self) -> Self:
        """Build the tree anew over the rows that are left."""
        live = np.flatnonzero(self._dead == 0)
        self._labels, self._arrival = self._labels[live], np.argsort(np.argsort(self._arrival[live]))
        return super().compact()

    def query(
        self, q: Any, k: int = 10, *, low: Any = None, high: Any = None, allowed: Any = None, **options: Any
    ) -> Hits:
        """Find the k best rows whose label is in [low, high].

        Parameters
        ----------
        q : (d,) or (b, d), array or tensor
        k : hits per query; where fewer match, the rest has score -inf
        low, high : ends of the window, both included, one for all queries or (b,); None is open
        allowed : only these may be found: ids, or a bool per row in the order in which rows were added
        options : `strategy`, and the options of the inner index

        Returns
        -------
        Hits, whose `explain` counts the strategies taken
        """
        k = positive(k, "k")
        if self._vectors is None:
            raise ValueError("the index is empty and has no dimension yet: build it or add rows first")
        strategy = _known(options.pop("strategy", self.strategy))
        self._template()._check_options(options)
        queries = as_queries(q, self._vectors.dim, self.metric)
        ends = as_ends(low, high, self._labels.dtype == np.int64, len(queries))
        bitmap = self._bitmap(allowed)
        taken: dict[str, int] = {}
        found = self._windows(queries, k, ends, bitmap, strategy, options, taken)
        if self._sorted < len(self._labels):
            found = merge([found, self._tail(queries, k, ends, bitmap)], k)
        return as_hits(found, self._ids.take(found.rows), q, {"strategies": taken})

    def settings(self) -> dict[str, Any]:
        """How the index was made, as JSON: `restore` takes it."""
        own = {name: getattr(self, name) for name in ("branching", "leaf", "overlap", "strategy")}
        return {**super().settings(), **own, "inner": self._inner}

    # The structure.

    def _template(self) -> VectorIndex:
        """An empty index for a node."""
        own = {name: value for name, value in self._inner.items() if name != "kind"}
        module = importlib.import_module(f"resolvent.search.{_INNER[self._inner['kind']]}")
        made: VectorIndex = getattr(module, self._inner["kind"])(**own)
        return made

    def _view(self, begin: int, end: int) -> Vectors:
        """Rows begin..end-1, not copied."""
        if self._vectors is None:
            raise ValueError("the index is empty: build it first")
        return Vectors.from_arrays({name: part[begin:end] for name, part in self._vectors.arrays().items()}, self.dtype)

    def _build(self) -> None:
        vectors = self._vectors
        if vectors is None:
            return
        order = np.argsort(self._labels, kind="stable")
        if (order[1:] < order[:-1]).any():
            # `compact` has left no dead rows, so that every id is there once.
            self._vectors, self._ids, self._dead = vectors.keep(order), self._ids.keep(order), self._dead[order]
            self._labels, self._arrival = self._labels[order], self._arrival[order]
        self._sorted = len(order)
        self._nodes = {}
        for place in self._places():
            made = self._empty(place)
            made._build()
            self._nodes[place.scale, place.half] = made

    def _places(self) -> list[Node]:
        return nodes(self._sorted, self.branching, self.leaf, self.overlap) if self._sorted else []

    def _empty(self, place: Node) -> VectorIndex:
        made = self._template()
        made._vectors, made._dead = self._view(place.begin, place.end), np.zeros(place.size, np.uint8)
        made._ids.append(place.size)
        return made

    def _grow(self, first: int) -> None:
        if len(self._labels) - self._sorted > _TAIL * self.leaf or self._sorted == 0:
            self.compact()

    def _arrays(self) -> dict[str, np.ndarray]:
        own = {"labels": self._labels, "arrival": self._arrival, "sorted": np.array([self._sorted])}
        for place in self._places():
            parts = self._nodes[place.scale, place.half]._arrays()
            own |= {f"{place.name}.{name}": part for name, part in parts.items()}
        return own

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        n = len(self._dead)
        self._labels, self._arrival, self._sorted = arrays["labels"], arrays["arrival"], int(arrays["sorted"][0])
        if len(self._labels) != n or len(self._arrival) != n or not 0 <= self._sorted <= n:
            raise ValueError(f"labels and arrival must have {n} entries, got {len(self._labels)}, {len(self._arrival)}")
        if (self._labels[1 : self._sorted] < self._labels[: max(self._sorted - 1, 0)]).any():
            raise ValueError("labels must ascend")
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, part in arrays.items():
            place, _, own = name.partition(".")
            parts.setdefault(place, {})[own] = part
        self._nodes = {}
        for at in self._places():
            made = self._empty(at)
            made._restore(parts.get(at.name, {}))
            self._nodes[at.scale, at.half] = made

    # The search.

    def _bitmap(self, allowed: Any) -> np.ndarray | None:
        if isinstance(allowed, torch.Tensor):
            allowed = allowed.detach().cpu().numpy()
        if isinstance(allowed, np.ndarray) and allowed.dtype == bool and allowed.shape == self._arrival.shape:
            allowed = allowed[self._arrival]
        return super()._bitmap(allowed)

    def _search(self, q: np.ndarray, k: int, allowed: np.ndarray | None, **options: Any) -> Found:
        everything = as_ends(None, None, self._labels.dtype == np.int64, len(q))
        found = self._windows(q, k, everything, allowed, self.strategy, options, {})
        return merge([found, self._tail(q, k, everything, allowed)], k)

    def _windows(
        self,
        q: np.ndarray,
        k: int,
        ends: tuple[np.ndarray, np.ndarray],
        allowed: np.ndarray | None,
        strategy: str,
        options: dict[str, Any],
        taken: dict[str, int],
    ) -> Found:
        """The best rows of the sorted part for each query's own window."""
        labels = self._labels[: self._sorted]
        begin, end = np.searchsorted(labels, ends[0], "left"), np.searchsorted(labels, ends[1], "right")
        found = nothing(len(q), k)
        plans: dict[Any, list[int]] = {}
        ranges, which = np.unique(np.stack([begin, end], 1), axis=0, return_inverse=True)
        for i, (a, b) in enumerate(ranges.tolist()):
            if a < b:
                name, place = self._plan(a, b, strategy)
                mine = np.flatnonzero(which.ravel() == i).tolist()
                taken[name] = taken.get(name, 0) + len(mine)
                plans.setdefault((name, place or (a, b)), []).extend(mine)
        for (name, place), mine in plans.items():
            one = q[mine]
            if name == "scan":
                part = self._scan(one, k, place[0], place[1], allowed)
            elif name == "tree":
                part = self._tree(one, k, place[0], place[1], allowed, options)
            else:
                part = self._postfilter(one, k, place, begin[mine], end[mine], allowed, options)
            put(found, mine, part)
        return found

    def _plan(self, a: int, b: int, strategy: str) -> tuple[str, Node | None]:
        """How the ranks a..b-1 are searched, and by which node."""
        n, length = self._sorted, b - a
        if strategy == "scan" or length <= self.leaf or n <= self.leaf:
            return "scan", None
        if strategy == "tree":
            return "tree", None
        if strategy == "super" and not self.overlap:
            raise ValueError("strategy 'super' needs the windows that overlap=True builds")
        container = smallest(n, self.branching, self.leaf, a, b)
        tight = container is not None and container.size <= _BLOW_UP * length
        if strategy == "postfilter" or (strategy == "auto" and tight):
            return "postfilter", container
        if not self.overlap:
            return "tree", None
        return "super", smallest_window(n, self.leaf, a, b)

    def _scan(self, q: np.ndarray, k: int, a: int, b: int, allowed: np.ndarray | None) -> Found:
        found = top_rows(self._view(a, b), q, k, self.inner, None if allowed is None else allowed[a:b])
        return found._replace(rows=np.where(found.rows >= 0, found.rows + a, -1))

    def _ask(self, q: np.ndarray, k: int, place: Node, allowed: np.ndarray | None, options: dict[str, Any]) -> Found:
        mask = None if allowed is None else allowed[place.begin : place.end]
        found = self._nodes[place.scale, place.half]._search(
            q, k, None if mask is None or mask.all() else mask, **options
        )
        return found._replace(rows=np.where(found.rows >= 0, found.rows + place.begin, -1))

    def _tree(
        self, q: np.ndarray, k: int, a: int, b: int, allowed: np.ndarray | None, options: dict[str, Any]
    ) -> Found:
        inside, rest = cover(self._sorted, self.branching, self.leaf, a, b)
        parts = [self._ask(q, k, place, allowed, options) for place in inside]
        return merge(parts + [self._scan(q, k, x, y, allowed) for x, y in rest], k)

    def _postfilter(
        self,
        q: np.ndarray,
        k: int,
        place: Node,
        begin: np.ndarray,
        end: np.ndarray,
        allowed: np.ndarray | None,
        options: dict[str, Any],
    ) -> Found:
        """Ask for more and more rows of a node until k of them are in the window of each query."""
        found = nothing(len(q), k)
        length = end - begin
        # The node's share of the window says how many rows are likely to be enough.
        asked = k * np.exp2(np.ceil(np.log2(place.size / length))).astype(np.int64)
        beam = options.get("ef", self._beam(place))
        asked = np.maximum(asked, 0 if beam is None else beam)
        todo = np.arange(len(q))
        while len(todo):
            left = []
            for size in np.unique(asked[todo]):
                mine = todo[asked[todo] == size]
                if size >= place.size:
                    left.append(mine)
                    continue
                part = self._ask(q[mine], int(size), place, allowed, options)
                kept = inside_window(part, begin[mine], end[mine], k)
                put(found, mine, kept._replace(evaluations=kept.evaluations + found.evaluations[mine]))
                # Twice as many rows would cost about twice as much: rather a scan than more than that.
                few = (kept.rows >= 0).sum(1) < k
                scan = few & (2 * part.evaluations + part.scanned >= length[mine])
                asked[mine[few]] = np.where(scan[few], place.size, 2 * size)
                left.append(mine[few])
            todo = np.concatenate(left)
            last = todo[asked[todo] >= place.size]
            for a, b in {(int(begin[i]), int(end[i])) for i in last}:
                mine = last[(begin[last] == a) & (end[last] == b)]
                part = self._scan(q[mine], k, a, b, allowed)
                put(found, mine, part._replace(evaluations=part.evaluations + found.evaluations[mine]))
            todo = todo[asked[todo] < place.size]
        return found

    def _beam(self, place: Node) -> int:
        """Rows that a search of a graph has sorted anyway: asking for fewer saves nothing."""
        known = inspect.signature(self._nodes[place.scale, place.half]._search).parameters.get("ef")
        return known.default if known is not None and isinstance(known.default, int) else 0

    def _tail(self, q: np.ndarray, k: int, ends: tuple[np.ndarray, np.ndarray], allowed: np.ndarray | None) -> Found:
        """Scan the rows that are not in the tree yet."""
        found, first, n = nothing(len(q), k), self._sorted, len(self._labels)
        labels = self._labels[first:]
        ranges, which = np.unique(np.stack(ends, 1), axis=0, return_inverse=True)
        for i, (low, high) in enumerate(ranges):
            mine = np.flatnonzero(which.ravel() == i)
            inside = (labels >= low) & (labels <= high)
            if allowed is not None:
                inside &= allowed[first:] != 0
            mask = np.concatenate([np.zeros(first, np.uint8), inside.astype(np.uint8)])
            put(found, mine.tolist(), self._scan_tail(q[mine], k, mask, n))
        return found

    def _scan_tail(self, q: np.ndarray, k: int, mask: np.ndarray, n: int) -> Found:
        return self._scan(q, k, self._sorted, n, mask) if self._sorted < n else nothing(len(q), k)


def _known(strategy: str) -> str:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    return strategy
