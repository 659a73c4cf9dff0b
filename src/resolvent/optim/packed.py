"""Numbers of 4 or 8 bits with a scale for each block, packed into bytes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import check_finite


def pack(x: Tensor, *, bits: int = 4, block: int = 64) -> tuple[Tensor, Tensor]:
    r"""Round numbers to the nearest of :math:`2^b` levels of their block, two codes to a byte for 4 bits.

    Parameters
    ----------
    x : (*batch, n) tensor of real numbers
    bits : 4 or 8
    block : neighbours of the last axis that share a scale; even

    Returns
    -------
    codes : (*batch, bytes) uint8
    scales : (*batch, blocks) bfloat16, the largest size of a block

    Raises
    ------
    ValueError : NaN, bits other than 4 and 8, or an odd block.

    Notes
    -----
    The levels are those of "linear-2": sign(t) t^2 for t evenly spaced from -1 to 1, denser near zero, where eigenvectors have
    most of their entries, and an exact zero in place of the middle negative one. 4 bits with blocks of 64 take 4.25 bits a number.

    References
    ----------
    "4-bit Shampoo for Memory-Efficient Network Training"

    Examples
    --------
    >>> codes, scales = pack(torch.tensor([1.0, -1.0, 0.0, 0.5]), block=4)
    >>> codes.tolist(), unpack(codes, scales, 4, block=4)
    ([15, 215], tensor([ 1.0000, -1.0000,  0.0000,  0.5378]))
    """
    _check(bits, block)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 1:
        raise ValueError(f"x must be a tensor of real numbers with at least one axis, got {_name(x)}")
    check_finite(x, "x")
    T = x.detach().float()
    short = -T.shape[-1] % block
    blocks = torch.nn.functional.pad(T, (0, short)).unflatten(-1, (-1, block))
    scales = blocks.abs().amax(-1).to(torch.bfloat16)
    wide = scales.float()[..., None]
    relative = blocks / torch.where(wide > 0, wide, torch.ones_like(wide))
    _, borders, _ = _tables(bits, str(T.device))
    # int32 bucketize is twice as fast, and uint8 is what is kept.
    codes = torch.bucketize(relative, borders, out_int32=True).to(torch.uint8).flatten(-2)
    if short:
        # Whole bytes of padding are not kept.
        codes = codes[..., : T.shape[-1] + T.shape[-1] % 2]
    if bits == 4:
        codes = codes[..., ::2] | (codes[..., 1::2] << 4)
    return codes.contiguous(), scales


def unpack(codes: Tensor, scales: Tensor, n: int, *, bits: int = 4, block: int = 64) -> Tensor:
    """The numbers behind codes and scales.

    Parameters
    ----------
    codes, scales : what `pack` gave
    n : length of the last axis
    bits, block : as for `pack`

    Returns
    -------
    (*batch, n) float32.

    Raises
    ------
    ValueError : lengths that do not go together.

    References
    ----------
    "4-bit Shampoo for Memory-Efficient Network Training"

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 100)
    >>> bool((unpack(*pack(x, bits=8), 100, bits=8) - x).abs().max() < 0.02)
    True
    """
    _check(bits, block)
    bytes_, blocks = (n + 1) // 2 if bits == 4 else n + n % 2, -(-n // block)
    if codes.dtype != torch.uint8 or codes.shape[-1] != bytes_ or scales.shape[-1] != blocks:
        raise ValueError(
            f"codes and scales must have {bytes_} bytes and {blocks} scales for n = {n}, "
            f"got {codes.shape[-1]} of {codes.dtype} and {scales.shape[-1]}"
        )
    levels, _, pairs = _tables(bits, str(codes.device))
    numbers = codes.reshape(-1).int()
    wide = (pairs if bits == 4 else levels).index_select(0, numbers).view(*codes.shape[:-1], -1)
    short = blocks * block - wide.shape[-1]
    whole = torch.nn.functional.pad(wide, (0, short)) if short else wide
    values = (whole.unflatten(-1, (-1, block)) * scales.float()[..., None]).flatten(-2)
    return values[..., :n] if values.shape[-1] != n else values


def _name(x: Any) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def _check(bits: int, block: int) -> None:
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, got {bits!r}")
    if isinstance(block, bool) or not isinstance(block, int) or block < 2 or block % 2:
        raise ValueError(f"block must be an even number of at least 2, got {block!r}")


@cache
def _tables(bits: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Levels, the borders between them, and the pair of levels of every byte."""
    count = 2**bits
    t = torch.linspace(-1, 1, count, dtype=torch.float64)
    levels = t.sign() * t.square()
    levels[count // 2 - 1] = 0.0
    borders = (levels[1:] + levels[:-1]) / 2
    byte = torch.arange(256)
    pairs = torch.stack([levels[byte % count], levels[byte // count % count]], 1)
    return tuple(x.float().to(device) for x in (levels, borders, pairs))  # type: ignore[return-value]
