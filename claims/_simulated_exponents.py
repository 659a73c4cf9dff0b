"""What a parametrisation does with the width, found by training networks of two widths: for claims about exponents."""

import itertools
import math

import torch
from torch import nn

from resolvent import optim

STEPS, LR = 3, 0.2


def drawn(count, seed=0):
    """Exponents in halves, for three layers of weights: three of four are stable in all but the size of features' changes."""
    g = torch.Generator().manual_seed(seed)

    def pick(low, high):
        return torch.randint(round(2 * low), round(2 * high) + 1, (), generator=g).item() / 2

    for k in range(count):
        a = [pick(-0.5, 0.5), pick(0, 0.5), pick(0, 1)]
        b = [-a[0], 0.5 - a[1], pick(0.5, 1) - a[2]]
        c = 1 - 2 * a[2] + pick(0, 0.5) * (k % 2)
        if k % 4 == 3:
            b, c = [pick(-1, 1) for _ in a], pick(-1, 1)
        yield a, b, c


def network(width, a, b, c, seed):
    layers = [nn.Linear(n, m, False, dtype=torch.float64) for n, m in itertools.pairwise((4, width, width, 4))]
    model = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
    return model, optim.apply_abc(model, a, b, c, width, lr=LR, generator=seed)


def sizes(width, a, b, c, seed):
    """Root mean squares: both hidden layers and the output at first, then their changes after a few steps."""
    model, groups = network(width, a, b, c, seed)
    g = torch.Generator().manual_seed(7)
    x = torch.randn(16, 4, generator=g, dtype=torch.float64)
    y = torch.randn(16, 4, generator=g, dtype=torch.float64)

    def look():
        with torch.no_grad():
            return [model[: i + 1](x) for i in (0, 2, 4)]

    before = look()
    optimizer = torch.optim.SGD(groups)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    after = look()
    changes = [t - s for s, t in zip(before, after, strict=True)]
    return torch.stack([t.square().mean().sqrt() for t in (*before, *changes)])


def simulated(a, b, c, widths, seeds):
    """Stable, trivial, feature learning and kernel regime, as measured."""
    small, large = (torch.stack([sizes(n, a, b, c, seed) for seed in range(seeds)]).mean(0) for n in widths)
    ratio = math.log(widths[1] / widths[0])
    # What is beyond the range of numbers has grown.
    grow = [
        (math.log(t / s) / ratio if s > 0 and t < math.inf else math.inf)
        for s, t in zip(small.tolist(), large.tolist(), strict=True)
    ]
    # Features before the nonlinearity, which is flat on one side and would hide that they run away.
    first, second, output, _, features, change = grow
    stable = abs(first) < 0.25 and abs(second) < 0.25 and max(output, features, change) < 0.25
    trivial = change < -0.25
    learns = stable and not trivial and features > -0.25
    return stable, stable and trivial, learns, stable and not trivial and not learns, grow
