"""The second moment of matrix gradients as one Kronecker product: the best one, and those of Shampoo."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions import sqrtm
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back

_LIMIT = 2000


def kronecker_approximation(
    grads: Any,
    method: Literal["optimal", "shampoo2", "shampoo"] = "optimal",
    *,
    rtol: float | None = None,
    return_info: bool = False,
) -> Any:
    r"""Factors with :math:`H = E[\operatorname{vec}(G) \operatorname{vec}(G)^T] \approx L \otimes R`, from samples of gradients.

    Parameters
    ----------
    grads : (samples, m, n) gradients of a matrix: of single examples, for labels drawn from the model (Fisher) or those of the data
        (empirical Fisher), or of batches
    method : "optimal": the nearest product in the Frobenius norm, the leading singular pair of the rearranged H; "shampoo2":
        E[G G^T] and E[G^T G] over the root of their trace, which is one step of the power iteration for it from the identity;
        "shampoo": E[G G^T]^(1/2) and E[G^T G]^(1/2), to which the original Shampoo corresponds
    rtol : bound on the relative error of both factors for "optimal"; default 1e-10, in float32 1e-5
    return_info : also return an `Info`

    Returns
    -------
    L : (m, m), symmetric positive semidefinite, with kron(L, R) for the order of `G.flatten()`
    R : (n, n), likewise; for "optimal" of the norm of L

    Raises
    ------
    ValueError : not three axes, no sample, NaN, an unknown method, or gradients that ask for a gradient, which there is none of.
    ConvergenceError : the two largest singular values are too close; carries the best pair.

    Notes
    -----
    Power iteration L <- E[G R G^T], R <- E[G^T L G] without H: 2 m n (m + n) flops a sample and half step. Its error falls by the ratio of
    the singular values of the rearranged H in every half step and is estimated from two successive changes.

    References
    ----------
    "A New Perspective on Shampoo's Preconditioner"

    Examples
    --------
    >>> G = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    >>> L, R = kronecker_approximation(G, "shampoo2")
    >>> L
    tensor([[1., 0.],
            [0., 1.]])
    """
    G, kind = _samples(grads)
    if method not in ("optimal", "shampoo2", "shampoo"):
        raise ValueError(f"method must be 'optimal', 'shampoo2' or 'shampoo', got {method!r}")
    if rtol is None:
        rtol = 1e-10 if G.dtype == torch.float64 else 1e-5
    if not rtol > 0:
        raise ValueError(f"rtol must be positive, got {rtol!r}")
    info = Info(method)
    if method == "optimal":
        L, R, info = _optimal(G, rtol)
    else:
        L, R = _moment(G, None), _moment(G.mT, None)
        if method == "shampoo2":
            # Both have the trace E |G|^2, so that the product has it too.
            size = L.trace().sqrt()
            size = torch.where(size > 0, size, torch.ones_like(size))
            L, R = L / size, R / size
        else:
            L, R = sqrtm(L), sqrtm(R)
    found = (give_back(L, kind), give_back(R, kind))
    if not info.converged:
        raise ConvergenceError(
            f"kronecker_approximation: a relative error of {info.error:.1e} after {info.iterations} iterations, above "
            f"rtol = {rtol:.1e}: the two largest singular values of the rearranged moment are too close",
            best=found,
            error=info.error,
            info=info,
        )
    return (*found, info) if return_info else found


def kronecker_similarity(grads: Any, L: Any, R: Any) -> float:
    r"""The cosine between the second moment H of gradients and :math:`L \otimes R`, without forming either.

    Parameters
    ----------
    grads : (samples, m, n) gradients
    L, R : (m, m) and (n, n)

    Returns
    -------
    <H, L kron R> / (|H| |L| |R|) in the Frobenius norm.

    Raises
    ------
    ValueError : shapes that do not fit, or NaN.

    Notes
    -----
    <H, L kron R> is the mean of <G, L G R^T>, and |H|^2 the mean square of the inner products of the samples:
    samples^2 m n flops.

    References
    ----------
    "A New Perspective on Shampoo's Preconditioner"

    Examples
    --------
    >>> G = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    >>> L, R = kronecker_approximation(G)
    >>> worse = kronecker_similarity(G, torch.eye(3), torch.eye(2))
    >>> worse < kronecker_similarity(G, L, R) <= 1
    True
    """
    G, _ = _samples(grads)
    (left, _), (right, _) = as_tensor(L, "L"), as_tensor(R, "R")
    m, n = G.shape[1:]
    for name, factor, side in (("L", left, m), ("R", right, n)):
        if tuple(factor.shape) != (side, side):
            raise ValueError(
                f"{name} must have shape {(side, side)} for gradients of {m} x {n}, got {tuple(factor.shape)}"
            )
        check_finite(factor, name)
    left, right = left.to(G), right.to(G)
    inner = (G * (left @ G @ right.mT)).sum() / len(G)
    rows = G.flatten(1)
    size = (
        torch.linalg.matrix_norm(rows @ rows.mT)
        / len(G)
        * torch.linalg.matrix_norm(left)
        * torch.linalg.matrix_norm(right)
    )
    return float(inner / size) if float(size) > 0 else 0.0


def _samples(grads: Any) -> tuple[Tensor, Any]:
    G, kind = as_tensor(grads, "grads")
    if G.ndim != 3 or 0 in G.shape:
        raise ValueError(f"grads must have shape (samples, m, n) without zeros, got {tuple(G.shape)}")
    if G.is_complex():
        raise ValueError("grads must be real")
    if torch.is_grad_enabled() and G.requires_grad:
        raise ValueError("grads asks for a gradient, which the factors have none of: give grads.detach()")
    check_finite(G, "grads")
    return G, kind


def _moment(G: Tensor, weight: Tensor | None) -> Tensor:
    """E[G W G^T], symmetric to the bit."""
    flat = G.transpose(0, 1).flatten(1)
    other = flat if weight is None else (G @ weight).transpose(0, 1).flatten(1)
    M = other @ flat.mT / len(G)
    return (M + M.mT) / 2


def _optimal(G: Tensor, rtol: float) -> tuple[Tensor, Tensor, Info]:
    scale = G.abs().amax()
    if not bool(scale > 0):
        m, n = G.shape[1:]
        return G.new_zeros(m, m), G.new_zeros(n, n), Info("optimal")
    G = G / scale
    R = _unit(_moment(G.mT, None))
    change, rate, error = 1.0, 1.0, 1.0
    floor = 8 * torch.finfo(G.dtype).eps
    L = _moment(G, R)
    for iteration in range(1, _LIMIT + 1):
        L = _moment(G, R)
        value = torch.linalg.matrix_norm(L)
        new = _unit(_moment(G.mT, L / value))
        last, change = change, float(torch.linalg.matrix_norm(new - R))
        R = new
        # The changes form a geometric series near the end; what is left of it is the error.
        rate = min(change / last, 0.9999) if last > 0 else 0.0
        error = change * rate / (1 - rate) + floor
        if iteration > 1 and error <= rtol:
            break
    size = torch.linalg.matrix_norm(_moment(G, R))
    root = scale * size.sqrt()
    L = _unit(_moment(G, R))
    return root * L, root * R, Info("optimal", iterations=iteration, error=error, converged=error <= rtol)


def _unit(M: Tensor) -> Tensor:
    return M / torch.linalg.matrix_norm(M)
