"""Bootstrap algebraic multigrid: hierarchies from matchings, added until a requested rate of convergence is measured."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import give_back_array
from resolvent.operators.convert import OperatorLike
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator
from resolvent.solve.multigrid import (
    Level,
    Multigrid,
    Rows,
    _checked,
    _chunks,
    _compressed,
    _inverted,
    _product,
    _radius,
)

_LOOKS = 12  # iterations of a test, of which the last third counts


class BootstrapMultigrid(Operator):
    """Hierarchies composed one after another and back; made by `bootstrap_amg`.

    Attributes
    ----------
    smooth_vectors : (n, k) orthonormal basis of the vectors that the hierarchies were built from
    rates : convergence rate measured after each hierarchy, per application
    hierarchies : the cycles
    complexity : entries of the matrices of all levels of all hierarchies over those of A

    Examples
    --------
    >>> from resolvent import operators
    >>> A = operators.Laplacian(operators.grid_graph((30, 30))) + 0.01 * operators.Identity(900)
    >>> M = bootstrap_amg(A, target_rate=0.3)
    >>> M.rates[-1] <= 0.3, len(M.smooth_vectors) == 900
    (True, True)
    """

    def __init__(self, A: Operator, matrix: Any, hierarchies: list[Multigrid], null: Tensor | None) -> None:
        super().__init__(A.shape, dtype=A.dtype, device=A.device, kind=A.kind, positive=True)
        self._A, self._matrix, self._null = A, matrix, null
        self.hierarchies = hierarchies
        self.rates: list[float] = []
        self.smooth_vectors: Any = None

    @property
    def complexity(self) -> float:
        """Entries of all levels over those of A."""
        return float(sum(cycle.complexity for cycle in self.hierarchies))

    def _matmul(self, X: Tensor) -> Tensor:
        B = self._project(X)
        found = torch.zeros_like(B)
        order = [*self.hierarchies, *self.hierarchies[-2::-1]]
        for at, cycle in enumerate(order):
            R = B - self._A._matmul(found) if at else B
            found = found + cycle._matmul(R)
        return self._project(found)

    def _project(self, X: Tensor) -> Tensor:
        """X without its part in the null space."""
        if self._null is None:
            return X
        q = self._null.to(X)
        return X - q * (q.mT @ X)


def bootstrap_amg(
    A: OperatorLike,
    target_rate: float = 0.3,
    *,
    max_hierarchies: int = 10,
    smooth: bool = True,
    cycle: Literal["V", "W"] = "V",
    sweeps: int = 1,
    coarsest: int = 200,
    generator: GeneratorLike = 0,
) -> BootstrapMultigrid:
    r"""Algebraic multigrid that finds by itself what it must represent, as a preconditioner for `cg`.

    Parameters
    ----------
    A : (n, n) real symmetric positive definite sparse matrix, or a semidefinite one with constant null space (a graph
        Laplacian, seen by its row sums)
    target_rate : bound on the factor by which an application of the whole shrinks the energy norm of an error
    max_hierarchies : most of them
    smooth : smooth the prolongators by one Jacobi step: fewer hierarchies, denser levels
    cycle, sweeps : of every hierarchy, see `amg`
    coarsest : size that is solved directly
    generator : of the random errors in the tests

    Returns
    -------
    BootstrapMultigrid : symmetric positive operator, with `smooth_vectors` and `rates`. No gradients.

    Raises
    ------
    ConvergenceError : the rate was not reached with max_hierarchies; `best` is the operator with all of them
    ValueError : see `amg`; a rate outside of (0, 1); a Laplacian of a graph that is not connected
    TypeError : A is not sparse

    Notes
    -----
    The first hierarchy is built from the vector of ones, relaxed a few times for a definite A. Its aggregates are matched
    pairs of matched pairs, with the weights :math:`1 - 2 a_{ij} w_i w_j / (a_{ii} w_i^2 + a_{jj} w_j^2)` for the vector w
    and a matching of at least half of the best weight, and its prolongator reproduces w. A random error is then iterated
    on: what the cycles leave over is the w of the next hierarchy. They are applied one after another and back. Every
    hierarchy costs some 5 to 10 products with A to build and to apply. A GPU runs the cycles, the setup is on the host.

    References
    ----------
    "Extending Bootstrap AMG for Clustering of Attributed Graphs"
    "Adaptive AMG with coarsening based on compatible weighted matching"

    Examples
    --------
    >>> from resolvent import operators, solve
    >>> L = operators.Laplacian(operators.grid_graph((30, 30), dtype=torch.float64))
    >>> M = bootstrap_amg(L, 0.2)
    >>> b = torch.zeros(900, dtype=torch.float64)
    >>> b[0], b[-1] = 1, -1
    >>> solve.cg(L, b, M=M, return_info=True)[1].iterations < 12
    True
    """
    A = _checked(A, 0.0, cycle, sweeps, "gauss-seidel", coarsest)
    if not 0 < target_rate < 1:
        raise ValueError(f"target_rate must lie in (0, 1), got {target_rate!r}")
    if isinstance(max_hierarchies, bool) or not isinstance(max_hierarchies, int) or max_hierarchies < 1:
        raise ValueError(f"max_hierarchies must be an int of at least 1, got {max_hierarchies!r}")
    A.check_hermitian("A")
    matrix = _compressed(A).astype(np.float64)
    n = matrix.shape[0]
    g = as_generator(generator)
    with torch.no_grad():
        ones = torch.full((n, 1), n**-0.5, dtype=torch.float64)
        sums = np.abs(matrix @ np.ones(n))
        # Row sums that are zero to the precision in which A was given.
        zero = 1e-6 if A.dtype == torch.float32 else 1e-12
        singular = bool((sums <= zero * matrix.diagonal()).all())
        if singular and n > 1:
            _connected(matrix)
        wide = A if A.dtype == torch.float64 else A.to(torch.float64)
        found = BootstrapMultigrid(wide, matrix, [], ones.to(A.device) if singular else None)
        w, vectors = _first(matrix, ones[:, 0].numpy(), singular), []
        while True:
            vectors.append(w)
            found.hierarchies.append(_hierarchy(wide, matrix, w, smooth, cycle, sweeps, coarsest))
            rate, error = _test(found, wide, g)
            found.rates.append(rate)
            if rate <= target_rate or len(vectors) == max_hierarchies:
                break
            w = error
        # Kept for embeddings: what the last test left is the slowest vector of the whole.
        basis = torch.linalg.svd(torch.from_numpy(np.stack([*vectors, error], 1)), full_matrices=False)
        found.smooth_vectors = give_back_array(basis.U.to(A.dtype), A.kind)
        if A.dtype != torch.float64:
            found = _in_dtype(found, A)
    if rate > target_rate:
        raise ConvergenceError(
            f"bootstrap_amg: {max_hierarchies} hierarchies reach a rate of {rate:.3g}, asked for {target_rate:.3g}; allow more "
            "(max_hierarchies), more sweeps, or use them as they are",
            best=found,
            error=rate,
        )
    return found


def _connected(matrix: Any) -> None:
    """Refuse a Laplacian with more than one constant in its null space."""
    from scipy.sparse.csgraph import connected_components

    count, _ = connected_components(matrix, directed=False)
    if count > 1:
        raise ValueError(f"A is the Laplacian of a graph with {count} components: take them one at a time")


def _in_dtype(found: BootstrapMultigrid, A: Operator) -> BootstrapMultigrid:
    cycles = [cast(Multigrid, cycle.to(A.dtype)) for cycle in found.hierarchies]
    out = BootstrapMultigrid(A, found._matrix, cycles, found._null)
    out.rates, out.smooth_vectors = found.rates, found.smooth_vectors
    return out


def _first(matrix: Any, ones: np.ndarray, singular: bool) -> np.ndarray:
    """Ones, relaxed where A does not annihilate them."""
    w = ones.copy()
    if not singular:
        inverse = 1 / matrix.diagonal()
        for _ in range(5):
            w -= 0.5 * inverse * (matrix @ w)
    return w


def _test(found: BootstrapMultigrid, A: Operator, g: torch.Generator) -> tuple[float, np.ndarray]:
    """The rate at which the composed cycles shrink an error, and the error that is left."""
    x = torch.randn(A.shape[0], 1, dtype=torch.float64, generator=g).to(A.device)
    x = found._project(x)
    norms = []
    for _ in range(_LOOKS):
        y = A._matmul(x)
        norm = float((x * y).sum().clamp(min=0).sqrt())
        norms.append(norm)
        if not norm > 0:
            break
        x, y = x / norm, y / norm
        x = found._project(x - found._matmul(y))
    if not norms[-1] > 0:
        return 0.0, np.ones(A.shape[0]) / A.shape[0] ** 0.5
    tail = norms[-(_LOOKS // 3) :]
    rate = float(np.prod(tail) ** (1 / len(tail)))
    left = x[:, 0].cpu().numpy()
    size = np.linalg.norm(left)
    return rate, left / size if size > 0 else np.ones(len(left)) / len(left) ** 0.5


def _hierarchy(
    A: Operator, matrix: Any, w: np.ndarray, smooth: bool, cycle: str, sweeps: int, coarsest: int
) -> Multigrid:
    """Levels of aggregates of up to four that reproduce w."""
    from resolvent.solve import multigrid_kernel as kernel

    rows: Rows = (matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data)
    levels: list[Level] = []
    while len(rows[0]) - 1 > coarsest:
        n, bounds = len(rows[0]) - 1, _chunks(len(rows[0]) - 1)
        inverse, bound = kernel.inverse_diagonal(*rows)
        if bound < 0:
            raise ValueError("A has a diagonal entry that is not positive: it is not positive definite")
        label, count = _aggregates(rows, inverse, w)
        if count > 0.9 * n:
            break
        level = Level(rows, bounds, inverse, bound if bound <= 2.05 else min(bound, _radius(rows, bounds, inverse)))
        weight, w = kernel.tentative(label, count, w)
        if smooth:
            up = kernel.smoothed(bounds, *rows, inverse, label, weight, 0.0, 4 / (3 * level.radius))
        else:
            up = (np.arange(n + 1, dtype=np.int32), label.astype(np.int32), weight)
        level.up, level.down = up, kernel.transpose(*up, count)  # type: ignore[call-arg]
        level.coarse_bounds = _chunks(count)
        levels.append(level)
        rows = _product(level.down, _product(rows, up, n, count), count, count)
    return Multigrid(A, levels, _inverted(rows), cycle, sweeps, "gauss-seidel")


def _aggregates(rows: Rows, inverse: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, int]:
    """Pairs of pairs of a compatible weighted matching."""
    from resolvent.solve import matching_kernel as match
    from resolvent.solve import multigrid_kernel as kernel

    label, count = np.arange(len(w), dtype=np.int32), len(w)
    for _ in range(2):
        weights = match.compatible(*rows, 1 / inverse, w)
        one, count = match.pairs(rows[0], rows[1], weights, match.suitors(rows[0], rows[1], weights))
        label = one[label]
        weight, w = kernel.tentative(one, count, w)
        n = len(one)
        up: Rows = (np.arange(n + 1, dtype=np.int32), one, weight)
        rows = _product(kernel.transpose(*up, count), _product(rows, up, n, count), count, count)
        inverse, bound = kernel.inverse_diagonal(*rows)
        if bound < 0:
            break
    return label, count
