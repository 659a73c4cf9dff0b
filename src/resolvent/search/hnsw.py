"""Hierarchical navigable small world graphs."""

from __future__ import annotations

import threading
from typing import Any, ClassVar, Literal, Self

import numpy as np

from resolvent.search.hits import Found, Hits, Metric, as_hits
from resolvent.search.hnsw_build import BuildRules, insert_rows, without_dead
from resolvent.search.hnsw_graph import HNSWGraph
from resolvent.search.hnsw_threads import Gate, thread_count
from resolvent.search.index import VectorIndex, as_queries
from resolvent.search.vectors import Vectors

# Largest norm over median norm up to which rows get a coordinate that makes their norms equal: measured, up to 1.3 it saves
# a third of the work at equal recall, from 1.5 on it loses recall, and at 3 most of it.
_EVEN_NORMS = 1.3
# Rows that are so many times longer than the 64th longest would be everybody's neighbour: they stay out of the graph.
_HEAVY, _HEAVY_ROWS = 2.0, 64
# Beyond this share of dead rows a new graph is cheaper than mending the old one, and better.
_REBUILD = 0.5


class HNSW(VectorIndex):
    r"""Hierarchical navigable small world graph: approximate search in about log n steps.

    Parameters
    ----------
    M : links of a new node in each layer (the ground layer has room for 2M); 2 to 512
    ef_construction : places of the walk that finds the neighbours of a new node
    metric : "ip", "cosine" or "l2"
    dtype : how rows are kept: "float32", "float16", "bfloat16" or "int8"
    heuristic : choose links by the paper's heuristic, which keeps clusters connected; False: the nearest
    extend_candidates, keep_pruned : the options of the heuristic in the paper
    first_stage : "int8": walks read 8-bit copies of the rows and the best are scored again with the rows; or None
    norms : for "ip": "raw" links by inner products, "augment" by distances after one more coordinate has made all norms
        equal, "auto" decides by the norms: "augment" where the largest is at most 1.3 times the median
    order : order of insertion, "lid-desc" or "lid-asc" (by local intrinsic dimension), "random", or None as given
    seed : of the levels and of a random order

    Notes
    -----
    Options of `query`: `ef` = 64 places of the walk (more: better and slower), `rerank` = rows scored again after an int8
    first stage, `threads` (default: as many as torch has, for at least 32 queries).
    A query costs about `ef` list reads and 10 to 20 `ef` scores, each a row from memory: latency is the limit, so rows are
    prefetched, and the queries of a batch are answered in an order in which neighbours find each other's rows in the cache.
    Upper layers are left with several nodes, not the paper's one, so that a walk does not come down in the wrong cluster.
    Insertion is in batches, each against the graph before it: the graph is the same for any number of threads.
    `allowed` and removed rows: `ef` counts places for rows that match, whatever their share. Up to 2000 + 50 `ef` matches
    are scanned, which is exact; where 30 % of the rows match, or more, an ordinary walk gets more places (a scan up to
    2000 + 20 `ef`); between the two the walk steps from match to match over blocked rows. A walk that finds too few
    doubles its places, then all matches are scanned. The recall of any other answer is not guaranteed: `exact_search`
    is there to measure it.
    Under "ip" a few rows that are much longer than all others are kept out of the graph and scored in every query.
    There are no gradients. Bytes per row: those of the vector, 8M for links and about 10 more.

    References
    ----------
    "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs"

    Examples
    --------
    >>> import numpy as np
    >>> from resolvent.search import HNSW
    >>> x = np.random.default_rng(0).normal(size=(1000, 16))
    >>> index = HNSW(metric="l2").build(x)
    >>> index.query(x[:3], k=2).ids[:, 0]
    array([0, 1, 2])
    """

    parameters: ClassVar[tuple[str, ...]] = (
        "M", "ef_construction", "heuristic", "extend_candidates", "keep_pruned", "first_stage", "norms", "order", "seed",
    )  # fmt: skip

    def __init__(
        self,
        M: int = 16,
        ef_construction: int = 200,
        metric: Metric = "ip",
        dtype: str = "float32",
        *,
        heuristic: bool = True,
        extend_candidates: bool = False,
        keep_pruned: bool = False,
        first_stage: Literal["int8"] | None = None,
        norms: Literal["auto", "raw", "augment"] = "auto",
        order: Literal["lid-desc", "lid-asc", "random"] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(metric, dtype)
        self.M = _whole("M", M, 2, 512)
        self.ef_construction = _whole("ef_construction", ef_construction, 1, 1 << 20)
        self.seed = _whole("seed", seed, 0, 2**63 - 1)
        for name, value, known in (
            ("first_stage", first_stage, ("int8", None)),
            ("norms", norms, ("auto", "raw", "augment")),
            ("order", order, ("lid-desc", "lid-asc", "random", None)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        self.heuristic, self.extend_candidates, self.keep_pruned = (
            bool(heuristic),
            bool(extend_candidates),
            bool(keep_pruned),
        )
        self.first_stage, self.norms, self.order = first_stage, norms, order
        self._graph = HNSWGraph(self.M, self.seed)
        self._codes: Vectors | None = None
        self._lifted = False
        self._heavy = np.empty(0, np.int64)
        # Was a row removed since? Looking at a byte of every row would take longer than a query.
        self._removed = False
        self._trusted = True
        self._gate, self._plan = Gate(), threading.local()
        self._free: list[tuple[np.ndarray, np.ndarray]] = []

    # Building.

    @property
    def _rules(self) -> BuildRules:
        return BuildRules(
            self.ef_construction, self.heuristic, self.keep_pruned, self.extend_candidates, self.inner == "l2"
        )

    def _build(self) -> None:
        vectors = self._stored()
        with self._gate.writing():
            self._graph, self._trusted = HNSWGraph(self.M, self.seed), True
            self._removed = bool(self._dead.any())
            self._codes = Vectors(vectors.dim, "int8") if self.first_stage else None
            self._encode(0)
            self._heavy = self._heavy_rows()
            self._lifted = self._wants_lift()
            order = self._insertion_order(vectors)
            insert_rows(self._graph, vectors, order[~np.isin(order, self._heavy)], self._lift(), self._rules)

    def _grow(self, first: int) -> None:
        vectors = self._stored()
        heavy = self._heavy_rows()
        if (self._lifted and not self._wants_lift()) or len(np.setdiff1d(heavy[heavy < first], self._heavy)):
            # The new rows change what long is: links made for the old norms would lose recall.
            self._build()
            return
        with self._gate.writing():
            self._check_links()
            self._encode(first)
            heavy = heavy[heavy >= first]
            order = np.setdiff1d(np.arange(first, len(vectors)), heavy)
            self._heavy = np.concatenate([self._heavy, heavy])
            insert_rows(self._graph, vectors, order, self._lift(), self._rules)

    def compact(self) -> Self:
        """Take the removed rows out: their neighbours are linked to each other by the heuristic, memory is freed."""
        vectors = self._vectors
        dead = int(np.count_nonzero(self._dead))
        if vectors is None or not dead:
            return self
        if dead > _REBUILD * len(vectors):
            return super().compact()
        with self._gate.writing():
            self._check_links()
            live = np.flatnonzero(self._dead == 0)
            graph = without_dead(self._graph, vectors, self._dead, self._heavy, self._lift(), self._rules)
            self._heavy = np.searchsorted(live, self._heavy[self._dead[self._heavy] == 0])
            self._ids, self._vectors = self._ids.keep(live), vectors.keep(live)
            self._codes = None if self._codes is None else self._codes.keep(live)
            self._dead, self._graph, self._removed = np.zeros(len(live), np.uint8), graph, False
        return self

    def _stored(self) -> Vectors:
        if self._vectors is None:
            raise ValueError("the index is empty: build it or add rows first")
        return self._vectors

    def _encode(self, first: int) -> None:
        if self._codes is None:
            return
        vectors = self._stored()
        for a in range(first, len(vectors), 1 << 16):
            self._codes.append(vectors.block(a, min(a + (1 << 16), len(vectors))))

    def _insertion_order(self, vectors: Vectors) -> np.ndarray:
        if self.order is None or len(vectors) < 3:
            return np.arange(len(vectors))
        from resolvent.search.ordering import insertion_order

        return np.asarray(insertion_order(vectors.block(0, len(vectors)).numpy(), by=self.order, generator=self.seed))

    def _heavy_rows(self) -> np.ndarray:
        square = self._stored().square
        if self.metric != "ip" or len(square) <= 2 * _HEAVY_ROWS:
            return np.empty(0, np.int64)
        usual = np.partition(square, -_HEAVY_ROWS)[-_HEAVY_ROWS]
        return np.flatnonzero(square > _HEAVY**2 * usual)

    def _wants_lift(self) -> bool:
        if self.metric != "ip" or self.norms != "auto":
            return self.metric == "ip" and self.norms == "augment"
        square = np.delete(self._stored().square, self._heavy_rows())
        return bool(len(square)) and float(square.max()) <= _EVEN_NORMS**2 * float(np.median(square))

    def _lift(self) -> np.ndarray | None:
        """sqrt(R^2 - |x|^2), with R the largest norm of today."""
        if not self._lifted:
            return None
        square = self._stored().square
        largest = np.delete(square, self._heavy).max(initial=0.0)
        return np.sqrt(np.maximum(largest - square, 0)).astype(np.float32)

    def _check_links(self) -> None:
        if not self._trusted:
            wrong = self._graph.faults()
            if wrong:
                raise ValueError(f"the graph is damaged: {'; '.join(wrong)}; build it again from the vectors")
            self._trusted = True

    # Searching.

    def query(self, q: Any, k: int = 10, *, allowed: Any = None, **options: Any) -> Hits:
        """Find the k best rows; see `VectorIndex.query` and the options in the Notes of the class."""
        from resolvent.search.hnsw_query import plain_queries

        k = _whole("k", k, 1, 2**31 - 1)
        if options:
            self._check_options(options)
        vectors = self._stored()
        queries = plain_queries(q, vectors.dim, self.metric)
        if queries is None:
            queries = as_queries(q, vectors.dim, self.metric)
        bitmap = None if allowed is None and not self._removed else self._bitmap(allowed)
        found = self._search(queries, k, bitmap, **options)
        links = {"l2": "distances", "cosine": "cosines"}.get(
            self.metric, "distances of even norms" if self._lifted else "raw products"
        )
        explain = {"method": "hnsw", "plan": self._plan.name, "links": links, "first_stage": self.first_stage}
        return as_hits(found, self._ids.take(found.rows), q, explain)

    def remove(self, ids: Any) -> int:
        """Remove rows by id and say how many; an id that is not there is a KeyError and nothing is removed."""
        # Before it happens: a query in another thread must not miss it.
        self._removed = True
        return super().remove(ids)

    def _search(  # type: ignore[override]
        self,
        q: np.ndarray,
        k: int,
        allowed: np.ndarray | None,
        ef: int = 64,
        rerank: int | None = None,
        threads: int | None = None,
    ) -> Found:
        ef = _whole("ef", ef, 1, 1 << 30)
        rerank = None if rerank is None else _whole("rerank", rerank, 1, 1 << 30)
        count = 1 if threads is None and len(q) < 32 else thread_count(threads)
        with self._gate.reading():
            self._check_links()
            n = self._graph.count
            if allowed is not None and len(allowed) != n:
                # Rows that were added since the filter was made are not among those it allows.
                allowed = np.concatenate([allowed, np.zeros(n, np.uint8)])[:n]
            from resolvent.search.hnsw_query import Walk

            walk = Walk(self, k, ef, rerank, allowed)
            found = walk(q, count)
            self._plan.name = walk.plan
        return found

    def _borrow(self) -> tuple[np.ndarray, np.ndarray]:
        """Marks of visited nodes that no other thread uses, for as many nodes as there is room for."""
        room = len(self._graph.base)
        while self._free:
            try:
                marks = self._free.pop()
            except IndexError:
                break
            if len(marks[0]) == room:
                return marks
        return np.zeros(room, np.uint8), np.zeros(1, np.int64)

    # Files.

    def _arrays(self) -> dict[str, np.ndarray]:
        parts = {**self._graph.arrays(), "lifted": np.array([self._lifted], np.uint8), "heavy": self._heavy}
        if self._codes is not None:
            parts |= {f"codes_{name}": part for name, part in self._codes.arrays().items()}
        return parts

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        vectors = self._stored()
        self._graph = HNSWGraph.restore(arrays, self.M, self.seed, len(vectors))
        self._lifted, self._trusted = bool(arrays["lifted"][0]), False
        self._removed = bool(self._dead.any())
        self._heavy = np.array(arrays["heavy"], np.int64)
        if len(self._heavy) and not 0 <= self._heavy.min() <= self._heavy.max() < len(vectors):
            raise ValueError(f"heavy must name rows below {len(vectors)}, got {self._heavy.tolist()}")
        if self.first_stage:
            codes = {name: arrays[f"codes_{name}"] for name in ("data", "square", "scale")}
            self._codes = Vectors.from_arrays(codes, "int8")
            if self._codes.data.shape != (len(vectors), vectors.dim):
                raise ValueError(
                    f"codes_data must have shape {(len(vectors), vectors.dim)}, got {self._codes.data.shape}"
                )


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ValueError(f"{name} must be an integer from {least} to {most}, got {value!r}")
    return int(value)
