"""Bits to signs, a word of 64 at a time."""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(cache=True, nogil=True)
def signs_of_bits(words: Any, out: Any) -> None:
    """out[64 w + k] <- 1 where bit k of words[w] is set, else -1."""
    for w in range(words.shape[0]):
        word, row = words[w], out[64 * w : 64 * w + 64]
        for k in range(64):
            row[k] = 2 * ((word >> k) & 1) - 1
