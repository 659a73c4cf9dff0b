"""What keeps an index in order: structures, compaction, verification, statistics, copies."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resolvent.errors import Busy, Damaged, StoreError
from resolvent.search import compact, database, structures, verify, writer
from resolvent.search.segment import disk_faults, sync_folder

if TYPE_CHECKING:
    from resolvent.search.schema import Schema
    from resolvent.search.snapshot import Snapshot


class Maintenance:
    """The half of `Index` that a user calls now and then."""

    path: Path
    mode: str
    timeout: float
    schema: Schema
    _lock: threading.RLock
    _writer: sqlite3.Connection | None

    def snapshot(self) -> Snapshot:
        raise NotImplementedError

    def _change(self) -> AbstractContextManager[writer.Change]:
        raise NotImplementedError

    def build(self, field: str, spec: Any, *, by: str | None = None, min_rows: int = compact.MIN_ROWS) -> int:
        """Build a search structure over a field, now and over all that comes later.

        Parameters
        ----------
        field : a `Dense` field (the others have their structures by themselves)
        spec : an unbuilt index: `HNSW(M=16)`, `IVFPQ(lists=256, m=16)`, ...; metric and dtype are those of the field. A
            `WindowTree()` answers filters that are one interval of a window column; its file holds the vectors once more
        by : the window column of a `WindowTree`; may be left out where the index has only one
        min_rows : files with fewer rows are scanned, which is as fast

        Returns
        -------
        Structures built now, one for each file with enough rows.
        """
        if field not in self.schema.vectors:
            raise ValueError(f"field must be one of {', '.join(self.schema.vectors)}, got {field!r}")
        if isinstance(min_rows, bool) or not isinstance(min_rows, int) or min_rows < 1:
            raise ValueError(f"min_rows must be a positive integer, got {min_rows!r}")
        settings = structures.spec_settings(spec, self.schema.vectors[field], field, by, self.schema.window)
        with self._change() as made:
            compact.put_spec(made, field, settings, min_rows)
            writer.flush(made)
            compact.merge_tiers(made)
        return self._build_missing()

    def drop(self, field: str, structure: str | None = None) -> int:
        """Drop a structure of a field ("hnsw", "window_price", ...; None: all), and say how many files went."""
        if field not in self.schema.vectors:
            raise ValueError(f"field must be one of {', '.join(self.schema.vectors)}, got {field!r}")
        with self._change() as made:
            made.connection.execute(
                "DELETE FROM specs WHERE field = ? AND (? IS NULL OR structure = ?)", (field, structure, structure)
            )
            return compact.drop_structures(made, field, structure)

    def compact(self, policy: str | float = "auto") -> dict[str, int]:
        """Write small batches to files, join small files, drop deleted rows, and give the space back to the disk.

        Parameters
        ----------
        policy : a file is rewritten when more than this share of its rows is deleted; "auto" is 0.2; "full" makes one
            file of each field without any deleted row

        Returns
        -------
        {"files": removed, "bytes": freed on the disk (negative if it grew)}

        Notes
        -----
        Readers go on undisturbed; files that they still map keep their space until they close. Other writers wait.
        """
        before = self._disk()
        with self._change() as made:
            compact.compact(made, policy)
            gone = made.superseded
        self._build_missing()
        self._give_back_space()
        return {"files": len(gone), "bytes": before - self._disk()}

    def verify(self) -> list[str]:
        """Compare everything with its checksums and say what is wrong, one sentence each; empty when all is well.

        Damaged vectors are named by the ids of their records. With mode "rw", damaged search structures are built anew
        from the vectors; the next `verify` is clean then.
        """
        with self.snapshot() as now:
            found = list(verify.problems(now))
            broken = verify.damaged_structures(now) if found and self.mode == "rw" else []
        if broken:
            with self._change() as made:
                for segment in broken:
                    compact.drop_file(made, segment)
            try:
                self._build_missing()
            except Damaged as error:
                found.append(f"structures cannot be built anew: {error}")
        return found

    def stats(self) -> dict[str, Any]:
        """What the index holds, as a JSON object: records, fields with their files and structures, bytes on the disk."""
        with self.snapshot() as now:
            segments, state = now._view.segments, now._view.state
            with database.faults(self.path):
                buffered = (
                    now._open().execute("SELECT field, sum(rows), sum(bytes) FROM buffer GROUP BY field").fetchall()
                )
        fields = {}
        for name, kind in self.schema.vectors.items():
            own = [s for s in segments if s.field == name]
            held = next(((rows, size) for field, rows, size in buffered if field == name), (0, 0))
            fields[name] = {
                "type": repr(kind),
                "rows": sum(s.rows for s in own if not s.structure) + held[0],
                "files": sum(not s.structure for s in own),
                "bytes": sum(s.bytes for s in own if not s.structure),
                "buffered_rows": held[0],
                "buffered_bytes": held[1],
                "structures": {
                    structure: {
                        "files": sum(s.structure == structure for s in own),
                        "rows": sum(s.rows for s in own if s.structure == structure),
                        "bytes": sum(s.bytes for s in own if s.structure == structure),
                    }
                    for structure in sorted({s.structure for s in own if s.structure})
                },
            }
        return {
            "path": str(self.path),
            "records": state.live,
            "deleted": len(now._view.dead),
            "generation": state.generation,
            "ids": state.ids,
            "payload": dict(self.schema.payload),
            "window": list(self.schema.window),
            "fields": fields,
            "bytes": self._disk(),
        }

    def backup(self, path: str | Path) -> None:
        """Copy the index as it is now into a new directory, which appears only when it is complete."""
        target = Path(path)
        if target.exists():
            raise FileExistsError(f"{target} exists already")
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        with disk_faults(target), self.snapshot() as now:
            try:
                partial.mkdir(parents=True)
                with contextlib.closing(database.connect(partial, "new", 30.0)) as copy, database.faults(partial):
                    now._open().backup(copy)
                    copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                for segment in now._view.segments:
                    now._view.files.write_copy(segment, partial)
                sync_folder(partial)
                os.rename(partial, target)
                sync_folder(target.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def to_arrow(self, where: Any = None) -> Any:
        """All records, or those that match a filter, as a pyarrow table: "id", the payload columns, and the vectors.

        Dense fields are fixed-size lists of float32, multi-vector fields lists of them, sparse fields lists of
        (index, value). Needs the package pyarrow; search structures are not needed.
        """
        from resolvent.search.arrow import table

        with self.snapshot() as now:
            return table(now, now.rows(self._where(where)))

    def _where(self, where: Any) -> Any:
        raise NotImplementedError

    def _build_missing(self) -> int:
        """Build what is to be built and is not there, each structure in a transaction of its own."""
        count = 0
        tried: set[tuple[str, str]] = set()
        while True:
            with self._change() as made:
                todo = [one for one in compact.missing_structures(made) if (one[0].file, one[1]) not in tried]
                if not todo:
                    made.idle = True
                    return count
                segment, structure, settings = todo[0]
                tried.add((segment.file, structure))
                made.idle = not compact.build_structure(made, segment, structure, settings)
                count += not made.idle

    def _build_later(self) -> None:
        """After a batch is on the disk: a structure that cannot be built now is not the batch's failure."""
        try:
            self._build_missing()
        except (StoreError, OSError) as error:
            warnings.warn(f"the batch is stored, but its search structure is not built yet: {error}", stacklevel=4)

    def _give_back_space(self) -> None:
        """Cut the database and its log, if nobody is using what would be cut; else the next compaction does it."""
        # Under the lock: a script on the writer's connection would commit what another thread has begun.
        with self._lock, contextlib.suppress(Busy), database.faults(self.path):
            connection = self._writer
            if connection is not None:
                connection.execute("PRAGMA busy_timeout = 0")
                try:
                    # `execute` would stop after the first page that is freed.
                    connection.executescript("PRAGMA incremental_vacuum")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {int(1000 * self.timeout)}")

    def _disk(self) -> int:
        """Bytes of all files of the index."""
        total = 0
        for path in self.path.iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total
