"""Sets of vectors of different sizes: all tokens one after the other, and where each set begins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite


class Sets(NamedTuple):
    """Sets of tokens; set i is ``tokens[offsets[i] : offsets[i + 1]]``.

    Attributes
    ----------
    tokens : (t, d) floating tensor
    offsets : (n + 1,) int64 array that begins with 0, ends with t and rises
    kind : of the tokens as the user gave them
    single : one set was given, not several
    """

    tokens: Tensor
    offsets: np.ndarray
    kind: Kind
    single: bool

    @property
    def n(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)

    def owners(self) -> np.ndarray:
        """(t,) the set of each token."""
        return np.repeat(np.arange(self.n), self.sizes)


def as_sets(x: Any, name: str, *, dim: int | None = None) -> Sets:
    """Sets as the user gave them: ``(tokens, offsets)``, one (t, d) array, an (n, t, d) array, or a list of arrays."""
    if isinstance(x, tuple) and len(x) == 2 and np.ndim(x[1]) == 1:
        tokens, kind = _tokens(x[0], name)
        return _checked(tokens, as_offsets(x[1], len(tokens), name), kind, False, name, dim)
    if isinstance(x, list | tuple):
        if not x:
            raise ValueError(f"{name} must hold at least one set of tokens")
        parts = [_tokens(part, f"{name}[{i}]") for i, part in enumerate(x)]
        if len({part.shape[1] for part, _ in parts}) > 1:
            raise ValueError(f"{name} must hold tokens of one length, got {sorted({p.shape[1] for p, _ in parts})}")
        offsets = np.cumsum([0, *(len(part) for part, _ in parts)]).astype(np.int64)
        common: Kind = "numpy" if all(k == "numpy" for _, k in parts) else "torch"
        return _checked(torch.cat([part for part, _ in parts]), offsets, common, False, name, dim)
    t, kind = as_tensor(x, name)
    if t.ndim == 3:
        n, size, width = t.shape
        return _checked(t.reshape(n * size, width), np.arange(n + 1) * size, kind, False, name, dim)
    tokens, kind = _tokens(x, name)
    return _checked(tokens, np.array([0, len(tokens)]), kind, True, name, dim)


def as_offsets(offsets: Any, total: int, name: str) -> np.ndarray:
    """Offsets (n + 1,) of sets of at least one token each, checked."""
    raw = offsets.detach().cpu().numpy() if isinstance(offsets, Tensor) else np.asarray(offsets)
    if raw.ndim != 1 or raw.dtype.kind not in "iu" or len(raw) < 2:
        raise ValueError(f"offsets of {name} must be (n + 1,) integers, n >= 1, got {raw.dtype} {raw.shape}")
    made = np.ascontiguousarray(raw, dtype=np.int64)
    if made[0] != 0 or made[-1] != total:
        raise ValueError(f"offsets of {name} must begin with 0 and end with {total}, got {made[0]} and {made[-1]}")
    sizes = np.diff(made)
    if (sizes < 1).any():
        at = int(np.argmax(sizes < 1))
        found = "has no tokens" if sizes[at] == 0 else "ends before it begins"
        raise ValueError(f"every set of {name} needs at least one token: set {at} {found}")
    return made


def joined_rows(offsets: np.ndarray, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The token rows of these sets, one set after the other, and the offsets of the result."""
    sizes = (offsets[1:] - offsets[:-1])[sets]
    inner = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    shift = np.repeat(offsets[:-1][sets] - inner[:-1], sizes)
    return np.arange(inner[-1]) + shift, inner


def blocks(offsets: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Ranges of sets with at most `most` tokens each, and at least one set."""
    ranges, first = [], 0
    n = len(offsets) - 1
    while first < n:
        last = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
        last = min(max(last, first + 1), n)
        ranges.append((first, last))
        first = last
    return ranges


def _tokens(x: Any, name: str) -> tuple[Tensor, Kind]:
    t, kind = as_tensor(x, name)
    if t.is_complex():
        raise TypeError(f"{name} must be real, got {t.dtype}")
    if t.ndim != 2 or t.shape[1] == 0:
        raise ValueError(f"{name} must hold tokens of shape (t, d) with d >= 1, got {tuple(t.shape)}")
    return t, kind


def _checked(tokens: Tensor, offsets: np.ndarray, kind: Kind, single: bool, name: str, dim: int | None) -> Sets:
    if dim is not None and tokens.shape[1] != dim:
        raise ValueError(f"{name} must have tokens of length {dim}, got {tokens.shape[1]}")
    check_finite(tokens, name)
    return Sets(tokens, as_offsets(offsets, len(tokens), name), kind, single)
