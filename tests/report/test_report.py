"""The report of a file as rows, JSON, text and a command."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from resolvent.cli.report_command import report_command, show
from resolvent.report import Report, report
from resolvent.report.table import number, report_text, shorten

app = typer.Typer()
app.command()(report_command)
runner = CliRunner()


def saved(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    g = torch.Generator().manual_seed(0)
    bad = torch.randn(30, 30, generator=g)
    bad[3, 4] = math.nan
    return saved(
        tmp_path / "mixed.safetensors",
        good=torch.randn(30, 40, generator=g),
        bad=bad,
        bias=torch.randn(7, generator=g),
        number=torch.tensor(3.0),
        empty=torch.zeros(0, 5),
        kernel=torch.randn(8, 3, 5, 5, generator=g),
        experts=torch.randn(2, 25, 30, generator=g),
        conv_1d=torch.randn(24, 6, 3, generator=g),
        half=torch.randn(25, 25, generator=g).bfloat16(),
        deep=torch.randn(2, 2, 2, 2, 2, 2, generator=g),
        zero=torch.zeros(4, 4),
    )


def test_how_each_tensor_is_read(mixed: Path) -> None:
    result = report(mixed)
    shapes = {row.name: row.shape for row in result.matrices}
    assert shapes == {
        "conv_1d": (24, 18),
        "experts[0]": (25, 30),
        "experts[1]": (25, 30),
        "good": (30, 40),
        "half": (25, 25),
        "kernel": (8, 75),
        "zero": (4, 4),
    }
    assert result["kernel"].read_as == "kernel (out, in*kh*kw)" and result["kernel"].stored_shape == (8, 3, 5, 5)
    assert result["experts[1]"].read_as == "matrix 1 of a batch of 2"
    skipped = {row.name: row.reason for row in result.rows if row.status == "skipped"}
    assert set(skipped) == {"bias", "number", "empty", "deep"} and all(skipped.values())
    assert result["bad"].status == "failed"
    assert result["bad"].reason == "1 of its 900 entries is NaN or infinite"
    with pytest.raises(KeyError):
        result["nothing"]


def test_a_kernel_is_its_matrix(mixed: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(mixed, framework="pt") as file:
        kernel = file.get_tensor("kernel")
    got = report(mixed)["kernel"].measured
    assert got.spectral_norm == pytest.approx(float(torch.linalg.matrix_norm(kernel.reshape(8, 75).double(), 2)))


def test_json_follows_its_schema(mixed: Path, tmp_path: Path) -> None:
    result = report(mixed)
    result.to_json(tmp_path / "out.json")
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert data["schema"] == "resolvent.report/2"
    assert set(data) == {
        *("schema", "file", "file2", "only", "left_out", "quick", "seconds"),
        *("findings", "matrices", "skipped", "failed", "comparison"),
    }
    good = next(m for m in data["matrices"] if m["name"] == "good")
    assert good["shape"] == [30, 40] and good["dtype"] == "float32" and good["missing"] == {}
    assert good["spectral_norm"] == result["good"].measured.spectral_norm
    assert len(good["alpha_interval"]) == 2
    zero = next(m for m in data["matrices"] if m["name"] == "zero")
    assert zero["condition"] is None and zero["missing"]["condition"] == "every entry is zero"
    assert data["failed"][0]["name"] == "bad"
    # every quantity that is null says why
    for matrix in data["matrices"]:
        lost = {key for key in ("condition", "stable_rank", "alpha", "marchenko_pastur") if matrix[key] is None}
        assert lost <= set(matrix["missing"])


def test_a_norm_beyond_the_range_of_doubles_is_null_with_a_reason(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((100, 100), 1e308))
    data = json.loads(report(tmp_path / "a.npy").to_json())
    (matrix,) = data["matrices"]
    assert matrix["spectral_norm"] is None and "range" in matrix["missing"]["spectral_norm"]
    assert matrix["stable_rank"] == pytest.approx(1)


def test_progress_is_told_and_ends(mixed: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    report(mixed, progress=lambda *call: calls.append(call))
    done = [done for _, done, _ in calls]
    assert done == sorted(done) and calls[-1][1] == calls[-1][2] and len(calls) == 12


def test_the_room_can_be_called(mixed: Path) -> None:
    import resolvent

    assert len(resolvent.report(mixed).matrices) == 7
    assert sys.modules["resolvent.report"](mixed).file == str(mixed)


def test_a_table_of_one_hundred_columns(checkpoint_report: Report) -> None:
    result = checkpoint_report
    lines = result.to_text(100).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("matrix "))
    assert max(map(len, lines[1:start])) <= 100
    table = lines[start : start + 1 + len(result.matrices)]
    assert max(map(len, table)) <= 100 and len(set(map(len, table))) == 1
    names = [line.split()[0] for line in table[1:]]
    assert len(set(names)) == len(names)
    whole = result.to_text()
    assert all(row.name in whole for row in result.rows)
    for row in result.rows:
        if row.status == "skipped":
            assert re.search(rf"^{re.escape(row.name)} .*skipped, because ", whole, re.MULTILINE)


def test_a_mixed_table(mixed: Path) -> None:
    text = report(mixed).to_text(100)
    assert "bf16" in text and "read as kernel (out, in*kh*kw) from 8×3×5×5" in text
    assert "bad (30×30) failed, not measured, because 1 of its 900 entries is NaN or infinite" in text
    plain = report_text(report(mixed), None, ascii_only=True).plain
    assert plain.isascii() and "8x3x5x5" in plain


def test_names_and_numbers() -> None:
    assert shorten(["a.b", "c"], 10) == ["a.b", "c"]
    assert shorten(["x" * 40], 11) == ["xxxxx…xxxxx"]
    assert max(len(number(10.0**k * 1.2345)) for k in range(-9, 99)) <= 6
    assert number(0.99999) == "1.00" and number(9.9999) == "10.0" and number(999.99) == "1000"


def test_the_command_prints_the_table(mixed: Path) -> None:
    result = runner.invoke(app, [str(mixed)])
    assert result.exit_code == 0 and "good" in result.stdout and "\x1b[" not in result.stdout
    assert result.stderr == ""


def test_the_command_writes_json(mixed: Path, tmp_path: Path) -> None:
    assert runner.invoke(app, [str(mixed), "--quick", "--json", str(tmp_path / "o.json")]).exit_code == 0
    assert json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))["quick"] is True
    printed = runner.invoke(app, [str(mixed), "--json", "-"])
    assert json.loads(printed.stdout)["schema"] == "resolvent.report/2"


@pytest.mark.parametrize("target", ["no/such/folder.json", "."])
def test_an_output_that_cannot_be_written_is_told_before_measuring(mixed: Path, target: str, tmp_path: Path) -> None:
    result = runner.invoke(app, [str(mixed), "--json", str(tmp_path / target)])
    assert result.exit_code == 2 and "--json" in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.npy", b"garbage"), ("a.safetensors", b"\xff" * 64), ("a.npz", b""), ("a.mtx", b"garbage"), ("a.xyz", b"a")],
)
def test_a_bad_file_is_one_sentence_and_a_code(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    result = runner.invoke(app, [str(tmp_path / name)])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("resolvent report: ") and result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_memory_that_runs_out_is_a_sentence(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(*_: object, **__: object) -> Report:
        raise MemoryError

    monkeypatch.setattr(sys.modules["resolvent.report.collect"], "report", starve)
    result = runner.invoke(app, [str(mixed)])
    assert result.exit_code == 2 and "memory" in result.stderr


def test_colours_follow_the_terminal_and_no_color(mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    result = report(mixed)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show(result)
    assert "\x1b[36m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    show(result)
    assert "\x1b[36m" not in capsys.readouterr().out


def test_a_pipe_that_closes_early_is_no_error(mixed: Path) -> None:
    code = "from resolvent.cli.report_command import report_command; import typer; typer.run(report_command)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(mixed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    run.stdout.close()
    error = run.stderr.read().decode()
    run.stderr.close()
    assert run.wait() == 0 and "Traceback" not in error


def test_the_text_says_what_was_recognised():
    state = {}
    for i in range(3):
        state[f"layers.{i}.q.lora_A.weight"] = torch.randn(4, 20)
        state[f"layers.{i}.q.lora_B.weight"] = torch.randn(20, 4)
        state[f"layers.{i}.q.alpha"] = torch.tensor(8.0)
    state["up.weight_g"], state["up.weight_v"] = torch.ones(30, 1), torch.randn(30, 20)
    found = report(state)
    narrow, whole = report_text(found, 100).plain, report_text(found).plain
    line = "layers.{0..2}.q.lora: LoRA pair of rank 4: B @ A, times alpha / r = 8 / 4 = 2, from 'layers.{0..2}.q.alpha'"
    assert line in narrow
    assert "layers.1.q.lora: LoRA pair of rank 4: B @ A, times alpha / r = 8 / 4 = 2, from 'layers.1.q.alpha'" in whole
    assert "up.weight: weight norm: g v / ||v|| of 'up.weight_g' and 'up.weight_v'" in narrow
