"""Numba pieces that the indexes share: rows in every storage format, prefetching, bounded heaps."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from resolvent.search.rows_kernel import inner_product, squared_distance
from resolvent.search.vectors import Vectors

FAST = {"reassoc", "contract", "nsz"}


def kernel_view(vectors: Vectors) -> np.ndarray:
    """The rows as the kernels take them: the dtype tells the format (float16 as int16, bfloat16 as uint16)."""
    return vectors.data.view(np.int16) if vectors.dtype == "float16" else vectors.data


def kernel_scale(vectors: Vectors) -> np.ndarray:
    """The scales of int8 rows; empty for other formats."""
    return np.empty(0, np.float32) if vectors.scale is None else vectors.scale


@intrinsic
def prefetch(typingctx, array, row):  # type: ignore[no-untyped-def]
    """Ask for the first lines of a row of a C-contiguous (n, d) array; beyond two lines the hardware follows."""
    if not (isinstance(array, types.Array) and array.ndim == 2):
        return None

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        view = context.make_array(signature.args[0])(context, builder, args[0])
        step = cgutils.unpack_tuple(builder, view.strides)[0]
        place = context.cast(builder, args[1], signature.args[1], types.intp)
        start = builder.bitcast(view.data, cgutils.voidptr_t)
        at = builder.gep(start, [builder.mul(place, step)])
        prefetch_call(builder, at)
        return context.get_dummy_value()

    return types.void(array, row), generate


@intrinsic
def prefetch_bytes(typingctx, array, row, offset):  # type: ignore[no-untyped-def]
    """Ask for the line that lies `offset` bytes into a row of a C-contiguous (n, d) array."""
    if not (isinstance(array, types.Array) and array.ndim == 2):
        return None

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        view = context.make_array(signature.args[0])(context, builder, args[0])
        step = cgutils.unpack_tuple(builder, view.strides)[0]
        place = context.cast(builder, args[1], signature.args[1], types.intp)
        inside = context.cast(builder, args[2], signature.args[2], types.intp)
        start = builder.bitcast(view.data, cgutils.voidptr_t)
        at = builder.gep(start, [builder.add(builder.mul(place, step), inside)])
        prefetch_call(builder, at)
        return context.get_dummy_value()

    return types.void(array, row, offset), generate


def prefetch_call(builder, at):  # type: ignore[no-untyped-def]
    """Code that asks for the line at an address; for intrinsics."""
    i32 = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, i32, i32, i32])
    # Recent LLVM knows one kind of pointer only, and names the intrinsic after it.
    name = "llvm.prefetch.p0" if getattr(cgutils.voidptr_t, "is_opaque", False) else "llvm.prefetch.p0i8"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [at, i32(0), i32(3), i32(1)])


@intrinsic
def _half_to_float(typingctx, bits):  # type: ignore[no-untyped-def]
    """A float16 given by its bits (int16), as float32."""
    if bits != types.int16:
        return None

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate


@intrinsic
def _upper_half_to_float(typingctx, bits):  # type: ignore[no-untyped-def]
    """A bfloat16 given by its bits (uint16), as float32."""
    if bits != types.uint16:
        return None

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        wide = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.IntType(32)(16)), ir.FloatType())

    return types.float32(types.uint16), generate


def entry(data, row, j):  # type: ignore[no-untyped-def]
    """Entry j of a stored row as float32, without its scale; only for kernels."""
    raise NotImplementedError


@overload(entry, inline="always")
def _entry(data, row, j):  # type: ignore[no-untyped-def]
    if data.dtype == types.int16:
        return lambda data, row, j: _half_to_float(data[row, j])  # type: ignore[call-arg]
    if data.dtype == types.uint16:
        return lambda data, row, j: _upper_half_to_float(data[row, j])  # type: ignore[call-arg]
    return lambda data, row, j: np.float32(data[row, j])


@njit(cache=True, nogil=True, fastmath=FAST, inline="always")
def dot(data, scale, row, q):  # type: ignore[no-untyped-def]
    """Inner product of a stored row with a float32 query."""
    unit = scale[row] if scale.shape[0] else np.float32(1)
    return inner_product(q, data, row, unit)


@njit(cache=True, nogil=True, fastmath=FAST, inline="always")
def distance(data, scale, row, q):  # type: ignore[no-untyped-def]
    """Squared distance of a stored row to a float32 query, by differences: right for data far from the origin."""
    unit = scale[row] if scale.shape[0] else np.float32(1)
    return squared_distance(q, data, row, unit)


@njit(cache=True, nogil=True, fastmath=FAST)
def score_rows(data, scale, rows, q, l2, out):  # type: ignore[no-untyped-def]
    """Scores of one query (d,) with the rows listed; -1 lists no row and scores -inf."""
    n = rows.shape[0]
    for i in range(n):
        if i + 4 < n and rows[i + 4] >= 0:
            prefetch(data, rows[i + 4])  # type: ignore[call-arg]
        if rows[i] < 0:
            out[i] = -np.inf
        elif l2:
            out[i] = -distance(data, scale, rows[i], q)
        else:
            out[i] = dot(data, scale, rows[i], q)


# Heaps over two arrays (keys float32, values of any integer type) of which the first `size` entries count. In a
# "worst first" heap the smallest key is at the root: the k best seen so far, the worst of them ready to leave.


@njit(cache=True, nogil=True, inline="always")
def heap_push_worst(keys, values, size, key, value):  # type: ignore[no-untyped-def]
    """Put a pair in; the new size."""
    i = size
    while i > 0:
        up = (i - 1) >> 1
        if keys[up] <= key:
            break
        keys[i], values[i] = keys[up], values[up]
        i = up
    keys[i], values[i] = key, value
    return size + 1


@njit(cache=True, nogil=True, inline="always")
def heap_replace_worst(keys, values, size, key, value):  # type: ignore[no-untyped-def]
    """Put a pair in the place of the worst."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[i], values[i] = keys[child], values[child]
        i = child
    keys[i], values[i] = key, value


@njit(cache=True, nogil=True)
def heap_pop_worst(keys, values, size):  # type: ignore[no-untyped-def]
    """Take the worst out: it is left at index size - 1; the new size."""
    last = size - 1
    key, value = keys[0], values[0]
    moved, moved_value = keys[last], values[last]
    if last > 0:
        heap_replace_worst(keys, values, last, moved, moved_value)
    keys[last], values[last] = key, value
    return last


@njit(cache=True, nogil=True)
def heap_sort_worst(keys, values, size):  # type: ignore[no-untyped-def]
    """Turn a worst-first heap into a list, the best first."""
    n = size
    while n > 1:
        n = heap_pop_worst(keys, values, n)


@njit(cache=True, nogil=True, inline="always")
def heap_offer(keys, values, size, room, key, value):  # type: ignore[no-untyped-def]
    """Keep the pair if it is among the best `room`; the new size."""
    if size < room:
        return heap_push_worst(keys, values, size, key, value)
    if key > keys[0]:
        heap_replace_worst(keys, values, size, key, value)
    return size
