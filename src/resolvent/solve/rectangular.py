"""Least squares and least norms by Golub-Kahan bidiagonalisation: LSQR, LSMR and Craig's method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import complex_dtype, real_dtype
from resolvent.operators.convert import as_operator
from resolvent.operators.operator import Operator
from resolvent.solve.conjugate import refuse_gradients
from resolvent.solve.system import SolveInfo, System, in_range, prepare, quotient


def lsqr(
    A: Any,
    b: Any,
    *,
    damp: float = 0.0,
    rtol: float | None = None,
    M: Any = None,
    x0: Any = None,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Least squares :math:`\min_x \|b - A x\|^2 + \delta^2 \|x\|^2`: conjugate gradients on it, in a stable form.

    Parameters
    ----------
    A : (m, n) operator of any shape or rank, or anything `as_operator` takes; its adjoint is needed
    b : (m,) or (m, k); the columns run side by side
    damp : :math:`\delta` of at least 0; not together with M or x0
    rtol : a column ends where ``|b - A x| <= rtol |b|`` or ``|A^H r| <= rtol |A| |r|`` with |A| the Frobenius norm seen
        so far; default 1e-10 in float64, 1e-5 in float32
    M : (n, n) operator on the right: y minimises ``|b - A M y|`` and x = M y. With it, A above is A M.
    x0 : start; the least x - x0 is found
    maxiter : most steps; default 10 n + 50, at most 20000
    callback : called with x after every step
    return_info : also return a `SolveInfo`; its error is the larger of ``min(|r| / |b|, |A^H r| / (|A| |r|))``

    Returns
    -------
    x (n,) or (n, k) of the kind of b, or ``(x, info)``: the solution of least norm where there are many. No
    gradients: use `lstsq`.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, damp below 0
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    One product with A and one with its adjoint a step. `lsmr` lets ``|A^H r|`` fall steadily and may stop earlier.

    References
    ----------
    "LSQR: An algorithm for sparse linear equations and sparse least squares"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> lsqr(A, torch.tensor([1.0, 2.0, 3.0])).round(decimals=4)
    tensor([1., 1.])
    """
    given = _prepare("lsqr", A, b, damp, rtol, M, x0, maxiter, callback)
    return _answer(given, _lsqr, return_info)


def lsmr(
    A: Any,
    b: Any,
    *,
    damp: float = 0.0,
    rtol: float | None = None,
    M: Any = None,
    x0: Any = None,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Least squares as `lsqr`, by minimal residuals of the normal equations: :math:`\|A^H r\|` falls in every step.

    Parameters
    ----------
    A, b, damp, rtol, M, x0, maxiter, callback, return_info : as in `lsqr`

    Returns
    -------
    x (n,) or (n, k) of the kind of b, or ``(x, info)``: the solution of least norm where there are many. No
    gradients: use `lstsq`.

    Raises
    ------
    ValueError, ConvergenceError, TypeError : as in `lsqr`

    Notes
    -----
    One product with A and one with its adjoint a step, as MINRES on the normal equations without their loss of
    digits. It mostly stops a little earlier than `lsqr` and never much later.

    References
    ----------
    "LSMR: An iterative algorithm for sparse least-squares problems"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> lsmr(A, torch.tensor([1.0, 2.0, 3.0])).round(decimals=4)
    tensor([1., 1.])
    """
    given = _prepare("lsmr", A, b, damp, rtol, M, x0, maxiter, callback)
    return _answer(given, _lsmr, return_info)


def craig(
    A: Any,
    b: Any,
    *,
    rtol: float | None = None,
    M: Any = None,
    x0: Any = None,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""The solution of least norm of a consistent system: :math:`\min \|x\|` subject to :math:`A x = b`, by Craig's method.

    Parameters
    ----------
    A, b, M, x0, maxiter, callback, return_info : as in `lsqr`
    rtol : bound on the measured ``|b - A x| / |b|``; default 1e-10 in float64, 1e-5 in float32

    Returns
    -------
    x (n,) or (n, k) of the kind of b, or ``(x, info)``. No gradients: use `lstsq`.

    Raises
    ------
    ValueError, TypeError : as in `lsqr`
    ConvergenceError : the tolerance was not met, as where b is not in the range of A; `best` is the last x

    Notes
    -----
    One product with A and one with its adjoint a step, as `lsqr`, with less to do beside. The error ``|x - x*|`` falls in every
    step, by as much as the Krylov space allows; the residual may rise before it falls. `lsqr` and `lsmr` need no consistency.

    References
    ----------
    "LSQR: An algorithm for sparse linear equations and sparse least squares"

    Examples
    --------
    >>> craig(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([9.0]))
    tensor([1., 2., 2.])
    """
    given = _prepare("craig", A, b, 0.0, rtol, M, x0, maxiter, callback)
    return _answer(given, _craig, return_info)


class _Found(NamedTuple):
    """Where a bidiagonalisation ended: y, the error by its own account, steps and history."""

    Y: Tensor
    steps: int
    history: list[Tensor]
    size: Tensor


class _Problem(NamedTuple):
    """A system whose A has M on its right, the user's A and M, and the damping in the units of the system."""

    system: System
    A: Operator
    M: Operator | None
    damp: float


def _prepare(
    name: str, A: Any, b: Any, damp: float, rtol: float | None, M: Any, x0: Any, maxiter: int | None, callback: Any
) -> _Problem:
    given = prepare(name, A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback, square=False, balance=False)
    if not 0 <= damp < math.inf:
        raise ValueError(f"damp must be at least 0 and finite, got {damp!r}")
    if damp and (M is not None or x0 is not None):
        raise ValueError("damp measures x itself: give it without M and x0, or use lstsq(..., ridge=damp**2)")
    refuse_gradients(given)
    original, P = given.A, None
    if M is not None:
        P = as_operator(M, name="M")
        if torch.finfo(P.dtype).bits != torch.finfo(original.dtype).bits:
            P = P.to(complex_dtype(original.dtype) if P.is_complex else real_dtype(original.dtype))
        given = given._replace(A=original @ P, M=None)
    given = in_range(given, True)
    return _Problem(given, original, P, damp / given.scale)


def _answer(problem: _Problem, method: Callable[..., _Found], return_info: bool) -> Any:
    system, original, M, damp = problem
    with torch.no_grad():
        B, k = system.B, system.B.shape[1]
        R = B if system.X0 is None else B - _times(original, system.X0) / system.scale
        found = method(problem, R, system.rtol)
        step = found.Y if M is None else _times(M, found.Y)
        X = step if system.X0 is None else system.X0 + step
        # The measured error, from the residuals of what is returned.
        r = R - _times(system.A, found.Y)
        gradient = _times(system.A.H, r) - damp**2 * found.Y
        length = torch.linalg.vector_norm(r, dim=0)
        full = torch.hypot(length, damp * torch.linalg.vector_norm(found.Y, dim=0))
        relative = quotient(length, _goal_of(system, R))
        optimal = quotient(torch.linalg.vector_norm(gradient, dim=0), found.size * full)
        if system.name == "craig":
            # There is no least residual to end at.
            optimal = relative
        error = float((torch.minimum(relative, optimal) if not damp else optimal).amax()) if k else 0.0
        value = system.result(system.own(X))
    history = tuple(float(h.amax()) for h in found.history) if k else ()
    matvecs = 2 * (found.steps + 1) * k + 1
    info = SolveInfo(system.name, matvecs, found.steps, error, error <= system.rtol, history)
    if not info.converged:
        raise ConvergenceError(
            f"{system.name}: the error is {error:.2g} after {found.steps} steps, asked for {system.rtol:.2g}; "
            "a preconditioner M, or more steps (maxiter), may help",
            best=value,
            error=error,
            info=info,
        )
    return (value, info) if return_info else value


def _times(A: Any, X: Tensor) -> Tensor:
    return A._matmul(X) if X.dtype == A.dtype else A._apply(X, "torch")


def _unit(X: Tensor) -> tuple[Tensor, Tensor]:
    norms = torch.linalg.vector_norm(X, dim=0)
    return X * quotient(torch.ones_like(norms), norms).to(X.dtype), norms


def _goal_of(system: System, R: Tensor) -> Tensor:
    """What residuals are compared with: the norms of b, or of the first residuals where b is zero and the start is not."""
    norms = torch.linalg.vector_norm(system.B, dim=0)
    return torch.where(norms > 0, norms, torch.linalg.vector_norm(R, dim=0))


def _shown(problem: _Problem, Y: Tensor) -> None:
    if problem.system.callback is not None:
        problem.system.show(Y if problem.M is None else _times(problem.M, Y))


def _lsqr(problem: _Problem, R: Tensor, rtol: float) -> _Found:
    system, damp = problem.system, problem.damp
    A, adjoint, dtype = system.A, system.A.H, R.dtype
    U, beta = _unit(R)
    V, alpha = _unit(_times(adjoint, U))
    X, W = torch.zeros_like(V), V
    phi_bar, rho_bar, size = beta, alpha, alpha**2 + beta * 0
    first = _goal_of(system, R)
    error = torch.where((beta == 0) | (alpha == 0), 0, torch.ones_like(beta))
    history, step = [error], 0
    penalty = torch.zeros_like(beta)
    while step < system.maxiter and not bool((error <= rtol).all()):
        U, beta = _unit(_times(A, V) - alpha.to(dtype) * U)
        V, alpha_after = _unit(_times(adjoint, U) - beta.to(dtype) * V)
        # Rotate the damping into the bidiagonal matrix, then the entry below the diagonal.
        damped = torch.hypot(rho_bar, torch.full_like(rho_bar, damp))
        c1, s1 = quotient(rho_bar, damped), quotient(torch.full_like(rho_bar, damp), damped)
        psi, phi_bar = s1 * phi_bar, c1 * phi_bar
        penalty = torch.hypot(penalty, psi)
        rho = torch.hypot(damped, beta)
        c, s = quotient(damped, rho), quotient(beta, rho)
        theta, rho_bar = s * alpha_after, -c * alpha_after
        phi, phi_bar = c * phi_bar, s * phi_bar
        going = error > rtol
        X = X + torch.where(going, quotient(phi, rho), 0).to(dtype) * W
        W = V - quotient(theta, rho).to(dtype) * W
        size = size + beta**2 + alpha_after**2 + damp**2
        alpha = alpha_after
        length = torch.hypot(phi_bar, penalty)
        optimal = quotient((phi_bar * alpha * c).abs(), size.sqrt() * length)
        error = torch.where(going, torch.minimum(optimal, quotient(length, first)) if not damp else optimal, error)
        history.append(error)
        step += 1
        _shown(problem, X)
    return _Found(X, step, history, size.sqrt())


def _lsmr(problem: _Problem, R: Tensor, rtol: float) -> _Found:
    system, damp = problem.system, problem.damp
    A, adjoint, dtype = system.A, system.A.H, R.dtype
    U, beta = _unit(R)
    V, alpha = _unit(_times(adjoint, U))
    one, zero = torch.ones_like(beta), torch.zeros_like(beta)
    zeta_bar, alpha_bar, rho, rho_bar, c_bar, s_bar = alpha * beta, alpha, one, one, one, zero
    H, H_bar, X = V, torch.zeros_like(V), torch.zeros_like(V)
    # What the norm of the residual is found from.
    beta_dd, beta_d, rho_d, tau, theta_tilde, zeta, d = beta, zero, one, zero, zero, zero, zero
    size, first = alpha**2, _goal_of(system, R)
    error = torch.where((beta == 0) | (alpha == 0), zero, one)
    history, step = [error], 0
    while step < system.maxiter and not bool((error <= rtol).all()):
        U, beta = _unit(_times(A, V) - alpha.to(dtype) * U)
        V, alpha = _unit(_times(adjoint, U) - beta.to(dtype) * V)
        alpha_hat = torch.hypot(alpha_bar, torch.full_like(alpha_bar, damp))
        c_hat, s_hat = quotient(alpha_bar, alpha_hat), quotient(torch.full_like(alpha_bar, damp), alpha_hat)
        rho_before, rho = rho, torch.hypot(alpha_hat, beta)
        c, s = quotient(alpha_hat, rho), quotient(beta, rho)
        theta, alpha_bar = s * alpha, c * alpha
        bar_before, zeta_before, theta_bar = rho_bar, zeta, s_bar * rho
        rho_bar = torch.hypot(c_bar * rho, theta)
        c_bar, s_bar = quotient(c_bar * rho, rho_bar), quotient(theta, rho_bar)
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        going = error > rtol
        H_bar = H - quotient(theta_bar * rho, rho_before * bar_before).to(dtype) * H_bar
        X = X + torch.where(going, quotient(zeta, rho * rho_bar), 0).to(dtype) * H_bar
        H = V - quotient(theta, rho).to(dtype) * H
        acute, check = c_hat * beta_dd, -s_hat * beta_dd
        hat, beta_dd = c * acute, -s * acute
        rho_tilde = torch.hypot(rho_d, theta_bar)
        c_tilde, s_tilde = quotient(rho_d, rho_tilde), quotient(theta_bar, rho_tilde)
        tilde_before, theta_tilde = theta_tilde, s_tilde * rho_bar
        rho_d, beta_d = c_tilde * rho_bar, -s_tilde * beta_d + c_tilde * hat
        tau = quotient(zeta_before - tilde_before * tau, rho_tilde)
        tau_d = quotient(zeta - theta_tilde * tau, rho_d)
        d = d + check**2
        length = torch.sqrt(d + (beta_d - tau_d) ** 2 + beta_dd**2)
        size = size + beta**2 + alpha**2 + damp**2
        optimal = quotient(zeta_bar.abs(), size.sqrt() * length)
        error = torch.where(going, torch.minimum(optimal, quotient(length, first)) if not damp else optimal, error)
        history.append(error)
        step += 1
        _shown(problem, X)
    return _Found(X, step, history, size.sqrt())


def _craig(problem: _Problem, R: Tensor, rtol: float) -> _Found:
    system = problem.system
    A, adjoint, dtype = system.A, system.A.H, R.dtype
    U, beta = _unit(R)
    V, alpha = _unit(_times(adjoint, U))
    X, size = torch.zeros_like(V), alpha**2
    first, eps = _goal_of(system, R), torch.finfo(dtype).eps
    zeta = -torch.ones_like(beta)
    error = quotient(beta, first)
    history, step = [error], 0
    # A direction that has ended cannot be gone on with: then b is not in the range, and what is measured says so.
    alive = alpha > 0
    while step < system.maxiter and bool((alive & (error > rtol)).any()):
        going = alive & (error > rtol)
        zeta = -quotient(beta, alpha) * zeta
        X = X + torch.where(going, zeta, 0).to(dtype) * V
        U, beta = _unit(_times(A, V) - alpha.to(dtype) * U)
        # The residual is along the next left vector.
        error = torch.where(going, quotient((beta * zeta).abs(), first), error)
        V, alpha = _unit(_times(adjoint, U) - beta.to(dtype) * V)
        size = size + beta**2 + alpha**2
        alive = alive & (alpha > 10 * eps * size.sqrt())
        history.append(error)
        step += 1
        _shown(problem, X)
    return _Found(X, step, history, size.sqrt())
