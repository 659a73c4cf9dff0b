"""Several answers to one query made one: fusion of runs by ranks or by scores, and reranking by a better score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from resolvent.search.hits import Hits

Runs = Sequence[Hits] | Mapping[str, Hits]


class _Pool(NamedTuple):
    """The distinct hits of all runs: one entry per query and id."""

    ids: np.ndarray  # of each entry
    query: np.ndarray  # of each entry
    lists: list[_List]
    queries: int


class _List(NamedTuple):
    """What one run found, each id once."""

    entry: np.ndarray
    query: np.ndarray
    score: np.ndarray
    rank: np.ndarray  # from 1


def fuse(
    dense: Hits | Runs,
    sparse: Hits | None = None,
    weight: float | None = None,
    *,
    weights: Mapping[str, float] | Sequence[float] | None = None,
    k: int | None = None,
    constant: float = 60.0,
) -> Hits:
    r"""One ranking out of several: by reciprocal ranks, by scaled scores, or dense plus weighted sparse scores.

    With neither weight, :math:`s(d) = \sum_r 1 / (c + \mathrm{rank}_r(d))` over the runs r that found d (ranks from 1).
    With `weight` :math:`\lambda`, :math:`s(d) = s_\mathrm{dense}(d) + \lambda\, s_\mathrm{sparse}(d)`. With `weights`,
    :math:`s(d) = \sum_r w_r (s_r(d) - \min s_r) / (\max s_r - \min s_r)`, extremes taken per query.

    Parameters
    ----------
    dense : hits of b queries, or all the runs as a sequence or a mapping by name (then `sparse` is None)
    sparse : hits of the same queries from another index, with the same kind of ids
    weight : lambda of the sparse scores, for two runs; choose it on held-out queries. 0 keeps the dense order
    weights : one weight per run, as a mapping by the runs' names or a sequence in their order
    k : length of the answer; default that of the longest run
    constant : c, at least 0; large values even out the ranks

    Returns
    -------
    Hits of the union, with the summed work of the runs. Equal scores are ordered by the best rank in any run, then by
    the order of the runs.

    Raises
    ------
    ValueError : runs of different numbers of queries, no run, weights that do not fit the runs, k < 1, constant < 0.
    TypeError : ids are integers in one run and strings in another.

    Notes
    -----
    A run that did not find an id counts with the smallest score of its list for that query under either weighting (a
    found document is not punished for a short list elsewhere), and with nothing under reciprocal ranks. A list whose
    scores are all equal scales to 1 for what it holds and 0 for the rest; an empty list counts nothing. An id twice in
    one list counts once, at its best rank. One sort of all hits, vectorised over queries. No gradient.

    References
    ----------
    "Sparse, Dense, and Attentional Representations for Text Retrieval"
    "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods"

    Examples
    --------
    >>> import numpy as np
    >>> def run(ids, scores):
    ...     return Hits(np.array(ids), np.array(scores, np.float32), np.int64(0), np.int64(0))
    >>> dense, sparse = run([7, 8, 9], [0.9, 0.8, 0.1]), run([9, 8], [5.0, 4.0])
    >>> fuse(dense, sparse).ids
    array([9, 8, 7])
    >>> fuse(dense, sparse, 0.1).scores.round(2)
    array([1.3, 1.2, 0.6], dtype=float32)
    >>> fuse({"text": dense, "words": sparse}, weights={"text": 1.0, "words": 0.2}, k=1).ids
    array([7])
    """
    names, runs = _runs(dense, sparse)
    factors = _factors(names, weights)
    if weight is not None:
        if weights is not None:
            raise ValueError("give weight (dense + weight * sparse) or weights (of scaled scores), not both")
        if len(runs) != 2:
            raise ValueError(f"weight mixes two runs, dense and sparse, got {len(runs)}: use weights")
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, got {weight}")
    if not (math.isfinite(constant) and constant >= 0):
        raise ValueError(f"constant must be a finite number of at least 0, got {constant}")
    tables = [_table(run) for run in runs]
    k = max(ids.shape[1] for ids, _ in tables) if k is None else _positive(k, "k")
    pool = _pool(tables)
    if weight is not None:
        total = _linear(pool, [1.0, float(weight)], scaled=False)
    elif factors is not None:
        total = _linear(pool, factors, scaled=True)
    else:
        total = np.zeros(len(pool.query))
        for run in pool.lists:
            total[run.entry] += 1.0 / (constant + run.rank)
    new_ids, new_scores = _ranked(pool, total, k)
    evaluations = sum(_host(run.evaluations) for run in runs)
    scanned = sum(_host(run.scanned) for run in runs)
    return _like(runs[0], new_ids, new_scores, evaluations, scanned, {"fused": len(runs)})


def rerank(
    hits: Hits,
    score: Callable[[Any, Any], Any],
    *,
    queries: Sequence[Any] | None = None,
    top: int | None = None,
    k: int | None = None,
) -> Hits:
    """The first hits of every query, ordered anew by a score that is too dear for all of them.

    Parameters
    ----------
    hits : of b queries, or of one
    score : ``score(query, ids) -> (m,)`` finite numbers, larger is better: called once per query that has hits, with
        the query and the (m,) ids of its first hits. A cross-encoder, a formula over the payload, exact distances
    queries : what `score` gets as its first argument; default the number of the query, 0..b-1
    top : how many hits of each query are scored; default all
    k : how many are kept; default as many as were scored

    Returns
    -------
    Hits with the new scores. What was not scored is left out: its old score is on another scale.

    Raises
    ------
    ValueError : `queries` has another length, top or k is below 1, or `score` returned another number of scores or NaN.

    Notes
    -----
    b calls of `score`; equal scores keep the order they came in. Calls are counted in ``explain["reranked"]``, one per
    pair.

    Examples
    --------
    >>> import numpy as np
    >>> from resolvent import search
    >>> x = np.random.default_rng(0).normal(size=(1000, 16))
    >>> x /= np.linalg.norm(x, axis=1, keepdims=True)
    >>> rough = search.exact_search(x[:, :8], x[:2, :8], k=20, metric="cosine")
    >>> fine = rerank(rough, lambda q, ids: x[ids] @ q, queries=x[:2], k=3)
    >>> fine.ids[:, 0], fine.explain["reranked"]
    (array([0, 1]), 40)
    """
    if not callable(score):
        raise TypeError(f"score must be callable as score(query, ids), got {type(score).__name__}")
    ids, scores = _table(hits)
    if queries is not None and len(queries) != len(ids):
        raise ValueError(f"queries must have one entry for each of the {len(ids)} queries, got {len(queries)}")
    top = ids.shape[1] if top is None else min(_positive(top, "top"), ids.shape[1])
    k = top if k is None else _positive(k, "k")
    new_ids, new_scores = _blank((len(ids), k), ids.dtype)
    pairs = 0
    for number in range(len(ids)):
        found = ids[number, :top][scores[number, :top] > -np.inf]
        if not len(found):
            continue
        values = np.asarray(_host(score(number if queries is None else queries[number], found)), np.float64)
        if values.shape != found.shape:
            raise ValueError(f"score must return {len(found)} numbers for {len(found)} ids, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(
                f"score must return finite numbers, got {values[~np.isfinite(values)][0]} in query {number}"
            )
        order = np.argsort(-values, kind="stable")[:k]
        new_ids[number, : len(order)] = found[order]
        new_scores[number, : len(order)] = values[order]
        pairs += len(found)
    explain = {**hits.explain, "reranked": pairs}
    return _like(hits, new_ids, new_scores, hits.evaluations, hits.scanned, explain)


def _runs(dense: Any, sparse: Any) -> tuple[list[str | int], list[Hits]]:
    """The runs and what each is called."""
    if isinstance(dense, Hits):
        pairs: list[tuple[str | int, Any]] = [("dense", dense)]
        if sparse is None:
            raise ValueError("fuse needs at least two runs, or a sequence or mapping of them")
        pairs.append(("sparse", sparse))
    elif isinstance(dense, Mapping) or (isinstance(dense, Sequence) and not isinstance(dense, str)):
        if sparse is not None:
            raise ValueError("sparse must be None when the runs are given as a sequence or a mapping")
        pairs = list(dense.items()) if isinstance(dense, Mapping) else list(enumerate(dense))
    else:
        raise TypeError(f"dense must be Hits, or a sequence or mapping of Hits, got {type(dense).__name__}")
    if not pairs:
        raise ValueError("fuse needs at least one run, got none")
    for name, run in pairs:
        if not isinstance(run, Hits):
            raise TypeError(f"run {name!r} must be Hits, got {type(run).__name__}")
    shapes = [np.shape(run.ids)[:-1] for _, run in pairs]
    if len(set(shapes)) > 1:
        raise ValueError(f"runs must answer the same queries, got {', '.join(str(s) for s in shapes)} of them")
    texts = {_host(run.ids).dtype == object for _, run in pairs}
    if len(texts) > 1:
        raise TypeError("runs must have one kind of ids, got integers and strings")
    return [name for name, _ in pairs], [run for _, run in pairs]


def _factors(names: list[str | int], weights: Any) -> list[float] | None:
    """One finite weight a run, in the order of the runs."""
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        if set(weights) != set(names):
            raise ValueError(f"weights must name the runs {names}, got {list(weights)}")
        values = [float(weights[name]) for name in names]
    else:
        values = [float(w) for w in weights]
    if len(values) != len(names):
        raise ValueError(f"weights must have one entry for each of the {len(names)} runs, got {len(values)}")
    if not all(math.isfinite(w) for w in values):
        raise ValueError(f"weights must be finite, got {values}")
    return values


def _positive(number: Any, name: str) -> int:
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {number!r}")
    return int(number)


def _host(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def _table(hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores with a leading axis of queries."""
    return np.atleast_2d(_host(hits.ids)), np.atleast_2d(_host(hits.scores))


def _blank(shape: tuple[int, int], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    texts = dtype.kind == "O"
    ids = np.full(shape, None if texts else -1, dtype=dtype if texts else np.int64)
    return ids, np.full(shape, -np.inf, np.float32)


def _pool(tables: list[tuple[np.ndarray, np.ndarray]]) -> _Pool:
    """Group the hits of all runs by query and id; where a list has an id twice, the first counts."""
    true = [scores > -np.inf for _, scores in tables]
    joined = np.concatenate([ids[t] for (ids, _), t in zip(tables, true, strict=True)])
    queries = np.concatenate([np.nonzero(t)[0] for t in true])
    if joined.dtype == object:
        numbers: dict[str, int] = {}
        code = np.array([numbers.setdefault(i, len(numbers)) for i in joined.tolist()], np.int64)
    else:
        code = np.unique(joined, return_inverse=True)[1].reshape(-1)
    _, where, group = np.unique(queries * (len(joined) + 1) + code, return_index=True, return_inverse=True)
    ends = np.cumsum([int(t.sum()) for t in true])
    groups = np.split(group.reshape(-1), ends[:-1])
    lists = [_list(g, scores) for g, (_, scores) in zip(groups, tables, strict=True)]
    return _Pool(joined[where], queries[where], lists, len(tables[0][0]))


def _list(group: np.ndarray, scores: np.ndarray) -> _List:
    query, column = np.nonzero(scores > -np.inf)
    entry, first = np.unique(group, return_index=True)
    # Behind the second place of an id that stands twice in a list, the ranks close up.
    keep = np.zeros(len(query), bool)
    keep[first] = True
    before = np.append(0, np.cumsum(keep))
    rank = before[1:] - before[np.searchsorted(query, query)]
    return _List(entry, query[first], scores[query[first], column[first]].astype(np.float64), rank[first])


def _linear(pool: _Pool, weights: list[float], *, scaled: bool) -> np.ndarray:
    total = np.zeros(len(pool.query))
    for run, weight in zip(pool.lists, weights, strict=True):
        value = run.score
        low, high = np.full(pool.queries, np.inf), np.full(pool.queries, -np.inf)
        np.minimum.at(low, run.query, value)
        np.maximum.at(high, run.query, value)
        found = high > -np.inf
        if scaled:
            spread = np.where(found, high, 1.0) - np.where(found, low, 0.0)
            flat = spread == 0
            spread[flat] = 1.0
            value = np.where(flat[run.query], 1.0, (value - low[run.query]) / spread[run.query])
        filled = np.where(found & (not scaled), low, 0.0)[pool.query]
        filled[run.entry] = value
        total += weight * filled
    return total


def _ranked(pool: _Pool, total: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best entries of each query."""
    best = np.full(len(total), np.iinfo(np.int64).max)
    for number, run in enumerate(pool.lists):
        best[run.entry] = np.minimum(best[run.entry], run.rank * len(pool.lists) + number)
    order = np.lexsort((best, -total, pool.query))
    query = pool.query[order]
    place = np.arange(len(order)) - np.searchsorted(query, query)
    kept = place < k
    ids, scores = _blank((pool.queries, k), pool.ids.dtype)
    ids[query[kept], place[kept]] = pool.ids[order[kept]]
    scores[query[kept], place[kept]] = total[order[kept]]
    return ids, scores


def _like(model: Hits, ids: Any, scores: Any, evaluations: Any, scanned: Any, explain: dict[str, Any]) -> Hits:
    """Hits of the kind, device and batch shape of `model`."""
    if np.ndim(model.scores) == 1:
        ids, scores = ids[0], scores[0]
    if isinstance(model.scores, torch.Tensor):
        device = model.scores.device
        ids = ids if ids.dtype.kind == "O" else torch.as_tensor(ids, device=device)
        scores, evaluations, scanned = (torch.as_tensor(f, device=device) for f in (scores, evaluations, scanned))
    return Hits(ids, scores, evaluations, scanned, explain)
