"""A corpus with planted topics and roles, word vectors trained on it, and how many analogies they solve."""

import functools
import math

import torch
from torch.nn import functional as F

from resolvent import optim

TOPICS, ROLES, WINDOW = 6, 4, 4
WORDS = TOPICS * ROLES


@functools.cache
def corpus(examples):
    """Mean one-hot contexts and targets: a neighbour of the word (topic, role) has its topic or its role."""
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, WORDS, (examples,), generator=g)
    topic, role = target // ROLES, target % ROLES
    shape = (examples, WINDOW)
    same_topic = torch.rand(shape, generator=g) < 0.5
    other_role = (role[:, None] + torch.randint(1, ROLES, shape, generator=g)) % ROLES
    other_topic = (topic[:, None] + torch.randint(1, TOPICS, shape, generator=g)) % TOPICS
    words = torch.where(same_topic, topic[:, None] * ROLES + other_role, other_topic * ROLES + role[:, None])
    return F.one_hot(words, WORDS).double().mean(1), target


def derivative(logits, target):
    """Of the mean cross-entropy over the full softmax."""
    return (logits.softmax(-1) - F.one_hot(target, WORDS)) / len(target)


@functools.cache
def trained_limit(examples, steps, lr):
    x, target = corpus(examples)
    limit = optim.MuPLinearLimit(WORDS, WORDS, lr, dtype=torch.float64)
    outputs = []
    for _ in range(steps):
        limit.train_step(x, derivative(limit(x), target))
        outputs.append(limit(torch.eye(WORDS, dtype=torch.float64)).detach())
    return limit, outputs


@functools.cache
def trained_network(width, seed, examples, steps, lr):
    """A network of finite width under muP: its Gram matrix of word vectors, and the largest distance of its function."""
    x, target = corpus(examples)
    net = optim.MuPLinearLimit(WORDS, WORDS, lr, dtype=torch.float64).sample(width, generator=seed)
    u, v = (layer.weight.detach() for layer in net)
    far = 0.0
    for exact in trained_limit(examples, steps, lr)[1]:
        hidden = x @ u.T
        q = derivative(hidden @ v.T, target)
        du, dv = (q @ v).T @ x, q.T @ hidden
        u, v = u - lr * du, v - lr * dv
        far = max(far, (v @ u - exact.T).abs().max().item())
    return u.T @ u, far


def analogies(gram):
    """The share of (i, j) - (i, j') + (i', j') = (i', j) that cosines solve; a tie counts as a guess among the tied."""
    size = gram.diagonal().clamp(min=1e-300).sqrt()
    cosine = gram / (size[:, None] * size)
    quadruples = [
        (i * ROLES + j, i * ROLES + k, h * ROLES + k, h * ROLES + j)
        for i in range(TOPICS)
        for h in range(TOPICS)
        for j in range(ROLES)
        for k in range(ROLES)
        if i != h and j != k
    ]
    a, b, c, answer = torch.tensor(quadruples).T
    scores = cosine[a] - cosine[b] + cosine[c]
    rows = torch.arange(len(scores))
    for given in (a, b, c):
        scores[rows, given] = -math.inf
    best = scores.max(1, keepdim=True).values
    tied = scores >= best - 1e-12
    return (tied[rows, answer] / tied.sum(1)).mean().item()
