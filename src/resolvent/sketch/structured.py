"""Test matrices with fast products: rows of randomized Walsh-Hadamard and circulant transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.algebra import Product
from resolvent.operators.elementary import Diagonal
from resolvent.operators.memory import fresh
from resolvent.operators.operator import Operator
from resolvent.operators.parts import Adjoint
from resolvent.operators.toeplitz import Circulant
from resolvent.operators.walsh import walsh, walsh_in_place
from resolvent.random import GeneratorLike
from resolvent.random import rademacher as sign_entries
from resolvent.sketch.transforms import checked


class RowSample(Operator):
    r"""Rows of the identity times a number: :math:`(R x)_i = c\, x_{r_i}`.

    Parameters
    ----------
    rows : (m,) int64 tensor of numbers below n
    n : number of columns
    scale : c
    dtype : of the products

    Examples
    --------
    >>> RowSample(torch.tensor([2, 0]), 3, scale=2.0) @ torch.tensor([1.0, 10.0, 100.0])
    tensor([200.,   2.])
    """

    def __init__(self, rows: Tensor, n: int, *, scale: float = 1.0, dtype: torch.dtype | None = None) -> None:
        self.scale = float(scale)
        dtype = dtype or torch.get_default_dtype()
        super().__init__((len(rows), n), dtype=dtype, device=rows.device, parts=(rows, self.scale))

    @property
    def cost(self) -> float:
        return float(self.shape[0])

    def tensors(self) -> list[Tensor]:
        """No tensor that a gradient could flow to."""
        return []

    def _matmul(self, X: Tensor) -> Tensor:
        return X.index_select(-2, self._parts[0]) * self.scale

    def _rmatmul(self, X: Tensor) -> Tensor:
        out = X.new_zeros(*X.shape[:-2], self.shape[1], X.shape[-1])
        return out.index_add(-2, self._parts[0], X * self.scale)

    def _adjoint(self) -> Operator:
        return Adjoint(self)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        rows, (dtype, device) = self._parts[0], _target(fn, self)
        return RowSample(rows.to(device), self.shape[1], scale=self.scale, dtype=dtype)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return (self._parts[0][rows, None] == cols).to(self.dtype) * self.scale

    def _dense(self) -> Tensor:
        m, n = self.shape
        return self._entries(torch.arange(m, device=self.device), torch.arange(n, device=self.device))


class MixedSigns(Operator):
    r"""Random signs, then a normalized Walsh-Hadamard transform: :math:`x \mapsto H_N D x`, x padded by zeros.

    Its columns are orthonormal: all lengths stay, and a vector with few large entries is spread over all of them.

    Parameters
    ----------
    signs : (n,) entries of modulus one
        N is the smallest power of two that is at least n.

    Examples
    --------
    >>> M = MixedSigns(torch.tensor([1.0, -1.0, 1.0]))
    >>> M @ torch.tensor([2.0, 0.0, 0.0])
    tensor([1., 1., 1., 1.])
    """

    def __init__(self, signs: Tensor) -> None:
        n = len(signs)
        self.signs = signs
        super().__init__((padded_size(n), n), dtype=signs.dtype, device=signs.device, parts=(signs,))

    @property
    def cost(self) -> float:
        N, n = self.shape
        return float(n + N * (N.bit_length() - 1))

    def tensors(self) -> list[Tensor]:
        """No tensor that a gradient flows to: signs are no parameters."""
        return []

    def _matmul(self, X: Tensor) -> Tensor:
        mixed: Tensor = _Mixed.apply(X, self._parts[0], self.shape[0])
        return mixed

    def _rmatmul(self, X: Tensor) -> Tensor:
        return _unmixed(X, self._parts[0])

    def _gram(self, X: Tensor) -> Tensor:
        return X.clone()

    def _adjoint(self) -> Operator:
        return Adjoint(self)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return MixedSigns(fn(self._parts[0]))

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        bits = rows[:, None] & cols[None, :]
        for shift in (32, 16, 8, 4, 2, 1):
            bits = bits ^ (bits >> shift)
        return (1 - 2 * (bits & 1)).to(self.dtype) * self._parts[0][cols] * (1 / math.sqrt(self.shape[0]))

    def _dense(self) -> Tensor:
        N, n = self.shape
        return self._entries(torch.arange(N, device=self.device), torch.arange(n, device=self.device))


class _Mixed(torch.autograd.Function):
    """H D X with one new block of memory: the signs are put into it, and the transform runs in place."""

    @staticmethod
    def forward(X: Tensor, signs: Tensor, N: int) -> Tensor:
        X, signs = X.detach(), signs.detach()
        n, k = X.shape[-2:]
        # Points that are the rows of an array come as the columns of its transpose, and stay where they are.
        if X.stride(-2) == 1 and X.stride(-1) != 1:
            Y = _room(X, (*X.shape[:-2], k, N)).mT
        else:
            Y = _room(X, (*X.shape[:-2], N, k))
        torch.mul(X, signs[:, None], out=Y[..., :n, :])
        Y[..., n:, :].zero_()
        return walsh_in_place(Y, -2, 1 / math.sqrt(N))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, signs, ctx.N = inputs
        ctx.save_for_backward(signs)
        ctx.save_for_forward(signs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (signs,) = ctx.saved_tensors
        return _unmixed(grad, signs), None, None

    @staticmethod
    def jvp(ctx: Any, dX: Tensor, *_: None) -> Tensor:
        (signs,) = ctx.saved_tensors
        changed: Tensor = _Mixed.apply(dX, signs, ctx.N)
        return changed

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], X: Tensor, signs: Tensor, N: int) -> Any:
        return _Mixed.apply(X.movedim(dims[0], 0), signs, N), 0


def _room(X: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory for a result of the dtype of X."""
    if X.device.type != "cpu":
        return X.new_empty(shape)
    return torch.from_numpy(fresh(shape, X.new_empty(0).numpy().dtype))


def _unmixed(Y: Tensor, signs: Tensor) -> Tensor:
    """The adjoint: the transform, the first rows, the signs."""
    return signs.conj()[:, None] * walsh(Y, -2, 1 / math.sqrt(Y.shape[-2]))[..., : len(signs), :]


def srht(
    m: int,
    n: int,
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""The subsampled randomized Hadamard transform :math:`S = \sqrt{N/m}\, P H D`.

    D holds n random signs, H is the normalized Walsh-Hadamard matrix of the next power of two N >= n (x is padded by
    zeros), P takes m different rows drawn uniformly.

    Parameters
    ----------
    m : number of rows, at most N
    n : number of columns
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    Operator
        (m, n); stores n signs and m row numbers.

    Raises
    ------
    ValueError : m is larger than N

    Notes
    -----
    O(N log N) additions a column, about three passes over memory. Rows drawn without replacement: with m = N = n the
    sketch is orthogonal. A subspace of dimension d is kept for m of the order
    :math:`\varepsilon^{-2} (\sqrt d + \sqrt{\ln n})^2 \ln d`; in practice a small multiple of d is enough.

    References
    ----------
    "Improved analysis of the subsampled randomized Hadamard transform"

    Examples
    --------
    >>> import torch
    >>> S = srht(8, 8, generator=0)
    >>> torch.allclose(S.to_dense() @ S.to_dense().T, torch.eye(8), atol=1e-6)
    True
    """
    m, n, dtype, g = checked(m, n, dtype, generator)
    N = padded_size(n)
    if m > N:
        raise ValueError(f"m must be at most {N}, the power of two that n = {n} is padded to, got {m}")
    mixed = MixedSigns(sign_entries((n,), dtype, device, g))
    return Product(_different_rows(m, N, math.sqrt(N / m), dtype, device, g), mixed)


def srct(
    m: int,
    n: int,
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""The subsampled randomized circulant transform :math:`S = m^{-1/2} P C D`.

    D holds n random signs, C is the circulant matrix of n random signs, P takes m different rows drawn uniformly.

    Parameters
    ----------
    m : number of rows, at most n
    n : number of columns, any number
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    Operator
        (m, n); stores 2 n signs and m row numbers. Every column has length 1.

    Raises
    ------
    ValueError : m is larger than n

    Notes
    -----
    Two FFTs of length n a column, no padding. The rows of C are not orthogonal: for m close to n `srht` distorts less.

    References
    ----------
    "A Nearly-Optimal Bound for Fast Regression with ell_infty Guarantee"

    Examples
    --------
    >>> srct(20, 100, generator=0).shape
    torch.Size([20, 100])
    """
    m, n, dtype, g = checked(m, n, dtype, generator)
    if m > n:
        raise ValueError(f"m must be at most n = {n}, got {m}")
    signs, column = sign_entries((2, n), dtype, device, g)
    return Product(_different_rows(m, n, m**-0.5, dtype, device, g), Circulant(column), Diagonal(signs))


def _different_rows(
    m: int, n: int, scale: float, dtype: torch.dtype, device: torch.device | str, g: torch.Generator
) -> RowSample:
    """m of n rows, drawn uniformly without replacement."""
    rows = torch.randperm(n, generator=g, device=g.device)[:m].sort().values
    return RowSample(rows.to(device), n, scale=scale, dtype=dtype)


def padded_size(n: int) -> int:
    """The smallest power of two that is at least n.

    Examples
    --------
    >>> padded_size(1), padded_size(5), padded_size(8)
    (1, 8, 8)
    """
    return 1 << (n - 1).bit_length()


def _target(fn: Callable[[Tensor], Tensor], A: Operator) -> tuple[torch.dtype, torch.device]:
    probe = fn(torch.empty(0, dtype=A.dtype, device=A.device))
    return probe.dtype, probe.device


__all__ = ["MixedSigns", "RowSample", "srht", "srct"]
