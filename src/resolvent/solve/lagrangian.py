"""Derivatives of a Lagrangian, and of the exact augmented Lagrangian that needs no third ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Local(NamedTuple):
    """A point and what is known there."""

    x: Tensor
    multipliers: Tensor
    value: Tensor  # of the objective
    c: Tensor
    G: Tensor  # Jacobian matrix of the constraints, (m, n)
    grad: Tensor  # of the Lagrangian to x
    kkt: float


class Lagrangian:
    r"""L(x, l) = f(x) + l^T c(x) with the exact augmented Lagrangian.

    .. math:: L_\eta = L + \tfrac{\eta_1}{2} |c|^2 + \tfrac{\eta_2}{2} |G \nabla_x L|^2

    Examples
    --------
    >>> problem = Lagrangian(lambda x: x @ x, lambda x: x.sum()[None] - 1)
    >>> problem.at(torch.full((2,), 0.5), torch.tensor([-1.0])).kkt
    0.0
    """

    def __init__(self, f: Callable[[Any], Any], c: Callable[[Any], Any]) -> None:
        self.f, self.c = f, c

    def _lagrangian(self, x: Tensor, multipliers: Tensor) -> Tensor:
        value: Tensor = self.f(x) + multipliers @ self.c(x)
        return value

    def at(self, x: Tensor, multipliers: Tensor) -> Local:
        """First derivatives."""
        with torch.enable_grad():
            slope, value = torch.func.grad_and_value(self.f)(x)
            G, c = torch.func.jacrev(lambda t: (self.c(t),) * 2, has_aux=True)(x)
        grad = slope + G.mT @ multipliers
        return Local(x, multipliers, value.detach(), c.detach(), G.detach(), grad.detach(), _size(grad, c))

    def hessian(self, p: Local) -> Tensor:
        """Of the Lagrangian to x, (n, n)."""
        with torch.enable_grad():
            # Reverse over reverse: the first use of forward derivatives takes torch seconds to prepare.
            H: Tensor = torch.func.jacrev(torch.func.grad(self._lagrangian))(p.x, p.multipliers)
        return (H + H.mT).detach() / 2

    def merit(self, p: Local, eta: tuple[float, float]) -> float:
        """The exact augmented Lagrangian."""
        w = p.G @ p.grad
        return float(p.value + p.multipliers @ p.c + eta[0] / 2 * (p.c @ p.c) + eta[1] / 2 * (w @ w))

    def merit_gradient(self, p: Local, H: Tensor, eta: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Of the merit to x and to the multipliers.

        G grad L depends on x through G too: with w = G grad L, the gradient of its half square is
        H G^T w + (Hessian of w^T c) grad L, which needs one product with that Hessian and no third derivatives.
        """
        w = p.G @ p.grad
        with torch.enable_grad():
            slope = torch.func.grad(lambda t: w @ self.c(t))
            bent = torch.func.grad(lambda t: slope(t) @ p.grad)(p.x)
        back = p.G.mT @ w
        return p.grad + eta[0] * (p.G.mT @ p.c) + eta[1] * (H @ back + bent.detach()), p.c + eta[1] * (p.G @ back)


def _size(grad: Tensor, c: Tensor) -> float:
    return float(torch.linalg.vector_norm(torch.cat([grad.detach(), c.detach()])))


def least_squares_multipliers(G: Tensor, slope: Tensor) -> Tensor:
    """The multipliers that leave the smallest gradient of the Lagrangian."""
    from resolvent.solve.least_squares import lstsq

    found: Tensor = lstsq(G.mT, -slope)
    return found


def convexified(H: Tensor, G: Tensor, curvature: float) -> Tensor:
    """H + t I, positive on the kernel of G: eigenvalues of at least `curvature` times the largest there.

    A direction of negative curvature gets a positive one of the same size.
    """
    n, m = H.shape[0], G.shape[0]
    if m >= n:
        return H
    Z = torch.linalg.qr(G.mT, mode="complete").Q[:, m:]
    w = torch.linalg.eigvalsh(Z.mT @ H @ Z)
    size = float(w.abs().max())
    least = curvature * size if size > 0 else 1.0
    if float(w[0]) >= least:
        return H
    shift = least - float(w[0]) + max(0.0, -float(w[0]))
    return H + shift * torch.eye(n, dtype=H.dtype, device=H.device)
