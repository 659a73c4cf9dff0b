"""The rows of one field of an index as pieces that a search goes through: files, and what is not in a file yet."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from resolvent.errors import Damaged, StoreError
from resolvent.search import field_arrays
from resolvent.search.database import Segment
from resolvent.search.schema import Field
from resolvent.search.segment import copy_bytes, map_bytes, unpack

Mapped = tuple[dict[str, np.ndarray], dict[str, str], memoryview]


class Part:
    """Some rows of one field.

    Parameters
    ----------
    field : what the field is
    name : the file, or "buffer"
    arrays : the rows as they are kept, with "rows" and "check"
    dead : rows of the index that were deleted, sorted
    structures : what was built over these rows, restored when it is asked for
    size : columns of a sparse field without a declared size

    Attributes
    ----------
    rows : (n,) int64, ascending, the row of each vector in the index
    vectors : `Vectors`, a CSR matrix (a sparse field), or (`Vectors` of tokens, offsets (n + 1,)) (a multi-vector
        field). The rows of a cosine field are normalised, so that its scores are inner products.
    live : (n,) uint8, 0 where the row was deleted
    metric : what the stored rows are scored by, "ip" or "l2"
    structures : mapping of names to indexes over all rows of the part, by position
    """

    def __init__(
        self,
        field: Field,
        name: str,
        arrays: dict[str, np.ndarray],
        dead: np.ndarray,
        structures: Mapping[str, Any] | None = None,
        size: int | None = None,
    ) -> None:
        self.field = field
        self.name = name
        self.arrays = arrays
        self.rows: np.ndarray = arrays["rows"]
        self.structures: Mapping[str, Any] = {} if structures is None else structures
        self._dead = dead
        self._size = size

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def metric(self) -> str:
        return "l2" if getattr(self.field, "metric", "ip") == "l2" else "ip"

    @cached_property
    def vectors(self) -> Any:
        own = {key: part for key, part in self.arrays.items() if key not in ("rows", "check")}
        return field_arrays.checked_view(lambda: field_arrays.view(self.field, own, self._size), self.name)

    @cached_property
    def live(self) -> np.ndarray:
        made = np.ones(len(self.rows), np.uint8)
        made[self.dead_positions] = 0
        return made

    @cached_property
    def dead_positions(self) -> np.ndarray:
        """Positions of the deleted rows."""
        if not len(self.rows):
            return np.empty(0, np.int64)
        a, b = np.searchsorted(self._dead, [self.rows[0], self.rows[-1] + 1])
        return self.positions(self._dead[a:b])[0]

    def positions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of those of these rows that are in the part, and which of the given rows they are."""
        at = np.searchsorted(self.rows, rows)
        inside = np.flatnonzero(at < len(self.rows))
        inside = inside[self.rows[at[inside]] == rows[inside]]
        return at[inside], inside

    def decode(self, positions: np.ndarray) -> Any:
        """The rows at these positions as a user gave them."""
        own = {key: part for key, part in self.arrays.items() if key not in ("rows", "check")}
        return field_arrays.checked_view(lambda: field_arrays.decode(self.field, own, positions, self._size), self.name)


class Structures(Mapping[str, Any]):
    """The structures of a part, each restored from its file when it is first used."""

    def __init__(self, makers: dict[str, Callable[[], Any]]) -> None:
        self._makers = makers
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class Files:
    """The files of an index that a process has mapped: each once, and only as long as a snapshot may ask for it.

    A damaged file is kept as its error, which is raised where the file is needed: the others stay readable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mapped: dict[str, Mapped | StoreError] = {}
        self._restored: dict[str, Any] = {}
        self._blobs: dict[tuple[int, str, int], dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def hold(self, segments: list[Segment]) -> None:
        """Map what is new and let go what is gone."""
        with self._lock:
            wanted = {segment.file for segment in segments}
            for segment in segments:
                if segment.file not in self._mapped:
                    self._mapped[segment.file] = self._map(segment)
            for held in (self._mapped, self._restored):
                for name in [name for name in held if name not in wanted]:
                    del held[name]

    def share(self) -> Files:
        """The same mappings, held by somebody else from now on."""
        other = Files(self.folder)
        with self._lock:
            other._mapped, other._restored = dict(self._mapped), dict(self._restored)
            other._blobs = self._blobs
        return other

    def missing(self) -> bool:
        """Is there a file that could not be found?"""
        return any(
            isinstance(found, Damaged) and isinstance(found.__cause__, FileNotFoundError)
            for found in self._mapped.values()
        )

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a file; its damage is raised here."""
        return self.mapped(name)[0]

    def mapped(self, name: str) -> Mapped:
        """The arrays, the metadata and the bytes of a file."""
        found = self._mapped[name]
        if isinstance(found, StoreError):
            raise type(found)(str(found)) from found
        return found

    def write_copy(self, segment: Segment, folder: Path) -> None:
        """Copy a file from its mapping, which is there even when the file's name is gone; its checksum is compared."""
        copy_bytes(self.mapped(segment.file)[2], folder / segment.file, segment.digest)

    def broken(self, name: str) -> StoreError | None:
        """What is wrong with a file, if it could not be mapped."""
        found = self._mapped[name]
        return found if isinstance(found, StoreError) else None

    def restored(self, name: str, make: Callable[[], Any]) -> Any:
        """A search structure, made once for each file."""
        with self._lock:
            made = self._restored.get(name)
        if made is None:
            made = make()
            with self._lock:
                self._restored[name] = made
        return made

    def blob(self, key: tuple[int, str, int], read: Callable[[], bytes]) -> dict[str, np.ndarray]:
        """The arrays of a batch in the buffer, read and checked once."""
        found = self._blobs.get(key)
        if found is None:
            raw = read()
            if zlib.crc32(raw) != key[2]:
                raise Damaged(
                    f"{self.folder}: the batch of rows from {key[0]} in the buffer of field {key[1]!r} is damaged"
                )
            found = self._blobs[key] = unpack(raw, f"{self.folder}: buffer")[0]
        return found

    def keep_blobs(self, keys: set[tuple[int, str, int]]) -> None:
        """Let go of batches that are not in the buffer any more."""
        self._blobs = {key: arrays for key, arrays in list(self._blobs.items()) if key in keys}

    def _map(self, segment: Segment) -> Mapped | StoreError:
        try:
            raw = map_bytes(self.folder / segment.file, segment.bytes)
            arrays, metadata = unpack(raw, str(self.folder / segment.file))
            if not segment.structure and (len(arrays.get("rows", ())) != segment.rows or "check" not in arrays):
                raise Damaged(f"{segment.file}: has not the {segment.rows} rows that were written")
            return arrays, metadata, raw
        except StoreError as error:
            return error
