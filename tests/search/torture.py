"""Kill a writer at random moments and look at what it left: ``python tests/search/torture.py FOLDER --kills 1000``.

A child process (a fork, so that it starts at once) changes an index and writes down each operation before it begins and
after it has returned. The parent kills it with SIGKILL, opens the index and compares it with the operations: all that
returned must be there, the one that was running as a whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from resolvent import search
from resolvent.search import compact, store, writer

DIM, WORDS = 6, 40
Model = dict[int, int]


def vectors(ids: list[int], versions: list[int]) -> np.ndarray:
    """The vector that version v of record i has."""
    i, v = np.array(ids, np.float32)[:, None], np.array(versions, np.float32)[:, None]
    return np.concatenate(
        [i, v, np.broadcast_to(np.arange(1, DIM - 1, dtype=np.float32), (len(ids), DIM - 2)) + v], axis=1
    )


def content(ids: list[int], version: int) -> dict:
    """The arguments of `add` for these records."""
    return {
        "text": vectors(ids, [version] * len(ids)),
        "lex": [{i % WORDS: 1.0 + version} for i in ids],
        "tokens": [vectors([i] * (1 + i % 3), [version] * (1 + i % 3)) for i in ids],
        "payload": {
            "version": [version] * len(ids),
            "tags": [[f"t{i % 5}"] for i in ids],
            "name": [f"n{i}" for i in ids],
        },
    }


def make(folder: Path) -> None:
    fields = {"text": search.Dense(DIM), "lex": search.Sparse(WORDS), "tokens": search.MultiVector(DIM)}
    with store.create(folder, vectors=fields, payload={"version": int, "name": str, "tags": list[str]}) as index:
        index.build("text", search.IVF(lists=4), min_rows=100)


def draw(rng: random.Random, model: Model) -> dict:
    """The next operation, in a form that can be written down."""
    kind = rng.choices(["add", "upsert", "delete", "where", "compact"], [8, 4, 3, 1, 1])[0]
    fresh = max(model, default=0) + 1
    size = rng.choice([1, 1, 3, 20, 150])
    known = sorted(model)
    if kind == "add" or not known:
        return {"op": "add", "ids": list(range(fresh, fresh + size)), "version": rng.randrange(1000)}
    if kind == "upsert":
        some = rng.sample(known, min(size, len(known)))
        return {"op": "upsert", "ids": [*some, fresh], "version": rng.randrange(1000)}
    if kind == "delete":
        return {"op": "delete", "ids": rng.sample(known, min(size, len(known)))}
    if kind == "where":
        return {"op": "where", "version": model[rng.choice(known)]}
    return {"op": "compact", "policy": rng.choice(["auto", "full", 0.0])}


def apply(model: Model, op: dict) -> Model:
    """What the records are after an operation."""
    made = dict(model)
    if op["op"] in ("add", "upsert"):
        made.update(dict.fromkeys(op["ids"], op["version"]))
    elif op["op"] == "delete":
        for i in op["ids"]:
            made.pop(i, None)
    elif op["op"] == "where":
        made = {i: v for i, v in made.items() if v != op["version"]}
    return made


def perform(index: search.Index, op: dict) -> None:
    if op["op"] in ("add", "upsert"):
        getattr(index, op["op"])(op["ids"], **content(op["ids"], op["version"]))
    elif op["op"] == "delete":
        index.delete(op["ids"])
    elif op["op"] == "where":
        index.delete(where=search.F.version == op["version"])
    else:
        index.compact(op["policy"])


def work(folder: Path, log: int, seed: int, model: Model, steps: int) -> None:
    """What the child does until it is killed."""
    rng = random.Random(seed)
    with store.open(folder, "rw") as index:
        for _ in range(steps):
            op = draw(rng, model)
            os.write(log, (json.dumps(op) + "\n").encode())
            perform(index, op)
            os.write(log, b"done\n")
            model = apply(model, op)


def check(folder: Path, log: Path, model: Model) -> Model:
    """The records that are there, which must be those of the log; raises if anything is wrong."""
    pending = None
    for line in log.read_text().splitlines():
        if line == "done":
            model, pending = apply(model, pending or {}), None
        else:
            pending = json.loads(line)
    with store.open(folder) as index:
        found = dict(zip(index.ids().tolist(), _versions(index), strict=True))
        allowed = [model] if pending is None else [model, apply(model, pending)]
        if found not in allowed:
            raise SystemExit(f"records lost or half there after {pending}: {_difference(found, allowed)}")
        wrong = index.verify()
        if wrong:
            raise SystemExit(f"verify: {wrong}")
        some = random.Random(len(found)).sample(sorted(found), min(40, len(found)))
        if some:
            got = index.get(some)
            truth = vectors(some, [found[i] for i in some])
            same = [np.array_equal(got["text"], truth)]
            same += [
                np.array_equal(tokens, truth[[at] * (1 + i % 3)])
                for at, (i, tokens) in enumerate(zip(some, got["tokens"], strict=True))
            ]
            same += [np.array_equal(got["lex"].toarray()[at].nonzero()[0], [i % WORDS]) for at, i in enumerate(some)]
            same += [got["payload"]["name"] == [f"n{i}" for i in some]]
            if not all(same):
                raise SystemExit("records have other vectors than were given")
    return found


def _versions(index: search.Index) -> list[int]:
    with index.snapshot() as now:
        return now.payload(now.rows())["version"]


def _difference(found: Model, allowed: list[Model]) -> str:
    return "; ".join(
        f"missing {sorted(m.items() - found.items())[:5]}, extra {sorted(found.items() - m.items())[:5]}"
        for m in allowed
    )


def torture(folder: Path, kills: int, seed: int) -> str:
    """Kill a child so many times; a sentence about what happened."""
    # Small files, so that publishing, merging and compaction happen all the time.
    writer.FLUSH_ROWS = 64
    compact.SMALL = 256
    rng = random.Random(seed)
    # Everything is loaded before the forks, which then begin to work at once.
    make(folder / "warm")
    with store.open(folder / "warm", "rw") as warm:
        for op in (
            {"op": "add", "ids": list(range(300)), "version": 1},
            {"op": "delete", "ids": [1]},
            {"op": "compact", "policy": 0.0},
        ):
            perform(warm, op)
    index, log = folder / "index", folder / "log"
    make(index)
    model: Model = {}
    done = interrupted = 0
    for kill in range(kills):
        log.write_bytes(b"")
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        child = os.fork()
        if child == 0:
            try:
                work(index, handle, seed * 100_003 + kill, model, steps=10_000)
            finally:
                os._exit(1)
        os.close(handle)
        # From the first moments, when it opens and sweeps, to a few dozen operations.
        time.sleep(rng.choice([0.02, 0.1, 0.4]) * rng.random())
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"the child ended by itself: {log.read_text()[-500:]}")
        text = log.read_text()
        done += text.count("done\n")
        interrupted += len(text) > 0 and not text.endswith("done\n")
        model = check(index, log, model)
    with store.open(index, "rw") as last:
        last.compact("full")
        left = {p.name for p in index.iterdir()} - {s.file for s in _segments(last)}
        if any(name.endswith((".safetensors", ".tmp")) for name in left):
            raise SystemExit(f"files are left that no generation has: {sorted(left)}")
    return f"{kills} kills, {interrupted} inside an operation, {done} operations acknowledged, {len(model)} records, nothing lost"


def _segments(index: search.Index) -> list:
    with index.snapshot() as now:
        return now._view.segments


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    print(torture(given.folder, given.kills, given.seed), f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
