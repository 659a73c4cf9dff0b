"""What a filter means: as parameterised SQL for the store, in Python for one row, as an interval for a window index."""

from __future__ import annotations

import datetime as dt
import json
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from resolvent.search.expressions import (
    And,
    Between,
    Compare,
    Contains,
    Expression,
    F,
    In,
    IsNull,
    Not,
    Or,
    StartsWith,
)

__all__ = ["F", "Interval", "compile", "evaluate", "interval", "quote", "stored_value"]

_SQL = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_PYTHON = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# SQLite takes 32766 parameters; a longer list goes in as one JSON text.
_PARAMETERS, _LIST = 32_000, 64
_DEEPEST, _WIDTH = 100, 4


class Interval(NamedTuple):
    """The values of one field between two ends, both included, as they are stored."""

    field: str
    low: float
    high: float


def quote(name: str) -> str:
    """A name of a column as SQL.

    Parameters
    ----------
    name : any text without a null character

    Returns
    -------
    The name between double quotes, inner ones doubled.

    Examples
    --------
    >>> quote('say "x" twice')
    '"say ""x"" twice"'
    """
    if "\0" in name:
        raise ValueError(f"a name of a field cannot hold a null character, got {name!r}")
    return '"' + name.replace('"', '""') + '"'


def stored_value(kind: str, value: Any, name: str) -> Any:
    """A value of a payload field as it lies in the database: bool as 0 or 1, datetime as microseconds since 1970 UTC.

    Parameters
    ----------
    kind : "float", "int", "bool", "str", "datetime" or "tags" (one tag)
    value : of the Python or NumPy type that fits; a datetime is also a date (its midnight) or an ISO 8601 text, and UTC
        where it names no zone
    name : of the field, for the error

    Returns
    -------
    int, float or str; an int may stay an int in a float field, since SQLite compares them exactly.

    Raises
    ------
    ValueError : the value has another type, is NaN, or does not fit into 64 bits.

    Examples
    --------
    >>> stored_value("datetime", dt.date(1970, 1, 2), "added"), stored_value("bool", True, "new")
    (86400000000, 1)
    """
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    made: Any = None
    if kind in ("str", "tags"):
        made = value if isinstance(value, str) and _encodes(value) else None
    elif kind == "bool":
        made = int(value) if isinstance(value, bool) else None
    elif kind == "datetime":
        made = _microseconds(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name}: {value} does not fit into 64 bits")
        made = value
    elif isinstance(value, float) and not math.isnan(value):
        made = value
    if made is None:
        wanted = {"float": "a number", "int": "a number", "bool": "True or False", "datetime": "a datetime or ISO 8601"}
        raise ValueError(f"{name} holds {kind}: a value must be {wanted.get(kind, 'a text')}, got {value!r}")
    return made


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _microseconds(value: Any) -> int | None:
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else int(value.astype("datetime64[us]").astype(np.int64))
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        return (aware - _EPOCH) // dt.timedelta(microseconds=1)
    if isinstance(value, dt.date):
        return (value - _EPOCH.date()).days * 86_400_000_000
    return None


def compile(expression: Expression, types: Mapping[str, str]) -> tuple[str, list[Any]]:
    """A filter as a condition of SQL with its parameters: no value ever becomes a part of the text.

    Parameters
    ----------
    expression : made from `F`
    types : the payload fields and their types: "float", "int", "bool", "str", "datetime" or "tags"

    Returns
    -------
    (sql, parameters) over the table `payload`, one column a field and the column `row`; tags are rows of the table
    tags(row, field, tag).

    Raises
    ------
    ValueError : a field that is not declared, a value of another type than its field, NaN, a comparison with None, an
        operation that the type does not have, more than 32000 parameters, conditions nested 100 deep.
    TypeError : `expression` is no condition.

    Examples
    --------
    >>> compile((F.price <= 20) & ~F.lang.in_(["de", "fr"]), {"price": "float", "lang": "str"})
    ('("price" <= ? AND NOT ("lang" IN (?, ?)))', [20, 'de', 'fr'])
    """
    sql, parameters = _sql(expression, types, 0)
    if len(parameters) > _PARAMETERS:
        raise ValueError(f"the filter has {len(parameters)} values, at most {_PARAMETERS} are possible")
    return sql, parameters


def evaluate(expression: Expression, row: Mapping[str, Any], types: Mapping[str, str]) -> bool:
    """Whether one row matches a filter, by the logic of SQL; what the compiled filter is tested against.

    Parameters
    ----------
    expression : made from `F`
    row : the values of the row by field; None or absent: no value; tags as a list of texts
    types : as `compile` takes them

    Returns
    -------
    True where the condition is true; False where it is false or unknown.

    Examples
    --------
    >>> types = {"price": "float"}
    >>> evaluate(F.price != 3, {"price": 4.0}, types), evaluate(F.price != 3, {"price": None}, types)
    (True, False)
    """
    return _truth(expression, row, types) is True


def interval(expression: Expression | None, types: Mapping[str, str]) -> Interval | None:
    """The one interval of one field that a filter is, if it is no more than that.

    Parameters
    ----------
    expression : made from `F`, or None
    types : as `compile` takes them

    Returns
    -------
    Interval of stored values, both ends included and infinite where open (low > high if nothing can match), or None
    when the filter is anything else.

    Notes
    -----
    A strict end moves to the next stored value: by one for int and datetime, to the next float64 for float.

    Examples
    --------
    >>> interval((F.year >= 1990) & (F.year < 2000), {"year": "int"})
    Interval(field='year', low=1990, high=1999)
    """
    parts = expression.parts if isinstance(expression, And) else (expression,)
    low, high, names = -math.inf, math.inf, set()
    for part in parts:
        if not isinstance(part, Compare | Between) or types.get(part.field) not in ("float", "int", "datetime"):
            return None
        names.add(part.field)
        ends = _ends(part, types[part.field])
        if ends is None or len(names) > 1:
            return None
        if math.isnan(ends[0]) or math.isnan(ends[1]):
            low, high = math.inf, -math.inf
        low, high = max(low, ends[0]), min(high, ends[1])
    return Interval(names.pop(), low, high)


def _ends(part: Compare | Between, kind: str) -> tuple[float, float] | None:
    if isinstance(part, Between):
        return stored_value(kind, part.low, part.field), stored_value(kind, part.high, part.field)
    if part.operator == "!=":
        return None
    value = stored_value(kind, part.value, part.field)
    if part.operator == "==":
        return value, value
    if part.operator in ("<", "<="):
        return -math.inf, value if part.operator == "<=" else -_above(-value, kind)
    return value if part.operator == ">=" else _above(value, kind), math.inf


def _above(value: float, kind: str) -> float:
    """The smallest value above this one that a field can hold, NaN where there is none."""
    if value == math.inf:
        return math.nan
    if kind != "float":
        return value if value == -math.inf else math.floor(value) + 1
    # An integer above 2**53 may have no float64 of its own.
    near = float(value)
    return near if near > value else math.nextafter(near, math.inf)


def _kind(field: str, types: Mapping[str, str]) -> str:
    if field not in types:
        declared = ", ".join(types) or "none"
        raise ValueError(f"the index has no payload field {field!r}; it has {declared}")
    return types[field]


def _value(kind: str, value: Any, field: str, operation: str) -> Any:
    """A stored value, if the type knows the operation."""
    if value is None:
        raise ValueError(f"{field}: None cannot be compared; ask for is_null()")
    if kind == "tags":
        raise ValueError(f"{field} holds tags, which have contains() and is_null(), and no {operation}")
    if kind == "bool" and operation not in ("==", "!=", "in_"):
        raise ValueError(f"{field} holds bool, which has no {operation}")
    return stored_value(kind, value, field)


def _text(kind: str, value: Any, field: str, operation: str, kinds: tuple[str, ...]) -> str:
    if kind not in kinds:
        raise ValueError(f"{field} holds {kind}, which has no {operation}()")
    return stored_value(kind, value, field)


def _sql(e: Expression, types: Mapping[str, str], depth: int) -> tuple[str, list[Any]]:
    if depth > _DEEPEST:
        raise ValueError(f"the filter is nested more than {_DEEPEST} deep")
    if isinstance(e, And | Or):
        compiled = [_sql(p, types, depth + 1) for p in e.parts]
        joined = _balanced([sql for sql, _ in compiled], " AND " if isinstance(e, And) else " OR ")
        return joined, [value for _, values in compiled for value in values]
    if isinstance(e, Not):
        sql, parameters = _sql(e.part, types, depth + 1)
        return f"NOT ({sql})", parameters
    if not isinstance(e, Compare | Between | In | IsNull | Contains | StartsWith):
        raise TypeError(f"a filter must be a condition made from F, got {e!r}")
    kind, column = _kind(e.field, types), quote(e.field)
    if isinstance(e, Compare):
        return f"{column} {_SQL[e.operator]} ?", [_value(kind, e.value, e.field, e.operator)]
    if isinstance(e, Between):
        return f"{column} BETWEEN ? AND ?", [_value(kind, v, e.field, "between") for v in (e.low, e.high)]
    if isinstance(e, In):
        return _in_sql(column, [_value(kind, v, e.field, "in_") for v in e.values])
    tagged = "row IN (SELECT row FROM tags WHERE field = ?"
    if isinstance(e, IsNull):
        return (f"NOT ({tagged}))", [e.field]) if kind == "tags" else (f"{column} IS NULL", [])
    if isinstance(e, StartsWith):
        start = _text(kind, e.value, e.field, "startswith", ("str",))
        bytes_ = start.encode()
        if not start:
            return f"{column} >= ?", [start]
        return f"({column} >= ? AND substr({_blob(column)}, 1, ?) = ?)", [start, len(bytes_), bytes_]
    text = _text(kind, e.value, e.field, "contains", ("str", "tags"))
    if kind == "tags":
        return f"{tagged} AND tag = ?)", [e.field, text]
    return f"instr({_blob(column)}, ?) > 0", [text.encode()]


def _blob(column: str) -> str:
    """SQLite's functions of texts stop at a null character; those of bytes do not."""
    return f"CAST({column} AS BLOB)"


def _in_sql(column: str, values: list[Any]) -> tuple[str, list[Any]]:
    if len(values) <= _LIST:
        return f"{column} IN ({', '.join('?' * len(values))})", values
    # SQLite reads floats in JSON with its own rounding, and cuts texts at a null character: these stay parameters.
    plain = [v for v in values if isinstance(v, int) or (isinstance(v, str) and "\0" not in v)]
    rest = [v for v in values if not (isinstance(v, int) or (isinstance(v, str) and "\0" not in v))]
    listed = f"{column} IN (SELECT value FROM json_each(?))"
    if not rest:
        return listed, [json.dumps(plain)]
    return f"({listed} OR {column} IN ({', '.join('?' * len(rest))}))", [json.dumps(plain), *rest]


def _balanced(parts: list[str], word: str) -> str:
    """Joined as a balanced tree: SQLite allows expressions 1000 deep, and a long chain is as deep as it is long."""
    while len(parts) > 1:
        pairs = [parts[i : i + _WIDTH] for i in range(0, len(parts), _WIDTH)]
        parts = [f"({word.join(pair)})" if len(pair) > 1 else pair[0] for pair in pairs]
    return parts[0]


def _truth(e: Expression, row: Mapping[str, Any], types: Mapping[str, str]) -> bool | None:
    """True, False or None (unknown)."""
    if isinstance(e, And | Or):
        found = [_truth(p, row, types) for p in e.parts]
        decides = isinstance(e, Or)
        return decides if decides in found else None if None in found else not decides
    if isinstance(e, Not):
        inner = _truth(e.part, row, types)
        return None if inner is None else not inner
    if not isinstance(e, Compare | Between | In | IsNull | Contains | StartsWith):
        raise TypeError(f"a filter must be a condition made from F, got {e!r}")
    kind, own = _kind(e.field, types), row.get(e.field)
    if isinstance(e, IsNull):
        return not own if kind == "tags" else own is None
    if isinstance(e, Contains) and kind == "tags":
        return _text(kind, e.value, e.field, "contains", ("tags",)) in (own or ())
    return _compared(e, kind, None if own is None or kind == "tags" else stored_value(kind, own, e.field))


def _compared(e: Compare | Between | In | Contains | StartsWith, kind: str, own: Any) -> bool | None:
    if isinstance(e, In):
        values = [_value(kind, v, e.field, "in_") for v in e.values]
        return False if not values else None if own is None else own in values
    if isinstance(e, Between):
        low, high = (_value(kind, v, e.field, "between") for v in (e.low, e.high))
        return None if own is None else low <= own <= high
    if isinstance(e, Compare):
        value = _value(kind, e.value, e.field, e.operator)
        return None if own is None else bool(_PYTHON[e.operator](own, value))
    text = _text(kind, e.value, e.field, "contains" if isinstance(e, Contains) else "startswith", ("str",))
    if own is None:
        return None
    return text in own if isinstance(e, Contains) else own.startswith(text)
