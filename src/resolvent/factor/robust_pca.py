"""Robust principal components: a matrix as the sum of one of low rank and one with few entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.thresholding import SingularThreshold
from resolvent.info import Info
from resolvent.operators import Dense, LowRank
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array, real_dtype
from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

# The penalty grows while the constraint lags behind the multipliers, and shrinks where they lag far behind it.
_AHEAD, _BEHIND, _STEP = 0.5, 10.0, 1.5
# Entries up to which a second thread gains nothing.
_SMALL = 1 << 17


class RobustPCA(NamedTuple):
    """Of :func:`robust_pca`: M = L + S where M is known.

    Attributes
    ----------
    L : `LowRank`, U diag(s) V^H with orthonormal U, V and s descending; ``L.to_dense()`` is the matrix
    S : (m, n) array with exact zeros where nothing is wrong, or nothing is known
    """

    L: LowRank
    S: Any


def robust_pca(
    M: Any,
    *,
    lam: float | None = None,
    mask: Any = None,
    rtol: float | None = None,
    max_iter: int = 2000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Low rank plus sparse, by principal component pursuit:
    :math:`\min \|L\|_* + \lambda \|S\|_1` subject to :math:`L + S = M`, on the known entries.

    Parameters
    ----------
    M : (m, n) real or complex matrix
    lam : :math:`\lambda > 0`; default :math:`1 / \sqrt{p \max(m, n)}` with p the share of known entries, which the
        theory takes for all matrices alike
    mask : (m, n) booleans, True where M is known; M is not looked at elsewhere and may be NaN there. Default: all
    rtol : bound on :math:`\|P(M - L - S)\|_F / \|P M\|_F` and on the duality gap relative to the value; default
        1e-6 in float64, 1e-4 in float32
    max_iter : iterations, each of one partial decomposition
    generator : randomness of the partial decompositions, for more than 160 rows and columns
    return_info : also return `Info`, whose error is the larger of the two measures

    Returns
    -------
    RobustPCA (L, S), or (RobustPCA, Info)

    Raises
    ------
    ValueError : M is not one finite matrix where it is known, nothing is known, an argument is out of range, or a
        gradient is wanted: there is none.
    ConvergenceError : `rtol` was not reached; carries the best (L, S).

    Notes
    -----
    The alternating direction method: soft-thresholded entries, soft-thresholded singular values, multipliers Y. Only
    the triplets above the threshold are computed, from those of the last iteration: about 6 m n rank flops. The
    penalty follows the ratio of both residuals, ever more rarely: penalties that only grow, as in the inexact method,
    are faster and end beside the minimum where M has no exact decomposition. The gap is a certificate:
    :math:`\|L\|_* + \lambda \|P(M - L)\|_1` is a value, and :math:`\mathrm{Re}\langle Y, M \rangle` divided by
    :math:`\max(\|Y\|_2, \|Y\|_\infty / \lambda)` a bound below all values, Y zero where nothing is known. The value is
    right to `rtol`; L and S are as right as the minimum is sharp, which it is where recovery is exact. No gradient.

    References
    ----------
    "Robust Principal Component Analysis?"
    "The Augmented Lagrange Multiplier Method for Exact Recovery of Corrupted Low-Rank Matrices"

    Examples
    --------
    >>> M = torch.outer(torch.arange(1.0, 31), torch.ones(30)).double()
    >>> M[4, 7] = -100.0
    >>> L, S = robust_pca(M)
    >>> S.nonzero().tolist(), round(float(L.to_dense()[4, 7]), 4)
    ([[4, 7]], 5.0)
    """
    matrix, known, kind = _checked(M, mask)
    m, n = matrix.shape
    share = 1.0 if known is None else float(known.count_nonzero()) / known.numel()
    if lam is not None and not 0 < lam < math.inf:
        raise ValueError(f"lam must be positive and finite, got {lam!r}")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter must be an int of at least 1, got {max_iter!r}")
    bound = (1e-4 if real_dtype(matrix.dtype) == torch.float32 else 1e-6) if rtol is None else float(rtol)
    weight = 1 / math.sqrt(share * max(m, n)) if lam is None else float(lam)
    scale = float(matrix.abs().max())
    with torch.no_grad(), one_thread(m * n <= _SMALL):
        run = _Pursuit(matrix / (scale or 1.0), known, weight, as_generator(generator, matrix.device))
        iterations, error = run.solve(bound, max_iter) if scale else (0, 0.0)
    U, s, V = run.L
    L = LowRank(U, s * scale, V)
    L.kind = kind
    found = RobustPCA(L, give_back_array(run.S * scale, kind))
    info = Info("admm", run.threshold.matvecs, iterations, error, error <= bound)
    if not info.converged:
        message = f"robust_pca: reached {error:.2g} after {iterations} iterations, asked for {bound:.2g}"
        raise ConvergenceError(message, best=found, error=error, info=info)
    return (found, info) if return_info else found


@dataclass
class _State:
    """What an iteration leaves: its residuals, and the two values that enclose the minimum."""

    primal: float
    dual: float
    value: float
    below: float


class _Pursuit:
    """The iteration, of entries of size one."""

    def __init__(self, M: Tensor, known: Tensor | None, lam: float, generator: torch.Generator) -> None:
        self.M, self.known, self.lam = M, known, lam
        self.threshold = SingularThreshold(generator)
        none = M.new_zeros(0)
        self.S = torch.zeros_like(M)
        self.L: tuple[Tensor, Tensor, Tensor] = (
            none.reshape(M.shape[0], 0),
            none.real if M.is_complex() else none,
            none.reshape(M.shape[1], 0),
        )
        self.dense = torch.zeros_like(M)
        self.Y = torch.zeros_like(M)
        self.size = float(torch.linalg.vector_norm(M))

    def solve(self, rtol: float, max_iter: int) -> tuple[int, float]:
        """Iterations, and the larger of the gap and the violation of the constraint."""
        top = _largest(self.M, self.threshold.generator)
        self.Y = self.M / max(top, float(self.M.abs().max()) / self.lam)
        mu, change_at = 1.25 / top, 1
        # Triplets need not be more accurate than the iteration is far.
        accuracy, error = 1e-2, math.inf
        for iteration in range(1, max_iter + 1):
            state = self.step(mu, accuracy)
            gap = (state.value - state.below) / state.value
            accuracy = min(accuracy, max(0.3 * min(state.dual, state.primal), 0.1 * rtol))
            if max(state.primal, gap) <= rtol or iteration == max_iter:
                error = max(state.primal, self.certified(state.value))
                if error <= rtol:
                    break
            if iteration >= change_at:
                factor = _STEP if state.primal > _AHEAD * state.dual else 1.0
                factor = 1 / _STEP if state.dual > _BEHIND * state.primal else factor
                mu, change_at = mu * factor, iteration + 1 + iteration // 20
        return iteration, error

    def step(self, mu: float, accuracy: float) -> _State:
        """S, then L, then the multipliers, which belong to L's subgradients by then."""
        M, last = self.M, self.dense
        wanted = M - last + self.Y / mu
        self.S = _soft(wanted, self.lam / mu)
        target = M - self.S + self.Y / mu
        if self.known is not None:
            # What is not known costs nothing there: it is what L was.
            self.S = torch.where(self.known, self.S, 0)
            target = torch.where(self.known, target, last)
        self.L = U, s, V = self.threshold(Dense(target), 1 / mu, accuracy)
        self.dense = (U * s) @ V.mH
        rest = M - self.dense
        violated = rest - self.S
        if self.known is not None:
            rest, violated = torch.where(self.known, rest, 0), torch.where(self.known, violated, 0)
        self.Y = self.Y + mu * violated
        value = float(s.sum()) + self.lam * float(rest.abs().sum())
        over = max(1.0, float(self.Y.abs().max()) / self.lam)
        below = float((self.Y.conj() * M).real.sum()) / over
        change = mu * float(torch.linalg.vector_norm(self.dense - last))
        return _State(
            float(torch.linalg.vector_norm(violated)) / self.size,
            change / float(torch.linalg.vector_norm(self.Y)),
            value,
            below,
        )

    def certified(self, value: float) -> float:
        """The gap relative to the value, from multipliers that are feasible for certain."""
        over = max(_largest(self.Y, self.threshold.generator), float(self.Y.abs().max()) / self.lam)
        below = float((self.Y.conj() * self.M).real.sum()) / over
        return abs(value - below) / value


def _soft(x: Tensor, t: float) -> Tensor:
    return x.sgn() * (x.abs() - t).clamp_min_(0)


def _largest(A: Tensor, generator: torch.Generator) -> float:
    """The largest singular value."""
    from resolvent.spectra import svds

    return float(svds(A, 1, rtol=1e-6 if real_dtype(A.dtype) == torch.float64 else 1e-4, generator=generator)[1])


def _checked(M: Any, mask: Any) -> tuple[Tensor, Tensor | None, Any]:
    matrix, kind = as_tensor(M, "M")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"M must have shape (m, n), both at least 1, got {tuple(matrix.shape)}")
    if real_dtype(matrix.dtype) not in (torch.float32, torch.float64):
        raise TypeError(f"M has dtype {matrix.dtype}; convert it to float32")
    if matrix.requires_grad and torch.is_grad_enabled():
        raise ValueError("robust_pca has no gradient: pass M.detach()")
    known = None
    if mask is not None:
        known = torch.as_tensor(mask, device=matrix.device)
        if known.dtype != torch.bool or known.shape != matrix.shape:
            raise ValueError(
                f"mask must be booleans of shape {tuple(matrix.shape)}, got {known.dtype} of shape {tuple(known.shape)}"
            )
        if not bool(known.any()):
            raise ValueError("mask must be True somewhere: nothing is known")
        matrix = matrix.masked_fill(~known, 0)
    check_finite(matrix, "M")
    return matrix.detach(), known, kind
