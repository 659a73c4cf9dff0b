"""Numba kernels for products of two sparse matrices in compressed rows, row by row. Imported with the first product.

Row i of A B is the sum of the rows of B that row i of A names (Gustavson). It is gathered in one of two tables: one
place per column with a bit that says which are taken ("dense"), or a hash table with linear probing whose size is the
next power of two above twice the number of entries ("hash"). The taken columns are read in order from the bits,
without sorting: all bits between the first and the last column where these are few, else by a second level, a bit per
word of bits. Every kernel works on windows, ranges of consecutive rows; which thread takes which comes from `spgemm`.
Indices are unsigned: a signed one costs a test for negative (wrap-around) values per entry.
"""

from __future__ import annotations

import numpy as np

from resolvent.factor.spgemm_tables import (
    AHEAD,
    EMPTY,
    FOUR,
    GOLDEN,
    ONE,
    ZERO,
    address,
    copy_row,
    fetch,
    span_of,
    sum_dense,
    sum_full,
    sum_hash,
    sum_near,
    sum_word,
    table_bits,
)
from resolvent.operators.parallel import njit, prange

# Words of bits between two columns that are cheaper to look through than to mark, and as many per product.
_FEW_WORDS, _WORDS_PER_PRODUCT = 64, 2


@njit(cache=True, nogil=True)
def flops_per_row(a_ptr, a_idx, b_ptr):  # type: ignore[no-untyped-def]
    """How many products of two entries each row of A B adds up."""
    flops = np.empty(a_ptr.size - 1, np.int64)
    for i in range(a_ptr.size - 1):
        total = np.int64(0)
        for p in range(np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1])):
            k = a_idx[p]
            total += np.int64(b_ptr[np.uint64(k) + ONE]) - np.int64(b_ptr[k])
        flops[i] = total
    return flops


@njit(inline="always")
def _count_dense(a_start, a_stop, a_ahead, b_at, a_idx, b_ptr, b_idx, marks, mark):  # type: ignore[no-untyped-def]
    count = 0
    for p in range(a_start, a_stop):
        if p < a_ahead:
            fetch(b_at + FOUR * np.uint64(b_ptr[a_idx[p + AHEAD]]))
        k = np.uint64(a_idx[p])
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
            j = b_idx[q]
            count += marks[j] != mark
            marks[j] = mark
    return count


@njit(inline="always")
def _count_hash(a_start, a_stop, a_ahead, b_at, a_idx, b_ptr, b_idx, table, keys):  # type: ignore[no-untyped-def]
    shift, wrap = np.uint32(32 - table), np.uint32((1 << table) - 1)
    keys[: 1 << table] = EMPTY
    count = 0
    for p in range(a_start, a_stop):
        if p < a_ahead:
            fetch(b_at + FOUR * np.uint64(b_ptr[a_idx[p + AHEAD]]))
        k = np.uint64(a_idx[p])
        for q in range(np.uint64(b_ptr[k]), np.uint64(b_ptr[k + ONE])):
            j = b_idx[q]
            h = np.uint32(np.uint32(j * GOLDEN) >> shift)
            while keys[h] != j:
                if keys[h] == EMPTY:
                    keys[h] = j
                    count += 1
                    break
                h = np.uint32(h + np.uint32(1)) & wrap
    return count


@njit(cache=True, nogil=True)
def count_rows(mine, first, last, a_ptr, a_idx, b_ptr, b_idx, n, flops, dense_from, span, counts):  # type: ignore[no-untyped-def]
    hashed = np.int64(0)
    for w in mine:
        for i in range(first[w], last[w]):
            if flops[i] < dense_from:
                hashed = max(hashed, min(flops[i], n))
    keys = np.empty(1 << table_bits(hashed), np.uint32)
    marks, mark = np.zeros(n if dense_from <= n or span > 0 else 0, np.uint16), np.uint16(0)
    ahead, b_at = np.uint64(max(a_idx.size - 6, 0)), address(b_idx)
    for w in mine:
        for i in range(first[w], last[w]):
            s, e = np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1])
            if flops[i] == 0 or e == s + ONE:
                # One row of B alone: nothing can meet.
                counts[i] = flops[i]
                continue
            by_place = flops[i] >= dense_from
            if not by_place:
                low, high = span_of(s, e, a_idx, b_ptr, b_idx)
                by_place = np.int64(high - low) < span
            if by_place:
                mark = np.uint16(mark + np.uint16(1))
                if mark == 0:
                    marks[:] = 0
                    mark = np.uint16(1)
                counts[i] = _count_dense(s, e, ahead, b_at, a_idx, b_ptr, b_idx, marks, mark)
            else:
                counts[i] = _count_hash(s, e, ahead, b_at, a_idx, b_ptr, b_idx, table_bits(min(flops[i], n)), keys)


@njit(cache=True, nogil=True, parallel=True)
def count_entries(parts, order, first, last, a_ptr, a_idx, b_ptr, b_idx, n, flops, dense_from, span, counts):  # type: ignore[no-untyped-def]
    """Symbolic phase: how many entries each row has. Thread t takes the windows order[parts[t] : parts[t + 1]]."""
    for t in prange(parts.size - 1):
        mine = order[parts[t] : parts[t + 1]]
        count_rows(mine, first, last, a_ptr, a_idx, b_ptr, b_idx, n, flops, dense_from, span, counts)


@njit(cache=True, nogil=True)
def fill_rows(
    mine, first, last, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, flops, dense_from, span, known, c_ptr, c_idx,
    c_val, rows,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Rows of the product, sorted: at their places c_ptr if these are `known`, else one after another, and c_ptr too.

    A row is gathered with one place per column if it has at least `dense_from` products or its columns lie within
    `span`. `rows` receives how many were hashed and how many not.
    """
    hashed = np.int64(0)
    for w in mine:
        for i in range(first[w], last[w]):
            if flops[i] < dense_from:
                size = np.int64(c_ptr[i + 1]) - np.int64(c_ptr[i]) if known else min(flops[i], n)
                hashed = max(hashed, size)
    width = 1
    while (1 << width) < n:
        width += 1
    keys, totals = np.empty(1 << table_bits(hashed), np.uint32), np.empty(1 << table_bits(hashed), c_val.dtype)
    found, spare = np.empty(hashed, np.uint64), np.empty(hashed, np.uint64)
    words = (n + 63) // 64 if dense_from <= n or span > 0 else 0
    bits, top = np.zeros(words, np.uint64), np.zeros((words + 63) // 64, np.uint64)
    sums = np.zeros(64 * words, c_val.dtype)
    few = np.zeros(64, c_val.dtype)
    ahead, b_at, v_at = np.uint64(max(a_idx.size - 6, 0)), address(b_idx), address(b_val)
    at, by_hash, by_place = ZERO, 0, 0
    for w in mine:
        for i in range(first[w], last[w]):
            s, e = np.uint64(a_ptr[i]), np.uint64(a_ptr[i + 1])
            if known:
                at = np.uint64(c_ptr[i])
            if flops[i] == 0:
                pass
            elif e == s + ONE:
                at = copy_row(s, a_idx, a_val, b_ptr, b_idx, b_val, at, c_idx, c_val)
            elif known and dense_from <= n and np.int64(c_ptr[i + 1]) - np.int64(c_ptr[i]) == n:
                at = sum_full(s, e, a_idx, a_val, b_ptr, b_idx, b_val, n, sums, at, c_idx, c_val)
                by_place += 1
            else:
                low, high = span_of(s, e, a_idx, b_ptr, b_idx)
                apart = np.int64(high - low)
                if flops[i] < dense_from and apart >= span:
                    size = np.int64(c_ptr[i + 1]) - np.int64(c_ptr[i]) if known else min(flops[i], n)
                    at = sum_hash(
                        s, e, ahead, b_at, v_at, a_idx, a_val, b_ptr, b_idx, b_val, size, width, keys, totals, found, spare, at, c_idx, c_val
                    )  # fmt: skip
                    by_hash += 1
                else:
                    by_place += 1
                    if apart < 64:
                        at = sum_word(s, e, low, a_idx, a_val, b_ptr, b_idx, b_val, few, at, c_idx, c_val)
                    elif apart < max(_FEW_WORDS, _WORDS_PER_PRODUCT * flops[i]) * 64:
                        at = sum_near(s, e, low, high, a_idx, a_val, b_ptr, b_idx, b_val, bits, sums, at, c_idx, c_val)
                    else:
                        at = sum_dense(
                            s, e, ahead, b_at, v_at, low, high, a_idx, a_val, b_ptr, b_idx, b_val, bits, top, sums, at, c_idx, c_val
                        )  # fmt: skip
            if not known:
                c_ptr[i + 1] = at
    rows[0], rows[1] = by_hash, by_place


@njit(cache=True, nogil=True, parallel=True)
def fill_entries(
    parts, order, first, last, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, flops, dense_from, span, known, c_ptr,
    c_idx, c_val, rows,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Numeric phase: columns, sorted, and values of every row, at the places that the symbolic phase found."""
    for t in prange(parts.size - 1):
        mine = order[parts[t] : parts[t + 1]]
        fill_rows(
            mine, first, last, a_ptr, a_idx, a_val, b_ptr, b_idx, b_val, n, flops, dense_from, span, known, c_ptr,
            c_idx, c_val, rows[t],
        )  # fmt: skip
