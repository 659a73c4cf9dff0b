"""Records of an index as a pyarrow table."""

from __future__ import annotations

from typing import Any

import numpy as np

from resolvent.search.schema import Dense, Sparse
from resolvent.search.snapshot import Snapshot


def table(snapshot: Snapshot, rows: np.ndarray) -> Any:
    """These rows: "id", the declared payload columns with their types, and the vectors of each field."""
    import pyarrow as pa

    kinds = {
        "float": pa.float64(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "str": pa.string(),
        "datetime": pa.timestamp("us", "UTC"),
        "tags": pa.list_(pa.string()),
    }
    payload = snapshot.payload(rows)
    columns = {"id": pa.array(snapshot.ids(rows).tolist(), pa.string() if snapshot.strings else pa.int64())}
    for name, values in payload.items():
        # A name may be that of a field: vectors come last and keep it.
        declared = snapshot.schema.payload.get(name)
        columns[f"payload.{name}" if name in ("id", *snapshot.schema.vectors) else name] = (
            pa.array(values, kinds[declared])
            if declared
            else pa.array([None if v is None else _text(v) for v in values])
        )
    for name, field in snapshot.schema.vectors.items():
        columns[name] = _vectors(pa, field, snapshot.take(name, rows))
    return pa.table(columns)


def _vectors(pa: Any, field: Any, x: Any) -> Any:
    if isinstance(field, Sparse):
        entries = pa.StructArray.from_arrays(
            [pa.array(x.indices.astype(np.int64)), pa.array(x.data)], ["index", "value"]
        )
        return pa.ListArray.from_arrays(pa.array(x.indptr.astype(np.int32)), entries)
    if isinstance(field, Dense):
        missing = np.isnan(x[:, 0]) if len(x) else np.zeros(0, bool)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), field.dim)
        if not missing.any():
            return flat
        # A record without a vector is a null.
        return flat.take(pa.array([None if gone else i for i, gone in enumerate(missing.tolist())], pa.int64()))
    tokens = np.concatenate(x) if x else np.empty((0, field.dim), np.float32)
    ends = np.cumsum([0, *(len(one) for one in x)])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), field.dim)
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), flat)


def _text(value: Any) -> str:
    import json

    return json.dumps(value)
