"""What the pages hold that is generated: the table of claims, the modules of a room, the gallery's matrices.

A page asks for it with a comment: `<!-- claims -->`, `<!-- modules: spectra -->`, `<!-- gallery -->`.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src"
sys.path.insert(0, str(SOURCES))

from resolvent.claims_record import Record, read  # noqa: E402  (needs the path above)
from resolvent.cli.find import index  # noqa: E402

PACKAGE = SOURCES / "resolvent"
MARK = re.compile(r"^<!-- (claims|modules|gallery)(?:: (\S+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page before it is rendered."""
    return MARK.sub(lambda found: _MAKERS[found[1]](found[2] or ""), markdown)


def claims(_: str) -> str:
    """One table a room, from the records that the package carries."""
    records = read()
    if not records:
        return "No claim is recorded yet."
    quick = [record for record in records if record.scale == "quick"]
    full = {(record.room, record.name): record for record in records if record.scale == "full"}
    parts = [f"At quick scale {_counted(quick)}; at full scale {_counted(list(full.values()))}."]
    for room in sorted({record.room for record in quick}):
        rows = [_row(record, full.get((room, record.name))) for record in quick if record.room == room]
        head = "| paper | claim | method | required | at quick scale | at full scale |\n| --- | --- | --- | ---: | --- | --- |"
        parts.append(f"## {room}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _counted(records: list[Record]) -> str:
    counts = {
        verdict: sum(r.verdict == verdict for r in records) for verdict in ("met", "known miss", "missed", "error")
    }
    return f"{len(records)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)


def _row(quick: Record, full: Record | None) -> str:
    cells = (quick.paper, quick.says, f"`{quick.method}`", quick.required, _verdict(quick), _verdict(full))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _verdict(record: Record | None) -> str:
    if record is None:
        return ""
    return f"**{record.verdict}**, {record.shown}" + (f" ({record.note})" if record.note else "")


def modules(room: str) -> str:
    """The public modules of a room: those that define a name of its face."""
    folder = PACKAGE / room
    public = {entry.path.rpartition(".")[2] for entry in index(PACKAGE) if entry.path.startswith(f"resolvent.{room}.")}
    found = []
    for path in sorted(folder.glob("*.py")):
        defined = [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        names = [name for name in defined if name in public]
        if names:
            listed = "\n".join(f"        - {name}" for name in names)
            found.append(f"::: resolvent.{room}.{path.stem}\n    options:\n      members:\n{listed}")
    return "\n\n".join(found)


def gallery(_: str) -> str:
    """The gallery's functions with their first lines."""
    rows = [
        f"| `{entry.path.rpartition('.')[2]}` | {entry.summary.replace('|', chr(92) + '|')} |"
        for entry in index(PACKAGE)
        if entry.path.startswith("resolvent.operators.gallery.")
    ]
    return "\n".join(["| matrix | what it is |", "| --- | --- |", *rows])


_MAKERS = {"claims": claims, "modules": modules, "gallery": gallery}
