"""Numba kernels of the inverted index: exact top k by windows of documents. Imported with the first query.

The documents of a part are cut into windows of 32 to 256. A block is what a term has in a window: places in the window
(one byte each), impacts, and the largest of these. For a query, the bounds of the blocks are summed per window;
windows are visited from the highest bound down, and the search ends at the first one whose bound does not exceed the
k-th best score. In a window MaxScore goes on: the blocks with the smallest bounds, as many as together cannot lift a
document over the k-th best score, are not scanned, only looked up for documents that the others have brought near it.

Scores are summed in float64, where products of two float32 numbers are exact, so that the order of summation, which
differs between a bound and a score, changes less than the slack below. No fastmath: bounds must not be reordered.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# A document whose score is above the k-th best by less than this share is a tie, and may be left out.
_SLACK = 1.0 + 1e-12


@njit(cache=True, nogil=True, inline="always")
def _sift_down(keys, items, size, at):  # type: ignore[no-untyped-def]
    """Restore a max-heap of (keys, items) below `at`."""
    key, item = keys[at], items[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[at], items[at] = keys[child], items[child]
        at = child
    keys[at], items[at] = key, item


@njit(cache=True, nogil=True)
def _keep(scores, rows, filled, score, row):  # type: ignore[no-untyped-def]
    """Put a hit into a min-heap of the best; returns its new size. Of equal scores the smaller row is better."""
    k = scores.size
    if filled < k:
        at = filled
        filled += 1
        while at > 0:
            parent = (at - 1) >> 1
            if scores[parent] < score or (scores[parent] == score and rows[parent] > row):
                break
            scores[at], rows[at] = scores[parent], rows[parent]
            at = parent
        scores[at], rows[at] = score, row
        return filled
    if score < scores[0] or (score == scores[0] and row > rows[0]):
        return filled
    at = 0
    while True:
        child = 2 * at + 1
        if child >= k:
            break
        if child + 1 < k and (
            scores[child + 1] < scores[child] or (scores[child + 1] == scores[child] and rows[child + 1] > rows[child])
        ):
            child += 1
        if scores[child] > score or (scores[child] == score and rows[child] < row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row
    return filled


@njit(cache=True, nogil=True)
def _find(places, start, stop, place):  # type: ignore[no-untyped-def]
    """Where `place` stands in the ascending places[start:stop], or -1."""
    low, high = start, stop
    while low < high:
        middle = (low + high) >> 1
        if places[middle] < place:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and places[low] == place else -1


@njit(cache=True, nogil=True)
def _order_windows(terms, weights, block_ptr, block_window, block_max, open_windows, where, bounds, items):  # type: ignore[no-untyped-def]
    """A max-heap of the windows by their bounds, with the block of each term in each window; returns its size."""
    bounds[:] = 0.0
    for j in range(terms.size):
        line = where[j]
        line[:] = -1
        weight = np.float64(weights[j])
        for block in range(block_ptr[terms[j]], block_ptr[terms[j] + 1]):
            window = block_window[block]
            bounds[window] += weight * np.float64(block_max[block])
            line[window] = block
    size = 0
    for window in range(bounds.size):
        if bounds[window] > 0 and open_windows[window]:
            bounds[size], items[size] = bounds[window], window
            size += 1
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(bounds, items, size, at)
    return size


@njit(cache=True, nogil=True)
def _rank_blocks(window, weights, where, block_max, terms, caps):  # type: ignore[no-untyped-def]
    """The terms that have a block in this window, by ascending bound; returns how many, `caps` are running sums."""
    count = 0
    for j in range(weights.size):
        block = where[j, window]
        if block < 0:
            continue
        bound = np.float64(weights[j]) * np.float64(block_max[block])
        at = count
        while at > 0 and caps[at - 1] > bound:
            caps[at], terms[at] = caps[at - 1], terms[at - 1]
            at -= 1
        caps[at], terms[at] = bound, j
        count += 1
    for at in range(1, count):
        caps[at] += caps[at - 1]
    return count


@njit(cache=True, nogil=True)
def search_part(  # type: ignore[no-untyped-def]
    q_ptr,
    q_terms,
    q_weights,
    block_ptr,
    block_window,
    block_start,
    block_max,
    places,
    impacts,
    windows,
    bits,
    first,
    allowed,
    open_windows,
    best_scores,
    best_rows,
    filled,
    evaluations,
    scanned,
):
    """Let the documents of one part, rows `first`, first + 1, ..., compete for the heaps of best hits of all queries.

    `allowed` is empty, or has one byte for every row of the index; `open_windows` has one byte per window. Heaps,
    their sizes and the two counts are updated in place.
    """
    longest = 0
    for i in range(q_ptr.size - 1):
        longest = max(longest, q_ptr[i + 1] - q_ptr[i])
    where = np.empty((longest, windows), np.int64)
    bounds, items = np.empty(windows, np.float64), np.empty(windows, np.int64)
    caps, ranked = np.empty(longest, np.float64), np.empty(longest, np.int64)
    sums, touched = np.zeros(1 << bits, np.float64), np.empty(1 << bits, np.uint8)
    filtered = allowed.size > 0
    for i in range(q_ptr.size - 1):
        terms, weights = q_terms[q_ptr[i] : q_ptr[i + 1]], q_weights[q_ptr[i] : q_ptr[i + 1]]
        scores, rows, k = best_scores[i], best_rows[i], best_scores.shape[1]
        size = _order_windows(terms, weights, block_ptr, block_window, block_max, open_windows, where, bounds, items)
        while size > 0:
            full = filled[i] == k
            bar = scores[0] * _SLACK if full else 0.0
            if full and bounds[0] <= bar:
                break
            window = items[0]
            size -= 1
            bounds[0], items[0] = bounds[size], items[size]
            _sift_down(bounds, items, size, 0)

            count = _rank_blocks(window, weights, where, block_max, ranked, caps)
            idle = reached = 0
            while full and idle < count and caps[idle] <= bar:
                idle += 1
            for at in range(idle, count):
                block, weight = where[ranked[at], window], np.float64(weights[ranked[at]])
                for p in range(block_start[block], block_start[block + 1]):
                    place = places[p]
                    if sums[place] == 0.0:
                        touched[reached] = place
                        reached += 1
                    sums[place] += weight * np.float64(impacts[p])
                scanned[i] += block_start[block + 1] - block_start[block]
            rest = caps[idle - 1] if idle > 0 else 0.0
            base = first + (window << bits)
            for t in range(reached):
                place = np.int64(touched[t])
                score = sums[place]
                sums[place] = 0.0
                if (filled[i] == k and score + rest <= scores[0] * _SLACK) or (filtered and not allowed[base + place]):
                    continue
                at = idle - 1
                while at >= 0 and not (filled[i] == k and score + caps[at] <= scores[0] * _SLACK):
                    block = where[ranked[at], window]
                    found = _find(places, block_start[block], block_start[block + 1], place)
                    scanned[i] += 1
                    if found >= 0:
                        score += np.float64(weights[ranked[at]]) * np.float64(impacts[found])
                    at -= 1
                if at < 0:
                    evaluations[i] += 1
                    filled[i] = _keep(scores, rows, filled[i], score, base + place)
