"""Tables whose rows are vectors: .csv, and .parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from resolvent.report.stored import Stored, check_memory, printable, sentence, unreadable

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

# Rows parsed at a time.
_ROWS = 1 << 14
# A vector of ten thousand numbers as text; a longer line is no row.
_LINE = 1 << 20
_INDEX_NAMES = {"", "id", "ids", "index", "idx", "unnamed: 0", "label", "labels", "key", "text", "word", "token"}


def csv_vectors(path: Path) -> Stored:
    """The vectors of a table of text: one row each.

    Parameters
    ----------
    path : numbers with commas, semicolons or tabs between, with or without a line of column names; or one column of
        texts like "[0.1, 0.2]"

    Returns
    -------
    Stored : (rows, columns) float64, role "vectors".

    Raises
    ------
    ValueError : a row is shorter or longer than the first, or a field is empty or no number; it is named.

    Notes
    -----
    Columns of text, and the index that pandas writes first, are left out; the notes say which.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.csv")
    ...     _ = file.write_text("word,x,y\\nred,1,2\\nblue,3,4\\n")
    ...     stored = csv_vectors(file)
    >>> stored.shape, stored.notes, stored.load().tolist()
    ((2, 2), ("left out: 'word'",), [[1.0, 2.0], [3.0, 4.0]])
    """
    try:
        check_memory(10.0 * path.stat().st_size, "reading it")
        vectors, notes = _csv(path)
    except (ValueError, csv.Error, OverflowError) as error:
        raise ValueError(f"{path}: not a valid table of vectors ({sentence(error)})") from error
    return Stored(path.stem, tuple(vectors.shape), "float64", lambda: vectors, role="vectors", notes=notes)


def _csv(path: Path) -> tuple[Tensor, tuple[str, ...]]:
    with path.open("r", encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = _bounded(file)
        head = list(itertools.islice(lines, 2))
        if not head:
            raise ValueError("it has no rows")
        separator = max(",;\t", key=head[0].count) if any(c in head[0] for c in ",;\t") else " "
        rows = csv.reader(itertools.chain(head, lines), delimiter=separator, skipinitialspace=True)
        first = next(rows)
        second = next(rows, None)
        # names above a column of numbers make the first row a header; the rest of a row may be text in any case
        named = second is not None and any(
            not _is_vector(a) and _is_vector(b) for a, b in zip(first, second, strict=False)
        )
        named = named or (second is not None and first[:1] == [""] and not any(map(_is_vector, first)))
        body = first if not named or second is None else second
        if named and len(first) != len(body):
            raise ValueError(f"it names {len(first)} columns, and its first row has {len(body)}")
        wanted = [i for i, field in enumerate(body) if _is_vector(field)]
        if named and len(wanted) > 1:
            wanted = [i for i in wanted if first[i].strip().lower() not in _INDEX_NAMES or i > 0]
        if not wanted:
            raise ValueError("its first row has no numbers")
        left = [
            repr(printable(first[i])[:30]) if named else f"column {i + 1}" for i in range(len(body)) if i not in wanted
        ]
        start = [second] if named and second is not None else [r for r in (first, second) if r is not None]
        numbered = enumerate(itertools.chain(start, rows), 2 if named else 1)
        blocks = list(_blocks(numbered, len(body), wanted))
    vectors = torch.from_numpy(np.concatenate(blocks))
    if len(left) > 4:
        left = [*left[:4], f"{len(left) - 4} more columns"]
    return vectors, (f"left out: {', '.join(left)}",) if left else ()


def _bounded(file: Any) -> Iterator[str]:
    """The lines of a text that are not blank, none longer than a row can be."""
    while line := file.readline(_LINE):
        if len(line) == _LINE:
            raise ValueError(f"a line is longer than {_LINE} characters")
        if line.strip():
            yield line


def _is_vector(field: str) -> bool:
    """Whether a field is a number, or a list of them."""
    field = field.strip()
    try:
        if field[:1] == "[" and field[-1:] == "]":
            return bool(field[1:-1].strip()) and all(np.isreal(float(x)) for x in field[1:-1].split(",")[:4])
        float(field)
    except ValueError:
        return False
    return True


def _blocks(rows: Iterator[tuple[int, list[str]]], width: int, wanted: list[int]) -> Iterator[np.ndarray]:
    """The wanted columns as numbers, some rows at a time."""
    length = 0
    while block := list(itertools.islice(rows, _ROWS)):
        for number, row in block:
            if len(row) != width:
                raise ValueError(f"row {number} has {len(row)} fields, the first one has {width}")
        try:
            if block[0][1][wanted[0]].lstrip()[:1] == "[":
                table = np.array(
                    [[float(x) for i in wanted for x in row[i].strip().strip("[]").split(",")] for _, row in block]
                )
            else:
                table = np.array([[row[i] for i in wanted] for _, row in block], dtype=np.float64)
        except ValueError as error:
            raise ValueError(_first_bad(block, wanted)) from error
        if length and table.shape[1] != length:
            raise ValueError(f"the vectors from row {block[0][0]} on have {table.shape[1]} numbers, not {length}")
        length = table.shape[1]
        yield table


def _first_bad(block: list[tuple[int, list[str]]], wanted: list[int]) -> str:
    for number, row in block:
        for i in wanted:
            if not row[i].strip():
                return f"row {number}, column {i + 1} is empty"
            if not _is_vector(row[i]):
                return f"row {number}, column {i + 1} is {row[i].strip()[:30]!r}, not a number"
    return f"the vectors from row {block[0][0]} on differ in length"


def parquet_vectors(path: Path) -> list[Stored]:
    """The vectors of a parquet file: each column of lists is a matrix, or all columns of numbers are one.

    Parameters
    ----------
    path : the file

    Returns
    -------
    One `Stored` with role "vectors" per column of lists, named after it; or one for the columns of numbers.

    Raises
    ------
    ValueError : pyarrow is missing, the file is damaged, or it has no columns of numbers.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path}: reading .parquet needs pyarrow: pip install 'resolvent[report]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            lists = [f.name for f in schema if _is_list(f.type)]
            numbers = [f for f in schema if _is_number(f.type)]
            if not lists and not numbers:
                raise ValueError("it has no columns of numbers")
            if not lists:
                return [_numbers(path, file, numbers, rows)]
            return [_lists(path, file, name, rows) for name in lists]
    except (pyarrow.ArrowException, ValueError, OSError, KeyError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path}: not a valid table of vectors ({sentence(error)})") from error


def _is_number(kind: pyarrow.DataType) -> bool:
    import pyarrow.types

    return pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind)


def _is_list(kind: pyarrow.DataType) -> bool:
    import pyarrow.types

    listed = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind)
    return listed and _is_number(kind.value_type)


def _numbers(path: Path, file: pyarrow.parquet.ParquetFile, fields: list[Any], rows: int) -> Stored:
    """The columns of numbers side by side; whole numbers beside broken ones are labels and left out."""
    import pyarrow.types

    floats = [f.name for f in fields if pyarrow.types.is_floating(f.type)]
    wanted = floats or [f.name for f in fields]
    everything = file.schema_arrow.names
    left = [repr(printable(name)[:30]) for name in everything if name not in wanted]
    check_memory(16.0 * rows * len(wanted), "it")
    table = np.empty((rows, len(wanted)))
    filled = 0
    for batch in file.iter_batches(batch_size=_ROWS, columns=wanted):
        for i, name in enumerate(wanted):
            table[filled : filled + len(batch), i] = _values(batch.column(name), name)
        filled += len(batch)
    if filled != rows:
        raise ValueError(f"it holds {filled} rows and claims {rows}")
    if len(left) > 4:
        left = [*left[:4], f"{len(left) - 4} more columns"]
    notes = (f"left out: {', '.join(left)}",) if left else ()
    vectors = torch.from_numpy(table)
    return Stored(path.stem, (rows, len(wanted)), "float64", lambda: vectors, role="vectors", notes=notes)


def _lists(path: Path, file: pyarrow.parquet.ParquetFile, name: str, rows: int) -> Stored:
    """One column of lists, all of which must have the length of the first."""
    label = printable(name)
    try:
        table, filled = np.empty((0, 0)), 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=[name]):
            column = batch.column(0)
            if column.null_count:
                raise ValueError("a row has no vector")
            flat = _values(column.flatten(), name)
            length = len(flat) // len(column) if len(column) else 0
            lengths = column.value_lengths().to_numpy(zero_copy_only=False) if len(column) else np.empty(0)
            if filled == 0:
                check_memory(16.0 * rows * length, "it")
                table = np.empty((rows, length), dtype=flat.dtype)
            if (lengths != table.shape[1]).any():
                raise ValueError(f"its vectors differ in length (the first has {table.shape[1]} numbers)")
            table[filled : filled + len(column)] = flat.reshape(len(column), -1)
            filled += len(column)
        if filled != rows:
            raise ValueError(f"it holds {filled} rows and claims {rows}")
    except ValueError as error:
        return unreadable(label, sentence(error))
    vectors = torch.from_numpy(table)
    word = str(vectors.dtype).removeprefix("torch.")
    return Stored(label, tuple(vectors.shape), word, lambda: vectors, role="vectors")


def _values(column: pyarrow.Array, name: str) -> np.ndarray:
    if column.null_count:
        raise ValueError(f"the column {printable(name)[:30]!r} has empty fields")
    values = column.to_numpy(zero_copy_only=False)
    return values.astype(np.float64) if values.dtype.kind not in "f" else values
