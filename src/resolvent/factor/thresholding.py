"""Soft thresholds of the singular values of matrices that change little from one to the next, by the triplets above."""

from __future__ import annotations

import torch
from torch import Tensor

from resolvent.factor.range_finder import orthonormal
from resolvent.operators.operator import Operator
from resolvent.random import gaussian

# Up to this side LAPACK's complete decomposition takes less time than a few blocks of products.
_SMALL = 160
_ENTRIES = 1 << 24
_PASSES = 6


class SingularThreshold:
    r"""The proximal map of the nuclear norm, :math:`U \mathrm{diag}(\max(s - \tau, 0)) V^H`, for a sequence of matrices.

    The right vectors of one matrix are the start for the next: block power iterations with a few spare columns, of
    which the last are drawn anew so that no direction stays unseen, until the residuals of the triplets above the
    threshold are below a tolerance. Where most triplets are wanted, or the passes do not suffice, LAPACK.

    Parameters
    ----------
    generator : of the columns that are drawn
    entries : a matrix of more is never formed
    """

    def __init__(self, generator: torch.Generator, entries: int = _ENTRIES) -> None:
        self.generator, self.entries = generator, entries
        self.V: Tensor | None = None
        self.matvecs = 0

    def __call__(self, A: Operator, tau: float, rtol: float) -> tuple[Tensor, Tensor, Tensor]:
        """U (m, k), the k shrunk values that are positive, and V (n, k); residuals up to `rtol` of the largest value."""
        m, n = A.shape
        side, complete = min(m, n), m * n <= self.entries
        width = 0 if self.V is None else self.V.shape[1]
        if complete and (side <= _SMALL or 5 * width > side):
            return self._complete(A, tau)
        V = self._start(A, max(10, width))
        W = self._product(A, V)
        for step in range(_PASSES):
            Q = orthonormal(W)
            P, R = torch.linalg.qr(A.H._matmul(Q))
            self.matvecs += Q.shape[1]
            left, s, right = torch.linalg.svd(R.mH)
            U, V = Q @ left, P @ right.mH
            W = self._product(A, V)
            count = int((s > tau).sum())
            if count + _spare(count) // 2 > V.shape[1] and V.shape[1] < side:
                more = min(side, max(count + _spare(count), 3 * V.shape[1] // 2)) - V.shape[1]
                if complete and 5 * (V.shape[1] + more) > side:
                    return self._complete(A, tau)
                fresh = gaussian((n, more), A.dtype, A.device, self.generator)
                V, W = torch.cat([V, fresh], 1), torch.cat([W, self._product(A, fresh)], 1)
                continue
            residual = torch.linalg.vector_norm(W[:, :count] - U[:, :count] * s[:count])
            if bool(residual <= rtol * s[0]):
                break
            if step == _PASSES - 1 and complete:
                return self._complete(A, tau)
        self.V = V[:, : count + _spare(count)]
        return U[:, :count], s[:count] - tau, V[:, :count]

    def _start(self, A: Operator, width: int) -> Tensor:
        width = min(width, *A.shape)
        if self.V is None:
            return gaussian((A.shape[1], width), A.dtype, A.device, self.generator)
        kept = self.V[:, : max(width - 2, 0)]
        fresh = gaussian((A.shape[1], width - kept.shape[1]), A.dtype, A.device, self.generator)
        return torch.cat([kept, fresh], 1)

    def _product(self, A: Operator, V: Tensor) -> Tensor:
        self.matvecs += V.shape[1]
        return A._matmul(V)

    def _complete(self, A: Operator, tau: float) -> tuple[Tensor, Tensor, Tensor]:
        U, s, Vh = torch.linalg.svd(A._dense(), full_matrices=False)
        self.matvecs += min(A.shape)
        count = int((s > tau).sum())
        self.V = Vh[: count + _spare(count)].mH
        return U[:, :count], s[:count] - tau, Vh[:count].mH


def _spare(count: int) -> int:
    """Columns of a block beyond those that are wanted."""
    return 8 + count // 5
