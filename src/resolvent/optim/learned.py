"""Learned optimizers: a small perceptron, trained on training runs, turns features of every weight into its step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.optim.learned_rule import FEATURES, STEP, Meta, Moments, Rule, begin
from resolvent.optim.optimizer import Group, Optimizer, State, check
from resolvent.optim.roles import ROLES

Parametrization = Literal["mup", "sp"]
_DECAYS = {"momentum_decays": 3, "rms_decays": 1, "adafactor_decays": 3}


class LearnedOptimizer(Optimizer):
    r"""Step by a learned function of gradient, weight, momenta and second moments, transferred over widths by muP:
    :math:`w \leftarrow w - \mathrm{lr}\, s\, 10^{-3} d\, e^{10^{-3} a}` with :math:`(d, a)` the outputs of a perceptron.

    Parameters
    ----------
    params : parameters or groups; `parametrization="mup"` wants the groups of `param_groups_by_role`
    lr : a multiplier that schedules act on; the step size itself is learned
    weight_decay : decoupled: weights shrink by lr x 1e-3 x weight_decay a step, as those of AdamW with lr=1e-3
    meta : meta-parameters: a dict as `meta_train` returns it, the path of a safetensors file, or None for those that come
        with the library
    parametrization : "mup": steps of hidden matrices are s = base_width / fan_in, others 1. "sp": all are 1. At the base width
        both are one method, so they share their meta-parameters
    base_width : width at which the meta-parameters were learned; None: what the file says, else 64
    foreach, maximize : as in `torch.optim.AdamW`

    Raises
    ------
    ValueError : matrices without a role under "mup", meta-parameters of other shapes.

    Notes
    -----
    39 features: gradient, weight, momenta at three decays, second moment, their quotients, row and column means of squares
    at three decays with their roots and the gradients and momenta normalised by them, each divided by its root mean
    square over the tensor; and 11 of the time. A perceptron with two hidden layers reads them for every weight alike. On the CPU
    vectors and matrices of float32 take two passes of one kernel; other shapes go through plain torch, in blocks. State: four numbers
    a weight (3 momenta, 1 second moment) and the means of rows and columns.
    For muP the model's readout is to be multiplied by base_width / width in its forward pass and to start at zero, and hidden
    layers start with variance proportional to 1 / fan_in, as in torch. Steps of the readout are not scaled then.
    A gradient of NaN makes the weights NaN. No momentum is corrected for its start.

    References
    ----------
    "μLO: Compute-Efficient Meta-Generalization of Learned Optimizers"

    Examples
    --------
    >>> from resolvent.optim import param_groups_by_role
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    >>> optimizer = LearnedOptimizer(param_groups_by_role(model))
    >>> model(torch.ones(2, 4)).square().mean().backward()
    >>> optimizer.step()
    """

    elementwise = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        *,
        meta: Mapping[str, Tensor] | str | Path | None = None,
        parametrization: Parametrization = "mup",
        base_width: int | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if parametrization not in ("mup", "sp"):
            raise ValueError(f"parametrization must be 'mup' or 'sp', got {parametrization!r}")
        found, width = _meta(meta)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "parametrization": parametrization,
            "base_width": width if base_width is None else base_width,
            "role": None,
            "meta": found,
        }
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        if group["parametrization"] not in ("mup", "sp"):
            raise ValueError(f"parametrization must be 'mup' or 'sp', got {group['parametrization']!r}")
        check("base_width", group["base_width"], 0.0, above=True)
        if not isinstance(group["meta"], dict) or "w0" not in group["meta"]:
            group["meta"], _ = _meta(group["meta"])
        group["meta"] = _checked(group["meta"])
        role = group["role"]
        if role is not None and role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)} or None, got {role!r}")
        matrices = [p for p in group["params"] if sum(n > 1 for n in p.shape) >= 2]
        if group["parametrization"] == "mup" and role is None and matrices:
            raise ValueError(
                "parametrization='mup' must know which matrices are hidden: give param_groups_by_role(model) as params, "
                f"or a role to the group with a parameter of shape {tuple(matrices[0].shape)}; or parametrization='sp'"
            )

    def _begin(self, p: Tensor, group: Group) -> State:
        return {name: t.squeeze(0) for name, t in begin(_particle(p)).items()}

    def _advance(self, group: Group, p: Tensor, g: Tensor, state: State, fused: bool) -> None:
        if p.numel() == 0:
            return
        meta = {name: t.unsqueeze(0) for name, t in group["meta"].items()}
        rule = Rule.of(meta, p)
        moments: Moments = {name: t.unsqueeze(0) for name, t in state.items() if isinstance(t, Tensor)}
        step = torch.full((1,), state["step"] - 1.0, dtype=p.dtype, device=p.device)
        rate = group["lr"] * _scale(p, group)
        x, y = _particle(p), _particle(g)
        if group["weight_decay"]:
            p.mul_(1 - group["lr"] * STEP * group["weight_decay"])
        if fused and x.data_ptr() == p.data_ptr():
            rule.advance(x, y, moments, step, rate)
        else:
            p.sub_(rule.update(x, y, moments, step).reshape(p.shape), alpha=rate)

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        self._advance(group, p, g, state, fused=False)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        for p, g, state in zip(ps, gs, states, strict=True):
            self._advance(group, p, g, state, fused=True)


def _particle(p: Tensor) -> Tensor:
    """A leading axis of one particle, and at least one axis behind it."""
    return p.detach().reshape(1, *p.shape) if p.ndim else p.detach().reshape(1, 1)


def _scale(p: Tensor, group: Group) -> float:
    if group["parametrization"] == "sp" or group["role"] != "hidden" or p.ndim < 2:
        return 1.0
    return float(group["base_width"]) / math.prod(p.shape[1:])


def _meta(meta: Any) -> tuple[Meta, int]:
    """Meta-parameters from wherever they are, and the width that they were learned at."""
    if meta is None:
        return _shipped()
    if isinstance(meta, (str, Path)):
        return _read(Path(meta))
    if not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a dict of tensors, a path or None, got {type(meta).__name__}")
    return _checked(meta), 64


@cache
def _shipped() -> tuple[Meta, int]:
    return _read(Path(str(files("resolvent.optim") / "learned_meta.safetensors")))


def _read(path: Path) -> tuple[Meta, int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            meta = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            about = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"meta must be the path of a safetensors file, got {str(path)!r}: {error}") from None
    return _checked(meta), int(about.get("base_width", 64))


def _checked(meta: Mapping[str, Tensor]) -> Meta:
    layers = sum(name.startswith("w") for name in meta)
    order = [f"{kind}{k}" for k in range(layers) for kind in "wb"] + list(_DECAYS)
    if layers < 2 or set(order) != set(meta):
        raise ValueError(f"meta must have w0, b0, ..., and {', '.join(_DECAYS)}, got {', '.join(sorted(meta))}")
    width = FEATURES
    for k in range(layers):
        w, b = meta[f"w{k}"], meta[f"b{k}"]
        last = k == layers - 1
        if w.ndim != 2 or w.shape[0] != width or b.shape != w.shape[1:] or (last and w.shape[1] != 2):
            raise ValueError(f"meta: w{k} must have shape ({width}, {'2' if last else 'hidden'}), got {tuple(w.shape)}")
        width = w.shape[1]
    for name, count in _DECAYS.items():
        if meta[name].shape != (count,):
            raise ValueError(f"meta: {name} must have shape ({count},), got {tuple(meta[name].shape)}")
    return {name: meta[name].detach() for name in order}
