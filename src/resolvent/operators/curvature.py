"""Positive curvature of a model's loss as operators: Gauss-Newton and Fisher matrices that stream over mini-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resolvent.operators.models import Curvature, Reduction
from resolvent.operators.operator import Operator
from resolvent.operators.parameters import (
    Parameters,
    Params,
    Route,
    batch_size,
    check_chunk,
    check_data,
    push_forward,
    warn_if_random,
)

# The Hessian of a summed loss in the outputs: (outputs, targets) -> (u -> H u, the count of its mean).
_Outer = Callable[[Tensor, Any], tuple[Callable[[Tensor], Tensor], Any]]


def _classes(outputs: Tensor) -> int:
    """The axis of classes, as in `torch.nn.functional.cross_entropy`."""
    return 0 if outputs.ndim == 1 else 1


def _cross_entropy(outputs: Tensor, targets: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
    axis = _classes(outputs)
    p = outputs.softmax(axis)
    count: Any = outputs.numel() // outputs.shape[axis]
    if isinstance(targets, Tensor) and not targets.is_floating_point():
        # Targets of -100 are ignored, as in torch.
        kept = (targets != -100).unsqueeze(axis)
        count = kept.sum()
        return lambda u: kept * p * (u - (p * u).sum(axis, keepdim=True)), count
    return lambda u: p * (u - (p * u).sum(axis, keepdim=True)), count


def _mse(outputs: Tensor, targets: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
    return lambda u: 2 * u, outputs.numel()


def _binary(outputs: Tensor, targets: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
    p = outputs.sigmoid()
    return lambda u: p * (1 - p) * u, outputs.numel()


def _gaussian(outputs: Tensor, targets: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
    return lambda u: u, outputs.shape[0]


def _per_sample(outer: _Outer) -> _Outer:
    """The same Hessian with the mean over samples instead of over outputs."""
    return lambda outputs, targets: (outer(outputs, targets)[0], outputs.shape[0])


_LOSSES: dict[str, _Outer] = {"cross-entropy": _cross_entropy, "mse": _mse, "binary-cross-entropy": _binary}
_FISHER: dict[str, _Outer] = {
    "categorical": _per_sample(_cross_entropy),
    "gaussian": _gaussian,
    "bernoulli": _per_sample(_binary),
}


def _call(model: Any, inputs: Any) -> Any:
    return model(inputs)


def _model(model: Any, params: Params | None, differentiable: bool) -> tuple[Parameters, Callable[..., Any]]:
    """The parameters, and the outputs as a function of (dict of tensors, inputs)."""
    if isinstance(model, nn.Module):
        if params is not None:
            raise ValueError("params must be None for a Module: its parameters that require gradients are used")
        warn_if_random(model)
        parameters = Parameters(model, differentiable)
        return parameters, parameters.bind(_call)
    if params is None or isinstance(params, nn.Module):
        raise ValueError("params must be the tensors of a functional model, which is called as model(params, inputs)")
    parameters = Parameters(params, differentiable)
    return parameters, parameters.bind(model)


def _inputs_and_targets(batch: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(batch) not in (1, 2):
        raise ValueError(f"a batch of data must be (inputs, targets), got {len(batch)} items")
    return batch[0], batch[1] if len(batch) == 2 else None


def _sandwich(outputs: Callable[..., Tensor], tree: dict[str, Tensor], middle: Any, route: Route) -> Callable[..., Any]:
    """v -> J^T middle(J v) for the Jacobian J of the outputs."""

    def product(v: dict[str, Tensor]) -> dict[str, Tensor]:
        Jv = push_forward(outputs, tree, v, route)
        return torch.func.vjp(outputs, tree)[1](middle(Jv))[0]

    return product


def gauss_newton(
    model: nn.Module | Callable[..., Tensor],
    loss: Literal["cross-entropy", "mse", "binary-cross-entropy"] | Callable[[Tensor, Any], Tensor],
    data: Any,
    *,
    params: Params | None = None,
    reduction: Reduction = "mean",
    chunk: int = 16,
    differentiable: bool = False,
) -> Operator:
    r"""The generalised Gauss-Newton matrix :math:`\sum_i J_i^T\, \nabla^2_f \ell(f_i, y_i)\, J_i`, without forming it.

    Parameters
    ----------
    model : a Module called as `model(inputs)`, or a function `model(params, inputs)` -> outputs
    loss : the loss of the outputs. "cross-entropy" (classes on axis 1), "mse" and "binary-cross-entropy" (of logits)
        mean the same as torch's functions; a callable `loss(outputs, targets)` -> scalar is differentiated twice.
    data : one batch `(inputs, targets)`, or an iterable of batches that can be read again
    params : the tensors of a functional model (a tensor, a list or a dict); None for a Module
    reduction : "mean" (over all that the loss averages, in all batches; a callable's batches are weighted by their
        sizes) or "sum"
    chunk : directions that run at once by vmap
    differentiable : record products for gradients in the parameters

    Returns
    -------
    Hermitian Operator of shape (n, n), n the number of parameters; positive for the named losses, which are convex.

    Raises
    ------
    TypeError, ValueError : an unknown loss, data that can be read only once, parameters of several dtypes

    Notes
    -----
    One forward-mode and one reverse-mode pass per direction and batch; the Hessian of the named losses in closed form
    (for cross-entropy diag(p) - p p^T). Where the model is linear in its parameters, or the loss has a zero gradient in
    the outputs, G is the Hessian.

    References
    ----------
    "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent"

    Examples
    --------
    >>> x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]])
    >>> G = gauss_newton(torch.nn.Linear(2, 1, bias=False), "mse", (x, y))
    >>> G.to_dense()
    tensor([[2., 4.],
            [4., 8.]])
    """
    check_data(data)
    check_chunk(chunk)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} must be 'mean' or 'sum'")
    if not callable(loss) and loss not in _LOSSES:
        raise ValueError(f"loss={loss!r} must be callable or one of {', '.join(_LOSSES)}")
    parameters, outputs = _model(model, params, differentiable)
    route = Route("auto")

    def contribution(tree: dict[str, Tensor], batch: Any) -> tuple[Any, Any]:
        inputs, targets = _inputs_and_targets(batch)

        def predict(p: dict[str, Tensor]) -> Tensor:
            return outputs(p, inputs)

        if not callable(loss):
            middle, count = _LOSSES[loss](predict(tree), targets)
            return _sandwich(predict, tree, middle, route), count
        size = batch_size(batch) if reduction == "mean" else 1
        gradient = torch.func.grad(lambda f: loss(f, targets).reshape(()) * size)
        f = predict(tree)
        # The Hessian in the outputs is symmetric: the pull-back of the gradient is the product.
        return _sandwich(predict, tree, lambda u: torch.func.vjp(gradient, f)[1](u)[0], route), size

    return Curvature(
        "GaussNewton", parameters, contribution, data,
        mean=reduction == "mean", chunk=chunk, positive=not callable(loss),
    )  # fmt: skip


def _surprise(outputs: Tensor, targets: Tensor, likelihood: str) -> Tensor:
    """The negative log-likelihood of every sample, up to constants: (b,)."""
    if likelihood == "categorical":
        each = F.cross_entropy(outputs, targets, reduction="none")
    elif likelihood == "bernoulli":
        each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    else:
        each = 0.5 * (outputs - targets) ** 2
    return each.reshape(each.shape[0], -1).sum(1)


def fisher(
    model: nn.Module | Callable[..., Tensor],
    data: Any,
    likelihood: Literal["categorical", "gaussian", "bernoulli"] = "categorical",
    *,
    labels: Literal["model", "data"] = "model",
    params: Params | None = None,
    chunk: int = 16,
    differentiable: bool = False,
) -> Operator:
    r"""The Fisher information of a model, the mean of :math:`\nabla\log p\, \nabla\log p^T`, without forming it.

    Parameters
    ----------
    model : a Module called as `model(inputs)`, or a function `model(params, inputs)` -> outputs
    data : one batch `(inputs, targets)`, or an iterable of batches that can be read again; targets may be left out
        (batches of one item) with `labels="model"`
    likelihood : what the outputs are: logits of classes on axis 1, the mean of a unit Gaussian, or logits of bits
    labels : "model" for the exact mean over the labels as the model predicts them (the Fisher information), "data" for
        the labels in the data (the empirical Fisher)
    params : the tensors of a functional model (a tensor, a list or a dict); None for a Module
    chunk : directions that run at once by vmap
    differentiable : record products for gradients in the parameters

    Returns
    -------
    Positive Operator of shape (n, n), a mean over the samples (the first axis of the outputs).

    Raises
    ------
    TypeError, ValueError : an unknown likelihood, no targets for `labels="data"`, data that can be read only once

    Notes
    -----
    "model": J^T V J with the covariance V of the likelihood in closed form, one forward-mode and one reverse-mode pass.
    "data": the same two passes through the vector of the samples' losses, so that no per-sample gradient is stored; the
    samples must not influence each other in the model.

    References
    ----------
    "New Insights and Perspectives on the Natural Gradient Method"

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> fisher(torch.nn.Linear(2, 1, bias=False), [x], "gaussian").to_dense()
    tensor([[1., 2.],
            [2., 4.]])
    """
    check_data(data)
    check_chunk(chunk)
    if likelihood not in _FISHER:
        raise ValueError(f"likelihood={likelihood!r} must be one of {', '.join(_FISHER)}")
    if labels not in ("model", "data"):
        raise ValueError(f"labels={labels!r} must be 'model' or 'data'")
    parameters, outputs = _model(model, params, differentiable)
    route = Route("auto")

    def contribution(tree: dict[str, Tensor], batch: Any) -> tuple[Any, Any]:
        inputs, targets = _inputs_and_targets(batch)
        if labels == "model":
            middle, count = _FISHER[likelihood](outputs(tree, inputs), None)
            return _sandwich(lambda p: outputs(p, inputs), tree, middle, route), count
        if targets is None:
            raise ValueError('labels="data" needs batches (inputs, targets), got a batch without targets')
        count = batch_size((inputs, targets))
        return _sandwich(lambda p: _surprise(outputs(p, inputs), targets, likelihood), tree, lambda u: u, route), count

    return Curvature("Fisher", parameters, contribution, data, mean=True, chunk=chunk, positive=True)
