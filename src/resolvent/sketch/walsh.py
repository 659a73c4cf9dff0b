"""The fast Walsh-Hadamard transform of tensors and arrays."""

from __future__ import annotations

import math
from typing import Any

from resolvent.operators.arrays import as_tensor, give_back_array
from resolvent.operators.walsh import walsh


def wht(x: Any, dim: int = -1, normalized: bool = False) -> Any:
    r"""The Walsh-Hadamard transform along an axis: :math:`y_i = \sum_j (-1)^{\mathrm{popcount}(i \wedge j)} x_j`.

    Parameters
    ----------
    x : (..., n, ...) tensor or array, n a power of two along `dim`
    dim : the axis; default the last one
    normalized : bool, default False
        Divide by sqrt(n): the transform is then orthogonal and its own inverse. Without it a second transform gives
        ``n x``.

    Returns
    -------
    The kind, shape and dtype of `x`, in Sylvester's order (that of `scipy.linalg.hadamard`).

    Raises
    ------
    ValueError : the length along `dim` is not a power of two
    IndexError : `x` has no axis `dim`

    Notes
    -----
    n log2 n additions. On a CPU butterflies run in blocks that fit the caches, three levels between a load and a store:
    two or three passes over memory for any n, along whichever axis, transposed blocks where they are. On a GPU GEMMs of
    radix 32. A rounding error of about ``log2(n)`` units. The transform is its own adjoint, so the gradient is one more
    transform, to every order.

    References
    ----------
    "Hadamard matrices and their applications"

    Examples
    --------
    >>> import torch
    >>> wht(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    tensor([2., 0., 0., 2.])
    >>> wht(wht(torch.tensor([[1.0, 2.0]]), normalized=True), normalized=True).round(decimals=4)
    tensor([[1., 2.]])
    """
    t, kind = as_tensor(x, "x")
    if not -t.ndim <= dim < t.ndim:
        raise IndexError(f"dim must be an axis of x, which has shape {tuple(t.shape)}, got {dim}")
    n = t.shape[dim]
    if n < 1 or n & (n - 1):
        below = "" if n < 1 else f"; pad it with zeros to {1 << n.bit_length()}"
        raise ValueError(f"x must have a power of two along axis {dim}, got {n}{below}")
    return give_back_array(walsh(t, dim, 1 / math.sqrt(n) if normalized else 1.0), kind)


__all__ = ["wht"]
