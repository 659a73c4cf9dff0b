"""What the papers on generative and spiked models of matrices claim, measured."""

import functools
import math
from itertools import combinations

import numpy as np
import torch

from resolvent import factor
from resolvent.claims import Measured, Scale, claim
from resolvent.errors import ConvergenceError
from resolvent.random import gaussian


def random_covariance(m: int, seed: int) -> torch.Tensor:
    A = gaussian((m, 3 * m // 2), generator=seed)
    return A @ A.mT / (3 * m // 2)


@claim(
    paper="Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss",
    method=factor.deep_linear_covariance,
    says="gradient descent from a balanced start, identity or random, ends at the sum of the 6 smallest eigenvalues: widths "
    "10, 4, 4, 10 (largest distance)",
    at_most=1e-6,
)
def reaches_the_closed_form(scale: Scale) -> Measured:
    worst, steps = 0.0, []
    for seed in range(scale(quick=2, full=20)):
        S0 = random_covariance(10, seed)
        best = float(torch.linalg.eigvalsh(S0)[:6].sum())
        for init in ("identity", "balanced"):
            found = factor.deep_linear_covariance(S0, (10, 4, 4, 10), init=init, generator=seed)
            worst = max(worst, abs(found.value - best))
            steps.append(found.steps)
    return Measured(worst, "distance", f"{min(steps)} to {max(steps)} steps")


@claim(
    paper="Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss",
    method=factor.deep_linear_covariance,
    says="the tail is linear: the logarithm of the excess over the last third of the steps is a line (smallest squared "
    "correlation)",
    at_least=0.99,
)
def linear_tail(scale: Scale) -> Measured:
    least, rates = 1.0, []
    for seed in range(scale(quick=3, full=20)):
        S0 = random_covariance(10, seed)
        found = factor.deep_linear_covariance(S0, (10, 4, 4, 10), init="identity", rtol=1e-5)
        excess = (found.losses - torch.linalg.eigvalsh(S0)[:6].sum()).numpy()
        tail = np.log(excess[2 * len(excess) // 3 :])
        least = min(least, np.corrcoef(np.arange(len(tail)), tail)[0, 1] ** 2)
        rates.append(math.exp((tail[-1] - tail[0]) / (len(tail) - 1)))
    return Measured(least, "squared correlation", f"factor per step {min(rates):.3f} to {max(rates):.3f}")


@claim(
    paper="Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss",
    method=factor.bures_critical_point,
    says="every choice of 4 of 10 eigenpairs is a critical point (largest gradient), and all but the top 4 have a direction "
    "in which the loss falls, seen by differences of the loss itself",
    at_most=1e-10,
)
def all_critical_points(scale: Scale) -> Measured:
    S0 = random_covariance(10, 0)
    w, V = (t.flip(-1) for t in torch.linalg.eigh(S0))
    turn = torch.linalg.qr(gaussian((4, 4), generator=1)).Q
    worst, saddles, h = 0.0, 0, 1e-2
    subsets = list(combinations(range(10), 4))
    for J in subsets[:: scale(quick=3, full=1)]:
        W = V[:, list(J)] * w[list(J)].sqrt() @ turn
        found = factor.bures_critical_point(S0, W)
        worst = max(worst, found.gradient)
        if found.kept != J or found.minimum != (J == (0, 1, 2, 3)):
            return Measured(math.nan, note=f"{J} taken for {found.kept}")
        if not found.minimum:
            fall = float(factor.bures_loss(S0, W + h * found.direction) - factor.bures_loss(S0, W))
            if not fall < 0:
                return Measured(math.nan, note=f"{J}: the loss does not fall")
            saddles += 1
    return Measured(worst, "relative gradient", f"{saddles} saddles")


@claim(
    paper="Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss",
    method=factor.deep_linear_covariance,
    says="small steps keep the factors balanced (largest relative drift; lr = 1e-3, time 2, where the loss has fallen by half "
    "of its excess)",
    at_most=1e-3,
)
def balance_drift(scale: Scale) -> Measured:
    S0, rate, time = random_covariance(10, 0), scale(quick=2e-3, full=1e-3), 2.0
    best = float(torch.linalg.eigvalsh(S0)[:6].sum())
    try:
        found = factor.deep_linear_covariance(
            S0, (10, 4, 4, 10), init="identity", lr=rate, max_steps=round(time / rate), rtol=1e-12
        )
    except ConvergenceError as error:
        found = error.best
    left = (found.value - best) / (float(found.losses[0]) - best)
    # A drift that is small because nothing moved shows nothing.
    return Measured(
        found.balancedness if left < 0.5 else math.nan, "relative drift", f"{left:.2g} of the excess is left"
    )


@claim(
    paper="Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss",
    method=factor.deep_linear_covariance,
    says="with tau > 0 the minimiser has the eigenvalues lowered by tau, zero below it: the spectrum that descent finds "
    "against the formula (largest difference)",
    at_most=1e-6,
)
def thresholded_spectrum(scale: Scale) -> Measured:
    worst = 0.0
    for seed in range(scale(quick=1, full=10)):
        Q = torch.linalg.qr(gaussian((8, 8), generator=seed)).Q
        # Of the four directions that the widths allow, one is below tau.
        w, tau = torch.tensor([4.0, 2.0, 1.2, 0.2, 0.1, 0.05, 0.02, 0.01]).double(), 0.6
        found = factor.deep_linear_covariance(Q * w @ Q.mT, (8, 4, 8), tau=tau, rtol=2e-6, generator=seed)
        values = torch.linalg.svdvals(found.product)[:4].square()
        worst = max(worst, float((values - (w[:4] - tau).clamp_min(0)).abs().max()))
    return Measured(worst, "difference")


def beta_of(rho: float, shape: tuple[int, int, int]) -> float:
    return math.sqrt(rho * math.sqrt(math.prod(shape)) / sum(shape))


def drawn(beta: float, rho: float, shape: tuple[int, int, int], seed: int) -> factor.SpikedTensor:
    return factor.spiked_tensor(*shape, beta, beta_of(rho, shape), dtype=torch.float32, generator=seed)


def aligned(model: factor.SpikedTensor, method: str) -> tuple[float, float]:
    """Squared inner product with the clusters, and the share of points in the right one."""
    found = factor.multiview_cluster(model.T, method)
    hits = float((found.labels == (model.y > 0)).double().mean())
    return float(found.direction @ model.y) ** 2, max(hits, 1 - hits)


@claim(
    paper="Performance Gaps in Multi-view Clustering under the Nested Matrix-Tensor Model",
    method=factor.unfolding_theory,
    says="the alignment of the unfolding's vector is that of the formula: 12 settings (mean distance)",
    at_most=0.06,
)
def alignment_of_unfoldings(scale: Scale) -> Measured:
    shape = scale(quick=(100, 150, 75), full=(400, 600, 300))
    gaps = []
    for beta in (1.0, 2.0, 3.0):
        for rho in (0.2, 0.5, 1.0, 2.0):
            theory = factor.unfolding_theory(beta, rho, shape).alignment
            seeds = range(scale(quick=2, full=5))
            gaps.append(abs(np.mean([aligned(drawn(beta, rho, shape, s), "unfolding")[0] for s in seeds]) - theory))
    return Measured(float(np.mean(gaps)), "distance", f"largest {max(gaps):.3f}, next to a threshold")


@claim(
    paper="Performance Gaps in Multi-view Clustering under the Nested Matrix-Tensor Model",
    method=factor.unfolding_theory,
    says="the transition in rho_T is where the formula has it: where the alignment passes 0.3, beta_M = 1.5, 2, 3 (largest "
    "relative distance)",
    at_most=0.15,
)
def transition_in_rho(scale: Scale) -> Measured:
    shape, seeds = scale(quick=((100, 150, 75), 3), full=((400, 600, 300), 5))
    worst, notes = 0.0, []
    for beta in (1.5, 2.0, 3.0):
        fine = np.geomspace(0.02, 2, 2000)
        curve = [factor.unfolding_theory(beta, rho, shape).alignment for rho in fine]
        expected = float(np.interp(0.3, curve, fine))
        # Measured on a grid around it, and interpolated where the mean crosses.
        grid = expected * np.array([0.6, 0.8, 1.0, 1.2, 1.5])
        means = [np.mean([aligned(drawn(beta, r, shape, s), "unfolding")[0] for s in range(seeds)]) for r in grid]
        crossing = float(np.interp(0.3, means, grid)) if means[0] < 0.3 < means[-1] else math.nan
        notes.append(f"{crossing:.3f} ({expected:.3f})")
        worst = max(worst, abs(crossing / expected - 1)) if math.isfinite(crossing) else math.nan
    return Measured(worst, "relative distance", ", ".join(notes))


@claim(
    paper="Performance Gaps in Multi-view Clustering under the Nested Matrix-Tensor Model",
    method=factor.multiview_cluster,
    says="near the unfolding's threshold a rank-one approximation from the unfolding's start sees more: gain in mean alignment, "
    "beta_M = 2, rho_T = 0.25 (threshold 0.22)",
    at_least=0.05,
)
def performance_gap(scale: Scale) -> Measured:
    shape = scale(quick=(100, 150, 75), full=(400, 600, 300))
    models = [drawn(2.0, 0.25, shape, seed) for seed in range(scale(quick=4, full=5))]
    plain, tensor = (float(np.mean([aligned(m, method)[0] for m in models])) for method in ("unfolding", "rank_one"))
    best = factor.unfolding_theory(2.0, 0.25, shape).optimal
    return Measured(tensor - plain, "alignment", f"{plain:.3f} and {tensor:.3f}; {best:.3f} for known weights")


@claim(
    paper="Performance Gaps in Multi-view Clustering under the Nested Matrix-Tensor Model",
    method=factor.unfolding_theory,
    says="the share of points in the right cluster is the predicted Phi, beyond the threshold (mean distance in points)",
    at_most=2.0,
)
def predicted_accuracy(scale: Scale) -> Measured:
    shape = scale(quick=(100, 150, 75), full=(400, 600, 300))
    gaps = []
    for beta, rho in ((1.0, 2.0), (2.0, 0.5), (2.0, 1.0), (3.0, 0.5), (3.0, 1.0)):
        theory = factor.unfolding_theory(beta, rho, shape).accuracy
        shares = [aligned(drawn(beta, rho, shape, s), "unfolding")[1] for s in range(scale(quick=4, full=5))]
        gaps.append(100 * abs(float(np.mean(shares)) - theory))
    return Measured(float(np.mean(gaps)), "points", f"largest {max(gaps):.1f}")


@functools.cache
def digits() -> tuple[torch.nn.Module, torch.Tensor]:
    """A decoder of 5 latent variables trained on scikit-learn's digits, as a variational autoencoder, and codes of others."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        decoder = torch.nn.Sequential(
            torch.nn.Linear(5, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.Sigmoid()
        )
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=5e-3)
        train, test = images[:1500], images[1500:]
        for _ in range(250):
            batch = train[torch.randint(1500, (128,))]
            mean, log = encoder(batch).chunk(2, 1)
            out = decoder(mean + torch.exp(log / 2) * torch.randn_like(mean))
            divergence = (mean**2 + log.exp() - 1 - log).sum() / 2
            loss = torch.nn.functional.binary_cross_entropy(out, batch, reduction="sum") + divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            codes = encoder(test)[:, :5]
    return decoder, codes


def observed(model: str, m: int, trials: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit images in the range of the decoder (trials, 64) and a matrix V of m observations of each."""
    decoder, codes = digits()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        x = decoder(codes[torch.randperm(len(codes), generator=g)[:trials]])
    x = x / x.norm(dim=1, keepdim=True)
    a = torch.randn(trials, m, 64, generator=g)
    if model == "covariance":  # samples of N(0, I + x x^T)
        s = a + torch.randn(trials, m, 1, generator=g) * x[:, None]
        return x, s.mT @ s / m - torch.eye(64)
    y = (a @ x[..., None]).square()
    return x, (a * y).mT @ a / m - y.mean(1, keepdim=True) * torch.eye(64)


def cosines(model: str, m: int, trials: int) -> tuple[float, float, float, float]:
    """Mean |cosine| of the generative model, of power steps, of the best truncated ones, and the mean error of the first."""
    x, V = observed(model, m, trials, seed=m)
    decoder, _ = digits()
    projector = factor.GenerativeProjector(decoder, 5, steps=60, restarts=3, generator=0)

    def mean(w: torch.Tensor) -> float:
        return float((w * x).sum(1).abs().mean())

    w = factor.power_pca(V, projector, n_iter=6)
    sparse = max(mean(factor.power_pca(V, s)) for s in (8, 16, 24, 32, 48))
    return mean(w), mean(factor.power_pca(V)), sparse, float((w - x).norm(dim=1).mean())


@claim(
    paper="Generative Principal Component Analysis",
    method=factor.power_pca,
    says="digits, covariance with one spike of strength 1: with a decoder of 5 variables the cosine exceeds power steps and "
    "truncated ones with the best s, in the lower half of m = 60 to 300 (smallest gain)",
    at_least=0.1,
)
def gain_for_spiked_covariance(scale: Scale) -> Measured:
    return _gain("covariance", scale(quick=(60, 150), full=(60, 90, 120, 150)), scale(quick=12, full=50))


@claim(
    paper="Generative Principal Component Analysis",
    method=factor.power_pca,
    says="the same for phase retrieval, in the lower half of m = 100 to 400",
    at_least=0.1,
)
def gain_for_phase_retrieval(scale: Scale) -> Measured:
    return _gain("phase", scale(quick=(100, 200), full=(100, 150, 200)), scale(quick=12, full=50))


def _gain(model: str, sizes: tuple[int, ...], trials: int) -> Measured:
    found = [cosines(model, m, trials) for m in sizes]
    notes = (f"m = {m}: {c[0]:.2f}, {c[1]:.2f}, {c[2]:.2f}" for m, c in zip(sizes, found, strict=True))
    return Measured(min(c[0] - max(c[1:3]) for c in found), "cosine", "; ".join(notes))


@claim(
    paper="Generative Principal Component Analysis",
    method=factor.power_pca,
    says="the error falls as m^(-1/2): slope between -0.7 and -0.3 for both models (distance from -1/2)",
    at_most=0.2,
)
def rate_in_samples(scale: Scale) -> Measured:
    worst, slopes = 0.0, []
    trials = scale(quick=24, full=60)
    for model, sizes in (("covariance", (60, 100, 170, 300)), ("phase", (100, 160, 250, 400))):
        sizes = sizes if scale.full else sizes[::3]
        errors = [cosines(model, m, trials)[3] for m in sizes]
        slopes.append(float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]))
        worst = max(worst, abs(slopes[-1] + 0.5))
    return Measured(worst, "distance", f"slopes {slopes[0]:.2f} and {slopes[1]:.2f}")
