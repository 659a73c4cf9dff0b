"""What the papers on streams of rows claim, measured: top eigenvector in random order, maintained projections."""

import functools
import math
import time

import torch
from torch import Tensor

from resolvent import sketch
from resolvent.claims import Measured, Scale, claim

GAPS = (2.0, 4.0, 8.0)
# Fixed learning rates of Oja's rule, in units of log d / sigma_1^2.
RATES = (0.5, 2.0, 8.0, 32.0, 128.0, 512.0)


def rows(n: int, d: int, gap: float, heavy: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows in random order whose Gram matrix has about the gap sigma_1^2 / sigma_2^2 = `gap`, and its top eigenvector.

    With heavy rows, three of them carry the first direction and the others one direction each, of energy 1/2; the light
    rows fill all directions but the first.
    """
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    energies = torch.full((d,), 0.5 if heavy else 1.0, dtype=torch.float64)
    energies[0] = 0.0 if heavy else gap
    A = torch.randn(n - heavy, d, generator=g, dtype=torch.float64) * (energies / n).sqrt()
    H = torch.zeros(heavy, d, dtype=torch.float64)
    if heavy:
        H[:3, 0] = math.sqrt(gap / 3)
        H[torch.arange(3, heavy), torch.arange(1, heavy - 2)] = math.sqrt(0.5)
    A = torch.cat([A, H])[torch.randperm(n, generator=g)] @ Q.T
    return A, torch.linalg.eigh(A.T @ A).eigenvectors[:, -1]


def miss(found: sketch.TopEigenvector, v: Tensor) -> float:
    return 1 - float(found.vector @ v) ** 2


@functools.cache
def errors(sizes: tuple[int, int, int, int], heavy: bool) -> dict[str, dict[float, list[float]]]:
    """Errors over random orders of: the method, without stored rows, the best fixed rate of Oja's rule."""
    n, d, count, orders = sizes
    found: dict[str, dict[float, list[float]]] = {"ours": {}, "unstored": {}, "oja": {}, "memory": {}}
    for gap in GAPS:
        kept = {name: values.setdefault(gap, []) for name, values in found.items()}
        for seed in range(orders):
            A, v = rows(n, d, gap, count if heavy else 0, seed)
            result = sketch.top_eigenvector_stream(A, generator=seed)
            kept["ours"].append(miss(result, v))
            kept["memory"].append(result.memory / d - (count if heavy else 0))
            if heavy:
                unstored = sketch.top_eigenvector_stream(A, heavy_budget=0, generator=seed)
                kept["unstored"].append(miss(unstored, v))
                rates = [r * math.log(d) / gap for r in RATES]
                kept["oja"].append(min(miss(sketch.oja(A, rate, generator=seed), v) for rate in rates))
    return found


def sizes(scale: Scale) -> tuple[int, int, int, int]:
    return scale(quick=(4000, 60, 12, 5), full=(50_000, 500, 50, 20))


@claim(
    paper="Approximating the Top Eigenvector in Random Order Streams",
    method=sketch.top_eigenvector_stream,
    says="1 - <v, v_1>^2 is at most 0.05 for gaps of 4 and more, with heavy rows and without, within (h + 20) d words",
    at_most=0.05,
)
def error_at_constant_gap(scale: Scale) -> Measured:
    runs = [errors(sizes(scale), heavy) for heavy in (False, True)]
    worst = max(max(run["ours"][gap]) for run in runs for gap in GAPS[1:])
    words = max(max(run["memory"][gap]) for run in runs for gap in GAPS)
    value = worst if words <= 20 else math.nan
    return Measured(value, unit="largest error", note=f"memory (h + {words:.0f}) d words")


@claim(
    paper="Approximating the Top Eigenvector in Random Order Streams",
    method=sketch.top_eigenvector_stream,
    says="1 - <v, v_1>^2 is O(1/R): the largest error in units of 1/R over gaps R = 2, 4, 8",
    at_most=2.0,
)
def error_in_units_of_the_gap(scale: Scale) -> Measured:
    runs = [errors(sizes(scale), heavy) for heavy in (False, True)]
    by_gap = {gap: max(max(run["ours"][gap]) for run in runs) for gap in GAPS}
    note = ", ".join(f"R = {gap:g}: {error:.4f}" for gap, error in by_gap.items())
    return Measured(max(gap * error for gap, error in by_gap.items()), unit="/ R", note=note)


@claim(
    paper="Approximating the Top Eigenvector in Random Order Streams",
    method=sketch.top_eigenvector_stream,
    says="heavy rows must be stored: without them the error is above 0.3, share of the runs with heavy rows",
    at_least=0.5,
)
def without_stored_rows(scale: Scale) -> Measured:
    found = [e for values in errors(sizes(scale), True)["unstored"].values() for e in values]
    return Measured(sum(e > 0.3 for e in found) / len(found), unit="of the runs")


@claim(
    paper="Approximating the Top Eigenvector in Random Order Streams",
    method=sketch.oja,
    says="Oja's rule with a fixed rate, the best of six for each stream, is worse on heavy rows, share of the runs",
    at_least=0.8,
)
def oja_on_heavy_rows(scale: Scale) -> Measured:
    run = errors(sizes(scale), True)
    pairs = [(o, e) for gap in GAPS for o, e in zip(run["oja"][gap], run["ours"][gap], strict=True)]
    middle = sorted(o for o, _ in pairs)[len(pairs) // 2]
    note = f"median error of the best rate {middle:.2f}"
    return Measured(sum(o > e + 1e-6 for o, e in pairs) / len(pairs), unit="of the runs", note=note)


@claim(
    paper="Approximating the Top Eigenvector in Random Order Streams",
    method=sketch.top_eigenvector_stream,
    says="the random order is needed: with the same rows sorted the error is beyond the 0.05 above, share of the runs",
    at_least=0.9,
)
def sorted_order(scale: Scale) -> Measured:
    n, d, _, orders = sizes(scale)
    sorted_errors, shuffled = [], []
    for seed in range(orders):
        A, v = rows(n, d, 4.0, 0, seed)
        by_part = A[(A @ v).abs().argsort(descending=True)]
        sorted_errors.append(miss(sketch.top_eigenvector_stream(by_part, generator=seed), v))
        shuffled.append(miss(sketch.top_eigenvector_stream(A, generator=seed), v))
    note = f"smallest error {min(sorted_errors):.2f}; in random order at most {max(shuffled):.3f}"
    return Measured(sum(e > 0.05 for e in sorted_errors) / orders, unit="of the runs", note=note)


def maintained(seed: int, rounds: int, copies: int | None) -> tuple[float, int, sketch.ProjectionMaintainer]:
    """The largest error of questions made from the last answer's error, and the first round beyond 3 eps."""
    n, m, eps = 24, 40, 0.1
    g = torch.Generator().manual_seed(100 + seed)
    A = torch.randn(m, n * n, generator=g, dtype=torch.float64)
    U = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    values = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    # One copy gets the rows that each of the sqrt(200) copies has.
    size = {} if copies is None else {"copies": copies, "sketch_rows": 65}
    kept = sketch.ProjectionMaintainer(A, values, U, eps=eps, rounds=rounds, generator=9000 + seed, **size)
    h, worst, broken = torch.randn(n * n, generator=g, dtype=torch.float64), 0.0, rounds
    for t in range(rounds):
        values = small_change(values, g)
        kept.update(values)
        off = kept.query(h) - kept.exact(h)
        error = float(off.abs().max() / torch.linalg.vector_norm(h))
        worst = max(worst, error)
        broken = min(broken, t) if error > 3 * eps else broken
        h = off / torch.linalg.vector_norm(off)
    return worst, broken, kept


def small_change(values: Tensor, g: torch.Generator) -> Tensor:
    """Two eigenvalues change by about 2 %."""
    values = values.clone()
    which = torch.randperm(len(values), generator=g)[:2]
    values[which] *= torch.exp(0.02 * torch.randn(2, generator=g, dtype=torch.float64))
    return values


@claim(
    paper="Sketching Meets Differential Privacy: Fast Algorithm for Dynamic Kronecker Projection Maintenance",
    method=sketch.ProjectionMaintainer,
    says="with sqrt(T) copies every entry stays within 0.1 |h| of the projection (n = 24, m = 40) through T questions "
    "made of the error of the last answer, T = 100 (full: 200)",
    at_most=0.1,
)
def adaptive_questions(scale: Scale) -> Measured:
    found = [maintained(seed, scale(quick=100, full=200), None) for seed in range(scale(quick=1, full=10))]
    note = f"{found[0][2].copies} copies of {found[0][2].sketch_rows} rows"
    return Measured(max(worst for worst, _, _ in found), unit="|h|", note=note)


@claim(
    paper="Sketching Meets Differential Privacy: Fast Algorithm for Dynamic Kronecker Projection Maintenance",
    method=sketch.ProjectionMaintainer,
    says="one sketch of the same size that is used again is off by more than 0.3 |h| before round 100, share of the runs",
    at_least=0.9,
    known_miss="0.35 of 40 runs: the median error is 0.28 |h|, beyond the promised 0.1 |h| in all runs but not always three "
    "times as much; the same questions leave the median of the copies below 0.1 |h|",
)
def one_sketch_breaks(scale: Scale) -> Measured:
    found = [maintained(seed, 100, 1) for seed in range(scale(quick=5, full=40))]
    middle = sorted(worst for worst, _, _ in found)[len(found) // 2]
    first = sorted(broken for _, broken, _ in found)[len(found) // 2]
    share = sum(broken < 100 for _, broken, _ in found) / len(found)
    return Measured(share, unit="of the runs", note=f"median error {middle:.2f}, median round {first}")


@claim(
    paper="Sketching Meets Differential Privacy: Fast Algorithm for Dynamic Kronecker Projection Maintenance",
    method=sketch.ProjectionMaintainer,
    says="lazy updates, amortised, against building factor and sketched products anew at every change",
    at_least=3.0,
)
def amortised_updates(scale: Scale) -> Measured:
    n, m, rounds = 24, 40, scale(quick=40, full=200)
    g = torch.Generator().manual_seed(5)
    A = torch.randn(m, n * n, generator=g, dtype=torch.float64)
    U = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    values = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    lazy = sketch.ProjectionMaintainer(A, values, U, eps=0.1, rounds=200, generator=6)
    eager = sketch.ProjectionMaintainer(A, values, U, eps=0.1, rounds=200, generator=6)
    plain = sketch.ProjectionMaintainer(A, values, U)
    times = [0.0, 0.0, 0.0]
    for _ in range(rounds):
        values = small_change(values, g)
        calls = (lambda v=values: lazy.update(v), lambda v=values: eager.update(v, U), lambda v=values: plain.update(v))
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times[i] += time.perf_counter() - start
    note = ", ".join(
        f"{name} {t / rounds * 1e3:.2f} ms" for name, t in zip(("lazy", "anew", "exact"), times, strict=True)
    )
    return Measured(times[1] / times[0], unit="x less time", note=f"{note}; {lazy.refreshes} refreshes")


@claim(
    paper="Sketching Meets Differential Privacy: Fast Algorithm for Dynamic Kronecker Projection Maintenance",
    method=sketch.ProjectionMaintainer,
    says="with eps = 0 the answers are the projection, by its definition, after 200 changes of rank two",
    at_most=1e-8,
)
def exact_mode(scale: Scale) -> Measured:
    n, m, worst = 12, 40, 0.0
    g = torch.Generator().manual_seed(3)
    A = torch.randn(m, n * n, generator=g, dtype=torch.float64)
    U = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    values = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    kept = sketch.ProjectionMaintainer(A, values, U)
    for t in range(200):
        values = small_change(values, g)
        kept.update(values)
        if t % scale(quick=20, full=1) == 0 or t == 199:
            root = U @ torch.diag(values.sqrt()) @ U.T
            B = A @ torch.kron(root, root)
            h = torch.randn(n * n, generator=g, dtype=torch.float64)
            exact = B.T @ torch.linalg.solve(B @ B.T, B @ h)
            worst = max(worst, float((kept.query(h) - exact).abs().max() / torch.linalg.vector_norm(h)))
    return Measured(worst, unit="|h|")
