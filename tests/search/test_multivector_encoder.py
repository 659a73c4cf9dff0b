"""The encoder of several vectors: scores, exact search, training, and m = 1 as the usual dual encoder."""

import numpy as np
import pytest
import torch

from resolvent import search


class Table(torch.nn.Module):
    """The rows of a table, as the simplest encoder."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(rows)

    def forward(self, ids, mask):
        return self.rows[ids]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return search.MultiVectorEncoder(Table(torch.randn(30, 6)), m=3, dim=4, generator=0)


TOKENS, OFFSETS = np.array([3, 4, 5, 6, 7, 8]), np.array([0, 4, 5, 6])


def test_first_vectors_of_each_document(model):
    vectors, owners = model.encode_documents((TOKENS, OFFSETS))
    assert owners.tolist() == [0, 0, 0, 1, 2]
    expected = model.linear(model.encoder.rows[[3, 4, 5, 7, 8]]).detach().numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    queries = model.encode_queries((TOKENS, OFFSETS))
    np.testing.assert_allclose(queries, expected[[0, 3, 4]], rtol=1e-6)


def test_search_is_the_best_vector_of_each_document(model):
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(40), rng.integers(1, 4, 40))
    vectors, q = (rng.standard_normal((n, 4)).astype(np.float32) for n in (len(owners), 5))
    hits = model.search(q, vectors, owners, 7)
    scores = np.stack([(q @ vectors[owners == d].T).max(1) for d in range(40)], 1)
    np.testing.assert_allclose(hits.scores, -np.sort(-scores, 1)[:, :7], rtol=1e-5)
    assert np.array_equal(hits.ids, np.argsort(-scores, 1, kind="stable")[:, :7])
    assert np.array_equal(model.search(q[0], vectors, owners, 7).ids, hits.ids[0])
    few = model.search(q, vectors, owners, 50)
    assert np.all(few.counts == 40)


def test_one_vector_is_the_dual_encoder():
    encoder = search.TokenEncoder(50, width=16, layers=1, heads=2, prefix=2, generator=0)
    model = search.MultiVectorEncoder(encoder, m=1, generator=0)
    documents = np.arange(20), np.array([0, 8, 20])
    vectors, owners = model.encode_documents(documents)
    ids, mask = search.pad_tokens(*documents)
    expected = model.linear(encoder.hidden(ids, mask)[:, 0]).detach().numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert owners.tolist() == [0, 1]


def test_training_finds_the_documents():
    corpus = search.topic_corpus(60, 60, 4, queries=1, substitution=0.0, length=20, generator=0)
    train = corpus.sample_queries(300, generator=1)
    encoder = search.TokenEncoder(60, width=32, layers=1, heads=2, prefix=2, generator=0)
    model = search.MultiVectorEncoder(encoder, m=2, generator=0)
    documents, queries = (corpus.tokens, corpus.offsets), (train.tokens, train.offsets)

    def right():
        hits = model.search(model.encode_queries(queries), *model.encode_documents(documents), 5)
        return (hits.ids == train.relevant[:, None]).any(1).mean()

    before = right()
    other = np.random.default_rng(0).integers(0, 60, (300, 2))
    model.fit(queries, documents, train.relevant, negatives=other, steps=80, batch=32, rate=5e-3, generator=0)
    assert right() > before + 0.3 and model.losses[-1] < 0.7 * model.losses[0]


def test_bad_arguments(model):
    with pytest.raises(ValueError, match="m must"):
        search.MultiVectorEncoder(model.encoder, m=0)
    with pytest.raises(ValueError, match="positives must have"):
        model.fit((TOKENS, OFFSETS), (TOKENS, OFFSETS), [0])
    with pytest.raises(ValueError, match="numbers of documents"):
        model.fit((TOKENS, OFFSETS), (TOKENS, OFFSETS), [0, 1, 3])
    with pytest.raises(ValueError, match="steps"):
        model.fit((TOKENS, OFFSETS), (TOKENS, OFFSETS), [0, 1, 2], steps=0)
    with pytest.raises(ValueError, match="owners"):
        model.search(np.ones((1, 4)), np.ones((3, 4)), np.zeros(2, int))
    assert model.encode_queries((TOKENS[:0], OFFSETS[:1])).shape == (0, 4)
