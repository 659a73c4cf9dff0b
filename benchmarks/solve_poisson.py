"""Poisson's equation on a grid to 1e-8 by multigrid: setup and solve against PyAMG's smoothed aggregation.

python benchmarks/solve_poisson.py [--side 1000] [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from _timing import machine, table

from resolvent.operators import Sparse
from resolvent.solve import amg, cg


def poisson(side: int) -> sp.csr_matrix:
    """The five-point Laplacian with Dirichlet boundaries."""
    T = sp.diags([-np.ones(side - 1), 2 * np.ones(side), -np.ones(side - 1)], [-1, 0, 1])
    return (sp.kron(T, sp.eye(side)) + sp.kron(sp.eye(side), T)).tocsr()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    import pyamg

    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="a side of 300, two repeats")
    arguments = parser.parse_args()
    side = 300 if arguments.quick else arguments.side
    A = poisson(side)
    b = np.random.default_rng(0).standard_normal(side * side)
    times: dict[str, list[tuple[float, float]]] = {"resolvent": [], "pyamg": []}
    steps, residuals = {}, {}
    for repeat in range(3 if arguments.quick else 6):
        setup, M = timed(lambda: amg(A))
        # The operator is part of the solve: a user hands over the SciPy matrix.
        solve, (x, info) = timed(lambda M=M: cg(Sparse(A), b, M=M, rtol=1e-8, return_info=True))
        theirs, levels = timed(lambda: pyamg.smoothed_aggregation_solver(A))
        seen: list[float] = []
        run, y = timed(lambda levels=levels, seen=seen: levels.solve(b, tol=1e-8, accel="cg", residuals=seen))
        if repeat:  # the first round compiles
            times["resolvent"].append((setup, solve))
            times["pyamg"].append((theirs, run))
        steps = {"resolvent": info.iterations, "pyamg": len(seen) - 1}
        residuals = {
            name: float(np.linalg.norm(b - A @ z) / np.linalg.norm(b)) for name, z in (("resolvent", x), ("pyamg", y))
        }
    rows = []
    for name, measured in times.items():
        setup, solve = (statistics.median(column) for column in zip(*measured, strict=True))
        rows.append([name, setup, solve, setup + solve, steps[name], residuals[name]])
    rows.append(["pyamg / resolvent", *(rows[1][j] / rows[0][j] for j in (1, 2, 3)), "", ""])
    header = ["", "setup s", "solve s", "both s", "steps", "relative residual"]
    table(f"Poisson, {side} x {side} unknowns, float64, to 1e-8; {machine()}", header, rows)


if __name__ == "__main__":
    main()
