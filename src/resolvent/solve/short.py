"""Short recurrences for systems that are not Hermitian: BiCGStab and IDR(s)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators import lu
from resolvent.random import GeneratorLike, gaussian
from resolvent.solve.conjugate import answer
from resolvent.solve.system import Method, Run, System, dots, prepare, quotient

_KAPPA = 0.7  # least cosine between a residual and its image for a step of steepest descent (Sleijpen, van der Vorst)


def bicgstab(
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
    r"""Stabilised biconjugate gradients for any square A, with the memory of a few vectors.

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes
    M : (n, n) operator near the inverse of A, or None; it stands on the right
    maxiter : most steps, of two products each; default 10 n + 50, at most 20000
    b, rtol, x0, callback, return_info : as in `cg`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use ``solve(A, b, method="bicgstab")``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN
    ConvergenceError : the tolerance was not met, or the recurrence broke down without progress; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    Two products with A and two with M a step; the residual need not fall from step to step. A breakdown starts it
    anew from where it is. Nothing is minimised: `gmres` is more robust, `idr` mostly faster.

    References
    ----------
    "Bi-CGSTAB: A fast and smoothly converging variant of Bi-CG for the solution of nonsymmetric linear systems"

    Examples
    --------
    >>> bicgstab(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([3.0, 1.0])).round(decimals=4)
    tensor([ 5., -1.])
    """
    given = prepare("bicgstab", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback)
    return answer(given, run_bicgstab, return_info)


def run_bicgstab(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
    """BiCGStab from zero, each column until its norm meets its goal or its recurrence breaks down."""
    dtype, eps = R.dtype, torch.finfo(R.dtype).eps
    X, R, shadow = torch.zeros_like(R), R.clone(), R.clone()
    size = torch.linalg.vector_norm(shadow, dim=0)
    P, V = torch.zeros_like(R), torch.zeros_like(R)
    rho = alpha = omega = torch.ones(R.shape[1], dtype=dtype, device=R.device)
    norms, history = size, []
    alive = torch.ones_like(norms, dtype=torch.bool)
    best, best_norms = X.clone(), norms
    step = 0
    while step < limit:
        going = alive & (norms > goal)
        if not bool(going.any()):
            break
        before, rho = rho, dots(shadow, R)
        alive = alive & (rho.abs() > eps * size * norms)
        beta = quotient(rho * alpha, before * omega)
        P = R + beta * (P - omega * V)
        P_hat = system.precondition(P)
        V = system.multiply(P_hat)
        alpha = torch.where(going & alive, quotient(rho, dots(shadow, V)), 0)
        S = R - alpha * V
        S_hat = system.precondition(S)
        T = system.multiply(S_hat)
        omega = torch.where(going & alive, quotient(dots(T, S), dots(T, T).real.to(dtype)), 0)
        X = X + alpha * P_hat + omega * S_hat
        R = S - omega * T
        norms = torch.linalg.vector_norm(R, dim=0)
        if not bool(torch.isfinite(norms).all()):
            # A recurrence that explodes is a breakdown; what was best is kept.
            break
        better = norms < best_norms
        best, best_norms = torch.where(better, X, best), torch.where(better, norms, best_norms)
        alive = alive & ((omega.abs() > 0) | (norms <= goal))
        history.append(norms)
        step += 1
        system.show(X)
    return Run(best, history, step, 2 * step * R.shape[1])


def idr(
    A: Any,
    b: Any,
    *,
    s: int = 4,
    rtol: float | None = None,
    M: Any = None,
    x0: Any = None,
    maxiter: int | None = None,
    generator: GeneratorLike = 0,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Induced dimension reduction, IDR(s), for any square A with the memory of 3 s vectors.

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes
    b : (n,) or (n, k); the columns run one after the other
    s : dimension of the shadow space, at least 1; s = 1 is near BiCGStab, larger s is near full GMRES
    M : (n, n) operator near the inverse of A, or None; it stands on the right
    maxiter : most steps, of one product each; default 10 n + 50, at most 20000
    generator : of the shadow space
    callback : called after every step with x, (n,) or the column at work (n, 1)
    rtol, x0, return_info : as in `cg`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use ``solve(A, b, method="idr")``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, s below 1
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    The variant with biorthogonal residuals. It ends after at most n + n / s products in exact arithmetic, and mostly
    much earlier.

    References
    ----------
    "Algorithm 913: An elegant IDR(s) variant that efficiently exploits biorthogonality properties"

    Examples
    --------
    >>> idr(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([3.0, 1.0]), s=1).round(decimals=4)
    tensor([ 5., -1.])
    """
    if isinstance(s, bool) or not isinstance(s, int) or s < 1:
        raise ValueError(f"s must be an int of at least 1, got {s!r}")
    given = prepare("idr", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback)
    return answer(given, idr_with(s, generator), return_info)


def idr_with(s: int, generator: GeneratorLike) -> Method:
    """The run of IDR(s)."""

    def run(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
        n, k = R.shape
        found, steps, history = [], 0, []
        shadow = torch.linalg.qr(gaussian((n, min(s, n)), R.dtype, R.device, generator)).Q
        for i in range(k):
            x, norms = _idr_column(system, i, R[:, i], goal[i], limit, shadow)
            found.append(x)
            steps = max(steps, len(norms))
            others = torch.linalg.vector_norm(R, dim=0)
            history.append([torch.where(torch.arange(k, device=R.device) == i, norm, 0 * others) for norm in norms])
        longest = max((len(h) for h in history), default=0)
        merged = [torch.stack([h[min(j, len(h) - 1)] for h in history if h]).sum(0) for j in range(longest)]
        return Run(torch.stack(found, 1) if found else torch.zeros_like(R), merged, steps, sum(map(len, history)))

    return run


def _idr_column(
    system: System, i: int, r: Tensor, goal: Tensor, limit: int, shadow: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Algorithm 913 for one right-hand side from zero: the best x and the norms of the residuals."""
    n, s = shadow.shape
    x = best = torch.zeros_like(r)
    G, U = r.new_zeros(n, s), r.new_zeros(n, s)
    small = torch.eye(s, dtype=r.dtype, device=r.device)
    omega = torch.ones((), dtype=r.dtype, device=r.device)
    norm = least = torch.linalg.vector_norm(r)
    history: list[Tensor] = []
    while len(history) < limit and bool(norm > goal):
        f = shadow.mH @ r
        for j in range(s):
            c, failed = lu.solve_ex(small[j:, j:], f[j:])
            if int(failed):
                return best, history
            v = system.precondition((r - G[:, j:] @ c)[:, None])[:, 0]
            u = U[:, j:] @ c + omega * v
            g = system.multiply(u[:, None])[:, 0]
            for q in range(j):
                a = torch.vdot(shadow[:, q], g) / small[q, q]
                g, u = g - a * G[:, q], u - a * U[:, q]
            G[:, j], U[:, j] = g, u
            small[j:, j] = shadow[:, j:].mH @ g
            if not bool(small[j, j].abs() > 0):
                return best, history
            beta = f[j] / small[j, j]
            r, x = r - beta * g, x + beta * u
            norm = torch.linalg.vector_norm(r)
            history.append(norm)
            if bool(norm < least):
                best, least = x, norm
            system.show(x[:, None], i)
            if not bool(norm > goal) or len(history) >= limit:
                return best, history
            f = torch.cat([f[: j + 1] * 0, f[j + 1 :] - beta * small[j + 1 :, j]])
        v = system.precondition(r[:, None])[:, 0]
        t = system.multiply(v[:, None])[:, 0]
        length = torch.linalg.vector_norm(t)
        rho = torch.vdot(t, r) / (length * norm)
        omega = rho * norm / length
        if bool(rho.abs() < _KAPPA):
            omega = omega * (_KAPPA / rho.abs())
        if not bool(torch.isfinite(omega.abs())) or not bool(omega.abs() > 0):
            return best, history
        r, x = r - omega * t, x + omega * v
        norm = torch.linalg.vector_norm(r)
        history.append(norm)
        if bool(norm < least):
            best, least = x, norm
        system.show(x[:, None], i)
    return best, history
