"""What the paper of learned relaxation claims, measured."""

import functools

import numpy as np
import scipy.sparse

from resolvent import solve
from resolvent.claims import Measured, Scale, claim
from resolvent.operators import as_operator
from resolvent.solve.stationary import compressed_rows
from resolvent.solve.stationary_kernel import relax

GRID = np.linspace(1, 1.95, 20)
RANGE = (-0.15, 0.65)


@functools.cache
def counts(instances: int, law: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets c and the sweeps (instances, 20) for the Laplacian of a 10 x 10 grid + c I, each of the grid of omega."""
    T = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(10, 10))
    A = (scipy.sparse.kron(scipy.sparse.eye(10), T) + scipy.sparse.kron(T, scipy.sparse.eye(10))).tocsr()
    indptr, indices, values, places = compressed_rows(as_operator(A))
    rng = np.random.default_rng(0)
    offsets, table, history = -0.15 + 0.6 * rng.beta(*law, instances), np.empty((instances, 20)), np.empty(20_000)
    for i, c in enumerate(offsets):
        shifted = values.copy()
        shifted[places] += c
        b = rng.standard_normal(100)
        while np.linalg.norm(b) > 10:
            b = rng.standard_normal(100)
        goal = 1e-8 * np.linalg.norm(b)
        for j, omega in enumerate(GRID):
            table[i, j] = relax(indptr, indices, shifted, places, b, omega, goal, 20_000, history)[1]
    return offsets, table


def play(law: tuple[float, float], bandit: str, seed: int, T: int, instances: int) -> tuple[np.ndarray, np.ndarray]:
    """Costs (T,) of the learner and (T, 20) of every omega."""
    offsets, table = counts(instances, law)
    order = np.random.default_rng(seed).integers(0, instances, T) if instances != T else np.arange(T)
    tuned = solve.TunedSolver(grid=GRID.tolist(), bandit=bandit, context=RANGE, generator=seed)
    for i in order:
        action = tuned.choose(offsets[i])
        tuned.learn(action, table[i, action], offsets[i])
    return np.array(tuned.costs), table[order]


LAWS = ((0.5, 1.5), (2, 6))


@claim(
    paper="Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances",
    method=solve.TunedSolver,
    says="T = 3000 systems: total sweeps of Tsallis-INF within 10 percent of the best fixed omega (the worse of two laws)",
    at_most=1.1,
    known_miss="17 to 23 percent above the best of 20: at this length the regret of the order of sqrt(d T) is still that "
    "large; the interval learner is within 6 to 18 percent and the contextual one far below",
)
def against_the_best_fixed(scale: Scale) -> Measured:
    ratios = []
    for law in LAWS:
        one = []
        for seed in range(scale(quick=1, full=5)):
            costs, table = play(law, "tsallis_inf", seed, 3000, scale(quick=40, full=3000))
            one.append(costs.sum() / table.sum(0).min())
        ratios.append(float(np.mean(one)))
    return Measured(max(ratios), unit="x the best fixed", note=f"{ratios[0]:.3g} and {ratios[1]:.3g}")


@claim(
    paper="Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances",
    method=solve.TunedSolver,
    says="fewer sweeps in total than the fixed omegas 1.0, 1.2 and 1.4 (the least margin of both laws)",
    at_least=1.0,
)
def against_usual_factors(scale: Scale) -> Measured:
    margins = []
    for law in LAWS:
        costs, table = play(law, "tsallis_inf", 0, 3000, scale(quick=40, full=3000))
        margins += [table[:, int(np.argmin(abs(GRID - w)))].sum() / costs.sum() for w in (1.0, 1.2, 1.4)]
    return Measured(min(margins), unit="x fewer sweeps", note=f"against 1.0: {margins[0]:.3g}")


@claim(
    paper="Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances",
    method=solve.TunedSolver,
    says="the regret a system vanishes: at T = 3000 less than half of that at T = 300 (the worse of two laws)",
    at_most=0.5,
)
def regret_falls(scale: Scale) -> Measured:
    ratios = []
    for law in LAWS:
        early = late = 0.0
        for seed in range(scale(quick=3, full=5)):
            costs, table = play(law, "tsallis_inf", seed, 3000, scale(quick=40, full=3000))
            excess = np.cumsum(costs - table[:, table.sum(0).argmin()])
            early, late = early + excess[299] / 300, late + excess[-1] / 3000
        ratios.append(late / early)
    return Measured(max(ratios), unit="of the early regret")


@claim(
    paper="Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances",
    method=solve.TunedSolver,
    says="with the offset as context, the Chebyshev regression ends below the best fixed omega (the worse of two laws)",
    at_most=1.0,
)
def contextual(scale: Scale) -> Measured:
    ratios, best = [], []
    for law in LAWS:
        costs, table = play(law, "cheb_contextual", 0, scale(quick=1500, full=3000), scale(quick=40, full=3000))
        ratios.append(float(costs.sum() / table.sum(0).min()))
        best.append(float(table.min(1).sum() / table.sum(0).min()))
    note = f"{ratios[0]:.3g} and {ratios[1]:.3g}; the best omega for each system {best[0]:.3g} and {best[1]:.3g}"
    return Measured(max(ratios), unit="x the best fixed", note=note)
