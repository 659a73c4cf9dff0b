"""AdaHessian: Adam's form, with the diagonal of the Hessian in the place of the gradient's square."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.optim.fused import chunks, scalars, table
from resolvent.optim.hutchinson import HutchinsonOptimizer
from resolvent.optim.optimizer import Group, State, check

Block = Literal["auto"] | int


class AdaHessian(HutchinsonOptimizer):
    r"""AdaHessian: :math:`x \leftarrow x - \eta\,\bigl(\hat m / (\hat s^{k/2} + \epsilon) + \lambda x\bigr)`, where m is the mean of the
    gradients and s that of the squares of :math:`D = |H z|`, averaged over blocks, for random signs z.

    Parameters
    ----------
    params : parameters or groups, as in `torch.optim.AdamW`
    lr : step size; 0.15 for images, about a tenth of what SGD takes for text
    betas : of the gradient and of the squared diagonal
    eps : added to the denominator
    weight_decay : lambda, decoupled
    hessian_power : k, from 0 (momentum without curvature) to 1
    block : over what the diagonal is averaged. "auto": a row of a matrix, the kernel of a convolution, nothing in a vector. A number: so many
        neighbours in matrices and convolutions, in the order of their memory; 1 is no average at all
    every : steps between two products; the diagonal is kept meanwhile, and no graph is needed
    foreach, fused, maximize : as in `torch.optim.AdamW`
    generator : of the signs: a `torch.Generator`, an int or None

    Notes
    -----
    One product of the Hessian with signs over all parameters together costs about one more pass backward. The absolute value is taken
    before the average, as :math:`|z \odot H z| = |H z|`. State: the momentum, and one number a block for D and s. Where a closure is
    given to `step`, it returns the loss and need not call backward.

    References
    ----------
    "ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning"

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = AdaHessian([x], lr=1.0, betas=(0.0, 0.0), generator=0)
    >>> loss = optimizer.step(lambda: (torch.tensor([1000.0, 1.0]) * x**2).sum())  # one step of Newton's method
    >>> x.detach().abs() < 1e-3
    tensor([True, True])
    """

    elementwise = False
    has_fused = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        *,
        hessian_power: float = 1.0,
        block: Block = "auto",
        every: int = 1,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
        generator: torch.Generator | int | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "hessian_power": hessian_power, "block": block, "every": every,
        }  # fmt: skip
        super().__init__(params, defaults, foreach=foreach, fused=fused, maximize=maximize, generator=generator)

    def _check_group(self, group: Group) -> None:
        check("hessian_power", group["hessian_power"], 0.0, 1.0)
        for name in ("every", "block"):
            number = group[name]
            if name == "block" and number == "auto":
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                also = "'auto' or " if name == "block" else ""
                raise ValueError(f"{name} must be {also}an integer of at least 1, got {number!r}")

    def _is_due(self, p: Tensor, group: Group) -> bool:
        state = self.state.get(p, {})
        return "diagonal" not in state or state["step"] % group["every"] == 0

    def _between(self, closure: Callable[[], Any] | None) -> None:
        due = [
            (p, group)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and p.numel() and self._is_due(p, group)
        ]
        if due:
            products = self._products([p for p, _ in due], signed=False)
            for (p, group), product in zip(due, products, strict=True):
                self.state[p]["diagonal"] = block_means(product, group["block"])
        self._release()

    def _begin(self, p: Tensor, group: Group) -> State:
        shape = block_means(p, group["block"]).shape
        return {"momentum": torch.zeros_like(p), "square": p.new_zeros(shape)}

    def _denominator(self, group: Group, state: State) -> Tensor:
        beta2 = group["betas"][1]
        D, s = state["diagonal"], state["square"]
        s.mul_(beta2).addcmul_(D, D, value=1 - beta2)
        root = s.sqrt().mul_(1 / math.sqrt(1 - beta2 ** state["step"]))
        return root.pow_(group["hessian_power"]).add_(group["eps"])

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        beta1 = group["betas"][0]
        m = state["momentum"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        direction = m / _spread(self._denominator(group, state), p, group["block"])
        rate = group["lr"] / (1 - beta1 ** state["step"])
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=rate)

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        (beta1, beta2), t = group["betas"], states[0]["step"]
        ms, ss, ds = ([state[name] for state in states] for name in ("momentum", "square", "diagonal"))
        torch._foreach_mul_(ms, beta1)
        torch._foreach_add_(ms, gs, alpha=1 - beta1)
        torch._foreach_mul_(ss, beta2)
        torch._foreach_addcmul_(ss, ds, ds, value=1 - beta2)
        below = list(torch._foreach_sqrt(ss))
        torch._foreach_mul_(below, 1 / math.sqrt(1 - beta2**t))
        if group["hessian_power"] != 1:
            torch._foreach_pow_(below, group["hessian_power"])
        torch._foreach_add_(below, group["eps"])
        torch._foreach_reciprocal_(below)
        if group["weight_decay"]:
            torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])
        wide = [_spread(b, p, group["block"]) for b, p in zip(below, ps, strict=True)]
        torch._foreach_addcmul_(ps, ms, wide, value=-group["lr"] / (1 - beta1**t))

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        from resolvent.optim.adahessian_kernel import rates, step

        (beta1, beta2), lr, t = group["betas"], group["lr"], states[0]["step"]
        ms, ss, ds = ([state[name] for state in states] for name in ("momentum", "square", "diagonal"))
        found = [torch.empty_like(s) for s in ss]
        numbers = (
            beta2,
            1 - beta2,
            group["hessian_power"],
            group["eps"],
            1 / math.sqrt(1 - beta2**t),
            lr / (1 - beta1**t),
        )
        rates(table(ds, ss, found), chunks(ss), *scalars(ps[0], *numbers))
        widths = np.array([p.numel() // s.numel() for p, s in zip(ps, ss, strict=True)])
        keep = 1 - lr * group["weight_decay"]
        step(table(ps, gs, ms), table(found), chunks(ps), widths, *scalars(ps[0], keep, beta1, 1 - beta1))


def block_means(x: Tensor, block: Block = "auto") -> Tensor:
    """The mean absolute value over the blocks of a tensor.

    Parameters
    ----------
    x : a product of the Hessian, shaped like its parameter
    block : as of `AdaHessian`

    Returns
    -------
    A number for every block, in a shape that broadcasts with x where `block` is "auto".

    Raises
    ------
    ValueError : a matrix whose size `block` does not divide.

    Examples
    --------
    >>> block_means(torch.tensor([[1.0, -3.0], [0.0, 4.0]]))
    tensor([[2.],
            [2.]])
    """
    if x.ndim < 2 or block == 1:
        return x.abs()
    if block == "auto":
        axes = (1,) if x.ndim == 2 else tuple(range(2, x.ndim))
        size = math.prod(x.shape[axis] for axis in axes)
        # A quarter of the time of vector_norm, which reads one number at a time.
        return x.abs().sum(axes, keepdim=True).div_(max(size, 1))
    if x.numel() % block:
        raise ValueError(f"block must divide the size of every matrix, got {block} for one of shape {tuple(x.shape)}")
    return x.abs().reshape(-1, block).sum(1, keepdim=True).div_(block)


def _spread(found: Tensor, p: Tensor, block: Block) -> Tensor:
    """The numbers of the blocks in a shape that broadcasts with the parameter."""
    if isinstance(block, int) and block > 1 and p.ndim >= 2:
        return found.expand(-1, block).reshape(p.shape)
    return found
