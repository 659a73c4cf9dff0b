"""The exhaustive search against sorted tables of scores in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search.exact import merge, top_rows
from resolvent.search.vectors import Vectors

METRICS = ("ip", "cosine", "l2")


def table(x, q, metric):
    x, q = np.asarray(x, np.float64), np.asarray(q, np.float64)
    if metric == "l2":
        return -((q[:, None] - x[None]) ** 2).sum(-1)
    if metric == "cosine":
        x, q = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, q))
    return q @ x.T


@pytest.fixture(scope="module")
def data():
    r = np.random.default_rng(0)
    return r.normal(size=(3000, 24)).astype(np.float32), r.normal(size=(40, 24)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_it_finds_what_sorting_finds(data, metric, k):
    x, q = data
    scores = table(x, q, metric)
    order = np.argsort(-scores, axis=1)[:, :k]
    hits = search.exact_search(x, q, k, metric)
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32
    assert (hits.ids == order).all()
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, order, 1), rtol=1e-5, atol=1e-5)
    assert (hits.evaluations == len(x)).all() and (hits.scanned == 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_one_query_is_a_row_of_many(data, metric):
    x, q = data
    many, one = search.exact_search(x, q, 7, metric), search.exact_search(x, q[3], 7, metric)
    assert one.ids.shape == (7,) and np.ndim(one.evaluations) == 0
    assert (one.ids == many.ids[3]).all()


@pytest.mark.parametrize("block", [1, 7, 1000, 10_000])
def test_blocks_change_nothing(data, block):
    x, q = data
    assert (search.exact_search(x, q, 9, "l2", block=block).ids == search.exact_search(x, q, 9, "l2").ids).all()


def test_distances_far_from_the_origin_keep_their_digits(data):
    x, q = data[0] + 1000, data[1] + 1000
    scores = table(x, q, "l2")
    hits = search.exact_search(x, q, 10, "l2")
    assert (hits.ids == np.argsort(-scores, axis=1)[:, :10]).all()
    np.testing.assert_allclose(hits.scores, np.sort(-scores, axis=1)[:, :10] * -1, rtol=1e-4)


def test_more_than_there_are_pads(data):
    hits = search.exact_search(data[0][:5], data[1], 8)
    assert (hits.ids[:, 5:] == -1).all() and np.isneginf(hits.scores[:, 5:]).all() and (hits.counts == 5).all()


@pytest.mark.parametrize("queries", [1, 40])
def test_an_empty_table_has_no_hits(queries):
    hits = search.exact_search(np.empty((0, 4)), np.ones((queries, 4)), 2)
    assert (hits.ids == -1).all() and (hits.counts == 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("queries", [1, 40])
def test_only_what_is_allowed_is_found(data, metric, queries):
    x, q = data[0], data[1][:queries]
    allowed = np.random.default_rng(1).random(len(x)) < 0.01
    scores = table(x, q, metric)
    scores[:, ~allowed] = -np.inf
    hits = search.exact_search(x, q, 50, metric, allowed=allowed)
    n = int(allowed.sum())
    assert n < 50 and (hits.counts == n).all() and (hits.evaluations == n).all()
    assert (hits.ids[:, :n] == np.argsort(-scores, axis=1)[:, :n]).all()


@pytest.mark.parametrize("queries", [1, 40])
def test_of_equal_scores_the_earlier_row_comes_first(queries):
    hits = search.exact_search(np.ones((50, 3)), np.ones((queries, 3)), 6)
    assert (hits.ids == np.arange(6)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("queries", [1, 40])
def test_stored_formats_are_searched_as_what_they_decode_to(data, dtype, metric, queries):
    x, q = data[0], data[1][:queries]
    kept = Vectors.of(x, dtype)
    found = top_rows(kept, q, 10, metric)
    scores = table(kept.rows(np.arange(len(x))), q, metric)
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :10], rtol=1e-5, atol=2e-5)


def test_a_scan_of_listed_rows(data):
    x, q = data
    rows = np.array([3, 50, 700, 2999])
    found = top_rows(Vectors.of(x), q, 6, "ip", rows=rows)
    assert set(found.rows[0, :4]) == set(rows.tolist()) and (found.rows[:, 4:] == -1).all()
    assert (found.evaluations == 4).all()


def test_parts_merge_into_the_whole(data):
    x, q = data
    parts = []
    for a in range(0, 3000, 1000):
        part = top_rows(Vectors.of(x[a : a + 1000]), q, 10, "ip")
        parts.append(part._replace(rows=part.rows + a))
    whole = top_rows(Vectors.of(x), q, 10, "ip")
    merged = merge(parts, 10)
    assert (merged.rows == whole.rows).all() and (merged.evaluations == 3000).all()


@pytest.mark.parametrize("metric", METRICS)
def test_range_search_finds_all_above_the_threshold(data, metric):
    x, q = data
    scores = table(x, q, metric)
    threshold = float(np.quantile(scores, 0.99))
    answers = search.range_search(x, q, threshold, metric)
    for i, hits in enumerate(answers):
        sure = np.flatnonzero(scores[i] > threshold + 1e-4)
        assert set(sure) <= set(hits.ids.tolist())
        assert (scores[i][hits.ids] > threshold - 1e-4).all() and (np.diff(hits.scores) <= 0).all()


def test_range_search_respects_allowed_and_empty_answers(data):
    x, q = data
    allowed = np.arange(len(x)) % 2 == 0
    assert all((h.ids % 2 == 0).all() for h in search.range_search(x, q, 5.0, allowed=allowed))
    assert all(len(h.ids) == 0 for h in search.range_search(x, q, 1e9))


@pytest.mark.parametrize("metric", METRICS)
def test_knn_graph_never_lists_the_row_itself(data, metric):
    x = data[0][:300]
    graph = search.knn_graph(x, 5, metric)
    scores = table(x, x, metric)
    np.fill_diagonal(scores, -np.inf)
    assert (graph.ids == np.argsort(-scores, axis=1)[:, :5]).all()


def test_knn_graph_of_copies():
    graph = search.knn_graph(np.ones((4, 2)), 2)
    assert all(i not in row for i, row in enumerate(graph.ids.tolist()))


def test_tensors_come_back_as_tensors(data):
    x, q = map(torch.from_numpy, data)
    hits = search.exact_search(x, q, 3)
    assert isinstance(hits.ids, torch.Tensor) and hits.ids.dtype == torch.int64 and hits.counts.tolist() == [3] * 40


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric", METRICS)
def test_cuda_agrees(data, metric):
    x, q = (torch.from_numpy(a).cuda() for a in data)
    hits = search.exact_search(x, q, 10, metric, block=700)
    assert hits.ids.is_cuda and (hits.ids.cpu().numpy() == search.exact_search(*data, 10, metric).ids).all()


def test_the_path_of_other_devices_agrees(data):
    from resolvent.search.exact import _on_device

    x, q = map(torch.from_numpy, data)
    allowed = np.arange(len(x)) % 3 == 0
    for metric in METRICS:
        found = _on_device(x, q, 10, metric, 700, allowed)
        assert (found.rows == search.exact_search(x, q, 10, metric, allowed=allowed).ids.numpy()).all()


def test_topk_pads_and_skips_what_is_not_there():
    hits = search.topk(np.array([[1.0, -np.inf, 3.0]]), 4)
    assert hits.ids.tolist() == [[2, 0, -1, -1]] and hits.counts.tolist() == [2]


def test_count_distances_sums_over_nested_blocks(data):
    with search.count_distances() as outer:
        search.exact_search(*data, 1)
        with search.count_distances() as inner:
            search.exact_search(data[0], data[1][0], 1)
    assert (inner.queries, inner.evaluations) == (1, 3000)
    assert (outer.queries, outer.evaluations) == (41, 41 * 3000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be a positive integer"),
        ({"k": True}, "k must be a positive integer"),
        ({"metric": "manhattan"}, "metric must be one of"),
        ({"q": np.ones(3)}, "q must have 24 columns"),
        ({"q": np.full(24, np.nan)}, "q has 24 entries that are NaN"),
        ({"x": np.full((2, 24), np.inf)}, "x has 48 entries"),
        ({"x": np.ones(24)}, r"x must have shape \(n, d\)"),
        ({"q": np.zeros(24), "metric": "cosine"}, "q has a zero vector"),
        ({"allowed": np.ones(3, bool)}, "allowed must be a bool for each of the 3000 rows"),
    ],
)
def test_bad_input_is_named(data, change, message):
    arguments = {"x": data[0], "q": data[1], "k": 3} | change
    with pytest.raises(ValueError, match=message):
        search.exact_search(**arguments)


def test_complex_vectors_are_refused(data):
    with pytest.raises(TypeError, match="x must be real"):
        search.exact_search(data[0] * 1j, data[1], 1)


def test_other_bad_input_is_named(data):
    with pytest.raises(ValueError, match="threshold must be a finite number"):
        search.range_search(*data, float("nan"))
    with pytest.raises(ValueError, match="scores has NaN"):
        search.topk(np.array([np.nan, 1.0]), 1)
    with pytest.raises(ValueError, match="scores must have shape"):
        search.topk(np.ones((2, 2, 2)), 1)
