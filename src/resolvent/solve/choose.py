"""Which iteration and which preconditioner for a sparse matrix: by its symmetry, its signs, and what can be built."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.operators.operator import Operator
from resolvent.solve.multigrid import amg
from resolvent.solve.precondition import ic, ilu, jacobi_preconditioner

# Share of the weight off the diagonal that may be positive for aggregation to be trusted.
_POSITIVE = 0.2
_SYMMETRIC = ("cg", "block_cg", "minres")


def preconditioner_for(A: Operator, matrix: Any, symmetric: bool, method: str) -> tuple[str, Operator | None]:
    """The name of an iteration and a preconditioner, for a CSC matrix whose factors would be large.

    Diffusion-like matrices (most weight off the diagonal negative, no row far from dominant) get multigrid; other
    Hermitian ones with a positive diagonal incomplete factors where their pivots are positive; others an incomplete LU.
    """
    d = matrix.diagonal()
    if symmetric and (d.real > 0).all():
        name = method if method != "auto" else "minres" if not A.positive and not _dominant(matrix, d) else "cg"
        if not A.is_complex and _dominant(matrix, d):
            return name, amg(A)
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


def _dominant(matrix: Any, d: np.ndarray) -> bool:
    """Whether a Hermitian matrix is like that of a diffusion: so it is positive semidefinite, or nearly."""
    off = np.asarray(abs(matrix).sum(axis=1)).ravel() - abs(d)
    if (off > 1.0001 * d.real + 1e-300).any():
        return False
    entries = matrix.data.real
    positive = float(entries[entries > 0].sum() - d.real.sum())
    return positive <= _POSITIVE * max(float(off.sum()), 1e-300)
