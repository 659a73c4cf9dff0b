"""Multi-vector search: seconds, pairs of tokens and recall of encodings against scoring everything and against lists of tokens.

python benchmarks/search_multivector.py [--quick]

The exhaustive score is compared with the same in torch, document by document, which is what a user would write. The index
is compared with the single-vector heuristic on `faiss` if it is there: the nearest tokens of each query token, their
documents united by best score, as many of them ranked exactly as reach the same recall. Documents come ten on a subject.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from _timing import interleaved, machine, table

from resolvent import search

SHARED = {"topics": 100, "per_document": 5, "family": 10, "own": 0.3, "spread": 0.5, "noise": 2.0}


def by_documents(corpus: search.TokenCorpus, queries: int) -> torch.Tensor:
    """One product and one maximum for each document."""
    asked = torch.from_numpy(corpus.query_tokens[: corpus.query_offsets[queries]])
    pieces = torch.from_numpy(corpus.tokens).split(np.diff(corpus.offsets).tolist())
    best = torch.stack([(asked @ piece.mT).amax(1) for piece in pieces], 1)
    return best.view(queries, -1, len(pieces)).sum(1)


def scores(quick: bool) -> None:
    n, m = (500, 10) if quick else (5000, 50)
    corpus = search.token_sets(n, queries=m, ragged=True, generator=0, **SHARED)
    pairs = len(corpus.query_tokens) * len(corpus.tokens)
    error = np.abs(search.chamfer(corpus.queries, corpus.documents) - by_documents(corpus, m).numpy()).max()
    seconds = interleaved(
        {
            "resolvent.search.chamfer": lambda: search.chamfer(corpus.queries, corpus.documents),
            "torch, a product a document": lambda: by_documents(corpus, m),
        },
        repeats=3 if quick else 7,
    )
    rows = [[name, 1e3 * s, pairs / s / 1e9, 2 * 64 * pairs / s / 1e9] for name, s in seconds.items()]
    title = f"Chamfer scores, {m} queries x {n} documents, dim 64; largest difference {error:.1g}; {machine()}"
    table(title, ["what", "ms", "G pairs/s", "Gflop/s"], rows)


class TokenLists:
    """The heuristic: an index over all tokens, an answer ranked by exact scores."""

    def __init__(self, corpus: search.TokenCorpus) -> None:
        import faiss

        self.corpus = corpus
        self.owner = np.repeat(np.arange(len(corpus.offsets) - 1), np.diff(corpus.offsets))
        dim = corpus.tokens.shape[1]
        self.index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, 256, faiss.METRIC_INNER_PRODUCT)
        self.index.train(corpus.tokens)
        self.index.add(corpus.tokens)
        self.index.nprobe = 32

    def query(self, candidates: int, depth: int = 100) -> np.ndarray:
        corpus, m = self.corpus, len(self.corpus.query_offsets) - 1
        values, rows = self.index.search(corpus.query_tokens, depth)
        chosen = np.full((m, candidates), -1)
        owners = self.owner[rows].reshape(m, -1)
        order = np.argsort(-values.reshape(m, -1), axis=1)
        for i in range(m):
            ranked = owners[i][order[i]]
            _, first = np.unique(ranked, return_index=True)
            best = ranked[np.sort(first)][:candidates]
            chosen[i, : len(best)] = best
        exact = search.chamfer(corpus.queries, corpus.documents, chosen)
        return np.take_along_axis(chosen, np.argsort(-exact, axis=1)[:, :10], 1)


def fewest(query, truth, most: int) -> int:
    """The first number of candidates at which nine in ten of the best ten are found."""
    for candidates in (10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000):
        if candidates <= most and search.recall_at_k(query(candidates), truth) >= 0.9:
            return candidates
    return most


def indexes(quick: bool) -> None:
    n, m = (1000, 20) if quick else (10_000, 200)
    corpus = search.token_sets(n, queries=m, ragged=True, generator=0, **SHARED)
    truth = torch.from_numpy(search.chamfer(corpus.queries, corpus.documents)).topk(10, 1).indices
    makers = {
        "encodings, scanned": search.MultiVectorIndex,
        "encodings, sketched to 1024": lambda: search.MultiVectorIndex(final_dim=1024),
        "encodings sketched to 1024, HNSW": lambda: search.MultiVectorIndex(search.HNSW(metric="ip"), final_dim=1024),
    }
    calls, facts = {}, {}
    for name, maker in makers.items():
        index = maker().build(corpus.documents)

        def ids(candidates: int, index: search.MultiVectorIndex = index) -> np.ndarray:
            return index.query(corpus.queries, 10, candidates=candidates).ids

        candidates = fewest(ids, truth, n)
        calls[name] = lambda ids=ids, candidates=candidates: ids(candidates)
        facts[name] = (candidates, search.recall_at_k(ids(candidates), truth), index.nbytes / n)
    try:
        lists = TokenLists(corpus)
    except ImportError:
        print("faiss is not here: the heuristic is left out")
    else:
        candidates = fewest(lists.query, truth, n)
        name = "nearest tokens by faiss IVF, documents united"
        calls[name] = lambda: lists.query(candidates)
        recall = search.recall_at_k(lists.query(candidates), truth)
        facts[name] = (candidates, recall, 2 * corpus.tokens.nbytes / n)
    seconds = interleaved(calls, repeats=3 if quick else 5)
    size, asked = len(corpus.tokens) / n, 32
    rows = [[name, c, c * size * asked, r, m / seconds[name], b] for name, (c, r, b) in facts.items()]
    header = ["what", "candidates", "pairs ranked", "recall@10", "queries/s", "bytes a document"]
    table(f"{n} documents of {size:.0f} tokens, {m} queries of {asked}, dim 64", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    scores(arguments.quick)
    indexes(arguments.quick)


if __name__ == "__main__":
    main()
