"""Which samples the sparse Walsh-Hadamard transform asks for: hash matrices of the groups and offsets."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from resolvent.sketch.sparse_walsh_kernel import MEMORY, TAPS

# Random offsets beside the n + 1 of the noiseless detector: three coefficients of equal size can look like one there.
_CHECKS = 3


class SamplePlan:
    """Hash matrices and offsets of the groups: which samples are asked for, whatever the answers are."""

    def __init__(self, n: int, b: int, detector: str, offsets: int | None, generator: torch.Generator) -> None:
        self.n, self.b, self.detector, self.generator = n, b, detector, generator
        self.columns: list[list[int]] = []
        self.duals: list[list[int]] = []
        self.offsets: list[np.ndarray] = []
        self.chains = 1
        self.places = np.zeros((1, 3), np.int64)
        if offsets is not None and (isinstance(offsets, bool) or not isinstance(offsets, int) or offsets < 1):
            raise ValueError(f"offsets must be an int of at least 1, got {offsets!r}")
        if offsets is not None and detector in ("noiseless", "coded"):
            raise ValueError(f"offsets of detector {detector!r} are fixed, got {offsets}")
        if detector == "majority":
            self.chains = offsets or max(3, -(-n // 4))
        self.count = offsets or 2 * n
        if detector == "coded":
            self.code, self.places = _code_offsets(n)

    def random(self, size: int) -> np.ndarray:
        return torch.randint(1 << self.n, (size,), generator=self.generator, device=self.generator.device).cpu().numpy()

    def add_group(self) -> None:
        if self.detector == "ml":
            rows, dual = _invertible(self.n, lambda: self.random(self.n).tolist())
            self.duals.append(dual)
            self.columns.append(rows[: self.b])
        else:
            self.columns.append(_independent(self.b, lambda: self.random(2 * self.b).tolist()))
        units = np.concatenate([np.zeros(1, np.int64), 1 << np.arange(self.n)])
        if self.detector == "noiseless":
            self.offsets.append(np.concatenate([units, self.random(_CHECKS)]))
        elif self.detector == "majority":
            self.offsets.append((self.random(self.chains)[:, None] ^ units).ravel())
        elif self.detector == "ml":
            self.offsets.append(self.random(self.count))
        else:
            self.offsets.append(self.code)

    def sample_places(self) -> np.ndarray:
        """(groups, P, B) indices ``M l + d``."""
        columns = np.array(self.columns, np.int64)
        lines = np.zeros((len(columns), 1), np.int64)
        for r in range(self.b):
            lines = np.concatenate([lines, lines ^ columns[:, r : r + 1]], 1)
        return np.stack(self.offsets)[:, :, None] ^ lines[:, None, :]


def _code_offsets(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets whose inner products with k are the code of the bits of k, and which offset each code bit is."""
    spelled = np.zeros((n + MEMORY, 3), np.int64)
    for t in range(n + MEMORY):
        for r, taps in enumerate(TAPS):
            for i in range(MEMORY + 1):
                q = t - MEMORY + i
                if taps >> i & 1 and 0 <= q < n:
                    spelled[t, r] |= 1 << q
    # At both ends some code bits are the same: one sample serves them, as its noise would come twice.
    distinct, places = np.unique(spelled, return_inverse=True)
    return distinct, places.reshape(spelled.shape)


@functools.cache
def code_bits() -> np.ndarray:
    """The three code bits of each content of the register of seven bits."""
    return np.array([sum(((s & taps).bit_count() & 1) << r for r, taps in enumerate(TAPS)) for s in range(128)])


def _independent(count: int, draw: Callable[[], list[int]]) -> list[int]:
    """Random binary vectors that are linearly independent."""
    kept: list[int] = []
    reduced: list[int] = []
    while len(kept) < count:
        for vector in draw():
            rest = vector
            for other in reduced:
                rest = min(rest, rest ^ other)
            if rest and len(kept) < count:
                kept.append(vector)
                reduced.append(rest)
    return kept


def _invertible(n: int, draw: Callable[[], list[int]]) -> tuple[list[int], list[int]]:
    """A random basis and its dual: ``<basis[i], dual[j]>`` is 1 for i = j and else 0."""
    basis = _independent(n, draw)
    left, right = list(basis), [1 << i for i in range(n)]
    for q in range(n):
        pivot = next(i for i in range(q, n) if left[i] >> q & 1)
        left[q], left[pivot], right[q], right[pivot] = left[pivot], left[q], right[pivot], right[q]
        for i in range(n):
            if i != q and left[i] >> q & 1:
                left[i] ^= left[q]
                right[i] ^= right[q]
    # `right` holds the rows of the inverse; its columns are the dual vectors.
    return basis, [sum((right[q] >> i & 1) << q for q in range(n)) for i in range(n)]


def projected(offsets: np.ndarray, dual: np.ndarray) -> np.ndarray:
    """Bit i of the result is the inner product of an offset with the i-th dual vector outside the hash."""
    lines = np.arange(62)
    product = (offsets[:, :, None] >> lines & 1) @ (dual[:, None, :] >> lines[:, None] & 1)
    return ((product & 1) << np.arange(dual.shape[1])).sum(2)
