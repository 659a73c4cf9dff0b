"""How many steps an optimizer needs to reach a target, when every optimizer is tuned with the same budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from resolvent.optim.training import minibatches, train

Settings = dict[str, float]


@dataclass(frozen=True)
class Range:
    """Values that a search tries.

    Parameters
    ----------
    low, high : the ends
    scale : "log" or "linear"

    Examples
    --------
    >>> round(Range(1e-4, 1.0).at(0.5), 6)
    0.01
    """

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"

    def __post_init__(self) -> None:
        if not (self.low <= self.high and (self.scale == "linear" or self.low > 0)):
            raise ValueError(f"low and high must be in order, and positive on a log scale, got {self.low}, {self.high}")

    def at(self, u: float) -> float:
        """The value at a point of the unit interval.

        Parameters
        ----------
        u : from 0 to 1

        Returns
        -------
        A number between the ends.
        """
        if self.scale == "log":
            return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.low + u * (self.high - self.low)


# What the paper searches for every optimizer alike.
SPACE: dict[str, Range | Sequence[float]] = {
    "lr": Range(1e-4, 10.0),
    "one_minus_momentum": Range(1e-2, 1.0),
    "weight_decay": Range(1e-5, 1e-1),
    "label_smoothing": (0.0, 0.1),
    "warmup": Range(0.0, 0.3, "linear"),
    "power": (1.0, 2.0),
}


@dataclass(frozen=True)
class Task:
    """A classification with a target.

    Parameters
    ----------
    model_fn : makes a new model; called under a seed
    data : inputs and class numbers for training
    measure : of the model; smaller is better, for example the error rate on held-out data
    target : the measure to reach

    Examples
    --------
    >>> x, y = torch.randn(8, 2), torch.zeros(8, dtype=torch.long)
    >>> task = Task(lambda: nn.Linear(2, 2), (x, y), error_rate(x, y), target=0.1)
    """

    model_fn: Callable[[], nn.Module]
    data: tuple[Tensor, Tensor]
    measure: Callable[[nn.Module], float]
    target: float


def error_rate(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """The share of wrong classes on data, as a measure of a model.

    Parameters
    ----------
    x, y : inputs and class numbers

    Returns
    -------
    A function of a model.

    Examples
    --------
    >>> x = torch.eye(2)
    >>> error_rate(x, torch.tensor([0, 1]))(nn.Identity())
    0.0
    """
    return lambda model: float((model(x).argmax(-1) != y).float().mean())


@dataclass
class Reached:
    """What one optimizer reached at one batch size.

    Parameters
    ----------
    optimizer, batch_size : which
    steps : median steps to the target over the runs again with the best settings; infinity where half of them fail
    mean : the mean over those that reach it
    success : share of those runs that reach it
    trials : share of the trials that reached it
    settings : the best ones

    Examples
    --------
    >>> Reached("Adam", 64, 120.0, 121.0, 1.0, 0.4, {"lr": 0.01}).steps
    120.0
    """

    optimizer: str
    batch_size: int
    steps: float
    mean: float
    success: float
    trials: float
    settings: Settings = field(default_factory=dict)


class StepsToTarget(list[Reached]):
    """The results of `steps_to_target`; prints as a table.

    Parameters
    ----------
    rows : one for each optimizer and batch size

    Examples
    --------
    >>> print(StepsToTarget([Reached("Adam", 64, 120.0, 121.0, 1.0, 0.4, {"lr": 0.01})]))
    optimizer  batch  steps to target  reached again  trials that reached it  lr
    Adam       64     120              100%           40%                     0.01
    """

    def __str__(self) -> str:
        cells = [["optimizer", "batch", "steps to target", "reached again", "trials that reached it", "lr"]]
        for row in self:
            steps = f"{row.steps:.0f}" if math.isfinite(row.steps) else "never"
            lr = f"{row.settings['lr']:.3g}" if "lr" in row.settings else ""
            cells.append([row.optimizer, str(row.batch_size), steps, f"{row.success:.0%}", f"{row.trials:.0%}", lr])
        widths = [max(len(line[i]) for line in cells) for i in range(6)]
        return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)

    def of(self, optimizer: str, batch_size: int) -> Reached:
        """One row.

        Parameters
        ----------
        optimizer, batch_size : which

        Returns
        -------
        The row.
        """
        for row in self:
            if (row.optimizer, row.batch_size) == (optimizer, batch_size):
                return row
        raise KeyError(f"no run of {optimizer!r} with batches of {batch_size}")


def draw_settings(space: Mapping[str, Range | Sequence[float]], n: int, seed: int = 0) -> list[Settings]:
    """Quasi-random settings: a scrambled Halton sequence over a search space.

    Parameters
    ----------
    space : a `Range` or a list of choices by name
    n : how many
    seed : of the scrambling

    Returns
    -------
    Dicts of numbers.

    Examples
    --------
    >>> len({s["lr"] for s in draw_settings({"lr": Range(1e-3, 1.0)}, 5)})
    5
    """
    from scipy.stats import qmc

    if not space:
        raise ValueError("space must name at least one setting")
    points = qmc.Halton(len(space), seed=np.random.default_rng(seed)).random(n)
    return [
        {
            name: values.at(u)
            if isinstance(values, Range)
            else float(values[min(int(u * len(values)), len(values) - 1)])
            for (name, values), u in zip(space.items(), point, strict=True)
        }
        for point in points
    ]


def steps_to_target(
    task: Task,
    optimizers: Mapping[str, Callable[[nn.Module, Settings], torch.optim.Optimizer]],
    batch_sizes: Sequence[int],
    space: Mapping[str, Range | Sequence[float]] | Mapping[str, Mapping[str, Range | Sequence[float]]] | None = None,
    *,
    steps: int = 500,
    trials: int = 30,
    seeds: int = 3,
    every: int = 10,
) -> StepsToTarget:
    """Tune every optimizer with the same budget at every batch size, and count its steps to a target.

    Parameters
    ----------
    task : model, data, measure and target
    optimizers : name and a function of the model and the settings that makes the optimizer
    batch_sizes : rows of a batch; as many as there are data, or more: the full gradient
    space : settings to search, for all optimizers alike or by optimizer; None: rate, momentum, weight decay, label smoothing, share
        of warmup, power of the decay
    steps : budget of one run
    trials : runs with different settings, for each optimizer and batch size
    seeds : runs again with the best settings
    every : how often the measure is taken

    Returns
    -------
    A list of `Reached` that prints as a table.

    Raises
    ------
    ValueError : no optimizers, budgets below 1.

    Notes
    -----
    All optimizers see the same quasi-random points, starts, batches and schedule: linear warmup, then polynomial decay to zero at the
    last step. "label_smoothing", "warmup" and "power" are the protocol's; the others are for the function that makes
    the optimizer. No optimizer has exceptions of its own.

    References
    ----------
    "A Large Batch Optimizer Reality Check: Traditional, Generic Optimizers Suffice Across Batch Sizes"

    Examples
    --------
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> task = Task(lambda: nn.Linear(2, 2), (x, y), error_rate(x, y), target=0.1)
    >>> makes = {"SGD": lambda model, s: torch.optim.SGD(model.parameters(), lr=s["lr"])}
    >>> found = steps_to_target(task, makes, [16], {"lr": Range(0.1, 1.0)}, steps=40, trials=2, seeds=2)
    >>> found.of("SGD", 16).success
    1.0
    """
    if not optimizers:
        raise ValueError("optimizers must name at least one optimizer")
    for name, value in (("steps", steps), ("trials", trials), ("seeds", seeds), ("every", every)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    found = StepsToTarget()
    for size in batch_sizes:
        for name, make in optimizers.items():
            own = _space_of(name, space)
            tried = [(_steps(task, make, s, size, steps, every, seed=10_007), s) for s in draw_settings(own, trials)]
            best, settings = min(tried, key=lambda pair: pair[0])
            again = [math.inf]
            if math.isfinite(best):
                again = [_steps(task, make, settings, size, steps, every, seed) for seed in range(seeds)]
            hits = [n for n in again if math.isfinite(n)]
            found.append(
                Reached(
                    name,
                    size,
                    statistics.median(again),
                    statistics.fmean(hits) if hits else math.inf,
                    len(hits) / len(again),
                    sum(math.isfinite(n) for n, _ in tried) / trials,
                    settings,
                )
            )
    return found


def _space_of(name: str, space: Any) -> Mapping[str, Range | Sequence[float]]:
    if space is None:
        return SPACE
    if any(isinstance(value, Mapping) for value in space.values()):
        if name not in space:
            raise ValueError(f"space has no entry for {name!r}")
        return space[name]  # type: ignore[no-any-return]
    return space  # type: ignore[no-any-return]


def _steps(task: Task, make: Any, settings: Settings, size: int, steps: int, every: int, seed: int) -> float:
    """Steps of one run to the target, infinity where it is not reached."""
    smoothing, power = settings.get("label_smoothing", 0.0), settings.get("power", 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = task.model_fn()
        optimizer = make(model, settings)
        run = train(
            model, optimizer, minibatches(*task.data, size, seed), steps,
            loss=lambda out, y: nn.functional.cross_entropy(out, y, label_smoothing=smoothing),
            schedule=lambda progress: (1 - progress) ** power, warmup=int(settings.get("warmup", 0.0) * steps),
            measure=task.measure, every=every, target=task.target,
        )  # fmt: skip
    return float(run.curve[-1][0]) if run.curve and run.curve[-1][1] <= task.target else math.inf
