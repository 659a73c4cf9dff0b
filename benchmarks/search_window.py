"""Filters by a window of labels: WindowTree against hnswlib with its answers filtered afterwards, at recall@10 of 0.95.

python benchmarks/search_window.py [--quick] [--size 200000]

Both sides take the cheapest of their settings that reaches the recall. hnswlib is asked for k' rows with ef = k', of
which those in the window are kept; one thread. In "related" the labels are the clusters of the rows and the queries
come from other clusters than the window.
"""

from __future__ import annotations

import argparse
import math

import hnswlib
import numpy as np
from _timing import interleaved, machine, table

from resolvent import search

K, RECALL = 10, 0.95
WIDTHS = (10, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def postfilter(index: hnswlib.Index, q: np.ndarray, inside: np.ndarray, width: int) -> np.ndarray:
    """The first K of `width` rows that are inside, -1 after them."""
    index.set_ef(width)
    rows = index.knn_query(q, k=width, num_threads=1)[0].astype(np.int64)
    order = np.argsort(~inside[rows], axis=1, kind="stable")[:, :K]
    first = np.take_along_axis(rows, order, 1)
    return np.where(inside[first], first, -1)


def cheapest(answer, true) -> tuple[int | None, float]:
    """The least width whose answer has the recall."""
    recall = 0.0
    for width in WIDTHS:
        try:
            recall = search.recall_at_k(answer(width), true)
        except RuntimeError:
            return None, recall
        if recall >= RECALL:
            return width, recall
    return None, recall


def compare(name, tree, peer, x, q, labels, low, high, repeats) -> list[object]:
    inside = (labels >= low) & (labels <= high)
    true = search.exact_search(x, q, K, "l2", allowed=inside).ids
    ours, recall = cheapest(lambda width: tree.query(q, K, low=low, high=high, ef=width, threads=1).ids, true)
    theirs, _ = cheapest(lambda width: postfilter(peer, q, inside, width), true)
    calls = {
        "ours": lambda: tree.query(q, K, low=low, high=high, ef=ours or WIDTHS[-1], threads=1),
        "scan": lambda: search.exact_search(x, q, K, "l2", allowed=inside),
    }
    if theirs is not None:
        calls["peer"] = lambda: postfilter(peer, q, inside, theirs)
    seconds = interleaved(calls, repeats=repeats)
    taken = "+".join(tree.query(q, K, low=low, high=high).explain["strategies"])
    ratio = seconds.get("peer", math.nan) / seconds["ours"]
    rate = len(q) / seconds["ours"]
    return [name, float(inside.mean()), taken, ours, theirs, recall, rate, ratio, seconds["scan"] / seconds["ours"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    arguments = parser.parse_args()
    n, queries, repeats = (5000, 50, 2) if arguments.quick else (arguments.size, 500, 5)
    dim = 32 if arguments.quick else arguments.dim
    corpus = search.clustered_vectors(n, dim, n_queries=queries, generator=0)
    x, q = corpus.x.numpy(), corpus.queries.numpy()
    rng = np.random.default_rng(0)
    peer = hnswlib.Index("l2", dim)
    peer.init_index(n, M=16, ef_construction=200, random_seed=0)
    peer.add_items(x)
    lines = []
    for name, labels in (
        ("independent", rng.random(n)),
        ("related", rng.permutation(100)[corpus.labels] + rng.random(n)),
    ):
        ordered = np.sort(labels)
        tree = search.WindowTree(x, labels, leaf=1000 if not arguments.quick else 300, metric="l2")
        for share in (0.01, 0.1, 0.5):
            first = int(rng.integers(0, n - int(share * n)))
            low, high = ordered[first], ordered[first + int(share * n) - 1]
            lines.append(compare(name, tree, peer, x, q, labels, low, high, repeats))
    header = ["labels", "share", "strategy", "ef", "peer's k'", "recall", "queries/s", "hnswlib / ours", "scan / ours"]
    table(f"{n} x {dim}, recall@{K} >= {RECALL}, one thread; {machine()}", header, lines)


if __name__ == "__main__":
    main()
