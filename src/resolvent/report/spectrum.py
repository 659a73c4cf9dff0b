"""All singular values of one matrix, from the cheapest factorisation that keeps them accurate."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.threads import one_thread
from resolvent.report.gram import gram_triangle, shifted
from resolvent.report.readers import check_memory

if TYPE_CHECKING:
    import scipy.sparse

# Relative accuracy of the smallest singular value that a Gram spectrum must keep; what is printed is good to 1e-4.
_SMALLEST = 1e-5
# Entries of a block that is shuffled: it stays in the cache.
_CHUNK = 1 << 19
# Below this side the factorisations run on one thread: a second gains nothing there, and the thousands of times that the two
# wait for each other make them ten times slower as soon as another process wants a core.
_THREADED_SIDE = 768
# The Gram matrix of a sparse matrix is formed up to this shorter side, and its float64 copy up to this many entries.
_SPARSE_SIDE = 2048
_SPARSE_ENTRIES = 1 << 25


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a matrix and how far the small ones can be trusted.

    Attributes
    ----------
    values : (min(m, n),) float64, descending, in units of 2^exponent
    shape : (m, n)
    floor : values below this are noise of the arithmetic, not of the matrix; in the same units
    method : "gram" (eigenvalues of the smaller Gram matrix), "gram32" (the same in float32, of a shuffle) or "svd"
    exponent : other than 0 only where the squares of the entries would leave the range of doubles
    """

    values: np.ndarray
    shape: tuple[int, int]
    floor: float
    method: str
    exponent: int = 0


class NotFiniteError(ValueError):
    """A matrix has entries that are NaN or infinite."""


def spectrum_of(matrix: Tensor) -> Spectrum:
    r"""Singular values of a dense matrix: :math:`\sigma_i = \sqrt{\lambda_i(A^H A)}` where that is accurate.

    Parameters
    ----------
    matrix : (m, n) tensor on the CPU, any real or complex dtype

    Returns
    -------
    Spectrum

    Raises
    ------
    NotFiniteError : the matrix has a NaN or an infinity; the message counts them.
    ValueError : the matrix has no entries, is not 2-D, or does not fit in memory.

    Notes
    -----
    One triangle of the p x p Gram matrix (p the shorter side) is accumulated in float64 over blocks of the longer one,
    which costs m n p / 2 multiplications and no second copy of the matrix, and only its eigenvalues are computed. An eigenvalue has an
    error of a few eps times the largest, so the smallest singular value has one of about eps cond^2: where that exceeds
    1e-5 (condition beyond about 1e5) the float64 singular value decomposition is taken instead.

    Examples
    --------
    >>> type(spectrum_of(torch.eye(3))).__name__
    'Spectrum'
    """
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"matrix must be (m, n) with entries in it, got shape {tuple(matrix.shape)}")
    matrix = matrix.detach()
    top = largest_entry(matrix)
    shape = (matrix.shape[0], matrix.shape[1])
    p = min(shape)
    if top == 0:
        return Spectrum(np.zeros(p), shape, 0.0, "gram")
    check_memory(24.0 * p * p, "its Gram matrix")
    # Squares of entries beyond 1e150 or below 1e-150 would leave the range of doubles; powers of two are exact.
    exponent = 0 if 1e-100 < top < 1e100 else math.frexp(top)[1]
    dtype = torch.complex128 if matrix.is_complex() else torch.float64
    found = _from_gram(gram_triangle(matrix, dtype, exponent), shape, "gram")
    if _too_coarse(found):
        found = _decomposed(matrix, shape, exponent)
    return dataclasses.replace(found, exponent=exponent)


def sparse_spectrum(matrix: scipy.sparse.csr_array) -> Spectrum | str:
    """Singular values of a sparse matrix through its smaller Gram matrix, or why they were not computed.

    The matrix itself becomes dense only if its condition number asks for it and it has at most 2^25 entries.
    """
    shape = (matrix.shape[0], matrix.shape[1])
    p = min(shape)
    if p > _SPARSE_SIDE:
        return (
            f"it takes every singular value, and the shorter side of a sparse matrix, {p}, is more than {_SPARSE_SIDE}"
        )
    A = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    top = float(abs(A).max()) if A.nnz else 0.0
    if top == 0:
        return Spectrum(np.zeros(p), shape, 0.0, "gram")
    exponent = 0 if 1e-100 < top < 1e100 else math.frexp(top)[1]
    A.data = shifted(torch.from_numpy(A.data), -exponent).numpy()
    gram = (A @ A.conj().T if shape[0] <= shape[1] else A.conj().T @ A).toarray()
    found = _from_gram(gram, shape, "gram")
    if _too_coarse(found) and math.prod(shape) <= _SPARSE_ENTRIES:
        found = _decomposed(torch.from_numpy(A.toarray()), shape, 0)
    return dataclasses.replace(found, exponent=exponent)


def _too_coarse(found: Spectrum) -> bool:
    """Whether the smallest value of a Gram spectrum has not the digits asked for."""
    return bool(found.floor > math.sqrt(2 * _SMALLEST) * found.values[-1])


def largest_entry(matrix: Tensor) -> float:
    """Largest absolute value; a NaN or infinity among the entries is an error that counts them."""
    if not (matrix.is_floating_point() or matrix.is_complex()):
        low, high = torch.aminmax(matrix)
        return max(abs(float(low)), abs(float(high)))
    parts = torch.view_as_real(matrix.resolve_conj()) if matrix.is_complex() else matrix
    low, high = torch.aminmax(parts)
    top = max(abs(float(low)), abs(float(high)))
    # max() drops a NaN on the wrong side, so that the sum is asked too
    if not math.isfinite(top) or not math.isfinite(float(low) + float(high)):
        bad = int((~torch.isfinite(matrix)).sum())
        if bad:
            verb = "is" if bad == 1 else "are"
            raise NotFiniteError(f"{bad} of its {matrix.numel()} entries {verb} NaN or infinite")
    return top


def shuffled_spectrum(matrix: Tensor, exponent: int = 0, *, generator: int = 0) -> np.ndarray:
    """Singular values of the matrix with its entries in random places, descending, in units of 2^exponent.

    What is left of the spectrum when only the values of the entries are kept: a value of the shuffled matrix beyond the
    edge of the noise comes from outlier entries, not from correlations between rows or columns.

    Parameters
    ----------
    matrix : (m, n) tensor on the CPU, finite
    exponent : as in `Spectrum`, for entries whose squares are no doubles
    generator : seed of the shuffle

    Notes
    -----
    The rows are dealt out to blocks that fit into the cache, every k-th row to the same one, and each block is
    shuffled by itself: with a copy of one block in memory, no entry is lost or taken twice. One permutation serves all
    blocks, turned by a random amount in each. The Gram matrix is single precision: a value of 0.03 of the largest has
    three digits, enough for a curve.

    Examples
    --------
    >>> A = torch.outer(torch.arange(1.0, 301), torch.ones(100))
    >>> s = shuffled_spectrum(A)
    >>> bool(s[1] > 0.05 * s[0]), bool(spectrum_of(A).values[1] < 1e-6 * s[0])
    (True, True)
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    count, p = matrix.shape
    wide = matrix.dtype in (torch.float64, torch.complex128)
    dtype = torch.complex64 if matrix.is_complex() else torch.float32
    random = np.random.default_rng(generator)
    blocks = max(1, math.ceil(count * p / _CHUNK))
    order = torch.from_numpy(random.permutation(math.ceil(count / blocks) * p))
    G = torch.zeros((p, p), dtype=dtype)
    for start in range(blocks):
        block = matrix[start::blocks]
        # beyond the range of single precision unless scaled first
        block = shifted(block, -exponent) if wide else block
        flat = block.to(dtype).reshape(-1)
        places = order if len(flat) == len(order) else order[order < len(flat)]
        turn = int(random.integers(len(flat)))
        block = torch.cat((flat[places[turn:]], flat[places[:turn]])).reshape(-1, p)
        G.addmm_(block.mH, block)
    return _from_gram(G.numpy(), (count, p), "gram32").values


def _from_gram(gram: np.ndarray, shape: tuple[int, int], method: str) -> Spectrum:
    """The spectrum by the lower triangle of a Gram matrix."""
    if min(shape) < _THREADED_SIDE:
        with one_thread():
            eigenvalues = torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()
    else:
        import scipy.linalg

        # On large matrices the OpenBLAS behind SciPy is twice as fast as the MKL behind torch.
        eigenvalues = scipy.linalg.eigh(gram, eigvals_only=True, driver="evd", overwrite_a=True, check_finite=False)
    eigenvalues = np.maximum(eigenvalues[::-1].astype(np.float64), 0.0)
    eps = float(np.finfo(gram.dtype).eps)
    # Measured on trained and random matrices: 0.7 eps times the largest; the factor leaves a margin of ten.
    error = 8 * eps * max(1.0, math.sqrt(min(shape) / 384)) * float(eigenvalues[0])
    return Spectrum(np.sqrt(eigenvalues), shape, math.sqrt(error), method)


def _decomposed(matrix: Tensor, shape: tuple[int, int], exponent: int) -> Spectrum:
    check_memory(24.0 * math.prod(shape), "its float64 singular value decomposition")
    A = shifted(matrix.to(torch.complex128 if matrix.is_complex() else torch.float64), -exponent)
    if min(shape) < _THREADED_SIDE:
        with one_thread():
            values = torch.linalg.svdvals(A).numpy()
    else:
        import scipy.linalg

        values = scipy.linalg.svdvals(A.numpy(), check_finite=False)
    return Spectrum(values, shape, float(np.finfo(np.float64).eps) * max(shape) * float(values[0]), "svd")
