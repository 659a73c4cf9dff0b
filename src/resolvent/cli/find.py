"""`resolvent find`: look a method up by what it does.

The sources are read as syntax trees, so that looking up costs neither torch nor a room; the verdicts come
from the packaged records of claims.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from resolvent.claims_record import Record, read

PACKAGE = Path(__file__).resolve().parent.parent
# How much a word weighs in each place where it can stand.
_WEIGHTS = {"name": 3.0, "summary": 2.5, "papers": 2.0, "claims": 2.0, "text": 0.6}
_STOP = frozenset(re.findall(r"\w+", "a an and as at be by for from how i in into is it its of on or the to with what"))
_ENDINGS = (
    "ations",
    "ation",
    "ities",
    "ity",
    "ings",
    "ing",
    "ors",
    "or",
    "ies",
    "es",
    "ed",
    "ly",
    "s",
    "e",
    "y",
)
_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\s*$", re.MULTILINE)


@dataclass
class Entry:
    """One public name of the library and the words that it can be found by.

    Attributes
    ----------
    path : where it is imported from, for example "resolvent.spectra.norm"
    summary : the first line of its docstring
    words : the words of each place, with how often each occurs
    verdict : the verdicts of its claims, "" without one
    """

    path: str
    summary: str
    words: dict[str, Counter[str]] = field(default_factory=dict)
    verdict: str = ""


def find_command(
    words: Annotated[list[str], typer.Argument(help="What the method does, in your own words.")],
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="How many to print.")] = 8,
) -> None:
    """Look a method up by what it does: names, docstrings, papers' titles and claims."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    found = find(" ".join(words), most=most)
    if not found:
        console.print(Text(f"nothing fits {' '.join(words)!r}"))
        raise typer.Exit(1)
    for entry in found:
        verdict = f"  [{entry.verdict}]" if entry.verdict else ""
        line = Text.assemble((entry.path, "bold"), "  ", entry.summary, (verdict, "dim"))
        console.print(line, soft_wrap=True)


def find(words: str, *, most: int = 8, package: Path = PACKAGE, records: Sequence[Record] | None = None) -> list[Entry]:
    r"""Public names of the library that fit some words, best first.

    The score of a name is :math:`\sum_w \mathrm{idf}(w) \max_p c_p\, 2 t_p(w) / (t_p(w) + (1 + l_p) / 2)` over the
    words w of the question: t_p(w) is how often w stands in the place p (name, summary, papers, claims, text), l_p
    that place's length over the mean one, c_p its weight. The sum is scaled by the square of the share of the
    question's words found, and is less for what lies deeper than a room.

    Parameters
    ----------
    words : what the method does
    most : how many to return at most
    package : the folder of the package's sources
    records : records of claims; by default those that the package carries

    Returns
    -------
    The entries, best first; empty when nothing fits.

    Raises
    ------
    ValueError : there is no word to look for in `words`.

    Examples
    --------
    >>> find("fit a power law to the tail")[0].path
    'resolvent.spectra.power_law'
    """
    question = list(dict.fromkeys(stems(words)))
    if not question:
        raise ValueError(f"find: no word to look for in {words!r}")
    entries = list(index(package, read() if records is None else records))
    inverse = {}
    for word in question:
        hits = sum(any(word in counted for counted in entry.words.values()) for entry in entries)
        inverse[word] = math.log(1 + len(entries) / (1 + hits))
    means = (
        {place: sum(entry.words[place].total() for entry in entries) / len(entries) or 1.0 for place in _WEIGHTS}
        if entries
        else {}
    )
    scored = []
    for entry in entries:
        gains = [inverse[word] * _best_place(entry, word, means) for word in question]
        share = sum(gain > 0 for gain in gains) / len(question)
        if share > 0:
            # Example matrices lie one level deeper than the methods and seldom are what is looked for.
            depth = entry.path.count(".") - 2
            scored.append((sum(gains) * share**2 / (1 + 0.5 * depth), entry))
    scored.sort(key=lambda pair: (-pair[0], pair[1].path))
    return [entry for _, entry in scored[:most]]


def _best_place(entry: Entry, word: str, means: dict[str, float]) -> float:
    """The most that a word counts in one place: many occurrences little more than one, and less in a long text."""
    gains = []
    for place, weight in _WEIGHTS.items():
        times, length = entry.words[place][word], entry.words[place].total() / means[place]
        gains.append(weight * 2 * times / (times + (1 + length) / 2))
    return max(gains)


def stems(text: str) -> list[str]:
    """The words of a text, in lower case and without the endings that English gives them.

    Parameters
    ----------
    text : prose, titles or Python names

    Returns
    -------
    Their stems in order, without the words that carry nothing.

    Examples
    --------
    >>> stems("Singular values of a NuclearNorm, estimated")
    ['singular', 'valu', 'nuclear', 'norm', 'estimat']
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    return [_stem(word) for word in re.findall(r"[^\W_]+", parted.casefold()) if word not in _STOP]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4 - (ending in ("s", "e")):
            return word[: -len(ending)]
    return word


def index(package: Path, records: Iterable[Record] = ()) -> Iterator[Entry]:
    """Every public name of the rooms, with the words that it can be found by.

    Parameters
    ----------
    package : the folder of the package's sources
    records : records of claims, for the papers' titles and verdicts

    Returns
    -------
    The entries, room by room.

    Examples
    --------
    >>> any(entry.path == "resolvent.operators.as_operator" for entry in index(PACKAGE))
    True
    """
    claims: dict[str, list[Record]] = {}
    for record in records:
        claims.setdefault(record.method, []).append(record)
    for face in sorted(package.rglob("__init__.py")):
        room = face.parent
        path = ".".join([package.name, *room.relative_to(package).parts])
        public = _public(face)
        if room == package or not public:
            continue
        for file in sorted(room.glob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public:
                    yield _entry(f"{path}.{node.name}", ast.get_docstring(node) or "", claims)


def _public(face: Path) -> set[str]:
    """The names that a room's face offers: the texts in its lists."""
    return {
        item.value
        for node in ast.walk(ast.parse(face.read_text(encoding="utf-8")))
        if isinstance(node, ast.List | ast.Tuple)
        for item in node.elts
        if isinstance(item, ast.Constant) and isinstance(item.value, str)
    }


def _entry(path: str, docstring: str, claims: dict[str, list[Record]]) -> Entry:
    summary, _, rest = docstring.partition("\n")
    parts = _SECTION.split(rest)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    # One of the two scales of a claim counts.
    own = list({record.name: record for record in claims.get(path, [])}.values())
    places = {
        "name": path.rpartition(".")[2],
        "summary": summary,
        "papers": sections.get("References", "") + " ".join(record.paper for record in own),
        "claims": " ".join(record.says for record in own),
        "text": " ".join([parts[0], sections.get("Parameters", ""), sections.get("Notes", "")]),
    }
    plain = " ".join(re.sub(r":\w+:`([^`]*)`", r"\1", summary).split())
    verdict = ", ".join(dict.fromkeys(record.verdict for record in own))
    return Entry(path, plain, {place: Counter(stems(text)) for place, text in places.items()}, verdict)
