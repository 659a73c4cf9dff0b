"""`resolvent report`: what the matrices of a file are like."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from resolvent.report.document import Report

_BAD_FILE = 2


def report_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors, .npy, .npz or .mtx file.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="float32 where it keeps four digits; no bootstrap of the tails.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the numbers as JSON; - prints only them.")
    ] = None,
) -> None:
    """Say what the matrices of a file are like: norms, ranks, entropy, condition, noise and tail, one line each.

    Exits with 2 and one sentence when the file cannot be read. A tensor that cannot be measured is named, and the rest
    goes on.
    """
    try:
        alone = json is not None and str(json) == "-"
        if json is not None and not alone:
            _check_output(json)
        from resolvent.report.document import report

        with _progress() as progress:
            result = report(file, quick=quick, progress=progress)
        if json is not None and not alone:
            result.to_json(json)
        if alone:
            typer.echo(result.to_json())
        else:
            show(result)
    except (ValueError, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            # `resolvent report ... | head`: nobody reads on, and Python must not complain of it at exit either.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            raise typer.Exit(0) from None
        sentence = f"{file}: does not fit in memory" if isinstance(error, MemoryError) else str(error)
        typer.echo(f"resolvent report: {sentence}", err=True)
        raise typer.Exit(_BAD_FILE) from None


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


def _check_output(path: Path) -> None:
    """The measuring should not end in a report that cannot be written."""
    if path.is_dir():
        raise ValueError(f"--json {path}: is a directory")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"--json {path}: the folder {path.resolve().parent} does not exist")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise ValueError(f"--json {path}: no permission to write it")
