"""The Numba kernels of Hamming profiles: pairs of rare symbols, early ends, and jumps over equal stretches."""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange


@njit(cache=True, nogil=True, parallel=True)
def count_pairs(text, starts, places, rare, matches, m, parts):  # type: ignore[no-untyped-def]
    """Add to `matches` (n - m + 1) every pair of equal rare symbols; the pattern's places lie sorted by symbol.

    Each part owns a range of shifts, so that no two threads write the same count.
    """
    shifts = matches.shape[0]

    for part in prange(parts):
        low, high = part * shifts // parts, (part + 1) * shifts // parts
        for t in range(low, min(text.shape[0], high + m - 1)):
            symbol = text[t]
            if symbol < 0 or not rare[symbol]:
                continue
            for i in range(starts[symbol], starts[symbol + 1]):
                shift = t - places[i]
                if low <= shift < high:
                    matches[shift] += 1


@njit(cache=True, nogil=True, parallel=True)
def sampled(text, pattern, order, k, budget, out, undecided):  # type: ignore[no-untyped-def]
    """Compare in a random order until k + 1 mismatches are seen: then the distance is certainly above k.

    Shifts that stay undecided after `budget` comparisons are marked.
    """
    for shift in prange(out.shape[0]):
        seen, i = 0, 0
        while i < budget and seen <= k:
            seen += text[shift + order[i]] != pattern[order[i]]
            i += 1
        out[shift] = seen
        undecided[shift] = seen <= k and i < order.shape[0]
        if seen > k:
            out[shift] = k + 1


@njit(cache=True, nogil=True, inline="always")
def _common(names, lengths, i, j, most):  # type: ignore[no-untyped-def]
    """Length of the longest common beginning of two positions of the joint string, at most `most`."""
    total = 0
    for level in range(names.shape[0] - 1, -1, -1):
        step = lengths[level]
        if total + step <= most and names[level, i + total] == names[level, j + total]:
            total += step
    return total


@njit(cache=True, nogil=True, parallel=True)
def jumps(names, lengths, n, m, k, shifts, out):  # type: ignore[no-untyped-def]
    """Mismatches of the listed shifts, k + 1 at most, by jumping from one mismatch to the next.

    `names[l, i]` names the substring of length `lengths[l]` = 2^l at i of the text followed by the pattern.
    """
    for s in prange(shifts.shape[0]):
        shift = shifts[s]
        at, count = 0, 0
        while at < m:
            # Each level is taken once at most within a jump that is shorter than twice the longest name.
            step = _common(names, lengths, shift + at, n + at, m - at)
            while step and at + step < m:
                more = _common(names, lengths, shift + at + step, n + at + step, m - at - step)
                if more == 0:
                    break
                step += more
            at += step
            if at < m:
                count += 1
                at += 1
                if count > k:
                    break
        out[s] = count


@njit(cache=True, nogil=True, parallel=True)
def compare_all(text, pattern, out):  # type: ignore[no-untyped-def]
    """Every shift, every position, a block of shifts at a time in vector registers: what there is to beat."""
    m, shifts = pattern.shape[0], out.shape[0]
    for block in prange((shifts + 4095) // 4096):
        low = 4096 * block
        count = np.zeros(min(4096, shifts - low), np.int32)
        for j in range(m):
            symbol, part = pattern[j], text[low + j : low + j + count.shape[0]]
            for i in range(count.shape[0]):
                count[i] += np.int32(part[i] != symbol)
        out[low : low + count.shape[0]] = count


def joint_names(text: np.ndarray, pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names of all substrings whose length is a power of two, of the text followed by the pattern.

    Equal names, equal substrings (Karp, Miller and Rosenberg): each level ranks the pairs of names of the level below.
    """
    joint = np.concatenate([text, pattern]).astype(np.int64)
    size = len(joint)
    level = np.unique(joint, return_inverse=True)[1].astype(np.int32)
    levels, lengths, step = [level], [1], 1
    while 2 * step <= len(pattern):
        # Substrings that would cross an end are never asked for.
        after = np.full(size, -1, np.int64)
        after[: size - step] = level[step:]
        pairs = level.astype(np.int64) * (size + 1) + after + 1
        level = np.unique(pairs, return_inverse=True)[1].astype(np.int32)
        step *= 2
        levels.append(level)
        lengths.append(step)
    return np.ascontiguousarray(np.stack(levels)), np.array(lengths, np.int64)
