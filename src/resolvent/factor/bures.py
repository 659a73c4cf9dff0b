"""Low-rank covariances in the Bures-Wasserstein distance: the loss, its minimiser and its critical points.

>>> import torch
>>> from resolvent import factor
>>> factor.bures_low_rank(torch.diag(torch.tensor([4.0, 1.0, 0.25])), 1).value
tensor(1.2500)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back


class BuresLowRank(NamedTuple):
    """Of :func:`bures_low_rank`: the nearest covariance of a low rank is ``factor @ factor.H``."""

    factor: Any
    value: Any
    eigenvalues: Any


@dataclass(frozen=True)
class BuresCriticalPoint:
    """What :func:`bures_critical_point` finds.

    Attributes
    ----------
    kept : positions of the eigenvalues of S0, counted from the largest, whose directions the factor keeps
    value : the loss there
    gradient : Frobenius norm of the gradient, relative to the root of the trace of S0
    minimum : whether this is a global minimiser; every other critical point is a saddle
    curvature : the second derivative of the loss along `direction`, negative at a saddle, None at a minimiser
    direction : (m, d) of norm one, or None at a minimiser
    """

    kept: tuple[int, ...]
    value: float
    gradient: float
    minimum: bool
    curvature: float | None
    direction: Any


def bures_loss(S0: Any, W: Any, *, tau: float = 0.0) -> Any:
    r"""The squared Bures-Wasserstein distance of S0 and :math:`S = W W^H + \tau I`.

    .. math:: \operatorname{tr} S_0 + \operatorname{tr} S - 2 \operatorname{tr} (S_0^{1/2} S S_0^{1/2})^{1/2},

    which is the squared optimal transport distance of two centred normal distributions with these covariances.

    Parameters
    ----------
    S0 : (*batch, m, m) Hermitian positive semidefinite
    W : (*batch, m, d); leading dimensions broadcast
    tau : variance added in every direction, >= 0

    Returns
    -------
    (*batch,) real, of the kind of `S0` and `W`; a float for one matrix of NumPy.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a negative `tau`, or S0 is not Hermitian positive semidefinite.

    Notes
    -----
    The last trace is the nuclear norm of :math:`S_0^{1/2} [W, \sqrt\tau I]`: one eigendecomposition of S0 and one SVD.
    The rounding error is eps times the traces, however small the distance. First-order gradients; where the product has
    not full rank, the gradient is that along the matrices of its rank.

    References
    ----------
    "Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss"

    Examples
    --------
    >>> bures_loss(torch.diag(torch.tensor([4.0, 9.0])), torch.eye(2))
    tensor(5.)
    """
    S, kind = covariance(S0)
    F, other = _factor(W, S)
    tau = checked_tau(tau)
    w, V = spectrum(S.detach())
    root = (V * w.sqrt().unsqueeze(-2)) @ V.mH
    value, G, whitened = loss_and_gradient(root, S.detach(), F.detach(), tau)
    if torch.is_grad_enabled() and (S.requires_grad or F.requires_grad):
        # The derivative of the nuclear norm of R X with X fixed is that of half a trace with R^2.
        moving_S = (S - S.detach()) * (torch.eye(S.shape[-1], dtype=S.dtype, device=S.device) - whitened).conj()
        value = value + (G.conj() * (F - F.detach())).real.sum((-2, -1)) + moving_S.real.sum((-2, -1))
    return give_back(value, "numpy" if kind == other == "numpy" else "torch")


def bures_low_rank(S0: Any, k: int, *, tau: float = 0.0) -> BuresLowRank:
    r"""The covariance :math:`W W^H + \tau I`, W of rank at most k, nearest to S0 in the Bures-Wasserstein distance.

    Parameters
    ----------
    S0 : (*batch, m, m) Hermitian positive semidefinite
    k : bound on the rank, from 0 to m
    tau : variance added in every direction, >= 0

    Returns
    -------
    factor : (*batch, m, k), W; columns of zeros where an eigenvalue is below `tau`
    value : (*batch,) the squared distance, :math:`\sum (\sqrt{\lambda_i} - \sqrt\tau)^2` over the eigenvalues dropped
        or below `tau`
    eigenvalues : (*batch, k) of W W^H, :math:`(\lambda_i - \tau)_+`, descending

    Raises
    ------
    ValueError : S0 is not Hermitian positive semidefinite, or `k` or `tau` out of range.

    Notes
    -----
    A closed form: the k largest eigenpairs of S0, as in the Frobenius norm, with the eigenvalues lowered by `tau`. One
    eigendecomposition; W is unique up to a unitary factor on its right if the k-th and the next eigenvalue differ.
    Gradients are those of `torch.linalg.eigh`, finite where eigenvalues are distinct and the kept ones exceed `tau`.

    References
    ----------
    "Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss"

    Examples
    --------
    >>> found = bures_low_rank(torch.diag(torch.tensor([4.0, 1.0, 0.25])), 2, tau=0.25)
    >>> found.eigenvalues, found.value
    (tensor([3.7500, 0.7500]), tensor(0.))
    """
    S, kind = covariance(S0)
    m, tau = S.shape[-1], checked_tau(tau)
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= m:
        raise ValueError(f"k must be an int from 0 to {m}, got {k!r}")
    w, V = spectrum(S)
    w, V = w.flip(-1), V.flip(-1)
    kept = (w[..., :k] - tau).clamp_min(0)
    # The root has no derivative at zero, and a column of zeros has none to give.
    lengths = torch.where(kept > 0, kept, 1).sqrt() * (kept > 0)
    short = (w.clamp_max(tau) if tau else torch.zeros_like(w))[..., :k]
    below = torch.cat([torch.where(kept > 0, torch.full_like(kept, tau), short), w[..., k:]], -1)
    found = BuresLowRank(V[..., :k] * lengths.unsqueeze(-2), _gaps(below, tau).sum(-1), kept)
    return BuresLowRank(*give_back(tuple(found), kind))


def bures_critical_point(
    S0: Any, W: Any, *, k: int | None = None, tau: float = 0.0, rtol: float | None = None
) -> BuresCriticalPoint:
    r"""Which critical point of the loss of :func:`bures_loss` over matrices of rank k a factor W is, and how to leave it.

    Every critical point keeps a set J of eigenpairs of S0: :math:`W W^H = V_J (\Lambda_J - \tau I) V_J^H`. It is a minimum
    if J holds the largest, and a strict saddle otherwise: the distance falls along :math:`v_i o_j^H`, with i the largest
    eigenvalue left out, j the smallest kept and o_j the right singular vector of j.

    Parameters
    ----------
    S0 : (m, m) Hermitian positive semidefinite, with distinct eigenvalues
    W : (m, d)
    k : the bound on the rank; default min(m, d)
    tau : variance added in every direction, >= 0
    rtol : bound on the gradient's norm relative to sqrt(tr S0); default 1e-7 in float64, 1e-3 in float32

    Returns
    -------
    BuresCriticalPoint

    Raises
    ------
    ValueError : W is no critical point (the message gives the gradient's norm), its rank is above `k`, below `k` with
        `tau` = 0 where the loss is not smooth, or bad input.

    Notes
    -----
    The curvature along the direction is :math:`2 (\lambda_j - \lambda_i) / (\lambda_j + \sqrt{\lambda_i \tau})`; where the
    rank is below k, :math:`2 (1 - \sqrt{\lambda_i / \tau})` in a new direction. A few decompositions of m x m matrices.
    No gradients.

    References
    ----------
    "Critical Points and Convergence Analysis of Generative Deep Linear Networks Trained with Bures-Wasserstein Loss"

    Examples
    --------
    >>> S0 = torch.diag(torch.tensor([4.0, 1.0, 0.25]))
    >>> found = bures_critical_point(S0, torch.tensor([[0.0], [1.0], [0.0]]))
    >>> found.kept, found.minimum, found.curvature
    ((1,), False, -6.0)
    """
    S, kind = covariance(S0)
    F, _ = _factor(W, S)
    if S.ndim != 2 or F.ndim != 2:
        raise ValueError(f"S0 and W must be one matrix each, got {tuple(S.shape)} and {tuple(F.shape)}")
    S, F, tau = S.detach(), F.detach(), checked_tau(tau)
    k = min(F.shape) if k is None else k
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= min(F.shape):
        raise ValueError(f"k must be an int from 0 to {min(F.shape)}, got {k!r}")
    eps = torch.finfo(S.dtype).eps
    rtol = (1e-7 if eps < 1e-10 else 1e-3) if rtol is None else float(rtol)
    w, V = (t.flip(-1) for t in spectrum(S))
    size = math.sqrt(max(float(w.sum()), 0.0))
    rank = int((torch.linalg.svdvals(F) > max(F.shape) * math.sqrt(eps) * size).sum())
    if rank > k or (rank < k and not tau):
        raise ValueError(f"W must have rank {'at most ' if tau else ''}{k}, the bound k, got rank {rank}")
    root = (V * w.sqrt()) @ V.mH
    value, G, _ = loss_and_gradient(root, S, F, tau, rank=None if tau else rank)
    gradient = float(torch.linalg.matrix_norm(G)) / size if size else 0.0
    if gradient > rtol:
        raise ValueError(
            f"W is no critical point: its gradient is {gradient:.3g} of sqrt(tr S0), above rtol = {rtol:g}"
        )
    overlap = (V.mH @ F).abs().square().sum(-1)
    order = torch.argsort(-overlap, stable=True)[:rank].sort().values
    kept = tuple(order.tolist())
    curvature, direction = _escape(w, V, F, kept, k, tau)
    return BuresCriticalPoint(kept, float(value), gradient, direction is None, curvature, give_back(direction, kind))


def _escape(w: Tensor, V: Tensor, F: Tensor, kept: tuple[int, ...], k: int, tau: float) -> tuple[Any, Any]:
    """The curvature and the direction in which the loss falls fastest, or None and None."""
    left = [i for i in range(len(w)) if i not in kept]
    if not left:
        return None, None
    i = left[0]
    big = float(w[i])
    if len(kept) < k:
        if big <= tau:
            return None, None
        # A right singular vector that the factor does not use yet.
        spare = torch.linalg.svd(F).Vh[len(kept)]
        return 2 * (1 - math.sqrt(big / tau)), V[:, i : i + 1] * spare
    if not kept or float(w[kept[-1]]) >= big:
        return None, None
    j = kept[-1]
    right = V[:, j].conj() @ F
    small = float(w[j])
    curvature = 2 * (small - big) / (small + math.sqrt(big * tau))
    return curvature, V[:, i : i + 1] * (right / torch.linalg.vector_norm(right))


def covariance(S0: Any) -> tuple[Tensor, Kind]:
    """A Hermitian matrix, or a batch of them."""
    S, kind = as_tensor(S0, "S0")
    if S.ndim < 2 or S.shape[-1] != S.shape[-2] or S.shape[-1] == 0:
        raise ValueError(f"S0 must have shape (..., m, m) with m > 0, got {tuple(S.shape)}")
    if S.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"S0 has dtype {S.dtype}; convert it to float32")
    check_finite(S, "S0")
    gap, size = float((S - S.mH).detach().abs().max()), float(S.detach().abs().max())
    if gap > 100 * torch.finfo(S.dtype).eps * size:
        raise ValueError(f"S0 must be Hermitian, entries and their mirrors differ by {gap:.3g}")
    return (S + S.mH) / 2, kind


def checked_tau(tau: float) -> float:
    if not math.isfinite(tau) or tau < 0:
        raise ValueError(f"tau must be finite and >= 0, got {tau}")
    return float(tau)


def spectrum(S: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues >= 0, ascending, and eigenvectors."""
    w, V = torch.linalg.eigh(S)
    lowest, size = w.detach()[..., 0], w.detach().abs().amax(-1)
    bad = lowest < -100 * S.shape[-1] * torch.finfo(S.dtype).eps * size
    if bool(bad.any()):
        raise ValueError(f"S0 must be positive semidefinite, it has the eigenvalue {float(lowest[bad].min()):.3g}")
    return w.clamp_min(0), V


def loss_and_gradient(
    root: Tensor, S: Tensor, W: Tensor, tau: float, rank: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The loss, its gradient in W, :math:`2 W - 2 S_0^{1/2} U V^H`, and the transport map from S0 to S.

    U V^H is the polar factor of S0^(1/2) W, cut to `rank` where the rank of W is known to be that.
    """
    m, d = W.shape[-2:]
    X = W
    if tau:
        eye = torch.eye(m, dtype=W.dtype, device=W.device) * math.sqrt(tau)
        X = torch.cat([W, eye.expand(*W.shape[:-2], m, m)], -1)
    U, s, Vh = torch.linalg.svd(root @ X, full_matrices=False)
    if rank is None:
        inside = s > max(X.shape[-2:]) * torch.finfo(s.dtype).eps * s.amax(-1, keepdim=True)
    else:
        inside = torch.arange(s.shape[-1], device=s.device) < rank
    polar = (U * inside.unsqueeze(-2)) @ Vh
    trace = S.diagonal(dim1=-2, dim2=-1).sum(-1).real + W.abs().square().sum((-2, -1)) + m * tau
    G = 2 * (W - root @ polar[..., :d])
    Y = X @ Vh.mH
    T = (Y * (inside / torch.where(inside, s, 1)).unsqueeze(-2)) @ Y.mH
    return trace - 2 * s.sum(-1), G, T


def _factor(W: Any, S: Tensor) -> tuple[Tensor, Kind]:
    F, kind = as_tensor(W, "W")
    if F.ndim < 2 or F.shape[-2] != S.shape[-1] or F.shape[-1] == 0:
        raise ValueError(f"W must have shape (..., {S.shape[-1]}, d) with d > 0, got {tuple(F.shape)}")
    if F.dtype != S.dtype or F.device != S.device:
        raise ValueError(f"W must be {S.dtype} on {S.device} as S0, got {F.dtype} on {F.device}")
    check_finite(F, "W")
    return F, kind


def _gaps(w: Tensor, tau: float) -> Tensor:
    """(sqrt(w) - sqrt(tau))^2."""
    # Without tau the root and its square cancel, and the derivative at zero is finite.
    return (w.sqrt() - math.sqrt(tau)).square() if tau else w
