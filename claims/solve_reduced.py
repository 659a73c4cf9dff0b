"""What the papers of local bases and of nonintrusive reduced bases claim, measured."""

import functools
from collections.abc import Iterator

import numpy as np
import scipy.linalg
import torch
from _seconds import seconds
from sklearn.cluster import KMeans

from resolvent import solve
from resolvent.claims import Measured, Scale, claim


def advection(rng: np.random.Generator, m: int) -> np.ndarray:
    """A bump that moves across a line."""
    x = np.linspace(0, 1, 128)
    return np.exp(-200 * (x - rng.uniform(0.1, 0.9, (m, 1))) ** 2)


def thermal(rng: np.random.Generator, m: int) -> np.ndarray:
    """The temperature of a square plate with a source near the left or the upper side, at a random place there."""
    k = 12
    L = np.diag(np.full(k, 2.0)) - np.diag(np.ones(k - 1), 1) - np.diag(np.ones(k - 1), -1)
    A = (np.kron(L, np.eye(k)) + np.kron(np.eye(k), L)) * (k + 1) ** 2 + np.eye(k * k)
    x, y = np.meshgrid(*[np.arange(1, k + 1) / (k + 1)] * 2, indexing="ij")
    along, left = rng.uniform(0.15, 0.85, (m, 1, 1)), rng.random((m, 1, 1)) < 0.5
    a, b = np.where(left, 0.15, along), np.where(left, along, 0.85)
    sources = np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.01)
    return np.linalg.solve(A, sources.reshape(m, -1).T).T


def burgers(rng: np.random.Generator, m: int) -> np.ndarray:
    """Fronts of viscous Burgers' equation, of random places and viscosities."""
    x = np.linspace(0, 1, 128)
    nu = rng.uniform(0.005, 0.02, (m, 1))
    return 0.5 * (1 - np.tanh((x - rng.uniform(0.2, 0.8, (m, 1))) / (4 * nu)))


def helmholtz(rng: np.random.Generator, m: int) -> np.ndarray:
    """-u'' - (k^2 + 0.5 i k) u = a source in the middle, k from 5 to 60."""
    n = 128
    h = 1 / (n + 1)
    x = h * np.arange(1, n + 1)
    source = np.exp(-((x - 0.4) ** 2) / 0.0005)
    found = np.empty((m, n), dtype=complex)
    for i, k in enumerate(rng.uniform(5, 60, m)):
        bands = np.full((3, n), -1 / h**2, dtype=complex)
        bands[1] = 2 / h**2 - k**2 - 0.5j * k
        found[i] = scipy.linalg.solve_banded((1, 1), bands, source)
    return found


def damage(rng: np.random.Generator, m: int) -> np.ndarray:
    """A bar whose weakest of eight cells has lost its stiffness: the displacement under a random load."""
    n = 128
    x = (np.arange(n) + 0.5) / n
    cell = (np.arange(n) * 8) // n
    weak = cell == rng.integers(0, 8, (m, 1))
    stiffness = np.where(weak, 0.01, 1.0) * (1 + 0.1 * np.sin(2 * np.pi * (x + rng.random((m, 1)))))
    force = 1 + rng.uniform(0, 1, (m, 1)) * (1 - x)
    return np.cumsum(force / stiffness, axis=1) / n


def problems(m: int) -> Iterator[tuple[str, np.ndarray]]:
    """Snapshots with random amplitudes from 0.1 to 10."""
    for seed, make in enumerate((advection, thermal, burgers, helmholtz, damage)):
        rng = np.random.default_rng(seed)
        yield make.__name__, make(rng, m) * 10 ** rng.uniform(-1, 1, (m, 1))


def partitions(X: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels by angles around medoids, and by distances around means."""
    ours = solve.local_bases(X, K, 1, generator=0).labels
    flat = np.ascontiguousarray(X).view(float) if np.iscomplexobj(X) else X
    return ours, KMeans(K, n_init=10, random_state=0).fit_predict(flat).astype(np.int64)


def worst_errors(scale: Scale) -> dict[str, np.ndarray]:
    """The largest error of the Euclidean partition over that of ours, for each problem, K and number of modes."""
    clusters, modes = scale(quick=(2, 4, 6), full=range(2, 9)), scale(quick=(5, 8), full=range(5, 11))
    found = {}
    for name, X in problems(scale(quick=150, full=600)):
        ratios = np.empty((len(clusters), len(modes)))
        for i, K in enumerate(clusters):
            both = partitions(X, K)
            for j, n in enumerate(modes):
                a, b = (solve.local_bases(X, labels, n).errors(X, labels).max() for labels in both)
                ratios[i, j] = b / a
        found[name] = ratios
    return found


@claim(
    paper="Physics-informed cluster analysis and a priori efficiency criterion for the construction of local reduced-order bases",
    method=solve.local_bases,
    says="clusters by angles around medoids have a worst projection error at least 2x below those of Euclidean k-means, in "
    "at least 4 of 5 problems (median over the numbers of clusters and modes)",
    at_least=2.0,
)
def angles_against_distances(scale: Scale) -> Measured:
    medians = {name: float(np.median(ratios)) for name, ratios in worst_errors(scale).items()}
    note = ", ".join(f"{name} {value:.3g}" for name, value in medians.items())
    return Measured(sorted(medians.values())[1], unit="x lower error", note=f"fourth best of: {note}")


@claim(
    paper="Physics-informed cluster analysis and a priori efficiency criterion for the construction of local reduced-order bases",
    method=solve.local_bases,
    says="nowhere is the worst projection error of clusters by angles more than 1.1x that of Euclidean k-means",
    at_most=1.1,
)
def angles_are_never_worse(scale: Scale) -> Measured:
    ratios = worst_errors(scale)
    name = min(ratios, key=lambda name: ratios[name].min())
    cells = sum(r.size for r in ratios.values())
    return Measured(float(1 / ratios[name].min()), unit="x the error", note=f"{cells} cells, the worst one of {name}")


def agreement(scale: Scale) -> Iterator[tuple[float, float]]:
    """The gain that the criterion predicts and the gain on unseen snapshots, for every problem, K and number of modes."""
    clusters, modes = list(scale(quick=(2, 4), full=range(2, 9))), list(scale(quick=(2, 5), full=range(5, 11)))
    m = scale(quick=120, full=600)
    for _, X in problems(2 * m):
        seen, unseen = X[:m], X[m:]
        for row in solve.efficiency_criterion(seen, clusters, modes, generator=0).rows:
            whole, local = (solve.local_bases(seen, K, row.n_modes, generator=0) for K in (1, row.n_clusters))
            yield row.gain, whole.errors(unseen).mean() / local.errors(unseen).mean()


@claim(
    paper="Physics-informed cluster analysis and a priori efficiency criterion for the construction of local reduced-order bases",
    method=solve.efficiency_criterion,
    says="the criterion knows before any test whether local bases are better than a global one, and whether by 10x: share of "
    "right predictions on unseen snapshots",
    at_least=0.9,
)
def predicted_gains(scale: Scale) -> Measured:
    pairs = list(agreement(scale))
    right = [(a > t) == (b > t) for a, b in pairs for t in (1, 10)]
    lost = sum(b <= 1 for _, b in pairs)
    off = float(np.median([max(a / b, b / a) for a, b in pairs]))
    note = f"{len(pairs)} cells, in {lost} of them local bases lose; predicted gains are off by a median {off:.3g}x"
    return Measured(float(np.mean(right)), unit="right", note=note)


def grid(wavenumbers: int, absorptions: int) -> list[tuple[float, float]]:
    """Wavenumbers from 1 to 8 and absorptions from 0 to 1."""
    ks, ls = np.linspace(1, 8, wavenumbers), np.linspace(0, 1, absorptions)
    return [(float(k), float(a)) for k in ks for a in ls]


def unseen(count: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    return [(float(k), float(a)) for k, a in zip(rng.uniform(1, 8, count), rng.uniform(0, 1, count), strict=True)]


def shadow(disk: solve.Scattering) -> torch.Tensor:
    """The functional of the mean pressure on the quarter of the boundary that the wave does not see."""
    angles = np.arctan2(disk.points[:, 1], disk.points[:, 0])
    weights = np.where(np.abs(angles) < np.pi / 4, disk.speed, 0)
    return torch.from_numpy(weights / weights.sum()).to(torch.complex128)


@functools.cache
def separated(n: int, wavenumbers: int) -> tuple[solve.Scattering, list[tuple[float, float]], solve.SeparatedMatrix]:
    """A disk, training parameters, and at most 25 matrices."""
    disk = solve.Scattering(n)
    # The matrix is affine in the absorption: two values of it.
    train = grid(wavenumbers, 2)
    return disk, train, solve.separate_matrix(disk.matrix, train, max_terms=25, entries=disk.entries, generator=0)


def reduced(scale: Scale, N: int, dual: bool = False) -> tuple[solve.Scattering, torch.Tensor, solve.ReducedBasis]:
    """N solutions, and the functional of the output."""
    disk, train, matrices = separated(scale(quick=48, full=400), scale(quick=26, full=40))
    basis = solve.ReducedBasis(
        matrices,
        disk.rhs,
        train,
        output=shadow(disk),
        max_basis=N,
        matrix_rtol=1e-12,
        b_entries=disk.rhs,
        solver=lambda mu: torch.linalg.solve(disk.matrix(mu), disk.rhs(mu)),
        adjoint_solver=lambda mu: torch.linalg.solve(disk.matrix(mu).mH, shadow(disk)),
        dual=dual,
        generator=0,
    )
    return disk, shadow(disk), basis


@claim(
    paper="A nonintrusive Reduced Basis Method applied to aeroacoustic simulations",
    method=solve.Scattering,
    says="disk, k in [1, 8], absorption in [0, 1]: the full solver agrees with separation of variables to 1e-6",
    at_most=1e-6,
)
def full_solver(scale: Scale) -> Measured:
    disk = solve.Scattering(scale(quick=64, full=400), angle=0.4)
    gaps = []
    for mu in unseen(scale(quick=10, full=50)):
        x = torch.linalg.solve(disk.matrix(mu), disk.rhs(mu))
        gaps.append(float((x - disk.series(mu)).abs().max()))
    return Measured(max(gaps), unit="error")


@claim(
    paper="A nonintrusive Reduced Basis Method applied to aeroacoustic simulations",
    method=solve.ReducedBasis,
    says="20 solutions and at most 25 matrices give outputs to 1e-4 at unseen parameters",
    at_most=1e-4,
)
def outputs(scale: Scale) -> Measured:
    disk, functional, basis = reduced(scale, 20, dual=True)
    gaps = []
    for mu in unseen(scale(quick=20, full=200)):
        exact = complex(functional.conj() @ disk.series(mu))
        gaps.append(abs(complex(basis.output(mu).value) - exact) / abs(exact))
    note = f"{len(basis.points)} solutions, {len(basis.matrix.points)} matrices"
    return Measured(max(gaps), unit="relative error", note=note)


@claim(
    paper="A nonintrusive Reduced Basis Method applied to aeroacoustic simulations",
    method=solve.ReducedBasis,
    says="the estimated error of 8, 12 and 16 solutions is never below the error at unseen parameters, and at most 50x above",
    at_most=50.0,
)
def effectivity(scale: Scale) -> Measured:
    found = []
    for N in (8, 12, 16):
        disk, _, basis = reduced(scale, N)
        for mu in unseen(scale(quick=12, full=200)):
            x, exact = basis.solve(mu), torch.linalg.solve(disk.matrix(mu), disk.rhs(mu))
            found.append(x.error / float(torch.linalg.vector_norm(x.x - exact) / torch.linalg.vector_norm(x.x)))
    note = f"from {min(found):.3g} to {max(found):.3g}, median {np.median(found):.3g}"
    # Below 1 it is no bound.
    return Measured(max(found) if min(found) >= 1 else float("inf"), unit="x the error", note=note)


@claim(
    paper="A nonintrusive Reduced Basis Method applied to aeroacoustic simulations",
    method=solve.ReducedBasis,
    says="an output at one of 200 new parameters takes a hundredth of the time of the full solution",
    at_least=100.0,
)
def online_time(scale: Scale) -> Measured:
    # Few wavenumbers at quick scale, so that the basis is built in a second.
    disk, train, matrices = separated(scale(quick=300, full=400), scale(quick=2, full=40))
    basis = solve.ReducedBasis(
        matrices, disk.rhs, train, output=shadow(disk), max_basis=20, b_entries=disk.rhs, stability=0.4, generator=0
    )
    mu, many = (2.2, 0.5), [(float(k), 0.5) for k in np.linspace(1, 2.5, 200)]

    def full() -> complex:
        return complex(shadow(disk).conj() @ torch.linalg.solve(disk.matrix(mu), disk.rhs(mu)))

    slow, fast, single = seconds(
        full, lambda: basis.outputs(many), lambda: basis.output(mu), repeats=scale(quick=3, full=9)
    )
    note = (
        f"{1e3 * slow:.3g} ms and {1e3 * fast / 200:.2g} ms ({1e3 * single:.2g} ms for a single parameter), "
        f"{disk.n} points, {len(basis.points)} solutions, {len(matrices.points)} matrices"
    )
    return Measured(200 * slow / fast, unit="x faster", note=note)


def residuals(scale: Scale) -> tuple[float, float]:
    """The largest relative residual of a basis that holds all it can, by the frame and by the Gram matrix of its vectors."""
    _, _, basis = reduced(scale, 30)
    system, side = basis.primal
    R = torch.cat([system.sides, system.products.permute(1, 0, 2).flatten(1)], dim=1)
    gram = R.mH @ R
    by_frame, by_gram = [], []
    for mu in unseen(scale(quick=10, full=100)):
        beta, gamma = basis.matrix.beta(mu), side.weights([mu])[0][0]
        y = basis.solve(mu).coordinates
        v = torch.cat([gamma, -torch.outer(y, beta).flatten()])
        size = float(torch.linalg.vector_norm(system.sides @ gamma))
        by_gram.append(float((v.conj() @ gram @ v).abs().sqrt()) / size)
        by_frame.append(basis.residual(mu))
    return max(by_frame), max(by_gram)


@claim(
    paper="A nonintrusive Reduced Basis Method applied to aeroacoustic simulations",
    method=solve.ReducedBasis,
    says="residuals from an orthonormal frame keep decreasing to 1e-10 (those from the Gram matrix stop near 1e-7)",
    at_most=1e-10,
)
def small_residuals(scale: Scale) -> Measured:
    by_frame, by_gram = residuals(scale)
    return Measured(by_frame, unit="relative residual", note=f"from the Gram matrix {by_gram:.2g}")


@claim(
    paper="A nonintrusive Reduced Basis Method applied to aeroacoustic simulations",
    method=solve.ReducedBasis,
    says="where the residual from the Gram matrix stagnates, that from the frame is at least 1000x smaller",
    at_least=1000.0,
)
def residuals_against_gram(scale: Scale) -> Measured:
    by_frame, by_gram = residuals(scale)
    return Measured(by_gram / by_frame, unit="x smaller", note=f"{by_gram:.2g} and {by_frame:.2g}")
