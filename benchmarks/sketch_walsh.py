"""The Walsh-Hadamard transform and sparse sketches against what a user would run instead.

python benchmarks/sketch_walsh.py [--quick]

The transform is compared with a loop of butterflies in torch, with GEMMs of radix 32 and with one pass over memory for
every two levels; the sparse sketches with scipy's Clarkson-Woodruff transform and scikit-learn's sparse projection.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from _timing import interleaved, machine, table
from scipy.linalg import clarkson_woodruff_transform
from sklearn.random_projection import SparseRandomProjection

from resolvent import sketch
from resolvent.operators.walsh import _by_gemm


def butterflies(x: torch.Tensor) -> torch.Tensor:
    """One level after the other, each a pass over memory."""
    n, h = x.shape[-1], 1
    while h < n:
        pairs = x.view(-1, 2, h)
        a, b = pairs[:, 0], pairs[:, 1]
        x = torch.stack((a + b, a - b), 1)
        h *= 2
    return x.view(n)


def transforms(quick: bool) -> None:
    rows = []
    for bits in (16, 20) if quick else (14, 18, 20, 22, 24):
        x = torch.randn(1 << bits, generator=torch.Generator().manual_seed(0))
        target = np.empty_like(x.numpy())
        exact = butterflies(x.double())
        error = float((sketch.wht(x) - exact).abs().max() / exact.abs().max())
        seconds = interleaved(
            {
                "resolvent": lambda x=x: sketch.wht(x),
                "torch": lambda x=x: butterflies(x),
                "gemm": lambda x=x: _by_gemm(x, 0, 1.0),
                "copy": lambda x=x, target=target: np.copyto(target, x.numpy()),
            },
            repeats=5 if quick else 15,
        )
        ours = seconds["resolvent"]
        row = [f"2^{bits}", ours * 1e3, error, seconds["torch"] / ours, seconds["gemm"] / ours]
        rows.append([*row, ours / (seconds["copy"] * bits / 2)])
    header = ["n", "ms", "error", "x faster than a torch loop", "x faster than GEMMs", "of a pass for two levels"]
    table(f"Walsh-Hadamard transform, float32; {machine()}", header, rows)


def sparse(quick: bool) -> None:
    n, k, m = (50_000, 20, 1000) if quick else (500_000, 50, 2000)
    X = torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    array, target = X.numpy(), np.empty((n, k))
    options = {"generator": 0, "dtype": torch.float64}
    count, signs = sketch.count_sketch(m, n, **options), sketch.sparse_sign(m, n, **options)
    projection = SparseRandomProjection(n_components=m, random_state=0).fit(array.T)
    seconds = interleaved(
        {
            "count_sketch": lambda: count @ X,
            "count_sketch, drawn anew": lambda: sketch.count_sketch(m, n, **options) @ X,
            "scipy clarkson_woodruff_transform (drawn anew)": lambda: clarkson_woodruff_transform(array, m, 0),
            "sparse_sign, 8 signs a column": lambda: signs @ X,
            "sklearn SparseRandomProjection": lambda: projection.transform(array.T),
            "copy of the data": lambda: np.copyto(target, array),
        },
        repeats=5,
    )
    rows = [[name, value * 1e3, value / seconds["copy of the data"]] for name, value in seconds.items()]
    table(f"sketch of {n} x {k} float64 to {m} rows", ["what", "ms", "x a copy"], rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    transforms(arguments.quick)
    sparse(arguments.quick)


if __name__ == "__main__":
    main()
