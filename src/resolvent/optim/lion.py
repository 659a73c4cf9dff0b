"""Lion, and the family of its kind: momentum through the subgradient of a convex function, inside a constraint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.functions import orthogonalize
from resolvent.optim.fused import chunks, scalars, table
from resolvent.optim.optimizer import Group, Optimizer, State, check

Norm = Literal["l1", "l2", "group", "huber", "spectral", "lp"]
_NORMS = ("l1", "l2", "group", "huber", "spectral", "lp")


@dataclass(frozen=True)
class Constraint:
    """The set inside which weight decay holds the parameters: a norm of at most a radius.

    Parameters
    ----------
    norm : "inf" (largest entry), "l2", "row" (largest row in the 2-norm), "spectral" or "lq"
    radius : 1 / weight_decay
    q : exponent of "lq"

    Examples
    --------
    >>> Constraint("inf", 2.0).violation(torch.tensor([1.0, -3.0]))
    1.0
    """

    norm: str
    radius: float
    q: float = 2.0

    def size(self, x: Tensor) -> float:
        """The norm of one tensor.

        Parameters
        ----------
        x : a parameter

        Returns
        -------
        A number of at least 0.
        """
        if x.numel() == 0:
            return 0.0
        if self.norm == "inf":
            return float(x.abs().max())
        if self.norm == "row":
            return float(_rows(x).norm(dim=1).max())
        if self.norm == "spectral":
            return float(torch.linalg.matrix_norm(_rows(x), 2))
        return float(torch.linalg.vector_norm(x, self.q if self.norm == "lq" else 2.0))

    def violation(self, x: Tensor) -> float:
        """How far the norm is above the radius; 0 inside.

        Parameters
        ----------
        x : a parameter

        Returns
        -------
        A number of at least 0.
        """
        return max(0.0, self.size(x.detach()) - self.radius)


class Lion(Optimizer):
    r"""Lion and its relatives (Lion-K): :math:`x \leftarrow x - \eta\,(\nabla K(u) + \lambda x)` with
    :math:`u = \beta_1 m + (1-\beta_1) g` and :math:`m \leftarrow \beta_2 m + (1-\beta_2) g`.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : step size, 3 to 10 times smaller than AdamW's
    betas : of the direction and of the momentum
    weight_decay : lambda, decoupled. A positive one solves a constrained problem: see `constraint`
    norm : the convex K: "l1" gives sign(u), which is Lion; "l2" u / |u| of the tensor; "group" of each row; "huber" clips u / epsilon to
        [-1, 1]; "spectral" the orthogonal polar factor of a matrix (kernels of convolutions flattened to (out, rest), a vector as one column);
        "lp" the gradient of the p-norm
    epsilon : of "huber"
    p : of "lp", above 1
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    State: one momentum, half of AdamW's. Cost of "l1": one pass that reads parameter, gradient and momentum and writes two of
    them, 20 bytes a number in float32 against AdamW's 28. With weight decay the limit solves
    min f(x) + K*(lambda x) / lambda: for "l1" f over the box max|x| <= 1 / lambda. Outside of the set every step shrinks the
    distance by the factor 1 - lr lambda at least.

    References
    ----------
    "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([3.0, -3.0]))
    >>> lion = Lion([x], lr=0.1, weight_decay=0.5)
    >>> for _ in range(100):
    ...     lion.zero_grad()
    ...     (-x[0] + x[1]).backward()
    ...     lion.step()
    >>> lion.constraint().radius, x.detach()
    (2.0, tensor([ 2.0059, -2.0059]))
    """

    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        norm: Norm = "l1",
        epsilon: float = 1e-3,
        p: float = 2.0,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "weight_decay": weight_decay, "norm": norm, "epsilon": epsilon, "p": p,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        if group["norm"] not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}, got {group['norm']!r}")
        check("epsilon", group["epsilon"], above=True)
        check("p", group["p"], 1.0, above=True)

    def _is_elementwise(self, group: Group) -> bool:
        return group["norm"] in ("l1", "huber")

    def _can_fuse(self, group: Group) -> bool:
        return bool(group["norm"] == "l1")

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"momentum": torch.zeros_like(p)}

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        beta1, beta2 = group["betas"]
        m = state["momentum"]
        direction = _subgradient(m * beta1 + g * (1 - beta1), group)
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
        m.mul_(beta2).add_(g, alpha=1 - beta2)

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        beta1, beta2 = group["betas"]
        ms = [state["momentum"] for state in states]
        u = list(torch._foreach_mul(ms, beta1))
        torch._foreach_add_(u, gs, alpha=1 - beta1)
        if group["norm"] == "l1":
            torch._foreach_sign_(u)
        else:
            u = [_subgradient(part, group) for part in u]
        if group["weight_decay"]:
            torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(ps, u, alpha=-group["lr"])
        torch._foreach_mul_(ms, beta2)
        torch._foreach_add_(ms, gs, alpha=1 - beta2)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.lion_kernel import lion

        (beta1, beta2), lr = group["betas"], group["lr"]
        numbers = (0.0, 1 - lr * group["weight_decay"], lr, beta1, beta2, 1 - beta1, 1 - beta2)
        addresses = table(ps, gs, [state["momentum"] for state in states])
        lion(addresses, chunks(ps), *scalars(ps[0], *numbers))

    def constraint(self, group: int = 0) -> Constraint | None:
        """The set that weight decay implies for the parameters of a group.

        Parameters
        ----------
        group : its number

        Returns
        -------
        The set, or None without weight decay. "huber" solves a problem with a quadratic penalty inside its box.
        """
        settings = self.param_groups[group]
        if not settings["weight_decay"]:
            return None
        kind = {"l1": "inf", "huber": "inf", "l2": "l2", "group": "row", "spectral": "spectral", "lp": "lq"}[
            settings["norm"]
        ]
        p = settings["p"]
        return Constraint(kind, 1 / settings["weight_decay"], p / (p - 1))

    def feasibility(self) -> float:
        """The largest violation of its set over all parameters.

        Returns
        -------
        0 where every parameter is inside, infinity never: without weight decay every point is feasible.
        """
        found = 0.0
        for number, group in enumerate(self.param_groups):
            limit = self.constraint(number)
            if limit is not None:
                found = max([found, *(limit.violation(p) for p in group["params"])])
        return found


def lion_lyapunov(loss: float, optimizer: Lion) -> float:
    r"""The Lyapunov function that Lion with weight decay lowers:
    :math:`H = a f(x) + \frac{a}{\lambda} K^*(\lambda x) + \frac{1 - \epsilon a}{1 + \epsilon\lambda}(K^*(\lambda x) + K(m) - \lambda\langle x, m\rangle)`.

    Parameters
    ----------
    loss : f at the parameters
    optimizer : after at least one step, with the same lr, betas and a positive weight decay in all groups

    Returns
    -------
    H, infinity outside of the constraint. Along the flow of which the steps are a discretisation it never rises.

    Raises
    ------
    ValueError : no weight decay, beta2 = 1 or groups that differ.

    Notes
    -----
    m is the negative of the optimizer's momentum; with step size eta, a = (1 - beta2) / eta and epsilon a = 1 - beta1.

    References
    ----------
    "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([0.5]))
    >>> lion = Lion([x], lr=0.01, weight_decay=1.0)
    >>> (x**2).sum().backward()
    >>> lion.step()
    >>> lion_lyapunov(float((x**2).sum().detach()), lion) > 0
    True
    """
    first = optimizer.param_groups[0]
    names = ("lr", "betas", "weight_decay", "norm", "epsilon", "p")
    if any(group[name] != first[name] for group in optimizer.param_groups for name in names):
        raise ValueError("optimizer must have the same settings in all groups")
    (beta1, beta2), lr, decay = first["betas"], float(first["lr"]), first["weight_decay"]
    if not decay or beta2 == 1 or not lr:
        raise ValueError("optimizer must have weight_decay > 0, lr > 0 and betas[1] < 1")
    pull = (1 - beta2) / lr
    limit = optimizer.constraint()
    conjugate, value, product = 0.0, 0.0, 0.0
    for x in (p for group in optimizer.param_groups for p in group["params"]):
        m = (
            -optimizer.state[x]["momentum"].double()
            if x in optimizer.state
            else torch.zeros_like(x, dtype=torch.double)
        )
        y = x.detach().double()
        if limit is not None and limit.size(y) > limit.radius * (1 + 1e-6):
            return math.inf
        if first["norm"] == "huber":
            conjugate += 0.5 * first["epsilon"] * float((decay * y).square().sum())
        value += _value(m, first)
        product += float((y * m).sum())
    spread = beta1 / (1 + (1 - beta1) / pull * decay)
    return pull * float(loss) + pull / decay * conjugate + spread * (conjugate + value - decay * product)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1) if x.ndim > 0 else x.reshape(1, 1)


def _value(u: Tensor, group: Group) -> float:
    """K(u)."""
    norm = group["norm"]
    if norm == "huber":
        size, e = u.abs(), group["epsilon"]
        return float(torch.where(size <= e, size.square() / (2 * e), size - e / 2).sum())
    if norm == "group":
        return float(_rows(u).norm(dim=1).sum())
    if norm == "spectral":
        return float(torch.linalg.matrix_norm(_rows(u), "nuc"))
    return float(torch.linalg.vector_norm(u, {"l1": 1.0, "l2": 2.0, "lp": group["p"]}[norm]))


def _subgradient(u: Tensor, group: Group) -> Tensor:
    """An element of the subdifferential of K, the zero one at zero."""
    norm = group["norm"]
    if norm == "l1":
        return u.sign()
    if norm == "huber":
        return (u / group["epsilon"]).clamp_(-1, 1)
    if norm == "group":
        rows = _rows(u)
        rows = _unit(rows, rows.abs().amax(dim=1, keepdim=True))
        return _unit(rows, rows.norm(dim=1, keepdim=True)).reshape(u.shape)
    if norm == "spectral":
        return orthogonalize(_rows(u)).reshape(u.shape)
    # Over the largest entry first: squares of 1e-25 are zero in float32.
    u = _unit(u, u.abs().max())
    if norm == "l2":
        return _unit(u, u.norm())
    p = group["p"]
    relative = _unit(u, torch.linalg.vector_norm(u, p))
    return relative.sign() * relative.abs().pow(p - 1)


def _unit(u: Tensor, size: Tensor) -> Tensor:
    return torch.where(size > 0, u / torch.where(size > 0, size, torch.ones_like(size)), torch.zeros_like(u))
