"""Steepest descent under a norm chosen for each layer, with Muon as its spectral case."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.functions import orthogonalize
from resolvent.functions.polar import orthogonal_steps
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.optim.fused import chunks, scalars
from resolvent.optim.fused import table as addresses
from resolvent.optim.optimizer import Group, Optimizer, State, check
from resolvent.optim.precision import PRECISIONS, Precision, product_dtype
from resolvent.optim.work import Work

Norm = Literal["inf", "l2", "1->rms", "rms->rms", "spectral", "conv"]
NORMS = ("inf", "l2", "1->rms", "rms->rms", "spectral", "conv")
_MATRIX = ("rms->rms", "spectral", "conv")
# Singular values that the steps are made for, relative to the Frobenius norm: the default of `orthogonalize`.
_LOW = 1e-3


def dualize(g: Any, norm: Norm, *, steps: int | None = 5) -> tuple[Any, Any]:
    r"""The direction of steepest ascent under a norm, :math:`\operatorname{argmax}_{\|t\| = 1} \langle g, t\rangle`, and the
    dual norm of `g`, the value of that maximum.

    Parameters
    ----------
    g : a gradient: any shape for "inf" and "l2"; (*batch, rows, d) for "1->rms"; (*batch, out, in) for "rms->rms" and
        "spectral"; (out, in, *kernel) for "conv"
    norm : of the parameter W. "inf": the largest entry; "l2": the Euclidean norm of all entries; "1->rms": the largest root mean
        square of a row, for embeddings; "spectral": the largest singular value; "rms->rms": sqrt(in / out) times that; "conv":
        area sqrt(in / out) times that of the kernel flattened to (out, in * area)
    steps : of orthogonalisation by polynomials, for the last three; 5 take singular values of more than 1e-3 of the Frobenius
        norm to within 0.12 of one. None: to full precision

    Returns
    -------
    direction : like `g`; zero where `g` is zero
    dual_norm : <g, direction>, of the shape of the batch

    Raises
    ------
    ValueError : an unknown norm, a shape that does not fit it, NaN.

    Notes
    -----
    Steepest descent, argmin over d of <g, d> + s/2 ||d||^2, is the step -(dual_norm / s) direction. The directions are sign(g),
    g / ||g||, rows of root mean square one, U V^T of the reduced SVD, sqrt(out / in) U V^T, and that over the area of the kernel.
    Where layers are composed by the largest of their norms, every layer takes its own direction, and the dual norms add up. Cost:
    one pass, or 3 `steps` products. Gradients as those of `orthogonalize`.

    References
    ----------
    "Old Optimizer, New Norm: An Anthology"

    Examples
    --------
    >>> direction, size = dualize(torch.tensor([[3.0, 0.0], [0.0, -4.0]]), "spectral", steps=None)
    >>> direction.round(decimals=4) + 0.0, round(float(size), 4)
    (tensor([[ 1.,  0.],
            [ 0., -1.]]), 7.0)
    """
    G, kind = as_tensor(g, "g")
    _check_norm(norm, NORMS)
    least = {"inf": 0, "l2": 0, "conv": 3}.get(norm, 2)
    if G.ndim < least:
        raise ValueError(f"g must have at least {least} axes for norm={norm!r}, got shape {tuple(G.shape)}")
    check_finite(G, "g")
    if norm in _MATRIX:
        M = G.flatten(1) if norm == "conv" else G
        D = orthogonalize(M, steps=steps) * _factor(norm, tuple(G.shape[-2:] if norm != "conv" else G.shape))
        return give_back(D.reshape(G.shape), kind), give_back((M * D).sum((-2, -1)), kind)
    D = _entrywise(G, norm)
    size = (G * D).sum((-2, -1)) if norm == "1->rms" else (G * D).sum()
    return give_back(D, kind), give_back(size, kind)


def _check_norm(norm: str, allowed: tuple[str, ...]) -> None:
    if norm not in allowed:
        raise ValueError(f"norm must be one of {', '.join(allowed)}, got {norm!r}")


def _entrywise(G: Tensor, norm: str) -> Tensor:
    if norm == "inf":
        return G.sgn()
    # Over the largest entry first: squares of 1e-25 are zero in float32.
    G = _over(G, G.abs().max() if norm == "l2" else G.abs().amax(-1, keepdim=True)) if G.numel() else G
    return _over(G, G.norm() if norm == "l2" else G.norm(dim=-1, keepdim=True) / math.sqrt(max(G.shape[-1], 1)))


def _over(G: Tensor, size: Tensor) -> Tensor:
    """G / size, zero where the size is."""
    return torch.where(size > 0, G / torch.where(size > 0, size, torch.ones_like(size)), torch.zeros_like(G))


def _factor(norm: str, shape: tuple[int, ...]) -> float:
    """What the orthogonal factor is multiplied by."""
    if norm == "spectral" or 0 in shape:
        return 1.0
    return math.sqrt(shape[0] / shape[1]) / math.prod(shape[2:])


class SteepestDescent(Optimizer):
    r"""Steepest descent with momentum, each layer under a norm of its own: :math:`W \leftarrow W - \eta\,(\mathrm{dualize}(u) +
    \lambda W)` with :math:`m \leftarrow \beta m + (1-\beta) g` and :math:`u = \beta m + (1-\beta) g` (Nesterov) or :math:`m`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`; groups of `param_groups_by_role` know their embeddings
    lr : size of the step in the norm of the layer, so that the best one hardly depends on the width
    momentum : beta
    nesterov : look one step ahead
    weight_decay : lambda, decoupled
    norm : as in `dualize`, or "auto": "1->rms" for the role "embedding", "inf" for vectors, "rms->rms" for matrices and "conv" for
        kernels. "spectral" for all matrices is Muon.
    scale : "unit": steps of size `lr`; "dual": times the sum of the dual norms of the tensors of a group, which is steepest
        descent on a loss of smoothness 1 / lr in the largest norm of the layers
    steps : of orthogonalisation; None: to full precision
    precision : of its products. "auto": bfloat16 for float32 parameters with sides of at least 128, where the hardware multiplies it: the
        direction of a Gaussian matrix is then within 11 % of the exact one, against 9 % for the same five steps in float32; "bfloat16";
        "full": that of the parameter
    foreach, fused, maximize : as in `torch.optim.AdamW`; both orthogonalise matrices of equal shape together, and fused makes what is
        around bfloat16 products in two passes over memory

    Notes
    -----
    State: one momentum, half of AdamW's. Cost: 15 products on the smaller side of every matrix. Matrices with one axis of length one are
    normalised, as their singular value is their norm. A gradient with NaN in a matrix raises ValueError.

    References
    ----------
    "Old Optimizer, New Norm: An Anthology"; "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon Algorithm"

    Examples
    --------
    >>> layer = torch.nn.Linear(4, 2)
    >>> optimizer = SteepestDescent(layer.parameters(), lr=0.1, steps=None)
    >>> before = layer.weight.detach().clone()
    >>> layer(torch.ones(3, 4)).square().sum().backward()
    >>> optimizer.step()
    >>> step = torch.linalg.matrix_norm(layer.weight.detach() - before, 2) * (4 / 2) ** 0.5
    >>> round(float(step), 2)
    0.1
    """

    elementwise = False
    takes_complex = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        *,
        norm: Literal["auto"] | Norm = "auto",
        scale: Literal["unit", "dual"] = "unit",
        steps: int | None = 5,
        precision: Precision = "auto",
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "norm": norm, "scale": scale,
            "steps": steps, "precision": precision,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("momentum", group["momentum"], 0.0, 1.0, below=True)
        _check_norm(group["norm"], ("auto", *NORMS))
        for name, known in (("scale", ("unit", "dual")), ("precision", PRECISIONS)):
            if group[name] not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {group[name]!r}")
        steps = group["steps"]
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps must be a positive integer or None, got {steps!r}")

    def _is_elementwise(self, group: Group) -> bool:
        return bool(group["norm"] == "inf" and group["scale"] == "unit")

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"momentum": torch.zeros_like(p)}

    def _step_bucket(self, group: Group, works: list[Work]) -> None:
        # The sum over the tensors of a group takes all of them at once.
        super()._step_bucket({**group, "foreach": None} if group["scale"] == "dual" else group, works)

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        beta = group["momentum"]
        m = state["momentum"].lerp_(g, 1 - beta)
        u = g.lerp(m, beta) if group["nesterov"] else m
        norm = norm_of(p, group)
        direction, factor = _directions([u], norm, group)
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction[0].view_as(p), alpha=-group["lr"] * factor)

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        beta, lr = group["momentum"], group["lr"]
        ms = [state["momentum"] for state in states]
        torch._foreach_lerp_(ms, gs, 1 - beta)
        us = torch._foreach_lerp(gs, ms, beta) if group["nesterov"] else ms
        alike: dict[Any, list[int]] = defaultdict(list)
        for i, p in enumerate(ps):
            norm = norm_of(p, group)
            alike[norm, p.shape if norm in _MATRIX else None].append(i)
        if group["weight_decay"]:
            torch._foreach_mul_(ps, 1 - lr * group["weight_decay"])
        found: list[tuple[list[int], Any, float]] = []
        for (norm, _), members in alike.items():
            found.append((members, *_directions([us[i] for i in members], norm, group)))
        if group["scale"] == "dual":
            sizes = [
                factor * (us[i] * direction.view_as(us[i])).sum()
                for members, directions, factor in found
                for i, direction in zip(members, directions, strict=True)
            ]
            total = torch.stack(sizes).sum()
        for members, directions, factor in found:
            for i, direction in zip(members, directions, strict=True):
                if group["scale"] == "dual":
                    direction = direction.to(ps[i].dtype) * total
                ps[i].add_(direction.view_as(ps[i]), alpha=-lr * factor)

    def _can_fuse(self, group: Group) -> bool:
        return group["scale"] == "unit" and group["steps"] is not None

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        alike: dict[Any, list[int]] = defaultdict(list)
        for i, p in enumerate(ps):
            norm = norm_of(p, group)
            narrow = norm in _MATRIX and _product_dtype(p, group) == torch.bfloat16 and min(_sides(p)) > 1
            alike[(norm, p.shape) if narrow and p.dtype == torch.float32 else None].append(i)
        rest = alike.pop(None, [])
        if rest:
            self._foreach(group, [ps[i] for i in rest], [gs[i] for i in rest], [states[i] for i in rest])
        for (norm, _), members in alike.items():
            some = [ps[i] for i in members]
            _fused_steps(group, norm, some, [gs[i] for i in members], [states[i]["momentum"] for i in members])


def _fused_steps(group: Group, norm: str, ps: list[Tensor], gs: list[Tensor], ms: list[Tensor]) -> None:
    """Matrices of one shape with products in bfloat16: two passes over memory around the products."""
    from resolvent.optim.steepest_kernel import mix, move

    beta, lr = group["momentum"], group["lr"]
    X = torch.empty(len(ps), *_sides(ps[0]), dtype=torch.bfloat16)
    pieces, narrow = chunks(ps), np.empty(0, np.uint16)
    like, *numbers = scalars(ps[0], beta, 1 - beta, beta if group["nesterov"] else 1.0)
    sums = mix(addresses(gs, ms, list(X)), pieces, like, narrow, *numbers)
    sizes = np.sqrt(np.bincount(pieces[:, 0], sums, len(ps)))
    if not np.isfinite(sizes).all():
        raise ValueError("a gradient of a matrix is not finite, or its square leaves the range of float32")
    X /= torch.from_numpy(np.where(sizes > 0, sizes, 1.0)).to(torch.float32)[:, None, None]
    tall = X.shape[1] >= X.shape[2]
    D = orthogonal_steps(X if tall else X.mT, group["steps"], _LOW, "polar_express")[0]
    D = (D if tall else D.mT).contiguous()
    like, *numbers = scalars(ps[0], 1 - lr * group["weight_decay"], lr * _factor_of(norm, tuple(ps[0].shape)))
    move(addresses(ps, list(D)), pieces, like, narrow, *numbers)


def norm_of(p: Tensor, group: Group) -> Norm:
    """The norm of a parameter, with "auto" resolved by the group's role and the parameter's shape.

    Parameters
    ----------
    p : a parameter
    group : with "norm" and, where it is known, "role"

    Returns
    -------
    One of the norms of `dualize`.

    Examples
    --------
    >>> norm_of(torch.zeros(8, 3, 5, 5), {"norm": "auto"}), norm_of(torch.zeros(8), {"norm": "spectral"})
    ('conv', 'inf')
    """
    wanted, role = group["norm"], group.get("role")
    if p.ndim < 2 or (wanted == "auto" and role == "vector"):
        # No norm of matrices fits a vector.
        return "l2" if wanted == "l2" else "inf"
    if wanted != "auto":
        return "rms->rms" if wanted == "conv" and p.ndim == 2 else wanted
    if role == "embedding":
        return "1->rms"
    return "rms->rms" if p.ndim == 2 else "conv"


def _sides(p: Tensor) -> tuple[int, int]:
    """Kernels are matrices of (out, in * area)."""
    return p.shape[0], math.prod(p.shape[1:])


def _product_dtype(p: Tensor, group: Group) -> torch.dtype:
    return product_dtype(p, group["precision"], _sides(p))


def _factor_of(norm: str, shape: tuple[int, ...]) -> float:
    return _factor(norm if norm == "spectral" else "conv", shape) if len(shape) > 2 else _factor(norm, shape)


def _directions(us: list[Tensor], norm: str, group: Group) -> tuple[Any, float]:
    """Directions of tensors, for matrices of one shape and without the factor that they share."""
    if norm not in _MATRIX:
        return [_entrywise(u, norm) for u in us], 1.0
    factor, (rows, columns) = _factor_of(norm, tuple(us[0].shape)), _sides(us[0])
    X = torch.empty(len(us), rows, columns, device=us[0].device, dtype=_product_dtype(us[0], group))
    for x, u in zip(X, us, strict=True):
        x.copy_(u.reshape(rows, columns))
    if min(rows, columns) <= 1:
        size = torch.linalg.matrix_norm(X.float() if X.dtype == torch.bfloat16 else X)[:, None, None]
        return torch.where(
            size > 0, X / torch.where(size > 0, size, torch.ones_like(size)), torch.zeros_like(X)
        ), factor
    return orthogonalize(X, steps=group["steps"]), factor
