"""Product quantisation against brute force over its codewords, and the scan of its codes against its reconstructions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search.codebook import Codebook, train_codebook


def rows(n=3000, dim=24, seed=0):
    return search.clustered_vectors(n, dim, clusters=30, n_queries=25, generator=seed)


def error(book: Codebook, x: np.ndarray) -> float:
    return float(((x - book.decode(book.encode(x), x.shape[1])) ** 2).sum())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_code_names_the_nearest_codeword_of_every_part(bits):
    x = rows(600).x.numpy()
    book = train_codebook(x, 6, bits, generator=0)
    codes = book.encode(x)
    for s in range(6):
        words = book.books[s].T.astype(np.float64)
        gaps = ((x[:, 4 * s : 4 * s + 4, None].astype(np.float64) - words.T) ** 2).sum(1)
        np.testing.assert_allclose(gaps[np.arange(600), codes[:, s]], gaps.min(1), rtol=1e-5)


def test_as_many_codewords_as_rows_leave_no_error():
    x = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    assert error(train_codebook(x, 4, 8, generator=0), x) == 0


def test_codewords_are_the_means_of_their_rows():
    x = np.random.default_rng(1).normal(size=(2000, 4)).astype(np.float32)
    book = train_codebook(x, 2, 4, generator=0)
    before = error(book, x)
    codes = book.encode(x)
    for s in range(2):
        part = x[:, 2 * s : 2 * s + 2]
        means = np.stack([part[codes[:, s] == c].mean(0) for c in range(16)])
        # Lloyd has not come to rest, but nearly.
        assert np.abs(means - book.books[s].T).max() < 0.1
    # The quantiser of least error for a normal variable with 4 levels a coordinate leaves 0.1175 of the variance.
    assert before / (x**2).sum() < 0.13


def test_the_rotation_is_orthogonal_and_never_hurts():
    x = rows().x.numpy()
    plain, turned = (train_codebook(x, 6, 4, rotate=r, generator=0) for r in (False, True))
    np.testing.assert_allclose(turned.turn @ turned.turn.T, np.eye(24), atol=1e-5)
    assert error(turned, x) < 0.8 * error(plain, x)
    first = train_codebook(x, 6, 4, rotate=True, rounds=1, generator=0)
    assert error(turned, x) < error(first, x)


def test_parts_that_do_not_divide_the_dimension_are_filled_with_zeros():
    x = np.random.default_rng(0).normal(size=(400, 10)).astype(np.float32)
    for rotate in (False, True):
        book = train_codebook(x, 4, 4, rotate=rotate, generator=0)
        assert book.width == 12
        back = book.decode(book.encode(x), 10)
        assert back.shape == (400, 10) and ((x - back) ** 2).mean() < 0.4


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
@pytest.mark.parametrize("kind", [search.ProductQuantizer, search.OPQ])
@pytest.mark.parametrize("bits", [4, 8])
def test_scores_without_refinement_are_those_of_the_reconstructions(metric, kind, bits):
    corpus = rows()
    index = kind(m=6, bits=bits, metric=metric, refine=0).build(corpus.x)
    hits = index.query(corpus.queries, 20)
    y = index.decode(index.codes()).astype(np.float64)
    q = corpus.queries.double().numpy()
    if metric == "cosine":
        q /= np.linalg.norm(q, axis=1, keepdims=True)
    scores = -((q[:, None] - y) ** 2).sum(-1) if metric == "l2" else q @ y.T
    own = np.take_along_axis(scores, hits.ids.numpy(), 1)
    # Rounded tables: six errors of at most half a step, the step a 255th of the widest table.
    spread = float(np.abs(scores).max()) * (0.01 if bits == 4 else 1e-5)
    np.testing.assert_allclose(hits.scores, own, atol=spread)
    best = -np.sort(-scores, 1)[:, :20]
    np.testing.assert_allclose(own, best, atol=2 * spread)


def test_all_candidates_refined_is_the_exact_search():
    corpus = rows(500)
    index = search.ProductQuantizer(m=3, bits=4, metric="l2").build(corpus.x)
    hits, exact = index.query(corpus.queries, 5, refine=100), search.exact_search(corpus.x, corpus.queries, 5, "l2")
    assert (hits.ids == exact.ids).all()
    torch.testing.assert_close(hits.scores, exact.scores)
    assert (hits.scanned == 500).all() and (hits.evaluations == 500).all()


def test_codes_follow_the_order_of_the_rows_through_growth():
    corpus = rows()
    index = search.ProductQuantizer(m=6, bits=4, metric="l2").build(corpus.x[:2000])
    before = index.codes()
    for first in range(2000, 3000, 250):
        index.add(corpus.x[first : first + 250])
    assert (index.codes()[:2000] == before).all()
    assert (index.codes()[2000:] == index.encode(corpus.x[2000:])).all()


def test_few_rows_are_scanned_exactly_until_there_are_enough():
    corpus = rows(300)
    index = search.ProductQuantizer(m=6, bits=8, metric="l2").build(corpus.x[:100])
    exact = search.exact_search(corpus.x[:100], corpus.queries, 3, "l2")
    assert (index.query(corpus.queries, 3).ids == exact.ids).all()
    with pytest.raises(ValueError, match="not trained"):
        _ = index.codebook
    assert index.add(corpus.x[100:]).codebook.bits == 8


def test_bad_input_names_the_argument():
    x = np.zeros((20, 4), np.float32)
    with pytest.raises(ValueError, match="bits must be 4 or 8, got 5"):
        search.ProductQuantizer(bits=5)
    with pytest.raises(ValueError, match=r"m must be at most the dimension, 4, got 9"):
        search.ProductQuantizer(m=9, bits=4).build(x)
    with pytest.raises(ValueError, match=r"m must be an integer in 1\.\.4"):
        train_codebook(x, 5, 4)
    with pytest.raises(ValueError, match="at least 256 rows"):
        train_codebook(x, 2, 8)
    with pytest.raises(ValueError, match="refine"):
        search.ProductQuantizer(refine=-1)
    index = search.ProductQuantizer(m=2, bits=4).build(np.random.default_rng(0).normal(size=(50, 4)))
    with pytest.raises(ValueError, match=r"codes must be in 0\.\.15"):
        index.decode(np.full((1, 2), 16))
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        index.decode(np.zeros((1, 3), np.uint8))


def test_the_same_seed_gives_the_same_codes_and_a_generator_is_taken():
    x = rows(500).x
    a, b = (search.OPQ(m=4, bits=4, generator=3).build(x).codes() for _ in range(2))
    assert (a == b).all()
    index = search.OPQ(m=4, bits=4, generator=torch.Generator().manual_seed(1)).build(x)
    again = search.OPQ.restore(index.settings(), index.arrays())
    assert (again.codes() == index.codes()).all()
    assert (again.query(x[:9], 5).ids == index.query(x[:9], 5).ids).all()


def test_equal_rows_need_no_codewords_of_their_own():
    x = np.repeat(np.eye(4, dtype=np.float32), 20, 0)
    index = search.ProductQuantizer(m=2, bits=4, metric="l2").build(x)
    assert np.abs(x - index.decode(index.codes())).max() < 2e-3
    assert set(index.query(x[0], 20).ids.tolist()) == set(range(20))
