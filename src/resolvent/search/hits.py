"""What a search answers: ids, scores, and the work that it took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

Metric = Literal["ip", "cosine", "l2"]


class Found(NamedTuple):
    """What the inner loop of an index found, by position; the edge turns it into `Hits`.

    Attributes
    ----------
    rows : (b, k) int64, positions of the best, best first, -1 after the end
    scores : (b, k) float32, -inf after the end
    evaluations : (b,) int64, distances of vectors at full precision
    scanned : (b,) int64, scores of compressed codes or postings
    """

    rows: np.ndarray
    scores: np.ndarray
    evaluations: np.ndarray
    scanned: np.ndarray


@dataclass(frozen=True)
class Hits:
    """The answer of a search: for every query its hits, the best first.

    Parameters
    ----------
    ids : (b, k) int64, or an object array of strings; where fewer than k match, the rest is -1 (None for strings)
    scores : (b, k) float32, larger is better; -inf where there is no hit (-1 is a legal id: the score decides)
    evaluations : (b,) int64, distances computed at full precision
    scanned : (b,) int64, scores of compressed codes, or postings, that were read
    explain : how the answer was found

    Notes
    -----
    For a single query of shape (d,) the leading axis is absent. Arrays are of the kind of the query (NumPy or torch, on
    its device); ids that are strings are always NumPy. L2 scores are negative squared distances.

    Examples
    --------
    >>> import numpy as np
    >>> from resolvent import search
    >>> hits = search.exact_search(np.eye(4), np.array([0.0, 2.0, 1.0, 0.0]), k=2)
    >>> hits.ids, hits.scores
    (array([1, 2]), array([2., 1.], dtype=float32))
    """

    ids: Any
    scores: Any
    evaluations: Any
    scanned: Any
    explain: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> Any:
        """How many true hits each query has."""
        true = self.scores > -np.inf
        return true.sum(-1)


@dataclass
class DistanceCount:
    """Work done by the searches inside a `count_distances` block.

    Attributes
    ----------
    queries : how many queries were answered
    evaluations : distances computed at full precision
    scanned : scores of compressed codes, or postings, that were read
    """

    queries: int = 0
    evaluations: int = 0
    scanned: int = 0


_OPEN: ContextVar[tuple[DistanceCount, ...]] = ContextVar("open_counts", default=())


@contextmanager
def count_distances() -> Iterator[DistanceCount]:
    """Count the distance evaluations of every search of the room inside the block.

    Returns
    -------
    context manager of a `DistanceCount`, whose fields grow with each search; blocks may be nested

    Examples
    --------
    >>> import numpy as np
    >>> from resolvent import search
    >>> with search.count_distances() as count:
    ...     _ = search.exact_search(np.eye(4), np.ones((3, 4)), k=1)
    >>> count
    DistanceCount(queries=3, evaluations=12, scanned=0)
    """
    count = DistanceCount()
    token = _OPEN.set((*_OPEN.get(), count))
    try:
        yield count
    finally:
        _OPEN.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """Searches inside are steps of another one, which counts their work itself."""
    token = _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.reset(token)


def note(found: Found) -> None:
    """Add the work of one search to the open counts."""
    for count in _OPEN.get():
        count.queries += len(found.rows)
        count.evaluations += int(found.evaluations.sum())
        count.scanned += int(found.scanned.sum())


def as_hits(found: Found, ids: np.ndarray, query: Any, explain: dict[str, Any] | None = None) -> Hits:
    """`Found` with its ids, in the kind, on the device and with the batch shape of the query as the user gave it."""
    note(found)
    fields: list[Any] = [ids, found.scores, found.evaluations, found.scanned]
    if np.ndim(query) == 1:
        fields = [f[0] for f in fields]
    if isinstance(query, torch.Tensor):
        fields = [
            f if isinstance(f, np.ndarray) and f.dtype == object else torch.as_tensor(f, device=query.device)
            for f in fields
        ]
    own_ids, scores, evaluations, scanned = fields
    return Hits(own_ids, scores, evaluations, scanned, explain or {})
