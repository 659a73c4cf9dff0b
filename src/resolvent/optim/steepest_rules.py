"""Known optimizers without their averages, beside the steepest descent that they then are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.optim.optimizer import check
from resolvent.optim.steepest import dualize


@dataclass(frozen=True)
class SteepestRule:
    """One step of an optimizer, computed in two ways.

    Parameters
    ----------
    update : what the optimizer's own formula adds to the parameter
    steepest : -size * direction, steepest descent under a norm
    size : of the step in that norm

    Examples
    --------
    >>> rule = adam_as_steepest(torch.tensor([2.0, -3.0]), lr=0.1)
    >>> rule.update, rule.size
    (tensor([-0.1000,  0.1000]), 0.1)
    """

    update: Any
    steepest: Any
    size: Any


def _given(g: Any, lr: float, name: str = "g") -> tuple[Tensor, Any]:
    G, kind = as_tensor(g, name)
    check_finite(G, name)
    check("lr", lr)
    return G.detach(), kind


def adam_as_steepest(g: Any, lr: float = 1.0) -> SteepestRule:
    r"""Adam with both betas zero, :math:`-\eta\, g / \sqrt{g^2}`: sign descent, steepest under the largest entry.

    Parameters
    ----------
    g : gradient of any shape; entries that are zero stay
    lr : step size

    Returns
    -------
    Both forms of the step, without gradients.

    References
    ----------
    "Old Optimizer, New Norm: An Anthology"

    Examples
    --------
    >>> rule = adam_as_steepest(torch.tensor([2.0, 0.0, -3.0]))
    >>> rule.update.tolist() == rule.steepest.tolist() == [-1.0, 0.0, 1.0]
    True
    """
    G, kind = _given(g, lr)
    second = (G * G).sqrt()
    update = -lr * torch.where(G != 0, G / torch.where(G != 0, second, torch.ones_like(G)), torch.zeros_like(G))
    return SteepestRule(give_back(update, kind), give_back(-lr * dualize(G, "inf")[0], kind), lr)


def shampoo_as_steepest(g: Any, lr: float = 1.0) -> SteepestRule:
    r"""Shampoo without accumulation, :math:`-\eta\,(G G^T)^{-1/4} G (G^T G)^{-1/4}`: :math:`-\eta\, U V^T`, steepest under the
    spectral norm.

    Parameters
    ----------
    g : (*batch, m, n) gradient
    lr : step size

    Returns
    -------
    Both forms of the step, without gradients. Roots of singular matrices are those on their range.

    Notes
    -----
    The eigenvalues of G G^T are squares: singular values of G below the root of the precision, relative to the largest, have no digits left
    in the first form.

    References
    ----------
    "Old Optimizer, New Norm: An Anthology"

    Examples
    --------
    >>> rule = shampoo_as_steepest(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    >>> torch.allclose(rule.update, -torch.eye(2)), torch.allclose(rule.steepest, -torch.eye(2))
    (True, True)
    """
    G, kind = _given(g, lr)
    if G.ndim < 2:
        raise ValueError(f"g must be a matrix, got shape {tuple(G.shape)}")
    update = -lr * _quarter(G @ G.mH) @ G @ _quarter(G.mH @ G)
    return SteepestRule(give_back(update, kind), give_back(-lr * dualize(G, "spectral", steps=None)[0], kind), lr)


def _quarter(A: Tensor) -> Tensor:
    """A^(-1/4) on the range of A."""
    w, V = torch.linalg.eigh(A)
    kept = w > A.shape[-1] * torch.finfo(w.dtype).eps * w[..., -1:]
    power = torch.where(kept, torch.where(kept, w, torch.ones_like(w)) ** -0.25, torch.zeros_like(w))
    return (V * power[..., None, :]) @ V.mH


def prodigy_as_steepest(g: Any, x: Any, start: Any, distance: float, lr: float = 1.0) -> SteepestRule:
    r"""Prodigy without averages: sign descent whose step is the estimated distance to the solution,
    :math:`d \leftarrow \max(d, \langle g, x_0 - x\rangle / \|g\|_1)`.

    Parameters
    ----------
    g : gradient at `x`, of any shape
    x : parameter
    start : the parameter before the first step
    distance : the estimate so far, above 0
    lr : multiplies the step, as in Prodigy

    Returns
    -------
    Both forms of the step, without gradients; `size` is lr times the new estimate.

    Notes
    -----
    Prodigy keeps r = d^2 <g, x0 - x> and s = d^2 g where its averages are off, raises d to r / ||s||_1, and takes the step
    -lr d (d g) / sqrt(d^2 g^2) of Adam. Steepest descent under the largest entry has ||g||_1 as dual norm.

    References
    ----------
    "Old Optimizer, New Norm: An Anthology"

    Examples
    --------
    >>> one = torch.ones(2)
    >>> rule = prodigy_as_steepest(one, one, 3 * one, distance=0.5)
    >>> rule.size, torch.equal(rule.update, rule.steepest)
    (2.0, True)
    """
    G, kind = _given(g, lr)
    here, origin = (_given(value, lr, name)[0] for value, name in ((x, "x"), (start, "start")))
    check("distance", distance, above=True)
    if not G.shape == here.shape == origin.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (G, here, origin))
        raise ValueError(f"g, x and start must have one shape, got {shapes}")
    r, s = distance**2 * (G * (origin - here)).sum(), distance**2 * G
    total = s.abs().sum()
    new = max(distance, float(r / total)) if float(total) > 0 else distance
    scaled = new * G
    second = (scaled * scaled).sqrt()
    update = (
        -lr * new * torch.where(G != 0, scaled / torch.where(G != 0, second, torch.ones_like(G)), torch.zeros_like(G))
    )
    direction, dual = dualize(G, "inf")
    size = max(distance, float((G * (origin - here)).sum() / dual)) if float(dual) > 0 else distance
    return SteepestRule(give_back(update, kind), give_back(-lr * size * direction, kind), lr * size)
