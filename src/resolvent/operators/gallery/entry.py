"""The record of one gallery matrix, and the registry that holds them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Entry", "entries", "get"]

_MODULES = ("classical", "spectral", "nonnormal", "scaled", "graphs", "ensembles")
_REGISTRY: dict[str, Entry] = {}
_Builder = TypeVar("_Builder", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Entry:
    """One matrix of the gallery and what is known of it.

    Parameters
    ----------
    name : the function's name in `resolvent.operators.gallery`
    build : the function, called as `build(n, dtype=..., device=...)`; it returns a dense or a sparse COO tensor
    size : its default `n`, chosen so that the matrix has about 8 to 16 rows
    hermitian : the matrix equals its conjugate transpose, exactly, also after rounding to `dtype`
    positive : the exact matrix is positive semidefinite (the rounded one may miss it by `eps * norm`)
    known : closed forms of the exact matrix as functions of `n`: any of `"norm2"`, `"eigenvalues"` (with
        multiplicity, real ones ascending), `"singular_values"` (descending), `"rank"`, `"det"`, `"condition"` (2-norm)
    tags : words to choose by, such as `"ill-conditioned"`, `"nonnormal"`, `"sparse"`, `"random"`
    says : what it is, in one line
    """

    name: str
    build: Callable[..., Tensor]
    size: int
    hermitian: bool
    positive: bool
    known: Mapping[str, Callable[[int], Any]] = field(repr=False)
    tags: frozenset[str]
    says: str


def entry(
    size: int,
    *,
    hermitian: bool = False,
    positive: bool = False,
    known: Mapping[str, Callable[[int], Any]] | None = None,
    tags: Iterable[str] = (),
) -> Callable[[_Builder], _Builder]:
    """Register the decorated builder; the first line of its docstring is what the entry says."""

    def register(build: _Builder) -> _Builder:
        name = getattr(build, "__name__", "")
        says = (build.__doc__ or "").strip().splitlines()[0]
        _REGISTRY[name] = Entry(
            name, build, size, hermitian or positive, positive, MappingProxyType(dict(known or {})),
            frozenset(tags), says,
        )  # fmt: skip
        return build

    return register


def entries(tag: str | None = None) -> list[Entry]:
    """Every entry of the gallery, or those with one tag.

    Parameters
    ----------
    tag : one of the entries' tags, such as `"ill-conditioned"`; None for all of them

    Returns
    -------
    The entries in the order of the gallery.

    Raises
    ------
    ValueError : no entry has this tag

    Examples
    --------
    >>> from resolvent.operators import gallery
    >>> len(gallery.entries()) >= 60
    True
    >>> [e.name for e in gallery.entries("graded")]
    ['graded', 'graded_rows']
    """
    for module in _MODULES:
        import_module(f"{__package__}.{module}")
    everything = [e for module in _MODULES for e in _REGISTRY.values() if e.build.__module__.endswith(f".{module}")]
    if tag is None:
        return everything
    chosen = [e for e in everything if tag in e.tags]
    if not chosen:
        tags = sorted(frozenset().union(*(e.tags for e in everything)))
        raise ValueError(f"tag={tag!r} is not a tag of the gallery; the tags are {', '.join(tags)}")
    return chosen


def get(
    name: str,
    n: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Build one matrix of the gallery by its name.

    Parameters
    ----------
    name : the name of an entry
    n : the builder's size parameter; None for the entry's own
    dtype : floating or complex; a complex matrix in a real dtype comes in the complex dtype of that precision
    device : where the result lies

    Returns
    -------
    A dense tensor, or a sparse COO tensor for entries with the tag `"sparse"`.

    Raises
    ------
    ValueError : no entry has this name, or the matrix does not exist at this size

    Examples
    --------
    >>> from resolvent.operators import gallery
    >>> gallery.get("minij", 3)
    tensor([[1., 1., 1.],
            [1., 2., 2.],
            [1., 2., 3.]], dtype=torch.float64)
    """
    known = {e.name: e for e in entries()}
    if name not in known:
        raise ValueError(f"name={name!r} is not in the gallery; `entries()` lists its {len(known)} matrices")
    found = known[name]
    return found.build(found.size if n is None else n, dtype=dtype, device=device)


def checked_size(n: int, least: int = 1, name: str = "n") -> int:
    """`n` as an int of at least `least`; raises otherwise."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{name} must be an int, got {type(n).__name__}")
    if n < least:
        raise ValueError(f"{name}={n} is too small: this matrix needs {name} >= {least}")
    return n


def finish(
    values: Tensor | Sequence[Sequence[int | float | Fraction]],
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> Tensor:
    """Round exact or double-precision entries to `dtype` once."""
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"dtype={dtype} must be floating or complex")
    if not isinstance(values, Tensor):
        values = torch.tensor([[float(x) for x in row] for row in values], dtype=torch.float64)
    if values.is_complex() and not dtype.is_complex:
        dtype = dtype.to_complex()
    return values.to(device=device, dtype=dtype)


def indices(n: int, start: int = 1) -> tuple[Tensor, Tensor]:
    """Row and column numbers as float64 grids (n, 1) and (1, n), counted from `start`."""
    k = torch.arange(start, n + start, dtype=torch.float64)
    return k[:, None], k[None, :]


def from_spectrum(eigenvalues: Callable[[int], list[Any]]) -> dict[str, Callable[[int], Any]]:
    """What the eigenvalues of a normal matrix give: norm, condition, rank and determinant."""

    def condition(n: int) -> float:
        sizes = [abs(w) for w in eigenvalues(n)]
        return max(sizes) / min(sizes) if min(sizes) > 0 else math.inf

    return {
        "eigenvalues": eigenvalues,
        "norm2": lambda n: max(abs(w) for w in eigenvalues(n)),
        "condition": condition,
        "rank": lambda n: sum(w != 0 for w in eigenvalues(n)),
        "det": lambda n: math.prod(eigenvalues(n)),
    }
