"""What building a coreset costs in queries of the data, by a classical and by a quantum computer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back


class Charge(NamedTuple):
    """One step's queries.

    Attributes
    ----------
    step : what was done
    quantum : uses of amplitude amplification, each a constant number of queries
    classical : distances or points looked at
    """

    step: str
    quantum: float
    classical: float


@dataclass(frozen=True)
class QueryLedger:
    """The queries of all steps, in two currencies.

    Attributes
    ----------
    charges : the steps in their order
    lower_bound : sqrt(n k), what no quantum algorithm beats by more than a constant

    Examples
    --------
    >>> ledger = quantum_queries(2**20, 8, 4, 0.1)
    >>> ledger.quantum < ledger.classical, ledger.quantum > ledger.lower_bound
    (True, True)
    """

    charges: tuple[Charge, ...]
    lower_bound: float

    @property
    def quantum(self) -> float:
        """All quantum queries."""
        return sum(charge.quantum for charge in self.charges)

    @property
    def classical(self) -> float:
        """All classical queries."""
        return sum(charge.classical for charge in self.charges)


def quantum_queries(n: int, k: int, d: int, eps: float, *, size: int | None = None, rounds: int = 5) -> QueryLedger:
    r"""The queries for a coreset of n points before any is seen: :math:`\tilde O(\sqrt{nk}\, d^{3/2})` against n k.

    Parameters
    ----------
    n : number of points
    k : number of centres
    d : dimension
    eps : relative error of the coreset, between 0 and 1
    size : points of the coreset; None means k d^3 / eps^2, from which the d^(3/2) comes
    rounds : rounds of adaptive sampling; O(log n) by theory, a handful by experience

    Returns
    -------
    QueryLedger

    Raises
    ------
    ValueError : a number below 1, or eps not between 0 and 1.

    Notes
    -----
    A sample of t of n points with probabilities that a formula gives costs the quantum computer (3/4) pi sqrt(n t)
    steps: pi/2 sqrt(n t) to find the at most t points heavier than the mean sample, then pi/4 sqrt(n / t) a sample by
    amplitude amplification. A sum to a relative error e costs pi sqrt(n) / e, and sums over k clusters pi sqrt(n k) / e.
    Logarithms for the probability of failure are left out.

    References
    ----------
    "Near-Optimal Quantum Coreset Construction Algorithms for Clustering"

    Examples
    --------
    >>> few, many = quantum_queries(2**20, 8, 4, 0.1), quantum_queries(2**22, 8, 4, 0.1)
    >>> round(many.quantum / few.quantum, 3), round(many.classical / few.classical, 3)
    (2.0, 4.0)
    """
    for name, value in (("n", n), ("k", k), ("d", d), ("rounds", rounds), ("size", 1 if size is None else size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if not 0 < eps < 1:
        raise ValueError(f"eps must be between 0 and 1, got {eps!r}")
    return charge_steps(n, k, (1, *[2 * k] * rounds), math.ceil(k * d**3 / eps**2) if size is None else size, eps)


def charge_steps(n: int, k: int, sampled: tuple[int, ...], size: int, eps: float) -> QueryLedger:
    """The ledger of one construction: `sampled` candidates in each round, then `size` points."""
    candidates = sum(sampled)
    charges = []
    for i, count in enumerate(sampled):
        # The first candidate is uniform: nothing is looked at to draw it.
        sampling = 0.0 if i == 0 else sampling_queries(n, count) + math.pi * math.sqrt(n)
        charges.append(Charge(f"candidates, round {i}", sampling, float(n * count)))
    charges.append(Charge("weights of the candidates", 2 * math.pi * math.sqrt(n * candidates), float(n)))
    # Within eps, as the weights of the coreset are calibrated with them.
    sizes = math.pi * math.sqrt(n * k) / eps
    charges.append(Charge("sizes and costs of the clusters", 2 * sizes, float(n * k)))
    charges.append(Charge("points of the coreset", sampling_queries(n, size), float(n)))
    return QueryLedger(tuple(charges), math.sqrt(n * k))


def sampling_queries(n: int, t: int) -> float:
    """Steps for t samples of n weighted points."""
    return (math.pi / 2 + math.pi / 4) * math.sqrt(n * t)


class AmplifiedSample(NamedTuple):
    """What amplitude amplification prepares.

    Attributes
    ----------
    distribution : (n,) probabilities of what is measured
    calls : amplification steps until the state was ready
    success : probability that the flag of success is measured
    """

    distribution: Any
    calls: int
    success: Any


def amplified_sample(weights: Any, t: int, total: float | None = None) -> AmplifiedSample:
    r"""The exact state of a quantum computer that draws one of t samples with probability :math:`w_i / \sum_j w_j`.

    Parameters
    ----------
    weights : (n,) nonnegative
    t : samples that are wanted in all, from 1 to n
    total : an estimate of the sum of the weights, as the computer has it; None means the sum

    Returns
    -------
    AmplifiedSample of the kind of `weights`; no gradients.

    Raises
    ------
    ValueError : weights that are negative, not finite or all zero; t or total out of range.

    Notes
    -----
    The state starts in a superposition that prefers what is heavier than total / t, of which there are at most t, and
    is uniform on the rest; a flag is turned by sqrt(w_i t / total). Every step reflects about the flag and about the
    start, as the vector of all 2 n amplitudes. The last angle is fitted, so that a right total ends with certainty.
    It takes about pi/4 sqrt(n / t) steps, n floating point operations each.

    References
    ----------
    "Near-Optimal Quantum Coreset Construction Algorithms for Clustering"

    Examples
    --------
    >>> import torch
    >>> drawn = amplified_sample(torch.arange(1.0, 257.0), t=1)
    >>> drawn.calls, round(float(drawn.success), 6)
    (13, 1.0)
    """
    w, kind = as_tensor(weights, "weights")
    if w.ndim != 1 or w.is_complex() or not len(w):
        raise ValueError(f"weights must be a non-empty real vector, got shape {tuple(w.shape)} of {w.dtype}")
    check_finite(w, "weights")
    w = w.detach().to(torch.float64)
    true = float(w.sum())
    if bool((w < 0).any()) or not true > 0:
        raise ValueError("weights must be nonnegative with a positive sum")
    if isinstance(t, bool) or not isinstance(t, int) or not 1 <= t <= len(w):
        raise ValueError(f"t must be an int from 1 to {len(w)}, got {t!r}")
    guess = true if total is None else float(total)
    if not (math.isfinite(guess) and guess > 0):
        raise ValueError(f"total must be positive, got {total!r}")
    start, angle = _start(w, t, guess)
    calls = max(0, math.ceil(math.pi / (4 * angle) - 0.5))
    # A flag that is turned a little less makes the last step end exactly at the top.
    start = _turned(start, math.sin(math.pi / (2 * (2 * calls + 1))) / math.sin(angle))
    state = start.clone()
    for _ in range(calls):
        state[1] = -state[1]
        state = 2 * (start * state).sum() * start - state
    distribution = (state * state).sum(0)
    return AmplifiedSample(
        give_back(distribution / distribution.sum(), kind), calls, give_back((state[1] * state[1]).sum(), kind)
    )


def _start(w: Tensor, t: int, total: float) -> tuple[Tensor, float]:
    """Amplitudes (2, n) without and with the flag, and the angle of the flag as the estimated total has it."""
    limit = total / t
    proposal = torch.clamp(w, min=limit)
    proposal = proposal / proposal.sum()
    accepted = (w / limit).clamp(max=1)
    start = torch.stack([(proposal * (1 - accepted)).sqrt(), (proposal * accepted).sqrt()])
    # sum of what is proposed: the heavy points are known, the rest counts `limit` each
    chance = min(1.0, total / float(torch.clamp(w, min=limit).sum()))
    return start, math.asin(math.sqrt(chance))


def _turned(start: Tensor, ratio: float) -> Tensor:
    """The flag's amplitudes times `ratio`, the rest of each point's amplitude without the flag."""
    whole = (start * start).sum(0)
    flagged = start[1] * min(ratio, 1.0)
    return torch.stack([(whole - flagged * flagged).clamp(min=0).sqrt(), flagged])
