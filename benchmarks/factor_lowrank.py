"""Low-rank approximations against scikit-learn and scipy.linalg.interpolative: time, and error over the best of the rank.

python benchmarks/factor_lowrank.py [--quick]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import scipy.linalg.interpolative as scipy_id
import torch
from _timing import interleaved, machine, table
from sklearn.utils.extmath import randomized_svd as sklearn_svd

from resolvent import factor


def matrix(m: int, n: int, s: torch.Tensor) -> np.ndarray:
    """Singular values s, random singular vectors."""
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(k, len(s), dtype=torch.float64, generator=generator))[0] for k in (m, n))
    return ((U * s) @ V.T).numpy()


def svd_rows(m: int, n: int, k: int, repeats: int) -> list[list[object]]:
    rows = []
    count = min(n, 500)
    spectra = {"1/j": 1 / torch.arange(1.0, count + 1), "1/sqrt j": torch.arange(1.0, count + 1) ** -0.5}
    for name, values in spectra.items():
        s = values.double()
        A, best = matrix(m, n, s), float(s[k:].norm())
        runs = {
            "resolvent": lambda A=A: factor.randomized_svd(A, k, generator=0),
            "resolvent, power=1": lambda A=A: factor.randomized_svd(A, k, power=1, generator=0),
            "sklearn": lambda A=A: sklearn_svd(A, k, random_state=0),
            "sklearn, n_iter=2": lambda A=A: sklearn_svd(A, k, n_iter=2, random_state=0),
        }
        seconds = interleaved(runs, repeats=repeats)
        for run, call in runs.items():
            U, found, Vh = call()
            error = float(np.linalg.norm(A - (U * found) @ Vh)) / best
            rows.append([name, run, seconds[run] * 1e3, error - 1, seconds[run] / seconds["resolvent"]])
    return rows


def id_rows(m: int, n: int, k: int, repeats: int) -> list[list[object]]:
    s = 1 / torch.arange(1.0, min(n, 500) + 1).double()
    A, best = matrix(m, n, s), float(s[k:].norm())
    runs = {
        "resolvent": lambda: factor.interpolative(A, k, generator=0),
        "scipy, rand": lambda: scipy_id.interp_decomp(A, k, rng=np.random.default_rng(0)),
        "scipy, not rand": lambda: scipy_id.interp_decomp(A, k, rand=False),
    }
    seconds = interleaved(runs, repeats=repeats)
    rows = []
    for run, call in runs.items():
        found = call()
        if run == "resolvent":
            rebuilt = A[:, found[0]] @ found[1]
        else:
            rebuilt = scipy_id.reconstruct_matrix_from_id(A[:, found[0][:k]], *found)
        error = float(np.linalg.norm(A - rebuilt)) / best
        rows.append([f"rank {k}", run, seconds[run] * 1e3, error - 1, seconds[run] / seconds["resolvent"]])
    return rows


def pinv_rows(m: int, n: int, k: int, repeats: int) -> list[list[object]]:
    A = matrix(m, n, torch.linspace(1, 2, k, dtype=torch.float64))
    exact = np.linalg.pinv(A, rcond=1e-10)
    runs = {
        "resolvent": lambda: factor.pinv(A, method="randomized", rank=k, generator=0),
        "numpy": lambda: np.linalg.pinv(A, rcond=1e-10),
    }
    seconds = interleaved(runs, repeats=repeats)
    error = float(np.linalg.norm(runs["resolvent"]().to_dense() - exact) / np.linalg.norm(exact))
    errors = {"resolvent": error, "numpy": 0.0}
    return [["pinv", run, seconds[run] * 1e3, errors[run], seconds[run] / seconds["resolvent"]] for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    m, n, k, repeats = (800, 600, 20, 3) if quick else (4000, 3000, 50, 5)
    header = ["spectrum", "method", "ms", "error over the best - 1", "x the time of resolvent"]
    table(f"randomized SVD of rank {k}, {m} x {n} float64; {machine()}", header, svd_rows(m, n, k, repeats))
    table(f"interpolative decomposition, {m} x {n}", header, id_rows(m, n, k, repeats))
    p, q = (800, 600) if quick else (2500, 2000)
    header = ["", "method", "ms", "error against numpy", "x the time of resolvent"]
    table(f"pseudoinverse, {p} x {q} of rank 40", header, pinv_rows(p, q, 40, 3))


if __name__ == "__main__":
    main()
