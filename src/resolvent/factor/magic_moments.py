"""The quantum group that a model of magic unitaries generates, by its truncated moments."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array

_LARGEST = 4096


class HaarMoments(NamedTuple):
    """Of :func:`haar_moments`: the moments of the main character, and the eigenvalues that they were counted from."""

    moments: tuple[int, ...]
    eigenvalues: tuple[Any, ...]


def haar_moments(model: Any, k: int, *, tol: float = 0.05) -> HaarMoments:
    r"""Moments 1 to k of :math:`\chi = \sum_i u_{ii}` under the Haar state of the quantum group that a flat model generates.

    The mean :math:`T_p` of the :math:`N^p \times N^p` matrices of :math:`\operatorname{tr}(u_{i_1 j_1} \cdots u_{i_p j_p})`, tr
    with tr(1) = 1, over all models has a Cesàro limit, the projection on its eigenvectors of eigenvalue one. The limit
    integrates over the quantum group, and its trace is the p-th moment. For :math:`S_N^+`, N >= 4, these are the Catalan
    numbers 1, 2, 5, 14; for the permutations of 4 points 1, 2, 5, 15.

    Parameters
    ----------
    model : (S, N, N, N) unit vectors of S magic unitaries, as of `magic_unitary` or `sinkhorn_projections`
    k : the highest moment, with N^k at most 4096
    tol : eigenvalues that are nearer to one than this are counted

    Returns
    -------
    moments : k ints
    eigenvalues : k vectors of the eigenvalues of T_p, the nearest to one first

    Raises
    ------
    ValueError : shapes, vectors that are not of length one, or k out of range.

    Notes
    -----
    Traces of rank-one projections are products of inner products around a cycle; the mean over models is taken inside one
    batched matrix product for each p, S N^(2p) multiplications. Eigenvectors that all models share have eigenvalue one
    exactly, whatever S; the others come nearer to their limit as S^(-1/2). There is no gradient.

    References
    ----------
    "Flat matrix models for quantum permutation groups"

    Examples
    --------
    >>> from resolvent.factor import magic_unitary
    >>> haar_moments(magic_unitary((2, 2), "weyl", vectors=True, count=500, generator=0), 3).moments
    (1, 2, 5)
    """
    V, kind = as_tensor(model, "model")
    if V.ndim != 4 or len(set(V.shape[1:])) != 1 or not len(V):
        raise ValueError(f"model must have shape (S, N, N, N) with S > 0, got {tuple(V.shape)}")
    check_finite(V, "model")
    N = V.shape[1]
    if isinstance(k, bool) or not isinstance(k, int) or k < 1 or N**k > _LARGEST:
        raise ValueError(f"k must be an int >= 1 with N^k <= {_LARGEST}, got {k!r} for N = {N}")
    lengths = torch.linalg.vector_norm(V.detach(), dim=-1)
    if float((lengths - 1).abs().max()) > 1e-3:
        raise ValueError(
            f"model must hold unit vectors, got lengths from {float(lengths.min()):.3g} to {float(lengths.max()):.3g}"
        )
    spectra = []
    for p in range(1, k + 1):
        w = torch.linalg.eigvals(moment_matrix(V.detach(), p))
        spectra.append(w[torch.argsort((w - 1).abs())])
    moments = tuple(int(((w - 1).abs() < tol).sum()) for w in spectra)
    return HaarMoments(moments, tuple(give_back_array(w, kind) for w in spectra))


def moment_matrix(V: Tensor, p: int) -> Tensor:
    """T_p, (N^p, N^p), of the vectors (S, N, N, N)."""
    S, N = V.shape[:2]
    n = N * N
    flat = V.reshape(S, n, N)
    if p == 1:
        T = flat.abs().square().sum((0, 2)).reshape(N, N).to(V.dtype)
        return T / (S * N)
    total = V.new_zeros((n * n, n ** (p // 2 - 1), n ** (p - p // 2 - 1)))
    # Paths of inner products from the first projection to the middle one, and back.
    size = max(1, 2**22 // n ** (p - p // 2 + 1))
    for part in flat.split(size):
        G = part.conj() @ part.mT
        there = _paths(G, p // 2).permute(1, 3, 2, 0).reshape(n * n, -1, len(part))
        back = _paths(G, p - p // 2).permute(3, 1, 0, 2).reshape(n * n, len(part), -1)
        total += there @ back
    T = total.reshape(n, n, n ** (p // 2 - 1), n ** (p - p // 2 - 1)).permute(0, 2, 1, 3)
    T = T.reshape([N, N] * p).permute(*range(0, 2 * p, 2), *range(1, 2 * p, 2))
    return T.reshape(N**p, N**p) / (S * N)


def _paths(G: Tensor, length: int) -> Tensor:
    """Products of inner products along paths, (S, start, between, end)."""
    P = G.unsqueeze(2)
    n = G.shape[-1]
    for _ in range(length - 1):
        P = (P.unsqueeze(-1) * G[:, None, None]).reshape(len(G), n, -1, n)
    return P
