"""Numba kernels of algebraic multigrid: aggregation, prolongation, and the parts of a cycle, over compressed rows.

The kernels of a cycle run on all cores. Gauss-Seidel is made parallel by chunks of rows whose couplings to other chunks
wait for the next residual; the chunks depend on the size of the matrix alone, so that results are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resolvent.operators.parallel import njit, prange

_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True)
def inverse_diagonal(indptr, indices, values):  # type: ignore[no-untyped-def]
    """1 / a_ii, and the largest sum of |a_ij| / a_ii: a bound on the spectrum of D^-1 A. A bad diagonal gives -1."""
    n = indptr.size - 1
    inverse = np.empty(n, values.dtype)
    bound = 0.0
    for i in range(n):
        d, total = 0.0, 0.0
        for p in range(indptr[i], indptr[i + 1]):
            total += abs(values[p])
            if indices[p] == i:
                d += values[p]
        if not d > 0:
            return inverse, -1.0
        inverse[i] = 1 / d
        bound = max(bound, total / d)
    return inverse, bound


@njit(cache=True, nogil=True)
def aggregate(indptr, indices, values, inverse, theta):  # type: ignore[no-untyped-def]
    """The aggregate of every row (-1 for rows without strong neighbours), and how many there are.

    Vanek, Mandel and Brezina's three passes: whole neighbourhoods first, then the rows beside them, then what is left.
    """
    n = indptr.size - 1
    label = np.full(n, -1, np.int32)
    count = 0
    lonely = np.zeros(n, np.bool_)
    for i in range(n):
        alone, free = True, True
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if j != i and values[p] * values[p] * inverse[i] * inverse[j] >= theta * theta and values[p] != 0:
                alone = False
                if label[j] >= 0:
                    free = False
                    break
        lonely[i] = alone
        if alone or not free or label[i] >= 0:
            continue
        label[i] = count
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if j != i and values[p] * values[p] * inverse[i] * inverse[j] >= theta * theta and values[p] != 0:
                label[j] = count
        count += 1
    whole = label.copy()
    for i in range(n):
        if label[i] >= 0 or lonely[i]:
            continue
        best, weight = -1, 0.0
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            strength = values[p] * values[p] * inverse[i] * inverse[j]
            if j != i and whole[j] >= 0 and strength >= theta * theta and strength > weight:
                best, weight = whole[j], strength
        label[i] = best
    for i in range(n):
        if label[i] >= 0 or lonely[i]:
            continue
        label[i] = count
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if label[j] < 0 and values[p] * values[p] * inverse[i] * inverse[j] >= theta * theta and values[p] != 0:
                label[j] = count
        count += 1
    return label, count


@njit(cache=True, nogil=True)
def tentative(label, count, near):  # type: ignore[no-untyped-def]
    """The piecewise prolongator of unit columns that reproduces a vector, and that vector on the aggregates."""
    size = np.zeros(count, np.float64)
    for i in range(label.size):
        if label[i] >= 0:
            size[label[i]] += near[i] * near[i]
    coarse = np.sqrt(size)
    weight = np.zeros(label.size, near.dtype)
    for i in range(label.size):
        if label[i] >= 0 and coarse[label[i]] > 0:
            weight[i] = near[i] / coarse[label[i]]
    return weight, coarse.astype(near.dtype)


@njit(cache=True, nogil=True, parallel=True)
def smoothed(bounds, indptr, indices, values, inverse, label, weight, theta, omega):  # type: ignore[no-untyped-def]
    """Rows of (I - omega D_F^-1 A_F) T in compressed form; A_F is A with weak entries lumped onto the diagonal."""
    n = indptr.size - 1
    place = np.zeros(n + 1, np.int64)
    for t in prange(bounds.size - 1):
        for i in range(bounds[t], bounds[t + 1]):
            place[i + 1] = indptr[i + 1] - indptr[i] + 1
    for i in range(n):
        place[i + 1] += place[i]
    columns = np.empty(place[n], np.int32)
    entries = np.empty(place[n], values.dtype)
    lengths = np.zeros(n + 1, np.int32)
    for t in prange(bounds.size - 1):
        for i in range(bounds[t], bounds[t + 1]):
            first = place[i]
            used = first
            d = values.dtype.type(0)
            for p in range(indptr[i], indptr[i + 1]):
                j = indices[p]
                strong = j != i and values[p] * values[p] * inverse[i] * inverse[j] >= theta * theta
                if not strong:
                    d += values[p]
                    continue
                if label[j] < 0:
                    continue
                q = first
                while q < used and columns[q] != label[j]:
                    q += 1
                if q == used:
                    columns[q], entries[q] = label[j], 0
                    used += 1
                entries[q] += values[p] * weight[j]
            # A filtered diagonal that lumping made small would blow the correction up.
            if not d * inverse[i] > 0.1:
                d = 1 / inverse[i]
            for q in range(first, used):
                entries[q] *= -omega / d
            if label[i] >= 0:
                q = first
                while q < used and columns[q] != label[i]:
                    q += 1
                if q == used:
                    columns[q], entries[q] = label[i], 0
                    used += 1
                entries[q] += (1 - omega) * weight[i]
            lengths[i + 1] = used - first
    for i in range(n):
        lengths[i + 1] += lengths[i]
    out_columns = np.empty(lengths[n], np.int32)
    out = np.empty(lengths[n], values.dtype)
    for t in prange(bounds.size - 1):
        for i in range(bounds[t], bounds[t + 1]):
            for q in range(lengths[i + 1] - lengths[i]):
                column, entry = columns[place[i] + q], entries[place[i] + q]
                # Rows are short: they are sorted as they are copied.
                at = lengths[i] + q
                while at > lengths[i] and out_columns[at - 1] > column:
                    out_columns[at], out[at] = out_columns[at - 1], out[at - 1]
                    at -= 1
                out_columns[at], out[at] = column, entry
    return lengths, out_columns, out


@njit(cache=True, nogil=True)
def transpose(indptr, indices, values, count):  # type: ignore[no-untyped-def]
    """Compressed rows of the transpose, sorted."""
    starts = np.zeros(count + 1, np.int32)
    for p in range(indices.size):
        starts[indices[p] + 1] += 1
    for j in range(count):
        starts[j + 1] += starts[j]
    place = starts[:-1].copy()
    rows = np.empty(indices.size, np.int32)
    out = np.empty(values.size, values.dtype)
    for i in range(indptr.size - 1):
        for p in range(indptr[i], indptr[i + 1]):
            q = place[indices[p]]
            place[indices[p]] = q + 1
            rows[q], out[q] = i, values[p]
    return starts, rows, out


@njit(cache=True, nogil=True, fastmath=_FAST)
def rows_forward(low, high, indptr, indices, values, inverse, r, x):  # type: ignore[no-untyped-def]
    """x = (D + L)^-1 r within the rows low to high."""
    for i in range(low, high):
        total = r[i]
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if j < i and j >= low:
                total -= values[p] * x[j]
        x[i] = total * inverse[i]


@njit(cache=True, nogil=True, fastmath=_FAST)
def rows_backward(low, high, indptr, indices, values, inverse, r, x):  # type: ignore[no-untyped-def]
    """x += (D + U)^-1 r within the rows low to high; r is overwritten."""
    for i in range(high - 1, low - 1, -1):
        total = r[i]
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if j > i and j < high:
                total -= values[p] * r[j]
        step = total * inverse[i]
        r[i] = step
        x[i] += step


@njit(cache=True, nogil=True, fastmath=_FAST)
def rows_residual(low, high, indptr, indices, values, x, b, r):  # type: ignore[no-untyped-def]
    """r = b - A x in the rows low to high."""
    for i in range(low, high):
        total = b[i]
        for p in range(indptr[i], indptr[i + 1]):
            total -= values[p] * x[indices[p]]
        r[i] = total


@njit(cache=True, nogil=True, fastmath=_FAST)
def rows_times(low, high, indptr, indices, values, x, y, add):  # type: ignore[no-untyped-def]
    """y = A x, or y += A x, in the rows low to high."""
    for i in range(low, high):
        total = values.dtype.type(0)
        for p in range(indptr[i], indptr[i + 1]):
            total += values[p] * x[indices[p]]
        y[i] = y[i] + total if add else total


@njit(cache=True, nogil=True, fastmath=_FAST)
def rows_damp(low, high, inverse, omega, r, x, add):  # type: ignore[no-untyped-def]
    """x = omega D^-1 r, or x += omega D^-1 r, in the rows low to high."""
    for i in range(low, high):
        step = omega * inverse[i] * r[i]
        x[i] = x[i] + step if add else step


@njit(cache=True, nogil=True, parallel=True)
def _forward(bounds, indptr, indices, values, inverse, r, x):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        rows_forward(bounds[t], bounds[t + 1], indptr, indices, values, inverse, r, x)


@njit(cache=True, nogil=True, parallel=True)
def _backward(bounds, indptr, indices, values, inverse, r, x):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        rows_backward(bounds[t], bounds[t + 1], indptr, indices, values, inverse, r, x)


@njit(cache=True, nogil=True, parallel=True)
def _residual(bounds, indptr, indices, values, x, b, r):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        rows_residual(bounds[t], bounds[t + 1], indptr, indices, values, x, b, r)


@njit(cache=True, nogil=True, parallel=True)
def _times(bounds, indptr, indices, values, x, y, add):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        rows_times(bounds[t], bounds[t + 1], indptr, indices, values, x, y, add)


@njit(cache=True, nogil=True, parallel=True)
def _damp(bounds, inverse, omega, r, x, add):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        rows_damp(bounds[t], bounds[t + 1], inverse, omega, r, x, add)


def _shared(alone: Any, together: Any) -> Callable[..., None]:
    """The kernel on all cores, or on this one where the rows are too few to wake another."""

    def run(bounds: np.ndarray, *rest: Any) -> None:
        if len(bounds) == 2:
            alone(bounds[0], bounds[1], *rest)
        else:
            together(bounds, *rest)

    return run


forward, backward, residual, times, damp = (
    _shared(alone, together)
    for alone, together in (
        (rows_forward, _forward),
        (rows_backward, _backward),
        (rows_residual, _residual),
        (rows_times, _times),
        (rows_damp, _damp),
    )
)
