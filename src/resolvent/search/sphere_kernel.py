"""Numba kernels of the fixed-radius grid on the sphere: caps and rings of latitude rows cut to a window of longitude."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from resolvent.search.grid_kernel import cell_of, grown

# As in the plane: what a search widens its reach by, in radians, so that rounding loses no point.
_PAD = 1e-12


@njit(cache=True, nogil=True)
def angle(east, north, cos1, sin1, cos2, vincenty):  # type: ignore[no-untyped-def]
    """The angle between two points of the sphere whose longitudes and latitudes differ by these; all in radians."""
    half = math.sin(0.5 * east)
    turn = cos2 * half * half
    if not vincenty:
        up = math.sin(0.5 * north)
        return 2.0 * math.asin(min(math.sqrt(up * up + cos1 * turn), 1.0))
    # cos1 sin2 - sin1 cos2 cos(east) and sin1 sin2 + cos1 cos2 cos(east), without the cancellation at small angles.
    across = cos2 * math.sin(east)
    along = math.sin(north) + 2.0 * sin1 * turn
    return math.atan2(math.sqrt(across * across + along * along), math.cos(north) - 2.0 * cos1 * turn)


@njit(cache=True, nogil=True)
def _window(lat, reach):  # type: ignore[no-untyped-def]
    """Half the width in degrees of the longitudes that a cap meets: all of them if a pole is in it."""
    if abs(lat) + math.degrees(reach) >= 90.0:
        return 360.0
    return math.degrees(math.asin(min(math.sin(reach) / math.cos(math.radians(lat)), 1.0)) + _PAD)


@njit(cache=True, nogil=True)
def caps(points, start, frame, queries, inner, outer, closed, vincenty):  # type: ignore[no-untyped-def]
    """Points at an angle in [inner, outer] degrees (not closed: [inner, outer)) of each query.

    `points` (n, 3) are longitude, latitude and the cosine of the latitude, in the order of their cells; the rows of
    cells are bands of latitude, cut by longitude from `west`. Returns counts, positions, angles and points tested.
    """
    west, south, wide, high, across, bands = frame
    b = len(queries)
    counts, tested = np.zeros(b, np.int64), np.zeros(b, np.int64)
    found, angles = np.empty(1024, np.int64), np.empty(1024, np.float64)
    used = 0
    for k in range(b):
        lon, lat, before = queries[k, 0], queries[k, 1], used
        place = (lon - west) % 360.0
        cos1, sin1 = math.cos(math.radians(lat)), math.sin(math.radians(lat))
        reach = min(math.radians(outer[k]) * (1.0 + _PAD) + _PAD, math.pi)
        half, lift = _window(lat, reach), math.degrees(reach)
        first = max(cell_of((lat - lift - south) / high), 0)
        last = min(cell_of((lat + lift - south) / high), bands - 1)
        for band in range(first, last + 1):
            done = -1
            # The window and its two images; a cell that two of them meet is read once.
            for turn in range(-1, 2):
                s = max(cell_of((place + 360.0 * turn - half) / wide), done + 1)
                t = min(cell_of((place + 360.0 * turn + half) / wide), across - 1)
                if s > t:
                    continue
                done = t
                i, j = start[band * across + s], start[band * across + t + 1]
                found, angles = grown(found, used, used + j - i), grown(angles, used, used + j - i)
                for p in range(i, j):
                    east, north = math.radians(points[p, 0] - lon), math.radians(points[p, 1] - lat)
                    d = math.degrees(angle(east, north, cos1, sin1, points[p, 2], vincenty))
                    if inner[k] <= d and (d <= outer[k] if closed else d < outer[k]):
                        found[used] = p
                        angles[used] = d
                        used += 1
                tested[k] += j - i
        counts[k] = used - before
    return counts, found[:used].copy(), angles[:used].copy(), tested
