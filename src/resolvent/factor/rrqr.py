"""Strong rank-revealing QR: pivots that are exchanged until no exchange helps, so that the rank is revealed with a guarantee."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor.orthogonal import PivotedQR, _matrix, _positive
from resolvent.operators.arrays import give_back


def rrqr(A: Any, rank: int | None = None, *, f: float = 2.0, rtol: float | None = None) -> PivotedQR:
    r"""A QR factorisation :math:`A_{:, p} = Q R` whose first k columns are as independent as any, within a stated bound.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array
    rank : k, at most min(m, n); None finds it by `rtol`
    f : largest factor by which an exchange may still raise the volume of the k columns; more than 1
    rtol : columns that have at most `rtol` times the longest column of A beside the first k count as dependent; default
        max(m, n) eps

    Returns
    -------
    `PivotedQR`: Q (*batch, m, r), R (*batch, r, n) with a nonnegative diagonal, r = min(m, n), the order (*batch, n) of
    the columns, and the rank (*batch,), a Python int without a batch.

    Raises
    ------
    ValueError : A is not a finite matrix, `rank`, `f` or `rtol` is out of range, or both of rank and rtol are given.
    ConvergenceError : exchanges did not come to an end, which only rounding could cause.

    Notes
    -----
    With R11 the first k rows and columns of R, R12 beside and R22 below it, and :math:`q = \sqrt{1 + f^2 k (n - k)}`,
    up to rounding errors of the norm of A,

    .. math:: \sigma_i(R_{11}) \ge \sigma_i(A) / q, \quad \sigma_j(R_{22}) \le q\, \sigma_{k+j}(A), \quad
       |R_{11}^{-1} R_{12}| \le f.

    So a rank found by `rtol` has :math:`\sigma_{k+1}(A) \le \sqrt{n - k}` and :math:`\sigma_k(A) \ge 1/q` times the
    cut-off (q for k - 1), where the plain pivots of `qr` can be wrong by a factor of 2^n, and are for Kahan's matrix. Starts from those
    pivots; each exchange (few; often none) multiplies the volume of the first columns by f or more and costs O(n^2)
    rotations on R, then O(k^2 n) to find the next. On the host, one matrix after the other. Gradients as those of
    `torch.linalg.qr` at fixed pivots: the first min(m, n) columns of the order must be independent.

    References
    ----------
    "Efficient Algorithms for Computing a Strong Rank-Revealing QR Factorization"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    >>> rrqr(A).rank
    2
    """
    t, kind = _matrix(A)
    m, n = t.shape[-2:]
    if rank is not None:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= min(m, n):
            raise ValueError(f"rank must be an int from 0 to {min(m, n)}, got {rank!r}")
        if rtol is not None:
            raise ValueError("give rank or rtol, not both")
    if not 1 < f < math.inf:
        raise ValueError(f"f must be more than 1 and finite, got {f}")
    bound = max(m, n) * torch.finfo(t.dtype).eps if rtol is None else rtol
    if not 0 <= bound < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")
    lead = t.shape[:-2]
    host = t.detach().resolve_conj().resolve_neg().cpu().numpy().reshape(math.prod(lead), m, n)
    found = [_pivots(one, rank, f, bound) for one in host]
    orders = [torch.from_numpy(order) for order, _ in found]
    order = (torch.stack(orders) if orders else torch.zeros(0, n, dtype=torch.long)).reshape(*lead, n).to(t.device)
    ranks = torch.tensor([k for _, k in found], dtype=torch.long, device=t.device).reshape(lead)
    Q, R = _positive(*torch.linalg.qr(t.gather(-1, order[..., None, :].expand(t.shape))))
    count: Any = int(ranks) if not lead else give_back(ranks, kind)
    Q, R, order = give_back((Q, R, order), kind)
    return PivotedQR(Q, R, order, count)


def _pivots(A: np.ndarray, rank: int | None, f: float, rtol: float) -> tuple[np.ndarray, int]:
    """The order of the columns and the rank of one matrix."""
    m, n = A.shape
    if not A.size or not A.any():
        return np.arange(n), rank or 0
    # At unit size, so that no volume leaves the range.
    unit = A.real.dtype.type(2.0 ** -np.floor(np.log2(np.abs(A).max())))
    R, order = scipy.linalg.qr(A * unit, mode="r", pivoting=True)
    work = _Columns(np.array(R[: min(m, n)], order="C"), order.astype(np.int64), f)
    d = np.abs(work.R.diagonal())
    # Beyond what rounding leaves, no columns are better than others.
    certain = int(np.argmin(np.append(d > max(m, n) * np.finfo(A.dtype).eps * d[0], False)))
    if rank is not None:
        work.strengthen(min(rank, certain))
        return work.order, rank
    cut = rtol * d[0]
    k = int(np.argmin(np.append(d > cut, False)))
    work.strengthen(k)
    while k < len(d) and work.beside(k).max(initial=0.0) > cut:
        work.bring(k, int(work.beside(k).argmax()))
        k += 1
        work.strengthen(k)
    while k > 0:
        fewer = _Columns(work.R.copy(), work.order.copy(), f)
        fewer.strengthen(k - 1)
        if fewer.beside(k - 1).max(initial=0.0) > cut:
            break
        work, k = fewer, k - 1
    return work.order, k


class _Columns:
    """The triangular factor of columns in some order, kept triangular while they are exchanged."""

    def __init__(self, R: np.ndarray, order: np.ndarray, f: float) -> None:
        self.R, self.order, self.f = R, order, f
        size = 2 * R.shape[1] + 2
        self.room = np.empty((size, 2), np.int64), np.empty(size, R.real.dtype), np.empty(size, R.dtype)

    def beside(self, k: int) -> np.ndarray:
        """How long each of the other columns is beside the first k."""
        return np.asarray(np.linalg.norm(self.R[k:, k:], axis=0))

    def strengthen(self, k: int) -> None:
        """Exchange columns across k until no exchange multiplies the volume of the first by more than f."""
        n = self.R.shape[1]
        if k in (0, n):
            return
        limit = self.f * (1 + 10 * n * float(np.finfo(self.R.dtype).eps))
        for _ in range(50 + 20 * n):
            top = self.R[:k, :k]
            W = scipy.linalg.solve_triangular(top, self.R[:k, k:], check_finite=False)
            inverse = scipy.linalg.solve_triangular(top, np.eye(k, dtype=top.dtype), check_finite=False)
            gains = np.hypot(np.abs(W), np.outer(np.linalg.norm(inverse, axis=1), self.beside(k)))
            i, j = np.unravel_index(int(gains.argmax()), gains.shape)
            if not gains[i, j] > limit:
                return
            self.exchange(int(i), k, int(j))
        raise ConvergenceError(f"rrqr: columns were still exchanged after {50 + 20 * n} steps", best=self.order)

    def bring(self, k: int, j: int) -> None:
        """Column k + j to place k, those between one place on."""
        from resolvent.factor.qr_update_kernel import fold_vector

        self._turn(slice(k, k + j + 1), 1)
        w = self.R[:, k].copy()
        fold_vector(self.R, w, k, *self.room)
        self.R[:, k] = w

    def exchange(self, i: int, k: int, j: int) -> None:
        """Column i of the first k for column k + j."""
        from resolvent.factor.qr_update_kernel import fold_band

        self._turn(slice(i, k), -1)
        fold_band(self.R, i, 1, *self.room)
        self.bring(k, j)
        self._turn(slice(k - 1, k + 1), 1)
        fold_band(self.R, k - 1, 1, *self.room)

    def _turn(self, places: slice, by: int) -> None:
        self.R[:, places] = np.roll(self.R[:, places], by, 1)
        self.order[places] = np.roll(self.order[places], by)
