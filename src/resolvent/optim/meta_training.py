"""Learning an optimizer: persistent evolution strategies over truncated training runs of small networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.optim.learned_rule import Meta, Moments, Rule, begin, initial_meta
from resolvent.random import GeneratorLike, as_generator


@dataclass
class PerceptronTask:
    """Classification by ReLU networks, many at once, each with its own weights and its own batches.

    Parameters
    ----------
    inputs : (samples, features)
    labels : (samples,) class numbers
    width : of the hidden layers
    hidden : how many of them
    batch : samples a step
    base_width : width at which both parametrisations have the same step sizes

    Examples
    --------
    >>> task = PerceptronTask(torch.randn(50, 4), torch.randint(0, 3, (50,)), width=8)
    >>> [tuple(w.shape) for w in task.begin(2, torch.Generator().manual_seed(0))]
    [(2, 8, 4), (2, 8), (2, 8, 8), (2, 8), (2, 3, 8), (2, 3)]
    """

    inputs: Tensor
    labels: Tensor
    width: int = 64
    hidden: int = 2
    batch: int = 64
    base_width: int = 64

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def begin(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Weights of `count` networks: hidden layers of variance 2 / fan_in, a readout of zeros, no biases."""
        sizes = [self.inputs.shape[1], *[self.width] * self.hidden]
        params = []
        for a, b in pairwise(sizes):
            params += [torch.randn(count, b, a, generator=generator) * math.sqrt(2 / a), torch.zeros(count, b)]
        return [*params, torch.zeros(count, self.classes, self.width), torch.zeros(count, self.classes)]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch for each of `count` networks."""
        which = torch.randint(0, len(self.inputs), (count, self.batch), generator=generator)
        return self.inputs[which], self.labels[which]

    def losses(self, params: Sequence[Tensor], data: tuple[Tensor, Tensor], multiplier: float = 1.0) -> Tensor:
        """Mean cross-entropy of every network; `multiplier` is that of the readout."""
        x, labels = data
        for k in range(0, len(params) - 2, 2):
            x = torch.relu(torch.baddbmm(params[k + 1].unsqueeze(1), x, params[k].mT))
        logits = torch.baddbmm(params[-1].unsqueeze(1), x * multiplier, params[-2].mT)
        log = torch.log_softmax(logits, -1)
        return -log.gather(-1, labels.unsqueeze(-1)).squeeze(-1).mean(-1)

    def scales(self, parametrization: str) -> tuple[list[float], float]:
        """Of the step of each tensor, and of the readout."""
        ratio = self.base_width / self.width if parametrization == "mup" else 1.0
        steps = [1.0, 1.0] + [ratio, 1.0] * (self.hidden - 1) + [1.0, 1.0]
        return steps, ratio


@dataclass
class _Runs:
    """Antithetic pairs in the middle of their training runs: particle i and i + pairs are one pair."""

    params: list[Tensor]
    states: list[Moments]
    taken: Tensor
    length: Tensor
    drift: Tensor  # (pairs, meta-parameters): the sum of a pair's perturbations since its run began


def meta_train(
    task_sampler: Callable[[torch.Generator], PerceptronTask] | PerceptronTask,
    steps: int = 300,
    *,
    parametrization: Literal["mup", "sp"] = "mup",
    hidden: int = 4,
    layers: int = 2,
    pairs: int = 16,
    truncation: int = 50,
    longest: int = 1000,
    shortest: int = 100,
    sigma: float = 0.01,
    lr: float = 3e-3,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    generator: GeneratorLike = None,
    start: Meta | None = None,
    callback: Callable[[int, float, Meta], Any] | None = None,
) -> Meta:
    r"""Learn the meta-parameters of `LearnedOptimizer` by persistent evolution strategies.

    Parameters
    ----------
    task_sampler : a task, or a function of a generator that gives one
    steps : of the meta-optimizer
    parametrization : "mup" scales steps of hidden matrices and the readout with the width; "sp" does not
    hidden, layers : of the perceptron
    pairs : antithetic pairs of training runs, all stepped together
    truncation : inner steps between two steps of the meta-optimizer
    longest, shortest : a run's length is log-uniform between these
    sigma : deviation of a perturbation
    lr, clip, weight_decay : of AdamW on the meta-parameters; `clip` bounds the norm of its gradient
    generator : a `torch.Generator`, an int or None
    start : meta-parameters to go on from
    callback : called with the step's number, the mean loss and the meta-parameters

    Returns
    -------
    dict of tensors, which `LearnedOptimizer` takes as `meta`.

    Raises
    ------
    ValueError : sizes or rates out of range.

    Notes
    -----
    Each pair runs with :math:`\theta \pm \sigma \epsilon` for a truncation; with :math:`\xi` the sum of its perturbations since
    its run began and :math:`L^\pm` the mean losses of the truncation, the gradient is the mean of
    :math:`\xi (L^+ - L^-) / 2 \sigma^2`: unbiased for the whole run though only a piece of it is at hand. A run that is over starts
    anew with a fresh network; runs begin at different ages. A loss is cut at three times that of guessing. All pairs are one
    batch of matrix products. No gradients with respect to the task.

    References
    ----------
    "μLO: Compute-Efficient Meta-Generalization of Learned Optimizers"

    Examples
    --------
    >>> task = PerceptronTask(torch.randn(50, 4), torch.randint(0, 3, (50,)), width=8, base_width=8)
    >>> meta = meta_train(task, steps=1, pairs=2, truncation=2, shortest=2, longest=4, generator=0)
    >>> meta["w0"].shape
    torch.Size([39, 4])
    """
    for name, value in (("steps", steps), ("pairs", pairs), ("truncation", truncation), ("hidden", hidden)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if parametrization not in ("mup", "sp"):
        raise ValueError(f"parametrization must be 'mup' or 'sp', got {parametrization!r}")
    if not truncation <= shortest <= longest:
        raise ValueError(f"truncation <= shortest <= longest must hold, got {truncation}, {shortest}, {longest}")
    if not (sigma > 0 and lr > 0 and clip > 0):
        raise ValueError(f"sigma, lr and clip must be above 0, got {sigma}, {lr}, {clip}")
    g = as_generator(generator)
    task = task_sampler if isinstance(task_sampler, PerceptronTask) else task_sampler(g)
    meta = {name: t.detach().clone() for name, t in (start or initial_meta(hidden, layers, g)).items()}
    flat = torch.nn.Parameter(torch.cat([t.flatten() for t in meta.values()]))
    outer = torch.optim.AdamW([flat], lr=lr, weight_decay=weight_decay)
    runs = _begin(task, pairs, flat.numel(), (shortest, longest), g)
    for k in range(steps):
        noise = sigma * torch.randn(pairs, flat.numel(), generator=g)
        theta = flat.detach() + torch.cat([noise, -noise])
        rule = Rule.of(_unflatten(theta, meta), theta)
        losses = _unroll(task, runs, rule, truncation, parametrization, g)
        runs.drift += noise
        with torch.no_grad():
            gap = losses[:pairs] - losses[pairs:]
            flat.grad = (runs.drift * gap[:, None]).mean(0) / (2 * sigma**2)
            torch.nn.utils.clip_grad_norm_([flat], clip)
            # the paper's schedule: linear warmup, then a cosine to a tenth
            progress = min(1.0, (k + 1) / max(1, steps // 20)) * (0.55 + 0.45 * math.cos(math.pi * k / steps))
            outer.param_groups[0]["lr"] = lr * progress
            outer.step()
            _restart(task, runs, (shortest, longest), g)
        if callback is not None:
            callback(k, float(losses.mean()), _single(flat, meta))
    return _single(flat, meta)


def _single(flat: Tensor, meta: Meta) -> Meta:
    return {name: t[0].clone() for name, t in _unflatten(flat.detach()[None], meta).items()}


def _unflatten(theta: Tensor, meta: Meta) -> Meta:
    """Meta-parameters of every particle."""
    parts = theta.split([t.numel() for t in meta.values()], 1)
    return {name: part.reshape(-1, *t.shape) for (name, t), part in zip(meta.items(), parts, strict=True)}


def _lengths(count: int, span: tuple[int, int], generator: torch.Generator) -> Tensor:
    low, high = math.log(span[0]), math.log(span[1])
    return torch.exp(low + (high - low) * torch.rand(count, generator=generator)).round()


def _begin(task: PerceptronTask, pairs: int, size: int, span: tuple[int, int], g: torch.Generator) -> _Runs:
    # both runs of a pair start from the same network
    params = [torch.cat([p, p]) for p in task.begin(pairs, g)]
    states = [begin(p) for p in params]
    # lengths at the start are uniform from zero, so that the runs do not end together
    length = (_lengths(pairs, span, g) * torch.rand(pairs, generator=g)).repeat(2)
    return _Runs(params, states, torch.zeros(2 * pairs), length, torch.zeros(pairs, size))


def _restart(task: PerceptronTask, runs: _Runs, span: tuple[int, int], g: torch.Generator) -> None:
    pairs = len(runs.drift)
    over = (runs.taken >= runs.length)[:pairs].nonzero().flatten()
    if not len(over):
        return
    both = torch.cat([over, over + pairs])
    for p, state, new in zip(runs.params, runs.states, task.begin(len(over), g), strict=True):
        p[both] = torch.cat([new, new])
        for moment in state.values():
            moment[both] = 0
    runs.taken[both] = 0
    runs.length[both] = _lengths(len(over), span, g).repeat(2)
    runs.drift[over] = 0


def _unroll(
    task: PerceptronTask, runs: _Runs, rule: Rule, steps: int, parametrization: str, g: torch.Generator
) -> Tensor:
    """Mean loss of every particle over some inner steps, which change the runs in place."""
    pairs = len(runs.drift)
    scales, multiplier = task.scales(parametrization)
    worst = 3 * math.log(task.classes)
    total = torch.zeros(2 * pairs)
    for _ in range(steps):
        x, y = task.draw(pairs, g)
        data = torch.cat([x, x]), torch.cat([y, y])
        leaves = [p.requires_grad_() for p in runs.params]
        losses = task.losses(leaves, data, multiplier)
        grads = torch.autograd.grad(losses.sum(), leaves)
        total += losses.detach().nan_to_num(worst, worst).clamp_max(worst)
        with torch.no_grad():
            for p, grad, state, scale in zip(leaves, grads, runs.states, scales, strict=True):
                p.requires_grad_(False)
                rule.advance(p, grad.nan_to_num(), state, runs.taken, scale)
        runs.taken += 1
    return total / steps
