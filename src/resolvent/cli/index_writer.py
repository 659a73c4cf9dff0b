"""How `resolvent index add` and `query` meet an index: batches go in, texts become vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from resolvent.cli.index_input import Batch, read_queries, read_table, read_texts

if TYPE_CHECKING:
    from resolvent.search.store import Index

_DATABASE = "meta.sqlite"
_TEXT_COLUMNS = {"source": "str", "part": "int", "content": "str", "encoder": "str"}
Progress = Callable[[str, int, int], None]


class Writer:
    """Adds files to an index, which is made with the first of them where there is none.

    Parameters
    ----------
    directory : of the index
    field : that vectors go to; default the only dense one, or "vector"
    metric, dtype : of an index that is made
    text : sources are texts
    encoder : for texts; default the one that the index was made with
    upsert : replace records whose ids are there
    """

    def __init__(
        self,
        directory: Path,
        field: str | None,
        metric: str,
        dtype: str,
        *,
        text: bool = False,
        encoder: str | None = None,
        upsert: bool = False,
    ) -> None:
        from resolvent import search

        self.directory, self.metric, self.dtype = directory, metric, dtype
        self.text, self.upsert, self.added = text, upsert, 0
        self.index: Index | None = search.open(directory, "rw") if (directory / _DATABASE).is_file() else None
        if self.index is None and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ValueError(f"{directory}: is no index, and not an empty folder that could become one")
        # (An index without records is false.)
        known = None if self.index is None or field else asked_field(self.index, None)
        self.field = "text" if text else field or known or "vector"
        self._encoder = self._text_encoder(encoder) if text else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.index is not None:
            self.index.close()

    def add(self, path: Path, words: int, progress: Progress) -> None:
        """Add one file or folder, batch by batch; each batch is on the disk before the next is read."""
        read = read_texts(path, words) if self.text else read_table(path, self.field)
        first = None
        for batch in read:
            if self.text:
                self._encode(batch, progress)
            if self.index is None:
                self._create(batch)
            if batch.ids is None:
                first = self._next() if first is None else first
                batch.ids = self._named(batch, first)
                first = first if isinstance(first, str) else first + batch.rows
            self._store(batch)
            progress(batch.source, batch.done, batch.total)

    def _store(self, batch: Batch) -> None:
        index = self._open_index()
        if not batch.whole:
            put = index.upsert if self.upsert else index.add
            self.added += put(batch.ids, payload=batch.payload, **batch.vectors)
            return
        from resolvent.search import F

        # First what is new, then what is left over of a longer text: nothing is lost between the two.
        before = index.ids(where=F.source == batch.source).tolist()
        self.added += index.upsert(batch.ids, payload=batch.payload, **batch.vectors)
        gone = sorted(set(before) - set(batch.ids or []))
        if gone:
            index.delete(gone)

    def _encode(self, batch: Batch, progress: Progress) -> None:
        encoder: Any = self._encoder
        texts = batch.vectors["text"]
        batch.vectors["text"] = encoder.encode(
            texts, progress=lambda done, total: progress(f"{batch.source} {done}/{total}", batch.done - 1, batch.total)
        )
        batch.payload["encoder"] = [encoder.name] * len(texts)

    def _text_encoder(self, name: str | None) -> Any:
        from resolvent.search.text import text_encoder

        if self.index is not None:
            if "text" not in self.index.schema.vectors:
                raise ValueError(f"{self.directory}: has no field 'text': it was not made with --text")
            used = encoder_of(self.index)
            if used is not None and name not in (None, used):
                raise ValueError(f"--encoder {name!r}: the texts of this index were encoded with {used!r}")
            name = used or name
        return text_encoder(name)

    def _create(self, batch: Batch) -> None:
        """An index for batches like this one."""
        from resolvent import search

        vectors = batch.vectors[self.field]
        kind: Any
        if isinstance(vectors, list) and isinstance(vectors[0], dict):
            kind = search.Sparse()
        else:
            dim = len(vectors[0]) if isinstance(vectors, list) else vectors.shape[1]
            kind = search.Dense(int(dim), metric=self.metric, dtype=self.dtype)  # type: ignore[arg-type]
        found = {name: _type(values) for name, values in batch.payload.items()}
        columns = {name: known for name, known in found.items() if known is not None}
        if self.text:
            columns = {**columns, **_TEXT_COLUMNS}
        self.index = search.create(self.directory, vectors={self.field: kind}, payload=columns)

    def _next(self) -> int | str:
        """The first id for rows without ids: the next integer, or none among texts."""
        ids = self._open_index().ids()
        if not len(ids):
            return 0
        return "" if ids.dtype.kind == "O" else max(0, int(ids.max()) + 1)

    def _named(self, batch: Batch, first: int | str) -> list[Any]:
        if isinstance(first, str):
            end = batch.done if batch.total >= batch.done else batch.rows
            return [f"{batch.source}:{i}" for i in range(end - batch.rows, end)]
        return list(range(first, first + batch.rows))

    def _open_index(self) -> Index:
        if self.index is None:
            raise ValueError(f"{self.directory}: nothing was read")
        return self.index


def asked_field(index: Index, field: str | None) -> str:
    """The dense field that is meant, if only one can be."""
    dense = [name for name, kind in index.schema.vectors.items() if type(kind).__name__ == "Dense"]
    if field is None and len(dense) == 1:
        return dense[0]
    if field not in dense:
        which = "say which with --field" if field is None else f"there is none called {field!r}"
        raise ValueError(f"{index.path}: its dense fields are {', '.join(dense) or 'none'}; {which}")
    return str(field)


def encoder_of(index: Index) -> str | None:
    """The encoder that made the texts of an index, if there are any."""
    if "encoder" not in index.schema.payload:
        return None
    with index.snapshot() as snapshot:
        rows = snapshot.rows()
        return snapshot.payload(rows[:1])["encoder"][0] if len(rows) else None


def query_vectors(index: Index, field: str, text: str) -> Any:
    """The vectors (b, d) of a query: the rows of a .npy file, or a text by the encoder of the index."""
    if text.lower().endswith(".npy") and Path(text).is_file():
        return read_queries(Path(text))
    name = encoder_of(index)
    if name is None:
        raise ValueError(f"{index.path}: holds no texts; the query must be a .npy file of vectors, got {text!r}")
    if not text.strip():
        raise ValueError("the query is empty")
    from resolvent.search.text import text_encoder

    return text_encoder(name).encode([text])


def _type(values: list[Any]) -> str | None:
    """The payload type of a column by what its first batch holds; None for what only JSON can hold."""
    kinds = {type(value) for value in values if value is not None}
    names = {float: "float", int: "int", bool: "bool", str: "str"}
    if kinds and kinds <= {int, float}:
        return "float" if float in kinds else "int"
    if len(kinds) == 1 and (one := kinds.pop()) in names:
        return names[one]
    if values and kinds <= {list} and all(isinstance(t, str) for v in values for t in v or []) and any(values):
        return "tags"
    return "datetime" if values and all(hasattr(v, "isoformat") or v is None for v in values) and any(values) else None
