"""Arrays over the memory of tensors, from inside a kernel."""

from __future__ import annotations

from typing import Any

import numba
from numba.core import types
from numba.extending import intrinsic

FASTMATH = {"reassoc", "contract", "nsz"}


@intrinsic
def _pointer(typing: Any, address: Any, like: Any) -> Any:
    pointer = types.CPointer(like.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(address, like), generate


@numba.njit(inline="always")
def view(address: int, size: int, like: Any) -> Any:
    """The array of `size` entries at an address, of the type of `like`."""
    return numba.carray(_pointer(address, like), (size,))  # type: ignore[call-arg]


@numba.njit(inline="always")
def part(address: int, start: int, stop: int, like: Any) -> Any:
    """Entries `start` to `stop` of the array at an address.

    A loop over it counts from 0: indices that the compiler cannot see to be positive keep it from using vector instructions, a factor of 10 to 40.
    """
    return view(address + start * like.itemsize, stop - start, like)
