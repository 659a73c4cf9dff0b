"""Sparse rows at the edge: what a user may hand over as documents or queries of words, checked and in one form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


def as_sparse_rows(x: Any, name: str = "x", dim: int | None = None, *, single: bool = False) -> Any:
    """Rows (n, dim) as a CSR array of positive float32 numbers with ordered columns.

    Parameters
    ----------
    x : SciPy sparse array or matrix, dense array, or tensor (strided, CSR, CSC or COO); entries are at least 0
    name : of the argument, for messages
    dim : number of columns that is wanted; None takes any
    single : whether one row of shape (dim,) will do

    Returns
    -------
    scipy.sparse.csr_array without explicit zeros and duplicates; never shares memory that a caller could change

    Raises
    ------
    TypeError : not a matrix of real numbers.
    ValueError : another shape, a number that is negative, NaN or beyond float32.
    """
    rows = _matrix(x, name, single)
    if rows.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real, got dtype {rows.dtype}")
    if dim is not None and rows.shape[1] != dim:
        raise ValueError(f"{name} must have {dim} columns like the rows of the index, got {rows.shape[1]}")
    if rows.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {rows.shape}")
    made = sparse.csr_array(rows, dtype=np.float32, copy=True)
    made.sum_duplicates()
    if len(made.data) and not (float(made.data.min()) >= 0 and np.isfinite(made.data.max())):
        bad = np.flatnonzero(~((made.data >= 0) & np.isfinite(made.data)))[0]
        row = int(np.searchsorted(made.indptr, bad, side="right")) - 1
        raise ValueError(
            f"{name} must have finite entries of at least 0 (in float32), "
            f"got {made.data[bad]} in row {row}, column {made.indices[bad]}"
        )
    made.eliminate_zeros()
    return made


def like(x: Any) -> Callable[[Any], Any]:
    """How to give a CSR array back in the kind of `x`: sparse for sparse, tensor for tensor."""
    if isinstance(x, Tensor):
        return lambda rows: _as_tensor(rows, x)
    if sparse.issparse(x):
        return lambda rows: rows if isinstance(x, sparse.sparray) else sparse.csr_matrix(rows)
    return lambda rows: rows.toarray()


def _matrix(x: Any, name: str, single: bool) -> Any:
    """As a SciPy sparse array of two dimensions."""
    if isinstance(x, Tensor):
        if x.is_complex():
            raise TypeError(f"{name} must be real, got {x.dtype}")
        x = x.detach().cpu()
        if x.layout != torch.strided:
            return _from_tensor(x, name)
        x = x.to(torch.float32).numpy()
    if not sparse.issparse(x):
        x = np.asarray(x)
        if x.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be a sparse or dense matrix of real numbers, got dtype {x.dtype}")
    shape = tuple(x.shape)
    if single and x.ndim == 1:
        return sparse.csr_array(x.reshape(1, -1))
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (n, d){' or (d,)' if single else ''}, got {shape}")
    return x if sparse.issparse(x) else sparse.csr_array(x)


def _from_tensor(x: Tensor, name: str) -> Any:
    if x.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, got shape {tuple(x.shape)}")
    coo = (x if x.layout == torch.sparse_coo else x.to_sparse_coo()).coalesce()
    index = coo.indices().numpy()
    return sparse.csr_array((coo.values().to(torch.float32).numpy(), (index[0], index[1])), shape=tuple(x.shape))


def _as_tensor(rows: Any, x: Tensor) -> Tensor:
    if x.layout == torch.strided:
        return torch.from_numpy(rows.toarray()).to(x.device)
    made = torch.sparse_csr_tensor(
        torch.from_numpy(rows.indptr.astype(np.int64)),
        torch.from_numpy(rows.indices.astype(np.int64)),
        torch.from_numpy(rows.data),
        rows.shape,
        check_invariants=False,
    )
    return made.to(x.device)
