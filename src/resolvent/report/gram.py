"""One triangle of the smaller Gram matrix of a dense matrix, which is all that its eigenvalues and norms ask for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Entries converted at a time: the copy stays in the cache of the product that reads it.
_CHUNK = 1 << 19


def gram_triangle(matrix: Tensor, dtype: torch.dtype, exponent: int = 0) -> np.ndarray:
    """Lower triangle of the smaller of A^H A and A A^H, or of its conjugate, block by block of the longer side.

    Parameters
    ----------
    matrix : (m, n) tensor on the CPU, any dtype
    dtype : of the products: float32, float64, complex64 or complex128
    exponent : A is taken in units of 2^exponent, where squares of its entries would leave the range

    Returns
    -------
    (p, p) array in columns, p the shorter side; zero above the diagonal.

    Notes
    -----
    m n p / 2 multiply-adds, the half of a product that does not know of the symmetry. A matrix of another dtype is
    converted in blocks, and nothing is copied of one that has it.

    Examples
    --------
    >>> gram_triangle(torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), torch.float64)
    array([[5., 0.],
           [2., 2.]])
    """
    from scipy.linalg import get_blas_funcs

    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    p = matrix.shape[1]
    lower = np.zeros((p, p), torch.zeros(0, dtype=dtype).numpy().dtype, order="F")
    product = get_blas_funcs("herk" if dtype.is_complex else "syrk", (lower,))
    # the transpose in the complex case is the conjugate one
    turned = 2 if dtype.is_complex else 1
    for block in _blocks(matrix, dtype, exponent):
        # BLAS reads columns: a row-major block is its own transpose there, and a transposed one is not
        given, trans = (block.T, 0) if block.flags.c_contiguous else (np.asfortranarray(block), turned)
        lower = product(1.0, given, beta=1.0, c=lower, trans=trans, lower=1, overwrite_c=1)
    return lower


def _blocks(matrix: Tensor, dtype: torch.dtype, exponent: int) -> Iterator[np.ndarray]:
    """Rows of the matrix in the dtype of the product."""
    same = matrix.dtype == dtype and exponent == 0
    step = len(matrix) if same else max(256, _CHUNK // matrix.shape[1])
    wide = torch.complex128 if dtype.is_complex else torch.float64
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step]
        if exponent:
            # beyond the range of single precision before it is scaled
            block = shifted(block.to(wide), -exponent)
        yield block.to(dtype).resolve_conj().numpy()


def shifted(x: Tensor, exponent: int) -> Tensor:
    """x 2^exponent, in two steps since 2^exponent itself may be no double."""
    half = exponent // 2
    return x if exponent == 0 else x * 2.0**half * 2.0 ** (exponent - half)
