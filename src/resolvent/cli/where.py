"""Filters as a user types them: `price < 20 and 'new' in tags`, read as a syntax tree and never run."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resolvent.search.expressions import Expression

_LONGEST = 100_000
_OPERATORS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def parse_where(text: str) -> Expression:
    """The condition that a text writes down.

    Parameters
    ----------
    text : comparisons of payload fields with numbers, texts, True and False, also chained (``1 < price <= 2``);
        ``lang in ['de', 'fr']``; ``'new' in tags`` (a tag, or a part of a text); ``price is None``; joined by and, or,
        not and parentheses

    Returns
    -------
    Expression

    Raises
    ------
    ValueError : anything else.

    Examples
    --------
    >>> parse_where("1 < price <= 20 and not lang in ['de', 'fr']")
    (F.price > 1) & (F.price <= 20) & ~F.lang.in_(['de', 'fr'])
    """
    if len(text) > _LONGEST:
        raise ValueError(f"--where: the condition is longer than {_LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _condition(tree)
    except SyntaxError as error:
        raise ValueError(f"--where {text!r}: {error.msg}; write it as: price < 20 and 'new' in tags") from None
    except (RecursionError, MemoryError):
        raise ValueError("--where: the condition is nested too deep") from None


def _condition(node: ast.expr) -> Expression:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value) for value in node.values]
        made = parts[0]
        for part in parts[1:]:
            made = made & part if isinstance(node.op, ast.And) else made | part
        return made
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_condition(node.operand)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        parts = [_compared(a, op, b) for a, op, b in zip(sides, node.ops, sides[1:], strict=False)]
        made = parts[0]
        for part in parts[1:]:
            made = made & part
        return made
    raise ValueError(f"--where: {ast.unparse(node)!r} is no condition; write it as: price < 20 and 'new' in tags")


def _compared(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Expression:
    from resolvent.search.expressions import Compare, F

    if isinstance(operator, ast.In | ast.NotIn):
        if isinstance(left, ast.Name):
            made: Expression = F[left.id].in_(_value(right, list))
        elif isinstance(right, ast.Name):
            made = F[right.id].contains(_value(left, str))
        else:
            raise ValueError(f"--where: {ast.unparse(left)} in {ast.unparse(right)} names no field")
        return ~made if isinstance(operator, ast.NotIn) else made
    if isinstance(operator, ast.Is | ast.IsNot):
        if not isinstance(left, ast.Name) or _value(right, type(None)) is not None:
            raise ValueError(f"--where: 'is' asks only for a missing value, as in: {ast.unparse(left)} is None")
        return ~F[left.id].is_null() if isinstance(operator, ast.IsNot) else F[left.id].is_null()
    word = _OPERATORS[type(operator)]
    if isinstance(left, ast.Name) and not isinstance(right, ast.Name):
        return Compare(left.id, word, _value(right))
    if isinstance(right, ast.Name) and not isinstance(left, ast.Name):
        return Compare(right.id, _TURNED[word], _value(left))
    raise ValueError(f"--where: {ast.unparse(left)} {word} {ast.unparse(right)} must compare a field with a value")


def _value(node: ast.expr, kind: type | None = None) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"--where: {ast.unparse(node)} is no value (texts stand between quotes)") from None
    if kind is list and isinstance(value, tuple | set):
        value = list(value)
    if kind is not None and not isinstance(value, kind):
        wanted = "a list, as ['de', 'fr']" if kind is list else "a text between quotes" if kind is str else "None"
        raise ValueError(f"--where: {value!r} must be {wanted}")
    return value
