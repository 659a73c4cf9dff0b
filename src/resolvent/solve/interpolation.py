"""Empirical interpolation: functions of two variables in separated form, through few points of either variable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators import lu
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back, positions
from resolvent.solve.system import lengths

Norm = Literal["inf", 2] | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Separated:
    r"""A function of two variables as :math:`f(x, Y) F^+ f(X, y)` with :math:`F = f(X, Y)`.

    Attributes
    ----------
    x_points, y_points : indices of the selected rows X ("sensors") and columns Y ("fields") of the matrix of candidates
    left : (m, columns) f at all candidates x and the points Y
    right : (rows, n) f at the points X and all candidates y
    errors : the largest norm of a column of the residual, before each term and after the last, over that of f
    kind : of the results
    f, x, y : the callable and its candidates, where it was one

    Examples
    --------
    >>> import torch
    >>> t = torch.linspace(1, 2, 9, dtype=torch.float64)
    >>> found = EIM(1 / (t[:, None] + t))
    >>> found.rank, bool((found.evaluate() - 1 / (t[:, None] + t)).abs().max() < 1e-9)
    (6, True)
    """

    x_points: tuple[int, ...]
    y_points: tuple[int, ...]
    left: Tensor
    right: Tensor
    errors: tuple[float, ...]
    kind: Kind = "torch"
    f: Callable[..., Any] | None = None
    x: Any = None
    y: Any = None

    @property
    def rank(self) -> int:
        """The number of terms."""
        return min(len(self.x_points), len(self.y_points))

    @property
    def core(self) -> Tensor:
        """(rows, columns) f at the points of both variables."""
        return self.left[list(self.x_points)]

    def coefficients(self, values: Any) -> Any:
        """What the fields f(., Y) weigh, from values at the sensors.

        Parameters
        ----------
        values : (rows,) or (rows, k) f(X, y)

        Returns
        -------
        (columns,) or (columns, k) :math:`F^+ f(X, y)`; of more fields than sensors, the weights of least length.
        """
        given, kind = as_tensor(values, "values")
        if given.ndim not in (1, 2) or len(given) != len(self.x_points):
            raise ValueError(f"values must have {len(self.x_points)} rows, one a sensor, got {tuple(given.shape)}")
        check_finite(given, "values")
        dtype = torch.promote_types(given.dtype, self.left.dtype)
        found = _apply_inverse(self.core.to(dtype), given.reshape(len(given), -1).to(dtype))
        return give_back(found.reshape(-1, *given.shape[1:]), kind)

    def evaluate(self, x: Any = None, y: Any = None) -> Any:
        """The interpolant as a matrix.

        Parameters
        ----------
        x, y : indices of candidates; points, where f is a callable; None: all candidates

        Returns
        -------
        (len(x), len(y))
        """
        left = self.left if x is None else self._side(x, "x")
        right = self.right if y is None else self._side(y, "y")
        return give_back(left @ _apply_inverse(self.core, right), self.kind)

    def _side(self, points: Any, name: str) -> Tensor:
        known = self.left if name == "x" else self.right.mT
        if self.f is not None and not isinstance(points, slice):
            pick = list(self.y_points if name == "x" else self.x_points)
            found = self.f(points, self.y[pick]) if name == "x" else self.f(self.x[pick], points)
            return as_tensor(found, "f")[0].to(known)
        index, single = positions(points, len(known), name, known.device)
        if single:
            raise ValueError(f"{name} must be a sequence of indices, got {points!r}")
        return known[index] if name == "x" else known[index].mT

    def drop(self, *, x_index: int | None = None, y_index: int | None = None) -> Separated:
        """Without one sensor, or one field, and with all else as it is: a rectangular F.

        Parameters
        ----------
        x_index : the place in `x_points` of the sensor to leave out
        y_index : the place in `y_points` of the field to leave out

        Returns
        -------
        Separated
        """
        kept = []
        for index, points, name in ((x_index, self.x_points, "x_index"), (y_index, self.y_points, "y_index")):
            if index is not None and not 0 <= index < len(points):
                raise ValueError(f"{name} must be from 0 to {len(points) - 1}, got {index}")
            kept.append([i for i in range(len(points)) if i != index])
        if not all(kept):
            raise ValueError("the last point of a variable cannot be dropped")
        return replace(
            self,
            x_points=tuple(self.x_points[i] for i in kept[0]),
            y_points=tuple(self.y_points[i] for i in kept[1]),
            left=self.left[:, kept[1]],
            right=self.right[kept[0]],
        )

    def lebesgue(self) -> Any:
        """The factor by which errors at the sensors grow: the largest sum over X of \\|f(x, Y) F^+\\|."""
        return give_back(_apply_inverse(self.core.mH, self.left.mH).abs().sum(dim=0).max(), self.kind)


def EIM(
    f: Any,
    x: Any = None,
    y: Any = None,
    *,
    rtol: float | None = None,
    max_terms: int | None = None,
    norm: Norm = "inf",
    symmetric: bool = True,
) -> Separated:
    r"""The empirical interpolation of a function of two variables.

    .. math:: f(x, y) \approx f(x, Y) F^{-1} f(X, y), \qquad F = f(X, Y)

    Parameters
    ----------
    f : (m, n) the function at candidates of x (rows) and y (columns), real or complex; or a callable ``f(x, y)`` that
        returns such a matrix for points x (m, ...) and y (n, ...)
    x, y : candidates, where f is a callable: tensors or arrays whose first dimension counts the points
    rtol : stop where no column of the residual has a larger norm than `rtol` times that of the largest column of f;
        default 1e-10 in float64, 1e-5 in float32, and none where `max_terms` alone is given; 2 eps at least
    max_terms : stop after so many, or before at the rank of f
    norm : of columns, for the choice of the next y: "inf", 2, or a callable ``residual (m, n) -> (n,)``
    symmetric : by crosses of the residual; False: the classical recursion with a triangular system for each y. Both
        select the same points and are equal up to rounding errors

    Returns
    -------
    Separated

    Raises
    ------
    ValueError : shapes that do not fit, NaN, f = 0.
    ConvergenceError : `max_terms` were not enough for `rtol`; carries the interpolant.

    Notes
    -----
    Each step takes the column y with the largest residual, in it the row x of the largest entry, and subtracts the cross
    of both: Gaussian elimination with these pivots. The interpolant is exact at the points of either variable, for any
    norm, and at all others once there are as many terms as f has rank. Each term costs 2 m n flops ("classic": 2 d m n).
    What limits the accuracy is the rounding error of f times the Lebesgue constant. With fewer sensors than fields
    (`Separated.drop`) the pseudo-inverse of F stands for its inverse: the interpolant stays exact at the sensors that
    are left, and of all weights with that property, those of least length are taken. Gradients flow through the entries
    of f in the selected rows and columns.

    References
    ----------
    "Variants of the Empirical Interpolation Method: symmetric formulation, choice of norms and rectangular extension"

    Examples
    --------
    >>> import torch
    >>> t = torch.linspace(0, 1, 50, dtype=torch.float64)
    >>> found = EIM(lambda x, y: torch.exp(-x[:, None] * y), t, t, rtol=1e-6)
    >>> found.rank, found.x_points[0], found.y_points[0]
    (5, 0, 0)
    >>> found.evaluate(t[7:8], t[9:10]).item() - torch.exp(-t[7] * t[9]).item() < 1e-6
    True
    """
    matrix, kind, points = _candidates(f, x, y)
    if not (norm in ("inf", 2) or callable(norm)):
        raise ValueError(f"norm must be 'inf', 2 or a callable, got {norm!r}")
    most = min(matrix.shape)
    if max_terms is not None and not 1 <= max_terms <= most:
        raise ValueError(f"max_terms must be from 1 to {most}, got {max_terms}")
    if rtol is None:
        single = torch.finfo(matrix.dtype).eps > 1e-10
        wanted = 0.0 if max_terms is not None else 1e-5 if single else 1e-10
    elif 0 <= float(rtol) < 1:
        wanted = float(rtol)
    else:
        raise ValueError(f"rtol must be from 0 to 1, got {rtol}")
    # Below, residuals are rounding errors: as pivots they would make F singular.
    wanted = max(wanted, 2 * torch.finfo(matrix.dtype).eps)
    with torch.no_grad():
        select = _crosses if symmetric else _classic
        rows, columns, errors = select(matrix, norm, wanted, max_terms or most)
    found = Separated(tuple(rows), tuple(columns), matrix[:, columns], matrix[rows], tuple(errors), kind, *points)
    if rtol is not None and errors[-1] > wanted:
        raise ConvergenceError(
            f"EIM: {len(rows)} terms reach {errors[-1]:.3g}, asked for {wanted:.3g}", best=found, error=errors[-1]
        )
    return found


def _candidates(f: Any, x: Any, y: Any) -> tuple[Tensor, Kind, tuple[Any, Any, Any]]:
    points: tuple[Any, Any, Any] = (None, None, None)
    if callable(f):
        if x is None or y is None:
            raise ValueError("a callable f needs candidates x and y")
        points = (f, x, y)
        f = f(x, y)
    elif x is not None or y is not None:
        raise ValueError("x and y are for a callable f; a matrix has its candidates as rows and columns")
    matrix, kind = as_tensor(f, "f")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"f must be a matrix (m, n) of values, got shape {tuple(matrix.shape)}")
    if points[0] is not None and tuple(matrix.shape) != (len(x), len(y)):
        raise ValueError(f"f(x, y) must have shape {(len(x), len(y))}, got {tuple(matrix.shape)}")
    check_finite(matrix, "f")
    if not bool(matrix.any()):
        raise ValueError("f is zero everywhere: there is nothing to interpolate")
    return matrix, kind, points


def _norms(residual: Tensor, norm: Norm) -> Tensor:
    if callable(norm):
        found = norm(residual)
        if found.shape != residual.shape[1:] or not bool((found >= 0).all()):
            raise ValueError(f"norm must give {residual.shape[1]} nonnegative numbers, got {found}")
        return found
    return lengths(residual) if norm == 2 else residual.abs().amax(dim=0)


def _next(residual: Tensor, norm: Norm, taken: Sequence[int]) -> tuple[int, int, float]:
    """Row and column of the next point and the size of the residual."""
    sizes = _norms(residual, norm)
    if taken:
        # rounding errors are left there, and no information
        sizes = sizes.clone()
        sizes[list(taken)] = 0
    column = int(sizes.argmax())
    return int(residual[:, column].abs().argmax()), column, float(sizes[column])


def _crosses(f: Tensor, norm: Norm, wanted: float, most: int) -> tuple[list[int], list[int], list[float]]:
    residual, rows, columns = f.detach().clone(), list[int](), list[int]()
    errors: list[float] = []
    first = 0.0
    while True:
        row, column, size = _next(residual, norm, columns)
        first = first or size
        errors.append(size / first)
        pivot = residual[row, column]
        if errors[-1] <= wanted or len(rows) == most or not bool(pivot):
            return rows, columns, errors
        residual.addr_(residual[:, column] / pivot, residual[row].clone(), alpha=-1)
        # zero but for rounding errors, which would be pivots at the end
        residual[row], residual[:, column] = 0, 0
        rows.append(row)
        columns.append(column)


def _classic(f: Tensor, norm: Norm, wanted: float, most: int) -> tuple[list[int], list[int], list[float]]:
    f, rows, columns = f.detach(), list[int](), list[int]()
    basis = f.new_zeros(f.shape[0], most)
    errors: list[float] = []
    first = 0.0
    while True:
        d = len(rows)
        known = torch.linalg.solve_triangular(basis[rows, :d], f[rows], upper=False, unitriangular=True)
        residual = f - basis[:, :d] @ known
        row, column, size = _next(residual, norm, columns)
        first = first or size
        errors.append(size / first)
        if errors[-1] <= wanted or d == most or not bool(residual[row, column]):
            return rows, columns, errors
        basis[:, d] = residual[:, column] / residual[row, column]
        basis[rows, d] = 0
        rows.append(row)
        columns.append(column)


def _apply_inverse(F: Tensor, right: Tensor) -> Tensor:
    """F^+ right for F of full rank, by factors that do not square its condition."""
    m, n = F.shape
    if m == n:
        return lu.solve(F, right)
    if m > n:
        Q, R = torch.linalg.qr(F)
        return torch.linalg.solve_triangular(R, Q.mH @ right, upper=True)
    Q, R = torch.linalg.qr(F.mH)
    return Q @ torch.linalg.solve_triangular(R.mH, right, upper=False)
