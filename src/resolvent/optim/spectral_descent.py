"""`SpectralSGD`: gradient descent whose every update has exactly the spectral norm that the condition asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.optim.optimizer import Group, Optimizer, State, check


class SpectralSGD(Optimizer):
    r"""Gradient descent with updates of spectral norm :math:`\eta \sqrt{n_\mathrm{out}/n_\mathrm{in}}`.

    .. math:: M \leftarrow \mu M + G, \qquad W \leftarrow (1 - \eta\lambda) W
        - \eta \sqrt{\tfrac{n_\mathrm{out}}{n_\mathrm{in}}}\; \frac{M}{\|M\|_2}

    Parameters
    ----------
    params : parameters or groups. A group with "role": "embedding" takes each row as a matrix with one input; groups of
        `param_groups_by_role` have that entry.
    lr : :math:`\eta`, the relative size of an update; the same at every width
    momentum : :math:`\mu`
    weight_decay : :math:`\lambda`, decoupled
    power_steps : steps of the power iteration, which begins where it ended the last time
    foreach, maximize : as in `torch.optim`

    Notes
    -----
    Vectors have one input: their norm is the Euclidean one. Tensors with more axes are matrices of the first axis by all
    others. Two products of M with a vector for each power step (the first step takes ten of them); the norm found is at
    most the true one, and within a percent of it unless the two largest singular values are close, where it
    does no harm. Where M is zero nothing happens. The learning rates of `spectral_groups` hold the same condition in
    the order of magnitude, for other optimizers.

    References
    ----------
    "A Spectral Condition for Feature Learning"

    Examples
    --------
    >>> layer = torch.nn.Linear(100, 25, bias=False)
    >>> before = layer.weight.detach().clone()
    >>> optimizer = SpectralSGD(layer.parameters(), lr=0.1)
    >>> layer(torch.ones(3, 100)).square().mean().backward()
    >>> optimizer.step()
    >>> round(torch.linalg.matrix_norm(layer.weight - before, 2).item(), 4)  # 0.1 sqrt(25 / 100)
    0.05
    """

    elementwise = False
    takes_complex = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        power_steps: int = 2,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "power_steps": power_steps,
            "role": None,
        }
        super().__init__(params, defaults, foreach=foreach, maximize=maximize)

    def _check_group(self, group: Group) -> None:
        check("lr", group["lr"])
        check("momentum", group["momentum"], 0, 1, below=True)
        check("weight_decay", group["weight_decay"])
        steps = group["power_steps"]
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"power_steps must be a positive integer, got {steps!r}")

    def _begin(self, p: Tensor, group: Group) -> State:
        state: State = {"momentum": torch.zeros_like(p)}
        if p.ndim >= 2 and group["role"] != "embedding":
            state["right"] = torch.zeros(p.numel() // max(p.shape[0], 1), dtype=p.dtype, device=p.device)
        return state

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        m = state["momentum"].mul_(group["momentum"]).add_(g)
        if group["weight_decay"]:
            p.mul_(1 - group["lr"] * group["weight_decay"])
        if "right" in state:
            matrix = m.reshape(p.shape[0], -1)
            size = _spectral_norm_(matrix, state["right"], 10 if state["step"] == 1 else group["power_steps"])
            target = (matrix.shape[0] / matrix.shape[1]) ** 0.5
        elif group["role"] == "embedding" and p.ndim >= 2:
            size = torch.linalg.vector_norm(m, dim=-1, keepdim=True)
            target = p.shape[-1] ** 0.5
        else:
            size = torch.linalg.vector_norm(m)
            target = p.numel() ** 0.5
        # A zero update has no direction.
        p.sub_(m / size.clamp(min=torch.finfo(m.dtype).tiny) * (group["lr"] * target))


def _spectral_norm_(matrix: Tensor, right: Tensor, steps: int) -> Tensor:
    """The norm by power iteration from `right`, which becomes the singular vector found."""
    tiny = torch.finfo(matrix.dtype).tiny
    # Scaled by its largest entry, so that the squares of small gradients do not vanish.
    top = matrix.abs().amax().clamp(min=tiny)
    scaled = matrix / top
    # The largest row is not orthogonal to all of the top singular vectors: the start, also after steps without gradient.
    row = scaled[torch.linalg.vector_norm(scaled, dim=1).argmax()]
    right.copy_(torch.where(torch.linalg.vector_norm(right) > 0, right, row))
    for _ in range(steps):
        right.div_(torch.linalg.vector_norm(right).clamp(min=tiny))
        left = scaled @ right
        right.copy_(scaled.T @ left.div_(torch.linalg.vector_norm(left).clamp(min=tiny)))
    size: Tensor = torch.linalg.vector_norm(right) * top
    return size
