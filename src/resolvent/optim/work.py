"""One parameter as an optimizer's method sees it: a plain real tensor of at least 32 bits, and the way back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# float32 work for parameters of half the width, as a sum of many small steps needs.
HALF = (torch.float16, torch.bfloat16)

State = dict[str, Any]


@dataclass
class Work:
    """One parameter as a method sees it, and the way back."""

    param: Tensor
    value: Tensor
    grad: Tensor
    state: State
    write: Callable[[], None] | None


def buckets(works: Iterable[Work]) -> Iterator[list[Work]]:
    """Works of one device and dtype with the same number of steps behind them, on which bias corrections depend."""
    found: dict[Any, list[Work]] = defaultdict(list)
    for work in works:
        if work.value.numel():
            found[work.value.device, work.value.dtype, work.state["step"]].append(work)
    yield from found.values()


def fits(work: Work, names: Collection[str] | None = None) -> bool:
    """Whether a kernel may read the memory of a parameter, its gradient and its state as plain arrays."""
    p = work.value
    if p.device.type != "cpu" or not (p.is_contiguous() and work.grad.is_contiguous()):
        return False
    return all(
        not isinstance(t, Tensor) or not t.is_floating_point() or (t.is_contiguous() and t.dtype == p.dtype)
        for name, t in work.state.items()
        if names is None or name in names
    )


def widen(value: Tensor, write: Callable[[], None] | None) -> tuple[Tensor, Callable[[], None]]:
    """A float32 copy, and the way back into `value`."""
    wide = value.float()

    def back() -> None:
        value.copy_(wide)
        if write is not None:
            write()

    return wide, back


def local(param: Any, grad: Any, elementwise: bool) -> tuple[Tensor, Tensor, Callable[[], None] | None]:
    """A sharded parameter: its shard where shards are independent, else the whole and the way back into the shard."""
    if elementwise:
        # A gradient that waits for its sum over ranks, or lies elsewhere, is brought to the shards of its parameter.
        if grad.placements != param.placements:
            grad = grad.redistribute(placements=param.placements)
        return param.to_local(), grad.to_local(), None
    whole = param.full_tensor()

    def back() -> None:
        from torch.distributed.tensor import distribute_tensor

        shard: Any = distribute_tensor(whole, param.device_mesh, param.placements, src_data_rank=None)
        param.to_local().copy_(shard.to_local())

    return whole, grad.full_tensor(), back


def as_saved(saved: Any, p: Tensor) -> Any:
    """A copy of a state beside its parameter, in the precision that it had and the parameter's order in memory."""
    if isinstance(saved, Tensor):
        copied = saved.detach().to(device=p.device, copy=True)
        return torch.empty_like(p, dtype=saved.dtype).copy_(copied) if _alike(saved, p) else copied
    if isinstance(saved, dict):
        return {name: as_saved(value, p) for name, value in saved.items()}
    if isinstance(saved, (list, tuple)):
        return type(saved)(as_saved(value, p) for value in saved)
    return saved


def _alike(saved: Tensor, p: Tensor) -> bool:
    return not hasattr(p, "full_tensor") and saved.shape == p.shape and saved.stride() != p.stride()


@torch.no_grad()
def fill(param: Any, value: Tensor) -> None:
    """Put a state into its parameter: what `Work.value` is for the method, for all kinds of parameters."""
    if not hasattr(param, "full_tensor"):
        (torch.view_as_real(param) if param.is_complex() else param).copy_(value)
        return
    shard = param.to_local()
    if (torch.view_as_real(shard) if shard.is_complex() else shard).shape != value.shape:
        from torch.distributed.tensor import distribute_tensor

        whole: Any = torch.view_as_complex(value) if param.is_complex() else value
        value = distribute_tensor(whole, param.device_mesh, param.placements, src_data_rank=None).to_local()
        shard.copy_(value)
        return
    (torch.view_as_real(shard) if shard.is_complex() else shard).copy_(value)
