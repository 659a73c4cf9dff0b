"""MultiVectorIndex: exhaustive answers, work counted, life of an index, filters, restoring, peers inside, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search import MultiVectorIndex, chamfer, count_distances, token_sets


@pytest.fixture
def corpus():
    return token_sets(120, tokens=10, dim=16, queries=8, query_tokens=6, noise=1.0, ragged=True, generator=0)


def small(**options):
    return MultiVectorIndex(repetitions=8, bits=3, proj_dim=8, **options)


def part(corpus, first, last):
    a, b = corpus.offsets[first], corpus.offsets[last]
    return corpus.tokens[a:b], corpus.offsets[first : last + 1] - a


def test_all_candidates_give_the_exhaustive_answer(corpus):
    index = small().build(corpus.documents)
    with count_distances() as count:
        hits = index.query(corpus.queries, k=5, candidates=120)
    exact = chamfer(corpus.queries, corpus.documents)
    order = np.argsort(-exact, axis=1)[:, :5]
    assert np.array_equal(hits.ids, order)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(exact, order, 1), rtol=1e-5)
    assert hits.evaluations.tolist() == [6 * len(corpus.tokens)] * 8 and hits.scanned.tolist() == [120] * 8
    assert (count.queries, count.evaluations, count.scanned) == (8, 48 * len(corpus.tokens), 960)
    assert len(index) == 120 and index.dim == 16 and index.nbytes > corpus.tokens.nbytes


def test_fewer_candidates_are_those_of_the_encodings(corpus):
    index = small().build(corpus.documents)
    hits = index.query(corpus.queries, k=3, candidates=10)
    f = search.fixed_dimensional_encoding(*corpus.queries, "query", repetitions=8, bits=3, proj_dim=8)
    g = search.fixed_dimensional_encoding(*corpus.documents, repetitions=8, bits=3, proj_dim=8)
    near = np.argsort(-f @ g.T, axis=1)[:, :10]
    exact = chamfer(corpus.queries, corpus.documents, near)
    wanted = np.take_along_axis(near, np.argsort(-exact, axis=1)[:, :3], 1)
    assert np.array_equal(hits.ids, wanted)
    sizes = np.diff(corpus.offsets)
    assert hits.evaluations.tolist() == (6 * sizes[near].sum(1)).tolist()


def test_one_query_kinds_and_padding(corpus):
    index = small().build(corpus.documents, ids=[f"d{i}" for i in range(120)])
    one = index.query(corpus.query_tokens[:6], k=4)
    assert one.ids.shape == (4,) and one.ids[0] == f"d{corpus.relevant[0]}" and one.evaluations.shape == ()
    tensors = index.query(torch.from_numpy(corpus.query_tokens[:6]), k=4)
    assert isinstance(tensors.scores, torch.Tensor) and isinstance(tensors.ids, np.ndarray)
    few = index.query(corpus.queries, k=5, allowed=["d3", "d7"])
    assert few.counts.tolist() == [2] * 8 and few.ids[0, 2] is None and few.scores[0, 2] == -np.inf
    assert {*few.ids[0, :2]} == {"d3", "d7"}


def test_add_remove_filter_compact(corpus):
    whole = small().build(corpus.documents)
    grown = small().add(part(corpus, 0, 50)).add(part(corpus, 50, 120))
    expected, found = (i.query(corpus.queries, k=5, candidates=30) for i in (whole, grown))
    assert np.array_equal(expected.ids, found.ids)
    gone = np.unique(found.ids[:, 0])
    assert grown.remove(gone) == len(gone) and len(grown) == 120 - len(gone)
    mask = np.ones(120, bool)
    mask[gone] = False
    after = grown.query(corpus.queries, k=5, candidates=120)
    assert np.array_equal(after.ids, whole.query(corpus.queries, k=5, candidates=120, allowed=mask).ids)
    assert not np.isin(after.ids, gone).any()
    grown.compact()
    assert np.array_equal(grown.query(corpus.queries, k=5, candidates=120).ids, after.ids)
    assert grown.nbytes < whole.nbytes and len(grown) == 120 - len(gone)
    with pytest.raises(KeyError):
        grown.remove(gone[:1])
    grown.remove(np.setdiff1d(np.arange(120), gone))
    assert len(grown.compact()) == 0
    assert len(grown.add(part(corpus, 0, 50))) == 50


def test_restored_answers_are_the_same(corpus):
    index = small(dtype="float16", final_dim=256, generator=7).build(corpus.documents, ids=np.arange(120) * 3 + 1)
    index.remove([4])
    settings = json.loads(json.dumps(index.settings()))
    arrays = {name: np.array(part) for name, part in index.arrays().items()}
    again = MultiVectorIndex.restore(settings, arrays)
    for options in ({}, {"allowed": [1, 7, 10]}, {"carve": 0.5}):
        a, b = (i.query(corpus.queries, k=5, candidates=20, **options) for i in (index, again))
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.scores, b.scores)
    again.add(part(corpus, 0, 2), ids=[2, 5])
    assert len(again) == 121 and len(MultiVectorIndex.restore(small().settings(), {})) == 0
    with pytest.raises(ValueError, match="fit together"):
        MultiVectorIndex.restore({**settings, "final_dim": 128}, arrays)
    with pytest.raises(ValueError, match="no index"):
        MultiVectorIndex.restore({**settings, "index": {"kind": "count_distances"}}, arrays)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_shorter_tokens(corpus, dtype):
    exact = small().build(corpus.documents).query(corpus.queries, k=1, candidates=40)
    found = small(dtype=dtype).build(corpus.documents).query(corpus.queries, k=1, candidates=40)
    assert (exact.ids == found.ids).mean() > 0.8
    np.testing.assert_allclose(exact.scores, found.scores, rtol=0.03)


def test_balls_score_fewer_pairs(corpus):
    index = small().build(corpus.documents)
    repeated = np.repeat(corpus.query_tokens.reshape(8, 6, 16), 3, axis=1)
    plain, carved = (index.query(repeated, k=3, candidates=30, carve=c) for c in (None, 0.999))
    assert (plain.evaluations == 3 * carved.evaluations).all() and np.array_equal(plain.ids, carved.ids)
    np.testing.assert_allclose(plain.scores, carved.scores, rtol=1e-5)


@pytest.mark.parametrize("kind", ["HNSW", "IVFPQ", "IVF"])
def test_over_other_indexes(corpus, kind):
    if kind not in search.__all__:
        pytest.skip(f"{kind} is not there")
    made = {"HNSW": dict(), "IVFPQ": dict(lists=4, m=16, bits=4), "IVF": dict(lists=4)}[kind]
    index = small(index=getattr(search, kind)(metric="ip", **made)).build(corpus.documents)
    exact = small().build(corpus.documents).query(corpus.queries, k=1, candidates=60)
    hits = index.query(corpus.queries, k=1, candidates=60)
    assert (hits.ids == exact.ids).mean() >= 0.75
    again = MultiVectorIndex.restore(index.settings(), index.arrays())
    assert np.array_equal(again.query(corpus.queries, k=1, candidates=60).ids, hits.ids)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda c: small(index=object()), ValueError, "VectorIndex"),
        (lambda c: small(dtype="float8"), ValueError, "dtype"),
        (lambda c: small(generator=None), TypeError, "share"),
        (lambda c: small().query(c.queries), ValueError, "empty"),
        (lambda c: small().build(c.tokens), ValueError, "several"),
        (lambda c: small().build(c.documents, ids=[1]), ValueError, "ids"),
        (lambda c: small().build(c.documents).add(c.documents, ids=np.arange(120)), ValueError, "already"),
        (lambda c: small().build(c.documents).add((c.tokens[:, :4], c.offsets)), ValueError, "length 16"),
        (lambda c: small().build(c.documents).query(c.queries, k=0), ValueError, "k must"),
        (lambda c: small().build(c.documents).query(c.queries, candidates=0), ValueError, "candidates"),
        (lambda c: small().build(c.documents).query(c.queries, carve=2.0), ValueError, "carve"),
        (lambda c: small().build(c.documents).query(c.queries, depth=3), TypeError, "depth"),
        (lambda c: small().build(c.documents).query(c.queries, allowed=np.ones(3, bool)), ValueError, "allowed"),
        (lambda c: small().build(c.documents).query(c.query_tokens[:, :5]), ValueError, "length 16"),
        (lambda c: small().restore({"kind": "HNSW"}, {}), ValueError, "MultiVectorIndex"),
    ],
)
def test_bad_input(corpus, call, error, word):
    with pytest.raises(error, match=word):
        call(corpus)


def test_a_failed_add_changes_nothing(corpus):
    index = small(dtype="float16").build(part(corpus, 0, 20))
    before = index.query(corpus.queries, k=5)
    tokens, offsets = part(corpus, 20, 30)
    with pytest.raises(ValueError, match="65504"):
        index.add((tokens * 1e6, offsets))
    assert len(index) == 20 and np.array_equal(index.query(corpus.queries, k=5).ids, before.ids)
    assert len(index.add((tokens, offsets))) == 30
