"""What a file holds, tensor by tensor: names, shapes and types first, the numbers only when one is asked for.

No reader unpickles, and none believes a header: every size is compared with the file before memory is taken.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import scipy.sparse

    Loaded: TypeAlias = Tensor | scipy.sparse.csr_array

SUFFIXES = (".safetensors", ".npy", ".npz", ".mtx")

_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file, not yet read.

    Attributes
    ----------
    name : its name in the file; the file's own for formats that hold one array
    shape : as stored
    dtype : the name of its dtype as stored, as torch spells it
    load : reads it: a tensor, or a SciPy CSR array for a sparse matrix; raises a ValueError that says what is wrong
    reason : why it cannot be read as numbers at all; "" if it can
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Loaded]
    reason: str = ""


@contextmanager
def stored_tensors(path: str | os.PathLike[str]) -> Iterator[list[Stored]]:
    """Open a file and list its tensors; each is read when its `load()` is called, while the context is open.

    Parameters
    ----------
    path : a .safetensors, .npy, .npz or Matrix Market .mtx file

    Returns
    -------
    A context manager of a list of `Stored`, by name, numbers inside names in numerical order.

    Raises
    ------
    ValueError : the file is missing, a directory, empty, truncated, of an unknown kind, or its header is wrong.
    OSError : the system does not let us read it.

    Notes
    -----
    `.safetensors` and `.npy` are memory-mapped, and so are uncompressed members of an `.npz`, whose checksum is
    verified; a compressed member is unpacked into exactly the memory that its header declares.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", weight=np.eye(3), bias=np.zeros(3))
    ...     with stored_tensors(f"{folder}/a.npz") as tensors:
    ...         [(t.name, t.shape, t.dtype) for t in tensors], tensors[1].load().shape
    ([('bias', (3,), 'float64'), ('weight', (3, 3), 'float64')], torch.Size([3, 3]))
    """
    path = Path(path)
    suffix = _checked(path)
    if suffix == ".safetensors":
        with _safetensors(path) as tensors:
            yield tensors
    elif suffix == ".npy":
        yield [_npy(path)]
    elif suffix == ".npz":
        with _npz(path) as tensors:
            yield tensors
    else:
        yield [_matrix_market(path)]


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key that puts layer.2 before layer.10.

    Examples
    --------
    >>> sorted(["layer.10", "layer.2"], key=natural_order)
    ['layer.2', 'layer.10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def available_memory() -> float:
    """Bytes that can be taken without swapping, infinity where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return 1024.0 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return math.inf


def check_memory(size: float, what: str) -> None:
    """Raise a ValueError if `size` bytes do not fit in the memory that is available now."""
    if size > 0.9 * available_memory():
        raise ValueError(f"{what} needs {_bytes(size)} of memory and {_bytes(available_memory())} are available")


def _checked(path: Path) -> str:
    """The kind of a file that exists and has something in it."""
    if not path.exists():
        raise ValueError(f"{path}: there is no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a directory; give one file ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise ValueError(f"{path}: is not a regular file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of file {suffix!r}; can read {', '.join(SUFFIXES)}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path}: no permission to read it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty (0 bytes)")
    return suffix


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"


@contextmanager
def _safetensors(path: Path) -> Iterator[list[Stored]]:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    header = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if len(start) < 8 or header + 8 > size:
        raise ValueError(
            f"{path}: is truncated or not a safetensors file "
            f"(its header claims {_bytes(header)}, the file has {_bytes(size)})"
        )
    try:
        archive = safe_open(path, framework="pt")
    except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: not a valid safetensors file ({_sentence(error)})") from error
    with archive as file:

        def load(name: str) -> Tensor:
            try:
                return file.get_tensor(name)
            except (SafetensorError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(f"it cannot be read ({_sentence(error)})") from error

        tensors = []
        for name in sorted(file.keys(), key=natural_order):
            try:
                view = file.get_slice(name)
                shape, code = tuple(view.get_shape()), view.get_dtype()
            except (SafetensorError, ValueError, TypeError) as error:
                tensors.append(Stored(name, (), "unknown", partial(load, name), _sentence(error)))
                continue
            dtype = _SAFETENSORS_DTYPES.get(code, code.lower())
            reason = "" if dtype in _SAFETENSORS_DTYPES.values() else f"its type {code} needs a scale that is not known"
            if dtype.startswith(("int", "uint")):
                reason = "it holds integers, which are indices or codes here and not weights"
            tensors.append(Stored(name, shape, dtype, partial(load, name), reason))
        yield tensors


# What NumPy's parser of headers lets through: a Python expression that is none, or one of the wrong type.
_HEADER_ERRORS = (ValueError, TypeError, KeyError, OverflowError, RecursionError, SyntaxError, tokenize.TokenError)


def _npy_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of an .npy header, read without trusting it."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format is for structured arrays")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (*_HEADER_ERRORS, MemoryError, EOFError) as error:
        raise ValueError(f"{where}: not a valid .npy array ({_sentence(error)})") from error
    if any(not isinstance(k, int) or k < 0 for k in shape):
        raise ValueError(f"{where}: not a valid .npy array (its header gives the shape {shape})")
    return shape, fortran, dtype


def _npy(path: Path) -> Stored:
    with path.open("rb") as file:
        shape, fortran, dtype = _npy_header(file, str(path))
        start = file.tell()
    if reason := _not_numbers(dtype):
        # An object array would have to be unpickled, and a pickle runs code.
        if dtype.hasobject:
            raise ValueError(f"{path}: {reason}")
        return Stored(path.stem, shape, str(dtype), lambda: torch.empty(0), reason)
    size, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - start
    if size > there:
        raise ValueError(f"{path}: is truncated (its header claims {_bytes(size)}, the file has {_bytes(there)})")
    return Stored(path.stem, shape, dtype.name, lambda: _mapped(path, start, shape, fortran, dtype))


def _not_numbers(dtype: np.dtype) -> str:
    if dtype.hasobject:
        return "it holds pickled Python objects, which are never loaded"
    if dtype.kind not in "biufc":
        return f"its type {dtype} is not a number"
    if dtype.itemsize > (16 if dtype.kind == "c" else 8):
        return f"its type {dtype} is wider than float64"
    return ""


def _mapped(path: Path, start: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> Tensor:
    if math.prod(shape) == 0:
        return torch.zeros(shape)
    data = np.memmap(path, dtype=dtype, mode="c", offset=start, shape=shape, order="F" if fortran else "C")
    return _tensor(data)


def _tensor(data: np.ndarray) -> Tensor:
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return torch.from_numpy(np.asarray(data))


@contextmanager
def _npz(path: Path) -> Iterator[list[Stored]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a valid .npz archive ({_sentence(error)})") from error
    with archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        if not members:
            raise ValueError(f"{path}: holds no arrays (no .npy member in the archive)")
        tensors = [_member(archive, member, path) for member in members]
        yield sorted(tensors, key=lambda t: natural_order(t.name))


_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Stored:
    """One array of an archive; a broken one is an entry with a reason, so that the others can be read."""
    name = member.filename.removesuffix(".npy")
    try:
        with archive.open(member) as file:
            shape, fortran, dtype = _npy_header(file, name)
            start = file.tell()
    except _ZIP_ERRORS as error:
        return Stored(name, (), "unknown", lambda: torch.empty(0), _sentence(error))
    reason = _not_numbers(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not reason and size + start != member.file_size:
        reason = f"its header claims {_bytes(size)} of numbers, the archive holds {_bytes(member.file_size - start)}"
    load = partial(_load_member, archive, member, path, start, shape, fortran, dtype)
    return Stored(name, shape, dtype.name if dtype.kind in "biufc" else str(dtype), load, reason)


def _load_member(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    path: Path,
    start: int,
    shape: tuple[int, ...],
    fortran: bool,
    dtype: np.dtype,
) -> Tensor:
    if math.prod(shape) == 0:
        return torch.zeros(shape)
    try:
        if member.compress_type == zipfile.ZIP_STORED:
            begin = _data_offset(path, member)
            raw = np.memmap(path, dtype=np.uint8, mode="c", offset=begin, shape=(member.file_size,))
            if zlib.crc32(memoryview(cast(bytes, raw))) != member.CRC:
                raise ValueError("its checksum is wrong")
            return _mapped(path, begin + start, shape, fortran, dtype)
        check_memory(member.file_size, "it")
        flat = np.empty(math.prod(shape), dtype=dtype)
        with archive.open(member) as file:
            file.read(start)
            view, filled = memoryview(cast(bytes, flat.view(np.uint8))), 0
            while filled < len(view):
                got = cast(io.BufferedIOBase, file).readinto(view[filled : filled + (1 << 24)])
                if not got:
                    raise ValueError("it ends early")
                filled += got
            file.read(1)
    except _ZIP_ERRORS as error:
        raise ValueError(f"it cannot be read ({_sentence(error)})") from error
    return _tensor(flat.reshape(shape, order="F" if fortran else "C"))


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member begins: its local header repeats the name with extra fields of its own length."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise ValueError("its local header is damaged")
    begin = member.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
    if begin + member.file_size > path.stat().st_size:
        raise ValueError("it ends beyond the file")
    return begin


def _matrix_market(path: Path) -> Stored:
    from resolvent.report.matrix_market import read_header, read_matrix

    try:
        header = read_header(path)
        check_memory(16.0 * header.entries * header.width + 8.0 * (header.rows + header.columns), "reading it")
        # Read here and not in load(): a text with one matrix is bad as a whole.
        matrix = read_matrix(path, header)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not a valid Matrix Market file ({_sentence(error)})") from error
    loaded: Loaded = _tensor(matrix) if isinstance(matrix, np.ndarray) else matrix
    return Stored(path.stem, (header.rows, header.columns), header.dtype, lambda: loaded)


def _sentence(error: BaseException) -> str:
    """The first line of an error's message, without the full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")[:200]
