"""The inverted index against the full product, whatever is added, removed or filtered."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from resolvent import search


def sparse_rows(n, dim, density, seed, steps=None):
    """Random nonnegative rows; `steps` makes few distinct values, and with them many ties."""
    rng = np.random.default_rng(seed)
    x = sparse.random_array((n, dim), density=density, rng=rng, dtype=np.float32).tocsr()
    if steps:
        x.data = np.ceil(x.data * steps).astype(np.float32)
    return x


def dense_top(q, x, k, allowed=None):
    """Scores of the best k of the full product in float64, -inf where nothing matches."""
    scores = (sparse.csr_array(q).astype(np.float64) @ sparse.csr_array(x).astype(np.float64).T).toarray()
    scores[scores == 0] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    best = -np.sort(-scores, axis=1)[:, :k]
    return scores, np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-np.inf)


def check(hits, q, x, k, allowed=None):
    """The scores are the best ones, and each id has the score that it is said to have."""
    scores, best = dense_top(q, x, k, allowed)
    assert hits.scores.dtype == np.float32
    np.testing.assert_allclose(hits.scores, best, rtol=1e-6)
    for row, (ids, values) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        found = values > -np.inf
        assert np.all(ids[~found] == -1)
        assert len(set(ids[found].tolist())) == found.sum()
        np.testing.assert_allclose(values[found], scores[row, ids[found]], rtol=1e-6)


@pytest.mark.parametrize("n, dim, density, k", [(3000, 200, 0.05, 10), (700, 30, 0.5, 1), (300, 500, 0.01, 40)])
def test_the_answer_is_that_of_the_product(n, dim, density, k):
    x, q = sparse_rows(n, dim, density, 0), sparse_rows(30, dim, 0.05, 1)
    check(search.InvertedIndex(x).query(q, k), q, x, k)


@pytest.mark.parametrize("steps", [1, 3])
def test_ties(steps):
    x, q = sparse_rows(2000, 40, 0.1, 0, steps), sparse_rows(20, 40, 0.1, 1, steps)
    check(search.InvertedIndex(x).query(q, 7), q, x, 7)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 30), st.sampled_from([0.0, 0.02, 0.3, 1.0]), st.integers(0, 10**6))
def test_any_sparsity(n, dim, density, seed):
    x, q = sparse_rows(n, dim, density, seed, 4), sparse_rows(3, dim, 0.5, seed + 1, 3)
    k = 1 + seed % 20
    check(search.InvertedIndex(x).query(q, k), q, x, k)


def test_codes_of_8_bits_are_answered_exactly_and_are_near():
    x, q = sparse_rows(2000, 100, 0.05, 0), sparse_rows(30, 100, 0.05, 1)
    index = search.InvertedIndex(x, impacts="uint8")
    scale = x.max(axis=0).toarray().ravel() / 255
    rounded = x.copy()
    rounded.data = np.clip(np.rint(x.data / scale[x.indices]), 1, 255).astype(np.float32) * scale[x.indices]
    check(index.query(q, 10), q, rounded, 10)
    near = index.query(q, 10).scores - search.InvertedIndex(x).query(q, 10).scores
    assert np.all(np.abs(near) <= (q.sum(1) * x.max() / 510 * 1.001)[:, None])
    assert index.nbytes < 0.7 * search.InvertedIndex(x).nbytes


def test_most_postings_are_not_read():
    corpus = search.topic_corpus(20000, 5000, 100, queries=50, generator=0)
    weights = search.bm25(corpus.counts)
    hits = search.InvertedIndex(weights).query(corpus.queries.counts, 10)
    check(hits, corpus.queries.counts, weights, 10)
    lists = (corpus.queries.counts > 0) @ np.diff(sparse.csc_array(weights).indptr)
    assert 5 * hits.scanned.sum() < lists.sum()
    with search.count_distances() as count:
        search.InvertedIndex(weights).query(corpus.queries.counts, 10)
    assert count.scanned == hits.scanned.sum() and count.queries == 50


def test_scanning_everything_counts_everything():
    x, q = sparse_rows(500, 50, 0.1, 0), sparse_rows(5, 50, 0.1, 1)
    hits = search.InvertedIndex(x).query(q, 500)
    lists = (q > 0) @ np.diff(sparse.csc_array(x).indptr)
    assert np.array_equal(hits.scanned, lists)
    assert np.array_equal(hits.evaluations, hits.counts)


def test_added_and_removed_rows():
    rng = np.random.default_rng(0)
    pieces = [sparse_rows(int(rng.integers(1, 400)), 60, 0.1, s) for s in range(12)]
    q = sparse_rows(10, 60, 0.1, 99)
    index = search.InvertedIndex()
    for piece in pieces:
        index.add(piece)
    x = sparse.vstack(pieces, format="csr")
    assert len(index) == x.shape[0] and index.query(q, 1).explain["parts"] <= 6
    check(index.query(q, 10), q, x, 10)
    gone = rng.choice(x.shape[0], 300, replace=False)
    assert index.remove(gone) == 300
    alive = np.ones(x.shape[0], bool)
    alive[gone] = False
    check(index.query(q, 10), q, x, 10, alive)
    before = index.postings
    index.compact()
    assert index.postings < before and len(index) == alive.sum()
    hits = index.query(q, 10)
    check(hits, q, x, 10, alive)
    with pytest.raises(KeyError):
        index.remove([int(gone[0])])


def test_merged_codes_of_8_bits_stay_near():
    pieces = [sparse_rows(50, 20, 0.3, s) for s in range(16)]
    index = search.InvertedIndex(impacts="uint8")
    for piece in pieces:
        index.add(piece)
    x = sparse.vstack(pieces, format="csr")
    hits = index.query(np.eye(20, dtype=np.float32), 5)
    best = dense_top(np.eye(20), x, 5)[1]
    assert np.abs(hits.scores - best).max() < 3 / 510


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_allowed(share):
    x, q = sparse_rows(3000, 100, 0.1, 0), sparse_rows(20, 100, 0.1, 1)
    mask = np.random.default_rng(2).random(3000) < share
    index = search.InvertedIndex(x)
    check(index.query(q, 10, allowed=mask), q, x, 10, mask)
    if share:
        by_id = index.query(q, 10, allowed=np.flatnonzero(mask))
        assert np.array_equal(by_id.ids, index.query(q, 10, allowed=torch.from_numpy(mask)).ids)


def test_text_ids_and_one_query():
    x = np.array([[0, 2, 1], [1, 0, 0], [0, 1, 3.0]])
    index = search.InvertedIndex(x, ids=["a", "b", "c"])
    hits = index.query(np.array([0, 1.0, 1]), 2)
    assert hits.ids.tolist() == ["c", "a"] and hits.scores.shape == (2,) and int(hits.counts) == 2
    index.remove("c")
    index.add(x[[2]] * 2, ids=["c"])
    assert index.query(np.array([0, 1.0, 1]), 1).scores.tolist() == [8.0]


@pytest.mark.parametrize("layout", ["to_sparse_csr", "to_sparse_coo", "to_sparse_csc", "contiguous"])
def test_tensors(layout):
    x = torch.rand(50, 20).mul_(torch.rand(50, 20) < 0.3)
    index = search.InvertedIndex(getattr(x, layout)())
    hits = index.query(getattr(x[:4], layout)(), 3)
    assert isinstance(hits.ids, torch.Tensor)
    torch.testing.assert_close(hits.scores, (x[:4] @ x.T).topk(3).values)


@pytest.mark.parametrize("impacts", ["float32", "uint8"])
def test_files(tmp_path, impacts):
    x, q = sparse_rows(600, 60, 0.1, 0), sparse_rows(10, 60, 0.1, 1)
    index = search.InvertedIndex(x[:500], ids=np.arange(500) * 3, impacts=impacts).add(
        x[500:], ids=np.arange(100) - 200
    )
    index.remove([3, -150])
    arrays = {}
    for name, array in index.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    back = search.InvertedIndex.restore(index.settings(), arrays)
    first, second = index.query(q, 10), back.query(q, 10)
    assert np.array_equal(first.ids, second.ids) and np.array_equal(first.scores, second.scores)
    assert len(back) == 598
    assert back.add(x[:1] * 100, ids=[7777]).query(x[[0]], 1).ids.item() == 7777


def test_damaged_arrays():
    index = search.InvertedIndex(sparse_rows(600, 60, 0.1, 0))
    arrays, settings_ = index.arrays(), index.settings()
    rng = np.random.default_rng(0)
    for name in ("structure.block_ptr", "structure.block_start", "structure.block_window"):
        for _ in range(5):
            bad = arrays[name].copy()
            bad[rng.integers(len(bad))] += 2**20
            with pytest.raises(ValueError, match="damaged"):
                search.InvertedIndex.restore(settings_, arrays | {name: bad}).query(np.ones(60), 3)
    with pytest.raises(ValueError, match="damaged"):
        search.InvertedIndex.restore(settings_, arrays | {"structure.places": arrays["structure.places"][:-1]})
    places = arrays["structure.places"].copy()
    places[:] = 255
    with pytest.raises(ValueError, match="damaged"):
        search.InvertedIndex.restore(settings_, arrays | {"structure.places": places}).query(np.ones(60), 3)
    with pytest.raises(ValueError, match="none for scale"):
        search.InvertedIndex.restore(settings_, {n: a for n, a in arrays.items() if n != "structure.scale"})


def test_nothing_matches():
    index = search.InvertedIndex(sparse.csr_array((5, 9), dtype=np.float32))
    hits = index.query(np.ones((2, 9)), 3)
    assert np.all(hits.ids == -1) and np.all(hits.counts == 0)
    empty = search.InvertedIndex(np.zeros((0, 9)))
    assert np.all(empty.query(np.ones(9), 3).ids == -1) and len(empty) == 0
    restored = search.InvertedIndex.restore(empty.settings(), empty.arrays())
    assert np.all(restored.query(np.ones(9), 3).ids == -1)
    assert np.all(search.InvertedIndex(np.eye(9)).query(np.zeros(9), 3).ids == -1)


def test_extreme_weights():
    index = search.InvertedIndex(np.array([[1e-45, 0], [1e38, 0], [0, 1e-38]], np.float32), impacts="uint8")
    assert index.query(np.array([1.0, 0]), 2).ids.tolist() == [1, 0]
    with pytest.raises(OverflowError):
        search.InvertedIndex(np.array([[3e38, 3e38]], np.float32)).query(np.array([1.0, 1.0]), 1)


@pytest.mark.parametrize(
    "q, k, error, text",
    [
        (np.ones(5), 0, ValueError, "k must"),
        (np.ones(5), True, ValueError, "k must"),
        (np.ones(4), 1, ValueError, "5 columns"),
        (-np.ones(5), 1, ValueError, "at least 0"),
        (np.array([1, 1, 1, 1, np.nan]), 1, ValueError, "row 0, column 4"),
        (np.array(["a"] * 5), 1, TypeError, "real"),
        (np.ones((1, 1, 5)), 1, ValueError, "shape"),
        (np.ones(5) * 1j, 1, TypeError, "real"),
    ],
)
def test_bad_queries(q, k, error, text):
    with pytest.raises(error, match=text):
        search.InvertedIndex(np.eye(5)).query(q, k)


def test_bad_settings():
    with pytest.raises(ValueError, match="impacts"):
        search.InvertedIndex(impacts="int4")
    with pytest.raises(ValueError, match="empty"):
        search.InvertedIndex().query(np.ones(3))
    with pytest.raises(ValueError, match="twice"):
        search.InvertedIndex(np.eye(2), ids=[1, 1])
    index = search.InvertedIndex(np.eye(2))
    with pytest.raises(ValueError, match="in the index already"):
        index.add(np.eye(2), ids=[1, 5])
    assert len(index) == 2
    with pytest.raises(ValueError, match="one entry for each"):
        index.query(np.ones(2), 1, allowed=np.array([True]))
