"""SimHash, random-projection forests and their comparison: formulas, exhaustive limits, filters, files, the protocol."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from resolvent.search import (
    RandomProjectionForest,
    SimHash,
    clustered_vectors,
    compare_indexes,
    exact_search,
    hit_probability,
    recommend,
    tables_needed,
    to_cosine,
)
from resolvent.search.evaluate import recall_at_k
from resolvent.search.families import default_indexes

CORPUS = clustered_vectors(3000, 24, clusters=20, n_queries=40, generator=0)
X, Q = CORPUS.x.numpy(), CORPUS.queries.numpy()


def made(kind, metric="l2", **options):
    if kind == "hash":
        return SimHash(7, 6, metric=metric, **options)
    return RandomProjectionForest(4, 20, split=kind, metric=metric, **options)


def wide(kind):
    """The option with which everything is looked at."""
    return {"probes": 10**6} if kind == "hash" else {"candidates": 10**6}


@pytest.mark.parametrize("kind", ["hash", "points", "direction"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_exhaustive_search_is_exact_and_narrow_search_is_cheap(kind, metric):
    index = made(kind, metric).build(X)
    true = exact_search(X, Q, 10, metric)
    all_of_it = index.query(Q, 10, **wide(kind))
    np.testing.assert_array_equal(all_of_it.ids, true.ids)
    np.testing.assert_allclose(all_of_it.scores, true.scores, rtol=1e-4, atol=1e-4)
    option = "probes" if kind == "hash" else "candidates"
    work, recalls = [], []
    for value in (60, 250, 700):
        hits = index.query(Q, 10, **{option: value})
        work.append(hits.evaluations.mean())
        recalls.append(recall_at_k(hits, true))
    assert work[0] < work[1] < work[2] < len(X) + 1000
    assert recalls[0] <= recalls[1] <= recalls[2] and recalls[2] > (0.5 if metric == "ip" else 0.9)


@pytest.mark.parametrize("kind", ["hash", "points", "direction"])
def test_edits_filters_and_files(kind):
    index = made(kind).build(X[:2500])
    index.add(X[2500:])
    np.testing.assert_array_equal(index.query(Q, 5, **wide(kind)).ids, exact_search(X, Q, 5, "l2").ids)
    mask = np.random.default_rng(0).random(3000) < 0.01
    expected = exact_search(X, Q, 5, "l2", allowed=mask).ids
    np.testing.assert_array_equal(index.query(Q, 5, allowed=mask, **wide(kind)).ids, expected)
    # A filter that leaves less than the buckets hold is answered in full.
    assert (index.query(Q, 5, allowed=mask).counts == 5).all()
    index.remove(expected[0])
    assert not np.isin(index.query(Q, 5, **wide(kind)).ids, expected[0]).any()
    settings = json.loads(json.dumps(index.settings()))
    again = type(index).restore(settings, {name: part.copy() for name, part in index.arrays().items()})
    for options in ({}, wide(kind)):
        a, b = index.query(Q, 5, **options), again.query(Q, 5, **options)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.evaluations, b.evaluations)
    same = made(kind).build(X).query(Q, 5)
    np.testing.assert_array_equal(same.ids, made(kind).build(X).query(Q, 5).ids)


@pytest.mark.parametrize("kind", ["hash", "points", "direction"])
def test_small_equal_and_other_rows(kind):
    for n in (1, 2, 19, 41):
        few = made(kind).build(X[:n])
        np.testing.assert_array_equal(few.query(Q, 3, **wide(kind)).ids, exact_search(X[:n], Q, 3, "l2").ids)
    equal = made(kind).build(np.ones((200, 4)))
    assert equal.query(np.ones(4), 3).counts == 3
    for dtype in ("float16", "bfloat16", "int8"):
        hits = made(kind, dtype=dtype).build(X).query(torch.from_numpy(X[:50]), 1, **wide(kind))
        assert (hits.ids[:, 0] == torch.arange(50)).float().mean() > 0.9


@pytest.mark.parametrize("bits", [1, 6])
def test_the_hit_rate_is_the_formula(bits):
    angle, n = 0.6, 3000
    g = np.random.default_rng(1)
    x = g.normal(size=(n, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    other = g.normal(size=(n, 8))
    other -= (other * x).sum(1, keepdims=True) * x
    y = math.cos(angle) * x + math.sin(angle) * other / np.linalg.norm(other, axis=1, keepdims=True)
    index = SimHash(bits, 3, metric="cosine", generator=2).build(np.concatenate([x, y]))
    codes = index._hash(0)
    # The pairs share the directions, so that hits are not independent: directions of their own for parts of them.
    rates = [(codes[:, :n] == codes[:, n:]).any(0).mean()]
    for seed in range(30):
        codes = SimHash(bits, 3, metric="cosine", generator=seed).build(np.concatenate([x, y]))._hash(0)
        rates.append((codes[:, :n] == codes[:, n:]).any(0).mean())
    assert np.mean(rates) == pytest.approx(index.hit_probability(angle), abs=0.02)


def test_probabilities_and_tables():
    np.testing.assert_allclose(hit_probability(np.array([0, math.pi / 2, math.pi]), 3, 2), [1, 1 - (7 / 8) ** 2, 0])
    for probability in (0.5, 0.9, 0.999):
        tables = tables_needed(0.7, 10, probability)
        assert hit_probability(0.7, 10, tables) >= probability
        assert tables == 1 or hit_probability(0.7, 10, tables - 1) < probability
    assert tables_needed(0.0, 10, 0.99) == 1


def test_buckets_come_in_the_order_of_their_margins():
    """With one table and all buckets wanted one after another, a row is found when its bucket's turn has come."""
    rng = np.random.default_rng(3)
    x, q = rng.normal(size=(400, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    index = SimHash(5, 1, metric="cosine", generator=4).build(x)
    projections = (index._augment.queries((q / np.linalg.norm(q))[None]) @ index._directions).numpy()[0]
    codes, own = index._hash(0)[0], sum(int(p > 0) << j for j, p in enumerate(projections))
    cost = [sum(projections[j] ** 2 for j in range(5) if ((c ^ own) >> j) & 1) for c in range(32)]
    order = np.argsort(cost)
    for probes in (1, 2, 5, 12, 31, 32):
        hits = index.query(q, 1, probes=probes)
        assert hits.scanned == np.isin(codes, order[:probes]).sum()


def test_the_augmentation_keeps_inner_products():
    rows, queries = to_cosine(X, Q)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.linalg.norm(X, axis=1).max(), rtol=1e-5)
    np.testing.assert_allclose(rows @ queries.T, X @ Q.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(exact_search(rows, queries, 3, "l2").ids, exact_search(X, Q, 3).ids)
    assert isinstance(to_cosine(torch.from_numpy(X)), torch.Tensor)


def test_comparison_and_recommendation():
    indexes = {
        "hash": (SimHash(8, 6, metric="l2"), "probes", (8, 64, 256)),
        "tree": (RandomProjectionForest(6, 20, metric="l2"), "candidates", (50, 400, 1500)),
    }
    found = compare_indexes(X, Q, 5, indexes, metric="l2")
    assert [p.family for p in found] == ["exact"] + ["hash"] * 3 + ["tree"] * 3
    assert found[0].recall == 1 and found[0].evaluations == 3000 and found[0].bytes_per_vector == 96
    best = found.at(0.9)
    assert best.recall >= 0.9 and best.pareto and all(p.work >= best.work for p in found if p.recall >= 0.9)
    assert found.at(0.9, "exact") is found[0] and found.at(1.1) is None
    for p in found:
        beaten = [o for o in found if o.recall >= p.recall and o.work < p.work]
        assert p.pareto == (not beaten)
    assert "candidates=400" in str(found) and len(str(found).splitlines()) == 8
    recalls = [p.recall for p in found.pareto()]
    assert recalls == sorted(recalls)
    choice = recommend(X, 0.9, k=5, indexes=indexes, metric="l2")
    assert choice.recall >= 0.9 and choice.work < 3000
    plain = recommend((500, 8), 0.99, memory=32.5, indexes=indexes, metric="l2")
    assert plain.family == "exact"
    # The budget is over: only what had begun is there.
    assert len(compare_indexes(X, Q, 5, indexes, 1e-9, metric="l2")) == 1
    assert set(default_indexes(5000, 16, "ip")) >= {"SimHash", "RandomProjectionForest", "HNSW", "IVF", "IVFPQ"}


def test_bad_input():
    index = SimHash(4, 2).build(X)
    for call, word in (
        (lambda: SimHash(0), "bits"),
        (lambda: SimHash(32), "bits"),
        (lambda: SimHash(tables=0), "tables"),
        (lambda: index.query(Q, 3, probes=0), "probes"),
        (lambda: RandomProjectionForest(0), "trees"),
        (lambda: RandomProjectionForest(split="axis"), "split"),
        (lambda: RandomProjectionForest().build(X).query(Q, candidates=0), "candidates"),
        (lambda: hit_probability(4.0, 3), "angle"),
        (lambda: tables_needed(math.pi, 3, 0.5), "angle"),
        (lambda: tables_needed(0.5, 3, 1.0), "probability"),
        (lambda: compare_indexes(X, Q, budget_s=0), "budget"),
        (lambda: compare_indexes(X, Q, metric="l1"), "metric"),
        (lambda: compare_indexes(X, Q, indexes={"a": (SimHash(metric="l2"), None, ())}), "metric"),
        (lambda: recommend(X, 0.0), "recall"),
        (lambda: recommend(X[:3], indexes={}), "hold one out"),
        (lambda: recommend(X, 0.9, memory=1.0, indexes={}), "not reached"),
        (lambda: SimHash(4, 2).query(Q), "empty"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="option"):
        index.query(Q, 3, ef=4)
