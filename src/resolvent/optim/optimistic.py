"""AMSGrad that steps ahead with a guess of the next gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.optim.fused import chunks, scalars, table
from resolvent.optim.optimizer import Group, Optimizer, State, check
from resolvent.optim.work import Work, fill, fits

_PREDICTORS = ("extrapolation", "last")


class OptimisticAMSGrad(Optimizer):
    r"""AMSGrad with a guess m of the next gradient: :math:`x \leftarrow x - \eta\,\theta / \sqrt{\hat v}` and the played point
    :math:`w = x - \eta\,(\beta_1\theta + (1-\beta_1) m) / \sqrt{\hat v}`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : step size eta
    betas : of theta, the mean of gradients, and of v, the mean of the squared errors of the guesses, (g - m)^2
    eps : added to the root
    weight_decay : decoupled, on x
    history : gradients that "extrapolation" keeps
    reg : its regularisation, relative to the size of its system
    predictor : "extrapolation", a combination of past gradients whose differences cancel, for all parameters of a group together;
        "last", the gradient at hand
    history_dtype : in which the past gradients are kept; None: that of the work. In torch.bfloat16 differences between gradients below 0.4 %
        drown in the rounding
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    vhat is the largest v so far. Where gradients vary slowly, guesses are good, v is small and steps are long. There is no bias correction:
    the first steps are up to 3 times those of Adam. Differences u of consecutive gradients give the system
    (U'U + reg |U'U| I) z = 1 and the guess sum z_i g_i / sum z_i; the products of differences are kept, so one step adds one row.
    State: five tensors for each parameter and `history` gradients. Two passes with extrapolation, one without.
    The parameters are the played points, where gradients are wanted; `eval_params` puts x in their place.

    References
    ----------
    "An Optimistic Acceleration of AMSGrad for Nonconvex Optimization"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = OptimisticAMSGrad([x], lr=0.01)
    >>> for _ in range(300):
    ...     optimizer.zero_grad()
    ...     (x**2).sum().backward()
    ...     optimizer.step()
    >>> with optimizer.eval_params():
    ...     print(bool(x.norm() < 0.01))
    True
    """

    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        history: int = 5,
        reg: float = 1e-3,
        predictor: Literal["extrapolation", "last"] = "extrapolation",
        history_dtype: torch.dtype | None = None,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "history": history, "reg": reg,
            "predictor": predictor, "history_dtype": history_dtype,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        if group["predictor"] not in _PREDICTORS:
            raise ValueError(f"predictor must be one of {', '.join(_PREDICTORS)}, got {group['predictor']!r}")
        if not isinstance(group["history"], int) or group["history"] < 1:
            raise ValueError(f"history must be an integer of at least 1, got {group['history']!r}")
        check("reg", group["reg"], above=True)

    def _is_elementwise(self, group: Group) -> bool:
        return bool(group["predictor"] == "last")

    def _can_fuse(self, group: Group) -> bool:
        return group["history_dtype"] is None

    def _begin(self, p: Tensor, group: Group) -> State:
        state = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "guess")}
        state["aux"] = p.detach().clone()
        if group["predictor"] == "extrapolation":
            r, dtype = group["history"], group["history_dtype"] or p.dtype
            state["history"] = torch.zeros((r, *p.shape), dtype=dtype, device=p.device)
            state["products"] = torch.zeros((r, r), dtype=p.dtype, device=p.device)
        return state

    # What all tensors of a group share.

    def _step_bucket(self, group: Group, works: list[Work]) -> None:
        if group["predictor"] == "extrapolation":
            group = {**group, **self._extrapolate(group, works)}
        super()._step_bucket(group, works)

    def _extrapolate(self, group: Group, works: list[Work]) -> Group:
        """Slots of the past gradients from old to new, their weights, and the slot of the one at hand."""
        done, r = works[0].state["step"], group["history"]
        slots = [t % r for t in range(max(0, done - r), done)]
        target = done % r
        if not slots:
            return {"slots": slots, "target": target, "weights": None}
        newer = [*slots[1:], target]
        if self._wants_fused(group) and all(fits(work) for work in works):
            rows = _products_fused(works, slots)
        else:
            rows = torch.stack([_products(work, slots) for work in works])
        system = torch.zeros((r, r), dtype=rows.dtype, device=rows.device)
        for work, row in zip(works, rows.unbind(), strict=True):
            kept = work.state["products"]
            kept[target, newer] = row
            kept[newer, target] = row
            system += kept
        system = system[newer][:, newer].double()
        size = torch.linalg.matrix_norm(system, 2)
        system = system / torch.where(size > 0, size, torch.ones_like(size))
        system.diagonal().add_(group["reg"])
        ones = torch.ones(len(slots), 1, dtype=system.dtype, device=system.device)
        z = torch.cholesky_solve(ones, torch.linalg.cholesky_ex(system)[0])[:, 0]
        return {"slots": slots, "target": target, "weights": z / z.sum()}

    # One tensor, and lists of them.

    def _guess(self, group: Group, g: Tensor, state: State) -> Tensor:
        if group["predictor"] == "last":
            return g.clone()
        history, weights = state["history"], group["weights"]
        found = g.clone()
        if weights is not None:
            past = history[group["slots"]].to(g.dtype)
            found = torch.tensordot(weights.to(g.dtype), past, 1)
        history[group["target"]] = g
        return found

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        m, v, top, aux = state["exp_avg"], state["exp_avg_sq"], state["max_exp_avg_sq"], state["aux"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        error = g - state["guess"]
        v.mul_(beta2).addcmul_(error, error, value=1 - beta2)
        torch.maximum(top, v, out=top)
        below = top.sqrt().add_(group["eps"])
        aux.mul_(1 - lr * group["weight_decay"]).addcdiv_(m, below, value=-lr)
        state["guess"].copy_(self._guess(group, g, state))
        ahead = (m * beta1).add_(state["guess"], alpha=1 - beta1)
        p.copy_(aux).addcdiv_(ahead, below, value=-lr)

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        ms, vs, tops, auxs, guesses = _columns(states)
        torch._foreach_mul_(ms, beta1)
        torch._foreach_add_(ms, gs, alpha=1 - beta1)
        errors = torch._foreach_sub(gs, guesses)
        torch._foreach_mul_(vs, beta2)
        torch._foreach_addcmul_(vs, errors, errors, value=1 - beta2)
        torch._foreach_maximum_(tops, vs)
        below = list(torch._foreach_sqrt(tops))
        torch._foreach_add_(below, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(auxs, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(auxs, ms, below, value=-lr)
        torch._foreach_copy_(guesses, [self._guess(group, g, s) for g, s in zip(gs, states, strict=True)])
        ahead = list(torch._foreach_mul(ms, beta1))
        torch._foreach_add_(ahead, guesses, alpha=1 - beta1)
        torch._foreach_copy_(ps, auxs)
        torch._foreach_addcdiv_(ps, ahead, below, value=-lr)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.optimistic_kernel import optimistic

        (beta1, beta2), lr = group["betas"], group["lr"]
        addresses, sizes = table(ps, gs, *_columns(states)), np.array([p.numel() for p in ps])
        past, slots, target, weights = addresses, np.empty(0, np.int64), -1, np.empty(0)
        if group["predictor"] == "extrapolation":
            past, target = table([state["history"] for state in states]), group["target"]
            if group["weights"] is not None:
                slots, weights = np.array(group["slots"]), group["weights"].numpy()
        numbers = (float(len(slots) == 0), 1 - lr * group["weight_decay"], lr, beta1, beta2, 1 - beta1, 1 - beta2)
        like, *rest = scalars(ps[0], *numbers, group["eps"])
        optimistic(addresses, past, chunks(ps), slots, weights.astype(like.dtype), sizes, target, like, *rest)

    @contextmanager
    def eval_params(self) -> Iterator[None]:
        """Inside, the parameters are the auxiliary iterates x, which the method converges in; after it the played points again.

        Yields
        ------
        None
        """
        played = [(p, p.detach().clone()) for group in self.param_groups for p in group["params"]]
        try:
            for p, _ in played:
                if "aux" in self.state.get(p, {}):
                    fill(p, self.state[p]["aux"])
            yield
        finally:
            with torch.no_grad():
                for p, kept in played:
                    p.copy_(kept)


def _columns(states: list[State]) -> list[list[Tensor]]:
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "aux", "guess")
    return [[state[name] for state in states] for name in names]


def _products(work: Work, slots: list[int]) -> Tensor:
    """Products of the newest difference with every difference, the newest one last."""
    past = work.state["history"][slots].to(work.grad.dtype)
    newest = work.grad - past[-1]
    differences = torch.cat([past[1:] - past[:-1], newest[None]]).reshape(len(slots), -1)
    return differences @ newest.reshape(-1)


def _products_fused(works: list[Work], slots: list[int]) -> Tensor:
    from resolvent.optim.optimistic_kernel import products

    values, grads = [work.value for work in works], [work.grad for work in works]
    pieces = chunks(values)
    like, zero = scalars(values[0], 0.0)
    sums, found = np.empty((len(pieces), len(slots))), np.zeros((len(works), len(slots)))
    sizes = np.array([value.numel() for value in values])
    past = table([work.state["history"] for work in works])
    products(table(values, grads), past, pieces, np.array(slots), sizes, like, zero, sums)
    np.add.at(found, pieces[:, 0], sums)
    return torch.from_numpy(found).to(values[0].dtype)
