"""WindowTree: stretches and covers against brute force, every strategy against the exact filtered answer, files, edits."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from resolvent.search import RandomProjectionForest, WindowTree, exact_search
from resolvent.search.window_nodes import cover, nodes, scales, smallest, smallest_window

RNG = np.random.default_rng(0)
X, Q = RNG.normal(size=(600, 8)).astype(np.float32), RNG.normal(size=(12, 8)).astype(np.float32)


def exhaustive(metric="l2"):
    """An inner index that scores everything: what is left to check is the tree."""
    return RandomProjectionForest(1, 16, metric=metric, candidates=10**6)


def expected(labels, low, high, k, metric="l2", x=X):
    return np.stack(
        [
            exact_search(x, q, k, metric, allowed=(labels >= a) & (labels <= b)).ids
            for q, a, b in zip(Q, low, high, strict=True)
        ]
    )


@pytest.mark.parametrize("n", [7, 100, 1001])
@pytest.mark.parametrize("branching", [2, 3, 4])
def test_stretches_of_the_sorted_order(n, branching):
    leaf = 9
    tree = nodes(n, branching, leaf, False)
    every = {(p.begin, p.end) for p in nodes(n, branching, leaf, True)}
    assert all(p.size > leaf for p in tree) and every >= {(p.begin, p.end) for p in tree}
    for a in range(0, n, 7):
        for b in range(a + 1, n + 1, 11):
            inside, rest = cover(n, branching, leaf, a, b)
            pieces = sorted([(p.begin, p.end) for p in inside] + rest)
            assert pieces[0][0] == a and pieces[-1][1] == b
            assert all(x[1] == y[0] for x, y in itertools.pairwise(pieces))
            assert len(inside) <= 2 * branching * max(len(scales(n, branching, leaf)), 1)
            holders = [p for p in tree if p.begin <= a and b <= p.end]
            found = smallest(n, branching, leaf, a, b)
            assert (found is None) == (not holders)
            assert found is None or found.size == min(p.size for p in holders)
            window = smallest_window(n, leaf, a, b)
            if b - a > leaf and n > leaf:
                # Up to one rank of rounding, a window is less than four times as long as the range.
                assert (window.begin, window.end) in every and window.begin <= a and b <= window.end
                assert window.size <= 4 * (b - a) + 4


@pytest.mark.parametrize("strategy", ["auto", "scan", "tree", "postfilter", "super"])
@pytest.mark.parametrize("branching", [2, 3])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_every_strategy_gives_the_filtered_answer(strategy, branching, metric):
    labels = np.random.default_rng(1).integers(0, 150, 600)
    tree = WindowTree(X, labels, branching=branching, leaf=20, inner=exhaustive(), metric=metric)
    low = np.array([0, 10, 20, 30, 70, 75, 140, 149, 60, 5, 0, 90])
    high = low + np.array([149, 10, 100, 3, 10, 80, 20, 0, 40, 60, 75, 30])
    hits = tree.query(Q, 7, low=low, high=high, strategy=strategy)
    true = expected(labels, low, high, 7, metric)
    np.testing.assert_array_equal(hits.ids, true)
    assert sum(hits.explain["strategies"].values()) == 12
    # More than match: all that match, then padding.
    wide = tree.query(Q, 50, low=149, high=149, strategy=strategy)
    assert wide.counts.tolist() == [int((labels == 149).sum())] * 12
    assert (wide.ids[:, -1] == -1).all()


def test_open_empty_and_odd_windows():
    labels = np.linspace(0, 1, 600)
    tree = WindowTree(X, labels, leaf=50, inner=exhaustive(), metric="l2")
    np.testing.assert_array_equal(tree.query(Q, 3).ids, exact_search(X, Q, 3, "l2").ids)
    np.testing.assert_array_equal(tree.query(Q, 3, low=0.5).ids, expected(labels, [0.5] * 12, [2] * 12, 3))
    assert (tree.query(Q, 3, low=0.9, high=0.1).ids == -1).all()
    assert (tree.query(Q, 3, low=7).scores == -np.inf).all()
    whole = WindowTree(X, np.arange(600) + 2**60, leaf=50, inner=exhaustive(), metric="l2")
    one = whole.query(Q[0], 2, low=2**60 + 5, high=2**60 + 5)
    assert one.ids.tolist() == [5, -1] and one.counts == 1
    assert whole.query(Q[0], 1, low=-np.inf, high=2.0**60 + 0.5).ids.tolist() == [0]
    same = WindowTree(X, np.zeros(600), leaf=50, inner=exhaustive(), metric="l2").query(Q, 3, low=0, high=0)
    np.testing.assert_array_equal(same.ids, exact_search(X, Q, 3, "l2").ids)


def test_a_hard_window_is_asked_again_until_it_has_enough():
    # Labels follow the distance from the query: what is inside the window is farthest in the node that holds it.
    q = X[0]
    labels = np.argsort(np.argsort(((X - q) ** 2).sum(1))).astype(float)
    tree = WindowTree(X, labels, leaf=30, inner=RandomProjectionForest(4, 8, metric="l2", candidates=20), metric="l2")
    hits = tree.query(q, 5, low=250, high=299, strategy="postfilter")
    assert labels[hits.ids].tolist() == [250, 251, 252, 253, 254]
    assert hits.evaluations >= 50


def test_vectors_are_shared_and_files_restore():
    labels = np.random.default_rng(2).random(600)
    tree = WindowTree(X, labels, leaf=50, inner=RandomProjectionForest(2, 16), metric="cosine")
    base = tree._vectors.data
    assert all(np.shares_memory(base, made._vectors.data) for made in tree._nodes.values())
    settings = json.loads(json.dumps(tree.settings()))
    again = WindowTree.restore(settings, {name: part.copy() for name, part in tree.arrays().items()})
    for strategy in ("auto", "tree", "super"):
        a, b = (t.query(Q, 5, low=0.2, high=0.6, strategy=strategy, candidates=40) for t in (tree, again))
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.evaluations, b.evaluations)
    assert again.settings() == tree.settings() and again.nbytes == tree.nbytes
    broken = tree.arrays() | {"structure.labels": np.arange(600.0)[::-1]}
    with pytest.raises(ValueError, match="ascend"):
        WindowTree.restore(settings, broken)


def test_adding_removing_and_allowing():
    labels = np.random.default_rng(3).random(600)
    tree = WindowTree(X[:500], labels[:500], leaf=40, inner=exhaustive(), metric="l2")
    for first in range(500, 600, 20):
        tree.add(X[first : first + 20], labels[first : first + 20])
    low, high = np.full(12, 0.2), np.full(12, 0.7)
    np.testing.assert_array_equal(tree.query(Q, 5, low=0.2, high=0.7).ids, expected(labels, low, high, 5))
    gone = np.unique(tree.query(Q, 5, low=0.2, high=0.7).ids)
    tree.remove(gone)
    kept = np.where(np.isin(np.arange(600), gone), 9.0, labels)
    np.testing.assert_array_equal(tree.query(Q, 5, low=0.2, high=0.7).ids, expected(kept, low, high, 5))
    # By position in the order of arrival, and by id.
    mask = np.random.default_rng(4).random(600) < 0.3
    third = np.where(mask, kept, 9.0)
    np.testing.assert_array_equal(tree.query(Q, 5, low=low, high=high, allowed=mask).ids, expected(third, low, high, 5))
    by_id = tree.query(torch.from_numpy(Q), 5, low=0.2, high=0.7, allowed=np.flatnonzero(mask & (kept < 9)))
    np.testing.assert_array_equal(by_id.ids.numpy(), expected(third, low, high, 5))
    tree.compact()
    assert len(tree) == 600 - len(gone) and len(tree._vectors) == len(tree)
    np.testing.assert_array_equal(tree.query(Q, 5, low=0.2, high=0.7).ids, expected(kept, low, high, 5))
    again = tree.query(Q, 5, low=0.2, high=0.7, allowed=mask[np.setdiff1d(np.arange(600), gone)])
    np.testing.assert_array_equal(again.ids, expected(third, low, high, 5))
    grown = WindowTree(leaf=10, inner=exhaustive(), metric="l2")
    for first in range(0, 600, 30):
        grown.add(X[first : first + 30], labels[first : first + 30])
    assert grown._sorted > 500
    np.testing.assert_array_equal(grown.query(Q, 5, low=0.2, high=0.7).ids, expected(labels, low, high, 5))


def test_string_ids_and_formats():
    labels = np.arange(600) % 60
    for dtype in ("float16", "int8"):
        tree = WindowTree(leaf=60, inner=exhaustive(), metric="l2", dtype=dtype)
        tree.build(X, labels, [f"row {i}" for i in range(600)])
        hits = tree.query(X[:5], 1, low=0, high=30)
        assert hits.ids[:, 0].tolist() == [f"row {i}" for i in range(5)]


def test_bad_input():
    labels = np.arange(600.0)
    tree = WindowTree(X, labels, leaf=100, inner=exhaustive(), overlap=False, metric="l2")
    for call, word in (
        (lambda: WindowTree(branching=1), "branching"),
        (lambda: WindowTree(leaf=0), "leaf"),
        (lambda: WindowTree(strategy="best"), "strategy"),
        (lambda: WindowTree(inner={"kind": "Path"}), "inner"),
        (lambda: WindowTree(X), "labels must be given"),
        (lambda: WindowTree(X, labels[:5]), "labels must have shape"),
        (lambda: WindowTree(X, labels * np.nan), "labels"),
        (lambda: WindowTree().query(Q, 3), "empty"),
        (lambda: tree.query(Q, 0), "k must"),
        (lambda: tree.query(Q, 3, low=np.nan), "low"),
        (lambda: tree.query(Q, 3, high=np.ones(5)), "high"),
        (lambda: tree.query(Q, 3, strategy="super"), "overlap"),
        (lambda: tree.add(X[:2], labels[:3]), "labels"),
        (lambda: tree.add(X[:2], labels[:2], ids=[0, 1]), "0 is in the index"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="option"):
        tree.query(Q, 3, breadth=4)
    with pytest.raises(TypeError, match="labels"):
        WindowTree(X, ["a"] * 600)
    np.testing.assert_array_equal(tree.query(Q, 3).ids, exact_search(X, Q, 3, "l2").ids)
