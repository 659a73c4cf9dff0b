"""Procrustes problems: the rotation that brings one configuration of points closest to another."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resolvent.operators.arrays import as_tensor, check_finite, give_back


class Procrustes(NamedTuple):
    """Of :func:`procrustes`: ``B ~ scale * A @ Q + shift``.

    Attributes
    ----------
    Q : (*batch, p, p) orthogonal or unitary
    scale : (*batch,) the factor, one if it is not asked for
    shift : (*batch, p) the translation, zero if it is not asked for
    distance : (*batch,) the Frobenius norm of ``scale * A @ Q + shift - B``
    """

    Q: Any
    scale: Any
    shift: Any
    distance: Any


def procrustes(A: Any, B: Any, *, scale: bool = False, rotation_only: bool = False, center: bool = False) -> Procrustes:
    r"""The orthogonal Procrustes problem :math:`\min \|c\, A Q + 1 t^H - B\|_F` over :math:`Q^H Q = I`.

    Parameters
    ----------
    A, B : (*batch, m, p), one point a row
    scale : also fit the factor c, at least 0; otherwise 1
    rotation_only : det Q = 1, no reflection (Kabsch); real numbers only
    center : also fit the translation t; otherwise 0

    Returns
    -------
    Procrustes (Q, scale, shift, distance), of the kind of A and B

    Raises
    ------
    ValueError : shapes that do not fit, NaN, `rotation_only` of complex points, `scale` of points A that are all equal
        to zero (or to each other, if centred), or a gradient is wanted where the best Q is not unique.
    TypeError : half precision

    Notes
    -----
    One singular value decomposition of :math:`A^H B = U s V^H`: Q = U D V^H with D = 1, or diag(1, ..., 1, det) for
    rotations; then c = tr(s D) / |A|^2. Cost 2 m p^2 + O(p^3). First-order gradients in A and B of all results, as long as
    the sums of two values of s D are not zero; equal values do not matter. A second derivative raises.

    References
    ----------
    "A generalized solution of the orthogonal Procrustes problem"
    "A solution for the best rotation to relate two sets of vectors"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> B = 3 * torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]) + 5
    >>> found = procrustes(A, B, scale=True, center=True)
    >>> found.Q.round(decimals=4) + 0, found.scale.round(decimals=4), found.shift, bool(found.distance < 1e-5)
    (tensor([[ 0.,  1.],
            [-1.,  0.]]), tensor(3.), tensor([5., 5.]), True)
    """
    (a, kind), (b, other) = as_tensor(A, "A"), as_tensor(B, "B")
    dtype = torch.promote_types(a.dtype, b.dtype)
    if a.shape != b.shape or a.ndim < 2 or 0 in a.shape[-2:]:
        raise ValueError(f"A and B must have one shape (*batch, m, p), got {tuple(a.shape)} and {tuple(b.shape)}")
    if dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"A and B have dtype {dtype}; convert them to float32")
    check_finite(a, "A")
    check_finite(b, "B")
    if rotation_only and dtype.is_complex:
        raise ValueError("rotation_only is for real points, got complex ones")
    a, b = a.to(dtype), b.to(dtype)
    zero = torch.zeros_like(a[..., :1, :])
    mean_a, mean_b = (t.mean(-2, keepdim=True) if center else zero for t in (a, b))
    inner_a, inner_b = a - mean_a, b - mean_b
    # Sizes of about one, so that no square leaves the range.
    size_a, size_b = (_size(t) for t in (inner_a, inner_b))
    product = (inner_a / size_a).mH @ (inner_b / size_b)
    Q = _Nearest.apply(product, rotation_only)
    factor = torch.ones_like(size_a)
    if scale:
        square = (inner_a / size_a).abs().square().sum((-2, -1), keepdim=True)
        if not bool((square > 0).all()):
            raise ValueError("A must not be zero" + (" once centred" if center else "") + " for a scale")
        # Rotations alone can be at odds with all of the points: the best factor is then zero.
        trace = (Q.conj() * product).real.sum((-2, -1), keepdim=True).clamp(min=0)
        factor = trace / square * (size_b / size_a)
    shift = mean_b - factor * (mean_a @ Q)
    rest = factor * (inner_a @ Q) - inner_b
    unit = _size(rest)
    distance = torch.linalg.vector_norm(rest / unit, dim=(-2, -1)) * unit[..., 0, 0]
    found = Procrustes(Q, factor[..., 0, 0], shift[..., 0, :], distance)
    result: Procrustes = give_back(found, "numpy" if kind == other == "numpy" else "torch")
    return result


def _size(t: Tensor) -> Tensor:
    """The largest entry, one for zeros; a constant to autograd, as it cancels."""
    size = t.detach().abs().amax((-2, -1), keepdim=True)
    return torch.where(size > 0, size, 1.0)


class _Nearest(torch.autograd.Function):
    """The unitary Q, or the rotation, with the largest Re tr Q^H M: M = Q P with P of the values s D."""

    @staticmethod
    def forward(ctx: Any, M: Tensor, rotation: bool) -> Tensor:
        U, s, Vh = torch.linalg.svd(M)
        t = s.clone()
        if rotation:
            from resolvent.operators import lu

            sign = lu.slogdet(U @ Vh)[0].sign()
            U, t = U.clone(), t.clone()
            U[..., -1] *= sign[..., None]
            t[..., -1] *= sign
        if ctx.needs_input_grad[0]:
            sums = (t[..., :, None] + t[..., None, :]).abs()
            if not M.is_complex():
                sums = sums + torch.diag(sums.new_full((s.shape[-1],), torch.inf))
            if bool((sums <= 10 * s.shape[-1] * torch.finfo(s.dtype).eps * s[..., :1, None]).any()):
                raise ValueError("A and B have no gradient where the best Q is not unique: detach them")
        Q = U @ Vh
        ctx.save_for_backward(Q, t, Vh)
        return Q

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        Q, t, Vh = ctx.saved_tensors
        F = Vh @ (Q.mH @ grad) @ Vh.mH
        sums = t[..., :, None] + t[..., None, :]
        # Where both are zero, on the diagonal, the difference above is zero as well.
        K = (F - F.mH) / torch.where(sums == 0, 1.0, sums)
        return Q @ (Vh.mH @ K @ Vh), None
