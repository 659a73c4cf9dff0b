"""Numba kernels of product quantisation: codes of rows, training sums, score tables, scans of codes of one byte.

Codebooks are (m, width, size): entry [s, t, c] is coordinate t of codeword c of part s, so that the loops over the
codewords run through memory in order. Rows are filled up with zeros to m * width coordinates.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def encode(x, books, codes, errors):  # type: ignore[no-untyped-def]
    """Write the nearest codeword of every part of every row; and the squared error of each row."""
    m, width, size = books.shape
    gaps = np.empty(size, np.float32)
    bits = gaps.view(np.int32)
    for i in range(x.shape[0]):
        total = np.float32(0)
        for s in range(m):
            gaps[:] = np.float32(0)
            for t in range(width):
                value = x[i, s * width + t]
                for c in range(size):
                    gap = value - books[s, t, c]
                    gaps[c] += gap * gap
            # As integers, floats that are not negative keep their order, and a minimum of integers needs no care for NaN.
            least = bits[0]
            for c in range(size):
                least = min(least, bits[c])
            best = 0
            while bits[best] != least:
                best += 1
            codes[i, s] = best
            total += gaps[best]
        errors[i] = total


@njit(cache=True, nogil=True)
def add_up(x, codes, sums, counts):  # type: ignore[no-untyped-def]
    """Add every part of every row to the sum (m, size, width) of its codeword."""
    m, _, width = sums.shape
    for i in range(x.shape[0]):
        for s in range(m):
            c = codes[i, s]
            counts[s, c] += 1
            for t in range(width):
                sums[s, c, t] += x[i, s * width + t]


@njit(cache=True, nogil=True, fastmath=_FAST)
def inner_tables(q, books, factor, tables):  # type: ignore[no-untyped-def]
    """tables[s, c] = factor * <part s of q, codeword c>."""
    m, width, size = books.shape
    if size == 16:
        # A number that the compiler knows: one vector, without a loop.
        for s in range(m):
            tables[s, :16] = np.float32(0)
            for t in range(width):
                value = factor * q[s * width + t]
                for c in range(16):
                    tables[s, c] += value * books[s, t, c]
        return
    for s in range(m):
        tables[s, :] = np.float32(0)
        for t in range(width):
            value = factor * q[s * width + t]
            for c in range(size):
                tables[s, c] += value * books[s, t, c]


@njit(cache=True, nogil=True, fastmath=_FAST)
def round_tables(tables, small):  # type: ignore[no-untyped-def]
    """Bytes for tables (m, 16) with tables[s, c] ~ step * small[s, c] + lowest_s, one step for all s; (step, sum of lowest_s).

    `small` may have room for more parts: theirs are zero.
    """
    m = tables.shape[0]
    bits = tables.view(np.int32)
    lows = np.empty(m, np.float32)
    widest, base = np.float32(0), np.float32(0)
    ends = np.empty(2, np.int32)
    for s in range(m):
        low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for c in range(16):
            # Integers in the order of the floats.
            key = bits[s, c] ^ ((bits[s, c] >> 31) & np.int32(0x7FFFFFFF))
            low, high = min(low, key), max(high, key)
        ends[0] = low ^ ((low >> 31) & np.int32(0x7FFFFFFF))
        ends[1] = high ^ ((high >> 31) & np.int32(0x7FFFFFFF))
        pair = ends.view(np.float32)
        lows[s] = pair[0]
        widest, base = max(widest, pair[1] - pair[0]), base + pair[0]
    step = widest / np.float32(255) if widest > 0 else np.float32(1)
    inverse = np.float32(1) / step
    for s in range(m):
        for c in range(16):
            # Rounding may lift the largest to just above 255.
            level = np.int32((tables[s, c] - lows[s]) * inverse + np.float32(0.5))
            small[s, c] = min(level, np.int32(255))
    small[m:] = 0
    return step, base


@njit(cache=True, nogil=True, fastmath=_FAST, inline="always")
def byte_scores(codes, first, tables, offsets, bias, out):  # type: ignore[no-untyped-def]
    """Scores of the 32 codes (one byte a part) from slot `first` on: bias + offsets + the sum of their table entries."""
    m = tables.shape[0]
    for v in range(0, 32, 4):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for s in range(m):
            a += tables[s, codes[first + v, s]]
            b += tables[s, codes[first + v + 1, s]]
            c += tables[s, codes[first + v + 2, s]]
            d += tables[s, codes[first + v + 3, s]]
        out[v], out[v + 1], out[v + 2], out[v + 3] = a, b, c, d
    for v in range(32):
        out[v] += bias + offsets[first + v]
