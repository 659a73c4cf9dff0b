"""Nonnormal matrices: triangular, Hessenberg and defective ones, whose eigenvalues say little about their norms."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import torch
from torch import Tensor

from resolvent.operators.gallery.entry import checked_size, entry, finish, indices
from resolvent.operators.gallery.spectral import tridiagonal

__all__ = [
    "chow", "companion", "convection_diffusion", "forsythe", "frank", "gear", "grcar", "invol", "jordan_block",
    "kahan", "near_defective", "smoke", "triw", "upper_ones",
]  # fmt: skip

_Device = torch.device | str | None


def _kahan_det(n: int) -> float:
    return math.sin(1.2) ** (n * (n - 1) // 2)


def _forsythe(n: int) -> list[complex]:
    radius = 2.0 ** (-26 / n)
    return [radius * cmath.exp(2j * math.pi * k / n) for k in range(n)]


def _smoke(n: int) -> list[complex]:
    return [2 ** (1 / n) * cmath.exp(2j * math.pi * k / n) for k in range(n)]


def _chow(n: int) -> list[float]:
    wave = [4 * math.cos(k * math.pi / (n + 2)) ** 2 for k in range(1, n - n // 2 + 1)]
    return sorted([0.0] * (n // 2) + wave)


def _convection(n: int) -> list[float]:
    return [2 - 2 * math.sqrt(0.75) * math.cos(k * math.pi / (n + 1)) for k in range(1, n + 1)]


def _upper_ones(n: int) -> list[float]:
    return [0.5 / math.sin((2 * k - 1) * math.pi / (4 * n + 2)) for k in range(1, n + 1)]


@entry(
    12,
    tags=["ill-conditioned", "triangular", "nonnormal"],
    known={
        "det": _kahan_det, "rank": lambda n: n,
        "eigenvalues": lambda n: [math.sin(1.2) ** k for k in range(n - 1, -1, -1)],
    },
)  # fmt: skip
def kahan(n: int = 12, *, theta: float = 1.2, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Kahan's triangular matrix :math:`\mathrm{diag}(s^{i-1})(I - cN)`: QR with pivoting misses its near rank defect.

    Here s = sin(theta), c = cos(theta) and N holds ones above the diagonal.

    Examples
    --------
    >>> kahan(2)
    tensor([[ 1.0000, -0.3624],
            [ 0.0000,  0.9320]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    c, s = math.cos(theta), math.sin(theta)
    return finish(s ** (i - 1) * ((i == j).double() - c * (i < j).double()), dtype, device)


@entry(10, tags=["integer", "hessenberg", "nonnormal"], known={"det": lambda n: 1, "rank": lambda n: n})
def frank(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Frank's Hessenberg matrix: determinant 1, reciprocal pairs of eigenvalues, of which the small ones are ill.

    Examples
    --------
    >>> frank(3)
    tensor([[3., 2., 1.],
            [2., 2., 1.],
            [0., 1., 1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(torch.where(j >= i - 1, n + 1 - torch.maximum(i, j), 0.0), dtype, device)


@entry(12, tags=["integer", "toeplitz", "hessenberg", "nonnormal"], known={"rank": lambda n: n})
def grcar(n: int = 12, *, bands: int = 3, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Grcar's banded Toeplitz matrix: -1 below, ones on the diagonal and on some bands above, sensitive eigenvalues.

    Examples
    --------
    >>> grcar(3, bands=1)
    tensor([[ 1.,  1.,  0.],
            [-1.,  1.,  1.],
            [ 0., -1.,  1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish(((j >= i) & (j - i <= bands)).double() - (i - j == 1).double(), dtype, device)


@entry(
    10,
    tags=["nonnormal", "near-defective"],
    known={"eigenvalues": _forsythe, "det": lambda n: (-1) ** (n - 1) * 2.0**-26, "rank": lambda n: n},
)
def forsythe(
    n: int = 10, *, alpha: float = 2.0**-26, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    r"""Forsythe's nilpotent block with :math:`\alpha` in the corner: eigenvalues :math:`\alpha^{1/n}\omega`.

    Examples
    --------
    >>> forsythe(3, alpha=0.5)
    tensor([[0.0000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000],
            [0.5000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    block = torch.diag(torch.ones(checked_size(n, 2) - 1, dtype=torch.float64), 1)
    block[-1, 0] = alpha
    return finish(block, dtype, device)


@entry(10, tags=["integer", "nonnormal", "rank-deficient"], known={"det": lambda n: 0})
def gear(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Gear's singular matrix, ones beside the diagonal and ±1 in two corners: defective eigenvalues.

    Examples
    --------
    >>> gear(3)
    tensor([[ 0.,  1.,  1.],
            [ 1.,  0.,  1.],
            [-1.,  1.,  0.]], dtype=torch.float64)
    """
    side = torch.ones(checked_size(n, 3) - 1, dtype=torch.float64)
    A = tridiagonal(side, torch.zeros(n, dtype=torch.float64), side)
    A[0, -1], A[-1, 0] = 1, -1
    return finish(A, dtype, device)


@entry(
    10,
    tags=["nonnormal", "companion", "integer", "ill-conditioned"],
    known={"eigenvalues": lambda n: list(range(1, n + 1)), "det": math.factorial, "rank": lambda n: n},
)
def companion(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The companion matrix of Wilkinson's polynomial :math:`(x-1)(x-2)\cdots(x-n)`.

    Examples
    --------
    >>> companion(2)
    tensor([[ 3., -2.],
            [ 1.,  0.]], dtype=torch.float64)
    """
    coefficients = [1]
    for root in range(1, checked_size(n) + 1):
        shifted = [0, *coefficients]
        coefficients = [a - root * b for a, b in zip([*coefficients, 0], shifted, strict=True)]
    rows = [[-c for c in coefficients[1:]]]
    rows += [[int(j == i) for j in range(n)] for i in range(n - 1)]
    return finish(rows, dtype, device)


@entry(
    12,
    tags=["nonnormal", "tridiagonal", "toeplitz"],
    known={"eigenvalues": _convection, "rank": lambda n: n},
)
def convection_diffusion(
    n: int = 12, *, peclet: float = 0.5, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    r"""Central differences of :math:`-u'' + 2p\,u'`: tridiag(-1-p, 2, -1+p), real eigenvalues, skew eigenvectors.

    Examples
    --------
    >>> convection_diffusion(2)
    tensor([[ 2.0000, -0.5000],
            [-1.5000,  2.0000]], dtype=torch.float64)
    """
    side = torch.ones(checked_size(n) - 1, dtype=torch.float64)
    main = torch.full((n,), 2.0, dtype=torch.float64)
    return finish(tridiagonal((-1 - peclet) * side, main, (peclet - 1) * side), dtype, device)


@entry(10, tags=["nonnormal", "hessenberg", "toeplitz", "rank-deficient", "integer"], known={"eigenvalues": _chow})
def chow(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Chow's Hessenberg Toeplitz matrix of ones: half its eigenvalues are 0, the others :math:`4\cos^2(k\pi/(n+2))`.

    Examples
    --------
    >>> chow(3)
    tensor([[1., 1., 0.],
            [1., 1., 1.],
            [1., 1., 1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish((j <= i + 1).double(), dtype, device)


@entry(
    8,
    tags=["nonnormal", "ill-conditioned"],
    known={
        "eigenvalues": lambda n: [-1] * ((n + 1) // 2) + [1] * (n // 2),
        "det": lambda n: (-1) ** ((n + 1) // 2),
        "rank": lambda n: n,
    },
)
def invol(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """An ill-conditioned involution, A A = I, made of a scaled Hilbert matrix: eigenvalues ±1.

    Examples
    --------
    >>> invol(2)
    tensor([[-2.0000,  0.5000],
            [-6.0000,  2.0000]], dtype=torch.float64)
    """
    rows = [[Fraction(1, i + j - 1) for j in range(1, n + 1)] for i in range(1, checked_size(n) + 1)]
    factor = Fraction(-n)
    for row in rows:
        row[0] *= factor
    for i in range(1, n):
        factor = -factor * (n + i) * (n - i) / (i * i)
        rows[i] = [factor * x for x in rows[i]]
    return finish(rows, dtype, device)


@entry(
    8,
    tags=["nonnormal", "defective", "triangular"],
    known={"eigenvalues": lambda n: [1] * n, "det": lambda n: 1, "rank": lambda n: n},
)
def jordan_block(
    n: int = 8, *, eigenvalue: float = 1.0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    r"""One Jordan block: rounding moves its eigenvalues by about :math:`\epsilon^{1/n}`.

    Examples
    --------
    >>> jordan_block(2)
    tensor([[1., 1.],
            [0., 1.]], dtype=torch.float64)
    """
    side = torch.ones(checked_size(n) - 1, dtype=torch.float64)
    return finish(tridiagonal(0 * side, torch.full((n,), eigenvalue, dtype=torch.float64), side), dtype, device)


@entry(
    8,
    tags=["nonnormal", "near-defective", "triangular"],
    known={"eigenvalues": lambda n: [1 + k * 2.0**-20 for k in range(n)], "rank": lambda n: n},
)
def near_defective(
    n: int = 8, *, gap: float = 2.0**-20, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """A Jordan block whose diagonal is spread by a tiny gap: diagonalisable, with condition about gap^(1-n).

    Examples
    --------
    >>> near_defective(2, gap=0.5)
    tensor([[1.0000, 1.0000],
            [0.0000, 1.5000]], dtype=torch.float64)
    """
    side = torch.ones(checked_size(n) - 1, dtype=torch.float64)
    main = 1 + gap * torch.arange(n, dtype=torch.float64)
    return finish(tridiagonal(0 * side, main, side), dtype, device)


@entry(10, tags=["complex", "nonnormal"], known={"eigenvalues": _smoke, "rank": lambda n: n})
def smoke(n: int = 10, *, dtype: torch.dtype = torch.complex128, device: _Device = None) -> Tensor:
    r"""The complex matrix with a smoke ring for a pseudospectrum: eigenvalues :math:`2^{1/n}` times the roots of unity.

    Examples
    --------
    >>> smoke(2).real
    tensor([[-1.,  1.],
            [ 1.,  1.]], dtype=torch.float64)
    """
    k = torch.arange(1, checked_size(n, 2) + 1, dtype=torch.float64)
    angle = k * (2 * math.pi / n)
    ring = torch.diag(torch.polar(torch.ones_like(angle), angle))
    corner = torch.roll(torch.eye(n, dtype=torch.float64), 1, 1)
    return finish(ring + corner, dtype, device)


@entry(
    12,
    tags=["nonnormal", "ill-conditioned", "triangular", "integer"],
    known={"eigenvalues": lambda n: [1] * n, "det": lambda n: 1, "rank": lambda n: n},
)
def triw(n: int = 12, *, alpha: float = -1.0, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Wilkinson's triangle, ones with :math:`\alpha` above: determinant 1, smallest singular value about 2^-n.

    Examples
    --------
    >>> triw(3)
    tensor([[ 1., -1., -1.],
            [ 0.,  1., -1.],
            [ 0.,  0.,  1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish((i == j).double() + alpha * (i < j).double(), dtype, device)


@entry(
    12,
    tags=["nonnormal", "triangular", "toeplitz", "integer"],
    known={
        "singular_values": _upper_ones,
        "eigenvalues": lambda n: [1] * n,
        "norm2": lambda n: _upper_ones(n)[0],
        "condition": lambda n: _upper_ones(n)[0] / _upper_ones(n)[-1],
        "det": lambda n: 1,
        "rank": lambda n: n,
    },
)
def upper_ones(n: int = 12, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The summation matrix, ones on and above the diagonal: singular values :math:`1 / (2\sin((2k-1)\pi/(4n+2)))`.

    Examples
    --------
    >>> upper_ones(2)
    tensor([[1., 1.],
            [0., 1.]], dtype=torch.float64)
    """
    i, j = indices(checked_size(n))
    return finish((i <= j).double(), dtype, device)
