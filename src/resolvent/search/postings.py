"""Posting lists of one immutable part of an inverted index: blocks by term and window of documents."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

Impacts = Literal["float32", "uint8"]
# Windows of 2^5 to 2^8 documents, and about as many windows as this: more of them give tighter bounds, but all are
# looked at for every query.
_LEAST_BITS, _MOST_BITS, _WINDOWS = 5, 8, 2048
_CODES = 255
_DAMAGED = "arrays do not fit together as postings: the index is damaged, build it anew"


class Postings(NamedTuple):
    """What each term has in each window of ``2 ** bits`` documents.

    Attributes
    ----------
    block_ptr : (dim + 1,) blocks of term t are ``block_ptr[t]`` to ``block_ptr[t + 1]``
    block_window : (blocks,) int32, the window of a block: the documents from ``w << bits`` on
    block_start : (blocks + 1,) postings of block i are ``block_start[i]`` to ``block_start[i + 1]``
    block_max : (blocks,) largest impact of a block
    places : (postings,) uint8 place in the window, ascending in a block
    impacts : (postings,) float32, or uint8 codes of at least 1
    scale : (dim,) float32 value of a code, or of length 0 for float32 impacts
    rows : how many documents
    bits : the logarithm of the size of a window, at most 8

    Notes
    -----
    A posting costs 2 bytes in 8 bits and 5 in float32, a block 9 to 12 more.
    """

    block_ptr: np.ndarray
    block_window: np.ndarray
    block_start: np.ndarray
    block_max: np.ndarray
    places: np.ndarray
    impacts: np.ndarray
    scale: np.ndarray
    rows: int
    bits: int

    @property
    def windows(self) -> int:
        return -(-self.rows // (1 << self.bits))

    @property
    def dim(self) -> int:
        return len(self.block_ptr) - 1

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self[:-2])

    def arrays(self) -> dict[str, np.ndarray]:
        """All fields as arrays, for files."""
        return {**dict(zip(self._fields[:-2], self[:-2], strict=True)), "shape": np.array([self.rows, self.bits])}


def make_postings(rows: Any, impacts: Impacts) -> Postings:
    """Posting lists of a CSR array of positive float32 numbers."""
    columns = sparse.csc_array(rows)
    columns.sort_indices()
    dim = columns.shape[1]
    index = np.int64 if columns.nnz >= 2**31 else np.int32
    bits = max(_LEAST_BITS, min(_MOST_BITS, math.ceil(math.log2(max(columns.shape[0], 1) / _WINDOWS))))
    data, scale = (columns.data, np.empty(0, np.float32)) if impacts == "float32" else _codes(columns)
    if not columns.nnz:
        none = np.empty(0, np.int32)
        start, nothing = np.zeros(1, index), np.empty(0, np.uint8)
        return Postings(np.zeros(dim + 1, index), none, start, data, nothing, data, scale, columns.shape[0], bits)
    window = columns.indices >> bits
    begins = np.empty(columns.nnz, bool)
    begins[0] = True
    np.not_equal(window[1:], window[:-1], out=begins[1:])
    begins[columns.indptr[:-1][np.diff(columns.indptr) > 0]] = True
    start = np.flatnonzero(begins)
    return Postings(
        np.searchsorted(start, columns.indptr).astype(index),
        window[start].astype(np.int32),
        np.append(start, columns.nnz).astype(index),
        np.maximum.reduceat(data, start),
        (columns.indices & ((1 << bits) - 1)).astype(np.uint8),
        data,
        scale,
        columns.shape[0],
        bits,
    )


def as_rows(postings: Postings) -> Any:
    """The CSR array again; of 8-bit impacts the values that the codes stand for."""
    sizes = np.diff(postings.block_start)
    row = (np.repeat(postings.block_window.astype(np.int64), sizes) << postings.bits) + postings.places
    ends = postings.block_start[postings.block_ptr]
    data = postings.impacts.astype(np.float32)
    if len(postings.scale):
        data *= np.repeat(postings.scale, np.diff(ends))
    return sparse.csr_array(sparse.csc_array((data, row, ends), shape=(postings.rows, postings.dim)))


def from_arrays(arrays: dict[str, np.ndarray], dim: int) -> Postings:
    """Posting lists over arrays that exist, memory-mapped or not, without a copy: what `Postings.arrays` gave.

    Only sizes and dtypes are looked at, so that opening does not read a large file; `check_blocks` looks at the rest.
    """
    missing = [name for name in (*Postings._fields[:-2], "shape") if name not in arrays]
    if missing:
        raise ValueError(f"arrays must hold the postings, got none for {', '.join(missing)}")
    fields = {name: arrays[name] for name in Postings._fields[:-2]}
    rows, bits = (int(number) for number in arrays["shape"])
    made = Postings(**fields, rows=rows, bits=bits)
    blocks, count, kind = len(made.block_window), len(made.places), made.impacts.dtype
    sizes = (len(made.block_start), len(made.block_max), len(made.impacts), len(made.scale))
    if (
        (made.dim, sizes) != (dim, (blocks + 1, blocks, count, dim if kind == np.uint8 else 0))
        or made.rows < 0
        or not 0 <= made.bits <= _MOST_BITS
        or kind not in (np.float32, np.uint8)
        or (made.block_max.dtype, made.places.dtype) != (kind, np.uint8)
        or any(part.dtype.kind != "i" for part in (made.block_ptr, made.block_window, made.block_start))
    ):
        raise ValueError(_DAMAGED)
    return made


def check_blocks(postings: Postings) -> None:
    """Raise a ValueError where a block points outside the arrays or the rows: a kernel would follow it."""
    blocks, last = len(postings.block_window), postings.windows - 1
    if not (_ladder(postings.block_ptr, blocks) and _ladder(postings.block_start, len(postings.places))):
        raise ValueError(_DAMAGED)
    if not blocks:
        return
    if postings.block_window.min() < 0 or postings.block_window.max() > last:
        raise ValueError(_DAMAGED)
    # The largest place of a block is its last; places of the last window end with the rows.
    if (postings.places[postings.block_start[1:] - 1] >= 1 << postings.bits).any():
        raise ValueError(_DAMAGED)
    ends = postings.block_start[1:][postings.block_window == last]
    if (postings.places[ends - 1] >= postings.rows - (last << postings.bits)).any():
        raise ValueError(_DAMAGED)


def _ladder(ends: np.ndarray, last: int) -> bool:
    """Whether these are ends of consecutive ranges of 0..last."""
    return bool(ends[0] == 0 and ends[-1] == last and (ends[1:] >= ends[:-1]).all())


def _codes(columns: Any) -> tuple[np.ndarray, np.ndarray]:
    """8-bit impacts with one scale per term, rounded to nearest but never to zero: what matches stays a match."""
    sizes = np.diff(columns.indptr)
    scale = np.zeros(len(sizes), np.float32)
    taken = sizes > 0
    if taken.any():
        scale[taken] = np.maximum.reduceat(columns.data, columns.indptr[:-1][taken]) / np.float32(_CODES)
    # Impacts below 255 times the smallest float32 have a scale of zero.
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    codes = np.clip(np.rint(columns.data / np.repeat(scale, sizes)), 1, _CODES).astype(np.uint8)
    return codes, scale
