"""`Sparse`: a matrix in compressed rows, with fast products in both directions and gradients to its stored values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite
from resolvent.operators.operator import Operator
from resolvent.operators.pattern import Pattern, row_pointers

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class _Product(torch.autograd.Function):
    """A X or A^H X of the values of A and X. Its derivatives are products and samplings again, to every order."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, X: Tensor, pattern: Pattern, adjoint: bool, mirrored: bool, own: bool
    ) -> Tensor:
        ctx.save_for_backward(values, X)
        ctx.pattern, ctx.adjoint, ctx.mirrored, ctx.own = pattern, adjoint, mirrored, own
        return pattern.product(values, X, adjoint, own)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        values, X = ctx.saved_tensors
        grad_values = grad_X = None
        if ctx.needs_input_grad[0]:
            left, right = (X, grad) if ctx.adjoint else (grad, X)
            grad_values = _Sampled.apply(left, right, ctx.pattern)
        if ctx.needs_input_grad[1]:
            # The gather of the forward product is faster than the scatter, but only the scatter is right to the second
            # order in values that are free to leave the symmetry.
            adjoint = ctx.adjoint if ctx.mirrored and not ctx.needs_input_grad[0] else not ctx.adjoint
            grad_X = _Product.apply(values, grad, ctx.pattern, adjoint, ctx.mirrored, ctx.own)
        return grad_values, grad_X, None, None, None, None


class _Sampled(torch.autograd.Function):
    """(P Q^H) at the stored entries."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(P, Q)
        ctx.pattern = pattern
        return pattern.sampled(P, Q)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        P, Q = ctx.saved_tensors
        need_P, need_Q, _ = ctx.needs_input_grad
        grad_P = _Product.apply(grad, Q, ctx.pattern, False, False, False) if need_P else None
        grad_Q = _Product.apply(grad, P, ctx.pattern, True, False, False) if need_Q else None
        return grad_P, grad_Q, None


class Sparse(Operator):
    r"""A sparse matrix held as compressed rows (CSR).

    Parameters
    ----------
    a : a torch sparse tensor (COO, CSR or CSC), a SciPy sparse matrix or array of any format, or a tuple
        ``(indptr, indices, values, shape)`` of tensors or arrays as in `scipy.sparse.csr_array`.
        Repeated entries add up. CSR data are not copied, but for indices that fit into 32 bits and have 64.
    hermitian, positive : declared facts; a `hermitian` that the entries contradict raises

    Raises
    ------
    ValueError : indices out of bounds, NaN or infinite values, or not Hermitian although declared so
    TypeError : `a` is no sparse matrix, or its dtype is not float32, float64, complex64 or complex128

    Notes
    -----
    A product with k columns reads the matrix once: ``nnz (b + 4) + m (4 + b k) + n b k`` bytes for b bytes per value,
    all cores on row chunks of equal work. The adjoint needs no stored transpose: blocks of rows scatter into the
    result, those at the same time into different columns where the matrix is local, else into private buffers that
    are added (n k numbers per core and call). A Hermitian matrix is its own adjoint. A block of columns that is not
    row-major, or has batch dimensions, is copied once. Values that are multiplied often with one vector and lie on few
    diagonals are also kept diagonal by diagonal (of a symmetric matrix the upper half), which needs no indices and
    about halves the time (an absent entry then counts as 0 times x, NaN where x is infinite); not so values that require
    a gradient or share their memory with NumPy, where a write could go unnoticed, as one through `.data` does. On a GPU torch multiplies, and a transposed pattern (without
    values) is kept for the adjoint.
    Gradients flow to the values and to X, to every order; those of the values are sampled at the stored entries,
    ``sum_k G[i, k] conj(X[j, k])``.

    Examples
    --------
    >>> import torch
    >>> A = Sparse(torch.tensor([[0.0, 2.0], [1.0, 0.0]]).to_sparse())
    >>> A @ torch.tensor([1.0, 10.0])
    tensor([20.,  1.])
    >>> A.nnz
    2
    """

    _pattern: Pattern

    def __init__(self, a: Any, *, hermitian: bool = False, positive: bool = False) -> None:
        indptr, indices, values, shape, kind = _compressed(a)
        check_finite(values, "a")
        self._start(Pattern(indptr, indices, shape), values, kind, hermitian or positive, positive)
        if len(values) != len(indices):
            raise ValueError(f"values must be as many as indices, {len(indices)}, got {len(values)}")
        if self.hermitian:
            self._compare_with_adjoint("a")

    def _start(self, pattern: Pattern, values: Tensor, kind: Kind, hermitian: bool, positive: bool) -> None:
        if values.dtype not in _DTYPES:
            raise TypeError(f"a must be float32, float64, complex64 or complex128, got {values.dtype}")
        # Straight to the base: the checks of the constructor are for data from outside.
        Operator.__init__(
            self,
            pattern.shape,
            dtype=values.dtype,
            device=values.device,
            kind=kind,
            hermitian=hermitian,
            positive=positive,
            parts=(values,),
        )
        self._pattern = pattern
        # Writes to torch's own memory are counted; those to memory shared with NumPy, and those of an optimizer through
        # `.data`, go unnoticed.
        counted = not (values.is_inference() or values.requires_grad)
        self._own = counted and values.untyped_storage().resizable()

    def with_values(self, values: Tensor) -> Sparse:
        """The matrix with the same pattern and other values (nnz,), in the order of `values`; facts are dropped.

        Examples
        --------
        >>> A = Sparse(torch.eye(2).to_sparse()).with_values(torch.tensor([3.0, 4.0]))
        >>> A.to_dense().diagonal()
        tensor([3., 4.])
        """
        if tuple(values.shape) != (self.nnz,):
            raise ValueError(f"values must have shape ({self.nnz},), got {tuple(values.shape)}")
        out = object.__new__(Sparse)
        out._start(self._pattern.to(values.device), values, self.kind, False, False)
        return out

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return len(self._pattern.indices)

    @property
    def values(self) -> Tensor:
        """The stored entries (nnz,), row by row."""
        return self._parts[0]

    @property
    def indices(self) -> Tensor:
        """The column of each stored entry (nnz,)."""
        return self._pattern.indices

    @property
    def indptr(self) -> Tensor:
        """Where each row begins in `values` and `indices`, and their length at the end (m + 1,)."""
        return self._pattern.indptr

    # ---- products -----------------------------------------------------------------------------------------------

    def _matmul(self, X: Tensor) -> Tensor:
        return self._multiply(X, adjoint=False)

    def _multiply(self, X: Tensor, adjoint: bool) -> Tensor:
        apply, given = _Product.apply, (self._pattern, adjoint, self.hermitian, self._own)
        return _folded(lambda F: apply(self.values, F, *given), X)

    def _gram(self, X: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (X.requires_grad or self.values.requires_grad):
            return self._multiply(self._multiply(X, False), True)
        return _folded(lambda F: self._pattern.gram(self.values, F, self._own), X)

    def _adjoint(self) -> Operator:
        return _AdjointSparse(self)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        values = fn(self.values)
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__)
        out._start(self._pattern.to(values.device), values, self.kind, self.hermitian, self.positive)
        if values.data_ptr() == self.values.data_ptr():
            out._own = self._own
        return out

    # ---- entries ------------------------------------------------------------------------------------------------

    def _dense(self) -> Tensor:
        m, n = self.shape
        places = self._pattern.rows * n + self.indices
        return self.values.new_zeros(m * n).index_add(0, places, self.values).view(m, n)

    def _diagonal(self) -> Tensor | None:
        on = self._pattern.rows == self.indices
        return self.values.new_zeros(min(self.shape)).index_add(0, self.indices[on], self.values[on])

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        starts, stops = self.indptr[rows].long(), self.indptr[rows + 1].long()
        counts = stops - starts
        owner = torch.repeat_interleave(torch.arange(len(rows), device=self.device), counts)
        ends = counts.cumsum(0)
        found = torch.arange(len(owner), device=self.device) + torch.repeat_interleave(starts - ends + counts, counts)
        # Columns may be asked for twice: each different one is filled, then they are repeated.
        different, again = torch.unique(cols, return_inverse=True)
        block = self.values.new_zeros(len(rows), len(different))
        if block.numel() == 0:
            return block[:, again]
        columns = self.indices[found].long()
        place = torch.searchsorted(different, columns).clamp_(max=len(different) - 1)
        wanted = different[place] == columns
        block = block.index_put((owner[wanted], place[wanted]), self.values[found[wanted]], accumulate=True)
        return block[:, again]

    @property
    def cost(self) -> float:
        return float(self.nnz)

    def check_hermitian(self, name: str = "A") -> None:
        """Raise a ValueError that names the argument if an entry and its mirror differ by more than rounding."""
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"{name} must be square, got shape {tuple(self.shape)}")
        if not self.hermitian:
            self._compare_with_adjoint(name)

    def _compare_with_adjoint(self, name: str) -> None:
        values = self.values.detach()
        if not len(values):
            return
        # Rounding of a few operations is forgiven; a matrix that is Hermitian only roughly is not.
        bound = 100 * torch.finfo(self.dtype).eps * float(values.abs().max())
        gap = self._pattern.asymmetry(values)
        if gap > bound:
            raise ValueError(f"{name} must be Hermitian, but an entry and its mirror differ by {gap:.3g}")


class _AdjointSparse(Operator):
    """A^H of a sparse A: the same memory, read by rows and scattered."""

    def __init__(self, A: Sparse) -> None:
        super().__init__(A.shape[::-1], dtype=A.dtype, device=A.device, kind=A.kind, parts=(A,))

    @property
    def _of(self) -> Sparse:
        return self._parts[0]

    def _matmul(self, X: Tensor) -> Tensor:
        return self._of._multiply(X, adjoint=True)

    def _adjoint(self) -> Operator:
        return self._of

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return _AdjointSparse(self._of._map(fn))  # type: ignore[arg-type]

    def _dense(self) -> Tensor:
        return self._of._dense().mH

    def _diagonal(self) -> Tensor | None:
        d = self._of._diagonal()
        return None if d is None else d.conj()

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self._of._entries(cols, rows).mH

    def check_hermitian(self, name: str = "A") -> None:
        self._of.check_hermitian(name)


def _folded(product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """Apply a product of blocks (n, k) to X (..., n, k): the batch becomes columns of one block."""
    if X.ndim == 2:
        return product(X)
    columns = X.movedim(-2, 0)
    Y = product(columns.reshape(X.shape[-2], -1) if X.numel() else columns.new_zeros(X.shape[-2], 0))
    return Y.reshape(Y.shape[0], *columns.shape[1:]).movedim(0, -2)


def _compressed(a: Any) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], Kind]:
    """Row pointers, columns, values and shape of whatever sparse matrix `a` is."""
    if isinstance(a, Tensor):
        return _from_torch(a)
    if isinstance(a, tuple) and len(a) == 4:
        values, kind = as_tensor(a[2], "values")
        indptr, indices = (torch.as_tensor(t, device=values.device) for t in a[:2])
        if len(a[3]) != 2 or values.ndim != 1:
            raise ValueError(f"a must have values (nnz,) and shape (m, n), got {tuple(values.shape)} and {tuple(a[3])}")
        return indptr, indices, values, (int(a[3][0]), int(a[3][1])), kind
    # Only SciPy itself, already imported, can have made a SciPy matrix.
    scipy_sparse = sys.modules.get("scipy.sparse")
    if scipy_sparse is not None and scipy_sparse.issparse(a):
        if a.ndim != 2:
            raise ValueError(f"a must have shape (m, n), got {a.shape}")
        csr = a.tocsr()
        values, kind = as_tensor(csr.data, "a")
        indptr, indices = (torch.from_numpy(np.require(t, requirements="W")) for t in (csr.indptr, csr.indices))
        return indptr, indices, values, csr.shape, kind
    raise TypeError(
        "a must be a sparse torch tensor, a SciPy sparse matrix or (indptr, indices, values, shape), "
        f"got {type(a).__name__}"
    )


def _from_torch(a: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], Kind]:
    if a.layout not in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        raise TypeError(f"a must be sparse (COO, CSR or CSC), got layout {a.layout}; use Dense, or a.to_sparse_csr()")
    if a.ndim != 2 or (a.layout == torch.sparse_coo and a.dense_dim() != 0):
        raise ValueError(f"a must be one sparse matrix of scalars, got shape {tuple(a.shape)}")
    shape = (a.shape[0], a.shape[1])
    if a.layout == torch.sparse_csr:
        return a.crow_indices(), a.col_indices(), as_tensor(a.values(), "a")[0], shape, "torch"
    if a.layout == torch.sparse_coo:
        # Coalesced entries come sorted by rows.
        a = a.coalesce()
        (rows, cols), values = a.indices(), a.values()
    else:
        cols = torch.repeat_interleave(torch.arange(shape[1], device=a.device), a.ccol_indices().diff().long())
        order = torch.argsort(a.row_indices(), stable=True)
        rows, cols, values = a.row_indices()[order], cols[order], a.values()[order]
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= shape[0]):
        raise ValueError(f"a must have row indices in 0 to {shape[0] - 1}, got {int(rows.min())} to {int(rows.max())}")
    counts = torch.bincount(rows, minlength=shape[0])
    return row_pointers(counts), cols, as_tensor(values, "a")[0], shape, "torch"
