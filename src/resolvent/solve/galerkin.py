"""Reduced systems: projections of separated operators, and residuals without the loss of half of the digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.interpolate
import torch
from torch import Tensor

from resolvent.operators import lu
from resolvent.operators.operator import Operator

Projection = Literal["galerkin", "symmetric", "minimum_residual"]

# Parameters whose reduced systems are solved at once.
_CHUNK = 64
# Parameters at which the smallest singular value is computed, and the share of what lies between them that is trusted.
_SAMPLES = 16
_TRUST = 0.9


class Reduced(NamedTuple):
    """Solutions for P parameters.

    coordinates (P, N), residuals in the frame (P, r), norms of the right sides (P,), weights of the operators (P, M).
    """

    coordinates: Tensor
    residuals: Tensor
    sides: Tensor
    betas: Tensor


class ReducedSystem:
    """A(mu) x = b(mu) for separated A and b, on a basis U (n, N).

    All vectors A_m U and b_q are kept as coordinates in an orthonormal frame F (n, r) of their span. The norm of a residual
    is that of its coordinates: no Gram matrix, whose differences of squares would hide residuals below sqrt(eps).
    """

    def __init__(self, operators: Sequence[Operator], sides: Tensor, projection: Projection) -> None:
        self.operators, self.projection = list(operators), projection
        n = len(sides)
        self.U = sides.new_empty(n, 0)
        self.frame = sides.new_empty(n, 0)
        self.products = sides.new_empty(0, 0, len(operators))
        # The test space in the frame: (N, r)
        self.left = sides.new_empty(0, 0)
        self.sides = self._added(sides)

    def extend(self, x: Tensor) -> bool:
        """Take in a solution; False if the basis holds it already."""
        size = torch.linalg.vector_norm(x)
        rest = x / size
        for _ in range(2):
            rest = rest - self.U @ (self.U.mH @ rest)
        left = torch.linalg.vector_norm(rest)
        if not bool(left > 10 * torch.finfo(x.dtype).eps):
            return False
        u = rest / left
        u = u - self.U @ (self.U.mH @ u)
        u = u / torch.linalg.vector_norm(u)
        self.U = torch.cat([self.U, u[:, None]], dim=1)
        coordinates = self._added(torch.stack([A @ u for A in self.operators], dim=1))
        self.products = torch.cat([self.products, coordinates[None]])
        U = self.U.conj() if self.projection == "symmetric" else self.U
        self.left = U.mH @ self.frame
        return True

    def solve(self, betas: Tensor, gammas: Tensor) -> Reduced:
        """Reduced solutions for weights betas (P, M) and gammas (P, Q)."""
        parts = [self._solved(*chunk) for chunk in zip(betas.split(_CHUNK), gammas.split(_CHUNK), strict=True)]
        return Reduced(*(torch.cat(p) for p in zip(*parts, strict=True)))

    def _solved(self, betas: Tensor, gammas: Tensor) -> Reduced:
        sides = gammas @ self.sides.mT
        norms = torch.linalg.vector_norm(sides, dim=1)
        if not self.U.shape[1]:
            return Reduced(sides.new_empty(len(sides), 0), sides, norms, betas)
        N, r, M = self.products.shape
        images = (self.products.reshape(N * r, M) @ betas.mT).reshape(N, r, -1).permute(2, 1, 0)
        if self.projection == "minimum_residual":
            Q, R = torch.linalg.qr(images)
            y = torch.linalg.solve_triangular(R, Q.mH @ sides[..., None], upper=True)[..., 0]
        else:
            y = lu.solve(self.left @ images, sides @ self.left.mT)
        return Reduced(y, sides - (images @ y[..., None])[..., 0], norms, betas)

    def _added(self, block: Tensor) -> Tensor:
        """Coordinates of the columns of a block in the frame, enlarged where it has to be."""
        coordinates = self.frame.mH @ block
        rest = block - self.frame @ coordinates
        again = self.frame.mH @ rest
        coordinates, rest = coordinates + again, rest - self.frame @ again
        V, s, _ = torch.linalg.svd(rest, full_matrices=False)
        # Directions at the level of rounding errors tell nothing.
        largest = torch.linalg.vector_norm(block, dim=0).max()
        kept = int((s > 10 * torch.finfo(s.dtype).eps * largest).sum())
        kept = min(kept, len(block) - self.frame.shape[1])
        # Small directions still have a share in the frame that was large beside them.
        V = V[:, :kept]
        for _ in range(2):
            V = torch.linalg.qr(V - self.frame @ (self.frame.mH @ V)).Q
        self.frame = torch.cat([self.frame, V], dim=1)
        grown = (0, 0, 0, kept)
        if hasattr(self, "sides"):
            self.sides = torch.nn.functional.pad(self.sides, grown)
        self.products = torch.nn.functional.pad(self.products, grown)
        return torch.cat([coordinates, V.mH @ rest])


class Stability:
    """A lower bound of the smallest singular value of A(mu): given, or computed at a few parameters and interpolated."""

    def __init__(self, given: Any, A: Callable[[Any], Tensor], train: Sequence[Any]) -> None:
        self._given = given
        if given is not None:
            return
        self._scale = _box(train)
        places = self._places(train)
        chosen = _spread(places, min(_SAMPLES, len(train)))
        values = [float(torch.linalg.svdvals(A(train[j]))[-1]) for j in chosen]
        if min(values) <= 0:
            raise ValueError(f"A is singular at mu = {train[chosen[int(np.argmin(values))]]}")
        self._least = min(values)
        known = places[chosen]
        self._between = None
        if len(np.unique(known, axis=0)) > known.shape[1]:
            self._between = scipy.interpolate.RBFInterpolator(known, np.log(values), kernel="linear")

    def at(self, parameters: Sequence[Any]) -> Tensor:
        """(P,) lower bounds."""
        if callable(self._given):
            found = torch.tensor([float(self._given(mu)) for mu in parameters], dtype=torch.float64)
        elif self._given is not None:
            found = torch.full((len(parameters),), float(self._given), dtype=torch.float64)
        elif self._between is None:
            found = torch.full((len(parameters),), _TRUST * self._least, dtype=torch.float64)
        else:
            found = _TRUST * torch.from_numpy(np.exp(self._between(self._places(parameters))))
        if not bool((found > 0).all()):
            raise ValueError(f"stability must be positive, got {float(found.min())}")
        return found

    def _places(self, parameters: Sequence[Any]) -> np.ndarray:
        low, high = self._scale
        return (_numbers(parameters) - low) / np.where(high > low, high - low, 1)


def _numbers(parameters: Sequence[Any]) -> np.ndarray:
    try:
        found = np.asarray([np.atleast_1d(np.asarray(mu, dtype=float)) for mu in parameters])
    except (TypeError, ValueError):
        raise ValueError("parameters that are no numbers need stability= : a number or a callable of mu") from None
    return found.reshape(len(found), -1)


def _box(train: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    found = _numbers(train)
    return found.min(axis=0), found.max(axis=0)


def _spread(places: np.ndarray, count: int) -> list[int]:
    """Indices of points far from each other."""
    chosen = [0]
    far = np.full(len(places), np.inf)
    for _ in range(count - 1):
        far = np.minimum(far, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int(far.argmax()))
    return chosen
