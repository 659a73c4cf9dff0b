"""An index against a dictionary: whatever is done in whatever order, both hold the same records."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resolvent import search
from resolvent.search import F, compact, store, writer

# RESOLVENT_STEPS=10000 makes it long.
STEPS = int(os.environ.get("RESOLVENT_STEPS", "300"))
PER_CASE = 50

numbers = st.floats(-100, 100, width=32)
payloads = st.fixed_dictionaries(
    {
        "price": st.none() | st.floats(-5, 5, allow_nan=False),
        "lang": st.none() | st.sampled_from(["de", "en", "", "x\0y", "Ünï"]),
        "tags": st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
        "free": st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    }
)


@st.composite
def records(draw, ids):
    """A record: its vectors and its payload."""
    return {
        "id": draw(ids),
        "dense": draw(st.lists(numbers, min_size=3, max_size=3)),
        "lex": draw(st.dictionaries(st.integers(0, 9), st.floats(0.5, 9, width=32), max_size=3)),
        "tokens": draw(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=3)),
        "payload": draw(payloads),
    }


class Store(RuleBasedStateMachine):
    """Rules are the calls that change an index; after each the whole content is compared."""

    names = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 12)

    def __init__(self) -> None:
        super().__init__()
        # Memory where there is such a disk: the test is of what is stored, not of how long a sync takes.
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.model: dict = {}
        self.old: list = []
        self.batches: dict = {}
        # Small sizes, so that files are written, joined and compacted within a few steps.
        self.sizes = [mock.patch.object(writer, "FLUSH_ROWS", 5), mock.patch.object(compact, "SMALL", 12)]
        for size in self.sizes:
            size.start()

    @initialize(structure=st.booleans())
    def make(self, structure):
        self.index = store.create(
            self.folder / "x",
            vectors={"dense": search.Dense(3), "lex": search.Sparse(), "tokens": search.MultiVector(2)},
            payload={"price": float, "lang": str, "tags": list[str]},
            window="price",
        )
        if structure:
            self.index.build("dense", search.IVF(lists=2), min_rows=8)

    def teardown(self) -> None:
        for size in self.sizes:
            size.stop()
        for snapshot, _ in self.old:
            snapshot.close()
        if hasattr(self, "index"):
            wrong = self.index.verify()
            self.index.close()
            assert wrong == []
        shutil.rmtree(self.folder)

    def arguments(self, batch: list, columns: bool) -> tuple:
        payload = [one["payload"] for one in batch]
        if columns:
            payload = {name: [one[name] for one in payload] for name in ("price", "lang", "tags", "free")}
        fields = {
            "dense": np.array([one["dense"] for one in batch], np.float32).reshape(-1, 3),
            "lex": [one["lex"] for one in batch],
            "tokens": [np.array(one["tokens"], np.float32) for one in batch],
        }
        return [one["id"] for one in batch], {**fields, "payload": payload}

    @rule(data=st.data(), size=st.sampled_from([1, 1, 2, 7]), columns=st.booleans(), upsert=st.booleans())
    def write(self, data, size, columns, upsert):
        batch = data.draw(st.lists(records(self.names), min_size=size, max_size=size, unique_by=lambda one: one["id"]))
        ids, arguments = self.arguments(batch, columns)
        if not upsert and any(i in self.model for i in ids):
            with pytest.raises(ValueError, match="is in the index already"):
                self.index.add(ids, **arguments)
            return
        assert (self.index.upsert if upsert else self.index.add)(ids, **arguments) == len(ids)
        for one in batch:
            self.model.pop(one["id"], None)
        self.model.update({one["id"]: one for one in batch})

    @rule(data=st.data(), name=st.sampled_from(["b1", "b2"]))
    def retry(self, data, name):
        if name in self.batches:
            ids, arguments = self.batches[name]
            assert self.index.upsert(ids, batch=name, **arguments) == 0
            return
        batch = data.draw(st.lists(records(self.names), min_size=1, max_size=3, unique_by=lambda one: one["id"]))
        ids, arguments = self.batches[name] = self.arguments(batch, True)
        assert self.index.upsert(ids, batch=name, **arguments) == len(ids)
        for one in batch:
            self.model.pop(one["id"], None)
        self.model.update({one["id"]: one for one in batch})

    @precondition(lambda self: self.model)
    @rule(data=st.data(), absent=st.booleans())
    def delete(self, data, absent):
        some = data.draw(st.lists(st.sampled_from(sorted(self.model)), min_size=1, max_size=4, unique=True))
        extra = (
            [next(i for i in range(10**6, 10**7) if i not in self.model)] if absent and isinstance(some[0], int) else []
        )
        assert self.index.delete(some + extra) == len(some)
        for i in some:
            del self.model[i]

    @rule(low=st.floats(-5, 5), width=st.floats(0, 3))
    def delete_where(self, low, width):
        gone = [
            i for i, one in self.model.items() if (p := one["payload"]["price"]) is not None and low <= p <= low + width
        ]
        assert self.index.delete(where=F.price.between(low, low + width)) == len(gone)
        for i in gone:
            del self.model[i]

    @rule(policy=st.sampled_from(["auto", "full", 0.0, 1.0]))
    def compact(self, policy):
        self.index.compact(policy)

    @rule(mode=st.sampled_from(["r", "rw"]))
    def open_again(self, mode):
        self.index.close()
        with store.open(self.folder / "x", mode) as other:
            self.compare(other.snapshot(), self.model)
        self.index = store.open(self.folder / "x", "rw")

    @precondition(lambda self: len(self.old) < 3)
    @rule()
    def pin(self):
        self.old.append((self.index.snapshot(), dict(self.model)))

    @precondition(lambda self: self.old)
    @rule()
    def look_back(self):
        snapshot, model = self.old.pop()
        self.compare(snapshot, model)
        snapshot.close()

    @rule()
    def verify(self):
        assert self.index.verify() == []

    @invariant()
    def same(self):
        if hasattr(self, "index"):
            with self.index.snapshot() as now:
                self.compare(now, self.model)
            assert list(self.index.ids(F.lang == "de")) == [
                i for i, o in self.model.items() if o["payload"]["lang"] == "de"
            ]
            assert list(self.index.ids(F.tags.contains("a"))) == [
                i for i, o in self.model.items() if "a" in o["payload"]["tags"]
            ]

    def compare(self, snapshot, model):
        rows = snapshot.rows()
        truth = list(model.values())
        assert snapshot.count == len(rows) == len(truth)
        assert snapshot.ids(rows).tolist() == [one["id"] for one in truth]
        assert snapshot.rows_of([one["id"] for one in truth]).tolist() == rows.tolist() if truth else True
        payload = snapshot.payload(rows)
        for name in ("price", "lang"):
            assert payload[name] == [one["payload"][name] for one in truth]
        assert payload["tags"] == [sorted(set(one["payload"]["tags"])) for one in truth]
        assert payload.get("free", [None] * len(truth)) == [one["payload"]["free"] for one in truth]
        dense = np.array([one["dense"] for one in truth], np.float32).reshape(-1, 3)
        assert np.array_equal(snapshot.take("dense", rows), dense)
        lex = snapshot.take("lex", rows)
        for at, one in enumerate(truth):
            assert {int(i): float(v) for i, v in zip(lex[at].indices, lex[at].data, strict=True)} == one["lex"]
        for got, one in zip(snapshot.take("tokens", rows), truth, strict=True):
            assert np.array_equal(got, np.array(one["tokens"], np.float32))
        self.compare_parts(snapshot, rows)

    def compare_parts(self, snapshot, rows):
        for field in snapshot.schema.vectors:
            parts = snapshot.parts(field)
            there = [part.rows[part.live == 1] for part in parts]
            assert np.array_equal(np.concatenate([*there, np.empty(0, np.int64)]), rows)
            for part in parts:
                own = part.vectors if not isinstance(part.vectors, tuple) else part.vectors[1][1:]
                assert (own.shape[0] if scipy.sparse.issparse(own) else len(own)) == len(part.rows)
                assert all(len(structure) == len(part.rows) for structure in part.structures.values())


class StoreOfStrings(Store):
    """The same with ids that are strings."""

    names = st.text(st.characters(codec="utf-8"), max_size=3)


_SETTINGS = settings(
    max_examples=max(1, STEPS // PER_CASE),
    stateful_step_count=PER_CASE,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="RESOLVENT_STEPS" not in os.environ,
)
TestIntegers = Store.TestCase
TestIntegers.settings = _SETTINGS
TestStrings = StoreOfStrings.TestCase
TestStrings.settings = _SETTINGS
