"""Small transformers on source text, with unit scale and without: for claims about u-muP."""

import argparse
import functools
import inspect
import math
import typing
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resolvent.optim import unit


@functools.cache
def text():
    """Modules of Python's standard library as character numbers, and how many characters there are."""
    characters = "".join(Path(module.__file__).read_text() for module in (argparse, inspect, typing))
    known = sorted(set(characters))
    number = {c: i for i, c in enumerate(known)}
    return torch.tensor([number[c] for c in characters]), len(known)


def batch(rows, length, generator):
    codes, _ = text()
    start = torch.randint(0, len(codes) - length - 1, (rows, 1), generator=generator)
    found = codes[start + torch.arange(length + 1)]
    return found[:, :-1], found[:, 1:]


def unit_transformer(width, blocks):
    branches = [b for _ in range(blocks) for b in (unit.Attention(width, 4, causal=True), unit.MLP(width))]
    size = text()[1]
    trunk = (unit.Embedding(size, width), unit.ResidualStack(branches), unit.RMSNorm(width))
    return nn.Sequential(*trunk, unit.Readout(width, size))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.RMSNorm(width),
            nn.Linear(width, 3 * width, False),
            nn.Linear(width, width, False),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, -1)).movedim(-3, 0).transpose(-3, -2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed.transpose(-3, -2).flatten(-2))


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.up, self.gate = (nn.Linear(width, 4 * width, False) for _ in range(2))
        self.down = nn.Linear(4 * width, width, False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.down(self.up(h) * F.silu(self.gate(h)))


def standard_transformer(width, blocks):
    """The same network as it is usually begun: entries of standard deviation 0.02, gains of one."""
    size = text()[1]
    branches = [b for _ in range(blocks) for b in (Attention(width), Gated(width))]
    model = nn.Sequential(nn.Embedding(size, width), *branches, nn.RMSNorm(width), nn.Linear(width, size, False))
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, 0.0, 0.02)
    return model


def make(kind, width, blocks, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return unit_transformer(width, blocks) if kind == "unit" else standard_transformer(width, blocks)


def loss_of(kind, logits, target):
    return (
        unit.cross_entropy(logits, target)
        if kind == "unit"
        else F.cross_entropy(logits.flatten(0, -2), target.flatten())
    )


@functools.cache
def scales(kind, width, blocks, real=True):
    """Root mean squares at the beginning: of outputs of modules, of their gradients, and of weights' gradients.

    On text, or on characters drawn independently.
    """
    model, found = make(kind, width, blocks, 0), {}

    def rms(x):
        return x.double().square().mean().sqrt().item()

    def record(name):
        def hook(module, args, output):
            found[name] = rms(output.detach())
            if output.requires_grad:
                output.register_hook(lambda g: found.update({f"{name} gradient": rms(g)}))

        return hook

    # The last module gives the logits, which u-muP makes small on purpose.
    for name, module in list(model.named_modules())[1:-1]:
        module.register_forward_hook(record(name))
    g = torch.Generator().manual_seed(1)
    x, y = batch(16, 64, g) if real else torch.randint(0, text()[1], (2, 16, 64), generator=g)
    loss_of(kind, model(x), y).backward()
    found.update({f"{name} weight gradient": rms(p.grad) for name, p in model.named_parameters()})
    return found


@functools.cache
def train(kind, width, blocks, lr, steps, seed=0, fp8=False, rows=8, length=32):
    """The mean loss of the last quarter of training with Adam and a linear decay."""
    model = make(kind, width, blocks, seed)
    groups = unit.groups(model, lr) if kind == "unit" else [{"params": list(model.parameters()), "lr": lr}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 5) * (1 - t / steps))
    handle = unit.simulate_fp8(model) if fp8 else None
    g, losses = torch.Generator().manual_seed(100 + seed), []
    for _ in range(steps):
        x, y = batch(rows, length, g)
        loss = loss_of(kind, model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    if handle is not None:
        handle.remove()
    last = torch.stack(losses)[-max(steps // 4, 1) :].mean().item()
    return last if math.isfinite(last) else math.inf
