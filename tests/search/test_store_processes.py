"""Readers, threads and writers at the same time: everybody sees whole batches."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from resolvent import search
from resolvent.search import compact, store, writer

# A batch is ten records of one version; a reader counts versions, and each must be there ten times.
READER = """
import sys, time, numpy as np
from resolvent.search import store
looked, generations = 0, set()
with store.open(sys.argv[1]) as index:
    print("ready", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with index.snapshot() as now:
            rows = now.rows()
            versions, counts = np.unique(now.payload(rows)["version"], return_counts=True)
            vectors = now.take("v", rows)
            assert (counts == 10).all(), counts
            assert np.array_equal(vectors[:, 0], np.array(now.payload(rows)["version"], np.float32)), "other vectors"
            assert now.count == len(rows) == sum(int(part.live.sum()) for part in now.parts("v"))
            generations.add(now.generation)
            looked += 1
            if -1 in versions:
                break
print(looked, len(generations))
"""


def batch(index: store.Index, version: int) -> None:
    ids = [f"{version}/{i}" for i in range(10)]
    index.add(ids, v=np.full((10, 4), version, np.float32), payload={"version": [version] * 10})


def make(path) -> store.Index:
    return store.create(path, vectors={"v": search.Dense(4)}, payload={"version": int})


def test_another_process_always_sees_whole_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "FLUSH_ROWS", 32)
    monkeypatch.setattr(compact, "SMALL", 128)
    with make(tmp_path / "x") as index:
        batch(index, 0)
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout.readline() == "ready\n"
        for version in range(1, 60):
            batch(index, version)
            if version % 3 == 0:
                index.delete(where=search.F.version == version - 1)
            if version % 5 == 0:
                index.compact(["auto", "full"][version % 2])
        batch(index, -1)
        out, _ = reader.communicate(timeout=100)
        assert reader.returncode == 0
        looked, generations = map(int, out.split())
        assert looked >= generations >= 2 and index.verify() == []


def test_threads_share_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "FLUSH_ROWS", 32)
    failures: list = []
    with make(tmp_path / "x") as index:

        def write(first: int) -> None:
            for version in range(first, first + 10):
                batch(index, version)
            index.compact()

        def read() -> None:
            for _ in range(40):
                with index.snapshot() as now:
                    _, counts = np.unique(now.payload(now.rows())["version"], return_counts=True)
                    if not (counts == 10).all() or len(now.take("v", now.rows())) != now.count:
                        failures.append(counts)

        with ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(write, 100 * t) for t in range(3)] + [pool.submit(read) for _ in range(3)]
        assert [job.exception() for job in jobs] == [None] * 6
        assert failures == [] and len(index) == 300 and index.verify() == []


def test_two_writers_lose_no_update(tmp_path):
    with make(tmp_path / "x") as index:
        batch(index, 0)
    code = """
import sys, numpy as np
from resolvent.search import store
with store.open(sys.argv[1], "rw") as index:
    for i in range(25):
        index.upsert([sys.argv[2] + str(i), "shared"], v=np.full((2, 4), i, np.float32), payload={"version": [i, i]})
"""
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x"), name]) for name in "ab"]
    assert [one.wait(timeout=100) for one in both] == [0, 0]
    with store.open(tmp_path / "x") as index:
        assert len(index) == 61 and index.verify() == []
        assert index.get(["shared"])["payload"]["version"] == [24]
