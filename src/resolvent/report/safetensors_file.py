"""Safetensors files: the header is checked against the file, then each tensor is mapped when it is asked for."""

from __future__ import annotations

import json
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

import torch

from resolvent.report.stored import Stored, mapped, natural_order, sentence, size_text, unreadable, why_no_numbers

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
# Newer than the oldest torch that is supported.
if hasattr(torch, "float8_e8m0fnu"):
    _DTYPES["F8_E8M0"] = torch.float8_e8m0fnu


def safetensors(path: Path) -> list[Stored]:
    """The tensors of one safetensors file.

    Parameters
    ----------
    path : the file

    Returns
    -------
    One `Stored` per tensor, by name.

    Raises
    ------
    ValueError : it is truncated, its header is wrong, or it claims more than the file holds.

    Notes
    -----
    The safetensors package checks the header; the tensors are mapped here, each by itself, so that the memory of one
    is given back when it is dropped: a mapping of the whole file would keep every page that was ever read.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"a": torch.eye(2)}, f"{folder}/a.safetensors")
    ...     (stored,) = safetensors(Path(f"{folder}/a.safetensors"))
    ...     stored.name, stored.shape, stored.dtype, float(stored.load().sum())
    ('a', (2, 2), 'float32', 2.0)
    """
    header, start = _header(path)
    tensors = [_stored(path, name, entry, start) for name, entry in header.items() if name != "__metadata__"]
    return sorted(tensors, key=lambda t: natural_order(t.name))


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the numbers begin."""
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or length + 8 > size:
            raise ValueError(
                f"{path}: is truncated or not a safetensors file "
                f"(its header claims {size_text(length)}, the file has {size_text(size)})"
            )
        try:
            with safe_open(path, framework="pt"):
                pass
            header = json.loads(file.read(length))
        except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{path}: not a valid safetensors file ({sentence(error)})") from error
    return header, 8 + length


def _stored(path: Path, name: str, entry: dict[str, Any], start: int) -> Stored:
    shape, code = tuple(entry["shape"]), entry["dtype"]
    begin, end = entry["data_offsets"]
    dtype = _DTYPES.get(code)
    if dtype is None:
        reason = f"its type {code} needs a scale that is not known"
        return Stored(name, shape, code.lower(), unreadable(name, reason).load, reason)
    if math.prod(shape) * dtype.itemsize != end - begin:
        return unreadable(name, f"its shape and its place in the file differ in size ({shape}, {end - begin} bytes)")
    word = str(dtype).removeprefix("torch.")
    return Stored(name, shape, word, partial(mapped, path, start + begin, shape, dtype), why_no_numbers(word))
