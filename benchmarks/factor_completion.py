"""Completion of a matrix of rank 10 from 200 entries a row: time against the number of entries, and against row-by-row
alternating least squares with NumPy's normal equations, what one writes without a library.

python benchmarks/factor_completion.py [--quick]
"""

from __future__ import annotations

import argparse

import numpy as np
import scipy.sparse
import torch
from _timing import interleaved, machine, table

from resolvent import factor
from resolvent.errors import ConvergenceError
from resolvent.operators import LowRank
from resolvent.random import as_generator, gaussian


def incomplete(n: int, k: int, per_row: int) -> tuple[LowRank, scipy.sparse.csr_array]:
    """A matrix of rank k and condition 5, and about `per_row` of its entries in each row."""
    g = as_generator(0)
    U, V = (torch.linalg.qr(gaussian((n, k), generator=g)).Q for _ in range(2))
    M = LowRank(U, n * torch.linspace(1, 0.2, k, dtype=torch.float64), V)
    places = torch.randint(n * n, (n * per_row,), generator=g).unique()
    rows, cols = places // n, places % n
    values = ((M.U * M.s)[rows] * M.V[cols]).sum(1)
    return M, scipy.sparse.csr_array((values.numpy(), (rows.numpy(), cols.numpy())), shape=(n, n))


def error(found: LowRank, M: LowRank) -> float:
    """The relative error at 10^5 random entries."""
    g = as_generator(7)
    rows, cols = (torch.randint(M.shape[0], (100_000,), generator=g) for _ in range(2))
    exact = ((M.U * M.s)[rows] * M.V[cols]).sum(1)
    return float(torch.dist(((found.U * found.s)[rows] * found.V[cols]).sum(1), exact) / exact.norm())


def one_sweep(known: scipy.sparse.csr_array, columns: scipy.sparse.csc_array, U: np.ndarray) -> np.ndarray:
    """Both sides by normal equations, a row at a time."""
    k = U.shape[1]
    for lines in (columns, known):
        found = np.zeros((len(lines.indptr) - 1, k))
        for i in range(len(found)):
            part = slice(lines.indptr[i], lines.indptr[i + 1])
            A = U[lines.indices[part]]
            found[i] = np.linalg.solve(A.T @ A + 1e-12 * np.eye(k), A.T @ lines.data[part])
        U = np.linalg.qr(found)[0]
    return U


def exact_sweeps(known: scipy.sparse.csr_array, k: int, most: int) -> object:
    """As many sweeps with exact inner solutions, which need not converge where a row is hardly determined."""
    try:
        return factor.complete(known, k, inner="exact", max_sweeps=most, generator=0)
    except ConvergenceError as error:
        return error.best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small matrices")
    arguments = parser.parse_args()
    k, per_row, repeats = (5, 60, 1) if arguments.quick else (10, 200, 3)
    sizes = (150, 600, 2400) if arguments.quick else (625, 2500, 10_000)
    rows = []
    for n in sizes:
        M, known = incomplete(n, k, per_row)
        columns = known.tocsc()
        U = np.linalg.qr(np.random.default_rng(0).standard_normal((n, k)))[0]
        found, info = factor.complete(known, k, generator=0, return_info=True)
        seconds = interleaved(
            {
                "complete": lambda known=known: factor.complete(known, k, generator=0),
                "exact": lambda known=known, most=info.iterations: exact_sweeps(known, k, most),
                "numpy": lambda known=known, columns=columns, U=U: one_sweep(known, columns, U),
            },
            repeats=repeats,
        )
        ours = seconds["complete"]
        rest = [ours / known.nnz * 1e9, info.iterations, error(found, M), seconds["exact"] / ours]
        rows.append([n, known.nnz, ours, *rest, seconds["numpy"] * info.iterations / ours])
    header = ["n", "entries", "s", "ns an entry", "sweeps", "relative error", "x exact inner", "x NumPy row by row"]
    table(f"completion, rank {k}, {per_row} entries a row, rtol 1e-8; {machine()}", header, rows)


if __name__ == "__main__":
    main()
