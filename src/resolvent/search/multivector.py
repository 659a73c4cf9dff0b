"""An index of token sets: encodings find candidates, the exact Chamfer score ranks them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from resolvent.search.chamfer_score import candidate_scores, carve_balls, scored_pairs
from resolvent.search.encodings import check_encoding, encoding_length, fixed_dimensional_encoding
from resolvent.search.exact import top_rows
from resolvent.search.hits import Found, Hits, as_hits
from resolvent.search.ids import IdMap
from resolvent.search.index import VectorIndex
from resolvent.search.ragged import Sets, as_offsets, as_sets, joined_rows
from resolvent.search.vectors import FORMATS, Vectors

# Encodings that are made before they are stored, in entries: a corpus is not held twice in float32.
_ENTRIES = 1 << 25


class MultiVectorIndex:
    r"""Search sets of tokens by the Chamfer score :math:`\sum_{q \in Q} \max_{p \in P} \langle q, p \rangle`.

    Parameters
    ----------
    index : an empty index with metric "ip" for the encodings (`HNSW`, `IVFPQ`, ...); default an exact scan
    repetitions, bits, proj_dim, final_dim, fill_empty, generator : of `fixed_dimensional_encoding`
    dtype : how tokens are kept: "float32", "float16", "bfloat16" or "int8"; so are the encodings of the exact scan

    Notes
    -----
    Only candidates are scored token by token: 2 d flops for each of their pairs with the query's tokens. The encodings of
    the defaults take 40 KB a document in float32; `final_dim` or an index over codes take less. In `Hits`, `evaluations`
    counts pairs of tokens, `scanned` encodings. Removed documents stay, never returned, until `compact`.

    References
    ----------
    "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings"

    Examples
    --------
    >>> from resolvent.search import MultiVectorIndex, token_sets
    >>> corpus = token_sets(300, tokens=20, dim=32, queries=5, query_tokens=8, generator=0)
    >>> index = MultiVectorIndex().build(corpus.documents)
    >>> hits = index.query(corpus.queries, k=1, candidates=30)
    >>> bool((hits.ids[:, 0] == corpus.relevant).all()), hits.evaluations.tolist()
    (True, [4800, 4800, 4800, 4800, 4800])
    """

    def __init__(
        self,
        index: VectorIndex | None = None,
        *,
        repetitions: int = 20,
        bits: int = 5,
        proj_dim: int | None = 16,
        final_dim: int | None = None,
        fill_empty: bool = True,
        generator: int = 0,
        dtype: str = "float32",
    ) -> None:
        check_encoding(repetitions, bits, proj_dim, final_dim, generator)
        if dtype not in FORMATS:
            raise ValueError(f"dtype must be one of {', '.join(FORMATS)}, got {dtype!r}")
        if index is not None and (not isinstance(index, VectorIndex) or index.metric != "ip" or len(index)):
            raise ValueError("index must be an empty VectorIndex with metric='ip'")
        self.index = Scan(dtype=dtype) if index is None else index
        self.dtype = dtype
        self._encoding: dict[str, Any] = {
            "repetitions": repetitions,
            "bits": bits,
            "proj_dim": proj_dim,
            "final_dim": final_dim,
            "fill_empty": bool(fill_empty),
            "generator": generator,
        }
        self._tokens: Vectors | None = None
        self._clear()

    def _clear(self) -> None:
        self._tokens = None
        self._offsets = np.zeros(1, np.int64)
        self._ids = IdMap()
        self._dead = np.zeros(0, np.uint8)

    @property
    def dim(self) -> int | None:
        """Length of a token; None before anything was added."""
        return None if self._tokens is None else self._tokens.dim

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each document, those removed among them."""
        return np.diff(self._offsets)

    def __len__(self) -> int:
        """Documents that can be found."""
        return len(self._dead) - int(np.count_nonzero(self._dead))

    @property
    def nbytes(self) -> int:
        """Bytes of tokens, offsets, ids, encodings and their index."""
        own = 0 if self._tokens is None else self._tokens.nbytes
        return own + self._offsets.nbytes + self._ids.nbytes + self.index.nbytes

    def build(self, documents: Any, ids: Any = None) -> Self:
        """Index these documents and nothing else.

        Parameters
        ----------
        documents : a pair ``(tokens, offsets)``, a list of (t, d) arrays, or documents of equal size (n, t, d)
        ids : (n,) int64 or strings, all different; default 0..n-1
        """
        sets = _several(as_sets(documents, "documents"))
        known = IdMap()
        known.append(sets.n, ids)
        tokens = Vectors.of(sets.tokens, self.dtype)
        self._index(sets, True)
        self._tokens, self._ids, self._offsets = tokens, known, sets.offsets
        self._dead = np.zeros(sets.n, np.uint8)
        return self

    def add(self, documents: Any, ids: Any = None) -> Self:
        """Index further documents; an id that is there already is a ValueError."""
        if self._tokens is None:
            return self.build(documents, ids)
        sets = _several(as_sets(documents, "documents", dim=self._tokens.dim))
        before = len(self._ids)
        self._ids.append(sets.n, ids)
        try:
            self._tokens.append(sets.tokens)
        except ValueError:
            self._ids = self._ids.keep(np.arange(before))
            raise
        self._index(sets, False)
        self._offsets = np.concatenate([self._offsets, self._offsets[-1] + sets.offsets[1:]])
        self._dead = np.concatenate([self._dead, np.zeros(sets.n, np.uint8)])
        return self

    def remove(self, ids: Any) -> int:
        """Remove documents by id and say how many; an id that is not there is a KeyError and nothing is removed."""
        rows = np.unique(self._ids.positions(ids))
        self._ids.remove(rows)
        self._dead[rows] = 1
        return len(rows)

    def compact(self) -> Self:
        """Build the index anew over the documents that are left, which frees what the removed ones held."""
        live = np.flatnonzero(self._dead == 0)
        if self._tokens is None or len(live) == len(self._dead):
            return self
        if not len(live):
            self.index = type(self.index).restore(self.index.settings(), {})
            self._clear()
            return self
        rows, offsets = joined_rows(self._offsets, live)
        encodings = _vectors(self.index).rows(live)
        self._ids, self._tokens, self._offsets = self._ids.keep(live), self._tokens.keep(rows), offsets
        self._dead = np.zeros(len(live), np.uint8)
        self.index.build(encodings)
        return self

    def query(
        self,
        queries: Any,
        k: int = 10,
        *,
        candidates: int | None = None,
        allowed: Any = None,
        carve: float | None = None,
        **options: Any,
    ) -> Hits:
        """Find the k documents with the largest Chamfer score.

        Parameters
        ----------
        queries : one query (t, d), a pair ``(tokens, offsets)``, a list of (t, d) arrays, or queries of equal size
        k : hits per query; where fewer match, the rest has score -inf
        candidates : documents that are scored token by token; default ten times k, at least 100
        allowed : only these may be found: ids, or a bool per document in the order in which they were added
        carve : a cosine between -1 and 1; before the exact score, the first query token and all within this cosine of it
            become their sum, then the next one left, which scores fewer pairs. The paper takes 0.7
        **options : of the index over the encodings, for example ``ef``

        Returns
        -------
        Hits
            Scores are Chamfer scores (of the carved query if `carve` is given); one query has no leading axis.
        """
        if self._tokens is None:
            raise ValueError("the index is empty and has no dimension yet: build it or add documents first")
        for name, value in (("k", k), ("candidates", 1 if candidates is None else candidates)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        if carve is not None and not -1 <= carve <= 1:
            raise ValueError(f"carve must be a cosine between -1 and 1, got {carve!r}")
        self.index._check_options(options)
        asked = as_sets(queries, "queries", dim=self._tokens.dim)
        sets = asked._replace(tokens=asked.tokens.detach().to("cpu", torch.float32))
        encoded = fixed_dimensional_encoding(sets.tokens, sets.offsets, "query", **self._encoding).numpy()
        wanted = max(int(k), max(100, 10 * int(k)) if candidates is None else int(candidates))
        first = self.index._search(
            np.ascontiguousarray(encoded), min(wanted, len(self._dead)), self._bitmap(allowed), **options
        )
        sets = sets if carve is None else carve_balls(sets, carve)
        scores = candidate_scores(sets, self._offsets, self._gather, first.rows).numpy()
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, best = np.take_along_axis(first.rows, order, 1), np.take_along_axis(scores, order, 1)
        if rows.shape[1] < k:
            spare = ((0, 0), (0, int(k) - rows.shape[1]))
            rows, best = np.pad(rows, spare, constant_values=-1), np.pad(best, spare, constant_values=-np.inf)
        pairs = scored_pairs(sets, self.sizes, first.rows)
        found = Found(rows, best, pairs, first.evaluations + first.scanned)
        # `as_hits` reads kind, device and batch shape from the query: one set is like one vector.
        like: Any = asked.tokens if asked.kind == "torch" else sets.tokens.numpy()
        explain = {"candidates": first.rows.shape[1], "index": type(self.index).__name__, "encoding": encoded.shape[1]}
        return as_hits(found, self._ids.take(rows), like[0] if asked.single else like, explain)

    def settings(self) -> dict[str, Any]:
        """How the index was made, with the seed of its encodings, as JSON: `restore` takes it."""
        return {"kind": type(self).__name__, "dtype": self.dtype, **self._encoding, "index": self.index.settings()}

    def arrays(self, tokens: bool = True) -> dict[str, np.ndarray]:
        """The index as arrays of numbers, for files; without the tokens if they lie elsewhere."""
        if self._tokens is None:
            return {}
        parts = {f"index.{name}": part for name, part in self.index.arrays().items()}
        parts |= {f"ids.{name}": part for name, part in self._ids.arrays().items()}
        if tokens:
            parts |= {f"tokens.{name}": part for name, part in self._tokens.arrays().items()}
        return {**parts, "offsets": self._offsets, "dead": self._dead}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], tokens: Vectors | None = None) -> Self:
        """The index that `settings` and `arrays` describe, over memory-mapped arrays without a copy.

        Parameters
        ----------
        settings, arrays : what `settings()` and `arrays()` gave
        tokens : the tokens, if `arrays` has none
        """
        if settings.get("kind") != cls.__name__:
            raise ValueError(f"settings must be of a {cls.__name__}, got {settings.get('kind')!r}")
        kind = _index_class(settings["index"].get("kind"))
        own = {name: value for name, value in settings.items() if name not in ("kind", "index")}
        made = cls(kind.restore(settings["index"], {}), **own)
        groups = {name: _group(arrays, name) for name in ("index", "ids", "tokens")}
        if tokens is None and not groups["tokens"]:
            return made
        made._tokens = Vectors.from_arrays(groups["tokens"], made.dtype) if tokens is None else tokens
        made._offsets = as_offsets(arrays["offsets"], len(made._tokens), "documents")
        made._dead = np.array(arrays["dead"], np.uint8)
        made._ids = IdMap.restore(groups["ids"], len(made._dead), np.flatnonzero(made._dead))
        made.index = kind.restore(settings["index"], groups["index"])
        length = encoding_length(made._tokens.dim, *(own[n] for n in ("repetitions", "bits", "proj_dim", "final_dim")))
        if made.index.dim != length or not len(made._dead) == len(made._offsets) - 1 == len(_vectors(made.index)):
            raise ValueError("arrays do not fit together: tokens, offsets and encodings are of different documents")
        return made

    def _index(self, sets: Sets, anew: bool) -> None:
        length = encoding_length(sets.tokens.shape[1], *(self._encoding[n] for n in _SHAPE))
        # A structure that learns from its rows has to see all of them; the scan takes them as they come.
        step = max(1, _ENTRIES // length) if isinstance(self.index, Scan) else sets.n
        for a in range(0, sets.n, step):
            b = min(a + step, sets.n)
            c, d = int(sets.offsets[a]), int(sets.offsets[b])
            tokens = sets.tokens[c:d].detach().to("cpu", torch.float32)
            made = fixed_dimensional_encoding(tokens, sets.offsets[a : b + 1] - c, "document", **self._encoding)
            if anew and a == 0:
                self.index.build(made)
            else:
                self.index.add(made)

    def _gather(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self._tokens.rows(rows))

    def _bitmap(self, allowed: Any) -> np.ndarray | None:
        """One byte per document: may it be found? None if all may."""
        alive = (self._dead == 0).astype(np.uint8) if self._dead.any() else None
        if allowed is None:
            return alive
        mask = allowed.detach().cpu().numpy() if isinstance(allowed, Tensor) else allowed
        if isinstance(mask, np.ndarray) and mask.dtype == bool:
            if mask.shape != self._dead.shape:
                raise ValueError(
                    f"allowed must have one entry for each of {len(self._dead)} documents, got {mask.shape}"
                )
            bitmap = mask.astype(np.uint8)
        else:
            bitmap = np.zeros(len(self._dead), np.uint8)
            bitmap[self._ids.positions(mask, "allowed")] = 1
        return bitmap if alive is None else bitmap & alive


class Scan(VectorIndex):
    """Encodings without a structure, all of them compared with each query.

    Parameters
    ----------
    metric, dtype : as for `VectorIndex`

    Examples
    --------
    >>> import numpy as np
    >>> from resolvent.search.multivector import Scan
    >>> Scan().build(np.eye(3)).query(np.array([0.0, 1.0, 0.0]), k=1).ids
    array([1])
    """

    def _build(self) -> None:
        return None

    def _search(self, q: np.ndarray, k: int, allowed: np.ndarray | None, **options: Any) -> Found:
        return top_rows(_vectors(self), q, k, self.inner, allowed)


_SHAPE = ("repetitions", "bits", "proj_dim", "final_dim")


def _several(sets: Sets) -> Sets:
    if sets.single:
        raise ValueError("documents must be several sets: (tokens, offsets), a list of arrays, or one (n, t, d) array")
    return sets


def _vectors(index: VectorIndex) -> Vectors:
    if index._vectors is None:
        raise ValueError("the index over the encodings is empty")
    return index._vectors


def _index_class(kind: Any) -> type[VectorIndex]:
    """The index of this room with that name: nothing else that settings may name is ever called."""
    from resolvent import search

    found = Scan if kind == "Scan" else getattr(search, kind, None) if kind in search.__all__ else None
    if not (isinstance(found, type) and issubclass(found, VectorIndex)):
        raise ValueError(f"settings name no index of resolvent.search: {kind!r}")
    return found


def _group(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key[len(name) + 1 :]: part for key, part in arrays.items() if key.startswith(name + ".")}


__all__ = ["MultiVectorIndex"]
