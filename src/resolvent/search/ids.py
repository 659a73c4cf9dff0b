"""Which id belongs to which position: plain positions, int64 or strings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def as_ids(ids: Any, name: str = "ids") -> np.ndarray:
    """Ids as a 1-D int64 array or a 1-D object array of strings; anything else is a TypeError."""
    if isinstance(ids, torch.Tensor):
        ids = ids.detach().cpu().numpy()
    if isinstance(ids, str | int | np.integer):
        ids = [ids]
    if not isinstance(ids, np.ndarray):
        ids = list(ids) if isinstance(ids, Iterable) else [ids]
        kinds = {str if isinstance(i, str) else type(i) for i in ids}
        if kinds == {str}:
            return np.array([str(i) for i in ids], dtype=object)
        if str in kinds:
            # NumPy would make "1" of 1.
            raise TypeError(f"{name} must all be integers or all be strings")
        ids = np.asarray(ids) if ids else np.empty(0, np.int64)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {ids.shape}")
    if not ids.size and ids.dtype.kind == "f":
        # np.array([]) is of floats.
        return np.empty(0, np.int64)
    if ids.dtype.kind in "iu":
        if ids.dtype == np.uint64 and len(ids) and int(ids.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must fit into int64, got {int(ids.max())}")
        return ids.astype(np.int64)
    if ids.dtype.kind == "U":
        return ids.astype(object)
    if ids.dtype == object and all(isinstance(i, str) for i in ids):
        return ids
    raise TypeError(f"{name} must be integers or strings, got dtype {ids.dtype}")


class IdMap:
    """The ids of the positions 0, 1, 2, ... of an index; a removed id may come back at a later position.

    Until somebody gives ids, the positions themselves are the ids and nothing is stored.
    """

    def __init__(self) -> None:
        self._n = 0
        self._ids: np.ndarray | None = None
        self._where: dict[Any, int] | None = None
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return self._n

    @property
    def strings(self) -> bool:
        return self._ids is not None and self._ids.dtype == object

    @property
    def nbytes(self) -> int:
        return 0 if self._ids is None else self._ids.nbytes

    def append(self, count: int, ids: Any = None) -> None:
        """Give the next `count` positions their ids (None: their positions)."""
        if ids is None:
            if self.strings:
                raise ValueError("ids must be given: those that the index has are strings")
            # Behind all ids that are there: after a compaction the positions start anew, the ids do not.
            first = self._n if self._ids is None else max(self._n, int(self._ids.max(initial=-1)) + 1)
            new = None if self._ids is None else np.arange(first, first + count, dtype=np.int64)
        else:
            new = as_ids(ids)
            if len(new) != count:
                raise ValueError(f"ids must have one entry for each of the {count} rows, got {len(new)}")
            if self._n and len(new) and self.strings != (new.dtype == object):
                raise TypeError("ids must all be integers or all be strings")
        if new is None:
            self._where = None
        else:
            self._check_new(new)
            old = np.arange(self._n, dtype=np.int64) if self._ids is None else self._ids
            where = self._lookup()
            self._ids = new.copy() if not self._n else np.concatenate([old, new])
            where.update(zip(new.tolist(), range(self._n, self._n + count), strict=True))
        self._n += count

    def positions(self, ids: Any, name: str = "ids") -> np.ndarray:
        """The position of each id; an id that is not there is a KeyError."""
        wanted = as_ids(ids, name)
        if self._ids is None and wanted.dtype != object:
            missing = (wanted < 0) | (wanted >= self._n)
            if self._gone:
                missing |= np.fromiter((i in self._gone for i in wanted.tolist()), bool, len(wanted))
            if missing.any():
                raise KeyError(
                    f"{name} has {int(missing.sum())} that are not in the index, the first is {wanted[missing][0]!r}"
                )
            return wanted
        where = self._lookup()
        found = np.fromiter((where.get(i, -1) for i in wanted.tolist()), np.int64, len(wanted))
        if (found < 0).any():
            raise KeyError(
                f"{name} has {int((found < 0).sum())} that are not in the index, the first is {wanted[found < 0][0]!r}"
            )
        return found

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Ids at these positions; -1 (None among strings) where the position is -1."""
        if self._ids is None:
            return rows.astype(np.int64)
        if not self._n:
            return np.full(rows.shape, -1, np.int64)
        ids = self._ids[rows]
        ids[rows < 0] = None if self.strings else -1
        return ids

    def remove(self, rows: np.ndarray) -> None:
        """Forget the ids at these positions."""
        if self._ids is None:
            self._gone.update(rows.tolist())
            self._where = None
            return
        where = self._lookup()
        for i in self._ids[rows].tolist():
            del where[i]

    def keep(self, rows: np.ndarray) -> IdMap:
        """The ids at these positions, which become 0, 1, 2, ..."""
        kept = IdMap()
        kept.append(len(rows), self.take(rows))
        return kept

    def array(self) -> np.ndarray | None:
        """All ids by position, or None when they are the positions."""
        return self._ids

    def arrays(self) -> dict[str, np.ndarray]:
        """The ids as arrays of numbers, for files; strings as UTF-8 and where each ends."""
        if self._ids is None:
            return {}
        if not self.strings:
            return {"ids": self._ids}
        texts = [i.encode() for i in self._ids.tolist()]
        ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
        return {"ids_text": np.frombuffer(b"".join(texts), np.uint8), "ids_ends": ends}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], count: int, gone: np.ndarray) -> IdMap:
        """The ids that `arrays` gave; those at the positions `gone` are not found any more."""
        made = cls()
        made._n = count
        if "ids" in arrays:
            made._ids = np.array(arrays["ids"], dtype=np.int64)
        elif "ids_ends" in arrays:
            raw, ends = arrays["ids_text"].tobytes(), arrays["ids_ends"].tolist()
            texts = [raw[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            made._ids = np.array(texts, dtype=object)
        if made._ids is not None and len(made._ids) != count:
            raise ValueError(f"ids must have {count} entries, got {len(made._ids)}")
        made._gone = set(gone.tolist())
        return made

    def _check_new(self, new: np.ndarray) -> None:
        values = new.tolist()
        if len(set(values)) < len(values):
            seen: set[Any] = set()
            twice = next(i for i in values if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise ValueError(f"ids must be distinct, {twice!r} is given twice")
        where = self._lookup()
        known = next((i for i in values if i in where), None)
        if known is not None:
            raise ValueError(f"ids must be new, {known!r} is in the index already")

    def _lookup(self) -> dict[Any, int]:
        if self._where is None:
            ids = range(self._n) if self._ids is None else self._ids.tolist()
            self._where = {i: p for p, i in enumerate(ids) if p not in self._gone}
        return self._where
