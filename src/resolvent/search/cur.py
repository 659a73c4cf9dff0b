"""Search by an expensive score: a few exact scores of a query tell, through a CUR decomposition, where its best items are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.factor.cur import cur
from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.exact import checked_k
from resolvent.search.hits import Found, Hits, as_hits

Score = Callable[[Sequence[Any], Sequence[Any]], Any]
ScoreRow = Callable[[np.ndarray], Any]

# Relative cut-offs of the pseudo-inverse among which the held-out anchor queries choose.
_CUTS = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


class CURIndex:
    """Items under a score that only a function knows; `cur_search` makes it.

    Parameters
    ----------
    scores : (anchor queries, items) exact scores
    anchors : (c,) items at which a new query will be scored
    rtol : singular values of ``scores[:, anchors]`` below `rtol` times the largest are left out of its pseudo-inverse;
        None chooses by the error on a fifth of the anchor queries that is held out

    Attributes
    ----------
    anchors : (c,) int64
    map : (c, items) float32, from a query's scores at the anchors to its approximate scores of all items
    rtol : the cut-off that is used

    Examples
    --------
    >>> import numpy as np
    >>> r = np.random.default_rng(0)
    >>> A, B = r.normal(size=(50, 5)), r.normal(size=(5, 300))
    >>> index = CURIndex(A @ B, np.arange(8), rtol=1e-6)
    >>> row = r.normal(size=5) @ B
    >>> bool(np.allclose(index.approximate(row[:8]), row, atol=1e-3))
    True
    """

    def __init__(self, scores: Any, anchors: Any, rtol: float | None = None) -> None:
        table, _ = as_tensor(scores, "scores")
        if table.ndim != 2 or table.is_complex() or not len(table):
            raise ValueError(f"scores must be a real (anchor queries, items) table, got shape {tuple(table.shape)}")
        check_finite(table, "scores")
        if rtol is not None and not 0 <= rtol < 1:
            raise ValueError(f"rtol must lie in [0, 1), got {rtol}")
        self._scores = table.detach().double().cpu()
        self.anchors = np.unique(np.asarray(anchors, np.int64))
        if not len(self.anchors) or self.anchors[0] < 0 or self.anchors[-1] >= table.shape[1]:
            raise ValueError(f"anchors must be items from 0 to {table.shape[1] - 1}")
        self.rtol = self._choose() if rtol is None else rtol
        self.map = self._map(self._scores, self.rtol)

    def __len__(self) -> int:
        return self._scores.shape[1]

    def approximate(self, anchor_scores: Any) -> np.ndarray:
        """Approximate scores of all items, (items,) or (b, items), from the exact ones at the anchors, (c,) or (b, c)."""
        c = torch.as_tensor(np.asarray(anchor_scores), dtype=torch.float32)
        if c.shape[-1] != len(self.anchors):
            raise ValueError(f"anchor_scores must have {len(self.anchors)} columns, got {c.shape[-1]}")
        check_finite(c, "anchor_scores")
        return (c @ self.map).numpy()

    def query(self, score_row: ScoreRow, k: int = 10, budget: int | None = None) -> Hits:
        """Find the best k items of one query with at most `budget` exact scores.

        Parameters
        ----------
        score_row : takes item positions (m,) and returns their exact scores for this query (m,)
        k : how many
        budget : exact scores in all, the anchors among them; default ``len(anchors) + 2 k``

        Returns
        -------
        Hits
            of one query, shape (k,); every score is exact, `evaluations` is what was spent
        """
        k = checked_k(k)
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int | np.integer)):
            raise TypeError(f"budget must be an integer, got {budget!r}")
        spend = min(len(self), len(self.anchors) + 2 * k if budget is None else budget)
        if spend < min(len(self.anchors), len(self)):
            raise ValueError(f"budget must allow the {len(self.anchors)} anchors, got {budget}")
        exact = self._ask(score_row, self.anchors)
        guess = self.approximate(exact)
        guess[self.anchors] = -np.inf
        more = np.argpartition(-guess, min(spend - len(self.anchors), len(guess) - 1))[: spend - len(self.anchors)]
        items = np.concatenate([self.anchors, more])
        scores = np.concatenate([exact, self._ask(score_row, more)]) if len(more) else exact
        order = np.lexsort((items, -scores))[:k]
        rows, best = np.full((1, k), -1, np.int64), np.full((1, k), -np.inf, np.float32)
        rows[0, : len(order)], best[0, : len(order)] = items[order], scores[order]
        found = Found(rows, best, np.array([len(items)]), np.array([len(self)]))
        return as_hits(found, rows, np.empty(0))

    def add(self, scores: Any) -> None:
        """Add items, by their exact scores with the anchor queries (anchor queries, m)."""
        new, _ = as_tensor(scores, "scores")
        if new.ndim != 2 or len(new) != len(self._scores):
            raise ValueError(f"scores must have shape ({len(self._scores)}, m), got {tuple(new.shape)}")
        check_finite(new, "scores")
        self._scores = torch.cat([self._scores, new.detach().double().cpu()], 1)
        self.map = self._map(self._scores, self.rtol)

    def _ask(self, score_row: ScoreRow, items: np.ndarray) -> np.ndarray:
        got = score_row(items)
        scores = (got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)).astype(np.float32)
        if scores.shape != items.shape:
            raise ValueError(
                f"score_row must return {len(items)} scores for {len(items)} items, got shape {scores.shape}"
            )
        if not np.isfinite(scores).all():
            raise ValueError("score_row returned NaN or infinite scores")
        return scores

    def _map(self, scores: Tensor, rtol: float) -> Tensor:
        U, s, Vh = torch.linalg.svd(scores[:, self.anchors], full_matrices=False)
        return self._through(U, s, Vh, rtol, scores).float()

    @staticmethod
    def _through(U: Tensor, s: Tensor, Vh: Tensor, rtol: float, scores: Tensor) -> Tensor:
        keep = s > rtol * s[0]
        return (Vh[keep].mT / s[keep]) @ (U[:, keep].mT @ scores)

    def _choose(self) -> float:
        """The cut-off of least error on held-out anchor queries: without one the pseudo-inverse fits noise."""
        held = torch.arange(len(self._scores)) % 5 == 0
        if len(self._scores) < 10:
            return 1e-3
        train, test = self._scores[~held], self._scores[held]
        U, s, Vh = torch.linalg.svd(train[:, self.anchors], full_matrices=False)
        errors = [
            float((test[:, self.anchors] @ self._through(U, s, Vh, cut, train) - test).square().sum()) for cut in _CUTS
        ]
        return _CUTS[int(np.argmin(errors))]


def cur_search(
    score: Score | Any,
    anchor_queries: Sequence[Any] | None = None,
    items: Sequence[Any] | None = None,
    n_anchor_items: int = 100,
    *,
    select: Literal["random", "pivoted", "leverage"] = "random",
    rtol: float | None = None,
    batch: int = 1024,
    generator: GeneratorLike = None,
) -> CURIndex:
    r"""Index items under an expensive score, as of a cross-encoder, by scores of some queries.

    With R the exact scores of the anchor queries, a new query is scored exactly at the anchor items only, giving c, and its
    whole row is approximately :math:`c\, R_{:,A}^{+} R`. The best of that row are scored exactly.

    Parameters
    ----------
    score : function of a list of queries and a list of items that returns their (queries, items) scores; or that table
        itself for the anchor queries and all items
    anchor_queries : the queries that are scored against all items now, typically a few hundred of a training set
    items : what is searched; hits name positions in it
    n_anchor_items : c, exact scores that every query will cost before anything is searched
    select : anchor items at random, by pivoted QR, or by leverage scores of the table
    rtol : cut-off of the pseudo-inverse, see `CURIndex`
    batch : items per call of `score`
    generator : torch.Generator, int or None

    Returns
    -------
    CURIndex
        whose ``query(score_row, k, budget)`` searches

    Raises
    ------
    ValueError
        n_anchor_items outside 1 .. items, scores of a wrong shape, NaN

    Notes
    -----
    Once: (anchor queries) (items) exact scores and a singular value decomposition of (anchor queries, c). A query: `budget`
    exact scores and c (items) products. The answer is exact where the score has rank at most c on anchors that span it;
    how well it is approximated otherwise is a property of the score, which `budget` makes up for.

    References
    ----------
    "Efficient Nearest Neighbor Search for Cross-Encoder Models using Matrix Factorization"

    Examples
    --------
    >>> import numpy as np
    >>> r = np.random.default_rng(0)
    >>> Q, X = r.normal(size=(60, 4)), r.normal(size=(500, 4))
    >>> index = cur_search(lambda q, x: np.stack(q) @ np.stack(x).T, Q[:50], X, 10, generator=0)
    >>> index.query(lambda i: X[i] @ Q[55], k=3, budget=20).ids.tolist() == np.argsort(-X @ Q[55])[:3].tolist()
    True
    """
    if callable(score):
        if anchor_queries is None or items is None:
            raise ValueError("anchor_queries and items must be given with a score function")
        if batch < 1:
            raise ValueError(f"batch must be positive, got {batch}")
        table = _table(score, anchor_queries, items, batch)
    else:
        table = as_tensor(score, "score")[0].detach()
    if table.ndim != 2:
        raise ValueError(f"score must be a (queries, items) table, got shape {tuple(table.shape)}")
    n = table.shape[1]
    if isinstance(n_anchor_items, bool) or not isinstance(n_anchor_items, int) or not 1 <= n_anchor_items <= n:
        raise ValueError(
            f"n_anchor_items must be an integer from 1 to the number of items, {n}, got {n_anchor_items!r}"
        )
    g = as_generator(generator)
    if select == "random":
        anchors = torch.randperm(n, generator=g)[:n_anchor_items]
    elif select in ("pivoted", "leverage"):
        rank = min(n_anchor_items, *table.shape)
        chosen = cur(table.double(), rank, method=select, generator=g).columns
        others = torch.randperm(n, generator=g)
        others = others[~torch.isin(others, chosen)][: n_anchor_items - rank]
        anchors = torch.cat([chosen, others])
    else:
        raise ValueError(f"select must be 'random', 'pivoted' or 'leverage', got {select!r}")
    return CURIndex(table, anchors.numpy(), rtol)


def _table(score: Score, queries: Sequence[Any], items: Sequence[Any], batch: int) -> Tensor:
    parts = []
    for first in range(0, len(items), batch):
        some = items[first : first + batch]
        part, _ = as_tensor(score(queries, some), "score")
        if part.shape != (len(queries), len(some)):
            raise ValueError(f"score must return shape ({len(queries)}, {len(some)}), got {tuple(part.shape)}")
        parts.append(part.detach())
    return torch.cat(parts, 1) if parts else torch.empty(len(queries), 0)
