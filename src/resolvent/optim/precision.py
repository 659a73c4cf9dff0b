"""Whether matrix products may run in bfloat16."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "bfloat16", "full"]
PRECISIONS = ("auto", "bfloat16", "full")

# Below, a product is too short to gain from narrow numbers.
_SMALLEST = 128


@cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether the hardware has instructions for products of bfloat16.

    Parameters
    ----------
    device : type of the device, "cpu" or "cuda"

    Returns
    -------
    True where such products are faster than those of float32.

    Examples
    --------
    >>> multiplies_bfloat16("meta")
    False
    """
    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if device != "cpu":
        return False
    questions = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(question is not None and question() for question in questions)


def product_dtype(x: Tensor, precision: Precision, sides: tuple[int, ...]) -> torch.dtype:
    """The precision of products of a matrix.

    Parameters
    ----------
    x : gives dtype and device
    precision : "auto": bfloat16 for float32 where the hardware multiplies it and all sides are at least 128; "bfloat16"; "full":
        that of `x`
    sides : of the matrices that are multiplied

    Returns
    -------
    A dtype.

    Examples
    --------
    >>> product_dtype(torch.zeros(4, 4), "auto", (4, 4))
    torch.float32
    """
    if precision == "bfloat16":
        return torch.bfloat16
    wide = x.dtype != torch.float32 or min(sides) < _SMALLEST
    return x.dtype if precision == "full" or wide or not multiplies_bfloat16(x.device.type) else torch.bfloat16
