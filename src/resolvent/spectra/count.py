"""How many eigenvalues lie in an interval."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

from resolvent.operators.banded import Tridiagonal
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike
from resolvent.spectra.density import SpectralDensity
from resolvent.spectra.exact import exact_eigenvalues, hermitian_operator, spectrum_scale
from resolvent.spectra.inertia import scipy_matrix, sparse_count
from resolvent.spectra.oscillation import sturm_count
from resolvent.spectra.quadrature import check_confidence, quadrature


class Count(NamedTuple):
    """A number of eigenvalues: `value`, bounds `low` and `high` at the confidence asked for, and whether it
    is `exact`."""

    value: float
    low: float
    high: float
    exact: bool


def count(
    A: OperatorLike,
    a: float,
    b: float,
    *,
    method: Literal["auto", "exact", "slq"] = "auto",
    probes: int = 16,
    steps: int = 80,
    confidence: float = 0.95,
    generator: GeneratorLike = None,
) -> Count:
    """The number of eigenvalues of a Hermitian operator in [a, b).

    Parameters
    ----------
    A : (n, n) Hermitian operator or anything `as_operator` takes
    a, b : ends of the interval, a <= b; infinite ends are allowed. An eigenvalue within rounding (16 eps ||A||) of
        an end counts as equal to it.
    method : "auto" is exact by structure, by Sturm's sequence (tridiagonal), by the inertia of sparse factors where
        their fill is small, by LAPACK up to n = 1500 (stored matrices 3000), and else estimates by "slq"
    probes, steps : of an estimate
    confidence : of its bounds, between 0 and 1
    generator : of the probes

    Returns
    -------
    Count
        `value` is an int where it is exact.

    Raises
    ------
    ValueError : A is not square, seen not to be Hermitian or a batch; a > b or NaN.

    Notes
    -----
    Inertia: by Sylvester's law the negative pivots of ``A - s I`` are the eigenvalues below s. The pivots are
    kept on the diagonal, and the factors are multiplied back to see that nothing grew. The estimate and its
    bounds come from the Chebyshev-Markov-Stieltjes bounds of the Gauss rules and the spread over the probes;
    they hold whatever the spectrum is. There is no gradient.

    Examples
    --------
    >>> count(torch.diag(torch.tensor([1.0, 2.0, 3.0, 3.0])), 1.5, 3.0)
    Count(value=1, low=1, high=1, exact=True)
    """
    A = hermitian_operator(as_operator(A, name="A"))
    if A.batch_shape:
        raise ValueError(f"A must be one matrix, got a batch {tuple(A.batch_shape)}")
    if math.isnan(a) or math.isnan(b) or a > b:
        raise ValueError(f"a and b must satisfy a <= b, got {a} and {b}")
    if method not in ("auto", "exact", "slq"):
        raise ValueError(f"method must be auto, exact or slq, got {method!r}")
    check_confidence(confidence)
    if A.shape[-1] == 0 or a == b:
        return Count(0, 0, 0, True)
    with torch.no_grad():
        if method != "slq":
            found = _exact(A, a, b, method == "exact")
            if found is not None:
                return Count(found, found, found, True)
        return _estimated(A, a, b, probes, steps, confidence, generator)


def _exact(A: Operator, a: float, b: float, force: bool) -> int | None:
    n = A.shape[-1]
    if not isinstance(A, Tridiagonal):
        values = exact_eigenvalues(A)
        if values is not None:
            size = float(values.abs().max())
            tolerance = _rounding(A, size)
            return int(((values >= a - tolerance) & (values < b - tolerance)).sum())
    matrix = None if isinstance(A, Tridiagonal) else scipy_matrix(A)
    if isinstance(A, Tridiagonal) or matrix is not None:
        size = spectrum_scale(A)
        tolerance = _rounding(A, size)
        below = []
        for end in (a, b):
            if math.isinf(end):
                below.append(0 if end < 0 else n)
            elif isinstance(A, Tridiagonal):
                below.append(sturm_count(A, end - tolerance, rtol=0))
            else:
                below.append(sparse_count(matrix, end - tolerance, size))  # type: ignore[arg-type]
        if None not in below:
            return below[1] - below[0]
    if force:
        values = torch.linalg.eigvalsh(A._dense())
        tolerance = _rounding(A, float(values.abs().max()))
        return int(((values >= a - tolerance) & (values < b - tolerance)).sum())
    return None


def _rounding(A: Operator, size: float) -> float:
    return 16 * torch.finfo(A.dtype).eps * size


def _estimated(
    A: Operator, a: float, b: float, probes: int, steps: int, confidence: float, generator: GeneratorLike
) -> Count:
    n = A.shape[-1]
    rule = quadrature(A, max(2, probes), min(steps, n), generator)
    law = SpectralDensity(rule.nodes, rule.weights, n, "slq", rule.residuals)
    ends = torch.tensor([a, b], dtype=torch.float64, device=A.device)
    # Two bounds hold at once with the confidence asked for if each fails half as often.
    low, high = law.cdf_band(ends, 1 - (1 - confidence) / 2)
    low, high = (torch.where(ends.isinf(), (ends > 0).to(t), t) for t in (low, high))
    middle = torch.where(ends.isinf(), (ends > 0).double(), law._distribution(ends).mean(0))
    bounds = (float((low[1] - high[0]).clamp_min(0)) * n, float((high[1] - low[0]).clamp_max(1)) * n)
    return Count(n * float((middle[1] - middle[0]).clamp_min(0)), math.floor(bounds[0]), math.ceil(bounds[1]), False)
