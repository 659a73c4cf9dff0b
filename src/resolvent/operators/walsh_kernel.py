"""Numba kernels of the fast Walsh-Hadamard transform. Imported with the first transform on a CPU.

Data are (outer, n, inner) and lie in order. Levels of butterflies are grouped so that memory is passed over once per
group: the levels inside short contiguous blocks first, then groups of distant rows, a strip of columns at a time, in a
buffer that fits the second-level cache. Inside a group eight vectors meet in registers for three levels; for
inner = 1, 2 and 4 the lowest levels are shuffles inside a vector, six levels between a load and a store.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from resolvent.operators.csr import _Emit
from resolvent.operators.parallel import njit, prange

_VECTOR = 32  # bytes: eight vectors fit the registers of every machine with AVX2
_BLOCK = 1 << 15  # bytes of a contiguous block: about a first-level cache
_BUFFER = 1 << 18  # bytes of a strip of columns: a fraction of a second-level cache
_LINE = 64
# Elements that keep one core busy for longer than it takes to wake another.
_PER_THREAD = 1 << 15


class _Butterflies(_Emit):
    """Vectors in registers and the levels between them."""

    def __init__(self, context: Any, builder: Any, dtype: types.Type, vector: bool) -> None:
        width = _VECTOR // (4 if dtype == types.float32 else 8) if vector else 1
        super().__init__(context, builder, dtype, width)

    def spread(self, number: Any) -> Any:
        """A number in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.vector.count), [0] * self.vector.count)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def across(self, v: list[Any]) -> list[Any]:
        """All levels between the vectors of a list."""
        distance = 1
        while distance < len(v):
            pairs = [i for i in range(len(v)) if not i & distance]
            for i in pairs:
                a, b = v[i], v[i + distance]
                v[i], v[i + distance] = self.builder.fadd(a, b), self.builder.fsub(a, b)
            distance *= 2
        return v

    def within(self, v: Any, first: int) -> Any:
        """The levels inside one vector from distance `first` on."""
        count, distance = self.vector.count, first
        while distance < count:
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), count), [lane ^ distance for lane in range(count)])
            signs = ir.Constant(self.vector, [-1.0 if lane & distance else 1.0 for lane in range(count)])
            v = self.fma(v, signs, self.builder.shuffle_vector(v, v, lanes))
            distance *= 2
        return v


def _butterfly(radix: int, vector: bool, scaled: bool) -> Any:
    """dst[to + i hd] = scale * sum over j of (-1)^popcount(i & j) src[at + j hs], for a vector of columns."""

    @intrinsic
    def butterfly(typingctx, src, at, hs, dst, to, hd, scale):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            emit = _Butterflies(context, builder, src.dtype, vector)
            source, target = (emit.data(signature.args[n], args[n]) for n in (0, 3))
            steps = [ir.Constant(ir.IntType(64), i) for i in range(radix)]
            v = [emit.load(emit.address(source, builder.add(args[1], builder.mul(i, args[2])))) for i in steps]
            if scaled:
                factor = emit.spread(args[6])
                v = [builder.fmul(x, factor) for x in v]
            for i, x in zip(steps, emit.across(v), strict=True):
                emit.store(x, emit.address(target, builder.add(args[4], builder.mul(i, args[5]))))
            return context.get_dummy_value()

        n = types.intp
        return types.void(src, n, n, dst, n, n, src.dtype), codegen

    return butterfly


def _head(first: int) -> Any:
    """All levels from distance `first` on of eight vectors that lie one after the other."""

    @intrinsic
    def head(typingctx, src, at, dst, to, scale):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            emit = _Butterflies(context, builder, src.dtype, True)
            source, target = (emit.data(signature.args[n], args[n]) for n in (0, 2))
            steps = [ir.Constant(ir.IntType(64), i * emit.vector.count) for i in range(8)]
            factor = emit.spread(args[4])
            v = [builder.fmul(emit.load(emit.address(source, builder.add(args[1], i))), factor) for i in steps]
            v = emit.across([emit.within(x, first) for x in v])
            for i, x in zip(steps, v, strict=True):
                emit.store(x, emit.address(target, builder.add(args[3], i)))
            return context.get_dummy_value()

        n = types.intp
        return types.void(src, n, dst, n, src.dtype), codegen

    return head


_head1, _head2, _head4 = (_head(first) for first in (1, 2, 4))
_plain8, _plain4, _plain2 = (_butterfly(radix, True, False) for radix in (8, 4, 2))
_scaled8, _scaled4, _scaled2 = (_butterfly(radix, True, True) for radix in (8, 4, 2))
_single8, _single4, _single2 = (_butterfly(radix, False, True) for radix in (8, 4, 2))


@njit(cache=True, nogil=True)
def _stage(radix, src, s0, ss, dst, d0, ds, rows, apart, width, scale):  # type: ignore[no-untyped-def]
    """log2(radix) levels between rows that are `apart` rows from each other, row r at s0 + r ss and d0 + r ds."""
    vector = _VECTOR // src.itemsize
    hs, hd = apart * ss, apart * ds
    one = src.dtype.type(1)
    full = width - width % vector
    for b in range(0, rows, radix * apart):
        for r in range(b, b + apart):
            s, d = s0 + r * ss, d0 + r * ds
            if radix == 8:
                if scale == one:
                    for j in range(0, full, vector):
                        _plain8(src, s + j, hs, dst, d + j, hd, scale)
                else:
                    for j in range(0, full, vector):
                        _scaled8(src, s + j, hs, dst, d + j, hd, scale)
                for j in range(full, width):
                    _single8(src, s + j, hs, dst, d + j, hd, scale)
            elif radix == 4:
                if scale == one:
                    for j in range(0, full, vector):
                        _plain4(src, s + j, hs, dst, d + j, hd, scale)
                else:
                    for j in range(0, full, vector):
                        _scaled4(src, s + j, hs, dst, d + j, hd, scale)
                for j in range(full, width):
                    _single4(src, s + j, hs, dst, d + j, hd, scale)
            else:
                if scale == one:
                    for j in range(0, full, vector):
                        _plain2(src, s + j, hs, dst, d + j, hd, scale)
                else:
                    for j in range(0, full, vector):
                        _scaled2(src, s + j, hs, dst, d + j, hd, scale)
                for j in range(full, width):
                    _single2(src, s + j, hs, dst, d + j, hd, scale)


@njit(cache=True, nogil=True)
def _radix(factor):  # type: ignore[no-untyped-def]
    """Of a power of two that is left to do: 8 as long as that leaves no single level for the end."""
    return 8 if factor == 8 or factor >= 32 else (2 if factor == 2 else 4)


@njit(cache=True, nogil=True)
def _contiguous(src, dst, at, count, h, scale):  # type: ignore[no-untyped-def]
    """All levels from distance h on inside dst[at : at + count], read from src."""
    one = src.dtype.type(1)
    vector = _VECTOR // src.itemsize
    source = src
    if h < vector and (h & (h - 1)) == 0 and count >= 8 * vector:
        for b in range(at, at + count, 8 * vector):
            if h == 1:
                _head1(src, b, dst, b, scale)
            elif h == 2:
                _head2(src, b, dst, b, scale)
            else:
                _head4(src, b, dst, b, scale)
        h, scale, source = 8 * vector, one, dst
    while h < count:
        radix = _radix(count // h)
        _stage(radix, source, at, h, dst, at, h, count // h, 1, h, scale)
        h, scale, source = radix * h, one, dst


@njit(cache=True, nogil=True)
def _strip(src, dst, at, stride, rows, width, scale, buffer):  # type: ignore[no-untyped-def]
    """All levels between `rows` rows, `stride` from each other, of a strip of `width` columns."""
    one = src.dtype.type(1)
    if rows <= 8:
        _stage(rows, src, at, stride, dst, at, stride, rows, 1, width, scale)
        return
    apart = _radix(rows)
    _stage(apart, src, at, stride, buffer, 0, width, rows, 1, width, scale)
    while rows // apart > 8:
        radix = _radix(rows // apart)
        _stage(radix, buffer, 0, width, buffer, 0, width, rows, apart, width, one)
        apart *= radix
    _stage(rows // apart, buffer, 0, width, dst, at, stride, rows, apart, width, one)


@njit(cache=True, nogil=True)
def _blocks(first, last, src, dst, count, h, scale):  # type: ignore[no-untyped-def]
    for b in range(first, last):
        _contiguous(src, dst, b * count, count, h, scale)


@njit(cache=True, nogil=True, parallel=True)
def _blocks_shared(bounds, src, dst, count, h, scale):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        _blocks(bounds[t], bounds[t + 1], src, dst, count, h, scale)


@njit(cache=True, nogil=True)
def _strips(first, last, src, dst, rows, stride, width, scale, buffer):  # type: ignore[no-untyped-def]
    across = -(-stride // width)
    for b in range(first, last):
        column = b % across * width
        at = b // across * rows * stride + column
        _strip(src, dst, at, stride, rows, min(width, stride - column), scale, buffer)


@njit(cache=True, nogil=True, parallel=True)
def _strips_shared(bounds, src, dst, rows, stride, width, scale, buffers):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        _strips(bounds[t], bounds[t + 1], src, dst, rows, stride, width, scale, buffers[t])


def transform(src: np.ndarray, dst: np.ndarray, n: int, inner: int, scale: float) -> None:
    """The transforms along the middle of (outer, n, inner), from one flat array of real numbers to another or itself.

    n is a power of two of at least 2.
    """
    from resolvent.operators.parallel import numba

    size, factor = src.size, src.dtype.type(scale)
    threads = max(1, min(numba.get_num_threads(), size // _PER_THREAD))
    done, levels = 1, n.bit_length() - 1
    while done < n and 2 * done * inner * src.itemsize <= _BLOCK:
        done *= 2
    if done > 1:
        count, whole = size // (done * inner), (src, dst, done * inner, inner, factor)
        if threads == 1:
            _blocks(0, count, *whole)
        else:
            _blocks_shared(_bounds(count, threads), *whole)
        levels -= done.bit_length() - 1
    # Equal groups: the rows of a group with fewer levels are wider, so that memory is read in longer pieces.
    groups = -(-levels // ((_BUFFER // _LINE).bit_length() - 1))
    for group in range(groups, 0, -1):
        bits = -(-levels // group)
        levels -= bits
        rows, stride = 1 << bits, done * inner
        width = min(stride, _BUFFER // src.itemsize // rows)
        source, used = (dst, src.dtype.type(1)) if done > 1 else (src, factor)
        buffers = np.empty((threads, rows * width), src.dtype)
        count = size // (rows * stride) * -(-stride // width)
        rest = (source, dst, rows, stride, width, used)
        if threads == 1:
            _strips(0, count, *rest, buffers[0])
        else:
            _strips_shared(_bounds(count, threads), *rest, buffers)
        done *= rows


def _bounds(count: int, threads: int) -> np.ndarray:
    return np.linspace(0, count, threads + 1).astype(np.int64)


__all__ = ["transform"]
