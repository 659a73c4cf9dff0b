"""Laplacians to 1e-8 with conjugate gradients: randomised Cholesky factors against ic, amg and PyAMG, on graphs of three kinds.

python benchmarks/solve_laplacian.py [--side 500] [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import scipy.sparse as sp
from _timing import machine, table

from resolvent.errors import ConvergenceError
from resolvent.operators import Sparse
from resolvent.solve import amg, cg, ic, randomized_cholesky


def laplacian(n: int, edges: np.ndarray, weights: np.ndarray) -> sp.csr_matrix:
    """D - W of an undirected graph."""
    W = sp.coo_matrix((weights, (edges[:, 0], edges[:, 1])), shape=(n, n)).tocsr()
    W = W + W.T
    return (sp.diags(np.asarray(W.sum(1)).ravel()) - W).tocsr()


def graphs(side: int) -> dict[str, sp.csr_matrix]:
    """A grid, the same with weights over eight decades, and a graph with a power law of the degrees."""
    n = side * side
    at = np.arange(n).reshape(side, side)
    edges = np.concatenate([np.c_[at[:, :-1].ravel(), at[:, 1:].ravel()], np.c_[at[:-1].ravel(), at[1:].ravel()]])
    weights = 10.0 ** np.random.default_rng(0).uniform(-4, 4, len(edges))
    power = np.array(nx.barabasi_albert_graph(n // 2, 4, seed=0).edges())
    return {
        "grid": laplacian(n, edges, np.ones(len(edges))),
        "grid, contrast 1e8": laplacian(n, edges, weights),
        "power law": laplacian(n // 2, power, np.ones(len(power))),
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def ours(A: sp.csr_matrix, b: np.ndarray, build: Callable[..., Any], limit: int) -> tuple[float, float, Any]:
    """Seconds of the setup and of the solve, and the steps; the limit with a > where they did not suffice."""
    setup, M = timed(lambda: build(A))
    try:
        solve, (_, info) = timed(lambda: cg(Sparse(A), b, M=M, rtol=1e-8, maxiter=limit, return_info=True))
    except ConvergenceError:
        return setup, float("nan"), f">{limit}"
    return setup, solve, info.iterations


def theirs(A: sp.csr_matrix, b: np.ndarray, limit: int) -> tuple[float, float, Any]:
    import pyamg

    setup, levels = timed(lambda: pyamg.smoothed_aggregation_solver(A))
    seen: list[float] = []
    solve, x = timed(lambda: levels.solve(b, tol=1e-8, accel="cg", maxiter=limit, residuals=seen))
    met = np.linalg.norm(b - A @ x) <= 1.1e-8 * np.linalg.norm(b)
    return setup, solve if met else float("nan"), len(seen) - 1 if met else f">{limit}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--limit", type=int, default=1000, help="most steps")
    parser.add_argument("--quick", action="store_true", help="a side of 80, one repeat, 300 steps")
    arguments = parser.parse_args()
    side = 80 if arguments.quick else arguments.side
    limit = 300 if arguments.quick else arguments.limit
    methods: dict[str, Callable[[sp.csr_matrix, np.ndarray], tuple[float, float, Any]]] = {
        "randomized_cholesky": lambda A, b: ours(A, b, lambda A: randomized_cholesky(A, generator=0), limit),
        "its 4 copies": lambda A, b: ours(A, b, lambda A: randomized_cholesky(A, copies=4, generator=0), limit),
        "ic": lambda A, b: ours(A, b, ic, limit),
        "amg": lambda A, b: ours(A, b, amg, limit),
        "pyamg": lambda A, b: theirs(A, b, limit),
    }
    rows = []
    for graph, A in graphs(side).items():
        b = np.random.default_rng(1).standard_normal(A.shape[0])
        b -= b.mean()
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
        steps = {}
        for repeat in range(2 if arguments.quick else 4):
            for name, method in methods.items():
                setup, solve, steps[name] = method(A, b)
                if repeat:  # the first round compiles
                    runs[name].append((setup, solve))
        for name, measured in runs.items():
            setup, solve = (statistics.median(column) for column in zip(*measured, strict=True))
            rows.append([graph, A.shape[0], name, setup, solve, setup + solve, steps[name]])
    header = ["graph", "n", "preconditioner", "setup s", "solve s", "both s", "steps"]
    table(f"Laplacians, float64, to 1e-8 by conjugate gradients; {machine()}", header, rows)


if __name__ == "__main__":
    main()
