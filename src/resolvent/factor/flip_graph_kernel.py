"""Numba kernels of walks in the flip graph: terms a x b x c as bit masks, flips, reductions and steps up in rank.

A vector is two masks, its entries 1 and its entries -1 (over the field of two elements the second is empty). All
vectors are kept with a first entry 1, each term has a sign: equal up to sign is equal.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_S1, _S2, _S3 = np.uint64(13), np.uint64(7), np.uint64(17)


@njit(inline="always")
def _random(state):  # type: ignore[no-untyped-def]
    x = state[0]
    x ^= x << _S1
    x ^= x >> _S2
    x ^= x << _S3
    state[0] = x
    return x


@njit(inline="always")
def _below(state, n):  # type: ignore[no-untyped-def]
    # The high half: the low bits of the generator are its weakest.
    return np.int64((_random(state) >> np.uint64(33)) % np.uint64(n))


@njit(inline="always")
def _add(ring, p1, n1, p2, n2):  # type: ignore[no-untyped-def]
    """The sum of two vectors, and whether the ring has it (ring 0: integers -1, 0, 1)."""
    if ring == 2:
        return True, p1 ^ p2, _ZERO
    if ring == 3:
        free1, free2 = ~(p1 | n1), ~(p2 | n2)
        return True, (p1 & free2) | (p2 & free1) | (n1 & n2), (n1 & free2) | (n2 & free1) | (p1 & p2)
    legal = ((p1 & p2) | (n1 & n2)) == _ZERO
    return legal, (p1 & ~n2) | (p2 & ~n1), (n1 & ~p2) | (n2 & ~p1)


@njit(inline="always")
def _signed_add(ring, p1, n1, p2, n2, sign):  # type: ignore[no-untyped-def]
    if sign < 0 and ring != 2:
        return _add(ring, p1, n1, n2, p2)
    return _add(ring, p1, n1, p2, n2)


@njit(inline="always")
def _put(P, N, S, i, mode, p, n):  # type: ignore[no-untyped-def]
    """Store a vector with its first entry made 1; the term's sign takes the rest."""
    both = p | n
    if n & (both & (~both + _ONE)):
        P[i, mode], N[i, mode] = n, p
        S[i] = -S[i]
    else:
        P[i, mode], N[i, mode] = p, n


@njit(cache=True, nogil=True)
def _forget(pairs, counts, mode, i):  # type: ignore[no-untyped-def]
    """Drop the equal pairs of a term in a mode."""
    k = 0
    while k < counts[mode]:
        if pairs[mode, k, 0] == i or pairs[mode, k, 1] == i:
            counts[mode] -= 1
            pairs[mode, k, 0] = pairs[mode, counts[mode], 0]
            pairs[mode, k, 1] = pairs[mode, counts[mode], 1]
        else:
            k += 1


@njit(cache=True, nogil=True)
def _note(P, N, pairs, counts, mode, i, r):  # type: ignore[no-untyped-def]
    """Find the terms that are equal to term i in a mode; one that is so in a second mode, or -1."""
    _forget(pairs, counts, mode, i)
    twin = -1
    one, two = (mode + 1) % 3, (mode + 2) % 3
    for k in range(r):
        if k != i and P[k, mode] == P[i, mode] and N[k, mode] == N[i, mode]:
            pairs[mode, counts[mode], 0] = i
            pairs[mode, counts[mode], 1] = k
            counts[mode] += 1
            if (P[k, one] == P[i, one] and N[k, one] == N[i, one]) or (
                P[k, two] == P[i, two] and N[k, two] == N[i, two]
            ):
                twin = k
    return twin


@njit(cache=True, nogil=True)
def _drop(P, N, S, pairs, counts, i, r):  # type: ignore[no-untyped-def]
    """Remove a term; the last one takes its place."""
    last = r - 1
    for mode in range(3):
        _forget(pairs, counts, mode, i)
        if i != last:
            P[i, mode], N[i, mode] = P[last, mode], N[last, mode]
            for k in range(counts[mode]):
                for side in range(2):
                    if pairs[mode, k, side] == last:
                        pairs[mode, k, side] = i
    S[i] = S[last]
    return last


@njit(cache=True, nogil=True)
def _settle(P, N, S, pairs, counts, r, ring):  # type: ignore[no-untyped-def]
    """Merge terms that agree in two modes and drop those that vanish, until there are none; the rank."""
    again = True
    while again:
        again = False
        for i in range(r):
            if (P[i, 0] | N[i, 0]) == _ZERO or (P[i, 1] | N[i, 1]) == _ZERO or (P[i, 2] | N[i, 2]) == _ZERO:
                r = _drop(P, N, S, pairs, counts, i, r)
                again = True
                break
        if again:
            continue
        for mode in range(2):
            for k in range(counts[mode]):
                i, j = pairs[mode, k, 0], pairs[mode, k, 1]
                third = -1
                for other in range(mode + 1, 3):
                    if P[i, other] == P[j, other] and N[i, other] == N[j, other]:
                        third = 3 - mode - other
                if third < 0:
                    continue
                legal, p, n = _signed_add(ring, P[i, third], N[i, third], P[j, third], N[j, third], S[i] * S[j])
                if legal:
                    _put(P, N, S, i, third, p, n)
                    r = _drop(P, N, S, pairs, counts, j, r)
                    i = j if i == r else i
                    _note(P, N, pairs, counts, third, i, r)
                    again = True
                    break
            if again:
                break
    return r


@njit(cache=True, nogil=True)
def _flip(P, N, S, pairs, counts, r, ring, state):  # type: ignore[no-untyped-def]
    """One random flip where the ring allows it; the rank after it."""
    k = _below(state, counts[0] + counts[1] + counts[2])
    mode = 0
    while k >= counts[mode]:
        k -= counts[mode]
        mode += 1
    bits = _below(state, 8)
    side = bits & 1
    i, j = pairs[mode, k, side], pairs[mode, k, 1 - side]
    b, c = (mode + 1 + (bits >> 1 & 1)) % 3, (mode + 2 - (bits >> 1 & 1)) % 3
    sign = 1 - 2 * (bits >> 2)
    # s a b c + t a b' c' = s a (b + z b') c + a b' (t c' - z s c)
    for _ in range(2):
        fine, p, n = _signed_add(ring, P[i, b], N[i, b], P[j, b], N[j, b], sign)
        right, p2, n2 = _signed_add(ring, P[j, c], N[j, c], P[i, c], N[i, c], -sign * S[i] * S[j])
        if fine and right:
            _put(P, N, S, i, b, p, n)
            _put(P, N, S, j, c, p2, n2)
            first = _note(P, N, pairs, counts, b, i, r)
            second = _note(P, N, pairs, counts, c, j, r)
            if first >= 0 or second >= 0 or (p | n) == _ZERO or (p2 | n2) == _ZERO:
                r = _settle(P, N, S, pairs, counts, r, ring)
            return r
        sign = -sign
    return r


@njit(cache=True, nogil=True)
def _plus(P, N, S, pairs, counts, r, ring, state):  # type: ignore[no-untyped-def]
    """Two terms without a common factor as three; the rank after it.

    s a b c + t a' b' c' = s a (b + z b') c + a b' (t y c' - z s c) + t (a' - y a) b' c'
    """
    for _ in range(64):
        i, j = _below(state, r), _below(state, r)
        shared = i == j
        for mode in range(3):
            shared |= P[i, mode] == P[j, mode] and N[i, mode] == N[j, mode]
        if shared:
            continue
        order = _below(state, 6)
        a = order % 3
        b, c = (a + 1 + order // 3) % 3, (a + 2 - order // 3) % 3
        z, y = 1 - 2 * _below(state, 2), 1 - 2 * _below(state, 2)
        fine, pb, nb = _signed_add(ring, P[i, b], N[i, b], P[j, b], N[j, b], z)
        right, pc, nc = _signed_add(ring, P[j, c], N[j, c], P[i, c], N[i, c], -z * y * S[i] * S[j])
        both, pa, na = _signed_add(ring, P[j, a], N[j, a], P[i, a], N[i, a], -y)
        if not (fine and right and both):
            continue
        S[r] = S[j] * y
        P[r, a], N[r, a] = P[i, a], N[i, a]
        P[r, b], N[r, b] = P[j, b], N[j, b]
        _put(P, N, S, r, c, pc, nc)
        _put(P, N, S, i, b, pb, nb)
        _put(P, N, S, j, a, pa, na)
        r += 1
        for mode in range(3):
            _note(P, N, pairs, counts, mode, r - 1, r)
        _note(P, N, pairs, counts, b, i, r)
        _note(P, N, pairs, counts, a, j, r)
        return _settle(P, N, S, pairs, counts, r, ring)
    return r


@njit(cache=True, nogil=True)
def walk(P, N, S, r, ring, flips, target, allowance, low, high, state, bestP, bestN, bestS, best):  # type: ignore[no-untyped-def]
    """A random walk of `flips` flips, or until the rank is `target`; rank, best rank, flips done.

    P, N (R, 3) masks and S (R,) signs are the current scheme, changed in place; bestP, bestN, bestS of rank `best`
    take each scheme of a smaller rank. After `low` to `high` flips without one the rank goes up by one, at most to
    best + allowance.
    """
    R = P.shape[0]
    pairs = np.zeros((3, R * R, 2), np.int64)
    counts = np.zeros(3, np.int64)
    for mode in range(3):
        for i in range(r):
            for j in range(i):
                if P[i, mode] == P[j, mode] and N[i, mode] == N[j, mode]:
                    pairs[mode, counts[mode], 0], pairs[mode, counts[mode], 1] = i, j
                    counts[mode] += 1
    r = _settle(P, N, S, pairs, counts, r, ring)
    still, limit, done = 0, low + _below(state, high - low + 1), 0
    while True:
        if r < best:
            best, still = r, 0
            for i in range(r):
                bestS[i] = S[i]
                for mode in range(3):
                    bestP[i, mode], bestN[i, mode] = P[i, mode], N[i, mode]
        if best <= target or done >= flips or r == 0:
            return r, best, done
        stuck = counts[0] + counts[1] + counts[2] == 0
        if stuck or still >= limit:
            still, limit = 0, low + _below(state, high - low + 1)
            if r < min(best + allowance, R - 1):
                r = _plus(P, N, S, pairs, counts, r, ring, state)
            done += 1
            continue
        r = _flip(P, N, S, pairs, counts, r, ring, state)
        done += 1
        still += 1
