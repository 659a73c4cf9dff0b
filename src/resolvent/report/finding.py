"""One thing worth knowing about a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from resolvent.report.document import Row
    from resolvent.report.measure import Measurement

Severity = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing.

    Attributes
    ----------
    severity : "note", "warning" or "error"
    matrix : name of the row that it is about
    kind : what it is, in one or two words that stay the same from version to version
    text : the finding with its number
    advice : what to do about it
    value : the number
    """

    severity: Severity
    matrix: str
    kind: str
    text: str
    advice: str
    value: float


def measured_of(row: Row) -> Measurement:
    """The quantities of a row that was measured."""
    return cast("Measurement", row.measured)
