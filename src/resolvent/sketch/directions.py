"""Frequent Directions: a small matrix B whose B^H B is that of a long stream of rows, with a bound that it knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back

# Rows of sparse input that become dense at a time, at least; more where the sketch is larger.
_CHUNK = 64


class FrequentDirections:
    r"""A sketch B of :math:`\ell` rows of a matrix A whose rows come one after another:
    :math:`0 \preceq A^H A - B^H B \preceq \Delta I` with a :math:`\Delta` that is known at every moment.

    Parameters
    ----------
    d : number of columns
    size : rows :math:`\ell` of the sketch, at least 1
    dtype : of the sketch; default that of the first rows that come
    device : of the sketch; default that of the first rows that come

    Raises
    ------
    ValueError : `d` or `size` is not positive; rows of another width, NaN or infinity in them; merging sketches of
        different widths.

    Notes
    -----
    Rows fill a buffer of 2 l rows; when it is full, its squared singular values are lowered by the (l + 1)-st, which
    leaves l rows, and Delta grows by that number. Then :math:`\Delta \le \|A - A_k\|_F^2 / (l + 1 - k)` for every
    k up to l: `error_bound` is the sum that was truly taken off, and is never larger. The singular values come from
    the Gram matrix of the buffer, 4 d l flops a row; its rounding error, eps times the largest squared singular value,
    is of the size that the sum A^H A itself has. The bound holds in any order of rows and after any merges. Sparse rows
    become dense a buffer at a time. There is no gradient.

    References
    ----------
    "Frequent Directions: Simple and Deterministic Matrix Sketching"

    Examples
    --------
    >>> A = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0], [3.0, 0.0, 0.0]])
    >>> sketch = FrequentDirections(3, 2).update(A)
    >>> B = sketch.sketch()
    >>> gap = torch.linalg.matrix_norm(A.mT @ A - B.mT @ B, 2)
    >>> B.shape, bool(gap <= sketch.error_bound() + 1e-5)
    (torch.Size([2, 3]), True)
    """

    def __init__(
        self, d: int, size: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        for name, value in (("d", d), ("size", size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise ValueError(f"dtype must be a floating or complex dtype, got {dtype}")
        self.d, self.size = d, size
        self._dtype, self._device = dtype, device
        self._buffer: Tensor | None = None
        self._filled = 0
        self._rows = 0
        self._bound = 0.0
        self._energy = 0.0
        self._kind: Kind = "torch"

    @property
    def rows(self) -> int:
        """Number of rows that came."""
        return self._rows

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of the rows that came."""
        return self._energy

    def update(self, rows: Any) -> FrequentDirections:
        """Take in rows: (d,) or (k, d), a tensor or array, or sparse (SciPy, torch)."""
        for part in self._dense_parts(rows):
            self._append(part)
            self._rows += len(part)
            self._energy += float(_energy(part))
        return self

    def extend(self, pieces: Iterable[Any]) -> FrequentDirections:
        """Take in several pieces of rows."""
        for rows in pieces:
            self.update(rows)
        return self

    def merge(self, other: FrequentDirections) -> FrequentDirections:
        """Take in all that another sketch of the same width has seen; the bounds add up."""
        if not isinstance(other, FrequentDirections):
            raise TypeError(f"other must be a FrequentDirections, got {type(other).__name__}")
        if other.d != self.d:
            raise ValueError(f"other must have {self.d} columns, got {other.d}")
        if other._buffer is not None:
            self._kind = other._kind if self._buffer is None else self._kind
            # A copy, so that a sketch can be merged into itself.
            self._append(other._buffer[: other._filled].clone())
        self._bound += other._bound
        self._rows += other._rows
        self._energy += other._energy
        return self

    def sketch(self) -> Any:
        """B: at most `size` rows, of orthogonal directions, the longest first."""
        B, _ = self._reduced()
        return give_back(B, self._kind)

    def error_bound(self) -> float:
        r"""A number that :math:`\|A^H A - B^H B\|_2` does not exceed, B being `sketch()`."""
        return self._bound + self._reduced()[1]

    def _reduced(self) -> tuple[Tensor, float]:
        if self._buffer is None:
            raise ValueError("no rows have come yet")
        return _shrunk(self._buffer[: self._filled], self.size)

    def _append(self, part: Tensor) -> None:
        if self._buffer is None:
            dtype, device = self._dtype or part.dtype, self._device or part.device
            self._buffer = torch.zeros(2 * self.size, self.d, dtype=dtype, device=device)
        start = 0
        while start < len(part):
            if self._filled == len(self._buffer):
                B, lost = _shrunk(self._buffer, self.size)
                self._bound += lost
                self._buffer[: len(B)] = B
                self._filled = len(B)
            count = min(len(self._buffer) - self._filled, len(part) - start)
            self._buffer[self._filled : self._filled + count] = part[start : start + count]
            self._filled += count
            start += count

    def _dense_parts(self, rows: Any) -> Iterator[Tensor]:
        pieces: Iterator[Any]
        if hasattr(rows, "tocsr"):
            step, matrix = max(_CHUNK, 2 * self.size), rows.tocsr()
            self._check_width(matrix.shape)
            pieces = (matrix[i : i + step].toarray() for i in range(0, matrix.shape[0], step))
        elif isinstance(rows, Tensor) and rows.layout != torch.strided:
            step, coo = max(_CHUNK, 2 * self.size), rows.to_sparse_coo().coalesce()
            self._check_width(coo.shape)
            pieces = (_dense_rows(coo, i, min(i + step, coo.shape[0])) for i in range(0, coo.shape[0], step))
        else:
            pieces = iter((rows,))
        for piece in pieces:
            t, self._kind = as_tensor(piece, "rows")
            t = t.detach()
            t = t[None] if t.ndim == 1 else t
            self._check_width(t.shape)
            check_finite(t, "rows")
            if t.is_complex() and self._dtype_now is not None and not self._dtype_now.is_complex:
                raise ValueError(f"rows are complex and the sketch is {self._dtype_now}: give dtype=torch.complex128")
            yield t

    @property
    def _dtype_now(self) -> torch.dtype | None:
        return self._dtype if self._buffer is None else self._buffer.dtype

    def _check_width(self, shape: Any) -> None:
        if len(shape) != 2 or shape[1] != self.d:
            raise ValueError(f"rows must have shape (k, {self.d}), got {tuple(shape)}")


def _energy(t: Tensor) -> Tensor:
    return (t.abs() if t.is_complex() else t).double().square().sum()


def _dense_rows(coo: Tensor, first: int, last: int) -> Tensor:
    """Rows of a coalesced COO matrix, whose indices are sorted."""
    places, values = coo.indices(), coo.values()
    bounds = torch.searchsorted(places[0].contiguous(), torch.tensor([first, last], device=places.device))
    cut = slice(*bounds.tolist())
    out = values.new_zeros(last - first, coo.shape[1])
    out[places[0, cut] - first, places[1, cut]] = values[cut]
    return out


def _shrunk(buffer: Tensor, size: int) -> tuple[Tensor, float]:
    """At most `size` orthogonal rows, and what their squared lengths were lowered by."""
    # Small eigenvalues of the Gram matrix in float64: what float32 rows lose is then their own rounding error only.
    scale = buffer.abs().amax() if len(buffer) else buffer.new_zeros(())
    if not bool(scale > 0):
        return buffer[:0], 0.0
    wide = torch.complex128 if buffer.is_complex() else torch.float64
    unit = buffer / scale
    w, U = torch.linalg.eigh((unit @ unit.mH).to(wide))
    w, U = w.flip(0).clamp_min(0), U.flip(1)
    taken = w[size] if len(w) > size else w.new_zeros(())
    kept = (w[:size] - taken).clamp_min(0)
    wanted = kept > 0
    # Directions at the rounding level of the Gram matrix have no meaning of their own: they go, and count as taken off.
    floor = 4 * len(w) * torch.finfo(buffer.dtype).eps * w[0]
    wanted &= w[:size] > floor
    dropped = torch.where(wanted, torch.zeros_like(kept), w[:size]).amax()
    factors = (kept[wanted] / w[:size][wanted]).sqrt()
    B = (U[:, :size][:, wanted] * factors).mH.to(buffer.dtype) @ unit
    unit_length = float(scale)
    return B * scale, float(torch.maximum(taken, dropped)) * unit_length * unit_length
