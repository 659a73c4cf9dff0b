"""How far a sample of rows is from keeping an l_p norm, by a search for the worst vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.sketch.lewis import check_exponent, orthonormal_basis
from resolvent.sketch.row_sampling import SampledRows


def lp_distortion(
    A: OperatorLike,
    sample: SampledRows,
    p: float = 2.0,
    *,
    restarts: int = 16,
    iterations: int = 40,
    generator: GeneratorLike = None,
) -> float:
    r"""The distortion :math:`\max_x |\, \|SAx\|_p / \|Ax\|_p - 1\,|` that a search finds; exact for p = 2.

    Parameters
    ----------
    A : (n, d) real or complex operator or anything `as_operator` takes
    sample : from `sample_rows` or `pivotal_sample`
    p : at least 1, finite
    restarts : how many starts are followed, the best of four times as many random vectors, heavy rows and singular
        vectors
    iterations : steps of the search
    generator : of the starts

    Returns
    -------
    float
        A lower bound of the distortion for p other than 2, in practice close to it. 1 or more where a direction is lost.

    Raises
    ------
    ValueError : p, restarts or iterations out of range, a sample of another matrix.

    Notes
    -----
    The logarithm of the ratio is climbed and descended from all starts at once: gradient steps in an orthonormal basis
    of the range, whose length is halved where they do not gain and doubled where they do. 4 n d flops a step and start.
    p = 2: the singular values of S Q. No gradient.

    References
    ----------
    "Sharper Bounds for ell_p Sensitivity Sampling"

    Examples
    --------
    >>> A = torch.eye(4)
    >>> whole = SampledRows(torch.arange(4), torch.ones(4), torch.ones(4))
    >>> lp_distortion(A, whole, 1.0)
    0.0
    >>> lp_distortion(A, SampledRows(torch.arange(3), torch.ones(3), torch.ones(4)), 1.0)
    1.0
    """
    A = as_operator(A, name="A")
    check_exponent(p)
    if A.batch_shape:
        raise ValueError(f"A must be one matrix here, got a batch {tuple(A.batch_shape)}")
    for name, count in (("restarts", restarts), ("iterations", iterations)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {count!r}")
    rows = torch.as_tensor(sample.rows, device=A.device)
    if rows.ndim != 1 or tuple(torch.as_tensor(sample.weights).shape) != tuple(rows.shape):
        raise ValueError(f"sample must have as many weights as rows, got {sample.weights!r} for {sample.rows!r}")
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < A.shape[0]:
        raise ValueError(f"sample has rows {int(rows.min())} to {int(rows.max())}, but A has {A.shape[0]} rows")
    Q = orthonormal_basis(A.detach())
    Q = Q.to(torch.complex128 if Q.is_complex() else torch.float64)
    SQ = torch.as_tensor(sample.weights, device=A.device, dtype=torch.float64)[:, None] * Q[rows]
    if SQ.shape[0] < SQ.shape[1] or int(torch.linalg.matrix_rank(SQ)) < SQ.shape[1]:
        lost = 1.0
        if not len(rows):
            return lost
    else:
        lost = 0.0
    if p == 2:
        return max(lost, float((torch.linalg.svdvals(SQ) - 1).abs().max()))
    starts = _starts(Q, SQ, restarts, as_generator(generator, A.device))
    at = _ratio(Q, SQ, starts, p)[0]
    found = []
    for sign in (1.0, -1.0):
        best = starts[:, (sign * at).topk(min(restarts, len(at))).indices]
        found.append(abs(_climb(Q, SQ, best, p, sign, iterations) - 1))
    return float(max(lost, *found))


def _starts(Q: Tensor, SQ: Tensor, count: int, g: torch.Generator) -> Tensor:
    """Random vectors, the rows of the sample with the largest weights, and singular vectors of the sample."""
    d = Q.shape[1]
    heavy = SQ[SQ.abs().square().sum(-1).topk(min(count, len(SQ))).indices].mH
    V = torch.linalg.svd(SQ, full_matrices=True).Vh.mH if d <= len(SQ) else torch.linalg.qr(SQ.mH, mode="complete").Q
    ends = V[:, : min(count, d)], V[:, -min(count, d) :]
    # A row that was not drawn and is large in the basis points to a norm that shrank.
    away = Q[Q.abs().square().sum(-1).topk(min(count, len(Q))).indices].mH
    X = torch.cat([gaussian((d, 2 * count), Q.dtype, Q.device, g), heavy, *ends, away], 1)
    return X / torch.linalg.vector_norm(X, dim=0).clamp(min=1e-300)


def _ratio(Q: Tensor, SQ: Tensor, X: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """log ``||SQ x||_p / ||Q x||_p`` of every column, and its gradient."""
    values, slopes = [], []
    for M in (SQ, Q):
        R = M @ X
        size = R.abs()
        top = size.amax(0).clamp(min=1e-300)
        size = size / top
        powers = torch.ones_like(size) if p == 1 else size ** (p - 1)
        total = (powers * size).sum(0).clamp(min=1e-300)
        values.append(top.log() + total.log() / p)
        slopes.append(M.mH @ (powers * torch.sgn(R)) / (total * top))
    return values[0] - values[1], slopes[0] - slopes[1]


def _climb(Q: Tensor, SQ: Tensor, X: Tensor, p: float, sign: float, iterations: int) -> Any:
    """The largest (sign 1) or smallest (sign -1) ratio found from the starts."""
    value, slope = _ratio(Q, SQ, X, p)
    step = torch.full_like(value, 0.5)
    for _ in range(iterations):
        length = torch.linalg.vector_norm(slope, dim=0).clamp(min=1e-300)
        Y = X + sign * step * slope / length
        Y = Y / torch.linalg.vector_norm(Y, dim=0).clamp(min=1e-300)
        new, new_slope = _ratio(Q, SQ, Y, p)
        better = sign * new > sign * value
        X, slope = torch.where(better, Y, X), torch.where(better, new_slope, slope)
        value, step = torch.where(better, new, value), torch.where(better, 2 * step, step / 2).clamp(max=2)
    return float((sign * (sign * value).max()).exp())
