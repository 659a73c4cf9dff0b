"""The walk of an HNSW query: gaps against NumPy, one query against a batch, routes, plans of filters, rows removed."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from resolvent import search
from resolvent.search.hnsw_gap_kernel import fetch, gap
from resolvent.search.hnsw_query import Walk, plain_queries
from resolvent.search.index import as_queries
from resolvent.search.kernel import kernel_scale, kernel_view
from resolvent.search.vectors import Vectors


def cloud(n, dim=24, seed=0):
    g = np.random.default_rng(seed)
    centres = g.normal(size=(40, dim))
    return (centres[g.integers(0, 40, n)] + 0.5 * g.normal(size=(n, dim))).astype(np.float32)


X, Q = np.split(cloud(8060), [8000])


@pytest.fixture(scope="module")
def built():
    return search.HNSW(metric="l2").build(X)


@njit
def _gaps(q, number, rows, l2, out):
    for i in range(out.shape[0]):
        if i + 1 < out.shape[0]:
            fetch(rows[0], i + 1)
        out[i] = gap(q, number, rows, l2, i)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("dim", [3, 64, 117])
def test_gaps_of_stored_rows(dtype, dim):
    g = np.random.default_rng(dim)
    vectors = Vectors.of(g.normal(size=(20, dim)).astype(np.float32), dtype)
    q, lift = g.normal(size=dim).astype(np.float32), g.random(20).astype(np.float32)
    stored, out = vectors.rows(np.arange(20)).astype(np.float64), np.empty(20, np.float32)
    for own in (np.empty(0, np.float32), lift):
        rows = kernel_view(vectors), kernel_scale(vectors), own
        _gaps(q, np.float32(0.5), rows, False, out)
        np.testing.assert_allclose(out, -stored @ q - (0.5 * own if len(own) else 0), rtol=1e-4, atol=1e-4)
        _gaps(q, np.float32(0.5), rows, True, out)
        np.testing.assert_allclose(out, ((stored - q) ** 2).sum(1), rtol=1e-4)


def test_gaps_of_codes():
    g = np.random.default_rng(0)
    vectors = Vectors.of(g.normal(size=(20, 45)).astype(np.float32), "int8")
    q, unit = g.integers(-3000, 3000, 45).astype(np.int16), 1e-3
    rows, out = (vectors.data, vectors.scale, vectors.square), np.empty(20, np.float32)
    stored = vectors.rows(np.arange(20)).astype(np.float64)
    _gaps(q, np.float32(unit), rows, False, out)
    np.testing.assert_allclose(out, -unit * stored @ q, rtol=1e-4, atol=1e-4)
    _gaps(q, np.float32(unit), rows, True, out)
    # |q|^2 is the same for all rows and left out.
    np.testing.assert_allclose(out + (unit * q) @ (unit * q), ((stored - unit * q) ** 2).sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first_stage", [None, "int8"])
def test_a_query_has_the_same_answer_alone_and_in_a_batch_in_any_order(first_stage):
    index = search.HNSW(metric="l2", first_stage=first_stage).build(X)
    order = np.random.default_rng(0).permutation(len(Q))
    batch, turned = index.query(Q, 10, ef=20), index.query(Q[order], 10, ef=20)
    np.testing.assert_array_equal(batch.ids[order], turned.ids)
    np.testing.assert_array_equal(batch.evaluations[order], turned.evaluations)
    for i in (0, 7, 31):
        np.testing.assert_array_equal(batch.ids[i], index.query(Q[i], 10, ef=20).ids)


def test_walks_come_down_in_the_right_cluster():
    # Clusters far apart: a walk that comes down in the wrong one finds nothing, whatever `ef` is.
    g = np.random.default_rng(0)
    centres = 20 * g.normal(size=(300, 16))
    x = (centres[g.integers(0, 300, 9300)] + g.normal(size=(9300, 16))).astype(np.float32)
    index, q = search.HNSW(M=8, metric="l2").build(x[:9000]), x[9000:]
    truth = search.exact_search(x[:9000], q, 10, "l2").ids
    hits = (index.query(q, 10, ef=20).ids[:, :, None] == truth[:, None, :]).any(1).sum(1)
    assert (hits == 0).mean() <= 0.02


@pytest.mark.parametrize(
    ("share", "plan"), [(0.05, "scan of the matches"), (0.33, "walk over the matches"), (0.9, "walk, then filter")]
)
def test_filters_reach_their_recall_by_every_plan(built, monkeypatch, share, plan):
    allowed = np.random.default_rng(1).random(len(X)) < share
    if plan == "walk over the matches":
        monkeypatch.setattr(Walk, "_choose", lambda self, n: plan)
    hits = built.query(Q, 10, allowed=allowed, ef=40)
    truth = search.exact_search(X, Q, 10, "l2", allowed=allowed).ids
    assert hits.explain["plan"] == plan
    assert allowed[hits.ids].all()
    assert (hits.ids[:, :, None] == truth[:, None, :]).any(2).mean() >= 0.97


def test_a_walk_that_met_too_few_matches_gets_more_places_before_all_are_scanned(built):
    # All matches lie far from the query.
    far = np.argsort(((X - Q[0]) ** 2).sum(1))[4000:]
    allowed = np.zeros(len(X), bool)
    allowed[far] = True
    hits = built.query(Q[0], 10, allowed=allowed, ef=10)
    truth = search.exact_search(X, Q[0], 10, "l2", allowed=allowed).ids
    assert hits.explain["plan"] == "walk, then filter" and (hits.scores > -np.inf).all()
    assert allowed[hits.ids].all() and len(set(hits.ids.tolist()) & set(truth.tolist())) >= 8


def test_removed_rows_are_not_found_before_and_after_files_and_growth():
    index = search.HNSW(metric="l2").build(X[:3000])
    gone = index.query(Q[0], 5).ids
    index.remove(gone)
    again = search.HNSW.restore(index.settings(), index.arrays())
    for each in (index, again):
        assert not set(each.query(Q[0], 5).ids.tolist()) & set(gone.tolist())
    again.add(X[3000:3100])
    assert not set(again.query(Q[0], 5).ids.tolist()) & set(gone.tolist())
    assert len(set(again.compact().query(Q[0], 5).ids.tolist())) == 5


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_plain_queries_are_what_the_checks_would_give(metric):
    np.testing.assert_allclose(plain_queries(Q, 24, metric), as_queries(Q, 24, metric), rtol=1e-6)
    assert plain_queries(Q[0], 24, metric).shape == (1, 24)
    spoiled = Q.copy()
    spoiled[3, 4] = np.nan
    for q in (spoiled, Q.astype(np.float64), Q[:, :5], 1e20 * Q, 0 * Q, Q[:, ::-1], Q.tolist(), Q[:0]):
        assert plain_queries(q, 24, metric) is None
