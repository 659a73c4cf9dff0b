"""What the papers of the room `spectra` claim, measured."""

import math
import time
from collections.abc import Callable

import torch
from scipy.stats import spearmanr
from torch import Tensor

from resolvent import spectra
from resolvent.claims import Measured, Scale, claim
from resolvent.spectra.diversity import internal_diversity


def seconds(*calls: Callable[[], object], repeats: int = 5) -> list[float]:
    """Median time of each call, the calls interleaved so that a change of the machine's speed meets all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if repeat:  # the first round warms up
                kept.append(time.perf_counter() - start)
    return [sorted(kept)[len(kept) // 2] for kept in times]


@claim(
    paper="The Vendi Score: A Diversity Evaluation Metric for Machine Learning",
    method=spectra.vendi_score,
    says="an effective number: m equally frequent orthogonal modes count as exactly m, for every order q",
    at_most=1e-8,
)
def effective_number(scale: Scale) -> Measured:
    worst = 0.0
    for m in scale(quick=(1, 3, 10), full=(1, 3, 10, 50, 200)):
        X = torch.eye(m, dtype=torch.float64).repeat_interleave(8, dim=0)
        for q in (0.5, 1, 2, math.inf):
            for value in (spectra.vendi_score(X, q, kernel="cosine"), spectra.vendi_score(X @ X.T, q)):
                worst = max(worst, abs(float(value) - m))
    return Measured(worst, unit="largest error")


@claim(
    paper="The Vendi Score: A Diversity Evaluation Metric for Machine Learning",
    method=spectra.vendi_score,
    says="tells independent attributes (8.71 modes) from correlated ones (5), which mean similarity cannot",
    at_least=1.74,
)
def independent_against_correlated(scale: Scale) -> Measured:
    n, m = scale(quick=200, full=1000), 5
    first = torch.arange(n) % m
    second = torch.arange(n) // m % m

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, None] == a).double() + (b[:, None] == b).double()) / 2

    independent, correlated = similarity(first, second), similarity(first, first)
    gap = abs(float(internal_diversity(independent)) - float(internal_diversity(correlated)))
    scores = [float(spectra.vendi_score(K)) for K in (independent, correlated)]
    # The statement is about pairs that the baseline finds equally diverse: if it does not, nothing was shown.
    value = scores[0] / scores[1] if gap < 1e-12 else math.nan
    note = f"{scores[0]:.4f} and {scores[1]:.4f}; mean similarity differs by {gap:.1g}"
    return Measured(value, unit="x the score", note=note)


@claim(
    paper="The Vendi Score: A Diversity Evaluation Metric for Machine Learning",
    method=spectra.vendi_score,
    says="from d features the cost is O(d^2 n), not O(n^3): n = 20000, d = 64 against n x n, extrapolated",
    at_least=50.0,
)
def dual_path_speed(scale: Scale) -> Measured:
    small, n, d = scale(quick=1000, full=2000), 20_000, 64
    X = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    Y = X[:small]
    dual, primal = seconds(
        lambda: spectra.vendi_score(X, kernel="cosine"),
        lambda: spectra.vendi_score(Y, kernel="cosine", method="primal"),
        repeats=3,
    )
    exact = spectra.vendi_score(Y, kernel="cosine", method="primal")
    error = abs(float(spectra.vendi_score(Y, kernel="cosine") / exact) - 1)
    value = primal * (n / small) ** 3 / dual if error < 1e-6 else math.nan
    note = f"{dual * 1e3:.1f} ms; n = {small} by the n x n path {primal * 1e3:.0f} ms"
    return Measured(value, unit="x faster", note=note)


def representations(count: int, m: int, n: int) -> list[Tensor]:
    """Hidden states whose spectra decay as a power from 0 to 2, in random orthogonal directions."""
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(n, n, generator=g))[0]
    weights = torch.arange(1.0, n + 1)
    exponents = torch.linspace(0, 2, count)
    return [(torch.randn(m, n, generator=g) * weights**-p) @ Q for p in exponents]


@claim(
    paper="Large Language Model Evaluation via Matrix Nuclear-Norm",
    method=spectra.nuclear_norm_upper,
    says="orders representations as the exact nuclear norm and as matrix entropy do (the smaller Spearman correlation)",
    at_least=0.95,
)
def order_of_representations(scale: Scale) -> Measured:
    count, m, n = scale(quick=(24, 256, 192), full=(60, 1024, 768))
    upper, exact, entropy = [], [], []
    for X in representations(count, m, n):
        upper.append(float(spectra.nuclear_norm_upper(X)))
        rows = X - X.mean(0)
        exact.append(float(torch.linalg.matrix_norm(rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True), "nuc")))
        entropy.append(float(spectra.matrix_entropy(X)))
    found = [float(spearmanr(upper, other).statistic) for other in (exact, entropy)]
    return Measured(min(found), unit="correlation", note=f"nuclear norm {found[0]:.4f}, matrix entropy {found[1]:.4f}")


@claim(
    paper="Large Language Model Evaluation via Matrix Nuclear-Norm",
    method=spectra.nuclear_norm_upper,
    says="8 to 24 times faster than the SVD-based matrix entropy",
    at_least=8.0,
)
def faster_than_entropy(scale: Scale) -> Measured:
    sizes = scale(quick=((1024, 768),), full=((1024, 768), (1024, 1536)))
    ratios = []
    for m, n in sizes:
        X = torch.randn(m, n, generator=torch.Generator().manual_seed(0))

        def by_svd(X: Tensor = X) -> Tensor:
            rows = X - X.mean(0)
            rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            p = torch.linalg.svdvals(rows).square() / len(rows)
            return -(p * p.clamp_min(1e-30).log()).sum() / math.log(min(rows.shape))

        fast, slow = seconds(lambda X=X: spectra.nuclear_norm_upper(X), by_svd, repeats=3)
        ratios.append(slow / fast)
    note = "; ".join(f"{m} x {n}: {ratio:.0f}x" for (m, n), ratio in zip(sizes, ratios, strict=True))
    return Measured(ratios[0], unit="x faster", note=note)
