"""Exact solutions over the rationals against python-flint: dense n x n, sparse n x n, overdetermined of low rank.

python benchmarks/solve_exact.py [--quick]
"""

from __future__ import annotations

import argparse
import math

import flint
import numpy as np
import scipy.sparse
from _timing import interleaved, machine, table

from resolvent import solve


def rational(matrix: np.ndarray) -> flint.fmpq_mat:
    return flint.fmpq_mat(flint.fmpz_mat([[int(x) for x in row] for row in matrix]))


def dense(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries up to 10^3."""
    rng = np.random.default_rng(0)
    return rng.integers(-1000, 1001, (n, n)), rng.integers(-1000, 1001, (n, 1))


def sparse(n: int) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Four random entries a row up to 10^3, and a diagonal."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(n), 4)
    values = rng.integers(1, 1001, 4 * n)
    A = scipy.sparse.csr_matrix((values, (rows, rng.integers(0, n, 4 * n))), shape=(n, n), dtype=np.int64)
    return A + 7 * scipy.sparse.eye(n, dtype=np.int64, format="csr"), rng.integers(-1000, 1001, (n, 1))


def compare(name: str, A: object, b: np.ndarray, repeats: int) -> list[object]:
    array = A.toarray() if scipy.sparse.issparse(A) else A
    theirs, right = rational(array), rational(b)
    found, exact = solve.rational_solve(A, b), theirs.solve(right)
    same = all(
        int(d) * int(y.p) == int(x) * int(y.q)
        for (x,), y, d in zip(found.numerators, exact.entries(), found.denominators * len(array), strict=True)
    )
    competitors = {
        "resolvent": lambda: solve.rational_solve(A, b),
        "as fractions": lambda: solve.rational_solve(A, b).values,
        "flint": lambda: theirs.solve(right),
    }
    seconds = interleaved(competitors, repeats=repeats, warmup=0)
    digits = int(found.denominators[0].bit_length() * math.log10(2)) + 1
    times = [seconds[key] for key in competitors]
    return [name, str(array.shape), digits, *times, times[2] / times[0], times[2] / times[1], same]


def echelon(m: int, n: int, rank: int, repeats: int) -> list[object]:
    rng = np.random.default_rng(0)
    A = rng.integers(-3, 4, (m, rank)) @ rng.integers(-9, 10, (rank, n))
    b = A @ rng.integers(-9, 10, n)
    theirs = flint.fmpz_mat(np.column_stack([A, b]).tolist())
    competitors = {
        "resolvent": lambda: solve.rational_solve(A, b),
        "as fractions": lambda: solve.rational_solve(A, b).nullspace,
        "flint": theirs.rref,
    }
    found, (_, _, r) = solve.rational_solve(A, b), theirs.rref()
    seconds = interleaved(competitors, repeats=repeats, warmup=0)
    digits = int(found.null_denominators[0].bit_length() * math.log10(2)) + 1
    times = [seconds[key] for key in competitors]
    return ["all solutions", str(A.shape), digits, *times, times[2] / times[0], times[2] / times[1], r == found.rank]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes")
    quick = parser.parse_args().quick
    rows = [
        compare("dense", *dense(100 if quick else 500), repeats=3 if quick else 5),
        compare("sparse", *sparse(200 if quick else 2000), repeats=1),
        echelon(*((400, 80, 70) if quick else (2000, 300, 250)), repeats=1 if quick else 3),
    ]
    header = [
        "system",
        "shape",
        "digits of d",
        "seconds",
        "with fractions",
        "flint",
        "x faster",
        "x with fractions",
        "equal",
    ]
    table(f"Exact solutions against python-flint; {machine()}", header, rows)


if __name__ == "__main__":
    main()
