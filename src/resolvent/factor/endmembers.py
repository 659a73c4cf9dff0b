"""Endmembers: the columns of a matrix that the others are mixtures of."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.magnitude import unit_of
from resolvent.random import GeneratorLike, as_generator


class Endmembers(NamedTuple):
    """Of :func:`vca` and :func:`spa`.

    Attributes
    ----------
    M : (L, K) spectra as columns
    indices : (K,) int64, the pixels that they were read from
    """

    M: Any
    indices: Any


def spa(Y: Any, n_endmembers: int) -> Endmembers:
    r"""Successive projection: the longest column, then the longest after projecting it away, and so on.

    Parameters
    ----------
    Y : (L, N) pixels as columns, tensor or array
    n_endmembers : K, at most the rank of Y

    Returns
    -------
    Endmembers (M, indices) of the kind of Y; M = Y[:, indices].

    Raises
    ------
    ValueError : Y is not a finite matrix, or its rank is below K.

    Notes
    -----
    2 K L N multiplications, no randomness. If every endmember is present as a pure pixel, they are found exactly; with
    noise eps the error is at most of order eps cond(M)^2. No gradient through the choice; M has that of Y.

    References
    ----------
    "Fast and Robust Recursive Algorithms for Separable Nonnegative Matrix Factorization"

    Examples
    --------
    >>> spa(torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 2.0]]), 2).indices
    tensor([2, 0])
    """
    T, kind = _pixels(Y, n_endmembers)
    with torch.no_grad():
        # Squares must stay within the range of the dtype.
        rest = T / unit_of(T)
        size = float(torch.linalg.vector_norm(rest, dim=0).max())
        chosen: list[int] = []
        for _ in range(n_endmembers):
            length = torch.linalg.vector_norm(rest, dim=0)
            at = int(length.argmax())
            if not float(length[at]) > 1e2 * torch.finfo(T.dtype).eps * size:
                raise ValueError(f"n_endmembers must be at most the rank of Y, {len(chosen)}; got {n_endmembers}")
            chosen.append(at)
            q = rest[:, at] / length[at]
            rest -= torch.outer(q, q @ rest)
    indices = torch.tensor(chosen, device=T.device)
    return Endmembers(*give_back((T[:, indices], indices), kind))


def vca(Y: Any, n_endmembers: int, *, generator: GeneratorLike = None) -> Endmembers:
    r"""Vertex component analysis: extreme pixels in random directions orthogonal to those found before.

    Parameters
    ----------
    Y : (L, N) pixels as columns, tensor or array
    n_endmembers : K, at most L and N
    generator : of the directions

    Returns
    -------
    Endmembers (M, indices) of the kind of Y; M are the chosen pixels projected on the signal's subspace and not
    negative.

    Raises
    ------
    ValueError : Y is not a finite matrix or is zero, K does not fit.

    Notes
    -----
    The signal's subspace from the eigenvectors of Y Y^T (or of the covariance, if the estimated signal-to-noise ratio
    is below 15 + 10 log10 K decibel), pixels scaled on one plane, then K directions. L^2 N multiplications. No
    gradient.

    References
    ----------
    "Vertex Component Analysis: A Fast Algorithm to Unmix Hyperspectral Data"

    Examples
    --------
    >>> Y = torch.eye(3) @ torch.tensor([[1.0, 0.0, 0.0, 0.3], [0.0, 1.0, 0.0, 0.3], [0.0, 0.0, 1.0, 0.4]])
    >>> sorted(vca(Y, 3, generator=0).indices.tolist())
    [0, 1, 2]
    """
    T, kind = _pixels(Y, n_endmembers)
    if torch.is_grad_enabled() and T.requires_grad:
        raise ValueError("vca has no gradient: detach Y")
    rng = as_generator(generator, T.device)
    K, N = n_endmembers, T.shape[1]
    unit = unit_of(T)
    T = T / unit
    mean = T.mean(1, keepdim=True)
    basis = torch.linalg.eigh(T @ T.mT / N)[1][:, -K:]
    centred = T - mean
    directions = torch.linalg.eigh(centred @ centred.mT / N)[1]
    total, inside = T.square().sum() / N, (directions[:, -K:].mT @ centred).square().sum() / N + mean.square().sum()
    L = T.shape[0]
    noise = total - inside
    ratio = 10 * math.log10(max(float((inside - K / L * total) / noise), 1e-12)) if float(noise) > 0 else math.inf
    if ratio < 15 + 10 * math.log10(K) and K > 1:
        few = directions[:, 1 - K :]
        inner = few.mT @ centred
        denoised = few @ inner + mean
        height = torch.linalg.vector_norm(inner, dim=0).max().expand(1, N)
        points = torch.cat([inner, height])
    else:
        inner = basis.mT @ T
        denoised = basis @ inner
        scale = inner.mean(1) @ inner
        # A pixel without light is on no plane; it stays at the origin and is never extreme.
        points = inner / torch.where(scale > 0, scale, torch.inf)
    chosen: list[int] = []
    found = points.new_zeros(K, 0)
    for _ in range(K):
        w = torch.randn(K, dtype=T.dtype, device=rng.device, generator=rng).to(T.device)
        Q = torch.linalg.qr(found)[0]
        w = w - Q @ (Q.mT @ w)
        at = int((w @ points).abs().argmax())
        chosen.append(at)
        found = points[:, chosen]
    indices = torch.tensor(chosen, device=T.device)
    return Endmembers(*give_back((denoised[:, indices].clamp_min(0) * unit, indices), kind))


def _pixels(Y: Any, K: int) -> tuple[Tensor, Any]:
    T, kind = as_tensor(Y, "Y")
    if T.ndim != 2 or T.is_complex() or not T.numel():
        raise ValueError(f"Y must be a real matrix (channels, pixels), got shape {tuple(T.shape)} of {T.dtype}")
    if T.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"Y has dtype {T.dtype}; convert it to float32")
    check_finite(T, "Y")
    if not bool(T.any()):
        raise ValueError("Y is zero: it has no endmembers")
    if isinstance(K, bool) or not isinstance(K, int) or not 1 <= K <= min(T.shape):
        raise ValueError(f"n_endmembers must be an integer between 1 and {min(T.shape)}, got {K!r}")
    return T, kind
