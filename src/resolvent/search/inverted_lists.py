"""Inverted lists over clusters: a query looks only into the lists whose centres suit it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch

from resolvent.random import GeneratorLike, as_generator
from resolvent.search.clusters import kmeans, nearest_centres
from resolvent.search.exact import top_rows
from resolvent.search.hits import Found, Metric
from resolvent.search.index import VectorIndex
from resolvent.search.lists import InvertedLists
from resolvent.search.parts import in_parts
from resolvent.search.vectors import Vectors

# Rows are looked at so many at a time while lists are filled.
_CHUNK = 1 << 16
# Lists are trained anew when the index has grown so much since, unless they had enough rows at first.
_GROWTH, _ENOUGH = 4, 64


class ClusteredIndex(VectorIndex):
    """What the indexes over lists of clusters share: training, growth, the choice of lists, filters that match little.

    Parameters
    ----------
    lists : number of clusters; None takes the square root of the number of rows
    probes : lists that a query looks into
    metric, dtype : as for every `VectorIndex`
    generator : of the training; an int makes it repeatable
    """

    def __init__(
        self,
        lists: int | None = None,
        *,
        probes: int = 16,
        metric: Metric = "ip",
        dtype: str = "float32",
        generator: GeneratorLike = 0,
    ) -> None:
        super().__init__(metric, dtype)
        if lists is not None:
            positive(lists, "lists")
        self.lists = lists
        self.probes = positive(probes, "probes")
        # A number, so that the settings can be written down.
        drawn = torch.randint(2**31, (), generator=as_generator(generator))
        self.generator: int = generator if isinstance(generator, int) else int(drawn.item())
        self._clear()

    def _clear(self) -> None:
        self._centres = np.empty((0, 0), np.float32)
        self._shift = np.empty(0, np.float32)
        self._lists: InvertedLists | None = None
        self._trained = 0

    # What a kind of list writes.

    def _least_rows(self, lists: int) -> int:
        """Rows below which there is nothing to train: the index scans."""
        return lists

    def _enough(self, lists: int) -> int:
        """Rows beyond which training on more changes little."""
        return _ENOUGH * lists

    def _train(self, x: torch.Tensor) -> None:
        """Train on rows (n, dim) without the shift; sets `_centres` and whatever else the lists need."""
        raise NotImplementedError

    def _payload(self) -> dict[str, tuple[tuple[int, ...], type]]:
        return {}

    def _fill(self, slots: np.ndarray, z: torch.Tensor, labels: np.ndarray) -> None:
        """Write what belongs to rows (without the shift) into their slots."""

    def _project(self, z: torch.Tensor) -> torch.Tensor:
        """Rows or queries in the coordinates of the centres."""
        return z

    def _scan(self, q: np.ndarray, k: int, allowed: np.ndarray | None, probes: int, refine: int) -> Found:
        raise NotImplementedError

    # Training and growth.

    def _stored(self) -> Vectors:
        if self._vectors is None:
            raise ValueError("the index is empty: build it first")
        return self._vectors

    def _build(self) -> None:
        vectors = self._stored()
        n = len(vectors)
        lists = self.lists or max(1, round(math.sqrt(n)))
        self._clear()
        if n < self._least_rows(lists):
            return
        x = vectors.block(0, n)
        # Squares far from the origin would cancel. Inner products must keep their origin.
        shift = x.mean(0) if self.inner == "l2" else torch.zeros(x.shape[1])
        self._shift = shift.numpy()
        self._train(x - shift if self.inner == "l2" else x)
        self._trained = n
        self._lists = InvertedLists(len(self._centres), self._payload())
        self._append(0)

    def _train_centres(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Centres of the lists and the label of each row."""
        lists = self.lists or max(1, round(math.sqrt(len(x))))
        found = kmeans(x, lists, generator=self.generator)
        return found.centres, found.labels

    def _append(self, first: int) -> None:
        """Put the rows from `first` on into their lists."""
        vectors, lists = self._stored(), self._structure()
        centres, n = torch.from_numpy(self._centres), len(vectors)
        labels, parts = np.empty(n - first, np.int64), range(first, n, _CHUNK)

        def ready(a: int) -> torch.Tensor:
            return self._project(vectors.block(a, min(n, a + _CHUNK)) - torch.from_numpy(self._shift))

        for a in parts:
            labels[a - first : a - first + _CHUNK] = nearest_centres(ready(a), centres)[0].numpy()
        # All slots at once: the lists are laid out once, without room between them.
        slots = lists.place(labels, first)
        for a in parts:
            own = slice(a - first, a - first + _CHUNK)
            self._fill(slots[own], ready(a), labels[own])

    def _grow(self, first: int) -> None:
        n = len(self._stored())
        few = self.lists is None or self._trained < self._enough(self.lists)
        if self._lists is None or (few and n >= _GROWTH * self._trained):
            self._build()
        else:
            self._append(first)

    def _structure(self) -> InvertedLists:
        if self._lists is None:
            raise ValueError("the index has no lists yet")
        return self._lists

    # Search.

    def _best_lists(self, z: torch.Tensor, probes: int) -> tuple[np.ndarray, np.ndarray]:
        """The lists of the largest scores for projected queries, (b, probes), with <q, centre>, doubled under "l2"."""
        from resolvent.search.ivfpq_kernel import best_lists

        centres = torch.from_numpy(self._centres)
        lists, bias = np.empty((len(z), probes), np.int64), np.empty((len(z), probes), np.float32)
        if self.inner == "l2":
            half = (centres * centres).sum(1)
            scores = torch.addmm(half, z, centres.mT, beta=-1, alpha=2)
        else:
            half, scores = torch.zeros(len(centres)), z @ centres.mT
        in_parts(best_lists, len(z), scores.numpy(), lists, bias)
        return lists, bias + half.numpy()[lists] if self.inner == "l2" else bias

    def _find(self, q: np.ndarray, k: int, allowed: np.ndarray | None, probes: int | None, refine: int) -> Found:
        """Scan lists; where a filter leaves fewer than k hits in them, look into twice as many, and so on."""
        probes = self.probes if probes is None else positive(probes, "probes")
        vectors = self._stored()
        if self._lists is None:
            return top_rows(vectors, q, k, self.inner, allowed)
        count = len(self._centres)
        probes = min(probes, count)
        found = self._scan(q, k, allowed, probes, refine)
        there = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
        short = np.flatnonzero((found.rows >= 0).sum(1) < min(k, there))
        while len(short) and probes < count:
            probes = min(2 * probes, count)
            more = self._scan(q[short], k, allowed, probes, refine)
            found.rows[short], found.scores[short] = more.rows, more.scores
            found.evaluations[short] += more.evaluations
            found.scanned[short] += more.scanned
            short = short[(more.rows >= 0).sum(1) < min(k, there)]
        return found

    # Files.

    def _arrays(self) -> dict[str, np.ndarray]:
        if self._lists is None:
            return {}
        own = {"centres": self._centres, "shift": self._shift, "trained": np.array([self._trained])}
        return own | {f"lists_{name}": part for name, part in self._lists.arrays().items()}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._clear()
        if not arrays:
            return
        self._take(arrays)
        dim = self._stored().dim
        if self._shift.shape != (dim,) or self._centres.ndim != 2 or len(self._centres) != len(arrays["lists_start"]):
            raise ValueError(
                f"shift must have {dim} entries and centres a row for each list, got {self._centres.shape}"
            )
        self._lists = InvertedLists(len(self._centres), self._payload())
        self._lists.restore({name[6:]: part for name, part in arrays.items() if name.startswith("lists_")})
        self._lists.check_rows(len(self._stored()))

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        # Small, and read by torch with every search: copied out of a file that is mapped.
        self._centres, self._shift = (np.array(arrays[name], np.float32) for name in ("centres", "shift"))
        self._trained = int(arrays["trained"][0])


class IVF(ClusteredIndex):
    r"""Inverted lists over k-means clusters; the vectors of the best lists are compared at full precision.

    Parameters
    ----------
    lists : number of clusters; None takes the square root of the number of rows
    probes : lists that a query looks into, unless it says ``query(..., probes=)``; all of them is an exact search
    metric, dtype : as for every `VectorIndex`
    generator : of the training; an int makes it repeatable

    Notes
    -----
    A query costs lists + probes n / lists evaluations. Under inner products the lists with the largest <q, centre> are
    looked into, otherwise those with the nearest centres. An index with fewer rows than lists scans all of them; one
    that grows to four times the rows that it was trained on is trained again, until it had 64 rows a list.

    References
    ----------
    "Billion-scale similarity search with GPUs"

    Examples
    --------
    >>> from resolvent import search
    >>> corpus = search.clustered_vectors(2000, 16, n_queries=20, generator=0)
    >>> index = search.IVF(lists=40, metric="l2").build(corpus.x)
    >>> exact = search.exact_search(corpus.x, corpus.queries, 1, "l2").ids
    >>> float((index.query(corpus.queries, 1, probes=4).ids == exact).float().mean()) > 0.9
    True
    """

    parameters: ClassVar[tuple[str, ...]] = ("lists", "probes", "generator")

    def _train(self, x: torch.Tensor) -> None:
        self._centres = np.ascontiguousarray(self._train_centres(x)[0].numpy())

    def _search(  # type: ignore[override]
        self, q: np.ndarray, k: int, allowed: np.ndarray | None, *, probes: int | None = None
    ) -> Found:
        return self._find(q, k, allowed, probes, 0)

    def _scan(self, q: np.ndarray, k: int, allowed: np.ndarray | None, probes: int, refine: int) -> Found:
        from resolvent.search.ivfpq_kernel import scan_rows
        from resolvent.search.kernel import kernel_scale, kernel_view

        vectors, own = self._stored(), self._structure()
        best, _ = self._best_lists(torch.from_numpy(q - self._shift), probes)
        b = len(q)
        keys, values = np.full((b, k), -np.inf, np.float32), np.full((b, k), -1, np.int64)
        counts, seen = np.zeros(b, np.int64), np.zeros(b, np.int64)
        mask = padded(allowed)
        view, scale, l2 = kernel_view(vectors), kernel_scale(vectors), self.inner == "l2"
        in_parts(
            scan_rows, b, q, view, scale, l2, best, own.start, own.size, own.rows, mask, keys, values, counts, seen
        )  # fmt: skip
        return Found(values, keys, seen + len(self._centres), np.zeros(b, np.int64))


def positive(value: int, name: str) -> int:
    """A whole number of at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def padded(mask: np.ndarray | None) -> Any:
    """The bitmap of a filter as kernels take it, empty for none."""
    return np.empty(0, np.uint8) if mask is None else mask
