"""What the papers claim, made measurable: the machinery behind `resolvent claims` and the page of claims.

A claim is a function of a `Scale` that measures one number and returns it as `Measured`; the decorator
`claim` says which paper it is from, which method it is about and the number that it must reach.
`claims/<room>.py`, or several `claims/<room>_<part>.py`, hold those of a room. This module imports no room and not
torch: a claim is run, never known beforehand.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, overload

from resolvent.claims_record import Record, Verdict, normal

T = TypeVar("T")

# Whatever the code under a claim raises is that claim's verdict, not the end of the run; the errors that mean
# "stop" (KeyboardInterrupt, SystemExit) are not among them.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


# Rooms whose claims run first: those that the others build on.
_LOW = ("operators", "functions", "spectra", "sketch", "factor", "solve")


@dataclass(frozen=True)
class Measured:
    """The number that a claim measured.

    Attributes
    ----------
    value : the number, compared with the claim's `at_least` or `at_most`; NaN meets no claim
    unit : what it counts, for example "x faster"
    note : one more fact for the reader, for example the two times behind a ratio

    Examples
    --------
    >>> Measured(12.5, unit="x fewer iterations")
    Measured(value=12.5, unit='x fewer iterations', note='')
    """

    value: float
    unit: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))


@dataclass(frozen=True)
class Scale:
    """The size at which a claim runs: `scale(quick=200, full=1000)` is one of the two.

    Attributes
    ----------
    full : whether the documented size is wanted; the quick one takes about a second

    Examples
    --------
    >>> Scale()(quick=200, full=1000), Scale(full=True)(quick=200, full=1000)
    (200, 1000)
    """

    full: bool = False

    def __call__(self, *, quick: T, full: T) -> T:
        return full if self.full else quick

    @property
    def name(self) -> str:
        return "full" if self.full else "quick"


@dataclass(frozen=True)
class Claim:
    """One claim of a paper: what `claim` made of a function. Calling it measures.

    Attributes
    ----------
    measure : the function that measures, of a `Scale`
    paper : the paper's exact title
    method : where the method is imported from, for example "resolvent.spectra.vendi_score"
    says : the paper's headline in a few words
    at_least, at_most : the number to reach; one of the two is None
    known_miss : why it is not met, with the measured number; None when it is to be met
    full_miss : the same where it is met at quick scale and not at full scale
    room : of the file of `claims/` that it stands in
    """

    measure: Callable[[Scale], Measured]
    paper: str
    method: str
    says: str
    at_least: float | None
    at_most: float | None
    known_miss: str | None
    room: str
    full_miss: str | None = None

    @property
    def name(self) -> str:
        return self.measure.__name__

    @property
    def required(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def __call__(self, scale: Scale) -> Measured:
        return self.measure(scale)

    def holds(self, value: float) -> bool:
        """Whether `value` reaches the number required; NaN never does."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most

    def nearly_holds(self, value: float, slack: float) -> bool:
        """Whether `value`, a ratio, misses the number required by less than the factor `slack`."""
        if self.at_least is not None:
            return value * slack >= self.at_least > 0
        return self.at_most is not None and value <= self.at_most * slack


_registry: dict[tuple[str, str], Claim] = {}


@overload
def claim(
    *,
    paper: str,
    method: object,
    says: str,
    at_least: float,
    known_miss: str | None = None,
    full_miss: str | None = None,
) -> Callable[[Callable[[Scale], Measured]], Claim]: ...


@overload
def claim(
    *,
    paper: str,
    method: object,
    says: str,
    at_most: float,
    known_miss: str | None = None,
    full_miss: str | None = None,
) -> Callable[[Callable[[Scale], Measured]], Claim]: ...


def claim(
    *,
    paper: str,
    method: object,
    says: str,
    at_least: float | None = None,
    at_most: float | None = None,
    known_miss: str | None = None,
    full_miss: str | None = None,
) -> Callable[[Callable[[Scale], Measured]], Claim]:
    """Declare that the function below measures a claim of `paper`.

    Parameters
    ----------
    paper : the paper's exact title
    method : the function or class that does what the paper does, or its import path
    says : the paper's headline, in a few words
    at_least, at_most : the number that must be reached; give one of the two, finite
    known_miss : why the number is not reached, with what is measured; the run does not fail for it
    full_miss : the same for what is missed at full scale alone

    Returns
    -------
    A decorator that turns a function of a `Scale` into a registered `Claim`.

    Raises
    ------
    ValueError : an empty title or headline, no bound or two, a bound that is not finite.

    Examples
    --------
    >>> @claim(paper="A Paper", method="resolvent.spectra.norm", says="twice as fast", at_least=2.0)
    ... def speed(scale):
    ...     return Measured(scale(quick=3.0, full=4.0), unit="x faster")
    >>> run(speed).verdict
    'met'
    """
    for name, text in (("paper", paper), ("says", says)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"claim: {name} must be a non-empty text, got {text!r}")
    if (at_least is None) == (at_most is None):
        raise ValueError(f"claim: give one of at_least and at_most, got {at_least} and {at_most}")
    bound = float(at_least if at_least is not None else at_most)  # type: ignore[arg-type]
    if not math.isfinite(bound):
        raise ValueError(f"claim: the bound must be finite, got {bound}")
    for name, miss in (("known_miss", known_miss), ("full_miss", full_miss)):
        if miss is not None and not miss.strip():
            raise ValueError(f"claim: {name} must say why and what is measured, got an empty text")

    def register(measure: Callable[[Scale], Measured]) -> Claim:
        room = _room(measure.__module__.rpartition(".")[2])
        made = Claim(measure, paper, _import_path(method), says, at_least, at_most, known_miss, room, full_miss)
        _registry[room, made.name] = made
        return made

    return register


def _room(stem: str) -> str:
    """`spectra` of the files `spectra.py` and `spectra_counts.py`."""
    return stem.partition("_")[0]


def _import_path(method: object) -> str:
    """The shortest path that the method can be imported from: its room's face rather than its file."""
    if isinstance(method, str):
        return method
    name = getattr(method, "__qualname__", type(method).__qualname__)
    where = getattr(method, "__module__", None) or type(method).__module__
    room = where.rpartition(".")[0]
    top = name.partition(".")[0]
    if room and top in getattr(sys.modules.get(room), "__all__", ()):
        return f"{room}.{name}"
    return f"{where}.{name}"


def load(directory: str | Path = "claims") -> list[Claim]:
    """Import every file of a directory of claims and return its claims, in the order of rooms and lines.

    Parameters
    ----------
    directory : the folder whose `<room>.py` and `<room>_<part>.py` declare claims; names that begin with `_` are not rooms

    Returns
    -------
    The claims, each knowing its room.

    Raises
    ------
    ValueError : there is no such directory.

    Examples
    --------
    >>> load("no/such/place")
    Traceback (most recent call last):
    ...
    ValueError: claims: no directory 'no/such/place'; run in the repository's root, or give --directory
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise ValueError(f"claims: no directory {str(directory)!r}; run in the repository's root, or give --directory")
    rooms = []
    # Claims share their problems and baselines through modules beside them (`_problems.py`).
    sys.path.insert(0, str(folder.resolve()))
    try:
        for path in sorted(folder.glob("[!_]*.py")):
            room = _room(path.stem)
            if room not in rooms:
                rooms.append(room)
                for key in [key for key in _registry if key[0] == room]:
                    del _registry[key]
            spec = importlib.util.spec_from_file_location(f"resolvent_claims.{path.stem}", path)
            if spec is None or spec.loader is None:
                raise ValueError(f"claims: {path} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder.resolve()))
    rooms.sort(key=lambda room: _LOW.index(room) if room in _LOW else len(_LOW))
    return [made for room in rooms for made in _registry.values() if made.room == room]


def select(claims: Iterable[Claim], what: str | None) -> list[Claim]:
    """The claims of a room, or those whose paper's title or method contains some words.

    Parameters
    ----------
    claims : the claims to choose from
    what : a room's name, a part of a title or of an import path (case does not matter); None takes all

    Returns
    -------
    The chosen claims, in their order.

    Raises
    ------
    ValueError : nothing fits `what`.

    Examples
    --------
    >>> select([], None)
    []
    """
    every = list(claims)
    if what is None:
        return every
    chosen = [c for c in every if c.room == what]
    chosen = chosen or [c for c in every if normal(what) in normal(f"{c.paper} {c.method} {c.name}")]
    if not chosen:
        rooms = ", ".join(sorted({c.room for c in every})) or "none"
        raise ValueError(f"claims: no room or paper fits {what!r}; rooms with claims: {rooms}")
    return chosen


def run(claim: Claim, scale: Scale | None = None) -> Record:
    """Measure one claim and judge it.

    Parameters
    ----------
    claim : the claim
    scale : quick by default

    Returns
    -------
    Its record; an error inside the claim is the verdict "error", with its text as the note.

    Notes
    -----
    The global random states are seeded first, so that a claim measures the same alone and among others. A number
    that misses is measured twice more and the median counts: times on a machine with other work on it vary.

    Examples
    --------
    >>> @claim(paper="A Paper", method="resolvent.spectra.norm", says="small error", at_most=1e-6)
    ... def error(scale):
    ...     return Measured(1 / 0)
    >>> run(error).verdict, run(error).note
    ('error', 'ZeroDivisionError: division by zero')
    """
    scale = scale or Scale()
    about = (claim.room, claim.name, claim.paper, claim.method, claim.says, claim.required)
    blank = Record(*about, scale=scale.name)
    known = claim.known_miss or (claim.full_miss if scale.full else None)
    start = time.perf_counter()
    try:
        out = _measure(claim, scale)
        if not claim.holds(out.value) and known is None:
            out = sorted([out, _measure(claim, scale), _measure(claim, scale)], key=lambda one: one.value)[1]
    except _FAILURES as error:
        note = f"{type(error).__name__}: {error}"
        return replace(blank, verdict="error", note=note, seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    holds = claim.holds(out.value)
    verdict: Verdict = "met" if holds else "missed" if known is None else "known miss"
    recorded = known and ("recorded as missed, now met" if holds else known)
    note = "; ".join(text for text in (out.note, recorded) if text)
    return replace(blank, measured=out.value, unit=out.unit, note=note, verdict=verdict, seconds=seconds)


def _measure(claim: Claim, scale: Scale) -> Measured:
    _seed()
    out = claim(scale)
    if not isinstance(out, Measured):
        raise TypeError(f"a claim returns Measured(value, unit), got {type(out).__name__}")
    return out


def _seed() -> None:
    """Seed what a claim may have loaded already, without loading it here."""
    import random

    random.seed(0)
    for name, seed in (("torch", "manual_seed"), ("numpy.random", "seed")):
        if name in sys.modules:
            getattr(sys.modules[name], seed)(0)
