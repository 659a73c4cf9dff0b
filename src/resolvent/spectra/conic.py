"""Small conic programs over spectral matrix cones, by the alternating direction method of multipliers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import lu
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.operator import Operator
from resolvent.operators.threads import one_thread
from resolvent.spectra.cones import pack_triangle, unpack_triangle
from resolvent.spectra.vector_cones import CONES

_RELAXATION = 1.6
# The residuals are looked at once in so many iterations; between looks nothing is synchronised.
_LOOK = 10
# Points that the acceleration combines.
_MEMORY = 20
# Rows up to which an iteration is a chain of small operations.
_SMALL = 20_000
_VECTORS = {"l1": "nuclear", "linf": "operator_norm", "second_order": "frobenius"}
_TRIANGLES = ("psd", "sum_largest", "logdet", "trace_inverse")
_RECTANGLES = ("nuclear", "operator_norm")


@dataclass(frozen=True)
class Cone:
    """One block of the product of cones of `solve_conic`, as it lies in the rows of A.

    Attributes
    ----------
    name : "zero" (s = 0), "nonnegative", or (t, x) in the "l1", "linf" or "second_order" cone: `n` entries x;
        "psd", "sum_largest", "logdet", "trace_inverse": (t, v, X) with those scalars that `project_spectral` takes, and X
        a packed triangle of order `n`; "nuclear", "operator_norm": t, then the (n, m) matrix row by row
    n : order or length
    m : columns of a rectangular matrix; None means n
    k : of "sum_largest"

    Raises
    ------
    ValueError : an unknown name; sizes below one; m or k where they do not belong.

    Examples
    --------
    >>> Cone("logdet", 3).rows, Cone("nuclear", 2, m=4).rows
    (8, 9)
    """

    name: str
    n: int
    m: int | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        known = ("zero", "nonnegative", *_VECTORS, *_TRIANGLES, *_RECTANGLES)
        if self.name not in known:
            raise ValueError(f"name must be one of {', '.join(known)}, got {self.name!r}")
        if self.n < 1 or (self.m is not None and (self.m < 1 or self.name not in _RECTANGLES)):
            raise ValueError(f"n and m must be at least 1, m only for {' and '.join(_RECTANGLES)}, got {self}")
        if (self.k is not None) != (self.name == "sum_largest") or not 1 <= (self.k or 1) <= self.n:
            raise ValueError(f"k must be from 1 to n for sum_largest, and None for other cones, got {self.k}")

    @property
    def scalars(self) -> int:
        """How many of t and v come before the matrix or vector."""
        if self.name in ("zero", "nonnegative"):
            return 0
        return len(CONES[_VECTORS.get(self.name, self.name)].takes - {"k"})

    @property
    def rows(self) -> int:
        """How many rows of A the block takes."""
        if self.name in _TRIANGLES:
            return self.scalars + self.n * (self.n + 1) // 2
        return self.scalars + (self.n * (self.m or self.n) if self.name in _RECTANGLES else self.n)


@dataclass(frozen=True)
class ConicSolution:
    """What `solve_conic` found.

    Attributes
    ----------
    x : (n,) the variables
    s : (rows,) the slack ``b - A x``, in the cone
    y : (rows,) the dual variables, in the dual cone
    value, dual_value : ``c^T x`` and ``-b^T y``, equal at the solution
    info : iterations, and the largest of the three relative residuals
    """

    x: Any
    s: Any
    y: Any
    value: float
    dual_value: float
    info: Info


def solve_conic(
    c: Any, A: OperatorLike, b: Any, cones: list[Cone], *, rtol: float = 1e-5, max_iterations: int = 20_000
) -> ConicSolution:
    r"""Minimise :math:`c^T x` subject to :math:`b - Ax` in a product of cones.

    Parameters
    ----------
    c : (n,) real
    A : (rows, n) real operator or anything `as_operator` takes, of full column rank; sparse matrices stay sparse
    b : (rows,)
    cones : the blocks of the rows, in their order
    rtol : bound on the primal residual :math:`\|Ax+s-b\|`, the dual residual :math:`\|A^Ty+c\|` and the gap
        :math:`|c^Tx+b^Ty|`, each relative to one plus the largest of its terms
    max_iterations : when to give up

    Returns
    -------
    ConicSolution
        Its arrays have the kind and dtype of b.

    Raises
    ------
    ValueError : shapes that do not fit, complex or infinite data, a rank-deficient A.
    ConvergenceError : the tolerance was not reached, as for infeasible and unbounded problems; carries the last
        ConicSolution.

    Notes
    -----
    Over-relaxed ADMM: x by the Cholesky factor of A^T A, made once, s by projecting each block, a step of the
    multipliers; the penalty follows the ratio of the residuals, which costs no new factor. An iteration is two
    products with A, two triangular solves (n^2) and one decomposition per matrix; the projection of a logdet block
    starts from the last one. Meant for moderate accuracy and at most some thousand variables. No gradients: the
    result is detached.

    References
    ----------
    "Projections onto Spectral Matrix Cones"

    Examples
    --------
    The largest eigenvalue, as the smallest t with t I - S positive semidefinite:

    >>> S = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> A = -pack_triangle(torch.eye(2, dtype=torch.float64))[:, None]
    >>> round(solve_conic([1.0], A, -pack_triangle(S), [Cone("psd", 2)]).value, 3)
    3.0
    """
    right, kind = as_tensor(b, "b")
    operator = as_operator(A, name="A")
    cost = as_tensor(c, "c")[0].to(dtype=right.dtype, device=right.device)
    rows = sum(cone.rows for cone in cones)
    if operator.batch_shape or operator.dtype.is_complex or right.is_complex():
        raise ValueError(f"A, b and c must be real and without a batch, got A of {tuple(operator.shape)}")
    if tuple(operator.shape) != (rows, cost.numel()) or right.shape != (rows,) or cost.ndim != 1:
        raise ValueError(
            f"the cones take {rows} rows: A must have shape ({rows}, n), b ({rows},), c (n,); got "
            f"{tuple(operator.shape)}, {tuple(right.shape)}, {tuple(cost.shape)}"
        )
    check_finite(right, "b")
    check_finite(cost, "c")
    if not rtol > 0 or max_iterations < 1:
        raise ValueError(f"rtol and max_iterations must be positive, got {rtol} and {max_iterations}")
    with torch.no_grad(), one_thread(rows < _SMALL):
        x, s, y, error, steps = _iterate(cost.detach(), operator, right.detach(), cones, rtol, max_iterations)
    found = ConicSolution(
        give_back(x, kind),
        give_back(s, kind),
        give_back(y, kind),
        float(cost @ x),
        -float(right @ y),
        Info("admm", matvecs=2 * steps, iterations=steps, error=error, converged=error <= rtol),
    )
    if error > rtol:
        message = f"solve_conic: reached {error:.2g} after {steps} iterations, asked for {rtol:.2g}"
        raise ConvergenceError(message, best=found, error=error, info=found.info)
    return found


def _iterate(
    c: Tensor, A: Operator, b: Tensor, cones: list[Cone], rtol: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, float, int]:
    dense, weights, blocks = _prepared(A, c, cones)
    factor = _factor(dense, weights)
    # b and c of size one make the same start fit many scalings of a problem.
    sizes = _unit(b), _unit(c)
    b, c = b / sizes[0], c / sizes[1]
    w = torch.zeros_like(b)
    warm: list[tuple[Tensor, Tensor] | None] = [None] * len(cones)
    history = _History()
    error, change_at = math.inf, _LOOK
    for step in range(1, limit + 1):
        s = _project(w, cones, warm)
        u = s - w
        x = torch.cholesky_solve((_adjoint(A, weights * (b - s - u)) - c)[:, None], factor)[:, 0]
        image = _product(A, x)
        relaxed = _RELAXATION * image + (1 - _RELAXATION) * (b - s)
        look = step % _LOOK == 0 or step == limit
        if look:
            y = weights * u
            error = _error(c, b, sizes, x, s, y, image, _adjoint(A, y))
            if error <= rtol or not math.isfinite(error):
                break
            if step >= change_at:
                new = _balanced(weights, s, u, blocks)
                w, weights = s - u * weights / new, new
                factor = _factor(dense, weights)
                change_at = max(step + _LOOK, 3 * step // 2)
                history = _History()
                continue
        w = history.following(w, b - relaxed - u, weights.sqrt(), look)
    y = weights * u * sizes[1]
    return x * sizes[0], s * sizes[0], y, error if math.isfinite(error) else math.inf, step


class _History:
    """Anderson acceleration of a fixed-point iteration w -> F(w): a step in the span of the last ones, taken back if
    the residual grows."""

    def __init__(self) -> None:
        self.points: list[Tensor] = []
        self.moves: list[Tensor] = []
        self.plain: tuple[Tensor, Tensor] | None = None

    def following(self, w: Tensor, image: Tensor, metric: Tensor, accelerate: bool) -> Tensor:
        """The next point after w, whose image is F(w)."""
        move = image - w
        if self.plain is not None:
            (before, length), self.plain = self.plain, None
            if not bool((metric * move).norm() <= length):
                self.points, self.moves = [], []
                return before
        self.points, self.moves = [*self.points, w][-_MEMORY:], [*self.moves, move][-_MEMORY:]
        if not accelerate or len(self.points) < 3:
            return image
        dG = torch.stack(self.moves).diff(dim=0)
        dW = torch.stack(self.points).diff(dim=0)
        scaled = metric * dG
        gram = scaled @ scaled.mT
        gram = gram + 1e-10 * gram.diagonal().sum() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        gamma, singular = lu.solve_ex(gram, scaled @ (metric * move))
        if bool(singular):
            return image
        self.plain = image, (metric * move).norm()
        return image - gamma @ (dW + dG)


def _error(
    c: Tensor, b: Tensor, sizes: tuple[float, float], x: Tensor, s: Tensor, y: Tensor, image: Tensor, dual: Tensor
) -> float:
    """The largest of the relative primal and dual residuals and gap, of the problem before its scaling."""
    value, dual_value = float(c @ x), float(b @ y)
    primal = float((image + s - b).norm()) / (1 / sizes[0] + max(float(t.norm()) for t in (image, s, b)))
    stationary = float((dual + c).norm()) / (1 / sizes[1] + max(float(dual.norm()), float(c.norm())))
    gap = abs(value + dual_value) / (1 / (sizes[0] * sizes[1]) + max(abs(value), abs(dual_value)))
    return max(primal, stationary, gap)


def _balanced(weights: Tensor, s: Tensor, u: Tensor, blocks: Tensor) -> Tensor:
    """Weights that bring the slack and the multipliers of each cone to one size; a zero cone weighs ten times the
    largest."""
    zeros = torch.zeros(int(blocks[-1]) + 1, dtype=s.dtype, device=s.device)
    slack = zeros.index_add(0, blocks, s.square())
    multipliers = zeros.index_add(0, blocks, u.square())
    known = (slack > 0) & (multipliers > 0)
    change = torch.where(known, multipliers / torch.where(known, slack, 1.0), 1.0) ** 0.25
    new = weights * change.clamp(0.1, 10)[blocks]
    equality = (slack == 0)[blocks]
    return torch.where(equality, 10 * new.masked_fill(equality, 0).max().clamp(min=1e-3), new)


def _unit(t: Tensor) -> float:
    size = float(t.norm())
    return size if size > 0 else 1.0


def _prepared(A: Operator, like: Tensor, cones: list[Cone]) -> tuple[Tensor, Tensor, Tensor]:
    """A as a matrix, weights of its rows, equal within a cone, that even out the sizes of rows and columns, and the
    number of each row's cone."""
    n = A.shape[-1]
    dense = as_tensor(A @ torch.eye(n, dtype=A.dtype, device=A.device), "A")[0].to(like)
    check_finite(dense, "A")
    counts = torch.tensor([cone.rows for cone in cones], device=like.device)
    block = torch.repeat_interleave(counts)
    squares = dense.square()
    row, column = torch.ones(len(cones), dtype=like.dtype, device=like.device), torch.ones_like(like)
    for _ in range(10):
        by_row = torch.zeros_like(row).index_add_(0, block, squares @ column) / counts * row
        by_column = (squares.mT @ row[block]) * column
        row = row / torch.where(by_row > 0, by_row, 1.0).sqrt()
        column = column / torch.where(by_column > 0, by_column, 1.0).sqrt()
    return dense, (row / row.mean())[block], block


def _factor(dense: Tensor, weights: Tensor) -> Tensor:
    gram = dense.mT @ (weights[:, None] * dense)
    factor, failed = torch.linalg.cholesky_ex(gram)
    scaled = factor.diagonal().square() / gram.diagonal()
    if bool(failed) or bool((scaled <= 10 * len(gram) * torch.finfo(gram.dtype).eps).any()):
        raise ValueError("A must have full column rank: A^T A is singular")
    return factor


def _product(A: Operator, x: Tensor) -> Tensor:
    return as_tensor(A @ x, "A")[0].to(x.dtype)


def _adjoint(A: Operator, y: Tensor) -> Tensor:
    return as_tensor(A.H @ y, "A")[0].to(y.dtype)


def _project(z: Tensor, cones: list[Cone], warm: list[tuple[Tensor, Tensor] | None]) -> Tensor:
    parts = z.split([cone.rows for cone in cones])
    return torch.cat([_block(part, cone, warm, i) for i, (part, cone) in enumerate(zip(parts, cones, strict=True))])


def _block(z: Tensor, cone: Cone, warm: list[tuple[Tensor, Tensor] | None], index: int) -> Tensor:
    if cone.name == "zero":
        return torch.zeros_like(z)
    if cone.name == "nonnegative":
        return z.relu()
    scalars: dict[str, Any] = dict(zip("tv", z[: cone.scalars], strict=False))
    body = z[cone.scalars :]
    if cone.k is not None:
        scalars["k"] = cone.k
    project = CONES[_VECTORS.get(cone.name, cone.name)].project
    if cone.name in _VECTORS:
        found = project(body, **scalars)
        moved = found.x
    elif cone.name in _RECTANGLES:
        U, values, Vh = torch.linalg.svd(body.reshape(cone.n, -1), full_matrices=False)
        found = project(values, **scalars)
        moved = ((U * found.x) @ Vh).reshape(-1)
    else:
        values, U = torch.linalg.eigh(unpack_triangle(body))
        if cone.name == "logdet":
            scalars["start"] = warm[index]
        found = project(values, **scalars)
        moved = pack_triangle((U * found.x) @ U.mH)
        if cone.name == "logdet" and found.t is not None and found.v is not None:
            lam = found.t - scalars["t"]
            warm[index] = (lam, found.v) if bool((lam > 0) & (found.v > 0)) else None
    heads = [scalar[None] for scalar in (found.t, found.v) if scalar is not None]
    return torch.cat([*heads, moved])
