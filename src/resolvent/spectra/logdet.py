"""The log-determinant of a positive definite operator: by structure, by Cholesky, by sparse factors, else by
quadrature."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.info import Info
from resolvent.operators import lu
from resolvent.operators.algebra import Product, Scaled, Sum
from resolvent.operators.arrays import give_back
from resolvent.operators.banded import Triangular
from resolvent.operators.blocks import BlockDiagonal
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense, Diagonal, Identity
from resolvent.operators.gradient import bilinear, first_order, records
from resolvent.operators.kronecker import Kronecker
from resolvent.operators.lowrank import LowRank
from resolvent.operators.operator import Operator
from resolvent.operators.toeplitz import Circulant
from resolvent.random import GeneratorLike, as_generator, rademacher
from resolvent.spectra.exact import SMALL, SMALL_STORED, exact_eigenvalues
from resolvent.spectra.inertia import factor, scipy_matrix
from resolvent.spectra.quadrature import Integrand, trace_of_function

# Probes of the gradient where the inverse is only known by solves.
_PROBES = 64
_NOT_POSITIVE = "A must be positive definite, and it is not"


def logdet(
    A: OperatorLike,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    method: Literal["auto", "exact", "slq"] = "auto",
    confidence: float = 0.95,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    """The log-determinant ``log det A`` of a positive definite operator.

    Parameters
    ----------
    A : (*batch, n, n) positive definite operator or anything `as_operator` takes; triangular operators with a
        positive diagonal and products of such parts too
    rtol, atol : the error of an estimate is at most ``max(rtol |log det A|, atol)`` at the given confidence;
        default rtol 1e-2. Near log det A = 0 give an `atol`. Exact methods meet any.
    method : "auto" is exact by structure, by Cholesky (n up to 1500, stored matrices up to 3000) or by sparse
        factors where their fill is small, and else "slq", stochastic Lanczos quadrature
    confidence : of an estimate, between 0 and 1
    generator : of the probes
    return_info : also return an `Info`

    Returns
    -------
    (*batch,) real tensor; a Python float for NumPy data without a batch.

    Raises
    ------
    ValueError : A is not square, not Hermitian, or seen not to be positive definite (torch.logdet would give NaN).
    ConvergenceError : the estimate did not reach its tolerance.

    Notes
    -----
    Closed forms: diagonal, triangular, block diagonal, Kronecker (``sum_i N/n_i log det A_i``), circulant,
    products of square parts, and diagonal plus low rank by the determinant lemma, O(n r^2). Quadrature: see
    `spectra.quadrature`; the steps grow like the root of the condition number, the probes like ``1/rtol^2``,
    and both are measured. Gradients: exact for exact methods (of a sparse matrix with more than 1500 rows:
    the mean of ``(A^{-1} z)^H (A z)`` over 64 probes with solves by the factors), else the same mean over the
    probes of the quadrature.

    References
    ----------
    "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature"

    Examples
    --------
    >>> logdet(torch.diag(torch.tensor([1.0, 2.0, 4.0])))
    tensor(2.0794)
    """
    A = as_operator(A, name="A")
    if A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    if method not in ("auto", "exact", "slq"):
        raise ValueError(f"method must be auto, exact or slq, got {method!r}")
    value = None if method == "slq" else _exact(A, force=method == "exact", generator=generator)
    if value is not None:
        info = Info("exact")
    else:
        A.check_hermitian("A")
        if A.batch_shape:
            raise ValueError(f"method 'slq' takes one matrix, got a batch {tuple(A.batch_shape)}")
        value, info = trace_of_function(
            A,
            Integrand(_log, _inverse),
            name="logdet",
            rtol=1e-2 if rtol is None else rtol,
            atol=atol,
            confidence=confidence,
            generator=generator,
        )
    value = give_back(value, A.kind)
    return (value, info) if return_info else value


def _log(nodes: Tensor) -> Tensor:
    if not bool((nodes > 0).all()):
        raise ValueError(f"{_NOT_POSITIVE}: x^H A x / x^H x = {float(nodes.min()):.3g} for some x")
    return nodes.log()[None]


def _inverse(nodes: Tensor) -> Tensor:
    return 1 / nodes[None]


def _exact(A: Operator, force: bool = False, generator: GeneratorLike = None) -> Tensor | None:
    """By structure, Cholesky or sparse factors; None where these cost much and `force` is off."""
    value = _structured(A)
    if value is not None:
        return value
    n = A.shape[-1]
    if n <= SMALL or A.batch_shape or force or (n <= SMALL_STORED and isinstance(A, Dense)):
        if n > SMALL and (value := _sparse(A, generator)) is not None:
            return value
        A.check_hermitian("A")
        return _cholesky(A._dense())
    return _sparse(A, generator)


def _cholesky(matrix: Tensor) -> Tensor:
    L, info = torch.linalg.cholesky_ex(matrix)
    if bool((info > 0).any()):
        raise ValueError(f"{_NOT_POSITIVE}: the leading minor of order {int(info.max())} is not positive")
    return 2 * L.diagonal(dim1=-2, dim2=-1).real.log().sum(-1)


def _positive_logs(d: Tensor) -> Tensor:
    real = d.real if d.is_complex() else d
    if not bool((real > 0).all()) or (d.is_complex() and bool((d.imag != 0).any())):
        raise ValueError(f"{_NOT_POSITIVE}: its smallest eigenvalue is {float(real.min()):.3g}")
    return real.log().sum(-1)


@singledispatch
def _structured(A: Operator) -> Tensor | None:
    """The closed form of a structure; None if it has none."""
    if A.shape[-1] <= SMALL:
        return None
    values = exact_eigenvalues(A) if A.hermitian and not isinstance(A, Dense) else None
    return None if values is None else _positive_logs(values)


@_structured.register
def _(A: Dense) -> None:
    return None


@_structured.register(Diagonal)
@_structured.register(Triangular)
@_structured.register(Identity)
def _(A: Operator) -> Tensor | None:
    return _positive_logs(A._diagonal())  # type: ignore[arg-type]


@_structured.register
def _(A: Circulant) -> Tensor | None:
    if A.batch_shape:
        return None
    if not A.hermitian:
        A.check_hermitian("A")
    return _positive_logs(A.eigenvalues().real)


@_structured.register
def _(A: Scaled) -> Tensor | None:
    inner = A._parts[1]
    if not (A.factor.is_complex() or bool((A.factor > 0).all())):
        return None
    value = _exact(inner)
    return None if value is None else A.shape[-1] * _positive_logs(A.factor[..., None]) + value


@_structured.register
def _(A: BlockDiagonal) -> Tensor | None:
    if any(P.shape[-1] != P.shape[-2] for P in A._parts):
        return None
    found = [_exact(P) for P in A._parts]
    return None if any(v is None for v in found) else sum(found[1:], found[0])  # type: ignore[type-var]


@_structured.register
def _(A: Kronecker) -> Tensor | None:
    # Without positive factors the product may still be positive (minus times minus): then eigenvalues decide.
    if not all(P.positive for P in A._parts):
        values = exact_eigenvalues(A) if all(P.hermitian for P in A._parts) else None
        return None if values is None else _positive_logs(values)
    found = [_exact(P) for P in A._parts]
    if any(v is None for v in found):
        return None
    n = A.shape[-1]
    return sum(v * (n // P.shape[-1]) for v, P in zip(found, A._parts, strict=True))


@_structured.register
def _(A: Product) -> Tensor | None:
    simple = Triangular | Diagonal | Identity
    if not all(isinstance(P, simple) or (P.positive and P.shape[-1] == P.shape[-2]) for P in A._parts):
        return None
    found = [_exact(P) for P in A._parts]
    return None if any(v is None for v in found) else sum(found[1:], found[0])  # type: ignore[type-var]


@_structured.register
def _(A: Sum) -> Tensor | None:
    """Diagonal parts plus low-rank parts: ``log det D + log det(I + S V^H D^{-1} U)``."""
    d = [P for P in A._parts if _is_diagonal(P)]
    low = [P for P in A._parts if isinstance(P, LowRank)]
    rank = sum(P.s.shape[-1] for P in low)
    if not d or not low or len(d) + len(low) < len(A._parts) or A.batch_shape or 2 * rank >= A.shape[-1]:
        return None
    base = sum((P._diagonal() for P in d[1:]), d[0]._diagonal())
    if bool((base.real <= 0 if base.is_complex() else base <= 0).any()):
        return None
    U = torch.cat([P.U * P.s[..., None, :] for P in low], -1)
    V = torch.cat([P.V for P in low], -1)
    small = torch.eye(rank, dtype=U.dtype, device=U.device) + V.mH @ (U / base[:, None])
    sign, value = lu.slogdet(small)
    if not bool((sign - 1).abs() < 1e-3):
        raise ValueError(
            f"{_NOT_POSITIVE}: its determinant has the sign {complex(sign) if sign.is_complex() else float(sign)}"
        )
    if not all(P.positive for P in low) and A.hermitian and bool((_congruent(base, low) <= 0).any()):
        raise ValueError(f"{_NOT_POSITIVE}: it has a negative eigenvalue")
    return _positive_logs(base) + value


def _is_diagonal(P: Operator) -> bool:
    return isinstance(P, Diagonal | Identity) or (
        isinstance(P, Scaled) and isinstance(P._parts[1], Diagonal | Identity)
    )


def _congruent(base: Tensor, low: list[LowRank]) -> Tensor:
    """Eigenvalues of ``I + D^{-1/2} U S U^H D^{-1/2}`` that are not one: they have the signs of those of the
    sum."""
    with torch.no_grad():
        U = torch.cat([P.U for P in low], -1) / base.sqrt()[:, None]
        R = torch.linalg.qr(U).R
        s = torch.cat([P.s for P in low], -1)
        return 1 + torch.linalg.eigvalsh((R * s.to(R.dtype)) @ R.mH)


def _sparse(A: Operator, generator: GeneratorLike) -> Tensor | None:
    """By the sparse factors where their fill is small."""
    matrix = scipy_matrix(A)
    if matrix is None:
        return None
    A.check_hermitian("A")
    found = factor(matrix)
    # A positive definite matrix needs no other pivots: its factors are always as good as rounding allows.
    if found is None:
        return None
    lu = found[0]
    pivots = lu.U.diagonal().real
    if not bool((pivots > 0).all()):
        raise ValueError(f"{_NOT_POSITIVE}: it has {int((pivots <= 0).sum())} negative or zero pivots")
    value = torch.tensor(float(np.log(pivots).sum()), dtype=torch.zeros((), dtype=A.dtype).real.dtype)
    if not records(A):
        return value
    n = A.shape[-1]
    Z = rademacher((n, min(_PROBES, n)), A.dtype, A.device, as_generator(generator))
    solved = lu.solve(Z.numpy().astype(lu.U.dtype))
    return first_order(value, bilinear(torch.from_numpy(solved).to(A.dtype), A @ Z).real.mean())
