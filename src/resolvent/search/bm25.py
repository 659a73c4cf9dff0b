"""BM25: counts of words as weights whose inner product with a query's counts is the score."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from resolvent.search.sparse_rows import as_sparse_rows, like


class WordStatistics(NamedTuple):
    """What BM25 must know of a whole collection; those of parts of a collection can be added.

    Attributes
    ----------
    documents : how many documents there are
    words : how many words they have in all
    frequency : (vocabulary,) int64, in how many documents each word stands

    Examples
    --------
    >>> import numpy as np
    >>> both = word_statistics(np.array([[2, 0]])).plus(word_statistics(np.array([[1, 1]])))
    >>> both.documents, both.words, both.frequency
    (2, 4.0, array([2, 1]))
    """

    documents: int
    words: float
    frequency: np.ndarray

    def plus(self, other: WordStatistics) -> WordStatistics:
        """Statistics of both collections together."""
        if self.frequency.shape != other.frequency.shape:
            raise ValueError(f"other must have {len(self.frequency)} words like this one, got {len(other.frequency)}")
        return WordStatistics(
            self.documents + other.documents, self.words + other.words, self.frequency + other.frequency
        )


def word_statistics(counts: Any) -> WordStatistics:
    """Count documents, words, and the documents of each word.

    Parameters
    ----------
    counts : (n, vocabulary) sparse or dense, how often each word stands in each document

    Returns
    -------
    WordStatistics

    Examples
    --------
    >>> import numpy as np
    >>> word_statistics(np.array([[2, 0], [1, 1]]))
    WordStatistics(documents=2, words=4.0, frequency=array([2, 1]))
    """
    rows = as_sparse_rows(counts, "counts")
    frequency = np.bincount(rows.indices, minlength=rows.shape[1]).astype(np.int64)
    return WordStatistics(rows.shape[0], float(rows.data.sum(dtype=np.float64)), frequency)


def bm25(counts: Any, *, k1: float = 1.2, b: float = 0.75, statistics: WordStatistics | None = None) -> Any:
    r"""Weights of words in documents, so that ``bm25(documents) @ query_counts`` is the BM25 score.

    .. math::

        w_{dt} = \ln\Bigl(1 + \frac{N - n_t + 1/2}{n_t + 1/2}\Bigr)
                 \frac{c_{dt}}{c_{dt} + k_1 (1 - b + b\, l_d / \bar l)}

    Parameters
    ----------
    counts : (n, vocabulary) how often each word stands in each document: SciPy sparse, dense array, or tensor
    k1 : how slowly repeated words saturate, at least 0; 0 sees only whether a word is there
    b : how much long documents are discounted, between 0 and 1
    statistics : of the whole collection, where `counts` is a part of it; None takes those of `counts`

    Returns
    -------
    (n, vocabulary) float32 of the kind of `counts`, with the same sparsity; all weights are positive.

    Raises
    ------
    ValueError : negative or infinite counts, `k1` or `b` out of range, statistics of another vocabulary, or ones that
        know fewer documents of a word than `counts` has.

    Notes
    -----
    The form of Lucene: the logarithm is never negative, and the factor k1 + 1, which changes no order, is left out. A
    query is the counts of its own words: a word that stands there twice counts twice. Cost: one pass over the
    entries; accuracy that of float32. No gradient.

    References
    ----------
    "The Probabilistic Relevance Framework: BM25 and Beyond"
    "Which BM25 Do You Mean? A Large-Scale Reproducibility Study of Scoring Variants"

    Examples
    --------
    >>> import numpy as np
    >>> documents = np.array([[1, 1, 0], [0, 2, 1], [0, 1, 0]])
    >>> weights = bm25(documents)
    >>> (weights @ np.array([1, 0, 1])).round(2)
    array([0.45, 0.37, 0.  ])
    """
    if not (math.isfinite(k1) and k1 >= 0):
        raise ValueError(f"k1 must be at least 0, got {k1}")
    if not 0 <= b <= 1:
        raise ValueError(f"b must be between 0 and 1, got {b}")
    rows = as_sparse_rows(counts, "counts")
    known = word_statistics(rows) if statistics is None else statistics
    if len(known.frequency) != rows.shape[1]:
        raise ValueError(f"statistics must have {rows.shape[1]} words like counts, got {len(known.frequency)}")
    here = np.bincount(rows.indices, minlength=rows.shape[1])
    if known.documents < rows.shape[0] or (known.frequency < here).any():
        raise ValueError("statistics must be of a collection that holds counts, but know fewer documents than it has")
    frequency = known.frequency.astype(np.float64)
    rarity = np.log1p((known.documents - frequency + 0.5) / (frequency + 0.5))
    lengths = np.asarray(rows.sum(1, dtype=np.float64)).ravel()
    # Without a word in the whole collection there is nothing to weigh.
    mean = known.words / known.documents if known.words else 1.0
    discount = k1 * (1 - b + b * lengths / mean)
    count = rows.data.astype(np.float64)
    data = rarity[rows.indices] * count / (count + np.repeat(discount, np.diff(rows.indptr)))
    weights = sparse.csr_array((data.astype(np.float32), rows.indices, rows.indptr), shape=rows.shape)
    return like(counts)(weights)
