"""Products of two sparse matrices: ours (columns sorted), scipy.sparse (unsorted, and with sorting) and torch's CSR.

python benchmarks/factor_spgemm.py [--quick]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from _timing import interleaved, machine, table

from resolvent import factor


def rmat(scale: int, each: int) -> sp.csr_array:
    """A recursive power-law graph of 2**scale vertices (0.57, 0.19, 0.19, 0.05)."""
    rng = np.random.default_rng(0)
    m = each << scale
    rows, columns = np.zeros(m, np.int32), np.zeros(m, np.int32)
    for _ in range(scale):
        u = rng.random(m)
        rows = 2 * rows + (u >= 0.76)
        columns = 2 * columns + (((u >= 0.57) & (u < 0.76)) | (u >= 0.95))
    return sp.csr_array((rng.standard_normal(m), (rows, columns)), shape=(1 << scale, 1 << scale))


def matrices(quick: bool) -> Iterator[tuple[str, sp.csr_array]]:
    """Skewed, uniform, local and nearly dense."""
    rng = np.random.default_rng(0)
    small = 8 if quick else 1
    yield "R-MAT", rmat(11 if quick else 14, 16)
    for n, each in ((100_000, 8), (10_000, 20), (1_000_000, 3)):
        yield (
            f"uniform {n // small} x {each}",
            sp.random_array((n // small, n // small), density=each * small / n, rng=rng, format="csr"),
        )
    side = 500 if not quick else 150
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    yield "grid 2-D", sp.csr_array(sp.kronsum(line, line))
    bands = [-50, -7, -3, -1, 0, 1, 3, 7, 50, 51, 99]
    yield "banded", sp.diags_array(np.ones(len(bands)), offsets=bands, shape=(100_000 // small,) * 2).tocsr()
    five = [-2, -1, 0, 1, 2]
    yield "five diagonals", sp.diags_array(np.ones(5), offsets=five, shape=(1_000_000 // small,) * 2).tocsr()
    yield "a tenth full", sp.random_array((1500 // small,) * 2, density=0.1, rng=rng, format="csr")


def sorted_product(A: sp.csr_array) -> sp.csr_array:
    C = A @ A
    C.sort_indices()
    return C


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller matrices")
    quick = parser.parse_args().quick
    warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
    rows: list[list[object]] = []
    for name, A in matrices(quick):
        A.sort_indices()
        tensor = torch.sparse_csr_tensor(A.indptr, A.indices, A.data, A.shape, check_invariants=False)
        info = factor.spgemm(A, A, return_info=True)[1]
        times = interleaved(
            {
                "ours": lambda A=A: factor.spgemm(A, A),
                "scipy": lambda A=A: A @ A,
                "sorted": lambda A=A: sorted_product(A),
                "torch": lambda T=tensor: T @ T,
            },
            5,
        )
        ours = times["ours"]
        ratios = [f"{times[peer] / ours:.2f}" for peer in ("scipy", "sorted", "torch")]
        rows.append([name, info.flops / 1e6, info.flops / max(info.nnz, 1), info.method, 1e3 * ours, *ratios])
    header = ["matrix", "10^6 products", "per entry", "table", "ours ms", "x scipy", "x scipy sorted", "x torch"]
    table(f"A @ A of sparse float64 matrices; {machine()}", header, rows)


if __name__ == "__main__":
    main()
