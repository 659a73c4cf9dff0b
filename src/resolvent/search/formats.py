"""Readers of the files in which retrieval collections are kept: TREC, MS MARCO, BEIR, fvecs, ann-benchmarks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PathLike = str | os.PathLike[str]
# A whole number that fits into 64 bits.
_GAIN = re.compile(r"-?[0-9]{1,18}")


class Collection(NamedTuple):
    """A test collection.

    Attributes
    ----------
    documents : {id: text}
    queries : {id: text}
    qrels : {query: {document: gain}}
    """

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def read_qrels(path: PathLike) -> dict[str, dict[str, int]]:
    """Read relevance judgements: TREC ("query 0 document gain") or BEIR (a header, then query, document, gain).

    Parameters
    ----------
    path : text file

    Returns
    -------
    dict
        {query: {document: gain}}

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "qrels.txt")
    >>> _ = file.write_text("q1 0 d7 2\\n")
    >>> read_qrels(file)
    {'q1': {'d7': 2}}
    """
    judged: dict[str, dict[str, int]] = {}
    for number, words in _lines(path):
        if number == 1 and words[-1].lower() == "score":
            continue
        if len(words) not in (3, 4) or not _GAIN.fullmatch(words[-1]):
            raise ValueError(
                f"{path}, line {number}: expected 'query 0 document gain' or 'query document gain', got {' '.join(words)!r:.200}"
            )
        judged.setdefault(words[0], {})[words[-2]] = int(words[-1])
    return judged


def read_run(path: PathLike) -> dict[str, dict[str, float]]:
    """Read ranked results: TREC ("query Q0 document rank score tag") or MS MARCO ("query document rank").

    Parameters
    ----------
    path : text file

    Returns
    -------
    dict
        {query: {document: score}}; without scores, minus the rank

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "run.txt")
    >>> _ = file.write_text("q1 Q0 d7 1 12.5 mine\\nq1 Q0 d2 2 11.0 mine\\n")
    >>> read_run(file)
    {'q1': {'d7': 12.5, 'd2': 11.0}}
    """
    run: dict[str, dict[str, float]] = {}
    for number, words in _lines(path):
        try:
            if len(words) == 6:
                document, score = words[2], float(words[4])
            elif len(words) == 3:
                document, score = words[1], -float(words[2])
            else:
                raise ValueError
            if score != score:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected 'query Q0 document rank score tag' or 'query document rank', got {' '.join(words)!r:.200}"
            ) from None
        run.setdefault(words[0], {})[document] = score
    return run


def read_beir(folder: PathLike, split: str = "test") -> Collection:
    """Read a collection of BEIR: corpus.jsonl, queries.jsonl and qrels/<split>.tsv.

    Parameters
    ----------
    folder : where they lie
    split : which judgements; only the queries that are judged are read

    Returns
    -------
    Collection
        titles are put before the texts

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> (root / "qrels").mkdir()
    >>> _ = (root / "corpus.jsonl").write_text('{"_id": "d", "title": "Tea", "text": "is warm"}\\n')
    >>> _ = (root / "queries.jsonl").write_text('{"_id": "q", "text": "warm drinks"}\\n')
    >>> _ = (root / "qrels" / "test.tsv").write_text("query-id\\tcorpus-id\\tscore\\nq\\td\\t1\\n")
    >>> read_beir(root).documents
    {'d': 'Tea is warm'}
    """
    root = Path(folder)
    judged = read_qrels(root / "qrels" / f"{split}.tsv")
    documents = {i: f"{r.get('title', '')} {r['text']}".strip() for i, r in _records(root / "corpus.jsonl")}
    queries = {i: r["text"] for i, r in _records(root / "queries.jsonl") if i in judged}
    return Collection(documents, queries, judged)


def read_tsv(path: PathLike) -> dict[str, str]:
    """Read texts by id, as MS MARCO keeps them: id, a tab, the text.

    Parameters
    ----------
    path : text file

    Returns
    -------
    dict
        {id: text}

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "queries.tsv")
    >>> _ = file.write_text("7\\twhat is tea\\n")
    >>> read_tsv(file)
    {'7': 'what is tea'}
    """
    texts = {}
    for number, line in _numbered(path):
        own, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab:
            raise ValueError(f"{path}, line {number}: expected an id, a tab and a text")
        texts[own] = text
    return texts


def read_vecs(path: PathLike, rows: int | None = None) -> np.ndarray:
    """Read vectors of the TEXMEX formats .fvecs, .bvecs and .ivecs, mapped and not loaded.

    Parameters
    ----------
    path : file whose ending tells the type
    rows : only the first so many

    Returns
    -------
    (n, d) array
        float32, uint8 or int32

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> file = pathlib.Path(tempfile.mkdtemp(), "two.ivecs")
    >>> np.array([2, 5, 6, 2, 7, 8], np.int32).tofile(file)
    >>> read_vecs(file).tolist()
    [[5, 6], [7, 8]]
    """
    place = Path(path)
    item = {".fvecs": np.float32, ".bvecs": np.uint8, ".ivecs": np.int32}.get(place.suffix)
    if item is None:
        raise ValueError(f"{path} must end in .fvecs, .bvecs or .ivecs")
    size = place.stat().st_size
    if size < 4:
        raise ValueError(f"{path} holds no vector")
    raw = np.memmap(place, np.uint8, "r")
    dim = int(raw[:4].view(np.int32)[0])
    width = 4 + dim * np.dtype(item).itemsize
    if dim < 1 or size % width:
        raise ValueError(f"{path} is damaged: {size} bytes are no rows of dimension {dim}")
    table = raw.reshape(-1, width)[:rows]
    if bool((table[:, :4].copy().view(np.int32) != dim).any()):
        raise ValueError(f"{path} is damaged: not every row has dimension {dim}")
    return table[:, 4:].view(item) if item is np.uint8 else _unaligned(table, item)


def read_ann_benchmarks(path: PathLike) -> dict[str, np.ndarray]:
    """Read a data set of ann-benchmarks (HDF5; needs h5py).

    Parameters
    ----------
    path : file with the tables train, test, neighbors and distances

    Returns
    -------
    dict
        those tables

    Examples
    --------
    >>> read_ann_benchmarks("glove-25-angular.hdf5")["train"].shape   # doctest: +SKIP
    (1183514, 25)
    """
    try:
        import h5py
    except ImportError:
        raise ImportError("reading HDF5 needs h5py: pip install h5py") from None
    with h5py.File(path, "r") as file:
        return {name: np.asarray(file[name]) for name in ("train", "test", "neighbors", "distances") if name in file}


def _unaligned(table: np.ndarray, item: Any) -> np.ndarray:
    # Rows start every 4 + 4 d bytes, which is a multiple of the item's size: a view with that stride.
    flat = table.reshape(-1).view(item)
    return flat.reshape(len(table), -1)[:, 1:]


def _numbered(path: PathLike) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode()
            except UnicodeDecodeError:
                raise ValueError(f"{path}, line {number}: is not UTF-8") from None


def _lines(path: PathLike) -> Iterator[tuple[int, list[str]]]:
    for number, line in _numbered(path):
        if line.strip():
            yield number, line.split()


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _numbered(path):
        if not line.strip():
            continue
        texts: tuple[Any, ...] = ()
        try:
            record = json.loads(line)
            own, texts = str(record["_id"]), (record["text"], record.get("title", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            own = ""
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f'{path}, line {number}: expected an object with "_id" and "text"')
        yield own, record
