"""Dense matrices given by a formula for the entry (i, j): Hilbert and his relatives, and matrices of integers."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from resolvent.operators.gallery.entry import checked_size, entry, finish, from_spectrum, indices

__all__ = [
    "cauchy", "fiedler", "hilbert", "inverse_hilbert", "kms", "lauchli", "lehmer", "lotkin", "magic", "minij",
    "moler", "parter", "pascal", "pei", "prolate", "ris", "vandermonde",
]  # fmt: skip

_Device = torch.device | str | None


def _cauchy_det(x: list[Fraction], y: list[Fraction]) -> Fraction:
    """The determinant of 1 / (x_i + y_j)."""
    top, bottom = Fraction(1), Fraction(1)
    for i in range(len(x)):
        for j in range(len(x)):
            bottom *= x[i] + y[j]
            if i < j:
                top *= (x[j] - x[i]) * (y[j] - y[i])
    return top / bottom


def _hilbert_det(n: int) -> Fraction:
    k = [Fraction(i) for i in range(1, n + 1)]
    return _cauchy_det(k, [i - 1 for i in k])


def _half(n: int) -> tuple[list[Fraction], list[Fraction]]:
    return [i + Fraction(1, 2) for i in range(1, n + 1)], [Fraction(-j) for j in range(1, n + 1)]


def _ris_det(n: int) -> Fraction:
    x = [Fraction(n) - i + Fraction(3, 2) for i in range(1, n + 1)]
    return _cauchy_det(x, [Fraction(-j) for j in range(1, n + 1)]) / 2**n


def _minij_eigenvalues(n: int) -> list[float]:
    return [0.25 / math.sin((2 * k - 1) * math.pi / (4 * n + 2)) ** 2 for k in range(n, 0, -1)]


@entry(
    10,
    positive=True,
    tags=["ill-conditioned"],
    known={"det": _hilbert_det, "rank": lambda n: n},
)
def hilbert(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The Hilbert matrix, :math:`a_{ij} = 1 / (i + j - 1)`: positive, with a condition of about :math:`e^{3.5 n}`.

    Examples
    --------
    >>> hilbert(2)
    tensor([[1.0000, 0.5000],
            [0.5000, 0.3333]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(1 / (i + j - 1), dtype, device)


@entry(
    8,
    positive=True,
    tags=["ill-conditioned", "integer"],
    known={"det": lambda n: 1 / _hilbert_det(n), "rank": lambda n: n},
)
def inverse_hilbert(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The inverse of the Hilbert matrix, whose entries are large integers of alternating sign.

    Examples
    --------
    >>> inverse_hilbert(2)
    tensor([[ 4., -6.],
            [-6., 12.]], dtype=torch.float64)
    """
    checked_size(n)

    def value(i: int, j: int) -> int:
        size = (
            (i + j - 1) * math.comb(n + i - 1, n - j) * math.comb(n + j - 1, n - i) * math.comb(i + j - 2, i - 1) ** 2
        )
        return size if (i + j) % 2 == 0 else -size

    return finish([[value(i, j) for j in range(1, n + 1)] for i in range(1, n + 1)], dtype, device)


@entry(
    10,
    positive=True,
    tags=["ill-conditioned"],
    known={"det": lambda n: _cauchy_det(*2 * ([Fraction(i) for i in range(1, n + 1)],)), "rank": lambda n: n},
)
def cauchy(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The Cauchy matrix :math:`a_{ij} = 1 / (i + j)`, positive and totally positive.

    Examples
    --------
    >>> cauchy(1)
    tensor([[0.5000]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(1 / (i + j), dtype, device)


@entry(
    10,
    tags=["clustered", "toeplitz"],
    known={"det": lambda n: _cauchy_det(*_half(n)), "rank": lambda n: n},
)
def parter(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Parter's Toeplitz matrix :math:`a_{ij} = 1 / (i - j + 1/2)`: most singular values lie within eps of :math:`\pi`.

    Examples
    --------
    >>> parter(2)
    tensor([[ 2.0000, -2.0000],
            [ 0.6667,  2.0000]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(1 / (i - j + 0.5), dtype, device)


@entry(
    10,
    hermitian=True,
    tags=["clustered", "hankel", "indefinite"],
    known={"det": _ris_det, "rank": lambda n: n},
)
def ris(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Ris's Hankel matrix :math:`a_{ij} = 1 / (2n - 2i - 2j + 3)`: eigenvalues cluster at :math:`\pm\pi/2`.

    Examples
    --------
    >>> ris(2)
    tensor([[ 0.3333,  1.0000],
            [ 1.0000, -1.0000]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(0.5 / (n - i - j + 1.5), dtype, device)


@entry(
    10,
    positive=True,
    tags=["well-conditioned"],
    known={
        "det": lambda n: Fraction(math.factorial(2 * n), 2**n * math.factorial(n) ** 3),
        "rank": lambda n: n,
    },
)
def lehmer(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Lehmer's matrix :math:`a_{ij} = \min(i, j) / \max(i, j)`: positive, with a tridiagonal inverse.

    Examples
    --------
    >>> lehmer(2)
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(torch.minimum(i, j) / torch.maximum(i, j), dtype, device)


@entry(10, positive=True, tags=["integer"], known={**from_spectrum(_minij_eigenvalues), "det": lambda n: 1})
def minij(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The matrix :math:`\min(i, j)`, eigenvalues :math:`1 / (4 \sin^2((2k-1)\pi / (4n+2)))`.

    Examples
    --------
    >>> minij(2)
    tensor([[1., 1.],
            [1., 2.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(torch.minimum(i, j), dtype, device)


@entry(12, positive=True, tags=["ill-conditioned", "integer"], known={"det": lambda n: 1, "rank": lambda n: n})
def moler(n: int = 12, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Moler's matrix, :math:`\min(i, j) - 2` off the diagonal `i`: one eigenvalue of about :math:`4^{-n}`.

    Examples
    --------
    >>> moler(3)
    tensor([[ 1., -1., -1.],
            [-1.,  2.,  0.],
            [-1.,  0.,  3.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(torch.minimum(i, j) - 2 + 2 * (i == j).double(), dtype, device)


@entry(
    10,
    positive=True,
    tags=["integer", "repeated"],
    known=from_spectrum(lambda n: [1] * (n - 1) + [n + 1]),
)
def pei(n: int = 10, *, alpha: float = 1.0, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Pei's matrix :math:`\alpha I + 1 1^T`: eigenvalue :math:`\alpha` n - 1 times, and :math:`\alpha + n`.

    Examples
    --------
    >>> pei(2)
    tensor([[2., 1.],
            [1., 2.]], dtype=torch.float64)
    """
    checked_size(n)
    return finish(alpha * torch.eye(n, dtype=torch.float64) + 1, dtype, device)


@entry(8, positive=True, tags=["ill-conditioned", "integer"], known={"det": lambda n: 1, "rank": lambda n: n})
def pascal(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Pascal's matrix of binomials: determinant 1, and eigenvalues in reciprocal pairs.

    Examples
    --------
    >>> pascal(3)
    tensor([[1., 1., 1.],
            [1., 2., 3.],
            [1., 3., 6.]], dtype=torch.float64)
    """
    checked_size(n)
    return finish([[math.comb(i + j, i) for j in range(n)] for i in range(n)], dtype, device)


@entry(9, tags=["ill-conditioned", "nonnormal"], known={"rank": lambda n: n})
def lotkin(n: int = 9, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Lotkin's matrix: Hilbert with a first row of ones, not symmetric, with many tiny negative eigenvalues.

    Examples
    --------
    >>> lotkin(2)
    tensor([[1.0000, 1.0000],
            [0.5000, 0.3333]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(torch.where(i == 1, torch.ones_like(j), 1 / (i + j - 1)), dtype, device)


@entry(
    8,
    tags=["rectangular", "ill-conditioned", "clustered"],
    known={
        "singular_values": lambda n: [math.sqrt(n + 2.0**-40)] + [2.0**-20] * (n - 1),
        "norm2": lambda n: math.sqrt(n + 2.0**-40),
        "condition": lambda n: math.sqrt(n + 2.0**-40) * 2.0**20 if n > 1 else 1.0,
        "rank": lambda n: n,
    },
)
def lauchli(n: int = 8, *, mu: float = 2.0**-20, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Läuchli's (n+1, n) matrix, ones above :math:`\mu I`: squaring it loses :math:`\mu`.

    Examples
    --------
    >>> lauchli(2, mu=0.5)
    tensor([[1.0000, 1.0000],
            [0.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    eye = torch.eye(checked_size(n), dtype=torch.float64)
    return finish(torch.cat([torch.ones_like(eye[:1]), mu * eye]), dtype, device)


@entry(
    9,
    tags=["integer", "nonnormal"],
    known={"norm2": lambda n: n * (n * n + 1) // 2, "rank": lambda n: n},
)
def magic(n: int = 9, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The magic square of odd order (de la Loubère): its norm is the magic sum n (n^2 + 1) / 2.

    Examples
    --------
    >>> magic(3)
    tensor([[8., 1., 6.],
            [3., 5., 7.],
            [4., 9., 2.]], dtype=torch.float64)
    """
    if checked_size(n) % 2 == 0:
        raise ValueError(f"n={n} must be odd for this magic square")
    i, j = indices(n)
    first = torch.remainder(i + j - (n + 3) / 2, n)
    second = torch.remainder(i + 2 * j - 2, n)
    return finish(n * first + second + 1, dtype, device)


@entry(10, positive=True, tags=["ill-conditioned", "toeplitz"])
def prolate(n: int = 10, *, width: float = 0.25, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The prolate Toeplitz matrix :math:`\sin(2\pi w k) / (\pi k)`: eigenvalues in (0, 1), clustered at both ends.

    Examples
    --------
    >>> prolate(2)
    tensor([[0.5000, 0.3183],
            [0.3183, 0.5000]], dtype=torch.float64)
    """
    if not 0 < width < 0.5:
        raise ValueError(f"width={width} must lie strictly between 0 and 0.5")
    i, j = indices(checked_size(n))
    return finish(2 * width * torch.sinc(2 * width * (i - j).abs()), dtype, device)


@entry(
    10,
    positive=True,
    tags=["toeplitz", "well-conditioned"],
    known={"det": lambda n: 0.75 ** (n - 1), "rank": lambda n: n},
)
def kms(n: int = 10, *, rho: float = 0.5, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The Kac-Murdock-Szegő Toeplitz matrix :math:`\rho^{|i-j|}`, the covariance of an autoregression.

    Examples
    --------
    >>> kms(2)
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(rho ** (i - j).abs(), dtype, device)


@entry(
    10,
    hermitian=True,
    tags=["indefinite", "integer", "toeplitz"],
    known={"det": lambda n: (-1) ** (n - 1) * (n - 1) * 2 ** (n - 2) if n > 1 else 0},
)
def fiedler(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Fiedler's matrix :math:`|i - j|`: one positive eigenvalue, all others negative.

    Examples
    --------
    >>> fiedler(3)
    tensor([[0., 1., 2.],
            [1., 0., 1.],
            [2., 1., 0.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish((i - j).abs(), dtype, device)


@entry(10, tags=["ill-conditioned", "nonnormal"], known={"rank": lambda n: n})
def vandermonde(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The Chebyshev-Vandermonde matrix :math:`x_j^{i-1}`, :math:`x_j = \cos((2j-1)\pi / 2n)`.

    Examples
    --------
    >>> vandermonde(2)
    tensor([[ 1.0000,  1.0000],
            [ 0.7071, -0.7071]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(torch.cos((2 * j - 1) * (math.pi / (2 * n))) ** (i - 1), dtype, device)
