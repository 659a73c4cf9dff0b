"""The choice between scan and structure, and the search of a field in memory: a structure may be bad, an answer not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

from resolvent.search import InvertedIndex, VectorIndex, Vectors, exact_search
from resolvent.search.field_search import Ask, exact_scores, search_field
from resolvent.search.hits import Found
from resolvent.search.planner import METHODS, plan_part


class Starving(VectorIndex):
    """A post-filter: it looks at the `ef` best rows of all and gives back those of them that are allowed."""

    def __init__(self, metric="ip", dtype="float32"):
        super().__init__(metric, dtype)
        self.asked = []

    def _build(self):
        pass

    def _search(self, q, k, allowed, *, ef=64):
        self.asked.append((len(q), ef))
        scores = q @ self._vectors.rows(np.arange(len(self._vectors))).T
        order = np.argsort(-scores, axis=1)[:, :ef]
        rows, best = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        for i, own in enumerate(order):
            own = own[allowed[own] != 0][:k] if allowed is not None else own[:k]
            rows[i, : len(own)], best[i, : len(own)] = own, scores[i, own]
        return Found(rows, best, np.full(len(q), min(ef, len(scores[0]))), np.zeros(len(q), np.int64))


def part_of(x, first=0, gap=1, dead=(), index=None, metric="ip"):
    rows = first + gap * np.arange(len(x), dtype=np.int64)
    live = np.ones(len(x), np.uint8)
    live[list(dead)] = 0
    structures = {}
    if index is not None:
        structures["hnsw"] = index.build(x)
    return SimpleNamespace(
        name=f"part {first}", rows=rows, vectors=Vectors.of(x), structures=structures, live=live, metric=metric
    )


def snapshot_of(*parts):
    return SimpleNamespace(parts=lambda field: list(parts))


def ask_of(q):
    return Ask("Dense", np.ascontiguousarray(q, np.float32), len(q))


@pytest.mark.parametrize(
    ("rows", "matches", "there", "options", "method"),
    [
        (100_000, 0, ["hnsw"], {}, "none"),
        (100_000, 2000, ["hnsw"], {}, "scan"),
        (100_000, 100_000, ["hnsw"], {}, "hnsw"),
        (100_000, 50_000, ["hnsw"], {}, "hnsw"),
        (100_000, 2_001, ["hnsw"], {}, "hnsw"),
        (100_000, 5_000, ["hnsw"], {"ef": 500}, "scan"),
        (100_000, 3_500, ["hnsw"], {"ef": 1000}, "scan"),
        (100_000, 100_000, [], {}, "scan"),
        (100_000, 100_000, ["hnsw"], {"method": "exact"}, "scan"),
        (100_000, 100_000, ["hnsw", "ivfpq"], {"method": "ivfpq"}, "ivfpq"),
        (100_000, 100_000, ["hnsw"], {"method": "ivfpq"}, "scan"),
        (100_000, 100_000, ["ivf", "ivfpq"], {}, "ivfpq"),
        (100_000, 10, ["hnsw"], {"method": "hnsw"}, "hnsw"),
        (100_000, 100_000, ["hnsw"], {"k": 50_000}, "scan"),
        (3_000, 3_000, ["hnsw"], {}, "hnsw"),
        (3_000, 3_000, ["hnsw"], {"queries": 1000}, "scan"),
    ],
)
def test_the_choice_for_dense_fields(rows, matches, there, options, method):
    step = plan_part("p", "Dense", rows, matches, there, **options)
    assert step.method == method and step.reason


def test_the_choice_for_other_fields():
    assert plan_part("p", "Sparse", 100, 100, ["sparse"]).method == "sparse"
    assert plan_part("p", "Sparse", 100, 100, []).method == "scan"
    assert plan_part("p", "MultiVector", 100_000, 100_000, ["fde"]).method == "fde"
    assert plan_part("p", "MultiVector", 100_000, 100, ["fde"]).method == "scan"
    # A method of dense fields says nothing about the sparse one that is asked along with them.
    assert plan_part("p", "Sparse", 100, 100, ["sparse"], method="hnsw").method == "sparse"
    assert set(METHODS) > {"auto", "exact", "hnsw"}


@pytest.mark.parametrize("share", [0.002, 0.05, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_every_match_is_found_however_the_structure_starves(share, seed):
    g = np.random.default_rng(seed)
    x, q = g.normal(size=(3000, 8)).astype(np.float32), g.normal(size=(6, 8)).astype(np.float32)
    # What matches is what the queries would never see: the structure's first rows are all forbidden.
    order = np.argsort(x @ q.sum(0))
    matching = np.sort(order[: int(share * len(x))])
    index = Starving()
    found, plan = search_field(snapshot_of(part_of(x, index=index)), "v", ask_of(q), 10, matching, {"method": "hnsw"})
    k = min(10, len(matching))
    assert ((found.rows >= 0).sum(1) == k).all()
    assert np.isin(found.rows[:, :k], matching).all()
    assert plan.steps[0].method == "hnsw" and len(index.asked) >= 1


def test_looking_further_doubles_and_only_for_the_queries_that_are_short():
    g = np.random.default_rng(0)
    x = g.normal(size=(20_000, 4)).astype(np.float32)
    q = np.stack([x[0], -x[0]])
    scores = x @ x[0]
    matching = np.flatnonzero(scores > np.quantile(scores, 0.5))
    index = Starving()
    found, plan = search_field(snapshot_of(part_of(x, index=index)), "v", ask_of(q), 10, matching, {"method": "hnsw"})
    assert index.asked[0] == (2, 64) and index.asked[1] == (1, 128)
    assert all(b == (1, 2 * a[1]) for a, b in zip(index.asked[1:], index.asked[2:], strict=False))
    # Half of the rows are forbidden and nearer to the second query: a scan costs less than going on for ever.
    assert index.asked[-1][1] < 20_000 and "scanned" in plan.steps[0].reason
    mask = np.zeros(len(x), bool)
    mask[matching] = True
    assert (found.rows == exact_search(x, q, 10, allowed=mask).ids).all()


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_parts_tombstones_and_filters_against_brute_force(metric):
    g = np.random.default_rng(1)
    a, b, c = (g.normal(size=(n, 6)).astype(np.float32) for n in (40, 1, 300))
    parts = [
        part_of(a, 5, 3, dead=[0, 39, 7], metric=metric),
        part_of(b, 1000, metric=metric),
        part_of(c, 2000, 2, dead=range(50), metric=metric),
    ]
    rows = np.concatenate([p.rows for p in parts])
    live = np.concatenate([p.live for p in parts]).astype(bool)
    x, q = np.concatenate([a, b, c]), g.normal(size=(5, 6)).astype(np.float32)
    for matching in (None, np.sort(g.choice(rows, 60, replace=False)), np.array([1000, 999, 3]), np.empty(0, np.int64)):
        matching = None if matching is None else np.sort(matching)
        allowed = live if matching is None else live & np.isin(rows, matching)
        found, plan = search_field(snapshot_of(*parts), "v", ask_of(q), 20, matching, {})
        want = exact_search(x, q, 20, metric, allowed=allowed)
        assert (found.rows == np.where(want.ids >= 0, rows[want.ids], -1)).all()
        assert np.allclose(found.scores, want.scores, atol=1e-5)
        assert plan.exact and plan.matches == allowed.sum()


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_exact_scores_of_given_rows(metric):
    g = np.random.default_rng(2)
    x, q = g.normal(size=(30, 5)).astype(np.float32), g.normal(size=(3, 5)).astype(np.float32)
    snapshot = snapshot_of(part_of(x[:10], metric=metric), part_of(x[10:], 100, metric=metric), part_of(x[:0], 900))
    rows = np.array([[0, 9, 100, 119], [-1, 50, 105, 3], [119, 119, -1, 900]])
    place = {**{i: i for i in range(10)}, **{100 + i: 10 + i for i in range(20)}}
    scores = exact_scores(snapshot, "v", ask_of(q), rows)
    for i, own in enumerate(rows):
        for j, row in enumerate(own.tolist()):
            if row not in place:
                assert scores[i, j] == -np.inf
                continue
            one = x[place[row]]
            want = one @ q[i] if metric == "ip" else -((one - q[i]) ** 2).sum()
            assert scores[i, j] == pytest.approx(want, abs=1e-5)


def test_a_sparse_part_without_structure():
    g = np.random.default_rng(3)
    dense = g.normal(size=(50, 12)) * (g.random((50, 12)) < 0.2)
    matrix, q = (
        scipy.sparse.csr_matrix(dense, dtype=np.float32),
        scipy.sparse.csr_matrix(dense[:4, :10], dtype=np.float32),
    )
    rows = np.arange(50, dtype=np.int64) * 2
    part = SimpleNamespace(name="p", rows=rows, vectors=matrix, structures={}, live=np.ones(50, np.uint8), metric="ip")
    matching = rows[10:40]
    found, _ = search_field(snapshot_of(part), "s", Ask("Sparse", q, 4), 50, matching, {})
    scores = dense[10:40, :10] @ dense[:4, :10].T
    for i in range(4):
        own = found.rows[i][found.rows[i] >= 0]
        assert set(own.tolist()) == set((rows[10:40][np.abs(scores[:, i]) > 1e-12]).tolist())
        assert np.allclose(
            found.scores[i][: len(own)], -np.sort(-scores[:, i][np.abs(scores[:, i]) > 1e-12]), atol=1e-5
        )


def test_a_sparse_part_with_postings_answers_as_the_scan():
    g = np.random.default_rng(4)
    dense = g.random((80, 12)) * (g.random((80, 12)) < 0.2)
    matrix = scipy.sparse.csr_matrix(dense, dtype=np.float32)
    parts = [
        SimpleNamespace(
            name="p",
            rows=np.arange(80, dtype=np.int64) + 7,
            vectors=matrix,
            structures=structures,
            live=(np.arange(80) % 5 > 0).astype(np.uint8),
            metric="ip",
        )
        for structures in ({}, {"sparse": InvertedIndex(matrix)})
    ]
    for signs, method in ((1.0, "sparse"), (-1.0, "scan")):
        q = scipy.sparse.csr_matrix(dense[:3, :9] * signs, dtype=np.float32)
        (scan, _), (found, plan) = (search_field(snapshot_of(p), "s", Ask("Sparse", q, 3), 6, None, {}) for p in parts)
        assert np.allclose(found.scores, scan.scores, atol=1e-6) and plan.steps[0].method == method and plan.exact
