"""Centres for data that is clustered: distances to the nearest centre, adaptive sampling of centres, local descent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Entries of a block of distances that is held at a time.
_BLOCK = 1 << 22


class Assignment(NamedTuple):
    """What the points cost and where they belong.

    Attributes
    ----------
    cost : (n,) float64, distance to the nearest centre to the power z
    label : (n,) which centre that is
    """

    cost: Tensor
    label: Tensor


def assign(X: Tensor, centres: Tensor, z: float) -> Assignment:
    """The nearest centre (k, d) of each point (n, d), in float64.

    The centre is chosen from products of matrices; the distance to it is then computed by differences, so that it is
    right to its last digits however far the data is from the origin.
    """
    n, d = X.shape
    centres = centres.to(torch.float64)
    origin = centres.mean(0)
    moved = centres - origin
    lengths = (moved * moved).sum(1)
    cost = torch.empty(n, dtype=torch.float64, device=X.device)
    label = torch.empty(n, dtype=torch.int64, device=X.device)
    step = max(1, _BLOCK // (len(centres) + d))
    for first in range(0, n, step):
        part = X[first : first + step].to(torch.float64) - origin
        # The length of the point itself changes nothing for the choice.
        near = torch.addmm(lengths, part, moved.mT, alpha=-2).argmin(1)
        gap = torch.linalg.vector_norm(part - moved[near], dim=1)
        cost[first : first + step] = gap if z == 1 else gap**z
        label[first : first + step] = near
    return Assignment(cost, label)


def set_costs(X: Tensor, weights: Tensor, centres: Tensor, z: float) -> Tensor:
    """Costs (T,) of the points for T sets of centres (T, k, d), in float64."""
    T, k, d = centres.shape
    n = len(X)
    origin = X.mean(0, dtype=torch.float64) if n else centres.new_zeros(d)
    flat = centres.to(torch.float64).reshape(T * k, d) - origin
    lengths = (flat * flat).sum(1)
    # Below, squares of distances that come from products have lost half of their digits.
    small = 1e-8 * float(lengths.max()) if len(lengths) else 0.0
    total = torch.zeros(T, dtype=torch.float64, device=X.device)
    step = max(1, _BLOCK // (T * k))
    for first in range(0, n, step):
        part = X[first : first + step].to(torch.float64) - origin
        squares = torch.addmm(lengths, part, flat.mT, alpha=-2).reshape(-1, T, k).amin(2)
        squares += (part * part).sum(1, keepdim=True)
        near = (squares < small).any(1).nonzero()[:, 0]
        if len(near):
            squares[near] = _refined(part[near], flat, squares[near], small)
        cost = squares.clamp_(min=0)
        if z != 2:
            cost = cost.sqrt_() if z == 1 else cost ** (z / 2)
        total += weights[first : first + step] @ cost
    return total


def _refined(part: Tensor, flat: Tensor, squares: Tensor, small: float) -> Tensor:
    """The squares below `small` again, by differences to all centres of the set."""
    T, d = squares.shape[1], flat.shape[1]
    sets = flat.reshape(T, -1, d)
    row, which = (squares < small).nonzero(as_tuple=True)
    step = max(1, _BLOCK // sets[0].numel())
    for r, s in zip(row.split(step), which.split(step), strict=True):
        squares[r, s] = (part[r, None] - sets[s]).square().sum(2).amin(1)
    return squares


def draw(mass: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` independent indices of probability proportional to `mass`."""
    # torch.multinomial stops at 2^24 categories.
    steps = mass.to(torch.float64).cumsum(0)
    u = torch.rand(count, dtype=torch.float64, device=generator.device, generator=generator).to(mass.device)
    found = torch.searchsorted(steps, u * steps[-1], right=True)
    # Rounding may point at what has no mass at the end of the sum.
    last = int((mass > 0).nonzero()[-1])
    return found.clamp(max=last)


class Seeds(NamedTuple):
    """Centres that are rows of the data.

    Attributes
    ----------
    rows : (k,) indices of the data
    cost, label : the assignment of all points to them
    sampled : how many candidates each round added
    """

    rows: Tensor
    cost: Tensor
    label: Tensor
    sampled: tuple[int, ...]


def bicriteria(X: Tensor, weights: Tensor, k: int, z: float, generator: torch.Generator) -> Seeds:
    """More than k centres that cost at most a constant times the optimum: rounds of adaptive sampling.

    Each round draws 2 k points with probability proportional to weight times cost. It ends when a round saves less than
    half of the cost and at least 4 k candidates are there, at the latest after log2(n) + 2 rounds.
    """
    index = draw(weights, 1, generator)
    cost, label = assign(X, X[index], z)
    total = float(weights @ cost)
    sampled = [1]
    for _ in range(max(2, len(X).bit_length() + 1)):
        if total <= 0:
            break
        new = draw(weights * cost, 2 * k, generator).unique()
        found = assign(X, X[new], z)
        better = found.cost < cost
        label = torch.where(better, found.label + len(index), label)
        cost = torch.where(better, found.cost, cost)
        index = torch.cat([index, new])
        before, total = total, float(weights @ cost)
        sampled.append(2 * k)
        if total > before / 2 and len(sampled) > 2:
            break
    return Seeds(index, cost, label, tuple(sampled))


def seed_centres(X: Tensor, weights: Tensor, k: int, z: float, generator: torch.Generator) -> Seeds:
    """At most k rows of X whose cost is within a constant of the optimum.

    The candidates of `bicriteria`, weighted by what belongs to them, are clustered themselves.
    """
    wide = bicriteria(X, weights, k, z, generator)
    if len(wide.rows) <= k or float(weights @ wide.cost) <= 0:
        used = torch.bincount(wide.label, minlength=len(wide.rows)) > 0
        if int(used.sum()) <= k:
            place = used.cumsum(0) - 1
            return Seeds(wide.rows[used], wide.cost, place[wide.label], wide.sampled)
    sizes = torch.bincount(wide.label, weights=weights, minlength=len(wide.rows))
    chosen = wide.rows[medoids(X[wide.rows].to(torch.float64), sizes, k, z, generator)]
    cost, label = assign(X, X[chosen], z)
    used = torch.bincount(label, minlength=len(chosen)) > 0
    place = used.cumsum(0) - 1
    return Seeds(chosen[used], cost, place[label], wide.sampled)


def medoids(points: Tensor, weights: Tensor, k: int, z: float, generator: torch.Generator, starts: int = 5) -> Tensor:
    """k rows of a few weighted points, by adaptive sampling and alternating improvement; the best of several starts."""
    far = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") ** z
    best, best_cost = None, float("inf")
    for _ in range(starts):
        chosen = draw(weights, 1, generator)
        cost = far[chosen[0]]
        for _ in range(1, k):
            mass = weights * cost
            if float(mass.sum()) <= 0:
                break
            trial = draw(mass, 2, generator)
            both = torch.minimum(far[trial], cost)
            pick = int((both @ weights).argmin())
            chosen, cost = torch.cat([chosen, trial[pick : pick + 1]]), both[pick]
        chosen = _alternate(far, weights, chosen)
        total = float(far[chosen].amin(0) @ weights)
        if total < best_cost:
            best, best_cost = chosen, total
    return best if best is not None else draw(weights, 1, generator)


def _alternate(far: Tensor, weights: Tensor, chosen: Tensor, rounds: int = 10) -> Tensor:
    """Each centre to the member of its cluster that serves it best, until nothing moves."""
    for _ in range(rounds):
        label = far[chosen].argmin(0)
        member = torch.nn.functional.one_hot(label, len(chosen)).to(far.dtype)
        service = far @ (member * weights[:, None])
        # A centre stays within its cluster.
        service = torch.where(member > 0, service, torch.full_like(service, float("inf")))
        new = service.argmin(0)
        new = torch.where(torch.isfinite(service.amin(0)), new, chosen)
        if bool((new == chosen).all()):
            break
        chosen = new
    return chosen


def descend(X: Tensor, weights: Tensor, centres: Tensor, z: float, rounds: int = 5) -> Tensor:
    """Lloyd's step (z = 2) or one step of Weiszfeld (z = 1) per round, from centres (k, d), in float64."""
    centres = centres.to(torch.float64).clone()
    k, d = centres.shape
    points = X.to(torch.float64)
    for _ in range(rounds):
        cost, label = assign(points, centres, 1.0)
        top = float(cost.max())
        if top == 0:
            break
        # Relative to the largest, so that no power leaves the range of numbers.
        pull = weights if z == 2 else weights * (cost / top).clamp(min=1e-12) ** (z - 2)
        mass = torch.zeros(k, dtype=torch.float64, device=X.device).index_add_(0, label, pull)
        moment = torch.zeros(k, d, dtype=torch.float64, device=X.device).index_add_(0, label, pull[:, None] * points)
        full = mass > 0
        centres[full] = moment[full] / mass[full, None]
    return centres
