"""Queries of an index on disk through its search structures: recall, filters, deletions, and who corrects them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from resolvent import search
from resolvent.search import F
from resolvent.search.query import query
from resolvent.search.store_recall import measure_recall

N, DIM = 6000, 16


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A graph over 5000 rows, 700 rows that came later in files, 300 in the buffer, and 600 deleted."""
    g = np.random.default_rng(0)
    centres = g.normal(size=(30, DIM)) * 2
    x = (centres[g.integers(0, 30, N)] + g.normal(size=(N, DIM))).astype(np.float32)
    label = g.permutation(N)
    index = search.create(
        tmp_path_factory.mktemp("built") / "x", vectors={"v": search.Dense(DIM, metric="l2")}, payload={"label": int}
    )
    index.add(range(5000), v=x[:5000], payload={"label": label[:5000].tolist()})
    index.build("v", search.HNSW(M=12, ef_construction=60), min_rows=1000)
    index.add(range(5000, 5700), v=x[5000:5700], payload={"label": label[5000:5700].tolist()})
    index.add(range(5700, N), v=x[5700:], payload={"label": label[5700:].tolist()})
    dead = g.choice(N, 600, replace=False)
    index.delete(dead.tolist())
    live = np.ones(N, bool)
    live[dead] = False
    q = (x[g.integers(0, N, 20)] + 0.3 * g.normal(size=(20, DIM))).astype(np.float32)
    yield {"index": index, "x": x, "q": q, "label": label, "live": live}
    index.close()


def recall(data, hits, allowed, k):
    want = search.exact_search(data["x"], data["q"], k, "l2", allowed=allowed).ids
    true = [set(row[row >= 0].tolist()) for row in want]
    return np.mean([len(t & set(i.tolist())) / max(1, len(t)) for t, i in zip(true, hits.ids, strict=True)])


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.0005])
@pytest.mark.parametrize("method", ["auto", "hnsw", "exact"])
def test_recall_under_filters(built, share, method):
    where = None if share == 1 else F.label < int(share * N)
    allowed = built["live"] & (built["label"] < share * N)
    hits = query(built["index"].snapshot(), 10, where=where, method=method, v=built["q"])
    assert hits.counts.tolist() == [min(10, allowed.sum())] * 20
    assert allowed[hits.ids[hits.scores > -np.inf]].all()
    assert recall(built, hits, allowed, 10) >= (1.0 if method == "exact" else 0.95)
    assert all(len(set(row.tolist())) == 10 for row in hits.ids if allowed.sum() >= 10)


def test_the_graph_is_used_and_works_less_than_a_scan(built):
    hits = query(built["index"].snapshot(), 10, v=built["q"][:4], ef=40)
    plan = hits.explain["fields"]["v"]
    assert plan["methods"].get("hnsw") == 1 and not hits.explain["exact"]
    assert hits.evaluations.mean() < 0.5 * built["live"].sum()
    exact = query(built["index"].snapshot(), 10, v=built["q"][:4], method="exact")
    assert exact.explain["exact"] and (exact.evaluations == built["live"].sum()).all()


def test_a_wider_beam_finds_more(built):
    found = [
        recall(built, query(built["index"].snapshot(), 10, v=built["q"], method="hnsw", ef=ef), built["live"], 10)
        for ef in (10, 40, 160)
    ]
    assert found[0] <= found[1] <= found[2] and found[2] >= 0.99


def test_more_than_there_are(built):
    hits = query(built["index"].snapshot(), N + 50, v=built["q"][:2], method="hnsw")
    assert hits.counts.tolist() == [built["live"].sum()] * 2
    assert len(set(hits.ids[0][: hits.counts[0]].tolist())) == hits.counts[0]


def test_measured_recall(built):
    found = measure_recall(built["index"].snapshot(), n_queries=30, method="hnsw", ef=60)
    assert 0.95 <= found.recall <= 1.0 and found.worst <= found.recall
    assert found.evaluations < 0.6 * found.exact_evaluations
    poor = measure_recall(built["index"].snapshot(), n_queries=30, method="hnsw", ef=11)
    assert poor.recall <= found.recall and poor.evaluations < found.evaluations


@pytest.mark.parametrize("share", [1.0, 0.3, 0.02])
def test_lists_that_come_back_short_look_further(tmp_path, share):
    g = np.random.default_rng(1)
    x, q = g.normal(size=(4000, 8)).astype(np.float32), g.normal(size=(6, 8)).astype(np.float32)
    near = np.argsort(np.argsort(x @ q[0]))
    with search.create(tmp_path / "x", vectors={"v": search.Dense(8)}, payload={"rank": int}) as index:
        index.add(range(4000), v=x, payload={"rank": near.tolist()})
        index.build("v", search.IVF(lists=40), min_rows=100)
        # Only what lies far from the first query matches: its lists hold none of it.
        hits = query(index.snapshot(), 50, where=F.rank < int(4000 * share), method="ivf", probes=1, v=q)
        assert hits.counts.tolist() == [min(50, int(4000 * share))] * 6
        assert hits.explain["fields"]["v"]["methods"] == {"ivf": 1}


def test_words_and_token_sets_through_their_structures(tmp_path):
    g = np.random.default_rng(2)
    n = 5200
    words = scipy.sparse.random(n, 200, 0.03, format="csr", random_state=0, dtype=np.float32)
    topics = g.normal(size=(40, 3, 8))
    tokens = (topics[g.integers(0, 40, n)] + 0.2 * g.normal(size=(n, 3, 8))).astype(np.float32)
    with search.create(tmp_path / "x", vectors={"w": search.Sparse(200), "t": search.MultiVector(8)}) as index:
        index.add(range(n), w=words, t=tokens)
        index.compact("full")
        snapshot = index.snapshot()
        hits = query(snapshot, 10, w=words[:8])
        scores = (words[:8] @ words.T).toarray()
        assert np.allclose(hits.scores, -np.sort(-scores, axis=1)[:, :10], atol=1e-5)
        assert hits.explain["fields"]["w"]["methods"] == {"sparse": 1} and hits.explain["exact"]
        asked = tokens[:8] + 0.1
        with search.count_distances() as count:
            found = query(snapshot, 10, t=asked)
        assert count.evaluations == found.evaluations.sum() and count.queries == 8
        exact = query(snapshot, 10, t=asked, method="exact")
        assert found.explain["fields"]["t"]["methods"] == {"fde": 1} and exact.explain["exact"]
        assert (found.evaluations < 0.1 * exact.evaluations).all()
        assert np.mean([len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), exact.ids.tolist(), strict=True)]) >= 8
