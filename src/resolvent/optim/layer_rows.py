"""Linear and convolutional layers as matrix products: what enters a layer as rows, and its parameters as one matrix."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def is_matrix_layer(module: nn.Module) -> bool:
    """True for the layers whose weight, with the bias as last column, multiplies rows: `nn.Linear`, and `nn.Conv2d` without groups.

    Examples
    --------
    >>> is_matrix_layer(nn.Linear(2, 3)), is_matrix_layer(nn.LayerNorm(3))
    (True, False)
    """
    if type(module) is nn.Linear:
        return True
    return type(module) is nn.Conv2d and module.groups == 1


def input_rows(module: nn.Module, x: Tensor) -> Tensor:
    """The rows that the weight matrix multiplies: (samples, positions, columns of the weight matrix without bias).

    Examples
    --------
    >>> import torch
    >>> input_rows(nn.Conv2d(2, 3, 3), torch.ones(4, 2, 5, 6)).shape
    torch.Size([4, 12, 18])
    """
    if isinstance(module, nn.Conv2d):
        return _patches(module, x if x.ndim == 4 else x[None]).mT
    return x.reshape(x.shape[0] if x.ndim > 1 else 1, -1, x.shape[-1])


def output_rows(module: nn.Module, z: Tensor) -> Tensor:
    """Outputs or their gradients as (samples, positions, rows of the weight matrix).

    Examples
    --------
    >>> import torch
    >>> output_rows(nn.Conv2d(2, 3, 3), torch.ones(4, 3, 3, 4)).shape
    torch.Size([4, 12, 3])
    """
    if isinstance(module, nn.Conv2d):
        return (z if z.ndim == 4 else z[None]).flatten(2).mT
    return z.reshape(z.shape[0] if z.ndim > 1 else 1, -1, z.shape[-1])


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        x = F.pad(
            x,
            module._reversed_padding_repeated_twice,
            "constant" if module.padding_mode == "zeros" else module.padding_mode,
        )
        padding: tuple[int, ...] = (0, 0)
    else:
        padding = module.padding
    return F.unfold(x, module.kernel_size, dilation=module.dilation, padding=padding, stride=module.stride)
