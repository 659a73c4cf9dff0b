"""Sparse matrices: Laplacians of known graphs, finite differences, finite elements, and random patterns."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from resolvent.operators.gallery.entry import checked_size, entry, from_spectrum
from resolvent.random import GeneratorLike, as_generator

__all__ = [
    "arrowhead", "laplacian_complete", "laplacian_cycle", "laplacian_grid", "laplacian_hypercube", "laplacian_path",
    "laplacian_star", "neumann", "poisson", "sparse_random", "wathen",
]  # fmt: skip

_Device = torch.device | str | None


def _coo(
    rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype, device: _Device
) -> Tensor:
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"dtype={dtype} must be floating or complex")
    # The sum over duplicates runs in double precision, so that the entries are rounded to `dtype` once.
    A = torch.sparse_coo_tensor(torch.stack([rows, cols]), values.double(), shape, check_invariants=True).coalesce()
    kept = A.values().to(dtype)
    return torch.sparse_coo_tensor(A.indices(), kept, shape, is_coalesced=True, check_invariants=False).to(device)


def _laplacian(edges: Tensor, n: int, dtype: torch.dtype, device: _Device) -> Tensor:
    """D - W of the unweighted graph with these undirected edges (2, m)."""
    a, b = edges
    ones = torch.ones(a.numel(), dtype=torch.float64)
    rows, cols = torch.cat([a, b, a, b]), torch.cat([b, a, a, b])
    return _coo(rows, cols, torch.cat([-ones, -ones, ones, ones]), (n, n), dtype, device)


def _grid_edges(n: int) -> Tensor:
    k = torch.arange(n * n).reshape(n, n)
    pairs = [(k[:-1], k[1:]), (k[:, :-1], k[:, 1:])]
    return torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in pairs], 1)


def _path(n: int) -> list[float]:
    return [4 * math.sin(k * math.pi / (2 * n)) ** 2 for k in range(n)]


def _cycle(n: int) -> list[float]:
    return sorted(4 * math.sin(min(k, n - k) * math.pi / n) ** 2 for k in range(n))


def _pair_sums(values: list[float]) -> list[float]:
    return sorted(a + b for a in values for b in values)


def _neumann(n: int) -> list[float]:
    return _pair_sums([4 * math.sin(k * math.pi / (2 * n - 2)) ** 2 for k in range(n)])


def _dirichlet(n: int) -> list[float]:
    return [4 * math.sin(k * math.pi / (2 * n + 2)) ** 2 for k in range(1, n + 1)]


_LAPLACIAN = ["sparse", "laplacian", "integer", "rank-deficient"]


@entry(12, positive=True, tags=_LAPLACIAN, known=from_spectrum(_path))
def laplacian_path(n: int = 12, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The Laplacian of a path of n vertices: eigenvalues :math:`4\sin^2(k\pi / 2n)`.

    Examples
    --------
    >>> laplacian_path(3).to_dense()
    tensor([[ 1., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  1.]], dtype=torch.float64)
    """
    k = torch.arange(checked_size(n))
    return _laplacian(torch.stack([k[:-1], k[1:]]), n, dtype, device)


@entry(12, positive=True, tags=[*_LAPLACIAN, "repeated"], known=from_spectrum(_cycle))
def laplacian_cycle(n: int = 12, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    r"""The Laplacian of a cycle: eigenvalues :math:`4\sin^2(k\pi / n)`, all but two at most in pairs.

    Examples
    --------
    >>> laplacian_cycle(3).to_dense()
    tensor([[ 2., -1., -1.],
            [-1.,  2., -1.],
            [-1., -1.,  2.]], dtype=torch.float64)
    """
    k = torch.arange(checked_size(n, 3))
    return _laplacian(torch.stack([k, k.roll(-1)]), n, dtype, device)


@entry(4, positive=True, tags=[*_LAPLACIAN, "repeated"], known=from_spectrum(lambda n: _pair_sums(_path(n))))
def laplacian_grid(n: int = 4, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The Laplacian of the n by n grid graph: sums of two eigenvalues of the path.

    Examples
    --------
    >>> laplacian_grid(2).to_dense().diagonal()
    tensor([2., 2., 2., 2.], dtype=torch.float64)
    """
    return _laplacian(_grid_edges(checked_size(n)), n * n, dtype, device)


@entry(
    10,
    positive=True,
    tags=[*_LAPLACIAN, "repeated"],
    known=from_spectrum(lambda n: [0] + [1] * (n - 2) + [n] if n > 1 else [0]),
)
def laplacian_star(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The Laplacian of a star: eigenvalues 0, 1 (n - 2 times) and n; one row is dense.

    Examples
    --------
    >>> laplacian_star(3).to_dense()
    tensor([[ 2., -1., -1.],
            [-1.,  1.,  0.],
            [-1.,  0.,  1.]], dtype=torch.float64)
    """
    leaves = torch.arange(1, checked_size(n))
    return _laplacian(torch.stack([torch.zeros_like(leaves), leaves]), n, dtype, device)


@entry(10, positive=True, tags=[*_LAPLACIAN, "repeated"], known=from_spectrum(lambda n: [0] + [n] * (n - 1)))
def laplacian_complete(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The Laplacian of the complete graph: eigenvalues 0 and n (n - 1 times).

    Examples
    --------
    >>> laplacian_complete(2).to_dense()
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    return _laplacian(torch.triu_indices(checked_size(n), n, 1), n, dtype, device)


@entry(
    3,
    positive=True,
    tags=[*_LAPLACIAN, "repeated"],
    known=from_spectrum(lambda n: [2 * k for k in range(n + 1) for _ in range(math.comb(n, k))]),
)
def laplacian_hypercube(n: int = 3, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The Laplacian of the n-cube's 2^n vertices: eigenvalue 2k with multiplicity C(n, k).

    Examples
    --------
    >>> laplacian_hypercube(1).to_dense()
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    vertices = torch.arange(2 ** checked_size(n))
    pairs = [vertices[(vertices >> bit) & 1 == 0] for bit in range(n)]
    edges = torch.cat([torch.stack([low, low + 2**bit]) for bit, low in enumerate(pairs)], 1)
    return _laplacian(edges, 2**n, dtype, device)


@entry(
    3,
    positive=True,
    tags=["sparse", "integer", "repeated"],
    known=from_spectrum(lambda n: _pair_sums(_dirichlet(n))),
)
def poisson(n: int = 3, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The five-point Laplacian on the n by n interior grid of a square, zero at the boundary.

    Examples
    --------
    >>> poisson(2).to_dense()
    tensor([[ 4., -1., -1.,  0.],
            [-1.,  4.,  0., -1.],
            [-1.,  0.,  4., -1.],
            [ 0., -1., -1.,  4.]], dtype=torch.float64)
    """
    a, b = _grid_edges(checked_size(n))
    k = torch.arange(n * n)
    values = torch.cat([torch.full((n * n,), 4.0), torch.full((2 * a.numel(),), -1.0)])
    return _coo(torch.cat([k, a, b]), torch.cat([k, b, a]), values, (n * n, n * n), dtype, device)


@entry(
    3,
    tags=["sparse", "integer", "nonnormal", "rank-deficient", "repeated"],
    known={
        "eigenvalues": _neumann, "det": lambda n: 0, "rank": lambda n: n * n - 1, "condition": lambda n: math.inf,
    },
)  # fmt: skip
def neumann(n: int = 3, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """The five-point Laplacian with mirrored (Neumann) boundaries: singular, not symmetric, constants in its kernel.

    Examples
    --------
    >>> neumann(2).to_dense()
    tensor([[ 4., -2., -2.,  0.],
            [-2.,  4.,  0., -2.],
            [-2.,  0.,  4., -2.],
            [ 0., -2., -2.,  4.]], dtype=torch.float64)
    """
    a, b = _grid_edges(checked_size(n, 2))
    rows, cols = torch.cat([a, b]), torch.cat([b, a])
    step = torch.where((rows - cols).abs() == 1, 1, n)
    place = torch.where(step == 1, rows % n, rows // n)
    values = torch.where((place == 0) | (place == n - 1), -2.0, -1.0)
    k = torch.arange(n * n)
    every = torch.cat([values, torch.full((n * n,), 4.0)])
    return _coo(torch.cat([rows, k]), torch.cat([cols, k]), every, (n * n, n * n), dtype, device)


@entry(1, positive=True, tags=["sparse", "random", "finite-elements"], known={"rank": lambda n: 3 * n * n + 4 * n + 1})
def wathen(
    n: int = 1,
    *,
    generator: GeneratorLike = 0,
    dtype: torch.dtype = torch.float64,
    device: _Device = None,
) -> Tensor:
    """The mass matrix of n by n serendipity elements with random densities: 3 n^2 + 4 n + 1 rows, positive.

    Examples
    --------
    >>> wathen(2).shape
    torch.Size([21, 21])
    """
    checked_size(n)
    e1 = [[6, -6, 2, -8], [-6, 32, -6, 20], [2, -6, 6, -6], [-8, 20, -6, 32]]
    e2 = [[3, -8, 2, -6], [-8, 16, -8, 20], [2, -8, 3, -8], [-6, 20, -8, 16]]
    top, side = torch.tensor(e1, dtype=torch.float64), torch.tensor(e2, dtype=torch.float64)
    element = torch.cat([torch.cat([top, side], 1), torch.cat([side.T, top], 1)]) / 45
    density = 100 * torch.rand(n * n, generator=as_generator(generator), dtype=torch.float64)
    nodes = torch.tensor([_wathen_nodes(i, j, n) for j, i in itertools.product(range(1, n + 1), repeat=2)])
    rows = nodes[:, :, None].expand(-1, 8, 8).flatten()
    cols = nodes[:, None, :].expand(-1, 8, 8).flatten()
    size = 3 * n * n + 4 * n + 1
    return _coo(rows, cols, (density[:, None, None] * element).flatten(), (size, size), dtype, device)


def _wathen_nodes(i: int, j: int, n: int) -> list[int]:
    first = 3 * j * n + 2 * i + 2 * j + 1
    middle = (3 * j - 1) * n + 2 * j + i - 1
    last = 3 * (j - 1) * n + 2 * i + 2 * j - 3
    return [k - 1 for k in (first, first - 1, first - 2, middle, last, last + 1, last + 2, middle + 1)]


@entry(10, hermitian=True, tags=["sparse", "integer", "indefinite"], known={"rank": lambda n: n})
def arrowhead(n: int = 10, *, dtype: torch.dtype = torch.float64, device: _Device = None) -> Tensor:
    """A dense first row and column of ones on the diagonal 1 - n, 2, 3, ..., n: elimination in this order fills it.

    Examples
    --------
    >>> arrowhead(3).to_dense()
    tensor([[-2.,  1.,  1.],
            [ 1.,  2.,  0.],
            [ 1.,  0.,  3.]], dtype=torch.float64)
    """
    k = torch.arange(1, checked_size(n))
    first = torch.zeros_like(k)
    diagonal = torch.arange(1, n + 1, dtype=torch.float64)
    diagonal[0] = 1 - n if n > 1 else 1
    ones = torch.ones(n - 1, dtype=torch.float64)
    rows, cols = torch.cat([torch.arange(n), k, first]), torch.cat([torch.arange(n), first, k])
    return _coo(rows, cols, torch.cat([diagonal, ones, ones]), (n, n), dtype, device)


@entry(12, tags=["sparse", "random", "nonnormal"])
def sparse_random(
    n: int = 12,
    *,
    per_row: int = 3,
    generator: GeneratorLike = 0,
    dtype: torch.dtype = torch.float64,
    device: _Device = None,
) -> Tensor:
    """Gaussian entries at a few random places of every row.

    Examples
    --------
    >>> sparse_random(100, per_row=3).shape
    torch.Size([100, 100])
    """
    g = as_generator(generator)
    count = checked_size(n) * checked_size(per_row, name="per_row")
    rows = torch.arange(n).repeat_interleave(per_row)
    cols = torch.randint(n, (count,), generator=g)
    values = torch.randn(count, generator=g, dtype=torch.float64)
    return _coo(rows, cols, values, (n, n), dtype, device)
