"""The Jacobian of a batch of outputs in the parameters: row by row, or layer by layer without ever being formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resolvent.optim.layer_rows import input_rows, is_matrix_layer, output_rows

Params = Sequence[Tensor]


class RowJacobian:
    """J with its rows kept, (outputs, entries) for every parameter.

    Parameters
    ----------
    outputs : (...) with a graph; every entry is a row
    params : of which it is the Jacobian; those that the outputs do not depend on are left out of `params`
    chunk : rows that go back at once
    """

    def __init__(self, outputs: Tensor, params: Params, chunk: int = 64) -> None:
        flat = outputs.reshape(-1)
        parts: dict[int, list[Tensor]] = {}
        for start in range(0, len(flat) if params else 0, chunk):
            size = min(chunk, len(flat) - start)
            directions = torch.zeros(size, len(flat), dtype=flat.dtype, device=flat.device)
            directions[torch.arange(size), torch.arange(start, start + size)] = 1
            for number, rows in enumerate(_pulled(outputs, params, directions)):
                if rows is not None:
                    parts.setdefault(number, []).append(_wide(rows.reshape(size, -1)))
        self.params = [params[number] for number in parts]
        self.rows = [torch.cat(part) for part in parts.values()]

    def gram(self, weights: Sequence[float]) -> Tensor:
        """J W J^T with one weight a parameter."""
        return _sum([weight * (rows @ rows.T) for weight, rows in zip(weights, self.rows, strict=True)])

    def pull(self, v: Tensor) -> list[Tensor]:
        """J^T v, in the shapes of the parameters."""
        return [(rows.T @ v).reshape(p.shape) for p, rows in zip(self.params, self.rows, strict=True)]

    def push(self, u: Sequence[Tensor]) -> Tensor:
        """J u."""
        return _sum([rows @ _wide(part.reshape(-1)) for part, rows in zip(u, self.rows, strict=True)])


@dataclass
class _Tap:
    """One layer during one forward pass: its inputs, and a zero added to its outputs whose gradient is theirs."""

    module: nn.Module
    inputs: Tensor
    zero: Tensor
    gradients: Tensor | None = None  # (samples, outputs of a sample, positions, rows of the weight)


class LayerJacobian:
    """J of a model whose samples do not see each other, as products of what enters a layer with the gradients of its outputs.

    Parameters
    ----------
    outputs : (samples, ...) with a graph, from a forward pass under `tapped`
    params : of which it is the Jacobian; those of no tapped layer have their rows kept
    taps : the layers

    Notes
    -----
    The gradient of output k of sample i in a weight is g_ik a_i^T, so that a layer adds (a_i . a_j)(g_ik . g_jl) to J J^T. One backward pass for every
    output of a sample, to the layers' outputs and not to the weights.
    """

    def __init__(self, outputs: Tensor, params: Params, taps: Sequence[_Tap]) -> None:
        self.samples = outputs.shape[0]
        flat = outputs.reshape(self.samples, -1)
        each = flat.shape[1]
        directions = torch.eye(each, dtype=flat.dtype, device=flat.device)[:, None, :].expand(each, self.samples, each)
        self.taps = []
        for tap, g in zip(taps, _pulled(outputs, [tap.zero for tap in taps], directions), strict=True):
            if g is not None:
                tap.gradients = _wide(torch.stack([output_rows(tap.module, part) for part in g], dim=1))
                self.taps.append(tap)
        owned = {id(p) for tap in self.taps for p in tap.module.parameters(recurse=False)}
        self.rest = RowJacobian(outputs, [p for p in params if id(p) not in owned])
        self.params = [p for p in params if id(p) in owned] + self.rest.params
        self.split = len(self.params) - len(self.rest.params)
        index = {id(p): number for number, p in enumerate(self.params)}
        self.places = [(index.get(id(tap.module.weight)), index.get(id(tap.module.bias))) for tap in self.taps]

    def gram(self, weights: Sequence[float]) -> Tensor:
        """J W J^T with one weight a parameter."""
        terms = [self.rest.gram(weights[self.split :])] if self.rest.params else []
        for tap, (weight, bias) in zip(self.taps, self.places, strict=True):
            a, g = self._rows(tap)
            scale = 0.0 if weight is None else weights[weight]
            shift = 0.0 if bias is None else weights[bias]
            terms.append(_layer_gram(a, g, scale, shift))
        return _sum(terms)

    def pull(self, v: Tensor) -> list[Tensor]:
        """J^T v, in the shapes of the parameters."""
        found: dict[int, Tensor] = {}
        v = v.reshape(self.samples, -1)
        for tap, places in zip(self.taps, self.places, strict=True):
            a, g = self._rows(tap)
            mixed = (v[:, :, None, None] * g).sum(1).flatten(0, 1)
            for place, is_weight in zip(places, (True, False), strict=True):
                if place is None:
                    continue
                part = (mixed.T @ a.flatten(0, 1)).reshape(self.params[place].shape) if is_weight else mixed.sum(0)
                # A layer that is used twice has two taps.
                found[place] = found[place] + part if place in found else part
        return [found[number] for number in range(self.split)] + self.rest.pull(v.reshape(-1))

    def push(self, u: Sequence[Tensor]) -> Tensor:
        """J u."""
        terms = [self.rest.push(u[self.split :])] if self.rest.params else []
        for tap, (weight, bias) in zip(self.taps, self.places, strict=True):
            a, g = self._rows(tap)
            moved = torch.zeros(g.shape[0], g.shape[2], g.shape[3], dtype=g.dtype, device=g.device)
            if weight is not None:
                moved = moved + a @ _wide(u[weight]).flatten(1).T
            if bias is not None:
                moved = moved + _wide(u[bias])
            terms.append(torch.einsum("bkto,bto->bk", g, moved).reshape(-1))
        return _sum(terms)

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers in J."""
        return self._rows(self.taps[0])[1].dtype

    def _rows(self, tap: _Tap) -> tuple[Tensor, Tensor]:
        if tap.gradients is None:
            raise RuntimeError("a layer without gradients of its outputs")
        return _wide(input_rows(tap.module, tap.inputs)), tap.gradients


@contextmanager
def tapped(model: nn.Module, params: Params) -> Iterator[list[_Tap]]:
    """Collect what a forward pass of the model leaves at its layers with these parameters.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> with tapped(model, list(model.parameters())) as taps:
    ...     out = model(torch.ones(3, 2))
    >>> LayerJacobian(out, list(model.parameters()), taps).gram([1.0, 0.0]).shape
    torch.Size([3, 3])
    """
    taps: list[_Tap] = []
    wanted = {id(p) for p in params}

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        zero = torch.zeros_like(output, requires_grad=True)
        taps.append(_Tap(module, inputs[0].detach(), zero))
        # A sum of its own, so that an activation in place does not change what the gradient belongs to.
        return output + zero

    handles = [
        module.register_forward_hook(watch)
        for module in model.modules()
        if is_matrix_layer(module) and {id(module.weight), id(module.bias)} & wanted
    ]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def can_tap(model: Any) -> bool:
    """Whether layer by layer may be right: a module, and no layer in it that mixes the samples of a batch.

    Examples
    --------
    >>> can_tap(nn.Linear(2, 1)), can_tap(nn.BatchNorm1d(2)), can_tap(lambda x: x)
    (True, False, False)
    """
    mixes = (nn.modules.batchnorm._BatchNorm,)
    return (
        isinstance(model, nn.Module)
        and any(is_matrix_layer(module) for module in model.modules())
        and not any(isinstance(module, mixes) and module.training for module in model.modules())
    )


def _layer_gram(a: Tensor, g: Tensor, scale: float, shift: float) -> Tensor:
    """J W J^T of one layer: a (b, t, in), g (b, k, t, out) -> (b k, b k)."""
    samples, each, positions, out = g.shape
    rows = samples * each
    if positions == 1:
        flat = g.reshape(rows, out)
        G = (flat @ flat.T).reshape(samples, each, samples, each)
        K = scale * (a[:, 0] @ a[:, 0].T) + shift
        return (G * K[:, None, :, None]).reshape(rows, rows)
    # With few positions the products of positions are fewer than the entries of the samples' gradients.
    if positions**2 * each < out * a.shape[2]:
        G = torch.einsum("ikto,jlso->ikjlts", g, g)
        K = scale * torch.einsum("itn,jsn->ijts", a, a) + shift
        return torch.einsum("ikjlts,ijts->ikjl", G, K).reshape(rows, rows)
    J = torch.einsum("ikto,itn->ikon", g, a).reshape(rows, -1)
    b = g.sum(2).reshape(rows, out)
    return scale * (J @ J.T) + shift * (b @ b.T)


def _pulled(outputs: Tensor, inputs: Sequence[Tensor], directions: Tensor) -> list[Tensor | None]:
    """The gradients of (outputs * direction).sum() for every direction, stacked; None for inputs without influence."""
    if not inputs:
        return []
    back: Callable[..., Any] = torch.autograd.grad
    directions = directions.reshape(-1, *outputs.shape)
    if len(directions) == 1:
        found = back(outputs, inputs, directions[0], retain_graph=True, allow_unused=True)
        found = [None if part is None else part[None] for part in found]
    else:
        found = back(outputs, inputs, directions, retain_graph=True, allow_unused=True, is_grads_batched=True)
    return [None if part is None else part.detach() for part in found]


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def curvature(loss: Any, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Value, gradients r and curvature Q of the losses of samples, whose sum times s is the loss.

    Parameters
    ----------
    loss : "mse", "ce", "bce" or a function of outputs and targets that is a mean over samples
    outputs : (samples, ...)
    targets : of the loss

    Returns
    -------
    The loss; r (samples * each,); Q (samples, each, each), None for the identity; s.
    """
    flat = _wide(outputs.detach()).reshape(outputs.shape[0], -1)
    samples, each = flat.shape
    if loss == "mse":
        y = targets.reshape(samples, -1).to(flat)
        return F.mse_loss(flat, y), (flat - y).reshape(-1), None, 2.0 / flat.numel()
    if loss == "bce":
        y = targets.reshape(samples, -1).to(flat)
        p = flat.sigmoid()
        value = F.binary_cross_entropy_with_logits(flat, y)
        return value, (p - y).reshape(-1), torch.diag_embed(p * (1 - p)), 1.0 / flat.numel()
    if loss == "ce":
        value = F.cross_entropy(flat, targets)
        p = flat.softmax(1)
        kept = torch.ones_like(flat[:, :1]) if targets.is_floating_point() else (targets != -100)[:, None].to(flat)
        y = targets.to(flat) if targets.is_floating_point() else F.one_hot(targets.clamp(min=0), each).to(flat)
        Q = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return value, (kept * (p - y)).reshape(-1), kept[:, :, None] * Q, 1.0 / max(1.0, float(kept.sum()))
    with torch.enable_grad():
        point = _wide(outputs.detach()).requires_grad_()
        value = loss(point, targets)
        (r,) = torch.autograd.grad(value, point, create_graph=True)
        directions = torch.eye(each, dtype=flat.dtype, device=flat.device)[:, None, :].expand(each, samples, each)
        parts = _pulled(r, [point], directions)[0] if r.requires_grad else None
    if parts is None:
        parts = torch.zeros(each, *point.shape, dtype=flat.dtype, device=flat.device)
    Q = parts.reshape(each, samples, each).transpose(0, 1) * samples
    return value.detach(), r.detach().reshape(-1) * samples, Q, 1.0 / samples
