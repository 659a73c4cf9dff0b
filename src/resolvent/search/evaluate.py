"""How good an answer is: recall against exact search, and ranking measures against judged relevance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from resolvent.search.hits import Hits

Judgements = Mapping[Any, float]


def recall_at_k(found: Any, true: Any, k: int | None = None) -> float:
    r"""Compute the mean share of the true neighbours that were found, :math:`|F_k\cap T_k|/|T_k|`.

    Parameters
    ----------
    found : (b, m) ids or `Hits`
    true : (b, k) ids or `Hits`, the exact answer; its padding (-1 with score -inf, or None) counts for nothing
    k : compare the first k, default all of `true`

    Returns
    -------
    float
        NaN-free: a query without any true neighbour counts as 1

    Examples
    --------
    >>> recall_at_k([[1, 2, 3]], [[3, 1, 7]])
    0.6666666666666666
    """
    k = None if k is None else _depth(k)
    got, want = _lists(found, "found"), _lists(true, "true")
    if len(got) != len(want):
        raise ValueError(f"found must have a row for each of the {len(want)} rows of true, got {len(got)}")
    shares = []
    for own, exact in zip(got, want, strict=True):
        wanted = set(exact[:k])
        shares.append(len(wanted & set(own[:k])) / len(wanted) if wanted else 1.0)
    return float(np.mean(shares)) if shares else 1.0


def ndcg(run: Any, qrels: Any, k: int = 10) -> float:
    r"""Compute the mean normalised discounted cumulative gain, :math:`\sum_{i\le k} g_i/\log_2(i+1)` over its best value.

    Parameters
    ----------
    run : {query: {document: score}} or {query: [document, ...]}, or rows of ids (`Hits`, an array, lists)
    qrels : {query: {document: gain}}; or, by row, a list of such gains or of sets of relevant ids
    k : ranks that count

    Returns
    -------
    float
        over the queries that have a relevant document; a query that the run lacks counts 0 (as in trec_eval, with the
        gain itself, not 2^gain - 1)

    Examples
    --------
    >>> round(ndcg({"q": ["a", "b"]}, {"q": {"b": 1}}), 4)
    0.6309
    """
    k = _depth(k)
    return _mean(run, qrels, lambda ranked, gains: _gain(ranked, gains, k))


def mrr(run: Any, qrels: Any, k: int = 10) -> float:
    """Compute the mean reciprocal rank of the first relevant document among the first k.

    Parameters
    ----------
    run, qrels : as for `ndcg`
    k : ranks that count

    Returns
    -------
    float

    Examples
    --------
    >>> mrr([[5, 3, 9]], [{9}])
    0.3333333333333333
    """
    k = _depth(k)
    return _mean(
        run,
        qrels,
        lambda ranked, gains: next((1 / (i + 1) for i, d in enumerate(ranked[:k]) if gains.get(d, 0) > 0), 0.0),
    )


def evaluate(
    run: Any, qrels: Any, measures: Sequence[str] = ("ndcg@10", "mrr@10", "map", "recall@100", "precision@10")
) -> dict[str, float]:
    """Compute several ranking measures at once.

    Parameters
    ----------
    run, qrels : as for `ndcg`
    measures : "ndcg@k", "mrr@k", "recall@k", "precision@k", "map" (over the whole list) or "map@k"

    Returns
    -------
    dict
        a value for each measure, the mean over the queries that have a relevant document

    Notes
    -----
    As in trec_eval: ties are not broken here (a run of scores is sorted by score, then by the order in which it is
    given), recall and precision count documents of positive gain, precision divides by k.

    Examples
    --------
    >>> evaluate([["a", "b"]], [{"b", "c"}], ("recall@2", "precision@2", "map"))
    {'recall@2': 0.5, 'precision@2': 0.5, 'map': 0.25}
    """
    return {measure: _mean(run, qrels, _measure(measure)) for measure in measures}


def _measure(measure: str) -> Any:
    name, _, cut = measure.partition("@")
    if (
        name not in ("ndcg", "mrr", "recall", "precision", "map")
        or (cut and not cut.isdigit())
        or (not cut and name != "map")
    ):
        raise ValueError(
            f"measures must be like 'ndcg@10', 'mrr@10', 'recall@100', 'precision@10' or 'map', got {measure!r}"
        )
    k = _depth(int(cut)) if cut else None

    def value(ranked: list[Any], gains: Judgements) -> float:
        relevant = sum(g > 0 for g in gains.values())
        hits = [gains.get(d, 0) > 0 for d in ranked[:k]]
        if name == "ndcg":
            return _gain(ranked, gains, k)
        if name == "mrr":
            return next((1 / (i + 1) for i, hit in enumerate(hits) if hit), 0.0)
        if name == "recall":
            return sum(hits) / relevant
        if name == "precision":
            return sum(hits) / (k or 1)
        seen = np.cumsum(hits)
        return float(sum(seen[i] / (i + 1) for i, hit in enumerate(hits) if hit)) / relevant

    return value


def _depth(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a positive integer, got {k!r}")
    return int(k)


def _gain(ranked: list[Any], gains: Judgements, k: int | None) -> float:
    best = sorted((g for g in gains.values() if g > 0), reverse=True)[:k]
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(best))
    return sum(max(gains.get(d, 0), 0) / math.log2(i + 2) for i, d in enumerate(ranked[:k])) / ideal


def _mean(run: Any, qrels: Any, value: Any) -> float:
    ranked, judged = _paired(run, qrels)
    for own in ranked:
        if len(set(own)) < len(own):
            twice = next(d for i, d in enumerate(own) if d in own[:i])
            raise ValueError(f"run must name a document once for each query, {twice!r} is there twice")
    values = [value(r, g) for r, g in zip(ranked, judged, strict=True) if any(x > 0 for x in g.values())]
    if not values:
        raise ValueError("qrels has no query with a relevant document")
    return float(np.mean(values))


def _paired(run: Any, qrels: Any) -> tuple[list[list[Any]], list[Judgements]]:
    """Ranked lists and gains, query by query."""
    if isinstance(qrels, Mapping):
        if not isinstance(run, Mapping):
            raise TypeError(
                "run must be a mapping of queries like qrels, or qrels a list with an entry for each row of run"
            )
        return [_ranked(run.get(q, [])) for q in qrels], [_gains(g) for g in qrels.values()]
    rows = _lists(run, "run")
    if len(rows) != len(qrels):
        raise ValueError(f"qrels must have an entry for each of the {len(rows)} rows of run, got {len(qrels)}")
    return rows, [_gains(g) for g in qrels]


def _ranked(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        if any(math.isnan(score) for score in found.values()):
            raise ValueError("run has a score that is NaN")
        return sorted(found, key=lambda d: -found[d])
    return _lists([found], "run")[0]


def _gains(given: Any) -> Judgements:
    if isinstance(given, Mapping):
        return given
    return dict.fromkeys(
        _lists([given], "qrels")[0] if isinstance(given, np.ndarray | torch.Tensor) else list(given), 1.0
    )


def _lists(ids: Any, name: str) -> list[list[Any]]:
    """Rows of ids as lists, without padding."""
    if isinstance(ids, Hits):
        # -1 is a legal id: of hits, the score tells what is padding.
        scores = np.atleast_2d(ids.scores.cpu().numpy() if isinstance(ids.scores, torch.Tensor) else ids.scores)
        rows = np.atleast_2d(ids.ids.cpu().numpy() if isinstance(ids.ids, torch.Tensor) else ids.ids).tolist()
        return [row[:n] for row, n in zip(rows, (scores > -np.inf).sum(1).tolist(), strict=True)]
    if isinstance(ids, torch.Tensor):
        ids = ids.cpu().numpy()
    if isinstance(ids, np.ndarray):
        if ids.ndim != 2:
            raise ValueError(f"{name} must have shape (b, k), got {ids.shape}")
        ids = ids.tolist()
    if any(isinstance(row, str) or not isinstance(row, Iterable) for row in ids):
        raise ValueError(f"{name} must be rows of ids, one for each query")
    return [[i for i in row if i is not None and i != -1] for row in ids]
