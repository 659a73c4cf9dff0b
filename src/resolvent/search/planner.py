"""How a field is searched: by a scan or by a structure, decided from what each costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Up to so many rows a scan costs less than planning anything else.
FEW = 2000
# Rows that a graph looks at for each place of its beam, with and without a filter, measured at 16 links a node.
_PER_BEAM = 12
# From so many queries at once a scan is a matrix product, which scores several rows in the time of one.
_BATCH, _BATCH_GAIN = 8, 4
METHODS = ("auto", "exact", "hnsw", "window", "ivf", "ivfpq", "simhash", "randomprojectionforest", "sparse", "fde")
# Structures of dense fields, the one that answers with the least work first, and what makes each look further.
_DENSE = {"hnsw": "ef", "ivfpq": "probes", "ivf": "probes", "randomprojectionforest": "", "simhash": ""}


@dataclass(frozen=True)
class Step:
    """How one part of a field is searched.

    Attributes
    ----------
    part : the name of the part
    rows, matches : its rows, and those of them that live and match the filter
    method : "none", "scan", or the name of the structure
    grow : the option of the structure that makes it look further, "" if it has none
    reason : why
    """

    part: str
    rows: int
    matches: int
    method: str
    grow: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """How one field is searched, part by part.

    Attributes
    ----------
    field : its name
    steps : one for each part, in the order of the parts
    exact : whether the answer is that of a scan of all rows that match
    """

    field: str
    steps: tuple[Step, ...]

    @property
    def exact(self) -> bool:
        return all(step.method in ("none", "scan", "sparse") for step in self.steps)

    @property
    def matches(self) -> int:
        return sum(step.matches for step in self.steps)

    def explain(self) -> dict[str, Any]:
        """The plan as plain values."""
        counted: dict[str, int] = {}
        for step in self.steps:
            counted[step.method] = counted.get(step.method, 0) + 1
        return {
            "methods": counted,
            "matches": self.matches,
            "exact": self.exact,
            "reasons": list(dict.fromkeys(f"{step.method}: {step.reason}" for step in self.steps)),
        }


def plan_part(
    name: str,
    kind: str,
    rows: int,
    matches: int,
    structures: Iterable[str],
    *,
    method: str = "auto",
    window: str = "",
    k: int = 10,
    ef: int = 64,
    queries: int = 1,
) -> Step:
    """Choose how to search one part of a field.

    Parameters
    ----------
    name : of the part, for the explanation
    kind : "Dense", "Sparse" or "MultiVector"
    rows, matches : its rows, and those that live and match the filter
    structures : names of what is built over it
    method : "auto", "exact", or the structure that the user wants
    window : the column whose interval the filter is, if a window tree over it is built here
    k, ef : hits asked for, and the beam of a graph
    queries : how many are asked at once

    Returns
    -------
    Step

    Notes
    -----
    At most max(2000, 4 ef) matches are scanned. A graph looks at about 12 ef rows, with a filter as without, since it
    walks over the matches; where a scan of the matches costs less, they are scanned. What was chosen too boldly is
    corrected while searching: whoever finds fewer hits than match looks further, then scans.

    Examples
    --------
    >>> plan_part("a", "Dense", 100_000, 1_000, ["hnsw"]).method
    'scan'
    >>> plan_part("a", "Dense", 100_000, 50_000, ["hnsw"]).method
    'hnsw'
    """
    there = list(structures)

    def step(chosen: str, reason: str, grow: str = "") -> Step:
        return Step(name, rows, matches, chosen, grow, reason)

    if not matches:
        return step("none", "no row matches")
    if method == "exact":
        return step("scan", "an exact answer was asked for")
    few, walk = max(FEW, 4 * ef), _PER_BEAM * max(ef, k)
    scan = matches / (_BATCH_GAIN if queries >= _BATCH else 1)
    if kind == "Dense" and (method == "window" or (window and method == "auto")):
        if not window:
            return step("scan", "the filter is no interval of a column that a window tree is built over in this part")
        if method == "window":
            return step("window", f"it was asked for, over {window!r}")
        if matches <= few:
            return step("scan", f"no more than {few} rows match")
        if walk >= scan:
            return step("scan", "so few rows match that a scan of them costs less than the walk")
        return step(
            "window", f"the filter is an interval of {window!r}, which its tree finds in fewer rows than a scan"
        )
    own = {"Sparse": ["sparse"], "MultiVector": ["fde"]}.get(kind, list(_DENSE))
    usable = [s for s in own if s in there]
    if method != "auto" and method in own:
        if method not in there:
            return step("scan", f"no {method} is built over this part")
        return step(method, "it was asked for", _DENSE.get(method, ""))
    if not usable:
        return step("scan", "no structure is built over this part")
    chosen = usable[0]
    if kind == "Sparse":
        return step(chosen, "exact by postings")
    if matches <= few:
        return step("scan", f"no more than {few} rows match")
    if chosen == "hnsw" and walk >= scan:
        return step("scan", "so few rows match that a scan of them costs less than the walk")
    if chosen != "hnsw" and k >= scan:
        return step("scan", "most rows are asked for")
    return step(chosen, "it looks at fewer rows than a scan", _DENSE.get(chosen, ""))
