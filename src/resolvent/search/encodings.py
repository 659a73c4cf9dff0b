"""One vector for a set of tokens, so that inner products approximate the Chamfer score."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import give_back_array
from resolvent.operators.operator import Operator
from resolvent.random import as_generator, gaussian, rademacher
from resolvent.search.ragged import Sets, as_sets, blocks
from resolvent.sketch import count_sketch

Role = Literal["query", "document"]
# Entries of the hashes and projections of a block of documents: some MB.
_ENTRIES = 1 << 21


def fixed_dimensional_encoding(
    tokens: Any,
    offsets: Any = None,
    role: Role = "document",
    *,
    repetitions: int = 20,
    bits: int = 5,
    proj_dim: int | None = 16,
    final_dim: int | None = None,
    fill_empty: bool = True,
    generator: int = 0,
) -> Any:
    r"""Encode sets so that :math:`\langle F(Q), F(P) \rangle / R` approximates the Chamfer score of Q and P.

    Parameters
    ----------
    tokens : (t, d) tokens of all sets one after the other; or without `offsets` one set (t, d), sets of equal size
        (n, t, d), or a list of (t, d)
    offsets : (n + 1,) integers, set i is ``tokens[offsets[i] : offsets[i + 1]]``
    role : "query" sums the tokens of a cell, "document" takes their mean
    repetitions : R, independent partitions of space, at least 1
    bits : from 0 to 16; Gaussian directions whose signs put a token into one of 2^bits cells
    proj_dim : length of a projected token; None keeps tokens whole
    final_dim : length of the encoding after a count sketch; None keeps R 2^bits proj_dim
    fill_empty : an empty cell of a document takes the token whose signs differ least from the cell's, the first of equal
        ones; queries never fill
    generator : an int; queries and documents must share it, and all numbers above

    Returns
    -------
    Encodings (n, D), or (D,) of a single set, in the kind, dtype and device of `tokens` (half precision gives float32).

    Raises
    ------
    ValueError : an empty set, NaN or infinity, numbers out of range, an unknown role.
    TypeError : a generator that is not an int: both sides have to draw the same numbers.

    Notes
    -----
    Two GEMMs for signs and projections of all repetitions, then one pass: (bits + proj_dim) R d multiplications a token.
    Every input coordinate goes with a random sign to one random coordinate of the projection. With `fill_empty` and whole
    tokens the approximation never exceeds the Chamfer score; the projection adds noise of both signs, which repetitions
    average. The order of the tokens matters only where `fill_empty` has to choose among equally near ones.
    Gradients reach the tokens through the cells that they are in; the cells themselves have none.

    References
    ----------
    "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings"

    Examples
    --------
    >>> import torch
    >>> from resolvent.search import chamfer, fixed_dimensional_encoding
    >>> P = torch.nn.functional.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> Q = P[:3]
    >>> f = fixed_dimensional_encoding(Q, role="query", proj_dim=None, repetitions=100)
    >>> g = fixed_dimensional_encoding(P, proj_dim=None, repetitions=100)
    >>> g.shape, float(chamfer(Q, P)), 2.0 < float(f @ g) / 100 < 3.0
    (torch.Size([102400]), 3.0, True)
    """
    sets = as_sets(tokens if offsets is None else (tokens, offsets), "tokens")
    if role not in ("query", "document"):
        raise ValueError(f"role must be 'query' or 'document', got {role!r}")
    dim = sets.tokens.shape[1]
    check_encoding(repetitions, bits, proj_dim, final_dim, generator)
    dtype = sets.tokens.dtype if sets.tokens.dtype == torch.float64 else torch.float32
    drawn = _draw(dim, repetitions, bits, proj_dim, final_dim, generator, dtype, str(sets.tokens.device))
    document = role == "document"
    per_token = repetitions * (bits + (dim if proj_dim is None else proj_dim))
    parts = []
    for first, last in blocks(sets.offsets, max(1, _ENTRIES // per_token)):
        a, b = int(sets.offsets[first]), int(sets.offsets[last])
        block = sets._replace(tokens=sets.tokens[a:b].to(dtype), offsets=sets.offsets[first : last + 1] - a)
        made = _encode(block, drawn, repetitions, bits, document, document and fill_empty)
        parts.append(made if drawn.final is None else (drawn.final @ made.mT).mT)
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return give_back_array(out[0] if sets.single else out, sets.kind)


def check_encoding(repetitions: Any, bits: Any, proj_dim: Any, final_dim: Any, generator: Any) -> None:
    """The numbers that queries and documents share, or an error that names the wrong one."""
    if isinstance(generator, bool) or not isinstance(generator, int):
        raise TypeError(f"generator must be an int that queries and documents share, got {type(generator).__name__}")
    ranges = {"repetitions": (repetitions, 1, 1 << 20), "bits": (bits, 0, 16)}
    ranges |= {"proj_dim": (1 if proj_dim is None else proj_dim, 1, 1 << 20)}
    ranges |= {"final_dim": (1 if final_dim is None else final_dim, 1, 1 << 30)}
    for name, (value, least, most) in ranges.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
            raise ValueError(f"{name} must be an int from {least} to {most}, got {value!r}")


def encoding_length(dim: int, repetitions: int, bits: int, proj_dim: int | None, final_dim: int | None) -> int:
    """Length of an encoding of tokens of length `dim`."""
    return final_dim or repetitions * (1 << bits) * (proj_dim or dim)


class _Drawn(NamedTuple):
    directions: Tensor
    projection: Tensor | None
    final: Operator | None


@lru_cache(maxsize=8)
def _draw(
    dim: int,
    repetitions: int,
    bits: int,
    proj_dim: int | None,
    final_dim: int | None,
    seed: int,
    dtype: torch.dtype,
    device: str,
) -> _Drawn:
    # Drawn in float64 on the CPU: queries in float32 and documents in float64, or on a GPU, share cells and signs.
    g = as_generator(seed)
    directions = gaussian((dim, repetitions * bits), torch.float64, generator=g)
    projection = None
    if proj_dim is not None:
        target = torch.randint(proj_dim, (dim, repetitions), generator=g)
        signs = rademacher((dim, repetitions), torch.float64, generator=g)
        projection = torch.zeros(dim, repetitions, proj_dim, dtype=torch.float64)
        projection.scatter_(2, target[..., None], signs[..., None])
        projection = projection.reshape(dim, repetitions * proj_dim).to(device, dtype)
    final = None
    if final_dim is not None:
        full = repetitions * (1 << bits) * (proj_dim or dim)
        final = count_sketch(final_dim, full, generator=g, dtype=dtype, device=device)
    return _Drawn(directions.to(device, dtype), projection, final)


def _encode(sets: Sets, drawn: _Drawn, repetitions: int, bits: int, mean: bool, fill: bool) -> Tensor:
    """(n, repetitions * cells * width)."""
    tokens = sets.tokens
    hashes = tokens.detach() @ drawn.directions
    projected = tokens.repeat(1, repetitions) if drawn.projection is None else tokens @ drawn.projection
    if projected.device.type == "cpu" and not projected.requires_grad:
        from resolvent.search.encodings_kernel import encode

        out = np.zeros((sets.n, projected.shape[1] << bits), projected.numpy().dtype)
        encode(hashes.numpy(), projected.numpy(), sets.offsets, repetitions, bits, mean, fill, out)
        return torch.from_numpy(out)
    return _by_scatter(sets, hashes, projected, repetitions, bits, mean, fill)


def _by_scatter(
    sets: Sets, hashes: Tensor, projected: Tensor, repetitions: int, bits: int, mean: bool, fill: bool
) -> Tensor:
    """The same in torch, for other devices and for gradients."""
    n, t, cells, device = sets.n, len(projected), 1 << bits, projected.device
    owner = torch.from_numpy(sets.owners()).to(device)
    powers = 2 ** torch.arange(bits - 1, -1, -1, device=device)
    codes = ((hashes > 0).view(t, repetitions, bits) * powers).sum(2)
    slot = ((owner[:, None] * repetitions + torch.arange(repetitions, device=device)) * cells + codes).view(-1)
    parts = projected.view(t * repetitions, -1)
    sums = parts.new_zeros(n * repetitions * cells, parts.shape[1]).index_add(0, slot, parts)
    if mean:
        sizes = torch.bincount(slot, minlength=len(sums))
        sums = sums / sizes.clamp_min(1)[:, None]
        if fill:
            step = 1 << 40
            token = torch.arange(t, device=device)[:, None].expand(t, repetitions).reshape(-1)
            nearest = torch.full((len(sums),), 1 << 62, device=device).scatter_reduce(0, slot, token, "amin")
            for b in range(bits):
                pair = nearest.view(-1, 2, 1 << b)
                nearest = torch.minimum(pair, pair.flip(1) + step).view(-1)
            row = (nearest % step) * repetitions + torch.arange(len(sums), device=device) // cells % repetitions
            sums = torch.where((sizes == 0)[:, None], parts[row], sums)
    index = torch.arange(cells, device=device)
    return sums.view(n, repetitions, cells, -1)[:, :, index ^ (index >> 1)].reshape(n, -1)


__all__ = ["fixed_dimensional_encoding"]
