"""What the papers on approximate products claim, measured."""

import math

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from resolvent import sketch
from resolvent.claims import Measured, Scale, claim
from resolvent.sketch.multilevel import Sampler


def sparse_pair(n: int, d: int) -> tuple[sp.csr_array, sp.csr_array]:
    """Rows with five entries; a quarter of the rows of each is there, a tenth of those in both."""
    rng = np.random.default_rng(0)
    size = n // 4
    first = np.arange(size)
    second = np.arange(size) + size - size // 10
    found = []
    for rows in (first, second):
        columns = np.concatenate([rng.choice(d, 5, replace=False) for _ in range(size)])
        values = rng.standard_normal(5 * size) * np.repeat(rng.uniform(0.5, 2, size), 5)
        found.append(sp.csr_array((values, (np.repeat(rows, 5), columns)), shape=(n, d)))
    return found[0], found[1]


def sampling_errors(A: sp.csr_array, B: sp.csr_array, k: int, runs: int) -> tuple[np.ndarray, int]:
    """Errors of the estimates, and the words of one sketch."""
    exact, found, words = (A.T @ B).toarray(), [], 0
    for seed in range(runs):
        a, b = sketch.MatrixSketch(A, k, seed=seed), sketch.MatrixSketch(B, k, seed=seed)
        found.append(np.asarray(sketch.estimate_product(a, b)) - exact)
        words = max(words, a.words, b.words)
    return np.stack(found), words


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.square(errors).sum((1, 2)).mean()))


@claim(
    paper="Matrix Product Sketching via Coordinated Sampling",
    method=sketch.estimate_product,
    says="at equal storage the error is at least 5 times less than of count sketches and Gaussian projections",
    at_least=5.0,
)
def error_at_equal_storage(scale: Scale) -> Measured:
    n, d, runs = scale(quick=(4000, 100, 6), full=(20_000, 200, 50))
    A, B = sparse_pair(n, d)
    errors, words = sampling_errors(A, B, scale(quick=200, full=500), runs)
    exact, rows = (A.T @ B).toarray(), math.ceil(words / d)
    dense = [torch.from_numpy(t.toarray()) for t in (A, B)]
    others = {}
    for kind in ("count_sketch", "gaussian"):
        found = []
        for seed in range(runs):
            S = sketch.make_sketch(kind, rows, n, generator=seed, dtype=torch.float64)
            found.append(((S @ dense[0]).mT @ (S @ dense[1])).numpy() - exact)
        others[kind] = rms(np.stack(found))
    note = f"{words} words or {rows} rows; " + ", ".join(f"{k} {v / rms(errors):.0f}x" for k, v in others.items())
    return Measured(min(others.values()) / rms(errors), unit="x less error", note=note)


@claim(
    paper="Matrix Product Sketching via Coordinated Sampling",
    method=sketch.MatrixSketch,
    says="the root mean square error is at most sqrt(2/(k - 1)) ||A|| ||B||, also where all rows are in both",
    at_most=1.0,
)
def bound_of_the_error(scale: Scale) -> Measured:
    n, d, runs = scale(quick=(1000, 20, 40), full=(20_000, 200, 300))
    A, _ = sparse_pair(n, d)
    B = A + 0.1 * sp.random_array((n, d), density=0.01, rng=np.random.default_rng(1)).tocsr()
    k = scale(quick=60, full=500)
    errors, _ = sampling_errors(A, B, k, runs)
    bound = math.sqrt(2 / (k - 1)) * sp.linalg.norm(A) * sp.linalg.norm(B)
    return Measured(rms(errors) / bound, unit="of the bound")


@claim(
    paper="Matrix Product Sketching via Coordinated Sampling",
    method=sketch.estimate_product,
    says="unbiased: the mean of 300 runs (60 at quick scale) lies within 3 standard errors",
    at_most=3.0,
)
def bias_of_the_estimate(scale: Scale) -> Measured:
    n, d, runs = scale(quick=(1000, 20, 60), full=(20_000, 200, 300))
    A, B = sparse_pair(n, d)
    errors, _ = sampling_errors(A, B, 60, runs)
    mean = float(np.linalg.norm(errors.mean(0)))
    return Measured(mean / (rms(errors) / math.sqrt(runs)), unit="standard errors")


def joined_regression(X: sketch.MatrixSketch, y: sketch.MatrixSketch) -> Tensor:
    """Normal equations over the rows that both sketches kept, each over its probability of being in both."""
    keys = torch.from_numpy(np.intersect1d(X.keys.numpy(), y.keys.numpy()))
    i, j = torch.searchsorted(X.keys, keys), torch.searchsorted(y.keys, keys)
    chance = torch.minimum(X.threshold * X.lengths[i], y.threshold * y.lengths[j]).clamp(max=1)
    rows = torch.as_tensor(X.rows.to_dense())[i] / chance.sqrt()[:, None]
    right = torch.as_tensor(y.rows.to_dense())[j] / chance.sqrt()[:, None]
    return torch.linalg.lstsq(rows, right, driver="gelsy").solution[:, 0]


@claim(
    paper="Matrix Product Sketching via Coordinated Sampling",
    method=sketch.MatrixSketch,
    says="regression across two tables to 0.1 in the coefficients takes 5 times less storage than linear sketches",
    at_least=5.0,
)
def storage_for_regression(scale: Scale) -> Measured:
    n, d, runs = scale(quick=(6000, 200, 1), full=(20_000, 200, 20))
    rng = np.random.default_rng(0)
    columns = np.concatenate([rng.choice(d, 5, replace=False) for _ in range(n)])
    X = sp.csr_array((rng.standard_normal(5 * n), (np.repeat(np.arange(n), 5), columns)), shape=(n, d))
    w = rng.standard_normal(d)
    y = X @ w + 0.3 * rng.standard_normal(n)
    exact = np.linalg.lstsq(X.toarray(), y, rcond=None)[0]
    dense, right = torch.from_numpy(X.toarray()), torch.from_numpy(y)[:, None]

    def by_rows(k: int, seed: int) -> tuple[Tensor, int]:
        a, b = (sketch.MatrixSketch(t, k, seed=seed) for t in (X, y))
        return joined_regression(a, b), a.words + b.words

    def by_projection(m: int, seed: int) -> tuple[Tensor, int]:
        S = sketch.make_sketch("sparse_sign", m, n, generator=seed, dtype=torch.float64)
        return torch.linalg.lstsq(S @ dense, S @ right).solution[:, 0], m * (d + 1)

    words = []
    for solve in (by_rows, by_projection):
        size = int(1.5 * d)
        while True:
            size = int(scale(quick=1.2, full=1.05) * size)
            fits = [solve(size, seed) for seed in range(runs)]
            errors = [float(np.linalg.norm(x.numpy() - exact) / np.linalg.norm(exact)) for x, _ in fits]
            if np.median(errors) <= 0.1:
                break
        words.append(fits[0][1])
    return Measured(words[1] / words[0], unit="x less storage", note=f"{words[0]} and {words[1]} words")


def smooth_fields(n: int, rows: int, modes: int = 24) -> Sampler:
    """Random images along n with power spectrum k^-3, and their products with themselves over n."""
    k = torch.arange(modes, dtype=torch.float64)
    decay = (1 + k) ** -1.5

    def sampler(count: int, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        basis = torch.cos(math.pi * k[:, None] * (index.double() + 0.5) / n) * decay[:, None]
        a = 0.3 * torch.randn(count, rows, modes, dtype=torch.float64, generator=generator)
        a[..., 0] += 1
        F = a @ basis
        return F, F.mT / n

    return sampler


def white_fields(n: int, rows: int) -> Sampler:
    def sampler(count: int, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        F = 1 + torch.randn(count, rows, len(index), dtype=torch.float64, generator=generator)
        return F, F.mT / n

    return sampler


def expectation(n: int, rows: int) -> Tensor:
    """Of the smooth fields' product."""
    k = torch.arange(24, dtype=torch.float64)
    power = (torch.cos(math.pi * k[:, None] * (torch.arange(n) + 0.5) / n).square().sum(1) / n) * (1 + k) ** -3
    return power[0] * torch.ones(rows, rows, dtype=torch.float64) + 0.09 * power.sum() * torch.eye(rows)


def full_products(n: int, rows: int, sampler: Sampler, count: int) -> tuple[float, float, float]:
    """Variance of whole products, then that of importance samples of one index beyond it, and the norm of the mean."""
    g = torch.Generator().manual_seed(99)
    A, B = sampler(count, torch.arange(n), g)
    P = A @ B
    spread = float(P.var(0).sum())
    sizes = (torch.linalg.vector_norm(A, dim=1) * torch.linalg.vector_norm(B, dim=2)).sum(1).square()
    return spread, float((sizes - P.square().sum((1, 2))).mean()), float(P.mean(0).norm())


@claim(
    paper="A Multilevel Monte Carlo Estimator for Matrix Multiplication",
    method=sketch.multilevel_expectation,
    says="meets the root mean square error asked for, 1e-2 of the norm (1e-3 too at full scale), within 20 percent",
    at_most=1.2,
)
def error_of_the_levels(scale: Scale) -> Measured:
    n, rows, runs = 2**14, 4, scale(quick=30, full=100)
    exact = expectation(n, rows)
    ratios = []
    for target in scale(quick=(1e-2,), full=(1e-2, 1e-3)):
        rmse = target * float(exact.norm())
        found = [sketch.multilevel_expectation(smooth_fields(n, rows), n, rmse, generator=s).value for s in range(runs)]
        ratios.append(float((torch.stack(found) - exact).square().sum((1, 2)).mean().sqrt()) / rmse)
    return Measured(max(ratios), unit="of the error asked for", note=", ".join(f"{r:.2f}" for r in ratios))


def costs(n: int, rows: int, sampler: Sampler, target: float) -> tuple[float, float, float, str]:
    """Multiply-adds of the levels, of whole products and of importance sampling at its best number of indices."""
    spread, single, norm = full_products(n, rows, sampler, 200 if n <= 4096 else 60)
    found = sketch.multilevel_expectation(sampler, n, target * norm, generator=0)
    whole = spread / (target * norm) ** 2 * n * rows**2
    counts = np.unique(np.geomspace(1, n, 60).astype(int))
    # Probabilities need the lengths of all columns and rows of every realisation.
    chosen = (spread + single / counts) * (2 * n * rows + counts * rows**2) / (target * norm) ** 2
    return found.multiply_adds, whole, float(chosen.min()), found.method


@claim(
    paper="A Multilevel Monte Carlo Estimator for Matrix Multiplication",
    method=sketch.multilevel_expectation,
    says="5 times fewer multiply-adds than the mean of whole products, for smooth random fields",
    at_least=5.0,
)
def work_against_whole_products(scale: Scale) -> Measured:
    levels, whole, _, method = costs(2**14, 8, smooth_fields(2**14, 8), scale(quick=1e-2, full=1e-3))
    return Measured(whole / levels, unit="x fewer multiply-adds", note=f"{levels:.2e} and {whole:.2e}, {method}")


@claim(
    paper="A Multilevel Monte Carlo Estimator for Matrix Multiplication",
    method=sketch.multilevel_expectation,
    says="2 times fewer multiply-adds than importance sampling of columns in every realisation",
    at_least=2.0,
)
def work_against_importance_sampling(scale: Scale) -> Measured:
    levels, _, chosen, method = costs(2**14, 8, smooth_fields(2**14, 8), scale(quick=1e-2, full=1e-3))
    note = f"{levels:.2e} and {chosen:.2e}, the lengths of all columns included; {method}"
    return Measured(chosen / levels, unit="x fewer multiply-adds", note=note)


@claim(
    paper="A Multilevel Monte Carlo Estimator for Matrix Multiplication",
    method=sketch.multilevel_expectation,
    says="white noise has no levels to gain from: the method falls back to one level, at about the cost of whole products",
    at_most=1.5,
)
def work_on_white_noise(scale: Scale) -> Measured:
    n = 1024
    levels, whole, _, method = costs(n, 4, white_fields(n, 4), scale(quick=5e-3, full=1e-3))
    return Measured(levels / whole if method == "single level" else math.nan, unit="x the work", note=method)
