"""Shampoo: gradients preconditioned by inverse roots of a Kronecker product, in 32, 8 or 4 bits."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.optim.optimizer import Group, Optimizer, State
from resolvent.optim.precision import PRECISIONS, Precision, product_dtype
from resolvent.optim.shampoo_bits import PackedSide
from resolvent.optim.shampoo_fused import TINY, adam_sizes, adam_steps, steps_along
from resolvent.optim.shampoo_sides import FullSide, from_blocks, layout, ridged_power, to_blocks

_CHOICES = {
    "exponent": ("optimal", "original"),
    "graft": ("adam", "sgd", None),
    "bits": (4, 8, 32),
    "precision": PRECISIONS,
}


class Shampoo(Optimizer):
    r"""Shampoo: the step of a matrix is :math:`\operatorname{tr}(L)^{1/2} L^{-1/2} M R^{-1/2}` (optimal) or :math:`L^{-1/4} M R^{-1/4}`
    (original) with averages L of :math:`G G^T`, R of :math:`G^T G` and M of the gradients G.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : step size
    betas : of the momentum M and of the statistics
    eps : ridge, relative to the largest eigenvalue of L and of R
    weight_decay : decoupled
    exponent : "optimal": H^(-1/2) for the best product H ~ (L kron R) / tr(L) that one step of power iteration finds (Shampoo^2);
        "original": that for (L kron R)^(1/2)
    precond_interval : steps between roots; default 100, with less than 32 bits 500. Before the first such step roots are made at the
        steps 1, 2, 4, 8, ...
    stat_interval : likewise for statistics; default 1, with less than 32 bits 100
    block : largest side of a block; larger matrices are cut into equal blocks with statistics of their own
    graft : the size of the step of a tensor is that of "adam" with the same betas, or of the momentum ("sgd"); None: its own, which
        for bits < 32 with the default intervals lags behind the gradients
    max_size : matrices with a longer side, such as embeddings, take the steps of Adam, as vectors do
    bits : 4 or 8: eigenvectors and roots are kept in so many bits
    quant_block : entries that share a scale
    rectify : steps towards orthogonality before statistics and before roots
    min_quant_size : sides with fewer entries keep 32 bits
    precision : of the products with the roots. "auto": bfloat16 for float32 parameters and blocks with sides of at least 128, where the
        hardware multiplies it: where L and R have condition 1e4, the direction is then off by about 13 %, hardly more than one of five
        Newton-Schulz steps; "bfloat16"; "full": that of the parameter
    foreach, fused, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    Cost for a block (m, n): 2 (m + n) m n flops for the direction, 5/8 of that for the statistics, and two eigenproblems every `precond_interval`
    steps, 9 (m^3 + n^3) flops each. State: two moments as AdamW, and 2 (m^2 + n^2) numbers, half of them in bfloat16 where products are; with 4 bits 1.06
    (m^2 + n^2) bytes. Statistics are not kept in bfloat16: its rounding errors are above the eigenvalues that matter.

    References
    ----------
    "A New Perspective on Shampoo's Preconditioner"; "4-bit Shampoo for Memory-Efficient Network Training"

    Examples
    --------
    >>> layer = torch.nn.Linear(8, 8)
    >>> optimizer = Shampoo(layer.parameters(), lr=0.01)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     loss = (layer(torch.eye(8)) - torch.eye(8)).square().mean()
    ...     loss.backward()
    ...     optimizer.step()
    >>> bool(loss < 1e-3)
    True
    """

    elementwise = False
    has_fused = True
    fused_state = frozenset({"momentum", "second"})

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        exponent: Literal["optimal", "original"] = "optimal",
        precond_interval: int | None = None,
        stat_interval: int | None = None,
        block: int = 512,
        graft: Literal["adam", "sgd"] | None = "adam",
        max_size: int = 8192,
        bits: Literal[4, 8, 32] = 32,
        quant_block: int = 64,
        rectify: tuple[int, int] = (1, 4),
        min_quant_size: int = 4096,
        precision: Precision = "auto",
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "exponent": exponent,
            "precond_interval": precond_interval, "stat_interval": stat_interval, "block": block, "graft": graft,
            "max_size": max_size, "bits": bits, "quant_block": quant_block, "rectify": rectify,
            "min_quant_size": min_quant_size, "precision": precision,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        for name, known in _CHOICES.items():
            if group[name] not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {group[name]!r}")
        least = {"precond_interval": 1, "stat_interval": 1, "block": 1, "max_size": 1, "min_quant_size": 0}
        for name, low in least.items():
            value = group[name]
            if value is None and name.endswith("interval"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
        steps = group["rectify"]
        if len(steps) != 2 or not all(isinstance(n, int) and n >= 0 for n in steps):
            raise ValueError(f"rectify must be two numbers of steps, got {steps!r}")
        if not isinstance(group["quant_block"], int) or group["quant_block"] < 2 or group["quant_block"] % 2:
            raise ValueError(f"quant_block must be an even integer of at least 2, got {group['quant_block']!r}")

    def _begin(self, p: Tensor, group: Group) -> State:
        state: State = {"momentum": torch.zeros_like(p)}
        matrix = is_matrix(p, group)
        if group["graft"] == "adam" or not matrix:
            state["second"] = torch.zeros_like(p)
        return {**state, "updates": 0} if matrix else state

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        beta1, beta2 = group["betas"]
        m = state["momentum"].lerp_(g, 1 - beta1)
        adam = None
        if "second" in state:
            v = state["second"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
            step = state["step"]
            adam = m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + TINY)
        if "updates" in state:
            _observe(group, p, g, state)
            if _due(state["step"], *_intervals(group)[:1]):
                _renew(group, [p], [state])
            u = _direction(group, p, m, state)
            u = u if adam is None else _resized(u, adam.norm())
        elif adam is not None:
            u = adam
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"])

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        beta1, beta2 = group["betas"]
        lr, step = group["lr"], states[0]["step"]
        ms = [state["momentum"] for state in states]
        torch._foreach_lerp_(ms, gs, 1 - beta1)
        with_second = [i for i, state in enumerate(states) if "second" in state]
        adam: dict[int, Tensor] = {}
        if with_second:
            vs, some = [states[i]["second"] for i in with_second], [gs[i] for i in with_second]
            torch._foreach_mul_(vs, beta2)
            torch._foreach_addcmul_(vs, some, some, 1 - beta2)
            below = torch._foreach_sqrt(vs)
            # m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + tiny) with the corrections drawn together.
            correction = (1 - beta1**step) / (1 - beta2**step) ** 0.5
            torch._foreach_mul_(below, correction)
            torch._foreach_add_(below, TINY * (1 - beta1**step))
            adam = dict(zip(with_second, torch._foreach_div([ms[i] for i in with_second], below), strict=True))
        if group["weight_decay"]:
            torch._foreach_mul_(ps, 1 - lr * group["weight_decay"])
        plain = [i for i, state in enumerate(states) if "updates" not in state]
        if plain:
            torch._foreach_add_([ps[i] for i in plain], [adam[i] for i in plain], alpha=-lr)
        matrices = [i for i, state in enumerate(states) if "updates" in state]
        for i in matrices:
            _observe(group, ps[i], gs[i], states[i])
        if matrices and _due(step, *_intervals(group)[:1]):
            _renew(group, [ps[i] for i in matrices], [states[i] for i in matrices])
        sizes = dict(zip(adam, torch._foreach_norm(list(adam.values())), strict=True)) if adam and matrices else {}
        for i in matrices:
            u = _direction(group, ps[i], ms[i], states[i])
            ps[i].add_(_resized(u, sizes[i]) if i in sizes else u, alpha=-lr)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        is_plain = ["updates" not in state for state in states]
        for plain in (True, False):
            some = [i for i, one in enumerate(is_plain) if one == plain]
            if some:
                take = adam_steps if plain else self._fused_matrices
                take(group, [ps[i] for i in some], [gs[i] for i in some], [states[i] for i in some])

    def _fused_matrices(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        beta1, step = group["betas"][0], states[0]["step"]
        ms = [state["momentum"] for state in states]
        grafted = group["graft"] is not None
        if group["graft"] == "adam":
            sizes: Any = adam_sizes(group, gs, states)
        else:
            torch._foreach_lerp_(ms, gs, 1 - beta1)
            sizes = (np.array([float(m.norm()) for m in ms]) if grafted else 1.0) / (1 - beta1**step)
        for p, g, state in zip(ps, gs, states, strict=True):
            _observe(group, p, g, state)
        if _due(step, *_intervals(group)[:1]):
            _renew(group, ps, states)
        keep, lengths = 1 - group["lr"] * group["weight_decay"], group["lr"] * sizes
        held: dict[torch.dtype, dict[int, Tensor]] = defaultdict(dict)

        def release(dtype: torch.dtype) -> None:
            some = held.pop(dtype)
            steps_along([ps[i] for i in some], list(some.values()), keep, lengths[list(some)] if grafted else lengths)

        for i, (p, m, state) in enumerate(zip(ps, ms, states, strict=True)):
            D = _preconditioned(group, p, m, state)
            held[D.dtype][i] = D
            if sum(d.nbytes for d in held[D.dtype].values()) >= _HELD:
                release(D.dtype)
        for dtype in list(held):
            release(dtype)


# Bytes of directions that wait for their one pass over memory.
_HELD = 2**26


def is_matrix(p: Tensor, group: Group) -> bool:
    """Whether a parameter is preconditioned; the others take the steps of Adam.

    Parameters
    ----------
    p : a parameter
    group : with "max_size"

    Returns
    -------
    True for two axes or more, of which neither side, flattened to (out, rest), is one or above `max_size`.

    Examples
    --------
    >>> is_matrix(torch.zeros(8, 3, 3, 3), {"max_size": 100}), is_matrix(torch.zeros(8, 1), {"max_size": 100})
    (True, False)
    """
    if p.ndim < 2:
        return False
    sides = (p.shape[0], p.numel() // max(p.shape[0], 1))
    return min(sides) > 1 and max(sides) <= group["max_size"]


def _intervals(group: Group) -> tuple[int, int]:
    """Of roots and of statistics."""
    narrow = group["bits"] < 32
    return group["precond_interval"] or (500 if narrow else 100), group["stat_interval"] or (100 if narrow else 1)


def _due(step: int, interval: int) -> bool:
    # The first statistics grow fast: roots of one gradient kept for a hundred steps would be those of noise.
    return step % interval == 0 or (step < interval and step & (step - 1) == 0)


def _side(name: str, order: int, group: Group) -> FullSide | PackedSide:
    if group["bits"] == 32 or order * order < group["min_quant_size"]:
        return FullSide(name)
    return PackedSide(name, group["bits"], group["quant_block"], tuple(group["rectify"]))


def _sides(p: Tensor, group: Group) -> tuple[FullSide | PackedSide, FullSide | PackedSide]:
    _, _, rows, columns = layout(tuple(p.shape), group["block"])
    return _side("left", rows, group), _side("right", columns, group)


def _work_dtype(p: Tensor, group: Group) -> torch.dtype:
    return product_dtype(p, group["precision"], layout(tuple(p.shape), group["block"])[2:])


def _observe(group: Group, p: Tensor, g: Tensor, state: State) -> None:
    """Average a gradient into the statistics."""
    if not _due(state["step"], _intervals(group)[1]):
        return
    G, beta = to_blocks(g, group["block"]), group["betas"][1]
    left, right = _sides(p, group)
    left.add(state, G, beta)
    right.add(state, G.mT, beta)
    state["updates"] += 1


def _renew(group: Group, ps: list[Tensor], states: list[State]) -> None:
    """Make the roots anew, those of equal order together."""
    alike: dict[Any, list[tuple[Any, Tensor, State]]] = defaultdict(list)
    for p, state in zip(ps, states, strict=True):
        for side, order in zip(_sides(p, group), layout(tuple(p.shape), group["block"])[2:], strict=True):
            alike[type(side), side.name, order].append((side, p, state))
    optimal = group["exponent"] == "optimal"
    for members in alike.values():
        side = members[0][0]
        w, V = side.spectrum([state for _, _, state in members])
        roots = (V * ridged_power(w, 0.5 if optimal else 0.25, group["eps"])[..., None, :]) @ V.mT
        counts = [layout(tuple(p.shape), group["block"])[:2] for _, p, _ in members]
        for (_, p, state), root in zip(members, roots.split([a * b for a, b in counts]), strict=True):
            # What the averages lack of their sum: c^(-1/4) on either side, and for the optimal exponent tr(L)^(1/2) with it.
            missing = (1 - group["betas"][1] ** state["updates"]) ** 0.25
            if optimal:
                size = side.trace(state)[:, None, None]
                root = root * torch.where(size > 0, size, torch.ones_like(size)) ** 0.25
            side.keep_root(state, missing * root, _work_dtype(p, group))


def _preconditioned(group: Group, p: Tensor, m: Tensor, state: State) -> Tensor:
    """The momentum between the roots, of the shape of the parameter and the precision of the products."""
    dtype, (left, right) = _work_dtype(p, group), _sides(p, group)
    M = to_blocks(m, group["block"], dtype)
    return from_blocks(left.root(state, dtype) @ M @ right.root(state, dtype), tuple(p.shape), group["block"])


def _direction(group: Group, p: Tensor, m: Tensor, state: State) -> Tensor:
    """The preconditioned momentum; with "adam" its size is still to be given."""
    D = _preconditioned(group, p, m, state)
    if group["graft"] == "sgd":
        return _resized(D, m.norm() / (1 - group["betas"][0] ** state["step"]))
    if group["graft"] is None:
        return D.to(p.dtype) / (1 - group["betas"][0] ** state["step"])
    return D


def _resized(u: Tensor, size: Tensor) -> Tensor:
    """A direction with the size of another step; zero stays zero."""
    own = torch.linalg.vector_norm(u, dtype=size.dtype)
    return u * torch.where(own > 0, size / torch.where(own > 0, own, torch.ones_like(own)), own).reshape((1,) * u.ndim)
