"""Toeplitz, circulant and Hankel operators: constant along diagonals, products by FFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.operator import Operator
from resolvent.operators.parts import Memo, batch_of, common_tensors, concatenate, owned


class Toeplitz(Operator):
    r"""Constant along each diagonal: :math:`T_{ij} = c_{i-j}` for i >= j and :math:`r_{j-i}` above.

    The arguments are those of `scipy.linalg.toeplitz`.

    Parameters
    ----------
    c : (*batch, m), the first column
    r : (*batch, n) or None, the first row
        ``r[0]`` is not used, the corner is ``c[0]``. None means ``conj(c)``: a Hermitian matrix if ``c[0]`` is real.

    Raises
    ------
    ValueError : an argument without an axis, an empty one, NaN or infinite entries
    TypeError : torch tensors of mixed precision

    Notes
    -----
    A product is a window of a linear convolution, by FFTs of a smooth length L >= m + n - 1: O(L log L) a column and
    memory for L numbers a column. Real data stays real (`rfft`). The symbol's transform is kept until the data changes.
    The error is of the size of rounding times ``norm(c, r) norm(x)``, not relative to each entry of the result.

    Examples
    --------
    >>> import torch
    >>> T = Toeplitz(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 5.0]))
    >>> T.to_dense()
    tensor([[1., 5.],
            [2., 1.],
            [3., 2.]])
    >>> torch.round(T @ torch.tensor([1.0, 1.0]), decimals=3)
    tensor([6., 3., 5.])
    """

    def __init__(self, c: Any, r: Any = None) -> None:
        given = {"c": c} if r is None else {"c": c, "r": r}
        tensors, kind = common_tensors(**given)
        tensors = owned(tensors, kind)
        column = _vector(tensors[0], "c")
        row = column.conj().resolve_conj() if r is None else _vector(tensors[1], "r")
        real_corner = not column.is_complex() or not bool(column.detach()[..., 0].imag.any())
        self._memo = Memo()
        self._length = _smooth(column.shape[-1] + row.shape[-1] - 1)
        super().__init__(
            (*batch_of("Toeplitz", column.shape[:-1], row.shape[:-1]), column.shape[-1], row.shape[-1]),
            dtype=column.dtype,
            device=column.device,
            kind=kind,
            hermitian=r is None and real_corner,
            parts=(column, row),
        )

    @property
    def cost(self) -> float:
        return 10.0 * self._length * max(self._length.bit_length(), 1)

    def _sequence(self) -> Tensor:
        """The diagonals from the top right to the bottom left."""
        c, r = (t[..., None] for t in self._parts)
        return concatenate([r[..., 1:, :].flip(-2), c], -2)[..., 0]

    def _matmul(self, X: Tensor) -> Tensor:
        m, n = self.shape[-2:]
        spectrum = self._memo.get(self._parts, lambda: _transform(self._sequence()[..., None], self._length))
        return _convolve(spectrum, X, self._length)[..., n - 1 : n - 1 + m, :]

    def _adjoint(self) -> Operator:
        c, r = self._parts
        corner = c[..., :1].expand(*r.shape[:-1], 1) if c.ndim <= r.ndim else c[..., :1]
        column = concatenate([corner[..., None], r[..., 1:, None]], -2)[..., 0]
        return Toeplitz(column.conj().resolve_conj(), c.conj().resolve_conj())

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Toeplitz(*(fn(t) for t in self._parts))

    def _dense(self) -> Tensor:
        m, n = self.shape[-2:]
        return self._entries(torch.arange(m, device=self.device), torch.arange(n, device=self.device))

    def _diagonal(self) -> Tensor:
        return self._parts[0][..., :1].expand(*self.batch_shape, min(self.shape[-2:]))

    def _trace(self) -> Tensor:
        return (self._parts[0][..., 0] * min(self.shape[-2:])).expand(self.batch_shape)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        found = self._sequence()[..., rows[:, None] - cols[None, :] + self.shape[-1] - 1]
        return found.expand(*self.batch_shape, -1, -1)


class Circulant(Operator):
    r"""Each column the one before, shifted down and around: :math:`C_{ij} = c_{(i-j) \bmod n}`.

    The argument is that of `scipy.linalg.circulant`.

    Parameters
    ----------
    c : (*batch, n), the first column

    Raises
    ------
    ValueError : an argument without an axis, an empty one, NaN or infinite entries

    Notes
    -----
    Diagonal in the Fourier basis with the eigenvalues ``fft(c)`` (`eigenvalues`): products, ``A^H A X`` and the adjoint
    are two FFTs of length n. Real data stays real.

    Examples
    --------
    >>> import torch
    >>> C = Circulant(torch.tensor([1.0, 2.0, 3.0]))
    >>> C.to_dense()
    tensor([[1., 3., 2.],
            [2., 1., 3.],
            [3., 2., 1.]])
    >>> torch.round(C.eigenvalues().abs(), decimals=3)
    tensor([6.0000, 1.7320, 1.7320])
    """

    def __init__(self, c: Any) -> None:
        tensors, kind = common_tensors(c=c)
        column = _vector(owned(tensors, kind)[0], "c")
        self._memo = Memo()
        n = column.shape[-1]
        super().__init__(
            (*column.shape[:-1], n, n), dtype=column.dtype, device=column.device, kind=kind, parts=(column,)
        )

    @property
    def cost(self) -> float:
        return 10.0 * self.shape[-1] * self.shape[-1].bit_length()

    def eigenvalues(self) -> Tensor:
        """The eigenvalues ``fft(c)``, (*batch, n) complex, in the order of the frequencies."""
        return torch.fft.fft(self._parts[0])

    def _spectrum(self) -> Tensor:
        return self._memo.get(self._parts, lambda: _transform(self._parts[0][..., None], self.shape[-1]))

    def _matmul(self, X: Tensor) -> Tensor:
        return _convolve(self._spectrum(), X, self.shape[-1])

    def _gram(self, X: Tensor) -> Tensor:
        spectrum = self._spectrum()
        return _convolve(spectrum.conj() * spectrum, X, self.shape[-1])

    def _adjoint(self) -> Operator:
        return Circulant(self._parts[0].flip(-1).roll(1, -1).conj().resolve_conj())

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Circulant(fn(self._parts[0]))

    def _dense(self) -> Tensor:
        index = torch.arange(self.shape[-1], device=self.device)
        return self._entries(index, index)

    def _diagonal(self) -> Tensor:
        return self._parts[0][..., :1].expand(*self.batch_shape, self.shape[-1])

    def _trace(self) -> Tensor:
        return self._parts[0][..., 0] * self.shape[-1]

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self._parts[0][..., (rows[:, None] - cols[None, :]) % self.shape[-1]]


class Hankel(Operator):
    r"""Constant along each antidiagonal: :math:`H_{ij} = h_{i+j}` with h = (c, r[1:]), as `scipy.linalg.hankel`.

    Parameters
    ----------
    c : (*batch, m), the first column
    r : (*batch, n) or None, the last row
        ``r[0]`` is not used, the corner is ``c[-1]``. None means zeros below the antidiagonal, with n = m.

    Raises
    ------
    ValueError : an argument without an axis, an empty one, NaN or infinite entries
    TypeError : torch tensors of mixed precision

    Notes
    -----
    A Toeplitz operator on the reversed operand; cost and accuracy as there. A real square one is Hermitian.

    Examples
    --------
    >>> import torch
    >>> Hankel(torch.tensor([1.0, 2.0, 3.0])).to_dense()
    tensor([[1., 2., 3.],
            [2., 3., 0.],
            [3., 0., 0.]])
    """

    def __init__(self, c: Any, r: Any = None) -> None:
        given = {"c": c} if r is None else {"c": c, "r": r}
        tensors, kind = common_tensors(**given)
        tensors = owned(tensors, kind)
        column = _vector(tensors[0], "c")
        row = torch.zeros_like(column[(0,) * (column.ndim - 1)]).detach() if r is None else _vector(tensors[1], "r")
        m, n = column.shape[-1], row.shape[-1]
        self._memo = Memo()
        self._length = _smooth(m + n - 1)
        super().__init__(
            (*batch_of("Hankel", column.shape[:-1], row.shape[:-1]), m, n),
            dtype=column.dtype,
            device=column.device,
            kind=kind,
            hermitian=m == n and not column.is_complex(),
            parts=(column, row),
        )

    @property
    def cost(self) -> float:
        return 10.0 * self._length * max(self._length.bit_length(), 1)

    def _sequence(self) -> Tensor:
        c, r = (t[..., None] for t in self._parts)
        return concatenate([c, r[..., 1:, :]], -2)[..., 0]

    def _matmul(self, X: Tensor) -> Tensor:
        m, n = self.shape[-2:]
        spectrum = self._memo.get(self._parts, lambda: _transform(self._sequence()[..., None], self._length))
        return _convolve(spectrum, X.flip(-2), self._length)[..., n - 1 : n - 1 + m, :]

    def _adjoint(self) -> Operator:
        h = self._sequence().conj().resolve_conj()
        return Hankel(h[..., : self.shape[-1]], h[..., self.shape[-1] - 1 :])

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Hankel(*(fn(t) for t in self._parts))

    def _dense(self) -> Tensor:
        m, n = self.shape[-2:]
        return self._entries(torch.arange(m, device=self.device), torch.arange(n, device=self.device))

    def _diagonal(self) -> Tensor:
        return self._sequence()[..., ::2][..., : min(self.shape[-2:])]

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self._sequence()[..., rows[:, None] + cols[None, :]]


def _vector(t: Tensor, name: str) -> Tensor:
    if t.ndim < 1 or t.shape[-1] < 1:
        raise ValueError(f"{name} must have shape (*batch, n) with n of at least 1, got {tuple(t.shape)}")
    return t


def _smooth(n: int) -> int:
    """The least length of at least n without a prime factor above 7, which FFT libraries do fast."""
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _transform(X: Tensor, length: int) -> Tensor:
    fft = torch.fft.fft if X.is_complex() else torch.fft.rfft
    return fft(X.mT, n=length).mT


def _convolve(spectrum: Tensor, X: Tensor, length: int) -> Tensor:
    """The circular convolution along the axis before the last of a transformed sequence with the columns of X."""
    if X.numel() == 0:
        return X.new_zeros(*torch.broadcast_shapes(spectrum.shape[:-2], X.shape[:-2]), length, X.shape[-1])
    if X.is_complex():
        return torch.fft.ifft((spectrum * _transform(X, length)).mT, n=length).mT
    return torch.fft.irfft((spectrum * _transform(X, length)).mT, n=length).mT


__all__ = ["Circulant", "Hankel", "Toeplitz"]
