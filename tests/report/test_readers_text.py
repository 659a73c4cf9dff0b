"""Tables of vectors, edge lists and SciPy's sparse archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.report import stored_tensors
from resolvent.report.stored import Stored


def only(path: Path) -> Stored:
    with stored_tensors(path) as tensors:
        (stored,) = tensors
    return stored


def matrix_of(path: Path) -> scipy.sparse.csr_array:
    with stored_tensors(path) as (stored,):
        return stored.load()


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "rows", "note"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], ""),
        ("1;2\n\n3;4", [[1, 2], [3, 4]], ""),
        ("1\t2\n3\t4\n", [[1, 2], [3, 4]], ""),
        ("1 2\n3 4\n", [[1, 2], [3, 4]], ""),
        ("x,y\n1,2\n3,nan\n", [[1, 2], [3, np.nan]], ""),
        ("\ufeffx,y\n1,2\n", [[1, 2]], ""),
        ("word,x,y\nred,1,2\nblue,3,4\n", [[1, 2], [3, 4]], "left out: 'word'"),
        ('"red, deep",1,2\n"blue",3,4\n', [[1, 2], [3, 4]], "left out: column 1"),
        (",x,y\n0,1,2\n1,3,4\n", [[1, 2], [3, 4]], "left out: ''"),
        ("id,x,y\n7,1,2\n9,3,4\n", [[1, 2], [3, 4]], "left out: 'id'"),
        ('text,embedding\na,"[1, 2]"\nb,"[3, 4]"\n', [[1, 2], [3, 4]], "left out: 'text'"),
        ("a,b,c,d,e,f,x\n" + "p,q,r,s,t,u,1\n" * 2, [[1], [1]], "left out: 'a', 'b', 'c', 'd', 2 more columns"),
    ],
)
def test_csv(tmp_path: Path, text: str, rows: list, note: str) -> None:
    stored = only(written(tmp_path / "a.csv", text))
    assert stored.role == "vectors" and stored.name == "a" and stored.notes == ((note,) if note else ())
    assert np.array_equal(stored.load().numpy(), rows, equal_nan=True) and stored.shape == np.shape(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n\n", "no rows"),
        ("a,b\nc,d\n", "no numbers"),
        ("1,2\n3\n", "row 2 has 1 fields, the first one has 2"),
        ("1,2\n3,\n", "row 2, column 2 is empty"),
        ("1,2\n3,abc\n", "row 2, column 2 is 'abc', not a number"),
        ("x,y\n1,2\n3,4,5\n", "row 3 has 3 fields"),
        ("x,\n1,2,3\n", "names 2 columns, and its first row has 3"),
        ('e\n"[1,2]"\n"[1,2,3]"\n', "differ in length"),
        ("1," * 600_000, "longer than"),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        only(written(tmp_path / "a.csv", text))
    assert "\n" not in str(caught.value) and "a.csv" in str(caught.value)


def test_a_long_csv_is_read_in_blocks(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (40_000, 3)).astype(float)
    np.savetxt(tmp_path / "a.csv", array, delimiter=",", fmt="%g")
    assert np.array_equal(only(tmp_path / "a.csv").load().numpy(), array)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 4)).astype(np.float32)
    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), 4)
    table = pyarrow.table({"id": list(range(20_000)), "v": list(vectors), "f": fixed, "w": ["a"] * 20_000})
    parquet.write_table(table, tmp_path / "a.parquet")
    with stored_tensors(tmp_path / "a.parquet") as tensors:
        assert [t.name for t in tensors] == ["v", "f"] and {t.role for t in tensors} == {"vectors"}
        assert all(np.array_equal(t.load().numpy(), vectors) for t in tensors)
    columns = pyarrow.table({"id": [1, 2], "x": [0.5, 1.5], "y": [2.0, 3.0]})
    parquet.write_table(columns, tmp_path / "b.parquet")
    stored = only(tmp_path / "b.parquet")
    assert stored.load().tolist() == [[0.5, 2.0], [1.5, 3.0]] and stored.notes == ("left out: 'id'",)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": ["x", "y"]}, "no columns of numbers"),
        ({"a": [1.0, None]}, "has empty fields"),
    ],
)
def test_parquet_that_is_wrong(tmp_path: Path, columns: dict, words: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=words):
        only(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + b"\0" * 50 + b"PAR1")
    with pytest.raises(ValueError, match="not a valid table"):
        only(tmp_path / "b.parquet")


@pytest.mark.parametrize("rows", [[[1.0], [1.0, 2.0]], [[1.0, 2.0], None], [[1.0, None], [1.0, 2.0]]])
def test_lists_that_are_no_vectors_are_one_entry(tmp_path: Path, rows: list) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"bad": rows, "good": [[1.0], [2.0]]}), tmp_path / "a.parquet")
    with stored_tensors(tmp_path / "a.parquet") as (bad, good):
        assert bad.dtype == "unknown" and bad.reason and good.load().tolist() == [[1.0], [2.0]]


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install 'resolvent\[report\]'"):
        only(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("text", "matrix", "note"),
    [
        ("0 1\n1 2\n", [[0, 1, 0], [1, 0, 1], [0, 1, 0]], "read as undirected"),
        ("# c\n% d\n0,1,2.5\n1,0,2.5\n", [[0, 2.5], [2.5, 0]], "both directions"),
        ("0\t1\n1\t0\n0\t2\n", [[0, 1, 1], [1, 0, 0], [0, 0, 0]], "directed: 1 of"),
        ("1 2\n2 3\n", [[0, 1, 0], [1, 0, 1], [0, 1, 0]], "renumbered from 1 to 3"),
        ("100 900\n", [[0, 1], [1, 0]], "renumbered from 100 to 900"),
        ("a b\nb c\n", [[0, 1, 0], [1, 0, 1], [0, 1, 0]], "nodes have names"),
        ("a b 2\n", [[0, 2], [2, 0]], "nodes have names"),
        ("0 0 3\n0 1 2\n", [[3, 2], [2, 0]], "read as undirected"),
        ("0 1 {}\n1 2 {}\n", [[0, 1, 0], [1, 0, 1], [0, 1, 0]], "read as undirected"),
    ],
)
@pytest.mark.parametrize("suffix", ["edges", "edgelist", "txt"])
def test_edges(tmp_path: Path, text: str, matrix: list, note: str, suffix: str) -> None:
    stored = only(written(tmp_path / f"a.{suffix}", text))
    assert stored.role == "graph" and note in "; ".join(stored.notes)
    assert np.array_equal(stored.load().toarray(), matrix) and stored.shape == np.shape(matrix)


def test_edges_as_networkx_writes_them(tmp_path: Path) -> None:
    graph = networkx.gnm_random_graph(30, 80, seed=0)
    for i, (u, v) in enumerate(graph.edges):
        graph[u][v]["weight"] = float(i)
    networkx.write_edgelist(graph, tmp_path / "a.edgelist")
    got = only(tmp_path / "a.edgelist").load().toarray()
    names = list(dict.fromkeys(str(node) for edge in graph.edges for node in edge))
    wanted = networkx.to_numpy_array(graph, nodelist=[int(name) for name in names])
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# only comments\n", "no edges"),
        ("1\n", "line 1 has 1 columns"),
        ("1 2 3 4\n", "line 1 has 4 columns"),
        ("hello this is prose of a text\n", "columns"),
        ("0 1\n2\n", "line 2 has 1 columns, the first one has 2"),
        ("0 1.5\n", "edge 1 is between 0 and 1.5"),
        ("-1 2\n", "number no nodes"),
        ("nan 2\n", "number no nodes"),
        ("a b c\n", "weight 'c' in line 1"),
        ("x" * 70_000, "longer than"),
    ],
)
def test_edges_that_are_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        only(written(tmp_path / "a.edges", text))
    assert "\n" not in str(caught.value)


def test_a_long_comment_and_many_edges(tmp_path: Path) -> None:
    text = "#" + "x" * 200_000 + "\n" + "".join(f"{i} {i + 1}\n" for i in range(300_000))
    stored = only(written(tmp_path / "a.txt", text))
    assert stored.shape == (300_001, 300_001) and stored.load().nnz == 600_000
    with pytest.raises(ValueError, match="no pair of numbers"):
        only(written(tmp_path / "a.txt", text + "a b\n"))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "dia", "bsr"])
@pytest.mark.parametrize("compressed", [True, False])
def test_scipy_sparse(tmp_path: Path, kind: str, compressed: bool) -> None:
    dense = np.diag(np.arange(1.0, 7)) + np.diag(np.ones(5), 1)
    scipy.sparse.save_npz(tmp_path / "a.npz", scipy.sparse.csr_array(dense).asformat(kind), compressed=compressed)
    stored = only(tmp_path / "a.npz")
    assert stored.name == "a" and stored.shape == (6, 6) and stored.dtype == "float64" and kind in stored.notes[0]
    matrix = matrix_of(tmp_path / "a.npz")
    assert matrix.format == "csr" and np.array_equal(matrix.toarray(), dense)


def test_scipy_sparse_integers_and_floats(tmp_path: Path) -> None:
    for dtype, wanted in (("i4", "f8"), ("f4", "f4"), ("c16", "c16"), ("?", "f8")):
        scipy.sparse.save_npz(tmp_path / "a.npz", scipy.sparse.csr_array(np.eye(3).astype(dtype)))
        assert matrix_of(tmp_path / "a.npz").dtype == np.dtype(wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": np.array(b"xyz")}, "format"),
        ({"format": np.array(3)}, "format"),
        ({"shape": np.array([2**60, 2])}, "shape"),
        ({"shape": np.array([3])}, "shape"),
        ({"data": np.array(["a"])}, "not a number"),
        ({"indices": None}, "parts are missing"),
        ({"indices": np.array([0, 1, 9])}, "cannot be read"),
        ({"indices": np.array([0, -1, 2])}, "cannot be read"),
        ({"indices": np.array([0.0, 1.0, 2.0])}, "whole numbers"),
        ({"indptr": np.array([0, 5, 2, 3])}, "cannot be read"),
        ({"indptr": np.array([0, 3])}, "cannot be read"),
        ({"data": np.eye(3)}, "not in a row"),
        ({"shape": np.array([2**47, 3])}, "memory"),
    ],
)
def test_scipy_sparse_that_is_wrong(tmp_path: Path, change: dict, words: str) -> None:
    eye = scipy.sparse.csr_array(np.eye(3))
    parts = {"format": np.array(b"csr"), "shape": np.array([3, 3]), "data": eye.data}
    parts |= {"indices": eye.indices, "indptr": eye.indptr} | change
    np.savez(tmp_path / "a.npz", **{name: part for name, part in parts.items() if part is not None})
    with pytest.raises(ValueError, match=words) as caught:
        matrix_of(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_a_diagonal_that_is_longer_than_the_matrix(tmp_path: Path) -> None:
    parts = {"format": np.array(b"dia"), "shape": np.array([3, 3]), "data": np.ones((1, 9)), "offsets": np.array([0])}
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(ValueError, match="longer than the matrix"):
        matrix_of(tmp_path / "a.npz")


def test_a_bomb_is_refused_by_what_it_claims(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("a.npy", "w") as file,
    ):
        for _ in range(1200):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 2e6
    with pytest.raises(ValueError, match=r"would unpack from 1\.\d+ MiB to 1\.17 GiB"):
        only(path)


def test_members_packed_in_other_ways(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    assert "does not write" in only(tmp_path / "a.npz").reason


def test_unaligned_arrays_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6.0))
    raw = path.read_bytes()
    header = raw[10:128].rstrip(b" \n")
    path.write_bytes(raw[:8] + len(header + b"\n").to_bytes(2, "little") + header + b"\n" + raw[128:])
    assert (path.stat().st_size - 48) % 8
    assert torch.equal(only(path).load(), torch.arange(6.0, dtype=torch.float64))
