"""What the anthology of steepest descent claims: known optimizers as steepest descent, and step sizes that do not depend on the width."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import mean

import torch
from _digit_training import adamw, best, train
from torch import Tensor, nn

from resolvent import optim
from resolvent.claims import Measured, Scale, claim
from resolvent.optim.precision import product_dtype

Make = Callable[[nn.Module, float], torch.optim.Optimizer]


@claim(
    paper="Old Optimizer, New Norm: An Anthology",
    method=optim.adam_as_steepest,
    says="Adam, Shampoo and Prodigy without averages are steepest descent: largest difference of the two forms (float64)",
    at_most=1e-10,
)
def equivalences(scale: Scale) -> Measured:
    generator = torch.Generator().manual_seed(0)
    worst = {"Adam": 0.0, "Shampoo": 0.0, "Prodigy": 0.0}
    for shape in [(8, 8), (12, 5), (6, 20), scale(quick=(40, 30), full=(120, 80))]:
        g, x, start = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
        found = {
            "Adam": optim.adam_as_steepest(g),
            "Shampoo": optim.shampoo_as_steepest(g),
            "Prodigy": optim.prodigy_as_steepest(g, x, start, 1e-3),
        }
        for name, rule in found.items():
            worst[name] = max(worst[name], float((rule.update - rule.steepest).abs().max()) / max(1.0, rule.size))
    return Measured(max(worst.values()), note=", ".join(f"{k} {v:.1e}" for k, v in worst.items()))


def student(width: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))


def of_teacher(seed: int) -> Iterable[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(16, 64, generator=generator) / 4, torch.randn(64, 8, generator=generator) / 8
    draw = torch.Generator().manual_seed(100 + seed)
    while True:
        x = torch.randn(64, 16, generator=draw)
        yield x, 4 * torch.tanh(x @ a) @ b


def by_roles(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return optim.SteepestDescent(optim.param_groups_by_role(model), lr=lr)


# One grid of factor 2 for each rule, wide enough that no optimum lies on its border.
RULES: dict[str, tuple[Make, range]] = {"auto": (by_roles, range(-7, 0)), "AdamW": (adamw, range(-10, -2))}


@functools.cache
def width_study(full: bool) -> dict[str, dict[int, dict[int, float]]]:
    """Final loss by rule, width and the binary logarithm of the learning rate."""
    widths = (64, 256, 1024) if full else (16, 256)
    steps, seeds = (200, 3) if full else (80, 1)
    found: dict[str, dict[int, dict[int, float]]] = {}
    for name, (make, grid) in RULES.items():
        for width in widths:
            for power in grid:
                losses = []
                for seed in range(seeds):
                    model = student(width, seed)
                    losses.append(
                        train(model, make(model, 2.0**power), of_teacher(seed), steps, nn.functional.mse_loss)
                    )
                found.setdefault(name, {}).setdefault(width, {})[power] = mean(losses)
    return found


def optima(full: bool, rule: str) -> tuple[int, str]:
    powers = {width: best(losses) for width, losses in width_study(full)[rule].items()}
    note = ", ".join(f"width {width}: 2^{power}" for width, power in powers.items())
    return max(powers.values()) - min(powers.values()), note


@claim(
    paper="Old Optimizer, New Norm: An Anthology",
    method=optim.SteepestDescent,
    says="with a norm for each role the best learning rate moves by at most one point of a grid of factor 2 over widths",
    at_most=1.0,
)
def learning_rates_over_widths(scale: Scale) -> Measured:
    moved, note = optima(scale.full, "auto")
    return Measured(moved, unit="grid points", note=note)


@claim(
    paper="Old Optimizer, New Norm: An Anthology",
    method=optim.SteepestDescent,
    says="AdamW's best learning rate moves by at least two points over the same widths",
    at_least=2.0,
)
def learning_rates_of_adamw(scale: Scale) -> Measured:
    moved, note = optima(scale.full, "AdamW")
    return Measured(moved, unit="grid points", note=note)


@claim(
    paper="Old Optimizer, New Norm: An Anthology",
    method=optim.SteepestDescent,
    says="the loss at the best learning rate is at most AdamW's, at every width",
    at_most=1.0,
)
def best_losses(scale: Scale) -> Measured:
    study = width_study(scale.full)
    ratios = {w: min(losses.values()) / min(study["AdamW"][w].values()) for w, losses in study["auto"].items()}
    note = ", ".join(f"width {w}: {ratio:.2f}" for w, ratio in ratios.items())
    return Measured(max(ratios.values()), unit="x the loss of AdamW", note=note)


def hidden_matrices(layers: int, d: int = 256) -> list[nn.Parameter]:
    """The matrices of a transformer's layers, with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)] * layers
    params = [nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
    for p in params:
        p.grad = 0.01 * torch.randn(p.shape, generator=generator)
    return params


@claim(
    paper="Old Optimizer, New Norm: An Anthology",
    method=optim.SteepestDescent,
    says="a step of a transformer's hidden matrices under the spectral norm takes at most 1.2 times its matrix products",
    at_most=1.2,
)
def time_over_products(scale: Scale) -> Measured:
    params = hidden_matrices(scale(quick=6, full=12))
    optimizer = optim.SteepestDescent(params, norm="spectral")
    dtype = product_dtype(params[0], "auto", (256, 256))
    alike = Counter(tuple(sorted(p.shape, reverse=True)) for p in params)
    tall = [torch.randn(count, *shape).to(dtype) for shape, count in alike.items()]

    def products() -> None:
        for X in tall:
            for _ in range(5):
                G = X.mT @ X
                X @ (G @ G)

    # The fastest of many in turns: both are the same products, whose time varies with what else the machine does.
    times: dict[str, list[float]] = {"step": [], "products": []}
    for _ in range(10):
        for name, call in (("step", optimizer.step), ("products", products)):
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    step, bound = min(times["step"]), min(times["products"])
    return Measured(
        step / bound, unit="x the products", note=f"{step * 1e3:.1f} ms and {bound * 1e3:.1f} ms in {dtype}"
    )
