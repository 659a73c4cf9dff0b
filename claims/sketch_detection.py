"""What the paper on the detection of correlated databases claims, measured."""

import math
from itertools import permutations

import torch

from resolvent import sketch
from resolvent.claims import Measured, Scale, claim

TESTS = ("sum", "assignment", "count", "likelihood")
PAIRS = ((1, 0.3), (1, 0.8), (2, 0.5), (3, 0.2), (5, 0.5), (10, 0.2), (20, 0.4), (40, 0.15))


def simulated_risks(n: int, d: int, rho: float, runs: int, tests: tuple[str, ...] = TESTS) -> dict[str, float]:
    """Shares of false and of missed detections, added."""
    true = sketch.correlated_databases(n, d, rho, batch=(runs,), generator=0)
    none = sketch.correlated_databases(n, d, 0.0, batch=(runs,), generator=1)
    risks = {}
    for test in tests:
        false = sketch.detect(none.X, none.Y, rho, test=test).correlated.double().mean()
        risks[test] = float(false + 1 - sketch.detect(true.X, true.Y, rho, test=test).correlated.double().mean())
    return risks


@claim(
    paper="Phase Transitions in the Detection of Correlated Databases",
    method=sketch.second_moment,
    says="the second moment is a mean over the cycles of permutations: recursion against all of them, n <= 7",
    at_most=1e-10,
)
def second_moment_by_permutations(scale: Scale) -> Measured:
    worst = 0.0
    for n in range(1, scale(quick=7, full=8)):
        lengths = []
        for p in permutations(range(n)):
            left, cycles = set(range(n)), []
            while left:
                i, length = min(left), 0
                while i in left:
                    left.discard(i)
                    i, length = p[i], length + 1
                cycles.append(length)
            lengths.append(cycles)
        for d, rho in PAIRS:
            brute = sum(math.prod((1 - rho ** (2 * c)) ** -d for c in cycles) for cycles in lengths) / len(lengths)
            worst = max(worst, abs(sketch.second_moment(n, d, rho) / brute - 1))
    return Measured(worst, unit="relative error")


@claim(
    paper="Phase Transitions in the Detection of Correlated Databases",
    method=sketch.second_moment,
    says="for fixed d it stays bounded as n grows: n = 400 against the infinite product",
    at_most=1e-6,
)
def second_moment_limit(scale: Scale) -> Measured:
    worst = 0.0
    for d, rho in PAIRS:
        logs = (math.comb(j + d - 1, d - 1) * math.log1p(-(rho ** (2 * j))) for j in range(1, 2000))
        worst = max(worst, abs(math.expm1(sketch.second_moment(400, d, rho, log=True) + sum(logs))))
    return Measured(worst, unit="relative difference")


@claim(
    paper="Phase Transitions in the Detection of Correlated Databases",
    method=sketch.detection_bounds,
    says="the optimal test's risk lies above the lower bound and below every test's (n = 6, 8 pairs of d and rho; the "
    "largest violation, in standard errors of the simulation)",
    at_most=3.5,
)
def optimal_risk_between_the_bounds(scale: Scale) -> Measured:
    runs, n = scale(quick=2000, full=20000), 6
    error = math.sqrt(0.5 / runs)
    worst, notes = -math.inf, []
    for d, rho in PAIRS:
        risks = simulated_risks(n, d, rho, runs)
        lower = sketch.detection_bounds(n, d, rho).lower
        best = risks["likelihood"]
        others = min(risks[test] for test in TESTS[:3])
        worst = max(worst, (lower - best) / error, (best - others) / error)
        notes.append(f"{lower:.2f} <= {best:.2f} <= {others:.2f}")
    return Measured(worst, unit="standard errors", note="; ".join(notes))


@claim(
    paper="Phase Transitions in the Detection of Correlated Databases",
    method=sketch.detect,
    says="the risk of the sum test is a function of rho^2 d and not of n: spread over databases of 4 to 400 rows (full: "
    "10, 100 and 1000), d = 10",
    at_most=0.05,
)
def sum_test_does_not_see_n(scale: Scale) -> Measured:
    d, spreads, notes = 10, [], []
    runs = scale(quick=3000, full=20_000)
    for signal in (0.5, 2.0, 5.0):
        rho = math.sqrt(signal / d)
        risks = []
        for n in scale(quick=(4, 40, 400), full=(10, 100, 1000)):
            batch = min(runs, 500_000 // n)
            found = [simulated_sum_risk(n, d, rho, batch, seed) for seed in range(runs // batch)]
            risks.append(sum(found) / len(found))
        spreads.append(max(risks) - min(risks))
        notes.append(f"{signal:g}: {sum(risks) / 3:.2f}")
    return Measured(max(spreads), unit="largest difference", note="risk at rho^2 d = " + ", ".join(notes))


def simulated_sum_risk(n: int, d: int, rho: float, runs: int, seed: int) -> float:
    true = sketch.correlated_databases(n, d, rho, batch=(runs,), dtype=torch.float32, generator=2 * seed)
    none = sketch.correlated_databases(n, d, 0.0, batch=(runs,), dtype=torch.float32, generator=2 * seed + 1)
    false = sketch.detect(none.X, none.Y, rho).correlated.double().mean()
    return float(false + 1 - sketch.detect(true.X, true.Y, rho).correlated.double().mean())


@claim(
    paper="Phase Transitions in the Detection of Correlated Databases",
    method=sketch.detection_bounds,
    says="the sum test crosses risk 1/2 at the same rho^2 d for d = 50 to 3200, largest over smallest",
    at_most=1.25,
)
def sum_test_crossing(scale: Scale) -> Measured:
    from resolvent.sketch.detection_bounds import sum_test_risk

    places = []
    for d in (50, 200, 800, 3200):
        low, high = 0.0, 0.9
        for _ in range(scale(quick=25, full=40)):
            middle = (low + high) / 2
            low, high = (middle, high) if sum_test_risk(d, middle) > 0.5 else (low, middle)
        places.append(low * low * d)
    return Measured(max(places) / min(places), unit="x", note=", ".join(f"{p:.2f}" for p in places))


@claim(
    paper="Phase Transitions in the Detection of Correlated Databases",
    method=sketch.detection_bounds,
    says="at rho^2 d = 0.05 no test is much better than a coin: the smallest simulated risk of four tests",
    at_least=0.85,
)
def weak_detection_is_impossible(scale: Scale) -> Measured:
    smallest, bound = math.inf, math.inf
    for n, d in ((2, 5), (6, 5), (6, 40), (9, 200)):
        rho = math.sqrt(0.05 / d)
        smallest = min(smallest, *simulated_risks(n, d, rho, scale(quick=600, full=10_000)).values())
        bound = min(bound, sketch.detection_bounds(n, d, rho).lower)
    return Measured(smallest, unit="risk", note=f"no test is below {bound:.3f}")
