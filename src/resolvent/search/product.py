"""Product quantisation without lists: every code is scanned; with or without a rotation before it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from resolvent.random import GeneratorLike
from resolvent.search.codebook import Codebook, train_codebook
from resolvent.search.hits import Found, Metric
from resolvent.search.index import as_rows
from resolvent.search.ivfpq import IVFPQ, read_codes


class ProductQuantizer(IVFPQ):
    r"""A scan of product-quantised codes, the best candidates re-scored at full precision.

    A vector is cut into m parts, and its code names the nearest of 2^bits codewords of each: the reconstruction y. The
    approximate score is :math:`\langle q, y\rangle` or :math:`-\|q - y\|^2`, a sum of m entries of the query's tables.

    Parameters
    ----------
    m : parts, m * bits / 8 bytes a vector; None takes a quarter of the dimension
    bits : 8, or 4: tables of 16 bytes that stay in registers
    refine : refine * k candidates are scored again with the stored vectors; 0 returns the approximate scores
        (``query(..., refine=)`` for one query)
    metric, dtype : as for every `VectorIndex`; dtype is what candidates are scored with again
    generator : of the training; an int makes it repeatable

    Notes
    -----
    Cost of a query: 2^bits * dim for the tables, n m additions, refine * k evaluations. Until there are 2^bits rows, the
    index scans the vectors.

    References
    ----------
    "Product Quantization for Nearest Neighbor Search"
    "Billion-scale similarity search with GPUs"

    Examples
    --------
    >>> from resolvent import search
    >>> corpus = search.clustered_vectors(2000, 16, n_queries=20, generator=0)
    >>> index = search.ProductQuantizer(m=8, bits=4, metric="l2").build(corpus.x)
    >>> codes = index.codes()
    >>> codes.shape, bool(((corpus.x.numpy() - index.decode(codes)) ** 2).mean() < 0.3)
    ((2000, 8), True)
    """

    parameters: ClassVar[tuple[str, ...]] = ("m", "bits", "refine", "generator")
    _rotated: ClassVar[bool] = False

    def __init__(
        self,
        m: int | None = None,
        bits: int = 8,
        *,
        refine: int = 4,
        metric: Metric = "ip",
        dtype: str = "float32",
        generator: GeneratorLike = 0,
    ) -> None:
        super().__init__(
            1, m, bits, False, rotate=self._rotated, probes=1, refine=refine, metric=metric, dtype=dtype, generator=generator
        )  # fmt: skip

    def _train(self, x: torch.Tensor) -> None:
        book = train_codebook(x.numpy(), self._parts(), self.bits, rotate=self.rotate, generator=self.generator)
        self._set_book(book, torch.zeros(1, x.shape[1]))

    def _search(  # type: ignore[override]
        self, q: np.ndarray, k: int, allowed: np.ndarray | None, *, refine: int | None = None
    ) -> Found:
        return super()._search(q, k, allowed, refine=refine)

    def encode(self, x: Any) -> np.ndarray:
        """Codes (n, m) uint8 of rows (n, dim), one part a byte."""
        rows = as_rows(x, self._stored().dim, self.metric)
        return self.codebook.encode(rows.numpy() - self._shift)

    def decode(self, codes: Any) -> np.ndarray:
        """The rows (n, dim) float32 that codes (n, m) stand for; under "cosine" they are near the unit sphere."""
        codes = np.asarray(codes)
        book = self.codebook
        if codes.ndim != 2 or codes.shape[1] != book.m or codes.dtype.kind not in "iu":
            raise ValueError(f"codes must be integers of shape (n, {book.m}), got {codes.dtype} of shape {codes.shape}")
        size = 1 << self.bits
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise ValueError(f"codes must be in 0..{size - 1}, got {int(codes.min())}..{int(codes.max())}")
        return np.asarray(book.decode(codes, self._stored().dim) + self._shift)

    def set_codewords(self, books: Any) -> None:
        """Replace the codewords (m, width, 2^bits); codes and rotation stay. Only under "ip", where nothing else follows."""
        book, new = self.codebook, np.array(books, np.float32)
        if self.inner != "ip":
            raise ValueError(f"codewords can be replaced under metric 'ip' and 'cosine' only, got {self.metric!r}")
        if new.shape != book.books.shape or not np.isfinite(new).all():
            raise ValueError(f"books must be finite with shape {book.books.shape}, got shape {new.shape}")
        self._book = Codebook(new, book.turn)

    def codes(self) -> np.ndarray:
        """The codes (n, m) uint8 of all rows, in the order in which they were added."""
        own = self._structure()
        slots = np.flatnonzero(own.rows[: int(own.size[0])] >= 0) + int(own.start[0])
        codes = np.empty((len(slots), self.codebook.m), np.uint8)
        codes[own.rows[slots]] = read_codes(own.data["codes"], slots, self.codebook.m, self.bits)
        return codes


class OPQ(ProductQuantizer):
    """Product quantisation after the rotation that suits it, found together with the codewords.

    Parameters
    ----------
    m, bits, refine, metric, dtype, generator : as for `ProductQuantizer`

    Notes
    -----
    The rotation is found by turns with the codewords: 20 rounds of one step of k-means in every part and one orthogonal
    Procrustes problem, from the principal axes. It helps where the variance is uneven between the parts or correlated
    across them, and costs dim^2 a query.

    References
    ----------
    "Optimized Product Quantization"
    "Jointly Optimizing Query Encoder and Product Quantization to Improve Retrieval Performance"

    Examples
    --------
    >>> from resolvent import search
    >>> corpus = search.clustered_vectors(2000, 16, n_queries=20, generator=0)
    >>> exact = search.exact_search(corpus.x, corpus.queries, 1, "l2").ids
    >>> kinds = search.ProductQuantizer, search.OPQ
    >>> hits = [kind(m=4, bits=8, metric="l2", refine=0).build(corpus.x).query(corpus.queries, 1) for kind in kinds]
    >>> plain, turned = (int((h.ids == exact).sum()) for h in hits)
    >>> turned > plain
    True
    """

    _rotated: ClassVar[bool] = True
