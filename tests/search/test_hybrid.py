"""Fusion and reranking against a dictionary written down from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search import Hits, fuse, rerank


def run(ids, scores, work=0):
    ids = np.array(ids, dtype=object if isinstance(np.ravel(ids)[0], str) else np.int64)
    scores = np.array(scores, np.float32)
    count = np.full(scores.shape[:-1], work)
    return Hits(ids, scores, count, count)


def random_runs(generator, texts, queries=7, lists=3, k=9):
    runs = []
    for _ in range(lists):
        ids = np.stack([generator.permutation(20)[:k] - 1 for _ in range(queries)])
        scores = -np.sort(-generator.normal(size=(queries, k)).round(1), axis=1).astype(np.float32)
        for row in range(queries):
            end = generator.integers(0, k + 1)
            ids[row, end:], scores[row, end:] = -1, -np.inf
        if texts:
            ids = np.array([[f"d{i}" for i in row] for row in ids], dtype=object)
            ids[scores == -np.inf] = None
        runs.append(Hits(ids, scores, np.zeros(queries, np.int64), np.zeros(queries, np.int64)))
    return runs


def lists_of(hits, query):
    ids, scores = hits.ids[query], hits.scores[query]
    return [(i, float(s)) for i, s in zip(ids.tolist(), scores.tolist(), strict=True) if s > -np.inf]


def expected(runs, query, value):
    """What every id scores by `value(list, id)`, summed over the lists."""
    union = {i for r in runs for i, _ in lists_of(r, query)}
    return {i: sum(value(number, lists_of(r, query), i) for number, r in enumerate(runs)) for i in union}


def check(hits, runs, value):
    for query in range(len(hits.ids)):
        want, got = expected(runs, query, value), dict(lists_of(hits, query))
        assert got.keys() == want.keys()
        assert all(abs(got[i] - want[i]) < 1e-5 for i in want)
        assert (np.diff(hits.scores[query][: len(want)]) <= 0).all()


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_reciprocal_ranks(texts, seed):
    runs = random_runs(np.random.default_rng(seed), texts)

    def value(_, found, wanted):
        ids = [i for i, _ in found]
        return 1 / (60 + 1 + ids.index(wanted)) if wanted in ids else 0.0

    check(fuse(runs, k=40), runs, value)


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_weights_of_scaled_scores(texts, seed):
    runs = random_runs(np.random.default_rng(seed), texts)
    weights = [0.5, 2.0, -1.0]

    def value(number, found, wanted):
        if not found or wanted not in dict(found):
            return 0.0
        scores = [s for _, s in found]
        low, high = min(scores), max(scores)
        return weights[number] * (1.0 if high == low else (dict(found)[wanted] - low) / (high - low))

    check(fuse(runs, weights=weights, k=40), runs, value)


@pytest.mark.parametrize("seed", range(5))
def test_dense_plus_weighted_sparse_fills_with_the_smallest_score(seed):
    runs = random_runs(np.random.default_rng(seed), texts=False, lists=2)

    def value(number, found, wanted):
        scores = dict(found)
        return (1.0, 0.3)[number] * scores.get(wanted, min(scores.values(), default=0.0))

    check(fuse(*runs, 0.3, k=40), runs, value)


def test_weight_zero_keeps_the_dense_order_and_a_large_one_the_sparse():
    dense, sparse = run([[1, 2, 3]], [[3.0, 2.0, 1.0]]), run([[3, 2, 1]], [[3.0, 2.0, 1.0]])
    assert fuse(dense, sparse, 0.0).ids.tolist() == [[1, 2, 3]]
    assert fuse(dense, sparse, 100.0).ids.tolist() == [[3, 2, 1]]


def test_one_run_alone_keeps_its_order_under_every_rule():
    alone = run([[5, -1, 7]], [[3.0, 2.0, 1.0]])
    for hits in (fuse([alone]), fuse([alone], weights=[2.0]), fuse({"a": alone}, weights={"a": 1.0})):
        assert hits.ids.tolist() == [[5, -1, 7]] and hits.counts.tolist() == [3]


def test_an_id_that_stands_twice_counts_once_and_ranks_close_up():
    twice, other = run([[4, 4, 5]], [[3.0, 3.0, 1.0]]), run([[6]], [[1.0]])
    found = dict(zip(*(f[0].tolist() for f in (fuse([twice, other]).ids, fuse([twice, other]).scores)), strict=True))
    assert found[4] == pytest.approx(1 / 61) and found[5] == pytest.approx(1 / 62)


def test_lists_without_hits():
    empty = run([[-1, -1]], [[-np.inf, -np.inf]])
    full = run([[1, 2]], [[2.0, 1.0]])
    for hits in (fuse(full, empty), fuse(full, empty, 0.5), fuse([empty, full], weights=[1, 1])):
        assert hits.ids.tolist() == [[1, 2]]
    hits = fuse(empty, empty, 0.5)
    assert hits.counts.tolist() == [0] and hits.ids.tolist() == [[-1, -1]]


def test_equal_scores_go_by_rank_and_then_by_run():
    a, b = run([1, 2], [2.0, 1.0]), run([3, 4], [2.0, 1.0])
    assert fuse(a, b, k=4).ids.tolist() == [1, 3, 2, 4]


def test_kind_shape_and_work_are_kept():
    a, b = run([[1, 2]], [[2.0, 1.0]], work=3), run([[2, 3]], [[2.0, 1.0]], work=4)
    hits = fuse(a, b)
    assert hits.evaluations.tolist() == [7] and hits.scores.dtype == np.float32 and hits.ids.shape == (1, 2)
    as_torch = [Hits(*(torch.as_tensor(f) for f in (r.ids, r.scores, r.evaluations, r.scanned))) for r in (a, b)]
    hits = fuse(*as_torch)
    assert isinstance(hits.ids, torch.Tensor) and hits.ids.dtype == torch.int64 and hits.counts.tolist() == [2]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((run([[1]], [[1.0]]),), {}, "at least two runs"),
        (([],), {}, "at least one run"),
        ((run([[1]], [[1.0]]), run([1], [1.0])), {}, "same queries"),
        ((run([[1]], [[1.0]]), run([[1]], [[1.0]])), {"k": 0}, "k must be"),
        ((run([[1]], [[1.0]]), run([[1]], [[1.0]])), {"constant": -1}, "constant"),
        ((run([[1]], [[1.0]]), run([[1]], [[1.0]]), float("nan")), {}, "weight must be finite"),
        ((run([[1]], [[1.0]]), run([[1]], [[1.0]]), 1.0), {"weights": [1, 1]}, "not both"),
        (([run([[1]], [[1.0]])] * 2,), {"weights": [1]}, "one entry for each"),
        (({"a": run([[1]], [[1.0]])},), {"weights": {"b": 1}}, "name the runs"),
        (([run([[1]], [[1.0]])] * 3, None, 1.0), {}, "mixes two runs"),
    ],
)
def test_bad_input_of_fuse(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fuse(*arguments, **options)


def test_mixed_ids_are_refused():
    with pytest.raises(TypeError, match="one kind of ids"):
        fuse(run([[1]], [[1.0]]), run([["a"]], [[1.0]]))


def test_rerank_by_exact_products_gives_the_exact_order():
    generator = np.random.default_rng(0)
    x, q = generator.normal(size=(500, 12)).astype(np.float32), generator.normal(size=(5, 12)).astype(np.float32)
    exact = search.exact_search(x, q, k=10)
    rough = Hits(np.tile(generator.permutation(500), (5, 1)), np.zeros((5, 500), np.float32), np.zeros(5), np.zeros(5))
    hits = rerank(rough, lambda number, ids: x[ids] @ q[number], k=10)
    assert (hits.ids == exact.ids).all() and np.allclose(hits.scores, exact.scores, atol=1e-5)
    assert hits.explain["reranked"] == 2500


def test_rerank_scores_only_the_top_and_leaves_out_the_rest():
    seen = []
    hits = rerank(run([[1, 2, 3]], [[3.0, 2.0, 1.0]]), lambda q, ids: seen.extend(ids) or -ids, top=2)
    assert seen == [1, 2] and hits.ids.tolist() == [[1, 2]]
    empty = run([[-1]], [[-np.inf]])
    assert rerank(empty, lambda q, ids: 1 / 0).counts.tolist() == [0]


def test_rerank_of_one_query_with_texts():
    hits = rerank(run(["a", "bbb"], [2.0, 1.0]), lambda q, ids: [len(i) + len(q) for i in ids], queries=["xx"])
    assert hits.ids.tolist() == ["bbb", "a"] and hits.scores.tolist() == [5.0, 3.0]


def test_bad_input_of_rerank():
    hits = run([[1, 2]], [[2.0, 1.0]])
    with pytest.raises(ValueError, match="must return 2 numbers"):
        rerank(hits, lambda q, ids: [1.0])
    with pytest.raises(ValueError, match="finite"):
        rerank(hits, lambda q, ids: [1.0, np.nan])
    with pytest.raises(ValueError, match="queries must have one entry"):
        rerank(hits, lambda q, ids: ids, queries=[1, 2])
    with pytest.raises(ValueError, match="top must be"):
        rerank(hits, lambda q, ids: ids, top=0)
    with pytest.raises(TypeError, match="callable"):
        rerank(hits, 3)
