"""Conjugate directions from any function of the residual: with a trained network, far fewer than those of CG."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.solve.conjugate import answer
from resolvent.solve.system import Method, Run, System, prepare, quotient, real_dots

_PATIENCE = 50


def deep_cg(
    A: Any,
    b: Any,
    model: Callable[[Tensor], Tensor],
    *,
    history: int = 2,
    rtol: float | None = None,
    x0: Any = None,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Conjugate directions from a model of the inverse, such as a network: :math:`d = f(r / \|r\|)`, made A-orthogonal.

    Parameters
    ----------
    A : (n, n) Hermitian positive definite operator or anything `as_operator` takes
    b : (n,) or (n, k); the columns run side by side
    model : function of a block of k unit columns (n, k) that returns a block of directions (n, k), near multiples of
        :math:`A^{-1} r`; it need not be linear. `DirectionNet.on` makes one. The identity gives CG, a preconditioner PCG.
    history : directions that a new one is made A-orthogonal to, at least 0; 2 as in the paper, 0 leaves steepest descent
    rtol : bound on ``|b - A x| / |b|`` of each column; default 1e-10 in float64, 1e-5 in float32
    x0 : start, of the shape of x; None means zero
    maxiter : most steps; default 10 n + 50, at most 20000
    callback : called with x after every step
    return_info : also return a `SolveInfo`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use `solve`.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a matrix seen not to be Hermitian or not to be positive definite
    ConvergenceError : the tolerance was not met, or 50 steps in a row brought nothing; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    A step takes the A-norm of the error to its least along the direction, so that no model can make it grow. The
    residual is computed anew after every step: two products with A and one call of the model.

    References
    ----------
    "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems"

    Examples
    --------
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> x, info = deep_cg(A, torch.tensor([1.0, 2.0]), lambda R: R, return_info=True)
    >>> x, info.iterations
    (tensor([0.0909, 0.6364]), 2)
    """
    if isinstance(history, bool) or not isinstance(history, int) or history < 0:
        raise ValueError(f"history must be an int of at least 0, got {history!r}")
    if not callable(model):
        raise TypeError(f"model must be a function of a block of residuals, got {type(model).__name__}")
    given = prepare("deep_cg", A, b, rtol=rtol, M=None, x0=x0, maxiter=maxiter, callback=callback, hermitian=True)
    return answer(given, _directions_of(model, history), return_info)


def _directions_of(model: Callable[[Tensor], Tensor], history: int) -> Method:
    """The run with the directions of a model."""

    def run(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
        B, X = R, torch.zeros_like(R)
        norms = least = torch.linalg.vector_norm(R, dim=0)
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        norms_so_far: list[Tensor] = []
        step = idle = 0
        while step < limit and idle < _PATIENCE and not bool((norms <= goal).all()):
            D = _call(model, R * quotient(torch.ones_like(norms), norms).to(R.dtype))
            for E, AE, size in kept:
                D = D - E * quotient(torch.linalg.vecdot(AE, D, dim=0), size.to(D.dtype))
            AD = system.multiply(D)
            curvature = real_dots(D, AD)
            along = torch.linalg.vecdot(D, R, dim=0)
            going = norms > goal
            _check(curvature, D, going)
            X = X + D * torch.where(going, quotient(along, curvature.to(D.dtype)), 0)
            kept = [*kept, (D, AD, curvature)][-history:] if history else []
            R = B - system.multiply(X)
            norms = torch.linalg.vector_norm(R, dim=0)
            norms_so_far.append(norms)
            better = bool(((norms < least) & going).any())
            least, idle, step = torch.minimum(least, norms), 0 if better else idle + 1, step + 1
            system.show(X)
        return Run(X, norms_so_far, step, 2 * step * R.shape[1])

    return run


def _call(model: Callable[[Tensor], Tensor], R: Tensor) -> Tensor:
    D = model(R)
    if not isinstance(D, Tensor) or D.shape != R.shape:
        shape = tuple(D.shape) if isinstance(D, Tensor) else type(D).__name__
        raise ValueError(f"model must return a tensor of the shape of its argument, {tuple(R.shape)}, got {shape}")
    D = D.to(R)
    # Only directions count: of any length, their squares shall be in the range of the dtype.
    top = D.abs().amax(0)
    return D * quotient(torch.ones_like(top), top).to(D.dtype)


def _check(curvature: Tensor, D: Tensor, going: Tensor) -> None:
    size = torch.linalg.vector_norm(D, dim=0)
    bad = going & ~(curvature > 0) & ~(size == 0)
    if not bool(bad.any()):
        return
    value = float(curvature[bad].min())
    if value == value:
        raise ValueError(f"A must be positive definite, but d^H A d = {value:.3g} for some d")
    raise ValueError("the product with A, or the model, returned NaN or infinity")
