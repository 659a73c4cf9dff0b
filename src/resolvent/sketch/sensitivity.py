"""l_p sensitivities: the largest share of an l_p norm that one row of a matrix can have."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import give_back_array, real_dtype
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.gradient import records
from resolvent.sketch.leverage import leverage_scores
from resolvent.sketch.lewis import check_exponent, lewis_weights, orthonormal_basis

# Entries of a block of problems; several arrays of this size live at once.
_BLOCK = 1 << 21
_STEPS = 100


def sensitivities(
    A: OperatorLike,
    p: float,
    method: Literal["bound", "exact"] = "bound",
    *,
    rtol: float = 1e-2,
    return_info: bool = False,
) -> Any:
    r"""The :math:`\ell_p` sensitivities :math:`\sigma_i = \max_x |a_i^T x|^p / \|A x\|_p^p`, or upper bounds of them.

    Parameters
    ----------
    A : (n, d) operator or anything `as_operator` takes; real for "exact"
    p : at least 1, finite
    method : "bound" gives upper bounds that sum to at most d (p up to 2) or :math:`d^{p/2}`; "exact" solves n convex
        problems
    rtol : of "exact": every result is at least :math:`\sigma_i` and at most :math:`(1 + rtol)\,\sigma_i`, proved by a
        pair of points of the problem and of its dual
    return_info : also return an `Info`; its error is the largest gap between the two

    Returns
    -------
    (n,) real tensor or array with entries from 0 to 1.

    Raises
    ------
    ValueError : p below 1 or infinite, NaN or infinity in A, a batch, complex numbers with "exact".
    TypeError : A requires a gradient: sensitivities have none here.
    ConvergenceError : a gap stayed above `rtol`; carries the upper bounds.

    Notes
    -----
    Bounds (to a relative 1e-6), with Lewis weights w and leverage scores :math:`\tau`: the smaller of w and :math:`\tau^{p/2}` for p up to
    2, of :math:`d^{p/2-1} w` and :math:`n^{p/2-1} \tau^{p/2}` above. Exact:
    :math:`\sigma_i^{-1} = \min \|Ax\|_p^p` with :math:`a_i^T x = 1`, for all rows at once, from the Lewis weights: by
    reweighted least squares of the problem (p < 2) or of its dual, :math:`\sigma_i = \min \|y\|_q^p` with
    :math:`A^T y = a_i` (p > 2), and at p = 1 by an interior point. Every step gives a point of both. n^2 d^2 flops a
    step, 5 to 50 steps. p = 2 gives leverage scores.

    References
    ----------
    "Sharper Bounds for ell_p Sensitivity Sampling"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
    >>> sensitivities(A, 1.0, "exact").round(decimals=2)
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    A = as_operator(A, name="A")
    check_exponent(p)
    if method not in ("bound", "exact"):
        raise ValueError(f"method must be 'bound' or 'exact', got {method!r}")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
    if A.batch_shape:
        raise ValueError(f"A must be one matrix here, got a batch {tuple(A.batch_shape)}")
    if records(A):
        raise TypeError("A requires a gradient, and sensitivities have none; detach it")
    if A.is_complex and method == "exact":
        raise ValueError("A must be real for method 'exact', got complex numbers; use 'bound'")
    dtype = real_dtype(A.dtype)
    if p == 2:
        found, info = torch.as_tensor(leverage_scores(A)), Info("leverage")
    else:
        Q = orthonormal_basis(A)
        Q = Q.to(torch.complex128 if Q.is_complex() else torch.float64)
        weights = lewis_weights(Q, p, rtol=1e-6)
        if method == "bound":
            found, info = _bounds(Q, weights, p), Info("lewis")
        else:
            found, info = _exact(Q, weights, p, rtol)
    result = give_back_array(found.to(dtype), A.kind)
    if not info.converged:
        raise ConvergenceError(
            f"sensitivities: the largest gap is {info.error:.1e} after {info.iterations} steps",
            best=result,
            error=info.error,
            info=info,
        )
    return (result, info) if return_info else result


def _bounds(Q: Tensor, weights: Tensor, p: float) -> Tensor:
    n, d = Q.shape
    power = max(p / 2 - 1, 0)
    tau = Q.abs().square().sum(-1)
    return torch.minimum(d**power * weights, n**power * tau ** (p / 2)).clamp(max=1)


def _exact(Q: Tensor, weights: Tensor, p: float, rtol: float) -> tuple[Tensor, Info]:
    upper = torch.zeros(len(Q), dtype=Q.dtype, device=Q.device)
    live = weights > 0
    if not bool(live.any()):
        return upper, Info("zero")
    Q, start = Q[live], weights[live] ** (1 - 2 / p)
    solve, name = (_least_sum, "interior point") if p == 1 else (_least_power, "reweighted least squares")
    found, worst, most = [], 0.0, 0
    grams = _Grams(Q)
    for rows in Q.split(max(1, _BLOCK // len(Q))):
        high, gap, steps = solve(grams, rows, start, p, rtol)
        found.append(high)
        most, worst = max(most, steps), max(worst, float(gap.max()))
    upper[live] = torch.cat(found)
    return upper.clamp(max=1), Info(name, 0, most, worst, worst <= rtol)


class _Grams:
    """``Q^T diag(D_b) Q`` for many D_b by one matrix product, and solves with them."""

    def __init__(self, Q: Tensor) -> None:
        self.Q = Q
        self.i, self.j = torch.triu_indices(Q.shape[1], Q.shape[1], device=Q.device)
        self.pairs = Q[:, self.i] * Q[:, self.j]

    def solve(self, D: Tensor, *right: Tensor) -> list[Tensor]:
        """H_b^{-1} of every right-hand side (B, d)."""
        # The size of the weights drops out, and overflows otherwise.
        top = D.amax(-1, keepdim=True)
        flat = (D / top) @ self.pairs
        H = D.new_empty(len(D), self.Q.shape[1], self.Q.shape[1])
        H[:, self.i, self.j] = flat
        H[:, self.j, self.i] = flat
        scale = H.diagonal(dim1=-2, dim2=-1).rsqrt()
        scaled = H * scale[:, :, None] * scale[:, None, :]
        L, failed = torch.linalg.cholesky_ex(scaled)
        B = torch.stack([scale * b for b in right], -1)
        found = torch.cholesky_solve(B, L)
        if bool((bad := failed > 0).any()):
            found[bad] = torch.linalg.pinv(scaled[bad], hermitian=True) @ B[bad]
        return [scale * x / top for x in found.unbind(-1)]


def _least_power(grams: _Grams, rows: Tensor, start: Tensor, p: float, rtol: float) -> tuple[Tensor, Tensor, int]:
    """Upper bounds, relative gaps and steps of min ||Q x||_p^p with a^T x = 1, one problem for each of the rows a."""
    Q = grams.Q
    upper, cost = torch.full_like(rows[:, 0], torch.inf), torch.full_like(rows[:, 0], torch.inf)
    active, D = torch.arange(len(rows), device=Q.device), start.expand(len(rows), -1)
    count = 0
    while count < _STEPS:
        count += 1
        (z,) = grams.solve(D, rows[active])
        scale = (rows[active] * z).sum(-1)
        r = ((z / scale[:, None]) @ Q.mT).abs()
        y = D * r
        upper[active] = torch.minimum(upper[active], scale**p * _dual_power(y, p))
        cost[active] = torch.minimum(cost[active], (r**p).sum(-1))
        going = upper[active] * cost[active] - 1 > rtol
        if not bool(going.any()):
            break
        active, r, y = active[going], r[going], y[going]
        # Each majorizes and descends: the cost for p < 2, the norm of the dual for p > 2.
        base, power = (r, p - 2) if p < 2 else (y, (p - 2) / (p - 1))
        D = torch.maximum(base, 1e-10 * base.amax(-1, keepdim=True)) ** power
    return upper, upper * cost - 1, count


def _dual_power(y: Tensor, p: float) -> Tensor:
    """``||y||_q^p`` with 1/p + 1/q = 1."""
    top = y.amax(-1)
    return top**p * ((y / top[:, None]) ** (p / (p - 1))).sum(-1) ** (p - 1)


def _least_sum(grams: _Grams, rows: Tensor, start: Tensor, _: float, rtol: float) -> tuple[Tensor, Tensor, int]:
    """p = 1, by a primal-dual interior point: Q x = u - v, u, v >= 0, and Q^T y = c a, abs(y) <= 1, all at once."""
    Q = grams.Q
    upper, gap = torch.ones_like(rows[:, 0]), torch.full_like(rows[:, 0], torch.inf)
    (z,) = grams.solve(start.expand(len(rows), -1), rows)
    x = z / (rows * z).sum(-1, keepdim=True)
    r = x @ Q.mT
    y = start * r
    y = y * (0.9 / y.abs().amax(-1, keepdim=True))
    apart = r.abs().mean(-1, keepdim=True)
    u, v = r.clamp(min=0) + apart, (-r).clamp(min=0) + apart
    active, count = torch.arange(len(rows), device=Q.device), 0
    while count < _STEPS:
        count += 1
        a = rows[active]
        value = ((y @ Q) * a).sum(-1) / a.square().sum(-1)
        cost = (x @ Q.mT).abs().sum(-1) / (x * a).sum(-1)
        upper[active], gap[active] = 1 / value, cost / value - 1
        going = gap[active] > rtol
        if not bool(going.any()):
            break
        active = active[going]
        x, y, u, v = _interior_step(grams, rows[active], x[going], y[going], u[going], v[going])
    return upper, gap, count


def _interior_step(
    grams: _Grams, a: Tensor, x: Tensor, y: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mehrotra's predictor and corrector."""
    Q, n = grams.Q, y.shape[-1]
    s, w = 1 - y, 1 + y
    theta = 1 / (u / s + v / w)

    def direction(first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """For s du - u dy = first and w dv + v dy = second, with Q dx = du - dv."""
        rho = first / s - second / w
        base, along = grams.solve(theta, (theta * rho - y) @ Q, a)
        value = (1 - (a * (x + base)).sum(-1, keepdim=True)) / (a * along).sum(-1, keepdim=True)
        dx = base + value * along
        dy = theta * (dx @ Q.mT - rho)
        return dx, dy, (first + u * dy) / s, (second - v * dy) / w

    _, dy, du, dv = direction(-u * s, -v * w)
    primal, dual = _longest((u, du), (v, dv)), _longest((s, -dy), (w, dy))
    mean = (u * s + v * w).sum(-1, keepdim=True) / (2 * n)
    after = ((u + primal * du) * (s - dual * dy) + (v + primal * dv) * (w + dual * dy)).sum(-1, keepdim=True) / (2 * n)
    target = mean * (after / mean) ** 3
    dx, dy, du, dv = direction(target - u * s + du * dy, target - v * w - dv * dy)
    primal, dual = (0.99 * t for t in (_longest((u, du), (v, dv)), _longest((s, -dy), (w, dy))))
    return x + primal * dx, y + dual * dy, u + primal * du, v + primal * dv


def _longest(*moves: tuple[Tensor, Tensor]) -> Tensor:
    """The largest step up to 1 that keeps every number positive."""
    rates = [(-d / t).amax(-1, keepdim=True) for t, d in moves]
    return 1 / torch.stack(rates).amax(0).clamp(min=1)
