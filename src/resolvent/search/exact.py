"""Exhaustive search: products of blocks, of which only what beats a query's k-th best score is ever looked at again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor
from resolvent.search.blocks import by_products, by_rows
from resolvent.search.hits import Found, Hits, Metric, as_hits
from resolvent.search.index import METRICS, as_queries, as_rows, checked_rows
from resolvent.search.vectors import Vectors

_BLOCK_ROWS = 1 << 13
# Below this many queries a scan by inner products reads the rows once and needs no block.
_FEW = 2


def exact_search(
    x: Any, q: Any, k: int = 10, metric: Metric = "ip", *, block: int | None = None, allowed: Any = None
) -> Hits:
    r"""Find the k rows of largest score by looking at all of them.

    The score is :math:`\langle q, x\rangle` ("ip"), the cosine of the angle ("cosine") or :math:`-\|q-x\|^2` ("l2").

    Parameters
    ----------
    x : (n, d) array or tensor
    q : (d,) or (b, d) queries
    k : hits per query; where fewer rows match, the rest has id -1 and score -inf
    metric : "ip", "cosine" or "l2"
    block : rows per block; default such that the scores of a block stay in the cache
    allowed : (n,) bool, rows that may be found

    Returns
    -------
    Hits
        ids are positions in `x`; of equal scores the earlier row comes first

    Raises
    ------
    ValueError
        wrong shapes, NaN, k < 1, or a zero vector under "cosine"

    Notes
    -----
    2 n d b flops by matrix products; the (b, n) scores are never held at once: a block is compared with each query's
    running k-th best and only what exceeds it enters the query's heap. L2 scores of the answer are computed by
    differences; data that lies far from the origin is centred before the products, so that no digits cancel.

    References
    ----------
    "Billion-scale similarity search with GPUs"

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    >>> exact_search(x, torch.tensor([1.0, 1.0]), k=2, metric="cosine").ids
    tensor([2, 0])
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    k = checked_k(k)
    if isinstance(x, Tensor) and x.is_cuda:
        return as_hits(_on_device(x, q, k, metric, block, allowed), np.empty(0), q)
    rows = as_rows(x, None, metric)
    queries = as_queries(q, rows.shape[1], metric)
    mask = _mask(allowed, len(rows))
    # Only distances need the norms.
    square = (rows * rows).sum(1) if metric == "l2" else rows.new_empty(len(rows))
    vectors = Vectors.from_arrays({"data": rows.numpy(), "square": square.numpy()}, "float32")
    found = top_rows(vectors, queries, k, "l2" if metric == "l2" else "ip", mask, block=block)
    return as_hits(found, found.rows, q)


def top_rows(
    vectors: Vectors,
    q: np.ndarray,
    k: int,
    metric: str,
    allowed: np.ndarray | None = None,
    *,
    rows: np.ndarray | None = None,
    block: int | None = None,
) -> Found:
    """The best k of stored rows by a scan: the exhaustive part of every index.

    Parameters
    ----------
    vectors : the rows
    q : (b, d) float32, contiguous
    k : how many
    metric : "ip" or "l2"
    allowed : (n,) uint8, 1 where a row may be found
    rows : scan these rows only, ascending (with `allowed` as well if it is given)
    block : rows per block
    """
    if rows is not None:
        wanted = rows if allowed is None else rows[allowed[rows] != 0]
        found = top_rows(vectors.keep(wanted), q, k, metric, block=block)
        return found._replace(rows=np.where(found.rows >= 0, wanted[found.rows] if len(wanted) else -1, -1))
    n, b = len(vectors), len(q)
    seen = n if allowed is None else int(np.count_nonzero(allowed))
    size = min(k, max(n, 1))
    mask = np.empty(0, np.uint8) if allowed is None else allowed
    l2 = metric == "l2"
    if b <= _FEW:
        keys, values = by_rows(vectors, q, size, l2, mask)
    else:
        keys, values = by_products(vectors, q, size, l2, mask, block)
    work = np.full(b, seen, np.int64)
    return Found(_padded(values, k, -1), _padded(keys, k, -np.inf), work, np.zeros(b, np.int64))


def merge(parts: list[Found], k: int) -> Found:
    """The best k of what several parts found (their rows in one numbering)."""
    rows = np.concatenate([p.rows for p in parts], 1)
    scores = np.concatenate([p.scores for p in parts], 1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    best, ranked = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
    return Found(
        _padded(best, k, -1),
        _padded(ranked, k, -np.inf),
        np.sum([p.evaluations for p in parts], 0),
        np.sum([p.scanned for p in parts], 0),
    )


def range_search(x: Any, q: Any, threshold: float, metric: Metric = "ip", *, allowed: Any = None) -> list[Hits]:
    r"""Find every row whose score reaches a threshold.

    Parameters
    ----------
    x : (n, d) array or tensor
    q : (d,) or (b, d) queries
    threshold : lowest score; under "l2" scores are negative squared distances, so a radius r is ``-r**2``
    metric : "ip", "cosine" or "l2"
    allowed : (n,) bool, rows that may be found

    Returns
    -------
    list of Hits
        one for each query, as long as it has hits, the best first (for a single query a list of one)

    Notes
    -----
    2 n d b flops; the scores of a block of rows at a time.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [2.0], [5.0]])
    >>> range_search(x, np.array([[1.5]]), threshold=-1.0, metric="l2")[0].ids
    array([1, 2])
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold}")
    rows = as_rows(x, None, metric)
    queries = as_queries(q, rows.shape[1], metric)
    mask = _mask(allowed, len(rows))
    pairs = [
        _above(rows, first, torch.from_numpy(queries), threshold, metric) for first in range(0, len(rows), _BLOCK_ROWS)
    ]
    columns = [np.concatenate(column) for column in zip(*pairs, strict=True)] if pairs else [np.empty(0, np.int64)] * 3
    work = np.array([len(rows) if mask is None else int(mask.sum())])
    answers = []
    for i, one in enumerate(queries):
        ids, scores = (column[columns[0] == i] for column in columns[1:])
        if mask is not None:
            ids, scores = ids[mask[ids] != 0], scores[mask[ids] != 0]
        if metric == "l2":
            gaps = rows[torch.from_numpy(ids)].numpy() - one
            scores = -np.einsum("nd,nd->n", gaps, gaps)
            ids, scores = ids[scores >= threshold], scores[scores >= threshold]
        order = np.lexsort((ids, -scores))
        own = Found(ids[order][None], scores[order][None].astype(np.float32), work, np.zeros(1, np.int64))
        # Each answer is of one query, so it has the shape of one.
        answers.append(as_hits(own, own.rows, q if np.ndim(q) == 1 else q[i]))
    return answers


def _above(rows: Tensor, first: int, q: Tensor, threshold: float, metric: str) -> tuple[np.ndarray, ...]:
    """Query, row and score of the pairs of one block that may reach the threshold; under "l2" a few more."""
    part = rows[first : first + _BLOCK_ROWS]
    if metric == "l2":
        centre = part.mean(0)
        scores = _negative_squares(q - centre, part - centre)
        # What the products may have lost by rounding.
        slack = 1e-5 * ((q - centre).square().sum(1, keepdim=True) + (part - centre).square().sum(1))
        keep = scores >= threshold - slack
    else:
        scores = q @ part.mT
        keep = scores >= threshold
    who, which = keep.nonzero(as_tuple=True)
    return who.numpy(), which.numpy() + first, scores[who, which].numpy()


def knn_graph(x: Any, k: int = 10, metric: Metric = "l2") -> Hits:
    """Find for every row the k other rows that are nearest to it.

    Parameters
    ----------
    x : (n, d) array or tensor
    k : neighbours per row, without the row itself
    metric : "ip", "cosine" or "l2"

    Returns
    -------
    Hits
        (n, k); row i lists the neighbours of row i

    Notes
    -----
    The exact search of the data set against itself: 2 n^2 d flops.

    References
    ----------
    "Billion-scale similarity search with GPUs"

    Examples
    --------
    >>> import numpy as np
    >>> knn_graph(np.array([[0.0], [1.0], [3.0]]), k=1).ids
    array([[1],
           [0],
           [1]])
    """
    k = checked_k(k)
    hits = exact_search(x, x, k + 1, metric)
    ids, scores = hits.ids, hits.scores
    n = len(ids)
    own = torch.arange(n, device=ids.device)[:, None] if isinstance(ids, Tensor) else np.arange(n)[:, None]
    # Among copies of a row, and under "ip", a row need not be its own best: then its worst neighbour goes.
    here = ids == own
    if isinstance(ids, Tensor):
        here[~here.any(1), -1] = True
        keep = ~here
        ids, scores = ids[keep].reshape(n, k), scores[keep].reshape(n, k)
    else:
        here[~here.any(1), -1] = True
        ids, scores = ids[~here].reshape(n, k), scores[~here].reshape(n, k)
    return Hits(ids, scores, hits.evaluations, hits.scanned)


def topk(scores: Any, k: int) -> Hits:
    """Find the k largest entries of each row of scores.

    Parameters
    ----------
    scores : (n,) or (b, n) array or tensor; -inf marks what may not be found
    k : how many; where there are fewer, the rest has id -1 and score -inf

    Returns
    -------
    Hits
        ids are columns; no distance evaluations

    Examples
    --------
    >>> import torch
    >>> topk(torch.tensor([0.5, 2.0, 1.0]), 2).ids
    tensor([1, 2])
    """
    t, _ = as_tensor(scores, "scores")
    if t.ndim not in (1, 2):
        raise ValueError(f"scores must have shape (n,) or (b, n), got {tuple(t.shape)}")
    if bool(torch.isnan(t).any()):
        raise ValueError("scores has NaN")
    k = checked_k(k)
    table = t.detach() if t.ndim == 2 else t.detach()[None]
    best, ids = table.topk(min(k, table.shape[1]), dim=1)
    ids = torch.where(best > -torch.inf, ids, -1)
    none = np.zeros(len(table), np.int64)
    found = Found(_padded(ids.cpu().numpy(), k, -1), _padded(best.float().cpu().numpy(), k, -np.inf), none, none)
    return as_hits(found, found.rows, scores)


def checked_k(k: Any) -> int:
    """The number of hits asked for, as an int."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a positive integer, got {k!r}")
    return int(k)


def _mask(allowed: Any, n: int) -> np.ndarray | None:
    if allowed is None:
        return None
    mask = allowed.detach().cpu().numpy() if isinstance(allowed, Tensor) else np.asarray(allowed)
    if mask.dtype not in (np.bool_, np.uint8) or mask.shape != (n,):
        raise ValueError(f"allowed must be a bool for each of the {n} rows, got {mask.dtype} of shape {mask.shape}")
    return np.ascontiguousarray(mask).view(np.uint8)


def _padded(part: np.ndarray, k: int, value: float) -> np.ndarray:
    """(b, k) from (b, at most k)."""
    if part.shape[1] == k:
        return np.ascontiguousarray(part)
    wide = np.full((len(part), k), value, part.dtype)
    wide[:, : part.shape[1]] = part
    return wide


def _on_device(x: Tensor, q: Any, k: int, metric: str, block: int | None, allowed: Any) -> Found:
    """The same by torch alone, where the rows are: a top-k per block, merged."""
    if x.ndim != 2 or x.is_complex():
        raise ValueError(f"x must be a real (n, d) tensor, got {x.dtype} of shape {tuple(x.shape)}")
    asked = torch.from_numpy(as_queries(q, x.shape[1], metric)).to(x.device)
    mask = None if allowed is None else torch.as_tensor(_mask(allowed, len(x)), device=x.device).bool()
    centre = x[:4096].float().mean(0) if metric == "l2" and len(x) else None
    asked = asked if centre is None else asked - centre
    step = block or max(1024, (1 << 26) // max(1, len(asked)))
    best = asked.new_full((len(asked), 0), -torch.inf)
    ids = torch.empty(len(asked), 0, dtype=torch.int64, device=x.device)
    for first in range(0, len(x), step):
        part = checked_rows(x[first : first + step].float(), None, metric, f"x[{first}:]" if first else "x")
        scores = asked @ part.mT if centre is None else _negative_squares(asked, part - centre)
        if mask is not None:
            scores.masked_fill_(~mask[first : first + step], -torch.inf)
        values, places = scores.topk(min(k, len(part)), dim=1)
        both, where = torch.cat([best, values], 1), torch.cat([ids, places + first], 1)
        best, chosen = both.topk(min(k, both.shape[1]), dim=1)
        ids = where.gather(1, chosen)
    ids = torch.where(best > -torch.inf, ids, -1)
    seen = len(x) if mask is None else int(mask.sum())
    work, none = np.full(len(asked), seen, np.int64), np.zeros(len(asked), np.int64)
    return Found(_padded(ids.cpu().numpy(), k, -1), _padded(best.cpu().numpy(), k, -np.inf), work, none)


def _negative_squares(q: Tensor, x: Tensor) -> Tensor:
    """-|q - x|^2 for all pairs (b, m), from products."""
    return torch.addmm(-(x * x).sum(1), q, x.mT, alpha=2).sub_((q * q).sum(1, keepdim=True)).clamp_(max=0)
