"""The tensors of a step as one table of addresses, so that one kernel passes over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Numbers per piece of work: 64 KiB a stream in float32, so that the pieces of one tensor share the cores evenly.
CHUNK = 16_384


def table(*columns: Sequence[Tensor]) -> NDArray[np.int64]:
    """Addresses of tensors, a row for each parameter.

    Parameters
    ----------
    *columns : parameters, gradients and every state, equally many of each

    Returns
    -------
    (parameters, columns) addresses.

    Raises
    ------
    RuntimeError : a state has another number of entries than its parameter.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(3)
    >>> table([x], [x]).shape
    (1, 2)
    """
    sizes = [t.numel() for t in columns[0]]
    if any([t.numel() for t in column] != sizes for column in columns[1:]):
        # A kernel would read past the end of what is shorter.
        raise RuntimeError(
            "a parameter has changed its shape since its state was made: give the optimizer the new parameter"
        )
    addresses = [[t.data_ptr() for t in column] for column in columns]
    return np.array(addresses, dtype=np.int64).T.copy()


def chunks(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Pieces of work over tensors.

    Parameters
    ----------
    tensors : the parameters

    Returns
    -------
    (pieces, 3): the tensor's number, the first entry and the end of the piece.

    Examples
    --------
    >>> import torch
    >>> chunks([torch.zeros(3), torch.zeros(2)]).tolist()
    [[0, 0, 3], [1, 0, 2]]
    """
    return _chunks(tuple(t.numel() for t in tensors))


@lru_cache(maxsize=64)
def _chunks(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    pieces = [(i, a, min(a + CHUNK, size)) for i, size in enumerate(sizes) for a in range(0, size, CHUNK)]
    return np.array(pieces, dtype=np.int64).reshape(-1, 3)


def scalars(like: Tensor, *values: float) -> tuple[Any, ...]:
    """Numbers in the precision of a tensor, before which a kernel does no arithmetic in double.

    Parameters
    ----------
    like : a float32 or float64 tensor
    *values : the numbers

    Returns
    -------
    An empty array of that precision, which tells a kernel the type behind the addresses, and the numbers.

    Examples
    --------
    >>> import torch
    >>> scalars(torch.zeros(1), 0.5)[1].dtype
    dtype('float32')
    """
    kind = np.float32 if like.element_size() == 4 else np.float64
    return np.empty(0, kind), *(kind(value) for value in values)


def norms(sums: NDArray[np.float64], pieces: NDArray[np.int64], tensors: int) -> NDArray[np.float64]:
    """Norms of tensors from the squared sizes of their pieces.

    Parameters
    ----------
    sums : (pieces, kinds) squared sizes
    pieces : what `chunks` gave
    tensors : how many there are

    Returns
    -------
    (tensors, kinds); a NaN stays one.

    Examples
    --------
    >>> import torch
    >>> norms(np.array([[4.0], [9.0]]), chunks([torch.zeros(3), torch.zeros(2)]), 2)
    array([[2.],
           [3.]])
    """
    found = np.zeros((tensors, sums.shape[1]))
    np.add.at(found, pieces[:, 0], sums)
    return np.sqrt(found)
