"""What fuzzing has found in the readers (`make fuzz`): each file is refused in one line that names it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from resolvent import search
from resolvent.cli.index_input import read_table
from resolvent.errors import Damaged
from resolvent.search import field_arrays, formats


def refused(read, path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=path.name) as caught:
        read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("read", "raw"),
    [
        (formats.read_tsv, b"7\twhat is \x9b\n"),
        (formats.read_qrels, b"q1 0 d7 \xff\n"),
        (formats.read_qrels, "q1 0 d7 \N{SUPERSCRIPT TWO}\n".encode()),
        (formats.read_qrels, b"q1 0 d7 --5\n"),
        (formats.read_qrels, b"q1 0 d7 " + b"9" * 5000),
        (formats.read_run, b"q1 Q0 d7 1 nan mine\n"),
        (formats.read_run, b"q1 " + b"x" * 9000),
    ],
)
def test_lines_of_collections(tmp_path, read, raw):
    refused(read, tmp_path / "fuzz.txt", raw)


@pytest.mark.parametrize(
    "line", [b"[" * 9000, b'{"_id": 1, "text": {}}', b'{"_id": 1, "text": "x", "title": 3}', b'"_id"']
)
def test_records_of_collections(tmp_path, line):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\td\t1\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    refused(lambda path: formats.read_beir(path.parent), tmp_path / "corpus.jsonl", line + b"\n")


def archive(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, content)
    return out.getvalue()


def array(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 8


@pytest.mark.parametrize(
    ("suffix", "raw"),
    [
        (".npz", b"PK no archive"),
        (".npz", archive("a.npy", array("(1, 2)"))[:-30]),
        (".npz", archive("a.npy", array("(1000000, 1000000)"))),
        (".npz", archive("a\nb" * 400, array("(1, 2)"))),
        (".npy", array("(1 2)")),
        (".npy", array("((((")),
        (".parquet", b"PAR1" + bytes(40) + b"PAR1"),
        (".jsonl", b'{"vector": {"a": 1}}\n'),
        (".jsonl", b'{"vector": {"1": null}}\n'),
        (".jsonl", b'{"vector": {"1": 1' + b"0" * 400 + b"}}\n"),
        (".jsonl", b'{"a\\nb": 1}\n'),
    ],
)
def test_files_of_vectors(tmp_path, suffix, raw):
    pytest.importorskip("pyarrow")
    refused(lambda path: list(read_table(path, "vector")), tmp_path / f"fuzz{suffix}", raw)


@pytest.mark.parametrize("wrong", [{"indptr": [0, 2, 1, 3]}, {"indptr": [0, 1, 2, 9]}, {"indices": [0, 1, 7]}])
def test_damaged_rows_of_sparse_fields_lead_nowhere(wrong):
    arrays = {"indptr": np.array([0, 1, 2, 3]), "indices": np.array([0, 1, 2]), "data": np.ones(3, np.float32)}
    broken = arrays | {name: np.array(values) for name, values in wrong.items()}
    field = search.Sparse(4)
    assert field_arrays.view(field, arrays).shape == (3, 4)
    for read in (field_arrays.view, lambda f, a: field_arrays.decode(f, a, np.arange(3))):
        with pytest.raises(Damaged):
            field_arrays.checked_view(lambda read=read: read(field, broken), "x")


def test_damaged_ends_of_token_sets_lead_nowhere():
    field = search.MultiVector(2)
    arrays = field_arrays.encode(field, [np.ones((2, 2)), np.ones((1, 2))], 2, "t")
    broken = arrays | {"offsets": np.array([0, 1 << 40, 3])}
    for read in (field_arrays.view, lambda f, a: field_arrays.decode(f, a, np.arange(2))):
        with pytest.raises(Damaged):
            field_arrays.checked_view(lambda read=read: read(field, broken), "x")


def test_a_database_whose_texts_or_files_whose_rows_are_damaged(tmp_path):
    x = np.eye(2)
    with search.create(tmp_path / "x", vectors={"v": search.Dense(2)}) as index:
        index.add([1, 2], v=x)
        index.compact()
    (file,) = (tmp_path / "x").glob("*.safetensors")
    whole, database = file.read_bytes(), (tmp_path / "x" / "meta.sqlite").read_bytes()
    rows = np.array([1, 2]).tobytes()
    assert whole.count(rows) == 1
    file.write_bytes(whole.replace(rows, np.array([1, 2000]).tobytes()))
    with search.open(tmp_path / "x") as index, pytest.raises(Damaged, match="records that the database has not"):
        index.query(v=x[1], k=2)
    file.write_bytes(whole)
    assert b"CREATE TABLE segments" in database
    (tmp_path / "x" / "meta.sqlite").write_bytes(
        database.replace(b"CREATE TABLE segments", b"CREATE TABLE segment\xff")
    )
    with pytest.raises(Damaged) as caught:
        search.open(tmp_path / "x")
    assert "\n" not in str(caught.value)
