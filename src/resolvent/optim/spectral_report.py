"""`spectral_report`: how far the weights and updates of a model are from the spectral condition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resolvent.optim.fans import Weight, weights
from resolvent.optim.roles import Role
from resolvent.spectra import norm


@dataclass(frozen=True)
class SpectralRow:
    r"""One parameter in a `SpectralReport`.

    Parameters
    ----------
    name, role : of the parameter
    n_out, n_in : its shape as a linear map
    target : :math:`\sqrt{n_\mathrm{out}/n_\mathrm{in}}`
    weight : spectral norm of the weight over the target
    update : spectral norm of the update over the target; NaN where there is none
    change : root mean square of the change of the layer's output over that of the output; NaN where it is unknown

    Examples
    --------
    >>> SpectralRow("0.weight", "input", 4, 1, 2.0, 1.0, 0.1, 0.1).target
    2.0
    """

    name: str
    role: Role
    n_out: int
    n_in: int
    target: float
    weight: float
    update: float
    change: float


class SpectralReport(tuple[SpectralRow, ...]):
    """The rows of `spectral_report`; prints as a table.

    Examples
    --------
    >>> print(SpectralReport([SpectralRow("0.weight", "input", 4, 1, 2.0, 1.0, 0.1, float("nan"))]))
    parameter  role   n_out  n_in  target  |W|/target  |dW|/target  |dh|/|h|
    0.weight   input      4     1       2           1          0.1
    """

    def __str__(self) -> str:
        head = ["parameter", "role", "n_out", "n_in", "target", "|W|/target", "|dW|/target", "|dh|/|h|"]
        body = [
            [row.name, row.role, str(row.n_out), str(row.n_in)]
            + ["" if x != x else f"{x:.3g}" for x in (row.target, row.weight, row.update, row.change)]
            for row in self
        ]
        sizes = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines = [
            "  ".join(f"{x:<{n}}" if i < 2 else f"{x:>{n}}" for i, (x, n) in enumerate(zip(line, sizes, strict=True)))
            for line in [head, *body]
        ]
        return "\n".join(line.rstrip() for line in lines)


def spectral_report(
    model: nn.Module,
    updates: Mapping[str, Tensor] | None = None,
    inputs: Any = None,
    *,
    override: Mapping[str, Role] | None = None,
    rtol: float = 1e-3,
) -> SpectralReport:
    r"""Compare the spectral norms of weights and updates with :math:`\sqrt{n_\mathrm{out}/n_\mathrm{in}}`.

    Parameters
    ----------
    model : any module
    updates : what will be added to a parameter, by name, for example the difference of two state dicts; None takes minus
        the gradients that the parameters have
    inputs : arguments of the model (a tensor or a tuple); with them, the change of every layer's output is measured
    override : roles of parameters, see `resolvent.optim.roles`
    rtol : relative error of the norms

    Returns
    -------
    SpectralReport : one row for each parameter, in the model's order

    Raises
    ------
    ValueError : an update has another shape than its parameter, or a name that no parameter has.

    Notes
    -----
    A model follows the condition where the columns for W and dW do not depend on the width. Norms come from
    `resolvent.spectra.norm`; an embedding counts its largest row. The change is the one of the whole network, in which
    all layers below have been updated too, at the module that owns the parameter. Modes, buffers and gradients of the
    model stay as they are.

    References
    ----------
    "A Spectral Condition for Feature Learning"

    Examples
    --------
    >>> model = nn.Linear(4, 16, bias=False)
    >>> _ = nn.init.orthogonal_(model.weight)
    >>> row = spectral_report(model, {"weight": 0.1 * model.weight}, torch.ones(1, 4))[0]
    >>> round(row.weight, 3), round(row.update, 3), round(row.change, 3)
    (0.5, 0.05, 0.1)
    """
    found = weights(model, override)
    if updates is None:
        updates = {name: -w.param.grad for name, w in found.items() if w.param.grad is not None}
    for name, value in updates.items():
        if name not in found:
            raise ValueError(f"updates has {name!r}, which is no parameter of the model")
        if value.shape != found[name].param.shape:
            shape = tuple(found[name].param.shape)
            raise ValueError(f"updates[{name!r}] must have the shape {shape}, got {tuple(value.shape)}")
    changes = {} if inputs is None else _changes(model, found, updates, inputs)
    rows = []
    for name, w in found.items():
        update = _norm(w, updates[name], rtol) / w.target if name in updates else float("nan")
        size = _norm(w, w.param, rtol) / w.target
        change = changes.get(id(w.owner), float("nan"))
        rows.append(SpectralRow(name, w.role, w.fan_out, w.fan_in, w.target, size, update, change))
    return SpectralReport(rows)


def _norm(w: Weight, value: Tensor, rtol: float) -> float:
    value = value.detach()
    if value.dtype not in (torch.float32, torch.float64):
        value = value.float()
    matrix = w.matrix(value)
    if matrix.shape[-1] == 1:
        return float(torch.linalg.vector_norm(matrix, dim=-2).max())
    return float(norm(matrix, 2, rtol=rtol, generator=0))


def _changes(
    model: nn.Module, found: Mapping[str, Weight], updates: Mapping[str, Tensor], inputs: Any
) -> dict[int, float]:
    """The relative change of the output of every module that owns a parameter."""
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    owners = {id(w.owner): w.owner for w in found.values()}
    state = {name: p.detach() for name, p in model.named_parameters()}
    moved = state | {name: state[name] + value.detach() for name, value in updates.items()}
    # Buffers are copied, so that a batch normalisation in training mode does not count these batches.
    buffers = [{name: b.clone() for name, b in model.named_buffers()} for _ in range(2)]
    with torch.no_grad():
        before, after = (
            _outputs(model, owners, {**values, **kept}, args)
            for values, kept in zip((state, moved), buffers, strict=True)
        )
    return {
        key: float((after[key] - h).norm() / h.norm().clamp(min=torch.finfo(h.dtype).tiny))
        for key, h in before.items()
        if key in after and h.is_floating_point()
    }


def _outputs(model: nn.Module, owners: Mapping[int, nn.Module], state: dict[str, Tensor], args: tuple[Any, ...]) -> Any:
    seen: dict[int, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        first = next(_tensors(output), None)
        if first is not None:
            seen[id(module)] = first.detach()

    with ExitStack() as stack:
        for module in owners.values():
            stack.callback(module.register_forward_hook(keep).remove)
        torch.func.functional_call(model, state, args)
    return seen


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
