"""The gap between a query and a stored row, and the prefetch of a row, as LLVM code without calls.

A function of Numba that takes arrays, or takes them out of a tuple, counts references at every call. The counts are
atomic: each waits for all loads before it, so that rows could not be fetched while others are scored. Code that is
written in place borrows its arrays and counts nothing.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from resolvent.search.kernel import prefetch_call
from resolvent.search.rows_kernel import contiguous, float_sum, integer_sum, row_start

_FLAGS = ("reassoc", "contract", "nsz")
_FLOAT = ir.FloatType()
_LINE = 64


@intrinsic
def _gap(typingctx, q, number, rows, l2, row):  # type: ignore[no-untyped-def]
    """How far a row is from the query; smaller is nearer.

    For a float32 query `rows` is (data, scale, lift) and `number` the query's own lift: the coordinate that makes all norms
    equal while a graph is built. For an int16 query it is (codes, scale, square) and `number` the unit of the query;
    |q|^2, the same for all rows, is left out.
    """
    if not contiguous(q, 1) or not contiguous(rows[0], 2) or q.dtype not in (types.float32, types.int16):
        return None
    coarse = q.dtype == types.int16

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = context.cast(builder, args[4], signature.args[4], types.intp)
        parts = list(zip(signature.args[2], cgutils.unpack_tuple(builder, args[2]), strict=True))
        write = _coarse if coarse else _fine
        return write(context, builder, (signature.args[0], args[0]), args[1], parts, args[3], place)

    return types.float32(q, types.float32, rows, types.boolean, row), generate


def _entry(context: Any, builder: Any, array: Any, place: Any) -> Any:
    start = row_start(context, builder, array, place)
    return builder.load(builder.bitcast(start, _FLOAT.as_pointer()), align=4)


def _coarse(context: Any, builder: Any, query: Any, number: Any, parts: Any, l2: Any, place: Any) -> Any:
    product = builder.sitofp(integer_sum(context, builder, query, parts[0], place), _FLOAT)
    unit = builder.fmul(number, _entry(context, builder, parts[1], place), flags=_FLAGS)
    part = builder.fmul(unit, product, flags=_FLAGS)
    square = _entry(context, builder, parts[2], place)
    distance = builder.fsub(square, builder.fadd(part, part, flags=_FLAGS), flags=_FLAGS)
    return builder.select(l2, distance, builder.fneg(part))


def _fine(context: Any, builder: Any, query: Any, number: Any, parts: Any, l2: Any, place: Any) -> Any:
    scaled = parts[0][0].dtype == types.int8
    scale = _entry(context, builder, parts[1], place) if scaled else _FLOAT(1.0)
    result = cgutils.alloca_once(builder, _FLOAT)
    with builder.if_else(l2) as (distances, products):
        with distances:
            builder.store(float_sum(context, builder, query, parts[0], place, scale, True), result)
        with products:
            builder.store(builder.fneg(float_sum(context, builder, query, parts[0], place, scale, False)), result)
            lift = context.make_array(parts[2][0])(context, builder, parts[2][1])
            length = cgutils.unpack_tuple(builder, lift.shape)[0]
            with builder.if_then(builder.icmp_signed(">", length, length.type(0))):
                own = builder.fmul(number, _entry(context, builder, parts[2], place), flags=_FLAGS)
                builder.store(builder.fsub(builder.load(result), own, flags=_FLAGS), result)
    return builder.load(result)


@intrinsic
def _fetch(typingctx, array, row):  # type: ignore[no-untyped-def]
    """Ask for every line of a row of a C-contiguous (n, d) array."""
    if not contiguous(array, 2):
        return None

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = context.cast(builder, args[1], signature.args[1], types.intp)
        start = row_start(context, builder, (signature.args[0], args[0]), place)
        view = context.make_array(signature.args[0])(context, builder, args[0])
        step = cgutils.unpack_tuple(builder, view.strides)[0]
        with cgutils.for_range_slice(builder, step.type(0), step, step.type(_LINE), inc=True) as (at, _):
            prefetch_call(builder, builder.gep(start, [at]))
        return context.get_dummy_value()

    return types.void(array, row), generate


# Inside kernels: gap(q, number, rows, l2, row) and fetch(array, row).
gap: Any = _gap
fetch: Any = _fetch
