"""One tensor of a file before it is read, and what every reader needs: sizes in words, memory, the order of names."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import scipy.sparse

    from resolvent.report.adapters import Scale

    Loaded: TypeAlias = Tensor | scipy.sparse.csr_array

Role: TypeAlias = Literal["weight", "vectors", "graph"]

_FLOATS = {"float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128"}
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (16, 32, 64)}


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
    role : what it is by the kind of its file: a weight, rows that are vectors, the adjacency matrix of a graph
    notes : what the reader did to it: the scale that it was multiplied by, columns that were left out
    scale : the name of the tensor that holds the scale of its codes, which `load` applies; "" where there is none
    memory : the same for tensors that are the same memory; None where the file does not say
    heads : query heads and key/value heads of the model, where a config beside the file tells them
    lora : of a LoRA factor, the scale of the product that a config beside the file tells; None without a config
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Loaded]
    reason: str = ""
    role: Role = "weight"
    notes: tuple[str, ...] = ()
    scale: str = ""
    memory: Hashable | None = None
    heads: tuple[int, int] | None = None
    lora: Scale | None = None


def unreadable(name: str, reason: str, shape: tuple[int, ...] = ()) -> Stored:
    """The entry of a tensor that is broken in a file whose others can be read."""

    def load() -> Tensor:
        raise ValueError(reason)

    return Stored(name, shape, "unknown", load, reason)


def why_no_numbers(dtype: str) -> str:
    """Why the entries of a weight of this dtype say nothing by themselves; "" for those that do."""
    if dtype in _FLOATS:
        return ""
    if dtype in _INTEGERS:
        return "it holds integers, which are indices or codes here and not weights"
    if dtype == "bool":
        return "it holds truth values, which are a mask and not weights"
    return f"its {dtype} entries are codes whose scale is not known"


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key that puts layer.2 before layer.10.

    Examples
    --------
    >>> sorted(["layer.10", "layer.2"], key=natural_order)
    ['layer.2', 'layer.10']
    """
    # int() refuses thousands of digits: the name of no layer, which then sorts as a text
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() and len(part) < 4000 else (-1, part) for part in parts]


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
        raise ValueError(f"{what} needs {size_text(size)} of memory and {size_text(available_memory())} are available")


def size_text(size: float) -> str:
    """A number of bytes in words.

    Examples
    --------
    >>> size_text(100), size_text(8 * 1024**2)
    ('100 bytes', '8 MiB')
    """
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"


def sentence(error: BaseException) -> str:
    """The first line of an error's message, without the full stop."""
    lines = str(error).strip().splitlines()
    return printable((lines[0] if lines else type(error).__name__).rstrip(". ")[:200])


def printable(name: str) -> str:
    r"""A name that no terminal, JSON or page can stumble over: what is not printable is spelt out.

    Examples
    --------
    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def mapped(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor on the memory of a file: nothing is read before it is used, and nothing is kept once it is dropped.

    Raises
    ------
    ValueError : the file ends before the tensor does.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if count == 0:
        return torch.zeros(shape, dtype=dtype)
    if offset < 0 or offset + size > path.stat().st_size:
        raise ValueError(f"the file ends before it does ({size_text(size)} from byte {offset})")
    raw: np.ndarray = np.memmap(path, dtype=np.uint8, mode="c", offset=offset, shape=(size,))
    if offset % dtype.itemsize:
        # torch reads only aligned numbers; files that torch and safetensors write are aligned
        check_memory(size, "it")
        raw = np.array(raw)
    return torch.from_numpy(np.asarray(raw)).view(dtype).reshape(shape)


def readable_file(path: Path, kinds: str) -> None:
    """Raise a ValueError unless the path is a file that can be read and has something in it."""
    if not path.exists():
        if path.is_symlink():
            raise ValueError(f"{path}: is a link that leads to no file")
        raise ValueError(f"{path}: there is no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a directory; give one file ({kinds})")
    if not path.is_file():
        raise ValueError(f"{path}: is not a regular file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path}: no permission to read it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty (0 bytes)")
