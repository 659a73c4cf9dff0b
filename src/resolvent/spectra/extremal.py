"""The extreme eigenpairs of a Hermitian product: thick-restart Lanczos, filtered by Chebyshev polynomials where they
pay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resolvent.operators import Operator
from resolvent.random import gaussian
from resolvent.spectra.chebyshev import ChebyshevFilter, degree_for_growth
from resolvent.spectra.restart import KrylovSpace

Multiply = Callable[[Tensor], Tensor]
_MARGIN = 0.5
_CHEAP = 64
_LEAST_DEGREE = 6
_FILTERS = 6
# Growth of the polynomial at the last wanted value, and how much closer to it the unwanted interval must be able to
# reach for a new polynomial: it costs half as much again, so that all earlier ones together cost as much as the last.
_APART = 8.0
_SHRINK = 0.25
# Restarts that plain Lanczos is watched for, and that it may still need before a filter takes over.
_JUDGE, _PATIENCE = 3, 12.0
# A residual of 1e-8 takes the logarithm of 1e8 sqrt(n), showing up as a Ritz value that of sqrt(n): about a third.
_AGAIN = 0.3


@dataclass
class Pairs:
    """Eigenvalues (k,) with vectors (n, k), the largest residual relative to the norm of A, and the work."""

    values: Tensor
    vectors: Tensor
    error: float
    products: int
    restarts: int
    method: str


@dataclass
class Problem:
    """What is asked: k eigenpairs of the product at one end of the spectrum (or both), to a residual rtol ||A||.

    `squared` says that the product is B^H B and the residual is meant of B: then it is rtol sqrt(w_k w_1).
    """

    multiply: Multiply
    n: int
    k: int
    which: str
    rtol: float
    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator
    cost: float
    limit: int
    start: Tensor | None = None
    filtered: bool = True
    squared: bool = False
    operator: Operator | None = None


def order(theta: Tensor, which: str) -> Tensor:
    """Positions of the values, the most wanted first."""
    if which == "LA":
        return torch.argsort(theta, descending=True)
    if which == "SA":
        return torch.argsort(theta)
    if which == "LM":
        return torch.argsort(theta.abs(), descending=True)
    ascending = torch.argsort(theta)
    both = torch.stack([ascending.flip(0), ascending], dim=1).reshape(-1)
    # From both ends towards the middle, each position once; an odd one more from the high end.
    return both[: len(theta)]


def extremal_pairs(problem: Problem) -> Pairs:
    """Run the method; the caller looks at `error`."""
    solver = _Solver(problem)
    return solver.run()


class _Solver:
    def __init__(self, problem: Problem) -> None:
        self.p = problem
        k = problem.k
        # A basis vector costs about four n multiplications per step, in both directions of two products: where a product
        # with A costs far more than that, a larger basis pays by fewer of them.
        self.work = problem.cost / problem.n
        self.dim = min(2 * k + (20 if self.work < 100 else 40) + (k if problem.which == "BE" else 0), problem.n - 2)
        self.products = 0
        self.restarts = 0
        self.norm = 0.0
        self.bounds = (math.inf, -math.inf)

    def run(self) -> Pairs:
        p = self.p
        space = self._space(p.multiply, self.dim)
        start = space.random_rows(1)
        if p.start is not None:
            start[0] = p.start
        space.start(start)
        run = _Plain(self)
        _iterate(self, space, p.which, run, 1)
        if run.found is not None:
            return self._filtered(*run.found)
        return self._pairs(run.confirmed, "lanczos")

    def _space(self, multiply: Multiply, dim: int) -> KrylovSpace:
        p = self.p
        return KrylovSpace(multiply, p.n, dim, 1, p.dtype, p.device, p.generator)

    def goal(self, last: float) -> float:
        """The residual to reach when the k-th value is `last`."""
        if not self.p.squared or self.norm == 0:
            return self.p.rtol * self.norm
        share = max(last / self.norm, 0.0) ** 0.5
        return self.norm * max(self.p.rtol * share, 40 * torch.finfo(self.p.dtype).eps)

    def may_filter(self) -> bool:
        return self.p.filtered and self.p.which in ("LA", "SA", "LM") and self._balanced() >= _LEAST_DEGREE

    def _see(self, theta: Tensor, residual: Tensor) -> None:
        low, high = float(theta[0] - residual[0]), float(theta[-1] + residual[-1])
        self.bounds = (min(low, self.bounds[0]), max(high, self.bounds[1]))
        self.norm = max(self.norm, float(theta.abs().max()))

    # ---- the filter ------------------------------------------------------------------------------------------------

    def _filtered(self, theta: Tensor, rows: Tensor) -> Pairs:
        p, k = self.p, self.p.k
        leaks = 0
        while leaks < _FILTERS:
            low, high, far = self.interval(theta)
            last = float(theta[order(theta, p.which)[min(k, len(theta) - 1)]])
            polynomial = ChebyshevFilter(p.multiply, low, high, self._degree(low, high, last, far), p.operator)
            space = self._space(polynomial, min(2 * k + 12, self.dim))
            # A little of everything, so that nothing is missing from the start.
            mixed = gaussian((1, len(rows)), p.dtype, p.device, p.generator) @ rows
            noise = space.random_rows(1)
            space.start(mixed / torch.linalg.vector_norm(mixed) + 1e-2 * noise / torch.linalg.vector_norm(noise))
            run = _Filtered(self, polynomial)
            _iterate(self, space, "LA", run, polynomial.degree)
            if run.found is not None:
                theta, rows = run.found
                continue
            if not run.leak:
                return self._pairs(run.confirmed, "chebyshev-filtered lanczos")
            # The interval did not hold the rest of the spectrum: what was found lies beyond it and widens it.
            values = run.confirmed[0]
            self.bounds = (min(self.bounds[0], float(values.min())), max(self.bounds[1], float(values.max())))
            theta, rows = run.confirmed[:2]
            leaks += 1
        return self._pairs((*run.confirmed[:2], math.inf), "chebyshev-filtered lanczos")

    def interval(self, theta: Tensor) -> tuple[float, float, float]:
        """[low, high] that holds the unwanted spectrum, and the wanted point farthest from it."""
        which = self.p.which
        low, high = self.bounds
        margin = 0.01 * (high - low)
        if which == "LA":
            return low - margin, float(theta.min()), max(high, float(theta.max()))
        if which == "SA":
            return float(theta.max()), high + margin, min(low, float(theta.min()))
        cut = float(theta.abs().min())
        inner_low, inner_high = max(-cut, low - margin), min(cut, high + margin)
        far = float(theta[theta.abs().argmax()])
        return inner_low, inner_high, far

    def _balanced(self) -> int:
        """The degree at which products and orthogonalisation cost about the same, doubled."""
        return int(8 * self.dim / (self.work + 6)) + 2

    def _degree(self, low: float, high: float, last: float, far: float) -> int:
        """High enough to set the last wanted point apart, or to cost as much as the rest of a step; not so high that the
        farthest point drowns the others in its rounding."""
        most = max(self.p.rtol / (10 * torch.finfo(self.p.dtype).eps), 10.0)
        apart = max(degree_for_growth(last, low, high, _APART), self._balanced())
        return max(_LEAST_DEGREE, min(degree_for_growth(far, low, high, most), apart))

    # ---- the end ---------------------------------------------------------------------------------------------------

    def rayleigh_ritz(self, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """Values ascending, rotated rows, and the largest residual, all from one product with A."""
        images = self._images(rows)
        self.products += len(rows)
        wide = torch.complex128 if rows.is_complex() else torch.float64
        gram, H = (rows.conj() @ rows.mT).to(wide), (rows.conj() @ images.mT).to(wide)
        # The rows are orthonormal but for rounding: Cholesky of their Gram matrix mends that.
        L = torch.linalg.cholesky(gram)
        H = torch.linalg.solve_triangular(L, (H + H.mH) / 2, upper=False)
        H = torch.linalg.solve_triangular(L, H.mH, upper=False)
        if not bool(torch.isfinite(H.abs().sum())):
            raise ValueError("the product with A returned NaN or infinity")
        theta, U = torch.linalg.eigh((H + H.mH) / 2)
        U = torch.linalg.solve_triangular(L.mH, U, upper=True).mT.to(rows.dtype)
        rows, images = U @ rows, U @ images
        images.addcmul_(rows, theta.to(rows.dtype)[:, None], value=-1)
        error = float(torch.linalg.vector_norm(images, dim=1).max())
        self.norm = max(self.norm, float(theta.abs().max()))
        return theta, rows, error

    def _images(self, rows: Tensor) -> Tensor:
        """The products of A with the rows: one by one where a block would cost more to transpose than it saves."""
        if self.work < _CHEAP:
            return torch.cat([self.p.multiply(row[:, None]).mT for row in rows])
        return self.p.multiply(rows.mT.contiguous()).mT.contiguous()

    def _pairs(self, confirmed: tuple[Tensor, Tensor, float], method: str) -> Pairs:
        theta, rows, error = confirmed
        relative = error / self.norm if self.norm > 0 else 0.0
        return Pairs(theta, rows.mT, relative, self.products, self.restarts, method)


class _Plain:
    """Convergence of Ritz pairs of A itself: the estimated residuals are right but for rounding."""

    leak = False
    chunk = None
    found: tuple[Tensor, Tensor] | None = None

    def __init__(self, solver: _Solver) -> None:
        self.solver = solver
        self.history: list[float] = []
        self.confirmed: tuple[Tensor, Tensor, float]

    def see(self, theta: Tensor, residual: Tensor) -> None:
        self.solver._see(theta, residual)

    def allowed(self, last: float) -> float:
        """The residual that a Ritz pair may have when the k-th value is `last`."""
        return _MARGIN * self.solver.goal(last)

    def confirm(self, rows: Tensor) -> bool:
        """Whether the vectors truly have small residuals; keeps what it computed."""
        self.confirmed = self.solver.rayleigh_ritz(rows)
        return self.confirmed[2] <= self.solver.goal(self._last())

    def outgrows(self, space: KrylovSpace, S: Tensor, theta: Tensor, worst: float) -> bool:
        """Whether the Ritz pairs that a restart keeps, and the largest residual of the wanted ones, show that a better
        operator than this can be had."""
        self.history.append(worst)
        # The first residuals still find their way: what comes after tells how it goes on.
        seen = self.history[1:]
        if len(seen) < _JUDGE or not all(seen) or not self.solver.may_filter():
            return False
        goal = self.allowed(float(theta[self.solver.p.k - 1]))
        rate = (worst / seen[0]) ** (1 / (len(seen) - 1))
        # More restarts than a filter takes, if they go on like this.
        if goal >= worst or (rate < 1 and math.log(goal / worst) / math.log(rate) < _PATIENCE):
            return False
        self.found = self.solver.rayleigh_ritz(space.vectors(S))[:2]
        return True

    def _last(self) -> float:
        theta = self.confirmed[0]
        return float(theta[order(theta, self.solver.p.which)[-1]])


class _Filtered(_Plain):
    """Convergence of Ritz pairs of the polynomial; how their residuals relate to those of A is measured."""

    chunk = 4  # type: ignore[assignment]

    def __init__(self, solver: _Solver, polynomial: ChebyshevFilter) -> None:
        super().__init__(solver)
        self.polynomial = polynomial
        self.factor = 0.1
        self.growth = 1.0

    def see(self, theta: Tensor, residual: Tensor) -> None:
        return None

    def allowed(self, last: float) -> float:
        self.growth = max(last, 1.0)
        return _MARGIN * self.solver.goal(self._edge()) * self.growth / (self.factor * self.polynomial.half)

    def outgrows(self, space: KrylovSpace, S: Tensor, theta: Tensor, worst: float) -> bool:
        # The polynomial grows with the distance from the centre, so its values tell where the eigenvalues lie, if
        # the vectors are near enough to some; whether they are, a product with A tells.
        far = self.polynomial.distance(float(theta[0]))
        width = far - self.polynomial.half
        if far - self.polynomial.distance(float(theta[-1])) >= _SHRINK * width:
            return False
        self.found = self.solver.rayleigh_ritz(space.vectors(S))[:2]
        low, high, far = self.solver.interval(self.found[0])
        return abs(far - (low + high) / 2) - (high - low) / 2 < _SHRINK * width

    def _edge(self) -> float:
        # Good enough for a goal: the end of the interval is the k-th value or a little inside.
        return self.polynomial.high

    def confirm(self, rows: Tensor) -> bool:
        self.confirmed = self.solver.rayleigh_ritz(rows)
        theta, _, error = self.confirmed
        slack = 1e-6 * self.polynomial.half
        inside = (theta > self.polynomial.low + slack) & (theta < self.polynomial.high - slack)
        which = self.solver.p.which
        beyond = {"LA": theta < self.polynomial.low, "SA": theta > self.polynomial.high}.get(which, inside & False)
        if which == "LM":
            beyond = theta.abs() < (1 - 1e-6) * min(abs(self.polynomial.low), abs(self.polynomial.high))
        self.leak = bool((inside | beyond).any())
        goal = self.solver.goal(self._last())
        self.factor = max(self.factor * min(error / goal, 1e6) * 2, 1e-8) if error > goal else self.factor
        return error <= goal or self.leak


def _iterate(solver: _Solver, space: KrylovSpace, which: str, run: _Plain, factor: int) -> None:
    """Grow and restart until k pairs have converged and nothing beyond them turns up from a random start."""
    k, limit = solver.p.k, solver.p.limit
    before, until, settled = 0, 0, None
    while True:
        space.expand(run.chunk)
        theta, S, residual = space.ritz()
        if len(theta) < k:
            continue
        run.see(theta, residual)
        best = order(theta, which)
        wanted = best[:k]
        last = float(theta[wanted[-1]])
        allowed = run.allowed(last)
        spent = solver.products + factor * space.products > limit
        if float(residual[wanted].max()) <= allowed or spent:
            changed = settled is None or abs(last - settled) > 4 * allowed
            if (changed or space.products >= until or spent) and (run.confirm(space.vectors(S[:, wanted])) or spent):
                if run.leak or spent or not changed:
                    solver.products += factor * space.products
                    return
                # Deflated, from a random vector: a Krylov space holds one copy of a multiple eigenvalue.
                used, before = space.products - before, space.products
                settled, until = last, space.products + max(4, math.ceil(_AGAIN * used))
                space.start(space.random_rows(1), space.vectors(S[:, wanted]), theta[wanted])
                continue
        if space.size >= space.dim:
            solver.restarts += 1
            keep = min(k + max(2, (space.dim - k) // 3), space.size - 2)
            kept, worst = best[:keep], float(residual[wanted].max())
            if settled is None and run.outgrows(space, S[:, kept], theta[kept], worst):
                solver.products += factor * space.products
                return
            run.found = None
            space.restart(theta[kept], S[:, kept])
