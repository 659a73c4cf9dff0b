"""Files of `torch.save`: zip archives, and the plain ones of torch 1.5 and older.

Tensors are mapped, each when it is asked for, and nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.report.array_file import ARCHIVE_ERRORS, data_offset
from resolvent.report.stored import (
    Stored,
    check_memory,
    mapped,
    natural_order,
    sentence,
    size_text,
    unreadable,
    why_no_numbers,
)
from resolvent.report.torch_names import Described, DescribedSparse, Opaque, Storage, Unread
from resolvent.report.torch_pickle import LONGEST, read_pickle

# The pickled number that begins every file of torch.save before the zip format.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Where checkpoints keep their weights, in the order in which they are looked for.
WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params_ema", "params", "weights")
# Containers inside containers, and values in all of them (a container counts as 64), beyond which a file was made to
# have no end.
_DEPTH, _VALUES = 100, 1 << 24

_Places = dict[str, tuple[int, int]]


def torch_file(path: Path) -> list[Stored]:
    """The tensors of a .pt or .pth file.

    Parameters
    ----------
    path : what `torch.save` wrote: a state dict, or one inside {"state_dict": ...}, {"model": ...} and the like

    Returns
    -------
    One `Stored` per tensor, by name; those that share their memory have the same `memory`. What lies beside the
    weights (the state of an optimiser) is one entry per key, with the reason why it is not read.

    Raises
    ------
    ValueError : it is truncated, no torch file, or its pickle asks for anything that could run code.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": {"a": torch.eye(2)}}, f"{folder}/a.pt")
    ...     (stored,) = torch_file(Path(f"{folder}/a.pt"))
    ...     stored.name, stored.shape, stored.dtype, float(stored.load().sum())
    ('a', (2, 2), 'float32', 2.0)
    """
    with path.open("rb") as file:
        start = file.read(2 + len(_LEGACY))
    try:
        if start[:4] == b"PK\x03\x04":
            content, places, swapped = _archive(path)
        elif start[:1] == b"\x80" and start[2:] == _LEGACY:
            content, places, swapped = _legacy(path)
        else:
            pickled = start[:1] == b"\x80"
            raise ValueError(
                "is a pickle that torch.save did not write, and is never loaded"
                if pickled
                else "not a file of torch.save"
            )
        tensors = list(_tensors(path, content, places, swapped))
    except ValueError as error:
        raise ValueError(f"{path}: {sentence(error)}") from error
    return sorted(tensors, key=lambda t: natural_order(t.name))


def _archive(path: Path) -> tuple[Any, _Places, bool]:
    """What the pickle of a zip archive describes, and where each storage lies."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename: m for m in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ValueError("not a file of torch.save (a zip archive without one data.pkl)")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}constants.pkl" in members:
                raise ValueError("is a TorchScript program, which holds code; save model.state_dict()")
            raw = _small(members[pickles[0]], path)
            order = members.get(f"{root}byteorder")
            swapped = order is not None and _small(order, path) == b"big"
    except ARCHIVE_ERRORS as error:
        raise ValueError(f"is truncated or damaged ({sentence(error)})") from error
    content = read_pickle(io.BytesIO(raw), len(raw))
    places: _Places = {}
    for name, member in members.items():
        if name.startswith(f"{root}data/") and member.compress_type == zipfile.ZIP_STORED:
            try:
                places[name.removeprefix(f"{root}data/")] = (data_offset(path, member), member.file_size)
            except ValueError:
                # a tensor that lies in it says so
                continue
    return content, places, swapped


def _small(member: zipfile.ZipInfo, path: Path) -> bytes:
    """A member of an archive that torch does not compress, so that it is smaller than the file.

    Its checksum is not looked at: torch can be told not to write any.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
        raise ValueError("not a file of torch.save (its pickle is compressed)")
    check_memory(64.0 * min(member.file_size, LONGEST), "its pickle")
    begin = data_offset(path, member)
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(member.file_size)


def _legacy(path: Path) -> tuple[Any, _Places, bool]:
    """The same for a file of torch 1.5 and older: four pickles, then the storages one after the other."""
    size = path.stat().st_size
    with path.open("rb") as file:
        read_pickle(file, size)
        protocol = read_pickle(file, size - file.tell())
        system = read_pickle(file, size - file.tell())
        if protocol != 1001 or not isinstance(system, dict):
            raise ValueError("not a file of torch.save (its protocol is unknown)")
        content = read_pickle(file, size - file.tell())
        keys = read_pickle(file, size - file.tell())
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("its list of storages is damaged")
        kinds = {s.key: s.dtype for s in _storages(content)}
        places: _Places = {}
        for key in keys:
            head = file.read(8)
            length = struct.unpack("<q", head)[0] * kinds.get(key, torch.uint8).itemsize if len(head) == 8 else -1
            if length < 0 or file.tell() + length > size:
                raise ValueError(f"is truncated (it holds {size_text(size)}, and a storage goes on beyond)")
            places[key] = (file.tell(), length)
            file.seek(length, io.SEEK_CUR)
    return content, places, system.get("little_endian") is False


def _storages(content: Any) -> Iterator[Storage]:
    for _, found in _walk(content):
        if isinstance(found, Described):
            yield found.storage
        elif isinstance(found, DescribedSparse):
            yield from (tensor.storage for tensor in found.tensors)


def _walk(content: Any, prefix: str = "", depth: int = 0, budget: list[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Every tensor in dictionaries and lists, by its keys with dots between.

    Raises a ValueError for containers that hold themselves, or one another so often that there is no end.
    """
    budget = [_VALUES] if budget is None else budget
    if isinstance(content, Described | DescribedSparse | Unread):
        yield prefix, content
    elif isinstance(content, dict | list | tuple):
        budget[0] -= len(content) + 64
        if depth > _DEPTH or budget[0] < 0:
            raise ValueError("holds containers inside one another without end")
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            # most values are plain: no generator is made for those
            if isinstance(value, Described | DescribedSparse | Unread | dict | list | tuple):
                yield from _walk(value, f"{prefix}.{key}" if prefix else str(key), depth + 1, budget)


def _weights(content: Any) -> tuple[Any, str]:
    """The dictionary of the weights and the key that it has, "" for the whole."""
    if not isinstance(content, dict) or any(isinstance(x, Described | DescribedSparse) for x in content.values()):
        return content, ""
    for key in WEIGHTS:
        if isinstance(content.get(key), dict) and next(_walk(content[key]), None) is not None:
            inner, deeper = _weights(content[key])
            return inner, f"{key}.{deeper}" if deeper else key
    return content, ""


def _tensors(path: Path, content: Any, places: _Places, swapped: bool) -> Iterator[Stored]:
    weights, key = _weights(content)
    found = list(_walk(weights))
    if not found:
        raise ValueError("holds no tensors")
    for name, described in found:
        yield _stored(path, name or path.stem, described, places, swapped)
    if key and isinstance(content, dict):
        for beside, value in content.items():
            count = sum(1 for _ in _walk(value)) if beside != key.split(".")[0] and not isinstance(value, Opaque) else 0
            if count:
                tensors = "1 tensor" if count == 1 else f"{count} tensors"
                reason = f"it holds {tensors} beside the weights in {key!r}"
                yield Stored(str(beside), (), "", unreadable(str(beside), reason).load, reason)


def _stored(path: Path, name: str, described: Any, places: _Places, swapped: bool) -> Stored:
    if isinstance(described, Unread):
        return Stored(name, (), "", unreadable(name, described.reason).load, described.reason)
    if isinstance(described, DescribedSparse):
        word = str(described.tensors[-1].dtype).removeprefix("torch.")
        load = partial(_load_sparse, path, described, places, swapped)
        return Stored(name, described.shape, word, load, notes=("torch sparse tensor",))
    word = str(described.dtype).removeprefix("torch.")
    try:
        begin = _begin(described, places)
    except ValueError as error:
        return unreadable(name, sentence(error), described.shape)
    load = partial(_load, path, described, begin, swapped)
    memory = (begin, math.prod(described.shape), word) if math.prod(described.shape) else None
    return Stored(name, described.shape, word, load, why_no_numbers(word), memory=memory)


def _begin(described: Described, places: _Places) -> int:
    """Where a tensor begins in the file, once it is known to lie inside its storage."""
    storage, size = described.storage, described.dtype.itemsize
    if storage.key not in places:
        raise ValueError(f"its storage {storage.key[:40]!r} is not in the file")
    begin, length = places[storage.key]
    claimed = storage.count * storage.dtype.itemsize
    if claimed > length:
        raise ValueError(f"its storage claims {size_text(claimed)}, the file holds {size_text(length)} of it")
    if math.prod(described.shape) == 0:
        return begin
    span = sum((k - 1) * step for k, step in zip(described.shape, described.stride, strict=True)) + 1
    start = storage.start * storage.dtype.itemsize + described.offset * size
    if start + span * size > length:
        raise ValueError(f"its shape {described.shape} goes beyond its storage of {size_text(length)}")
    if math.prod(described.shape) > length // size:
        raise ValueError(f"its shape {described.shape} repeats the {length // size} numbers that are stored")
    return begin + start


def _load(path: Path, described: Described, begin: int, swapped: bool) -> Tensor:
    if math.prod(described.shape) == 0:
        return torch.zeros(described.shape, dtype=described.dtype)
    span = sum((k - 1) * step for k, step in zip(described.shape, described.stride, strict=True)) + 1
    flat = mapped(path, begin, (span,), described.dtype)
    if swapped:
        check_memory(2.0 * span * described.dtype.itemsize, "it")
        flat = _swap(flat)
    return torch.as_strided(flat, described.shape, described.stride)


def _swap(flat: Tensor) -> Tensor:
    """The same numbers from the other order of bytes."""
    width = flat.dtype.itemsize // (2 if flat.dtype.is_complex else 1)
    if width == 1:
        return flat
    raw = flat.view(torch.uint8).numpy().view(f"u{width}").byteswap()
    return torch.from_numpy(raw.view(np.uint8)).view(flat.dtype)


def _load_sparse(path: Path, described: DescribedSparse, places: _Places, swapped: bool) -> Any:
    import scipy.sparse

    if len(described.shape) != 2 or described.layout not in (
        "torch.sparse_coo",
        "torch.sparse_csr",
        "torch.sparse_csc",
    ):
        raise ValueError(f"it is a {described.layout or 'sparse'} tensor with {len(described.shape)} axes")
    try:
        check_memory(8.0 * sum(described.shape), "it")
        parts = [_load(path, t, _begin(t, places), swapped) for t in described.tensors]
        values = parts[-1].to(torch.complex128 if parts[-1].is_complex() else torch.float64).numpy()
        if values.ndim != 1:
            raise ValueError("its entries are blocks")
        if described.layout == "torch.sparse_coo":
            indices = parts[0].numpy()
            return scipy.sparse.coo_array((values, (indices[0], indices[1])), shape=described.shape).tocsr()
        maker = scipy.sparse.csr_array if described.layout == "torch.sparse_csr" else scipy.sparse.csc_array
        made = maker((values, parts[1].numpy(), parts[0].numpy()), shape=described.shape)
        made.check_format(full_check=True)
        return scipy.sparse.csr_array(made)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"it cannot be read ({sentence(error)})") from error
