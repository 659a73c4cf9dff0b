"""`resolvent index`: make, fill, ask and look after an index on disk."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from resolvent.search.store import Index

HERE = Path("resolvent.index")
_DATABASE = "meta.sqlite"
_TYPES = ("float", "int", "bool", "str", "datetime", "tags")

index_app = typer.Typer(
    name="index",
    help="An index on disk: vectors or texts, with filters, that loses nothing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Dir = Annotated[Path, typer.Argument(metavar="[DIR]", help=f"The index; default {HERE}.")]


@index_app.command("create")
def create_command(
    directory: _Dir = HERE,
    dim: Annotated[int | None, typer.Option("--dim", min=1, help="Length of a vector.")] = None,
    text: Annotated[bool, typer.Option("--text", help="For texts: the length is the encoder's.")] = False,
    encoder: Annotated[str | None, typer.Option("--encoder", help="With --text: a folder or name of a model.")] = None,
    field: Annotated[str, typer.Option("--field", help="What the field is called.")] = "vector",
    metric: Annotated[str, typer.Option("--metric", help="ip, cosine or l2.")] = "cosine",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, float16, bfloat16 or int8.")] = "float32",
    payload: Annotated[
        list[str] | None, typer.Option("--payload", metavar="NAME:TYPE", help=f"A column: {', '.join(_TYPES)}.")
    ] = None,
    window: Annotated[list[str] | None, typer.Option("--window", help="A column that intervals are asked of.")] = None,
    json: _Json = False,
) -> None:
    """Make an empty index. `add` makes one by itself where there is none."""
    with _one_line():
        if text == (dim is not None):
            raise ValueError("--dim: give either the length of a vector, or --text")
        columns = dict(_column(one) for one in payload or [])
        if text:
            from resolvent.search.text import text_encoder

            columns = {**_TEXT_COLUMNS, **columns}
            made = _create(directory, "text", text_encoder(encoder).dim, metric, dtype, columns, window or ())
        else:
            made = _create(directory, field, int(dim or 0), metric, dtype, columns, window or ())
        made.close()
        _tell({"created": str(directory)}, json, f"created {directory}")


@index_app.command("add")
def add_command(
    sources: Annotated[
        list[Path], typer.Argument(metavar="[DIR] SOURCE...", help="Files of vectors; with --text, texts and folders.")
    ],
    text: Annotated[bool, typer.Option("--text", help="Sources are texts: encode them.")] = False,
    encoder: Annotated[str | None, typer.Option("--encoder", help="With --text: a folder or name of a model.")] = None,
    field: Annotated[str | None, typer.Option("--field", help="The field that vectors go to.")] = None,
    metric: Annotated[str, typer.Option("--metric", help="Of an index that is made now.")] = "cosine",
    dtype: Annotated[str, typer.Option("--dtype", help="Of an index that is made now.")] = "float32",
    upsert: Annotated[bool, typer.Option("--upsert", help="Replace records whose ids are there already.")] = False,
    words: Annotated[int, typer.Option("--words", min=1, help="With --text: most words of a part.")] = 150,
    json: _Json = False,
) -> None:
    """Add .npy, .npz, .safetensors, .parquet or .jsonl, or with --text the texts of files and folders.

    The first argument is the index if it is one or if there are several; otherwise it is ./resolvent.index. Texts are
    stored in parts; a text that is added again replaces what there was of it.
    """
    with _one_line():
        directory, files = _split(sources)
        from resolvent.cli.index_writer import Writer

        with Writer(directory, field, metric, dtype, text=text, encoder=encoder, upsert=upsert) as writer:
            with _bar() as progress:
                for file in files:
                    writer.add(file, words, progress)
            total = len(writer.index) if writer.index is not None else 0
        _tell(
            {"index": str(directory), "added": writer.added, "records": total},
            json,
            f"added {writer.added} records to {directory}, which has {total}",
        )


@index_app.command("query")
def query_command(
    arguments: Annotated[list[str], typer.Argument(metavar="[DIR] QUERY", help="A text, or a .npy file of vectors.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Hits for each query.")] = 10,
    where: Annotated[str | None, typer.Option("--where", help="A filter: \"price < 20 and 'new' in tags\".")] = None,
    method: Annotated[str, typer.Option("--method", help="auto, exact, or a structure.")] = "auto",
    ef: Annotated[int | None, typer.Option("--ef", min=1, help="How far a graph looks.")] = None,
    field: Annotated[str | None, typer.Option("--field", help="The field that is asked.")] = None,
    cutoff: Annotated[float | None, typer.Option("--cutoff", help="No hit with a lower score.")] = None,
    json: _Json = False,
) -> None:
    """Find the records nearest to a text, or to the rows of a .npy file."""
    with _one_line():
        if len(arguments) > 2:
            raise ValueError(f"one query at a time: put the text between quotes (got {len(arguments)} arguments)")
        directory = Path(arguments[0]) if len(arguments) == 2 else HERE
        from resolvent.cli.index_writer import asked_field, query_vectors
        from resolvent.cli.where import parse_where

        with _opened(directory) as index:
            name = asked_field(index, field)
            vectors = query_vectors(index, name, arguments[-1])
            condition = None if where is None else parse_where(where)
            options: dict[str, Any] = {"k": k, "where": condition, "method": method, "ef": ef, "cutoff": cutoff}
            hits = index.query(**options, **{name: vectors})
            answers = _answers(hits)
        if json:
            typer.echo(json_.dumps({"hits": answers, "explain": hits.explain}, default=str))
        else:
            _show(answers)


@index_app.command("stats")
def stats_command(directory: _Dir = HERE, json: _Json = False) -> None:
    """Say what an index holds."""
    with _one_line(), _opened(directory) as index:
        found = index.stats()
        _tell(found, json, "\n".join(_lines(found)))


@index_app.command("verify")
def verify_command(
    directory: _Dir = HERE,
    repair: Annotated[bool, typer.Option("--repair", help="Build damaged search structures anew.")] = False,
    json: _Json = False,
) -> None:
    """Compare everything with its checksums; exit with 1 if something is wrong."""
    with _one_line(), _opened(directory, "rw" if repair else "r") as index:
        problems = index.verify()
        _tell({"problems": problems}, json, "\n".join(problems) or f"{directory}: {len(index)} records, all well")
    if problems:
        raise typer.Exit(1)


@index_app.command("compact")
def compact_command(
    directory: _Dir = HERE,
    full: Annotated[bool, typer.Option("--full", help="One file for each field, without any deleted row.")] = False,
    json: _Json = False,
) -> None:
    """Join small files and give the space of deleted records back."""
    with _one_line(), _opened(directory, "rw") as index:
        done = index.compact("full" if full else "auto")
        _tell(done, json, f"{directory}: {done['files']} files replaced, {done['bytes']} bytes freed")


_TEXT_COLUMNS = {"source": "str", "part": "int", "content": "str", "encoder": "str"}


def _column(text: str) -> tuple[str, str]:
    name, _, kind = text.partition(":")
    if kind not in _TYPES:
        raise ValueError(f"--payload {text!r}: write it as NAME:TYPE with one of {', '.join(_TYPES)}")
    return name, kind


def _create(path: Path, field: str, dim: int, metric: str, dtype: str, payload: dict[str, str], window: Any) -> Index:
    from resolvent import search

    kind = search.Dense(dim, metric=metric, dtype=dtype)
    return search.create(path, vectors={field: kind}, payload=payload, window=window)


def _split(paths: list[Path]) -> tuple[Path, list[Path]]:
    """The index and the sources."""
    first, *rest = paths
    if rest:
        return first, rest
    if (first / _DATABASE).is_file():
        raise ValueError(f"{first}: is an index; name what is to be added to it")
    return HERE, paths


@contextmanager
def _opened(directory: Path, mode: Any = "r") -> Iterator[Index]:
    from resolvent import search

    with search.open(directory, mode) as index:
        yield index


@contextmanager
def _one_line() -> Iterator[None]:
    """What a user can get wrong is a ValueError here, which `main` shows as one line."""
    try:
        yield
    except KeyError as error:
        raise ValueError(str(error.args[0]) if error.args else "a record is not there") from error
    except (TypeError, ImportError) as error:
        raise ValueError(str(error)) from error
    except MemoryError as error:
        raise ValueError("it does not fit in memory") from error


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal's stderr, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name, done, total: None
        return
    columns = (BarColumn(bar_width=30), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total or None)


def _tell(value: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json_.dumps(value, default=str) if as_json else text)


def _answers(hits: Any) -> list[list[dict[str, Any]]]:
    """Hits as plain values, query by query."""
    answers = []
    for ids, scores, payload in zip(hits.ids.tolist(), hits.scores.tolist(), hits.payload(), strict=True):
        own = [(i, s) for i, s in zip(ids, scores, strict=True) if s > float("-inf")]
        answers.append([{"id": i, "score": s, "payload": record} for (i, s), record in zip(own, payload, strict=True)])
    return answers


def _show(answers: list[list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for number, hits in enumerate(answers):
        if len(answers) > 1:
            console.print(Text(f"query {number}", style="dim"))
        for hit in hits:
            payload = {name: value for name, value in hit["payload"].items() if value not in (None, [])}
            content = " ".join(str(payload.get("content", "")).split())
            shown = content or ", ".join(f"{name}={value}" for name, value in payload.items())
            cut = shown if len(shown) <= 160 else shown[:157] + "..."
            console.print(
                Text.assemble(f"{hit['score']:8.4f}  ", (_printable(str(hit["id"])), "bold"), f"  {_printable(cut)}")
            )
        if not hits:
            console.print("nothing matches")


def _printable(text: str) -> str:
    """No text of a record may steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _lines(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{name}"
            yield from _lines(item, indent + "  ")
        else:
            listed = ", ".join(map(str, item)) if isinstance(item, list) else item
            yield f"{indent}{name}: {listed if listed not in ('', {}) else '-'}"
