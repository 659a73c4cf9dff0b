"""The search of one field of a snapshot: part by part, each by its plan, merged into the best rows of all."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from resolvent.search.exact import merge, top_rows
from resolvent.search.hits import Found, uncounted
from resolvent.search.planner import Plan, Step, plan_part
from resolvent.search.structures import window_name

# Rows that match are copied together for a scan if they are less than this part of all, and at most so many bytes.
_SPARSE_SHARE, _COPIED = 0.25, 1 << 28
# Entries of a block of scores of a sparse or multi-vector scan.
_BLOCK = 1 << 22
# Sparse queries become dense up to so many entries: then the rows are read once and nothing is copied.
_DENSE = 1 << 26


class Ask(NamedTuple):
    """The queries of one field in the form in which it is searched.

    Attributes
    ----------
    kind : "Dense", "Sparse" or "MultiVector"
    queries : (b, d) float32, CSR (b, size), or `Sets` of b token sets
    number : b
    """

    kind: str
    queries: Any
    number: int


class Matching:
    """Rows that match a filter: counted at once, listed when somebody needs the list."""

    def __init__(self, snapshot: Any, where: tuple[str, Any]) -> None:
        self._snapshot, self._where = snapshot, where

    def __len__(self) -> int:
        count: int = self._snapshot.count_rows(self._where)
        return count

    @cached_property
    def rows(self) -> np.ndarray:
        found: np.ndarray = self._snapshot.rows(self._where)
        return found


def matching_rows(snapshot: Any, where: tuple[str, Any]) -> Any:
    """The rows that match a compiled filter, listed only when they are needed where the snapshot can count them."""
    return Matching(snapshot, where) if hasattr(snapshot, "count_rows") else snapshot.rows(where)


def search_field(
    snapshot: Any, field: str, ask: Ask, k: int, matching: np.ndarray | Matching | None, options: dict[str, Any]
) -> tuple[Found, Plan]:
    """The best k rows of a field for each query, among `matching` (sorted rows of the index; None: all).

    `options` has method, ef, probes and refine, each possibly None, and `window`: the interval of a window column that
    `matching` is.
    """
    ef = max(k, options.get("ef") or max(64, 2 * k))
    found, steps = [], []
    for part in snapshot.parts(field):
        window = _window(part, ask, options)
        if window is None:
            allowed, count = _allowed(part, matching)
        else:
            allowed, count = None, window.matches()
        step = plan_part(
            getattr(part, "name", "part"),
            ask.kind,
            len(part.rows),
            count,
            part.structures,
            method=options.get("method") or "auto",
            window="" if window is None else window.index.by,
            k=k,
            ef=ef,
            queries=ask.number,
        )
        most = min(k, max(count, 1))
        own: Found | None
        if window is not None and step.method != "none":
            own, step = window.search(ask.queries, most, step, {**options, "ef": ef})
        else:
            own, step = _search_part(part, ask, most, allowed, count, step, {**options, "ef": ef})
        steps.append(step)
        if own is not None:
            found.append(own._replace(rows=np.where(own.rows >= 0, part.rows[own.rows], -1)))
    if not found:
        return _nothing(ask.number, k), Plan(field, tuple(steps))
    return merge(found, k), Plan(field, tuple(steps))


def exact_scores(snapshot: Any, field: str, ask: Ask, rows: np.ndarray) -> np.ndarray:
    """The scores (b, c) of given rows of the index for each query, -inf where the row is -1 or has no vector here."""
    scores = np.full(rows.shape, -np.inf, np.float32)
    for part in snapshot.parts(field):
        if not len(part.rows):
            continue
        at = np.minimum(np.searchsorted(part.rows, rows), len(part.rows) - 1)
        here = (rows >= 0) & (part.rows[at] == rows)
        for query in np.flatnonzero(here.any(1)):
            positions = at[query, here[query]]
            scores[query, here[query]] = _scores(part, ask, int(query), positions)
    return scores


class _Window(NamedTuple):
    """The window tree of a part, and the interval that is asked of it."""

    index: Any
    low: float
    high: float
    live: np.ndarray | None

    def matches(self) -> int:
        count: int = self.index.matches(self.low, self.high, self.live)
        return count

    def search(self, q: np.ndarray, k: int, step: Step, options: dict[str, Any]) -> tuple[Found, Step]:
        given = {name: options.get(name) for name in ("ef", "probes", "refine")}
        scan = step.method == "scan"
        found, taken = self.index.search(q, k, self.low, self.high, self.live, scan=scan, **given)
        if scan:
            return found, step
        exact = taken == ["scan"]
        reason = f"{step.reason}; {'a short window is scanned' if exact else ', '.join(taken)}"
        return found, dataclasses.replace(step, method="scan" if exact else "window", reason=reason)


def _window(part: Any, ask: Ask, options: dict[str, Any]) -> _Window | None:
    """The window tree by which a part is searched, if the filter is an interval of its column."""
    asked = options.get("window")
    if asked is None or ask.kind != "Dense" or (options.get("method") or "auto") not in ("auto", "window"):
        return None
    name = window_name(asked.field)
    if name not in part.structures:
        return None
    dead = len(part.dead_positions) > 0
    return _Window(part.structures[name], asked.low, asked.high, part.live if dead else None)


def _allowed(part: Any, matching: np.ndarray | Matching | None) -> tuple[np.ndarray | None, int]:
    """One byte for each row of the part (None: all may be found), and how many may be."""
    live = part.live
    if matching is None:
        count = int(np.count_nonzero(live))
        return (None if count == len(live) else live), count
    if isinstance(matching, Matching):
        matching = matching.rows
    allowed = np.zeros(len(part.rows), np.uint8)
    first, last = np.searchsorted(matching, [part.rows[0], part.rows[-1] + 1]) if len(part.rows) else (0, 0)
    own = matching[first:last]
    at = np.searchsorted(part.rows, own)
    allowed[at[part.rows[at] == own]] = 1
    allowed &= live
    return allowed, int(np.count_nonzero(allowed))


def _search_part(
    part: Any, ask: Ask, k: int, allowed: np.ndarray | None, matches: int, step: Step, options: dict[str, Any]
) -> tuple[Found | None, Step]:
    if step.method == "none":
        return None, step
    if step.method == "scan":
        return _scan(part, ask, k, allowed, matches), step
    index = part.structures[step.method]
    if ask.kind == "Sparse":
        if (ask.queries.data < 0).any():
            # Postings bound scores from above, which needs weights of one sign.
            reason = "the query has negative weights"
            return _scan(part, ask, k, allowed, matches), Step(step.part, step.rows, step.matches, "scan", "", reason)
        asked = ask.queries.copy()
        asked.resize((asked.shape[0], index.dim))
        with uncounted():
            hits = index.query(asked, k, allowed=None if allowed is None else allowed.view(bool))
        return _as_found(hits), step
    if ask.kind == "MultiVector":
        sets = ask.queries
        mask = None if allowed is None else allowed.view(bool)
        with uncounted():
            hits = index.query(
                (sets.tokens.numpy(), sets.offsets), k, allowed=mask, candidates=options.get("candidates")
            )
        found = _as_found(hits)
        short = (found.rows >= 0).sum(1) < k
        return (_scan(part, ask, k, allowed, matches) if short.any() else found), step
    return _walk(part, index, ask.queries, k, allowed, matches, step, options)


def _walk(
    part: Any,
    index: Any,
    q: np.ndarray,
    k: int,
    allowed: np.ndarray | None,
    matches: int,
    step: Step,
    options: dict[str, Any],
) -> tuple[Found, Step]:
    """Search a structure; a query that found fewer hits than match looks further, and scans when that costs less."""
    given = {name: options[name] for name in ("refine",) if options.get(name) is not None}
    grow, size = step.grow, options.get(step.grow) if step.grow else None
    found = index._search(q, k, allowed, **given, **({grow: size} if size is not None else {}))
    spent = found.evaluations + found.scanned
    while (short := np.flatnonzero((found.rows >= 0).sum(1) < k)).size:
        # Twice as far costs at least twice as much.
        size = 0 if not grow else 2 * (size or 16)
        scan = not grow or size >= 2 * len(part.rows) or int((3 * spent[short]).min()) >= matches
        if scan:
            own = _dense(part, q[short], k, allowed, matches)
            step = _changed(step, f"{len(short)} queries found fewer than {k} of {matches} matches: scanned")
        else:
            own = index._search(q[short], k, allowed, **given, **{grow: size})
        for mine, new in zip(found, own, strict=True):
            mine[short] = mine[short] + new if mine.ndim == 1 else new
        spent[short] += own.evaluations + own.scanned
        if scan:
            break
    return found, step


def _changed(step: Step, reason: str) -> Step:
    return Step(step.part, step.rows, step.matches, step.method, step.grow, f"{step.reason}; {reason}")


def _scan(part: Any, ask: Ask, k: int, allowed: np.ndarray | None, matches: int) -> Found:
    if ask.kind == "Dense":
        return _dense(part, ask.queries, k, allowed, matches)
    positions = np.arange(len(part.rows)) if allowed is None else np.flatnonzero(allowed)
    return _sparse(part, ask.queries, k, positions) if ask.kind == "Sparse" else _sets(part, ask, k, positions)


def _dense(part: Any, q: np.ndarray, k: int, allowed: np.ndarray | None, matches: int) -> Found:
    vectors = part.vectors
    few = matches < _SPARSE_SHARE * len(vectors) and matches * vectors.dim * 4 <= _COPIED
    if allowed is not None and few:
        return top_rows(vectors, q, k, part.metric, rows=np.flatnonzero(allowed))
    return top_rows(vectors, q, k, part.metric, allowed)


def _sparse(part: Any, queries: Any, k: int, positions: np.ndarray) -> Found:
    """Products of the rows with all queries; a hit shares a term with its query."""
    import scipy.sparse

    matrix = part.vectors
    width = max(matrix.shape[1], queries.shape[1])
    rows = scipy.sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], width))
    asked = queries.copy()
    asked.resize((queries.shape[0], width))
    step = max(1, _BLOCK // max(1, asked.shape[0]))
    found = []
    for first in range(0, len(positions), step):
        own = positions[first : first + step]
        dense = own[-1] - own[0] == len(own) - 1
        scores = _products(asked, rows[own[0] : own[-1] + 1] if dense else rows[own])
        found.append(_best(np.where(scores == 0, -np.inf, scores), own, k))
    scanned = np.full(asked.shape[0], int(np.diff(matrix.indptr)[positions].sum()))
    return merge(found, k)._replace(scanned=scanned, evaluations=np.zeros(asked.shape[0], np.int64))


def _products(asked: Any, rows: Any) -> np.ndarray:
    """All inner products (b, m) of sparse queries and rows."""
    if asked.shape[0] * asked.shape[1] <= _DENSE:
        return (rows @ asked.toarray().T).T
    return (asked @ rows.T).toarray()


def _sets(part: Any, ask: Ask, k: int, positions: np.ndarray) -> Found:
    """Chamfer scores of all sets; the work is counted in pairs of tokens."""
    sizes = np.diff(part.vectors[1])
    scores = np.stack([_scores(part, ask, query, positions) for query in range(ask.number)])
    pairs = ask.queries.sizes * int(sizes[positions].sum())
    return _best(scores, positions, k)._replace(evaluations=pairs)


def _scores(part: Any, ask: Ask, query: int, positions: np.ndarray) -> np.ndarray:
    """The scores of rows of a part for one query, by their stored vectors."""
    if ask.kind == "Dense":
        rows, q = part.vectors.rows(positions), ask.queries[query]
        if part.metric == "l2":
            return -np.square(rows - q, dtype=np.float32).sum(1)
        return rows @ q
    if ask.kind == "Sparse":
        rows = part.vectors[positions]
        q = ask.queries[query : query + 1].copy()
        width = max(rows.shape[1], q.shape[1])
        q.resize((1, width))
        rows.resize((rows.shape[0], width))
        return np.asarray((rows.astype(np.float64) @ q.T.astype(np.float64)).toarray())[:, 0].astype(np.float32)
    from resolvent.search.chamfer_score import candidate_scores

    tokens, offsets = part.vectors
    sets = ask.queries
    a, b = int(sets.offsets[query]), int(sets.offsets[query + 1])
    one = sets._replace(tokens=sets.tokens[a:b], offsets=np.array([0, b - a]))

    def gather(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(tokens.rows(rows))

    made = np.empty(len(positions), np.float32)
    step = max(1, _BLOCK // max(1, int(np.diff(offsets).max(initial=1)) * tokens.dim))
    for first in range(0, len(positions), step):
        own = positions[first : first + step]
        made[first : first + step] = candidate_scores(one, offsets, gather, own[None])[0].numpy()
    return made


def _best(scores: np.ndarray, positions: np.ndarray, k: int) -> Found:
    """The k best columns of a table of scores, by position in the part."""
    kept = min(k, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
    best = np.take_along_axis(scores, order, 1).astype(np.float32)
    rows = np.where(best > -np.inf, positions[order], -1)
    none = np.zeros(len(scores), np.int64)
    if kept < k:
        spare = ((0, 0), (0, k - kept))
        rows, best = np.pad(rows, spare, constant_values=-1), np.pad(best, spare, constant_values=-np.inf)
    return Found(rows, best, none, none)


def _as_found(hits: Any) -> Found:
    return Found(*(np.array(f) for f in (hits.ids, hits.scores, hits.evaluations, hits.scanned)))


def _nothing(b: int, k: int) -> Found:
    none = np.zeros(b, np.int64)
    return Found(np.full((b, k), -1, np.int64), np.full((b, k), -np.inf, np.float32), none, none)
