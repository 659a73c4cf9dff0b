"""The passes over memory that Shampoo makes beside its matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resolvent.optim.fused import chunks, norms, scalars, table
from resolvent.optim.optimizer import Group, State

# Of the denominator of Adam, as everywhere.
TINY = 1e-8


def _numbers(group: Group, like: Tensor, step: int) -> tuple[Any, ...]:
    beta1, beta2 = group["betas"]
    unbias = 1 / (1 - beta1**step), (1 - beta2**step) ** -0.5
    return scalars(like, beta1, 1 - beta1, beta2, 1 - beta2, *unbias, TINY)


def adam_steps(group: Group, ps: Sequence[Tensor], gs: Sequence[Tensor], states: Sequence[State]) -> None:
    """Steps of Adam in one pass.

    Parameters
    ----------
    group : with "lr", "betas" and "weight_decay"
    ps, gs : parameters and gradients, changed in place
    states : with "momentum", "second" and "step"
    """
    from resolvent.optim.shampoo_kernel import adam

    like, *numbers = _numbers(group, ps[0], states[0]["step"])
    _, keep, lr = scalars(ps[0], 1 - group["lr"] * group["weight_decay"], group["lr"])
    addresses = table(gs, [s["momentum"] for s in states], [s["second"] for s in states], ps)
    adam(addresses, chunks(ps), like, keep, lr, *numbers)


def adam_sizes(group: Group, gs: Sequence[Tensor], states: Sequence[State]) -> NDArray[np.float64]:
    """Average gradients into both moments of Adam in one pass, which also measures its directions.

    Parameters
    ----------
    group : with "betas"
    gs : gradients
    states : with "momentum", "second" and "step"

    Returns
    -------
    The norm of the step that Adam would take of every tensor, for a step size of 1.
    """
    from resolvent.optim.shampoo_kernel import sizes

    like, *numbers = _numbers(group, gs[0], states[0]["step"])
    pieces = chunks(gs)
    sums = np.empty((len(pieces), 1))
    addresses = table(gs, [s["momentum"] for s in states], [s["second"] for s in states])
    sizes(addresses, pieces, like, like.dtype.type(0), sums, *numbers)
    return norms(sums, pieces, len(gs))[:, 0]


def steps_along(
    ps: Sequence[Tensor], directions: Sequence[Tensor], keep: float, lengths: NDArray[np.float64] | float
) -> None:
    """p <- keep p - s D, in one pass, two where steps of given lengths are wanted.

    Parameters
    ----------
    ps : parameters, changed in place
    directions : D, of one precision: that of the parameters or bfloat16
    keep : 1 - weight decay
    lengths : of s D for every tensor, where a direction of zeros gives no step; or s itself

    Examples
    --------
    >>> p, D = torch.ones(2), torch.tensor([0.0, 2.0])
    >>> steps_along([p], [D.bfloat16()], 1.0, np.array([0.5]))
    >>> p
    tensor([1.0000, 0.5000])
    """
    from resolvent.optim.shampoo_kernel import apply, squares

    directions = [d.contiguous() for d in directions]
    addresses, pieces = table(ps, directions), chunks(ps)
    like, zero, keep = scalars(ps[0], 0.0, keep)
    narrow = np.empty(int(directions[0].dtype == torch.bfloat16), np.uint16)
    if isinstance(lengths, np.ndarray):
        sums = np.empty((len(pieces), 1))
        squares(addresses, pieces, like, narrow, zero, sums)
        own = norms(sums, pieces, len(ps))[:, 0]
        scale = np.where(own == 0, 0.0, lengths / np.where(own == 0, 1.0, own))
    else:
        scale = np.full(len(ps), lengths)
    apply(addresses, pieces, like, narrow, keep, scale.astype(like.dtype))
