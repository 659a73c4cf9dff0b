"""JsonEncoder and its bindings: lengths, what is read back, what is alike, commuting binders, seeds, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.search import JsonEncoder
from resolvent.search.binding import BINDINGS, Orthogonal


def cosine(encoder, a, b):
    u, v = encoder.encode_many([a, b])
    return float(u @ v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_matrices_keep_products_and_are_undone(dtype):
    M = Orthogonal(64, 3)
    x = torch.randn(5, 64, dtype=dtype)
    eye = torch.eye(64, dtype=dtype)
    for bind, unbind in ((M.bind, M.unbind), (M.bind_position, M.unbind_position)):
        for key in ("a", "b") if bind == M.bind else (0, 1, 2, 37):
            dense = bind(key, eye).mT
            torch.testing.assert_close(dense.mT @ dense, eye, atol=1e-5, rtol=0)
            torch.testing.assert_close(bind(key, x), x @ dense.mT, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(unbind(key, bind(key, x)), x, atol=1e-5, rtol=1e-4)
    # Keys and places are nearly orthogonal to one another, and places are powers of one matrix after the first factor.
    u = x[:1] / x[:1].norm()
    assert abs(float(M.bind("a", u) @ M.bind("b", u).mT)) < 0.6
    step = M.unbind("[]", M.bind_position(1, eye))
    torch.testing.assert_close(M.unbind("[]", M.bind_position(3, eye)), step @ step @ step, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", BINDINGS)
def test_every_binding_is_linear_and_roughly_undone(kind):
    M = BINDINGS[kind](256, 0)
    x, y = torch.randn(2, 256, dtype=torch.float64)
    for bind, unbind in ((M.bind, M.unbind), (M.bind_position, M.unbind_position)):
        key = "a" if bind == M.bind else 2
        torch.testing.assert_close(bind(key, x + 2 * y), bind(key, x) + 2 * bind(key, y))
        back = unbind(key, bind(key, x))
        assert float(torch.cosine_similarity(back, x, dim=0)) > (0.999 if M.exact else 0.5)
        # The adjoint of what binds is what unbinds.
        assert float(bind(key, x) @ y) == pytest.approx(float(x @ unbind(key, y)))


def test_objects_are_sums_and_keys_have_no_order():
    encoder = JsonEncoder(512)
    value = {"a": 1, "b": "x", "c": None}
    v = encoder.encode(value)
    assert v.dtype == np.float32 and np.linalg.norm(v) == pytest.approx(1, abs=1e-5)
    assert np.allclose(v, encoder.encode({"c": None, "b": "x", "a": 1}), atol=1e-6)
    parts = [encoder.binding.bind("k" + k, torch.from_numpy(encoder.encode(x))) for k, x in value.items()]
    total = torch.stack(parts).sum(0)
    np.testing.assert_allclose(v, (total / total.norm()).numpy(), atol=1e-6)
    items = [encoder.binding.bind_position(i, torch.from_numpy(encoder.encode(x))) for i, x in enumerate("pqr")]
    total = torch.stack(items).sum(0)
    np.testing.assert_allclose(encoder.encode(list("pqr")), (total / total.norm()).numpy(), atol=1e-6)


def test_many_are_the_same_as_one(monkeypatch):
    from resolvent.search import json_vector

    values = [{"a": [1, {"b": "x"}]}, 5, [], {}, "t", [[], {}, [True]], {"a": {"a": {"a": 0}}}]
    encoder = JsonEncoder(128)
    together = encoder.encode_many(values)
    monkeypatch.setattr(json_vector, "_ENTRIES", 1)
    np.testing.assert_allclose(together, encoder.encode_many(values), atol=1e-6)
    np.testing.assert_allclose(together, [encoder.encode(v) for v in values], atol=1e-6)
    assert encoder.encode_many([]).shape == (0, 128)
    np.testing.assert_array_equal(encoder.encode((1, 2)), encoder.encode([1, 2]))


def test_fields_are_read_back():
    encoder = JsonEncoder(1024, generator=1)
    value = {"name": "Ada", "tags": ["math", "poetry", "engine"], "born": {"year": 1815, "city": "London"}}
    v = encoder.encode(value)
    words = ["Ada", "math", "poetry", "engine", "London", "Paris", 1815, 1916, True, None]
    for path, wanted in (
        ("name", "Ada"),
        (["tags", 2], "engine"),
        (["tags", 0], "math"),
        (["born", "year"], 1815),
        (("born", "city"), "London"),
    ):
        assert encoder.cleanup(encoder.unbind(v, path), words)[0] == wanted
    both = torch.from_numpy(np.stack([v, v]))
    found = encoder.cleanup(encoder.unbind(both, "name"), words, encoder.encode_many(words))
    assert [f[0] for f in found] == ["Ada", "Ada"] and 0.4 < found[0][1] < 0.7  # three keys: 3^(-1/2)


def test_structure_matters_and_commuting_binders_lose_it():
    nested, turned = {"a": {"b": "x"}}, {"b": {"a": "x"}}
    for kind in ("orthogonal", "gaussian"):
        assert abs(cosine(JsonEncoder(1024, matrices=kind), nested, turned)) < 0.15
    for kind in ("convolution", "product"):
        assert cosine(JsonEncoder(1024, matrices=kind), nested, turned) == pytest.approx(1, abs=1e-4)
    # A matrix and its transpose: the places commute, the first factor tells them apart.
    assert cosine(JsonEncoder(1024), [[1, 50], [90, 1]], [[1, 90], [50, 1]]) < 0.7
    encoder = JsonEncoder(1024)
    for a, b in ((["x"], {"0": "x"}), ([], {}), (1, "1"), (True, 1), (None, "None"), ("x", ["x"]), (0, False)):
        assert abs(cosine(encoder, a, b)) < 0.15


def test_numbers_texts_and_soft_arrays():
    encoder = JsonEncoder(4096, number_scale=10.0)
    for gap in (0.0, 5.0, 10.0, 20.0):
        assert cosine(encoder, 1815, 1815 + gap) == pytest.approx(math.exp(-((gap / 10) ** 2) / 2), abs=0.06)
    grams = JsonEncoder(1024, strings="ngrams")
    assert cosine(grams, "international", "internationally") > 0.7 > 0.2 > cosine(grams, "international", "cucumber")
    assert abs(cosine(JsonEncoder(1024), "international", "internationally")) < 0.15
    given = JsonEncoder(256, strings=lambda text: np.array([len(text), 1.0, 0.0]))
    assert cosine(given, "abc", "xyz") == pytest.approx(1, abs=1e-5)
    shifted = ["a", "b", "c", "d", "e"], ["x", "a", "b", "c", "d"]
    hard, soft = (cosine(JsonEncoder(1024, soft=s), *shifted) for s in (0.0, 1.0))
    assert abs(hard) < 0.15 and soft > 0.25


def test_one_change_leaves_more_than_two_and_depth_is_no_limit():
    encoder = JsonEncoder(1024)
    base = {f"k{i}": i * 10 for i in range(10)}
    one, two = base | {"k3": "other"}, base | {"k3": "other", "k5": "other"}
    assert 0.8 < cosine(encoder, base, one) < 0.95
    assert cosine(encoder, base, two) < cosine(encoder, base, one) - 0.03
    deep: object = "leaf"
    for _ in range(2000):
        deep = {"a": deep}
    v = encoder.encode(deep)
    assert encoder.cleanup(encoder.unbind(v, ["a"] * 2000), ["leaf", "else"])[1] == pytest.approx(1, abs=1e-3)


def test_seeds():
    a, b, c = (JsonEncoder(256, generator=s).encode({"a": ["x", 1]}) for s in (0, 0, 1))
    assert np.array_equal(a, b) and abs(float(a @ c)) < 0.3


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda e: JsonEncoder(100), ValueError, "power of two"),
        (lambda e: JsonEncoder(1), ValueError, "dim"),
        (lambda e: JsonEncoder(64, matrices="haar"), ValueError, "matrices"),
        (lambda e: JsonEncoder(64, strings=3), ValueError, "strings"),
        (lambda e: JsonEncoder(64, number_scale=0), ValueError, "number_scale"),
        (lambda e: JsonEncoder(64, soft=-1), ValueError, "soft"),
        (lambda e: JsonEncoder(64, generator=None), TypeError, "generator"),
        (lambda e: e.encode({"a": {1: 2}}), TypeError, "'a'.*key 1"),
        (lambda e: e.encode({"a": [object()]}), TypeError, r"\['a'\]\[0\]"),
        (lambda e: e.encode([math.nan]), ValueError, "finite"),
        (lambda e: e.encode(10**400), ValueError, "finite"),
        (lambda e: e.encode(1e308), ValueError, "too large"),
        (lambda e: e.unbind(np.ones(3), "a"), ValueError, "shape"),
        (lambda e: e.unbind(np.ones(64), [-1]), TypeError, "path"),
        (lambda e: e.cleanup(np.ones(64), []), ValueError, "vocabulary"),
        (lambda e: e.cleanup(np.ones(64), ["a"], np.ones((2, 64))), ValueError, "vectors"),
        (lambda e: JsonEncoder(64, strings=lambda t: np.zeros(3)).encode("a"), ValueError, "zero"),
    ],
)
def test_bad_input(call, error, word):
    with pytest.raises(error, match=word):
        call(JsonEncoder(64))
