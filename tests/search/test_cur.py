"""Search by CUR against scoring everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.search import CURIndex, cur_search, recall_at_k


def low_rank(queries=80, items=400, rank=6, noise=0.0, seed=0):
    r = np.random.default_rng(seed)
    table = r.normal(size=(queries, rank)) @ r.normal(size=(rank, items))
    return table + noise * r.normal(size=table.shape)


@pytest.mark.parametrize("select", ["random", "pivoted", "leverage"])
def test_a_score_of_low_rank_is_recovered_exactly(select):
    table = low_rank()
    index = cur_search(table[:60], n_anchor_items=10, select=select, generator=0)
    for row in table[60:]:
        hits = index.query(lambda items, row=row: row[items], k=20, budget=40)
        assert hits.ids.tolist() == np.argsort(-row)[:20].tolist() and int(hits.evaluations) == 40


def test_the_budget_is_never_exceeded_and_every_score_is_exact():
    table = low_rank(noise=1.0)
    index = cur_search(table[:60], n_anchor_items=30, generator=0)
    for budget in (30, 31, 100, 400, 4000):
        asked = []

        def score(items, asked=asked):
            asked.extend(items.tolist())
            return table[70][items]

        hits = index.query(score, k=10, budget=budget)
        assert len(asked) == len(set(asked)) == min(budget, 400)
        np.testing.assert_allclose(hits.scores, table[70][hits.ids], rtol=1e-6)


def test_budget_of_all_items_is_exact():
    table = low_rank(noise=3.0)
    index = cur_search(table[:60], n_anchor_items=30, generator=0)
    assert index.query(lambda i: table[75][i], 15, 400).ids.tolist() == np.argsort(-table[75])[:15].tolist()


def test_the_cut_off_that_is_chosen_is_better_than_none_under_noise():
    table = low_rank(queries=160, rank=4, noise=0.3)
    chosen, full = (cur_search(table[:100], n_anchor_items=90, rtol=t, generator=0) for t in (None, 0.0))

    def error(index):
        return np.square(index.approximate(table[100:, index.anchors]) - table[100:]).mean()

    assert chosen.rtol > 1e-6 and error(chosen) < 0.2 * error(full)


def test_a_function_of_queries_and_items_is_called_in_batches():
    r = np.random.default_rng(1)
    Q, X = r.normal(size=(40, 3)), r.normal(size=(100, 3))
    sizes = []

    def score(queries, items):
        sizes.append((len(queries), len(items)))
        return torch.from_numpy(np.stack(queries) @ np.stack(items).T)

    index = cur_search(score, Q[:30], X, 8, batch=40, generator=0)
    assert sizes == [(30, 40), (30, 40), (30, 20)] and len(index) == 100
    table = Q @ X.T
    assert (
        recall_at_k([index.query(lambda i: table[35][i], 5).ids.tolist()], [np.argsort(-table[35])[:5].tolist()]) == 1
    )


def test_items_may_be_added():
    table = low_rank()
    index = cur_search(table[:60, :300], n_anchor_items=10, generator=0)
    index.add(table[:60, 300:])
    assert len(index) == 400
    assert index.query(lambda i: table[65][i], 20, 40).ids.tolist() == np.argsort(-table[65])[:20].tolist()


def test_fewer_items_than_k_are_padded():
    index = CURIndex(low_rank(items=5), np.array([0, 1]))
    assert index.query(lambda i: np.ones(len(i)), k=8).counts == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: cur_search(t, n_anchor_items=0), "n_anchor_items must be"),
        (
            lambda t: cur_search(t, n_anchor_items=401),
            "n_anchor_items must be an integer from 1 to the number of items, 400",
        ),
        (lambda t: cur_search(t, select="best"), "select must be"),
        (lambda t: cur_search(t * np.nan), "scores has"),
        (lambda t: cur_search(lambda q, i: t), "anchor_queries and items must be given"),
        (lambda t: cur_search(lambda q, i: t[:2], t, t, 3), "score must return shape"),
        (lambda t: CURIndex(t, [900]), "anchors must be items"),
        (lambda t: CURIndex(t, [1], rtol=2), "rtol must lie"),
        (lambda t: CURIndex(t, [1, 2]).query(lambda i: t[0][i], 1, budget=1), "budget must allow the 2 anchors"),
        (lambda t: CURIndex(t, [1, 2]).query(lambda i: t[0], 1), "score_row must return 2 scores"),
        (lambda t: CURIndex(t, [1, 2]).query(lambda i: t[0][i] * np.nan, 1), "score_row returned NaN"),
        (lambda t: CURIndex(t, [1, 2]).add(t[:3]), "scores must have shape"),
        (lambda t: CURIndex(t, [1, 2]).approximate(np.ones(3)), "anchor_scores must have 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(low_rank())
