"""What every index of dense vectors shares: checks, metrics, ids, deletions, filters; a structure adds its own search."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from resolvent.search.hits import Found, Hits, Metric, as_hits
from resolvent.search.ids import IdMap
from resolvent.search.vectors import FORMATS, Vectors

METRICS = ("ip", "cosine", "l2")
# Squared norms below this leave room for |q - x|^2 <= (|q| + |x|)^2 in float32.
_LARGEST = float(np.finfo(np.float32).max) / 4


class VectorIndex(ABC):
    """Base of the indexes over dense vectors.

    Parameters
    ----------
    metric : "ip" (inner product), "cosine", or "l2" (negative squared distance); larger scores are better
    dtype : how vectors are kept: "float32", "float16", "bfloat16" or "int8"; scores are sums in float32

    Notes
    -----
    A subclass writes `_build`, `_search` and, where it can do better than build anew, `_grow`; everything that a user
    could get wrong is checked here. Under "cosine" rows are kept normalised and the structure sees inner products
    (`self.inner`). Removed rows stay as tombstones, never returned, until `compact`.

    Examples
    --------
    >>> import numpy as np
    >>> from resolvent.search import IVF
    >>> index = IVF(lists=4, metric="cosine").build(np.random.default_rng(0).normal(size=(100, 8)))
    >>> index.remove([3])
    1
    >>> len(index), index.dim
    (99, 8)
    """

    # Names of settings that the constructor takes beside metric and dtype, each kept as an attribute.
    parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, metric: Metric = "ip", dtype: str = "float32") -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if dtype not in FORMATS:
            raise ValueError(f"dtype must be one of {', '.join(FORMATS)}, got {dtype!r}")
        self.metric = metric
        self.dtype = dtype
        self._vectors: Vectors | None = None
        self._ids = IdMap()
        self._dead = np.zeros(0, np.uint8)

    # What a structure writes.

    @abstractmethod
    def _build(self) -> None:
        """Make the structure over all rows of `self._vectors`."""

    @abstractmethod
    def _search(self, q: np.ndarray, k: int, allowed: np.ndarray | None, **options: Any) -> Found:
        """The best k rows of each query (b, d) float32 among the rows whose byte of `allowed` (None: all) is 1."""

    def _grow(self, first: int) -> None:
        """Rows from `first` on are new in `self._vectors`."""
        self._build()

    def _arrays(self) -> dict[str, np.ndarray]:
        """The structure without the vectors, as arrays."""
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the structure that `_arrays` gave, without a copy; `self._vectors` stands."""
        self._build()

    # What a user calls.

    @property
    def inner(self) -> str:
        """The metric of the stored rows: "ip" or "l2"."""
        return "l2" if self.metric == "l2" else "ip"

    @property
    def dim(self) -> int | None:
        """Length of a vector; None before anything was added."""
        return None if self._vectors is None else self._vectors.dim

    def __len__(self) -> int:
        """Rows that can be found."""
        return len(self._dead) - int(np.count_nonzero(self._dead))

    @property
    def nbytes(self) -> int:
        """Bytes of vectors, ids and structure."""
        own = sum(part.nbytes for part in self._arrays().values())
        return own + self._ids.nbytes + (0 if self._vectors is None else self._vectors.nbytes)

    def build(self, x: Any, ids: Any = None) -> Self:
        """Index the rows of `x` (n, dim) and nothing else; ids (n,) are int64 or strings, by default 0..n-1."""
        rows = self._rows(x, None)
        known = IdMap()
        known.append(len(rows), ids)
        vectors = Vectors(rows.shape[1], self.dtype)
        vectors.append(rows)
        self._vectors, self._ids, self._dead = vectors, known, np.zeros(len(rows), np.uint8)
        self._build()
        return self

    def add(self, x: Any, ids: Any = None) -> Self:
        """Index further rows; an id that is there already is a ValueError."""
        if self._vectors is None:
            return self.build(x, ids)
        rows = self._rows(x, self._vectors.dim)
        first = len(self._vectors)
        before = len(self._ids)
        self._ids.append(len(rows), ids)
        try:
            self._vectors.append(rows)
        except ValueError:
            self._ids = self._ids.keep(np.arange(before))
            raise
        self._dead = np.concatenate([self._dead, np.zeros(len(rows), np.uint8)])
        if len(rows):
            self._grow(first)
        return self

    def remove(self, ids: Any) -> int:
        """Remove rows by id and say how many; an id that is not there is a KeyError and nothing is removed."""
        rows = np.unique(self._ids.positions(ids))
        self._ids.remove(rows)
        self._dead[rows] = 1
        return len(rows)

    def compact(self) -> Self:
        """Build the structure anew over the rows that are left, which frees what the removed rows held."""
        if self._vectors is None:
            return self
        live = np.flatnonzero(self._dead == 0)
        # Positions that were ids stay ids.
        self._ids = self._ids.keep(live)
        self._vectors = self._vectors.keep(live)
        self._dead = np.zeros(len(live), np.uint8)
        self._build()
        return self

    def query(self, q: Any, k: int = 10, *, allowed: Any = None, **options: Any) -> Hits:
        """Find the k best rows for one query (d,) or several (b, d).

        Parameters
        ----------
        q : (d,) or (b, d), array or tensor
        k : hits per query; where fewer match, the rest has score -inf
        allowed : only these may be found: ids, or a bool per row in the order in which rows were added
        options : of the structure, see its class

        Returns
        -------
        Hits
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be a positive integer, got {k!r}")
        self._check_options(options)
        if self._vectors is None:
            raise ValueError("the index is empty and has no dimension yet: build it or add rows first")
        queries = as_queries(q, self._vectors.dim, self.metric)
        bitmap = self._bitmap(allowed)
        found = self._search(queries, int(k), bitmap, **options)
        return as_hits(found, self._ids.take(found.rows), q)

    def settings(self) -> dict[str, Any]:
        """How the index was made, as JSON: `restore` takes it."""
        own = {name: getattr(self, name) for name in self.parameters}
        return {"kind": type(self).__name__, "metric": self.metric, "dtype": self.dtype, **own}

    def arrays(self, vectors: bool = True) -> dict[str, np.ndarray]:
        """The index as arrays of numbers, for files; without the vectors if they lie elsewhere."""
        if self._vectors is None:
            return {}
        parts = {f"structure.{name}": part for name, part in self._arrays().items()}
        parts |= {f"ids.{name}": part for name, part in self._ids.arrays().items()}
        if vectors:
            parts |= {f"vectors.{name}": part for name, part in self._vectors.arrays().items()}
        return {**parts, "dead": self._dead}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], vectors: Vectors | None = None) -> Self:
        """The index that `settings` and `arrays` describe, over memory-mapped arrays without a copy.

        Parameters
        ----------
        settings, arrays : what `settings()` and `arrays()` gave
        vectors : the rows, if `arrays` has none; under "cosine" they are normalised
        """
        if settings.get("kind") != cls.__name__:
            raise ValueError(f"settings must be of a {cls.__name__}, got {settings.get('kind')!r}")
        made = cls(**{name: value for name, value in settings.items() if name != "kind"})
        parts = _grouped(arrays)
        if vectors is None and "vectors" not in parts:
            return made
        rows = Vectors.from_arrays(parts["vectors"], made.dtype) if vectors is None else vectors
        made._vectors = rows
        made._dead = np.array(arrays["dead"], np.uint8) if "dead" in arrays else np.zeros(len(rows), np.uint8)
        if len(made._dead) != len(rows):
            raise ValueError(f"arrays must describe {len(rows)} rows, got {len(made._dead)}")
        made._ids = IdMap.restore(parts.get("ids", {}), len(rows), np.flatnonzero(made._dead))
        made._restore(parts.get("structure", {}))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        # For other processes: locks and kernels' buffers stay behind.
        return _again, (type(self), self.settings(), self.arrays())

    # The edge.

    def _rows(self, x: Any, dim: int | None) -> Tensor:
        return as_rows(x, dim, self.metric)

    def _check_options(self, options: dict[str, Any]) -> None:
        known = _option_names(type(self)) if options else ()
        for name in options:
            if name not in known:
                raise TypeError(
                    f"{type(self).__name__}.query has no option {name!r}; it has {', '.join(known) or 'none'}"
                )

    def _bitmap(self, allowed: Any) -> np.ndarray | None:
        """One byte per row: may it be found? None if all may."""
        n = len(self._dead)
        alive = None if not self._dead.any() else (self._dead == 0).astype(np.uint8)
        if allowed is None:
            return alive
        mask = allowed.detach().cpu().numpy() if isinstance(allowed, Tensor) else allowed
        if isinstance(mask, np.ndarray) and (mask.dtype == bool or (mask.dtype == np.uint8 and len(mask) == n)):
            if mask.shape != (n,):
                raise ValueError(f"allowed must have one entry for each of the {n} rows, got shape {mask.shape}")
            bitmap = np.ascontiguousarray(mask).view(np.uint8)
        else:
            bitmap = np.zeros(n, np.uint8)
            bitmap[self._ids.positions(mask, "allowed")] = 1
        return bitmap if alive is None else bitmap & alive


def _again(kind: type[VectorIndex], settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> VectorIndex:
    return kind.restore(settings, arrays)


@functools.cache
def _option_names(kind: type[VectorIndex]) -> tuple[str, ...]:
    # Reading a signature takes longer than a query.
    return tuple(
        name
        for name, p in inspect.signature(kind._search).parameters.items()
        if name not in ("self", "q", "k", "allowed") and p.kind is not p.VAR_KEYWORD
    )


def as_rows(x: Any, dim: int | None, metric: str | None, name: str = "x") -> Tensor:
    """Vectors (n, d) as a float32 tensor on the CPU, checked, and normalised under "cosine"; None: of any finite norm."""
    t = _tensor(x, name)
    if t.ndim != 2 or t.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n, d) with d >= 1, got {tuple(t.shape)}")
    # Kernels and memory-mapped files want rows one after the other.
    return checked_rows(t, dim, metric, name).contiguous()


def as_queries(q: Any, dim: int, metric: str, name: str = "q") -> np.ndarray:
    """Queries (d,) or (b, d) as a contiguous (b, d) float32 array, checked, and normalised under "cosine"."""
    t = _tensor(q, name)
    if t.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (d,) or (b, d), got {tuple(t.shape)}")
    return checked_rows(t.reshape(-1, t.shape[-1]), dim, metric, name).contiguous().numpy()


def _tensor(x: Any, name: str) -> Tensor:
    t = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(_numeric(x, name)))
    if t.is_complex():
        raise TypeError(f"{name} must be real, got {t.dtype}")
    return t.to("cpu", torch.float32)


def _numeric(x: Any, name: str) -> np.ndarray:
    a = np.asarray(x)
    if a.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be a numeric array or tensor, got dtype {a.dtype}")
    # A file that is mapped for reading is not writeable: torch would warn. float32 is what is needed anyway.
    a = a.astype(np.float32) if a.dtype.kind != "c" and a.dtype != np.float32 else a
    return a if a.flags.writeable else a.copy()


def checked_rows(t: Tensor, dim: int | None, metric: str | None, name: str) -> Tensor:
    """Rows (n, d) of float32 where they are: finite, of norms that leave room, and normalised under "cosine"."""
    if dim is not None and t.shape[1] != dim:
        raise ValueError(f"{name} must have {dim} columns like the rows of the index, got {t.shape[1]}")
    # One product tells for nearly all inputs that everything is finite and no square leaves the range.
    flat = t.reshape(-1)
    if not bool(torch.dot(flat, flat) < _LARGEST):
        bad = (~torch.isfinite(t)).nonzero()
        if len(bad):
            where = tuple(bad[0].tolist())
            raise ValueError(
                f"{name} has {len(bad)} entries that are NaN or infinite (in float32), the first at {where}"
            )
        squares = t.double().square().sum(1)
        if metric in ("ip", "l2") and float(squares.max()) >= _LARGEST:
            row = int(squares.argmax())
            raise ValueError(
                f"{name} must have norms below {_LARGEST**0.5:.2g}, so that scores stay in float32: "
                f"row {row} has {float(squares[row]) ** 0.5:.3g}; scale the vectors"
            )
    if metric != "cosine":
        return t
    # By the largest entry first: squares of entries near 1e20 or 1e-30 leave the range of float32.
    largest = t.abs().amax(1, keepdim=True) if len(t) else t[:, :1]
    if bool((largest == 0).any()):
        row = int((largest[:, 0] == 0).nonzero()[0])
        raise ValueError(f"{name} has a zero vector, which has no direction under metric='cosine': row {row}")
    unit = t / largest
    return unit / torch.linalg.vector_norm(unit, dim=1, keepdim=True)


def _grouped(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, part in arrays.items():
        if "." in name:
            group, own = name.split(".", 1)
            parts.setdefault(group, {})[own] = part
    return parts
