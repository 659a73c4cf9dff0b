"""Training of a `MemoryTransformer`: generation, retrieval and auto-encoding, over a memory that is refreshed in turns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.exact import exact_search
from resolvent.search.memory import MARK, PAD, Entries, MemoryTransformer

# Models with fewer weights gain nothing from a second thread.
_SMALL = 1_000_000


class _Data(NamedTuple):
    """Padded tokens, and numbers that equal answers share."""

    questions: Tensor
    answers: Tensor
    same: Tensor
    keys: Tensor
    values: Tensor
    same_value: Tensor
    own: bool  # the questions are the memory, in the same order: none shall read itself


def fit_memory_transformer(
    model: MemoryTransformer,
    questions: object,
    answers: object,
    memory: tuple[object, object] | None = None,
    *,
    epochs: int = 10,
    batch: int = 32,
    rate: float = 2e-3,
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
    near: int = 32,
    hard: int = 2,
    generator: GeneratorLike = None,
) -> list[float]:
    r"""Train a memory transformer in place.

    The loss is the negative log-likelihood of the answer given what was read, plus
    :math:`-\log(\sum_{e \in P} e^{q \cdot k_e} / \sum_e e^{q \cdot k_e})`, P the entries with the same answer, plus the
    likelihood of a question given its key alone and of an answer given its value alone.

    Parameters
    ----------
    model : a model with k = 0 learns generation only
    questions, answers : lists of tokens, or padded (n, length) arrays or tensors
    memory : questions and answers of the entries to learn to read; None takes the training pairs, and no question reads
        its own
    epochs : passes; before each of them the index of the entries is made anew
    batch : questions of a step
    rate : largest learning rate, of Adam; it rises over a twentieth of the steps and then falls to zero
    weights : of generation, retrieval and auto-encoding
    near : best entries of a question by the last index, from which its positive and hard negative entries come
    hard : negative entries of a question; a step reads from the entries of all its questions
    generator : of the order and the negatives

    Returns
    -------
    The mean loss of each epoch.

    Raises
    ------
    ValueError : arguments out of range, tokens out of the vocabulary, numbers that do not fit

    Notes
    -----
    Entries of a step are encoded with gradients, so that keys and values learn; only who is near comes from the frozen
    index of the epoch. Which entry helps is not known: of those near, the first with the right answer is taken, as in the
    paper, so that the words that questions share show the way at the beginning. Auto-encoding and generation, which the
    paper has one after the other on sixty million questions, are one stage here.

    References
    ----------
    "An Efficient Memory-Augmented Transformer for Knowledge-Intensive NLP Tasks"

    Examples
    --------
    >>> model = MemoryTransformer(30, 16, 3, 1, 2, k=2, heads=2, generator=0)
    >>> losses = fit_memory_transformer(model, [[5, 9], [6, 9]], [[20], [21]], ([[5], [6]], [[20], [21]]), generator=0)
    >>> len(losses), losses[-1] < losses[0]
    (10, True)
    """
    if min(epochs, batch, near) < 1 or hard < 0 or not rate > 0:
        raise ValueError(
            f"epochs, batch and near must be at least 1, hard at least 0, rate positive, got {epochs}, {batch}, {near}, "
            f"{hard} and {rate}"
        )
    if len(weights) != 3 or not all(w >= 0 for w in weights):
        raise ValueError(f"weights must be three numbers of at least 0, got {weights!r}")
    data = _prepare(model, questions, answers, memory)
    rng = as_generator(generator)
    count = len(data.questions)
    steps = epochs * -(-count // batch)
    optimizer = torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.98))
    rise = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))
    )
    losses: list[float] = []
    small = sum(p.numel() for p in model.parameters()) < _SMALL
    model.train()
    for _ in range(epochs):
        found = _neighbours(model, data, near) if model.k else None
        total = model.front.new_zeros(())
        order = torch.randperm(count, generator=rng, device=rng.device).to(data.questions.device)
        with one_thread(small), torch.enable_grad():
            for chosen in order.split(batch):
                pool = None if found is None else _pool(data, chosen, found[chosen], hard, rng)
                loss = _loss(model, data, chosen, pool, weights)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(chosen)
        losses.append(float(total) / count)
    model.eval()
    if not all(value == value for value in losses):
        raise ValueError(f"the loss became NaN: try a rate below {rate:g}")
    return losses


def _prepare(model: MemoryTransformer, questions: object, answers: object, memory: object) -> _Data:
    q, a = model.as_tokens(questions, "questions"), model.as_tokens(answers, "answers")
    if memory is not None and (not isinstance(memory, tuple | list) or len(memory) != 2):
        raise ValueError(f"memory must be None or (questions, answers), got {type(memory).__name__}")
    keys, values = (
        (q, a) if memory is None else (model.as_tokens(memory[0], "memory"), model.as_tokens(memory[1], "memory"))
    )
    for name, left, right in (("questions and answers", q, a), ("the two parts of memory", keys, values)):
        if len(left) != len(right):
            raise ValueError(f"{name} must be as many, got {len(left)} and {len(right)}")
    longest = max(a.shape[1], values.shape[1])
    both = torch.cat([F.pad(t, (0, longest - t.shape[1])) for t in (a, values)])
    same = torch.unique(both, dim=0, return_inverse=True)[1]
    return _Data(q, a, same[: len(a)], keys, values, same[len(a) :], memory is None)


def _neighbours(model: MemoryTransformer, data: _Data, near: int) -> Tensor:
    """(n, near) entries of each question, the best first; the question itself, where it is an entry, is -1."""
    with torch.no_grad():
        keys, queries = (torch.cat([model.keys_of(p) for p in t.split(256)]) for t in (data.keys, data.questions))
    found: Tensor = exact_search(keys, queries, min(near + data.own, len(keys)), "ip").ids
    if not data.own:
        return found
    itself = torch.arange(len(found), device=found.device)[:, None]
    return torch.where(found == itself, -1, found)


def _pool(data: _Data, chosen: Tensor, near: Tensor, hard: int, rng: torch.Generator) -> Tensor:
    """Entries that the questions of a step read from: for each the first right one that is near, and some wrong ones."""
    there = near >= 0
    right = (data.same_value[near.clamp_min(0)] == data.same[chosen][:, None]) & there
    first = near.gather(1, right.int().argmax(1, keepdim=True))[right.any(1)]
    # Wrong entries in random order; where there are none, -1.
    draw = torch.rand(near.shape, generator=rng, device=rng.device).to(near.device)
    wrong = near.gather(1, torch.where(there & ~right, draw, 2.0).argsort(1)[:, :hard])
    is_wrong = (data.same_value[wrong.clamp_min(0)] != data.same[chosen][:, None]) & (wrong >= 0)
    return torch.unique(torch.cat([first.flatten(), wrong[is_wrong]]))


def _loss(
    model: MemoryTransformer, data: _Data, chosen: Tensor, pool: Tensor | None, weights: tuple[float, float, float]
) -> Tensor:
    questions, answers = data.questions[chosen], data.answers[chosen]
    hidden, there, bias = model.enter(questions)
    hidden = model.run(hidden, bias, 0, model.key_layer)
    entries, total = None, model.front.new_zeros(())
    if pool is not None and len(pool):
        keys, values = model.keys_of(data.keys[pool]), model.values_of(data.keys[pool], data.values[pool])
        scores = model.as_key(hidden, there) @ keys.mT
        right = data.same_value[pool] == data.same[chosen][:, None]
        if data.own:
            itself = pool == chosen[:, None]
            scores, right = scores.masked_fill(itself, -torch.inf), right & ~itself
        has = right.any(1)
        if bool(has.any()):
            mass = scores[has].masked_fill(~right[has], -torch.inf).logsumexp(1)
            total = total + weights[1] * (scores[has].logsumexp(1) - mass).mean()
        best = scores.detach().topk(min(model.k, len(pool)), 1).indices
        entries = Entries(keys[best], values[best])
        if weights[2]:
            some = slice(0, len(chosen))
            total = total + weights[2] * _likelihood(model, data.values[pool][some], values[some], None)
            total = total + weights[2] * _likelihood(model, data.keys[pool][some], keys[some, None], None)
    source, seen = model.finish(model.run(hidden, bias, model.key_layer, model.value_layer), there, bias, entries)
    return total + weights[0] * _likelihood(model, answers, source, seen)


def _likelihood(model: MemoryTransformer, answers: Tensor, source: Tensor, seen: Tensor | None) -> Tensor:
    """Mean negative log-likelihood of the tokens of answers and the mark behind them."""
    begun = F.pad(answers, (1, 0), value=MARK)
    goal = F.pad(answers, (0, 1))
    goal = goal.scatter(1, (answers != PAD).sum(1, keepdim=True), MARK)
    logits = model.decode(begun, source, seen)
    return F.cross_entropy(logits.flatten(0, 1), goal.flatten(), ignore_index=PAD)
