"""Claims in several processes: those that read a clock stay alone, one after another."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from resolvent.claims import Claim, Scale, load, run
from resolvent.claims_record import Record

_CLOCKS = frozenset(
    ("perf_counter", "perf_counter_ns", "process_time", "monotonic", "thread_time", "timeit", "interleaved", "seconds")
) | {"step_seconds"}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

Key = tuple[str, str]


def reads_a_clock(claim: Claim) -> bool:
    """Whether a claim, or a function of the claims' files that it calls, measures time.

    Parameters
    ----------
    claim : the claim

    Returns
    -------
    True also where a name merely looks like it: such a claim then runs alone.

    Examples
    --------
    >>> from resolvent.claims import Claim, Measured
    >>> quiet = Claim(lambda scale: Measured(1.0), "A Paper", "", "", 1.0, None, None, "room")
    >>> reads_a_clock(quiet)
    False
    """
    measure = claim.measure
    return _reads(measure, Path(_function(measure).__code__.co_filename).parent, set())


def _function(thing: Any) -> Any:
    while hasattr(thing, "__wrapped__"):
        thing = thing.__wrapped__
    return thing


def _reads(thing: Any, folder: Path, seen: set[int]) -> bool:
    thing = _function(thing)
    if isinstance(thing, Claim):
        thing = _function(thing.measure)
    if id(thing) in seen:
        return False
    seen.add(id(thing))
    if isinstance(thing, type):
        return any(_reads(part, folder, seen) for part in vars(thing).values() if isinstance(part, FunctionType))
    if not isinstance(thing, FunctionType) or Path(thing.__code__.co_filename).parent != folder:
        return False
    names = set(_names(thing.__code__))
    if names & _CLOCKS:
        return True
    return any(_reads(thing.__globals__[name], folder, seen) for name in names if name in thing.__globals__)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def run_beside(
    claims: Sequence[Claim], scale: Scale, jobs: int, directory: Path, done: Callable[[Claim], None]
) -> list[Record]:
    """Run claims, those without a clock in several processes at once.

    Parameters
    ----------
    claims : what to run
    scale : the size
    jobs : processes; a file's claims stay in one of them, since they share their problems
    directory : where the files of claims are
    done : called with each claim that is finished

    Returns
    -------
    One record a claim, in their order.

    Notes
    -----
    A process has one thread. What misses or fails beside others is measured again alone, and that counts.

    Examples
    --------
    >>> run_beside([], Scale(), 2, Path("claims"), print)
    []
    """
    files: dict[str, list[Claim]] = defaultdict(list)
    alone = []
    for claim in claims:
        if jobs > 1 and not reads_a_clock(claim):
            files[_function(claim.measure).__module__].append(claim)
        else:
            alone.append(claim)
    found: dict[Key, Record] = {}
    if files:
        for record in _in_processes(list(files.values()), scale, jobs, directory):
            if not record.fails:
                found[record.room, record.name] = record
    for claim in claims:
        if (claim.room, claim.name) in found:
            done(claim)
    for claim in [c for c in claims if (c.room, c.name) not in found]:
        found[claim.room, claim.name] = run(claim, scale)
        done(claim)
    return [found[claim.room, claim.name] for claim in claims]


def _in_processes(files: list[list[Claim]], scale: Scale, jobs: int, directory: Path) -> Iterator[Record]:
    # Long files first, so that no process is left with one at the end.
    files = sorted(files, key=len, reverse=True)
    with _one_thread_each(), ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting: list[Future[list[Record]]] = [
            pool.submit(_run_some, directory, [(c.room, c.name) for c in part], scale.full) for part in files
        ]
        for future in as_completed(waiting):
            try:
                yield from future.result()
            except BrokenProcessPool:
                # A claim ended its process: which one, and why, the run alone will say.
                return


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """What processes that are started inside find in their environment."""
    wanted = dict.fromkeys(_THREADS, "1") | {"OMP_WAIT_POLICY": "passive"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@functools.cache
def _loaded(directory: Path) -> dict[Key, Claim]:
    return {(claim.room, claim.name): claim for claim in load(directory)}


def _run_some(directory: Path, keys: list[Key], full: bool) -> list[Record]:
    every = _loaded(directory)
    return [run(every[key], Scale(full=full)) for key in keys]
