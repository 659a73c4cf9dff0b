"""Bilinear forms u^H f(A) v and traces tr f(A) of a function of an operator that is never formed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.action import matched
from resolvent.functions.action_sweep import declared
from resolvent.functions.funm_action import Function, function, funm_multiply
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.gradient import records
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike
from resolvent.spectra.exact import exact_eigenvalues
from resolvent.spectra.quadrature import Integrand, LanczosRun, trace_of_function, tridiagonal_eigh


def bilinear_form(
    f: Callable[[Tensor], Tensor] | str,
    A: OperatorLike,
    u: Any,
    v: Any = None,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    max_products: int = 20_000,
    return_info: bool = False,
) -> Any:
    r"""The form :math:`u^H f(A)\, v` of a matrix function that is not formed.

    Parameters
    ----------
    f : a function of tensors or a name, as in `funm_multiply`
    A : (n, n) operator or anything `as_operator` takes
    u, v : (n,) or (n, k), column by column; `v` is `u` by default
    rtol, atol : the error is at most ``max(rtol |value|, atol)``; default rtol 1e-10 in float64, 1e-4 in float32
    max_products : columns that `A` may be multiplied with
    return_info : also return an `Info`

    Returns
    -------
    A number, or (k,) for blocks; of the kind of `u`

    Raises
    ------
    ValueError : shapes that do not fit, f not finite in the spectrum
    ConvergenceError : the error stayed above the tolerance; carries the best value

    Notes
    -----
    Hermitian: Gauss quadrature, whose order is twice the number of Lanczos steps, from u, or for different u and v from
    u + v and u - v (and u + iv, u - iv where something is complex); no basis is stored. Where it converges, the error is the
    change over the last third of the steps. General `A`, or where gradients are asked for: `funm_multiply` on v.

    References
    ----------
    "Matrices, Moments and Quadrature with Applications"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    >>> round(float(bilinear_form("sqrt", A, torch.ones(3, dtype=torch.float64))), 6)
    6.0
    """
    A = as_operator(A, name="A")
    n = A.shape[-1]
    if A.shape[-2] != n or A.batch_shape:
        raise ValueError(f"A must be one square matrix, got shape {tuple(A.shape)}")
    U, kind = as_tensor(u, "u")
    V = U if v is None else as_tensor(v, "v")[0]
    for name, x in (("u", U), ("v", V)):
        if x.ndim not in (1, 2) or x.shape[0] != n or x.shape != U.shape:
            raise ValueError(f"{name} must have shape ({n},) or ({n}, k), that of u, got {tuple(x.shape)}")
        check_finite(x, name)
    A, U = matched(A, U, kind)
    V = U if v is None else matched(A, V, kind)[1]
    rtol = (1e-10 if torch.finfo(A.dtype).eps < 1e-10 else 1e-4) if rtol is None else rtol
    fn = function(f)
    A = declared(A)
    gradient = torch.is_grad_enabled() and (U.requires_grad or V.requires_grad or records(A))
    if gradient or not A.hermitian:
        w, info = funm_multiply(f, A, V, rtol=max(0.1 * rtol, 1e-14), max_products=max_products, return_info=True)
        common = torch.promote_types(w.dtype, U.dtype)
        value = (U.conj().to(common) * w.to(common)).sum(0)
    else:
        with torch.no_grad():
            value, info = _quadrature(fn, A, U, V, v is None, rtol, atol, max_products)
    value = give_back(value, kind)
    if not info.converged:
        raise ConvergenceError(
            f"bilinear_form: the error is {info.error:.3g}, {rtol:.3g} was asked for ({info.matvecs} products)",
            best=value,
            error=info.error,
            info=info,
        )
    return (value, info) if return_info else value


def _quadrature(
    f: Function, A: Operator, U: Tensor, V: Tensor, same: bool, rtol: float, atol: float, limit: int
) -> tuple[Tensor, Info]:
    one = U.ndim == 1
    U, V = (x[:, None] if one else x for x in (U, V))
    n, k = U.shape
    size = torch.ones(k, dtype=U.real.dtype if U.is_complex() else U.dtype, device=U.device)
    if same:
        starts, signs = [U], [1 + 0j]
    else:
        # The same sizes, so that little cancels in the differences.
        size = torch.linalg.vector_norm(U, dim=0) / torch.linalg.vector_norm(V, dim=0).clamp_min(1e-300)
        W = V * size
        mixed = U.is_complex() or V.is_complex()
        starts = [U + W, U - W, *([U + 1j * W, U - 1j * W] if mixed else [])]
        signs = [0.25 + 0j, -0.25 + 0j, *([-0.25j, 0.25j] if mixed else [])]
    Z = torch.cat(starts, 1)
    if Z.is_complex() and not A.is_complex:
        # Of a real symmetric f(A), the form of x + iy is that of x plus that of y.
        Z = torch.cat([Z.real, Z.imag], 1)
        signs = signs * 2
    run = LanczosRun(A, Z.clone())
    weights = torch.tensor(signs, dtype=torch.complex128, device=Z.device)
    weights = weights if bool((weights.imag != 0).any()) else weights.real
    steps, before, error, value = 8, None, math.inf, U.new_zeros(k)
    while True:
        run.extend(steps)
        alpha, beta = run.tridiagonal()
        theta, S = tridiagonal_eigh(alpha, beta[:, :-1])
        theta = theta.clamp_min(0) if A.positive else theta
        w = S[:, 0].square()
        values = torch.where(w > 0, w * f.at(theta), 0).sum(1) * run.norms.square()
        groups = values.reshape(len(signs), k)
        value = (weights.to(torch.promote_types(weights.dtype, groups.dtype))[:, None] * groups).sum(0)
        value = value / size
        if before is not None:
            tolerance = (rtol * value.abs()).clamp_min(max(atol, 1e-300))
            error = float(((value - before).abs() / tolerance).max()) * rtol
        if error <= rtol or steps >= 3 * n + 20 or steps * Z.shape[1] >= limit:
            break
        before, steps = value, math.ceil(1.4 * steps)
    info = Info("gauss quadrature", steps * Z.shape[1], steps, error, error <= rtol)
    value = value.to(A.dtype if not value.is_complex() else A.dtype.to_complex())
    return (value[0] if one else value), info


def trace_function(
    f: Callable[[Tensor], Tensor] | str,
    A: OperatorLike,
    *,
    rtol: float = 1e-2,
    atol: float = 0.0,
    confidence: float = 0.95,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""The trace of a matrix function, :math:`\mathrm{tr}\, f(A)`, of a Hermitian operator.

    Parameters
    ----------
    f : a real function of real tensors, entry by entry, or a name as in `funm_multiply`
    A : (n, n) Hermitian operator or anything `as_operator` takes
    rtol, atol : the error of an estimate is at most ``max(rtol |tr f(A)|, atol)`` at the given confidence
    confidence : of an estimate, between 0 and 1
    generator : of the probes
    return_info : also return an `Info`

    Returns
    -------
    A real 0-d tensor; a Python float for NumPy data

    Raises
    ------
    ValueError : A is not square or not Hermitian, f is complex or not finite in the spectrum
    ConvergenceError : the estimate did not reach its tolerance

    Notes
    -----
    Exact where the eigenvalues cost little (by structure, or up to n = 1500), else stochastic Lanczos quadrature, its steps
    and probes grown until the measured error allows. Gradients: exact for exact traces, else
    :math:`f'(A) z` against one product per probe.

    References
    ----------
    "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature"

    Examples
    --------
    >>> round(float(trace_function("exp", torch.diag(torch.tensor([0.0, 1.0])))), 4)
    3.7183
    """
    A = as_operator(A, name="A")
    if A.shape[-1] != A.shape[-2] or A.batch_shape:
        raise ValueError(f"A must be one square matrix, got shape {tuple(A.shape)}")
    A.check_hermitian("A")
    fn = function(f)
    eigenvalues = exact_eigenvalues(A)
    if eigenvalues is not None:
        nodes = eigenvalues.clamp_min(0) if A.positive else eigenvalues
        value, info = _real(fn, nodes).sum(-1), Info("exact")
    else:
        value, info = trace_of_function(
            A,
            Integrand(lambda x: _real(fn, x)[None], lambda x: fn.slope(x)[None]),
            name="trace_function",
            rtol=rtol,
            atol=atol,
            confidence=confidence,
            generator=generator,
        )
    value = give_back(value, A.kind)
    return (value, info) if return_info else value


def _real(f: Function, x: Tensor) -> Tensor:
    values = f.at(x)
    if values.is_complex():
        raise ValueError("f must be real on the spectrum of A; take the traces of its parts")
    return values
