"""Matrix completion with the nuclear norm: the rank follows from a penalty, and the minimum is certified."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.complete import _known
from resolvent.factor.observed import SMALL, Observed
from resolvent.factor.thresholding import SingularThreshold
from resolvent.info import Info
from resolvent.operators import LowRank, Sparse
from resolvent.operators.algebra import Sum
from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

# Matrices of up to so many entries may be formed.
_TINY = 1 << 16
# A penalty on the way is left when a step moves the known entries by less than this share of what is
# left of them, for so much of it.
_STAGE, _DROP = 0.05, 0.5


def soft_impute(
    entries: Any,
    lam: float,
    shape: tuple[int, int] | None = None,
    *,
    rtol: float | None = None,
    max_iter: int = 2000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Completion with a penalty on the nuclear norm:
    :math:`\min_X \tfrac12 \|P_\Omega(X - M)\|_F^2 + \lambda \|X\|_*`.

    Parameters
    ----------
    entries : what is known of M, as for `complete`: ``(rows, cols, values)``, a sparse matrix whose stored entries
        are known, or a dense matrix with NaN
    lam : :math:`\lambda > 0`. From the largest singular value of the zero-filled matrix on, X is zero
    shape : (m, n), for the first form
    rtol : bound on the duality gap relative to the minimum; default 1e-5 in float64, 1e-3 in float32
    max_iter : decompositions
    generator : randomness of the partial decompositions
    return_info : also return an `Info`, whose error is the gap

    Returns
    -------
    LowRank : U diag(s) V^T with orthonormal U, V and s descending, of as many terms as the minimum has; NumPy for NumPy

    Raises
    ------
    ValueError : an index, a value or an argument is out of range, an entry is named twice, or a gradient is wanted:
        there is none.
    ConvergenceError : `max_iter` did not reach `rtol`; `best` is the `LowRank`.

    Notes
    -----
    Fill what is unknown from X, and soft-threshold the singular values: a gradient step, with Nesterov's momentum, which
    restarts where the function rises, along penalties that fall to `lam`. The filled matrix is sparse plus low rank and is never formed (above 65536
    entries); a decomposition costs some 3 products, O(|Omega| r + (m + n) r^2). Residuals R at the known entries, divided
    by :math:`\max(1, \|R\|_2 / \lambda)`, are a point of the dual, so that the gap is a certificate of the global
    minimum. `complete` is faster and has no bias where the rank is known; here the values shrink by about lam. Not
    differentiable.

    References
    ----------
    "Spectral Regularization Algorithms for Learning Large Incomplete Matrices"
    "Adaptive Restart for Accelerated Gradient Schemes"

    Examples
    --------
    >>> nan = float("nan")
    >>> M = torch.tensor([[1.0, 2.0, nan], [2.0, nan, 6.0], [nan, 6.0, 9.0]]).double()
    >>> X = soft_impute(M, 0.01)
    >>> X.s.shape[-1], bool((X.to_dense()[2, 0] - 3).abs() < 0.05)
    (1, True)
    """
    rows, cols, values, shape, kind = _known(entries, shape)
    if values.requires_grad:
        raise ValueError("soft_impute has no gradient: detach the entries")
    if not 0 < lam < math.inf:
        raise ValueError(f"lam must be positive and finite, got {lam!r}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter must be an int of at least 1, got {max_iter!r}")
    bound = (1e-5 if values.dtype == torch.float64 else 1e-3) if rtol is None else float(rtol)
    scale = float(values.abs().max())
    with torch.no_grad(), one_thread(len(values) * 10 < SMALL):
        run = _Imputation(
            Observed(rows, cols, values / (scale or 1.0), shape).operator(),
            float(lam) / (scale or 1.0),
            as_generator(generator, values.device),
        )
        iterations, gap = run.solve(bound, max_iter) if scale else (0, 0.0)
    U, s, V = run.X
    found = LowRank(U, s * scale, V)
    found.kind = kind
    info = Info("soft-impute", run.threshold.matvecs, iterations, gap, gap <= bound)
    if not info.converged:
        message = f"soft_impute: gap {gap:.2g} after {iterations} iterations, asked for {bound:.2g}"
        raise ConvergenceError(message, best=found, error=gap, info=info)
    return (found, info) if return_info else found


class _Imputation:
    """Proximal gradient steps of size one on known entries, held as a sparse matrix."""

    def __init__(self, M: Any, lam: float, generator: torch.Generator) -> None:
        self.M: Sparse = M
        self.lam = lam
        self.threshold = SingularThreshold(generator, _TINY)
        values = self.M.values
        self.X = (values.new_zeros(M.shape[0], 0), values.new_zeros(0), values.new_zeros(M.shape[1], 0))

    def solve(self, rtol: float, max_iter: int) -> tuple[int, float]:
        """Iterations, and the gap relative to the minimum."""
        values = self.M.values
        at, last_at = torch.zeros_like(values), torch.zeros_like(values)
        last, momentum, gap = self.X, 1.0, math.inf
        value, check_at, accuracy = math.inf, 1, 1e-2
        # From large penalties to the wanted one: so the rank comes from below, and no step needs many triplets.
        lam = max(self.lam, 0.5 * self.largest(values))
        for iteration in range(1, max_iter + 1):
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            push = (momentum - 1) / following
            point = at + push * (at - last_at)
            filled = Sum(self.M.with_values(values - point), _ahead(self.X, last, push))
            (last, last_at), self.X = (self.X, at), self.threshold(filled, lam, accuracy)
            U, s, V = self.X
            at = self.M._pattern.sampled(U * s, V)
            new = float((values - at).square().sum()) / 2 + lam * float(s.sum())
            # Momentum that leads uphill is dropped.
            momentum = following if new <= value else 1.0
            value = new
            moved = float(torch.linalg.vector_norm(at - point)) / (1e-30 + float(torch.linalg.vector_norm(values)))
            accuracy = min(accuracy, max(0.1 * moved, 0.1 * rtol))
            if lam > self.lam:
                rest = float(torch.linalg.vector_norm(values - at) / torch.linalg.vector_norm(values))
                if moved < _STAGE * rest:
                    lam, value, momentum = max(self.lam, _DROP * lam), math.inf, 1.0
                if iteration < max_iter:
                    continue
                value = float((values - at).square().sum()) / 2 + self.lam * float(s.sum())
            if iteration >= check_at or iteration == max_iter:
                gap = self.gap(values - at, value)
                if gap <= rtol:
                    break
                check_at = iteration + 1 + iteration // 8
        return iteration, gap

    def gap(self, residual: Tensor, value: float) -> float:
        """How far above the dual value, relative to it, the function is."""
        values, top = self.M.values, self.largest(residual)
        y = residual * min(1.0, self.lam / top if top > 0 else 1.0)
        below = float((values.double() @ y.double()) - y.double().square().sum() / 2)
        return max(value - below, 0.0) / value if value > 0 else 0.0

    def largest(self, values: Tensor) -> float:
        """The largest singular value of a matrix with these entries."""
        from resolvent.spectra import svds

        accuracy = 1e-6 if values.dtype == torch.float64 else 1e-4
        return float(svds(self.M.with_values(values), 1, rtol=accuracy, generator=self.threshold.generator)[1])


def _ahead(X: tuple[Tensor, Tensor, Tensor], last: tuple[Tensor, Tensor, Tensor], push: float) -> LowRank:
    """X + push (X - last), by the factors of both."""
    (U, s, V), (U0, s0, V0) = X, last
    if push == 0:
        return LowRank(U, s, V)
    return LowRank(torch.cat([U, U0], 1), torch.cat([(1 + push) * s, -push * s0]), torch.cat([V, V0], 1))
