"""What the stages of a distillation share: the weighted loss, batches of any kind of texts, the teachers' vectors, steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.operators.threads import one_thread
from resolvent.search.distill_losses import cosine_loss, relative_similarity_loss, similarity_loss, unit_rows

# A batch up to this size compares all its pairs of pairs.
_ALL_PAIRS = 32
# Fewer weights gain nothing from a second thread.
_SMALL = 1_000_000


@dataclass(frozen=True)
class Objective:
    """The weighted sum of the three losses."""

    weights: tuple[float, ...]
    margin: float
    rng: torch.Generator

    def __call__(self, out: Tensor, goal: Tensor) -> Tensor:
        total = self.without_cosine(out, goal)
        return total + self.weights[0] * cosine_loss(out, goal) if self.weights[0] else total

    def without_cosine(self, out: Tensor, goal: Tensor) -> Tensor:
        """For sizes that the teacher does not have."""
        _, similarity, order = self.weights
        total = out.sum() * 0
        if similarity:
            total = total + similarity * similarity_loss(out, goal)
        if order:
            shifts = None if len(out) <= _ALL_PAIRS else 8
            total = total + order * relative_similarity_loss(out, goal, self.margin, shifts=shifts, generator=self.rng)
        return total


def check_training(objective: Objective, epochs: Sequence[int], batch: int, rate: float) -> None:
    weights = objective.weights
    if len(weights) != 3 or not all(w >= 0 for w in weights) or not any(weights):
        raise ValueError(f"weights must be three numbers of at least 0 that are not all 0, got {weights!r}")
    if not objective.margin >= 0:
        raise ValueError(f"margin must be at least 0, got {objective.margin!r}")
    if any(isinstance(e, bool) or not isinstance(e, int) or e < 0 for e in epochs):
        raise ValueError(f"epochs must be ints of at least 0, got {epochs!r}")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 3 or not rate > 0:
        raise ValueError(f"batch must be an int of at least 3 and rate positive, got {batch!r} and {rate!r}")


def length(texts: Any) -> int:
    """How many there are; a sparse matrix has no len."""
    return int(texts.shape[0]) if hasattr(texts, "shape") else len(texts)


def take(texts: Any, index: np.ndarray) -> Any:
    if isinstance(texts, Tensor):
        return texts[torch.from_numpy(index).to(texts.device)]
    return texts[index] if hasattr(texts, "shape") else [texts[i] for i in index.tolist()]


def features_of(student: torch.nn.Module, part: Any) -> Tensor:
    features = student(part)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"student must return a tensor of shape (b, width), got {shape}")
    return features


def by_batches(function: Callable[[Any], Any], texts: Any, batch: int) -> Tensor:
    """A function of batches on all texts, without gradients."""
    with torch.no_grad():
        parts = np.arange(length(texts)), range(batch, length(texts), batch)
        return torch.cat([torch.as_tensor(function(take(texts, part))) for part in np.split(*parts)])


def teacher_vectors(teachers: Any, texts: Any, batch: int) -> Tensor:
    """Normalised vectors of all teachers side by side, normalised again."""
    count = length(texts)
    if not count:
        raise ValueError("texts must be at least one, got none")
    alone = callable(teachers) or hasattr(teachers, "shape")
    found = []
    for i, teacher in enumerate([teachers] if alone else list(teachers)):
        name = "teachers" if alone else f"teachers[{i}]"
        vectors = by_batches(teacher, texts, batch) if callable(teacher) else teacher
        t, _ = as_tensor(vectors, name)
        if t.ndim != 2 or len(t) != count:
            raise ValueError(f"{name} must give {count} vectors, one for each text, got shape {tuple(t.shape)}")
        check_finite(t, name)
        found.append(unit_rows(t.detach(), name))
    if not found:
        raise ValueError("teachers must be at least one, got none")
    joined = torch.cat([t.to(found[0].device) for t in found], 1)
    return (joined / len(found) ** 0.5).to(torch.get_default_dtype())


def train(
    step: Callable[[Any, Tensor], Tensor],
    parameters: list[torch.nn.Parameter],
    texts: Any,
    target: Tensor,
    epochs: int,
    batch: int,
    rate: float,
    rng: torch.Generator,
) -> list[float]:
    """Mean losses of the epochs."""
    if not epochs or not parameters:
        return []
    count = len(target)
    batches = max(1, count // batch)
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    losses = []
    with one_thread(sum(p.numel() for p in parameters) < _SMALL), torch.enable_grad():
        for _ in range(epochs):
            total = target.new_zeros(())
            order = torch.randperm(count, generator=rng, device=rng.device).cpu()
            # The rest of the last batch waits for the next epoch: its few pairs would count as much as all of another.
            for chosen in order[: batches * batch].chunk(batches):
                loss = step(take(texts, chosen.numpy()), target[chosen.to(target.device)])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += loss.detach()
            losses.append(float(total) / batches)
    if not all(value == value for value in losses):
        raise ValueError(f"the loss became NaN: try a rate below {rate:g}")
    return losses
