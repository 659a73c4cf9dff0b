"""Immutable files of arrays in the safetensors format: published whole or not at all, mapped into memory, checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resolvent.errors import Damaged, NoSpace, ReadOnly, StoreError

_CODES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    # NumPy has no bfloat16: it is read as the integers that Vectors keeps.
    "BF16": np.dtype("<u2"),
}
_NAMES = {dtype: code for code, dtype in _CODES.items() if code != "BF16"}
_LARGEST_HEADER = 1 << 24
# Tensors begin at lines of the cache; the format allows no holes, so tensors of padding stand between them.
_LINE = 64
_PAD = "_pad"
_CHUNK = 1 << 23


@dataclass(frozen=True)
class Pieces:
    """An array that is written in pieces and never stands in memory as a whole."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Written:
    """A file that was published: its name, its size, and its checksum."""

    name: str
    bytes: int
    digest: str


Arrays = Mapping[str, np.ndarray | Pieces]


def pack(arrays: Arrays, metadata: Mapping[str, str] | None = None, codes: Mapping[str, str] | None = None) -> bytes:
    """The arrays as the bytes of a safetensors file."""
    return b"".join(_parts(arrays, metadata or {}, codes or {}))


def write(
    folder: Path,
    name: str,
    arrays: Arrays,
    metadata: Mapping[str, str] | None = None,
    codes: Mapping[str, str] | None = None,
) -> Written:
    """Publish the arrays as a file: written under a temporary name, synced, renamed, and the directory synced."""
    temporary = folder / f"{name}.tmp"
    digest, size = hashlib.blake2b(digest_size=32), 0
    with disk_faults(folder):
        try:
            with temporary.open("wb") as file:
                for part in _parts(arrays, metadata or {}, codes or {}):
                    view = memoryview(part).cast("B") if len(part) else b""
                    for at in range(0, len(view), _CHUNK):
                        piece = view[at : at + _CHUNK]
                        file.write(piece)
                        digest.update(piece)
                        size += len(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / name)
            sync_folder(folder)
        except OSError:
            # The error is what matters; a file that cannot even be removed is an orphan, which the next writer removes.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return Written(name, size, digest.hexdigest())


def unpack(raw: bytes | memoryview, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays inside the bytes of a safetensors file, as views, and its metadata; Damaged if anything is wrong."""
    size = len(raw)
    if size < 8:
        raise Damaged(f"{name}: is truncated, it has {size} bytes")
    (length,) = struct.unpack("<Q", raw[:8])
    if length > min(size - 8, _LARGEST_HEADER):
        raise Damaged(f"{name}: its header claims {length} bytes, the file has {size}")
    try:
        header = json.loads(bytes(raw[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name}: its header is not JSON") from error
    if not isinstance(header, dict):
        raise Damaged(f"{name}: its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Damaged(f"{name}: its metadata are not strings")
    start = 8 + length
    entries = {key: _entry(name, key, value, size - start) for key, value in header.items()}
    end = 0
    for first, last, _, _ in sorted(entries.values(), key=lambda e: e[:2]):
        if first != end:
            raise Damaged(f"{name}: its tensors overlap or leave holes")
        end = last
    if start + end != size:
        raise Damaged(f"{name}: its header describes {start + end} bytes, the file has {size}")
    arrays = {}
    for key, (first, last, dtype, shape) in entries.items():
        if not key.startswith(_PAD):
            flat = np.frombuffer(raw, dtype, (last - first) // dtype.itemsize, start + first) if last > first else None
            arrays[key] = np.empty(shape, dtype) if flat is None else flat.reshape(shape)
    return arrays, metadata


def map_file(path: Path, size: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file and its metadata, mapped into memory and not read; `size` is what the file must have."""
    return unpack(map_bytes(path, size), str(path))


def map_bytes(path: Path, size: int | None = None) -> memoryview:
    """The bytes of a file, mapped into memory.

    The arrays over them keep the mapping, and the mapping keeps the file's bytes even after its name is gone: a reader that
    mapped a file needs no other lease on it, and one that dies leaves none behind.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                raise Damaged(f"{path}: has {found} bytes, {size} were written")
            if found < 8:
                raise Damaged(f"{path}: is truncated, it has {found} bytes")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise Damaged(f"{path}: is missing") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    return memoryview(mapping)


def copy_bytes(raw: memoryview, path: Path, digest: str) -> None:
    """Write bytes to a new file and sync it; Damaged if they are not those of the checksum."""
    found = hashlib.blake2b(digest_size=32)
    with path.open("xb") as file:
        for at in range(0, len(raw), _CHUNK):
            file.write(raw[at : at + _CHUNK])
            found.update(raw[at : at + _CHUNK])
        file.flush()
        os.fsync(file.fileno())
    if found.hexdigest() != digest:
        raise Damaged(f"{path.name}: has other bytes than were written, it is not copied: verify() names the rows")


def file_digest(path: Path) -> str:
    """The checksum of the bytes that a file has now."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a directory durable (where the system lets directories be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_faults(place: Path) -> Iterator[None]:
    """Say by the library's own errors that a disk is full or that a place cannot be written."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(error.errno, f"{place}: the disk is full; nothing of this call was kept") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ReadOnly(f"{place}: cannot be written ({error.strerror})") from error
        raise


def _parts(arrays: Arrays, metadata: Mapping[str, str], codes: Mapping[str, str]) -> Iterator[Any]:
    """Header, tensors and padding, one after the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at, order = 0, []
    for key, array in arrays.items():
        dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
        size = math.prod(array.shape) * dtype.itemsize
        header[key] = {
            "dtype": codes.get(key, _NAMES[dtype]),
            "shape": list(array.shape),
            "data_offsets": [at, at + size],
        }
        order.append((array, size))
        at += size
        if gap := -at % _LINE:
            header[f"{_PAD}{len(order)}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [at, at + gap]}
            order.append((np.zeros(gap, np.uint8), gap))
            at += gap
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _LINE)
    yield struct.pack("<Q", len(text)) + text
    for array, size in order:
        written = 0
        for piece in array.read() if isinstance(array, Pieces) else (array,):
            raw = np.ascontiguousarray(piece).reshape(-1).view(np.uint8) if piece.size else np.empty(0, np.uint8)
            written += raw.nbytes
            yield raw.data
        if written != size:
            raise StoreError(f"an array of {size} bytes came in pieces of {written}")


def _entry(name: str, key: str, value: Any, size: int) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    """Where a tensor lies: everything is checked before any memory is taken."""
    dtype: np.dtype
    try:
        dtype, shape, (first, last) = _CODES[value["dtype"]], value["shape"], value["data_offsets"]
        whole = isinstance(shape, list) and all(type(s) is int and s >= 0 for s in (*shape, first, last))
        fits = whole and len(shape) <= 8 and first <= last <= size and math.prod(shape) * dtype.itemsize == last - first
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{name}: the entry of {key!r:.80} in its header is wrong") from error
    # An array without entries may still name sizes that no memory has.
    if not fits or math.prod(s or 1 for s in shape) * dtype.itemsize >= 1 << 62:
        raise Damaged(f"{name}: the entry of {key!r:.80} in its header does not fit the file")
    return first, last, dtype, tuple(shape)
