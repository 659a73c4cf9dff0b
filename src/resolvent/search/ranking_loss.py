"""Training two encoders from a teacher's rankings: pairs weighted by places, candidates mined anew, finer from stage to stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

Teacher = Tensor | np.ndarray | Callable[[Tensor, Tensor], Tensor]


def reciprocal_rank_loss(scores: Tensor, labels: Tensor, *, cut: int | None = None) -> Tensor:
    r"""Penalise pairs in the wrong order, by how much their exchange changes the reciprocal ranks.

    .. math:: \sum_{y_i > y_j} \left| \frac1{\pi_i} - \frac1{\pi_j} \right| \log(1 + e^{s_j - s_i})

    Parameters
    ----------
    scores : (b, c) the student's, with pi the place that they give inside a list
    labels : (b, c), larger is better; equal labels make no pair
    cut : places beyond count as infinitely far; default none

    Returns
    -------
    0-d tensor, the mean over the b lists.

    Raises
    ------
    ValueError : shapes differ or are not (b, c).

    Notes
    -----
    c^2 pairs a list. Gradients go to `scores`; places are constants.

    References
    ----------
    "Multivariate Representation Learning for Information Retrieval"

    Examples
    --------
    >>> reciprocal_rank_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.0]])).round(decimals=4)
    tensor(0.1566)
    """
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must be (b, c) alike, got {tuple(scores.shape)} and {tuple(labels.shape)}")
    place = scores.detach().argsort(1, descending=True).argsort(1) + 1
    inverse = 1.0 / place.to(scores.dtype)
    if cut is not None:
        inverse = torch.where(place <= cut, inverse, torch.zeros_like(inverse))
    weight = (inverse[:, :, None] - inverse[:, None, :]).abs()
    pairs = torch.nn.functional.softplus(scores[:, None, :] - scores[:, :, None])
    return (weight * pairs * (labels[:, :, None] > labels[:, None, :])).sum((1, 2)).mean()


def fit_rankings(
    query_vectors: Callable[[Tensor], Tensor],
    document_vectors: Callable[[Tensor], Tensor],
    parameters: Iterable[Tensor],
    queries: Tensor,
    documents: Tensor,
    teacher: Teacher,
    *,
    stages: Sequence[int] = (5, 10, 30),
    steps: int = 100,
    batch: int = 32,
    candidates: int = 32,
    pool: int = 200,
    lr: float = 1e-3,
    scale: float = 1.0,
    generator: GeneratorLike = None,
) -> list[float]:
    """Make inner products of two encoders rank documents as a teacher does.

    Parameters
    ----------
    query_vectors, document_vectors : encoders, (b, ...) -> (b, D)
    parameters : to be trained
    queries, documents : (n_q, ...) and (n_d, ...) inputs
    teacher : (n_q, n_d) scores, or a function of query numbers (b,) and document numbers (b, c) that gives (b, c) scores
    stages : how many documents of the teacher's list are told from each other, stage by stage
    steps : per stage
    batch : queries of a step
    candidates : documents of a query's list: half from the student's best `pool` (mined anew at every stage, the teacher's
        favourites among them first), half those of the other queries
    lr : of Adam
    scale : factor of the inner products inside the loss
    generator : a torch.Generator, an int or None

    Returns
    -------
    The loss of every step.

    Notes
    -----
    Labels are 1/r for the first r <= stage documents of a list in the teacher's order, 0 for the rest of the student's,
    and -1 for documents of other queries that are not among the first.

    References
    ----------
    "Multivariate Representation Learning for Information Retrieval"
    "Curriculum Learning for Dense Retrieval Distillation"
    """
    from resolvent.search.exact import exact_search

    g = as_generator(generator)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    losses = []
    pool = min(pool, len(documents))
    half = min(candidates // 2, pool)
    with one_thread(batch * candidates < 1 << 14):
        for stage in stages:
            with torch.no_grad():
                mined = exact_search(document_vectors(documents), query_vectors(queries), pool).ids
                order = _teacher_scores(teacher, torch.arange(len(queries)), mined).argsort(1, descending=True)
                mined = mined.gather(1, order)
            for _ in range(steps):
                chosen = torch.randint(len(queries), (min(batch, len(queries)),), generator=g)
                listed = _listed(mined[chosen], half, candidates - half, g)
                with torch.no_grad():
                    labels = _labels(_teacher_scores(teacher, chosen, listed), stage, half)
                q = query_vectors(queries[chosen])
                unique, back = listed.unique(return_inverse=True)
                d = document_vectors(documents[unique])
                scores = scale * (q @ d.mT).gather(1, back)
                loss = reciprocal_rank_loss(scores, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
    return losses


def _teacher_scores(teacher: Teacher, queries: Tensor, documents: Tensor) -> Tensor:
    if callable(teacher):
        return teacher(queries, documents)
    return torch.as_tensor(teacher)[queries[:, None], documents]


def _listed(mined: Tensor, half: int, others: int, g: torch.Generator) -> Tensor:
    """(b, half + others): the best of the teacher and a sample of the mined, then those of the other queries."""
    b, pool = mined.shape
    first = max(1, half // 2)
    rest = torch.rand(b, pool - first, generator=g).argsort(1)[:, : half - first] + first
    own = torch.cat([mined[:, :first], mined.gather(1, rest)], 1)
    foreign = own.reshape(-1)[torch.randint(own.numel(), (b, others), generator=g)]
    return torch.cat([own, foreign], 1)


def _labels(teacher: Tensor, stage: int, half: int) -> Tensor:
    place = teacher.argsort(1, descending=True).argsort(1) + 1
    rest = torch.zeros_like(teacher)
    rest[:, half:] = -1
    return torch.where(place <= stage, 1.0 / place.to(teacher.dtype), rest)


__all__ = ["fit_rankings", "reciprocal_rank_loss"]
