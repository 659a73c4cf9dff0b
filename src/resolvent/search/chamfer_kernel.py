"""Numba kernels over products of tokens: the best of each document for each query token, summed over the query.

A product has one row per document token and one column per query token: the maximum over the tokens of a document is
then elementwise over contiguous rows, which vectorises, where a maximum along a row would not.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def max_sums(products, document_offsets, query_offsets, out):  # type: ignore[no-untyped-def]
    """out[j, i] = sum over the columns of query i of the largest entry among the rows of document j."""
    columns = products.shape[1]
    best = np.empty(columns, products.dtype)
    for j in range(document_offsets.size - 1):
        first, last = document_offsets[j], document_offsets[j + 1]
        for c in range(columns):
            best[c] = products[first, c]
        for r in range(first + 1, last):
            for c in range(columns):
                v = products[r, c]
                best[c] = v if v > best[c] else best[c]
        for i in range(query_offsets.size - 1):
            total = 0.0
            for c in range(query_offsets[i], query_offsets[i + 1]):
                total += best[c]
            out[j, i] = total


@njit(cache=True, nogil=True)
def carve(unit, offsets, threshold, owner):  # type: ignore[no-untyped-def]
    """owner[t]: the number, inside its set, of the ball that token t falls into; the first token not yet in a ball opens one.

    `unit` are directions of length one. Returns the number of balls of each set.
    """
    counts = np.zeros(offsets.size - 1, np.int64)
    width = unit.shape[1]
    owner[:] = -1
    for s in range(offsets.size - 1):
        first, last = offsets[s], offsets[s + 1]
        for t in range(first, last):
            if owner[t] >= 0:
                continue
            ball = counts[s]
            counts[s] += 1
            owner[t] = ball
            for u in range(t + 1, last):
                if owner[u] < 0:
                    dot = 0.0
                    for c in range(width):
                        dot += unit[t, c] * unit[u, c]
                    if dot >= threshold:
                        owner[u] = ball
    return counts


__all__ = ["carve", "max_sums"]
