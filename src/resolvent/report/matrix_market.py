"""Matrix Market text files, read so that a damaged one is an error and nothing worse.

SciPy's parser is faster, and reads beyond the end of its buffer where the last line has something odd after its number
and no line break: a broken file would end the process. NumPy's parser of numbers does not.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse

_FORMATS = ("coordinate", "array")
_NUMBERS = {"real": 1, "double": 1, "integer": 1, "unsigned-integer": 1, "complex": 2, "pattern": 0}
_SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")
# A longer line is no line of this format; reading stops there instead of taking the whole file for one.
_LINE = 1 << 16


@dataclass(frozen=True)
class Header:
    """What a Matrix Market file says of itself.

    Attributes
    ----------
    rows, columns : the shape
    entries : how many are stored
    format : "coordinate" or "array"
    field : "real", "integer", "complex", ...
    symmetry : "general", "symmetric", "skew-symmetric" or "hermitian"
    start : where the entries begin, in bytes
    """

    rows: int
    columns: int
    entries: int
    format: str
    field: str
    symmetry: str
    start: int

    @property
    def width(self) -> int:
        """Numbers that an entry takes in the file."""
        return _NUMBERS[self.field] + (2 if self.format == "coordinate" else 0)

    @property
    def dtype(self) -> str:
        """The dtype of the matrix in memory."""
        return "complex128" if self.field == "complex" else "float64"


def read_header(path: Path) -> Header:
    """Read the first lines of a Matrix Market file.

    Parameters
    ----------
    path : the file

    Returns
    -------
    Header

    Raises
    ------
    ValueError : it is not a Matrix Market file, or claims more entries than its size can hold.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.mtx")
    ...     _ = file.write_text("%%MatrixMarket matrix coordinate real general\\n2 3 1\\n1 2 0.5\\n")
    ...     header, matrix = read_header(file), read_matrix(file)
    >>> header.rows, header.columns, header.entries, matrix[0, 1]
    (2, 3, 1, np.float64(0.5))
    """
    with path.open("rb") as file:
        banner = file.readline(_LINE).decode("ascii", "replace").lower().split()
        if len(banner) != 5 or banner[:2] != ["%%matrixmarket", "matrix"]:
            raise ValueError("its first line is not '%%MatrixMarket matrix FORMAT FIELD SYMMETRY'")
        layout, field, symmetry = banner[2:]
        if layout not in _FORMATS or field not in _NUMBERS or symmetry not in _SYMMETRIES:
            raise ValueError(f"its first line asks for '{layout} {field} {symmetry}', which is no such format")
        if layout == "array" and field == "pattern":
            raise ValueError("an array has no pattern")
        sizes = _sizes(file, 3 if layout == "coordinate" else 2)
        start = file.tell()
    rows, columns = sizes[:2]
    if symmetry != "general" and rows != columns:
        raise ValueError(f"a {symmetry} matrix must be square, its size is {rows}x{columns}")
    entries = sizes[2] if layout == "coordinate" else _stored(rows, columns, symmetry)
    header = Header(rows, columns, entries, layout, field, symmetry, start)
    # Each number takes at least one character and one separator; only the last may lack it.
    if 2 * entries * header.width - 1 > path.stat().st_size - start:
        raise ValueError(f"is truncated: its header claims {entries} entries, more than the file can hold")
    return header


def _stored(rows: int, columns: int, symmetry: str) -> int:
    if symmetry == "general":
        return rows * columns
    return rows * (rows - 1) // 2 if symmetry == "skew-symmetric" else rows * (rows + 1) // 2


def _sizes(file: IO[bytes], count: int) -> list[int]:
    """The numbers of the first line that is neither a comment nor blank."""
    while line := file.readline(_LINE):
        if line.startswith(b"%") or not line.strip():
            while len(line) == _LINE and not line.endswith(b"\n"):
                line = file.readline(_LINE)
            continue
        words = line.split()
        if len(words) != count or not all(word.isdigit() and len(word) < 19 for word in words):
            break
        return [int(word) for word in words]
    raise ValueError("its line of sizes is missing or wrong")


def read_matrix(path: Path, header: Header | None = None) -> np.ndarray | scipy.sparse.csr_array:
    """Read the matrix: an array for the format "array", a CSR array for "coordinate"; symmetric halves are completed.

    Parameters
    ----------
    path : the file
    header : what `read_header` found, to spare reading it again

    Returns
    -------
    float64 or complex128; entries stored twice are added.

    Raises
    ------
    ValueError : an entry is missing, not a number or outside the matrix, or there are more than the header says.
    """
    header = read_header(path) if header is None else header
    with path.open("rb") as file:
        file.seek(header.start)
        wanted = header.entries * header.width
        numbers = _numbers(file, wanted) if wanted else np.empty(0)
        rest = file.read(_LINE).strip()
    if len(numbers) < wanted:
        raise ValueError(f"entry {len(numbers) // header.width + 1} of {header.entries} is missing or not a number")
    if rest:
        raise ValueError(f"something follows its {header.entries} entries")
    numbers = numbers.reshape(header.entries, header.width)
    if header.format == "coordinate":
        return _coordinates(header, numbers)
    return _array(header, _values(header, numbers))


def _numbers(file: IO[bytes], wanted: int) -> np.ndarray:
    """Up to `wanted` numbers of a text."""
    with warnings.catch_warnings():
        # NumPy 2.3 and older warn of what cannot be read and end there, which the count of the numbers shows
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return np.fromfile(file, dtype=np.float64, count=wanted, sep=" ")
        except ValueError as error:
            raise ValueError("one of its entries is not a number") from error


def _values(header: Header, numbers: np.ndarray) -> np.ndarray:
    if header.field == "pattern":
        return np.ones(len(numbers))
    if header.field == "complex":
        return np.ascontiguousarray(numbers[:, -2:]).view(np.complex128)[:, 0]
    return np.ascontiguousarray(numbers[:, -1])


def _mirrored(header: Header, values: np.ndarray) -> np.ndarray:
    if header.symmetry == "hermitian":
        return values.conj()
    return -values if header.symmetry == "skew-symmetric" else values


def _coordinates(header: Header, numbers: np.ndarray) -> scipy.sparse.csr_array:
    import scipy.sparse

    at = numbers[:, :2]
    inside = (at >= 1) & (at <= (header.rows, header.columns)) & (at == np.floor(at))
    if not inside.all():
        first = int(np.flatnonzero(~inside.all(1))[0])
        raise ValueError(f"entry {first + 1} lies outside the {header.rows}x{header.columns} matrix")
    rows, columns = (at - 1).astype(np.int64).T
    values = _values(header, numbers)
    if header.symmetry != "general":
        off = rows != columns
        values = np.concatenate([values, _mirrored(header, values[off])])
        rows, columns = np.concatenate([rows, columns[off]]), np.concatenate([columns, rows[off]])
    return scipy.sparse.coo_array((values, (rows, columns)), shape=(header.rows, header.columns)).tocsr()


def _array(header: Header, values: np.ndarray) -> np.ndarray:
    shape = (header.rows, header.columns)
    if header.symmetry == "general":
        return values.reshape(shape, order="F")
    # The lower triangle column by column is the upper triangle of the transpose row by row.
    matrix = np.zeros(shape, dtype=values.dtype)
    i, j = np.triu_indices(header.rows, 1 if header.symmetry == "skew-symmetric" else 0)
    off = i != j
    matrix[j, i] = values
    matrix[i[off], j[off]] = _mirrored(header, values[off])
    return matrix
