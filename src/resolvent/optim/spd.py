"""Momentum for positive definite matrices, in coordinates in which it is that of flat space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.optim.optimizer import check
from resolvent.optim.spd_structure import Structure, pattern

Truncation = Literal[1, 2, "exp"]


def spd_momentum(
    grad: Callable[[Any], Any],
    A0: Any,
    steps: int = 1000,
    lr: float = 0.1,
    momentum: float = 0.9,
    *,
    rtol: float | None = 1e-6,
    structure: Structure = "dense",
    rank: int = 1,
    truncation: Truncation = 2,
    local: bool = False,
    return_info: bool = False,
) -> Any:
    r"""Minimise a function of a positive definite matrix :math:`\tau = A A^T` over its factor:
    :math:`M \leftarrow \beta M + \tfrac12 A^T\nabla f(\tau) A`, :math:`A \leftarrow A\,h(-\eta M)`, with :math:`h \approx \exp`.

    Parameters
    ----------
    grad : of the matrix, (*batch, n, n) -> (*batch, n, n): the symmetric gradient of f, which may be noisy
    A0 : (*batch, n, n) the factor to start from, invertible and of the structure; floating, real
    steps : at most
    lr : step size eta. Where f is tr(S tau) - log det(tau), 1 is Newton's step at the minimum
    momentum : beta, in [0, 1)
    rtol : stop when a step without noise would change no matrix by more than this, relatively: eta |M'| / (1 - beta) <= rtol for the
        gradient part M' of M. None: take all steps and ask nothing, as for noisy gradients
    structure : the group in which A stays: "dense", "diag", "lowrank" (the inverse of tau is a diagonal plus a matrix of rank `rank`) or
        "hierarchical" (`rank` full rows at the top, `rank` at the bottom, a diagonal between them)
    rank : of "lowrank" and "hierarchical"
    truncation : h: the first two or three terms of the exponential (1, 2), or all of it ("exp")
    local : `grad` takes A and returns :math:`A^T\nabla f(A A^T) A` itself, for functions in which that needs no inverse
    return_info : also return `Info`; its error is that of `rtol`

    Returns
    -------
    A, of the kind, dtype and device of `A0`; with `return_info` a pair with `Info`.

    Raises
    ------
    ConvergenceError : `rtol` was not reached, or the iteration left the finite numbers: `lr` is too large. Carries the last finite A.
    ValueError, TypeError : A0 is not square, has entries outside of its structure, or a number is out of range.

    Notes
    -----
    Exponential coordinates at the current point, :math:`\tau = A e^{W} A^T`, make the affine-invariant metric the identity there, so
    the momentum of flat space serves and is carried along without transport; the sparse groups weigh their entries so that this holds.
    Without momentum, "dense" with "exp" is Riemannian gradient descent along exact geodesics. A step costs three or four products n x n and no
    decomposition. Of symmetric M, the second truncation is always positive definite, so that A stays invertible for every `lr`. There is no
    gradient through the result.

    References
    ----------
    "Simplifying Momentum-based Positive-definite Submanifold Optimization with Applications to Deep Learning"

    Examples
    --------
    The inverse of a matrix, as the minimum of tr(S X) - log det X, by products alone:

    >>> S = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> A = spd_momentum(lambda A: A.T @ S @ A - torch.eye(2), torch.eye(2), lr=0.3, momentum=0.5, local=True)
    >>> (A @ A.T @ S).round(decimals=4)
    tensor([[1., 0.],
            [0., 1.]])
    """
    start, kind = as_tensor(A0, "A0")
    weights = _checked(start, steps, lr, momentum, rtol, structure, rank, truncation)
    A, M = start.detach().clone(), torch.zeros_like(start)
    used, error, finite = 0, math.inf, True
    for used in range(steps + 1):
        G = _local_gradient(grad, A, local, kind)
        step = weights * (G + G.mT) / 4
        if rtol is not None:
            error = float(lr / (1 - momentum) * _size(step))
            if error <= rtol:
                break
        if used == steps:
            break
        M = momentum * M + step
        moved = A @ _exponential(-lr * M, truncation)
        finite = bool(torch.isfinite(moved).all())
        if not finite:
            break
        A = moved
    error = error if finite and rtol is not None else float(lr / (1 - momentum) * _size(step)) if finite else math.inf
    converged = finite and (rtol is None or error <= rtol)
    info = Info("normal coordinates", iterations=used, error=error, converged=converged)
    value = give_back(A, kind)
    result = (value, info) if return_info else value
    if not converged:
        reason = f"reached {error:.3g} in {used} steps" if finite else f"left the finite numbers in step {used + 1}"
        raise ConvergenceError(
            f"spd_momentum: {reason}, asked for rtol={rtol}; a smaller lr or more steps may help",
            best=result,
            error=error,
            info=info,
        )
    return result


def _checked(
    A: Tensor, steps: int, lr: float, momentum: float, rtol: float | None, structure: str, rank: int, truncation: Any
) -> Tensor:
    """The weights of the structure, if all is well."""
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0:
        raise ValueError(f"A0 must be a square matrix or a batch of them, got shape {tuple(A.shape)}")
    if A.is_complex():
        raise TypeError(f"A0 must be real, got {A.dtype}")
    check_finite(A, "A0")
    check("lr", lr, above=True)
    check("momentum", momentum, 0.0, 1.0, below=True)
    if rtol is not None:
        check("rtol", rtol, above=True)
    for name, count in (("steps", steps), ("rank", rank)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {count!r}")
    if truncation not in (1, 2, "exp"):
        raise ValueError(f"truncation must be 1, 2 or 'exp', got {truncation!r}")
    weights = pattern(structure, A.shape[-1], rank).to(A)
    if bool((A.detach() * (weights == 0)).any()):
        raise ValueError(f"A0 must have the structure {structure!r}: entries outside of it are not 0")
    return weights


def _local_gradient(grad: Callable[[Any], Any], A: Tensor, local: bool, kind: Any) -> Tensor:
    point = A if local else A @ A.mT
    G, _ = as_tensor(grad(give_back(point, kind)), "grad's result")
    if G.shape != A.shape:
        raise ValueError(f"grad must return a matrix of shape {tuple(A.shape)}, got {tuple(G.shape)}")
    G = G.detach().to(A)
    return G if local else A.mT @ G @ A


def _size(step: Tensor) -> Tensor:
    """The largest norm of a batch."""
    return torch.linalg.matrix_norm(step.double()).amax()


def _exponential(X: Tensor, truncation: Truncation) -> Tensor:
    if truncation == "exp":
        from resolvent.functions import expm

        return expm(X)
    eye = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    return eye + X if truncation == 1 else eye + X + 0.5 * (X @ X)
