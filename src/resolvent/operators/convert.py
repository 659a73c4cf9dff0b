"""`as_operator`: one place where everything a user may hold becomes an `Operator`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import ArrayLike, as_tensor, check_finite
from resolvent.operators.elementary import Dense, MatrixFree
from resolvent.operators.operator import Operator

OperatorLike = Operator | ArrayLike | Any


def as_operator(
    a: OperatorLike, *, hermitian: bool | None = None, positive: bool | None = None, name: str = "a"
) -> Operator:
    """Turn what the user has into an `Operator` over the same memory.

    Parameters
    ----------
    a : an Operator; a torch tensor, strided or sparse (COO, CSR, CSC); a NumPy array; a SciPy sparse matrix;
        a `scipy.sparse.linalg.LinearOperator`; a Dask array; nested lists of numbers
    hermitian, positive : facts to declare; None leaves what is known
    name : what errors call `a`

    Returns
    -------
    Operator
        Its `kind` is that of `a`: results of functions of a NumPy array are NumPy arrays.

    Raises
    ------
    ValueError
        `a` has fewer than two dimensions, a NaN or an infinity, or is declared Hermitian and is not.
    TypeError
        `a` is nothing that multiplies.

    Examples
    --------
    >>> import torch
    >>> as_operator(torch.eye(3), positive=True)
    Dense 3x3 float32 positive
    """
    try:
        A = _convert(a)
    except (TypeError, ValueError) as error:
        # The structures call what they were given "a"; the caller's caller knows it by its own name.
        text = str(error)
        if name == "a" or not text.startswith("a "):
            raise
        raise type(error)(name + text[1:]) from None
    if hermitian is None and positive is None:
        return A
    if (hermitian or positive) and not A.hermitian:
        A.check_hermitian(name)
    return A.declare(hermitian=hermitian, positive=positive)


def _convert(a: Any) -> Operator:
    if isinstance(a, Operator):
        return a
    if isinstance(a, Tensor):
        return _from_tensor(a)
    if isinstance(a, np.ndarray | list | tuple):
        if isinstance(a, tuple) and len(a) == 2 and all(callable(f) for f in a):
            raise TypeError("a pair of callables needs a shape: use operators.MatrixFree(shape, matmul, adjoint)")
        return _dense(a)
    # Only a library that is already imported can have made `a`: nothing optional is imported for the question.
    if (sparse := sys.modules.get("scipy.sparse")) is not None and sparse.issparse(a):
        return _sparse(a)
    if (linalg := sys.modules.get("scipy.sparse.linalg")) is not None and isinstance(a, linalg.LinearOperator):
        return _from_linear_operator(a)
    if (dask := sys.modules.get("dask.array")) is not None and isinstance(a, dask.Array):
        from resolvent.operators.distributed import from_dask

        return from_dask(a)
    if hasattr(a, "__array__") and not isinstance(a, str | bytes):
        return _dense(np.asarray(a))
    raise TypeError(
        "a must be an Operator, a tensor, an array, a SciPy sparse matrix, a LinearOperator or a Dask array, "
        f"got {type(a).__name__}"
    )


def _dense(a: ArrayLike | list | tuple) -> Operator:
    t, kind = as_tensor(a, "a")
    if t.ndim < 2:
        raise ValueError(f"a must have shape (*batch, m, n), got {tuple(t.shape)}")
    check_finite(t, "a")
    A = Dense(t)
    A.kind = kind
    return A


def _from_tensor(a: Tensor) -> Operator:
    if a.layout == torch.strided:
        return _dense(a)
    if a.layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        return _sparse(a)
    raise TypeError(f"a has layout {a.layout}; convert it to strided, COO, CSR or CSC")


def _sparse(a: Any) -> Operator:
    from resolvent.operators.sparse import Sparse

    return Sparse(a)


def _from_linear_operator(a: Any) -> Operator:
    """A SciPy LinearOperator: its products stay NumPy's, over the memory of our tensors."""
    dtype = torch.from_numpy(np.empty(0, dtype=np.dtype(a.dtype) if a.dtype is not None else np.float64)).dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        dtype = torch.float64
    wanted = torch.empty(0, dtype=dtype).numpy().dtype

    def forward(X: np.ndarray) -> np.ndarray:
        return np.asarray(a.matmat(X), dtype=wanted)

    def adjoint(X: np.ndarray) -> np.ndarray:
        return np.asarray(a.rmatmat(X), dtype=wanted)

    return MatrixFree(a.shape, forward, adjoint, dtype=dtype, kind="numpy")
