"""One loop that trains a retriever: batches of queries, a loss, Adam with warmth and a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.random import GeneratorLike, as_generator

# Of the rows of a batch, a generator for further draws, and the share of the training that is done.
Loss = Callable[[np.ndarray, torch.Generator, float], Tensor]


def train_retriever(
    module: torch.nn.Module,
    loss: Loss,
    rows: int,
    *,
    steps: int,
    batch: int,
    rate: float,
    generator: GeneratorLike = None,
) -> list[float]:
    """Train in place and return the mean loss of each tenth; a loss that is not finite is a FloatingPointError."""
    for name, count in (("steps", steps), ("batch", batch)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {count!r}")
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate must be positive, got {rate}")
    g = as_generator(generator)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: _rate(t, steps))
    tenth = max(1, steps // 10)
    losses: list[float] = []
    recent: list[Tensor] = []
    module.train()
    for step in range(steps):
        own = torch.randint(rows, (min(batch, rows),), generator=g).numpy()
        value: Any = loss(own, g, (step + 1) / steps)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(value.detach())
        if len(recent) == tenth or step == steps - 1:
            losses.append(float(torch.stack(recent).mean()))
            recent = []
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"the loss is {losses[-1]} at step {step + 1}: lower the rate, {rate}")
    module.eval()
    return losses


def cross_entropy_of_batch(scores: Tensor, documents: np.ndarray, extra: Tensor | None = None) -> Tensor:
    """The contrastive loss of scores (b, b) whose diagonal is right, with one more wrong score (b,) per query.

    The same document for two queries of a batch is no negative of either.
    """
    same = torch.as_tensor(documents[:, None] == documents, device=scores.device)
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, -torch.inf)
    if extra is not None:
        scores = torch.cat([scores, extra[:, None]], 1)
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(documents), device=scores.device))


def check_pairs(queries: Any, documents: Any, positives: Any, negatives: Any = None) -> tuple[np.ndarray, Any]:
    """Relevant documents (q,) and other ones (q, m) of queries and documents ``(tokens, offsets)``, checked."""
    right = np.asarray(positives)
    count = len(documents[1]) - 1
    if right.shape != (len(queries[1]) - 1,):
        raise ValueError(f"positives must have one entry for each of {len(queries[1]) - 1} queries, got {right.shape}")
    if not len(right):
        raise ValueError("queries must not be empty")
    wrong = None if negatives is None else np.asarray(negatives)
    for name, rows in (("positives", right), ("negatives", wrong)):
        if rows is not None and not (rows.size and rows.min() >= 0 and rows.max() < count):
            raise ValueError(f"{name} must be numbers of documents, 0 to {count - 1}")
    if wrong is not None and (wrong.ndim != 2 or len(wrong) != len(right)):
        raise ValueError(f"negatives must have shape ({len(right)}, m), got {wrong.shape}")
    return right, wrong


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
