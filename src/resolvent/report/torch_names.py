"""What the names in a torch pickle stand for: descriptions of tensors, plain containers, and nothing that runs.

A name that is in none of the tables ends the reading: it could be any function of any installed package.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from resolvent.report.stored import printable

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "UntypedStorage": torch.uint8,
}


class UnsafePickleError(ValueError):
    """A pickle asks for something that is no tensor, container or plain value."""


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the file: its key, its type, how many numbers it claims, where a view of it begins."""

    key: str
    dtype: torch.dtype
    count: int
    start: int = 0


@dataclass(frozen=True)
class Described:
    """A strided tensor: where it lies in its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class DescribedSparse:
    """A sparse tensor: its layout ("torch.sparse_csr", ...), its tensors in torch's order, its shape."""

    layout: str
    tensors: tuple[Described, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Unread:
    """A tensor of a kind that is not read, and why."""

    reason: str


class Mapping(dict):
    """A dictionary or one of its ordered, counting and defaulting kinds."""


class Opaque:
    """A value that carries no tensors: options, dates, paths."""


@dataclass(frozen=True, eq=False)
class Name:
    """What a name of the pickle stands for: a function of this file, or a value."""

    text: str
    call: Callable[..., Any] | None = None
    value: Any = None


def _plain(key: Any) -> bool:
    """Whether this may be the key of a dictionary: a deep tuple would overflow the stack when it is hashed."""
    simple = (str, int, float, bytes, type(None), Opaque, Name)
    return isinstance(key, simple) or (isinstance(key, tuple) and all(isinstance(k, simple) for k in key))


def check_keys(keys: Any) -> None:
    """Raise an UnpicklingError unless all are plain values."""
    if not all(map(_plain, keys)):
        raise pickle.UnpicklingError("a key that is no plain value")


def are_sizes(values: Any) -> bool:
    """Whether all are sizes: whole numbers from 0 that fit in 62 bits."""
    return all(isinstance(k, int) and not isinstance(k, bool) and 0 <= k < 2**62 for k in values)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Described:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise pickle.UnpicklingError("a tensor of no storage")
    if len(shape) != len(stride) or len(shape) > 64 or not are_sizes((offset, *shape, *stride)):
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    return Described(storage, offset, shape, stride, storage.dtype)


def _tensor_of_type(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Described:
    plain = _tensor(storage, offset, shape, stride)
    if len(rest) < 3 or not isinstance(rest[2], Name) or not isinstance(rest[2].value, torch.dtype):
        raise pickle.UnpicklingError("a tensor of no type")
    return Described(plain.storage, offset, shape, stride, rest[2].value)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _typed(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """A tensor of a subclass, or one with attributes of its own: the tensor inside."""
    if not isinstance(function, Name) or function.call is None or not isinstance(arguments, tuple):
        raise pickle.UnpicklingError("a call of no function")
    return function.call(*arguments)


def _sparse(layout: Any, data: Any, *_: Any) -> DescribedSparse:
    """Indices, values, shape; or compressed indices, plain indices, values, shape."""
    tensors = tuple(x for x in data if isinstance(x, Described))
    shapes = [x for x in data if isinstance(x, tuple) and are_sizes(x)]
    if not isinstance(layout, str) or len(tensors) not in (2, 3) or len(shapes) != 1:
        raise pickle.UnpicklingError("a sparse tensor of no parts")
    return DescribedSparse(layout, tensors, shapes[0])


def _size(values: Any = ()) -> tuple:
    if not isinstance(values, tuple | list):
        raise pickle.UnpicklingError("a size that is none")
    return tuple(values)


def _layout(name: Any) -> str:
    return str(name) if isinstance(name, str | Name) else ""


def _mapping(*_: Any) -> Mapping:
    """Its items follow by themselves; the list of pairs of old pickles is taken too."""
    made = Mapping()
    pairs = _[-1] if _ and isinstance(_[-1], list) else []
    check_keys(pair[0] for pair in pairs)
    made.update((pair[0], pair[1]) for pair in pairs)
    return made


def _opaque(*_: Any) -> Opaque:
    return Opaque()


def _unread(reason: str) -> Callable[..., Unread]:
    return lambda *_: Unread(reason)


_REBUILDS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_of_type,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_sparse_csr_tensor": _sparse,
    "_rebuild_qtensor": _unread("it is one of torch's quantised tensors, whose codes are not read"),
    "_rebuild_meta_tensor_no_storage": _unread("it was saved without its numbers (a meta tensor)"),
    "_rebuild_nested_tensor": _unread("it is a nested tensor"),
    "_rebuild_device_tensor_from_numpy": _unread("it was saved from a device that only its own library reads"),
    "_rebuild_device_tensor_from_cpu_tensor": _parameter,
    "_rebuild_wrapper_subclass": _unread("it is a wrapper around other tensors"),
}
_PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("collections", "defaultdict"): _mapping,
    ("torch", "Size"): _size,
    ("torch.serialization", "_get_layout"): _layout,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch.nn.parameter", "Buffer"): _parameter,
    ("torch", "Tensor"): _opaque,
    ("torch", "device"): _opaque,
    ("torch", "Generator"): _opaque,
    ("builtins", "dict"): _mapping,
    ("builtins", "list"): lambda *_: [],
    ("builtins", "set"): lambda *_: set(),
}
# Plain values that checkpoints keep beside the weights, and that nothing here makes: they become `Opaque`.
_BESIDE = {
    "argparse": {"Namespace"},
    "builtins": {"bytearray", "complex", "int", "float", "str", "bool", "slice", "frozenset", "object"},
    "_codecs": {"encode"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "numpy": {"dtype", "ndarray", "bool_", "float16", "float32", "float64", "int32", "int64"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "uuid": {"UUID"},
}


def lookup(module: str, name: str) -> Name:
    """What a pickled name stands for here; an UnsafePickleError for one that is in no table."""
    text = f"{module}.{name}"
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    if module == "torch._utils" and name in _REBUILDS:
        return Name(text, _REBUILDS[name])
    if (module, name) in _PLAIN:
        return Name(text, _PLAIN[module, name])
    if module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
        return Name(text, value=_STORAGES[name])
    # vars() and not getattr(), which would import some of torch's modules
    if module == "torch" and isinstance(value := vars(torch).get(name), torch.dtype | torch.qscheme | torch.layout):
        return Name(text, value=value)
    if name in _BESIDE.get(module, ()):
        return Name(text, _opaque)
    if module.startswith("torch.nn.modules") or module.startswith("__torch__"):
        raise UnsafePickleError(f"it is a pickled module ({printable(text)[:80]}); save model.state_dict()")
    raise UnsafePickleError(
        f"its pickle asks for {printable(text)[:80]}, which could run code; save model.state_dict()"
    )
