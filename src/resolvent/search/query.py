"""Queries of an index on disk: filter, search of each field, fusion, cut-off, reranking."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from resolvent.errors import Damaged
from resolvent.search import hybrid
from resolvent.search.exact import checked_k
from resolvent.search.expressions import Expression
from resolvent.search.field_search import Ask, exact_scores, matching_rows, search_field
from resolvent.search.filters import Interval, compile, interval
from resolvent.search.hits import Found, Hits, as_hits
from resolvent.search.planner import METHODS

Method = Literal[
    "auto", "exact", "hnsw", "window", "ivf", "ivfpq", "simhash", "randomprojectionforest", "sparse", "fde"
]
# How many of each field's best are fused or scored anew: ten for each hit, at least this.
_CANDIDATES = 100


@dataclass(frozen=True)
class StoreHits(Hits):
    """Hits of an index on disk, which know the payload of what was found.

    Parameters
    ----------
    ids, scores, evaluations, scanned, explain : as `Hits`
    snapshot : the view of the index that was asked
    rows : rows of the hits in it, -1 after the end

    Notes
    -----
    `explain` holds: "matches" (rows that the filter lets through), "rows" (all), "exact" (is it the answer of a full
    scan?), "fields" (the plan of each field with its reasons), "cut" (hits below the cut-off), "reranked" (pairs).

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from resolvent import search
    >>> folder = tempfile.TemporaryDirectory()
    >>> index = search.create(f"{folder.name}/x", vectors={"v": search.Dense(2)}, payload={"name": str})
    >>> _ = index.add([1, 2], v=np.eye(2), payload={"name": ["x", "y"]})
    >>> hits = query(index.snapshot(), v=[0.0, 1.0], k=1)
    >>> hits.payload(), hits.explain["exact"]
    ([{'name': 'y'}], True)
    >>> index.close(); folder.cleanup()
    """

    snapshot: Any = dataclasses.field(default=None, repr=False, compare=False)
    rows: Any = dataclasses.field(default=None, repr=False, compare=False)

    def payload(self) -> list[Any]:
        """The payload of the hits in their order: a list of dicts, or one such list for each query."""
        rows = np.asarray(self.rows)
        true = rows >= 0
        columns = self.snapshot.payload(rows[true])
        records = iter([{name: values[i] for name, values in columns.items()} for i in range(int(true.sum()))])
        lists = [[next(records) for _ in range(int(count))] for count in np.atleast_2d(true).sum(1)]
        return lists[0] if rows.ndim == 1 else lists


def query(
    snapshot: Any,
    k: int = 10,
    *,
    where: Expression | None = None,
    method: Method = "auto",
    ef: int | None = None,
    probes: int | None = None,
    refine: int | None = None,
    candidates: int | None = None,
    fuse: str | float | Mapping[str, float] = "rrf",
    cutoff: Any = None,
    rerank: Callable[[int, np.ndarray], Any] | None = None,
    **fields: Any,
) -> StoreHits:
    """Find the best records of an index for one query or a batch.

    Parameters
    ----------
    snapshot : a view of the index
    k : hits per query; as many as match if they are fewer, the rest has id -1 (None) and score -inf
    where : only records that match, as ``(F.price < 20) & F.tags.contains("new")``
    method : "auto" chooses by cost; "exact" scans; the name of a structure uses it where it is built
    ef, probes, refine : how far a graph, or lists of vectors, look, and how many codes are scored anew
    candidates : how many of each field's best are fused or reranked; default k, and for those max(100, 10 k)
    fuse : for several fields: "rrf" by reciprocal ranks, {field: weight} by scaled exact scores, or for two fields a
        number: the score of the first plus so much of the second's
    cutoff : a number: no hit with a score below it; or an object with ``apply(hits, queries=...)`` like
        `RelevanceCutoff`, for one dense field
    rerank : ``rerank(number of the query, ids) -> scores``, larger is better, of the candidates
    **fields : the query of each field by name: (d,) or (b, d) for dense fields; a dict, a CSR matrix or an array for
        sparse ones; (t, d), a list of them or (b, t, d) for sets of vectors

    Returns
    -------
    StoreHits : ids, scores, `payload()` and `explain`; for a single query without the leading axis

    Raises
    ------
    ValueError : no field or one that the index has not, queries of different numbers, k < 1, wrong shapes, NaN, a
        filter on an undeclared field or with a value of another type.

    Notes
    -----
    The filter comes first, as SQL, so that filters cannot starve a search: k hits whenever k records match (of a sparse
    field: and share a term with the query). Small sets of matches are scanned, others searched through the structure,
    which looks further, and in the end scans, for queries that come back short. A number as `cutoff` is compared with
    the scores that are returned; an object with `apply` sees those of the search, before `rerank`.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from resolvent import search
    >>> from resolvent.search import F
    >>> folder = tempfile.TemporaryDirectory()
    >>> index = search.create(f"{folder.name}/x", vectors={"v": search.Dense(2)}, payload={"price": float})
    >>> _ = index.add(["a", "b", "c"], v=[[1, 0], [0.9, 0], [0, 1]], payload={"price": [30.0, 10.0, 20.0]})
    >>> query(index.snapshot(), v=[1.0, 0.0], k=3, where=F.price < 25).ids
    array(['b', 'c', None], dtype=object)
    >>> index.close(); folder.cleanup()
    """
    k = checked_k(k)
    for name, value in (("ef", ef), ("probes", probes), ("refine", refine), ("candidates", candidates)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if rerank is not None and not callable(rerank):
        raise TypeError(f"rerank must be callable as rerank(number, ids), got {type(rerank).__name__}")
    asks, like = _asks(snapshot, fields)
    matching, window = _matching(snapshot, where)
    wide = len(asks) > 1 or rerank is not None
    depth = max(k, candidates or (max(_CANDIDATES, 10 * k) if wide else k))
    # No list is longer than the index: k = 10^9 must not take memory for what cannot be there.
    most = max(1, snapshot.count if matching is None else len(matching))
    options = {
        "method": method,
        "ef": ef,
        "probes": probes,
        "refine": refine,
        "candidates": candidates,
        "window": window,
    }
    # Several indexes seen as one search their parts where these are.
    look = getattr(snapshot, "search_field", None) or functools.partial(search_field, snapshot)
    found, plans = {}, {}
    for name, ask in asks.items():
        found[name], plans[name] = look(name, ask, min(depth, most), matching, options)
    explain: dict[str, Any] = {
        "matches": most if matching is None and snapshot.count else 0 if matching is None else len(matching),
        "rows": snapshot.count,
        "exact": all(plan.exact for plan in plans.values()),
        "fields": {name: plan.explain() for name, plan in plans.items()},
    }
    best = _joined(snapshot, asks, found, fuse)
    hits = as_hits(best, best.rows, np.empty((len(best.rows), 1)), explain)
    if hasattr(cutoff, "apply"):
        hits = _applied(cutoff, hits, asks, fields)
    if rerank is not None:
        ids, scorer = _ids(snapshot, hits.ids), rerank
        numbers = [{row: i for row, i in zip(r, s, strict=True)} for r, s in zip(hits.ids, ids, strict=True)]
        hits = hybrid.rerank(hits, lambda one, rows: scorer(one, _picked(numbers[one], rows, ids.dtype)))
    if cutoff is not None and not hasattr(cutoff, "apply"):
        hits = _above(hits, cutoff)
    return _finished(snapshot, hits, k, like)


def _asks(snapshot: Any, fields: Mapping[str, Any]) -> tuple[dict[str, Ask], Any]:
    """The queries of each field, checked, and an array whose kind and axes the answer has."""
    known = snapshot.schema.vectors
    if not fields:
        raise ValueError(f"a query needs a vector for at least one field: {', '.join(known)}")
    asks, shapes, like = {}, {}, None
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"fields are {', '.join(known)}, got {name!r}")
        asks[name], single = _ask(known[name], value, name)
        shapes[name] = (asks[name].number, single)
        tensor = value if isinstance(value, torch.Tensor) else None
        if like is None:
            shape = (1,) if single else (asks[name].number, 1)
            like = np.empty(shape) if tensor is None else torch.empty(shape, device=tensor.device)
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {'one' if single else number}" for name, (number, single) in shapes.items())
        raise ValueError(f"all fields must have the same number of queries, got {listed}")
    return asks, like


def _ask(kind: Any, value: Any, name: str) -> tuple[Ask, bool]:
    word = type(kind).__name__
    if word == "Dense":
        from resolvent.search.index import as_queries

        queries = as_queries(value, kind.dim, kind.metric, name)
        return Ask(word, queries, len(queries)), np.ndim(value) == 1
    if word == "Sparse":
        return _sparse_ask(kind, value, name)
    from resolvent.search.index import as_rows
    from resolvent.search.ragged import as_sets

    sets = as_sets(value, name, dim=kind.dim)
    tokens = as_rows(sets.tokens, kind.dim, kind.metric, name)
    return Ask(word, sets._replace(tokens=tokens), len(sets.offsets) - 1), sets.single


def _sparse_ask(kind: Any, value: Any, name: str) -> tuple[Ask, bool]:
    import scipy.sparse

    from resolvent.search.field_arrays import encode, view

    single = isinstance(value, dict) or (not isinstance(value, list) and len(np.shape(value)) == 1)
    if isinstance(value, torch.Tensor):
        value = (value.to_dense() if value.layout != torch.strided else value).detach().cpu().numpy()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        dense = value if scipy.sparse.issparse(value) else np.atleast_2d(np.asarray(value))
        value = scipy.sparse.csr_matrix(dense.reshape(1, -1) if len(dense.shape) == 1 else dense)
    number = len(value) if isinstance(value, list) else value.shape[0]
    if not number:
        raise ValueError(f"{name} must hold at least one query")
    return Ask("Sparse", view(kind, encode(kind, value, number, name)), number), single


def _matching(snapshot: Any, where: Any) -> tuple[Any, Interval | None]:
    """The rows that match a filter (None: all), and the interval of a window column, if the filter is no more."""
    if where is None:
        return None, None
    if isinstance(where, tuple):
        return snapshot.rows(where), None
    payload = snapshot.schema.payload
    compiled, window = compile(where, payload), interval(where, payload)
    if window is None or window.field not in getattr(snapshot.schema, "window", ()):
        return snapshot.rows(compiled), None
    return matching_rows(snapshot, compiled), window


def _joined(snapshot: Any, asks: Mapping[str, Ask], found: Mapping[str, Found], fuse: Any) -> Found:
    """One list of rows for each query out of those of the fields."""
    runs = {name: Hits(*own) for name, own in found.items()}
    if isinstance(fuse, Mapping) and set(fuse) != set(runs):
        raise ValueError(f"fuse must name the fields that are asked, {', '.join(runs)}, got {', '.join(fuse)}")
    if not isinstance(fuse, Mapping) and fuse != "rrf" and not isinstance(fuse, int | float):
        raise ValueError(f"fuse must be 'rrf', a number or weights of the fields, got {fuse!r}")
    if len(runs) == 1:
        return next(iter(found.values()))
    if fuse == "rrf":
        mixed = hybrid.fuse(runs)
        return Found(mixed.ids, mixed.scores, mixed.evaluations, mixed.scanned)
    # Scores of several fields can be added only where they are known for all candidates.
    union = _union([own.rows for own in found.values()])
    rate = getattr(snapshot, "exact_scores", None) or functools.partial(exact_scores, snapshot)
    full = {}
    for name, own in found.items():
        scores = rate(name, asks[name], union)
        work = own.evaluations + (union >= 0).sum(1)
        full[name] = Hits(np.where(scores > -np.inf, union, -1), scores, work, own.scanned)
    if isinstance(fuse, Mapping):
        mixed = hybrid.fuse(full, weights=fuse, k=union.shape[1])
    else:
        first, *rest = full.values()
        if len(rest) != 1:
            raise ValueError(f"a number as fuse mixes two fields, got {len(full)}: give weights of the fields")
        mixed = hybrid.fuse(first, rest[0], float(fuse), k=union.shape[1])
    return Found(mixed.ids, mixed.scores, mixed.evaluations, mixed.scanned)


def _union(lists: list[np.ndarray]) -> np.ndarray:
    """The distinct rows of each query's lists (b, c), -1 at the end."""
    joined = -np.sort(-np.concatenate(lists, 1), axis=1)
    joined[:, 1:][joined[:, 1:] == joined[:, :-1]] = -1
    joined = -np.sort(-joined, axis=1)
    return np.ascontiguousarray(joined[:, : max(1, int((joined >= 0).sum(1).max(initial=0)))])


def _applied(cutoff: Any, hits: Hits, asks: Mapping[str, Ask], fields: Mapping[str, Any]) -> Hits:
    """A learned cut-off, which knows the query as the user gave it."""
    if len(asks) != 1 or next(iter(asks.values())).kind != "Dense":
        raise ValueError("a learned cut-off is for the query of one dense field")
    before = int(np.sum(hits.counts))
    given = next(iter(fields.values()))
    raw = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    made = cutoff.apply(hits, queries=np.atleast_2d(raw))
    return dataclasses.replace(made, explain={**hits.explain, **made.explain, "cut": before - int(np.sum(made.counts))})


def _above(hits: Hits, least: Any) -> Hits:
    if isinstance(least, bool) or not isinstance(least, int | float | np.number) or np.isnan(least):
        raise ValueError(f"cutoff must be a number or have a method apply, got {least!r}")
    keep = hits.scores >= least
    cut = int((~keep & (hits.scores > -np.inf)).sum())
    ids, scores = np.where(keep, hits.ids, -1), np.where(keep, hits.scores, -np.inf).astype(np.float32)
    return dataclasses.replace(hits, ids=ids, scores=scores, explain={**hits.explain, "cut": cut})


def _ids(snapshot: Any, rows: np.ndarray) -> np.ndarray:
    """The ids of rows; -1 or None where the row is -1."""
    true = rows >= 0
    try:
        known = snapshot.ids(rows[true])
    except KeyError as error:
        # Only live rows are found, so that it is the number of a row in a file that is wrong.
        raise Damaged(
            f"the files name records that the database has not ({error.args[0]}): verify() says which"
        ) from error
    texts = known.dtype.kind == "O"
    made = np.full(rows.shape, None if texts else -1, dtype=known.dtype)
    made[true] = known
    return made


def _picked(numbers: dict[int, Any], rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    made = np.empty(len(rows), dtype)
    made[:] = [numbers[row] for row in rows.tolist()]
    return made


def _finished(snapshot: Any, hits: Hits, k: int, like: Any) -> StoreHits:
    """Rows become ids, lists get the length k, and all the kind and the axes of the query."""
    b, width = hits.scores.shape
    kept = min(k, width)
    rows, scores = np.full((b, k), -1, np.int64), np.full((b, k), -np.inf, np.float32)
    scores[:, :kept] = hits.scores[:, :kept]
    rows[:, :kept] = np.where(hits.scores[:, :kept] > -np.inf, hits.ids[:, :kept], -1)
    fields: list[Any] = [_ids(snapshot, rows), scores, hits.evaluations, hits.scanned, rows]
    if np.ndim(like) == 1:
        fields = [f[0] for f in fields]
    if isinstance(like, torch.Tensor):
        texts = np.asarray(fields[0]).dtype.kind == "O"
        fields[:4] = [
            f if texts and i == 0 else torch.as_tensor(f, device=like.device) for i, f in enumerate(fields[:4])
        ]
    ids, scores, evaluations, scanned, rows = fields
    return StoreHits(ids, scores, evaluations, scanned, hits.explain, snapshot, rows)
