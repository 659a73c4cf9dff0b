"""Numba kernel of the split nearest neighbour: the nearest point of each group, by one sweep over a common grid."""

from __future__ import annotations

import numpy as np
from numba import njit

from resolvent.search.grid_kernel import _certain, _ring, cell_of

_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def _offer(x, groups, a, b, q, best, rows, fresh):  # type: ignore[no-untyped-def]
    """Let the points a..b-1 compete for their groups. Returns how many groups have a point by now."""
    for i in range(a, b):
        d = 0.0
        for c in range(x.shape[1]):
            g = x[i, c] - q[c]
            d += g * g
        m = groups[i]
        if d < best[m]:
            fresh += best[m] == np.inf
            best[m], rows[m] = d, i
    return fresh


@njit(cache=True, nogil=True)
def nearest_of_groups(x, groups, count, start, frame, shape, queries, keep):  # type: ignore[no-untyped-def]
    """The `keep` groups whose nearest points are nearest: positions and squared distances (b, keep), points tested.

    Rings of cells around the query until `keep` groups have their nearest point inside the radius covered: no other
    group can be nearer, and no group can have a nearer point than that.
    """
    b, dim = queries.shape
    found, gaps = np.empty((b, keep), np.int64), np.empty((b, keep))
    tested = np.zeros(b, np.int64)
    home, at = np.empty(dim, np.int64), np.empty(dim, np.int64)
    left, right = np.empty(dim, np.int64), np.empty(dim, np.int64)
    runs = np.empty((64, 3), np.int64)
    best, rows = np.empty(count), np.empty(count, np.int64)
    for k in range(b):
        q, fresh, s = queries[k], 0, 0
        best[:] = np.inf
        for a in range(dim):
            home[a] = cell_of((q[a] - frame[0, a]) / frame[1, a])
            left[a], right[a] = -home[a], shape[a] - 1 - home[a]
            s = max(s, left[a], -right[a])
        while True:
            runs, cells = _ring(start, frame, shape, q, home, s, left, right, at, np.inf, runs)
            for m in range(cells):
                fresh = _offer(x, groups, runs[m, 0], runs[m, 1], q, best, rows, fresh)
                tested[k] += runs[m, 1] - runs[m, 0]
            radius = _certain(q, home, s, frame, shape, left, right)
            if radius == np.inf:
                break
            if fresh >= keep and (best <= radius * radius).sum() >= keep:
                break
            s += 1
        order = np.argsort(best, kind="mergesort")[:keep]
        for j in range(keep):
            found[k, j], gaps[k, j] = rows[order[j]], best[order[j]]
    return found, gaps, tested
