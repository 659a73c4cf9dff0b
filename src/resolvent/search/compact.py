"""Rewriting the files of an index: without deleted rows, fewer and larger, with the structures that belong to them."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resolvent.errors import Damaged
from resolvent.search import structures, writer
from resolvent.search.columns import seal
from resolvent.search.database import Segment, insert_segment, int_column, read_segments
from resolvent.search.field_parts import Part
from resolvent.search.schema import Dense
from resolvent.search.segment import file_digest, map_file, write
from resolvent.search.writer import Change

# Files with fewer rows than this are put together by `compact`.
SMALL = 1 << 16
# So many files of about one size become one while records are added: a row is rewritten at most twice.
_FAN, _TIERS = 8, 2
MIN_ROWS = 5000


def compact(made: Change, policy: str | float) -> None:
    """Write the buffer to files, put small files together, and rewrite those with too many deleted rows."""
    if policy not in ("auto", "full") and not (isinstance(policy, int | float) and 0 <= policy <= 1):
        raise ValueError(f"policy must be 'auto', 'full', or the share of deleted rows from 0 to 1, got {policy!r}")
    writer.flush(made)
    most = {"auto": 0.2, "full": 0.0}[policy] if isinstance(policy, str) else float(policy)
    dead = dead_rows(made)
    for name in made.schema.vectors:
        for run in _runs(made, name, dead, whole=policy == "full"):
            if len(run) > 1 or _dead_share(made, run[0], dead) > most:
                merge(made, run, dead)
    forget(made, dead)
    _merge_sums(made)


def merge_tiers(made: Change) -> None:
    """Put the newest files of a field together when there are many of one size."""
    dead = None
    for name in made.schema.vectors:
        while True:
            segments = data_segments(made, name)
            tiers = [max(0, int(math.log(max(s.rows, 1) / writer.FLUSH_ROWS, _FAN))) for s in segments]
            last = tiers[-1] if tiers else _TIERS
            count = next((i for i, tier in enumerate(reversed(tiers)) if tier != last), len(tiers))
            if last >= _TIERS or count < _FAN:
                break
            dead = dead_rows(made) if dead is None else dead
            try:
                merge(made, segments[-count:], dead)
            except Damaged:
                # A damaged file must not keep new records out: it stays as it is, and verify names it.
                break
    if dead is not None:
        with contextlib.suppress(Damaged):
            forget(made, dead)


def merge(made: Change, run: Sequence[Segment], dead: np.ndarray) -> None:
    """Replace these files of a field by one with their live rows."""
    sources = []
    for segment in run:
        part = load(made, segment, dead)
        gone = part.dead_positions
        keep = None if not len(gone) else np.delete(np.arange(len(part)), gone)
        sources.append((part.arrays, keep))
    writer.publish_joined(made, run[0].field, sources)
    for segment in run:
        drop_file(made, segment)


def load(made: Change, segment: Segment, dead: np.ndarray, *, check: bool = True) -> Part:
    """The rows of a file; its checksum is compared first, so that damage is never copied into a file that looks sound."""
    path = made.folder / segment.file
    arrays, _ = map_file(path, segment.bytes)
    if check and file_digest(path) != segment.digest:
        raise Damaged(f"{path}: has other bytes than were written; verify() names the rows. Nothing was changed")
    return Part(
        made.schema.vectors[segment.field], segment.file, arrays, dead, None, made.state.sizes.get(segment.field)
    )


def drop_file(made: Change, segment: Segment) -> None:
    """Take a file and the structures over it out of the index; it is removed after the commit."""
    for (file,) in made.connection.execute("SELECT file FROM segments WHERE parent = ?", (segment.file,)).fetchall():
        made.superseded.append(file)
    made.superseded.append(segment.file)
    made.connection.execute("DELETE FROM segments WHERE file = ? OR parent = ?", (segment.file, segment.file))


def dead_rows(made: Change) -> np.ndarray:
    """Deleted rows that some file still has, sorted."""
    return np.sort(int_column(made.connection, "SELECT row AS value FROM tombstones"))


def data_segments(made: Change, name: str) -> list[Segment]:
    """The files of a field's rows, in their order."""
    return [s for s in read_segments(made.connection) if s.field == name and not s.structure]


def forget(made: Change, dead: np.ndarray) -> None:
    """Drop the tombstones of rows that no file has any more."""
    still = [np.empty(0, np.int64)]
    for name in made.schema.vectors:
        for segment in data_segments(made, name):
            part = load(made, segment, dead, check=False)
            still.append(np.asarray(part.rows[part.dead_positions]))
    writer.drop_tombstones(made, np.setdiff1d(dead, np.concatenate(still)))


def specs(made: Change) -> dict[tuple[str, str], tuple[dict[str, Any], int]]:
    """What is to be built over each field: (field, structure) -> (settings, the fewest rows)."""
    found = {}
    for field, structure, text, sealed in made.connection.execute("SELECT field, structure, settings, seal FROM specs"):
        if seal((field, structure, text)) != sealed:
            raise Damaged(f"{made.folder}: the settings of {structure!r} over field {field!r} are damaged")
        entry = json.loads(text)
        found[field, structure] = entry["settings"], entry["min_rows"]
    for field, kind in made.schema.vectors.items():
        if not isinstance(kind, Dense):
            settings = structures.standing(kind)
            found.setdefault((field, structures.structure_name(settings)), (settings, MIN_ROWS))
    return found


def put_spec(made: Change, field: str, settings: Mapping[str, Any], min_rows: int) -> str:
    """Keep what is to be built over a field; files of the same structure with other settings go."""
    structure = structures.structure_name(settings)
    row = (field, structure, json.dumps({"settings": settings, "min_rows": min_rows}))
    made.connection.execute("INSERT OR REPLACE INTO specs VALUES(?, ?, ?, ?)", (*row, seal(row)))
    drop_structures(made, field, structure)
    return structure


def drop_structures(made: Change, field: str, structure: str | None) -> int:
    """Take structures of a field (None: all) out of the index."""
    gone = [
        s
        for s in read_segments(made.connection)
        if s.field == field and s.structure and structure in (None, s.structure)
    ]
    for segment in gone:
        drop_file(made, segment)
    return len(gone)


def missing_structures(made: Change) -> list[tuple[Segment, str, dict[str, Any]]]:
    """Files over which a structure is to be built and is not."""
    segments = read_segments(made.connection)
    there = {(s.parent, s.structure) for s in segments if s.structure}
    wanted = specs(made)
    return [
        (segment, structure, settings)
        for (field, structure), (settings, fewest) in wanted.items()
        for segment in segments
        if segment.field == field
        and not segment.structure
        and segment.rows >= fewest
        and (segment.file, structure) not in there
    ]


def build_structure(made: Change, segment: Segment, structure: str, settings: dict[str, Any]) -> bool:
    """Build a structure over a file and enter it; False if the rows do not admit it."""
    part = load(made, segment, np.empty(0, np.int64))
    built = structures.build(settings, part, _labels(made, settings["by"], part) if "by" in settings else None)
    if built is None:
        return False
    own, arrays = built
    file = writer.file_name(made, segment.field, structure)
    made.published.append(file)
    metadata = {"field": segment.field, "parent": segment.file, "structure": structure, "settings": json.dumps(own)}
    written = write(made.folder, file, arrays, metadata)
    insert_segment(
        made.connection,
        Segment(
            file, segment.field, structure, segment.file, segment.rows, segment.first, segment.last,
            written.bytes, written.digest, made.state.generation,
        ),
    )  # fmt: skip
    return True


def _labels(made: Change, column: str, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the records of a part that have a value in a payload column, and the values."""
    found = made.connection.execute(
        f'SELECT row, "{column}" FROM rows WHERE row BETWEEN ? AND ? AND "{column}" IS NOT NULL ORDER BY row',
        (int(part.rows[0]), int(part.rows[-1])),
    ).fetchall()
    rows = np.fromiter((row for row, _ in found), np.int64, len(found))
    kind = np.float64 if made.schema.payload[column] == "float" else np.int64
    values = np.fromiter((value for _, value in found), kind, len(found))
    positions, which = part.positions(rows)
    return positions, values[which]


def _runs(made: Change, name: str, dead: np.ndarray, *, whole: bool) -> list[list[Segment]]:
    """Neighbouring files that become one; rows stay in their order because only neighbours are joined."""
    segments = data_segments(made, name)
    if whole:
        return [segments] if segments else []
    runs: list[list[Segment]] = []
    small = False
    for segment in segments:
        now = segment.rows < SMALL
        if runs and now and small:
            runs[-1].append(segment)
        else:
            runs.append([segment])
        small = now
    return runs


def _dead_share(made: Change, segment: Segment, dead: np.ndarray) -> float:
    return len(load(made, segment, dead, check=False).dead_positions) / max(segment.rows, 1)


def _merge_sums(made: Change) -> None:
    """Join the checksums of neighbouring batches: one add a record would leave one entry a record."""
    kept: list[list[int]] = []
    found = made.connection.execute("SELECT first, last, live, total, seal FROM sums ORDER BY first").fetchall()
    for first, last, live, total, sealed in found:
        if seal((first, last, live, total)) != sealed:
            raise Damaged(f"{made.folder}: the checksum of rows {first} to {last} is damaged")
        if not live:
            continue
        if kept and kept[-1][2] + live <= writer.FLUSH_ROWS:
            joint = np.array([kept[-1][3], total], np.int64).view(np.uint64).sum(dtype=np.uint64)
            kept[-1][1:] = [last, kept[-1][2] + live, int(joint.astype(np.int64))]
        else:
            kept.append([first, last, live, total])
    made.connection.execute("DELETE FROM sums")
    for one in kept:
        writer.put_sum(made.connection, *one)
