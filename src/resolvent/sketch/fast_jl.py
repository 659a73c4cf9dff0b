"""The fast Johnson-Lindenstrauss transform: a sparse Gaussian matrix after a randomized Walsh-Hadamard transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resolvent.operators.algebra import Product
from resolvent.operators.operator import Operator
from resolvent.operators.pattern import row_pointers
from resolvent.operators.sparse import Sparse
from resolvent.random import GeneratorLike
from resolvent.random import gaussian as normal_entries
from resolvent.random import rademacher as sign_entries
from resolvent.sketch.structured import MixedSigns, padded_size
from resolvent.sketch.transforms import checked


def fjlt_density(eps: float, points: int, n: int, *, analysis: str = "improved", constant: float = 1.0) -> float:
    r"""The share of nonzeros of P in a fast Johnson-Lindenstrauss transform that keeps all distances of some points.

    The classic analysis asks for :math:`q = C \ln^2 k / N`, the improved one for :math:`q = C \ln^2 k / (\alpha N)` with
    :math:`\alpha = \min(\varepsilon^{-1} \ln(1/\varepsilon), \ln k)`, k the number of points, N the power of two that n
    is padded to; both at most 1.

    Parameters
    ----------
    eps : relative error of a distance, in (0, 1)
    points : k, at least 2
    n : size before
    analysis : "improved" or "classic"
    constant : C

    Returns
    -------
    float
        In (0, 1].

    Raises
    ------
    ValueError : arguments out of range

    Notes
    -----
    The improved density is tight up to its constant: with fewer nonzeros some set of k points is not kept.
    alpha is at least 1, so that the improved density is never above the classic one.

    References
    ----------
    "The Fast Johnson-Lindenstrauss Transform is Even Faster"

    Examples
    --------
    >>> classic, improved = (fjlt_density(0.25, 1000, 4096, analysis=a) for a in ("classic", "improved"))
    >>> round(classic * 4096, 1), round(improved * 4096, 1)
    (47.7, 8.6)
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie in (0, 1), got {eps!r}")
    if points < 2 or n < 1:
        raise ValueError(f"points must be at least 2 and n at least 1, got {points!r} and {n!r}")
    if not constant > 0:
        raise ValueError(f"constant must be positive, got {constant!r}")
    if analysis not in ("improved", "classic"):
        raise ValueError(f"analysis must be 'improved' or 'classic', got {analysis!r}")
    log = math.log(points)
    alpha = max(1.0, min(math.log(1 / eps) / eps, log)) if analysis == "improved" else 1.0
    return min(1.0, constant * log**2 / (alpha * padded_size(n)))


def fjlt(
    m: int,
    n: int,
    *,
    eps: float = 0.1,
    points: int | None = None,
    density: str | float = "improved",
    constant: float = 1.0,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""The fast Johnson-Lindenstrauss transform :math:`S = m^{-1/2} P H D`.

    D holds n random signs, H is the normalized Walsh-Hadamard matrix of the next power of two N >= n, and P is m x N with
    independent entries: zero with probability 1 - q, else normal of variance 1/q.

    Parameters
    ----------
    m : number of rows; ``4 ln(points) / eps^2``, the constant of the paper, is usual
    n : number of columns
    eps : error of a distance that the density is chosen for
    points : number of points whose distances are to be kept; default max(n, 2)
    density : "improved", "classic" (see `fjlt_density`) or q itself, in (0, 1]
    constant : C of `fjlt_density`
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    Operator
        (m, n). Its ``cost`` is the flop model ``n + N log2 N + nnz(P)``.

    Raises
    ------
    ValueError : arguments out of range

    Notes
    -----
    One transform, then a sparse product with about q m N entries: the numbers of entries of the rows are binomial, their
    columns drawn without replacement. The transform costs O(N log N) and the sparse product
    :math:`O(m \ln^2 k / \alpha)` for k points.

    References
    ----------
    "The Fast Johnson-Lindenstrauss Transform is Even Faster"

    Examples
    --------
    >>> import torch
    >>> S = fjlt(500, 2000, eps=0.2, points=100, generator=0)
    >>> x = torch.zeros(2000)
    >>> x[7] = 3.0
    >>> 2.4 < float((S @ x).norm()) < 3.6
    True
    """
    m, n, dtype, g = checked(m, n, dtype, generator)
    if isinstance(density, str):
        count = max(n, 2) if points is None else points
        q = fjlt_density(eps, count, n, analysis=density, constant=constant)
    elif not 0 < density <= 1:
        raise ValueError(f"density must be 'improved', 'classic' or a number in (0, 1], got {density!r}")
    else:
        q = float(density)
    mixed = MixedSigns(sign_entries((n,), dtype, device, g))
    indptr, indices = _bernoulli_pattern(m, mixed.shape[0], q, g)
    values = normal_entries((len(indices),), dtype, device, g).mul_(1 / math.sqrt(q * m))
    P = Sparse((indptr.to(device), indices.to(device), values, (m, mixed.shape[0])))
    return Product(P, mixed)


def _bernoulli_pattern(m: int, N: int, q: float, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The places of an m x N matrix that are each taken with probability q, as compressed rows.

    Distances between taken places are geometric, so the work is that of the places taken and not m N.
    """
    total = m * N
    if q == 1:
        places = torch.arange(total, device=g.device)
    else:
        found, last = [], -1
        while last < total - 1:
            expected = (total - 1 - last) * q
            count = int(expected + 6 * math.sqrt(expected) + 16)
            uniform = torch.rand(count, generator=g, device=g.device, dtype=torch.float64)
            # log1p of minus a number in [0, 1) is finite; a gap beyond the end is cut so that sums stay integers.
            gaps = (torch.log1p(-uniform) / math.log1p(-q)).clamp_(max=total).long() + 1
            found.append(last + gaps.cumsum(0))
            last = int(found[-1][-1])
        places = torch.cat(found)
        places = places[places < total]
    counts = torch.bincount(places // N, minlength=m)
    return row_pointers(counts), places % N


__all__ = ["fjlt", "fjlt_density"]
