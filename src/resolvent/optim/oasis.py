"""OASIS: gradient descent scaled by the Hessian's diagonal, with a step size that it measures itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from resolvent.optim.fused import chunks, scalars, table
from resolvent.optim.hutchinson import HutchinsonOptimizer
from resolvent.optim.optimizer import Group, State, check
from resolvent.optim.work import Work, fits


class OASIS(HutchinsonOptimizer):
    r"""OASIS: :math:`x_{t+1} = x_t - \eta_t\,\hat D_t^{-1} g_t` with :math:`\hat D_t = \max(|D_t|, \alpha)`,
    :math:`D_t = \beta_2 D_{t-1} + (1-\beta_2)\, z \odot H z` for random signs z, and
    :math:`\eta_t = \min\bigl(\sqrt{1+\theta_{t-1}}\,\eta_{t-1},\ \|x_t - x_{t-1}\|_{\hat D_t} / (2\|g_t - g_{t-1}\|_{\hat D_t^{-1}})\bigr)`,
    :math:`\theta_t = \eta_t/\eta_{t-1}`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim`
    lr : None: the step size is measured, one for all parameters. A number: this one, with the same diagonal
    beta2 : of the diagonal
    alpha : its smallest entry
    warmstart : products that the first diagonal is the mean of
    momentum : of the mean of the gradients, 0 for none
    weight_decay : decoupled: x is multiplied by 1 - step size * weight_decay
    eta0 : the first step size, where no difference of gradients is known; the second forgets it
    stochastic : True evaluates the closure at the last parameters too, so that both gradients come from one batch; False keeps the last
        gradient. None: True with a closure
    foreach, fused, maximize : as in `torch.optim.AdamW`
    generator : of the signs: a `torch.Generator`, an int or None

    Notes
    -----
    A step costs a gradient and a product with the Hessian (about a gradient each); with `stochastic` one more gradient, in which dropout
    draws as in the first and batch normalisation counts its statistics again. The norms go over all parameters whose group has no lr. State:
    the diagonal, the last parameters, and the last gradients without `stochastic`. The bound on the second
    argument makes the step as large as the local smoothness in the norm of the diagonal allows.

    References
    ----------
    "Doubly Adaptive Scaled Algorithm for Machine Learning Using Second-Order Information"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = OASIS([x], warmstart=1, stochastic=False, generator=0)
    >>> for _ in range(40):
    ...     loss = optimizer.step(lambda: (torch.tensor([1000.0, 1.0]) * x**2).sum())
    >>> bool(x.detach().abs().max() < 1e-6), round(optimizer.step_size, 3)
    (True, 0.5)
    """

    # The step size is one number of all parameters.
    elementwise = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | None = None,
        beta2: float = 0.999,
        alpha: float = 1e-5,
        weight_decay: float = 0.0,
        *,
        warmstart: int = 100,
        momentum: float = 0.0,
        eta0: float = 1e-6,
        stochastic: bool | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
        generator: torch.Generator | int | None = None,
    ) -> None:
        check("eta0", eta0, above=True)
        if not isinstance(warmstart, int) or isinstance(warmstart, bool) or warmstart < 1:
            raise ValueError(f"warmstart must be an integer of at least 1, got {warmstart!r}")
        defaults = {"lr": lr, "beta2": beta2, "alpha": alpha, "weight_decay": weight_decay, "momentum": momentum}
        # The options of all groups together stand with the groups, which copies and checkpoints keep.
        defaults |= {"warmstart": warmstart, "eta0": eta0, "stochastic": stochastic}
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize, generator=generator)

    def _check_group(self, group: Group) -> None:
        check("beta2", group["beta2"], 0.0, 1.0, below=True)
        check("alpha", group["alpha"], above=True)
        check("momentum", group["momentum"], 0.0, 1.0, below=True)

    @property
    def step_size(self) -> float:
        """The step size of the last step."""
        found = self._shared().get("step size")
        return float(found["eta"]) if found else float(self.param_groups[0]["eta0"])

    def _evaluate(self, closure: Callable[[], Any], is_due: Callable[[Tensor, Group], bool] | None) -> Any:
        if is_due is not None:
            devices = {p.device for group in self.param_groups for p in group["params"] if p.device.type == "cuda"}
            self._before = torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in devices}
        return super()._evaluate(closure, is_due)

    def _begin(self, p: Tensor, group: Group) -> State:
        state = {"previous": p.clone()}
        return {**state, "momentum": torch.zeros_like(p)} if group["momentum"] else state

    def _between(self, closure: Callable[[], Any] | None) -> None:
        owners = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None and p.numel()
        ]
        params = [p for p, _ in owners]
        fresh = [p for p in params if "diagonal" not in self.state[p]]
        known = [p for p in params if "diagonal" in self.state[p]]
        betas = {p: group["beta2"] for p, group in owners}
        self._keeps_slopes = self.param_groups[0]["stochastic"] is False or closure is None
        if fresh:
            probes = self.param_groups[0]["warmstart"]
            for p, product in zip(fresh, self._products(fresh, probes, keep=bool(known)), strict=True):
                self.state[p]["diagonal"] = product
        if known:
            for p, product in zip(known, self._products(known), strict=True):
                self.state[p]["diagonal"].lerp_(product, 1 - betas[p])
        self._release()
        works = [(group, self._work(p, group)) for p, group in owners]
        moved = [(group, work) for group, work in works if group["lr"] is None and work.state["step"] > 0]
        if any(group["lr"] is None for group, _ in works):
            self._measure(moved, self._slopes(closure, [work for _, work in moved]))

    def _slopes(self, closure: Callable[[], Any] | None, works: list[Work]) -> list[Tensor]:
        """Gradients at the last parameters."""
        if self.param_groups[0]["stochastic"] and closure is None:
            raise RuntimeError("stochastic=True: step() needs a closure, which is evaluated at the last parameters too")
        if self._keeps_slopes:
            for work in works:
                if "slope" not in work.state:
                    raise RuntimeError("the last gradient is unknown: this step has no closure, but the last one had")
            return [work.state["slope"] for work in works]
        return self._evaluate_at_last(closure, works) if works and closure is not None else []

    def _evaluate_at_last(self, closure: Callable[[], Any], works: list[Work]) -> list[Tensor]:
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        kept = [(p, p.detach().clone(), p.grad) for p in params]
        signs = {p: -1.0 if group["maximize"] else 1.0 for group in self.param_groups for p in group["params"]}
        try:
            for work in works:
                work.param.copy_(_like_parameter(work.state["previous"], work.param))
            with self._replayed():
                for p in params:
                    p.grad = None
                self._evaluate(closure, None)
            return [
                torch.zeros_like(work.value)
                if work.param.grad is None
                else self._seen(work.param.grad.detach()) * signs[work.param]
                for work in works
            ]
        finally:
            for p, value, grad in kept:
                p.copy_(value)
                p.grad = grad

    def _measure(self, moved: list[tuple[Group, Work]], slopes: list[Tensor]) -> None:
        shared = self._shared()
        first = self.param_groups[0]
        if "step size" not in shared:
            shared["step size"] = {"eta": first["eta0"], "theta": math.inf}
            return
        way = change = 0.0
        for (group, work), slope in zip(moved, slopes, strict=True):
            one, other = _norms(work, slope, group["alpha"], plain=group["foreach"] is False)
            way, change = way + one, change + other
        eta, theta = shared["step size"]["eta"], shared["step size"]["theta"]
        found = _step_size(eta, theta, float(way), float(change))
        shared["step size"] = {"eta": found, "theta": found / eta}

    def _rate(self, group: Group) -> float:
        return float(self._shared()["step size"]["eta"]) if group["lr"] is None else float(group["lr"])

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        state["previous"].copy_(p)
        if "slope" in state:
            state["slope"].copy_(g)
        elif self._keeps_slopes:
            state["slope"] = g.clone()
        if group["momentum"]:
            g = state["momentum"].mul_(group["momentum"]).add_(g, alpha=1 - group["momentum"])
        rate = self._rate(group)
        below = state["diagonal"].abs().clamp_min_(group["alpha"])
        p.mul_(1 - rate * group["weight_decay"]).addcdiv_(g, below, value=-rate)

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        torch._foreach_copy_([state["previous"] for state in states], ps)
        if self._keeps_slopes:
            for state, g in zip(states, gs, strict=True):
                if "slope" not in state:
                    state["slope"] = torch.empty_like(g)
            torch._foreach_copy_([state["slope"] for state in states], gs)
        if group["momentum"]:
            ms = [state["momentum"] for state in states]
            torch._foreach_mul_(ms, group["momentum"])
            torch._foreach_add_(ms, gs, alpha=1 - group["momentum"])
            gs = ms
        rate = self._rate(group)
        below = list(torch._foreach_abs([state["diagonal"] for state in states]))
        torch._foreach_clamp_min_(below, group["alpha"])
        if group["weight_decay"]:
            torch._foreach_mul_(ps, 1 - rate * group["weight_decay"])
        torch._foreach_addcdiv_(ps, gs, below, value=-rate)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.oasis_kernel import step

        # A column that a step does not need is that of the gradients, which it leaves alone.
        slopes, ms = gs, [state.get("momentum", g) for state, g in zip(states, gs, strict=True)]
        if self._keeps_slopes:
            for state, g in zip(states, gs, strict=True):
                state.setdefault("slope", torch.empty_like(g))
            slopes = [state["slope"] for state in states]
        addresses = table(ps, gs, [s["diagonal"] for s in states], [s["previous"] for s in states], slopes, ms)
        rate, beta = self._rate(group), group["momentum"]
        numbers = (1 - rate * group["weight_decay"], rate, group["alpha"], beta, 1 - beta)
        step(addresses, chunks(ps), self._keeps_slopes, beta > 0, *scalars(ps[0], *numbers))

    @contextmanager
    def _replayed(self) -> Iterator[None]:
        """Random numbers as in the first evaluation of the closure."""
        host, others = self._before
        with torch.random.fork_rng(devices=list(others)):
            torch.set_rng_state(host)
            for device, state in others.items():
                torch.cuda.set_rng_state(state, device)
            yield


def _norms(work: Work, slope: Tensor, alpha: float, plain: bool) -> tuple[Any, Any]:
    """Squares of the norms of the last step, and of the gradient's change in the dual norm."""
    p, g, D, last = work.value, work.grad, work.state["diagonal"], work.state["previous"]
    if not plain and fits(work) and slope.is_contiguous():
        from resolvent.optim.oasis_kernel import norms

        way, change = norms(table([p], [g], [D], [last], [slope]), chunks([p]), *scalars(p, alpha)).sum(0)
        return way, change
    scale = D.abs().clamp_min_(alpha)
    way = (p - last).square_().mul_(scale).sum(dtype=torch.float64)
    return way, (g - slope).square_().div_(scale).sum(dtype=torch.float64)


def _step_size(eta: float, theta: float, way: float, change: float) -> float:
    """The next step size from the squared norms of the last step and of the gradient's change."""
    bound = math.sqrt(1 + theta) * eta
    if way > 0 and change > 0:
        bound = min(bound, math.sqrt(way / change) / 2)
    # Without a step, or where the gradient did not change, nothing was measured.
    return bound if math.isfinite(bound) and bound > 0 else eta


def _like_parameter(seen: Tensor, p: Tensor) -> Tensor:
    """Back from the form that `_single` gets to that of the parameter."""
    value = torch.view_as_complex(seen) if p.is_complex() else seen
    if hasattr(p, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        mesh: Any = p
        return distribute_tensor(value, mesh.device_mesh, mesh.placements, src_data_rank=None)
    return value
