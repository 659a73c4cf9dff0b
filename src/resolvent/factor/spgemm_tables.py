"""One row of a product of two sparse matrices, gathered in a table: one place per column, or a hash table.

Inlined into the kernels that go through the rows, `spgemm_kernel`. Every function returns where the next row begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# The multiplier of Fibonacci hashing: neighbouring columns land far apart.
GOLDEN = np.uint32(2654435769)
EMPTY = np.uint32(0xFFFFFFFF)
ZERO, ONE, _SIX, _LOW = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)
# How many rows of B ahead: about what memory needs to answer.
AHEAD, FOUR = np.uint64(6), np.uint64(4)
_TWELVE, _NONE = np.uint64(12), np.uint64(0xFFFFFFFFFFFFFFFF)


def _trailing_zeros_code(typingctx, word):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


def _fetch_code(typingctx, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an address before it is needed."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(prefetch, [builder.inttoptr(args[0], byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.uint64), codegen


trailing_zeros: Any = intrinsic(_trailing_zeros_code)
fetch: Any = intrinsic(_fetch_code)


@njit(inline="always")
def address(array):  # type: ignore[no-untyped-def]
    return np.uint64(array.ctypes.data)


@njit(inline="always")
def table_bits(size):  # type: ignore[no-untyped-def]
    """Bits of a hash table for `size` entries, at most half full."""
    bits = 3
    while (1 << bits) < 2 * size:
        bits += 1
    return bits


@njit(cache=True, nogil=True)
def _sort(found, spare, size, bits):  # type: ignore[no-untyped-def]
    """Sort found[:size] by the `bits` bits above the 32nd, digit by digit."""
    passes = (bits + 7) // 8
    width = (bits + passes - 1) // passes
    low = np.uint64((1 << width) - 1)
    begin = np.empty(256, np.int64)
    source, target = found, spare
    for p in range(passes):
        down = np.uint64(32 + p * width)
        begin[:] = 0
        for e in range(size):
            begin[(source[e] >> down) & low] += 1
        total = 0
        for d in range(1 << width):
            here = begin[d]
            begin[d] = total
            total += here
        for e in range(size):
            d = (source[e] >> down) & low
            target[begin[d]] = source[e]
            begin[d] += 1
        source, target = target, source
    if passes % 2 == 1:
        found[:size] = spare[:size]


@njit(inline="always")
def span_of(a_start, a_stop, a_idx, b_ptr, b_idx):  # type: ignore[no-untyped-def]
    """The first and the last column of a row of the product; the first is larger if the row is empty."""
    low, high = _NONE, ZERO
    for p in range(a_start, a_stop):
        k = np.uint64(a_idx[p])
        start, stop = np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])
        if stop > start:
            low, high = min(low, np.uint64(b_idx[start])), max(high, np.uint64(b_idx[stop - ONE]))
    return low, high


@njit(inline="always")
def sum_word(a_start, a_stop, low, a_idx, a_val, b_ptr, b_idx, b_val, sums, at, c_idx, c_val):  # type: ignore[no-untyped-def]
    """A row whose columns are less than 64 apart: one word of bits, in a register."""
    taken = ZERO
    for p in range(a_start, a_stop):
        k, a = np.uint64(a_idx[p]), a_val[p]
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
            j = np.uint64(b_idx[q]) - low
            sums[j] += a * b_val[q]
            taken |= ONE << (j & _LOW)
    while taken != ZERO:
        j = trailing_zeros(taken)
        taken &= taken - ONE
        c_idx[at] = low + j
        c_val[at] = sums[j]
        sums[j] = 0
        at += ONE
    return at


@njit(inline="always")
def sum_near(a_start, a_stop, low, high, a_idx, a_val, b_ptr, b_idx, b_val, bits, sums, at, c_idx, c_val):  # type: ignore[no-untyped-def]
    """A row with few words of bits between its first and its last column: all of them are looked at."""
    for p in range(a_start, a_stop):
        k, a = np.uint64(a_idx[p]), a_val[p]
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
            j = np.uint64(b_idx[q])
            sums[j] += a * b_val[q]
            bits[j >> _SIX] |= ONE << (j & _LOW)
    for w in range(low >> _SIX, (high >> _SIX) + ONE):
        taken = bits[w]
        if taken != ZERO:
            bits[w] = ZERO
            base = w << _SIX
            while taken != ZERO:
                j = base | trailing_zeros(taken)
                taken &= taken - ONE
                c_idx[at] = j
                c_val[at] = sums[j]
                sums[j] = 0
                at += ONE
    return at


@njit(inline="always")
def sum_dense(
    a_start, a_stop, a_ahead, b_at, v_at, low, high, a_idx, a_val, b_ptr, b_idx, b_val, bits, top, sums, at, c_idx,
    c_val,
):  # type: ignore[no-untyped-def]  # fmt: skip
    for p in range(a_start, a_stop):
        if p < a_ahead:
            there = np.uint64(b_ptr[a_idx[p + AHEAD]])
            fetch(b_at + FOUR * there)
            fetch(v_at + np.uint64(b_val.itemsize) * there)
        k, a = np.uint64(a_idx[p]), a_val[p]
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
            j = np.uint64(b_idx[q])
            w = j >> _SIX
            sums[j] += a * b_val[q]
            taken = bits[w]
            if taken == ZERO:
                top[w >> _SIX] |= ONE << (w & _LOW)
            bits[w] = taken | (ONE << (j & _LOW))
    for t in range(low >> _TWELVE, (high >> _TWELVE) + ONE):
        above = top[t]
        top[t] = ZERO
        while above != ZERO:
            w = (t << _SIX) | trailing_zeros(above)
            above &= above - ONE
            taken = bits[w]
            bits[w] = ZERO
            while taken != ZERO:
                j = (w << _SIX) | trailing_zeros(taken)
                taken &= taken - ONE
                c_idx[at] = j
                c_val[at] = sums[j]
                sums[j] = 0
                at += ONE
    return at


@njit(inline="always")
def sum_full(a_start, a_stop, a_idx, a_val, b_ptr, b_idx, b_val, n, sums, at, c_idx, c_val):  # type: ignore[no-untyped-def]
    for p in range(a_start, a_stop):
        k, a = np.uint64(a_idx[p]), a_val[p]
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
            sums[b_idx[q]] += a * b_val[q]
    for j in range(np.uint64(n)):
        c_idx[at + j] = j
        c_val[at + j] = sums[j]
        sums[j] = 0
    return at + np.uint64(n)


@njit(inline="always")
def sum_hash(
    a_start,
    a_stop,
    a_ahead,
    b_at,
    v_at,
    a_idx,
    a_val,
    b_ptr,
    b_idx,
    b_val,
    size,
    bits,
    keys,
    totals,
    found,
    spare,
    at,
    c_idx,
    c_val,
):  # type: ignore[no-untyped-def]
    table = table_bits(size)
    shift, wrap = np.uint32(32 - table), np.uint32((1 << table) - 1)
    keys[: 1 << table] = EMPTY
    count = 0
    for p in range(a_start, a_stop):
        if p < a_ahead:
            there = np.uint64(b_ptr[a_idx[p + AHEAD]])
            fetch(b_at + FOUR * there)
            fetch(v_at + np.uint64(b_val.itemsize) * there)
        k, a = np.uint64(a_idx[p]), a_val[p]
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
            j = b_idx[q]
            h = np.uint32(np.uint32(j * GOLDEN) >> shift)
            while True:
                if keys[h] == j:
                    totals[h] += a * b_val[q]
                    break
                if keys[h] == EMPTY:
                    keys[h] = j
                    totals[h] = a * b_val[q]
                    found[count] = (np.uint64(j) << np.uint64(32)) | np.uint64(h)
                    count += 1
                    break
                h = np.uint32(h + np.uint32(1)) & wrap
    if count > 32:
        _sort(found, spare, count, bits)
    else:
        for e in range(1, count):
            entry = found[e]
            place = e
            while place > 0 and found[place - 1] > entry:
                found[place] = found[place - 1]
                place -= 1
            found[place] = entry
    for e in range(count):
        c_idx[at] = np.uint32(found[e] >> np.uint64(32))
        c_val[at] = totals[np.uint32(found[e])]
        at += ONE
    return at


@njit(inline="always")
def copy_row(a_at, a_idx, a_val, b_ptr, b_idx, b_val, at, c_idx, c_val):  # type: ignore[no-untyped-def]
    k, a = np.uint64(a_idx[a_at]), a_val[a_at]
    for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
        c_idx[at] = b_idx[q]
        c_val[at] = a * b_val[q]
        at += ONE
    return at
