"""Checkpoints in several files, and codes that need a scale."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from resolvent.report import stored_tensors
from resolvent.report.readers import stored_state
from resolvent.report.shards import heads_beside


def entries(path: Path) -> dict:
    with stored_tensors(path) as tensors:
        return {t.name: t for t in tensors}


def sharded(folder: Path, suffix: str = ".safetensors", *, with_index: bool = True) -> dict[str, torch.Tensor]:
    """Twelve layers over three shards, as the hub has them."""
    folder.mkdir(exist_ok=True)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    tensors = {f"layer.{i}.weight": torch.full((3, 2), float(i)) for i in range(12)}
    weight_map = {}
    for shard in range(3):
        name = f"{stem}-{shard + 1:05d}-of-00003{suffix}"
        part = {f"layer.{i}.weight": tensors[f"layer.{i}.weight"] for i in range(12) if i % 3 == shard}
        (save_file if suffix == ".safetensors" else torch.save)(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    if with_index:
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("with_index", [True, False])
def test_shards_are_one_checkpoint_in_the_order_of_names(tmp_path: Path, suffix: str, with_index: bool) -> None:
    tensors = sharded(tmp_path / "m", suffix, with_index=with_index)
    found = entries(tmp_path / "m")
    assert list(found) == [f"layer.{i}.weight" for i in range(12)]
    assert all(torch.equal(found[name].load(), tensor) for name, tensor in tensors.items())
    if with_index:
        (index,) = (tmp_path / "m").glob("*.index.json")
        assert list(entries(index)) == list(found)
    if suffix == ".bin":
        # the same place in two shards is not the same memory
        assert len({t.memory for t in found.values()}) == 12


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_memory_does_not_grow_over_shards(tmp_path: Path, suffix: str) -> None:
    size = 16 << 20
    for shard in range(6):
        tensors = {f"{shard}.{i}": torch.ones(size // 4) for i in range(2)}
        (save_file if suffix == ".safetensors" else torch.save)(tensors, tmp_path / f"m-{shard + 1}-of-6{suffix}")
    before = resident()
    with stored_tensors(tmp_path) as found:
        for stored in found:
            assert float(stored.load().sum()) == size // 4
            # the file is 192 MiB; what was read of it is given back with each tensor
            assert resident() - before < 2 * size


@pytest.mark.parametrize("with_index", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, with_index: bool) -> None:
    sharded(tmp_path, with_index=with_index)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors is missing"):
        entries(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors: is truncated"):
        entries(tmp_path)


def test_an_index_that_does_not_match_its_shards(tmp_path: Path) -> None:
    sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = "model-00001-of-00003.safetensors"
    del content["weight_map"]["layer.3.weight"]
    index.write_text(json.dumps(content))
    found = entries(tmp_path)
    assert "does not hold it" in found["ghost"].reason and found["ghost"].dtype == "unknown"
    assert "does not name it" in found["layer.3.weight"].reason and found["layer.4.weight"].reason == ""
    with pytest.raises(ValueError, match="does not hold it"):
        found["ghost"].load()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no index"),
        ("[]", "no index"),
        ('{"weight_map": 3}', "no index"),
        ("[" * 100_000, "no index"),
        ('{"weight_map": {}}', "names no tensors"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "no shard beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "no shard beside it"),
        ('{"weight_map": {"a": "a\\u0000.safetensors"}}', "no shard beside it"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors is missing"),
        ('{"weight_map": {"a": null}}', "no shard beside it"),
    ],
)
def test_a_bad_index_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    for target in (path, tmp_path):
        with pytest.raises(ValueError, match=words) as caught:
            entries(target)
        assert "\n" not in str(caught.value)


def test_an_index_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded(tmp_path)
    monkeypatch.setattr(importlib.import_module("resolvent.report.shards"), "_LONGEST_INDEX", 100)
    with pytest.raises(ValueError, match="longer than an index"):
        entries(tmp_path)


def test_directories(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="directory without weights"):
        entries(tmp_path)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    with pytest.raises(ValueError, match="directory without weights"):
        entries(tmp_path)
    with pytest.raises(ValueError, match="link that leads to no file"):
        entries(tmp_path / "loop.safetensors")
    save_file({"a": torch.eye(2)}, tmp_path / "only.safetensors")
    assert set(entries(tmp_path)) == {"a"}
    save_file({"b": torch.eye(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"more than one checkpoint \(only\.safetensors, other\.safetensors\)"):
        entries(tmp_path)
    save_file({"c": torch.eye(2)}, tmp_path / "model.safetensors")
    assert set(entries(tmp_path)) == {"c"}
    torch.save({"d": torch.eye(2)}, tmp_path / "model.pt")
    assert set(entries(tmp_path)) == {"c"}


def test_a_name_in_two_shards(tmp_path: Path) -> None:
    for shard in (1, 2):
        save_file({"a": torch.eye(2)}, tmp_path / f"m-{shard}-of-2.safetensors")
    with pytest.raises(ValueError, match="lies in both"):
        entries(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may read everything")
def test_no_permission(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(2))
    (tmp_path / "a.npy").chmod(0)
    with pytest.raises(ValueError, match="no permission"):
        entries(tmp_path / "a.npy")


def test_no_permission_as_the_system_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.eye(2))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="no permission"):
        entries(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"num_attention_heads": 8}, (8, 8)),
        ({"n_head": 8, "num_kv_heads": 2}, (8, 2)),
        ({"n_head": 71, "multi_query": True}, (71, 1)),
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, None),
        ({"num_attention_heads": "8"}, None),
        ({}, None),
        ([], None),
    ],
)
def test_heads_of_a_config(tmp_path: Path, config: object, heads: tuple | None) -> None:
    assert heads_beside(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"h.query_key_value.weight": torch.ones(9, 3), "a": torch.eye(2)}, tmp_path / "a.safetensors")
    assert heads_beside(tmp_path) == heads_beside(tmp_path / "a.safetensors") == heads
    found = entries(tmp_path)
    assert found["h.query_key_value.weight"].heads == heads and found["a"].heads is None
    (tmp_path / "config.json").write_text("{")
    assert heads_beside(tmp_path) is None


def test_codes_with_a_scale_are_read(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(300, 200, generator=g)
    f8 = w.to(torch.float8_e4m3fn)
    codes = torch.randint(-127, 128, (300, 200), generator=g, dtype=torch.int8)
    tensors = {
        "one.weight": f8,
        "one.weight_scale": torch.tensor(0.5),
        "block.weight": f8.clone(),
        "block.weight_scale_inv": torch.rand(3, 2, generator=g),
        "row.weight": codes,
        "row.weight_scale": torch.rand(300, 1, generator=g),
        "rows.weight": codes.clone(),
        "rows.weight_scale": torch.rand(300, generator=g).bfloat16(),
        "asym.weight": codes.clone(),
        "asym.weight_scale": torch.rand(300, 1, generator=g),
        "asym.weight_zero_point": torch.randint(0, 9, (300, 1), generator=g, dtype=torch.int8),
        "bnb.weight": codes.clone(),
        "bnb.SCB": torch.rand(300, generator=g),
        "wrong.weight": codes.clone(),
        "wrong.weight_scale": torch.rand(7, generator=g),
        "zero.weight": codes.clone(),
        "zero.weight_scale": torch.tensor(1.0),
        "zero.weight_zero_point": torch.rand(7, generator=g),
        "alone.weight": f8.clone(),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    found = entries(tmp_path / "a.safetensors")
    x, q = f8.float(), codes.float()
    blocks = tensors["block.weight_scale_inv"].repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :200]
    wanted = {
        "one.weight": x * 0.5,
        "block.weight": x * blocks,
        "row.weight": q * tensors["row.weight_scale"],
        "rows.weight": q * tensors["rows.weight_scale"].float()[:, None],
        "asym.weight": (q - tensors["asym.weight_zero_point"].float()) * tensors["asym.weight_scale"],
        "bnb.weight": q * tensors["bnb.SCB"][:, None] / 127,
    }
    for name, tensor in wanted.items():
        stored = found[name]
        assert stored.reason == "" and stored.scale and torch.allclose(stored.load(), tensor), name
        assert stored.scale in stored.notes[0] and "the scale of" in found[stored.scale].reason
    assert "zero point of" in found["asym.weight_zero_point"].reason
    assert "does not fit" in found["wrong.weight"].reason and "does not fit" in found["zero.weight"].reason
    assert "scale is not known" in found["alone.weight"].reason


def test_state_dicts_in_memory() -> None:
    w = torch.randn(3, 4, requires_grad=True)
    state = {
        "a": {"w": w, "tied": w},
        "array": np.eye(3, dtype=">f4"),
        "ids": torch.arange(4),
        "words": np.array(["a"]),
        "meta": torch.empty(2, 2, device="meta"),
        "sparse": torch.eye(3).to_sparse_coo(),
        "cube": torch.ones(2, 2, 2).to_sparse_coo(),
        "text": "hello",
        "layer.10": torch.eye(2),
        "layer.2": torch.eye(2),
        "bad\x1b[31m\ud800": torch.eye(2),
    }
    found = {t.name: t for t in stored_state(state)}
    names = list(found)
    assert names.index("layer.2") < names.index("layer.10")
    assert "bad\\x1b[31m\\ud800" in found
    assert torch.equal(found["a.w"].load(), w.detach()) and not found["a.w"].load().requires_grad
    assert found["a.w"].memory == found["a.tied"].memory
    assert torch.equal(found["array"].load(), torch.eye(3)) and "integers" in found["ids"].reason
    assert found["sparse"].load().toarray().tolist() == np.eye(3).tolist()
    assert "meta" in found["meta"].reason and "not a tensor" in found["text"].reason
    assert "not a number" in found["words"].reason
    with pytest.raises(ValueError, match="3 axes"):
        found["cube"].load()
    with pytest.raises(TypeError, match="state must be a mapping"):
        stored_state([torch.eye(2)])


def test_scipy_matrices_in_memory() -> None:
    import scipy.sparse

    (stored,) = stored_state({"a": scipy.sparse.eye_array(3, format="coo")})
    assert stored.shape == (3, 3) and stored.load().format == "csr"
