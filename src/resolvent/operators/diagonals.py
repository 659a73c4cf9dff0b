"""Numba kernels for sparse matrices whose entries lie on few diagonals: grids, stencils, bands.

Held diagonal by diagonal, a product with one vector streams: no index per entry is read, the loops run in vector
registers, and of a symmetric matrix the upper half is enough. `Pattern` turns to this form by itself when the same
values are multiplied often; the sums run in the order of the compressed rows, so the results are the same to the bit.
"""

from __future__ import annotations

import numpy as np

from resolvent.operators.parallel import njit, prange

# A matrix with more diagonals than this is not local enough for the form to pay.
_MOST = 128
# Of the bytes of the compressed rows: beyond, too much of the diagonals is empty.
_SHARE = 0.8
# Bytes of the result that stay in the first-level cache while all diagonals pass.
_BLOCK = 4096


class Diagonals:
    """The diagonals of a real (m, n) matrix: entry (i, i + offsets[d]) at rows[d, i]."""

    def __init__(self, shape: tuple[int, int], offsets: np.ndarray, rows: np.ndarray, mirrored: bool) -> None:
        self.shape, self.rows, self.mirrored = shape, rows, mirrored
        here = np.arange(len(offsets))
        # A term is a diagonal, how far back its values lie, and how far ahead the operand does.
        if mirrored:
            below = here[:0:-1]
            zero, up, down = np.zeros_like(offsets), offsets, offsets[below]
            forward = (np.r_[below, here], np.r_[down, zero], np.r_[-down, up])
            backward = forward
        else:
            forward = (here, np.zeros_like(offsets), offsets)
            backward = (here[::-1], offsets[::-1], -offsets[::-1])
        self._terms = {False: _contiguous(forward), True: _contiguous(backward)}

    def times(self, x: np.ndarray, adjoint: bool, threads: int) -> np.ndarray:
        """``A x`` or ``A^T x`` of a contiguous vector."""
        y = np.empty(self.shape[1 if adjoint else 0], self.rows.dtype)
        terms = self._terms[adjoint]
        _times(_bounds(len(y), threads), *terms, self.rows, x, y, _BLOCK // y.itemsize)  # type: ignore[call-arg]
        return y

    def step(self, x: np.ndarray, z: np.ndarray, scale: np.floating, shift: np.floating, threads: int) -> None:
        """``z <- scale A x - shift x - z`` of a square matrix."""
        block, terms = _BLOCK // z.itemsize, self._terms[False]
        _step(_bounds(len(z), threads), *terms, self.rows, x, z, scale, shift, block)  # type: ignore[call-arg]


def diagonals(shape: tuple[int, int], indptr: np.ndarray, indices: np.ndarray, values: np.ndarray) -> Diagonals | None:
    """The form by diagonals if it is smaller than the compressed rows, else None. Repeated entries add up."""
    m, n = shape
    count, seen = _offsets(indptr, indices, m, n, _MOST)
    if count > _MOST:
        return None
    offsets = np.flatnonzero(seen) - (m - 1)
    allowed = _SHARE * (values.nbytes + indices.nbytes + indptr.nbytes)
    line = m * values.itemsize
    if m == n and (offsets == -offsets[::-1]).all():
        upper = offsets[offsets >= 0] if 0 in offsets else np.r_[0, offsets[offsets > 0]]
        if len(upper) * line <= allowed:
            rows = np.zeros((len(upper), m), values.dtype)
            if _fill_mirrored(indptr, indices, values, _places(upper, m, n), rows):
                return Diagonals(shape, upper, rows, True)
    if len(offsets) * line > allowed:
        return None
    rows = np.zeros((len(offsets), m), values.dtype)
    _fill(indptr, indices, values, _places(offsets, m, n), rows)
    return Diagonals(shape, offsets, rows, False)


def few(shape: tuple[int, int], indptr: np.ndarray, indices: np.ndarray) -> bool:
    """Whether the entries lie on few enough diagonals; a look at the first rows tells of most that do not."""
    return bool(_offsets(indptr, indices, *shape, _MOST)[0] <= _MOST)


def _contiguous(terms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(term) for term in terms)


def _places(offsets: np.ndarray, m: int, n: int) -> np.ndarray:
    places = np.full(m + n - 1, -1, np.int16)
    places[offsets + (m - 1)] = np.arange(len(offsets))
    return places


def _bounds(rows: int, threads: int) -> np.ndarray:
    return np.linspace(0, rows, threads + 1).astype(np.int64)


@njit(cache=True, nogil=True)
def _offsets(indptr, indices, m, n, most):  # type: ignore[no-untyped-def]
    """Which offsets column - row occur, as marks from -(m - 1) on, and how many; gives up beyond `most`."""
    seen = np.zeros(m + n - 1, np.bool_)
    count = 0
    for i in range(m):
        for j in range(indptr[i], indptr[i + 1]):
            place = np.intp(indices[j]) - i + m - 1
            if not seen[place]:
                seen[place] = True
                count += 1
        if count > most:
            break
    return count, seen


@njit(cache=True, nogil=True)
def _fill(indptr, indices, values, places, rows):  # type: ignore[no-untyped-def]
    m = rows.shape[1]
    for i in range(m):
        for j in range(indptr[i], indptr[i + 1]):
            rows[places[np.intp(indices[j]) - i + m - 1], i] += values[j]


@njit(cache=True, nogil=True)
def _fill_mirrored(indptr, indices, values, places, rows):  # type: ignore[no-untyped-def]
    """Fill in the upper half; False if the lower half is not the same to the bit, or an entry is repeated."""
    m = rows.shape[1]
    above, below = 0, 0
    for i in range(m):
        before = np.intp(-1)
        for j in range(indptr[i], indptr[i + 1]):
            column = np.intp(indices[j])
            if column <= before:
                return False
            before = column
            if column >= i:
                rows[places[column - i + m - 1], i] = values[j]
                above += int(column > i)
            else:
                # The mirror image was filled in by an earlier row.
                below += 1
                if rows[places[i - column + m - 1], column] != values[j]:
                    return False
    return above == below


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _add_terms(line, back, ahead, rows, x, first, last, out):  # type: ignore[no-untyped-def]
    """out[i - first] = sum over the terms of rows[line, i - back] * x[i + ahead], for i from first to last."""
    out[: last - first] = 0
    for t in range(line.size):
        # Slices that start at zero let LLVM see that no index is negative, and vectorise.
        low = max(first, back[t], -ahead[t])
        high = min(last, rows.shape[1] + back[t], x.size - ahead[t])
        if low < high:
            total = out[low - first : high - first]
            value = rows[line[t]][low - back[t] : high - back[t]]
            operand = x[low + ahead[t] : high + ahead[t]]
            for i in range(total.size):
                total[i] += value[i] * operand[i]


@njit(cache=True, nogil=True, parallel=True)
def _times(bounds, line, back, ahead, rows, x, y, block):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        for first in range(bounds[t], bounds[t + 1], block):
            last = min(first + block, bounds[t + 1])
            _add_terms(line, back, ahead, rows, x, first, last, y[first:last])


@njit(cache=True, nogil=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
def _step(bounds, line, back, ahead, rows, x, z, scale, shift, block):  # type: ignore[no-untyped-def]
    for t in prange(bounds.size - 1):
        product = np.empty(block, z.dtype)
        for first in range(bounds[t], bounds[t + 1], block):
            last = min(first + block, bounds[t + 1])
            _add_terms(line, back, ahead, rows, x, first, last, product)
            part, operand = z[first:last], x[first:last]
            for i in range(part.size):
                part[i] = scale * product[i] - shift * operand[i] - part[i]
