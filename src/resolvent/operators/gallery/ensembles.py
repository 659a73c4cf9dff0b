"""Random ensembles with a fixed default seed: the spectra that large data and untrained networks show."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resolvent.operators.gallery.entry import checked_size, entry, finish, from_spectrum
from resolvent.random import GeneratorLike, as_generator
from resolvent.random import gaussian as _normal
from resolvent.random import rademacher as _signs

__all__ = [
    "correlation", "doubly_stochastic", "gaussian", "goe", "gue", "haar_orthogonal", "haar_unitary", "heavy_tailed",
    "low_rank_plus_noise", "rademacher", "spiked_covariance", "stochastic", "wishart",
]  # fmt: skip

_Device = torch.device | str | None


def _haar(n: int, dtype: torch.dtype, generator: GeneratorLike) -> Tensor:
    Q, R = torch.linalg.qr(_normal((n, n), dtype, generator=generator))
    # The phases of R's diagonal make the factorisation unique, and Q uniform.
    return Q * torch.sgn(R.diagonal())


def _gram(X: Tensor) -> Tensor:
    G = X @ X.mH / X.shape[-1]
    return (G + G.mH) / 2


@entry(10, tags=["random", "rectangular"])
def gaussian(
    n: int = 10,
    m: int | None = None,
    *,
    generator: GeneratorLike = 0,
    dtype: torch.dtype = torch.float64,
    device: _Device = None,
) -> Tensor:
    r"""Independent normal entries of variance 1/n, (n, m) with m = 3n/2: the flat spectrum of an untrained layer.

    Examples
    --------
    >>> gaussian(4, 8).shape
    torch.Size([4, 8])
    """
    columns = checked_size(n) * 3 // 2 if m is None else checked_size(m, name="m")
    return finish(_normal((n, columns), generator=generator) / math.sqrt(n), dtype, device)


@entry(10, tags=["random", "integer"])
def rademacher(
    n: int = 10, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """Independent signs ±1.

    Examples
    --------
    >>> rademacher(4).abs().sum()
    tensor(16., dtype=torch.float64)
    """
    return finish(_signs((checked_size(n), n), generator=generator), dtype, device)


@entry(10, tags=["random", "extreme"])
def heavy_tailed(
    n: int = 10, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """Independent Cauchy entries: a few of them carry the whole norm.

    Examples
    --------
    >>> heavy_tailed(4).shape
    torch.Size([4, 4])
    """
    top, bottom = _normal((2, checked_size(n), n), generator=generator)
    return finish(top / bottom, dtype, device)


@entry(10, hermitian=True, tags=["random", "indefinite"])
def goe(
    n: int = 10, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    r"""The Gaussian orthogonal ensemble, scaled to the semicircle on [-2, 2].

    Examples
    --------
    >>> A = goe(4)
    >>> bool((A == A.T).all())
    True
    """
    G = _normal((checked_size(n), n), generator=generator)
    return finish((G + G.T) / math.sqrt(2 * n), dtype, device)


@entry(8, hermitian=True, tags=["random", "complex", "indefinite"])
def gue(
    n: int = 8, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.complex128, device: _Device = None
) -> Tensor:
    r"""The Gaussian unitary ensemble, complex Hermitian, scaled to the semicircle on [-2, 2].

    Examples
    --------
    >>> A = gue(4)
    >>> bool((A == A.mH).all())
    True
    """
    G = _normal((checked_size(n), n), torch.complex128, generator=generator)
    return finish((G + G.mH) / math.sqrt(2 * n), dtype, device)


@entry(10, positive=True, tags=["random", "marchenko-pastur"])
def wishart(
    n: int = 10, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """The covariance of 2n samples of white noise in n dimensions: Marchenko and Pastur's law of ratio 1/2.

    Examples
    --------
    >>> wishart(4).shape
    torch.Size([4, 4])
    """
    return finish(_gram(_normal((checked_size(n), 2 * n), generator=generator)), dtype, device)


@entry(10, positive=True, tags=["random", "marchenko-pastur", "spiked"])
def spiked_covariance(
    n: int = 10,
    *,
    spikes: tuple[float, ...] = (25.0, 9.0),
    generator: GeneratorLike = 0,
    dtype: torch.dtype = torch.float64,
    device: _Device = None,
) -> Tensor:
    """The covariance of 2n samples whose first coordinates have the variances `spikes` and the others 1.

    Examples
    --------
    >>> spiked_covariance(4).shape
    torch.Size([4, 4])
    """
    if len(spikes) > checked_size(n) or any(s < 0 for s in spikes):
        raise ValueError(f"spikes={spikes} must be at most n={n} variances >= 0")
    X = _normal((n, 2 * n), generator=generator)
    X[: len(spikes)] *= torch.tensor(spikes, dtype=torch.float64).sqrt()[:, None]
    return finish(_gram(X), dtype, device)


@entry(8, positive=True, tags=["random", "rank-deficient"])
def correlation(
    n: int = 8, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """The cosine similarities of n points in n/2 dimensions: unit diagonal, rank n/2 but for rounding.

    Examples
    --------
    >>> correlation(4).diagonal()
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    X = _normal((checked_size(n, 2), n // 2), generator=generator)
    C = _gram(torch.nn.functional.normalize(X, dim=1)) * (n // 2)
    return finish(C.fill_diagonal_(1), dtype, device)


@entry(8, tags=["random", "unitary", "normal"])
def haar_orthogonal(
    n: int = 8, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """A uniformly distributed orthogonal matrix, as the Q of a Gaussian matrix with R's diagonal made positive.

    Examples
    --------
    >>> Q = haar_orthogonal(4)
    >>> torch.allclose(Q.T @ Q, torch.eye(4, dtype=Q.dtype))
    True
    """
    return finish(_haar(checked_size(n), torch.float64, generator), dtype, device)


@entry(8, tags=["random", "unitary", "normal", "complex"])
def haar_unitary(
    n: int = 8, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.complex128, device: _Device = None
) -> Tensor:
    """A uniformly distributed unitary matrix.

    Examples
    --------
    >>> Q = haar_unitary(4)
    >>> torch.allclose(Q.mH @ Q, torch.eye(4, dtype=Q.dtype))
    True
    """
    return finish(_haar(checked_size(n), torch.complex128, generator), dtype, device)


@entry(10, tags=["random", "nonnormal", "markov"])
def stochastic(
    n: int = 10, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """A random transition matrix: nonnegative rows that sum to 1.

    Examples
    --------
    >>> torch.allclose(stochastic(4).sum(1), torch.ones(4, dtype=torch.float64))
    True
    """
    P = torch.rand(checked_size(n), n, generator=as_generator(generator), dtype=torch.float64)
    return finish(P / P.sum(1, keepdim=True), dtype, device)


@entry(10, tags=["random", "markov"], known={"norm2": from_spectrum(lambda n: [1])["norm2"]})
def doubly_stochastic(
    n: int = 10, *, generator: GeneratorLike = 0, dtype: torch.dtype = torch.float64, device: _Device = None
) -> Tensor:
    """The mean of four random permutations: rows and columns sum to 1 exactly, and so does the norm.

    Examples
    --------
    >>> doubly_stochastic(4).sum(0)
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    g = as_generator(generator)
    eye = torch.eye(checked_size(n), dtype=torch.float64)
    return finish(
        sum((eye[torch.randperm(n, generator=g)] for _ in range(4)), torch.zeros_like(eye)) / 4, dtype, device
    )


@entry(10, tags=["random", "low-rank", "rectangular"])
def low_rank_plus_noise(
    n: int = 10,
    *,
    rank: int = 3,
    noise: float = 1e-6,
    generator: GeneratorLike = 0,
    dtype: torch.dtype = torch.float64,
    device: _Device = None,
) -> Tensor:
    """A Gaussian (n, n+2) matrix of low rank with a small Gaussian noise added.

    Examples
    --------
    >>> int((torch.linalg.svdvals(low_rank_plus_noise(10)) > 1e-3).sum())
    3
    """
    g = as_generator(generator)
    columns = checked_size(n) + 2
    U, V = _normal((n, rank), generator=g), _normal((rank, columns), generator=g)
    return finish(U @ V + noise * _normal((n, columns), generator=g), dtype, device)
