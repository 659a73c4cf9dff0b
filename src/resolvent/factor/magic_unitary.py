"""Magic unitaries: arrays of projections whose rows and columns sum to the identity, from finite groups.

>>> from resolvent import factor
>>> u = factor.magic_unitary((2, 2), cocycle="weyl", generator=0)
>>> u.shape, factor.is_magic(u)
(torch.Size([4, 4, 4, 4]), True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import (
    Kind,
    as_tensor,
    check_finite,
    complex_dtype,
    give_back,
    give_back_array,
    real_dtype,
)
from resolvent.random import GeneratorLike, gaussian


def magic_unitary(
    group: Any,
    cocycle: Any = None,
    x: Any = None,
    *,
    vectors: bool = False,
    count: int | None = None,
    dtype: torch.dtype = torch.complex128,
    generator: GeneratorLike = None,
) -> Any:
    r"""A flat model of the quantum permutation group :math:`S_N^+` from a finite group of order N.

    In the twisted group algebra, with a basis :math:`c_g c_h = \sigma(g, h) c_{gh}` that is orthonormal for the trace,
    :math:`u_{gh}` is the projection on the vector :math:`c_g x c_h^*`, x unitary. Every row and every column of
    vectors is an orthonormal basis, so that the projections sum to the identity along both.

    Parameters
    ----------
    group : the orders (n_1, n_2, ...) of cyclic groups, for their product; or the (N, N) table of a group, whose entry
        (g, h) is the position of gh, with the neutral element at 0
    cocycle : None for the plain group algebra; "weyl" for a group (n, n), with :math:`\sigma = \omega^{ib}`, which makes
        the algebra that of all n x n matrices (n = 2: Pauli matrices); or the (N, N) table of a cocycle of modulus one
        that is 1 where g or h is neutral
    x : (*batch, N) coefficients of unitary elements in the basis c_g, or for "weyl" (*batch, n, n) unitary matrices with
        :math:`c_{ia} e_b = \omega^{ib} e_{a+b}`; default: drawn from the Haar measure of the unitary group
    vectors : return the vectors instead of the projections
    count : how many x to draw; None means one, without a leading dimension
    dtype : complex128 or complex64, where x is not given
    generator : for the draws

    Returns
    -------
    (*batch, N, N, N, N) projections, or (*batch, N, N, N) unit vectors; a tensor, or NumPy if `x` is.

    Raises
    ------
    ValueError : the table is no group or no cocycle, or x is not unitary.

    Notes
    -----
    N^3 operations a model for the vectors. Checking the tables costs N^3. Gradients flow to x.

    References
    ----------
    "Flat matrix models for quantum permutation groups"

    Examples
    --------
    >>> u = magic_unitary((3,), generator=0)
    >>> bool((u.sum(0) - torch.eye(3)).abs().max() < 1e-14)
    True
    """
    algebra = _algebra(group, cocycle)
    N = len(algebra.table)
    if x is None:
        shape = (N,) if count is None else (count, N)
        kind: Kind = "torch"
        coefficients = _haar(algebra, shape, dtype, generator)
    else:
        if count is not None:
            raise ValueError(f"count goes with drawn x only, got count = {count} and an x")
        given, kind = as_tensor(x, "x")
        coefficients = _coefficients(given, algebra, cocycle)
    V = _vectors(algebra, coefficients)
    return give_back_array(V if vectors else flat_projections(V), kind)


def is_magic(u: Any, *, rtol: float | None = None) -> bool:
    """Whether all matrices of an array are projections that sum to the identity along every row and every column.

    Parameters
    ----------
    u : (*batch, N, N, n, n)
    rtol : bound on `magic_defect`; default 1e-10 in double precision, 1e-4 in single

    Returns
    -------
    bool, for the whole batch

    Examples
    --------
    >>> is_magic(torch.eye(3)[:, :, None, None] * torch.eye(2))
    True
    """
    t = as_tensor(u, "u")[0]
    bound = (1e-10 if torch.finfo(t.dtype).eps < 1e-10 else 1e-4) if rtol is None else rtol
    return bool((torch.as_tensor(magic_defect(t)) <= bound).all())


def magic_defect(u: Any) -> Any:
    r"""How far an array is from magic: the largest entry of :math:`u_{ij} - u_{ij}^*`, :math:`u_{ij} - u_{ij}^2` and the
    sums of rows and columns minus the identity.

    Parameters
    ----------
    u : (*batch, N, N, n, n)

    Returns
    -------
    (*batch,) real; a float for one array of NumPy

    Examples
    --------
    >>> magic_defect(torch.full((2, 2, 1, 1), 0.5))
    tensor(0.2500)
    """
    t, kind = as_tensor(u, "u")
    if t.ndim < 4 or t.shape[-4] != t.shape[-3] or t.shape[-2] != t.shape[-1]:
        raise ValueError(f"u must have shape (..., N, N, n, n), got {tuple(t.shape)}")
    check_finite(t, "u")
    eye = torch.eye(t.shape[-1], dtype=t.dtype, device=t.device)
    sums = [(t.sum(axis) - eye).abs().amax((-3, -2, -1)) for axis in (-4, -3)]
    alone = [d.abs().amax((-4, -3, -2, -1)) for d in (t - t.mH, t - t @ t)]
    return give_back(torch.stack([*sums, *alone]).amax(0), kind)


def flat_projections(V: Tensor) -> Tensor:
    """The projections on unit vectors, (..., n) to (..., n, n)."""
    return V.unsqueeze(-1) * V.unsqueeze(-2).conj()


@dataclass(frozen=True)
class _Algebra:
    """A twisted group algebra: positions of products and inverses, and the cocycle."""

    table: np.ndarray
    inverse: np.ndarray
    sigma: np.ndarray


def _algebra(group: Any, cocycle: Any) -> _Algebra:
    table = _group_table(group)
    N = len(table)
    inverse = np.argmax(table == 0, axis=1)
    if cocycle is None:
        sigma = np.ones((N, N), np.complex128)
    elif isinstance(cocycle, str):
        if cocycle != "weyl":
            raise ValueError(f"cocycle must be None, 'weyl' or a table, got {cocycle!r}")
        sigma = _weyl(group)
    else:
        sigma = np.asarray(cocycle, np.complex128)
        _check_cocycle(sigma, table)
    return _Algebra(table, inverse, sigma)


def _group_table(group: Any) -> np.ndarray:
    table = np.asarray(group)
    if table.dtype.kind not in "iu":
        raise TypeError(f"group must hold integers: orders of cyclic groups or a table, got {group!r}")
    if table.ndim == 1 and len(table):
        if (table < 1).any():
            raise ValueError(f"the orders of cyclic groups must be positive, got {tuple(table.tolist())}")
        parts = np.array(np.unravel_index(np.arange(int(table.prod())), tuple(table)))
        sums = (parts[:, :, None] + parts[:, None, :]) % table[:, None, None]
        return np.ravel_multi_index(tuple(sums), tuple(table))
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table):
        raise ValueError(f"group must be orders (n_1, ...) or an (N, N) table, got shape {table.shape}")
    N = len(table)
    order = np.arange(N)
    latin = (np.sort(table, 0) == order[:, None]).all() and (np.sort(table, 1) == order).all()
    if not latin or (table[0] != order).any() or (table[:, 0] != order).any():
        raise ValueError(
            "group is no table of a group: each row and column must hold 0 to N - 1 once, those of 0 in order"
        )
    if (table[table] != table[:, table]).any():
        raise ValueError("group is no table of a group: the product is not associative")
    return table


def _weyl(group: Any) -> np.ndarray:
    """sigma((i, a), (j, b)) = omega^(i b), for W_ia e_b = omega^(i b) e_(a + b)."""
    orders = np.asarray(group)
    if orders.shape != (2,) or orders[0] != orders[1]:
        raise ValueError(f"the cocycle 'weyl' belongs to a group (n, n), got {group!r}")
    n = int(orders[0])
    i, a = np.divmod(np.arange(n * n), n)
    return np.exp(2j * np.pi * (np.outer(i, a) % n) / n)


def _check_cocycle(sigma: np.ndarray, table: np.ndarray) -> None:
    if sigma.shape != table.shape:
        raise ValueError(f"cocycle must have shape {table.shape}, got {sigma.shape}")
    one = max(np.abs(np.abs(sigma) - 1).max(), np.abs(sigma[0] - 1).max(), np.abs(sigma[:, 0] - 1).max())
    if not one < 1e-9:
        raise ValueError(f"cocycle must have modulus 1, and be 1 where an element is neutral; it is off by {one:.3g}")
    g = np.arange(len(table))
    left = sigma[:, :, None] * sigma[table[:, :, None], g]
    right = sigma[None] * sigma[g[:, None, None], table[None]]
    gap = np.abs(left - right).max()
    if not gap < 1e-9:
        raise ValueError(f"cocycle must satisfy s(g,h) s(gh,k) = s(h,k) s(g,hk); it is off by {gap:.3g}")


def _left_products(algebra: _Algebra, x: Tensor) -> Tensor:
    """The (..., N, N) matrices of left multiplication by x."""
    table = torch.from_numpy(np.array(algebra.table)).to(x.device)
    sigma = torch.from_numpy(algebra.sigma).to(x)
    # Row g h^-1 k: the coefficient of c_g in x c_h is x_k sigma(k, h) with k = g h^-1.
    k = table[:, torch.from_numpy(algebra.inverse).to(x.device)]
    h = torch.arange(len(table), device=x.device)
    return x[..., k] * sigma[k, h]


def _haar(algebra: _Algebra, shape: tuple[int, ...], dtype: torch.dtype, generator: GeneratorLike) -> Tensor:
    """Coefficients of unitary elements from the Haar measure."""
    if not dtype.is_complex:
        raise TypeError(f"dtype must be complex64 or complex128, got {dtype}")
    # The polar factor of a left multiplication is a function of it, hence a left multiplication, by its first column.
    L = _left_products(algebra, gaussian(shape, dtype, generator=generator))
    U, _, Vh = torch.linalg.svd(L)
    return (U @ Vh)[..., 0]


def _coefficients(x: Tensor, algebra: _Algebra, cocycle: Any) -> Tensor:
    N = len(algebra.table)
    check_finite(x, "x")
    n = round(N**0.5)
    matrices = isinstance(cocycle, str) and x.ndim >= 2 and tuple(x.shape[-2:]) == (n, n)
    if not matrices and (x.ndim < 1 or x.shape[-1] != N):
        raise ValueError(f"x must have shape (..., {N}), or (..., n, n) for 'weyl', got {tuple(x.shape)}")
    if not x.is_complex():
        x = x.to(complex_dtype(x.dtype))
    if matrices:
        i, a = torch.arange(N, device=x.device) // n, torch.arange(N, device=x.device) % n
        b = torch.arange(n, device=x.device)
        phases = torch.exp(-2j * torch.pi * ((i[:, None] * b) % n).double() / n).to(x.dtype)
        # tr(W_ia^* x) / n; the row of e_b in W_ia is a + b.
        x = (x[..., (a[:, None] + b) % n, b] * phases).sum(-1) / n
    L = _left_products(algebra, x.detach())
    gap = float((L @ L.mH - torch.eye(N, dtype=L.dtype, device=L.device)).abs().max())
    if gap > 1e4 * torch.finfo(real_dtype(x.dtype)).eps:
        raise ValueError(f"x must be unitary in the algebra, x x^* differs from 1 by {gap:.3g}")
    return x


def _vectors(algebra: _Algebra, x: Tensor) -> Tensor:
    """c_g x c_h^* in the basis c, for all g and h."""
    table, inverse, sigma = algebra.table, algebra.inverse, algebra.sigma
    N = len(table)
    g, h, target = np.arange(N)[:, None, None], np.arange(N)[None, :, None], np.arange(N)[None, None, :]
    # g k h^-1 = target
    k = table[inverse[g], table[target, h]]
    back = inverse[h]
    factor = sigma[g, k] * sigma[table[g, k], back] * sigma[h, back].conj()
    return x[..., torch.from_numpy(k).to(x.device)] * torch.from_numpy(factor).to(x)
