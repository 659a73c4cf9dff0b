"""Generalised minimal residuals: GMRES, and FGMRES for a preconditioner that changes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.solve.conjugate import answer
from resolvent.solve.system import Run, System, prepare, quotient


def gmres(
    A: Any,
    b: Any,
    *,
    rtol: float | None = None,
    M: Any = None,
    x0: Any = None,
    restart: int = 50,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Generalised minimal residuals for any square A: minimises :math:`\|b - A x\|` over a Krylov space.

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes
    b : (n,) or (n, k); the columns run side by side, each in a space of its own
    rtol : bound on ``|b - A x| / |b|`` of each column; default 1e-10 in float64, 1e-5 in float32
    M : (n, n) operator near the inverse of A, or None. It stands on the right, so that the residual is that of A.
    x0 : start, of the shape of x; None means zero
    restart : steps after which the space begins anew; k (restart + 1) n numbers are kept
    maxiter : most steps; default 10 n + 50, at most 20000
    callback : called with x after every cycle of `restart` steps
    return_info : also return a `SolveInfo`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use ``solve(A, b, method="gmres")``.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, restart below 1
    ConvergenceError : the tolerance was not met; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    Arnoldi with classical Gram-Schmidt, twice, as batched products, and one Givens rotation a step: one product with A,
    one with M and 4 j n multiplications in step j of a cycle. A restarted iteration can stall where a full one
    would not; then a larger `restart`, a preconditioner, or `idr` helps.

    References
    ----------
    "GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear systems"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    >>> gmres(A, torch.tensor([3.0, 1.0])).round(decimals=4)
    tensor([ 5., -1.])
    """
    given = prepare("gmres", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback)
    return answer(given, gmres_with(restart, flexible=False), return_info)


def fgmres(
    A: Any,
    b: Any,
    *,
    rtol: float | None = None,
    M: Any = None,
    x0: Any = None,
    restart: int = 50,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Flexible GMRES: the preconditioner may differ from step to step, as when it is an iteration itself.

    Parameters
    ----------
    A, b, rtol, x0, restart, maxiter, callback, return_info : as in `gmres`
    M : (n, n) operator, or any function of a block of residuals (n, k) that returns a block like it

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use `solve`.

    Raises
    ------
    ValueError, ConvergenceError, TypeError : as in `gmres`

    Notes
    -----
    As `gmres`, with the preconditioned vectors kept too: twice the memory.

    References
    ----------
    "A flexible inner-outer preconditioned GMRES algorithm"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    >>> fgmres(A, torch.ones(3), M=lambda R: R / torch.tensor([[1.0], [2.0], [3.0]])).round(decimals=4)
    tensor([1.0000, 0.5000, 0.2500])
    """
    given = prepare("fgmres", A, b, rtol=rtol, M=M, x0=x0, maxiter=maxiter, callback=callback, flexible=True)
    return answer(given, gmres_with(restart, flexible=True), return_info)


def gmres_with(restart: int, flexible: bool) -> Callable[[System, Tensor, Tensor, int], Run]:
    """The run of GMRES with cycles of `restart` steps."""
    if isinstance(restart, bool) or not isinstance(restart, int) or restart < 1:
        raise ValueError(f"restart must be an int of at least 1, got {restart!r}")

    def run(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
        X, history, steps, matvecs = torch.zeros_like(R), [], 0, 0
        left, norms = R, torch.linalg.vector_norm(R, dim=0)
        while steps < limit and not bool((norms <= goal).all()):
            step, norms_after = _cycle(system, left, goal, min(restart, limit - steps, R.shape[0]), flexible)
            X = X + step
            steps, matvecs = steps + len(norms_after), matvecs + (len(norms_after) + 1) * R.shape[1]
            history += norms_after
            system.show(X)
            left = R - system.multiply(X)
            before, norms = norms, torch.linalg.vector_norm(left, dim=0)
            # A cycle that gains nothing is followed by others that gain nothing.
            if not bool(((norms < 0.999 * before) & (before > goal)).any()):
                break
        return Run(X, history, steps, matvecs)

    return run


def _cycle(system: System, R: Tensor, goal: Tensor, steps: int, flexible: bool) -> tuple[Tensor, list[Tensor]]:
    """One cycle of Arnoldi steps: the correction and the norms of the residuals."""
    n, k = R.shape
    dtype, device = R.dtype, R.device
    norms = torch.linalg.vector_norm(R, dim=0)
    basis = torch.empty(k, steps + 1, n, dtype=dtype, device=device)
    basis[:, 0] = (R * quotient(torch.ones_like(norms), norms).to(dtype)).mT
    kept = torch.empty(k, steps, n, dtype=dtype, device=device) if flexible and system.M is not None else None
    triangle = torch.zeros(k, steps, steps, dtype=dtype, device=device)
    # All rotations so far as one unitary matrix: a new column of H costs one small product.
    rotation = torch.eye(steps + 1, dtype=dtype, device=device).repeat(k, 1, 1)
    side = torch.zeros(k, steps + 1, dtype=dtype, device=device)
    side[:, 0] = norms.to(dtype)
    history: list[Tensor] = []
    j = 0
    for j in range(steps):
        z = system.precondition(basis[:, j].mT.contiguous())
        if kept is not None:
            kept[:, j] = z.mT
        w = system.multiply(z).mT[..., None].contiguous()
        size = torch.linalg.vector_norm(w[..., 0], dim=1)
        known = basis[:, : j + 1]
        first = known.conj() @ w
        w = w - known.mT @ first
        again = known.conj() @ w
        w = w - known.mT @ again
        column = (first + again)[..., 0]
        below = torch.linalg.vector_norm(w[..., 0], dim=1)
        # The space has ended: what is left of w is rounding.
        below = torch.where(below > 4 * torch.finfo(dtype).eps * size, below, 0)
        basis[:, j + 1] = w[..., 0] * quotient(torch.ones_like(below), below).to(dtype)[:, None]
        _rotate(triangle, rotation, side, column, below, j)
        norms = side[:, j + 1].abs()
        if not bool(torch.isfinite(norms).all()):
            raise ValueError("the product with A or M returned NaN or infinity")
        history.append(norms)
        if bool(((norms <= goal) | (below == 0)).all()):
            break
    used = j + 1
    return _correction(system, basis, kept, triangle[:, :used, :used], side[:, :used]), history


def _rotate(triangle: Tensor, rotation: Tensor, side: Tensor, column: Tensor, below: Tensor, j: int) -> None:
    """Bring column j of the Hessenberg matrix to triangular form, and the right-hand side with it."""
    turned = (rotation[:, : j + 1, : j + 1] @ column[..., None])[..., 0]
    top = turned[:, j]
    length = torch.hypot(top.abs(), below)
    c, s = torch.where(length > 0, quotient(top, length.to(top.dtype)), 1), quotient(below, length)
    triangle[:, :j, j] = turned[:, :j]
    triangle[:, j, j] = length.to(top.dtype)
    c, s = c[:, None], s[:, None].to(top.dtype)
    high, low = rotation[:, j].clone(), rotation[:, j + 1].clone()
    rotation[:, j], rotation[:, j + 1] = c.conj() * high + s * low, c * low - s * high
    high = side[:, j].clone()
    side[:, j], side[:, j + 1] = c[:, 0].conj() * high, -s[:, 0] * high


def _correction(system: System, basis: Tensor, kept: Tensor | None, triangle: Tensor, side: Tensor) -> Tensor:
    # A zero on the diagonal belongs to a direction that A maps to nothing new.
    d = triangle.diagonal(dim1=1, dim2=2)
    good = d.abs() > torch.finfo(d.real.dtype).eps * d.abs().amax(1, keepdim=True)
    safe = triangle + torch.diag_embed(torch.where(good, 0, 1 - d))
    y = torch.linalg.solve_triangular(safe, torch.where(good, side, 0)[..., None], upper=True)
    used = triangle.shape[1]
    if kept is not None:
        return (kept[:, :used].mT @ y)[..., 0].mT
    return system.precondition((basis[:, :used].mT @ y)[..., 0].mT.contiguous())
