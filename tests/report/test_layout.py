"""How the tensors of a checkpoint become matrices, against modules of torch and the files of real models."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resolvent.report.layout import Layout, Part, not_a_matrix
from resolvent.report.lora import lora_pairs
from resolvent.report.readers import stored_state, stored_tensors
from resolvent.report.stored import Stored


def laid_out(state: dict) -> dict[str, Part]:
    """Every part of a state dict by its name."""
    tensors = stored_state(state)
    layout = Layout(tensors)
    return {
        part.named(stored): part
        for stored in tensors
        if not stored.reason and not not_a_matrix(stored) and layout.tied(stored) is None
        for part in layout.parts(stored, stored.load())
    }


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_matrix_is_itself() -> None:
    w = noise(3, 4)
    (part,) = laid_out({"w": w}).values()
    assert (part.suffix, part.read_as, part.notes) == ("", "", ()) and part.matrix.data_ptr() == w.data_ptr()


def test_the_attention_of_torch() -> None:
    attention = nn.MultiheadAttention(8, 2)
    found = laid_out(attention.state_dict())
    assert set(found) == {"in_proj_weight[q]", "in_proj_weight[k]", "in_proj_weight[v]", "out_proj.weight"}
    for i, letter in enumerate("qkv"):
        part = found[f"in_proj_weight[{letter}]"]
        assert torch.equal(part.matrix, attention.in_proj_weight[8 * i : 8 * i + 8])
        assert part.notes == (f"q, k, v fused: part {letter}",) and part.read_as == f"{letter} of q, k, v"
        # a view of the tensor: splitting costs no memory
        assert part.matrix.untyped_storage().data_ptr() == attention.in_proj_weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["blocks.0.attn.qkv.weight", "qkv_proj.weight", "to_qkv.weight", "a.Wqkv.weight"])
def test_fused_queries_keys_and_values(name: str) -> None:
    w = noise(24, 8)
    found = laid_out({name: w, "other.weight": w.clone()})
    assert torch.equal(torch.cat([found[f"{name}[{x}]"].matrix for x in "qkv"]), w) and len(found) == 4


def test_shared_keys_and_values() -> None:
    w = noise(16, 8)
    found = laid_out({"qkv_proj.weight": w})
    assert [found[f"qkv_proj.weight[{x}]"].matrix.shape for x in "qkv"] == [(8, 8), (4, 8), (4, 8)]
    assert "shared keys and values" in found["qkv_proj.weight[k]"].notes[0]
    # more rows of queries than the input is wide: what the thirds are can only be assumed, and is said
    assert "in three equal parts" in laid_out({"qkv_proj.weight": noise(30, 8)})["qkv_proj.weight[q]"].notes[0]
    (part,) = laid_out({"qkv_proj.weight": noise(31, 8)}).values()
    assert part.suffix == "" and "not split" in part.notes[0]


def test_gpt2_is_transposed_and_split() -> None:
    state = {
        "h.0.attn.c_attn.weight": noise(8, 24),
        "h.0.attn.c_attn.bias": noise(24),
        "h.0.attn.c_proj.weight": noise(8, 8),
        "h.0.attn.c_proj.bias": noise(8),
        "h.0.mlp.c_fc.weight": noise(8, 32),
        "h.0.mlp.c_fc.bias": noise(32),
        "h.0.attn.bias": torch.ones(1, 1, 6, 6).tril(),
        "wpe.weight": noise(6, 8),
    }
    found = laid_out(state)
    assert set(found) == {
        *(f"h.0.attn.c_attn.weight[{x}]" for x in "qkv"),
        "h.0.attn.c_proj.weight",
        "h.0.mlp.c_fc.weight",
        "wpe.weight",
    }
    assert torch.equal(found["h.0.attn.c_attn.weight[k]"].matrix, state["h.0.attn.c_attn.weight"][:, 8:16].T)
    assert torch.equal(found["h.0.attn.c_proj.weight"].matrix, state["h.0.attn.c_proj.weight"].T)
    assert found["h.0.mlp.c_fc.weight"].matrix.shape == (32, 8)
    assert "transposed" in found["h.0.mlp.c_fc.weight"].notes[0] and found["wpe.weight"].notes == ()
    mask = next(t for t in stored_state(state) if t.name == "h.0.attn.bias")
    assert not_a_matrix(mask) == "it is an attention mask and not a weight"


def test_gpt2_without_biases_is_told_by_its_fused_weight() -> None:
    w = noise(8, 24)
    found = laid_out({"h.0.attn.c_attn.weight": w, "h.0.mlp.c_fc.weight": noise(8, 32), "x.weight": noise(8, 32)})
    assert torch.equal(found["h.0.attn.c_attn.weight[q]"].matrix, w[:, :8].T)
    assert found["h.0.mlp.c_fc.weight"].matrix.shape == (32, 8) and found["x.weight"].matrix.shape == (8, 32)


def test_the_same_names_with_linear_layers_are_not_transposed() -> None:
    state = {
        "h.0.attn.c_attn.weight": noise(24, 8),
        "h.0.attn.c_attn.bias": noise(24),
        "h.0.attn.c_proj.weight": noise(8, 8),
        "h.0.attn.c_proj.bias": noise(8),
        "h.0.mlp.c_fc.weight": noise(32, 8),
        "h.0.mlp.c_fc.bias": noise(32),
    }
    found = laid_out(state)
    assert torch.equal(found["h.0.attn.c_attn.weight[v]"].matrix, state["h.0.attn.c_attn.weight"][16:])
    assert torch.equal(found["h.0.attn.c_proj.weight"].matrix, state["h.0.attn.c_proj.weight"])
    assert not any("transposed" in note for part in found.values() for note in part.notes)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1)])
def test_weights_interleaved_by_head(tmp_path: Path, heads: int, groups: int) -> None:
    width = 3
    q, k, v = noise(heads * width, 12), noise(groups * width, 12, seed=1), noise(groups * width, 12, seed=2)
    each = [torch.cat(rows) for rows in zip(q.chunk(groups), k.chunk(groups), v.chunk(groups), strict=True)]
    save_file({"h.query_key_value.weight": torch.cat(each)}, tmp_path / "m.safetensors")
    with stored_tensors(tmp_path) as (stored,):
        (part,) = Layout([stored]).parts(stored, stored.load())
        assert part.suffix == "" and "number of heads" in part.notes[0]
    (tmp_path / "config.json").write_text(f'{{"n_head": {heads}, "num_kv_heads": {groups}}}')
    with stored_tensors(tmp_path) as (stored,):
        parts = list(Layout([stored]).parts(stored, stored.load()))
        assert all(torch.equal(part.matrix, wanted) for part, wanted in zip(parts, (q, k, v), strict=True))
        assert [part.suffix for part in parts] == ["[q]", "[k]", "[v]"] and "interleaved" in parts[0].notes[0]
    (tmp_path / "config.json").write_text('{"n_head": 5}')
    with stored_tensors(tmp_path) as (stored,):
        (part,) = Layout([stored]).parts(stored, stored.load())
        assert "do not divide" in part.notes[0]


@pytest.mark.parametrize(
    ("name", "labels"),
    [("mlp.gate_up_proj.weight", "gate up"), ("mlp.w12.weight", "gate up"), ("to_kv.weight", "k v")],
)
def test_two_in_one(name: str, labels: str) -> None:
    w = noise(10, 4)
    found = laid_out({name: w})
    first, second = labels.split()
    assert torch.equal(found[f"{name}[{first}]"].matrix, w[:5]) and torch.equal(
        found[f"{name}[{second}]"].matrix, w[5:]
    )


def test_the_gates_of_recurrent_cells() -> None:
    lstm = nn.LSTM(5, 4, num_layers=2, bidirectional=True)
    found = laid_out(lstm.state_dict())
    assert len(found) == 32 and torch.equal(found["weight_ih_l0[forget]"].matrix, lstm.weight_ih_l0[4:8])
    assert "weight_hh_l1_reverse[output]" in found
    gru = laid_out(nn.GRU(5, 4).state_dict())
    assert set(gru) == {f"weight_{x}_l0[{g}]" for x in ("ih", "hh") for g in ("reset", "update", "new")}
    assert set(laid_out(nn.RNN(5, 4).state_dict())) == {"weight_ih_l0", "weight_hh_l0"}


def test_convolutions() -> None:
    model = nn.ModuleDict(
        {
            "one": nn.Conv1d(3, 6, 5),
            "two": nn.Conv2d(4, 6, (3, 2)),
            "three": nn.Conv3d(2, 6, 2),
            "deep": nn.Conv2d(8, 8, 3, groups=8),
            "up": nn.ConvTranspose2d(4, 6, 3),
        }
    )
    found = laid_out(model.state_dict())
    shapes = {name: tuple(part.matrix.shape) for name, part in found.items()}
    assert shapes == {
        "deep.weight": (8, 9),
        "one.weight": (6, 15),
        "three.weight": (6, 16),
        "two.weight": (6, 24),
        "up.weight": (6, 36),
    }
    assert torch.equal(found["two.weight"].matrix, model["two"].weight.reshape(6, -1))
    assert torch.equal(found["up.weight"].matrix, model["up"].weight.transpose(0, 1).reshape(6, -1))
    assert found["one.weight"].read_as == "kernel (out, in*k)"
    assert "depthwise" in found["deep.weight"].notes[0] and "transposed conv" in found["up.weight"].notes[0]


def test_grouped_convolutions_beside_others() -> None:
    block = nn.ModuleDict(
        {"conv1": nn.Conv2d(16, 8, 1, bias=False), "conv2": nn.Conv2d(8, 8, 3, groups=4), "conv3": nn.Conv2d(8, 16, 1)}
    )
    found = laid_out(block.state_dict())
    assert found["conv2.weight"].notes == ("grouped convolution: 4 groups of 2 of the 8 channels before it",)
    assert found["conv1.weight"].notes == found["conv3.weight"].notes == ()


def test_batches_of_matrices() -> None:
    found = laid_out({"experts.down": noise(3, 4, 5), "pos": noise(1, 4, 5), "flat": noise(7, 1, 5)})
    assert {n: tuple(p.matrix.shape) for n, p in found.items()} == {
        "experts.down[0]": (4, 5),
        "experts.down[1]": (4, 5),
        "experts.down[2]": (4, 5),
        "flat": (7, 5),
        "pos": (4, 5),
    }
    assert found["experts.down[1]"].read_as == "matrix 1 of a batch of 3" and "dropped" in found["pos"].read_as
    (images,) = laid_out({"images": noise(1025, 2, 3)}).values()
    assert images.matrix.shape == (1025, 6) and images.read_as == "1025 arrays of 2×3, one per row"


@pytest.mark.parametrize("last", [True, False])
def test_fused_experts(last: bool) -> None:
    fused, down = ((3, 4, 10), (3, 5, 4)) if last else ((3, 10, 4), (3, 4, 5))
    w = noise(*fused)
    found = laid_out({"e.gate_up_proj": w, "e.down_proj": noise(*down)})
    assert len(found) == 9
    gate, up = (found[f"e.gate_up_proj[1][{x}]"].matrix for x in ("gate", "up"))
    assert torch.equal(torch.cat([gate, up], dim=1 if last else 0), w[1])


def test_fused_experts_that_interleave_or_cannot_be_split() -> None:
    w, down = noise(3, 4, 10), noise(3, 5, 4)
    found = laid_out({"e.gate_up_proj": w, "e.down_proj": down, "e.gate_up_proj_bias": noise(3, 10)})
    assert torch.equal(found["e.gate_up_proj[0][up]"].matrix, w[0, :, 1::2])
    assert "no down_proj" in laid_out({"e.gate_up_proj": w})["e.gate_up_proj[0]"].notes[0]
    square = laid_out({"e.gate_up_proj": noise(3, 8, 8), "e.down_proj": noise(3, 4, 4)})
    assert "do not tell" in square["e.gate_up_proj[0]"].notes[0]


@pytest.mark.parametrize(
    ("down", "up", "product"),
    [
        ("q.lora_A.weight", "q.lora_B.weight", "q.lora"),
        ("q.lora_A.default.weight", "q.lora_B.default.weight", "q.lora.default"),
        ("unet_q.lora_down.weight", "unet_q.lora_up.weight", "unet_q.lora"),
        ("q.lora.down.weight", "q.lora.up.weight", "q.lora"),
        ("e.lora_embedding_A", "e.lora_embedding_B", "e.lora"),
    ],
)
def test_a_lora_pair_is_its_product(down: str, up: str, product: str) -> None:
    a, b = noise(2, 7), noise(5, 2, seed=1)
    found = laid_out({down: a, up: b})
    assert list(found) == [product]
    assert torch.allclose(found[product].matrix, b.double() @ a.double()) and found[product].notes == (
        "LoRA pair of rank 2: B @ A, unscaled: neither adapter_config.json nor an alpha lies beside it",
    )
    tensors = stored_state({down: a, up: b})
    layout = Layout(tensors)
    by_name = {t.name: t for t in tensors}
    assert layout.factor_of(by_name[up]) == product and layout.factor_of(by_name[down]) is None


def test_lora_of_kernels_with_alpha_and_in_half_precision() -> None:
    a, b = noise(4, 3, 3, 3).bfloat16(), noise(6, 4, 1, 1, seed=1).bfloat16()
    found = laid_out({"c.lora_down.weight": a, "c.lora_up.weight": b, "c.alpha": torch.tensor(2.0)})
    part = found["c.lora"]
    assert torch.allclose(part.matrix, 0.5 * b.double().reshape(6, 4) @ a.double().reshape(4, -1), rtol=1e-12)
    assert "alpha / r = 2 / 4 = 0.5, from 'c.alpha'" in part.notes[0] and part.matrix.dtype == torch.float64


def test_a_large_product_is_formed_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("resolvent.report.lora"), "_WIDE", 10)
    (part,) = laid_out({"q.lora_A.weight": noise(2, 7), "q.lora_B.weight": noise(5, 2)}).values()
    assert part.matrix.dtype == torch.float32
    a, b = stored_state({"q.lora_A.weight": noise(2, 7).to_sparse_coo(), "q.lora_B.weight": noise(5, 2)})
    with pytest.raises(ValueError, match="is sparse"):
        list(Layout([a, b]).parts(a, a.load()))


def test_an_alpha_that_is_none() -> None:
    state = {"q.lora_A.weight": noise(2, 7), "q.lora_B.weight": noise(5, 2), "q.alpha": torch.ones(3)}
    assert "unscaled: neither" in laid_out(state)["q.lora"].notes[0]


@pytest.mark.parametrize("alpha", [torch.nan, -torch.inf, 1e30])
def test_an_alpha_that_is_an_accident_is_not_applied(alpha: float) -> None:
    state = {"q.lora_down.weight": noise(2, 7), "q.lora_up.weight": noise(5, 2), "q.alpha": torch.tensor(alpha)}
    part = laid_out(state)["q.lora"]
    assert f"unscaled: 'q.alpha' is {alpha:g}, not a number up to 1e+09" in part.notes[0]
    assert torch.equal(part.matrix, noise(5, 2).double() @ noise(2, 7).double())


def test_an_alpha_may_be_a_whole_number() -> None:
    state = {"q.lora_down.weight": noise(2, 7), "q.lora_up.weight": noise(5, 2), "q.alpha": torch.tensor(6)}
    assert torch.allclose(laid_out(state)["q.lora"].matrix, 3 * noise(5, 2).double() @ noise(2, 7).double())


def test_factors_that_do_not_fit_are_matrices() -> None:
    found = laid_out({"q.lora_A.weight": noise(2, 7), "q.lora_B.weight": noise(5, 3), "v.lora_A.weight": noise(2, 7)})
    assert set(found) == {"q.lora_A.weight", "q.lora_B.weight", "v.lora_A.weight"}
    assert lora_pairs(stored_state({"color_A.weight": noise(2, 7), "color_B.weight": noise(7, 2)})) == {}


def ties(tensors: list[Stored]) -> dict[str, str | None]:
    layout = Layout(tensors)
    return {t.name: layout.tied(t) for t in tensors}


def test_tied_weights_are_measured_once(tmp_path: Path) -> None:
    w = noise(30, 4)
    state = {"lm_head.weight": w, "model.embed_tokens.weight": w, "other": w.clone(), "a": w[:9], "b": w[:9]}
    wanted = {
        "a": None,
        "b": "a",
        "lm_head.weight": "model.embed_tokens.weight",
        "model.embed_tokens.weight": None,
        "other": None,
    }
    assert ties(stored_state(state)) == wanted
    torch.save(state, tmp_path / "a.pt")
    with stored_tensors(tmp_path / "a.pt") as tensors:
        assert ties(tensors) == wanted


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("wte.weight", "lm_head.weight"),
        ("tok_embeddings.weight", "output.weight"),
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("shared.weight", "decoder.embed_tokens.weight"),
    ],
)
def test_equal_embeddings_in_safetensors_are_tied(tmp_path: Path, first: str, second: str) -> None:
    w = noise(30, 4)
    w[3, 2] = torch.nan
    save_file({first: w, second: w.clone(), "mlp.weight": w.clone()}, tmp_path / "a.safetensors")
    with stored_tensors(tmp_path / "a.safetensors") as tensors:
        found = ties(tensors)
    assert sorted(found.values(), key=str) == [None, None, sorted({first, second} - {n for n in found if found[n]})[0]]
    assert found["mlp.weight"] is None
    save_file({first: w, second: w + 1}, tmp_path / "a.safetensors")
    with stored_tensors(tmp_path / "a.safetensors") as tensors:
        assert set(ties(tensors).values()) == {None}


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((), "one number"),
        ((3,), "one axis"),
        ((2,) * 6, "6 axes"),
        ((0, 3), "no entries"),
        ((1, 1, 7), "longer than 1"),
        ((5, 1, 1, 1), "longer than 1"),
    ],
)
def test_what_is_no_matrix(shape: tuple[int, ...], words: str) -> None:
    (stored,) = stored_state({"a": torch.ones(shape)})
    assert words in not_a_matrix(stored)


def test_codes_are_no_matrix_without_their_scale() -> None:
    codes = torch.ones(2, 3, dtype=torch.int8)
    plain, scaled, _ = stored_state({"a": codes, "b": codes, "b_scale": torch.tensor(2.0)})
    assert "codes" in plain.reason and "codes" in not_a_matrix(plain) and not_a_matrix(scaled) == ""
    (part,) = Layout([scaled]).parts(scaled, scaled.load())
    assert part.matrix.tolist() == [[2.0] * 3] * 2 and "times their scale" in part.notes[0]


def test_sparse_matrices_and_kernels_without_entries_pass_through() -> None:
    import scipy.sparse

    (part,) = laid_out({"a": scipy.sparse.eye_array(3, format="csr")}).values()
    assert scipy.sparse.issparse(part.matrix)
    assert "no entries" in not_a_matrix(stored_state({"conv": torch.zeros(3, 0, 2)})[0])
