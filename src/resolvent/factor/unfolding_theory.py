"""Where the singular vectors of an unfolded spiked tensor begin to see its signal, and how well: closed forms.

>>> from resolvent import factor
>>> theory = factor.unfolding_theory(2.0, 1.5, (200, 300, 150))
>>> round(theory.alignment, 3), round(theory.accuracy, 3)
(0.838, 0.989)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr


@dataclass(frozen=True)
class UnfoldingTheory:
    """The limit law of an unfolding of the nested matrix-tensor model, of :func:`unfolding_theory`.

    Eigenvalues are those of the unfolding's Gram matrix in the scale ``(n_T T T^H - (n_T's other sides) I) / root``, with
    root = sqrt(n1 n2 n3).

    Attributes
    ----------
    edge : upper edge of the bulk of eigenvalues
    outlier : the eigenvalue that the signal causes, None where it is hidden in the bulk
    alignment : squared inner product of the top singular vector and the signal, in [0, 1]
    accuracy : share of points in the right one of two clusters by its signs; None but for mode 2
    optimal : the alignment that the spiked matrix T x_3 z has, for known weights z of the views; None for mode 3
    c1, c2 : n1 / (n1 + n2) and n2 / (n1 + n2), exchanged for mode 1
    rho : strength of the tensor's signal
    """

    edge: float
    outlier: float | None
    alignment: float
    accuracy: float | None
    optimal: float | None
    c1: float
    c2: float
    rho: float

    def density(self, x: Any) -> np.ndarray:
        """Density of the bulk's eigenvalues at the points x, for modes 1 and 2.

        Notes
        -----
        The Stieltjes transform m of a semicircle plus rho times a Marchenko-Pastur law solves
        c2 rho m^3 + (c2 rho z + 1) m^2 + (z + rho (c2 - c1)) m + 1 = 0; the density is the largest imaginary part of a
        root over pi.
        """
        if self.optimal is None:
            raise ValueError("density is that of modes 1 and 2; the bulk of mode 3 is a semicircle of radius 2")
        points = np.atleast_1d(np.asarray(x, dtype=float))
        a = self.c2 * self.rho
        found = [
            np.roots([a, a * z + 1, z + self.rho * (self.c2 - self.c1), 1]).imag.max() / np.pi for z in points.ravel()
        ]
        return np.array(found).reshape(points.shape)


def unfolding_theory(beta_M: float, rho_T: float, shape: tuple[int, int, int], *, mode: int = 2) -> UnfoldingTheory:
    r"""What the top singular vector of an unfolding of :func:`spiked_tensor` knows of the signal, for large sizes.

    With :math:`\rho_T = \beta_T^2 n_T / \sqrt{n_1 n_2 n_3}`, the Gram matrix of the second unfolding behaves as
    :math:`\rho_T M^T M` plus a semicircle of variance one. Where :math:`\beta_M^4 > c_1 c_2`, its signal is
    :math:`\xi = \rho_T (\beta_M^2 + c_1)(\beta_M^2 + c_2) / \beta_M^2`, and with :math:`\nu` the law of
    :math:`\rho_T Z^T Z / (n_1 + n_2)` and :math:`g = \int d\nu(x) / (\xi - x)^2`:

    .. math:: \langle \hat y, y\rangle^2 = \frac{\beta_M^4 - c_1 c_2}{\beta_M^2 (\beta_M^2 + c_2)} (1 - g) \text{ if } g < 1,

    else zero.

    Parameters
    ----------
    beta_M, rho_T : strengths of the signals of the matrix and of the tensor, >= 0
    shape : (n1, n2, n3); modes 1 and 2 depend on n1 / n2 only, `optimal` and mode 3 on the sizes
    mode : 1, 2 (the clusters) or 3 (the weights of the views)

    Returns
    -------
    UnfoldingTheory

    Raises
    ------
    ValueError : a strength that is negative or not finite, a shape that is not of three positive sizes, another mode.

    Notes
    -----
    Closed forms: the transform of the Marchenko-Pastur law is the root of a quadratic, and the edge is where its
    derivative is one. The corrections for finite sizes are of the order of n^(-1/2). Mode 1 exchanges c1 and c2; mode 3
    is a spiked matrix whose signal has the norm of all of M, which it sees nearly always. No gradients.

    References
    ----------
    "Performance Gaps in Multi-view Clustering under the Nested Matrix-Tensor Model"

    Examples
    --------
    >>> weak = unfolding_theory(2.0, 0.1, (200, 300, 150))
    >>> weak.outlier is None, weak.alignment, weak.accuracy, round(weak.optimal, 2)
    (True, 0.0, 0.5, 0.64)
    """
    for name, value in (("beta_M", beta_M), ("rho_T", rho_T)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and >= 0, got {value}")
    if len(shape) != 3 or any(isinstance(n, bool) or int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape must be three positive sizes (n1, n2, n3), got {shape!r}")
    if mode not in (1, 2, 3):
        raise ValueError(f"mode must be 1, 2 or 3, got {mode!r}")
    n1, n2, n3 = shape
    c1, c2 = n1 / (n1 + n2), n2 / (n1 + n2)
    if mode == 3:
        return _third(beta_M, rho_T, (n1, n2, n3))
    if mode == 1:
        c1, c2 = c2, c1
    edge, turn = _edge(rho_T, c1, c2)
    outlier, alignment = None, 0.0
    strength = beta_M**2
    if strength**2 > c1 * c2 and rho_T > 0:
        xi, d = rho_T * (strength + c1) * (strength + c2) / strength, (strength - math.sqrt(c1 * c2)) ** 2 / strength
        if d > turn:
            first, second = _inverse_moments(d, rho_T, c1, c2)
            outlier, alignment = xi + first, spiked_alignment(strength, c1, c2) * (1 - second)
    beta_T = rho_T * math.sqrt(n1 * n2 * n3) / (n1 + n2 + n3)
    seen = strength * beta_T / (beta_T + (n1 + n2) / (n1 + n2 + n3))
    accuracy = float(ndtr(math.sqrt(alignment / (1 - alignment)))) if mode == 2 else None
    return UnfoldingTheory(edge, outlier, alignment, accuracy, spiked_alignment(seen, c1, c2), c1, c2, rho_T)


def spiked_alignment(strength: float, c1: float, c2: float) -> float:
    """Of the singular vector of length n2 of sqrt(strength) x y^T + Z / sqrt(n1 + n2)."""
    if strength**2 <= c1 * c2:
        return 0.0
    return (strength**2 - c1 * c2) / (strength * (strength + c2))


def _inverse_moments(d: float, rho: float, c1: float, c2: float) -> tuple[float, float]:
    """The integrals of 1 / (w - x) and of its square over the law of rho Z^T Z / (n1 + n2), w = rho d beyond its edge."""
    # c2 t s^2 + (t + c2 - c1) s + 1 = 0 and its derivative in t, with the root of its discriminant from d: no cancellation.
    b = d + 2 * c2 + 2 * math.sqrt(c1 * c2)
    root = math.sqrt(d * (d + 4 * math.sqrt(c1 * c2)))
    s = -2 / (b + root)
    return -s / rho, -(c2 * s * s + s) / (root * rho**2)


def _edge(rho: float, c1: float, c2: float) -> tuple[float, float]:
    """The edge of the bulk, and the distance from the edge of the second law, over rho, that maps to it."""
    if rho == 0:
        return 2.0, math.inf
    log = brentq(lambda u: _inverse_moments(math.exp(u), rho, c1, c2)[1] - 1, -600.0, -math.log(rho) + 1, xtol=1e-13)
    d = math.exp(log)
    return rho * (d + (math.sqrt(c1) + math.sqrt(c2)) ** 2) + _inverse_moments(d, rho, c1, c2)[0], d


def _third(beta_M: float, rho_T: float, shape: tuple[int, int, int]) -> UnfoldingTheory:
    """A spiked matrix with n3 rows and n1 n2 columns."""
    n1, n2, n3 = shape
    c = n3 / (n1 * n2)
    strength = rho_T * (beta_M**2 + n1 * n2 / (n1 + n2)) * math.sqrt(c)
    outlier, alignment = None, 0.0
    if strength**2 > c:
        outlier = (strength + c + c / strength) / math.sqrt(c)
        alignment = 1 - c * (1 + strength) / (strength * (strength + c))
    return UnfoldingTheory(2 + math.sqrt(c), outlier, alignment, None, None, n1 / (n1 + n2), n2 / (n1 + n2), rho_T)
