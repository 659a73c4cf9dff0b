"""The families of approximate search (hash, tree, graph, quantization) under one protocol, and a choice among them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resolvent.random import GeneratorLike, as_generator
from resolvent.search.corpora import clustered_vectors
from resolvent.search.evaluate import recall_at_k
from resolvent.search.exact import exact_search
from resolvent.search.hits import Metric
from resolvent.search.index import METRICS, VectorIndex, as_rows

# An index to be built, and what is varied when it is asked.
Sweep = tuple[VectorIndex, str | None, Sequence[int]]

_FAMILIES = {
    "SimHash": "hash",
    "RandomProjectionForest": "tree",
    "HNSW": "graph",
    "IVF": "quantization",
    "IVFPQ": "quantization",
}


@dataclass(frozen=True)
class IndexPoint:
    """One index with one setting of its search, measured.

    Attributes
    ----------
    name : of the index, as in `indexes`
    family : "hash", "tree", "graph", "quantization" or "exact"
    settings : of the index, as `VectorIndex.settings` gives them
    options : of `query`
    recall : mean share of the k true neighbours found
    evaluations, scanned : means per query: full-precision distances; compressed codes or postings
    queries_per_second : of one call with all queries
    build_seconds : of the index
    bytes_per_vector : vectors and structure; for codes, what a search without the vectors needs
    pareto : no other point has at least this recall for fewer evaluations and codes read
    """

    name: str
    family: str
    settings: dict[str, Any]
    options: dict[str, Any]
    recall: float
    evaluations: float
    scanned: float
    queries_per_second: float
    build_seconds: float
    bytes_per_vector: float
    pareto: bool = False

    @property
    def work(self) -> float:
        """Evaluations, and codes read at a quarter of one."""
        return self.evaluations + self.scanned / 4


class Comparison(tuple[IndexPoint, ...]):
    """Points of `compare_indexes`; its text is a table.

    Examples
    --------
    >>> len(Comparison(()))
    0
    """

    def at(self, recall: float, family: str | None = None) -> IndexPoint | None:
        """The point of least work that reaches this recall, of one family or of all."""
        able = [p for p in self if p.recall >= recall and family in (None, p.family)]
        return min(able, key=lambda p: p.work) if able else None

    def pareto(self) -> Comparison:
        """The points that no other beats, by recall."""
        return Comparison(sorted((p for p in self if p.pareto), key=lambda p: p.recall))

    def __str__(self) -> str:
        lines = [
            "index                   family        recall  evaluations   scanned       q/s  build s  bytes/vector  options"
        ]
        for p in self:
            options = ", ".join(f"{name}={value}" for name, value in p.options.items())
            star = "*" if p.pareto else " "
            lines.append(
                f"{p.name:<22}{star} {p.family:<13} {p.recall:6.3f} {p.evaluations:12.0f} {p.scanned:9.0f} "
                f"{p.queries_per_second:9.0f} {p.build_seconds:8.2f} {p.bytes_per_vector:13.1f}  {options}"
            )
        return "\n".join(lines)


def compare_indexes(
    x: Any,
    q: Any,
    k: int = 10,
    indexes: Mapping[str, Sweep] | None = None,
    budget_s: float = 60.0,
    *,
    metric: Metric = "ip",
) -> Comparison:
    """Compare members of the families of approximate search on the user's own vectors and queries.

    Parameters
    ----------
    x : (n, d) rows
    q : (b, d) queries that are not rows
    k : hits per query
    indexes : ``{name: (unbuilt index, option of query, its values)}``; default: SimHash by probes, a
        random-projection forest by candidates, HNSW by ef, IVF and IVFPQ by probes
    budget_s : seconds after which nothing further is begun
    metric : "ip", "cosine" or "l2", of the default indexes and the exact answer

    Returns
    -------
    Comparison
        one `IndexPoint` for each index and value, and one for exact search, which is the first

    Raises
    ------
    ValueError : wrong shapes, NaN, k < 1, budget_s not positive, an index of another metric.

    Notes
    -----
    The same rows, queries and counting for all. Evaluations are full-precision distances, projections among them;
    compressed codes and entries of buckets are counted apart. Seconds are of this machine and this moment.

    References
    ----------
    "A Comprehensive Survey on Vector Database: Storage and Retrieval Technique, Challenge"

    Examples
    --------
    >>> from resolvent.search import SimHash
    >>> x, q = torch.randn(600, 8, generator=torch.manual_seed(0)), torch.randn(5, 8)
    >>> found = compare_indexes(x, q, indexes={"hash": (SimHash(6, 4), "probes", [8, 64])})
    >>> [(p.name, p.family) for p in found]
    [('exact', 'exact'), ('hash', 'hash'), ('hash', 'hash')]
    """
    if not budget_s > 0:
        raise ValueError(f"budget_s must be positive, got {budget_s!r}")
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    start = time.perf_counter()
    rows = as_rows(x, None, "ip").numpy()
    queries = torch.as_tensor(q).detach().reshape(-1, rows.shape[1]).numpy()
    true, seconds = _timed(lambda: exact_search(rows, queries, k, metric))
    points = [_point("exact", "exact", {}, {}, true, true, seconds, 0.0, 4.0 * rows.shape[1])]
    for name, (index, option, values) in (
        default_indexes(len(rows), rows.shape[1], metric) if indexes is None else indexes
    ).items():
        if index.metric != metric:
            raise ValueError(f"indexes[{name!r}] must have metric={metric!r}, got {index.metric!r}")
        if time.perf_counter() - start > budget_s:
            break
        _, build = _timed(lambda index=index: index.build(rows))  # type: ignore[misc]
        family, size = _FAMILIES.get(type(index).__name__, "other"), _bytes(index)
        for value in values if option is not None else [None]:
            if time.perf_counter() - start > budget_s:
                break
            options = {} if option is None else {option: value}
            if points[-1].name != name:
                # Kernels are compiled by the first call, which is not timed.
                index.query(queries[:1], k, **options)
            hits, seconds = _timed(lambda index=index, options=options: index.query(queries, k, **options))  # type: ignore[misc]
            points.append(_point(name, family, index.settings(), options, hits, true, seconds, build, size))
    return Comparison(_marked(points))


def recommend(
    data: Any,
    recall: float = 0.95,
    memory: float | None = None,
    *,
    q: Any = None,
    k: int = 10,
    metric: Metric = "ip",
    indexes: Mapping[str, Sweep] | None = None,
    budget_s: float = 60.0,
    generator: GeneratorLike = 0,
) -> IndexPoint:
    """Choose the index and the setting of least work that reach a recall, measured on queries that were held out.

    Parameters
    ----------
    data : (n, d) rows; or the pair (n, dim), for which `clustered_vectors` stand in
    recall : to reach, in (0, 1]
    memory : bytes per vector at most, or None
    q : (b, d) queries like those to come; None holds out up to 200 rows
    k, metric, indexes, budget_s : as for `compare_indexes`
    generator : of the rows that are held out

    Returns
    -------
    IndexPoint
        build it anew with ``type(index)(**settings)``

    Raises
    ------
    ValueError : nothing that was tried reaches the recall within the memory; the message says what comes nearest.

    References
    ----------
    "A Comprehensive Survey on Vector Database: Storage and Retrieval Technique, Challenge"

    Examples
    --------
    >>> from resolvent.search import SimHash
    >>> x = torch.randn(600, 8, generator=torch.manual_seed(0))
    >>> best = recommend(x, 0.9, indexes={"hash": (SimHash(6, 4), "probes", [8, 16, 32, 64, 128])})
    >>> best.recall >= 0.9
    True
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be in (0, 1], got {recall!r}")
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(v, int) for v in data):
        corpus = clustered_vectors(data[0], data[1], n_queries=200, generator=generator)
        rows, queries = corpus.x, corpus.queries if q is None else q
    else:
        rows, queries = as_rows(data, None, "ip"), q
        if queries is None:
            held = min(200, len(rows) // 5)
            if held < 1:
                raise ValueError(f"data must have at least 5 rows to hold one out, got {len(rows)}")
            order = torch.randperm(len(rows), generator=as_generator(generator))
            rows, queries = rows[order[held:]], rows[order[:held]]
    found = compare_indexes(rows, queries, k, indexes, budget_s, metric=metric)
    fits = [p for p in found if memory is None or p.bytes_per_vector <= memory]
    able = [p for p in fits if p.recall >= recall]
    if not able:
        best = max(fits, key=lambda p: p.recall, default=None)
        nearest = (
            "nothing fits into the memory" if best is None else f"{best.name} {best.options} has {best.recall:.3f}"
        )
        raise ValueError(f"recall {recall} is not reached: {nearest}")
    return min(able, key=lambda p: p.work)


def default_indexes(n: int, dim: int, metric: Metric) -> dict[str, Sweep]:
    """Make unbuilt members of every family, each with the option that trades work for recall.

    Parameters
    ----------
    n, dim : rows and their length
    metric : of all of them

    Returns
    -------
    ``{name: (index, option, values)}``, which `compare_indexes` takes

    Examples
    --------
    >>> sorted(default_indexes(1000, 16, "l2"))[-2:]
    ['RandomProjectionForest', 'SimHash']
    """
    bits = max(4, min(20, int(np.log2(max(n, 2))) - 1))
    made: dict[str, Sweep] = {
        "SimHash": (_make("simhash", "SimHash")(bits, 10, metric=metric), "probes", (10, 20, 40, 80, 160, 320, 640)),
        "RandomProjectionForest": (
            _make("forest", "RandomProjectionForest")(10, 32, metric=metric),
            "candidates",
            (50, 100, 200, 400, 800, 1600, 3200),
        ),
        "HNSW": (_make("hnsw", "HNSW")(metric=metric), "ef", (10, 16, 24, 32, 48, 64, 96, 128, 256)),
        "IVF": (_make("inverted_lists", "IVF")(metric=metric), "probes", (1, 2, 4, 8, 16, 32, 64)),
    }
    if n >= 1024:
        ivfpq, probes = _make("ivfpq", "IVFPQ"), (2, 4, 8, 16, 32, 64)
        made["IVFPQ"] = (ivfpq(metric=metric), "probes", probes)
        # Without exact scores at the end it needs no vectors, but longer codes.
        made["IVFPQ, codes only"] = (ivfpq(m=max(1, dim // 2), refine=0, metric=metric), "probes", probes)
    return made


def _make(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"resolvent.search.{module}"), name)


def _timed(call: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _bytes(index: VectorIndex) -> float:
    """Bytes per vector: of codes alone where a search needs nothing else."""
    own = sum(part.nbytes for part in index._arrays().values())
    codes_only = getattr(index, "refine", None) == 0
    rows = 0 if index._vectors is None or codes_only else index._vectors.nbytes
    return (own + rows) / max(len(index), 1)


def _point(
    name: str,
    family: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    hits: Any,
    true: Any,
    seconds: float,
    build: float,
    size: float,
) -> IndexPoint:
    evaluations, scanned = float(np.mean(hits.evaluations)), float(np.mean(hits.scanned))
    rate = len(hits.ids) / max(seconds, 1e-9)
    found = recall_at_k(hits, true)
    return IndexPoint(name, family, settings, options, found, evaluations, scanned, rate, build, size)


def _marked(points: list[IndexPoint]) -> list[IndexPoint]:
    def beaten(p: IndexPoint) -> bool:
        return any(
            o.recall >= p.recall and o.work <= p.work and (o.recall, -o.work) != (p.recall, -p.work) for o in points
        )

    return [IndexPoint(**{**p.__dict__, "pareto": not beaten(p)}) for p in points]
