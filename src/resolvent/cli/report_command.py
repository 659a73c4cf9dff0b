"""`resolvent report`: what the matrices of a file are like."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from resolvent.report.document import Report

_FOUND, _BAD_FILE = 1, 2


class Level(enum.StrEnum):
    """How severe a finding must be for an exit code of 1."""

    note = "note"
    warning = "warning"
    error = "error"


def report_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .safetensors file, folder or index, .pt, .pth, .npy, .npz, .mtx, .csv, .parquet, edge list, search index.",
        ),
    ],
    file2: Annotated[Path | None, typer.Argument(metavar="[FILE2]", help="A second one: what changed?")] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="No bootstrap of tails, no shuffled spectra; of large matrices only the norms and ranks that need no spectrum.",
        ),
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write a page for a browser.")] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the numbers as JSON; - prints only them.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="PATTERN", help="Names to measure, as *.weight; several with commas."),
    ] = None,
    fail_on: Annotated[
        Level | None, typer.Option("--fail-on", help="Exit with 1 if a finding is at least as severe.")
    ] = None,
) -> None:
    """Say what the matrices of a file are like and what is odd about them: findings first, then one line per matrix.

    Exits with 2 and one sentence when the file cannot be read. A tensor that cannot be measured is named, and the rest
    goes on.
    """
    try:
        alone = json is not None and str(json) == "-"
        for option, path in (("--json", json), ("--html", html)):
            if path is not None and not (option == "--json" and alone):
                _check_output(option, path)
        from resolvent.report.collect import report

        with _progress() as progress:
            result = report(file, file2, quick=quick, only=only, progress=progress)
        if json is not None and not alone:
            result.to_json(json)
        if html is not None:
            result.to_html(html)
        if alone:
            typer.echo(result.to_json())
        else:
            show(result)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        if isinstance(error, BrokenPipeError):
            # `resolvent report ... | head`: nobody reads on, and Python must not complain of it at exit either.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            raise typer.Exit(0) from None
        sentence = f"{file}: does not fit in memory" if isinstance(error, MemoryError) else str(error)
        typer.echo(f"resolvent report: {sentence}", err=True)
        raise typer.Exit(_BAD_FILE) from None
    if fail_on is not None and result.reaches(fail_on.value):
        raise typer.Exit(_FOUND)


def show(result: Report) -> None:
    """Print a report: shortened to the terminal's width, or whole and without colours into a pipe.

    Parameters
    ----------
    result : what `resolvent.report.report` returned

    Examples
    --------
    >>> from resolvent.report.document import Report
    >>> show(Report("a.npy", (), seconds=0.1))
    a.npy: no matrices, 0.1 s
    """
    from rich.console import Console

    from resolvent.report.table import report_text

    console = Console(highlight=False)
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    width = console.width if console.is_terminal else None
    text = report_text(result, width, ascii_only=not encoding.startswith("utf"))
    if console.is_terminal:
        console.print(text, soft_wrap=True)
    else:
        typer.echo(text.plain)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on a terminal's stderr, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(bar_width=30), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=max(total, 1))

        yield progress


def _check_output(option: str, path: Path) -> None:
    """The measuring should not end in a report that cannot be written."""
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a directory")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{option} {path}: the folder {path.resolve().parent} does not exist")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise ValueError(f"{option} {path}: no permission to write it")
