"""lstsq of a tall dense matrix against numpy and scipy, at small and large condition numbers.

python benchmarks/solve_lstsq.py [--rows 1000000] [--columns 100] [--quick]
"""

from __future__ import annotations

import argparse

import numpy as np
import scipy.linalg
import torch
from _timing import interleaved, machine, table

from resolvent.solve import lstsq


def conditioned(rows: int, columns: int, condition: float) -> torch.Tensor:
    """Gaussian rows times a square matrix of the condition asked for."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    U, V = (torch.linalg.qr(torch.randn(columns, columns, dtype=torch.float64, generator=generator))[0] for _ in "UV")
    return A @ ((U * torch.logspace(0, -np.log10(condition), columns, dtype=torch.float64)) @ V.mT)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--scipy", action="store_true", help="also time scipy's gelsy (slow)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, two repeats")
    arguments = parser.parse_args()
    rows = arguments.rows // 10 if arguments.quick else arguments.rows
    out = []
    for condition in (1e1, 1e8):
        A = conditioned(rows, arguments.columns, condition)
        b = torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        array, side = A.numpy(), b.numpy()
        competitors = {
            "resolvent": lambda A=A, b=b: lstsq(A, b),
            "numpy": lambda array=array, side=side: np.linalg.lstsq(array, side, rcond=None),
        }
        if arguments.scipy:
            competitors["scipy"] = lambda array=array, side=side: scipy.linalg.lstsq(array, side, lapack_driver="gelsy")
        seconds = interleaved(competitors, repeats=2 if arguments.quick else 3)
        ours, info = lstsq(A, b, return_info=True)
        theirs = np.linalg.lstsq(array, side, rcond=None)[0]
        norms = [float(np.linalg.norm(side - array @ x)) for x in (ours.numpy(), theirs)]
        base = seconds["resolvent"]
        ratio = seconds.get("scipy", float("nan")) / base
        out.append([f"{condition:.0e}", base, norms[0] / norms[1] - 1, info.matvecs, seconds["numpy"] / base, ratio])
    header = [
        "condition",
        "resolvent s",
        "residual / numpy's - 1",
        "passes",
        "x faster than numpy",
        "x faster than scipy",
    ]
    table(f"lstsq, {rows} x {arguments.columns} float64; {machine()}", header, out)


if __name__ == "__main__":
    main()
