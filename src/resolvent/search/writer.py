"""Changes of an index: each is one transaction, and its commit is the moment from which it is there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resolvent.errors import Damaged
from resolvent.search import field_arrays
from resolvent.search.columns import row_sums, seal, sum_of
from resolvent.search.database import (
    Segment,
    State,
    insert_segment,
    int_column,
    payload_indexes,
    read_segments,
    read_state,
    rows_in,
    transaction,
    write_state,
)
from resolvent.search.schema import Field, MultiVector, Schema
from resolvent.search.segment import Arrays, pack, unpack, write

# A batch of this size becomes files at once; the buffer is written to files when it holds so much.
FLUSH_ROWS = 4096
FLUSH_BYTES = 1 << 23
_OURS = re.compile(r"\d{12}-[A-Za-z0-9_.-]+\.safetensors(\.tmp)?")


@dataclass
class Change:
    """An open transaction: what it has done so far; `idle` says that there is nothing new to see."""

    folder: Path
    connection: sqlite3.Connection
    schema: Schema
    state: State
    published: list[str]
    superseded: list[str]
    idle: bool = False


@dataclass(frozen=True)
class Batch:
    """A checked batch, ready to be written."""

    ids: np.ndarray
    columns: dict[str, list[Any]]
    rest: list[str | None]
    fields: dict[str, dict[str, np.ndarray]]

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for arrays in self.fields.values() for part in arrays.values())

    def digest(self) -> str:
        """What a retry of the same batch must have again: ids, payload and vectors."""
        made = hashlib.blake2b(digest_size=16)
        made.update(json.dumps([self.ids.tolist(), self.columns, self.rest]).encode())
        for name, arrays in sorted(self.fields.items()):
            made.update(name.encode())
            for key, part in sorted(arrays.items()):
                made.update(key.encode() + np.ascontiguousarray(part).tobytes())
        return made.hexdigest()


@contextlib.contextmanager
def change(folder: Path, connection: sqlite3.Connection, schema: Schema) -> Iterator[Change]:
    """One transaction on an index. Files published in it that are not committed are removed; superseded ones afterwards."""
    made = Change(folder, connection, schema, State(0, 0, 1, 0, None, {}), [], [])
    done = False
    try:
        with transaction(connection, folder):
            made.state = read_state(connection)
            made.state = replace(made.state, generation=made.state.generation + 1)
            yield made
            if not made.idle:
                write_state(connection, made.state)
        done = True
    finally:
        for name in made.superseded if done else made.published:
            # What cannot be removed now is an orphan, which the next writer removes.
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)


def sweep(made: Change) -> None:
    """Remove files that a writer left when it was killed: who writes files holds the lock that is held here."""
    known = {segment.file for segment in read_segments(made.connection)}
    for path in made.folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in known:
            with contextlib.suppress(OSError):
                path.unlink()


def insert(made: Change, batch: Batch) -> None:
    """Enter the records of a batch and their vectors; an id that is there already is a ValueError."""
    n, state, connection = len(batch.ids), made.state, made.connection
    kind = "str" if batch.ids.dtype == object else "int"
    if state.ids not in (None, kind):
        raise TypeError(f"ids of this index are {state.ids}, got {kind}")
    rows = np.arange(state.next_row, state.next_row + n)
    whole = {
        name: {**arrays, "rows": rows, "check": field_arrays.checks(made.schema.vectors[name], arrays)}
        for name, arrays in batch.fields.items()
    }
    if n >= FLUSH_ROWS or batch.bytes >= FLUSH_BYTES:
        # What waits has lower rows: the files of a field never overlap, so that neighbours can be joined in order.
        flush(made)
        # The database and the files are written at the same time; leaving the block waits for the files.
        with ThreadPoolExecutor(1) as pool:
            jobs = [
                pool.submit(_write_rows, made, name, arrays, _reserved(made, name)) for name, arrays in whole.items()
            ]
            _insert_records(made, batch, rows)
            for job in jobs:
                insert_segment(connection, job.result())
        return
    _insert_records(made, batch, rows)
    for name, arrays in whole.items():
        raw = pack(arrays)
        connection.execute(
            "INSERT INTO buffer VALUES(?, ?, ?, ?, ?, ?)", (int(rows[0]), name, n, len(raw), zlib.crc32(raw), raw)
        )
    held, size = connection.execute(
        "SELECT max(r), sum(b) FROM (SELECT sum(rows) AS r, sum(bytes) AS b FROM buffer GROUP BY field)"
    ).fetchone()
    if (held or 0) >= FLUSH_ROWS or (size or 0) >= FLUSH_BYTES:
        flush(made)


def _insert_records(made: Change, batch: Batch, rows: np.ndarray) -> None:
    """Enter ids and payload, their checksum, and the counters."""
    n, state, connection = len(rows), made.state, made.connection
    ids = batch.ids.tolist()
    scalars = [batch.columns[name] for name in made.schema.scalars]
    marks = ", ".join("?" * (len(scalars) + 3))
    # Sorting a column once is faster than entering its values one by one into a tree.
    anew = n >= max(FLUSH_ROWS, state.live)
    if anew:
        for name in made.schema.scalars:
            connection.execute(f'DROP INDEX "payload_{name}"')
    try:
        connection.executemany(
            f"INSERT INTO rows VALUES({marks})", zip(rows.tolist(), ids, *scalars, batch.rest, strict=True)
        )
    except sqlite3.IntegrityError as error:
        raise ValueError(_twice(connection, batch.ids, int(rows[0]))) from error
    if anew:
        for statement in payload_indexes(made.schema):
            connection.execute(statement)
    for name in made.schema.tags:
        tagged = (
            (row, name, tag) for row, tags in zip(rows.tolist(), batch.columns[name], strict=True) for tag in tags
        )
        connection.executemany("INSERT INTO tags(row, field, tag) VALUES(?, ?, ?)", tagged)
    kind = "str" if batch.ids.dtype == object else "int"
    sums = row_sums(rows, batch.ids if kind == "int" else ids, {**batch.columns, "_rest": batch.rest})
    put_sum(connection, int(rows[0]), int(rows[-1]), n, sum_of(sums))
    sizes = dict(state.sizes)
    for name, arrays in batch.fields.items():
        if "indices" in arrays:
            sizes[name] = max(sizes.get(name, 1), int(arrays["indices"].max(initial=0)) + 1)
    made.state = replace(state, next_row=int(rows[-1]) + 1, live=state.live + n, ids=kind, sizes=sizes)


def remove(made: Change, rows: np.ndarray) -> int:
    """Delete the records of these rows (sorted): their payload goes now, their vectors at the next compaction."""
    connection = made.connection
    if not len(rows):
        return 0
    sums = stored_sums(connection, made.schema, rows)
    ranges = connection.execute(
        "SELECT first, last, live, total, seal FROM sums WHERE last >= ? AND first <= ? ORDER BY first",
        (int(rows[0]), int(rows[-1])),
    ).fetchall()
    for first, last, live, total, sealed in ranges:
        if seal((first, last, live, total)) != sealed:
            raise Damaged(f"{made.folder}: the checksum of rows {first} to {last} is damaged")
        a, b = np.searchsorted(rows, [first, last + 1])
        if a == b:
            continue
        left = np.array([total], np.int64).view(np.uint64)[0] - np.array([sum_of(sums[a:b])], np.int64).view(np.uint64)
        connection.execute("DELETE FROM sums WHERE first = ?", (first,))
        put_sum(connection, first, last, live - int(b - a), int(left.view(np.int64)[0]))
    listed = [(row,) for row in rows.tolist()]
    connection.executemany("DELETE FROM rows WHERE row = ?", listed)
    connection.executemany("INSERT INTO tombstones(row) VALUES(?)", listed)
    made.state = replace(made.state, live=made.state.live - len(rows))
    return len(rows)


def put_sum(connection: sqlite3.Connection, first: int, last: int, live: int, total: int) -> None:
    """Enter the checksum of the records in a range of rows."""
    row = (first, last, live, total)
    connection.execute("INSERT INTO sums VALUES(?, ?, ?, ?, ?)", (*row, seal(row)))


def stored_sums(connection: sqlite3.Connection, schema: Schema, rows: np.ndarray) -> np.ndarray:
    """The sums of records as the database has them now, in the order of `rows` (sorted); all must be there."""
    names = list(schema.scalars)
    listed = "".join(f'"{name}", ' for name in names)
    sql = f"SELECT row, _id, {listed}_rest FROM rows WHERE row"
    low, high = int(rows[0]), int(rows[-1])
    dense = high - low < 4 * len(rows)
    if dense:
        cursor: Any = connection.execute(f"{sql} BETWEEN ? AND ? ORDER BY row", (low, high))
        tagged: Any = (
            connection.execute("SELECT row, field, tag FROM tags WHERE row BETWEEN ? AND ?", (low, high))
            if schema.tags
            else ()
        )
    else:
        cursor = rows_in(connection, f"{sql} IN (*) ORDER BY row", rows.tolist())
        tagged = (
            rows_in(connection, "SELECT row, field, tag FROM tags WHERE row IN (*)", rows.tolist())
            if schema.tags
            else ()
        )
    found = list(cursor)
    at = np.fromiter((one[0] for one in found), np.int64, len(found))
    keep = np.flatnonzero(np.isin(at, rows)) if dense else np.arange(len(found))
    if len(keep) != len(rows):
        raise Damaged(f"the database lacks {len(rows) - len(keep)} of {len(rows)} records")
    columns: dict[str, Sequence[Any]] = {
        name: [found[i][k + 2] for i in keep.tolist()] for k, name in enumerate([*names, "_rest"])
    }
    own: dict[tuple[str, int], list[str]] = {}
    for row, field, tag in tagged:
        own.setdefault((field, row), []).append(tag)
    columns |= {name: [own.get((name, row), []) for row in rows.tolist()] for name in schema.tags}
    return row_sums(rows, [found[i][1] for i in keep.tolist()], columns)


def flush(made: Change) -> None:
    """Write the buffer to files, without the rows that were deleted in the meantime."""
    connection = made.connection
    buffered: dict[str, list[dict[str, np.ndarray]]] = {}
    for first, name, digest, raw in connection.execute(
        "SELECT first, field, digest, arrays FROM buffer ORDER BY field, first"
    ):
        if zlib.crc32(raw) != digest:
            raise Damaged(f"{made.folder}: the batch of rows from {first} in the buffer of field {name!r} is damaged")
        buffered.setdefault(name, []).append(unpack(raw, "buffer")[0])
    dead = np.sort(int_column(connection, "SELECT row AS value FROM tombstones"))
    gone = []
    for name, sources in buffered.items():
        live = []
        for arrays in sources:
            keep = ~np.isin(arrays["rows"], dead)
            gone.append(arrays["rows"][~keep])
            live.append((arrays, None if keep.all() else np.flatnonzero(keep)))
        publish_joined(made, name, live)
    connection.execute("DELETE FROM buffer")
    drop_tombstones(made, np.unique(np.concatenate(gone)) if gone else np.empty(0, np.int64))


def drop_tombstones(made: Change, rows: np.ndarray) -> None:
    """Forget deletions of rows that are in no file any more."""
    if len(rows):
        made.connection.executemany("DELETE FROM tombstones WHERE row = ?", [(row,) for row in rows.tolist()])
        made.state = replace(made.state, epoch=made.state.epoch + 1)


def publish_joined(
    made: Change, name: str, sources: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray | None]]
) -> Segment | None:
    """Publish some rows of several sources as one file."""
    sources = [
        (dict(arrays), index) for arrays, index in sources if (len(arrays["rows"]) if index is None else len(index))
    ]
    if not sources:
        return None
    own = [({k: v for k, v in arrays.items() if k not in ("rows", "check")}, index) for arrays, index in sources]
    whole: dict[str, Any] = field_arrays.join(made.schema.vectors[name], own)
    for extra in ("rows", "check"):
        whole[extra] = np.concatenate(
            [arrays[extra] if index is None else arrays[extra][index] for arrays, index in sources]
        )
    return publish(made, name, whole)


def publish(made: Change, name: str, arrays: Arrays) -> Segment:
    """Write the vectors of some rows of a field to a file and enter it."""
    segment = _write_rows(made, name, arrays, _reserved(made, name))
    insert_segment(made.connection, segment)
    return segment


def _reserved(made: Change, name: str) -> str:
    """The name of a new file, which goes if the transaction fails."""
    file = file_name(made, name)
    made.published.append(file)
    return file


def _write_rows(made: Change, name: str, arrays: Arrays, file: str) -> Segment:
    """Publish rows of a field as a file, and say how it is to be entered; the database is not touched."""
    rows: Any = arrays["rows"]
    metadata = {"field": name, "generation": str(made.state.generation), "writer": "resolvent.search"}
    written = write(made.folder, file, arrays, metadata, _codes(made.schema.vectors[name]))
    first, last = int(rows[0]), int(rows[-1])
    return Segment(file, name, "", "", len(rows), first, last, written.bytes, written.digest, made.state.generation)


def file_name(made: Change, name: str, structure: str = "") -> str:
    """A name that no file of the index has or had."""
    stem = "-".join(word for word in (f"{made.state.generation:012d}", name, structure) if word)
    number, file = 1, f"{stem}.safetensors"
    while file in made.published:
        number += 1
        file = f"{stem}.{number}.safetensors"
    return file


def _codes(field: Field) -> dict[str, str]:
    """Where the file says what the numbers mean and NumPy cannot: other readers see bfloat16 and not integers."""
    if getattr(field, "dtype", "") != "bfloat16":
        return {}
    return {"tokens.data" if isinstance(field, MultiVector) else "data": "BF16"}


def _twice(connection: sqlite3.Connection, ids: np.ndarray, first: int) -> str:
    """Which id is there already."""
    listed = ids.tolist()
    known = next(rows_in(connection, f"SELECT _id FROM rows WHERE row < {first} AND _id IN (*)", listed), None)
    if known is not None:
        return f"ids must be new, {known[0]!r} is in the index already: upsert replaces records"
    seen: set[Any] = set()
    return f"ids must be distinct, {next((i for i in listed if i in seen or seen.add(i)), None)!r} is given twice"  # type: ignore[func-returns-value]
