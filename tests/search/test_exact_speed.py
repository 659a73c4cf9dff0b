"""The reservoirs of the exhaustive search: whatever the order and the ties of scores, the earliest best rows stay."""

from __future__ import annotations

import numpy as np
import pytest

from resolvent import search
from resolvent.search.reservoir_kernel import above, room_for, shrink, sort_best


def ranked(keys, values, want):
    return sorted(zip((-keys).tolist(), values.tolist(), strict=True))[:want]


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "wide", "signs"])
@pytest.mark.parametrize("want", [1, 7, 40])
def test_shrink_keeps_the_best_and_of_equals_the_first(kind, want):
    r = np.random.default_rng(want)
    count = room_for(want)
    keys = {
        "normal": lambda: r.normal(size=count),
        "ties": lambda: r.integers(0, 4, count).astype(float),
        "equal": lambda: np.full(count, 3.0),
        "wide": lambda: r.normal(size=count) * 10.0 ** r.integers(-30, 30, count),
        "signs": lambda: r.choice([-1e-30, 0.0, 1e-30, -1.0, 1.0], count),
    }[kind]().astype(np.float32)
    for most in (want, want + want // 2):
        own, rows = keys.copy(), np.arange(count)
        kept, limit = shrink(own, rows, count, want, most)
        assert want <= kept <= most and (own[:kept] >= limit).all()
        assert (np.diff(rows[:kept]) > 0).all() and (keys[rows[:kept]] == own[:kept]).all()
        expected = ranked(keys, np.arange(count), want)
        assert ranked(own[:kept], rows[:kept], want) == expected
        sort_best(own, rows, kept)
        assert rows[:want].tolist() == [row for _, row in expected]


def test_the_mask_has_a_bit_for_each_score_above():
    from numba import njit

    @njit
    def run(scores, first, threshold):
        return above(scores, first, threshold)

    scores = np.random.default_rng(0).normal(size=100).astype(np.float32)
    scores[50] = np.nan
    for first in (0, 1, 33, 68):
        expected = sum(1 << v for v in range(32) if scores[first + v] > 0.5)
        assert run(scores, first, np.float32(0.5)) == expected
    assert run(np.full(32, -np.inf, np.float32), 0, np.float32(-np.inf)) == 0


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("order", ["ascending", "descending", "copies"])
def test_orders_that_are_hard_for_a_threshold(metric, order):
    r = np.random.default_rng(0)
    x = r.normal(size=(5000, 8)).astype(np.float32)
    q = r.normal(size=(40, 8)).astype(np.float32)
    if order == "copies":
        x = np.repeat(x[:50], 100, 0)
    else:
        x = x[np.argsort(x @ q[0] if order == "ascending" else -(x @ q[0]))]
    scores = q.astype(float) @ x.T.astype(float) if metric == "ip" else -((q[:, None].astype(float) - x) ** 2).sum(-1)
    for k in (1, 10, 150):
        hits = search.exact_search(x, q, k, metric)
        best = -np.sort(-scores, axis=1)[:, :k]
        np.testing.assert_allclose(hits.scores, best, rtol=1e-4, atol=1e-5)
        if order == "copies" and metric == "ip":
            assert (np.diff(hits.ids, axis=1)[np.diff(hits.scores, axis=1) == 0] > 0).all()


def test_many_queries_are_tiled_without_a_trace():
    r = np.random.default_rng(1)
    x, q = r.normal(size=(3000, 16)).astype(np.float32), r.normal(size=(1100, 16)).astype(np.float32)
    hits = search.exact_search(x, q, 5)
    some = search.exact_search(x, q[700:720], 5)
    assert (hits.ids[700:720] == some.ids).all()
    assert (hits.ids[:, 0] == (q @ x.T).argmax(1)).mean() > 0.999
