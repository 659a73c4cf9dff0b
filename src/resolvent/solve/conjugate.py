"""Conjugate gradients: for one or several right-hand sides, in blocks, and for families of shifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators import lu
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array, real_dtype
from resolvent.operators.gradient import records
from resolvent.solve.krylov_kernel import descend, turn
from resolvent.solve.system import Run, SolveInfo, System, iterate, prepare, quotient, real_dots

_LOOK = 8  # steps between looks at the residual on a GPU, each of which waits for it


def cg(
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
    r"""Conjugate gradients for a Hermitian positive definite A: minimises :math:`(x - x_*)^H A (x - x_*)`.

    Parameters
    ----------
    A : (n, n) Hermitian positive definite operator or anything `as_operator` takes
    b : (n,) or (n, k); the columns run side by side, one product with A a step for all
    rtol : bound on ``|b - A x| / |b|`` of each column; default 1e-10 in float64, 1e-5 in float32
    M : (n, n) Hermitian positive definite operator, near the inverse of A, or None
    x0 : start, of the shape of x; None means zero
    maxiter : most steps; default 10 n + 50, at most 20000
    callback : called with x after every step
    return_info : also return a `SolveInfo`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use ``solve(A, b, method="cg")``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a matrix seen not to be Hermitian or not to be positive definite
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    One product with A, one with M and two passes over the vectors a step. The error falls at least like
    ``((sqrt(c) - 1) / (sqrt(c) + 1))^j`` for the condition number c of M A. The residual is measured at the end; what
    rounding left is solved for again. The attainable residual is ``eps |A| |x|``.

    References
    ----------
    "Methods of conjugate gradients for solving linear systems"

    Examples
    --------
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> cg(A, torch.tensor([1.0, 2.0]))
    tensor([0.0909, 0.6364])
    """
    given = prepare("cg", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback, hermitian=True)
    return answer(given, run_cg, return_info)


def answer(system: System, method: Callable[..., Run], return_info: bool) -> Any:
    """The result of an iteration in the kind of b, with its report if that is asked for."""
    refuse_gradients(system)
    X, info = iterate(system, method)
    return (system.result(X), info) if return_info else system.result(X)


def refuse_gradients(system: System) -> None:
    """An error where autograd would expect a gradient that an iteration does not give."""
    if torch.is_grad_enabled() and (system.B.requires_grad or records(system.A)):
        raise TypeError(
            f"{system.name} has no gradients: use solve(A, b), which has, or detach A and b (or torch.no_grad())"
        )


def run_cg(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
    """Conjugate gradients from zero, each column until its norm meets its goal."""
    R = R.clone()
    X = torch.zeros_like(R)
    Z = system.precondition(R)
    P = Z.clone()
    rho = real_dots(R, Z)
    norms = torch.linalg.vector_norm(R, dim=0)
    _check_preconditioner(rho)
    history: list[Tensor] = []
    every = 1 if R.device.type == "cpu" else _LOOK
    step = 0
    while step < limit and not (step % every == 0 and bool((norms <= goal).all())):
        Q = system.multiply(P)
        curvature = real_dots(P, Q)
        going = norms > goal
        if step % every == 0 and bool((going & ~(curvature > 0)).any()):
            _refuse(system, curvature, going)
        alpha = torch.where(going, quotient(rho, curvature), 0)
        norms = descend(X, R, P, Q, alpha)
        Z = system.precondition(R)
        before, rho = rho, real_dots(R, Z)
        if step % every == 0:
            _check_preconditioner(rho)
        P = turn(P, Z, quotient(rho, before))
        history.append(norms)
        step += 1
        system.show(X)
    return Run(X, history, step, step * R.shape[1])


def _check_preconditioner(rho: Tensor) -> None:
    if bool((rho < 0).any()):
        raise ValueError(f"M must be positive definite, but r^H M r = {float(rho.min()):.3g}")


def _refuse(system: System, curvature: Tensor, going: Tensor) -> None:
    value = float(curvature[going].min())
    if value == value:
        raise ValueError(f"A must be positive definite, but p^H A p = {value:.3g} for some p: use minres")
    raise ValueError("the product with A or M returned NaN or infinity")


def block_cg(
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
    r"""Block conjugate gradients: the k right-hand sides share one Krylov space, so that steps fall with k.

    Parameters
    ----------
    A, b, rtol, M, x0, maxiter, callback, return_info : as in `cg`; b is (n, k)

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use `solve`.

    Raises
    ------
    ValueError, ConvergenceError, TypeError : as in `cg`

    Notes
    -----
    A step is one product with k columns and about 8 n k^2 flops. The residuals are kept as an orthonormal block times
    a small triangular one (Dubrulle's form), so that columns that converge early, or depend on each other, do no harm.

    References
    ----------
    "The block conjugate gradient algorithm and related methods"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    >>> block_cg(A, torch.ones(3, 2)).round(decimals=4)
    tensor([[1.0000, 1.0000],
            [0.5000, 0.5000],
            [0.2500, 0.2500]])
    """
    given = prepare("block_cg", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback, hermitian=True)
    return answer(given, run_block_cg, return_info)


def run_block_cg(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
    """Dubrulle's block conjugate gradients from zero."""
    k = R.shape[1]
    X, history = torch.zeros_like(R), []
    Q, phi = torch.linalg.qr(R)
    Z = system.precondition(Q)
    P, gamma = Z, Q.mH @ Z
    norms = torch.linalg.vector_norm(R, dim=0)
    step = 0
    while step < limit and not bool((norms <= goal).all()):
        AP = system.multiply(P)
        curvature = P.mH @ AP
        factor, failed = torch.linalg.cholesky_ex((curvature + curvature.mH) / 2)
        if int(failed):
            low = float(torch.linalg.eigvalsh((curvature + curvature.mH) / 2)[0])
            size = float(curvature.abs().max())
            if low < -1e3 * torch.finfo(R.dtype).eps * size:
                _refuse(system, torch.tensor([low]), torch.tensor([True]))
            # The block has lost rank: what is left is solved for from a new start.
            break
        alpha = torch.cholesky_solve(gamma, factor)
        X = X + P @ (alpha @ phi)
        old = gamma
        Q, zeta = torch.linalg.qr(Q - AP @ alpha)
        Z = system.precondition(Q)
        gamma = Q.mH @ Z
        P = Z + P @ lu.solve(old, zeta.mH @ gamma)
        phi = zeta @ phi
        norms = torch.linalg.vector_norm(phi, dim=0)
        history.append(norms)
        step += 1
        system.show(X)
    return Run(X, history, step, step * k)


def shifted_cg(
    A: Any,
    b: Any,
    shifts: Sequence[float] | Tensor,
    *,
    rtol: float | None = None,
    maxiter: int | None = None,
    return_info: bool = False,
) -> Any:
    r"""Solve :math:`(A + \sigma_i I) x_i = b` for many shifts with the products of one of them.

    Parameters
    ----------
    A : (n, n) Hermitian operator or anything `as_operator` takes
    b : (n,)
    shifts : s real numbers such that every A + sigma I is positive definite
    rtol : bound on ``|b - (A + sigma I) x| / |b|``; default 1e-10 in float64, 1e-5 in float32
    maxiter : most steps; default 10 n + 50, at most 20000
    return_info : also return a `SolveInfo`, its error the largest of all shifts

    Returns
    -------
    (s, n) of the kind of b, or ``(x, info)``. No gradients.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, A + sigma I seen not to be Hermitian positive definite
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    Krylov spaces do not change with a shift: the residuals of all systems are multiples of one vector, that of the
    smallest shift, which is the slowest. A step costs one product with A and 4 n s multiplications.

    References
    ----------
    "Krylov space solvers for shifted linear systems"

    Examples
    --------
    >>> shifted_cg(torch.diag(torch.tensor([1.0, 3.0])), torch.ones(2), [0.0, 1.0])
    tensor([[1.0000, 0.3333],
            [0.5000, 0.2500]])
    """
    given = prepare("shifted_cg", A, b, rtol=rtol, M=None, x0=None, maxiter=maxiter, callback=None, hermitian=True)
    if not given.single:
        raise ValueError(f"b must have shape (n,), got {tuple(given.B.shape)}")
    sigma = as_tensor(shifts, "shifts")[0].to(device=given.B.device)
    if sigma.ndim != 1 or not len(sigma) or sigma.is_complex():
        raise ValueError(f"shifts must be a vector of at least one real number, got shape {tuple(sigma.shape)}")
    check_finite(sigma, "shifts")
    refuse_gradients(given)
    if sigma.requires_grad and torch.is_grad_enabled():
        raise TypeError("shifted_cg has no gradients: detach shifts, or solve(A + sigma * I, b) for each, which has")
    with torch.no_grad():
        sigma = (sigma / given.scale).to(real_dtype(given.B.dtype))
        X, steps, history = _shifted(given, sigma)
        residual = given.B[:, 0] - (given.multiply(X.mT.contiguous()).mT + sigma[:, None].to(X.dtype) * X)
        norm = float(torch.linalg.vector_norm(given.B))
        error = float(torch.linalg.vector_norm(residual, dim=1).max()) / (norm or 1.0)
        found = give_back_array(given.own(X), given.kind)
    info = SolveInfo("shifted_cg", steps, steps, error, error <= given.rtol, history)
    if not info.converged:
        raise ConvergenceError(
            f"shifted_cg: the relative residual is {error:.2g} after {steps} steps, asked for {given.rtol:.2g}",
            best=found,
            error=error,
            info=info,
        )
    return (found, info) if return_info else found


def _shifted(system: System, shifts: Tensor) -> tuple[Tensor, int, tuple[float, ...]]:
    base = shifts.min()
    apart = (shifts - base)[:, None]
    r = system.B[:, 0].clone()
    norm = torch.linalg.vector_norm(r)
    x = torch.zeros(len(shifts), len(r), dtype=r.dtype, device=r.device)
    p, directions = r.clone(), r.expand_as(x).clone()
    rho, alpha_before, beta = norm**2, torch.ones_like(base), torch.zeros_like(base)
    zeta_before, zeta = torch.ones_like(apart), torch.ones_like(apart)
    history = [1.0]
    # A little below the goal: the recurrences of the shifts drift by rounding.
    while len(history) <= system.maxiter and history[-1] > 0.5 * system.rtol and float(norm) > 0:
        q = system.multiply(p[:, None])[:, 0] + base.to(r.dtype) * p
        curvature = torch.vdot(p, q).real
        if not bool(curvature > 0):
            _refuse(system, curvature[None], torch.tensor([True]))
        alpha = rho / curvature
        below = alpha_before * zeta_before * (1 + alpha * apart) + alpha * beta * (zeta_before - zeta)
        zeta_after = quotient(zeta * zeta_before * alpha_before, below)
        ratio = quotient(zeta_after, zeta)
        x += (alpha * ratio).to(x.dtype) * directions
        r -= alpha.to(r.dtype) * q
        before, rho = rho, torch.vdot(r, r).real
        beta = rho / before
        directions = zeta_after.to(x.dtype) * r + (beta * ratio**2).to(x.dtype) * directions
        p = r + beta.to(r.dtype) * p
        zeta_before, zeta, alpha_before = zeta, zeta_after, alpha
        history.append(float(rho.sqrt() / norm))
    return x, len(history) - 1, tuple(history)
