"""An index of `resolvent.search` on disk: the vectors of each of its fields as one matrix."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resolvent.errors import StoreError
from resolvent.report.stored import Stored, check_memory, natural_order, sentence, unreadable

if TYPE_CHECKING:
    from resolvent.report.stored import Loaded

_DATABASE = "meta.sqlite"


def is_index(path: Path) -> bool:
    """Whether a directory is an index of `resolvent.search`."""
    return (path / _DATABASE).is_file()


def index_fields(path: Path) -> list[Stored]:
    """The vector fields of an index as matrices of vectors, deleted records left out.

    Parameters
    ----------
    path : the directory of the index

    Returns
    -------
    One `Stored` per field, by name: dense fields and sparse ones as (records, length), sets of vectors as their tokens.

    Raises
    ------
    ValueError : it is no index, or its database is damaged.

    Notes
    -----
    Rows of a cosine field have the length with which they came. A field is read when its `load()` is called, and is
    then in memory as float32; nothing in the directory is changed.

    Examples
    --------
    >>> import tempfile
    >>> from resolvent import search
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with search.create(f"{folder}/x", vectors={"v": search.Dense(2)}) as index:
    ...         _ = index.add([1, 2, 3], v=np.ones((3, 2)))
    ...     (stored,) = index_fields(Path(folder, "x"))
    ...     stored.name, stored.shape, stored.role, stored.notes
    ('v', (3, 2), 'vectors', ('3 records, stored as float32, scored by inner products',))
    """
    from resolvent import search

    try:
        with search.open(path) as index, index.snapshot() as snapshot:
            fields = [_field(path, snapshot, name) for name in index.schema.vectors]
    except (StoreError, ValueError) as error:
        raise ValueError(f"{path}: not a valid index ({sentence(error)})") from error
    return sorted(fields, key=lambda stored: natural_order(stored.name))


def _field(path: Path, snapshot: Any, name: str) -> Stored:
    kind = snapshot.schema.vectors[name]
    word = type(kind).__name__
    dtype = getattr(kind, "dtype", "float32")
    try:
        parts = snapshot.parts(name)
        records = sum(int(np.count_nonzero(part.live)) for part in parts)
        if word == "Sparse":
            shape = (records, max((part.vectors.shape[1] for part in parts), default=kind.size or 0))
        elif word == "MultiVector":
            tokens = sum(int(np.diff(part.vectors[1])[part.live != 0].sum()) for part in parts)
            shape = (tokens, kind.dim)
        else:
            shape = (records, kind.dim)
    except StoreError as error:
        return unreadable(name, sentence(error))
    how = {"cosine": "cosines", "l2": "squared distances"}.get(getattr(kind, "metric", "ip"), "inner products")
    notes: tuple[str, ...] = (f"{records} records, stored as {dtype}, scored by {how}",)
    dead = sum(len(part.rows) for part in parts) - records
    if dead:
        notes = (*notes, f"{dead} deleted records are not freed yet: resolvent index compact {path}")
    reason = "" if records else "the field has no records"
    return Stored(name, shape, dtype, partial(_load, path, name), reason, role="vectors", notes=notes)


def _load(path: Path, name: str) -> Loaded:
    """All live vectors of a field, read now."""
    from resolvent import search

    try:
        with search.open(path) as index, index.snapshot() as snapshot:
            kind = snapshot.schema.vectors[name]
            rows = np.concatenate([part.rows[part.live != 0] for part in snapshot.parts(name)])
            if type(kind).__name__ == "Sparse":
                import scipy.sparse

                return scipy.sparse.csr_array(snapshot.take(name, rows).astype(np.float64))
            check_memory(8.0 * len(rows) * kind.dim, "reading it")
            found = snapshot.take(name, rows)
            return torch.from_numpy(np.concatenate(found) if isinstance(found, list) else found)
    except StoreError as error:
        raise ValueError(sentence(error)) from error
