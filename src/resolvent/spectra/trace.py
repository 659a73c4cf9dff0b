"""The trace of an operator: exact where it is cheap, else estimated with an error bar."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.algebra import Product
from resolvent.operators.arrays import give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense, Diagonal
from resolvent.operators.gradient import bilinear, first_order, records
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator, rademacher, sphere
from resolvent.spectra.quadrature import check_confidence, quantile
from resolvent.spectra.sampling import Hutchinson, HutchPP, Sampler, XNysTrace, XTrace

Method = Literal["auto", "exact", "hutchinson", "hutchpp", "xtrace", "xnystrace"]

# Up to here n products are cheaper than it is to decide.
EXACT = 512
_PILOT = 16
_SAMPLERS: dict[str, type[Sampler]] = {
    "hutchinson": Hutchinson,
    "hutchpp": HutchPP,
    "xtrace": XTrace,
    "xnystrace": XNysTrace,
}


def trace(
    A: OperatorLike,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    method: Method = "auto",
    confidence: float = 0.95,
    max_matvecs: int = 10_000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    """The trace, ``sum_i A_ii``.

    Parameters
    ----------
    A : (*batch, n, n) operator or anything `as_operator` takes
    rtol, atol : the half-width of the confidence interval is at most ``max(rtol |trace|, atol)``; default rtol
        1e-2. An exact method meets any.
    method : "auto" looks at the structure, then at the size, then at the errors of a pilot of 16 samples
    confidence : of the interval, between 0 and 1
    max_matvecs : products allowed to an estimate
    generator : of the probes
    return_info : also return an `Info`; its error is the half-width relative to the value, 0 for an exact method

    Returns
    -------
    (*batch,) tensor of the dtype of A; a Python number for NumPy data without a batch.

    Raises
    ------
    ConvergenceError : the interval stayed wider than asked for after `max_matvecs` products.
    ValueError : A is not square, or "xnystrace" for an operator that is not known to be positive.

    Notes
    -----
    Structures and entries that can be read give the trace without a product. Up to n = 512 (or in a batch) it takes n
    products with unit vectors. Beyond, 16 samples are taken and read as Hutchinson's, as XTrace's and, of a
    positive operator, as XNysTrace's; the one that is predicted to need the fewest products goes on, and its
    samples double until the interval is narrow enough; a prediction above n products means unit vectors
    instead. The memory is 3 n numbers per sample for the last two. The intervals are Student's over the
    (leave-one-out) estimates. Gradients: exact for exact methods, else that of the mean of ``z^H A z`` over
    the probes (unbiased, as accurate as Hutchinson's method).

    References
    ----------
    "XTrace: Making the Most of Every Sample in Stochastic Trace Estimation"; "Hutch++: Optimal Stochastic
    Trace Estimation"

    Examples
    --------
    >>> trace(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    tensor(6.)
    >>> X = torch.randn(2000, 20, generator=torch.Generator().manual_seed(0)).double()
    >>> low_rank = as_operator(X) @ as_operator(X).H
    >>> estimate = trace(low_rank, method="xtrace", rtol=1e-6, generator=0)
    >>> bool(abs(estimate - X.square().sum()) < 1e-6 * estimate)
    True
    """
    A = _square(as_operator(A, name="A"))
    check_confidence(confidence)
    if method not in ("auto", "exact", *_SAMPLERS):
        raise ValueError(f"method must be one of auto, exact, {', '.join(_SAMPLERS)}, got {method!r}")
    if method == "xnystrace" and not A.positive:
        raise ValueError("xnystrace needs a positive operator; declare it: A.declare(positive=True)")
    value = closed_form(A) if method in ("auto", "exact") else None
    if value is not None:
        info = Info("structure")
    elif method == "exact" or (method == "auto" and (A.shape[-1] <= EXACT or A.batch_shape)):
        value, info = products_diagonal(A).sum(-1), Info("exact", A.shape[-1], 1)
    else:
        if A.batch_shape:
            raise ValueError(f"method {method!r} takes one matrix, got a batch {tuple(A.batch_shape)}; use 'exact'")
        rtol = 1e-2 if rtol is None else rtol
        value, info = _sampled(A, method, rtol, atol, confidence, max_matvecs, generator)
    value = give_back(value, A.kind)
    return (value, info) if return_info else value


def _square(A: Operator) -> Operator:
    if A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    return A


@singledispatch
def closed_form(A: Operator) -> Tensor | None:
    """The trace without a product, or None."""
    return A._trace()


@closed_form.register
def _(A: Product) -> Tensor | None:
    """Of two factors with entries at hand: ``sum_ij A_ij B_ji``, and not n products."""
    known = A._trace()
    if known is not None or len(A._parts) != 2:
        return known
    left, right = A._parts
    if isinstance(left, Dense) and isinstance(right, Dense):
        return (left._dense() * right._dense().mT).sum((-2, -1))
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Diagonal) and (d := other._diagonal()) is not None:
            return (one._diagonal() * d).sum(-1)
    return None


def products_diagonal(A: Operator, block: int = 64) -> Tensor:
    """The diagonal by entries, in blocks of unit vectors: (*batch, n). Recorded by autograd."""
    n = A.shape[-1]
    parts = []
    for first in range(0, n, block):
        index = torch.arange(first, min(first + block, n), device=A.device)
        parts.append(A._entries(index, index).diagonal(dim1=-2, dim2=-1))
    return torch.cat(parts, -1) if parts else torch.zeros(A.shape[:-1], dtype=A.dtype, device=A.device)


def _sampled(
    A: Operator,
    method: str,
    rtol: float,
    atol: float,
    confidence: float,
    max_matvecs: int,
    generator: GeneratorLike,
) -> tuple[Tensor, Info]:
    g = as_generator(generator, A.device)
    n = A.shape[-1]
    with torch.no_grad():
        sampler = _pilot(A, method, g, rtol, atol, confidence)
        rounds = 1
        while True:
            value, se, samples = sampler.estimate()
            error = float(se) * quantile(confidence, samples)
            tolerance = max(rtol * float(value.abs()), atol)
            if error <= tolerance:
                break
            growth = max(2.0, min(4.0, sampler.predicted(error, tolerance) / sampler.matvecs))
            cost = sampler.matvecs * growth
            if method == "auto" and n <= max_matvecs and cost + sampler.matvecs > n:
                break
            if cost > max_matvecs or (cost > 2 * n and not isinstance(sampler, Hutchinson)):
                break
            if not sampler.fits(growth):
                sampler = sampler.plain()
            sampler.extend(growth, g)
            rounds += 1
    relative = error / max(float(value.abs()), 1e-300)
    info = Info(sampler.name, sampler.matvecs, rounds, relative, error <= tolerance)
    if error > tolerance:
        if method == "auto" and n <= max_matvecs:
            return products_diagonal(A).sum(-1), Info("exact", sampler.matvecs + n, rounds + 1)
        message = f"trace: half-width {error:.3g} after {sampler.matvecs} products, {tolerance:.3g} was asked for"
        raise ConvergenceError(message, best=give_back(value, A.kind), error=relative, info=info)
    if records(A):
        Z = sampler.Z
        value = first_order(value, bilinear(Z, A @ Z).mean())
    return value, info


def _pilot(A: Operator, method: str, g: torch.Generator, rtol: float, atol: float, confidence: float) -> Sampler:
    """The sampler of a method; for "auto" the one that is predicted to need the fewest products."""
    n = A.shape[-1]
    size = min(_PILOT, n)
    if method in ("hutchinson", "hutchpp"):
        return _SAMPLERS[method](A, rademacher((n, size), A.dtype, A.device, g))
    Z = sphere((n, size), A.dtype, A.device, g)
    if method != "auto":
        return _SAMPLERS[method](A, Z)
    candidates: list[Sampler] = [Hutchinson(A, Z)]
    if A.positive:
        candidates.append(XNysTrace(A, Z, candidates[0].Y))
    # Where a candidate that has cost nothing extra is there already, XTrace's second half is not paid for.
    if not any(_predicted(c, rtol, atol, confidence) <= c.matvecs for c in candidates):
        candidates.append(XTrace(A, Z, candidates[0].Y))
    return min(candidates, key=lambda c: _predicted(c, rtol, atol, confidence))


def _predicted(sampler: Sampler, rtol: float, atol: float, confidence: float) -> float:
    value, se, samples = sampler.estimate()
    error = float(se) * quantile(confidence, samples)
    if not math.isfinite(error):
        return math.inf
    return sampler.predicted(error, max(rtol * float(value.abs()), atol))
