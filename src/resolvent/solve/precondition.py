"""Preconditioners that work entry by entry: Jacobi, block Jacobi, SSOR, incomplete factors. Each is an operator near A^-1."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense, Diagonal
from resolvent.operators.operator import Operator
from resolvent.solve.direct import check_no_zero, dense_inverse
from resolvent.spectra.inertia import scipy_matrix

_SHIFTS = 30


class IncompleteFactors(Operator):
    """(L U)^-1 of factors in compressed rows; not differentiable, and on the host."""

    def __init__(self, A: Operator, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, places: np.ndarray):
        super().__init__(
            A.shape, dtype=A.dtype, device=A.device, kind=A.kind, hermitian=A.hermitian, positive=A.positive
        )
        self._factors, self._of = (indptr, indices, values, places), A
        self._flipped = False

    @property
    def cost(self) -> float:
        return float(len(self._factors[2]))

    def _matmul(self, X: Tensor) -> Tensor:
        from resolvent.solve import precondition_kernel as kernel

        dtype = self._factors[2].dtype
        side = X.detach().movedim(-2, 0)
        Y = side.reshape(X.shape[-2], -1).resolve_conj().cpu().numpy().astype(dtype, order="C", copy=True)
        (kernel.substitute_adjoint if self._flipped else kernel.substitute)(*self._factors, Y)
        return torch.from_numpy(Y).to(X.device).reshape(side.shape).movedim(0, -2)

    def _adjoint(self) -> Operator:
        out = IncompleteFactors(self._of, *self._factors)
        out._flipped = not self._flipped
        return out


def jacobi_preconditioner(A: OperatorLike) -> Operator:
    r"""The inverse of the diagonal, :math:`\operatorname{diag}(A)^{-1}`.

    Parameters
    ----------
    A : (*batch, n, n) operator that knows its diagonal, or anything `as_operator` takes

    Returns
    -------
    Diagonal, positive for a positive diagonal; differentiable.

    Raises
    ------
    ValueError : an entry of the diagonal is zero
    TypeError : the diagonal is not known (a matrix-free operator)

    Notes
    -----
    The best diagonal preconditioner up to a factor of n for positive definite A; free.

    References
    ----------
    "Condition numbers and equilibration of matrices"

    Examples
    --------
    >>> jacobi_preconditioner(torch.diag(torch.tensor([2.0, 4.0]))) @ torch.ones(2)
    tensor([0.5000, 0.2500])
    """
    A = _square(A)
    d = A._diagonal()
    if d is None:
        raise TypeError(f"the diagonal of {type(A).__name__} is not known without products; give M another way")
    check_no_zero(d, "entry of the diagonal")
    out = Diagonal(1 / d)
    out.kind = A.kind
    return out


def block_jacobi_preconditioner(A: OperatorLike, size: int = 32) -> Operator:
    r"""The inverse of the blocks of `size` consecutive rows along the diagonal.

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes
    size : of the blocks, at least 1; the last one may be smaller

    Returns
    -------
    Operator, positive where A is declared so.

    Raises
    ------
    ValueError : a block is singular to working precision

    Notes
    -----
    n size^2 flops once, then n size a product, as one batched product.

    References
    ----------
    "Iterative Methods for Sparse Linear Systems"

    Examples
    --------
    >>> A = torch.block_diag(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[4.0]]))
    >>> (block_jacobi_preconditioner(A, size=2) @ torch.tensor([3.0, 3.0, 4.0])).round(decimals=4)
    tensor([1., 1., 1.])
    """
    A = _square(A, batch=False)
    n = A.shape[-1]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be an int of at least 1, got {size!r}")
    size = min(size, max(n, 1))
    with torch.no_grad():
        blocks = _diagonal_blocks(A, size)
        eye = torch.eye(size, dtype=A.dtype, device=A.device)
        inverse, _ = dense_inverse(blocks, A.hermitian, A.positive)
        inverted = inverse(eye.expand_as(blocks), False)
    return _Blocks(A, inverted)


class _Blocks(Operator):
    """A batch of equal blocks along the diagonal, cut off at n."""

    def __init__(self, A: Operator, blocks: Tensor) -> None:
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            kind=A.kind,
            hermitian=A.hermitian,
            positive=A.positive,
            parts=(blocks,),
        )
        self._of = A

    def _matmul(self, X: Tensor) -> Tensor:
        blocks, n = self._parts[0], self.shape[-1]
        count, size = blocks.shape[0], blocks.shape[1]
        padded = torch.nn.functional.pad(X, (0, 0, 0, count * size - n))
        Y = blocks @ padded.reshape(*X.shape[:-2], count, size, X.shape[-1])
        return Y.reshape(*X.shape[:-2], count * size, X.shape[-1])[..., :n, :]

    def _adjoint(self) -> Operator:
        return _Blocks(self._of.H, self._parts[0].mH)


def _diagonal_blocks(A: Operator, size: int) -> Tensor:
    n = A.shape[-1]
    count = -(-n // size)
    blocks = torch.zeros(count, size, size, dtype=A.dtype, device=A.device)
    if (matrix := scipy_matrix(A)) is not None:
        found = matrix.tocoo()
        rows, cols = torch.from_numpy(found.row).long(), torch.from_numpy(found.col).long()
        inside = rows // size == cols // size
        rows, cols, values = rows[inside], cols[inside], torch.from_numpy(found.data)[inside].to(A.dtype)
        blocks.index_put_((rows // size, rows % size, cols % size), values, accumulate=True)
    else:
        for i in range(count):
            place = torch.arange(i * size, min(n, (i + 1) * size), device=A.device)
            blocks[i, : len(place), : len(place)] = A._entries(place, place)
    filler = torch.arange(count * size, device=A.device).reshape(count, size) >= n
    return blocks + torch.diag_embed(filler.to(A.dtype))


def ssor_preconditioner(A: OperatorLike, omega: float = 1.0) -> Operator:
    r"""Symmetric successive over-relaxation, :math:`\omega (2 - \omega) (D + \omega U)^{-1} D (D + \omega L)^{-1}`.

    Parameters
    ----------
    A : (n, n) sparse matrix (what `Sparse` takes, and sums and multiples) with a diagonal without zeros, or a dense one
    omega : between 0 and 2

    Returns
    -------
    Operator, positive where A is declared so. No gradients.

    Raises
    ------
    ValueError : omega outside (0, 2), a zero on the diagonal
    TypeError : A is neither sparse nor dense

    Notes
    -----
    No setup, one forward and one backward substitution a product, which run on one core.

    References
    ----------
    "Iterative Methods for Sparse Linear Systems"

    Examples
    --------
    >>> A = torch.tensor([[2.0, -1.0], [-1.0, 2.0]])
    >>> ssor_preconditioner(A) @ torch.tensor([1.0, 1.0])
    tensor([0.8750, 0.7500])
    """
    if not 0 < omega < 2:
        raise ValueError(f"omega must lie between 0 and 2, got {omega!r}")
    A = _square(A, batch=False)
    indptr, indices, values, places = _rows(A)
    rows = np.repeat(np.arange(len(places)), np.diff(indptr))
    d = values[places]
    lower = indices < rows
    values = np.where(lower, omega * values / d[indices], values / (2 - omega))
    values[places] = d / (omega * (2 - omega))
    return IncompleteFactors(A, indptr, indices, values, places)


def ilu(A: OperatorLike, drop_tol: float | None = None, fill_factor: float = 10.0) -> Operator:
    r"""An incomplete LU factorisation: the inverse of factors that keep only a part of their fill.

    Parameters
    ----------
    A : (n, n) sparse matrix (what `Sparse` takes, and sums and multiples), or a dense one
    drop_tol : entries below this part of the largest in their column are dropped, with row exchanges (SuperLU's
        ILUTP). None: without exchanges, everything outside the pattern of A is dropped (ILU(0)).
    fill_factor : with `drop_tol`, at most this many times the entries of A

    Returns
    -------
    Operator, whose adjoint is known. No gradients.

    Raises
    ------
    ValueError : a pivot is zero: try `drop_tol`, or another preconditioner
    TypeError : A is neither sparse nor dense

    Notes
    -----
    ILU(0) costs about one pass over the rows of neighbours of every row and a product two substitutions on one core.

    References
    ----------
    "An iterative solution method for linear systems of which the coefficient matrix is a symmetric M-matrix"

    Examples
    --------
    >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> ilu(A) @ torch.tensor([3.0, 3.0])
    tensor([1., 1.])
    """
    A = _square(A, batch=False)
    if drop_tol is not None:
        return _threshold(A, drop_tol, fill_factor)
    from resolvent.solve.precondition_kernel import incomplete_lu

    indptr, indices, values, places = _rows(A)
    values = values.copy()
    failed = incomplete_lu(indptr, indices, values, places)
    if failed >= 0:
        raise ValueError(f"pivot {failed} of the incomplete factors is zero: give drop_tol, or another preconditioner")
    return IncompleteFactors(A, indptr, indices, values, places)


def ic(A: OperatorLike) -> Operator:
    r"""An incomplete Cholesky factorisation: :math:`(L D L^H)^{-1}` with L on the pattern of A.

    Parameters
    ----------
    A : (n, n) Hermitian sparse matrix with a positive diagonal (what `Sparse` takes, and sums and multiples), or a
        dense one

    Returns
    -------
    Positive operator. No gradients.

    Raises
    ------
    ValueError : A is not Hermitian, or its diagonal is not positive
    TypeError : A is neither sparse nor dense

    Notes
    -----
    For M-matrices the factors exist. Elsewhere a pivot can fail; then a growing multiple of the diagonal is added to what
    is factorised, so that the result is always positive definite.

    References
    ----------
    "An iterative solution method for linear systems of which the coefficient matrix is a symmetric M-matrix"

    Examples
    --------
    >>> A = torch.tensor([[2.0, -1.0], [-1.0, 2.0]])
    >>> ic(A) @ torch.tensor([1.0, 1.0])
    tensor([1., 1.])
    """
    from resolvent.solve.precondition_kernel import incomplete_lu

    A = _square(A, batch=False)
    A.check_hermitian("A")
    indptr, indices, entries, places = _rows(A)
    d = entries[places].real.copy()
    if not (d > 0).all():
        raise ValueError(f"A must have a positive diagonal, but entry {int(np.argmin(d))} is {d.min():.3g}")
    shift = 0.0
    for _ in range(_SHIFTS):
        values = entries.copy()
        values[places] += (shift * d).astype(values.dtype)
        if (
            incomplete_lu(indptr, indices, values, places) < 0
            and (values[places].real > 1e-3 * np.finfo(d.dtype).eps * d).all()
        ):
            positive = A if A.positive else A.declare(positive=True)
            return IncompleteFactors(positive, indptr, indices, values, places)
        shift = max(2 * shift, 1e-3)
    raise ValueError(f"no incomplete factors, not even of A + {shift:.1e} diag(A): A is far from diagonally dominant")


def _threshold(A: Operator, drop_tol: float, fill_factor: float) -> Operator:
    from scipy.sparse.linalg import spilu

    from resolvent.solve.structure import Inverted

    if not 0 <= drop_tol < 1 or not fill_factor >= 1:
        raise ValueError(
            f"drop_tol must lie in [0, 1) and fill_factor be at least 1, got {drop_tol!r}, {fill_factor!r}"
        )
    matrix = _matrix(A)
    wide = matrix.astype(np.complex128 if A.is_complex else np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            factors = spilu(wide, drop_tol=drop_tol, fill_factor=fill_factor)
        except RuntimeError as error:
            raise ValueError(f"the incomplete factors are singular: {error}") from error

    def solve(X: Tensor, adjoint: bool) -> Tensor:
        side = X.movedim(-2, 0)
        columns = side.reshape(X.shape[-2], -1).resolve_conj().numpy().astype(wide.dtype)
        found = torch.from_numpy(factors.solve(columns, trans="H" if adjoint else "N")).to(X.dtype)
        return found.reshape(side.shape).movedim(0, -2)

    return Inverted(A.declare(hermitian=False), solve)


def _square(A: Any, batch: bool = True) -> Operator:
    A = as_operator(A, name="A")
    if A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    if A.batch_shape and not batch:
        raise ValueError(f"A must be one matrix, got a batch {tuple(A.batch_shape)}")
    return A


def _matrix(A: Operator) -> Any:
    import scipy.sparse as sp

    if isinstance(A, Dense):
        return sp.csc_matrix(A.data.detach().cpu().numpy())
    matrix = scipy_matrix(A.to("cpu") if A.device.type != "cpu" else A)
    if matrix is None:
        raise TypeError(f"A must be sparse or dense, got {type(A).__name__}")
    return matrix


def _rows(A: Operator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sorted compressed rows with a diagonal entry in each, and where those are."""
    from resolvent.solve.precondition_kernel import diagonal_places

    csr = _matrix(A).tocsr()
    csr.sum_duplicates()
    places = diagonal_places(csr.indptr, csr.indices)
    missing = places < 0
    if missing.any() or (csr.data[places] == 0).any():
        where = int(np.argmax(missing | (csr.data[places] == 0)))
        raise ValueError(f"A must have a diagonal without zeros, but entry {where} is zero")
    return csr.indptr, csr.indices, csr.data, places
