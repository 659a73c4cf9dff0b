"""Block orthogonalisation against a basis that is stored as rows, as few large products.

A Krylov basis is kept as a (j, n) row-major array, so that a new vector is one contiguous write and the projections
of a block on the whole basis are one product of (j, n) with (n, b).
"""

from __future__ import annotations

import torch
from torch import Tensor


def project_out(basis: Tensor, block: Tensor) -> Tensor:
    """Remove the span of the orthonormal rows of `basis` from the rows of `block` in place; returns the coefficients.

    Parameters
    ----------
    basis : (j, n) orthonormal rows
    block : (b, n), overwritten by block - (block basis^H) basis

    Returns
    -------
    (b, j) coefficients block basis^H
    """
    coefficients = block @ basis.mH
    if block.shape[0] == 1:
        torch.addmv(block[0], basis.mT, coefficients[0], alpha=-1, out=block[0])
    else:
        block.addmm_(coefficients, basis, alpha=-1)
    return coefficients
