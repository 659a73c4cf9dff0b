"""Short trainings that claims about optimizers share."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels of scikit-learn's digits, 1347 to train on and 450 to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = ((torch.tensor(images, dtype=torch.float32) - 4.9) / 6.0)[order]
    y = torch.tensor(labels)[order]
    return x[:1347], y[:1347], x[1347:], y[1347:]


def train(model: nn.Module, optimizer: Any, batches: Iterable[tuple[Tensor, Tensor]], steps: int, loss: Any) -> float:
    """The mean loss of the last tenth of the steps, with a learning rate that falls to zero; infinity where it diverged."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    last = []
    for (x, y), step in zip(batches, range(steps), strict=False):
        optimizer.zero_grad()
        value = loss(model(x), y)
        if not math.isfinite(float(value.detach())):
            return math.inf
        value.backward()
        optimizer.step()
        schedule.step()
        if step >= steps - max(steps // 10, 1):
            last.append(float(value.detach()))
    return mean(last)


def of_digits(size: int, seed: int) -> Iterable[tuple[Tensor, Tensor]]:
    x, y, _, _ = digits()
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chunk in torch.randperm(len(x), generator=generator).split(size):
            if len(chunk) == size:
                yield x[chunk], y[chunk]


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def best(losses: dict[int, float]) -> int:
    return min(losses, key=lambda power: losses[power])
