"""`resolvent find`: what is found, in which order, and that looking up loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from resolvent.claims_record import Record
from resolvent.cli.app import app
from resolvent.cli.find import find, index, stems

FACE = '__all__ = ["nuclear_size", "Spread"]\n'
METHODS = '''
def nuclear_size(A):
    """Sum of the singular values.

    References
    ----------
    "A Paper About Grassmannians"

    Notes
    -----
    Uses a zebra decomposition.
    """


class Spread:
    """How wide the eigenvalues lie."""


def hidden_zebra(A):
    """Sum of the singular values, too."""
'''


@pytest.fixture
def package(tmp_path):
    room = tmp_path / "house" / "room"
    room.mkdir(parents=True)
    (tmp_path / "house" / "__init__.py").write_text("")
    (room / "__init__.py").write_text(FACE)
    (room / "methods.py").write_text(METHODS)
    return tmp_path / "house"


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("sum of singular values", "house.room.nuclear_size"),
        ("width eigenvalue wide", "house.room.Spread"),
        ("grassmannian", "house.room.nuclear_size"),
        ("NUCLEAR", "house.room.nuclear_size"),
        ("zebra decompositions", "house.room.nuclear_size"),
    ],
)
def test_found_by_name_summary_paper_and_text(package, words, path):
    assert find(words, package=package, records=[])[0].path == path


def test_private_to_the_room_is_not_found(package):
    assert {entry.path for entry in index(package)} == {"house.room.nuclear_size", "house.room.Spread"}
    assert find("unheard of elephants", package=package, records=[]) == []


def test_claims_are_words_and_verdicts(package):
    record = Record("room", "c", "Otters at Scale", "house.room.Spread", "halves the cost", "≥ 2", 3.0, verdict="met")
    for words in ("otters", "halves cost"):
        found = find(words, package=package, records=[record])
        assert [(entry.path, entry.verdict) for entry in found] == [("house.room.Spread", "met")]


def test_a_question_without_words_is_refused():
    with pytest.raises(ValueError, match="no word to look for"):
        find("of the")


def test_stems_join_forms_of_a_word():
    for one, other in (("matrices norms", "matrice norm"), ("estimating", "estimated"), ("densities", "density")):
        assert stems(one) == stems(other)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("power law fit of the tail", "resolvent.spectra.power_law"),
        ("log determinant", "resolvent.spectra.logdet"),
        ("largest singular values of a sparse matrix", "resolvent.spectra.svds"),
        ("Hessian of a loss", "resolvent.operators.hessian"),
        ("diversity of samples", "resolvent.spectra.vendi_score"),
        ("edge of noise singular values", "resolvent.spectra.marchenko_pastur"),
    ],
)
def test_the_library_is_found_by_what_it_does(words, path):
    assert path in [entry.path for entry in find(words)[:3]]


def test_command():
    done = CliRunner().invoke(app, ["find", "log", "determinant", "--most", "2"])
    assert done.exit_code == 0
    assert done.output.startswith("resolvent.spectra.logdet  ")
    assert len(done.output.splitlines()) == 2
    none = CliRunner().invoke(app, ["find", "elephants"])
    assert none.exit_code == 1
    assert "nothing fits 'elephants'" in none.output


def test_looking_up_loads_neither_torch_nor_scipy():
    code = (
        "import sys; from resolvent.cli.app import app; from resolvent.cli.find import find; find('norm');"
        "print([m for m in ('torch', 'numpy', 'scipy', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
