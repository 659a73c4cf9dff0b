"""The nested matrix-tensor model of data seen in several views, and its two clusters from a noisy tensor."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator, gaussian, rademacher


class SpikedTensor(NamedTuple):
    """Of :func:`spiked_tensor`: the tensor, its matrix and its signals."""

    T: Tensor
    M: Tensor
    x: Tensor
    y: Tensor
    z: Tensor


class MultiviewClusters(NamedTuple):
    """Of :func:`multiview_cluster`.

    Attributes
    ----------
    labels : (n2,) bool, the side of each point; which side is True means nothing
    direction : (n2,) unit vector whose signs the labels are
    features : (n1,) unit vector, or None for "unfolding"
    views : (n3,) unit vector of the weights of the views, or None for "unfolding"
    value : "unfolding": the eigenvalue in the scale of `UnfoldingTheory`; "rank_one": the inner product of T with the
        three vectors
    """

    labels: Any
    direction: Any
    features: Any
    views: Any
    value: Any


def spiked_tensor(
    n1: int,
    n2: int,
    n3: int,
    beta_M: float,
    beta_T: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    generator: GeneratorLike = None,
) -> SpikedTensor:
    r"""Draw the nested matrix-tensor model: n2 points with n1 features in two clusters, in n3 views of different quality.

    .. math:: M = \beta_M x y^T + \frac{Z}{\sqrt{n_1 + n_2}}, \qquad
        T = \beta_T M \otimes z + \frac{W}{\sqrt{n_1 + n_2 + n_3}},

    Z and W standard normal, x and z uniform on the sphere, y with entries :math:`\pm n_2^{-1/2}`.

    Parameters
    ----------
    n1, n2, n3 : sizes, >= 1
    beta_M, beta_T : strengths of the signals, >= 0
    dtype, device : of the results
    generator : for all draws

    Returns
    -------
    SpikedTensor : T (n1, n2, n3), M (n1, n2), x (n1,), y (n2,), z (n3,)

    Raises
    ------
    ValueError : a size below one, or a strength that is negative or not finite.

    Notes
    -----
    Unfoldings see the clusters where beta_T is of the order of n^(1/4), see :func:`unfolding_theory`.

    References
    ----------
    "Performance Gaps in Multi-view Clustering under the Nested Matrix-Tensor Model"

    Examples
    --------
    >>> drawn = spiked_tensor(4, 6, 3, 2.0, 1.0, generator=0)
    >>> drawn.T.shape, round(float(drawn.y.norm()), 6)
    (torch.Size([4, 6, 3]), 1.0)
    """
    for name, size in (("n1", n1), ("n2", n2), ("n3", n3)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive int, got {size!r}")
    for name, beta in (("beta_M", beta_M), ("beta_T", beta_T)):
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"{name} must be finite and >= 0, got {beta}")
    g = as_generator(generator, device)
    x, z = (t / torch.linalg.vector_norm(t) for t in (gaussian((n,), dtype, device, g) for n in (n1, n3)))
    y = rademacher((n2,), dtype, device, g) / math.sqrt(n2)
    M = beta_M * torch.outer(x, y) + gaussian((n1, n2), dtype, device, g) / math.sqrt(n1 + n2)
    T = gaussian((n1, n2, n3), dtype, device, g).div_(math.sqrt(n1 + n2 + n3))
    return SpikedTensor(T.add_(M.unsqueeze(-1) * (beta_T * z)), M, x, y, z)


def multiview_cluster(
    T: Any,
    method: Literal["unfolding", "rank_one"] = "rank_one",
    *,
    rtol: float | None = None,
    max_iter: int = 500,
) -> MultiviewClusters:
    """Two clusters of the points of a tensor (features, points, views), by the signs of one vector.

    Parameters
    ----------
    T : (n1, n2, n3) real tensor or array
    method : "unfolding" takes the top left singular vector of the (n2, n1 n3) unfolding; "rank_one" goes on from there to a
        best rank-one approximation of T, which weights the views, and sees weaker signals
    rtol : "rank_one" stops when a round changes the vectors by less; default 1e-8 in float64, 1e-4 in float32
    max_iter : bound on the rounds

    Returns
    -------
    MultiviewClusters, of the kind of `T`

    Raises
    ------
    ValueError : T is not a finite real array of three dimensions, or asks for gradients, of which there are none.
    ConvergenceError : the rounds did not settle; carries the best result.

    Notes
    -----
    An unfolding costs one Gram matrix, n1 n2^2 n3 multiplications, and its eigenvectors. "rank_one" takes the unfoldings of
    all three modes as the start; then every round contracts T with the views' weights, makes 10 power steps with
    that matrix, and finds the weights anew: two passes over T a round.

    References
    ----------
    "Performance Gaps in Multi-view Clustering under the Nested Matrix-Tensor Model"

    Examples
    --------
    >>> drawn = spiked_tensor(40, 60, 20, 3.0, 4.0, generator=0)
    >>> found = multiview_cluster(drawn.T)
    >>> hits = float((found.labels == (drawn.y > 0)).double().mean())
    >>> max(hits, 1 - hits) > 0.95
    True
    """
    t, kind = as_tensor(T, "T")
    if t.ndim != 3 or not t.numel():
        raise ValueError(f"T must have shape (n1, n2, n3) with sizes > 0, got {tuple(t.shape)}")
    if t.is_complex():
        raise ValueError(f"T must be real, got {t.dtype}")
    if t.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"T has dtype {t.dtype}; convert it to float32")
    if method not in ("unfolding", "rank_one"):
        raise ValueError(f"method must be 'unfolding' or 'rank_one', got {method!r}")
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError("T asks for gradients, and clusters have none; give T.detach()")
    check_finite(t, "T")
    # A power of two changes no digit, and keeps the squares of a Gram matrix in the range of the dtype.
    scale = 2.0 ** round(math.log2(max(float(t.detach().abs().max()), torch.finfo(t.dtype).tiny)))
    t = t.detach().contiguous() / scale
    top, y = _top(t, 1)
    if method == "unfolding":
        n1, n2, n3 = t.shape
        value = (sum(t.shape) * (top * scale) * scale - n1 * n3) / math.sqrt(n1 * n2 * n3)
        return MultiviewClusters(*give_back(_signed(y, None, None, value), kind))
    bound = (1e-8 if t.dtype == torch.float64 else 1e-4) if rtol is None else float(rtol)
    x, y, z, value, change = _rank_one(t, _top(t, 0)[1], y, _top(t, 2)[1], bound, max_iter)
    found = MultiviewClusters(*give_back(_signed(y, x, z, value * scale), kind))
    if not change <= bound:
        raise ConvergenceError(
            f"multiview_cluster: the last round changed the vectors by {change:.3g}, asked for {bound:g}",
            best=found,
            error=change,
        )
    return found


def _signed(y: Tensor, x: Any, z: Any, value: Tensor) -> tuple[Any, ...]:
    """With the largest entry of the direction positive, and of the views' weights too."""
    y_sign = torch.sign(y[y.abs().argmax()])
    if x is not None:
        z_sign = torch.sign(z[z.abs().argmax()])
        x, z = x * y_sign * z_sign, z * z_sign
    y = y * y_sign
    return y > 0, y, x, z, value


def _top(t: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of an unfolding's Gram matrix and its eigenvector, without unfolding."""
    if axis == 0:
        flat = t.reshape(len(t), -1)
        G = flat @ flat.mT
    elif axis == 2:
        flat = t.reshape(-1, t.shape[2])
        G = flat.mT @ flat
    else:
        G = t.new_zeros(t.shape[1], t.shape[1])
        for part in t:
            G.addmm_(part, part.mT)
    w, V = torch.linalg.eigh(G)
    return w[-1], V[:, -1]


def _rank_one(
    t: Tensor, x: Tensor, y: Tensor, z: Tensor, bound: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Alternating power steps for max T(x, y, z) over unit vectors."""
    flat = t.reshape(-1, t.shape[2])
    change, value = math.inf, t.new_zeros(())
    for _ in range(max_iter):
        M = (flat @ z).reshape(t.shape[0], t.shape[1])
        old = y, z
        for _ in range(10):
            x = _unit(M @ y)
            y = _unit(x @ M)
        z = _unit(torch.outer(x, y).reshape(-1) @ flat)
        value = x @ M @ y
        gaps = torch.stack([torch.linalg.vector_norm(new - before) for new, before in zip((y, z), old, strict=True)])
        change = float(gaps.max())
        if change <= bound:
            break
    return x, y, z, value, change


def _unit(v: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(v)
    return v / torch.where(length > 0, length, 1)
