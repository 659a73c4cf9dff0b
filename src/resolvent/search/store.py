"""An index on disk that loses nothing: dense, sparse and multi-vector fields with payload in one directory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resolvent.errors import ReadOnly, StoreError
from resolvent.search import compact, database, field_arrays, writer
from resolvent.search.columns import read_columns
from resolvent.search.field_parts import Files
from resolvent.search.ids import as_ids
from resolvent.search.maintain import Maintenance
from resolvent.search.schema import Field, Schema
from resolvent.search.snapshot import Snapshot, View, read_view

_POOL = 4


def create(
    path: str | Path,
    *,
    vectors: Mapping[str, Field],
    payload: Mapping[str, Any] | None = None,
    window: Sequence[str] | str = (),
    timeout: float = 30.0,
) -> Index:
    """Make an empty index in a directory and open it for writing.

    Parameters
    ----------
    path : the directory; it is made, and must hold no index yet
    vectors : name -> `Dense`, `Sparse` or `MultiVector`
    payload : name -> float, int, bool, str, "datetime" or list[str] (tags); other values that JSON can hold may be
        added to any record and come back with it, but cannot be filtered
    window : payload columns (numbers or datetimes) that intervals will often be asked of
    timeout : seconds that a write waits for another process that is writing

    Returns
    -------
    Index

    Raises
    ------
    FileExistsError : the directory holds an index already, or is a file.
    ReadOnly, NoSpace : the directory cannot be written.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from resolvent import search
    >>> folder = tempfile.TemporaryDirectory()
    >>> index = search.create(f"{folder.name}/shop", vectors={"text": search.Dense(3)}, payload={"price": float})
    >>> index.add(["a", "b"], text=np.eye(3)[:2], payload={"price": [1.0, 2.5]})
    2
    >>> index.get(["b"])["payload"]
    {'price': [2.5]}
    >>> index.close(); folder.cleanup()
    """
    import resolvent
    from resolvent.search.segment import disk_faults, sync_folder

    folder = Path(path)
    schema = Schema.of(vectors, payload, window)
    with disk_faults(folder):
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        connection = database.connect(folder, "new", timeout)
    try:
        with database.transaction(connection, folder):
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise FileExistsError(f"{folder} holds an index (or another database) already: open() it")
            database.create_tables(connection, schema, resolvent.__version__)
    finally:
        connection.close()
    sync_folder(folder)
    sync_folder(folder.parent)
    return Index(folder, "rw", timeout)


def open(path: str | Path, mode: Literal["r", "rw"] = "r", *, timeout: float = 30.0) -> Index:
    """Open an index; everything about it comes from its files.

    Parameters
    ----------
    path : its directory
    mode : "r" to read, "rw" to change it as well
    timeout : seconds that a write waits for another process that is writing

    Returns
    -------
    Index

    Raises
    ------
    FileNotFoundError : there is no index.
    Damaged : its database is damaged or is not one of an index.
    ReadOnly : mode "rw" and the directory cannot be written.

    Notes
    -----
    Files are mapped, not read: opening takes the same few milliseconds for a gigabyte as for a kilobyte. Nothing in
    the directory is code or can name code, and sizes are checked before memory is taken.

    Examples
    --------
    >>> import tempfile
    >>> from resolvent import search
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     search.create(f"{folder}/x", vectors={"v": search.Dense(2)}).close()
    ...     with search.open(f"{folder}/x") as index:
    ...         len(index), index.schema.vectors
    (0, {'v': Dense(dim=2, metric='ip', dtype='float32')})
    """
    folder = Path(path)
    if mode not in ("r", "rw"):
        raise ValueError(f"mode must be 'r' or 'rw', got {mode!r}")
    if not (folder / database.FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no index: there is no {database.FILE}")
    return Index(folder, mode, timeout)


class Index(Maintenance):
    """An index on disk: records with an id, payload, and vectors in one or more fields.

    `create` and `open` make it. It is a context manager, may be used by several threads, and any number of processes
    may read while one writes. Each call of `add`, `upsert` and `delete` is one transaction: when it returns, its batch
    is on the disk, and whatever interrupts it, the batch is there as a whole or not at all.

    Parameters
    ----------
    folder : the directory
    mode : "r" or "rw"
    timeout : seconds that a write waits for another writer

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from resolvent import search
    >>> with tempfile.TemporaryDirectory() as folder, search.create(f"{folder}/x", vectors={"v": search.Dense(2)}) as index:
    ...     _ = index.add([7, 8], v=[[1.0, 0.0], [0.0, 1.0]])
    ...     _ = index.upsert([8], v=[[0.5, 0.5]])
    ...     index.delete([7]), index.ids(), index.get([8])["v"]
    (1, array([8]), array([[0.5, 0.5]], dtype=float32))
    """

    def __init__(self, folder: Path, mode: str, timeout: float) -> None:
        self.path = folder
        self.mode = mode
        self.timeout = timeout
        self._lock = threading.RLock()
        self._closed = False
        self._swept = False
        self._readers: list[sqlite3.Connection] = []
        self._view: View | None = None
        self._files = Files(folder)
        self._writer: sqlite3.Connection | None = None
        if mode == "rw":
            self._writer = database.connect(folder, "rw", timeout)
            self.schema: Schema = database.read_schema(self._writer, folder)
        else:
            reader = database.connect(folder, "r", timeout)
            self.schema = database.read_schema(reader, folder)
            self._readers.append(reader)
        self._identity = _identity(folder)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; snapshots that are still open keep what they see."""
        with self._lock:
            self._closed = True
            self._view = None
            for connection in [*self._readers, self._writer]:
                if connection is not None:
                    connection.close()
            self._readers, self._writer = [], None

    # Reading.

    def snapshot(self) -> Snapshot:
        """The index as it is now, and stays for the one who holds the snapshot."""
        with self._lock:
            self._check_open()
            connection = self._readers.pop() if self._readers else database.connect(self.path, "r", self.timeout)
            view = None
            try:
                with database.faults(self.path):
                    view = read_view(connection, self.schema, self._files, self._view)
            finally:
                if view is None:
                    connection.close()
            self._view, self._files = view, view.files
        return Snapshot(connection, view, self._take_back)

    def __len__(self) -> int:
        with self.snapshot() as now:
            return now.count

    def __contains__(self, one: Any) -> bool:
        with self.snapshot() as now:
            return bool(now.rows_of([one], missing="mark")[0] >= 0)

    def ids(self, where: Any = None) -> np.ndarray:
        """Ids of all records, or of those that match a filter, in the order in which they were added."""
        with self.snapshot() as now:
            return now.ids(now.rows(self._where(where)))

    def get(self, ids: Any) -> dict[str, Any]:
        """Records by id; one that is not there is a KeyError.

        Parameters
        ----------
        ids : (m,) ids

        Returns
        -------
        {"ids": (m,), "payload": {column: list}, and for each field its vectors: (m, d) float32, a CSR matrix, or a list
        of (t, d) arrays}. A record without a vector in a field has NaN, an empty row, or no tokens there.
        """
        with self.snapshot() as now:
            rows = now.rows_of(ids)
            made = {"ids": as_ids(ids), "payload": now.payload(rows)}
            return made | {field: now.take(field, rows) for field in self.schema.vectors}

    # Writing.

    def add(self, ids: Any, *, payload: Any = None, batch: str | None = None, **fields: Any) -> int:
        """Add records; an id that is there already is a ValueError and nothing is added.

        Parameters
        ----------
        ids : (n,) int64 or strings
        payload : a mapping of columns, a list of mappings, or a table (pandas, pyarrow)
        batch : a name by which a retry is known: a batch that is there already is not added again
        fields : the vectors of each field: (n, d) for `Dense`; a SciPy sparse matrix or a list of dicts for `Sparse`;
            a list of (t, d) arrays, (n, t, d), or (tokens, offsets) for `MultiVector`; a field may be left out

        Returns
        -------
        Records added (0 if `batch` is there already).
        """
        # Before the lock is taken.
        made = checked_batch(self.schema, ids, payload, fields)
        return self._insert(made, batch, replace_them=False)

    def upsert(self, ids: Any, *, payload: Any = None, batch: str | None = None, **fields: Any) -> int:
        """Add records, and replace those whose ids are there already, as a whole; otherwise as `add`."""
        made = checked_batch(self.schema, ids, payload, fields)
        return self._insert(made, batch, replace_them=True)

    def delete(self, ids: Any = None, *, where: Any = None) -> int:
        """Delete records by ids or by a filter, and say how many; ids that are not there count as deleted already."""
        if (ids is None) == (where is None):
            raise ValueError("give either ids or where")
        keys = None if ids is None else as_ids(ids).tolist()
        condition = self._where(where)
        with self._change() as made:
            if keys is None:
                sql = f"SELECT row AS value FROM payload WHERE {condition[0]}"
                rows = np.sort(database.int_column(made.connection, sql, condition[1]))
            else:
                rows = self._known(made, keys)
            return writer.remove(made, rows)

    # Inside.

    def _insert(self, new: writer.Batch, batch: str | None, *, replace_them: bool) -> int:
        if batch is not None and (not isinstance(batch, str) or not batch):
            raise TypeError(f"batch must be a string that is not empty, got {batch!r}")
        digest = new.digest() if batch is not None else ""
        with self._change() as made:
            if batch is not None:
                known = made.connection.execute("SELECT digest FROM batches WHERE batch = ?", (batch,)).fetchone()
                if known is not None:
                    if known[0] != digest:
                        raise ValueError(f"batch {batch!r} is in the index with other content")
                    return 0
                made.connection.execute("INSERT INTO batches VALUES(?, ?, ?)", (batch, len(new.ids), digest))
            if len(new.ids):
                if replace_them:
                    writer.remove(made, self._known(made, new.ids.tolist()))
                writer.insert(made, new)
                compact.merge_tiers(made)
            grown = bool(made.published)
        if grown:
            self._build_later()
        return len(new.ids)

    def _known(self, made: writer.Change, keys: list[Any]) -> np.ndarray:
        found = database.rows_in(made.connection, "SELECT row FROM rows WHERE _id IN (*)", keys) if keys else ()
        return np.unique(np.fromiter((row for (row,) in found), np.int64))

    @contextmanager
    def _change(self) -> Iterator[writer.Change]:
        with self._lock:
            self._check_open()
            if self._writer is None:
                raise ReadOnly(f"{self.path} was opened with mode='r': open it with mode='rw' to change it")
            with writer.change(self.path, self._writer, self.schema) as made:
                if not self._swept:
                    writer.sweep(made)
                yield made
            self._swept = True

    def query(self, **arguments: Any) -> Any:
        """Search the index as it is now: `resolvent.search.query`, which says what it takes, of a fresh snapshot."""
        from resolvent.search.query import query

        return query(self.snapshot(), **arguments)

    def measure_recall(self, **arguments: Any) -> Any:
        """Compare the search with a full scan: `resolvent.search.measure_recall` of a fresh snapshot."""
        from resolvent.search.store_recall import measure_recall

        return measure_recall(self.snapshot(), **arguments)

    def _where(self, where: Any) -> Any:
        """A filter as (sql, params): an expression made from `F`, or what it compiles to."""
        if where is None or (isinstance(where, tuple) and len(where) == 2 and isinstance(where[0], str)):
            return where
        from resolvent.search.filters import compile

        return compile(where, self.schema.payload)

    def _take_back(self, connection: sqlite3.Connection) -> None:
        """A snapshot is closed: its connection serves the next one."""
        try:
            if connection.in_transaction:
                connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            return
        if self._closed or len(self._readers) >= _POOL:
            connection.close()
        else:
            self._readers.append(connection)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the index {self.path} is closed")
        # Connections follow a file that is moved, names do not: vectors would go into another index than their records.
        if _identity(self.path) != self._identity:
            raise StoreError(f"{self.path} was moved or replaced while it was open: open it again")


def checked_batch(schema: Schema, ids: Any, payload: Any, fields: Mapping[str, Any]) -> writer.Batch:
    """A batch, checked and encoded as a whole."""
    names = as_ids(ids)
    n = len(names)
    for name in fields:
        if name not in schema.vectors:
            raise ValueError(f"fields are {', '.join(schema.vectors)}, got {name!r}")
    if names.dtype == object:
        for one in names.tolist():
            one.encode()
    columns, rest = read_columns(payload, schema, n)
    encoded = {
        name: field_arrays.encode(schema.vectors[name], x, n, name) for name, x in fields.items() if x is not None
    }
    return writer.Batch(names, columns, rest, encoded)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which file the database is, whatever its name."""
    try:
        found = (folder / database.FILE).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
