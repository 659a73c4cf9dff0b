"""Minimisation with equality constraints: Newton steps from randomised sketches, an exact augmented Lagrangian as merit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators import lu
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array
from resolvent.random import GeneratorLike, as_generator
from resolvent.solve.lagrangian import Lagrangian, Local, convexified, least_squares_multipliers
from resolvent.solve.sketch_project import Sketch, SketchProject

Inner = Literal["sketch", "gmres", "direct"]
_ARMIJO, _SHRINK, _GROW = 0.1, 0.5, 2.0
_TRIALS = 60
_NO_GRADIENT = (
    "constrained_newton has no gradients, but x0 or a tensor inside f or c requires one: call it under torch.no_grad()"
)


@dataclass(frozen=True)
class ConstrainedMinimum:
    """A point that meets the first-order conditions; made by `constrained_newton`.

    Attributes
    ----------
    x : (n,)
    multipliers : (m,)
    value : f(x)
    kkt : 2-norm of (gradient of the Lagrangian, c)
    iterations : Newton steps
    inner : steps of the inner solver
    flops : work of the inner solver
    history : kkt at the start and after each step
    lengths : step lengths
    eta : penalties at the end

    Examples
    --------
    >>> ConstrainedMinimum(1.0, 0.0, 0.0, 0.0, 1, 0, 0.0, (1.0, 0.0), (1.0,), (1.0, 0.1)).iterations
    1
    """

    x: Any
    multipliers: Any
    value: float
    kkt: float
    iterations: int
    inner: int
    flops: float
    history: tuple[float, ...]
    lengths: tuple[float, ...]
    eta: tuple[float, float]


@dataclass
class _Options:
    inner: Inner
    sketch: Sketch
    size: int
    theta: float
    vanishing: bool
    curvature: float
    atol: float
    maxiter: int
    epochs: int
    generator: torch.Generator


def constrained_newton(
    f: Callable[[Any], Any],
    c: Callable[[Any], Any],
    x0: Any,
    multipliers: Any = None,
    *,
    inner: Inner = "sketch",
    sketch: Sketch = "gaussian",
    sketch_size: int | None = None,
    eta: tuple[float, float] = (1.0, 0.1),
    theta: float = 0.1,
    forcing: Literal["constant", "vanishing"] = "constant",
    curvature: float = 1e-2,
    atol: float | None = None,
    maxiter: int = 200,
    epochs: int = 20_000,
    generator: GeneratorLike = 0,
) -> ConstrainedMinimum:
    r"""A local solution of min f(x) subject to c(x) = 0.

    Parameters
    ----------
    f, c : functions of a torch tensor (n,), twice differentiable by torch.func, to a number and to (m,), m <= n
    x0 : (n,) real start, not necessarily feasible
    multipliers : (m,) start; default the least squares ones
    inner : solver of the Newton systems: "sketch", "gmres" or "direct"
    sketch : "gaussian", "kaczmarz" or "block", see Notes
    sketch_size : columns of a sketch; default seven eighths of n + m. Of smaller ones many more are needed
    eta : penalties of the merit function to begin with
    theta : relative accuracy of a step to begin with, in (0, 1)
    forcing : "vanishing" lets theta go to zero with the residual, for superlinear convergence
    curvature : least eigenvalue of the Hessian on the kernel of the constraints, relative to the largest; below, the
        Hessian is shifted. Small ones keep Newton's steps in ill-conditioned problems, large ones help the inner solver
    atol : bound on the 2-norm of (gradient of the Lagrangian, c); default 1e-6 in float64, 1e-3 in float32
    maxiter, epochs : most Newton steps, and most passes of the inner solver over one system
    generator : of the sketches

    Returns
    -------
    ConstrainedMinimum : arrays of the kind of x0

    Raises
    ------
    ConvergenceError : the bound was not met, or the inner solver failed; `best` is the last `ConstrainedMinimum`
    ValueError : shapes that do not fit, values that are not finite at the start, unknown names
    TypeError : a gradient is required of x0, or of a tensor inside f or c

    Notes
    -----
    The system K (dx, dl) = -(grad L, c) with K = [[B, G^T], [G, 0]] and B the Hessian, shifted where it is not safely
    positive on the kernel of G, is scaled from both sides so that its rows have entries of size 1 (the paper does not; sketches
    converge at a rate given by the condition) and projected onto sketches of itself until the residual is theta
    \|grad\| / (\|K\| \|K^-1\|), with the 1-norm of K and the largest \|z\| / \|K z\| seen; then, until the step is a descent direction of the merit L_eta by
    eta_2 \|grad\|^2 / 2: eta_1 grows fourfold, eta_2 and theta are halved. Armijo's backtracking; no penalty goes to
    infinity, and unit steps are taken near a solution. Dense derivatives: n^2 memory. No gradients.

    Sketches of k columns converge at a rate given by the singular values of K behind the k largest; small ones pay for
    well conditioned K only. On a CPU the direct solver is the fastest for every K that fits into memory.

    References
    ----------
    "Constrained Optimization via Exact Augmented Lagrangian and Randomized Iterative Sketching"

    Examples
    --------
    >>> circle = constrained_newton(lambda x: x.sum(), lambda x: (x @ x - 2)[None], torch.tensor([-2.0, -0.5]).double())
    >>> circle.x.round(decimals=4), round(float(circle.multipliers), 4)
    (tensor([-1., -1.], dtype=torch.float64), 0.5)
    """
    x, kind = as_tensor(x0, "x0")
    if x.is_complex() or x.ndim != 1 or not len(x):
        raise ValueError(f"x0 must be real of shape (n,), got {tuple(x.shape)} of {x.dtype}")
    check_finite(x, "x0")
    if x.requires_grad and torch.is_grad_enabled():
        raise TypeError(_NO_GRADIENT)
    x = x.detach().clone()
    for name, value, known in (
        ("inner", inner, get_args(Inner)),
        ("sketch", sketch, get_args(Sketch)),
        ("forcing", forcing, ("constant", "vanishing")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if atol is None:
        atol = 1e-6 if torch.finfo(x.dtype).bits == 64 else 1e-3
    if not 0 < curvature < 1:
        raise ValueError(f"curvature must lie in (0, 1), got {curvature!r}")
    if not 0 < theta < 1 or not atol > 0 or min(maxiter, epochs) < 1 or len(eta) != 2 or not min(eta) > 0:
        raise ValueError(
            f"theta must lie in (0, 1), eta, atol, maxiter and epochs be positive, got {theta!r}, {eta!r}, {atol!r}, "
            f"{maxiter!r}, {epochs!r}"
        )
    watched = torch.is_grad_enabled()
    with torch.no_grad():
        problem, start = _start(f, c, x, multipliers, watched)
        total = len(x) + len(start.c)
        if sketch_size is not None and not 1 <= sketch_size <= total:
            raise ValueError(f"sketch_size must be from 1 to n + m = {total}, got {sketch_size!r}")
        size = max(1, min(total - 1, -(-7 * total // 8))) if sketch_size is None else sketch_size
        options = _Options(
            inner,
            sketch,
            size,
            theta,
            forcing == "vanishing",
            curvature,
            atol,
            maxiter,
            epochs,
            as_generator(generator),
        )
        return _Newton(problem, options, (float(eta[0]), float(eta[1])), kind).run(start)


def _start(f: Any, c: Any, x: Tensor, multipliers: Any, watched: bool) -> tuple[Lagrangian, Local]:
    with torch.set_grad_enabled(watched):
        value, constraints = f(x), c(x)
    if not isinstance(value, Tensor) or value.numel() != 1 or value.ndim > 0:
        raise ValueError("f must return a tensor without dimensions")
    if not isinstance(constraints, Tensor) or constraints.ndim != 1 or not 1 <= len(constraints) <= len(x):
        raise ValueError(f"c must return a tensor of shape (m,) with m from 1 to n = {len(x)}")
    if value.requires_grad or constraints.requires_grad:
        raise TypeError(_NO_GRADIENT)
    problem = Lagrangian(f, c)
    first = problem.at(x, torch.zeros_like(constraints))
    if not math.isfinite(first.kkt) or not math.isfinite(float(first.value)):
        raise ValueError("f, c or their derivatives are not finite at x0")
    if multipliers is None:
        start = least_squares_multipliers(first.G, first.grad)
    else:
        start = as_tensor(multipliers, "multipliers")[0].to(x)
        if start.shape != constraints.shape:
            raise ValueError(f"multipliers must have shape {tuple(constraints.shape)}, got {tuple(start.shape)}")
        check_finite(start, "multipliers")
    return problem, problem.at(x, start)


class _Newton:
    """The outer loop."""

    def __init__(self, problem: Lagrangian, options: _Options, eta: tuple[float, float], kind: Kind) -> None:
        self.problem, self.options, self.eta, self.kind = problem, options, eta, kind
        self.theta = options.theta
        self.inner, self.flops = 0, 0.0
        self.history: list[float] = []
        self.lengths: list[float] = []

    def run(self, p: Local) -> ConstrainedMinimum:
        o = self.options
        self.history.append(p.kkt)
        while p.kkt > o.atol:
            if len(self.lengths) == o.maxiter:
                self._fail(p, f"{o.maxiter} steps were not enough")
            H = self.problem.hessian(p)
            if not bool(torch.isfinite(H).all()):
                self._fail(p, "second derivatives are not finite")
            step, slope = self._direction(p, H)
            p = self._search(p, step, slope)
            self.history.append(p.kkt)
        return self._result(p)

    def _result(self, p: Local) -> ConstrainedMinimum:
        x, multipliers = (give_back_array(t, self.kind) for t in (p.x, p.multipliers))
        return ConstrainedMinimum(
            x,
            multipliers,
            float(p.value),
            p.kkt,
            len(self.lengths),
            self.inner,
            self.flops,
            tuple(self.history),
            tuple(self.lengths),
            self.eta,
        )

    def _fail(self, p: Local, reason: str) -> NoReturn:
        raise ConvergenceError(
            f"constrained_newton: the residual of the first-order conditions is {p.kkt:.3g}, asked for "
            f"{self.options.atol:.3g}; {reason}",
            best=self._result(p),
            error=p.kkt,
        )

    def _direction(self, p: Local, H: Tensor) -> tuple[Tensor, float]:
        """A step that is accurate enough and goes down."""
        o = self.options
        n, m = len(p.x), len(p.c)
        K = torch.zeros(n + m, n + m, dtype=H.dtype, device=H.device)
        K[:n, :n], K[:n, n:], K[n:, :n] = convexified(H, p.G, o.curvature), p.G.mT, p.G
        scale = _equilibrated(K)
        K, right = scale[:, None] * K * scale, -scale * torch.cat([p.grad, p.c])
        size, wanted = float(K.abs().sum(1).max()), float(torch.linalg.vector_norm(right))
        solver = _Inner(K, right, o)
        psi = 0.0
        theta = min(self.theta, p.kkt**0.5) if o.vanishing else self.theta
        for _ in range(o.epochs):
            z, residual = solver.advance(theta / (size * psi) if psi else theta)
            made = float(torch.linalg.vector_norm(right - residual))
            if made > 0:
                psi = max(psi, float(torch.linalg.vector_norm(z)) / made, 1 / size)
            if psi and float(torch.linalg.vector_norm(residual)) <= max(theta / (size * psi) * wanted, solver.floor):
                step = scale * z
                slope_x, slope_l = self.problem.merit_gradient(p, H, self.eta)
                slope = float(slope_x @ step[:n] + slope_l @ step[n:])
                if slope <= -self.eta[1] / 2 * p.kkt**2:
                    self.inner, self.flops = self.inner + solver.steps, self.flops + solver.flops
                    return step, slope
                if self.eta[1] < 1e-30:
                    self._fail(p, "no descent direction: are the gradients of the constraints independent?")
                self.eta = (self.eta[0] * _GROW**2, self.eta[1] / _GROW)
                self.theta /= _GROW
                theta /= _GROW
        self._fail(p, f"the inner solver did not reach {theta:.1e} in {o.epochs} passes")

    def _search(self, p: Local, step: Tensor, slope: float) -> Local:
        n, length = len(p.x), 1.0
        merit = self.problem.merit(p, self.eta)
        # Below rounding errors of the merit, its decrease cannot be seen.
        slack = 10 * torch.finfo(step.dtype).eps * max(abs(merit), abs(float(p.value)))
        for _ in range(_TRIALS):
            trial = self.problem.at(p.x + length * step[:n], p.multipliers + length * step[n:])
            after = self.problem.merit(trial, self.eta) if math.isfinite(trial.kkt) else math.inf
            if after <= merit + _ARMIJO * length * slope + slack:
                self.lengths.append(length)
                return trial
            length *= _SHRINK
        self._fail(p, "no step length decreases the merit function")


def _equilibrated(K: Tensor) -> Tensor:
    """A scaling of both sides that brings the largest entry of every row near 1."""
    scale = torch.ones_like(K[0])
    for _ in range(6):
        top = (scale[:, None] * K * scale).abs().amax(1)
        scale = scale / torch.where(top > 0, top, 1).sqrt()
    return scale


class _Inner:
    """One of the solvers of a Newton system, advanced until it is told to stop."""

    def __init__(self, K: Tensor, right: Tensor, o: _Options) -> None:
        self.K, self.right, self.kind = K, right, o.inner
        self.flops, self.steps = 0.0, 0
        self.z, self.residual = torch.zeros_like(right), right
        self.run = SketchProject(K, right, o.sketch, o.size, o.generator) if o.inner == "sketch" else None
        # What rounding leaves of the residual.
        self.floor = 100 * torch.finfo(K.dtype).eps * float(torch.linalg.vector_norm(right))

    def advance(self, rtol: float) -> tuple[Tensor, Tensor]:
        """More accuracy; the solution and its residual."""
        n = len(self.right)
        if self.run is not None:
            residual = self.run.epoch()
            self.flops, self.steps = self.run.flops, self.run.steps
            return self.run.z, residual
        if self.kind == "direct":
            if self.steps == 0:
                z, failed = lu.solve_ex(self.K, self.right)
                if bool(failed) or not bool(torch.isfinite(z).all()):
                    from resolvent.factor.pseudoinverse import pinv

                    z = pinv(self.K) @ self.right
                self.z = z
                self.flops, self.steps = 2 / 3 * n**3, 1
            else:
                self.z = self.z + lu.solve(self.K, self.residual)
                self.flops += 2.0 * n * n
            self.residual = self.right - self.K @ self.z
            return self.z, self.residual
        from resolvent.solve.arnoldi import gmres

        floor = 10 * torch.finfo(self.K.dtype).eps
        try:
            z, info = gmres(self.K, self.right, x0=self.z, rtol=max(rtol, floor), restart=n, return_info=True)
        except ConvergenceError as error:
            z, info = error.best, error.info
        self.z = z
        k = info.iterations if info is not None else 0
        # A product and the orthogonalisation of every step.
        self.flops += k * 2.0 * n * n + 2.0 * n * k * (k + 1)
        self.steps += k
        self.residual = self.right - self.K @ self.z
        return self.z, self.residual
