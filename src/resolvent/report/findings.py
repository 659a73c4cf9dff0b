"""What is worth saying about a file: each finding with its number, the most severe first.

>>> SEVERITIES
('note', 'warning', 'error')
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from resolvent.report.entry_findings import ENTRY_RULES
from resolvent.report.facts import difference
from resolvent.report.finding import SEVERITIES, Finding, Severity, measured_of

if TYPE_CHECKING:
    from resolvent.report.document import Row
    from resolvent.report.facts import Facts

__all__ = ["SEVERITIES", "Finding", "Severity", "find", "random_distance"]

# A single spike: the ratio of the two largest singular values that a tail of the fitted exponent exceeds once in a
# hundred matrices, and at least 3; from 10 on (a hundred times the energy of the next) whatever the tail.
_SPIKE, _SURE_SPIKE, _CHANCE = 3.0, 10.0, 0.01
# Rank at 99 percent of the energy of a collapsed matrix, as a share of the shorter side (and one is always collapsed).
_COLLAPSED = 0.01
# The energy of all but one direction below which there is no bulk behind a spike.
_NOTHING = 1e-4
# Fewer singular values are no spectrum.
_FEWEST = 20
# Scale beside siblings: ten times their median, and beyond six of their usual deviations.
_EXPLODED, _DEVIATIONS = 10.0, 6.0
_SIBLINGS = 3
# Two matrices that differ by less are copies: a few steps of fine-tuning move weights by this much.
_COPY = 0.05
# Inverting costs the digits of the condition number: three of the seven of float32 are left at 1e4.
_ILL = 1e4
# Embeddings: a common direction with a quarter of every row; a skewness that the literature calls strong hubness.
_ANISOTROPIC, _HUBS = 0.25, 1.4


def find(rows: Sequence[Row]) -> tuple[Finding, ...]:
    """Say what is odd about the rows of a report.

    Parameters
    ----------
    rows : of a report, in its order

    Returns
    -------
    Findings, errors first, then warnings, then notes; within one severity in the order of the rows.

    Examples
    --------
    >>> find(())
    ()
    """
    found: list[Finding] = []
    for row in rows:
        found.extend(_failures(row))
        if row.measured is not None:
            for rule in _RULES:
                found.extend(rule(row))
    found.extend(_exploded(rows))
    found.extend(_copies(rows))
    place = {row.name: i for i, row in enumerate(rows)}
    return tuple(sorted(found, key=lambda f: (-SEVERITIES.index(f.severity), place[f.matrix])))


def _failures(row: Row) -> Iterator[Finding]:
    facts = row.facts
    if facts is not None and facts.nan + facts.inf:
        count = facts.nan + facts.inf
        parts = [f"{n:,} {word}" for n, word in ((facts.nan, "NaN"), (facts.inf, "infinite")) if n]
        share = count / math.prod(row.shape)
        text = f"{' and '.join(parts)} of its {math.prod(row.shape):,} entries ({share:.2g})"
        advice = "go back to the last checkpoint before, and look for overflow or a learning rate too high"
        yield Finding("error", row.name, "not finite", text, advice, float(count))
    elif row.status == "failed":
        lost = "NaN or infinite" in row.reason
        number = re.match(r"\d+", row.reason)
        yield Finding(
            "error",
            row.name,
            "not finite" if lost else "failed",
            row.reason or "it could not be measured",
            "go back to the last checkpoint before" if lost else "check the file: it may be damaged",
            float(number[0]) if number else 1.0,
        )


def _collapsed(row: Row) -> Iterator[Finding]:
    m = measured_of(row)
    p = min(row.shape)
    if m.spectral_norm == 0:
        text = f"all of its {math.prod(row.shape):,} entries are zero"
        severity: Severity = "note" if "lora" in row.name.lower() else "warning"
        advice = "it was never trained, or pruned away: remove it or load it again"
        yield Finding(severity, row.name, "zero", text, advice, 0.0)
    if m.stable_rank is None or p < _FEWEST or m.spectral_norm == 0 or _is_known_low_rank(row):
        return
    rest = 1 - 1 / m.stable_rank
    spike = m.top_ratio is not None and rest > _NOTHING and m.top_ratio >= _SPIKE
    if spike and m.top_ratio is not None:
        tail = m.alpha if m.alpha is not None else 2.0
        chance = m.top_ratio ** (-2 * max(tail - 1, 1e-3))
        if chance < _CHANCE or m.top_ratio >= _SURE_SPIKE:
            severity = "note" if row.embedding is not None else "warning"
            text = (
                f"one spike: its largest singular value, {m.spectral_norm:.4g}, is {m.top_ratio:.3g} times the second "
                f"and holds {100 / m.stable_rank:.3g}% of the energy"
            )
            advice = "look at its direction: a common mean to subtract, one exploding unit, or a bad update"
            yield Finding(severity, row.name, "spike", text, advice, m.top_ratio)
            return
    limit = max(1, math.floor(_COLLAPSED * p))
    if m.rank99 is not None and m.rank99 <= limit:
        hold = "one singular value holds" if m.rank99 == 1 else "so few singular values hold"
        text = f"collapsed to rank {m.rank99} of {p}: {hold} 99% of its energy (stable rank {m.stable_rank:.4g})"
        advice = "its units all do the same: restart the layer, or lower weight decay and learning rate there"
        yield Finding("warning", row.name, "collapsed", text, advice, float(m.rank99))


def _random(row: Row) -> Iterator[Finding]:
    m = measured_of(row)
    p = min(row.shape)
    if m.marchenko_pastur is None or m.spikes is None or p < _FEWEST:
        return
    limit = random_distance(p)
    if m.spikes == 0 and m.marchenko_pastur <= limit:
        text = (
            f"indistinguishable from its random initialisation: its spectrum is {m.marchenko_pastur:.2g} from the "
            f"Marchenko-Pastur law (random matrices of this size stay below {limit:.2g}), with no value beyond its edge"
        )
        advice = "it was probably never trained (no gradient, frozen, or not loaded): check it, or leave it out"
        yield Finding("warning", row.name, "random", text, advice, m.marchenko_pastur)
    elif m.condition is not None and m.condition < 1.01 and not _is_identity(row):
        text = (
            f"all singular values are equal (condition {m.condition:.6g}): orthogonal rows or columns, as initialised"
        )
        advice = "fine if it is meant to be; else it was never trained"
        yield Finding("note", row.name, "orthogonal", text, advice, m.condition)


def random_distance(p: int) -> float:
    """The distance from the Marchenko-Pastur law that a random matrix with p singular values stays below.

    Notes
    -----
    Eigenvalues of random matrices repel each other: the distance goes down like log(p) / p, not like the root of p of
    independent numbers. The largest of some hundred Gaussian matrices of 24 to 384 rows was 0.7 of this bound.

    Examples
    --------
    >>> round(random_distance(384), 4)
    0.013
    """
    return (2 + 0.5 * math.log(p)) / p


def _conditioned(row: Row) -> Iterator[Finding]:
    m = measured_of(row)
    if row.sparse is not None or m.rank99 == 1:
        return
    if m.condition is not None and _ILL < m.condition < math.inf:
        least = "at least " if m.condition_at_least else ""
        text = f"ill-conditioned: its largest singular value is {least}{m.condition:.2g} times the smallest"
        advice = "do not invert it in single precision; some of its directions carry nothing"
        yield Finding("note", row.name, "ill-conditioned", text, advice, m.condition)


def _compressible(row: Row) -> Iterator[Finding]:
    m = measured_of(row)
    if m.parameters99 is None or m.rank99 is None or min(row.shape) < _FEWEST or row.sparse is not None:
        return
    stored = math.prod(row.shape)
    if m.spectral_norm and 2 * m.parameters99 < stored and not _is_known_low_rank(row):
        share = m.parameters99 / stored
        text = f"compressible: rank {m.rank99} of {min(row.shape)} keeps 99% of its energy"
        text += f" in {m.parameters99:,} numbers, {100 * share:.3g}% of them"
        yield Finding("note", row.name, "compressible", text, "replace it by two factors of that rank", share)


def _embeddings(row: Row) -> Iterator[Finding]:
    e = row.embedding
    if e is None:
        return
    if e.anisotropy > _ANISOTROPIC:
        text = f"anisotropic: {100 * e.anisotropy:.3g}% of every unit row points in one common direction"
        yield Finding(
            "note", row.name, "anisotropy", text, "subtract the mean before comparing by cosine", e.anisotropy
        )
    count = max(e.duplicates, e.near_duplicates or 0)
    if count:
        text = f"{count:,} of its {e.rows:,} rows repeat an earlier one ({e.duplicates:,} exactly)"
        advice = "tokens never seen in training, or items stored twice: merge them"
        yield Finding("note", row.name, "duplicates", text, advice, float(count))
    if e.hubness is not None and e.hubness > _HUBS:
        text = f"hubs: the number of times a row is among the 10 nearest has skewness {e.hubness:.2f}"
        if e.largest_hub is not None:
            text += f", and one row is so {e.largest_hub:.0f} times as often as the average"
        advice = "subtract the mean, or use a local scaling of the distances"
        yield Finding("note", row.name, "hubness", text, advice, e.hubness)


def _exploded(rows: Sequence[Row]) -> Iterator[Finding]:
    """A scale far beyond that of the matrices of the same role in other layers."""
    roles: defaultdict[str, list[tuple[Row, float]]] = defaultdict(list)
    for row in rows:
        if row.measured is not None and row.measured.frobenius_norm:
            size = row.measured.frobenius_norm / math.sqrt(math.prod(row.shape))
            if math.isfinite(size):
                roles[re.sub(r"\d+", "*", row.name)].append((row, math.log(size)))
    for role, members in roles.items():
        if len(members) <= _SIBLINGS or "*" not in role:
            continue
        for i, (row, size) in enumerate(members):
            others = [s for j, (_, s) in enumerate(members) if j != i]
            middle = _median(others)
            # 1.5 median deviations are a standard deviation of normal numbers
            usual = 1.5 * _median([abs(s - middle) for s in others])
            if size - middle > max(math.log(_EXPLODED), _DEVIATIONS * usual):
                ratio = math.exp(size - middle)
                text = f"its entries are {ratio:.3g} times as large as those of the other {len(others)} matrices {role}"
                advice = "an exploded layer or a forgotten scale: compare it with the checkpoint before"
                yield Finding("warning", row.name, "exploding scale", text, advice, ratio)


def _copies(rows: Sequence[Row]) -> Iterator[Finding]:
    """Matrices that are another one again, or its transpose."""
    seen: defaultdict[tuple[int, int], list[tuple[Row, Facts]]] = defaultdict(list)
    for row in rows:
        facts, m = row.facts, row.measured
        if facts is None or m is None or not m.spectral_norm or min(row.shape) < 2:
            continue
        if _is_identity(row) or _is_mask(facts):
            continue
        m_, n_ = row.shape[0], row.shape[1]
        match = None
        for other, print_ in seen[(m_, n_)]:
            gap = difference(print_, facts)
            if gap < _COPY:
                match = (other, gap, "a copy")
                break
        if match is None:
            for other, print_ in seen[(n_, m_)]:
                gap = difference(print_, facts, transposed=True)
                if gap < _COPY:
                    match = (other, gap, "the transpose")
                    break
        if match is None:
            seen[(m_, n_)].append((row, facts))
            continue
        other, gap, what = match
        text = f"it is {what} of {other.name}"
        text += ", entry by entry" if gap == 0 else f" up to a relative difference of about {gap:.1g}"
        advice = "two layers that should differ were saved as one, or share their weights: check how it was loaded"
        yield Finding("warning", row.name, "copy", text, advice, gap)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _is_known_low_rank(row: Row) -> bool:
    """A product of factors has the rank that it was given."""
    return row.name.endswith(".lora") or "lora" in row.name.lower()


def _is_identity(row: Row) -> bool:
    """Square, on the diagonal only: many layers have that one on purpose."""
    facts, p = row.facts, row.shape[0]
    return facts is not None and row.shape[0] == row.shape[1] and facts.zeros >= (1 - 1 / p) * (1 - 1e-9)


def _is_mask(facts: Facts) -> bool:
    return facts.levels is not None and facts.levels <= 2


_RULES: tuple[Callable[[Row], Iterator[Finding]], ...] = (
    _collapsed,
    _random,
    *ENTRY_RULES,
    _conditioned,
    _compressible,
    _embeddings,
)
