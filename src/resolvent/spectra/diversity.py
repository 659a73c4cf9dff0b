"""Diversity of a sample: the effective number of distinct items in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.operators.algebra import Product
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back
from resolvent.operators.convert import as_operator
from resolvent.operators.elementary import Diagonal
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike
from resolvent.spectra.entropy import entropy, entropy_of_eigenvalues

# n x n similarities that are decomposed; beyond, quadrature.
# Rows that are scaled and multiplied at once, and the columns of a block of the result.
_ROWS, _PANEL, _PANELS = 4096, 96, 8
_DENSE = 10_000


def vendi_score(
    X_or_K: Any,
    q: float = 1,
    weights: Any = None,
    kernel: Literal["cosine", "precomputed"] | Callable[[Any, Any], Any] | None = None,
    method: Literal["auto", "primal", "dual", "slq"] = "auto",
    *,
    rtol: float | None = None,
    generator: GeneratorLike = None,
) -> Any:
    """The Vendi score ``exp(H_q(lambda))``: the effective number of distinct items, from 1 to n.

    Parameters
    ----------
    X_or_K : (n, d) features, (n, n) similarities, an (n, n) positive operator of similarities, or n samples of any
        kind for a callable `kernel`
    q : order of the entropy, at least 0 (inf allowed); large orders look at common items, small ones at rare
        items
    weights : (n,) probabilities of the items, nonnegative; they are divided by their sum. None: all 1/n
    kernel : "cosine": the rows of X are features, compared by the cosine; "precomputed": X_or_K holds similarities;
        a callable ``k(x, y) -> number``, symmetric; None: "precomputed" for operators and for square symmetric
        input with equal positive diagonal entries, else "cosine"
    method : "dual" decomposes the (d, d) second moment of features, "primal" the (n, n) similarities, "slq"
        estimates by stochastic Lanczos quadrature (for operators); "auto" takes the smallest, and quadrature for
        operators of more than 10^4 rows
    rtol : relative error of an estimate of the entropy; default 1e-2
    generator : of the probes of an estimate

    Returns
    -------
    0-d tensor, or a Python float for NumPy or other data.

    Raises
    ------
    ValueError : shapes that do not fit, a row of zeros, similarities that are not Hermitian, positive semidefinite
        and of positive diagonal, bad weights, q < 0.
    ConvergenceError : an estimate did not reach its tolerance.

    Notes
    -----
    lambda are the eigenvalues of ``sqrt(p_i) K_ij sqrt(p_j)`` with K normalised to unit diagonal, ``K_ij /
    sqrt(K_ii K_jj)``. Features cost O(n d min(n, d)); q = 2 is ``1 / ||sqrt(p) K sqrt(p)||_F^2`` and decomposes
    nothing. The score is differentiable in features and similarities.

    References
    ----------
    "The Vendi Score: A Diversity Evaluation Metric for Machine Learning"

    Examples
    --------
    >>> import torch
    >>> vendi_score(torch.eye(3)), vendi_score(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    (tensor(3.), tensor(1.))
    >>> words = ["ab", "ab", "cd", "cd"]
    >>> round(vendi_score(words, kernel=lambda x, y: float(x == y)), 6)
    2.0
    """
    q = float(q)
    if not q >= 0:
        raise ValueError(f"q must be at least 0, got {q}")
    if method not in ("auto", "primal", "dual", "slq"):
        raise ValueError(f"method must be auto, primal, dual or slq, got {method!r}")
    if isinstance(X_or_K, Operator):
        if kernel not in (None, "precomputed"):
            raise ValueError("an operator holds similarities: kernel must be None or 'precomputed'")
        return _of_operator(X_or_K, q, weights, method, rtol, generator)
    if callable(kernel):
        matrix, kind = _filled(X_or_K, kernel)
    else:
        matrix, kind = _matrix(X_or_K, kernel)
        if kernel == "cosine" or (kernel is None and not _looks_like_similarities(matrix)):
            return give_back(_of_features(matrix, q, _probabilities(weights, matrix), method), kind)
    if method == "dual":
        raise ValueError("method 'dual' needs features")
    if method == "slq":
        return give_back(_of_operator(as_operator(matrix), q, weights, method, rtol, generator), kind)
    p = _probabilities(weights, matrix)
    return give_back(_score(_normalised(matrix, p), q), kind)


def _matrix(X_or_K: Any, kernel: str | None) -> tuple[Tensor, Kind]:
    matrix, kind = as_tensor(X_or_K, "X_or_K")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"X_or_K must have shape (n, d) or (n, n), got {tuple(matrix.shape)}")
    check_finite(matrix, "X_or_K")
    if kernel not in (None, "cosine", "precomputed"):
        raise ValueError(f"kernel must be cosine, precomputed, a callable or None, got {kernel!r}")
    return matrix, kind


def _filled(samples: Sequence[Any], kernel: Callable[[Any, Any], Any]) -> tuple[Tensor, Kind]:
    """Similarities of all pairs, each computed once; gradients flow through tensor-valued kernels."""
    if isinstance(samples, str) or not hasattr(samples, "__len__") or len(samples) == 0:
        raise ValueError("X_or_K must be a non-empty sequence of samples for a callable kernel")
    n = len(samples)
    values = [kernel(samples[i], samples[j]) for i in range(n) for j in range(i + 1)]
    torch_kind = any(isinstance(v, Tensor) for v in values)
    flat = (
        torch.stack([torch.as_tensor(v).reshape(()) for v in values])
        if torch_kind
        else torch.tensor([float(v) for v in values], dtype=torch.float64)
    )
    rows, columns = torch.tril_indices(n, n)
    lower = torch.zeros(n, n, dtype=flat.dtype, device=flat.device).index_put((rows, columns), flat)
    full = lower + lower.mT - torch.diag_embed(lower.diagonal())
    check_finite(full, "the kernel")
    return full, "torch" if torch_kind else "numpy"


def _looks_like_similarities(matrix: Tensor) -> bool:
    with torch.no_grad():
        n, d = matrix.shape
        if n != d:
            return False
        diagonal = matrix.diagonal().abs()
        tolerance = 1e3 * torch.finfo(matrix.dtype).eps * float(diagonal.max())
        equal = float(diagonal.max() - diagonal.min()) <= tolerance
        return equal and bool(((matrix - matrix.mH).abs() <= tolerance).all())


def _probabilities(weights: Any, like: Tensor) -> Tensor:
    n = like.shape[0]
    real = torch.zeros((), dtype=like.dtype).real.dtype
    if weights is None:
        return torch.full((n,), 1 / n, dtype=real, device=like.device)
    p, _ = as_tensor(weights, "weights")
    if p.shape != (n,):
        raise ValueError(f"weights must have shape ({n},), got {tuple(p.shape)}")
    check_finite(p, "weights")
    if p.is_complex() or bool((p < 0).any()) or not float(p.sum()) > 0:
        raise ValueError("weights must be nonnegative with a positive sum")
    p = p.to(dtype=real, device=like.device)
    return p / p.sum()


def _normalised(K: Tensor, p: Tensor) -> Tensor:
    if K.shape[0] != K.shape[1]:
        raise ValueError(f"similarities must have shape (n, n), got {tuple(K.shape)}")
    with torch.no_grad():
        gap = (K - K.mH).abs().max()
        if bool(gap > 1e4 * torch.finfo(K.dtype).eps * K.abs().max()):
            raise ValueError(f"similarities must be symmetric, entries differ by {float(gap):.3g}")
        if not bool((K.diagonal().real > 0).all()):
            raise ValueError("similarities must have a positive diagonal")
    d = K.diagonal()
    scale = (p / (d.real if d.is_complex() else d)).sqrt()
    return scale[:, None] * ((K + K.mH) / 2) * scale


def _score(M: Tensor, q: float) -> Tensor:
    """``exp(H_q)`` of a positive matrix of trace one."""
    if q == 2:
        return 1 / M.abs().square().sum()
    return entropy_of_eigenvalues(torch.linalg.eigvalsh(M), q).exp()


def _of_features(X: Tensor, q: float, p: Tensor, method: str) -> Tensor:
    if method == "slq":
        raise ValueError("method 'slq' needs similarities; features are exact by 'dual'")
    lengths = torch.linalg.vector_norm(X, dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise ValueError(f"row {int((lengths[:, 0] == 0).nonzero()[0])} of X_or_K is zero: it has no direction")
    scale = p.sqrt()[:, None] / lengths
    small = X.shape[1] < X.shape[0] if method == "auto" else method == "dual"
    if small and not (torch.is_grad_enabled() and (X.requires_grad or p.requires_grad)):
        return _score(_gram_of_rows(X, scale), q)
    Y = X * scale
    return _score(Y.mH @ Y if small else Y @ Y.mH, q)


def _gram_of_rows(X: Tensor, scale: Tensor) -> Tensor:
    """``Y^H Y`` of Y = X * scale, whose rows are in the cache when they are multiplied; its upper blocks alone."""
    n = X.shape[1]
    G = torch.zeros(n, n, dtype=X.dtype, device=X.device)
    width = max(_PANEL, -(-n // _PANELS))
    for rows, sizes in zip(X.split(_ROWS), scale.split(_ROWS), strict=True):
        Y = rows * sizes
        for a in range(0, n, width):
            G[a : a + width, a:].addmm_(Y[:, a : a + width].mH, Y[:, a:])
    return torch.triu(G) + torch.triu(G, 1).mH


def _of_operator(K: Operator, q: float, weights: Any, method: str, rtol: float | None, generator: GeneratorLike) -> Any:
    from resolvent.spectra.diagonal import diagonal

    if method == "dual":
        raise ValueError("method 'dual' needs features")
    n = K.shape[-1]
    if K.batch_shape or K.shape[-2] != n:
        raise ValueError(f"X_or_K must have shape (n, n), got {tuple(K.shape)}")
    K.check_hermitian("X_or_K")
    d, _ = as_tensor(diagonal(K, generator=generator), "the diagonal")
    d = d.real if d.is_complex() else d
    if not bool((d > 0).all()):
        raise ValueError("similarities must have a positive diagonal")
    p = _probabilities(weights, d)
    if method == "primal" or (method == "auto" and n <= _DENSE):
        return give_back(_score(_normalised(K._dense(), p), q), K.kind)
    side = Diagonal((p / d).sqrt().to(K.dtype))
    scaled = Product(side, K, side).declare(positive=True)
    scaled.kind = K.kind
    h = entropy(scaled, q, method="slq", rtol=rtol, generator=generator)
    return h.exp() if isinstance(h, Tensor) else math.exp(h)


def internal_diversity(K: Any, q: float = 1) -> Any:
    """The baseline of the Vendi score: ``1 - mean_ij |K_ij|^q``.

    Parameters
    ----------
    K : (n, n) similarities in [0, 1]
    q : power, positive

    Returns
    -------
    0-d tensor or float.

    Examples
    --------
    >>> import torch
    >>> internal_diversity(torch.eye(2))
    tensor(0.5000)
    """
    matrix, kind = as_tensor(K, "K")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"K must have shape (n, n), got {tuple(matrix.shape)}")
    if not q > 0:
        raise ValueError(f"q must be positive, got {q}")
    return give_back(1 - (matrix.abs() ** q).mean(), kind)
