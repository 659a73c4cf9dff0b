"""Window trees in an index on disk: exact windows, recall, deletions, compaction, damage, restoring."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest

from resolvent import search
from resolvent.errors import Damaged
from resolvent.search import F
from resolvent.search.stored_window import StoredWindow, _end

N, DIM = 7000, 12
EPOCH = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
TREE = {"leaf": 400, "inner": search.HNSW(M=10, ef_construction=60)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A tree over two files, 600 rows in the buffer, rows without a price, and deletions before and after the build."""
    g = np.random.default_rng(0)
    centres = g.normal(size=(30, DIM)) * 2
    x = (centres[g.integers(0, 30, N)] + 0.8 * g.normal(size=(N, DIM))).astype(np.float32)
    price = np.round(g.permutation(N) / 7, 1)
    price[g.choice(N, 300, replace=False)] = np.nan
    day = g.integers(0, 500, N)
    payload = {
        "price": [None if math.isnan(p) else p for p in price.tolist()],
        "added": [EPOCH + dt.timedelta(days=d) for d in day.tolist()],
        "lang": [("de", "en")[i % 2] for i in range(N)],
    }
    index = search.create(
        tmp_path_factory.mktemp("windows") / "x",
        vectors={"v": search.Dense(DIM, metric="cosine"), "w": search.Dense(DIM, metric="l2", dtype="int8")},
        payload={"price": float, "added": "datetime", "lang": str},
        window=["price", "added"],
    )

    def add(a, b):
        index.add(range(a, b), v=x[a:b], w=x[a:b], payload={name: column[a:b] for name, column in payload.items()})

    add(0, 4200)
    dead = g.choice(N, 900, replace=False)
    index.delete(dead[:300][dead[:300] < 4200].tolist())
    index.build("v", search.WindowTree(**TREE), by="price", min_rows=1000)
    index.build("v", search.HNSW(M=10, ef_construction=60), min_rows=1000)
    add(4200, 6400)
    index.compact()
    add(6400, N)
    index.delete(dead.tolist())
    index.build("w", search.WindowTree(**TREE), by="added", min_rows=1000)
    live = np.ones(N, bool)
    live[dead] = False
    q = (x[g.integers(0, N, 16)] + 0.3 * g.normal(size=(16, DIM))).astype(np.float32)
    yield {"index": index, "x": x, "q": q, "price": price, "day": day, "live": live}
    index.close()


def found_share(data, hits, allowed, k, metric="cosine"):
    want = search.exact_search(data["x"], data["q"], k, metric, allowed=allowed).ids
    true = [set(row[row >= 0].tolist()) for row in want]
    return np.mean([len(t & set(i.tolist())) / max(1, len(t)) for t, i in zip(true, hits.ids, strict=True)])


@pytest.mark.parametrize("method", ["auto", "window"])
@pytest.mark.parametrize(("low", "high"), [(0, 999), (100, 600), (300, 340), (500.05, 500.4), (990, 2000), (7, 6)])
def test_windows_are_exact_and_their_recall_high(shop, method, low, high):
    with np.errstate(invalid="ignore"):
        allowed = shop["live"] & (shop["price"] >= low) & (shop["price"] <= high)
    hits = shop["index"].query(v=shop["q"], k=10, where=F.price.between(low, high), method=method)
    assert hits.explain["matches"] == hits.explain["fields"]["v"]["matches"] == allowed.sum() or not allowed.any()
    assert hits.counts.tolist() == [min(10, allowed.sum())] * 16
    true = hits.scores > -np.inf
    assert allowed[hits.ids[true]].all() and (not true.any() or found_share(shop, hits, allowed, 10) >= 0.95)
    assert all(len(set(row.tolist())) == 10 for row in hits.ids if allowed.sum() >= 10)


def test_the_plan_says_why(shop):
    plan = shop["index"].query(v=shop["q"][:1], k=5, ef=16, where=F.price > 200).explain
    field = plan["fields"]["v"]
    assert field["methods"].get("window") == 1 and not plan["exact"]
    assert any("interval of 'price'" in reason for reason in field["reasons"])
    few = shop["index"].query(v=shop["q"][:1], k=5, where=F.price.between(10, 30)).explain
    assert few["exact"] and set(few["fields"]["v"]["methods"]) == {"scan"}
    for where in (F.lang == "de", (F.price > 200) & (F.lang == "de"), ~(F.price <= 200), F.price != 3):
        other = shop["index"].query(v=shop["q"][:1], k=5, ef=16, where=where).explain["fields"]["v"]
        assert "window" not in other["methods"]
    asked = shop["index"].query(v=shop["q"][:1], where=F.lang == "de", method="window").explain
    assert asked["exact"] and any("no interval" in reason for reason in asked["fields"]["v"]["reasons"])


def test_a_window_costs_less_than_a_scan_of_it(shop):
    where = F.price.between(100, 900)
    hits = shop["index"].query(v=shop["q"], k=10, where=where, method="window", ef=32)
    exact = shop["index"].query(v=shop["q"], k=10, where=where, method="exact")
    assert hits.evaluations.mean() < 0.5 * exact.evaluations.mean()


def test_a_tree_of_datetimes_over_another_format_and_metric(shop):
    end = EPOCH + dt.timedelta(days=300)
    allowed = shop["live"] & (shop["day"] < 300)
    hits = shop["index"].query(w=shop["q"], k=10, where=F.added < end, method="window")
    assert hits.explain["fields"]["w"]["methods"].get("window") == 1
    assert allowed[hits.ids].all() and found_share(shop, hits, allowed, 10, "l2") >= 0.9
    exact = shop["index"].query(w=shop["q"], k=10, where=F.added < end, method="exact")
    assert np.mean([len(set(a) & set(b)) for a, b in zip(hits.ids.tolist(), exact.ids.tolist(), strict=True)]) >= 9.5


def test_a_restored_index_answers_the_same(shop):
    where = (F.price >= 150) & (F.price < 700)
    before = shop["index"].query(v=shop["q"], k=10, where=where, method="window")
    with search.open(shop["index"].path) as again:
        after = again.query(v=shop["q"], k=10, where=where, method="window")
        assert np.array_equal(before.ids, after.ids) and np.array_equal(before.scores, after.scores)
        assert set(again.stats()["fields"]["v"]["structures"]) == {"window_price", "hnsw"}
        assert again.verify() == []


def small(path, n=1500, **kind):
    g = np.random.default_rng(1)
    x = g.normal(size=(n, 6)).astype(np.float32)
    index = search.create(path, vectors={"v": search.Dense(6, **kind)}, payload={"n": int}, window="n")
    index.add(range(n), v=x, payload={"n": list(range(n))})
    index.build("v", search.WindowTree(leaf=200, inner=search.HNSW(M=6, ef_construction=40)), min_rows=100)
    return index, x


def test_upserts_and_compaction_move_records_between_windows(tmp_path):
    index, x = small(tmp_path / "x")
    with index:
        index.upsert(range(500), v=x[:500], payload={"n": list(range(5000, 5500))})
        index.delete(where=F.n.between(600, 700))
        for _ in range(2):
            for where, want in (
                (F.n < 1000, set(range(500, 1000)) - set(range(600, 701))),
                (F.n > 4000, set(range(500))),
            ):
                hits = index.query(v=x[3], k=2000, where=where, method="window")
                assert set(hits.ids[: hits.counts].tolist()) == want
            index.compact("full")
        assert index.stats()["fields"]["v"]["structures"]["window_n"]["rows"] == 1399
        assert index.verify() == [] and index.drop("v", "window_n") == 1
        assert index.query(v=x[3], where=F.n > 4000, method="window").explain["exact"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_built_anew_from_vectors_and_payload(tmp_path, damage):
    index, x = small(tmp_path / "x")
    index.close()
    (path,) = (tmp_path / "x").glob("*window_n.safetensors")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.unlink()
    if damage != "remove":
        path.write_bytes(raw if damage == "flip" else raw[:-100])
    with search.open(tmp_path / "x", "rw") as index:
        assert any("search structure" in line for line in index.verify())
        assert index.verify() == [] and index.stats()["fields"]["v"]["structures"]["window_n"]["files"] == 1
        asked = {"v": x[700], "k": 1, "where": F.n.between(600, 1400)}
        assert index.query(**asked, method="window").ids == index.query(**asked, method="exact").ids


def test_no_record_with_a_value_and_none_at_all(tmp_path):
    fields = {"v": search.Dense(2)}
    with search.create(tmp_path / "x", vectors=fields, payload={"n": int}, window=["n"]) as index:
        index.add(range(50), v=np.eye(2)[np.zeros(50, int)])
        assert index.build("v", search.WindowTree(), min_rows=10) == 1
        assert index.query(v=[1.0, 0.0], where=F.n > 3, method="window").counts == 0
        index.delete(range(50))
        index.compact("full")
        assert index.verify() == [] and index.query(v=[1.0, 0.0], where=F.n > 3).counts == 0


def test_integers_that_floats_cannot_tell_apart(tmp_path):
    values = [2**62 + i for i in range(40)] + [2**63 - 1, -(2**63)]
    with search.create(tmp_path / "x", vectors={"v": search.Dense(2)}, payload={"n": int}, window=["n"]) as index:
        index.add(range(42), v=np.ones((42, 2)), payload={"n": values})
        index.build("v", search.WindowTree(leaf=5), min_rows=1)
        conditions = [F.n > 2**62 + 7, F.n.between(2**62 + 3, 2**62 + 5), F.n >= 2**63 - 1, F.n <= -(2**63), F.n > 0.5]
        for where in [*conditions, F.n > 2**63 - 1, F.n < -(2**63), F.n <= 2.0**63, F.n >= -(2.0**63), F.n == 2**62]:
            hits = index.query(v=[1.0, 1.0], k=50, where=where, method="window")
            assert sorted(hits.ids[: hits.counts].tolist()) == index.ids(where).tolist(), where


def test_ends_between_floats():
    big = 2**53 + 1
    assert _end(big, np.dtype(float), 1) == big + 1 and _end(big, np.dtype(float), -1) == big - 1
    assert _end(math.inf, np.dtype(np.int64), 1) is None and _end(-math.inf, np.dtype(np.int64), -1) is None
    assert _end(2.5, np.dtype(np.int64), 1) == 3 and _end(math.nan, np.dtype(float), 1) is None


@pytest.mark.parametrize(
    ("spec", "by", "message"),
    [
        (search.WindowTree(), None, "by must be one of the window columns"),
        (search.WindowTree(), "lang", "by must be one of the window columns"),
        (search.HNSW(), "price", "by names the column of a WindowTree"),
    ],
)
def test_wrong_columns_are_named(shop, spec, by, message):
    with pytest.raises(ValueError, match=message):
        shop["index"].build("v", spec, by=by)


def test_a_file_that_does_not_fit_is_damage(tmp_path):
    index, _ = small(tmp_path / "x", n=300)
    with index, index.snapshot() as now:
        (part,) = now.parts("v")
        window = part.structures["window_n"]
        settings, arrays = window.settings(), dict(now._view.files.arrays(now._view.segments[-1].file))
        vectors = part.vectors
        StoredWindow.restore(settings, arrays, vectors)
        key = next(name for name in arrays if name.startswith("shapes."))
        for name, wrong in (
            ("positions", arrays["positions"] + 300),
            ("positions", arrays["positions"][1:]),
            ("labels", arrays["labels"][::-1]),
            ("labels", arrays["labels"].astype(np.int32)),
            (key, arrays[key] + 1),
            (key, arrays[key][1:]),
            (key.replace("shapes", "nodes"), arrays[key.replace("shapes", "nodes")][:-1]),
            ("vectors.data", arrays["vectors.data"][:, :3]),
        ):
            with pytest.raises((ValueError, KeyError)):
                StoredWindow.restore(settings, {**arrays, name: wrong}, vectors)
        with pytest.raises((ValueError, Damaged)):
            StoredWindow.restore({**settings, "leaf": 50}, arrays, vectors)
