"""Sparse products, forward and adjoint, of one vector and of blocks: ours, `scipy.sparse` and torch's CSR, interleaved.

    python benchmarks/operators_sparse.py [--quick]

The last column is the traffic that a product cannot avoid (matrix, operand, result once) per second, in per cent of the
machine's copy bandwidth measured just before: the nearer to 100, the less is left to gain. A matrix without locality
(random, power law) reads its operand many times over and stays below.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from _timing import interleaved, machine, stream, table

from resolvent.operators import Laplacian, Sparse, grid_graph


def matrices(quick: bool) -> Iterator[tuple[str, Sparse]]:
    """Matrices with and without local structure."""
    scale = 10 if quick else 1
    rng = np.random.default_rng(0)
    n = 1_000_000 // scale
    yield "grid 2-D", Laplacian(grid_graph((1000, n // 1000), dtype=torch.float64))
    yield "grid 3-D", Laplacian(grid_graph((100, 100, n // 10_000), dtype=torch.float64))
    half = 500_000 // scale
    bands = [-50, -7, -3, -1, 0, 1, 3, 7, 50, 51, 99]
    yield "banded", Sparse(sp.diags_array(np.ones(len(bands)), offsets=bands, shape=(half, half)).tocsr())
    rows, each = 300_000 // scale, 10
    pointers = np.arange(0, rows * each + 1, each)
    columns = rng.integers(0, rows, rows * each)
    yield "random", Sparse((pointers, columns, rng.standard_normal(rows * each), (rows, rows)))
    degrees = np.minimum(rng.zipf(1.9, rows), 5000)
    hubs = np.minimum(rng.zipf(1.7, int(degrees.sum())), rows) - 1
    pointers = np.concatenate([[0], degrees.cumsum()])
    yield "power law", Sparse((pointers, hubs, rng.standard_normal(len(hubs)), (rows, rows)))


def measure(A: Sparse, k: int, adjoint: bool, repeats: int) -> list[object]:
    """One row of the table."""
    peer = sp.csr_array((A.values.numpy(), A.indices.numpy(), A.indptr.numpy()), shape=tuple(A.shape))
    X = torch.randn(A.shape[0], k, dtype=A.dtype, generator=torch.Generator().manual_seed(0))
    x = X[:, 0].contiguous() if k == 1 else X
    array = x.numpy()
    # The Hermitian fact would make the adjoint of a Laplacian a forward product: here it is measured as a scatter.
    plain = A.declare(hermitian=False)
    ours = plain.H if adjoint else plain
    theirs = peer.T if adjoint else peer
    torch_csr = torch.sparse_csr_tensor(A.indptr, A.indices, A.values, A.shape, check_invariants=False)
    torchs = torch_csr.t() if adjoint else torch_csr
    seconds = interleaved(
        {"ours": lambda: ours @ x, "scipy": lambda: theirs @ array, "torch": lambda: torchs @ x},
        repeats,
        # The form by diagonals is taken after a dozen products.
        warmup=14 if k == 1 else 2,
    )
    width = A.values.element_size()
    traffic = A.nnz * (width + 4) + A.shape[0] * (4 + 2 * k * width)
    best = min(seconds["scipy"], seconds["torch"])
    return [
        *(round(1e3 * seconds[name], 2) for name in ("ours", "scipy", "torch")),
        f"{seconds['scipy'] / seconds['ours']:.2f}",
        f"{best / seconds['ours']:.2f}",
        f"{100 * traffic / seconds['ours'] / stream()['copy']:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten times smaller matrices (they fit into caches)")
    quick = parser.parse_args().quick
    warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
    print(machine())
    rows: list[list[object]] = []
    for name, A in matrices(quick):
        for dtype in (torch.float64, torch.float32):
            B = A.to(dtype)
            for k in (1, 8, 16):
                for adjoint in (False, True):
                    shown = [name, str(dtype).removeprefix("torch."), k, "adjoint" if adjoint else "forward"]
                    rows.append([*shown, *measure(B, k, adjoint, 5 if quick else 7)])
    header = ["matrix", "dtype", "k", "direction", "ours ms", "scipy ms", "torch ms", "x scipy", "x best", "% stream"]
    table("Sparse products: times are medians of interleaved runs", header, rows)


if __name__ == "__main__":
    main()
