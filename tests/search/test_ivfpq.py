"""Inverted lists of codes: recall, the limits that are exact, filters, growth, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent import search

METRICS = ["ip", "l2", "cosine"]


def corpus(n=6000, dim=32, seed=0, **options):
    return search.clustered_vectors(n, dim, clusters=60, n_queries=40, generator=seed, **options)


def recall(hits, exact) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(hits.ids.tolist(), exact.ids.tolist(), strict=True)])
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "options", [{"bits": 4}, {"bits": 8}, {"bits": 4, "rotate": True}, {"by_residual": False}], ids=str
)
def test_recall_at_a_twentieth_of_the_codes(metric, options):
    data = corpus()
    index = search.IVFPQ(lists=80, m=16, metric=metric, **options).build(data.x)
    exact = search.exact_search(data.x, data.queries, 10, metric)
    hits = index.query(data.queries, 10, probes=8, refine=10)
    assert recall(hits, exact) > 0.9
    assert bool((hits.scanned < 0.25 * len(data.x)).all())
    assert bool((hits.evaluations <= 80 + 100).all())
    full = index.query(data.queries, 10, probes=80, refine=600)
    assert recall(full, exact) == 1.0
    torch.testing.assert_close(full.scores, exact.scores, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [4, 8])
def test_approximate_scores_are_those_of_centre_plus_codeword(metric, bits):
    data = corpus(1500)
    index = search.IVFPQ(lists=12, m=8, bits=bits, metric=metric, rotate=True).build(data.x)
    hits = index.query(data.queries, 30, probes=12, refine=0)
    x, q = data.x.double(), data.queries.double()
    if metric == "cosine":
        x, q = (t / torch.linalg.vector_norm(t, dim=1, keepdim=True) for t in (x, q))
    # The reconstruction, from the public parts.
    book, shift = index.codebook, torch.from_numpy(index._shift)
    centres = torch.from_numpy(index._centres)
    z = torch.from_numpy(book.project((x.float() - shift).numpy()))
    own = centres[torch.cdist(z, centres).argmin(1)]
    y = torch.from_numpy(book.words(book.assign((z - own).numpy())[0])) + own
    y = (y @ torch.from_numpy(book.turn).T + shift).double()
    scores = -torch.cdist(q, y).square() if metric == "l2" else q @ y.T
    expected = scores.gather(1, hits.ids)
    atol = float(scores.abs().max()) * (0.01 if bits == 4 else 1e-4)
    torch.testing.assert_close(hits.scores.double(), expected, atol=atol, rtol=0)


def test_recall_grows_with_probes_and_candidates():
    data = corpus(spread=1.0)
    index = search.IVFPQ(lists=64, m=8, bits=4, metric="l2").build(data.x)
    exact = search.exact_search(data.x, data.queries, 10, "l2")
    by_probes = [recall(index.query(data.queries, 10, probes=p, refine=600), exact) for p in (1, 2, 4, 8, 16, 32, 64)]
    assert by_probes == sorted(by_probes) and by_probes[0] < 0.95 and by_probes[-1] == 1
    by_refine = [recall(index.query(data.queries, 10, probes=64, refine=r), exact) for r in (1, 4, 16, 64, 600)]
    assert by_refine == sorted(by_refine) and by_refine[0] < 0.9


@pytest.mark.parametrize("kind", ["IVF", "IVFPQ", "OPQ"])
@pytest.mark.parametrize("share", [0.002, 0.1, 0.6])
def test_filters_give_k_hits_whatever_they_leave(kind, share):
    data = corpus(4000)
    made = {
        "IVF": lambda: search.IVF(lists=50, probes=2),
        "IVFPQ": lambda: search.IVFPQ(lists=50, m=16, bits=4, probes=2, refine=20),
        "OPQ": lambda: search.OPQ(m=16, bits=4, refine=20),
    }[kind]()
    index = made.build(data.x)
    allowed = np.random.default_rng(0).random(4000) < share
    hits = index.query(data.queries, 10, allowed=allowed)
    there = min(10, int(allowed.sum()))
    assert bool((hits.counts == there).all())
    assert all(allowed[i] for row in hits.ids.tolist() for i in row if i >= 0)
    exact = search.exact_search(data.x, data.queries, there, "ip", allowed=allowed)
    assert recall(hits, exact) > 0.9 - 0.3 * (kind != "OPQ")


@pytest.mark.parametrize("kind", [search.IVF, search.IVFPQ])
def test_rows_added_one_by_one_are_found_and_removed_rows_are_not(kind):
    data = corpus(1200)
    options = {"bits": 4, "m": 16, "refine": 1000} if kind is search.IVFPQ else {}
    index = kind(lists=10, metric="l2", probes=10, **options).build(data.x[:700], ids=[f"a{i}" for i in range(700)])
    for first in (700, 701, 702, 950):
        last = {702: 950, 950: 1200}.get(first, first + 1)
        index.add(data.x[first:last], ids=[f"a{i}" for i in range(first, last)])
    gone = [f"a{i}" for i in range(0, 1200, 3)]
    assert index.remove(gone) == 400
    kept = np.array([i % 3 > 0 for i in range(1200)])
    exact = search.exact_search(data.x, data.queries, 5, "l2", allowed=kept)
    hits = index.query(data.queries, 5)
    assert [[int(i[1:]) for i in row] for row in hits.ids] == exact.ids.tolist()
    again = index.compact().query(data.queries, 5)
    assert (again.ids == hits.ids).all() and len(index) == 800


def test_an_index_that_grew_from_little_is_trained_again():
    data = corpus(6000)
    index = search.IVFPQ(m=8, bits=4, metric="l2", refine=10)
    for first in range(0, 6000, 500):
        index.add(data.x[first : first + 500])
    assert index.query(data.queries, 1).evaluations.max() <= 10 + 80
    assert len(index._centres) > 40
    exact = search.exact_search(data.x, data.queries, 10, "l2")
    assert recall(index.query(data.queries, 10), exact) > 0.9


@pytest.mark.parametrize("made", [
    search.IVF(lists=20), search.IVFPQ(lists=20, m=8, bits=4, metric="l2"), search.IVFPQ(lists=20, m=6, rotate=True),
    search.ProductQuantizer(m=5, bits=4, metric="cosine"), search.OPQ(m=8, bits=4),
], ids=lambda i: type(i).__name__)  # fmt: skip
def test_what_is_restored_answers_the_same_and_can_grow(made):
    data = corpus(1500)
    index = made.build(data.x)
    index.add(data.x[:10] * 1.01)
    index.remove([3, 7])
    arrays = {name: part.copy() for name, part in index.arrays().items()}
    for part in arrays.values():
        part.flags.writeable = False
    again = type(index).restore(index.settings(), arrays)
    a, b = index.query(data.queries, 10), again.query(data.queries, 10)
    assert bool((a.ids == b.ids).all()) and bool((a.scores == b.scores).all()) and len(again) == len(index)
    index.add(data.x[:100] * 0.99, ids=range(5000, 5100)), again.add(data.x[:100] * 0.99, ids=range(5000, 5100))
    a, b = index.query(data.queries, 10), again.query(data.queries, 10)
    assert bool((a.ids == b.ids).all())


@pytest.mark.parametrize("name, change", [
    ("structure.lists_start", lambda a: a + 32 * 10**6), ("structure.lists_size", lambda a: a + 10**6),
    ("structure.lists_rows", lambda a: a * 0 + 10**6), ("structure.books", lambda a: a[:2]),
    ("structure.centres", lambda a: a[:, :-1]), ("structure.lists_codes", lambda a: a[:-1]),
])  # fmt: skip
def test_damaged_arrays_are_refused(name, change):
    data = corpus(1500)
    index = search.IVFPQ(lists=20, m=8, bits=4, metric="l2").build(data.x)
    arrays = index.arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(ValueError):
        search.IVFPQ.restore(index.settings(), arrays)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_candidates_are_scored_in_the_format_of_the_rows(dtype):
    data = corpus(3000)
    index = search.IVFPQ(lists=20, m=16, bits=4, metric="l2", dtype=dtype, probes=20, refine=20).build(data.x)
    exact = search.exact_search(data.x, data.queries, 10, "l2")
    assert recall(index.query(data.queries, 10), exact) > (0.9 if dtype == "int8" else 0.97)


def test_far_from_the_origin_distances_keep_their_digits():
    data = corpus(2000)
    near, far = (search.IVFPQ(lists=10, m=16, bits=8, metric="l2", probes=10).build(data.x + c) for c in (0, 1000))
    a, b = near.query(data.queries, 10), far.query(data.queries + 1000, 10)
    assert recall(b, a) > 0.97


def test_one_query_and_options_and_bad_input():
    data = corpus(1000)
    index = search.IVFPQ(lists=10, m=8, bits=4).build(data.x)
    many, one = index.query(data.queries, 3), index.query(data.queries[0], 3)
    assert one.ids.tolist() == many.ids[0].tolist()
    with pytest.raises(ValueError, match="probes must be a positive integer, got 0"):
        index.query(data.queries, probes=0)
    with pytest.raises(TypeError, match="no option 'ef'"):
        index.query(data.queries, ef=10)
    with pytest.raises(ValueError, match="lists must be a positive integer"):
        search.IVFPQ(lists=0)
    empty = search.IVFPQ(lists=4).build(np.empty((0, 8), np.float32))
    assert empty.query(np.ones(8), 3).counts == 0
    assert index.query(data.queries, 2000).counts.tolist() == [1000] * 40


def test_faiss_finds_no_more_with_the_same_codes():
    faiss = pytest.importorskip("faiss")
    data = search.clustered_vectors(20_000, 32, clusters=60, spread=1.0, n_queries=600, generator=0)
    exact = search.exact_search(data.x, data.queries, 10, "l2")
    ours = search.IVFPQ(lists=100, m=16, bits=4, metric="l2", refine=0).build(data.x)
    theirs = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(32), 32, 100, 16, 4)
    theirs.by_residual = True
    theirs.train(data.x.numpy())
    theirs.add(data.x.numpy())
    theirs.nprobe = 10
    ids = theirs.search(data.queries.numpy(), 10)[1]
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), exact.ids.tolist(), strict=True)])
    assert recall(ours.query(data.queries, 10, probes=10), exact) > found - 0.03
