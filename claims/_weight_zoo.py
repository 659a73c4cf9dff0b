"""Small recurrent networks trained in one batch with many settings, and what they reached: a data set of weights."""

import torch
from torch import Tensor

HIDDEN, SYMBOLS, LENGTH = 10, 4, 8
SPEC = {"inner": (0, 1), "again": (0, 0), "shift": (0,), "outer": (2, 0), "end": (2,)}
FIXED, SIZES = {1, 2}, {1: SYMBOLS, 2: 2}


def _logits(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """(nets, samples, 2) of one-hot sequences (samples, length, symbols)."""
    h = x.new_zeros(len(weights["shift"]), len(x), HIDDEN)
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] @ weights["inner"].mT + h @ weights["again"].mT + weights["shift"].unsqueeze(1))
    return h @ weights["outer"].mT + weights["end"].unsqueeze(1)


def _sequences(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Is the first symbol more frequent than the second?"""
    x = torch.randint(SYMBOLS, (count, LENGTH), generator=g)
    return torch.nn.functional.one_hot(x, SYMBOLS).float(), ((x == 0).sum(1) > (x == 1).sum(1)).long()


def zoo(nets: int, steps: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Weights of networks trained by Adam with rates, initial scales and numbers of steps of their own; their accuracies."""
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "inner": (HIDDEN, SYMBOLS),
        "again": (HIDDEN, HIDDEN),
        "shift": (HIDDEN,),
        "outer": (2, HIDDEN),
        "end": (2,),
    }
    scale = 10 ** (torch.rand(nets, generator=g) - 0.5)
    rate = 10 ** (-3.5 + 2 * torch.rand(nets, generator=g))
    last = (steps * (0.1 + 0.9 * torch.rand(nets, generator=g))).round()

    def each(v: Tensor, like: Tensor) -> Tensor:
        return v.reshape(-1, *[1] * (like.ndim - 1))

    weights = {}
    for name, shape in shapes.items():
        w = torch.randn(nets, *shape, generator=g) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        weights[name] = w * each(scale, w)
    first = {n: torch.zeros_like(w) for n, w in weights.items()}
    second = {n: torch.zeros_like(w) for n, w in weights.items()}
    for t in range(1, steps + 1):
        x, y = _sequences(16, g)
        leaves = {n: w.requires_grad_() for n, w in weights.items()}
        loss = torch.nn.functional.cross_entropy(_logits(leaves, x).flatten(0, 1), y.repeat(nets), reduction="sum") / 16
        grads = torch.autograd.grad(loss, list(leaves.values()))
        running = (last >= t).float() * rate
        with torch.no_grad():
            for (n, w), grad in zip(weights.items(), grads, strict=True):
                first[n].lerp_(grad, 0.1)
                second[n].lerp_(grad * grad, 0.01)
                step = first[n] / (1 - 0.9**t) / ((second[n] / (1 - 0.99**t)).sqrt() + 1e-8)
                weights[n] = w.detach() - each(running, w) * step
    x, y = _sequences(1000, g)
    with torch.no_grad():
        accuracy = (_logits(weights, x).argmax(-1) == y).float().mean(1)
    return weights, accuracy


def statistics(weights: dict[str, Tensor]) -> Tensor:
    """Mean, variance and five quantiles of each weight tensor."""
    found = []
    for w in weights.values():
        flat = w.flatten(1)
        quantiles = torch.quantile(flat, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), dim=1).T
        found.append(torch.cat([flat.mean(1, keepdim=True), flat.var(1, keepdim=True), quantiles], 1))
    return torch.cat(found, 1)
