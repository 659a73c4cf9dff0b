"""Batches taken apart by shard, and the shards' answers put together again."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.search.schema import Field, MultiVector, Sparse


def length(value: Any) -> int:
    """Rows of what was given for a field."""
    if isinstance(value, tuple):
        return len(value[1]) - 1
    return int(value.shape[0]) if hasattr(value, "shape") else len(value)


def some_rows(value: Any, rows: np.ndarray) -> Any:
    """Some rows of what was given for a field, in a form that a field takes."""
    if isinstance(value, tuple):
        tokens, offsets = value
        return [tokens[int(offsets[i]) : int(offsets[i + 1])] for i in rows.tolist()]
    if isinstance(value, list):
        return [value[i] for i in rows.tolist()]
    return value.tocsr()[rows] if hasattr(value, "tocsr") else value[rows]


def in_order(parts: list[tuple[np.ndarray, list[Any]]], n: int) -> list[Any]:
    made: list[Any] = [None] * n
    for rows, values in parts:
        for row, value in zip(rows.tolist(), values, strict=True):
            made[row] = value
    return made


def stacked(kind: Field, parts: list[tuple[np.ndarray, Any]], n: int) -> Any:
    """The vectors of all shards' records in the order asked for."""
    if isinstance(kind, MultiVector):
        return in_order([(rows, list(own)) for rows, own in parts], n)
    where = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
    if isinstance(kind, Sparse):
        import scipy.sparse

        width = max(own.shape[1] for _, own in parts)
        wide = [scipy.sparse.csr_matrix((own.data, own.indices, own.indptr), (own.shape[0], width)) for _, own in parts]
        return scipy.sparse.vstack(wide).tocsr()[where]
    return np.concatenate([own for _, own in parts])[where]
