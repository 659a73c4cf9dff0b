"""Is everything in an index what was written? Every byte that matters is compared with a checksum."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resolvent.errors import StoreError
from resolvent.search import field_arrays, writer
from resolvent.search.columns import seal, sum_of
from resolvent.search.database import Segment, faults, int_column, read_schema, read_segments, read_state
from resolvent.search.field_parts import Part
from resolvent.search.segment import file_digest, map_file, unpack
from resolvent.search.snapshot import Snapshot
from resolvent.search.structures import restore

# Damaged rows that one message names.
_NAMED = 20


def problems(snapshot: Snapshot) -> Iterator[str]:
    """Everything that is wrong with the generation that a snapshot sees, one sentence each."""
    connection, folder = snapshot._open(), snapshot.folder
    try:
        with faults(folder):
            for (line,) in connection.execute("PRAGMA integrity_check(20)"):
                if line != "ok":
                    yield f"meta.sqlite: {line}"
            read_schema(connection, folder)
            read_state(connection)
            segments = read_segments(connection)
    except StoreError as error:
        yield str(error)
        return
    for check in (_records, _tombstones, _specs):
        try:
            yield from check(snapshot)
        except (StoreError, ValueError, TypeError) as error:
            yield f"meta.sqlite: {error}"
    for field in snapshot.schema.vectors:
        yield from _field(snapshot, field, [s for s in segments if s.field == field])
    for segment in segments:
        if segment.field not in snapshot.schema.vectors:
            yield f"{segment.file}: belongs to the field {segment.field!r}, which the index has not"


def damaged_structures(snapshot: Snapshot) -> list[Segment]:
    """Structures whose files are missing or have other bytes than were written, and that can be built anew."""
    found = []
    for segment in read_segments(snapshot._open()):
        if segment.structure and _wrong_bytes(snapshot.folder, segment) is not None:
            found.append(segment)
    return found


def _records(snapshot: Snapshot) -> Iterator[str]:
    """Ids and payload, by the checksum of each batch."""
    connection, state = snapshot._open(), snapshot._view.state
    with faults(snapshot.folder):
        ranges = connection.execute("SELECT first, last, live, total, seal FROM sums ORDER BY first").fetchall()
        (count, distinct, highest) = connection.execute(
            "SELECT count(*), count(DISTINCT _id), max(row) FROM rows"
        ).fetchone()
    if count != state.live:
        yield f"meta.sqlite: has {count} records, {state.live} were written"
    if distinct != count:
        yield f"meta.sqlite: has {count - distinct} ids twice"
    if highest is not None and highest >= state.next_row:
        yield f"meta.sqlite: has row {highest}, rows up to {state.next_row - 1} were given"
    end, seen = 0, 0
    for first, last, live, total, sealed in ranges:
        if seal((first, last, live, total)) != sealed or first <= end or last < first:
            yield f"meta.sqlite: the checksum of rows {first} to {last} is damaged"
            continue
        end, seen = last, seen + live
        with faults(snapshot.folder):
            rows = int_column(
                connection, "SELECT row AS value FROM rows WHERE row BETWEEN ? AND ? ORDER BY row", (first, last)
            )
            found = sum_of(writer.stored_sums(connection, snapshot.schema, rows)) if len(rows) else 0
        if len(rows) != live or found != total:
            yield f"meta.sqlite: the records of rows {first} to {last} ({len(rows)} of {live}) are not what was written"
    if seen != count and count == state.live:
        yield f"meta.sqlite: has {count} records, {seen} of them with a checksum"


def _tombstones(snapshot: Snapshot) -> Iterator[str]:
    with faults(snapshot.folder):
        (both,) = snapshot._open().execute("SELECT count(*) FROM tombstones JOIN rows USING (row)").fetchone()
        (stray,) = (
            snapshot._open().execute("SELECT count(*) FROM tags WHERE row NOT IN (SELECT row FROM rows)").fetchone()
        )
    if both:
        yield f"meta.sqlite: {both} records are marked as deleted and are there"
    if stray:
        yield f"meta.sqlite: {stray} tags belong to no record"


def _specs(snapshot: Snapshot) -> Iterator[str]:
    for field, structure, text, sealed in snapshot._open().execute(
        "SELECT field, structure, settings, seal FROM specs"
    ):
        if seal((field, structure, text)) != sealed:
            yield f"meta.sqlite: the settings of {structure!r} over field {field!r} are damaged"


def _field(snapshot: Snapshot, field: str, segments: list[Segment]) -> Iterator[str]:
    """The files and the buffer of a field: bytes, rows, and whether they agree with the database."""
    live, dead = snapshot.rows(), snapshot._view.dead
    seen = []
    for segment in (s for s in segments if not s.structure):
        wrong = _wrong_bytes(snapshot.folder, segment)
        try:
            arrays, _ = map_file(snapshot.folder / segment.file, segment.bytes if wrong is None else None)
        except StoreError as error:
            yield str(error)
            continue
        if wrong is not None:
            yield wrong
            yield from _damaged_rows(snapshot, segment, arrays)
            continue
        rows = arrays["rows"]
        seen.append(rows)
        yield from _agreement(segment.file, rows, live, dead)
        if len(rows) != segment.rows or (int(rows[0]), int(rows[-1])) != (segment.first, segment.last):
            yield f"{segment.file}: has other rows than the database says"
        part = Part(
            snapshot.schema.vectors[field], segment.file, arrays, dead, None, snapshot._view.state.sizes.get(field)
        )
        for own in (s for s in segments if s.parent == segment.file):
            yield from _structure(snapshot, own, part)
    with faults(snapshot.folder):
        buffered = (
            snapshot._open().execute("SELECT first, digest, arrays FROM buffer WHERE field = ?", (field,)).fetchall()
        )
    for first, digest, raw in buffered:
        if zlib.crc32(raw) != digest:
            yield f"meta.sqlite: the batch of rows from {first} in the buffer of field {field!r} is damaged"
            continue
        rows = unpack(raw, "buffer")[0]["rows"]
        seen.append(rows)
        yield from _agreement(f"buffer of {field!r}", rows, live, dead)
    if seen:
        joint = np.concatenate(seen)
        if len(np.unique(joint)) < len(joint):
            yield f"field {field!r}: {len(joint) - len(np.unique(joint))} rows are in two files"


def _agreement(name: str, rows: np.ndarray, live: np.ndarray, dead: np.ndarray) -> Iterator[str]:
    if len(rows) and (np.diff(rows) <= 0).any():
        yield f"{name}: its rows are not ascending"
    strange = ~(np.isin(rows, live) | np.isin(rows, dead))
    if strange.any():
        yield f"{name}: {int(strange.sum())} rows are neither records nor deleted, the first is {int(rows[strange][0])}"


def _structure(snapshot: Snapshot, own: Segment, part: Part) -> Iterator[str]:
    wrong = _wrong_bytes(snapshot.folder, own)
    if wrong is None:
        try:
            restore(own, map_file(snapshot.folder / own.file, own.bytes), part)
        except StoreError as error:
            wrong = str(error)
    if wrong is not None:
        yield f"{wrong}: it is a search structure and can be built anew from the vectors"


def _wrong_bytes(folder: Path, segment: Segment) -> str | None:
    path = folder / segment.file
    try:
        size = path.stat().st_size
        if size != segment.bytes:
            return f"{path}: has {size} bytes, {segment.bytes} were written"
        return None if file_digest(path) == segment.digest else f"{path}: has other bytes than were written"
    except OSError as error:
        return f"{path}: is missing or cannot be read ({error.strerror})"


def _damaged_rows(snapshot: Snapshot, segment: Segment, arrays: dict[str, Any]) -> Iterator[str]:
    """Which records a damaged file concerns."""
    field = snapshot.schema.vectors[segment.field]
    own = {key: part for key, part in arrays.items() if key not in ("rows", "check")}

    def compared() -> np.ndarray:
        return np.flatnonzero(field_arrays.checks(field, own) != arrays["check"])

    try:
        bad = arrays["rows"][field_arrays.checked_view(compared, segment.file)]
        known = np.intersect1d(bad, snapshot.rows())
        ids = snapshot.ids(known).tolist()
    except (StoreError, KeyError) as error:
        yield f"{segment.file}: its rows cannot be told apart ({error})"
        return
    if not len(bad):
        yield f"{segment.file}: no vector of it is damaged: header, row numbers or checksums are"
    elif ids:
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        yield f"{segment.file}: the vectors of {', '.join(map(repr, ids[:_NAMED]))}{more} in field {segment.field!r} are damaged"
    else:
        yield f"{segment.file}: only vectors of deleted records are damaged"
