"""A small transformer on real text, trained with AdamW and with optimizers of Resolvent under one fair comparison.

    python examples/train_transformer.py            # AdamW and Lion, 30 steps each, untuned: a look
    python examples/train_transformer.py --full     # all of them, tuned, 200 steps, three seeds: about twenty minutes

The text is what lies on every disk with Python: the topics of its language reference, and Resolvent's own
documentation where it is found. A batch has 2048 characters. Every optimizer gets its own tuned learning rate, the same
starts, the same batches and the same schedule; the table gives 95 % intervals over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resolvent import optim

CONTEXT = 64


def corpus() -> str:
    """Text of Python's language reference and of Resolvent's documentation."""
    import pydoc_data.topics

    texts = [str(text) for _, text in sorted(pydoc_data.topics.topics.items())]
    docs = Path(__file__).resolve().parent.parent / "docs"
    texts += [page.read_text(encoding="utf-8") for page in sorted(docs.glob("*.md"))]
    # What is not ASCII becomes one sign.
    return "\n\n".join(texts).encode("ascii", "replace").decode()


def windows(text: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and held-out windows of characters, each with the characters that follow; one in twenty is held out."""
    codes = torch.frombuffer(bytearray(text.encode("ascii")), dtype=torch.uint8).long()
    rows = codes[: (len(codes) - 1) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    nexts = codes[1 : rows.numel() + 1].view(-1, CONTEXT)
    held = torch.arange(len(rows)) % 20 == 0
    return (rows[~held], nexts[~held]), (rows[held][:256], nexts[held][:256])


class Block(nn.Module):
    """Attention and a two-layer net, each after a normalisation and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        # Written out: torch's fused attention has no second derivatives, which AdaHessian takes.
        scores = (q @ k.mT) / (d // self.heads) ** 0.5
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, d))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A decoder on ASCII characters."""

    def __init__(self, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(128, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 128, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.characters(x) + self.positions.weight[: x.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(h)))
        return logits


def optimizers() -> dict[str, Any]:
    """AdamW, torch's Muon beside it, and six of Resolvent. The classes are called with the parameters and a rate."""

    def steepest(model: nn.Module, lr: float | None) -> Any:
        return optim.SteepestDescent(optim.param_groups_by_role(model), lr=lr)

    return {
        "AdamW": torch.optim.AdamW,
        "Lion": optim.Lion,
        "AdamP": optim.AdamP,
        "SteepestDescent": steepest,
        "Shampoo": with_interval(10),
        "AdaHessian": optim.AdaHessian,
        "CoRe": optim.CoRe,
    }


def with_interval(steps: int) -> Callable[[nn.Module, float | None], Any]:
    """Shampoo with new roots every so many steps: a run of hundreds of steps needs them often."""
    return lambda model, lr: optim.Shampoo(model.parameters(), lr=lr, precond_interval=steps)


def main() -> None:
    """Compare, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all optimizers, tuned, with several seeds")
    parser.add_argument("--plot", type=Path, help="where to draw the losses")
    options = parser.parse_args()
    chosen = optimizers()
    steps, seeds, trials = (200, 3, 5) if options.full else (30, 1, 1)
    if not options.full:
        chosen = {name: chosen[name] for name in ("AdamW", "Lion")}
    found = optim.compare(
        Transformer, windows(corpus()), chosen, steps, batch_size=32, seeds=seeds, trials=trials, warmup=steps // 20,
        lrs=None if options.full else {"AdamW": [3e-3], "Lion": [1e-3]},
    )  # fmt: skip
    print(found)
    print()
    print(found.to_markdown())
    if options.plot:
        found.plot(options.plot)


if __name__ == "__main__":
    main()
