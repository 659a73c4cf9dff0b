"""The spectral density of a Hermitian operator: a probability measure with an error band."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.random import GeneratorLike
from resolvent.spectra.exact import exact_eigenvalues, hermitian_operator
from resolvent.spectra.kpm import kernel_polynomial_rule
from resolvent.spectra.quadrature import check_confidence, quadrature, quantile


class Atom(NamedTuple):
    """An eigenvalue of many copies: `value`, the share `weight` of all eigenvalues, and the standard error of
    that share."""

    value: float
    weight: float
    error: float


@dataclass(frozen=True)
class SpectralDensity:
    """The distribution of the eigenvalues of an (n, n) operator, as discrete rules of p probes that are
    averaged.

    Attributes
    ----------
    nodes : (p, k) float64 tensor, ascending in each row
    weights : (p, k) float64 tensor, of sum 1 in each row
    n : number of eigenvalues
    method : "exact", "slq" or "kpm"
    residuals : (p, k), an eigenvalue lies within this distance of a node; 0 for "exact", inf for "kpm"
    kind : of the results, "torch" or "numpy"
    """

    nodes: Tensor
    weights: Tensor
    n: int
    method: str
    residuals: Tensor
    kind: Kind = "torch"

    @property
    def support(self) -> tuple[float, float]:
        """Smallest and largest node."""
        return float(self.nodes.min()), float(self.nodes.max())

    @property
    def mean(self) -> float:
        """Mean eigenvalue, ``tr A / n``."""
        return float((self.weights * self.nodes).sum(1).mean())

    @property
    def variance(self) -> float:
        """Variance of the eigenvalues."""
        return max(0.0, float((self.weights * (self.nodes - self.mean).square()).sum(1).mean()))

    def moments(self, k: int) -> Any:
        """Moments ``tr A^j / n`` for j = 0 ... k: (k + 1,). Gauss rules have those up to 2 steps - 1 exactly."""
        if k < 0:
            raise ValueError(f"k must be at least 0, got {k}")
        powers = torch.arange(k + 1, dtype=self.nodes.dtype, device=self.nodes.device)
        return give_back((self.weights[..., None] * self.nodes[..., None] ** powers).sum(1).mean(0), self.kind)

    def integrate(self, f: Any) -> tuple[float, float]:
        """``tr f(A) / n`` and its standard error over the probes; `f` maps a tensor to a tensor."""
        per_probe = (self.weights * f(self.nodes)).sum(1)
        p = len(per_probe)
        return float(per_probe.mean()), float(per_probe.std() / math.sqrt(p)) if p > 1 else 0.0

    def cdf(self, x: Any) -> Any:
        """Share of the eigenvalues at most x (shape of x): a step function if "exact", else with steps joined
        by lines."""
        points, kind = as_tensor(x, "x")
        return give_back(self._distribution(points).mean(0).to(points.dtype), kind)

    def cdf_band(self, x: Any, confidence: float = 0.95) -> tuple[Any, Any]:
        """Lower and upper bound of the cdf at each x, at the given confidence: what the probes and the steps
        leave open.

        A Gauss rule determines the distribution of its probe up to the weight of the nodes next to x (the
        Chebyshev-Markov-Stieltjes bounds); the spread over the probes gives the rest.
        """
        check_confidence(confidence)
        points, kind = as_tensor(x, "x")
        low, high = self._bounds(points)
        p = len(self.nodes)
        if self.method == "exact":
            margins = (torch.zeros_like(low[0]),) * 2
        else:
            t = quantile(confidence, p) / math.sqrt(p)
            # The mean of bounded weights over n eigenvalues fluctuates at least like one eigenvalue.
            margins = tuple(  # type: ignore[assignment]
                t * b.std(0).clamp_min(0.5 / self.n) if p > 1 else torch.ones_like(b[0]) for b in (low, high)
            )
        lower = (low.mean(0) - margins[0]).clamp(0, 1)
        upper = (high.mean(0) + margins[1]).clamp(0, 1)
        return give_back(lower.to(points.dtype), kind), give_back(upper.to(points.dtype), kind)

    def pdf(self, x: Any, sigma: float | None = None) -> Any:
        """Density at x: the nodes broadened to Gaussians of width `sigma`; default a step's share of the
        support."""
        points, kind = as_tensor(x, "x")
        return give_back(self._broadened(points, sigma).mean(0).to(points.dtype), kind)

    def pdf_band(self, x: Any, sigma: float | None = None, confidence: float = 0.95) -> tuple[Any, Any]:
        """Lower and upper bound of the broadened density from the spread over the probes."""
        check_confidence(confidence)
        points, kind = as_tensor(x, "x")
        values = self._broadened(points, sigma)
        p = len(values)
        margin = values.std(0) * quantile(confidence, p) / math.sqrt(p) if p > 1 else torch.zeros_like(values[0])
        mean = values.mean(0)
        bounds = ((mean - margin).clamp_min(0), mean + margin)
        return tuple(give_back(b.to(points.dtype), kind) for b in bounds)  # type: ignore[return-value]

    def atoms(self, min_weight: float = 0.01) -> list[Atom]:
        """Eigenvalues that carry at least the share `min_weight` of the spectrum, seen by every probe.

        A node counts if an eigenvalue is known to lie within 1e-6 of the support's width of it.
        """
        if not 0 < min_weight <= 1:
            raise ValueError(f"min_weight must be above 0 and at most 1, got {min_weight}")
        if self.method == "kpm":
            raise ValueError("a kernel polynomial density is smooth: it shows no atoms; use method='slq'")
        low, high = self.support
        width = 1e-6 * max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-300)
        p = len(self.nodes)
        probe = torch.arange(p, device=self.nodes.device)[:, None].expand_as(self.nodes)
        sharp = self.residuals <= width
        values, order = self.nodes[sharp].sort()
        if not len(values):
            return []
        weights, owner = self.weights[sharp][order], probe[sharp][order]
        group = torch.zeros_like(owner)
        group[1:] = (values.diff() > width).cumsum(0)
        groups = int(group[-1]) + 1
        table = torch.zeros(groups, p, dtype=weights.dtype, device=weights.device)
        table.index_put_((group, owner), weights, accumulate=True)
        centre = torch.zeros(groups, dtype=weights.dtype, device=weights.device).index_add_(0, group, weights * values)
        share = table.mean(1)
        error = table.std(1) / math.sqrt(p) if p > 1 else torch.zeros_like(share)
        centre = centre / (p * share).clamp_min(1e-300)
        keep = (share >= min_weight) & (table > 0).all(1)
        columns = (centre[keep].tolist(), share[keep].tolist(), error[keep].tolist())
        return [Atom(*row) for row in zip(*columns, strict=True)]

    def _sums(self) -> Tensor:
        """(p, k + 1) sums of the first weights, from 0 to 1."""
        total = self.weights.cumsum(1)
        return torch.cat([torch.zeros_like(total[:, :1]), total / total[:, -1:]], 1)

    def _positions(self, x: Tensor, right: bool = True) -> Tensor:
        flat = x.reshape(1, -1).to(self.nodes).expand(len(self.nodes), -1).contiguous()
        return torch.searchsorted(self.nodes, flat, right=right)

    def _distribution(self, x: Tensor) -> Tensor:
        sums = self._sums()
        i = self._positions(x)
        if self.method == "exact":
            return sums.gather(1, i).reshape(-1, *x.shape)
        # The cdf passes near the middle of every step of a Gauss rule: lines between the middles.
        middle = (sums[:, 1:] + sums[:, :-1]) / 2
        left, right = (i - 1).clamp_min(0), i.clamp_max(self.nodes.shape[1] - 1)
        x0, x1 = self.nodes.gather(1, left), self.nodes.gather(1, right)
        y0, y1 = middle.gather(1, left), middle.gather(1, right)
        share = ((x.reshape(1, -1).to(x0) - x0) / (x1 - x0).clamp_min(1e-300)).clamp(0, 1)
        inside = y0 + share * (y1 - y0)
        found = torch.where(i == 0, 0.0, torch.where(i == self.nodes.shape[1], 1.0, inside))
        return found.reshape(-1, *x.shape)

    def _bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sums = self._sums()
        i = self._positions(x)
        if self.method == "exact":
            both = sums.gather(1, i).reshape(-1, *x.shape)
            return both, both
        k = self.nodes.shape[1]
        low = sums.gather(1, (i - 1).clamp_min(0))
        high = sums.gather(1, (i + 1).clamp_max(k))
        return low.reshape(-1, *x.shape), high.reshape(-1, *x.shape)

    def _broadened(self, x: Tensor, sigma: float | None) -> Tensor:
        low, high = self.support
        if sigma is None:
            steps = self.nodes.shape[1] if self.method != "exact" else round(2 * math.sqrt(self.n))
            sigma = max(high - low, 1e-6 * max(abs(low), abs(high), 1e-300)) / max(steps, 4)
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        distance = (x.reshape(-1, 1, 1).to(self.nodes) - self.nodes) / sigma
        bumps = torch.exp(-0.5 * distance.square()) * (self.weights / (sigma * math.sqrt(2 * math.pi)))
        return bumps.sum(-1).mT.reshape(-1, *x.shape)


def density(
    A: OperatorLike,
    *,
    method: Literal["auto", "exact", "slq", "kpm"] = "auto",
    probes: int = 8,
    steps: int = 50,
    generator: GeneratorLike = None,
) -> SpectralDensity:
    """The spectral density ``1/n sum_i delta(x - lambda_i)`` of a Hermitian operator.

    Parameters
    ----------
    A : (n, n) Hermitian operator or anything `as_operator` takes
    method : "slq", stochastic Lanczos quadrature; "kpm", the kernel polynomial method with Jackson damping;
        "exact", all eigenvalues; "auto" is exact by structure or up to n = 1500 (stored matrices 3000), else "slq"
    probes : random vectors; the error of a smooth statistic is about ``sqrt(2 / (n probes))``
    steps : products per probe; features narrower than about the support / steps are not resolved
    generator : of the probes

    Returns
    -------
    SpectralDensity
        With `pdf`, `cdf`, their bands, `moments`, `atoms`, `mean`, `variance`, `integrate`, `support`.

    Raises
    ------
    ValueError : A is not square, seen not to be Hermitian, or has a batch; probes or steps below 1.

    Notes
    -----
    Lanczos without a stored basis: per step one product with all probes and three passes over (n, probes)
    numbers. Ghost copies of converged eigenvalues share the weight of the eigenvalue, so the measure stays
    right. There is no gradient.

    References
    ----------
    "Approximating Spectral Densities of Large Matrices"; "The Kernel Polynomial Method"

    Examples
    --------
    >>> d = density(torch.diag(torch.tensor([0.0, 0.0, 1.0, 3.0])))
    >>> d.mean, [round(a.weight, 2) for a in d.atoms(0.3)], d.cdf(torch.tensor(0.5))
    (1.0, [0.5], tensor(0.5000))
    """
    A = hermitian_operator(as_operator(A, name="A"))
    if A.batch_shape:
        raise ValueError(f"A must be one matrix, got a batch {tuple(A.batch_shape)}")
    if method not in ("auto", "exact", "slq", "kpm"):
        raise ValueError(f"method must be auto, exact, slq or kpm, got {method!r}")
    if probes < 1 or steps < 1:
        raise ValueError(f"probes and steps must be at least 1, got {probes} and {steps}")
    n = A.shape[-1]
    if n < 1:
        raise ValueError("A must have at least one row")
    with torch.no_grad():
        values = None
        if method in ("auto", "exact"):
            values = exact_eigenvalues(A)
            if values is None and method == "exact":
                values = torch.linalg.eigvalsh(A._dense())
        if values is not None:
            nodes = values.double().sort().values[None]
            weights = torch.full_like(nodes, 1 / n)
            return SpectralDensity(nodes, weights, n, "exact", torch.zeros_like(nodes), A.kind)
        if method == "kpm":
            nodes, weights = kernel_polynomial_rule(A, probes, steps, generator)
            return SpectralDensity(nodes, weights, n, "kpm", torch.full_like(nodes, math.inf), A.kind)
        rule = quadrature(A, probes, min(steps, n), generator)
    return SpectralDensity(rule.nodes, rule.weights, n, "slq", rule.residuals, A.kind)
