"""Perceptrons of many widths in several parametrisations, and what training does to them: for claims about width."""

import functools
import itertools
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from resolvent import optim


@functools.cache
def digits():
    x, y = load_digits(return_X_y=True)
    x = torch.from_numpy(x).float()
    return (x - x.mean()) / x.std(), torch.from_numpy(y)


def perceptron(width, hidden=2, inputs=64, outputs=10, dtype=torch.float32):
    sizes = [inputs, *[width] * hidden, outputs]
    layers = (x for n, m in itertools.pairwise(sizes) for x in (nn.Linear(n, m, False, dtype=dtype), nn.ReLU()))
    return nn.Sequential(*list(layers)[:-1])


def prepare(kind, model, width, lr, seed, base=64):
    """Groups of a model that is drawn anew in a parametrisation; all agree with the standard one at width `base`."""
    if kind == "spectral":
        optim.spectral_init_(model, activation="relu", generator=seed)
        return optim.spectral_groups(model, lr, "sgd", base_width=base)
    if kind == "ntk":
        a, b, c = optim.abc_exponents("ntk", len(model) // 2)
        group = optim.apply_abc(model, a, b, c, width, lr=lr, sigma=2**0.5, generator=seed)[0]
        first, *rest = group["params"]
        # The weight in use moves by n^(-2a) times the gradient: the factor makes that `lr` times it at width base.
        return [{"params": [first], "lr": group["lr"]}, {"params": rest, "lr": group["lr"] * base}]
    g = torch.Generator().manual_seed(seed)
    for layer in model[::2]:
        gain = 1 if layer is model[0] else 2**0.5
        layer.weight.data.normal_(0, gain * layer.in_features**-0.5, generator=g)
    return [{"params": list(model.parameters()), "lr": lr}]


def train(model, groups, steps, batch=64, seed=0, momentum=0.0):
    """The mean loss of the last quarter of the steps."""
    x, y = digits()
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(groups, momentum=momentum)
    losses = []
    for _ in range(steps):
        rows = torch.randint(0, len(x), (batch,), generator=order)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    last = torch.stack(losses)[-max(steps // 4, 1) :].mean().item()
    return last if math.isfinite(last) else math.inf


@functools.cache
def feature_changes(kind, widths, seeds, steps=5, lr=0.0001):
    """For every width, the relative change of the features of both hidden layers after a few steps.

    The step size is small, so that no width leaves the regime in which changes add up.
    """
    x, _ = digits()
    found = {}
    for n in widths:
        total = torch.zeros(2)
        for seed in range(seeds):
            model = perceptron(n)
            groups = prepare(kind, model, n, lr, seed)
            with torch.no_grad():
                before = [model[: i + 1](x[:64]) for i in (1, 3)]
            train(model, groups, steps, seed=seed)
            with torch.no_grad():
                after = [model[: i + 1](x[:64]) for i in (1, 3)]
            total += torch.stack([(b - a).norm() / a.norm() for a, b in zip(before, after, strict=True)])
        found[n] = (total / seeds).tolist()
    return found


def slopes(found):
    """Exponents of the width, by least squares, for each layer."""
    at = torch.tensor([math.log(n) for n in found])
    values = torch.tensor([found[n] for n in found]).log()
    at = at - at.mean()
    return (at @ (values - values.mean(0)) / at.square().sum()).tolist()


@functools.cache
def best_rates(kind, widths, grid, seeds, steps):
    """For every width, the exponent of two of the step size with the least loss, and the losses."""
    found = {}
    for n in widths:
        losses = []
        for power in grid:
            runs = []
            for seed in range(seeds):
                model = perceptron(n)
                runs.append(train(model, prepare(kind, model, n, 2.0**power, seed), steps, seed=seed))
            losses.append(sum(runs) / seeds)
        found[n] = (grid[min(range(len(grid)), key=losses.__getitem__)], losses)
    return found
