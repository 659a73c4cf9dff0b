"""Queries of an index on disk, from end to end, against what a dictionary and NumPy say."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent import search
from resolvent.search import F, fuse
from resolvent.search.filters import evaluate
from resolvent.search.query import query
from resolvent.search.store_recall import measure_recall

N, DIM, TERMS = 400, 8, 30
TYPES = {"price": "float", "lang": "str", "stock": "int", "added": "datetime", "tags": "tags"}


def made_data(seed=0):
    g = np.random.default_rng(seed)
    lexical = scipy.sparse.csr_matrix(g.random((N, TERMS)) * (g.random((N, TERMS)) < 0.15), dtype=np.float32)
    payload = [
        {
            "price": None if g.random() < 0.1 else float(g.integers(0, 50)),
            "lang": str(g.choice(["de", "en", "fr"])),
            "stock": int(g.integers(0, 5)),
            "added": dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=int(g.integers(0, 100))),
            "tags": [str(t) for t in g.choice(["new", "old", "red"], g.integers(0, 3), replace=False)],
        }
        for _ in range(N)
    ]
    return {
        "text": g.normal(size=(N, DIM)).astype(np.float32),
        "lex": lexical,
        "tokens": [g.normal(size=(int(t), 4)).astype(np.float32) for t in g.integers(1, 6, N)],
        "payload": payload,
    }


@pytest.fixture(scope="module", params=["ints", "texts"])
def shop(request, tmp_path_factory):
    data = made_data()
    ids = [f"item {i}" for i in range(N)] if request.param == "texts" else [5 * i - 1 for i in range(N)]
    index = search.create(
        tmp_path_factory.mktemp("shop") / "index",
        vectors={
            "text": search.Dense(DIM, metric="cosine"),
            "lex": search.Sparse(TERMS),
            "tokens": search.MultiVector(4),
        },
        payload={"price": float, "lang": str, "stock": int, "added": "datetime", "tags": list[str]},
        window=["price"],
    )
    for a, b in ((0, 150), (150, 151), (151, N)):
        own = {"text": data["text"][a:b], "lex": data["lex"][a:b], "tokens": data["tokens"][a:b]}
        index.add(ids[a:b], payload=data["payload"][a:b], **own)
    gone = [ids[3], ids[200], ids[399]]
    index.delete(gone)
    data |= {"ids": ids, "live": np.array([i not in gone for i in ids]), "index": index}
    yield data
    index.close()


def cosines(data, q):
    x = data["text"] / np.linalg.norm(data["text"], axis=1, keepdims=True)
    return np.atleast_2d(q) / np.linalg.norm(np.atleast_2d(q), axis=1, keepdims=True) @ x.T


def ranked(data, scores, allowed, k):
    """Ids and scores of the best allowed items, by a sort."""
    order = [i for i in np.argsort(-scores, kind="stable") if allowed[i]][:k]
    return [data["ids"][i] for i in order], scores[order]


def true_ids(hits, one):
    return [i for i, s in zip(hits.ids[one].tolist(), hits.scores[one].tolist(), strict=True) if s > -np.inf]


FILTERS = [
    None,
    F.price < 10,
    (F.lang == "de") & (F.stock >= 2),
    F.tags.contains("new") | F.price.is_null(),
    ~F.price.between(10, 30),
    F.added > dt.datetime(2024, 3, 1),
    F.lang == "xx",
]


@pytest.mark.parametrize("where", FILTERS, ids=repr)
@pytest.mark.parametrize("k", [1, 10, 500])
def test_dense_queries_with_filters(shop, where, k):
    q = np.random.default_rng(7).normal(size=(3, DIM))
    hits = query(shop["index"].snapshot(), k, where=where, text=q)
    allowed = shop["live"] & [where is None or evaluate(where, row, TYPES) for row in shop["payload"]]
    assert hits.ids.shape == hits.scores.shape == (3, k) and hits.counts.tolist() == [min(k, allowed.sum())] * 3
    for one, scores in enumerate(cosines(shop, q)):
        ids, best = ranked(shop, scores, allowed, k)
        assert true_ids(hits, one) == ids
        assert np.allclose(hits.scores[one][: len(ids)], best, atol=1e-5)
    assert hits.explain["matches"] == allowed.sum() and hits.explain["exact"]


def test_payload_of_the_hits(shop):
    hits = query(shop["index"].snapshot(), 3, text=shop["text"][:2], where=F.stock == 1)
    for one, records in enumerate(hits.payload()):
        for i, record in zip(true_ids(hits, one), records, strict=True):
            want = shop["payload"][shop["ids"].index(i)]
            assert record == {**want, "tags": sorted(want["tags"])}
    single = query(shop["index"].snapshot(), 3, text=shop["text"][0])
    assert isinstance(single.payload()[0], dict) and len(single.payload()) == 3


def test_sparse_queries(shop):
    q = shop["lex"][[5, 9]]
    snapshot = shop["index"].snapshot()
    hits = query(snapshot, 20, lex=q)
    scores = (shop["lex"] @ q.T).toarray().T
    for one in range(2):
        ids, best = ranked(shop, scores[one], shop["live"] & (scores[one] > 0), 20)
        assert np.allclose(hits.scores[one][: len(ids)], best, atol=1e-6) and len(true_ids(hits, one)) == len(ids)
    as_dict = query(snapshot, 20, lex={int(i): float(v) for i, v in zip(q[0].indices, q[0].data, strict=True)})
    as_array = query(snapshot, 20, lex=q.toarray()[0])
    assert as_dict.ids.tolist() == as_array.ids.tolist() == hits.ids[0].tolist()


def test_queries_of_token_sets(shop):
    g = np.random.default_rng(1)
    q = [g.normal(size=(3, 4)).astype(np.float32), g.normal(size=(2, 4)).astype(np.float32)]
    hits = query(shop["index"].snapshot(), 5, tokens=q, where=F.lang != "de")
    allowed = shop["live"] & [row["lang"] != "de" for row in shop["payload"]]
    for one, tokens in enumerate(q):
        scores = np.array([(tokens @ d.T).max(1).sum() for d in shop["tokens"]])
        ids, best = ranked(shop, scores, allowed, 5)
        assert true_ids(hits, one) == ids and np.allclose(hits.scores[one], best, atol=1e-4)
    assert query(shop["index"].snapshot(), 5, tokens=q[0]).ids.shape == (5,)


def test_fusion_by_ranks_is_the_fusion_of_the_single_queries(shop):
    snapshot, q, lex = shop["index"].snapshot(), shop["text"][:4] + 0.3, shop["lex"][:4]
    hits = query(snapshot, 10, text=q, lex=lex)
    apart = fuse({"text": query(snapshot, 100, text=q), "lex": query(snapshot, 100, lex=lex)}, k=10)
    assert hits.ids.tolist() == apart.ids.tolist() and np.allclose(hits.scores, apart.scores)
    assert set(hits.explain["fields"]) == {"text", "lex"}


def test_fusion_by_weights_uses_exact_scores_of_the_union(shop):
    snapshot, q, lex = shop["index"].snapshot(), shop["text"][:2] + 0.3, shop["lex"][:2]
    hits = query(snapshot, 10, text=q, lex=lex, fuse={"lex": 0.4, "text": 0.6})
    mixed = query(snapshot, 10, text=q, lex=lex, fuse=0.7)
    dense, sparse = cosines(shop, q), (shop["lex"] @ lex.T).toarray().T
    for one in range(2):
        found = [query(snapshot, 100, **{name: v[one]}) for name, v in (("text", q), ("lex", lex.toarray()))]
        union = [shop["ids"].index(i) for i in {i for h in found for i in true_ids(_batch(h), 0)}]
        d, s = dense[one][union], sparse[one][union]
        # A document without a word of the query has the score 0, which is known and not missing.
        scaled = 0.6 * (d - d.min()) / np.ptp(d) + 0.4 * (s - s.min()) / np.ptp(s)
        assert np.allclose(hits.scores[one], -np.sort(-scaled)[:10], atol=1e-5)
        plain = d + 0.7 * s
        assert np.allclose(mixed.scores[one], -np.sort(-plain)[:10], atol=1e-5)


def _batch(hits):
    return search.Hits(hits.ids[None], hits.scores[None], hits.evaluations, hits.scanned)


def test_cutoff_by_a_number(shop):
    hits = query(shop["index"].snapshot(), 50, text=shop["text"][:3], cutoff=0.5)
    whole = query(shop["index"].snapshot(), 50, text=shop["text"][:3])
    assert (hits.counts == (whole.scores >= 0.5).sum(1)).all() and (hits.counts < 50).all()
    assert hits.explain["cut"] == 150 - hits.counts.sum()
    assert true_ids(hits, 1) == true_ids(whole, 1)[: hits.counts[1]]


def test_rerank_sees_ids_and_decides_the_order(shop):
    snapshot, place = shop["index"].snapshot(), {i: n for n, i in enumerate(shop["ids"])}
    seen = []

    def scorer(number, ids):
        seen.append((number, len(ids)))
        return [-place[i] for i in ids]

    hits = query(snapshot, 5, text=shop["text"][:2], rerank=scorer, candidates=30)
    wide = query(snapshot, 30, text=shop["text"][:2])
    assert seen == [(0, 30), (1, 30)] and hits.explain["reranked"] == 60
    for one in range(2):
        assert true_ids(hits, one) == sorted(true_ids(wide, one), key=place.get)[:5]


def test_a_learned_cutoff_sees_the_queries(shop):
    class Half:
        def apply(self, hits, *, queries):
            assert queries.shape == (3, DIM)
            keep = np.arange(hits.ids.shape[1]) < hits.ids.shape[1] // 2
            scores = np.where(keep, hits.scores, -np.inf)
            return search.Hits(hits.ids, scores, hits.evaluations, hits.scanned)

    hits = query(shop["index"].snapshot(), 10, text=shop["text"][:3], cutoff=Half())
    assert hits.counts.tolist() == [5, 5, 5] and hits.explain["cut"] == 15


def test_tensors_in_tensors_out(shop):
    hits = query(shop["index"].snapshot(), 3, text=torch.from_numpy(shop["text"][:2]))
    assert isinstance(hits.scores, torch.Tensor) and hits.scores.shape == (2, 3)
    assert isinstance(hits.ids, np.ndarray if isinstance(shop["ids"][0], str) else torch.Tensor)
    assert len(hits.payload()) == 2


def test_work_is_counted(shop):
    with search.count_distances() as count:
        hits = query(shop["index"].snapshot(), 3, text=shop["text"][:2])
    assert count.evaluations == int(hits.evaluations.sum()) == 2 * int(shop["live"].sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a vector for at least one field: text, lex, tokens"),
        ({"colour": [1.0]}, "fields are text, lex, tokens, got 'colour'"),
        ({"text": np.ones(7)}, "text must have 8 columns"),
        ({"text": np.full(DIM, np.nan)}, "text has 8 entries that are NaN"),
        ({"text": np.zeros(DIM)}, "zero vector"),
        ({"text": np.ones(DIM), "k": 0}, "k must be a positive integer, got 0"),
        ({"text": np.ones(DIM), "ef": 0}, "ef must be"),
        ({"text": np.ones(DIM), "method": "magic"}, "method must be one of auto, exact, hnsw"),
        ({"text": np.ones(DIM), "where": F.colour == 1}, "no payload field 'colour'; it has price, lang"),
        ({"text": np.ones(DIM), "where": F.price == "dear"}, "price holds float"),
        ({"text": np.ones(DIM), "cutoff": "high"}, "cutoff must be a number"),
        ({"text": np.ones((2, DIM)), "lex": {1: 1.0}}, "same number of queries"),
        ({"text": np.ones(DIM), "lex": {1: 1.0}, "fuse": {"text": 1.0}}, "must name the fields"),
        ({"text": np.ones(DIM), "lex": {1: 1.0}, "fuse": "sum"}, "fuse must be 'rrf'"),
        ({"lex": {TERMS: 1.0}}, "index 30"),
    ],
)
def test_bad_queries_are_named(shop, options, message):
    with pytest.raises(ValueError, match=message):
        query(shop["index"].snapshot(), **options)


def test_filters_never_starve(tmp_path):
    """lancedb#2762: 644 hits were asked for, 322 rows match the filter, 16 came back."""
    g = np.random.default_rng(0)
    with search.create(tmp_path / "x", vectors={"v": search.Dense(16)}, payload={"half": int}) as index:
        index.add(range(644), v=g.normal(size=(644, 16)), payload={"half": [i % 2 for i in range(644)]})
        hits = query(index.snapshot(), 644, v=g.normal(size=16), where=F.half == 1)
        assert hits.counts == 322 and (hits.ids[:322] % 2 == 1).all() and len(set(hits.ids[:322].tolist())) == 322
        assert (hits.ids[322:] == -1).all() and (hits.scores[322:] == -np.inf).all()


def test_an_empty_index_and_an_emptied_one(tmp_path):
    with search.create(tmp_path / "x", vectors={"v": search.Dense(2), "s": search.Sparse()}) as index:
        for _ in range(2):
            for asked in ({"v": np.ones(2)}, {"s": {0: 1.0}}, {"v": np.ones(2), "s": {0: 1.0}}):
                hits = query(index.snapshot(), 3, **asked)
                assert hits.counts == 0 and hits.ids.shape == (3,) and hits.payload() == []
                assert hits.explain["matches"] == 0
            index.add([1], v=np.ones((1, 2)), s=[{0: 1.0}])
            index.delete([1])


def test_minus_one_is_an_id_like_any_other(tmp_path):
    with search.create(tmp_path / "x", vectors={"v": search.Dense(2)}) as index:
        index.add([-1, 7], v=np.eye(2))
        hits = query(index.snapshot(), 3, v=np.array([1.0, 0.5]))
        assert hits.ids.tolist() == [-1, 7, -1] and hits.counts == 2


def test_a_snapshot_answers_as_of_its_time(tmp_path):
    with search.create(tmp_path / "x", vectors={"v": search.Dense(2)}, payload={"n": int}) as index:
        index.add([1, 2], v=np.eye(2), payload={"n": [1, 2]})
        before = index.snapshot()
        index.upsert([1], v=np.array([[0.0, 9.0]]), payload={"n": [10]})
        old, new = (query(s, 1, v=np.array([0.0, 1.0])) for s in (before, index.snapshot()))
        assert old.ids.tolist() == [2] and new.ids.tolist() == [1]
        assert old.payload() == [{"n": 2}] and new.payload() == [{"n": 10}]


def test_records_without_a_vector_in_one_field(tmp_path):
    with search.create(tmp_path / "x", vectors={"a": search.Dense(2), "b": search.Dense(2)}) as index:
        index.add([1, 2], a=np.eye(2))
        index.add([3], b=np.eye(2)[:1])
        index.add([4], a=np.ones((1, 2)), b=np.ones((1, 2)))
        assert query(index.snapshot(), 5, b=np.ones(2)).counts == 2
        assert query(index.snapshot(), 5, a=np.ones(2), b=np.ones(2)).counts == 4
        assert query(index.snapshot(), 5, a=np.ones(2), b=np.ones(2), fuse={"a": 1, "b": 1}).counts == 4


def test_measured_recall_of_a_scan_is_one(shop):
    found = measure_recall(shop["index"].snapshot(), n_queries=20)
    assert found.recall == found.worst == 1.0 and found.queries == 20
    assert found.evaluations == found.exact_evaluations == shop["live"].sum()
    given = measure_recall(shop["index"].snapshot(), "text", np.ones((2, DIM)), where=F.price < 10)
    assert given.recall == 1.0 and given.queries == 2
    with pytest.raises(ValueError, match="dense fields text"):
        measure_recall(shop["index"].snapshot(), "lex")
