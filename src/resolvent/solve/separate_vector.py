"""Vectors that depend on parameters, as sums of a few of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.solve.interpolation import EIM, Separated

VectorEntries = Callable[[Any, Tensor], Any]


# Entries beside those of the interpolation that are compared at each parameter, at least so many, and the factor by
# which an error of all entries may exceed that of the sample.
CHECKS = 16
SAFETY = 3.0


@dataclass(frozen=True)
class SeparatedVector:
    r""":math:`b(\mu) \approx \sum_q \gamma_q(\mu) b(\mu_q)`, with weights from a few entries of :math:`b(\mu)`.

    `vectors` are (n, Q); `rows` are the places of the entries that decide the weights and then of those that only check
    them; `error` is the largest relative error at the training parameters. A constant vector has no interpolant and the
    weight 1.
    """

    vectors: Tensor
    rows: Tensor
    error: float
    entries: VectorEntries | None
    interpolant: Separated | None

    def weights(self, parameters: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """(P, Q) gamma at P parameters, and (P,) estimates of the relative errors of the sums."""
        if self.interpolant is None or self.entries is None:
            return self.vectors.new_ones(len(parameters), 1), self.vectors.real.new_zeros(len(parameters))
        values = [as_tensor(self.entries(mu, self.rows), "entries of a vector")[0] for mu in parameters]
        return checked_weights(self.interpolant, values, self.vectors[self.rows], self.error, "entries of a vector")


def checked_weights(
    interpolant: Separated, values: list[Tensor], snapshots: Tensor, error: float, name: str
) -> tuple[Tensor, Tensor]:
    """(P, terms) weights from P vectors of values at sensors and checks, with (P,) estimated relative errors.

    `snapshots` (values, terms) holds those of the terms; `error` is a lower bound of the estimate.
    """
    if any(v.shape != snapshots.shape[:1] for v in values):
        raise ValueError(f"{name} must be {len(snapshots)} values, got shape {tuple(values[0].shape)}")
    block = torch.stack(values, dim=1).to(snapshots.dtype)
    weights = torch.as_tensor(interpolant.coefficients(block[: len(interpolant.x_points)]))
    sizes = torch.linalg.vector_norm(block, dim=0)
    missed = SAFETY * torch.linalg.vector_norm(snapshots @ weights - block, dim=0)
    found = torch.where(sizes > 0, missed / torch.where(sizes > 0, sizes, 1), torch.where(missed > 0, torch.inf, 0))
    return weights.mT, found.clamp_min(error)


def separate_vector(
    b: Any, train: Sequence[Any], rtol: float, entries: VectorEntries | None, name: str, dtype: torch.dtype
) -> SeparatedVector:
    """Separate the parameter of a vector, by empirical interpolation of its values at all training parameters."""
    if not callable(b):
        vector = _vector(b, name, None, dtype)
        none = torch.empty(0, dtype=torch.long, device=vector.device)
        return SeparatedVector(vector[:, None], none, 0.0, None, None)
    values = [_vector(b(mu), name, mu, dtype) for mu in train]
    if len({len(v) for v in values}) > 1:
        raise ValueError(f"{name} must have one length at all parameters, got {sorted({len(v) for v in values})}")
    found = _interpolated(torch.stack(values, dim=1), rtol)
    picked = entries if entries is not None else lambda mu, rows: _vector(b(mu), name, mu, dtype)[rows]
    device = values[0].device
    others = torch.randperm(len(values[0]), generator=torch.Generator().manual_seed(0))[: max(CHECKS, found.rank)]
    rows = torch.cat([torch.tensor(found.x_points, device=device), others.to(device)])
    return SeparatedVector(found.left, rows, found.errors[-1], picked, found)


def _interpolated(values: Tensor, rtol: float) -> Separated:
    try:
        return EIM(values, rtol=rtol, norm=2)
    except ConvergenceError as stopped:
        # Rounding errors are left: as many terms as there are directions in the values.
        if isinstance(stopped.best, Separated):
            return stopped.best
        raise


def _vector(b: Any, name: str, mu: Any, dtype: torch.dtype) -> Tensor:
    vector = as_tensor(b, name)[0]
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} must be a vector (n,), got shape {tuple(vector.shape)} at mu = {mu}")
    check_finite(vector, name)
    if vector.is_complex() and not dtype.is_complex:
        raise ValueError(f"{name} is complex and A is real: give A in a complex dtype")
    return vector.to(dtype)
