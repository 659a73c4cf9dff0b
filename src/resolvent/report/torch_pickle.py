"""The pickle inside a torch file, read as a list of what it describes: no code is imported, none runs.

`torch.load(weights_only=True)` is safe too, but takes the whole pickle or nothing, allocates what the pickle claims and
does not compare a tensor's storage with its place in the file. Here every name that the pickle asks for is looked up in
a table of inert stand-ins; what is in no table ends the reading.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import IO, Any, ClassVar

import torch

from resolvent.report.torch_names import (
    Mapping,
    Name,
    Opaque,
    Storage,
    UnsafePickleError,
    are_sizes,
    check_keys,
    lookup,
)

# What damaged pickles make Python's own unpickler raise.
PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
# A tensor takes about 200 bytes of pickle: this is a hundred thousand of them, and a few seconds.
LONGEST = 32 << 20


def read_pickle(file: IO[bytes], length: int) -> Any:
    """Read one pickle: dictionaries, lists and plain values, with a `Described` in place of each tensor.

    Parameters
    ----------
    file : where the pickle begins
    length : bytes that belong to it at most

    Returns
    -------
    What the pickle holds. The file is left behind its last byte.

    Raises
    ------
    UnsafePickleError : it asks for a name that is no tensor, container or plain value, which could run code.
    ValueError : it is damaged or too long.

    Examples
    --------
    >>> import io, pickle
    >>> raw = pickle.dumps({"a": [1, 2.5]})
    >>> read_pickle(io.BytesIO(raw), len(raw))
    {'a': [1, 2.5]}
    """
    begin = file.tell()
    bounded = _Bounded(file, min(length, LONGEST))
    try:
        result = _Unpickler(bounded, encoding="utf-8", errors="replace").load()
    except UnsafePickleError:
        raise
    except PICKLE_ERRORS as error:
        if bounded.left == 0 and length > LONGEST:
            raise ValueError(f"its pickle is longer than the {LONGEST >> 20} MiB that are read") from error
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from error
    file.seek(begin + bounded.used)
    return result


class _Bounded:
    """A file that ends where it is told to, so that no claim of a pickle makes a read take memory."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file, self.left, self.used = file, length, 0

    def _took(self, data: bytes) -> bytes:
        self.left -= len(data)
        self.used += len(data)
        return data

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            self.left = 0
            raise EOFError
        return self._took(self.file.read(count))

    def readline(self) -> bytes:
        line = self._took(self.file.readline(min(self.left, 1 << 16)))
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def readinto(self, buffer: bytearray) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


# The one in Python: that in C takes memory for indices that a pickle only claims. It has no types to check against.
_Base: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_Base):
    """Python's unpickler without anything that imports, calls or builds what is not in the tables below."""

    def find_class(self, module: str, name: str) -> Any:
        return lookup(module, name)

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            if isinstance(pid, tuple) and pid and pid[0] == "module":
                raise UnsafePickleError("it is a pickled module with its code; save model.state_dict()")
            raise pickle.UnpicklingError("a reference to no storage")
        _, kind, key, _, count = pid[:5]
        start = 0
        if len(pid) > 5 and pid[5] is not None:
            _, start, _ = pid[5]
        if not isinstance(kind, Name) or not isinstance(kind.value, torch.dtype) or not are_sizes((count, start)):
            raise pickle.UnpicklingError("a storage of no type")
        return Storage(str(key), kind.value, count, start)

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an instruction that torch does not write")

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, Name) or function.call is None or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call of no function")
        self.stack[-1] = function.call(*arguments)

    def _new(self) -> None:
        self._reduce()

    def _new_with_keywords(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        # the attributes of a dictionary or an option hold no weights
        self.stack.pop()
        if not isinstance(self.stack[-1], Mapping | Opaque):
            raise pickle.UnpicklingError("a state of something that has none")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        check_keys((key,))
        self._into()[key] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        check_keys(items[::2])
        self._into().update(zip(items[::2], items[1::2], strict=True))

    def _into(self) -> dict:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return {}
        if not isinstance(target, dict):
            raise pickle.UnpicklingError("an item for something that takes none")
        return target

    def _dict(self) -> None:
        items = self.pop_mark()
        check_keys(items[::2])
        self.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _add_items(self) -> None:
        items = self.pop_mark()
        check_keys(items)
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(items)
        elif not isinstance(self.stack[-1], Opaque):
            raise pickle.UnpicklingError("a member for something that is no set")

    def _frozen_set(self) -> None:
        items = self.pop_mark()
        check_keys(items)
        self.append(frozenset(items))

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **_Base.dispatch,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _new,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozen_set,
        **dict.fromkeys((pickle.INST[0], pickle.OBJ[0], pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), _refuse),
        pickle.BYTEARRAY8[0]: _refuse,
    }
