"""How good the answers of an index on disk are: its search as planned against a full scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resolvent.random import GeneratorLike, as_generator
from resolvent.search.exact import checked_k
from resolvent.search.query import StoreHits, query


@dataclass(frozen=True)
class MeasuredRecall:
    """How much of the exact answer an index finds, and at what cost.

    Attributes
    ----------
    recall : share of the true k best that were found, mean over the queries
    worst : the same of the worst query
    evaluations, exact_evaluations : distances computed for a query, by the search as asked and by the scan
    queries, k : how much was measured
    """

    recall: float
    worst: float
    evaluations: float
    exact_evaluations: float
    queries: int
    k: int


def measure_recall(
    snapshot: Any,
    field: str | None = None,
    queries: Any = None,
    *,
    n_queries: int = 100,
    k: int = 10,
    generator: GeneratorLike = 0,
    **options: Any,
) -> MeasuredRecall:
    """Compare the search as it is planned with a full scan.

    Parameters
    ----------
    snapshot : a view of the index
    field : a dense field; default the only one
    queries : (b, d); default stored rows, none of which is counted among its own neighbours
    n_queries : how many rows are drawn where no queries are given
    k : hits per query
    generator : of the draw
    **options : of `query`: where, method, ef, probes, refine

    Returns
    -------
    MeasuredRecall

    Raises
    ------
    ValueError : no such dense field, or no row to compare.

    Notes
    -----
    Costs one scan of all rows a query. A hit counts as true if its score reaches the k-th best true one, so that ties
    are no misses.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from resolvent import search
    >>> with tempfile.TemporaryDirectory() as folder, search.create(f"{folder}/x", vectors={"v": search.Dense(4)}) as index:
    ...     _ = index.add(range(100), v=np.random.default_rng(0).normal(size=(100, 4)))
    ...     measure_recall(index.snapshot(), n_queries=10).recall
    1.0
    """
    dense = [name for name, kind in snapshot.schema.vectors.items() if type(kind).__name__ == "Dense"]
    if field is None and len(dense) == 1:
        field = dense[0]
    if field is None or field not in dense:
        raise ValueError(f"field must be one of the dense fields {', '.join(dense) or '(none)'}, got {field!r}")
    own = None
    if queries is None:
        own = _drawn(snapshot, field, checked_k(n_queries), generator)
        if not len(own):
            raise ValueError("the index has no row to be a query")
        queries = snapshot.take(field, own)
    if np.ndim(queries) == 1:
        raise ValueError("queries must have shape (b, d), got one row")
    asked = k if own is None else k + 1
    quick = query(snapshot, asked, **options, **{field: queries})
    exact = query(snapshot, asked, **{**options, "method": "exact"}, **{field: queries})
    shares = []
    for one in range(len(exact.rows)):
        true, seen = (_others(h, one, None if own is None else own[one], k) for h in (exact, quick))
        if len(true):
            slack = 1e-6 * max(1.0, abs(float(true[-1])))
            shares.append(min(1.0, float((seen >= true[-1] - slack).sum()) / len(true)))
    if not shares:
        raise ValueError("no query has a hit: there is nothing to compare")
    work, scan = (float(np.mean(np.asarray(h.evaluations))) for h in (quick, exact))
    return MeasuredRecall(float(np.mean(shares)), min(shares), work, scan, len(shares), k)


def _drawn(snapshot: Any, field: str, count: int, generator: GeneratorLike) -> np.ndarray:
    """Rows that have a vector in the field, drawn without repetition."""
    live = [part.rows[part.live != 0] for part in snapshot.parts(field)]
    rows = np.concatenate([np.empty(0, np.int64), *live])
    order = torch.randperm(len(rows), generator=as_generator(generator, "cpu")).numpy()
    return np.sort(rows[order[:count]])


def _others(hits: StoreHits, one: int, own: int | None, k: int) -> np.ndarray:
    """The scores of a query's hits, itself left out."""
    scores, rows = np.asarray(hits.scores)[one], hits.rows[one]
    return scores[(rows >= 0) & (rows != (-1 if own is None else own))][:k]
