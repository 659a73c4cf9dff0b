"""Payload values between what a user gives, what the database keeps, and what a user gets back."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from resolvent.search.schema import Schema

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NONE = np.uint64(0x6E6F6E65)


def to_stored(kind: str, value: Any, name: str) -> Any:
    """One value as the database keeps it: datetimes are microseconds since 1970 in UTC, booleans 0 and 1."""
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = _plain(value, kind)
    made = _CONVERT[kind](value)
    if made is None:
        raise TypeError(f"payload {name!r} must be {_WANTED[kind]}, got {value!r:.80}")
    return made


def from_stored(kind: str, value: Any) -> Any:
    """The value that `to_stored` kept."""
    if value is None:
        return None
    if kind == "datetime":
        return _EPOCH + timedelta(microseconds=value)
    return bool(value) if kind == "bool" else value


def read_columns(payload: Any, schema: Schema, n: int) -> tuple[dict[str, list[Any]], list[str | None]]:
    """Payload of n rows as columns of stored values, and the JSON of the undeclared rest (None where there is none).

    `payload` is a mapping of columns, a sequence of mappings, one mapping of plain values (n = 1), or a table
    (pandas, pyarrow). Tags stay lists of distinct strings.
    """
    given = as_columns(payload, n)
    for name, column in given.items():
        if not isinstance(name, str):
            raise TypeError(f"payload has the column {name!r}; names are strings")
        if len(column) != n:
            raise ValueError(f"payload {name!r} must have one value for each of the {n} rows, got {len(column)}")
    columns = {}
    for name, kind in schema.payload.items():
        values: list[Any] | None = given.pop(name) if name in given else None
        made = [None] * n if values is None else _column(kind, values, name)
        # No tags and an empty list of tags are the same thing: there is nothing to keep.
        columns[name] = [tags or [] for tags in made] if kind == "tags" else made
    return columns, _rest(given, n)


def row_sums(rows: np.ndarray, ids: Any, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """A 64-bit sum of each row's content, by which `verify` sees a changed byte; the sums of a batch add up.

    `columns` are stored values; tags are lists of strings. Each value is mixed with its row and its column, so that
    values that change places are seen too.
    """
    place = mixed(rows.astype(np.uint64))
    total = mixed(place ^ _hashes(ids) ^ np.uint64(zlib.crc32(b"_id")))
    with np.errstate(over="ignore"):
        for name, values in columns.items():
            salt = np.uint64(zlib.crc32(name.encode()) + (1 << 32))
            total = total + mixed(place ^ mixed(_hashes(values) + salt))
    return total


def mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input reaches every bit of the output."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def sum_of(sums: np.ndarray) -> int:
    """The sum of row sums as a signed 64-bit integer, as the database keeps it."""
    return int(np.asarray(sums, np.uint64).sum(dtype=np.uint64).astype(np.int64)) if len(sums) else 0


def seal(values: Iterable[Any]) -> int:
    """A checksum of one row of the store's own tables."""
    return zlib.crc32(json.dumps(list(values), separators=(",", ":")).encode())


def _hashes(values: Any) -> np.ndarray:
    """A 64-bit number for each stored value, by its type and content."""
    if isinstance(values, np.ndarray) and values.dtype == np.int64:
        return mixed(values.view(np.uint64) + np.uint64(1))
    kinds = set(map(type, values))
    if kinds == {int}:
        return mixed(np.array(values, np.int64).view(np.uint64) + np.uint64(1))
    if kinds == {float}:
        return mixed(np.array(values, np.float64).view(np.uint64) ^ np.uint64(0xF10A7))
    if kinds == {type(None)}:
        return np.full(len(values), _NONE)
    if kinds <= {str, type(None)}:
        # Most columns of texts have few different ones.
        table = {value: _hash(value) for value in set(values)}
        return np.fromiter(map(table.__getitem__, values), np.uint64, len(values))
    return np.fromiter(map(_hash, values), np.uint64, len(values))


def _hash(value: Any) -> int:
    if value is None:
        return int(_NONE)
    if isinstance(value, str):
        raw = value.encode()
        return zlib.crc32(raw) | (len(raw) << 32)
    if isinstance(value, list):
        return sum(_hash(v) * 0x9E3779B97F4A7C15 for v in value) & 0xFFFFFFFFFFFFFFFF
    one = np.array([value], np.float64 if isinstance(value, float) else np.int64)
    return int(_hashes([one[0].item()])[0])


def as_columns(payload: Any, n: int) -> dict[str, list[Any]]:
    if payload is None:
        return {}
    if hasattr(payload, "to_pydict"):
        payload = payload.to_pydict()
    elif hasattr(payload, "to_dict") and hasattr(payload, "columns"):
        payload = {name: payload[name].to_numpy() for name in payload.columns}
    if isinstance(payload, Mapping):
        return {name: _listed(values, n) for name, values in payload.items()}
    if isinstance(payload, Sequence) and not isinstance(payload, str):
        if len(payload) != n:
            raise ValueError(f"payload must have one mapping for each of the {n} rows, got {len(payload)}")
        if not all(isinstance(one, Mapping) for one in payload):
            raise TypeError("payload must be a mapping of columns or a list of mappings")
        names = dict.fromkeys(name for one in payload for name in one)
        return {name: [one.get(name) for one in payload] for name in names}
    raise TypeError(
        f"payload must be a mapping of columns, a list of mappings or a table, got {type(payload).__name__}"
    )


def _listed(values: Any, n: int) -> list[Any]:
    if isinstance(values, np.ndarray):
        # Microseconds keep their meaning as datetime64 and not as the integers of tolist().
        return list(values) if values.dtype.kind in "Mm" else values.tolist()
    if hasattr(values, "tolist"):
        return _listed(np.asarray(values), n) if getattr(values, "ndim", 1) else [values.tolist()]
    if isinstance(values, list | tuple) and (n != 1 or len(values) == 1):
        return list(values)
    if n == 1:
        return [values]
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"a payload column must be a sequence of {n} values, got {values!r:.80}")
    return list(values)


def _column(kind: str, values: list[Any], name: str) -> list[Any]:
    kinds = set(map(type, values))
    # What needs no work value by value: a column of Python's own type.
    if kind == "float" and kinds == {float}:
        array = np.array(values)
        if not np.isnan(array).any():
            return (array + 0.0).tolist()
    if kind == "int" and kinds == {int} and min(values) >= -(2**63) and max(values) < 2**63:
        return values
    if kind == "str" and kinds == {str} and _encodes("".join(values)):
        return values
    return [to_stored(kind, value, name) for value in values]


def _rest(given: dict[str, list[Any]], n: int) -> list[str | None]:
    if not given:
        return [None] * n
    made: list[str | None] = []
    for i in range(n):
        one = {name: _plain(v[i], "") for name, v in given.items() if v[i] is not None}
        try:
            made.append(json.dumps(one, allow_nan=False, ensure_ascii=True) if one else None)
        except (TypeError, ValueError) as error:
            raise TypeError(f"payload of row {i} has undeclared columns that JSON cannot hold: {one!r:.200}") from error
    return made


def _plain(value: Any, kind: str) -> Any:
    """A NumPy scalar as Python's own."""
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            return None if kind == "datetime" else str(value)
        micro = int(value.astype("datetime64[us]").astype(np.int64))
        return _EPOCH + micro * _MICROSECOND if kind == "datetime" else str(value)
    return value.item() if isinstance(value, np.generic) else value


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    made = float(value)
    # SQLite keeps NaN as NULL and -0.0 as 0: the first would lie, the second would break the checksum.
    return None if made != made else made + 0.0


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def _bool(value: Any) -> int | None:
    return int(value) if isinstance(value, bool) else None


def _str(value: Any) -> str | None:
    return str(value) if isinstance(value, str) and _encodes(value) else None


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _datetime(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def _tags(value: Any) -> list[str] | None:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return None
    made = [_str(one) for one in value]
    return None if None in made else sorted({one for one in made if one is not None})


_CONVERT = {"float": _float, "int": _int, "bool": _bool, "str": _str, "datetime": _datetime, "tags": _tags}
_WANTED = {
    "float": "a number that is not NaN, or None",
    "int": "an int64, or None",
    "bool": "True, False or None",
    "str": "a string that UTF-8 can hold, or None",
    "datetime": "a datetime (one without a zone counts as UTC), an ISO 8601 string, or None",
    "tags": "a list of strings, or None",
}
