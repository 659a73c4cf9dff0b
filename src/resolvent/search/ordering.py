"""The order in which rows enter a graph, and what it does to recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from resolvent.operators.arrays import as_tensor, give_back
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.dimension import dimension_of, local_intrinsic_dimension
from resolvent.search.hits import Metric

Order = Literal["lid-desc", "lid-asc", "label", "random"]
ORDERS = ("lid-desc", "lid-asc", "label", "random")


class OrderRow(NamedTuple):
    """What one order of insertion gives.

    Attributes
    ----------
    order : its name
    recall : of the k best against exact search, mean over queries
    by_quantile : the same over the quarters of the queries from the lowest to the highest local dimension
    evaluations : scores per query
    ndcg_exact, ndcg_found : ndcg@k of the exact and the approximate ranking, None without judgements
    """

    order: str
    recall: float
    by_quantile: tuple[float, ...]
    evaluations: float
    ndcg_exact: float | None
    ndcg_found: float | None


def insertion_order(
    x: Any,
    by: Order = "lid-desc",
    *,
    labels: Any = None,
    k: int = 100,
    sample: int = 20_000,
    generator: GeneratorLike = None,
) -> Any:
    """Order rows for insertion into a graph.

    Parameters
    ----------
    x : (n, d) array or tensor
    by : "lid-desc" (rows of high local intrinsic dimension first), "lid-asc", "label" (one category after another) or
        "random"
    labels : (n,) categories, for "label"
    k : neighbours for the local dimension
    sample : rows among which neighbours are looked for; beyond, a random sample stands for the data
    generator : torch.Generator, int or None, of the random order and the sample

    Returns
    -------
    (n,) int64 positions of the kind of `x`; equal values keep their order

    Notes
    -----
    The first rows of a graph are its long links: rows of high dimension, which are hard to reach, can gain from being
    there early. Whether they do depends on the data (`order_study` measures it): the paper's gain was not general here.
    Cost: n * sample * d products.

    References
    ----------
    "The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in Hierarchical Navigable Small Worlds"

    Examples
    --------
    >>> import numpy as np
    >>> insertion_order(np.zeros((4, 2)), by="label", labels=[1, 0, 1, 0])
    array([1, 3, 0, 2])
    """
    if by not in ORDERS:
        raise ValueError(f"by must be one of {', '.join(ORDERS)}, got {by!r}")
    t, kind = as_tensor(x, "x")
    if t.ndim != 2:
        raise ValueError(f"x must have shape (n, d), got {tuple(t.shape)}")
    n = len(t)
    g = as_generator(generator)
    if by == "random":
        order = torch.randperm(n, generator=g)
    elif by == "label":
        values = np.asarray(labels) if labels is not None else np.empty(0)
        if values.shape != (n,):
            raise ValueError(f"labels must have shape ({n},) for by='label', got {values.shape}")
        order = torch.from_numpy(np.argsort(values, kind="stable"))
    elif n < 3:
        order = torch.arange(n)
    else:
        value = _dimensions(t.detach().cpu().float(), k, sample, g)
        order = torch.from_numpy(np.argsort(-value if by == "lid-desc" else value, kind="stable"))
    return give_back(order.to(t.device), kind)


def order_study(
    x: Any,
    q: Any,
    k: int = 10,
    orders: Sequence[Order] = ("lid-desc", "lid-asc", "random"),
    M: int = 16,
    ef_construction: int = 128,
    ef: int | None = None,
    *,
    metric: Metric = "l2",
    labels: Any = None,
    qrels: Any = None,
    generator: GeneratorLike = None,
) -> list[OrderRow]:
    """Build the same graph with rows in several orders, and measure recall.

    Parameters
    ----------
    x : (n, d) rows
    q : (b, d) queries
    k : hits per query
    orders : names that `insertion_order` takes
    M, ef_construction, ef : of the graph, fixed for all orders as a database would; ef defaults to k
    metric : "ip", "cosine" or "l2"
    labels : (n,) categories, for the order "label"
    qrels : judgements of the queries as `ndcg` takes them, with row numbers as documents
    generator : torch.Generator, int or None

    Returns
    -------
    list of OrderRow
        One for each order

    Notes
    -----
    One exact search gives the truth and the local dimension around each query; each order costs one build.

    References
    ----------
    "The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in Hierarchical Navigable Small Worlds"

    Examples
    --------
    >>> from resolvent.search import clustered_vectors
    >>> data = clustered_vectors(600, 16, n_queries=20, generator=0)
    >>> [row.order for row in order_study(data.x, data.queries, orders=("lid-desc", "random"), generator=0)]
    ['lid-desc', 'random']
    """
    from resolvent.search.evaluate import ndcg
    from resolvent.search.exact import exact_search
    from resolvent.search.hnsw import HNSW

    rows = as_tensor(x, "x")[0].detach().cpu().float()
    queries = as_tensor(q, "q")[0].detach().cpu().float()
    g = as_generator(generator)
    near = exact_search(rows, queries, min(100, len(rows)), "l2")
    lid = dimension_of(-near.scores.numpy())
    truth = exact_search(rows, queries, k, metric).ids.numpy()
    quarters = np.array_split(np.argsort(lid, kind="stable"), 4)
    best = None if qrels is None else ndcg(truth, qrels, k)
    study = []
    for name in orders:
        order = insertion_order(rows, name, labels=labels, generator=g)
        index = HNSW(M, ef_construction, metric).build(rows[order], ids=order)
        hits = index.query(queries, k, ef=k if ef is None else ef)
        found = hits.ids.numpy()
        hit = (found[:, :, None] == truth[:, None, :]).any(2).mean(1)
        study.append(
            OrderRow(
                name,
                float(hit.mean()),
                tuple(float(hit[part].mean()) if len(part) else float("nan") for part in quarters),
                float((hits.evaluations + hits.scanned).float().mean()),
                best,
                None if qrels is None else ndcg(found, qrels, k),
            )
        )
    return study


def _dimensions(rows: torch.Tensor, k: int, sample: int, generator: torch.Generator) -> np.ndarray:
    if len(rows) <= sample:
        return np.asarray(local_intrinsic_dimension(rows.numpy(), k))
    from resolvent.search.exact import exact_search

    # A thinner sample has the same dimension: only ratios of distances count.
    chosen = torch.randperm(len(rows), generator=generator)[:sample]
    return dimension_of(-exact_search(rows[chosen], rows, min(k, sample), "l2").scores.numpy())
