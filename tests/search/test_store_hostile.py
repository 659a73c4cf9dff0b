"""What only a hostile user does: directories swapped while they are open, numbers at the ends of float32, views shared."""

import inspect
import os
import pickle
import sys
import threading

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.errors import StoreError
from resolvent.search.exact import _on_device
from resolvent.search.query import query
from resolvent.search.shard import ShardedView
from resolvent.search.shard_server import ShardServer


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)


def made(path, first, n=5000):
    index = search.create(path, vectors={"v": search.Dense(8)})
    index.add(np.arange(first, first + n), v=rows(n, first))
    return index


@pytest.mark.parametrize("swapped", [True, False])
def test_a_directory_that_was_moved_while_open_is_said_and_nothing_is_lost(tmp_path, swapped):
    old, other = made(tmp_path / "a", 0), made(tmp_path / "b", 10_000)
    reader = search.open(tmp_path / "a")
    held = reader.snapshot()
    other.close()
    os.rename(tmp_path / "a", tmp_path / "old")
    if swapped:
        os.rename(tmp_path / "b", tmp_path / "a")
    # The connection follows its file, a name does not: vectors went into the directory of another index.
    with pytest.raises(StoreError, match="moved or replaced"):
        old.add(np.arange(20_000, 25_000), v=rows(5000))
    # Some of a reader's connections saw the one index and some the other.
    with pytest.raises(StoreError, match="moved or replaced"):
        reader.query(v=rows(1)[0])
    assert held.count == 5000
    held.close()
    old.close()
    reader.close()
    with search.open(tmp_path / "old") as index:
        assert len(index) == 5000
        assert index.verify() == []


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_norms_whose_scores_would_leave_float32_are_refused(tmp_path, metric):
    x = rows(50) * np.float32(1e20)
    for call in (
        lambda: search.exact_search(x, rows(1), 3, metric),
        lambda: search.exact_search(rows(50), x[:3], 3, metric),
        lambda: search.HNSW(metric=metric).build(x),
    ):
        with pytest.raises(ValueError, match=r"norms below 9.2e\+18"):
            call()
    with search.create(tmp_path / "i", vectors={"v": search.Dense(8, metric)}) as index:
        with pytest.raises(ValueError, match="v must have norms"):
            index.add(np.arange(50), v=x)
        assert len(index) == 0
        index.add(np.arange(50), v=rows(50))
        with pytest.raises(ValueError, match="v must have norms"):
            index.query(v=x[0])


def test_directions_may_have_any_norm(tmp_path):
    x = rows(50)
    wanted = search.exact_search(x, x[:3], 5, "cosine").ids
    with search.create(tmp_path / "i", vectors={"v": search.Dense(8, "cosine")}) as index:
        index.add(np.arange(50), v=x * np.float32(1e20))
        np.testing.assert_array_equal(index.query(v=x[:3] * np.float32(1e-25), k=5).ids, wanted)
        np.testing.assert_allclose(index.get([4])["v"], x[4:5] * np.float32(1e20), rtol=1e-6)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_rows_may_lie_in_any_order_of_memory(metric):
    x, q = rows(300), rows(4, 1)
    wanted = search.exact_search(x, q, 5, metric).ids
    for one in (np.asfortranarray(x), torch.tensor(x.T.copy()).T, np.repeat(x, 2, axis=1)[:, ::2], x[::-1][::-1]):
        np.testing.assert_array_equal(search.exact_search(one, np.asfortranarray(q), 5, metric).ids, wanted)
        np.testing.assert_array_equal(search.exact_search(one, q[0], 5, metric).ids, wanted[0])


@pytest.mark.parametrize("scale", [1e20, 1e-25, 2.0**-100])
def test_clusters_do_not_depend_on_the_scale(scale):
    x = rows(200)
    one = search.kmeans(x, 5, generator=0)
    two = search.kmeans((x.astype(np.float64) * scale).astype(np.float32), 5, generator=0)
    assert (one.labels == two.labels).mean() > 0.99
    np.testing.assert_allclose(two.inertia, one.inertia * scale**2, rtol=1e-2)
    np.testing.assert_allclose(two.centres / scale, one.centres, atol=0.05)


def test_no_scores_and_no_ids():
    assert search.topk(np.zeros((2, 0)), 2).ids.tolist() == [[-1, -1], [-1, -1]]
    assert search.topk(np.zeros(0), 1).ids.tolist() == [-1]


def test_an_empty_array_of_ids_is_an_empty_batch(tmp_path):
    with search.create(tmp_path / "i", vectors={"v": search.Dense(8)}) as index:
        assert index.add(np.array([]), v=np.empty((0, 8))) == 0
        assert index.delete(np.array([])) == 0


def test_a_run_that_names_a_document_twice_is_refused():
    for call in (
        lambda: search.ndcg([["a", "a"]], [{"a"}]),
        lambda: search.evaluate({"q": ["a", "b", "a"]}, {"q": {"a": 1}}, ["recall@3"]),
    ):
        with pytest.raises(ValueError, match="'a' is there twice"):
            call()
    with pytest.raises(ValueError, match="NaN"):
        search.mrr({"q": {"a": float("nan"), "b": 1.0}}, {"q": {"a": 1}})
    for call in (lambda: search.ndcg([["a"]], [{"a"}], 0), lambda: search.mrr([["a"]], [{"a"}], -1)):
        with pytest.raises(ValueError, match="k must be a positive integer"):
            call()
    with pytest.raises(ValueError, match="k must be a positive integer"):
        search.evaluate([["a"]], [{"a"}], ["ndcg@0"])


def sharded(path):
    return search.Sharded.create(path, shards=3, vectors={"v": search.Dense(8)})


def test_shards_keep_the_views_of_searches_that_still_run(tmp_path):
    with sharded(tmp_path / "s") as index:
        index.add(np.arange(300), v=rows(300))
        failures = []

        def ask(seed):
            try:
                for i in range(15):
                    hits = index.query(v=rows(2, seed + i), k=10)
                    hits.payload()
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=ask, args=(100 * i,)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        # A view that was put aside while a search used it.
        server = index._executor._servers[0]
        first = server._view("first")
        for i in range(40):
            server._view(str(i))
        assert len(first.ids(first.rows())) == first.count


def test_a_batch_that_is_wrong_in_one_row_is_in_no_shard(tmp_path):
    bad = rows(60)
    bad[31, 2] = np.nan
    with sharded(tmp_path / "s") as index:
        with pytest.raises(ValueError, match="NaN"):
            index.add(np.arange(60), v=bad)
        with pytest.raises(ValueError, match="distinct"):
            index.add([*range(59), 0], v=rows(60))
        assert len(index) == 0
        assert index.add(np.arange(60), v=rows(60)) == 60
        assert 59 in index
        assert 60 not in index
        with pytest.raises(TypeError, match="ids of this index are int, got str"):
            index.add([f"name {i}" for i in range(60)], v=rows(60))
        assert len(index) == 60
    with search.Sharded(tmp_path / "s", "rw") as index, pytest.raises(TypeError, match="are int, got str"):
        index.upsert(["a"], v=rows(1))


def test_compaction_frees_the_disk_of_shards_that_were_searched(tmp_path):
    with sharded(tmp_path / "s") as index:
        for i in range(10):
            index.add(np.arange(1000 * i, 1000 * i + 1000), v=rows(1000))
        index.query(v=rows(1)[0])
        index.delete(np.arange(100, 10_000))
        index.query(v=rows(1)[0])
        before = sum(p.stat().st_size for p in (tmp_path / "s").rglob("*") if p.is_file())
        index.compact("full")
        after = sum(p.stat().st_size for p in (tmp_path / "s").rglob("*") if p.is_file())
        assert after < before / 4
        assert ShardedView(index).count == 100


def test_threads_share_the_kept_filters_of_a_view():
    from resolvent.search.snapshot import _keep

    held, failures, before = {}, [], sys.getswitchinterval()

    def fill(who):
        try:
            for i in range(20_000):
                _keep(held, (who, i), i)
        except (RuntimeError, KeyError, StopIteration) as error:
            failures.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=fill, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    assert len(held) <= 32 + 6


def test_integers_among_strings_do_not_become_strings(tmp_path):
    with search.create(tmp_path / "i", vectors={"v": search.Dense(8)}) as index:
        for ids in ([1, "a"], ["a", 1], ("a", None)):
            with pytest.raises(TypeError, match="ids must all be integers or all be strings"):
                index.add(ids, v=rows(2))
        assert len(index) == 0


def test_no_field_has_the_name_of_an_argument(tmp_path):
    names = {*inspect.signature(search.Index.add).parameters, *inspect.signature(query).parameters} - {"fields"}
    for name in names:
        with pytest.raises(ValueError, match="argument of add or query"):
            search.create(tmp_path / "i", vectors={name: search.Dense(8)})


def test_any_error_of_a_shard_travels_as_a_value(tmp_path):
    search.create(tmp_path / "i", vectors={"v": search.Dense(8)}).close()
    server = ShardServer(str(tmp_path / "i"), "r", 30.0)
    # Raised in an actor, a RuntimeError would read as the loss of its worker, and the call be repeated.
    error, value = server.answer("call", ("snapshot_of", {}))
    assert isinstance(error, AttributeError)
    assert value is None
    server._index.ids = _broken
    assert isinstance(server.answer("call", ("ids", {}))[0], RuntimeError)
    server.close()


def _broken():
    raise RuntimeError("no memory for a thread")


def test_rows_on_a_device_are_checked_as_others_are():
    # The path of CUDA tensors is plain torch and runs on the CPU as well.
    x, q = torch.tensor(rows(300)), rows(4, 1)
    wanted = search.exact_search(x, q, 5, "cosine").ids
    for scale in (1e20, 1e-25):
        np.testing.assert_array_equal(_on_device(x * scale, q, 5, "cosine", 64, None).rows, wanted)
    x[100] = 0
    with pytest.raises(ValueError, match=r"x\[64:\] has a zero vector"):
        _on_device(x, q, 5, "cosine", 64, None)
    with pytest.raises(ValueError, match="norms below"):
        _on_device(x * 1e20, q, 5, "ip", None, None)


def test_small_arguments_are_named():
    assert search.kmeans(rows(30), np.int64(3), generator=0).centres.shape == (3, 8)
    with pytest.raises(ValueError, match="found must be rows of ids"):
        search.recall_at_k([1, 2], [1, 2])
    index = search.cur_search(rows(40), n_anchor_items=4, generator=0)
    with pytest.raises(TypeError, match="budget must be an integer"):
        index.query(lambda items: np.zeros(len(items)), k=2, budget=6.5)
    with pytest.raises(ValueError, match="anchor_scores"):
        index.approximate([np.nan] * 4)


@pytest.mark.parametrize("form", ["power", "platt"])
def test_scores_that_a_cutoff_would_clip_are_refused(form):
    r = np.random.default_rng(0)
    scores = 20 * r.random((50, 10))
    cutoff = search.RelevanceCutoff(form, generator=0, steps=5)
    with pytest.raises(ValueError, match="between -1 and 1"):
        cutoff.fit(r.normal(size=(50, 4)), scores, scores > 10)


@pytest.mark.parametrize("kind", [search.HNSW, search.IVF, search.SimHash, search.RandomProjectionForest])
def test_an_index_goes_to_another_process(kind):
    # A cluster gets the specification of what it is to build in this way.
    assert pickle.loads(pickle.dumps(kind(metric="l2"))).settings() == kind(metric="l2").settings()
    index = kind().build(rows(200), ids=[f"row {i}" for i in range(200)])
    index.remove(["row 7"])
    copy = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(copy.query(rows(3), 5).ids, index.query(rows(3), 5).ids)
    assert len(copy) == 199
