"""Weights drawn uniformly from the matrices with orthonormal rows or columns, for every layer that multiplies by one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from resolvent.random import GeneratorLike, as_generator, gaussian

_Transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_Transposed)


def semi_orthogonal(rows: int, columns: int, generator: torch.Generator, count: int = 1) -> Tensor:
    """`count` matrices of shape (rows, columns), float64 on the CPU, uniform among those whose shorter side is orthonormal."""
    tall = gaussian((count, max(rows, columns), min(rows, columns)), generator=generator)
    Q, R = torch.linalg.qr(tall)
    # Signs of R's diagonal make the factorisation unique, and Q uniform.
    signs = torch.sgn(R.diagonal(dim1=-2, dim2=-1))
    Q = Q * torch.where(signs == 0, 1.0, signs)[:, None, :]
    return Q if rows >= columns else Q.mT


def orthogonal_weight(module: nn.Module, generator: torch.Generator, *, keep_variance: bool) -> Tensor:
    """A weight for `module`, one semi-orthogonal block per group, in the shape of its weight.

    With `keep_variance` a layer with more outputs than inputs is scaled by sqrt(outputs / inputs), so that its outputs are on
    average as large as its inputs.
    """
    weight: Any = module.weight
    groups = int(getattr(module, "groups", 1))
    shape = tuple(weight.shape)
    if isinstance(module, _Transposed):
        # (in, out / groups, *kernel): the roles of the two first axes are exchanged.
        rows, kernel = shape[1], shape[2:]
        columns = shape[0] // groups * _product(kernel)
        blocks = semi_orthogonal(rows, columns, generator, groups)
        found = blocks.reshape(groups, rows, shape[0] // groups, *kernel).transpose(1, 2).reshape(shape)
    else:
        rows, columns = shape[0] // groups, _product(shape[1:])
        found = semi_orthogonal(rows, columns, generator, groups).reshape(shape)
    return found * max(1.0, rows / columns) ** 0.5 if keep_variance else found


def orthogonal_layers_(
    layers: Iterable[nn.Module],
    generator: GeneratorLike,
    *,
    scale: float = 1.0,
    bias_std: float = 0.0,
    keep_variance: bool,
) -> None:
    """Fill weights with scaled semi-orthogonal matrices, biases with zeros or Gaussian numbers."""
    g = as_generator(generator)
    if g.device.type != "cpu":
        raise ValueError(f"generator must be one of the CPU, where the weights are drawn, got one on {g.device}")
    with torch.no_grad():
        for module in layers:
            assign(module, orthogonal_weight(module, g, keep_variance=keep_variance) * scale)
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor):
                bias.copy_(gaussian(tuple(bias.shape), generator=g) * bias_std if bias_std else torch.zeros(bias.shape))


def assign(module: nn.Module, weight: Tensor) -> None:
    """Set the weight, through its parametrization where it has one."""
    current: Any = module.weight
    weight = weight.to(device=current.device, dtype=current.dtype)
    if parametrize.is_parametrized(module, "weight"):
        module.weight = weight
    else:
        current.copy_(weight)


def check_layers(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, nn.Module]]:
    """The layers of those kinds by name; an error if there is none, or one has no weight yet."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    found = [(name or "model", module) for name, module in model.named_modules() if isinstance(module, kinds)]
    if not found:
        raise ValueError(f"model has no layer of the kinds {', '.join(kind.__name__ for kind in kinds)}")
    for name, module in found:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and nn.parameter.is_lazy(weight):
            raise ValueError(f"{name} is a lazy layer without shape: run the model once on a batch before")
        if "weight" not in module._parameters and not parametrize.is_parametrized(module, "weight"):
            raise ValueError(f"the weight of {name} is computed by a hook: use torch.nn.utils.parametrizations instead")
        if not isinstance(weight, Tensor) or weight.ndim < 2 or not weight.is_floating_point():
            raise ValueError(
                f"{name} must have a real weight of at least two axes, got {getattr(weight, 'shape', weight)}"
            )
    return found


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for n in sizes:
        total *= n
    return total
