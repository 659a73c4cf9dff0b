"""Leverage scores: how much each row counts for the space that the columns of a matrix span."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resolvent.operators.arrays import give_back, give_back_array, real_dtype
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.gradient import records
from resolvent.operators.kronecker import Kronecker
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.sketch.transforms import make_sketch

# Above this many entries a QR factorization costs several times what a preconditioned Gram matrix does.
_LARGE = 1 << 20
# Entries of A times something that are held at once.
_BLOCK = 1 << 22


def leverage_scores(
    A: OperatorLike,
    method: Literal["exact", "sketched"] = "exact",
    *,
    ridge: float = 0.0,
    rtol: float = 0.5,
    confidence: float = 0.99,
    generator: GeneratorLike = None,
) -> Any:
    r"""The (ridge) leverage scores of the rows, :math:`\tau_i = a_i^H (A^H A + \lambda I)^+ a_i`.

    Parameters
    ----------
    A : (n, d) operator or anything `as_operator` takes; dense ones may have leading batch dimensions
    method : "exact" to rounding; "sketched" to `rtol`, for A with very many rows
    ridge : :math:`\lambda \ge 0`
    rtol : relative error of a sketched score, between 0 and 1
    confidence : probability that all n sketched scores are within `rtol`
    generator : of the sketch

    Returns
    -------
    (*batch, n) real tensor or array with entries from 0 to 1. Without ridge they sum to the rank of A.

    Raises
    ------
    ValueError : NaN or infinity in A, a negative `ridge`, `rtol` or `confidence` out of range, a batch with "sketched".
    TypeError : a gradient is asked for of a matrix that is not dense, or of sketched scores.

    Notes
    -----
    Exact: Householder QR of small matrices; of large ones a sketch gives R, and the Gram matrix of :math:`A R^{-1}`,
    whose condition number is at most about 3, corrects it: 4 n d^2 flops in matrix products, whatever the condition of
    A. The error is the rounding error times the condition number of A. Sketched: :math:`SA = QR`, then the row norms
    of :math:`A R^{-1} G` with a Gaussian G of O(log n / rtol^2) columns where d is larger than that. The number of rows
    of S comes from the law of a Gaussian sketch, where the score over its estimate is :math:`\chi^2_\nu/\nu`
    with :math:`\nu = m - d + 1`. Directions with singular values below 10 eps d times the largest do not count.
    Kronecker products without ridge have the Kronecker product of the scores. Exact scores of dense matrices have
    first-order gradients (at constant rank).

    References
    ----------
    "Fast Approximation of Matrix Coherence and Statistical Leverage"

    Examples
    --------
    >>> leverage_scores(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]]))
    tensor([0.5000, 0.5000, 1.0000])
    >>> leverage_scores(torch.tensor([[3.0], [1.0]]), ridge=10.0)
    tensor([0.4500, 0.0500])
    """
    A = as_operator(A, name="A")
    if method not in ("exact", "sketched"):
        raise ValueError(f"method must be 'exact' or 'sketched', got {method!r}")
    ridge = check_ridge(ridge)
    for name, value in (("rtol", rtol), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
    if A.batch_shape and (method == "sketched" or not isinstance(A, Dense)):
        raise ValueError(f"A must be one matrix here, got a batch {tuple(A.batch_shape)}")
    wanted = records(A)
    if wanted and (method == "sketched" or not isinstance(A, Dense)):
        raise TypeError("A requires a gradient, which only exact leverage scores of dense matrices have; detach it")
    if method == "sketched":
        scores = _sketched(A, ridge, rtol, 1 - confidence, as_generator(generator, A.device))
    elif isinstance(A, Kronecker) and ridge == 0 and not wanted:
        scores = torch.ones(1, dtype=real_dtype(A.dtype), device=A.device)
        for part in A._parts:
            scores = torch.kron(scores, _exact(part, 0.0)[0])
    elif isinstance(A, Dense) and wanted:
        scores = _Scores.apply(A.data, ridge)
    else:
        scores = _exact(A, ridge)[0]
    return give_back_array(scores, A.kind)


def effective_dimension(A: OperatorLike, ridge: float) -> Any:
    r"""The effective dimension :math:`\sum_i \sigma_i^2 / (\sigma_i^2 + \lambda)`, the sum of the ridge leverage scores.

    Parameters
    ----------
    A : (n, d) operator or anything `as_operator` takes; dense ones may have leading batch dimensions
    ridge : :math:`\lambda \ge 0`; at 0 it is the rank

    Returns
    -------
    (*batch,) real tensor; a Python float for NumPy data without a batch.

    Raises
    ------
    ValueError : as `leverage_scores`.

    Notes
    -----
    As exact `leverage_scores`, with their gradients.

    References
    ----------
    "Fast Randomized Kernel Ridge Regression with Statistical Guarantees"

    Examples
    --------
    >>> effective_dimension(torch.diag(torch.tensor([3.0, 1.0, 0.0])), ridge=1.0)
    tensor(1.4000)
    """
    operator = as_operator(A, name="A")
    scores = leverage_scores(operator, ridge=ridge)
    total = torch.as_tensor(scores).sum(-1)
    return give_back(total, operator.kind)


def check_ridge(ridge: float) -> float:
    """A finite number of at least 0, or an error."""
    if isinstance(ridge, bool) or not 0 <= float(ridge) < math.inf:
        raise ValueError(f"ridge must be a finite number of at least 0, got {ridge!r}")
    return float(ridge)


def single(dtype: torch.dtype) -> torch.dtype:
    """The dtype to factor in: LAPACK has no half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class _Scores(torch.autograd.Function):
    """Scores of a dense matrix with :math:`2 (g - P g) W`, W = A (A^H A + ridge)^+, as the gradient."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, ridge: float) -> Tensor:
        scores, M = _exact(Dense(X.detach()), ridge)
        ctx.save_for_backward(X, M)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        X, M = ctx.saved_tensors
        W = (X.to(M.dtype) @ M) @ M.mH
        weighted = grads[0].to(W.real.dtype)[..., None] * W
        return (2 * (weighted - W @ (X.to(M.dtype).mH @ weighted))).to(X.dtype), None


def _exact(A: Operator, ridge: float) -> tuple[Tensor, Tensor]:
    """Scores, and M (d, r) with A (A^H A + ridge)^+ A^H = (A M)(A M)^H."""
    n, d = A.shape[-2:]
    if A.batch_shape or (n * d <= _LARGE and not isinstance(A, Sparse)) or n <= 5 * d:
        X = A._dense()
        scores, M = _by_qr(X.to(single(X.dtype)), ridge)
        return scores.to(real_dtype(A.dtype)), M
    if not isinstance(A, Dense | Sparse):
        A = Dense(A._dense())
    if (white := whitener(A, ridge)) is None:
        scores, white = _by_qr(A._dense().to(single(A.dtype)), ridge)
    else:
        scores = row_norms(A, white)
    return scores.clamp(max=1).to(real_dtype(A.dtype)), white


def _by_qr(X: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    Q, R = torch.linalg.qr(X)
    U, s, Vh = torch.linalg.svd(R, full_matrices=False)
    counts = s > cutoff(s, X.shape)
    inverse = torch.where(counts, _inverse_length(s, ridge), 0)
    scores = ((Q @ U) * (s * inverse)[..., None, :]).abs().square().sum(-1)
    return scores.clamp(max=1), Vh.mH * inverse[..., None, :]


def _inverse_length(s: Tensor, ridge: float) -> Tensor:
    """(s^2 + ridge)^(-1/2), without squares: those of single precision leave its range at 1e-19 and 1e19."""
    return 1 / torch.hypot(s, s.new_tensor(math.sqrt(ridge)))


def cutoff(s: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Singular values up to here are rounding errors of the largest."""
    return 10 * torch.finfo(s.dtype).eps * min(shape[-2:]) * s[..., :1]


def whitener(A: Operator, ridge: float = 0.0) -> Tensor | None:
    """M (d, r) with A (A^H A + ridge)^+ A^H = (A M)(A M)^H, by a sketch that the Gram matrix of A M corrects.

    None where the sketch failed (it has 4 d rows: this does not happen by chance).
    """
    n, d = A.shape
    s, V = _sketched_factor(A, min(n, 4 * d + 20), as_generator(0, A.device))
    M = V / s
    if not len(s):
        return M
    # The correction is as good as the condition number of A M allows: one round does, a second is for bad luck.
    for _ in range(3):
        G = gram(A, M)
        lengths = math.sqrt(ridge) * M
        full = G + lengths.mH @ lengths
        values = torch.linalg.eigvalsh(G)
        L, failed = torch.linalg.cholesky_ex(full)
        if bool(failed):
            return None
        whitened = torch.linalg.solve_triangular(L, M.mH, upper=False).mH
        if float(values[-1]) < 100 * float(values[0]):
            return whitened
        L0, failed = torch.linalg.cholesky_ex(G)
        if bool(failed):
            return None
        M = torch.linalg.solve_triangular(L0, M.mH, upper=False).mH
    return None


def _sketched_factor(A: Operator, m: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Singular values (r,) and right vectors (d, r) of S A, those that count."""
    SA = _sketch_rows(A, m, generator)
    _, s, Vh = torch.linalg.svd(SA, full_matrices=False)
    rank = int((s > cutoff(s, SA.shape)).sum())
    return s[:rank], Vh[:rank].mH


def _sketch_rows(A: Operator, m: int, generator: torch.Generator) -> Tensor:
    n, d = A.shape
    dtype = single(A.dtype)
    if isinstance(A, Dense):
        return make_sketch("sparse_sign", m, n, generator=generator, dtype=dtype, device=A.device) @ A.data.to(dtype)
    if not isinstance(A, Sparse):
        S = make_sketch("gaussian", m, n, generator=generator, dtype=dtype, device=A.device)
        return (A.H @ S.H._dense()).mH
    # A sparse sketch of a sparse matrix: every entry goes to the few rows of its column of S.
    S = make_sketch("sparse_sign", m, n, generator=generator, dtype=dtype, device=A.device).H
    if not isinstance(S, Sparse):
        raise TypeError(f"the adjoint of a sparse sketch must be stored by rows, got {type(S).__name__}")
    places, signs = S.indices.view(n, -1).long(), S.values.view(n, -1)
    rows, columns = A._pattern.rows, A.indices.long()
    out = torch.zeros(m * d, dtype=dtype, device=A.device)
    for place, sign in zip(places.T, signs.T, strict=True):
        out.index_add_(0, place[rows] * d + columns, sign.conj()[rows] * A.values)
    return out.view(m, d)


def gram(A: Operator, M: Tensor) -> Tensor:
    """``(A M)^H (A M)`` without A M as a whole, where A is dense."""
    if not isinstance(A, Dense):
        return M.mH @ A._gram(M)
    G = M.new_zeros(M.shape[-1], M.shape[-1])
    for block in A.data.split(max(1, _BLOCK // max(M.shape))):
        B = block.to(M.dtype) @ M
        G.addmm_(B.mH, B)
    return G


def row_norms(A: Operator, M: Tensor) -> Tensor:
    """Squared lengths of the rows of A M."""
    if isinstance(A, Dense):
        blocks = A.data.split(max(1, _BLOCK // max(M.shape)))
        return torch.cat([(block.to(M.dtype) @ M).abs().square_().sum(-1) for block in blocks])
    total = torch.zeros(A.shape[0], dtype=real_dtype(M.dtype), device=M.device)
    for columns in M.split(max(1, _BLOCK // A.shape[0]), dim=1):
        total += (A @ columns.contiguous()).abs().square_().sum(-1)
    return total


def _degrees(rtol: float, failure: float) -> int:
    """Degrees of freedom nu such that nu over chi^2_nu misses 1 by `rtol` with at most this probability (Chernoff)."""
    low, high = 1 / (1 + rtol), 1 / (1 - rtol)
    rate = min(x - 1 - math.log(x) for x in (low, high))
    return math.ceil(2 * math.log(2 / failure) / rate)


def _sketched(A: Operator, ridge: float, rtol: float, failure: float, generator: torch.Generator) -> Tensor:
    n, d = A.shape
    part = math.sqrt(1 + rtol) - 1
    columns = _degrees(part, failure / (2 * n))
    project = columns < d
    m = d + (_degrees(part, failure / (2 * n)) if project else _degrees(rtol, failure / n))
    if m >= n:
        return _exact(A, ridge)[0]
    s, V = _sketched_factor(A, m, generator)
    inverse = _inverse_length(s, ridge)
    share = (s * inverse).square()
    M = V * inverse
    if project:
        M = M @ gaussian((M.shape[1], columns), M.dtype, M.device, generator).mul_(columns**-0.5)
    # The inverse of a sketched Gram matrix is too large by this factor on average.
    unbiased = 1 - share.sum() / m
    return (row_norms(A, M) * unbiased).clamp(max=1).to(real_dtype(A.dtype))
