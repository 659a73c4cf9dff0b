"""The rules that the whole house keeps: sizes of files, docstrings, what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import resolvent

PACKAGE = Path(resolvent.__file__).parent
ROOT = PACKAGE.parent.parent
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def faces() -> Iterator[tuple[Path, set[str]]]:
    """Each room's folder with the names that its face offers."""
    for face in PACKAGE.rglob("__init__.py"):
        texts = {
            item.value
            for node in ast.walk(tree(face))
            if isinstance(node, ast.List | ast.Tuple)
            for item in node.elts
            if isinstance(item, ast.Constant)
        }
        yield face.parent, texts


def public_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every public function of a room, with its place."""
    for room, names in faces():
        for path in room.glob("*.py"):
            for node in tree(path).body:
                if isinstance(node, ast.FunctionDef) and node.name in names:
                    yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def sections_missing(function: ast.FunctionDef) -> list[str]:
    """The sections that a docstring lacks, of those that its signature calls for."""
    signature = function.args
    takes = signature.args or signature.kwonlyargs or signature.posonlyargs or signature.vararg
    gives = not (isinstance(function.returns, ast.Constant) and function.returns.value is None)
    wanted = ["Parameters"] * bool(takes) + ["Returns"] * gives + ["Examples"]
    text = ast.get_docstring(function) or ""
    return [section for section in wanted if f"{section}\n---" not in text]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_no_file_is_longer_than_400_lines():
    beside = [p for folder in ("tests", "claims", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in FILES + beside if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def lines_of_code(function: ast.FunctionDef) -> int:
    """How long a function is without its docstring, which says as much as it needs to."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_no_function_is_longer_than_80_lines():
    long = [
        f"{path.relative_to(PACKAGE)}:{node.name}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and lines_of_code(node) > 80
    ]
    assert long == []


def test_every_public_function_has_its_sections():
    functions = dict(public_functions())
    assert len(functions) > 20
    # The gallery's functions all take (n, dtype, device) and return a matrix: their room says so, once.
    lacking = {name: sections_missing(f) for name, f in functions.items() if "/gallery/" not in name}
    assert {name: missing for name, missing in lacking.items() if missing} == {}


def test_every_gallery_matrix_says_what_it_is():
    functions = {name: f for name, f in public_functions() if "/gallery/" in name}
    assert len(functions) >= 60
    assert [name for name, f in functions.items() if len(ast.get_docstring(f) or "") < 20] == []


def test_every_public_name_can_be_imported():
    for room, _ in faces():
        parts = room.relative_to(PACKAGE).parts
        path = ".".join(["resolvent", *parts])
        face = __import__(path, fromlist=["*"])
        missing = [name for name in dir(face) if not name.startswith("_") and not hasattr(face, name)]
        assert missing == [], path


def test_no_assert_and_no_broad_except_in_the_package():
    found = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            broad = isinstance(node, ast.ExceptHandler) and (
                node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
            )
            if broad or isinstance(node, ast.Assert):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("room", ["resolvent", "resolvent.operators", "resolvent.spectra", "resolvent.cli.app"])
def test_import_is_lazy(room):
    code = f"import sys, {room}; print([m for m in ('torch', 'numba', 'scipy', 'dask') if m in sys.modules])"
    assert run(code) == "[]"


def test_operators_load_nothing_heavy_beyond_torch():
    code = (
        "import sys, torch; before = set(sys.modules); from resolvent import as_operator, Operator;"
        "new = set(sys.modules) - before; print([m for m in ('numba', 'scipy', 'dask', 'rich', 'typer') if m in new])"
    )
    assert run(code) == "[]"


def test_lu_of_batches_goes_through_the_guarded_functions():
    """`torch.linalg.solve` and its like go wrong for batches on several threads: see `resolvent.operators.lu`."""
    guarded = {"det", "inv", "inv_ex", "lu", "lu_factor", "lu_factor_ex", "slogdet", "solve", "solve_ex"}
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in FILES
        if path != PACKAGE / "operators" / "lu.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in guarded and ast.unparse(node.value) == "torch.linalg"
    ]
    assert found == []


def test_parallel_kernels_leave_the_threads_of_torch():
    """Numba's first parallel kernel sets them, so files with such kernels import from `resolvent.operators.parallel`."""
    plain = re.compile(r"^ *(import numba$|from numba import .*\b(njit|prange|get_num_threads)\b)", re.MULTILINE)
    texts = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in FILES}
    found = [
        str(path)
        for path, text in texts.items()
        if ("parallel=" in text or "get_num_threads" in text) and plain.search(text) and path.name != "parallel.py"
    ]
    assert found == []
