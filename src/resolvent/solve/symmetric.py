"""Minimal residuals of a Hermitian system, definite or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.solve.conjugate import answer
from resolvent.solve.system import Run, System, prepare, quotient, real_dots


def minres(
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
    r"""Minimal residuals for a Hermitian A, indefinite or not: minimises :math:`\|b - A x\|` over a Krylov space.

    Parameters
    ----------
    A : (n, n) Hermitian operator or anything `as_operator` takes
    M : (n, n) Hermitian positive definite operator, or None; the residual is then least in the norm of M
    b, rtol, x0, maxiter, callback, return_info : as in `cg`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use ``solve(A, b, method="minres")``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a matrix seen not to be Hermitian, M seen not to be positive
    ConvergenceError : the tolerance was not met, as for a singular A whose range does not hold b
    TypeError : A or b requires a gradient

    Notes
    -----
    Lanczos and Givens rotations: one product with A, one with M and eight passes over the vectors a step. The residual
    itself is carried along, so that the 2-norm decides with a preconditioner too.

    References
    ----------
    "Solution of sparse indefinite systems of linear equations"

    Examples
    --------
    >>> minres(torch.diag(torch.tensor([1.0, -2.0])), torch.tensor([1.0, 2.0])).round(decimals=4)
    tensor([ 1., -1.])
    """
    given = prepare("minres", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback, hermitian=True)
    return answer(given, run_minres, return_info)


def run_minres(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
    """Paige and Saunders' recurrences from zero, each column until its norm meets its goal."""
    k = R.shape[1]
    X, R = torch.zeros_like(R), R.clone()
    real = torch.linalg.vector_norm(R, dim=0)
    zero, one = torch.zeros_like(real), torch.ones_like(real)
    # z / beta are the Lanczos vectors before, v after the preconditioner.
    z_before, z = torch.zeros_like(R), R.clone()
    v = system.precondition(z)
    beta = _root(real_dots(z, v))
    w_before = w = torch.zeros_like(R)
    cosine, sine, epsilon, delta = -one, zero, zero, zero
    phi, norms, beta_before = beta, real, zero
    history: list[Tensor] = []
    step = 0
    while step < limit and not bool((norms <= goal).all()):
        going = (norms > goal) & (beta > 0)
        if not bool(going.any()):
            break
        scale = quotient(one, beta).to(R.dtype)
        q = v * scale
        y = system.multiply(q)
        alpha = real_dots(q, y)
        y = y - quotient(alpha, beta).to(R.dtype) * z
        if step:
            y = y - quotient(beta, beta_before).to(R.dtype) * z_before
        z_before, z = z, y
        v = system.precondition(z)
        beta_before, beta = beta, _root(real_dots(z, v))
        old_epsilon = epsilon
        delta_bar = cosine * delta + sine * alpha
        gamma_bar = sine * delta - cosine * alpha
        epsilon, delta = sine * beta, -cosine * beta
        gamma = torch.hypot(gamma_bar, beta)
        cosine, sine = quotient(gamma_bar, gamma), quotient(beta, gamma)
        tau, phi = torch.where(going, cosine * phi, 0), sine * phi
        w_before, w = (
            w,
            (q - old_epsilon.to(R.dtype) * w_before - delta_bar.to(R.dtype) * w) * quotient(one, gamma).to(R.dtype),
        )
        X = X + tau.to(R.dtype) * w
        step_in = quotient(phi * cosine, beta).to(R.dtype)
        R = torch.where(going, (sine**2).to(R.dtype) * R - step_in * z, R)
        norms = torch.linalg.vector_norm(R, dim=0)
        history.append(norms)
        step += 1
        system.show(X)
    return Run(X, history, step, step * k)


def _root(square: Tensor) -> Tensor:
    if bool((square < 0).any()):
        raise ValueError(f"M must be positive definite, but r^H M r = {float(square.min()):.3g}")
    if not bool(torch.isfinite(square).all()):
        raise ValueError("the product with A or M returned NaN or infinity")
    return square.sqrt()
