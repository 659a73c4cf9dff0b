"""What goes wrong around an index gets one clear error, and what was there before stays there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest

from resolvent import search
from resolvent.errors import Busy, Damaged, NoSpace, ReadOnly, StoreError
from resolvent.search import segment, store, writer

N, DIM = 60, 4


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An index with two files a field, a structure, and something in the buffer."""
    monkeypatch.setattr(writer, "FLUSH_ROWS", 32)
    path = tmp_path / "x"
    fields = {"text": search.Dense(DIM), "lex": search.Sparse(9)}
    with store.create(path, vectors=fields, payload={"price": float, "tags": list[str]}) as index:
        index.build("text", search.IVF(lists=2), min_rows=40)
        index.add(
            np.arange(N), text=rows(N), lex=[{i % 9: 1.0} for i in range(N)], payload={"price": np.arange(N) * 1.0}
        )
        index.add(np.arange(100, 135), text=rows(35, 1), payload={"tags": [["a"]] * 35})
        index.add([200], text=rows(1, 2), lex=[{3: 2.0}])
        index.delete([5])
    return path


def files(folder, word="text"):
    return sorted(p for p in folder.iterdir() if word in p.name and p.suffix == ".safetensors")


def state(folder):
    with store.open(folder) as index:
        return index.ids().tolist(), index.get([1, 134, 200])["text"].tolist(), index.verify()


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 16
    path.write_bytes(raw)


def test_a_flipped_bit_in_a_vector_names_the_record(folder):
    path = next(p for p in files(folder) if "ivf" not in p.name)
    arrays, _ = segment.map_file(path)
    at = path.read_bytes().index(arrays["data"][17].tobytes())
    flip(path, at + 5)
    with store.open(folder) as index:
        found = index.verify()
        assert len(found) == 2 and path.name in found[0] and "the vectors of 17 in field 'text' are damaged" in found[1]
    with store.open(folder, "rw") as index, pytest.raises(Damaged, match="Nothing was changed"):
        index.compact("full")
    assert path.exists()


def test_every_flipped_bit_of_the_database_is_seen_or_changes_nothing(folder):
    raw = (folder / "meta.sqlite").read_bytes()
    truth, seen = state(folder), 0
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(raw), 150).tolist():
        changed = bytearray(raw)
        changed[at] ^= 1 << int(rng.integers(8))
        (folder / "meta.sqlite").write_bytes(changed)
        try:
            if state(folder)[2]:
                seen += 1
                continue
        except (StoreError, KeyError):
            seen += 1
            continue
        assert state(folder)[:2] == truth[:2], at
    # Most of a small database is unused space, where a bit means nothing.
    assert seen > 10


def test_a_truncated_file_leaves_the_rest_readable(folder):
    path = next(p for p in files(folder, "lex"))
    raw = path.read_bytes()
    path.write_bytes(raw[:-10])
    with store.open(folder) as index:
        assert len(index) == 95
        with index.snapshot() as now:
            assert np.array_equal(now.take("text", now.rows_of([1])), rows(N)[[1]])
            with pytest.raises(Damaged, match=r"lex.*were written"):
                now.parts("lex")
        assert any(path.name in line for line in index.verify())
    path.write_bytes(raw)
    assert state(folder)[2] == []


def test_a_damaged_file_does_not_keep_new_records_out(folder, monkeypatch):
    monkeypatch.setattr(writer, "FLUSH_ROWS", 2)
    path = next(p for p in files(folder) if "ivf" not in p.name)
    raw = path.read_bytes()
    path.write_bytes(raw[:-10])
    with store.open(folder, "rw") as index:
        for i in range(40):
            index.add([1000 + i], text=rows(1, i))
        assert len(index) == 135 and path.read_bytes() == raw[:-10]
        assert len(index.verify()) >= 1
    path.write_bytes(raw)
    with store.open(folder, "rw") as index:
        index.verify()
        assert index.verify() == [] and np.array_equal(index.get([1039])["text"], rows(1, 39))


def test_a_missing_file_is_named(folder):
    path = next(p for p in files(folder) if "ivf" not in p.name)
    path.unlink()
    with store.open(folder) as index:
        with pytest.raises(Damaged, match=path.name):
            index.get([1])
        assert any("missing" in line for line in index.verify())


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_structure_is_built_anew(folder, harm):
    (path,) = files(folder, "ivf")
    if harm == "flip":
        flip(path, path.stat().st_size // 2)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    with store.open(folder, "rw") as index:
        assert len(index.verify()) == 1
        assert index.verify() == []
        with index.snapshot() as now:
            assert [len(part.structures["ivf"]) for part in now.parts("text") if part.structures] == [N]


@pytest.mark.parametrize("raw", [b"", b"noise" * 900, b"SQLite format 3\0" + b"\0" * 4080])
def test_a_database_that_is_none_is_damaged(tmp_path, raw):
    (tmp_path / "meta.sqlite").write_bytes(raw)
    for mode in ("r", "rw"):
        with pytest.raises(Damaged):
            store.open(tmp_path, mode)


def test_foreign_triggers_and_tables_are_refused(folder):
    with sqlite3.connect(folder / "meta.sqlite") as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM rows; END")
    connection.close()
    with pytest.raises(Damaged, match="other tables than an index has: t"):
        store.open(folder, "rw")


def test_orphans_are_removed_by_the_next_writer_and_strangers_are_not(folder):
    for name in ("000000000009-text.safetensors", "000000000010-lex.safetensors.tmp", "notes.txt"):
        (folder / name).write_bytes(b"x")
    with store.open(folder) as index:
        assert index.verify() == []
    with store.open(folder, "rw") as index:
        index.delete([1])
    left = {p.name for p in folder.iterdir()}
    assert "notes.txt" in left and not any(name.startswith(("000000000009", "000000000010")) for name in left)


def test_a_second_writer_waits_and_then_is_busy(folder):
    other = sqlite3.connect(folder / "meta.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with store.open(folder, "rw", timeout=0.1) as index:
        with pytest.raises(Busy, match="another process is writing"):
            index.delete([1])
        assert 1 in index and len(index) == 95
        timer = threading.Timer(0.3, lambda: None)
        timer.start()
    other.execute("ROLLBACK")
    other.close()
    with store.open(folder, "rw") as a, store.open(folder, "rw") as b:
        for i in range(10):
            (a if i % 2 else b).add([1000 + i], text=rows(1))
        assert len(a) == len(b) == 105


def test_a_reader_may_not_write(folder):
    with store.open(folder) as index:
        for call in (lambda: index.delete([1]), lambda: index.add([9], text=rows(1)), index.compact):
            with pytest.raises(ReadOnly, match="mode='rw'"):
                call()


def unprivileged(code: str) -> str:
    """Run code as somebody who may not write everywhere (root may)."""
    drop = "import os\nif os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    preload = "import torch, scipy.sparse, numpy as np\nfrom resolvent import search\nfrom resolvent.search import store, index\n"
    text = preload + drop + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs users")
def test_a_read_only_directory_is_read_and_not_written(folder):
    shared = folder.parent
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    chain = [shared, *shared.parents[:-1]]
    modes = [(p, p.stat().st_mode) for p in chain if p.stat().st_uid == os.getuid() and p.stat().st_mode & 0o5 != 0o5]
    for p, mode in modes:
        p.chmod(mode | 0o5)
    for p in folder.iterdir():
        p.chmod(0o444)
    folder.chmod(0o555)
    try:
        out = unprivileged(
            f"""
            from resolvent.errors import ReadOnly
            with store.open({str(folder)!r}) as index:
                print(len(index), index.verify(), index.get([1])["text"].shape)
            for call in (lambda: store.open({str(folder)!r}, "rw").delete([1]),
                         lambda: store.create({str(folder / "sub")!r}, vectors={{"v": search.Dense(2)}})):
                try:
                    call()
                except ReadOnly as error:
                    print("ReadOnly")
            """
        )
    finally:
        folder.chmod(0o755)
        for p, mode in modes:
            p.chmod(mode)
    assert out.split("\n")[:3] == ["95 [] (1, 4)", "ReadOnly", "ReadOnly"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_and_loses_nothing(small_disk):
    with store.create(small_disk / "x", vectors={"text": search.Dense(DIM)}, payload={"note": str}) as index:
        done = 0
        with pytest.raises(NoSpace, match="disk is full"):
            for i in range(200):
                size = (7, 5000)[i % 2]
                ids = np.arange(10_000 * i, 10_000 * i + size)
                index.add(ids, text=rows(size, i), payload={"note": ["n" * 20] * size})
                done += size
        assert len(index) == done and index.verify() == []
        assert done > 5000
    with store.open(small_disk / "x") as index:
        assert len(index) == done and index.verify() == []
    with store.open(small_disk / "x", "rw") as index:
        left = [p for p in (small_disk / "x").iterdir() if p.suffix == ".tmp"]
        assert left == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(index) == done


@pytest.mark.parametrize("call", range(1, 7))
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failure_at_any_call_of_the_disk_keeps_the_state_before(folder, monkeypatch, moment, call):
    truth = state(folder)
    real, count = getattr(os, moment), 0

    def fails(*arguments):
        nonlocal count
        count += 1
        if count == call:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with store.open(folder, "rw") as index:
        monkeypatch.setattr(segment.os, moment, fails)
        try:
            index.compact("full")
        except NoSpace:
            monkeypatch.undo()
            assert state(folder) == truth
            return
        monkeypatch.undo()
    assert count < call and state(folder) == truth
