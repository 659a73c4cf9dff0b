"""Inverted lists of 4-bit codes against faiss's FastScan: queries per second at equal recall and equal size of code.

python benchmarks/search_ivfpq.py [--quick]

Both have the same number of lists, parts and bits, one thread, and score the best refine * k candidates again with the
float32 vectors (faiss through `IndexRefine`). For each target of recall@10 each side takes its fastest pair of probes
and refine among the same candidates; then the two are timed in turns. faiss is tried with and without residuals and the
better of the two counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import faiss
import numpy as np
import torch
from _timing import interleaved, machine, table

from resolvent import search

PROBES, REFINE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64), (1, 2, 4, 8, 16)


def recall(ids: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids.tolist(), exact.tolist(), strict=True)]))


def fastest(
    run: Callable[[int, int], np.ndarray], exact: np.ndarray, targets: tuple[float, ...]
) -> dict[float, tuple[int, int]]:
    """For each target the quickest (probes, refine) that reaches it, of all pairs tried."""
    tried = []
    for probes in PROBES:
        for refine in REFINE:
            found = recall(run(probes, refine), exact)
            seconds = interleaved({"run": lambda p=probes, r=refine: run(p, r)}, repeats=1, warmup=0)["run"]
            tried.append((seconds, probes, refine, found))
            if found > 0.995:
                break
    return {
        t: min((s, p, r) for s, p, r, found in tried if found >= t)[1:]
        for t in targets
        if any(x[3] >= t for x in tried)
    }


def faiss_index(x: np.ndarray, lists: int, m: int, residual: bool) -> tuple[faiss.Index, Callable[..., np.ndarray]]:
    dim = x.shape[1]
    base = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(dim), dim, lists, m, 4)
    base.by_residual = residual
    base.train(x)
    base.add(x)
    rows = faiss.IndexFlatL2(dim)
    rows.add(x)
    index = faiss.IndexRefine(base, rows)

    def run(q: np.ndarray, probes: int, refine: int) -> np.ndarray:
        base.nprobe, index.k_factor = probes, refine
        return np.asarray(index.search(q, 10)[1])

    # The parts must outlive the index that refers to them.
    return (index, base, rows), run  # type: ignore[return-value]


def compare(quick: bool) -> None:
    n, dim, lists, m = (30_000, 128, 128, 64) if quick else (200_000, 128, 512, 64)
    queries = 500 if quick else 2000
    targets = (0.90, 0.95, 0.98, 0.99)
    corpus = search.clustered_vectors(
        n, dim, clusters=500, intrinsic_dim=24, spread=1.0, noise=0.1, n_queries=queries, generator=0
    )
    x, q = corpus.x.numpy(), corpus.queries.numpy()
    exact = search.exact_search(x, q, 10, "l2").ids
    ours = search.IVFPQ(lists=lists, m=m, bits=4, metric="l2").build(x)

    def run_ours(probes: int, refine: int) -> np.ndarray:
        return np.asarray(ours.query(q, 10, probes=probes, refine=refine).ids)

    kept, theirs = {}, {}
    for residual in (True, False):
        kept[residual], run = faiss_index(x, lists, m, residual)
        theirs[residual] = lambda p, r, run=run: run(q, p, r)
    best = fastest(run_ours, exact, targets)
    others = {residual: fastest(run, exact, targets) for residual, run in theirs.items()}
    rows = []
    for target in targets:
        calls = {"ours": lambda pair=best[target]: run_ours(*pair)} if target in best else {}
        for residual, found in others.items():
            if target in found:
                calls[f"faiss {residual}"] = lambda run=theirs[residual], pair=found[target]: run(*pair)
        if len(calls) < 2 or "ours" not in calls:
            continue
        seconds = interleaved(calls, repeats=3 if quick else 7)
        mine, peer = seconds.pop("ours"), min(seconds.values())
        rows.append([target, best[target], queries / mine, queries / peer, peer / mine])
    header = ["recall@10", "probes, refine", "queries/s", "faiss queries/s", "x faiss"]
    table(f"IVF-PQ, {n} x {dim}, {lists} lists, {m // 2} bytes a code, one thread; {machine()}", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    compare(arguments.quick)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
