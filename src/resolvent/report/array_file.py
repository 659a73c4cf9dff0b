"""NumPy's .npy and .npz, with SciPy's sparse matrices among the latter. Nothing is unpickled, no claim is believed."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from resolvent.report.stored import Stored, check_memory, natural_order, sentence, size_text, unreadable

if TYPE_CHECKING:
    import scipy.sparse

# What NumPy's parser of headers lets through: a Python expression that is none, or one of the wrong type.
_HEADER_ERRORS = (ValueError, TypeError, KeyError, OverflowError, RecursionError, SyntaxError, tokenize.TokenError)
# What a damaged archive makes zipfile raise: OSError for an offset before its beginning.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
)
_ZIP_ERRORS = (*ARCHIVE_ERRORS, ValueError)
# NumPy writes headers of 118 bytes, and refuses those of more than 10000.
_HEADER = 10_000
# Deflate packs zeros 1000 to 1. Real arrays of this size do not reach 200 to 1; what does is a bomb.
_BOMB_SIZE, _BOMB_RATIO = 1 << 30, 200
# Parts of the formats of scipy.sparse.save_npz.
_SPARSE = {
    "csr": {"indices", "indptr"},
    "csc": {"indices", "indptr"},
    "bsr": {"indices", "indptr"},
    "dia": {"offsets"},
    "coo": {"row", "col"},
}


def npy(path: Path) -> Stored:
    """The array of an .npy file, memory-mapped.

    Raises
    ------
    ValueError : the header is wrong, the file holds pickled objects, or less than the header claims.
    """
    with path.open("rb") as file:
        shape, fortran, dtype = _header(file, str(path))
        start = file.tell()
    if reason := _not_numbers(dtype):
        # An object array would have to be unpickled, and a pickle runs code.
        if dtype.hasobject:
            raise ValueError(f"{path}: {reason}")
        return Stored(path.stem, shape, str(dtype), unreadable(path.stem, reason).load, reason)
    size, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - start
    if size > there:
        raise ValueError(f"{path}: is truncated (its header claims {size_text(size)}, the file has {size_text(there)})")
    return Stored(path.stem, shape, dtype.name, partial(_mapped, path, start, shape, fortran, dtype))


def npz(path: Path, stack: ExitStack) -> list[Stored]:
    """The arrays of an .npz file; a SciPy sparse matrix is one entry.

    Parameters
    ----------
    path : the file
    stack : closes the archive, whose list of members is read only once, when the arrays are no longer needed

    Returns
    -------
    One `Stored` per array, by name.

    Raises
    ------
    ValueError : it is no zip archive, holds no arrays, or would unpack to far more than any array of its size.

    Notes
    -----
    Members that are stored are memory-mapped and their checksum is verified; a compressed one is unpacked into exactly
    the memory that its header declares, once that was compared with the archive and with the memory there is.
    """
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: not a valid .npz archive ({sentence(error)})") from error
    _check_bomb(path, archive.infolist())
    members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
    if not members:
        raise ValueError(f"{path}: holds no arrays (no .npy member in the archive)")
    names = {m.filename.removesuffix(".npy"): m for m in members}
    if "format" in names and {"shape", "data"} <= set(names):
        return [_sparse(path, archive, names)]
    return sorted((_member(archive, member, path) for member in members), key=lambda t: natural_order(t.name))


def tensor_of(data: np.ndarray) -> Tensor:
    """The tensor on an array's memory; a copy where its byte order is not the machine's."""
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return torch.from_numpy(np.asarray(data))


def data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member begins: its local header repeats the name with extra fields of its own length."""
    with path.open("rb") as file:
        # a damaged archive puts a member before its own beginning
        file.seek(max(member.header_offset, 0))
        local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise ValueError("its local header is damaged")
    begin = member.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
    if begin + member.file_size > path.stat().st_size:
        raise ValueError("it ends beyond the file")
    return begin


def _check_bomb(path: Path, members: list[zipfile.ZipInfo]) -> None:
    there, claimed = path.stat().st_size, sum(member.file_size for member in members)
    if claimed > max(_BOMB_SIZE, _BOMB_RATIO * there):
        raise ValueError(f"{path}: would unpack from {size_text(there)} to {size_text(claimed)}, which no array does")


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of an .npy header, read without trusting it."""
    try:
        start = file.read(8)
        # the length of the header is read here: NumPy would take up to 4 GiB before it looks whether that can be
        width = 2 if start[6:7] == b"\x01" else 4
        count = file.read(width)
        if start[:6] != b"\x93NUMPY" or len(count) < width:
            raise ValueError("it does not begin as one")
        if start[6:] not in (b"\x01\x00", b"\x02\x00"):
            raise ValueError(f"version {start[6]}.{start[7]} of the format is for structured arrays")
        length = int.from_bytes(count, "little")
        if length > _HEADER:
            raise ValueError(f"its header claims {size_text(length)}")
        text = io.BytesIO(count + file.read(length))
        read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(text)
    except (*_HEADER_ERRORS, IndexError, MemoryError, EOFError) as error:
        raise ValueError(f"{where}: not a valid .npy array ({sentence(error)})") from error
    if any(isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < 2**62 for k in shape):
        raise ValueError(f"{where}: not a valid .npy array (its header gives the shape {str(shape)[:100]})")
    return shape, fortran, dtype


def _not_numbers(dtype: np.dtype) -> str:
    if dtype.hasobject:
        return "it holds pickled Python objects, which are never loaded"
    if dtype.kind not in "biufc":
        return f"its type {str(dtype)[:60]} is not a number"
    if dtype.itemsize > (16 if dtype.kind == "c" else 8):
        return f"its type {dtype} is wider than float64"
    return ""


def _mapped(path: Path, start: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> Tensor:
    if math.prod(shape) == 0:
        return _no_entries(shape)
    data: np.ndarray = np.memmap(path, dtype=dtype, mode="c", offset=start, shape=shape, order="F" if fortran else "C")
    if not data.flags.aligned:
        check_memory(data.nbytes, "it")
        data = np.array(data)
    return tensor_of(data)


def _no_entries(shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.zeros(shape)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise ValueError(f"its shape {shape} is beyond what torch can hold") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Stored:
    """One array of an archive; a broken one is an entry with a reason, so that the others can be read."""
    name = member.filename.removesuffix(".npy")
    try:
        shape, fortran, dtype, start = _member_header(archive, member)
    except _ZIP_ERRORS as error:
        return unreadable(name, sentence(error))
    reason = _not_numbers(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not reason and size + start != member.file_size:
        held = size_text(member.file_size - start)
        reason = f"its header claims {size_text(size)} of numbers, the archive holds {held}"
    load = partial(_load_member, archive, member, path, start, shape, fortran, dtype)
    return Stored(name, shape, dtype.name if dtype.kind in "biufc" else str(dtype)[:60], load, reason)


def _member_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """The header of a member, and where in the unpacked member its numbers begin."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is packed in a way that NumPy does not write")
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file, member.filename)
        return shape, fortran, dtype, file.tell()


def _load_member(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    path: Path,
    start: int,
    shape: tuple[int, ...],
    fortran: bool,
    dtype: np.dtype,
) -> Tensor:
    if reason := _not_numbers(dtype):
        raise ValueError(reason)
    if math.prod(shape) == 0:
        return _no_entries(shape)
    try:
        if member.compress_type == zipfile.ZIP_STORED:
            begin = data_offset(path, member)
            raw = np.memmap(path, dtype=np.uint8, mode="c", offset=begin, shape=(member.file_size,))
            if zlib.crc32(memoryview(cast(bytes, raw))) != member.CRC:
                raise ValueError("its checksum is wrong")
            return _mapped(path, begin + start, shape, fortran, dtype)
        check_memory(member.file_size, "it")
        try:
            flat = np.empty(math.prod(shape), dtype=dtype)
        except MemoryError as error:
            raise ValueError(f"{size_text(member.file_size)} of memory are not to be had for it") from error
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
        raise ValueError(f"it cannot be read ({sentence(error)})") from error
    return tensor_of(flat.reshape(shape, order="F" if fortran else "C"))


def _sparse(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> Stored:
    """The matrix of `scipy.sparse.save_npz`."""
    try:
        kind = _word(archive, members["format"])
        if kind not in _SPARSE or not _SPARSE[kind] <= set(members):
            raise ValueError(f"the format {kind!r}, or its parts are missing")
        shape = tuple(int(k) for k in _array(path, archive, members["shape"]).reshape(-1)[:3])
        if len(shape) != 2 or not all(0 <= k < 2**48 for k in shape):
            raise ValueError(f"the shape {shape}")
        data = _member(archive, members["data"], path)
        if data.reason:
            raise ValueError(data.reason)
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: not a valid SciPy sparse matrix ({sentence(error)})") from error
    load = partial(_load_sparse, path, archive, members, kind, shape)
    return Stored(path.stem, shape, data.dtype, load, notes=(f"SciPy sparse matrix, {kind}",))


def _word(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """The text of an array of one string, which is how the format is stored."""
    _, _, dtype, start = _member_header(archive, member)
    if dtype.kind not in "SU" or member.file_size > 1000:
        raise ValueError(f"a format of the type {str(dtype)[:60]}")
    with archive.open(member) as file:
        file.read(start)
        raw = file.read(1000)
    return raw.decode("utf-32-le" if dtype.kind == "U" else "ascii", "replace").strip("\0")


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    stored = _member(archive, member, path)
    if stored.reason:
        raise ValueError(stored.reason)
    tensor = stored.load()
    return tensor.numpy() if isinstance(tensor, Tensor) else tensor.toarray()


def _load_sparse(
    path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], kind: str, shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    import scipy.sparse

    try:
        check_memory(8.0 * sum(shape) + 3.0 * sum(m.file_size for m in members.values()), "it")
        parts = {name: _array(path, archive, members[name]) for name in ("data", *sorted(_SPARSE[kind]))}
        data = parts["data"]
        if any(part.dtype.kind not in "iu" or part.ndim != 1 for name, part in parts.items() if name != "data"):
            raise ValueError("its indices are not whole numbers")
        made: scipy.sparse.sparray
        if kind == "coo":
            made = scipy.sparse.coo_array((data, (parts["row"], parts["col"])), shape=shape)
        elif kind == "dia":
            # a diagonal may be longer than the matrix, which is how a few bytes could claim many entries
            if np.atleast_2d(data).shape[1] > max(shape, default=0) + 1:
                raise ValueError("its diagonals are longer than the matrix")
            made = scipy.sparse.dia_array((data, parts["offsets"]), shape=shape)
        else:
            maker = {"csr": scipy.sparse.csr_array, "csc": scipy.sparse.csc_array, "bsr": scipy.sparse.bsr_array}[kind]
            if kind != "bsr" and data.ndim != 1:
                raise ValueError("its entries are not in a row")
            made = maker((data, parts["indices"], parts["indptr"]), shape=shape)
            made.check_format(full_check=True)
        result = scipy.sparse.csr_array(made)
        result.sum_duplicates()
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"it cannot be read ({sentence(error)})") from error
    if result.dtype.kind not in "fc" or result.dtype.itemsize < 4:
        result = result.astype(np.float64)
    return result
