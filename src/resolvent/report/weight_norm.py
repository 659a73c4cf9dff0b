"""Weight-normalised layers, which are stored as a magnitude and a direction: one matrix, their product."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from resolvent.report.stored import Stored, check_memory, unreadable

# Entries that are squared at a time.
_CHUNK = 1 << 20
# The tensors of the parametrizations of one weight are numbered.
_STEM = re.compile(r"^(.*parametrizations\.[^.]+\.)\d+\.[^.]+$")


def with_weight_norm(tensors: Sequence[Stored]) -> list[Stored]:
    r"""Join the halves of weight-normalised layers: :math:`W = g \, v / \|v\|` in place of v; g is skipped.

    Parameters
    ----------
    tensors : those of one file

    Returns
    -------
    As many, in the same order.

    Notes
    -----
    `X_g` and `X_v` become `X`, `P.parametrizations.X.original0` and `original1` become `P.X`. The norm goes over all axes
    but the one where g has its size, over all of them where g is one number (`dim=None`). Halves whose shapes are not
    those of torch stay what they are, and so does `X_v` beside `X_orig`, which is a vector of spectral normalisation.

    Examples
    --------
    >>> from resolvent.report.readers import stored_state
    >>> state = {"up.weight_g": torch.tensor([[5.0], [1.0]]), "up.weight_v": torch.tensor([[3.0, 4.0], [0.0, 2.0]])}
    >>> g, weight = stored_state(state)
    >>> g.reason, weight.name, weight.load().tolist()
    ("it is the magnitude of 'up.weight', which is measured", 'up.weight', [[3.0, 4.0], [0.0, 1.0]])
    """
    by_name = {t.name: t for t in tensors}
    # where another parametrization with tensors of its own follows, the product is not yet the weight
    followed = {stem for t in tensors for stem in _STEM.findall(t.name)}
    found: dict[str, Stored] = {}
    for v in tensors:
        names = _names(v.name)
        if names is None:
            if _is_original(v.name) and len(v.shape) > 1:
                note = "stored before its parametrization, which the module applies at every use"
                found[v.name] = dataclasses.replace(v, notes=(*v.notes, note))
            continue
        name, magnitude = names
        g = by_name.get(magnitude)
        if g is None or v.reason or g.reason or name in by_name or f"{name}_orig" in by_name:
            continue
        if not _fits(g.shape, v.shape) or v.name.removesuffix("original1") in followed:
            continue
        note = f"weight norm: g v / ||v|| of {g.name!r} and {v.name!r}, the norm over {_over(g.shape)}"
        # the product is new memory, so it is tied to nothing
        found[v.name] = dataclasses.replace(
            v, name=name, load=partial(_load, g, v), notes=(*v.notes, note), memory=None
        )
        reason = f"it is the magnitude of {name!r}, which is measured"
        found[g.name] = dataclasses.replace(g, load=unreadable(g.name, reason).load, reason=reason, memory=None)
    return [found.get(t.name, t) for t in tensors]


def _names(direction: str) -> tuple[str, str] | None:
    """The names of the weight and of its magnitude, by that of its direction."""
    head, dot, last = direction.rpartition(".")
    if last == "original1":
        module, found, weight = head.rpartition("parametrizations.")
        plain = found and "." not in weight and (not module or module.endswith("."))
        return (module + weight, f"{head}{dot}original0") if plain else None
    stem = last.removesuffix("_v")
    return (f"{head}{dot}{stem}", f"{head}{dot}{stem}_g") if stem != last and "weight" in stem else None


def _is_original(name: str) -> bool:
    """Whether this is what a layer stores in place of its weight and transforms at every use."""
    head, _, last = name.rpartition(".")
    return (last == "original" and "parametrizations." in head) or ("weight" in last and last.endswith("_orig"))


def _fits(g: tuple[int, ...], v: tuple[int, ...]) -> bool:
    """One number, or ones but for the size of v on one axis."""
    if len(v) < 2 or 0 in v or not g:
        return len(v) >= 2 and 0 not in v
    if len(g) != len(v):
        return False
    return any(g == (1,) * axis + (v[axis],) + (1,) * (len(v) - axis - 1) for axis in range(len(v)))


def _over(g: tuple[int, ...]) -> str:
    kept = [axis for axis, size in enumerate(g) if size > 1]
    return f"all axes but {kept[0]}" if kept else "all entries"


def _load(g: Stored, v: Stored) -> Tensor:
    size, direction = g.load(), v.load()
    if not isinstance(size, Tensor) or not isinstance(direction, Tensor):
        raise ValueError(f"{g.name!r} or {v.name!r} is sparse")
    wide = torch.promote_types(torch.promote_types(size.dtype, direction.dtype), torch.float32)
    check_memory(1.0 * wide.itemsize * direction.numel(), f"the product of {g.name!r} and {v.name!r}")
    kept = next((axis for axis, k in enumerate(size.shape) if k > 1), None)
    factor = size.to(torch.promote_types(wide, torch.float64)) / _norms(direction, kept)
    return direction * factor.to(wide)


def _norms(v: Tensor, kept: int | None) -> Tensor:
    """Norms over all axes but `kept`, with axes of length 1 in their place, in float64 and without such a copy of v."""
    # one piece of an axis at a time, the longest where the pieces are summed up and the kept one where they are not
    axis = max(range(v.ndim), key=lambda i: v.shape[i]) if kept is None else kept
    step = max(1, _CHUNK * v.shape[axis] // v.numel())
    over = [i for i in range(v.ndim) if i != kept]
    wide = torch.complex128 if v.is_complex() else torch.float64
    parts = [torch.linalg.vector_norm(x.to(wide), dim=over, keepdim=True) for x in v.split(step, dim=axis)]
    if kept is not None:
        return torch.cat(parts, dim=kept)
    return torch.tensor(math.hypot(*map(float, parts)), dtype=torch.float64)
