"""What the papers of first-order optimizers claim, measured."""

import functools
import math

import numpy as np
import torch
from _seconds import seconds
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import nn

from resolvent.claims import Measured, Scale, claim
from resolvent.optim import LAMB, LARS, SGDP, AdamP, CoRe, Lion, OptimisticAMSGrad


@functools.cache
def box_gaps(steps: int) -> dict[str, float]:
    """Relative gaps to the optimum in the box |x| <= 1 of a quadratic whose minimiser violates it in half of the numbers."""
    draw, n = torch.Generator().manual_seed(0), 200
    B = torch.randn(n, n, generator=draw, dtype=torch.float64) / n**0.5
    H = B @ B.T + 0.1 * torch.eye(n, dtype=torch.float64)
    signs = torch.randn(n, generator=draw, dtype=torch.float64).sign()
    b = H @ (signs * torch.where(torch.arange(n) % 2 == 0, 2.0, 0.5))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = H.numpy() @ x - b.numpy()
        return float(x @ (gradient - b.numpy()) / 2), gradient

    options = {"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(loss, np.zeros(n), jac=True, bounds=[(-1, 1)] * n, method="L-BFGS-B", options=options).fun
    gaps = {}
    for name, kind in (("lion", Lion), ("adamw", torch.optim.AdamW)):
        x = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        optimizer = kind([x], lr=1e-2, weight_decay=1.0)
        for t in range(steps):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - t / steps)
            x.grad = torch.mv(H, x.detach()) - b
            optimizer.step()
        gaps[name] = (loss(x.detach().numpy())[0] - best) / abs(best)
    return gaps


@claim(
    paper="Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts",
    method=Lion,
    says="weight decay solves the problem in the box |x| <= 1/lambda: gap to L-BFGS-B with bounds on a quadratic in R^200",
    at_most=1e-3,
)
def box_constrained_optimum(scale: Scale) -> Measured:
    return Measured(box_gaps(scale(quick=3000, full=20_000))["lion"], unit="relative gap")


@claim(
    paper="Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts",
    method=Lion,
    says="AdamW with the same weight decay solves another problem: its gap in the same run",
    at_least=10.0,
)
def adamw_solves_another_problem(scale: Scale) -> Measured:
    gaps = box_gaps(scale(quick=3000, full=20_000))
    return Measured(
        gaps["adamw"] / max(gaps["lion"], 1e-12), unit="x the gap of Lion", note=f"AdamW {gaps['adamw']:.3g}"
    )


@claim(
    paper="Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts",
    method=Lion,
    says="from outside, the distance to the box shrinks at least by the factor 1 - lr lambda a step",
    at_most=1 + 1e-5,
)
def outside_of_the_box(scale: Scale) -> Measured:
    worst, lr = 0.0, 0.01
    for seed in range(scale(quick=3, full=20)):
        draw = torch.Generator().manual_seed(seed)
        x = nn.Parameter(20 * torch.randn(200, generator=draw, dtype=torch.float64))
        target = 10 * torch.randn(200, generator=draw, dtype=torch.float64)
        optimizer = Lion([x], lr=lr, weight_decay=0.5)
        first = optimizer.feasibility()
        for t in range(1, 300):
            x.grad = x.detach() - target
            optimizer.step()
            worst = max(worst, optimizer.feasibility() / ((1 - lr * 0.5) ** t * first))
    return Measured(worst, unit="x the bound on the distance")


@functools.cache
def step_times(numbers: int) -> dict[str, float]:
    """Times of one step over those of AdamW with foreach, on matrices and vectors with so many numbers in all."""
    width = 256
    shapes = [s for _ in range(max(1, numbers // (width * width + width))) for s in ((width, width), (width,))]
    kinds = {
        "AdamW": lambda p: torch.optim.AdamW(p, foreach=True), "Lion": Lion, "AdamP": AdamP, "LARS": LARS, "LAMB": LAMB,
        "OptimisticAMSGrad": OptimisticAMSGrad, "CoRe": CoRe,
    }  # fmt: skip
    steps = []
    for kind in kinds.values():
        params = [nn.Parameter(torch.randn(s)) for s in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer = kind(params)
        for _ in range(6):
            optimizer.step()
        steps.append(optimizer.step)
    times = seconds(*steps, repeats=9)
    return {name: time / times[0] for name, time in zip(kinds, times, strict=True)}


@claim(
    paper="Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts",
    method=Lion,
    says="a step takes at most 0.9 of the time of torch's AdamW with foreach",
    at_most=0.9,
)
def lion_step(scale: Scale) -> Measured:
    return Measured(step_times(scale(quick=1_000_000, full=10_000_000))["Lion"], unit="x the time of AdamW")


@claim(
    paper="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    method=AdamP,
    says="a step takes at most 1.3 of the time of torch's AdamW with foreach",
    at_most=1.3,
)
def adamp_step(scale: Scale) -> Measured:
    return Measured(step_times(scale(quick=1_000_000, full=10_000_000))["AdamP"], unit="x the time of AdamW")


@claim(
    paper="A Large Batch Optimizer Reality Check: Traditional, Generic Optimizers Suffice Across Batch Sizes",
    method=LAMB,
    says="steps of LARS and of LAMB take at most 1.3 of the time of torch's AdamW with foreach",
    at_most=1.3,
)
def large_batch_steps(scale: Scale) -> Measured:
    times = step_times(scale(quick=1_000_000, full=10_000_000))
    return Measured(max(times["LARS"], times["LAMB"]), unit="x the time of AdamW", note=f"LARS {times['LARS']:.2f}")


@claim(
    paper="An Optimistic Acceleration of AMSGrad for Nonconvex Optimization",
    method=OptimisticAMSGrad,
    says="a step with a history of 5 takes at most 2.5 of the time of torch's AdamW with foreach",
    at_most=2.5,
)
def optimistic_step(scale: Scale) -> Measured:
    times = step_times(scale(quick=1_000_000, full=10_000_000))
    return Measured(times["OptimisticAMSGrad"], unit="x the time of AdamW")


@claim(
    paper="Lifelong Machine Learning Potentials",
    method=CoRe,
    says="a step takes at most 1.8 of the time of torch's AdamW with foreach",
    at_most=1.8,
)
def core_step(scale: Scale) -> Measured:
    return Measured(step_times(scale(quick=1_000_000, full=10_000_000))["CoRe"], unit="x the time of AdamW")


@functools.cache
def norm_growth(name: str, steps: int) -> float:
    """Largest growth of a weight before batch normalisation, in a network of two such layers on ten clusters."""
    draw = torch.Generator().manual_seed(0)
    centers, y = torch.randn(10, 20, generator=draw), torch.randint(0, 10, (2000,), generator=draw)
    x = centers[y] + torch.randn(2000, 20, generator=draw)
    torch.manual_seed(1)
    layers = [nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32, bias=False)]
    model = nn.Sequential(*layers, nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = {
        "Adam": lambda p: torch.optim.Adam(p, lr=1e-2), "AdamP": lambda p: AdamP(p, lr=1e-2),
        "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "SGDP": lambda p: SGDP(p, lr=0.1),
    }[name](model.parameters())  # fmt: skip
    weights = [model[0].weight, model[3].weight]
    first = [float(w.detach().norm()) for w in weights]
    for _ in range(steps):
        ids = torch.randint(0, 2000, (64,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[ids]), y[ids]).backward()
        optimizer.step()
    return max(float(w.detach().norm()) / before for w, before in zip(weights, first, strict=True))


def growth(name: str, baseline: str, steps: int) -> Measured:
    ours, theirs = norm_growth(name, steps), norm_growth(baseline, steps)
    # The statement is about step sizes at which the baseline's norm at least doubles.
    return Measured(ours if theirs >= 2 else math.nan, unit="x the first norm", note=f"{baseline} {theirs:.2f}")


@claim(
    paper="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    method=AdamP,
    says="weights before batch normalisation grow at most 1.2 times where Adam's grow at least 2 times",
    at_most=1.2,
    full_miss="1.40 after 2000 steps, where Adam's grow 3.9 times: projected steps still lengthen a weight, by Pythagoras; what the "
    "paper proves is the ratio, and the square of the norm grows 15 times slower",
)
def norms_with_adamp(scale: Scale) -> Measured:
    return growth("AdamP", "Adam", scale(quick=500, full=2000))


@claim(
    paper="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    method=SGDP,
    says="weights before batch normalisation grow at most 1.2 times where those of SGD with momentum grow at least 2 times",
    at_most=1.2,
    known_miss="1.34 where SGD's grow 2.5 times: projected steps are orthogonal to the weight and so still lengthen it, by Pythagoras",
)
def norms_with_sgdp(scale: Scale) -> Measured:
    return growth("SGDP", "SGD", scale(quick=500, full=2000))


@claim(
    paper="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    method=SGDP,
    says="the effective step size lr / |w|^2 of AdamP and SGDP stays within 2 of its start",
    at_most=2.0,
    full_miss="3.3 with SGDP and 1.95 with AdamP after 2000 steps, as the norms say; 13 with SGD, 15 with Adam",
)
def effective_step_size(scale: Scale) -> Measured:
    steps = scale(quick=500, full=2000)
    ratios = {name: norm_growth(name, steps) ** 2 for name in ("AdamP", "SGDP")}
    return Measured(max(ratios.values()), unit="x the effective step", note=f"AdamP {ratios['AdamP']:.2f}")


def steps_on_a_direction(kind: type, lr: float, most: int) -> int:
    """Steps to 1e-3 of a function of the direction of x only, a narrow curved valley on the sphere."""
    x = nn.Parameter(torch.tensor([[0.6, -0.7, 0.4]], dtype=torch.float64))
    optimizer = kind([x], lr=lr, momentum=0.9)
    for t in range(most):
        optimizer.zero_grad()
        u = x[0] / x.norm() * 3**0.5
        loss = (1 - u[0]) ** 2 + 10 * (u[1] - u[0] ** 2) ** 2 + (u[2] - 1) ** 2
        if float(loss.detach()) < 1e-3:
            return t
        loss.backward()
        optimizer.step()
    return most


@claim(
    paper="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    method=SGDP,
    says="fewer steps than SGD with momentum to 1e-3 of a Rosenbrock function of the direction, each at its best step size",
    at_most=1.0,
)
def rosenbrock_of_the_direction(scale: Scale) -> Measured:
    rates = [0.001 * 2**k for k in range(scale(quick=8, full=12))]
    most = scale(quick=400, full=4000)
    best = [min(steps_on_a_direction(kind, lr, most) for lr in rates) for kind in (SGDP, torch.optim.SGD)]
    return Measured(best[0] / best[1], unit="x the steps", note=f"{best[0]} against {best[1]}")


def iterations(kind: str, layers: int, lr: float, seed: int, target: float, most: int) -> int:
    """Full-batch steps to a training loss on digits."""
    digits = load_digits()
    x, y = torch.tensor(digits.data[:600] / 16, dtype=torch.float32), torch.tensor(digits.target[:600])
    torch.manual_seed(seed)
    hidden = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    model = nn.Linear(64, 10) if layers == 1 else hidden
    optimizer = (
        OptimisticAMSGrad(model.parameters(), lr=lr)
        if kind == "optimistic"
        else torch.optim.Adam(model.parameters(), lr=lr, amsgrad=True)
    )
    for t in range(most):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        if float(loss.detach()) < target:
            return t
        loss.backward()
        optimizer.step()
    return most


@claim(
    paper="An Optimistic Acceleration of AMSGrad for Nonconvex Optimization",
    method=OptimisticAMSGrad,
    says="at most 0.8 of the iterations of AMSGrad to a training loss at the same step size, logistic regression and two layers",
    at_most=0.8,
)
def optimistic_iterations(scale: Scale) -> Measured:
    ratios = []
    for layers, target in ((1, 0.4), (2, 0.2)):
        for seed in range(scale(quick=1, full=5)):
            ours, theirs = (iterations(k, layers, 3e-3, seed, target, 1500) for k in ("optimistic", "amsgrad"))
            ratios.append(ours / theirs)
    return Measured(sum(ratios) / len(ratios), unit="x the iterations", note=f"worst {max(ratios):.2f}")


@claim(
    paper="An Optimistic Acceleration of AMSGrad for Nonconvex Optimization",
    method=OptimisticAMSGrad,
    says="fewer iterations than AMSGrad also where each has its best step size of a grid",
    at_most=1.0,
    known_miss="1.2 at quick scale (8 steps against 7, 10 against 8), 1.07 over five seeds: a predicted gradient acts like a larger "
    "step size, which a tuned AMSGrad takes itself, up to 0.1; on a grid that ends at 0.03 it would be met",
)
def optimistic_iterations_tuned(scale: Scale) -> Measured:
    rates, ratios = scale(quick=[1e-2, 3e-2, 0.1], full=[1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3]), []
    for layers, target in ((1, 0.4), (2, 0.2)):
        for seed in range(scale(quick=1, full=5)):
            ours, theirs = (
                min(iterations(k, layers, lr, seed, target, 400) for lr in rates) for k in ("optimistic", "amsgrad")
            )
            ratios.append(ours / theirs)
    return Measured(sum(ratios) / len(ratios), unit="x the iterations", note=f"worst {max(ratios):.2f}")
