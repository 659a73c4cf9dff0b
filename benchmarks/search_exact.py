"""Exact search against the product of its matrices, the stream of its rows, faiss and scikit-learn.

python benchmarks/search_exact.py [--quick]

The bound of a batch is the time of the bare matrix product in the best shape of block, of a single query the time that
the rows take at the bandwidth of a long sum; both are measured here. Clusters are compared with `faiss.Kmeans`.
"""

from __future__ import annotations

import argparse

import faiss
import numpy as np
import torch
from _timing import interleaved, machine, stream, table
from sklearn.neighbors import NearestNeighbors

from resolvent import search
from resolvent.search.exact import top_rows
from resolvent.search.vectors import Vectors


def product(x: torch.Tensor, q: torch.Tensor) -> None:
    """All scores, block by block into one place, and nothing done with them."""
    out = torch.empty(256, 2048)
    for part in x.split(2048):
        for some in q.split(256):
            torch.mm(some, part.mT, out=out[: len(some), : len(part)] if len(part) == 2048 else None)


def batches(quick: bool) -> None:
    rows = []
    n, b = (50_000, 512) if quick else (200_000, 2048)
    for dim, k in ((64, 10), (64, 100), (128, 10), (128, 100), (384, 10)):
        g = torch.Generator().manual_seed(0)
        x, q = torch.randn(n, dim, generator=g), torch.randn(b, dim, generator=g)
        index, vectors = faiss.IndexFlatIP(dim), Vectors.of(x)
        index.add(x.numpy())
        brute = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x.numpy())
        few = q[: b // 8].numpy()
        seconds = interleaved(
            {
                "ours": lambda v=vectors, q=q, k=k: top_rows(v, q.numpy(), k, "ip"),
                "product": lambda x=x, q=q: product(x, q),
                "faiss": lambda i=index, q=q, k=k: i.search(q.numpy(), k),
                "sklearn": lambda s=brute, few=few: s.kneighbors(few),
                "ours l2": lambda v=vectors, few=few, k=k: top_rows(v, few, k, "l2"),
            },
            repeats=3 if quick else 7,
        )
        ours = seconds["ours"]
        flops = 2.0 * n * b * dim / ours / 1e9
        row = [f"{dim}, {k}", b / ours, flops, seconds["product"] / ours, seconds["faiss"] / ours]
        rows.append([*row, seconds["sklearn"] / seconds["ours l2"]])
    header = ["dim, k", "queries/s", "Gflop/s", "of the bare product", "x faiss IndexFlatIP", "x sklearn brute (l2)"]
    table(f"{b} queries over {n} rows; {machine()}", header, rows)


def single(quick: bool) -> None:
    rows, bandwidth = [], stream()["sum"]
    n = 100_000 if quick else 1_000_000
    for dim in (64, 128):
        x = torch.randn(n, dim, generator=torch.Generator().manual_seed(0))
        q = x[:1] + 0.1
        vectors, index = Vectors.of(x), faiss.IndexFlatIP(dim)
        index.add(x.numpy())
        seconds = interleaved(
            {
                "ours": lambda v=vectors, q=q: top_rows(v, q.numpy(), 10, "ip"),
                "faiss": lambda i=index, q=q: i.search(q.numpy(), 10),
                "torch": lambda x=x, q=q: (x @ q[0]).topk(10),
            },
            repeats=5 if quick else 15,
        )
        ours = seconds["ours"]
        rate = 4.0 * n * dim / ours
        rows.append([dim, ours * 1e3, rate / 1e9, rate / bandwidth, seconds["faiss"] / ours, seconds["torch"] / ours])
    header = ["dim", "ms", "GB/s", "of stream bandwidth", "x faiss", "x torch"]
    table(f"one query over {n} rows", header, rows)


def clusters(quick: bool) -> None:
    n, k = (30_000, 128) if quick else (200_000, 512)
    x = search.clustered_vectors(n, 64, clusters=200, generator=0).x
    theirs = faiss.Kmeans(64, k, niter=25, seed=1)
    ours = search.kmeans(x, k, rtol=0.0, generator=0)
    seconds = interleaved(
        {
            "ours": lambda: search.kmeans(x, k, rtol=0.0, generator=0),
            "faiss": lambda: (theirs.train(x.numpy()), theirs.index.search(x.numpy(), 1)),
        },
        repeats=3,
    )
    inertia = float(np.sum(theirs.index.search(x.numpy(), 1)[0]))
    row = [f"{n}, {k}", seconds["ours"], seconds["faiss"] / seconds["ours"], ours.inertia / inertia]
    table("k-means, 25 steps and labels", ["rows, clusters", "s", "x faiss", "sum of squares / faiss"], [row])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    batches(arguments.quick)
    single(arguments.quick)
    clusters(arguments.quick)


if __name__ == "__main__":
    main()
