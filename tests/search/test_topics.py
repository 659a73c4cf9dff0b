"""The synthetic corpus: its laws, its answers, its switches."""

import numpy as np
import pytest
import torch

from resolvent import search


@pytest.fixture(scope="module")
def corpus():
    return search.topic_corpus(2000, 1000, 20, queries=400, generator=0)


def test_sizes_agree(corpus):
    assert len(corpus) == 2000 and corpus.vocabulary == 1000
    assert corpus.counts.sum() == len(corpus.tokens) == corpus.offsets[-1]
    lengths = np.diff(corpus.offsets)
    assert lengths.min() == 30 and lengths.max() == 90
    assert np.allclose(corpus.topics.sum(1), 1)
    assert set(np.unique((corpus.topics > 0).sum(1))) == {1, 2, 3}
    sizes = np.diff(corpus.queries.offsets)
    assert sizes.min() == 2 and sizes.max() == 5


def test_meanings_of_the_language_follow_zipf():
    corpus = search.topic_corpus(3000, 200, 10, background=1.0, repeats=0.0, queries=1, generator=0)
    share = corpus.concept_counts(corpus.counts).sum(0) / len(corpus.tokens)
    law = 1 / np.arange(1, 101)
    law /= law.sum()
    error = np.sqrt(law * (1 - law) / len(corpus.tokens))
    assert np.all(np.abs(share - law) < 5 * error)


def test_a_document_uses_one_word_for_a_meaning(corpus):
    words = (corpus.counts > 0).sum(1)
    meanings = (corpus.concept_counts(corpus.counts) > 0).sum(1)
    assert np.array_equal(words, meanings)


def test_repeats_make_bursts():
    shy, bursty = (
        search.topic_corpus(300, 1000, 20, repeats=repeats, length=60, queries=1, generator=0) for repeats in (0.0, 0.8)
    )
    assert (bursty.counts > 0).sum() < 0.6 * (shy.counts > 0).sum()


def test_documents_of_a_topic_share_words(corpus):
    single = [np.flatnonzero(corpus.topics[:, t] == 1)[:20] for t in range(2)]
    # Without the commonest meanings, which all topics share.
    meanings = corpus.concept_counts(corpus.counts).toarray()[:, 20:]
    meanings /= np.linalg.norm(meanings, axis=1, keepdims=True)
    within = (meanings[single[0]] @ meanings[single[0]].T)[~np.eye(len(single[0]), dtype=bool)].mean()
    assert within > 2 * (meanings[single[0]] @ meanings[single[1]].T).mean()


def test_every_meaning_of_a_query_stands_in_its_document(corpus):
    queries = corpus.concept_counts(corpus.queries.counts).toarray()
    documents = corpus.concept_counts(corpus.counts)[corpus.queries.relevant].toarray()
    assert queries.max() == 1
    assert np.all(documents[queries > 0] > 0)


@pytest.mark.parametrize("substitution", [0.0, 0.5, 1.0])
def test_substitution_is_the_share_of_lost_words(corpus, substitution):
    queries = corpus.sample_queries(4000, substitution=substitution, generator=1)
    documents = corpus.counts[queries.relevant].toarray()
    kept = documents[np.repeat(np.arange(4000), np.diff(queries.offsets)), queries.tokens] > 0
    assert abs(kept.mean() - (1 - substitution)) < 0.02


def test_rare_words_are_asked_for(corpus):
    def common(counts):
        return corpus.concept_counts(counts)[:, :20].sum() / counts.sum()

    assert common(corpus.queries.counts) < 0.5 * common(corpus.counts)


def test_an_odd_vocabulary_leaves_a_word_without_synonym():
    corpus = search.topic_corpus(200, 101, 5, substitution=1.0, generator=0)
    assert np.bincount(corpus.concept).tolist() == [2] * 50 + [1]
    assert corpus.tokens.max() <= 100 and corpus.queries.tokens.max() <= 100


def test_one_synonym_and_one_topic():
    corpus = search.topic_corpus(50, 100, 1, synonyms=1, length=20, query_length=3, generator=0)
    documents = corpus.counts[corpus.queries.relevant].toarray()
    assert np.all(documents[corpus.queries.counts.toarray() > 0] > 0)
    assert np.all(np.diff(corpus.offsets) == 20)


def test_same_seed_same_corpus():
    first, second = (search.topic_corpus(100, 200, 5, generator=3) for _ in range(2))
    assert np.array_equal(first.tokens, second.tokens)
    assert np.array_equal(first.queries.tokens, second.queries.tokens)
    other = search.topic_corpus(100, 200, 5, generator=torch.Generator().manual_seed(4))
    assert not np.array_equal(first.tokens[:500], other.tokens[:500])


def test_qrels_name_the_one_document(corpus):
    assert corpus.queries.qrels[5] == {int(corpus.queries.relevant[5]): 1}


def test_padding_returns_the_sequences(corpus):
    rows = [7, 3, 7]
    ids, mask = search.pad_tokens(corpus.tokens, corpus.offsets, rows)
    for i, row in enumerate(rows):
        assert ids[i][mask[i]].tolist() == corpus.tokens[corpus.offsets[row] : corpus.offsets[row + 1]].tolist()
    short = search.pad_tokens(corpus.tokens, corpus.offsets, rows, length=4)
    assert torch.equal(short[0], ids[:, :4]) and bool(short[1].all())


@pytest.mark.parametrize(
    "options, name",
    [
        ({"documents": 0}, "documents"),
        ({"vocabulary": 1, "synonyms": 2}, "synonyms"),
        ({"substitution": 1.5}, "substitution"),
        ({"length": (9, 3)}, "length"),
        ({"query_length": 0}, "query_length"),
        ({"concentration": 0.0}, "concentration"),
        ({"exponent": float("nan")}, "exponent"),
    ],
)
def test_bad_numbers(options, name):
    with pytest.raises(ValueError, match=name):
        search.topic_corpus(**{"documents": 10, "vocabulary": 50, "topics": 3} | options)
