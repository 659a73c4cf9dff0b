"""Two checkpoints side by side: size, directions and rank of what changed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from resolvent.report import report
from resolvent.report.compare import change_of, principal_angles


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_low_rank_update_is_told_from_a_full_one() -> None:
    A = gaussian(120, 80)
    update = gaussian(120, 2, seed=1) @ gaussian(2, 80, seed=2)
    low = change_of("w", A, A + 0.1 * update)
    assert low.verdict == "low-rank change" and low.difference_rank99 == 2
    assert low.relative_change == pytest.approx(float(0.1 * update.norm() / A.norm()), rel=1e-9)
    full = change_of("w", A, A + 0.1 * gaussian(120, 80, seed=3))
    assert full.verdict == "full-rank change" and full.difference_effective_rank > 40


def test_rounding_and_nothing() -> None:
    A = gaussian(90, 60)
    assert change_of("w", A, A).verdict == "unchanged"
    assert change_of("w", A, A.bfloat16()).verdict in ("rounding", "full-rank change")
    assert change_of("w", A, A.half()).verdict == "rounding"


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
def test_angles_are_those_of_a_rotation(shape: tuple[int, int]) -> None:
    m, n = shape
    U, V = torch.linalg.qr(gaussian(m, 8))[0], torch.linalg.qr(gaussian(n, 8, seed=1))[0]
    outside = torch.linalg.qr(torch.cat([U, gaussian(m, 1, seed=2)], 1))[0][:, 8:]
    s = torch.linspace(9, 5, 8, dtype=torch.float64)
    for angle in (1e-9, 1e-3, 1.2):
        W = U.clone()
        W[:, 3:4] = math.cos(angle) * U[:, 3:4] + math.sin(angle) * outside
        found = principal_angles((U * s) @ V.T, (W * s) @ V.T)
        assert found[-1] == pytest.approx(angle, rel=1e-5)
        assert max(found[:-1]) < 1e-7


def test_scale_does_not_turn() -> None:
    A = gaussian(30, 50)
    assert max(principal_angles(A, 3 * A)) < 1e-7


def test_two_files(tmp_path: Path) -> None:
    weights = {f"layer.{i}.weight": gaussian(60, 48, seed=i).float() for i in range(3)}
    changed = {name: w.clone() for name, w in weights.items()}
    changed["layer.1.weight"] += 0.2 * torch.outer(torch.ones(60), torch.ones(48))
    save_file(weights | {"old.weight": torch.ones(3, 3)}, tmp_path / "a.safetensors")
    save_file(changed | {"layer.2.weight": torch.ones(5, 5)}, tmp_path / "b.safetensors")
    result = report(tmp_path / "a.safetensors", tmp_path / "b.safetensors", quick=True)
    comparison = result.comparison
    assert comparison is not None
    assert {c.name: c.verdict for c in comparison.matrices} == {
        "layer.0.weight": "unchanged",
        "layer.1.weight": "low-rank change",
    }
    assert comparison.only_first == ("old.weight",) and comparison.only_second == ()
    assert comparison.different == (("layer.2.weight", "its shape went from 60×48 to 5×5"),)
    kinds = {finding.kind for finding in result.findings}
    assert {"different tensors", "not compared", "change", "LoRA-size update"} <= kinds
    text = result.to_text(120)
    assert "low-rank change" in text and "b.safetensors" in text
    assert result.to_dict()["comparison"]["matrices"][0]["name"] == "layer.0.weight"


def test_same_file_twice(tmp_path: Path) -> None:
    save_file({"a.weight": gaussian(40, 30).float()}, tmp_path / "a.safetensors")
    result = report(tmp_path / "a.safetensors", tmp_path / "a.safetensors", quick=True)
    assert any("nothing changed" in finding.text for finding in result.findings)


def test_broken_tensor_of_the_second(tmp_path: Path) -> None:
    good = gaussian(40, 30).float()
    bad = good.clone()
    bad[0, 0] = math.nan
    result = report({"a.weight": good}, {"a.weight": bad}, quick=True)
    assert result.comparison is not None
    assert result.comparison.different == (("a.weight", "the second has NaN or infinite entries"),)
