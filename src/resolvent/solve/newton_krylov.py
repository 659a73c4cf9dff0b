"""Nonlinear systems F(x) = 0 by inexact Newton steps: derivatives by torch, linear systems by GMRES."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.operators.convert import as_operator
from resolvent.operators.elementary import MatrixFree
from resolvent.operators.operator import Operator
from resolvent.solve.arnoldi import gmres_with
from resolvent.solve.implicit import refusing
from resolvent.solve.system import SolveInfo, iterate, prepare

# Eisenstat and Walker's second choice of the forcing term, and its safeguards.
_GAMMA, _ALPHA, _FIRST, _LARGEST, _GUARD = 0.9, 1.618033988749895, 0.5, 0.9, 0.1
# Sufficient decrease, the least and the largest cut of a step, and how many cuts.
_DECREASE, _SHORT, _LONG, _CUTS = 1e-4, 0.1, 0.5, 30

Residual = Callable[[Tensor], Tensor]


def newton_krylov(
    F: Residual,
    x0: Any,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    M: Any = None,
    restart: int = 50,
    inner: int = 500,
    maxiter: int = 100,
    return_info: bool = False,
) -> Any:
    r"""A solution of :math:`F(x) = 0` by Newton's method, each step solved only as well as it pays.

    Parameters
    ----------
    F : function of a torch tensor of the shape of x0 to one of the same shape, differentiable by torch in both modes
    x0 : real start of any shape, where F is finite
    rtol, atol : bound ``|F(x)| <= max(rtol |F(x0)|, atol)`` in the 2-norm; rtol is by default 1e-10 in float64, 1e-5 in
        float32
    M : (n, n) operator near the inverse of the Jacobian, n = x0.size; or a function of x (in the shape of x0) that returns
        one, called once a step; or None
    restart : steps of GMRES after which it begins anew
    inner : most steps of GMRES for one step of Newton's
    maxiter : most steps of Newton's method
    return_info : also return a `SolveInfo`: `iterations` Newton steps, `matvecs` products with Jacobians, and |F| after each
        step, relative to the start, in `history`

    Returns
    -------
    x of the shape and kind of x0, or ``(x, info)``.

    Raises
    ------
    ConvergenceError : the bound was not met in `maxiter` steps, or no step decreases |F| (a minimum that is no zero, a
        Jacobian that is singular there); `best` is the last x
    ValueError : F of x0 has another shape or is not finite, parameters out of their ranges
    TypeError : F does not return a tensor, x0 is complex

    Notes
    -----
    Products with the Jacobian by forward mode, one each about as expensive as F: no differences, no loss of digits. The linear
    residual need only fall to :math:`\eta_j = 0.9 (|F_j| / |F_{j-1}|)^{1.618}` with Eisenstat and Walker's
    safeguards, so that far from the solution no work is wasted, and near it the convergence is superlinear. Steps are cut by
    parabolas of |F|^2 until that decreases. First-order gradients to tensors that F depends on, by the implicit function
    theorem and one solve with the adjoint of the Jacobian; none to x0.

    References
    ----------
    "Choosing the Forcing Terms in an Inexact Newton Method"
    "Globally Convergent Inexact Newton Methods"

    Examples
    --------
    >>> c = torch.tensor([4.0, 9.0], dtype=torch.float64, requires_grad=True)
    >>> x = newton_krylov(lambda x: x**2 - c, torch.ones(2, dtype=torch.float64))
    >>> x.detach(), torch.autograd.grad(x.sum(), c)[0]  # 1 / (2 x)
    (tensor([2., 3.], dtype=torch.float64), tensor([0.2500, 0.1667], dtype=torch.float64))
    """
    start, kind = as_tensor(x0, "x0")
    if start.is_complex():
        raise TypeError(f"x0 must be real, got {start.dtype}: give real and imaginary parts")
    check_finite(start, "x0")
    if rtol is None:
        rtol = 1e-10 if torch.finfo(start.dtype).bits == 64 else 1e-5
    if not 0 <= rtol < 1 or not 0 <= atol < math.inf or not max(rtol, atol) > 0:
        raise ValueError(f"rtol must lie in [0, 1), atol be at least 0, one of them positive, got {rtol!r}, {atol!r}")
    for name, value in (("restart", restart), ("inner", inner), ("maxiter", maxiter)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    flat = _flat(F, start)
    with torch.no_grad():
        newton = _Newton(flat, M, start, restart, inner)
        x, info = newton.run(rtol, atol, maxiter, lambda x: give_back_array(x.reshape(start.shape), kind))
    if torch.is_grad_enabled():
        recorded = flat(x)
        if recorded.requires_grad:
            x = _Implicit.apply(x, recorded, newton)
    value = give_back_array(x.reshape(start.shape), kind)
    return (value, info) if return_info else value


def _flat(F: Residual, start: Tensor) -> Residual:
    """F between vectors, with its value looked at."""

    def flat(x: Tensor) -> Tensor:
        value = F(x.reshape(start.shape))
        if not isinstance(value, Tensor):
            raise TypeError(f"F must return a torch tensor, got {type(value).__name__}")
        if value.shape != start.shape:
            raise ValueError(f"F must return the shape of x0, {tuple(start.shape)}, got {tuple(value.shape)}")
        return value.reshape(-1)

    return flat


class _Newton:
    """Steps and their linear systems; counts the products."""

    def __init__(self, F: Residual, M: Any, start: Tensor, restart: int, inner: int) -> None:
        self.F, self.M, self.start, self.restart, self.inner = F, M, start.detach(), restart, inner
        self.matvecs = 0

    def run(self, rtol: float, atol: float, maxiter: int, result: Callable[[Tensor], Any]) -> tuple[Tensor, SolveInfo]:
        x = self.start.reshape(-1).clone()
        value = self.F(x).detach()
        norm = first = float(torch.linalg.vector_norm(value))
        if not math.isfinite(norm):
            raise ValueError("F is not finite at x0")
        goal = max(rtol * first, atol)
        forcing, history, steps, stuck = _FIRST, [1.0], 0, False
        while norm > goal and steps < maxiter and not stuck:
            # Not below what the last step can use.
            direction = self.direction(x, value, min(max(forcing, 0.5 * goal / norm), _LARGEST))
            found = self._cut(x, direction, norm)
            if found is None:
                stuck = True
                continue
            x, value, after = found
            forcing = self._next(forcing, after / norm)
            norm = after
            steps += 1
            history.append(norm / first)
        error = norm / first if first else 0.0
        info = SolveInfo("newton_krylov", self.matvecs, steps, error, norm <= goal, tuple(history))
        if not info.converged:
            why = "no step decreases it: try another x0, or M" if stuck else "more steps (maxiter) may help"
            raise ConvergenceError(
                f"newton_krylov: |F| is {norm:.3g} after {steps} steps, {error:.2g} of the start, asked for {goal:.3g}; {why}",
                best=result(x),
                error=error,
                info=info,
            )
        return x, info

    @staticmethod
    def _next(forcing: float, ratio: float) -> float:
        fresh = _GAMMA * ratio**_ALPHA
        before = _GAMMA * forcing**_ALPHA
        return min(max(fresh, before) if before > _GUARD else fresh, _LARGEST)

    def jacobian(self, x: Tensor) -> Operator:
        """The Jacobian at x by its products."""
        n = x.numel()
        pulled: list[Any] = []

        def forward(V: Tensor) -> Tensor:
            columns = [torch.func.jvp(self.F, (x,), (v.contiguous(),))[1] for v in V.mT]
            return torch.stack(columns, -1).detach()

        def adjoint(V: Tensor) -> Tensor:
            if not pulled:
                pulled.append(torch.func.vjp(self.F, x)[1])
            return torch.stack([pulled[0](v.contiguous())[0] for v in V.mT], -1).detach()

        return MatrixFree((n, n), forward, adjoint, dtype=x.dtype, device=x.device)

    def preconditioner(self, x: Tensor) -> Operator | None:
        M = self.M
        if M is not None and callable(M) and not isinstance(M, Operator):
            M = M(x.reshape(self.start.shape))
        return None if M is None else as_operator(M, name="M")

    def direction(self, x: Tensor, value: Tensor, forcing: float) -> Tensor:
        """The Newton step as far as the forcing term asks; where GMRES stagnates, what it has."""
        system = prepare(
            "gmres",
            self.jacobian(x),
            -value,
            rtol=forcing,
            M=self.preconditioner(x),
            x0=None,
            maxiter=self.inner,
            callback=None,
        )
        goal = forcing * torch.linalg.vector_norm(value)[None]
        found = gmres_with(self.restart, flexible=False)(system, system.B, goal, self.inner)
        self.matvecs += found.matvecs
        return found.X[:, 0]

    def _cut(self, x: Tensor, direction: Tensor, norm: float) -> tuple[Tensor, Tensor, float] | None:
        """A shorter step until |F| decreases: the least of the parabola through |F|^2 at 0, at the last two lengths."""
        length, before = 1.0, None
        for _ in range(_CUTS):
            y = x + length * direction
            value = self.F(y).detach()
            after = float(torch.linalg.vector_norm(value))
            if after <= (1 - _DECREASE * length) * norm:
                return y, value, after
            if not math.isfinite(after) or before is None:
                shorter = _LONG * length
            else:
                (a, fa), (c, fc) = before, (length, after)
                # |F|^2 = norm^2 + p t + q t^2 through both points.
                ga, gc = (fa**2 - norm**2) / a, (fc**2 - norm**2) / c
                q = (gc - ga) / (c - a)
                p = ga - q * a
                shorter = -p / (2 * q) if q > 0 and p < 0 else _LONG * length
            if math.isfinite(after):
                before = (length, after)
            length = min(max(shorter, _SHORT * length), _LONG * length)
        return None

    def adjoint_solve(self, x: Tensor, grad: Tensor) -> Tensor:
        """J^-T g to the accuracy of the dtype."""
        M = self.preconditioner(x)
        system = prepare(
            "newton_krylov's gradient",
            self.jacobian(x).H,
            grad,
            rtol=None,
            M=None if M is None else M.H,
            x0=None,
            maxiter=None,
            callback=None,
        )
        return iterate(system, gmres_with(max(self.restart, min(x.numel(), 200)), flexible=False))[0][:, 0]


class _Implicit(torch.autograd.Function):
    """x with the derivative of the zero: :math:`dx = -J^{-1} dF`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, newton: _Newton) -> Tensor:
        ctx.newton = newton
        ctx.save_for_backward(x, value)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, value = ctx.saved_tensors
        with torch.no_grad():
            found = (None, -ctx.newton.adjoint_solve(x, grad), None)
        return refusing(found, (grad, value), "newton_krylov has first derivatives only")
