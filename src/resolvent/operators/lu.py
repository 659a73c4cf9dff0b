"""LU factorisations of batches, and what rests on them, right on any number of threads.

On a CPU, torch gives the matrices of a batch to several threads, each of which calls MKL. Once
`torch.set_num_threads` has been called, MKL takes those calls for its own to spread over threads, its row swaps collide,
and from 150 columns on the factors are wrong: silently in `lu_factor` and `slogdet`, at times with an error in `solve`
(pytorch/pytorch issues 141358 and 142815, open at torch 2.13). Where that can happen these functions go through the
batch matrix by matrix; each is then factorised by all threads. Everywhere else they are torch's own.

The library calls these and never `torch.linalg.solve` and its like; the derivatives are those of single matrices and
therefore safe as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SAFE = 128  # columns; MKL factorises on one thread below 150, whatever the number of threads


def collides(A: Tensor) -> bool:
    """True if LU factors of this batch may come from threads that get into each other's way."""
    return (
        A.dim() > 2
        and A.device.type == "cpu"
        and min(A.shape[-2:]) > _SAFE
        and math.prod(A.shape[:-2]) > 1
        and torch.get_num_threads() > 1
    )


def _each(of: Callable[..., Any], batch: tuple[int, ...], *args: Tensor) -> Any:
    flat = [x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in args]
    parts = [of(*each) for each in zip(*flat, strict=True)]
    return tuple(torch.stack(part).unflatten(0, batch) for part in zip(*parts, strict=True))


def lu_factor_ex(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.linalg.lu_factor_ex`: factors, pivots and status of each matrix.

    Examples
    --------
    >>> LU, pivots, info = lu_factor_ex(torch.eye(2).expand(3, 2, 2))
    >>> LU.shape, pivots.tolist(), info.tolist()
    (torch.Size([3, 2, 2]), [[1, 2], [1, 2], [1, 2]], [0, 0, 0])
    """
    if not collides(A):
        return torch.linalg.lu_factor_ex(A)
    return _each(lambda a: torch.linalg.lu_factor_ex(a), A.shape[:-2], A)


def lu_factor(A: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.lu_factor`: factors and pivots; a `torch.linalg.LinAlgError` for a singular matrix.

    Examples
    --------
    >>> LU, pivots = lu_factor(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    >>> pivots.tolist()
    [2, 2]
    """
    if not collides(A):
        return torch.linalg.lu_factor(A)
    return _each(lambda a: torch.linalg.lu_factor(a), A.shape[:-2], A)


def solve_ex(A: Tensor, B: Tensor, left: bool = True) -> tuple[Tensor, Tensor]:
    """`torch.linalg.solve_ex` for a matrix B: X with A X = B (X A = B for `left=False`) and the status of each A.

    Examples
    --------
    >>> X, info = solve_ex(2 * torch.eye(2), torch.ones(2, 1))
    >>> X.tolist(), int(info)
    ([[0.5], [0.5]], 0)
    """
    if not collides(A):
        return torch.linalg.solve_ex(A, B, left=left)
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    return _each(lambda a, b: torch.linalg.solve_ex(a, b, left=left), batch, A, B)


def solve(A: Tensor, B: Tensor, left: bool = True) -> Tensor:
    """`torch.linalg.solve`; for a batch of A larger than 128 x 128 on a CPU, B has to be a batch of matrices.

    Examples
    --------
    >>> solve(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.ones(2, 1)).mT
    tensor([[0.5000, 0.2500]])
    """
    if not collides(A):
        return torch.linalg.solve(A, B, left=left)
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    return _each(lambda a, b: (torch.linalg.solve(a, b, left=left),), batch, A, B)[0]


def inv_ex(A: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.inv_ex`: inverses and the status of each matrix.

    Examples
    --------
    >>> inverse, info = inv_ex(4 * torch.eye(1))
    >>> float(inverse), int(info)
    (0.25, 0)
    """
    if not collides(A):
        return torch.linalg.inv_ex(A)
    return _each(lambda a: torch.linalg.inv_ex(a), A.shape[:-2], A)


def inv(A: Tensor) -> Tensor:
    """`torch.linalg.inv`.

    Examples
    --------
    >>> inv(torch.tensor([[2.0]]))
    tensor([[0.5000]])
    """
    if not collides(A):
        return torch.linalg.inv(A)
    return _each(lambda a: (torch.linalg.inv(a),), A.shape[:-2], A)[0]


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.slogdet`: sign and logarithm of the modulus of the determinant.

    Examples
    --------
    >>> sign, value = slogdet(-torch.eye(3))
    >>> float(sign), float(value)
    (-1.0, 0.0)
    """
    if not collides(A):
        return torch.linalg.slogdet(A)
    return _each(lambda a: torch.linalg.slogdet(a), A.shape[:-2], A)


def det(A: Tensor) -> Tensor:
    """`torch.linalg.det`.

    Examples
    --------
    >>> det(torch.diag(torch.tensor([2.0, 3.0])))
    tensor(6.)
    """
    if not collides(A):
        return torch.linalg.det(A)
    return _each(lambda a: (torch.linalg.det(a),), A.shape[:-2], A)[0]


def lu(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.linalg.lu`: P, L and U with A = P L U.

    Examples
    --------
    >>> P, L, U = lu(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    >>> P @ L @ U
    tensor([[0., 2.],
            [1., 0.]])
    """
    if not collides(A):
        return torch.linalg.lu(A)
    return _each(lambda a: torch.linalg.lu(a), A.shape[:-2], A)
