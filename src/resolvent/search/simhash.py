"""Hashing: several tables of the signs of random projections, probed in the order of their margins."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch

from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.search.augment import Augmentation
from resolvent.search.exact import top_rows
from resolvent.search.hits import Found, Metric
from resolvent.search.index import VectorIndex
from resolvent.search.inverted_lists import positive
from resolvent.search.vectors import Vectors

_CHUNK = 1 << 15
_MOST_BITS = 31


class SimHash(VectorIndex):
    """Search by hash tables of random signs, for angles; inner products and distances are turned into angles.

    Parameters
    ----------
    bits : signs in a code, 1 to 31; about log2 n
    tables : codes of a row, each in its own table
    probes : buckets that a query looks into, over all tables together, when the query says nothing else
    metric, dtype : as for every `VectorIndex`
    generator : of the projections; an int makes it repeatable

    Notes
    -----
    A sign differs with probability angle/pi, so that one table finds a row with (1 - angle/pi)^bits and any of them with
    `hit_probability`. A query takes the buckets of all tables in one order: that of the sum of squared margins of the
    bits in which a bucket differs from it. `query(..., probes=)` sets how many; every row found is scored once at full
    precision. The bits * tables projections of a query are counted as evaluations too. A query whose buckets hold fewer
    than k rows that may be found is answered by a scan. For inner products all rows get
    the same length by one more coordinate (see `to_cosine`), which rows much longer than the others spoil; distances are
    turned into angles about a point beside the mean. 8 bytes a row and table.

    References
    ----------
    "A Comprehensive Survey on Vector Database: Storage and Retrieval Technique, Challenge"

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 16))
    >>> index = SimHash(bits=6, tables=4, metric="cosine").build(x)
    >>> index.query(x[:3], k=1).ids[:, 0]
    array([0, 1, 2])
    """

    parameters: ClassVar[tuple[str, ...]] = ("bits", "tables", "probes", "generator")

    def __init__(
        self,
        bits: int = 12,
        tables: int = 8,
        *,
        probes: int = 64,
        metric: Metric = "ip",
        dtype: str = "float32",
        generator: GeneratorLike = 0,
    ) -> None:
        super().__init__(metric, dtype)
        self.bits = positive(bits, "bits")
        if bits > _MOST_BITS:
            raise ValueError(f"bits must be at most {_MOST_BITS}, got {bits}")
        self.tables, self.probes = positive(tables, "tables"), positive(probes, "probes")
        self.generator = as_seed(generator)

    def hit_probability(self, angle: float) -> float:
        """The probability that a row at this angle (radians) shares at least one of its buckets with the query."""
        return hit_probability(angle, self.bits, self.tables)

    def _build(self) -> None:
        vectors = self._stored()
        self._augment = Augmentation(vectors, self.inner)
        shape = (vectors.dim + 1, self.bits * self.tables)
        self._directions = gaussian(shape, torch.float32, generator=self.generator)
        codes = self._hash(0)
        order = np.argsort(codes, axis=1, kind="stable")
        self._codes = np.take_along_axis(codes, order, 1)
        self._order = order.astype(np.int32)

    def _grow(self, first: int) -> None:
        if not self._augment.fits(first):
            self._build()
            return
        codes = self._hash(first)
        order = np.argsort(codes, axis=1, kind="stable")
        codes, rows = np.take_along_axis(codes, order, 1), (order + first).astype(np.int32)
        merged = []
        for t in range(self.tables):
            at = np.searchsorted(self._codes[t], codes[t], side="right")
            merged.append((np.insert(self._codes[t], at, codes[t]), np.insert(self._order[t], at, rows[t])))
        self._codes, self._order = np.stack([m[0] for m in merged]), np.stack([m[1] for m in merged])

    def _hash(self, first: int) -> np.ndarray:
        """Codes (tables, m) of the rows from `first` on."""
        from resolvent.search.simhash_kernel import pack

        n = len(self._stored())
        codes = np.empty((self.tables, n - first), np.uint32)
        for a in range(first, n, _CHUNK):
            b = min(n, a + _CHUNK)
            projections = (self._augment.rows(a, b) @ self._directions).numpy()
            part = np.empty((self.tables, b - a), np.uint32)
            pack(projections, self.bits, part)
            codes[:, a - first : b - first] = part
        return codes

    def _search(  # type: ignore[override]
        self, q: np.ndarray, k: int, allowed: np.ndarray | None, probes: int | None = None
    ) -> Found:
        from resolvent.search.kernel import kernel_scale, kernel_view
        from resolvent.search.simhash_kernel import search

        vectors = self._stored()
        probes = positive(self.probes if probes is None else probes, "probes")
        probes = min(probes, self.tables << self.bits)
        projections = (self._augment.queries(q) @ self._directions).numpy()
        rows, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        counts = np.zeros((len(q), 2), np.int64)
        if len(vectors):
            mask = np.empty(0, np.uint8) if allowed is None else allowed
            data, scale, l2 = kernel_view(vectors), kernel_scale(vectors), self.inner == "l2"
            tables = (self._codes, self._order)
            search(data, scale, l2, q, projections, self.bits, *tables, probes, mask, rows, scores, counts)
        found = Found(rows, scores, counts[:, 0] + self.bits * self.tables, counts[:, 1].copy())
        return filled(found, vectors, q, self.inner, allowed)

    def _stored(self) -> Vectors:
        if self._vectors is None:
            raise ValueError("the index is empty: build it first")
        return self._vectors

    def _arrays(self) -> dict[str, np.ndarray]:
        if self._vectors is None:
            return {}
        tables = {"codes": self._codes, "order": self._order, "directions": self._directions.numpy()}
        return {**tables, **self._augment.arrays()}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        vectors = self._stored()
        self._augment = Augmentation.restore(vectors, self.inner, arrays)
        self._codes, self._order = arrays["codes"], arrays["order"]
        self._directions = torch.from_numpy(np.array(arrays["directions"], np.float32))
        shape = (self.tables, len(vectors))
        if self._codes.shape != shape or self._order.shape != shape:
            raise ValueError(f"codes and order must have shape {shape}, got {self._codes.shape}, {self._order.shape}")
        if self._directions.shape != (vectors.dim + 1, self.bits * self.tables):
            raise ValueError(f"directions do not fit: {tuple(self._directions.shape)}")
        if len(vectors) and (self._order.min() < 0 or self._order.max() >= len(vectors)):
            raise ValueError(f"order must hold positions below {len(vectors)}")


def hit_probability(angle: Any, bits: int, tables: int = 1) -> Any:
    r"""Compute how likely two vectors share a bucket of random signs: :math:`1 - (1 - (1 - \theta/\pi)^r)^L`.

    Parameters
    ----------
    angle : radians from 0 to pi, a number or an array
    bits : r, signs in a code
    tables : L

    Returns
    -------
    float, or an array of the shape of `angle`

    Raises
    ------
    ValueError : an angle outside [0, pi], bits or tables below 1.

    References
    ----------
    "A Comprehensive Survey on Vector Database: Storage and Retrieval Technique, Challenge"

    Examples
    --------
    >>> hit_probability(math.pi / 4, bits=2), round(hit_probability(math.pi / 4, bits=2, tables=3), 3)
    (0.5625, 0.916)
    """
    theta = np.asarray(angle, dtype=np.float64)
    if not ((theta >= 0) & (theta <= math.pi)).all():
        raise ValueError(f"angle must be from 0 to pi, got {angle!r}")
    one = (1 - theta / math.pi) ** positive(bits, "bits")
    with np.errstate(divide="ignore"):
        found = -np.expm1(positive(tables, "tables") * np.log1p(-one))
    return found if theta.ndim else float(found)


def tables_needed(angle: float, bits: int, probability: float) -> int:
    """Compute how many tables find a row at an angle with a given probability, the inverse of `hit_probability`.

    Parameters
    ----------
    angle : radians, from 0 to below pi
    bits : signs in a code
    probability : to reach, in (0, 1)

    Returns
    -------
    int

    Raises
    ------
    ValueError : arguments outside these ranges.

    Examples
    --------
    >>> tables_needed(0.5, bits=8, probability=0.95)
    11
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability!r}")
    one = hit_probability(angle, bits)
    if one <= 0:
        raise ValueError(f"angle must be below pi, got {angle!r}")
    return 1 if one >= probability else math.ceil(math.log1p(-probability) / math.log1p(-one))


def as_seed(generator: GeneratorLike) -> int:
    """A seed, which settings can hold."""
    if isinstance(generator, int) and not isinstance(generator, bool):
        return generator
    return int(torch.randint(2**31, (), generator=as_generator(generator)).item())


def filled(found: Found, vectors: Vectors, q: np.ndarray, metric: str, allowed: np.ndarray | None) -> Found:
    """The answer, with the queries that lack hits although there are more answered by a scan."""
    k = found.rows.shape[1]
    there = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
    few = np.flatnonzero((found.rows >= 0).sum(1) < min(k, there))
    if not len(few):
        return found
    scan = top_rows(vectors, q[few], k, metric, allowed)
    found.rows[few], found.scores[few] = scan.rows, scan.scores
    found.evaluations[few] += scan.evaluations
    return found
