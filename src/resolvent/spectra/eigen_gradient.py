r"""First-order gradients of eigenpairs from one recorded product, for dense and for iterative decompositions.

For a Hermitian A with :math:`A v_i = w_i v_i`

.. math:: dw_i = v_i^H\,dA\,v_i, \qquad dv_i = (w_i - A)^+ dA\, v_i,

so both are functions of the block ``A @ V`` with V held fixed. Autograd carries the gradient of that block on to
whatever A is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError

Rest = Callable[[Tensor, Tensor], Tensor]


class _Pairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, AV: Tensor, w: Tensor, V: Tensor, known: Tensor, basis: Tensor, rest: Rest | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(AV, w, V, known, basis)
        ctx.rest = rest
        ctx.set_materialize_grads(False)
        return w.clone(), V.clone()

    @staticmethod
    def backward(ctx: Any, grad_w: Tensor | None, grad_V: Tensor | None) -> tuple[Tensor | None, ...]:
        AV, w, V, known, basis = ctx.saved_tensors
        grad = None
        with torch.no_grad():
            if grad_w is not None:
                grad = V * grad_w.to(V.dtype).unsqueeze(-2)
            if grad_V is not None and bool((grad_V != 0).any()):
                part = _resolvent(grad_V, w, known, basis, ctx.rest)
                grad = part if grad is None else grad + part
        # `once_differentiable` lets a second derivative through, as zero, where the loss is linear in w.
        if grad is not None and torch.is_grad_enabled():
            grad = _Last.apply(grad, AV)
        return grad, None, None, None, None, None


class _Last(torch.autograd.Function):
    """The identity on a gradient that depends on AV in a way that is not known here."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, AV: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        raise RuntimeError("eigenpairs have first-order gradients only: a second derivative needs torch.linalg.eigh")


def _resolvent(G: Tensor, w: Tensor, known: Tensor, basis: Tensor, rest: Rest | None) -> Tensor:
    """(w_i - A)^+ g_i, from the known eigenpairs and a solve in the complement of their span."""
    coordinates = basis.mH @ G
    gaps = w.unsqueeze(-2) - known.unsqueeze(-1)
    scale = known.abs().amax(-1).clamp(min=torch.finfo(known.dtype).tiny)[..., None, None]
    # Equal eigenvalues: a loss that does not depend on the choice of the basis has no component there.
    apart = gaps.abs() > 1e3 * torch.finfo(known.dtype).eps * scale
    inverse = torch.where(apart, 1 / torch.where(apart, gaps, 1), 0)
    out = basis @ (coordinates * inverse.to(G.dtype))
    if rest is None:
        return out
    outside = G - basis @ coordinates
    outside = outside - basis @ (basis.mH @ outside)
    return out + rest(w, outside)


def differentiable_pairs(
    AV: Tensor, w: Tensor, V: Tensor, known: Tensor, basis: Tensor, rest: Rest | None
) -> tuple[Tensor, Tensor]:
    """(w, V) with their first-order gradients with respect to AV.

    Parameters
    ----------
    AV : (..., n, k), the recorded product of the operator with V
    w, V : (..., k), (..., n, k), computed without autograd
    known, basis : (..., j), (..., n, j), all the eigenpairs at hand, these included
    rest : (w, G) -> Y with (w_i - A) y_i = g_i in the complement of `basis`; None if there is no complement.
        It is called only if a loss depends on V.
    """
    return _Pairs.apply(AV, w.detach(), V.detach(), known.detach(), basis.detach(), rest)


def projected_solve(multiply: Callable[[Tensor], Tensor], basis: Tensor, rtol: float, limit: int) -> Rest:
    """The `rest` of `differentiable_pairs` by MINRES in the complement of `basis`, all columns in one product.

    Raises
    ------
    ConvergenceError : when called, if `limit` products leave a relative residual above `rtol`
    """

    def project(X: Tensor) -> Tensor:
        return X - basis @ (basis.mH @ X)

    def solve(w: Tensor, G: Tensor) -> Tensor:
        with torch.no_grad():
            return _minres(lambda X: project(w.to(X.dtype) * X - multiply(X.contiguous())), G, rtol, limit)

    return solve


def _minres(apply: Callable[[Tensor], Tensor], B: Tensor, rtol: float, limit: int) -> Tensor:
    """Minimal residuals for k systems with the same structure: (n, k) -> (n, k)."""
    X, R = torch.zeros_like(B), B.clone()
    norms = torch.linalg.vector_norm(B, dim=0)
    goal = rtol * norms.clamp(min=rtol * norms.max())
    p0, s0 = R.clone(), apply(R)
    p1 = s1 = p2 = s2 = torch.zeros_like(B)
    for step in range(limit):
        # A look at the residual costs a synchronisation; it is due now and then only.
        if step % 8 == 0 and bool((torch.linalg.vector_norm(R, dim=0) <= goal).all()):
            return X
        p2, p1 = p1, p0
        s2, s1 = s1, s0
        square1 = _dots(s1, s1)
        alpha = _quotient(_dots(s1, R), square1)
        X = X + alpha * p1
        R = R - alpha * s1
        s0 = apply(s1)
        beta = _quotient(_dots(s1, s0), square1)
        p0, s0 = s1 - beta * p1, s0 - beta * s1
        if step:
            beta = _quotient(_dots(s2, s0), _dots(s2, s2))
            p0, s0 = p0 - beta * p2, s0 - beta * s2
    error = float((torch.linalg.vector_norm(R, dim=0) / norms.clamp(min=torch.finfo(norms.dtype).tiny)).max())
    if error <= rtol:
        return X
    raise ConvergenceError(
        f"the gradient of the vectors needs a solve that left a residual of {error:.2g} (asked for {rtol:.2g}) after "
        f"{limit} products: the wanted eigenvalues are too close to the others; ask for more of them (a larger k)",
        best=X,
        error=error,
    )


def _dots(X: Tensor, Y: Tensor) -> Tensor:
    return (X.conj() * Y).sum(0)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    good = b.abs() > 0
    return torch.where(good, a / torch.where(good, b, 1), 0)
