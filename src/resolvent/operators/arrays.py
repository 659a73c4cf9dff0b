"""The public edge for arrays: what comes in becomes a tensor, what goes out has the kind that came in."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["torch", "numpy"]
ArrayLike = Tensor | np.ndarray


def as_tensor(x: Any, name: str) -> tuple[Tensor, Kind]:
    """A tensor over the memory of `x` (no copy where the strides allow it) and the kind of `x`.

    Lists and numbers count as NumPy. Integers and booleans become the default floating dtype of their kind;
    half precision is kept.
    """
    if isinstance(x, Tensor):
        kind: Kind = "torch"
        tensor = x
    else:
        array = np.asarray(x)
        if array.dtype == object or array.dtype.kind not in "biufc":
            raise TypeError(f"{name} must be a numeric tensor or array, got {type(x).__name__} of dtype {array.dtype}")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype in (np.longdouble, np.clongdouble):
            raise TypeError(f"{name} has dtype {array.dtype}; convert it to float64 or complex128")
        if any(s < 0 for s in array.strides) or not array.flags.writeable:
            array = array.copy()
        if array.dtype.kind in "bu":
            array = array.astype(np.float64)
        tensor, kind = torch.from_numpy(np.asarray(array)), "numpy"
    if not (tensor.is_floating_point() or tensor.is_complex()):
        tensor = tensor.to(torch.float64 if kind == "numpy" else torch.get_default_dtype())
    return tensor, kind


def check_finite(t: Tensor, name: str) -> None:
    """Raise a ValueError that names the argument and the first bad entry if `t` has a NaN or an infinity."""
    # The sum of x*0 is NaN exactly if an entry is not finite: one pass, no boolean array for the usual case.
    if t.numel() == 0 or bool(torch.isfinite((t.detach() * 0).sum())):
        return
    bad = (~torch.isfinite(t.detach())).nonzero()
    where = tuple(bad[0].tolist())
    raise ValueError(f"{name} has {len(bad)} entries that are NaN or infinite, the first at {where}")


def give_back(value: Any, kind: Kind) -> Any:
    """Turn a result into the kind that came in: tensors to arrays, 0-d tensors to Python numbers, inside tuples too."""
    if kind == "torch":
        return value
    if isinstance(value, Tensor):
        value = value.detach()
        return value.item() if value.ndim == 0 else value.cpu().numpy()
    if isinstance(value, tuple):
        items = [give_back(v, kind) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
