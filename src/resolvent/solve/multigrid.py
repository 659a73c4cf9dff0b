"""Algebraic multigrid by smoothed aggregation: a preconditioner whose quality does not depend on the size."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.operators.convert import OperatorLike
from resolvent.operators.memory import fresh
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse
from resolvent.operators.threads import one_thread
from resolvent.solve.precondition import _matrix, _square

Smoother = Literal["gauss-seidel", "jacobi"]
_CHUNK = 16_384  # rows of a chunk of Gauss-Seidel, and their largest number
_CHUNKS = 16
_SAFE = 1.05  # over an estimate of the largest eigenvalue that comes from below

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Level:
    """One grid: its matrix, what smooths on it, and the way to the next."""

    rows: Rows
    bounds: np.ndarray
    inverse: np.ndarray
    radius: float
    up: Rows | None = None
    down: Rows | None = None
    coarse_bounds: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def size(self) -> int:
        """Rows of the matrix."""
        return len(self.inverse)

    @cached_property
    def work(self) -> tuple[np.ndarray, np.ndarray]:
        """A residual and a correction."""
        return np.empty(self.size, self.inverse.dtype), np.zeros(self.size, self.inverse.dtype)


class Multigrid(Operator):
    """One cycle of algebraic multigrid from zero, as an operator near A^-1; made by `amg`.

    Attributes
    ----------
    sizes : rows of the matrix on each level
    complexity : entries of the matrices of all levels over those of the first

    Examples
    --------
    >>> from resolvent import operators
    >>> A = operators.Laplacian(operators.grid_graph((40, 40))) + operators.Identity(1600)
    >>> amg(A).sizes[0]
    1600
    """

    def __init__(
        self, A: Operator, levels: list[Level], last: np.ndarray, cycle: str, sweeps: int, smoother: Smoother
    ) -> None:
        super().__init__(A.shape, dtype=A.dtype, device=A.device, kind=A.kind, positive=True)
        self._levels, self._last, self._cycle = levels, last, cycle
        self._sweeps, self._smoother = sweeps, smoother
        self.sizes = [*(level.size for level in levels), len(last)]
        first = len(levels[0].rows[1]) if levels else last.size
        self.complexity = (sum(len(level.rows[1]) for level in levels) + last.size) / max(first, 1)

    @property
    def cost(self) -> float:
        """Multiplications of a cycle."""
        return float(sum(4 * self._sweeps * len(level.rows[1]) for level in self._levels) + self._last.size)

    def _map(self, fn: Any) -> Operator:
        t = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        out = object.__new__(Multigrid)
        out.__dict__.update(self.__dict__)
        out.__dict__.pop("_on_device", None)
        out.dtype, out.device = t.dtype, t.device
        return out

    def _matmul(self, X: Tensor) -> Tensor:
        side = X.detach().movedim(-2, 0)
        flat = side.reshape(X.shape[-2], -1)
        if X.device.type != "cpu":
            return self._descend(0, flat).reshape(side.shape).movedim(0, -2)
        inside = (self._levels[0].inverse if self._levels else self._last).dtype
        columns = [
            self._down(0, flat[:, c].contiguous().numpy().astype(inside, copy=False)) for c in range(flat.shape[1])
        ]
        if len(columns) == 1:
            found = torch.from_numpy(columns[0])[:, None]
        else:
            found = torch.from_numpy(np.stack(columns, 1) if columns else np.empty(tuple(flat.shape), inside))
        return found.to(X.dtype).reshape(side.shape).movedim(0, -2)

    def _down(self, depth: int, b: np.ndarray) -> np.ndarray:
        """One cycle from the level `depth` on; the result is new on the first level, and else the level's own memory."""
        from resolvent.solve import multigrid_kernel as kernel

        if depth == len(self._levels):
            return self._last @ b
        level = self._levels[depth]
        r, x = level.work
        x = fresh(x.shape, x.dtype) if depth == 0 else x
        for sweep in range(self._sweeps):
            if sweep:
                kernel.residual(level.bounds, *level.rows, x, b, r)
            self._pre(level, r if sweep else b, x, first=sweep == 0)
        for _ in range(2 if self._cycle == "W" and depth > 0 else 1):
            kernel.residual(level.bounds, *level.rows, x, b, r)
            coarse = np.empty(len(level.down[0]) - 1, r.dtype)  # type: ignore[index]
            kernel.times(level.coarse_bounds, *level.down, r, coarse, False)  # type: ignore[misc]
            kernel.times(level.bounds, *level.up, self._down(depth + 1, coarse), x, True)  # type: ignore[misc]
        for _ in range(self._sweeps):
            kernel.residual(level.bounds, *level.rows, x, b, r)
            if self._smoother == "jacobi":
                kernel.damp(level.bounds, level.inverse, _weight(level), r, x, True)
            else:
                kernel.backward(level.bounds, *level.rows, level.inverse, r, x)
        return x

    def _pre(self, level: Level, r: np.ndarray, x: np.ndarray, first: bool) -> None:
        from resolvent.solve import multigrid_kernel as kernel

        if self._smoother == "jacobi":
            kernel.damp(level.bounds, level.inverse, _weight(level), r, x, not first)
        elif first:
            kernel.forward(level.bounds, *level.rows, level.inverse, r, x)
        else:
            step = np.empty_like(x)
            kernel.forward(level.bounds, *level.rows, level.inverse, r, step)
            x += step

    @cached_property
    def _on_device(self) -> list[tuple[Operator, Tensor, Operator, Operator]]:
        """The levels as operators on the device of A."""
        found = []
        for level in self._levels:
            n, m = level.size, len(level.down[0]) - 1  # type: ignore[index]
            shapes = ((level.rows, (n, n)), (level.up, (n, m)), (level.down, (m, n)))
            parts = [
                Sparse((rows[0], rows[1], rows[2], shape)).to(self.dtype).to(self.device)  # type: ignore[index]
                for rows, shape in shapes
            ]
            scaled = torch.from_numpy(_weight(level) * level.inverse).to(device=self.device, dtype=self.dtype)
            found.append((parts[0], scaled[:, None], parts[1], parts[2]))
        return found

    def _descend(self, depth: int, B: Tensor) -> Tensor:
        """One cycle with damped Jacobi by torch's own products, for devices without compiled kernels."""
        if depth == len(self._levels):
            return torch.from_numpy(self._last).to(B) @ B
        A, scaled, up, down = self._on_device[depth]
        X = scaled * B
        for _ in range(self._sweeps - 1):
            X = X + scaled * (B - A._matmul(X))
        for _ in range(2 if self._cycle == "W" and depth > 0 else 1):
            X = X + up._matmul(self._descend(depth + 1, down._matmul(B - A._matmul(X))))
        for _ in range(self._sweeps):
            X = X + scaled * (B - A._matmul(X))
        return X


def _weight(level: Level) -> float:
    return 4 / (3 * level.radius)


def amg(
    A: OperatorLike,
    *,
    theta: float = 0.08,
    near_nullspace: Any = None,
    cycle: Literal["V", "W"] = "V",
    sweeps: int = 1,
    smoother: Smoother = "gauss-seidel",
    coarsest: int = 250,
) -> Multigrid:
    r"""Algebraic multigrid by smoothed aggregation, as a preconditioner for `cg`.

    Parameters
    ----------
    A : (n, n) real symmetric positive (semi)definite sparse matrix (what `Sparse` takes, and sums and multiples)
    theta : an entry is strong if :math:`|a_{ij}| \ge \theta \sqrt{a_{ii} a_{jj}}`; halved from level to level. 0
        takes every entry as strong.
    near_nullspace : (n,) the vector that A nearly maps to zero; None means ones, right for diffusion
    cycle : "V" or "W"
    sweeps : of the smoother before and after the coarse correction, at least 1
    smoother : "gauss-seidel", forward before and backward after, or "jacobi". A GPU always takes "jacobi".
    coarsest : size below which a level is solved directly

    Returns
    -------
    Multigrid : positive operator. No gradients.

    Raises
    ------
    ValueError : A is not symmetric, complex, or has a diagonal that is not positive
    TypeError : A is not sparse

    Notes
    -----
    Strong neighbourhoods become the unknowns of the next level (three greedy passes); one damped Jacobi step smooths the
    piecewise prolongator P; the next matrix is P^T A P. A cycle costs about 5 products with A, and with it conjugate
    gradients take a number of steps that hardly grows with n for elliptic problems. The setup runs on the host.

    References
    ----------
    "Algebraic multigrid by smoothed aggregation for second and fourth order elliptic problems"

    Examples
    --------
    >>> from resolvent import operators, solve
    >>> A = operators.Laplacian(operators.grid_graph((40, 40), dtype=torch.float64)) + 0.01 * operators.Identity(
    ...     1600, dtype=torch.float64
    ... )
    >>> x, info = solve.cg(A, torch.ones(1600, dtype=torch.float64), M=amg(A), return_info=True)
    >>> bool((x - 100).abs().max() < 1e-6), info.iterations < 15
    (True, True)
    """
    A = _checked(A, theta, cycle, sweeps, smoother, coarsest)
    matrix = _compressed(A)
    A.check_hermitian("A")
    rows: Rows = (
        matrix.indptr.astype(np.int32, copy=False),
        matrix.indices.astype(np.int32, copy=False),
        _wide(matrix.data),
    )
    n = A.shape[-1]
    if near_nullspace is None:
        near = np.ones(n, rows[2].dtype)
    else:
        t, _ = as_tensor(near_nullspace, "near_nullspace")
        if tuple(t.shape) != (n,):
            raise ValueError(f"near_nullspace must have shape ({n},), got {tuple(t.shape)}")
        check_finite(t, "near_nullspace")
        near = t.detach().cpu().numpy().astype(rows[2].dtype)
    levels: list[Level] = []
    while len(rows[0]) - 1 > coarsest:
        level, rows_after, near = _coarsened(rows, near, theta)
        if rows_after is None:
            break
        levels.append(level)
        rows, theta = rows_after, theta / 2
    return Multigrid(A, levels, _inverted(rows), cycle, sweeps, smoother)


def _compressed(A: Operator) -> Any:
    """Compressed rows without repeated entries, over the memory of A where that is possible."""
    import scipy.sparse as sp

    if isinstance(A, Sparse) and A.device.type == "cpu":
        arrays = (A.values.detach().numpy(), A.indices.numpy(), A.indptr.numpy())
        matrix = sp.csr_matrix(arrays, shape=tuple(A.shape))
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
    else:
        matrix = _matrix(A).tocsr()
    matrix.sum_duplicates()
    return matrix


def _checked(A: Any, theta: float, cycle: str, sweeps: int, smoother: str, coarsest: int) -> Operator:
    A = _square(A, batch=False)
    if A.is_complex:
        raise ValueError(f"A must be real, got {A.dtype}")
    if not 0 <= theta < 1:
        raise ValueError(f"theta must lie in [0, 1), got {theta!r}")
    if cycle not in ("V", "W"):
        raise ValueError(f"cycle must be 'V' or 'W', got {cycle!r}")
    if smoother not in get_args(Smoother):
        raise ValueError(f"smoother must be one of {', '.join(get_args(Smoother))}, got {smoother!r}")
    for name, value in (("sweeps", sweeps), ("coarsest", coarsest)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    return A


def _wide(values: np.ndarray) -> np.ndarray:
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def _chunks(n: int) -> np.ndarray:
    return np.linspace(0, n, max(1, min(_CHUNKS, n // _CHUNK)) + 1).astype(np.int64)


def _coarsened(rows: Rows, near: np.ndarray, theta: float) -> tuple[Level, Rows | None, np.ndarray]:
    """A level, the matrix of the next one (None if nothing would become coarser), and the near null vector there."""
    from resolvent.solve import multigrid_kernel as kernel

    n = len(rows[0]) - 1
    bounds = _chunks(n)
    inverse, bound = kernel.inverse_diagonal(*rows)
    if bound < 0:
        raise ValueError("A must have a positive diagonal on every level: it is not positive definite")
    radius = bound if bound <= 2.05 else min(bound, _radius(rows, bounds, inverse))
    level = Level(rows, bounds, inverse, radius)
    label, count = kernel.aggregate(*rows, inverse, theta)
    if count == 0 or count > 0.9 * n:
        return level, None, near
    weight, coarse_near = kernel.tentative(label, count, near)
    step = 4 / (3 * radius)
    up = kernel.smoothed(bounds, *rows, inverse, label, weight, theta, step)
    level.up, level.down = up, kernel.transpose(*up, count)  # type: ignore[call-arg]
    level.coarse_bounds = _chunks(count)
    return level, _product(level.down, _product(rows, up, n, count), count, count), coarse_near


def _product(left: Rows, right: Rows, rows: int, columns: int) -> Rows:
    import scipy.sparse as sp

    # Rows of a few entries: a call of `factor.spgemm` spends more on windows and checks than on the products.
    inner = len(right[0]) - 1
    A = sp.csr_matrix((left[2], left[1], left[0]), shape=(rows, inner))
    found = A @ sp.csr_matrix((right[2], right[1], right[0]), shape=(inner, columns))
    return found.indptr.astype(np.int32, copy=False), found.indices.astype(np.int32, copy=False), found.data


def _radius(rows: Rows, bounds: np.ndarray, inverse: np.ndarray) -> float:
    """The largest eigenvalue of D^-1 A from a few Lanczos steps, a little above."""
    from resolvent.solve import multigrid_kernel as kernel

    half = np.sqrt(inverse)
    q = np.random.default_rng(0).standard_normal(len(inverse)).astype(inverse.dtype)
    q /= np.linalg.norm(q)
    before, beta = np.zeros_like(q), 0.0
    alphas: list[float] = []
    betas: list[float] = []
    y = np.empty_like(q)
    for _ in range(min(12, len(q))):
        kernel.times(bounds, *rows, half * q, y, False)
        w = half * y - beta * before
        alpha = float(q @ w)
        w -= alpha * q
        beta = float(np.linalg.norm(w))
        alphas.append(alpha)
        betas.append(beta)
        if beta <= 1e-12:
            break
        before, q = q, w / beta
    from scipy.linalg import eigvalsh_tridiagonal

    return _SAFE * float(eigvalsh_tridiagonal(np.array(alphas), np.array(betas[:-1]))[-1])


def _inverted(rows: Rows) -> np.ndarray:
    """The (pseudo)inverse of the coarsest matrix."""
    n = len(rows[0]) - 1
    matrix = np.zeros((n, n), np.float64)
    np.add.at(matrix, (np.repeat(np.arange(n), np.diff(rows[0])), rows[1]), rows[2])
    # A second thread would wait longer than the whole takes.
    with one_thread():
        w, V = (t.numpy() for t in torch.linalg.eigh(torch.from_numpy((matrix + matrix.T) / 2)))
    size = float(np.abs(w).max()) if n else 0.0
    small = np.finfo(rows[2].dtype).eps * max(n, 10) * size
    if n and w[0] < -10 * small:
        raise ValueError(f"A must be positive semidefinite, but a level has the eigenvalue {w[0]:.3g}")
    keep = w > small
    return np.ascontiguousarray((V[:, keep] / w[keep]) @ V[:, keep].T).astype(rows[2].dtype)
