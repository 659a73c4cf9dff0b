"""The largest learning rate at which a fresh network begins to learn, found by training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resolvent.errors import ConvergenceError
from resolvent.optim.roles import roles
from resolvent.random import GeneratorLike, as_generator

Loss = Literal["cross-entropy", "mse"] | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MaxLR:
    """An estimate of the maximal initial learning rate.

    Attributes
    ----------
    lr : geometric mean over the trials
    ci : 95 % interval of that mean, from Student's t of the logarithms; (lr, lr) of one trial is unknown and given as (0, inf)
    trials : the maximal learning rate of every trial
    runs : how many times a network was trained

    Examples
    --------
    >>> MaxLR(0.1, (0.05, 0.2), (0.1, 0.1), 12).runs
    12
    """

    lr: float
    ci: tuple[float, float]
    trials: tuple[float, ...]
    runs: int


def max_initial_lr(
    model_fn: Callable[[], nn.Module] | nn.Module,
    data: Any,
    threshold: float = 0.2,
    epochs: int = 2,
    trials: int = 5,
    lo: float = 1e-5,
    hi: float = 1e2,
    *,
    rtol: float = 0.1,
    batch_size: int = 64,
    loss: Loss = "cross-entropy",
    metric: Literal["accuracy", "loss"] = "accuracy",
    input_scale: float = 1.0,
    generator: GeneratorLike = None,
) -> MaxLR:
    """The largest constant learning rate of SGD with which a fresh network reaches a threshold within a few epochs.

    Parameters
    ----------
    model_fn : makes a fresh model from torch's global generator, which is seeded for every trial and restored; or a
        module, which is copied for every run
    data : (inputs, targets), shuffled in every epoch; or an iterable of such batches that can be read again
    threshold : the accuracy on the training data to reach, in (0, 1]; of `metric="loss"` the mean loss
    epochs : after each of them the metric is looked at
    trials : number of random initialisations
    lo, hi : the range of learning rates
    rtol : relative width of a trial's final bracket
    batch_size : for data given as tensors
    loss : "cross-entropy", "mse", or a function of outputs and targets
    metric : "accuracy" of classes on the last axis, or "loss"
    input_scale : the learning rate of the first layer (by `roles`), relative to the others. The power law of `predict_max_lr`
        needs a small one, 0.1 for example; 0 freezes the layer.
    generator : a generator, a seed or None

    Returns
    -------
    `MaxLR`

    Raises
    ------
    ConvergenceError : no learning rate of the range reaches the threshold, or `hi` still does.
    ValueError : bad options.

    Notes
    -----
    The first trial scans from `hi` down in factors of 4, then bisects the logarithm; later trials start from the bracket of the one
    before, so that each takes about 5 runs. A run ends as soon as its loss is not finite or the threshold is reached. The same
    initialisation and order of the data serve all rates of a trial. Accuracy: `rtol`, the spread over trials (in `ci`), and
    that success need not be monotone in the rate near the edge. There are no gradients.

    References
    ----------
    "Maximal Initial Learning Rates in Deep ReLU Networks"

    Examples
    --------
    >>> x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    >>> net = lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> found = max_initial_lr(net, (x, (x[:, 0] > 0).long()), 0.8, trials=3, generator=0)
    >>> found.ci[0] < found.lr < found.ci[1]
    True
    """
    _check_options(threshold, epochs, trials, lo, hi, rtol, batch_size, metric, input_scale)
    search = _Search(model_fn, _batches(data, batch_size), _loss(loss), threshold, epochs, metric, input_scale)
    seeds = torch.randint(2**62, (trials,), generator=as_generator(generator)).tolist()
    found: list[float] = []
    for seed in seeds:
        found.append(search.edge(int(seed), lo, hi, rtol, found[-1] if found else None))
    logs = torch.tensor(found, dtype=torch.float64).log()
    centre, spread = float(logs.mean()), 0.0
    if trials > 1:
        from scipy.stats import t

        spread = float(t.ppf(0.975, trials - 1)) * float(logs.std()) / math.sqrt(trials)
    ci = (math.exp(centre - spread), math.exp(centre + spread)) if trials > 1 else (0.0, math.inf)
    return MaxLR(math.exp(centre), ci, tuple(found), search.runs)


class _Search:
    """Runs of one network, and the edge between the rates that work and those that do not."""

    def __init__(
        self, model_fn: Any, batches: Callable[[torch.Generator], Iterator[Any]], loss: Callable[[Tensor, Tensor], Tensor],
        threshold: float, epochs: int, metric: str, input_scale: float,
    ) -> None:  # fmt: skip
        self.model_fn, self.batches, self.loss = model_fn, batches, loss
        self.threshold, self.epochs, self.metric, self.input_scale = threshold, epochs, metric, input_scale
        self.runs = 0

    def edge(self, seed: int, lo: float, hi: float, rtol: float, guess: float | None) -> float:
        """The middle of a bracket (works, fails) of relative width rtol."""
        low, high = self._bracket(seed, lo, hi, guess)
        while high / low > 1 + rtol:
            middle = math.sqrt(low * high)
            if self.works(seed, middle):
                low = middle
            else:
                high = middle
        return math.sqrt(low * high)

    def _bracket(self, seed: int, lo: float, hi: float, guess: float | None) -> tuple[float, float]:
        step = 4.0 if guess is None else 1.5
        high = hi if guess is None else min(hi, guess * step)
        while self.works(seed, high):
            if high >= hi:
                raise ConvergenceError(
                    f"max_initial_lr: hi={hi:g} still reaches the threshold; give a larger one", best=hi
                )
            low, high = high, min(hi, high * step)
            if not self.works(seed, high):
                return low, high
        low = high / step
        while not self.works(seed, max(low, lo)):
            if low <= lo:
                raise ConvergenceError(
                    f"max_initial_lr: no rate from {lo:g} to {hi:g} reaches {self.metric} {self.threshold:g} in {self.epochs} epochs"
                )
            low, high = low / step, max(low, lo)
        return max(low, lo), high

    def works(self, seed: int, lr: float) -> bool:
        """Whether a fresh network reaches the threshold."""
        self.runs += 1
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = isinstance(self.model_fn, nn.Module)
            model: nn.Module = copy.deepcopy(self.model_fn) if fresh else self.model_fn()
            optimizer = torch.optim.SGD(self._groups(model, lr), lr=lr)
            order = torch.Generator().manual_seed(seed)
            for _ in range(self.epochs):
                for x, y in self.batches(order):
                    value = self.loss(model(x), y)
                    if not math.isfinite(float(value.detach())):
                        return False
                    optimizer.zero_grad()
                    value.backward()
                    optimizer.step()
                if self._reached(model):
                    return True
        return False

    def _groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        if self.input_scale == 1:
            return [{"params": list(model.parameters())}]
        names = [name for name, role in roles(model).items() if role == "input"]
        if not names:
            raise ValueError("input_scale: the model has no input layer apart from its readout; leave input_scale at 1")
        layers = {name.rpartition(".")[0] for name in names}
        first = [p for name, p in model.named_parameters() if name.rpartition(".")[0] in layers]
        chosen = {id(p) for p in first}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        return [{"params": first, "lr": lr * self.input_scale}, {"params": rest}]

    def _reached(self, model: nn.Module) -> bool:
        total, count = 0.0, 0
        training = model.training
        model.eval()
        with torch.no_grad():
            for x, y in self.batches(torch.Generator()):
                outputs = model(x)
                if self.metric == "accuracy":
                    total += float((outputs.argmax(-1) == y).sum())
                    count += y.numel()
                else:
                    total += float(self.loss(outputs, y)) * len(x)
                    count += len(x)
        model.train(training)
        value = total / count
        return value >= self.threshold if self.metric == "accuracy" else value <= self.threshold


def _batches(data: Any, batch_size: int) -> Callable[[torch.Generator], Iterator[Any]]:
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        if len(x) != len(y) or not len(x):
            raise ValueError(f"data must be inputs and targets of equal length, got {len(x)} and {len(y)}")

        def shuffled(g: torch.Generator) -> Iterator[Any]:
            for chosen in torch.randperm(len(x), generator=g).split(batch_size):
                at = chosen.to(x.device)
                yield x[at], y[at]

        return shuffled
    if not isinstance(data, Iterable) or iter(data) is data:
        raise TypeError("data must be (inputs, targets) or an iterable of such batches that can be read again")
    return lambda _: iter(data)


def _loss(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    if callable(loss):
        return loss
    if loss not in ("cross-entropy", "mse"):
        raise ValueError(f"loss must be 'cross-entropy', 'mse' or callable, got {loss!r}")
    return nn.functional.cross_entropy if loss == "cross-entropy" else nn.functional.mse_loss


def _check_options(
    threshold: float, epochs: int, trials: int, lo: float, hi: float, rtol: float, batch_size: int, metric: str, input_scale: float
) -> None:  # fmt: skip
    if metric not in ("accuracy", "loss"):
        raise ValueError(f"metric must be 'accuracy' or 'loss', got {metric!r}")
    if not threshold > 0 or (metric == "accuracy" and threshold > 1):
        raise ValueError(f"threshold must be positive, and at most 1 for accuracy, got {threshold!r}")
    for name, value in (("epochs", epochs), ("trials", trials), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if not 0 < lo < hi < math.inf:
        raise ValueError(f"lo and hi must satisfy 0 < lo < hi, got {lo!r} and {hi!r}")
    if not 0 < rtol < math.inf or not 0 <= input_scale < math.inf:
        raise ValueError(f"rtol must be positive and input_scale at least 0, got {rtol!r} and {input_scale!r}")
