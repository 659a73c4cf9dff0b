"""Random test matrices with independent entries, dense and sparse, and one constructor for all kinds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse
from resolvent.random import GeneratorLike, as_generator
from resolvent.random import gaussian as normal_entries
from resolvent.random import rademacher as sign_entries

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
# Nonzeros a column: the number that works in practice for sizes in use (Martinsson and Tropp 2020, section 9.2).
_NONZEROS = 8


def make_sketch(
    kind: str,
    m: int,
    n: int,
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Operator:
    r"""A random m x n matrix S with :math:`E[S^H S] = I` that keeps lengths: :math:`\|S x\| \approx \|x\|`.

    Parameters
    ----------
    kind : what S is made of, and what a product with one vector costs
        "gaussian", "rademacher": dense independent entries, m n. "sparse_sign", "osnap": a few signs in every column,
        8 n. "count_sketch": one sign in every column, n. "srht": rows of a randomized Walsh-Hadamard transform,
        n log n. "srct": rows of a randomized circulant matrix, n log n. "fjlt": a sparse Gaussian matrix times a
        randomized Walsh-Hadamard transform.
    m : number of rows, the size after
    n : number of columns, the size before
    generator : a torch.Generator, an int or None
        Numbers are drawn on the generator's device: an int gives the same S on every device.
    dtype : float32, float64, complex64 or complex128; default torch's default dtype
    device : of the products
    **options : of the constructor of that kind, for example ``nonzeros=4``

    Returns
    -------
    Operator
        Shape (m, n). ``S @ X``, ``S.H @ Y`` and their gradients; ``S.to_dense()``.

    Raises
    ------
    ValueError : an unknown kind, sizes that make no sense
    TypeError : an option that the kind does not have

    Notes
    -----
    `recommended_size` gives the m that keeps a subspace or a set of points, `distortion` measures what S did.

    References
    ----------
    "Randomized numerical linear algebra: Foundations and algorithms"

    Examples
    --------
    >>> import torch
    >>> S = make_sketch("srht", 64, 1000, generator=0, dtype=torch.float64)
    >>> x = torch.ones(1000, dtype=torch.float64)
    >>> S.shape, 0.5 < float((S @ x).norm() / x.norm()) < 1.5
    (torch.Size([64, 1000]), True)
    """
    known = constructors()
    if kind not in known:
        raise ValueError(f"kind must be one of {', '.join(sorted(known))}, got {kind!r}")
    return known[kind](m, n, generator=generator, dtype=dtype, device=device, **options)


def constructors() -> dict[str, Callable[..., Operator]]:
    """What makes each kind of sketch."""
    from resolvent.sketch.fast_jl import fjlt
    from resolvent.sketch.structured import srct, srht

    plain = (gaussian, rademacher, sparse_sign, count_sketch, osnap, srht, srct, fjlt)
    return {constructor.__name__: constructor for constructor in plain}


def gaussian(
    m: int,
    n: int,
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""Independent normal entries of variance 1/m.

    Parameters
    ----------
    m, n : number of rows and columns
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    Operator
        Dense, (m, n).

    Notes
    -----
    The strongest guarantee: for a subspace of dimension d, every singular value of ``S Q`` lies within
    :math:`\sqrt{d/m} + \sqrt{2 \ln(2/\delta)/m}` of 1 with probability 1 - delta. m n numbers, a GEMM for a block.

    References
    ----------
    "Local operator theory, random matrices and Banach spaces"

    Examples
    --------
    >>> gaussian(20, 300, generator=0).shape
    torch.Size([20, 300])
    """
    m, n, dtype, g = checked(m, n, dtype, generator)
    return Dense(normal_entries((m, n), dtype, device, g).mul_(m**-0.5))


def rademacher(
    m: int,
    n: int,
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""Independent signs divided by sqrt(m): every column has length 1.

    Parameters
    ----------
    m, n : number of rows and columns
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`; a complex dtype gets fourth roots of one

    Returns
    -------
    Operator
        Dense, (m, n).

    Notes
    -----
    One length is kept at least as well as by a Gaussian matrix:
    :math:`P(|\|Sx\|^2 - 1| > \varepsilon) \le 2 e^{-m (\varepsilon^2/4 - \varepsilon^3/6)}` for real x of length 1.

    References
    ----------
    "Database-friendly random projections: Johnson-Lindenstrauss with binary coins"

    Examples
    --------
    >>> S = rademacher(4, 3, generator=0).to_dense()
    >>> float(S.abs().max()), float(S.norm(dim=0).max())
    (0.5, 1.0)
    """
    m, n, dtype, g = checked(m, n, dtype, generator)
    return Dense(sign_entries((m, n), dtype, device, g).mul_(m**-0.5))


def sparse_sign(
    m: int,
    n: int,
    *,
    nonzeros: int | None = None,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""Every column holds s random signs divided by sqrt(s), in s different rows drawn uniformly.

    Parameters
    ----------
    m, n : number of rows and columns
    nonzeros : s, from 1 to m; default 8 (m if that is less)
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    Operator
        Sparse, (m, n), s n stored entries.

    Notes
    -----
    A product reads X once and adds every row of it to s rows of the result. A subspace of dimension d is kept for m of
    the order d log(d) and s of the order log(d); s = 8 works at the sizes in use. With s = 1 this is `count_sketch`.

    References
    ----------
    "Sparser Johnson-Lindenstrauss Transforms"

    Examples
    --------
    >>> S = sparse_sign(50, 400, nonzeros=4, generator=0).to_dense()
    >>> sorted(set((S != 0).sum(0).tolist())), float(S.abs().max())
    ([4], 0.5)
    """
    m, n, dtype, g = checked(m, n, dtype, generator)
    s = _nonzeros(nonzeros, m)
    return _columns(_distinct(n, m, s, g), m, dtype, device, g)


def count_sketch(
    m: int,
    n: int,
    *,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""Every column holds one random sign in a random row (the Clarkson-Woodruff transform).

    Parameters
    ----------
    m, n : number of rows and columns
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    Operator
        Sparse, (m, n), n stored entries.

    Notes
    -----
    The cheapest sketch: a product is one pass over X. It needs :math:`m = (d^2 + d) / (\varepsilon^2 \delta)` rows for
    a subspace of dimension d, and single coordinates may come out wrong with fewer: see `sketch_and_solve`.

    References
    ----------
    "Low-rank approximation and regression in input sparsity time"

    Examples
    --------
    >>> S = count_sketch(8, 5, generator=0)
    >>> (S.to_dense().abs().sum(0)).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    return sparse_sign(m, n, nonzeros=1, generator=generator, dtype=dtype, device=device)


def osnap(
    m: int,
    n: int,
    *,
    nonzeros: int | None = None,
    generator: GeneratorLike = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Operator:
    r"""s count sketches on top of each other: every column holds one sign, divided by sqrt(s), in each block of rows.

    Parameters
    ----------
    m, n : number of rows and columns
    nonzeros : s, from 1 to m; default 8 (m if that is less)
    generator : a torch.Generator, an int or None
    dtype, device : as in `make_sketch`

    Returns
    -------
    Operator
        Sparse, (m, n), s n stored entries.

    Notes
    -----
    The block construction of OSNAP: rows are cut into s blocks of (nearly) equal height. As `sparse_sign`, with
    :math:`m = O(d \log(d/\delta) / \varepsilon^2)` and :math:`s = O(\log(d/\delta) / \varepsilon)`.

    References
    ----------
    "OSNAP: Faster numerical linear algebra algorithms via sparser subspace embeddings"

    Examples
    --------
    >>> S = osnap(6, 100, nonzeros=2, generator=0).to_dense()
    >>> bool(((S[:3] != 0).sum(0) == 1).all() and ((S[3:] != 0).sum(0) == 1).all())
    True
    """
    m, n, dtype, g = checked(m, n, dtype, generator)
    s = _nonzeros(nonzeros, m)
    edges = torch.arange(s + 1, device=g.device) * m // s
    heights = edges.diff()
    drawn = torch.rand(n, s, generator=g, device=g.device, dtype=torch.float64)
    # A number just below one times a height may round up to the height.
    rows = edges[:-1] + torch.minimum((drawn * heights).long(), heights - 1)
    return _columns(rows, m, dtype, device, g)


def checked(
    m: Any, n: Any, dtype: torch.dtype | None, generator: GeneratorLike
) -> tuple[int, int, torch.dtype, torch.Generator]:
    """Sizes, dtype and generator of a sketch, or an error that names the argument."""
    for name, size in (("m", m), ("n", n)):
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {size!r}")
    dtype = dtype or torch.get_default_dtype()
    if dtype not in _DTYPES:
        raise TypeError(f"dtype must be float32, float64, complex64 or complex128, got {dtype}")
    return int(m), int(n), dtype, as_generator(generator)


def _nonzeros(nonzeros: Any, m: int) -> int:
    if nonzeros is None:
        return min(_NONZEROS, m)
    if isinstance(nonzeros, bool) or not isinstance(nonzeros, int | np.integer) or not 1 <= nonzeros <= m:
        raise ValueError(f"nonzeros must be an int from 1 to m = {m}, got {nonzeros!r}")
    return int(nonzeros)


def _distinct(n: int, m: int, s: int, g: torch.Generator) -> Tensor:
    """n uniform subsets of s of the numbers below m, by Floyd's method for all n at once."""
    chosen = torch.empty(s, n, dtype=torch.int64, device=g.device)
    for step, top in enumerate(range(m - s, m)):
        chosen[step] = torch.randint(top + 1, (n,), generator=g, device=g.device)
        taken = torch.zeros(n, dtype=torch.bool, device=g.device)
        for earlier in range(step):
            taken |= chosen[earlier] == chosen[step]
        chosen[step][taken] = top
    return chosen.T


def _columns(rows: Tensor, m: int, dtype: torch.dtype, device: torch.device | str, g: torch.Generator) -> Operator:
    """Random signs in the given rows (n, s) of every column, as the adjoint of a sparse matrix with n rows.

    The rows of the adjoint are all of one length, and its product scatters: X is read once, in order.
    """
    n, s = rows.shape
    values = sign_entries((n * s,), dtype, device, g).mul_(1 / math.sqrt(s))
    indptr = torch.arange(0, n * s + 1, s, device=device)
    return Sparse((indptr, rows.reshape(-1).to(device), values, (n, m))).H


__all__ = ["make_sketch", "gaussian", "rademacher", "sparse_sign", "count_sketch", "osnap"]
