"""Gauss-Newton steps without approximation, by a linear system as large as the batch's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from resolvent.operators import lu
from resolvent.optim.batch_jacobian import LayerJacobian, RowJacobian, can_tap, curvature, tapped
from resolvent.optim.optimizer import Group, Optimizer, State, check

Loss = Literal["mse", "ce", "bce"] | Callable[[Tensor, Any], Tensor]
Jacobian = LayerJacobian | RowJacobian

# The line search and the damping of the authors' implementation: sufficient decrease, factors of the step, trials; factors of the damping.
_ARMIJO, _SHRINK, _GROW, _TRIALS = 0.1, 0.8, 1.5, 15
_EASE, _STIFFEN = 0.99, 1.01


class ExactGaussNewton(Optimizer):
    r"""Exact regularised Gauss-Newton steps: :math:`p = -(s J^T Q J + \lambda I)^{-1} s J^T r = -J^T (Q J J^T + \tfrac{\lambda}{s} I)^{-1} r`.

    J is the Jacobian of the batch's outputs in the parameters, r and Q the gradients and Hessians of the samples' losses in the outputs, s
    the factor by which the loss averages them.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : of the step along p
    damping : lambda, above 0
    adaptive_damping : multiply the damping by 0.99 after a step whose decrease is more than 0.75 of what the quadratic model promised, by
        1.01 after less than 0.25
    line_search : shorten steps (by factors 0.8, at most 15 times) until the batch's loss falls by a tenth of what its slope promises; the
        next step starts from 1.5 times the last factor and at most 1
    momentum : of the directions, in [0, 1), with bias correction
    weight_decay : of the penalty :math:`\tfrac{1}{2}\gamma|w|^2`, which enters the system and is not decoupled
    jacobian : "layers": J J^T from what enters layers and the gradients of their outputs, for models whose samples do not see each other;
        "rows": J kept row by row, for every model; "auto": "layers" where a check on the first batch finds it right
    foreach, maximize : as in `torch.optim.AdamW`

    Notes
    -----
    A step needs model, inputs and targets: ``step(model, x, y, loss="ce")``. Gradients in ``p.grad`` are neither used nor changed. With b samples of c
    outputs: one forward pass, c backward passes to the layers' outputs, one system of order bc (Cholesky for "mse", otherwise LU),
    O((bc)^3). "layers" keeps no J for `nn.Linear` and `nn.Conv2d`; other parameters, and "rows", keep bc numbers for every entry. The accuracy is
    that of the system, whose condition is at most 1 + s |Q J J^T| / lambda. A loss that is not finite leaves the parameters as
    they are and is returned. With more parameters than samples and cross entropy, full steps with a small damping diverge: take
    `line_search`, or more damping. `line_search` and `adaptive_damping` evaluate the model again.

    References
    ----------
    "Exact Gauss-Newton Optimization for Training Deep Neural Networks"

    Examples
    --------
    For a linear model and no damping to speak of, one step is the least-squares solution:

    >>> x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    >>> model = nn.Linear(1, 1, dtype=torch.float64)
    >>> optimizer = ExactGaussNewton(model.parameters(), damping=1e-9)
    >>> loss = optimizer.step(model, x, 3 * x + 1, loss="mse")
    >>> round(model.weight.item(), 4), round(model.bias.item(), 4)
    (3.0, 1.0)
    """

    needs = "jacobian"
    takes_complex = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        damping: float = 1e-4,
        adaptive_damping: bool = False,
        line_search: bool = False,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        jacobian: Literal["auto", "layers", "rows"] = "auto",
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if jacobian not in ("auto", "layers", "rows"):
            raise ValueError(f"jacobian must be 'auto', 'layers' or 'rows', got {jacobian!r}")
        defaults = {
            "lr": lr, "damping": damping, "momentum": momentum, "weight_decay": weight_decay, "reach": 1.0,
            "adaptive_damping": adaptive_damping, "line_search": line_search, "jacobian": jacobian,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, maximize=maximize)
        self._layered: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._layered = WeakKeyDictionary()

    def _check_group(self, group: Group) -> None:
        check("damping", group["damping"], above=True)
        check("momentum", group["momentum"], 0.0, 1.0, below=True)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, model: Callable[[Any], Tensor] | None = None, x: Any = None, y: Any = None, *, loss: Loss = "mse"
    ) -> Tensor:
        """Take one step on one batch.

        Parameters
        ----------
        model : outputs of inputs, (samples, ...), by way of the parameters of this optimizer
        x : inputs, as the model takes them
        y : targets
        loss : "mse", "ce" (classes on axis 1, integer targets or probabilities) and "bce" (of logits) mean the same as torch's functions; a
            function `loss(outputs, targets)` -> scalar must be a mean over samples of losses that are convex in the outputs

        Returns
        -------
        The loss before the step.

        Raises
        ------
        RuntimeError : no model is given, or its outputs do not depend on any parameter.
        ValueError : `jacobian="layers"` for a model whose samples see each other.
        """
        self._check_call(model, y, loss)
        run: Any = model
        J, outputs = self._jacobian(model, x)
        value, r, Q, s = curvature(loss, outputs, y)
        if not bool(torch.isfinite(value)):
            return value
        if self.param_groups[0]["maximize"]:
            r = -r
        directions = self._solve(J, r, Q, s)
        follows = any(group["line_search"] or group["adaptive_damping"] for group in self.param_groups)
        before = [p.detach().clone() for p in J.params] if follows else []
        self._move(J.params, directions)
        if follows:
            self._follow(J, before, directions, (r, Q, s), lambda: curvature(loss, run(x), y)[0], value)
        return value

    def _check_call(self, model: Any, y: Any, loss: Any) -> None:
        if model is None or y is None:
            raise RuntimeError(
                "ExactGaussNewton needs the Jacobian of the model: call step(model, x, y, loss=...) with a batch of inputs and targets"
            )
        if not callable(model):
            raise TypeError(f"model must be a Module or a function of inputs, got {type(model).__name__}")
        if loss not in ("mse", "ce", "bce") and not callable(loss):
            raise ValueError(f"loss must be 'mse', 'ce', 'bce' or a function of outputs and targets, got {loss!r}")
        if len({group["maximize"] for group in self.param_groups}) > 1:
            raise ValueError("maximize must be the same in all groups")
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.is_complex() or hasattr(p, "full_tensor"):
                raise RuntimeError(f"ExactGaussNewton takes no {'complex' if p.is_complex() else 'sharded'} parameters")

    # The Jacobian.

    def _jacobian(self, model: Any, x: Any) -> tuple[Jacobian, Tensor]:
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        way = self.param_groups[0]["jacobian"]
        if way == "layers" and not isinstance(model, nn.Module):
            raise ValueError("jacobian='layers' needs a torch.nn.Module as model; use 'rows' for a function")
        if way == "layers" or (way == "auto" and can_tap(model) and self._layered.get(model, True)):
            with torch.enable_grad(), tapped(model, params) as taps:
                outputs = _checked(model(x))
            J = LayerJacobian(outputs, params, taps)
            if model in self._layered or _agree(J, outputs):
                self._layered[model] = True
                return J, outputs
            if way == "layers":
                raise ValueError(
                    "jacobian='layers' is wrong for this model: its samples see each other, or it uses weights outside of "
                    "their layers; use 'rows'"
                )
            self._layered[model] = False
            return RowJacobian(outputs, params), outputs
        with torch.enable_grad():
            outputs = _checked(model(x))
        return RowJacobian(outputs, params), outputs

    # The system.

    def _groups_of(self, params: list[Tensor]) -> list[Group]:
        owner = {p: group for group in self.param_groups for p in group["params"]}
        return [owner[p] for p in params]

    def _solve(self, J: Jacobian, r: Tensor, Q: Tensor | None, s: float) -> list[Tensor]:
        """(s J^T Q J + D)^-1 (s J^T r + C w), D = damping + weight decay and C = weight decay, both by groups."""
        groups = self._groups_of(J.params)
        scales = [1.0 / (group["damping"] + group["weight_decay"]) for group in groups]
        K = J.gram(scales)
        if not any(group["weight_decay"] for group in groups):
            u = _system(Q, K, r, s)
            return [part.mul_(scale).to(p.dtype) for p, part, scale in zip(J.params, J.pull(u), scales, strict=True)]
        decayed = [
            p.detach() * (scale * group["weight_decay"])
            for p, scale, group in zip(J.params, scales, groups, strict=True)
        ]
        u = _system(Q, K, r - _times(Q, J.push(decayed)), s)
        return [
            (scale * part + shift).to(p.dtype)
            for p, part, scale, shift in zip(J.params, J.pull(u), scales, decayed, strict=True)
        ]

    def _move(self, params: list[Tensor], directions: list[Tensor]) -> None:
        """Steps along the directions, with the base's way through groups and precisions."""
        everyone = [p for group in self.param_groups for p in group["params"]]
        kept = [p.grad for p in everyone]
        sign = -1.0 if self.param_groups[0]["maximize"] else 1.0
        try:
            for p in everyone:
                p.grad = None
            for p, direction in zip(params, directions, strict=True):
                p.grad = direction if sign > 0 else -direction
            self._step_groups()
        finally:
            for p, g in zip(everyone, kept, strict=True):
                p.grad = g

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"momentum": torch.zeros_like(p), "age": 0} if group["momentum"] else {}

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        beta = group["momentum"]
        if beta:
            if "momentum" not in state:
                state.update({"momentum": torch.zeros_like(p), "age": 0})
            state["age"] += 1
            m = state["momentum"].mul_(beta).add_(g, alpha=1 - beta)
            g = m / (1 - beta ** state["age"])
        p.sub_(g, alpha=group["lr"])

    # Line search and damping.

    def _follow(
        self,
        J: Jacobian,
        before: list[Tensor],
        directions: list[Tensor],
        model: tuple[Tensor, Tensor | None, float],
        loss: Callable[[], Tensor],
        start: Tensor,
    ) -> None:
        """Shorten the step that was taken, and judge the damping by it."""
        r, Q, s = model
        sign = -1.0 if self.param_groups[0]["maximize"] else 1.0
        decays = [group["weight_decay"] for group in self._groups_of(J.params)]

        def value(batch: Tensor, at: list[Tensor]) -> float:
            penalty = [
                0.5 * c * float(p.detach().double().square().sum()) for c, p in zip(decays, at, strict=True) if c
            ]
            return sign * float(batch) + sum(penalty)

        def change() -> tuple[list[Tensor], Tensor, float]:
            moves = [p.detach() - old for p, old in zip(J.params, before, strict=True)]
            along = J.push(moves)
            pull = sum(c * float((old * move).sum()) for c, old, move in zip(decays, before, moves, strict=True) if c)
            return moves, along, float(s * (r @ along)) + pull

        first = value(start, before)
        moves, along, slope = change()
        searching = any(group["line_search"] for group in self.param_groups)
        if searching and slope >= 0 and any(group["momentum"] for group in self.param_groups):
            # Momentum points uphill on this batch: no factor can be found along it, so it starts anew.
            self._restart(J.params, before, directions)
            moves, along, slope = change()
        factor, reached = 1.0, float("nan")
        if searching:
            factor = min(1.0, _GROW * self.param_groups[0]["reach"])
            for trial in range(_TRIALS + 1):
                self._place(J.params, before, moves, factor)
                reached = value(loss(), J.params)
                if reached <= first + _ARMIJO * factor * slope or trial == _TRIALS:
                    break
                factor *= _SHRINK
            for group in self.param_groups:
                group["reach"] = factor
        else:
            reached = value(loss(), J.params)
        square = float(s * (along @ _times(Q, along))) + sum(
            c * float(move.square().sum()) for c, move in zip(decays, moves, strict=True) if c
        )
        promised = factor * slope + 0.5 * factor**2 * square
        gain = (reached - first) / promised if promised else 0.0
        for group in self.param_groups:
            if group["adaptive_damping"]:
                group["damping"] *= _EASE if gain > 0.75 else _STIFFEN if not gain >= 0.25 else 1.0

    def _place(self, params: list[Tensor], before: list[Tensor], moves: list[Tensor], factor: float) -> None:
        for p, old, move in zip(params, before, moves, strict=True):
            p.copy_(old + factor * move)

    def _restart(self, params: list[Tensor], before: list[Tensor], directions: list[Tensor]) -> None:
        for p, old in zip(params, before, strict=True):
            p.copy_(old)
            self.state[p]["step"] -= 1
            if "momentum" in self.state[p]:
                self.state[p]["momentum"].zero_()
                self.state[p]["age"] = 0
        self._move(params, directions)


def _checked(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim == 0:
        raise TypeError("model must return one floating tensor with samples on its first axis")
    if not outputs.requires_grad:
        raise RuntimeError("model's outputs depend on no parameter of this optimizer that requires gradients")
    return outputs


def _agree(J: LayerJacobian, outputs: Tensor) -> bool:
    """Whether J^T v is what a backward pass gives: for generic v it is so only where the samples are independent."""
    v = torch.sin(torch.arange(1.0, outputs.numel() + 1, device=outputs.device)).to(outputs.dtype)
    truth = torch.autograd.grad(outputs, J.params, v.reshape(outputs.shape), retain_graph=True, allow_unused=True)
    error, size = 0.0, 0.0
    for mine, right in zip(J.pull(v.to(J.dtype)), truth, strict=True):
        right = torch.zeros_like(mine) if right is None else right.to(mine.dtype)
        error, size = error + float((mine - right).square().sum()), size + float(right.square().sum())
    return (
        error <= (1e4 * torch.finfo(outputs.dtype).eps) ** 2 * size
        if outputs.dtype != torch.bfloat16
        else error <= 0.01 * size
    )


def _times(Q: Tensor | None, v: Tensor) -> Tensor:
    if Q is None:
        return v
    return (Q @ v.reshape(Q.shape[0], Q.shape[1], 1)).reshape(-1)


def _system(Q: Tensor | None, K: Tensor, r: Tensor, s: float) -> Tensor:
    """(Q K + I / s)^-1 r."""
    n = len(K)
    if Q is None:
        M = K.clone()
        M.diagonal().add_(1 / s)
        L, info = torch.linalg.cholesky_ex(M)
        # A damping below the rounding errors of K leaves it indefinite: pivoting gets through where Cholesky does not.
        return torch.cholesky_solve(r[:, None], L)[:, 0] if not int(info) else lu.solve(M, r[:, None])[:, 0]
    M = (Q @ K.reshape(Q.shape[0], Q.shape[1], n)).reshape(n, n)
    M.diagonal().add_(1 / s)
    return lu.solve(M, r[:, None])[:, 0]
