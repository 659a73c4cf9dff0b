"""A few vectors for each document, found by clustering its tokens, and a score that lets a query attend to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.search.chamfer_score import as_candidates
from resolvent.search.hits import Found, Hits, as_hits
from resolvent.search.index import VectorIndex, as_queries
from resolvent.search.ragged import Sets, as_sets, blocks, joined_rows

# Numbers in a padded block of documents.
_ENTRIES = 1 << 22


def pseudo_queries(tokens: Any, offsets: Any = None, k: int = 8, *, iterations: int = 3) -> tuple[Any, np.ndarray]:
    r"""Cluster the tokens of each document into k centroids: embeddings of the queries that it could answer.

    Parameters
    ----------
    tokens : (t, d) tokens of all documents one after the other; or without `offsets` one document (t, d), documents of
        equal size (n, t, d), or a list of (t, d)
    offsets : (n + 1,) integers, document i is ``tokens[offsets[i] : offsets[i + 1]]``
    k : centroids of a document, at least 1; one with fewer tokens is its tokens
    iterations : rounds of k-means, at least 0; 0 takes tokens at equally spaced positions

    Returns
    -------
    The centroids of all documents one after the other, in the kind, dtype and device of `tokens`, and their offsets
    (n + 1,), a NumPy array.

    Raises
    ------
    ValueError : an empty document, NaN or infinity, k < 1, iterations < 0.

    Notes
    -----
    k-means starts from the tokens at positions ``floor(j t / k)``; a cluster that loses its tokens keeps its centre. All
    documents of a block move together: 2 k d flops a token and round. Gradients reach the tokens through the means of the
    last round, with the clusters held fixed.

    References
    ----------
    "Improving Document Representations by Generating Pseudo Query Embeddings for Dense Retrieval"

    Examples
    --------
    >>> import numpy as np
    >>> tokens = np.array([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0], [5.0, 5.0]])
    >>> centroids, offsets = pseudo_queries(tokens, [0, 3, 4], k=2)
    >>> centroids, offsets
    (array([[0., 1.],
           [9., 9.],
           [5., 5.]]), array([0, 2, 3]))
    """
    sets = as_sets(tokens if offsets is None else (tokens, offsets), "tokens")
    for name, value, least in (("k", k, 1), ("iterations", iterations, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    counts = np.minimum(sets.sizes, k)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # The centroids of document i are rows starts[i].. of the result, their seeds tokens at equal steps.
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    seeds = np.repeat(sets.offsets[:-1], counts) + place * np.repeat(sets.sizes, counts) // np.repeat(counts, counts)
    parts = []
    width = max(k, sets.tokens.shape[1]) * int(sets.sizes.max())
    for first, last in blocks(np.arange(sets.n + 1), max(1, _ENTRIES // width)):
        a, b = int(sets.offsets[first]), int(sets.offsets[last])
        c, d = int(starts[first]), int(starts[last])
        block = sets._replace(tokens=sets.tokens[a:b], offsets=sets.offsets[first : last + 1] - a)
        parts.append(_means(block, seeds[c:d] - a, starts[first : last + 1] - c, k, iterations))
    return give_back_array(parts[0] if len(parts) == 1 else torch.cat(parts), sets.kind), starts


def two_step_score(q: Any, centroids: Any, candidates: Any = None, *, temperature: float = 1.0) -> Any:
    r"""Score documents by the mixture of their centroids that the query attends to.

    .. math:: s(q, D) = \langle q, \sum_j a_j c_j \rangle, \qquad a = \mathrm{softmax}_j \langle q, c_j \rangle / \tau.

    Parameters
    ----------
    q : (d,) or (b, d)
    centroids : a pair ``(centroids, offsets)`` as `pseudo_queries` gives it, or other sets of vectors
    candidates : (b, c) integers, the documents to score for each query, -1 for none; default all
    temperature : tau. The paper's 1 suits encoders whose products are large; for vectors of length one a query attends to
        all centroids nearly alike unless it is about 0.05

    Returns
    -------
    Scores (b, n) or (b, c), -inf at -1, in the kind, dtype and device of `q`; a single query leaves its axis out.

    Raises
    ------
    ValueError : sizes that do not fit, NaN or infinity, candidates out of range.

    Notes
    -----
    The score needs the products with the centroids only, not the mixed vector: 2 d flops a centroid. It lies between the
    mean and the maximum of the products. Gradients reach both sides.

    References
    ----------
    "Improving Document Representations by Generating Pseudo Query Embeddings for Dense Retrieval"

    Examples
    --------
    >>> import torch
    >>> documents = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0]])]
    >>> two_step_score(torch.tensor([3.0, 0.0]), documents).round(decimals=3)
    tensor([2.8580, 6.0000])
    """
    t, kind = as_tensor(q, "q")
    if t.ndim not in (1, 2):
        raise ValueError(f"q must have shape (d,) or (b, d), got {tuple(t.shape)}")
    check_finite(t, "q")
    _check_temperature(temperature)
    Q = t.reshape(-1, t.shape[-1])
    sets = as_sets(centroids, "centroids", dim=Q.shape[1])
    dtype = torch.promote_types(Q.dtype, sets.tokens.dtype)
    C = sets.tokens.to(Q.device, dtype)
    if candidates is None:
        scores = _attend(Q.to(dtype) @ C.mT, sets.offsets, temperature)
    else:
        chosen = as_candidates(candidates, len(Q), sets.n)
        real = chosen >= 0
        rows, inner = joined_rows(sets.offsets, chosen[real])
        owner = np.repeat(np.repeat(np.arange(len(Q)), real.sum(1)), np.diff(inner))
        asked = Q.to(dtype).index_select(0, torch.from_numpy(owner).to(Q.device))
        products = (asked * C.index_select(0, torch.from_numpy(rows).to(Q.device))).sum(1)
        scores = products.new_full(chosen.shape, -torch.inf)
        if len(rows):
            scores = scores.masked_scatter(
                torch.from_numpy(real).to(Q.device), _attend(products[None], inner, temperature)[0]
            )
    return give_back_array(scores[0] if t.ndim == 1 else scores, kind)


def two_step_search(
    q: Any,
    centroids: Any,
    k: int = 10,
    *,
    candidates: int = 200,
    temperature: float = 1.0,
    index: VectorIndex | None = None,
    **options: Any,
) -> Hits:
    """Find documents by their best centroids, and rank the best `candidates` of them by `two_step_score`.

    Parameters
    ----------
    q : (d,) or (b, d)
    centroids : a pair ``(centroids, offsets)`` as `pseudo_queries` gives it
    k : hits per query
    candidates : documents that the second step scores, at least k
    temperature : of `two_step_score`
    index : an index with metric "ip" over the centroids in their order, with positions as ids; default exact
    **options : of ``index.query``

    Returns
    -------
    Hits
        Ids are positions of documents; `evaluations` counts products with centroids in both steps.

    Raises
    ------
    ValueError : k or candidates below 1, an index of another length.

    Notes
    -----
    The first step asks for twice as many centroids as `candidates`, and again for as many as cannot run short where fewer
    than k documents came; a document's place is that of its best centroid.

    References
    ----------
    "Improving Document Representations by Generating Pseudo Query Embeddings for Dense Retrieval"

    Examples
    --------
    >>> import numpy as np
    >>> hits = two_step_search(np.array([1.0, 0.0]), (np.eye(2), [0, 1, 2]), k=1)
    >>> hits.ids
    array([0])
    """
    sets = as_sets(centroids, "centroids")
    for name, value in (("k", k), ("candidates", candidates)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    _check_temperature(temperature)
    queries = as_queries(q, sets.tokens.shape[1], "ip")
    if index is not None and len(index) != len(sets.tokens):
        raise ValueError(f"index must hold the {len(sets.tokens)} centroids, got {len(index)} rows")
    candidates = max(k, candidates)
    first, chosen = _first_step(sets, queries, 2 * candidates, candidates, index, options)
    if (chosen >= 0).sum(1).min() < min(k, sets.n):
        first, chosen = _first_step(sets, queries, candidates * int(sets.sizes.max()), candidates, index, options)
    stored = (sets.tokens.detach().cpu().float(), sets.offsets)
    scores = np.asarray(two_step_score(queries, stored, chosen, temperature=temperature))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    rows, best = np.take_along_axis(chosen, order, 1), np.take_along_axis(scores, order, 1)
    if rows.shape[1] < k:
        spare = ((0, 0), (0, k - rows.shape[1]))
        rows, best = np.pad(rows, spare, constant_values=-1), np.pad(best, spare, constant_values=-np.inf)
    second = np.where(chosen >= 0, sets.sizes[np.maximum(chosen, 0)], 0).sum(1)
    found = Found(rows, best.astype(np.float32), np.asarray(first.evaluations) + second, np.asarray(first.scanned))
    return as_hits(found, rows, q, {"candidates": chosen.shape[1]})


def _first_step(
    sets: Sets, queries: np.ndarray, wanted: int, candidates: int, index: VectorIndex | None, options: dict[str, Any]
) -> tuple[Hits, np.ndarray]:
    """The best `wanted` centroids, and the documents that they belong to, the best first."""
    wanted = min(len(sets.tokens), wanted)
    if index is None:
        from resolvent.search.exact import exact_search

        first = exact_search(sets.tokens.detach().cpu(), queries, wanted)
    else:
        first = index.query(queries, wanted, **options)
    ids, scores = np.asarray(first.ids), np.asarray(first.scores)
    owners = np.where(scores > -np.inf, sets.owners()[np.maximum(ids, 0)], -1)
    return first, _distinct(owners, candidates)


def _means(sets: Sets, seeds: np.ndarray, starts: np.ndarray, k: int, iterations: int) -> Tensor:
    """Centroids of a block of documents, one after the other."""
    tokens, device = sets.tokens, sets.tokens.device
    n, width, longest = sets.n, tokens.shape[1], int(sets.sizes.max())
    owner = sets.owners()
    place = torch.from_numpy(np.arange(len(owner)) - sets.offsets[owner]).to(device)
    owners = torch.from_numpy(owner).to(device)
    padded = tokens.detach().new_zeros(n, longest, width)
    padded[owners, place] = tokens.detach()
    mine = np.repeat(np.arange(n), np.diff(starts))
    slot = torch.from_numpy(mine * k + np.arange(len(mine)) - starts[mine]).to(device)
    centres = tokens.new_zeros(n * k, width).index_copy(0, slot, tokens[torch.from_numpy(seeds).to(device)])
    unused = torch.ones(n * k, dtype=torch.bool, device=device)
    unused[slot] = False
    for _ in range(iterations):
        held = centres.detach().view(n, k, width)
        # The nearest centre has the largest <x, c> - |c|^2 / 2.
        nearness = padded @ held.mT - 0.5 * held.square().sum(2)[:, None, :]
        nearness = nearness.masked_fill(unused.view(n, 1, k), -torch.inf)
        cluster = owners * k + nearness.argmax(2)[owners, place]
        sizes = torch.bincount(cluster, minlength=n * k)
        sums = torch.zeros_like(centres).index_add(0, cluster, tokens)
        centres = torch.where((sizes > 0)[:, None], sums / sizes.clamp_min(1)[:, None], centres)
    return centres[slot]


def _check_temperature(temperature: Any) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}")


def _attend(products: Tensor, offsets: np.ndarray, temperature: float) -> Tensor:
    """(b, t) products with all centroids -> (b, n) attention-pooled scores."""
    n = len(offsets) - 1
    owner = torch.from_numpy(np.repeat(np.arange(n), np.diff(offsets))).to(products.device).expand_as(products)
    top = products.detach().new_full((len(products), n), -torch.inf)
    top = top.scatter_reduce(1, owner, products.detach(), "amax")
    weights = ((products - top.gather(1, owner)) / temperature).exp()
    zero = products.new_zeros(len(products), n)
    return zero.scatter_add(1, owner, weights * products) / zero.scatter_add(1, owner, weights)


def _distinct(owners: np.ndarray, most: int) -> np.ndarray:
    """The first `most` different documents of each row, in their order, -1 after the end."""
    b, m = owners.shape
    order = np.argsort(owners, axis=1, kind="stable")
    ordered = np.take_along_axis(owners, order, 1)
    new = np.ones((b, m), bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.zeros((b, m), bool)
    np.put_along_axis(first, order, new & (ordered >= 0), 1)
    rank = np.cumsum(first, axis=1) - 1
    out = np.full((b, min(most, m)), -1, np.int64)
    row, column = np.nonzero(first & (rank < most))
    out[row, rank[row, column]] = owners[row, column]
    return out


__all__ = ["pseudo_queries", "two_step_score", "two_step_search"]
