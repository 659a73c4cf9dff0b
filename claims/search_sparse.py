"""What the papers on learned sparse retrieval and on the capacity of encoders claim, measured."""

import functools
import math
from itertools import pairwise

import numpy as np
from scipy import sparse

from resolvent import search, sketch
from resolvent.claims import Measured, Scale, claim


@functools.cache
def collection(full: bool):
    """Documents, judged queries and training queries."""
    documents, vocabulary = (4000, 2000) if full else (600, 300)
    corpus = search.topic_corpus(documents, vocabulary, 20, queries=300, length=(20, 40), generator=0)
    return corpus, corpus.sample_queries(20000 if full else 3000, generator=1)


@functools.cache
def long_documents(full: bool):
    """The same of long documents, few enough for a dense encoder to learn from nothing."""
    documents, vocabulary, length = (1000, 400, (60, 100)) if full else (200, 100, (40, 80))
    options = {"length": length, "query_length": (3, 6), "queries": 300, "generator": 0}
    corpus = search.topic_corpus(documents, vocabulary, 10, **options)
    return corpus, corpus.sample_queries(20000 if full else 4000, generator=1)


def texts(corpus, train):
    return (train.tokens, train.offsets), (corpus.tokens, corpus.offsets)


@functools.cache
def trained(full: bool, pool: str = "max", regularization: float = 3e-3, doc_only: bool = False, seed: int = 0):
    """A model after the training that all of its kind get."""
    corpus, train = collection(full)
    queries, documents = texts(corpus, train)
    width, layers, steps = (128, 2, 600) if full else (48, 1, 150)
    encoder = search.TokenEncoder(corpus.vocabulary, width=width, layers=layers, heads=4, generator=seed)
    rate, factors = (3e-3 if full else 1e-2), (3 * regularization, regularization)
    options = {"regularization": factors, "steps": steps, "batch": 64, "rate": rate, "generator": seed}
    return search.Splade(encoder, pool, doc_only).fit(queries, documents, train.relevant, **options)


def weights(model, corpus):
    queries = corpus.queries.tokens, corpus.queries.offsets
    return model.encode_queries(queries), model.encode_documents((corpus.tokens, corpus.offsets))


def judge(queries, documents, corpus) -> float:
    return search.ndcg(search.InvertedIndex(documents).query(queries, 10), corpus.queries.qrels, 10)


def lexical(corpus) -> float:
    return judge(corpus.queries.counts, search.bm25(corpus.counts), corpus)


@claim(
    paper="SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking",
    method=search.Splade,
    says="expansion learns what words do not say: ndcg@10 above BM25 on a corpus with synonyms",
    at_least=0.05,
)
def splade_above_bm25(scale: Scale) -> Measured:
    corpus, _ = collection(scale.full)
    q, d = weights(trained(scale.full, regularization=1e-2), corpus)
    d = search.prune_terms(d, 100)
    learned, words = judge(q, d, corpus), lexical(corpus)
    return Measured(learned - words, "ndcg@10", f"{learned:.3f} with {d.nnz / len(corpus):.0f} terms, BM25 {words:.3f}")


@claim(
    paper="SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking",
    method=search.flops_regularizer,
    says="lambda trades effectiveness for speed: the fewest products per pair saved by each threefold lambda",
    at_least=1.1,
)
def lambda_curve(scale: Scale) -> Measured:
    corpus, _ = collection(scale.full)
    pairs = [weights(trained(scale.full, regularization=r), corpus) for r in (1e-2, 3e-2, 1e-1)]
    flops = [search.expected_products(q, d) for q, d in pairs]
    quality = [judge(q, d, corpus) for q, d in pairs]
    # A curve that falls in quality where it falls in cost; 0.02 is the noise of 300 queries.
    falls = all(b <= a + 0.02 for a, b in pairwise(quality))
    saved = min(a / b for a, b in pairwise(flops))
    note = "; ".join(f"{f:.1f} products: {n:.3f}" for f, n in zip(flops, quality, strict=True))
    return Measured(saved if falls else 0.0, "x fewer products", note)


@claim(
    paper="SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking",
    method=search.InvertedIndex,
    says="exact top 10 of a sparse product without scoring most postings of the query's lists",
    at_least=5.0,
)
def postings_saved(scale: Scale) -> Measured:
    n = scale(quick=20_000, full=100_000)
    corpus = search.topic_corpus(n, n // 5, n // 500, queries=100, generator=0)
    documents, queries = search.bm25(corpus.counts), corpus.queries.counts
    hits = search.InvertedIndex(documents).query(queries, 10)
    scores = (queries @ documents.T).toarray()
    best = -np.sort(-scores, axis=1)[:, :10]
    if not np.allclose(np.maximum(hits.scores, 0), best, rtol=1e-5):
        return Measured(0.0, "x fewer postings", "the answer differs from the product")
    lists = ((queries > 0) @ np.diff(sparse.csc_array(documents).indptr)).sum()
    return Measured(lists / hits.scanned.sum(), "x fewer postings", f"{hits.scanned.mean():.0f} a query")


@claim(
    paper="SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval",
    method=search.splade_pool,
    says="max pooling is at least as effective as sum pooling at equal products per pair",
    at_least=0.0,
)
def max_against_sum(scale: Scale) -> Measured:
    corpus, _ = collection(scale.full)
    gains = []
    for seed in range(scale(quick=1, full=3)):
        # A sum over tokens is larger: its own lambda, the best of those tried.
        by_sum = weights(trained(scale.full, "sum", regularization=1e-5, seed=seed), corpus)
        q, d = weights(trained(scale.full, regularization=1e-2, seed=seed), corpus)
        most = search.expected_products(*by_sum)
        terms = 128
        while terms > 1 and search.expected_products(search.prune_terms(q, terms), search.prune_terms(d, terms)) > most:
            terms -= 1
        q, d = search.prune_terms(q, terms), search.prune_terms(d, terms)
        gains.append((judge(q, d, corpus), judge(*by_sum, corpus)))
    first, second = np.mean(gains, axis=0)
    return Measured(first - second, "ndcg@10", f"max {first:.3f}, sum {second:.3f}")


@functools.cache
def longer(full: bool, distilled: bool):
    """The trained model, trained on with its own hard negatives: with the margins of a teacher, or without."""
    corpus, train = collection(full)
    queries, documents = texts(corpus, train)
    model = search.Splade(search.TokenEncoder(corpus.vocabulary, width=128 if full else 48, layers=2 if full else 1))
    start = trained(full, regularization=1e-2)
    model.load_state_dict(start.state_dict())
    rows = slice(None, None) if full else slice(0, 1500)
    some = (train.tokens, train.offsets[:1501]) if not full else queries
    negatives = start.mine_negatives(some, documents, train.relevant[rows], 8)
    margins = None
    if distilled:
        # The oracle knows meanings: BM25 on them.
        oracle = corpus.concept_counts(train.counts[rows]) @ search.bm25(corpus.concept_counts(corpus.counts)).T
        scores = oracle.toarray()
        right = np.take_along_axis(scores, train.relevant[rows][:, None], 1)
        margins = right - np.take_along_axis(scores, negatives, 1)
    return model.fit(
        some,
        documents,
        train.relevant[rows],
        negatives=negatives,
        teacher_margins=margins,
        regularization=(3e-2, 1e-2),
        steps=400 if full else 120,
        batch=64 if full else 48,
        rate=2e-3 if full else 5e-3,
        generator=0,
    )


@claim(
    paper="SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval",
    method=search.margin_mse,
    says="the margins of a teacher add ndcg@10 to the same further training with the same hard negatives",
    at_least=0.02,
    known_miss="-0.02 at quick scale (0.69 against 0.70; 0.70 against 0.72 with 200 steps). The labels of this corpus are "
    "exact and the oracle itself reaches 0.81, so that the contrastive loss, with a batch of negatives for each query, "
    "learns more in a few hundred steps than a margin to one negative; the paper's labels are sparse and noisy",
)
def distillation_gain(scale: Scale) -> Measured:
    corpus, _ = collection(scale.full)
    with_teacher, without = (judge(*weights(longer(scale.full, kind), corpus), corpus) for kind in (True, False))
    return Measured(with_teacher - without, "ndcg@10", f"{with_teacher:.3f} against {without:.3f}")


@claim(
    paper="SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval",
    method=search.Splade,
    says="documents alone are encoded, queries cost no network: still above BM25",
    at_least=0.0,
)
def document_side_only(scale: Scale) -> Measured:
    corpus, _ = collection(scale.full)
    learned = judge(*weights(trained(scale.full, doc_only=True), corpus), corpus)
    return Measured(learned - lexical(corpus), "ndcg@10", f"{learned:.3f}, BM25 {lexical(corpus):.3f}")


def ranking(length: int):
    """A query of 4 words, a document of `length` words that has them, and one that shares no word with either."""
    q, better, worse = np.zeros((3, 2 * length))
    q[:4], better[:length], worse[length:] = 1, 1, 1
    return q, better - worse, float(search.normalized_margin(q, better, worse))


@claim(
    paper="Sparse, Dense, and Attentional Representations for Text Retrieval",
    method=search.encoder_dimension_bound,
    says="random compression errs less often than the bound, for every k and every margin tested",
    at_most=1.0,
)
def errors_below_the_bound(scale: Scale) -> Measured:
    worst = 0.0
    for length in (8, 20, 60):
        q, difference, margin = ranking(length)
        wrong, draws = np.zeros(400), scale(quick=300, full=3000)
        for draw in range(draws):
            A = np.asarray(sketch.rademacher(400, len(q), generator=draw) @ np.stack([q, difference], 1))
            wrong += np.cumsum(A[:, 0] * A[:, 1]) <= 0
        wrong /= draws
        worst = max(worst, max(w / search.compression_failure(margin, k + 1) for k, w in enumerate(wrong)))
    return Measured(worst, "of the bound")


@claim(
    paper="Sparse, Dense, and Attentional Representations for Text Retrieval",
    method=search.encoder_dimension_bound,
    says="the dimension that keeps 95 percent of rankings grows as margin^-2: distance of the fitted slope from -2",
    at_most=0.15,
)
def dimension_by_margin(scale: Scale) -> Measured:
    points = []
    rng = np.random.default_rng(0)
    for length in (12, 24, 48, 96):
        _, difference, margin = ranking(length)
        # The sum of n random signs is 2 B(n, 1/2) - n: the same law as a matrix times 0, 1 and -1, drawn faster.
        shape, others = (scale(quick=3000, full=30_000), 10 * length), int(np.abs(difference).sum()) - 4
        asked = 2.0 * rng.binomial(4, 0.5, shape) - 4
        rest = 2.0 * rng.binomial(others, 0.5, shape) - others
        wrong = (np.cumsum(asked * (asked + rest), axis=1) <= 0).mean(0)
        points.append((math.log(margin), math.log((wrong > 0.05).sum())))
    slope = np.polyfit(*zip(*points, strict=True), 1)[0]
    return Measured(abs(slope + 2), "", f"slope {slope:.2f}")


@functools.cache
def dual(full: bool, m: int):
    corpus, train = long_documents(full)
    encoder = search.TokenEncoder(corpus.vocabulary, width=64 if full else 32, layers=1, heads=4, prefix=8, generator=0)
    model = search.MultiVectorEncoder(encoder, m=m, generator=0)
    steps, rate = (3000, 5e-3) if full else (250, 5e-3)
    return model.fit(*texts(corpus, train), train.relevant, steps=steps, batch=32, rate=rate, generator=0)


def dense_hits(model, corpus, queries, k=100):
    vectors = model.encode_documents((corpus.tokens, corpus.offsets))
    return model.search(model.encode_queries((queries.tokens, queries.offsets)), *vectors, k)


@claim(
    paper="Sparse, Dense, and Attentional Representations for Text Retrieval",
    method=search.MultiVectorEncoder,
    says="with the same training, 8 vectors for a long document beat one: mrr@10",
    at_least=0.05,
    known_miss="-0.02 at quick scale (0.23 against 0.25 in 250 steps, 0.27 against 0.26 in 300). Trained from nothing, "
    "the 8 vectors begin as nearly the same mean of the tokens and have not grown apart; the paper starts from BERT",
)
def eight_vectors_against_one(scale: Scale) -> Measured:
    corpus, _ = long_documents(scale.full)
    eight, one = (
        search.mrr(dense_hits(dual(scale.full, m), corpus, corpus.queries, 10), corpus.queries.qrels, 10)
        for m in (8, 1)
    )
    return Measured(eight - one, "mrr@10", f"{eight:.3f} against {one:.3f}")


@claim(
    paper="Sparse, Dense, and Attentional Representations for Text Retrieval",
    method=search.fuse,
    says="a hybrid beats both of its parts: mrr@10 over the better one, lambda chosen on other queries",
    at_least=0.01,
)
def hybrid_above_its_parts(scale: Scale) -> Measured:
    corpus, _ = long_documents(scale.full)
    index, model = search.InvertedIndex(search.bm25(corpus.counts)), dual(scale.full, 8)
    held_out = corpus.sample_queries(300, generator=2)

    def parts(queries):
        return dense_hits(model, corpus, queries), index.query(queries.counts, 100)

    def quality(hits, queries):
        return search.mrr(hits, queries.qrels, 10)

    tried = parts(held_out)
    weight = max((0.1, 0.3, 1.0, 3.0, 10.0), key=lambda w: quality(search.fuse(*tried, w), held_out))
    dense, words = parts(corpus.queries)
    both = quality(search.fuse(dense, words, weight), corpus.queries)
    alone = quality(dense, corpus.queries), quality(words, corpus.queries)
    note = f"{both:.3f}, dense {alone[0]:.3f}, sparse {alone[1]:.3f}, lambda {weight}"
    return Measured(both - max(alone), "mrr@10", note)
