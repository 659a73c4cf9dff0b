"""The records of claims: one row each, kept as JSON in the package, printed and shown in the docs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

Verdict = Literal["met", "missed", "known miss", "error", "not run"]

RECORD = Path(__file__).with_name("claims_record.json")


@dataclass(frozen=True)
class Record:
    """One row of the table of claims, as it is printed, kept and shown in the docs.

    Attributes
    ----------
    room, name, paper, method, says, required : the claim
    measured, unit, note : what came out; measured is None where an error came out
    verdict : "met", "missed", "known miss" (missed, and recorded as such), "error" or "not run"
    seconds : time it took
    scale : "quick" or "full"
    """

    room: str
    name: str
    paper: str
    method: str
    says: str
    required: str
    measured: float | None = None
    unit: str = ""
    note: str = ""
    verdict: Verdict = "not run"
    seconds: float = 0.0
    scale: str = "quick"

    @property
    def fails(self) -> bool:
        """Whether this row makes the run fail: missed without being recorded as such, or an error."""
        return self.verdict in ("missed", "error")

    @property
    def shown(self) -> str:
        """The measured number with its unit."""
        return "-" if self.measured is None else f"{self.measured:.4g} {self.unit}".strip()


def normal(title: str) -> str:
    """A title reduced to its words in lower case.

    Parameters
    ----------
    title : any text

    Returns
    -------
    Its letters and digits, words separated by one blank.

    Examples
    --------
    >>> normal("XTrace: Making the Most of Every Sample")
    'xtrace making the most of every sample'
    """
    return " ".join("".join(c if c.isalnum() else " " for c in title.casefold()).split())


def write(records: Iterable[Record], path: str | Path) -> None:
    """Write records as JSON: a list of rows, numbers to four digits so that two runs compare.

    Parameters
    ----------
    records : what `run` returned
    path : the file to write

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "record.json"
    >>> write([Record("spectra", "speed", "A Paper", "resolvent.spectra.norm", "fast", "≥ 2", 3.0)], path)
    >>> [row.measured for row in read(path)]
    [3.0]
    """
    rows = []
    for record in records:
        row = asdict(record)
        row["seconds"] = round(record.seconds, 2)
        value = record.measured
        # JSON has no NaN and no infinity.
        row["measured"] = float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
        rows.append(row)
    Path(path).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: str | Path = RECORD) -> list[Record]:
    """Read records that `write` wrote; by default those that the package carries.

    Parameters
    ----------
    path : the file; one that is not there holds no records

    Returns
    -------
    The records, in the file's order.

    Raises
    ------
    ValueError : the file is not a list of records.

    Examples
    --------
    >>> all(row.paper for row in read())
    True
    """
    file = Path(path)
    if not file.exists():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Record)}
        return [Record(**{key: value for key, value in row.items() if key in known}) for row in rows]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"claims: {file.name} is not a record of claims ({error})") from error


def merge(old: Iterable[Record], new: Iterable[Record], known: Iterable[tuple[str, str]]) -> list[Record]:
    """The new records, and the old ones that were not measured again and still stand in `claims/`.

    Parameters
    ----------
    old, new : records; a new one replaces the old one of the same room, name and scale
    known : room and name of every claim there is; what is not among them is dropped

    Returns
    -------
    The records in the order of `known`, those at quick scale before those at full scale.

    Examples
    --------
    >>> from dataclasses import replace
    >>> row = Record("spectra", "speed", "A Paper", "resolvent.spectra.norm", "fast", "≥ 2", 3.0)
    >>> [r.measured for r in merge([row], [replace(row, measured=4.0)], [("spectra", "speed")])]
    [4.0]
    """
    rows = {(record.room, record.name, record.scale): record for record in [*old, *new]}
    return [rows[key] for one in known for key in ((*one, "quick"), (*one, "full")) if key in rows]
