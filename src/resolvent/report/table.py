"""The report as a table for a terminal or a pipe."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from resolvent.report.document import Report, Row
    from resolvent.report.findings import Finding
    from resolvent.report.measure import Measurement

_SHORT_DTYPES = {"float": "f", "bfloat": "bf", "complex": "c", "uint": "u", "int": "i"}
_ASCII = str.maketrans({"‖": "|", "₂": "2", "≥": ">=", "×": "x", "α": "a", "…": "..", "²": "^2", "σ": "s", "Σ": "sum "})
_LEAST_NAME = 16
_LEGEND = (
    ("stable = ‖A‖F²/‖A‖₂²", "S = entropy of σ²/Σσ² in nats", "eff = exp S", "part = participation ratio"),
    ("cond = σmax/σmin", "MP = distance from the Marchenko-Pastur law of noise, 0 to 1"),
    ("α = exponent of the tail of σ²", "KS = its distance from a power law", "(α) is none, α? undecided"),
)


def report_text(report: Report, width: int | None = None, *, ascii_only: bool = False) -> Text:
    """The whole report as text with styles.

    Parameters
    ----------
    report : what to show
    width : columns to fit the table into by shortening names; None keeps the names whole
    ascii_only : for an output that cannot show other characters

    Returns
    -------
    rich.text.Text; its `plain` is the text without styles.

    Examples
    --------
    >>> from resolvent.report.document import Report
    >>> print(report_text(Report("a.npy", (), seconds=0.1)).plain)
    a.npy: no matrices, 0.1 s
    """
    text = Text()
    text.append(_headline(report) + "\n", style="bold")
    text.append_text(_findings(report, width))
    if report.matrices:
        text.append("\n")
        text.append_text(_table(report, width))
        text.append("\n" + "\n".join(_fold(width)) + "\n", style="dim")
    text.append_text(_changes(report, width))
    text.append_text(_recognised(report, width))
    text.append_text(_unmeasured(report, width))
    text.rstrip()
    return Text.assemble(*_translated(text)) if ascii_only else text


def _translated(text: Text) -> list[tuple[str, str]]:
    """The characters with their styles, none of them beyond ASCII."""
    styles = [""] * len(text.plain)
    for span in text.spans:
        styles[span.start : span.end] = [str(span.style)] * (span.end - span.start)
    return [
        (c.translate(_ASCII).encode("ascii", "replace").decode("ascii"), style)
        for c, style in zip(text.plain, styles, strict=True)
    ]


def _headline(report: Report) -> str:
    count = len(report.matrices)
    dtypes = {row.dtype for row in report.matrices}
    parts = [f"{report.file}: {'no matrices' if not count else f'{count} matri' + ('ces' if count != 1 else 'x')}"]
    if len(dtypes) == 1:
        parts[0] += f" of {dtypes.pop()}"
    parts += [
        f"{number} {word}"
        for word in ("skipped", "failed")
        if (number := sum(row.status == word for row in report.rows))
    ]
    if report.only is not None:
        parts.append(f"only {report.only} ({report.left_out} tensors left out)")
    return ", ".join([*parts, f"{report.seconds:.1f} s" + (" (quick)" if report.quick else "")])


_INDENT = 9
_SEVERE = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def _findings(report: Report, width: int | None) -> Text:
    """What was found, the most severe first: the matrix, the sentence with its number, and what to do.

    On a terminal the findings of one kind are one: the first in full, of the others the names.
    """
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in report.findings:
        key = (
            (finding.severity, finding.kind) if width is not None else (finding.severity, finding.kind, finding.matrix)
        )
        groups.setdefault(key, []).append(finding)
    text = Text()
    for same in groups.values():
        first = same[0]
        words = (first.matrix + ": " if first.matrix else "") + _sentence(first.text)
        if len(same) > 1:
            others = f"So {len(same) - 1} more: " + ", ".join(finding.matrix for finding in same[1:])
            words += " " + _sentence(others if width is None or len(others) < 2 * width else others[: 2 * width] + "…")
        lines = _wrapped(words, width)
        text.append("\n" + first.severity.ljust(_INDENT), style=_SEVERE.get(first.severity, ""))
        text.append(lines[0])
        for line in lines[1:]:
            text.append("\n" + " " * _INDENT + line)
        for line in _wrapped(_sentence(first.advice), width):
            text.append("\n" + " " * _INDENT + line, style="dim")
    if report.findings:
        text.append("\n")
    elif report.matrices:
        text.append("\nno findings\n", style="dim")
    return text


def _wrapped(words: str, width: int | None) -> list[str]:
    return [words] if width is None else textwrap.wrap(words, max(20, width - _INDENT), break_on_hyphens=False) or [""]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("." if words and words[-1] not in ".!?" else "")


def _changes(report: Report, width: int | None) -> Text:
    """One line per matrix that both files of a comparison have."""
    text = Text()
    changes = () if report.comparison is None else report.comparison.matrices
    if not changes:
        return text
    names = shorten([change.name for change in changes], None if width is None else max(_LEAST_NAME, width - 58))
    first = max(map(len, [*names, "change to " + (report.file2 or "")]))
    heads = ("change", "angle", "eff(D)", "rank99(D)")
    text.append(
        "\n" + f"change to {report.file2}".ljust(first) + "".join(h.rjust(10) for h in heads) + "\n", style="bold"
    )
    for name, change in zip(names, changes, strict=True):
        angle = max(change.angles) if change.angles else None
        rank = change.difference_rank99
        cells = (number(change.relative_change), number(angle), number(change.difference_effective_rank),
                 "-" if rank is None else str(rank))  # fmt: skip
        text.append(name.ljust(first), style="cyan")
        text.append("".join(cell.rjust(10) for cell in cells) + f"  {change.verdict}\n")
    text.append(
        "change = ‖D‖F/‖A‖F, D the difference   angle = the largest between leading singular subspaces\n", style="dim"
    )
    return text


def number(x: float | None, digits: int = 3) -> str:
    """A number in at most six characters, seven where its exponent takes three.

    Examples
    --------
    >>> [number(x) for x in (0.0, 0.01234, 1.2345, 12.345, 384.0, 30522.4, 1.5e12, 2.5e-9, None)]
    ['0', '0.012', '1.23', '12.3', '384', '30522', '1.5e12', '2.5e-9', '-']
    """
    if x is None:
        return "-"
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else str(x)
    if 1e-3 <= abs(x) < 99999.5:
        places = max(0, min(3, digits - 1 - math.floor(math.log10(abs(x) * (1 + 5e-4)))))
        return f"{x:.{places}f}"
    return _scientific(x)


def _condition(m: Measurement) -> str:
    if m.condition is None:
        return "-"
    if m.condition_at_least:
        # two digits, rounded towards zero, so that "at least" stays true
        step = 10.0 ** (math.floor(math.log10(m.condition)) - 1)
        least = math.floor(m.condition / step) * step
        return "≥" + (f"{least:.0f}" if 10 <= least < 9999.5 else f"{least:.1f}" if least < 10 else _scientific(least))
    return number(m.condition) if m.condition < 9999.5 else _scientific(m.condition)


def _scientific(x: float) -> str:
    mantissa, exponent = f"{x:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _distance(x: float | None) -> str:
    return "-" if x is None else "1.00" if x >= 0.9995 else f"{x:.3f}"[1:]


def _alpha(m: Measurement) -> str:
    if m.alpha is None:
        return "-"
    shown = number(m.alpha)
    return {"power law": shown, "undecided": f"{shown}?"}.get(m.alpha_verdict or "", f"({shown})")


_COLUMNS: tuple[tuple[str, Callable[[Measurement], str]], ...] = (
    ("‖A‖₂", lambda m: number(m.spectral_norm)),
    ("‖A‖F", lambda m: number(m.frobenius_norm)),
    ("‖A‖*", lambda m: number(m.nuclear_norm)),
    ("stable", lambda m: number(m.stable_rank)),
    ("eff", lambda m: number(m.effective_rank)),
    ("S", lambda m: number(m.entropy)),
    ("part", lambda m: number(m.participation_ratio)),
    ("cond", _condition),
    ("MP", lambda m: _distance(m.marchenko_pastur)),
    ("α", _alpha),
    ("KS", lambda m: _distance(m.alpha_ks)),
)


def _table(report: Report, width: int | None) -> Text:
    rows = report.matrices
    mixed = len({row.dtype for row in rows}) > 1
    cells = [[_shape(row)] + ([_dtype(row)] if mixed else []) + _quantities(row) for row in rows]
    heads = ["shape"] + (["type"] if mixed else []) + [head for head, _ in _COLUMNS]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    room = None if width is None else max(_LEAST_NAME, width - sum(widths) - len(widths))
    names = shorten([row.name for row in rows], room)
    first = max(map(len, [*names, "matrix"]))
    text = Text()
    title = ["matrix".ljust(first), *(head.rjust(w) for head, w in zip(heads, widths, strict=True))]
    text.append(" ".join(title) + "\n", style="bold")
    for row, name, line in zip(rows, names, cells, strict=True):
        text.append(name.ljust(first), style="cyan")
        for head, cell, wide in zip(heads, line, widths, strict=True):
            text.append(" " + cell.rjust(wide), style=_style(head, cell))
        text.append("\n")
        if row.read_as:
            text.append(f"  read as {row.read_as} from {'×'.join(map(str, row.stored_shape))}\n", style="dim")
    return text


def _quantities(row: Row) -> list[str]:
    return ["-"] * len(_COLUMNS) if row.measured is None else [show(row.measured) for _, show in _COLUMNS]


def _style(head: str, cell: str) -> str:
    if cell == "-" or head in ("shape", "type") or cell.startswith("("):
        return "dim"
    return "yellow" if cell.startswith("≥") else ""


def _shape(row: Row) -> str:
    return "×".join(map(str, row.shape))


def _dtype(row: Row) -> str:
    for word, letter in sorted(_SHORT_DTYPES.items(), key=lambda item: -len(item[0])):
        if row.dtype.startswith(word):
            return letter + row.dtype.removeprefix(word)
    return row.dtype


def shorten(names: Sequence[str], room: int | None) -> list[str]:
    """Names that fit in `room` characters: leading parts become their first letters, as many as most names need.

    Examples
    --------
    >>> shorten(["encoder.layer.0.key.weight", "encoder.layer.0.output.weight"], 14)
    ['e.l.0.key', 'e.l.0.output']
    """
    if room is None or all(len(name) <= room for name in names):
        return list(names)
    if all(name.endswith(".weight") for name in names):
        names = [name.removesuffix(".weight") for name in names]
    forms = [_abbreviations(name) for name in names]
    levels = [next((i for i, form in enumerate(fs) if len(form) <= room), len(fs) - 1) for fs in forms]
    # what most names need, all get, so that the parts of one layer look alike
    usual = sorted(levels)[len(levels) // 2]
    short = [fs[min(max(level, usual), len(fs) - 1)] for fs, level in zip(forms, levels, strict=True)]
    half = (room - 1) // 2
    return [name if len(name) <= room else f"{name[: room - 1 - half]}…{name[-half:]}" for name in short]


def _abbreviations(name: str) -> list[str]:
    """The name with 0, 1, 2, ... of its leading parts shortened to their first letter."""
    parts = name.split(".")
    return [".".join([*map(_initial, parts[:i]), *parts[i:]]) for i in range(len(parts))]


def _initial(part: str) -> str:
    return part if part.isdigit() or part.startswith("[") else part[:1]


def _recognised(report: Report, width: int | None) -> Text:
    """What matrices were recognised as; on a terminal, names that differ in numbers share a line."""
    text = Text()
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in report.matrices:
        if row.notes:
            names = (
                (row.name, *row.notes) if width is None else [re.sub(r"\d+", "#", t) for t in (row.name, *row.notes)]
            )
            lines.setdefault(tuple(names), []).append(row)
    for rows in lines.values():
        notes = (_together(same) for same in zip(*(row.notes for row in rows), strict=True))
        text.append("\n" + _together([row.name for row in rows]) + ": " + "; ".join(notes), style="dim")
    return text


def _unmeasured(report: Report, width: int | None) -> Text:
    """A line for each tensor that was not measured; on a terminal, names that differ in numbers share one."""
    text = Text()
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        if row.status != "measured":
            word = "skipped" if row.status == "skipped" else "failed, not measured"
            key = row.name if width is None or row.status == "failed" else re.sub(r"\d+", "#", row.name)
            lines.setdefault((key, f"{word}, because {row.reason}"), []).append(row)
    for (_, why), rows in lines.items():
        shapes = {_shape(row) for row in rows}
        shape = f" ({shapes.pop()})" if len(shapes) == 1 and rows[0].shape else ""
        text.append("\n" + _together([row.name for row in rows]) + shape, style="cyan" if "failed" in why else "dim")
        text.append(f" {why}", style="bold red" if why.startswith("failed") else "dim")
    return text


def _together(names: Sequence[str]) -> str:
    """One pattern for names that differ in numbers only: `layer.{0..5}.bias`."""
    if len(names) == 1:
        return names[0]
    split = [re.split(r"(\d+)", name) for name in names]
    pieces = []
    for column in zip(*split, strict=True):
        values = sorted(set(column), key=lambda v: int(v) if v.isdigit() else -1)
        run = [int(v) for v in values] if values[0].isdigit() and len(values) > 1 else []
        if not run:
            pieces.append(values[0])
        elif run == list(range(run[0], run[-1] + 1)):
            pieces.append(f"{{{run[0]}..{run[-1]}}}")
        else:
            pieces.append("{" + ",".join(map(str, run)) + "}")
    return "".join(pieces)


def _fold(width: int | None) -> list[str]:
    """The legend in lines of at most `width` columns."""
    lines: list[str] = []
    for group in _LEGEND:
        line = ""
        for item in group:
            if line and width is not None and len(line) + 3 + len(item) > width:
                lines.append(line)
                line = ""
            line = f"{line}   {item}" if line else item
        lines.append(line)
    return lines
