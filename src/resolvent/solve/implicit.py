"""Gradients of solutions without recorded iterations: the adjoint system, solved by the method that solved the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.gradient import records
from resolvent.operators.operator import Operator

# (right-hand sides, whether of the adjoint) -> solutions, not recorded by autograd
Inverse = Callable[[Tensor, bool], Tensor]


def differentiable(A: Operator, B: Tensor, inverse: Inverse) -> Tensor:
    r"""X = A^{-1} B with gradients to B and to the tensors inside A.

    With :math:`Y = A^{-H} G` for the gradient G of X, that of B is Y and that of A is :math:`-Y X^H`, which one recorded
    product carries on to whatever A is made of. First and second derivatives; the first alone where the tensors inside A
    are unknown.

    Parameters
    ----------
    A : (*batch, n, n) operator
    B : (*batch, n, k)
    inverse : solves with A and with its adjoint
    """
    if not torch.is_grad_enabled():
        return inverse(B, False)
    recorded = records(A)
    if not recorded and not B.requires_grad:
        return inverse(B, False)
    # A tensor may stand in several places; its gradient comes once.
    tensors = list({id(t): t for t in A.tensors() if t.requires_grad}.values())
    if tensors or not recorded:
        return _Solution.apply(B, A, inverse, False, *tensors)
    X = inverse(B.detach(), False)
    return _Residual.apply(X, _times(A, X), B, inverse)


def _times(A: Operator, X: Tensor) -> Tensor:
    return A._matmul(X) if X.dtype == A.dtype else A._apply(X, "torch")


class _Solution(torch.autograd.Function):
    """X of A X = B, or of A^H X = B, with first and second derivatives."""

    @staticmethod
    def forward(ctx: Any, B: Tensor, A: Operator, inverse: Inverse, adjoint: bool, *tensors: Tensor) -> Tensor:
        X = inverse(B.detach(), adjoint)
        ctx.A, ctx.inverse, ctx.adjoint, ctx.shape, ctx.real = A, inverse, adjoint, B.shape, not B.is_complex()
        ctx.save_for_backward(X, *tensors)
        return X

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        X, *tensors = ctx.saved_tensors
        Y = _Solution.apply(grad, ctx.A, ctx.inverse, not ctx.adjoint, *tensors)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[4:]) if needed]
        found: list[Tensor | None] = [None] * len(tensors)
        if wanted:
            left, right = (Y, X) if ctx.adjoint else (X, Y)
            pulled = _Pulled.apply(left, right, ctx.A, *(tensors[i] for i in wanted))
            for i, g in zip(wanted, pulled, strict=True):
                found[i] = g
        back = Y.sum_to_size(ctx.shape)
        return back.real if ctx.real and back.is_complex() else back, None, None, None, *found


class _Pulled(torch.autograd.Function):
    """The gradients of -Re <Y, A X> to tensors inside A, X and Y held fixed: what a product carries back."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, Y: Tensor, A: Operator, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(X, Y, *tensors)
        ctx.A = A
        return tuple(_pull(A, X.detach(), Y.detach(), tensors, again=False))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        with torch.no_grad():
            found = _Pulled._second(ctx.A, saved, tuple(g.detach() for g in grads))
        return refusing(found, saved, "solve has first and second derivatives, and no third")

    @staticmethod
    def _second(A: Operator, saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        X, Y, *tensors = saved
        # Leaves of their own: X and Y depend on the tensors too, and the outer graph knows how.
        X, Y = (t.detach().requires_grad_() for t in (X, Y))
        with torch.enable_grad():
            pulled = _pull(A, X, Y, tuple(tensors), again=True)
            linked = [(g, h) for g, h in zip(pulled, grads, strict=True) if g.requires_grad]
            if not linked:
                return (None,) * (3 + len(tensors))
            first, second = zip(*linked, strict=True)
            found = torch.autograd.grad(first, [X, Y, *tensors], second, allow_unused=True)
        return (*found[:2], None, *found[2:])


def _pull(A: Operator, X: Tensor, Y: Tensor, tensors: tuple[Tensor, ...], again: bool) -> list[Tensor]:
    with torch.enable_grad():
        found = torch.autograd.grad(_times(A, X), tensors, -Y, create_graph=again, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]


class _Residual(torch.autograd.Function):
    """X with the first-order gradients of A^{-1} (B - A X0) at X0 = X."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, product: Tensor, B: Tensor, inverse: Inverse) -> Tensor:
        ctx.inverse, ctx.shape = inverse, B.shape
        ctx.real = [not product.is_complex(), not B.is_complex()]
        ctx.save_for_backward(product, B)
        return X.clone()

    # X is held fixed in the product, so that a second derivative would be wrong: refuse it.
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            Y = ctx.inverse(grad, True)
            grads = [g.real if real and g.is_complex() else g for g, real in zip((-Y, Y), ctx.real, strict=True)]
            found = (None, grads[0], grads[1].sum_to_size(ctx.shape), None)
        return refusing(
            found, (grad, *ctx.saved_tensors), "solve has first derivatives only where the operator hides its tensors"
        )


class _Refusing(torch.autograd.Function):
    """The identity on a gradient whose own derivative is not known here."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, message: str, *anchors: Tensor) -> Tensor:
        ctx.message = message
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(ctx.message)


def refusing(grads: tuple[Tensor | None, ...], anchors: tuple[Tensor, ...], message: str) -> tuple[Tensor | None, ...]:
    """Gradients that raise where they are differentiated once more, by way of the tensors that they depend on.

    Without that a further derivative would be taken for zero where the loss is linear.
    """
    if not torch.is_grad_enabled():
        return grads
    return tuple(None if g is None else _Refusing.apply(g, message, *anchors) for g in grads)
