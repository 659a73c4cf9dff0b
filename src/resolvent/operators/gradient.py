"""First-order gradients of spectral quantities for one more product, without recording an iteration.

With u and v held fixed the derivative of a singular value is that of ``u^H (A @ v)``, of an eigenvalue that of
``x^H (A @ x)``, of a log-determinant that of a mean of ``(A^{-1} z)^H (A @ z)``. A method computes its value without
autograd, builds such a surrogate from recorded products, and joins the two with `first_order`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from resolvent.operators.operator import Operator


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        ctx.real = not surrogate.is_complex()
        return value.clone()

    # The surrogate holds the vectors fixed, so its second derivative would be wrong: refuse it.
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (grad,) = grads
        return None, grad.real if ctx.real and grad.is_complex() else grad


def first_order(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value` with the first-order gradient of `surrogate`, which has the same shape. A second derivative raises.

    Examples
    --------
    >>> A = torch.diag(torch.tensor([3.0, 1.0])).requires_grad_()
    >>> e = torch.tensor([1.0, 0.0])
    >>> sigma = first_order(torch.tensor(3.0), e @ (A @ e))
    >>> torch.autograd.grad(sigma, A)[0]
    tensor([[1., 0.],
            [0., 0.]])
    """
    return _Attach.apply(value.detach(), surrogate)


def bilinear(u: Tensor, Av: Tensor) -> Tensor:
    """``u^H (A v)`` column by column, u held fixed: (..., n, k), (..., n, k) -> (..., k).

    Examples
    --------
    >>> bilinear(torch.ones(2, 1), torch.tensor([[1.0], [2.0]]))
    tensor([3.])
    """
    return (u.detach().conj() * Av).sum(-2)


def records(A: Operator) -> bool:
    """Whether autograd would record a product with `A`; an operator of unknown callables is tried once."""
    if not torch.is_grad_enabled():
        return False
    known = A.requires_grad
    if known is not None:
        return known
    probe = torch.zeros(*A.shape[:-2], A.shape[-1], 1, dtype=A.dtype, device=A.device)
    return bool((A @ probe).requires_grad)
