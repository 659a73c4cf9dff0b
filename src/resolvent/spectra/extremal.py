"""The extreme eigenpairs of a Hermitian product: thick-restart Lanczos, filtered by Chebyshev polynomials where they
pay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resolvent.operators import Operator
from resolvent.spectra.chebyshev import ChebyshevFilter, degree_for_growth
from resolvent.spectra.restart import KrylovSpace

Multiply = Callable[[Tensor], Tensor]
_MARGIN = 0.5
_LEAST_DEGREE = 4


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
        self.block = 2 if problem.which != "BE" else 1
        self.block = 1
        dim = max(2 * k + 20, 32) if problem.which != "BE" else max(3 * k + 20, 40)
        self.dim = min(dim, problem.n - 2)
        self.products = 0
        self.restarts = 0
        self.norm = 0.0
        self.bounds = (math.inf, -math.inf)

    def space(self, multiply: Multiply, block: int, dim: int) -> KrylovSpace:
        p = self.p
        return KrylovSpace(multiply, p.n, dim, block, p.dtype, p.device, p.generator)

    def run(self) -> Pairs:
        p = self.p
        space = self.space(p.multiply, self.block, self.dim)
        start = space.random_rows(self.block)
        if p.start is not None:
            start[0] = p.start
        space.start(start)
        rows, done = self._lanczos(
            space, p.which, lambda theta, wanted: self._goal(float(theta[wanted[-1]])), may_filter=self._may_filter()
        )
        self.products += space.products
        if not done and self._may_filter():
            rows = self._filtered(rows)
        return self._finish(rows)

    def _goal(self, last: float) -> float:
        """The residual to reach when the k-th value is `last`."""
        if not self.p.squared or self.norm == 0:
            return self.p.rtol * self.norm
        share = max(last / self.norm, 0.0) ** 0.5
        return self.norm * max(self.p.rtol * share, 40 * torch.finfo(self.p.dtype).eps)

    def _may_filter(self) -> bool:
        p = self.p
        return p.filtered and p.which in ("LA", "SA", "LM") and p.cost < 16 * p.n * self.dim

    # ---- one Lanczos iteration, plain or filtered ------------------------------------------------------------------

    def _lanczos(
        self, space: KrylovSpace, which: str, tolerance: Callable, may_filter: bool, factor: int = 1
    ) -> tuple[Tensor, bool]:
        """Restart until converged and verified; returns the wanted Ritz vectors as rows, and whether they are."""
        k = self.p.k
        before = space.products
        settled: float | None = None
        verify_until = 0
        while True:
            space.expand()
            self.restarts += 1
            theta, S, residual = space.ritz()
            best = order(theta, which)
            wanted = best[:k]
            if factor == 1:
                self._see(theta, residual)
            tolerances = _MARGIN * tolerance(theta, wanted)
            converged = residual[wanted] <= tolerances
            if bool(converged.all()):
                last = float(theta[wanted[-1]])
                fresh = settled is None or abs(last - settled) > tolerances
                if fresh:
                    used = space.products - before
                    settled, verify_until = last, space.products + int(0.4 * used)
                    space.start(space.random_rows(space.block), space.vectors(S[:, wanted]), theta[wanted])
                    before = space.products
                    continue
                if space.products >= verify_until:
                    return space.vectors(S[:, wanted]), True
            if self.products + factor * space.products > self.p.limit:
                return space.vectors(S[:, wanted]), False
            if may_filter and self.restarts >= 2 and settled is None and not bool(converged.any()):
                return space.vectors(S[:, best[: k + 2]]), False
            keep = self._keep(space, k, int(converged.sum()))
            space.restart(theta[best[:keep]], S[:, best[:keep]])

    def _keep(self, space: KrylovSpace, k: int, converged: int) -> int:
        keep = min(k + max(2, (space.dim - k) // 3), space.size - 2 * space.block)
        return max(keep, min(k, space.size - space.block))

    def _see(self, theta: Tensor, residual: Tensor) -> None:
        low, high = float(theta[0] - residual[0]), float(theta[-1] + residual[-1])
        self.bounds = (min(low, self.bounds[0]), max(high, self.bounds[1]))
        self.norm = max(self.norm, float(theta.abs().max()))

    # ---- the filter ------------------------------------------------------------------------------------------------

    def _filtered(self, rows: Tensor) -> Tensor:
        p, k = self.p, self.p.k
        for _ in range(8):
            theta, rows, _ = self._rayleigh_ritz(rows)
            low, high, far = self._interval(theta)
            degree = self._degree(low, high, far)
            polynomial = ChebyshevFilter(p.multiply, low, high, degree, p.operator)
            dim = min(max(k + 16, int(1.5 * k) + 10), self.dim)
            space = self.space(polynomial, self.block, dim)
            mixed = space.random_rows(rows.shape[0])[:, :1]
            start = (rows * mixed / math.sqrt(rows.shape[0])).sum(0, keepdim=True)
            noise = space.random_rows(self.block)
            start = start + 1e-3 * noise / math.sqrt(p.n)
            space.start(start)
            spread = max(high, float(theta.max())) - min(low, float(theta.min()))

            goal = self._goal(float(theta[order(theta, p.which)[k - 1]]))

            def tolerance(mu: Tensor, wanted: Tensor, spread: float = spread, goal: float = goal) -> float:
                growth = max(float(mu[wanted[-1]]) - 1, 1e-3)
                return goal * growth / spread

            rows, done = self._lanczos(space, "LA", tolerance, may_filter=False, factor=polynomial.degree)
            self.products += space.products * polynomial.degree
            if done:
                return rows
            return rows
        return rows

    def _interval(self, theta: Tensor) -> tuple[float, float, float]:
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

    def _degree(self, low: float, high: float, far: float) -> int:
        p = self.p
        eps = torch.finfo(p.dtype).eps
        growth = max(p.rtol / (10 * eps), 10.0)
        balanced = int(8 * self.dim * p.n / (p.cost + 6 * p.n)) + 2
        return max(_LEAST_DEGREE, min(degree_for_growth(far, low, high, growth), balanced))

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _rayleigh_ritz(self, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """Values ascending, rotated rows, and the largest residual, all from one product with A."""
        X, _R = torch.linalg.qr(rows.mT)
        AX = self.p.multiply(X.contiguous())
        self.products += X.shape[1]
        wide = torch.complex128 if X.is_complex() else torch.float64
        H = (X.mH @ AX).to(wide)
        theta, U = torch.linalg.eigh((H + H.mH) / 2)
        U = U.to(X.dtype)
        X, AX = X @ U, AX @ U
        residual = AX - X * theta.to(X.dtype)
        error = torch.linalg.vector_norm(residual, dim=0).max()
        self.norm = max(self.norm, float(theta.abs().max()))
        return theta, X.mT.contiguous(), float(error)

    def _finish(self, rows: Tensor) -> Pairs:
        theta, rows, error = self._rayleigh_ritz(rows[: self.p.k])
        relative = error / self.norm if self.norm > 0 else 0.0
        return Pairs(theta, rows.mT, relative, self.products, self.restarts, "lanczos")
