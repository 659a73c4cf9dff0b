"""The optimizers of large batches: layer-wise rates (LARS, LAMB), and the plain Nesterov momentum that does as well when tuned."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.optim.fused import chunks, norms, scalars, table
from resolvent.optim.optimizer import Group, Optimizer, State, check


class NAG(Optimizer):
    r"""Nesterov's momentum: :math:`b \leftarrow \mu b + g`, :math:`w \leftarrow (1-\eta\lambda) w - \eta (g + \mu b)`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.SGD`
    lr : step size
    momentum : mu, in [0, 1)
    weight_decay : lambda, decoupled
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    `torch.optim.SGD(nesterov=True)` with decoupled weight decay. State: one momentum; one pass of 20 bytes a number in float32.

    References
    ----------
    "A Large Batch Optimizer Reality Check: Traditional, Generic Optimizers Suffice Across Batch Sizes"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.ones(2))
    >>> nag = NAG([x], lr=0.1)
    >>> (x**2).sum().backward()
    >>> nag.step()
    >>> x.detach()
    tensor([0.6200, 0.6200])
    """

    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("momentum", group["momentum"], 0.0, 1.0, below=True)

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"momentum": torch.zeros_like(p)}

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        momentum, lr, b = group["momentum"], group["lr"], state["momentum"]
        b.mul_(momentum).add_(g)
        p.mul_(1 - lr * group["weight_decay"]).add_(g, alpha=-lr).add_(b, alpha=-lr * momentum)

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        momentum, lr, bs = group["momentum"], group["lr"], [state["momentum"] for state in states]
        torch._foreach_mul_(bs, momentum)
        torch._foreach_add_(bs, gs)
        if group["weight_decay"]:
            torch._foreach_mul_(ps, 1 - lr * group["weight_decay"])
        torch._foreach_add_(ps, gs, alpha=-lr)
        torch._foreach_add_(ps, bs, alpha=-lr * momentum)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.large_batch_kernel import nag

        lr = group["lr"]
        numbers = scalars(ps[0], 1 - lr * group["weight_decay"], lr, group["momentum"])
        nag(table(ps, gs, [state["momentum"] for state in states]), chunks(ps), *numbers)


class LARS(Optimizer):
    r"""Layer-wise adaptive rates: momentum :math:`b \leftarrow \mu b + \rho (g + \lambda w)`, :math:`w \leftarrow w - \eta b` with
    :math:`\rho = \tau |w| / (|g| + \lambda |w| + \epsilon)` for every tensor.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.SGD`
    lr : step size
    momentum : mu, in [0, 1)
    weight_decay : lambda, inside of the momentum and of the trust ratio, as LARS defines it
    trust : tau
    eps : of the ratio
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    Tensors with fewer than two axes (biases, gains of normalisation) have ratio 1 and no weight decay; so has a tensor of
    zeros or with a gradient of zeros ratio 1. The step size stands outside of the momentum, as in `torch.optim.SGD`: under a
    constant `lr` the same as inside. Two passes, 28 bytes a number in float32; state: one momentum.

    References
    ----------
    "A Large Batch Optimizer Reality Check: Traditional, Generic Optimizers Suffice Across Batch Sizes"

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.ones(2, 2))
    >>> lars = LARS([w], lr=1.0, trust=0.1)
    >>> (7 * w.sum()).backward()
    >>> lars.step()
    >>> w.detach()[0]
    tensor([0.9000, 0.9000])
    """

    elementwise = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        eps: float = 1e-8,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "eps": eps}
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("momentum", group["momentum"], 0.0, 1.0, below=True)
        check("trust", group["trust"], above=True)

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"momentum": torch.zeros_like(p)}

    def _ratio(self, group: Group, w: Tensor, g: Tensor) -> Tensor:
        found = group["trust"] * w / (g + group["weight_decay"] * w + group["eps"])
        return torch.where((w == 0) | (g == 0), torch.ones_like(found), found)

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        b = state["momentum"].mul_(group["momentum"])
        if p.ndim < 2:
            b.add_(g)
        else:
            b.add_((g + group["weight_decay"] * p) * self._ratio(group, p.norm(), g.norm()))
        p.sub_(b, alpha=group["lr"])

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        bs = [state["momentum"] for state in states]
        is_matrix = torch.tensor([p.ndim > 1 for p in ps], device=ps[0].device)
        ratios = self._ratio(group, torch.stack(torch._foreach_norm(ps)), torch.stack(torch._foreach_norm(gs)))
        ratios = torch.where(is_matrix, ratios, torch.ones_like(ratios))
        torch._foreach_mul_(bs, group["momentum"])
        torch._foreach_add_(bs, torch._foreach_mul(gs, list(ratios.unbind())))
        if group["weight_decay"]:
            decays = torch.where(is_matrix, ratios * group["weight_decay"], torch.zeros_like(ratios))
            torch._foreach_add_(bs, torch._foreach_mul(ps, list(decays.unbind())))
        torch._foreach_add_(ps, bs, alpha=-group["lr"])

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.large_batch_kernel import lars, squares

        addresses, pieces = table(ps, gs, [state["momentum"] for state in states]), chunks(ps)
        like, zero, lr, momentum = scalars(ps[0], 0.0, group["lr"], group["momentum"])
        sums = np.empty((len(pieces), 2))
        squares(addresses, pieces, like, zero, sums)
        w, g = norms(sums, pieces, len(ps)).T
        is_matrix = np.array([p.ndim > 1 for p in ps])
        decay = np.where(is_matrix, group["weight_decay"], 0.0)
        adapts = is_matrix & ~((w == 0) | (g == 0))
        below = np.where(adapts, g + decay * w + group["eps"], 1.0)
        scale = np.where(adapts, group["trust"] * w / below, 1.0)
        lars(addresses, pieces, like, scale.astype(like.dtype), decay.astype(like.dtype), lr, momentum)


class LAMB(Optimizer):
    r"""Adam with a layer-wise rate: :math:`w \leftarrow w - \eta \frac{|w|}{|r|} r` with
    :math:`r = \hat m / (\sqrt{\hat v} + \epsilon) + \lambda w`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : step size, relative to the size of each tensor
    betas : of the two moments
    eps : of the root
    weight_decay : lambda, inside of the ratio
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    The ratio is 1 where either size is 0. Two passes, 40 bytes a number in float32 against AdamW's 28; state: both moments.

    References
    ----------
    "A Large Batch Optimizer Reality Check: Traditional, Generic Optimizers Suffice Across Batch Sizes"

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> lamb = LAMB([w], lr=0.1, weight_decay=0.0)
    >>> w.sum().backward()
    >>> lamb.step()
    >>> w.detach()
    tensor([2.6464, 3.6464])
    """

    elementwise = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        (beta1, beta2), (unbias1, unbias2) = group["betas"], _unbias(group, state["step"])
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        r = (m * unbias1).div_(v.sqrt().mul_(unbias2).add_(group["eps"])).add_(p, alpha=group["weight_decay"])
        p.sub_(r * _relative(p.norm(), r.norm()), alpha=group["lr"])

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        (beta1, beta2), (unbias1, unbias2) = group["betas"], _unbias(group, states[0]["step"])
        ms, vs = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_mul_(ms, beta1)
        torch._foreach_add_(ms, gs, alpha=1 - beta1)
        torch._foreach_mul_(vs, beta2)
        torch._foreach_addcmul_(vs, gs, gs, value=1 - beta2)
        below = list(torch._foreach_sqrt(vs))
        torch._foreach_mul_(below, unbias2)
        torch._foreach_add_(below, group["eps"])
        rs = list(torch._foreach_mul(ms, unbias1))
        torch._foreach_div_(rs, below)
        torch._foreach_add_(rs, ps, alpha=group["weight_decay"])
        ratios = _relative(torch.stack(torch._foreach_norm(ps)), torch.stack(torch._foreach_norm(rs)))
        torch._foreach_mul_(rs, list(ratios.unbind()))
        torch._foreach_add_(ps, rs, alpha=-group["lr"])

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.large_batch_kernel import lamb, moments

        (beta1, beta2), (unbias1, unbias2) = group["betas"], _unbias(group, states[0]["step"])
        addresses = table(ps, gs, [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states])
        pieces = chunks(ps)
        sums = np.empty((len(pieces), 2))
        like, zero, *betas = scalars(ps[0], 0.0, beta1, beta2, 1 - beta1, 1 - beta2)
        _, *rest = scalars(ps[0], unbias1, unbias2, group["eps"], group["weight_decay"])
        moments(addresses, pieces, like, zero, sums, *betas, *rest)
        w, r = norms(sums, pieces, len(ps)).T
        ratio = np.where((w == 0) | (r == 0), 1.0, w / np.where(r == 0, 1.0, r))
        lamb(addresses, pieces, like, (group["lr"] * ratio).astype(like.dtype), *rest)


def _unbias(group: Group, step: int) -> tuple[float, float]:
    """What the first moment, and the root of the second, are multiplied with."""
    beta1, beta2 = group["betas"]
    return 1 / (1 - beta1**step), float((1 - beta2**step) ** -0.5)


def _relative(w: Tensor, r: Tensor) -> Tensor:
    """|w| / |r|, and 1 where one of them is 0."""
    return torch.where((w == 0) | (r == 0), torch.ones_like(w), w / r)
