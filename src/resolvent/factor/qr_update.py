"""QR factors of a matrix that changes: low-rank changes, rows and columns that come and go, in O(mn) each.

>>> import torch
>>> from resolvent import factor
>>> Q, R = factor.qr(torch.eye(3, 2).double())
>>> Q, R = factor.qr_insert(Q, R, torch.tensor([3.0, 0.0]).double(), 3)
>>> (R.T @ R).round(decimals=4)
tensor([[10.,  0.],
        [ 0.,  1.]], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.factor.orthogonal import QR, _positive
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.threads import one_thread
from resolvent.random import gaussian

Which = Literal["row", "column"]

# Entries of Q up to which one thread is as fast as two.
_SMALL = 1 << 19


def qr_update(Q: Any, R: Any, U: Any, V: Any, *, full: bool | None = None) -> QR:
    r"""The QR factors of :math:`Q R + U V^H` from Q and R.

    Parameters
    ----------
    Q : (*batch, m, p) orthonormal columns, p = m or p = min(m, n)
    R : (*batch, p, n) upper triangular
    U : (*batch, m) or (*batch, m, k)
    V : (*batch, n) or (*batch, n, k)
    full : Q of the result is m x m, otherwise m x min(m, n); None: as Q is, thin where both are the same

    Returns
    -------
    `QR`, R with a nonnegative diagonal.

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinity, R is not upper triangular or a column of Q has not length one, or a
        gradient of a full Q is wanted.
    OverflowError : entries of R are beyond the range of their dtype.

    Notes
    -----
    2 n rotations for each column of U, about 14 m n flops; U is made orthogonal to Q again until rounding is all that
    is left, so that Q stays orthonormal over thousands of changes. Q passes through the cache once per column. For
    many columns (k n / 8 and more) and on other devices than the CPU the changed matrix is factored anew. Gradients of
    every order are those of `qr` at the changed matrix, Q and R taken as its factors: O(m n^2).

    References
    ----------
    "Reorthogonalization and Stable Algorithms for Updating the Gram-Schmidt QR Factorization"

    Examples
    --------
    >>> Q, R = qr_update(torch.eye(3, 2), torch.eye(2), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0]))
    >>> R
    tensor([[1.4142, 0.0000],
            [0.0000, 1.0000]])
    """
    (q, r, u, v), kind, full = _given({"Q": Q, "R": R, "U": U, "V": V}, full)
    u, v = _block(u, "U", q, q.shape[-2]), _block(v, "V", q, r.shape[-1])
    if u.shape[-1] != v.shape[-1]:
        raise ValueError(f"U and V must have as many columns, got {u.shape[-1]} and {v.shape[-1]}")
    m, p = q.shape[-2:]

    def step(q: np.ndarray, r: np.ndarray, u: np.ndarray, v: np.ndarray) -> Any:
        from resolvent.factor.qr_update_steps import add_product

        return add_product(q, r, u, v)

    # From a square Q of a matrix with fewer columns to a thin one, or back, there is no sweep.
    sweeps = (p == m if full else p == min(m, r.shape[-1])) and 8 * u.shape[-1] <= max(r.shape[-1], 8)
    return _changed((q, r, u, v), lambda: q @ r + u @ v.mH, step if sweeps else None, full, kind)


def qr_insert(Q: Any, R: Any, X: Any, position: int, which: Which = "row", *, full: bool | None = None) -> QR:
    r"""The QR factors of :math:`A = Q R` with further rows or columns, from Q and R.

    Parameters
    ----------
    Q, R, full : as in `qr_update`
    X : rows (*batch, n) or (*batch, k, n), or columns (*batch, m) or (*batch, m, k)
    position : of the first of them in the result, 0 to m or n; from the end if negative
    which : "row" or "column"

    Returns
    -------
    `QR`, R with a nonnegative diagonal. A column that depends on the others gets a zero there.

    Raises
    ------
    ValueError, OverflowError : as `qr_update`; or `position` is out of range, or `which` is unknown.

    Notes
    -----
    As `qr_update`: at most n rotations for a row, n - position for a column, 6 m flops each.

    References
    ----------
    "Reorthogonalization and Stable Algorithms for Updating the Gram-Schmidt QR Factorization"

    Examples
    --------
    >>> Q, R = qr_insert(torch.eye(3, 1), torch.ones(1, 1), torch.tensor([3.0, 4.0, 0.0]), 1, "column")
    >>> R
    tensor([[1., 3.],
            [0., 4.]])
    """
    (q, r, x), kind, full = _given({"Q": Q, "R": R, "X": X}, full)
    rows = _is_rows(which)
    (m, p), n = q.shape[-2:], r.shape[-1]
    x = _block(x, "X", q, n if rows else m, as_rows=rows)
    size, k = (m, x.shape[-2]) if rows else (n, x.shape[-1])
    at = _position(position, size + 1)

    def step(q: np.ndarray, r: np.ndarray, x: np.ndarray) -> Any:
        from resolvent.factor import qr_update_steps as steps

        if rows:
            return steps.insert_rows(q, r, x, at, full)
        return steps.insert_columns(q, r, x, at)

    def matrix() -> Tensor:
        A, dim = q @ r, -2 if rows else -1
        return torch.cat([A.narrow(dim, 0, at), x, A.narrow(dim, at, size - at)], dim)

    sweeps = (p == m if full else p == min(m, n)) and 8 * k <= max(n, 8)
    return _changed((q, r, x), matrix, step if sweeps else None, full, kind)


def qr_delete(
    Q: Any,
    R: Any,
    position: int,
    count: int = 1,
    which: Which = "row",
    *,
    full: bool | None = None,
    rtol: float | None = None,
) -> QR:
    r"""The QR factors of :math:`A = Q R` without some of its rows or columns, from Q and R.

    Parameters
    ----------
    Q, R, full : as in `qr_update`
    position : of the first one to go, 0 to m - 1 or n - 1; from the end if negative
    count : how many go, one after the other
    which : "row" or "column"
    rtol : for rows of a matrix that keeps at least n of them: the rank is lost where less than `rtol` of the unit
        vector of a row stands beside the columns of Q; default max(m, n) eps

    Returns
    -------
    `QR`, R with a nonnegative diagonal.

    Raises
    ------
    ValueError, OverflowError : as `qr_update`; or `position`, `count` or `rtol` is out of range, `which` is unknown, or without the
        rows the columns of A are dependent.

    Notes
    -----
    As `qr_update`. A row goes by an orthonormal basis that has its unit vector for a member: of the part of that
    vector beside Q, :math:`\rho`, all comes from the row. Its square is one minus the leverage of the row, and the smallest singular
    value shrinks to no less than :math:`\rho` of itself.

    References
    ----------
    "Reorthogonalization and Stable Algorithms for Updating the Gram-Schmidt QR Factorization"

    Examples
    --------
    >>> Q, R = qr_delete(torch.eye(3), torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), 0, which="column")
    >>> R
    tensor([[1.4142],
            [0.0000],
            [0.0000]])
    """
    (q, r), kind, full = _given({"Q": Q, "R": R}, full)
    rows = _is_rows(which)
    (m, p), n = q.shape[-2:], r.shape[-1]
    size = m if rows else n
    at = _position(position, size)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= size - at:
        raise ValueError(
            f"count must be an int from 1 to {size - at}, the {which}s from position {at} on, got {count!r}"
        )
    bound = max(m, n) * torch.finfo(q.dtype).eps if rtol is None else rtol
    if not 0 <= bound < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")

    def step(q: np.ndarray, r: np.ndarray) -> Any:
        from resolvent.factor import qr_update_steps as steps

        if not rows:
            return steps.delete_columns(q, r, at, count, full)
        try:
            return steps.delete_rows(q, r, at, count, bound)
        except steps.RankLostError as lost:
            raise _rank_lost(float(lost.args[0])) from None

    def matrix() -> Tensor:
        if not rows:
            return torch.cat([(q @ r)[..., :at], (q @ r)[..., at + count :]], -1)
        return torch.cat([q[..., :at, :], q[..., at + count :, :]], -2) @ r

    sweeps = (p == m if full else p == min(m, n)) and 8 * count <= max(n, 8)
    if rows and m - count >= n and not (sweeps and q.device.type == "cpu"):
        kept = torch.cat([q[..., :at, :n], q[..., at + count :, :n]], -2).detach()
        least = torch.linalg.svdvals(kept).amin() if kept.numel() else bound + 1
        if not bool(least > bound):
            raise _rank_lost(float(least))
    return _changed((q, r), matrix, step if sweeps else None, full, kind)


def _rank_lost(left: float) -> ValueError:
    return ValueError(f"the columns of A are dependent without the rows: only {left:.2g} is left of one's unit vector")


def _is_rows(which: str) -> bool:
    if which not in ("row", "column"):
        raise ValueError(f"which must be row or column, got {which!r}")
    return which == "row"


def _position(position: int, size: int) -> int:
    if isinstance(position, bool) or not isinstance(position, int | np.integer) or not -size <= position < size:
        raise ValueError(f"position must be an int from {-size} to {size - 1}, got {position!r}")
    return int(position) % size


def _given(arrays: dict[str, Any], full: bool | None) -> tuple[list[Tensor], Any, bool]:
    """Finite tensors of one dtype and device, Q and R first and known to be factors; the kind; whether Q stays square."""
    found = {name: as_tensor(x, name) for name, x in arrays.items()}
    tensors = [t for t, _ in found.values()]
    q, r = tensors[:2]
    if q.ndim < 2 or r.ndim != q.ndim or r.shape[:-1] != (*q.shape[:-2], q.shape[-1]):
        raise ValueError(
            f"Q and R must have shapes (..., m, p) and (..., p, n), got {tuple(q.shape)} and {tuple(r.shape)}"
        )
    (m, p), n = q.shape[-2:], r.shape[-1]
    if p not in (m, min(m, n)):
        raise ValueError(f"Q must have m = {m} or min(m, n) = {min(m, n)} columns, got {p}")
    dtype = q.dtype
    for name, (t, _) in found.items():
        if t.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(f"{name} has dtype {t.dtype}; convert it to float32")
        if t.device != q.device:
            raise ValueError(f"{name} and Q must be on one device, got {t.device} and {q.device}")
        dtype = torch.promote_types(dtype, t.dtype)
    with torch.no_grad(), one_thread(r.numel() <= _SMALL):
        for name, (t, _) in found.items():
            if name != "Q":  # a product with it is looked at anyway
                check_finite(t, name)
        if r.numel() and float(r.tril(-1).abs().amax()) > 0:
            raise ValueError("R must be upper triangular")
    with torch.no_grad(), one_thread(q.numel() <= _SMALL):
        probe = gaussian((p, 1), q.dtype, q.device, 0)
        size = torch.linalg.vector_norm(probe)
        off = (torch.linalg.vector_norm(q @ probe, dim=(-2, -1)) / size - 1).abs() if q.numel() else q.real.new_zeros(0)
        if not bool(torch.isfinite(off).all()):
            check_finite(q, "Q")
        if off.numel() and not bool(off.max() < torch.finfo(q.dtype).eps ** 0.5):
            raise ValueError(
                f"Q must have orthonormal columns: it changes the length of a vector by {float(off.max()):.2g} of it"
            )
    kind = "numpy" if all(k == "numpy" for _, k in found.values()) else "torch"
    return [t.to(dtype) for t in tensors], kind, (p == m and m > n) if full is None else bool(full)


def _block(x: Tensor, name: str, q: Tensor, size: int, as_rows: bool = False) -> Tensor:
    """Vectors of one size as rows or columns of a matrix."""
    if x.ndim == q.ndim - 1:
        x = x.unsqueeze(-2 if as_rows else -1)
    lead = tuple(q.shape[:-2])
    if x.ndim != q.ndim or x.shape[:-2] != q.shape[:-2] or x.shape[-1 if as_rows else -2] != size:
        wanted = (*lead, "k", size) if as_rows else (*lead, size, "k")
        raise ValueError(f"{name} must have shape {(*lead, size)} or {wanted}, got {tuple(x.shape)}")
    return x


def _changed(
    parts: tuple[Tensor, ...], matrix: Callable[[], Tensor], step: Callable[..., Any] | None, full: bool, kind: Any
) -> QR:
    """Factors by `step` on each matrix of the batch, or of `matrix()` anew; with the gradient of the latter."""
    records = torch.is_grad_enabled() and any(t.requires_grad for t in parts)
    A = matrix() if records else None
    if A is not None and full and records and A.shape[-2] > A.shape[-1]:
        raise ValueError("a full Q has no gradient, its last columns are arbitrary: give full=False or detach")
    lead = parts[0].shape[:-2]
    if step is None or parts[0].device.type != "cpu" or not lead.numel():
        A = matrix() if A is None else A
        Q, R = torch.linalg.qr(A.detach(), mode="complete" if full else "reduced")
        r = min(R.shape[-2:])
        # A square Q of a tall matrix has columns that R does not see: they stay.
        first, top = _positive(Q[..., :r], R[..., :r, :])
        Q, R = torch.cat([first, Q[..., r:]], -1), torch.cat([top, R[..., r:, :]], -2)
    else:
        flat = [t.detach().resolve_conj().reshape(lead.numel(), *t.shape[-2:]).contiguous().numpy() for t in parts]
        # What overflows is refused below, with an error instead of a warning.
        with one_thread(parts[0].numel() <= _SMALL * lead.numel()), np.errstate(over="ignore", invalid="ignore"):
            done = [step(*each) for each in zip(*flat, strict=True)]
        Q, R = (
            torch.stack([torch.from_numpy(pair[i]) for pair in done]) if lead else torch.from_numpy(done[0][i])
            for i in (0, 1)
        )
        Q, R = Q.reshape(*lead, *Q.shape[-2:]), R.reshape(*lead, *R.shape[-2:])
    with one_thread(R.numel() <= _SMALL):
        finite = bool(torch.isfinite(R.sum())) or bool(torch.isfinite(R).all())
    if not finite:
        raise OverflowError(f"the factor R has entries beyond the range of {R.dtype}")
    if records:
        Q, R = _Changed.apply(A, Q, R)
    return QR(*give_back((Q, R), kind))


class _Changed(torch.autograd.Function):
    """Thin factors Q and R of A, R with a positive diagonal."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, Q: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
        Q, R = Q.clone(), R.clone()
        ctx.save_for_backward(Q, R)
        return Q, R

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        Q, R = ctx.saved_tensors
        gQ, gR = grads
        p = Q.shape[-1]
        square, rest = R[..., :p], R[..., p:]
        d = square.detach().diagonal(dim1=-2, dim2=-1).abs()
        if d.numel() and bool((d <= p * torch.finfo(d.dtype).eps * d.amax(-1, keepdim=True)).any()):
            raise ValueError("QR factors have no gradient where the first min(m, n) columns are dependent")
        # Columns beyond the first p are Q times those of R: they move with Q.
        beyond = Q @ gR[..., p:]
        gQ = gQ + Q @ (rest @ gR[..., p:].mH)
        inner = (gR[..., :p].triu() @ square.mH - Q.mH @ gQ).triu()
        inner = inner + inner.mH - inner.diagonal(dim1=-2, dim2=-1).real.to(inner.dtype).diag_embed()
        first = torch.linalg.solve_triangular(square.mH, gQ + Q @ inner, upper=False, left=False)
        return torch.cat([first, beyond], -1), None, None
