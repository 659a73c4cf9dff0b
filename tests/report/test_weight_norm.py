"""Weight-normalised layers against torch's own modules, and what only looks like one."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from resolvent.report import report
from resolvent.report.layout import Layout
from resolvent.report.readers import stored_state
from resolvent.report.stored import Stored
from resolvent.report.weight_norm import with_weight_norm

MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(5, 7),
    "square": lambda: nn.Linear(6, 6),
    "conv": lambda: nn.Conv1d(3, 6, 4),
    "transposed": lambda: nn.ConvTranspose1d(3, 6, 4),
    "one": lambda: nn.Linear(8, 1),
}


def normalised(module: nn.Module, dim: int | None, *, old: bool, name: str = "weight") -> nn.Module:
    """A weight-normalised module with magnitudes and directions that say nothing of each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made = weight_norm(module, name, dim) if old else parametrizations.weight_norm(module, name, dim)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    if old:
        # the hook that makes the weight runs before each call, and needs no input
        next(iter(made._forward_pre_hooks.values()))(made, None)
    return made


def one(state: dict[str, Tensor], name: str) -> Stored:
    (found,) = (stored for stored in stored_state(state) if stored.name == name)
    return found


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("kind", MODULES)
def test_the_weight_is_that_of_torch(kind: str, dim: int | None, old: bool) -> None:
    module = normalised(MODULES[kind](), dim, old=old)
    stored = one(module.state_dict(), "weight")
    wanted = module.weight.detach()
    assert stored.shape == wanted.shape and stored.load().dtype == torch.float32
    assert torch.allclose(stored.load(), wanted, rtol=1e-6, atol=1e-7)
    over = "all entries" if dim is None or wanted.shape[dim] == 1 else f"all axes but {dim}"
    assert "weight norm: g v / ||v||" in stored.notes[0] and stored.notes[0].endswith(f"the norm over {over}")
    rows = {row.name: row for row in report(module).rows}
    magnitude = "weight_g" if old else "parametrizations.weight.original0"
    assert rows[magnitude].status == "skipped" and rows[magnitude].reason.startswith("it is the magnitude of 'weight'")
    assert [name for name, row in rows.items() if row.status == "measured"] == (
        ["weight"] if min(wanted.reshape(len(wanted), -1).shape) > 0 else []
    )


@pytest.mark.parametrize("old", [True, False])
def test_the_product_is_what_any_weight_of_its_name_is(old: bool) -> None:
    up = normalised(nn.ConvTranspose1d(3, 6, 4), 0, old=old)
    row = report(nn.ModuleDict({"up": up}))["up.weight"]
    wanted = up.weight.detach().transpose(0, 1).reshape(6, -1).double()
    assert row.shape == (6, 12) and any("transposed convolution" in note for note in row.notes)
    assert row.measured.spectral_norm == pytest.approx(float(torch.linalg.matrix_norm(wanted, 2)), rel=1e-6)
    gates = normalised(nn.LSTM(5, 4), 0, old=old, name="weight_hh_l0")
    names = [row.name for row in report(gates).rows if row.status == "measured"]
    assert [n for n in names if "hh" in n] == [f"weight_hh_l0[{g}]" for g in ("input", "forget", "cell", "output")]


def test_files_and_low_precision(tmp_path: Path) -> None:
    module = normalised(nn.Linear(300, 40), 0, old=True).to(torch.bfloat16)
    state = {name: tensor for name, tensor in module.state_dict().items() if name != "weight"}
    save_file(state, tmp_path / "a.safetensors")
    g, v = (state[f"weight_{half}"].double() for half in "gv")
    exact = torch.linalg.matrix_norm(g * v / v.norm(dim=1, keepdim=True))
    row = report(tmp_path)["weight"]
    assert row.dtype == "bfloat16" and row.measured.frobenius_norm == pytest.approx(float(exact), rel=1e-6)
    assert row.measured.frobenius_norm == pytest.approx(float(g.norm()), rel=1e-6)


@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_norms_of_many_pieces(dim: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("resolvent.report.weight_norm"), "_CHUNK", 64)
    v = 1e30 * torch.randn(17, 9, 23, generator=torch.Generator().manual_seed(1))
    shape = [v.shape[axis] if axis == dim else 1 for axis in range(3)] if dim is not None else []
    g = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    over = [axis for axis in range(3) if axis != dim]
    wanted = (g.double() * v.double() / torch.linalg.vector_norm(v.double(), dim=over, keepdim=True)).float()
    found = one({"x.weight_g": g, "x.weight_v": v}, "x.weight").load()
    # squares of 1e30 are no single-precision numbers
    assert torch.allclose(found, wanted.reshape(v.shape), rtol=1e-6, atol=0)


def test_a_lone_half_and_halves_that_do_not_fit_are_what_they_are() -> None:
    g, v = torch.ones(4, 1), torch.ones(4, 3)
    for state in (
        {"a.weight_v": v},
        {"a.weight_g": g, "b.weight_v": v},
        {"a.weight_g": torch.ones(3, 1), "a.weight_v": v},
        {"a.weight_g": torch.ones(4), "a.weight_v": v},
        {"a.weight_g": torch.ones(1, 1), "a.weight_v": v},
        {"a.weight_g": torch.ones(4, 3), "a.weight_v": v},
        {"a.weight_g": g, "a.weight_v": torch.ones(4)},
        {"a.weight_g": g, "a.weight_v": torch.ones(4, 0)},
        {"a.weight_g": g, "a.weight_v": v, "a.weight": v},
        {"a.weight_g": g, "a.weight_v": v.long()},
        {"head_g": g, "head_v": v},
        {"a.original0": g, "a.original1": v},
        {"a.parametrizations.b.c.original0": g, "a.parametrizations.b.c.original1": v},
    ):
        assert [t.name for t in stored_state(state)] == sorted(state) and not any(t.notes for t in stored_state(state))


def test_spectral_norms_and_orthogonal_weights_are_no_weight_norms() -> None:
    for module in (
        spectral_norm(nn.Linear(5, 7)),
        parametrizations.spectral_norm(nn.Linear(5, 7)),
        parametrizations.orthogonal(nn.Linear(5, 7)),
    ):
        state = module.state_dict()
        tensors = stored_state(state)
        assert {t.name for t in tensors} == set(state)
        (stored,) = (t for t in tensors if t.name.endswith(("_orig", ".original")))
        assert torch.equal(stored.load(), state[stored.name]) and "before its parametrization" in stored.notes[0]
    # such a vector may look like a matrix beside a magnitude
    state = {"a.weight_orig": torch.ones(4, 3), "a.weight_v": torch.ones(4, 3), "a.weight_g": torch.ones(4, 1)}
    assert {t.name for t in stored_state(state)} == set(state)


def test_a_product_that_another_parametrization_changes_is_not_the_weight() -> None:
    module = normalised(nn.Linear(5, 7), 0, old=False)
    parametrize.register_parametrization(module, "weight", nn.Linear(5, 5))
    assert {t.name for t in stored_state(module.state_dict())} == set(module.state_dict())


def test_a_direction_of_zeros_is_not_finite_as_in_torch() -> None:
    module = normalised(nn.Linear(5, 7), 0, old=False)
    with torch.no_grad():
        module.parametrizations.weight.original1[2] = 0
    row = report(module)["weight"]
    assert row.status == "failed" and torch.isnan(module.weight[2]).all() and "5 of its 35 entries" in row.reason


def test_sparse_halves_fail_alone() -> None:
    import scipy.sparse

    state = {"a.weight_g": torch.ones(3, 1), "a.weight_v": scipy.sparse.eye_array(3), "b.weight": torch.eye(3)}
    rows = {row.name: row for row in report(state).rows}
    assert rows["a.weight"].status == "failed" and "is sparse" in rows["a.weight"].reason
    assert rows["b.weight"].status == "measured"


def test_two_checkpoints_are_compared_by_their_products() -> None:
    first = normalised(nn.Linear(5, 7), 0, old=True)
    second = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second["weight_v"] *= 3
    (same,) = report(first, second).comparison.matrices
    assert same.name == "weight" and same.relative_change < 1e-6
    second["weight_g"] *= 2
    (twice,) = report(first, second).comparison.matrices
    assert math.isclose(twice.relative_change, 1, rel_tol=1e-5)


def test_nothing_is_read_before_it_is_needed() -> None:
    read: list[str] = []

    def half(name: str, tensor: Tensor) -> Stored:
        return Stored(name, tuple(tensor.shape), "float32", lambda: (read.append(name), tensor)[1])

    pair = [half("weight_g", torch.ones(3, 1)), half("weight_v", torch.ones(3, 4))]
    g, weight = with_weight_norm(pair)
    layout = Layout([g, weight])
    assert read == [] and layout.tied(weight) is None
    assert np.allclose(weight.load(), 0.5) and read == ["weight_g", "weight_v"]
