"""Linear layers in 8-bit floating point, simulated by rounding: what training would do on hardware that has it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Format = Literal["e4m3", "e5m2", "bfloat16", "float16"]

_FORMATS: dict[str, torch.dtype] = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def round_to(x: Tensor, format: Format = "e4m3") -> Tensor:
    """Round to the nearest number of a narrow format, and keep the dtype.

    Parameters
    ----------
    x : real tensor
    format : "e4m3" (largest number 448, smallest 2^-9), "e5m2" (57344, 2^-16), "bfloat16" or "float16"

    Returns
    -------
    A tensor like `x`; numbers beyond the largest become the largest. Its gradient is that of the identity.

    Raises
    ------
    ValueError : an unknown format.

    Examples
    --------
    >>> round_to(torch.tensor([0.3, 1000.0, 1e-4])).tolist()
    [0.3125, 448.0, 0.0]
    """
    dtype = _dtype("format", format)
    return _Round.apply(x, dtype, None)


class FP8:
    """The handle that `simulate_fp8` returns; also a context manager that ends the simulation.

    Parameters
    ----------
    module : the module whose linear maps are rounded while it runs
    forward, backward : the formats

    Examples
    --------
    >>> layer = nn.Linear(3, 2)
    >>> handle = FP8(layer, "e4m3", "e5m2")
    >>> handle.remove()
    """

    def __init__(self, module: nn.Module, forward: Format, backward: Format) -> None:
        self._formats = (_dtype("forward", forward), _dtype("backward", backward))
        self._modes: list[_Rounded] = []
        self._hooks = [
            module.register_forward_pre_hook(self._begin, prepend=True),
            module.register_forward_hook(self._end, always_call=True),
        ]

    def remove(self) -> None:
        """Take the rounding out of the module."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        mode = _Rounded(*self._formats)
        mode.__enter__()
        self._modes.append(mode)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._modes.pop().__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def simulate_fp8(module: nn.Module, *, forward: Format = "e4m3", backward: Format = "e5m2") -> FP8:
    """Let every linear map inside a module compute with inputs, weights and gradients rounded to 8 bits.

    Parameters
    ----------
    module : any module; what calls `torch.nn.functional.linear` inside it is rounded
    forward : the format of inputs and weights
    backward : the format of gradients that arrive at the output of a linear map

    Returns
    -------
    FP8 : a handle; `remove()`, or the end of a `with` block, ends the simulation. The module is changed in place,
        its parameters are not: they stay the master copy.

    Raises
    ------
    ValueError : an unknown format.

    Notes
    -----
    Products themselves are computed in the dtype of the tensors, as tensor cores add up in float32. No scale factors
    of any kind: what falls out of the range of the format is lost. Rounding is to nearest even, and saturates.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 0.3)
    >>> with simulate_fp8(layer):
    ...     rounded = layer(torch.ones(1)).item()
    >>> rounded, round(layer(torch.ones(1)).item(), 4)
    (0.3125, 0.3)
    """
    return FP8(module, forward, backward)


class _Rounded(TorchFunctionMode):
    def __init__(self, forward: torch.dtype, backward: torch.dtype) -> None:
        super().__init__()
        self.forward, self.backward = forward, backward

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        return self._linear(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x, w = (_Round.apply(t, self.forward, None) for t in (input, weight))
        y: Tensor = _Round.apply(F.linear(x, w), None, self.backward)
        return y if bias is None else y + bias


class _Round(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, forward: torch.dtype | None, backward: torch.dtype | None) -> Tensor:
        return x.view_as(x) if forward is None else _rounded(x, forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backward_format = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return (g if ctx.backward_format is None else _rounded(g, ctx.backward_format)), None, None


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    # torch turns what is too large into NaN (e4m3) or infinity; hardware saturates.
    top = torch.finfo(dtype).max
    return x.clamp(-top, top).to(dtype).to(x.dtype)


def _dtype(name: str, format: str) -> torch.dtype:
    if format not in _FORMATS:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, _FORMATS))}, got {format!r}")
    return _FORMATS[format]
