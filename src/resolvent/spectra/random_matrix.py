"""Laws of random spectra: Marchenko-Pastur and the semicircle, with closed-form distribution functions.

>>> from resolvent.spectra.random_matrix import MarchenkoPastur
>>> law = MarchenkoPastur(ratio=0.25)
>>> law.lower, law.upper, law.cdf(law.upper)
(0.25, 2.25, 1.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resolvent.spectra.law_distance import Distances, bulk_survival

if TYPE_CHECKING:
    from resolvent.operators import Operator

# 99 percent quantile of the Tracy-Widom law of real matrices; that of complex ones is smaller
_TRACY_WIDOM_99 = 2.0234


def _pointwise(f: Callable[[Tensor], Tensor], x: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
    """Apply a tensor function to what the user has: tensor, array or number."""
    if isinstance(x, Tensor):
        return f(x if x.is_floating_point() else x.to(torch.float64))
    y = f(torch.as_tensor(np.asarray(x), dtype=torch.float64)).numpy()
    return float(y) if y.ndim == 0 else y


def _invert(survival: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """The angle in [0, pi] whose survival is `target`, by bisection to full precision."""
    low, high = torch.zeros_like(target), torch.full_like(target, math.pi)
    for _ in range(60):
        middle = (low + high) / 2
        above = survival(middle) < target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class MarchenkoPastur:
    r"""The limiting law of the eigenvalues of :math:`\frac1n X X^H`, X (p, n) with independent entries.

    With :math:`c = p/n` and entries of variance :math:`\sigma^2` the density on
    :math:`[\lambda_-, \lambda_+] = \sigma^2 (1 \mp \sqrt c)^2` is

    .. math:: f(x) = \frac{\sqrt{(\lambda_+ - x)(x - \lambda_-)}}{2 \pi c \sigma^2 x}

    and for c > 1 the share 1 - 1/c of the eigenvalues is exactly zero.

    Parameters
    ----------
    ratio : the aspect ratio c = p / n, positive
    variance : the variance of one entry, positive

    Raises
    ------
    ValueError : a parameter is not a positive finite number.

    Notes
    -----
    With :math:`x = \sigma^2 |1 + \sqrt c e^{i\theta}|^2` the distribution function is elementary,
    :math:`1 - F = (\theta - \sin\theta/a + (1 - a^2) \psi / a^2)/\pi`, where
    :math:`a = \min(\sqrt c, 1/\sqrt c)` and :math:`\psi = \arg(1 + a e^{i\theta})`; absolute error below 1e-13.

    References
    ----------
    "Distribution of eigenvalues for some sets of random matrices"

    Examples
    --------
    >>> law = MarchenkoPastur(2.0)
    >>> law.atom, law.cdf(0.0)
    (0.5, 0.5)
    >>> bool(abs(law.cdf(law.ppf(0.8)) - 0.8) < 1e-12)
    True
    """

    ratio: float
    variance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ratio", "variance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive finite number, got {value!r}")

    @property
    def lower(self) -> float:
        """Lower edge of the bulk."""
        return self.variance * (1 - math.sqrt(self.ratio)) ** 2

    @property
    def upper(self) -> float:
        """Upper edge of the bulk."""
        return self.variance * (1 + math.sqrt(self.ratio)) ** 2

    @property
    def edges(self) -> tuple[float, float]:
        """Both edges of the bulk."""
        return self.lower, self.upper

    @property
    def atom(self) -> float:
        """Mass at zero: 1 - 1/c for c > 1, else 0."""
        return max(0.0, 1 - 1 / self.ratio)

    @property
    def mean(self) -> float:
        """First moment, the variance of an entry."""
        return self.variance

    @property
    def _a(self) -> float:
        return min(math.sqrt(self.ratio), 1 / math.sqrt(self.ratio))

    def pdf(self, x: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
        """Density of the continuous part at `x` (any shape); the atom at zero is not in it."""

        def f(t: Tensor) -> Tensor:
            inside = (t > self.lower) & (t < self.upper)
            safe = torch.where(inside, t, torch.full_like(t, self.upper))
            root = (self.upper - safe).clamp_min(0).sqrt() * (safe - self.lower).clamp_min(0).sqrt()
            return torch.where(inside, root / (2 * math.pi * self.ratio * self.variance * safe), 0.0)

        return _pointwise(f, x)

    def cdf(self, x: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
        """Distribution function at `x` (any shape), the atom at zero included."""

        def f(t: Tensor) -> Tensor:
            # the half-angle keeps full accuracy at both edges, where an arccos would lose half the digits
            up = (self.upper - t).clamp_min(0).sqrt()
            down = (t - self.lower).clamp_min(0).sqrt()
            theta = 2 * torch.atan2(up, down)
            value = self.atom + (1 - self.atom) * (1 - bulk_survival(theta, self._a))
            value = torch.where(t <= self.lower, self.atom, torch.where(t >= self.upper, 1.0, value))
            return torch.where(t < 0, 0.0, value)

        return _pointwise(f, x)

    def ppf(self, q: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
        """Quantile function: the smallest x with cdf(x) >= `q`, for q in [0, 1] (nan outside)."""

        def f(t: Tensor) -> Tensor:
            target = (1 - (t - self.atom).clamp_min(0) / (1 - self.atom)).clamp(0, 1)
            theta = _invert(lambda angle: bulk_survival(angle, self._a), target)
            root = math.sqrt(self.ratio)
            x = self.variance * ((1 - root) ** 2 + 4 * root * torch.cos(theta / 2) ** 2)
            x = torch.where(t <= self.atom, torch.zeros_like(x) if self.atom else self.lower, x)
            return torch.where((t >= 0) & (t <= 1), x, math.nan)

        return _pointwise(f, q)


@dataclass(frozen=True)
class Semicircle:
    r"""Wigner's law: the eigenvalues of a Hermitian matrix with independent entries of variance `variance` / n.

    .. math:: f(x) = \frac{1}{2 \pi \sigma^2} \sqrt{4 \sigma^2 - x^2}, \qquad |x| \le 2 \sigma.

    Parameters
    ----------
    variance : sigma squared, the second moment of the law, positive

    Raises
    ------
    ValueError : the variance is not a positive finite number.

    References
    ----------
    "On the Distribution of the Roots of Certain Symmetric Matrices"

    Examples
    --------
    >>> Semicircle().cdf(0.0), Semicircle(4.0).upper
    (0.5, 4.0)
    """

    variance: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.variance) and self.variance > 0):
            raise ValueError(f"variance must be a positive finite number, got {self.variance!r}")

    @property
    def upper(self) -> float:
        """Upper edge, 2 sigma."""
        return 2 * math.sqrt(self.variance)

    @property
    def lower(self) -> float:
        """Lower edge, -2 sigma."""
        return -self.upper

    def pdf(self, x: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
        """Density at `x` (any shape)."""

        def f(t: Tensor) -> Tensor:
            root = (self.upper - t).clamp_min(0).sqrt() * (self.upper + t).clamp_min(0).sqrt()
            return root / (2 * math.pi * self.variance)

        return _pointwise(f, x)

    def cdf(self, x: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
        """Distribution function at `x` (any shape)."""

        def f(t: Tensor) -> Tensor:
            theta = 2 * torch.atan2((self.upper - t).clamp_min(0).sqrt(), (t + self.upper).clamp_min(0).sqrt())
            return (1 - (theta - torch.sin(2 * theta) / 2) / math.pi).clamp(0, 1)

        return _pointwise(f, x)

    def ppf(self, q: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
        """Quantile function for `q` in [0, 1] (nan outside)."""

        def f(t: Tensor) -> Tensor:
            theta = _invert(lambda angle: (angle - torch.sin(2 * angle) / 2) / math.pi, (1 - t).clamp(0, 1))
            return torch.where((t >= 0) & (t <= 1), self.upper * torch.cos(theta), math.nan)

        return _pointwise(f, q)


@dataclass(frozen=True)
class MarchenkoPasturFit:
    """The Marchenko-Pastur law nearest to a spectrum, and what of the spectrum lies outside it.

    Attributes
    ----------
    law : the law of the squared singular values over the longer side of the matrix
    variance : fitted variance of an entry
    distance : Kolmogorov-Smirnov distance between the spectrum and the law, in [0, 1]
    spikes : number of eigenvalues beyond `threshold`
    threshold : upper edge plus the finite-size margin that a random matrix exceeds once in a hundred
    outside : share of the eigenvalues beyond the edges, below or above
    """

    law: MarchenkoPastur
    variance: float
    distance: float
    spikes: int
    threshold: float
    outside: float


def marchenko_pastur(A: Operator | Tensor | np.ndarray, *, shape: tuple[int, int] | None = None) -> MarchenkoPasturFit:
    r"""Fit the Marchenko-Pastur law to the singular values of a matrix.

    The eigenvalues are :math:`\lambda_i = \sigma_i^2 / n` with n the longer side of the matrix and p the shorter one;
    the law has the matrix's own aspect ratio p/n, and its variance minimises the Kolmogorov-Smirnov distance
    :math:`\sup_x |F_{emp}(x) - F(x / \sigma^2)|` of the bulk, the eigenvalues that are no spikes.

    Parameters
    ----------
    A : (m, n) matrix, or its min(m, n) singular values as a 1-D tensor or array together with `shape`
    shape : (m, n), needed with singular values only

    Returns
    -------
    MarchenkoPasturFit

    Raises
    ------
    ValueError : singular values without a shape, of the wrong number, negative or not finite, or all zero.

    Notes
    -----
    The one-sided distances are monotone in the variance, one up and one down, so their crossing, found by bisection, is
    the exact minimum. Values beyond the edge are taken out and the fit is repeated until none is left, half of them at
    most; the distance is that of all values. The margin of the edge is the 99 percent quantile of the
    Tracy-Widom law in Johnstone's scaling. Cost: one dense singular value computation, unless the values are given.

    References
    ----------
    "On the distribution of the largest eigenvalue in principal components analysis"

    Examples
    --------
    >>> import torch
    >>> X = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    >>> fit = marchenko_pastur(X)
    >>> fit.spikes, round(fit.variance, 1), fit.distance < 0.02
    (0, 1.0, True)
    """
    values, (m, n) = _singular_values_of(A, shape)
    p, n = min(m, n), max(m, n)
    top = float(values.max()) if values.numel() else 0.0
    if top == 0:
        raise ValueError("A must have a nonzero singular value to fit a Marchenko-Pastur law, all are zero")
    # relative to the largest value: squares of 1e200 or 1e-200 would leave the range of doubles
    x = torch.sort((values / top) ** 2).values
    ratio = p / n
    unit = MarchenkoPastur(ratio)
    root, side = math.sqrt(n - 1) if n > 1 else 1.0, math.sqrt(p)
    edge = ((root + side) ** 2 + _TRACY_WIDOM_99 * (root + side) * (1 / root + 1 / side) ** (1 / 3)) / n
    edge = max(edge, unit.upper)
    scaled = _bulk_variance(x, unit, edge)
    distance = max(_one_sided(x / scaled, unit))
    outside = ((x > unit.upper * scaled) | (x < unit.lower * scaled)).double().mean()
    size = top * (top / n)
    return MarchenkoPasturFit(
        law=MarchenkoPastur(ratio, scaled * size),
        variance=scaled * size,
        distance=distance,
        spikes=int((x > edge * scaled).sum()),
        threshold=edge * scaled * size,
        outside=float(outside),
    )


def _singular_values_of(
    A: Operator | Tensor | np.ndarray, shape: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int]]:
    """Singular values in float64, and the shape of their matrix."""
    if isinstance(A, (Tensor, np.ndarray)) and A.ndim == 1:
        if shape is None:
            raise ValueError("shape=(m, n) is needed when A is a vector of singular values")
        values = torch.as_tensor(A).detach().to(torch.float64)
        if values.numel() != min(shape):
            raise ValueError(f"A must hold min(m, n) = {min(shape)} singular values, got {values.numel()}")
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise ValueError("A must hold finite singular values >= 0")
        return values, (int(shape[0]), int(shape[1]))
    from resolvent.operators import as_operator
    from resolvent.spectra.schatten import spectrum

    with torch.no_grad():
        op = as_operator(A, name="A")
        if op.ndim != 2:
            raise ValueError(f"A must be one (m, n) matrix, got shape {tuple(op.shape)}")
        return spectrum(op).to(torch.float64), (op.shape[-2], op.shape[-1])


def _one_sided(x: Tensor, law: MarchenkoPastur) -> tuple[float, float]:
    """sup (F_emp - F) and sup (F - F_emp) for sorted x."""
    n = x.numel()
    theory = law.cdf(x)
    steps = torch.arange(n + 1, dtype=x.dtype, device=x.device) / n
    return float((steps[1:] - theory).max()), float((theory - steps[:-1]).max())


def _bulk_variance(x: Tensor, unit: MarchenkoPastur, edge: float) -> float:
    """The nearest variance of the values that lie below its own edge; spikes would drag it up."""
    values, distance = x.cpu().numpy(), Distances(unit.ratio)
    kept = len(values)
    while True:
        scaled = distance.nearest(values[:kept])
        # at most half the values may be called spikes: beyond, there is no bulk to speak of
        below = max(int((values <= edge * scaled).sum()), (len(values) + 1) // 2)
        if below >= kept:
            return scaled
        kept = below
