"""Lewis weights: the change of density that makes the rows of a matrix isotropic in an l_p norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import give_back_array
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.gradient import records
from resolvent.operators.operator import Operator
from resolvent.sketch.leverage import cutoff, row_norms, single, whitener


def lewis_weights(
    A: OperatorLike,
    p: float,
    *,
    rtol: float | None = None,
    max_iterations: int = 200,
    return_info: bool = False,
) -> Any:
    r"""The :math:`\ell_p` Lewis weights: :math:`w_i = \tau_i(W^{1/2 - 1/p} A)`, scores that are their own leverage scores.

    Parameters
    ----------
    A : (n, d) real or complex operator or anything `as_operator` takes
    p : at least 1, finite; at 2 the weights are the leverage scores
    rtol : relative error of every weight; default 1e-8 in float64, 1e-4 in float32
    max_iterations : a bound on the steps
    return_info : also return an `Info`

    Returns
    -------
    (n,) real tensor or array with entries from 0 to 1 that sum to the rank of A. Rows of zeros have weight 0.

    Raises
    ------
    ValueError : p below 1 or infinite, NaN or infinity in A, a batch.
    TypeError : A requires a gradient: the weights have none.
    ConvergenceError : the weights still move by more than `rtol` after `max_iterations`; carries the last ones.

    Notes
    -----
    The fixed point :math:`\log w \leftarrow \log w + \theta \frac p2 (\log \tau - \log w)`. The plain iteration
    (:math:`\theta = 1`) contracts by :math:`|1 - p/2|`, for p < 4 only; its Jacobian is :math:`-(p/2 - 1)` times a
    matrix with eigenvalues in [0, 1], so that :math:`\theta = 4/(p+2)` contracts by :math:`|p - 2|/(p + 2)` for every
    p. Each step is one QR factorization of d columns and one product: 4 n d^2 flops. One step costs what
    `leverage_scores` costs. The largest :math:`|\log \tau - \log w|` times max(1, p - 1) is taken for the error: a
    bound for p up to 2; beyond, the norm of the inverse Jacobian where rows are alike, which others stayed below.

    References
    ----------
    "Lp Row Sampling by Lewis Weights"; "Sharper Bounds for ell_p Sensitivity Sampling"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 7.0]])
    >>> lewis_weights(A, 1.0)
    tensor([0.5000, 0.5000, 1.0000])
    """
    A = as_operator(A, name="A")
    check_exponent(p)
    if A.batch_shape:
        raise ValueError(f"A must be one matrix here, got a batch {tuple(A.batch_shape)}")
    if records(A):
        raise TypeError("A requires a gradient, and Lewis weights have none; detach it")
    w, info = _fixed_point(orthonormal_basis(A), float(p), rtol, max_iterations)
    found = give_back_array(w.to(torch.empty(0, dtype=A.dtype).real.dtype), A.kind)
    if not info.converged:
        raise ConvergenceError(
            f"lewis_weights: the weights moved by {info.error:.1e} after {info.iterations} steps",
            best=found,
            error=info.error,
            info=info,
        )
    return (found, info) if return_info else found


def check_exponent(p: float) -> None:
    if isinstance(p, bool) or not isinstance(p, int | float) or not 1 <= p < math.inf:
        raise ValueError(f"p must be a finite number of at least 1, got {p!r}")


def orthonormal_basis(A: Operator) -> Tensor:
    """An orthonormal basis (n, r) of the range of A; what depends on the range alone may use it instead of A."""
    n, d = A.shape
    if n > 5 * d and n * d > 1 << 20 and (M := whitener(A)) is not None:
        return A.data.to(M.dtype) @ M if isinstance(A, Dense) else A @ M
    X = A._dense()
    Q, R = torch.linalg.qr(X.to(single(X.dtype)))
    U, s, _ = torch.linalg.svd(R)
    rank = int((s > cutoff(s, X.shape)).sum())
    # The QR factorization leaves rounding errors in rows of zeros.
    return (Q @ U[:, :rank]) * (X != 0).any(-1, keepdim=True)


def weighted_factor(Q: Tensor, weights: Tensor) -> Tensor:
    """R^{-1} where ``diag(weights) Q`` has the QR factor R."""
    R = torch.linalg.qr(weights[:, None] * Q, mode="r").R
    return torch.linalg.solve_triangular(R, torch.eye(len(R), dtype=R.dtype, device=R.device), upper=True)


def _fixed_point(Q: Tensor, p: float, rtol: float | None, most: int) -> tuple[Tensor, Info]:
    """The weights of the rows of an orthonormal basis, in double precision."""
    # The weights span many orders of magnitude: logarithms, in double precision.
    wide = Q.to(torch.complex128 if Q.is_complex() else torch.float64)
    size = wide.abs().square().sum(-1)
    live = size > 0
    rows, log_w = wide[live], size[live].log()
    if rtol is None:
        rtol = 1e-8 if Q.dtype in (torch.float64, torch.complex128) else 1e-4
    error, steps = 0.0, 0
    if p != 2 and len(rows):
        step, last = 2 * p / (p + 2), math.inf
        while steps < most:
            steps += 1
            scale = (0.5 - 1 / p) * log_w
            scale = (scale - scale.max()).exp()
            change = row_norms(Dense(scale[:, None] * rows), weighted_factor(rows, scale)).log() - log_w
            # The Jacobian of the change is -(2/p) - (1 - 2/p) K with a stochastic K: its inverse is at most one for p < 2.
            error = float(change.abs().max()) * max(1.0, p - 1)
            if error <= rtol:
                break
            # Far from the end only p < 4 has a proof, for the plain step: take it when the long one does not gain.
            plain = p < 4 and error > last
            log_w = log_w + change * (p / 2 if plain else step)
            last = error
    out = torch.zeros_like(size)
    out[live] = log_w.exp().clamp(max=1)
    return out, Info("fixed point" if p != 2 else "leverage", 0, steps, error, error <= rtol)
