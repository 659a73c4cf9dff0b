"""The examples of the README and of the pages of the documentation run and print what they say."""

from __future__ import annotations

import doctest
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(?:python|pycon)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [p for p in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if ">>> " in p.read_text()]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page: Path) -> list[str]:
    return [block for block in FENCE.findall(page.read_text()) if ">>> " in block]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, capsys):
    blocks = examples(page)
    assert blocks
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for number, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, names, f"{page.name}[{number}]", str(page), 0)
        result = runner.run(test, clear_globs=False)
        names.update(test.globs)
        assert result.failed == 0, capsys.readouterr().out


def test_readme_has_at_least_five_examples():
    assert len(examples(ROOT / "README.md")) >= 5


# The demo's checkpoint is installed by `make demo` alone.
SCRIPTS = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.stem != "demo_checkpoint"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_scripts_run(script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 3
    assert "nan" not in printed


def test_the_denoising_example_finds_the_planted_rank(capsys):
    runpy.run_path(str(ROOT / "examples" / "denoise_by_random_matrix_law.py"), run_name="__main__")
    assert "signal: 3 of rank 3" in capsys.readouterr().out
