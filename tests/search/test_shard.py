"""A sharded index against one index over the same records; on threads, and on processes of which one is killed."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import scipy.sparse

from resolvent import search
from resolvent.errors import Damaged, ReadOnly, StoreError
from resolvent.search import F, Sharded
from resolvent.search.shard import placement

FIELDS = {
    "text": search.Dense(8),
    "far": search.Dense(5, metric="l2"),
    "lex": search.Sparse(),
    "set": search.MultiVector(6),
}
PAYLOAD = {"price": float, "lang": str, "tags": list[str]}
N = 300


def records(n=N, seed=0):
    r = np.random.default_rng(seed)
    lex = scipy.sparse.random(n, 50, 0.15, format="csr", random_state=seed, dtype=np.float32)
    return {
        "text": r.normal(size=(n, 8)).astype(np.float32),
        "far": r.normal(size=(n, 5)).astype(np.float32),
        "lex": lex,
        "set": [r.normal(size=(1 + i % 4, 6)).astype(np.float32) for i in range(n)],
        "payload": {
            "price": r.random(n).round(3).tolist(),
            "lang": [("de", "en", "fr")[i % 3] for i in range(n)],
            "tags": [["new"] * (i % 2) + ["old"] * (i % 5 == 0) for i in range(n)],
            "note": [{"i": i} if i % 50 == 0 else None for i in range(n)],
        },
    }


def names(kind, n=N):
    return np.arange(n) * 3 - 50 if kind == "int" else np.array([f"id-{i}" for i in range(n)], dtype=object)


@pytest.fixture(scope="module", params=["int", "str"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    one = search.create(folder / "one", vectors=FIELDS, payload=PAYLOAD)
    many = Sharded.create(folder / "many", 3, vectors=FIELDS, payload=PAYLOAD)
    for index in (one, many):
        assert index.add(names(request.param), **records()) == N
    yield one, many
    one.close()
    many.close()


def ask(seed=1, b=7):
    r = np.random.default_rng(seed)
    return {
        "text": r.normal(size=(b, 8)).astype(np.float32),
        "far": r.normal(size=(b, 5)).astype(np.float32),
        "lex": scipy.sparse.random(b, 50, 0.3, format="csr", random_state=seed, dtype=np.float32),
        "set": [r.normal(size=(3, 6)).astype(np.float32) for _ in range(b)],
    }


QUERIES = [
    (("text",), {}),
    (("far",), {"k": 400}),
    (("lex",), {}),
    (("set",), {"method": "exact"}),
    (("text",), {"where": (F.price < 0.3) & F.tags.contains("new")}),
    (("text",), {"where": F.lang == "xx"}),
    (("far",), {"where": F.price.between(0.2, 0.21), "k": 20}),
    (("text", "lex"), {}),
    (("text", "far"), {"fuse": {"text": 0.7, "far": 0.3}}),
    (("text", "lex"), {"fuse": 0.5, "where": F.lang != "de"}),
    (("text",), {"cutoff": 1.5, "k": 30}),
]


@pytest.mark.parametrize(("fields", "options"), QUERIES)
def test_the_answers_are_those_of_one_index(pair, fields, options):
    asked = {name: ask()[name] for name in fields}
    a, b = (index.query(**asked, **options) for index in pair)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5, atol=1e-6)
    assert (a.counts == b.counts).all() and a.explain["matches"] == b.explain["matches"] and b.explain["exact"]
    for mine, theirs, scores in zip(a.ids.tolist(), b.ids.tolist(), a.scores, strict=True):
        clear = np.flatnonzero(np.diff(scores.clip(-1e6), append=-1e7) < -1e-5)
        # Among equal scores the order is that of the rows, which are numbered otherwise.
        assert all(set(mine[: i + 1]) == set(theirs[: i + 1]) for i in clear)
    assert sorted(map(str, a.payload()[0])) == sorted(map(str, b.payload()[0])) or len(clear) < len(scores)


def test_one_query_and_rerank(pair):
    one = pair[0]
    q = ask()["text"][0]

    def by_name(number, ids):
        return [hash(str(i)) % 1000 for i in ids.tolist()]

    a, b = (index.query(text=q, k=5, rerank=by_name) for index in pair)
    assert b.ids.shape == (5,) and set(b.ids.tolist()) <= set(one.ids().tolist())
    assert a.scores.tolist() == b.scores.tolist() and isinstance(b.payload()[0], dict)


def test_records_come_back_in_the_order_asked(pair):
    one, many = pair
    wanted = one.ids()[[200, 3, 77, 250, 4]]
    a, b = one.get(wanted), many.get(wanted)
    assert (a["ids"] == b["ids"]).all() and a["payload"] == b["payload"]
    assert (a["text"] == b["text"]).all() and (a["lex"] != b["lex"]).nnz == 0
    assert all((x == y).all() for x, y in zip(a["set"], b["set"], strict=True))
    assert sorted(many.ids(F.price < 0.1).tolist()) == sorted(one.ids(F.price < 0.1).tolist())
    with pytest.raises(KeyError):
        many.get(wanted[:1].tolist() + ([10**6] if wanted.dtype != object else ["nobody"]))


def test_every_record_lies_in_its_shard(pair):
    _, many = pair
    for shard, own in enumerate(many._all("call", "ids", {"where": None})):
        assert len(own) > N / 3 / 2 and all(placement(i, 3) == shard for i in own.tolist())
    assert len(many) == N and many.verify() == [] and many.stats()["records"] == N


def small(folder, **options):
    return Sharded.create(folder / "s", 3, vectors={"v": search.Dense(3)}, payload={"p": int}, **options)


def test_upsert_delete_compact_and_reopening(tmp_path):
    r = np.random.default_rng(0)
    with small(tmp_path) as index:
        index.add(np.arange(50), v=r.normal(size=(50, 3)), payload={"p": list(range(50))})
        assert index.upsert(np.arange(40, 60), v=np.ones((20, 3)), payload={"p": [7] * 20}) == 20
        assert len(index) == 60 and index.delete(np.arange(5)) == 5 and index.delete(where=F.p == 7) == 21
        index.compact()
    with Sharded(tmp_path / "s") as index:
        assert sorted(index.ids().tolist()) == [i for i in range(5, 40) if i != 7]
        with pytest.raises(ReadOnly):
            index.add([1], v=np.ones((1, 3)))


def test_a_batch_that_is_repeated_is_added_once(tmp_path):
    with small(tmp_path) as index:
        x = np.random.default_rng(0).normal(size=(30, 3))
        assert index.add(np.arange(30), v=x, batch="b1") == 30
        assert index.add(np.arange(30), v=x, batch="b1") == 0 and len(index) == 30


def test_structures_are_built_in_every_shard(tmp_path):
    with small(tmp_path) as index:
        x = np.random.default_rng(0).normal(size=(600, 3))
        index.add(np.arange(600), v=x)
        assert index.build("v", search.IVF(lists=4), min_rows=50) == 3
        assert search.recall_at_k(index.query(v=x[:20], probes=4), search.exact_search(x, x[:20])) == 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.query(v=np.ones(2)), ValueError, "v must have 3 columns"),
        (lambda i: i.query(w=np.ones(2)), ValueError, "fields are v"),
        (lambda i: i.query(v=np.ones(3), where=F.q == 1), ValueError, "q"),
        (lambda i: i.add([1, 2], v=np.ones((1, 3))), ValueError, "v must have 2 rows like ids"),
        (lambda i: i.add([1], w=np.ones((1, 3))), ValueError, "fields are v"),
        (lambda i: i.add([1], v=np.full((1, 3), np.nan)), ValueError, "NaN"),
        (lambda i: i.delete(), ValueError, "give either ids or where"),
        (lambda i: i.build("w", search.IVF(lists=2)), ValueError, "field must be one of v"),
    ],
)
def test_bad_input_is_named(tmp_path, call, error, message):
    with small(tmp_path) as index:
        index.add([9], v=np.ones((1, 3)))
        with pytest.raises(error, match=message):
            call(index)
        assert len(index) == 1


def test_an_empty_index_and_what_is_no_index(tmp_path):
    with small(tmp_path) as index:
        assert index.query(v=np.ones(3), k=2).counts == 0 and len(index) == 0 and len(index.get([])["ids"]) == 0
    with pytest.raises(FileNotFoundError, match="holds no sharded index"):
        Sharded(tmp_path)
    with pytest.raises(FileExistsError):
        small(tmp_path)
    with pytest.raises(ValueError, match="shards must be"):
        Sharded.create(tmp_path / "t", 0, vectors={"v": search.Dense(3)})


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", json.dumps({"format": "other/1", "shards": 3, "placement": "blake2b"}), "x" * 10**5]
)
def test_a_damaged_list_of_shards_is_an_error(tmp_path, text):
    small(tmp_path).close()
    (tmp_path / "s" / "shards.json").write_text(text)
    with pytest.raises(Damaged):
        Sharded(tmp_path / "s")


def test_a_missing_shard_is_an_error(tmp_path):
    small(tmp_path).close()
    (tmp_path / "s" / "shard-0001").rename(tmp_path / "away")
    with pytest.raises(Damaged, match="lacks 1 of its 3 shards, the first is shard-0001"):
        Sharded(tmp_path / "s")


def _pid():
    return os.getpid()


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield client


def test_two_processes_of_which_one_is_killed(tmp_path, client):
    r = np.random.default_rng(0)
    x, q = r.normal(size=(400, 3)).astype(np.float32), r.normal(size=(9, 3)).astype(np.float32)
    with small(tmp_path, client=client) as index:
        index.add(np.arange(200), v=x[:200])
        before = index.query(v=q, k=5)
        assert (before.ids == search.exact_search(x[:200], q, 5).ids).all()
        pids = client.run(_pid)
        homes = {actor._address for actor in index._executor._actors}
        assert len(homes) == 2
        os.kill(pids[sorted(homes)[0]], signal.SIGKILL)
        # Searches and writes go on: the shards of the dead worker are opened again, from their directories.
        assert (index.query(v=q, k=5).ids == before.ids).all()
        assert index.add(np.arange(200, 400), v=x[200:]) == 200
        assert (index.query(v=q, k=5).ids == search.exact_search(x, q, 5).ids).all()
        with pytest.raises(ValueError, match="v must have 3 columns"):
            index.query(v=np.ones(2))
    with Sharded(tmp_path / "s") as index:
        assert len(index) == 400 and index.verify() == []


def test_a_shard_that_cannot_be_reached_is_named(tmp_path, client, monkeypatch):
    monkeypatch.setattr("resolvent.search.executors._ATTEMPTS", 1)
    with small(tmp_path, client=client) as index:
        monkeypatch.setattr(index._executor, "_start", lambda *a: None)
        with pytest.raises(StoreError, match=r"shard 0 .* cannot be reached"):
            len(index)
        monkeypatch.undo()
        assert len(index) == 0


def test_a_slow_call_is_waited_for_and_not_repeated(tmp_path, client, monkeypatch):
    with search.Sharded.create(tmp_path / "slow", shards=2, vectors={"v": search.Dense(16)}, client=client) as index:
        index.add(np.arange(3000), v=np.random.default_rng(0).normal(size=(3000, 16)))

        def refuse(*call):
            raise AssertionError(f"{call} was taken for lost")

        monkeypatch.setattr(index._executor, "_again", refuse)
        monkeypatch.setattr(index._executor, "_timeout", 0.2)
        assert index.build("v", search.HNSW(M=8, ef_construction=100), min_rows=500) == 2
        monkeypatch.setattr(index._executor, "_timeout", 30.0)
