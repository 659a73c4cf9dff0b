"""Matrix Market files against SciPy's reader, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from resolvent.report.matrix_market import read_header, read_matrix

BANNER = "%%MatrixMarket matrix "


CASES = [(s, f) for s in ("general", "symmetric", "skew-symmetric") for f in ("real", "complex", "integer")]


@pytest.mark.parametrize("kind", ["coordinate", "array"])
@pytest.mark.parametrize(("symmetry", "field"), [*CASES, ("hermitian", "complex")])
def test_agrees_with_scipy(tmp_path: Path, symmetry: str, kind: str, field: str) -> None:
    rng = np.random.default_rng(0)
    A = rng.integers(-3, 4, (5, 5)).astype(float)
    if field == "complex":
        A = A + 1j * rng.integers(-3, 4, (5, 5))
    if symmetry != "general":
        A = A + {"symmetric": A.T, "skew-symmetric": -A.T, "hermitian": A.conj().T}[symmetry]
    if field == "integer":
        A = A.astype(int)
    stored = scipy.sparse.coo_array(A) if kind == "coordinate" else A
    path = tmp_path / "a.mtx"
    scipy.io.mmwrite(path, stored, symmetry=symmetry, comment="a\nb")
    header = read_header(path)
    assert (header.format, header.field, header.symmetry) == (kind, field, symmetry)
    got = read_matrix(path)
    expected = scipy.io.mmread(path)
    assert scipy.sparse.issparse(got) == (kind == "coordinate")
    got, expected = (x.toarray() if scipy.sparse.issparse(x) else x for x in (got, expected))
    assert np.array_equal(got, expected) and np.array_equal(got, A)


def test_pattern_blank_lines_and_no_last_line_break(tmp_path: Path) -> None:
    path = tmp_path / "a.mtx"
    path.write_text(BANNER + "coordinate pattern general\n% c\n\n2 3 3\n1 1\n\n2 3\n2 3")
    assert np.array_equal(read_matrix(path).toarray(), [[1, 0, 0], [0, 0, 2]])
    path.write_text(BANNER + "coordinate real general\n" + "%" + "x" * 200_000 + "\n2 2 0\n")
    assert read_matrix(path).shape == (2, 2) and read_matrix(path).nnz == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\n", "first line"),
        (BANNER + "coordinate real triangular\n1 1 1\n1 1 1\n", "no such format"),
        (BANNER + "array pattern general\n1 1\n", "no pattern"),
        (BANNER + "coordinate real general\n", "line of sizes"),
        (BANNER + "coordinate real general\n2 2\n1 1 1\n", "line of sizes"),
        (BANNER + "coordinate real general\n-2 2 1\n1 1 1\n", "line of sizes"),
        (BANNER + "coordinate real symmetric\n2 3 1\n1 1 1\n", "square"),
        (BANNER + "coordinate real general\n2 2 9\n1 1 1\n", "truncated"),
        (BANNER + "coordinate real general\n2 2 2\n1 1 1.00000\n1 2\n", "entry 2 of 2"),
        (BANNER + "coordinate real general\n2 2 2\n1 1 1.00000\n1 2 abc\n", "not a number"),
        (BANNER + "coordinate real general\n2 2 1\n1 1 1\n1 2 1\n", "follows"),
        (BANNER + "coordinate real general\n2 2 1\n1 1 1Y", "follows"),
        (BANNER + "coordinate real general\n2 2 1\n3 1 1\n", "entry 1 lies outside the 2x2"),
        (BANNER + "coordinate real general\n2 2 1\n0 1 1\n", "outside"),
        (BANNER + "coordinate real general\n2 2 1\n1.5 1 1\n", "outside"),
        (BANNER + "coordinate real general\n2 2 1\nnan 1 1\n", "outside"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.mtx"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_matrix(path)
