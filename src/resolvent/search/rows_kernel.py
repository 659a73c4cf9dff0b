"""Inner products and distances of stored rows with a query, written in LLVM's language.

A loop over the entries of a row is vectorised by LLVM only where its caller allows reassociation, and then with one sum
whose additions wait for each other. Here four sums of 16 lanes run side by side, whatever the caller's flags are; LLVM
splits them for the machine at hand. Numba has no float16 and no bfloat16 on the CPU: their bits are widened in registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FLAGS = ("reassoc", "contract", "nsz")
_I8, _I16, _I32, _I64, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
# The dtype tells the format: float16 comes as int16, bfloat16 as uint16.
_STORED = {types.float32: _FLOAT, types.int8: _I8, types.int16: _I16, types.uint16: _I16}
_LANES = 16
# A Numba type and a value of it.
Typed = tuple[Any, Any]


def row_start(context: Any, builder: Any, array: Typed, place: Any) -> Any:
    """Address of a row (or, with one axis, an entry) as bytes; `place` is an intp."""
    view = context.make_array(array[0])(context, builder, array[1])
    step = cgutils.unpack_tuple(builder, view.strides)[0]
    return builder.gep(builder.bitcast(view.data, cgutils.voidptr_t), [builder.mul(place, step)])


class _Emit:
    """Vector code over a query and a row, each given by its Numba type and value: what the three sums share."""

    def __init__(self, context: Any, builder: Any, query: Typed, data: Typed, place: Any) -> None:
        self.builder = builder
        view = context.make_array(query[0])(context, builder, query[1])
        self.query, self.dim = view.data, cgutils.unpack_tuple(builder, view.shape)[0]
        self.kind = data[0].dtype
        self.stored = _STORED[self.kind]
        self.row = builder.bitcast(row_start(context, builder, data, place), self.stored.as_pointer())

    def load(self, pointer: Any, element: Any, at: Any, width: int, align: int) -> Any:
        place = self.builder.gep(pointer, [at])
        if width > 1:
            place = self.builder.bitcast(place, ir.VectorType(element, width).as_pointer())
        return self.builder.load(place, align=align)

    def widened(self, at: Any, width: int) -> Any:
        """Entries of the row as float32."""
        raw = self.load(self.row, self.stored, at, width, self.kind.bitwidth // 8)
        kinds = {
            name: ir.VectorType(t, width) if width > 1 else t
            for name, t in {"float": _FLOAT, "half": ir.HalfType(), "int": _I32}.items()
        }
        if self.kind == types.float32:
            return raw
        if self.kind == types.int8:
            return self.builder.sitofp(raw, kinds["float"])
        if self.kind == types.int16:
            return self.builder.fpext(self.builder.bitcast(raw, kinds["half"]), kinds["float"])
        sixteen = ir.Constant(kinds["int"], [16] * width) if width > 1 else _I32(16)
        return self.builder.bitcast(self.builder.shl(self.builder.zext(raw, kinds["int"]), sixteen), kinds["float"])

    def splat(self, value: Any, width: int) -> Any:
        if width == 1:
            return value
        undefined = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
        first = self.builder.insert_element(undefined, value, _I32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, width), [0] * width))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.fadd(self.builder.fmul(a, b, flags=_FLAGS), c, flags=_FLAGS)

    def sweep(self, vector: Any, lanes: int, step: Any, add: Any, zero: float | int) -> tuple[Any, Any]:
        """Four sums over blocks of 4 * lanes, one over what is left of lanes, a plain one over the tail."""
        builder = self.builder
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [zero] * vector.count)) for _ in range(4)]
        tail = cgutils.alloca_once_value(builder, vector.element(zero))
        wide, narrow = builder.and_(self.dim, _I64(-4 * lanes)), builder.and_(self.dim, _I64(-lanes))
        for first, last, jump, width, into in (
            (_I64(0), wide, 4 * lanes, lanes, sums),
            (wide, narrow, lanes, lanes, sums[:1]),
            (narrow, self.dim, 1, 1, [tail]),
        ):
            with cgutils.for_range_slice(builder, first, last, _I64(jump), inc=True) as (at, _):
                for j, total in enumerate(into):
                    part = builder.add(at, _I64(j * width))
                    builder.store(step(builder.load(total), part, width), total)
        a, b, c, d = (builder.load(total) for total in sums)
        return add(add(a, b), add(c, d)), builder.load(tail)


def contiguous(array: Any, axes: int) -> bool:
    """Is it the type of a C-contiguous array?"""
    return isinstance(array, types.Array) and array.ndim == axes and array.layout == "C"


def float_sum(context: Any, builder: Any, query: Typed, data: Typed, place: Any, scale: Any, squared: bool) -> Any:
    """Code of the inner product of a float32 query with a row, or of the squared distance."""
    emit = _Emit(context, builder, query, data, place)

    def step(old: Any, at: Any, width: int) -> Any:
        a = emit.load(emit.query, _FLOAT, at, width, 4)
        b = emit.widened(at, width)
        if not squared:
            return emit.multiply_add(a, b, old)
        if emit.kind == types.int8:
            b = builder.fmul(b, emit.splat(scale, width), flags=_FLAGS)
        gap = builder.fsub(a, b, flags=_FLAGS)
        return emit.multiply_add(gap, gap, old)

    vector = ir.VectorType(_FLOAT, _LANES)
    lanes, tail = emit.sweep(vector, _LANES, step, lambda a, b: builder.fadd(a, b, flags=_FLAGS), 0.0)
    kind = ir.FunctionType(_FLOAT, [_FLOAT, vector])
    reduce = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
    value = builder.call(reduce, [tail, lanes], fastmath=_FLAGS)
    if not squared and emit.kind == types.int8:
        value = builder.fmul(value, scale, flags=_FLAGS)
    return value


def integer_sum(context: Any, builder: Any, query: Typed, data: Typed, place: Any) -> Any:
    """Code of the inner product of an int16 query with int8 codes, as int32.

    Products of neighbours are added in pairs: that is the one instruction that every x86 since 1997 has for it.
    """
    emit = _Emit(context, builder, query, data, place)
    pairs, wide = ir.VectorType(_I32, _LANES), ir.VectorType(_I32, 2 * _LANES)
    halves = [ir.Constant(pairs, list(range(first, 2 * _LANES, 2))) for first in (0, 1)]

    def step(old: Any, at: Any, width: int) -> Any:
        a = emit.load(emit.query, _I16, at, width, 2)
        b = emit.load(emit.row, _I8, at, width, 1)
        kind = wide if width > 1 else _I32
        product = builder.mul(builder.sext(a, kind), builder.sext(b, kind))
        if width > 1:
            even, odd = (builder.shuffle_vector(product, product, half) for half in halves)
            product = builder.add(even, odd)
        return builder.add(old, product)

    lanes, tail = emit.sweep(pairs, 2 * _LANES, step, builder.add, 0)
    kind = ir.FunctionType(_I32, [pairs])
    reduce = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.add.v16i32")
    return builder.add(builder.call(reduce, [lanes]), tail)


def _float_intrinsic(squared: bool) -> Any:
    @intrinsic
    def total(typingctx, query, data, row, scale):  # type: ignore[no-untyped-def]
        if not contiguous(query, 1) or not contiguous(data, 2) or query.dtype != types.float32:
            return None

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            place = context.cast(builder, args[2], signature.args[2], types.intp)
            query_, data_ = ((signature.args[i], args[i]) for i in (0, 1))
            return float_sum(context, builder, query_, data_, place, args[3], squared)

        return types.float32(query, data, row, types.float32), generate

    return total


# f(query (d,) float32, data (n, d), row, scale of the row or 1): the query must be contiguous.
inner_product = _float_intrinsic(False)
squared_distance = _float_intrinsic(True)


@intrinsic
def integer_product(typingctx, query, data, row):  # type: ignore[no-untyped-def]
    """Inner product of an int16 query with int8 codes as int32; the caller sees to it that it fits."""
    if not contiguous(query, 1) or not contiguous(data, 2) or (query.dtype, data.dtype) != (types.int16, types.int8):
        return None

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = context.cast(builder, args[2], signature.args[2], types.intp)
        query_, data_ = ((signature.args[i], args[i]) for i in (0, 1))
        return integer_sum(context, builder, query_, data_, place)

    return types.int32(query, data, row), generate
