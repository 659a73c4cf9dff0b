"""The one mutable file of an index, `meta.sqlite`: its tables, its connections, its transactions, its errors."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote as percent

import numpy as np

from resolvent.errors import Busy, Damaged, NoSpace, ReadOnly, StoreError
from resolvent.search.columns import seal
from resolvent.search.schema import Schema, field_from_json, field_to_json

FILE = "meta.sqlite"
VERSION = 1
_SQL_TYPE = {"float": "REAL", "int": "INTEGER", "bool": "INTEGER", "str": "TEXT", "datetime": "INTEGER"}
# The application id that the header of the database carries: "rsvX".
_APPLICATION = 0x72737658

_TABLES = """
CREATE TABLE format(version INTEGER NOT NULL, library TEXT NOT NULL, fields TEXT NOT NULL, payload TEXT NOT NULL, seal INTEGER NOT NULL);
CREATE TABLE state(one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, epoch INTEGER NOT NULL,
    next_row INTEGER NOT NULL, live INTEGER NOT NULL, ids TEXT, sizes TEXT NOT NULL, seal INTEGER NOT NULL);
CREATE TABLE sums(first INTEGER PRIMARY KEY, last INTEGER NOT NULL, live INTEGER NOT NULL, total INTEGER NOT NULL, seal INTEGER NOT NULL);
CREATE TABLE batches(batch TEXT PRIMARY KEY, rows INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tags(row INTEGER NOT NULL REFERENCES rows(row) ON DELETE CASCADE, field TEXT NOT NULL, tag TEXT NOT NULL,
    PRIMARY KEY (field, tag, row)) WITHOUT ROWID;
CREATE INDEX tags_row ON tags(row);
CREATE TABLE tombstones(seq INTEGER PRIMARY KEY, row INTEGER NOT NULL UNIQUE);
CREATE TABLE buffer(first INTEGER NOT NULL, field TEXT NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
    digest INTEGER NOT NULL, arrays BLOB NOT NULL, PRIMARY KEY (first, field));
CREATE TABLE segments(file TEXT PRIMARY KEY, field TEXT NOT NULL, structure TEXT NOT NULL, parent TEXT NOT NULL,
    rows INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL,
    digest TEXT NOT NULL, generation INTEGER NOT NULL, seal INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE specs(field TEXT NOT NULL, structure TEXT NOT NULL, settings TEXT NOT NULL, seal INTEGER NOT NULL,
    PRIMARY KEY (field, structure)) WITHOUT ROWID;
"""


class Segment(NamedTuple):
    """A file of the index: rows of a field, or (if `structure` is not empty) a search structure over `parent`."""

    file: str
    field: str
    structure: str
    parent: str
    rows: int
    first: int
    last: int
    bytes: int
    digest: str
    generation: int


@dataclass(frozen=True)
class State:
    """The counters of a generation.

    Attributes
    ----------
    generation : number of the last commit
    epoch : rises when tombstones were taken away
    next_row : the row that the next record gets
    live : records that are there
    ids : "int", "str", or None before the first record
    sizes : columns seen so far of the sparse fields without a declared size
    """

    generation: int
    epoch: int
    next_row: int
    live: int
    ids: str | None
    sizes: dict[str, int]


def connect(folder: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """A connection to the index in `folder`; `mode` is "r", "rw" or "new"."""
    path = folder / FILE
    flag = {"r": "ro", "rw": "rw", "new": "rwc"}[mode]
    with faults(folder):
        connection = _connect(path, f"mode={flag}", timeout)
        try:
            _settle(connection, mode)
        except sqlite3.OperationalError as error:
            connection.close()
            if mode != "r" or not _cannot_make_wal(error, folder):
                raise
            # Nobody can write here, and there is no log that would have to be replayed: the file is all there is.
            connection = _connect(path, "mode=ro&immutable=1", timeout)
            _settle(connection, mode)
    return connection


def create_tables(connection: sqlite3.Connection, schema: Schema, library: str) -> None:
    """Make the tables of an empty index, in the caller's transaction."""
    for statement in table_statements(schema):
        connection.execute(statement)
    fields = json.dumps({name: field_to_json(kind) for name, kind in schema.vectors.items()})
    payload = json.dumps({"columns": schema.payload, "window": list(schema.window)})
    row = (VERSION, library, fields, payload)
    connection.execute("INSERT INTO format VALUES(?, ?, ?, ?, ?)", (*row, seal(row)))
    write_state(connection, State(0, 0, 1, 0, None, {}))


def table_statements(schema: Schema) -> list[str]:
    """Every statement that makes the database of this schema; nothing else may be in it."""
    columns = [f'"{name}" {_SQL_TYPE[kind]}' for name, kind in schema.scalars.items()]
    names = ["row", *(f'"{name}"' for name in schema.scalars)]
    return [
        *(text.strip() for text in _TABLES.split(";") if text.strip()),
        f"CREATE TABLE rows({', '.join(['row INTEGER PRIMARY KEY', '_id NOT NULL UNIQUE', *columns, '_rest TEXT'])})",
        f"CREATE VIEW payload AS SELECT {', '.join(names)} FROM rows",
        *payload_indexes(schema),
    ]


def payload_indexes(schema: Schema) -> list[str]:
    """The statements that make the index of each column that can be filtered."""
    return [f'CREATE INDEX "payload_{name}" ON rows("{name}")' for name in schema.scalars]


def read_schema(connection: sqlite3.Connection, folder: Path) -> Schema:
    """The schema that the file holds, after a check that the file is what this library makes."""
    with faults(folder):
        found = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        ).fetchall()
        if "format" not in (name for name, _ in found):
            raise Damaged(f"{folder}: is not an index, or its creation was cut short: {FILE} has no table of formats")
        row = connection.execute("SELECT version, library, fields, payload, seal FROM format").fetchone()
    if row is None or row[0] != VERSION:
        raise Damaged(
            f"{folder}: has format {None if row is None else row[0]!r}, this version of the library reads {VERSION}"
        )
    if seal(row[:4]) != row[4]:
        raise Damaged(f"{folder}: the table of formats in {FILE} is damaged")
    try:
        fields, payload = json.loads(row[2]), json.loads(row[3])
        schema = Schema.of(
            {name: field_from_json(kind) for name, kind in fields.items()}, payload["columns"], payload["window"]
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"{folder}: the schema in {FILE} is damaged ({error})") from error
    # A trigger or a view that somebody put into the file would run with the library's statements.
    wanted = {" ".join(text.split()) for text in table_statements(schema)}
    foreign = [name for name, text in found if " ".join((text or "").split()) not in wanted]
    if foreign or len(found) != len(wanted):
        raise Damaged(
            f"{folder}: {FILE} has other tables than an index has: {', '.join(foreign) or 'some are missing'}"
        )
    return schema


def read_state(connection: sqlite3.Connection) -> State:
    """The counters as the connection's transaction sees them."""
    row = connection.execute("SELECT generation, epoch, next_row, live, ids, sizes, seal FROM state").fetchone()
    if row is None or seal(row[:6]) != row[6]:
        raise Damaged(f"{FILE}: the row of counters is damaged")
    generation, epoch, next_row, live, ids, sizes, _ = row
    return State(generation, epoch, next_row, live, ids, json.loads(sizes))


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Replace the counters."""
    row = (state.generation, state.epoch, state.next_row, state.live, state.ids, json.dumps(state.sizes))
    connection.execute("INSERT OR REPLACE INTO state VALUES(1, ?, ?, ?, ?, ?, ?, ?)", (*row, seal(row)))


def read_segments(connection: sqlite3.Connection) -> list[Segment]:
    """All files of the generation, the oldest rows first."""
    made = []
    for row in connection.execute(
        f"SELECT {', '.join(Segment._fields)}, seal FROM segments ORDER BY field, first, structure"
    ):
        if seal(row[:-1]) != row[-1]:
            raise Damaged(f"{FILE}: the entry of the file {row[0]!r:.80} is damaged")
        made.append(Segment(*row[:-1]))
    return made


def insert_segment(connection: sqlite3.Connection, segment: Segment) -> None:
    """Enter a published file; the commit of the transaction is what makes it part of the index."""
    marks = ", ".join("?" * (len(segment) + 1))
    connection.execute(f"INSERT INTO segments VALUES({marks})", (*segment, seal(segment)))


def int_column(connection: sqlite3.Connection, sql: str, params: Sequence[Any] = ()) -> np.ndarray:
    """One column of integers as an array: SQLite joins them, which is three times as fast as a cursor."""
    (text,) = connection.execute(f"SELECT group_concat(value) FROM ({sql})", params).fetchone()
    return np.empty(0, np.int64) if text is None else np.fromstring(str(text), dtype=np.int64, sep=",")


def rows_in(connection: sqlite3.Connection, sql: str, keys: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows of a query that has `IN (*)` for a list of keys, asked a thousand keys at a time."""
    listed = list(keys)
    step = 1000
    for at in range(0, len(listed), step):
        some = listed[at : at + step]
        # Few different statements, so that SQLite compiles each of them once.
        room = 1 << (len(some) - 1).bit_length()
        some += [some[-1]] * (min(room, step) - len(some))
        yield from connection.execute(sql.replace("*", ", ".join("?" * len(some))), some)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """BEGIN IMMEDIATE ... COMMIT; whatever goes wrong inside or in the commit itself, nothing of it stays."""
    done = False
    with faults(folder):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
            done = True
        finally:
            if not done and connection.in_transaction:
                connection.execute("ROLLBACK")


@contextlib.contextmanager
def faults(folder: Path) -> Iterator[None]:
    """Say SQLite's errors by the library's own."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _translated(error, folder) from error
    except UnicodeDecodeError as error:
        # Python's module shows a text or a message whose bytes have changed.
        raise Damaged(f"{folder}: {FILE} is damaged (a text in it is not UTF-8); nothing was written to it") from error


def _translated(error: sqlite3.DatabaseError, folder: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) or 0
    primary = code & 0xFF
    said = " ".join(str(error).split())[:200]
    if not code and "decode to UTF-8" in said:
        return Damaged(f"{folder}: {FILE} is damaged (a text in it is not UTF-8); nothing was written to it")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"{folder}: another process is writing and did not finish within the timeout")
    if primary == sqlite3.SQLITE_FULL:
        return NoSpace(28, f"{folder}: the disk is full; nothing of this call was kept")
    if primary == sqlite3.SQLITE_READONLY:
        return ReadOnly(f"{folder}: cannot be written ({said})")
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return Damaged(f"{folder}: {FILE} is damaged ({said}); nothing was written to it")
    if primary == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{folder}: {FILE} cannot be opened ({said})")
    if primary == sqlite3.SQLITE_IOERR:
        return StoreError(f"{folder}: the disk failed while {FILE} was used ({said}); nothing of this call was kept")
    return error if isinstance(error, sqlite3.IntegrityError) else StoreError(f"{folder}: {said}")


def _connect(path: Path, flags: str, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{percent(str(path.absolute()))}?{flags}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _settle(connection: sqlite3.Connection, mode: str) -> None:
    # Functions that a file's own views or triggers might call are not trusted.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("PRAGMA temp_store = MEMORY")
    if mode == "new":
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("PRAGMA journal_mode = WAL")
    if mode != "r":
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
    # The first read finds out whether the file can be used at all.
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _cannot_make_wal(error: sqlite3.OperationalError, folder: Path) -> bool:
    if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return False
    if not (folder / FILE).exists():
        return False
    log = folder / f"{FILE}-wal"
    if log.exists() and log.stat().st_size:
        raise ReadOnly(
            f"{folder}: was not closed, and the directory cannot be written, so that its log {log.name} cannot be "
            "replayed: copy the directory to a place that can be written"
        )
    return True
