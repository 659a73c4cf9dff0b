"""`resolvent claims`: run what the papers claim and say what is met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from resolvent.claims import Claim, Scale, load, select
from resolvent.claims_record import RECORD, Record, merge, read, write

_STYLES = {
    "met": "green",
    "known miss": "yellow",
    "missed": "bold red",
    "error": "bold red",
    "not run": "dim",
}


def claims_command(
    what: Annotated[
        str | None, typer.Argument(metavar="[ROOM | PAPER]", help="A room, or words of a title or a method.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="The documented scale, not the quick one.")] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the records to a file.")] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Processes for the claims that read no clock; the others run alone.")
    ] = 1,
    slack: Annotated[
        float,
        typer.Option("--slack", min=1.0, help="Exit with 0 where only measured times miss, by less than this factor."),
    ] = 1.0,
    record: Annotated[bool, typer.Option("--record", help="Keep the records, for the docs.")] = False,
    directory: Annotated[Path, typer.Option("--directory", help="Where the files of claims are.")] = Path("claims"),
) -> None:
    """Measure the papers' claims and print paper, claim, required, measured, verdict.

    Exits with 1 when a claim is missed that is not recorded as a known miss, or when one ends in an error. Times on a machine
    that others use as well vary: `--slack 1.5` still shows a claim about time that misses by less than 1.5 as missed, and exits with 0.
    """
    from resolvent.cli.claims_workers import reads_a_clock

    every = load(directory)
    chosen = select(every, what)
    records = measure(chosen, Scale(full=full), jobs, directory)
    show(records)
    if json is not None:
        write(records, json)
    if record:
        write(merge(read(), records, [(c.room, c.name) for c in every]), RECORD)
    for one, row in zip(chosen, records, strict=True):
        slow = row.measured is not None and one.nearly_holds(row.measured, slack) and reads_a_clock(one)
        if row.fails and not slow:
            raise typer.Exit(1)


def measure(claims: Sequence[Claim], scale: Scale, jobs: int = 1, directory: Path = Path("claims")) -> list[Record]:
    """Run claims behind a progress bar.

    Parameters
    ----------
    claims : what to run
    scale : the size to run at
    jobs : processes for those that read no clock
    directory : where the files of claims are, for those processes

    Returns
    -------
    One record a claim, in their order.

    Examples
    --------
    >>> measure([], Scale())
    []
    """
    from rich.console import Console
    from rich.progress import Progress

    from resolvent.cli.claims_workers import run_beside

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("claims", total=len(claims))

        def done(claim: Claim) -> None:
            progress.update(task, description=f"{claim.room}: {claim.name}", advance=1)

        records = run_beside(claims, scale, jobs, directory, done)
    return records


def show(records: Sequence[Record]) -> None:
    """Print the table of claims and one line that counts the verdicts.

    Parameters
    ----------
    records : what `measure` returned

    Examples
    --------
    >>> show([])
    no claims
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not records:
        console.print("no claims")
        return
    # Into a pipe or a log, rich takes 80 columns, which would fold five columns into ribbons.
    if not console.is_terminal:
        console = Console(width=140)
    table = Table(show_lines=False, header_style="bold", expand=False)
    for header, justify in (
        ("paper", "left"),
        ("claim", "left"),
        ("required", "right"),
        ("measured", "right"),
    ):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    table.add_column("verdict")
    table.add_column("s", justify="right")
    for row in records:
        verdict = Text(row.verdict, style=_STYLES[row.verdict])
        table.add_row(*map(Text, (row.paper, row.says, row.required, row.shown)), verdict, f"{row.seconds:.1f}")
    console.print(table)
    for row in records:
        if row.verdict != "met" and row.note:
            console.print(Text(f"{row.room}.{row.name}: {row.note}"))
    counts = {verdict: sum(row.verdict == verdict for row in records) for verdict in _STYLES}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    console.print(Text(f"{len(records)} claims: {summary}; {sum(row.seconds for row in records):.1f} s"))
    # Last, where a log that keeps only its end still has it.
    for row in records:
        if row.fails:
            console.print(Text(f"{row.verdict}: {row.room}.{row.name}: required {row.required}, measured {row.shown}"))
