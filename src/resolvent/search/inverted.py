"""An inverted index over sparse vectors: exact top k without reading most of the postings."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from torch import Tensor

from resolvent.search.hits import Found, Hits, as_hits
from resolvent.search.ids import IdMap
from resolvent.search.postings import Impacts, Postings, as_rows, check_blocks, from_arrays, make_postings
from resolvent.search.sparse_rows import as_sparse_rows

# Another part is made of what is added until the last ones are of like size: few parts, and each row moves rarely.
_GROWTH = 2


class InvertedIndex:
    r"""Exact search by inner product over sparse vectors of nonnegative weights, such as BM25 or SPLADE gives.

    :math:`s(q, d) = \sum_t q_t d_t`. Hits are the documents that share a term with the query.

    Parameters
    ----------
    matrix : (n, dim) documents to begin with, as `build` takes them; None makes an empty index
    ids : of their rows
    impacts : how weights are kept: "float32", or "uint8" with one scale per term (the answer is then exact for the
        rounded weights, each within 1/510 of the largest weight of its term)

    Notes
    -----
    Postings are kept by term and window of 32 to 256 documents, each block with its largest impact. Windows are visited by
    descending upper bound until the bound is at most the k-th best score; within a window, MaxScore leaves out the
    terms that together cannot matter. `Hits.scanned` counts the postings that were evaluated, `Hits.evaluations` the
    documents whose score was summed to the end. Scores are sums in float64, rounded to float32 once; of documents with
    equal scores (to 12 digits) at the end of the list any may be returned.

    What is added makes a part of its own; parts of like size are merged, so that n documents added one batch after
    another cost :math:`O(\log n)` writes each. Merging rounds 8-bit weights again where the largest of a term has
    grown. Removed rows are skipped, and freed by `compact`. There is no gradient: scores of a batch with gradients are
    a matrix product.

    References
    ----------
    "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking"
    "Query evaluation: Strategies and optimizations"
    "Faster top-k document retrieval using block-max indexes"

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> documents = sparse.csr_array(np.array([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 3.0]]))
    >>> index = InvertedIndex(documents, ids=["a", "b", "c"])
    >>> hits = index.query(np.array([0.0, 1.0, 1.0]), k=3)
    >>> hits.ids, hits.scores
    (array(['c', 'a', None], dtype=object), array([  4.,   3., -inf], dtype=float32))
    """

    def __init__(self, matrix: Any = None, ids: Any = None, *, impacts: Impacts = "float32") -> None:
        if impacts not in ("float32", "uint8"):
            raise ValueError(f"impacts must be 'float32' or 'uint8', got {impacts!r}")
        self.impacts: Impacts = impacts
        self._dim: int | None = None
        self._parts: list[Postings] = []
        self._ids = IdMap()
        self._dead = np.zeros(0, np.uint8)
        self._unread = False
        if matrix is not None:
            self.build(matrix, ids)
        elif ids is not None:
            raise ValueError("ids were given without a matrix")

    @property
    def dim(self) -> int | None:
        """How many terms there are; None before anything was added."""
        return self._dim

    def __len__(self) -> int:
        """Rows that can be found."""
        return len(self._dead) - int(np.count_nonzero(self._dead))

    @property
    def postings(self) -> int:
        """How many postings are stored, those of removed rows included."""
        return sum(len(part.impacts) for part in self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes of postings and ids."""
        return sum(part.nbytes for part in self._parts) + self._ids.nbytes + self._dead.nbytes

    def build(self, x: Any, ids: Any = None) -> Self:
        """Index the rows of `x` (n, dim) and nothing else; ids (n,) are int64 or strings, by default 0..n-1.

        `x` is a SciPy sparse array, a dense array, or a tensor of either kind, with finite entries of at least 0.
        """
        rows = as_sparse_rows(x)
        known = IdMap()
        known.append(rows.shape[0], ids)
        self._dim, self._ids = rows.shape[1], known
        self._dead = np.zeros(rows.shape[0], np.uint8)
        self._parts = [make_postings(rows, self.impacts)] if rows.shape[0] else []
        return self

    def add(self, x: Any, ids: Any = None) -> Self:
        """Index further rows; an id that is there already is a ValueError."""
        if self._dim is None:
            return self.build(x, ids)
        rows = as_sparse_rows(x, dim=self._dim)
        self._ids.append(rows.shape[0], ids)
        self._dead = np.concatenate([self._dead, np.zeros(rows.shape[0], np.uint8)])
        if rows.shape[0]:
            self._parts.append(make_postings(rows, self.impacts))
        while len(self._parts) > 1 and self._parts[-2].rows < _GROWTH * self._parts[-1].rows:
            self._merge(2)
        return self

    def remove(self, ids: Any) -> int:
        """Remove rows by id and say how many; an id that is not there is a KeyError and nothing is removed."""
        rows = np.unique(self._ids.positions(ids))
        self._ids.remove(rows)
        self._dead[rows] = 1
        return len(rows)

    def compact(self) -> Self:
        """Make one part of the rows that are left, which frees what the removed rows held."""
        self._merge(len(self._parts))
        live = np.flatnonzero(self._dead == 0)
        if len(live) < len(self._dead):
            self._ids = self._ids.keep(live)
            self._parts = [make_postings(as_rows(self._parts[0])[live], self.impacts)] if len(live) else []
            self._dead = np.zeros(len(live), np.uint8)
        return self

    def query(self, q: Any, k: int = 10, *, allowed: Any = None) -> Hits:
        """Find the k best rows for one query (dim,) or several (b, dim).

        Parameters
        ----------
        q : sparse or dense array or tensor with finite entries of at least 0
        k : hits per query; where fewer share a term with the query, the rest has score -inf
        allowed : only these may be found: ids, or a bool per row in the order in which rows were added

        Returns
        -------
        Hits : NumPy arrays for arrays and SciPy matrices, tensors for tensors

        Raises
        ------
        ValueError : an empty index, another number of columns, negative or not finite weights, k below 1.
        OverflowError : a score is beyond float32.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be a positive integer, got {k!r}")
        if self._dim is None:
            raise ValueError("the index is empty and has no dimension yet: build it or add rows first")
        queries = as_sparse_rows(q, "q", self._dim, single=True)
        found = self._search(queries, int(k), self._bitmap(allowed))
        explain = {"method": "inverted", "parts": len(self._parts), "exact": True}
        return as_hits(found, self._ids.take(found.rows), _shaped(q), explain)

    def settings(self) -> dict[str, Any]:
        """How the index was made, as JSON: `restore` takes it."""
        return {"kind": type(self).__name__, "impacts": self.impacts, "dim": self._dim}

    def arrays(self) -> dict[str, np.ndarray]:
        """The index as arrays of numbers, for files; its parts are merged to one before."""
        if self._dim is None:
            return {}
        self._merge(len(self._parts))
        part = self._parts[0] if self._parts else make_postings(_no_rows(self._dim), self.impacts)
        parts = {f"structure.{name}": array for name, array in part.arrays().items()}
        return {**parts, **{f"ids.{name}": a for name, a in self._ids.arrays().items()}, "dead": self._dead}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """The index that `settings` and `arrays` describe, over memory-mapped arrays without a copy.

        Parameters
        ----------
        settings, arrays : what `settings()` and `arrays()` gave
        """
        if settings.get("kind") != cls.__name__:
            raise ValueError(f"settings must be of a {cls.__name__}, got {settings.get('kind')!r}")
        made = cls(impacts=settings["impacts"])
        if settings["dim"] is None:
            return made
        own, ids = (
            {name[len(group) :]: array for name, array in arrays.items() if name.startswith(group)}
            for group in ("structure.", "ids.")
        )
        part = from_arrays(own, settings["dim"])
        made._dead = np.array(arrays["dead"], np.uint8)
        if len(made._dead) != part.rows or part.impacts.dtype != made.impacts:
            raise ValueError(f"arrays must describe {part.rows} rows in {made.impacts}, got {len(made._dead)}")
        made._dim, made._parts, made._unread = part.dim, [part] if part.rows else [], True
        made._ids = IdMap.restore(ids, part.rows, np.flatnonzero(made._dead))
        return made

    def _check(self) -> None:
        """Look at what came from a file before the first use of it."""
        for part in self._parts:
            check_blocks(part)
        self._unread = False

    def _merge(self, count: int) -> None:
        """Make one of the last `count` parts."""
        if self._unread:
            self._check()
        if count < 2:
            return
        from scipy import sparse

        rows = sparse.vstack([as_rows(part) for part in self._parts[-count:]], format="csr")
        self._parts[-count:] = [make_postings(rows, self.impacts)]

    def _bitmap(self, allowed: Any) -> np.ndarray:
        """One byte per row: may it be found? Of length 0 if all may."""
        n = len(self._dead)
        alive = (self._dead == 0).view(np.uint8)
        if allowed is None:
            return alive if self._dead.any() else alive[:0]
        mask = allowed.detach().cpu().numpy() if isinstance(allowed, Tensor) else allowed
        if isinstance(mask, np.ndarray) and mask.dtype == bool:
            if mask.shape != (n,):
                raise ValueError(f"allowed must have one entry for each of the {n} rows, got shape {mask.shape}")
            return mask.view(np.uint8) & alive
        bitmap = np.zeros(n, np.uint8)
        bitmap[self._ids.positions(mask, "allowed")] = 1
        return bitmap & alive

    def _search(self, queries: Any, k: int, allowed: np.ndarray) -> Found:
        from resolvent.search.inverted_kernel import search_part

        if self._unread:
            self._check()
        b = queries.shape[0]
        k_true = max(1, min(k, len(self._dead)))
        scores, rows = np.full((b, k_true), -np.inf), np.full((b, k_true), -1, np.int64)
        filled, evaluations, scanned = (np.zeros(b, np.int64) for _ in range(3))
        ptr, terms = queries.indptr.astype(np.int64), queries.indices.astype(np.int64)
        first = 0
        for part in self._parts:
            weights = queries.data * part.scale[terms] if len(part.scale) else queries.data
            open_windows = _open_windows(allowed, first, part)
            search_part(
                ptr,
                terms,
                weights.astype(np.float64),
                *part[:4],
                part.places,
                part.impacts,
                part.windows,
                part.bits,
                first,
                allowed,
                open_windows,
                scores,
                rows,
                filled,
                evaluations,
                scanned,
            )
            first += part.rows
        return _sorted(scores, rows, k, evaluations, scanned)


def _open_windows(allowed: np.ndarray, first: int, part: Postings) -> np.ndarray:
    """One byte per window of a part: is there a row that may be found?"""
    if not len(allowed):
        return np.ones(part.windows, np.uint8)
    own = allowed[first : first + part.rows]
    return np.bitwise_or.reduceat(own, np.arange(0, part.rows, 1 << part.bits)).astype(np.uint8)


def _sorted(scores: np.ndarray, rows: np.ndarray, k: int, evaluations: np.ndarray, scanned: np.ndarray) -> Found:
    """Heaps as lists: the best first, of equal ones the smaller row, padded to k."""
    order = np.lexsort((rows, -scores), axis=1)
    if scores.max(initial=0.0) > np.finfo(np.float32).max:
        raise OverflowError("a score is beyond float32: scale the weights down")
    best = np.take_along_axis(scores, order, 1).astype(np.float32)
    hits = np.full((len(rows), k), -1, np.int64)
    values = np.full((len(rows), k), -np.inf, np.float32)
    hits[:, : rows.shape[1]] = np.take_along_axis(rows, order, 1)
    values[:, : rows.shape[1]] = best
    return Found(hits, values, evaluations, scanned)


def _shaped(q: Any) -> Any:
    """Something with the kind, device and number of dimensions of the query, for the form of the answer."""
    if isinstance(q, Tensor):
        return q
    return np.empty(0) if np.ndim(q) == 1 or getattr(q, "ndim", 2) == 1 else np.empty((0, 0))


def _no_rows(dim: int) -> Any:
    from scipy import sparse

    return sparse.csr_array((0, dim), dtype=np.float32)
