"""Claims in several processes: the same records, clocks alone, a process that dies."""

from pathlib import Path

import pytest

from resolvent.claims import Scale, load
from resolvent.cli.claims_workers import reads_a_clock, run_beside

PLAIN = """
import os, time, functools
from resolvent.claims import Measured, claim

HOME = {home}

@functools.cache
def problem():
    return 2.0

def timed():
    start = time.perf_counter()
    return time.perf_counter() - start

@claim(paper="A Paper", method="resolvent.spectra.norm", says="counts", at_least=1.0)
def counts(scale):
    return Measured(problem() + (os.getpid() != HOME), note=os.environ.get("OMP_NUM_THREADS", ""))

@claim(paper="A Paper", method="resolvent.spectra.norm", says="times", at_least=0.0)
def times(scale):
    return Measured([timed() for _ in range(1)][0] + (os.getpid() != HOME))

@claim(paper="A Paper", method="resolvent.spectra.norm", says="misses", at_least=5.0)
def misses_beside(scale):
    return Measured(9.0 if os.getpid() == HOME else 1.0)
"""

DYING = """
import os
from resolvent.claims import Measured, claim

@claim(paper="A Paper", method="resolvent.spectra.norm", says="dies beside others", at_least=1.0)
def dies(scale):
    if os.getpid() != {home}:
        os._exit(3)
    return Measured(1.0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import os

    (tmp_path / "plain.py").write_text(PLAIN.replace("{home}", str(os.getpid())))
    return tmp_path


def test_what_reads_a_clock_is_found_through_the_functions_it_calls(folder):
    assert {c.name: reads_a_clock(c) for c in load(folder)} == {"counts": False, "times": True, "misses_beside": False}


def test_records_come_in_order_with_clocks_and_misses_measured_alone(folder):
    finished: list[str] = []
    claims = load(folder)
    found = run_beside(claims, Scale(), 2, folder, lambda claim: finished.append(claim.name))
    assert [r.name for r in found] == ["counts", "times", "misses_beside"]
    assert found[0].measured == 3.0 and found[0].note == "1"
    assert found[1].measured is not None and found[1].measured < 1
    assert found[2].measured == 9.0 and found[2].verdict == "met"
    assert sorted(finished) == ["counts", "misses_beside", "times"]


def test_with_one_job_everything_runs_here(folder):
    assert [r.measured for r in run_beside(load(folder), Scale(), 1, folder, lambda claim: None)][::2] == [2.0, 9.0]


def test_a_process_that_dies_loses_no_claim(folder):
    import os

    (folder / "dying.py").write_text(DYING.replace("{home}", str(os.getpid())))
    claims = load(folder)
    found = run_beside(claims, Scale(), 2, folder, lambda claim: None)
    assert [r.verdict for r in found] == ["met"] * 4
