"""Abundances: every column of a matrix as a convex combination of given ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators import lu
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.magnitude import unit_of

# Pixels that are solved in step with each other; bounds the memory of their (K + 1) x (K + 1) systems.
_CHUNK = 1 << 15


def fcls(Y: Any, M: Any) -> Any:
    r"""Fully constrained least squares: :math:`\min \|y_n - M a_n\|_2` over :math:`a_n \ge 0`, :math:`1^T a_n = 1`.

    Parameters
    ----------
    Y : (L, N) pixels as columns; tensor or array
    M : (L, K) endmembers as columns, affinely independent, so K <= L + 1

    Returns
    -------
    (K, N) abundances, of the kind and dtype of Y: nonnegative, columns that sum to one.

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinity, endmembers that are affinely dependent to working precision.
    ConvergenceError : rounding kept the active sets from settling; carries the abundances.

    Notes
    -----
    The active-set method on the Gram matrix M^T M, all pixels in step: each step solves the equations of the present
    support of every unfinished pixel, then leaves the simplex's boundary or meets it. Exact after about K to 2 K
    steps of N (K + 1)^3 / 3 multiplications; the products with M cost 2 L K N. Double precision inside; the
    conditions of optimality hold to about eps cond(M)^2. With the supports found the abundances are linear in Y, which
    gives first-order gradients with respect to Y and M.

    References
    ----------
    "Fully Constrained Least Squares Linear Spectral Mixture Analysis Method for Material Quantification in Hyperspectral Imagery"
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey"

    Examples
    --------
    >>> M = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> fcls(torch.tensor([[0.5, 3.0], [0.5, 0.0], [9.0, 0.0]]), M)
    tensor([[0.5000, 1.0000],
            [0.5000, 0.0000]])
    """
    (T, kind), (E, _) = as_tensor(Y, "Y"), as_tensor(M, "M")
    for t, name in ((T, "Y"), (E, "M")):
        if t.ndim != 2 or t.is_complex():
            raise ValueError(f"{name} must be a real matrix, got shape {tuple(t.shape)} of {t.dtype}")
        check_finite(t, name)
    if T.shape[0] != E.shape[0] or E.shape[1] < 1:
        raise ValueError(f"Y and M must have as many rows (channels), got {tuple(T.shape)} and {tuple(E.shape)}")
    # Of the size one, so that no square leaves the range of the numbers; the abundances have no unit.
    unit = unit_of(E)
    wide, ends = T.double() / unit, E.double() / unit
    with torch.no_grad():
        # An origin in the middle of the endmembers: it changes nothing on the simplex and makes the Gram matrix small.
        centre = ends.mean(1, keepdim=True)
        _independent(ends - centre, E.dtype)
    moved = ends - centre
    G, C = moved.mT @ moved, (wide - centre).mT @ moved
    with torch.no_grad():
        parts = [_supports(G, part) for part in C.split(_CHUNK)]
        support = torch.cat([mask for mask, _ in parts]) if parts else C.bool()
        settled = all(done for _, done in parts)
    found = torch.cat([_solve(G, c, s)[0] for c, s in zip(C.split(_CHUNK), support.split(_CHUNK), strict=True)])
    result = give_back(torch.where(found > 0, found, 0).mT.to(T.dtype).contiguous(), kind)
    if not settled:
        raise ConvergenceError(
            "fcls: the active sets of some pixels did not settle; M is too ill conditioned", best=result
        )
    return result


def _independent(moved: Tensor, dtype: torch.dtype) -> None:
    if moved.shape[1] == 1:
        return
    s = torch.linalg.svdvals(moved)
    K = moved.shape[1]
    # The centre takes one dimension away.
    least = float(s[K - 2]) if len(s) >= K - 1 else 0.0
    if not least > 8 * K * torch.finfo(dtype).eps * float(s[0]) or not least > 1e-7 * float(s[0]):
        raise ValueError(
            f"M must have affinely independent columns; singular values of their differences reach down to {least:.2g} "
            f"of {float(s[0]):.2g}"
        )


def _solve(G: Tensor, C: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Minimisers of a G a / 2 - c a with sum one that vanish outside their supports, and their multipliers."""
    n, K = C.shape
    inside = support.to(C.dtype)
    size = G.diagonal().mean().detach()
    size = torch.where(size > 0, size, 1)
    system = C.new_zeros(n, K + 1, K + 1)
    system[:, :K, :K] = inside[:, :, None] * inside[:, None, :] * G + torch.diag_embed((1 - inside) * size)
    system[:, :K, K] = system[:, K, :K] = inside * size
    right = torch.cat([C * inside, size.expand(n, 1)], 1)
    out = lu.solve(system, right[:, :, None])[..., 0]
    return out[:, :K] * inside, out[:, K] * size


def _supports(G: Tensor, C: Tensor) -> tuple[Tensor, bool]:
    """Where the minimisers over the simplex are positive, (n, K); whether all were found."""
    n, K = C.shape
    # From the nearest vertex: a minimiser on its own face of the simplex.
    start = (G.diagonal() / 2 - C).argmin(1)
    support = torch.nn.functional.one_hot(start, K).bool()
    a = support.to(C.dtype)
    left = torch.arange(n, device=C.device)
    tol = 1e-13 * (float(G.abs().max()) + C.abs().amax(1))
    for _ in range(10 * K + 20):
        if not len(left):
            return support, True
        P, old = support[left], a[left]
        new, level = _solve(G, C[left], P)
        outside = P & (new <= 0)
        blocked = outside.any(1)
        # The step to the first boundary; the coordinates that meet it leave the support.
        ratio = torch.where(outside, old / (old - new).clamp_min(torch.finfo(C.dtype).tiny), torch.inf)
        step = ratio.amin(1, keepdim=True)
        leaving = outside & (ratio <= step)
        short = torch.where(leaving, 0, old + step.clamp_max(1) * (new - old))
        gain = torch.where(P, -torch.inf, C[left] - new @ G - level[:, None])
        best, entering = gain.max(1)
        better = ~blocked & (best > tol[left])
        a[left] = torch.where(blocked[:, None], short, new)
        support[left] = torch.where(blocked[:, None], P & ~leaving, P | (_hot(entering, K) & better[:, None]))
        left = left[blocked | better]
    return support, not len(left)


def _hot(index: Tensor, K: int) -> Tensor:
    return torch.nn.functional.one_hot(index, K).bool()
