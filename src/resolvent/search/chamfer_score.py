"""The Chamfer score of sets of tokens: every query token takes its best document token, and the products are summed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import ArrayLike, give_back_array
from resolvent.search.ragged import Sets, as_sets, blocks, joined_rows

# Entries of a block of products: a few MB, so that the kernel finds them in a cache.
_ENTRIES = 1 << 19


def chamfer(queries: Any, documents: Any, candidates: ArrayLike | None = None) -> Any:
    r"""The Chamfer (MaxSim) score of sets: :math:`\sum_{q \in Q} \max_{p \in P} \langle q, p \rangle`.

    Parameters
    ----------
    queries : sets of tokens of length d: a pair ``(tokens, offsets)`` with tokens (t, d) and set i in
        ``tokens[offsets[i] : offsets[i + 1]]``; one set (t, d); sets of equal size (n, t, d); or a list of (t, d)
    documents : sets of tokens, likewise
    candidates : (n_queries, c) integers, the documents to score for each query, -1 for none; default all

    Returns
    -------
    Scores (n_queries, n_documents), or (n_queries, c) for the candidates with -inf at -1, in the kind, dtype and device of
    `queries` (half precision gives float32). A single set (t, d) leaves its axis out.

    Raises
    ------
    ValueError : an empty set, sets of different lengths of token, NaN or infinity, candidates out of range.
    TypeError : complex tokens, candidates that are no integers.

    Notes
    -----
    One GEMM per block of documents, then one pass over the products; 2 d flops per pair of tokens, and the products never
    leave the caches. Candidates are gathered first, once per query. Gradients reach the tokens of both sides, through the
    best token of each (equal ones share).

    References
    ----------
    "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings"

    Examples
    --------
    >>> import torch
    >>> from resolvent.search import chamfer
    >>> documents = [torch.eye(3), torch.tensor([[1.0, 1.0, 0.0]])]
    >>> chamfer(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), documents)
    tensor([3., 3.])
    """
    q = as_sets(queries, "queries")
    p = as_sets(documents, "documents", dim=q.tokens.shape[1])
    Q, P = _common(q.tokens, p.tokens)
    q, p = q._replace(tokens=Q), p._replace(tokens=P)
    if candidates is None:
        scores = _all_pairs(q, p)
    else:
        chosen = as_candidates(candidates, q.n, p.n)
        scores = candidate_scores(
            q, p.offsets, lambda rows: P.index_select(0, torch.from_numpy(rows).to(P.device)), chosen
        )
    if q.single:
        scores = scores[0]
    if p.single and candidates is None:
        scores = scores[..., 0]
    return give_back_array(scores, q.kind)


def scored_pairs(queries: Sets, sizes: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(n_queries,) how many pairs of tokens the scores of these candidates (-1 for none) take."""
    taken = np.where(candidates >= 0, sizes[np.maximum(candidates, 0)], 0)
    return queries.sizes * taken.sum(1)


def as_candidates(candidates: Any, queries: int, documents: int) -> np.ndarray:
    """Candidates (n_queries, c) as int64, checked."""
    raw = candidates.detach().cpu().numpy() if isinstance(candidates, Tensor) else np.asarray(candidates)
    if raw.dtype.kind not in "iu":
        raise TypeError(f"candidates must be integers, got dtype {raw.dtype}")
    if raw.ndim == 1 and queries == 1:
        raw = raw[None]
    if raw.ndim != 2 or len(raw) != queries:
        raise ValueError(f"candidates must have shape ({queries}, c), got {raw.shape}")
    if raw.size and not -1 <= int(raw.min()) <= int(raw.max()) < documents:
        raise ValueError(f"candidates must lie between -1 and {documents - 1}, got {raw.min()} to {raw.max()}")
    return raw.astype(np.int64)


def carve_balls(queries: Sets, threshold: float) -> Sets:
    """Sets with fewer tokens: the first token and all within `threshold` in cosine become their sum, and so on."""
    from resolvent.search.chamfer_kernel import carve

    tokens = queries.tokens.detach().to("cpu", torch.float32)
    unit = torch.nn.functional.normalize(tokens, dim=1).contiguous()
    owner = np.empty(len(tokens), np.int64)
    counts = carve(unit.numpy(), queries.offsets, float(threshold), owner)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ball = torch.from_numpy(owner + np.repeat(offsets[:-1], queries.sizes))
    sums = torch.zeros(int(offsets[-1]), tokens.shape[1]).index_add_(0, ball, tokens)
    return queries._replace(tokens=sums, offsets=offsets)


def _common(Q: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype that products can be summed in, on the device of the queries."""
    dtype = torch.promote_types(Q.dtype, P.dtype)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    return Q.to(dtype), P.to(Q.device, dtype)


def _all_pairs(q: Sets, p: Sets) -> Tensor:
    step = max(1, _ENTRIES // len(q.tokens))
    parts = []
    for first, last in blocks(p.offsets, step):
        a, b = int(p.offsets[first]), int(p.offsets[last])
        parts.append(_max_sums(p.tokens[a:b], p.offsets[first : last + 1] - a, q.tokens, q.offsets))
    return torch.cat(parts).mT.contiguous()


def candidate_scores(
    q: Sets, offsets: np.ndarray, gather: Callable[[np.ndarray], Tensor], candidates: np.ndarray
) -> Tensor:
    """Scores (n_queries, c) of some documents for each query; `gather` brings the tokens of given rows."""
    # One query at a time: its candidates are gathered into one GEMM, which other queries would share by chance only.
    scores = []
    for i in range(q.n):
        real = candidates[i] >= 0
        tokens = q.tokens[int(q.offsets[i]) : int(q.offsets[i + 1])]
        one = tokens.new_full((candidates.shape[1],), -torch.inf)
        if real.any():
            index, inner = joined_rows(offsets, candidates[i][real])
            found = _max_sums(gather(index), inner, tokens, np.array([0, len(tokens)]))[:, 0]
            one = one.index_put((torch.from_numpy(np.flatnonzero(real)).to(tokens.device),), found)
        scores.append(one)
    return torch.stack(scores)


def _max_sums(P: Tensor, document_offsets: np.ndarray, Q: Tensor, query_offsets: np.ndarray) -> Tensor:
    """(n_documents, n_queries) from one GEMM."""
    products = P @ Q.mT
    if P.device.type == "cpu" and not products.requires_grad:
        from resolvent.search.chamfer_kernel import max_sums

        out = np.empty((len(document_offsets) - 1, len(query_offsets) - 1), products.numpy().dtype)
        max_sums(products.numpy(), document_offsets, query_offsets, out)
        return torch.from_numpy(out)
    documents = _owners(document_offsets, P.device)
    best = products.new_full((len(document_offsets) - 1, len(Q)), -torch.inf)
    best = best.scatter_reduce(0, documents[:, None].expand_as(products), products, "amax", include_self=False)
    sums = products.new_zeros(len(best), len(query_offsets) - 1)
    return sums.index_add(1, _owners(query_offsets, P.device), best)


def _owners(offsets: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))).to(device)


__all__ = ["chamfer"]
