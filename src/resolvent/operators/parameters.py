"""What the operators of models share: flat views of parameters, batches one at a time, directions in chunks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from resolvent.errors import AccuracyWarning

Mode = Literal["auto", "forward-over-reverse", "double-backward"]
Params = nn.Module | Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class Parameters:
    """A module, a tensor, a list or a dict of tensors, seen as one flat vector and as a dict of named tensors.

    Parameters
    ----------
    source : what the user gave; of a module, the parameters that require gradients
    differentiable : keep the tensors on autograd's tape; otherwise they are detached (and still share memory)
    """

    def __init__(self, source: Params, differentiable: bool = False) -> None:
        named: dict[str, Tensor]
        if isinstance(source, nn.Module):
            named = {name: p for name, p in source.named_parameters() if p.requires_grad}
        elif isinstance(source, Tensor):
            named = {"0": source}  # type: ignore[dict-item]
        elif isinstance(source, Mapping):
            named = dict(source)  # type: ignore[arg-type]
        elif isinstance(source, Sequence) and not isinstance(source, str):
            named = {str(i): p for i, p in enumerate(source)}  # type: ignore[misc]
        else:
            kind = type(source).__name__
            raise TypeError(f"params must be a Module, a tensor, a list or a dict of tensors, got {kind}")
        for name, p in named.items():
            if not isinstance(p, Tensor) or not p.is_floating_point():
                raise TypeError(f"params[{name!r}] must be a real floating tensor, got {getattr(p, 'dtype', type(p))}")
        if not named:
            raise ValueError("params holds no parameter that requires gradients")
        places = {(p.dtype, p.device) for p in named.values()}
        if len(places) > 1:
            raise ValueError(f"params must share one dtype and device, got {sorted(map(str, places))}")
        self.source = source
        self.tensors = {name: p if differentiable else p.detach() for name, p in named.items()}
        self.shapes = {name: p.shape for name, p in named.items()}
        self.sizes = [p.numel() for p in named.values()]

    def flatten(self, tree: Mapping[str, Tensor]) -> Tensor:
        """A dict of tensors as one vector."""
        return torch.cat([tree[name].reshape(-1) for name in self.shapes])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """One vector as a dict of tensors."""
        pieces = vector.split(self.sizes)
        return {name: piece.reshape(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def bind(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """``fn(params, *args)`` as a function of the dict of tensors, with params in the form the user gave them."""
        if isinstance(self.source, nn.Module):
            model = self.source
            bound = _Bound(model, fn)
            return lambda tree, *args: torch.func.functional_call(
                bound, {f"model.{name}": p for name, p in tree.items()} | _buffers(model), args
            )
        if isinstance(self.source, Tensor):
            return lambda tree, *args: fn(tree["0"], *args)
        if isinstance(self.source, Mapping):
            return fn
        return lambda tree, *args: fn(list(tree.values()), *args)


class _Bound(nn.Module):
    """A module whose forward is `fn(model, ...)`, so that functional_call reaches the model inside any function."""

    def __init__(self, model: nn.Module, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.fn = fn

    def forward(self, *args: Any) -> Any:
        return self.fn(self.model, *args)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    # Copies: a product must not move the running statistics of a model in train mode.
    return {f"model.{name}": b.clone() for name, b in model.named_buffers()} if model.training else {}


def warn_if_random(model: Any) -> None:
    """Warn of layers in train mode that make the loss random or couple the samples of a batch."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in modules)
    drops = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0 for m in modules)
    for present, what in (
        (norms, "BatchNorm in train mode couples the samples of a batch: the operator depends on the batches"),
        (drops, "Dropout in train mode draws a new mask for every product: the operator is not one linear map"),
    ):
        if present:
            warnings.warn(f"{what}; call model.eval() first", AccuracyWarning, stacklevel=3)


def batches(data: Any, device: torch.device) -> Iterator[tuple[Any, ...]]:
    """The batches of `data` one at a time as tuples of arguments, their tensors on `device`."""
    one = data is None or (isinstance(data, tuple) and any(isinstance(x, Tensor) for x in data))
    for batch in [() if data is None else data] if one else data:
        items = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        yield tuple(x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for x in items)


def check_data(data: Any) -> None:
    """Raise if `data` cannot be read once per product."""
    if data is None or isinstance(data, tuple):
        return
    if not isinstance(data, Iterable) or isinstance(data, Tensor | str):
        raise TypeError(f"data must be one batch (a tuple) or an iterable of batches, got {type(data).__name__}")
    if iter(data) is data:
        raise TypeError("data is an iterator that can be read only once; give a list, a DataLoader or another iterable")


def check_chunk(chunk: int) -> int:
    """`chunk` if it is a positive int."""
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk={chunk!r} must be an int of at least 1")
    return chunk


def batch_size(batch: tuple[Any, ...]) -> int:
    """The samples of a batch: the first axis of its first tensor."""
    for x in batch:
        if isinstance(x, Tensor) and x.ndim:
            return x.shape[0]
    return 1


def columns(X: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(..., n, k) as rows (count, n), and the way back for rows (count, m)."""
    lead, k = X.shape[:-2], X.shape[-1]
    return X.mT.reshape(-1, X.shape[-2]), lambda R: R.reshape(*lead, k, R.shape[-1]).mT


def by_chunks(apply: Callable[[Tensor], Tensor], rows: Tensor, chunk: int) -> Tensor:
    """`apply` to every row, `chunk` rows at once by vmap; one row at once needs no batching rule."""
    # The fused attention kernels have neither forward-mode nor second derivatives.
    with sdpa_kernel(SDPBackend.MATH):
        if chunk == 1 or len(rows) == 1:
            return torch.stack([apply(row) for row in rows])
        together = torch.func.vmap(apply, randomness="same")
        return torch.cat([together(piece) for piece in rows.split(chunk)])


_Value = TypeVar("_Value")


class Route:
    """The way to a second derivative: `mode`, or for "auto" forward-over-reverse where torch can and else the other."""

    def __init__(self, mode: Mode) -> None:
        if mode not in ("auto", "forward-over-reverse", "double-backward"):
            raise ValueError(f"mode={mode!r} must be 'auto', 'forward-over-reverse' or 'double-backward'")
        self.mode: Mode = mode

    def __call__(self, forward: Callable[[], _Value], backward: Callable[[], _Value]) -> _Value:
        """The value of `forward`, or of `backward`."""
        if self.mode == "double-backward":
            return backward()
        try:
            return forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # An operation without a forward-mode derivative; an error of the user's comes up again below.
            if self.mode != "auto":
                raise
            value = backward()
            self.mode = "double-backward"
            return value


def push_forward(f: Callable[[Any], Tensor], at: Any, v: Any, route: Route) -> Tensor:
    """The derivative of `f` at a tensor or dict of tensors in the direction `v`."""

    def twice() -> Tensor:
        y, pull = torch.func.vjp(f, at)  # type: ignore[misc]
        # u -> J^T u is linear, so that its own pull-back is J.
        return torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(y))[1](v)[0]

    return route(lambda: torch.func.jvp(f, (at,), (v,))[1], twice)
