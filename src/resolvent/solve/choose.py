"""Which iteration and which preconditioner for a sparse matrix: by its symmetry, its signs, and what can be built."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.operators.operator import Operator
from resolvent.solve.multigrid import amg
from resolvent.solve.precondition import ic, ilu, jacobi_preconditioner
from resolvent.solve.randomized_cholesky import randomized_cholesky

# Share of the weight off the diagonal that may be positive for aggregation to be trusted.
_POSITIVE = 0.2
# Aggregates follow the strong couplings of each row, which is not enough where the weights of a graph span more than
# this, and they grow too fast around vertices of so many times the mean degree.
_CONTRAST, _HUB = 100.0, 30.0
_SYMMETRIC = ("cg", "block_cg", "minres")


def preconditioner_for(A: Operator, matrix: Any, symmetric: bool, method: str) -> tuple[str, Operator | None]:
    """The name of an iteration and a preconditioner, for a CSC matrix whose factors would be large.

    Diffusion-like matrices (most weight off the diagonal negative, no row far from dominant) get multigrid, or
    randomised factors where weights or degrees are too uneven for it; other Hermitian ones with a positive diagonal
    incomplete factors where their pivots are positive; others an incomplete LU.
    """
    d = matrix.diagonal()
    if symmetric and (d.real > 0).all():
        name = method if method != "auto" else "minres" if not A.positive and not _dominant(matrix, d) else "cg"
        if not A.is_complex and _dominant(matrix, d):
            return name, _for_diffusion(A, matrix)
        if name == "minres" and method == "auto":
            return name, jacobi_preconditioner(A)
        return name, ic(A)
    if symmetric:
        name = method if method != "auto" else "minres"
        return name, None
    name = method if method != "auto" else "gmres"
    if name in _SYMMETRIC:
        return name, None
    for drop_tol in (None, 1e-3):
        try:
            return name, ilu(A, drop_tol=drop_tol)
        except ValueError:
            # A zero pivot: with row exchanges it may not be one.
            continue
    return name, None


def _for_diffusion(A: Operator, matrix: Any) -> Operator:
    off = matrix.tocoo()
    sizes = np.abs(off.data[off.row != off.col])
    counts = np.diff(matrix.indptr)
    if not sizes.size:
        return jacobi_preconditioner(A)
    low, high = np.quantile(sizes, (0.01, 0.99))
    if high > _CONTRAST * low or counts.max() > _HUB * counts.mean():
        try:
            return randomized_cholesky(A, generator=0)
        except ValueError:
            # A row falls short of dominance by more than rounding.
            pass
    return amg(A)


def _dominant(matrix: Any, d: np.ndarray) -> bool:
    """Whether a Hermitian matrix is like that of a diffusion: so it is positive semidefinite, or nearly."""
    off = np.asarray(abs(matrix).sum(axis=1)).ravel() - abs(d)
    if (off > 1.0001 * d.real + 1e-300).any():
        return False
    entries = matrix.data.real
    positive = float(entries[entries > 0].sum() - d.real.sum())
    return positive <= _POSITIVE * max(float(off.sum()), 1e-300)
