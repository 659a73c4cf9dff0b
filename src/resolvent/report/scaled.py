"""Codes of few bits with their scale beside them: 8-bit integers and float8 as the numbers that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from resolvent.report.stored import Stored, check_memory, unreadable

# How the scale of X is called. All are factors: the "inv" of the second is from the side of the one who quantised.
_SCALES = ("_scale", "_scale_inv", ".scale", "_scales", ".weight_scale", ".weight_scale_inv")
_ZEROS = ("_zero_point", "_zero", ".zero_point")
# bitsandbytes keeps the largest absolute value of each row, which the code 127 stands for.
_ROW_MAXIMA = "SCB"
_CODES = ("int8", "uint8")


def with_scales(tensors: Sequence[Stored]) -> list[Stored]:
    """Join codes and scales: `X` is read as `X` times `X_scale`, and the scale itself is skipped with that reason.

    Parameters
    ----------
    tensors : those of one file

    Returns
    -------
    As many, in the same order.

    Notes
    -----
    A scale is one number, one per row, one per column, or one per block of rows and columns; anything else leaves the
    codes without a scale, with the reason.
    """
    by_name = {t.name: t for t in tensors}
    found: dict[str, Stored] = {}
    for stored in tensors:
        if not (stored.dtype.startswith("float8") or stored.dtype in _CODES) or 0 in stored.shape:
            continue
        scale = _beside(stored.name, by_name)
        if scale is None:
            continue
        if not (scale.dtype.startswith(("float", "bfloat")) and _fits(scale.shape, stored.shape)):
            reason = f"its scale {scale.name!r} has the shape {scale.shape}, which does not fit {stored.shape}"
            found[stored.name] = dataclasses.replace(stored, reason=reason)
            continue
        zero = next((by_name[stored.name + end] for end in _ZEROS if stored.name + end in by_name), None)
        if zero is not None and (not _fits(zero.shape, stored.shape) or zero.shape != scale.shape):
            found[stored.name] = dataclasses.replace(stored, reason=f"its zero point {zero.name!r} does not fit it")
            continue
        load = partial(_load, stored, scale, zero)
        note = f"{stored.dtype} codes times their scale {scale.name!r}"
        if zero is not None:
            note += f", from the zero point {zero.name!r}"
        found[stored.name] = dataclasses.replace(
            stored, reason="", load=load, scale=scale.name, notes=(*stored.notes, note)
        )
        for part, what in ((scale, "scale"), (zero, "zero point")):
            if part is not None:
                reason = f"it is the {what} of {stored.name!r}"
                found[part.name] = Stored(part.name, part.shape, part.dtype, unreadable(part.name, reason).load, reason)
    return [found.get(t.name, t) for t in tensors]


def _beside(name: str, by_name: dict[str, Stored]) -> Stored | None:
    names = [name + end for end in _SCALES]
    head, dot, last = name.rpartition(".")
    if last == "weight":
        names.append(f"{head}{dot}{_ROW_MAXIMA}")
    return next((by_name[n] for n in names if n in by_name), None)


def _fits(scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """One number; or per axis one for all, one for each, or one per block of equal length, the last one shorter."""
    if all(k == 1 for k in scale):
        return True
    if len(scale) == 1:
        return scale[0] == shape[0]
    return len(scale) == len(shape) and all(
        1 <= k <= n and -(-n // _block(n, k)) == k for k, n in zip(scale, shape, strict=True)
    )


def _block(n: int, k: int) -> int:
    """The block's length where k of them cover n: a power of two where one does, as in every format there is."""
    smallest = -(-n // k)
    power = 1 << (smallest - 1).bit_length()
    return power if -(-n // power) == k else smallest


def _load(stored: Stored, scale: Stored, zero: Stored | None) -> Tensor:
    codes, factor = stored.load(), scale.load()
    shift = zero.load() if zero is not None else None
    if not isinstance(codes, Tensor) or not isinstance(factor, Tensor):
        raise ValueError("its codes or its scale are sparse")
    check_memory(8.0 * codes.numel(), "it")
    result = codes.to(torch.float32)
    if isinstance(shift, Tensor):
        result -= _spread(shift.to(torch.float32), stored.shape)
    if scale.name.endswith(_ROW_MAXIMA):
        factor = factor.to(torch.float32) / 127
    return result.mul_(_spread(factor.to(torch.float32), stored.shape))


def _spread(factor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The scale with an entry, or an axis of length 1, for each entry of the codes."""
    if factor.numel() == 1:
        return factor.reshape(())
    if factor.ndim == 1:
        return factor.reshape(-1, *(1,) * (len(shape) - 1))
    for axis, (k, n) in enumerate(zip(factor.shape, shape, strict=True)):
        if k not in (1, n):
            factor = factor.repeat_interleave(_block(n, k), dim=axis).narrow(axis, 0, n)
    return factor
