"""Matrices at the limits of floating point: graded, clustered, repeated, rank-deficient, huge, tiny and subnormal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resolvent.operators.gallery.entry import checked_size, entry, finish, from_spectrum, indices

__all__ = [
    "clustered", "geometric", "graded", "graded_rows", "huge", "identity", "near_overflow", "near_singular",
    "one_by_one", "rank_deficient", "rank_one", "repeated", "sign_pairs", "subnormal", "tiny", "zero",
]  # fmt: skip

_Device = torch.device | str | None


def _real(dtype: torch.dtype) -> torch.finfo:
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"dtype={dtype} must be floating or complex")
    return torch.finfo(dtype.to_real())


def _wide(dtype: torch.dtype) -> float:
    """About 300 orders of magnitude in float64 and 36 in float32, as an exponent of two to each side of 1."""
    info = _real(dtype)
    return math.floor(min(math.log2(info.max), -math.log2(info.tiny)) * 0.49)


def _reflected(eigenvalues: list[float]) -> Tensor:
    """H diag(eigenvalues) H for the reflection H = I - (2/n) 1 1^T, so that no axis is an eigenvector."""
    w = torch.tensor(eigenvalues, dtype=torch.float64)
    n = w.numel()
    return torch.diag(w) - (2 / n) * (w[:, None] + w[None, :]) + (4 * w.sum() / n**2)


def _clustered(n: int) -> list[float]:
    return [1 + k * 2.0**-30 for k in range(n // 2)] + [2 + k * 2.0**-30 for k in range(n - n // 2)]


def _repeated(n: int) -> list[float]:
    return [1.0] * (n // 3) + [2.0] * (n // 3) + [5.0] * (n - 2 * (n // 3))


def _geometric(n: int) -> list[float]:
    return [4.0 ** (k - n + 1) for k in range(n)]


def _near_singular(n: int) -> list[float]:
    return [2.0**-50] + [1 + k / n for k in range(n - 1)]


def _deficient(n: int) -> list[float]:
    return [0.0] * (n - n // 2) + [float(k) for k in range(1, n // 2 + 1)]


def _signs(n: int) -> list[float]:
    return sorted([float(k // 2 + 1) * (1 if k % 2 else -1) for k in range(n)])


@entry(8, positive=True, tags=["clustered"], known=from_spectrum(_clustered))
def clustered(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Two tight clusters of eigenvalues, at 1 and at 2, each spread in steps of :math:`2^{-30}`.

    Examples
    --------
    >>> round(float(torch.linalg.eigvalsh(clustered(4))[0]), 6)
    1.0
    """
    checked_size(n, 2)
    return finish(_reflected(_clustered(n)), dtype, device)


@entry(9, positive=True, tags=["repeated"], known=from_spectrum(_repeated))
def repeated(n: int = 9, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Three eigenvalues, 1, 2 and 5, each repeated n/3 times.

    Examples
    --------
    >>> float(repeated(9).trace().round())
    24.0
    """
    checked_size(n, 3)
    return finish(_reflected(_repeated(n)), dtype, device)


@entry(
    10,
    positive=True,
    tags=["ill-conditioned", "geometric"],
    known={**from_spectrum(_geometric), "det": lambda n: 2.0 ** (-n * (n - 1))},
)
def geometric(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""A full matrix with the geometric eigenvalues :math:`4^{-k}`, the spectrum of smooth kernels.

    Examples
    --------
    >>> round(float(geometric(4).trace()), 6)
    1.328125
    """
    checked_size(n)
    return finish(_reflected(_geometric(n)), dtype, device)


@entry(8, positive=True, tags=["ill-conditioned"], known=from_spectrum(_near_singular))
def near_singular(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""Eigenvalues between 1 and 2 but for one of :math:`2^{-50}`: a single direction near rank deficiency.

    Examples
    --------
    >>> near_singular(4).shape
    torch.Size([4, 4])
    """
    checked_size(n)
    return finish(_reflected(_near_singular(n)), dtype, device)


@entry(10, positive=True, tags=["rank-deficient"], known=from_spectrum(_deficient))
def rank_deficient(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """A positive semidefinite full matrix of rank n/2 with eigenvalues 1, 2, ..., n/2.

    Examples
    --------
    >>> int(torch.linalg.matrix_rank(rank_deficient(8)))
    4
    """
    checked_size(n, 2)
    return finish(_reflected(_deficient(n)), dtype, device)


@entry(
    8,
    tags=["rank-deficient", "rectangular", "integer"],
    known={
        "norm2": lambda n: math.sqrt(n * (n + 1) * (2 * n + 1) / 6 * (n + 4)),
        "rank": lambda n: 1,
    },
)  # fmt: skip
def rank_one(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The (n, n+4) matrix whose every column is 1, 2, ..., n.

    Examples
    --------
    >>> rank_one(2)
    tensor([[1., 1., 1., 1., 1., 1.],
            [2., 2., 2., 2., 2., 2.]], dtype=torch.float64)
    """
    i, _ = indices(checked_size(n))
    return finish(i.expand(n, n + 4).contiguous(), dtype, device)


@entry(8, hermitian=True, tags=["indefinite", "sign-pairs"], known=from_spectrum(_signs))
def sign_pairs(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """Eigenvalues ±1, ±2, ..., of pairwise equal modulus: a power iteration on it never settles.

    Examples
    --------
    >>> float(sign_pairs(4).trace())
    0.0
    """
    checked_size(n, 2)
    return finish(_reflected(_signs(n)), dtype, device)


@entry(9, positive=True, tags=["graded", "extreme"], known={"rank": lambda n: n})
def graded(n: int = 9, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""D K D with :math:`K = \rho^{|i-j|}` and a graded D: 300 orders of magnitude in float64.

    Examples
    --------
    >>> float(graded(9)[0, 0] / graded(9)[-1, -1]) > 1e280
    True
    """
    i, j = indices(checked_size(n))
    reach = _wide(dtype) if n > 1 else 0
    power = torch.round(reach * (n + 1 - 2 * torch.cat([i, j.T], 1)) / max(n - 1, 1) / 2)
    scale = torch.exp2(power[:, :1]) * torch.exp2(power[:, 1:].T)
    return finish(scale * 0.5 ** (i - j).abs(), dtype, device)


@entry(9, tags=["graded", "extreme", "nonnormal"], known={"rank": lambda n: n})
def graded_rows(n: int = 9, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""D K with the rows of :math:`K = \rho^{|i-j|}` graded over the same range, the small ones first.

    Examples
    --------
    >>> float(graded_rows(9)[-1, -1] / graded_rows(9)[0, 0]) > 1e280
    True
    """
    i, j = indices(checked_size(n))
    power = torch.round(_wide(dtype) * (2 * i - n - 1) / max(n - 1, 1))
    return finish(torch.exp2(power) * 0.5 ** (i - j).abs(), dtype, device)


@entry(8, positive=True, tags=["extreme", "huge"], known={"rank": lambda n: n})
def huge(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""min(i, j) times the fourth fifth of the exponent range: the norm is finite, its square is not.

    Examples
    --------
    >>> bool(torch.isfinite(huge(4)).all()), bool(torch.isfinite(huge(4) ** 2).all())
    (True, False)
    """
    i, j = indices(checked_size(n))
    return finish(torch.minimum(i, j) * 2.0 ** math.floor(0.8 * math.log2(_real(dtype).max)), dtype, device)


@entry(8, hermitian=True, tags=["extreme", "huge"], known={"rank": lambda n: n})
def near_overflow(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""|i - j| + 1 scaled so that the largest entry is near the overflow threshold: only the 2-norm's neighbours fit.

    Examples
    --------
    >>> float(near_overflow(4).abs().max()) > 1e306
    True
    """
    i, j = indices(checked_size(n))
    scale = 2.0 ** (math.floor(math.log2(_real(dtype).max)) - 2 * math.ceil(math.log2(n + 1)))
    return finish(((i - j).abs() + 1) * scale, dtype, device)


@entry(8, positive=True, tags=["extreme", "tiny"], known={"rank": lambda n: n})
def tiny(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""min(i, j) times the smallest normal number: the square of every entry underflows.

    Examples
    --------
    >>> float((tiny(4) ** 2).abs().max())
    0.0
    """
    i, j = indices(checked_size(n))
    return finish(torch.minimum(i, j) * _real(dtype).tiny, dtype, device)


@entry(8, hermitian=True, tags=["extreme", "subnormal"])
def subnormal(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""|i - j| + 1 times four times the smallest subnormal number: every entry is subnormal.

    Examples
    --------
    >>> 0 < float(subnormal(4).max()) < torch.finfo(torch.float64).tiny
    True
    """
    i, j = indices(checked_size(n))
    info = _real(dtype)
    return finish(((i - j).abs() + 1) * (4 * info.tiny * info.eps), dtype, device)


@entry(8, positive=True, tags=["rank-deficient", "integer", "repeated"], known=from_spectrum(lambda n: [0] * n))
def zero(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The zero matrix, where a normalisation divides by nothing.

    Examples
    --------
    >>> zero(1)
    tensor([[0.]], dtype=torch.float64)
    """
    return finish(torch.zeros(checked_size(n), n, dtype=torch.float64), dtype, device)


@entry(8, positive=True, tags=["unitary", "integer", "repeated"], known=from_spectrum(lambda n: [1] * n))
def identity(n: int = 8, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The identity matrix, on which Krylov spaces have dimension one.

    Examples
    --------
    >>> identity(1)
    tensor([[1.]], dtype=torch.float64)
    """
    return finish(torch.eye(checked_size(n), dtype=torch.float64), dtype, device)


@entry(1, hermitian=True, tags=["integer"], known=from_spectrum(lambda n: [-3]))
def one_by_one(n: int = 1, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The 1 by 1 matrix -3.

    Examples
    --------
    >>> one_by_one()
    tensor([[-3.]], dtype=torch.float64)
    """
    if n != 1:
        raise ValueError(f"n={n} must be 1 for the 1 by 1 matrix")
    return finish([[-3]], dtype, device)
