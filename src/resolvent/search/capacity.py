"""How many dimensions an encoder needs: margins of rankings, and what random compression keeps of them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import torch

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.sparse_rows import as_sparse_rows


def normalized_margin(q: Any, d1: Any, d2: Any) -> Any:
    r"""How clearly a query prefers one document: :math:`\mu = \langle q, d_1 - d_2\rangle / (\|q\|\,\|d_1 - d_2\|)`.

    Parameters
    ----------
    q, d1, d2 : (*batch, dim) real vectors; leading dimensions broadcast

    Returns
    -------
    (*batch,) between -1 and 1, a NumPy array if all are; 0 where q is zero or the documents are equal

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinity.

    Notes
    -----
    The cosine of the query with the difference. Vectors are scaled by their largest entries first, so that nothing
    leaves the range of the dtype. Differentiable where the margin is not 0 by the convention above.

    References
    ----------
    "Sparse, Dense, and Attentional Representations for Text Retrieval"

    Examples
    --------
    >>> import numpy as np
    >>> round(normalized_margin(np.array([1.0, 1.0]), np.array([3.0, 0.0]), np.array([0.0, 4.0])), 4)
    -0.1414
    """
    tensors, kinds = zip(*(as_tensor(x, name) for name, x in (("q", q), ("d1", d1), ("d2", d2))), strict=True)
    for name, t in zip(("q", "d1", "d2"), tensors, strict=True):
        check_finite(t, name)
        if t.is_complex() or t.ndim == 0 or t.shape[-1] != tensors[0].shape[-1]:
            raise ValueError(f"{name} must be real with {tensors[0].shape[-1]} entries, got {t.dtype} {tuple(t.shape)}")
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    asked, first, second = (t.to(dtype) for t in tensors)
    # Halves: the difference of two numbers near the largest one would overflow.
    difference = _unit(first / 2 - second / 2)
    margin = torch.linalg.vecdot(_unit(asked), difference)
    return give_back(margin, "torch" if "torch" in kinds else "numpy")


def encoder_dimension_bound(margin: float, failure: float, documents: int = 1) -> int:
    r"""How many dimensions of random compression keep a ranking:
    :math:`k \ge 2\,(\mu^2/2 - \mu^3/3)^{-1} \ln(4 N / \delta)`.

    Parameters
    ----------
    margin : smallest normalised margin :math:`\mu` that is to be kept, above 0 and at most 1
    failure : chance :math:`\delta` that is allowed for any of the rankings to go wrong, between 0 and 1
    documents : N, pairs of documents that must all be kept (a union bound)

    Returns
    -------
    int
        the smallest such k

    Raises
    ------
    ValueError : a number out of range.

    Notes
    -----
    For a random matrix A (k, dim) with independent entries of variance 1/k, Gaussian or of two signs,
    :math:`P(\langle Aq, Ad_1\rangle \le \langle Aq, Ad_2\rangle) \le 4 e^{-\frac k2(\mu^2/2 - \mu^3/3)}`:
    `compression_failure`. It is enough, not necessary: trained encoders do with less. Rankings of long documents have
    small margins, about one over the root of the length, so that a fixed k fails for them.

    References
    ----------
    "Sparse, Dense, and Attentional Representations for Text Retrieval"

    Examples
    --------
    >>> encoder_dimension_bound(0.1, 0.05), encoder_dimension_bound(0.05, 0.05)
    (1879, 7254)
    """
    rate = _exponent(margin)
    if not 0 < failure < 1:
        raise ValueError(f"failure must be between 0 and 1, got {failure}")
    if isinstance(documents, bool) or not isinstance(documents, int | np.integer) or documents < 1:
        raise ValueError(f"documents must be an int of at least 1, got {documents!r}")
    return math.ceil(2 / rate * math.log(4 * int(documents) / failure))


def compression_failure(margin: float, dim: int) -> float:
    r"""The bound :math:`4\exp(-\frac k2(\mu^2/2 - \mu^3/3))` on the chance that random compression turns a ranking round.

    Parameters
    ----------
    margin : normalised margin :math:`\mu`, above 0 and at most 1
    dim : dimensions k after compression

    Returns
    -------
    float
        at most 1

    References
    ----------
    "Sparse, Dense, and Attentional Representations for Text Retrieval"

    Examples
    --------
    >>> round(compression_failure(0.1, 2000), 4)
    0.0376
    """
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"dim must be an int of at least 1, got {dim!r}")
    return min(1.0, 4 * math.exp(-dim / 2 * _exponent(margin)))


class MarginProfile(NamedTuple):
    """How clearly a collection's queries prefer the better one of two documents: what `margin_profile` finds.

    Attributes
    ----------
    margins : (m,) ascending normalised margins of the sampled pairs, all above 0
    dims : (m,) int64 dimensions that `encoder_dimension_bound` asks for at each of them

    Examples
    --------
    >>> import numpy as np
    >>> profile = margin_profile(np.ones((1, 4)), np.triu(np.ones((4, 4))), generator=0)
    >>> profile.margins[[0, -1]].round(4), profile.dims[[0, -1]]
    (array([0.5  , 0.866]), array([106,  56]))
    """

    margins: np.ndarray
    dims: np.ndarray

    def quantile(self, share: float) -> tuple[float, int]:
        """Margin below which this share of the pairs lies, and the dimensions that keep the others."""
        if not 0 <= share <= 1:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        if not len(self.margins):
            raise ValueError("no query prefers one document to another: there are no margins")
        at = min(int(share * len(self.margins)), len(self.margins) - 1)
        return float(self.margins[at]), int(self.dims[at])


def margin_profile(
    queries: Any,
    documents: Any,
    *,
    rank: int = 10,
    pairs: int = 1000,
    failure: float = 0.05,
    generator: GeneratorLike = None,
) -> MarginProfile:
    r"""Sample the normalised margins of a collection, between the best document of a query and the one at a rank below.

    Parameters
    ----------
    queries : (q, dim) sparse or dense, nonnegative: counts, or 0 and 1
    documents : (n, dim) such as `bm25` weights, or 0 and 1
    rank : documents of rank 2 to `rank` are compared with the first; at least 2
    pairs : how many comparisons are sampled
    failure : for the dimensions, as in `encoder_dimension_bound`
    generator : of the sample

    Returns
    -------
    MarginProfile : of those sampled pairs whose scores differ

    Raises
    ------
    ValueError : matrices that do not fit, `rank` below 2, `pairs` below 1.

    Notes
    -----
    Exact search over the sparse rows, then one sparse difference per pair. The smallest margins decide how large a
    random encoder must be that reproduces the sparse ranking.

    References
    ----------
    "Sparse, Dense, and Attentional Representations for Text Retrieval"

    Examples
    --------
    >>> from resolvent import search
    >>> short, long = (search.topic_corpus(500, 1000, 20, length=size, generator=0) for size in (20, 200))
    >>> dims = [margin_profile(c.queries.counts, search.bm25(c.counts), generator=0).quantile(0.5)[1] for c in (short, long)]
    >>> dims[1] > 2 * dims[0]
    True
    """
    for name, value, least in (("rank", rank, 2), ("pairs", pairs, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    from resolvent.search.inverted import InvertedIndex

    asked, rows = as_sparse_rows(queries, "queries"), as_sparse_rows(documents, "documents")
    hits = InvertedIndex(rows).query(asked, rank)
    ready = np.argwhere((hits.scores[:, 1:] > -np.inf) & (hits.scores[:, 1:] < hits.scores[:, :1]))
    g = as_generator(generator)
    if len(ready):
        ready = ready[torch.randint(len(ready), (pairs,), generator=g).numpy()]
    query, place = ready[:, 0], ready[:, 1] + 1
    q, better, worse = asked[query], rows[hits.ids[query, 0]], rows[hits.ids[query, place]]
    difference = (better - worse).astype(np.float64)
    margins = np.asarray(q.astype(np.float64).multiply(difference).sum(1)).ravel()
    lengths = [np.sqrt(np.asarray(x.astype(np.float64).power(2).sum(1)).ravel()) for x in (q, difference)]
    margins = np.sort(margins / (lengths[0] * lengths[1]))
    # Scores that differ in their last bits only, by rounding.
    margins = np.minimum(margins[margins > 0], 1.0)
    dims = np.array([encoder_dimension_bound(float(m), failure) for m in margins], np.int64)
    return MarginProfile(margins, dims)


def _exponent(margin: float) -> float:
    if not 0 < margin <= 1:
        raise ValueError(f"margin must be above 0 and at most 1, got {margin}")
    return margin**2 / 2 - margin**3 / 3


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, or zero rows."""
    largest = x.abs().amax(-1, keepdim=True)
    zero = largest == 0
    scaled = x / torch.where(zero, torch.ones_like(largest), largest)
    length = torch.linalg.vector_norm(torch.where(zero, torch.ones_like(scaled), scaled), dim=-1, keepdim=True)
    return scaled / length
