"""Numba pieces that keep the best of a stream of scores: a mask of what beats a threshold, a reservoir that is thinned.

A reservoir is two arrays, keys (float32) and values, with room for more than is wanted. A candidate is put at the end,
which takes a few instructions whatever is wanted; when the arrays are full, `shrink` keeps the best and their worst
becomes the threshold. Values come in ascending order where ties matter, and `shrink` keeps that order: of equal keys the
earlier ones stay.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Room beyond what is wanted: twice as much again for few thinnings, and one block.
BLOCK = 32


@intrinsic
def above(typingctx, scores, first, threshold):  # type: ignore[no-untyped-def]
    """Bit v of a uint64 is set where scores[first + v] exceeds the threshold, v < 32; LLVM splits the vector as it must."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        vector = ir.VectorType(ir.FloatType(), 32)
        place = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 32), [0] * 32)
        undefined = ir.Constant(vector, ir.Undefined)
        limit = builder.insert_element(undefined, args[2], ir.Constant(ir.IntType(32), 0))
        over = builder.fcmp_ordered(">", builder.load(place, align=4), builder.shuffle_vector(limit, undefined, lanes))
        return builder.zext(builder.bitcast(over, ir.IntType(32)), ir.IntType(64))

    return types.uint64(scores, types.intp, types.float32), codegen


def room_for(want: int) -> int:
    """Length of the arrays of a reservoir."""
    return 2 * want + 3 * BLOCK


@njit(cache=True, nogil=True)
def _count(keys, count, limit):  # type: ignore[no-untyped-def]
    reached = np.int64(0)
    for i in range(count):
        reached += np.int64(keys[i] >= limit)
    return reached


@njit(cache=True, nogil=True)
def _kept(keys, values, count, limit):  # type: ignore[no-untyped-def]
    kept = np.int64(0)
    for i in range(count):
        keys[kept], values[kept] = keys[i], values[i]
        kept += np.int64(keys[i] >= limit)
    return kept


@njit(cache=True, nogil=True)
def shrink(keys, values, count, want, most):  # type: ignore[no-untyped-def]
    """Keep at least `want` and at most `most` of the best pairs; how many, and their smallest key at most.

    The limit is found by halving the range of the keys, which only counts: far quicker than a partial sort.
    """
    low, high = keys[0], keys[0]
    for i in range(count):
        low, high = min(low, keys[i]), max(high, keys[i])
    for _ in range(40):
        limit = low + (high - low) * np.float32(0.5)
        if limit <= low or limit >= high:
            break
        reached = _count(keys, count, limit)
        if reached < want:
            high = limit
        elif reached > most:
            low = limit
        else:
            # A later candidate at the limit itself is no better than what is kept.
            return _kept(keys, values, count, limit), limit
    return _shrink_ties(keys, values, count, want, low, high)


@njit(cache=True, nogil=True)
def _shrink_ties(keys, values, count, want, low, high):  # type: ignore[no-untyped-def]
    """The same where many keys are equal or nearly so: exactly `want`, of equal keys those that came first."""
    # The want-th largest key, found one distinct key after the other from the top of what is left undecided.
    limit = high
    while _count(keys, count, limit) < want:
        next_limit = low
        for i in range(count):
            if keys[i] < limit and keys[i] > next_limit:
                next_limit = keys[i]
        limit = next_limit
    over = np.int64(0)
    for i in range(count):
        over += np.int64(keys[i] > limit)
    kept, equal = 0, want - over
    for i in range(count):
        if keys[i] > limit or (keys[i] == limit and equal > 0):
            equal -= np.int64(keys[i] == limit)
            keys[kept], values[kept] = keys[i], values[i]
            kept += 1
    return want, limit


@njit(cache=True, nogil=True)
def sort_best(keys, values, count):  # type: ignore[no-untyped-def]
    """Sort pairs in place: keys descending, of equal keys the smaller value first."""
    # A heap with the last of the order at its root, taken apart from the end.
    for start in range(count // 2 - 1, -1, -1):
        _sink(keys, values, start, count)
    for end in range(count - 1, 0, -1):
        keys[0], keys[end] = keys[end], keys[0]
        values[0], values[end] = values[end], values[0]
        _sink(keys, values, 0, end)


@njit(cache=True, nogil=True)
def _sink(keys, values, start, count):  # type: ignore[no-untyped-def]
    key, value, i = keys[start], values[start], start
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        right = child + 1
        if right < count and (
            keys[right] < keys[child] or (keys[right] == keys[child] and values[right] > values[child])
        ):
            child = right
        if keys[child] > key or (keys[child] == key and values[child] <= value):
            break
        keys[i], values[i] = keys[child], values[child]
        i = child
    keys[i], values[i] = key, value
