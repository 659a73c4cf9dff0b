"""Documents and queries with known answers: Zipf's vocabulary, topics, and synonyms that keep words from matching."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from resolvent.random import GeneratorLike, as_generator

Range = int | tuple[int, int]


@dataclass(frozen=True)
class TopicQueries:
    """Queries of a `TopicCorpus`, each made from the words of one document.

    Attributes
    ----------
    tokens : (sum of lengths,) int64 words of all queries, one query after another
    offsets : (q + 1,) int64; query i is ``tokens[offsets[i]:offsets[i + 1]]``
    relevant : (q,) int64 document that each query was made from
    counts : (q, vocabulary) CSR float32, how often each word stands in each query

    Examples
    --------
    >>> queries = topic_corpus(50, 100, 5, queries=7, generator=0).queries
    >>> len(queries), queries.counts.shape
    (7, (7, 100))
    """

    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]
    relevant: NDArray[np.int64]
    counts: Any

    def __len__(self) -> int:
        return len(self.relevant)

    @property
    def qrels(self) -> list[dict[int, int]]:
        """Judgements, as `ndcg` and `mrr` take them: for each query the grades of documents, 1 for the relevant one."""
        return [{int(document): 1} for document in self.relevant]


@dataclass(frozen=True)
class TopicCorpus:
    """A collection of documents with queries and judgements: what `topic_corpus` makes.

    Attributes
    ----------
    tokens : (sum of lengths,) int64 words of all documents, one document after another
    offsets : (n + 1,) int64; document i is ``tokens[offsets[i]:offsets[i + 1]]``
    counts : (n, vocabulary) CSR float32, how often each word stands in each document
    topics : (n, topics) float32 share of each topic in each document; rows sum to 1
    concept : (vocabulary,) int64 meaning of each word; words with one meaning are synonyms
    queries : TopicQueries to judge a method by; `sample_queries` makes more of them, for training

    Examples
    --------
    >>> corpus = topic_corpus(50, 100, 5, generator=0)
    >>> len(corpus), corpus.counts.shape, corpus.topics.shape
    (50, (50, 100), (50, 5))
    """

    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]
    counts: Any
    topics: NDArray[np.float32]
    concept: NDArray[np.int64]
    queries: TopicQueries
    _weights: NDArray[np.float64] = field(repr=False)
    _settings: tuple[Range, float] = field(repr=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def vocabulary(self) -> int:
        """How many words there are."""
        return len(self.concept)

    def sample_queries(
        self, count: int, *, substitution: float | None = None, generator: GeneratorLike = None
    ) -> TopicQueries:
        """More queries of the same law, about documents drawn uniformly.

        Parameters
        ----------
        count : how many, at least 1
        substitution : chance of a synonym instead of the document's word; None takes the corpus's own
        generator : of documents and words

        Returns
        -------
        TopicQueries

        Examples
        --------
        >>> corpus = topic_corpus(50, 100, 5, generator=0)
        >>> len(corpus.sample_queries(20, generator=1))
        20
        """
        length, own = self._settings
        rate = own if substitution is None else _share("substitution", substitution)
        rng = _numpy_generator(generator)
        relevant = rng.integers(0, len(self), _positive("count", count))
        return _queries(self.tokens, self.offsets, self.concept, self._weights, relevant, length, rate, rng)

    def concept_counts(self, counts: Any) -> Any:
        """Counts of meanings instead of words: what a reader sees who knows every synonym.

        Parameters
        ----------
        counts : (m, vocabulary) CSR of documents or queries

        Returns
        -------
        (m, concepts) CSR; a lexical method on it is an oracle for methods that see words.
        """
        meanings = int(self.concept.max()) + 1
        shape = (self.vocabulary, meanings)
        fold = sparse.csr_array((np.ones(len(self.concept), np.float32), (np.arange(shape[0]), self.concept)), shape)
        return sparse.csr_array(counts @ fold)


def topic_corpus(
    documents: int,
    vocabulary: int = 2000,
    topics: int = 40,
    *,
    queries: int = 200,
    length: Range = (30, 90),
    query_length: Range = (2, 5),
    synonyms: int = 2,
    substitution: float = 0.5,
    background: float = 0.3,
    repeats: float = 0.4,
    concentration: float = 0.1,
    exponent: float = 1.0,
    generator: GeneratorLike = None,
) -> TopicCorpus:
    r"""A collection of documents about topics, with queries whose answers are known.

    Parameters
    ----------
    documents, vocabulary, topics : how many documents, words and topics
    queries : how many queries, each with one relevant document
    length, query_length : words of a document and distinct meanings in a query, a number or (low, high), both included
    synonyms : words for one meaning; a document uses one of them throughout
    substitution : chance that a word of a query is another synonym than the document's
    background : share of words that come from the language and not from the document's topics
    repeats : chance that a word is one that the document has used before
    concentration : how broad a topic is; topics with a small number have few words of their own
    exponent : of Zipf's law, in the frequencies of meanings over the whole language
    generator : of everything

    Returns
    -------
    TopicCorpus

    Raises
    ------
    ValueError : a number that is not positive, a share that is not between 0 and 1, low above high, or fewer words
        than synonyms.

    Notes
    -----
    Meaning c has frequency :math:`\propto (c + 1)^{-s}`, topic t the words
    :math:`\mathrm{Dirichlet}(\alpha C p)` around them, a document one to three topics with uniform shares. Words are
    drawn from the topics or the background, or copied from an earlier place of the document (Pólya's urn, which gives
    the bursts of real texts). A query takes distinct meanings of its document with chance proportional to their
    inverse document frequency, and exchanges each word for a synonym with chance `substitution`: a lexical method
    then loses the word, one that learns meanings does not.

    Examples
    --------
    >>> corpus = topic_corpus(200, 500, 10, queries=20, generator=0)
    >>> corpus.counts.shape, len(corpus.queries)
    ((200, 500), 20)
    >>> query, document = corpus.queries.counts[[0]], corpus.counts[[corpus.queries.relevant[0]]]
    >>> meanings = [corpus.concept_counts(counts).toarray()[0] > 0 for counts in (query, document)]
    >>> bool((meanings[1] >= meanings[0]).all())
    True
    """
    for name, value in (("documents", documents), ("vocabulary", vocabulary), ("topics", topics)):
        _positive(name, value)
    _positive("queries", queries)
    if _positive("synonyms", synonyms) > vocabulary:
        raise ValueError(f"synonyms must be at most the vocabulary, {vocabulary}, got {synonyms}")
    for name, share in (("substitution", substitution), ("background", background), ("repeats", repeats)):
        _share(name, share)
    for name, number in (("concentration", concentration), ("exponent", exponent)):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be positive, got {number}")
    _check_range("query_length", query_length)
    rng = _numpy_generator(generator)
    meanings = -(-vocabulary // synonyms)
    concept = np.arange(vocabulary) % meanings
    language = np.arange(1, meanings + 1, dtype=float) ** -exponent
    language /= language.sum()
    law = rng.standard_gamma(concentration * meanings * np.broadcast_to(language, (topics, meanings)))
    # A gamma variable of a tiny shape can round to zero; a topic must not be empty.
    law += 1e-12 * language

    lengths = _lengths(_check_range("length", length), documents, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shares = _topic_shares(documents, topics, rng)
    drawn = _draw_meanings(law, language, shares, offsets, background, rng)
    drawn = drawn[_urn(offsets, repeats, rng)]
    tokens = _choose_synonyms(drawn, offsets, vocabulary, meanings, rng)

    counts = _counts(tokens, offsets, vocabulary)
    weights = _rarity(drawn, offsets, meanings)
    asked = rng.integers(0, documents, queries)
    made = _queries(tokens, offsets, concept, weights, asked, query_length, substitution, rng)
    return TopicCorpus(tokens, offsets, counts, shares, concept, made, weights, (query_length, substitution))


def pad_tokens(
    tokens: NDArray[np.int64], offsets: NDArray[np.int64], rows: Any = None, *, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Ragged sequences as one rectangle and a mask.

    Parameters
    ----------
    tokens : (sum of lengths,) words of all sequences
    offsets : (n + 1,) where each sequence begins, and the end
    rows : which sequences, in which order; None means all
    length : longest sequence kept, longer ones lose their end; None keeps all

    Returns
    -------
    ids : (rows, longest) int64 tensor, 0 where there is no token
    mask : (rows, longest) bool tensor, True where there is one

    Examples
    --------
    >>> import numpy as np
    >>> pad_tokens(np.array([5, 6, 7]), np.array([0, 1, 3]))
    (tensor([[5, 0],
            [6, 7]]), tensor([[ True, False],
            [ True,  True]]))
    """
    index = np.arange(len(offsets) - 1) if rows is None else np.asarray(rows)
    sizes = offsets[index + 1] - offsets[index]
    longest = int(sizes.max(initial=0)) if length is None else min(int(sizes.max(initial=0)), length)
    place = np.arange(max(longest, 1))
    mask = place < sizes[:, None]
    at = np.where(mask, offsets[index][:, None] + place, 0)
    ids = np.where(mask, tokens[at] if len(tokens) else 0, 0)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    return int(value)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return float(value)


def _check_range(name: str, given: Range) -> tuple[int, int]:
    low, high = (given, given) if isinstance(given, int) else given
    if _positive(name, low) > _positive(name, high):
        raise ValueError(f"{name} must be (low, high) with low <= high, got {given}")
    return low, high


def _numpy_generator(generator: GeneratorLike) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**62, (), generator=as_generator(generator)).item()))


def _lengths(given: tuple[int, int], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(given[0], given[1] + 1, count)


def _topic_shares(documents: int, topics: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One to three topics a document, with shares uniform on the simplex."""
    most = min(3, topics)
    chosen = np.argpartition(rng.random((documents, topics)), most - 1, axis=1)[:, :most]
    part = rng.standard_exponential((documents, most))
    part[np.arange(most) >= rng.integers(1, most + 1, documents)[:, None]] = 0
    shares = np.zeros((documents, topics), np.float32)
    np.put_along_axis(shares, chosen, (part / part.sum(1, keepdims=True)).astype(np.float32), axis=1)
    return shares


def _draw_meanings(
    law: NDArray[np.float64],
    language: NDArray[np.float64],
    shares: NDArray[np.float32],
    offsets: NDArray[np.int64],
    background: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    total, documents = int(offsets[-1]), len(shares)
    owner = np.repeat(np.arange(documents), np.diff(offsets))
    # The topic of a token: where a uniform number falls among its document's cumulated shares.
    edges = np.cumsum(shares, axis=1, dtype=np.float64)
    edges = (edges / edges[:, -1:] + np.arange(documents)[:, None]).ravel()
    topic = np.searchsorted(edges, owner + rng.random(total), side="right") - owner * shares.shape[1]
    topic = np.minimum(topic, shares.shape[1] - 1)
    topic[rng.random(total) < background] = len(law)
    drawn = np.empty(total, np.int64)
    for t, weights in enumerate([*law, language]):
        places = np.flatnonzero(topic == t)
        cumulated = np.cumsum(weights)
        found = np.searchsorted(cumulated, rng.random(len(places)) * cumulated[-1], side="right")
        drawn[places] = np.minimum(found, len(weights) - 1)
    return drawn


def _urn(offsets: NDArray[np.int64], repeats: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each place the place that it copies: itself, or an earlier one of its document, followed to the root."""
    total = int(offsets[-1])
    start = np.repeat(offsets[:-1], np.diff(offsets))
    place = np.arange(total)
    earlier = start + (rng.random(total) * (place - start)).astype(np.int64)
    root = np.where(rng.random(total) < repeats, earlier, place)
    while not np.array_equal(root, following := root[root]):
        root = following
    return root


def _choose_synonyms(
    drawn: NDArray[np.int64], offsets: NDArray[np.int64], vocabulary: int, meanings: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The word for each meaning: one choice per document and meaning."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs, back = np.unique(owner * meanings + drawn, return_inverse=True)
    meaning = pairs % meanings
    forms = (vocabulary - 1 - meaning) // meanings + 1
    word = meaning + meanings * (rng.random(len(pairs)) * forms).astype(np.int64)
    return word[back]


def _counts(tokens: NDArray[np.int64], offsets: NDArray[np.int64], vocabulary: int) -> Any:
    shape = (len(offsets) - 1, vocabulary)
    # A copy: summing works in place, and would change the sequences themselves.
    counts = sparse.csr_array((np.ones(len(tokens), np.float32), tokens, offsets), shape=shape, copy=True)
    counts.sum_duplicates()
    return counts


def _rarity(drawn: NDArray[np.int64], offsets: NDArray[np.int64], meanings: int) -> NDArray[np.float64]:
    """Inverse document frequency of each meaning: how telling it is."""
    documents = len(offsets) - 1
    owner = np.repeat(np.arange(documents), np.diff(offsets))
    frequency = np.bincount(np.unique(owner * meanings + drawn) % meanings, minlength=meanings)
    return np.log1p((documents - frequency + 0.5) / (frequency + 0.5))


def _queries(
    tokens: NDArray[np.int64],
    offsets: NDArray[np.int64],
    concept: NDArray[np.int64],
    weights: NDArray[np.float64],
    relevant: NDArray[np.int64],
    length: Range,
    substitution: float,
    rng: np.random.Generator,
) -> TopicQueries:
    count, vocabulary = len(relevant), len(concept)
    sizes = offsets[relevant + 1] - offsets[relevant]
    start = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(count), sizes)
    words = tokens[np.arange(sizes.sum()) + np.repeat(offsets[relevant] - start, sizes)]
    # A document has one word per meaning, so distinct words are distinct meanings.
    pairs = np.unique(owner * vocabulary + words)
    owner, words = pairs // vocabulary, pairs % vocabulary
    # Exponential races: the first ones home are a sample without replacement, weighted by rarity.
    finish = rng.standard_exponential(len(words)) / np.maximum(weights[concept[words]], 1e-9)
    order = np.lexsort((finish, owner))
    owner, words = owner[order], words[order]
    first = np.searchsorted(owner, np.arange(count))
    kept = np.arange(len(owner)) - first[owner] < _lengths(_check_range("query_length", length), count, rng)[owner]
    owner, words = owner[kept], words[kept]

    meanings = int(concept.max()) + 1
    forms = (vocabulary - 1 - concept[words]) // meanings + 1
    step = 1 + (rng.random(len(words)) * (forms - 1)).astype(np.int64)
    other = concept[words] + meanings * ((words // meanings + step) % forms)
    words = np.where((rng.random(len(words)) < substitution) & (forms > 1), other, words)
    ends = np.searchsorted(owner, np.arange(count + 1)).astype(np.int64)
    return TopicQueries(words, ends, relevant, _counts(words, ends, vocabulary))
