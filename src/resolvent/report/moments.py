"""What is known of a matrix without its spectrum: the norms that a product and a few iterations give."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.report.gram import gram_triangle, shifted
from resolvent.report.readers import check_memory
from resolvent.report.spectrum import largest_entry

if TYPE_CHECKING:
    import scipy.sparse

# Relative error of an iterated norm; four digits are printed or stored as true.
_PRINTED = 2e-5
# Multiplications of a sparse Gram product that is still quick.
_SPARSE_WORK = 5e8


@dataclass(frozen=True)
class Moments:
    r"""Norms of a matrix A, in units of 2^exponent.

    Attributes
    ----------
    energy : :math:`\|A\|_F^2`
    gram_energy : :math:`\|A^H A\|_F^2`, None where it was not computed
    spectral : :math:`\|A\|_2`, None where it was not reached
    exponent : of the unit
    missing : reasons for what is None
    """

    energy: float
    gram_energy: float | None
    spectral: float | None
    exponent: int = 0
    missing: dict[str, str] = field(default_factory=dict)


def dense_moments(matrix: Tensor) -> Moments:
    """Moments of a dense matrix, from its smaller Gram matrix in single precision.

    Parameters
    ----------
    matrix : (m, n) tensor on the CPU, any dtype

    Raises
    ------
    NotFiniteError : the matrix has a NaN or an infinity.
    ValueError : it does not fit in memory.

    Notes
    -----
    One triangle of the Gram matrix: m n min(m, n) / 2 multiply-adds, a tenth of what its singular values take. The
    rounding errors of single precision are some 1e-6 of the largest eigenvalue, and so of everything here.

    Examples
    --------
    >>> found = dense_moments(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
    >>> found.energy, round(found.gram_energy, 5), round(found.spectral, 5)
    (6.0, 18.0, 2.0)
    """
    matrix = matrix.detach()
    top = largest_entry(matrix)
    if top == 0:
        return Moments(0.0, 0.0, 0.0)
    p = min(matrix.shape)
    check_memory(12.0 * p * p, "its Gram matrix")
    exponent = 0 if 1e-6 < top < 1e6 else math.frexp(top)[1]
    G = _gram(matrix, exponent)
    spectral, missing = _spectral(G, 4 * _PRINTED, "spectral_norm")
    root = None if spectral is None else math.sqrt(spectral)
    energy = float(torch.diagonal(G).real.double().sum())
    # single precision is enough within a row
    return Moments(energy, float(torch.linalg.vector_norm(G, dim=1).double().square().sum()), root, exponent, missing)


def sparse_moments(matrix: scipy.sparse.csr_array) -> Moments:
    """Moments of a sparse matrix; the Gram matrix only where its product is quick.

    Examples
    --------
    >>> import scipy.sparse
    >>> found = sparse_moments(scipy.sparse.diags_array([2.0, 1.0, 1.0]).tocsr())
    >>> found.exponent, round(4 * found.spectral, 5), 16 * found.energy
    (2, 2.0, 6.0)
    """
    A = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    top = float(abs(A).max()) if A.nnz else 0.0
    if top == 0:
        return Moments(0.0, 0.0, 0.0)
    exponent = math.frexp(top)[1]
    A.data = shifted(torch.from_numpy(A.data), -exponent).numpy()
    energy = float((abs(A.data) ** 2).sum())
    spectral, missing = _spectral(A, _PRINTED, "spectral_norm")
    rows, columns = np.diff(A.indptr).astype(float), np.bincount(A.indices, minlength=A.shape[1]).astype(float)
    down, across = float((rows**2).sum()), float((columns**2).sum())
    if min(down, across) > _SPARSE_WORK:
        missing["participation_ratio"] = f"the Gram matrix would take {min(down, across):.1e} multiplications"
        return Moments(energy, None, spectral, exponent, missing)
    gram = A.conj().T @ A if down <= across else A @ A.conj().T
    return Moments(energy, float((abs(gram.data) ** 2).sum()), spectral, exponent, missing)


def _spectral(A: Tensor | scipy.sparse.csr_array, rtol: float, name: str) -> tuple[float | None, dict[str, str]]:
    from resolvent.spectra.norms import norm

    try:
        return float(norm(A, 2, rtol=rtol, generator=0)), {}
    except (ConvergenceError, ValueError) as error:
        return None, {name: str(error), "stable_rank": str(error)}


def _gram(matrix: Tensor, exponent: int) -> Tensor:
    """The smaller of A^H A and A A^H in single precision, or its conjugate; one triangle is computed and mirrored."""
    lower = torch.from_numpy(gram_triangle(matrix, torch.complex64 if matrix.is_complex() else torch.float32, exponent))
    # above the diagonal it is zero
    G = lower.mH.add(lower)
    torch.diagonal(G).mul_(0.5)
    return G
