"""What users of other libraries asked for or lost data by, each with its issue: here it works."""

import multiprocessing
import threading

import numpy as np
import pytest

from resolvent import search
from resolvent.errors import ReadOnly
from resolvent.search import F, writer
from resolvent.search.exact import top_rows
from resolvent.search.vectors import Vectors

DIM = 16


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def made(path, **options):
    return search.create(path, vectors={"v": search.Dense(DIM)}, **options)


def built(path, n=1200, **settings):
    """An index with a graph over its rows."""
    index = made(path, payload={"n": int})
    index.add(np.arange(n), v=rows(n), payload={"n": np.arange(n)})
    index.build("v", search.HNSW(**{"M": 8, "ef_construction": 60, **settings}), min_rows=500)
    return index


def files(path):
    return sum(p.stat().st_size for p in path.iterdir())


def test_metadata_and_text_ids_lie_beside_the_vectors_and_filters_come_first(tmp_path):
    """facebookresearch/faiss#3124, facebookresearch/faiss#1079, unum-cloud/USearch#348."""
    x = rows(600)
    with made(tmp_path / "i", payload={"lang": str}) as index:
        names = [f"Zürich/{i} 東京" for i in range(600)]
        index.add(names, v=x, payload={"lang": ["de" if i % 50 == 0 else "en" for i in range(600)]})
    with search.open(tmp_path / "i") as index:
        hits = index.query(v=x[7], k=12, where=F.lang == "de")
        german = np.arange(0, 600, 50)
        wanted = german[np.argsort(-(x[german] @ x[7]))]
        assert hits.ids.tolist() == [names[i] for i in wanted]
        assert {row["lang"] for row in hits.payload()} == {"de"}


def test_rows_of_a_graph_can_be_removed_and_stay_away_after_reopening(tmp_path):
    """facebookresearch/faiss#3339, nmslib/hnswlib#189."""
    x = rows(1200)
    with built(tmp_path / "i") as index:
        assert index.delete(np.arange(0, 1200, 3)) == 400
    with search.open(tmp_path / "i", "rw") as index:
        hits = index.query(v=x[:60], k=20, method="hnsw", ef=80)
        assert (hits.counts == 20).all()
        assert (hits.ids % 3 != 0).all()
        index.add([0], v=x[:1])
        assert index.query(v=x[0] * 10, k=1200).ids.tolist().count(0) == 1
        assert index.verify() == []


def test_deleted_rows_give_their_memory_and_their_disk_back(tmp_path):
    """nmslib/hnswlib#288, chroma-core/chroma#3948, chroma-core/chroma#5259."""
    path = tmp_path / "i"
    with built(path, 6000) as index:
        before = files(path)
        index.delete(where=F.n >= 600)
        index.compact()
        assert len(index) == 600
        assert files(path) < before / 4
        field = index.stats()["fields"]["v"]
        assert field["rows"] == 600
        assert field["structures"]["hnsw"]["rows"] == 600


def test_fewer_hits_than_asked_are_no_exception(tmp_path):
    """nmslib/hnswlib#321."""
    with built(tmp_path / "i") as index:
        hits = index.query(v=rows(3), k=2000, method="hnsw")
        assert hits.ids.shape == (3, 2000)
        assert (hits.counts == 1200).all()
        index.delete(where=F.n >= 4)
        hits = index.query(v=rows(1)[0], k=10, method="hnsw")
        assert sorted(hits.ids[:4].tolist()) == [0, 1, 2, 3]
        assert (hits.ids[4:] == -1).all()
        assert (hits.scores[4:] == -np.inf).all()


def test_parameters_and_the_graph_are_there_after_reopening(tmp_path):
    """nmslib/hnswlib#316, nmslib/hnswlib#307, chroma-core/chroma#7090."""
    with built(tmp_path / "i", M=11, ef_construction=77) as index:
        before = index.query(v=rows(20, 1), k=5, method="hnsw", ef=50)
    with search.open(tmp_path / "i", "rw") as index:
        after = index.query(v=rows(20, 1), k=5, method="hnsw", ef=50)
        assert after.explain["fields"]["v"]["methods"] == {"hnsw": 1}
        np.testing.assert_array_equal(after.ids, before.ids)
        with index.snapshot() as now:
            (part,) = now.parts("v")
            graph = part.structures["hnsw"]
            assert (graph.M, graph.ef_construction, len(graph)) == (11, 77, 1200)
        # What comes later is built with them as well.
        index.add(np.arange(5000, 10_000), v=rows(5000, 2))
        with index.snapshot() as now:
            assert {p.structures["hnsw"].M for p in now.parts("v")} == {11}


def test_rows_beyond_four_gigabytes_are_found(tmp_path):
    """nmslib/hnswlib#370: positions times bytes of a row leave 32 bits."""
    n, d = (1 << 22) + 5, 256
    data = np.memmap(tmp_path / "sparse.bin", np.float32, "w+", shape=(n, d))
    data[n - 3] = 1
    allowed = np.zeros(n, np.uint8)
    allowed[[5, n - 3, n - 1]] = 1
    vectors = Vectors.from_arrays({"data": data, "square": np.zeros(n, np.float32)}, "float32")
    found = top_rows(vectors, np.ones((1, d), np.float32), 2, "ip", allowed)
    assert found.rows.tolist() == [[n - 3, 5]]
    assert found.scores.tolist() == [[256.0, 0.0]]


def test_adding_and_asking_in_turn_never_gives_an_id_twice(tmp_path, monkeypatch):
    """nmslib/hnswlib#313."""
    monkeypatch.setattr(writer, "FLUSH_ROWS", 600)
    x = rows(3000)
    with made(tmp_path / "i") as index:
        index.build("v", search.HNSW(M=8, ef_construction=40), min_rows=500)
        for first in range(0, 3000, 150):
            index.add(np.arange(first, first + 150), v=x[first : first + 150])
            if first:
                index.upsert(np.arange(first - 20, first), v=x[first - 20 : first])
            hits = index.query(v=x[first : first + 5], k=50)
            assert all(len(set(one)) == 50 for one in hits.ids.tolist())
        found = index.query(v=x[::100], k=10, method="hnsw", ef=100)
        true = index.query(v=x[::100], k=10, method="exact")
        assert search.recall_at_k(found, true) > 0.95


def test_no_capacity_is_declared(tmp_path):
    """The max_elements of other libraries: here rows only come."""
    with built(tmp_path / "i", 600) as index:
        for i in range(6):
            first = 600 * 2**i
            index.add(np.arange(first, 2 * first), v=rows(first, i))
        assert len(index) == 600 * 2**6
        assert index.verify() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i.add([1], v=rows(1)),
        lambda i: i.upsert([1], v=rows(1)),
        lambda i: i.delete([1]),
        lambda i: i.build("v", search.HNSW()),
        lambda i: i.drop("v"),
        lambda i: i.compact(),
    ],
)
def test_an_index_opened_to_read_refuses_changes(tmp_path, change):
    """unum-cloud/USearch#506."""
    made(tmp_path / "i").close()
    with search.open(tmp_path / "i") as index, pytest.raises(ReadOnly, match="mode='rw'"):
        change(index)


def test_a_filter_does_not_starve_the_answer(tmp_path):
    """lancedb/lancedb#2762: asked for 644, 322 match, 16 came."""
    with built(tmp_path / "i", 3000) as index:
        for method in ("auto", "exact", "hnsw"):
            hits = index.query(v=rows(1)[0], k=644, where=F.n < 322, method=method)
            assert hits.counts == 322
            assert sorted(hits.ids[:322].tolist()) == list(range(322))


def test_a_rare_number_costs_what_matches_it(tmp_path):
    """typesense/typesense#1977."""
    with built(tmp_path / "i", 6000) as index:
        hits = index.query(v=rows(1)[0], k=10, where=F.n.in_([17, 4242]))
        assert sorted(hits.ids[:2].tolist()) == [17, 4242]
        assert hits.counts == 2
        assert hits.evaluations <= 2


def _write(path, first, barrier):
    with search.open(path, "rw", timeout=60) as index:
        barrier.wait()
        for i in range(20):
            index.upsert([1, 2, first + i], v=rows(3, first + i))


def test_two_processes_that_write_lose_and_double_nothing(tmp_path):
    """What users of usearch report; lancedb/lancedb#2463, lancedb/lancedb#3377."""
    made(tmp_path / "i").close()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=_write, args=(tmp_path / "i", first, barrier)) for first in (1000, 2000)]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    with search.open(tmp_path / "i") as index:
        assert sorted(index.ids().tolist()) == [1, 2, *range(1000, 1020), *range(2000, 2020)]
        assert index.verify() == []


def test_threads_that_upsert_the_same_ids_leave_one_of_each(tmp_path):
    """lancedb/lancedb#2463, lancedb/lancedb#3377."""
    with made(tmp_path / "i", payload={"who": int}) as index:

        def work(who):
            for _ in range(15):
                index.upsert(np.arange(10), v=rows(10, who), payload={"who": [who] * 10})

        threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(index.ids().tolist()) == list(range(10))
        got = index.get(np.arange(10))
        # The last batch is there as a whole, and vectors and payload are of one writer.
        assert len(set(got["payload"]["who"])) == 1
        np.testing.assert_array_equal(got["v"], rows(10, got["payload"]["who"][0]))


def test_many_small_writes_do_not_bloat_the_store(tmp_path):
    """lancedb/lancedb#3086."""
    path = tmp_path / "i"
    with made(path) as index:
        for i in range(300):
            index.upsert([i % 10], v=rows(1, i))
        index.compact("full")
        assert len(list(path.glob("*.safetensors"))) == 1
    assert len(list(path.iterdir())) <= 4
    assert files(path) < 300_000


def test_words_filter_a_search_of_vectors(tmp_path):
    """lance-format/lance#4927."""
    x = rows(300)
    with search.create(
        tmp_path / "i", vectors={"v": search.Dense(DIM)}, payload={"text": str, "words": list[str]}
    ) as index:
        texts = [f"a note on {'tea' if i % 30 == 0 else 'wine'} number {i}" for i in range(300)]
        index.add(np.arange(300), v=x, payload={"text": texts, "words": [t.split() for t in texts]})
        tea = np.arange(0, 300, 30)
        wanted = tea[np.argsort(-(x[tea] @ x[4]))].tolist()
        for where in (F.text.contains("tea"), F.words.contains("tea")):
            assert index.query(v=x[4], k=10, where=where).ids.tolist() == wanted


def test_a_score_may_end_the_list(tmp_path):
    """Cut-offs instead of the best k, which lance-format/lance#4927 and others ask for."""
    x = rows(300)
    with made(tmp_path / "i") as index:
        index.add(np.arange(300), v=x)
        hits = index.query(v=x[4], k=300, cutoff=4.0)
        assert sorted(hits.ids[: hits.counts].tolist()) == np.flatnonzero(x @ x[4] >= 4.0).tolist()
        assert hits.explain["cut"] == 300 - hits.counts
