"""The bases from which known factorisations are made: what each of them takes for F and H."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resolvent.factor.cross import full_crosses
from resolvent.factor.interpolative import pivoted
from resolvent.factor.range_finder import rounding
from resolvent.operators import lu
from resolvent.random import gaussian


@dataclass
class Factors:
    """Bases of the columns and rows; B, D decide the projectors, G is the core where it is known."""

    F: Tensor
    H: Tensor
    B: Tensor | None = None
    D: Tensor | None = None
    G: Tensor | None = None


def _columns(A: Tensor, rank: int | None, found: int) -> int:
    if rank is None:
        return max(found, 1)
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise TypeError(f"rank must be an int, got {type(rank).__name__}")
    if not 1 <= rank <= min(A.shape):
        raise ValueError(f"rank must be between 1 and {min(A.shape)}, the smaller side of A, got {rank}")
    return min(rank, max(found, 1))


def _by_pivots(A: Tensor, cut: float) -> tuple[Tensor, Tensor, Tensor, int]:
    """Q, R and the order of pivoted QR, and the rank that the triangle shows."""
    with torch.no_grad():
        order, _ = pivoted(A)
    Q, R = torch.linalg.qr(A[:, order])
    diagonal = R.detach().diagonal().abs()
    # The last diagonal entries overestimate the last singular values by a small factor.
    return Q, R, order, int((diagonal > 3 * cut * diagonal[0]).sum())


def _svd(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    U, s, Vh = torch.linalg.svd(A, full_matrices=False)
    k = _columns(A, rank, int((s > cut * s[0]).sum()))
    G = torch.diag(s[:k]).to(A.dtype)
    return Factors(U[:, :k], Vh[:k].mH, G=G)


def _qr(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    Q, R, order, found = _by_pivots(A, cut)
    k = _columns(A, rank, found)
    H = torch.empty_like(R[:k])
    H[:, order] = R[:k]
    # G = Y^H A X is the identity but for rounding errors, which the smallest pivot would magnify.
    return Factors(Q[:, :k], H.mH, G=torch.eye(k, dtype=A.dtype, device=A.device))


def _utv(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    Q, _, _, found = _by_pivots(A, cut)
    P, _, _, _ = _by_pivots(A.mH, cut)
    k = _columns(A, rank, found)
    F, H = Q[:, :k], P[:, :k]
    if core == "one-sided":
        # The columns of A H, and then the rows of A that they meet: U [S, U^H A H'] [V, H']^H with its two blocks in one.
        left = torch.linalg.svd(A @ H, full_matrices=False).U
        rows, lower = torch.linalg.qr(A.mH @ left)
        return Factors(left, rows, G=lower.mH)
    G = F.mH @ A @ H
    if core == "svd":
        left, s, right = torch.linalg.svd(G)
        return Factors(F @ left, H @ right.mH, G=torch.diag(s).to(A.dtype))
    if core == "qr":
        order, _ = pivoted(G.detach())
        left, T = torch.linalg.qr(G[:, order])
        return Factors(F @ left, H[:, order], G=T)
    if core == "lu":
        permutation, lower, upper = lu.lu(G)
        return Factors(F @ permutation, H @ upper.mH, G=lower)
    raise ValueError(f"core must be 'one-sided', 'svd', 'qr' or 'lu', got {core!r}")


def _cur(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    _, _, order, found = _by_pivots(A, cut)
    k = _columns(A, rank, found)
    C = A[:, order[:k]]
    rows = pivoted(C.detach().mH, k)[0][:k]
    return Factors(C, A[rows].mH)


def _nystrom(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    m, n = A.shape
    k = _columns(A, rank, int((torch.linalg.svdvals(A.detach()) > cut * torch.linalg.matrix_norm(A.detach(), 2)).sum()))
    # Orthonormal columns span what Gaussian ones do, and do not add their condition to that of A.
    omega = torch.linalg.qr(gaussian((n, k), A.dtype, A.device, source)).Q
    psi = torch.linalg.qr(gaussian((m, min(k + max(2, k // 2), m)), A.dtype, A.device, source)).Q
    F = A @ omega
    # More rows than columns make the core (Psi^H A Omega)^+ stable; its range is all that is used of them.
    psi = psi @ torch.linalg.qr((psi.mH @ F).detach()).Q
    return Factors(F, A.mH @ psi, B=psi, D=omega)


def _pinv(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    """F = R^H, H = C / c of the elimination A = C R, and (H^H A R^H)^-1 between: what they make is A^+."""
    from resolvent.factor.pseudoinverse import column_row

    if rank is not None:
        raise ValueError("preset 'pinv' takes no rank: a truncated factor would not give the pseudoinverse")
    C, R, _ = column_row(A, rtol=10 * cut)
    # (H^H A R^H)^-1 = (R R^H)^-1 (H^H H)^-1 / c by triangles, so that no Gram matrix squares the condition; with the
    # largest entry c of C taken off, the core has the scale of A^-1 and not its square.
    c = C.detach().abs().max() if C.numel() else C.new_ones(())
    C = C / c
    Tc, Tr = torch.linalg.qr(C).R, torch.linalg.qr(R.mH).R
    one = torch.eye(len(Tc), dtype=A.dtype, device=A.device)
    inner, outer = (torch.linalg.solve_triangular(T, one, upper=True) for T in (Tc, Tr))
    return Factors(R.mH, C, G=outer @ (outer.mH @ inner) @ inner.mH / c)


def _lu(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    limit = _columns(A, rank, min(A.shape))
    with torch.no_grad():
        F, H, _ = full_crosses(A, limit, 10 * cut)
    return _of_products(A, F, H)


def _cholesky(A: Tensor, rank: int | None, cut: float, core: str, source: torch.Generator) -> Factors:
    limit = _columns(A, rank, min(A.shape))
    with torch.no_grad():
        F = _diagonal_pivots(A, limit, 10 * cut)
    return _of_products(A, F, F)


def _of_products(A: Tensor, F: Tensor, H: Tensor) -> Factors:
    if F.shape[1] == 0:
        F, H = A.new_zeros(A.shape[0], 1), A.new_zeros(A.shape[1], 1)
    return Factors(F, H, G=torch.eye(F.shape[1], dtype=A.dtype, device=A.device))


def _diagonal_pivots(t: Tensor, limit: int, cut: float) -> Tensor:
    """The pivoted Cholesky factor of a positive semidefinite matrix."""
    size = float(t.abs().max())
    if t.shape[0] != t.shape[1] or float((t - t.mH).abs().max()) > 100 * rounding(t.dtype) * size:
        raise ValueError("method 'cholesky' needs a Hermitian matrix A")
    rest = t.clone()
    columns: list[Tensor] = []
    while len(columns) < limit:
        d = rest.diagonal().real if t.is_complex() else rest.diagonal()
        if float(d.min()) < -cut * size - 100 * rounding(t.dtype) * size:
            raise ValueError(f"A must be positive semidefinite, but a pivot is {float(d.min()):.3g}")
        j = int(d.argmax())
        if float(d[j]) <= cut * size:
            break
        column = rest[:, j] / d[j].sqrt()
        rest = rest - torch.outer(column, column.conj())
        # The part that is eliminated must not come back by its rounding errors.
        rest[j], rest[:, j] = 0, 0
        columns.append(column)
    if float(rest.abs().max()) > max(1e4 * cut, 1e-6) * size and len(columns) < limit:
        raise ValueError(
            "A must be positive semidefinite, but has zero pivots and entries beside them that are not zero"
        )
    return torch.stack(columns, 1) if columns else t.new_zeros(len(t), 0)


Preset = Callable[[Tensor, int | None, float, str, torch.Generator], Factors]

PRESETS: dict[str, Preset] = {
    "svd": _svd,
    "qr": _qr,
    "utv": _utv,
    "cur": _cur,
    "nystrom": _nystrom,
    "pinv": _pinv,
    "lu": _lu,
    "cholesky": _cholesky,
}
