"""`Laplacian` of a weighted graph, and the graphs one draws by hand: paths, grids, lists of edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import ArrayLike, Kind, as_tensor, check_finite
from resolvent.operators.operator import Operator
from resolvent.operators.pattern import Pattern
from resolvent.operators.sparse import Sparse

Normalized = Literal["none", "sym", "rw"]


class Laplacian(Sparse):
    r"""The Laplacian of an undirected graph, stored as a sparse matrix.

    With the adjacency W, its degrees d = W 1 and D = diag(d): ``D - W`` ("none"), ``I - D^{-1/2} W D^{-1/2}`` ("sym")
    or ``I - D^{-1} W`` ("rw"). A vertex of degree 0 has a zero row. Loops count in the degrees and cancel in "none".

    Parameters
    ----------
    adjacency : (n, n) symmetric matrix of weights: a `Sparse`, what `Sparse` takes, or a dense tensor or array
    normalized : "none", "sym" or "rw"

    Raises
    ------
    ValueError : not square, not symmetric, complex, or with a negative degree that should be divided by

    Notes
    -----
    Hermitian for "none" and "sym", and positive (semidefinite) unless a weight is negative; "rw" is similar to "sym".
    The product costs one pass over nnz + n entries. Gradients flow to the weights.

    Examples
    --------
    >>> L = Laplacian(path_graph(3))
    >>> L
    Laplacian 3x3 float32 positive
    >>> L.to_dense()
    tensor([[ 1., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  1.]])
    """

    normalized: Normalized

    def __init__(self, adjacency: Any, *, normalized: Normalized = "none") -> None:
        if normalized not in get_args(Normalized):
            raise ValueError(f"normalized must be 'none', 'sym' or 'rw', got {normalized!r}")
        W = _adjacency(adjacency)
        if W.is_complex:
            raise ValueError(f"adjacency must be real, got {W.dtype}")
        W.check_hermitian("adjacency")
        indptr, indices, values = _with_diagonal(W, normalized)
        hermitian = normalized != "rw"
        positive = hermitian and not bool((W.values.detach() < 0).any())
        self.normalized = normalized
        self._start(Pattern(indptr, indices, (W.shape[0], W.shape[1])), values, W.kind, hermitian, positive)


def _adjacency(adjacency: Any) -> Sparse:
    if isinstance(adjacency, Sparse):
        return adjacency
    if isinstance(adjacency, Operator):
        raise TypeError(f"adjacency must be a Sparse or dense matrix, got {type(adjacency).__name__}")
    if not isinstance(adjacency, np.ndarray | list) and not (
        isinstance(adjacency, Tensor) and adjacency.layout == torch.strided
    ):
        return Sparse(adjacency)
    W, kind = as_tensor(adjacency, "adjacency")
    if W.ndim != 2 or W.shape[0] != W.shape[1]:
        raise ValueError(f"adjacency must have shape (n, n), got {tuple(W.shape)}")
    check_finite(W, "adjacency")
    out = Sparse(W.to_sparse())
    out.kind = kind
    return out


def _with_diagonal(W: Sparse, normalized: Normalized) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the Laplacian: the entries off the diagonal, and one on it in every row."""
    n, w, rows, cols = W.shape[0], W.values, W._pattern.rows, W.indices.long()
    degrees = w.new_zeros(n).index_add(0, rows, w)
    apart = rows != cols
    rows_off, cols_off, w_off = rows[apart], cols[apart], w[apart]
    if normalized == "none":
        off, on = -w_off, w.new_zeros(n).index_add(0, rows_off, w_off)
    else:
        if bool((degrees.detach() < 0).any()):
            raise ValueError(f"normalized={normalized!r} needs degrees of at least 0, got {float(degrees.min()):.3g}")
        loops = w.new_zeros(n).index_add(0, rows[~apart], w[~apart])
        linked = degrees > 0
        # The inner `where` keeps the gradient of an isolated vertex free of 0 * inf.
        safe = torch.where(linked, degrees, 1)
        on = torch.where(linked, 1 - loops / safe, 0)
        root = safe.rsqrt()
        off = -w_off / safe[rows_off] if normalized == "rw" else -w_off * root[rows_off] * root[cols_off]
    every = torch.arange(n, device=w.device)
    place = torch.argsort(torch.cat([rows_off, every]) * n + torch.cat([cols_off, every]))
    indptr = W.indptr.new_zeros(n + 1, dtype=torch.int64)
    indptr[1:] = (torch.bincount(rows_off, minlength=n) + 1).cumsum(0)
    return indptr, torch.cat([cols_off, every])[place], torch.cat([off, on])[place]


def from_edges(
    edges: ArrayLike | Sequence[Sequence[int]],
    weights: ArrayLike | Sequence[float] | None = None,
    *,
    n: int | None = None,
    dtype: torch.dtype | None = None,
) -> Sparse:
    """The symmetric adjacency of an undirected graph from its edges.

    Parameters
    ----------
    edges : (e, 2) vertex pairs, each edge once, in either order; repeated edges add up
    weights : (e,) real, 1 by default; gradients flow to them
    n : number of vertices; default one more than the largest vertex
    dtype : of the adjacency; default that of `weights`, else torch's default

    Returns
    -------
    Sparse
        (n, n), Hermitian; of kind "numpy" if all that was given are arrays or lists and one is an array.

    Raises
    ------
    ValueError : a vertex outside 0 to n - 1, or shapes that do not fit

    Examples
    --------
    >>> from_edges([(0, 1), (1, 2)], [2.0, 3.0]).to_dense()
    tensor([[0., 2., 0.],
            [2., 0., 3.],
            [0., 3., 0.]])
    """
    classes = [type(a) for a in (edges, weights)]
    kind: Kind = "numpy" if np.ndarray in classes and Tensor not in classes else "torch"
    pairs = torch.as_tensor(np.asarray(edges) if not isinstance(edges, Tensor) else edges)
    if pairs.numel() == 0:
        pairs = pairs.new_zeros(0, 2, dtype=torch.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point() or pairs.is_complex():
        raise ValueError(f"edges must be integers of shape (e, 2), got {pairs.dtype} of shape {tuple(pairs.shape)}")
    a, b = pairs.long().unbind(1)
    largest = int(pairs.max()) if len(pairs) else -1
    n = largest + 1 if n is None else n
    if len(pairs) and (int(pairs.min()) < 0 or largest >= n):
        raise ValueError(f"edges must join vertices 0 to {n - 1}, got {int(pairs.min())} to {largest}")
    if weights is None:
        w = torch.ones(len(pairs), dtype=dtype or (torch.float64 if kind == "numpy" else None), device=pairs.device)
    else:
        w = weights if isinstance(weights, Tensor) else torch.as_tensor(weights)
        if tuple(w.shape) != (len(pairs),):
            raise ValueError(f"weights must have shape ({len(pairs)},), one per edge, got {tuple(w.shape)}")
        w = as_tensor(w if dtype is None else w.to(dtype), "weights")[0]
        if w.is_complex():
            raise ValueError(f"weights must be real, got {w.dtype}")
    other = a != b
    places = torch.stack([torch.cat([a, b[other]]), torch.cat([b, a[other]])])
    both = torch.cat([w, w[other]])
    out = Sparse(torch.sparse_coo_tensor(places, both, (n, n), check_invariants=False), hermitian=True)
    out.kind = kind
    return out


def path_graph(n: int, *, dtype: torch.dtype | None = None) -> Sparse:
    """The adjacency of a path: vertex i is joined with i + 1.

    Parameters
    ----------
    n : number of vertices, at least 1
    dtype : default torch's default

    Returns
    -------
    Sparse
        (n, n), Hermitian.

    Examples
    --------
    >>> path_graph(3).to_dense()
    tensor([[0., 1., 0.],
            [1., 0., 1.],
            [0., 1., 0.]])
    """
    return grid_graph((n,), dtype=dtype)


def grid_graph(dims: Sequence[int], *, periodic: bool = False, dtype: torch.dtype | None = None) -> Sparse:
    """The adjacency of a rectangular grid: neighbours along each axis are joined.

    Parameters
    ----------
    dims : vertices along each axis, each at least 1; vertices are numbered row-major, as `torch.arange(...).view(dims)`
    periodic : join the ends of each axis too (a ring, a torus); an axis needs 3 vertices for it, shorter ones stay open
    dtype : default torch's default

    Returns
    -------
    Sparse
        (n, n) with n the product of `dims`, Hermitian.

    Examples
    --------
    >>> grid_graph((2, 2)).to_dense()
    tensor([[0., 1., 1., 0.],
            [1., 0., 0., 1.],
            [1., 0., 0., 1.],
            [0., 1., 1., 0.]])
    """
    dims = tuple(int(d) for d in dims)
    if not dims or min(dims) < 1:
        raise ValueError(f"dims must be one or more sizes of at least 1, got {dims}")
    n = math.prod(dims)
    vertex = torch.arange(n).view(dims)
    links: list[Tensor] = []
    valid: list[Tensor] = []
    for axis, size in enumerate(dims):
        around = periodic and size > 2
        at = torch.arange(size).view(*(-1 if i == axis else 1 for i in range(len(dims))))
        for step in (-1, 1):
            links.append(vertex.roll(-step, axis).flatten())
            inside = torch.ones_like(at, dtype=torch.bool) if around else (at + step >= 0) & (at + step < size)
            valid.append(inside.expand(dims).flatten())
    # Neighbours are laid out vertex by vertex, so that only the few of one vertex need sorting.
    neighbours = torch.where(torch.stack(valid, 1), torch.stack(links, 1), n).sort(dim=1).values
    kept = neighbours < n
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
    values = torch.ones(int(indptr[-1]), dtype=dtype)
    return Sparse((indptr, neighbours[kept], values, (n, n)), hermitian=True)
