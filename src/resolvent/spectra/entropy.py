"""Von Neumann and Renyi entropies of a positive operator: the entropies of its eigenvalues, normalised to sum
one."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike
from resolvent.spectra.exact import exact_eigenvalues, hermitian_operator
from resolvent.spectra.quadrature import Integrand, trace_of_function


def entropy(
    A: OperatorLike,
    alpha: float = 1,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    method: Literal["auto", "exact", "slq"] = "auto",
    confidence: float = 0.95,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    """The Renyi entropy of ``rho = A / tr A``: ``log(tr rho^alpha) / (1 - alpha)``, in nats.

    Parameters
    ----------
    A : (*batch, n, n) positive semidefinite operator or anything `as_operator` takes
    alpha : order, at least 0. 1: von Neumann, ``-tr(rho log rho)``; 2: ``-log(||A||_F^2 / (tr A)^2)``, without a
        decomposition of a stored matrix; inf: ``-log lambda_max``; 0: ``log rank``
    rtol, atol : the error of an estimate is at most ``max(rtol H, atol)`` at the given confidence; default rtol
        1e-2. Exact methods meet any.
    method : "auto" takes the eigenvalues by structure (a Gram or low-rank operator: of its small side) or up to n =
        1500 (stored matrices 3000), and beyond "slq", stochastic Lanczos quadrature
    confidence : of an estimate, between 0 and 1
    generator : of the probes
    return_info : also return an `Info`

    Returns
    -------
    (*batch,) real tensor; a Python float for NumPy data without a batch.

    Raises
    ------
    ValueError : A is not square, not Hermitian, has a negative eigenvalue or trace zero; alpha < 0 or NaN.
    ConvergenceError : the estimate did not reach its tolerance.

    Notes
    -----
    Eigenvalues below n eps times the largest are rounding: they count as zero, in the value and in the gradient
    (the gradient of the entropy at an eigenvalue zero is infinite for alpha <= 1). The numerator and tr A of an
    estimate come from the same probes, and the error is that of their ratio. alpha = 0 has no gradient; alpha = inf
    takes that of the largest eigenvalue.

    Examples
    --------
    >>> entropy(torch.eye(4)) / math.log(4)
    tensor(1.)
    """
    A = hermitian_operator(as_operator(A, name="A"))
    alpha = float(alpha)
    if not alpha >= 0:
        raise ValueError(f"alpha must be at least 0, got {alpha}")
    if method not in ("auto", "exact", "slq"):
        raise ValueError(f"method must be auto, exact or slq, got {method!r}")
    if A.shape[-1] == 0:
        raise ValueError("A must have at least one row")
    info = Info("exact")
    value = _stored_order_two(A) if alpha == 2 and method != "slq" else None
    if value is None:
        values = _eigenvalues(A, alpha, method)
        if values is not None:
            value = entropy_of_eigenvalues(values, alpha)
        else:
            options = {"rtol": 1e-2 if rtol is None else rtol, "atol": atol, "confidence": confidence}
            value, info = _estimated(A, alpha, options, generator)
    value = give_back(value, A.kind)
    return (value, info) if return_info else value


def entropy_of_eigenvalues(values: Tensor, alpha: float) -> Tensor:
    """The entropy of the distribution that is proportional to `values` (..., n), differentiable.

    Examples
    --------
    >>> entropy_of_eigenvalues(torch.tensor([2.0, 2.0, 0.0]), 1) / math.log(2)
    tensor(1.)
    """
    top = values.detach().abs().amax(-1, keepdim=True)
    floor = max(values.shape[-1], 16) * torch.finfo(values.dtype).eps * top
    if bool((values.detach() < -floor).any()):
        raise ValueError(f"A must be positive semidefinite, its smallest eigenvalue is {float(values.min()):.3g}")
    if bool((top <= 0).any()):
        raise ValueError("A must not be zero: its entropy is that of A / tr A")
    counts = values > floor
    # Scaled by the largest first: the sum of subnormal or huge eigenvalues neither vanishes nor overflows.
    kept = torch.where(counts, values, 0.0) / top
    p = kept / kept.sum(-1, keepdim=True)
    if alpha == 0:
        return counts.sum(-1).to(values.dtype).log()
    if math.isinf(alpha):
        return -p.amax(-1).log()
    safe = torch.where(counts, p, 1.0)
    if alpha == 1:
        return -(torch.where(counts, p * safe.log(), 0.0)).sum(-1)
    # Relative to the largest: p^alpha of a large order does not underflow.
    largest = p.amax(-1, keepdim=True)
    powers = torch.where(counts, (safe / largest) ** alpha, 0.0).sum(-1)
    return (powers.log() + alpha * largest[..., 0].log()) / (1 - alpha)


def _stored_order_two(A: Operator) -> Tensor | None:
    """``-log(||A||_F^2 / (tr A)^2)`` from the entries of a dense matrix that is known to be positive."""
    if not isinstance(A, Dense) or not A.positive:
        return None
    a = A._dense()
    t = A._trace() if A._trace() is not None else a.diagonal(dim1=-2, dim2=-1).sum(-1)
    t = t.real if t.is_complex() else t
    if not bool((t > 0).all()):  # type: ignore[operator]
        raise ValueError("A must not be zero: its entropy is that of A / tr A")
    return -2 * (torch.linalg.matrix_norm(a) / t).log()


def _eigenvalues(A: Operator, alpha: float, method: str) -> Tensor | None:
    if method == "slq":
        return None
    values = exact_eigenvalues(A)
    if values is None and method == "exact":
        values = torch.linalg.eigvalsh(A._dense())
    return values


def _estimated(A: Operator, alpha: float, options: dict[str, float], generator: GeneratorLike) -> tuple[Tensor, Info]:
    if A.batch_shape:
        raise ValueError(f"method 'slq' takes one matrix, got a batch {tuple(A.batch_shape)}")
    if math.isinf(alpha):
        return _from_largest(A, options, generator)
    if alpha == 0:
        from resolvent.spectra.ranks import numerical_rank

        _largest_of_positive(_as_torch(A), A.positive, options, generator)
        rank = torch.as_tensor(numerical_rank(A), dtype=torch.float64)
        return rank.log().to(torch.zeros((), dtype=A.dtype).real.dtype), Info("rank")
    return trace_of_function(A, _integrand(A, alpha), name="entropy", generator=generator, **options)  # type: ignore[arg-type]


def _integrand(A: Operator, alpha: float) -> Integrand:
    """The traces of A and of A log A or A^alpha, and the entropy from the two."""
    eps = torch.finfo(A.dtype).eps

    def clean(x: Tensor) -> Tensor:
        top = x.abs().max()
        if bool((x < -100 * eps * top).any()):
            raise ValueError(f"A must be positive semidefinite, but x^H A x / x^H x = {float(x.min()):.3g} for some x")
        # The logarithm of rounding is no information: such nodes count as the smallest positive size.
        return x.clamp_min(float(top) * eps**2 if float(top) > 0 else 1e-300)

    if alpha == 1:
        return Integrand(
            lambda x: torch.stack([x, torch.special.xlogy(x.clamp_min(0), clean(x))]),
            lambda x: torch.stack([torch.ones_like(x), clean(x).log() + 1]),
            lambda t: t[..., 0].log() - t[..., 1] / t[..., 0],
        )
    return Integrand(
        lambda x: torch.stack([x, torch.where(x > 0, clean(x) ** alpha, 0.0)]),
        lambda x: torch.stack([torch.ones_like(x), alpha * clean(x) ** (alpha - 1)]),
        lambda t: (t[..., 1].log() - alpha * t[..., 0].log()) / (1 - alpha),
    )


def _from_largest(A: Operator, options: dict[str, float], generator: GeneratorLike) -> tuple[Tensor, Info]:
    """``log tr A - log lambda_max``."""
    from resolvent.spectra.trace import trace

    B = A if A.kind == "torch" else _as_torch(A)
    largest = _largest_of_positive(B, A.positive, options, generator)
    rtol, atol = options["rtol"], options["atol"]
    precise = min(1e-6, rtol / 4)
    goal = rtol / 2
    for _ in range(2):
        total, info = trace(B, rtol=goal, confidence=options["confidence"], generator=generator, return_info=True)
        value = ((total.real if total.is_complex() else total) / largest).log()
        size, error = abs(float(value.detach())), info.error + precise
        if error <= max(rtol * size, atol):
            break
        # A small entropy needs the trace as much better as it is small.
        goal = max(0.4 * rtol * size, atol / 2, 1e-12)
    info = Info("largest eigenvalue", info.matvecs, info.iterations, error / max(size, 1e-300), True)
    if error > max(rtol * size, atol):
        message = f"entropy: the error is {error:.3g}, {max(rtol * size, atol):.3g} was asked for"
        raise ConvergenceError(message, best=give_back(value, A.kind), error=info.error)
    return value, info


def _largest_of_positive(A: Operator, declared: bool, options: dict[str, float], generator: GeneratorLike) -> Tensor:
    """The largest eigenvalue; raises unless the smallest shows that A is positive, where that was not declared."""
    from resolvent.spectra.eigen import eigsh

    ends = 1 if declared or A.shape[-1] == 1 else 2
    which: Literal["LA", "BE"] = "LA" if ends == 1 else "BE"
    w, _ = eigsh(A, ends, which=which, rtol=min(1e-6, options["rtol"] / 4), generator=generator)
    floor = max(A.shape[-1], 16) * max(torch.finfo(A.dtype).eps, 1e-6 if A.shape[-1] > 1024 else 0.0) * w.abs().max()
    if bool(w[0] < -floor):
        raise ValueError(f"A must be positive semidefinite, its smallest eigenvalue is {float(w[0]):.3g}")
    if not bool(w[-1] > 0):
        raise ValueError("A must not be zero: its entropy is that of A / tr A")
    return w[-1]


def _as_torch(A: Operator) -> Operator:
    """The same operator whose results stay tensors."""
    from resolvent.operators.elementary import MatrixFree

    return MatrixFree(A.shape, A._matmul, dtype=A.dtype, device=A.device, hermitian=True)
