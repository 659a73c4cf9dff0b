"""Dense factorisations against scipy.linalg: changes of QR factors, LU, LDL and ordered Schur forms.

    python benchmarks/factor_dense.py [--quick]

SciPy's batches are loops in Python, which is what its user writes. A rank-one change of QR factors is shown beside the
factorisation anew that it saves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from _timing import interleaved, machine, table

from resolvent import factor


def changes(m: int, n: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Ours and SciPy's, by name, on thin factors of an m x n matrix."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((m, n))
    Q, R = factor.qr(A)
    u, v, x, y = (rng.standard_normal(size) for size in (m, n, n, m))
    U, V = rng.standard_normal((m, 4)), rng.standard_normal((n, 4))
    half = n // 2
    return {
        "rank one": (lambda: factor.qr_update(Q, R, u, v), lambda: scipy.linalg.qr_update(Q, R, u, v)),
        "rank four": (lambda: factor.qr_update(Q, R, U, V), lambda: scipy.linalg.qr_update(Q, R, U, V)),
        "row in": (lambda: factor.qr_insert(Q, R, x, m), lambda: scipy.linalg.qr_insert(Q, R, x, m)),
        "row out": (lambda: factor.qr_delete(Q, R, 0), lambda: scipy.linalg.qr_delete(Q, R, 0)),
        "column in": (
            lambda: factor.qr_insert(Q, R, y, half, "column"),
            lambda: scipy.linalg.qr_insert(Q, R, y, half, "col"),
        ),
        "column out": (
            lambda: factor.qr_delete(Q, R, half, 1, "column"),
            lambda: scipy.linalg.qr_delete(Q, R, half, 1, "col"),
        ),
        "anew": (lambda: factor.qr(A), lambda: scipy.linalg.qr(A, mode="economic")),
    }


def decompositions(n: int, batch: int, small: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Ours and SciPy's on one matrix and on a batch of small ones."""
    rng = np.random.default_rng(0)
    A, many = rng.standard_normal((n, n)), rng.standard_normal((batch, small, small))
    H, pile = A + A.T, many + many.transpose(0, 2, 1)
    dominant = A + 2 * n * np.eye(n)
    few = A[: n // 2, : n // 2]
    return {
        "lu": (lambda: factor.lu(A), lambda: scipy.linalg.lu(A, p_indices=True)),
        "lu, batch": (lambda: factor.lu(many), lambda: [scipy.linalg.lu(a, p_indices=True) for a in many]),
        "lu, no pivots": (lambda: factor.lu(dominant, pivoting="none"), lambda: scipy.linalg.lu(A, p_indices=True)),
        "ldl": (lambda: factor.ldl(H), lambda: scipy.linalg.ldl(H)),
        "ldl, batch": (lambda: factor.ldl(pile), lambda: [scipy.linalg.ldl(a) for a in pile]),
        "schur, sorted": (
            lambda: factor.schur(few, sort="left"),
            lambda: scipy.linalg.schur(few, sort=lambda re, im: re < 0),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller matrices")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    rows: list[list[object]] = []
    for m, n in ((600, 200),) if quick else ((2000, 500), (20_000, 200), (1000, 1000)):
        for name, (ours, scipys) in changes(m, n).items():
            times = interleaved({"ours": ours, "scipy": scipys}, 5)
            rows.append([f"qr {m} x {n}: {name}", 1e3 * times["ours"], f"{times['scipy'] / times['ours']:.1f}"])
    n, batch, small = (200, 200, 8) if quick else (1000, 2000, 16)
    for name, (ours, scipys) in decompositions(n, batch, small).items():
        times = interleaved({"ours": ours, "scipy": scipys}, 5)
        rows.append([f"{name} ({n}; {batch} of {small})", 1e3 * times["ours"], f"{times['scipy'] / times['ours']:.1f}"])
    A = np.random.default_rng(0).standard_normal((n // 2, n // 2))
    seconds = interleaved({"ours": lambda: factor.lu(A, pivoting="complete")}, 3)["ours"]
    rows.append([f"lu, complete pivots ({n // 2})", 1e3 * seconds, "no peer"])
    table(f"Dense factorisations; {machine()}", ["task", "ours ms", "x scipy"], rows)


if __name__ == "__main__":
    main()
