"""Which matrices of a checkpoint look untrained, and which would compress best?

Usage: python examples/report_checkpoint.py [FILE.safetensors]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import resolvent


def small_checkpoint(path: Path) -> Path:
    """One layer that has learned a few directions, one that is noise, and one of low rank."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(256, 256, generator=g) / 16
    directions = torch.randn(256, 8, generator=g) @ torch.randn(8, 256, generator=g) / 64
    save_file({"learned.weight": noise + directions, "fresh.weight": noise, "low.weight": directions}, path)
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else small_checkpoint(Path(folder, "model.safetensors"))
        result = resolvent.report(path)
    print(result, end="\n\n")
    for row in result.matrices:
        m = row.measured
        if m.marchenko_pastur is not None and m.marchenko_pastur < 0.015 and m.spikes == 0:
            print(f"{row.name}: its spectrum is that of noise (distance {m.marchenko_pastur:.3f})")
    share = {row.name: row.measured.effective_rank / min(row.shape) for row in result.matrices if min(row.shape) > 1}
    for name in sorted(share, key=share.get)[:3]:
        print(f"{name}: {share[name]:.0%} of its directions carry its energy")


if __name__ == "__main__":
    main()
