"""What an index on disk holds: its vector fields, its payload columns, and how their values are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

Metric = Literal["ip", "cosine", "l2"]
_METRICS = ("ip", "cosine", "l2")
_DTYPES = ("float32", "float16", "bfloat16", "int8")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
# Names of fields are keywords of `add` and `query`.
_KEYWORDS = {
    "ids",
    "payload",
    "batch",
    "k",
    "where",
    "method",
    "ef",
    "probes",
    "refine",
    "candidates",
    "fuse",
    "cutoff",
    "rerank",
    "snapshot",
    "self",
}
PAYLOAD_TYPES = ("float", "int", "bool", "str", "datetime", "tags")
_TYPE_OF: dict[Any, str] = {
    float: "float",
    int: "int",
    bool: "bool",
    str: "str",
    datetime: "datetime",
    list[str]: "tags",
}


@dataclass(frozen=True)
class Dense:
    """A field of vectors of one length.

    Parameters
    ----------
    dim : length of a vector
    metric : "ip", "cosine" or "l2"; larger scores are better, "l2" is the negative squared distance
    dtype : how vectors are kept: "float32", "float16", "bfloat16" or "int8" (one scale a row)

    Examples
    --------
    >>> Dense(384, metric="cosine", dtype="float16")
    Dense(dim=384, metric='cosine', dtype='float16')
    """

    dim: int
    metric: Metric = "ip"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_dense(self)


@dataclass(frozen=True)
class Sparse:
    """A field of sparse vectors, scored by inner products.

    Parameters
    ----------
    size : length of a vector (of the vocabulary); None grows with what is added

    Examples
    --------
    >>> Sparse(30522)
    Sparse(size=30522)
    """

    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and (not _is_int(self.size) or not 1 <= self.size < 2**31):
            raise ValueError(f"size must be None or from 1 to 2**31 - 1, got {self.size!r}")


@dataclass(frozen=True)
class MultiVector:
    """A field of sets of vectors (one for each token), scored by the sum of each query token's best match.

    Parameters
    ----------
    dim : length of a token's vector
    metric : "ip" or "cosine"
    dtype : as for `Dense`

    Examples
    --------
    >>> MultiVector(128).metric
    'ip'
    """

    dim: int
    metric: Metric = "ip"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_dense(self)
        if self.metric == "l2":
            raise ValueError("metric must be 'ip' or 'cosine' for sets of vectors, got 'l2'")


Field = Dense | Sparse | MultiVector
_KINDS: dict[str, type[Field]] = {"Dense": Dense, "Sparse": Sparse, "MultiVector": MultiVector}


@dataclass(frozen=True)
class Schema:
    """The fields, the payload columns and the window columns of an index.

    Parameters
    ----------
    vectors : name -> `Dense`, `Sparse` or `MultiVector`
    payload : name -> one of "float", "int", "bool", "str", "datetime", "tags"
    window : payload columns that intervals are asked of

    Examples
    --------
    >>> Schema.of({"text": Dense(4)}, {"price": float, "tags": list[str]}, ["price"]).payload
    {'price': 'float', 'tags': 'tags'}
    """

    vectors: dict[str, Field]
    payload: dict[str, str] = field(default_factory=dict)
    window: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, vectors: Mapping[str, Field], payload: Mapping[str, Any] | None = None, window: Sequence[str] | str = ()
    ) -> Schema:
        """The schema as a user writes it, checked."""
        fields = dict(vectors)
        if not fields:
            raise ValueError("vectors must name at least one field")
        for name, kind in fields.items():
            _check_name(name, "vectors")
            if name in _KEYWORDS:
                raise ValueError(f"vectors has the field {name!r}, which is an argument of add or query: rename it")
            if not isinstance(kind, Field):
                raise TypeError(f"vectors[{name!r}] must be Dense, Sparse or MultiVector, got {kind!r}")
        columns = {name: _type_of(name, kind) for name, kind in (payload or {}).items()}
        for name in columns:
            _check_name(name, "payload")
        for group, names in (("vectors", fields), ("payload", columns)):
            if len({name.lower() for name in names}) < len(names):
                raise ValueError(f"{group} has two names that differ only in case: {sorted(names)}")
        if "row" in (name.lower() for name in columns):
            raise ValueError("payload has the column 'row', which the store uses itself: rename it")
        asked = (window,) if isinstance(window, str) else tuple(window)
        for name in asked:
            if columns.get(name) not in ("float", "int", "datetime"):
                raise ValueError(
                    f"window names {name!r}, which must be a payload column of type float, int or datetime"
                )
        return cls(fields, columns, asked)

    @property
    def scalars(self) -> dict[str, str]:
        """The columns with one value a row: all but the tags."""
        return {name: kind for name, kind in self.payload.items() if kind != "tags"}

    @property
    def tags(self) -> list[str]:
        """The columns that hold lists of strings."""
        return [name for name, kind in self.payload.items() if kind == "tags"]


def field_to_json(kind: Field) -> dict[str, Any]:
    """A field as a JSON object."""
    return {"kind": type(kind).__name__, **asdict(kind)}


def field_from_json(data: Any) -> Field:
    """The field that `field_to_json` wrote; anything else is a ValueError."""
    if not isinstance(data, dict) or data.get("kind") not in _KINDS:
        raise ValueError(f"a field must be a JSON object whose kind is one of {', '.join(_KINDS)}, got {data!r:.80}")
    try:
        return _KINDS[data["kind"]](**{name: value for name, value in data.items() if name != "kind"})
    except TypeError as error:
        raise ValueError(f"a field has unknown settings: {data!r:.200}") from error


def _check_dense(kind: Dense | MultiVector) -> None:
    if not _is_int(kind.dim) or not 1 <= kind.dim <= 1 << 20:
        raise ValueError(f"dim must be an integer from 1 to {1 << 20}, got {kind.dim!r}")
    if kind.metric not in _METRICS:
        raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {kind.metric!r}")
    if kind.dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {kind.dtype!r}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_name(name: Any, argument: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{argument} has the name {name!r}; a name is a letter and then at most 62 letters, digits or underscores"
        )


def _type_of(name: str, kind: Any) -> str:
    known = kind if isinstance(kind, str) else _TYPE_OF.get(kind)
    known = "tags" if known == "list[str]" else known
    if known not in PAYLOAD_TYPES:
        raise TypeError(f"payload[{name!r}] must be float, int, bool, str, 'datetime' or list[str], got {kind!r}")
    return known
