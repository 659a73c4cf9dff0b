"""Inertia: how many eigenvalues of a Hermitian matrix lie below a shift, exactly, without computing them."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import splu

from resolvent.operators.algebra import Scaled, Sum
from resolvent.operators.banded import Tridiagonal
from resolvent.operators.elementary import Diagonal, Identity
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse
from resolvent.operators.triangle import HermitianSparse

# Numbers in the factor that a direct method may hold: 400 MB of float64 with its symmetric half.
FILL = 2.5e7


def scipy_matrix(A: Operator) -> Any:
    """A CSC matrix of a sparse operator on the CPU, of sums and multiples of such too, or None for other operators."""
    if A.batch_shape or A.device.type != "cpu":
        return None
    found = _converted(A)
    return None if found is None else found.tocsc()


@singledispatch
def _converted(A: Operator) -> Any:
    return None


@_converted.register
def _(A: Tridiagonal) -> Any:
    low, main, up = (t.detach().numpy() for t in A._parts)
    return sp.diags([low, main, up], [-1, 0, 1], format="csc")


@_converted.register
def _(A: Sparse) -> Any:
    arrays = (A.values.detach().numpy(), A.indices.numpy(), A.indptr.numpy())
    return sp.csr_matrix(arrays, shape=tuple(A.shape))


@_converted.register
def _(A: HermitianSparse) -> Any:
    return _converted(A.to_sparse().detach())


@_converted.register(Diagonal)
@_converted.register(Identity)
def _(A: Operator) -> Any:
    return sp.diags(A._diagonal().detach().resolve_conj().numpy(), format="csc")


@_converted.register
def _(A: Scaled) -> Any:
    inner = _converted(A._parts[1])
    return None if inner is None else A.factor.detach().resolve_conj().numpy()[()] * inner


@_converted.register
def _(A: Sum) -> Any:
    found = [_converted(P) for P in A._parts]
    return None if any(m is None for m in found) else sum(found[1:], found[0])


def small_fill(matrix: Any) -> bool:
    """Whether the factors of a CSC matrix with a symmetric pattern are known to take little memory."""
    n = matrix.shape[0]
    pattern = sp.csr_matrix((np.ones(len(matrix.data), dtype=np.int8), matrix.indices, matrix.indptr), shape=(n, n))
    order = reverse_cuthill_mckee(pattern, symmetric_mode=True)
    # The envelope of one good ordering bounds its fill; minimum degree, used below, does about as well or better.
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    rows = place[pattern.indices]
    columns = np.repeat(place, np.diff(pattern.indptr))
    first = np.arange(n)
    np.minimum.at(first, columns, rows)
    return float((np.arange(n) - first).sum()) <= FILL


def factor(matrix: Any) -> tuple[Any, float] | None:
    """SuperLU of a Hermitian CSC matrix with the diagonal as pivots, and an estimate of ``||L U - A||_F``.

    Pivots on the diagonal of an indefinite matrix may be tiny: the estimate, from one random vector, says what it cost.
    None where the fill would be large, a pivot vanishes, or rows and columns were permuted differently.
    """
    n = matrix.shape[0]
    if not small_fill(matrix):
        return None
    wide = matrix.astype(np.complex128 if np.iscomplexobj(matrix.data) else np.float64)
    try:
        lu = splu(wide, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError:
        return None
    if not np.array_equal(lu.perm_r, lu.perm_c):
        return None
    x = np.random.default_rng(0).standard_normal(n)
    back = (lu.L @ (lu.U @ _permuted(x, lu.perm_c)))[lu.perm_r]
    return lu, 3 * float(np.linalg.norm(back - wide @ x))


def _permuted(x: np.ndarray, perm: np.ndarray) -> np.ndarray:
    """P x with (P x)[perm[i]] = x[i]."""
    out = np.empty_like(x)
    out[perm] = x
    return out


def sparse_count(matrix: Any, shift: float, size: float) -> int | None:
    """Eigenvalues of a Hermitian CSC matrix of norm `size` below `shift` by the signs of its pivots; None if unsafe.

    Pivots that are not exchanged may be tiny and make the factors those of a matrix nearby. So where the factors do not
    give the matrix back to rounding, shifts on both sides are tried, further off than their factors are wrong: the few
    eigenvalues between them are computed.
    """
    found = _negative_pivots(matrix, shift, 8e-15 * math.sqrt(matrix.shape[0]) * size)
    if found is not None:
        return found
    for distance in (1e-11, 1e-9, 1e-7, 1e-5):
        step = distance * size
        left, right = (_negative_pivots(matrix, shift + s, 0.1 * step) for s in (-step, step))
        if left is not None and right is not None:
            return left + _between(matrix, shift, step, right - left)
    return None


def _between(matrix: Any, shift: float, step: float, inside: int) -> int:
    """How many of the `inside` eigenvalues within `step` of `shift` are below it."""
    if inside == 0:
        return 0
    from resolvent.spectra.eigen import eigsh

    # Off the middle: the shift itself may be an eigenvalue. The inverse magnifies the distances from it, so that a residual
    # of 1e-10 of its norm is one of 1e-10 of the step.
    w, _ = eigsh(matrix, inside, sigma=shift + 0.1 * step, rtol=1e-8, generator=0)
    return int((w < shift).sum())


def _negative_pivots(matrix: Any, shift: float, tolerance: float) -> int | None:
    moved = (matrix - shift * sp.identity(matrix.shape[0], dtype=matrix.dtype, format="csc")).tocsc()
    found = factor(moved)
    if found is None or found[1] > tolerance:
        return None
    pivots = found[0].U.diagonal().real
    return None if bool((pivots == 0).any()) else int((pivots < 0).sum())
