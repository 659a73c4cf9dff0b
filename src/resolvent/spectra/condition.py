"""Condition numbers, computed in more precision than the matrix has where its own would drown them.

>>> import torch
>>> from resolvent.spectra import cond
>>> cond(torch.diag(torch.tensor([2.0, 1e-6])))
tensor(2000000.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Operator, as_operator, lu
from resolvent.operators.arrays import give_back
from resolvent.operators.elementary import Dense, Diagonal
from resolvent.operators.gradient import bilinear, first_order, records
from resolvent.random import GeneratorLike
from resolvent.spectra.entrywise import column_norms, entry_norm
from resolvent.spectra.schatten import formable, gram, spectral_norm, spectrum, unit_scaled

_ORDERS = (2, -2, 1, -1, math.inf, -math.inf, "fro", "nuc")


def cond(
    A: Any,
    p: float | str = 2,
    *,
    rtol: float | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Condition number :math:`\kappa_p(A) = \|A\|_p \|A^{-1}\|_p`.

    For p = 2 it is :math:`\sigma_1 / \sigma_{\min(m, n)}`, and A may be rectangular; p = -2 is its reciprocal.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes; square unless p is 2 or -2
    p : 2, -2, 1, -1, inf, -inf, "fro" or "nuc", as in `torch.linalg.cond`
    rtol : relative error wanted where the extreme values are iterated; default 1e-3
    generator : randomness of starting vectors
    return_info : also return an `Info`

    Returns
    -------
    (*batch,) values; infinity for a singular matrix. A Python float or an array where `A` was NumPy's.

    Raises
    ------
    ValueError : an unknown p, a matrix that is not square where p needs it, no rows or columns, or NaN in A.
    ConvergenceError : the smallest singular value of a large operator is below what products with it can
        resolve; `best` is the value found, which is then a guess and mostly too small.

    Notes
    -----
    Stored and small matrices: LAPACK's singular values (p = 2) or inverse; those of float32 (and complex64) matrices
    are computed in double precision, since a float32 spectrum loses everything above about 1e7 and digits from 1e4. In
    float64 values beyond 1e16 say only that it is at least that. Large operators (p = 2): both ends of the spectrum of
    :math:`A^H A` by Lanczos; the smallest eigenvalue is known to machine precision times :math:`\sigma_1^2`, so a
    condition number above about 1e6 raises. Differentiable, to first order where it is iterated.

    References
    ----------
    "Rounding-off errors in matrix processes"

    Examples
    --------
    >>> import numpy as np
    >>> round(cond(np.diag([4.0, 2.0, 1.0])), 10), cond(np.ones((2, 2)), 1)
    (4.0, inf)
    """
    if isinstance(p, bool) or p not in _ORDERS:
        raise ValueError(f"p must be one of {', '.join(map(repr, _ORDERS))}, got {p!r}")
    op = unit_scaled(as_operator(A, name="A"))
    m, n = op.shape[-2:]
    if m == 0 or n == 0:
        raise ValueError(f"A must have rows and columns, got shape {tuple(op.shape)}")
    if p in (2, -2):
        value, info = _spectral(op, rtol, generator)
        value = value if p == 2 else 1 / value
    else:
        if m != n:
            raise ValueError(f"A must be square for p = {p!r}, got shape {tuple(op.shape)}")
        value, info = _with_inverse(op, p), Info("inverse")
    value = value.to(torch.empty(0, dtype=op.dtype).real.dtype)
    if bool(torch.isnan(value.detach()).any()):
        raise ValueError("A has NaN entries, or its product returned NaN")
    result = give_back(value, op.kind)
    return (result, info) if return_info else result


def _spectral(A: Operator, rtol: float | None, generator: GeneratorLike) -> tuple[Tensor, Info]:
    if A.unitary:
        return spectrum(A)[..., 0], Info("unitary")
    if formable(A) or A.batch_shape:
        s = spectrum(_doubled(A))
        return _ratio(s[..., 0], s[..., -1]), Info("dense")
    return _iterated(A, rtol or 1e-3, generator)


def _doubled(A: Operator) -> Operator:
    """A in double precision, where its type can be converted."""
    if torch.finfo(A.dtype).bits == 64:
        return A
    wide = torch.complex128 if A.is_complex else torch.float64
    if isinstance(A, Dense):
        return Dense(A.data.to(wide), hermitian=A.hermitian)
    try:
        return A.to(wide)
    except TypeError:
        # callables of one dtype: their matrix can be formed, and only the factorisation gains precision
        return Dense(A._dense().to(wide))


def _ratio(high: Tensor, low: Tensor) -> Tensor:
    zero = low == 0
    return torch.where(zero, torch.full_like(low, math.inf), high / torch.where(zero, torch.ones_like(low), low))


def _with_inverse(A: Operator, p: float | str) -> Tensor:
    if isinstance(A, Diagonal):
        d: Tensor = A._parts[0]
        zero = (d == 0).any(-1)
        safe = torch.where(d == 0, torch.ones_like(d), d)
        value = _one_norm(Diagonal(d), p) * _one_norm(Diagonal(1 / safe), p)
        return torch.where(zero, torch.full_like(value, math.inf), value)
    if not formable(A):
        raise ValueError(f"A is too large to be inverted for p = {p!r}; p = 2 needs only products with it")
    a = _doubled(A)._dense()
    inverse, status = lu.inv_ex(a)
    singular = status != 0
    if bool(singular.any()):
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        # the gradient must not pass through a factorisation that failed
        a = torch.where(singular[..., None, None], eye, a)
        inverse = lu.inv(a)
    value = _one_norm(Dense(a), p) * _one_norm(Dense(inverse), p)
    return torch.where(singular, torch.full_like(value, math.inf), value)


def _one_norm(A: Operator, p: float | str) -> Tensor:
    if p == "fro":
        return entry_norm(A, 2.0)
    if p == "nuc":
        return spectrum(A).sum(-1)
    sums = column_norms(A if abs(float(p)) == 1 else A.H, 1)
    return sums.amax(-1) if float(p) > 0 else sums.amin(-1)


def _iterated(A: Operator, rtol: float, generator: GeneratorLike) -> tuple[Tensor, Info]:
    """Both ends of the Gram spectrum; raises where the lower one is within rounding of zero."""
    from resolvent.spectra.eigen import eigsh

    sigma, top = spectral_norm(A, None, generator)
    with torch.no_grad():
        flat = A.detach() if records(A) else A
        side = gram(flat)
        side.kind = "torch"
        high = sigma.detach().to(torch.float64) ** 2
        w, V = eigsh(side, 1, which="SA", rtol=None, generator=generator)
        v = V[:, :1]
        residual = torch.linalg.vector_norm(side._matmul(v) - v * w[0]).to(torch.float64)
        wide = A.H if A.shape[-2] < A.shape[-1] else A
        # the norm of A v has half the exponent of the eigenvalue, and is never below sigma_min
        low = torch.linalg.vector_norm(wide._matmul(v)).to(torch.float64)
        noise = residual + torch.finfo(A.dtype).eps * high
        error = float(noise / (2 * low**2)) + top.error if float(low) > 0 else math.inf
        value = (high.sqrt() / low) if float(low) > 0 else torch.full_like(high, math.inf)
    info = Info("lanczos at both ends", top.matvecs, top.iterations, error, error <= rtol and top.converged)
    if not info.converged:
        raise ConvergenceError(
            f"cond: the smallest singular value is known to a relative error of {error:.2g} only, asked for {rtol:.2g}",
            best=give_back(value.to(torch.empty(0, dtype=A.dtype).real.dtype), A.kind),
            error=error,
            info=info,
        )
    if records(A):
        recorded = A.H if A.shape[-2] < A.shape[-1] else A
        u = wide._matmul(v) / low.to(v.real.dtype)
        smallest = first_order(low.to(sigma.dtype), bilinear(u, recorded._matmul(v))[0].real)
        return sigma / smallest, info
    return value, info
