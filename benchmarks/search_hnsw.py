"""HNSW against hnswlib, usearch and faiss: queries per second at equal recall, filters, build time and bytes.

python benchmarks/search_hnsw.py [--quick] [--rows 200000] [--vectors FILE.npy]

Speeds at a recall are interpolated over a sweep of ef, all libraries in turn in every round. Every library builds with
M = 16 and ef_construction = 200 (hnswlib also lends its name to post-filtering: ask for more until k hits match).
A batch of queries is answered here in an order in which neighbours follow each other, so that rows are found in the cache:
the last table is about queries that come one by one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _timing import interleaved, machine, table

from resolvent import search

K, EF = 10, (10, 14, 20, 28, 40, 56, 80, 120, 180)
TARGETS = (0.90, 0.95, 0.98)
Answer = Callable[[np.ndarray, int, int], np.ndarray]


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(2).mean())


def ours(x: np.ndarray, first_stage: str | None) -> tuple[Any, Answer]:
    index = search.HNSW(16, 200, "l2", first_stage=first_stage).build(x)
    return index, lambda q, ef, threads: index.query(q, K, ef=ef, threads=threads).ids


def hnswlib_(x: np.ndarray, threads: int) -> tuple[Any, Answer]:
    import hnswlib

    index = hnswlib.Index(space="l2", dim=x.shape[1])
    index.init_index(max_elements=len(x), ef_construction=200, M=16, random_seed=0)
    index.add_items(x, num_threads=threads)

    def answer(q: np.ndarray, ef: int, threads: int) -> np.ndarray:
        index.set_ef(max(ef, K))
        return index.knn_query(q, K, num_threads=threads)[0].astype(np.int64)

    return index, answer


def usearch_(x: np.ndarray, threads: int) -> tuple[Any, Answer]:
    from usearch.index import Index

    index = Index(ndim=x.shape[1], metric="l2sq", dtype="f32", connectivity=16, expansion_add=200)
    index.add(np.arange(len(x)), x, threads=threads)

    def answer(q: np.ndarray, ef: int, threads: int) -> np.ndarray:
        index.expansion_search = ef
        return index.search(q, K, threads=threads).keys.astype(np.int64)

    return index, answer


def faiss_(x: np.ndarray, threads: int) -> tuple[Any, Answer]:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(x.shape[1], 16)
    index.hnsw.efConstruction = 200
    index.add(x)

    def answer(q: np.ndarray, ef: int, threads: int) -> np.ndarray:
        faiss.omp_set_num_threads(threads)
        index.hnsw.efSearch = ef
        return index.search(q, K)[1]

    return index, answer


def built(x: np.ndarray, threads: int) -> tuple[dict[str, tuple[Any, Answer]], list[list[object]]]:
    """Every library's index, and a table of build seconds and bytes per row."""
    makers: dict[str, Callable[[], tuple[Any, Answer]]] = {
        "resolvent": lambda: ours(x, None),
        "hnswlib": lambda: hnswlib_(x, threads),
        "resolvent int8 + rerank": lambda: ours(x, "int8"),
        "faiss": lambda: faiss_(x, threads),
        "usearch": lambda: usearch_(x, threads),
    }
    ours(x[:1000], "int8")
    ours(x[:1000], None)
    indexes, rows = {}, []
    for name, make in makers.items():
        start = time.perf_counter()
        try:
            made = make()
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        seconds = time.perf_counter() - start
        indexes[name] = made
        rows.append([name, seconds, bytes_per_row(name, made[0], x)])
    return indexes, rows


def bytes_per_row(name: str, index: Any, x: np.ndarray) -> float:
    if name.startswith("resolvent"):
        return index.nbytes / len(x)
    if name == "usearch":
        return index.memory_usage / len(x)
    if name == "hnswlib":
        return index.index_file_size() / len(x)
    # faiss: the vectors, 2M links, an offset of 8 bytes and a level of 4.
    return 4.0 * x.shape[1] + 4 * 32 + 12


def speeds(indexes: dict[str, tuple[Any, Answer]], x: np.ndarray, q: np.ndarray, threads: int, repeats: int) -> None:
    truth = search.exact_search(x, q, K, "l2").ids
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in indexes}
    for ef in EF:
        calls = {name: lambda a=answer, ef=ef: a(q, ef, threads) for name, (_, answer) in indexes.items()}
        seconds = interleaved(calls, repeats=repeats)
        for name, (_, answer) in indexes.items():
            points[name].append((recall(answer(q, ef, threads), truth), len(q) / seconds[name]))
    rows = []
    for name, curve in points.items():
        recalls, rates = (np.array(part) for part in zip(*curve, strict=True))
        at = [float(np.exp(np.interp(t, np.maximum.accumulate(recalls), np.log(rates)))) for t in TARGETS]
        rows.append([name, *at])
    base = next(row for row in rows if row[0] == "hnswlib")
    rows = [[*row, *(float(row[j]) / float(base[j]) for j in (1, 2, 3))] for row in rows]
    header = ["index", *(f"q/s at {t:.2f}" for t in TARGETS), *(f"x hnswlib at {t:.2f}" for t in TARGETS)]
    table(f"recall@{K}, {len(x)} x {x.shape[1]}, {threads} thread(s)", header, rows)


def post_filtered(index: Any, allowed: np.ndarray, q: np.ndarray, ef: int, threads: int) -> np.ndarray:
    """Ask hnswlib for so many that k match on average, all queries at once; those with too few ask for twice as many."""
    out = np.full((len(q), K), -1, np.int64)
    left, ask = np.arange(len(q)), max(K, round(K / allowed.mean()))
    while len(left):
        index.set_ef(max(ef, ask))
        ids = index.knn_query(q[left], ask, num_threads=threads)[0].astype(np.int64)
        good = allowed[ids]
        done = (good.sum(1) >= K) | (ask == len(allowed))
        first = np.argsort(~good[done], axis=1, kind="stable")[:, :K]
        out[left[done]] = np.take_along_axis(ids[done], first, 1)
        left, ask = left[~done], min(2 * ask, len(allowed))
    return out


def cheapest(answer: Callable[[int], np.ndarray], truth: np.ndarray, target: float) -> tuple[int, float]:
    """The smallest ef of the sweep that reaches the recall, and the recall."""
    for ef in EF:
        reached = recall(answer(ef), truth)
        if reached >= target:
            break
    return ef, reached


def filters(indexes: dict[str, tuple[Any, Answer]], x: np.ndarray, q: np.ndarray, repeats: int) -> None:
    """Each with the smallest ef that reaches recall 0.95."""
    ours_, theirs = indexes["resolvent"][0], indexes["hnswlib"][0]
    rows = []
    for share in (0.01, 0.1, 0.5):
        allowed = np.random.default_rng(0).random(len(x)) < share
        truth = search.exact_search(x, q, K, "l2", allowed=allowed).ids
        answers = {
            "ours": lambda ef, a=allowed: ours_.query(q, K, allowed=a, ef=ef, threads=1).ids,
            "post": lambda ef, a=allowed: post_filtered(theirs, a, q, ef, 1),
        }
        chosen = {name: cheapest(answer, truth, 0.95) for name, answer in answers.items()}
        calls = {name: lambda a=answer, ef=chosen[name][0]: a(ef) for name, answer in answers.items()}
        seconds = interleaved(calls, repeats=repeats)
        plan = ours_.query(q[:1], K, allowed=allowed, ef=chosen["ours"][0]).explain["plan"]
        ratio = seconds["post"] / seconds["ours"]
        cells = [f"ef {ef}: {reached:.3f}" for ef, reached in chosen.values()]
        rows.append([f"{share:.0%}", plan, len(q) / seconds["ours"], ratio, *cells])
    header = ["matches", "plan", "ours q/s", "x post-filtering hnswlib", "our recall", "its recall"]
    table(f"filters, recall@{K} of at least 0.95, one thread", header, rows)


def singles(indexes: dict[str, tuple[Any, Answer]], x: np.ndarray, q: np.ndarray, repeats: int) -> None:
    """Queries that come one by one, from Python: no batch to put in order, and the edge counts."""
    truth = search.exact_search(x, q, K, "l2").ids
    one_by_one = {
        name: lambda ef, answer=answer: np.concatenate([answer(row[None], ef, 1) for row in q])
        for name, (_, answer) in indexes.items()
        if name in ("resolvent", "resolvent int8 + rerank", "hnswlib")
    }
    chosen = {name: cheapest(answer, truth, 0.95) for name, answer in one_by_one.items()}
    calls = {name: lambda a=answer, ef=chosen[name][0]: a(ef) for name, answer in one_by_one.items()}
    seconds = interleaved(calls, repeats=repeats)
    rows = [
        [name, 1e6 * took / len(q), seconds["hnswlib"] / took, f"ef {chosen[name][0]}: {chosen[name][1]:.3f}"]
        for name, took in seconds.items()
    ]
    table(f"one query per call, recall@{K} of at least 0.95", ["index", "us", "x hnswlib", "recall"], rows)


def corpus(path: str | None, n: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and queries: made in clusters, or a file's, of which some rows, spread over it, are the queries."""
    if path is None:
        data = search.clustered_vectors(n, 128, intrinsic_dim=24, n_queries=queries, generator=0)
        return data.x.numpy(), data.queries.numpy()
    rows = np.load(path, allow_pickle=False).astype(np.float32)
    asked = np.zeros(len(rows), bool)
    asked[np.random.default_rng(0).choice(len(rows), queries, replace=False)] = True
    return np.ascontiguousarray(rows[~asked][:n]), np.ascontiguousarray(rows[asked])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--vectors", help="rows of one's own, for example those of search_glosses.py")
    parser.add_argument("--quick", action="store_true", help="small data: does it run?")
    arguments = parser.parse_args()
    x, q = corpus(arguments.vectors, 5000 if arguments.quick else arguments.rows, 200 if arguments.quick else 2000)
    repeats = 1 if arguments.quick else 5
    indexes, rows = built(x, threads=2)
    header = ["index", "build s (2 threads)", "bytes per row"]
    table(f"M = 16, ef_construction = 200, {len(x)} x {x.shape[1]} float32; {machine()}", header, rows)
    for threads in (1, 2):
        speeds(indexes, x, q, threads, repeats)
    few = q[: 50 if arguments.quick else 500]
    filters(indexes, x, few, repeats)
    singles(indexes, x, few, repeats)


if __name__ == "__main__":
    main()
