"""Matrices known for their spectrum: tridiagonal classics, unitary transforms, and matrices of number theory."""

from __future__ import annotations

import cmath
import math

import torch
from torch import Tensor

from resolvent.operators.gallery.entry import checked_size, entry, finish, from_spectrum, indices

__all__ = [
    "clement", "clement_symmetric", "dramadah", "fourier", "hadamard", "hanowa", "lesp", "redheffer", "riemann",
    "rosser", "second_difference", "shift", "sine", "skew", "wilkinson",
]  # fmt: skip

_Device = torch.device | str | None


def tridiagonal(sub: Tensor, main: Tensor, sup: Tensor) -> Tensor:
    """The dense matrix of three diagonals."""
    return torch.diag(sub, -1) + torch.diag(main) + torch.diag(sup, 1)


def _clement(n: int) -> list[int]:
    return list(range(1 - n, n, 2))


def _second_difference(n: int) -> list[float]:
    return [4 * math.sin(k * math.pi / (2 * n + 2)) ** 2 for k in range(1, n + 1)]


def _skew(n: int) -> list[complex]:
    values = [2 * math.cos(k * math.pi / (n + 1)) for k in range(n, 0, -1)]
    if n % 2:
        values[n // 2] = 0.0
    return [complex(0, v) for v in values]


def _rosser(n: int) -> list[float]:
    return [
        -10 * math.sqrt(10405), 0, 510 - 100 * math.sqrt(26), 1000, 1000, 510 + 100 * math.sqrt(26), 1020,
        10 * math.sqrt(10405),
    ]  # fmt: skip


def _hadamard(n: int) -> list[float]:
    if n == 1:
        return [1]
    return [-math.sqrt(n)] * (n // 2) + [math.sqrt(n)] * (n // 2)


def _fourier(n: int) -> list[complex]:
    # The multiplicities of 1, -1, -i, i among the n-th DFT's eigenvalues, with the sign exp(-2 pi i jk / n).
    counts = [n // 4 + 1, (n + 2) // 4, (n + 1) // 4, (n + 3) // 4 - 1]
    return [complex(w) for w, m in zip((1, -1, -1j, 1j), counts, strict=True) for _ in range(m)]


def _shift(n: int) -> list[complex]:
    return [cmath.exp(2j * math.pi * k / n) for k in range(n)]


def _hanowa(n: int) -> list[complex]:
    return [complex(-1, s * k) for k in range(1, n // 2 + 1) for s in (1, -1)]


def _mertens(n: int) -> int:
    moebius = [0, 1] + [0] * n
    for k in range(1, n + 1):
        for multiple in range(2 * k, n + 1, k):
            moebius[multiple] -= moebius[k]
    return sum(moebius[1 : n + 1])


@entry(
    8,
    hermitian=True,
    tags=["integer", "indefinite", "repeated", "near-repeated", "rank-deficient"],
    known={
        "eigenvalues": _rosser, "norm2": lambda n: 10 * math.sqrt(10405), "det": lambda n: 0,
        "rank": lambda n: 7, "condition": lambda n: math.inf,
    },
)  # fmt: skip
def rosser(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Rosser's 8 by 8: eigenvalues 1000 twice, 0 and 0.098, 1019.9 and 1020, and :math:`\pm 10\sqrt{10405}`.

    Examples
    --------
    >>> rosser()[0, :4]
    tensor([ 611.,  196., -192.,  407.], dtype=torch.float64)
    """
    if n != 8:
        raise ValueError(f"n={n}: Rosser's matrix exists for n = 8 only")
    return finish(
        [
            [611, 196, -192, 407, -8, -52, -49, 29],
            [196, 899, 113, -192, -71, -43, -8, -44],
            [-192, 113, 899, 196, 61, 49, 8, 52],
            [407, -192, 196, 611, 8, 44, 59, -23],
            [-8, -71, 61, 8, 411, -599, 208, 208],
            [-52, -43, 49, 44, -599, 411, 208, 208],
            [-49, -8, 8, 59, 208, 208, 99, -911],
            [29, -44, 52, -23, 208, 208, -911, 99],
        ],
        dtype,
        device,
    )


@entry(13, hermitian=True, tags=["integer", "near-repeated", "tridiagonal", "indefinite"])
def wilkinson(n: int = 21, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Wilkinson's :math:`W_n^+`, tridiagonal with diagonal :math:`|(n+1)/2 - i|`: pairs of nearly equal eigenvalues.

    Examples
    --------
    >>> wilkinson(3)
    tensor([[1., 1., 0.],
            [1., 0., 1.],
            [0., 1., 1.]], dtype=torch.float64)
    """
    ones = torch.ones(checked_size(n) - 1, dtype=torch.float64)
    main = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).abs()
    return finish(tridiagonal(ones, main, ones), dtype, device)


@entry(
    10,
    tags=["integer", "nonnormal", "tridiagonal"],
    known={"eigenvalues": _clement, "det": lambda n: math.prod(_clement(n))},
)
def clement(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Clement's tridiagonal matrix (Kac, Sylvester): eigenvalues n-1, n-3, ..., 1-n, very sensitive for large n.

    Examples
    --------
    >>> clement(3)
    tensor([[0., 1., 0.],
            [2., 0., 2.],
            [0., 1., 0.]], dtype=torch.float64)
    """
    k = torch.arange(1, checked_size(n), dtype=torch.float64)
    return finish(tridiagonal(n - k, torch.zeros(n, dtype=torch.float64), k), dtype, device)


@entry(9, hermitian=True, tags=["tridiagonal", "indefinite", "rank-deficient"], known=from_spectrum(_clement))
def clement_symmetric(n: int = 9, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The symmetric form of Clement's matrix, :math:`\sqrt{k (n-k)}` beside the diagonal.

    Examples
    --------
    >>> clement_symmetric(2)
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    k = torch.arange(1, checked_size(n), dtype=torch.float64)
    side = torch.sqrt(k * (n - k))
    return finish(tridiagonal(side, torch.zeros(n, dtype=torch.float64), side), dtype, device)


@entry(10, tags=["nonnormal", "tridiagonal"], known={"rank": lambda n: n})
def lesp(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The Lenferink-Spijker tridiagonal: smooth real eigenvalues that are exponentially sensitive.

    Examples
    --------
    >>> lesp(2)
    tensor([[-5.0000,  2.0000],
            [ 0.5000, -7.0000]], dtype=torch.float64)
    """
    k = torch.arange(2, checked_size(n) + 1, dtype=torch.float64)
    main = -(2 * torch.arange(2, n + 2, dtype=torch.float64) + 1)
    return finish(tridiagonal(1 / k, main, k), dtype, device)


@entry(
    12,
    positive=True,
    tags=["integer", "tridiagonal", "toeplitz"],
    known={**from_spectrum(_second_difference), "det": lambda n: n + 1},
)
def second_difference(n: int = 12, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The second difference tridiag(-1, 2, -1): eigenvalues :math:`4\sin^2(k\pi / (2n+2))`.

    Examples
    --------
    >>> second_difference(3)
    tensor([[ 2., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  2.]], dtype=torch.float64)
    """
    side = -torch.ones(checked_size(n) - 1, dtype=torch.float64)
    return finish(tridiagonal(side, torch.full((n,), 2.0, dtype=torch.float64), side), dtype, device)


@entry(
    9,
    tags=["normal", "integer", "tridiagonal", "toeplitz", "rank-deficient"],
    known=from_spectrum(_skew),
)
def skew(n: int = 9, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The skew central difference tridiag(-1, 0, 1): eigenvalues :math:`2i\cos(k\pi / (n+1))`, singular for odd n.

    Examples
    --------
    >>> skew(2)
    tensor([[ 0.,  1.],
            [-1.,  0.]], dtype=torch.float64)
    """
    side = torch.ones(checked_size(n) - 1, dtype=torch.float64)
    return finish(tridiagonal(-side, torch.zeros(n, dtype=torch.float64), side), dtype, device)


@entry(8, hermitian=True, tags=["integer", "unitary-multiple", "repeated"], known=from_spectrum(_hadamard))
def hadamard(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Sylvester's Hadamard matrix of order 2^k: eigenvalues :math:`\pm\sqrt n`, entries ±1.

    Examples
    --------
    >>> hadamard(2)
    tensor([[ 1.,  1.],
            [ 1., -1.]], dtype=torch.float64)
    """
    if checked_size(n) & (n - 1):
        raise ValueError(f"n={n} must be a power of two")
    return finish([[-1 if (i & j).bit_count() % 2 else 1 for j in range(n)] for i in range(n)], dtype, device)


@entry(
    10,
    hermitian=True,
    tags=["unitary", "repeated"],
    known=from_spectrum(lambda n: [-1] * (n // 2) + [1] * ((n + 1) // 2)),
)
def sine(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The symmetric orthogonal sine transform :math:`\sqrt{2/(n+1)} \sin(ij\pi / (n+1))`: eigenvalues ±1.

    Examples
    --------
    >>> sine(1)
    tensor([[1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    angle = torch.remainder(i * j, 2 * n + 2) * (math.pi / (n + 1))
    return finish(math.sqrt(2 / (n + 1)) * torch.sin(angle), dtype, device)


@entry(10, tags=["complex", "normal", "unitary", "repeated"], known=from_spectrum(_fourier))
def fourier(n: int = 10, *, dtype: torch.dtype = torch.complex128, device: _Device = None) -> Tensor:
    r"""The unitary Fourier matrix :math:`n^{-1/2} e^{-2\pi i jk/n}`: complex symmetric, four eigenvalues.

    Examples
    --------
    >>> fourier(2).real
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n), 0)
    angle = torch.remainder(i * j, n) * (-2 * math.pi / n)
    return finish(torch.polar(torch.full_like(angle, 1 / math.sqrt(n)), angle), dtype, device)


@entry(10, tags=["normal", "unitary", "integer"], known=from_spectrum(_shift))
def shift(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The cyclic shift: every eigenvalue of modulus one, on which GMRES and power iterations stall.

    Examples
    --------
    >>> shift(3)
    tensor([[0., 1., 0.],
            [0., 0., 1.],
            [1., 0., 0.]], dtype=torch.float64)
    """
    return finish(torch.roll(torch.eye(checked_size(n), dtype=torch.float64), 1, 1), dtype, device)


@entry(10, tags=["normal", "integer"], known=from_spectrum(_hanowa))
def hanowa(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Hanowa's normal matrix of even order with the eigenvalues :math:`-1 \pm ki` on a vertical line.

    Examples
    --------
    >>> hanowa(2)
    tensor([[-1., -1.],
            [ 1., -1.]], dtype=torch.float64)
    """
    if checked_size(n, 2) % 2:
        raise ValueError(f"n={n} must be even")
    half = torch.arange(1, n // 2 + 1, dtype=torch.float64)
    minus = -torch.eye(n // 2, dtype=torch.float64)
    top = torch.cat([minus, -torch.diag(half)], 1)
    return finish(torch.cat([top, torch.cat([torch.diag(half), minus], 1)]), dtype, device)


@entry(12, tags=["integer", "nonnormal", "number-theory"], known={"det": _mertens})
def redheffer(n: int = 12, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Redheffer's 0-1 matrix of divisors: its determinant is Mertens' function of n.

    Examples
    --------
    >>> redheffer(3)
    tensor([[1., 1., 1.],
            [1., 1., 0.],
            [1., 0., 1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(((torch.remainder(j, i) == 0) | (j == 1)).double(), dtype, device)


@entry(10, tags=["integer", "nonnormal", "number-theory"])
def riemann(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Roesler's matrix: its determinant stays below :math:`n!\, n^{-1/2+\epsilon}` if the Riemann hypothesis holds.

    Examples
    --------
    >>> riemann(3)
    tensor([[ 1., -1.,  1.],
            [-1.,  2., -1.],
            [-1., -1.,  3.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n), 2)
    return finish(torch.where(torch.remainder(j, i) == 0, i - 1, -1.0), dtype, device)


@entry(
    10,
    tags=["integer", "nonnormal", "toeplitz"],
    known={"det": lambda n: -1 if n >= 4 and n % 2 == 0 else 1, "rank": lambda n: n},
)
def dramadah(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The anti-Hadamard 0-1 Toeplitz matrix: determinant ±1, and an inverse with integers of Fibonacci size.

    Examples
    --------
    >>> dramadah(4)
    tensor([[1., 1., 0., 1.],
            [0., 1., 1., 0.],
            [0., 0., 1., 1.],
            [1., 0., 0., 1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    below = torch.remainder(i - j, 4)
    low = (i >= j) & ((below == 0) | (below == 3))
    high = (j - i == 1) | (j - i == 3)
    return finish((low | high).double(), dtype, device)
