"""Rows of vectors in memory, in the storage format that the user chose, growing without a declared capacity."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# What each format is kept as. NumPy has no bfloat16: its upper halves are kept as unsigned integers.
FORMATS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
}
# A row that starts at a line of the cache is fetched in fewer lines.
_LINE = 64


class Vectors:
    """Rows of one dimension in a storage format.

    Parameters
    ----------
    dim : length of a row
    dtype : "float32", "float16", "bfloat16", or "int8" (a row is its codes -127..127 times one float32 scale)

    Attributes
    ----------
    data : (n, dim) array in the storage format (bfloat16 as uint16)
    scale : (n,) float32 of int8 rows, else None
    square : (n,) float32, squared norms of the decoded rows

    Notes
    -----
    Memory doubles when it is full, so that n appended rows cost O(n) in all. Rows that lie in a file (`from_arrays`
    with memory-mapped arrays) are copied only when something is appended.

    Examples
    --------
    >>> import numpy as np
    >>> v = Vectors.of(np.array([[1.0, 2.0], [3.0, -4.0]]), "int8")
    >>> v.rows(np.array([1])).round(2)
    array([[ 2.99, -4.  ]], dtype=float32)
    """

    def __init__(self, dim: int, dtype: str = "float32") -> None:
        if dtype not in FORMATS:
            raise ValueError(f"dtype must be one of {', '.join(FORMATS)}, got {dtype!r}")
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim must be a positive integer, got {dim!r}")
        self.dim = dim
        self.dtype = dtype
        self._n = 0
        self._data = aligned(0, dim, FORMATS[dtype])
        self._square = np.empty(0, np.float32)
        self._scale = np.empty(0, np.float32) if dtype == "int8" else None

    @classmethod
    def of(cls, x: Any, dtype: str = "float32") -> Vectors:
        """Rows of an (n, dim) array or tensor."""
        made = cls(int(x.shape[1]), dtype)
        made.append(x)
        return made

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], dtype: str) -> Vectors:
        """Rows over arrays that exist (memory-mapped or not), without a copy: what `arrays` gave."""
        data = arrays["data"]
        made = cls(int(data.shape[1]), dtype)
        if data.dtype != FORMATS[dtype]:
            raise ValueError(f"data must have dtype {FORMATS[dtype]} for {dtype}, got {data.dtype}")
        made._data, made._square, made._n = data, arrays["square"], len(data)
        if dtype == "int8":
            made._scale = arrays["scale"]
        for name, part in arrays.items():
            if len(part) != made._n:
                raise ValueError(f"{name} must have {made._n} rows, got {len(part)}")
        return made

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `from_arrays` needs, as views."""
        parts = {"data": self.data, "square": self.square}
        return parts if self.scale is None else {**parts, "scale": self.scale}

    def __len__(self) -> int:
        return self._n

    @property
    def data(self) -> np.ndarray:
        return self._data[: self._n]

    @property
    def square(self) -> np.ndarray:
        return self._square[: self._n]

    @property
    def scale(self) -> np.ndarray | None:
        return None if self._scale is None else self._scale[: self._n]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are there (not of the room kept for more)."""
        return sum(part.nbytes for part in self.arrays().values())

    def append(self, x: Any) -> None:
        """Add the rows of an (m, dim) array or tensor at the end."""
        rows = torch.as_tensor(x).detach().to("cpu", torch.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"rows must have shape (m, {self.dim}), got {tuple(rows.shape)}")
        first, last = self._n, self._n + len(rows)
        self._reserve(last)
        # A slice at a time: encoding a million rows holds no second copy of them in float32.
        step = max(1, (1 << 22) // self.dim)
        for a in range(0, len(rows), step):
            self._encode(rows[a : a + step], first + a)
        self._n = last

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Decoded rows (m, dim) float32 at these positions."""
        scale = None if self.scale is None else self.scale[index]
        return decode(self.data[index], scale, self.dtype).numpy()

    def block(self, first: int, last: int) -> Tensor:
        """Decoded rows first..last-1 as a float32 tensor; for float32 a view, for the rest a copy."""
        scale = None if self.scale is None else self.scale[first:last]
        return decode(self.data[first:last], scale, self.dtype)

    def keep(self, index: np.ndarray) -> Vectors:
        """These rows alone, in the same format and without decoding."""
        return Vectors.from_arrays({name: part[index] for name, part in self.arrays().items()}, self.dtype)

    def _reserve(self, n: int) -> None:
        capacity = len(self._data)
        if n <= capacity and self._data.flags.writeable:
            return
        room = n if capacity == 0 else max(n, 2 * capacity)
        data = aligned(room, self.dim, self._data.dtype)
        data[: self._n] = self._data[: self._n]
        self._data = data
        self._square = _longer(self._square, self._n, room)
        self._scale = None if self._scale is None else _longer(self._scale, self._n, room)

    def _encode(self, rows: Tensor, at: int) -> None:
        end = at + len(rows)
        if self.dtype == "float32":
            self._data[at:end] = rows.numpy()
            kept = rows
        elif self.dtype == "float16":
            half = rows.to(torch.float16)
            if bool(torch.isinf(half).any()):
                raise ValueError(
                    "rows have entries beyond 65504, the largest float16: use dtype='bfloat16' or scale them"
                )
            self._data[at:end] = half.numpy()
            kept = half.to(torch.float32)
        elif self.dtype == "bfloat16":
            brief = rows.to(torch.bfloat16)
            self._data[at:end] = brief.view(torch.uint16).numpy()
            kept = brief.to(torch.float32)
        else:
            codes, scale = quantize(rows)
            self._data[at:end], self._scale[at:end] = codes.numpy(), scale.numpy()  # type: ignore[index]
            kept = codes.to(torch.float32) * scale[:, None]
        self._square[at:end] = (kept * kept).sum(1).numpy()


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (m, d) int8 and scales (m,) float32 with row = scale * codes; the largest entry of a row is exact."""
    scale = rows.abs().amax(1) / 127
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / safe[:, None]).round().to(torch.int8), scale


def decode(data: np.ndarray, scale: np.ndarray | None, dtype: str) -> Tensor:
    """Stored rows as a float32 tensor; float32 rows are shared, not copied."""
    if dtype == "bfloat16":
        return torch.from_numpy(data.astype(np.uint32) << 16).view(torch.float32)
    if dtype == "float32":
        return torch.from_numpy(data) if data.flags.writeable else _read_only(data)
    rows = torch.from_numpy(data.astype(np.float32))
    return rows if scale is None else rows.mul_(_read_only(np.ascontiguousarray(scale))[:, None])


def aligned(n: int, dim: int, dtype: np.dtype) -> np.ndarray:
    """An (n, dim) array that starts at a line of the cache."""
    raw = np.empty(n * dim * dtype.itemsize + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + n * dim * dtype.itemsize].view(dtype).reshape(n, dim)


def _longer(part: np.ndarray, n: int, room: int) -> np.ndarray:
    longer = np.empty(room, part.dtype)
    longer[:n] = part[:n]
    return longer


def _read_only(data: np.ndarray) -> Tensor:
    """A tensor over memory that must not be written (a file that is mapped); torch has no such thing and warns."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(data)
