"""What `resolvent index add` reads: arrays, tables, lines of JSON and folders of texts, a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_ROWS, _TEXTS = 16_384, 256
_LONGEST_LINE, _LARGEST_TEXT = 64 << 20, 64 << 20
_ID_NAMES = ("id", "ids", "_id")
TABLES = (".npy", ".npz", ".safetensors", ".parquet", ".jsonl")
TEXTS = (".txt", ".md", ".rst")


@dataclass
class Batch:
    """Some records as `Index.add` takes them.

    Attributes
    ----------
    ids : a list, or None where the file has none
    vectors : the vectors of each field
    payload : columns
    done, total : rows read with this batch, and all (0: not known)
    source : where it comes from
    whole : these are all parts of the source, and replace those that are there
    """

    ids: list[Any] | None
    vectors: dict[str, Any]
    payload: dict[str, list[Any]] = field(default_factory=dict)
    done: int = 0
    total: int = 0
    source: str = ""
    whole: bool = False

    @property
    def rows(self) -> int:
        return len(next(iter(self.vectors.values())))


def read_table(path: Path, name: str) -> Iterator[Batch]:
    """The batches of a file of vectors.

    Parameters
    ----------
    path : .npy (n, d); .npz or .safetensors with one (n, d) array of numbers, or one called `name`, and arrays of
        length n beside it ("ids" and payload); .parquet with a column of vectors; .jsonl with an object a line
    name : of the field that the vectors go to

    Returns
    -------
    Batches in the order of the file.

    Raises
    ------
    ValueError : an unknown kind of file, no vectors in it, or it is damaged.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.npy")
    ...     np.save(file, np.eye(3))
    ...     [batch.rows for batch in read_table(file, "vector")]
    [3]
    """
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder: read it with --text' if path.is_dir() else 'there is no such file'}")
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        raise ValueError(f"{path}: is a text: read it with --text")
    if suffix not in TABLES:
        raise ValueError(
            f"{path}: unknown kind of file {suffix!r}; can read {', '.join(TABLES)}, and texts with --text"
        )
    if suffix == ".parquet":
        yield from _parquet(path, name)
    elif suffix == ".jsonl":
        yield from _lines(path, name)
    else:
        yield from _arrays(path, name)


def read_texts(path: Path, words: int) -> Iterator[Batch]:
    """Texts in parts, with the source, the number and the content of each as payload; vectors are to be made.

    Parameters
    ----------
    path : a folder (its .txt, .md and .rst files, hidden ones left out), such a file, or a .jsonl whose lines have
        "text", and other keys as payload
    words : most words of a part

    Returns
    -------
    Batches whose only field "text" holds the texts themselves.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.md").write_text("First part.\\n\\nSecond part.")
    ...     [(batch.ids, batch.vectors["text"]) for batch in read_texts(Path(folder), words=2)]
    [(['a.md', 'a.md#2'], ['First part.', 'Second part.'])]
    """
    if path.is_file() and path.suffix.lower() == ".jsonl":
        yield from _text_lines(path)
        return
    files, root = _text_files(path)
    from resolvent.search.text import split_text

    for number, file in enumerate(files, 1):
        if file.stat().st_size > _LARGEST_TEXT:
            raise ValueError(f"{file}: is larger than a text can be ({_LARGEST_TEXT >> 20} MiB)")
        parts = split_text(file.read_text(encoding="utf-8", errors="replace"), words)
        source = file.relative_to(root).as_posix()
        ids = [source if i == 1 else f"{source}#{i}" for i in range(1, len(parts) + 1)]
        payload: dict[str, list[Any]] = {
            "source": [source] * len(parts),
            "part": list(range(1, len(parts) + 1)),
            "content": parts,
        }
        if parts:
            yield Batch(ids, {"text": parts}, payload, number, len(files), source, whole=True)


def read_queries(path: Path) -> np.ndarray:
    """The queries (b, d) of a .npy file."""
    (array,) = [batch.vectors["q"] for batch in _arrays(path, "q", rows=1 << 62)]
    return array


def _text_files(path: Path) -> tuple[list[Path], Path]:
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in TEXTS
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not files:
            raise ValueError(f"{path}: holds no {', '.join(TEXTS)} file")
        return files, path
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file or folder")
    if path.suffix.lower() not in TEXTS:
        raise ValueError(f'{path}: is no text ({", ".join(TEXTS)}, or .jsonl with a "text" in each line)')
    return [path], path.parent


def _arrays(path: Path, name: str, rows: int = _ROWS) -> Iterator[Batch]:
    """Arrays of one file: the vectors, and whatever has one entry for each of them."""
    import numpy as np

    from resolvent.report.array_file import ARCHIVE_ERRORS

    try:
        found = _load(path)
    except (*ARCHIVE_ERRORS, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a valid {path.suffix[1:]} file ({_first_line(error)})") from error
    tables = [key for key, array in found.items() if array.ndim == 2 and array.dtype.kind in "fiu"]
    key = name if name in tables else tables[0] if len(tables) == 1 else None
    if key is None:
        listed = _brief(", ".join(f"{key} {array.shape}" for key, array in found.items())) or "nothing"
        raise ValueError(f"{path}: needs one (n, d) array of numbers, or one called {name!r}; it has {listed}")
    vectors = found.pop(key)
    n = len(vectors)
    columns = {k: a for k, a in found.items() if a.ndim == 1 and len(a) == n and a.dtype.kind in "biufUM"}
    ids = next((columns.pop(k) for k in _ID_NAMES if k in columns), None)
    for a in range(0, n, rows):
        own = slice(a, min(n, a + rows))
        payload = {
            k: column[own].tolist() if column.dtype.kind != "M" else list(column[own]) for k, column in columns.items()
        }
        named = None if ids is None else ids[own].tolist()
        yield Batch(named, {name: np.asarray(vectors[own])}, payload, own.stop, n, path.name)


def _load(path: Path) -> dict[str, Any]:
    import numpy as np

    from resolvent.report.array_file import _header

    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            _header(file, str(path))
        return {"array": np.load(path, mmap_mode="r", allow_pickle=False)}
    if path.suffix.lower() == ".npz":
        return _archive(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {key: (t.float() if t.is_floating_point() else t).numpy() for key, t in tensors.items()}


def _archive(path: Path) -> dict[str, Any]:
    """The arrays of an .npz, whose claims are compared with the archive before memory is taken."""
    import math
    import zipfile

    import numpy as np

    from resolvent.report.array_file import _check_bomb, _header

    found = {}
    with zipfile.ZipFile(path) as archive:
        _check_bomb(path, archive.infolist())
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                shape, _, dtype = _header(file, member.filename)
                there = member.file_size - file.tell()
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != there:
                    raise ValueError(f"{member.filename} holds objects, or other sizes than its header says")
            with archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            found[member.filename.removesuffix(".npy")] = array
    return found


def _parquet(path: Path, name: str) -> Iterator[Batch]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: pip install resolvent[report]") from None
    import numpy as np

    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema, done = file.schema_arrow, 0
        lists = [f.name for f in schema if _is_vectors(f.type)]
        key = name if name in lists else lists[0] if len(lists) == 1 else None
        if key is None:
            raise ValueError(
                f"it needs one column of vectors, or one called {name!r}; it has {', '.join(schema.names)}"
            )
        for block in file.iter_batches(_ROWS):
            columns = {c: block.column(c) for c in block.schema.names}
            vectors = columns.pop(key)
            if vectors.null_count:
                raise ValueError(f"column {key!r} has rows without a vector")
            flat = vectors.flatten().to_numpy(zero_copy_only=False)
            width = len(flat) // max(1, len(vectors))
            sizes = np.diff(vectors.offsets.to_numpy()) if hasattr(vectors, "offsets") else np.full(len(vectors), width)
            if (sizes != width).any():
                raise ValueError(f"column {key!r} has vectors of {int(sizes.min())} to {int(sizes.max())} numbers")
            ids = next((columns.pop(c).to_pylist() for c in _ID_NAMES if c in columns), None)
            done += len(vectors)
            payload = {c: column.to_pylist() for c, column in columns.items()}
            made = flat.astype(np.float32).reshape(len(vectors), width)
            yield Batch(ids, {name: made}, payload, done, file.metadata.num_rows, path.name)
    except (pyarrow.ArrowException, ValueError, OSError, KeyError) as error:
        raise ValueError(f"{path}: not a valid table of vectors ({_first_line(error)})") from error


def _is_vectors(kind: Any) -> bool:
    import pyarrow.types as types

    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return listed and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))


def _lines(path: Path, name: str) -> Iterator[Batch]:
    """Objects with "id", the field's vector, and the rest as payload."""
    for records, done in _records(path):
        first = records[0][1]
        key = name if name in first else next((k for k in ("vector", "embedding") if k in first), None)
        if key is None:
            raise ValueError(f"{path}: line {records[0][0]} has no {name!r}; it has {_brief(', '.join(first))}")
        vectors = []
        for number, record in records:
            value = record.pop(key, None)
            if not isinstance(value, list | dict):
                raise ValueError(f"{path}: line {number} has no vector {key!r}")
            try:
                vectors.append({int(i): float(v) for i, v in value.items()} if isinstance(value, dict) else value)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"{path}: line {number} has a vector that is not of numbers by place") from error
        lengths = {len(v) for v in vectors if isinstance(v, list)}
        if len(lengths) > 1:
            raise ValueError(
                f"{path}: vectors up to line {records[-1][0]} have {min(lengths)} to {max(lengths)} numbers"
            )
        yield Batch(*_parted(path, records, {name: vectors}), done, path.stat().st_size, path.name)


def _text_lines(path: Path) -> Iterator[Batch]:
    for records, done in _records(path, _TEXTS):
        texts = []
        for number, record in records:
            if not isinstance(record.get("text"), str):
                raise ValueError(f'{path}: line {number} has no "text"')
            texts.append(record["text"])
            record["content"] = record.pop("text")
        yield Batch(*_parted(path, records, {"text": texts}), done, path.stat().st_size, path.name)


def _parted(path: Path, records: list[tuple[int, dict[str, Any]]], vectors: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Ids, vectors and payload columns."""
    key = next((k for k in _ID_NAMES if k in records[0][1]), None)
    ids = None
    if key is not None:
        ids = [record.pop(key, None) for _, record in records]
        if None in ids:
            raise ValueError(f"{path}: line {records[ids.index(None)][0]} has no {key!r}")
    names = dict.fromkeys(name for _, record in records for name in record)
    return ids, vectors, {name: [record.get(name) for _, record in records] for name in names}


def _records(path: Path, rows: int = 2048) -> Iterator[tuple[list[tuple[int, dict[str, Any]]], int]]:
    """Objects with the numbers of their lines, some at a time, and how many bytes have been read."""
    batch: list[tuple[int, dict[str, Any]]] = []
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"{path}: line {number} is longer than {_LONGEST_LINE} bytes")
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number} is no JSON ({_first_line(error)})") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}: line {number} is no JSON object")
            batch.append((number, record))
            if len(batch) == rows:
                yield batch, file.tell()
                batch = []
        if batch:
            yield batch, file.tell()
        elif not number:
            raise ValueError(f"{path}: is empty")


def _brief(text: str) -> str:
    """A text of a file, as it may stand in a message."""
    return " ".join(text.split())[:200]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
