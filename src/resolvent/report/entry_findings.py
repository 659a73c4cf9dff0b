"""What the entries of a matrix say by themselves: repeated, dead, on a grid, far out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from resolvent.report.finding import Finding, Severity, measured_of

if TYPE_CHECKING:
    from resolvent.report.document import Row

# Levels of a grid: from 8 bits on the values are those of an ordinary low-precision format.
_FEW_BITS = 4
# An 8-bit grid over the largest entry has steps of largest / 127: beyond 32 deviations a step is a quarter of one.
_OUTLIER = 32.0
# Two of a thousand random directions come to a cosine of 0.999 in fewer dimensions.
_FEW_DIRECTIONS = 8


def _repeated(row: Row) -> Iterator[Finding]:
    facts, m = row.facts, measured_of(row)
    if facts is None or m.rank99 == 1 or (facts.bits is not None and facts.bits <= 2):
        return
    rows = (facts.repeated_rows, facts.near_repeated_rows, facts.repeat)
    columns = (facts.repeated_columns, facts.near_repeated_columns, facts.repeat_columns)
    units = "units that stay equal learn the same: break the symmetry, or merge them"
    inputs = "inputs that always count the same: merge them, and find out why they were never told apart"
    # of an embedding, repeated rows are among the duplicates
    if row.embedding is None:
        yield from _repeats(row, "row", *rows, severity="warning", advice=units)
    severity: Severity = "warning" if row.embedding is None else "note"
    yield from _repeats(row, "column", *columns, severity=severity, advice=inputs)


def _repeats(
    row: Row,
    side: str,
    exact: int,
    near: int | None,
    block: tuple[int, int, int] | None,
    *,
    severity: Severity,
    advice: str,
) -> Iterator[Finding]:
    """The rows or columns that repeat an earlier one."""
    m = measured_of(row)
    directions = m.participation_ratio if m.rank99 is None else m.rank99
    # among vectors of a few dimensions near repeats are chance
    by_chance = directions is not None and directions < _FEW_DIRECTIONS
    count = exact if by_chance else max(exact, near or 0)
    if not count:
        return
    how = "exactly" if exact == count else f"{exact} exactly, the others to a cosine of 0.999"
    total = row.shape[0 if side == "row" else 1]
    text = f"{count} of its {total} {side}s repeat{'s' if count == 1 else ''} an earlier {side} ({how})"
    if block is not None:
        start, source, length = block
        if length > 1:
            text += f": {side}s {start} to {start + length - 1} repeat {side}s from {source} on"
        else:
            text += f": {side} {start} repeats {side} {source}"
    yield Finding(severity, row.name, f"repeated {side}s", text, advice, float(count))


def _grid(row: Row) -> Iterator[Finding]:
    facts = row.facts
    if facts is None or facts.bits is None:
        return
    seen = [n for n in (facts.levels, facts.group_levels) if n is not None]
    levels = min(seen)
    if levels <= 2 and facts.zeros > 0:
        text = f"its entries have {levels} values, one of them zero: a mask"
        advice = "keep it out of the weights that are compressed or compared"
        yield Finding("note", row.name, "mask", text, advice, float(levels))
        return
    where = "row" if facts.levels == levels else "group of 64 entries"
    text = f"quantised: {levels} distinct values per {where}, {facts.bits} bit{'s' if facts.bits > 1 else ''}"
    severity: Severity = "warning" if facts.bits <= _FEW_BITS else "note"
    advice = "store it as codes with scales, and do not train or merge it as if it had full precision"
    yield Finding(severity, row.name, "quantised", text, advice, float(levels))


def _dead(row: Row) -> Iterator[Finding]:
    facts, m = row.facts, measured_of(row)
    if facts is None or m.spectral_norm == 0 or row.sparse is not None:
        return
    severity: Severity = "note" if row.embedding is not None or "lora" in row.name.lower() else "warning"
    for count, total, side, what in (
        (facts.zero_rows, row.shape[0], "rows", "outputs that are always their bias"),
        (facts.zero_columns, row.shape[1], "columns", "inputs that are never used"),
    ):
        if count:
            text = f"{count} of its {total} {side} are zero ({100 * count / total:.3g}%): {what}"
            yield Finding(
                severity, row.name, "dead " + side, text, "prune them, or find out why they died", float(count)
            )
    if facts.constant_columns and severity == "warning":
        columns = facts.constant_columns
        text = f"{columns} of its {row.shape[1]} columns have one value in all rows"
        advice = "they add one number to every output: a bias"
        yield Finding("note", row.name, "constant columns", text, advice, float(columns))


def _outliers(row: Row) -> Iterator[Finding]:
    facts = row.facts
    if facts is None or facts.largest is None or facts.largest <= _OUTLIER:
        return
    curve = row.curve
    # among zeros every entry is far out
    if facts.zeros < 0.5:
        text = f"an entry lies {facts.largest:.0f} standard deviations out"
        if curve is not None and curve.shuffled and curve.edge and curve.shuffled[0] > 1.2 * curve.edge:
            text += ", and moves the spectrum by itself (shuffled entries reach beyond the edge of noise too)"
        advice = "quantise it with a scale per row or group, or keep such entries apart"
        yield Finding("note", row.name, "outlier entries", text, advice, facts.largest)


ENTRY_RULES: tuple[Callable[[Row], Iterator[Finding]], ...] = (_repeated, _grid, _dead, _outliers)
