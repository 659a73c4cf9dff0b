"""step() of the elementwise and row-wise optimizers against torch's AdamW (foreach and fused) and pytorch_optimizer.

python benchmarks/optim_step.py [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytorch_optimizer
import torch
from _timing import interleaved, machine, table
from torch import nn

from resolvent import optim

# What a step has to read and write of each number, in float32; AdamW: 28.
BYTES = {
    "Lion": 20, "NAG": 20, "SGDP": 32, "LARS": 28, "AdamP": 40, "LAMB": 40, "CoRe": 36,
    "OptimisticAMSGrad last": 52, "OptimisticAMSGrad 5": 96,
}  # fmt: skip


def transformer(quick: bool) -> list[tuple[int, ...]]:
    """Shapes of a transformer of 10 million parameters in 77 tensors, or of a small one."""
    width, layers, vocabulary = (128, 2, 1000) if quick else (384, 5, 1500)
    block = [(3 * width, width), (3 * width,), (width, width), (width,), (4 * width, width), (4 * width,)]
    block += [(width, 4 * width), (width,), (width,), (width,), (width,), (width,)]
    return [(vocabulary, width), (512, width)] + layers * block + [(width,), (width,), (vocabulary, width)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    kinds: dict[str, Callable[..., Any]] = {
        "AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
        "AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
        "Lion": optim.Lion, "NAG": optim.NAG, "SGDP": optim.SGDP, "AdamP": optim.AdamP, "LARS": optim.LARS,
        "LAMB": optim.LAMB, "CoRe": optim.CoRe,
        "OptimisticAMSGrad last": lambda p: optim.OptimisticAMSGrad(p, predictor="last"),
        "OptimisticAMSGrad 5": optim.OptimisticAMSGrad,
        "pytorch_optimizer Lion": pytorch_optimizer.Lion,
        "pytorch_optimizer AdamP": pytorch_optimizer.AdamP,
        "pytorch_optimizer Lamb": pytorch_optimizer.Lamb,
    }  # fmt: skip
    shapes, steps = transformer(arguments.quick), {}
    for name, kind in kinds.items():
        params = [nn.Parameter(torch.randn(s) / 20) for s in shapes]
        for p in params:
            p.grad = torch.randn_like(p) / 100
        steps[name] = kind(params).step
    seconds = interleaved(steps, repeats=3 if arguments.quick else 11, warmup=7)
    adamw, fused = seconds["AdamW foreach"], seconds["AdamW fused"]
    rows = []
    for name, time in seconds.items():
        each = time / fused * 28 / BYTES[name] if name in BYTES else float("nan")
        rows.append([name, time * 1e3, time / adamw, time / fused, each])
    numbers = sum(torch.Size(s).numel() for s in shapes) / 1e6
    header = ["optimizer", "ms", "of AdamW foreach", "of AdamW fused", "of AdamW fused, a byte"]
    table(f"step(), {numbers:.1f}M parameters in {len(shapes)} tensors; {machine()}", header, rows)


if __name__ == "__main__":
    main()
