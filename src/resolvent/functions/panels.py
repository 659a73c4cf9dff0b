"""Products of large matrices that share a pattern of zero blocks, or that are Hermitian and commute: a part of the work."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, pairwise

import torch
from torch import Tensor

# Panels a side, and sides from which a product of panels is as fast for its work as one of whole matrices.
_PANELS = 8
_WIDE = 400
# Triples of blocks that meet, of all: above this, more and smaller products win nothing.
_WORTH = 0.7


def product_of(A: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A product for polynomials in one large matrix A, with less work than `X @ Y`; None where A offers nothing.

    Polynomials in A commute, are Hermitian where A is, and their blocks vanish where no chain of blocks of A leads.

    Examples
    --------
    >>> A = torch.rand(512, 512, dtype=torch.float64).triu()
    >>> bool(torch.allclose(product_of(A)(A, A), A @ A))
    True
    >>> product_of(torch.rand(512, 512)) is None
    True
    """
    if A.ndim != 2 or A.shape[-1] < _WIDE:
        return None
    n = A.shape[-1]
    edges = [round(i * n / _PANELS) for i in range(_PANELS + 1)]
    if torch.equal(A, A.mH):
        return lambda X, Y: _hermitian(X, Y, edges)
    # Matrices without zero blocks in a corner are told by one entry of each.
    if bool(A[-1, 0] != 0) and bool(A[0, -1] != 0):
        return None
    edges = _moved(edges, _cuts(A) | _cuts(A.mT))
    met = _reached(A, edges)
    if met is None:
        return None
    return lambda X, Y: _patterned(X, Y, edges, met)


def _hermitian(X: Tensor, Y: Tensor, edges: list[int]) -> Tensor:
    """The upper triangle of blocks, row by row, and its mirror image."""
    out = torch.empty_like(X)
    for top, bottom in pairwise(edges):
        torch.matmul(X[top:bottom], Y[:, top:], out=out[top:bottom, top:])
        out[bottom:, top:bottom] = out[top:bottom, bottom:].mH
    return out


def _cuts(A: Tensor) -> set[int]:
    """All k with A[k:, :k] = 0."""
    n = A.shape[-1]
    position = torch.arange(n, device=A.device)
    first = torch.where(A != 0, position, n).amin(1)
    lowest = first.flip(0).cummin(0).values.flip(0)
    return set((position[lowest >= position]).tolist())


def _moved(edges: list[int], cuts: set[int]) -> list[int]:
    """Every edge at the cut that is nearest, if one is near: a panel across a cut would join what is apart."""
    reach = (edges[-1] // _PANELS) // 2
    inner = [min((k for k in cuts if abs(k - e) < reach), key=lambda k: abs(k - e), default=e) for e in edges[1:-1]]
    return [0, *inner, edges[-1]]


def _reached(A: Tensor, edges: list[int]) -> list[list[bool]] | None:
    """The blocks of powers of A that may differ from zero; None where nearly all products of blocks remain."""
    spans = list(pairwise(edges))
    size = range(len(spans))
    met = [[i == j or bool(A[a:b, c:d].any()) for j, (c, d) in enumerate(spans)] for i, (a, b) in enumerate(spans)]
    for k in size:
        for i in size:
            if met[i][k]:
                met[i] = [ij or kj for ij, kj in zip(met[i], met[k], strict=True)]
    triples = sum(met[i][k] and met[k][j] for i in size for k in size for j in size)
    return met if triples <= _WORTH * len(spans) ** 3 else None


def _patterned(X: Tensor, Y: Tensor, edges: list[int], met: list[list[bool]]) -> Tensor:
    """Block rows times block columns, over the runs of blocks that both have."""
    out = torch.zeros_like(X)
    size = range(len(met))
    for i in size:
        rows = slice(edges[i], edges[i + 1])
        shared = [tuple(k for k in size if met[i][k] and met[k][j]) for j in size]
        for middle, group in groupby(size, key=lambda j: shared[j]):
            columns = list(group)
            wide = slice(edges[columns[0]], edges[columns[-1] + 1])
            for run in _runs(middle):
                inner = slice(edges[run[0]], edges[run[-1] + 1])
                # X[i, k] differs from zero for all k of the run, and so does Y[k, j].
                out[rows, wide].addmm_(X[rows, inner], Y[inner, wide])
    return out


def _runs(indices: tuple[int, ...]) -> list[list[int]]:
    """Consecutive indices together."""
    runs: list[list[int]] = []
    for k in indices:
        if runs and runs[-1][-1] == k - 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs
