"""The Tucker packing problem by integer programs with two budgets: one for the core, one for the factors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from resolvent.factor.packing import Packing


def by_program(problem: Packing, budget: int, rtol: float) -> tuple[int, ...]:
    """The best of all divisions of the budget on a geometric grid, from either end.

    Parameters
    ----------
    problem : of a star: edge n joins the axis n to the core
    budget : how many numbers
    rtol : neighbouring divisions differ by 1 + rtol; cores of ranks up to 1 / rtol are looked at one by one

    Returns
    -------
    ranks, one for every axis

    Examples
    --------
    >>> star = Packing([np.array([4.0, 1.0]), np.array([3.0, 2.0])], [(0,), (1,), (0, 1)], [2, 2, 1])
    >>> by_program(star, 8, 0.5)
    (1, 2)
    """
    small = math.ceil(1 / rtol)
    # Small cores one by one, up to as many as a millisecond allows: the grid is coarse only there.
    while small > 1 and math.prod(min(small, len(v)) for v in problem.squares) > 100_000:
        small -= 1
    best = replace(problem, squares=[v[:small] for v in problem.squares]).brute(budget)
    for each in (False, True):
        best = max(best, problem.greedy(budget, for_each_number=each), key=problem.packed)
    part, divisions = 1.0, []
    while part < budget:
        divisions += [(part, budget - part), (budget - part, part)]
        part *= 1 + rtol
    for core, factors in divisions:
        if _at_most(problem, core, factors) <= problem.packed(best):
            continue
        found = _with_two_budgets(problem, core, factors)
        if found is not None and problem.packed(found) > problem.packed(best):
            best = found
    return problem.trimmed(_filled(problem, best, budget))


def _at_most(problem: Packing, core: float, factors: float) -> float:
    """A bound on what a division can pack: every axis takes all that it could have alone."""
    sizes = problem.sizes[: len(problem.squares)]
    spare = factors - sum(sizes)
    tops = (min(int(core + 1e-9), int(spare // size) + 1) for size in sizes)
    return 0.0 if spare < 0 else sum(float(v[: max(n, 0)].sum()) for v, n in zip(problem.squares, tops, strict=True))


def _with_two_budgets(problem: Packing, core: float, factors: float) -> tuple[int, ...] | None:
    """One item for every axis: a rank r with the gain of the first r values, of weights log r and r I_n."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    lengths = [len(v) for v in problem.squares]
    sizes = problem.sizes[: len(lengths)]
    if sum(sizes) > factors or core < 1:
        return None
    # A rank that alone breaks a budget cannot be part of an answer: leaving it out keeps the program small.
    spare = factors - sum(sizes)
    tops = [max(1, min(n, int(core + 1e-9), int(spare // size) + 1)) for n, size in zip(lengths, sizes, strict=True)]
    gain = np.concatenate([v[:n].cumsum() for v, n in zip(problem.squares, tops, strict=True)])
    ranks = np.concatenate([np.arange(1, n + 1) for n in tops])
    axis = np.repeat(np.arange(len(tops)), tops)
    weights = np.stack([np.log(ranks), ranks * np.asarray(sizes)[axis]])
    one_each = (axis == np.arange(len(tops))[:, None]).astype(float)
    limits = [LinearConstraint(weights, ub=[math.log(core) + 1e-9, factors]), LinearConstraint(one_each, 1, 1)]
    scale = gain.max() or 1.0
    # The last digits of one division are worth less than the distance to the next.
    options = {"mip_rel_gap": 1e-3}
    whole = np.ones(len(gain))
    done = milp(-gain / scale, constraints=limits, integrality=whole, bounds=Bounds(0, 1), options=options)
    if done.x is None:
        return None
    chosen = np.round(done.x).astype(bool)
    found = tuple(int(r) for r in ranks[chosen])
    return found if len(found) == len(tops) else None


def _filled(problem: Packing, ranks: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """What the division left over of both budgets buys further ranks, the largest gain first."""
    out = list(ranks)
    while True:
        best, at = 0.0, -1
        for e, v in enumerate(problem.squares):
            if out[e] < len(v) and v[out[e]] > best:
                out[e] += 1
                if problem.parameters(tuple(out)) <= budget:
                    best, at = float(v[out[e] - 1]), e
                out[e] -= 1
        if at < 0:
            return tuple(out)
        out[at] += 1
