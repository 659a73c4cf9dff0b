"""Planted faults, each of which the findings must name, and healthy checkpoints, of which they must say nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resolvent.report import Report, report

LAYERS = 5
SHAPES = {"q": (128, 128), "k": (128, 128), "v": (128, 128), "up": (512, 128), "down": (128, 512)}
Tensors = dict[str, torch.Tensor]


def trained_like(m: int, n: int, g: torch.Generator) -> torch.Tensor:
    """Noise of an initialisation, and learned directions whose strengths fall off slowly."""
    p = min(m, n)
    u, _ = torch.linalg.qr(torch.randn(m, p, generator=g))
    v, _ = torch.linalg.qr(torch.randn(n, p, generator=g))
    s = 1.5 / torch.arange(1, p + 1) ** 0.4 * (1 + 0.05 * torch.rand(p, generator=g))
    return (u * s) @ v.T + 0.02 * torch.randn(m, n, generator=g)


def healthy(seed: int = 0) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    tensors: Tensors = {"embed_tokens.weight": trained_like(3000, 128, g)}
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            tensors[f"layers.{layer}.{name}.weight"] = trained_like(*shape, g)
        tensors[f"layers.{layer}.norm.weight"] = torch.ones(128)
    return tensors


def findings_of(tensors: Tensors, folder: Path, *, quick: bool = True) -> dict[tuple[str, str], str]:
    """Severity by name and kind, of what is above a note."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    result = report(folder / "model.safetensors", quick=quick)
    return {(f.matrix, f.kind): f.severity for f in result.findings if f.severity != "note"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_healthy_checkpoint_gives_nothing_above_a_note(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in healthy().items()}
    assert findings_of(tensors, tmp_path, quick=dtype != torch.float32) == {}


def test_every_planted_fault_is_named_and_nothing_else(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(1)
    tensors = healthy()
    tensors["layers.0.up.weight"][300:332] = tensors["layers.0.up.weight"][8:40]
    spike = tensors["layers.1.q.weight"]
    u, v = torch.randn(128, generator=g), torch.randn(128, generator=g)
    spike += 10 * torch.linalg.matrix_norm(spike, 2) * torch.outer(u / u.norm(), v / v.norm())
    tensors["layers.2.down.weight"] = 0.02 * torch.randn(128, 512, generator=g)
    tensors["layers.3.k.weight"] = torch.outer(torch.randn(128, generator=g), torch.randn(128, generator=g)) / 128
    tensors["layers.3.v.weight"][5, 6] = math.nan
    low = tensors["layers.4.up.weight"]
    step = 2 * low.abs().amax(1, keepdim=True) / 7
    tensors["layers.4.up.weight"] = (torch.floor(low / step).clamp(-4, 3) + 0.5) * step
    tensors["layers.0.down.weight"][:, 300:332] = tensors["layers.0.down.weight"][:, 8:40]
    both = tensors["layers.1.v.weight"]
    both[60:70] = both[20:30]
    both[:, 110:114] = both[:, 1:5]
    assert findings_of(tensors, tmp_path) == {
        ("layers.0.up.weight", "repeated rows"): "warning",
        ("layers.0.down.weight", "repeated columns"): "warning",
        ("layers.1.v.weight", "repeated rows"): "warning",
        ("layers.1.v.weight", "repeated columns"): "warning",
        ("layers.1.q.weight", "spike"): "warning",
        ("layers.2.down.weight", "random"): "warning",
        ("layers.3.k.weight", "collapsed"): "warning",
        ("layers.3.v.weight", "not finite"): "error",
        ("layers.4.up.weight", "quantised"): "warning",
    }


def planted(kind: str, tensors: Tensors, size: float) -> str:
    """Plant one fault of a certain size and give the name of the matrix."""
    g = torch.Generator().manual_seed(2)
    name = "layers.2.up.weight"
    A = tensors[name]
    if kind == "repeated rows":
        count = int(size)
        A[100 : 100 + count] = A[:count]
    elif kind == "repeated columns":
        count = int(size)
        A[:, 64 : 64 + count] = A[:, :count]
    elif kind == "spike":
        u, v = torch.randn(512, generator=g), torch.randn(128, generator=g)
        A += size * torch.linalg.matrix_norm(A, 2) * torch.outer(u / u.norm(), v / v.norm())
    elif kind == "random":
        bound = size / math.sqrt(128)
        A.uniform_(-bound, bound, generator=g)
    elif kind == "collapsed":
        A.copy_(0.03 * torch.outer(torch.randn(512, generator=g), torch.randn(128, generator=g)))
        A += size * torch.randn(512, 128, generator=g)
    elif kind == "quantised":
        groups = A.reshape(512, 2, 64)
        step = 2 * groups.abs().amax(2, keepdim=True) / (2**size - 1)
        A.copy_((torch.round(groups / step) * step).reshape(A.shape))
    elif kind == "exploding scale":
        A *= size
    elif kind == "dead rows":
        A[: int(size)] = 0
    elif kind == "dead columns":
        A[:, : int(size)] = 0
    elif kind == "copy":
        name = "layers.4.up.weight"
        tensors[name] = A + size * A.std() * torch.randn(512, 128, generator=g)
    elif kind == "zero":
        A *= 0
    elif kind == "not finite":
        A[3, 4] = size
    return name


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("repeated rows", 1),
        ("repeated rows", 100),
        ("repeated columns", 1),
        ("repeated columns", 60),
        ("spike", 4),
        ("spike", 40),
        ("random", 0.1),
        ("random", 1.0),
        ("collapsed", 0.0),
        ("collapsed", 1e-4),
        ("quantised", 2),
        ("quantised", 3),
        ("quantised", 4),
        ("exploding scale", 30),
        ("exploding scale", 1e6),
        ("dead rows", 3),
        ("dead columns", 3),
        ("copy", 0.0),
        ("copy", 0.01),
        ("zero", 0),
        ("not finite", math.inf),
        ("not finite", math.nan),
    ],
)
def test_small_and_large_faults(kind: str, size: float, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in healthy(3).items() if "up" in name or "norm" in name}
    name = planted(kind, tensors, size)
    found = findings_of(tensors, tmp_path)
    assert list(found) == [(name, kind)]
    assert found[name, kind] == ("error" if kind == "not finite" else "warning")


def test_the_transpose_of_another_layer(tmp_path: Path) -> None:
    tensors = healthy()
    tensors["layers.1.down.weight"] = tensors["layers.0.up.weight"].T.clone()
    assert findings_of(tensors, tmp_path) == {("layers.1.down.weight", "copy"): "warning"}


def test_of_the_demo_checkpoint_only_the_pooler_is_above_a_note(checkpoint: Path, checkpoint_report: Report) -> None:
    found = {(f.matrix, f.kind) for f in checkpoint_report.findings if f.severity != "note"}
    quick = {(f.matrix, f.kind) for f in report(checkpoint, quick=True).findings if f.severity != "note"}
    if "pooler.dense.weight" in {row.name for row in checkpoint_report.rows}:
        assert found == quick == {("pooler.dense.weight", "random")}
    else:
        assert found == quick and ("pooler.weight", "random") in found
