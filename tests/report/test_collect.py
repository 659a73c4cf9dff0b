"""`report` of files, state dicts and modules; filters; the frame, the notebook and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

import resolvent
from resolvent.cli.report_command import report_command
from resolvent.report import Report, report

app = typer.Typer()
app.command()(report_command)
runner = CliRunner()


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(30, 40)
        self.second = torch.nn.Linear(40, 30, bias=False)
        self.second.weight = torch.nn.Parameter(self.first.weight.detach().T.clone())


def test_module_and_state_dict_are_one_report() -> None:
    model = Small()
    of_module, of_state = report(model, quick=True), report(model.state_dict(), quick=True)
    assert of_module.file == "Small" and of_state.file == "state dict"
    assert [row.name for row in of_module.matrices] == ["first.weight", "second.weight"]
    assert [r.measured for r in of_module.rows] == [r.measured for r in of_state.rows]
    assert resolvent.report(model, quick=True)["first.weight"].shape == (40, 30)


def test_wrong_sources_are_named() -> None:
    with pytest.raises(TypeError, match="source must be a path, a state dict or a torch module, got int"):
        report(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only='x' matches none of the 3 tensors"):
        report(Small(), only="x*,y".replace("x*,y", "x"))


def test_only_takes_several_patterns() -> None:
    result = report(Small(), only="first.*, nothing*", quick=True)
    assert {row.name for row in result.rows} == {"first.weight", "first.bias"}
    assert result.left_out == 1
    assert "only first.*, nothing* (1 tensors left out)" in result.to_text()


def test_frame_and_notebook() -> None:
    pandas = pytest.importorskip("pandas")
    result = report(Small(), quick=True)
    frame = result.to_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.index) == ["first.weight", "second.weight"]
    assert frame.loc["first.weight", "spectral_norm"] == result["first.weight"].measured.spectral_norm
    assert Report("a", ()).to_frame().empty
    assert result._repr_html_().startswith("<iframe srcdoc=")


def test_reaches_rejects_unknown_levels() -> None:
    with pytest.raises(ValueError, match="level must be one of note, warning, error, got 'fatal'"):
        Report("a", ()).reaches("fatal")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    bad = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    bad[0, 0] = float("nan")
    save_file({"bad.weight": bad, "good.weight": torch.diag(torch.arange(1.0, 31.0))}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize(("level", "code"), [(None, 0), ("note", 1), ("error", 1)])
def test_fail_on(broken: Path, level: str | None, code: int) -> None:
    arguments = [str(broken), "--quick", *(["--fail-on", level] if level else [])]
    result = runner.invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert "bad.weight" in result.output and "error" in result.output


def test_fail_on_passes_a_good_matrix(broken: Path) -> None:
    result = runner.invoke(app, [str(broken), "--quick", "--only", "good*", "--fail-on", "error"])
    assert result.exit_code == 0, result.output


def test_page_and_json_are_written(broken: Path, tmp_path: Path) -> None:
    page, numbers = tmp_path / "a.html", tmp_path / "a.json"
    result = runner.invoke(app, [str(broken), "--quick", "--html", str(page), "--json", str(numbers)])
    assert result.exit_code == 0, result.output
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    data = json.loads(numbers.read_text(encoding="utf-8"))
    assert data["schema"] == "resolvent.report/2" and data["findings"][0]["severity"] == "error"


def test_output_that_cannot_be_written_is_known_before(broken: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, [str(broken), "--html", str(tmp_path)])
    assert result.exit_code == 2 and "--html" in result.output and "is a directory" in result.output
