"""Square nonlinear systems with bounds on the unknowns, by an interior trust region method with affine scaling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators import lu
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array
from resolvent.operators.convert import as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator
from resolvent.solve.affine_scaling import Scaling, box, combination, diagonal

_THETA = 0.99995  # part of the way to a bound that a step may take
_CAUCHY, _ACCEPT, _GROW = 0.1, 0.25, 0.75
_RADIUS = 1e-14  # at which the method gives up
_NO_GRADIENT = (
    "bounded_root has no gradients, but x0 or a tensor inside F requires one: differentiate F(x) = 0 at the root with "
    "solve, and call this under torch.no_grad()"
)


@dataclass(frozen=True)
class BoundedRoot:
    """A root inside its bounds; made by `bounded_root`.

    Attributes
    ----------
    x : (n,) root, strictly inside
    residual : 2-norm of F(x)
    iterations : steps taken
    evaluations : calls of F, those of difference quotients too
    jacobians : Jacobian matrices
    history : norm of F at the start and after every step

    Examples
    --------
    >>> BoundedRoot(1.0, 0.0, 3, 5, 4, (1.0, 0.0)).evaluations
    5
    """

    x: Any
    residual: float
    iterations: int
    evaluations: int
    jacobians: int
    history: tuple[float, ...]


def bounded_root(
    F: Callable[[Any], Any],
    x0: Any,
    bounds: Any,
    jac: Callable[[Any], Any] | None = None,
    *,
    scaling: Scaling = "combined",
    weights: Any = None,
    atol: float | None = None,
    region: Literal["spherical", "elliptical"] = "spherical",
    newton: Literal["direct", "gmres"] = "direct",
    maxiter: int = 500,
) -> BoundedRoot:
    r"""A solution of F(x) = 0 with l <= x <= u.

    Parameters
    ----------
    F : function from (n,) to (n,), called with arrays of the kind of x0 strictly inside the bounds
    x0 : (n,) real start, strictly inside
    bounds : (l, u), numbers or (n,), infinite where there is no bound
    jac : function from (n,) to the (n, n) Jacobian matrix, anything `as_operator` takes; None means automatic
        differentiation for torch, difference quotients inside the bounds for NumPy
    scaling, weights : see `affine_scaling`
    atol : bound on the 2-norm of F; default 1e-8 in float64, 1e-4 in float32
    region : shape of the trust region, \|p\| or \|D^(-1/2) p\| at most its radius
    newton : "direct" (dense factorisation; least squares where the Jacobian is singular) or "gmres" (products only)
    maxiter : most steps

    Returns
    -------
    BoundedRoot

    Raises
    ------
    ConvergenceError : F could not be made small: a local minimum of its norm, a radius of 1e-14, too many steps; `best`
        is the best `BoundedRoot`
    ValueError : a start not strictly inside, shapes that do not fit, F not finite at the start, unknown names
    TypeError : complex input; a gradient is required of x0, or of a tensor inside F

    Notes
    -----
    With g = J^T F and the scaling D, a step combines the minimiser of the model \|F + J p\|^2 / 2 along -D g (cut at the
    trust region and at 0.99995 of the way to a bound) with the projected Newton step, shortened to stay inside; the
    Newton step alone if it brings a tenth of the decrease of the former. Steps with a quarter of the predicted decrease
    are taken. n^3 multiples for a direct step; quadratic convergence to regular roots. No gradients: differentiate
    F(x) = 0 at the root with `solve`.

    References
    ----------
    "A New Class of Scaling Matrices for Scaled Trust Region Algorithms"
    "Constrained Dogleg Methods for Nonlinear Systems with Simple Bounds"

    Examples
    --------
    >>> import torch
    >>> def F(x):
    ...     return torch.stack([10_000 * x[0] * x[1] - 1, (-x[0]).exp() + (-x[1]).exp() - 1.001])
    >>> root = bounded_root(F, torch.tensor([1.0, 8.0], dtype=torch.float64), (0.0, 20.0))
    >>> [f"{v:.2e}" for v in root.x.sort().values]
    ['1.45e-05', '6.89e+00']
    """
    x, kind = as_tensor(x0, "x0")
    if x.is_complex():
        raise TypeError(f"x0 must be real, got {x.dtype}")
    if x.ndim != 1 or not len(x):
        raise ValueError(f"x0 must have shape (n,) with n of at least 1, got {tuple(x.shape)}")
    check_finite(x, "x0")
    if x.requires_grad and torch.is_grad_enabled():
        raise TypeError(_NO_GRADIENT)
    x = x.detach().clone()
    low, high = box(bounds, x)
    if not bool(((low < x) & (x < high)).all()):
        where = int((~((low < x) & (x < high))).nonzero()[0])
        raise ValueError(
            f"x0 must lie strictly between its bounds, but x0[{where}] = {float(x[where]):.6g} with bounds "
            f"{float(low[where]):.6g} and {float(high[where]):.6g}"
        )
    for name, value, known in (
        ("region", region, ("spherical", "elliptical")),
        ("newton", newton, ("direct", "gmres")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if atol is None:
        atol = 1e-8 if torch.finfo(x.dtype).bits == 64 else 1e-4
    if not atol > 0 or maxiter < 1:
        raise ValueError(f"atol and maxiter must be positive, got {atol!r} and {maxiter!r}")
    w = combination(scaling, weights)
    system = _System(F, jac, low, high, kind)
    with torch.no_grad():
        return _iterate(system, x, w, atol, region, newton, maxiter)


class _Local(NamedTuple):
    """The model at a point."""

    x: Tensor
    value: Tensor
    J: Operator
    g: Tensor
    D: Tensor
    shape: Tensor  # the norm of the trust region is that of shape * p


class _System:
    """F and its Jacobian matrix, with counts."""

    def __init__(self, F: Any, jac: Any, low: Tensor, high: Tensor, kind: Kind) -> None:
        self.F, self.jac, self.low, self.high, self.kind = F, jac, low, high, kind
        self.evaluations = self.jacobians = 0
        self.watched = torch.is_grad_enabled()

    def value(self, x: Tensor) -> Tensor:
        """F(x)."""
        self.evaluations += 1
        # Once with a graph, to see whether a gradient would be lost.
        with torch.set_grad_enabled(self.watched and self.evaluations == 1):
            found = as_tensor(self.F(give_back_array(x, self.kind)), "F(x)")[0]
        if found.requires_grad:
            raise TypeError(_NO_GRADIENT)
        found = found.to(x)
        if found.shape != x.shape:
            raise ValueError(f"F must return shape {tuple(x.shape)}, got {tuple(found.shape)}")
        return found

    def jacobian(self, x: Tensor, value: Tensor) -> Operator:
        """J(x)."""
        self.jacobians += 1
        n = len(x)
        if self.jac is not None:
            J = as_operator(self.jac(give_back_array(x, self.kind)))
            if tuple(J.shape) != (n, n):
                raise ValueError(f"jac must return shape {(n, n)}, got {tuple(J.shape)}")
            return J if J.dtype == x.dtype else J.to(x.dtype)
        if self.kind == "torch":
            with torch.enable_grad():
                matrix = torch.func.jacrev(self.F)(x)
            return Dense(matrix.detach().to(x))
        step = torch.finfo(x.dtype).eps ** 0.5 * x.abs().clamp(min=1e-3)
        below, above = x - self.low, self.high - x
        step = torch.minimum(step, torch.maximum(below, above) / 2)
        step = torch.where(above >= below, step, -step)
        columns = []
        for i in range(n):
            moved = x.clone()
            moved[i] += step[i]
            columns.append((self.value(moved) - value) / (moved[i] - x[i]))
        return Dense(torch.stack(columns, 1))

    def room(self, x: Tensor, p: Tensor) -> float:
        """How many times p fits between x and the bounds."""
        ahead = torch.where(p > 0, self.high - x, x - self.low)
        return float(torch.where(p != 0, ahead / p.abs(), math.inf).min())


def _iterate(
    system: _System, x: Tensor, w: tuple[float, ...], atol: float, region: str, newton: str, maxiter: int
) -> BoundedRoot:
    value = system.value(x)
    if not bool(torch.isfinite(value).all()):
        raise ValueError("F is not finite at x0")
    norm, radius, steps = float(torch.linalg.vector_norm(value)), 1.0, 0
    history = [norm]

    def result() -> BoundedRoot:
        found = give_back_array(x, system.kind)
        return BoundedRoot(found, norm, steps, system.evaluations, system.jacobians, tuple(history))

    reason = f"{maxiter} steps were not enough"
    while norm > atol and steps < maxiter:
        J = system.jacobian(x, value)
        g = J.H @ value
        D = diagonal(x, g, system.low, system.high, w)
        descent = float(torch.linalg.vector_norm(D * g))
        if not math.isfinite(descent):
            raise ValueError(f"the Jacobian matrix is not finite after {steps} steps")
        if descent <= torch.finfo(x.dtype).eps * norm:
            reason = "the scaled gradient is zero, this is a local minimum of the norm"
            break
        local = _Local(x, value, J, g, D, D.rsqrt() if region == "elliptical" else torch.ones_like(x))
        full = _newton_step(system, local, newton, norm)
        radius = max(radius, 10 * _RADIUS)
        while True:
            p = _step(system, local, full, radius)
            trial = x + p
            inside = bool(((system.low < trial) & (trial < system.high)).all())
            moved = system.value(trial) if inside else None
            after = math.inf if moved is None else float(torch.linalg.vector_norm(moved))
            predicted = norm**2 - float(torch.linalg.vector_norm(value + J @ p)) ** 2
            gain = (norm**2 - after**2) / predicted if predicted > 0 and math.isfinite(after) else -1.0
            if moved is not None and gain >= _ACCEPT:
                break
            length = float(torch.linalg.vector_norm(local.shape * p))
            radius = min(radius / 2, length / 2)
            if radius < _RADIUS:
                break
        if moved is None or gain < _ACCEPT:
            reason = f"the trust region has shrunk to {radius:.1e}"
            break
        if gain >= _GROW:
            radius = max(radius, 2 * float(torch.linalg.vector_norm(local.shape * p)))
        x, value, norm, steps = trial, moved, after, steps + 1
        history.append(norm)
    if norm > atol:
        raise ConvergenceError(
            f"bounded_root: |F| is {norm:.3g} after {steps} steps, asked for {atol:.3g}; {reason}. Another start or "
            "scaling may help",
            best=result(),
            error=norm,
        )
    return result()


def _newton_step(system: _System, local: _Local, newton: str, norm: float) -> Tensor:
    """The projected Newton step, inside the bounds."""
    if newton == "gmres":
        from resolvent.solve.arnoldi import gmres

        # Forcing terms of the order of the residual keep the quadratic rate.
        try:
            p = gmres(local.J, -local.value, rtol=max(min(0.1, norm), 1e-12))
        except ConvergenceError as error:
            p = error.best
    else:
        matrix = local.J._dense()
        p, failed = lu.solve_ex(matrix, -local.value)
        if bool(failed) or not bool(torch.isfinite(p).all()):
            from resolvent.factor.pseudoinverse import pinv

            p = -(pinv(matrix) @ local.value)
    p = torch.minimum(torch.maximum(local.x + p, system.low), system.high) - local.x
    return max(_THETA, 1 - float(torch.linalg.vector_norm(p))) * p


def _step(system: _System, local: _Local, full: Tensor, radius: float) -> Tensor:
    """The scaled Cauchy step joined with the Newton step."""
    x, value, J, g, D, shape = local
    d = -D * g
    slope = -float(g @ d)
    curvature = float(torch.linalg.vector_norm(J @ d)) ** 2
    tau = radius / float(torch.linalg.vector_norm(shape * d))
    if curvature > 0:
        tau = min(tau, slope / curvature)
    cauchy = min(tau, _THETA * system.room(x, d)) * d

    def decrease(p: Tensor) -> float:
        q = J @ p
        return -float(g @ p) - float(q @ q) / 2

    least = decrease(cauchy)
    if float(torch.linalg.vector_norm(shape * full)) <= radius and decrease(full) >= _CAUCHY * least:
        return full
    # Along the line through both, the model is a parabola: its minimum within the region and the bounds.
    line = full - cauchy
    q = J @ line
    bend = float(q @ q)
    best = -float((value + J @ cauchy) @ q) / bend if bend > 0 else 0.0
    a = float(((shape * line) ** 2).sum())
    b = float((shape * line) @ (shape * cauchy))
    c = float(((shape * cauchy) ** 2).sum()) - radius**2
    if a == 0 or best == 0:
        return cauchy
    reach = math.sqrt(max(b * b - a * min(c, 0.0), 0.0))
    ends = ((-b - reach) / a, (-b + reach) / a)
    gamma = max(min(best, ends[1]), ends[0])
    room = system.room(x + cauchy, line if gamma > 0 else -line)
    gamma = math.copysign(min(abs(gamma), _THETA * room), gamma)
    joined = cauchy + gamma * line
    return joined if decrease(joined) >= least else cauchy
