"""SPLADE: pooling, losses, the two forms of query, training, and what is measured of sparse weights."""

import numpy as np
import pytest
import torch
from scipy import sparse

from resolvent import search


def random_logits(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, 8, generator=g, dtype=torch.float64), torch.rand(3, 5, generator=g) < 0.6


@pytest.mark.parametrize("pool", ["sum", "max"])
def test_pool_by_loops(pool):
    logits, mask = random_logits()
    expected = torch.zeros(3, 8, dtype=torch.float64)
    for b in range(3):
        for j in range(8):
            values = [np.log(1 + max(0.0, float(logits[b, i, j]))) for i in range(5) if mask[b, i]]
            expected[b, j] = (sum(values) if pool == "sum" else max(values)) if values else 0.0
    torch.testing.assert_close(search.splade_pool(logits, mask, pool), expected)
    short = search.splade_pool(logits.float(), mask.long(), pool)
    torch.testing.assert_close(short, expected.float())


@pytest.mark.parametrize("pool", ["sum", "max"])
def test_pool_of_one_token_and_of_none(pool):
    logits, _ = random_logits()
    torch.testing.assert_close(search.splade_pool(logits[:, :1], None, pool), torch.log1p(torch.relu(logits[:, 0])))
    assert search.splade_pool(logits, torch.zeros(3, 5), pool).abs().max() == 0
    assert search.splade_pool(logits[:, :0], None, pool).shape == (3, 8)


@pytest.mark.parametrize("pool", ["sum", "max"])
def test_gradients(pool):
    logits, mask = random_logits()
    logits.requires_grad_()
    mask[:, 0] = True
    assert torch.autograd.gradcheck(lambda x: search.splade_pool(x, mask, pool), logits)
    assert torch.autograd.gradcheck(lambda x: search.flops_regularizer(x[0]), logits)
    scores = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda a, b: search.margin_mse(a, b, torch.ones(4).double(), torch.zeros(4).double()), scores
    )


def test_flops_prefers_even_lists():
    even, uneven = torch.eye(4), torch.zeros(4, 4)
    uneven[:, 0] = 1
    assert float(search.flops_regularizer(even)) == 0.25 < float(search.flops_regularizer(uneven)) == 1.0


def test_margins_do_not_see_offsets():
    g = torch.Generator().manual_seed(0)
    s, n = torch.randn(2, 6, generator=g)
    assert float(search.margin_mse(s, n, s + 7, n + 7)) < 1e-10
    assert float(search.margin_mse(s, n, s + 2, n)) == pytest.approx(4.0)


def test_expected_products_are_the_mean_overlap():
    rng = np.random.default_rng(0)
    q, d = (sparse.random_array((n, 30), density=0.2, rng=rng).tocsr() for n in (7, 11))
    overlap = ((q > 0).astype(float) @ (d > 0).astype(float).T).toarray().mean()
    assert search.expected_products(q, d) == pytest.approx(overlap)


def test_pruning_keeps_the_heaviest():
    x = sparse.random_array((20, 50), density=0.3, rng=np.random.default_rng(0), dtype=np.float32).tocsr()
    kept = search.prune_terms(x, 5).toarray()
    for row, full in zip(kept, x.toarray(), strict=True):
        assert sorted(row[row > 0]) == sorted(np.sort(full[full > 0])[-5:])
    assert abs(search.prune_terms(x, 50) - x).max() == 0


def small(pool="max", doc_only=False, vocabulary=60):
    return search.Splade(search.TokenEncoder(vocabulary, width=32, layers=1, heads=2, generator=0), pool, doc_only)


DOCUMENTS = np.array([3, 4, 4, 9, 11]), np.array([0, 3, 5])


def test_encoding_is_the_forward_pass():
    model = small()
    ids, mask = search.pad_tokens(*DOCUMENTS)
    expected = search.splade_pool(model.encoder(ids, mask), mask).detach().numpy()
    for batch in (1, 2):
        np.testing.assert_allclose(model.encode_documents(DOCUMENTS, batch=batch).toarray(), expected, atol=1e-6)


def test_encoder_starts_as_a_match_of_words():
    weights = small().encode_documents(DOCUMENTS).toarray()
    assert [sorted(np.argsort(-row)[: len(words)]) for row, words in zip(weights, ([3, 4], [9, 11]), strict=True)] == [
        [3, 4],
        [9, 11],
    ]


def test_padding_changes_nothing():
    encoder = search.TokenEncoder(20, width=16, layers=2, heads=2, prefix=2, generator=0)
    ids = torch.tensor([[1, 2, 3]])
    longer = torch.tensor([[1, 2, 3, 7, 7]])
    mask = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(encoder(longer, mask)[:, :3], encoder(ids), atol=1e-5, rtol=1e-5)
    assert bool(torch.isfinite(encoder(ids, torch.zeros(1, 3, dtype=torch.bool))).all())


def test_queries_of_documents_only_cost_no_network():
    class Refusing(torch.nn.Module):
        calls = 0

        def forward(self, ids, mask):
            self.calls += 1
            return torch.zeros(*ids.shape, 60)

    model = search.Splade(Refusing(), doc_only=True)
    model.encode_documents(DOCUMENTS)
    before = model.encoder.calls
    bags = model.encode_queries(DOCUMENTS)
    assert model.encoder.calls == before
    assert bags.toarray().nonzero()[1].tolist() == [3, 4, 9, 11] and bags.max() == 1


def test_an_encoder_with_logits_as_an_attribute():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Model(torch.nn.Module):
        def forward(self, ids, mask):
            return Output(torch.nn.functional.one_hot(ids, 60).float())

    weights = search.Splade(Model()).encode_documents(DOCUMENTS).toarray()
    np.testing.assert_allclose(weights[0, [3, 4]], np.log(2), rtol=1e-6)


@pytest.fixture(scope="module")
def trained():
    corpus = search.topic_corpus(60, 60, 4, queries=80, length=20, substitution=1.0, generator=0)
    train = corpus.sample_queries(500, generator=1)
    documents, queries = (corpus.tokens, corpus.offsets), (train.tokens, train.offsets)
    model = small().fit(queries, documents, train.relevant, steps=80, rate=1e-2, generator=0)
    return corpus, train, documents, queries, model


def test_training_learns_synonyms(trained):
    corpus, _, documents, _, model = trained
    judged = corpus.queries.tokens, corpus.queries.offsets
    hits = search.InvertedIndex(model.encode_documents(documents)).query(model.encode_queries(judged), 10)
    lexical = search.InvertedIndex(search.bm25(corpus.counts)).query(corpus.queries.counts, 10)
    learned, words = (search.ndcg(h, corpus.queries.qrels) for h in (hits, lexical))
    assert words < 0.1 < 0.3 < learned
    assert model.losses[-1] < 0.7 * model.losses[0]


def test_hard_negatives_are_the_best_wrong_ones(trained):
    corpus, train, documents, queries, model = trained
    mined = model.mine_negatives(queries, documents, train.relevant, 4)
    scores = (model.encode_queries(queries) @ model.encode_documents(documents).T).toarray()
    scores[np.arange(len(train)), train.relevant] = -1
    best = -np.sort(-scores, 1)[:, :4]
    np.testing.assert_allclose(np.take_along_axis(scores, mined, 1), best, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="count"):
        model.mine_negatives(queries, documents, train.relevant, len(corpus))


def test_distillation_reaches_the_margins(trained):
    corpus, train, documents, queries, _ = trained
    oracle = (corpus.concept_counts(train.counts) @ search.bm25(corpus.concept_counts(corpus.counts)).T).toarray()
    negatives = np.random.default_rng(0).integers(0, 60, (len(train), 4))
    margins = np.take_along_axis(oracle, train.relevant[:, None], 1) - np.take_along_axis(oracle, negatives, 1)
    options = {"negatives": negatives, "teacher_margins": margins, "steps": 60, "rate": 1e-2, "generator": 0}
    model = small().fit(queries, documents, train.relevant, regularization=(0.0, 0.0), **options)
    assert model.losses[-1] < 0.5 * model.losses[0]


def test_regularisation_makes_weights_sparse(trained):
    _, train, documents, queries, _ = trained
    sizes = [
        small().fit(queries, documents, train.relevant, steps=30, rate=1e-2, regularization=(r, r), generator=0)
        .encode_documents(documents).nnz
        for r in (0.0, 0.3)
    ]  # fmt: skip
    assert sizes[1] < 0.8 * sizes[0]


def test_same_seed_same_model(trained):
    _, train, documents, queries, _ = trained
    losses = [small(doc_only=True).fit(queries, documents, train.relevant, steps=5, generator=3).losses for _ in "ab"]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"positives": [0]}, "positives must have"),
        ({"positives": [0, 9]}, "numbers of documents"),
        ({"negatives": [[0]]}, "negatives must have shape"),
        ({"teacher_margins": [[0.0], [1.0]]}, "teacher_margins"),
        ({"regularization": (-1.0, 0.0)}, "regularization"),
        ({"steps": 0}, "steps"),
        ({"rate": float("nan")}, "rate"),
    ],
)
def test_bad_arguments(options, text):
    given = {"positives": [0, 1], "steps": 1} | options
    with pytest.raises(ValueError, match=text):
        small().fit(DOCUMENTS, DOCUMENTS, given.pop("positives"), **given)


def test_bad_constructions():
    with pytest.raises(ValueError, match="pool"):
        small(pool="mean")
    with pytest.raises(TypeError, match="encoder"):
        search.Splade(lambda ids, mask: ids)
    with pytest.raises(ValueError, match="heads"):
        search.TokenEncoder(10, width=10, heads=4)
    with pytest.raises(ValueError, match="mask"):
        search.splade_pool(torch.zeros(2, 3, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match="terms"):
        search.prune_terms(np.eye(2), 0)
