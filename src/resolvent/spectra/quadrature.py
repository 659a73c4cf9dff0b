"""Stochastic Lanczos quadrature: tr f(A) from a few probes, with an error that is measured.

A Lanczos run of k steps from z gives the k-point Gauss rule of the spectral measure of z; with ``||z||^2 = n`` and
random z the mean over probes of ``n sum_i w_i f(theta_i)`` estimates tr f(A). `logdet`, `entropy`, `density` and
`count` share this file. The runs keep no basis: without reorthogonalisation a converged Ritz value comes back as a
ghost, its weight splits between the copies, and the quadrature stays that of a matrix within rounding of A. So a
step costs one product and three passes over the block, and memory is three blocks, whatever the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.gradient import bilinear, first_order, records
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator, rademacher
from resolvent.spectra.lanczos import _power_of_two_scale
from resolvent.spectra.recurrence import advance, column_dots

# Probes of one block: one pass over the matrix serves them all.
BLOCK = 8


def quantile(confidence: float, samples: int) -> float:
    """Half-width of a two-sided Student interval in standard errors.

    Examples
    --------
    >>> round(quantile(0.95, 10), 3)
    2.262
    """
    if samples < 2:
        return math.inf
    return float(stdtrit(samples - 1, 0.5 + confidence / 2))


def check_confidence(confidence: float) -> None:
    """Raise a ValueError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


@dataclass(frozen=True)
class Quadrature:
    """Gauss rules of p probes.

    Attributes
    ----------
    nodes : (p, k) float64, ascending
    weights : (p, k) float64, of sum 1 per probe
    residuals : (p, k) float64, distance within which an eigenvalue lies from each node
    """

    nodes: Tensor
    weights: Tensor
    residuals: Tensor


class LanczosRun:
    """p independent Lanczos recurrences on the columns of Z (n, p), extended on demand, nothing stored but
    the last two blocks."""

    def __init__(self, A: Operator, Z: Tensor, keep: bool = False) -> None:
        self.A = A
        self.start = Z.clone() if keep else None
        self._begin(Z)

    def _begin(self, Z: Tensor) -> None:
        self.q, self.r = Z.contiguous(), torch.zeros_like(Z)
        self.norms = column_dots(self.q, self.q).sqrt()
        # The blocks are not normalised: their norms enter the next step as scalars, which saves a pass.
        self.c, self.beta = self.norms.clone(), torch.zeros_like(self.norms)
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []
        self.scale = torch.zeros_like(self.norms)
        self.factor = 1.0

    @property
    def steps(self) -> int:
        return len(self.alphas)

    def extend(self, steps: int) -> LanczosRun:
        """Go on until `steps` steps have been taken."""
        while self.steps < steps:
            self._step()
        return self

    def _step(self) -> None:
        inverse = torch.where(self.c > 0, 1 / self.c.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        W = self.A._matmul(self.q)
        if not self.steps:
            self.factor = _power_of_two_scale(W)
        # The update writes in place: never into the operator's own memory or into the block it was given.
        W = W * self.factor if self.factor != 1.0 else W.contiguous()
        if not self.steps or W.data_ptr() == self.q.data_ptr():
            W = W.clone()
        alpha = column_dots(self.q, W) * inverse**2
        previous = self.r
        ratio = torch.where(self.beta > 0, self.beta * self.last_inverse, 0.0) if self.steps else self.beta  # type: ignore[has-type]
        W, square = advance(W, self.q, previous, inverse, alpha * inverse, ratio)
        beta = square.sqrt()
        self.scale = torch.maximum(self.scale, alpha.abs() + beta)
        # An invariant subspace is complete: what is left is rounding. The run goes on with zeros, cut off by
        # a zero beta.
        alive = beta > 4 * torch.finfo(W.dtype).eps * self.scale
        # A dead column repeats its first alpha, a value inside the spectrum, with weight zero.
        if self.steps:
            alpha = torch.where(self.c > 0, alpha, self.alphas[0])
        beta = torch.where(alive, beta, 0.0)
        self.alphas.append(alpha)
        self.betas.append(beta)
        self.r, self.q = self.q, W
        self.last_inverse, self.c, self.beta = inverse, beta, beta

    def tridiagonal(self, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Diagonals (p, k) and off-diagonals (p, k), the last of which leads out of the space."""
        k = self.steps if steps is None else steps
        return torch.stack(self.alphas[:k], 1) / self.factor, torch.stack(self.betas[:k], 1) / self.factor

    def rule(self, steps: int | None = None) -> Quadrature:
        """The Gauss rules after `steps` steps."""
        alpha, beta = self.tridiagonal(steps)
        theta, S = tridiagonal_eigh(alpha, beta[:, :-1])
        return Quadrature(theta, S[:, 0, :].square(), beta[:, -1:] * S[:, -1, :].abs())

    def apply(self, g: Callable[[Tensor], Tensor]) -> Tensor:
        """``g(A) Z`` by a second pass over the recurrence, which builds the same basis again."""
        if self.start is None:
            raise ValueError("this run did not keep its start")
        steps = self.steps
        alpha, beta = self.tridiagonal()
        theta, S = tridiagonal_eigh(alpha, beta[:, :-1])
        y = ((S * g(theta)[:, None, :]) @ S[:, 0, :, None])[..., 0] * self.norms[:, None]
        self._begin(self.start)
        out = torch.zeros_like(self.start)
        for j in range(steps):
            inverse = torch.where(self.c > 0, 1 / self.c.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
            out += self.q * (y[:, j] * inverse).to(out.real.dtype)
            if j + 1 < steps:
                self._step()
        return out


def tridiagonal_eigh(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (p, k) and eigenvectors (p, k, k) of a batch of symmetric tridiagonal matrices.

    Examples
    --------
    >>> tridiagonal_eigh(torch.zeros(1, 2), torch.ones(1, 1))[0]
    tensor([[-1.,  1.]])
    """
    T = torch.diag_embed(alpha)
    if beta.shape[1]:
        T = T + torch.diag_embed(beta, 1) + torch.diag_embed(beta, -1)
    return torch.linalg.eigh(T)


def quadrature(A: Operator, probes: int, steps: int, generator: GeneratorLike = None) -> Quadrature:
    """Gauss rules of `probes` random probes of a Hermitian operator, in blocks of 8."""
    g = as_generator(generator, A.device)
    n, rules = A.shape[-1], []
    with torch.no_grad():
        for first in range(0, probes, BLOCK):
            Z = rademacher((n, min(BLOCK, probes - first)), A.dtype, A.device, g)
            rules.append(LanczosRun(A, Z).extend(steps).rule())
    return Quadrature(*(torch.cat([getattr(r, f) for r in rules]) for f in ("nodes", "weights", "residuals")))


@dataclass(frozen=True)
class Integrand:
    """A scalar ``combine(tr f_1(A), ..., tr f_c(A))`` and what its gradient needs.

    Attributes
    ----------
    f : nodes (p, k) -> (c, p, k)
    derivative : nodes -> (c, p, k), of f
    combine : (..., c) -> (...), of the traces
    """

    f: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    combine: Callable[[Tensor], Tensor] = lambda traces: traces[..., 0]


def _linearised(integrand: Integrand, traces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value at the mean over probes, its slopes there (c,), and the probes' deviations from it to first order
    (p,)."""
    mean = traces.mean(0)
    with torch.enable_grad():
        leaf = mean.detach().requires_grad_()
        value = integrand.combine(leaf)
        (slopes,) = torch.autograd.grad(value, leaf)
    return value.detach(), slopes, (traces - mean) @ slopes


def _traces(runs: list[LanczosRun], integrand: Integrand, steps: int | None = None) -> Tensor:
    """Per probe, n w f(theta) summed: (p, c). A node without weight may lie anywhere: it does not count."""
    # All runs have taken the same steps: one batch of small eigenproblems.
    alpha, beta = (torch.cat(t) for t in zip(*(run.tridiagonal(steps) for run in runs), strict=True))
    theta, S = tridiagonal_eigh(alpha, beta[:, :-1])
    weights = S[:, 0, :].square()
    terms = torch.where(weights > 0, weights * integrand.f(theta), 0.0)
    return runs[0].A.shape[-1] * terms.sum(-1).mT


def trace_of_function(
    A: Operator,
    integrand: Integrand,
    *,
    name: str,
    rtol: float,
    atol: float = 0.0,
    confidence: float = 0.95,
    max_steps: int = 400,
    max_probes: int = 512,
    generator: GeneratorLike = None,
) -> tuple[Tensor, Info]:
    """Estimate ``combine(tr f(A))`` until its error is at most ``max(rtol |value|, atol)``.

    The error is the half-width of the Student interval over the probes plus the change of the rule over the
    last third of its steps. First the steps grow until that change is a third of the tolerance, then the
    probes.
    """
    check_confidence(confidence)
    g, n, gradient = as_generator(generator, A.device), A.shape[-1], records(A)
    runs: list[LanczosRun] = []
    steps, probes, rounds, matvecs = 15, 2 * BLOCK, 0, 0
    while True:
        rounds += 1
        with torch.no_grad():
            while sum(r.q.shape[1] for r in runs) < probes:
                runs.append(LanczosRun(A, rademacher((n, BLOCK), A.dtype, A.device, g), keep=gradient))
            for run in runs:
                matvecs += BLOCK * max(0, steps - run.steps)
                run.extend(steps)
            traces = _traces(runs, integrand)
            shorter = [_traces(runs, integrand, max(1, round(steps * share))) for share in (2 / 3, 4 / 9)]
        value, _, deviations = _linearised(integrand, traces)
        change = _rest(value, *(_linearised(integrand, t)[0] for t in shorter))
        spread = float(deviations.std()) / math.sqrt(probes) * quantile(confidence, probes)
        tolerance = max(rtol * abs(float(value)), atol, 1e-300)
        error = spread + change
        if error <= tolerance or not math.isfinite(error):
            break
        if change > tolerance / 3 and steps < max_steps:
            steps = min(max_steps, math.ceil(1.5 * steps))
        elif spread > tolerance - change > 0 and probes < max_probes:
            wanted = probes * (spread / (tolerance - change)) ** 2 * 1.2
            probes = min(max_probes, BLOCK * math.ceil(max(1.5 * probes, min(wanted, 4 * probes)) / BLOCK))
        else:
            break
    info = Info("slq", matvecs, rounds, error / max(abs(float(value)), 1e-300), error <= tolerance)
    result = value.to(device=A.device, dtype=torch.zeros((), dtype=A.dtype).real.dtype)
    if not info.converged:
        message = f"{name}: the error is {error:.3g}, {tolerance:.3g} was asked for ({probes} probes, {steps} steps)"
        raise ConvergenceError(message, best=result, error=info.error, info=info)
    if gradient:
        result = first_order(result, _surrogate(A, runs, integrand, value, traces).to(result.dtype))
    return result, info


def _rest(last: Tensor, middle: Tensor, first: Tensor) -> float:
    """What a sequence still has to go, from its values at k, 2k/3 and 4k/9 steps.

    If the error falls by a factor r each time the steps grow by half, the last change times ``r / (1 - r)`` is left:
    this sees slow (algebraic, logarithmic) convergence, which the change alone takes for an end.
    """
    new, old = float((last - middle).abs()), float((middle - first).abs())
    r = min(new / old, 0.95) if old > 0 else 0.0
    return new * max(1.0, r / (1 - r))


def _surrogate(A: Operator, runs: list[LanczosRun], integrand: Integrand, value: Tensor, traces: Tensor) -> Tensor:
    """Mean of ``(h'(A) z)^H (A z)`` with h the combination of the f_c that the chain rule gives."""
    _, slopes, _ = _linearised(integrand, traces)
    total, probes = value.new_zeros(()), 0
    for run in runs:
        with torch.no_grad():
            # The vector h'(A) z converges half as fast in the steps as the quadrature does.
            run.extend(2 * run.steps)
            Y = run.apply(lambda theta: torch.einsum("c,cpk->pk", slopes, integrand.derivative(theta)))
        total = total + bilinear(Y, A @ run.start).real.sum()  # type: ignore[operator]
        probes += run.start.shape[1]
    return total / probes
