"""A fair comparison of optimizers: tuned learning rates, several seeds, equal budgets in steps and in time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resolvent.optim.training import Loss, Run, Schedule, loss_function, mean_and_interval, minibatches, train

# Half decades around a method's own default.
_STEP = math.sqrt(10.0)
# How often a grid may grow where its best rate lies at the end.
_EXTRA = 6


@dataclass
class Entry:
    """One optimizer of a comparison.

    Parameters
    ----------
    name : as given
    lr : the best of those tried; None for a method that sets its own
    tried : final loss by learning rate, with the tuning seed
    runs : with `lr`, one for each seed, over the budget of steps
    timed : the same over the budget of seconds, where one was given
    at_edge : whether the best rate is the smallest or largest tried
    state_bytes : memory of the optimizer's state

    Examples
    --------
    >>> Entry("SGD", 0.1, {0.1: 1.0}, [Run([2.0], [0.1], 1.0)]).final[0]
    1.0
    """

    name: str
    lr: float | None
    tried: dict[float, float]
    runs: list[Run]
    timed: list[Run] = field(default_factory=list)
    at_edge: bool = False
    state_bytes: int = 0

    @property
    def final(self) -> tuple[float, float]:
        """Mean of the final losses over the seeds and half of its 95 % interval."""
        return mean_and_interval([run.final for run in self.runs])

    @property
    def final_timed(self) -> tuple[float, float] | None:
        """The same at equal time, None without a budget of seconds."""
        return mean_and_interval([run.final for run in self.timed]) if self.timed else None

    @property
    def step_seconds(self) -> float:
        """Median seconds of a training step: forward, backward and the optimizer's own."""
        spans = [b - a for run in self.runs for a, b in zip([0.0, *run.seconds], run.seconds, strict=False) if b > a]
        return statistics.median(spans) if spans else math.nan


@dataclass
class Comparison:
    """What `compare` found; prints as a table, best first.

    Parameters
    ----------
    entries : one for each optimizer, the first one the reference
    steps : budget of steps
    seconds : budget of seconds, or None
    trials : learning rates that each optimizer was given
    measure : what is compared

    Examples
    --------
    >>> run = Run([2.0, 1.0], [0.1, 0.2], 1.0)
    >>> print(Comparison([Entry("SGD", 0.1, {0.1: 1.0}, [run, run])], steps=2, seconds=None, trials=1))  # doctest: +ELLIPSIS
    optimizer  lr   loss after 2 steps  against SGD  ms per step  state
    SGD        0.1  1.0000 ± 0.0000 ...
    """

    entries: list[Entry]
    steps: int
    seconds: float | None
    trials: int
    measure: str = "loss"

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"no optimizer {name!r}; there are {', '.join(e.name for e in self.entries)}")

    def difference(self, name: str) -> tuple[float, float]:
        """How much lower than the reference's the final loss is, seed by seed.

        Parameters
        ----------
        name : of an optimizer

        Returns
        -------
        Mean difference (negative: better than the reference) and half of its 95 % interval: the seeds are paired, since
        start and batches are the same.
        """
        first, other = self.entries[0], self[name]
        return mean_and_interval([b.final - a.final for a, b in zip(first.runs, other.runs, strict=True)])

    def rows(self) -> list[dict[str, Any]]:
        """The table as data, best first.

        Returns
        -------
        A dict for each optimizer.
        """
        found = []
        for entry in sorted(self.entries, key=lambda e: e.final[0]):
            mean, half = entry.final
            delta, spread = self.difference(entry.name)
            row = {
                "optimizer": entry.name, "lr": entry.lr, "at_edge": entry.at_edge, "loss": mean, "interval": half,
                "difference": delta, "difference_interval": spread, "step_seconds": entry.step_seconds,
                "state_bytes": entry.state_bytes,
            }  # fmt: skip
            if entry.final_timed is not None:
                row["loss_timed"], row["interval_timed"] = entry.final_timed
            found.append(row)
        return found

    def _cells(self) -> list[list[str]]:
        first = self.entries[0].name
        head = [
            "optimizer",
            "lr",
            f"{self.measure} after {self.steps} steps",
            f"against {first}",
            "ms per step",
            "state",
        ]
        if self.seconds is not None:
            head.insert(4, f"{self.measure} after {self.seconds:g} s")
        lines = [head]
        for row in self.rows():
            lr = "own" if row["lr"] is None else f"{row['lr']:.3g}" + (" (edge)" if row["at_edge"] else "")
            line = [row["optimizer"], lr, _pm(row["loss"], row["interval"])]
            line.append(
                "" if row["optimizer"] == first else _pm(row["difference"], row["difference_interval"], sign=True)
            )
            if self.seconds is not None:
                line.append(_pm(row["loss_timed"], row["interval_timed"]))
            lines.append([*line, f"{1e3 * row['step_seconds']:.1f}", _bytes(row["state_bytes"])])
        return lines

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)

    def to_markdown(self) -> str:
        """The table for a page.

        Returns
        -------
        Markdown.
        """
        head, *rest = self._cells()
        lines = [head, ["---"] * len(head), *rest]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def plot(self, path: str | Path | None = None, *, against: str = "steps", axes: Any = None) -> Any:
        """Draw the losses over the steps or over the seconds, the mean of the seeds and their range.

        Parameters
        ----------
        path : where to save the picture; None: nowhere
        against : "steps" or "seconds"
        axes : of matplotlib; None makes a figure

        Returns
        -------
        The axes.

        Raises
        ------
        ImportError : matplotlib is not installed (`pip install resolvent[plot]`).
        """
        if against not in ("steps", "seconds"):
            raise ValueError(f"against must be 'steps' or 'seconds', got {against!r}")
        from resolvent.optim.curves import draw_runs

        axes = draw_runs({entry.name: entry.runs for entry in self.entries}, against, axes)
        if path is not None:
            axes.figure.savefig(path, dpi=120, bbox_inches="tight")
        return axes


def compare(
    model_fn: Callable[[], nn.Module],
    data: Any,
    optimizers: Mapping[str, Any],
    budget: int | tuple[int, float],
    *,
    loss: Loss = "cross_entropy",
    batch_size: int = 128,
    seeds: int = 3,
    lrs: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    trials: int = 7,
    schedule: Schedule = "linear",
    warmup: int = 0,
) -> Comparison:
    """Compare optimizers on a task: every one with its own best learning rate, the same starts and the same batches.

    Parameters
    ----------
    model_fn : makes a new model; called under a seed, so that all optimizers start alike
    data : (inputs, targets), or ((inputs, targets), (inputs, targets)) for training and held-out data
    optimizers : name and either a class, called as `cls(model.parameters(), lr=lr)` (with the model where it needs hooks), or a function
        `f(model, lr)`. The first one is the reference. A class whose `lr` is None by default (`OASIS`), and a function with the
        attribute `own_lr = True`, set their own rate and get None
    budget : steps, or (steps, seconds): then also runs whose number of steps is what fits into the seconds
    loss : "cross_entropy", "mse" or a function of outputs and targets
    batch_size : rows a step
    seeds : final runs for each optimizer; the intervals come from them
    lrs : learning rates to try, for all or by name; None: `trials` half decades around the method's default
    trials : how many
    schedule, warmup : of the learning rate, alike for all

    Returns
    -------
    A `Comparison`: prints as a table with 95 % intervals, and differences to the reference over paired seeds; draws.

    Raises
    ------
    ValueError : no optimizers, no data, a budget below 1.

    Notes
    -----
    Learning rates are tuned with a seed of their own, each trial over the whole budget of steps; where the best rate lies at
    the end of the grid, one more in that direction is tried, up to six times, and the table says so if it still is the end.
    Runs of different optimizers take turns, so that a slow second of the machine meets all of them.
    Cost: optimizers x (trials + seeds) runs.

    Examples
    --------
    >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> found = compare(
    ...     lambda: nn.Linear(4, 1), (x, x.sum(1, keepdim=True)),
    ...     {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}, 40, loss="mse", batch_size=64, seeds=2, trials=5,
    ... )
    >>> found["SGD"].final[0] < 1e-3
    True
    """
    steps, seconds = (budget, None) if isinstance(budget, int) else budget
    if not optimizers:
        raise ValueError("optimizers must name at least one optimizer")
    if steps < 1 or (seconds is not None and seconds <= 0) or seeds < 1 or trials < 1:
        raise ValueError("budget, seeds and trials must be positive")
    task = _Task(model_fn, *_split(data), loss, batch_size, schedule, warmup)
    grids = {name: _grid(name, make, model_fn, lrs, trials) for name, make in optimizers.items()}
    tuned = _tune(task, optimizers, grids, steps, extend=lrs is None)
    entries = {name: Entry(name, *tuned[name], runs=[]) for name in optimizers}
    for name, entry in entries.items():
        low, high = min(entry.tried, default=0.0), max(entry.tried, default=0.0)
        entry.at_edge = len(entry.tried) > 1 and entry.lr in (low, high)
        del name
    for seed in range(seeds):
        for name, make in optimizers.items():
            run, size = task.run(make, entries[name].lr, seed, steps)
            entries[name].runs.append(run)
            entries[name].state_bytes = size
    if seconds is not None:
        for seed in range(seeds):
            for name, make in optimizers.items():
                fits = max(1, int(seconds / entries[name].step_seconds))
                entries[name].timed.append(task.run(make, entries[name].lr, seed, fits)[0])
    return Comparison(list(entries.values()), steps, seconds, trials, task.measure_name)


@dataclass
class _Task:
    model_fn: Callable[[], nn.Module]
    train_data: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor] | None
    loss: Loss
    batch_size: int
    schedule: Schedule
    warmup: int

    @property
    def measure_name(self) -> str:
        return "loss" if self.held_out is None else "held-out loss"

    def _measure(self, model: nn.Module) -> float:
        if self.held_out is None:
            raise RuntimeError("there is no held-out data")
        function, (x, y) = loss_function(self.loss), self.held_out
        parts = [(len(a), float(function(model(a), b))) for a, b in zip(x.split(1024), y.split(1024), strict=True)]
        return sum(n * value for n, value in parts) / len(x)

    def run(self, make: Any, lr: float | None, seed: int, steps: int) -> tuple[Run, int]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.model_fn()
            optimizer = _made(make, model, lr)
            run = train(
                model, optimizer, minibatches(*self.train_data, self.batch_size, seed), steps, loss=self.loss,
                schedule=self.schedule, warmup=self.warmup, measure=self._measure if self.held_out is not None else None,
            )  # fmt: skip
        return run, _state_bytes(optimizer)


def _split(data: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError("data must be (inputs, targets) or ((inputs, targets), (inputs, targets))")
    pairs = [data] if isinstance(data[0], Tensor) else list(data)
    for x, y in pairs:
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or len(x) != len(y) or len(x) == 0:
            raise ValueError("data: inputs and targets must be tensors with equally many rows, at least one")
    return tuple(pairs[0]), tuple(pairs[1]) if len(pairs) == 2 else None  # type: ignore[return-value]


def _made(make: Any, model: nn.Module, lr: float | None) -> Any:
    if isinstance(make, type):
        # One that reads the layers themselves gets the model.
        return make(model if getattr(make, "needs", "") == "hooks" else model.parameters(), lr=lr)
    return make(model, lr)


def _grid(name: str, make: Any, model_fn: Callable[[], nn.Module], lrs: Any, trials: int) -> list[float]:
    import inspect

    known = inspect.signature(make).parameters if isinstance(make, type) else {}
    default = known["lr"].default if "lr" in known else 1e-3
    if getattr(make, "own_lr", default is None):
        return []
    if isinstance(lrs, Mapping):
        if name not in lrs:
            raise ValueError(f"lrs has no entry for {name!r}")
        return sorted(lrs[name])
    if lrs is not None:
        return sorted(lrs)
    centre = float(default) if isinstance(default, (int, float)) and not isinstance(default, bool) else 1e-3
    return [centre * _STEP ** (i - trials // 2) for i in range(trials)]


def _tune(
    task: _Task, optimizers: Mapping[str, Any], grids: dict[str, list[float]], steps: int, extend: bool
) -> dict[str, tuple[float | None, dict[float, float]]]:
    """The best rate of each optimizer with a seed that no final run has."""
    seed, found = 10_007, {}
    for name, make in optimizers.items():
        tried = {lr: task.run(make, lr, seed, steps)[0].final for lr in grids[name]}
        for _ in range(_EXTRA if extend and tried else 0):
            best = min(tried, key=tried.__getitem__)
            if best == max(tried):
                new = best * _STEP
            elif best == min(tried):
                new = best / _STEP
            else:
                break
            tried[new] = task.run(make, new, seed, steps)[0].final
        found[name] = (min(tried, key=tried.__getitem__) if tried else None, tried)
    return found


def _state_bytes(optimizer: Any) -> int:
    def size(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size() if value.ndim or value.numel() > 1 else 0
        if isinstance(value, dict):
            return sum(size(v) for v in value.values())
        if isinstance(value, (list, tuple)):
            return sum(size(v) for v in value)
        return 0

    return sum(size(state) for state in optimizer.state.values())


def _pm(mean: float, half: float, sign: bool = False) -> str:
    if not math.isfinite(mean):
        return "diverged"
    text = f"{mean:+.4f}" if sign else f"{mean:.4f}"
    return f"{text} ± {half:.4f}" if math.isfinite(half) else text


def _bytes(n: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024  # type: ignore[assignment]
    return f"{n:.1f} GiB"
