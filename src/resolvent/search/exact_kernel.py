"""The Numba kernels of the exhaustive scan: blocks of scores go into reservoirs while they are in the cache."""

from __future__ import annotations

import numpy as np

from resolvent.factor.spgemm_tables import trailing_zeros
from resolvent.operators.parallel import njit, prange
from resolvent.search.kernel import FAST, distance, dot
from resolvent.search.reservoir_kernel import BLOCK, above, shrink, sort_best


@njit(cache=True, nogil=True)
def offer_block(scores, first, half, allowed, k, keys, values, counts, limits, begin, end):  # type: ignore[no-untyped-def]
    """Offer a block of products (b, m) of the rows first.. to the reservoir of each query.

    Keys are products, less `half` (m,), half of the rows' squared lengths, if it is not empty: in the order of -|q - x|^2.
    """
    m = scores.shape[1]
    most, full = k + k // 2, keys.shape[1] - BLOCK
    masked, l2 = allowed.shape[0] > 0, half.shape[0] > 0
    block = np.empty(BLOCK, np.float32)
    for i in range(begin, end):
        count, limit = counts[i], limits[i]
        for j in range(0, m, BLOCK):
            width = min(BLOCK, m - j)
            if l2:
                for v in range(width):
                    block[v] = scores[i, j + v] - half[j + v]
                block[width:] = -np.inf
                found = above(block, 0, limit)
            elif width == BLOCK:
                found = above(scores[i], j, limit)
            else:
                block[:width] = scores[i, j:]
                block[width:] = -np.inf
                found = above(block, 0, limit)
            while found:
                v = np.int64(trailing_zeros(found))
                found &= found - np.uint64(1)
                if masked and not allowed[first + j + v]:
                    continue
                keys[i, count] = scores[i, j + v] - half[j + v] if l2 else scores[i, j + v]
                values[i, count] = first + j + v
                count += 1
            if count > full:
                count, limit = shrink(keys[i], values[i], count, k, most)
        counts[i], limits[i] = count, limit


@njit(cache=True, nogil=True, fastmath=FAST)
def finish(near, rows, counts, data, scale, q, l2, keys, values, begin, end):  # type: ignore[no-untyped-def]
    """The best k of each reservoir, sorted, into `keys`, `values` (b, k); L2 scores anew, by differences."""
    k = keys.shape[1]
    for i in range(begin, end):
        count = counts[i]
        if count > k:
            count, _ = shrink(near[i], rows[i], count, k, k)
        for j in range(count):
            keys[i, j], values[i, j] = near[i, j], rows[i, j]
            if l2:
                keys[i, j] = -distance(data, scale, rows[i, j], q[i])
        sort_best(keys[i], values[i], count)


@njit(cache=True, nogil=True, fastmath=FAST)
def scan_part(data, scale, q, l2, allowed, k, own_keys, own_values, begin, end):  # type: ignore[no-untyped-def]
    """One query over the rows begin..end-1: the best k, sorted, and how many they are. Wakes no other thread."""
    full, size = own_keys.shape[0], 0
    masked = allowed.shape[0] > 0
    limit = np.float32(-np.inf)
    for row in range(begin, end):
        if masked and not allowed[row]:
            continue
        key = -distance(data, scale, row, q) if l2 else dot(data, scale, row, q)
        if key > limit:
            own_keys[size], own_values[size] = key, row
            size += 1
            if size == full:
                size, limit = shrink(own_keys, own_values, size, k, k + k // 2)
    if size > k:
        size, limit = shrink(own_keys, own_values, size, k, k)
    sort_best(own_keys, own_values, size)
    own_keys[size:] = -np.inf
    return size


@njit(cache=True, nogil=True, parallel=True, fastmath=FAST)
def scan(data, scale, q, l2, allowed, k, parts, keys, values, sizes):  # type: ignore[no-untyped-def]
    """One query over all rows, in as many parts as there are threads: the best k of each, sorted, of `sizes` (parts,)."""
    n = data.shape[0]
    for part in prange(parts):
        begin, end = part * n // parts, (part + 1) * n // parts
        sizes[part] = scan_part(data, scale, q, l2, allowed, k, keys[part], values[part], begin, end)
