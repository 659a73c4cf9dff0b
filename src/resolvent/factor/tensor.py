"""Tensors as matrices and back: unfoldings, their singular values, and products along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back, give_back_array


def unfold(T: Any, mode: int | Sequence[int]) -> Any:
    """The unfolding of a tensor: one axis, or several, become the rows of a matrix, and all others its columns.

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor
    mode : the axis of the rows, or several in the order in which they count (last fastest); negative from the end

    Returns
    -------
    (rows, columns) of the kind of `T`; the columns keep the order of their axes, last fastest.

    Raises
    ------
    ValueError : an axis is out of range or named twice

    Notes
    -----
    A view where the axes allow it, else one copy. Differentiable. `fold` is the inverse.

    References
    ----------
    "Tensor Decompositions and Applications"

    Examples
    --------
    >>> unfold(torch.arange(8).reshape(2, 2, 2).float(), 1)
    tensor([[0., 1., 4., 5.],
            [2., 3., 6., 7.]])
    """
    t, kind = as_tensor(T, "T")
    rows, columns = _split(mode, t.ndim)
    return give_back_array(t.permute(*rows, *columns).reshape(math.prod(t.shape[i] for i in rows), -1), kind)


def fold(M: Any, mode: int | Sequence[int], shape: Sequence[int]) -> Any:
    """The tensor whose unfolding is `M`.

    Parameters
    ----------
    M : (rows, columns) matrix
    mode : the axis, or axes, of the rows, as for `unfold`
    shape : (I_1, ..., I_N) of the tensor

    Returns
    -------
    (I_1, ..., I_N) of the kind of `M`

    Raises
    ------
    ValueError : the shapes do not fit

    Examples
    --------
    >>> T = torch.arange(24.0).reshape(2, 3, 4)
    >>> bool((fold(unfold(T, 1), 1, T.shape) == T).all())
    True
    """
    m, kind = as_tensor(M, "M")
    shape = tuple(int(s) for s in shape)
    rows, columns = _split(mode, len(shape))
    wanted = tuple(math.prod(shape[i] for i in side) for side in (rows, columns))
    if tuple(m.shape) != wanted:
        raise ValueError(f"M must have shape {wanted} for a tensor of shape {shape}, got {tuple(m.shape)}")
    order = (*rows, *columns)
    back = [order.index(i) for i in range(len(shape))]
    return give_back_array(m.reshape([shape[i] for i in order]).permute(back), kind)


def mode_product(T: Any, A: Any, mode: int | Sequence[int]) -> Any:
    r"""Multiply a tensor by a matrix along an axis: the axis becomes :math:`A` times it.

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor
    A : (m, I_n) matrix; or a list of matrices, one for every axis of `mode`
    mode : the axis n, or a list of different ones

    Returns
    -------
    Tensor with I_n replaced by m, of the kind of `T`, in the dtype to which all promote.

    Raises
    ------
    ValueError : shapes that do not fit, an axis named twice, or not one matrix for every axis

    Notes
    -----
    One matrix product an axis; several axes go in the order in which the tensor shrinks fastest. Differentiable.

    References
    ----------
    "Tensor Decompositions and Applications"

    Examples
    --------
    >>> mode_product(torch.ones(2, 3, 4), torch.ones(5, 3), 1).shape
    torch.Size([2, 5, 4])
    """
    t, kind = as_tensor(T, "T")
    single = isinstance(mode, int)
    matrices = [as_tensor(a, "A")[0] for a in ([A] if single else A)]
    modes, _ = _split(mode, t.ndim)
    if len(matrices) != len(modes):
        raise ValueError(f"A must hold one matrix for each of the {len(modes)} axes, got {len(matrices)}")
    for a, n in zip(matrices, modes, strict=True):
        if a.ndim != 2 or a.shape[1] != t.shape[n]:
            raise ValueError(f"A must have shape (m, {t.shape[n]}) for axis {n}, got {tuple(a.shape)}")
    return give_back_array(products(t, matrices, modes), kind)


def unfolding_values(T: Any) -> Any:
    """The singular values of every unfolding of a tensor along one axis.

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor with at least one axis; for torch also sparse COO, which is never made dense

    Returns
    -------
    tuple of N vectors, the n-th (I_n,) descending, float64, of the kind of `T`

    Raises
    ------
    ValueError : T has no axis, is empty, or has NaN or infinity

    Notes
    -----
    Eigenvalues of the Gram matrices of the unfoldings in float64: I_n flops an entry and axis. The squares are right
    to a rounding error of the largest square, so values below 1e-8 of the largest have no digits. No gradient is kept.

    References
    ----------
    "A Multilinear Singular Value Decomposition"

    Examples
    --------
    >>> unfolding_values(torch.ones(2, 2, 2))[0].round(decimals=6)
    tensor([2.8284, 0.0000], dtype=torch.float64)
    """
    kind: Kind = "torch"
    if isinstance(T, Tensor) and T.layout == torch.sparse_coo:
        grams = _sparse_grams(T.detach())
    else:
        t, kind = tensor_of(T, "T")
        wide = t.detach().to(torch.complex128 if t.is_complex() else torch.float64)
        grams = [_gram(wide, n) for n in range(t.ndim)]
    found = tuple(torch.linalg.eigvalsh(g).flip(0).clamp(min=0).sqrt() for g in grams)
    return give_back(found, kind)


def tensor_of(T: Any, name: str) -> tuple[Tensor, Kind]:
    """A finite tensor that has entries and axes, and the kind that came."""
    t, kind = as_tensor(T, name)
    if t.ndim < 1 or 0 in t.shape:
        raise ValueError(f"{name} must have at least one axis and no empty one, got shape {tuple(t.shape)}")
    check_finite(t, name)
    return t, kind


def without_gradient(t: Tensor, what: str) -> Tensor:
    """`t` detached, or an error where the user wants a gradient that does not exist."""
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{what} has no gradient: pass T.detach()")
    return t.detach()


def products(t: Tensor, matrices: Sequence[Tensor], modes: Sequence[int]) -> Tensor:
    """`mode_product` of tensors whose shapes fit, the axis that shrinks most first."""
    order = sorted(range(len(modes)), key=lambda i: matrices[i].shape[0] / matrices[i].shape[1])
    for i in order:
        n = modes[i]
        dtype = torch.promote_types(t.dtype, matrices[i].dtype)
        moved = torch.tensordot(matrices[i].to(dtype), t.to(dtype), dims=([1], [n]))
        t = moved.movedim(0, n)
    return t


def left_basis(M: Tensor) -> tuple[Tensor, Tensor]:
    """U and the singular values of a matrix; a wide one is first made triangular, so no long V is formed."""
    if M.shape[1] > M.shape[0]:
        R = torch.linalg.qr(M.mH, mode="r").R
        U, s, _ = torch.linalg.svd(R.mH, full_matrices=False)
    else:
        U, s, _ = torch.linalg.svd(M, full_matrices=False)
    return U, s


def rank_within(s: Tensor, bound: float) -> int:
    """The fewest leading values whose tail has a root of squares of at most `bound`, 1 at least."""
    tails = s.double().square().flip(0).cumsum(0).sqrt()
    return max(1, len(s) - int((tails <= bound).sum()))


def _split(mode: int | Sequence[int], ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    wanted = (mode,) if isinstance(mode, int) else tuple(mode)
    if any(isinstance(n, bool) or not isinstance(n, int) or not -ndim <= n < ndim for n in wanted):
        raise ValueError(f"mode must name axes from {-ndim} to {ndim - 1}, got {mode!r}")
    rows = tuple(n % ndim for n in wanted)
    if len(set(rows)) != len(rows):
        raise ValueError(f"mode must name every axis once, got {mode!r}")
    return rows, tuple(n for n in range(ndim) if n not in rows)


def _gram(t: Tensor, n: int) -> Tensor:
    M = t.movedim(n, 0).reshape(t.shape[n], -1)
    return M @ M.mH


def _sparse_grams(T: Tensor) -> list[Tensor]:
    import numpy as np
    import scipy.sparse

    T = T.coalesce()
    values = T.values()
    if T.sparse_dim() != T.ndim or 0 in T.shape:
        raise ValueError(f"T must be sparse in every axis and have no empty one, got shape {tuple(T.shape)}")
    check_finite(values, "T")
    index, entries = T.indices().cpu().numpy(), values.cpu().numpy()
    entries = entries.astype(np.complex128 if np.iscomplexobj(entries) else np.float64)
    found = []
    for n in range(T.ndim):
        others = np.delete(index, n, axis=0)
        # Only columns that hold an entry count, so the long axis never has to be addressed.
        columns = (
            np.unique(others, axis=1, return_inverse=True)[1].reshape(-1) if T.ndim > 1 else np.zeros(len(entries))
        )
        M = scipy.sparse.csr_matrix(
            (entries, (index[n], columns.astype(np.int64))), shape=(T.shape[n], len(entries) + 1)
        )
        found.append(torch.from_numpy((M @ M.conj().T).toarray()).to(T.device))
    return found
