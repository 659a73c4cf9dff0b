"""Matrices larger than memory, or on a cluster: an operator whose products run on Dask, block by block."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators import chunks
from resolvent.operators.operator import Operator


def _import_dask() -> Any:
    try:
        import dask
        import dask.array
    except ImportError as error:
        raise ImportError("from_dask needs Dask: install resolvent[dask]") from error
    return dask


class DaskMatrix(Operator):
    """A two-dimensional Dask array as an operator; built by `from_dask`."""

    def __init__(self, array: Any, dtype: torch.dtype, client: Any, hermitian: bool, positive: bool) -> None:
        super().__init__(array.shape, dtype=dtype, kind="numpy", hermitian=hermitian, positive=positive)
        self._array = array
        self._client = client

    @property
    def cost(self) -> float:
        return float(math.prod(self.shape))

    def _find_client(self) -> Any:
        if self._client is not None:
            return self._client
        # A client can only be there if its package was imported; importing it costs half a second.
        if "distributed" not in sys.modules:
            return None
        from distributed import default_client

        try:
            return default_client()
        except ValueError:
            return None

    def _run(self, X: Tensor, across: bool, task: Callable[..., np.ndarray], *, gram: bool = False) -> Tensor:
        """Sum `task(block, X, ...)` over every block row (or, if `across`, every block column) and stack the sums."""
        dask = _import_dask()
        client = self._find_client()
        local = np.ascontiguousarray(X.detach().numpy())
        # A key of its own: one made of X's content may still be on its way out from the last product with the same X.
        sent = local if client is None else client.scatter(local, broadcast=True, hash=False)
        step, total = dask.delayed(task, pure=False), dask.delayed(chunks.total, pure=False)
        blocks = self._array.to_delayed()
        if gram:
            sums = [total([step(block, sent) for block in blocks[:, 0]])]
        else:
            blocks = blocks.T if across else blocks
            ends = np.cumsum([0, *self._array.chunks[0 if across else 1]]).tolist()
            sums = [
                total([step(block, sent, a, b) for block, (a, b) in zip(line, itertools.pairwise(ends), strict=True)])
                for line in blocks
            ]
        parts = dask.compute(*sums) if client is None else client.gather(client.compute(sums))
        return torch.from_numpy(np.concatenate(parts)).to(self.dtype)

    def _by_columns(self, X: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """A batch of blocks of vectors as one block, so that the data is read once."""
        if X.ndim == 2:
            return run(X)
        lead, k = X.shape[:-2], X.shape[-1]
        Y = run(X.movedim(-2, 0).reshape(X.shape[-2], -1))
        return Y.reshape(-1, *lead, k).movedim(0, -2)

    def _matmul(self, X: Tensor) -> Tensor:
        return _Product.apply(X, self, False)

    def _gram(self, X: Tensor) -> Tensor:
        if self._array.numblocks[1] != 1 or (torch.is_grad_enabled() and X.requires_grad):
            return super()._gram(X)
        return self._by_columns(X, lambda Z: self._run(Z, False, chunks.gram_product, gram=True))

    def _adjoint(self) -> Operator:
        return _DaskAdjoint(self)

    def _dense(self) -> Tensor:
        return torch.from_numpy(np.array(self._array.compute())).to(self.dtype)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self._array[rows.numpy()][:, cols.numpy()].compute())).to(self.dtype)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        like = fn(torch.empty(0, dtype=self.dtype))
        if like.device.type != "cpu":
            raise TypeError("a Dask array's products are on the CPU; this operator cannot change its device")
        array = self._array if like.dtype == self.dtype else self._array.astype(_NUMPY[like.dtype])
        return DaskMatrix(array, like.dtype, self._client, self.hermitian, self.positive)


class _DaskAdjoint(Operator):
    def __init__(self, forward: DaskMatrix) -> None:
        m, n = forward.shape
        super().__init__((n, m), dtype=forward.dtype, kind="numpy", parts=(forward,))
        self._forward = forward

    def _matmul(self, X: Tensor) -> Tensor:
        return _Product.apply(X, self._forward, True)

    def _adjoint(self) -> Operator:
        return self._forward

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return self._forward._map(fn).H


class _Product(torch.autograd.Function):
    """A product whose gradient in X is the product with the adjoint; the array itself is a constant."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, A: DaskMatrix, adjoint: bool) -> Tensor:
        ctx.A, ctx.adjoint = A, adjoint
        task = chunks.adjoint_product if adjoint else chunks.product
        return A._by_columns(X, lambda Z: A._run(Z, adjoint, task))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grads[0], ctx.A, not ctx.adjoint), None, None


_NUMPY = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


def from_dask(array: Any, *, client: Any = None, hermitian: bool = False, positive: bool = False) -> Operator:
    """A Dask array as an operator: its products run where the array lives, and it is never held in memory as a whole.

    Parameters
    ----------
    array : (m, n) dask.array.Array of known chunk sizes, of NumPy blocks
    client : a `distributed.Client`; None for the current one, and for Dask's threads where there is none
    hermitian, positive : declared facts

    Returns
    -------
    Operator of kind "numpy"; integers become float64.

    Raises
    ------
    ImportError : Dask is not installed
    TypeError, ValueError : not a two-dimensional Dask array, or chunks of unknown size

    Notes
    -----
    A product reads every chunk once for all vectors of a block; X travels to each worker once, and only the products
    of a chunk, of shape (rows, k), travel back. About two chunks per thread are in memory at a time. With one chunk
    across the columns ``A^H A X`` reads the array once instead of twice. Gradients flow to X, not to the array.

    Examples
    --------
    >>> import dask.array as da
    >>> A = from_dask(da.ones((4, 6), chunks=(2, 3)))
    >>> A @ np.ones(6)
    array([6., 6., 6., 6.])
    """
    _import_dask()
    import dask.array as da

    if not isinstance(array, da.Array):
        raise TypeError(f"array must be a dask.array.Array, got {type(array).__name__}")
    if array.ndim != 2:
        raise ValueError(f"array must have 2 dimensions, got shape {array.shape}")
    if any(math.isnan(size) for sizes in array.chunks for size in sizes):
        raise ValueError("array has chunks of unknown size; call array.compute_chunk_sizes() first")
    if array.dtype.kind in "biu":
        array = array.astype(np.float64)
    dtypes = {np.dtype(n): t for t, n in _NUMPY.items()}
    if array.dtype not in dtypes:
        raise TypeError(f"array has dtype {array.dtype}; convert it to one of {', '.join(map(str, dtypes))}")
    return DaskMatrix(array, dtypes[array.dtype], client, hermitian, positive)
