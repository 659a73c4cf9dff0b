"""What the papers on core shapes and on learned tensor network structures claim, measured."""

import math
from statistics import median
from time import perf_counter

import torch
from _seconds import seconds
from torch import Tensor

from resolvent import factor
from resolvent.claims import Measured, Scale, claim
from resolvent.errors import ConvergenceError
from resolvent.factor.structure_state import Structure
from resolvent.random import as_generator, gaussian


def video(height: int, width: int, frames: int) -> Tensor:
    """Blobs that move across a background, with a little noise."""
    y, x, t = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (height, width, frames))
    y, x = y[:, None, None], x[None, :, None]
    T = 0.5 + 0.3 * torch.sin(3 * x + y) * torch.cos(2 * t)
    for k in range(4):
        across, down = 0.2 + 0.6 * torch.sin(0.7 * k + 2 * t).square(), 0.2 + 0.15 * k + 0.1 * torch.cos(3 * t + k)
        T = T + torch.exp(-((x - across).square() + (y - down).square()) / (0.01 + 0.01 * k))
    return T + 0.01 * gaussian(T.shape, generator=0)


def decaying(side: int, axes: int, seed: int = 0) -> Tensor:
    """Normal entries whose axes decay at different rates."""
    T = gaussian((side,) * axes, generator=seed)
    for n in range(axes):
        scale = torch.arange(1, side + 1, dtype=torch.float64) ** -(0.5 + 0.5 * n)
        T = T * scale.reshape([side if m == n else 1 for m in range(axes)])
    return T


def numbers(shape: tuple[int, ...], ranks: list[int]) -> int:
    return math.prod(ranks) + sum(r * n for r, n in zip(ranks, shape, strict=True))


def greedy_by_fits(T: Tensor, budget: int) -> list[int]:
    """The baseline of the paper: the shape grows where a decomposition, computed for each candidate, gains most."""
    shape, ranks = tuple(T.shape), [1] * T.ndim
    while True:
        best: tuple[float, list[int]] | None = None
        for n in range(T.ndim):
            new = [r + (m == n) for m, r in enumerate(ranks)]
            if new[n] > shape[n] or numbers(shape, new) > budget:
                continue
            error = fit_error(T, new)
            best = (error, new) if best is None or error < best[0] else best
        if best is None:
            return ranks
        ranks = best[1]


def fit_error(T: Tensor, ranks: list[int] | tuple[int, ...]) -> float:
    return float(factor.tucker(T, list(ranks), sweeps=20, return_info=True)[1].error)


@claim(
    paper="Approximately Optimal Core Shapes for Tensor Decompositions",
    method=factor.core_shape,
    says="budgets of 2 to 20 percent, a smooth video and a random tensor with decaying spectra: the error of the packed shape "
    "is within 5 percent of that of a greedy search that fits every candidate, at 90 percent of the budgets",
    at_least=0.9,
)
def packing_against_fits(scale: Scale) -> Measured:
    tensors = scale(quick=(video(15, 20, 12), decaying(9, 3)), full=(video(30, 40, 25), decaying(14, 4)))
    good, worst = [], 0.0
    for T in tensors:
        for share in scale(quick=(0.05, 0.1, 0.2), full=(0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2)):
            budget = max(int(share * T.numel()), 2 * sum(T.shape))
            ours = fit_error(T, factor.core_shape(T, budget).ranks)
            theirs = fit_error(T, greedy_by_fits(T, budget))
            good.append(ours <= 1.05 * theirs)
            worst = max(worst, ours / theirs)
    note = f"{len(good)} budgets; the largest ratio of errors is {worst:.3f}"
    return Measured(sum(good) / len(good), unit="of the budgets", note=note)


@claim(
    paper="Approximately Optimal Core Shapes for Tensor Decompositions",
    method=factor.core_shape,
    says="and the shape is found 100 times faster",
    at_least=100.0,
)
def packing_speed(scale: Scale) -> Measured:
    T = scale(quick=video(24, 32, 20), full=video(60, 80, 50))
    budget = int(scale(quick=0.06, full=0.05) * T.numel())
    start = perf_counter()
    greedy_by_fits(T, budget)
    theirs = perf_counter() - start
    (ours,) = seconds(lambda: factor.core_shape(T, budget))
    return Measured(theirs / ours, unit="x faster", note=f"{ours * 1e3:.2f} ms and {theirs:.2f} s")


@claim(
    paper="Approximately Optimal Core Shapes for Tensor Decompositions",
    method=factor.core_shape,
    says="the integer program packs 1 - eps of what is possible (three axes of 12, eps = 0.3: at least 0.7), and greedy never more "
    "than what is possible",
    at_least=0.7,
)
def program_against_enumeration(scale: Scale) -> Measured:
    worst, greedy = 1.0, []
    for seed in range(scale(quick=2, full=10)):
        T = decaying(12, 3, seed)
        values = factor.unfolding_values(T)
        for share in scale(quick=(0.08,), full=(0.05, 0.1, 0.2, 0.4)):
            budget = int(share * T.numel())
            found = {
                m: factor.core_shape(T, budget, method=m, values=values).packed for m in ("brute", "milp", "greedy")
            }
            worst = min(worst, found["milp"] / found["brute"])
            greedy.append(found["greedy"] / found["brute"])
    value = worst if max(greedy) <= 1 + 1e-12 else math.nan
    return Measured(value, unit="of the optimum", note=f"greedy {min(greedy):.4f} to {max(greedy):.4f}")


def planted(kind: str, side: int, seed: int) -> tuple[Tensor, int]:
    """A tensor of a known network, and the numbers in it."""
    small = side < 7
    if kind == "tucker":
        core = gaussian((2, 3, 2, 2) if small else (2, 3, 2, 2, 3), generator=seed)
        factors = [gaussian((side, r), generator=100 * seed + n) for n, r in enumerate(core.shape)]
        return factor.mode_product(core, factors, range(core.ndim)), core.numel() + sum(U.numel() for U in factors)
    ranks = {
        "train": {(0, 1): 2, (1, 2): 3, (2, 3): 2} if small else {(0, 1): 2, (1, 2): 3, (2, 3): 6, (3, 4): 5},
        "ring": {(0, 1): 2, (1, 2): 3, (2, 3): 2, (0, 3): 2}
        if small
        else {(0, 1): 2, (1, 2): 3, (2, 3): 4, (3, 4): 2, (0, 4): 5},
        "triangle": {(0, 1): 2, (1, 2): 3, (0, 2): 2 if small else 4, (2, 3): 2},
    }[kind]
    dims = (side,) * (4 if small or kind == "triangle" else 5)
    state = Structure.of_ranks(dims, ranks, torch.float64, "cpu", as_generator(seed))
    return state.dense(), state.parameters


def sizes_found(kind: str, side: int, seeds: int, choose: str = "rate", restarts: int = 1) -> list[float]:
    """Numbers in the networks found, over those planted; infinite where 1e-3 was not reached."""
    out = []
    for seed in range(seeds):
        T, known = planted(kind, side, seed)
        options = {"choose": choose, "sweeps": 100, "restarts": restarts, "generator": seed}
        try:
            out.append(factor.structure_search(T, rtol=1e-3, budget=6 * known, **options).parameters / known)
        except ConvergenceError:
            out.append(math.inf)
    return out


@claim(
    paper="Adaptive Learning of Tensor Network Structures",
    method=factor.structure_search,
    says="planted trains and rings: relative error 1e-3 with at most 1.2 times the planted numbers, 8 seeds of 10",
    at_least=0.8,
)
def planted_trains_and_rings(scale: Scale) -> Measured:
    found = {kind: sizes_found(kind, *scale(quick=(5, 2), full=(7, 10))) for kind in ("train", "ring")}
    share = min(sum(r <= 1.2 for r in ratios) / len(ratios) for ratios in found.values())
    note = ", ".join(f"{kind} {median(ratios):.2f} x" for kind, ratios in found.items())
    return Measured(share, unit="of the seeds, worst network", note=note)


@claim(
    paper="Adaptive Learning of Tensor Network Structures",
    method=factor.structure_search,
    says="planted triangles with a fourth core: the same",
    at_least=0.8,
    known_miss="0.5 of four seeds at 7^4 (ranks 2, 3, 4 and 2): the other networks are 1.35 and 2.55 times as large; "
    "the greedy steps raise an edge of the loop too far, and fits of the loop stop in local optima",
)
def planted_triangles(scale: Scale) -> Measured:
    ratios = sizes_found("triangle", *scale(quick=(5, 1), full=(7, 10)))
    note = ", ".join(f"{r:.2f}" for r in ratios)
    return Measured(sum(r <= 1.2 for r in ratios) / len(ratios), unit="of the seeds", note=note)


@claim(
    paper="Adaptive Learning of Tensor Network Structures",
    method=factor.structure_search,
    says="planted Tucker tensors: the same, by splitting nodes (median of numbers found over planted)",
    at_most=1.2,
    known_miss="1.00 for 6^4 and a core (2, 3, 2, 2), but 1.37 and 1.33 for two seeds of the paper's 7^5 and (2, 3, 2, 2, 3): "
    "the search settles on two joined hubs",
)
def planted_hub(scale: Scale) -> Measured:
    ratios = []
    for seed in range(scale(quick=1, full=4)):
        T, known = planted("tucker", scale(quick=6, full=7), seed)
        ratios.append(factor.structure_search(T, rtol=1e-3, sweeps=100, generator=seed).parameters / known)
    return Measured(median(ratios), unit="x the planted numbers", note=", ".join(f"{r:.2f}" for r in ratios))


@claim(
    paper="Adaptive Learning of Tensor Network Structures",
    method=factor.structure_search,
    says="tensor trains and Tucker decompositions of the same error need twice the numbers on rings and triangles",
    at_least=2.0,
)
def fixed_structures(scale: Scale) -> Measured:
    ratios = {}
    for kind in scale(quick=("ring",), full=("ring", "triangle")):
        T, _ = planted(kind, scale(quick=5, full=7), 0)
        found = factor.structure_search(T, rtol=1e-3, generator=0).parameters
        fixed = min(factor.tt(T, rtol=1e-3).parameters, factor.tucker(T, rtol=1e-3).parameters)
        ratios[kind] = fixed / found
    note = ", ".join(f"{kind} {ratio:.1f} x" for kind, ratio in ratios.items())
    return Measured(min(ratios.values()), unit="x the numbers", note=note)


@claim(
    paper="Adaptive Learning of Tensor Network Structures",
    method=factor.structure_search,
    says="edges that grow at random need 1.5 times the numbers (median)",
    at_least=1.5,
)
def random_edges(scale: Scale) -> Measured:
    size = scale(quick=(5, 1), full=(7, 5))
    ours, random = (median(sizes_found("train", *size, choose, restarts=0)) for choose in ("rate", "random"))
    return Measured(random / ours, unit="x the numbers", note=f"{random:.2f} and {ours:.2f} times the planted train")


def permuted_ring(order: int, most: int, seed: int) -> tuple[Tensor, int]:
    """A ring, or every other time a train, of axes in any order; and the numbers in it."""
    g = as_generator(seed)
    dims = (3 + torch.randint(2, (order,), generator=g)).tolist()
    ranks = (1 + torch.randint(most, (order,), generator=g)).tolist()
    at = torch.randperm(order, generator=g).tolist()
    ranks[-1] = 1 if seed % 2 else ranks[-1]
    pairs = {(min(u, v), max(u, v)): r for u, v, r in zip(at, at[1:] + at[:1], ranks, strict=True) if r > 1}
    state = Structure.of_ranks(tuple(dims), pairs, torch.float64, "cpu", g)
    return state.dense(), state.parameters


def rings(scale: Scale) -> list[tuple[Tensor, int]]:
    return [permuted_ring(*at) for at in scale(quick=((5, 2, 1),), full=[(5 + i % 2, 4, i) for i in range(5)])]


def searched(T: Tensor, known: int, method: str, scale: Scale, seed: int) -> tuple[float, float, float]:
    """Planted numbers over found ones, structures looked at, and structures fitted; no number where 1e-4 was missed."""
    # Of the fits of a planted ring of ranks as large as its dimensions, one in ten ends at its tensor.
    options = {
        "method": method,
        "sweeps": 100,
        "max_rank": scale(quick=4, full=7),
        "starts": scale(quick=3, full=5),
        "restarts": scale(quick=1, full=9),
        "generator": seed,
    }
    try:
        found = factor.structure_search(T, rtol=1e-4, budget=known, **options)
    except ConvergenceError as missed:
        return (known / missed.best.parameters if missed.error <= 1e-4 else 0.0), math.inf, math.inf
    return known / found.parameters, sum(found.visits), found.evaluations


@claim(
    paper="Alternating Local Enumeration (TnALE): Solving Tensor Network Structure Search with Fewer Evaluations",
    method=factor.structure_search,
    says="planted rings and trains of order 5 and 6 with permuted axes, ranks 1 to 4 and dimensions 3 and 4: a network of at most "
    "the planted numbers within a relative error of 1e-4, in all of five instances (smallest efficiency)",
    at_least=1.0,
)
def planted_rings_by_enumeration(scale: Scale) -> Measured:
    ratios = [searched(T, known, "alternating_enumeration", scale, 1)[0] for T, known in rings(scale)]
    return Measured(min(ratios), unit="x the found numbers", note=", ".join(f"{ratio:.2f}" for ratio in ratios))


@claim(
    paper="Alternating Local Enumeration (TnALE): Solving Tensor Network Structure Search with Fewer Evaluations",
    method=factor.structure_search,
    says="and the random local sampling of TNLS (60 samples a round) looks at twice as many structures to find it (median)",
    at_least=2.0,
)
def evaluations_against_sampling(scale: Scale) -> Measured:
    looks: dict[str, list[float]] = {"alternating_enumeration": [], "local_sampling": []}
    fits: dict[str, list[float]] = {"alternating_enumeration": [], "local_sampling": []}
    for T, known in rings(scale):
        for method in looks:
            _, looked, fitted = searched(T, known, method, scale, 1)
            looks[method].append(looked)
            fits[method].append(fitted)
    ours, theirs = (median(looks[method]) for method in looks)
    note = f"{ours:.0f} and {theirs:.0f}; different ones fitted {median(fits['alternating_enumeration']):.0f} and "
    return Measured(theirs / ours, unit="x", note=note + f"{median(fits['local_sampling']):.0f}")


@claim(
    paper="Alternating Local Enumeration (TnALE): Solving Tensor Network Structure Search with Fewer Evaluations",
    method=factor.structure_search,
    says="a round looks at exactly the sum of the neighbourhoods: 3 ranks of each of N edges, forth and back, and 1 + N (N - 1) / 2 "
    "orders (largest difference)",
    at_most=0.0,
)
def evaluations_of_a_round(scale: Scale) -> Measured:
    gaps = []
    for order in scale(quick=(4, 5), full=(4, 5, 6, 7)):
        T = gaussian((3,) * order, generator=order)
        options = {"radius": (1, 1), "coarse": 0, "rounds": 1, "starts": 1, "max_rank": 4, "generator": 0}
        try:
            found = factor.structure_search(T, rtol=1e-4, sweeps=5, method="alternating_enumeration", **options)
        except ConvergenceError as missed:
            found = missed.best
        gaps.append(abs(found.visits[0] - (2 * order * 3 + 1 + order * (order - 1) // 2)))
    return Measured(float(max(gaps)), unit="structures")
