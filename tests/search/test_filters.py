"""Filters: what SQLite answers to the compiled condition is what the reference in Python says, row by row."""

from __future__ import annotations

import datetime as dt
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolvent.search import F
from resolvent.search.filters import compile, evaluate, interval, quote, stored_value

TYPES = {
    "price": "float",
    "year": "int",
    "new": "bool",
    "lang": "str",
    "added": "datetime",
    "tags": "tags",
    'odd "name"': "int",
}
DAY = dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)
TEXTS = ["", "de", "deu", "fr", "Ünal", "a\0b", "%_", "日本"]
ROWS = [
    {"price": 1.5, "year": 1999, "new": True, "lang": "de", "added": DAY, "tags": ["red", "blue"], 'odd "name"': 1},
    {"price": -0.0, "year": 2000, "new": False, "lang": "deu", "added": DAY + dt.timedelta(days=1), "tags": ["red"]},
    {"price": float("inf"), "year": -(2**63), "lang": "", "tags": []},
    {"price": 2.0**53, "year": 2**53 + 1, "new": None, "lang": "a\0b", "added": None, "tags": None},
    {},
    {"price": 0.1, "year": 0, "new": True, "lang": "日本", "added": dt.datetime(1900, 1, 1), "tags": ["%_"]},
]


@pytest.fixture(scope="module")
def database():
    db = sqlite3.connect(":memory:")
    columns = {"float": "REAL", "int": "INTEGER", "bool": "INTEGER", "str": "TEXT", "datetime": "INTEGER"}
    own = ", ".join(f"{quote(n)} {columns[k]}" for n, k in TYPES.items() if k in columns)
    db.execute(f"CREATE TABLE payload(row INTEGER PRIMARY KEY, {own})")
    db.execute("CREATE TABLE tags(row INTEGER, field TEXT, tag TEXT)")
    for number, row in enumerate(ROWS):
        names = [n for n in row if TYPES[n] != "tags" and row[n] is not None]
        listed = ", ".join(["row", *map(quote, names)])
        values = [number, *(stored_value(TYPES[n], row[n], n) for n in names)]
        db.execute(f"INSERT INTO payload({listed}) VALUES ({', '.join('?' * len(values))})", values)
        db.executemany("INSERT INTO tags VALUES (?, 'tags', ?)", [(number, t) for t in row.get("tags") or ()])
    yield db
    db.close()


def by_sql(database, expression):
    sql, parameters = compile(expression, TYPES)
    return [r for (r,) in database.execute(f"SELECT row FROM payload WHERE {sql} ORDER BY row", parameters)]


def by_python(expression):
    return [number for number, row in enumerate(ROWS) if evaluate(expression, row, TYPES)]


numbers = st.one_of(
    st.sampled_from(
        [0, 1, 1999, 2000, 2**53, 2**53 + 1, -(2**63), 0.1, 1.5, -0.0, float("inf"), float("-inf"), 1999.5]
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)
times = st.sampled_from([DAY, DAY + dt.timedelta(days=1), dt.date(2024, 3, 1), np.datetime64("1900-01-01")])
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
ordered = {"price": numbers, "year": numbers, 'odd "name"': numbers, "lang": texts, "added": times}
values = ordered | {"new": st.booleans()}
operators = st.sampled_from(["__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"])
ordered_names, all_names = st.sampled_from(list(ordered)), st.sampled_from(list(values))
conditions = st.recursive(
    st.one_of(
        ordered_names.flatmap(lambda n: st.tuples(operators, values[n]).map(lambda t: getattr(F[n], t[0])(t[1]))),
        st.booleans().map(lambda b: F.new == b),
        st.booleans().map(lambda b: F.new != b),
        ordered_names.flatmap(lambda n: st.tuples(values[n], values[n]).map(lambda t: F[n].between(*t))),
        all_names.flatmap(lambda n: st.lists(values[n], max_size=4).map(F[n].in_)),
        st.sampled_from(list(TYPES)).map(lambda n: F[n].is_null()),
        texts.map(F.lang.contains) | texts.map(F.lang.startswith),
        st.sampled_from(["red", "blue", "%_", "x"]).map(F.tags.contains),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] & p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] | p[1]),
        inner.map(lambda e: ~e),
    ),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None)
@given(conditions)
def test_sql_agrees_with_the_reference(database, expression):
    assert by_sql(database, expression) == by_python(expression)


def test_known_answers(database):
    assert by_sql(database, F.price < 1) == [1, 5]
    assert by_sql(database, (F.lang == "de") | (F.year == 0)) == [0, 5]
    assert by_sql(database, F.tags.contains("red")) == [0, 1]
    assert by_sql(database, F.tags.is_null()) == [2, 3, 4]
    assert by_sql(database, F.added.is_null()) == [2, 3, 4]
    assert by_sql(database, F.added.between(DAY, dt.date(2024, 3, 2))) == [0, 1]
    assert by_sql(database, F.added < "2024-02-29T13:30+01:00") == [5]
    assert by_sql(database, F.lang.startswith("de")) == [0, 1]
    assert by_sql(database, F['odd "name"'] >= 1) == [0]


def test_a_missing_value_is_neither_equal_nor_different(database):
    assert by_sql(database, F.lang == "de") == [0]
    assert by_sql(database, F.lang != "de") == [1, 2, 3, 5]
    assert by_sql(database, ~(F.lang == "de")) == [1, 2, 3, 5]
    # Whether a row has a tag is always known.
    assert by_sql(database, ~F.tags.contains("red")) == [2, 3, 4, 5]


@pytest.mark.parametrize("many", [65, 5000, 40_000])
def test_long_lists_of_values(database, many):
    listed = [1999, *range(10_000, 10_000 + many)]
    assert by_sql(database, F.year.in_(listed)) == [0]
    assert by_sql(database, F.lang.in_(["a\0b", "fr", *map(str, range(many))])) == [3]
    with_floats = [0.1, float("inf"), *range(many)]
    assert by_sql(database, F.price.in_(with_floats)) == by_python(F.price.in_(with_floats)) == [1, 2, 5]


def test_long_chains_of_conditions(database):
    chain = F.year == 1999
    for year in range(3000):
        chain = chain | (F.year == -5 - year)
    assert by_sql(database, chain) == [0]


def test_values_never_become_text_of_the_statement(database):
    attack = "x' OR 1=1 --"
    for expression in (F.lang == attack, F.lang.contains(attack), F.tags.contains(attack), F.lang.in_([attack] * 100)):
        sql, _ = compile(expression, TYPES)
        assert attack not in sql and by_sql(database, expression) == []
    sql, _ = compile(F['a" OR 1=1 --'] == 1, {'a" OR 1=1 --': "int"})
    assert sql == '"a"" OR 1=1 --" = ?'


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (F.colour == 1, r"no payload field 'colour'; it has price, year"),
        (F.price == "1", "price holds float: a value must be a number, got '1'"),
        (F.price == True, "price holds float"),  # noqa: E712
        (F.price < float("nan"), "must be a number, got nan"),
        (F.year == 2**63, "does not fit into 64 bits"),
        (F.year.between(1, None), "None cannot be compared"),
        (F.lang == None, r"lang: None cannot be compared; ask for is_null\(\)"),  # noqa: E711
        (F.lang < 3, "lang holds str: a value must be a text, got 3"),
        (F.lang == "\ud800", "must be a text"),
        (F.new == 1, "new holds bool: a value must be True or False, got 1"),
        (F.new < True, "new holds bool, which has no <"),
        (F.added > "soon", "added holds datetime: a value must be a datetime"),
        (F.added == np.datetime64("NaT"), "must be a datetime"),
        (F.tags == "red", "tags holds tags, which have contains"),
        (F.tags.contains(3), "must be a text, got 3"),
        (F.tags.startswith("r"), r"no startswith\(\)"),
        (F.year.contains("1"), r"year holds int, which has no contains\(\)"),
        (F.price.in_([i + 0.5 for i in range(40_000)]), "has 40001 values"),
    ],
)
def test_bad_conditions_are_named(expression, message):
    with pytest.raises(ValueError, match=message):
        compile(expression, TYPES)


def test_conditions_have_no_truth_value():
    for use in (
        lambda: 1 < F.year < 3,
        lambda: (F.year == 1) and (F.year == 2),
        lambda: not (F.year < 1),
        lambda: bool(F.year),
    ):
        with pytest.raises(TypeError, match="truth value"):
            use()
    with pytest.raises(TypeError, match="parentheses"):
        _ = (F.year == 1) & 3
    with pytest.raises(TypeError, match="list of values"):
        F.lang.in_("de")
    with pytest.raises(TypeError, match="condition made from F"):
        compile("year = 1", TYPES)


def test_too_deep_a_condition_is_refused(database):
    deep = F.year == 1999
    for _ in range(40):
        deep = ((deep | (F.year == 1)) & (F.price > 0)) | (F.year == 2)
    assert by_sql(database, deep) == [0]
    for _ in range(40):
        deep = (deep | (F.year == 1)) & (F.price > 0)
    with pytest.raises(ValueError, match="nested more than"):
        compile(deep, TYPES)


def test_intervals():
    assert interval(F.price.between(1, 2), TYPES) == ("price", 1, 2)
    assert interval((F.year > 3) & (F.year <= 7.5), TYPES) == ("year", 4, 7.5)
    assert interval(F.price < 1.0, TYPES) == ("price", -np.inf, np.nextafter(1.0, 0))
    assert interval(F.price == 2, TYPES) == ("price", 2, 2)
    assert interval(F.added >= DAY, TYPES).low == stored_value("datetime", DAY, "added")
    assert interval((F.price > 1) & (F.price.between(0, 9)) & (F.price <= 3), TYPES)[2] == 3
    for other in (None, F.lang == "de", F.price != 1, (F.price > 1) & (F.year > 1), ~(F.price > 1), F.new == True):  # noqa: E712
        assert interval(other, TYPES) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["price", "year"]), st.lists(st.tuples(operators, numbers), min_size=1, max_size=3))
def test_an_interval_holds_the_rows_that_match(name, ends):
    expression = getattr(F[name], ends[0][0])(ends[0][1])
    for operator, value in ends[1:]:
        expression = expression & getattr(F[name], operator)(value)
    found = interval(expression, TYPES)
    if any(operator == "__ne__" for operator, _ in ends):
        assert found is None
        return
    inside = [n for n, row in enumerate(ROWS) if row.get(name) is not None and found.low <= row[name] <= found.high]
    assert inside == by_python(expression)


def test_repr_shows_the_condition():
    shown = repr(((F.a < 1) | (F["b c"] == "x")) & ~F.t.contains("y"))
    assert shown == "((F.a < 1) | (F['b c'] == 'x')) & ~F.t.contains('y')"
