"""What all indexes share: ids, deletions, filters, files, checks; shown on the simplest structure, which scans."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from resolvent.search import VectorIndex, exact_search
from resolvent.search.exact import top_rows
from resolvent.search.hits import Found
from resolvent.search.ids import IdMap, as_ids


class Flat(VectorIndex):
    """All rows, scanned."""

    def _build(self) -> None:
        self.built = len(self._vectors)

    def _search(self, q: np.ndarray, k: int, allowed: np.ndarray | None, *, depth: int = 1, **options: Any) -> Found:
        return top_rows(self._vectors, q, k, self.inner, allowed)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("kind", ["positions", "int", "str"])
def test_ids_of_every_kind_are_found(x, metric, kind):
    ids = {"positions": None, "int": np.arange(200) * 7 - 3, "str": [f"row {i}" for i in range(200)]}[kind]
    index = (
        Flat(metric).build(x[:150], None if ids is None else ids[:150]).add(x[150:], None if ids is None else ids[150:])
    )
    want = exact_search(x, x[:5], 4, metric).ids
    got = index.query(x[:5], 4).ids
    named = want if ids is None else np.asarray(ids, object if kind == "str" else np.int64)[want]
    assert (got == named).all() and len(index) == 200 and index.dim == 8


def test_removed_rows_are_never_found_and_compact_forgets_them(x):
    index = Flat().build(x, [f"{i}" for i in range(200)])
    best = index.query(x[0], 3).ids.tolist()
    assert index.remove(best) == 3 and len(index) == 197
    assert not set(index.query(x[0], 197).ids.tolist()) & set(best)
    assert index.query(x[0], 200).counts == 197
    before = index.query(x[:9], 20)
    index.compact()
    after = index.query(x[:9], 20)
    assert (before.ids == after.ids).all() and index.built == 197 and (after.evaluations == 197).all()
    with pytest.raises(KeyError, match="not in the index"):
        index.remove(best[:1])


def test_positions_stay_ids_after_compact(x):
    index = Flat("l2").build(x)
    index.remove([0, 5])
    index.compact()
    assert (index.query(x[7], 1).ids == [7]).all()
    with pytest.raises(KeyError):
        index.remove(5)
    index.remove(7)
    assert index.query(x[7], 1).ids[0] != 7


def test_rows_without_ids_go_on_behind_the_ids_that_are_there(x):
    index = Flat("l2").build(x)
    index.remove([0, 5])
    index.compact().add(x[:2] + 50)
    assert index.query(x[:2] + 50, 1).ids.ravel().tolist() == [200, 201]
    far = Flat("l2").build(x[:1], [1000]).add(x[1:2])
    assert far.query(x[1], 1).ids.tolist() == [1001]


def test_a_removed_id_may_come_back(x):
    index = Flat("l2").build(x)
    index.remove([3])
    index.add(x[4:5] + 100, [3])
    assert index.query(x[4] + 100, 1).ids.tolist() == [3]
    assert index.query(x[3], 1).ids.tolist() != [3]


@pytest.mark.parametrize("kind", ["mask", "ids", "tensor"])
def test_allowed_by_mask_or_by_ids(x, kind):
    index = Flat().build(x)
    index.remove([2])
    wanted = [1, 9, 30]
    mask = np.zeros(200, bool)
    mask[[1, 2, 9, 30]] = True
    allowed = {"mask": mask, "ids": wanted, "tensor": torch.from_numpy(mask)}[kind]
    hits = index.query(x[:2], 10, allowed=allowed)
    assert (hits.counts == 3).all() and set(hits.ids[0, :3].tolist()) == set(wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["positions", "int", "str"])
def test_settings_and_arrays_restore_the_index(x, dtype, kind):
    ids = {"positions": None, "int": np.arange(200)[::-1].copy(), "str": [f"ä{i}" for i in range(200)]}[kind]
    index = Flat("cosine", dtype).build(x, ids)
    index.remove([5] if kind != "str" else ["ä5"])
    arrays = {name: part.copy() for name, part in index.arrays().items()}
    for part in arrays.values():
        part.flags.writeable = False
    again = Flat.restore(json.loads(json.dumps(index.settings())), arrays)
    assert (again.query(x[:9], 12).ids == index.query(x[:9], 12).ids).all()
    assert len(again) == 199
    again.add(x[:1] + 1, None if kind == "positions" else ([1000] if kind == "int" else ["new"]))
    assert len(again) == 200
    with pytest.raises(KeyError):
        again.remove(["ä5"] if kind == "str" else [5])


def test_vectors_may_lie_elsewhere(x):
    index = Flat("l2").build(x)
    again = Flat.restore(index.settings(), index.arrays(vectors=False), index._vectors)
    assert (again.query(x[:3], 5).ids == index.query(x[:3], 5).ids).all()


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 36), ("float16", 20), ("bfloat16", 20), ("int8", 16)])
def test_bytes_are_counted(x, dtype, bytes_each):
    assert Flat("ip", dtype).build(x).nbytes == 200 * bytes_each


def test_an_index_of_no_rows_answers_nothing():
    index = Flat().build(np.empty((0, 4)))
    assert index.query(np.ones(4), 2).counts == 0 and len(index) == 0
    with pytest.raises(ValueError, match="the index is empty"):
        Flat().query(np.ones(4), 2)


def test_huge_and_tiny_vectors_keep_their_direction(x):
    scaled = x.copy()
    scaled[::2] *= 1e25
    scaled[1::2] *= 1e-25
    assert (Flat("cosine").build(scaled).query(x[:9], 5).ids == Flat("cosine").build(x).query(x[:9], 5).ids).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i, x: i.add(x, np.arange(200)), ValueError, "ids must be new, 0 is in the index already"),
        (lambda i, x: i.add(x[:2], [900, 900]), ValueError, "900 is given twice"),
        (lambda i, x: i.add(x[:2], [900]), ValueError, "ids must have one entry for each of the 2 rows"),
        (lambda i, x: i.add(x[:1], ["a"]), TypeError, "all be integers or all be strings"),
        (lambda i, x: i.add(x[:1], [1.5]), TypeError, "ids must be integers or strings"),
        (lambda i, x: i.add(x[:, :3]), ValueError, "x must have 8 columns"),
        (lambda i, x: i.query(x, 0), ValueError, "k must be a positive integer"),
        (lambda i, x: i.query(x, 1, deep=2), TypeError, "Flat.query has no option 'deep'; it has depth"),
        (lambda i, x: i.query(x, 1, allowed=np.ones(3, bool)), ValueError, "allowed must have one entry"),
        (lambda i, x: i.query(x, 1, allowed=[999]), KeyError, "allowed has 1 that are not in the index"),
        (lambda i, x: i.query(x * np.nan, 1), ValueError, "q has 1600 entries that are NaN"),
        (lambda i, x: i.query([["a"]], 1), TypeError, "q must be a numeric array"),
        (lambda i, x: Flat("dot"), ValueError, "metric must be one of"),
        (lambda i, x: Flat(dtype="float64"), ValueError, "dtype must be one of"),
        (lambda i, x: Flat("cosine").build(x * 0), ValueError, "zero vector"),
        (lambda i, x: Flat.restore({"kind": "IVF"}, {}), ValueError, "settings must be of a Flat"),
        (lambda i, x: Flat("ip", "float16").build(x * 1e6), ValueError, "beyond 65504"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(x, call, error, message):
    index = Flat().build(x)
    before = index.query(x[:5], 7).ids
    with pytest.raises(error, match=message):
        call(index, x)
    assert len(index) == 200 and (index.query(x[:5], 7).ids == before).all()


def test_a_row_that_cannot_be_kept_leaves_no_id_behind(x):
    index = Flat("ip", "float16").build(x)
    with pytest.raises(ValueError, match="beyond 65504"):
        index.add(x[:1] * 1e6, [500])
    index.add(x[:1], [500])
    assert len(index) == 201


def test_ids_are_integers_or_strings():
    assert (
        as_ids(torch.tensor([1, 2])).tolist() == [1, 2] and as_ids("a").tolist() == ["a"] and as_ids(5).tolist() == [5]
    )
    assert as_ids(np.array(["a", "b"])).dtype == object and as_ids([]).dtype == np.int64
    with pytest.raises(ValueError, match="fit into int64"):
        as_ids(np.array([2**63], np.uint64))
    with pytest.raises(ValueError, match="one-dimensional"):
        as_ids(np.zeros((2, 2), int))


def test_a_failed_append_keeps_removed_positions_removed():
    known = IdMap()
    known.append(3)
    known.remove(np.array([1]))
    with pytest.raises(ValueError, match="must be new"):
        known.append(1, [2])
    with pytest.raises(KeyError):
        known.positions([1])
    known.append(1, [1])
    assert known.positions([1]).tolist() == [3]
