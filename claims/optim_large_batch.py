"""What the reality check of large-batch optimizers claims, measured: the same tuning budget for all."""

import functools
from collections.abc import Callable, Mapping

import torch
from sklearn import datasets
from torch import nn

from resolvent import optim
from resolvent.claims import Measured, Scale, claim

Settings = Mapping[str, float]


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


@functools.cache
def task(model_fn: Callable[[], nn.Module]) -> optim.Task:
    x, y = datasets.load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float().reshape(-1, 1, 8, 8) / 8 - 1, torch.from_numpy(y)
    held = torch.arange(len(x)) % 5 == 0
    return optim.Task(model_fn, (x[~held], y[~held]), optim.error_rate(x[held], y[held]), target=0.05)


def groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay on matrices alone, for all optimizers alike."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def nag(model: nn.Module, s: Settings) -> torch.optim.Optimizer:
    return optim.NAG(groups(model, s["weight_decay"]), lr=s["lr"], momentum=1 - s["one_minus_momentum"])


def adam(model: nn.Module, s: Settings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups(model, s["weight_decay"]), lr=s["lr"], betas=(1 - s["one_minus_momentum"], 0.999))


def lars(model: nn.Module, s: Settings) -> torch.optim.Optimizer:
    return optim.LARS(groups(model, s["weight_decay"]), lr=s["lr"], momentum=1 - s["one_minus_momentum"])


def lamb(model: nn.Module, s: Settings) -> torch.optim.Optimizer:
    return optim.LAMB(groups(model, s["weight_decay"]), lr=s["lr"], betas=(1 - s["one_minus_momentum"], 0.999))


OPTIMIZERS: dict[str, Callable[[nn.Module, Settings], torch.optim.Optimizer]] = {
    "NAG": nag, "Adam": adam, "LARS": lars, "LAMB": lamb,
}  # fmt: skip
# Two decades of rates for each; the rest of the search is the same for all.
RATES = {"NAG": (1e-2, 1.0), "Adam": (1e-3, 1e-1), "LARS": (1.0, 100.0), "LAMB": (3e-3, 0.3)}


@functools.cache
def steps(
    model_fn: Callable[[], nn.Module], sizes: tuple[int, ...], budget: int, trials: int, every: int
) -> optim.StepsToTarget:
    space = {
        name: {
            **optim.SPACE, "lr": optim.Range(*RATES[name]), "one_minus_momentum": optim.Range(0.02, 0.3),
            "weight_decay": optim.Range(1e-5, 1e-2),
        }
        for name in OPTIMIZERS
    }  # fmt: skip
    return optim.steps_to_target(
        task(model_fn), OPTIMIZERS, sizes, space, steps=budget, trials=trials, seeds=3, every=every
    )


def ratio(generic: str, scale: Scale) -> Measured:
    """Steps of a generic optimizer over those of the better one of LARS and LAMB, at the worst batch size."""
    sizes = scale(quick=(512,), full=(64, 512, 1438))
    found = steps(scale(quick=network, full=convolutions), sizes, *scale(quick=(60, 16, 3), full=(300, 30, 5)))
    ratios = {n: found.of(generic, n).mean / min(found.of(name, n).mean for name in ("LARS", "LAMB")) for n in sizes}
    note = "; ".join(f"{n}: " + ", ".join(f"{k} {found.of(k, n).mean:.0f}" for k in OPTIMIZERS) for n in sizes)
    return Measured(max(ratios.values()), unit="of the steps of LARS or LAMB", note=note)


@claim(
    paper="A Large Batch Optimizer Reality Check: Traditional, Generic Optimizers Suffice Across Batch Sizes",
    method=optim.NAG,
    says="with the same tuning budget Nesterov momentum needs no more steps to a target than LARS and LAMB, at any batch size",
    at_most=1.05,
)
def nesterov_against_layerwise_rates(scale: Scale) -> Measured:
    return ratio("NAG", scale)


@claim(
    paper="A Large Batch Optimizer Reality Check: Traditional, Generic Optimizers Suffice Across Batch Sizes",
    method=optim.steps_to_target,
    says="with the same tuning budget Adam needs no more steps to a target than LARS and LAMB, at any batch size",
    at_most=1.05,
    known_miss="1.2 to 1.7 at quick scale, where 16 trials search six settings (25 to 35 steps against 21 of LARS); at full scale, "
    "30 trials with convolutions, met: 1.0 with batches of 64 (60 steps, LAMB 60), 0.64 with 512 and 0.88 with all data",
)
def adam_against_layerwise_rates(scale: Scale) -> Measured:
    return ratio("Adam", scale)
