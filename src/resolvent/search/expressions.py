"""Conditions on the payload of an index, written as Python: `(F.price < 20) & (F.lang == "de")`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class Expression:
    """A condition on the payload of a row; made from `F`, joined with ``&``, ``|`` and ``~``.

    Notes
    -----
    Logic is SQL's: a comparison with a missing value is neither true nor false, its negation neither, and only rows
    for which the whole is true match. ``and``, ``or``, ``not`` and chains as ``1 < F.x < 2`` are a TypeError, since
    Python would drop a part of them.

    Examples
    --------
    >>> (F.price < 20) & ~(F.lang == "de")
    (F.price < 20) & ~(F.lang == 'de')
    """

    def __and__(self, other: Expression) -> Expression:
        return _join(And, self, other)

    def __or__(self, other: Expression) -> Expression:
        return _join(Or, self, other)

    def __invert__(self) -> Expression:
        return self.part if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no truth value: join conditions with & | ~ and write F.x.between(low, high)")


@dataclass(frozen=True, repr=False)
class Compare(Expression):
    """``field operator value``."""

    field: str
    operator: str
    value: Any

    def __repr__(self) -> str:
        return f"({_shown(self.field)} {self.operator} {self.value!r})"


@dataclass(frozen=True, repr=False)
class Between(Expression):
    """``low <= field <= high``."""

    field: str
    low: Any
    high: Any

    def __repr__(self) -> str:
        return f"{_shown(self.field)}.between({self.low!r}, {self.high!r})"


@dataclass(frozen=True, repr=False)
class In(Expression):
    """The field is one of the values."""

    field: str
    values: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{_shown(self.field)}.in_({list(self.values)!r})"


@dataclass(frozen=True, repr=False)
class IsNull(Expression):
    """The field has no value; for tags, no tag."""

    field: str

    def __repr__(self) -> str:
        return f"{_shown(self.field)}.is_null()"


@dataclass(frozen=True, repr=False)
class Contains(Expression):
    """The tag is among the field's tags, or the text is a part of the field's text."""

    field: str
    value: str

    def __repr__(self) -> str:
        return f"{_shown(self.field)}.contains({self.value!r})"


@dataclass(frozen=True, repr=False)
class StartsWith(Expression):
    """The field's text begins so."""

    field: str
    value: str

    def __repr__(self) -> str:
        return f"{_shown(self.field)}.startswith({self.value!r})"


@dataclass(frozen=True, repr=False)
class And(Expression):
    """All parts are true."""

    parts: tuple[Expression, ...]

    def __repr__(self) -> str:
        return " & ".join(f"({p!r})" if isinstance(p, Or) else repr(p) for p in self.parts)


@dataclass(frozen=True, repr=False)
class Or(Expression):
    """One part is true."""

    parts: tuple[Expression, ...]

    def __repr__(self) -> str:
        return " | ".join(f"({p!r})" if isinstance(p, And) else repr(p) for p in self.parts)


@dataclass(frozen=True, repr=False)
class Not(Expression):
    """The part is false."""

    part: Expression

    def __repr__(self) -> str:
        return f"~({self.part!r})" if isinstance(self.part, And | Or) else f"~{self.part!r}"


class Field:
    """One payload field inside a filter: `F.price`.

    Parameters
    ----------
    name : of the field; ``F["a name"]`` for one that is no Python name

    Examples
    --------
    >>> F.price.between(10, 20), F.tags.contains("new"), F["list price"].is_null()
    (F.price.between(10, 20), F.tags.contains('new'), F['list price'].is_null())
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return _shown(self._name)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, value: object) -> Expression:  # type: ignore[override]
        return Compare(self._name, "==", value)

    def __ne__(self, value: object) -> Expression:  # type: ignore[override]
        return Compare(self._name, "!=", value)

    def __lt__(self, value: Any) -> Expression:
        return Compare(self._name, "<", value)

    def __le__(self, value: Any) -> Expression:
        return Compare(self._name, "<=", value)

    def __gt__(self, value: Any) -> Expression:
        return Compare(self._name, ">", value)

    def __ge__(self, value: Any) -> Expression:
        return Compare(self._name, ">=", value)

    def between(self, low: Any, high: Any) -> Expression:
        """``low <= field <= high``, both ends included."""
        return Between(self._name, low, high)

    def in_(self, values: Iterable[Any]) -> Expression:
        """The field is one of these values; none is one of no values."""
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise TypeError(f"in_ takes a list of values, got {values!r}")
        return In(self._name, tuple(values))

    def is_null(self) -> Expression:
        """The field has no value."""
        return IsNull(self._name)

    def contains(self, value: str) -> Expression:
        """A tag of a list of tags, or a part of a text (letter case counts)."""
        return Contains(self._name, value)

    def startswith(self, value: str) -> Expression:
        """The text begins so (letter case counts); an index of the field is used."""
        return StartsWith(self._name, value)

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no truth value: compare it, as in {self!r} == 1")


class _Fields:
    """The names of fields, as attributes or items."""

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):
            raise AttributeError(name)
        return Field(name)

    def __getitem__(self, name: str) -> Field:
        if not isinstance(name, str):
            raise TypeError(f"a field's name must be a string, got {name!r}")
        return Field(name)

    def __repr__(self) -> str:
        return "F"


F = _Fields()


def _join(kind: type[And] | type[Or], a: Expression, b: Any) -> Expression:
    if not isinstance(b, Expression):
        raise TypeError(f"a condition can be joined with a condition, got {b!r} (put comparisons in parentheses)")
    parts = [(p.parts if isinstance(p, kind) else (p,)) for p in (a, b)]
    return kind((*parts[0], *parts[1]))


def _shown(name: str) -> str:
    return f"F.{name}" if name.isidentifier() else f"F[{name!r}]"
