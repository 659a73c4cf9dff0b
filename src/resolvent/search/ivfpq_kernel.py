"""Numba kernels that search inverted lists: which lists, their codes against a running threshold, exact scores of the best.

Candidates go into a reservoir (`reservoir_kernel`). A block of 32 scores is compared with its threshold at once; mostly
no bit of the mask is set and the block is done.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.factor.spgemm_tables import trailing_zeros
from resolvent.search.kernel import FAST, distance, dot, heap_offer, heap_sort_worst, prefetch_bytes
from resolvent.search.product_kernel import byte_scores, inner_tables, round_tables
from resolvent.search.reservoir_kernel import above, shrink
from resolvent.search.shuffle_kernel import block_sums

_LINE = 64


@njit(cache=True, nogil=True)
def best_columns(scores, want, keys, values):  # type: ignore[no-untyped-def]
    """The `want` largest of one row of scores to the front of the reservoir (keys, values), the best of them first."""
    n, room = scores.shape[0], keys.shape[0] - 32
    count, threshold = 0, np.float32(-np.inf)
    for first in range(0, n, 32):
        if first + 32 <= n:
            mask = above(scores, first, threshold)
            while mask:
                j = first + np.int64(trailing_zeros(mask))
                mask &= mask - np.uint64(1)
                keys[count], values[count] = scores[j], j
                count += 1
        else:
            for j in range(first, n):
                if scores[j] > threshold:
                    keys[count], values[count] = scores[j], j
                    count += 1
        if count > room:
            count, threshold = shrink(keys, values, count, want, want + want // 2)
    if count > want:
        count, _ = shrink(keys, values, count, want, want)
    # The list of the best centre gives the best threshold; the order of the others matters little.
    best = 0
    for i in range(1, count):
        best = i if keys[i] > keys[best] else best
    keys[0], keys[best] = keys[best], keys[0]
    values[0], values[best] = values[best], values[0]


@njit(cache=True, nogil=True)
def best_lists(scores, lists, bias, begin, end):  # type: ignore[no-untyped-def]
    """The best columns of each row of scores (b, n) into `lists`, `bias` (b, p), the best of them first."""
    want = lists.shape[1]
    room = 2 * want + 96
    keys, values = np.empty(room, np.float32), np.empty(room, np.int64)
    for i in range(begin, end):
        best_columns(scores[i], want, keys, values)
        lists[i], bias[i] = values[:want], keys[:want]


@njit(cache=True, nogil=True, inline="always")
def _collect(mask, first, scores, bias, rows, allowed, keys, values, count):  # type: ignore[no-untyped-def]
    """Put the scores whose bit is set into the reservoir, unless their row is not allowed; the new count."""
    masked = allowed.shape[0] > 0
    while mask:
        v = np.int64(trailing_zeros(mask))
        mask &= mask - np.uint64(1)
        row = rows[first + v]
        if masked and not allowed[row]:
            continue
        keys[count], values[count] = scores[v] + bias, row
        count += 1
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def scan_nibbles(
    q, books, factor, lists, bias, start, size, codes, offsets, rows, allowed, keys, values, counts, scanned, begin, end
):  # type: ignore[no-untyped-def]
    """Codes of four bits in the lists (b, p) of each query: the best into `keys`, `values` (b, want), in no order.

    The score of slot j of list l is factor <q, its codeword> + bias[., l] + offsets[j]; slots without a vector have the
    offset -inf. `start` and `size` count slots; `codes` are bytes, blocks as in `shuffle_kernel`.
    """
    want = keys.shape[1]
    m = books.shape[0]
    groups = (m + 3) // 4
    bytes_per_slot = groups * 2
    room = 2 * want + 96
    own_keys, own_values = np.empty(room, np.float32), np.empty(room, np.int64)
    tables, small = np.empty((m, 16), np.float32), np.empty((4 * groups, 16), np.uint8)
    sums, scores = np.empty(32, np.int32), np.empty(32, np.float32)
    for i in range(begin, end):
        inner_tables(q[i], books, factor, tables)
        step, base = round_tables(tables, small)
        count, threshold, seen = 0, np.float32(-np.inf), 0
        for p in range(lists.shape[1]):
            own = lists[i, p]
            extra = base + bias[i, p]
            seen += size[own]
            for first in range(start[own], start[own] + size[own], 32):
                block_sums(codes, first * bytes_per_slot, small, groups, sums)
                for v in range(32):
                    scores[v] = step * np.float32(sums[v]) + offsets[first + v]
                mask = above(scores, 0, threshold - extra)
                if mask:
                    count = _collect(mask, first, scores, extra, rows, allowed, own_keys, own_values, count)
                    if count > room - 32:
                        count, threshold = shrink(own_keys, own_values, count, want, want + want // 2)
        if count > want:
            count, _ = shrink(own_keys, own_values, count, want, want)
        keys[i, :count], values[i, :count] = own_keys[:count], own_values[:count]
        counts[i], scanned[i] = count, seen


@njit(cache=True, nogil=True, fastmath=FAST)
def scan_bytes(
    q, books, factor, lists, bias, start, size, codes, offsets, rows, allowed, keys, values, counts, scanned, begin, end
):  # type: ignore[no-untyped-def]
    """As `scan_nibbles` for codes of one byte a part, (slots, m)."""
    want = keys.shape[1]
    room = 2 * want + 96
    own_keys, own_values = np.empty(room, np.float32), np.empty(room, np.int64)
    tables = np.empty((books.shape[0], books.shape[2]), np.float32)
    scores = np.empty(32, np.float32)
    for i in range(begin, end):
        inner_tables(q[i], books, factor, tables)
        count, threshold, seen = 0, np.float32(-np.inf), 0
        for p in range(lists.shape[1]):
            own = lists[i, p]
            extra = bias[i, p]
            seen += size[own]
            for first in range(start[own], start[own] + size[own], 32):
                byte_scores(codes, first, tables, offsets, np.float32(0), scores)
                mask = above(scores, 0, threshold - extra)
                if mask:
                    count = _collect(mask, first, scores, extra, rows, allowed, own_keys, own_values, count)
                    if count > room - 32:
                        count, threshold = shrink(own_keys, own_values, count, want, want + want // 2)
        if count > want:
            count, _ = shrink(own_keys, own_values, count, want, want)
        keys[i, :count], values[i, :count] = own_keys[:count], own_values[:count]
        counts[i], scanned[i] = count, seen


@njit(cache=True, nogil=True, fastmath=FAST)
def scan_rows(q, data, scale, l2, lists, start, size, rows, allowed, keys, values, counts, scanned, begin, end):  # type: ignore[no-untyped-def]
    """The vectors of the lists (b, p) of each query at full precision: the best k into heaps `keys`, `values` (b, k), sorted."""
    k = keys.shape[1]
    masked = allowed.shape[0] > 0
    length = data.shape[1] * data.itemsize
    for i in range(begin, end):
        own_keys, own_values, count, seen = keys[i], values[i], 0, 0
        for p in range(lists.shape[1]):
            first = start[lists[i, p]]
            last = first + size[lists[i, p]]
            for j in range(first, last):
                if j + 4 < last:
                    for at in range(0, length, _LINE):
                        prefetch_bytes(data, rows[j + 4], at)
                row = rows[j]
                if masked and not allowed[row]:
                    continue
                seen += 1
                key = -distance(data, scale, row, q[i]) if l2 else dot(data, scale, row, q[i])
                if count < k or key > own_keys[0]:
                    count = heap_offer(own_keys, own_values, count, k, key, row)
        heap_sort_worst(own_keys, own_values, count)
        counts[i], scanned[i] = count, seen


@njit(cache=True, nogil=True, fastmath=FAST)
def rescore(q, data, scale, l2, rows, counts, keys, values, begin, end):  # type: ignore[no-untyped-def]
    """Exact scores of the candidates rows[i, :counts[i]]: the best k into `keys`, `values` (b, k), sorted."""
    k = keys.shape[1]
    length = data.shape[1] * data.itemsize
    for i in range(begin, end):
        count, last = 0, counts[i]
        for j in range(min(8, last)):
            for at in range(0, length, _LINE):
                prefetch_bytes(data, rows[i, j], at)
        for j in range(last):
            if j + 8 < last:
                for at in range(0, length, _LINE):
                    prefetch_bytes(data, rows[i, j + 8], at)
            row = rows[i, j]
            key = -distance(data, scale, row, q[i]) if l2 else dot(data, scale, row, q[i])
            if count < k or key > keys[i, 0]:
                count = heap_offer(keys[i], values[i], count, k, key, row)
        heap_sort_worst(keys[i], values[i], count)


@njit(cache=True, nogil=True)
def sort_found(near, rows, counts, lengths, keys, values, begin, end):  # type: ignore[no-untyped-def]
    """The best k candidates of each query by their approximate scores less `lengths`, sorted."""
    k = keys.shape[1]
    for i in range(begin, end):
        count = 0
        for j in range(counts[i]):
            count = heap_offer(keys[i], values[i], count, k, near[i, j] - lengths[i], rows[i, j])
        heap_sort_worst(keys[i], values[i], count)
