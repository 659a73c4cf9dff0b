"""SplitNearestNeighbor: against the definition by loops, limiting cases, kinds, the choice of groups by merging."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.search import SplitNearestNeighbor, choose_groups, exact_search
from resolvent.search.exact import top_rows
from resolvent.search.index import VectorIndex
from resolvent.search.split import _minima


class Scan(VectorIndex):
    """An index by scans, as one that a user might give."""

    def _build(self):
        pass

    def _search(self, q, k, allowed):
        return top_rows(self._vectors, q, k, self.inner, allowed)


def data(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, dim))
    return x, np.sin(4 * x[:, 0]) + x.sum(1), rng.random((30, dim)) * 1.1


def by_loops(model, x, q, kept):
    """The definition: every group's nearest point, the `kept` nearest of those."""
    group = np.empty(len(x), np.int64)
    group[torch.randperm(len(x), generator=torch.Generator().manual_seed(3)).numpy()] = np.arange(len(x)) % model.groups
    found = []
    for point in q:
        d = ((x - point) ** 2).sum(1)
        best = [min(np.flatnonzero(group == m), key=lambda i: d[i]) for m in range(model.groups)]
        found.append(sorted(best, key=lambda i: d[i])[:kept])
    return np.array(found)


@pytest.mark.parametrize("dim", [1, 2, 5, 9])
@pytest.mark.parametrize(("groups", "keep"), [(1, 1.0), (13, 1.0), (13, 0.4), (90, 0.5), (120, 1.0)])
def test_the_definition(dim, groups, keep):
    x, y, q = data(120, dim)
    model = SplitNearestNeighbor(groups, keep, "regress", generator=3).fit(x, y)
    rows, gaps = model.neighbors(q)
    expected = by_loops(model, x, q, math.ceil(groups * keep))
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(gaps, ((x[expected] - q[:, None]) ** 2).sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict(q), y[expected].mean(1))


def test_limits():
    x, y, q = data(200, 2)
    nearest = exact_search(x, q, 1, "l2").ids[:, 0]
    one = SplitNearestNeighbor(1, task="regress", generator=0).fit(x, y)
    np.testing.assert_array_equal(one.predict(q), y[nearest])
    # Groups of one point each: all of them is the mean, a share of them is a k-nearest-neighbour rule.
    np.testing.assert_allclose(SplitNearestNeighbor(200, task="regress").fit(x, y).predict(q), y.mean())
    k = SplitNearestNeighbor(200, 0.05, task="regress").fit(x, y)
    np.testing.assert_allclose(k.predict(q), y[exact_search(x, q, 10, "l2").ids].mean(1))


def test_votes_labels_and_kinds():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 6])
    names = np.repeat(np.array(["far", "near"]), 100)
    model = SplitNearestNeighbor(15, 0.5, generator=0).fit(x, names)
    assert model.predict([[0.0, 0.0], [6.0, 6.0]]).tolist() == ["far", "near"]
    assert model.classes.tolist() == ["far", "near"]
    np.testing.assert_allclose(model.predict_proba([[0.0, 0.0]]), [[1.0, 0.0]])
    labels = torch.arange(200) // 100 + 4
    found = SplitNearestNeighbor(15, generator=0).fit(torch.from_numpy(x), labels).predict(torch.zeros(1, 2))
    assert found.dtype == torch.int64 and found.tolist() == [4]
    several = SplitNearestNeighbor(5, task="regress").fit(x, np.stack([x[:, 0], x[:, 1]], 1).astype(np.float32))
    assert several.predict(x[:7]).shape == (7, 2) and several.predict(x[:7]).dtype == np.float32
    assert SplitNearestNeighbor(5, task="regress").fit(x, np.arange(200)).predict(x[:3]).dtype == np.float64


def test_threads_seeds_and_indexes_of_the_user():
    x, y, _ = data(500, 3)
    q = np.random.default_rng(2).random((300, 3))
    rows = SplitNearestNeighbor(20, 0.5, "regress", generator=4).fit(x, y).neighbors(q)[0]
    for options in ({"workers": 2}, {"index": lambda: Scan(metric="l2")}):
        same = SplitNearestNeighbor(20, 0.5, "regress", generator=4, **options).fit(x, y)
        assert (same.neighbors(q)[0] == rows).mean() > 0.999
    other = SplitNearestNeighbor(20, 0.5, "regress", generator=5).fit(x, y)
    assert (other.neighbors(q)[0] != rows).any()


def test_merged_groups_are_the_groups_themselves():
    x, _, _ = data(150, 2)
    group = np.arange(150) % 16
    left_out = np.arange(40)
    gaps, rows = _minima(x, group, 16, left_out)
    d = ((x[:40, None] - x[None]) ** 2).sum(-1)
    d[left_out, left_out] = np.inf
    for m in range(16):
        mine = np.flatnonzero(group == m)
        np.testing.assert_array_equal(rows[:, m], mine[d[:, mine].argmin(1)])
    np.testing.assert_allclose(np.minimum(gaps[:, :8], gaps[:, 8:])[:, 3], d[:, group % 8 == 3].min(1))


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_the_choice_of_groups_follows_the_noise(keep):
    x, y, q = data(1000, 2)
    rng = np.random.default_rng(5)
    quiet = choose_groups(x, y, keep, "regress", generator=0)
    loud = choose_groups(x, y + rng.normal(size=1000), keep, "regress", generator=0)
    assert quiet.groups < 8 < loud.groups
    assert loud.tried == tuple(2**i for i in range(8, -1, -1)) and len(loud.errors) == 9
    model = SplitNearestNeighbor(None, keep, "regress", generator=0).fit(x, y)
    assert model.choice.groups < 8 and model.predict(q).shape == (30,)
    pure = choose_groups(x, x[:, 0] > 0.5, keep, generator=0)
    assert min(pure.errors) < 0.05


def test_bad_input():
    x, y, q = data(50, 2)
    fitted = SplitNearestNeighbor(5, task="regress").fit(x, y)
    for call, word in (
        (lambda: SplitNearestNeighbor(0), "groups"),
        (lambda: SplitNearestNeighbor(5, keep=0), "keep"),
        (lambda: SplitNearestNeighbor(5, keep=1.5), "keep"),
        (lambda: SplitNearestNeighbor(5, task="rank"), "task"),
        (lambda: SplitNearestNeighbor(51).fit(x, y), "groups"),
        (lambda: SplitNearestNeighbor(5).fit(x, y[:9]), "y must"),
        (lambda: SplitNearestNeighbor(5).fit(x * math.nan, y), "X has"),
        (lambda: SplitNearestNeighbor(5, task="regress").fit(x, y * math.nan), "y has"),
        (lambda: SplitNearestNeighbor(5).fit(x, np.stack([y, y], 1)), "y must"),
        (lambda: SplitNearestNeighbor(5).predict(q), "fitted"),
        (lambda: fitted.predict(q[:, :1]), "columns"),
        (lambda: fitted.predict_proba(q), "classify"),
        (lambda: choose_groups(x[:3], y[:3]), "4 points"),
        (lambda: choose_groups(x, y, task="regress", sample=0), "sample"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="l2"):
        SplitNearestNeighbor(5, index=lambda: Scan(metric="ip")).fit(x, y)
