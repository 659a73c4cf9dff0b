"""Sketches of Kronecker products that never form them: TensorSketch and the Kronecker SRHT."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, give_back_array
from resolvent.operators.kronecker import Kronecker
from resolvent.operators.operator import Operator
from resolvent.operators.parts import Adjoint
from resolvent.operators.sparse import Sparse
from resolvent.random import GeneratorLike
from resolvent.random import rademacher as sign_entries
from resolvent.sketch.structured import MixedSigns
from resolvent.sketch.transforms import checked


class TensorProductSketch(Operator):
    """A sketch of vectors with several axes, which takes products of factors apart.

    As an operator it multiplies any vector of length n_1 n_2 ... (last axis fastest, as `torch.kron` lays it out).
    `khatri_rao` gives the same result from the factors of a product, without the long vector.
    """

    def _whole(self) -> Operator:
        raise NotImplementedError

    def _of_factors(self, factors: list[Tensor]) -> Tensor:
        raise NotImplementedError

    sizes: tuple[int, ...]

    def khatri_rao(self, *factors: Any) -> Any:
        r"""The sketch of columnwise Kronecker products: column j of the result is :math:`S (x^1_j \otimes x^2_j \cdots)`.

        Parameters
        ----------
        *factors : (n_i, k) or (n_i,), one for every axis

        Returns
        -------
        (m, k) or (m,), of the kind of the first factor.

        Raises
        ------
        ValueError : a factor is missing, or its shape does not fit

        Examples
        --------
        >>> S = tensor_sketch(20, (3, 4), generator=0)
        >>> x, y = torch.tensor([1.0, 2.0, 3.0]), torch.ones(4)
        >>> torch.allclose(S.khatri_rao(x, y), S @ torch.kron(x, y), atol=1e-5)
        True
        """
        if len(factors) != len(self.sizes):
            raise ValueError(f"factors must be {len(self.sizes)} matrices, got {len(factors)}")
        tensors, kinds = zip(*(as_tensor(f, "factors") for f in factors), strict=True)
        single = tensors[0].ndim == 1
        columns = [t[:, None] if t.ndim == 1 else t for t in tensors]
        for t, n in zip(columns, self.sizes, strict=True):
            if t.ndim != 2 or t.shape[0] != n or t.shape[1] != columns[0].shape[1]:
                shapes = [tuple(t.shape) for t in tensors]
                raise ValueError(f"factors must have shapes (n_i, k) with n_i = {self.sizes}, got {shapes}")
            if t.dtype != self.dtype:
                raise TypeError(f"factors must have dtype {self.dtype}, that of the sketch, got {t.dtype}")
        out = self._of_factors(columns)
        return give_back_array(out[:, 0] if single else out, kinds[0])

    def tensors(self) -> list[Tensor]:
        """No tensor that a gradient flows to."""
        return []

    def _matmul(self, X: Tensor) -> Tensor:
        return self._whole()._matmul(X)

    def _rmatmul(self, X: Tensor) -> Tensor:
        return self._whole().H._matmul(X)

    def _adjoint(self) -> Operator:
        return Adjoint(self)

    def _dense(self) -> Tensor:
        return self._whole()._dense()


class TensorSketch(TensorProductSketch):
    """A count sketch whose row is the sum of the rows of its factors, modulo m; see `tensor_sketch`."""

    def __init__(self, rows: Sequence[Tensor], signs: Sequence[Tensor], m: int) -> None:
        self.sizes = tuple(len(r) for r in rows)
        self._made: Operator | None = None
        super().__init__(
            (m, math.prod(self.sizes)), dtype=signs[0].dtype, device=signs[0].device, parts=(*rows, *signs)
        )

    @property
    def cost(self) -> float:
        return float(self.shape[1])

    def _factors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        half = len(self.sizes)
        return self._parts[:half], self._parts[half:]

    def _whole(self) -> Operator:
        if self._made is None:
            m, n = self.shape
            rows, signs = self._factors()
            row, sign = rows[0], signs[0]
            for r, s in zip(rows[1:], signs[1:], strict=True):
                row, sign = (row[:, None] + r).flatten(), (sign[:, None] * s).flatten()
            indptr = torch.arange(n + 1, device=self.device)
            self._made = Sparse((indptr, row % m, sign.conj().resolve_conj(), (n, m))).H
        return self._made

    def _of_factors(self, factors: list[Tensor]) -> Tensor:
        m = self.shape[0]
        spectrum: Tensor | None = None
        for X, r, s in zip(factors, *self._factors(), strict=True):
            sketched = X.new_zeros(m, X.shape[1]).index_add(0, r, s[:, None] * X)
            transformed = torch.fft.fft(sketched, dim=0)
            spectrum = transformed if spectrum is None else spectrum * transformed
        if spectrum is None:
            raise ValueError("factors must be at least one matrix")
        out = torch.fft.ifft(spectrum, dim=0)
        return out if self.is_complex else out.real

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        rows, signs = self._factors()
        moved = [fn(s) for s in signs]
        return TensorSketch([r.to(moved[0].device) for r in rows], moved, self.shape[0])


class KroneckerSRHT(TensorProductSketch):
    """Sampled rows of a Kronecker product of randomized Walsh-Hadamard transforms; see `kronecker_srht`."""

    def __init__(self, mixed: Sequence[MixedSigns], rows: Tensor) -> None:
        self.sizes = tuple(M.shape[1] for M in mixed)
        self._rows = rows
        self._mixed = Kronecker(*mixed)
        self.scale = math.sqrt(self._mixed.shape[0] / len(rows))
        super().__init__(
            (len(rows), math.prod(self.sizes)), dtype=mixed[0].dtype, device=rows.device, parts=(*mixed, rows)
        )

    @property
    def cost(self) -> float:
        return float(sum(M.cost * self.shape[1] / M.shape[1] for M in self._parts[:-1]))

    def _matmul(self, X: Tensor) -> Tensor:
        return self._mixed._matmul(X).index_select(-2, self._rows) * self.scale

    def _rmatmul(self, X: Tensor) -> Tensor:
        spread = X.new_zeros(*X.shape[:-2], self._mixed.shape[0], X.shape[-1])
        return self._mixed.H._matmul(spread.index_add(-2, self._rows, X * self.scale))

    def _dense(self) -> Tensor:
        return self._mixed._dense()[self._rows] * self.scale

    def _of_factors(self, factors: list[Tensor]) -> Tensor:
        out, left = None, self._rows
        for M, X in zip(reversed(self._parts[:-1]), reversed(factors), strict=True):
            part = M._matmul(X)[left % M.shape[0]]
            out, left = part if out is None else part * out, left // M.shape[0]
        if out is None:
            raise ValueError("factors must be at least one matrix")
        return out * self.scale

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        mixed = [MixedSigns(fn(M.signs)) for M in self._parts[:-1]]
        return KroneckerSRHT(mixed, self._rows.to(mixed[0].device))


def tensor_sketch(
    m: int,
    sizes: Sequence[int],
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> TensorSketch:
    r"""A count sketch of :math:`x^1 \otimes x^2 \otimes \cdots` that costs a count sketch of every factor and an FFT.

    Entry (i_1, i_2, ...) goes to row :math:`(h_1(i_1) + h_2(i_2) + \cdots) \bmod m` with the sign
    :math:`s_1(i_1) s_2(i_2) \cdots`.

    Parameters
    ----------
    m : number of rows
    sizes : n_1, n_2, ...; (n,) * q for the features of a polynomial kernel of degree q
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    TensorSketch
        Shape (m, n_1 n_2 ...). ``S @ X`` for whole vectors, ``S.khatri_rao(X1, X2, ...)`` for factors.

    Raises
    ------
    ValueError : sizes that make no sense

    Notes
    -----
    The circular convolution of count sketches is the count sketch of the product: ``sum n_i + m log m`` a column instead
    of ``prod n_i``. A subspace of dimension d is kept for :math:`m = O(3^q d^2 / (\delta \varepsilon^2))`.

    References
    ----------
    "Fast and scalable polynomial kernels via explicit feature maps"

    Examples
    --------
    >>> tensor_sketch(50, (10, 20), generator=0).shape
    torch.Size([50, 200])
    """
    sizes, dtype, g = _sizes(m, sizes, dtype, generator)
    rows = [torch.randint(m, (n,), generator=g, device=g.device).to(device) for n in sizes]
    signs = [sign_entries((n,), dtype, device, g) for n in sizes]
    return TensorSketch(rows, signs, int(m))


def kronecker_srht(
    m: int,
    sizes: Sequence[int],
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> KroneckerSRHT:
    r"""The SRHT of Kronecker products :math:`S = \sqrt{N/m}\, P (H D_1 \otimes H D_2 \otimes \cdots)`.

    Every factor has its own signs and its own transform, N_i long; P takes m of the :math:`N = N_1 N_2 \cdots` rows,
    drawn uniformly and independently.

    Parameters
    ----------
    m : number of rows
    sizes : n_1, n_2, ...
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    KroneckerSRHT
        Shape (m, n_1 n_2 ...). ``S @ X`` for whole vectors, ``S.khatri_rao(X1, X2, ...)`` for factors.

    Raises
    ------
    ValueError : sizes that make no sense, or N beyond 2^62

    Notes
    -----
    A product of factors costs their transforms and m multiplications, nothing of the order of N.

    References
    ----------
    "A Nearly-Optimal Bound for Fast Regression with ell_infty Guarantee"

    Examples
    --------
    >>> kronecker_srht(50, (10, 20), generator=0).shape
    torch.Size([50, 200])
    """
    sizes, dtype, g = _sizes(m, sizes, dtype, generator)
    mixed = [MixedSigns(sign_entries((n,), dtype, device, g)) for n in sizes]
    N = math.prod(M.shape[0] for M in mixed)
    if N > 1 << 62:
        raise ValueError(f"sizes must have a padded product of at most 2^62, got {N}")
    return KroneckerSRHT(mixed, torch.randint(N, (m,), generator=g, device=g.device).to(device))


def _sizes(
    m: Any, sizes: Sequence[int], dtype: torch.dtype | None, generator: GeneratorLike
) -> tuple[tuple[int, ...], torch.dtype, torch.Generator]:
    good = isinstance(sizes, tuple | list) and len(sizes) > 0
    if not good or any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in sizes):
        raise ValueError(f"sizes must be a tuple of ints of at least 1, got {sizes!r}")
    _, _, dtype, g = checked(m, 1, dtype, generator)
    return tuple(int(n) for n in sizes), dtype, g


__all__ = ["KroneckerSRHT", "TensorSketch", "kronecker_srht", "tensor_sketch"]
