"""The memory transformer: its parts against plain arithmetic, padding, indexes, training, exchange, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.search import IVF, MemoryTransformer
from resolvent.search.memory import MARK, Entries
from resolvent.search.memory_layers import Attention, RelativePositions
from resolvent.search.memory_training import _likelihood, _neighbours, _pool, _prepare

KEYS, VALUES = [[5, 9], [6, 9], [7, 9, 8]], [[20, 21], [22], [23, 24]]


def small(k=2, seed=0, **options):
    return MemoryTransformer(30, 16, 3, 1, 2, k=k, heads=2, generator=seed, **options)


def test_attention_is_its_formula():
    layer, x, y = Attention(8, 2), torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    bias = torch.randn(1, 2, 4, 5)
    keys, values = layer.both(y).chunk(2, -1)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        scores = layer.query(x)[..., part] @ keys[..., part].mT / 2 + bias[:, h]
        heads.append(scores.softmax(-1) @ values[..., part])
    torch.testing.assert_close(layer(x, y, bias), layer.out(torch.cat(heads, -1)))


def test_relative_positions_see_distance_and_direction():
    for forward_too in (True, False):
        places = RelativePositions(1, forward_too)
        with torch.no_grad():
            places.bias.copy_(torch.arange(32.0)[:, None])
        found = places(torch.arange(40), torch.arange(40))[0]
        assert torch.equal(found[5:, 5:], found[:-5, :-5])
        assert bool((found.triu(1)[0, 1:] != found[1:, 0]).all())
        assert len(found[39].unique()) > 8 and (forward_too or bool((found.triu(1) == 0).all()))


def test_padding_changes_nothing():
    model = small()
    model.build_memory(KEYS, VALUES)
    alone = [model.encode(torch.tensor([row]))[0] for row in ([5, 9], [7, 9, 8, 4])]
    source, seen = model.encode(model.as_tokens([[5, 9], [7, 9, 8, 4]], "q"))
    there = torch.isfinite(seen[:, 0, 0])
    for row, mask, expected in zip(source, there, alone, strict=True):
        torch.testing.assert_close(row[mask], expected[0], rtol=1e-4, atol=1e-5)
    answers = model.answer([[5, 9], [7, 9, 8, 4]], 4)
    assert torch.equal(answers[0], model.answer([[5, 9]], 4)[0])
    padded = np.array([[5, 9, 0, 0, 0], [7, 9, 8, 4, 0]])
    assert torch.equal(answers, model.answer(padded, 4))


def test_generation_takes_the_most_likely_tokens_of_the_full_decoder():
    model = small()
    model.build_memory(KEYS, VALUES)
    questions = model.as_tokens([[5, 9], [7, 9, 8, 4]], "q")
    found = model.answer(questions, 5)
    source, seen = model.encode(questions)
    begun = torch.full((2, 1), MARK)
    for step in range(5):
        token = model.decode(begun, source, seen)[:, -1].argmax(-1)
        going = (begun[:, 1:] != 0).all(1) & (token > 1)
        assert torch.equal(found[:, step], torch.where(going, token, 0))
        begun = torch.cat([begun, found[:, step : step + 1]], 1)


def test_the_memory_is_keys_and_values_of_the_encoder():
    model = small()
    model.build_memory(KEYS, VALUES, batch=2)
    for i, (key, value) in enumerate(zip(KEYS, VALUES, strict=True)):
        q, a = torch.tensor([key]), torch.tensor([value])
        torch.testing.assert_close(model.memory.keys[i], model.keys_of(q)[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.memory.values[i], model.values_of(q, a)[0], rtol=1e-3, atol=1e-4)
    scores = model.memory.keys @ model.memory.keys.T
    hits = model.retrieve(KEYS, 3)
    torch.testing.assert_close(hits.scores, scores.sort(1, descending=True).values.detach())


def test_without_entries_it_is_a_plain_transformer():
    model = small(k=0)
    q = model.as_tokens([[5, 9, 4]], "q")
    hidden, _, bias = model.enter(q)
    plain = model.encoder_norm(model.run(hidden, bias, 0, 3))
    torch.testing.assert_close(model.encode(q)[0], plain)
    assert model.fit(KEYS, VALUES, epochs=30, rate=1e-2, generator=0)[-1] < 0.5
    assert model.answer(KEYS, 2).tolist() == [[20, 21], [22, 0], [23, 24]]


def test_only_the_entries_that_are_read_change_the_encoding():
    model = small()
    with torch.no_grad():
        model.rank.copy_(torch.randn(model.rank.shape))
    hidden, there, bias = model.enter(model.as_tokens([[5, 9, 4]], "q"))
    hidden = model.run(hidden, bias, 0, 2)
    entries = Entries(torch.randn(1, 2, 16), torch.randn(1, 2, 2, 16))
    source, seen = model.finish(hidden, there, bias, entries)
    assert source.shape == (1, 4 + 2 + 3, 16) and bool(torch.isfinite(seen).all())
    swapped = model.finish(hidden, there, bias, Entries(*(t.flip(1) for t in entries)))[0]
    assert not torch.allclose(source[:, 4:], swapped[:, 4:])  # the rank of an entry is told


def test_candidates_are_right_and_wrong_and_never_the_question_itself():
    model = small()
    keys = [[i, j] for i in range(2, 8) for j in range(10, 14)]
    values = [[20 + j] for i in range(6) for j in range(4)]
    data = _prepare(model, keys, values, None)
    near = _neighbours(model, data, 8)
    assert not bool((near == torch.arange(24)[:, None]).any())
    chosen = torch.arange(0, 24, 5)
    pool = _pool(data, chosen, near[chosen], 2, torch.Generator().manual_seed(0))
    assert len(pool) == len(pool.unique()) and int(pool.min()) >= 0
    for row in chosen:
        assert bool((data.same_value[near[row][near[row] >= 0]] == data.same[row]).any()) <= bool(
            (data.same_value[pool] == data.same[row]).any()
        )


def test_likelihood_is_that_of_the_tokens_and_the_mark():
    model = small()
    source = torch.randn(2, 3, 16)
    answers = torch.tensor([[20, 21], [22, 0]])
    logs = [
        model.decode(torch.tensor([[MARK, *a]]), source[i : i + 1], None)[0].log_softmax(-1)
        for i, a in ((0, [20, 21]), (1, [22]))
    ]
    parts = [logs[0][0, 20], logs[0][1, 21], logs[0][2, MARK], logs[1][0, 22], logs[1][1, MARK]]
    torch.testing.assert_close(_likelihood(model, answers, source, None), -torch.stack(parts).mean())


def test_it_learns_to_find_and_to_answer():
    entities = range(30)
    keys = [[2 + e % 6, 9 + e // 6] for e in entities]
    answers = [[20 + int(e)] for e in torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    questions = [[18, *key] for key in keys]
    model = MemoryTransformer(60, 32, 3, 1, 2, k=3, heads=2, decoder_layers=1, generator=0)
    losses = model.fit(questions, answers, (keys, answers), epochs=40, batch=15, rate=1e-2, generator=0)
    assert losses[-1] < 0.5 * losses[0]
    model.build_memory(keys, answers)
    assert model.retrieve(questions, 1).ids[:, 0].tolist() == list(entities)
    exact = model.answer(questions, 1)
    assert float((exact == torch.tensor(answers)).float().mean()) > 0.9
    model.build_memory(keys, answers, index=IVF(lists=2))
    assert float((model.answer(questions, 1) == exact).float().mean()) > 0.8
    model.build_memory(keys, answers, index=IVF(lists=1))
    assert torch.equal(model.answer(questions, 1), exact)


def test_a_seed_repeats_weights_and_training():
    a, b = small(), small()
    assert a.fit(KEYS, VALUES, generator=1) == b.fit(KEYS, VALUES, generator=1)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_bad_input():
    model = small()
    for call, match in (
        (lambda: MemoryTransformer(30, 16, 3, 2, 1), "key_layer <= value_layer"),
        (lambda: MemoryTransformer(30, 15, 3, 1, 2), "divisible"),
        (lambda: MemoryTransformer(2), "vocabulary"),
        (lambda: model.answer([[5]]), "build_memory"),
        (lambda: model.retrieve([[5]]), "build_memory"),
        (lambda: model.build_memory(KEYS, VALUES[:2]), "as many"),
        (lambda: model.build_memory([[30]], [[5]]), "0 to 29"),
        (lambda: model.build_memory([[5], [0]], [[5], [5]]), "row 1"),
        (lambda: model.build_memory([[0.5]], [[5]]), "integers|tokens"),
        (lambda: model.build_memory(KEYS, VALUES, index=IVF(lists=2, metric="l2")), "'ip'"),
        (lambda: model.fit(KEYS, VALUES, epochs=0), "epochs"),
        (lambda: model.fit(KEYS, VALUES, weights=(1, -1, 1)), "weights"),
        (lambda: model.fit(KEYS, VALUES, (KEYS, VALUES[:1])), "as many"),
        (lambda: model.fit(KEYS, VALUES, (KEYS,)), r"\(questions, answers\)"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
