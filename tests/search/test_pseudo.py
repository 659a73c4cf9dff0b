"""pseudo_queries and two_step_score: k-means as in scikit-learn, definitions, searches, gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.random import gaussian
from resolvent.search import pseudo, pseudo_queries, token_sets, two_step_score, two_step_search


@pytest.fixture
def corpus():
    return token_sets(40, tokens=12, dim=8, queries=9, query_tokens=1, ragged=True, topics=30, generator=0)


def lloyd(tokens, k, iterations):
    centres = tokens[np.arange(k) * len(tokens) // k].copy()
    for _ in range(iterations):
        labels = np.square(tokens[:, None] - centres).sum(2).argmin(1)
        for j in set(labels):
            centres[j] = tokens[labels == j].mean(0)
    return centres


@pytest.mark.parametrize("iterations", [0, 1, 5])
@pytest.mark.parametrize("entries", [1, 1 << 22])
def test_the_papers_steps(corpus, iterations, entries, monkeypatch):
    monkeypatch.setattr(pseudo, "_ENTRIES", entries)
    tokens = corpus.tokens.astype(float)
    found, starts = pseudo_queries(tokens, corpus.offsets, k=9, iterations=iterations)
    for i, (a, b) in enumerate(zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)):
        wanted = lloyd(tokens[a:b], min(9, b - a), iterations)
        np.testing.assert_allclose(found[starts[i] : starts[i + 1]], wanted, rtol=1e-6, atol=1e-9)


def test_the_same_as_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    x = np.random.default_rng(0).normal(size=(60, 5))
    start = x[np.arange(4) * 15]
    known = cluster.KMeans(4, init=start, n_init=1, max_iter=100, tol=0, algorithm="lloyd").fit(x)
    np.testing.assert_allclose(pseudo_queries(x, k=4, iterations=100)[0], known.cluster_centers_, rtol=1e-6)


def test_short_documents_and_lost_clusters():
    x = np.array([[1.0, 0.0], [2.0, 0.0]])
    found, starts = pseudo_queries(x, [0, 1, 2], k=5)
    np.testing.assert_array_equal(found, x)
    assert starts.tolist() == [0, 1, 2]
    # All tokens are the same: the first centre takes them all, the others keep their place.
    same, _ = pseudo_queries(np.ones((6, 3)), k=3)
    np.testing.assert_array_equal(same, np.ones((3, 3)))


def test_the_score_by_definition(corpus):
    centroids = pseudo_queries(*corpus.documents, k=4)
    q = corpus.query_tokens
    found = two_step_score(q, centroids)
    c, starts = centroids
    for i in range(40):
        mine = c[starts[i] : starts[i + 1]]
        a = np.exp(q @ mine.T)
        mixed = (a / a.sum(1, keepdims=True)) @ mine
        np.testing.assert_allclose(found[:, i], (q * mixed).sum(1), rtol=1e-4, atol=1e-6)
    chosen = np.random.default_rng(0).integers(-1, 40, (9, 7))
    some = two_step_score(q, centroids, chosen)
    np.testing.assert_allclose(
        some[chosen >= 0], np.take_along_axis(found, np.maximum(chosen, 0), 1)[chosen >= 0], 1e-4
    )
    assert (some[chosen < 0] == -np.inf).all()
    np.testing.assert_allclose(two_step_score(q[2], centroids), found[2], rtol=1e-5)


def test_limits_of_the_score():
    x, q = np.random.default_rng(0).normal(size=(2, 6, 4))
    products = q @ x.T
    # A long query attends to one centroid alone, a short one to all alike; products near 1000 do not overflow.
    long, short = two_step_score(1e3 * q, [x])[:, 0] / 1e3, two_step_score(1e-6 * q, [x])[:, 0] / 1e-6
    np.testing.assert_allclose(long, products.max(1), rtol=1e-6)
    np.testing.assert_allclose(short, products.mean(1), rtol=1e-4, atol=1e-6)
    # A temperature is a longer query, up to the length itself.
    np.testing.assert_allclose(two_step_score(q, [x], temperature=0.1), two_step_score(10 * q, [x]) / 10, rtol=1e-9)


def test_the_search_finds_the_best(corpus):
    centroids = pseudo_queries(*corpus.documents, k=4)
    exact = two_step_score(corpus.query_tokens, centroids)
    hits = two_step_search(corpus.query_tokens, centroids, k=3, candidates=40)
    assert np.array_equal(hits.ids, np.argsort(-exact, axis=1)[:, :3])
    np.testing.assert_allclose(hits.scores, -np.sort(-exact, axis=1)[:, :3], rtol=1e-5)
    # Too few documents among the first centroids: asked again, so that k come.
    one = [np.ones((30, 4)), np.zeros((2, 4)), -np.ones((1, 4))]
    assert two_step_search(np.ones(4), one, k=3, candidates=3).ids.tolist() == [0, 1, 2]
    assert two_step_search(torch.ones(4), one, k=5, candidates=3).ids.tolist() == [0, 1, 2, -1, -1]


def test_gradients():
    x, q = gaussian((9, 3), generator=0).requires_grad_(), gaussian((2, 3), generator=1).requires_grad_()

    def score(x, q):
        return two_step_score(q, pseudo_queries(x, [0, 5, 9], k=2))

    assert gradcheck(score, (x, q))
    assert gradcheck(lambda x, q: two_step_score(q, (x, [0, 5, 9]), [[1, 0], [0, 0]]), (x, q))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda x: pseudo_queries(x, k=0), "k must"),
        (lambda x: pseudo_queries(x, iterations=-1), "iterations"),
        (lambda x: pseudo_queries(x, [0, 2]), "end with 4"),
        (lambda x: two_step_score(x[None], [x]), "q must"),
        (lambda x: two_step_score(x[:, :2], [x]), "length 2"),
        (lambda x: two_step_score(x[0] * np.inf, [x]), "NaN"),
        (lambda x: two_step_search(x, [x], candidates=0), "candidates"),
        (lambda x: two_step_score(x, [x], temperature=0.0), "temperature"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call(np.ones((4, 3)))
