"""`groups`: parameter groups whose step sizes follow u-muP."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from resolvent.optim.unit.layers import Embedding, LayerNorm, Linear, Readout, RMSNorm
from resolvent.optim.unit.residual import ResidualStack
from resolvent.optim.unit.scale import positive


def groups(
    model: nn.Module,
    lr: float,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    independent_weight_decay: bool = True,
) -> list[dict[str, Any]]:
    r"""Parameter groups with the step sizes of u-muP, for any optimizer of torch's form.

    ===========================  ==========================================
    parameter                    factor of `lr`
    ===========================  ==========================================
    weight of `Linear`           :math:`n_\mathrm{in}^{-1/2}`
    table of `Embedding`         :math:`n^{-1/2}`, n the number of columns
    weight of `Readout`          1
    biases and gains             1
    inside a `ResidualStack`     also :math:`\mathrm{depth}^{-1/2}`
    ===========================  ==========================================

    Parameters
    ----------
    model : any module whose trained parameters belong to layers of `resolvent.optim.unit`
    lr : the one learning rate; a good one stays good at other widths and depths
    optimizer : "adam", also for other methods whose step does not depend on the size of gradients (Lion, Muon); or
        "sgd". Gradients of unit scale make the two rules equal.
    weight_decay : decay of matrices and tables; biases and gains have none
    independent_weight_decay : divide the decay by the group's learning rate, so that a step decays by `weight_decay`
        itself whatever `lr` is

    Returns
    -------
    list of groups with "params", "lr", "weight_decay", "names" and "role"; parameters of one factor are in one group

    Raises
    ------
    TypeError : a parameter that is trained belongs to another kind of module.
    ValueError : `lr` is not positive, `weight_decay` is negative, or an unknown optimizer.

    Notes
    -----
    Found from the modules, not from marks on parameters, so that copies and loaded states keep their factors. A
    parameter that two modules share takes the factor of the first; depths of nested stacks multiply.

    References
    ----------
    "u-μP: The Unit-Scaled Maximal Update Parametrization"

    Examples
    --------
    >>> model = nn.Sequential(Linear(16, 64), Readout(64, 10))
    >>> [(g["role"], g["lr"]) for g in groups(model, 1.0)]
    [('hidden', 0.25), ('readout', 1.0)]
    """
    positive("lr", lr)
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer must be 'adam' or 'sgd', got {optimizer!r}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay!r}")
    gathered: dict[tuple[str, float], list[tuple[str, Tensor]]] = defaultdict(list)
    _gather(model, "", 1.0, gathered, set())
    found = []
    for (role, factor), members in gathered.items():
        rate = lr * factor
        decay = 0.0 if role == "vector" else weight_decay
        found.append(
            {
                "params": [p for _, p in members],
                "names": [name for name, _ in members],
                "role": role,
                "lr": rate,
                "weight_decay": decay / rate if independent_weight_decay else decay,
            }
        )
    return found


def _gather(
    module: nn.Module,
    prefix: str,
    depth: float,
    into: dict[tuple[str, float], list[tuple[str, Tensor]]],
    seen: set[int],
) -> None:
    if isinstance(module, ResidualStack):
        depth *= module.depth
    for name, p in module.named_parameters(recurse=False):
        if id(p) not in seen and p.requires_grad:
            seen.add(id(p))
            role, factor = _rule(module, prefix + name, p)
            into[role, factor * depth**-0.5].append((prefix + name, p))
    for name, child in module.named_children():
        _gather(child, f"{prefix}{name}.", depth, into, seen)


def _rule(module: nn.Module, name: str, p: Tensor) -> tuple[str, float]:
    if isinstance(module, Linear | Embedding | LayerNorm | RMSNorm):
        if p.ndim < 2 or isinstance(module, LayerNorm | RMSNorm):
            return "vector", 1.0
        if isinstance(module, Readout):
            return "readout", 1.0
        # A table has one input, the one-hot one; its rule goes by the columns, where it differs from muP.
        return "embedding" if isinstance(module, Embedding) else "hidden", p.shape[1] ** -0.5
    raise TypeError(
        f"{name} belongs to a {type(module).__name__}, which has no rule of u-muP: use the layers of "
        "resolvent.optim.unit, or set requires_grad to False and give it a group of its own"
    )
