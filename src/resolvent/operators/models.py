"""Derivatives of models as operators: Jacobians, and Hessians that stream over mini-batches in fixed memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from resolvent.operators.operator import Operator
from resolvent.operators.parameters import (
    Mode,
    Parameters,
    Params,
    Route,
    batch_size,
    batches,
    by_chunks,
    check_chunk,
    check_data,
    columns,
    push_forward,
    warn_if_random,
)

Reduction = Literal["mean", "sum"]
# The product with one direction on one batch, and the weight of that batch in the mean.
Contribution = Callable[[dict[str, Tensor], Any], tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], Any]]


class Curvature(Operator):
    """A symmetric operator on a model's flat parameter vector, summed over mini-batches at every product.

    Built by `hessian`, `gauss_newton` and `fisher`. Memory: one batch times `chunk` directions.
    """

    def __init__(
        self,
        name: str,
        params: Parameters,
        contribution: Contribution,
        data: Any,
        *,
        mean: bool,
        chunk: int,
        positive: bool,
    ) -> None:
        first = next(iter(params.tensors.values()))
        n = sum(params.sizes)
        parts = tuple(params.tensors.values())
        super().__init__((n, n), dtype=first.dtype, device=first.device, hermitian=True, positive=positive, parts=parts)
        self._name = name
        self._params = params
        self._contribution = contribution
        self._data = data
        self._mean = mean
        self._chunk = chunk

    def _label(self) -> str:
        return super()._label().replace(type(self).__name__, self._name, 1)

    def _matmul(self, X: Tensor) -> Tensor:
        rows, back = columns(X)
        if rows.shape[0] == 0:
            return X.clone()
        # Recording would keep every batch's graph: only where a gradient can come out of it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and (X.requires_grad or bool(self.requires_grad))):
            return back(self._sum(rows))

    def _sum(self, rows: Tensor) -> Tensor:
        params = self._params
        total, weights = torch.zeros_like(rows), torch.zeros((), dtype=rows.dtype, device=rows.device)
        seen = 0
        for batch in batches(self._data, self.device):
            product, weight = self._contribution(params.tensors, batch)

            def apply(v: Tensor, product: Callable[..., Any] = product) -> Tensor:
                return params.flatten(product(params.unflatten(v)))

            total = total + by_chunks(apply, rows, self._chunk)
            weights = weights + weight
            seen += 1
        if seen == 0:
            raise ValueError("data holds no batch")
        return total / weights if self._mean else total

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        mapped = {name: fn(p) for name, p in self._params.tensors.items()}
        if any(p.dtype != self.dtype or p.device != self.device for p in mapped.values()):
            raise TypeError(f"a {self._name} operator cannot change dtype or device: move the model and build it again")
        params = Parameters.__new__(Parameters)
        params.__dict__.update(self._params.__dict__, tensors=mapped)
        return Curvature(
            self._name, params, self._contribution, self._data,
            mean=self._mean, chunk=self._chunk, positive=self.positive,
        )  # fmt: skip


class Jacobian(Operator):
    """The Jacobian of a function at a point; built by `jacobian`."""

    def __init__(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, mode: Mode, chunk: int) -> None:
        super().__init__((y.numel(), x.numel()), dtype=x.dtype, device=x.device, parts=(x,))
        self._f, self._x, self._y = f, x, y
        self._route = Route(mode)
        self._chunk = chunk

    def _flat(self, u: Tensor) -> Tensor:
        return self._f(u).reshape(-1)

    def _pull(self, u: Tensor) -> Tensor:
        return torch.func.vjp(self._flat, self._x)[1](u)[0].reshape(-1)

    def _push(self, v: Tensor) -> Tensor:
        return push_forward(self._flat, self._x, v.reshape(self._x.shape), self._route)

    def _run(self, apply: Callable[[Tensor], Tensor], X: Tensor, out: int) -> Tensor:
        rows, back = columns(X)
        if rows.shape[0] == 0:
            return back(rows.new_zeros(0, out))
        with torch.set_grad_enabled(torch.is_grad_enabled() and (X.requires_grad or self._x.requires_grad)):
            return back(by_chunks(apply, rows, self._chunk))

    def _matmul(self, X: Tensor) -> Tensor:
        return self._run(self._push, X, self.shape[-2])

    def _adjoint(self) -> Operator:
        return _JacobianAdjoint(self)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        x = fn(self._x)
        if x.dtype != self.dtype or x.device != self.device:
            raise TypeError("a Jacobian cannot change dtype or device: build it at a point of the other dtype")
        return Jacobian(self._f, x, self._y, self._route.mode, self._chunk)


class _JacobianAdjoint(Operator):
    def __init__(self, forward: Jacobian) -> None:
        m, n = forward.shape
        super().__init__((n, m), dtype=forward.dtype, device=forward.device, parts=(forward,))
        self._forward = forward

    def _matmul(self, X: Tensor) -> Tensor:
        return self._forward._run(self._forward._pull, X, self.shape[-2])

    def _adjoint(self) -> Operator:
        return self._forward

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return _JacobianAdjoint(self._forward._map(fn))  # type: ignore[arg-type]


def jacobian(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "*shape"],
    *,
    mode: Mode = "auto",
    chunk: int = 16,
) -> Operator:
    r"""The Jacobian of a function at a point, :math:`J = \partial f / \partial x`, without forming it.

    Parameters
    ----------
    f : a real tensor like `x` -> a real tensor of any shape, in torch operations
    x : the point, of any shape; `J` acts on its entries in row-major order
    mode : "forward-over-reverse" (products by forward mode, adjoints by reverse mode), "double-backward" for functions
        without forward-mode derivatives, or "auto", the first that torch can
    chunk : directions that run at once by vmap; 1 for functions that vmap does not take

    Returns
    -------
    Operator of shape (f(x).numel(), x.numel()).

    Raises
    ------
    TypeError : `x` or `f(x)` is not a real floating tensor

    Notes
    -----
    A product costs about two evaluations of `f`, an adjoint product about three. Gradients flow to `x` if it requires
    them; tensors that `f` closes over count as constants.

    Examples
    --------
    >>> J = jacobian(lambda x: x**2, torch.tensor([1.0, 2.0]))
    >>> J @ torch.tensor([1.0, 1.0])
    tensor([2., 4.])
    """
    check_chunk(chunk)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a real floating tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    with torch.no_grad():
        y = f(x)
    if not isinstance(y, Tensor) or y.dtype != x.dtype:
        raise TypeError(f"f(x) must be a tensor of dtype {x.dtype}, got {getattr(y, 'dtype', type(y).__name__)}")
    return Jacobian(f, x, y, mode, chunk)


def hessian(
    loss: Callable[..., Tensor],
    params: Params,
    data: Any = None,
    *,
    reduction: Reduction = "mean",
    mode: Mode = "auto",
    chunk: int = 16,
    differentiable: bool = False,
) -> Operator:
    r"""The Hessian of a loss in the parameters of a model, :math:`\nabla^2 L(\theta)`, without forming it.

    Parameters
    ----------
    loss : `loss(params, *batch)` -> a scalar tensor, where `params` has the form given: the module itself, with its
        parameters replaced, the tensor, the list or the dict. Without data, `loss(params)`.
    params : a Module (its parameters that require gradients), a tensor, a list of tensors or a dict
    data : one batch as a tuple of tensors, or an iterable of batches that can be read again (a list, a DataLoader),
        each a tuple, a list or a single argument. Tensors are moved to the parameters' device.
    reduction : "mean" if `loss` is a mean over the batch: batches are weighted by their sizes. "sum": they are added.
    mode : "forward-over-reverse", "double-backward" for losses without forward-mode derivatives, or "auto", the first
        that torch can
    chunk : directions that run at once by vmap; 1 for models that vmap does not take
    differentiable : record products for gradients in the parameters (third derivatives)

    Returns
    -------
    Hermitian Operator of shape (n, n) on the n parameters, in the order of `torch.nn.utils.parameters_to_vector`.

    Raises
    ------
    TypeError, ValueError : parameters of several dtypes, data that can be read only once, a loss that is not a scalar

    Notes
    -----
    A product with k vectors reads the data once; a direction costs about as much as two gradients.
    Memory: one batch times `chunk` directions. Attention runs as plain products, whose second derivatives exist.
    Parameters are read at every product, so that the operator follows
    training. Layers in train mode that are random or couple samples are warned of.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0])
    >>> H = hessian(lambda p: (p**3).sum(), x)
    >>> H.to_dense()
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    check_data(data)
    check_chunk(chunk)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} must be 'mean' or 'sum'")
    warn_if_random(params)
    route = Route(mode)
    parameters = Parameters(params, differentiable)
    value = parameters.bind(loss)

    def contribution(tree: dict[str, Tensor], batch: Any) -> tuple[Any, int]:
        size = batch_size(batch) if reduction == "mean" and data is not None else 1

        def scaled(p: dict[str, Tensor]) -> Tensor:
            out = value(p, *batch)
            if not isinstance(out, Tensor) or out.numel() != 1:
                raise ValueError(f"loss must return a scalar tensor, got {getattr(out, 'shape', type(out).__name__)}")
            return out.reshape(()) * size

        gradient = torch.func.grad(scaled)
        return (
            lambda v: route(
                lambda: torch.func.jvp(gradient, (tree,), (v,))[1],
                # The Hessian is symmetric: the pull-back of the gradient is the product.
                lambda: torch.func.vjp(gradient, tree)[1](v)[0],
            ),
            size,
        )

    mean = reduction == "mean" and data is not None
    return Curvature("Hessian", parameters, contribution, data, mean=mean, chunk=chunk, positive=False)
