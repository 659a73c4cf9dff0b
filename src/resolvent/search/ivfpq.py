"""Inverted lists of product-quantised vectors: scan short codes, then score the best candidates exactly."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from resolvent.random import GeneratorLike
from resolvent.search.codebook import Codebook, train_codebook
from resolvent.search.hits import Found, Metric
from resolvent.search.inverted_lists import ClusteredIndex, padded, positive
from resolvent.search.parts import in_parts

_BLOCK, _GROUP = 32, 64
# Queries of one thread that go through the steps of a search together.
_QUERIES = 128


class IVFPQ(ClusteredIndex):
    r"""Inverted lists whose vectors are scanned as product-quantised codes, the best re-scored at full precision.

    A vector x in the list of centre c is kept as the codeword y of x - c. A query scans, in the lists of its best
    centres,

    .. math:: \langle q, x\rangle \approx \langle q, c\rangle + \langle q, y\rangle, \qquad
        -\|q-x\|^2 \approx (2\langle q, c\rangle - \|q\|^2) + 2\langle q, y\rangle - \|c + y\|^2 ,

    where :math:`\langle q, y\rangle` is a sum of m entries of a table that depends on the query alone and
    :math:`\|c+y\|^2` is kept with the code.

    Parameters
    ----------
    lists : number of clusters; None takes the square root of the number of rows
    m : parts of a code, m * bits / 8 bytes a vector; None takes a quarter of the dimension
    bits : 8, or 4: tables of 16 bytes that stay in registers, several times as fast per byte of code
    by_residual : code x - c (True) or x itself
    rotate : find a rotation for the codes (OPQ)
    probes : lists that a query looks into, unless it says ``query(..., probes=)``
    refine : refine * k candidates are scored again with the stored vectors; 0 returns the approximate scores
        (``query(..., refine=)`` for one query)
    metric, dtype : as for every `VectorIndex`; dtype is what candidates are scored with again
    generator : of the training; an int makes it repeatable

    Notes
    -----
    Cost of a query: lists * dim for the centres, 2^bits * dim for the tables, m additions for each of the
    probes n / lists codes, and refine k evaluations. With 4 bits the tables are rounded to bytes with one common step,
    whose error is far below that of the codes. An index with fewer rows than lists or codewords scans the vectors; one
    that grows to four times the rows that it was trained on is trained again, until it had 64 rows a list. Recall is
    limited by the lists that are looked into and by refine: a neighbour whose code scores below the best refine k is lost.

    References
    ----------
    "Billion-scale similarity search with GPUs"
    "Product Quantization for Nearest Neighbor Search"
    "Quicker ADC : Unlocking the hidden potential of Product Quantization with SIMD"

    Examples
    --------
    >>> from resolvent import search
    >>> corpus = search.clustered_vectors(4000, 32, n_queries=50, generator=0)
    >>> index = search.IVFPQ(lists=50, m=16, bits=4, metric="l2").build(corpus.x)
    >>> exact = search.exact_search(corpus.x, corpus.queries, 1, "l2").ids
    >>> hits = index.query(corpus.queries, 1, probes=10, refine=10)
    >>> float((hits.ids == exact).float().mean()) > 0.9, index.code_size
    (True, 8)
    """

    parameters: ClassVar[tuple[str, ...]] = (
        "lists", "m", "bits", "by_residual", "rotate", "probes", "refine", "generator",
    )  # fmt: skip

    def __init__(
        self,
        lists: int | None = None,
        m: int | None = None,
        bits: int = 8,
        by_residual: bool = True,
        *,
        rotate: bool = False,
        probes: int = 16,
        refine: int = 4,
        metric: Metric = "ip",
        dtype: str = "float32",
        generator: GeneratorLike = 0,
    ) -> None:
        if bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, got {bits!r}")
        self.m = None if m is None else positive(m, "m")
        self.bits = bits
        self.by_residual = bool(by_residual)
        self.rotate = bool(rotate)
        self.refine = _refine(refine)
        super().__init__(lists, probes=probes, metric=metric, dtype=dtype, generator=generator)

    def _clear(self) -> None:
        super()._clear()
        self._book: Codebook | None = None

    @property
    def codebook(self) -> Codebook:
        """The product quantiser of the codes."""
        if self._book is None:
            raise ValueError("the index is not trained yet: it needs more rows")
        return self._book

    @property
    def code_size(self) -> int:
        """Bytes of a code."""
        return -(-self._parts() * self.bits // 8)

    def _parts(self) -> int:
        dim = self._stored().dim
        m = max(1, dim // 4) if self.m is None else self.m
        if m > dim:
            raise ValueError(f"m must be at most the dimension, {dim}, got {m}")
        return m

    def _least_rows(self, lists: int) -> int:
        return max(lists, 1 << self.bits)

    def _enough(self, lists: int) -> int:
        return max(super()._enough(lists), super()._enough(1 << self.bits))

    def _train(self, x: torch.Tensor) -> None:
        centres, labels = self._train_centres(x)
        residual = (x - centres[labels] if self.by_residual else x).numpy()
        m = self._parts()
        book = train_codebook(residual, m, self.bits, rotate=self.rotate, generator=self.generator)
        self._set_book(book, centres)

    def _set_book(self, book: Codebook, centres: torch.Tensor) -> None:
        self._book = book
        self._centres = np.ascontiguousarray(book.project(centres.numpy()))

    def _project(self, z: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.codebook.project(z.numpy()))

    def _payload(self) -> dict[str, tuple[tuple[int, ...], type]]:
        m = self._parts()
        codes = (-(-m // 4), _GROUP) if self.bits == 4 else (_BLOCK, m)
        return {"codes": (codes, np.uint8), "offsets": ((_BLOCK,), np.float32)}

    def _fill(self, slots: np.ndarray, z: torch.Tensor, labels: np.ndarray) -> None:
        book, data = self.codebook, self._structure().data
        rows, centres = z.numpy(), self._centres[labels]
        codes, _ = book.assign(rows - centres if self.by_residual else rows)
        offsets = np.zeros(len(rows), np.float32)
        if self.inner == "l2":
            words = book.words(codes) + centres if self.by_residual else book.words(codes)
            offsets = -(words * words).sum(1)
        data["offsets"].reshape(-1)[slots] = offsets
        write_codes(data["codes"], slots, codes, self.bits)

    def _search(  # type: ignore[override]
        self, q: np.ndarray, k: int, allowed: np.ndarray | None, *, probes: int | None = None, refine: int | None = None
    ) -> Found:
        return self._find(q, k, allowed, probes, self.refine if refine is None else _refine(refine))

    def _scan(self, q: np.ndarray, k: int, allowed: np.ndarray | None, probes: int, refine: int) -> Found:
        b, count = len(q), len(self._centres)
        keys, values = np.full((b, k), -np.inf, np.float32), np.full((b, k), -1, np.int64)
        scored, scanned = np.zeros(b, np.int64), np.zeros(b, np.int64)
        # A chunk at a time: what lies between the steps stays in the cache, and memory is asked for once.
        step = _QUERIES * torch.get_num_threads()
        for a in range(0, b, step):
            own = slice(a, min(b, a + step))
            self._scan_some(q[own], padded(allowed), probes, refine, keys[own], values[own], scored[own], scanned[own])
        return Found(values, keys, scored + (count if count > 1 else 0), scanned)

    def _scan_some(
        self, q: np.ndarray, mask: np.ndarray, probes: int, refine: int, keys: np.ndarray, values: np.ndarray,
        scored: np.ndarray, scanned: np.ndarray,
    ) -> None:  # fmt: skip
        """Write the answers of some queries."""
        from resolvent.search.ivfpq_kernel import rescore, scan_bytes, scan_nibbles, sort_found
        from resolvent.search.kernel import kernel_scale, kernel_view

        vectors, own = self._stored(), self._structure()
        l2, b, k = self.inner == "l2", len(q), keys.shape[1]
        shifted = torch.from_numpy(q - self._shift)
        z = self._project(shifted)
        best, bias = self._best_lists(z, probes)
        if not self.by_residual:
            bias = np.zeros_like(bias)
        want = min(max(1, refine) * k, max(32, len(vectors)))
        near, rows, counts = np.empty((b, want), np.float32), np.empty((b, want), np.int64), np.zeros(b, np.int64)
        scan = scan_nibbles if self.bits == 4 else scan_bytes
        codes = own.data["codes"].reshape(-1) if self.bits == 4 else own.data["codes"].reshape(len(own.rows), -1)
        offsets, factor = own.data["offsets"].reshape(-1), np.float32(2 if l2 else 1)
        in_parts(
            scan, b, z.numpy(), self.codebook.books, factor, best, bias, own.start, own.size, codes, offsets, own.rows,
            mask, near, rows, counts, scanned,
        )  # fmt: skip
        if refine:
            in_parts(rescore, b, q, kernel_view(vectors), kernel_scale(vectors), l2, rows, counts, keys, values)
            scored[:] = counts
            return
        lengths = (shifted * shifted).sum(1).numpy() if l2 else np.zeros(b, np.float32)
        in_parts(sort_found, b, near, rows, counts, lengths, keys, values)

    def _arrays(self) -> dict[str, np.ndarray]:
        own = super()._arrays()
        if self._book is None:
            return own
        turn = {} if self._book.turn is None else {"turn": self._book.turn}
        return {**own, "books": self._book.books, **turn}

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        super()._take(arrays)
        dim, turn = self._stored().dim, arrays.get("turn")
        books, turn = np.array(arrays["books"]), None if turn is None else np.array(turn, np.float32)
        m = self._parts()
        wanted = (m, -(-dim // m), 1 << self.bits)
        if books.shape != wanted or books.dtype != np.float32:
            raise ValueError(f"books must be float32 of shape {wanted}, got {books.dtype} of {books.shape}")
        if turn is not None and turn.shape != (dim, m * wanted[1]):
            raise ValueError(f"turn must have shape {(dim, m * wanted[1])}, got {turn.shape}")
        self._book = Codebook(books, turn)
        if self._centres.shape[1] != self._book.width:
            raise ValueError(f"centres must have {self._book.width} columns, got {self._centres.shape[1]}")


def write_codes(blocks: np.ndarray, slots: np.ndarray, codes: np.ndarray, bits: int) -> None:
    """Put codes (n, m) with one part a byte into their slots."""
    from resolvent.search.shuffle_kernel import pack, unpack

    if bits == 8:
        blocks.reshape(-1, codes.shape[1])[slots] = codes
        return
    touched, where = np.unique(slots // _BLOCK, return_inverse=True)
    parts = unpack(blocks[touched])
    parts[where * _BLOCK + slots % _BLOCK, : codes.shape[1]] = codes
    blocks[touched] = pack(parts)


def read_codes(blocks: np.ndarray, slots: np.ndarray, m: int, bits: int) -> np.ndarray:
    """The codes (n, m) in these slots, one part a byte."""
    from resolvent.search.shuffle_kernel import unpack

    if bits == 8:
        return np.asarray(blocks.reshape(-1, m)[slots])
    touched, where = np.unique(slots // _BLOCK, return_inverse=True)
    return unpack(blocks[touched])[where * _BLOCK + slots % _BLOCK, :m]


def _refine(refine: int) -> int:
    if isinstance(refine, bool) or not isinstance(refine, int | np.integer) or refine < 0:
        raise ValueError(f"refine must be an integer of at least 0, got {refine!r}")
    return int(refine)
