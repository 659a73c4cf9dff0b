"""What the paper on refined learning-rate schedules claims, measured."""

import functools
import math

import numpy as np
import torch
from sklearn import datasets

from resolvent import optim
from resolvent.claims import Measured, Scale, claim

SCHEDULES = ("linear", "constant", "1/t", "1/sqrt(t)", "cosine")
RATES = torch.logspace(-2, 2, 13)


@functools.cache
def tasks() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Six classifications: four of scikit-learn, two made of overlapping clusters."""
    found = {}
    for name in ("breast_cancer", "digits", "wine", "iris"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        found[name] = (x, y)
    for name, classes, flip in (("few", 3, 0.05), ("many", 8, 0.1)):
        found[name] = datasets.make_classification(
            1200, 30, n_informative=10, n_classes=classes, flip_y=flip, random_state=classes
        )
    ready = {}
    for name, (x, y) in found.items():
        x = (x - x.mean(0)) / (x.std(0) + 1e-9)
        x = np.concatenate([x, np.ones((len(x), 1))], 1)
        ready[name] = (torch.from_numpy(x).float(), torch.from_numpy(y).long())
    return ready


def factors(kind: str, steps: int) -> torch.Tensor:
    t = torch.arange(steps, dtype=torch.float64)
    made = {
        "linear": 1 - t / steps,
        "constant": torch.ones(steps),
        "1/t": 1 / (t + 1),
        "1/sqrt(t)": (t + 1).rsqrt(),
        "cosine": 0.5 + 0.5 * torch.cos(math.pi * t / steps),
    }
    return made[kind].float()


def final_losses(
    name: str, schedules: torch.Tensor, seeds: range, rates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Regularised training loss (schedules, rates, seeds) after SGD with batches of 16, all runs at once; and the norms of the
    stochastic gradients (steps, schedules, rates, seeds)."""
    x, y = tasks()[name]
    classes, decay = int(y.max()) + 1, 1e-4
    kinds, steps = schedules.shape
    W = torch.zeros(kinds, len(rates), len(seeds), x.shape[1], classes)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    norms = torch.empty(steps, *W.shape[:3])
    target = torch.nn.functional.one_hot(y, classes).float()
    for t in range(steps):
        rows = torch.stack([torch.randint(len(x), (16,), generator=g) for g in draws])
        a, b = x[rows], target[rows]
        p = torch.einsum("sbd,krsdc->krsbc", a, W).softmax(-1)
        G = torch.einsum("sbd,krsbc->krsdc", a, (p - b) / 16) + decay * W
        norms[t] = G.flatten(3).norm(dim=-1)
        W -= schedules[:, t, None, None, None, None] * rates[None, :, None, None, None] * G
    logits = torch.einsum("bd,krsdc->krsbc", x, W).log_softmax(-1)
    loss = -(logits * target).sum(-1).mean(-1) + decay / 2 * W.square().sum((-1, -2))
    return torch.where(loss.isfinite(), loss, math.inf), norms


@functools.cache
def table(steps: int, seeds: int) -> dict[str, dict[str, float]]:
    """Mean final loss by task and schedule, each at its own best rate; the refined schedule from the norms of one more run."""
    found: dict[str, dict[str, float]] = {}
    plain = torch.stack([factors(kind, steps) for kind in SCHEDULES])
    for name in tasks():
        loss, _ = final_losses(name, plain, range(seeds), RATES)
        mean = loss.mean(-1)
        best = int(mean[0].argmin())
        _, norms = final_losses(name, plain[:1], range(1000, 1001), RATES[best : best + 1])
        refined = torch.from_numpy(optim.refine_schedule(norms.flatten().double().numpy())).float()[None]
        again, _ = final_losses(name, refined, range(seeds), RATES)
        found[name] = dict(zip(SCHEDULES, mean.amin(1).tolist(), strict=True)) | {
            "refined": float(again.mean(-1).min())
        }
    return found


@claim(
    paper="When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
    method=optim.LinearDecay,
    says="linear decay's final loss has at least as good an average rank as constant, 1/t, 1/sqrt(t) and cosine rates, each tuned",
    at_most=0.0,
)
def linear_decay_against_the_classics(scale: Scale) -> Measured:
    rows = table(*scale(quick=(300, 4), full=(3000, 10))).values()
    ranks = np.array([[sorted(row[k] for k in SCHEDULES).index(row[kind]) + 1 for kind in SCHEDULES] for row in rows])
    mean = ranks.mean(0)
    note = ", ".join(f"{kind} {rank:.1f}" for kind, rank in zip(SCHEDULES, mean, strict=True))
    return Measured(float(mean[0] - mean[1:].min()), unit="ranks behind the best other", note=note)


@claim(
    paper="When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
    method=optim.refine_schedule,
    says="the refined schedule ends at or below linear decay on at least 4 of 6 tasks",
    at_least=4,
    known_miss="measured 1 of 6: 0.92 on wine, 1.00 where noise holds the norms constant (both made tasks), 1.01 to 1.11 on the others. "
    "Over 1500 steps with a finer grid of rates the ratios are 0.98 to 1.05. Where the data are fitted exactly (digits) the norms fall "
    "because the schedule does, and weights 1 / G^2 take them for a property of the task: medians over 30 % of the run, root mean "
    "squares over 16 runs and 1 / G give 0.96 to 1.48 of linear decay. The paper's own runs are longer (100 epochs) and use Adam",
)
def refined_against_linear_decay(scale: Scale) -> Measured:
    rows = table(*scale(quick=(300, 4), full=(3000, 10)))
    won = sum(row["refined"] <= row["linear"] for row in rows.values())
    note = ", ".join(f"{name} {row['refined'] / row['linear']:.3f}" for name, row in rows.items())
    return Measured(won, unit="of 6 tasks", note=f"ratios: {note}")


@claim(
    paper="When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
    method=optim.refine_schedule,
    says="constant gradient norms give linear decay exactly",
    at_most=1e-12,
)
def constant_norms_give_linear_decay(scale: Scale) -> Measured:
    steps = scale(quick=1000, full=100_000)
    worst = max(
        float(np.abs(optim.refine_schedule(np.full(steps, 2.5), kind) - np.linspace(1, 0, steps)).max())
        for kind in ("sgd", "adam")
    )
    return Measured(worst, unit="largest difference")


@functools.cache
def sequences(steps: int) -> list[np.ndarray]:
    """Norms that fall, rise, jump, oscillate and scatter."""
    rng, t = np.random.default_rng(0), np.linspace(0, 1, steps)
    shapes = [
        10 ** (-t),
        10**t,
        1 + 4 * (t > 0.5),
        5 - 4 * (t > 0.2),
        2 + np.sin(20 * t),
        1 / (t + 0.02),
        np.exp(-8 * t) + 0.3,
    ]
    return shapes + [rng.lognormal(0, s, steps) for s in (0.2, 0.5, 1.0)]


@claim(
    paper="When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
    method=optim.last_iterate_bound,
    says="the bound of the refined schedule is never above that of linear decay (ten sequences of norms)",
    at_most=1.0,
)
def bound_of_the_refined_schedule(scale: Scale) -> Measured:
    return against_linear_decay("sgd", scale(quick=300, full=3000))


def against_linear_decay(kind: str, steps: int) -> Measured:
    ratios = []
    for G in sequences(steps):
        schedule = optim.refine_schedule(G, kind, smooth=0)
        ratios.append(optim.last_iterate_bound(schedule, G) / optim.last_iterate_bound(1 - np.arange(steps) / steps, G))
    return Measured(max(ratios), unit="of linear decay's bound", note=f"best {min(ratios):.3f}")
