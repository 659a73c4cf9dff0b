"""The two sides of Shampoo's preconditioner: statistics of one order, and their inverse roots.

A side is kept in the state of its parameter under the names "left" and "right" (+ "_root"): batches of (n, n), one for each block.
Of the statistics only the lower triangle is valid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
SIDES = ("left", "right")

# A triangle in strips costs 10/16 of the square, while products stay long enough for the hardware.
_STRIPS = 4
_SHORTEST = 64


def layout(shape: tuple[int, ...], block: int) -> tuple[int, int, int, int]:
    """How a tensor is cut into blocks of equal size: rows and columns of blocks, rows and columns of a block.

    Parameters
    ----------
    shape : of the parameter; kernels are matrices of (out, rest)
    block : largest side of a block

    Returns
    -------
    Four numbers; the blocks cover a little more than the matrix where they do not divide it.

    Examples
    --------
    >>> layout((768, 100), 512)
    (2, 1, 384, 100)
    """
    rows, columns = shape[0], math.prod(shape[1:])
    down, across = -(-rows // block), -(-columns // block)
    return down, across, -(-rows // down), -(-columns // across)


def to_blocks(x: Tensor, block: int, dtype: torch.dtype | None = None) -> Tensor:
    """The blocks of a tensor as a batch of matrices, with zeros where they reach over its edge.

    Parameters
    ----------
    x : with at least two axes
    block : largest side of a block
    dtype : of the result

    Returns
    -------
    (blocks, rows, columns), a view where that is possible.

    Examples
    --------
    >>> to_blocks(torch.arange(6.0).reshape(3, 2), 2).shape
    torch.Size([2, 2, 2])
    """
    down, across, rows, columns = layout(tuple(x.shape), block)
    matrix = x.reshape(x.shape[0], -1)
    if dtype is not None:
        matrix = matrix.to(dtype)
    more = (down * rows - matrix.shape[0], across * columns - matrix.shape[1])
    if any(more):
        matrix = torch.nn.functional.pad(matrix, (0, more[1], 0, more[0]))
    if across == 1:
        return matrix.reshape(down, rows, columns)
    return matrix.view(down, rows, across, columns).transpose(1, 2).reshape(-1, rows, columns)


def from_blocks(blocks: Tensor, shape: tuple[int, ...], block: int) -> Tensor:
    """The tensor of which these are the blocks.

    Parameters
    ----------
    blocks : (blocks, rows, columns)
    shape : of the tensor
    block : largest side of a block

    Returns
    -------
    A tensor of that shape.

    Examples
    --------
    >>> x = torch.arange(6.0).reshape(3, 2)
    >>> torch.equal(from_blocks(to_blocks(x, 2), (3, 2), 2), x)
    True
    """
    down, across, rows, columns = layout(shape, block)
    matrix = blocks.view(down, across, rows, columns).transpose(1, 2).reshape(down * rows, across * columns)
    return matrix[: shape[0], : math.prod(shape[1:])].reshape(shape)


def add_moment(S: Tensor, X: Tensor, beta: float) -> None:
    """S <- beta S + (1 - beta) X X^T, in the lower triangle.

    Parameters
    ----------
    S : (batch, n, n)
    X : (batch, n, k)
    beta : of the average

    Examples
    --------
    >>> S = torch.zeros(1, 2, 2)
    >>> add_moment(S, torch.ones(1, 2, 1), 0.5)
    >>> S[0, 1, 0]
    tensor(0.5000)
    """
    n = S.shape[-1]
    if S.device.type != "cpu" or n < _STRIPS * _SHORTEST:
        S.baddbmm_(X, X.mT, beta=beta, alpha=1 - beta)
        return
    ends = [n * (i + 1) // _STRIPS for i in range(_STRIPS)]
    for s, x in zip(S, X, strict=True):
        for start, end in zip([0, *ends], ends, strict=False):
            s[start:end, :end].addmm_(x[start:end], x[:end].T, beta=beta, alpha=1 - beta)


def ridged_root(S: Tensor, power: float, eps: float) -> Tensor:
    r""":math:`(S + \epsilon \lambda_{\max} I)^{-p}` of symmetric positive semidefinite matrices by eigenvalues.

    Parameters
    ----------
    S : (*batch, n, n), of which the lower triangle is read
    power : p
    eps : the ridge, relative to the largest eigenvalue

    Returns
    -------
    (*batch, n, n); the identity for S = 0.

    Examples
    --------
    >>> ridged_root(torch.diag(torch.tensor([4.0, 16.0])), 0.5, 0.0)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.2500]])
    """
    w, V = torch.linalg.eigh(S)
    return (V * ridged_power(w, power, eps)[..., None, :]) @ V.mT


def ridged_power(w: Tensor, power: float, eps: float) -> Tensor:
    """Powers of eigenvalues that rounding may have made negative, above a ridge; ones where all are zero.

    Parameters
    ----------
    w : (*batch, n) eigenvalues
    power : p of w^(-p)
    eps : the ridge, relative to the largest

    Returns
    -------
    (*batch, n).

    Examples
    --------
    >>> ridged_power(torch.tensor([4.0, 16.0]), 0.5, 0.0)
    tensor([0.5000, 0.2500])
    """
    w = w.clamp(min=0)
    top = w.amax(-1, keepdim=True)
    # Without a ridge, directions that no gradient has stay as they are rather than become infinite.
    w = torch.where(w > 0, w, top * torch.finfo(w.dtype).eps) + eps * top
    return torch.where(top > 0, torch.where(top > 0, w, torch.ones_like(w)) ** -power, torch.ones_like(w))


class FullSide:
    """A side in the precision of its parameter.

    Parameters
    ----------
    name : "left" or "right"

    Examples
    --------
    >>> state: State = {}
    >>> FullSide("left").add(state, torch.ones(1, 2, 1), 0.5)
    >>> state["left"].shape
    torch.Size([1, 2, 2])
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def add(self, state: State, X: Tensor, beta: float) -> None:
        """Average X X^T into the statistics.

        Parameters
        ----------
        state : of the parameter
        X : (batch, n, k) blocks
        beta : of the average
        """
        if self.name not in state:
            state[self.name] = X.new_zeros(*X.shape[:-1], X.shape[-2])
        add_moment(state[self.name], X, beta)

    def trace(self, state: State) -> Tensor:
        """The trace of the statistics.

        Parameters
        ----------
        state : of the parameter

        Returns
        -------
        (batch,).
        """
        return torch.einsum("bii->b", state[self.name])

    def spectrum(self, states: list[State]) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of the statistics of equal order, all together.

        Parameters
        ----------
        states : of parameters

        Returns
        -------
        (all blocks, n) and (all blocks, n, n).
        """
        w, V = torch.linalg.eigh(torch.cat([state[self.name] for state in states]))
        return w, V

    def keep_root(self, state: State, root: Tensor, dtype: torch.dtype) -> None:
        """Keep the root until the next one.

        Parameters
        ----------
        state : of the parameter
        root : (batch, n, n)
        dtype : of the products with it
        """
        state[f"{self.name}_root"] = root.to(dtype)

    def root(self, state: State, dtype: torch.dtype) -> Tensor:
        """The root that is kept.

        Parameters
        ----------
        state : of the parameter
        dtype : of the products with it

        Returns
        -------
        (batch, n, n).
        """
        return state[f"{self.name}_root"].to(dtype)
