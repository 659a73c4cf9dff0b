"""What the papers of empirical interpolation claim, measured."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from resolvent import solve
from resolvent.claims import Measured, Scale, claim


def functions(n: int) -> Iterator[tuple[str, Tensor]]:
    """Three functions of two points of the plane, on n random points each."""
    g = torch.Generator().manual_seed(0)

    def points() -> Tensor:
        return torch.rand(n, 2, dtype=torch.float64, generator=g)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, None] - y).square().sum(-1).sqrt()

    x = points()
    yield "inverse distance", 1 / distance(x, 0.9 * points() - 1)
    yield "Gaussian", torch.exp(-4 * distance(x, points()).square())
    r = distance(x, points() + torch.tensor([1.5, 0.0]))
    yield "Helmholtz", torch.exp(5j * r) / r


@claim(
    paper="Variants of the Empirical Interpolation Method: symmetric formulation, choice of norms and rectangular extension",
    method=solve.EIM,
    says="the classical and the symmetric form select the same points and are the same interpolant, for either norm",
    at_most=1e-12,
)
def one_interpolant(scale: Scale) -> Measured:
    worst = 0.0
    for _, f in functions(scale(quick=120, full=400)):
        for norm in ("inf", 2):
            found, classic = (solve.EIM(f, rtol=1e-8, norm=norm, symmetric=s) for s in (True, False))
            if (found.x_points, found.y_points) != (classic.x_points, classic.y_points):
                return Measured(math.nan, unit="other points")
            # the classical form: a unit triangular system in the normalised residuals
            basis, rows = f.new_zeros(len(f), found.rank), list(classic.x_points)
            for d, column in enumerate(classic.y_points):
                known = torch.linalg.solve_triangular(
                    basis[rows[:d], :d], f[rows[:d]][:, [column]], upper=False, unitriangular=True
                )
                rest = f[:, column] - (basis[:, :d] @ known)[:, 0]
                basis[:, d] = rest / rest[rows[d]]
            inner = torch.linalg.solve_triangular(basis[rows].tril(), f[rows], upper=False, unitriangular=True)
            gap = (basis @ inner - found.evaluate()).abs().max() / f.abs().max()
            worst = max(worst, float(gap))
    return Measured(worst, unit="relative difference")


@claim(
    paper="Variants of the Empirical Interpolation Method: symmetric formulation, choice of norms and rectangular extension",
    method=solve.EIM,
    says="the error decays exponentially and stays within 10x of the SVD's at every rank (Frobenius norm, to 1e-10)",
    at_most=10.0,
    known_miss="in the median of the ranks it is within 10x of the optimum, at the worst rank 10 to 40 times above it",
)
def against_the_svd(scale: Scale) -> Measured:
    worst, notes = 0.0, []
    for name, f in functions(scale(quick=150, full=400)):
        values = torch.linalg.svdvals(f)
        tails = values.square().flip(0).cumsum(0).flip(0).sqrt()
        ratios = []
        for k in range(1, len(values)):
            if tails[k] < 1e-10 * tails[0]:
                break
            rest = solve.EIM(f, max_terms=k).evaluate() - f
            ratios.append(float(torch.linalg.matrix_norm(rest) / tails[k]))
        worst = max(worst, *ratios)
        notes.append(f"{name}: median {np.median(ratios):.2g}, worst {max(ratios):.3g}, {len(ratios)} ranks")
    return Measured(worst, unit="x the optimum", note="; ".join(notes))


@claim(
    paper="Variants of the Empirical Interpolation Method: symmetric formulation, choice of norms and rectangular extension",
    method=solve.EIM,
    says="the greedy error falls by a factor of 1e10 in fewer terms than a sixth of the points",
    at_least=6.0,
)
def exponential_decay(scale: Scale) -> Measured:
    n = scale(quick=200, full=400)
    # Points in the plane: exp(-c sqrt(d)) terms; on a line exp(-c d).
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    terms = [solve.EIM(f, rtol=1e-10).rank for f in (1 / (1.1 + t[:, None] + t), torch.exp(-4 * (t[:, None] - t) ** 2))]
    terms.append(solve.EIM(torch.exp(5j * (2 + t[:, None] - t)) / (2 + t[:, None] - t), rtol=1e-10).rank)
    return Measured(n / max(terms), unit="points a term", note=f"{terms} terms of {n} points on a line")


def losses(f: Tensor, terms: int) -> tuple[list[float], list[float]]:
    """Median errors after each sensor fails: with all fields, and with the last field dropped as well."""
    found = solve.EIM(f, max_terms=terms)
    errors: tuple[list[float], list[float]] = ([], [])
    for i in range(terms):
        for kept, last in zip(errors, (None, terms - 1), strict=True):
            rest = found.drop(x_index=i, y_index=last).evaluate() - f
            kept.append(float(rest.abs().amax(0).median()))
    return errors


@claim(
    paper="Variants of the Empirical Interpolation Method: symmetric formulation, choice of norms and rectangular extension",
    method=solve.EIM,
    says="after one of 12 sensors fails, keeping its field has a 5x lower median error than 11 x 11 points (best of three)",
    at_least=5.0,
    known_miss="1 to 5 times lower in the median of the sensors for smooth functions, up to 100 times for the first ones; "
    "no gain for an oscillating one",
)
def a_broken_sensor(scale: Scale) -> Measured:
    notes, best = [], 0.0
    for name, f in functions(scale(quick=200, full=400)):
        ratios = sorted(b / a for a, b in zip(*losses(f, 12), strict=True))
        best = max(best, float(np.median(ratios)))
        notes.append(f"{name}: {ratios[0]:.2g} to {ratios[-1]:.3g}, median {np.median(ratios):.2g}")
    return Measured(best, unit="x lower error", note="; ".join(notes))


@claim(
    paper="Variants of the Empirical Interpolation Method: symmetric formulation, choice of norms and rectangular extension",
    method=solve.EIM,
    says="a broken sensor costs little if its field is kept: in the worst case of the sensors 5x less than 11 x 11 points",
    at_least=5.0,
)
def the_worst_broken_sensor(scale: Scale) -> Measured:
    gains = []
    for _, f in list(functions(scale(quick=200, full=400)))[:2]:
        kept, refitted = losses(f, 12)
        gains.append(max(refitted) / max(kept))
    return Measured(min(gains), unit="x lower error", note=f"smooth functions: {gains[0]:.3g} and {gains[1]:.3g}")


def boundary_value_problem(n: int) -> tuple[Callable, Callable]:
    """-(c u')' on (0, 1) by finite volumes, c = exp(mu1 x) / (1 + mu2 x^2): the matrix, and single entries of it."""
    h = 1 / (n + 1)
    middle = (torch.arange(n + 1, dtype=torch.float64) + 0.5) * h

    def coefficient(mu: tuple[float, float]) -> Tensor:
        return torch.exp(mu[0] * middle) / (1 + mu[1] * middle**2) / h**2

    def matrix(mu: tuple[float, float]) -> Tensor:
        c = coefficient(mu)
        return torch.diag(c[1:] + c[:-1]) - torch.diag(c[1:-1], 1) - torch.diag(c[1:-1], -1)

    def entries(mu: tuple[float, float], rows: Tensor, columns: Tensor) -> Tensor:
        c = coefficient(mu)
        beside = -c[torch.maximum(rows, columns)]
        return torch.where(rows == columns, c[rows] + c[rows + 1], beside) * ((rows - columns).abs() <= 1)

    return matrix, entries


def parameters(m: int) -> list[tuple[float, float]]:
    """Chebyshev points of a square, the corners almost included."""
    t = np.cos(np.pi * (np.arange(m) + 0.5) / m)
    return [(float(a), float(1 + b)) for a in t for b in t]


def unseen(count: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    return [(rng.uniform(-1, 1), rng.uniform(0, 2)) for _ in range(count)]


def distance_2(value: Tensor, exact: Tensor) -> float:
    return float(torch.linalg.matrix_norm(value - exact, 2) / torch.linalg.matrix_norm(exact, 2))


@claim(
    paper="A nonintrusive method to approximate linear systems with nonlinear parameter dependence",
    method=solve.separate_matrix,
    says="coefficient exp(mu1 x) / (1 + mu2 x^2): with at most 15 matrices the operator error at unseen mu is <= 1e-6",
    at_most=1e-6,
)
def one_dimensional(scale: Scale) -> Measured:
    matrix, entries = boundary_value_problem(scale(quick=80, full=500))
    found = solve.separate_matrix(
        matrix, parameters(scale(quick=8, full=12)), rtol=1e-8, max_terms=15, entries=entries, generator=0
    )
    worst = max(distance_2(found.matrix(mu), matrix(mu)) for mu in unseen(scale(quick=10, full=100)))
    return Measured(worst, unit="relative error", note=f"{len(found.points)} matrices")


@claim(
    paper="A nonintrusive method to approximate linear systems with nonlinear parameter dependence",
    method=solve.separate_matrix,
    says="single-layer Helmholtz kernel exp(i k r) / r, k from 1 to 10: at most 25 matrices for 1e-4 at unseen k",
    at_most=1e-4,
)
def helmholtz(scale: Scale) -> Measured:
    n = scale(quick=80, full=300)
    points = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # a panel's radius keeps the diagonal finite
    r = (points[:, None] - points).square().sum(-1).sqrt() + 0.5 / math.sqrt(n)

    def matrix(k: float) -> Tensor:
        return torch.exp(1j * k * r) / r

    found = solve.separate_matrix(matrix, np.linspace(1, 10, 60).tolist(), rtol=1e-5, max_terms=25, generator=0)
    ks = np.random.default_rng(0).uniform(1, 10, scale(quick=10, full=100))
    worst = max(distance_2(found.matrix(k), matrix(k)) for k in ks.tolist())
    return Measured(worst, unit="relative error", note=f"{len(found.points)} matrices")


@claim(
    paper="A nonintrusive method to approximate linear systems with nonlinear parameter dependence",
    method=solve.separate_matrix,
    says="an evaluation looks at exactly as many entries of the matrix as there are terms",
    at_most=1.0,
)
def entries_looked_at(scale: Scale) -> Measured:
    matrix, entries = boundary_value_problem(scale(quick=60, full=500))
    looked = 0

    def counted(mu: tuple[float, float], rows: Tensor, columns: Tensor) -> Tensor:
        nonlocal looked
        looked += len(rows)
        return entries(mu, rows, columns)

    found = solve.separate_matrix(matrix, parameters(9), rtol=1e-5, entries=counted, generator=0)
    looked = 0
    for mu in unseen(10):
        found.to_operator(mu)
    return Measured(looked / 10 / len(found.points), unit="entries a term", note=f"{len(found.points)} terms")


@claim(
    paper="A nonintrusive method to approximate linear systems with nonlinear parameter dependence",
    method=solve.separate_matrix,
    says="in two parameters, Chebyshev interpolation of the matrix with as many snapshots is at least 3x worse",
    at_least=3.0,
)
def against_chebyshev(scale: Scale) -> Measured:
    matrix, entries = boundary_value_problem(scale(quick=60, full=500))
    m = 3
    nodes = parameters(m)
    found = solve.separate_matrix(
        matrix, parameters(scale(quick=8, full=12)), max_terms=m * m, entries=entries, generator=0
    )
    known = [matrix(mu) for mu in nodes]
    t = np.cos(np.pi * (np.arange(m) + 0.5) / m)
    vandermonde = np.linalg.inv(np.polynomial.chebyshev.chebvander(t, m - 1))
    ours, theirs = [], []
    for mu in unseen(scale(quick=10, full=100)):
        sides = [np.polynomial.chebyshev.chebvander([x], m - 1) @ vandermonde for x in (mu[0], mu[1] - 1)]
        weights = np.kron(*sides)[0]
        value = sum(w * A for w, A in zip(weights.tolist(), known, strict=True))
        theirs.append(distance_2(value, matrix(mu)))
        ours.append(distance_2(found.matrix(mu), matrix(mu)))
    note = f"{m * m} snapshots: {max(ours):.2g} and {max(theirs):.2g}"
    return Measured(max(theirs) / max(ours), unit="x lower error", note=note)
