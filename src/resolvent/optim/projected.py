"""Adam and momentum without growth of scale-invariant weights: the part of a step along the weight is projected away."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resolvent.optim.fused import CHUNK, scalars, table
from resolvent.optim.optimizer import Group, Optimizer, State, check

Pieces = NDArray[np.int64]


class AdamP(Optimizer):
    r"""Adam that projects its step off scale-invariant weights:
    :math:`w \leftarrow (1 - \eta\lambda r) w - \eta\,(d - \hat w \langle\hat w, d\rangle)`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : step size eta
    betas : of the two moments
    eps : of the root and of the norms
    weight_decay : lambda, decoupled
    delta : a tensor counts as scale-invariant where the cosine of gradient and weight is below delta / sqrt(width)
    wd_ratio : r of tensors that are projected, 1 for others
    nesterov : Nesterov's direction
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    d is Adam's direction. The test is tried per row of the tensor seen as (out, rest), with the largest cosine of its rows, then for the tensor
    as a whole; the first that fires decides. Vectors are never projected. Nothing is read back from the device for
    the decision. Two passes of 24 and 16 bytes a number in float32 against AdamW's 28; state: both moments.

    References
    ----------
    "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights"

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([[1.0, 1.0]]))
    >>> adamp = AdamP([w], lr=0.1)
    >>> (w[0, 0] / w.norm()).backward()
    >>> adamp.step()
    >>> w.detach()
    tensor([[0.9000, 1.1000]])
    """

    elementwise = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "delta": delta, "wd_ratio": wd_ratio,
            "nesterov": nesterov,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("delta", group["delta"])
        check("wd_ratio", group["wd_ratio"])

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        (beta1, beta2), (head, tail, unbias2) = group["betas"], _direction(group, state["step"])
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        d = (m * head).add_(g, alpha=tail).div_(v.sqrt().mul_(unbias2).add_(group["eps"]))
        _apply(group, p.unsqueeze(0), g.unsqueeze(0), d.unsqueeze(0), group["weight_decay"])

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        (beta1, beta2), (head, tail, unbias2) = group["betas"], _direction(group, states[0]["step"])
        ms, vs = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_mul_(ms, beta1)
        torch._foreach_add_(ms, gs, alpha=1 - beta1)
        torch._foreach_mul_(vs, beta2)
        torch._foreach_addcmul_(vs, gs, gs, value=1 - beta2)
        below = list(torch._foreach_sqrt(vs))
        torch._foreach_mul_(below, unbias2)
        torch._foreach_add_(below, group["eps"])
        ds = list(torch._foreach_mul(ms, head))
        if tail:
            torch._foreach_add_(ds, gs, alpha=tail)
        torch._foreach_div_(ds, below)
        _apply_batched(group, ps, gs, ds, group["weight_decay"])

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.projected_kernel import adamp_moments, adamp_step

        (beta1, beta2), (head, tail, unbias2) = group["betas"], _direction(group, states[0]["step"])
        addresses = table(ps, gs, [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states])
        pieces, first, width = _pieces(tuple(p.shape for p in ps))
        like, zero, lr, *betas = scalars(ps[0], 0.0, group["lr"], beta1, beta2, 1 - beta1, 1 - beta2)
        _, *rest = scalars(ps[0], unbias2, group["eps"], head, tail)
        sums = np.empty((first[-1], 4))
        adamp_moments(addresses, pieces, like, zero, sums, *betas, *rest)
        keep, along = _decided(group, sums, first, width, group["weight_decay"], like)
        adamp_step(addresses, pieces, like, keep, along, lr, *rest)


class SGDP(Optimizer):
    r"""Momentum that projects its step off scale-invariant weights, as `AdamP` does.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.SGD`
    lr : step size
    momentum : in [0, 1)
    dampening : the gradient enters the momentum times 1 - dampening
    nesterov : Nesterov's direction g + momentum b
    weight_decay : decoupled, divided by 1 - momentum, so that it balances the steps that momentum enlarges
    eps : of the norms
    delta, wd_ratio : as in `AdamP`
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    :math:`b \leftarrow \mu b + (1 - \tau) g`, then the projected step along b. The momentum itself is not projected; the code of the
    paper's authors does that without `nesterov`, as a side effect of working in place. Two passes of 16 and 12 bytes a number in float32;
    state: one momentum.

    References
    ----------
    "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights"

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([[1.0, 0.0]]))
    >>> sgdp = SGDP([w], lr=0.5, delta=0.5)
    >>> (w[0, 1] + 0.1 * w[0, 0]).backward()
    >>> sgdp.step()  # the part of the gradient along the weight is gone
    >>> w.detach()
    tensor([[ 1.0000, -0.5000]])
    """

    elementwise = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay,
            "eps": eps, "delta": delta, "wd_ratio": wd_ratio,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("momentum", group["momentum"], 0.0, 1.0, below=True)
        check("dampening", group["dampening"], 0.0, 1.0)
        check("delta", group["delta"])
        check("wd_ratio", group["wd_ratio"])

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"momentum": torch.zeros_like(p)}

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        b = state["momentum"].mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])
        d = g + group["momentum"] * b if group["nesterov"] else b
        _apply(group, p.unsqueeze(0), g.unsqueeze(0), d.unsqueeze(0), self._decay(group))

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        bs = [state["momentum"] for state in states]
        torch._foreach_mul_(bs, group["momentum"])
        torch._foreach_add_(bs, gs, alpha=1 - group["dampening"])
        ds = torch._foreach_add(gs, bs, alpha=group["momentum"]) if group["nesterov"] else bs
        _apply_batched(group, ps, gs, list(ds), self._decay(group))

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.projected_kernel import sgdp_moments, sgdp_step

        head, tail = (group["momentum"], 1.0) if group["nesterov"] else (1.0, 0.0)
        addresses = table(ps, gs, [state["momentum"] for state in states])
        pieces, first, width = _pieces(tuple(p.shape for p in ps))
        like, zero, lr, momentum, rest = scalars(ps[0], 0.0, group["lr"], group["momentum"], 1 - group["dampening"])
        _, *mix = scalars(ps[0], head, tail)
        sums = np.empty((first[-1], 4))
        sgdp_moments(addresses, pieces, like, zero, sums, momentum, rest, *mix)
        keep, along = _decided(group, sums, first, width, self._decay(group), like)
        sgdp_step(addresses, pieces, like, keep, along, lr, *mix)

    def _decay(self, group: Group) -> float:
        return float(group["weight_decay"] / (1 - group["momentum"]))


def _direction(group: Group, step: int) -> tuple[float, float, float]:
    """What first moment, gradient and root of the second moment are multiplied with."""
    beta1, beta2 = group["betas"]
    unbias1, unbias2 = 1 / (1 - beta1**step), (1 - beta2**step) ** -0.5
    return (beta1 * unbias1, (1 - beta1) * unbias1, unbias2) if group["nesterov"] else (unbias1, 0.0, unbias2)


def _project(group: Group, w: Tensor, g: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """How much of w to add to -d, and the ratio of weight decay, for a stack of (out, rest) matrices."""
    eps = group["eps"]
    along, ratio = torch.zeros_like(w[..., :1]), torch.ones_like(w[..., :1, :1])
    for whole in (True, False):
        size = (-2, -1) if whole else (-1,)
        wn, gn = w.square().sum(size, keepdim=True).sqrt(), g.square().sum(size, keepdim=True).sqrt()
        cosine = (w * g).sum(size, keepdim=True).abs() / (wn.clamp(min=eps) * gn.clamp(min=eps))
        width = w.shape[-1] * (w.shape[-2] if whole else 1)
        fires = cosine.amax((-2, -1), keepdim=True) < group["delta"] / math.sqrt(width)
        # Rows come last, so that they have the last word.
        along = torch.where(fires, (w * d).sum(size, keepdim=True) / (wn + eps).square(), along)
        ratio = torch.where(fires, torch.full_like(ratio, group["wd_ratio"]), ratio)
    return along, ratio


def _apply(group: Group, w: Tensor, g: Tensor, d: Tensor, decay: float) -> None:
    """Step a stack of tensors of one shape; `d` is kept."""
    lr = group["lr"]
    if w.ndim < 3:
        w.mul_(1 - lr * decay).sub_(d, alpha=lr)
        return
    rows, ones = (*w.shape[:2], -1), [1] * (w.ndim - 2)
    along, ratio = _project(group, w.reshape(rows), g.reshape(rows), d.reshape(rows))
    keep = 1 - lr * decay * ratio + lr * along
    w.mul_(keep.reshape(*keep.shape[:2], *ones)).sub_(d, alpha=lr)


def _apply_batched(group: Group, ps: list[Tensor], gs: list[Tensor], ds: list[Tensor], decay: float) -> None:
    """`_apply` for the tensors of each shape together; a shape that comes once needs no copy."""
    shapes: dict[Any, list[int]] = defaultdict(list)
    for i, p in enumerate(ps):
        shapes[p.shape if p.ndim > 1 else 0].append(i)
    for shape, members in shapes.items():
        if shape == 0:
            vectors = [ps[i] for i in members]
            torch._foreach_mul_(vectors, 1 - group["lr"] * decay)
            torch._foreach_add_(vectors, [ds[i] for i in members], alpha=-group["lr"])
        elif len(members) == 1 or ps[members[0]].numel() > CHUNK:
            for i in members:
                _apply(group, ps[i].unsqueeze(0), gs[i].unsqueeze(0), ds[i].unsqueeze(0), decay)
        else:
            w = torch.stack([ps[i] for i in members])
            _apply(group, w, torch.stack([gs[i] for i in members]), torch.stack([ds[i] for i in members]), decay)
            torch._foreach_copy_([ps[i] for i in members], list(w.unbind()))


@lru_cache(maxsize=64)
def _pieces(shapes: tuple[tuple[int, ...], ...]) -> tuple[Pieces, Pieces, Pieces]:
    """Pieces of whole rows (tensor, first row of all, start, stop, width), the first row of each tensor, and widths.

    A tensor without rows, whose width is 0, is cut into rows of any length.
    """
    pieces, first, widths, row = [], [0], [], 0
    for i, shape in enumerate(shapes):
        size = math.prod(shape)
        is_matrix = len(shape) > 1
        width = size // shape[0] if is_matrix else min(size, CHUNK)
        step = max(1, CHUNK // width) * width
        for start in range(0, size, step):
            stop = min(start + step, size)
            pieces.append((i, row, start, stop, width))
            row += -(-(stop - start) // width)
        first.append(row)
        widths.append(width if is_matrix else 0)
    found = [np.array(x, dtype=np.int64) for x in (pieces, first, widths)]
    return found[0].reshape(-1, 5), found[1], found[2]


def _decided(
    group: Group, sums: NDArray[np.float64], first: Pieces, width: Pieces, decay: float, like: Any
) -> tuple[Any, Any]:
    """What every tensor keeps, and what every row has along its weight, in the precision of the kernel."""
    from resolvent.optim.projected_kernel import decide

    along, ratio = np.empty(len(sums)), np.empty(len(width))
    decide(sums, first, width, float(group["delta"]), float(group["eps"]), float(group["wd_ratio"]), along, ratio)
    keep = 1 - group["lr"] * decay * ratio
    return keep.astype(like.dtype), along.astype(like.dtype)
