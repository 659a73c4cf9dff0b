"""The Numba kernel of fixed dimensional encodings: tokens into cells, sums or means, and what an empty cell takes."""

from __future__ import annotations

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "nsz"}
# A step between cells outweighs any number of a token, so that one minimum finds the nearest and then the first token.
_STEP = 1 << 40
_NEVER = 1 << 62


@njit(cache=True, nogil=True, fastmath=_FAST)
def encode(hashes, projected, offsets, repetitions, bits, mean, fill, out):  # type: ignore[no-untyped-def]
    """Fill out (n, repetitions * 2^bits * width), which holds zeros.

    hashes (t, repetitions * bits): a positive entry is a one. projected (t, repetitions * width).
    """
    cells = 1 << bits
    width = projected.shape[1] // repetitions
    sizes = np.empty(cells, np.int64)
    nearest = np.empty(cells, np.int64)
    place = np.empty(cells, np.int64)
    for index in range(cells):
        # Neighbours in the order of the encoding differ in one bit of the hash (the Gray code).
        place[index ^ (index >> 1)] = index * width
    for s in range(offsets.size - 1):
        for r in range(repetitions):
            base = r * cells * width
            for c in range(cells):
                sizes[c] = 0
                nearest[c] = _NEVER
            for t in range(offsets[s], offsets[s + 1]):
                code = 0
                for b in range(r * bits, (r + 1) * bits):
                    code = 2 * code + (1 if hashes[t, b] > 0 else 0)
                at = base + place[code]
                for w in range(width):
                    out[s, at + w] += projected[t, r * width + w]
                sizes[code] += 1
                if nearest[code] == _NEVER:
                    nearest[code] = t
            if not mean:
                continue
            if fill:
                # Hamming distances to all cells at once: one sweep a bit, since they add up over the bits.
                for b in range(bits):
                    flip = 1 << b
                    for c in range(cells):
                        if c & flip:
                            low, high = nearest[c ^ flip], nearest[c]
                            nearest[c ^ flip] = min(low, high + _STEP)
                            nearest[c] = min(high, low + _STEP)
            for c in range(cells):
                at = base + place[c]
                if sizes[c] > 1:
                    for w in range(width):
                        out[s, at + w] /= sizes[c]
                elif sizes[c] == 0 and fill:
                    t = nearest[c] % _STEP
                    for w in range(width):
                        out[s, at + w] = projected[t, r * width + w]


__all__ = ["encode"]
