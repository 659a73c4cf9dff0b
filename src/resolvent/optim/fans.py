"""How many inputs and outputs a parameter has as a linear map: what rules of width go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from resolvent.optim.optimizer import check
from resolvent.optim.roles import Role, roles


@dataclass(frozen=True)
class Weight:
    """One parameter as an (n_out, n_in) map."""

    name: str
    param: nn.Parameter
    role: Role
    fan_out: int
    fan_in: int
    owner: nn.Module

    @property
    def target(self) -> float:
        """The spectral norm that the spectral condition asks for, up to a constant."""
        return (self.fan_out / self.fan_in) ** 0.5

    def matrix(self, value: Tensor) -> Tensor:
        """A tensor of the parameter's shape as (n_out, n_in); of a table, one (n_out, 1) matrix for each row."""
        if self.role == "vector":
            return value.reshape(-1, 1)
        if self.role == "embedding" and not _rows_are_outputs(self.owner):
            return value.reshape(-1, value.shape[-1], 1)
        if self.role == "embedding":
            return value.reshape(self.fan_out, -1).T.unsqueeze(-1)
        if isinstance(self.owner, nn.modules.conv._ConvTransposeNd):
            return value.transpose(0, 1).reshape(self.fan_out, -1)
        return value.reshape(self.fan_out, -1)


def weights(model: nn.Module, override: Mapping[str, Role] | None = None) -> dict[str, Weight]:
    """Every parameter of a model by name, with its role and its numbers of inputs and outputs."""
    known = roles(model, override)
    owners = {
        f"{prefix}.{name}" if prefix else name: module
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._parameters
    }
    return {name: _weight(name, p, known[name], owners[name]) for name, p in model.named_parameters()}


def rates(
    model: nn.Module,
    factors: Mapping[str, float],
    lr: float,
    weight_decay: float,
    override: Mapping[str, Role] | None,
) -> list[dict[str, Any]]:
    """Groups of parameters that have one role and one factor of the learning rate; each step decays all alike."""
    check("lr", lr, above=True)
    check("weight_decay", weight_decay)
    found: dict[tuple[Role, float], dict[str, Any]] = {}
    for name, w in weights(model, override).items():
        if not w.param.requires_grad:
            continue
        factor = factors[name]
        group = found.setdefault(
            (w.role, factor),
            {
                "params": [],
                "names": [],
                "role": w.role,
                "lr": lr * factor,
                "weight_decay": 0.0 if w.role == "vector" else weight_decay / factor,
            },
        )
        group["params"].append(w.param)
        group["names"].append(name)
    return list(found.values())


def _weight(name: str, p: nn.Parameter, role: Role, owner: nn.Module) -> Weight:
    if role == "vector":
        return Weight(name, p, role, max(p.numel(), 1), 1, owner)
    if role == "embedding":
        return Weight(name, p, role, p.shape[0] if _rows_are_outputs(owner) else p.shape[-1], 1, owner)
    fan_out = p.shape[1] if isinstance(owner, nn.modules.conv._ConvTransposeNd) else p.shape[0]
    return Weight(name, p, role, fan_out, p.numel() // max(fan_out, 1), owner)


def _rows_are_outputs(owner: nn.Module) -> bool:
    return isinstance(owner, nn.Linear | nn.modules.conv._ConvNd)
