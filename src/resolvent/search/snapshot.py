"""What a reader sees: one generation of an index, whatever a writer does meanwhile."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resolvent.errors import StoreError
from resolvent.search import field_arrays
from resolvent.search.columns import from_stored
from resolvent.search.database import Segment, State, faults, int_column, read_segments, read_state, rows_in
from resolvent.search.field_parts import Files, Part, Structures
from resolvent.search.schema import Dense, Schema, Sparse

# How often a reader starts anew because a compaction took its files away between its list and its mapping of them.
_TRIES = 20
_FILTERS_KEPT = 32

Where = tuple[str, Any]


class View:
    """What is known of one generation and needs no database: shared by all snapshots of it in a process."""

    def __init__(self, schema: Schema, state: State, segments: list[Segment], dead: np.ndarray, files: Files) -> None:
        self.schema = schema
        self.state = state
        self.segments = segments
        self.dead = dead
        self.files = files
        self.parts: dict[str, list[Part]] = {}
        self.filters: dict[Any, np.ndarray] = {}
        self.counts: dict[Any, int] = {}


class Snapshot:
    """A consistent view of an index: records, payload and vectors of one generation.

    It is a context manager; `close` (or the end of its life) ends its read transaction. Files that a compaction
    replaces meanwhile stay readable here, and their disk space is free when the last snapshot that maps them is gone.

    Attributes
    ----------
    schema : fields and payload
    generation : number of the commit that it sees
    count : records

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from resolvent import search
    >>> with tempfile.TemporaryDirectory() as folder, search.create(f"{folder}/x", vectors={"v": search.Dense(2)}) as index:
    ...     _ = index.add(["a", "b"], v=np.eye(2))
    ...     with index.snapshot() as snapshot:
    ...         _ = index.delete(["a"])
    ...         snapshot.count, len(index), snapshot.ids(snapshot.rows())
    (2, 1, array(['a', 'b'], dtype=object))
    """

    def __init__(
        self, connection: sqlite3.Connection, view: View, give_back: Callable[[sqlite3.Connection], None]
    ) -> None:
        self._connection = connection
        self._view = view
        self.schema = view.schema
        self.generation = view.state.generation
        self.count = view.state.live
        self._end = weakref.finalize(self, give_back, connection)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count

    def close(self) -> None:
        """End the read transaction."""
        self._end()

    @property
    def strings(self) -> bool:
        """Are the ids strings?"""
        return self._view.state.ids == "str"

    @property
    def folder(self) -> Path:
        return self._view.files.folder

    def rows(self, where: Where | None = None) -> np.ndarray:
        """Rows of the records (sorted int64), all of them or those that match `(sql, params)` over the view `payload`."""
        connection = self._open()
        key = None if where is None else (where[0], tuple(where[1]))
        known = self._view.filters.get(key)
        if known is None:
            sql = (
                "SELECT row AS value FROM rows"
                if where is None
                else f"SELECT row AS value FROM payload WHERE {where[0]}"
            )
            with faults(self.folder):
                known = np.sort(int_column(connection, sql, () if where is None else where[1]))
            known.flags.writeable = False
            _keep(self._view.filters, key, known)
        return known

    def count_rows(self, where: Where) -> int:
        """How many records match, which takes less time than to list them."""
        connection = self._open()
        key = (where[0], tuple(where[1]))
        listed, known = self._view.filters.get(key), self._view.counts.get(key)
        if listed is not None:
            return len(listed)
        if known is None:
            with faults(self.folder):
                (known,) = connection.execute(f"SELECT count(*) FROM payload WHERE {where[0]}", where[1]).fetchone()
            _keep(self._view.counts, key, known)
        return int(known)

    def parts(self, field: str) -> list[Part]:
        """The pieces in which the vectors of a field lie; a damaged one is a `Damaged` that names the file."""
        if field not in self.schema.vectors:
            raise ValueError(f"field must be one of {', '.join(self.schema.vectors)}, got {field!r}")
        made = self._view.parts.get(field)
        if made is None:
            made = [
                self._part(segment)
                for segment in self._view.segments
                if segment.field == field and not segment.structure
            ]
            buffered = self._buffered(field)
            made = sorted([*made, *buffered], key=lambda part: int(part.rows[0]))
            self._view.parts[field] = made
        return made

    def ids(self, rows: Any) -> np.ndarray:
        """The id of each row, int64 or an object array of strings; a row that is not there is a KeyError."""
        wanted = np.asarray(rows, np.int64)
        found = self._lookup("_id", wanted.ravel())
        dtype = object if self.strings else np.int64
        made = np.empty(wanted.size, dtype)
        made[:] = [found[row][0] for row in wanted.ravel().tolist()]
        return made.reshape(wanted.shape)

    def rows_of(self, ids: Any, *, missing: str = "raise") -> np.ndarray:
        """The row of each id, int64; an id that is not there is a KeyError, or -1 with ``missing="mark"``."""
        from resolvent.search.ids import as_ids

        keys = as_ids(ids).tolist()
        with faults(self.folder):
            found = dict(rows_in(self._open(), "SELECT _id, row FROM rows WHERE _id IN (*)", keys)) if keys else {}
        made = np.fromiter((found.get(key, -1) for key in keys), np.int64, len(keys))
        if missing == "raise" and (made < 0).any():
            raise KeyError(
                f"ids has {int((made < 0).sum())} that are not in the index, the first is {keys[int(np.argmin(made))]!r}"
            )
        return made

    def payload(self, rows: Any) -> dict[str, list[Any]]:
        """The payload of these rows as columns: the declared ones, and what was given beside them."""
        import json

        wanted = np.asarray(rows, np.int64).ravel().tolist()
        names = list(self.schema.scalars)
        found = self._lookup(", ".join([*(f'"{name}"' for name in names), "_rest"]), wanted)
        made: dict[str, list[Any]] = {
            name: [from_stored(self.schema.payload[name], found[row][i]) for row in wanted]
            for i, name in enumerate(names)
        }
        if self.schema.tags:
            made |= self._tags(wanted)
        made = {name: made[name] for name in self.schema.payload}
        if any(found[row][-1] for row in wanted):
            rest = [json.loads(found[row][-1]) if found[row][-1] else {} for row in wanted]
            for name in dict.fromkeys(name for one in rest for name in one):
                made[name] = [one.get(name) for one in rest]
        return made

    def take(self, field: str, rows: Any) -> Any:
        """The vectors of these rows as they were given: (m, d) float32, CSR, or a list of (t, d) arrays.

        A row without a vector in this field is NaN, an empty row, or an array without tokens.
        """
        wanted = np.asarray(rows, np.int64).ravel()
        order = np.argsort(wanted, kind="stable")
        pieces, where = [], []
        for part in self.parts(field):
            positions, which = part.positions(wanted[order])
            if len(which):
                pieces.append(part.decode(positions))
                where.append(order[which])
        return _put_together(self.schema.vectors[field], pieces, where, len(wanted), self._view.state.sizes.get(field))

    def _open(self) -> sqlite3.Connection:
        if not self._end.alive:
            raise ValueError("the snapshot is closed")
        return self._connection

    def _lookup(self, columns: str, rows: Any) -> dict[int, tuple[Any, ...]]:
        wanted = sorted(set(rows.tolist() if isinstance(rows, np.ndarray) else rows))
        with faults(self.folder):
            got = rows_in(self._open(), f"SELECT row, {columns} FROM rows WHERE row IN (*)", wanted) if wanted else ()
            found = {row: rest for row, *rest in got}
        if len(found) < len(wanted):
            raise KeyError(f"rows has {next(row for row in wanted if row not in found)}, which is not in the index")
        return found  # type: ignore[return-value]

    def _tags(self, rows: list[int]) -> dict[str, list[Any]]:
        kept: dict[tuple[str, int], list[str]] = {}
        with faults(self.folder):
            for row, field, tag in (
                rows_in(self._open(), "SELECT row, field, tag FROM tags WHERE row IN (*)", rows) if rows else ()
            ):
                tags = kept.setdefault((field, row), [])
                if tag not in tags:
                    tags.append(tag)
        return {name: [sorted(kept.get((name, row), [])) for row in rows] for name in self.schema.tags}

    def _part(self, segment: Segment) -> Part:
        view = self._view
        arrays = view.files.arrays(segment.file)
        makers: dict[str, Callable[[], Any]] = {}
        part = Part(
            self.schema.vectors[segment.field],
            segment.file,
            arrays,
            view.dead,
            Structures(makers),
            view.state.sizes.get(segment.field),
        )
        for own in view.segments:
            if own.parent == segment.file and view.files.broken(own.file) is None:
                makers[own.structure] = self._maker(own, part)
        return part

    def _maker(self, own: Segment, part: Part) -> Callable[[], Any]:
        from resolvent.search.structures import restore

        files = self._view.files
        return lambda: files.restored(own.file, lambda: restore(own, files.mapped(own.file)[:2], part))

    def _buffered(self, field: str) -> list[Part]:
        """The batches that are not in a file yet, as one part."""
        view, kind = self._view, self.schema.vectors[field]
        with faults(self.folder):
            keys = (
                self._open()
                .execute("SELECT first, field, digest FROM buffer WHERE field = ? ORDER BY first", (field,))
                .fetchall()
            )
            blobs = [view.files.blob(key, lambda key=key: self._blob(key)) for key in keys]  # type: ignore[misc]
        if not blobs:
            return []
        arrays = joined(kind, blobs)
        return [Part(kind, "buffer", arrays, view.dead, None, view.state.sizes.get(field))]

    def _blob(self, key: tuple[int, str, int]) -> bytes:
        (raw,) = self._open().execute("SELECT arrays FROM buffer WHERE first = ? AND field = ?", key[:2]).fetchone()
        return raw


def _keep(held: dict[Any, Any], key: Any, value: Any) -> None:
    # Other threads share the view and may take the same old entry away.
    for old in list(held)[: 1 - _FILTERS_KEPT]:
        held.pop(old, None)
    held[key] = value


def joined(field: Any, sources: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of several batches (with "rows" and "check") as one, in memory."""
    own = [({k: v for k, v in arrays.items() if k not in ("rows", "check")}, None) for arrays in sources]
    made = {
        name: part
        if isinstance(part, np.ndarray)
        else np.concatenate([np.empty((0, *part.shape[1:]), part.dtype), *part.read()])
        for name, part in field_arrays.join(field, own).items()
    }
    return made | {name: np.concatenate([arrays[name] for arrays in sources]) for name in ("rows", "check")}


def read_view(connection: sqlite3.Connection, schema: Schema, files: Files, known: View | None) -> View:
    """Begin a read transaction and see what there is; `known` is used again if nothing has changed since.

    The list of files comes from the transaction, the files from the directory: if a compaction came between, the
    transaction begins anew.
    """
    for _ in range(_TRIES):
        connection.execute("BEGIN")
        state = read_state(connection)
        if known is not None and known.state.generation == state.generation:
            return known
        segments = read_segments(connection)
        own = files.share() if known is not None else files
        own.hold(segments)
        if own.missing():
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            if read_state(connection).generation != state.generation:
                connection.execute("COMMIT")
                continue
        dead = np.sort(int_column(connection, "SELECT row AS value FROM tombstones"))
        own.keep_blobs(set(connection.execute("SELECT first, field, digest FROM buffer")))
        return View(schema, state, segments, dead, own)
    raise StoreError(f"{files.folder}: its files changed {_TRIES} times while they were listed")


def _put_together(field: Any, pieces: list[Any], where: list[np.ndarray], n: int, size: int | None) -> Any:
    if isinstance(field, Dense):
        made = np.full((n, field.dim), np.nan, np.float32)
        for piece, at in zip(pieces, where, strict=True):
            made[at] = piece
        return made
    if isinstance(field, Sparse):
        import scipy.sparse

        width = field.size or size or 1
        stacked = scipy.sparse.vstack([*pieces, scipy.sparse.csr_matrix((1, width), dtype=np.float32)], format="csr")
        index = np.full(n, stacked.shape[0] - 1)
        if where:
            found = np.concatenate(where)
            index[found] = np.arange(len(found))
        return stacked[index]
    sets: list[Any] = [np.empty((0, field.dim), np.float32)] * n
    for piece, at in zip(pieces, where, strict=True):
        for row, tokens in zip(at.tolist(), piece, strict=True):
            sets[row] = tokens
    return sets
