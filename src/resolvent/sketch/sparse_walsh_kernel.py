"""Numba kernels of the sparse Walsh-Hadamard transform: read one bin, peel all bins, refit what was found.

A bin holds the sum of X_k (-1)^<d, k> over the indices k that hash to it, once for every offset d. Arrays: `bins`
(groups, B, P), `offsets` (groups, P), `columns` (groups, b), the columns of the hash matrices as masks of bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Which way a bin is read.
SHIFTS, SEARCH, CODED = 0, 1, 2
# A convolutional code of rate 1/3, constraint length 7 and free distance 15 (octal 133, 165, 171).
TAPS = (0o133, 0o165, 0o171)
MEMORY = 6
# A coefficient that is wrongly read and corrected costs two readings: this many per bin end every loop.
_ROUNDS = 12


@njit(cache=True, nogil=True)
def _odd(x):  # type: ignore[no-untyped-def]
    """Parity of the bits of a nonnegative integer."""
    x ^= x >> 32
    x ^= x >> 16
    x ^= x >> 8
    x ^= x >> 4
    x ^= x >> 2
    x ^= x >> 1
    return x & 1


@njit(cache=True, nogil=True)
def _bin_of(k, columns):  # type: ignore[no-untyped-def]
    j = 0
    for r in range(columns.size):
        j |= _odd(k & columns[r]) << r
    return j


@njit(cache=True, nogil=True)
def _by_shifts(row, chains, n):  # type: ignore[no-untyped-def]
    """Bit q of k is set where the offset and its shift by q have opposite signs, weighted over the chains."""
    k = 0
    for q in range(n):
        vote = 0.0
        for c in range(chains):
            vote += row[c * (n + 1)] * row[c * (n + 1) + 1 + q]
        if vote < 0:
            k |= 1 << q
    return k


@njit(cache=True, nogil=True)
def _by_search(row, offsets, dual, seen, j, b, n, work):  # type: ignore[no-untyped-def]
    """The k of this bin that correlates most with the row: all 2^(n - b) of them by one Walsh-Hadamard transform."""
    start = 0
    for r in range(b):
        if (j >> r) & 1:
            start ^= dual[r]
    work[:] = 0
    for p in range(row.size):
        work[seen[p]] += -row[p] if _odd(offsets[p] & start) else row[p]
    half = 1
    while half < work.size:
        for low in range(0, work.size, 2 * half):
            for i in range(low, low + half):
                a, c = work[i], work[i + half]
                work[i] = a + c
                work[i + half] = a - c
        half *= 2
    best = 0
    for i in range(work.size):
        if abs(work[i]) > abs(work[best]):
            best = i
    for r in range(n - b):
        if (best >> r) & 1:
            start ^= dual[b + r]
    return start


@njit(cache=True, nogil=True)
def _by_code(row, places, n, outputs, cost, kept, choice):  # type: ignore[no-untyped-def]
    """The k whose codeword correlates most with the row, for both signs of its coefficient (Viterbi's algorithm).

    A state is the last six bits of k, the newest on top. `outputs` (128,) holds the three code bits of a state with
    the bit before it; `places` (n + 6, 3) says which offset carries a code bit.
    """
    best_k, best = 0, -np.inf
    steps = n + MEMORY
    for sign in range(2):
        cost[:] = -np.inf
        cost[0] = 0.0
        for t in range(steps):
            v0, v1, v2 = row[places[t, 0]], row[places[t, 1]], row[places[t, 2]]
            if sign:
                v0, v1, v2 = -v0, -v1, -v2
            for state in range(64):
                kept[state] = -np.inf
                if t >= n and state >= 32:
                    continue
                for out in range(2):
                    before = ((state << 1) & 63) | out
                    code = outputs[(state << 1) | out]
                    gain = (
                        cost[before] + (-v0 if code & 1 else v0) + (-v1 if code & 2 else v1) + (-v2 if code & 4 else v2)
                    )
                    if gain > kept[state]:
                        kept[state] = gain
                        choice[t, state] = out
            cost[:] = kept
        if cost[0] > best:
            best = cost[0]
            k, state = 0, 0
            for t in range(steps - 1, -1, -1):
                if t < n and state >= 32:
                    k |= 1 << t
                state = ((state << 1) & 63) | choice[t, state]
            best_k = k
    return best_k


@njit(cache=True, nogil=True)
def peel(bins, offsets, columns, n, detector, chains, dual, seen, places, outputs, zero_limit, single_limit):  # type: ignore[no-untyped-def]
    """Read the bins that hold one coefficient, subtract it from every group, go on until nothing changes.

    `bins` ends as what is left. Returns the indices and values found; an index can come twice, its values add up.
    """
    groups, B, P = bins.shape
    b = columns.shape[1]
    total = groups * B
    queue = np.arange(total)
    waiting = np.ones(total, np.bool_)
    changes = np.zeros(total, np.int64)
    found = np.empty(_ROUNDS * total, np.int64)
    values = np.empty(_ROUNDS * total)
    work = np.empty(1 << (n - b) if detector == SEARCH else 1)
    cost, kept = np.empty(64), np.empty(64)
    choice = np.empty((n + MEMORY, 64), np.uint8)
    first, length, count = 0, total, 0
    while length and count < found.size:
        here = queue[first]
        first = (first + 1) % total
        length -= 1
        waiting[here] = False
        g, j = here // B, here % B
        row = bins[g, j]
        energy = 0.0
        for p in range(P):
            energy += row[p] * row[p]
        # An amplitude is known up to the noise of a mean of P numbers: every change leaves some of it behind.
        slack = 1 + 2.0 * changes[here] / P
        if energy <= zero_limit * slack:
            continue
        if detector == SHIFTS:
            k = _by_shifts(row, chains, n)
        elif detector == SEARCH:
            k = _by_search(row, offsets[g], dual[g], seen[g], j, b, n, work)
        else:
            k = _by_code(row, places, n, outputs, cost, kept, choice)
        if _bin_of(k, columns[g]) != j:
            continue
        amplitude = 0.0
        for p in range(P):
            amplitude += -row[p] if _odd(offsets[g, p] & k) else row[p]
        amplitude /= P
        residual = 0.0
        for p in range(P):
            gap = row[p] - (-amplitude if _odd(offsets[g, p] & k) else amplitude)
            residual += gap * gap
        if residual > single_limit * slack:
            continue
        found[count] = k
        values[count] = amplitude
        count += 1
        for other in range(groups):
            i = _bin_of(k, columns[other])
            for p in range(P):
                bins[other, i, p] -= -amplitude if _odd(offsets[other, p] & k) else amplitude
            there = other * B + i
            changes[there] += 1
            if not waiting[there]:
                waiting[there] = True
                queue[(first + length) % total] = there
                length += 1
    return found[:count], values[:count]


@njit(cache=True, nogil=True)
def refit(bins, offsets, columns, found, values, steps):  # type: ignore[no-untyped-def]
    """Least squares of the values over all groups by Jacobi steps; `bins` is what is left and is kept so."""
    groups, _, P = bins.shape
    change = np.empty_like(values)
    for _ in range(steps):
        for i in range(found.size):
            k, total = found[i], 0.0
            for g in range(groups):
                row = bins[g, _bin_of(k, columns[g])]
                for p in range(P):
                    total += -row[p] if _odd(offsets[g, p] & k) else row[p]
            change[i] = total / (groups * P)
        for i in range(found.size):
            k = found[i]
            values[i] += change[i]
            for g in range(groups):
                row = bins[g, _bin_of(k, columns[g])]
                for p in range(P):
                    row[p] -= -change[i] if _odd(offsets[g, p] & k) else change[i]
