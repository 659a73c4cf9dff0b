"""The report of a file: one row per matrix, as objects, JSON and text."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from resolvent.report.measure import Measurement, measure_matrix
from resolvent.report.readers import Stored, check_memory, stored_tensors
from resolvent.report.spectrum import NotFiniteError

SCHEMA = "resolvent.report/1"
_CODES = ("int8", "uint8", "bool")


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes
    ----------
    name : the tensor's name, with an index behind it for one matrix of a batch
    shape : of the matrix that was measured; the stored shape of what was not
    dtype : as stored
    stored_shape : the tensor's shape in the file
    read_as : how a tensor became this matrix, "" for one that is stored as a matrix
    measured : the quantities, or None
    status : "measured"; "skipped", not a matrix of numbers; "failed", a matrix that could not be measured
    reason : why it was not measured
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_shape: tuple[int, ...]
    read_as: str = ""
    measured: Measurement | None = None
    status: Literal["measured", "skipped", "failed"] = "measured"
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What the matrices of a file are like.

    Attributes
    ----------
    file : path as given
    rows : one per matrix, skipped tensor or failure, in the order of their names
    quick : whether float32 arithmetic was allowed
    seconds : time spent reading and measuring
    """

    file: str
    rows: tuple[Row, ...]
    quick: bool = False
    seconds: float = 0.0

    @property
    def matrices(self) -> tuple[Row, ...]:
        """The rows that were measured."""
        return tuple(row for row in self.rows if row.status == "measured")

    def __getitem__(self, name: str) -> Row:
        """The row of a name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dictionaries, lists, numbers and strings; the schema is in docs/report.md."""
        return {
            "schema": SCHEMA,
            "file": self.file,
            "quick": self.quick,
            "seconds": self.seconds,
            "matrices": [_entry(row) for row in self.rows if row.measured is not None],
            "skipped": [_plain(row) for row in self.rows if row.status == "skipped"],
            "failed": [_plain(row) for row in self.rows if row.status == "failed"],
        }

    def to_json(self, path: str | os.PathLike[str] | None = None, *, indent: int | None = 2) -> str:
        """The report as JSON, also written to `path` if one is given.

        Examples
        --------
        >>> Report("a.npy", ()).to_json(indent=None)[:30]
        '{"schema": "resolvent.report/1'
        """
        text = json.dumps(self.to_dict(), indent=indent, allow_nan=False, ensure_ascii=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_text(self, width: int | None = None) -> str:
        """The table as plain text, names shortened to fit `width` columns (not shortened if None)."""
        from resolvent.report.table import report_text

        return report_text(self, width).plain

    def __str__(self) -> str:
        return self.to_text(100)


def report(
    path: str | os.PathLike[str],
    *,
    quick: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Measure every matrix of a file, one tensor at a time.

    Parameters
    ----------
    path : a .safetensors, .npy, .npz or Matrix Market .mtx file
    quick : float32 arithmetic where its error bound allows 1e-4, and no bootstrap of the tail exponents
    progress : called with the name of the tensor that is next, how many entries are done, and how many there are

    Returns
    -------
    Report

    Raises
    ------
    ValueError : the file is missing, empty, truncated, of an unknown kind, or its header is wrong.
    OSError : the system does not let us read it.

    Notes
    -----
    Kernels (4 and 5 axes, and 3 with "conv" in the name) are read as (out, everything else); any other 3 axes as a
    batch of matrices, each measured by itself. A tensor that cannot be measured is a row with its reason, and the rest
    goes on. Memory is one tensor, a float64 block of it and its smaller Gram matrix.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", weight=np.diag([3.0, 4.0]), bias=np.zeros(3))
    ...     result = report(f"{folder}/a.npz")
    >>> result["weight"].measured.frobenius_norm, result["bias"].reason
    (5.0, 'it has one axis (a vector)')
    """
    began = time.perf_counter()
    rows: list[Row] = []
    with stored_tensors(path) as tensors:
        done, total = 0, sum(math.prod(t.shape) for t in tensors)
        for stored in tensors:
            if progress is not None:
                progress(stored.name, done, total)
            rows.extend(_rows(stored, quick))
            done += math.prod(stored.shape)
        if progress is not None:
            progress("", total, total)
    return Report(os.fspath(path), tuple(rows), quick, time.perf_counter() - began)


def _rows(stored: Stored, quick: bool) -> Iterator[Row]:
    """The rows of one tensor."""
    blank = Row(stored.name, stored.shape, stored.dtype, stored.shape)
    reason = stored.reason or _not_a_matrix(stored)
    if reason:
        unreadable = bool(stored.reason) and stored.dtype == "unknown"
        yield dataclasses.replace(blank, status="failed" if unreadable else "skipped", reason=reason)
        return
    try:
        tensor = stored.load()
    except (ValueError, OSError, MemoryError) as error:
        yield dataclasses.replace(blank, status="failed", reason=_reason(error))
        return
    for suffix, read_as, matrix in _matrices(stored, tensor):
        row = dataclasses.replace(blank, name=stored.name + suffix, shape=tuple(matrix.shape), read_as=read_as)
        try:
            check_memory(8.0 * min(matrix.shape) ** 2, "its Gram matrix")
            yield dataclasses.replace(row, measured=measure_matrix(matrix, quick=quick))
        except (NotFiniteError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            yield dataclasses.replace(row, status="failed", reason=_reason(error))


def _not_a_matrix(stored: Stored) -> str:
    axes = len(stored.shape)
    if axes == 0:
        return "it is one number (no axes)"
    if axes == 1:
        return "it has one axis (a vector)"
    if axes > 5:
        return f"it has {axes} axes; 2 to 5 are read"
    if 0 in stored.shape:
        return "it has no entries"
    if stored.dtype in _CODES:
        return f"its {stored.dtype} entries are codes whose scale is not known"
    return ""


def _matrices(stored: Stored, tensor: Any) -> Iterator[tuple[str, str, Any]]:
    """The matrices in a tensor: suffix of the name, how it was read, and the matrix."""
    if not isinstance(tensor, Tensor) or tensor.ndim == 2:
        yield "", "", tensor
    elif tensor.ndim > 3 or "conv" in stored.name.lower():
        axes = {3: "k", 4: "kh*kw", 5: "kd*kh*kw"}[tensor.ndim]
        yield "", f"kernel (out, in*{axes})", tensor.reshape(len(tensor), -1)
    else:
        for i, matrix in enumerate(tensor):
            yield f"[{i}]", f"matrix {i} of a batch of {len(tensor)}", matrix


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it does not fit in memory"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _entry(row: Row) -> dict[str, Any]:
    """One measured matrix for JSON: what it is, then its quantities by name."""
    head = {"name": row.name, "shape": list(row.shape), "dtype": row.dtype}
    if row.read_as:
        head |= {"stored_shape": list(row.stored_shape), "read_as": row.read_as}
    values = {} if row.measured is None else dataclasses.asdict(row.measured)
    if values.get("alpha_interval") is not None:
        values["alpha_interval"] = list(values["alpha_interval"])
    # JSON has no infinity: a quantity that left the range of doubles is missing, with that reason.
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[key] = None
            values["missing"] = {**values["missing"], key: "it is beyond the range of float64"}
    return head | values


def _plain(row: Row) -> dict[str, Any]:
    return {"name": row.name, "shape": list(row.shape), "dtype": row.dtype, "reason": row.reason}
