"""The command `resolvent`: its commands, and errors shown as one line instead of a traceback."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from resolvent.cli.claims import claims_command
from resolvent.cli.find import find_command
from resolvent.cli.index_command import index_app
from resolvent.cli.report_command import report_command
from resolvent.errors import ResolventError

app = typer.Typer(
    name="resolvent",
    help="Spectra, operators and matrix functions for PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("report")(report_command)
app.command("claims")(claims_command)
app.command("find")(find_command)
app.add_typer(index_app, name="index")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from resolvent import __version__

        typer.echo(f"resolvent {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of the user's is one line on stderr and exit code 2.

    Examples
    --------
    >>> import pytest
    >>> with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
    ...     patch.setattr(sys, "argv", ["resolvent", "--version"])
    ...     main()
    resolvent 0.1.0
    """
    try:
        app()
    except (ValueError, OSError, ResolventError) as error:
        typer.echo(f"resolvent: {error}", err=True)
        sys.exit(2)
