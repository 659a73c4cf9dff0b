"""`resolvent.claims` and `resolvent claims`: verdicts, records, choosing, exit codes."""

from __future__ import annotations

import json
import math

import pytest
from typer.testing import CliRunner

from resolvent import claims_record
from resolvent.claims import Claim, Measured, Scale, claim, load, run, select
from resolvent.claims_record import Record, merge, normal, read, write
from resolvent.cli import claims as command
from resolvent.cli.app import app

ROOM = """
from resolvent.claims import Measured, claim
from resolvent.spectra import norm
from _shared import factor


@claim(paper="First Paper: On Speed", method=norm, says="at least twice as fast", at_least=2.0)
def speed(scale):
    return Measured(scale(quick=3.0, full=1.0) * factor, unit="x faster", note="3 against 1")


@claim(paper="Second Paper", method="resolvent.spectra.trace", says="tiny error", at_most=1e-6)
def error(scale):
    return Measured(1e-8)
"""
KNOWN = """

@claim(paper="Third Paper", method="resolvent.spectra.cond", says="wins", at_least=5.0, known_miss="0.9: too small")
def wins(scale):
    return Measured(0.9)
"""
MISSED = """

@claim(paper="Fourth Paper", method="resolvent.spectra.cond", says="wins by far", at_least=5.0)
def missed(scale):
    return Measured(0.9)
"""


def made(measure, **bound) -> Claim:
    return claim(paper="A Paper", method="resolvent.spectra.norm", says="something", **bound)(measure)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "_shared.py").write_text("factor = 1.0\n")
    (tmp_path / "claims" / "rooms.py").write_text(ROOM)
    return tmp_path / "claims"


def invoke(*arguments):
    return CliRunner().invoke(app, ["claims", *map(str, arguments)])


def test_load_knows_rooms_and_import_paths(folder):
    claims = load(folder)
    assert [(c.room, c.name, c.required) for c in claims] == [("rooms", "speed", "≥ 2"), ("rooms", "error", "≤ 1e-06")]
    assert claims[0].method == "resolvent.spectra.norm"


def test_loading_twice_forgets_claims_that_went(folder):
    load(folder)
    (folder / "rooms.py").write_text(ROOM.partition('@claim(paper="Second')[0])
    assert [c.name for c in load(folder)] == ["speed"]


@pytest.mark.parametrize(
    ("value", "bound", "verdict"),
    [
        (2.0, {"at_least": 2.0}, "met"),
        (1.999, {"at_least": 2.0}, "missed"),
        (1e-6, {"at_most": 1e-6}, "met"),
        (2e-6, {"at_most": 1e-6}, "missed"),
        (math.nan, {"at_least": 2.0}, "missed"),
        (math.nan, {"at_most": 2.0}, "missed"),
        (0.0, {"at_most": 0.0}, "met"),
        (1.0, {"at_least": 2.0, "known_miss": "1.0 here"}, "known miss"),
        (3.0, {"at_least": 2.0, "known_miss": "1.0 here"}, "met"),
    ],
)
def test_verdicts(value, bound, verdict):
    row = run(made(lambda scale: Measured(value), **bound))
    assert row.verdict == verdict
    assert row.fails == (verdict == "missed")
    if verdict == "known miss":
        assert "1.0 here" in row.note


def test_errors_become_a_verdict_with_their_text():
    def breaks(scale):
        raise KeyError("no such baseline")

    row = run(made(breaks, at_least=1.0))
    assert (row.verdict, row.measured, row.fails) == ("error", None, True)
    assert "no such baseline" in row.note
    assert run(made(lambda scale: 3.0, at_least=1.0)).verdict == "error"


def test_a_claim_that_is_recorded_as_missed_still_fails_by_an_error():
    def breaks(scale):
        raise RuntimeError("gone")

    assert run(made(breaks, at_least=1.0, known_miss="0.5 here")).fails


def test_measured_takes_tensors_and_the_seed_is_fixed():
    import torch

    draw = made(lambda scale: Measured(torch.rand(()), unit="u"), at_least=0.0)
    first, second = run(draw), run(draw)
    assert isinstance(first.measured, float)
    assert first.measured == second.measured


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"at_least": 1.0, "at_most": 2.0},
        {"at_least": math.inf},
        {"at_most": math.nan},
        {"at_least": 1.0, "paper": " "},
        {"at_least": 1.0, "says": ""},
        {"at_least": 1.0, "known_miss": " "},
    ],
)
def test_bad_declarations(wrong):
    with pytest.raises(ValueError, match="claim: "):
        claim(**{"paper": "A Paper", "method": "resolvent.spectra.norm", "says": "something", **wrong})


def test_select_by_room_paper_and_method(folder):
    claims = load(folder)
    assert select(claims, "rooms") == select(claims, None) == claims
    assert [c.name for c in select(claims, "first paper on")] == ["speed"]
    assert [c.name for c in select(claims, "spectra.trace")] == ["error"]
    with pytest.raises(ValueError, match="no room or paper fits 'nothing'; rooms with claims: rooms"):
        select(claims, "nothing")


def test_scale():
    assert Scale().name == "quick"
    assert Scale(full=True)(quick=1, full=2) == 2


def test_records_survive_json(tmp_path):
    rows = [
        Record("spectra", "a", "Paper", "resolvent.spectra.norm", "says", "≥ 2", 3.14159265, "x", "note", "met", 0.5),
        Record("spectra", "b", "Paper", "resolvent.spectra.norm", "says", "≥ 2", math.nan, verdict="missed"),
    ]
    write(rows, tmp_path / "r.json")
    back = read(tmp_path / "r.json")
    assert back[0].measured == 3.142 and back[0].unit == "x" and back[0].required == "≥ 2"
    assert back[1].measured is None and back[1].verdict == "missed"
    assert read(tmp_path / "none.json") == []


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '[{"room": "x"}]'])
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=r"r\.json is not a record"):
        read(tmp_path / "r.json")


def test_merge_keeps_what_was_not_measured_again():
    a, b = (Record("room", name, "P", "m", "s", "≥ 1", 1.0) for name in "ab")
    again = Record("room", "b", "P", "m", "s", "≥ 1", 2.0)
    assert merge([a, b], [again], [("room", "a"), ("room", "b")]) == [a, again]
    assert merge([a, b], [again], [("room", "b")]) == [again]


def test_merge_keeps_the_two_scales_apart():
    quick, full = (Record("room", "a", "P", "m", "s", "≥ 1", 1.0, scale=scale) for scale in ("quick", "full"))
    again = Record("room", "a", "P", "m", "s", "≥ 1", 2.0, scale="full")
    assert merge([full, quick], [again], [("room", "a")]) == [quick, again]


def test_a_miss_at_full_scale_is_known_there_alone():
    known = made(lambda scale: Measured(scale(quick=1.0, full=3.0)), at_most=2.0, full_miss="3: too large")
    assert run(known, Scale()).verdict == "met"
    full = run(known, Scale(full=True))
    assert full.verdict == "known miss" and full.note == "3: too large"
    worse = made(lambda scale: Measured(3.0), at_most=2.0, full_miss="3: too large")
    assert run(worse, Scale()).verdict == "missed"


def test_normal_is_how_titles_are_compared():
    assert normal("The Vendi Score: A Diversity  Metric") == "the vendi score a diversity metric"


def test_command_prints_the_table_and_succeeds(folder):
    done = invoke("--directory", folder)
    assert done.exit_code == 0
    for text in ("First Paper", "at least twice", "≥ 2", "3 x faster", "met", "2 claims: 2 met"):
        assert text in done.output


def test_command_full_scale_fails_where_the_claim_is_missed(folder):
    done = invoke("--directory", folder, "--full")
    assert done.exit_code == 1
    assert "1 missed" in done.output


def test_known_misses_do_not_fail_and_others_do(folder):
    (folder / "rooms.py").write_text(ROOM + KNOWN)
    done = invoke("--directory", folder)
    assert done.exit_code == 0
    assert "0.9: too small" in done.output
    (folder / "rooms.py").write_text(ROOM + KNOWN + MISSED)
    assert invoke("--directory", folder).exit_code == 1
    assert invoke("--directory", folder, "first paper").exit_code == 0


def test_command_writes_json_and_the_packaged_record(folder, tmp_path, monkeypatch):
    kept = tmp_path / "kept.json"
    monkeypatch.setattr(command, "RECORD", kept)
    monkeypatch.setattr(command, "read", lambda: claims_record.read(kept))
    out = tmp_path / "out.json"
    assert invoke("--directory", folder, "--json", out, "--record").exit_code == 0
    assert [row["name"] for row in json.loads(out.read_text())] == ["speed", "error"]
    assert invoke("--directory", folder, "second paper", "--record").exit_code == 0
    assert [row.name for row in read(kept)] == ["speed", "error"]


def test_command_names_a_directory_that_is_not_there(tmp_path):
    done = invoke("--directory", tmp_path / "none")
    assert isinstance(done.exception, ValueError)
    assert "no directory" in str(done.exception)


def test_packaged_record_belongs_to_claims_that_exist():
    for row in read():
        assert row.paper and row.method.startswith("resolvent.")
        assert row.verdict in ("met", "known miss"), (row.name, row.verdict)


TIMED = """
import time

from resolvent.claims import Measured, claim


@claim(paper="Fifth Paper", method="resolvent.spectra.cond", says="fast", at_most=1.0)
def timed(scale):
    time.perf_counter()
    return Measured({value})
"""


@pytest.mark.parametrize(
    ("value", "slack", "code"), [(1.2, 1.0, 1), (1.2, 1.5, 0), (1.6, 1.5, 1), (float("nan"), 1.5, 1), (0.9, 1.0, 0)]
)
def test_slack_forgives_times(tmp_path, value, slack, code):
    (tmp_path / "times.py").write_text(TIMED.format(value=f"float('{value}')"))
    result = invoke("--directory", tmp_path, "--slack", slack)
    assert result.exit_code == code
    assert ("missed: times.timed" in result.output) == (value != 0.9)


def test_slack_forgives_nothing_but_times(tmp_path):
    (tmp_path / "errors.py").write_text(TIMED.format(value=1.2).replace("    time.perf_counter()\n", ""))
    assert invoke("--directory", tmp_path, "--slack", 1.5).exit_code == 1


@pytest.mark.parametrize(
    ("bound", "value", "near"),
    [
        ({"at_least": 3.0}, 2.1, True),
        ({"at_least": 3.0}, 1.9, False),
        ({"at_least": 0.0}, -0.1, False),
        ({"at_most": 3.0}, 4.4, True),
        ({"at_most": 3.0}, 4.6, False),
        ({"at_most": 0.0}, 0.1, False),
    ],
)
def test_nearly_holds(bound, value, near):
    assert made(lambda scale: Measured(value), **bound).nearly_holds(value, 1.5) is near
