"""Snapshots in coordinates of an orthonormal frame of their span, with respect to any inner product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, real_dtype
from resolvent.operators.convert import as_operator
from resolvent.operators.operator import Operator


@dataclass(frozen=True)
class Frame:
    """An orthonormal basis Q (n, r) of the span of snapshots: Q^H G Q = I.

    `G` is the inner product, None for the Euclidean one.
    """

    Q: Tensor
    G: Operator | None

    def weighted(self, X: Tensor) -> Tensor:
        """(k, n) the rows of X times G."""
        return X if self.G is None else self.G._matmul(X.mT).mT

    def coordinates(self, X: Tensor) -> Tensor:
        """(k, r) the coordinates of the projections of the rows of X."""
        return self.weighted(X) @ self.Q.conj()

    def lengths(self, X: Tensor) -> Tensor:
        """(k,) the lengths of the rows of X."""
        if self.G is None:
            return row_lengths(X).to(real_dtype(X.dtype))
        sizes = X.abs().amax(dim=1, keepdim=True)
        Y = X / torch.where(sizes > 0, sizes, 1)
        return (Y.conj() * self.weighted(Y)).sum(dim=1).real.clamp_min(0).sqrt() * sizes[:, 0]


def row_lengths(X: Tensor) -> Tensor:
    """(..., m, n) -> (..., m) the 2-norms of rows, in double precision, where squares of float32 have room."""
    return torch.linalg.vector_norm(X, dim=-1, dtype=torch.promote_types(X.dtype, torch.float64))


def unit_rows(X: Tensor) -> Tensor:
    """Rows of unit length; zeros stay zeros."""
    lengths = row_lengths(X)[..., None]
    return (X / torch.where(lengths > 0, lengths, 1)).to(X.dtype)


def frame_of(X: Tensor, inner: Any) -> tuple[Frame, Tensor]:
    """A frame of the rows of X (m, n), and their coordinates (m, r): X = C Q^T."""
    lengths = row_lengths(X)[:, None].to(real_dtype(X.dtype))
    # Of unit length, so that small snapshots are not lost beside large ones.
    U, s, Vh = torch.linalg.svd(unit_rows(X), full_matrices=False)
    tiny = torch.finfo(X.dtype).eps * max(X.shape) * s[0]
    rank = max(1, int((s > tiny).sum()))
    C, Q = lengths * U[:, :rank] * s[:rank], Vh[:rank].mT
    if inner is None:
        return Frame(Q, None), C
    G = _checked_inner(inner, X)
    # The inner product of a basis of unit vectors: no worse conditioned than G, where the snapshots' own Gram matrix
    # would lose half of the digits of the small modes.
    small = Q.mH @ G._matmul(Q)
    L, failed = torch.linalg.cholesky_ex((small + small.mH) / 2)
    if bool(failed):
        raise ValueError("inner must be positive definite on the span of the snapshots")
    return Frame(torch.linalg.solve_triangular(L.mH, Q, upper=True, left=False), G), C @ L.conj()


def rows_of(snapshots: Any, name: str) -> tuple[Tensor, Tensor, Kind]:
    """Vectors (v, n), the number of the snapshot (v,) that each belongs to, the kind; (m, t, n) are m trajectories."""
    X, kind = as_tensor(snapshots, name)
    if X.ndim not in (2, 3) or 0 in X.shape:
        raise ValueError(f"{name} must have shape (m, n), or (m, t, n) for trajectories, got {tuple(X.shape)}")
    check_finite(X, name)
    if X.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, and a partition into clusters has none: give {name}.detach()")
    each = 1 if X.ndim == 2 else X.shape[1]
    owner = torch.arange(len(X), device=X.device).repeat_interleave(each)
    return X.reshape(-1, X.shape[-1]), owner, kind


def sines(C: Tensor, D: Tensor, each: int) -> Tensor:
    r"""(a, b) the angles between rows of C and rows of D, or between the spans of `each` rows.

    :math:`\sqrt{1 - |\langle u, v \rangle|^2}` for unit vectors, the root of the mean square of the sines of the principal
    angles for spans.
    """
    # 1 - cos^2 has an error of eps, the root one of sqrt(eps): double precision keeps what float32 can tell.
    U, V = (_orthonormal(X.to(torch.promote_types(X.dtype, torch.float64)), each) for X in (C, D))
    a, b, r = len(U), len(V), C.shape[-1]
    cosines = U.reshape(-1, r).conj() @ V.reshape(-1, r).mT
    shared = cosines.abs().square().reshape(a, each, b, each).sum(dim=(1, 3))
    sizes = [X.abs().square().sum(dim=(1, 2)).round() for X in (U, V)]
    largest = torch.maximum(sizes[0][:, None], sizes[1])
    return (1 - shared / largest).clamp(0, 1).sqrt().to(real_dtype(C.dtype))


def _checked_inner(inner: Any, X: Tensor) -> Operator:
    G = as_operator(inner)
    n = X.shape[1]
    if tuple(G.shape) != (n, n):
        raise ValueError(f"inner must have shape {(n, n)}, got {tuple(G.shape)}")
    if not G.hermitian:
        G.check_hermitian("inner")
    return G.to(X.dtype) if G.dtype != X.dtype else G


def _orthonormal(X: Tensor, each: int) -> Tensor:
    """(a, each, r) orthonormal rows of every group of rows; rows of zeros where a group has less rank."""
    groups = X.reshape(-1, each, X.shape[-1])
    if each == 1:
        return unit_rows(groups)
    _, s, Vh = torch.linalg.svd(groups, full_matrices=False)
    kept = s > torch.finfo(X.dtype).eps * max(groups.shape[1:]) * s[:, :1]
    found = torch.where(kept[..., None], Vh, 0)
    return torch.nn.functional.pad(found, (0, 0, 0, each - found.shape[1]))
