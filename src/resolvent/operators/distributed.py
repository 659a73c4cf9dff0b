"""Matrices larger than memory, or on a cluster: an operator whose products run on Dask, block by block."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.operator import Operator


def _import_dask() -> tuple[Any, Any]:
    try:
        import dask
        import dask.array
    except ImportError as error:
        raise ImportError("from_dask needs Dask: install resolvent[dask]") from error
    return dask, dask.array


def _product(block: Any, X: np.ndarray, start: int, stop: int) -> np.ndarray:
    return np.asarray(block @ X[start:stop])


def _adjoint_product(block: Any, Y: np.ndarray, start: int, stop: int) -> np.ndarray:
    # (Y^H B)^H: the product with a transposed view, so that the block is neither conjugated nor copied.
    return np.asarray(Y[start:stop].conj().T @ block).conj().T


def _gram_product(block: Any, X: np.ndarray) -> np.ndarray:
    return np.asarray((block @ X).conj().T @ block).conj().T


def _total(parts: list[np.ndarray]) -> np.ndarray:
    out = np.array(parts[0])
    for part in parts[1:]:
        out += part
    return out


class DaskMatrix(Operator):
    """A two-dimensional Dask array as an operator; built by `from_dask`."""

    def __init__(self, array: Any, dtype: torch.dtype, client: Any, hermitian: bool, positive: bool) -> None:
        super().__init__(array.shape, dtype=dtype, kind="numpy", hermitian=hermitian, positive=positive)
        self._array = array
        self._client = client

    @property
    def cost(self) -> float:
        return float(math.prod(self.shape))

    @property
    def _chunks(self) -> tuple[list[int], list[int]]:
        rows, cols = (np.cumsum([0, *sizes]).tolist() for sizes in self._array.chunks)
        return rows, cols

    def _compute(self, tasks: list[Any], X: Any) -> list[np.ndarray]:
        """Run the tasks where the array lives; `tasks` take the placeholder `X` as scattered by `_send`."""
        dask, _ = _import_dask()
        client = self._find_client()
        if client is None:
            # The array's own configuration may name another scheduler; threads are the default of delayed tasks.
            return list(dask.compute(*tasks))
        return list(client.gather(client.compute(tasks)))

    def _find_client(self) -> Any:
        if self._client is not None:
            return self._client
        if "distributed" not in sys.modules:
            return None
        from distributed import default_client

        try:
            return default_client()
        except ValueError:
            return None

    def _send(self, X: np.ndarray) -> Any:
        """X once to every worker, or as it is to threads."""
        client = self._find_client()
        if client is not None:
            return client.scatter(X, broadcast=True)
        dask, _ = _import_dask()
        return dask.delayed(X, name=False, pure=False, traverse=False) if False else X
