"""Train a small encoder to give the vectors of large ones, and shorter vectors of its own, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import give_back
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.distill_losses import cosine_loss, unit_rows
from resolvent.search.distill_training import (
    Objective,
    by_batches,
    check_training,
    features_of,
    length,
    take,
    teacher_vectors,
    train,
)


class DistilledEncoder(torch.nn.Module):
    """An encoder with a head for each size of its vectors: what `distill_embeddings` trains.

    Parameters
    ----------
    student : module from a batch of texts to (b, width) features
    width : of its features
    dims : sizes of the vectors, the teacher's first
    generator : of the heads

    Attributes
    ----------
    dims : sizes that `encode` can give

    Examples
    --------
    >>> encoder = DistilledEncoder(torch.nn.Identity(), 3, (8, 2), generator=0)
    >>> encoder.encode(torch.eye(3), 2).shape, encoder.dims
    (torch.Size([3, 2]), (8, 2))
    """

    def __init__(
        self, student: torch.nn.Module, width: int, dims: Sequence[int], *, generator: GeneratorLike = None
    ) -> None:
        super().__init__()
        sizes = [int(dim) for dim in dims]
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ValueError(f"dims must be different sizes of at least 1, got {tuple(dims)!r}")
        rng = as_generator(generator)
        self.student = student
        self.heads = torch.nn.ModuleDict({str(dim): torch.nn.Linear(width, dim) for dim in sizes})
        with torch.no_grad():
            for head in self.linear_heads():
                head.weight.copy_(torch.randn(head.weight.shape, generator=rng) / width**0.5)
                head.bias.zero_()

    @property
    def dims(self) -> tuple[int, ...]:
        """The sizes of vectors, the teacher's first."""
        return tuple(int(name) for name in self.heads)

    def linear_heads(self) -> list[torch.nn.Linear]:
        """The heads, in the order of `dims`."""
        return [cast(torch.nn.Linear, head) for head in self.heads.values()]

    def forward(self, texts: Any) -> dict[int, Tensor]:
        """Vectors of every size for one batch, of any length, with gradients."""
        features = self.student(texts)
        return {int(name): head(features) for name, head in self.heads.items()}

    def encode(self, texts: Any, dim: int | None = None, *, batch: int = 256) -> Any:
        """Unit vectors of texts, ready for an index.

        Parameters
        ----------
        texts : what the student was trained on: a tensor, an array, a CSR matrix (rows), or a sequence
        dim : one of `dims`; None means the teacher's size
        batch : texts at a time

        Returns
        -------
        (n, dim) tensor where `texts` is one, else array
        """
        size = self.dims[0] if dim is None else dim
        if str(size) not in self.heads:
            raise ValueError(f"dim must be one of {self.dims}, got {dim!r}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch!r}")
        head = self.heads[str(size)]
        found = by_batches(lambda part: head(self.student(part)), texts, batch)
        return give_back(unit_rows(found, "the vectors"), "torch" if isinstance(texts, Tensor) else "numpy")


def distill_embeddings(
    student: torch.nn.Module,
    teachers: Any,
    texts: Any,
    dims: Sequence[int] = (1024, 512, 256),
    weights: tuple[float, float, float] = (10, 200, 20),
    margin: float = 0.015,
    *,
    epochs: tuple[int, int, int] = (1, 2, 2),
    batch: int = 64,
    rate: float = 1e-3,
    trainable: Iterable[torch.nn.Parameter] | None = None,
    reduce_to: Literal["teacher", "student"] = "teacher",
    generator: GeneratorLike = None,
    return_losses: bool = False,
) -> Any:
    r"""Train a small encoder to give the vectors of large ones, and shorter vectors that keep their similarities.

    The teacher's vector is the concatenation of the normalised vectors of all teachers. The loss of a batch is
    :math:`w_1 \, \mathrm{cosine} + w_2 \, \mathrm{similarity} + w_3 \, \mathrm{relative\ similarity}`; a head of
    another size than the teacher's has no first term.

    Parameters
    ----------
    student : module from a batch of texts to (b, width) features; it is trained in place
    teachers : one or a list of: a function of a batch of texts, or an (n, d) array or tensor of vectors made before
    texts : (n, ...) tensor, array or CSR matrix (a batch is some rows), or a sequence (a batch is a list)
    dims : sizes of the short vectors; the teacher's size is always there as well
    weights : of the cosine, similarity and relative similarity losses
    margin : of the relative similarity loss
    epochs : passes of the three stages: the large head alone by the cosine loss; head and student by all three losses;
        with the short heads
    batch : texts of a step; from 33 on, the relative similarity compares a sample of the pairs of pairs
    rate : largest learning rate of a stage, of Adam; it falls to zero along a half cosine
    trainable : the parameters of the student that stages 2 and 3 change (such as its last layers); None means all
    reduce_to : what the short vectors imitate: "teacher", while the student learns on, or "student", its own large vector
        at rest
    generator : of the heads and the order of the texts
    return_losses : also return the mean loss of each epoch, a list of floats

    Returns
    -------
    DistilledEncoder, or ``(encoder, losses)``

    Raises
    ------
    ValueError : arguments out of range, teachers that do not fit the texts, features that are not (b, width) or not finite

    Notes
    -----
    No labels are needed, and the teachers are asked once for each text: n (sum of their sizes) floats are held. The short
    vectors are heads of their own and not beginnings of the long one, so that each is the best of its size. A head has
    the teacher's directions only after a student wide enough; in any case it reaches its similarities as far as the
    features allow.

    References
    ----------
    "Jasper and Stella: distillation of SOTA embedding models"

    Examples
    --------
    >>> x = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    >>> wide = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    >>> teacher = lambda batch: torch.relu(batch @ wide)
    >>> student = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU())
    >>> encoder, losses = distill_embeddings(student, teacher, x, dims=(8,), generator=0, return_losses=True)
    >>> encoder.dims, encoder.encode(x, 8).shape, losses[2] < losses[1]
    ((64, 8), torch.Size([512, 8]), True)
    """
    objective = Objective(tuple(weights), margin, as_generator(generator))
    check_training(objective, epochs, batch, rate)
    if reduce_to not in ("teacher", "student"):
        raise ValueError(f"reduce_to must be 'teacher' or 'student', got {reduce_to!r}")
    target = teacher_vectors(teachers, texts, batch)
    with torch.no_grad():
        width = features_of(student, take(texts, np.arange(1))).shape[1]
    sizes = dict.fromkeys((target.shape[1], *(int(dim) for dim in dims)))
    encoder = DistilledEncoder(student, width, tuple(sizes), generator=objective.rng)
    device = next((p.device for p in student.parameters()), target.device)
    encoder, target = encoder.to(device, target.dtype), target.to(device)
    large, *short = encoder.linear_heads()
    body = list(student.parameters()) if trainable is None else list(trainable)

    def only_head(part: Any, goal: Tensor) -> Tensor:
        with torch.no_grad():
            features = features_of(student, part)
        return cosine_loss(large(features), goal)

    def whole(part: Any, goal: Tensor) -> Tensor:
        return objective(large(features_of(student, part)), goal)

    def all_sizes(part: Any, goal: Tensor) -> Tensor:
        features = features_of(student, part)
        shorter = [objective.without_cosine(head(features), goal) for head in short]
        return objective(large(features), goal) + torch.stack(shorter).mean()

    def short_of_own(part: Any, goal: Tensor) -> Tensor:
        with torch.no_grad():
            features = features_of(student, part)
            own = large(features)
        return torch.stack([objective.without_cosine(head(features), own) for head in short]).mean()

    long, heads = list(large.parameters()), [p for head in short for p in head.parameters()]
    last = (short_of_own, heads) if reduce_to == "student" else (all_sizes, body + long + heads)
    stages = [(only_head, long), (whole, body + long), *([last] if short else [])]
    losses: list[float] = []
    for (step, parameters), passes in zip(stages, epochs, strict=False):
        losses += train(step, parameters, texts, target, passes, batch, rate, objective.rng)
    encoder.eval()
    return (encoder, losses) if return_losses else encoder


def align_tower(
    encoder: DistilledEncoder,
    tower: torch.nn.Module,
    images: Any,
    captions: Any,
    *,
    weights: tuple[float, float, float] = (10, 200, 20),
    margin: float = 0.015,
    epochs: int = 5,
    batch: int = 64,
    rate: float = 1e-3,
    generator: GeneratorLike = None,
    return_losses: bool = False,
) -> Any:
    r"""Train a second tower, such as one for images, to give the vectors that an encoder gives the captions.

    Parameters
    ----------
    encoder : stays as it is; its heads serve both towers
    tower : module from a batch of images to (b, width) features, width as of the encoder's student; trained in place
    images : (n, ...) tensor, array or CSR matrix, or a sequence
    captions : n texts, as the encoder takes them
    weights, margin : as in `distill_embeddings`; every size has all three losses, for a caption has a vector of every size
    epochs, batch, rate : passes, pairs of a step, largest learning rate of Adam
    generator : of the order
    return_losses : also return the mean loss of each epoch, a list of floats

    Returns
    -------
    DistilledEncoder of the tower and the encoder's heads, or ``(encoder, losses)``

    Raises
    ------
    ValueError : arguments out of range, numbers of images and captions that differ, features of another width

    Notes
    -----
    The last stage of the paper: text is frozen, the tower alone learns, by the losses of the other stages. The vectors
    of images and texts are then searched in one index.

    References
    ----------
    "Jasper and Stella: distillation of SOTA embedding models"

    Examples
    --------
    >>> encoder = DistilledEncoder(torch.nn.Identity(), 3, (8, 2), generator=0)
    >>> texts = torch.randn(128, 3, generator=torch.Generator().manual_seed(0))
    >>> tower = torch.nn.Linear(3, 3)
    >>> both, losses = align_tower(encoder, tower, -texts, texts, rate=0.05, generator=0, return_losses=True)
    >>> losses[-1] < losses[0], both.dims
    (True, (8, 2))
    """
    objective = Objective(tuple(weights), margin, as_generator(generator))
    check_training(objective, (epochs,), batch, rate)
    if length(images) != length(captions):
        raise ValueError(f"images and captions must be as many, got {length(images)} and {length(captions)}")
    goals = torch.cat([torch.as_tensor(encoder.encode(captions, dim, batch=batch)) for dim in encoder.dims], 1)
    with torch.no_grad():
        width = features_of(tower, take(images, np.arange(1))).shape[1]
    head = encoder.linear_heads()[0]
    if width != head.in_features:
        raise ValueError(f"tower must give {head.in_features} features like the encoder's student, got {width}")
    other = DistilledEncoder(tower, width, encoder.dims, generator=0)
    other.heads.load_state_dict(encoder.heads.state_dict())
    other.to(head.weight)

    def step(part: Any, goal: Tensor) -> Tensor:
        found = other(part).values()
        parts = zip(found, goal.split(encoder.dims, 1), strict=True)
        return torch.stack([objective(vector, aim) for vector, aim in parts]).mean()

    losses = train(step, list(tower.parameters()), images, goals.to(head.weight), epochs, batch, rate, objective.rng)
    other.eval()
    return (other, losses) if return_losses else other
