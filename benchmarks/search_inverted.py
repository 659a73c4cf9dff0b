"""BM25 search: the inverted index against bm25s (its fastest backend) and the sparse product of SciPy, one thread each.

python benchmarks/search_inverted.py [--quick]
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

import numpy as np
from _timing import interleaved, machine, table

from resolvent import search

K = 10


def by_product(weights: Any, queries: Any) -> np.ndarray:
    """Best documents of the whole score matrix, in blocks that stay in the cache."""
    best = []
    for a in range(0, queries.shape[0], 16):
        scores = (queries[a : a + 16] @ weights.T).toarray()
        rows = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, rows, 1), axis=1)
        best.append(np.take_along_axis(rows, order, 1))
    return np.concatenate(best)


def listed(tokens: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [tokens[a:b].tolist() for a, b in pairwise(offsets)]


def peer(corpus: Any, backend: str) -> Any:
    """bm25s over the same tokens, with the same parameters."""
    import bm25s

    names = {str(i): i for i in range(corpus.vocabulary)}
    made = bm25s.BM25(method="lucene", k1=1.2, b=0.75, backend=backend)
    made.index((listed(corpus.tokens, corpus.offsets), names), show_progress=False)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller collection")
    quick = parser.parse_args().quick
    rows: list[list[object]] = []
    for documents, length in (
        ((20_000, (2, 5)), (20_000, (8, 16))) if quick else ((100_000, (2, 5)), (100_000, (8, 16)))
    ):
        corpus = search.topic_corpus(documents, 20_000, 200, queries=200, query_length=length, generator=0)
        weights, queries = search.bm25(corpus.counts), corpus.queries.counts
        indexes = {kind: search.InvertedIndex(weights, impacts=kind) for kind in ("float32", "uint8")}
        calls: dict[str, Any] = {
            f"ours, {kind}": lambda index=index, queries=queries: index.query(queries, K)
            for kind, index in indexes.items()
        }
        calls["scipy"] = lambda weights=weights, queries=queries: by_product(weights, queries)
        try:
            asked = [[int(w) for w in words] for words in listed(corpus.queries.tokens, corpus.queries.offsets)]
            for backend in ("numpy", "numba"):
                other = peer(corpus, backend)
                calls[f"bm25s, {backend}"] = lambda other=other, asked=asked: other.retrieve(
                    asked, k=K, show_progress=False, n_threads=1, return_as="documents"
                )
        except ImportError:
            print("bm25s is not installed: its rows are left out")
        times = interleaved(calls, 5)
        lists = ((queries > 0) @ (corpus.counts > 0).sum(0)).sum()
        best = times["ours, float32"]
        for name, seconds in times.items():
            index = indexes.get(name.removeprefix("ours, "))
            read = index.query(queries, K).scanned.sum() / lists if index else 1.0
            rows.append([documents, f"{length[0]}-{length[1]}", name, len(asked) / seconds, seconds / best, read])
    header = ["documents", "words", "method", "queries/s", "x time of ours", "share of postings"]
    table(f"top {K} by BM25, one thread; {machine()}", header, rows)


if __name__ == "__main__":
    main()
