"""vendi_score of 20,000 embeddings of 384 numbers against the vendi-score package: its dual and its kernel route.

    python benchmarks/spectra_vendi.py [--rows 20000] [--kernel-rows 5000]

The package's kernel route (`score_X`) takes n^3 operations: it is timed at `--kernel-rows` and its time multiplied by the
cube of the ratio, a lower bound of what it would take.
"""

from __future__ import annotations

import argparse
import time

import mpmath
import numpy as np
from _timing import interleaved, machine, table

from resolvent import spectra


def exact(X: np.ndarray) -> float:
    """From the moment matrix in extended precision of its sums; eigenvalues by LAPACK have an error of 1e-14."""
    Y = X.astype(np.longdouble)
    Y /= np.sqrt((Y * Y).sum(1, keepdims=True))
    # Block by block: longdouble has no BLAS, float64 of two halves has.
    high = Y.astype(np.float64)
    low = (Y - high).astype(np.float64)
    M = high.T @ high + high.T @ low + low.T @ high
    w = np.linalg.eigvalsh(M / len(X))
    w = w[w > 0]
    return float(mpmath.exp(mpmath.fsum(-mpmath.mpf(x) * mpmath.log(mpmath.mpf(x)) for x in w)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kernel-rows", type=int, default=5_000)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    n, small = (2_000, 1_000) if given.quick else (given.rows, given.kernel_rows)
    from vendi_score import vendi

    X = np.random.default_rng(0).standard_normal((n, 384)) @ np.diag(1 / np.sqrt(1 + np.arange(384)))
    seconds = interleaved(
        {
            "resolvent": lambda: spectra.vendi_score(X, kernel="cosine"),
            "vendi-score, dual": lambda: vendi.score_dual(X),
        },
        repeats=7,
    )
    start = time.perf_counter()
    vendi.score_X(X[:small])
    kernel = (time.perf_counter() - start) * (n / small) ** 3
    value = exact(X)
    found = {"resolvent": spectra.vendi_score(X, kernel="cosine"), "vendi-score, dual": vendi.score_dual(X)}
    ours = seconds["resolvent"]
    rows = [[name, s, s / ours, abs(found[name] / value - 1)] for name, s in seconds.items()]
    rows.append([f"vendi-score, kernel (from {small} rows)", kernel, kernel / ours, "-"])
    table(f"Vendi score of {n} x 384, float64; {machine()}", ["method", "seconds", "x of ours", "relative error"], rows)


if __name__ == "__main__":
    main()
