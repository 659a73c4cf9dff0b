"""What the papers on completion and sensing of low-rank matrices claim, measured."""

import itertools
import math

import torch
from _seconds import seconds
from torch import Tensor

from resolvent import factor
from resolvent.claims import Measured, Scale, claim
from resolvent.errors import ConvergenceError
from resolvent.factor.observed import Observed
from resolvent.operators import Identity, LowRank, Operator
from resolvent.random import as_generator, gaussian


def relative(found: Operator, exact: Tensor) -> float:
    return float(torch.linalg.matrix_norm(found.to_dense() - exact) / torch.linalg.matrix_norm(exact))


def incomplete(n: int, k: int, share: float) -> tuple[LowRank, tuple[Tensor, Tensor, Tensor]]:
    """A matrix of rank k and condition 5, and a share of its entries, about evenly drawn."""
    g = as_generator(0)
    U, V = (torch.linalg.qr(gaussian((n, k), generator=g)).Q for _ in range(2))
    M = LowRank(U, n * torch.linspace(1, 0.2, k, dtype=torch.float64), V)
    places = torch.randint(n * n, (round(share * n * n * 1.1),), generator=g).unique()
    rows, cols = places // n, places % n
    return M, (rows, cols, ((M.U * M.s)[rows] * M.V[cols]).sum(1))


@claim(
    paper="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
    method=factor.complete,
    says="10 percent of the entries of a 2000 x 2000 matrix of rank 20 and condition 5 give it to 1e-6 in at most 40 sweeps",
    at_most=40,
)
def sweeps(scale: Scale) -> Measured:
    n, k, share = scale(quick=(500, 6, 0.15), full=(2000, 20, 0.1))
    M, known = incomplete(n, k, share)
    found, info = factor.complete(known, k, (n, n), rtol=5e-7, generator=0, return_info=True)
    error = relative(found, M.to_dense())
    return Measured(info.iterations if error <= 1e-6 else math.nan, unit="sweeps", note=f"relative error {error:.1e}")


@claim(
    paper="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
    method=factor.complete,
    says="solving the inner problems to a tenth only costs at most a quarter more sweeps than solving them exactly",
    at_most=1.25,
)
def inexact_sweeps(scale: Scale) -> Measured:
    n, k, share = scale(quick=(500, 6, 0.15), full=(2000, 20, 0.1))
    _, known = incomplete(n, k, share)
    counts = [
        factor.complete(known, k, (n, n), inner=inner, generator=0, return_info=True)[1].iterations
        for inner in ("exact", "cg", "sketched")
    ]
    value = max(counts[1:]) / counts[0]
    return Measured(value, unit="x the sweeps", note="exact, cg, sketched: " + ", ".join(str(c) for c in counts))


@claim(
    paper="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
    method=factor.complete,
    says="at rank 60 a sweep takes half the time of one with exact solutions by normal equations at most",
    at_least=2.0,
)
def time_of_a_sweep(scale: Scale) -> Measured:
    n, k = scale(quick=700, full=2000), 60
    _, known = incomplete(n, k, scale(quick=0.4, full=0.2))
    observed = Observed(*known, (n, n))
    U = torch.linalg.qr(gaussian((n, k), generator=0)).Q
    V = observed.columns(U, torch.zeros_like(U), "exact")[0]
    start = V * (1 + 0.1 * gaussian(V.shape, generator=1))
    exact, ours = seconds(
        lambda: observed.columns(U, start, "exact"), lambda: observed.columns(U, start, "cg", 0.1), repeats=3
    )
    return Measured(exact / ours, unit="x faster", note=f"{ours * 1e3:.1f} and {exact * 1e3:.1f} ms for one side")


@claim(
    paper="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
    method=factor.complete,
    says="errors of 1e-2 in every inner solution of every sweep leave an error of that size, and no divergence",
    at_most=3.0,
)
def inner_errors(scale: Scale) -> Measured:
    n, k, share = scale(quick=(400, 6, 0.15), full=(2000, 20, 0.1))
    M, known = incomplete(n, k, share)
    observed, noise, g = Observed(*known, (n, n)), 1e-2, as_generator(3)

    def disturbed(X: Tensor) -> Tensor:
        return X + noise * X.norm(dim=1, keepdim=True) * gaussian(X.shape, generator=g) / math.sqrt(k)

    U = torch.linalg.qr(factor.randomized_svd(observed.operator(), k, generator=0)[0]).Q
    V = torch.zeros_like(U)
    errors = []
    for _ in range(scale(quick=20, full=30)):
        V = torch.linalg.qr(disturbed(observed.columns(U, V, "exact")[0])).Q
        left = disturbed(observed.rows(V, torch.zeros_like(U), "exact")[0])
        U = torch.linalg.qr(left).Q
        errors.append(relative(LowRank(left, V=V), M.to_dense()))
    return Measured(
        max(errors[-10:]) / noise,
        unit="x the inner error",
        note=f"over the last 10 of {len(errors)} sweeps; at the end {errors[-1]:.1e}",
    )


@claim(
    paper="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
    method=factor.complete,
    says="the time grows linearly with the number of entries: over a factor of 16, at most 1.3 times as fast",
    at_most=1.3,
)
def linear_time(scale: Scale) -> Measured:
    sizes, k, per_row = scale(quick=((150, 2400), 5, 50), full=((625, 10_000), 10, 200))
    problems = [incomplete(n, k, per_row / n)[1] for n in sizes]
    times = seconds(
        *(
            lambda known=known, n=n: factor.complete(known, k, (n, n), generator=0)
            for known, n in zip(problems, sizes, strict=True)
        ),
        repeats=scale(quick=1, full=3),
    )
    counts = [len(known[2]) for known in problems]
    ratio = (times[1] / times[0]) / (counts[1] / counts[0])
    note = f"{times[0]:.2g} s for {counts[0]} and {times[1]:.2g} s for {counts[1]} entries"
    return Measured(ratio, unit="x linear", note=note)


def corrupted(n: int) -> tuple[Operator, Tensor, Tensor]:
    """Gaussian measurements of a matrix of rank 3, a tenth of them off by 10 to 100 times their mean size."""
    g, r = as_generator(1), 3
    A = factor.gaussian_measurements(12 * n * r, (n, n), generator=g)
    Q = torch.linalg.qr(gaussian((n, r), generator=g)).Q
    X = Q @ Q.mT
    y = A @ X.reshape(-1)
    bad = torch.randperm(len(y), generator=g)[: len(y) // 10]
    size = (10 + 90 * torch.rand(len(bad), generator=g, dtype=torch.float64)) * y.abs().mean()
    y[bad] += size * gaussian((len(bad),), generator=g).sign()
    return A, y, X


def reached(method, A: Operator | Tensor, y: Tensor, X: Tensor, r: int, **options) -> float:
    """The relative error after 1000 steps, with or without its tolerance."""
    try:
        found = method(A, y, tuple(X.shape), r, max_steps=1000, **options)
    except ConvergenceError as error:
        found = error.best
    return relative(found, X)


@claim(
    paper="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy Measurements, and Over-parameterization",
    method=factor.robust_recover,
    says="with a tenth of the measurements grossly wrong the matrix of rank 3 is found for any search rank up to n",
    at_most=1e-5,
)
def gross_errors(scale: Scale) -> Measured:
    n = scale(quick=20, full=40)
    A, y, X = corrupted(n)
    errors = [reached(factor.robust_recover, A, y, X, r) for r in (3, 10, n)]
    return Measured(max(errors), unit="largest relative error", note="within 1000 steps, search ranks 3, 10 and n")


@claim(
    paper="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy Measurements, and Over-parameterization",
    method=factor.robust_recover,
    says="where gradient descent on squares stays above 0.3",
    at_least=0.3,
)
def squares(scale: Scale) -> Measured:
    n = scale(quick=20, full=40)
    A, y, X = corrupted(n)
    root = math.sqrt(len(y))
    options = {"param": "symmetric", "init_scale": 1e-4, "step_size": 0.1, "generator": 0}
    errors = [reached(factor.sense, A.to_dense() / root, y / root, X, r, **options) for r in (3, 10, n)]
    return Measured(min(errors), unit="smallest relative error", note="search ranks 3, 10 and n, the same small start")


@claim(
    paper="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy Measurements, and Over-parameterization",
    method=factor.robust_recover,
    says="with search rank n the error decreases with the size of the start: 1e-2, 1e-4, 1e-6, 1e-8",
    at_least=1.0,
)
def size_of_the_start(scale: Scale) -> Measured:
    n = scale(quick=16, full=40)
    A, y, X = corrupted(n)
    errors = [reached(factor.robust_recover, A, y, X, n, init_scale=a, rtol=1e-10) for a in (1e-2, 1e-4, 1e-6, 1e-8)]
    smallest = min(big / small for big, small in itertools.pairwise(errors))
    return Measured(smallest, unit="x smaller at each", note=", ".join(f"{e:.1e}" for e in errors))


@claim(
    paper="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy Measurements, and Over-parameterization",
    method=factor.robust_recover,
    says="a random start of size 1 ends at an error at least 100 times as large",
    at_least=100.0,
)
def random_start(scale: Scale) -> Measured:
    n = scale(quick=20, full=40)
    A, y, X = corrupted(n)
    start = gaussian((n, n), generator=0) / math.sqrt(n)
    large, small = (reached(factor.robust_recover, A, y, X, n, **options) for options in ({"start": start}, {}))
    return Measured(large / small, unit="x the error", note=f"{large:.1e} and {small:.1e}")


def target(n: int, r: int) -> Tensor:
    Q = torch.linalg.qr(gaussian((n, r), generator=0)).Q
    return (Q * torch.linspace(1, 0.8, r).double()) @ Q.mT


def trajectory(M: Tensor, k: int, A: Operator | None = None, **options):
    """The `SensingInfo`, whether or not the tolerance was reached; of all entries without A."""
    A = Identity(M.numel(), dtype=M.dtype) if A is None else A
    try:
        return factor.sense(A, A @ M.reshape(-1), tuple(M.shape), k, generator=0, return_info=True, **options)[1]
    except ConvergenceError as error:
        return error.info


@claim(
    paper="How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization",
    method=factor.sense,
    says="with more columns than the rank the squared error of the symmetric form decreases as 1 / T^2: the exponent is off by",
    at_most=0.4,
)
def power_law(scale: Scale) -> Measured:
    last = scale(quick=5000, full=30_000)
    info = trajectory(target(50, 3), 8, param="symmetric", max_steps=last, rtol=1e-12)
    fit = factor.rate_fit(info.loss, 1000)
    return Measured(abs(fit.exponent + 2), unit="from -2", note=f"exponent {fit.exponent:.3f}, T from 1000 to {last}")


@claim(
    paper="How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization",
    method=factor.sense,
    says="with as many as the rank it is geometric: the power law fits log(loss) this many times worse",
    at_least=5.0,
)
def geometric_at_the_rank(scale: Scale) -> Measured:
    n = scale(quick=50, full=200)
    fit = factor.rate_fit(trajectory(target(n, 3), 3, param="symmetric", rtol=1e-12).loss)
    return Measured(fit.misfit[1] / fit.misfit[0], unit="x the misfit", note=f"exp(-{fit.rate:.2f} t)")


@claim(
    paper="How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization",
    method=factor.sense,
    says="the asymmetric form converges as exp(-c alpha^2 T): rates for alpha 0.5 and 0.2 against (0.5 / 0.2)^2, off by",
    at_most=0.3,
)
def rate_and_start(scale: Scale) -> Measured:
    last = scale(quick=3000, full=30_000)
    fits = []
    for alpha in (0.5, 0.2):
        loss = trajectory(target(50, 3), 8, init_scale=alpha, rebalance=None, rtol=1e-10, max_steps=last).loss
        fits.append(factor.rate_fit(loss, len(loss) // 2))
    ratio = fits[0].rate / fits[1].rate
    both = all(fit.kind == "geometric" for fit in fits)
    value = abs(ratio / 6.25 - 1) if both else math.nan
    return Measured(value, unit="relative", note=f"ratio of the rates {ratio:.2f}, expected 6.25")


@claim(
    paper="How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization",
    method=factor.sense,
    says="with one rebalancing a misfit of 1e-10 takes less than a tenth of the steps of alpha = 0.2 without, for every alpha",
    at_least=10.0,
)
def rebalancing(scale: Scale) -> Measured:
    n, r, k = scale(quick=(16, 2, 4), full=(50, 3, 8))
    A = factor.gaussian_measurements(5 * k * n, (n, n), isotropic=True, generator=1)
    M = target(n, r)
    plain = trajectory(M, k, A, init_scale=0.2, rebalance=None, rtol=1e-10, max_steps=30_000)
    ours = [trajectory(M, k, A, init_scale=alpha, rtol=1e-10) for alpha in (0.5, 0.2, 0.1)]
    reached = all(info.converged for info in ours)
    most = max(info.iterations for info in ours)
    note = f"{plain.iterations} without (misfit {plain.error:.0e}); with, for 0.5, 0.2, 0.1: " + ", ".join(
        str(info.iterations) for info in ours
    )
    return Measured(plain.iterations / most if reached else math.nan, unit="x fewer steps", note=note)
