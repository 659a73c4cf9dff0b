"""BM25 against its formula written out, and against another package."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import sparse

from resolvent import search


def plain_scores(documents, query, k1, b):
    """The formula, word by word."""
    mean = sum(len(d) for d in documents) / len(documents)
    scores = []
    for d in documents:
        total = 0.0
        for word in query:
            n = sum(word in other for other in documents)
            count = d.count(word)
            rarity = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            total += rarity * count / (count + k1 * (1 - b + b * len(d) / mean)) if count else 0.0
        scores.append(total)
    return scores


@pytest.fixture(scope="module")
def corpus():
    return search.topic_corpus(60, 80, 5, queries=20, generator=0)


def listed(tokens, offsets):
    return [tokens[a:b].tolist() for a, b in pairwise(offsets)]


@pytest.mark.parametrize("k1, b", [(1.2, 0.75), (0.9, 0.4), (2.0, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_formula(corpus, k1, b):
    scores = (search.bm25(corpus.counts, k1=k1, b=b) @ corpus.queries.counts.T).toarray()
    documents = listed(corpus.tokens, corpus.offsets)
    for i, query in enumerate(listed(corpus.queries.tokens, corpus.queries.offsets)):
        np.testing.assert_allclose(scores[:, i], plain_scores(documents, query, k1, b), rtol=2e-6)


def test_bm25s(corpus):
    bm25s = pytest.importorskip("bm25s")
    peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    peer.index([[str(w) for w in d] for d in listed(corpus.tokens, corpus.offsets)], show_progress=False)
    scores = search.bm25(corpus.counts, k1=1.2, b=0.75) @ corpus.queries.counts.T
    for i, query in enumerate(listed(corpus.queries.tokens, corpus.queries.offsets)):
        np.testing.assert_allclose(
            scores[:, [i]].toarray().ravel(), peer.get_scores([str(w) for w in query]), rtol=1e-5
        )


def test_parts_with_the_statistics_of_the_whole(corpus):
    first, second = corpus.counts[:20], corpus.counts[20:]
    whole = search.word_statistics(first).plus(search.word_statistics(second))
    parts = [search.bm25(part, statistics=whole) for part in (first, second)]
    assert abs(sparse.vstack(parts) - search.bm25(corpus.counts)).max() == 0


def test_kinds():
    counts = np.array([[1, 2, 0], [0, 1, 1]])
    dense = search.bm25(counts)
    assert isinstance(dense, np.ndarray) and dense.dtype == np.float32
    assert sparse.isspmatrix_csr(search.bm25(sparse.csr_matrix(counts)))
    assert isinstance(search.bm25(sparse.csc_array(counts)), sparse.csr_array)
    made = search.bm25(torch.from_numpy(counts).to_sparse_csr())
    assert made.layout == torch.sparse_csr and np.array_equal(made.to_dense().numpy(), dense)
    assert np.array_equal(search.bm25(torch.from_numpy(counts)).numpy(), dense)


def test_no_words_at_all():
    assert search.bm25(np.zeros((3, 4))).tolist() == np.zeros((3, 4)).tolist()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"k1": -1.0}, "k1"),
        ({"k1": float("inf")}, "k1"),
        ({"b": 1.5}, "b must"),
        ({"statistics": search.word_statistics(np.ones((1, 3)))}, "fewer documents"),
        ({"statistics": search.word_statistics(np.ones((9, 4)))}, "3 words"),
    ],
)
def test_bad_numbers(options, text):
    with pytest.raises(ValueError, match=text):
        search.bm25(np.ones((2, 3)), **options)


def test_negative_counts():
    with pytest.raises(ValueError, match="counts must have finite entries of at least 0"):
        search.bm25(np.array([[1.0, -1.0]]))
