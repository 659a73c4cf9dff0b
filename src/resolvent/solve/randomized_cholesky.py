"""Randomised incomplete Cholesky factors of Laplacians and diagonally dominant matrices, by sampled elimination."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator
from resolvent.spectra.inertia import scipy_matrix

# Row sums that count as zero, in rounding errors of the sum of the absolute values in the row.
_ROUNDING = 8.0


class _Graph(NamedTuple):
    """A weighted graph: vertices, the one that is held at zero (-1: none), and the ends and weights of the edges."""

    n: int
    ground: int
    u: np.ndarray
    v: np.ndarray
    weights: np.ndarray
    doubled: bool


class RandomizedFactors(Operator):
    """The inverse of L D L^T on the complement of the kernel; not differentiable in A, and on the host."""

    def __init__(self, A: Operator, graph: _Graph, factors: tuple[np.ndarray, ...], kernel: tuple[np.ndarray, ...]):
        super().__init__(A.shape, dtype=A.dtype, device=A.device, kind=A.kind, positive=True)
        self._graph, self._factors, self._kernel = graph, factors, kernel

    @property
    def cost(self) -> float:
        """Multiplications of a product with one vector."""
        return float(2 * len(self._factors[3]) + len(self._factors[0]))

    @property
    def nonzeros(self) -> int:
        """Entries of L, its diagonal included."""
        return len(self._factors[3]) + len(self._factors[0])

    def _matmul(self, X: Tensor) -> Tensor:
        return _Apply.apply(X, self)

    def _adjoint(self) -> Operator:
        return self

    def _substituted(self, X: Tensor) -> Tensor:
        from resolvent.solve import randomized_cholesky_kernel as kernel

        order, inverse, starts, rows, entries = self._factors
        labels, counts = self._kernel
        side = X.detach().movedim(-2, 0)
        Y = side.flatten(1).cpu().numpy().astype(entries.dtype, order="C", copy=True)
        n = len(Y)
        if self._graph.doubled:
            Y = np.concatenate([Y, -Y]) / 2
        if counts.size:
            kernel.center(labels, counts, Y)
        Z = np.ascontiguousarray(Y[order])
        if Z.shape[1] == 1:
            kernel.substitute_one(starts, rows, entries, inverse, Z[:, 0])
        else:
            kernel.substitute(starts, rows, entries, inverse, Z)
        Y[order] = Z
        if counts.size:
            kernel.center(labels, counts, Y)
        if self._graph.doubled:
            Y = Y[:n] - Y[n:]
        return torch.from_numpy(Y).to(X.device).reshape(side.shape).movedim(0, -2)


class _Apply(torch.autograd.Function):
    """The product; the operator is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, M: RandomizedFactors) -> Tensor:
        ctx.M = M
        return M._substituted(X)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Apply.apply(grad, ctx.M), None


def randomized_cholesky(A: OperatorLike, *, copies: int = 1, generator: GeneratorLike = None) -> RandomizedFactors:
    r"""A preconditioner for graph Laplacians: sparse factors with :math:`E[L D L^T] = A`, by sampled elimination.

    Parameters
    ----------
    A : (n, n) real symmetric matrix with :math:`a_{ii} \ge \sum_{j \ne i} |a_{ij}|`, sparse (what `Sparse` takes, and sums
        and multiples) or dense: Laplacians (singular ones too), grids with Dirichlet boundaries, shifted ones
    copies : parallel edges that each edge is split into, and that are kept between two vertices; more make better and larger
        factors
    generator : of the samples

    Returns
    -------
    Operator, positive (semidefinite: where A has a kernel, it has the same, so that iterations from zero end at the
    solution of least norm). It has `nonzeros`, the entries of L. Gradients to what it is multiplied with, none to A.

    Raises
    ------
    ValueError : not square, not symmetric, complex, not diagonally dominant beyond rounding, copies below 1
    TypeError : A is neither sparse nor dense

    Notes
    -----
    Vertices are eliminated one after another, those of few edges first. Exact elimination joins all neighbours of a
    vertex; here each of its d edges, from light to heavy, is joined to one heavier one at random, with weights that keep the
    mean. So edges never become more: O(m log m) for m entries, at any structure and contrast of the weights. A row sum above zero
    is an edge to a ground vertex; entries above zero off the diagonal are edges to the negative of a second copy
    of the graph, which doubles the work. Substitutions run on one core.

    The theorem needs O(log^2 n) copies for factors that are near to A with high probability; in practice one copy takes 20
    to 50 steps of `cg` to 1e-8. Copies pay where exact elimination fills in slowly: on a 150 x 150 grid four of them cost
    a third more entries and 22 steps instead of 37.

    References
    ----------
    "Approximate Gaussian Elimination for Laplacians - Fast, Sparse, and Simple"
    "Robust and Practical Solution of Laplacian Equations by Approximate Elimination"

    Examples
    --------
    >>> from resolvent.operators import Laplacian, path_graph
    >>> M = randomized_cholesky(Laplacian(path_graph(3)), generator=0)  # of a tree, the factors are exact
    >>> (M @ torch.tensor([1.0, 0.0, -1.0])).round(decimals=4) + 0.0
    tensor([ 1.,  0., -1.])
    """
    from resolvent.solve.randomized_cholesky_kernel import eliminate

    A = as_operator(A, name="A")
    if A.batch_shape or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be one square matrix, got shape {tuple(A.shape)}")
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
        raise ValueError(f"copies must be an int of at least 1, got {copies!r}")
    if A.is_complex:
        raise ValueError(f"A must be real, got {A.dtype}")
    A.check_hermitian("A")
    graph = _graph(A)
    seed = int(torch.randint(2**62, (), generator=as_generator(generator)))
    order, pivots, starts, rows, entries = eliminate(*graph[:5], copies, seed)
    places = np.empty(graph.n, np.int64)
    places[order] = np.arange(len(order))
    inverse = np.divide(1.0, pivots, out=np.zeros_like(pivots), where=pivots > 0)
    narrow = np.float32 if torch.finfo(A.dtype).bits <= 32 else np.float64
    # A vertex counts 4 bytes where it can: the substitutions are bound by what they read.
    index = np.int32 if graph.n < 2**31 else np.int64
    factors = (order, inverse, starts, places[rows].astype(index), entries.astype(narrow))
    return RandomizedFactors(A, graph, factors, _kernel(graph))


def _graph(A: Operator) -> _Graph:
    """The graph whose Laplacian, without the row of its ground vertex, is A or the double cover of A."""
    import scipy.sparse as sp

    matrix = sp.csc_matrix(A.data.detach().cpu().numpy()) if isinstance(A, Dense) else scipy_matrix(_on_host(A))
    if matrix is None:
        raise TypeError(f"A must be sparse or dense, got {type(A).__name__}")
    eps = float(torch.finfo(A.dtype).eps)
    matrix = matrix.astype(np.float64)
    matrix.sum_duplicates()
    n, found = matrix.shape[0], matrix.tocoo()
    if not np.isfinite(found.data).all():
        raise ValueError("A has entries that are not finite")
    upper = (found.row < found.col) & (found.data != 0)
    u, v, values = found.row[upper].astype(np.int64), found.col[upper].astype(np.int64), found.data[upper]
    sizes = np.abs(values)
    off = np.bincount(u, sizes, n) + np.bincount(v, sizes, n)
    d = matrix.diagonal()
    excess = d - off
    noise = _ROUNDING * eps * (np.abs(d) + off)
    if (excess < -noise).any():
        i = int(np.argmin(excess / np.maximum(noise, np.finfo(float).tiny)))
        raise ValueError(
            f"A must be diagonally dominant, but in row {i} the diagonal is {d[i]:.6g} and the others sum to {off[i]:.6g}; "
            "ic takes other positive definite matrices"
        )
    excess = np.where(excess > noise, excess, 0)
    positive = values > 0
    doubled = bool(positive.any())
    if doubled:
        u, v = np.concatenate([u, u + n]), np.concatenate([np.where(positive, v + n, v), np.where(positive, v, v + n)])
        sizes, excess = np.tile(sizes, 2), np.tile(excess, 2)
        n = 2 * n
    grounded = np.flatnonzero(excess)
    ground = n if len(grounded) else -1
    if ground >= 0:
        u, v = np.concatenate([u, grounded]), np.concatenate([v, np.full(len(grounded), ground)])
        sizes = np.concatenate([sizes, excess[grounded]])
        n += 1
    return _Graph(n, ground, u, v, sizes, doubled)


def _on_host(A: Operator) -> Operator:
    return A.to("cpu") if A.device.type != "cpu" else A


def _kernel(graph: _Graph) -> tuple[np.ndarray, np.ndarray]:
    """For each vertex the part of the graph that it belongs to, -1 for that of the ground; and the sizes of the parts.

    On the parts without ground, the matrix has the constants in its kernel.
    """
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    n, vertices = graph.n, graph.n - (graph.ground >= 0)
    joined = sp.coo_matrix((np.ones(len(graph.u), np.int8), (graph.u, graph.v)), shape=(n, n))
    count, labels = connected_components(joined, directed=False)
    if graph.ground >= 0:
        own = labels[graph.ground]
        labels = np.where(labels == own, -1, labels - (labels > own))[:vertices]
        count -= 1
    return labels.astype(np.int64), np.bincount(labels[labels >= 0], minlength=count).astype(np.int64)
