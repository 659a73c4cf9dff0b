"""One training run with any optimizer, of this room or of torch: the loop behind comparisons and protocols."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Loss = Literal["cross_entropy", "mse"] | Callable[[Any, Tensor], Tensor]
Schedule = Literal["constant", "linear", "cosine"] | Callable[[float], float]


@dataclass
class Run:
    """What a training run gave.

    Parameters
    ----------
    losses : of each step's batch, before the step; a diverged run is filled up with infinities
    seconds : from the start to the end of each step
    final : the measure at the end: the loss on held-out data, or the mean over the last tenth of the steps
    curve : steps taken and the measure there, where it was asked for on the way

    Examples
    --------
    >>> Run([2.0, 1.0], [0.1, 0.2], 0.9).final
    0.9
    """

    losses: list[float]
    seconds: list[float]
    final: float
    curve: list[tuple[int, float]] = field(default_factory=list)


def loss_function(loss: Loss) -> Callable[[Any, Tensor], Tensor]:
    """The function behind the name of a loss.

    Parameters
    ----------
    loss : "cross_entropy", "mse" or a function of outputs and targets

    Returns
    -------
    A function of outputs and targets that gives the mean loss.

    Examples
    --------
    >>> loss_function("mse")(torch.ones(2), torch.zeros(2))
    tensor(1.)
    """
    if callable(loss):
        return loss
    if loss == "cross_entropy":
        return lambda out, y: nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
    if loss == "mse":
        return nn.functional.mse_loss
    raise ValueError(f"loss must be 'cross_entropy', 'mse' or a function of outputs and targets, got {loss!r}")


def minibatches(x: Tensor, y: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, in a new order for every pass over the data.

    Parameters
    ----------
    x, y : inputs and targets with one row a sample
    size : rows of a batch; of all of them or more, the whole data in their order
    seed : of the orders

    Yields
    ------
    Inputs and targets of a batch; a last incomplete batch of a pass is left out.

    Returns
    -------
    An iterator.

    Examples
    --------
    >>> next(minibatches(torch.arange(4), torch.arange(4), 2, seed=0))[0].shape
    torch.Size([2])
    """
    n = len(x)
    if size >= n:
        while True:
            yield x, y
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(n, generator=generator).to(x.device)
        for first in range(0, n - size + 1, size):
            rows = order[first : first + size]
            yield x[rows], y[rows]


def factor(schedule: Schedule, progress: float) -> float:
    """By what a schedule multiplies the learning rate.

    Parameters
    ----------
    schedule : "constant", "linear" (to zero), "cosine" or a function of progress
    progress : steps taken over all steps, from 0 to 1

    Returns
    -------
    A number of at least 0.

    Examples
    --------
    >>> factor("linear", 0.25)
    0.75
    """
    if callable(schedule):
        return schedule(progress)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * progress)
    raise ValueError(f"schedule must be 'constant', 'linear', 'cosine' or a function, got {schedule!r}")


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    *,
    loss: Loss = "cross_entropy",
    schedule: Schedule = "linear",
    warmup: int = 0,
    measure: Callable[[nn.Module], float] | None = None,
    every: int | None = None,
    target: float | None = None,
) -> Run:
    """Train a model for a number of steps.

    Parameters
    ----------
    model : trained in place
    optimizer : of its parameters; `needs` of the optimizers of this room is met
    batches : inputs and targets
    steps : how many
    loss : of outputs and targets
    schedule : of the learning rate
    warmup : first steps in which the rate rises linearly
    measure : of the model, at the end and every `every` steps: smaller is better
    every : None: only at the end
    target : end the run as soon as the measure is at most this

    Returns
    -------
    Losses, times and the final measure. A loss that is not finite ends the run as diverged: final is infinity.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> model = nn.Linear(1, 1)
    >>> run = train(model, torch.optim.SGD(model.parameters(), lr=0.5), minibatches(x, 2 * x, 32, 0), 50, loss="mse")
    >>> run.losses[-1] < 1e-2
    True
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    function = loss_function(loss)
    base = [group["lr"] for group in optimizer.param_groups]
    needs = getattr(optimizer, "needs", "grads")
    losses: list[float] = []
    seconds: list[float] = []
    curve: list[tuple[int, float]] = []
    model.train()
    spent = 0.0
    for number in range(steps):
        scale = factor(schedule, number / steps) * min(1.0, (number + 1) / (warmup + 1))
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = None if lr is None else lr * scale
        x, y = next(batches)
        start = time.perf_counter()
        value = _step(model, optimizer, x, y, function, loss, needs)
        spent += time.perf_counter() - start
        seconds.append(spent)
        losses.append(value)
        if not math.isfinite(value):
            losses += [math.inf] * (steps - len(losses))
            seconds += [spent] * (steps - len(seconds))
            return Run(losses, seconds, math.inf, curve)
        if every and measure is not None and (number + 1) % every == 0:
            curve.append((number + 1, _measured(model, measure)))
            if target is not None and curve[-1][1] <= target:
                return Run(losses, seconds, curve[-1][1], curve)
    tail = losses[-max(1, steps // 10) :]
    final = _measured(model, measure) if measure is not None else sum(tail) / len(tail)
    return Run(losses, seconds, final if math.isfinite(final) else math.inf, curve)


def _measured(model: nn.Module, measure: Callable[[nn.Module], float]) -> float:
    model.eval()
    with torch.no_grad():
        value = float(measure(model))
    model.train()
    return value


def _step(
    model: nn.Module,
    optimizer: Any,
    x: Tensor,
    y: Tensor,
    function: Callable[[Any, Tensor], Tensor],
    loss: Loss,
    needs: str,
) -> float:
    if needs == "jacobian":
        return float(
            optimizer.step(model, x, y, loss={"cross_entropy": "ce"}.get(loss, loss) if isinstance(loss, str) else loss)
        )
    if needs == "graph":

        def closure() -> Tensor:
            # Without backward, the optimizer builds a graph of the gradients only where it needs one.
            optimizer.zero_grad()
            return function(model(x), y)

        return float(optimizer.step(closure).detach())
    optimizer.zero_grad()
    value = function(model(x), y)
    value.backward()
    optimizer.step()
    return float(value.detach())


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of a sample and half of its 95 % interval (Student's t).

    Parameters
    ----------
    values : at least one; with one the interval is infinite

    Returns
    -------
    Mean and half width.

    Examples
    --------
    >>> mean_and_interval([1.0, 2.0, 3.0])[0]
    2.0
    """
    from scipy.stats import t

    n = len(values)
    mean = sum(values) / n
    if n < 2 or not math.isfinite(mean):
        return mean, math.inf
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
