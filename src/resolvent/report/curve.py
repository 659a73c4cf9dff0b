"""The spectrum of one matrix as a curve to draw, against the law of noise and against its shuffled self."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from resolvent.report.spectrum import Spectrum
    from resolvent.spectra.random_matrix import MarchenkoPasturFit

# Points of a curve: as many as a picture shows, so that 500 matrices stay a few megabytes.
POINTS = 256
# Significant digits of a point, which is meant for the eye.
_DIGITS = 6


@dataclass(frozen=True)
class Curve:
    r"""A spectrum in at most 256 points, in the units of the singular values.

    Attributes
    ----------
    values : quantiles of the singular values, descending: all of them up to 256, else at evenly spaced ranks, the first
        and the last included
    shuffled : the same of the matrix with its entries in random places; None where that was not computed
    shuffled_distance : Kolmogorov-Smirnov distance between the two spectra: near zero, the matrix is what its entries
        make in any order; None like `shuffled`
    variance : of one entry, under the fitted Marchenko-Pastur law; None where too few values leave no fit
    ratio : shorter side over longer side, the law's aspect ratio
    edge : largest singular value of that law, :math:`\sqrt{m} + \sqrt{n}` times the root of the variance; None
        without a fit
    """

    values: tuple[float, ...]
    shuffled: tuple[float, ...] | None
    shuffled_distance: float | None
    variance: float | None
    ratio: float
    edge: float | None


def curve_of(spectrum: Spectrum, fit: MarchenkoPasturFit | None, shuffled: np.ndarray | None) -> Curve:
    """The curve of a spectrum.

    Parameters
    ----------
    spectrum : all singular values
    fit : Marchenko-Pastur law of the values relative to the largest, or None
    shuffled : (min(m, n),) singular values of the shuffled matrix, descending, in the units of the spectrum, or None

    Returns
    -------
    Curve

    Examples
    --------
    >>> from resolvent.report.spectrum import Spectrum
    >>> curve = curve_of(Spectrum(np.linspace(9, 1, 1000), (1000, 1000), 0.0, "svd"), None, None)
    >>> len(curve.values), curve.values[0], curve.values[-1]
    (256, 9.0, 1.0)
    """
    p, q = min(spectrum.shape), max(spectrum.shape)
    top = float(spectrum.values[0])
    variance = edge = None
    if fit is not None:
        variance = _scaled(fit.variance * top * top, 2 * spectrum.exponent)
        edge = _scaled(math.sqrt(q * fit.law.upper) * top, spectrum.exponent)
    return Curve(
        values=_points(spectrum.values, spectrum.exponent),
        shuffled=None if shuffled is None else _points(shuffled, spectrum.exponent),
        shuffled_distance=None if shuffled is None else ks_distance(spectrum.values, shuffled),
        variance=variance,
        ratio=p / q,
        edge=edge,
    )


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance between two samples, in [0, 1].

    Examples
    --------
    >>> ks_distance(np.arange(4.0), np.arange(4.0) + 2)
    0.5
    """
    a, b = np.sort(a), np.sort(b)
    places = np.concatenate((a, b))
    below = [np.searchsorted(x, places, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _points(values: np.ndarray, exponent: int) -> tuple[float, ...]:
    if len(values) > POINTS:
        values = values[np.round(np.linspace(0, len(values) - 1, POINTS)).astype(int)]
    return tuple(value for x in values if (value := _scaled(float(x), exponent)) is not None)


def _scaled(x: float, exponent: int) -> float | None:
    """x 2^exponent in few digits, None beyond the range of doubles."""
    if exponent + math.frexp(x)[1] > 1024:
        return None
    return float(f"{math.ldexp(x, exponent):.{_DIGITS}g}")
