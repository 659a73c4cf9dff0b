"""What the papers on coresets and on modes of kernel densities claim, measured."""

import math

import numpy as np
import torch
from _seconds import seconds

from resolvent import sketch
from resolvent.claims import Measured, Scale, claim
from resolvent.operators.threads import one_thread
from resolvent.sketch.density_mode import _lifted
from resolvent.sketch.density_profile import climb, profile, shift

EPS = (0.1, 0.03, 0.01, 0.003)
Points = torch.Tensor


def six_lines(n: int) -> dict[str, Points]:
    """Six distributions of points on a line."""
    rng = np.random.default_rng(0)
    found = {
        "uniform": rng.random(n),
        "normal": rng.normal(size=n),
        "Cauchy": rng.standard_cauchy(n),
        "log-normal": np.exp(3 * rng.normal(size=n)),
        "clusters": rng.choice([0.0, 1.0, 1e3, 1e6], n) + 1e-3 * rng.normal(size=n),
        "grid": rng.integers(0, 50, n).astype(float),
    }
    return {name: torch.from_numpy(x) for name, x in found.items()}


def scales(count: int) -> tuple[Points, Points]:
    """The hard family for two centres: places 2^i of weight 2^-i, so that each scale costs a centre at zero the same."""
    i = torch.arange(count, dtype=torch.float64)
    return torch.cat([torch.zeros(1), 2**i]), torch.cat([torch.ones(1), 2**-i])


def exponent(sizes: list[int]) -> float:
    """Of the size in 1 / eps."""
    return float(np.polyfit(np.log(1 / np.array(EPS)), np.log(sizes), 1)[0])


@claim(
    paper="On Coresets for Clustering in Small Dimensional Euclidean Spaces",
    method=sketch.coreset_1d,
    says="six distributions, eps from 0.1 to 0.003, k of 1, 2 and 8: the worst error found, over eps",
    at_most=1.0,
)
def worst_error_over_eps(scale: Scale) -> Measured:
    worst, where, count = 0.0, "", 0
    for name, x in six_lines(scale(quick=3000, full=100_000)).items():
        for k in scale(quick=(1, 2), full=(1, 2, 8)):
            for eps in scale(quick=(0.1, 0.003), full=EPS):
                S = sketch.coreset_1d(x, k, eps)
                error = float(sketch.verify_coreset(x, S, k, trials=scale(quick=10, full=100), generator=0).error)
                count += 1
                if error / eps > worst:
                    worst, where = error / eps, f"{name}, k = {k}, eps = {eps}, {len(S.points)} points"
    return Measured(worst, unit="of eps", note=f"{count} cases, worst: {where}")


@claim(
    paper="On Coresets for Clustering in Small Dimensional Euclidean Spaces",
    method=sketch.coreset_1d,
    says="one centre: the size grows like eps^-1/2; how far the exponent on uniform points is from 0.5",
    at_most=0.1,
)
def one_centre_exponent(scale: Scale) -> Measured:
    x = torch.linspace(0, 1, scale(quick=100_000, full=1_000_000), dtype=torch.float64)
    sizes = [len(sketch.coreset_1d(x, 1, eps).points) for eps in EPS]
    return Measured(abs(exponent(sizes) - 0.5), note=f"exponent {exponent(sizes):.3f}, sizes {sizes}")


@claim(
    paper="On Coresets for Clustering in Small Dimensional Euclidean Spaces",
    method=sketch.coreset_1d,
    says="two centres need 1 / eps: how far the exponent on the hard family is from 1",
    at_most=0.15,
)
def two_centres_exponent(scale: Scale) -> Measured:
    # As many scales as 2 / eps: that many pairs of neighbours are each worth half of the error allowed.
    sizes, single = [], []
    for eps in EPS:
        x, w = scales(round(2 / eps))
        S = sketch.coreset_1d(x, 2, eps, w)
        sizes.append(len(S.points))
        single.append(len(sketch.coreset_1d(x, 1, eps, w).points))
    worst = float(sketch.verify_coreset(x, S, 2, weights=w, trials=scale(quick=10, full=100), generator=0).error)
    note = f"exponent {exponent(sizes):.3f}, sizes {sizes}; one centre: {single}; error {worst / EPS[-1]:.2f} of eps"
    return Measured(abs(exponent(sizes) - 1), note=note)


@claim(
    paper="On Coresets for Clustering in Small Dimensional Euclidean Spaces",
    method=sketch.coreset_1d,
    says="one centre, eps = 0.01: smaller than sensitivity sampling of equal measured error",
    at_least=5.0,
)
def smaller_than_sampling(scale: Scale) -> Measured:
    x = six_lines(scale(quick=20_000, full=100_000))["normal"]
    S = sketch.coreset_1d(x, 1, 0.01)
    error = float(sketch.verify_coreset(x, S, 1).error)
    size = 4 * len(S.points)
    while True:
        drawn = [
            sketch.coreset(x, 1, method="sensitivity", size=4 * size, generator=i)
            for i in range(scale(quick=3, full=9))
        ]
        found = float(np.median([float(sketch.verify_coreset(x, D, 1).error) for D in drawn]))
        if found <= error or 4 * size > len(x):
            break
        size *= 4
    note = f"{len(S.points)} points, error {error:.4f}; a sample of {size} is still worse"
    return Measured(size / len(S.points), unit="x smaller", note=note)


@claim(
    paper="On Coresets for Clustering in Small Dimensional Euclidean Spaces",
    method=sketch.coreset_1d,
    says="total weight and weighted mean are kept exactly: the largest relative change",
    at_most=1e-12,
)
def weight_and_mean(scale: Scale) -> Measured:
    worst = 0.0
    for x in six_lines(scale(quick=20_000, full=100_000)).values():
        w = torch.rand(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for k in (1, 8):
            s, v = sketch.coreset_1d(x, k, 0.03, w)
            worst = max(worst, abs(float(v.sum() / w.sum()) - 1), abs(float((v @ s - w @ x) / (w @ x.abs()))))
    return Measured(worst)


def mixture(n: int, k: int = 8, d: int = 4, seed: int = 0) -> Points:
    """Clusters of unequal sizes and widths."""
    g = torch.Generator().manual_seed(seed)
    centres = 6 * torch.randn(k, d, generator=g, dtype=torch.float64)
    label = torch.multinomial(torch.linspace(1, 3, k), n, True, generator=g)
    width = torch.linspace(0.5, 1.5, k, dtype=torch.float64)
    return centres[label] + width[label, None] * torch.randn(n, d, generator=g, dtype=torch.float64)


@claim(
    paper="Near-Optimal Quantum Coreset Construction Algorithms for Clustering",
    method=sketch.coreset,
    says="400 points, k = 8, d = 4, k-means and k-medians: the worst error of 200 random and optimised sets of centres",
    at_most=0.1,
    known_miss="at full scale 0.101 at worst (k-means, n = 2^17); at quick scale it is met with 0.053",
)
def error_of_400_points(scale: Scale) -> Measured:
    worst, sought = {}, 0.0
    for n in scale(quick=(2**10, 2**13), full=tuple(2**i for i in range(10, 18))):
        X = mixture(n)
        for z in (1, 2):
            S = sketch.coreset(X, 8, z=z, method="sensitivity", size=400, generator=0)
            worst[n, z] = float(sketch.verify_coreset(X, S, 8, z, trials=200, climb=False, generator=1).error)
            sought = max(sought, float(sketch.verify_coreset(X, S, 8, z, trials=20, generator=2).error))
    n, z = max(worst, key=lambda key: worst[key])
    note = f"at n = {n}, z = {z}; {sought:.3f} where a search by gradients looks for the worst centres"
    return Measured(max(worst.values()), note=note)


def ledger_exponents(scale: Scale) -> dict[str, float]:
    """Of the charges in n and in k, the coreset having 50 points a centre."""
    found = {}
    ns = [2**i for i in scale(quick=range(10, 15), full=range(10, 18))]
    ks = [4, 8, 16, 32]
    runs = {"n": [(n, 8) for n in ns], "k": [(2 ** scale(quick=12, full=16), k) for k in ks]}
    for name, pairs in runs.items():
        quantum, classical = [], []
        for n, k in pairs:
            X = mixture(n, k)
            _, ledger = sketch.coreset(X, k, size=50 * k, generator=0, return_ledger=True)
            quantum.append(ledger.quantum)
            classical.append(ledger.classical)
        steps = np.log([pair[0 if name == "n" else 1] for pair in pairs])
        found[f"quantum {name}"] = float(np.polyfit(steps, np.log(quantum), 1)[0])
        found[f"classical {name}"] = float(np.polyfit(steps, np.log(classical), 1)[0])
    return found


@claim(
    paper="Near-Optimal Quantum Coreset Construction Algorithms for Clustering",
    method=sketch.quantum_queries,
    says="charged queries grow like sqrt(n k), classical ones like n k: how far the exponents in n and k are from 1/2",
    at_most=0.05,
)
def exponents_of_the_ledger(scale: Scale) -> Measured:
    found = ledger_exponents(scale)
    gap = max(abs(found["quantum n"] - 0.5), abs(found["quantum k"] - 0.5))
    return Measured(gap, note=", ".join(f"{name} {value:.3f}" for name, value in found.items()))


def three_weights(n: int) -> list[Points]:
    """Weights that amplitude amplification has to sample from: light, exponential and heavy tails."""
    u = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return [1 + u, -u.log(), u**-1.5]


@claim(
    paper="Near-Optimal Quantum Coreset Construction Algorithms for Clustering",
    method=sketch.amplified_sample,
    says="state vectors at n = 256, the total known to 10 percent: total variation from the distribution wanted",
    at_most=0.03,
)
def sampled_distribution(scale: Scale) -> Measured:
    worst = 0.0
    for w in three_weights(256):
        for t in (1, 2, 4, 8, 16):
            for total in (0.9, 1.0, 1.1):
                drawn = sketch.amplified_sample(w, t, total * float(w.sum()))
                worst = max(worst, float((drawn.distribution - w / w.sum()).abs().sum()) / 2)
    return Measured(worst)


@claim(
    paper="Near-Optimal Quantum Coreset Construction Algorithms for Clustering",
    method=sketch.amplified_sample,
    says="steps until the state is ready, against the charge pi/4 sqrt(n / t) a sample: relative difference",
    at_most=0.1,
)
def steps_against_the_charge(scale: Scale) -> Measured:
    gaps = {}
    for w in three_weights(256):
        for t in (1, 2, 4, 8, 16):
            drawn = sketch.amplified_sample(w, t)
            ready = float(drawn.success) > 0.999
            gap = abs(drawn.calls / (math.pi / 4 * math.sqrt(256 / t)) - 1) if ready else math.inf
            gaps[t] = max(gap, gaps.get(t, 0.0))
    return Measured(max(gaps.values()), note=", ".join(f"t = {t}: {gap:.3f}" for t, gap in gaps.items()))


KERNELS = (("gaussian", 1.0, 0.5), ("logistic", 1.0, 0.3), ("sigmoid", 1.0, 0.3), ("generalized_gaussian", 1.5, 0.5))


def five_clusters(n: int, apart: float, d: int = 500) -> Points:
    """A mixture whose clusters overlap where `apart` is small."""
    g = torch.Generator().manual_seed(0)
    centres = apart * torch.randn(5, d, generator=g, dtype=torch.float64)
    label = torch.multinomial(torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1]), n, True, generator=g)
    width = torch.tensor([1.0, 1.1, 0.9, 1.0, 0.8], dtype=torch.float64)
    return centres[label] + width[label, None] * torch.randn(n, d, generator=g, dtype=torch.float64)


def modes(X: Points, dim: int, restarts: int | None = None, generator: int = 0, kernels=KERNELS) -> list[float]:
    """The density at the mode for each kernel."""
    h = math.sqrt(X.shape[1])
    return [
        float(sketch.kde_mode(X, share * h, k, exponent=a, dim=dim, restarts=restarts, generator=generator).density)
        for k, a, share in kernels
    ]


@claim(
    paper="Dimensionality Reduction for General KDE Mode Finding",
    method=sketch.kde_mode,
    says="five clusters, d = 500, projected to 25, four kernels: density over the best of mean shift from all points",
    at_least=0.98,
)
def density_of_the_mode(scale: Scale) -> Measured:
    ratios = []
    for apart in scale(quick=(0.5,), full=(0.5, 0.25)):
        X = five_clusters(scale(quick=400, full=2000), apart)
        best = modes(X, 500, len(X))
        ratios += [
            a / b
            for seed in range(scale(quick=2, full=5))
            for a, b in zip(modes(X, 25, generator=seed), best, strict=True)
        ]
    return Measured(min(ratios), unit="of the best density", note=f"worst of {len(ratios)}")


@claim(
    paper="Dimensionality Reduction for General KDE Mode Finding",
    method=sketch.kde_mode,
    says="projected to 25 dimensions against mean shift in 500 from all points, four kernels: time",
    at_least=5.0,
)
def time_of_the_mode(scale: Scale) -> Measured:
    X = five_clusters(2000, 0.25)
    n, some = len(X), scale(quick=KERNELS[1:2], full=KERNELS)
    calls = [lambda: modes(X, 25, kernels=some), lambda: modes(X, 500, n, kernels=some)]
    if scale.full:
        calls.append(lambda: modes(X, 25, n, kernels=some))
    with one_thread():
        ours, full, *from_all = seconds(*calls, repeats=scale(quick=3, full=5))
    note = (
        f"{full / from_all[0]:.1f}x where both start from all {n} points" if from_all else "the logistic kernel alone"
    )
    return Measured(full / ours, unit="x faster", note=note)


def lifted_ratios(X: Points, dims: tuple[int, ...], seeds: int) -> list[float]:
    """Density at the lifted mode, before any polish in full dimension, over the best: worst kernel, mean of seeds."""
    n, d = X.shape
    log_w = torch.full((n,), -math.log(n), dtype=torch.float64)
    found = {dim: [] for dim in dims}
    for kernel, a, share in KERNELS:
        k, h = profile(kernel, a), share * math.sqrt(d)
        best = math.log(float(sketch.kde_mode(X, h, kernel, exponent=a, dim=40, generator=0).density))
        full = X / h
        for dim in dims:
            ratios = []
            for seed in range(seeds):
                g = torch.Generator().manual_seed(seed)
                low = full @ torch.randn(d, dim, dtype=torch.float64, generator=g) / math.sqrt(dim)
                ends = climb(low, log_w, low[:100], k, 1e-3, 300, merge=True)
                top = ends.points[ends.log_density.argmax()][None]
                value = shift(full, log_w, _lifted(full, low, log_w, top, k, "mean_shift"), k, exact=True)[0]
                ratios.append(math.exp(float(value) - best))
            found[dim].append(float(np.mean(ratios)))
    return [min(found[dim]) for dim in dims]


@claim(
    paper="Dimensionality Reduction for General KDE Mode Finding",
    method=sketch.kde_mode,
    says="lifted from 40 dimensions and not yet polished, four kernels: density over the best, rising with the dimension",
    at_least=0.98,
)
def ratio_by_dimension(scale: Scale) -> Measured:
    X = five_clusters(scale(quick=400, full=2000), 0.25)
    dims = (5, 10, 20, 40)
    ratios = lifted_ratios(X, dims, scale(quick=2, full=10))
    note = ", ".join(f"{dim}: {ratio:.4f}" for dim, ratio in zip(dims, ratios, strict=True))
    return Measured(ratios[-1] if ratios[-1] >= max(ratios[:2]) else 0.0, unit="of the best density", note=note)


@claim(
    paper="Dimensionality Reduction for General KDE Mode Finding",
    method=sketch.kde_mode,
    says="overlapping clusters: density at a random point of the data over that at the mode",
    at_most=0.8,
)
def random_point(scale: Scale) -> Measured:
    X = five_clusters(scale(quick=500, full=2000), 0.25)
    far = torch.cdist(X, X)
    h = math.sqrt(500)
    ratios = [
        float(profile(k, a).log((far / (share * h)) ** 2).exp().mean()) / best
        for (k, a, share), best in zip(KERNELS, modes(X, 25), strict=True)
    ]
    return Measured(max(ratios), unit="of the mode's density", note="the kernel where it does best")


@claim(
    paper="Dimensionality Reduction for General KDE Mode Finding",
    method=sketch.kirszbraun_lift,
    says="the lifted point is at most 1 + eps times further from every point than in the projection: violation, eps = 0.3",
    at_most=0.3,
)
def violation_of_the_lift(scale: Scale) -> Measured:
    X = five_clusters(scale(quick=500, full=2000), 0.25)
    worst = 0.0
    for seed in range(scale(quick=3, full=10)):
        g = torch.Generator().manual_seed(seed)
        low = X @ torch.randn(500, 80, dtype=torch.float64, generator=g) / math.sqrt(80)
        y = sketch.kde_mode(low, 0.5 * math.sqrt(500), generator=0).point
        x = sketch.kirszbraun_lift(X, low, y, eps=0.3)
        worst = max(worst, float(((x - X).norm(dim=1) / (y - low).norm(dim=1)).max()) - 1)
    return Measured(worst)
