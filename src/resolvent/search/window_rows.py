"""Labels, ends of windows, and answers that are put together from parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from resolvent.search.hits import Found


def nothing(b: int, k: int) -> Found:
    """An answer without hits and without work."""
    work = np.zeros(b, np.int64)
    return Found(np.full((b, k), -1, np.int64), np.full((b, k), -np.inf, np.float32), work, work.copy())


def put(found: Found, mine: Any, part: Found) -> None:
    """Write the answer for some of the queries."""
    for whole, own in zip(found, part, strict=True):
        whole[mine] = own


def inside_window(found: Found, begin: np.ndarray, end: np.ndarray, k: int) -> Found:
    """The first k rows of each query that lie in its window."""
    inside = (found.rows >= begin[:, None]) & (found.rows < end[:, None])
    order = np.argsort(~inside, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(inside, order, 1)
    rows = np.where(kept, np.take_along_axis(found.rows, order, 1), -1)
    scores = np.where(kept, np.take_along_axis(found.scores, order, 1), np.float32(-np.inf))
    return found._replace(rows=rows, scores=scores)


def _numbers(values: Any, name: str) -> np.ndarray:
    """Numbers as int64 or float64."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got dtype {array.dtype}")
    array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    if np.isnan(array).any():
        raise ValueError(f"{name} must not be NaN")
    return array


def as_labels(labels: Any, n: int) -> np.ndarray:
    if labels is None:
        raise ValueError("labels must be given: a number for each row")
    found = _numbers(labels, "labels")
    if found.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {found.shape}")
    return found


def as_ends(low: Any, high: Any, whole: bool, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of each query's window, comparable with the labels: whole numbers for whole labels."""
    limits = np.iinfo(np.int64)
    found = []
    for value, name, default, inward in ((low, "low", -np.inf, np.ceil), (high, "high", np.inf, np.floor)):
        end = _numbers(default if value is None else value, name)
        if end.ndim > 1 or (end.ndim == 1 and len(end) != b):
            raise ValueError(f"{name} must be a number or one for each of the {b} queries, got shape {end.shape}")
        if whole and end.dtype != np.int64:
            # No window of whole numbers changes; 2^63 itself is not an int64.
            rounded = inward(end)
            inner = np.clip(rounded, -(2.0**62), 2.0**62).astype(np.int64)
            end = np.where(rounded > 2.0**62, limits.max, np.where(rounded < -(2.0**62), limits.min, inner))
        found.append(np.array(np.broadcast_to(end if whole else end.astype(np.float64), (b,))))
    return found[0], found[1]
