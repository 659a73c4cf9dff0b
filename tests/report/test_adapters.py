"""The scale of LoRA products: what PEFT's config says, and configs that say nothing that can be used."""

from __future__ import annotations

import json
import math
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from resolvent.report import Row, report
from resolvent.report.adapters import NAME, parse_config

PREFIX = "base_model.model."
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj")


def factors(module: str, rank: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(module) + rank)
    return torch.randn(rank, 24, generator=generator), torch.randn(30, rank, generator=generator)


def adapter(folder: Path, ranks: dict[str, int] | None = None) -> Path:
    """An adapter as PEFT saves it."""
    state = {}
    for module in MODULES:
        down, up = factors(module, (ranks or {}).get(module, 4))
        state |= {f"{PREFIX}{module}.lora_A.weight": down, f"{PREFIX}{module}.lora_B.weight": up}
    save_file(state, folder / "adapter_model.safetensors")
    return folder / "adapter_model.safetensors"


def measured(folder: Path, config: Any, ranks: dict[str, int] | None = None) -> dict[str, Row]:
    """The rows of an adapter by module, with a config that is an object or the text of one."""
    path = adapter(folder, ranks)
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / NAME).write_bytes(raw)
    rows = {row.name: row for row in report(path).rows if row.status == "measured"}
    assert set(rows) == {f"{PREFIX}{module}.lora" for module in MODULES}
    assert {row.name for row in report(folder).rows} == {row.name for row in report(path).rows}
    return {module: rows[f"{PREFIX}{module}.lora"] for module in MODULES}


def factor_of(row: Row, module: str, rank: int = 4) -> float:
    """What the product of the factors was multiplied by, from its norm."""
    down, up = factors(module, rank)
    return row.measured.frobenius_norm / float(torch.linalg.matrix_norm(up.double() @ down.double()))


@pytest.mark.parametrize(("rslora", "factor"), [(False, 16 / 4), (True, 16 / math.sqrt(4)), (None, 16 / 4)])
def test_alpha_over_the_rank(tmp_path: Path, rslora: bool | None, factor: float) -> None:
    config = {"peft_type": "LORA", "lora_alpha": 16, "r": 4, "use_rslora": rslora, "target_modules": ["q_proj"]}
    for module, row in measured(tmp_path, config).items():
        assert factor_of(row, module) == pytest.approx(factor, rel=1e-6)
        assert f" = {factor:g}, from adapter_config.json" in row.notes[0] and ("sqrt(r)" in row.notes[0]) == bool(
            rslora
        )


def peft_scale(config: dict[str, Any], module: str) -> float:
    """PEFT's rule, by itself: the first key that matches the end of the name from a dot on."""

    def match(patterns: dict[str, float], default: float) -> float:
        return next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), default)

    return match(config["alpha_pattern"], config["lora_alpha"]) / match(config["rank_pattern"], config["r"])


@pytest.mark.parametrize(
    ("alphas", "ranks"),
    [
        ({"q_proj": 32}, {}),
        ({"model.layers.1.self_attn.q_proj": 3.5, "q_proj": 32}, {}),
        ({"q_proj": 32, "model.layers.1.self_attn.q_proj": 3.5}, {"up_proj": 2}),
        ({r"layers\.[01]\..*q_proj": 1}, {r"mlp\.(up|down)_proj": 8}),
        ({"^model.layers.0.self_attn.q_proj": 7, "proj": 99, "_proj": 98}, {}),
        ({}, {r"^layers.*": 3, r".*\.1\..*_proj": 2}),
    ],
)
def test_patterns_are_those_of_peft(tmp_path: Path, alphas: dict[str, float], ranks: dict[str, int]) -> None:
    config = {"lora_alpha": 16, "r": 4, "alpha_pattern": alphas, "rank_pattern": ranks}
    sizes = {m: int(peft_scale({**config, "lora_alpha": 1, "alpha_pattern": {}}, m) ** -1 + 0.5) for m in MODULES}
    for module, row in measured(tmp_path, config, sizes).items():
        assert factor_of(row, module, sizes[module]) == pytest.approx(peft_scale(config, module), rel=1e-6)


def test_a_rank_that_is_not_the_stored_one_leaves_the_product_unscaled(tmp_path: Path) -> None:
    for module, row in measured(tmp_path, {"lora_alpha": 16, "r": 8}).items():
        assert factor_of(row, module) == pytest.approx(1, rel=1e-6)
        assert row.notes[0].endswith("unscaled: adapter_config.json gives it the rank 8")


def test_dora_says_what_is_left_out(tmp_path: Path) -> None:
    row = measured(tmp_path, {"lora_alpha": 8, "r": 4, "use_dora": True})[MODULES[0]]
    assert "times lora_alpha / r = 8 / 4 = 2" in row.notes[0] and "without the magnitudes of DoRA" in row.notes[0]


def test_without_a_config_the_product_is_unscaled(tmp_path: Path) -> None:
    path = adapter(tmp_path)
    row = report(path)[f"{PREFIX}{MODULES[0]}.lora"]
    assert factor_of(row, MODULES[0]) == pytest.approx(1, rel=1e-6) and "unscaled: neither" in row.notes[0]
    (tmp_path / NAME).mkdir()
    assert "unscaled: neither" in report(path)[f"{PREFIX}{MODULES[0]}.lora"].notes[0]


GOOD = {"lora_alpha": 16, "r": 4}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b'{"lora_alpha": 16, "r": ', "is no valid JSON"),
        (b"", "is no valid JSON"),
        (b"\xff\xfe\x00", "is no valid JSON"),
        (b"[" * 100_000, "is no valid JSON"),
        (b"[1, 2]", "is no JSON object"),
        (b'"r"', "is no JSON object"),
        (b"null", "is no JSON object"),
        (b'{"r": 4, "lora_alpha": 1e999}', "lora_alpha is inf"),
        (b'{"r": 4, "lora_alpha": NaN}', "lora_alpha is nan"),
        (b'{"r": 4, "lora_alpha": 1' + b"0" * 400 + b"}", "lora_alpha is a number of too many digits"),
        (b'{"r": 4, "lora_alpha": 1' + b"0" * 5000 + b"}", "is no valid JSON"),
        (b'{"r": 4, "lora_alpha": 16, "x": "' + b"a" * (1 << 20) + b'"}', "is larger than 1 MiB"),
        ({"r": 4}, "lora_alpha is missing"),
        ({"lora_alpha": 16}, "r is missing"),
        ({**GOOD, "lora_alpha": "16"}, "lora_alpha is '16'"),
        ({**GOOD, "lora_alpha": "a" * 9999}, "lora_alpha is 'aaaa"),
        ({**GOOD, "lora_alpha": "\x1b[31m\u202e"}, r"lora_alpha is '\x1b[31m\u202e'"),
        ({**GOOD, "lora_alpha": True}, "lora_alpha is True"),
        ({**GOOD, "lora_alpha": [16]}, "lora_alpha is a list"),
        ({**GOOD, "lora_alpha": 1e30}, "lora_alpha is 1e+30 in adapter_config.json, not a number up to 1e+09"),
        ({**GOOD, "r": 0}, "r is 0 in adapter_config.json, not a whole number from 1"),
        ({**GOOD, "r": -4}, "r is -4"),
        ({**GOOD, "r": 4.0}, "r is 4.0"),
        ({**GOOD, "r": 10**40}, "r is a number of too many digits"),
        ({**GOOD, "use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({**GOOD, "peft_type": "ADALORA"}, "peft_type is 'ADALORA' in adapter_config.json, not 'LORA'"),
        ({**GOOD, "peft_type": {}}, "peft_type is an object"),
        ({**GOOD, "alpha_pattern": ["q_proj"]}, "alpha_pattern is a list in adapter_config.json, not an object"),
        ({**GOOD, "alpha_pattern": {"q_proj": "8"}}, "alpha_pattern['q_proj'] is '8'"),
        ({**GOOD, "rank_pattern": {"q_proj": [True, False]}}, "rank_pattern['q_proj'] is a list"),
        ({**GOOD, "rank_pattern": {"(q_proj": 4}}, "the pattern '(q_proj' in adapter_config.json is no regular expr"),
        ({**GOOD, "rank_pattern": {"a{99999999999999999999}": 4}}, "is no regular expression"),
        ({**GOOD, "rank_pattern": {"(" * 500 + ")" * 500: 4}}, "is no regular expression"),
        ({**GOOD, "rank_pattern": {"(([a-z_.0-9]+)+)+!": 4}}, "would take too long"),
        ({**GOOD, "rank_pattern": {"(.|.)" * 40 + "!": 4}}, "would take too long"),
        ({**GOOD, "rank_pattern": {".?" * 18 + "." * 18 + "!": 4}}, "would take too long"),
        ({**GOOD, "rank_pattern": {".*" * 12 + "!": 4}}, "would take too long"),
        ({**GOOD, "alpha_pattern": {f"{'.*' * 3}{i}": 4 for i in range(9000)}}, "would take too long"),
    ],
)
def test_a_bad_config_is_one_clause_and_the_rest_goes_on(tmp_path: Path, config: Any, words: str) -> None:
    began = time.perf_counter()
    for module, row in measured(tmp_path, config).items():
        (note,) = row.notes
        assert note.startswith("LoRA pair of rank 4: B @ A, unscaled: ") and words in note and len(note) < 200
        assert note.isprintable()
        assert factor_of(row, module) == pytest.approx(1, rel=1e-6)
    # matching such patterns would take years
    assert time.perf_counter() - began < 30


def test_configs_of_random_values_never_raise() -> None:
    draw = random.Random(0)
    values = [None, True, 0, 1, 4, -3, 2.5, math.inf, math.nan, 10**5000, "", "x", "(", [], {}, {"q": 4}, {"(": "a"}]
    keys = ["lora_alpha", "r", "use_rslora", "peft_type", "alpha_pattern", "rank_pattern", "use_dora"]
    usable = 0
    for _ in range(3000):
        content = {key: draw.choice(values) for key in keys if draw.random() < 0.3}
        content = (GOOD if draw.random() < 0.7 else {}) | content
        found = parse_config(content, ["model.q"])
        if isinstance(found, str):
            assert found.isprintable() and len(found) < 160
            continue
        usable += 1
        scale = found.scale("model.q")
        assert scale.factor is not None and math.isfinite(scale.factor)
    assert usable > 100


def test_names_of_other_programs_read_no_config(tmp_path: Path) -> None:
    down, up = factors("q")
    state = {"q.lora_down.weight": down, "q.lora_up.weight": up}
    (tmp_path / NAME).write_text(json.dumps(GOOD))
    save_file(state, tmp_path / "a.safetensors")
    row = report(tmp_path / "a.safetensors")["q.lora"]
    assert factor_of(row, "q") == pytest.approx(1, rel=1e-6) and "unscaled" in row.notes[0]
    save_file(state | {"q.alpha": torch.tensor(2.0)}, tmp_path / "a.safetensors")
    row = report(tmp_path / "a.safetensors")["q.lora"]
    assert factor_of(row, "q") == pytest.approx(0.5, rel=1e-6) and "from 'q.alpha'" in row.notes[0]


def test_an_embedding_and_a_named_adapter(tmp_path: Path) -> None:
    down, up = factors("e")
    state = {
        f"{PREFIX}e.lora_embedding_A": down,
        f"{PREFIX}e.lora_embedding_B": up,
        f"{PREFIX}f.lora_A.default.weight": down.clone(),
        f"{PREFIX}f.lora_B.default.weight": up.clone(),
        "g.weight": up,
    }
    (tmp_path / NAME).write_text(json.dumps({**GOOD, "alpha_pattern": {"f": 2}}))
    torch.save(state, tmp_path / "a.pt")
    result = report(tmp_path / "a.pt")
    assert factor_of(result[f"{PREFIX}e.lora"], "e") == pytest.approx(4, rel=1e-6)
    assert factor_of(result[f"{PREFIX}f.lora.default"], "e") == pytest.approx(0.5, rel=1e-6)
    assert result["g.weight"].notes == ()
