"""What the papers on sequences of systems and on learned directions claim, measured."""

import functools
import time

import numpy as np
import scipy.fft
import scipy.sparse as sp
import torch

from resolvent import solve
from resolvent.claims import Measured, Scale, claim
from resolvent.operators import Sparse
from resolvent.operators.threads import one_thread


def gaussian_fields(count: int, m: int, alpha: float, tau: float, seed: int = 0) -> np.ndarray:
    """Fields of covariance (-Laplace + tau^2)^-alpha with zero normal derivative, as in the data of neural operators."""
    k = np.arange(m)
    decay = tau ** (alpha - 1) * (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** (-alpha / 2)
    decay[0, 0] = 0
    noise = np.random.default_rng(seed).standard_normal((count, m, m))
    return scipy.fft.idctn(m * decay * noise, norm="ortho", axes=(1, 2))


def diffusion(a: np.ndarray) -> sp.csr_matrix:
    """-div(a grad) on the unit square, zero on its edge: five points, harmonic means between cells."""
    m = len(a)
    p = np.pad(a, 1, mode="edge")
    down = 2 * p[:-1, 1:-1] * p[1:, 1:-1] / (p[:-1, 1:-1] + p[1:, 1:-1])
    right = 2 * p[1:-1, :-1] * p[1:-1, 1:] / (p[1:-1, :-1] + p[1:-1, 1:])
    d = down[:-1] + down[1:] + right[:, :-1] + right[:, 1:]
    beside = right[:, 1:].copy()
    beside[:, -1] = 0
    offs = [down[1:-1].ravel(), beside.ravel()[:-1]]
    return (m + 1) ** 2 * sp.diags([d.ravel(), -offs[0], -offs[0], -offs[1], -offs[1]], [0, m, -m, 1, -1]).tocsr()


def darcy(count: int, m: int) -> tuple[list, np.ndarray]:
    """Half of the coefficients take two values, 12 and 3, and half are log-normal."""
    fields = gaussian_fields(count, m, alpha=2.0, tau=3.0)
    half = count // 2
    a = np.concatenate([np.where(fields[:half] > 0, 12.0, 3.0), np.exp(fields[half:])])
    mixed = np.random.default_rng(1).permutation(count)
    return [(Sparse(diffusion(x)), np.ones(m * m)) for x in a[mixed]], a[mixed]


def helmholtz(count: int, m: int, wave: float = 6.0) -> tuple[list, np.ndarray]:
    """-Laplace - k(x)^2 with k within ten percent of 6: indefinite, and such that restarted GMRES can do it."""
    fields = gaussian_fields(count, m, alpha=2.5, tau=7.0)
    k = wave * (1 + 0.1 * fields / abs(fields).max())
    A = diffusion(np.ones((m, m)))
    b = np.random.default_rng(2).standard_normal(m * m)
    return [(Sparse((A - sp.diags(x.ravel() ** 2)).tocsr()), b) for x in k], k


def all_gmres(systems: list) -> tuple[int, float]:
    """Steps and seconds of independent GMRES(50)."""
    steps, start = 0, time.perf_counter()
    for A, b in systems:
        M = solve.jacobi_preconditioner(A)
        steps += solve.gmres(A, b, M=M, rtol=1e-8, restart=50, return_info=True)[1].iterations
    return steps, time.perf_counter() - start


def recycled(systems: list, params: np.ndarray | None) -> tuple[np.ndarray, solve.SequenceInfo]:
    return solve.solve_sequence(
        systems, params, M=solve.jacobi_preconditioner, rtol=1e-8, restart=50, recycle=20, return_info=True
    )


@functools.cache
def runs(problem: str, full: bool) -> dict[str, float]:
    """GMRES, and recycling in a sorted and in the given order."""
    count, m = (128 if problem == "darcy" else 64, 64) if full else ((8, 64) if problem == "darcy" else (6, 32))
    systems, params = (darcy if problem == "darcy" else helmholtz)(count, m)
    recycled(systems[:2], params[:2])
    plain, plain_seconds = all_gmres(systems)
    X, ours = recycled(systems, params)
    worst = max(float(np.linalg.norm(b - A @ x) / np.linalg.norm(b)) for (A, b), x in zip(systems, X, strict=True))
    if worst > 1e-8:
        raise ArithmeticError(f"a residual is {worst:.2g}")
    unsorted = recycled(systems, None)[1]
    gaps = [np.nanmean([s.gap for s in info.systems]) for info in (ours, unsorted)]
    return {
        "gmres": plain,
        "sorted": ours.iterations,
        "unsorted": unsorted.iterations,
        "products": ours.matvecs,
        "speedup": plain_seconds / ours.seconds,
        "seconds": ours.seconds,
        "gap": gaps[0],
        "unsorted gap": gaps[1],
        "count": count,
    }


def fewer(problem: str, scale: Scale) -> Measured:
    r = runs(problem, scale.full)
    n = r["count"]
    note = f"per system {r['gmres'] / n:.0f} steps against {r['sorted'] / n:.0f} ({r['products'] / n:.0f} products)"
    return Measured(r["gmres"] / r["sorted"], unit="x fewer steps", note=note)


@claim(
    paper="Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling",
    method=solve.solve_sequence,
    says="Darcy flow in random fields: sorted recycling needs a third of the steps of GMRES(50)",
    at_least=3.0,
)
def steps_for_darcy_flow(scale: Scale) -> Measured:
    return fewer("darcy", scale)


@claim(
    paper="Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling",
    method=solve.solve_sequence,
    says="Helmholtz in random media: sorted recycling needs half of the steps of GMRES(50)",
    at_least=2.0,
)
def steps_for_helmholtz(scale: Scale) -> Measured:
    return fewer("helmholtz", scale)


@claim(
    paper="Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling",
    method=solve.solve_sequence,
    says="Darcy flow: half of the time of GMRES(50)",
    at_least=2.0,
)
def time_for_darcy_flow(scale: Scale) -> Measured:
    r = runs("darcy", scale.full)
    note = f"{1e3 * r['seconds'] / r['count']:.0f} ms a system"
    return Measured(r["speedup"], unit="x faster", note=note)


@claim(
    paper="Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling",
    method=solve.sort_systems,
    says="recycling in the order given needs a tenth more steps than in a sorted one",
    at_least=1.1,
    known_miss="1.02 to 1.05: sorted neighbours are at less than half of the distance, but the spaces of the smallest "
    "eigenvalues, which hold smooth functions whatever the field, turn nearly as much from one to the next",
)
def steps_saved_by_sorting(scale: Scale) -> Measured:
    r = runs("darcy", scale.full)
    note = f"the space turns by {r['gap']:.2f} from system to system, unsorted by {r['unsorted gap']:.2f}"
    return Measured(r["unsorted"] / r["sorted"], unit="x the steps of the sorted order", note=note)


# ---- learned directions ---------------------------------------------------------------------------------------------


def poisson(mask: torch.Tensor) -> sp.csr_matrix:
    """The five-point Laplacian of a square, without the cells of obstacles."""
    m = len(mask)
    inside = mask.flatten().nonzero()[:, 0].numpy()
    return (diffusion(np.ones((m, m))) / (m + 1) ** 2)[inside][:, inside]


def with_obstacles(m: int, seed: int) -> torch.Tensor:
    """Three discs are cut out."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:m, :m]
    mask = np.ones((m, m), bool)
    for _ in range(3):
        centre, radius = rng.integers(m // 8, 7 * m // 8, 2), rng.integers(m // 16, m // 8)
        mask &= (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 > radius**2
    return torch.from_numpy(mask)


@functools.cache
def trained(full: bool) -> tuple[solve.DirectionNet, int, float]:
    """A network for the empty square: how wide it is and the processor time that training took."""
    m, channels, samples, vectors = (64, 16, 4200, 600) if full else (24, 8, 2000, 200)
    with one_thread():
        start = time.process_time()
        net = solve.train_direction_net(
            poisson(torch.ones(m, m, dtype=torch.bool)),
            (m, m),
            net=solve.DirectionNet(channels=channels, generator=0),
            samples=samples,
            vectors=vectors,
            generator=0,
        )
        return net, m, time.process_time() - start


@functools.cache
def counts(full: bool, factor: int) -> dict[str, float]:
    """Mean steps to 1e-4 over random right-hand sides that the training has not seen, with obstacles."""
    net, m, _ = trained(full)
    names = ("cg", "jacobi", "deep", "not conjugate")
    found: dict[str, list[int]] = {name: [] for name in names}
    for seed in range(20 if full else 3):
        mask = with_obstacles(factor * m, seed)
        A = Sparse(poisson(mask))
        b = np.random.default_rng(100 + seed).standard_normal(A.shape[0])
        common = {"rtol": 1e-4, "return_info": True}
        model = net.on(mask)
        found["cg"].append(solve.cg(A, b, **common)[1].iterations)
        found["jacobi"].append(solve.cg(A, b, M=solve.jacobi_preconditioner(A), **common)[1].iterations)
        found["deep"].append(solve.deep_cg(A, b, model, **common)[1].iterations)
        if factor == 1:
            found["not conjugate"].append(solve.deep_cg(A, b, model, history=0, **common)[1].iterations)
    return {name: float(np.mean(steps)) for name, steps in found.items() if steps}


@claim(
    paper="A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
    method=solve.deep_cg,
    says="after a minute of training, a third of the steps of CG, and of CG with the diagonal, to 1e-4, around obstacles",
    at_least=3.0,
)
def steps_against_cg(scale: Scale) -> Measured:
    c, (_, m, seconds) = counts(scale.full, 1), trained(scale.full)
    note = f"{m} x {m}: CG {c['cg']:.0f}, with the diagonal {c['jacobi']:.0f}, ours {c['deep']:.0f}; trained {seconds:.0f} s"
    return Measured(min(c["cg"], c["jacobi"]) / c["deep"], unit="x fewer steps", note=note)


@claim(
    paper="A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
    method=solve.DirectionNet,
    says="the same network on a grid twice as wide: at most half of the steps of CG",
    at_least=2.0,
)
def steps_on_a_larger_grid(scale: Scale) -> Measured:
    large = counts(scale.full, 2)
    return Measured(
        large["cg"] / large["deep"], unit="x fewer steps", note=f"{large['cg']:.0f} and {large['deep']:.0f}"
    )


@claim(
    paper="A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
    method=solve.DirectionNet,
    says="the steps hardly grow with the grid, where those of CG double",
    at_most=1.6,
)
def growth_with_the_grid(scale: Scale) -> Measured:
    small, large = counts(scale.full, 1), counts(scale.full, 2)
    note = f"CG {large['cg'] / small['cg']:.2f}"
    return Measured(large["deep"] / small["deep"], unit="x the steps", note=note)


@claim(
    paper="A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
    method=solve.deep_cg,
    says="without making the directions conjugate, a fifth more steps",
    at_least=1.2,
)
def steps_without_conjugacy(scale: Scale) -> Measured:
    c = counts(scale.full, 1)
    return Measured(
        c["not conjugate"] / c["deep"], unit="x the steps", note=f"{c['not conjugate']:.0f} and {c['deep']:.0f}"
    )
