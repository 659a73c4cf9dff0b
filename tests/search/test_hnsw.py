"""HNSW: recall against exact search, the structure of the graph, growth, deletion, filters, formats, files, bad input."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search.hnsw_build import insert_rows
from resolvent.search.hnsw_graph import HNSWGraph


def cloud(n=3000, dim=24, seed=0):
    g = np.random.default_rng(seed)
    centres = g.normal(size=(20, dim))
    return (centres[g.integers(0, 20, n)] + 0.5 * g.normal(size=(n, dim))).astype(np.float32)


X, Q = np.split(cloud(3040), [3000])


def recall(index, x, q, k=10, metric="l2", allowed=None, **options):
    found = index.query(q, k, allowed=allowed, **options)
    truth = search.exact_search(x, q, k, metric, allowed=allowed).ids
    return (found.ids[:, :, None] == truth[:, None, :]).any(2).sum() / max((truth >= 0).sum(), 1)


@pytest.fixture(scope="module")
def built():
    return search.HNSW(metric="l2").build(X)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_recall_and_scores_of_every_metric(metric):
    index = search.HNSW(metric=metric).build(X)
    hits = index.query(Q, 10, ef=100)
    exact = search.exact_search(X, Q, 10, metric)
    assert recall(index, X, Q, metric=metric, ef=100) >= 0.99
    np.testing.assert_allclose(hits.scores[:, 0], exact.scores[:, 0], rtol=1e-5, atol=1e-5)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert hits.evaluations.mean() < len(X) / 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_storage_formats_search_what_they_store(dtype):
    index = search.HNSW(metric="l2", dtype=dtype).build(X)
    stored = index._vectors.rows(np.arange(len(X)))
    assert recall(index, stored, Q, ef=100) >= 0.99


def test_int8_first_stage_returns_exact_scores():
    plain, staged = (search.HNSW(metric="l2", first_stage=f).build(X) for f in (None, "int8"))
    a, b = plain.query(Q, 10, ef=80), staged.query(Q, 10, ef=80)
    assert recall(staged, X, Q, ef=80) >= recall(plain, X, Q, ef=80) - 0.01
    np.testing.assert_allclose(a.scores[:, 0], b.scores[:, 0], rtol=1e-6)
    assert (b.scanned > b.evaluations).all() and (b.evaluations <= 80).all() and (a.scanned == 0).all()
    assert (staged.query(Q, 5, ef=80, rerank=5).evaluations == 5).all()


def test_links_are_legal_two_way_sized_and_without_copies(built):
    graph = built._graph
    assert graph.faults() == []
    base = graph.base[: graph.count]
    for v in range(0, graph.count, 7):
        links = base[v][base[v] >= 0]
        assert len(set(links.tolist())) == len(links) and v not in links and len(links) > 0
        assert (base[v][len(links) :] == -1).all()
    share = (graph.levels[: graph.count] > 0).mean()
    assert abs(share - 1 / 16) < 0.02
    spoiled = graph.base[5, 0]
    graph.base[5, 0] = 10**6
    assert graph.faults()
    graph.base[5, 0] = spoiled


def test_heuristic_keeps_a_link_only_if_no_kept_one_is_nearer():
    x = np.array([[0.0, 0], [1, 0], [1.1, 0], [0, 2], [0, 2.2]], np.float32)
    index = search.HNSW(M=2, metric="l2").build(x[[1, 2, 3, 4, 0]])
    links = index._graph.base[4]
    assert set(links[links >= 0].tolist()) == {0, 2}
    nearest = search.HNSW(M=2, metric="l2", heuristic=False).build(x[[1, 2, 3, 4, 0]])
    links = nearest._graph.base[4]
    assert set(links[links >= 0].tolist()) == {0, 1}


def test_options_of_the_heuristic():
    few = search.HNSW(metric="l2").build(X)._graph
    filled = search.HNSW(metric="l2", keep_pruned=True).build(X)
    assert (filled._graph.base >= 0).sum() > (few.base >= 0).sum()
    assert recall(filled, X, Q) >= 0.97
    assert recall(search.HNSW(metric="l2", extend_candidates=True).build(X), X, Q) >= 0.97


def test_same_seed_same_graph_for_any_number_of_threads(monkeypatch):
    graphs = []
    for threads in (1, 2, 1):
        monkeypatch.setattr("resolvent.search.hnsw_build.thread_count", lambda asked, threads=threads: threads)
        graphs.append(search.HNSW(metric="l2").build(X)._graph)
    for other in graphs[1:]:
        np.testing.assert_array_equal(graphs[0].base, other.base)
        np.testing.assert_array_equal(graphs[0].upper, other.upper)
    assert not np.array_equal(search.HNSW(metric="l2", seed=1).build(X)._graph.levels, graphs[0].levels)


def test_threads_give_the_same_answer(built):
    a, b = built.query(Q, 10, threads=1), built.query(Q, 10, threads=2)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.evaluations, b.evaluations)


def test_interleaved_add_query_remove_never_repeats_an_id_and_keeps_recall():
    index, gone = search.HNSW(metric="l2"), set()
    g = np.random.default_rng(0)
    for a in range(0, 3000, 250):
        index.add(X[a : a + 250])
        drop = [i for i in g.integers(0, a + 250, 20).tolist() if i not in gone]
        gone |= set(drop)
        index.remove(list(set(drop)))
        ids = index.query(Q, 30).ids
        assert all(len(set(row.tolist())) == 30 for row in ids)
        assert not gone & set(ids.ravel().tolist())
    assert index._graph.faults() == []
    allowed = np.ones(3000, bool)
    allowed[list(gone)] = False
    assert recall(index, X, Q, allowed=allowed, ef=100) >= 0.98


def test_compact_links_around_removed_rows():
    index = search.HNSW(metric="l2").build(X, ids=[f"row {i}" for i in range(len(X))])
    drop = np.random.default_rng(0).permutation(len(X))[:1000]
    index.remove([f"row {i}" for i in drop])
    before = index.nbytes
    index.compact()
    left = np.delete(np.arange(len(X)), drop)
    assert index._graph.faults() == [] and index._graph.count == 2000 and index.nbytes < 0.75 * before
    truth = search.exact_search(X[left], Q, 10, "l2").ids
    wanted = np.array([[f"row {left[i]}" for i in row] for row in truth], object)
    found = index.query(Q, 10, ef=100).ids
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, wanted, strict=True)]) >= 0.98
    index.add(X[drop[:100]], ids=[f"row {i}" for i in drop[:100]])
    assert index.query(X[drop[3]], 1).ids[0] == f"row {drop[3]}"


def test_removing_everything_and_most():
    index = search.HNSW(metric="l2").build(X[:100])
    index.remove(range(100))
    hits = index.query(Q[:2], 3)
    assert (hits.ids == -1).all() and (hits.scores == -np.inf).all() and (hits.counts == 0).all()
    assert len(index.compact()) == 0
    index.add(X[:50], ids=range(200, 250))
    assert index.query(X[7], 1).ids[0] == 207


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("first_stage", [None, "int8"])
def test_filters_return_only_matches_and_all_that_are_asked_for(share, first_stage):
    x, q = np.split(cloud(9030, 16), [9000])
    index = search.HNSW(metric="l2", first_stage=first_stage, ef_construction=100).build(x)
    allowed = np.random.default_rng(2).random(len(x)) < share
    hits = index.query(q, 10, allowed=allowed, ef=64)
    assert allowed[hits.ids].all() and (hits.counts == 10).all()
    assert recall(index, x, q, allowed=allowed) >= 0.95


def test_filter_in_another_cluster_than_the_query_is_answered():
    g = np.random.default_rng(0)
    x = np.concatenate([g.normal(size=(5000, 8)), g.normal(size=(4000, 8)) + 20]).astype(np.float32)
    index = search.HNSW(metric="l2", ef_construction=60).build(x)
    allowed = np.arange(len(x)) >= 5000
    assert recall(index, x, x[:10], allowed=allowed) >= 0.95
    hits = index.query(x[0], 4, allowed=[8000, 17])
    assert set(hits.ids[:2].tolist()) == {8000, 17} and hits.counts == 2 and hits.ids[2] == -1


def test_inner_products_keep_their_recall_when_norms_spread():
    g = np.random.default_rng(0)
    unit = cloud(6000, 24)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for norms, links in (
        (np.ones(6000), "even"),
        (10 ** g.uniform(0, 3, 6000), "raw"),
        (np.r_[1000.0, np.ones(5999)], "even"),
        (np.exp(g.normal(size=6000)), "raw"),
    ):
        x = (unit * norms[:, None]).astype(np.float32)
        index = search.HNSW().build(x)
        assert recall(index, x, Q, metric="ip", ef=128) >= 0.95
        assert links in index.query(Q, 1).explain["links"]


def test_a_later_outlier_is_found_and_does_not_spoil_the_rest():
    index = search.HNSW().build(X)
    long = 1000 * X[:1]
    index.add(long, ids=[99999])
    assert index.query(X[0], 1).ids[0] == 99999
    ids = index.query(Q, 11, ef=128).ids
    truth = search.exact_search(X, Q, 10).ids
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]) >= 0.95


def test_copies_of_a_row_are_found_and_do_not_cut_off_the_rest():
    x = np.concatenate([np.tile(X[:1], (500, 1)), X])
    index = search.HNSW(metric="l2").build(x)
    assert (index.query(X[0], 20, ef=64).scores == 0).all()
    assert recall(index, x, Q[1:], ef=100) >= 0.9


@pytest.mark.parametrize("n", [1, 2, 5])
def test_tiny_indexes_pad(n):
    hits = search.HNSW(M=2, metric="l2").build(X[:n]).query(Q[:3], 8)
    assert (hits.counts == n).all() and (hits.ids[:, n:] == -1).all() and (hits.scores[:, n:] == -np.inf).all()
    assert (np.sort(hits.ids[:, :n], axis=1) == np.arange(n)).all()


def test_kind_and_shape_follow_the_query(built):
    hits = built.query(torch.from_numpy(Q[0]), 4)
    assert isinstance(hits.ids, torch.Tensor) and hits.ids.shape == (4,)
    assert built.query(Q[:0], 4).ids.shape == (0, 4)


@pytest.mark.parametrize("first_stage", [None, "int8"])
def test_restored_from_read_only_files(tmp_path, first_stage):
    index = search.HNSW(M=8, metric="cosine", first_stage=first_stage).build(X)
    index.remove([3])
    arrays = {}
    for name, part in index.arrays().items():
        np.save(tmp_path / f"{name}.npy", part)
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    again = search.HNSW.restore(index.settings(), arrays)
    np.testing.assert_array_equal(again.query(Q, 10).ids, index.query(Q, 10).ids)
    again.add(X[:5] + 1, ids=range(9000, 9005))
    assert again.query(X[2] + 1, 1).ids[0] == 9002 and again._graph.faults() == []
    broken = {**arrays, "structure.base": np.where(arrays["structure.base"] == 7, 10**7, arrays["structure.base"])}
    with pytest.raises(ValueError, match="damaged"):
        search.HNSW.restore(index.settings(), broken).query(Q, 1)
    with pytest.raises(ValueError, match="base must have shape"):
        search.HNSW.restore(index.settings(), {**arrays, "structure.base": arrays["structure.base"][:5]})


def test_readers_beside_a_writer():
    index = search.HNSW(metric="l2").build(X[:500])
    wrong = []

    def read():
        for _ in range(30):
            ids = index.query(Q, 10).ids
            wrong.extend(row for row in ids if len(set(row.tolist())) != 10)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for a in range(500, 1500, 100):
        index.add(X[a : a + 100])
    for reader in readers:
        reader.join()
    assert not wrong and index._graph.faults() == []


def test_levels_do_not_depend_on_how_rows_arrive():
    graph = HNSWGraph(16, seed=3)
    assert graph.arrays()["head"].tolist() == [-1, 0]
    insert_rows(graph, None, np.empty(0, np.int64), None, None)
    together = search.HNSW(metric="l2", seed=3).build(X)._graph.levels
    apart = search.HNSW(metric="l2", seed=3).build(X[:1000]).add(X[1000:])._graph.levels
    np.testing.assert_array_equal(together[:3000], apart[:3000])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"M": 1}, "M must be"),
        ({"ef_construction": 0}, "ef_construction must be"),
        ({"first_stage": "int4"}, "first_stage must be"),
        ({"norms": "even"}, "norms must be"),
        ({"order": "up"}, "order must be"),
        ({"seed": -1}, "seed must be"),
        ({"metric": "l1"}, "metric must be"),
    ],
)
def test_bad_settings(options, match):
    with pytest.raises(ValueError, match=match):
        search.HNSW(**options)


def test_bad_queries(built):
    for options, match in (({"ef": 0}, "ef must"), ({"rerank": 0}, "rerank must"), ({"threads": 0}, "threads must")):
        with pytest.raises(ValueError, match=match):
            built.query(Q, 3, **options)
    with pytest.raises(TypeError, match="no option 'eff'"):
        built.query(Q, 3, eff=10)
    with pytest.raises(ValueError, match="columns"):
        built.query(Q[:, :5], 3)
    with pytest.raises(ValueError, match="empty"):
        search.HNSW().query(Q, 3)


def test_orders_of_insertion_keep_positions():
    index = search.HNSW(metric="l2", order="lid-desc").build(X[:800])
    assert recall(index, X[:800], Q, ef=100) >= 0.98
