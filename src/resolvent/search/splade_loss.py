"""What learned sparse retrieval is made of: pooling of logits, losses, and measures of sparse weights."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from resolvent.search.sparse_rows import as_sparse_rows, like

Pool = Literal["sum", "max"]


def splade_pool(logits: Tensor, mask: Tensor | None = None, pool: Pool = "max") -> Tensor:
    r"""Weights of words from logits of tokens: :math:`w_j = \mathrm{pool}_i \ln(1 + \max(0, w_{ij}))`.

    Parameters
    ----------
    logits : (*batch, length, vocabulary) of token i for word j
    mask : (*batch, length), true (or not zero) for tokens that count; None counts all
    pool : "sum" (SPLADE) or "max" (SPLADE v2)

    Returns
    -------
    (*batch, vocabulary), at least 0, of the dtype of `logits`; 0 where no token counts

    Raises
    ------
    ValueError : `pool` is neither, or the mask has another shape.

    Notes
    -----
    The logarithm does not change order, so that the maximum is taken of the logits and the logarithm of the winners
    only: max pooling holds no second (length, vocabulary) array. Differentiable; at a tie of the maximum the gradient is
    shared by the tied tokens.

    References
    ----------
    "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking"
    "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval"

    Examples
    --------
    >>> logits = torch.tensor([[1.0, -1.0], [2.0, -3.0]])
    >>> splade_pool(logits, pool="sum"), splade_pool(logits, torch.tensor([1, 0]))
    (tensor([1.7918, 0.0000]), tensor([0.6931, 0.0000]))
    """
    if pool not in ("sum", "max"):
        raise ValueError(f"pool must be 'sum' or 'max', got {pool!r}")
    if mask is not None and mask.shape != logits.shape[:-1]:
        raise ValueError(f"mask must have shape {tuple(logits.shape[:-1])}, got {tuple(mask.shape)}")
    if pool == "max":
        if logits.shape[-2] == 0:
            return logits.sum(-2)
        open_logits = logits if mask is None else logits.masked_fill(~mask.bool()[..., None], -torch.inf)
        return torch.log1p(torch.relu(open_logits.amax(-2)))
    weights = torch.log1p(torch.relu(logits))
    return weights.sum(-2) if mask is None else (weights * mask.bool()[..., None]).sum(-2)


def flops_regularizer(weights: Tensor) -> Tensor:
    r"""The FLOPS regulariser :math:`\sum_j \bigl(\frac1N \sum_i |w_{ij}|\bigr)^2` of a batch of weights.

    Parameters
    ----------
    weights : (n, vocabulary), a batch of queries or of documents

    Returns
    -------
    scalar tensor

    Notes
    -----
    A smooth stand-in for the products per query and document. Unlike the mean of the absolute values it costs less
    when the same total is spread over many words, so that posting lists become even. Differentiable.

    References
    ----------
    "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking"
    "Minimizing FLOPs to Learn Efficient Sparse Representations"

    Examples
    --------
    >>> even, uneven = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> float(flops_regularizer(even)), float(flops_regularizer(uneven))
    (0.5, 1.0)
    """
    if weights.ndim != 2 or len(weights) == 0:
        raise ValueError(f"weights must have shape (n, vocabulary) with n >= 1, got {tuple(weights.shape)}")
    return weights.abs().mean(0).square().sum()


def margin_mse(s_pos: Tensor, s_neg: Tensor, t_pos: Tensor, t_neg: Tensor) -> Tensor:
    r"""How far a student's margins are from its teacher's:
    :math:`\mathrm{mean}\bigl((s^+ - s^-) - (t^+ - t^-)\bigr)^2`.

    Parameters
    ----------
    s_pos, s_neg : the student's scores of the relevant and of the other document, of any one shape
    t_pos, t_neg : the teacher's

    Returns
    -------
    scalar tensor

    Notes
    -----
    Only differences count: student and teacher may have scores of different offset. Differentiable.

    References
    ----------
    "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation"
    "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval"

    Examples
    --------
    >>> one = torch.ones(3)
    >>> float(margin_mse(5 * one, 3 * one, 9 * one, 6 * one))
    1.0
    """
    shapes = {tuple(s.shape) for s in (s_pos, s_neg, t_pos, t_neg)}
    if len(shapes) > 1:
        raise ValueError(f"s_pos, s_neg, t_pos and t_neg must have one shape, got {sorted(shapes)}")
    return ((s_pos - s_neg) - (t_pos - t_neg)).square().mean()


def expected_products(queries: Any, documents: Any) -> float:
    r"""How many products a query and a document cost on average: :math:`\sum_j p^q_j p^d_j`, p the shares of rows with word j.

    Parameters
    ----------
    queries : (q, vocabulary) sparse or dense weights
    documents : (n, vocabulary)

    Returns
    -------
    float
        the mean number of words that a query and a document have in common, over all pairs

    References
    ----------
    "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval"

    Examples
    --------
    >>> import numpy as np
    >>> expected_products(np.eye(2), np.array([[1, 1], [0, 1]]))
    0.75
    """
    first, second = as_sparse_rows(queries, "queries"), as_sparse_rows(documents, "documents")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"queries must have {second.shape[1]} columns like documents, got {first.shape[1]}")
    if not (first.shape[0] and second.shape[0]):
        return 0.0
    shares = [np.bincount(rows.indices, minlength=rows.shape[1]) / rows.shape[0] for rows in (first, second)]
    return float(shares[0] @ shares[1])


def prune_terms(weights: Any, terms: int) -> Any:
    """Keep the heaviest words of every row.

    Parameters
    ----------
    weights : (n, vocabulary) sparse or dense, at least 0
    terms : how many words a row keeps

    Returns
    -------
    (n, vocabulary) float32 of the kind of `weights`; of equal weights the first words stay

    References
    ----------
    "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval"

    Examples
    --------
    >>> import numpy as np
    >>> prune_terms(np.array([[3.0, 1.0, 2.0], [0.0, 1.0, 0.0]]), 2)
    array([[3., 0., 2.],
           [0., 1., 0.]], dtype=float32)
    """
    if isinstance(terms, bool) or not isinstance(terms, int) or terms < 1:
        raise ValueError(f"terms must be an int of at least 1, got {terms!r}")
    rows = as_sparse_rows(weights, "weights")
    owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, -rows.data, owner))
    rank = np.arange(len(owner)) - rows.indptr[owner]
    kept = np.sort(order[rank < terms])
    ends = np.searchsorted(kept, rows.indptr)
    made = sparse.csr_array((rows.data[kept], rows.indices[kept], ends), shape=rows.shape)
    return like(weights)(made)
