"""Orthogonal factors: QR with and without pivots, LQ, and the complete orthogonal decomposition; batched, with gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import scipy.linalg
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back


class QR(NamedTuple):
    """Of :func:`qr`: ``A = Q R``."""

    Q: Any
    R: Any


class PivotedQR(NamedTuple):
    """Of :func:`qr` with pivots: ``A[..., order] = Q R``; `rank` counts the diagonal entries of R that are not rounding."""

    Q: Any
    R: Any
    order: Any
    rank: Any


class UTV(NamedTuple):
    """Of :func:`utv`: ``A = U T V^H`` with an upper triangular T of full rank."""

    U: Any
    T: Any
    V: Any


def qr(A: Any, *, pivoted: bool = False, rtol: float | None = None) -> Any:
    r"""The thin QR factorisation :math:`A = Q R`, unique: R has a nonnegative diagonal.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array
    pivoted : take the column that is longest beside those before next, so that R reveals the rank
    rtol : for `pivoted`, diagonal entries of R up to `rtol` times the first do not count for the rank; default
        max(m, n) eps

    Returns
    -------
    `QR`, Q (*batch, m, r) and R (*batch, r, n) for r = min(m, n); for `pivoted` a `PivotedQR` with the order (*batch, n)
    of the columns and the rank (*batch,), a Python int without a batch.

    Raises
    ------
    ValueError : A is not a finite matrix, or `rtol` is out of range.

    Notes
    -----
    Householder reflections of LAPACK or cuSOLVER, 2 n^2 (m - n/3) flops; pivots are found on the host, one matrix after
    the other. The rank by pivots can be too large, by a factor of at most 2^n in the diagonal that is rarely seen.
    Gradients as those of `torch.linalg.qr`, at fixed pivots: the first min(m, n) columns of the order must be
    independent.

    References
    ----------
    "Linear Least Squares Solutions by Householder Transformations"

    Examples
    --------
    >>> Q, R, order, rank = qr(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), pivoted=True)
    >>> R.abs(), order, rank
    (tensor([[2., 1.],
            [0., 0.]]), tensor([1, 0]), 1)
    """
    t, kind = _matrix(A)
    if not pivoted:
        if rtol is not None:
            raise ValueError("rtol is for pivoted=True: without pivots there is no rank to find")
        return QR(*give_back(_positive(*torch.linalg.qr(t)), kind))
    m, n = t.shape[-2:]
    if rtol is None:
        rtol = max(m, n) * torch.finfo(t.dtype).eps
    elif not 0 <= rtol < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")
    order = _pivots(t)
    Q, R = _positive(*torch.linalg.qr(t.gather(-1, order[..., None, :].expand(t.shape))))
    with torch.no_grad():
        d = R.diagonal(dim1=-2, dim2=-1).abs()
        # The order is that of pivots: rounding may leave a later entry a little larger.
        kept = d > rtol * d.amax(-1, keepdim=True) if d.shape[-1] else d > 0
        ranks = kept.cumprod(-1).sum(-1)
    rank: Any = int(ranks) if not t.shape[:-2] else give_back(ranks, kind)
    Q, R, order = give_back((Q, R, order), kind)
    return PivotedQR(Q, R, order, rank)


def lq(A: Any) -> QR:
    r"""The thin LQ factorisation :math:`A = L Q`, unique: L has a nonnegative diagonal.

    Parameters
    ----------
    A : (*batch, m, n) tensor or array

    Returns
    -------
    L : (*batch, m, r) lower trapezoidal, r = min(m, n)
    Q : (*batch, r, n), orthonormal rows

    Raises
    ------
    ValueError : A is not a finite matrix.

    Notes
    -----
    The QR factorisation of A^H. Differentiable where that is: m <= n or the first n rows independent.

    Examples
    --------
    >>> L, Q = lq(torch.tensor([[3.0, 4.0]]))
    >>> L, Q
    (tensor([[5.]]), tensor([[0.6000, 0.8000]]))
    """
    t, kind = _matrix(A)
    Q, R = _positive(*torch.linalg.qr(t.mH))
    return give_back((R.mH, Q.mH), kind)


def utv(A: Any, *, rank: int | None = None, rtol: float | None = None) -> UTV:
    r"""The complete orthogonal decomposition :math:`A = U T V^H`: T is r x r and of full rank r.

    Parameters
    ----------
    A : (m, n) or, with a `rank`, (*batch, m, n)
    rank : r, at most min(m, n); None finds it by `rtol`
    rtol : as in `qr`

    Returns
    -------
    U : (*batch, m, r), orthonormal columns
    T : (*batch, r, r), upper triangular with a nonnegative diagonal
    V : (*batch, n, r), orthonormal columns

    Raises
    ------
    ValueError : A is not a finite matrix, `rank` or `rtol` is out of range, or A is a batch without a `rank`.

    Notes
    -----
    QR with pivots cut off at r, then the LQ form of its r rows, both ways round so that T is triangular. What is cut off is at most the
    rest of the triangular factor with pivots: within a small factor of the best in practice. The pseudoinverse is
    V T^-1 U^H. About 4 m n r flops. Differentiable at fixed pivots.

    References
    ----------
    "Updating a Rank-Revealing ULV Decomposition"

    Examples
    --------
    >>> U, T, V = utv(torch.ones(3, 2, dtype=torch.float64))
    >>> T
    tensor([[2.4495]], dtype=torch.float64)
    """
    t, kind = _matrix(A)
    r = rank
    if r is None:
        if t.ndim > 2:
            raise ValueError(f"A must be one matrix unless rank is given, got shape {tuple(t.shape)}")
    elif isinstance(r, bool) or not isinstance(r, int) or not 0 <= r <= min(t.shape[-2:]):
        raise ValueError(f"rank must be an int from 0 to {min(t.shape[-2:])}, got {r!r}")
    elif rtol is not None:
        raise ValueError("give rank or rtol, not both")
    Q, R, order, found = qr(t, pivoted=True, rtol=rtol)
    r = found if r is None else r
    back = order.argsort(-1)[..., None, :].expand(R.shape)
    rows = R.gather(-1, back)[..., :r, :]
    # rows^H J = Y Z with the rows in reverse, so that rows = (J Z^H J) (J Y^H) has an upper triangular factor.
    Y, Z = _positive(*torch.linalg.qr(rows.mH.flip(-1)))
    return UTV(*give_back((Q[..., :r], Z.mH.flip(-1, -2), Y.flip(-1)), kind))


def _matrix(A: Any) -> tuple[Tensor, Any]:
    t, kind = as_tensor(A, "A")
    if t.ndim < 2:
        raise ValueError(f"A must have shape (..., m, n), got {tuple(t.shape)}")
    if t.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"A has dtype {t.dtype}; convert it to float32")
    check_finite(t, "A")
    return t, kind


def _positive(Q: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Phases moved so that the diagonal of R is nonnegative."""
    with torch.no_grad():
        d = R.diagonal(dim1=-2, dim2=-1)
        phase = torch.where(d == 0, torch.ones_like(d), d / d.abs().clamp_min(torch.finfo(d.dtype).tiny))
        # LAPACK leaves real numbers there, up to rounding.
        phase = phase.sgn()
    return Q * phase[..., None, :], R * phase.conj()[..., :, None]


def _pivots(t: Tensor) -> Tensor:
    m, n = t.shape[-2:]
    count = t.shape[:-2].numel()
    host = t.detach().resolve_conj().cpu().reshape(count, m, n).numpy()
    if m == 0 or n == 0:
        return torch.arange(n, device=t.device).expand(*t.shape[:-2], n)
    orders = [torch.from_numpy(scipy.linalg.qr(one, mode="r", pivoting=True)[1]).long() for one in host]
    stacked = torch.stack(orders) if orders else torch.zeros(0, n, dtype=torch.long)
    return stacked.reshape(*t.shape[:-2], n).to(t.device)
