"""M-FAC: gradients preconditioned by the inverse Fisher matrix of the last gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.optim.inverse_fisher import cholesky, columns
from resolvent.optim.optimizer import Group, Optimizer, State, check
from resolvent.optim.work import HALF, Work


class MFAC(Optimizer):
    r"""M-FAC: :math:`x \leftarrow x - \eta F^{-1} g` with :math:`F = \lambda I + \frac1m \sum g_i g_i^T` over the last m gradients, g the
    newest among them.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim`
    lr : step size
    momentum : of the mean of the preconditioned gradients, 0 for none
    weight_decay : coupled: its part is added to the gradient before all else
    history : m; the oldest gradient leaves for the newest. Before there are m, the missing ones count as zeros
    damp : lambda, above 0
    storage : dtype of the stored gradients, float32 (float64 for such parameters) or half of it: bfloat16 halves the memory
    foreach, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    One F for the parameters of a group. State: m d numbers, which a step reads twice: once for the products of the newest gradient with
    the others, once to combine them; besides, one Cholesky factorisation of m x m in double. As g is one of the gradients,
    :math:`F^{-1} g = \frac m\lambda G^T (m I + G G^T/\lambda)^{-1} e` without the difference of large numbers that a general vector needs.
    A parameter without a gradient in a step enters with zeros.

    References
    ----------
    "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = MFAC([x], lr=1.0, history=1, damp=1.0)
    >>> (x**2).sum().backward()
    >>> optimizer.step()  # g / (damp + |g|^2)
    >>> x.detach()
    tensor([0.7778, 0.7778])
    """

    elementwise = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        history: int = 512,
        damp: float = 1e-5,
        *,
        storage: torch.dtype | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
            "history": history, "damp": damp, "storage": storage,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("momentum", group["momentum"], 0.0, 1.0, below=True)
        check("damp", group["damp"], above=True)
        m = group["history"]
        if not isinstance(m, int) or isinstance(m, bool) or m < 1:
            raise ValueError(f"history must be an integer of at least 1, got {m!r}")
        if group["storage"] not in (None, torch.float64, torch.float32, *HALF):
            raise ValueError(f"storage must be None or a floating dtype, got {group['storage']!r}")

    def _begin(self, p: Tensor, group: Group) -> State:
        stored = p.new_zeros((group["history"], p.numel()), dtype=group["storage"] or p.dtype)
        state: State = {"history": stored}
        return {**state, "momentum": torch.zeros_like(p)} if group["momentum"] else state

    def _step_groups(self) -> None:
        for number, group in enumerate(self.param_groups):
            works = [self._work(p, group) for p in group["params"] if p.grad is not None and p.numel()]
            if works:
                self._step_window(f"window {number}", group, works)
            for work in works:
                if work.write is not None:
                    work.write()

    def _step_window(self, name: str, group: Group, works: list[Work]) -> None:
        m, home = group["history"], works[0].value.device
        shared = self._shared()
        if name not in shared:
            shared[name] = {"gram": torch.zeros(m, m, dtype=torch.float64, device=home), "next": 0}
        window = shared[name]
        slot, products = window["next"], window["gram"]
        stepped = {work.param for work in works}
        for p in group["params"]:
            if p not in stepped and "history" in self.state.get(p, {}):
                self.state[p]["history"][slot] = 0
        dots = torch.zeros(m, dtype=torch.float64, device=home)
        for work in works:
            g = work.grad.add(work.value, alpha=group["weight_decay"]) if group["weight_decay"] else work.grad
            stored = work.state["history"]
            stored[slot] = g.reshape(-1)
            # The products must be those of the numbers as they are stored.
            dots += _times(stored, stored[slot].to(g.dtype)).to(home)
        products[slot] = dots
        products[:, slot] = dots
        window["next"] = (slot + 1) % m
        unit = torch.zeros(m, 1, dtype=torch.float64, device=home)
        unit[slot] = m / group["damp"]
        weights = torch.cholesky_solve(unit, cholesky(products, group["damp"], m))[:, 0]
        for work in works:
            work.state["step"] += 1
            direction = _combined(weights.to(work.value), work.state["history"]).view_as(work.value)
            if group["momentum"]:
                direction = work.state["momentum"].mul_(group["momentum"]).add_(direction, alpha=1 - group["momentum"])
            work.value.sub_(direction, alpha=float(group["lr"]))


def _times(stored: Tensor, g: Tensor) -> Tensor:
    """Products of the stored gradients with one, in double."""
    if stored.dtype == g.dtype:
        return stored.mv(g).double()
    found = torch.zeros(len(stored), dtype=torch.float64, device=g.device)
    for part in columns(len(g)):
        found += stored[:, part].to(g.dtype).mv(g[part])
    return found


def _combined(weights: Tensor, stored: Tensor) -> Tensor:
    """The sum of the stored gradients with weights."""
    if stored.dtype == weights.dtype:
        return weights @ stored
    found = weights.new_empty(stored.shape[1])
    for part in columns(stored.shape[1]):
        torch.mv(stored[:, part].to(weights.dtype).T, weights, out=found[part])
    return found
