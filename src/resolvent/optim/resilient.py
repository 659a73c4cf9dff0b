"""Adam with a step size of its own for every number, which grows while the sign of the mean gradient stays."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from resolvent.optim.fused import chunks, scalars, table
from resolvent.optim.optimizer import Group, Optimizer, State, check


class CoRe(Optimizer):
    r"""Continual resilient optimizer: Adam's direction u, step sizes s of Rprop, and parameters frozen that matter most,
    :math:`w \leftarrow (1 - \lambda |u| P s)\, w - u P s`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : the step size s of every number at the start, above 0; a schedule of it multiplies all step sizes later
    step_sizes : smallest and largest s. Advice of its authors for the largest: 1e-3 for mini-batches, 1 for full batches, 1e-2 between
    etas : factors of s where the mean gradient changes sign, and where it keeps it
    betas : weight of the old mean gradient at first and in the end, the steps in which it goes from one to the other, and the weight of the
        old mean square; a negative one replaces Adam's direction by the sign
    eps : added to the root
    weight_decay : lambda, of the size of each step
    score_history : steps over which scores are gathered; 0: no scores, P = 1
    frozen : share of the numbers of every tensor with the highest scores that stand still (P = 0) after `score_history` steps
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    :math:`\beta_{1,t} = \beta_b + (\beta_a - \beta_b) e^{-((t-1)/\beta_c)^2}`. s is multiplied by the second eta where
    the mean gradients of two steps have the same sign and by the first where they differ, inside of its bounds. The score is the mean of g u P s, what a number's
    steps have lowered the loss by. State: three tensors, four with scores; one pass of 36 bytes a number in float32.

    References
    ----------
    "Lifelong Machine Learning Potentials"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    >>> core = CoRe([x], step_sizes=(1e-6, 1.0), weight_decay=0.0)
    >>> for _ in range(100):
    ...     core.zero_grad()
    ...     (x[0] ** 2 + 1e4 * x[1] ** 2).backward()
    ...     core.step()
    >>> bool(x.abs().max() < 1e-2)
    True
    """

    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        step_sizes: tuple[float, float] = (1e-6, 1e-2),
        etas: tuple[float, float] = (0.7375, 1.2),
        betas: tuple[float, float, float, float] = (0.7375, 0.8125, 250.0, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        score_history: int = 0,
        frozen: float = 0.0,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "step_sizes": step_sizes, "etas": etas, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "score_history": score_history, "frozen": frozen,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("lr", group["lr"], above=True)
        for name, count in (("step_sizes", 2), ("etas", 2), ("betas", 4)):
            if len(group[name]) != count:
                raise ValueError(f"{name} must be {count} numbers, got {group[name]!r}")
        check("step_sizes[0]", group["step_sizes"][0], above=True)
        check("step_sizes[1]", group["step_sizes"][1], float(group["step_sizes"][0]))
        check("etas[0]", group["etas"][0], 0.0, 1.0, above=True)
        check("etas[1]", group["etas"][1], 1.0)
        check("betas[2]", group["betas"][2], above=True)
        check("betas[3]", group["betas"][3], -math.inf, 1.0, below=True)
        check("frozen", group["frozen"], 0.0, 1.0)
        if not isinstance(group["score_history"], int) or group["score_history"] < 0:
            raise ValueError(f"score_history must be an integer of at least 0, got {group['score_history']!r}")
        # Schedules change lr from now on; what they change it by multiplies all step sizes.
        group.setdefault("first_lr", float(group["lr"]))

    def _is_elementwise(self, group: Group) -> bool:
        return not (group["score_history"] and group["frozen"])

    def _can_fuse(self, group: Group) -> bool:
        return not group["score_history"] and group["betas"][3] >= 0

    def _begin(self, p: Tensor, group: Group) -> State:
        state = {"exp_avg": torch.zeros_like(p), "step_size": torch.full_like(p, group["first_lr"])}
        if group["betas"][3] >= 0:
            state["exp_avg_sq"] = torch.zeros_like(p)
        if group["score_history"]:
            state["score"] = torch.zeros_like(p)
        return state

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        m, s, step = state["exp_avg"], state["step_size"], state["step"]
        beta1, unbias1, unbias2 = _means(group, step)
        before = m.clone()
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        free = _free(group, state)
        same = before.mul_(m) if free is None else before.mul_(m).mul_(free)
        less, more = group["etas"]
        factor = torch.where(same > 0, more, torch.where(same < 0, less, torch.ones_like(s)))
        s.mul_(factor).clamp_(*group["step_sizes"])
        beta2 = group["betas"][3]
        if beta2 >= 0:
            h = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
            update = (m * unbias1).div_(h.sqrt().mul_(unbias2).add_(group["eps"])).mul_(s)
        else:
            update = m.sign().mul_(s)
        update.mul_(_factor(group))
        if free is not None:
            update.mul_(free)
            state["score"].addcmul_(m, update, value=1 / group["score_history"])
        p.sub_(update.abs() * p, alpha=group["weight_decay"]).sub_(update)

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        if not self._can_fuse(group):
            super()._foreach(group, ps, gs, states)
            return
        beta1, unbias1, unbias2 = _means(group, states[0]["step"])
        (less, more), beta2 = group["etas"], group["betas"][3]
        ms, hs, ss = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step_size"))
        before = [m.clone() for m in ms]
        torch._foreach_mul_(ms, beta1)
        torch._foreach_add_(ms, gs, alpha=1 - beta1)
        torch._foreach_mul_(hs, beta2)
        torch._foreach_addcmul_(hs, gs, gs, value=1 - beta2)
        torch._foreach_mul_(before, ms)
        torch._foreach_sign_(before)
        grow, shrink = torch._foreach_clamp_min(before, 0.0), torch._foreach_clamp_max(before, 0.0)
        torch._foreach_mul_(grow, more - 1)
        torch._foreach_add_(grow, shrink, alpha=1 - less)
        torch._foreach_add_(grow, 1.0)
        torch._foreach_mul_(ss, grow)
        torch._foreach_clamp_min_(ss, group["step_sizes"][0])
        torch._foreach_clamp_max_(ss, group["step_sizes"][1])
        below = list(torch._foreach_sqrt(hs))
        torch._foreach_mul_(below, unbias2)
        torch._foreach_add_(below, group["eps"])
        updates = list(torch._foreach_mul(ms, unbias1 * _factor(group)))
        torch._foreach_div_(updates, below)
        torch._foreach_mul_(updates, ss)
        if group["weight_decay"]:
            sizes = torch._foreach_abs(updates)
            torch._foreach_addcmul_(ps, sizes, ps, value=-group["weight_decay"])
        torch._foreach_sub_(ps, updates)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.resilient_kernel import core

        beta1, unbias1, unbias2 = _means(group, states[0]["step"])
        beta2 = group["betas"][3]
        numbers = (1.0, beta1, beta2, 1 - beta1, 1 - beta2, unbias1, unbias2, group["eps"], *group["etas"])
        rest = (*group["step_sizes"], _factor(group), group["weight_decay"])
        names = ("exp_avg", "exp_avg_sq", "step_size")
        addresses = table(ps, gs, *([state[name] for state in states] for name in names))
        core(addresses, chunks(ps), *scalars(ps[0], *numbers, *rest))


def _means(group: Group, step: int) -> tuple[float, float, float]:
    """Weight of the old mean, and what mean and root of the mean square are multiplied with."""
    first, last, width, beta2 = group["betas"]
    beta1 = last + (first - last) * math.exp(-(((step - 1) / width) ** 2))
    return beta1, 1 / (1 - beta1**step), (1 - beta2**step) ** -0.5 if beta2 >= 0 else 1.0


def _factor(group: Group) -> float:
    return float(group["lr"] / group["first_lr"])


def _free(group: Group, state: State) -> Tensor | None:
    """P: 0 for the numbers that stand still; None without scores. Old scores fade once enough are gathered."""
    if not group["score_history"]:
        return None
    score = state["score"]
    free = torch.ones_like(score)
    if state["step"] > group["score_history"]:
        still = int(group["frozen"] * score.numel())
        if still:
            least = score.flatten().kthvalue(score.numel() - still + 1).values
            free = (score < least).to(score.dtype)
        score.mul_(1 - 1 / group["score_history"])
    return free
