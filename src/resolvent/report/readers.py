"""What a file holds, tensor by tensor: names, shapes and types first, the numbers only when one is asked for.

No reader unpickles, and none believes a header: every size is compared with the file before memory is taken. Each kind
of file has its own module; this one tells the kinds apart.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from resolvent.report.stored import (
    Stored,
    available_memory,
    check_memory,
    natural_order,
    printable,
    readable_file,
    sentence,
    unreadable,
    why_no_numbers,
)

if TYPE_CHECKING:
    from resolvent.report.stored import Loaded

__all__ = ["SUFFIXES", "Stored", "available_memory", "check_memory", "natural_order", "stored_state", "stored_tensors"]

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_EDGES = (".edges", ".edgelist", ".txt")
SUFFIXES = (".safetensors", *_TORCH, ".npy", ".npz", ".mtx", ".csv", ".parquet", *_EDGES)


@contextmanager
def stored_tensors(path: str | os.PathLike[str]) -> Iterator[list[Stored]]:
    """Open a file and list its tensors; each is read when its `load()` is called, while the context is open.

    Parameters
    ----------
    path : a .safetensors file, an index of shards (.index.json) or a directory with weights; a .pt, .pth, .bin or .ckpt
        of `torch.save`; .npy, .npz (NumPy's arrays, or SciPy's sparse matrix); Matrix Market .mtx; .csv or .parquet of
        vectors; an edge list (.edges, .edgelist, .txt); the directory of an index of `resolvent.search`

    Returns
    -------
    A context manager of a list of `Stored`, by name, numbers inside names in numerical order.

    Raises
    ------
    ValueError : the file is missing, empty, truncated, of an unknown kind, its header is wrong, or a directory has no
        weights.
    OSError : the system does not let us read it.

    Notes
    -----
    `.safetensors`, `.pt` and `.npy` are memory-mapped tensor by tensor, and so are uncompressed members of an `.npz`,
    whose checksum is verified; a compressed member is unpacked into exactly the memory that its header declares. Texts
    and tables are read here, since one that is bad is bad as a whole.

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
    with ExitStack() as stack:
        yield _finished(_read(path, stack), path)


def stored_state(state: Mapping[str, Any]) -> list[Stored]:
    """The tensors of a state dict in memory, as those of a file.

    Parameters
    ----------
    state : tensors, arrays or SciPy sparse matrices by name; dictionaries inside it are taken with dots between names

    Returns
    -------
    One `Stored` per entry, by name. Those that share their memory have the same `memory`.

    Raises
    ------
    TypeError : `state` is no mapping.

    Examples
    --------
    >>> [(t.name, t.shape, t.dtype) for t in stored_state({"a": torch.eye(2), "b": 3})]
    [('a', (2, 2), 'float32'), ('b', (), 'unknown')]
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to tensors, got {type(state).__name__}")
    tensors = [_from_memory(name, value) for name, value in _flat(state)]
    return _finished(sorted(tensors, key=lambda t: natural_order(t.name)), None)


def _read(path: Path, stack: ExitStack) -> list[Stored]:
    if path.is_dir():
        from resolvent.report.index_directory import index_fields, is_index
        from resolvent.report.shards import directory

        return index_fields(path) if is_index(path) else directory(path)
    suffix = path.suffix.lower()
    if not path.name.lower().endswith(".index.json") and suffix not in SUFFIXES and path.is_file():
        raise ValueError(f"{path}: unknown kind of file {printable(suffix)!r}; can read {', '.join(SUFFIXES)}")
    readable_file(path, ", ".join(SUFFIXES))
    return _tensors(path, suffix, stack)


def _tensors(path: Path, suffix: str, stack: ExitStack) -> list[Stored]:
    """Each reader is loaded when a file of its kind is met."""
    if suffix == ".safetensors":
        from resolvent.report.safetensors_file import safetensors

        return safetensors(path)
    if suffix == ".json":
        from resolvent.report.shards import index

        return index(path)
    if suffix in _TORCH:
        from resolvent.report.torch_file import torch_file

        return torch_file(path)
    if suffix in (".npy", ".npz"):
        from resolvent.report.array_file import npy, npz

        return [npy(path)] if suffix == ".npy" else npz(path, stack)
    if suffix in (".csv", ".parquet"):
        from resolvent.report.vector_file import csv_vectors, parquet_vectors

        return [csv_vectors(path)] if suffix == ".csv" else parquet_vectors(path)
    if suffix in _EDGES:
        from resolvent.report.edge_file import edge_list

        return [edge_list(path)]
    return [_matrix_market(path)]


def _finished(tensors: Sequence[Stored], path: Path | None) -> list[Stored]:
    """Names that can be printed and that differ, scales joined to their codes, what the configs beside them tell."""
    from resolvent.report.scaled import with_scales
    from resolvent.report.weight_norm import with_weight_norm

    seen: dict[str, int] = {}
    named = []
    for tensor in tensors:
        name = printable(tensor.name)
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name} ({seen[name]})"
        named.append(tensor if name == tensor.name else dataclasses.replace(tensor, name=name))
    if path is not None and any("query_key_value" in t.name for t in named):
        from resolvent.report.shards import heads_beside

        heads = heads_beside(path)
        named = [dataclasses.replace(t, heads=heads) if "query_key_value" in t.name else t for t in named]
    if path is not None and any("lora" in t.name for t in named):
        from resolvent.report.adapters import with_adapter_scales

        named = with_adapter_scales(named, path)
    return with_weight_norm(with_scales(named))


def _matrix_market(path: Path) -> Stored:
    from resolvent.report.array_file import tensor_of
    from resolvent.report.matrix_market import read_header, read_matrix

    try:
        header = read_header(path)
        check_memory(16.0 * header.entries * header.width + 8.0 * (header.rows + header.columns), "reading it")
        # Read here and not in load(): a text with one matrix is bad as a whole.
        matrix = read_matrix(path, header)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not a valid Matrix Market file ({sentence(error)})") from error
    loaded: Loaded = tensor_of(matrix) if isinstance(matrix, np.ndarray) else matrix
    return Stored(path.stem, (header.rows, header.columns), header.dtype, lambda: loaded)


def _flat(state: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if isinstance(value, Mapping) and depth < 16:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _from_memory(name: str, value: Any) -> Stored:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc" or value.dtype.itemsize > (16 if value.dtype.kind == "c" else 8):
            return unreadable(name, f"its type {value.dtype} is not a number", value.shape)
        from resolvent.report.array_file import tensor_of

        value = tensor_of(value)
    if isinstance(value, Tensor):
        return _from_tensor(name, value)
    if hasattr(value, "tocsr") and hasattr(value, "nnz"):
        return Stored(name, tuple(value.shape), str(value.dtype), lambda: _csr(value))
    return unreadable(name, f"it is a {type(value).__name__}, not a tensor")


def _from_tensor(name: str, value: Tensor) -> Stored:
    value = value.detach()
    word, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
    if value.device.type == "meta":
        return Stored(name, shape, word, unreadable(name, "").load, "it has no numbers (a meta tensor)")
    if value.layout != torch.strided:
        return Stored(name, shape, word, partial(_sparse, value), notes=("torch sparse tensor",))
    if value.is_quantized:
        return Stored(name, shape, word, lambda: value.dequantize().cpu(), notes=(f"{word} codes times their scale",))
    memory = (value.data_ptr(), value.numel(), word) if value.numel() and value.data_ptr() else None
    return Stored(name, shape, word, lambda: value.cpu(), why_no_numbers(word), memory=memory)


def _csr(value: Any) -> Loaded:
    import scipy.sparse

    return scipy.sparse.csr_array(value)


def _sparse(value: Tensor) -> Loaded:
    import scipy.sparse

    if value.ndim != 2:
        raise ValueError(f"it is a sparse tensor with {value.ndim} axes")
    coo = value.cpu().to_sparse_coo().coalesce()
    rows, columns = coo.indices().numpy()
    values = coo.values()
    values = values.to(torch.complex128 if values.is_complex() else torch.float64).numpy()
    return scipy.sparse.coo_array((values, (rows, columns)), shape=tuple(value.shape)).tocsr()
