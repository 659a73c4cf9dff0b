"""Sums of table entries for 32 four-bit codes at once, with the tables in registers. Imported with the first 4-bit scan.

A code has m parts of four bits; part s of a vector chooses one of the 16 numbers of table s, and the score of the vector
is the sum of its m numbers. With numbers of one byte a table is 16 bytes, so that a shuffle of bytes inside a register
looks up many parts at a time. 32 vectors are a block, four parts a group of 64 bytes:

    byte 4 v + s of the group = (part s of vector v) + 16 (part s of vector v + 16),   v = 0..15, s = 0..3

so that the four bytes of a 32-bit lane belong to one vector. AVX-512 (VBMI) takes the 64 numbers of four tables as one
register: one shuffle looks up 64 parts and one integer dot product adds the four of each lane. AVX2 sorts the bytes by
part first and then looks up 32 vectors of one part. Elsewhere plain loops give the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

BLOCK = 32  # vectors
GROUP = 64  # bytes: four parts of a block
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _features() -> frozenset[str]:
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


class _Emit:
    """Pieces that both register paths share."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.builder = builder
        arrays = [context.make_array(signature.args[n])(context, builder, args[n]).data for n in (0, 2)]
        byte = _I8.as_pointer()
        self.codes = builder.gep(builder.bitcast(arrays[0], byte), [args[1]])
        self.table = builder.bitcast(arrays[1], byte)
        out = context.make_array(signature.args[4])(context, builder, args[4]).data
        self.out = builder.bitcast(out, _I32.as_pointer())
        self.groups = args[3]

    def load(self, base: Any, offset: Any, kind: Any, align: int = 1) -> Any:
        place = self.builder.gep(base, [offset])
        return self.builder.load(self.builder.bitcast(place, kind.as_pointer()), align=align)

    def store(self, value: Any, lane: int) -> None:
        place = self.builder.gep(self.out, [ir.Constant(_I64, lane)])
        self.builder.store(value, self.builder.bitcast(place, value.type.as_pointer()), align=4)

    def splat(self, kind: Any, number: int) -> Any:
        return ir.Constant(kind, [number] * kind.count)

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def call(self, name: str, result: Any, *values: Any) -> Any:
        kind = ir.FunctionType(result, [v.type for v in values])
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, values)

    def nibbles(self, codes: Any) -> tuple[Any, Any]:
        kind = codes.type
        low = self.builder.and_(codes, self.splat(kind, 15))
        return low, self.builder.lshr(codes, self.splat(kind, 4))

    def loop(self, body: Any, state: list[Any]) -> list[Any]:
        """for g in range(groups): state = body(64 g, state); groups is at least one."""
        builder = self.builder
        before, inside = builder.block, builder.append_basic_block("groups")
        after = builder.append_basic_block("groups.end")
        builder.branch(inside)
        builder.position_at_end(inside)
        g = builder.phi(_I64)
        carried = [builder.phi(value.type) for value in state]
        new = body(builder.shl(g, ir.Constant(_I64, 6)), carried)
        following = builder.add(g, ir.Constant(_I64, 1))
        last = builder.block
        builder.cbranch(builder.icmp_signed("<", following, self.groups), inside, after)
        for phi, first, value in zip([g, *carried], [ir.Constant(_I64, 0), *state], [following, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(value, last)
        builder.position_at_end(after)
        return new


def _vbmi_sums(emit: _Emit) -> None:
    builder = emit.builder
    bytes64, lanes = ir.VectorType(_I8, 64), ir.VectorType(_I32, 16)
    # Bits 4 and 5 of an index say which of the four tables.
    which = ir.Constant(bytes64, [16 * (i % 4) for i in range(64)])
    dot = bytes64 if binding.llvm_version_info[0] >= 22 else lanes
    ones = builder.bitcast(emit.splat(bytes64, 1), dot)

    def body(at: Any, state: list[Any]) -> list[Any]:
        table = emit.load(emit.table, at, bytes64)
        new = []
        for part, total in zip(emit.nibbles(emit.load(emit.codes, at, bytes64)), state, strict=True):
            index = builder.or_(part, which)
            found = emit.call("llvm.x86.avx512.permvar.qi.512", bytes64, table, index)
            new.append(emit.call("llvm.x86.avx512.vpdpbusd.512", lanes, total, builder.bitcast(found, dot), ones))
        return new

    for half, total in enumerate(emit.loop(body, [emit.splat(lanes, 0)] * 2)):
        emit.store(total, 16 * half)


# Bytes of a 16-byte lane sorted by part: four vectors of part 0, of part 1, ...
_BY_PART = [4 * v + s for s in range(4) for v in range(4)]


def _avx2_sums(emit: _Emit) -> None:
    builder = emit.builder
    bytes32, bytes16 = ir.VectorType(_I8, 32), ir.VectorType(_I8, 16)
    words, half = ir.VectorType(_I32, 8), ir.VectorType(_I16, 16)
    eight = emit.splat(half, 8)

    def body(at: Any, state: list[Any]) -> list[Any]:
        lanes: list[Any] = []
        for offset in (0, 32):
            codes = emit.load(emit.codes, builder.add(at, ir.Constant(_I64, offset)), bytes32)
            for part in emit.nibbles(codes):
                by_part = emit.shuffle(part, part, _BY_PART + [16 + i for i in _BY_PART])
                lanes.append(builder.bitcast(by_part, words))
        # Four registers of (part 0, 1, 2, 3) in each half become four of one part each.
        first, second = [], []
        for a, b in ((lanes[0], lanes[1]), (lanes[2], lanes[3])):
            first.append(emit.shuffle(a, b, [0, 8, 4, 12, 1, 9, 5, 13]))
            second.append(emit.shuffle(a, b, [2, 10, 6, 14, 3, 11, 7, 15]))
        even, odd = state
        for s in range(4):
            a, b = first if s < 2 else second
            low = 4 * (s % 2)
            index = builder.bitcast(
                emit.shuffle(a, b, [low + i for i in range(4)] + [8 + low + i for i in range(4)]), bytes32
            )
            table = emit.load(emit.table, builder.add(at, ir.Constant(_I64, 16 * s)), bytes16)
            twice = emit.shuffle(table, table, list(range(16)) * 2)
            found = builder.bitcast(emit.call("llvm.x86.avx2.pshuf.b", bytes32, twice, index), half)
            # Pairs of bytes as one 16-bit number: the upper byte is taken out of the sum after the loop.
            even, odd = builder.add(even, found), builder.add(odd, builder.lshr(found, eight))
        return [even, odd]

    even, odd = emit.loop(body, [emit.splat(half, 0)] * 2)
    even = builder.sub(even, builder.shl(odd, eight))
    # Register byte 2 i is lane i of `even`; words of four: block j of four vectors, as sorted above.
    order = [0, 16, 4, 20, 8, 24, 12, 28]
    wide = ir.VectorType(_I32, 16)
    even, odd = builder.zext(even, wide), builder.zext(odd, wide)
    for j, vector in enumerate(order):
        emit.store(emit.shuffle(even, odd, [2 * j, 16 + 2 * j, 2 * j + 1, 17 + 2 * j]), vector)


def _sums(write: Any) -> Any:
    @intrinsic
    def sums(typingctx, codes, at, table, groups, out):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            write(_Emit(context, builder, signature, args))
            return context.get_dummy_value()

        return types.void(codes, types.intp, table, types.intp, out), codegen

    return sums


@njit(inline="always")
def _plain(codes, at, table, groups, out):  # type: ignore[no-untyped-def]
    out[:] = 0
    for g in range(groups):
        for v in range(16):
            for s in range(4):
                both = codes[at + GROUP * g + 4 * v + s]
                out[v] += table[GROUP * g + 16 * s + (both & 15)]
                out[16 + v] += table[GROUP * g + 16 * s + (both >> 4)]


PATHS: dict[str, Any] = {"plain": _plain}
if "avx2" in _features():
    PATHS["avx2"] = _sums(_avx2_sums)
if {"avx512vbmi", "avx512vnni", "avx512bw"} <= _features():
    PATHS["vbmi"] = _sums(_vbmi_sums)
FASTEST = list(PATHS)[-1]
block_sums = PATHS[FASTEST]
"""block_sums(codes, at, table, groups, out): the 32 sums of the block whose bytes begin at `at`, into 32 int32."""


def pack(parts: np.ndarray) -> np.ndarray:
    """Blocks (n / 32, groups, 64) of codes (n, m) with one part a byte; n and m must be filled up to 32 and 4."""
    n, m = parts.shape
    blocks = parts.reshape(n // BLOCK, 2, 16, m // 4, 4)
    both = blocks[:, 0] | (blocks[:, 1] << 4)
    return np.ascontiguousarray(both.transpose(0, 2, 1, 3)).reshape(n // BLOCK, m // 4, GROUP)


def unpack(blocks: np.ndarray) -> np.ndarray:
    """The codes (n, m) of `pack`, one part a byte."""
    count, groups, _ = blocks.shape
    both = blocks.reshape(count, groups, 16, 4).transpose(0, 2, 1, 3)
    parts = np.stack([both & 15, both >> 4], 1)
    return np.ascontiguousarray(parts.reshape(count * BLOCK, 4 * groups))
