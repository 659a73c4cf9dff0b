"""The Walsh-Hadamard transform along one axis of a tensor: Numba butterflies on the CPU, GEMMs of radix 32 elsewhere."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.memory import fresh

_RADIX = 5  # 2^5 = 32: the GEMM stays bound by memory, and a transform needs a fifth of the passes of butterflies
_KERNEL = (torch.float32, torch.float64, torch.complex64, torch.complex128)
# Numbers for which one small GEMM costs less than the way to the kernel.
_SMALL = 256


def walsh(x: Tensor, dim: int, scale: float) -> Tensor:
    """``scale * H`` along axis `dim`, whose length n is a power of two; with derivatives of every order.

    Parameters
    ----------
    x : (..., n, ...), float or complex
    dim : the axis
    scale : the factor

    Returns
    -------
    A tensor of the shape and dtype of `x`.

    Examples
    --------
    >>> walsh(torch.tensor([1.0, 0.0, 0.0, 1.0]), 0, 1.0)
    tensor([2., 0., 0., 2.])
    """
    transformed: Tensor = _Walsh.apply(x, dim % x.ndim, float(scale))
    return transformed


def walsh_in_place(x: Tensor, dim: int, scale: float) -> Tensor:
    """`walsh` of a tensor that nobody else holds: its memory is used for the result where that is possible.

    Parameters
    ----------
    x : (..., n, ...), float or complex; its content is lost. Not recorded by autograd.
    dim : the axis
    scale : the factor

    Returns
    -------
    A tensor of the shape and dtype of `x`.

    Examples
    --------
    >>> walsh_in_place(torch.tensor([1.0, 0.0, 0.0, 1.0]), 0, 1.0)
    tensor([2., 0., 0., 2.])
    """
    return _transformed(x.detach(), dim % x.ndim, float(scale), True)


class _Walsh(torch.autograd.Function):
    """A symmetric real matrix along an axis: it is its own adjoint and its own derivative."""

    @staticmethod
    def forward(x: Tensor, dim: int, scale: float) -> Tensor:
        return _transformed(x.detach(), dim, scale, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.dim, ctx.scale = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Walsh.apply(grad, ctx.dim, ctx.scale), None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Tensor:
        changed: Tensor = _Walsh.apply(dx, ctx.dim, ctx.scale)
        return changed

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], x: Tensor, dim: int, scale: float) -> Any:
        return _Walsh.apply(x.movedim(dims[0], 0), dim + 1, scale), 0


def _transformed(x: Tensor, dim: int, scale: float, in_place: bool) -> Tensor:
    if x.shape[dim] == 1 or x.numel() == 0:
        return x * scale
    if x.device.type == "cpu" and x.dtype in _KERNEL and x.numel() >= _SMALL:
        return _by_kernel(x, dim, scale, in_place)
    return _by_gemm(x, dim, scale)


def _by_kernel(x: Tensor, dim: int, scale: float, in_place: bool) -> Tensor:
    from resolvent.operators.walsh_kernel import transform

    x = x.resolve_conj().resolve_neg()
    # Axes in the order in which they lie in memory: a transposed block is transformed where it is.
    strides = x.stride()
    order = sorted(range(x.ndim), key=lambda axis: (-strides[axis], -x.shape[axis]))
    placed = x.permute(order)
    if not placed.is_contiguous():
        order, placed = list(range(x.ndim)), x.contiguous()
    axis = order.index(dim)
    inner = math.prod(placed.shape[axis + 1 :]) * (2 if x.is_complex() else 1)
    source = (torch.view_as_real(placed) if x.is_complex() else placed).reshape(-1).numpy()
    target = source if in_place else fresh(source.shape, source.dtype)
    transform(source, target, x.shape[dim], inner, scale)
    out = torch.from_numpy(target)
    if x.is_complex():
        out = torch.view_as_complex(out.view(-1, 2))
    inverse = sorted(range(x.ndim), key=order.__getitem__)
    return out.view(placed.shape).permute(inverse)


def _by_gemm(x: Tensor, dim: int, scale: float) -> Tensor:
    n = x.shape[dim]
    moved = x.movedim(dim, 0)
    T = moved.reshape(n, -1)
    k = T.shape[1]
    for step, bits in enumerate(_radices(n)):
        # The result of a GEMM lies transposed, so the next axis of the operand is in front without a copy.
        H = _sylvester(bits, T.dtype, T.device)
        T = T.reshape(1 << bits, (n * k) >> bits).mT @ (H * scale if step == 0 else H)
        T = T.flatten()
    return T.reshape(k, n).mT.reshape(moved.shape).movedim(0, dim)


def _radices(n: int) -> list[int]:
    """log2(n) as a sum of few nearly equal terms of at most the radix."""
    bits = n.bit_length() - 1
    steps = -(-bits // _RADIX)
    return [bits // steps + (i < bits % steps) for i in range(steps)] if steps else []


@lru_cache(maxsize=64)
def _sylvester(bits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        index = torch.arange(1 << bits)
        parity = index[:, None] & index[None, :]
        for shift in (8, 4, 2, 1):
            parity = parity ^ (parity >> shift)
        return (1 - 2 * (parity & 1)).to(device=device, dtype=dtype)


__all__ = ["walsh"]
