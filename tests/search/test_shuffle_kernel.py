"""Every path of the four-bit sums that this machine has gives the same integers as a loop."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from resolvent.search import shuffle_kernel


def compiled(path):
    block_sums = shuffle_kernel.PATHS[path]

    @njit
    def run(codes, table, groups, sums):
        out = np.empty(32, np.int32)
        for b in range(codes.size // (64 * groups)):
            block_sums(codes, b * 64 * groups, table, groups, out)
            sums[32 * b : 32 * b + 32] = out

    return run


@pytest.mark.parametrize("path", list(shuffle_kernel.PATHS))
@pytest.mark.parametrize("m", [4, 8, 64, 256])
def test_sums_are_exact(path, m):
    r = np.random.default_rng(m)
    parts = r.integers(0, 16, (160, m)).astype(np.uint8)
    table = r.integers(0, 256, (m, 16)).astype(np.uint8)
    sums = np.empty(160, np.int32)
    compiled(path)(shuffle_kernel.pack(parts).ravel(), table.ravel(), m // 4, sums)
    assert (sums == table[np.arange(m), parts].astype(np.int64).sum(1)).all()


@pytest.mark.parametrize("path", list(shuffle_kernel.PATHS))
def test_the_largest_sum_does_not_overflow(path):
    parts, table = np.full((32, 256), 15, np.uint8), np.full((256, 16), 255, np.uint8)
    sums = np.empty(32, np.int32)
    compiled(path)(shuffle_kernel.pack(parts).ravel(), table.ravel(), 64, sums)
    assert (sums == 256 * 255).all()


def test_packing_is_undone():
    parts = np.random.default_rng(0).integers(0, 16, (96, 12)).astype(np.uint8)
    packed = shuffle_kernel.pack(parts)
    assert packed.shape == (3, 3, 64) and packed.nbytes == parts.size // 2
    assert (shuffle_kernel.unpack(packed) == parts).all()
