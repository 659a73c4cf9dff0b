"""Numba kernels for products of two sparse matrices in compressed rows, row by row. Imported with the first product.

Row i of A B is the sum of the rows of B that row i of A names (Gustavson). It is gathered in one of two tables: one
place per column with a bit that says which are taken ("dense"), or a hash table with linear probing whose size is the
next power of two above twice the number of entries ("hash"). The bits have a second level, a bit per word of bits, so
that the taken columns are read in order without sorting. Every kernel works on windows, ranges of consecutive rows;
which thread takes which comes from `spgemm`. Indices are unsigned: a signed one costs a test for negative (wrap-around)
values per entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

# The multiplier of Fibonacci hashing: neighbouring columns land far apart.
_GOLDEN = np.uint32(2654435769)
_EMPTY = np.uint32(0xFFFFFFFF)
_ZERO, _ONE, _SIX, _LOW = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)
# How many rows of B ahead: about what memory needs to answer.
_AHEAD, _FOUR = np.uint64(6), np.uint64(4)
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


_trailing_zeros: Any = intrinsic(_trailing_zeros_code)
_fetch: Any = intrinsic(_fetch_code)


@njit(inline="always")
def _address(array):  # type: ignore[no-untyped-def]
    return np.uint64(array.ctypes.data)


@njit(cache=True, nogil=True)
def flops_per_row(a_ptr, a_idx, b_ptr):  # type: ignore[no-untyped-def]
    """How many products of two entries each row of A B adds up."""
    flops = np.empty(a_ptr.size - 1, np.int64)
    for i in range(a_ptr.size - 1):
        total = np.int64(0)
        for p in range(np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1])):
            k = a_idx[p]
            total += np.int64(b_ptr[np.uint64(k) + _ONE]) - np.int64(b_ptr[k])
        flops[i] = total
    return flops


@njit(inline="always")
def _table_bits(size):  # type: ignore[no-untyped-def]
    """Bits of a hash table for `size` entries, at most half full."""
    bits = 3
    while (1 << bits) < 2 * size:
        bits += 1
    return bits


@njit(inline="always")
def _count_dense(a_start, a_stop, a_ahead, b_at, a_idx, b_ptr, b_idx, marks, mark):  # type: ignore[no-untyped-def]
    count = 0
    for p in range(a_start, a_stop):
        if p < a_ahead:
            _fetch(b_at + _FOUR * np.uint64(b_ptr[a_idx[p + _AHEAD]]))
        k = np.uint64(a_idx[p])
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + _ONE])):
            j = b_idx[q]
            count += marks[j] != mark
            marks[j] = mark
    return count


@njit(inline="always")
def _count_hash(a_start, a_stop, a_ahead, b_at, a_idx, b_ptr, b_idx, table, keys):  # type: ignore[no-untyped-def]
    shift, wrap = np.uint32(32 - table), np.uint32((1 << table) - 1)
    keys[: 1 << table] = _EMPTY
    count = 0
    for p in range(a_start, a_stop):
        if p < a_ahead:
            _fetch(b_at + _FOUR * np.uint64(b_ptr[a_idx[p + _AHEAD]]))
        k = np.uint64(a_idx[p])
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + _ONE])):
            j = b_idx[q]
            h = np.uint32(np.uint32(j * _GOLDEN) >> shift)
            while keys[h] != j:
                if keys[h] == _EMPTY:
                    keys[h] = j
                    count += 1
                    break
                h = np.uint32(h + np.uint32(1)) & wrap
    return count


@njit(cache=True, nogil=True)
def count_rows(mine, first, last, a_ptr, a_idx, b_ptr, b_idx, n, flops, dense_from, counts):  # type: ignore[no-untyped-def]
    hashed, dense = np.int64(0), False
    for w in mine:
        for i in range(first[w], last[w]):
            if flops[i] >= dense_from:
                dense = True
            else:
                hashed = max(hashed, min(flops[i], n))
    keys = np.empty(1 << _table_bits(hashed), np.uint32)
    marks, mark = np.zeros(n if dense else 0, np.uint16), np.uint16(0)
    ahead, b_at = np.uint64(max(a_idx.size - 6, 0)), _address(b_idx)
    for w in mine:
        for i in range(first[w], last[w]):
            s, e = np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1])
            if flops[i] == 0 or e == s + _ONE:
                # One row of B alone: nothing can meet.
                counts[i] = flops[i]
            elif flops[i] >= dense_from:
                mark = np.uint16(mark + np.uint16(1))
                if mark == 0:
                    marks[:] = 0
                    mark = np.uint16(1)
                counts[i] = _count_dense(s, e, ahead, b_at, a_idx, b_ptr, b_idx, marks, mark)
            else:
                counts[i] = _count_hash(s, e, ahead, b_at, a_idx, b_ptr, b_idx, _table_bits(min(flops[i], n)), keys)


@njit(cache=True, nogil=True, parallel=True)
def count_entries(parts, order, first, last, a_ptr, a_idx, b_ptr, b_idx, n, flops, dense_from, counts):  # type: ignore[no-untyped-def]
    """Symbolic phase: how many entries each row has. Thread t takes the windows order[parts[t] : parts[t + 1]]."""
    for t in prange(parts.size - 1):
        mine = order[parts[t] : parts[t + 1]]
        count_rows(mine, first, last, a_ptr, a_idx, b_ptr, b_idx, n, flops, dense_from, counts)


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
def _sum_dense(
    a_start, a_stop, a_ahead, b_at, v_at, a_idx, a_val, b_ptr, b_idx, b_val, bits, top, sums, at, c_idx, c_val
):  # type: ignore[no-untyped-def]
    low, high = _NONE, _ZERO
    for p in range(a_start, a_stop):
        if p < a_ahead:
            there = np.uint64(b_ptr[a_idx[p + _AHEAD]])
            _fetch(b_at + _FOUR * there)
            _fetch(v_at + np.uint64(b_val.itemsize) * there)
        k, a = np.uint64(a_idx[p]), a_val[p]
        start, stop = np.uint64(b_ptr[k]), np.uint64(b_ptr[k + _ONE])
        if stop > start:
            low, high = min(low, np.uint64(b_idx[start])), max(high, np.uint64(b_idx[stop - _ONE]))
        for q in range(start, stop):
            j = np.uint64(b_idx[q])
            w = j >> _SIX
            sums[j] += a * b_val[q]
            taken = bits[w]
            if taken == _ZERO:
                top[w >> _SIX] |= _ONE << (w & _LOW)
            bits[w] = taken | (_ONE << (j & _LOW))
    for t in range(low >> _TWELVE, (high >> _TWELVE) + _ONE):
        above = top[t]
        top[t] = _ZERO
        while above != _ZERO:
            w = (t << _SIX) | _trailing_zeros(above)
            above &= above - _ONE
            taken = bits[w]
            bits[w] = _ZERO
            while taken != _ZERO:
                j = (w << _SIX) | _trailing_zeros(taken)
                taken &= taken - _ONE
                c_idx[at] = j
                c_val[at] = sums[j]
                sums[j] = 0
                at += _ONE


@njit(inline="always")
def _sum_full(a_start, a_stop, a_idx, a_val, b_ptr, b_idx, b_val, n, sums, at, c_idx, c_val):  # type: ignore[no-untyped-def]
    for p in range(a_start, a_stop):
        k, a = np.uint64(a_idx[p]), a_val[p]
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + _ONE])):
            sums[b_idx[q]] += a * b_val[q]
    for j in range(np.uint64(n)):
        c_idx[at + j] = j
        c_val[at + j] = sums[j]
        sums[j] = 0


@njit(inline="always")
def _sum_hash(
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
    table = _table_bits(size)
    shift, wrap = np.uint32(32 - table), np.uint32((1 << table) - 1)
    keys[: 1 << table] = _EMPTY
    count = 0
    for p in range(a_start, a_stop):
        if p < a_ahead:
            there = np.uint64(b_ptr[a_idx[p + _AHEAD]])
            _fetch(b_at + _FOUR * there)
            _fetch(v_at + np.uint64(b_val.itemsize) * there)
        k, a = np.uint64(a_idx[p]), a_val[p]
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + _ONE])):
            j = b_idx[q]
            h = np.uint32(np.uint32(j * _GOLDEN) >> shift)
            while True:
                if keys[h] == j:
                    totals[h] += a * b_val[q]
                    break
                if keys[h] == _EMPTY:
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
        at += _ONE


@njit(inline="always")
def _copy_row(a_at, a_idx, a_val, b_ptr, b_idx, b_val, at, c_idx, c_val):  # type: ignore[no-untyped-def]
    k, a = np.uint64(a_idx[a_at]), a_val[a_at]
    for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + _ONE])):
        c_idx[at] = b_idx[q]
        c_val[at] = a * b_val[q]
        at += _ONE


@njit(cache=True, nogil=True)
def fill_rows(mine, first, last, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, flops, dense_from, c_ptr, c_idx, c_val):  # type: ignore[no-untyped-def]
    hashed, dense = np.int64(0), False
    for w in mine:
        for i in range(first[w], last[w]):
            if flops[i] >= dense_from:
                dense = True
            else:
                hashed = max(hashed, np.int64(c_ptr[i + 1]) - np.int64(c_ptr[i]))
    width = 1
    while (1 << width) < n:
        width += 1
    keys, totals = np.empty(1 << _table_bits(hashed), np.uint32), np.empty(1 << _table_bits(hashed), c_val.dtype)
    found, spare = np.empty(hashed, np.uint64), np.empty(hashed, np.uint64)
    words = (n + 63) // 64 if dense else 0
    bits, top = np.zeros(words, np.uint64), np.zeros((words + 63) // 64, np.uint64)
    sums = np.zeros(n if dense else 0, c_val.dtype)
    ahead, b_at, v_at = np.uint64(max(a_idx.size - 6, 0)), _address(b_idx), _address(b_val)
    for w in mine:
        for i in range(first[w], last[w]):
            s, e, at = np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1]), np.uint64(c_ptr[i])
            size = np.int64(c_ptr[i + 1]) - np.int64(c_ptr[i])
            if size == 0:
                continue
            if e == s + _ONE:
                _copy_row(s, a_idx, a_val, b_ptr, b_idx, b_val, at, c_idx, c_val)
            elif flops[i] < dense_from:
                _sum_hash(
                    s, e, ahead, b_at, v_at, a_idx, a_val, b_ptr, b_idx, b_val, size, width, keys, totals, found, spare, at, c_idx, c_val
                )  # fmt: skip
            elif size == n:
                _sum_full(s, e, a_idx, a_val, b_ptr, b_idx, b_val, n, sums, at, c_idx, c_val)
            else:
                _sum_dense(
                    s, e, ahead, b_at, v_at, a_idx, a_val, b_ptr, b_idx, b_val, bits, top, sums, at, c_idx, c_val
                )


@njit(cache=True, nogil=True, parallel=True)
def fill_entries(
    parts, order, first, last, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, flops, dense_from, c_ptr, c_idx,
    c_val,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Numeric phase: columns, sorted, and values of every row, at the places that the symbolic phase found."""
    for t in prange(parts.size - 1):
        mine = order[parts[t] : parts[t + 1]]
        fill_rows(
            mine, first, last, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, flops, dense_from, c_ptr, c_idx,
            c_val,
        )  # fmt: skip
